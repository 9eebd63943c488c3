use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use retinaface::detect::{DetectError, Detection, DetectionSettings, Detector, ObjectRegion, PendingDetection, Views};
use retinaface::geometry::{Face, FrameSize, Rect};
use retinaface::inference::{BackendInfo, ModelOptions};
use retinaface::runtime::locate;

use super::regions::{self, ObjectClasses, RegionReader};
use super::settings::{self, Mode, Settings};
use super::stats::Stats;
use crate::common::errors::{Coded, ErrorCode, FrameModelError};
use crate::common::failures::OnError;
use crate::common::orientation::Orientation;
use crate::common::scheduling::{self, EarlierFrame, FrameModel, Scheduler, SchedulingMode};
use crate::common::settings_report::SettingsReport;
use crate::common::sync::lock;
use crate::common::{caps, frame, model_properties, shared_models};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("retinaface", gst::DebugColorFlags::empty(), Some("RetinaFace detection"))
});

/// What exists between `start` and `stop`.
struct State {
    detector: Arc<Detector>,
    backend: BackendInfo,
    stats: Stats,
}

/// What was checked for settings that find nothing.
#[derive(Clone, Debug, PartialEq)]
struct Checked {
    settings: DetectionSettings,
    frame: FrameSize,
    /// The longest age in ms, if it is shorter than the time between two frames.
    short_max_age: Option<(u32, gst::Fraction)>,
}

#[derive(Default)]
pub(crate) struct RetinaFace {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    orientation: Orientation,
    scheduler: Scheduler<Self>,
    /// Whether the stream comes from a live source.
    is_live: AtomicBool,
    checked: Mutex<Option<Checked>>,
    report: SettingsReport,
    regions: RegionReader,
}

