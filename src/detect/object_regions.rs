//! Regions of a frame in which an earlier detector found objects, such as persons. Detection can run
//! inside them only.

use std::sync::Arc;

use crate::geometry::{Face, Rect};

/// Maximum number of regions of objects of a frame in which detection runs.
pub const MAX_OBJECT_REGIONS: usize = 64;
/// Two regions contain the same part of a face if the fractions of its box that they contain differ
/// by at most this. The box of a head can reach a little out of the box of its person.
const SAME_PART: f32 = 0.1;

/// A region in which an earlier detector found an object.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ObjectRegion {
    /// The rectangle, in frame pixels.
    pub rect: Rect,
    /// Id of the object. It becomes the [`Face::parent_id`] of faces in the region.
    pub id: i32,
}

/// The regions of objects of one frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectRegions {
    /// The regions in which detection runs, the largest first. Each lies in the frame.
    pub regions: Arc<[ObjectRegion]>,
    /// Number of smaller regions beyond [`MAX_OBJECT_REGIONS`], in which it does not run.
    pub left_out: usize,
}

impl ObjectRegions {
    /// The regions among `found` that lie in a frame of this width and height, clipped to it and, if
    /// there are any, to `rois`. Of several equal regions the first counts.
    pub fn select(found: impl IntoIterator<Item = ObjectRegion>, frame: (usize, usize), rois: &[Rect]) -> Self {
        let frame = Rect::new(0.0, 0.0, frame.0 as f32, frame.1 as f32);
        let rois = if rois.is_empty() { std::slice::from_ref(&frame) } else { rois };
        let within = |ObjectRegion { rect, id }: ObjectRegion| {
            let in_frame = rect.is_finite().then(|| intersection(rect, frame)).flatten();
            let parts = rois.iter().filter_map(move |roi| intersection(in_frame?, *roi));
            parts.map(move |rect| ObjectRegion { rect, id })
        };
        let mut regions = found.into_iter().flat_map(within).collect::<Vec<_>>();
        let position = |region: &ObjectRegion| [region.rect.x, region.rect.y, region.rect.w, region.rect.h];
        regions.sort_by(|a, b| {
            let positions = position(a).into_iter().zip(position(b));
            let by_size = b.rect.area().total_cmp(&a.rect.area());
            positions.fold(by_size, |order, (a, b)| order.then(a.total_cmp(&b)))
        });
        regions.dedup_by_key(|region| region.rect);
        let left_out = regions.len().saturating_sub(MAX_OBJECT_REGIONS);
        regions.truncate(MAX_OBJECT_REGIONS);
        Self { regions: regions.into(), left_out }
    }
}

/// The intersection of two rectangles; `None` if it has no area.
fn intersection(a: Rect, b: Rect) -> Option<Rect> {
    let (x, y) = (a.x.max(b.x), a.y.max(b.y));
    let (w, h) = (a.right().min(b.right()) - x, a.bottom().min(b.bottom()) - y);
    (w > 0.0 && h > 0.0).then_some(Rect { x, y, w, h })
}

