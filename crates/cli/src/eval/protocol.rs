//! The evaluation protocol of WIDER FACE: from boxes to precision, recall and average precision.
//!
//! Source: eval_tools of WIDER FACE by Shuo Yang (`evaluation.m`, `boxoverlap.m`, `norm_score.m`,
//! `read_pred.m`, `VOCap.m`). The Python port is wondervictor/WiderFace-Evaluation. Details of the
//! protocol:
//!
//! - A box `x y w h` spans `x` to `x + w`, and a span from `a` to `b` has `b - a + 1` pixels.
//! - A detection is matched to the ground-truth box with the highest IoU, ignored boxes included.
//!   It is never matched to the second-best box, so a second detection of a face is a false
//!   positive.
//! - A detection that is matched to an ignored box is neither a true nor a false positive.
//! - Scores are normalised over all detections: the lowest becomes 0, the highest 1. The
//!   precision-recall curve has 1000 points, at the score thresholds 0.999, 0.998, ..., 0.

use std::array;

/// Left, top, right and bottom in the protocol's convention: `x`, `y`, `x + w`, `y + h`.
pub(super) type Corners = [f64; 4];

/// Number of score thresholds, and of points of a curve.
const THRESHOLD_COUNT: usize = 1000;
/// A detection is matched to a box if their IoU is at least this.
const IOU_THRESHOLD: f64 = 0.5;

/// The difficulty levels, in the order of the arrays over them.
pub(super) const DIFFICULTIES: [&str; 3] = ["easy", "medium", "hard"];

/// The ground truth of an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct GroundTruth {
    pub(super) boxes: Vec<Corners>,
    /// For each box and difficulty, whether the box is evaluated; otherwise it is ignored.
    pub(super) evaluated: Vec<[bool; 3]>,
    /// For each difficulty, the number of evaluated boxes.
    pub(super) faces: [usize; 3],
}

/// A detected box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Detection {
    pub(super) corners: Corners,
    pub(super) score: f64,
}

/// Normalisation of scores, as `norm_score.m` does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ScoreNormalization {
    min: f64,
    range: f64,
}

impl ScoreNormalization {
    /// Leaves scores unchanged.
    pub(super) const NONE: Self = Self { min: 0.0, range: 1.0 };

    /// Maps the scores of all images to 0.0..=1.0.
    pub(super) fn from_scores(scores: impl Iterator<Item = f64>) -> Self {
        let extend = |(min, max): (f64, f64), score: f64| (min.min(score), max.max(score));
        let (min, max) = scores.fold((f64::INFINITY, f64::NEG_INFINITY), extend);
        // Equal scores all become 1. The official tool divides 0 by 0 and drops every detection.
        if max > min { Self { min, range: max - min } } else { Self { min: max - 1.0, range: 1.0 } }
    }

    fn normalize(self, score: f64) -> f64 {
        (score - self.min) / self.range
    }
}

/// Counts of detections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PrCounts {
    /// True and false positives.
    proposals: usize,
    true_positives: usize,
}

/// Accumulates the images of the data set.
#[derive(Clone, Debug)]
pub(super) struct Evaluation {
    /// For each difficulty and threshold, the detections whose scores reach this threshold but not
    /// the previous, higher one.
    counts: [Vec<PrCounts>; 3],
    thresholds: Vec<f64>,
    faces: [usize; 3],
}

/// A point of the precision-recall curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PrPoint {
    pub(super) recall: f64,
    pub(super) precision: f64,
}

/// The result for a difficulty.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PrCurve {
    pub(super) faces: usize,
    /// None without evaluated faces.
    pub(super) average_precision: Option<f64>,
    /// From the highest threshold to 0.
    pub(super) points: Vec<PrPoint>,
}

