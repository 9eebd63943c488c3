//! Opening a model and running it: options, errors, sessions, tensors, the batching engine, and
//! which execution providers can be used.

mod device_graph;
mod engine;
mod error;
mod file_kind;
#[cfg(test)]
mod kernel_tests;
mod model;
mod model_file;
mod options;
mod probe;
mod providers;
mod resident;
mod session;
mod shared;
mod tensors;

pub(crate) use device_graph::FrameSpec;
pub use engine::EngineError;
pub(crate) use engine::{Client, PendingReply, Request};
pub use error::ModelError;
pub use model::Model;
pub use model_file::{ModelDigest, ModelFile};
pub(crate) use options::AUTO_BATCH;
pub use options::{BackendInfo, Kernels, ModelOptions, ModelTask, OpenContext, Preprocessing, Progress};
pub use providers::{ProviderReport, provider_report, provider_reports};
pub use resident::ResidentSession;
pub use shared::SharedModel;
pub use tensors::{HeadOutputs, InputSpec, RunOutput, TensorAllocator, Tensors};
