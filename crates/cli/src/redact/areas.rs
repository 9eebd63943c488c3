//! The areas that are covered in each frame, from the faces of all frames.

use std::collections::BTreeMap;
use std::time::Duration;

use retinaface::geometry::Rect;
use retinaface::track::{Coverage, CoverageSettings, KnownFaces, areas_before};

/// What the first pass found in a frame.
#[derive(Clone, Debug)]
pub(super) struct AnalysedFrame {
    /// Timestamp; `None` if the decoder gives none.
    pub(super) pts: Option<Duration>,
    pub(super) known: KnownFaces,
}

/// The areas of each frame, by its timestamp.
#[derive(Debug, Default)]
pub(super) struct Areas {
    /// `None`: the whole frame.
    frames: BTreeMap<Duration, Option<Vec<Rect>>>,
    /// Number of faces that the first pass found, of all frames.
    pub(super) faces: usize,
}

impl Areas {
    /// Plays the frames forwards and backwards through [`Coverage`], so that a face is covered before
    /// it is found first, too.
    pub(super) fn new(analysed: &[AnalysedFrame], settings: &CoverageSettings) -> Self {
        let mut areas = Self::default();
        let timed = analysed.iter().filter_map(|frame| Some((frame.pts?, &frame.known))).collect::<Vec<_>>();
        let (mut coverage, mut last) = (Coverage::new(), Duration::ZERO);
        for (time, known) in &timed {
            if *time < last {
                // The timestamps start anew.
                coverage.clear();
            }
            last = *time;
            let coverage = coverage.update(*time, known, settings);
            areas.insert(*time, coverage.doubt.is_none().then_some(coverage.areas));
            areas.hold(*time, &coverage.held_areas);
        }
        for ((time, _), held) in timed.iter().zip(areas_before(&timed, settings)) {
            areas.hold(*time, &held);
        }
        areas.faces = analysed.iter().map(|frame| frame.known.faces.len()).sum();
        areas
    }

    /// Adds areas in which a face can be anywhere. The ellipse around such a rectangle contains it.
    fn hold(&mut self, time: Duration, held: &[Rect]) {
        if let Some(Some(areas)) = self.frames.get_mut(&time) {
            areas.extend(held.iter().map(|rect| rect.grown(std::f32::consts::SQRT_2)));
        }
    }

    /// Adds areas to a frame. Frames with the same timestamp have the areas of both.
    fn insert(&mut self, time: Duration, areas: Option<Vec<Rect>>) {
        let frame = self.frames.entry(time).or_insert_with(|| Some(Vec::new()));
        match (frame.as_mut(), areas) {
            (Some(all), Some(areas)) => all.extend(areas),
            _ => *frame = None,
        }
    }

    /// The areas of the frame with this timestamp. `None` if it must be covered completely: its
    /// known faces may be incomplete, or the first pass has not seen it.
    pub(super) fn of(&self, pts: Option<Duration>) -> Option<&[Rect]> {
        self.frames.get(&pts?)?.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use retinaface::geometry::Face;

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    fn known(faces: &[Face]) -> KnownFaces {
        KnownFaces { has_result: true, age: Duration::ZERO, lost: 0, faces: faces.to_vec() }
    }

    fn face(x: f32) -> Face {
        Face { score: 0.9, rect: Rect::new(x, 50.0, 40.0, 50.0), track_id: Some(3), ..Face::default() }
    }

    fn frames(faces: impl Fn(u64) -> Option<Face>) -> Vec<AnalysedFrame> {
        let frame = |number| AnalysedFrame {
            pts: Some(ms(40 * number)),
            known: known(&faces(number).into_iter().collect::<Vec<_>>()),
        };
        (0..100).map(frame).collect()
    }

    fn covers(areas: &Areas, number: u64, rect: Rect) -> bool {
        let is_in = |area: &Rect| {
            area.x <= rect.x && area.y <= rect.y && area.right() >= rect.right() && area.bottom() >= rect.bottom()
        };
        areas.of(Some(ms(40 * number))).is_some_and(|areas| areas.iter().any(is_in))
    }

    #[test]
    fn the_frames_before_a_face_is_found_and_after_it_is_lost_are_covered() {
        let at = |number: u64| face(100.0 + 2.0 * number as f32);
        let analysed = frames(|number| (40..60).contains(&number).then(|| at(number)));
        let areas = Areas::new(&analysed, &CoverageSettings::default());
        assert_eq!(areas.faces, 20);
        for number in 16..84 {
            assert!(covers(&areas, number, at(number).rect), "frame {number}");
        }
        for number in [0, 14, 85, 99] {
            assert_eq!(areas.of(Some(ms(40 * number))), Some(&[][..]), "frame {number}");
        }
    }

    #[test]
    fn a_gap_between_two_detections_is_covered_from_both_sides() {
        let analysed = frames(|number| (!(20..60).contains(&number)).then(|| face(100.0)));
        let areas = Areas::new(&analysed, &CoverageSettings::default());
        assert!((0..100).all(|number| covers(&areas, number, face(100.0).rect)));
    }

    #[test]
    fn frames_in_doubt_and_unknown_frames_are_covered_whole() {
        let mut analysed = frames(|_| None);
        analysed[5].known.has_result = false;
        analysed[6].known.lost = 1;
        analysed[7].pts = None;
        // A second frame with the timestamp of another one.
        analysed[8].pts = Some(ms(40 * 9));
        analysed[8].known.age = Duration::from_secs(1);
        let areas = Areas::new(&analysed, &CoverageSettings::default());
        let whole = (0..100).filter(|number| areas.of(Some(ms(40 * number))).is_none()).collect::<Vec<_>>();
        assert_eq!(whole, [5, 6, 7, 8, 9]);
        assert_eq!((areas.of(None), areas.of(Some(ms(1)))), (None, None));
    }

    #[test]
    fn timestamps_that_go_back_start_a_new_stream() {
        let mut analysed = frames(|number| (number < 10).then(|| face(100.0)));
        analysed[10..].iter_mut().for_each(|frame| frame.pts = frame.pts.map(|pts| pts - ms(400)));
        let areas = Areas::new(&analysed, &CoverageSettings::default());
        assert!((0..10).all(|number| covers(&areas, number, face(100.0).rect)));
        assert!((0..90).all(|number| areas.of(Some(ms(40 * number))).is_some()));
    }
}
