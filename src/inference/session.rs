//! ONNX Runtime sessions, created from the bytes of a model for any input shape or for one shape.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ort::ErrorCode;
use ort::ep::ExecutionProviderDispatch;
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use prost::Message as _;

use super::device_graph;
use super::error::ModelError;
use super::options::{Kernels, ModelOptions, Progress};
use super::tensors::{InputSpec, TensorAllocator};
use crate::model::ModelSpec;
use crate::runtime::onnx::{self, Dim};
use crate::runtime::provider;
use crate::runtime::{
    DeviceInfo, Exclusive, Provider, ProviderConfig, Runtime, RuntimeError, engine_cache, exclusive, kernels, library,
    panic_message, registered, single_line,
};
use crate::sync::lock;

/// Larger models are not copied to replace their convolutions.
const MAX_KERNEL_MODEL_BYTES: usize = 256 << 20;

/// Creates the sessions of an input shape on the thread that first needs the shape, so that the
/// engine's threads continue to run other shapes.
pub(crate) struct SessionFactory {
    pub(crate) path: PathBuf,
    pub(crate) runtime: Runtime,
    pub(crate) options: ModelOptions,
    /// The device of the provider.
    pub(crate) device: DeviceInfo,
    pub(crate) spec: Arc<ModelSpec>,
    /// The model, if input shapes need sessions of their own.
    pub(crate) bytes: Option<Arc<Vec<u8>>>,
    /// Directory for the TensorRT engines; `None` turns the cache off.
    pub(crate) engine_cache: Option<PathBuf>,
    pub(crate) progress: Option<Progress>,
    /// Held by the thread that makes sessions.
    pub(crate) making: Mutex<()>,
    /// Sessions that no run has taken yet.
    pub(crate) ready: Mutex<HashMap<InputSpec, Vec<Exclusive<Session>>>>,
}

impl SessionFactory {
    /// Creates the sessions for an input shape. Does nothing if tensors of that shape exist,
    /// because this method was called before they were allocated.
    pub(crate) fn prepare(&self, input_spec: &InputSpec, allocator: &TensorAllocator) -> Result<(), ModelError> {
        if self.bytes.is_none() {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.making);
        lock(&self.ready).retain(|input_spec, _| allocator.in_use(input_spec));
        if allocator.in_use(input_spec) {
            return Ok(());
        }
        let count = self.options.parallel_runs.max(1);
        let made = (0..count).map(|_| self.session_for(input_spec)).collect::<Result<Vec<_>, _>>()?;
        lock(&self.ready).insert(*input_spec, made.into_iter().flatten().collect());
        Ok(())
    }

    /// A prepared session, or a new one; `None` if the session for any shape serves this shape,
    /// too.
    pub(crate) fn take(&self, input_spec: &InputSpec) -> Result<Option<Exclusive<Session>>, ModelError> {
        let ready = lock(&self.ready).get_mut(input_spec).and_then(Vec::pop);
        ready.map_or_else(|| self.session_for(input_spec), |session| Ok(Some(session)))
    }

    /// A session for this shape only, if one is needed.
    fn session_for(&self, input_spec: &InputSpec) -> Result<Option<Exclusive<Session>>, ModelError> {
        let Some(model) = &self.bytes else { return Ok(None) };
        let graph_error = |reason: String| ModelError::DeviceGraph { path: self.path.clone(), reason };
        let batch = if self.spec.dynamic_batch { Dim::Batch } else { Dim::Fixed(1) };
        let bytes = match input_spec {
            InputSpec::Floats { .. }
                if self.spec.fixed_size.is_some() || !self.options.provider.wants_fixed_shapes() =>
            {
                return Ok(None);
            }
            InputSpec::Floats { width, height } => {
                let mut model = onnx::Model::parse(model).map_err(graph_error)?;
                let shape = [batch, Dim::Fixed(self.spec.channels), Dim::Fixed(*height), Dim::Fixed(*width)];
                model.fix_input(&self.spec.input_name, &shape).map_err(graph_error)?;
                model.encode_to_vec()
            }
            InputSpec::Planes(frame) | InputSpec::DevicePlanes(frame) => {
                device_graph::graph(model, &self.spec, frame).map_err(graph_error)?
            }
        };
        let step = format!(
            "building a TensorRT engine for {input_spec}; this takes minutes the first time, later it is read from the cache"
        );
        let report = |done| {
            if let (Provider::TensorRt, Some(progress)) = (self.options.provider, &self.progress) {
                progress.report(&step, done);
            }
        };
        report(false);
        let request = SessionRequest {
            runtime: &self.runtime,
            options: &self.options,
            device: &self.device,
            bytes: &bytes,
            shape: Some((input_spec, &self.spec)),
            engine_cache: self.engine_cache.as_deref(),
        };
        let made = request.create();
        report(true);
        let has_own_nodes = !matches!(input_spec, InputSpec::Floats { .. });
        let failed = |failed: SessionError| match failed {
            // The cause is in the nodes that this library added, not in the file.
            SessionError::Ort(error) if has_own_nodes => graph_error(single_line(error.message())),
            failed => failed.into_model_error(self.options.provider, &self.path, &bytes),
        };
        let made = made.map_err(failed)?;
        if let Some(note) = made.unassigned_nodes {
            log::warn!("{} with {input_spec}: {note}", self.path.display());
        }
        Ok(Some(made.session))
    }
}

