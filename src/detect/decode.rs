//! Raw head outputs to candidate faces, in input pixels, as a [`Layout`] says.
//!
//! Sources: biubug6/Pytorch_Retinaface, `utils/box_utils.py` (`decode`, `decode_landm`); deepinsight/insightface,
//! `detection/retinaface/rcnn/processing/bbox_transform.py` and `model_zoo/scrfd.py`; OpenCV,
//! `modules/objdetect/src/face_detect.cpp`.

use crate::face::{Face, Point, Rect};
use crate::layout::{Arrangement, Boxes, Layout, Scores};
use crate::priors::Prior;

/// Most heads of a layout that a model can have.
pub const MAX_HEADS: usize = 64;

/// Numbers of a candidate that was decoded on a device: score, box (x, y, w, h), in input pixels.
pub const CANDIDATE: usize = 5;
/// The same with five points (x, y).
pub const CANDIDATE_WITH_POINTS: usize = 15;

/// What [`decode`] found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Candidates above the threshold, before suppression, in input pixels.
    pub candidates: Vec<Face>,
    /// Anchors dropped because one of their numbers is not finite.
    pub non_finite: usize,
}

/// One level's numbers, as slices of the outputs.
struct LevelHeads<'a> {
    arrangement: Arrangement,
    anchors: usize,
    cells: usize,
    scores: &'a [f32],
    second_scores: &'a [f32],
    boxes: &'a [f32],
    landmarks: &'a [f32],
}

impl LevelHeads<'_> {
    /// Number `number` of `numbers` of an anchor.
    fn at(&self, values: &[f32], anchor: usize, numbers: usize, number: usize) -> f32 {
        match self.arrangement {
            Arrangement::Planes => {
                let (cell, anchor) = (anchor / self.anchors, anchor % self.anchors);
                values[(anchor * numbers + number) * self.cells + cell]
            }
            _ => values[anchor * numbers + number],
        }
    }
}

