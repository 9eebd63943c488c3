//! Which areas of a frame redaction covers, and whether the known faces of the frame are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::association::size;
use super::motion::Motion;
use crate::geometry::{Face, Rect, iou};

/// Default of [`CoverageSettings::margin`].
pub const DEFAULT_MARGIN: f32 = 1.3;
/// Default of [`CoverageSettings::hold`].
pub const DEFAULT_HOLD: Duration = Duration::from_secs(1);
/// Default of [`CoverageSettings::max_age`].
pub const DEFAULT_MAX_FACE_AGE: Duration = Duration::from_millis(500);

/// An area grows by this many standard deviations of the position on each side, at most by
/// [`MAX_GROWTH`].
const DEVIATIONS: f32 = 2.0;
/// Largest growth on each side, in sizes of the face.
const MAX_GROWTH: f32 = 1.0;
/// Faces without an id are the same if their boxes overlap by this.
const SAME_IOU: f32 = 0.3;
/// Maximum number of faces that are remembered. With more, the frame is in doubt.
const MAX_HELD: usize = 1024;

/// Settings of [`Coverage`].
#[derive(Clone, Debug, PartialEq)]
pub struct CoverageSettings {
    /// Size of an area relative to the box of the face, at least 1.
    pub margin: f32,
    /// Time for which a face stays covered after it was seen last.
    pub hold: Duration,
    /// Maximum age of detections; a frame with older ones is in doubt.
    pub max_age: Duration,
    /// Ids of tracks that are not covered.
    pub exempt: BTreeSet<u64>,
}

impl Default for CoverageSettings {
    fn default() -> Self {
        Self { margin: DEFAULT_MARGIN, hold: DEFAULT_HOLD, max_age: DEFAULT_MAX_FACE_AGE, exempt: BTreeSet::new() }
    }
}

/// What is known about the faces of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownFaces {
    /// Whether the faces were detected or predicted at all.
    pub has_result: bool,
    /// The time since the frame in which they were detected.
    pub age: Duration,
    /// Number of faces whose position is lost.
    pub lost: usize,
    /// The faces, in pixels of the frame.
    pub faces: Vec<Face>,
}

impl KnownFaces {
    /// The detected faces. If a tracker predicted some, it is not known which faces the frame has.
    fn detected(&self) -> Self {
        let faces = self.faces.iter().filter(|face| face.uncertainty.is_none()).cloned().collect::<Vec<_>>();
        Self { has_result: self.has_result && faces.len() == self.faces.len(), faces, ..*self }
    }
}

/// Why the known faces of a frame may be incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Doubt {
    /// Neither a detector nor a tracker says where the faces are.
    #[error("no detection result")]
    NoResult,
    /// Faces were found whose position is not known.
    #[error("lost faces")]
    Lost,
    /// The detection is too old.
    #[error("detection older than the limit")]
    Old,
    /// A face has no finite position.
    #[error("invalid face box")]
    Invalid,
    /// There are too many faces to remember.
    #[error("too many faces")]
    TooMany,
}

/// What to cover in a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameCoverage {
    /// Why the areas are not enough; `None` if each known face is covered or exempt.
    pub doubt: Option<Doubt>,
    /// The areas of faces in this frame, grown by the margin and by the uncertainty. They can extend
    /// beyond the frame.
    pub areas: Vec<Rect>,
    /// The areas of faces that were seen before and are held. A face can be anywhere in them, so that
    /// they are covered as rectangles.
    pub held_areas: Vec<Rect>,
    /// Number of faces in this frame that are covered.
    pub faces: usize,
    /// Number of faces that are not covered, because their track is exempt.
    pub exempt: usize,
}

/// A face that was covered.
#[derive(Clone, Debug)]
struct RecentFace {
    id: Option<u64>,
    rect: Rect,
    /// Standard deviation of the position when it was seen last, in pixels.
    uncertainty: f32,
    motion: Motion,
    last_seen: Duration,
    /// It is in the current frame.
    is_here: bool,
}

