use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use face_meta::{AnalysedFaces, FrameFaces};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use retinaface::crops::{
    CropError, CropMode, FoundLandmarks, LandmarkSettings, Landmarker, PendingLandmarks, five_landmarks,
    known_point_counts,
};
use retinaface::detect::SettingsProblem;
use retinaface::geometry::{Face, FrameSize, Rect};
use retinaface::inference::{BackendInfo, ModelOptions, ModelTask};

use super::settings::{self, Settings};
use crate::common::errors::{Coded, ErrorCode, FrameModelError};
use crate::common::face_reader::{FaceReader, FacesToCrop};
use crate::common::failures::OnError;
use crate::common::scheduling::{EarlierFrame, FrameModel, Scheduler, SchedulingMode};
use crate::common::settings_report::SettingsReport;
use crate::common::sync::lock;
use crate::common::{caps, frame, model_properties, shared_models};

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("facelandmarks", gst::DebugColorFlags::empty(), Some("Landmark models")));

/// What exists between `start` and `stop`.
struct State {
    landmarker: Arc<Landmarker>,
    default_inflight: usize,
    backend: BackendInfo,
}

#[derive(Default)]
pub(crate) struct FaceLandmarks {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    faces: FaceReader,
    report: SettingsReport,
    scheduler: Scheduler<Self>,
    /// The latest analysis of an earlier frame whose faces were submitted.
    analysis: Mutex<Option<Analysis>>,
}

#[glib::object_subclass]
impl ObjectSubclass for FaceLandmarks {
    const NAME: &'static str = "GstFaceLandmarks";
    type Type = super::FaceLandmarks;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for FaceLandmarks {
    fn properties() -> &'static [glib::ParamSpec] {
        settings::properties()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        lock(&self.settings).set(pspec.name(), value);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "active-provider" => lock(&self.state).as_ref().map(|state| state.backend.provider.name()).to_value(),
            name => lock(&self.settings).get(name),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        caps::report_unsupported_caps(&*self.obj(), self.obj().sink_pad());
    }
}

impl GstObjectImpl for FaceLandmarks {}

impl ElementImpl for FaceLandmarks {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Face landmarks",
                "Filter/Analyzer/Video",
                "Adds the points of a landmark model to the faces that a frame carries",
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
            self.set_idle();
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
        let options = ModelOptions { task: ModelTask::Landmarks, ..settings.model.options()? };
        let Some(path) = settings.model.model_file else {
            let problem = "model-file is not set: facelandmarks has no default model; set it to an ONNX file";
            return Err(ErrorCode::Settings.message(problem));
        };
        let model = shared_models::get(&path, &options, &model_properties::open_context(&element))
            .map_err(|error| error.code().message(&error.to_string()))?;
        let landmarker = Landmarker::new(&model).map_err(|error| error.code().message(&error.to_string()))?;
        if settings.refine_landmarks && !known_point_counts().contains(&landmarker.count()) {
            return Err(ErrorCode::Settings.message(&format!(
                "refine-landmarks needs a model of {:?} points, but {} finds {}, whose numbering is not known; set \
                 refine-landmarks=false",
                known_point_counts(),
                path.display(),
                landmarker.count()
            )));
        }
        let backend = model.backend().clone();
        model_properties::post_provider_message(&element, *CAT, &path, model.spec(), &backend);
        let default_inflight = model.default_inflight();
        *lock(&self.state) = Some(State { landmarker: Arc::new(landmarker), default_inflight, backend });
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.scheduler.stop();
        // Dropped outside of the lock: the last user of a model joins its threads.
        let state = lock(&self.state).take();
        drop(state);
        self.report.clear();
        Ok(())
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        self.scheduler.set_caps(self, incaps)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        if event.type_() == gst::EventType::FlushStop {
            // The frame that submitted the faces can have been flushed, and their points with it.
            *lock(&self.analysis) = None;
        }
        self.scheduler.sink_event(self, event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        self.scheduler.src_event(self, event)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        self.scheduler.query(self, direction, query)
    }

    fn submit_input_buffer(&self, is_discont: bool, inbuf: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.scheduler.submit_input_buffer(self, is_discont, inbuf)
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        self.scheduler.generate_output(self)
    }
}

type Error = FrameModelError<CropError>;

/// The faces of a frame.
pub(crate) enum Faces {
    /// They were found in this frame.
    Own(FrameFaces),
    /// They were found in an earlier frame. All frames that carry them share their points.
    Earlier(Vec<Face>, SharedFaces),
}

