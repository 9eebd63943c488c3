//! Raw head outputs to candidate faces, in input pixels.
//!
//! Source: biubug6/Pytorch_Retinaface, `utils/box_utils.py` (`decode`, `decode_landm`).

use crate::device::CANDIDATE;
use crate::face::{Face, Point, Rect};
use crate::priors::Prior;

/// Variance of centres and points, a factor of the prior's size.
pub(crate) const CENTRE_VARIANCE: f32 = 0.1;
/// Variance of sizes, within the exponential.
pub(crate) const SIZE_VARIANCE: f32 = 0.2;

/// The heads' outputs for one image with `A` priors.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// `[A, 4]`: offset of the centre, logarithm of the size.
    pub loc: &'a [f32],
    /// `[A, 2]`: probability of background and of a face, in 0.0..=1.0.
    pub conf: &'a [f32],
    /// `[A, 10]`: offsets of five points, x before y.
    pub landmarks: &'a [f32],
}

/// What [`decode`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Candidates above the threshold, in the priors' order, before suppression, in input pixels.
    pub candidates: Vec<Face>,
    /// Priors dropped because one of their numbers is not finite.
    pub non_finite: usize,
}

/// Faces above `score_threshold`. Scores are looked at first: a prior below it costs one comparison.
///
/// A candidate with a number that is not finite is dropped and counted; so is a score that is itself
/// not a number. Scores are clamped to 0.0..=1.0.
///
/// # Panics
/// If the heads' lengths do not fit the number of priors.
pub fn decode(heads: Heads<'_>, priors: &[Prior], score_threshold: f32) -> Decoded {
    let Heads { loc, conf, landmarks } = heads;
    let count = priors.len();
    assert_eq!((loc.len(), conf.len(), landmarks.len()), (4 * count, 2 * count, 10 * count), "heads of {count} priors");
    let mut decoded = Decoded::default();
    let (loc, conf, landmarks) = (loc.as_chunks::<4>().0, conf.as_chunks::<2>().0, landmarks.as_chunks::<10>().0);
    for (index, [_, score]) in conf.iter().enumerate() {
        // Written so that a NaN is not taken for a low score.
        if *score <= score_threshold {
            continue;
        }
        decoded.keep(candidate(priors[index], *score, &loc[index], &landmarks[index]));
    }
    decoded
}

/// Faces above `score_threshold` among candidates that were decoded on a device: for each its score, box and five points,
/// see [`crate::device::CANDIDATE`]. What is not finite is dropped and counted as by [`decode`].
pub fn from_candidates(candidates: &[[f32; CANDIDATE]], score_threshold: f32) -> Decoded {
    let mut decoded = Decoded::default();
    for [score, x, y, w, h, points @ ..] in candidates {
        if *score <= score_threshold {
            continue;
        }
        let landmarks = std::array::from_fn(|i| Point::new(points[2 * i], points[2 * i + 1]));
        let rect = Rect { x: *x, y: *y, w: *w, h: *h };
        let face = Face { score: *score, rect, landmarks: Some(landmarks), track_id: None };
        decoded.keep(face);
    }
    decoded
}

impl Decoded {
    fn keep(&mut self, face: Face) {
        if face.is_finite() {
            self.candidates.push(Face { score: face.score.clamp(0.0, 1.0), ..face });
        } else {
            self.non_finite += 1;
        }
    }
}

