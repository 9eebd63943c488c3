//! Loading of ONNX Runtime, once per process.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int};
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::{AsPointer as _, LoadDynamicError};

use super::error::RuntimeError;
use super::locate::{self, RUNTIME_FILE};
use super::provider::Provider;
use crate::sync::lock;

/// The loaded ONNX Runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    environment: Environment,
    path: PathBuf,
}

impl Runtime {
    /// The environment of all sessions. A process can have only one, so that a program that runs
    /// models of its own with `ort`, such as a recogniser, needs this one.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The library file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version and build information that the library reports.
    pub fn version(&self) -> &'static str {
        ort::info()
    }
}

static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// Loads ONNX Runtime, preferably the build for `provider`. A process loads it once; later calls
/// return the same library.
///
/// `base_dir` is the directory of the calling plugin or program; see [`locate`].
///
/// # Errors
/// If no library is found, or the library cannot be loaded, is too old or was built without
/// `provider`. After an error a later call tries again.
pub fn load(base_dir: Option<&Path>, provider: Provider) -> Result<Runtime, RuntimeError> {
    let mut loaded = lock(&LOADED);
    if let Some(runtime) = &*loaded {
        let runtime = runtime.clone();
        if !provider.is_built_in() {
            let other = locate::runtime(base_dir, &provider.builds()[..1]).ok().filter(|path| *path != runtime.path);
            return Err(match other {
                Some(wanted) => RuntimeError::OneRuntime { provider, wanted, loaded: runtime.path },
                None => RuntimeError::Provider { provider, library: runtime.path },
            });
        }
        return Ok(runtime);
    }
    let (environment, path) = find(base_dir, provider)?;
    let runtime = loaded.insert(Runtime { environment, path }).clone();
    if provider.is_built_in() { Ok(runtime) } else { Err(RuntimeError::Provider { provider, library: runtime.path }) }
}

/// Opens the preferred library for `provider`.
fn find(base_dir: Option<&Path>, provider: Provider) -> Result<(Environment, PathBuf), RuntimeError> {
    let builds = provider.builds();
    if !provider.needs_cuda_build() {
        // A build that cannot be loaded does not exclude the other one.
        let found = builds.iter().filter_map(|build| locate::runtime(base_dir, &[*build]).ok());
        if let Some(opened) = found.filter_map(|path| Some((open(&path).ok()?, path))).next() {
            return Ok(opened);
        }
    }
    match locate::runtime(base_dir, builds) {
        Ok(path) => Ok((open(&path)?, path)),
        Err(not_found) if not_found.is_by_variable() => Err(not_found.into()),
        Err(not_found) => {
            let by_name = PathBuf::from(RUNTIME_FILE);
            match open(&by_name) {
                Ok(environment) => Ok((environment, by_name)),
                Err(RuntimeError::Load { .. }) => {
                    Err(not_found.also_tried(PathBuf::from("the search path of the dynamic linker")).into())
                }
                Err(other) => Err(other),
            }
        }
    }
}

fn open(path: &Path) -> Result<Environment, RuntimeError> {
    let shown = path.display().to_string();
    let failed = |reason: String| RuntimeError::Load { path: shown.clone(), reason };
    // The binding panics on some invalid libraries; users need an error instead.
    let result = panic::catch_unwind(|| {
        let builder = ort::init_from(path).map_err(|error| match error {
            LoadDynamicError::BadVersion { version_str, .. } => {
                RuntimeError::TooOld { path: shown.clone(), found: version_str, needed: ort::MINOR_VERSION }
            }
            LoadDynamicError::Dlopen { error, .. } => failed(with_causes(&error)),
            LoadDynamicError::MissingApi { .. } => failed("the file does not export OrtGetApiBase".to_owned()),
            LoadDynamicError::InvalidVersionString => failed("its version string is invalid".to_owned()),
        })?;
        let logger = Arc::new(|level, _: &str, _: &str, _: &str, message: &str| log_line(level, message));
        let environment = builder.with_name("retinaface").with_telemetry(false).with_logger(logger).build();
        let environment = environment.map_err(|error| failed(error.to_string()))?;
        // The binding starts at the lowest level, at which ONNX Runtime logs each operator.
        environment.set_log_level(max_log_level());
        register_shared_arena(&environment).map_err(|error| failed(error.to_string()))?;
        Ok(environment)
    });
    result.unwrap_or_else(|payload| Err(failed(panic_message(payload.as_ref()))))
}

/// Target of the lines that ONNX Runtime logs.
const LOG_TARGET: &str = "onnxruntime";

/// Passes a line of ONNX Runtime on to the crate `log`. Without this, ONNX Runtime would write it to
/// standard error.
fn log_line(level: LogLevel, message: &str) {
    let level = match level {
        LogLevel::Fatal | LogLevel::Error => log::Level::Error,
        LogLevel::Warning => log::Level::Warn,
        LogLevel::Info => log::Level::Info,
        LogLevel::Verbose => log::Level::Debug,
    };
    log::log!(target: LOG_TARGET, level, "{}", single_line(message));
}

