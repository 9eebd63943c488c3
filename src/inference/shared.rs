//! A model with the threads that run it, shared by all of its callers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::engine::{Client, Engine};
use super::error::ModelError;
use super::model::Model;
use super::model_file::ModelFile;
use super::options::{AUTO_BATCH, BackendInfo, ModelOptions, OpenContext};
use super::session::SessionFactory;
use super::tensors::{InputSpec, TensorAllocator, Tensors};
use crate::model::ModelSpec;
use crate::runtime::Provider;
use crate::sync::lock;

/// Maximum size of the input of an automatic batch on a GPU, in bytes.
const AUTO_BATCH_BYTES: usize = 256 << 20;

/// A running model that several detectors or landmarkers can share.
///
/// ```no_run
/// use std::path::Path;
/// use retinaface::{Detector, ModelOptions, SharedModel};
/// let model = SharedModel::open(Path::new("retinaface_mnet025.onnx"), &ModelOptions::default())?;
/// let (entrance, exit) = (Detector::new(&model), Detector::new(&model));
/// # Ok::<(), retinaface::ModelError>(())
/// ```
#[derive(Debug)]
pub struct SharedModel {
    engine: Arc<Engine<Tensors>>,
    allocator: Arc<TensorAllocator>,
    factory: Arc<SessionFactory>,
    spec: Arc<ModelSpec>,
    backend: BackendInfo,
    preprocesses_on_device: bool,
    parallel_runs: usize,
    /// Numbers that are in use, see [`SharedModel::take_number`].
    numbers: Mutex<BTreeSet<usize>>,
}

impl SharedModel {
    /// Reads and opens a model and starts the threads that run it.
    ///
    /// # Errors
    /// As [`SharedModel::open_file`], and if the file cannot be read.
    pub fn open(path: &Path, options: &ModelOptions) -> Result<Arc<Self>, ModelError> {
        Self::open_file(&ModelFile::read(path)?, options, &OpenContext::default())
    }

    /// Opens a model that was read before and starts the threads that run it.
    ///
    /// # Errors
    /// As [`Model::open_file`], and if a thread cannot be started.
    pub fn open_file(file: &ModelFile, options: &ModelOptions, context: &OpenContext) -> Result<Arc<Self>, ModelError> {
        let model = Model::open_file(file, options, context)?;
        let parallel_runs = options.parallel_runs.max(1);
        let (allocator, factory) = (Arc::clone(model.allocator()), Arc::clone(model.factory()));
        let spec = Arc::clone(model.spec());
        let (backend, preprocesses_on_device) = (model.backend().clone(), model.preprocesses_on_device());
        let others =
            (1..parallel_runs).map(|index| model.another_session(file, index)).collect::<Result<Vec<_>, _>>()?;
        let runners = [model].into_iter().chain(others).map(|mut model| move |items: &mut [Tensors]| model.run(items));
        let engine = Engine::spawn(runners).map_err(ModelError::Thread)?;
        Ok(Arc::new(Self {
            engine,
            allocator,
            factory,
            spec,
            backend,
            preprocesses_on_device,
            parallel_runs,
            numbers: Mutex::default(),
        }))
    }

    /// A caller's handle to the batching engine.
    pub(crate) fn client(&self) -> Client<Tensors> {
        self.engine.client()
    }

    /// Tensors of one item of that input shape.
    pub(crate) fn tensors(&self, input_spec: InputSpec) -> Result<Tensors, ModelError> {
        // This runs on the caller's thread, so that the engine's threads continue with other
        // shapes.
        self.factory.prepare(&input_spec, &self.allocator)?;
        self.allocator.tensors(input_spec)
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What the model runs on.
    pub fn backend(&self) -> &BackendInfo {
        &self.backend
    }

    /// Whether a run has panicked, so that the model must be opened again.
    pub fn has_panicked(&self) -> bool {
        self.engine.has_panicked()
    }

    /// Whether the model's graph converts frames to its input.
    pub(crate) fn preprocesses_on_device(&self) -> bool {
        self.preprocesses_on_device
    }

    /// The smallest number, from 0, that no other holder has. Streams with an inference interval
    /// use it to infer on different frames.
    pub(crate) fn take_number(&self) -> usize {
        let mut numbers = lock(&self.numbers);
        let free = (0..).find(|number| !numbers.contains(number)).expect("the set is finite");
        numbers.insert(free);
        free
    }

    pub(crate) fn release_number(&self, number: usize) {
        lock(&self.numbers).remove(&number);
    }

    /// The automatic batch size for an input of `width` x `height`. On a CPU a batch is not faster
    /// than single runs, and each item would wait for the whole batch.
    pub(crate) fn auto_batch(&self, width: usize, height: usize) -> usize {
        if self.backend.is_gpu() {
            (AUTO_BATCH_BYTES / (3 * width * height * size_of::<f32>()).max(1)).clamp(1, AUTO_BATCH)
        } else {
            1
        }
    }

    /// Maximum number of items in a run for a requested number. A TensorRT engine is built for a
    /// range of batch sizes.
    pub(crate) fn batch(&self, requested: usize) -> usize {
        let max = if self.backend.provider == Provider::TensorRt { AUTO_BATCH } else { usize::MAX };
        self.spec.batch(requested).min(max)
    }

    /// Number of frames in flight that keep the model busy: one is preprocessed while others run,
    /// on a GPU in batches.
    pub fn default_inflight(&self) -> usize {
        if self.backend.is_gpu() { 4 } else { 1 + self.parallel_runs }
    }
}
