//! See `retinaface_fuzz::mat_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| retinaface_fuzz::mat_file(data));
