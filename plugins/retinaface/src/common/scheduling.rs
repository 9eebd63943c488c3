//! The scheduling of an element that runs a model on each frame: waiting, in flight, latest only.
//!
//! An element implements [`FrameModel`]: how a frame is submitted, waited for and attached. Its
//! [`Scheduler`] decides on which thread that happens and when a frame leaves; the element's
//! virtual methods forward to it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use face_meta::AnalysedFrame;
use gst::glib;
use gst::glib::object::ObjectSubclassIs;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use retinaface::geometry::FrameSize;

use super::errors::{Coded, ErrorCode, FrameModelError};
use super::failures::{Consequence, Failures, MAX_CONSECUTIVE_FAILURES, OnError};
use super::in_flight::{FrameJob, InFlight, Pusher};
use super::latency::{self, Latency};
use super::latest::{Analysis, Known, Latest, LatestFrame};
use super::sync::lock;
use super::{allocation, caps, frame};

/// How the user wants frames to be scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchedulingMode {
    /// Each frame gets its own result. At most `limit` frames are in flight; 0 means 1 for a live
    /// source, else [`FrameModel::default_inflight`].
    Sync { limit: usize },
    /// No frame waits for the model. Each gets the newest result that is known.
    Latest,
}

/// An earlier frame whose result another frame gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EarlierFrame<'a> {
    pub(crate) frame: &'a AnalysedFrame,
    /// The time between the two frames.
    pub(crate) age: Duration,
}

/// Number of frames that [`SchedulingMode::Latest`] holds: one that is analysed, that of the newest
/// result, and that of an older result, which frames downstream can still refer to.
const HELD_FRAMES: u32 = 3;

/// An element that runs a model on each frame.
pub(crate) trait FrameModel:
    BaseTransformImpl
    + ObjectSubclass<Type: ObjectSubclassIs<Subclass = Self> + Send + Sync, ParentType: IsA<gst_base::BaseTransform>>
{
    /// What was submitted to the model for a frame.
    type Pending: Send + 'static;
    /// The result for a frame.
    type Output: Send + Sync + 'static;
    /// Why the model has no result.
    type Error: Coded + Send + 'static;

    /// What the element does, as the start of its error messages: "Face detection failed".
    const FAILURE: &'static str;

    /// The element's scheduler.
    fn scheduler(&self) -> &Scheduler<Self>;

    /// The element's debug category.
    fn category(&self) -> gst::DebugCategory;

    /// The mode that the user has chosen.
    fn mode(&self) -> SchedulingMode;

    /// Number of frames in flight that keep the model busy.
    fn default_inflight(&self) -> usize;

    /// Counts a frame. Returns whether it is to be analysed; an error if the element is not
    /// started.
    fn begin_frame(&self) -> Result<bool, gst::FlowError>;

    /// Submits the frame in `buffer` to the model; `None` if there is nothing to analyse in it.
    fn submit(
        &self,
        buffer: &gst::BufferRef,
        info: &VideoInfo,
    ) -> Result<Option<Self::Pending>, FrameModelError<Self::Error>>;

    /// Waits for the model.
    fn wait(pending: Self::Pending) -> Result<Self::Output, FrameModelError<Self::Error>>;

    /// Refines a result that needs its frame again. Called once per result, after [`Self::wait`], on
    /// the thread that waited.
    fn refine(
        &self,
        _buffer: &gst::BufferRef,
        _info: &VideoInfo,
        _output: &mut Self::Output,
    ) -> Result<(), FrameModelError<Self::Error>> {
        Ok(())
    }

    /// Attaches a result to the frame in `buffer`. `earlier` is the frame that was analysed, if that
    /// is not this one.
    fn attach(
        &self,
        buffer: &mut gst::BufferRef,
        size: FrameSize,
        output: &Self::Output,
        earlier: Option<EarlierFrame<'_>>,
    ) -> Result<(), FrameModelError<Self::Error>>;

    /// Marks a frame that has no result because the model failed.
    fn attach_failure(
        &self,
        _buffer: &mut gst::BufferRef,
        _size: FrameSize,
    ) -> Result<(), FrameModelError<Self::Error>> {
        Ok(())
    }

    /// What the user wants if the model fails on a frame.
    fn on_error(&self) -> OnError;

    /// Processing time of a result, without the time that its frame waited for a batch to fill;
    /// `None` for a result that another frame has paid for.
    fn processing_time(&self, output: &Self::Output) -> Option<Duration>;

    /// Runs the model on black frames of this format. Returns the processing time.
    fn warm_up(&self, info: &VideoInfo) -> Result<Duration, FrameModelError<Self::Error>>;

    /// Maximum time that a frame waits for a batch to fill.
    fn batch_timeout(&self) -> Duration;

    /// Results of frames that are older are not used in [`SchedulingMode::Latest`]; zero for no
    /// limit.
    fn max_age(&self) -> Duration {
        Duration::ZERO
    }

    /// Declares that no frame follows for a while.
    fn set_idle(&self);

    /// Called for each result, once.
    fn analysed(&self, _output: &Self::Output) {}

    /// Called for each frame that was not analysed.
    fn skipped(&self) {}

    /// Called for each frame on which the model failed and after which the stream continues.
    fn failed(&self) {}

    /// Called when a frame is complete, before it is pushed.
    fn frame_done(&self) {}

    /// Posts an error and returns the matching flow error. An element that is not started has
    /// nothing to report.
    fn fail(&self, error: &FrameModelError<Self::Error>) -> gst::FlowError {
        if matches!(error, FrameModelError::NotStarted) {
            return gst::FlowError::Flushing;
        }
        self.post_error_message(error.code().message(&format!("{}: {error}", Self::FAILURE)));
        gst::FlowError::Error
    }
}

