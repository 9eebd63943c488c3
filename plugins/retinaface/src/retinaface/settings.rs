//! What a user sets: the properties, their defaults, and what the library calls them.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use retinaface::detector::Settings as DetectorSettings;
use retinaface::face::Rect;
use retinaface::letterbox::InputSize;
use retinaface::looks::{self, Looks, Merge as LooksMerge, Scales, Tiles};
use retinaface::model::Preprocessing as ModelPreprocessing;
use retinaface::overrides::Overrides;
use retinaface::provider::{Precision as ModelPrecision, Provider};

const DEFAULT_SCORE_THRESHOLD: f32 = 0.5;
const DEFAULT_IOU_THRESHOLD: f32 = 0.4;
const DEFAULT_INPUT_SIZE: u32 = 640;
const DEFAULT_MAX_FACES: u32 = 0;
const DEFAULT_MIN_FACE_SIZE: u32 = 0;
const DEFAULT_INFERENCE_INTERVAL: u32 = 1;
const DEFAULT_BATCH_SIZE: u32 = 0;
const DEFAULT_BATCH_TIMEOUT: u32 = 10;
const DEFAULT_THREADS: u32 = 0;
const DEFAULT_PARALLEL_RUNS: u32 = 1;
const DEFAULT_INFLIGHT: u32 = 0;
const DEFAULT_MAX_AGE: u32 = 1000;
const DEFAULT_STATS_INTERVAL: u32 = 0;
const DEFAULT_DEVICE_ID: u32 = 0;
const DEFAULT_ALLOW_CPU_FALLBACK: bool = false;
const DEFAULT_CUDA_GRAPH: bool = false;
const DEFAULT_SCALES: &str = "1.0";
const DEFAULT_FLIP: bool = false;
const DEFAULT_TILES: &str = "none";

/// What the model runs on, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceExecutionProvider")]
#[repr(i32)]
pub(super) enum ExecutionProvider {
    #[default]
    #[enum_value(name = "Auto: the best that works, of CUDA, OpenVINO and the CPU", nick = "auto")]
    Auto,
    #[enum_value(name = "CPU", nick = "cpu")]
    Cpu,
    #[enum_value(name = "NVIDIA CUDA", nick = "cuda")]
    Cuda,
    #[enum_value(name = "NVIDIA TensorRT", nick = "tensorrt")]
    TensorRt,
    #[enum_value(name = "Intel OpenVINO", nick = "openvino")]
    OpenVino,
}

impl From<ExecutionProvider> for Provider {
    fn from(provider: ExecutionProvider) -> Self {
        match provider {
            ExecutionProvider::Auto => Self::Auto,
            ExecutionProvider::Cpu => Self::Cpu,
            ExecutionProvider::Cuda => Self::Cuda,
            ExecutionProvider::TensorRt => Self::TensorRt,
            ExecutionProvider::OpenVino => Self::OpenVino,
        }
    }
}

/// In which arithmetic the model runs, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFacePrecision")]
#[repr(i32)]
pub(super) enum Precision {
    #[default]
    #[enum_value(name = "Full: 32 bits", nick = "full")]
    Full,
    #[enum_value(name = "Reduced: 16 bits, where the provider has them", nick = "reduced")]
    Reduced,
}

impl From<Precision> for ModelPrecision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Full => Self::Full,
            Precision::Reduced => Self::Reduced,
        }
    }
}

/// Where frames become tensors, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFacePreprocessing")]
#[repr(i32)]
pub(super) enum Preprocessing {
    #[default]
    #[enum_value(name = "Auto: on the device for CUDA and TensorRT, else on the CPU", nick = "auto")]
    Auto,
    #[enum_value(name = "CPU", nick = "cpu")]
    Cpu,
    #[enum_value(name = "Device: in the model's graph", nick = "device")]
    Device,
}

impl From<Preprocessing> for ModelPreprocessing {
    fn from(preprocessing: Preprocessing) -> Self {
        match preprocessing {
            Preprocessing::Auto => Self::Auto,
            Preprocessing::Cpu => Self::Cpu,
            Preprocessing::Device => Self::Device,
        }
    }
}

