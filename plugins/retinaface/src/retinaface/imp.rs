use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use retinaface::detector::{Detection, Detector, Settings as DetectorSettings};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface::letterbox::InputSize;
use retinaface::locate;
use retinaface::model::{ModelError, Options};
use retinaface::runtime::{Provider, RuntimeError};

use super::latency::Latency;
use super::stats::Stats;
use crate::lock::lock;
use crate::{caps, engines, frame, meta};

const DEFAULT_SCORE_THRESHOLD: f32 = 0.5;
const DEFAULT_IOU_THRESHOLD: f32 = 0.4;
const DEFAULT_INPUT_SIZE: u32 = 640;
const DEFAULT_MAX_FACES: u32 = 0;
const DEFAULT_MIN_FACE_SIZE: u32 = 0;
const DEFAULT_INFERENCE_INTERVAL: u32 = 1;
const DEFAULT_BATCH_SIZE: u32 = 0;
const DEFAULT_BATCH_TIMEOUT: u32 = 10;
const DEFAULT_THREADS: u32 = 0;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("retinaface", gst::DebugColorFlags::empty(), Some("RetinaFace detection"))
});

/// What the model runs on, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceExecutionProvider")]
#[repr(i32)]
pub(crate) enum ExecutionProvider {
    #[default]
    #[enum_value(name = "Auto: the CPU, until other providers are chosen by themselves", nick = "auto")]
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

/// What the user set.
#[derive(Clone, Debug)]
struct Settings {
    model_file: Option<PathBuf>,
    execution_provider: ExecutionProvider,
    score_threshold: f32,
    iou_threshold: f32,
    input_size: u32,
    max_faces: u32,
    min_face_size: u32,
    inference_interval: u32,
    batch_size: u32,
    batch_timeout: u32,
    threads: u32,
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
        }
    }
}

impl Settings {
    /// How long a frame waits for others to share its run: not at all where it is left to the element.
    fn batch_timeout(&self) -> Duration {
        if self.batch_size > 1 { Duration::from_millis(self.batch_timeout.into()) } else { Duration::ZERO }
    }

    fn detector(&self) -> DetectorSettings {
        DetectorSettings {
            score_threshold: self.score_threshold,
            iou_threshold: self.iou_threshold,
            input_size: InputSize::from(self.input_size),
            max_faces: self.max_faces as usize,
            min_face_size: self.min_face_size as f32,
            max_batch: self.batch_size as usize,
            batch_timeout: self.batch_timeout(),
        }
    }
}

/// What exists between `start` and `stop`.
struct State {
    detector: Arc<Detector>,
    provider: Provider,
    info: Option<VideoInfo>,
    stats: Stats,
    latency: Latency,
}

#[derive(Default)]
pub(crate) struct RetinaFace {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
}

#[glib::object_subclass]
impl ObjectSubclass for RetinaFace {
    const NAME: &'static str = "GstRetinaFace";
    type Type = super::RetinaFace;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for RetinaFace {
    fn properties() -> &'static [glib::ParamSpec] {
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
                    .blurb("At most so many frames of streams that share the model go through it at once; 0: what waits anyway")
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
                glib::ParamSpecString::builder("active-provider")
                    .nick("Active provider")
                    .blurb("What the model runs on, once the element has started")
                    .read_only()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Frames, inferred and skipped ones, faces, candidates with numbers that are not finite, and mean times in ns")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const CHECKED: &str = "GObject checks a property's type";
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "model-file" => {
                let file = value.get::<Option<String>>().expect(CHECKED);
                settings.model_file = file.filter(|file| !file.is_empty()).map(PathBuf::from);
            }
            "execution-provider" => settings.execution_provider = value.get().expect(CHECKED),
            "score-threshold" => settings.score_threshold = value.get().expect(CHECKED),
            "iou-threshold" => settings.iou_threshold = value.get().expect(CHECKED),
            "input-size" => settings.input_size = value.get().expect(CHECKED),
            "max-faces" => settings.max_faces = value.get().expect(CHECKED),
            "min-face-size" => settings.min_face_size = value.get().expect(CHECKED),
            "inference-interval" => settings.inference_interval = value.get().expect(CHECKED),
            "batch-size" => settings.batch_size = value.get().expect(CHECKED),
            "batch-timeout" => settings.batch_timeout = value.get().expect(CHECKED),
            "threads" => settings.threads = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = lock(&self.settings);
        match pspec.name() {
            "model-file" => settings.model_file.as_ref().map(|file| file.to_string_lossy().into_owned()).to_value(),
            "execution-provider" => settings.execution_provider.to_value(),
            "score-threshold" => settings.score_threshold.to_value(),
            "iou-threshold" => settings.iou_threshold.to_value(),
            "input-size" => settings.input_size.to_value(),
            "max-faces" => settings.max_faces.to_value(),
            "min-face-size" => settings.min_face_size.to_value(),
            "inference-interval" => settings.inference_interval.to_value(),
            "batch-size" => settings.batch_size.to_value(),
            "batch-timeout" => settings.batch_timeout.to_value(),
            "threads" => settings.threads.to_value(),
            "active-provider" => lock(&self.state).as_ref().map(|state| state.provider.name()).to_value(),
            "stats" => lock(&self.state)
                .as_ref()
                .map(|state| state.stats.structure())
                .unwrap_or_else(|| Stats::default().structure())
                .to_value(),
            _ => unreachable!("GObject reads the properties above only"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        caps::explain_refusals(&*self.obj(), self.obj().sink_pad());
    }
}

impl GstObjectImpl for RetinaFace {}

impl ElementImpl for RetinaFace {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "RetinaFace detector",
                "Filter/Analyzer/Video",
                "Detects faces with five landmarks and attaches them to the buffer",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            vec![caps::frame_pad("sink", gst::PadDirection::Sink), caps::frame_pad("src", gst::PadDirection::Src)]
        });
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        let result = self.parent_change_state(transition);
        if transition == gst::StateChange::PlayingToPaused {
            self.rest();
        }
        result
    }
}