/// The faces of an earlier frame with their points, once the model has found them.
type SharedFaces = Arc<OnceLock<Vec<Face>>>;

/// An analysis of an earlier frame.
#[derive(Clone)]
struct Analysis {
    number: u64,
    faces: SharedFaces,
}

/// What was submitted for a frame.
pub(crate) enum PendingFaces {
    Submitted {
        faces: Faces,
        /// Indices of the faces that the model receives.
        wanted: Vec<usize>,
        refine: bool,
        landmarks: PendingLandmarks,
    },
    /// Nothing: a frame before this one has the same faces.
    Shared(SharedFaces),
}

/// The faces of a frame with their points.
pub(crate) struct FacesWithPoints {
    faces: Faces,
    /// The rectangles of submitted faces for which the model found no points.
    without_points: Vec<Rect>,
    /// Of the model; `None` if a frame before this one has the same faces.
    duration: Option<Duration>,
}

impl Faces {
    fn iter(&self) -> impl Iterator<Item = &Face> {
        let (own, earlier) = match self {
            Self::Own(faces) => (Some(&faces.faces), None),
            Self::Earlier(faces, _) => (None, Some(faces)),
        };
        own.into_iter().flatten().map(|found| &found.face).chain(earlier.into_iter().flatten())
    }

    fn get_mut(&mut self, index: usize) -> &mut Face {
        match self {
            Self::Own(faces) => &mut faces.faces[index].face,
            Self::Earlier(faces, _) => &mut faces[index],
        }
    }
}

impl FrameModel for FaceLandmarks {
    type Pending = PendingFaces;
    type Output = FacesWithPoints;
    type Error = CropError;

    const FAILURE: &'static str = "Finding face landmarks failed";

    fn scheduler(&self) -> &Scheduler<Self> {
        &self.scheduler
    }

    fn category(&self) -> gst::DebugCategory {
        *CAT
    }

    fn mode(&self) -> SchedulingMode {
        // The points of an earlier frame's faces do not fit the faces of another frame, so there is
        // no latest mode.
        SchedulingMode::Sync { limit: lock(&self.settings).inflight as usize }
    }

    fn default_inflight(&self) -> usize {
        lock(&self.state).as_ref().map_or(1, |state| state.default_inflight)
    }

    fn begin_frame(&self) -> Result<bool, gst::FlowError> {
        Ok(true)
    }

    fn submit(&self, buffer: &gst::BufferRef, info: &VideoInfo) -> Result<Option<PendingFaces>, Error> {
        let landmarker = self.landmarker().ok_or(Error::NotStarted)?;
        let FrameSize { width, height, .. } = frame::frame_size(buffer, info);
        let min_face_size = lock(&self.settings).min_face_size as f32;
        self.report.post(&*self.obj(), SettingsProblem::of_min_face_size(min_face_size, (width, height)));
        let known = lock(&self.analysis).clone();
        let number = known.as_ref().map(|known| known.number);
        let found = self.faces.read_to_crop(&*self.obj(), buffer, info, "given points", number);
        let (AnalysedFaces { frame: analysed, faces, .. }, info) = match found {
            FacesToCrop::Unknown => return Ok(None),
            FacesToCrop::Known => return Ok(known.map(|known| PendingFaces::Shared(known.faces))),
            FacesToCrop::Here(faces) => return self.submit_faces(&landmarker, buffer, info, Faces::Own(faces)),
            FacesToCrop::Earlier(analysed, info) => (analysed, info),
        };
        let shared = SharedFaces::default();
        *lock(&self.analysis) = Some(Analysis { number: analysed.number(), faces: Arc::clone(&shared) });
        let Some(pixels) = analysed.buffer() else { return Ok(None) };
        let faces = faces.into_iter().map(|found| found.face).collect();
        self.submit_faces(&landmarker, pixels, &info, Faces::Earlier(faces, shared))
    }

