use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::{VideoCropMeta, VideoInfo};
use retinaface::geometry::Face;
use retinaface::image::{RedactionBuffers, redact_all};
use retinaface::track::{Coverage, Doubt, KnownFaces};

use super::cover::cover;
use super::delayed::{DelayedFrame, DelayedItems, Item};
use super::settings::{self, OnDoubt, Settings};
use crate::common::errors::{Coded, ErrorCode};
use crate::common::face_reader::FaceReader;
use crate::common::stream_time::StreamTime;
use crate::common::sync::lock;
use crate::common::{allocation, caps, frame, latency};

/// Name of the message that reports a doubt.
const DOUBT_MESSAGE: &str = "retinaface-redact-doubt";

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("faceredact", gst::DebugColorFlags::empty(), Some("Redaction of faces")));

/// Counts since start.
#[derive(Clone, Copy, Debug, Default)]
struct Stats {
    frames: u64,
    covered: u64,
    dropped: u64,
    faces: u64,
    exempt: u64,
}

impl Stats {
    fn structure(self) -> gst::Structure {
        gst::Structure::builder("faceredact-stats")
            .field("frames", self.frames)
            .field("frames-covered", self.covered)
            .field("frames-dropped", self.dropped)
            .field("faces", self.faces)
            .field("exempt", self.exempt)
            .build()
    }
}

/// What exists between READY and PAUSED.
#[derive(Default)]
struct State {
    info: Option<VideoInfo>,
    time: StreamTime,
    coverage: Coverage,
    queue: DelayedItems,
    buffers: RedactionBuffers,
    stats: Stats,
    /// The doubt about the previous frame.
    doubt: Option<Doubt>,
    /// The previous frame was dropped.
    is_discont: bool,
}

impl State {
    /// Forgets frames and faces: the stream continues after a seek or a flush.
    fn clear(&mut self) {
        self.queue.clear();
        self.coverage.clear();
        self.time.clear();
        self.doubt = None;
    }
}

pub(crate) struct FaceRedact {
    sink: gst::Pad,
    src: gst::Pad,
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    faces: FaceReader,
}

#[glib::object_subclass]
impl ObjectSubclass for FaceRedact {
    const NAME: &'static str = "GstFaceRedact";
    type Type = super::FaceRedact;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let template = |name: &str| class.pad_template(name).expect("the templates below");
        let sink = gst::Pad::builder_from_template(&template("sink"))
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |this| this.chain(buffer))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_query(pad, query))
            })
            .flags(gst::PadFlags::PROXY_CAPS)
            .build();
        let src = gst::Pad::builder_from_template(&template("src"))
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.src_query(pad, query))
            })
            .flags(gst::PadFlags::PROXY_CAPS)
            .build();
        Self { sink, src, settings: Mutex::default(), state: Mutex::default(), faces: FaceReader::default() }
    }
}

impl ObjectImpl for FaceRedact {
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
            let rest =
                if pspec.name() == "masks" { "the previous value stays in effect" } else { "no track is exempt" };
            gst::element_imp_warning!(self, gst::ResourceError::Settings, ("{problem}; {rest}"));
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "stats" => {
                let stats = lock(&self.state).as_ref().map_or_else(Stats::default, |state| state.stats);
                stats.structure().to_value()
            }
            name => lock(&self.settings).get(name),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        for pad in [&self.sink, &self.src] {
            self.obj().add_pad(pad).expect("a new element has no pads yet");
        }
        caps::report_unsupported_caps(&*self.obj(), &self.sink);
    }
}

impl GstObjectImpl for FaceRedact {}

impl ElementImpl for FaceRedact {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Face redaction",
                "Filter/Effect/Video",
                "Covers the faces of a frame, and the whole frame if its known faces may be incomplete",
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
        if transition == gst::StateChange::ReadyToPaused {
            let problem = lock(&self.settings).problem();
            if let Some(problem) = problem {
                self.post_error_message(ErrorCode::Settings.message(&problem));
                return Err(gst::StateChangeError);
            }
            *lock(&self.state) = Some(State::default());
        }
        let result = self.parent_change_state(transition);
        if transition == gst::StateChange::PausedToReady {
            *lock(&self.state) = None;
        }
        result
    }
}

