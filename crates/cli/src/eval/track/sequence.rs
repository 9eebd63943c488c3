//! The true and the predicted boxes of a video, prepared for the metrics.

use std::collections::{BTreeSet, HashMap};

use super::assignment::{self, Pair};
use super::tracks::{Role, TrackBox, Tracks};

/// The IoU from which boxes match in CLEAR, Identity and the preprocessing.
pub(super) const IOU_THRESHOLD: f64 = 0.5;

/// A true and a predicted box of a frame that overlap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Overlap {
    /// Position in [`Frame::truth`].
    pub(super) truth: usize,
    /// Position in [`Frame::predicted`].
    pub(super) predicted: usize,
    /// Above 0.
    pub(super) iou: f64,
}

/// The boxes of a frame. Tracks are numbered from 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Frame {
    /// The true track of each true box.
    pub(super) truth: Vec<usize>,
    /// The predicted track of each predicted box.
    pub(super) predicted: Vec<usize>,
    pub(super) overlaps: Vec<Overlap>,
}

impl Frame {
    /// The true and the predicted track of an overlap.
    pub(super) fn tracks(&self, overlap: &Overlap) -> (usize, usize) {
        (self.truth[overlap.truth], self.predicted[overlap.predicted])
    }

    /// The overlaps that are chosen by the optimal assignment with the given weights.
    pub(super) fn assign(&self, weight: impl Fn(&Overlap) -> f64) -> anyhow::Result<Vec<&Overlap>> {
        assign(&self.overlaps, weight)
    }
}

/// The boxes of a video.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sequence {
    /// The frames that have boxes, in order.
    pub(super) frames: Vec<Frame>,
    /// The number of boxes of each true track.
    pub(super) truth: Vec<usize>,
    /// The number of boxes of each predicted track.
    pub(super) predicted: Vec<usize>,
    /// True boxes that are not evaluated.
    pub(super) ignored_truth: usize,
    /// Predicted boxes of distractors.
    pub(super) ignored_predictions: usize,
}

impl Sequence {
    /// Prepares the boxes as the MOT challenge does for MOT16 and MOT17: predictions are assigned to
    /// all boxes of the truth, and those of distractors are left out, then the boxes of the truth
    /// that are not evaluated. A truth without distractors makes no difference to MOT15.
    pub(super) fn new(truth: &Tracks, predictions: &Tracks) -> anyhow::Result<Self> {
        let mut sequence = Self::default();
        let (mut truth_ids, mut predicted_ids) = (Ids::default(), Ids::default());
        let numbers = truth.frames.keys().chain(predictions.frames.keys()).collect::<BTreeSet<_>>();
        for number in numbers {
            let boxes = |tracks: &Tracks| tracks.frames.get(number).cloned().unwrap_or_default();
            let (mut truth, mut predicted) = (boxes(truth), boxes(predictions));
            let before = (truth.len(), predicted.len());
            remove_distractors(&truth, &mut predicted)?;
            truth.retain(|tracked| tracked.role == Role::Evaluated);
            sequence.ignored_truth += before.0 - truth.len();
            sequence.ignored_predictions += before.1 - predicted.len();
            sequence.frames.push(Frame {
                overlaps: overlaps(&truth, &predicted),
                truth: truth.iter().map(|tracked| truth_ids.add(tracked.id)).collect(),
                predicted: predicted.iter().map(|tracked| predicted_ids.add(tracked.id)).collect(),
            });
        }
        (sequence.truth, sequence.predicted) = (truth_ids.counts, predicted_ids.counts);
        Ok(sequence)
    }
}

/// Numbers ids in the order of their appearance and counts their boxes.
#[derive(Debug, Default)]
struct Ids {
    numbers: HashMap<u64, usize>,
    counts: Vec<usize>,
}

