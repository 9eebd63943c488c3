//! What the elements share: caps, frame mapping, errors, latency, and everything that an element
//! with a model needs.

pub(crate) mod allocation;
pub(crate) mod caps;
pub(crate) mod errors;
pub(crate) mod face_reader;
pub(crate) mod failures;
pub(crate) mod frame;
mod in_flight;
pub(crate) mod latency;
mod latest;
pub(crate) mod logging;
pub(crate) mod model_properties;
pub(crate) mod orientation;
pub(crate) mod scheduling;
pub(crate) mod settings_report;
pub(crate) mod shared_models;
pub(crate) mod stream_time;
pub(crate) mod sync;
