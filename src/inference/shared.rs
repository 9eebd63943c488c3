//! A model with the threads that run it, shared by all who use it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::contract::Contract;
use crate::engine::{Client, Engine};
use crate::model::{Model, ModelError, Options, Running};
use crate::provider::Provider;
use crate::session::Forge;
use crate::tensors::{Feed, Maker, Tensors};

/// A running model that several detectors can share.
#[derive(Debug)]
pub struct SharedModel {
    engine: Arc<Engine<Tensors>>,
    maker: Arc<Maker>,
    forge: Arc<Forge>,
    contract: Arc<Contract>,
    pub(crate) running: Running,
    pub(crate) on_device: bool,
    parallel_runs: usize,
    /// Which numbers detectors have, see [`crate::detector::Detector::number`].
    pub(crate) numbers: Mutex<BTreeSet<usize>>,
}

impl SharedModel {
    /// Opens a model and starts the thread that runs it.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open(path: &Path, options: &Options) -> Result<Arc<Self>, ModelError> {
        let model = Model::open(path, options)?;
        let parallel_runs = options.parallel_runs.max(1);
        let (maker, forge) = (Arc::clone(model.maker()), Arc::clone(model.forge()));
        let contract = Arc::clone(model.contract());
        let (running, on_device) = (model.running().clone(), model.preprocesses_on_device());
        let others = (1..parallel_runs).map(|number| model.beside(number)).collect::<Result<Vec<_>, _>>()?;
        let runners =
            [model].into_iter().chain(others).map(|mut model| move |pictures: &mut [Tensors]| model.run(pictures));
        let engine = Engine::spawn(runners).map_err(|cause| ModelError::Read { path: path.to_path_buf(), cause })?;
        Ok(Arc::new(Self {
            engine,
            maker,
            forge,
            contract,
            running,
            on_device,
            parallel_runs,
            numbers: Mutex::default(),
        }))
    }

    /// A caller's handle to the threads that run it.
    pub(crate) fn client(&self) -> Client<Tensors> {
        self.engine.client()
    }

    /// Memory for a picture that is fed so.
    pub(crate) fn tensors(&self, feed: Feed) -> Result<Tensors, String> {
        // The threads of the engine run what others have meanwhile.
        self.forge.prepare(&feed, &self.maker)?;
        self.maker.tensors(feed).map_err(|error| error.to_string())
    }

    /// What the model is.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// What it runs on.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Whether a run has panicked, so that the model has to be opened anew.
    pub fn has_panicked(&self) -> bool {
        self.engine.has_panicked()
    }

    /// How many frames may be worth a run where it is left open. On a CPU a batch is no faster than its pictures one by
    /// one, and each of them waits for all.
    pub(crate) fn auto_batch(&self, width: usize, height: usize) -> usize {
        if self.running.provider.is_gpu() {
            (AUTO_BATCH_BYTES / (3 * width * height * size_of::<f32>()).max(1)).clamp(1, AUTO_BATCH)
        } else {
            1
        }
    }

    /// How many pictures may go through at once where `wanted` were asked for: TensorRT builds for a range of batches.
    pub(crate) fn batch(&self, wanted: usize) -> usize {
        let most = if self.running.provider == Provider::TensorRt { AUTO_BATCH } else { usize::MAX };
        self.contract.batch(wanted).min(most)
    }

    /// Frames of one stream that keep the model busy: one is made ready while others run, on a GPU some as a batch.
    pub fn busy_with(&self) -> usize {
        if self.running.provider.is_gpu() { 4 } else { 1 + self.parallel_runs }
    }
}

/// Frames that share a run on a GPU where it is left open,
pub(crate) const AUTO_BATCH: usize = 16;
/// and their tensor stays below this many bytes.
const AUTO_BATCH_BYTES: usize = 256 << 20;