impl Ids {
    fn add(&mut self, id: u64) -> usize {
        let number = *self.numbers.entry(id).or_insert(self.counts.len());
        if number == self.counts.len() {
            self.counts.push(0);
        }
        self.counts[number] += 1;
        number
    }
}

fn overlaps(truth: &[TrackBox], predicted: &[TrackBox]) -> Vec<Overlap> {
    let mut overlaps = Vec::new();
    for (truth, true_box) in truth.iter().enumerate() {
        for (predicted, predicted_box) in predicted.iter().enumerate() {
            let iou = true_box.iou(predicted_box);
            if iou > 0.0 {
                overlaps.push(Overlap { truth, predicted, iou });
            }
        }
    }
    overlaps
}

fn assign(overlaps: &[Overlap], weight: impl Fn(&Overlap) -> f64) -> anyhow::Result<Vec<&Overlap>> {
    let mut candidates = Vec::with_capacity(overlaps.len());
    let mut pairs = Vec::with_capacity(overlaps.len());
    for overlap in overlaps {
        let weight = weight(overlap);
        if weight > 0.0 {
            candidates.push(overlap);
            pairs.push(Pair { row: overlap.truth, column: overlap.predicted, weight });
        }
    }
    Ok(assignment::assign(&pairs)?.into_iter().map(|index| candidates[index]).collect())
}

/// Whether boxes with this IoU match, with the tolerance of TrackEval.
pub(super) fn is_match(iou: f64) -> bool {
    iou >= IOU_THRESHOLD - f64::EPSILON
}

/// Removes the predictions that are assigned to a distractor.
fn remove_distractors(truth: &[TrackBox], predicted: &mut Vec<TrackBox>) -> anyhow::Result<()> {
    if truth.iter().all(|tracked| tracked.role != Role::Distractor) {
        return Ok(());
    }
    let overlaps = overlaps(truth, predicted);
    let mut is_kept = vec![true; predicted.len()];
    for overlap in assign(&overlaps, |overlap| if is_match(overlap.iou) { overlap.iou } else { 0.0 })? {
        is_kept[overlap.predicted] = truth[overlap.truth].role != Role::Distractor;
    }
    let mut kept = is_kept.into_iter();
    predicted.retain(|_| kept.next().unwrap_or(true));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::track::mot;

    fn sequence(truth: &str, predictions: &str) -> Sequence {
        Sequence::new(&mot::parse_truth(truth).unwrap(), &mot::parse_predictions(predictions).unwrap()).unwrap()
    }

    #[test]
    fn predictions_of_distractors_do_not_count_and_those_of_ignored_boxes_do() {
        let truth = "1,1,0,0,10,10,1,1,1\n1,2,50,0,10,10,1,8,1\n1,3,90,0,10,10,0,1,1\n";
        let sequence = sequence(truth, "1,5,51,0,10,10,1\n1,6,90,0,10,10,1\n1,7,0,1,10,10,1\n2,5,51,0,10,10,1\n");
        assert_eq!((sequence.ignored_truth, sequence.ignored_predictions), (2, 1));
        assert_eq!((sequence.truth, sequence.predicted), (vec![1], vec![1, 1, 1]));
        let Frame { truth, predicted, overlaps } = &sequence.frames[0];
        assert_eq!((&truth[..], &predicted[..]), (&[0][..], &[0, 1][..]));
        assert_eq!(overlaps[..], [Overlap { truth: 0, predicted: 1, iou: 90.0 / 110.0 }]);
        assert_eq!(sequence.frames[1].predicted, [2]);
    }

    #[test]
    fn a_prediction_that_fits_an_evaluated_box_better_is_kept() {
        let truth = "1,1,0,0,10,10,1,1,1\n1,2,1,0,10,10,1,12,1\n";
        assert_eq!(sequence(truth, "1,5,0,0,10,10,1\n").ignored_predictions, 0);
        assert_eq!(sequence(truth, "1,5,1,0,10,10,1\n").ignored_predictions, 1);
    }
}
