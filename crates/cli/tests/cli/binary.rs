//! Helpers that run the program.

use std::path::Path;
use std::process::{Command, Output};

use crate::common;
use serde::Deserialize;

/// What tests of an execution provider compare of a line of `detect`.
#[derive(Debug, Deserialize)]
pub(crate) struct DetectedLine {
    pub(crate) faces: Vec<DetectedFace>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DetectedFace {
    pub(crate) score: f32,
    pub(crate) landmarks: [[f32; 2]; 5],
}

/// A command for the program, with the installed ONNX Runtime and default model.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retinaface"));
    command
        .args(arguments)
        .env("ORT_DYLIB_PATH", common::fetched("onnxruntime/libonnxruntime.so.1"))
        .env("RETINAFACE_MODEL", common::default_model());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().expect("no signal ended the program")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn path_str(path: &Path) -> &str {
    path.to_str().unwrap()
}
