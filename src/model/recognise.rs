//! Recognition of the detector family of a model.
//!
//! A model is recognised by the shapes of its outputs in a small probe run. Tensor names are not
//! used: they differ between exports. Declared shapes are not used either: many exports declare
//! none.

use super::families::FAMILIES;
use super::layout::{Arrangement, Boxes, Family, Head, Layout, Scores};
use super::overrides::ParsedOverrides;
use super::priors::Level;

/// The numbers of anchors per cell that are tried if a model fits no family.
const ANCHOR_COUNTS: std::ops::RangeInclusive<usize> = 1..=9;

/// The family of a model, and the assignment of its outputs to heads.
#[derive(Clone, Debug)]
pub(crate) struct FamilyMatch {
    pub(crate) family: &'static Family,
    pub(crate) layout: Layout,
    /// Index of the output for each head of the layout.
    pub(crate) outputs: Vec<usize>,
}

/// A comparison of a model's outputs with a layout.
struct Fit {
    layout: Layout,
    /// Index of the output for each head; `None` if no output matches, or several do.
    outputs: Vec<Option<usize>>,
    /// Description of the first head without a unique output.
    problem: Option<String>,
}

/// Recognises a model by the shapes of its outputs for one image of `size` (width, height).
///
/// # Errors
/// A description of the closest family and of what is missing.
pub(crate) fn recognise_family(
    shapes: &[Vec<i64>],
    size: (usize, usize),
    overrides: &ParsedOverrides,
) -> Result<FamilyMatch, String> {
    let mut closest = None::<(usize, String)>;
    let mut best = None::<FamilyMatch>;
    for family in &FAMILIES {
        let layout = overrides.layout(family).map_err(|kind| kind.to_string())?;
        let own = fit(shapes, size, layout);
        let Fit { layout, outputs, problem } = match own.problem {
            Some(_) => fit_any_anchor_count(shapes, size, family, overrides).unwrap_or(own),
            None => own,
        };
        let matched = outputs.iter().flatten().count();
        match problem {
            // If several families fit, the one that uses most outputs is the right one.
            None if best.as_ref().is_none_or(|best| best.outputs.len() < outputs.len()) => {
                best = Some(FamilyMatch { family, layout, outputs: outputs.into_iter().flatten().collect() });
            }
            Some(problem) if matched > closest.as_ref().map_or(0, |(count, _)| *count) => {
                closest = Some((matched, format!("closest is {}, but {problem}", family.name)));
            }
            _ => {}
        }
    }
    best.ok_or_else(|| {
        let problem = anchor_count_problem(shapes, size, overrides).or(closest.map(|(_, problem)| problem));
        problem.unwrap_or_else(|| "no output has the shape of a detector output".to_owned())
    })
}

/// Assigns outputs to the heads of a layout by their shapes.
fn fit(shapes: &[Vec<i64>], (width, height): (usize, usize), layout: Layout) -> Fit {
    let heads = layout.heads();
    let expected_shape = |head: &Head| {
        let shape = layout.shape(*head, width, height);
        shape.into_iter().map(|len| len as i64).collect::<Vec<_>>()
    };
    let fits = |shape: &[i64], expected: &[i64]| match shape {
        [1, rest @ ..] if rest == expected => true,
        // Some exports omit the batch dimension.
        _ => layout.arrangement == Arrangement::Rows && shape == expected,
    };
    let mut outputs = Vec::with_capacity(heads.len());
    let mut problem = None;
    for (index, head) in heads.iter().enumerate() {
        let expected = expected_shape(head);
        let candidates =
            shapes.iter().enumerate().filter(|(_, shape)| fits(shape, &expected)).map(|(output, _)| output);
        let candidates = candidates.collect::<Vec<_>>();
        let same_shape = heads.iter().enumerate().filter(|(_, other)| expected_shape(other) == expected);
        let same_shape = same_shape.map(|(other, _)| other).collect::<Vec<_>>();
        let description = || {
            let level = head.level.map(|level| format!(" of stride {}", layout.levels[level].stride));
            let (level, shape) = (level.unwrap_or_default(), list(&expected));
            format!("the shape [1, {shape}] of the {}{level} for an input of {width}x{height}", head.role)
        };
        let output = match candidates.len() {
            // Heads of equal shape (class and objectness of YuNet) are interchangeable.
            count if count == same_shape.len() => {
                same_shape.iter().position(|other| *other == index).map(|place| candidates[place])
            }
            count => {
                let what = if count < same_shape.len() { "no output has" } else { "several outputs have" };
                problem.get_or_insert_with(|| format!("{what} {}", description()));
                None
            }
        };
        outputs.push(output);
    }
    Fit { layout, outputs, problem }
}

/// The fit with another number of anchors per cell, for families whose anchors have the size of the
/// stride, so that no other parameter is needed.
fn fit_any_anchor_count(
    shapes: &[Vec<i64>],
    size: (usize, usize),
    family: &Family,
    overrides: &ParsedOverrides,
) -> Option<Fit> {
    if family.boxes != Boxes::Distances || overrides.overrides_anchors() {
        return None;
    }
    let layout = overrides.layout(family).ok()?;
    ANCHOR_COUNTS.into_iter().find_map(|count| {
        let level = |level: &Level| Level { anchors: vec![level.stride as f32; count], ..level.clone() };
        let fit = fit(shapes, size, Layout { levels: layout.levels.iter().map(level).collect(), ..layout.clone() });
        fit.problem.is_none().then_some(fit)
    })
}