/// The covered faces of a stream, so that a face stays covered while the detector does not see it.
///
/// Times must not decrease; call [`Self::clear`] after a seek. [`areas_before`] covers a face before
/// it is found.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    held: Vec<RecentFace>,
    /// Exempt tracks that are covered nevertheless, because they may now be another person.
    revoked: BTreeSet<u64>,
    /// Where the exempt tracks were in the previous frame with a result.
    exempt_before: BTreeMap<u64, Rect>,
    exempt_setting: BTreeSet<u64>,
    /// When there were too many faces to remember.
    overflow: Option<Duration>,
}

impl Coverage {
    /// Nothing is covered yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the covered faces: after a seek. Ids may be given to other people there, so that all
    /// tracks are covered until the setting of exempt tracks changes.
    pub fn clear(&mut self) {
        self.held.clear();
        self.overflow = None;
        self.exempt_before.clear();
        self.revoked.extend(&self.exempt_setting);
    }

    /// Scales the covered faces by these factors of width and height: the size of the frame has changed.
    pub fn rescale(&mut self, x: f32, y: f32) {
        let scaled = |rect: Rect| Rect::new(rect.x * x, rect.y * y, rect.w * x, rect.h * y);
        for held in &mut self.held {
            held.rect = scaled(held.rect);
            held.uncertainty *= x.max(y);
            held.motion = Motion::new(&Face { rect: held.rect, ..Face::default() });
        }
        self.exempt_before.values_mut().for_each(|rect| *rect = scaled(*rect));
    }

    /// The tracks of `settings` that are still exempt.
    pub fn exempt_tracks(&self, settings: &CoverageSettings) -> BTreeSet<u64> {
        if settings.exempt == self.exempt_setting {
            settings.exempt.difference(&self.revoked).copied().collect()
        } else {
            settings.exempt.clone()
        }
    }

    /// The areas to cover in the frame with this time.
    pub fn update(&mut self, time: Duration, known: &KnownFaces, settings: &CoverageSettings) -> FrameCoverage {
        if self.exempt_setting != settings.exempt {
            // The user has looked at the tracks again.
            self.exempt_setting.clone_from(&settings.exempt);
            self.revoked.clear();
        }
        let doubt = doubt(known, settings);
        let valid = known.faces.iter().filter(|face| is_valid(face)).collect::<Vec<_>>();
        let exempt = self.exempt(&valid, doubt.is_some(), known.has_result, settings);
        self.held.retain(|held| time.saturating_sub(held.last_seen) <= settings.hold);
        self.held.iter_mut().for_each(|held| held.is_here = false);
        let (mut areas, mut faces) = (Vec::new(), 0);
        for face in valid.iter().filter(|face| !is_exempt(face, &exempt)) {
            areas.push(area_now(face, known.age, settings.margin));
            areas.extend(self.observe(time, face).map(|expected| grown(expected, settings.margin, 0.0)));
            faces += 1;
        }
        let is_unseen = |held: &&RecentFace| !held.is_here && !held.id.is_some_and(|id| exempt.contains(&id));
        let held_areas =
            self.held.iter().filter(is_unseen).map(|held| area_held(held, time, settings.margin)).collect();
        if self.held.len() > MAX_HELD {
            self.held.truncate(MAX_HELD);
            self.overflow = Some(time);
        }
        // What was not remembered cannot be held.
        self.overflow = self.overflow.filter(|then| time.saturating_sub(*then) <= settings.hold);
        let doubt = doubt.or(self.overflow.map(|_| Doubt::TooMany));
        FrameCoverage { doubt, areas, held_areas, faces, exempt: valid.len() - faces }
    }

