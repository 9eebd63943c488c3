//! From shapes to the pixels that they touch, and from pixels to samples of a component.

use std::ops::Range;

use super::super::format::ImageInfo;
use super::super::unpack::chroma_row;
use super::super::view::ImageViewMut;
use crate::geometry::{Point, Rect};

/// Positions up to this number of pixels from the origin are processed as they are: `f32` is exact
/// to an eighth of a pixel there. Shapes that reach further become boxes, enlarged by the rounding
/// error of `f32`.
const MAX_POSITION: f64 = (1 << 20) as f64;

/// The shape of a [`RedactedArea`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedactionShape {
    /// The ellipse inscribed in the rectangle. A face fills about the ellipse that is inscribed in
    /// its bounding box, and growing the box by a factor grows this ellipse by the same factor. The
    /// corners of the original box, which show background, are covered from a factor of sqrt(2) on:
    /// at 1.3 the ellipse covers the middle 83 % of each side of the box.
    #[default]
    Ellipse,
    /// The rectangle.
    Box,
}

/// A part of an image that is redacted.
///
/// All pixels that the shape touches are covered, at least one for a shape without area inside of
/// the image. A negative size extends to the left or upwards.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RedactedArea {
    /// The bounding box of a face with the margin of the caller, for example [`Rect::grown`] by
    /// 1.3. It can extend beyond the image.
    pub rect: Rect,
    /// The shape within the rectangle.
    pub shape: RedactionShape,
}

/// Pixels or samples `start..end` of a line or row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) line: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A shape in an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct RasterShape {
    /// Start and end, in pixels.
    x: (f64, f64),
    y: (f64, f64),
    is_ellipse: bool,
    /// Size of the image.
    width: usize,
    height: usize,
}

/// The pixels that `from..to` touches, at least one, clipped to `limit` pixels.
fn touched((from, to): (f64, f64), limit: usize) -> Range<usize> {
    // `as` saturates. Without SSE4.1, `floor` and `ceil` are calls that take longer than all of this.
    let (truncated_from, truncated_to) = (from as i64, to as i64);
    let floor = truncated_from.saturating_sub(i64::from(truncated_from as f64 > from));
    let ceil = truncated_to.saturating_add(i64::from((truncated_to as f64) < to));
    let pixel = |at: i64| usize::try_from(at).unwrap_or(0).min(limit);
    pixel(floor)..pixel(ceil.max(floor.saturating_add(1)))
}

/// Enlarges `from..to` by the rounding error of its `f32` coordinates where that is above an
/// eighth of a pixel. Returns whether it did.
fn with_rounding_error((from, to): (f64, f64)) -> ((f64, f64), bool) {
    let largest = from.abs().max(to.abs());
    let error = if largest > MAX_POSITION { 2.0 * largest * f64::from(f32::EPSILON) } else { 0.0 };
    ((from - error, to + error), error > 0.0)
}

impl RasterShape {
    /// The coverage of `area`; `None` if its rectangle has coordinates that are not finite.
    pub(super) fn new(area: &RedactedArea, info: ImageInfo) -> Option<Self> {
        let Rect { x, y, w, h } = area.rect;
        // The sum of two `f32` can exceed the range of `f32`, but not that of `f64`.
        let axis = |start: f32, len: f32| {
            let (start, end) = (f64::from(start), f64::from(start) + f64::from(len));
            with_rounding_error((start.min(end), start.max(end)))
        };
        let ((x, is_wide), (y, is_high)) = (axis(x, w), axis(y, h));
        let is_ellipse = area.shape == RedactionShape::Ellipse && x.1 > x.0 && y.1 > y.0 && !is_wide && !is_high;
        area.rect.is_finite().then_some(Self { x, y, is_ellipse, width: info.width, height: info.height })
    }

    /// The bounding box of at least one point; `None` if a point is not finite.
    fn around(points: &[Point], info: ImageInfo) -> Option<Self> {
        let axis = |values: &mut dyn Iterator<Item = f32>| {
            let (from, to) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), value| {
                (from.min(f64::from(value)), to.max(f64::from(value)))
            });
            with_rounding_error((from, to)).0
        };
        let (x, y) = (axis(&mut points.iter().map(|point| point.x)), axis(&mut points.iter().map(|point| point.y)));
        let is_finite = points.iter().all(|point| point.is_finite());
        is_finite.then_some(Self { x, y, is_ellipse: false, width: info.width, height: info.height })
    }

    /// The left and top edges, in pixels.
    pub(super) fn corner(&self) -> (f64, f64) {
        (self.x.0, self.y.0)
    }

    /// The longer side, in pixels.
    pub(super) fn size(&self) -> f64 {
        (self.x.1 - self.x.0).max(self.y.1 - self.y.0)
    }

    /// The pixels that the shape touches: one span for each line.
    pub(super) fn spans(&self) -> impl Iterator<Item = Span> + use<'_> {
        touched(self.y, self.height).filter_map(|line| {
            let Range { start, end } = touched(self.range(line), self.width);
            (start < end).then_some(Span { line, start, end })
        })
    }

    /// What the shape covers of the strip `line..line + 1`.
    fn range(&self, line: usize) -> (f64, f64) {
        if !self.is_ellipse {
            return self.x;
        }
        let half = |(from, to): (f64, f64)| (f64::midpoint(from, to), (to - from) / 2.0);
        let ((x, radius_x), (y, radius_y)) = (half(self.x), half(self.y));
        // The ellipse is widest where the strip is nearest to the centre.
        let nearest = y.clamp(line as f64, line as f64 + 1.0);
        let across = radius_x * (1.0 - ((nearest - y) / radius_y).powi(2)).max(0.0).sqrt();
        (x - across, x + across)
    }
}

