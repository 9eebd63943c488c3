//! The evaluation protocol of WIDER FACE: pure functions from boxes to precision, recall and average precision.
//!
//! Source: eval_tools of WIDER FACE by Shuo Yang (`evaluation.m`, `boxoverlap.m`, `norm_score.m`, `read_pred.m`, `VOCap.m`),
//! which the Python port wondervictor/WiderFace-Evaluation follows. What it defines, and is easily missed:
//!
//! - A box `x y w h` reaches from `x` to `x + w`, and a length from `a` to `b` has `b - a + 1` pixels.
//! - A detection belongs to the box that it overlaps most, be that one that counts or one that does not. It is never given
//!   to the next best, so that a second detection of a face is a false one.
//! - A detection that belongs to a box that does not count is neither right nor false.
//! - Scores are stretched so that the least of all detections is 0 and the greatest 1. The curve has 1000 points, at
//!   scores 0.999, 0.998, ..., 0.

use std::array;

/// Left, top, right and bottom, as the protocol has them: `x`, `y`, `x + w`, `y + h`.
pub(super) type Corners = [f64; 4];

/// Thresholds of the score, and so points of a curve.
pub(super) const THRESHOLDS: usize = 1000;
/// A detection that overlaps a box by at least this belongs to it.
const OVERLAP: f64 = 0.5;

/// The sets of faces, in the order of arrays over them.
pub(super) const SETS: [&str; 3] = ["easy", "medium", "hard"];

/// A picture's boxes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Truth {
    pub(super) boxes: Vec<Corners>,
    /// Of each box, in which sets it counts.
    pub(super) counts: Vec<[bool; 3]>,
    /// How many boxes count, for each set.
    pub(super) faces: [usize; 3],
}

/// A box that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Detection {
    pub(super) corners: Corners,
    pub(super) score: f64,
}

/// What the scores are stretched by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    least: f64,
    spread: f64,
}

impl Scale {
    /// Scores that are taken as they are.
    pub(super) const RAW: Self = Self { least: 0.0, spread: 1.0 };

    /// From all scores of all pictures.
    pub(super) fn of(scores: impl Iterator<Item = f64>) -> Self {
        let ends = |(least, most): (f64, f64), score: f64| (least.min(score), most.max(score));
        let (least, most) = scores.fold((f64::INFINITY, f64::NEG_INFINITY), ends);
        // Where all are the same there is nothing to stretch: each is 1. (The official tool divides 0 by 0 and finds none.)
        if most > least { Self { least, spread: most - least } } else { Self { least: most - 1.0, spread: 1.0 } }
    }

    fn stretched(self, score: f64) -> f64 {
        (score - self.least) / self.spread
    }
}

/// Detections at one threshold: those that count for or against the detector, and the faces that they find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    proposals: usize,
    hits: usize,
}

/// What all pictures together give.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    /// For each set and threshold, what the detections add whose scores reach it and not the one before.
    tallies: [Vec<Tally>; 3],
    thresholds: Vec<f64>,
    faces: [usize; 3],
}

/// A point of the curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) recall: f64,
    pub(super) precision: f64,
}

/// A set's result.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    pub(super) faces: usize,
    /// None where no face counts.
    pub(super) average_precision: Option<f64>,
    /// From the highest threshold to 0.
    pub(super) points: Vec<Point>,
}

impl Totals {
    pub(super) fn new() -> Self {
        let thresholds = (1..=THRESHOLDS).map(|number| 1.0 - number as f64 / THRESHOLDS as f64).collect();
        Self { tallies: array::from_fn(|_| vec![Tally::default(); THRESHOLDS]), thresholds, faces: [0; 3] }
    }

    /// Adds a picture. `detections` are sorted by it, best first; those of equal score keep their order.
    pub(super) fn add(&mut self, truth: &Truth, detections: &mut [Detection], scale: Scale) {
        for (sum, faces) in self.faces.iter_mut().zip(truth.faces) {
            *sum += faces;
        }
        // As the official tool does: without any box, detections are not even false.
        if truth.boxes.is_empty() {
            return;
        }
        detections.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut found = vec![[false; 3]; truth.boxes.len()];
        for detection in detections {
            let score = scale.stretched(detection.score);
            let first = self.thresholds.partition_point(|threshold| score < *threshold);
            let best = most_overlapped(&detection.corners, &truth.boxes);
            for (set, tallies) in self.tallies.iter_mut().enumerate() {
                // Below 0 only where scores are not stretched; no threshold reaches it, but a later one is lower still.
                let Some(tally) = tallies.get_mut(first) else { continue };
                match best {
                    Some(best) if !truth.counts[best][set] => {}
                    Some(best) => {
                        tally.proposals += 1;
                        tally.hits += usize::from(!std::mem::replace(&mut found[best][set], true));
                    }
                    None => tally.proposals += 1,
                }
            }
        }
    }