    /// The tracks that stay visible in this frame.
    ///
    /// An exempt track is revoked if it may now be another person: when it disappears, jumps, has its id
    /// twice, or overlaps another face, since the two may swap their ids.
    fn exempt(
        &mut self,
        faces: &[&Face],
        is_in_doubt: bool,
        has_result: bool,
        settings: &CoverageSettings,
    ) -> BTreeSet<u64> {
        if settings.exempt.is_empty() {
            return BTreeSet::new();
        }
        let mut here = BTreeMap::new();
        for face in faces {
            let Some(id) = face.track_id.filter(|id| settings.exempt.contains(id)) else { continue };
            let has_jumped = self.exempt_before.get(&id).is_some_and(|before| iou(*before, face.rect) < SAME_IOU);
            let is_twice = here.insert(id, face.rect).is_some();
            let touches = |other: &&&Face| !std::ptr::eq(**other, *face) && iou(other.rect, face.rect) > 0.0;
            if has_jumped || is_twice || faces.iter().filter(touches).count() > 0 {
                self.revoked.insert(id);
            }
        }
        if has_result {
            self.revoked.extend(self.exempt_before.keys().filter(|id| !here.contains_key(id)));
            self.exempt_before.clone_from(&here);
        }
        if is_in_doubt { BTreeSet::new() } else { here.into_keys().filter(|id| !self.revoked.contains(id)).collect() }
    }

    /// Remembers a face that is covered. Returns where its motion led, if it was found about there: of a
    /// face that another one covers, a detector finds the part that is left.
    fn observe(&mut self, time: Duration, face: &Face) -> Option<Rect> {
        let uncertainty = face.uncertainty.unwrap_or(0.0);
        let is_same = |held: &&mut RecentFace| {
            let is_track = face.track_id.is_some() && held.id == face.track_id;
            is_track || ((held.id.is_none() || face.track_id.is_none()) && iou(held.rect, face.rect) >= SAME_IOU)
        };
        match self.held.iter_mut().filter(|held| !held.is_here).find(is_same) {
            Some(held) => {
                let seconds = time.saturating_sub(held.last_seen).as_secs_f64();
                let expected = held.motion.predict(seconds).rect;
                held.motion.measure_uncertain(seconds, face, uncertainty);
                held.id = face.track_id.or(held.id);
                (held.rect, held.uncertainty, held.last_seen, held.is_here) = (face.rect, uncertainty, time, true);
                (iou(expected, face.rect) >= SAME_IOU).then_some(expected)
            }
            None => {
                let (id, rect, motion) = (face.track_id, face.rect, Motion::new(face));
                self.held.push(RecentFace { id, rect, uncertainty, motion, last_seen: time, is_here: true });
                None
            }
        }
    }
}

/// The areas of faces in the frames before those in which they were seen, one list per frame.
///
/// `frames` have times that do not decrease. They are played backwards twice: with all faces, and with
/// the detected ones only. A prediction can be wrong when a face turns or the camera moves;
/// extrapolating back from the next detection covers that case.
pub fn areas_before(frames: &[(Duration, &KnownFaces)], settings: &CoverageSettings) -> Vec<Vec<Rect>> {
    let newest = frames.last().map_or(Duration::ZERO, |(time, _)| *time);
    let (mut all, mut detected) = (Coverage::new(), Coverage::new());
    let areas = frames.iter().rev().map(|(time, known)| {
        let time = newest.saturating_sub(*time);
        let mut areas = all.update(time, known, settings).held_areas;
        areas.extend(detected.update(time, &known.detected(), settings).held_areas);
        areas
    });
    let mut areas = areas.collect::<Vec<_>>();
    areas.reverse();
    areas
}

fn is_exempt(face: &Face, exempt: &BTreeSet<u64>) -> bool {
    face.track_id.is_some_and(|id| exempt.contains(&id))
}

fn doubt(known: &KnownFaces, settings: &CoverageSettings) -> Option<Doubt> {
    if !known.has_result {
        Some(Doubt::NoResult)
    } else if known.lost > 0 {
        Some(Doubt::Lost)
    } else if known.age > settings.max_age {
        Some(Doubt::Old)
    } else if !known.faces.iter().all(is_valid) {
        Some(Doubt::Invalid)
    } else {
        None
    }
}

