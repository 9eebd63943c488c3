//! The core library, through its public interface.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "../common/mod.rs"]
mod common;

mod architecture;
mod aspect;
mod device;
mod families;
mod formats;
mod hostile;
mod kernels;
mod landmarks;
mod large_faces;
mod parity;
mod quality;
mod regions;
