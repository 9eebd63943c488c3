//! Errors of ONNX Runtime, of execution providers and of the CUDA driver.

use std::path::PathBuf;
use std::str::FromStr;

use super::locate::{NotFound, RUNTIME_VARIABLE};
use super::provider::{Precision, Provider};

/// Why ONNX Runtime or an execution provider cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The library was not found.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The library is too old.
    #[error(
        "ONNX Runtime at {path} has version {found}, but 1.{needed} or newer is required; run `make setup`, or set \
         {RUNTIME_VARIABLE} to a newer libonnxruntime.so"
    )]
    TooOld {
        /// The library file.
        path: String,
        /// Version of the library.
        found: String,
        /// The required minor version.
        needed: u32,
    },
    /// The file cannot be loaded, or it is not ONNX Runtime.
    #[error("{path} cannot be used as ONNX Runtime: {reason}; set {RUNTIME_VARIABLE} to a libonnxruntime.so")]
    Load {
        /// The library file.
        path: String,
        /// Message of the dynamic linker or of the version check.
        reason: String,
    },
    /// The library was built without the requested provider.
    #[error("execution provider {provider} is not available in {library}; {}", provider.remedy())]
    Provider {
        /// The requested provider.
        provider: Provider,
        /// The loaded library.
        library: PathBuf,
    },
    /// Another library than the one with the requested provider is already loaded.
    #[error(
        "execution provider {provider} needs {wanted}, but this process has already loaded {loaded}, and a process can \
         load ONNX Runtime only once; use a separate process for this provider, or set {RUNTIME_VARIABLE} to {wanted}"
    )]
    OneRuntime {
        /// The requested provider.
        provider: Provider,
        /// The library with the requested provider.
        wanted: PathBuf,
        /// The loaded library.
        loaded: PathBuf,
    },
    /// The provider is available but does not start.
    #[error("execution provider {provider} does not start: {reason}; {remedy}")]
    ProviderStart {
        /// The requested provider.
        provider: Provider,
        /// Message of ONNX Runtime.
        reason: String,
        /// What the user can do.
        remedy: String,
    },
    /// The provider does not support the precision.
    #[error(
        "precision={precision} is not supported by the CPU provider, which computes in float32; use \
         execution-provider=openvino"
    )]
    Precision {
        /// The requested precision.
        precision: Precision,
    },
    /// A setting has an unknown value.
    #[error("unknown {setting} {name:?}; known: {known}")]
    UnknownName {
        /// What the name stands for, for example `execution provider`.
        setting: &'static str,
        /// The requested name.
        name: String,
        /// The known names.
        known: String,
    },
    /// The CUDA driver cannot be loaded.
    #[error(
        "the CUDA driver cannot be loaded: {reason}; install NVIDIA's driver, and pass the GPU through to a container"
    )]
    CudaDriver {
        /// Message of the dynamic linker.
        reason: String,
    },
    /// A function of the CUDA driver failed.
    #[error("CUDA function {function} failed with error {status}; see CUresult in cuda.h")]
    CudaCall {
        /// Name of the function.
        function: &'static str,
        /// The returned `CUresult`.
        status: i32,
    },
}

impl RuntimeError {
    /// The error for `name`, which is not among the `known` names of `setting`.
    pub(crate) fn unknown_name(setting: &'static str, name: &str, known: &[&str]) -> Self {
        Self::UnknownName { setting, name: name.to_owned(), known: known.join(", ") }
    }
}

impl FromStr for Provider {
    type Err = RuntimeError;

    fn from_str(name: &str) -> Result<Self, RuntimeError> {
        let provider = Self::ALL.into_iter().find(|provider| provider.name() == name);
        provider.ok_or_else(|| RuntimeError::unknown_name("execution provider", name, &Self::ALL.map(Self::name)))
    }
}

impl FromStr for Precision {
    type Err = RuntimeError;

    fn from_str(name: &str) -> Result<Self, RuntimeError> {
        let precision = Self::ALL.into_iter().find(|precision| precision.name() == name);
        precision.ok_or_else(|| RuntimeError::unknown_name("precision", name, &Self::ALL.map(Self::name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed() {
        assert!(Provider::ALL.into_iter().all(|provider| provider.name().parse() == Ok(provider)));
        assert!(Precision::ALL.into_iter().all(|precision| precision.name().parse() == Ok(precision)));
        let error = "gpu".parse::<Provider>().unwrap_err().to_string();
        assert!(error.contains("auto, cpu, cuda, tensorrt, openvino"), "{error}");
        let error = "half".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("full, reduced"), "{error}");
    }
}
