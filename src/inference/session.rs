//! Sessions: made of a file for any shape, or for one shape alone, on the provider asked for.

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

use crate::contract::Contract;
use crate::device;
use crate::kernels;
use crate::lock::lock;
use crate::model::{Kernels, ModelError, Options, Progress};
use crate::onnx::{self, Side};
use crate::provider::{self, Provider, Setting};
use crate::runtime::{self, Runtime, RuntimeError, panic_message};
use crate::tensors::{Feed, Maker};

/// Makes sessions of a model for one shape each, on whichever thread first needs one: the threads that run the others
/// go on meanwhile.
pub(crate) struct Forge {
    pub(crate) path: PathBuf,
    pub(crate) runtime: Runtime,
    pub(crate) options: Options,
    pub(crate) contract: Arc<Contract>,
    /// The file, where sessions for fixed shapes are made of it.
    pub(crate) file: Option<Arc<[u8]>>,
    /// Held by the one thread that makes some.
    pub(crate) making: Mutex<()>,
    pub(crate) ready: Mutex<HashMap<Feed, Vec<Session>>>,
}

impl Forge {
    /// Makes what the runs of a shape need, unless `maker` has tensors of it with somebody, who then saw to it.
    pub(crate) fn prepare(&self, feed: &Feed, maker: &Maker) -> Result<(), String> {
        if self.file.is_none() {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.making);
        lock(&self.ready).retain(|feed, _| maker.is_fed(feed));
        if maker.is_fed(feed) {
            return Ok(());
        }
        let count = self.options.parallel_runs.max(1);
        let made = (0..count).map(|_| self.session_for(feed)).collect::<Result<Vec<_>, _>>()?;
        lock(&self.ready).insert(*feed, made.into_iter().flatten().collect());
        Ok(())
    }

    /// One that was made ready, or is made now; none where the session for any shape does.
    pub(crate) fn take(&self, feed: &Feed) -> Result<Option<Session>, String> {
        let ready = lock(&self.ready).get_mut(feed).and_then(Vec::pop);
        ready.map_or_else(|| self.session_for(feed), |session| Ok(Some(session)))
    }

    /// A session for this shape alone, where one is needed.
    fn session_for(&self, feed: &Feed) -> Result<Option<Session>, String> {
        let Some(file) = &self.file else { return Ok(None) };
        let batch = if self.contract.dynamic_batch { Side::Batch } else { Side::Fixed(1) };
        let bytes = match feed {
            Feed::Floats { .. }
                if self.contract.fixed_size.is_some() || !self.options.provider.wants_fixed_shapes() =>
            {
                return Ok(None);
            }
            Feed::Floats { width, height } => {
                let mut model = onnx::Model::parse(file)?;
                let sides = [batch, Side::Fixed(self.contract.channels), Side::Fixed(*height), Side::Fixed(*width)];
                model.fix_input(&self.contract.input, &sides)?;
                model.encode_to_vec()
            }
            Feed::Planes(frames) | Feed::Resident(frames) => device::graph(file, &self.contract, frames)?,
        };
        let builds = self.options.provider == Provider::TensorRt;
        let what = format!(
            "building a TensorRT engine for {feed}; the first time takes minutes, later it is taken from the cache"
        );
        let tell = |ended| {
            if let (true, Some(Progress(tell))) = (builds, &self.options.progress) {
                tell(&what, ended);
            }
        };
        tell(false);
        let made = session(&self.runtime, &self.options, Source::Bytes(&bytes), Some((feed, &self.contract)));
        tell(true);
        let is_ours = !matches!(feed, Feed::Floats { .. });
        let failed = |failed: SessionError| match failed {
            // What is wrong with nodes of ours is not the file's fault.
            SessionError::Ort(error) if is_ours => {
                ModelError::Graph { path: self.path.clone(), reason: on_one_line(error.message()) }.to_string()
            }
            failed => failed.of(self.options.provider, &self.path).to_string(),
        };
        Ok(Some(made.map_err(failed)?.0))
    }
}

