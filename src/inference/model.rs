//! An opened model: recognised, checked by a probe run, then run on batches of tensors.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ort::session::{RunOptions, Session};

use super::device_graph;
use super::error::ModelError;
use super::model_file::ModelFile;
use super::options::{BackendInfo, ModelOptions, OpenContext, Preprocessing, is_gpu};
use super::probe;
use super::session::{CreatedSession, SessionFactory, SessionRequest};
use super::tensors::{BoundTensors, InputSpec, TensorAllocator, TensorMemory, Tensors};
use crate::model::ModelSpec;
use crate::runtime::{
    DeviceInfo, Exclusive, Precision, Provider, RuntimeError, engine_cache, exclusive, library, single_line,
};

/// A recognised model with a session.
pub struct Model {
    /// For inputs of any shape.
    session: Exclusive<Session>,
    factory: Arc<SessionFactory>,
    backend: BackendInfo,
    allocator: Arc<TensorAllocator>,
    shapes: HashMap<InputSpec, ShapeState>,
    /// Value of [`TensorAllocator::released`] at the last run.
    released: usize,
    /// Index among the sessions that run concurrently.
    index: usize,
    preprocesses_on_device: bool,
    /// Run options that also shrink ONNX Runtime's memory arenas.
    shrink_options: RunOptions,
}

/// What the runs of one input shape need.
#[derive(Default)]
struct ShapeState {
    /// A session for this shape only, if the provider needs one.
    session: Option<Exclusive<Session>>,
    /// Tensors of whole batches, one entry per batch size.
    batches: Vec<BoundTensors>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { factory, backend, .. } = self;
        f.debug_struct("Model")
            .field("path", &factory.path)
            .field("spec", &factory.spec)
            .field("backend", backend)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Reads and opens `path`, see [`Model::open_file`].
    ///
    /// # Errors
    /// As [`ModelFile::read`] and [`Model::open_file`].
    pub fn open(path: &Path, options: &ModelOptions) -> Result<Self, ModelError> {
        Self::open_file(&ModelFile::read(path)?, options, &OpenContext::default())
    }

