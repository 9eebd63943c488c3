//! ONNX Runtime: found, loaded once a process, and asked for exactly the hardware wanted.

use std::fmt;
use std::panic;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use ort::LoadDynamicError;
use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider as _, ExecutionProviderDispatch};

use crate::locate::{self, NotFound, RUNTIME_FILE, RUNTIME_VARIABLE};

/// Why ONNX Runtime cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no library.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The library is older than this program can use.
    #[error(
        "ONNX Runtime at {path} is version {found}, too old: 1.{needed} or newer is needed; \
         run `make setup` for one that fits, or set {RUNTIME_VARIABLE}"
    )]
    TooOld {
        /// The library.
        path: String,
        /// Its version.
        found: String,
        /// The minor version needed.
        needed: u32,
    },
    /// The file cannot be loaded, or is no ONNX Runtime.
    #[error("{path} cannot be used as ONNX Runtime: {reason}; set {RUNTIME_VARIABLE} to libonnxruntime.so")]
    Load {
        /// The file.
        path: String,
        /// What the loader said.
        reason: String,
    },
    /// The requested provider is not part of the library.
    #[error(
        "execution provider {provider} is not available in this ONNX Runtime; \
         use execution-provider=auto or cpu, or a build of ONNX Runtime that has it"
    )]
    Provider {
        /// What was asked for.
        provider: Provider,
    },
    /// The provider is there but does not start.
    #[error("execution provider {provider} does not start: {reason}")]
    ProviderStart {
        /// What was asked for.
        provider: Provider,
        /// What ONNX Runtime said.
        reason: String,
    },
}

/// What the model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Provider {
    /// The best that this version picks by itself; today the CPU.
    #[default]
    Auto,
    /// ONNX Runtime's own CPU kernels.
    Cpu,
    /// NVIDIA CUDA.
    Cuda,
    /// NVIDIA TensorRT.
    TensorRt,
    /// Intel OpenVINO.
    OpenVino,
}

impl Provider {
    /// All providers, in the order in which they are offered.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Cpu, Self::Cuda, Self::TensorRt, Self::OpenVino];

    /// The name by which users know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::OpenVino => "openvino",
        }
    }

    /// What it stands for once it is chosen: never `Auto`.
    pub const fn resolved(self) -> Self {
        match self {
            Self::Auto => Self::Cpu,
            named => named,
        }
    }

    /// How to register it with a session, failing if it cannot start; `None` for the CPU, which is always there.
    ///
    /// # Errors
    /// If the loaded library does not have it.
    pub(crate) fn dispatch(self) -> Result<Option<ExecutionProviderDispatch>, RuntimeError> {
        let (available, dispatch) = match self.resolved() {
            Self::Auto | Self::Cpu => return Ok(None),
            Self::Cuda => (ep::CUDA::is_available(), ep::CUDA::default().build()),
            Self::TensorRt => (ep::TensorRT::is_available(), ep::TensorRT::default().build()),
            Self::OpenVino => (ep::OpenVINO::is_available(), ep::OpenVINO::default().build()),
        };
        if available.unwrap_or(false) {
            Ok(Some(dispatch.error_on_failure()))
        } else {
            Err(RuntimeError::Provider { provider: self })
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|provider| provider.name() == name)
            .ok_or_else(|| format!("no execution provider is called {name}; there are {known}"))
    }
}

static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// The process's ONNX Runtime, loaded by the first call that succeeds.
///
/// `home` is the folder of the plugin or program that asks; see [`locate`].
///
/// # Errors
/// If no library is found, or what is found cannot be loaded or is too old. A later call tries again.
pub fn environment(home: Option<&Path>) -> Result<Environment, RuntimeError> {
    let mut loaded = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*loaded {
        return Ok(environment.clone());
    }
    let environment = match locate::runtime(home) {
        Ok(path) => load(&path)?,
        Err(not_found) if not_found.is_by_variable() => return Err(not_found.into()),
        Err(not_found) => {
            let by_name = PathBuf::from(RUNTIME_FILE);
            load(&by_name).map_err(|error| match error {
                RuntimeError::Load { .. } => not_found.also_tried(PathBuf::from("the dynamic linker's folders")).into(),
                other => other,
            })?
        }
    };
    Ok(loaded.insert(environment).clone())
}

fn load(path: &Path) -> Result<Environment, RuntimeError> {
    let shown = path.display().to_string();
    let failed = |reason: String| RuntimeError::Load { path: shown.clone(), reason };
    // The binding asserts where a library is not what it seems; a start error is what users can act on.
    let result = panic::catch_unwind(|| {
        let builder = ort::init_from(path).map_err(|error| match error {
            LoadDynamicError::BadVersion { version_str, .. } => {
                RuntimeError::TooOld { path: shown.clone(), found: version_str, needed: ort::MINOR_VERSION }
            }
            LoadDynamicError::Dlopen { error, .. } => failed(with_causes(&error)),
            LoadDynamicError::MissingApi { .. } => failed("it does not export OrtGetApiBase".to_owned()),
            LoadDynamicError::InvalidVersionString => failed("its version is not readable".to_owned()),
        })?;
        builder.with_name("retinaface").with_telemetry(false).build().map_err(|error| failed(error.to_string()))
    });
    result.unwrap_or_else(|payload| Err(failed(panic_message(payload.as_ref()))))
}

/// An error's text with those of its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The text that a panic carried.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic without a message".to_owned())
}
