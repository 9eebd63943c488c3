//! The best crop of each track.

use std::time::Duration;

use super::MAX_TRACKS;

/// Default of [`BestShotSettings::delay`].
pub const DEFAULT_BEST_SHOT_DELAY: Duration = Duration::from_millis(500);
/// Default of [`BestShotSettings::gain`].
pub const DEFAULT_BEST_SHOT_GAIN: f32 = 0.15;

/// When best shots are emitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestShotSettings {
    /// Time from the first sight of a track to its first shot.
    pub delay: Duration,
    /// Increase of the quality, in 0.0..=1.0, after which a better shot is emitted.
    pub gain: f32,
}

impl Default for BestShotSettings {
    fn default() -> Self {
        Self { delay: DEFAULT_BEST_SHOT_DELAY, gain: DEFAULT_BEST_SHOT_GAIN }
    }
}

/// Why a best shot is emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BestShotKind {
    /// The delay is over: the best shot so far. A track that ends before has none.
    First,
    /// The quality has risen by the gain since the previous shot.
    Better,
    /// The track has ended: the best of all its shots, also if it was emitted before.
    Final,
}

impl BestShotKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::First, Self::Better, Self::Final];

    /// The name, as in metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Better => "better",
            Self::Final => "final",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A shot of a track that is emitted.
#[derive(Clone, Debug, PartialEq)]
pub struct BestShot<T> {
    /// Why it is emitted.
    pub kind: BestShotKind,
    /// Id of the track.
    pub track_id: u64,
    /// The shot.
    pub shot: T,
}

#[derive(Debug)]
struct Track<T> {
    id: u64,
    first_seen: Duration,
    last_seen: Duration,
    /// The best shot so far with its quality.
    best: Option<(f32, T)>,
    /// The quality of the latest emitted shot.
    emitted: Option<f32>,
    has_ended: bool,
}

impl<T> Track<T> {
    fn into_final(self) -> Option<BestShot<T>> {
        self.best.map(|(_, shot)| BestShot { kind: BestShotKind::Final, track_id: self.id, shot })
    }
}

/// Keeps the best shot of each track, and says when to emit it. `T` is a shot, such as a crop with its
/// metadata; it must be cheap to clone.
///
/// The only clock is the time of the frames. A track with at least one shot has exactly one
/// [`BestShotKind::Final`], after at most one [`BestShotKind::First`]. Memory is bounded by the
/// capacity: beyond it, the track that was not seen for the longest time ends early, and a track of
/// its id that is seen again is a new one.
///
/// ```
/// use std::time::Duration;
/// use retinaface::track::{BestShotKind, BestShotSettings, BestShots};
///
/// let (mut shots, settings) = (BestShots::new(16), BestShotSettings::default());
/// for (milliseconds, quality) in [(0, 0.3), (300, 0.7), (600, 0.5)] {
///     let time = Duration::from_millis(milliseconds);
///     shots.see(time, 7);
///     shots.offer(7, quality, format!("crop at {milliseconds} ms"));
///     let due = shots.take_due(time, &settings);
///     assert_eq!(due.len(), usize::from(milliseconds == 600), "the delay is 500 ms");
/// }
/// shots.end(7);
/// let ended = shots.take_ended();
/// assert_eq!((ended[0].kind, &*ended[0].shot), (BestShotKind::Final, "crop at 300 ms"));
/// ```
#[derive(Debug)]
pub struct BestShots<T> {
    tracks: Vec<Track<T>>,
    capacity: usize,
}

impl<T> BestShots<T> {
    /// Without tracks. It keeps those of at most `capacity` tracks, which is limited to 1 to 256.
    pub fn new(capacity: usize) -> Self {
        Self { tracks: Vec::new(), capacity: capacity.clamp(1, MAX_TRACKS) }
    }

    /// Whether there is no track.
    pub fn is_empty(&self) -> bool {
        self.tracks.is_empty()
    }

    /// The face of a track is in the frame with this time. Returns the final shot of the track that
    /// has to make room for it, if one has.
    pub fn see(&mut self, time: Duration, track_id: u64) -> Option<BestShot<T>> {
        if let Some(track) = self.track(track_id) {
            track.last_seen = time;
            return None;
        }
        let is_full = self.tracks.len() >= self.capacity;
        let oldest =
            is_full.then(|| (0..self.tracks.len()).min_by_key(|index| self.tracks[*index].last_seen)).flatten();
        let ended = oldest.and_then(|index| self.tracks.remove(index).into_final());
        self.tracks.push(Track {
            id: track_id,
            first_seen: time,
            last_seen: time,
            best: None,
            emitted: None,
            has_ended: false,
        });
        ended
    }

    /// Whether [`Self::offer`] would keep a shot of this quality. NaN counts as 0.
    pub fn would_keep(&self, track_id: u64, quality: f32) -> bool {
        let track = self.tracks.iter().find(|track| track.id == track_id && !track.has_ended);
        track.is_some_and(|track| track.best.as_ref().is_none_or(|(best, _)| quality.max(0.0) > *best))
    }