/// The message for a model that fits a family except for the number of anchors per cell.
fn anchor_count_problem(shapes: &[Vec<i64>], size: (usize, usize), overrides: &ParsedOverrides) -> Option<String> {
    let has_sizes = |family: &&Family| !matches!(family.scores, Scores::Product) && family.boxes != Boxes::Distances;
    for family in FAMILIES.iter().filter(has_sizes) {
        let layout = overrides.layout(family).ok()?;
        for count in ANCHOR_COUNTS {
            let level = |level: &Level| Level { anchors: vec![1.0; count], ..level.clone() };
            let other = Layout { levels: layout.levels.iter().map(level).collect(), ..layout.clone() };
            if fit(shapes, size, other).problem.is_none() {
                let example = vec![vec!["16"; count].join(","); layout.levels.len()].join("/");
                return Some(format!(
                    "the outputs fit {} with {count} anchors per cell of unknown sizes: set the model option anchors, \
                     as in anchors={example}",
                    family.name
                ));
            }
        }
    }
    None
}

fn list(dims: &[i64]) -> String {
    dims.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::families::{INSIGHTFACE, RETINAFACE, SCRFD};
    use super::super::overrides::Overrides;
    use super::*;

    const SIZE: (usize, usize) = (64, 32);

    fn shapes(family: &Family) -> Vec<Vec<i64>> {
        let layout = family.layout();
        let shapes = layout.heads().into_iter().map(|head| layout.shape(head, SIZE.0, SIZE.1));
        shapes.map(|shape| std::iter::once(1).chain(shape).map(|len| len as i64).collect()).collect()
    }

    fn recognised(shapes: &[Vec<i64>]) -> Result<FamilyMatch, String> {
        recognise_family(shapes, SIZE, &ParsedOverrides::default())
    }

    #[test]
    fn each_family_is_recognised_with_outputs_in_any_order() {
        for family in &FAMILIES {
            let mut shapes = shapes(family);
            shapes.rotate_left(1);
            shapes.reverse();
            let found = recognised(&shapes).unwrap();
            assert_eq!(found.family.name, family.name);
            let mut outputs = found.outputs.clone();
            outputs.sort_unstable();
            assert_eq!(outputs, (0..shapes.len()).collect::<Vec<_>>(), "{}: one output per head", family.name);
            let layout = found.layout;
            for (head, output) in layout.heads().into_iter().zip(found.outputs) {
                let shape = layout.shape(head, SIZE.0, SIZE.1);
                assert_eq!(shapes[output][1..], shape.into_iter().map(|len| len as i64).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn additional_outputs_are_ignored() {
        let mut shapes = shapes(&RETINAFACE);
        shapes.insert(1, vec![1, 128]);
        let found = recognised(&shapes).unwrap();
        assert_eq!((found.family.name, found.outputs), (RETINAFACE.name, vec![0, 2, 3]));
    }

    #[test]
    fn rows_without_a_batch_dimension_are_recognised() {
        let shapes = shapes(&SCRFD).into_iter().map(|shape| shape[1..].to_vec()).collect::<Vec<_>>();
        assert_eq!(recognised(&shapes).unwrap().family.name, SCRFD.name);
    }

    #[test]
    fn the_error_describes_what_is_missing() {
        let mut missing = shapes(&INSIGHTFACE);
        missing.truncate(4);
        let error = recognised(&missing).unwrap_err();
        assert!(error.contains("closest is RetinaFace (InsightFace)") || error.contains("closest is SSH"), "{error}");
        assert!(error.contains("no output has the shape [1, 8, 2, 4] of the boxes of stride 16"), "{error}");
        let mut twice = shapes(&RETINAFACE);
        twice.push(twice[1].clone());
        let error = recognised(&twice).unwrap_err();
        assert!(error.contains("several outputs have the shape [1, 84, 4] of the boxes"), "{error}");
        assert!(recognised(&[]).is_err());
    }

    #[test]
    fn scrfd_can_have_any_number_of_anchors() {
        let one = Family { levels: &[(8, &[8.0]), (16, &[16.0]), (32, &[32.0])], ..SCRFD };
        let found = recognised(&shapes(&one)).unwrap();
        assert_eq!((found.family.name, found.layout.levels[2].anchors.as_slice()), (SCRFD.name, &[32.0][..]));
    }

    #[test]
    fn unknown_anchor_sizes_are_taken_from_the_overrides() {
        let twice_the_channels = |shape: Vec<i64>| vec![shape[0], 2 * shape[1], shape[2], shape[3]];
        let shapes = shapes(&INSIGHTFACE).into_iter().map(twice_the_channels).collect::<Vec<_>>();
        let error = recognised(&shapes).unwrap_err();
        assert!(error.contains("4 anchors per cell") && error.contains("anchors=16,16,16,16/16"), "{error}");
        let overrides = "anchors=32,16,32,16/128,64,128,64/512,256,512,256".parse::<Overrides>().unwrap();
        let found = recognise_family(&shapes, SIZE, &overrides.parsed()).unwrap();
        assert_eq!(found.family.name, INSIGHTFACE.name);
        assert_eq!(found.layout.levels[2].anchors, [512.0, 256.0, 512.0, 256.0]);
    }
}