impl fmt::Debug for SessionFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionFactory").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why a session cannot be created.
pub(crate) enum SessionError {
    Ort(ort::Error),
    Panic(String),
    Cache(io::Error),
}

impl SessionError {
    /// The model error, which names the file or the provider as the cause.
    pub(crate) fn into_model_error(self, provider: Provider, path: &Path, bytes: &[u8]) -> ModelError {
        let start = |reason: String| {
            let remedy = provider::start_remedy(provider, &reason);
            RuntimeError::ProviderStart { provider, reason, remedy }.into()
        };
        match self {
            Self::Ort(error) if provider != Provider::Cpu && !is_about_the_file(error.code()) => {
                // The position in ONNX Runtime's sources does not help the user.
                let message = error.message();
                let message = message.split_once("FAIL : ").map_or(message, |(_, message)| message);
                start(message.trim().to_owned())
            }
            Self::Ort(error) => ModelError::of_file(path, bytes, error.message()),
            Self::Panic(reason) => ModelError::of_file(path, bytes, &reason),
            Self::Cache(error) => start(format!("the directory for its engines cannot be created: {error}")),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Ort(error) => single_line(error.message()),
            Self::Panic(reason) => reason.clone(),
            Self::Cache(error) => error.to_string(),
        }
    }
}

/// The parameters of a new session.
pub(crate) struct SessionRequest<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) options: &'a ModelOptions,
    pub(crate) device: &'a DeviceInfo,
    /// The model.
    pub(crate) bytes: &'a [u8],
    /// The only input shape of the session; `None` for any shape.
    pub(crate) shape: Option<(&'a InputSpec, &'a ModelSpec)>,
    /// Directory for the TensorRT engines.
    pub(crate) engine_cache: Option<&'a Path>,
}

/// A session and what it contains.
pub(crate) struct CreatedSession {
    pub(crate) session: Exclusive<Session>,
    /// Number of this library's kernels.
    pub(crate) kernels: usize,
    /// Why the session has no kernels of this library although the model has convolutions for them.
    pub(crate) kernels_error: Option<String>,
    /// Which nodes do not run on the requested provider.
    pub(crate) unassigned_nodes: Option<String>,
}

impl SessionRequest<'_> {
    /// Makes the session.
    pub(crate) fn create(&self) -> Result<CreatedSession, SessionError> {
        let ModelOptions { provider, device_id, precision, threads, .. } = *self.options;
        let cache = match (self.shape, provider, self.engine_cache) {
            (Some((input_spec, _)), Provider::TensorRt, Some(cache)) => {
                let key =
                    engine_cache::tensorrt_key(self.bytes, &(input_spec, precision), device_id, self.runtime.version());
                let directory = cache.join(key);
                fs::create_dir_all(&directory).map_err(SessionError::Cache)?;
                Some(directory)
            }
            _ => None,
        };
        // Two processes that build the same engine would write the same files. The second one waits
        // and reads them.
        let lock = cache.as_ref().map(|directory| fs::File::create(directory.join(".lock")));
        let lock = lock.transpose().map_err(SessionError::Cache)?;
        if let Some(lock) = &lock {
            lock.lock().map_err(SessionError::Cache)?;
        }
        let mut kernels_error = None;
        if provider == Provider::Cpu && self.options.kernels == Kernels::Auto {
            match self.create_with_kernels() {
                Some(Ok(created)) => return Ok(created),
                // If the file is the cause, the session without kernels reports it.
                Some(Err(error)) => kernels_error = Some(error.message()),
                None => {}
            }
        }
        let config = ProviderConfig {
            device_id,
            threads,
            precision,
            cuda_graph: self.options.cuda_graph
                && self.shape.is_some_and(|(input_spec, _)| !matches!(input_spec, InputSpec::DevicePlanes(_))),
            cache: cache.as_deref(),
            profile: self.shape.map(|(input_spec, spec)| input_spec.profile(spec)),
        };
        let backend = match (provider.plugin_file(), provider.dispatch(&config)) {
            (Some(_), _) => Backend::Plugin {
                provider,
                device_id: self.device.id,
                options: provider.plugin_options(&config, self.device.kind),
            },
            (None, Some(dispatch)) => Backend::BuiltIn(dispatch),
            (None, None) => Backend::Cpu(None),
        };
        let session = commit(self.runtime, threads, backend, self.bytes)?;
        let unassigned_nodes = unassigned_nodes_note(&session, provider, self.bytes);
        Ok(CreatedSession { session, kernels: 0, kernels_error, unassigned_nodes })
    }

    /// A session with this library's kernels; `None` if the model has no use for them.
    fn create_with_kernels(&self) -> Option<Result<CreatedSession, SessionError>> {
        if self.bytes.len() > MAX_KERNEL_MODEL_BYTES {
            return None;
        }
        let (model, kernels) = kernels::with_kernels(self.bytes)?;
        let threads = self.options.threads;
        let operators = kernels::domain(threads).map_err(SessionError::Ort);
        let session =
            operators.and_then(|operators| commit(self.runtime, threads, Backend::Cpu(Some(operators)), &model));
        Some(session.map(|session| CreatedSession { session, kernels, kernels_error: None, unassigned_nodes: None }))
    }
}

