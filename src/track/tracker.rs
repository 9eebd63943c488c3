//! The tracker of one stream.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::MAX_TRACKS;
use super::association::{self, Expected};
use super::motion::{Motion, Predicted};
use crate::geometry::{Face, FrameSize, Point, iou};

/// Default of [`TrackerSettings::score_threshold`].
pub const DEFAULT_SCORE_THRESHOLD: f32 = 0.5;
/// Default of [`TrackerSettings::min_hits`].
pub const DEFAULT_MIN_HITS: u32 = 2;
/// Default of [`TrackerSettings::lost_timeout`].
pub const DEFAULT_LOST_TIMEOUT: Duration = Duration::from_millis(2000);

/// A measurement with a low score has this many times the noise of another one.
const LOW_SCORE_NOISE: f64 = 2.0;
/// A new face that overlaps a tracked one by more than this starts no track: the detector found one face
/// twice.
const MAX_OVERLAP_OF_NEW: f32 = 0.6;
/// Maximum number of events that wait to be taken. Older ones are dropped.
const MAX_EVENTS: usize = 4 * MAX_TRACKS;

/// Settings of a tracker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackerSettings {
    /// Faces with at least this score, in 0.0..=1.0, start tracks. Others only continue one.
    pub score_threshold: f32,
    /// Number of detections, at least 1, after which a track is confirmed. Faces of a track have its id
    /// from then on. A track that is missed before is ended.
    pub min_hits: u32,
    /// Time without a detection after which a track is ended.
    pub lost_timeout: Duration,
}

impl Default for TrackerSettings {
    fn default() -> Self {
        Self {
            score_threshold: DEFAULT_SCORE_THRESHOLD,
            min_hits: DEFAULT_MIN_HITS,
            lost_timeout: DEFAULT_LOST_TIMEOUT,
        }
    }
}

/// What happened to a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrackEventKind {
    /// A face was seen for the first time. It can still be a false detection.
    Started,
    /// The face was detected often enough to get an id.
    Confirmed,
    /// A confirmed track was not found by an inference. It resumes if its face is found again.
    Lost,
    /// A lost track was found again.
    Resumed,
    /// The track is over. This tracker does not use its id again.
    Ended,
}

impl TrackEventKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Started, Self::Confirmed, Self::Lost, Self::Resumed, Self::Ended];

    /// The name, as in JSON lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Confirmed => "confirmed",
            Self::Lost => "lost",
            Self::Resumed => "resumed",
            Self::Ended => "ended",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// An event of a track. Times are those of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackEvent {
    /// What happened.
    pub kind: TrackEventKind,
    /// Id of the track.
    pub track_id: u64,
    /// When it happened.
    pub time: Duration,
    /// When the face was detected first.
    pub first_seen: Duration,
    /// When the face was detected last.
    pub last_seen: Duration,
    /// Whether the track was confirmed, before or by this event.
    pub is_confirmed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TrackState {
    Tentative,
    Confirmed,
    Lost,
}

#[derive(Clone, Debug)]
struct Track {
    id: u64,
    state: TrackState,
    hits: u32,
    first_seen: Duration,
    last_seen: Duration,
    /// The face as it was detected last, with the points of a landmark model and its score.
    face: Face,
    motion: Motion,
}

impl Track {
    fn predict(&self, time: Duration) -> Predicted {
        self.motion.predict(time.saturating_sub(self.last_seen).as_secs_f64())
    }

    /// The id, once the track is confirmed.
    fn id(&self) -> Option<u64> {
        (self.state != TrackState::Tentative).then_some(self.id)
    }
}

/// Gives the faces of one stream ids that are constant across frames, and predicts where they are.
///
/// The only clock is the time of the frames, so that the same frames have the same tracks. Ids are
/// unique in the process.
///
/// ```
/// use std::time::Duration;
/// use retinaface::track::{Tracker, TrackerSettings};
/// use retinaface::{Face, Rect};
///
/// let (mut tracker, settings) = (Tracker::new(), TrackerSettings::default());
/// for frame in 0..5 {
///     let time = Duration::from_millis(200 * frame);
///     let rect = Rect::new(10.0 * frame as f32, 50.0, 40.0, 40.0);
///     let mut faces = [Face { score: 0.9, rect, ..Face::default() }];
///     tracker.update(time, &mut faces, (640, 360), &settings);
///     assert_eq!(faces[0].track_id.is_some(), frame > 0, "confirmed by the second detection");
/// }
/// // Half of the time to the next inference: half of its way.
/// let predicted = tracker.predict(Duration::from_millis(900));
/// assert!((predicted[0].rect.x - 45.0).abs() < 1.0);
/// ```
#[derive(Debug, Default)]
pub struct Tracker {
    tracks: Vec<Track>,
    /// Faces of the latest inference that belong to no track, with the motion of a face that was seen
    /// once.
    untracked: Vec<(Face, Motion)>,
    events: VecDeque<TrackEvent>,
    /// Ids that start at 1 for this tracker; `None`: ids of the process.
    restarted_ids: Option<u64>,
    /// Time of the latest inference.
    time: Option<Duration>,
}

