//! Higher order tracking accuracy: HOTA, DetA, AssA and LocA.
//!
//! Source: J. Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking",
//! 2020, as TrackEval computes them (`hota.py`).

use std::array;
use std::collections::BTreeMap;
use std::ops::AddAssign;

use anyhow::ensure;

use super::sequence::{Frame, Sequence};

/// The number of IoU thresholds: 0.05, 0.1, ..., 0.95.
const THRESHOLDS: usize = 19;
/// Maximum number of pairs of tracks that overlap, in any frame.
const MAX_PAIRS: usize = 1 << 24;

/// A true and a predicted track.
type Tracks = (usize, usize);

/// The values of `numpy.arange(0.05, 0.99, 0.05)`, to the last bit.
fn threshold(index: usize) -> f64 {
    let step = (0.05 + 0.05) - 0.05;
    0.05 + index as f64 * step
}

/// Sums over sequences, for each threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Hota {
    thresholds: [Sums; THRESHOLDS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    true_positives: usize,
    false_positives: usize,
    false_negatives: usize,
    /// Sum over the matches of the association accuracy of their tracks.
    association: f64,
    /// Sum over the matches of their IoU.
    iou: f64,
}

impl Hota {
    pub(super) fn new(sequence: &Sequence) -> anyhow::Result<Self> {
        let alignment = alignment(sequence)?;
        let mut sums = [Sums::default(); THRESHOLDS];
        // For each pair of tracks and each threshold, the number of matches.
        let mut counts = BTreeMap::<Tracks, [usize; THRESHOLDS]>::new();
        for frame in &sequence.frames {
            let align = |tracks: &Tracks| alignment.get(tracks).copied().unwrap_or_default();
            let matches = frame.assign(|overlap| align(&frame.tracks(overlap)) * overlap.iou)?;
            for (index, sums) in sums.iter_mut().enumerate() {
                let threshold = threshold(index) - f64::EPSILON;
                let mut matched = 0;
                for overlap in matches.iter().filter(|overlap| overlap.iou >= threshold) {
                    matched += 1;
                    sums.iou += overlap.iou;
                    counts.entry(frame.tracks(overlap)).or_default()[index] += 1;
                }
                sums.true_positives += matched;
                sums.false_positives += frame.predicted.len() - matched;
                sums.false_negatives += frame.truth.len() - matched;
            }
        }
        for (&(truth, predicted), counts) in &counts {
            let boxes = sequence.truth[truth] + sequence.predicted[predicted];
            for (sums, &count) in sums.iter_mut().zip(counts) {
                sums.association += count as f64 * (count as f64 / (boxes - count).max(1) as f64);
            }
        }
        Ok(Self { thresholds: sums })
    }

    /// The mean over the thresholds, in 0.0..=1.0, as the others.
    pub(super) fn hota(&self) -> f64 {
        self.mean(|sums| (sums.detection() * sums.association()).sqrt())
    }

    /// Detection accuracy.
    pub(super) fn deta(&self) -> f64 {
        self.mean(Sums::detection)
    }

    /// Association accuracy.
    pub(super) fn assa(&self) -> f64 {
        self.mean(Sums::association)
    }

    /// Localisation accuracy: the mean IoU of the matches. It is 1 at thresholds without a match.
    pub(super) fn loca(&self) -> f64 {
        self.mean(|sums| if sums.true_positives == 0 { 1.0 } else { sums.iou / sums.true_positives as f64 })
    }

    fn mean(&self, value: impl Fn(&Sums) -> f64) -> f64 {
        self.thresholds.iter().map(value).sum::<f64>() / THRESHOLDS as f64
    }
}

impl Sums {
    fn detection(&self) -> f64 {
        let all = self.true_positives + self.false_positives + self.false_negatives;
        self.true_positives as f64 / all.max(1) as f64
    }

    fn association(&self) -> f64 {
        self.association / self.true_positives.max(1) as f64
    }
}

impl AddAssign for Hota {
    fn add_assign(&mut self, other: Self) {
        self.thresholds = array::from_fn(|index| {
            let (a, b) = (self.thresholds[index], other.thresholds[index]);
            Sums {
                true_positives: a.true_positives + b.true_positives,
                false_positives: a.false_positives + b.false_positives,
                false_negatives: a.false_negatives + b.false_negatives,
                association: a.association + b.association,
                iou: a.iou + b.iou,
            }
        });
    }
}

/// How well each pair of tracks fits over the whole video, in 0.0..=1.0: the Jaccard index of their
/// boxes, where the boxes of a frame count as common by their share of all overlaps.
fn alignment(sequence: &Sequence) -> anyhow::Result<BTreeMap<Tracks, f64>> {
    let mut common = BTreeMap::<Tracks, f64>::new();
    for frame in &sequence.frames {
        let Frame { truth, predicted, overlaps } = frame;
        let (mut of_truth, mut of_predicted) = (vec![0.0; truth.len()], vec![0.0; predicted.len()]);
        for overlap in overlaps {
            of_truth[overlap.truth] += overlap.iou;
            of_predicted[overlap.predicted] += overlap.iou;
        }
        for overlap in overlaps {
            let all = of_truth[overlap.truth] + of_predicted[overlap.predicted] - overlap.iou;
            if all > f64::EPSILON {
                *common.entry(frame.tracks(overlap)).or_default() += overlap.iou / all;
            }
        }
        ensure!(
            common.len() <= MAX_PAIRS,
            "more than {MAX_PAIRS} pairs of true and predicted tracks overlap: too many to compare; evaluate parts of the \
             video as sequences of their own"
        );
    }
    let all = |&(truth, predicted): &Tracks| (sequence.truth[truth] + sequence.predicted[predicted]) as f64;
    Ok(common.into_iter().map(|(tracks, common)| (tracks, common / (all(&tracks) - common))).collect())
}