    fn wait(pending: PendingFaces) -> Result<FacesWithPoints, Error> {
        let (mut faces, wanted, refine, landmarks) = match pending {
            PendingFaces::Submitted { faces, wanted, refine, landmarks } => (faces, wanted, refine, landmarks),
            PendingFaces::Shared(shared) => {
                // Frames are waited for in order. If the first one was flushed, the faces have no
                // points.
                let faces = shared.get().cloned().unwrap_or_default();
                let faces = Faces::Earlier(faces, shared);
                return Ok(FacesWithPoints { faces, without_points: Vec::new(), duration: None });
            }
        };
        let FoundLandmarks { points, duration, .. } = landmarks.wait().map_err(Error::Model)?;
        let mut without_points = Vec::new();
        for (index, points) in wanted.into_iter().zip(points) {
            let face = faces.get_mut(index);
            let Some(points) = points else {
                without_points.push(face.rect);
                continue;
            };
            if refine {
                face.landmarks = five_landmarks(&points).or(face.landmarks);
            }
            face.points = points;
        }
        if let Faces::Earlier(faces, shared) = &faces {
            shared.get_or_init(|| faces.clone());
        }
        Ok(FacesWithPoints { faces, without_points, duration: Some(duration) })
    }

    fn attach(
        &self,
        buffer: &mut gst::BufferRef,
        size: FrameSize,
        output: &FacesWithPoints,
        _earlier: Option<EarlierFrame<'_>>,
    ) -> Result<(), Error> {
        match &output.faces {
            Faces::Own(faces) => face_meta::update(buffer, faces, size).map_err(Error::Meta),
            Faces::Earlier(faces, shared) if shared.get().is_some() => {
                face_meta::update_analysed(buffer, faces).map_err(Error::Meta)
            }
            Faces::Earlier(..) => Ok(()),
        }
    }

    fn on_error(&self) -> OnError {
        lock(&self.settings).on_error
    }

    fn processing_time(&self, output: &FacesWithPoints) -> Option<Duration> {
        // The time to fill a batch is reported by its limit.
        Some(output.duration?.saturating_sub(self.batch_timeout()))
    }

    /// Runs the model on one face in the middle of a black frame.
    fn warm_up(&self, info: &VideoInfo) -> Result<Duration, Error> {
        let landmarker = self.landmarker().ok_or(Error::NotStarted)?;
        let (width, height) = (info.width() as f32, info.height() as f32);
        let rect = Rect::new(width / 4.0, height / 4.0, width / 2.0, height / 2.0);
        let face = [Face { rect, ..Face::default() }];
        let settings = LandmarkSettings {
            crop: CropMode::Upright,
            batch_timeout: Duration::ZERO,
            ..lock(&self.settings).landmarks()
        };
        let mut total = Duration::ZERO;
        // The first run may build what the second one only uses.
        for _ in 0..2 {
            let found = frame::black(info, |view| landmarker.find(view, &face, &settings));
            total = found.map_err(Error::Frame)?.map_err(Error::Model)?.duration;
        }
        Ok(total)
    }

    fn batch_timeout(&self) -> Duration {
        lock(&self.settings).batch_timeout()
    }

    fn set_idle(&self) {
        if let Some(landmarker) = self.landmarker() {
            landmarker.set_idle();
        }
    }

    fn analysed(&self, output: &FacesWithPoints) {
        for rect in &output.without_points {
            gst::debug!(CAT, imp = self, "a face at {rect:?} has no points: no crop, or the output is not finite");
        }
    }
}

impl FaceLandmarks {
    /// Submits the faces that the settings select, in the frame in which they were found.
    fn submit_faces(
        &self,
        landmarker: &Landmarker,
        buffer: &gst::BufferRef,
        info: &VideoInfo,
        faces: Faces,
    ) -> Result<Option<PendingFaces>, Error> {
        let (settings, refine, wanted) = {
            let settings = lock(&self.settings);
            let wanted = faces.iter().enumerate().filter(|(_, face)| settings.wants(face));
            let wanted = wanted.map(|(index, face)| (index, face.clone())).collect::<Vec<_>>();
            (settings.landmarks(), settings.refine_landmarks, wanted)
        };
        if wanted.is_empty() {
            landmarker.set_idle();
            return Ok(None);
        }
        let (wanted, cropped): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        let submitted = frame::read(buffer, info, |view| landmarker.submit(view, &cropped, &settings));
        let landmarks = submitted.map_err(Error::Frame)?.map_err(Error::Model)?;
        Ok(Some(PendingFaces::Submitted { faces, wanted, refine, landmarks }))
    }

    fn landmarker(&self) -> Option<Arc<Landmarker>> {
        lock(&self.state).as_ref().map(|state| Arc::clone(&state.landmarker))
    }
}