impl Evaluation {
    pub(super) fn new() -> Self {
        let thresholds = (1..=THRESHOLD_COUNT).map(|number| 1.0 - number as f64 / THRESHOLD_COUNT as f64).collect();
        Self { counts: array::from_fn(|_| vec![PrCounts::default(); THRESHOLD_COUNT]), thresholds, faces: [0; 3] }
    }

    /// Adds an image. Sorts `detections` by descending score; equal scores keep their order.
    pub(super) fn add(&mut self, truth: &GroundTruth, detections: &mut [Detection], normalization: ScoreNormalization) {
        for (sum, faces) in self.faces.iter_mut().zip(truth.faces) {
            *sum += faces;
        }
        // As in the official tool, detections in an image without boxes are not counted.
        if truth.boxes.is_empty() {
            return;
        }
        detections.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut matched = vec![[false; 3]; truth.boxes.len()];
        for detection in detections {
            let score = normalization.normalize(detection.score);
            let first = self.thresholds.partition_point(|threshold| score < *threshold);
            let best = best_match(&detection.corners, &truth.boxes);
            for (difficulty, counts) in self.counts.iter_mut().enumerate() {
                // A score below 0, which only raw scores can be, reaches no threshold.
                let Some(counts) = counts.get_mut(first) else { continue };
                match best {
                    Some(best) if !truth.evaluated[best][difficulty] => {}
                    Some(best) => {
                        let is_second = std::mem::replace(&mut matched[best][difficulty], true);
                        counts.proposals += 1;
                        counts.true_positives += usize::from(!is_second);
                    }
                    None => counts.proposals += 1,
                }
            }
        }
    }

    /// The precision-recall curves of the difficulties.
    pub(super) fn curves(&self) -> [PrCurve; 3] {
        array::from_fn(|difficulty| {
            let faces = self.faces[difficulty];
            let mut sum = PrCounts::default();
            let points = self.counts[difficulty].iter().map(|counts| {
                sum.proposals += counts.proposals;
                sum.true_positives += counts.true_positives;
                let ratio = |total: usize| if total == 0 { 0.0 } else { sum.true_positives as f64 / total as f64 };
                PrPoint { recall: ratio(faces), precision: ratio(sum.proposals) }
            });
            let points = points.collect::<Vec<_>>();
            let average_precision = (faces > 0).then(|| average_precision(&points));
            PrCurve { faces, average_precision, points }
        })
    }
}

/// The first box with the highest IoU, if that reaches the threshold.
fn best_match(detection: &Corners, boxes: &[Corners]) -> Option<usize> {
    let mut best = None;
    let mut max = 0.0;
    for (index, corners) in boxes.iter().enumerate() {
        let iou = iou(detection, corners);
        if iou > max {
            (best, max) = (Some(index), iou);
        }
    }
    best.filter(|_| max >= IOU_THRESHOLD)
}

/// Intersection over union in the protocol's convention, in 0.0..=1.0.
fn iou(a: &Corners, b: &Corners) -> f64 {
    let width = a[2].min(b[2]) - a[0].max(b[0]) + 1.0;
    let height = a[3].min(b[3]) - a[1].max(b[1]) + 1.0;
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let area = |corners: &Corners| (corners[2] - corners[0] + 1.0) * (corners[3] - corners[1] + 1.0);
    let intersection = width * height;
    intersection / (area(a) + area(b) - intersection)
}