/// What ONNX Runtime said, on one line.
pub(crate) fn on_one_line(said: &str) -> String {
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a session is made of.
pub(crate) enum Source<'a> {
    File(&'a Path),
    Bytes(&'a [u8]),
}

/// Why there is no session.
pub(crate) enum SessionError {
    Ort(ort::Error),
    Panic(String),
    Cache(io::Error),
}

impl SessionError {
    /// Whether it is the file's fault or the provider's.
    pub(crate) fn of(self, provider: Provider, path: &Path) -> ModelError {
        let start = |reason: String| {
            let remedy = provider::start_remedy(provider, &reason);
            RuntimeError::ProviderStart { provider, reason, remedy }.into()
        };
        match self {
            Self::Ort(error) if provider != Provider::Cpu && !is_about_the_file(error.code()) => {
                // Where in ONNX Runtime's sources it was noticed helps nobody here.
                let message = error.message();
                let said = message.split_once("FAIL : ").map_or(message, |(_, said)| said);
                start(said.trim().to_owned())
            }
            Self::Ort(error) => ModelError::of_file(path, error.message().to_owned()),
            Self::Panic(reason) => ModelError::of_file(path, reason),
            Self::Cache(error) => start(format!("the folder for what TensorRT builds cannot be made: {error}")),
        }
    }
}

/// How many kernels of ours are in a session, or why there are none although there could be.
pub(crate) type WithKernels = Result<usize, String>;

/// A session of `source`, for `feed` alone if one is given.
pub(crate) fn session(
    runtime: &Runtime,
    options: &Options,
    source: Source<'_>,
    feed: Option<(&Feed, &Contract)>,
) -> Result<(Session, WithKernels), SessionError> {
    let Options { provider, device_id, precision, threads, .. } = *options;
    let cache = match (&source, feed, provider) {
        (Source::Bytes(file), Some((feed, _)), Provider::TensorRt) => {
            let key = provider::tensorrt_key(file, &(feed, precision), device_id, runtime.version());
            let folder = provider::tensorrt_caches().join(key);
            fs::create_dir_all(&folder).map_err(SessionError::Cache)?;
            Some(folder)
        }
        _ => None,
    };
    // Two processes that build the same engine at once would write the same files: the second waits, and finds them.
    let lock = cache.as_ref().map(|folder| fs::File::create(folder.join(".lock")));
    let lock = lock.transpose().map_err(SessionError::Cache)?;
    if let Some(lock) = &lock {
        lock.lock().map_err(SessionError::Cache)?;
    }
    let setting = Setting {
        device_id,
        threads,
        precision,
        cuda_graph: options.cuda_graph && feed.is_some_and(|(feed, _)| !matches!(feed, Feed::Resident(_))),
        cache: cache.as_deref(),
        profile: feed.map(|(feed, contract)| feed.profile(contract)),
    };
    let mut kernels = Ok(0);
    if provider == Provider::Cpu && options.kernels == Kernels::Auto {
        match session_with_kernels(runtime, threads, &source) {
            Some(Ok((session, count))) => return Ok((session, Ok(count))),
            // If it is the file's fault, the file as it is will tell.
            Some(Err(reason)) => kernels = Err(reason),
            None => {}
        }
    }
    let provider = provider.dispatch(&setting);
    Ok((commit(runtime, threads, provider, source, None)?, kernels))
}

/// A session in which kernels of ours do what they do faster, and how many; none if there is nothing for them to do.
fn session_with_kernels(
    runtime: &Runtime,
    threads: usize,
    source: &Source<'_>,
) -> Option<Result<(Session, usize), String>> {
    /// Larger files are not worth a copy.
    const LARGEST: u64 = 256 << 20;
    let (model, count) = match source {
        Source::File(path) if fs::metadata(path).ok()?.len() <= LARGEST => {
            kernels::with_kernels(&fs::read(path).ok()?)?
        }
        Source::File(_) => return None,
        Source::Bytes(bytes) => kernels::with_kernels(bytes)?,
    };
    let made = kernels::domain(threads).map_err(SessionError::Ort);
    let made = made.and_then(|operators| commit(runtime, threads, None, Source::Bytes(&model), Some(operators)));
    Some(made.map(|session| (session, count)).map_err(|error| match error {
        SessionError::Ort(error) => on_one_line(error.message()),
        SessionError::Panic(reason) => reason,
        SessionError::Cache(error) => error.to_string(),
    }))
}

fn commit(
    runtime: &Runtime,
    threads: usize,
    provider: Option<ExecutionProviderDispatch>,
    source: Source<'_>,
    operators: Option<OperatorDomain>,
) -> Result<Session, SessionError> {
    // The binding asserts on types that it does not know; a file must never bring the process down.
    let made = panic::catch_unwind(AssertUnwindSafe(|| -> ort::Result<Session> {
        let mut builder = Session::builder(runtime.environment())?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // The arena that grows by what is asked for, see `runtime`.
            .with_env_allocators()?
            // Between runs the cores are for preprocessing, decoders and encoders, not for spinning: that costs
            // the model nothing and took a third off preprocessing (benches/README.md).
            .with_config_entry("session.force_spinning_stop", "1")?
            // For `nodes_elsewhere`.
            .with_config_entry("session.record_ep_graph_assignment_info", "1")?;
        if threads > 0 {
            builder = builder.with_intra_threads(threads)?;
        }
        if let Some(provider) = provider {
            builder = builder.with_execution_providers([provider])?;
        }
        if let Some(operators) = operators {
            builder = builder.with_operators(operators)?;
        }
        match source {
            Source::File(path) => builder.commit_from_file(path),
            Source::Bytes(bytes) => builder.commit_from_memory(bytes),
        }
    }));
    match made {
        Ok(session) => session.map_err(SessionError::Ort),
        Err(payload) => Err(SessionError::Panic(panic_message(payload.as_ref()))),
    }
}

/// What to say if a provider did not take the whole graph.
pub(crate) fn left_over(session: &Session, provider: Provider) -> Option<String> {
    if provider == Provider::Cpu {
        return None;
    }
    match runtime::nodes_elsewhere(session, provider) {
        Ok(kinds) if kinds.is_empty() => None,
        Ok(kinds) => {
            let count = kinds.iter().map(|(_, count)| count).sum::<usize>();
            let list = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ");
            Some(format!("{provider} did not take the whole graph, {count} nodes run on other providers: {list}"))
        }
        Err(error) => Some(format!("which nodes {provider} took is not known: {error}")),
    }
}

/// Whether a session that cannot be made is the file's fault rather than the provider's.
fn is_about_the_file(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::InvalidProtobuf | ErrorCode::InvalidGraph | ErrorCode::NoModel | ErrorCode::NoSuchFile)
}

impl fmt::Debug for Forge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forge").field("path", &self.path).finish_non_exhaustive()
    }
}
