//! The description of a model, independent of the runtime: input, output layout, detector families
//! and overrides.

pub(crate) mod families;
mod input;
pub(crate) mod layout;
mod overrides;
pub(crate) mod priors;
mod recognise;
mod spec;

pub use families::FAMILIES;
pub use input::{ChannelOrder, Normalization, Padding};
pub use layout::{Arrangement, Head, Layout, Role};
pub(crate) use layout::{Boxes, CANDIDATE_LEN, CANDIDATE_LEN_WITH_LANDMARKS, MAX_HEADS, Scores};
pub(crate) use overrides::ParsedOverrides;
pub use overrides::{METADATA_PREFIX, OVERRIDE_KEYS, OverrideError, OverrideErrorKind, Overrides, PointUnit};
pub(crate) use priors::Prior;
pub(crate) use recognise::{FamilyMatch, recognise_family};
pub(crate) use spec::Input;
pub use spec::{LandmarkOutput, ModelSpec, OutputSpec};