/// Whether a box can be covered.
fn is_valid(face: &Face) -> bool {
    /// Boxes that are larger than any frame by far.
    const MAX: f32 = 1e6;
    let Rect { x, y, w, h } = face.rect;
    let is_position = face.rect.is_finite() && x.abs() <= MAX && y.abs() <= MAX;
    is_position && w > 0.0 && h > 0.0 && w <= MAX && h <= MAX && face.uncertainty.is_none_or(f32::is_finite)
}

/// The area of a face that is there. A detection of an earlier frame is uncertain by what a face can
/// move since then.
fn area_now(face: &Face, age: Duration, margin: f32) -> Rect {
    let uncertainty = match face.uncertainty {
        Some(pixels) => pixels,
        None if age.is_zero() => 0.0,
        None => Motion::new(face).predict(age.as_secs_f64()).uncertainty,
    };
    grown(face.rect, margin, uncertainty)
}

/// The area of a face that is no longer seen: where it was, where its motion leads, and between.
fn area_held(held: &RecentFace, time: Duration, margin: f32) -> Rect {
    let predicted = held.motion.predict(time.saturating_sub(held.last_seen).as_secs_f64());
    let uncertainty = held.uncertainty.max(predicted.uncertainty);
    union(grown(held.rect, margin, uncertainty), grown(predicted.rect, margin, uncertainty))
}

/// The smallest rectangle that contains both.
fn union(a: Rect, b: Rect) -> Rect {
    let (x, y) = (a.x.min(b.x), a.y.min(b.y));
    Rect::new(x, y, a.right().max(b.right()) - x, a.bottom().max(b.bottom()) - y)
}

