//! Detection: from an image to faces in its own pixels.

mod decode;
mod detection;
mod detector;
mod error;
mod merge;
mod object_regions;
mod pending;
mod pool;
mod preprocess;
mod problem;
mod refine;
mod shared;
mod shared_inputs;
mod view_settings;
mod views;

pub use decode::{Decoded, RankedFace, decode};
pub use detection::{Detection, DetectionSettings, Timing};
pub use detector::Detector;
pub use error::DetectError;
pub use merge::{LandmarkFusion, Merge};
pub use object_regions::{MAX_OBJECT_REGIONS, ObjectRegion, ObjectRegions};
pub use pending::PendingDetection;
pub use preprocess::{PreprocessBuffers, fill_input};
pub use problem::SettingsProblem;
pub use view_settings::{Scales, Tiles, Views, ViewsError, parse_rois};