/// The level of ONNX Runtime's log: that of the crate `log`, which is off unless the process has set
/// a logger.
fn max_log_level() -> LogLevel {
    match log::max_level() {
        log::LevelFilter::Off => LogLevel::Fatal,
        log::LevelFilter::Error => LogLevel::Error,
        log::LevelFilter::Warn => LogLevel::Warning,
        log::LevelFilter::Info => LogLevel::Info,
        log::LevelFilter::Debug | log::LevelFilter::Trace => LogLevel::Verbose,
    }
}

/// Registers a CPU arena that all sessions share and that grows by the requested size. The default
/// arena of a session doubles its size with each extension and never shrinks.
fn register_shared_arena(environment: &Environment) -> ort::Result<()> {
    const SAME_AS_REQUESTED: c_int = 1;
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default)?;
    #[expect(
        unsafe_code,
        reason = "the binding has no function for it; the arena configuration outlives the call that reads it"
    )]
    unsafe {
        let api = ort::api();
        let mut settings = ptr::null_mut();
        // 0 means no limit, -1 the default.
        check((api.CreateArenaCfg)(0, SAME_AS_REQUESTED, -1, -1, &mut settings))?;
        let status = (api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), memory.ptr(), settings);
        (api.ReleaseArenaCfg)(settings);
        check(status)
    }
}

/// Converts a status of the C API.
#[expect(unsafe_code, reason = "the status was returned by a function of ONNX Runtime and is not used again")]
pub(crate) fn check(status: ort::sys::OrtStatusPtr) -> ort::Result<()> {
    unsafe { ort::Error::result_from_status(status) }
}

/// Loads the libraries in the directory of `library` whose names start with one of `names`, so that
/// `library`, or a library that it opens by name, finds them. ONNX Runtime reports libraries that
/// cannot be loaded.
pub(crate) fn preload(library: &Path, names: &[&str]) {
    let Some(directory) = library.parent().filter(|directory| !directory.as_os_str().is_empty()) else { return };
    let Ok(entries) = fs::read_dir(directory) else { return };
    let is_listed = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains(".so") && names.iter().any(|start| name.starts_with(start))
    };
    let mut remaining = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_listed).collect::<Vec<_>>();
    remaining.sort();
    // The libraries depend on each other, so that a loaded library can make another one loadable.
    loop {
        let before = remaining.len();
        remaining.retain(|path| {
            #[expect(unsafe_code, reason = "loading runs the initialisers of the libraries, which the user installed")]
            let opened = unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_GLOBAL) };
            // Like ONNX Runtime, the libraries stay loaded until the process ends.
            opened.map(std::mem::forget).is_err()
        });
        if remaining.len() == before {
            return;
        }
    }
}

/// The operator types of nodes that are not assigned to `provider`, each with its number of nodes.
/// Nodes for which `is_ignored(name, operator type)` is true do not count.
///
/// # Errors
/// If ONNX Runtime does not report the assignment.
pub(crate) fn nodes_on_other_providers(
    session: &Session,
    provider: Provider,
    is_ignored: impl Fn(&str, &str) -> bool,
) -> ort::Result<Vec<(String, usize)>> {
    let mut counts = BTreeMap::<String, usize>::new();
    #[expect(
        unsafe_code,
        reason = "the binding has no function for it; all pointers belong to the session, which is borrowed"
    )]
    unsafe {
        let api = ort::api();
        let (mut graphs, mut count) = (ptr::null(), 0);
        check((api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut graphs, &mut count))?;
        for graph in 0..count {
            let graph = *graphs.add(graph);
            let mut name = ptr::null();
            check((api.EpAssignedSubgraph_GetEpName)(graph, &mut name))?;
            if CStr::from_ptr(name).to_string_lossy() == provider.ep_name() {
                continue;
            }
            let (mut nodes, mut count) = (ptr::null(), 0);
            check((api.EpAssignedSubgraph_GetNodes)(graph, &mut nodes, &mut count))?;
            for node in 0..count {
                let (mut name, mut op_type) = (ptr::null(), ptr::null());
                check((api.EpAssignedNode_GetName)(*nodes.add(node), &mut name))?;
                check((api.EpAssignedNode_GetOperatorType)(*nodes.add(node), &mut op_type))?;
                let [name, op_type] = [name, op_type].map(|text| CStr::from_ptr(text).to_string_lossy());
                if is_ignored(&name, &op_type) {
                    continue;
                }
                *counts.entry(op_type.into_owned()).or_default() += 1;
            }
        }
    }
    Ok(counts.into_iter().collect())
}

/// The message of an error, followed by those of its sources.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A message of ONNX Runtime, on one line.
pub(crate) fn single_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The message of a panic.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic without a message".to_owned())
}
