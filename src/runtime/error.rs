//! Errors of ONNX Runtime, of execution providers and of the CUDA driver.

use std::path::PathBuf;
use std::str::FromStr;

use super::device::DeviceInfo;
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
    /// The library of the requested provider is not installed.
    #[error(
        "execution provider {provider} is not available: {file} was not found; searched {}; {}",
        list(searched.iter().map(|path| path.display())), provider.remedy()
    )]
    PluginNotFound {
        /// The requested provider.
        provider: Provider,
        /// File name of its library.
        file: &'static str,
        /// The searched paths.
        searched: Vec<PathBuf>,
    },
    /// The library of the requested provider cannot be loaded.
    #[error("execution provider {provider} cannot be loaded from {path}: {reason}; {remedy}")]
    PluginLoad {
        /// The requested provider.
        provider: Provider,
        /// Its library.
        path: PathBuf,
        /// Message of ONNX Runtime.
        reason: String,
        /// What the user can do.
        remedy: String,
    },
    /// The provider is for GPUs, and the operating system lists none.
    #[error("execution provider {provider} needs a GPU, and this machine has none; {}", provider.device_remedy())]
    NoGpu {
        /// The requested provider.
        provider: Provider,
    },
    /// The provider does not have the requested device.
    #[error("execution provider {provider} has no device {device_id}{}", missing_device(devices, remedy))]
    NoDevice {
        /// The requested provider.
        provider: Provider,
        /// The requested index.
        device_id: u32,
        /// The devices that it has.
        devices: Vec<DeviceInfo>,
        /// What the user can do if it has none.
        remedy: String,
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
        "precision={precision} is not supported by execution provider {provider}, which computes in the precision of the \
         model file; use precision=full, or another provider: openvino, cuda or tensorrt"
    )]
    Precision {
        /// The provider.
        provider: Provider,
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
    /// Whether the user has not installed the provider.
    pub(crate) fn is_not_installed(&self) -> bool {
        matches!(self, Self::Provider { .. } | Self::PluginNotFound { .. })
    }

    /// Whether the provider is not installed or the machine has no GPU; `auto` does not report these.
    pub(crate) fn is_expected(&self) -> bool {
        self.is_not_installed() || matches!(self, Self::NoGpu { .. })
    }

    /// The error for `name`, which is not among the `known` names of `setting`.
    pub(crate) fn unknown_name(setting: &'static str, name: &str, known: &[&str]) -> Self {
        Self::UnknownName { setting, name: name.to_owned(), known: known.join(", ") }
    }
}

/// The items, separated by commas.
fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// The part of [`RuntimeError::NoDevice`] that says what to do.
fn missing_device(devices: &[DeviceInfo], remedy: &str) -> String {
    if devices.is_empty() {
        format!(" on this machine; {remedy}")
    } else {
        format!("; set device-id to one of its devices: {}", list(devices))
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
        assert!(error.contains("auto, cpu, openvino, webgpu, cuda, tensorrt, nv-tensorrt-rtx"), "{error}");
        let error = "half".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("full, reduced"), "{error}");
    }
}