/// Sets the parents of faces: of the regions that contain the same part of a face as the one that
/// contains most of it, the smallest. It does not depend on the scores in the regions, so that it is
/// the same in each frame in which face and regions are.
pub(super) fn set_parents(faces: &mut [Face], regions: &[ObjectRegion]) {
    for face in faces {
        let part = |region: &ObjectRegion| {
            intersection(face.rect, region.rect).map_or(0.0, Rect::area) / face.rect.area().max(f32::MIN_POSITIVE)
        };
        let most = regions.iter().map(part).fold(0.0, f32::max);
        let contains = |region: &&ObjectRegion| part(region) > 0.0 && part(region) >= most - SAME_PART;
        let smallest = regions.iter().filter(contains).min_by(|a, b| a.rect.area().total_cmp(&b.rect.area()));
        face.parent_id = smallest.map(|region| region.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: (usize, usize) = (640, 360);

    fn region(id: i32, x: f32, y: f32, w: f32, h: f32) -> ObjectRegion {
        ObjectRegion { rect: Rect::new(x, y, w, h), id }
    }

    fn selected(found: &[ObjectRegion], rois: &[Rect]) -> Vec<ObjectRegion> {
        ObjectRegions::select(found.iter().copied(), FRAME, rois).regions.to_vec()
    }

    #[test]
    fn regions_are_clipped_to_the_frame_and_empty_ones_are_dropped() {
        let found = [
            region(1, 600.0, 300.0, u32::MAX as f32, u32::MAX as f32),
            region(2, u32::MAX as f32, 0.0, u32::MAX as f32, 10.0),
            region(3, 10.0, 10.0, 0.0, 50.0),
            region(4, 640.0, 0.0, 10.0, 10.0),
            region(5, f32::NAN, 0.0, 10.0, 10.0),
            region(6, -20.0, -20.0, 120.0, 120.0),
        ];
        assert_eq!(selected(&found, &[]), [region(6, 0.0, 0.0, 100.0, 100.0), region(1, 600.0, 300.0, 40.0, 60.0)]);
    }

    #[test]
    fn static_regions_clip_those_of_objects() {
        let rois = [Rect::new(0.0, 0.0, 50.0, 360.0), Rect::new(300.0, 0.0, 340.0, 100.0)];
        let found =
            [region(1, 20.0, 20.0, 60.0, 100.0), region(2, 30.0, 0.0, 400.0, 50.0), region(3, 100.0, 0.0, 9.0, 9.0)];
        let expected =
            [region(2, 300.0, 0.0, 130.0, 50.0), region(1, 20.0, 20.0, 30.0, 100.0), region(2, 30.0, 0.0, 20.0, 50.0)];
        assert_eq!(selected(&found, &rois), expected);
    }

    #[test]
    fn of_too_many_regions_the_largest_are_taken_and_the_others_counted() {
        let found =
            (0..5000).map(|id| region(id, (id % 600) as f32, 0.0, 1.0 + (id / 600) as f32, 5.0 + (id % 7) as f32));
        let all = found.clone().collect::<Vec<_>>();
        let selected = ObjectRegions::select(found, FRAME, &[]);
        assert_eq!((selected.regions.len(), selected.left_out), (MAX_OBJECT_REGIONS, 5000 - MAX_OBJECT_REGIONS));
        let smallest = selected.regions.iter().map(|region| region.rect.area()).fold(f32::MAX, f32::min);
        let larger = all.iter().filter(|region| region.rect.area() > smallest).count();
        assert!(larger < MAX_OBJECT_REGIONS, "{larger} regions are larger than {smallest}");
    }

    #[test]
    fn a_region_that_two_detectors_report_is_one_with_the_first_id() {
        let found = [region(7, 0.0, 0.0, 20.0, 20.0), region(3, 0.0, 0.0, 20.0, 20.0), region(4, 0.0, 0.0, 40.0, 10.0)];
        let ids = selected(&found, &[]).iter().map(|region| region.id).collect::<Vec<_>>();
        assert_eq!(ids, [7, 4]);
    }

    /// The parent of a face of 40 x 40 at this position.
    fn parent(x: f32, y: f32, regions: &[ObjectRegion]) -> Option<i32> {
        let mut faces = [Face { rect: Rect::new(x, y, 40.0, 40.0), ..Face::default() }];
        set_parents(&mut faces, regions);
        faces[0].parent_id
    }

    #[test]
    fn the_parent_is_the_smallest_region_that_contains_the_face() {
        let (car, person) = (region(1, 0.0, 0.0, 300.0, 200.0), region(2, 50.0, 50.0, 80.0, 140.0));
        assert_eq!(parent(60.0, 60.0, &[car, person]), Some(2));
        // The head reaches out of the box of its person by less than a tenth.
        assert_eq!(parent(60.0, 47.0, &[person, car]), Some(2));
        assert_eq!(parent(60.0, 30.0, &[person, car]), Some(1), "a half of the face is above the person");
        assert_eq!(parent(200.0, 100.0, &[car, person]), Some(1));
        // No region contains the face: the one that contains most of it.
        assert_eq!(parent(100.0, 170.0, &[person, region(3, 100.0, 160.0, 100.0, 200.0)]), Some(3));
        assert_eq!(parent(400.0, 300.0, &[car, person]), None);
        assert_eq!(parent(0.0, 0.0, &[]), None);
    }

    proptest! {
        #[test]
        fn every_selected_region_lies_in_the_frame_and_in_a_region_that_was_found(
            found in prop::collection::vec(
                (any::<i32>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()), 0..200,
            ),
            (near, shift) in (any::<bool>(), 0u32..25),
        ) {
            // Without the shift nearly all regions are outside of the frame.
            let shift = if near { shift } else { 0 };
            let found = found.into_iter().map(|(id, x, y, w, h)| {
                region(id, (x >> shift) as f32, (y >> shift) as f32, (w >> shift) as f32, (h >> shift) as f32)
            });
            let found = found.collect::<Vec<_>>();
            let ObjectRegions { regions, left_out } = ObjectRegions::select(found.iter().copied(), FRAME, &[]);
            prop_assert!(regions.len() + left_out <= found.len() && regions.len() <= MAX_OBJECT_REGIONS);
            for ObjectRegion { rect, id } in &*regions {
                prop_assert!(rect.x >= 0.0 && rect.right() <= 640.0 && rect.w > 0.0);
                prop_assert!(rect.y >= 0.0 && rect.bottom() <= 360.0 && rect.h > 0.0);
                let contains = |found: &ObjectRegion| found.id == *id && found.rect.x <= rect.x && found.rect.y <= rect.y;
                prop_assert!(found.iter().any(contains));
            }
        }
    }
}
