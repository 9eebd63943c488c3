//! Where a face is after other elements changed the frame: its region of interest before and now.

use retinaface::geometry::{Face, FrameSize, Point, Rect};

/// Largest difference in pixels between an ROI that was only scaled and the exact rectangle:
/// GStreamer truncates an ROI to whole pixels at each size of the frame. For a large ROI
/// [`ROUNDING_FRACTION`] is the limit.
const ROUNDING_PIXELS: f32 = 8.0;
/// The same difference as a fraction of the ROI's size. The larger one of the two limits applies.
const ROUNDING_FRACTION: f32 = 0.06;
/// A frame whose aspect ratio changed by at most this many pixels was rounded and has no borders.
const BORDER_PIXELS: f64 = 2.0;

/// Whether a frame of `size` can have borders if its display aspect ratio was `was`.
pub(crate) fn may_have_borders(size: FrameSize, was: f64) -> bool {
    let (width, height) = (size.width as f64 * size.pixel_aspect.ratio(), size.height as f64);
    let (fitting_width, fitting_height) = (height * was, width / was);
    width - fitting_width > BORDER_PIXELS || height - fitting_height > BORDER_PIXELS
}

/// The whole pixels that a face covers in a frame: x, y, width, height; `None` outside of the
/// frame.
pub(crate) fn roi_rect(rect: Rect, width: usize, height: usize) -> Option<[u32; 4]> {
    let inside = rect.clipped(width as f32, height as f32)?;
    let (x, y) = (inside.x.floor() as u32, inside.y.floor() as u32);
    let (right, bottom) = (inside.right().ceil() as u32, inside.bottom().ceil() as u32);
    Some([x, y, right.min(width as u32).saturating_sub(x).max(1), bottom.min(height as u32).saturating_sub(y).max(1)])
}

/// One axis of a rectangle: start and length.
type Span = (f32, f32);

/// Whether a span changed from `was` to `now` only by the frame's scaling, with GStreamer's
/// truncation.
fn only_scaled(was: Span, now: Span, scale: f32) -> bool {
    // Truncation shortens every span in a smaller frame. A span that kept its length belongs to a
    // cropped frame.
    if scale < 1.0 && now.1 >= was.1 {
        return false;
    }
    let tolerance = (ROUNDING_PIXELS * scale.max(1.0)).max(ROUNDING_FRACTION * was.1 * scale);
    let off = |was: f32, now: f32| (was * scale - now).abs();
    // Start and length are truncated separately, so the end can be off by both.
    off(was.0, now.0) <= tolerance && off(was.0 + was.1, now.0 + now.1) <= 2.0 * tolerance
}

/// The face after its ROI changed from `was` to `now`. `scale` holds the factors of the frame's
/// width and height, if scaling is all that can have happened. `None` if the ROI was cut: then the
/// face's position in it is unknown.
pub(crate) fn follow(face: &Face, was: Rect, now: Rect, scale: Option<(f32, f32)>) -> Option<Face> {
    let scaled = |(x, y): &(f32, f32)| {
        only_scaled((was.x, was.w), (now.x, now.w), *x) && only_scaled((was.y, was.h), (now.y, now.h), *y)
    };
    if let Some((x, y)) = scale.filter(scaled) {
        return Some(face.mapped(|point| Point::new(point.x * x, point.y * y)));
    }
    let (x, y) = (now.w / was.w.max(1.0), now.h / was.h.max(1.0));
    let (wide, high) = ((now.w - was.w * y).abs(), (now.h - was.h * x).abs());
    let same_aspect = wide.min(high) <= (ROUNDING_FRACTION * now.w.min(now.h)).max(ROUNDING_PIXELS);
    same_aspect.then(|| face.mapped(|point| Point::new(now.x + (point.x - was.x) * x, now.y + (point.y - was.y) * y)))
}