/// What runs the nodes of a session. The CPU provider is part of every session.
enum Backend {
    /// Only the CPU provider, with operators of this library.
    Cpu(Option<OperatorDomain>),
    /// A provider of ONNX Runtime.
    BuiltIn(ExecutionProviderDispatch),
    /// A registered provider.
    Plugin { provider: Provider, device_id: u32, options: Vec<(&'static str, String)> },
}

fn commit(
    runtime: &Runtime,
    threads: usize,
    backend: Backend,
    bytes: &[u8],
) -> Result<Exclusive<Session>, SessionError> {
    let provider = match backend {
        Backend::Plugin { provider, .. } => provider,
        Backend::Cpu(_) | Backend::BuiltIn(_) => Provider::Cpu,
    };
    let registered = registered();
    let _exclusive = exclusive(provider);
    // The binding asserts on types that it does not know. A file must never end the process.
    let made = panic::catch_unwind(AssertUnwindSafe(|| -> ort::Result<Session> {
        let mut builder = Session::builder(runtime.environment())?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // The arena that grows as requested, see `runtime::library`.
            .with_env_allocators()?
            // Between runs the cores are for preprocessing, decoders and encoders. Without spinning
            // the model is as fast, and preprocessing takes a third less time (benches/README.md).
            .with_config_entry("session.force_spinning_stop", "1")?
            // For `nodes_on_other_providers`.
            .with_config_entry("session.record_ep_graph_assignment_info", "1")?;
        if threads > 0 {
            builder = builder.with_intra_threads(threads)?;
        }
        builder = match backend {
            Backend::Cpu(None) => builder,
            Backend::Cpu(Some(operators)) => builder.with_operators(operators)?,
            Backend::BuiltIn(provider) => builder.with_execution_providers([provider])?,
            Backend::Plugin { provider, device_id, options } => {
                runtime.with_device(builder, provider, device_id, &options, &registered)?
            }
        };
        builder.commit_from_memory(bytes)
    }));
    match made {
        Ok(session) => session.map(|session| Exclusive::new(session, provider)).map_err(SessionError::Ort),
        Err(payload) => Err(SessionError::Panic(panic_message(payload.as_ref()))),
    }
}

/// A note for the user if some nodes of the model are not assigned to the provider.
fn unassigned_nodes_note(session: &Session, provider: Provider, model: &[u8]) -> Option<String> {
    if provider == Provider::Cpu {
        return None;
    }
    // Most sessions have no such nodes, so that the model is not decoded again for them.
    let known = LazyCell::new(|| {
        let model = onnx::Model::parse(model).unwrap_or_default();
        (model.node_names(), model.shape_nodes())
    });
    // Where ONNX Runtime changes the layout of tensors, it adds nodes that permute shapes.
    let is_ignored = |name: &str, op_type: &str| {
        let (names, shape_nodes) = &*known;
        shape_nodes.contains(name) || (op_type == "Gather" && !names.contains(name))
    };
    match library::nodes_on_other_providers(session, provider, is_ignored) {
        Ok(kinds) if kinds.is_empty() => None,
        Ok(kinds) => {
            let count = kinds.iter().map(|(_, count)| count).sum::<usize>();
            let list = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ");
            Some(format!("{provider} does not run the whole graph, {count} nodes run on other providers: {list}"))
        }
        Err(error) => Some(format!("ONNX Runtime does not report which nodes run on {provider}: {error}")),
    }
}

/// Whether the file, and not the provider, is the reason that a session cannot be created.
fn is_about_the_file(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::InvalidProtobuf | ErrorCode::InvalidGraph | ErrorCode::NoModel | ErrorCode::NoSuchFile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::load;

    #[test]
    fn nodes_on_other_providers_are_counted_by_type_without_those_that_compute_shapes() {
        let bytes = fs::read(".fetch/models/retinaface_mnet025.onnx").unwrap();
        let runtime = load(None, Provider::Cpu).unwrap();
        let session = commit(&runtime, 1, Backend::Cpu(None), &bytes).ok().unwrap();
        assert_eq!(unassigned_nodes_note(&session, Provider::Cpu, &bytes), None);
        // As if CUDA had been requested and no node had been assigned to it.
        let note = unassigned_nodes_note(&session, Provider::Cuda, &bytes).unwrap();
        assert!(note.starts_with("cuda does not run the whole graph") && note.contains(" Conv"), "{note}");
        let with_shape_nodes = unassigned_nodes_note(&session, Provider::Cuda, &[]).unwrap();
        assert!(with_shape_nodes.contains(" Shape") && !note.contains(" Shape"), "{with_shape_nodes}, {note}");
    }
}
