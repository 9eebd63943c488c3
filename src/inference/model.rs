//! An ONNX file: its layout recognised and checked when it is opened, then run.
//!
//! A layout is recognised by the shapes that a small probe run gives, never by tensor names: the names
//! differ from export to export, and many exports declare no shapes at all.

mod error;
mod probe;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use ort::session::{RunOptions, Session};

pub use error::ModelError;
pub use probe::Purpose;

use crate::contract::Contract;
use crate::device;
use crate::overrides::Overrides;
use crate::provider::{Precision, Provider};
use crate::runtime::{self, RuntimeError};
use crate::session::{Forge, Source, WithKernels, left_over, session};
use crate::tensors::{Bound, Feed, Maker, Place, Tensors};

type Tell = dyn Fn(&str, bool) + Send + Sync;

/// Told of what takes long: what is being done, and whether it has ended.
#[derive(Clone)]
pub struct Progress(pub(crate) Arc<Tell>);

impl Progress {
    /// Calls `tell` at the start and at the end of what takes long.
    pub fn new(tell: impl Fn(&str, bool) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Where a frame becomes a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preprocessing {
    /// On the device where the model runs on a GPU, else on the CPU.
    #[default]
    Auto,
    /// On the caller's thread.
    Cpu,
    /// In the model's graph.
    Device,
}

/// What does the convolutions on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// Kernels of this library where they are faster, else ONNX Runtime's: on x86-64 with AVX2, for 3 x 3 convolutions and,
    /// with AVX-512, for a MobileNet's first layers. Results differ by rounding.
    #[default]
    Auto,
    /// ONNX Runtime's alone.
    Runtime,
}

impl Kernels {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Runtime];

    /// The name by which users know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Runtime => "runtime",
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kernels {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kernels| kernels.name() == name)
            .ok_or_else(|| format!("no kernels are called {name}; there are auto and runtime"))
    }
}

/// How a model is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What it runs on.
    pub provider: Provider,
    /// Which GPU, from 0.
    pub device_id: u32,
    /// In which arithmetic.
    pub precision: Precision,
    /// Take the CPU where the provider is not there, instead of failing.
    pub allow_cpu_fallback: bool,
    /// Where frames become tensors.
    pub preprocessing: Preprocessing,
    /// Replay a recorded CUDA graph for each shape instead of launching kernel after kernel.
    pub cuda_graph: bool,
    /// What does the convolutions on the CPU.
    pub kernels: Kernels,
    /// Threads of one run; 0 leaves it to ONNX Runtime, which takes one a physical core.
    pub threads: usize,
    /// Runs at the same time, each on a session of its own; 0 counts as 1.
    pub parallel_runs: usize,
    /// What the model is opened as.
    pub purpose: Purpose,
    /// What is said of it in place of what its layout says.
    pub overrides: Overrides,
    /// Folder of the plugin or program that asks, for [`crate::locate`].
    pub home: Option<PathBuf>,
    /// Who wants to know of what takes long.
    pub progress: Option<Progress>,
}

/// What a model runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The provider; never [`Provider::Auto`].
    pub provider: Provider,
    /// ONNX Runtime's library.
    pub library: PathBuf,
    /// How many kernels of this library do some of its convolutions.
    pub kernels: usize,
    /// What a user should know: why a better provider was not taken, which nodes run elsewhere.
    pub notes: Vec<String>,
}

impl Running {
    /// Whether it runs on a GPU.
    pub fn is_gpu(&self) -> bool {
        self.provider.is_gpu()
    }
}

/// A model that was recognised and can be run.
pub struct Model {
    /// For inputs of any size.
    session: Session,
    forge: Arc<Forge>,
    running: Running,
    maker: Arc<Maker>,
    forms: HashMap<Feed, Form>,
    /// How many shapes had gone when that was last looked at.
    gone: usize,
    /// Which it is of the sessions that run side by side.
    number: usize,
    on_device: bool,
    shrinking: RunOptions,
}

