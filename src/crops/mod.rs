//! Aligned crops of faces, their quality, and the models that run on them.

mod affine;
pub mod align;
mod landmarks;
mod quality;
mod runner;
mod sharpness;
mod warp;

pub use landmarks::{
    CropMode, FoundLandmarks, LandmarkSettings, Landmarker, PendingLandmarks, five_landmarks, known_point_counts,
};
pub use quality::FaceQuality;
pub use runner::CropError;