/// What was submitted for a frame, or why that failed.
type Submitted<M> = Result<<M as FrameModel>::Pending, FrameModelError<<M as FrameModel>::Error>>;

/// The result for a frame, or why there is none.
type Outcome<M> = Result<<M as FrameModel>::Output, FrameModelError<<M as FrameModel>::Error>>;

/// How frames pass through an element.
enum Scheduling<M: FrameModel> {
    /// Each frame waits for its result on the streaming thread.
    Waiting,
    /// Up to this many frames are in flight. A thread of the element pushes them in order.
    InFlight(Arc<InFlight<Submitted<M>>>, usize),
    /// No frame waits for the model.
    Latest(Arc<Latest<M::Output>>),
}

impl<M: FrameModel> Clone for Scheduling<M> {
    fn clone(&self) -> Self {
        match self {
            Self::Waiting => Self::Waiting,
            Self::InFlight(in_flight, limit) => Self::InFlight(Arc::clone(in_flight), *limit),
            Self::Latest(latest) => Self::Latest(Arc::clone(latest)),
        }
    }
}

/// The caps of the stream.
#[derive(Clone)]
struct FrameFormat {
    caps: gst::Caps,
    info: VideoInfo,
}

/// What a scheduler knows from the first caps until stop.
struct State<M: FrameModel> {
    format: Option<FrameFormat>,
    /// Known from the first caps on: only then the element can ask whether its source is live.
    scheduling: Option<Scheduling<M>>,
    latency: Latency,
}

/// The scheduling of one element.
pub(crate) struct Scheduler<M: FrameModel> {
    state: Mutex<State<M>>,
    /// A frame between `submit_input_buffer` and `generate_output`, which follow each other at
    /// once.
    queued: Mutex<Option<gst::Buffer>>,
    failures: Failures,
}

impl<M: FrameModel> Default for Scheduler<M> {
    fn default() -> Self {
        let state = State { format: None, scheduling: None, latency: Latency::default() };
        Self { state: Mutex::new(state), queued: Mutex::default(), failures: Failures::default() }
    }
}

