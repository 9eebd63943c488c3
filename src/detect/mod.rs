//! Detection: from an image to faces in its own pixels.

mod decode;
mod detector;
mod error;
mod merge;
mod pool;
mod preprocess;
mod problem;
mod refine;
mod view_settings;
mod views;

pub use decode::{Decoded, RankedFace, decode};
pub use detector::{Detection, DetectionSettings, Detector, PendingDetection, Timing};
pub use error::DetectError;
pub use merge::{LandmarkFusion, Merge};
pub use preprocess::{PreprocessBuffers, fill_input};
pub use problem::SettingsProblem;
pub use view_settings::{Scales, Tiles, Views, ViewsError, parse_rois};
