//! The families of detectors that are known: one description each, and how a model is told to be of one.
//!
//! A model is recognised by the shapes that a small probe run gives, never by names: these differ from export to
//! export, and many exports declare no shapes at all. To add a family, describe it in a file of its own and list it in
//! [`FAMILIES`]; it is then decoded, on the CPU and in the graph of a GPU, without another line.

mod insightface;
mod retinaface;
mod scrfd;
mod ssh;
mod yunet;

pub use insightface::INSIGHTFACE;
pub use retinaface::RETINAFACE;
pub use scrfd::{SCRFD, SCRFD_BOXES};
pub use ssh::SSH;
pub use yunet::YUNET;

use crate::layout::{Arrangement, Boxes, Head, Layout, Scores, Variances};
use crate::overrides::Adjustments;
use crate::preprocess::Normalization;
use crate::priors::Level;

/// All of them.
pub const FAMILIES: [Family; 6] = [RETINAFACE, INSIGHTFACE, SSH, SCRFD, SCRFD_BOXES, YUNET];

/// Anchors a cell that are tried to say what is the matter with a model that fits none.
const OTHER_ANCHORS: std::ops::RangeInclusive<usize> = 1..=9;

/// What people call them.
pub(crate) fn names() -> String {
    FAMILIES.map(|family| family.name).join(", ")
}

/// Where in its cell an anchor's centre lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Centre {
    /// In the middle.
    OfCell,
    /// So many pixels from the left and top.
    Pixels(f32),
}

impl Centre {
    /// In pixels, for cells of that stride.
    pub fn of(self, stride: usize) -> f32 {
        match self {
            Self::OfCell => 0.5 * stride as f32,
            Self::Pixels(pixels) => pixels,
        }
    }
}

/// A family's description.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// What people call it.
    pub name: &'static str,
    /// What it is recognised by.
    pub sign: &'static str,
    /// How numbers lie in the outputs.
    pub arrangement: Arrangement,
    /// What scores are.
    pub scores: Scores,
    /// What boxes are.
    pub boxes: Boxes,
    /// Whether there are landmarks.
    pub landmarks: bool,
    /// Each level's stride, and the sides of its cells' anchors in input pixels.
    pub levels: &'static [(usize, &'static [f32])],
    /// Where in their cell the anchors lie.
    pub centre: Centre,
    /// Factors of the outputs' numbers.
    pub variances: Variances,
    /// What training did to its pictures.
    pub normalization: Normalization,
    /// What both sides of an input must be a multiple of.
    pub multiple: usize,
}

impl Family {
    /// What the outputs mean.
    pub fn layout(&self) -> Layout {
        let level = |(stride, anchors): &(usize, &[f32])| Level {
            stride: *stride,
            centre: self.centre.of(*stride),
            anchors: anchors.to_vec(),
        };
        Layout {
            arrangement: self.arrangement,
            scores: self.scores,
            logits: false,
            boxes: self.boxes,
            landmarks: self.landmarks,
            levels: self.levels.iter().map(level).collect(),
            variances: self.variances,
        }
    }
}

/// A model's family, and which of its outputs is which.
#[derive(Clone, Debug)]
pub(crate) struct Recognised {
    pub(crate) family: &'static Family,
    pub(crate) layout: Layout,
    /// For each head of the layout, which output it is.
    pub(crate) outputs: Vec<usize>,
}

/// How far the outputs fit a family.
struct Fit {
    layout: Layout,
    /// For each head its output, or none.
    outputs: Vec<Option<usize>>,
    /// The first head that has none, or several.
    problem: Option<String>,
}

