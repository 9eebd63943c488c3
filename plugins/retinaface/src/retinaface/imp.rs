use std::io;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use retinaface::detector::{DetectError, Detection, Detector, Settings as DetectorSettings, Underway};
use retinaface::locate;
use retinaface::model::{Options, Running};

use super::inflight::{Frame, Inflight, Outcome, Pusher};
use super::latest::{Found, Latest, Offer};
use super::settings::{self, FrameSettings, Mode, Settings};
use super::stats::Stats;
use crate::latency::{self, Latency};
use crate::lock::lock;
use crate::meta::{self, FrameSize};
use crate::{caps, engines, frame, model_settings};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("retinaface", gst::DebugColorFlags::empty(), Some("RetinaFace detection"))
});

/// How frames go through the element.
#[derive(Clone)]
enum Way {
    /// Each waits for its faces on the stream's own thread.
    Waiting,
    /// Some at once, pushed by a thread of their own.
    Inflight(Arc<Inflight>, usize),
    /// None waits.
    Latest(Arc<Latest>),
}

/// What exists between `start` and `stop`.
struct State {
    detector: Arc<Detector>,
    running: Running,
    info: Option<VideoInfo>,
    /// Known from the first caps on: live sources have another one.
    way: Option<Way>,
    stats: Stats,
    latency: Latency,
}

