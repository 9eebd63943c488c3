//! Drawing into formats whose planes are not drawn into directly: a part of the image is converted,
//! drawn into, and written back where drawing changed it. All other samples keep their bits.

use super::error::ImageError;
use super::format::{ImageInfo, PixelFormat, Region};
use super::layout::{ColorModel, Component};
use super::samples::{self, ByteScale};
use super::unpack::{chroma_row, palette};
use super::view::{ImageView, ImageViewMut};

/// The area is aligned to this number of pixels and lines, so that no chroma sample of any format,
/// also in fields, belongs to pixels inside and outside of it.
const ALIGNMENT: usize = 8;

/// Buffers for a part of an image.
#[derive(Debug, Default)]
pub(super) struct CanvasBuffers {
    /// Luma, Cb and Cr of each pixel; packed RGB; or luma.
    planes: [Vec<u8>; 3],
    /// The same before drawing.
    before: [Vec<u8>; 3],
    row: Vec<u8>,
}

/// A part of an image in [`CanvasBuffers`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    /// In the planes of the image.
    planes: Region,
    /// The part that can be drawn into, relative to the area.
    visible: Region,
}

/// The format of a canvas for images in `format`.
fn canvas_format(format: PixelFormat) -> PixelFormat {
    match format.layout().model {
        ColorModel::Yuv => PixelFormat::Y444,
        ColorModel::Rgb => PixelFormat::Rgb,
        ColorModel::Gray => PixelFormat::Gray8,
    }
}

/// `value >> shift`, rounded up.
fn shifted_up(value: usize, shift: u32) -> usize {
    value.div_ceil(1 << shift)
}

impl CanvasBuffers {
    /// Converts `region` of `image`, which must lie inside.
    pub(super) fn read(&mut self, image: &ImageView<'_>, region: Region) -> Area {
        let info = image.info();
        let layout = info.format.layout();
        let luma = image.plane(0).layout;
        let (x, y) = (image.origin().0 + region.x, image.origin().1 + region.y);
        let axis = |start: usize, len: usize, limit: usize| {
            let from = start - start % ALIGNMENT;
            (from, (start + len).next_multiple_of(ALIGNMENT).min(limit) - from)
        };
        let (left, width) = axis(x, region.width, luma.cols << layout.planes()[0].shift.0);
        let (top, height) = axis(y, region.height, luma.rows);
        let planes = Region { x: left, y: top, width, height };
        let visible = Region { x: x - left, y: y - top, ..region };

        self.row.resize(width, 0);
        let channels = canvas_format(info.format).channels(0);
        self.planes.iter_mut().for_each(|plane| plane.clear());
        let palette = layout.has_palette.then(|| palette(&image.plane(1)));
        let count = if layout.model == ColorModel::Gray { 1 } else { 3 };
        for (index, component) in layout.components.into_iter().enumerate().take(count) {
            let (shift_x, _) = if index > 0 { info.format.chroma_shift() } else { (0, 0) };
            let scale = ByteScale::new(info.format, index, info.coding);
            let source = image.plane(component.plane);
            let target = &mut self.planes[if channels == 1 { index } else { 0 }];
            target.resize(width * height * channels, 0);
            for (line, pixels) in target.chunks_exact_mut(width * channels).enumerate() {
                let row = if index > 0 { chroma_row(info, top + line, source.layout.rows) } else { top + line };
                let samples = &mut self.row[..shifted_up(width, shift_x)];
                samples::read(source.row(row), component, scale, left >> shift_x, samples);
                let place = if channels == 1 { 0 } else { index };
                for (col, pixel) in pixels.chunks_exact_mut(channels).enumerate() {
                    let sample = samples[col >> shift_x];
                    pixel[place] = palette.map_or(sample, |palette| palette[usize::from(sample)][index]);
                }
            }
        }
        self.before.clone_from(&self.planes);
        Area { planes, visible }
    }

