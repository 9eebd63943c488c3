//! Tests of the elements, in a harness and in complete pipelines.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "../common/mod.rs"]
mod common;

mod best_shot;
#[cfg(feature = "cuda-memory")]
mod cuda_memory;
mod earlier_frames;
mod examples;
mod facealign;
mod facelandmarks;
mod facemetaoverlay;
mod facemetapublish;
mod faceredact;
mod facetrack;
mod frames;
mod metadata;
mod on_error;
mod orientation;
mod pipelines;
mod redaction;
mod regions;
mod retinaface;
mod sequences;
mod settings;
mod start_errors;
mod streams;
mod surface;
mod unsupported_caps;
mod webgpu;