/// The box grown by the margin about its centre, and by the uncertainty in pixels on each side.
fn grown(rect: Rect, margin: f32, uncertainty: f32) -> Rect {
    let growth = (DEVIATIONS * uncertainty).clamp(0.0, MAX_GROWTH * size(rect));
    let (dx, dy) = (rect.w * (margin - 1.0) / 2.0 + growth, rect.h * (margin - 1.0) / 2.0 + growth);
    Rect::new(rect.x - dx, rect.y - dy, rect.w + 2.0 * dx, rect.h + 2.0 * dy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn face(x: f32, id: Option<u64>) -> Face {
        Face { score: 0.9, rect: Rect::new(x, 50.0, 40.0, 50.0), track_id: id, ..Face::default() }
    }

    fn known(faces: &[Face]) -> KnownFaces {
        KnownFaces { has_result: true, age: Duration::ZERO, lost: 0, faces: faces.to_vec() }
    }

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    fn contains(area: &Rect, rect: Rect) -> bool {
        const ROUNDING: f32 = 1e-2;
        area.x <= rect.x + ROUNDING
            && area.y <= rect.y + ROUNDING
            && area.right() >= rect.right() - ROUNDING
            && area.bottom() >= rect.bottom() - ROUNDING
    }

    fn exempting(ids: &[u64]) -> CoverageSettings {
        CoverageSettings { exempt: ids.iter().copied().collect(), ..CoverageSettings::default() }
    }

    #[test]
    fn a_detected_face_is_covered_with_its_margin_and_a_predicted_one_with_its_uncertainty() {
        let settings = CoverageSettings::default();
        let verdict = Coverage::new().update(ms(0), &known(&[face(100.0, None)]), &settings);
        assert_eq!((verdict.doubt, verdict.faces), (None, 1));
        let area = verdict.areas[0];
        assert!((area.w - 52.0).abs() < 1e-3 && (area.h - 65.0).abs() < 1e-3 && (area.x - 94.0).abs() < 1e-3);
        let predicted = Face { uncertainty: Some(5.0), ..face(100.0, None) };
        let wide = Coverage::new().update(ms(0), &known(&[predicted]), &settings).areas[0];
        assert!((wide.w - 72.0).abs() < 1e-3, "two standard deviations on each side: {wide:?}");
        // Faces of an earlier frame can have moved since.
        let aged = KnownFaces { age: ms(200), ..known(&[face(100.0, None)]) };
        assert!(Coverage::new().update(ms(0), &aged, &settings).areas[0].w > area.w + 10.0);
    }

    #[test]
    fn a_frame_without_a_fresh_complete_result_is_in_doubt() {
        let of = |known: KnownFaces| Coverage::new().update(ms(0), &known, &CoverageSettings::default()).doubt;
        assert_eq!(of(known(&[])), None);
        assert_eq!(of(KnownFaces { has_result: false, ..known(&[]) }), Some(Doubt::NoResult));
        assert_eq!(of(KnownFaces { lost: 1, ..known(&[face(0.0, None)]) }), Some(Doubt::Lost));
        assert_eq!(of(KnownFaces { age: ms(501), ..known(&[]) }), Some(Doubt::Old));
        for odd in [f32::NAN, f32::INFINITY, 0.0, -1.0, 1e9] {
            let odd = Face { rect: Rect::new(0.0, 0.0, odd, 10.0), ..Face::default() };
            assert_eq!(of(known(&[face(0.0, None), odd])), Some(Doubt::Invalid));
        }
    }

    #[test]
    fn a_face_that_disappears_stays_covered_and_its_area_grows_until_the_hold_ends() {
        for id in [None, Some(7)] {
            let (mut coverage, settings) = (Coverage::new(), CoverageSettings::default());
            for number in 0..5 {
                coverage.update(ms(40 * number), &known(&[face(300.0 + 4.0 * number as f32, id)]), &settings);
            }
            let held = |coverage: &mut Coverage, time: u64| coverage.update(ms(time), &known(&[]), &settings);
            let first = held(&mut coverage, 200);
            assert_eq!((first.faces, first.held_areas.len()), (0, 1));
            assert!(contains(&first.held_areas[0], face(320.0, None).rect), "{first:?}");
            let later = held(&mut coverage, 600).held_areas[0];
            assert!(contains(&later, first.held_areas[0]) && later.w > first.held_areas[0].w);
            assert_eq!(held(&mut coverage, 1160).held_areas.len(), 1);
            assert_eq!(held(&mut coverage, 1161).held_areas.len(), 0);
        }
    }

    #[test]
    fn a_face_that_moves_is_one_face_with_and_without_an_id() {
        for id in [None, Some(7)] {
            let (mut coverage, settings) = (Coverage::new(), CoverageSettings::default());
            for number in 0..20 {
                let verdict =
                    coverage.update(ms(40 * number), &known(&[face(300.0 + 10.0 * number as f32, id)]), &settings);
                assert_eq!((verdict.faces, verdict.held_areas.len()), (1, 0), "frame {number}: {verdict:?}");
            }
        }
    }

    #[test]
    fn an_exempt_track_is_visible_until_it_is_lost_or_overlaps_another_face() {
        let settings = exempting(&[1]);
        let count = |coverage: &mut Coverage, time: u64, faces: &[Face]| {
            let verdict = coverage.update(ms(time), &known(faces), &settings);
            (verdict.faces, verdict.exempt, verdict.held_areas.len())
        };
        let mut coverage = Coverage::new();
        assert_eq!(count(&mut coverage, 0, &[face(0.0, Some(1)), face(200.0, Some(2))]), (1, 1, 0));
        // Lost and found: it may be another person.
        assert_eq!(count(&mut coverage, 40, &[face(200.0, Some(2))]), (1, 0, 0));
        assert_eq!(count(&mut coverage, 80, &[face(0.0, Some(1)), face(200.0, Some(2))]), (2, 0, 0));
        let mut coverage = Coverage::new();
        assert_eq!(count(&mut coverage, 0, &[face(0.0, Some(1)), face(100.0, None)]), (1, 1, 0));
        assert_eq!(count(&mut coverage, 40, &[face(0.0, Some(1)), face(30.0, None)]), (2, 0, 1));
        assert_eq!(count(&mut coverage, 80, &[face(0.0, Some(1))]).1, 0);
        // Set again by the user.
        let again = coverage.update(ms(120), &known(&[face(0.0, Some(2))]), &exempting(&[2]));
        assert_eq!(again.exempt, 1);
    }

    #[test]
    fn an_exempt_id_that_jumps_to_another_face_or_appears_twice_is_revoked() {
        let settings = exempting(&[1]);
        let exempt = |frames: &[&[Face]]| {
            let mut coverage = Coverage::new();
            let mut update =
                |(number, faces): (u64, &&[Face])| coverage.update(ms(40 * number), &known(faces), &settings).exempt;
            (0..).zip(frames).map(&mut update).last().unwrap()
        };
        let at = |x: f32| face(x, Some(1));
        assert_eq!(exempt(&[&[at(100.0)], &[at(110.0)]]), 1);
        assert_eq!(exempt(&[&[at(100.0)], &[at(140.0)]]), 0);
        assert_eq!(exempt(&[&[at(100.0), at(300.0)]]), 0);
    }

    #[test]
    fn a_seek_exempts_nobody_until_the_setting_changes() {
        let mut coverage = Coverage::new();
        coverage.update(ms(0), &known(&[face(0.0, Some(1))]), &exempting(&[1]));
        coverage.clear();
        assert_eq!(coverage.update(ms(0), &known(&[face(0.0, Some(1))]), &exempting(&[1])).exempt, 0);
        assert_eq!(coverage.exempt_tracks(&exempting(&[1])), BTreeSet::new());
        assert_eq!(coverage.update(ms(40), &known(&[face(0.0, Some(2))]), &exempting(&[2])).exempt, 1);
    }

    #[test]
    fn a_face_is_held_in_frames_with_equal_times() {
        let (mut coverage, settings) = (Coverage::new(), CoverageSettings::default());
        coverage.update(ms(0), &known(&[face(300.0, None)]), &settings);
        assert_eq!(coverage.update(ms(0), &known(&[]), &settings).held_areas.len(), 1);
        for _ in 0..2000 {
            assert_eq!(coverage.update(ms(0), &known(&[face(300.0, None)]), &settings).doubt, None);
        }
        assert_eq!(coverage.held.len(), 1);
    }

    #[test]
    fn the_area_of_a_lost_face_does_not_shrink_after_predictions() {
        let (mut coverage, settings) = (Coverage::new(), CoverageSettings::default());
        coverage.update(ms(0), &known(&[face(300.0, Some(1))]), &settings);
        let predicted = |uncertainty: f32| Face { uncertainty: Some(uncertainty), ..face(300.0, Some(1)) };
        let mut last = Rect::default();
        for number in 1..5 {
            last = coverage.update(ms(40 * number), &known(&[predicted(6.0 * number as f32)]), &settings).areas[0];
        }
        let held = coverage.update(ms(200), &known(&[]), &settings).held_areas[0];
        assert!(contains(&held, last), "{held:?} {last:?}");
    }

    #[test]
    fn too_many_faces_are_a_doubt_for_the_hold() {
        let (mut coverage, settings) = (Coverage::new(), CoverageSettings::default());
        let many = (0..1100).map(|number| face(50.0 * number as f32, None)).collect::<Vec<_>>();
        assert_eq!(coverage.update(ms(0), &known(&many), &settings).doubt, Some(Doubt::TooMany));
        assert_eq!(coverage.update(ms(900), &known(&[]), &settings).doubt, Some(Doubt::TooMany));
        assert_eq!(coverage.update(ms(1001), &known(&[]), &settings).doubt, None);
    }

    #[test]
    fn held_faces_follow_a_new_frame_size() {
        let (mut coverage, settings) = (Coverage::new(), CoverageSettings::default());
        coverage.update(ms(0), &known(&[face(300.0, None)]), &settings);
        coverage.rescale(0.5, 0.5);
        let held = coverage.update(ms(40), &known(&[]), &settings).held_areas[0];
        assert!(contains(&held, Rect::new(150.0, 25.0, 20.0, 25.0)), "{held:?}");
    }

    #[test]
    fn a_face_is_covered_before_it_is_found_and_where_a_prediction_was_wrong() {
        let settings = CoverageSettings::default();
        let predicted = Face { uncertainty: Some(2.0), ..face(100.0, Some(1)) };
        // Detected at 100, predicted there, and found at 200: the camera has moved.
        let lists = [vec![], vec![face(100.0, Some(1))], vec![predicted], vec![face(200.0, Some(1))]];
        let known = lists.map(|faces| known(&faces));
        let frames = (0..).zip(&known).map(|(number, known)| (ms(40 * number), known)).collect::<Vec<_>>();
        let areas = areas_before(&frames, &settings);
        let covers = |number: usize, x: f32| areas[number].iter().any(|area| contains(area, face(x, None).rect));
        assert!(covers(0, 100.0) && !covers(1, 100.0), "{areas:?}");
        assert!(covers(2, 200.0), "{areas:?}");
        assert!(areas[3].is_empty());
        assert_eq!(areas_before(&[], &settings), Vec::<Vec<Rect>>::new());
    }

    #[test]
    fn a_frame_in_doubt_exempts_nobody() {
        let known = KnownFaces { age: ms(800), ..known(&[face(0.0, Some(1))]) };
        let verdict = Coverage::new().update(ms(0), &known, &exempting(&[1]));
        assert_eq!((verdict.doubt, verdict.exempt, verdict.faces), (Some(Doubt::Old), 0, 1));
    }

    fn any_face() -> impl Strategy<Value = Face> {
        let number = || prop_oneof![8 => -200.0f32..800.0, 1 => Just(f32::NAN), 1 => Just(1e30f32)];
        let size = || prop_oneof![8 => 1.0f32..300.0, 1 => -5.0f32..1.0];
        let id = prop::option::of(0u64..4);
        let uncertainty = prop::option::of(0.0f32..50.0);
        ((number(), number()), (size(), size()), id, uncertainty).prop_map(|((x, y), (w, h), track_id, uncertainty)| {
            Face { score: 0.5, rect: Rect::new(x, y, w, h), track_id, uncertainty, ..Face::default() }
        })
    }

    fn any_known() -> impl Strategy<Value = KnownFaces> {
        let faces = prop::collection::vec(any_face(), 0..4);
        (any::<bool>(), 0u64..1000, 0usize..2, faces).prop_map(|(has_result, age, lost, faces)| KnownFaces {
            has_result,
            age: ms(age),
            lost,
            faces,
        })
    }

    proptest! {
        // Whatever the metadata says and however it changes: a frame is in doubt, or every face that it
        // has is covered or exempt.
        #[test]
        fn every_known_face_is_covered_or_exempt_or_the_frame_is_in_doubt(
            frames in prop::collection::vec((any_known(), 0u64..400, prop::collection::btree_set(0u64..4, 0..2)), 1..20)
        ) {
            let (mut coverage, mut time) = (Coverage::new(), 0);
            for (known, step, exempt) in frames {
                time += step;
                let settings = CoverageSettings { exempt: exempt.clone(), ..CoverageSettings::default() };
                let verdict = coverage.update(ms(time), &known, &settings);
                prop_assert!(verdict.areas.iter().chain(&verdict.held_areas).all(|area| area.is_finite()));
                let is_complete = known.has_result
                    && known.lost == 0
                    && known.age <= settings.max_age
                    && known.faces.iter().all(is_valid);
                prop_assert_eq!(verdict.doubt.is_none(), is_complete);
                if verdict.doubt.is_none() {
                    for face in &known.faces {
                        let is_covered = verdict.areas.iter().any(|area| contains(area, face.rect));
                        let is_exempt = face.track_id.is_some_and(|id| exempt.contains(&id));
                        prop_assert!(is_covered || is_exempt, "{face:?} {verdict:?}");
                    }
                } else {
                    prop_assert_eq!(verdict.exempt, 0);
                }
            }
        }
    }
}
