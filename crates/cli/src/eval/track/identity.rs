//! The identity metrics: IDF1, IDP and IDR.
//!
//! Source: E. Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera
//! Tracking", 2016, as TrackEval computes them (`identity.py`).

use std::collections::BTreeMap;
use std::ops::AddAssign;

use super::assignment::{self, Pair};
use super::sequence::{IOU_THRESHOLD, Sequence};

/// Sums over sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Identity {
    true_positives: usize,
    false_positives: usize,
    false_negatives: usize,
}

impl Identity {
    pub(super) fn new(sequence: &Sequence) -> anyhow::Result<Self> {
        // The number of frames in which a true and a predicted track match.
        let mut common = BTreeMap::<(usize, usize), usize>::new();
        for frame in &sequence.frames {
            // Without the tolerance that CLEAR has.
            for overlap in frame.overlaps.iter().filter(|overlap| overlap.iou >= IOU_THRESHOLD) {
                *common.entry(frame.tracks(overlap)).or_default() += 1;
            }
        }
        let pairs = common.iter().map(|(&(row, column), &frames)| Pair { row, column, weight: frames as f64 });
        let pairs = pairs.collect::<Vec<_>>();
        // The largest number of true positives has the smallest number of errors.
        let chosen = assignment::assign(&pairs)?;
        let true_positives = chosen.into_iter().map(|index| pairs[index].weight as usize).sum::<usize>();
        Ok(Self {
            true_positives,
            false_positives: sequence.predicted.iter().sum::<usize>() - true_positives,
            false_negatives: sequence.truth.iter().sum::<usize>() - true_positives,
        })
    }

    /// In 0.0..=1.0, as the others.
    pub(super) fn idf1(&self) -> f64 {
        let errors = (self.false_positives + self.false_negatives) as f64;
        self.true_positives as f64 / (self.true_positives as f64 + 0.5 * errors).max(1.0)
    }

    /// Precision.
    pub(super) fn idp(&self) -> f64 {
        self.true_positives as f64 / (self.true_positives + self.false_positives).max(1) as f64
    }

    /// Recall.
    pub(super) fn idr(&self) -> f64 {
        self.true_positives as f64 / (self.true_positives + self.false_negatives).max(1) as f64
    }
}

impl AddAssign for Identity {
    fn add_assign(&mut self, other: Self) {
        self.true_positives += other.true_positives;
        self.false_positives += other.false_positives;
        self.false_negatives += other.false_negatives;
    }
}