/// All pixels of an image.
pub(super) fn all_pixels(info: ImageInfo) -> impl Iterator<Item = Span> + Clone {
    (0..info.height).map(move |line| Span { line, start: 0, end: info.width })
}

/// Appends the pixels that a polygon touches to `spans`, which can overlap. Polygons that
/// intersect themselves cover what they wind around (the nonzero rule). Returns false, and appends
/// nothing, if a point is not finite.
pub(super) fn push_polygon(
    points: &[Point],
    info: ImageInfo,
    crossings: &mut Vec<(f64, i32)>,
    spans: &mut Vec<Span>,
) -> bool {
    if points.is_empty() {
        return true;
    }
    let Some(bounds) = RasterShape::around(points, info) else { return false };
    if [bounds.x, bounds.y].into_iter().any(|(from, to)| from < -MAX_POSITION || to > MAX_POSITION) {
        spans.extend(bounds.spans());
        return true;
    }
    let position = |point: &Point| (f64::from(point.x), f64::from(point.y));
    let edges = || points.iter().zip(points.iter().cycle().skip(1)).map(|(from, to)| (position(from), position(to)));
    let mut push = |line, range: (f64, f64)| {
        let Range { start, end } = touched(range, info.width);
        if start < end {
            spans.push(Span { line, start, end });
        }
    };
    for line in touched(bounds.y, info.height) {
        let (top, bottom) = (line as f64, line as f64 + 1.0);
        crossings.clear();
        for ((x0, y0), (x1, y1)) in edges() {
            let at = |y: f64| (x0 + (y - y0) / (y1 - y0) * (x1 - x0)).clamp(x0.min(x1), x0.max(x1));
            // The pixels that the edge touches. The others of the line are inside if their centre
            // is.
            let (upper, lower) = (y0.min(y1).max(top), y0.max(y1).min(bottom));
            if upper <= lower {
                let ends = if y0 == y1 { (x0, x1) } else { (at(upper), at(lower)) };
                push(line, (ends.0.min(ends.1), ends.0.max(ends.1)));
            }
            let centre = f64::midpoint(top, bottom);
            if (y0 <= centre) != (y1 <= centre) {
                crossings.push((at(centre), if y0 < y1 { 1 } else { -1 }));
            }
        }
        crossings.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        let mut winding = 0;
        for pair in crossings.windows(2) {
            winding += pair[0].1;
            if winding != 0 {
                push(line, (pair[0].0, pair[1].0));
            }
        }
    }
    true
}

/// How the samples of a component belong to the pixels of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleGrid {
    info: ImageInfo,
    is_chroma: bool,
    /// Binary logarithm of the pixels and lines per sample.
    shift: (u32, u32),
    /// Column and line of the first pixel, counted from the start of the plane.
    origin: (usize, usize),
    /// Rows of the plane.
    rows: usize,
}

impl SampleGrid {
    /// The grid of component `index` of the image.
    pub(super) fn new(image: &mut ImageViewMut<'_>, index: usize) -> Self {
        let info = image.info();
        let is_chroma = index > 0 && info.format.is_yuv();
        let shift = if is_chroma { info.format.chroma_shift() } else { (0, 0) };
        let rows = image.plane_mut(info.format.layout().components[index].plane).layout.rows;
        Self { info, is_chroma, shift, origin: image.sample_origin(is_chroma), rows }
    }

    /// Binary logarithm of the pixels and lines per sample.
    pub(super) fn shift(&self) -> (u32, u32) {
        self.shift
    }

    /// The centre of a sample, in pixels of the image. That of a chroma row of a field is the
    /// centre of the row in a progressive image, which is half a line to a line away.
    pub(super) fn centre(&self, col: usize, row: usize) -> (f64, f64) {
        let axis = |at: usize, shift: u32, origin: usize| (at as f64 + 0.5) * f64::from(1 << shift) - origin as f64;
        (axis(col, self.shift.0, self.origin.0), axis(row, self.shift.1, self.origin.1))
    }

    /// Calls `work` with the samples of the plane that the pixels in `spans` use; with some of
    /// them several times.
    ///
    /// In an interlaced image a line uses the chroma rows of both fields: a row of one field would
    /// otherwise show the chroma of what is covered in the other one, and also to readers that
    /// take the frame for a progressive one.
    pub(super) fn samples(&self, spans: impl Iterator<Item = Span>, mut work: impl FnMut(Span)) {
        let mut pending = None::<Span>;
        for Span { line, start, end } in spans {
            let start = (start + self.origin.0) >> self.shift.0;
            let end = (end + self.origin.0).div_ceil(1 << self.shift.0);
            let line = line + self.origin.1;
            if self.is_chroma && self.info.has_field_chroma() {
                for line in [line, line ^ 1] {
                    work(Span { line: chroma_row(self.info, line, self.rows), start, end });
                }
                continue;
            }
            let line = line >> self.shift.1;
            match &mut pending {
                // The lines of a chroma row are combined, so that it is written once.
                Some(last) if last.line == line && start <= last.end && last.start <= end => {
                    (last.start, last.end) = (last.start.min(start), last.end.max(end));
                }
                _ => {
                    if let Some(last) = pending.replace(Span { line, start, end }) {
                        work(last);
                    }
                }
            }
        }
        pending.into_iter().for_each(work);
    }
}