    /// Opens a model on the best execution provider that `options` allow, recognises its layout and
    /// runs it once on a small black image.
    ///
    /// # Errors
    /// Each error names the file and the remedy: ONNX Runtime or the provider is missing, the file
    /// is not ONNX, the model is of another kind.
    pub fn open_file(file: &ModelFile, options: &ModelOptions, context: &OpenContext) -> Result<Self, ModelError> {
        let mut notes = Vec::new();
        let mut first = None::<RuntimeError>;
        for provider in options.provider.candidates(options.precision) {
            match Self::open_on(*provider, file, options, context) {
                Ok(mut model) => {
                    model.backend.notes.splice(0..0, notes);
                    return Ok(model);
                }
                // The GPU or its driver can be the reason that the model does not run. An error of the
                // file is also that of the next provider.
                Err(error @ (ModelError::Run { .. } | ModelError::NotFinite { .. } | ModelError::Tensor(_)))
                    if options.provider == Provider::Auto && *provider != Provider::Cpu =>
                {
                    notes.push(error.to_string());
                }
                // Another provider can succeed. An error of the file would stay.
                Err(ModelError::Runtime(error)) => {
                    if *provider != Provider::Cpu && !error.is_expected() {
                        notes.push(error.to_string());
                    }
                    match options.provider {
                        // Of the providers that `auto` tries, the last one's error is the one to
                        // solve.
                        Provider::Auto => first = Some(error),
                        _ => {
                            first.get_or_insert(error);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let Some(error) = first else { return Err(ModelError::Tensor(notes.join("; "))) };
        if options.allow_cpu_fallback && options.provider != Provider::Cpu {
            let options =
                ModelOptions { provider: Provider::Cpu, device_id: 0, precision: Precision::Full, ..options.clone() };
            let mut model = Self::open_on(Provider::Cpu, file, &options, context)?;
            model.backend.notes.insert(0, format!("running on the CPU: {error}"));
            return Ok(model);
        }
        Err(error.into())
    }

    fn open_on(
        provider: Provider,
        file: &ModelFile,
        options: &ModelOptions,
        context: &OpenContext,
    ) -> Result<Self, ModelError> {
        if options.precision == Precision::Reduced && !provider.has_reduced_precision() {
            return Err(RuntimeError::Precision { provider, precision: options.precision }.into());
        }
        let base_dir = context.base_dir.as_deref();
        let runtime = library::load(base_dir, options.provider)?;
        let device =
            runtime.check_provider(base_dir, provider, options.device_id, options.provider == Provider::Auto)?;
        let options = ModelOptions { provider, ..options.clone() };
        let mut cache_note = None;
        let engine_cache = match provider {
            Provider::TensorRt => match engine_cache::tensorrt_cache_dir() {
                Ok(directory) => Some(directory),
                Err(error) => {
                    cache_note =
                        Some(format!("TensorRT engines are not cached and are rebuilt at each start: {error}"));
                    None
                }
            },
            _ => None,
        };
        let mut created = create_session(&runtime, &options, &device, file)?;
        let spec = {
            let _exclusive = exclusive(provider);
            probe::recognise(file.path(), options.task, provider, &options.overrides, &mut created.session)
                .map_err(|error| error.on_device(provider, &device))?
        };
        // The bytes are needed later only if input shapes need separate sessions.
        let keeps_bytes = provider.wants_fixed_shapes()
            || is_gpu(provider, &device)
            || options.preprocessing == Preprocessing::Device;
        let factory = SessionFactory {
            path: file.path().to_path_buf(),
            runtime,
            options,
            device,
            spec: Arc::new(spec),
            bytes: keeps_bytes.then(|| file.shared_bytes()),
            engine_cache,
            progress: context.progress.clone(),
            making: Mutex::default(),
            ready: Mutex::default(),
        };
        let mut model = Self::assemble(created, Arc::new(factory))?;
        model.backend.notes.extend(cache_note);
        Ok(model)
    }

    fn assemble(created: CreatedSession, factory: Arc<SessionFactory>) -> Result<Self, ModelError> {
        let CreatedSession { session, kernels, kernels_error, unassigned_nodes } = created;
        let SessionFactory { path, runtime, options, device, spec, bytes, .. } = &*factory;
        let provider = options.provider;
        let is_gpu = is_gpu(provider, device);
        let library = runtime.path().to_path_buf();
        let mut notes = Vec::new();
        notes.extend(kernels_error.map(|error| format!("the model runs without kernels of this library: {error}")));
        notes.extend(unassigned_nodes);
        let mut shrink_options = RunOptions::new().map_err(ModelError::tensor)?;
        let uses_cuda_memory = provider.uses_cuda_memory();
        let devices = if uses_cuda_memory { format!("cpu:0;gpu:{}", options.device_id) } else { "cpu:0".to_owned() };
        shrink_options.set("memory.enable_memory_arena_shrinkage", devices).map_err(ModelError::tensor)?;
        let memory = match (is_gpu, uses_cuda_memory, options.cuda_graph) {
            (false, ..) => TensorMemory::Host,
            (true, false, _) => TensorMemory::Copied,
            (true, true, false) => TensorMemory::Pinned,
            (true, true, true) => TensorMemory::Device,
        };
        let check_graph = || device_graph::check_model(bytes.as_deref().map_or(&[], Vec::as_slice));
        let preprocesses_on_device = match options.preprocessing {
            Preprocessing::Device if spec.layout().is_some() => {
                check_graph().map_err(|reason| ModelError::DeviceGraph { path: path.clone(), reason })?;
                true
            }
            Preprocessing::Auto if is_gpu && spec.layout().is_some() => {
                let refused = check_graph().err();
                notes.extend(refused.iter().map(|reason| format!("frames are preprocessed on the CPU: {reason}")));
                refused.is_none()
            }
            Preprocessing::Auto | Preprocessing::Cpu | Preprocessing::Device => false,
        };
        let allocator = TensorAllocator::new(&session, Arc::clone(spec), provider, memory, options.device_id)?;
        let backend = BackendInfo { provider, device: device.clone(), library, kernels, notes };
        Ok(Self {
            session,
            factory,
            backend,
            allocator: Arc::new(allocator),
            shapes: HashMap::new(),
            released: 0,
            index: 0,
            preprocesses_on_device,
            shrink_options,
        })
    }

    /// The same model with another session, number `index` from 1, to run concurrently with this
    /// one on the same tensors.
    ///
    /// # Errors
    /// If the session cannot be created.
    pub(crate) fn another_session(&self, file: &ModelFile, index: usize) -> Result<Self, ModelError> {
        let created = create_session(&self.factory.runtime, &self.factory.options, &self.factory.device, file)?;
        let mut model = Self::assemble(created, Arc::clone(&self.factory))?;
        model.allocator = Arc::clone(&self.allocator);
        model.index = index;
        Ok(model)
    }

    /// What was recognised.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.factory.spec
    }

    pub(crate) fn factory(&self) -> &Arc<SessionFactory> {
        &self.factory
    }

    /// What the model runs on.
    pub fn backend(&self) -> &BackendInfo {
        &self.backend
    }

    /// Whether the model's graph converts frames to its input.
    pub fn preprocesses_on_device(&self) -> bool {
        self.preprocesses_on_device
    }

    /// Allocates the tensors that runs use.
    pub fn allocator(&self) -> &Arc<TensorAllocator> {
        &self.allocator
    }

    /// Runs items of one input shape, at least one, and writes each item's results into it.
    ///
    /// The first run of a shape can take long, because the provider may need a session for it.
    ///
    /// # Errors
    /// If the run fails, or an output's shape is not the one that the probe found.
    pub fn run(&mut self, items: &mut [Tensors]) -> Result<(), ModelError> {
        let Some(input_spec) = items.first().map(Tensors::input_spec) else { return Ok(()) };
        let known = std::mem::replace(&mut self.released, self.allocator.released());
        let shrink = self.released != known;
        if shrink {
            // Frees the memory of shapes that no caller uses any more.
            self.shapes.retain(|input_spec, _| self.allocator.in_use(input_spec));
        }
        if !self.shapes.contains_key(&input_spec) {
            let state = ShapeState { session: self.factory.take(&input_spec)?, batches: Vec::new() };
            self.shapes.insert(input_spec, state);
        }
        let state = self.shapes.get_mut(&input_spec).expect("the entry was inserted above");
        let session = state.session.as_mut().unwrap_or(&mut self.session);
        let path = &self.factory.path;
        let BackendInfo { provider, device, .. } = &self.backend;
        let failed = |error: ort::Error| {
            let reason = single_line(error.message());
            ModelError::Run { path: path.clone(), reason }.on_device(*provider, device)
        };
        // A CUDA graph is recorded per batch size and stored under that number. Such runs cannot
        // shrink arenas.
        let graph_options = if self.allocator.uses_device_buffers(&input_spec) {
            let mut options = RunOptions::new().map_err(failed)?;
            if self.backend.provider.uses_cuda_memory() {
                options.set("gpu_graph_id", items.len().to_string()).map_err(failed)?;
            }
            Some(options)
        } else {
            None
        };
        let options = graph_options.as_ref().or(shrink.then_some(&self.shrink_options));
        let index = self.index;
        let run = |bound: &mut BoundTensors, session: &mut Session| {
            bound.run((index, session), &self.allocator, options).map_err(failed)
        };
        if let [item] = items
            && !self.allocator.uses_device_buffers(&input_spec)
        {
            return run(item.bound(), session);
        }
        let count = items.len();
        let position = match state.batches.iter().position(|batch| batch.count() == count) {
            Some(position) => position,
            None => {
                state.batches.push(self.allocator.bound(&input_spec, count, true).map_err(ModelError::tensor)?);
                state.batches.len() - 1
            }
        };
        let batch = &mut state.batches[position];
        for (index, item) in items.iter_mut().enumerate() {
            batch.gather(index, item.bound())?;
        }
        run(batch, session)?;
        for (index, item) in items.iter_mut().enumerate() {
            batch.scatter(index, item.bound())?;
        }
        Ok(())
    }
}

/// A session of `file` for inputs of any shape.
fn create_session(
    runtime: &library::Runtime,
    options: &ModelOptions,
    device: &DeviceInfo,
    file: &ModelFile,
) -> Result<CreatedSession, ModelError> {
    let request = SessionRequest { runtime, options, device, bytes: file.bytes(), shape: None, engine_cache: None };
    request.create().map_err(|error| error.into_model_error(options.provider, file.path(), file.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::RunOutput;
    use crate::sync::lock;

    const DEFAULT_MODEL: &str = ".fetch/models/retinaface_mnet025.onnx";

    fn open(options: &ModelOptions) -> Model {
        let file = Path::new(DEFAULT_MODEL);
        assert!(file.exists(), "{} is missing: run `make setup`", file.display());
        Model::open(file, options).unwrap()
    }

    /// `count` items with different pseudo-random inputs.
    fn items(allocator: &TensorAllocator, count: usize) -> Vec<Tensors> {
        let item = |seed: usize| {
            let mut tensors = allocator.tensors(InputSpec::Floats { width: 96, height: 64 }).unwrap();
            let value = |index: usize| ((index * 7919 + seed * 104_729) % 255) as f32 - 128.0;
            tensors.floats().unwrap().iter_mut().enumerate().for_each(|(index, number)| *number = value(index));
            tensors
        };
        (0..count).map(item).collect()
    }

    fn scores(tensors: &Tensors) -> Vec<f32> {
        match tensors.output().unwrap() {
            RunOutput::Heads(heads) => heads.values()[0].to_vec(),
            RunOutput::Candidates(_) => panic!("the input is floats"),
        }
    }

    /// Whether all values are within a millionth of each other. A batch can be computed in another
    /// order.
    fn are_close(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn bound_tensors_are_read_at_each_run() {
        let mut model = open(&ModelOptions::default());
        let mut items = items(&Arc::clone(model.allocator()), 2);
        model.run(&mut items[..1]).unwrap();
        model.run(&mut items[1..]).unwrap();
        let (first, second) = (scores(&items[0]), scores(&items[1]));
        assert!(!are_close(&first, &second), "different inputs have different scores");
        let (one, other) = items.split_at_mut(1);
        one[0].floats().unwrap().copy_from_slice(other[0].floats().unwrap());
        model.run(one).unwrap();
        assert_eq!(scores(&one[0]), second);
    }

    #[test]
    fn batch_and_single_runs_have_equal_results() {
        let mut model = open(&ModelOptions::default());
        let mut items = items(&Arc::clone(model.allocator()), 3);
        let alone = items.chunks_mut(1).map(|item| {
            model.run(item).unwrap();
            scores(&item[0])
        });
        let alone = alone.collect::<Vec<_>>();
        for count in [3, 2, 3] {
            let batch = &mut items[..count];
            batch.iter_mut().for_each(|item| item.bound().clear_outputs());
            model.run(batch).unwrap();
            assert!(batch.iter().zip(&alone).all(|(item, alone)| are_close(&scores(item), alone)));
        }
    }

    #[test]
    fn device_copies_do_not_change_results() {
        let mut model = open(&ModelOptions::default());
        let mut plain = items(&Arc::clone(model.allocator()), 2);
        plain.chunks_mut(1).for_each(|item| model.run(item).unwrap());
        let mut copying = open(&ModelOptions::default());
        let allocator =
            TensorAllocator::new(&copying.session, Arc::clone(copying.spec()), Provider::Cpu, TensorMemory::Host, 0)
                .unwrap();
        copying.allocator = Arc::new(allocator.copying());
        let mut copied = items(&Arc::clone(copying.allocator()), 2);
        for _ in 0..2 {
            copied.iter_mut().for_each(|item| item.bound().clear_outputs());
            copied.chunks_mut(1).for_each(|item| copying.run(item).unwrap());
            assert!(plain.iter().zip(&copied).all(|(one, other)| scores(one) == scores(other)));
        }
    }

    #[test]
    fn session_for_a_shape_is_created_once() {
        let mut model = open(&ModelOptions { preprocessing: Preprocessing::Device, ..ModelOptions::default() });
        let (allocator, factory) = (Arc::clone(model.allocator()), Arc::clone(model.factory()));
        let letterbox = crate::geometry::Letterbox::new((320, 180), crate::geometry::InputSize::Longest(160));
        let info = crate::image::ImageInfo::new(crate::image::PixelFormat::Nv12, 320, 180);
        let input_spec = InputSpec::Planes(device_graph::FrameSpec::new(&info, letterbox));
        factory.prepare(&input_spec, &allocator).unwrap();
        assert_eq!(lock(&factory.ready)[&input_spec].len(), 1);
        let mut items = [allocator.tensors(input_spec).unwrap()];
        factory.prepare(&input_spec, &allocator).unwrap();
        model.run(&mut items).unwrap();
        assert_eq!(lock(&factory.ready)[&input_spec].len(), 0, "the run took the session, and no other was created");
        drop(items);
        let other = InputSpec::Floats { width: 64, height: 64 };
        factory.prepare(&other, &allocator).unwrap();
        assert!(!lock(&factory.ready).contains_key(&input_spec), "unused sessions are dropped");
    }

    #[test]
    fn shape_state_is_dropped_with_its_last_tensors() {
        let mut model = open(&ModelOptions { preprocessing: Preprocessing::Device, ..ModelOptions::default() });
        let allocator = Arc::clone(model.allocator());
        let input_spec = |width| InputSpec::Floats { width, height: 64 };
        let [mut small, mut large] = [64, 128].map(|width| [allocator.tensors(input_spec(width)).unwrap()]);
        model.run(&mut small).unwrap();
        model.run(&mut large).unwrap();
        assert_eq!(model.shapes.len(), 2);
        drop(small);
        model.run(&mut large).unwrap();
        assert_eq!(model.shapes.keys().copied().collect::<Vec<_>>(), [input_spec(128)]);
    }

    #[test]
    fn additional_session_accepts_same_tensors() {
        let mut first = open(&ModelOptions { threads: 1, ..ModelOptions::default() });
        let mut second = first.another_session(&ModelFile::read(Path::new(DEFAULT_MODEL)).unwrap(), 1).unwrap();
        let mut items = items(&Arc::clone(first.allocator()), 2);
        for item in items.chunks_mut(1) {
            first.run(item).unwrap();
            let expected = scores(&item[0]);
            item[0].bound().clear_outputs();
            second.run(item).unwrap();
            assert_eq!(scores(&item[0]), expected);
        }
    }

    #[test]
    fn reduced_precision_on_cpu_is_an_error_with_remedy() {
        let options =
            ModelOptions { provider: Provider::Cpu, precision: Precision::Reduced, ..ModelOptions::default() };
        let error = Model::open(Path::new(DEFAULT_MODEL), &options).unwrap_err().to_string();
        assert!(error.contains("precision=reduced") && error.contains("openvino"), "{error}");
    }
}
