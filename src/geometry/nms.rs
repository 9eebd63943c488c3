//! Non-maximum suppression.

use crate::face::{Face, iou};

/// At most this many candidates, the best ones, enter suppression (biubug6's `top_k`). It bounds the
/// time that a threshold near 0 can cost.
pub const TOP_K: usize = 5000;

/// Keeps, best score first, each candidate that overlaps no better kept one by more than
/// `iou_threshold`. It sorts for itself; of equal scores the earlier comes first.
///
/// Greedy suppression as in Felzenszwalb et al., "Object Detection with Discriminatively Trained
/// Part-Based Models", section 5.2, with intersection over union as the overlap.
pub fn nms(mut candidates: Vec<Face>, iou_threshold: f32) -> Vec<Face> {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    candidates.truncate(TOP_K);
    let mut kept: Vec<Face> = Vec::new();
    for candidate in candidates {
        if kept.iter().all(|better| iou(better.rect, candidate.rect) <= iou_threshold) {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::Rect;
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
    fn the_better_of_two_overlapping_boxes_stays_wherever_it_stood() {
        let (good, poor) = (face(0.9, 0.0, 0.0, 10.0, 10.0), face(0.6, 1.0, 0.0, 10.0, 10.0));
        assert_eq!(nms(vec![poor.clone(), good.clone()], 0.4), vec![good.clone()]);
        assert_eq!(nms(vec![good.clone(), poor], 0.4), vec![good]);
    }

    proptest! {
        #[test]
        fn what_stays_is_sorted_apart_and_what_goes_is_covered(faces in any_faces(), threshold in 0.05f32..0.95) {
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
            for gone in faces.iter().filter(|face| !kept.contains(face)) {
                prop_assert!(kept.iter().any(|k| k.score >= gone.score && iou(k.rect, gone.rect) > threshold));
            }
        }

        #[test]
        fn a_second_pass_changes_nothing_and_order_does_not_matter(faces in any_faces(), threshold in 0.05f32..0.95) {
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
