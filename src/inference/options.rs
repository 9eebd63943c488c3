//! How a model is opened, and what it then runs on.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::model::Overrides;
use crate::runtime::{DeviceInfo, DeviceKind, Precision, Provider, RuntimeError};

/// Maximum automatic batch size on a GPU.
pub(crate) const AUTO_BATCH: usize = 16;

type ProgressCallback = dyn Fn(&str, bool) + Send + Sync;

/// Receives reports about steps that take long, such as building a TensorRT engine.
#[derive(Clone)]
pub struct Progress(Arc<ProgressCallback>);

impl Progress {
    /// Calls `report(step, done)` at the start (`done` is false) and at the end of each step.
    pub fn new(report: impl Fn(&str, bool) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    pub(crate) fn report(&self, step: &str, done: bool) {
        (self.0)(step, done);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Where frames are converted to the model's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preprocessing {
    /// On the device if the model runs on a GPU, else on the CPU.
    #[default]
    Auto,
    /// On the caller's thread.
    Cpu,
    /// In the model's graph.
    Device,
}

/// Which kernels compute convolutions on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// This library's kernels where they are faster, else ONNX Runtime's: on x86-64 with AVX2 for
    /// 3x3 convolutions, with AVX-512 also for the first layers of a MobileNet. Results differ by
    /// rounding.
    #[default]
    Auto,
    /// ONNX Runtime's kernels only.
    Runtime,
}

impl Kernels {
    /// All values.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Runtime];

    /// The name in properties and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Runtime => "runtime",
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernels {
    type Err = RuntimeError;

    fn from_str(name: &str) -> Result<Self, RuntimeError> {
        let known = || RuntimeError::unknown_name("kernels", name, &Self::ALL.map(Self::name));
        Self::ALL.into_iter().find(|kernels| kernels.name() == name).ok_or_else(known)
    }
}

/// What a model is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModelTask {
    /// Detecting faces in an image.
    #[default]
    Detection,
    /// Locating landmarks on the crop of a face.
    Landmarks,
}

/// How a model is opened. Callers that open a model with equal options can share its sessions.
///
/// ```
/// use retinaface::{ModelOptions, Provider};
/// let options = ModelOptions { provider: Provider::Cpu, threads: 2, ..ModelOptions::default() };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelOptions {
    /// The execution provider.
    pub provider: Provider,
    /// Index of the device among those of the provider, from 0; the CPU provider has one.
    pub device_id: u32,
    /// Precision of the arithmetic.
    pub precision: Precision,
    /// Run on the CPU if the provider is not available, instead of failing.
    pub allow_cpu_fallback: bool,
    /// Where frames are converted to the model's input.
    pub preprocessing: Preprocessing,
    /// Replay a recorded CUDA graph for each input shape instead of launching each GPU kernel.
    pub cuda_graph: bool,
    /// Which kernels compute convolutions on the CPU.
    pub kernels: Kernels,
    /// Threads of one run; 0 leaves the number to ONNX Runtime, which uses one per physical core.
    pub threads: usize,
    /// Number of concurrent runs, each on a session of its own; 0 counts as 1.
    pub parallel_runs: usize,
    /// What the model is opened for.
    pub task: ModelTask,
    /// Overrides for the detected model parameters.
    pub overrides: Overrides,
}

/// The surroundings in which a model is opened. They do not change its results.
#[derive(Clone, Debug, Default)]
pub struct OpenContext {
    /// Directory of the plugin or program, where [`crate::runtime::locate`] searches for ONNX
    /// Runtime.
    pub base_dir: Option<PathBuf>,
    /// Receives reports about steps that take long.
    pub progress: Option<Progress>,
}

/// What a model runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo {
    /// The execution provider; never [`Provider::Auto`].
    pub provider: Provider,
    /// The device of the provider.
    pub device: DeviceInfo,
    /// The library of ONNX Runtime.
    pub library: PathBuf,
    /// Number of this library's kernels in the model.
    pub kernels: usize,
    /// Notes for the user: why a better provider is not used, which nodes run on another provider.
    pub notes: Vec<String>,
}

impl BackendInfo {
    /// Whether the model runs on a GPU, or on software that emulates one.
    pub fn is_gpu(&self) -> bool {
        is_gpu(self.provider, &self.device)
    }

    /// Whether frames in CUDA memory are accepted.
    pub fn accepts_cuda_memory(&self) -> bool {
        self.provider.uses_cuda_memory()
    }
}

/// Whether `provider` computes on a GPU.
pub(crate) fn is_gpu(provider: Provider, device: &DeviceInfo) -> bool {
    provider.is_for_gpus() || device.kind == DeviceKind::Gpu
}
