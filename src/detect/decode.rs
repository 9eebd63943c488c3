//! Decoding: from the output tensors of a detector to candidate faces, in input pixels.
//!
//! Sources: biubug6/Pytorch_Retinaface, `utils/box_utils.py` (`decode`, `decode_landm`);
//! deepinsight/insightface, `detection/retinaface/rcnn/processing/bbox_transform.py` and
//! `model_zoo/scrfd.py`; OpenCV, `modules/objdetect/src/face_detect.cpp`.

use crate::geometry::{Face, Point, Ranked, Rect};
use crate::model::{Arrangement, Boxes, CANDIDATE_LEN, CANDIDATE_LEN_WITH_LANDMARKS, Layout, Prior, Scores};

/// A candidate for a face, and the value by which candidates are ranked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RankedFace {
    /// The face.
    pub face: Face,
    /// Log-odds of the score; for a product of two scores, of its square. Half precision rounds the
    /// scores of good candidates to 1. The probability of the background, and logits, keep their
    /// order; a single probability cannot.
    pub log_odds: f32,
}

impl Ranked for RankedFace {
    fn rank(&self) -> f32 {
        self.log_odds
    }

    fn rect(&self) -> Rect {
        self.face.rect
    }
}

/// The result of [`decode`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Candidates above the threshold, before non-maximum suppression, in input pixels. Candidates of
    /// equal rank are in the order of the priors, so that every provider keeps the same one.
    pub candidates: Vec<RankedFace>,
    /// Number of anchors that were dropped because a value is not finite.
    pub non_finite: usize,
}

/// The values of one level, as slices of the outputs.
struct LevelHeads<'a> {
    arrangement: Arrangement,
    anchors: usize,
    cells: usize,
    /// Scores, or the first factor of [`Scores::Product`].
    scores: &'a [f32],
    /// The second factor of [`Scores::Product`].
    second_scores: &'a [f32],
    boxes: &'a [f32],
    landmarks: &'a [f32],
}

impl LevelHeads<'_> {
    /// The value of `channel` of an anchor in a tensor of `channels` per anchor.
    fn at(&self, values: &[f32], anchor: usize, channels: usize, channel: usize) -> f32 {
        match self.arrangement {
            Arrangement::Nchw => {
                let (cell, anchor) = (anchor / self.anchors, anchor % self.anchors);
                values[(anchor * channels + channel) * self.cells + cell]
            }
            _ => values[anchor * channels + channel],
        }
    }
}

/// Decodes the candidates with a score above `score_threshold` (0.0..=1.0).
///
/// `outputs` are the tensors for one input of `width` x `height`, in the order of
/// [`Layout::heads`]. Scores are compared before anything else is decoded, so that an anchor below
/// the threshold costs one comparison. Candidates with a value that is not finite are dropped and
/// counted. Scores are clamped to 0.0..=1.0.
///
/// # Panics
/// If the number or the lengths of the outputs do not match the layout.
pub fn decode(layout: &Layout, (width, height): (usize, usize), outputs: &[&[f32]], score_threshold: f32) -> Decoded {
    let heads = layout.heads();
    assert_eq!(outputs.len(), heads.len(), "one output per head");
    for (head, output) in heads.iter().zip(outputs) {
        let len = layout.shape(*head, width, height).into_iter().product::<usize>();
        assert_eq!(output.len(), len, "{} for an input of {width}x{height}", head.role);
    }
    let roles = heads.len() / if layout.arrangement == Arrangement::Concatenated { 1 } else { layout.levels.len() };
    let per_role = heads.len() / roles;
    let mut decoded = Decoded::default();
    // Number of anchors in the previous levels.
    let mut preceding = 0;
    for (index, level) in layout.levels.iter().enumerate() {
        let (cols, rows) = level.cells(width, height);
        let count = level.count(width, height);
        let part = |role: usize| match (outputs.get(role * per_role + index % per_role), layout.arrangement) {
            (None, _) => &[][..],
            (Some(output), Arrangement::Concatenated) => {
                let channels = layout.channels(heads[role].role);
                &output[preceding * channels..(preceding + count) * channels]
            }
            (Some(output), _) => output,
        };
        let after_scores = if layout.scores == Scores::Product { 2 } else { 1 };
        let values = LevelHeads {
            arrangement: layout.arrangement,
            anchors: level.anchors.len(),
            cells: cols * rows,
            scores: part(0),
            second_scores: part(after_scores - 1),
            boxes: part(after_scores),
            landmarks: part(after_scores + 1),
        };
        for_each_above(layout, &values, score_threshold, |anchor, score, log_odds| {
            let (cell, anchor_in_cell) = (anchor / level.anchors.len(), anchor % level.anchors.len());
            let prior = level.prior(cell % cols, cell / cols, anchor_in_cell);
            let box_values = std::array::from_fn(|channel| values.at(values.boxes, anchor, 4, channel));
            let landmark_values = || std::array::from_fn(|channel| values.at(values.landmarks, anchor, 10, channel));
            let landmark_values = layout.landmarks.then(landmark_values);
            decoded.add(candidate(layout, prior, score, box_values, landmark_values), log_odds);
        });
        preceding += count;
    }
    decoded
}