impl BaseTransformImpl for RetinaFace {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = lock(&self.settings).clone();
        let home = self.home();
        let path = match settings.model_file {
            Some(path) => path,
            None => locate::model(home.as_deref())
                .map_err(|error| gst::error_msg!(gst::ResourceError::NotFound, ("{error}")))?,
        };
        let provider = Provider::from(settings.execution_provider);
        let options = Options { provider, threads: settings.threads as usize, home };
        let model = engines::get(&path, &options).map_err(|error| start_error(&path, &error))?;
        let provider = provider.resolved();
        gst::info!(CAT, imp = self, "{} on {provider}: {}", path.display(), model.contract().family);
        *lock(&self.state) = Some(State {
            detector: Arc::new(Detector::new(&model)),
            provider,
            info: None,
            stats: Stats::default(),
            latency: Latency::default(),
        });
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        // Taken out first: dropping the last user of an engine joins its thread, under no lock of ours.
        let state = lock(&self.state).take();
        drop(state);
        Ok(())
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = VideoInfo::from_caps(incaps).map_err(|_| gst::loggable_error!(CAT, "{incaps} is not raw video"))?;
        let detector = lock(&self.state).as_ref().map(|state| Arc::clone(&state.detector));
        let detector = detector.ok_or_else(|| gst::loggable_error!(CAT, "caps before start"))?;
        // The first run of a shape is slow, and a live pipeline asks for our latency before the first
        // frame: a black frame answers both.
        let warm = self.warm_up(&detector, &info).map_err(|error| {
            // The caller only logs, and upstream would hear no more than "not negotiated".
            let _ = self.stream_error(&error);
            gst::loggable_error!(CAT, "{error}")
        })?;
        self.observe(warm);
        detector.rest();
        if let Some(state) = &mut *lock(&self.state) {
            state.info = Some(info);
        }
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        if matches!(event.type_(), gst::EventType::Eos | gst::EventType::FlushStart) {
            self.rest();
        }
        self.parent_sink_event(event)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        match (direction, query.view_mut()) {
            // We never touch the memory: what upstream may use is for downstream to say.
            (gst::PadDirection::Sink, gst::QueryViewMut::Allocation(_)) => self.obj().src_pad().peer_query(query),
            (gst::PadDirection::Src, gst::QueryViewMut::Latency(latency)) => {
                let mut upstream = gst::query::Latency::new();
                if !self.obj().sink_pad().peer_query(&mut upstream) {
                    return false;
                }
                let (live, min, max) = upstream.result();
                let ours = self.latency();
                gst::debug!(CAT, imp = self, "latency: {min} upstream, {ours} ours");
                latency.set(live, min.saturating_add(ours), max.map(|max| max.saturating_add(ours)));
                true
            }
            _ => BaseTransformImplExt::parent_query(self, direction, query),
        }
    }

    fn transform_ip(&self, buffer: &mut gst::BufferRef) -> Result<gst::FlowSuccess, gst::FlowError> {
        let settings = lock(&self.settings).clone();
        let (detector, info, number) = {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            let info = state.info.clone().ok_or(gst::FlowError::NotNegotiated)?;
            (Arc::clone(&state.detector), info, state.stats.frame())
        };
        if !number.is_multiple_of(settings.inference_interval.into()) {
            return Ok(gst::FlowSuccess::Ok);
        }
        let detection = frame::read(buffer, &info, |view| detector.detect(view, &settings.detector()));
        let detection = match detection {
            Ok(Ok(detection)) => detection,
            Ok(Err(error)) => return Err(self.stream_error(&error)),
            Err(error) => return Err(self.stream_error(&error)),
        };
        let size = frame::frame_size(buffer, &info);
        meta::attach(buffer, &detection.faces, size).map_err(|error| self.stream_error(&error))?;
        self.count(&detection, settings.batch_timeout());
        if self.obj().current_state() != gst::State::Playing {
            // The frame of a preroll: no other follows it until the pipeline plays.
            detector.rest();
        }
        Ok(gst::FlowSuccess::Ok)
    }
}

