//! Redaction of faces in images of all pixel formats: they are covered with a colour, a mosaic or a
//! blur.
//!
//! Samples are changed where they are stored, with the depth of the format. All pixels that a shape
//! touches are covered, with every chroma sample that they use. Where chroma is subsampled, the
//! hue of pixels next to the shape changes, too: in 4:2:0 of one pixel or line at each side, and in
//! an interlaced image of up to three lines, because the chroma rows of both fields are covered.
//! All other samples keep every bit. Alpha stays as it is, in planes and in pixels, and so do the
//! unused bytes of packed RGB; unused bits of a covered sample become 0. A mosaic or a blur mixes
//! the lines of both fields.
//!
//! Redaction fails closed. Coordinates that are not finite cover the whole image with the colour,
//! coordinates so large that `f32` rounds them cover all that they can mean, and the colour takes
//! the place of a mosaic or a blur in `RGB8P` and in areas of less than [`MIN_SMOOTHED_SIZE`]
//! pixels. There are no errors.

mod raster;
mod smooth;
#[cfg(test)]
mod tests;
mod words;

use super::draw::Rgb;
use super::format::ImageInfo;
use super::layout::{ColorModel, Component};
use super::samples::ByteScale;
use super::unpack::palette;
use super::view::ImageViewMut;
use super::yuv::{YuvCoding, YuvMatrix};
use crate::geometry::Point;
use raster::{RasterShape, SampleGrid, Span, all_pixels, push_polygon};
pub use raster::{RedactedArea, RedactionShape};
use smooth::{SmoothBuffers, Smoothing};
use words::{SampleWords, fill};

/// Maximum number of mosaic blocks along the longer side of an area.
pub const MAX_MOSAIC_BLOCKS: u32 = 8;

/// Minimum standard deviation of a blur, relative to the longer side of an area.
pub const MIN_BLUR_SIGMA: f32 = 0.5;

/// Areas whose longer side is below this number of pixels are covered with the colour: a mosaic or
/// a blur would leave little else than the pixels themselves.
pub const MIN_SMOOTHED_SIZE: u32 = 8;

/// How faces are redacted.
///
/// Only [`Self::Solid`] removes all of a face. A mosaic or a blur of many frames with a moving face
/// tells more than that of one frame, and networks can be trained to recognise known faces behind
/// either (McPherson et al., "Defeating Image Obfuscation with Deep Learning", 2016).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RedactionMethod {
    /// The colour of the style.
    #[default]
    Solid,
    /// A mosaic of square blocks. The colour of a block is the mean of its pixels within the image
    /// and the bounding box of the shape, in the components of the format.
    Pixelate {
        /// Number of blocks along the longer side of the area, 1 to [`MAX_MOSAIC_BLOCKS`]; other
        /// numbers are set to the nearest of these. The first block starts at the left and top edge
        /// of the area. Blocks have at least 4 x 4 pixels, so that small areas get fewer.
        blocks: u32,
    },
    /// A Gaussian blur of the bounding box of the shape, or of its part within the image, which is
    /// continued by its mirror image. Pixels outside have no effect. The result is that of a
    /// convolution at full size, rounded to the depth of the format.
    ///
    /// At the least deviation the mean colour of the area remains, together with a weak gradient:
    /// along each axis 29 % of the slowest cosine wave, and below 1 % of the next ones.
    Blur {
        /// Standard deviation relative to the longer side of the area, at least [`MIN_BLUR_SIGMA`];
        /// lower values, and NaN, are set to it.
        sigma: f32,
    },
}

/// The method of redaction and its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RedactionStyle {
    /// How faces are redacted.
    pub method: RedactionMethod,
    /// The colour of [`RedactionMethod::Solid`], and of what the other methods cannot redact. Black
    /// by default. Formats in luma only take its BT.601 luma, `RGB8P` the nearest colour of the
    /// palette.
    pub color: Rgb,
}

/// Buffers that are reused between calls, so that a steady stream does not allocate memory.
#[derive(Debug, Default)]
pub struct RedactionBuffers {
    smooth: SmoothBuffers,
    /// The pixels of an area, or of all polygons.
    spans: Vec<Span>,
    /// Where the edges of a polygon cross a line, and in which direction.
    crossings: Vec<(f64, i32)>,
}

/// Covers `areas` of `image`. Their coordinates are pixels of `image`; parts outside are clipped.
///
/// If a rectangle has coordinates that are not finite, the whole image is covered with the colour.
/// Areas are processed one after the other, so that a mosaic or blur of overlapping areas smooths
/// their intersection twice; areas that the colour covers are the last ones. With
/// [`RedactionMethod::Solid`] the order has no effect.
pub fn redact(
    image: &mut ImageViewMut<'_>,
    areas: &[RedactedArea],
    style: &RedactionStyle,
    buffers: &mut RedactionBuffers,
) {
    let RedactionBuffers { smooth, spans, .. } = buffers;
    let info = image.info();
    let coverages = || areas.iter().map(|area| RasterShape::new(area, info));
    if coverages().any(|coverage| coverage.is_none()) {
        redact_all(image, style.color);
        return;
    }
    for is_solid in [false, true] {
        for coverage in coverages().flatten() {
            let smoothing = style.smoothing(info, &coverage);
            if smoothing.is_none() != is_solid {
                continue;
            }
            spans.clear();
            spans.extend(coverage.spans());
            match smoothing {
                None => cover(image, spans.iter().copied(), style.color),
                Some(smoothing) => {
                    let components = if info.format.layout().model == ColorModel::Gray { 0..1 } else { 0..3 };
                    components.for_each(|index| smooth.smooth(image, &coverage, spans, index, smoothing));
                }
            }
        }
    }
}

