//! Inputs that regions of different sizes share.
//!
//! Without them each region of an object would have an input of a shape of its own, in each frame
//! another one: no two regions would share a run, and execution providers that compile for a shape
//! would compile in each frame.

use super::views::View;
use crate::geometry::{FrameSize, INPUT_MULTIPLE, InputSize, Letterbox};
use crate::model::ModelSpec;

/// The shorter side of an input is a multiple of the longer one divided by this.
const SHAPES: usize = 4;

/// Pads the inputs of the views of regions to few shapes, and puts views of one shape after one
/// another, so that they go through the model as batches. With `one_shape` all have the same one.
pub(super) fn share_inputs(views: &mut [View], spec: &ModelSpec, size: InputSize, frame: FrameSize, one_shape: bool) {
    if spec.fixed_size.is_none() {
        let whole = spec.letterbox(frame, size, 1.0).input();
        for view in &mut *views {
            view.letterbox = view.letterbox.padded(input(&view.letterbox, spec, size, whole, one_shape));
        }
    }
    views.sort_by_key(|view| view.letterbox.input());
}

/// The shared input of a view; `whole` is that of the frame.
fn input(
    letterbox: &Letterbox,
    spec: &ModelSpec,
    size: InputSize,
    whole: (usize, usize),
    one_shape: bool,
) -> (usize, usize) {
    let (width, height) = letterbox.input();
    let longer = width.max(height);
    match (size, one_shape) {
        // At full resolution padding would cost more than a batch saves.
        (InputSize::Native, false) => (width, height),
        (InputSize::Native, true) => whole,
        (_, true) => (longer, longer),
        (_, false) => {
            let multiple = INPUT_MULTIPLE.max(spec.size_multiple);
            let pad = |len: usize| len.next_multiple_of(longer.div_ceil(SHAPES)).next_multiple_of(multiple);
            (pad(width), pad(height))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::object_regions::ObjectRegion;
    use super::super::view_settings::Views;
    use super::super::views::plan;
    use super::*;
    use crate::geometry::Rect;
    use crate::model::{FamilyMatch, Input, families};

    const FRAME: (usize, usize) = (1920, 1080);

    fn spec(fixed_size: Option<(usize, usize)>) -> ModelSpec {
        let input = Input { name: "input".to_owned(), channels: 3, fixed_size, dynamic_batch: true };
        let family = &families::RETINAFACE;
        let recognised = FamilyMatch { family, layout: family.layout(), outputs: vec![] };
        ModelSpec::for_detector(input, &[], recognised, false, family.normalization)
    }

    /// The views of regions of these sizes.
    fn shared(sizes: &[(f32, f32)], fixed_size: Option<(usize, usize)>, size: InputSize, one_shape: bool) -> Vec<View> {
        let regions = sizes.iter().map(|(w, h)| ObjectRegion { rect: Rect::new(0.0, 0.0, *w, *h), id: 0 });
        let views = Views { objects: Some(regions.collect()), ..Views::default() };
        let mut views = plan(FRAME.into(), &spec(fixed_size), size, &views);
        share_inputs(&mut views, &spec(fixed_size), size, FRAME.into(), one_shape);
        views
    }

    fn inputs(views: &[View]) -> Vec<(usize, usize)> {
        views.iter().map(|view| view.letterbox.input()).collect()
    }

    #[test]
    fn persons_of_different_sizes_share_one_input() {
        let sizes = [(100.0, 240.0), (301.0, 777.0), (70.0, 150.0), (45.0, 98.0)];
        let views = shared(&sizes, None, InputSize::Longest(640), false);
        assert_eq!(inputs(&views), [(320, 640); 4]);
        // The scale is that of the region alone.
        assert!(views.iter().all(|view| view.letterbox.content().1 == 640));
    }

    #[test]
    fn regions_of_any_size_have_few_shapes_and_those_of_one_shape_are_neighbours() {
        for (longest, max_shapes) in [(640, 7), (320, 7), (100, 7), (32, 1)] {
            let sizes = (0..200).map(|index| (1.0 + (index * 37 % 900) as f32, 1.0 + (index * 91 % 1000) as f32));
            let views = shared(&sizes.collect::<Vec<_>>(), None, InputSize::Longest(longest), false);
            let mut shapes = inputs(&views);
            let count = shapes.iter().collect::<BTreeSet<_>>().len();
            assert!(count <= max_shapes, "{longest}: {count} shapes");
            shapes.dedup();
            assert_eq!(shapes.len(), count, "{longest}: views of one shape are apart");
            assert!(shapes.iter().all(|(w, h)| w.is_multiple_of(32) && h.is_multiple_of(32)), "{shapes:?}");
        }
    }

    #[test]
    fn an_input_is_padded_by_at_most_a_quarter_of_its_longer_side() {
        for width in (8..1000).step_by(7) {
            let view = &shared(&[(width as f32, 1000.0)], None, InputSize::Longest(640), false)[0];
            let ((cols, _), (content, _)) = (view.letterbox.input(), view.letterbox.content());
            assert!(cols >= content && cols < content + 160, "{width}: {content} in {cols}");
        }
    }

    #[test]
    fn providers_that_compile_for_a_shape_get_one() {
        let sizes = [(100.0, 240.0), (700.0, 200.0), (64.0, 64.0)];
        assert_eq!(inputs(&shared(&sizes, None, InputSize::Longest(640), true)), [(640, 640); 3]);
        assert_eq!(inputs(&shared(&sizes, None, InputSize::Native, true)), [FRAME; 3]);
        assert_eq!(inputs(&shared(&sizes, Some((320, 320)), InputSize::Longest(640), true)), [(320, 320); 3]);
    }

    #[test]
    fn at_native_size_each_region_keeps_its_own() {
        let sizes = [(100.0, 240.0), (700.0, 200.0)];
        assert_eq!(inputs(&shared(&sizes, None, InputSize::Native, false)), [(100, 240), (700, 200)]);
    }
}
