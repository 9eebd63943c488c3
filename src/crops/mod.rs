//! Aligned crops of faces, and the models that run on them.

mod affine;
pub mod align;
mod landmarks;
mod runner;
mod warp;

pub use landmarks::{
    CropMode, FoundLandmarks, LandmarkSettings, Landmarker, PendingLandmarks, five_landmarks, known_point_counts,
};
pub use runner::CropError;
