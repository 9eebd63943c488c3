//! An ONNX file: its layout recognised and checked when it is opened, then run.
//!
//! A layout is recognised by the shapes that a small probe run gives, never by tensor names: the names
//! differ from export to export, and many exports declare no shapes at all.

use std::fmt;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use ort::ErrorCode;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef, ValueType};

use crate::decode::Heads;
use crate::letterbox::{INPUT_MULTIPLE, InputSize};
use crate::preprocess::{ChannelOrder, Normalization};
use crate::priors;
use crate::runtime::{self, Provider, RuntimeError, panic_message};

/// What biubug6's training did to its pictures (`data/data_augment.py`, `rgb_means`).
const BIUBUG6: Normalization = Normalization { order: ChannelOrder::Bgr, mean: [104.0, 117.0, 123.0], scale: 1.0 };

/// Width and height of the probe, for models that take any.
const PROBE: (usize, usize) = (2 * INPUT_MULTIPLE, INPUT_MULTIPLE);

/// What a user can do about a model that is not recognised.
const EXPECTED: &str = "expected RetinaFace's three outputs, in any order: boxes [N, A, 4], scores [N, A, 2] and \
                        landmarks [N, A, 10], where A is 2 a cell at strides 8, 16 and 32";

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// ONNX Runtime itself cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The file cannot be read.
    #[error("model file {path} cannot be read: {cause}; set model-file to an ONNX file")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is not ONNX, or it is damaged.
    #[error("model file {path} is not an ONNX file that can be loaded (truncated or of another format?): {reason}")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// The input is not one that this crate can fill.
    #[error(
        "model file {path}: input {input} cannot be fed; expected one float32 picture [N, 3, height, width], \
         with N dynamic or 1 and height and width both dynamic or both fixed"
    )]
    Input {
        /// The file.
        path: PathBuf,
        /// The inputs found.
        input: String,
    },
    /// The outputs are of another kind of model.
    #[error("model file {path} is not a detector that is known here: its outputs are {outputs}; {EXPECTED} ({detail})")]
    Outputs {
        /// The file.
        path: PathBuf,
        /// The outputs found, with their shapes.
        outputs: String,
        /// Why they do not fit.
        detail: String,
    },
    /// The model loads but does not run.
    #[error("model file {path} does not run: {reason}")]
    Run {
        /// The file.
        path: PathBuf,
        /// What ONNX Runtime said.
        reason: String,
    },
}

/// How a model is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What it runs on.
    pub provider: Provider,
    /// Threads of one run; 0 leaves it to ONNX Runtime, which takes one a physical core.
    pub threads: usize,
    /// Folder of the plugin or program that asks, for [`crate::locate`].
    pub home: Option<PathBuf>,
}

/// What is known of a model once it is open.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// The family's name, for people.
    pub family: &'static str,
    /// Name of the input.
    pub input: String,
    /// Width and height, for a model that takes one size only.
    pub fixed_size: Option<(usize, usize)>,
    /// Whether several pictures can go through at once.
    pub dynamic_batch: bool,
    /// Names of the boxes', scores' and landmarks' outputs.
    pub outputs: [String; 3],
    /// What is done to the pixels.
    pub normalization: Normalization,
}

impl Contract {
    /// The input size to use where `wanted` was asked for.
    pub fn input_size(&self, wanted: InputSize) -> InputSize {
        self.fixed_size.map_or(wanted, |(width, height)| InputSize::Fixed(width, height))
    }

    /// How many pictures may go through at once where `wanted` were asked for.
    pub fn batch(&self, wanted: usize) -> usize {
        if self.dynamic_batch { wanted.max(1) } else { 1 }
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, input, fixed_size, dynamic_batch, outputs: [boxes, scores, landmarks], normalization } =
            self;
        let Normalization { order, mean, scale } = normalization;
        let order = match order {
            ChannelOrder::Rgb => "RGB",
            ChannelOrder::Bgr => "BGR",
        };
        let batch = if *dynamic_batch { "N" } else { "1" };
        let size = match fixed_size {
            Some((width, height)) => format!("{height}, {width}"),
            None => "height, width".to_owned(),
        };
        writeln!(f, "layout:     {family}")?;
        writeln!(f, "input:      {input} [{batch}, 3, {size}] float32, ({order} - {mean:?}) * {scale}")?;
        writeln!(f, "boxes:      {boxes} [{batch}, A, 4]")?;
        writeln!(f, "scores:     {scores} [{batch}, A, 2], probabilities")?;
        writeln!(f, "landmarks:  {landmarks} [{batch}, A, 10]")?;
        write!(f, "strides:   ")?;
        for level in priors::LEVELS {
            write!(f, " {} (priors of {} and {} px)", level.stride, level.sizes[0], level.sizes[1])?;
        }
        Ok(())
    }
}