/// The area under the interpolated curve, which has at each recall the highest precision at this or
/// a higher recall.
fn average_precision(points: &[PrPoint]) -> f64 {
    let (mut area, mut best) = (0.0, 0.0_f64);
    for (index, point) in points.iter().enumerate().rev() {
        best = best.max(point.precision);
        let previous = if index == 0 { 0.0 } else { points[index - 1].recall };
        area += (point.recall - previous) * best;
    }
    area
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn truth(boxes: &[(Corners, [bool; 3])]) -> GroundTruth {
        let (boxes, evaluated): (Vec<_>, Vec<_>) = boxes.iter().copied().unzip();
        let faces = array::from_fn(|level| evaluated.iter().filter(|evaluated| evaluated[level]).count());
        GroundTruth { boxes, evaluated, faces }
    }

    fn detection(corners: Corners, score: f64) -> Detection {
        Detection { corners, score }
    }

    fn averages(truth: &GroundTruth, detections: &mut [Detection]) -> [Option<f64>; 3] {
        let normalization = ScoreNormalization::from_scores(detections.iter().map(|detection| detection.score));
        let mut evaluation = Evaluation::new();
        evaluation.add(truth, detections, normalization);
        evaluation.curves().map(|curve| curve.average_precision)
    }

    const A: Corners = [0.0, 0.0, 9.0, 9.0];
    const B: Corners = [100.0, 0.0, 119.0, 19.0];
    const AWAY: Corners = [300.0, 300.0, 310.0, 310.0];

    #[test]
    fn a_span_includes_both_of_its_ends() {
        // Boxes of 10 x 10 pixels share 5 x 10. Exclusive ends would give 9 x 9 and 4 x 9.
        assert_eq!(iou(&A, &[5.0, 0.0, 14.0, 9.0]), 50.0 / 150.0);
        assert_eq!(iou(&A, &[9.0, 9.0, 9.0, 9.0]), 0.01);
        assert_eq!(iou(&A, &[10.0, 0.0, 20.0, 9.0]), 0.0);
        assert_eq!(iou(&A, &AWAY), 0.0, "the boxes are apart on both axes");
    }

    #[test]
    fn a_detection_of_an_ignored_box_is_neither_a_true_nor_a_false_positive() {
        let truth = truth(&[(A, [true, true, true]), (B, [false, true, true])]);
        let all = averages(&truth, &mut [detection(B, 0.9), detection(A, 0.5)]);
        assert_eq!(all, [Some(1.0); 3]);
        // The only easy face follows a false positive.
        let [easy, medium, _] = averages(&truth, &mut [detection(AWAY, 0.9), detection(A, 0.5)]);
        assert_eq!((easy, medium), (Some(0.5), Some(0.25)));
    }

    #[test]
    fn a_second_detection_of_a_face_is_a_false_positive() {
        let truth = truth(&[(A, [true; 3]), (B, [true; 3])]);
        let [easy, ..] = averages(&truth, &mut [detection(A, 0.9), detection(A, 0.8), detection(B, 0.1)]);
        // Recall 1/2 at precision 1, then recall 1 at precision 2/3.
        assert!((easy.unwrap() - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-12);
    }

    #[test]
    fn an_image_without_detections_still_counts_its_faces() {
        let truth = truth(&[(A, [true, true, true]), (B, [false, true, true])]);
        let mut evaluation = Evaluation::new();
        evaluation.add(&truth, &mut [], ScoreNormalization::NONE);
        evaluation.add(&truth, &mut [detection(A, 1.0)], ScoreNormalization::NONE);
        let [easy, medium, _] = evaluation.curves();
        assert_eq!((easy.faces, medium.faces), (2, 4));
        assert_eq!((easy.average_precision, medium.average_precision), (Some(0.5), Some(0.25)));
        // An image without boxes adds neither faces nor false positives.
        evaluation.add(&GroundTruth::default(), &mut [detection(A, 1.0)], ScoreNormalization::NONE);
        assert_eq!(evaluation.curves()[0], easy);
    }

    #[test]
    fn without_evaluated_faces_there_is_no_average_precision() {
        assert_eq!(averages(&truth(&[(A, [false, true, true])]), &mut [detection(A, 0.5)])[0], None);
    }

    #[test]
    fn scores_are_normalised_over_all_detections() {
        let normalization = ScoreNormalization::from_scores([0.8, 1.0, 0.9].into_iter());
        assert_eq!(normalization.normalize(0.8), 0.0);
        assert!((normalization.normalize(0.9) - 0.5).abs() < 1e-12 && normalization.normalize(1.0) == 1.0);
        assert_eq!(ScoreNormalization::from_scores([0.3, 0.3].into_iter()).normalize(0.3), 1.0);
        assert_eq!(ScoreNormalization::NONE.normalize(0.25), 0.25);
    }

    /// A line-by-line transcription of the official tool.
    fn official_average_precision(
        truth: &GroundTruth,
        detections: &[Detection],
        normalization: ScoreNormalization,
        difficulty: usize,
    ) -> f64 {
        let mut detections = detections.to_vec();
        detections.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut recall_list = vec![0; truth.boxes.len()];
        let mut proposal_list = vec![1; detections.len()];
        let mut pred_recall = vec![0; detections.len()];
        for (h, detection) in detections.iter().enumerate() {
            let overlaps = truth.boxes.iter().map(|corners| iou(corners, &detection.corners)).collect::<Vec<_>>();
            let max = overlaps.iter().copied().fold(0.0, f64::max);
            let idx = overlaps.iter().position(|overlap| *overlap == max).unwrap();
            if max >= 0.5 {
                if !truth.evaluated[idx][difficulty] {
                    recall_list[idx] = -1;
                    proposal_list[h] = -1;
                } else if recall_list[idx] == 0 {
                    recall_list[idx] = 1;
                }
            }
            pred_recall[h] = recall_list.iter().filter(|recall| **recall == 1).count();
        }
        let (mut mrec, mut mpre) = (vec![0.0], vec![0.0]);
        for t in 1..=THRESHOLD_COUNT {
            let threshold = 1.0 - t as f64 / THRESHOLD_COUNT as f64;
            let last = detections.iter().rposition(|detection| normalization.normalize(detection.score) >= threshold);
            let proposals = last.map_or(0, |last| proposal_list[..=last].iter().filter(|kind| **kind == 1).count());
            let recalled = last.map_or(0, |last| pred_recall[last]);
            mpre.push(if proposals == 0 { 0.0 } else { recalled as f64 / proposals as f64 });
            mrec.push(recalled as f64 / truth.faces[difficulty] as f64);
        }
        mrec.push(1.0);
        mpre.push(0.0);
        for i in (0..mpre.len() - 1).rev() {
            mpre[i] = mpre[i].max(mpre[i + 1]);
        }
        (1..mrec.len()).map(|i| (mrec[i] - mrec[i - 1]) * mpre[i]).sum()
    }

    proptest! {
        #[test]
        fn the_average_precision_equals_that_of_the_official_tool(
            boxes in prop::collection::vec(((0..8_i32, 0..8_i32, 0..6_i32, 0..6_i32), any::<[bool; 3]>()), 1..8),
            detections in prop::collection::vec(((0..8_i32, 0..8_i32, 0..6_i32, 0..6_i32), 0..50_u32), 0..20),
        ) {
            let corners = |(x, y, w, h): (i32, i32, i32, i32)| [x, y, x + w, y + h].map(f64::from);
            let truth = truth(&boxes.iter().map(|(bounds, evaluated)| (corners(*bounds), *evaluated)).collect::<Vec<_>>());
            let detections =
                detections.iter().map(|(bounds, score)| detection(corners(*bounds), f64::from(*score) / 50.0)).collect::<Vec<_>>();
            for normalization in [ScoreNormalization::NONE, ScoreNormalization::from_scores(detections.iter().map(|detection| detection.score))] {
                let mut evaluation = Evaluation::new();
                evaluation.add(&truth, &mut detections.clone(), normalization);
                for (difficulty, curve) in evaluation.curves().iter().enumerate() {
                    match curve.average_precision {
                        Some(average) => {
                            let official = official_average_precision(&truth, &detections, normalization, difficulty);
                            prop_assert!((average - official).abs() < 1e-9);
                        }
                        None => prop_assert_eq!(truth.faces[difficulty], 0),
                    }
                }
            }
        }
    }
}
