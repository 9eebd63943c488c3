//! The settings and the result of a detection.

use std::sync::Arc;
use std::time::Duration;

use super::merge::{LandmarkFusion, Merge};
use super::object_regions::ObjectRegion;
use super::view_settings::Views;
use crate::geometry::{Face, InputSize};

/// Per-call detection settings.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionSettings {
    /// Faces with a higher score are kept, in 0.0..=1.0.
    pub score_threshold: f32,
    /// Of two faces whose intersection over union is higher, the better one is kept, in 0.0..=1.0.
    pub iou_threshold: f32,
    /// Size of the model's input.
    pub input_size: InputSize,
    /// Test-time augmentation: scales, flip, tiles, regions of interest.
    pub views: Views,
    /// How overlapping faces of several views are merged.
    pub merge: Merge,
    /// How the landmarks of the candidates of one face are fused; [`Merge::Vote`] always takes their
    /// mean.
    pub landmark_fusion: LandmarkFusion,
    /// Whether [`Detector::detect`](super::Detector::detect) takes the landmarks of large faces from a second view, see
    /// [`Detector::refine_large_faces`](super::Detector::refine_large_faces).
    pub refine_large_faces: bool,
    /// Maximum number of faces, best scores first; 0 for no limit.
    pub max_faces: usize,
    /// Minimum length of a face's shorter side, in frame pixels.
    pub min_face_size: f32,
    /// Maximum number of frames in a run; 0 for a number that suits the provider and the memory.
    pub max_batch: usize,
    /// Maximum time to wait for other frames to share the run.
    pub batch_timeout: Duration,
}

impl Default for DetectionSettings {
    fn default() -> Self {
        Self {
            score_threshold: 0.5,
            iou_threshold: 0.4,
            input_size: InputSize::Longest(640),
            views: Views::default(),
            merge: Merge::default(),
            landmark_fusion: LandmarkFusion::default(),
            refine_large_faces: false,
            max_faces: 0,
            min_face_size: 0.0,
            max_batch: 1,
            batch_timeout: Duration::ZERO,
        }
    }
}

/// Duration of each stage of a detection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the frame to the tensor.
    pub preprocess: Duration,
    /// In the engine's queue.
    pub wait: Duration,
    /// The model's run, and the whole second inference of large faces.
    pub inference: Duration,
    /// From the outputs to faces.
    pub decode: Duration,
}

impl Timing {
    /// The sum of all stages.
    pub fn total(&self) -> Duration {
        self.preprocess + self.wait + self.inference + self.decode
    }
}

/// The result of a detection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detection {
    /// Faces in frame pixels, best score first.
    pub faces: Vec<Face>,
    /// Number of candidates that were dropped because a value was NaN or infinite.
    pub non_finite: usize,
    /// Duration of each stage.
    pub timing: Timing,
    /// Number of frames in the run, this one included. Regions of one frame that share a run count as
    /// frames. 0 if the model did not run, since the frame has no region.
    pub batch: usize,
    /// The regions of objects in which detection ran, those of [`Views::objects`].
    pub objects: Option<Arc<[ObjectRegion]>>,
}