impl<M: FrameModel> Scheduler<M> {
    fn scheduling(&self) -> Option<Scheduling<M>> {
        lock(&self.state).scheduling.clone()
    }

    /// Ends the element's threads. Called from `stop`.
    pub(crate) fn stop(&self) {
        let empty = State { format: None, scheduling: None, latency: Latency::default() };
        // Dropped outside of the lock: joining a thread can take as long as its frame.
        let state = std::mem::replace(&mut *lock(&self.state), empty);
        drop(state);
        *lock(&self.queued) = None;
        self.failures.clear();
    }

    /// Waits until every frame that arrived has left.
    fn drain(&self) {
        if let Some(Scheduling::InFlight(in_flight, _)) = self.scheduling() {
            // The next frame returns the error of a push.
            let _ = in_flight.drain();
        }
    }

    /// For the virtual method `set_caps`.
    pub(crate) fn set_caps(&self, model: &M, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let category = model.category();
        let loggable = |text: String| gst::LoggableError::new(category, glib::bool_error!("{text}"));
        let info = VideoInfo::from_caps(caps).map_err(|_| loggable(format!("{caps} is not raw video")))?;
        self.drain();
        let scheduling = match self.scheduling() {
            Some(scheduling) => scheduling,
            None => Self::choose(model).map_err(|error| {
                let text = format!("{}: a thread cannot be started: {error}; raise `ulimit -u`", M::FAILURE);
                model.post_error_message(ErrorCode::Thread.message(&text));
                loggable(text)
            })?,
        };
        match &scheduling {
            // The video does not wait for a run, not even for the first one.
            Scheduling::Latest(latest) => latest.reset(),
            // The first run of a shape is slow, and a live pipeline queries the latency before the
            // first frame: a black frame solves both. One in CUDA memory cannot be made here.
            Scheduling::Waiting | Scheduling::InFlight(..) if caps::is_in_system_memory(caps) => {
                let time = model.warm_up(&info).map_err(|error| {
                    // The caller only logs, and upstream would report no more than "not
                    // negotiated".
                    let _ = model.fail(&error);
                    loggable(error.to_string())
                })?;
                self.observe(model, time);
            }
            Scheduling::Waiting | Scheduling::InFlight(..) => {}
        }
        model.set_idle();
        let mut state = lock(&self.state);
        (state.format, state.scheduling) = (Some(FrameFormat { caps: caps.clone(), info }), Some(scheduling));
        Ok(())
    }

    fn choose(model: &M) -> io::Result<Scheduling<M>> {
        let element = model.obj().downgrade();
        let limit = match model.mode() {
            SchedulingMode::Latest => {
                let failing = element.clone();
                let analyse = move |buffer: &gst::Buffer, info: &VideoInfo| {
                    let element = element.upgrade().ok_or(gst::FlowError::Flushing)?;
                    Self::analyse_in_background(element.imp(), buffer, info)
                };
                let panicked = move || post_panic::<M>(&failing, "analysing");
                return Ok(Scheduling::Latest(Arc::new(Latest::start(analyse, panicked)?)));
            }
            SchedulingMode::Sync { limit: 0 } if is_live(model.obj().sink_pad()) => 1,
            SchedulingMode::Sync { limit: 0 } => model.default_inflight(),
            SchedulingMode::Sync { limit } => limit,
        };
        gst::debug!(model.category(), imp = model, "up to {limit} frames in flight");
        if limit <= 1 {
            return Ok(Scheduling::Waiting);
        }
        Ok(Scheduling::InFlight(Arc::new(InFlight::start(Push::<M>(element))?), limit))
    }

