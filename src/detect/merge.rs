//! Merging of the candidates from all views of a frame.
//!
//! Source of box voting: S. Gidaris and N. Komodakis, "Object detection via a multi-region and
//! semantic segmentation-aware CNN model", ICCV 2015; `bbox_vote` in deepinsight/insightface,
//! `detection/retinaface/retinaface.py`.

use crate::geometry::{Face, MAX_CANDIDATES, Point, Rect, iou, nms};

/// A truncated face is a duplicate of another face if the two cover each other by more than this
/// fraction of the smaller box.
const TRUNCATED_COVERAGE: f32 = 0.5;
/// A candidate is a part of a larger face if that face covers more than this fraction of it.
const PART_COVERAGE: f32 = 0.6;
/// The larger face must have more than this multiple of the area of the candidate.
const PART_AREA_RATIO: f32 = 2.0;

/// How overlapping faces of several views are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merge {
    /// Non-maximum suppression: the face with the best score is kept.
    #[default]
    Nms,
    /// Box voting: overlapping faces are replaced by the mean of their boxes and landmarks,
    /// weighted by their scores.
    Vote,
}

/// A candidate from one view.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// The face, in the square pixels of the frame.
    pub(crate) face: Face,
    /// Whether an inner edge of the view truncates the face.
    pub(crate) truncated: bool,
    /// Maximum size (longer side) of the faces that the view can contain completely, in the same
    /// pixels; infinite for views of the whole region at a coarse scale.
    pub(crate) max_whole_face: f32,
}

impl Candidate {
    /// A candidate from a view of the whole frame.
    #[cfg(test)]
    pub(crate) fn of_whole_frame(face: Face) -> Self {
        Self { face, truncated: false, max_whole_face: f32::INFINITY }
    }
}

/// Merges the candidates from all views of a frame. The result is sorted by score, best first.
pub(crate) fn merge(mut candidates: Vec<Candidate>, merge: Merge, iou_threshold: f32) -> Vec<Face> {
    drop_parts(&mut candidates, iou_threshold);
    let (truncated, complete): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.truncated);
    let faces = |candidates: Vec<Candidate>| candidates.into_iter().map(|candidate| candidate.face).collect::<Vec<_>>();
    let mut kept = match merge {
        Merge::Nms => nms(faces(complete), iou_threshold),
        Merge::Vote => vote(faces(complete), iou_threshold),
    };
    if truncated.is_empty() {
        return kept;
    }
    // Other views contain most truncated faces completely. The remaining ones exceed the overlap of
    // tiles.
    for face in nms(faces(truncated), iou_threshold) {
        if kept.iter().all(|other| coverage(face.rect, other.rect) <= TRUNCATED_COVERAGE) {
            kept.push(face);
        }
    }
    kept.sort_by(|a, b| b.score.total_cmp(&a.score));
    kept
}

/// Drops candidates that are parts of a larger face. In a tile, a detector can mistake an eye and a
/// cheek for a face.
fn drop_parts(candidates: &mut Vec<Candidate>, iou_threshold: f32) {
    let is_coarse = |candidate: &Candidate| candidate.max_whole_face == f32::INFINITY;
    if candidates.iter().all(is_coarse) {
        return;
    }
    let coarse = candidates.iter().filter(|candidate| is_coarse(candidate)).map(|candidate| candidate.face.clone());
    let large = nms(coarse.collect(), iou_threshold);
    candidates.retain(|candidate| {
        let rect = candidate.face.rect;
        let is_within = |large: &Face| {
            // Only faces with a better score count: at a low threshold, large false positives are
            // frequent.
            large.score >= candidate.face.score
                && large.rect.w.max(large.rect.h) > candidate.max_whole_face
                && large.rect.area() > PART_AREA_RATIO * rect.area()
                && coverage(rect, large.rect) > PART_COVERAGE
        };
        is_coarse(candidate) || !large.iter().any(is_within)
    });
}

/// The intersection of two boxes as a fraction of the smaller one, in 0.0..=1.0.
fn coverage(a: Rect, b: Rect) -> f32 {
    let w = (a.right().min(b.right()) - a.x.max(b.x)).max(0.0);
    let h = (a.bottom().min(b.bottom()) - a.y.max(b.y)).max(0.0);
    let smaller = a.area().min(b.area());
    if smaller > 0.0 { w * h / smaller } else { 0.0 }
}

