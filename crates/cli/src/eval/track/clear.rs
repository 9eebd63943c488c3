//! The CLEAR MOT metrics: MOTA, MOTP, id switches and fragmentations.
//!
//! Source: K. Bernardin and R. Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The
//! CLEAR MOT Metrics", 2008, as TrackEval computes them (`clear.py`).

use std::collections::HashMap;
use std::ops::AddAssign;

use super::sequence::{Sequence, is_match};

/// Weight of a pair that continues a match of the frame before: no sum of the IoUs of a frame is
/// larger.
const CONTINUED: f64 = 1000.0;

/// Sums over frames or sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Clear {
    pub(super) true_positives: usize,
    pub(super) false_positives: usize,
    pub(super) false_negatives: usize,
    pub(super) id_switches: usize,
    pub(super) fragmentations: usize,
    /// Sum of the IoUs of the matches.
    iou: f64,
}

impl Clear {
    pub(super) fn new(sequence: &Sequence) -> anyhow::Result<Self> {
        let mut sums = Self::default();
        // For each true track, the predicted track of its last match.
        let mut last = vec![None; sequence.truth.len()];
        // The same, if the match is in the last frame with both true and predicted boxes.
        let mut previous = HashMap::new();
        // How often a true track was matched after it was not.
        let mut starts = vec![0_usize; sequence.truth.len()];
        for frame in &sequence.frames {
            let (truth, predicted) = (frame.truth.len(), frame.predicted.len());
            // As in TrackEval, such a frame does not interrupt a match.
            if truth == 0 || predicted == 0 {
                sums.false_positives += predicted;
                sums.false_negatives += truth;
                continue;
            }
            let matches = frame.assign(|overlap| {
                let (truth, predicted) = frame.tracks(overlap);
                let continued = if previous.get(&truth) == Some(&predicted) { CONTINUED } else { 0.0 };
                if is_match(overlap.iou) { continued + overlap.iou } else { 0.0 }
            })?;
            let before = std::mem::take(&mut previous);
            for overlap in &matches {
                let (truth, predicted) = frame.tracks(overlap);
                let switched = last[truth].replace(predicted).is_some_and(|last| last != predicted);
                sums.id_switches += usize::from(switched);
                starts[truth] += usize::from(!before.contains_key(&truth));
                previous.insert(truth, predicted);
                sums.iou += overlap.iou;
            }
            sums.true_positives += matches.len();
            sums.false_negatives += truth - matches.len();
            sums.false_positives += predicted - matches.len();
        }
        sums.fragmentations = starts.iter().map(|starts| starts.saturating_sub(1)).sum();
        Ok(sums)
    }

    /// Multiple object tracking accuracy, at most 1. It is 0 without true boxes, as in TrackEval.
    pub(super) fn mota(&self) -> f64 {
        let truth = self.true_positives + self.false_negatives;
        if truth == 0 {
            return 0.0;
        }
        (self.true_positives as f64 - self.false_positives as f64 - self.id_switches as f64) / truth as f64
    }

    /// Multiple object tracking precision: the mean IoU of the matches, in 0.0..=1.0.
    pub(super) fn motp(&self) -> f64 {
        self.iou / self.true_positives.max(1) as f64
    }
}

impl AddAssign for Clear {
    fn add_assign(&mut self, other: Self) {
        self.true_positives += other.true_positives;
        self.false_positives += other.false_positives;
        self.false_negatives += other.false_negatives;
        self.id_switches += other.id_switches;
        self.fragmentations += other.fragmentations;
        self.iou += other.iou;
    }
}
