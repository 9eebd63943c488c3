//! See `retinaface_fuzz::tracks`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| retinaface_fuzz::tracks(data));
