use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use retinaface::face::{Face, Rect};
use retinaface::landmarks::{self, Crop as ModelCrop, Landmarker, Settings as LandmarkerSettings};
use retinaface::model::{Options, Purpose, Running};

use crate::latency::{self, Latency};
use crate::lock::lock;
use crate::model_settings::{self, ModelSettings};
use crate::{caps, engines, frame, meta};

const DEFAULT_CROP_SCALE: f32 = 1.0;
const DEFAULT_MIN_FACE_SIZE: u32 = 0;
const DEFAULT_REFINE_LANDMARKS: bool = false;
const DEFAULT_BATCH_SIZE: u32 = 0;
const DEFAULT_BATCH_TIMEOUT: u32 = 0;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("facelandmarks", gst::DebugColorFlags::empty(), Some("More landmarks of faces"))
});

/// What of the frame the model is shown, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFaceLandmarksCrop")]
#[repr(i32)]
pub(crate) enum Crop {
    #[default]
    #[enum_value(name = "Aligned: the square around the box, turned so that the face is upright", nick = "aligned")]
    Aligned,
    #[enum_value(name = "Upright: the square around the box as it is", nick = "upright")]
    Upright,
    #[enum_value(name = "Template: the five landmarks on the ArcFace template", nick = "template")]
    Template,
}

impl From<Crop> for ModelCrop {
    fn from(crop: Crop) -> Self {
        match crop {
            Crop::Aligned => Self::Aligned,
            Crop::Upright => Self::Upright,
            Crop::Template => Self::Template,
        }
    }
}

#[derive(Clone, Debug)]
struct Settings {
    model: ModelSettings,
    crop: Crop,
    crop_scale: f32,
    min_face_size: u32,
    refine_landmarks: bool,
    batch_size: u32,
    batch_timeout: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: ModelSettings::default(),
            crop: Crop::default(),
            crop_scale: DEFAULT_CROP_SCALE,
            min_face_size: DEFAULT_MIN_FACE_SIZE,
            refine_landmarks: DEFAULT_REFINE_LANDMARKS,
            batch_size: DEFAULT_BATCH_SIZE,
            batch_timeout: DEFAULT_BATCH_TIMEOUT,
        }
    }
}

impl Settings {
    fn landmarker(&self) -> LandmarkerSettings {
        LandmarkerSettings {
            crop: self.crop.into(),
            crop_scale: self.crop_scale,
            max_batch: self.batch_size as usize,
            batch_timeout: Duration::from_millis(self.batch_timeout.into()),
        }
    }

    /// What counts for a frame, without what only a start needs.
    fn of_frame(&self) -> FrameSettings {
        FrameSettings {
            landmarker: self.landmarker(),
            min_face_size: self.min_face_size as f32,
            refine_landmarks: self.refine_landmarks,
        }
    }
}

/// The settings of one frame, which cost nothing to copy.
#[derive(Clone, Copy)]
struct FrameSettings {
    landmarker: LandmarkerSettings,
    min_face_size: f32,
    refine_landmarks: bool,
}

impl FrameSettings {
    fn wants(&self, face: &Face) -> bool {
        face.rect.w.min(face.rect.h) >= self.min_face_size
    }
}

/// What exists between `start` and `stop`.
struct State {
    landmarker: Arc<Landmarker>,
    running: Running,
    info: Option<VideoInfo>,
    latency: Latency,
}

#[derive(Default)]
pub(crate) struct FaceLandmarks {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
}