impl Tracker {
    /// A tracker without tracks.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tracker whose ids start at 1. They are not unique in the process, but the same for the same
    /// frames.
    pub fn with_restarted_ids() -> Self {
        Self { restarted_ids: Some(0), ..Self::default() }
    }

    fn next_id(&mut self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        match &mut self.restarted_ids {
            Some(last) => {
                *last += 1;
                *last
            }
            None => NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Time of the latest inference since the start or the latest [`Self::end`].
    pub fn time(&self) -> Option<Duration> {
        self.time
    }

    /// Adds the faces that an inference found in the frame with this time, in pixels of a frame of
    /// `size`. Sets their track ids. `time` must not be before that of the previous call.
    ///
    /// Boxes without an area, values that are not finite, and faces beyond the 256 best scores belong to no
    /// track and are not predicted. Returns their number.
    pub fn update(
        &mut self,
        time: Duration,
        faces: &mut [Face],
        size: impl Into<FrameSize>,
        settings: &TrackerSettings,
    ) -> usize {
        let size = size.into();
        faces.iter_mut().for_each(|face| face.track_id = None);
        self.time = Some(time);
        self.expire(time, settings);
        let mut usable = (0..faces.len()).filter(|index| is_usable(&faces[*index])).collect::<Vec<_>>();
        // Mostly sorted already.
        usable.sort_by(|a, b| faces[*b].score.total_cmp(&faces[*a].score));
        usable.truncate(MAX_TRACKS);
        let candidates = usable.iter().map(|index| &faces[*index]).collect::<Vec<_>>();

        let mut expected = self.expected(time);
        if let Some(by) = association::camera_shift(&expected, &candidates, (size.width as f32, size.height as f32)) {
            self.tracks.iter_mut().for_each(|track| track.motion.shift(by));
            expected = self.expected(time);
        }
        let matched = association::associate(&expected, &candidates, settings.score_threshold);
        let mut is_new = vec![true; candidates.len()];
        for (index, candidate) in matched.iter().enumerate() {
            match candidate {
                Some(candidate) => {
                    is_new[*candidate] = false;
                    self.hit(index, time, candidates[*candidate], settings);
                }
                None => self.miss(index, time),
            }
        }
        let mut ids = matched
            .iter()
            .enumerate()
            .filter_map(|(track, candidate)| Some((usable[(*candidate)?], self.tracks[track].id()?)))
            .collect::<Vec<_>>();
        // The ended ones stay until here: `matched` has their indices.
        self.tracks.retain(|track| track.hits > 0);
        self.untracked.clear();
        for (candidate, face) in candidates.iter().enumerate().filter(|(candidate, _)| is_new[*candidate]) {
            let is_duplicate = || {
                let mut others = matched.iter().flatten().map(|other| candidates[*other].rect);
                others.any(|other| iou(other, face.rect) > MAX_OVERLAP_OF_NEW)
            };
            if face.score < settings.score_threshold || self.tracks.len() == MAX_TRACKS || is_duplicate() {
                self.untracked.push(((*face).clone(), Motion::new(face)));
            } else if let Some(id) = self.start(time, face, settings) {
                ids.push((usable[candidate], id));
            }
        }
        let dropped = faces.len() - usable.len();
        for (face, id) in ids {
            faces[face].track_id = Some(id);
        }
        dropped
    }

    /// Where the faces of all tracks that are not lost are at `time`, which is not before the latest
    /// inference. Faces of tracks that are not confirmed, and those that belong to no track, have no id.
    pub fn predict(&self, time: Duration) -> Vec<Face> {
        let active = self.tracks.iter().filter(|track| track.state != TrackState::Lost);
        let tracked = active.map(|track| predicted_face(&track.face, track.predict(time), track.id()));
        let seconds = self.time.map_or(0.0, |then| time.saturating_sub(then).as_secs_f64());
        let untracked = self.untracked.iter().map(|(face, motion)| predicted_face(face, motion.predict(seconds), None));
        tracked.chain(untracked).collect()
    }

    /// Ends the tracks without a detection since the timeout. [`Self::update`] does this, too; call it
    /// between inferences.
    pub fn expire(&mut self, time: Duration, settings: &TrackerSettings) {
        let is_over = |track: &Track| time.saturating_sub(track.last_seen) > settings.lost_timeout;
        let (over, tracks) = std::mem::take(&mut self.tracks).into_iter().partition(is_over);
        self.tracks = tracks;
        for track in &over {
            self.push(TrackEventKind::Ended, track, time);
        }
    }

    /// Ends all tracks: the stream ends, or continues after a seek or a flush.
    pub fn end(&mut self, time: Duration) {
        for track in std::mem::take(&mut self.tracks) {
            self.push(TrackEventKind::Ended, &track, time);
        }
        self.untracked.clear();
        self.time = None;
    }

    /// The events since the last call, oldest first.
    pub fn take_events(&mut self) -> Vec<TrackEvent> {
        self.events.drain(..).collect()
    }

    fn expected(&self, time: Duration) -> Vec<Expected> {
        let expected =
            |track: &Track| Expected { predicted: track.predict(time), is_active: track.state != TrackState::Lost };
        self.tracks.iter().map(expected).collect()
    }

    /// The face of track `index` was found.
    fn hit(&mut self, index: usize, time: Duration, face: &Face, settings: &TrackerSettings) {
        let track = &mut self.tracks[index];
        let noise = if face.score >= settings.score_threshold { 1.0 } else { LOW_SCORE_NOISE };
        track.motion.measure(time.saturating_sub(track.last_seen).as_secs_f64(), face, noise);
        track.hits = track.hits.saturating_add(1);
        track.last_seen = time;
        track.face = face.clone();
        let kind = match track.state {
            TrackState::Tentative if track.hits >= settings.min_hits => TrackEventKind::Confirmed,
            TrackState::Lost => TrackEventKind::Resumed,
            TrackState::Tentative | TrackState::Confirmed => return,
        };
        track.state = TrackState::Confirmed;
        let track = track.clone();
        self.push(kind, &track, time);
    }

    /// The face of track `index` was not found.
    fn miss(&mut self, index: usize, time: Duration) {
        let track = &mut self.tracks[index];
        let kind = match track.state {
            TrackState::Tentative => {
                // Removed after the association.
                track.hits = 0;
                TrackEventKind::Ended
            }
            TrackState::Confirmed => {
                track.state = TrackState::Lost;
                TrackEventKind::Lost
            }
            TrackState::Lost => return,
        };
        let track = track.clone();
        self.push(kind, &track, time);
    }

    /// Starts a track. Returns its id if it is confirmed at once.
    fn start(&mut self, time: Duration, face: &Face, settings: &TrackerSettings) -> Option<u64> {
        let mut track = Track {
            id: self.next_id(),
            state: TrackState::Tentative,
            hits: 1,
            first_seen: time,
            last_seen: time,
            face: face.clone(),
            motion: Motion::new(face),
        };
        self.push(TrackEventKind::Started, &track, time);
        if settings.min_hits <= 1 {
            track.state = TrackState::Confirmed;
            self.push(TrackEventKind::Confirmed, &track, time);
        }
        let id = track.id();
        self.tracks.push(track);
        id
    }

    fn push(&mut self, kind: TrackEventKind, track: &Track, time: Duration) {
        let Track { id, state, first_seen, last_seen, .. } = *track;
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        let is_confirmed = state != TrackState::Tentative;
        self.events.push_back(TrackEvent { kind, track_id: id, time, first_seen, last_seen, is_confirmed });
    }
}

/// The face where it is expected. The points of a landmark model move with the box.
fn predicted_face(face: &Face, predicted: Predicted, track_id: Option<u64>) -> Face {
    let Predicted { rect, landmarks, uncertainty } = predicted;
    let from = face.rect;
    let (x, y) = (rect.w / from.w, rect.h / from.h);
    let points =
        face.points.iter().map(|point| Point::new(rect.x + (point.x - from.x) * x, rect.y + (point.y - from.y) * y));
    let points = points.collect();
    let parent_id = face.parent_id;
    Face { score: face.score, rect, landmarks, points, track_id, parent_id, uncertainty: Some(uncertainty) }
}

/// Whether a face has a box with an area and finite values. Detectors of other elements may attach
/// anything.
fn is_usable(face: &Face) -> bool {
    /// A box in pixels whose area and logarithm can be computed.
    const RANGE: std::ops::RangeInclusive<f32> = 1e-3..=1e6;
    face.is_finite()
        && RANGE.contains(&face.rect.w)
        && RANGE.contains(&face.rect.h)
        && face.rect.x.abs() <= *RANGE.end()
        && face.rect.y.abs() <= *RANGE.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Rect;

    const SIZE: (usize, usize) = (640, 360);

    fn face(score: f32, x: f32, y: f32) -> Face {
        let rect = Rect::new(x, y, 40.0, 50.0);
        let landmarks =
            crate::geometry::ARCFACE_TEMPLATE.map(|p| Point::new(x + p.x * 40.0 / 112.0, y + p.y * 50.0 / 112.0));
        Face { score, rect, landmarks: Some(landmarks), ..Face::default() }
    }

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// A tracker that has seen these faces in frames of 100 ms, and the ids of each frame.
    fn track(frames: &[&[Face]], settings: &TrackerSettings) -> (Tracker, Vec<Vec<Option<u64>>>) {
        let mut tracker = Tracker::with_restarted_ids();
        let update = |(number, faces): (usize, &&[Face])| {
            let mut faces = faces.to_vec();
            tracker.update(ms(100 * number as u64), &mut faces, SIZE, settings);
            faces.iter().map(|face| face.track_id).collect()
        };
        let ids = frames.iter().enumerate().map(update).collect();
        (tracker, ids)
    }

    fn kinds(tracker: &mut Tracker) -> Vec<(TrackEventKind, u64)> {
        tracker.take_events().iter().map(|event| (event.kind, event.track_id)).collect()
    }

    use TrackEventKind::{Confirmed, Ended, Lost, Resumed, Started};

    #[test]
    fn a_face_gets_its_id_with_the_second_detection() {
        let (mut tracker, ids) = track(&[&[face(0.9, 0.0, 0.0)], &[face(0.9, 4.0, 0.0)]], &TrackerSettings::default());
        assert_eq!(ids, [[None], [Some(1)]]);
        assert_eq!(kinds(&mut tracker), [(Started, 1), (Confirmed, 1)]);
        assert_eq!(kinds(&mut tracker), []);
    }

    #[test]
    fn a_face_that_is_seen_once_gets_no_id() {
        let (mut tracker, ids) = track(&[&[face(0.9, 0.0, 0.0)], &[], &[]], &TrackerSettings::default());
        assert_eq!(ids, [vec![None], vec![], vec![]]);
        assert_eq!(kinds(&mut tracker), [(Started, 1), (Ended, 1)]);
    }

    #[test]
    fn a_track_resumes_within_the_timeout_where_its_motion_led() {
        let settings = TrackerSettings { lost_timeout: ms(500), ..TrackerSettings::default() };
        let seen = (0..5).map(|number| vec![face(0.9, 20.0 * number as f32, 0.0)]).collect::<Vec<_>>();
        let frames = seen.iter().map(Vec::as_slice).chain([&[][..]; 3]).collect::<Vec<_>>();
        let (mut tracker, _) = track(&frames, &settings);
        let mut again = [face(0.9, 160.0, 0.0)];
        tracker.update(ms(800), &mut again, SIZE, &settings);
        assert_eq!(again[0].track_id, Some(1));
        assert_eq!(kinds(&mut tracker), [(Started, 1), (Confirmed, 1), (Lost, 1), (Resumed, 1)]);
        tracker.expire(ms(1301), &settings);
        assert_eq!(kinds(&mut tracker), [(Ended, 1)]);
        let mut late = [face(0.9, 260.0, 0.0)];
        tracker.update(ms(1302), &mut late, SIZE, &settings);
        tracker.update(ms(1303), &mut late, SIZE, &settings);
        assert_eq!(late[0].track_id, Some(2));
    }

    #[test]
    fn a_low_score_continues_a_track_and_starts_none() {
        let low = face(0.2, 4.0, 0.0);
        let other = face(0.2, 300.0, 0.0);
        let frames = [&[face(0.9, 0.0, 0.0)][..], &[low.clone(), other.clone()], &[low, other]];
        let (tracker, ids) = track(&frames, &TrackerSettings::default());
        assert_eq!(ids[2], [Some(1), None]);
        // The face without a track is still predicted: redaction must not lose it.
        let predicted = tracker.predict(ms(250));
        assert_eq!(predicted.iter().map(|face| face.track_id).collect::<Vec<_>>(), [Some(1), None]);
    }

    #[test]
    fn predictions_follow_the_motion_and_become_less_certain() {
        let frames = (0..6).map(|number| [face(0.9, 10.0 * number as f32, 100.0)]).collect::<Vec<_>>();
        let frames = frames.iter().map(|faces| &faces[..]).collect::<Vec<_>>();
        let (tracker, _) = track(&frames, &TrackerSettings::default());
        let at = |time: u64| tracker.predict(ms(time)).remove(0);
        let (near, far) = (at(540), at(900));
        assert!((near.rect.x - 54.0).abs() < 1.0 && (far.rect.x - 90.0).abs() < 2.0, "{near:?} {far:?}");
        let nose = |face: &Face| face.landmarks.unwrap()[2];
        assert!((nose(&far).x - nose(&near).x - 36.0).abs() < 2.0);
        assert!(far.uncertainty.unwrap() > 2.0 * near.uncertainty.unwrap());
        assert_eq!((near.track_id, near.score), (Some(1), 0.9));
    }

    #[test]
    fn two_faces_that_cross_keep_their_ids() {
        let frames = (0..20)
            .map(|number| {
                let x = 12.0 * number as f32;
                [face(0.9, x, 100.0), face(0.9, 228.0 - x, 110.0)]
            })
            .collect::<Vec<_>>();
        let frames = frames.iter().map(|faces| &faces[..]).collect::<Vec<_>>();
        let (_, ids) = track(&frames, &TrackerSettings { min_hits: 1, ..TrackerSettings::default() });
        assert!(ids.iter().all(|ids| ids == &[Some(1), Some(2)]), "{ids:?}");
    }

    #[test]
    fn a_shift_of_the_camera_keeps_the_ids() {
        let at = |shift: f32| [face(0.9, 100.0 + shift, 100.0), face(0.9, 300.0 + shift, 150.0)];
        let (before, after) = (at(0.0), at(150.0));
        let frames = [&before[..], &before, &before, &after, &after];
        let (_, ids) = track(&frames, &TrackerSettings { min_hits: 1, ..TrackerSettings::default() });
        assert!(ids.iter().all(|ids| ids == &[Some(1), Some(2)]), "{ids:?}");
    }

    #[test]
    fn the_end_of_the_stream_ends_all_tracks() {
        let (mut tracker, _) = track(&[&[face(0.9, 0.0, 0.0), face(0.9, 200.0, 0.0)]], &TrackerSettings::default());
        tracker.end(ms(50));
        assert_eq!(kinds(&mut tracker)[2..], [(Ended, 1), (Ended, 2)]);
        assert_eq!((tracker.predict(ms(60)).len(), tracker.time()), (0, None));
    }

    #[test]
    fn hostile_faces_belong_to_no_track_and_do_no_harm() {
        let odd = [f32::NAN, f32::INFINITY, -5.0, 0.0, 1e30];
        let hostile = odd.iter().flat_map(|value| {
            let wide = Face { rect: Rect::new(0.0, 0.0, *value, 20.0), ..face(0.9, 0.0, 0.0) };
            let far = Face { rect: Rect::new(*value, 0.0, 20.0, *value), ..face(0.9, 0.0, 0.0) };
            [wide, far, Face { score: *value, ..face(0.9, 400.0, 0.0) }]
        });
        let hostile = hostile.collect::<Vec<_>>();
        let many = (0..2000).map(|number| face(0.9, number as f32, 0.0)).collect::<Vec<_>>();
        let (mut tracker, _) = track(&[&hostile, &hostile, &many, &many, &hostile], &TrackerSettings::default());
        let mut odd = [face(0.9, 0.0, 0.0), Face { rect: Rect::new(f32::NAN, 0.0, 1.0, 1.0), ..face(0.9, 0.0, 0.0) }];
        assert_eq!(tracker.update(ms(600), &mut odd, SIZE, &TrackerSettings::default()), 1);
        assert!(tracker.predict(ms(10_000)).iter().all(Face::is_finite));
        assert!(tracker.tracks.len() <= MAX_TRACKS && tracker.take_events().len() <= MAX_EVENTS);
    }

    #[test]
    fn ids_are_unique_in_the_process() {
        let settings = TrackerSettings { min_hits: 1, ..TrackerSettings::default() };
        let id = || {
            let mut faces = [face(0.9, 0.0, 0.0)];
            Tracker::new().update(ms(0), &mut faces, SIZE, &settings);
            faces[0].track_id.unwrap()
        };
        assert!(id() < id());
    }
}