    /// Keeps a shot of a track that was seen, if it is the best one so far.
    pub fn offer(&mut self, track_id: u64, quality: f32, shot: T) {
        if self.would_keep(track_id, quality)
            && let Some(track) = self.track(track_id)
        {
            track.best = Some((quality.max(0.0), shot));
        }
    }

    /// The track has ended. [`Self::take_ended`] returns its final shot.
    pub fn end(&mut self, track_id: u64) {
        if let Some(track) = self.track(track_id) {
            track.has_ended = true;
        }
    }

    /// The final shots of the tracks that have ended.
    pub fn take_ended(&mut self) -> Vec<BestShot<T>> {
        let (ended, tracks) = std::mem::take(&mut self.tracks).into_iter().partition(|track| track.has_ended);
        self.tracks = tracks;
        Vec::into_iter(ended).filter_map(Track::into_final).collect()
    }

    /// The final shots of all tracks: the stream ends.
    pub fn take_all(&mut self) -> Vec<BestShot<T>> {
        std::mem::take(&mut self.tracks).into_iter().filter_map(Track::into_final).collect()
    }

    /// Forgets all tracks: their shots are not wanted any more.
    pub fn clear(&mut self) {
        self.tracks.clear();
    }

    fn track(&mut self, id: u64) -> Option<&mut Track<T>> {
        self.tracks.iter_mut().find(|track| track.id == id && !track.has_ended)
    }
}