#[glib::object_subclass]
impl ObjectSubclass for FaceLandmarks {
    const NAME: &'static str = "GstFaceLandmarks";
    type Type = super::FaceLandmarks;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for FaceLandmarks {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let mut properties = ModelSettings::properties("ONNX file of the landmark model; needed");
            properties.extend([
                glib::ParamSpecEnum::builder_with_default("crop", Crop::default())
                    .nick("Crop")
                    .blurb("What of the frame the model is shown for a face")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecFloat::builder("crop-scale")
                    .nick("Crop scale")
                    .blurb("How much more than that it is shown: 1.5 shows half as much again, as InsightFace's models want")
                    .minimum(0.25)
                    .maximum(8.0)
                    .default_value(DEFAULT_CROP_SCALE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("min-face-size")
                    .nick("Smallest face")
                    .blurb("Faces whose shorter side is below this many pixels of the frame get no points")
                    .maximum(16384)
                    .default_value(DEFAULT_MIN_FACE_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("refine-landmarks")
                    .nick("Refine landmarks")
                    .blurb("Put the five landmarks that follow from the points (68, 98 or 106) in the place of the detector's")
                    .default_value(DEFAULT_REFINE_LANDMARKS)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("batch-size")
                    .nick("Batch size")
                    .blurb("At most so many faces, of all streams that share the model, go through it at once; 0: 16")
                    .maximum(64)
                    .default_value(DEFAULT_BATCH_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("batch-timeout")
                    .nick("Batch timeout")
                    .blurb("How long a face waits for those of other streams to share its run, in ms")
                    .maximum(10_000)
                    .default_value(DEFAULT_BATCH_TIMEOUT)
                    .mutable_playing()
                    .build(),
            ]);
            properties
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const CHECKED: &str = "GObject checks a property's type";
        let mut settings = lock(&self.settings);
        if settings.model.set(pspec.name(), value) {
            return;
        }
        match pspec.name() {
            "crop" => settings.crop = value.get().expect(CHECKED),
            "crop-scale" => settings.crop_scale = value.get().expect(CHECKED),
            "min-face-size" => settings.min_face_size = value.get().expect(CHECKED),
            "refine-landmarks" => settings.refine_landmarks = value.get().expect(CHECKED),
            "batch-size" => settings.batch_size = value.get().expect(CHECKED),
            "batch-timeout" => settings.batch_timeout = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets the properties above only"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "active-provider" {
            return lock(&self.state).as_ref().map(|state| state.running.provider.name()).to_value();
        }
        let settings = lock(&self.settings);
        if let Some(value) = settings.model.get(pspec.name()) {
            return value;
        }
        match pspec.name() {
            "crop" => settings.crop.to_value(),
            "crop-scale" => settings.crop_scale.to_value(),
            "min-face-size" => settings.min_face_size.to_value(),
            "refine-landmarks" => settings.refine_landmarks.to_value(),
            "batch-size" => settings.batch_size.to_value(),
            "batch-timeout" => settings.batch_timeout.to_value(),
            _ => unreachable!("GObject reads the properties above only"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        caps::explain_refusals(&*self.obj(), self.obj().sink_pad());
    }
}

impl GstObjectImpl for FaceLandmarks {}

impl ElementImpl for FaceLandmarks {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Face landmarks",
                "Filter/Analyzer/Video",
                "Adds a landmark model's points to the faces that a frame carries",
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

impl BaseTransformImpl for FaceLandmarks {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = lock(&self.settings).clone();
        let element = self.obj().clone().upcast::<gst::Element>();
        let options = Options { purpose: Purpose::Points, ..settings.model.options(&element)? };
        let Some(path) = settings.model.model_file else {
            let problem =
                "model-file is not set: facelandmarks has no model of its own; set it to an ONNX file".to_owned();
            return Err(model_settings::senseless(problem));
        };
        let model = engines::get(&path, &options).map_err(|error| model_settings::start_error(&path, &error))?;
        let landmarker = Landmarker::new(&model).ok_or_else(|| {
            model_settings::senseless(format!("model file {} finds faces, not points of a face", path.display()))
        })?;
        if settings.refine_landmarks && !landmarks::known_counts().contains(&landmarker.count()) {
            return Err(model_settings::senseless(format!(
                "refine-landmarks needs a model of {:?} points, and {} finds {}: which of them are eyes, nose and mouth is \
                 not known",
                landmarks::known_counts(),
                path.display(),
                landmarker.count()
            )));
        }
        let running = model.running().clone();
        model_settings::tell_provider(&element, *CAT, &path, model.contract(), &running);
        *lock(&self.state) =
            Some(State { landmarker: Arc::new(landmarker), running, info: None, latency: Latency::default() });
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
        let landmarker = lock(&self.state).as_ref().map(|state| Arc::clone(&state.landmarker));
        let landmarker = landmarker.ok_or_else(|| gst::loggable_error!(CAT, "caps before start"))?;
        // The first run is slow, and a live pipeline asks for our latency before the first face: one on a black frame
        // answers both.
        let warm = self.warm_up(&landmarker, &info).map_err(|error| {
            // The caller only logs, and upstream would hear no more than "not negotiated".
            let _ = self.failed(&error);
            gst::loggable_error!(CAT, "{error}")
        })?;
        self.observe(warm);
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
            // Any stride and crop will do for us: what upstream may use is for downstream to say.
            (gst::PadDirection::Sink, gst::QueryViewMut::Allocation(_)) => self.obj().src_pad().peer_query(query),
            (gst::PadDirection::Src, gst::QueryViewMut::Latency(query)) => {
                latency::answer(query, self.obj().sink_pad(), self.latency())
            }
            _ => BaseTransformImplExt::parent_query(self, direction, query),
        }
    }

    fn transform_ip(&self, buffer: &mut gst::BufferRef) -> Result<gst::FlowSuccess, gst::FlowError> {
        let settings = lock(&self.settings).of_frame();
        let (landmarker, info) = {
            let state = lock(&self.state);
            let state = state.as_ref().ok_or(gst::FlowError::Flushing)?;
            (Arc::clone(&state.landmarker), state.info.clone().ok_or(gst::FlowError::NotNegotiated)?)
        };
        let size = frame::frame_size(buffer, &info);
        let mut read = meta::read(buffer, size);
        let mut wanted =
            read.faces.iter_mut().map(|found| &mut found.face).filter(|face| settings.wants(face)).collect::<Vec<_>>();
        if wanted.is_empty() {
            landmarker.rest();
            return Ok(gst::FlowSuccess::Ok);
        }
        let faces = wanted.iter().map(|face| (**face).clone()).collect::<Vec<_>>();
        let before = Instant::now();
        let found = frame::read(buffer, &info, |view| landmarker.find(view, &faces, &settings.landmarker));
        let found = found.map_err(|error| self.failed(&error))?.map_err(|error| self.failed(&error))?;
        for (face, points) in wanted.iter_mut().zip(found.points) {
            let Some(points) = points else {
                gst::debug!(CAT, imp = self, "a face at {:?} has no points", face.rect);
                continue;
            };
            if settings.refine_landmarks {
                face.landmarks = landmarks::five_of(&points).or(face.landmarks);
            }
            face.points = points;
        }
        meta::update(buffer, &read, size).map_err(|error| self.failed(&error))?;
        // Waiting for company is reported by its limit.
        self.observe(before.elapsed().saturating_sub(settings.landmarker.batch_timeout));
        if self.obj().current_state() != gst::State::Playing {
            // The frame of a preroll: no other follows it until the pipeline plays.
            landmarker.rest();
        }
        Ok(gst::FlowSuccess::Ok)
    }
}

impl FaceLandmarks {
    /// Lets other streams' batches go on without waiting for a face of this one.
    fn rest(&self) {
        if let Some(state) = &*lock(&self.state) {
            state.landmarker.rest();
        }
    }

    /// One face in the middle of a black frame, twice: the first run may build what the second one only uses.
    fn warm_up(&self, landmarker: &Landmarker, info: &VideoInfo) -> Result<Duration, String> {
        let settings = LandmarkerSettings { batch_timeout: Duration::ZERO, ..lock(&self.settings).landmarker() };
        let (width, height) = (info.width() as f32, info.height() as f32);
        let rect = Rect::new(width / 4.0, height / 4.0, width / 2.0, height / 2.0);
        let face = [Face { rect, ..Face::default() }];
        let settings = LandmarkerSettings { crop: ModelCrop::Upright, ..settings };
        let mut total = Duration::ZERO;
        for _ in 0..2 {
            let before = Instant::now();
            let found = frame::black(info, |view| landmarker.find(view, &face, &settings));
            found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            total = before.elapsed();
        }
        landmarker.rest();
        Ok(total)
    }

    /// What the element adds to a frame's way: waiting for other streams' faces, and the work.
    fn latency(&self) -> gst::ClockTime {
        let waiting = Duration::from_millis(lock(&self.settings).batch_timeout.into());
        let working = lock(&self.state).as_ref().map(|state| state.latency.reported()).unwrap_or_default();
        gst::ClockTime::try_from(waiting + working).unwrap_or(gst::ClockTime::MAX)
    }

    /// Takes a frame's time into account and announces a change of the latency.
    fn observe(&self, time: Duration) {
        let changed = lock(&self.state).as_mut().is_some_and(|state| state.latency.observe(time));
        if changed {
            // Without a bus there is nobody to tell.
            let _ = self.obj().post_message(gst::message::Latency::builder().src(&*self.obj()).build());
        }
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> gst::FlowError {
        gst::element_imp_error!(self, gst::StreamError::Failed, ("Landmarks cannot be found: {error}"));
        gst::FlowError::Error
    }
}