/// Recognises a model by its outputs' shapes for one picture of `size`, width and height.
///
/// # Errors
/// With what the outputs come closest to, and what is missing there.
pub(crate) fn recognise(
    shapes: &[Vec<i64>],
    size: (usize, usize),
    adjustments: &Adjustments,
) -> Result<Recognised, String> {
    let mut closest = None::<(usize, String)>;
    let mut best = None::<Recognised>;
    for family in &FAMILIES {
        let own = fit(shapes, size, adjustments.layout(family)?);
        let Fit { layout, outputs, problem } = match own.problem {
            Some(_) => with_as_many_anchors(shapes, size, family, adjustments).unwrap_or(own),
            None => own,
        };
        let matched = outputs.iter().flatten().count();
        match problem {
            // Of two that fit, the one that leaves less unread.
            None if best.as_ref().is_none_or(|best| best.outputs.len() < outputs.len()) => {
                best = Some(Recognised { family, layout, outputs: outputs.into_iter().flatten().collect() });
            }
            Some(problem) if matched > closest.as_ref().map_or(0, |(most, _)| *most) => {
                closest = Some((matched, format!("closest is {}, but {problem}", family.name)));
            }
            _ => {}
        }
    }
    let Some(best) = best else {
        let of_others = with_other_anchors(shapes, size, adjustments);
        let problem = of_others.or(closest.map(|(_, problem)| problem));
        return Err(problem.unwrap_or_else(|| "none of its outputs is one of a detector's".to_owned()));
    };
    Ok(best)
}

fn fit(shapes: &[Vec<i64>], (width, height): (usize, usize), layout: Layout) -> Fit {
    let heads = layout.heads();
    let sides = |head: &Head| {
        let sides = layout.sides(*head, width, height);
        sides.into_iter().map(|side| side as i64).collect::<Vec<_>>()
    };
    let fits = |shape: &[i64], sides: &[i64]| match shape {
        [1, rest @ ..] if rest == sides => true,
        // Some exports leave the batch's side out.
        _ => layout.arrangement == Arrangement::Rows && shape == sides,
    };
    let mut outputs = Vec::with_capacity(heads.len());
    let mut problem = None;
    for (index, head) in heads.iter().enumerate() {
        let sides = sides(head);
        let fitting = shapes.iter().enumerate().filter(|(_, shape)| fits(shape, &sides)).map(|(output, _)| output);
        let fitting = fitting.collect::<Vec<_>>();
        let alike = heads
            .iter()
            .enumerate()
            .filter(|(_, other)| layout.sides(**other, width, height) == layout.sides(*head, width, height));
        let alike = alike.map(|(other, _)| other).collect::<Vec<_>>();
        let name = || {
            let of = head.level.map(|level| format!(" of stride {}", layout.levels[level].stride)).unwrap_or_default();
            format!("{}{of}, which is [1, {}] for an input of {width}x{height}", head.role, list(&sides))
        };
        let output = match fitting.len() {
            // Heads of one shape (YuNet's class and objectness) stand for each other.
            count if count == alike.len() => alike.iter().position(|other| *other == index).map(|place| fitting[place]),
            count => {
                let what = if count < alike.len() { "there is no output for its" } else { "several outputs fit its" };
                problem.get_or_insert_with(|| format!("{what} {}", name()));
                None
            }
        };
        outputs.push(output);
    }
    Fit { layout, outputs, problem }
}

/// The fit of a model with another number of anchors a cell, where these have no side but the stride's: then nothing
/// needs to be known of them.
fn with_as_many_anchors(
    shapes: &[Vec<i64>],
    size: (usize, usize),
    family: &Family,
    adjustments: &Adjustments,
) -> Option<Fit> {
    if family.boxes != Boxes::Distances || adjustments.says_anchors() {
        return None;
    }
    let layout = adjustments.layout(family).ok()?;
    OTHER_ANCHORS.into_iter().find_map(|count| {
        let level = |level: &Level| Level { anchors: vec![level.stride as f32; count], ..level.clone() };
        let fit = fit(shapes, size, Layout { levels: layout.levels.iter().map(level).collect(), ..layout.clone() });
        fit.problem.is_none().then_some(fit)
    })
}

/// What to say of a model that fits a family but for the number of its anchors.
fn with_other_anchors(shapes: &[Vec<i64>], size: (usize, usize), adjustments: &Adjustments) -> Option<String> {
    let have_sides = |family: &&Family| !matches!(family.scores, Scores::Product) && family.boxes != Boxes::Distances;
    for family in FAMILIES.iter().filter(have_sides) {
        let layout = adjustments.layout(family).ok()?;
        for count in OTHER_ANCHORS {
            let level = |level: &Level| Level { anchors: vec![1.0; count], ..level.clone() };
            let other = Layout { levels: layout.levels.iter().map(level).collect(), ..layout.clone() };
            if fit(shapes, size, other).problem.is_none() {
                let example = vec![vec!["16"; count].join(","); layout.levels.len()].join("/");
                return Some(format!(
                    "they fit {} with {count} anchors a cell, whose sides are not known: name them by the model option \
                     anchors, as in anchors={example}",
                    family.name
                ));
            }
        }
    }
    None
}

