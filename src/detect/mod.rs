//! Detection: from an image to faces in its own pixels.

mod decode;
mod detector;
mod merge;
mod preprocess;
mod problem;
mod view_settings;
mod views;

pub use decode::{Decoded, decode};
pub use detector::{DetectError, Detection, DetectionSettings, Detector, PendingDetection, Timing};
pub use merge::Merge;
pub use preprocess::{PreprocessBuffers, fill_input};
pub use problem::SettingsProblem;
pub use view_settings::{Scales, Tiles, Views, ViewsError, parse_rois};
