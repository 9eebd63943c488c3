//! One frame's whole way: view in, faces in frame pixels out.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::decode;
use crate::engine::{Client, Engine, EngineError, Request};
use crate::face::Face;
use crate::image::ImageView;
use crate::letterbox::{InputSize, Letterbox};
use crate::model::{Contract, Model, ModelError, ModelOutputs, Options};
use crate::nms;
use crate::preprocess::{self, Scratch};
use crate::priors::{self, Prior};

/// A running model that several detectors can share.
#[derive(Debug)]
pub struct SharedModel {
    engine: Arc<Engine<ModelOutputs>>,
    contract: Contract,
}

impl SharedModel {
    /// Opens a model and starts the thread that runs it.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open(path: &Path, options: &Options) -> Result<Arc<Self>, ModelError> {
        let mut model = Model::open(path, options)?;
        let contract = model.contract().clone();
        let engine = Engine::spawn(move |input, shape| model.run(input, shape.count, shape.width, shape.height));
        let engine = engine.map_err(|cause| ModelError::Read { path: path.to_path_buf(), cause })?;
        Ok(Arc::new(Self { engine, contract }))
    }

    /// What the model is.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// Whether a run has panicked, so that the model has to be opened anew.
    pub fn has_panicked(&self) -> bool {
        self.engine.has_panicked()
    }
}

/// Frames that share a run where it is left open: more bring nothing on a CPU,
const AUTO_BATCH: usize = 8;
/// and their tensor stays below this many bytes.
const AUTO_BATCH_BYTES: usize = 64 << 20;

/// What a detection can be told from call to call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Faces scored above this stay, in 0.0..=1.0.
    pub score_threshold: f32,
    /// Of two faces that overlap by more than this, the better stays, in 0.0..=1.0.
    pub iou_threshold: f32,
    /// How large the model's input is made.
    pub input_size: InputSize,
    /// At most so many faces, the best ones; 0 for all.
    pub max_faces: usize,
    /// Faces whose shorter side is below this many frame pixels are left out.
    pub min_face_size: f32,
    /// At most so many frames share a run; 0 for as many as are worth it, and as memory allows.
    pub max_batch: usize,
    /// How long a frame may wait for others to share its run.
    pub batch_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            score_threshold: 0.5,
            iou_threshold: 0.4,
            input_size: InputSize::Longest(640),
            max_faces: 0,
            min_face_size: 0.0,
            max_batch: 1,
            batch_timeout: Duration::ZERO,
        }
    }
}

/// How long the stages of one detection took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Frame to tensor.
    pub preprocess: Duration,
    /// In the engine's queue.
    pub wait: Duration,
    /// The model's run.
    pub inference: Duration,
    /// Outputs to faces.
    pub decode: Duration,
}

impl Timing {
    /// All stages.
    pub fn total(&self) -> Duration {
        self.preprocess + self.wait + self.inference + self.decode
    }
}

/// What was found in a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detection {
    /// Faces in frame pixels, best score first.
    pub faces: Vec<Face>,
    /// Candidates dropped because the model gave numbers that are not finite.
    pub non_finite: usize,
    /// How long it took.
    pub timing: Timing,
}

/// Why a frame has no detection.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The frame cannot be turned into a tensor.
    #[error("preprocessing failed: {0}")]
    Preprocess(#[from] opencv::Error),
    /// The model did not run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model's outputs cannot be read.
    #[error("the model's outputs cannot be read: {0}")]
    Outputs(String),
}

/// Buffers that one frame leaves for the next.
#[derive(Debug, Default)]
struct Buffers {
    input: Vec<f32>,
    scratch: Scratch,
}

#[derive(Debug)]
struct Priors {
    size: (usize, usize),
    priors: Vec<Prior>,
}

/// Detects faces with a shared model. Several threads may use one detector at once.
///
/// ```no_run
/// use std::path::Path;
/// use retinaface::detector::{Detector, Settings, SharedModel};
/// use retinaface::image::{ImageInfo, ImageView, PixelFormat};
///
/// let model = SharedModel::open(Path::new("retinaface_mnet025.onnx"), &Default::default())?;
/// let detector = Detector::new(&model);
/// let pixels = vec![0u8; 640 * 480 * 3];
/// let frame = ImageView::new(ImageInfo::new(PixelFormat::Rgb, 640, 480), &[&pixels], &[640 * 3])?;
/// for face in detector.detect(&frame, &Settings::default())?.faces {
///     println!("{:.2} at {:?}", face.score, face.rect);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Detector {
    client: Client<ModelOutputs>,
    model: Arc<SharedModel>,
    buffers: Mutex<Vec<Buffers>>,
    priors: Mutex<Option<Arc<Priors>>>,
}

impl Detector {
    /// A detector that shares `model` with others.
    pub fn new(model: &Arc<SharedModel>) -> Self {
        Self {
            client: model.engine.client(),
            model: Arc::clone(model),
            buffers: Mutex::default(),
            priors: Mutex::default(),
        }
    }

    /// The model in use.
    pub fn model(&self) -> &Arc<SharedModel> {
        &self.model
    }

