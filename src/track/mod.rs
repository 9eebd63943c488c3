//! Faces over time: ids across frames and predictions between inferences ([`Tracker`]), the areas that
//! redaction covers ([`Coverage`]), smoothing for the overlay ([`Smoother`]), and the best crop of each
//! track ([`BestShots`]).

mod association;
mod best_shots;
mod coverage;
mod motion;
mod smoothing;
mod tracker;

pub use best_shots::{
    BestShot, BestShotKind, BestShotSettings, BestShots, DEFAULT_BEST_SHOT_DELAY, DEFAULT_BEST_SHOT_GAIN,
};
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