/// Covers the whole of `image` with `color`.
///
/// The view of a part of a frame is an image: pixels of the frame outside of it stay.
pub fn redact_all(image: &mut ImageViewMut<'_>, color: Rgb) {
    cover(image, all_pixels(image.info()), color);
}

/// Covers the polygons with `color`. Each one is closed by an edge from its last to its first
/// point; coordinates are pixels of `image`, and parts outside are clipped. All pixels that a
/// polygon touches are covered. If the edges of a polygon intersect each other, all that they wind
/// around belongs to it (the nonzero rule).
///
/// If a coordinate is not finite, the whole image is covered. A polygon with coordinates beyond
/// 2^20 is replaced by its bounding box. One or two points cover the pixels on them and between
/// them; a polygon without points covers nothing.
pub fn redact_polygons(
    image: &mut ImageViewMut<'_>,
    polygons: &[Vec<Point>],
    color: Rgb,
    buffers: &mut RedactionBuffers,
) {
    let RedactionBuffers { spans, crossings, .. } = buffers;
    let info = image.info();
    spans.clear();
    if polygons.iter().all(|polygon| push_polygon(polygon, info, crossings, spans)) {
        cover(image, spans.iter().copied(), color);
    } else {
        redact_all(image, color);
    }
}

impl RedactionStyle {
    /// How an area is smoothed; `None` if the colour covers it.
    fn smoothing(&self, info: ImageInfo, coverage: &RasterShape) -> Option<Smoothing> {
        if info.format.layout().has_palette || coverage.size() < f64::from(MIN_SMOOTHED_SIZE) {
            return None;
        }
        match self.method {
            RedactionMethod::Solid => None,
            RedactionMethod::Pixelate { blocks } => Some(Smoothing::Mosaic(blocks.clamp(1, MAX_MOSAIC_BLOCKS))),
            // `max` ignores NaN. The limit excludes infinity, and only the mean remains long before.
            RedactionMethod::Blur { sigma } => Some(Smoothing::Blur(f64::from(sigma.max(MIN_BLUR_SIGMA)).min(1e6))),
        }
    }
}

/// The values of one or more components in the words of a row.
struct Brush {
    /// The component that determines plane and subsampling.
    index: usize,
    component: Component,
    mask: u64,
    word: u64,
}

/// Covers pixels with a colour.
fn cover(image: &mut ImageViewMut<'_>, spans: impl Iterator<Item = Span> + Clone, color: Rgb) {
    for Brush { index, component: Component { plane, step, .. }, mask, word } in brushes(image, color).iter().flatten()
    {
        let grid = SampleGrid::new(image, *index);
        let plane = image.plane_mut(*plane);
        let stride = plane.layout.stride;
        grid.samples(spans.clone(), |Span { line, start, end }| {
            fill(&mut plane.data[line * stride + start * step..line * stride + end * step], *step, *mask, *word);
        });
    }
}

/// The brushes for a colour: one for the components that have the same words, such as Cb and Cr of
/// NV12.
fn brushes(image: &ImageViewMut<'_>, color: Rgb) -> [Option<Brush>; 3] {
    let info = image.info();
    let layout = info.format.layout();
    let values = match layout.model {
        ColorModel::Gray => {
            let coding = YuvCoding { matrix: YuvMatrix::Bt601, full_range: true };
            [coding.yuv_from_rgb(color)[0]; 3]
        }
        ColorModel::Rgb if layout.has_palette => [nearest(&palette(&image.as_view().plane(1)), color); 3],
        ColorModel::Rgb => color,
        ColorModel::Yuv => info.coding.yuv_from_rgb(color),
    };
    let mut brushes = [const { None::<Brush> }; 3];
    for (index, (component, value)) in layout.components.into_iter().zip(values).enumerate() {
        let words = SampleWords::new(info.format, index);
        let word = words.word(ByteScale::new(info.format, index, info.coding).sample(value));
        let has_words =
            |brush: &&mut Brush| (brush.component.plane, brush.component.step) == (component.plane, component.step);
        match brushes.iter_mut().flatten().find(has_words) {
            Some(brush) => (brush.mask, brush.word) = (brush.mask | words.mask, brush.word | word),
            None => brushes[index] = Some(Brush { index, component, mask: words.mask, word }),
        }
    }
    brushes
}

/// The index of the colour of a palette that is nearest to `color`.
fn nearest(palette: &[Rgb; 256], color: Rgb) -> u8 {
    let distance = |other: Rgb| other.iter().zip(color).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum::<u32>();
    (0..=u8::MAX).min_by_key(|index| distance(palette[usize::from(*index)])).unwrap_or_default()
}