    /// Detects the faces of one frame; waits for the model.
    ///
    /// # Errors
    /// If the frame cannot be resized or the model does not run.
    pub fn detect(&self, frame: &ImageView<'_>, settings: &Settings) -> Result<Detection, DetectError> {
        let contract = self.model.contract();
        let start = Instant::now();
        let letterbox = Letterbox::new(frame.width(), frame.height(), contract.input_size(settings.input_size));
        let (width, height) = letterbox.input();
        // A lock of its own for a push or a pop; never held while anything runs.
        let mut buffers = lock(&self.buffers).pop().unwrap_or_default();
        buffers.input.resize(3 * width * height, 0.0);
        let Buffers { input, scratch } = &mut buffers;
        preprocess::fill_input(frame, &letterbox, &contract.normalization, input, scratch)?;
        let preprocess = start.elapsed();

        let reply = self.client.infer(Request {
            input: std::mem::take(&mut buffers.input),
            width,
            height,
            max_batch: contract.batch(match settings.max_batch {
                0 => AUTO_BATCH.min(AUTO_BATCH_BYTES / (3 * width * height * size_of::<f32>())),
                wanted => wanted,
            }),
            batch_timeout: settings.batch_timeout,
        })?;
        buffers.input = reply.input;
        lock(&self.buffers).push(buffers);

        let start = Instant::now();
        let priors = self.priors(width, height);
        let heads = reply.outputs.heads(reply.index).map_err(DetectError::Outputs)?;
        let decoded = decode::decode(heads, &priors.priors, settings.score_threshold);
        let (faces, overflowed) = select(decoded.candidates, &letterbox, settings);
        let timing = Timing { preprocess, wait: reply.wait, inference: reply.run, decode: start.elapsed() };
        Ok(Detection { faces, non_finite: decoded.non_finite + overflowed, timing })
    }

    /// Tells the model's engine that no frame will come for a while, so that others need not wait for one.
    pub fn rest(&self) {
        self.client.rest();
    }

    fn priors(&self, width: usize, height: usize) -> Arc<Priors> {
        let size = (width, height);
        let mut cached = lock(&self.priors);
        match &*cached {
            Some(priors) if priors.size == size => Arc::clone(priors),
            _ => {
                let priors = Arc::new(Priors { size, priors: priors::generate(width, height) });
                Arc::clone(cached.insert(priors))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From candidates in input pixels to the faces wanted, in frame pixels, and how many have no finite place there.
/// What lies wholly outside the frame, in the padding, is no face.
fn select(candidates: Vec<Face>, letterbox: &Letterbox, settings: &Settings) -> (Vec<Face>, usize) {
    let (width, height) = letterbox.frame();
    let kept = nms::nms(candidates, settings.iou_threshold);
    let count = kept.len();
    let in_frame = kept.iter().map(|face| face.mapped(|point| letterbox.frame_from_input(point)));
    let finite = in_frame.filter(Face::is_finite).collect::<Vec<_>>();
    let overflowed = count - finite.len();
    let mut faces = finite
        .into_iter()
        .filter(|face| face.rect.clipped(width as f32, height as f32).is_some())
        .filter(|face| face.rect.w.min(face.rect.h) >= settings.min_face_size)
        .collect::<Vec<_>>();
    if settings.max_faces > 0 {
        faces.truncate(settings.max_faces);
    }
    (faces, overflowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::Rect;

    fn face(score: f32, x: f32, side: f32) -> Face {
        Face { score, rect: Rect::new(x, 0.0, side, side), landmarks: None, track_id: None }
    }

    #[test]
    fn the_smallest_size_counts_in_frame_pixels_and_before_the_largest_number() {
        let letterbox = Letterbox::new(1280, 720, InputSize::Longest(640));
        let candidates = vec![face(0.9, 0.0, 10.0), face(0.8, 100.0, 30.0), face(0.7, 200.0, 40.0)];
        let settings = Settings { min_face_size: 25.0, max_faces: 1, ..Settings::default() };
        let (faces, _) = select(candidates.clone(), &letterbox, &settings);
        assert_eq!(faces, [face(0.8, 200.0, 60.0)]);
        let (all, _) = select(candidates, &letterbox, &Settings::default());
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn a_face_in_the_padding_is_none() {
        // 1280 x 720 fills 640 x 360 of the input's 640 x 384.
        let letterbox = Letterbox::new(1280, 720, InputSize::Longest(640));
        let at = |y: f32| Face { rect: Rect::new(100.0, y, 20.0, 20.0), ..face(0.9, 0.0, 0.0) };
        assert_eq!(select(vec![at(361.0)], &letterbox, &Settings::default()), (vec![], 0));
        assert_eq!(select(vec![at(359.0)], &letterbox, &Settings::default()).0.len(), 1);
    }

    #[test]
    fn a_face_that_overflows_on_its_way_to_the_frame_is_dropped_and_counted() {
        let letterbox = Letterbox::new(7680, 4320, InputSize::Longest(640));
        let far = face(0.9, f32::MAX / 2.0, 20.0);
        assert_eq!(select(vec![far], &letterbox, &Settings::default()), (vec![], 1));
    }
}