/// A model that was recognised and can be run.
pub struct Model {
    path: PathBuf,
    session: Session,
    contract: Contract,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("path", &self.path).field("contract", &self.contract).finish_non_exhaustive()
    }
}

impl Model {
    /// Opens `path`, recognises its layout and runs it once on a small grey picture.
    ///
    /// # Errors
    /// Each with the file and a remedy: ONNX Runtime missing, file missing, not ONNX, another kind of model.
    pub fn open(path: &Path, options: &Options) -> Result<Self, ModelError> {
        let path = path.to_path_buf();
        let read = |cause| ModelError::Read { path: path.clone(), cause };
        let file = fs::File::open(&path).map_err(read)?;
        if file.metadata().map_err(read)?.is_dir() {
            return Err(read(io::ErrorKind::IsADirectory.into()));
        }
        let environment = runtime::environment(options.home.as_deref())?;
        let provider = options.provider.dispatch()?;
        let provider_is_cpu = provider.is_none();
        // The binding asserts on types that it does not know; a file must never bring the process down.
        let session = panic::catch_unwind(AssertUnwindSafe(|| -> ort::Result<Session> {
            let mut builder = Session::builder(&environment)?
                .with_optimization_level(GraphOptimizationLevel::All)?
                // Between runs the cores are for preprocessing, decoders and encoders, not for spinning: that costs
                // the model nothing and took a third off preprocessing (benches/README.md).
                .with_config_entry("session.force_spinning_stop", "1")?;
            if options.threads > 0 {
                builder = builder.with_intra_threads(options.threads)?;
            }
            if let Some(provider) = provider {
                builder = builder.with_execution_providers([provider])?;
            }
            builder.commit_from_file(&path)
        }));
        let session = match session {
            Ok(Ok(session)) => session,
            Ok(Err(error)) if !provider_is_cpu && !is_about_the_file(error.code()) => {
                let provider = options.provider;
                return Err(RuntimeError::ProviderStart { provider, reason: error.message().to_owned() }.into());
            }
            Ok(Err(error)) => return Err(ModelError::NotOnnx { path, reason: error.message().to_owned() }),
            Err(payload) => return Err(ModelError::NotOnnx { path, reason: panic_message(payload.as_ref()) }),
        };
        Self::recognise(path, session)
    }

    fn recognise(path: PathBuf, mut session: Session) -> Result<Self, ModelError> {
        let Some(input) = Input::of(&session) else {
            return Err(ModelError::Input { path, input: describe(session.inputs()) });
        };
        let (width, height) = input.fixed_size.unwrap_or(PROBE);
        let probe = vec![0.0; 3 * width * height];
        let declared = describe(session.outputs());
        let found = match run_values(&mut session, &input.name, &probe, [1, 3, height, width]) {
            Ok(found) => found,
            Err(reason) => return Err(ModelError::Run { path, reason: format!("{reason} (its outputs: {declared})") }),
        };
        let mismatch = |detail: String| ModelError::Outputs { path: path.clone(), outputs: list(&found), detail };
        let count = priors::count(width, height);
        let one = |columns: usize| {
            let shape = [1, count as i64, columns as i64];
            let mut fitting = found.iter().filter(|(_, value)| tensor_shape(value) == Some(&shape[..]));
            match (fitting.next(), fitting.next()) {
                (Some((name, value)), None) => Ok((name.clone(), value)),
                (None, _) => Err(mismatch(format!("none is {shape:?} for an input of {width}x{height}"))),
                (Some(_), Some(_)) => Err(mismatch(format!("more than one is {shape:?}"))),
            }
        };
        let (boxes, scores, landmarks) = (one(4)?, one(2)?, one(10)?);
        let probabilities = |[background, face]: &[f32; 2]| (background + face - 1.0).abs() < 1e-3;
        match scores.1.try_extract_tensor::<f32>() {
            Ok((_, values)) if values.as_chunks::<2>().0.iter().all(probabilities) => {}
            _ => {
                return Err(mismatch(format!("{} are not probabilities: export the model with its softmax", scores.0)));
            }
        }
        let outputs = [boxes.0, scores.0, landmarks.0];
        let Input { name, fixed_size, mut dynamic_batch } = input;
        if dynamic_batch {
            // Some exports declare any number of pictures and reshape to one inside.
            let two = run_values(&mut session, &name, &[probe.as_slice(), &probe].concat(), [2, 3, height, width]);
            let first = |value: &DynValue| tensor_shape(value).and_then(|shape| shape.first().copied());
            dynamic_batch = two.is_ok_and(|found| found.iter().all(|(_, value)| first(value) == Some(2)));
        }
        let family = "RetinaFace (biubug6), 5 landmarks";
        let contract = Contract { family, input: name, fixed_size, dynamic_batch, outputs, normalization: BIUBUG6 };
        Ok(Self { path, session, contract })
    }