impl FaceRedact {
    fn lookahead(&self) -> u32 {
        lock(&self.settings).lookahead
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if query.type_() == gst::QueryType::Allocation {
            // Every stride and crop is supported, so downstream decides which memory upstream may use.
            let is_answered = self.src.peer_query(query);
            let extra = self.lookahead();
            if extra > 0 {
                allocation::reserve(query, extra);
            }
            return is_answered || extra > 0;
        }
        if query.type_() == gst::QueryType::Drain {
            self.drain();
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Latency(query) = query.view_mut() {
            let frame_time = lock(&self.state).as_ref().map_or(Duration::ZERO, |state| state.time.frame_time());
            let own = gst::ClockTime::try_from(frame_time * self.lookahead()).unwrap_or(gst::ClockTime::MAX);
            return latency::answer(query, &self.sink, own);
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStop(_) => {
                if let Some(state) = &mut *lock(&self.state) {
                    state.clear();
                }
            }
            gst::EventView::FlushStart(_) => {}
            gst::EventView::Caps(caps) => {
                let Ok(info) = VideoInfo::from_caps(caps.caps()) else {
                    gst::error!(CAT, imp = self, "{} is not raw video", caps.caps());
                    return false;
                };
                let size = |info: &VideoInfo| (info.width(), info.height());
                let old = lock(&self.state).as_ref().and_then(|state| state.info.clone());
                let has_other_size = old.as_ref().is_some_and(|old| size(old) != size(&info));
                if has_other_size {
                    self.drain();
                }
                let mut changes_latency = false;
                if let Some(state) = &mut *lock(&self.state) {
                    let before = state.time.frame_time();
                    state.time.set_info(&info);
                    changes_latency = state.time.frame_time() != before;
                    if let Some(old) = old.filter(|_| has_other_size) {
                        let scale = |now: u32, before: u32| now as f32 / before.max(1) as f32;
                        state.coverage.rescale(scale(info.width(), old.width()), scale(info.height(), old.height()));
                    }
                    state.info = Some(info);
                }
                if changes_latency {
                    self.post_latency();
                }
                if self.delay(&event) {
                    return true;
                }
            }
            gst::EventView::Eos(_)
            | gst::EventView::StreamStart(_)
            | gst::EventView::SegmentDone(_)
            | gst::EventView::StreamGroupDone(_) => self.drain(),
            gst::EventView::Segment(segment) => {
                let rate = segment.segment().rate();
                let turns = |state: &State| { state.time }.set_rate(rate);
                if lock(&self.state).as_ref().is_some_and(turns) {
                    self.drain();
                    if let Some(state) = &mut *lock(&self.state) {
                        state.time.set_rate(rate);
                        state.clear();
                    }
                }
                if self.delay(&event) {
                    return true;
                }
            }
            _ if event.is_serialized() && self.delay(&event) => return true,
            _ => {}
        }
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    /// Delays an event with the frames before it, which it must not overtake. Returns whether there are
    /// any.
    fn delay(&self, event: &gst::Event) -> bool {
        lock(&self.state).as_mut().is_some_and(|state| state.queue.delay_event(event))
    }

    /// Pushes all delayed frames.
    fn drain(&self) {
        if let Err(error @ (gst::FlowError::NotLinked | gst::FlowError::NotNegotiated)) = self.push(0) {
            // No frame follows that could return it.
            let text = format!("The last frames could not be pushed: {error}; check the elements after this one");
            self.post_error_message(ErrorCode::Failed.message(&text));
        }
    }

    fn chain(&self, mut buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let settings = lock(&self.settings).coverage();
        let info = lock(&self.state).as_ref().ok_or(gst::FlowError::Flushing)?.info.clone();
        let info = info.ok_or(gst::FlowError::NotNegotiated)?;
        let found = self.faces.read(&*self.obj(), &buffer, &info, "covered");
        // It shows the faces, and would be kept as long as this frame.
        face_meta::remove_analysed(buffer.make_mut());
        let (has_result, age, lost) = (found.state.has_result(), found.age, found.lost);
        // Only the box counts.
        let boxed = |face: Face| Face { landmarks: None, points: Vec::new(), ..face };
        let faces = found.into_faces().into_iter().map(boxed).collect();
        let known = KnownFaces { has_result, age, lost, faces };
        let mut changes_latency = false;
        if let Some(state) = &mut *lock(&self.state) {
            let (last, frame_time) = (state.time.last(), state.time.frame_time());
            let mut time = state.time.next(buffer.pts());
            if let Some(last) = last.filter(|last| time < *last) {
                if last - time > settings.hold {
                    state.coverage.clear();
                } else {
                    // Timestamps that are slightly out of order are not a seek.
                    state.time.set_last(last);
                    time = last;
                }
            }
            changes_latency = state.time.frame_time() != frame_time;
            let coverage = state.coverage.update(time, &known, &settings);
            let exempt = settings.exempt.clone();
            state.queue.push(DelayedFrame { buffer, info, time, known, coverage, exempt });
        }
        if changes_latency {
            self.post_latency();
        }
        self.push(self.lookahead() as usize)
    }

    /// Tells the pipeline that the latency has changed.
    fn post_latency(&self) {
        if self.lookahead() > 0 {
            // Without a bus there is no receiver.
            let _ = self.obj().post_message(gst::message::Latency::builder().src(&*self.obj()).build());
        }
    }

    /// Pushes the oldest frames until `delayed` are left.
    fn push(&self, delayed: usize) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut flow = Ok(gst::FlowSuccess::Ok);
        loop {
            let settings = lock(&self.settings).clone();
            let (item, buffers) = {
                let mut state = lock(&self.state);
                let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
                let State { queue, coverage, buffers, .. } = state;
                match queue.take(delayed, coverage, &settings.coverage()) {
                    Some(item @ Item::Frame(_)) => (item, std::mem::take(buffers)),
                    Some(event) => (event, RedactionBuffers::default()),
                    None => return flow,
                }
            };
            // No lock is held while pixels are covered or a buffer is pushed.
            match item {
                Item::Event(event) => {
                    self.src.push_event(event);
                }
                Item::Frame(frame) => {
                    if let Some(buffer) = self.redact(*frame, &settings, buffers)? {
                        flow = self.src.push(buffer);
                        flow?;
                    }
                }
            }
        }
    }

    /// Covers the areas of a frame. `None` if it is dropped.
    fn redact(
        &self,
        frame: DelayedFrame,
        settings: &Settings,
        mut buffers: RedactionBuffers,
    ) -> Result<Option<gst::Buffer>, gst::FlowError> {
        let DelayedFrame { buffer, info, coverage, .. } = frame;
        self.report(coverage.doubt, settings.on_doubt, buffer.pts());
        if let (Some(doubt), OnDoubt::Error) = (coverage.doubt, settings.on_doubt) {
            let text = format!(
                "A frame may show faces that are not covered: {doubt}; put `retinaface` directly before this element, and \
                 `facetrack` between them if inference-interval is above 1, or set on-doubt=cover"
            );
            return Err(self.fail(ErrorCode::Failed, &text));
        }
        let is_dropped = coverage.doubt.is_some() && settings.on_doubt == OnDoubt::Drop;
        let is_discont = {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            state.stats.frames += 1;
            state.stats.faces += coverage.faces as u64;
            state.stats.exempt += coverage.exempt as u64;
            match (coverage.doubt, is_dropped) {
                (Some(_), true) => state.stats.dropped += 1,
                (Some(_), false) => state.stats.covered += 1,
                (None, _) => {}
            }
            std::mem::replace(&mut state.is_discont, is_dropped)
        };
        if is_dropped {
            return Ok(None);
        }
        let mut buffer = own_memory(buffer).map_err(|error| self.fail(error.code(), &error.to_string()))?;
        let out = buffer.make_mut();
        if settings.strip_metadata {
            face_meta::strip(out);
        }
        if is_discont {
            out.set_flags(gst::BufferFlags::DISCONT);
        }
        let masks = settings.masks();
        let is_cropped = out.meta::<VideoCropMeta>().is_some();
        if coverage.doubt.is_some()
            || !(coverage.areas.is_empty() && coverage.held_areas.is_empty())
            || !masks.is_empty()
            || is_cropped
        {
            let covered = frame::write_all(out, &info, |view, crop| {
                if coverage.doubt.is_some() {
                    redact_all(view, settings.color());
                } else {
                    cover(view, crop, &coverage, &masks, settings, &mut buffers);
                }
            });
            covered.map_err(|error| self.fail(error.code(), &error.to_string()))?;
        }
        if let Some(state) = &mut *lock(&self.state) {
            state.buffers = buffers;
        }
        Ok(Some(buffer))
    }

    /// Posts a message when a doubt begins.
    fn report(&self, doubt: Option<Doubt>, on_doubt: OnDoubt, pts: Option<gst::ClockTime>) {
        let before = lock(&self.state).as_mut().and_then(|state| std::mem::replace(&mut state.doubt, doubt));
        let Some(doubt) = doubt.filter(|doubt| before != Some(*doubt)) else { return };
        gst::warning!(CAT, imp = self, "a frame at {pts:?} is in doubt ({on_doubt:?}): {doubt}");
        let structure = gst::Structure::builder(DOUBT_MESSAGE)
            .field("reason", doubt.to_string())
            .field_if_some("pts", pts.map(gst::ClockTime::nseconds))
            .build();
        // Without a bus there is no receiver.
        let _ = self.obj().post_message(gst::message::Element::builder(structure).src(&*self.obj()).build());
    }

    fn fail(&self, code: ErrorCode, text: &str) -> gst::FlowError {
        self.post_error_message(code.message(&format!("Faces cannot be covered: {text}")));
        gst::FlowError::Error
    }
}

/// The buffer without a reference to the one that its memory belongs to. That one shows the faces.
fn own_memory(buffer: gst::Buffer) -> Result<gst::Buffer, glib::BoolError> {
    if buffer.meta::<gst::ParentBufferMeta>().is_none() {
        return Ok(buffer);
    }
    // Without the reference, the memory could be used for another frame.
    let mut copy = buffer.copy_deep()?;
    copy.make_mut().foreach_meta_mut(|mut meta| {
        let is_parent = meta.downcast_ref::<gst::ParentBufferMeta>().is_some();
        std::ops::ControlFlow::Continue(if is_parent {
            gst::buffer::BufferMetaForeachAction::Remove
        } else {
            gst::buffer::BufferMetaForeachAction::Keep
        })
    });
    Ok(copy)
}