impl<T: Clone> BestShots<T> {
    /// The first and better shots that are to be emitted with the frame of this time.
    pub fn take_due(&mut self, time: Duration, settings: &BestShotSettings) -> Vec<BestShot<T>> {
        let due = |track: &mut Track<T>| {
            let (quality, shot) = track.best.as_ref()?;
            let kind = match track.emitted {
                None => (time.saturating_sub(track.first_seen) >= settings.delay).then_some(BestShotKind::First),
                Some(emitted) => {
                    let is_better = *quality > emitted && *quality >= emitted + settings.gain;
                    is_better.then_some(BestShotKind::Better)
                }
            }?;
            track.emitted = Some(*quality);
            Some(BestShot { kind, track_id: track.id, shot: shot.clone() })
        };
        self.tracks.iter_mut().filter(|track| !track.has_ended).filter_map(due).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SETTINGS: BestShotSettings = BestShotSettings { delay: Duration::from_millis(100), gain: 0.2 };

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// Shows faces of track 1 with these times and qualities. Returns the kinds and qualities of what
    /// is emitted at each time.
    fn play(shots: &mut BestShots<f32>, frames: &[(u64, f32)]) -> Vec<(u64, BestShotKind, f32)> {
        let mut emitted = Vec::new();
        for (time, quality) in frames {
            shots.see(ms(*time), 1);
            shots.offer(1, *quality, *quality);
            let due = shots.take_due(ms(*time), &SETTINGS);
            emitted.extend(due.into_iter().map(|shot| (*time, shot.kind, shot.shot)));
        }
        emitted
    }

    #[test]
    fn the_first_shot_is_the_best_one_within_the_delay() {
        let mut shots = BestShots::new(4);
        let emitted = play(&mut shots, &[(0, 0.3), (50, 0.6), (99, 0.2), (100, 0.4), (150, 0.5)]);
        assert_eq!(emitted, [(100, BestShotKind::First, 0.6)]);
    }

    #[test]
    fn the_first_shot_does_not_wait_for_a_face_that_is_away() {
        let mut shots = BestShots::new(4);
        play(&mut shots, &[(0, 0.3)]);
        let due = shots.take_due(ms(100), &SETTINGS);
        assert_eq!(due, [BestShot { kind: BestShotKind::First, track_id: 1, shot: 0.3 }]);
    }

    #[test]
    fn a_better_shot_is_emitted_when_the_quality_has_risen_by_the_gain() {
        let mut shots = BestShots::new(4);
        let emitted = play(&mut shots, &[(0, 0.3), (100, 0.3), (110, 0.4), (120, 0.49), (130, 0.5), (140, 0.6)]);
        assert_eq!(emitted, [(100, BestShotKind::First, 0.3), (130, BestShotKind::Better, 0.5)]);
        shots.end(1);
        let ended = shots.take_ended();
        assert_eq!(ended, [BestShot { kind: BestShotKind::Final, track_id: 1, shot: 0.6 }]);
    }

    #[test]
    fn an_ended_track_has_its_final_shot_once_also_if_it_was_emitted_before() {
        let mut shots = BestShots::new(4);
        play(&mut shots, &[(0, 0.3), (100, 0.3)]);
        shots.end(1);
        shots.end(1);
        assert_eq!(shots.take_due(ms(200), &SETTINGS), []);
        assert_eq!(shots.take_ended(), [BestShot { kind: BestShotKind::Final, track_id: 1, shot: 0.3 }]);
        assert_eq!((shots.take_ended(), shots.take_all()), (vec![], vec![]));
    }

    #[test]
    fn a_track_without_a_usable_shot_has_none() {
        let mut shots = BestShots::<f32>::new(4);
        shots.see(ms(0), 1);
        assert_eq!(shots.take_due(ms(500), &SETTINGS), []);
        // The delay counts from the first sight.
        shots.offer(1, 0.1, 0.1);
        assert_eq!(shots.take_due(ms(510), &SETTINGS).len(), 1);
        shots.see(ms(0), 2);
        shots.end(2);
        assert_eq!(shots.take_ended(), []);
        shots.offer(3, 0.1, 0.1);
        assert_eq!(shots.take_all().len(), 1, "a track that was not seen keeps nothing");
    }

    #[test]
    fn beyond_the_capacity_the_track_that_was_not_seen_for_longest_ends_early() {
        let mut shots = BestShots::new(2);
        for (time, id) in [(0, 1), (10, 2), (20, 1)] {
            assert_eq!(shots.see(ms(time), id), None);
            shots.offer(id, 0.5, id as f32);
        }
        let ended = shots.see(ms(30), 3);
        assert_eq!(ended, Some(BestShot { kind: BestShotKind::Final, track_id: 2, shot: 2.0 }));
        shots.offer(3, f32::NAN, 3.0);
        assert_eq!(shots.take_all().iter().map(|shot| shot.track_id).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_new_track_with_the_id_of_an_ended_one_is_another_track() {
        let mut shots = BestShots::new(4);
        play(&mut shots, &[(0, 0.9)]);
        shots.end(1);
        play(&mut shots, &[(10, 0.3)]);
        assert_eq!(shots.take_ended()[0].shot, 0.9);
        assert_eq!(shots.take_all()[0].shot, 0.3);
    }

    #[test]
    fn names_are_read_back() {
        for kind in BestShotKind::ALL {
            assert_eq!(BestShotKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(BestShotKind::from_name("last"), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A frame: ids with the quality of their faces.
        Frame(Vec<(u64, f32)>),
        End(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let quality = prop_oneof![0.0f32..1.0, Just(f32::NAN)];
        let frame = proptest::collection::vec((0u64..6, quality), 0..5).prop_map(Step::Frame);
        proptest::collection::vec(prop_oneof![4 => frame, 1 => (0u64..6).prop_map(Step::End)], 0..80)
    }

    proptest! {
        /// A track is the faces of an id between two ends.
        #[test]
        fn every_track_has_one_final_and_at_most_one_first_and_rises_by_the_gain(steps in steps(), capacity in 1usize..8) {
            let mut shots = BestShots::<f32>::new(capacity);
            let mut open = BTreeMap::<u64, Vec<(BestShotKind, f32)>>::new();
            let mut best = BTreeMap::<u64, f32>::new();
            let check = |shot: BestShot<f32>, open: &mut BTreeMap<u64, Vec<_>>, best: &mut BTreeMap<u64, f32>| {
                let BestShot { kind, track_id, shot } = shot;
                let earlier = open.entry(track_id).or_default();
                let last = earlier.last().copied();
                assert_eq!(kind == BestShotKind::First, last.is_none() && kind != BestShotKind::Final);
                assert_eq!(shot, best[&track_id], "the best one so far");
                if let (BestShotKind::Better, Some((_, before))) = (kind, last) {
                    assert!(shot >= before + SETTINGS.gain);
                }
                earlier.push((kind, shot));
                if kind == BestShotKind::Final {
                    open.remove(&track_id);
                    best.remove(&track_id);
                }
            };
            for (number, step) in (0..).zip(steps) {
                let time = ms(30 * number);
                match step {
                    Step::Frame(faces) => {
                        for (id, quality) in faces {
                            if let Some(ended) = shots.see(time, id) {
                                check(ended, &mut open, &mut best);
                            }
                            shots.offer(id, quality, quality.max(0.0));
                            let known = best.entry(id).or_insert(0.0);
                            *known = known.max(quality);
                        }
                        for due in shots.take_due(time, &SETTINGS) {
                            check(due, &mut open, &mut best);
                        }
                    }
                    Step::End(id) => {
                        shots.end(id);
                        let ended = shots.take_ended();
                        prop_assert_eq!(ended.len(), usize::from(best.contains_key(&id)));
                        for ended in ended {
                            check(ended, &mut open, &mut best);
                        }
                    }
                }
                prop_assert!(shots.tracks.len() <= capacity);
            }
            for ended in shots.take_all() {
                check(ended, &mut open, &mut best);
            }
            prop_assert!(best.is_empty(), "each track with a shot has a final one: {:?}", best);
        }
    }
}
