//! See `retinaface_fuzz::views`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| retinaface_fuzz::views(data));