    /// For the virtual method `sink_event`.
    pub(crate) fn sink_event(&self, model: &M, event: gst::Event) -> bool {
        let kind = event.type_();
        match (kind, self.scheduling()) {
            (gst::EventType::FlushStart, scheduling) => {
                model.set_idle();
                if let Some(Scheduling::InFlight(in_flight, _)) = scheduling {
                    in_flight.flush_start();
                }
            }
            (gst::EventType::FlushStop, Some(Scheduling::InFlight(in_flight, _))) => in_flight.flush_stop(),
            // Only now no earlier frame is on its way to the background thread.
            (
                gst::EventType::FlushStop | gst::EventType::StreamStart | gst::EventType::Segment,
                Some(Scheduling::Latest(latest)),
            ) => latest.reset(),
            (_, Some(Scheduling::InFlight(in_flight, _))) if event.is_serialized() => {
                // The event must not overtake the frames before it.
                let flow = in_flight.drain();
                match kind {
                    gst::EventType::Eos => Self::post_lost_frames(model, flow),
                    gst::EventType::StreamStart | gst::EventType::Segment => in_flight.clear_flow_error(),
                    _ => {}
                }
            }
            _ => {}
        }
        if kind == gst::EventType::Eos {
            model.set_idle();
        }
        model.parent_sink_event(event)
    }

    /// At EOS no frame follows that could return the error of an earlier push.
    fn post_lost_frames(model: &M, flow: Result<gst::FlowSuccess, gst::FlowError>) {
        if let Err(reason @ (gst::FlowError::NotLinked | gst::FlowError::NotNegotiated | gst::FlowError::Error)) = flow
        {
            model.post_error_message(gst::error_msg!(
                gst::StreamError::Failed,
                ("The last frames could not be pushed: {reason}; check the elements after this one"),
                ["streaming stopped, reason {reason:?}"]
            ));
        }
    }

    /// For the virtual method `src_event`.
    pub(crate) fn src_event(&self, model: &M, event: gst::Event) -> bool {
        if let (gst::EventType::Reconfigure, Some(Scheduling::InFlight(in_flight, _))) =
            (event.type_(), self.scheduling())
        {
            in_flight.clear_flow_error();
        }
        model.parent_src_event(event)
    }

    /// For the virtual method `query`.
    pub(crate) fn query(&self, model: &M, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        let element = model.obj();
        if direction == gst::PadDirection::Sink && query.is_serialized() {
            self.drain();
        }
        match (direction, query.view_mut()) {
            // The element never touches the pixels, so downstream decides which memory upstream may
            // use.
            (gst::PadDirection::Sink, gst::QueryViewMut::Allocation(_)) => {
                let is_latest = model.mode() == SchedulingMode::Latest;
                let answered = element.src_pad().peer_query(query);
                if is_latest {
                    allocation::reserve(query, HELD_FRAMES);
                }
                answered || is_latest
            }
            (gst::PadDirection::Src, gst::QueryViewMut::Latency(query)) => {
                latency::answer(query, element.sink_pad(), self.latency(model))
            }
            _ => BaseTransformImplExt::parent_query(model, direction, query),
        }
    }

    /// For the virtual method `submit_input_buffer`.
    pub(crate) fn submit_input_buffer(
        &self,
        model: &M,
        is_discont: bool,
        buffer: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let flow = model.parent_submit_input_buffer(is_discont, buffer)?;
        match (self.scheduling(), model.take_queued_buffer()) {
            (Some(Scheduling::InFlight(in_flight, limit)), Some(buffer)) => {
                in_flight.wait_for_room(limit)?;
                in_flight.submit(self.submit_frame(model, buffer)?)
            }
            (_, Some(buffer)) => {
                *lock(&self.queued) = Some(buffer);
                Ok(flow)
            }
            (_, None) => Ok(flow),
        }
    }

    /// For the virtual method `generate_output`.
    pub(crate) fn generate_output(&self, model: &M) -> Result<GenerateOutputSuccess, gst::FlowError> {
        let Some(buffer) = lock(&self.queued).take() else { return Ok(GenerateOutputSuccess::NoOutput) };
        let buffer = match self.scheduling() {
            Some(Scheduling::Latest(latest)) => self.attach_latest(model, buffer, &latest)?,
            Some(_) => {
                let FrameJob { mut buffer, size, pending } = self.submit_frame(model, buffer)?;
                self.finish(model, &mut buffer, size, pending.map(|submitted| submitted.and_then(M::wait)))?;
                buffer
            }
            None => return Err(gst::FlowError::NotNegotiated),
        };
        Ok(GenerateOutputSuccess::Buffer(buffer))
    }

