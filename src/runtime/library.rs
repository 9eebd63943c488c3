//! ONNX Runtime: found, and loaded once a process.

use std::ffi::{CStr, c_int};
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};
use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::{AsPointer as _, LoadDynamicError};

use crate::locate::{self, NotFound, RUNTIME_FILE, RUNTIME_VARIABLE};
use crate::provider::{Precision, Provider};

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
    #[error("execution provider {provider} is not available in {library}; {}", provider.remedy())]
    Provider {
        /// What was asked for.
        provider: Provider,
        /// The ONNX Runtime in use.
        library: PathBuf,
    },
    /// The library for the requested provider is there, but another one is already loaded.
    #[error(
        "execution provider {provider} is in {wanted}, but this process has already loaded {loaded}, and two ONNX Runtimes \
         cannot live in one process: run this element in a process of its own, or set {RUNTIME_VARIABLE} to {wanted} for all"
    )]
    OneRuntime {
        /// What was asked for.
        provider: Provider,
        /// The library that has it.
        wanted: PathBuf,
        /// The library in use.
        loaded: PathBuf,
    },
    /// The provider is there but does not start.
    #[error("execution provider {provider} does not start: {reason}; {remedy}")]
    ProviderStart {
        /// What was asked for.
        provider: Provider,
        /// What ONNX Runtime said.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// The provider has no arithmetic of that precision.
    #[error(
        "precision={precision} is not there on the CPU provider, which computes in 32 bits; use execution-provider=openvino"
    )]
    Precision {
        /// What was asked for.
        precision: Precision,
    },
}

/// The library in use.
#[derive(Clone, Debug)]
pub struct Runtime {
    environment: Environment,
    path: PathBuf,
}

impl Runtime {
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version and how it was built, as it says itself.
    pub fn version(&self) -> &'static str {
        ort::info()
    }
}

static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// The process's ONNX Runtime, loaded by the first call that succeeds: the build for `provider` if there is one.
///
/// `home` is the folder of the plugin or program that asks; see [`locate`].
///
/// # Errors
/// If no library is found, or what is found cannot be loaded or is too old; a later call tries again. If one is loaded
/// that was built without `provider`.
pub fn load(home: Option<&Path>, provider: Provider) -> Result<Runtime, RuntimeError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*loaded {
        let runtime = runtime.clone();
        if !provider.is_built_in() {
            let elsewhere = locate::runtime(home, &provider.sets()[..1]).ok().filter(|path| *path != runtime.path);
            return Err(match elsewhere {
                Some(wanted) => RuntimeError::OneRuntime { provider, wanted, loaded: runtime.path },
                None => RuntimeError::Provider { provider, library: runtime.path },
            });
        }
        return Ok(runtime);
    }
    let (environment, path) = find(home, provider)?;
    let runtime = loaded.insert(Runtime { environment, path }).clone();
    if provider.is_built_in() { Ok(runtime) } else { Err(RuntimeError::Provider { provider, library: runtime.path }) }
}

/// The best library for `provider` that can be loaded.
fn find(home: Option<&Path>, provider: Provider) -> Result<(Environment, PathBuf), RuntimeError> {
    if provider == Provider::Auto {
        // One that is broken is no reason to do without the others.
        let found = provider.sets().iter().filter_map(|set| locate::runtime(home, &[*set]).ok());
        if let Some(opened) = found.filter_map(|path| Some((open(&path).ok()?, path))).next() {
            return Ok(opened);
        }
    }
    match locate::runtime(home, provider.sets()) {
        Ok(path) => Ok((open(&path)?, path)),
        Err(not_found) if not_found.is_by_variable() => Err(not_found.into()),
        Err(not_found) => {
            let by_name = PathBuf::from(RUNTIME_FILE);
            match open(&by_name) {
                Ok(environment) => Ok((environment, by_name)),
                Err(RuntimeError::Load { .. }) => {
                    Err(not_found.also_tried(PathBuf::from("the dynamic linker's folders")).into())
                }
                Err(other) => Err(other),
            }
        }
    }
}

/// What `provider` is likely to stand for: for `auto`, the best that the library was built with.
///
/// # Errors
/// As [`load`].
pub fn likely(home: Option<&Path>, provider: Provider) -> Result<Provider, RuntimeError> {
    load(home, provider)?;
    let built_in = provider.candidates().iter().find(|provider| provider.is_built_in());
    Ok(*built_in.unwrap_or(&provider))
}