#[derive(Default)]
pub(crate) struct RetinaFace {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    /// A frame between `submit_input_buffer` and `generate_output`, which follow each other at once.
    passing: Mutex<Option<gst::Buffer>>,
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
                ("{problem}; what was said before stays in force")
            );
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "active-provider" => lock(&self.state).as_ref().map(|state| state.running.provider.name()).to_value(),
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
            vec![caps::detector_pad("sink", gst::PadDirection::Sink), caps::detector_pad("src", gst::PadDirection::Src)]
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
        if let Some(problem) = settings.problem() {
            return Err(model_settings::senseless(problem));
        }
        let element = self.obj().clone().upcast::<gst::Element>();
        let options = Options {
            preprocessing: settings.preprocessing.into(),
            cuda_graph: settings.cuda_graph,
            parallel_runs: settings.parallel_runs as usize,
            ..settings.model.options(&element)?
        };
        let path = match settings.model.model_file {
            Some(path) => path,
            None => locate::model(options.home.as_deref())
                .map_err(|error| gst::error_msg!(gst::ResourceError::NotFound, ("{error}")))?,
        };
        let model = engines::get(&path, &options).map_err(|error| model_settings::start_error(&path, &error))?;
        let running = model.running().clone();
        model_settings::tell_provider(&element, *CAT, &path, model.contract(), &running);
        *lock(&self.state) = Some(State {
            detector: Arc::new(Detector::new(&model)),
            running,
            info: None,
            way: None,
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
        self.drain();
        #[cfg(feature = "cuda-memory")]
        if !caps::is_in_system_memory(incaps) && !detector.model().running().is_gpu() {
            let error =
                "frames in CUDA memory need execution-provider=cuda or tensorrt; put `cudadownload` before the element";
            let _ = self.stream_error(&error);
            return Err(gst::loggable_error!(CAT, "{error}"));
        }
        let known = lock(&self.state).as_ref().and_then(|state| state.way.clone());
        let way = match known {
            Some(way) => way,
            None => self.choose_way(&detector).map_err(|error| gst::loggable_error!(CAT, "no thread: {error}"))?,
        };
        match &way {
            // The video waits for no run, not even for a first one.
            Way::Latest(latest) => latest.reset(),
            // The first run of a shape is slow, and a live pipeline asks for our latency before the first frame: a
            // black frame answers both. One in CUDA memory cannot be made here.
            Way::Waiting | Way::Inflight(..) if caps::is_in_system_memory(incaps) => {
                let warm = self.warm_up(&detector, &info).map_err(|error| {
                    // The caller only logs, and upstream would hear no more than "not negotiated".
                    let _ = self.stream_error(&error);
                    gst::loggable_error!(CAT, "{error}")
                })?;
                self.observe(warm);
            }
            Way::Waiting | Way::Inflight(..) => {}
        }
        detector.rest();
        if let Some(state) = &mut *lock(&self.state) {
            state.info = Some(info);
            state.way = Some(way);
        }
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        let way = self.way();
        let kind = event.type_();
        match (kind, &way) {
            (gst::EventType::FlushStart, way) => {
                self.rest();
                if let Some(Way::Inflight(inflight, _)) = way {
                    inflight.flush_start();
                }
            }
            (gst::EventType::FlushStop, Some(Way::Inflight(inflight, _))) => inflight.flush_stop(),
            // Only now is no frame of before on its way to the background.
            (
                gst::EventType::FlushStop | gst::EventType::StreamStart | gst::EventType::Segment,
                Some(Way::Latest(latest)),
            ) => {
                latest.reset();
            }
            (_, Some(Way::Inflight(inflight, _))) if event.is_serialized() => {
                // It must not overtake the frames before it.
                let flow = inflight.drain();
                match kind {
                    gst::EventType::Eos => self.tell_lost_end(flow),
                    gst::EventType::StreamStart | gst::EventType::Segment => inflight.forgive(),
                    _ => {}
                }
            }
            _ => {}
        }
        if kind == gst::EventType::Eos {
            self.rest();
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        if let (gst::EventType::Reconfigure, Some(Way::Inflight(inflight, _))) = (event.type_(), self.way()) {
            inflight.forgive();
        }
        self.parent_src_event(event)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        if direction == gst::PadDirection::Sink && query.is_serialized() {
            self.drain();
        }
        match (direction, query.view_mut()) {
            // We never touch the memory: what upstream may use is for downstream to say.
            (gst::PadDirection::Sink, gst::QueryViewMut::Allocation(_)) => self.obj().src_pad().peer_query(query),
            (gst::PadDirection::Src, gst::QueryViewMut::Latency(query)) => {
                latency::answer(query, self.obj().sink_pad(), self.latency())
            }
            _ => BaseTransformImplExt::parent_query(self, direction, query),
        }
    }

    fn submit_input_buffer(&self, is_discont: bool, inbuf: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let flow = self.parent_submit_input_buffer(is_discont, inbuf)?;
        match (self.way(), self.take_queued_buffer()) {
            (Some(Way::Inflight(inflight, limit)), Some(buffer)) => {
                inflight.wait_for_room(limit)?;
                inflight.submit(self.look_at(buffer)?)
            }
            (_, Some(buffer)) => {
                *lock(&self.passing) = Some(buffer);
                Ok(flow)
            }
            (_, None) => Ok(flow),
        }
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        let Some(mut buffer) = lock(&self.passing).take() else { return Ok(GenerateOutputSuccess::NoOutput) };
        match self.way() {
            Some(Way::Latest(latest)) => self.pass(&mut buffer, &latest)?,
            Some(_) => {
                let Frame { buffer: mut looked_at, size, underway } = self.look_at(buffer)?;
                self.finish(&mut looked_at, size, underway.map(Underway::wait))?;
                buffer = looked_at;
            }
            None => return Err(gst::FlowError::NotNegotiated),
        }
        Ok(GenerateOutputSuccess::Buffer(buffer))
    }
}

/// Pushes frames for an element, as long as there is one.
struct Push(glib::WeakRef<super::RetinaFace>);

impl Pusher for Push {
    fn push(&self, frame: Frame, outcome: Outcome) -> Result<gst::FlowSuccess, gst::FlowError> {
        let element = self.0.upgrade().ok_or(gst::FlowError::Flushing)?;
        let Frame { mut buffer, size, .. } = frame;
        element.imp().finish(&mut buffer, size, outcome)?;
        element.src_pad().push(buffer)
    }

    fn panicked(&self) {
        if let Some(element) = self.0.upgrade() {
            let _ = element.imp().stream_error(&"its thread panicked");
        }
    }
}

impl RetinaFace {
    /// Lets other streams' batches go on without waiting for a frame of this one.
    fn rest(&self) {
        if let Some(state) = &*lock(&self.state) {
            state.detector.rest();
        }
    }

    fn way(&self) -> Option<Way> {
        lock(&self.state).as_ref().and_then(|state| state.way.clone())
    }

    /// Waits until every frame that came has left.
    fn drain(&self) {
        if let Some(Way::Inflight(inflight, _)) = self.way() {
            // What went wrong with a frame is told to the one that follows it.
            let _ = inflight.drain();
        }
    }

    /// At the end no frame follows to be told that the ones before it could not be pushed, and why.
    fn tell_lost_end(&self, flow: Result<gst::FlowSuccess, gst::FlowError>) {
        if let Err(reason @ (gst::FlowError::NotLinked | gst::FlowError::NotNegotiated | gst::FlowError::Error)) = flow
        {
            gst::element_imp_error!(
                self,
                gst::StreamError::Failed,
                ("The last frames could not be pushed: {reason}"),
                ["streaming stopped, reason {reason:?}"]
            );
        }
    }

    /// How frames go through: as the user said, or as suits the source.
    fn choose_way(&self, detector: &Arc<Detector>) -> io::Result<Way> {
        let settings = lock(&self.settings).clone();
        let element = self.obj().downgrade();
        if settings.mode == Mode::Latest {
            let look = move |offer| element.upgrade().and_then(|element| element.imp().look_in_background(offer));
            return Ok(Way::Latest(Arc::new(Latest::start(look)?)));
        }
        let limit = match settings.inflight {
            0 if self.is_live() => 1,
            0 => detector.model().busy_with(),
            limit => limit as usize,
        };
        gst::debug!(CAT, imp = self, "{limit} frames may be in flight");
        if limit == 1 {
            return Ok(Way::Waiting);
        }
        Ok(Way::Inflight(Arc::new(Inflight::start(Push(element))?), limit))
    }

    fn is_live(&self) -> bool {
        let mut latency = gst::query::Latency::new();
        self.obj().sink_pad().peer_query(&mut latency) && latency.result().0
    }

    /// Whether this stream looks at its frame of that number. Streams on one model take turns.
    fn is_due(number: u64, detector: &Detector, settings: &FrameSettings) -> bool {
        (number + detector.number() as u64).is_multiple_of(settings.inference_interval)
    }

    /// Counts a frame that came, and gives what is needed to look at it.
    fn next(&self) -> Result<(Arc<Detector>, VideoInfo, u64), gst::FlowError> {
        let mut state = lock(&self.state);
        let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
        let info = state.info.clone().ok_or(gst::FlowError::NotNegotiated)?;
        Ok((Arc::clone(&state.detector), info, state.stats.frame()))
    }

    /// Hands a frame to the model, if it is one to be looked at.
    fn look_at(&self, buffer: gst::Buffer) -> Result<Frame, gst::FlowError> {
        let settings = lock(&self.settings).of_frame();
        let (detector, info, number) = self.next()?;
        let size = frame::frame_size(&buffer, &info);
        let underway = if Self::is_due(number, &detector, &settings) {
            Some(self.submit(&detector, &buffer, &info, &settings.detector)?)
        } else {
            self.skip();
            None
        };
        Ok(Frame { buffer, size, underway })
    }

    /// Hands the frame in `buffer` to the model.
    fn submit(
        &self,
        detector: &Detector,
        buffer: &gst::BufferRef,
        info: &VideoInfo,
        settings: &DetectorSettings,
    ) -> Result<Underway, gst::FlowError> {
        #[cfg(feature = "cuda-memory")]
        if frame::is_on_gpu(buffer) {
            let submitted = frame::read_on_gpu(buffer, info, |frame| detector.submit_resident(frame, settings));
            return submitted.map_err(|error| self.stream_error(&error))?.map_err(|error| self.stream_error(&error));
        }
        let submitted = frame::read(buffer, info, |view| detector.submit(view, settings));
        submitted.map_err(|error| self.stream_error(&error))?.map_err(|error| self.stream_error(&error))
    }

    /// Attaches what was found to its frame.
    fn finish(&self, buffer: &mut gst::Buffer, size: FrameSize, outcome: Outcome) -> Result<(), gst::FlowError> {
        if let Some(outcome) = outcome {
            let detection = outcome.map_err(|error: DetectError| self.stream_error(&error))?;
            meta::attach(buffer.make_mut(), &detection.faces, size).map_err(|error| self.stream_error(&error))?;
            self.count(&detection);
            // Waiting for a batch to fill is reported by its limit; waiting for others' runs is part of the work.
            let filling = lock(&self.settings).batch_timeout();
            self.observe(detection.timing.total().saturating_sub(detection.timing.wait.min(filling)));
        }
        if self.obj().current_state() != gst::State::Playing {
            // The frame of a preroll: no other follows it until the pipeline plays.
            self.rest();
        }
        self.tell_stats();
        Ok(())
    }

    /// Gives a frame the newest faces that are known, and itself to the background if that is free.
    fn pass(&self, buffer: &mut gst::Buffer, latest: &Latest) -> Result<(), gst::FlowError> {
        let settings = lock(&self.settings).of_frame();
        let (detector, info, number) = self.next()?;
        let size = frame::frame_size(buffer, &info);
        let (offered, pts) = (buffer.clone(), buffer.pts());
        let offer = || Offer { buffer: offered, info, arrived: Instant::now() };
        let (found, taken) = latest.exchange(Self::is_due(number, &detector, &settings).then_some(offer))?;
        if !taken {
            self.skip();
        }
        if let Some(found) = found.filter(|found| found.size == size) {
            let age = found.age(pts);
            if settings.max_age.is_zero() || age <= settings.max_age {
                meta::attach_aged(buffer.make_mut(), &found.faces, size, age)
                    .map_err(|error| self.stream_error(&error))?;
            }
        }
        self.tell_stats();
        Ok(())
    }

    /// Looks at a frame on the background's thread.
    fn look_in_background(&self, offer: Offer) -> Option<Found> {
        let settings = lock(&self.settings).detector();
        let detector = lock(&self.state).as_ref().map(|state| Arc::clone(&state.detector))?;
        let Offer { buffer, info, arrived } = offer;
        let (size, pts) = (frame::frame_size(&buffer, &info), buffer.pts());
        let submitted = self.submit(&detector, &buffer, &info, &settings);
        // Whoever draws into it next need not copy it.
        drop(buffer);
        let detection = submitted.ok()?.wait().map_err(|error| self.stream_error(&error)).ok()?;
        self.count(&detection);
        Some(Found { faces: detection.faces.into(), size, pts, arrived })
    }

    /// What the element adds to a frame's way: waiting for a batch, and the work.
    fn latency(&self) -> gst::ClockTime {
        let (mode, waiting) = {
            let settings = lock(&self.settings);
            (settings.mode, settings.batch_timeout())
        };
        if mode == Mode::Latest {
            return gst::ClockTime::ZERO;
        }
        let working = lock(&self.state).as_ref().map(|state| state.latency.reported()).unwrap_or_default();
        gst::ClockTime::try_from(waiting + working).unwrap_or(gst::ClockTime::MAX)
    }

    fn warm_up(&self, detector: &Detector, info: &VideoInfo) -> Result<Duration, String> {
        let settings = lock(&self.settings).clone();
        // Alone: a stream that starts must not wait for the others.
        let settings = DetectorSettings { max_batch: 1, batch_timeout: Duration::ZERO, ..settings.detector() };
        let detect = || frame::black(info, |view| detector.detect(view, &settings));
        let mut total = Duration::ZERO;
        // The first run of a shape may build what the second one only uses.
        for _ in 0..2 {
            let detection = detect().map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            total = detection.timing.total();
        }
        Ok(total)
    }

    fn count(&self, detection: &Detection) {
        gst::log!(CAT, imp = self, "{} faces in {:?}", detection.faces.len(), detection.timing);
        if let Some(state) = &mut *lock(&self.state) {
            state.stats.detection(detection);
        }
        if detection.non_finite > 0 {
            gst::debug!(CAT, imp = self, "{} candidates were not finite and are dropped", detection.non_finite);
        }
    }

    fn skip(&self) {
        if let Some(state) = &mut *lock(&self.state) {
            state.stats.skip();
        }
    }

    /// Posts the statistics if their interval has ended.
    fn tell_stats(&self) {
        let interval = Duration::from_millis(lock(&self.settings).stats_interval.into());
        let due = lock(&self.state).as_mut().and_then(|state| {
            let ends = state.stats.ends_interval(interval);
            ends.then(|| state.stats.structure())
        });
        if let Some(stats) = due {
            gst::info!(CAT, imp = self, "{stats}");
            // Without a bus there is nobody to tell.
            let _ = self.obj().post_message(gst::message::Element::builder(stats).src(&*self.obj()).build());
        }
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