    fn format(&self) -> Result<FrameFormat, gst::FlowError> {
        lock(&self.state).format.clone().ok_or(gst::FlowError::NotNegotiated)
    }

    /// Submits a frame to the model if it is to be analysed.
    fn submit_frame(&self, model: &M, buffer: gst::Buffer) -> Result<FrameJob<Submitted<M>>, gst::FlowError> {
        let FrameFormat { info, .. } = self.format()?;
        let size = frame::frame_size(&buffer, &info);
        let pending = if model.begin_frame()? {
            model.submit(&buffer, &info).transpose()
        } else {
            model.skipped();
            None
        };
        Ok(FrameJob { buffer, size, pending })
    }

    /// Attaches a result to its own frame.
    fn finish(
        &self,
        model: &M,
        buffer: &mut gst::Buffer,
        size: FrameSize,
        outcome: Option<Outcome<M>>,
    ) -> Result<(), gst::FlowError> {
        if let Some(outcome) = outcome {
            let info = self.format()?.info;
            let refined = outcome.and_then(|mut output| {
                model.refine(buffer, &info, &mut output)?;
                Ok(output)
            });
            match refined {
                Ok(output) => {
                    model.attach(buffer.make_mut(), size, &output, None).map_err(|error| model.fail(&error))?;
                    self.analysed(model, &output);
                    if let Some(time) = model.processing_time(&output) {
                        self.observe(model, time);
                    }
                }
                Err(error) => {
                    self.skip_failure(model, &error)?;
                    model.attach_failure(buffer.make_mut(), size).map_err(|error| model.fail(&error))?;
                }
            }
        }
        if model.obj().current_state() != gst::State::Playing {
            // A preroll frame: no other follows until the pipeline plays.
            model.set_idle();
        }
        model.frame_done();
        Ok(())
    }

    /// Counts a result.
    fn analysed(&self, model: &M, output: &M::Output) {
        self.failures.succeeded();
        model.analysed(output);
    }

    /// Counts a failure after which the stream continues.
    ///
    /// # Errors
    /// If the stream ends: because the user wants that, or because the model does not recover.
    fn skip_failure(&self, model: &M, error: &FrameModelError<M::Error>) -> Result<(), gst::FlowError> {
        if model.on_error() == OnError::Fail || error.is_permanent() {
            return Err(model.fail(error));
        }
        gst::warning!(model.category(), imp = model, "{}: {error}", M::FAILURE);
        match self.failures.failed() {
            Consequence::Skip => {}
            Consequence::Warn(total) => {
                let number = if total == 1 { String::new() } else { format!(" ({total} times so far)") };
                gst::element_imp_warning!(
                    model,
                    gst::StreamError::Failed,
                    ("{}{number}: {error}; the frame passes without a result (on-error=skip)", M::FAILURE),
                    ["further failures are counted, and every hundredth is reported"]
                );
            }
            Consequence::End => {
                let text = format!("{} {MAX_CONSECUTIVE_FAILURES} times in a row: {error}", M::FAILURE);
                model.post_error_message(error.code().message(&text));
                return Err(gst::FlowError::Error);
            }
        }
        model.failed();
        Ok(())
    }