fn list(sides: &[i64]) -> String {
    sides.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (64, 32);

    fn shapes(family: &Family) -> Vec<Vec<i64>> {
        let layout = family.layout();
        let sides = layout.heads().into_iter().map(|head| layout.sides(head, SIZE.0, SIZE.1));
        sides.map(|sides| std::iter::once(1).chain(sides).map(|side| side as i64).collect()).collect()
    }

    fn recognised(shapes: &[Vec<i64>]) -> Result<Recognised, String> {
        recognise(shapes, SIZE, &Adjustments::default())
    }

    #[test]
    fn each_family_is_told_by_its_shapes_in_any_order() {
        for family in &FAMILIES {
            let mut shapes = shapes(family);
            shapes.rotate_left(1);
            shapes.reverse();
            let found = recognised(&shapes).unwrap();
            assert_eq!(found.family.name, family.name);
            let mut outputs = found.outputs.clone();
            outputs.sort_unstable();
            assert_eq!(outputs, (0..shapes.len()).collect::<Vec<_>>(), "{}: each output is one head", family.name);
            let layout = found.layout;
            for (head, output) in layout.heads().into_iter().zip(found.outputs) {
                let sides = layout.sides(head, SIZE.0, SIZE.1);
                assert_eq!(shapes[output][1..], sides.into_iter().map(|side| side as i64).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn an_output_more_is_left_unread() {
        let mut shapes = shapes(&RETINAFACE);
        shapes.insert(1, vec![1, 128]);
        let found = recognised(&shapes).unwrap();
        assert_eq!((found.family.name, found.outputs), (RETINAFACE.name, vec![0, 2, 3]));
    }

    #[test]
    fn rows_may_lack_the_batch() {
        let shapes = shapes(&SCRFD).into_iter().map(|shape| shape[1..].to_vec()).collect::<Vec<_>>();
        assert_eq!(recognised(&shapes).unwrap().family.name, SCRFD.name);
    }

    #[test]
    fn what_fits_none_is_told_what_is_missing() {
        let mut missing = shapes(&INSIGHTFACE);
        missing.truncate(4);
        let error = recognised(&missing).unwrap_err();
        assert!(error.contains("closest is RetinaFace (InsightFace)") || error.contains("closest is SSH"), "{error}");
        assert!(error.contains("boxes of stride 16, which is [1, 8, 2, 4] for an input of 64x32"), "{error}");
        let mut twice = shapes(&RETINAFACE);
        twice.push(twice[1].clone());
        let error = recognised(&twice).unwrap_err();
        assert!(error.contains("several outputs fit its boxes, which is [1, 84, 4]"), "{error}");
        assert!(recognised(&[]).is_err());
    }

    #[test]
    fn anchors_without_a_side_of_their_own_may_be_as_many_as_they_like() {
        let one = Family { levels: &[(8, &[8.0]), (16, &[16.0]), (32, &[32.0])], ..SCRFD };
        let found = recognised(&shapes(&one)).unwrap();
        assert_eq!((found.family.name, found.layout.levels[2].anchors.as_slice()), (SCRFD.name, &[32.0][..]));
    }

    #[test]
    fn other_anchors_are_asked_for_and_taken() {
        let count = |shape: Vec<i64>| vec![shape[0], 2 * shape[1], shape[2], shape[3]];
        let shapes = shapes(&INSIGHTFACE).into_iter().map(count).collect::<Vec<_>>();
        let error = recognised(&shapes).unwrap_err();
        assert!(error.contains("4 anchors a cell") && error.contains("anchors=16,16,16,16/16"), "{error}");
        let overrides = "anchors=32,16,32,16/128,64,128,64/512,256,512,256".parse::<crate::overrides::Overrides>();
        let found = recognise(&shapes, SIZE, &overrides.unwrap().adjustments()).unwrap();
        assert_eq!(found.family.name, INSIGHTFACE.name);
        assert_eq!(found.layout.levels[2].anchors, [512.0, 256.0, 512.0, 256.0]);
    }
}
