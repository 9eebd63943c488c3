use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use face_meta::{AnalysedFaces, FrameFaces, FrameState, Prediction};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use retinaface::geometry::FrameSize;
use retinaface::track::{
    DEFAULT_LOST_TIMEOUT, DEFAULT_MIN_HITS, DEFAULT_SCORE_THRESHOLD, TrackEvent, Tracker, TrackerSettings,
};

use crate::common::errors::ErrorCode;
use crate::common::face_reader::FaceReader;
use crate::common::stream_time::StreamTime;
use crate::common::sync::lock;
use crate::common::{caps, frame};

const DEFAULT_RESTART_IDS: bool = false;

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("facetrack", gst::DebugColorFlags::empty(), Some("Tracking of faces")));

#[derive(Clone, Copy, Debug)]
struct Settings {
    tracker: TrackerSettings,
    restart_ids: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tracker: TrackerSettings::default(), restart_ids: DEFAULT_RESTART_IDS }
    }
}

impl Settings {
    fn new_tracker(&self) -> Tracker {
        if self.restart_ids { Tracker::with_restarted_ids() } else { Tracker::new() }
    }
}

/// What exists between `start` and `stop`.
struct State {
    tracker: Tracker,
    info: Option<VideoInfo>,
    time: StreamTime,
    /// Number of faces that had lost their position when the detector's latest result arrived.
    lost: usize,
    /// The frame of that result with its faces and their ids, if it is an earlier one.
    analysed: Option<AnalysedFaces>,
    /// The number of that analysis, if it is known.
    analysis: Option<u64>,
    /// The detector has failed since its latest result.
    has_failed: bool,
}

impl State {
    /// Ends all tracks and forgets the latest result.
    fn end(&mut self) {
        if let Some(time) = self.time.last() {
            self.tracker.end(time);
        }
        self.time.clear();
        (self.lost, self.analysed, self.analysis, self.has_failed) = (0, None, None, false);
    }

    fn take_events(&mut self) -> Vec<TrackEvent> {
        let events = self.tracker.take_events();
        let in_pts = |event: TrackEvent| TrackEvent {
            time: self.time.mirrored(event.time),
            first_seen: self.time.mirrored(event.first_seen),
            last_seen: self.time.mirrored(event.last_seen),
            ..event
        };
        events.into_iter().map(in_pts).collect()
    }
}

#[derive(Default)]
pub(crate) struct FaceTrack {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    faces: FaceReader,
}

