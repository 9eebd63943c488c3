//! What several looks at a frame found, brought together.
//!
//! Source of box voting: `bbox_vote` in deepinsight/insightface, `detection/retinaface/retinaface.py`, which comes from
//! S. Gidaris and N. Komodakis, "Object detection via a multi-region and semantic segmentation-aware CNN model", ICCV 2015.

use crate::face::{Face, Point, Rect, iou};
use crate::nms::{TOP_K, nms};

/// A cut face of which more than this part is covered by another is that one.
const CUT_COVERED: f32 = 0.5;
/// What is covered by more than this part by a face of so many times its area, which its look does not see whole, is a
/// part of that face.
const PART_COVERED: f32 = 0.6;
const PART_AREA: f32 = 2.0;

/// How faces that several looks found are brought together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merge {
    /// Of those that overlap, the best stays.
    #[default]
    Nms,
    /// Those that overlap become one: the mean of their boxes and landmarks, weighted by their scores.
    Vote,
}

/// What a look found, in frame pixels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) face: Face,
    /// Whether the look cut it off at the edge of a tile or region.
    pub(crate) cut: bool,
    /// The longer side of faces that the look sees whole.
    pub(crate) whole: f32,
}

impl Candidate {
    /// One of a look that saw all of the frame.
    #[cfg(test)]
    pub(crate) fn whole(face: Face) -> Self {
        Self { face, cut: false, whole: f32::INFINITY }
    }
}

/// Brings together what the looks at a frame found; best score first.
pub(crate) fn merge(mut found: Vec<Candidate>, merge: Merge, iou_threshold: f32) -> Vec<Face> {
    drop_parts(&mut found, iou_threshold);
    let (cut, whole): (Vec<_>, Vec<_>) = found.into_iter().partition(|candidate| candidate.cut);
    let alone = |found: Vec<Candidate>| found.into_iter().map(|candidate| candidate.face).collect::<Vec<_>>();
    let mut kept = match merge {
        Merge::Nms => nms(alone(whole), iou_threshold),
        Merge::Vote => vote(alone(whole), iou_threshold),
    };
    if cut.is_empty() {
        return kept;
    }
    // A face that is whole in another look was found there. What is left is larger than what tiles share.
    for face in nms(alone(cut), iou_threshold) {
        if kept.iter().all(|other| covered_part(face.rect, other.rect) <= CUT_COVERED) {
            kept.push(face);
        }
    }
    kept.sort_by(|a, b| b.score.total_cmp(&a.score));
    kept
}

/// Drops what is a part of a larger face: an eye and a cheek that fill a tile look like a face of their own.
fn drop_parts(found: &mut Vec<Candidate>, iou_threshold: f32) {
    let is_coarse = |candidate: &Candidate| candidate.whole == f32::INFINITY;
    if found.iter().all(is_coarse) {
        return;
    }
    let coarse = found.iter().filter(|candidate| is_coarse(candidate)).map(|candidate| candidate.face.clone());
    let large = nms(coarse.collect(), iou_threshold);
    found.retain(|candidate| {
        let rect = candidate.face.rect;
        let is_within = |large: &Face| {
            // A better one only: at a low threshold there are boxes of that size everywhere, and of no face.
            large.score >= candidate.face.score
                && large.rect.w.max(large.rect.h) > candidate.whole
                && large.rect.area() > PART_AREA * rect.area()
                && covered_part(rect, large.rect) > PART_COVERED
        };
        is_coarse(candidate) || !large.iter().any(is_within)
    });
}

/// How much of the smaller of two boxes the other covers, in 0.0..=1.0.
fn covered_part(a: Rect, b: Rect) -> f32 {
    let w = (a.right().min(b.right()) - a.x.max(b.x)).max(0.0);
    let h = (a.bottom().min(b.bottom()) - a.y.max(b.y)).max(0.0);
    let smaller = a.area().min(b.area());
    if smaller > 0.0 { w * h / smaller } else { 0.0 }
}

/// Makes one face of each that is best where it is and those that overlap it: boxes and landmarks are means weighted by
/// the scores, the score is the best one's. The reference forgets faces that nothing else overlaps; they are kept here.
fn vote(mut faces: Vec<Face>, iou_threshold: f32) -> Vec<Face> {
    faces.sort_by(|a, b| b.score.total_cmp(&a.score));
    faces.truncate(TOP_K);
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

/// The weighted mean of faces, of which the first is the best; at least one.
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

    fn face(score: f32, x: f32, y: f32, side: f32) -> Face {
        let landmarks = std::array::from_fn(|index| Point::new(x + index as f32, y + 2.0 * index as f32));
        Face { score, rect: Rect::new(x, y, side, side), landmarks: Some(landmarks), ..Face::default() }
    }

    #[test]
    fn parts_of_a_face_that_a_tile_cannot_show_are_none() {
        let large = Candidate::whole(face(0.97, 0.0, 0.0, 1000.0));
        let of_tile = |x: f32, side: f32| Candidate { face: face(0.95, x, 300.0, side), cut: false, whole: 256.0 };
        // A part of it, one beside it, and one in front of it that a tile shows as well as the whole.
        let found = vec![large.clone(), of_tile(300.0, 200.0), of_tile(2000.0, 200.0)];
        assert_eq!(merge(found, Merge::Nms, 0.4), [face(0.97, 0.0, 0.0, 1000.0), face(0.95, 2000.0, 300.0, 200.0)]);
        // At a low threshold there are boxes of any size that are no face.
        let poor = Candidate::whole(face(0.1, 0.0, 0.0, 1000.0));
        assert_eq!(merge(vec![poor, of_tile(300.0, 200.0)], Merge::Nms, 0.4).len(), 2);
        let small = Candidate::whole(face(0.9, 0.0, 300.0, 200.0));
        let found = vec![small, of_tile(20.0, 30.0)];
        assert_eq!(merge(found, Merge::Nms, 0.4).len(), 2, "a face of that size has no parts that tiles mistake");
    }

    #[test]
    fn votes_weigh_by_score_and_keep_the_best() {
        let all = [face(0.9, 10.0, 10.0, 20.0), face(0.3, 14.0, 10.0, 20.0), face(0.8, 90.0, 0.0, 20.0)];
        let merged = merge(all.map(Candidate::whole).to_vec(), Merge::Vote, 0.4);
        let [voted, alone] = merged.as_slice() else { panic!("{merged:?}") };
        assert_eq!((voted.score, alone.clone()), (0.9, face(0.8, 90.0, 0.0, 20.0)));
        assert!((voted.rect.x - 11.0).abs() < 1e-5 && (voted.rect.w - 20.0).abs() < 1e-5, "{voted:?}");
        assert!((voted.landmarks.unwrap()[0].x - 11.0).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn voting_leaves_as_many_faces_as_are_apart(xs in proptest::collection::vec(0.0f32..900.0, 0..30)) {
            let faces = xs.iter().enumerate().map(|(i, x)| Candidate::whole(face(0.5 + i as f32 / 100.0, *x, 0.0, 30.0))).collect::<Vec<_>>();
            let voted = merge(faces.clone(), Merge::Vote, 0.4);
            prop_assert!(voted.len() <= faces.len() && voted.is_empty() == faces.is_empty());
            prop_assert!(voted.windows(2).all(|pair| pair[0].score >= pair[1].score));
        }
    }
}