impl RetinaFace {
    /// The folder of the plugin's file.
    fn home(&self) -> Option<PathBuf> {
        let file = self.obj().factory()?.plugin()?.filename()?;
        file.parent().map(Path::to_path_buf)
    }

    /// Lets other streams' batches go on without waiting for a frame of this one.
    fn rest(&self) {
        if let Some(state) = &*lock(&self.state) {
            state.detector.rest();
        }
    }

    /// What the element adds to a frame's way: waiting for a batch, and the work.
    fn latency(&self) -> gst::ClockTime {
        let waiting = lock(&self.settings).batch_timeout();
        let working = lock(&self.state).as_ref().map(|state| state.latency.reported()).unwrap_or_default();
        gst::ClockTime::try_from(waiting + working).unwrap_or(gst::ClockTime::MAX)
    }

    fn warm_up(&self, detector: &Detector, info: &VideoInfo) -> Result<Duration, String> {
        let (width, height) = (info.width() as usize, info.height() as usize);
        let black = vec![0; width * height];
        let image = ImageInfo::new(PixelFormat::Gray8, width, height);
        let view = ImageView::new(image, &[&black], &[width]).map_err(|error| error.to_string())?;
        // Alone: a stream that starts must not wait for the others.
        let settings =
            DetectorSettings { max_batch: 1, batch_timeout: Duration::ZERO, ..lock(&self.settings).detector() };
        let detection = detector.detect(&view, &settings).map_err(|error| error.to_string())?;
        Ok(detection.timing.total())
    }

    fn count(&self, detection: &Detection, batch_timeout: Duration) {
        gst::log!(CAT, imp = self, "{} faces in {:?}", detection.faces.len(), detection.timing);
        if let Some(state) = &mut *lock(&self.state) {
            state.stats.detection(detection);
        }
        if detection.non_finite > 0 {
            gst::debug!(CAT, imp = self, "{} candidates were not finite and are dropped", detection.non_finite);
        }
        // Waiting for a batch to fill is reported by its limit; waiting for others' runs is part of the work.
        let timing = detection.timing;
        self.observe(timing.total() - timing.wait.min(batch_timeout));
    }

    /// Takes a frame's time into account and announces a change of the latency.
    fn observe(&self, time: Duration) {
        let changed = lock(&self.state).as_mut().is_some_and(|state| state.latency.observe(time));
        if changed {
            gst::debug!(CAT, imp = self, "latency is now {}", self.latency());
            let message = gst::message::Latency::builder().src(&*self.obj()).build();
            // Without a bus there is nobody to tell.
            let _ = self.obj().post_message(message);
        }
    }

    fn stream_error(&self, error: &dyn std::fmt::Display) -> gst::FlowError {
        gst::element_imp_error!(self, gst::StreamError::Failed, ("Face detection failed: {error}"));
        gst::FlowError::Error
    }
}

/// A start error whose domain and code a program can act on.
fn start_error(path: &Path, error: &ModelError) -> gst::ErrorMessage {
    match error {
        ModelError::Read { .. } if !path.exists() => gst::error_msg!(gst::ResourceError::NotFound, ("{error}")),
        ModelError::Read { .. } => gst::error_msg!(gst::ResourceError::OpenRead, ("{error}")),
        ModelError::Runtime(RuntimeError::Provider { .. } | RuntimeError::ProviderStart { .. }) => {
            gst::error_msg!(gst::ResourceError::Settings, ("{error}"))
        }
        ModelError::Runtime(_) => gst::error_msg!(gst::LibraryError::Init, ("{error}")),
        ModelError::NotOnnx { .. } | ModelError::Input { .. } | ModelError::Outputs { .. } | ModelError::Run { .. } => {
            gst::error_msg!(gst::StreamError::WrongType, ("{error}"))
        }
    }
}