    /// What was recognised.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// Runs `batch` pictures: `input` is `[batch, 3, height, width]`.
    ///
    /// # Errors
    /// If the run fails or its outputs have another shape than the probe's had.
    pub fn run(&mut self, input: &[f32], batch: usize, width: usize, height: usize) -> Result<ModelOutputs, String> {
        let name = &self.contract.input;
        let mut found = run_values(&mut self.session, name, input, [batch, 3, height, width])?;
        let count = priors::count(width, height);
        let mut take = |name: &str, columns: usize| {
            let at =
                found.iter().position(|(found, _)| found == name).ok_or_else(|| format!("output {name} is gone"))?;
            let (_, value) = found.swap_remove(at);
            let shape = [batch as i64, count as i64, columns as i64];
            match tensor_shape(&value) {
                Some(found) if found == shape => Ok(value),
                found => Err(format!("output {name} is {found:?} instead of {shape:?}")),
            }
        };
        let [boxes, scores, landmarks] = &self.contract.outputs;
        Ok(ModelOutputs { count, loc: take(boxes, 4)?, conf: take(scores, 2)?, landmarks: take(landmarks, 10)? })
    }
}

/// The head outputs of one run.
#[derive(Debug)]
pub struct ModelOutputs {
    count: usize,
    loc: DynValue,
    conf: DynValue,
    landmarks: DynValue,
}

impl ModelOutputs {
    /// The heads of picture `index` of the batch.
    ///
    /// # Errors
    /// If the outputs are not on the CPU or not floats.
    pub fn heads(&self, index: usize) -> Result<Heads<'_>, String> {
        let slice = |value, columns| picture(value, index, self.count * columns);
        Ok(Heads { loc: slice(&self.loc, 4)?, conf: slice(&self.conf, 2)?, landmarks: slice(&self.landmarks, 10)? })
    }
}

/// Whether a session that cannot be made is the file's fault rather than the provider's.
fn is_about_the_file(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::InvalidProtobuf | ErrorCode::InvalidGraph | ErrorCode::NoModel | ErrorCode::NoSuchFile)
}

/// The one input of a detector.
struct Input {
    name: String,
    fixed_size: Option<(usize, usize)>,
    dynamic_batch: bool,
}

impl Input {
    /// The session's input, if it is one float picture of three channels.
    fn of(session: &Session) -> Option<Self> {
        let [input] = session.inputs() else { return None };
        let ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } = input.dtype() else { return None };
        let [batch, channels, height, width] = shape[..] else { return None };
        if !matches!(channels, 3 | -1) || !matches!(batch, 1 | -1) {
            return None;
        }
        let fixed_size = match (width, height) {
            (-1, -1) => None,
            (1.., 1..) => Some((usize::try_from(width).ok()?, usize::try_from(height).ok()?)),
            _ => return None,
        };
        Some(Self { name: input.name().to_owned(), fixed_size, dynamic_batch: batch == -1 })
    }
}

fn run_values(
    session: &mut Session,
    name: &str,
    input: &[f32],
    shape: [usize; 4],
) -> Result<Vec<(String, DynValue)>, String> {
    let tensor = TensorRef::from_array_view((shape, input)).map_err(|error| error.to_string())?;
    let inputs = vec![(name, SessionInputValue::from(tensor))];
    let outputs = session.run(inputs).map_err(|error| error.to_string())?;
    Ok(outputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The `len` floats of picture `index`.
fn picture(value: &DynValue, index: usize, len: usize) -> Result<&[f32], String> {
    let (_, values) = value.try_extract_tensor::<f32>().map_err(|error| error.to_string())?;
    values.get(index * len..(index + 1) * len).ok_or_else(|| format!("no picture {index} in this batch"))
}

fn tensor_shape(value: &DynValue) -> Option<&[i64]> {
    match value.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Some(shape),
        _ => None,
    }
}

/// Names, types and shapes, as declared.
fn describe(outlets: &[Outlet]) -> String {
    let one = |outlet: &Outlet| format!("`{}` {}", outlet.name(), outlet.dtype());
    outlets.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Names, types and shapes, as a run gave them.
fn list(found: &[(String, DynValue)]) -> String {
    let one = |(name, value): &(String, DynValue)| match tensor_shape(value) {
        Some(shape) => format!("`{name}` {shape:?}"),
        None => format!("`{name}` {}", value.dtype()),
    };
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}
