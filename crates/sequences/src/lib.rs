//! Rendered video sequences of moving faces with known truth, for tests and evaluations of
//! trackers.
//!
//! A [`Scenario`] says how faces, pillars and the camera move and when frames are taken. It knows
//! the truth of each instant without any pixels: boxes, landmarks, identities and visibility. A
//! [`Renderer`] cuts the heads of six people out of two photos, and draws the frames of a scenario
//! with them. The same scenario gives the same bytes on every run of a machine.
//!
//! ```no_run
//! use std::path::Path;
//! use retinaface_sequences::{Renderer, scenario};
//!
//! let renderer = Renderer::open(Path::new(".fetch/media"))?;
//! let sequence = renderer.sequence(scenario("crossing").expect("it is in SCENARIOS"))?;
//! for frame in sequence.frames() {
//!     let frame = frame?;
//!     println!("{} ns: {} bytes of RGB", frame.pts_ns, frame.rgb.len());
//! }
//! # Ok::<(), retinaface_sequences::Error>(())
//! ```
//!
//! # Coordinates
//! Positions in a scenario are world pixels: a point of the world appears in the frame at its
//! position minus that of the camera. Truth is in frame pixels. Both are continuous: the first
//! pixel covers 0.0..1.0, as in the boxes of the detector.

mod background;
mod catalogue;
mod error;
mod faces;
mod motion;
mod render;
mod scenario;
mod sprite;

pub use catalogue::{SCENARIOS, scenario};
pub use error::Error;
pub use faces::{Person, Portrait};
pub use motion::{Camera, CameraKey, Jump, Key};
pub use render::{Frame, Renderer, Sequence};
pub use scenario::{Actor, FrameTime, Layer, Pillar, Scenario, Timing, TrueFace};