/// How what several looks found comes together, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceMerge")]
#[repr(i32)]
pub(super) enum Merge {
    #[default]
    #[enum_value(name = "NMS: of faces that overlap, the best stays", nick = "nms")]
    Nms,
    #[enum_value(name = "Vote: faces that overlap become their mean, weighted by score", nick = "vote")]
    Vote,
}

impl From<Merge> for LooksMerge {
    fn from(merge: Merge) -> Self {
        match merge {
            Merge::Nms => Self::Nms,
            Merge::Vote => Self::Vote,
        }
    }
}

/// A text that means something, or not: GObject's setters cannot refuse, so the next use tells.
#[derive(Clone, Debug)]
pub(super) struct Said<T> {
    text: String,
    meaning: Result<T, String>,
}

impl<T: Clone> Said<T> {
    fn new(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Self {
        Self { text: text.to_owned(), meaning: read(text) }
    }

    fn meaning(&self, property: &str) -> Result<T, String> {
        self.meaning.clone().map_err(|problem| format!("property {property}=\"{}\": {problem}", self.text))
    }
}

fn overrides(text: &str) -> Result<Overrides, String> {
    text.parse::<Overrides>().map_err(|error| error.to_string())
}

/// How frames and faces come together, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceMode")]
#[repr(i32)]
pub(super) enum Mode {
    #[default]
    #[enum_value(name = "Sync: each frame waits for its own faces", nick = "sync")]
    Sync,
    #[enum_value(name = "Latest: no frame waits, each gets the newest faces that are known", nick = "latest")]
    Latest,
}

/// What the user set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) model_file: Option<PathBuf>,
    pub(super) execution_provider: ExecutionProvider,
    pub(super) score_threshold: f32,
    pub(super) iou_threshold: f32,
    pub(super) input_size: u32,
    pub(super) max_faces: u32,
    pub(super) min_face_size: u32,
    pub(super) inference_interval: u32,
    pub(super) batch_size: u32,
    pub(super) batch_timeout: u32,
    pub(super) threads: u32,
    pub(super) parallel_runs: u32,
    pub(super) mode: Mode,
    pub(super) max_age: u32,
    pub(super) inflight: u32,
    pub(super) stats_interval: u32,
    pub(super) device_id: u32,
    pub(super) precision: Precision,
    pub(super) preprocessing: Preprocessing,
    pub(super) allow_cpu_fallback: bool,
    pub(super) cuda_graph: bool,
    scales: Said<Scales>,
    flip: bool,
    tiles: Said<Tiles>,
    roi: Said<Arc<[Rect]>>,
    merge: Merge,
    model_options: Said<Overrides>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model_file: None,
            execution_provider: ExecutionProvider::default(),
            score_threshold: DEFAULT_SCORE_THRESHOLD,
            iou_threshold: DEFAULT_IOU_THRESHOLD,
            input_size: DEFAULT_INPUT_SIZE,
            max_faces: DEFAULT_MAX_FACES,
            min_face_size: DEFAULT_MIN_FACE_SIZE,
            inference_interval: DEFAULT_INFERENCE_INTERVAL,
            batch_size: DEFAULT_BATCH_SIZE,
            batch_timeout: DEFAULT_BATCH_TIMEOUT,
            threads: DEFAULT_THREADS,
            parallel_runs: DEFAULT_PARALLEL_RUNS,
            mode: Mode::default(),
            max_age: DEFAULT_MAX_AGE,
            inflight: DEFAULT_INFLIGHT,
            stats_interval: DEFAULT_STATS_INTERVAL,
            device_id: DEFAULT_DEVICE_ID,
            precision: Precision::default(),
            preprocessing: Preprocessing::default(),
            allow_cpu_fallback: DEFAULT_ALLOW_CPU_FALLBACK,
            cuda_graph: DEFAULT_CUDA_GRAPH,
            scales: Said::new(DEFAULT_SCALES, str::parse),
            flip: DEFAULT_FLIP,
            tiles: Said::new(DEFAULT_TILES, str::parse),
            roi: Said::new("", looks::rois),
            merge: Merge::default(),
            model_options: Said::new("", overrides),
        }
    }
}