#[glib::object_subclass]
impl ObjectSubclass for RetinaFace {
    const NAME: &'static str = "GstRetinaFace";
    type Type = super::RetinaFace;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for RetinaFace {
    fn properties() -> &'static [glib::ParamSpec] {
        settings::properties()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let problem = {
            let mut settings = lock(&self.settings);
            settings.set(pspec.name(), value);
            settings.problem_with(pspec.name())
        };
        if let Some(problem) = problem.filter(|_| lock(&self.state).is_some()) {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::Settings,
                ("{problem}; the previous value stays in effect")
            );
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "active-provider" => lock(&self.state).as_ref().map(|state| state.backend.provider.name()).to_value(),
            "stats" => lock(&self.state)
                .as_ref()
                .map(|state| state.stats.structure())
                .unwrap_or_else(|| Stats::default().structure())
                .to_value(),
            name => lock(&self.settings).get(name),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        caps::report_unsupported_caps(&*self.obj(), self.obj().sink_pad());
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
            vec![caps::detector_pad("sink", gst::PadDirection::Sink), caps::detector_pad("src", gst::PadDirection::Src)]
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

impl BaseTransformImpl for RetinaFace {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = lock(&self.settings).clone();
        if let Some(problem) = settings.problem() {
            return Err(ErrorCode::Settings.message(&problem));
        }
        let element = self.obj().clone().upcast::<gst::Element>();
        let options = ModelOptions {
            preprocessing: settings.preprocessing.into(),
            cuda_graph: settings.cuda_graph,
            parallel_runs: settings.parallel_runs as usize,
            ..settings.model.options()?
        };
        let context = model_properties::open_context(&element);
        let path = match settings.model.model_file {
            Some(path) => path,
            None => locate::model(context.base_dir.as_deref())
                .map_err(|error| ErrorCode::NotFound.message(&error.to_string()))?,
        };
        let model =
            shared_models::get(&path, &options, &context).map_err(|error| error.code().message(&error.to_string()))?;
        let backend = model.backend().clone();
        model_properties::post_provider_message(&element, *CAT, &path, model.spec(), &backend);
        let detector = Arc::new(Detector::new(&model));
        self.orientation.reset();
        *lock(&self.state) = Some(State { detector, backend, stats: Stats::default() });
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        self.scheduler.stop();
        // Dropped outside of the lock: the last user of a model joins its threads.
        let state = lock(&self.state).take();
        drop(state);
        *lock(&self.checked) = None;
        self.report.clear();
        self.regions.reset();
        Ok(())
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        #[cfg(feature = "cuda-memory")]
        if let Some(detector) = self.detector()
            && !caps::is_in_system_memory(incaps)
            && !detector.model().backend().accepts_cuda_memory()
        {
            let provider = detector.model().backend().provider;
            let error = FrameModelError::Model(DetectError::DeviceFrame { provider });
            let _ = self.fail(&error);
            return Err(gst::loggable_error!(CAT, "{error}"));
        }
        self.is_live.store(scheduling::is_live(self.obj().sink_pad()), Ordering::Relaxed);
        self.scheduler.set_caps(self, incaps)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        self.orientation.event(&event);
        self.scheduler.sink_event(self, event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        self.scheduler.src_event(self, event)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        self.scheduler.query(self, direction, query)
    }

    fn submit_input_buffer(&self, is_discont: bool, inbuf: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let element = self.obj();
        self.orientation.before_frame(element.upcast_ref(), element.sink_pad());
        self.scheduler.submit_input_buffer(self, is_discont, inbuf)
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        self.scheduler.generate_output(self)
    }
}

type Error = FrameModelError<DetectError>;

impl FrameModel for RetinaFace {
    type Pending = PendingDetection;
    type Output = Detection;
    type Error = DetectError;

    const FAILURE: &'static str = "Face detection failed";

    fn scheduler(&self) -> &Scheduler<Self> {
        &self.scheduler
    }

    fn category(&self) -> gst::DebugCategory {
        *CAT
    }

    fn mode(&self) -> SchedulingMode {
        let settings = lock(&self.settings);
        match settings.mode {
            Mode::Sync => SchedulingMode::Sync { limit: settings.inflight as usize },
            Mode::Latest => SchedulingMode::Latest,
        }
    }

    fn default_inflight(&self) -> usize {
        self.detector().map_or(1, |detector| detector.model().default_inflight())
    }

    fn begin_frame(&self) -> Result<bool, gst::FlowError> {
        let interval = u64::from(lock(&self.settings).inference_interval);
        let mut state = lock(&self.state);
        let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
        // Streams on one model take turns.
        Ok((state.stats.frame() + state.detector.number() as u64).is_multiple_of(interval))
    }

    fn submit(&self, buffer: &gst::BufferRef, info: &VideoInfo) -> Result<Option<PendingDetection>, Error> {
        let (mut settings, object_classes, short_max_age) = {
            let settings = lock(&self.settings);
            (settings.detection(self.is_live()), settings.object_classes(), settings.short_max_age(info.fps()))
        };
        let detector = self.detector().ok_or(Error::NotStarted)?;
        let size = frame::frame_size(buffer, info);
        self.check_settings(&detector, Checked { settings: settings.clone(), frame: size, short_max_age });
        settings.views.objects = object_classes.map(|classes| self.read_regions(buffer, size, &classes, &settings));
        #[cfg(feature = "cuda-memory")]
        if frame::is_on_gpu(buffer) {
            let submitted = frame::read_on_gpu(buffer, info, |frame| detector.submit_device_frame(frame, &settings));
            return submitted.map_err(Error::Frame)?.map(Some).map_err(Error::Model);
        }
        let submitted = frame::read(buffer, info, |view| detector.submit(view, &settings));
        submitted.map_err(Error::Frame)?.map(Some).map_err(Error::Model)
    }

    fn wait(pending: PendingDetection) -> Result<Detection, Error> {
        pending.wait().map_err(Error::Model)
    }

    fn refine(&self, buffer: &gst::BufferRef, info: &VideoInfo, detection: &mut Detection) -> Result<(), Error> {
        let settings = lock(&self.settings).detection(self.is_live());
        if !settings.refine_large_faces || detection.faces.is_empty() {
            return Ok(());
        }
        #[cfg(feature = "cuda-memory")]
        if frame::is_on_gpu(buffer) {
            return Ok(());
        }
        let detector = self.detector().ok_or(Error::NotStarted)?;
        let refined = frame::read(buffer, info, |view| detector.refine_large_faces(view, &settings, detection));
        refined.map_err(Error::Frame)?.map_err(Error::Model)
    }

    fn attach(
        &self,
        buffer: &mut gst::BufferRef,
        size: FrameSize,
        Detection { faces, .. }: &Detection,
        earlier: Option<EarlierFrame<'_>>,
    ) -> Result<(), Error> {
        let attached = match earlier {
            None => face_meta::attach(buffer, faces, size),
            Some(EarlierFrame { frame, age }) => face_meta::attach_aged(buffer, faces, size, age, frame),
        };
        attached.map_err(Error::Meta)
    }

    fn attach_failure(&self, buffer: &mut gst::BufferRef, size: FrameSize) -> Result<(), Error> {
        face_meta::attach_failure(buffer, size).map_err(Error::Meta)
    }

    fn on_error(&self) -> OnError {
        lock(&self.settings).on_error
    }

    fn processing_time(&self, detection: &Detection) -> Option<Duration> {
        // Frames without a region take no time, and say nothing about those with regions.
        if detection.batch == 0 {
            return None;
        }
        // The time to fill a batch is reported by its limit. Waiting for other runs is part of the
        // work.
        let filling = lock(&self.settings).batch_timeout();
        Some(detection.timing.total().saturating_sub(detection.timing.wait.min(filling)))
    }

    fn warm_up(&self, info: &VideoInfo) -> Result<Duration, Error> {
        let detector = self.detector().ok_or(Error::NotStarted)?;
        // Alone: a stream that starts must not wait for others.
        let (settings, has_regions) = {
            let settings = lock(&self.settings);
            (settings.detection(self.is_live()), settings.object_classes().is_some())
        };
        let (width, height) = (info.width() as usize, info.height() as usize);
        let objects = has_regions.then(|| regions::whole_frame(width, height));
        let settings = DetectionSettings {
            views: Views { objects, ..settings.views },
            max_batch: 1,
            batch_timeout: Duration::ZERO,
            ..settings
        };
        let mut total = Duration::ZERO;
        // The first run of a shape may build what the second one only uses.
        for _ in 0..2 {
            let detection = frame::black(info, |view| {
                let mut detection = detector.detect(view, &settings)?;
                if settings.refine_large_faces {
                    // If a face as large as the frame is not large in the input, none is.
                    let rect = Rect::new(0.0, 0.0, view.width() as f32, view.height() as f32);
                    detection.faces = vec![Face { rect, ..Face::default() }];
                    detector.refine_large_faces(view, &settings, &mut detection)?;
                }
                Ok(detection)
            });
            total = detection.map_err(Error::Frame)?.map_err(Error::Model)?.timing.total();
        }
        Ok(total)
    }

    fn batch_timeout(&self) -> Duration {
        lock(&self.settings).batch_timeout()
    }

    fn max_age(&self) -> Duration {
        Duration::from_millis(lock(&self.settings).max_age.into())
    }

    fn set_idle(&self) {
        if let Some(detector) = self.detector() {
            detector.set_idle();
        }
    }

    fn analysed(&self, detection: &Detection) {
        gst::log!(CAT, imp = self, "{} faces in {:?}", detection.faces.len(), detection.timing);
        if let Some(state) = &mut *lock(&self.state) {
            state.stats.detection(detection);
        }
        if detection.non_finite > 0 {
            gst::debug!(
                CAT,
                imp = self,
                "{} candidates with values that are not finite are dropped",
                detection.non_finite
            );
        }
    }

    fn skipped(&self) {
        if let Some(state) = &mut *lock(&self.state) {
            state.stats.skip();
        }
    }

    fn failed(&self) {
        if let Some(state) = &mut *lock(&self.state) {
            state.stats.fail();
        }
    }

    /// Posts the statistics if their interval has ended.
    fn frame_done(&self) {
        let interval = Duration::from_millis(lock(&self.settings).stats_interval.into());
        let due = lock(&self.state).as_mut().and_then(|state| {
            let ended = state.stats.end_interval(interval);
            ended.then(|| state.stats.structure())
        });
        if let Some(stats) = due {
            gst::info!(CAT, imp = self, "{stats}");
            // Without a bus there is no receiver.
            let _ = self.obj().post_message(gst::message::Element::builder(stats).src(&*self.obj()).build());
        }
    }
}

impl RetinaFace {
    /// Posts a warning for each setting that finds nothing in these frames.
    fn check_settings(&self, detector: &Detector, now: Checked) {
        {
            let mut checked = lock(&self.checked);
            if checked.as_ref() == Some(&now) {
                return;
            }
            *checked = Some(now.clone());
        }
        let problems = now.settings.problems(detector.model().spec(), now.frame);
        let problems = problems.iter().map(ToString::to_string);
        let max_age = now.short_max_age.map(|(max_age, fps)| {
            format!(
                "max-age is {max_age} ms, less than the time between two frames at {fps} frames per second, so no frame \
                 gets faces in mode=latest; set a larger max-age"
            )
        });
        self.report.post(&*self.obj(), problems.chain(max_age));
    }

    /// The regions of objects in which detection runs in a frame.
    fn read_regions(
        &self,
        buffer: &gst::BufferRef,
        size: FrameSize,
        classes: &ObjectClasses,
        settings: &DetectionSettings,
    ) -> Arc<[ObjectRegion]> {
        let (regions, note) = self.regions.read(buffer, size, classes, &settings.views.rois);
        if let Some(note) = note {
            gst::warning!(CAT, imp = self, "{note}");
        }
        if let Some(state) = &mut *lock(&self.state) {
            state.stats.regions(&regions);
        }
        regions.regions
    }

    fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Relaxed)
    }

    fn detector(&self) -> Option<Arc<Detector>> {
        lock(&self.state).as_ref().map(|state| Arc::clone(&state.detector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_that_is_not_started_passes_no_frame_and_posts_nothing() {
        gst::init().unwrap();
        let element = glib::Object::new::<super::super::RetinaFace>();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let model = element.imp();
        assert_eq!(model.begin_frame(), Err(gst::FlowError::Flushing));
        let info = VideoInfo::builder(gst_video::VideoFormat::Gray8, 16, 16).build().unwrap();
        let error = model.submit(&gst::Buffer::with_size(info.size()).unwrap(), &info).err().unwrap();
        assert_eq!(model.fail(&error), gst::FlowError::Flushing);
        let caps = info.to_caps().unwrap();
        let error = model.set_caps(&caps, &caps).err().unwrap();
        assert!(error.to_string().contains("the element is not started"), "{error}");
        assert!(bus.pop().is_none());
    }
}