    /// The pixels of `area`, to draw into.
    pub(super) fn view(&mut self, info: ImageInfo, area: Area) -> Result<ImageViewMut<'_>, ImageError> {
        let Area { planes: Region { width, height, .. }, visible } = area;
        let info = ImageInfo { format: canvas_format(info.format), width, height, interlaced: false, ..info };
        let count = info.format.planes();
        let strides = [width * info.format.channels(0); 3];
        let planes = self.planes.iter_mut().take(count).map(Vec::as_mut_slice).collect();
        ImageViewMut::cropped(info, planes, &strides[..count], visible)
    }

    /// Writes the samples that drawing changed back to `image`.
    pub(super) fn write(&self, image: &mut ImageViewMut<'_>, area: Area) {
        let info = image.info();
        let layout = info.format.layout();
        let Region { x: left, y: top, width, height } = area.planes;
        match layout.model {
            _ if layout.has_palette => self.write_palette(image, area),
            ColorModel::Rgb => {
                for (index, component) in layout.components.into_iter().enumerate() {
                    let scale = ByteScale::new(info.format, index, info.coding);
                    self.write_pixels(image, area, component, |before, after| {
                        (before[index] != after[index]).then_some((scale, after[index]))
                    });
                }
            }
            ColorModel::Gray | ColorModel::Yuv => {
                let scale = ByteScale::new(info.format, 0, info.coding);
                self.write_pixels(image, area, layout.components[0], |before, after| {
                    (before[0] != after[0]).then_some((scale, after[0]))
                });
            }
        }
        if layout.model == ColorModel::Yuv {
            for index in 1..3 {
                let (shift_x, shift_y) = info.format.chroma_shift();
                let rows = image.plane_mut(layout.components[index].plane).layout.rows;
                let last = (shifted_up(top + height, shift_y) + 1).min(rows);
                for row in top >> shift_y..last {
                    let lines = (0..1 << shift_y).map(|line| {
                        let line = if info.has_field_chroma() {
                            ((((row >> 1) << shift_y) + line) << 1) | (row & 1)
                        } else {
                            (row << shift_y) + line
                        };
                        line.wrapping_sub(top)
                    });
                    let lines = lines.filter(|line| *line < height);
                    for col in 0..shifted_up(width, shift_x) {
                        let cols = col << shift_x..((col + 1) << shift_x).min(width);
                        let positions = lines.clone().flat_map(|line| cols.clone().map(move |col| line * width + col));
                        self.write_chroma(image, index, row, (left >> shift_x) + col, positions);
                    }
                }
            }
        }
        if let Some(alpha) = layout.alpha {
            // What is drawn is opaque.
            let scale = ByteScale::of_alpha(alpha);
            self.write_pixels(image, area, alpha, |before, after| (before != after).then_some((scale, 255)));
        }
    }

    /// Writes the sample of `component` for each pixel for which `change` returns a value. Its
    /// arguments are the pixel before and after drawing: three values, or one for luma.
    fn write_pixels(
        &self,
        image: &mut ImageViewMut<'_>,
        area: Area,
        component: Component,
        change: impl Fn([u8; 3], [u8; 3]) -> Option<(ByteScale, u8)>,
    ) {
        let Region { x: left, y: top, .. } = area.planes;
        let packed = image.info().format.layout().model == ColorModel::Rgb;
        let has_chroma = image.info().format.is_yuv();
        let pixel = |planes: &[Vec<u8>; 3], at: usize| match (packed, has_chroma) {
            (true, _) => planes[0].as_chunks::<3>().0[at],
            (false, true) => [planes[0][at], planes[1][at], planes[2][at]],
            (false, false) => [planes[0][at]; 3],
        };
        let plane = image.plane_mut(component.plane);
        let stride = plane.layout.stride;
        for (y, x, at) in positions(area) {
            if let Some((scale, value)) = change(pixel(&self.before, at), pixel(&self.planes, at)) {
                let start = (top + y) * stride + component.offset + (left + x) * component.step;
                scale.write(value, &mut plane.data[start..]);
            }
        }
    }

    /// Writes a chroma sample if drawing changed a pixel to which it belongs. The pixels are those
    /// at `positions`.
    fn write_chroma(
        &self,
        image: &mut ImageViewMut<'_>,
        index: usize,
        row: usize,
        col: usize,
        positions: impl Iterator<Item = usize>,
    ) {
        let (mut sum, mut count, mut changed) = (0, 0, false);
        for at in positions {
            let after = self.planes[index][at];
            sum += u32::from(after);
            count += 1;
            changed |= after != self.before[index][at];
        }
        if changed {
            let info = image.info();
            let component = info.format.layout().components[index];
            let plane = image.plane_mut(component.plane);
            let start = row * plane.layout.stride + component.offset + col * component.step;
            let mean = ((sum + count / 2) / count) as u8;
            ByteScale::new(info.format, index, info.coding).write(mean, &mut plane.data[start..]);
        }
    }

    /// Writes the index of the nearest colour of the palette for each pixel that drawing changed.
    fn write_palette(&self, image: &mut ImageViewMut<'_>, area: Area) {
        let colors = palette(&image.as_view().plane(1));
        let distance =
            |a: [u8; 3], b: [u8; 3]| -> u32 { a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum() };
        let nearest = |color: [u8; 3]| (0..=255u8).min_by_key(|index| distance(color, colors[usize::from(*index)]));
        let plane = image.plane_mut(0);
        let stride = plane.layout.stride;
        for (y, x, at) in positions(area) {
            let [before, after] = [&self.before, &self.planes].map(|planes| planes[0].as_chunks::<3>().0[at]);
            if before != after {
                plane.data[(area.planes.y + y) * stride + area.planes.x + x] = nearest(after).unwrap_or_default();
            }
        }
    }
}

/// Line, column and index of each pixel of an area.
fn positions(area: Area) -> impl Iterator<Item = (usize, usize, usize)> {
    let Region { width, height, .. } = area.planes;
    (0..height).flat_map(move |y| (0..width).map(move |x| (y, x, y * width + x)))
}