    /// The curves of the sets.
    pub(super) fn curves(&self) -> [Curve; 3] {
        array::from_fn(|set| {
            let faces = self.faces[set];
            let mut sum = Tally::default();
            let points = self.tallies[set].iter().map(|tally| {
                sum.proposals += tally.proposals;
                sum.hits += tally.hits;
                let part = |of: usize| if of == 0 { 0.0 } else { sum.hits as f64 / of as f64 };
                Point { recall: part(faces), precision: part(sum.proposals) }
            });
            let points = points.collect::<Vec<_>>();
            let average_precision = (faces > 0).then(|| average_precision(&points));
            Curve { faces, average_precision, points }
        })
    }
}

/// The first of the boxes that it overlaps most, if by enough.
fn most_overlapped(detection: &Corners, boxes: &[Corners]) -> Option<usize> {
    let mut best = None;
    let mut most = 0.0;
    for (index, corners) in boxes.iter().enumerate() {
        let overlap = overlap(detection, corners);
        if overlap > most {
            (best, most) = (Some(index), overlap);
        }
    }
    best.filter(|_| most >= OVERLAP)
}

/// Intersection over union of areas that are counted in whole pixels.
fn overlap(a: &Corners, b: &Corners) -> f64 {
    let width = a[2].min(b[2]) - a[0].max(b[0]) + 1.0;
    let height = a[3].min(b[3]) - a[1].max(b[1]) + 1.0;
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let area = |corners: &Corners| (corners[2] - corners[0] + 1.0) * (corners[3] - corners[1] + 1.0);
    let shared = width * height;
    shared / (area(a) + area(b) - shared)
}

