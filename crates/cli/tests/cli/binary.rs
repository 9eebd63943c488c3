//! What the tests of the program share.

#![allow(dead_code, reason = "each test file uses its part of this")]
#![allow(unreachable_pub, reason = "a module of many test crates")]

use std::path::Path;
use std::process::{Command, Output};

use super::common;

pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retinaface"));
    command
        .args(arguments)
        .env("ORT_DYLIB_PATH", common::fetched("onnxruntime/libonnxruntime.so.1"))
        .env("RETINAFACE_MODEL", common::default_model());
    command
}

pub fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

pub fn status(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
