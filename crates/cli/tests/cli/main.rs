//! Tests of the program `retinaface`, and of the scripts setup.sh and bundle.sh.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "../../../../tests/common/mod.rs"]
mod common;

mod binary;
mod bundle;
mod devices;
mod eval;
mod eval_track;
mod images;
mod openvino;
mod program;
mod redact;
mod setup;
mod webgpu;