/// What the runs of one shape need.
#[derive(Default)]
struct Form {
    /// A session of its own, where the provider wants one.
    session: Option<Session>,
    /// Tensors for several pictures at once, one for each number of them.
    batches: Vec<Bound>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { forge, running, .. } = self;
        let mut model = f.debug_struct("Model");
        model
            .field("path", &forge.path)
            .field("contract", &forge.contract)
            .field("running", running)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Opens `path` on the best of what `options` allow, recognises its layout and runs it once on a small black picture.
    ///
    /// # Errors
    /// Each with the file and a remedy: ONNX Runtime missing, provider missing, file missing, not ONNX, another kind of
    /// model.
    pub fn open(path: &Path, options: &Options) -> Result<Self, ModelError> {
        let read = |cause| ModelError::Read { path: path.to_path_buf(), cause };
        let metadata = fs::metadata(path).map_err(read)?;
        if metadata.is_dir() {
            return Err(read(io::ErrorKind::IsADirectory.into()));
        }
        // Opening a pipe waits for who writes it, and some devices never end.
        if !metadata.is_file() {
            return Err(read(io::Error::other("it is no regular file")));
        }
        if metadata.len() > error::LARGEST {
            return Err(ModelError::TooLarge { path: path.to_path_buf(), bytes: metadata.len() });
        }
        let mut notes = Vec::new();
        let mut first = None::<RuntimeError>;
        for provider in options.provider.candidates() {
            match Self::open_on(*provider, path, options) {
                Ok(mut model) => {
                    model.running.notes.splice(0..0, notes);
                    return Ok(model);
                }
                // Another provider may do what this one cannot; what is wrong with the file stays wrong.
                Err(ModelError::Runtime(error)) => {
                    if *provider != Provider::Cpu && !matches!(error, RuntimeError::Provider { .. }) {
                        notes.push(error.to_string());
                    }
                    match options.provider {
                        // What is wrong with the last resort is what stands in the way.
                        Provider::Auto => first = Some(error),
                        _ => {
                            first.get_or_insert(error);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let error = first.expect("there is at least one candidate");
        if options.allow_cpu_fallback && options.provider != Provider::Cpu {
            let options = Options { provider: Provider::Cpu, precision: Precision::Full, ..options.clone() };
            let mut model = Self::open_on(Provider::Cpu, path, &options)?;
            model.running.notes.insert(0, format!("running on the CPU: {error}"));
            return Ok(model);
        }
        Err(error.into())
    }

    fn open_on(provider: Provider, path: &Path, options: &Options) -> Result<Self, ModelError> {
        if provider == Provider::Cpu && options.precision == Precision::Reduced {
            return Err(RuntimeError::Precision { precision: options.precision }.into());
        }
        let runtime = runtime::load(options.home.as_deref(), options.provider)?;
        if !provider.is_built_in() {
            return Err(RuntimeError::Provider { provider, library: runtime.path().to_path_buf() }.into());
        }
        let read = |cause| ModelError::Read { path: path.to_path_buf(), cause };
        // Read once, so that all sessions are of the same file even if it is replaced meanwhile.
        let file = if provider.wants_fixed_shapes() || options.preprocessing == Preprocessing::Device {
            Some(fs::read(path).map_err(read)?.into())
        } else {
            None
        };
        if provider.is_gpu() {
            runtime::preload_nvidia(runtime.path());
        }
        let options = Options { provider, ..options.clone() };
        let (mut session, kernels) =
            session(&runtime, &options, Source::File(path), None).map_err(|failed| failed.of(provider, path))?;
        let contract = probe::recognise(path, options.purpose, provider, &options.overrides, &mut session)?;
        let (path, contract) = (path.to_path_buf(), Arc::new(contract));
        let forge = Forge { path, runtime, options, contract, file, making: Mutex::default(), ready: Mutex::default() };
        Self::assemble(session, kernels, Arc::new(forge))
    }

    fn assemble(session: Session, kernels: WithKernels, forge: Arc<Forge>) -> Result<Self, ModelError> {
        let Forge { path, runtime, options, contract, .. } = &*forge;
        let run = |error: ort::Error| ModelError::Run { path: path.clone(), reason: error.to_string() };
        let provider = options.provider;
        let library = runtime.path().to_path_buf();
        let notes = kernels.as_ref().err().map(|why| format!("it runs without kernels of this library: {why}"));
        let notes = notes.into_iter().collect();
        let mut running = Running { provider, library, kernels: kernels.unwrap_or(0), notes };
        if let Some(note) = left_over(&session, provider) {
            running.notes.push(note);
        }
        let mut shrinking = RunOptions::new().map_err(run)?;
        let devices = if provider.is_gpu() { format!("cpu:0;gpu:{}", options.device_id) } else { "cpu:0".to_owned() };
        shrinking.set("memory.enable_memory_arena_shrinkage", devices).map_err(run)?;
        let place = match (provider.is_gpu(), options.cuda_graph) {
            (false, _) => Place::Host,
            (true, false) => Place::Pinned,
            (true, true) => Place::Device,
        };
        let on_device = match options.preprocessing {
            Preprocessing::Cpu => false,
            Preprocessing::Device if contract.layout().is_some() => {
                let graph = |reason| ModelError::Graph { path: path.clone(), reason };
                device::takes(forge.file.as_deref().unwrap_or_default()).map_err(graph)?;
                true
            }
            Preprocessing::Auto if provider.is_gpu() && contract.layout().is_some() => {
                let refused = device::takes(forge.file.as_deref().unwrap_or_default()).err();
                running.notes.extend(refused.iter().map(|why| format!("frames become tensors on the CPU: {why}")));
                refused.is_none()
            }
            Preprocessing::Auto | Preprocessing::Device => false,
        };
        let maker = Maker::new(&session, Arc::clone(contract), place, options.device_id).map_err(run)?;
        Ok(Self {
            session,
            forge,
            running,
            maker: Arc::new(maker),
            forms: HashMap::new(),
            gone: 0,
            number: 0,
            on_device,
            shrinking,
        })
    }

    /// The same model once more, number `number` from 1, to run beside this one: it takes the same tensors.
    ///
    /// # Errors
    /// If another session cannot be made.
    pub fn beside(&self, number: usize) -> Result<Self, ModelError> {
        let Forge { path, runtime, options, file, .. } = &*self.forge;
        let source = file.as_deref().map_or(Source::File(path), Source::Bytes);
        let (session, kernels) =
            session(runtime, options, source, None).map_err(|failed| failed.of(options.provider, path))?;
        let mut model = Self::assemble(session, kernels, Arc::clone(&self.forge))?;
        model.maker = Arc::clone(&self.maker);
        model.number = number;
        Ok(model)
    }

    /// What was recognised.
    pub fn contract(&self) -> &Arc<Contract> {
        &self.forge.contract
    }

    pub(crate) fn forge(&self) -> &Arc<Forge> {
        &self.forge
    }

    /// What it runs on.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Whether frames are to become tensors in the model's graph.
    pub fn preprocesses_on_device(&self) -> bool {
        self.on_device
    }

    /// Makes the tensors that runs take.
    pub fn maker(&self) -> &Arc<Maker> {
        &self.maker
    }

    /// Runs pictures that are all fed alike, at least one, and leaves each one's results in it.
    ///
    /// The first run of a shape may take long: a session for it may have to be made.
    ///
    /// # Errors
    /// If the run fails or its outputs have another shape than the probe's had.
    pub fn run(&mut self, pictures: &mut [Tensors]) -> Result<(), String> {
        let Some(feed) = pictures.first().map(Tensors::feed) else { return Ok(()) };
        let known = std::mem::replace(&mut self.gone, self.maker.gone());
        let gone = self.gone != known;
        if gone {
            // What nobody feeds any more gives its memory back.
            self.forms.retain(|feed, _| self.maker.is_fed(feed));
        }
        if !self.forms.contains_key(&feed) {
            let form = Form { session: self.forge.take(&feed)?, batches: Vec::new() };
            self.forms.insert(feed, form);
        }
        let form = self.forms.get_mut(&feed).expect("it was made above");
        let session = form.session.as_mut().unwrap_or(&mut self.session);
        // A CUDA graph is recorded for each number of pictures, under that number; it cannot be asked to shrink.
        let recorded = if self.maker.runs_in_place(&feed) {
            let mut options = RunOptions::new().map_err(|error| error.to_string())?;
            if self.running.provider.is_gpu() {
                options.set("gpu_graph_id", pictures.len().to_string()).map_err(|error| error.to_string())?;
            }
            Some(options)
        } else {
            None
        };
        let options = recorded.as_ref().or(gone.then_some(&self.shrinking));
        let number = self.number;
        let run = |bound: &mut Bound, session: &mut Session| {
            bound.run((number, session), &self.maker, options).map_err(|error| error.to_string())
        };
        if let [picture] = pictures
            && !self.maker.runs_in_place(&feed)
        {
            return run(picture.bound(), session);
        }
        let count = pictures.len();
        let at = match form.batches.iter().position(|batch| batch.count() == count) {
            Some(at) => at,
            None => {
                form.batches.push(self.maker.bound(&feed, count, true).map_err(|error| error.to_string())?);
                form.batches.len() - 1
            }
        };
        let batch = &mut form.batches[at];
        for (index, picture) in pictures.iter_mut().enumerate() {
            batch.gather(index, picture.bound())?;
        }
        run(batch, session)?;
        for (index, picture) in pictures.iter_mut().enumerate() {
            batch.scatter(index, picture.bound())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::lock;

    fn open(options: &Options) -> Model {
        let file = Path::new(".fetch/models/retinaface_mnet025.onnx");
        assert!(file.exists(), "{} is not there: run `make setup`", file.display());
        Model::open(file, options).unwrap()
    }

    /// Pictures of noise, each of its own.
    fn pictures(maker: &Maker, count: usize) -> Vec<Tensors> {
        let picture = |seed: usize| {
            let mut tensors = maker.tensors(Feed::Floats { width: 96, height: 64 }).unwrap();
            let value = |index: usize| ((index * 7919 + seed * 104_729) % 255) as f32 - 128.0;
            tensors.floats().unwrap().iter_mut().enumerate().for_each(|(index, number)| *number = value(index));
            tensors
        };
        (0..count).map(picture).collect()
    }

    fn scores(tensors: &Tensors) -> Vec<f32> {
        match tensors.found().unwrap() {
            crate::tensors::Found::Heads(heads) => heads.values()[0].to_vec(),
            crate::tensors::Found::Candidates(_) => panic!("floats were fed"),
        }
    }

    /// Whether all numbers are within a millionth of each other: batches may be computed in another order.
    fn alike(some: &[f32], others: &[f32]) -> bool {
        some.len() == others.len() && some.iter().zip(others).all(|(one, other)| (one - other).abs() < 1e-6)
    }

    #[test]
    fn tensors_are_bound_once_and_read_anew_at_each_run() {
        let mut model = open(&Options::default());
        let mut pictures = pictures(&Arc::clone(model.maker()), 2);
        model.run(&mut pictures[..1]).unwrap();
        model.run(&mut pictures[1..]).unwrap();
        let (first, second) = (scores(&pictures[0]), scores(&pictures[1]));
        assert!(!alike(&first, &second), "other pictures have other scores");
        let (one, other) = pictures.split_at_mut(1);
        one[0].floats().unwrap().copy_from_slice(other[0].floats().unwrap());
        model.run(one).unwrap();
        assert_eq!(scores(&one[0]), second);
    }

    #[test]
    fn a_batch_gives_each_picture_what_it_gets_alone() {
        let mut model = open(&Options::default());
        let mut pictures = pictures(&Arc::clone(model.maker()), 3);
        let alone = pictures.chunks_mut(1).map(|picture| {
            model.run(picture).unwrap();
            scores(&picture[0])
        });
        let alone = alone.collect::<Vec<_>>();
        for count in [3, 2, 3] {
            let batch = &mut pictures[..count];
            batch.iter_mut().for_each(|picture| picture.bound().clear_outputs());
            model.run(batch).unwrap();
            assert!(batch.iter().zip(&alone).all(|(picture, alone)| alike(&scores(picture), alone)));
        }
    }

    #[test]
    fn tensors_that_are_copied_before_and_after_each_run_give_the_same() {
        let mut model = open(&Options::default());
        let mut plain = pictures(&Arc::clone(model.maker()), 2);
        plain.chunks_mut(1).for_each(|picture| model.run(picture).unwrap());
        let mut copying = open(&Options::default());
        let maker = Maker::new(&copying.session, Arc::clone(copying.contract()), Place::Host, 0).unwrap();
        copying.maker = Arc::new(maker.copying());
        let mut copied = pictures(&Arc::clone(copying.maker()), 2);
        for _ in 0..2 {
            copied.iter_mut().for_each(|picture| picture.bound().clear_outputs());
            copied.chunks_mut(1).for_each(|picture| copying.run(picture).unwrap());
            assert!(plain.iter().zip(&copied).all(|(one, other)| scores(one) == scores(other)));
        }
    }

    #[test]
    fn a_session_for_a_shape_is_made_where_it_is_first_needed_and_once() {
        let mut model = open(&Options { preprocessing: Preprocessing::Device, ..Options::default() });
        let (maker, forge) = (Arc::clone(model.maker()), Arc::clone(model.forge()));
        let letterbox = crate::letterbox::Letterbox::new(320, 180, crate::letterbox::InputSize::Longest(160));
        let info = crate::image::ImageInfo::new(crate::image::PixelFormat::Nv12, 320, 180);
        let feed = Feed::Planes(device::Frames::new(&info, letterbox));
        forge.prepare(&feed, &maker).unwrap();
        assert_eq!(lock(&forge.ready)[&feed].len(), 1);
        let mut pictures = [maker.tensors(feed).unwrap()];
        forge.prepare(&feed, &maker).unwrap();
        model.run(&mut pictures).unwrap();
        assert_eq!(lock(&forge.ready)[&feed].len(), 0, "it was taken, and no other was made");
        drop(pictures);
        let other = Feed::Floats { width: 64, height: 64 };
        forge.prepare(&other, &maker).unwrap();
        assert!(!lock(&forge.ready).contains_key(&feed), "what nobody needs is forgotten");
    }

    #[test]
    fn what_a_shape_needs_goes_with_the_last_of_its_tensors() {
        let mut model = open(&Options { preprocessing: Preprocessing::Device, ..Options::default() });
        let maker = Arc::clone(model.maker());
        let feed = |width| Feed::Floats { width, height: 64 };
        let [mut small, mut large] = [64, 128].map(|width| [maker.tensors(feed(width)).unwrap()]);
        model.run(&mut small).unwrap();
        model.run(&mut large).unwrap();
        assert_eq!(model.forms.len(), 2);
        drop(small);
        model.run(&mut large).unwrap();
        assert_eq!(model.forms.keys().copied().collect::<Vec<_>>(), [feed(128)]);
    }

    #[test]
    fn a_model_beside_another_takes_the_same_tensors() {
        let mut first = open(&Options { threads: 1, ..Options::default() });
        let mut second = first.beside(1).unwrap();
        let mut pictures = pictures(&Arc::clone(first.maker()), 2);
        for picture in pictures.chunks_mut(1) {
            first.run(picture).unwrap();
            let expected = scores(&picture[0]);
            picture[0].bound().clear_outputs();
            second.run(picture).unwrap();
            assert_eq!(scores(&picture[0]), expected);
        }
    }

    #[test]
    fn nodes_that_a_provider_left_to_others_are_counted_by_kind() {
        let model = open(&Options::default());
        assert_eq!(left_over(&model.session, Provider::Cpu), None);
        // As if CUDA had been asked for and had taken none of it.
        let note = left_over(&model.session, Provider::Cuda).unwrap();
        assert!(note.starts_with("cuda did not take the whole graph") && note.contains(" Conv"), "{note}");
    }

    #[test]
    fn a_precision_that_the_cpu_has_not_is_an_error_with_a_remedy() {
        let options = Options { provider: Provider::Cpu, precision: Precision::Reduced, ..Options::default() };
        let error = Model::open(Path::new(".fetch/models/retinaface_mnet025.onnx"), &options).unwrap_err().to_string();
        assert!(error.contains("precision=reduced") && error.contains("openvino"), "{error}");
    }
}