    /// Attaches the newest result to a frame, and gives the frame to the background thread if that
    /// is free.
    fn attach_latest(
        &self,
        model: &M,
        mut buffer: gst::Buffer,
        latest: &Latest<M::Output>,
    ) -> Result<gst::Buffer, gst::FlowError> {
        let FrameFormat { caps, info } = self.format()?;
        let size = frame::frame_size(&buffer, &info);
        let (offered, pts) = (buffer.clone(), buffer.pts());
        let frame = || LatestFrame { buffer: offered, caps, info, size, arrived: Instant::now() };
        let Known { result, has_failed, taken } = latest.exchange(model.begin_frame()?.then_some(frame))?;
        if !taken {
            model.skipped();
        }
        if has_failed {
            model.attach_failure(buffer.make_mut(), size).map_err(|error| model.fail(&error))?;
        }
        if let Some(result) = result.filter(|result| result.size == size) {
            let age = result.age(pts);
            let max_age = model.max_age();
            if max_age.is_zero() || age <= max_age {
                let earlier = Some(EarlierFrame { frame: &result.frame, age });
                model.attach(buffer.make_mut(), size, &result.output, earlier).map_err(|error| model.fail(&error))?;
            }
        }
        model.frame_done();
        Ok(buffer)
    }

    /// Analyses a frame on the background thread.
    fn analyse_in_background(
        model: &M,
        buffer: &gst::Buffer,
        info: &VideoInfo,
    ) -> Result<Analysis<M::Output>, gst::FlowError> {
        let output = model.submit(buffer, info).and_then(|pending| {
            let mut output = pending.map(M::wait).transpose()?;
            output.as_mut().map(|output| model.refine(buffer, info, output)).transpose()?;
            Ok(output)
        });
        let scheduler = model.scheduler();
        match output {
            Ok(Some(output)) => {
                scheduler.analysed(model, &output);
                Ok(Analysis::Found(output))
            }
            Ok(None) => Ok(Analysis::Nothing),
            Err(error) => scheduler.skip_failure(model, &error).map(|()| Analysis::Failed),
        }
    }

    /// The time that the element adds to a frame: waiting for a batch, and processing.
    fn latency(&self, model: &M) -> gst::ClockTime {
        if model.mode() == SchedulingMode::Latest {
            return gst::ClockTime::ZERO;
        }
        let time = model.batch_timeout() + lock(&self.state).latency.reported();
        gst::ClockTime::try_from(time).unwrap_or(gst::ClockTime::MAX)
    }

    /// Records a processing time and announces a change of the latency.
    fn observe(&self, model: &M, time: Duration) {
        let changed = lock(&self.state).latency.observe(time);
        if changed {
            gst::debug!(model.category(), imp = model, "latency is now {}", self.latency(model));
            let element = model.obj();
            let message = gst::message::Latency::builder().src(element.upcast_ref::<gst::Element>()).build();
            // Without a bus there is no receiver.
            let _ = element.post_message(message);
        }
    }
}

/// Whether the stream comes from a live source.
pub(crate) fn is_live(sink: &gst::Pad) -> bool {
    let mut latency = gst::query::Latency::new();
    sink.peer_query(&mut latency) && latency.result().0
}

/// Posts the error for a panic on one of an element's threads.
fn post_panic<M: FrameModel>(element: &glib::WeakRef<M::Type>, thread: &str) {
    if let Some(element) = element.upgrade() {
        let text = format!("{}: the {thread} thread panicked; restart the element and report the bug", M::FAILURE);
        element.imp().post_error_message(ErrorCode::Failed.message(&text));
    }
}

/// Pushes frames for an element while it exists.
struct Push<M: FrameModel>(glib::WeakRef<M::Type>);

impl<M: FrameModel> Pusher for Push<M> {
    type Pending = Submitted<M>;
    type Outcome = Outcome<M>;

    fn wait(submitted: Submitted<M>) -> Outcome<M> {
        submitted.and_then(M::wait)
    }

    fn push(
        &self,
        frame: FrameJob<Submitted<M>>,
        outcome: Option<Self::Outcome>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let element = self.0.upgrade().ok_or(gst::FlowError::Flushing)?;
        let FrameJob { mut buffer, size, .. } = frame;
        let model = element.imp();
        model.scheduler().finish(model, &mut buffer, size, outcome)?;
        element.src_pad().push(buffer)
    }

    fn panicked(&self) {
        post_panic::<M>(&self.0, "pushing");
    }
}
