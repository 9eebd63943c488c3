//! Which pixels of a frame are covered.

use retinaface::geometry::{Point, Rect};
use retinaface::image::{
    ImageInfo, ImageViewMut, RedactedArea, RedactionBuffers, RedactionMethod, RedactionShape, RedactionStyle, Region,
    redact, redact_polygons,
};
use retinaface::track::FrameCoverage;

use super::settings::Settings;

/// Factor for the area of a face at a frame edge. Such a face is covered as a box, because the detected
/// box ends at the edge and its other sides are up to a quarter too short.
const CUT_MARGIN: f32 = 1.3;

/// Covers areas and masks, which are relative to the crop, and what lies outside of the crop: the
/// detector has not seen it.
pub(super) fn cover(
    view: &mut ImageViewMut<'_>,
    crop: Region,
    coverage: &FrameCoverage,
    masks: &[Vec<Point>],
    settings: &Settings,
    buffers: &mut RedactionBuffers,
) {
    let (x, y) = (crop.x as f32, crop.y as f32);
    let moved = |rect: Rect| Rect { x: rect.x + x, y: rect.y + y, ..rect };
    let area = |rect: &Rect, shape: RedactionShape| {
        let is_cut =
            rect.x < 0.0 || rect.y < 0.0 || rect.right() > crop.width as f32 || rect.bottom() > crop.height as f32;
        let (shape, rect) = if is_cut { (RedactionShape::Box, rect.grown(CUT_MARGIN)) } else { (shape, *rect) };
        RedactedArea { rect: moved(rect), shape }
    };
    let areas = coverage.areas.iter().map(|rect| area(rect, settings.shape()));
    let held = coverage.held_areas.iter().map(|rect| area(rect, RedactionShape::Box));
    let areas = areas.chain(held);
    redact(view, &areas.collect::<Vec<_>>(), &settings.style(), buffers);
    let mask = |mask: &Vec<Point>| mask.iter().map(|corner| Point::new(corner.x + x, corner.y + y)).collect();
    redact_polygons(view, &masks.iter().map(mask).collect::<Vec<_>>(), settings.color(), buffers);
    let ImageInfo { width, height, .. } = view.info();
    let (right, bottom) = (crop.x + crop.width, crop.y + crop.height);
    let outside = [
        (0, 0, width, crop.y),
        (0, bottom, width, height.saturating_sub(bottom)),
        (0, crop.y, crop.x, crop.height),
        (right, crop.y, width.saturating_sub(right), crop.height),
    ];
    let outside = outside.into_iter().filter(|(.., width, height)| *width > 0 && *height > 0);
    let outside = outside.map(|(x, y, width, height)| RedactedArea {
        rect: Rect::new(x as f32, y as f32, width as f32, height as f32),
        shape: RedactionShape::Box,
    });
    let style = RedactionStyle { method: RedactionMethod::Solid, color: settings.color() };
    redact(view, &outside.collect::<Vec<_>>(), &style, buffers);
}