/// Calls `found` with the index, the score and the log-odds of each anchor of a level whose score is
/// above the threshold or NaN.
fn for_each_above(layout: &Layout, values: &LevelHeads<'_>, threshold: f32, mut found: impl FnMut(usize, f32, f32)) {
    let LevelHeads { anchors, cells, scores, second_scores, .. } = *values;
    let count = anchors * cells;
    let logit = (threshold / (1.0 - threshold)).ln();
    match (layout.arrangement, layout.scores, layout.logits) {
        (Arrangement::Nchw, Scores::Pairs, logits) => {
            // The background planes of all anchors precede the face planes.
            let plane = |anchor: usize| &scores[anchor * cells..(anchor + 1) * cells];
            let at = |index: usize| (index % anchors, index / anchors);
            if logits {
                let margin = |index| {
                    let (anchor, cell) = at(index);
                    plane(anchors + anchor)[cell] - plane(anchor)[cell]
                };
                scan(count, logit, margin, |index, margin| found(index, sigmoid(margin), margin));
            } else {
                let face = |index| {
                    let (anchor, cell) = at(index);
                    plane(anchors + anchor)[cell]
                };
                scan(count, threshold, face, |index, face| {
                    let (anchor, cell) = at(index);
                    found(index, face, log_odds(face, plane(anchor)[cell]));
                });
            }
        }
        (_, Scores::Pairs, logits) => {
            let pairs = scores.as_chunks::<2>().0;
            if logits {
                let margin = |index: usize| pairs[index][1] - pairs[index][0];
                scan(count, logit, margin, |index, margin| found(index, sigmoid(margin), margin));
            } else {
                scan(
                    count,
                    threshold,
                    |index| pairs[index][1],
                    |index, face| {
                        found(index, face, log_odds(face, pairs[index][0]));
                    },
                );
            }
        }
        (_, Scores::Single, true) => {
            scan(count, logit, |index| scores[index], |index, logit| found(index, sigmoid(logit), logit));
        }
        (_, Scores::Single, false) => {
            scan(
                count,
                threshold,
                |index| scores[index],
                |index, score| {
                    found(index, score, log_odds(score, 1.0 - score));
                },
            );
        }
        (_, Scores::Product, logits) => {
            let probability = |value: f32| if logits { sigmoid(value) } else { value.clamp(0.0, 1.0) };
            let complement = |value: f32| if logits { sigmoid(-value) } else { 1.0 - value.clamp(0.0, 1.0) };
            let product = |index: usize| probability(scores[index]) * probability(second_scores[index]);
            scan(count, threshold * threshold, product, |index, product| {
                let (first, second) = (complement(scores[index]), complement(second_scores[index]));
                found(index, product.sqrt(), log_odds(product, first + second - first * second));
            });
        }
    }
}

/// The logarithm of the ratio of two probabilities that sum to 1. A probability that underflowed
/// counts as the smallest one.
fn log_odds(face: f32, background: f32) -> f32 {
    // `max` would replace NaN, too, and hide it.
    let positive = |value: f32| if value < f32::MIN_POSITIVE { f32::MIN_POSITIVE } else { value };
    positive(face).ln() - positive(background).ln()
}