/// Box voting: merges each face that has the best score at its position with the faces that overlap
/// it.
///
/// Boxes and landmarks are means, weighted by score; the score is the best one. The reference drops
/// faces without overlapping faces; here they are kept.
fn vote(mut faces: Vec<Face>, iou_threshold: f32) -> Vec<Face> {
    faces.sort_by(|a, b| b.score.total_cmp(&a.score));
    faces.truncate(MAX_CANDIDATES);
    let mut kept = Vec::new();
    while let Some(best) = faces.first() {
        let rect = best.rect;
        let (group, rest): (Vec<_>, Vec<_>) = faces
            .into_iter()
            .enumerate()
            .partition(|(index, face)| *index == 0 || iou(rect, face.rect) >= iou_threshold);
        kept.push(mean(group.into_iter().map(|(_, face)| face).collect()));
        faces = rest.into_iter().map(|(_, face)| face).collect();
    }
    kept
}

/// The mean of at least one face, weighted by score. Other fields are those of the first face.
fn mean(group: Vec<Face>) -> Face {
    let weights = group.iter().map(|face| f64::from(face.score.max(f32::MIN_POSITIVE)));
    let total = weights.clone().sum::<f64>();
    let of = |value: &dyn Fn(&Face) -> f32| {
        let sum = group.iter().zip(weights.clone()).map(|(face, weight)| f64::from(value(face)) * weight);
        (sum.sum::<f64>() / total) as f32
    };
    let rect = Rect {
        x: of(&|face| face.rect.x),
        y: of(&|face| face.rect.y),
        w: of(&|face| face.rect.w),
        h: of(&|face| face.rect.h),
    };
    let landmarks = group.iter().all(|face| face.landmarks.is_some()).then(|| {
        std::array::from_fn(|index| {
            let point = |face: &Face| face.landmarks.map_or(Point::default(), |points| points[index]);
            Point::new(of(&|face| point(face).x), of(&|face| point(face).y))
        })
    });
    let best = group.into_iter().next().unwrap_or_default();
    Face { rect, landmarks, ..best }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn face(score: f32, x: f32, y: f32, size: f32) -> Face {
        let landmarks = std::array::from_fn(|index| Point::new(x + index as f32, y + 2.0 * index as f32));
        Face { score, rect: Rect::new(x, y, size, size), landmarks: Some(landmarks), ..Face::default() }
    }

    #[test]
    fn parts_of_a_face_that_exceeds_a_tile_are_dropped() {
        let large = Candidate::of_whole_frame(face(0.97, 0.0, 0.0, 1000.0));
        let of_tile =
            |x: f32, size: f32| Candidate { face: face(0.95, x, 300.0, size), truncated: false, max_whole_face: 256.0 };
        // One candidate is a part of the large face, the other lies beside it.
        let found = vec![large.clone(), of_tile(300.0, 200.0), of_tile(2000.0, 200.0)];
        assert_eq!(merge(found, Merge::Nms, 0.4), [face(0.97, 0.0, 0.0, 1000.0), face(0.95, 2000.0, 300.0, 200.0)]);
        // A large box with a low score does not suppress anything.
        let poor = Candidate::of_whole_frame(face(0.1, 0.0, 0.0, 1000.0));
        assert_eq!(merge(vec![poor, of_tile(300.0, 200.0)], Merge::Nms, 0.4).len(), 2);
        let small = Candidate::of_whole_frame(face(0.9, 0.0, 300.0, 200.0));
        let found = vec![small, of_tile(20.0, 30.0)];
        assert_eq!(merge(found, Merge::Nms, 0.4).len(), 2, "a tile contains a face of this size completely");
    }

    #[test]
    fn votes_are_weighted_by_score() {
        let all = [face(0.9, 10.0, 10.0, 20.0), face(0.3, 14.0, 10.0, 20.0), face(0.8, 90.0, 0.0, 20.0)];
        let merged = merge(all.map(Candidate::of_whole_frame).to_vec(), Merge::Vote, 0.4);
        let [voted, alone] = merged.as_slice() else { panic!("{merged:?}") };
        assert_eq!((voted.score, alone.clone()), (0.9, face(0.8, 90.0, 0.0, 20.0)));
        assert!((voted.rect.x - 11.0).abs() < 1e-5 && (voted.rect.w - 20.0).abs() < 1e-5, "{voted:?}");
        assert!((voted.landmarks.unwrap()[0].x - 11.0).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn voting_never_adds_faces_and_sorts_by_score(xs in proptest::collection::vec(0.0f32..900.0, 0..30)) {
            let candidate = |(i, x): (usize, &f32)| {
                Candidate::of_whole_frame(face(0.5 + i as f32 / 100.0, *x, 0.0, 30.0))
            };
            let faces = xs.iter().enumerate().map(candidate).collect::<Vec<_>>();
            let voted = merge(faces.clone(), Merge::Vote, 0.4);
            prop_assert!(voted.len() <= faces.len() && voted.is_empty() == faces.is_empty());
            prop_assert!(voted.windows(2).all(|pair| pair[0].score >= pair[1].score));
        }
    }
}