/// The area under the curve of the best precision at each recall or above, up to the greatest recall.
fn average_precision(points: &[Point]) -> f64 {
    let (mut area, mut best) = (0.0, 0.0_f64);
    for (index, point) in points.iter().enumerate().rev() {
        best = best.max(point.precision);
        let before = if index == 0 { 0.0 } else { points[index - 1].recall };
        area += (point.recall - before) * best;
    }
    area
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn truth(boxes: &[(Corners, [bool; 3])]) -> Truth {
        let (boxes, counts): (Vec<_>, Vec<_>) = boxes.iter().copied().unzip();
        let faces = array::from_fn(|set| counts.iter().filter(|counts| counts[set]).count());
        Truth { boxes, counts, faces }
    }

    fn found(corners: Corners, score: f64) -> Detection {
        Detection { corners, score }
    }

    fn average(truth: &Truth, detections: &mut [Detection]) -> [Option<f64>; 3] {
        let scale = Scale::of(detections.iter().map(|detection| detection.score));
        let mut totals = Totals::new();
        totals.add(truth, detections, scale);
        totals.curves().map(|curve| curve.average_precision)
    }

    const A: Corners = [0.0, 0.0, 9.0, 9.0];
    const B: Corners = [100.0, 0.0, 119.0, 19.0];
    const AWAY: Corners = [300.0, 300.0, 310.0, 310.0];

    #[test]
    fn a_length_counts_both_of_its_ends() {
        // 10 x 10 pixels, of which 5 x 10 are shared: without the 1 it would be 4 x 9 of 9 x 9 and 9 x 9.
        assert_eq!(overlap(&A, &[5.0, 0.0, 14.0, 9.0]), 50.0 / 150.0);
        assert_eq!(overlap(&A, &[9.0, 9.0, 9.0, 9.0]), 0.01);
        assert_eq!(overlap(&A, &[10.0, 0.0, 20.0, 9.0]), 0.0);
        assert_eq!(overlap(&A, &AWAY), 0.0, "apart on both axes");
    }

    #[test]
    fn a_detection_of_a_box_that_does_not_count_is_neither_right_nor_false() {
        let truth = truth(&[(A, [true, true, true]), (B, [false, true, true])]);
        let all = average(&truth, &mut [found(B, 0.9), found(A, 0.5)]);
        assert_eq!(all, [Some(1.0); 3]);
        // The face of the easy set is found behind a false one.
        let [easy, medium, _] = average(&truth, &mut [found(AWAY, 0.9), found(A, 0.5)]);
        assert_eq!((easy, medium), (Some(0.5), Some(0.25)));
    }

    #[test]
    fn a_second_detection_of_a_face_is_false() {
        let truth = truth(&[(A, [true; 3]), (B, [true; 3])]);
        let [easy, ..] = average(&truth, &mut [found(A, 0.9), found(A, 0.8), found(B, 0.1)]);
        // Recall 1/2 at precision 1, then 1 at 2/3.
        assert!((easy.unwrap() - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-12);
    }

    #[test]
    fn a_picture_without_detections_still_has_faces_to_find() {
        let truth = truth(&[(A, [true, true, true]), (B, [false, true, true])]);
        let mut totals = Totals::new();
        totals.add(&truth, &mut [], Scale::RAW);
        totals.add(&truth, &mut [found(A, 1.0)], Scale::RAW);
        let [easy, medium, _] = totals.curves();
        assert_eq!((easy.faces, medium.faces), (2, 4));
        assert_eq!((easy.average_precision, medium.average_precision), (Some(0.5), Some(0.25)));
        // And one without boxes has none, and no false detections either.
        totals.add(&Truth::default(), &mut [found(A, 1.0)], Scale::RAW);
        assert_eq!(totals.curves()[0], easy);
    }

    #[test]
    fn where_no_face_counts_there_is_no_average() {
        assert_eq!(average(&truth(&[(A, [false, true, true])]), &mut [found(A, 0.5)])[0], None);
    }

    #[test]
    fn scores_are_stretched_over_all_detections() {
        let scale = Scale::of([0.8, 1.0, 0.9].into_iter());
        assert_eq!(scale.stretched(0.8), 0.0);
        assert!((scale.stretched(0.9) - 0.5).abs() < 1e-12 && scale.stretched(1.0) == 1.0);
        assert_eq!(Scale::of([0.3, 0.3].into_iter()).stretched(0.3), 1.0);
        assert_eq!(Scale::RAW.stretched(0.25), 0.25);
    }

    /// The official tool, line by line.
    fn as_written(truth: &Truth, detections: &[Detection], scale: Scale, set: usize) -> f64 {
        let mut detections = detections.to_vec();
        detections.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut recall_list = vec![0; truth.boxes.len()];
        let mut proposal_list = vec![1; detections.len()];
        let mut pred_recall = vec![0; detections.len()];
        for (h, detection) in detections.iter().enumerate() {
            let overlaps = truth.boxes.iter().map(|corners| overlap(corners, &detection.corners)).collect::<Vec<_>>();
            let max = overlaps.iter().copied().fold(0.0, f64::max);
            let idx = overlaps.iter().position(|overlap| *overlap == max).unwrap();
            if max >= 0.5 {
                if !truth.counts[idx][set] {
                    recall_list[idx] = -1;
                    proposal_list[h] = -1;
                } else if recall_list[idx] == 0 {
                    recall_list[idx] = 1;
                }
            }
            pred_recall[h] = recall_list.iter().filter(|recall| **recall == 1).count();
        }
        let (mut mrec, mut mpre) = (vec![0.0], vec![0.0]);
        for t in 1..=THRESHOLDS {
            let threshold = 1.0 - t as f64 / THRESHOLDS as f64;
            let last = detections.iter().rposition(|detection| scale.stretched(detection.score) >= threshold);
            let proposals = last.map_or(0, |last| proposal_list[..=last].iter().filter(|kind| **kind == 1).count());
            let recalled = last.map_or(0, |last| pred_recall[last]);
            mpre.push(if proposals == 0 { 0.0 } else { recalled as f64 / proposals as f64 });
            mrec.push(recalled as f64 / truth.faces[set] as f64);
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
        fn the_averages_are_those_of_the_official_tool(
            boxes in prop::collection::vec(((0..8_i32, 0..8_i32, 0..6_i32, 0..6_i32), any::<[bool; 3]>()), 1..8),
            detections in prop::collection::vec(((0..8_i32, 0..8_i32, 0..6_i32, 0..6_i32), 0..50_u32), 0..20),
        ) {
            let corners = |(x, y, w, h): (i32, i32, i32, i32)| [x, y, x + w, y + h].map(f64::from);
            let truth = truth(&boxes.iter().map(|(bounds, counts)| (corners(*bounds), *counts)).collect::<Vec<_>>());
            let detections =
                detections.iter().map(|(bounds, score)| found(corners(*bounds), f64::from(*score) / 50.0)).collect::<Vec<_>>();
            for scale in [Scale::RAW, Scale::of(detections.iter().map(|detection| detection.score))] {
                let mut totals = Totals::new();
                totals.add(&truth, &mut detections.clone(), scale);
                for (set, curve) in totals.curves().iter().enumerate() {
                    match curve.average_precision {
                        Some(average) => prop_assert!((average - as_written(&truth, &detections, scale, set)).abs() < 1e-9),
                        None => prop_assert_eq!(truth.faces[set], 0),
                    }
                }
            }
        }
    }
}