/// Calls `found` with the index and the value of each value that is above the threshold or NaN.
fn scan(count: usize, threshold: f32, value: impl Fn(usize) -> f32, mut found: impl FnMut(usize, f32)) {
    for index in 0..count {
        let value = value(index);
        // This form of the comparison is false for NaN.
        if value <= threshold {
            continue;
        }
        found(index, value);
    }
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

/// The candidates with a score above `score_threshold` among those that the device graph decoded.
///
/// `values` contains [`CANDIDATE_LEN`] values per candidate, or [`CANDIDATE_LEN_WITH_LANDMARKS`]
/// with `with_landmarks`. Values that are not finite are treated as in [`decode`].
pub(super) fn from_candidates(values: &[f32], with_landmarks: bool, score_threshold: f32) -> Decoded {
    let mut decoded = Decoded::default();
    let len = if with_landmarks { CANDIDATE_LEN_WITH_LANDMARKS } else { CANDIDATE_LEN };
    for candidate in values.chunks_exact(len) {
        let split = candidate.split_first_chunk::<CANDIDATE_LEN>();
        let (&[score, log_odds, x, y, w, h], points) = split.expect("a candidate has at least this length");
        if score <= score_threshold {
            continue;
        }
        let landmarks = points.first_chunk::<10>().map(landmarks);
        decoded.add(Face { score, rect: Rect { x, y, w, h }, landmarks, ..Face::default() }, log_odds);
    }
    decoded
}

impl Decoded {
    /// Adds a candidate, or counts it if a value is not finite.
    fn add(&mut self, face: Face, log_odds: f32) {
        if face.is_finite() && !log_odds.is_nan() {
            let face = Face { score: face.score.clamp(0.0, 1.0), ..face };
            self.candidates.push(RankedFace { face, log_odds });
        } else {
            self.non_finite += 1;
        }
    }
}

/// Decodes the box and the landmarks of an anchor.
fn candidate(
    layout: &Layout,
    prior: Prior,
    score: f32,
    box_values: [f32; 4],
    landmark_values: Option<[f32; 10]>,
) -> Face {
    let Prior { cx, cy, size } = prior;
    let unit = size * layout.variances.centre;
    let [first, second, third, fourth] = box_values;
    let rect = match layout.boxes {
        Boxes::CentreSize | Boxes::CentreSizeInclusive => {
            // An inclusive size contains the last pixel.
            let last = if layout.boxes == Boxes::CentreSizeInclusive { 1.0 } else { 0.0 };
            let w = size * (third * layout.variances.size).exp() - last;
            let h = size * (fourth * layout.variances.size).exp() - last;
            Rect { x: cx + first * unit - w / 2.0, y: cy + second * unit - h / 2.0, w, h }
        }
        Boxes::Distances => {
            Rect { x: cx - first * unit, y: cy - second * unit, w: (first + third) * unit, h: (second + fourth) * unit }
        }
    };
    // Negative sizes become 0. `max` would replace NaN, too, and hide it.
    let non_negative = |len: f32| if len < 0.0 { 0.0 } else { len };
    let rect = Rect { w: non_negative(rect.w), h: non_negative(rect.h), ..rect };
    let unit = size * layout.variances.point;
    let to_input = |offset: Point| Point::new(cx + offset.x * unit, cy + offset.y * unit);
    let landmarks = landmark_values.map(|values| landmarks(&values).map(to_input));
    Face { score, rect, landmarks, ..Face::default() }
}

fn landmarks(values: &[f32; 10]) -> [Point; 5] {
    std::array::from_fn(|index| Point::new(values[2 * index], values[2 * index + 1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layout::Family;
    use crate::model::{CANDIDATE_LEN_WITH_LANDMARKS, Role, families};

    const SIZE: (usize, usize) = (32, 32);

    /// Outputs without faces.
    struct Outputs {
        layout: Layout,
        values: Vec<Vec<f32>>,
    }

    impl Outputs {
        fn new(family: &Family) -> Self {
            let layout = family.layout();
            let len = |head| layout.shape(head, SIZE.0, SIZE.1).into_iter().product::<usize>();
            let values = layout.heads().into_iter().map(|head| vec![0.0; len(head)]).collect();
            Self { layout, values }
        }

        /// The tensor `nth` of a role.
        fn head(&mut self, role: Role, nth: usize) -> &mut Vec<f32> {
            let heads = self.layout.heads();
            let index = heads.iter().enumerate().filter(|(_, head)| head.role == role).nth(nth).unwrap().0;
            &mut self.values[index]
        }

        fn decode(&self, threshold: f32) -> Decoded {
            let outputs = self.values.iter().map(Vec::as_slice).collect::<Vec<_>>();
            decode(&self.layout, SIZE, &outputs, threshold)
        }

        /// The single candidate above 0.5.
        fn single(&self) -> Face {
            let decoded = self.decode(0.5);
            let [candidate] = decoded.candidates.as_slice() else { panic!("{decoded:?}") };
            candidate.face.clone()
        }
    }

    fn assert_near(actual: Rect, expected: [f32; 4]) {
        for (actual, expected) in [actual.x, actual.y, actual.w, actual.h].into_iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-4, "{actual} is not {expected}");
        }
    }

    #[test]
    fn zeros_decode_to_the_prior() {
        let mut outputs = Outputs::new(&families::RETINAFACE);
        outputs.head(Role::Score, 0)[2 * 3 + 1] = 0.9;
        let face = outputs.single();
        assert_eq!(face.rect, Rect::new(12.0 - 16.0, 4.0 - 16.0, 32.0, 32.0));
        assert_eq!(face.landmarks, Some([Point::new(12.0, 4.0); 5]));
    }

    #[test]
    fn offsets_are_scaled_by_the_prior_and_the_variances() {
        let mut outputs = Outputs::new(&families::RETINAFACE);
        outputs.head(Role::Score, 0)[1] = 0.9;
        outputs.head(Role::Box, 0)[..4].copy_from_slice(&[1.0, -2.0, 5.0 * 2.0f32.ln(), 0.0]);
        outputs.head(Role::Landmarks, 0)[..2].copy_from_slice(&[5.0, 10.0]);
        let face = outputs.single();
        // The prior has its centre at (4, 4) and size 16. A unit moves the centre by 0.1 * 16; the
        // width doubles.
        assert_near(face.rect, [4.0 + 1.6 - 16.0, 4.0 - 3.2 - 8.0, 32.0, 16.0]);
        assert_eq!(face.landmarks.unwrap()[0], Point::new(12.0, 20.0));
    }

    #[test]
    fn nchw_outputs_decode_with_inclusive_boxes() {
        let mut outputs = Outputs::new(&families::INSIGHTFACE);
        // Stride 8 has 4 x 4 cells. Cell 6 is in column 2, row 1; anchor 1 has size 16.
        let cells = 16;
        outputs.head(Role::Score, 0)[cells + 6] = 0.95;
        outputs.head(Role::Score, 0)[3 * cells + 6] = 0.8;
        outputs.head(Role::Box, 0)[4 * cells + 6] = 0.5;
        outputs.head(Role::Box, 0)[7 * cells + 6] = 2.0f32.ln();
        outputs.head(Role::Landmarks, 0)[(10 + 3) * cells + 6] = 0.25;
        let face = outputs.single();
        assert_eq!(face.score, 0.8);
        // The centre (16 + 7.5, 8 + 7.5) moves by half of 16; an inclusive width of 16 is a width
        // of 15.
        assert_near(face.rect, [31.5 - 7.5, 15.5 - 15.5, 15.0, 31.0]);
        assert_eq!(face.landmarks.unwrap()[1], Point::new(23.5, 15.5 + 4.0));
    }

    #[test]
    fn distances_are_in_strides_from_the_corner_of_the_cell() {
        let mut outputs = Outputs::new(&families::SCRFD);
        // Stride 16 has 2 x 2 cells; index 7 is the second anchor of cell 3.
        outputs.head(Role::Score, 1)[7] = 0.7;
        outputs.head(Role::Box, 1)[28..32].copy_from_slice(&[1.0, 0.5, 2.0, -1.0]);
        outputs.head(Role::Landmarks, 1)[70..72].copy_from_slice(&[-0.25, 0.5]);
        let face = outputs.single();
        assert_near(face.rect, [0.0, 8.0, 48.0, 0.0]);
        assert_eq!(face.landmarks.unwrap()[0], Point::new(12.0, 24.0));
        let mut boxes = Outputs::new(&families::SCRFD_BOXES);
        boxes.head(Role::Score, 2)[0] = 0.7;
        boxes.head(Role::Box, 2)[..4].fill(1.0);
        assert_eq!(boxes.single(), Face { landmarks: None, ..boxes.single() });
        assert_near(boxes.single().rect, [-32.0, -32.0, 64.0, 64.0]);
    }

    #[test]
    fn the_score_of_a_product_is_the_geometric_mean() {
        let mut outputs = Outputs::new(&families::YUNET);
        outputs.head(Role::Score, 0)[5] = 0.81;
        // Heads 0 to 2 are the levels of the first factor, heads 3 to 5 those of the second.
        outputs.head(Role::Score, 3)[5] = 1.5;
        outputs.head(Role::Box, 0)[20..24].copy_from_slice(&[0.5, 0.5, 2.0f32.ln(), 0.0]);
        let face = outputs.single();
        assert!((face.score - 0.9).abs() < 1e-6);
        assert_near(face.rect, [12.0 - 8.0, 12.0 - 4.0, 16.0, 8.0]);
    }

    #[test]
    fn logits_become_probabilities() {
        for family in [&families::RETINAFACE, &families::INSIGHTFACE, &families::SCRFD] {
            let mut outputs = Outputs::new(family);
            outputs.layout.logits = true;
            let is_nchw = family.arrangement == Arrangement::Nchw;
            // Index of the face logit of the first anchor; two background planes of 16 cells
            // precede it in NCHW.
            let face = if is_nchw { 2 * 16 } else { usize::from(family.scores == Scores::Pairs) };
            let scores = outputs.head(Role::Score, 0);
            scores.fill(0.0);
            scores[face] = 1.0;
            let decoded = outputs.decode(0.6);
            let [found] = decoded.candidates.as_slice() else { panic!("{}: {decoded:?}", family.name) };
            assert!((found.face.score - 0.731_058_6).abs() < 1e-6, "{}: {found:?}", family.name);
            assert!((found.log_odds - 1.0).abs() < 1e-6, "{}: {found:?}", family.name);
        }
    }

    #[test]
    fn a_score_equal_to_the_threshold_is_not_a_candidate() {
        let mut outputs = Outputs::new(&families::RETINAFACE);
        outputs.head(Role::Score, 0)[1] = 0.5;
        assert_eq!(outputs.decode(0.5), Decoded::default());
    }

    #[test]
    fn candidates_that_are_not_finite_are_dropped_and_counted() {
        let mut outputs = Outputs::new(&families::RETINAFACE);
        let conf = outputs.head(Role::Score, 0);
        (conf[1], conf[3], conf[5], conf[7]) = (f32::NAN, 0.9, 0.9, 1.000_000_1);
        outputs.head(Role::Box, 0)[4 + 2] = f32::INFINITY;
        outputs.head(Role::Landmarks, 0)[2 * 10 + 9] = f32::NAN;
        let decoded = outputs.decode(0.5);
        assert_eq!(decoded.non_finite, 3);
        let [candidate] = decoded.candidates.as_slice() else { panic!("{decoded:?}") };
        assert_eq!(candidate.face.score, 1.0);
    }

    #[test]
    fn candidates_whose_scores_are_rounded_to_one_keep_their_order() {
        for family in [&families::RETINAFACE, &families::INSIGHTFACE] {
            let mut outputs = Outputs::new(family);
            let is_nchw = family.arrangement == Arrangement::Nchw;
            // In NCHW each cell has two anchors, whose planes of 16 cells follow each other.
            let plane = |anchor: usize| 16 * (anchor % 2) + anchor / 2;
            let background = |anchor: usize| if is_nchw { plane(anchor) } else { 2 * anchor };
            let face = |anchor: usize| if is_nchw { 2 * 16 + plane(anchor) } else { 2 * anchor + 1 };
            let scores = outputs.head(Role::Score, 0);
            for (anchor, probability) in [3e-6, 2e-7, 0.0, 9e-7].into_iter().enumerate() {
                scores[background(anchor)] = probability;
                scores[face(anchor)] = 1.0;
            }
            let log_odds = outputs.decode(0.5).candidates.iter().map(|face| face.log_odds).collect::<Vec<_>>();
            assert!(
                log_odds[2] > log_odds[1] && log_odds[1] > log_odds[3] && log_odds[3] > log_odds[0],
                "{log_odds:?}"
            );
            assert!(log_odds[2].is_finite());
        }
        // The complement of a product of sigmoids is computed without rounding it to 0.
        let mut outputs = Outputs::new(&families::YUNET);
        outputs.layout.logits = true;
        outputs.values.iter_mut().for_each(|values| values.fill(-9.0));
        for head in [0, 3] {
            outputs.head(Role::Score, head)[..2].copy_from_slice(&[25.0, 30.0]);
        }
        let [first, second] = &outputs.decode(0.5).candidates[..] else { panic!("two anchors are above 0.5") };
        assert_eq!((first.face.score, second.face.score), (1.0, 1.0));
        assert!((first.log_odds - 24.3).abs() < 0.1 && (second.log_odds - 29.3).abs() < 0.1, "{first:?} {second:?}");
    }

    #[test]
    fn nan_is_counted_in_every_arrangement() {
        for family in &families::FAMILIES {
            let mut outputs = Outputs::new(family);
            let last = if family.scores == Scores::Pairs { 2 * 16 + 1 } else { 0 };
            outputs.head(Role::Score, 0)[last] = f32::NAN;
            assert_eq!(outputs.decode(0.5).non_finite, 1, "{}", family.name);
            let mut boxes = Outputs::new(family);
            boxes.values.iter_mut().for_each(|values| values.fill(0.0));
            boxes.layout.heads().iter().zip(&mut boxes.values).for_each(|(head, values)| match head.role {
                Role::Score => values.fill(0.9),
                Role::Box => values.fill(f32::NAN),
                Role::Landmarks => {}
            });
            assert_eq!(boxes.decode(0.5).candidates, [], "{}", family.name);
        }
    }

    #[test]
    fn candidates_of_the_device_graph_are_filtered_in_the_same_way() {
        let candidate = |score: f32, last: f32| {
            let mut values = [0.0; CANDIDATE_LEN_WITH_LANDMARKS];
            (values[0], values[1], values[4], values[5], values[15]) = (score, 2.5, 20.0, 30.0, last);
            values
        };
        let values =
            [candidate(1.5, 7.0), candidate(f32::NAN, 7.0), candidate(0.9, f32::INFINITY), candidate(0.5, 7.0)];
        let decoded = from_candidates(values.as_flattened(), true, 0.5);
        assert_eq!(decoded.non_finite, 2);
        let [RankedFace { face, log_odds: 2.5 }] = decoded.candidates.as_slice() else { panic!("{decoded:?}") };
        assert_eq!((face.score, face.rect), (1.0, Rect::new(0.0, 0.0, 20.0, 30.0)));
        assert_eq!(face.landmarks.unwrap()[4], Point::new(0.0, 7.0));
        let decoded = from_candidates(&[0.9, 2.5, 1.0, 2.0, 3.0, 4.0], false, 0.5);
        let face = &decoded.candidates[0].face;
        assert_eq!((face.rect, face.landmarks), (Rect::new(1.0, 2.0, 3.0, 4.0), None));
    }

    #[test]
    fn nan_below_the_threshold_is_ignored() {
        let mut outputs = Outputs::new(&families::RETINAFACE);
        outputs.head(Role::Box, 0).fill(f32::NAN);
        assert_eq!(outputs.decode(0.5), Decoded::default());
    }
}