impl Settings {
    /// How long a frame waits for others to share its run: not at all where it is left to the element.
    pub(super) fn batch_timeout(&self) -> Duration {
        if self.batch_size > 1 { Duration::from_millis(self.batch_timeout.into()) } else { Duration::ZERO }
    }

    /// What counts for a frame.
    pub(super) fn of_frame(&self) -> Result<FrameSettings, String> {
        Ok(FrameSettings {
            detector: self.detector()?,
            inference_interval: self.inference_interval.into(),
            max_age: Duration::from_millis(self.max_age.into()),
        })
    }

    /// What is said of the model in place of what its layout says.
    pub(super) fn overrides(&self) -> Result<Overrides, String> {
        self.model_options.meaning("model-options")
    }

    /// What counts for a detection; says which property makes no sense.
    pub(super) fn detector(&self) -> Result<DetectorSettings, String> {
        let looks = Looks {
            scales: self.scales.meaning("scales")?,
            flip: self.flip,
            tiles: self.tiles.meaning("tiles")?,
            rois: self.roi.meaning("roi")?,
        };
        Ok(DetectorSettings {
            looks,
            merge: self.merge.into(),
            score_threshold: self.score_threshold,
            iou_threshold: self.iou_threshold,
            input_size: InputSize::from(self.input_size),
            max_faces: self.max_faces as usize,
            min_face_size: self.min_face_size as f32,
            max_batch: self.batch_size as usize,
            batch_timeout: self.batch_timeout(),
        })
    }
}

/// The settings of one frame, which cost next to nothing to copy.
#[derive(Clone)]
pub(super) struct FrameSettings {
    pub(super) detector: DetectorSettings,
    pub(super) inference_interval: u64,
    /// Zero: any.
    pub(super) max_age: Duration,
}