#[glib::object_subclass]
impl ObjectSubclass for FaceTrack {
    const NAME: &'static str = "GstFaceTrack";
    type Type = super::FaceTrack;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for FaceTrack {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecFloat::builder("score-threshold")
                    .nick("Score threshold")
                    .blurb(
                        "Minimum score of a face that starts a track. Faces with a lower score only continue tracks; the \
                         score-threshold of the detector must let them pass",
                    )
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(DEFAULT_SCORE_THRESHOLD)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("min-hits")
                    .nick("Minimum hits")
                    .blurb("Number of detections after which a face gets its track id")
                    .minimum(1)
                    .maximum(1000)
                    .default_value(DEFAULT_MIN_HITS)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("lost-timeout")
                    .nick("Lost timeout")
                    .blurb(
                        "Time in ms without a detection after which a track is ended; also the longest time for which \
                         faces are predicted. A timestamp that jumps by more, or back, ends all tracks",
                    )
                    .minimum(1)
                    .default_value(u32::try_from(DEFAULT_LOST_TIMEOUT.as_millis()).unwrap_or(u32::MAX))
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("restart-ids")
                    .nick("Restart ids")
                    .blurb(
                        "Count track ids from 1 at start and after each flushing seek, so that a part of the stream that \
                         is played again has the same ids; otherwise ids are unique in the process",
                    )
                    .default_value(DEFAULT_RESTART_IDS)
                    .mutable_ready()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const CHECKED: &str = "GObject checks the type of a property";
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "score-threshold" => settings.tracker.score_threshold = value.get().expect(CHECKED),
            "min-hits" => settings.tracker.min_hits = value.get().expect(CHECKED),
            "lost-timeout" => {
                settings.tracker.lost_timeout = Duration::from_millis(value.get::<u32>().expect(CHECKED).into());
            }
            "restart-ids" => settings.restart_ids = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = lock(&self.settings);
        match pspec.name() {
            "score-threshold" => settings.tracker.score_threshold.to_value(),
            "min-hits" => settings.tracker.min_hits.to_value(),
            "lost-timeout" => u32::try_from(settings.tracker.lost_timeout.as_millis()).unwrap_or(u32::MAX).to_value(),
            "restart-ids" => settings.restart_ids.to_value(),
            _ => unreachable!("GObject reads listed properties only"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        caps::report_unsupported_caps(&*self.obj(), self.obj().sink_pad());
    }
}

impl GstObjectImpl for FaceTrack {}

impl ElementImpl for FaceTrack {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Face tracker",
                "Filter/Analyzer/Video",
                "Gives each face an id that is constant across frames, and predicts faces between inferences",
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
}

impl BaseTransformImpl for FaceTrack {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let tracker = lock(&self.settings).new_tracker();
        *lock(&self.state) = Some(State {
            tracker,
            info: None,
            time: StreamTime::default(),
            lost: 0,
            analysed: None,
            analysis: None,
            has_failed: false,
        });
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = None;
        Ok(())
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = VideoInfo::from_caps(incaps).map_err(|_| gst::loggable_error!(CAT, "{incaps} is not raw video"))?;
        let size = |info: &VideoInfo| (info.width(), info.height(), info.par());
        let is_other = |old: &VideoInfo| size(old) != size(&info);
        if lock(&self.state).as_ref().is_some_and(|state| state.info.as_ref().is_some_and(is_other)) {
            self.end_tracks();
        }
        if let Some(state) = &mut *lock(&self.state) {
            state.time.set_info(&info);
            state.info = Some(info);
        }
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Eos(_) | gst::EventView::StreamStart(_) => self.end_tracks(),
            gst::EventView::FlushStop(_) => {
                // The end of the tracks cannot be sent before the flush has ended.
                let handled = self.parent_sink_event(event);
                self.end_tracks();
                let settings = *lock(&self.settings);
                if let Some(state) = lock(&self.state).as_mut().filter(|_| settings.restart_ids) {
                    state.tracker = settings.new_tracker();
                }
                return handled;
            }
            gst::EventView::Segment(segment) => {
                let rate = segment.segment().rate();
                let turns = |state: &State| { state.time }.set_rate(rate);
                if lock(&self.state).as_ref().is_some_and(turns) {
                    self.end_tracks();
                }
                if let Some(state) = &mut *lock(&self.state) {
                    state.time.set_rate(rate);
                }
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        match (direction, query.view_mut()) {
            // No pixels are read, so downstream decides which memory upstream may use.
            (gst::PadDirection::Sink, gst::QueryViewMut::Allocation(_)) => self.obj().src_pad().peer_query(query),
            _ => BaseTransformImplExt::parent_query(self, direction, query),
        }
    }

    fn transform_ip(&self, buffer: &mut gst::BufferRef) -> Result<gst::FlowSuccess, gst::FlowError> {
        let settings = lock(&self.settings).tracker;
        let info = lock(&self.state).as_ref().ok_or(gst::FlowError::Flushing)?.info.clone();
        let info = info.ok_or(gst::FlowError::NotNegotiated)?;
        let found = self.faces.read(&*self.obj(), buffer, &info, "tracked");
        let size = frame::frame_size(buffer, &info);
        // The lock is released before a push. Only this thread tracks.
        let (attached, events) = {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            let attached = self.track(state, buffer, found, size, &settings);
            (attached, state.take_events())
        };
        self.send(&events);
        attached.map(|()| gst::FlowSuccess::Ok).map_err(|error| {
            let text = format!("Tracks cannot be attached to a frame: {error}");
            self.post_error_message(ErrorCode::Failed.message(&text));
            gst::FlowError::Error
        })
    }
}

impl FaceTrack {
    fn track(
        &self,
        state: &mut State,
        buffer: &mut gst::BufferRef,
        mut found: FrameFaces,
        size: FrameSize,
        settings: &TrackerSettings,
    ) -> Result<(), glib::BoolError> {
        let mut next = state.time;
        let time = next.next(buffer.pts());
        let is_gap = |last: Duration| time < last || time - last > settings.lost_timeout;
        if let Some(last) = state.time.last().filter(|last| is_gap(*last)) {
            gst::debug!(CAT, imp = self, "the time goes from {last:?} to {time:?}: all tracks end");
            state.end();
        }
        state.time = next;
        state.has_failed = found.failed || (state.has_failed && !found.state.has_result());
        match found.state {
            FrameState::Detected if found.age.is_zero() => {
                let dropped = update(&mut state.tracker, time, &mut found, size, settings);
                (state.lost, state.analysed, state.analysis) = (found.lost + dropped, None, None);
                return face_meta::update(buffer, &found, size);
            }
            FrameState::Detected => {
                // Frames carry the result of an earlier one until the next result is there.
                let then = time.saturating_sub(found.age);
                state.tracker.expire(time, settings);
                let analysis = face_meta::analysis_number(buffer);
                let is_new = match analysis {
                    Some(number) => state.analysis != Some(number),
                    None => state.tracker.time().is_none_or(|last| then > last),
                };
                if is_new {
                    state.analysis = analysis;
                    let then = state.tracker.time().map_or(then, |last| then.max(last));
                    let dropped = update(&mut state.tracker, then, &mut found, size, settings);
                    state.lost = found.lost + dropped;
                    state.analysed = face_meta::read_analysed(buffer).map(|mut analysed| {
                        // The same faces, in pixels of their own frame.
                        for face in &mut analysed.faces {
                            let same = found.faces.iter().find(|found| found.roi_id == face.roi_id);
                            face.face.track_id = same.and_then(|found| found.face.track_id);
                        }
                        analysed
                    });
                }
            }
            FrameState::None => state.tracker.expire(time, settings),
            // Another facetrack has done the work.
            FrameState::Predicted => return Ok(()),
        }
        if state.has_failed {
            // The interval of inferences says how long a new face can be unknown. It is longer now, and
            // elements downstream, such as faceredact, do not know that.
            return Ok(());
        }
        let Some(age) = state.tracker.time().map(|then| time.saturating_sub(then)) else { return Ok(()) };
        if age > settings.lost_timeout {
            return Ok(());
        }
        let from = Prediction { age, lost: state.lost, analysed: state.analysed.as_ref() };
        face_meta::attach_predicted(buffer, &state.tracker.predict(time), size, &from)
    }

    /// Ends all tracks, and says so downstream and on the bus.
    fn end_tracks(&self) {
        let events = lock(&self.state).as_mut().map(|state| {
            state.end();
            state.take_events()
        });
        self.send(&events.unwrap_or_default());
    }

    /// Sends events downstream and posts them on the bus.
    fn send(&self, events: &[TrackEvent]) {
        let element = self.obj();
        for event in events {
            let structure = face_meta::track_event(event);
            gst::log!(CAT, imp = self, "{structure}");
            // Without a bus there is no receiver.
            let _ = element.post_message(gst::message::Element::builder(structure.clone()).src(&*element).build());
            // Elements that do not know the event ignore it.
            element.src_pad().push_event(gst::event::CustomDownstream::new(structure));
        }
    }
}

/// Adds the result of an inference to the tracks, and the ids of the tracks to its faces. Returns the
/// number of faces that are not predicted.
fn update(
    tracker: &mut Tracker,
    time: Duration,
    found: &mut FrameFaces,
    size: FrameSize,
    settings: &TrackerSettings,
) -> usize {
    let mut faces = found.faces.iter().map(|found| found.face.clone()).collect::<Vec<_>>();
    let dropped = tracker.update(time, &mut faces, size, settings);
    for (found, face) in found.faces.iter_mut().zip(faces) {
        found.face = face;
    }
    dropped
}