fn open(path: &Path) -> Result<Environment, RuntimeError> {
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
        let environment = builder.with_name("retinaface").with_telemetry(false).build();
        let environment = environment.map_err(|error| failed(error.to_string()))?;
        share_a_modest_arena(&environment).map_err(|error| failed(error.to_string()))?;
        Ok(environment)
    });
    result.unwrap_or_else(|payload| Err(failed(panic_message(payload.as_ref()))))
}

/// Gives all sessions one CPU arena that grows by what is asked for. A session's own one would double each time, and
/// keep what it has.
fn share_a_modest_arena(environment: &Environment) -> ort::Result<()> {
    const SAME_AS_REQUESTED: c_int = 1;
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default)?;
    #[expect(
        unsafe_code,
        reason = "the binding has no call for it; the arena's settings outlive the call that reads them"
    )]
    unsafe {
        let api = ort::api();
        let mut settings = ptr::null_mut();
        // 0: no limit, -1: the default.
        check((api.CreateArenaCfg)(0, SAME_AS_REQUESTED, -1, -1, &mut settings))?;
        let status = (api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), memory.ptr(), settings);
        (api.ReleaseArenaCfg)(settings);
        check(status)
    }
}

#[expect(unsafe_code, reason = "takes the status that a call of ONNX Runtime gave, which is not used again")]
pub(crate) fn check(status: ort::sys::OrtStatusPtr) -> ort::Result<()> {
    unsafe { ort::Error::result_from_status(status) }
}

/// Loads NVIDIA's libraries that lie beside ONNX Runtime, so that its CUDA and TensorRT parts find them there and nowhere
/// else needs to be searched. What cannot be loaded is left for ONNX Runtime to name.
pub(crate) fn preload_nvidia(library: &Path) {
    const NAMES: [&str; 9] = [
        "libcudart.so",
        "libcublas",
        "libcudnn",
        "libcufft",
        "libcurand",
        "libnvrtc",
        "libnvJitLink",
        "libnvinfer",
        "libnvonnxparser",
    ];
    let Some(folder) = library.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return };
    let Ok(entries) = fs::read_dir(folder) else { return };
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains(".so") && NAMES.iter().any(|start| name.starts_with(start))
    };
    let mut left = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_wanted).collect::<Vec<_>>();
    left.sort();
    // They need each other: whatever loads may be what another one waits for.
    loop {
        let before = left.len();
        left.retain(|path| {
            #[expect(
                unsafe_code,
                reason = "NVIDIA's libraries may run code when loaded; they are what the user asked for"
            )]
            let opened = unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_GLOBAL) };
            // They stay loaded for the process's life, as ONNX Runtime's own parts do.
            opened.map(std::mem::forget).is_err()
        });
        if left.len() == before {
            return;
        }
    }
}

/// The nodes of a session that run elsewhere than on the provider that was asked for: for each kind, how many.
///
/// # Errors
/// If the loaded ONNX Runtime does not say.
pub(crate) fn nodes_elsewhere(session: &Session, wanted: Provider) -> ort::Result<Vec<(String, usize)>> {
    let wanted = match wanted {
        Provider::Auto | Provider::Cpu => "CPUExecutionProvider",
        Provider::Cuda => "CUDAExecutionProvider",
        Provider::TensorRt => "TensorrtExecutionProvider",
        Provider::OpenVino => "OpenVINOExecutionProvider",
    };
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    #[expect(
        unsafe_code,
        reason = "the binding has no call for it; all pointers belong to the session, which is borrowed"
    )]
    unsafe {
        let api = ort::api();
        let (mut graphs, mut count) = (ptr::null(), 0);
        check((api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut graphs, &mut count))?;
        for graph in 0..count {
            let graph = *graphs.add(graph);
            let mut name = ptr::null();
            check((api.EpAssignedSubgraph_GetEpName)(graph, &mut name))?;
            if CStr::from_ptr(name).to_string_lossy() == wanted {
                continue;
            }
            let (mut nodes, mut count) = (ptr::null(), 0);
            check((api.EpAssignedSubgraph_GetNodes)(graph, &mut nodes, &mut count))?;
            for node in 0..count {
                let mut kind = ptr::null();
                check((api.EpAssignedNode_GetOperatorType)(*nodes.add(node), &mut kind))?;
                *kinds.entry(CStr::from_ptr(kind).to_string_lossy().into_owned()).or_default() += 1;
            }
        }
    }
    Ok(kinds.into_iter().collect())
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
