//! See `retinaface_fuzz::frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| retinaface_fuzz::frame(data));
