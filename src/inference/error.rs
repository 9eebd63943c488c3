//! Why a model cannot be used, told so that a user can act on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::families;
use crate::onnx;
use crate::overrides::OverrideError;
use crate::runtime::RuntimeError;
use crate::session::on_one_line;

/// An ONNX file is a protocol buffer, whose length is a signed number of 32 bits.
pub(super) const LARGEST: u64 = i32::MAX as u64;

/// ONNX Runtime takes no older operators.
const OLDEST_OPSET: i64 = 7;

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// ONNX Runtime itself cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The file cannot be read.
    #[error("model file {path} cannot be read: {cause}; set model-file to an ONNX file")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is longer than ONNX files can be.
    #[error(
        "model file {path} has {bytes} bytes, and an ONNX file ends at 2 GiB: it is damaged or no ONNX file; models that \
         are larger keep their weights in a file beside it"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The file is not ONNX, or it is damaged.
    #[error("model file {path} is not an ONNX file that can be loaded: {reason}")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file uses operators of a version that this ONNX Runtime does not know.
    #[error(
        "model file {path} uses version {opset} of ONNX's operators, which this ONNX Runtime does not take ({reason}); \
         export it again for version 11 to 17, or take a newer ONNX Runtime"
    )]
    Opset {
        /// The file.
        path: PathBuf,
        /// The version.
        opset: i64,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// The input is not one that this crate can fill.
    #[error("model file {path} cannot be fed: {problem} (its inputs: {inputs})")]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
        /// The inputs found.
        inputs: String,
    },
    /// The outputs are of another kind of model.
    #[error(
        "model file {path} is not a detector that is known here: {detail}; its outputs are {outputs}; known are {}",
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
        "model file {path} is not a landmark model: {detail}; its outputs are {outputs}; expected one of [N, 2 * points], \
         [N, points, 2] or [N, points, 3]"
    )]
    NoLandmarks {
        /// The file.
        path: PathBuf,
        /// The outputs found, with their shapes.
        outputs: String,
        /// Why they do not fit.
        detail: String,
    },
    /// The model gives numbers that are none.
    #[error(
        "model file {path} gives numbers that are not finite in output {output} for a black picture: its weights are \
         damaged, or it was converted to a precision that it cannot take; export it again in float32"
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The first output that has one.
        output: String,
    },
    /// The nodes that turn frames into tensors, and outputs into candidates, cannot be put around the model.
    #[error("the graph around model file {path} cannot be made: {reason}; preprocessing=cpu does without it")]
    Graph {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// What was said of the model makes no sense.
    #[error("model file {path}: {cause}, said in {place}")]
    Override {
        /// The file.
        path: PathBuf,
        /// Where it was said.
        place: &'static str,
        /// What is wrong with it.
        cause: OverrideError,
    },
    /// The model loads but does not run.
    #[error("model file {path} does not run: {reason}")]
    Run {
        /// The file.
        path: PathBuf,
        /// What ONNX Runtime said.
        reason: String,
    },
}

impl ModelError {
    /// What is the matter with a file that ONNX Runtime did not take, and of which it said `reason`.
    pub(crate) fn of_file(path: &Path, reason: String) -> Self {
        let path = path.to_path_buf();
        let reason = on_one_line(&reason);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(cause) => return Self::Read { path, cause },
        };
        let not_onnx = |reason: String| Self::NotOnnx { path: path.clone(), reason };
        match bytes.as_slice() {
            [] => return not_onnx("it is empty".to_owned()),
            bytes if bytes.starts_with(b"version https://git-lfs") => {
                return not_onnx("it is a Git LFS pointer; `git lfs pull` brings the file itself".to_owned());
            }
            bytes if bytes.trim_ascii_start().starts_with(b"<") => {
                return not_onnx("it is a web page; download the file itself".to_owned());
            }
            _ => {}
        }
        match onnx::Model::parse(&bytes) {
            Err(error) => not_onnx(format!(
                "after some of its {} bytes it makes no sense: it is truncated or of another format ({error}); download \
                 it again",
                bytes.len()
            )),
            Ok(model) => {
                let opset = model.opset();
                if opset < OLDEST_OPSET || reason.contains("Opset") {
                    Self::Opset { path, opset, reason }
                } else {
                    not_onnx(reason)
                }
            }
        }
    }
}
