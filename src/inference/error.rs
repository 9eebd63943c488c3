//! Why a model cannot be opened or run.

use std::io;
use std::path::{Path, PathBuf};

use super::engine::EngineError;
use super::file_kind;
use crate::model::{OverrideError, families};
use crate::runtime::onnx::{self, ExternalDataError};
use crate::runtime::{DeviceInfo, Provider, RuntimeError, single_line};

/// ONNX Runtime supports no older operator sets.
const MIN_OPSET: i64 = 7;

/// Why a model cannot be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// ONNX Runtime or the execution provider cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The file cannot be read.
    #[error("model file {path} cannot be read: {source}; set model-file to an ONNX file")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is longer than an ONNX file can be.
    #[error(
        "model file {path} has {bytes} bytes, but an ONNX file has less than 2 GiB: the file is damaged or is not an \
         ONNX file"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Weights that the model keeps in another file cannot be read.
    #[error("model file {path}: {source}")]
    ExternalData {
        /// The model file.
        path: PathBuf,
        /// Which weights, and why.
        source: ExternalDataError,
    },
    /// The file is not ONNX, or it is damaged.
    #[error("model file {path} is not an ONNX file that can be loaded: {reason}")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The loaded ONNX Runtime does not support the file's operator set.
    #[error(
        "model file {path} uses operator set {opset}, which the loaded ONNX Runtime does not support ({reason}); \
         export the model with operator set 11 to 17, or use a newer ONNX Runtime"
    )]
    Opset {
        /// The file.
        path: PathBuf,
        /// The operator set's version.
        opset: i64,
        /// ONNX Runtime's message.
        reason: String,
    },
    /// This library does not support the model's input.
    #[error("model file {path} has an unsupported input: {problem} (its inputs: {inputs})")]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        problem: String,
        /// The inputs found.
        inputs: String,
    },
    /// The outputs fit no known detector family.
    #[error(
        "model file {path} is not a detector of a known family: {detail}; its outputs are {outputs}; known families \
         are {}",
        families::names()
    )]
    Outputs {
        /// The file.
        path: PathBuf,
        /// The outputs found, with their shapes.
        outputs: String,
        /// Why they do not fit.
        detail: String,
    },
    /// The outputs are not those of a landmark model.
    #[error(
        "model file {path} is not a landmark model: {detail}; its outputs are {outputs}; expected one output of shape \
         [N, 2 * points], [N, points, 2] or [N, points, 3]"
    )]
    NoLandmarks {
        /// The file.
        path: PathBuf,
        /// The outputs found, with their shapes.
        outputs: String,
        /// Why they do not fit.
        detail: String,
    },
    /// The model was opened for another task.
    #[error("the model was opened for {found}, but the caller needs {wanted}")]
    Task {
        /// The task of the open model.
        found: &'static str,
        /// The task that the caller needs.
        wanted: &'static str,
    },
    /// The model's outputs contain NaN or infinity.
    #[error(
        "model file {path} gives values that are not finite in output {output} for a black image: its weights are \
         damaged, or it was converted to a precision that it does not support; export it again in float32"
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The first such output.
        output: String,
    },
    /// The nodes for preprocessing and decoding on the device cannot be added to the model.
    #[error("the device graph of model file {path} cannot be built: {reason}; set preprocessing=cpu")]
    DeviceGraph {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// An override of a model parameter is not valid.
    #[error("model file {path}: {source}, set in {place}")]
    Override {
        /// The file.
        path: PathBuf,
        /// Where it was set.
        place: &'static str,
        /// What is wrong with it.
        source: OverrideError,
    },
    /// The model loads but does not run.
    #[error("model file {path} does not run: {reason}")]
    Run {
        /// The file.
        path: PathBuf,
        /// ONNX Runtime's message.
        reason: String,
    },
    /// The inference thread cannot be started.
    #[error("the inference thread cannot be started: {0}; raise the limit of processes and threads (`ulimit -u`)")]
    Thread(io::Error),
    /// Tensors cannot be allocated, bound, filled or read.
    #[error(
        "ONNX Runtime cannot use the tensors of the model: {0}; run the model with less memory in use, or on another provider"
    )]
    Tensor(String),
    /// The batching engine could not run a request.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ModelError {
    /// Adds to a failed run where the model ran, unless that was the CPU provider.
    pub(crate) fn on_device(self, provider: Provider, device: &DeviceInfo) -> Self {
        match self {
            Self::Run { path, reason } if provider != Provider::Cpu => {
                Self::Run { path, reason: format!("{reason} (on {provider}, device {device})") }
            }
            error => error,
        }
    }

    /// The error for a file with these bytes that ONNX Runtime refuses with `reason`.
    pub(crate) fn of_file(path: &Path, bytes: &[u8], reason: &str) -> Self {
        let path = path.to_path_buf();
        let reason = single_line(reason);
        let not_onnx = |reason: String| Self::NotOnnx { path: path.clone(), reason };
        if let Some(kind) = file_kind::describe(bytes) {
            return not_onnx(kind);
        }
        match onnx::Model::parse(bytes) {
            Err(error) => not_onnx(format!(
                "its {} bytes cannot be parsed: the file is truncated or has another format ({error}); download it again",
                bytes.len()
            )),
            Ok(model) => {
                let opset = model.opset();
                if opset < MIN_OPSET || reason.contains("Opset") {
                    Self::Opset { path, opset, reason }
                } else if reason.contains("IR version") {
                    not_onnx(format!(
                        "it is written in IR version {}, which the loaded ONNX Runtime does not support ({reason}); save it \
                         with an older version of the onnx package, or use a newer ONNX Runtime",
                        model.ir_version.unwrap_or(0)
                    ))
                } else {
                    not_onnx(reason)
                }
            }
        }
    }

    /// An error of ONNX Runtime in the handling of tensors.
    pub(crate) fn tensor(error: ort::Error) -> Self {
        Self::Tensor(single_line(error.message()))
    }
}