/// Faces above `score_threshold` in the outputs for an input of `width` x `height`, given in the order of
/// [`Layout::heads`]. Scores are looked at first: an anchor below the threshold costs one comparison.
///
/// A candidate with a number that is not finite is dropped and counted; so is a score that is itself not a number. Scores
/// are clamped to 0.0..=1.0.
///
/// # Panics
/// If the outputs' number or lengths do not fit the layout.
pub fn decode(layout: &Layout, (width, height): (usize, usize), outputs: &[&[f32]], score_threshold: f32) -> Decoded {
    let heads = layout.heads();
    assert_eq!(outputs.len(), heads.len(), "one output a head");
    for (head, output) in heads.iter().zip(outputs) {
        let len = layout.sides(*head, width, height).into_iter().product::<usize>();
        assert_eq!(output.len(), len, "{} of an input of {width}x{height}", head.role);
    }
    let roles = heads.len() / if layout.arrangement == Arrangement::Together { 1 } else { layout.levels.len() };
    let per_role = heads.len() / roles;
    let mut decoded = Decoded::default();
    let mut before = 0;
    for (index, level) in layout.levels.iter().enumerate() {
        let (cols, rows) = level.cells(width, height);
        let count = level.count(width, height);
        let part = |role: usize| match (outputs.get(role * per_role + index % per_role), layout.arrangement) {
            (None, _) => &[][..],
            (Some(output), Arrangement::Together) => {
                let numbers = layout.numbers(heads[role].role);
                &output[before * numbers..(before + count) * numbers]
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
        each_above(layout, &values, score_threshold, |anchor, score| {
            let (cell, number) = (anchor / level.anchors.len(), anchor % level.anchors.len());
            let prior = level.prior(cell % cols, cell / cols, number);
            let numbers = std::array::from_fn(|number| values.at(values.boxes, anchor, 4, number));
            let points = |points: &[f32]| std::array::from_fn(|number| values.at(points, anchor, 10, number));
            let landmarks = layout.landmarks.then(|| points(values.landmarks));
            decoded.keep(candidate(layout, prior, score, numbers, landmarks));
        });
        before += count;
    }
    decoded
}

/// Calls `found` with the index and score of each anchor of a level whose score is above the threshold, or not a number.
fn each_above(layout: &Layout, values: &LevelHeads<'_>, threshold: f32, found: impl FnMut(usize, f32)) {
    let LevelHeads { anchors, cells, scores, second_scores, .. } = *values;
    let count = anchors * cells;
    let logit = (threshold / (1.0 - threshold)).ln();
    match (layout.arrangement, layout.scores, layout.logits) {
        (Arrangement::Planes, Scores::Pairs, logits) => {
            // The backgrounds of all anchors come first.
            let plane = |anchor: usize| &scores[anchor * cells..(anchor + 1) * cells];
            let at = |index: usize| (index % anchors, index / anchors);
            if logits {
                let margin = |index| {
                    let (anchor, cell) = at(index);
                    plane(anchors + anchor)[cell] - plane(anchor)[cell]
                };
                scan(count, logit, margin, sigmoid, found);
            } else {
                let face = |index| {
                    let (anchor, cell) = at(index);
                    plane(anchors + anchor)[cell]
                };
                scan(count, threshold, face, |score| score, found);
            }
        }
        (_, Scores::Pairs, logits) => {
            let pairs = scores.as_chunks::<2>().0;
            if logits {
                scan(count, logit, |index| pairs[index][1] - pairs[index][0], sigmoid, found);
            } else {
                scan(count, threshold, |index| pairs[index][1], |score| score, found);
            }
        }
        (_, Scores::Single, true) => scan(count, logit, |index| scores[index], sigmoid, found),
        (_, Scores::Single, false) => scan(count, threshold, |index| scores[index], |score| score, found),
        (_, Scores::Product, logits) => {
            let probability = |value: f32| if logits { sigmoid(value) } else { value.clamp(0.0, 1.0) };
            let product = |index: usize| probability(scores[index]) * probability(second_scores[index]);
            scan(count, threshold * threshold, product, f32::sqrt, found);
        }
    }
}

fn scan(
    count: usize,
    threshold: f32,
    value: impl Fn(usize) -> f32,
    score: impl Fn(f32) -> f32,
    mut found: impl FnMut(usize, f32),
) {
    for index in 0..count {
        let value = value(index);
        // Written so that a NaN is not taken for a low score.
        if value <= threshold {
            continue;
        }
        found(index, score(value));
    }
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

/// Faces above `score_threshold` among candidates that were decoded on a device, best first: for each its score, box and,
/// with `points`, five points. What is not finite is dropped and counted as by [`decode`].
pub fn from_candidates(numbers: &[f32], points: bool, score_threshold: f32) -> Decoded {
    let mut decoded = Decoded::default();
    let size = if points { CANDIDATE_WITH_POINTS } else { CANDIDATE };
    for candidate in numbers.chunks_exact(size) {
        let (&[score, x, y, w, h], points) = candidate.split_first_chunk::<CANDIDATE>().expect("a chunk is that long");
        if score <= score_threshold {
            continue;
        }
        let landmarks = points.first_chunk::<10>().map(landmarks);
        decoded.keep(Face { score, rect: Rect { x, y, w, h }, landmarks, ..Face::default() });
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

fn candidate(layout: &Layout, prior: Prior, score: f32, numbers: [f32; 4], points: Option<[f32; 10]>) -> Face {
    let Prior { cx, cy, size } = prior;
    let unit = size * layout.variances.centre;
    let [first, second, third, fourth] = numbers;
    let rect = match layout.boxes {
        Boxes::CentreSize | Boxes::CentreSizeInclusive => {
            // The last pixel is part of an inclusive box.
            let last = if layout.boxes == Boxes::CentreSizeInclusive { 1.0 } else { 0.0 };
            let w = size * (third * layout.variances.size).exp() - last;
            let h = size * (fourth * layout.variances.size).exp() - last;
            Rect { x: cx + first * unit - w / 2.0, y: cy + second * unit - h / 2.0, w, h }
        }
        Boxes::Distances => {
            Rect { x: cx - first * unit, y: cy - second * unit, w: (first + third) * unit, h: (second + fourth) * unit }
        }
    };
    // What would be inside out has no area. Not `max`, which would hide a number that is none.
    let side = |side: f32| if side < 0.0 { 0.0 } else { side };
    let rect = Rect { w: side(rect.w), h: side(rect.h), ..rect };
    let unit = size * layout.variances.point;
    let landmarks = points.map(|points| landmarks(&points).map(|p| Point::new(cx + p.x * unit, cy + p.y * unit)));
    Face { score, rect, landmarks, ..Face::default() }
}

fn landmarks(numbers: &[f32; 10]) -> [Point; 5] {
    std::array::from_fn(|index| Point::new(numbers[2 * index], numbers[2 * index + 1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{self, Family};
    use crate::layout::Role;

    const SIZE: (usize, usize) = (32, 32);

    /// Outputs in which nothing is a face.
    struct Outputs {
        layout: Layout,
        values: Vec<Vec<f32>>,
    }

    impl Outputs {
        fn of(family: &Family) -> Self {
            let layout = family.layout();
            let len = |head| layout.sides(head, SIZE.0, SIZE.1).into_iter().product::<usize>();
            let values = layout.heads().into_iter().map(|head| vec![0.0; len(head)]).collect();
            Self { layout, values }
        }

        /// The tensor of a role, the `nth` of it.
        fn head(&mut self, role: Role, nth: usize) -> &mut Vec<f32> {
            let heads = self.layout.heads();
            let index = heads.iter().enumerate().filter(|(_, head)| head.role == role).nth(nth).unwrap().0;
            &mut self.values[index]
        }

        fn decode(&self, threshold: f32) -> Decoded {
            let outputs = self.values.iter().map(Vec::as_slice).collect::<Vec<_>>();
            decode(&self.layout, SIZE, &outputs, threshold)
        }

        fn only(&self) -> Face {
            let decoded = self.decode(0.5);
            let [face] = decoded.candidates.as_slice() else { panic!("{decoded:?}") };
            face.clone()
        }
    }

    fn near(is: Rect, should: [f32; 4]) {
        for (is, should) in [is.x, is.y, is.w, is.h].into_iter().zip(should) {
            assert!((is - should).abs() < 1e-4, "{is} is not {should}");
        }
    }

    #[test]
    fn zeros_decode_to_the_prior_itself() {
        let mut outputs = Outputs::of(&families::RETINAFACE);
        outputs.head(Role::Score, 0)[2 * 3 + 1] = 0.9;
        let face = outputs.only();
        assert_eq!(face.rect, Rect::new(12.0 - 16.0, 4.0 - 16.0, 32.0, 32.0));
        assert_eq!(face.landmarks, Some([Point::new(12.0, 4.0); 5]));
    }

    #[test]
    fn offsets_are_scaled_by_the_prior_and_the_variances() {
        let mut outputs = Outputs::of(&families::RETINAFACE);
        outputs.head(Role::Score, 0)[1] = 0.9;
        outputs.head(Role::Box, 0)[..4].copy_from_slice(&[1.0, -2.0, 5.0 * 2.0f32.ln(), 0.0]);
        outputs.head(Role::Landmarks, 0)[..2].copy_from_slice(&[5.0, 10.0]);
        let face = outputs.only();
        // Prior: centre (4, 4), size 16. Centre moves by 0.1 * 16 a unit; width doubles.
        near(face.rect, [4.0 + 1.6 - 16.0, 4.0 - 3.2 - 8.0, 32.0, 16.0]);
        assert_eq!(face.landmarks.unwrap()[0], Point::new(12.0, 20.0));
    }

    #[test]
    fn planes_hold_the_backgrounds_before_the_faces_and_boxes_include_their_last_pixel() {
        let mut outputs = Outputs::of(&families::INSIGHTFACE);
        // Stride 8: 4 x 4 cells. Cell 6 is column 2, row 1; anchor 1 has a side of 16.
        let cells = 16;
        outputs.head(Role::Score, 0)[cells + 6] = 0.95;
        outputs.head(Role::Score, 0)[3 * cells + 6] = 0.8;
        outputs.head(Role::Box, 0)[4 * cells + 6] = 0.5;
        outputs.head(Role::Box, 0)[7 * cells + 6] = 2.0f32.ln();
        outputs.head(Role::Landmarks, 0)[(10 + 3) * cells + 6] = 0.25;
        let face = outputs.only();
        assert_eq!(face.score, 0.8);
        // Centre (16 + 7.5, 8 + 7.5), moved by half of 16; 16 pixels wide are 15 from the first to the last.
        near(face.rect, [31.5 - 7.5, 15.5 - 15.5, 15.0, 31.0]);
        assert_eq!(face.landmarks.unwrap()[1], Point::new(23.5, 15.5 + 4.0));
    }

    #[test]
    fn distances_count_in_strides_from_the_cells_corner() {
        let mut outputs = Outputs::of(&families::SCRFD);
        // Stride 16: 2 x 2 cells; the second anchor of cell 3.
        outputs.head(Role::Score, 1)[7] = 0.7;
        outputs.head(Role::Box, 1)[28..32].copy_from_slice(&[1.0, 0.5, 2.0, -1.0]);
        outputs.head(Role::Landmarks, 1)[70..72].copy_from_slice(&[-0.25, 0.5]);
        let face = outputs.only();
        near(face.rect, [0.0, 8.0, 48.0, 0.0]);
        assert_eq!(face.landmarks.unwrap()[0], Point::new(12.0, 24.0));
        let mut boxes = Outputs::of(&families::SCRFD_BOXES);
        boxes.head(Role::Score, 2)[0] = 0.7;
        boxes.head(Role::Box, 2)[..4].fill(1.0);
        assert_eq!(boxes.only(), Face { landmarks: None, ..boxes.only() });
        near(boxes.only().rect, [-32.0, -32.0, 64.0, 64.0]);
    }

    #[test]
    fn a_products_score_is_the_geometric_mean() {
        let mut outputs = Outputs::of(&families::YUNET);
        outputs.head(Role::Score, 0)[5] = 0.81;
        // The first of the second tensor's levels comes after the three of the first.
        outputs.head(Role::Score, 3)[5] = 1.5;
        outputs.head(Role::Box, 0)[20..24].copy_from_slice(&[0.5, 0.5, 2.0f32.ln(), 0.0]);
        let face = outputs.only();
        assert!((face.score - 0.9).abs() < 1e-6);
        near(face.rect, [12.0 - 8.0, 12.0 - 4.0, 16.0, 8.0]);
    }

    #[test]
    fn logits_become_probabilities() {
        for family in [&families::RETINAFACE, &families::INSIGHTFACE, &families::SCRFD] {
            let mut outputs = Outputs::of(family);
            outputs.layout.logits = true;
            let planes = family.arrangement == Arrangement::Planes;
            // The face of the first anchor: behind its own background, or behind those of both anchors of 16 cells.
            let face = if planes { 2 * 16 } else { usize::from(family.scores == Scores::Pairs) };
            let scores = outputs.head(Role::Score, 0);
            scores.fill(0.0);
            scores[face] = 1.0;
            let decoded = outputs.decode(0.6);
            let [found] = decoded.candidates.as_slice() else { panic!("{}: {decoded:?}", family.name) };
            assert!((found.score - 0.731_058_6).abs() < 1e-6, "{}: {}", family.name, found.score);
        }
    }

    #[test]
    fn a_score_at_the_threshold_is_not_above_it() {
        let mut outputs = Outputs::of(&families::RETINAFACE);
        outputs.head(Role::Score, 0)[1] = 0.5;
        assert_eq!(outputs.decode(0.5), Decoded::default());
    }

    #[test]
    fn numbers_that_are_not_finite_are_dropped_and_counted() {
        let mut outputs = Outputs::of(&families::RETINAFACE);
        let conf = outputs.head(Role::Score, 0);
        (conf[1], conf[3], conf[5], conf[7]) = (f32::NAN, 0.9, 0.9, 1.000_000_1);
        outputs.head(Role::Box, 0)[4 + 2] = f32::INFINITY;
        outputs.head(Role::Landmarks, 0)[2 * 10 + 9] = f32::NAN;
        let decoded = outputs.decode(0.5);
        assert_eq!(decoded.non_finite, 3);
        let [face] = decoded.candidates.as_slice() else { panic!("{decoded:?}") };
        assert_eq!(face.score, 1.0);
    }

    #[test]
    fn a_nan_hides_behind_no_arrangement() {
        for family in &families::FAMILIES {
            let mut outputs = Outputs::of(family);
            let last = if family.scores == Scores::Pairs { 2 * 16 + 1 } else { 0 };
            outputs.head(Role::Score, 0)[last] = f32::NAN;
            assert_eq!(outputs.decode(0.5).non_finite, 1, "{}", family.name);
            let mut boxes = Outputs::of(family);
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
    fn candidates_of_a_device_are_held_to_the_same_rules() {
        let candidate = |score: f32, last: f32| {
            let mut numbers = [0.0; CANDIDATE_WITH_POINTS];
            (numbers[0], numbers[3], numbers[4], numbers[14]) = (score, 20.0, 30.0, last);
            numbers
        };
        let numbers =
            [candidate(1.5, 7.0), candidate(f32::NAN, 7.0), candidate(0.9, f32::INFINITY), candidate(0.5, 7.0)];
        let decoded = from_candidates(numbers.as_flattened(), true, 0.5);
        assert_eq!(decoded.non_finite, 2);
        let [face] = decoded.candidates.as_slice() else { panic!("{decoded:?}") };
        assert_eq!((face.score, face.rect), (1.0, Rect::new(0.0, 0.0, 20.0, 30.0)));
        assert_eq!(face.landmarks.unwrap()[4], Point::new(0.0, 7.0));
        let decoded = from_candidates(&[0.9, 1.0, 2.0, 3.0, 4.0], false, 0.5);
        assert_eq!(
            (decoded.candidates[0].rect, decoded.candidates[0].landmarks),
            (Rect::new(1.0, 2.0, 3.0, 4.0), None)
        );
    }

    #[test]
    fn a_nan_below_the_threshold_costs_nothing() {
        let mut outputs = Outputs::of(&families::RETINAFACE);
        outputs.head(Role::Box, 0).fill(f32::NAN);
        assert_eq!(outputs.decode(0.5), Decoded::default());
    }
}
