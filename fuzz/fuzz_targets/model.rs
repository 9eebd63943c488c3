//! See `retinaface_fuzz::model`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| retinaface_fuzz::model(data));
