//! Faces over time: ids across frames and predictions between inferences ([`Tracker`]), the areas that
//! redaction covers ([`Coverage`]), and smoothing for the overlay ([`Smoother`]).

mod association;
mod coverage;
mod motion;
mod smoothing;
mod tracker;

pub use coverage::{
    Coverage, CoverageSettings, DEFAULT_HOLD, DEFAULT_MARGIN, DEFAULT_MAX_FACE_AGE, Doubt, FrameCoverage, KnownFaces,
    areas_before,
};
pub use smoothing::Smoother;
pub use tracker::{
    DEFAULT_LOST_TIMEOUT, DEFAULT_MIN_HITS, DEFAULT_SCORE_THRESHOLD, TrackEvent, TrackEventKind, Tracker,
    TrackerSettings,
};

/// Largest number of tracks of a stream, and of faces of a frame that take part in the association. The
/// time of an assignment grows with its third power.
const MAX_TRACKS: usize = 256;
