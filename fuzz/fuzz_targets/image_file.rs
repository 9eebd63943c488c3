//! See `retinaface_fuzz::image_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| retinaface_fuzz::image_file(data));