/// The element's properties, those that say what it does among them.
pub(super) fn properties() -> &'static [glib::ParamSpec] {
    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        vec![
                glib::ParamSpecString::builder("model-file")
                    .nick("Model file")
                    .blurb("ONNX file of the detector (none: $RETINAFACE_MODEL, beside the plugin, or the installed one)")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("execution-provider", ExecutionProvider::default())
                    .nick("Execution provider")
                    .blurb("What the model runs on; one that is named and not there is an error at start")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecFloat::builder("score-threshold")
                    .nick("Score threshold")
                    .blurb("Faces scored above this are kept")
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(DEFAULT_SCORE_THRESHOLD)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecFloat::builder("iou-threshold")
                    .nick("IoU threshold")
                    .blurb("Of two faces whose intersection over union is above this, the better is kept")
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(DEFAULT_IOU_THRESHOLD)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("input-size")
                    .nick("Input size")
                    .blurb("Longer side of the model's input in pixels; 0: the frame's own size. Ignored by models of a fixed size")
                    .maximum(16384)
                    .default_value(DEFAULT_INPUT_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("scales")
                    .nick("Scales")
                    .blurb("Sizes at which frames are looked at, as factors of what input-size makes of them (\"1.0,0.2\"); auto: once, and once more at a small size where the input is large, for faces that fill it")
                    .default_value(DEFAULT_SCALES)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("flip")
                    .nick("Flip")
                    .blurb("Look at frames in a mirror, too")
                    .default_value(DEFAULT_FLIP)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("tiles")
                    .nick("Tiles")
                    .blurb("Overlapping parts of frames that are looked at, too: none, auto (of the input size, at full resolution), or columns and rows (\"3x2\")")
                    .default_value(DEFAULT_TILES)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("roi")
                    .nick("Regions of interest")
                    .blurb("Look only within these, x,y,width,height in pixels of the frame, `;` between several; none: everywhere. Each is looked at as if it were the frame")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("merge", Merge::default())
                    .nick("Merge")
                    .blurb("How faces that overlap become one")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("model-options")
                    .nick("Model options")
                    .blurb("What to believe of the model in place of what its layout says: key=value, `;` between several; keys: color-order, mean, scale, padding, strides, anchors, anchor-centre, variances, scores")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("max-faces")
                    .nick("Largest number of faces")
                    .blurb("At most so many faces a frame, best scores first; 0: all")
                    .default_value(DEFAULT_MAX_FACES)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("min-face-size")
                    .nick("Smallest face")
                    .blurb("Faces whose shorter side is below this many pixels of the frame are left out")
                    .maximum(16384)
                    .default_value(DEFAULT_MIN_FACE_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("inference-interval")
                    .nick("Inference interval")
                    .blurb("Look at every Nth frame; the others get no faces")
                    .minimum(1)
                    .default_value(DEFAULT_INFERENCE_INTERVAL)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("batch-size")
                    .nick("Batch size")
                    .blurb("At most so many frames of streams that share the model go through it at once; 0: what waits anyway on a GPU, 1 on a CPU")
                    .maximum(64)
                    .default_value(DEFAULT_BATCH_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("batch-timeout")
                    .nick("Batch timeout")
                    .blurb("How long a frame waits for a batch of batch-size 2 or more to fill, in ms")
                    .maximum(10_000)
                    .default_value(DEFAULT_BATCH_TIMEOUT)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("threads")
                    .nick("Threads")
                    .blurb("Threads of one run of the model; 0: one a physical core")
                    .maximum(1024)
                    .default_value(DEFAULT_THREADS)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("parallel-runs")
                    .nick("Parallel runs")
                    .blurb("Runs of the model at the same time, each on `threads` threads: several of one thread carry more frames than one of several")
                    .minimum(1)
                    .maximum(64)
                    .default_value(DEFAULT_PARALLEL_RUNS)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("mode", Mode::default())
                    .nick("Mode")
                    .blurb("Whether frames wait for their own faces, or pass at once with the newest faces that are known")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("max-age")
                    .nick("Largest age")
                    .blurb("In mode latest, faces of a frame older than this many ms are not given to another; 0: of any age")
                    .default_value(DEFAULT_MAX_AGE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("inflight")
                    .nick("Frames in flight")
                    .blurb("Frames of this stream that may be under way at once, in order; 0: 1 for live sources, else enough to keep the model busy")
                    .maximum(64)
                    .default_value(DEFAULT_INFLIGHT)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("stats-interval")
                    .nick("Statistics interval")
                    .blurb("An element message with the statistics every so many ms; 0: none")
                    .default_value(DEFAULT_STATS_INTERVAL)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("device-id")
                    .nick("Device")
                    .blurb("Which GPU, for the execution providers cuda and tensorrt")
                    .maximum(255)
                    .default_value(DEFAULT_DEVICE_ID)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("precision", Precision::default())
                    .nick("Precision")
                    .blurb("Arithmetic of the model; reduced is faster on OpenVINO (bfloat16), TensorRT (fp16) and CUDA (TF32)")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("preprocessing", Preprocessing::default())
                    .nick("Preprocessing")
                    .blurb("Where frames are resized and converted for the model")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("allow-cpu-fallback")
                    .nick("Allow CPU fallback")
                    .blurb("Run on the CPU where the execution provider is not there, instead of failing; a message says so")
                    .default_value(DEFAULT_ALLOW_CPU_FALLBACK)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("cuda-graph")
                    .nick("CUDA graph")
                    .blurb("Replay a recorded graph of kernels for each shape, for the execution providers cuda and tensorrt")
                    .default_value(DEFAULT_CUDA_GRAPH)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecString::builder("active-provider")
                    .nick("Active provider")
                    .blurb("What the model runs on, once the element has started")
                    .read_only()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Frames, inferred and skipped ones, faces, batch sizes, and times of each stage in ns; since start and of the last interval")
                    .read_only()
                    .build(),
            ]
    });
    &PROPERTIES
}

impl Settings {
    /// Sets a property.
    pub(super) fn set(&mut self, name: &str, value: &glib::Value) {
        const CHECKED: &str = "GObject checks a property's type";
        let text = |value: &glib::Value| value.get::<Option<String>>().expect(CHECKED).unwrap_or_default();
        match name {
            "model-file" => {
                let file = value.get::<Option<String>>().expect(CHECKED);
                self.model_file = file.filter(|file| !file.is_empty()).map(PathBuf::from);
            }
            "execution-provider" => self.execution_provider = value.get().expect(CHECKED),
            "score-threshold" => self.score_threshold = value.get().expect(CHECKED),
            "iou-threshold" => self.iou_threshold = value.get().expect(CHECKED),
            "input-size" => self.input_size = value.get().expect(CHECKED),
            "scales" => self.scales = Said::new(&text(value), str::parse),
            "flip" => self.flip = value.get().expect(CHECKED),
            "tiles" => self.tiles = Said::new(&text(value), str::parse),
            "roi" => self.roi = Said::new(&text(value), looks::rois),
            "merge" => self.merge = value.get().expect(CHECKED),
            "model-options" => self.model_options = Said::new(&text(value), overrides),
            "max-faces" => self.max_faces = value.get().expect(CHECKED),
            "min-face-size" => self.min_face_size = value.get().expect(CHECKED),
            "inference-interval" => self.inference_interval = value.get().expect(CHECKED),
            "batch-size" => self.batch_size = value.get().expect(CHECKED),
            "batch-timeout" => self.batch_timeout = value.get().expect(CHECKED),
            "threads" => self.threads = value.get().expect(CHECKED),
            "parallel-runs" => self.parallel_runs = value.get().expect(CHECKED),
            "mode" => self.mode = value.get().expect(CHECKED),
            "max-age" => self.max_age = value.get().expect(CHECKED),
            "inflight" => self.inflight = value.get().expect(CHECKED),
            "stats-interval" => self.stats_interval = value.get().expect(CHECKED),
            "device-id" => self.device_id = value.get().expect(CHECKED),
            "precision" => self.precision = value.get().expect(CHECKED),
            "preprocessing" => self.preprocessing = value.get().expect(CHECKED),
            "allow-cpu-fallback" => self.allow_cpu_fallback = value.get().expect(CHECKED),
            "cuda-graph" => self.cuda_graph = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
        }
    }

    /// A property's value.
    pub(super) fn get(&self, name: &str) -> glib::Value {
        match name {
            "model-file" => self.model_file.as_ref().map(|file| file.to_string_lossy().into_owned()).to_value(),
            "execution-provider" => self.execution_provider.to_value(),
            "score-threshold" => self.score_threshold.to_value(),
            "iou-threshold" => self.iou_threshold.to_value(),
            "input-size" => self.input_size.to_value(),
            "scales" => self.scales.text.to_value(),
            "flip" => self.flip.to_value(),
            "tiles" => self.tiles.text.to_value(),
            "roi" => Some(&self.roi.text).filter(|text| !text.is_empty()).to_value(),
            "merge" => self.merge.to_value(),
            "model-options" => Some(&self.model_options.text).filter(|text| !text.is_empty()).to_value(),
            "max-faces" => self.max_faces.to_value(),
            "min-face-size" => self.min_face_size.to_value(),
            "inference-interval" => self.inference_interval.to_value(),
            "batch-size" => self.batch_size.to_value(),
            "batch-timeout" => self.batch_timeout.to_value(),
            "threads" => self.threads.to_value(),
            "parallel-runs" => self.parallel_runs.to_value(),
            "mode" => self.mode.to_value(),
            "max-age" => self.max_age.to_value(),
            "inflight" => self.inflight.to_value(),
            "stats-interval" => self.stats_interval.to_value(),
            "device-id" => self.device_id.to_value(),
            "precision" => self.precision.to_value(),
            "preprocessing" => self.preprocessing.to_value(),
            "allow-cpu-fallback" => self.allow_cpu_fallback.to_value(),
            "cuda-graph" => self.cuda_graph.to_value(),
            _ => unreachable!("GObject reads properties of the list only"),
        }
    }
}