fn candidate(prior: Prior, score: f32, loc: &[f32; 4], landmarks: &[f32; 10]) -> Face {
    let Prior { cx, cy, size } = prior;
    let w = size * (loc[2] * SIZE_VARIANCE).exp();
    let h = size * (loc[3] * SIZE_VARIANCE).exp();
    let x = cx + loc[0] * CENTRE_VARIANCE * size - w / 2.0;
    let y = cy + loc[1] * CENTRE_VARIANCE * size - h / 2.0;
    let point = |i: usize| {
        let [dx, dy] = [landmarks[2 * i], landmarks[2 * i + 1]];
        Point::new(cx + dx * CENTRE_VARIANCE * size, cy + dy * CENTRE_VARIANCE * size)
    };
    Face { score, rect: Rect { x, y, w, h }, landmarks: Some(std::array::from_fn(point)), track_id: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::priors;

    /// Heads of a 32 x 32 input, all background.
    fn background() -> (Vec<f32>, Vec<f32>, Vec<f32>, Vec<Prior>) {
        let priors = priors::generate(32, 32);
        let count = priors.len();
        (vec![0.0; 4 * count], [1.0, 0.0].repeat(count), vec![0.0; 10 * count], priors)
    }

    #[test]
    fn zeros_decode_to_the_prior_itself() {
        let (loc, mut conf, landmarks, priors) = background();
        conf[2 * 3 + 1] = 0.9;
        let decoded = decode(Heads { loc: &loc, conf: &conf, landmarks: &landmarks }, &priors, 0.5);
        let [face] = decoded.candidates.as_slice() else { panic!("{decoded:?}") };
        assert_eq!(face.rect, Rect::new(12.0 - 16.0, 4.0 - 16.0, 32.0, 32.0));
        assert_eq!(face.landmarks, Some([Point::new(12.0, 4.0); 5]));
    }

    #[test]
    fn offsets_are_scaled_by_the_prior_and_the_variances() {
        let (mut loc, mut conf, mut landmarks, priors) = background();
        conf[1] = 0.9;
        loc[..4].copy_from_slice(&[1.0, -2.0, 5.0 * 2.0f32.ln(), 0.0]);
        landmarks[..2].copy_from_slice(&[5.0, 10.0]);
        let decoded = decode(Heads { loc: &loc, conf: &conf, landmarks: &landmarks }, &priors, 0.5);
        let Rect { x, y, w, h } = decoded.candidates[0].rect;
        // Prior: centre (4, 4), size 16. Centre moves by 0.1 * 16 a unit; width doubles.
        for (is, should) in [(w, 32.0), (h, 16.0), (x, 4.0 + 1.6 - 16.0), (y, 4.0 - 3.2 - 8.0)] {
            assert!((is - should).abs() < 1e-4, "{is} is not {should}");
        }
        assert_eq!(decoded.candidates[0].landmarks.unwrap()[0], Point::new(12.0, 20.0));
    }

    #[test]
    fn a_score_at_the_threshold_is_not_above_it() {
        let (loc, mut conf, landmarks, priors) = background();
        conf[1] = 0.5;
        assert_eq!(decode(Heads { loc: &loc, conf: &conf, landmarks: &landmarks }, &priors, 0.5), Decoded::default());
    }

    #[test]
    fn numbers_that_are_not_finite_are_dropped_and_counted() {
        let (mut loc, mut conf, mut landmarks, priors) = background();
        conf[1] = f32::NAN;
        conf[3] = 0.9;
        loc[4 + 2] = f32::INFINITY;
        conf[5] = 0.9;
        landmarks[2 * 10 + 9] = f32::NAN;
        conf[7] = 1.000_000_1;
        let decoded = decode(Heads { loc: &loc, conf: &conf, landmarks: &landmarks }, &priors, 0.5);
        assert_eq!(decoded.non_finite, 3);
        let [face] = decoded.candidates.as_slice() else { panic!("{decoded:?}") };
        assert_eq!(face.score, 1.0);
    }

    #[test]
    fn candidates_of_a_device_are_held_to_the_same_rules() {
        let candidate = |score: f32, last: f32| {
            let mut numbers = [0.0; CANDIDATE];
            (numbers[0], numbers[3], numbers[4], numbers[14]) = (score, 20.0, 30.0, last);
            numbers
        };
        let numbers =
            [candidate(1.5, 7.0), candidate(f32::NAN, 7.0), candidate(0.9, f32::INFINITY), candidate(0.5, 7.0)];
        let decoded = from_candidates(&numbers, 0.5);
        assert_eq!(decoded.non_finite, 2);
        let [face] = decoded.candidates.as_slice() else { panic!("{decoded:?}") };
        assert_eq!((face.score, face.rect), (1.0, Rect::new(0.0, 0.0, 20.0, 30.0)));
        assert_eq!(face.landmarks.unwrap()[4], Point::new(0.0, 7.0));
    }

    #[test]
    fn a_nan_below_the_threshold_costs_nothing() {
        let (mut loc, conf, landmarks, priors) = background();
        loc.fill(f32::NAN);
        assert_eq!(decode(Heads { loc: &loc, conf: &conf, landmarks: &landmarks }, &priors, 0.5), Decoded::default());
    }
}
