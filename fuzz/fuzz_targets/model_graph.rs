//! See `retinaface_fuzz::model_graph`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| retinaface_fuzz::model_graph(data));
