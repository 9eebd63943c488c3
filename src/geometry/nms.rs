//! Non-maximum suppression.

use super::face::{Face, Rect, iou};

/// Maximum number of candidates for suppression; those with the best scores are kept.
///
/// The limit bounds the run time at a score threshold near 0. biubug6/Pytorch_Retinaface has the
/// same limit as `top_k`.
pub(crate) const MAX_CANDIDATES: usize = 5000;

/// A candidate of non-maximum suppression.
pub trait Ranked {
    /// The value by which candidates are compared. The greatest is the best.
    fn rank(&self) -> f32;
    /// The bounding box.
    fn rect(&self) -> Rect;
}

impl Ranked for Face {
    fn rank(&self) -> f32 {
        self.score
    }

    fn rect(&self) -> Rect {
        self.rect
    }
}

/// Greedy non-maximum suppression: a candidate is kept if its IoU with every kept candidate of a
/// better rank is at most `iou_threshold` (0.0..=1.0).
///
/// The candidates can come in any order. The result is sorted by rank, best first; equal ranks keep
/// their order.
///
/// Source: Felzenszwalb et al., "Object Detection with Discriminatively Trained Part-Based Models",
/// section 5.2, with intersection over union as the overlap.
pub fn nms<T: Ranked>(candidates: Vec<T>, iou_threshold: f32) -> Vec<T> {
    suppress(candidates, iou_threshold, drop)
}

/// As [`nms`]. Calls `suppressed` with each candidate that is not kept.
pub(crate) fn suppress<T: Ranked>(mut candidates: Vec<T>, iou_threshold: f32, mut suppressed: impl FnMut(T)) -> Vec<T> {
    candidates.sort_by(|a, b| b.rank().total_cmp(&a.rank()));
    candidates.truncate(MAX_CANDIDATES);
    let mut kept: Vec<T> = Vec::new();
    for candidate in candidates {
        if kept.iter().all(|better| iou(better.rect(), candidate.rect()) <= iou_threshold) {
            kept.push(candidate);
        } else {
            suppressed(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn face(score: f32, x: f32, y: f32, w: f32, h: f32) -> Face {
        Face { score, rect: Rect::new(x, y, w, h), ..Face::default() }
    }

    fn any_faces() -> impl Strategy<Value = Vec<Face>> {
        let one = (0.0f32..1.0, 0.0f32..200.0, 0.0f32..200.0, 0.0f32..90.0, 0.0f32..90.0)
            .prop_map(|(score, x, y, w, h)| face(score, x, y, w, h));
        proptest::collection::vec(one, 0..60)
    }

    #[test]
    fn the_better_of_two_overlapping_boxes_is_kept_in_any_order() {
        let (good, poor) = (face(0.9, 0.0, 0.0, 10.0, 10.0), face(0.6, 1.0, 0.0, 10.0, 10.0));
        assert_eq!(nms(vec![poor.clone(), good.clone()], 0.4), vec![good.clone()]);
        assert_eq!(nms(vec![good.clone(), poor], 0.4), vec![good]);
    }

    proptest! {
        #[test]
        fn nms_keeps_sorted_disjoint_best_faces(
            faces in any_faces(), threshold in 0.05f32..0.95,
        ) {
            let kept = nms(faces.clone(), threshold);
            for pair in kept.windows(2) {
                prop_assert!(pair[0].score >= pair[1].score);
            }
            for (i, a) in kept.iter().enumerate() {
                prop_assert!(faces.contains(a));
                for b in &kept[i + 1..] {
                    prop_assert!(iou(a.rect, b.rect) <= threshold);
                }
            }
            for dropped in faces.iter().filter(|face| !kept.contains(face)) {
                let covers = |k: &Face| k.score >= dropped.score && iou(k.rect, dropped.rect) > threshold;
                prop_assert!(kept.iter().any(covers));
            }
        }

        #[test]
        fn nms_is_idempotent_and_independent_of_the_order(faces in any_faces(), threshold in 0.05f32..0.95) {
            let kept = nms(faces.clone(), threshold);
            prop_assert_eq!(&nms(kept.clone(), threshold), &kept);
            let mut scores = faces.iter().map(|face| face.score.to_bits()).collect::<Vec<_>>();
            scores.sort_unstable();
            scores.dedup();
            if scores.len() == faces.len() {
                let reversed = faces.into_iter().rev().collect();
                prop_assert_eq!(&nms(reversed, threshold), &kept);
            }
        }
    }
}
