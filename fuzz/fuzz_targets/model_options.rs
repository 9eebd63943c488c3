//! See `retinaface_fuzz::model_options`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| retinaface_fuzz::model_options(data));
