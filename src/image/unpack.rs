//! Conversion of images to formats that are processed directly.
//!
//! The size and the chroma subsampling stay the same; only the layout changes, and deeper samples
//! are rounded to 8 bits. Chroma of interlaced images gets a row for each line, so that the lines
//! of both fields have their own chroma.

use std::sync::Mutex;

use super::format::{ImageInfo, PixelFormat};
use super::layout::{ColorModel, YUV410, YUV411, YUV420, YUV422};
use super::samples::{self, ByteScale};
use super::simd;
use super::view::{ImageView, Plane};
use crate::sync::lock;

/// Buffers for the planes of a converted image. They are reused between calls, so that a steady
/// stream does not allocate memory.
#[derive(Debug, Default)]
pub struct UnpackBuffers {
    planes: [Vec<u8>; 3],
    row: Vec<u8>,
}

/// The direct format to which an image is converted, with its chroma subsampling.
fn direct_format(info: ImageInfo) -> PixelFormat {
    match info.format.layout().model {
        ColorModel::Gray => PixelFormat::Gray8,
        ColorModel::Rgb => PixelFormat::Rgb,
        ColorModel::Yuv => {
            let (shift_x, shift_y) = info.format.chroma_shift();
            match (shift_x, if info.interlaced { 0 } else { shift_y }) {
                YUV420 => PixelFormat::I420,
                YUV422 => PixelFormat::Y42b,
                YUV411 => PixelFormat::Y41b,
                YUV410 => PixelFormat::Yuv9,
                _ => PixelFormat::Y444,
            }
        }
    }
}

/// The chroma row for line `line` in a plane of `rows` rows.
pub(super) fn chroma_row(info: ImageInfo, line: usize, rows: usize) -> usize {
    let (_, shift) = info.format.chroma_shift();
    if !info.has_field_chroma() {
        return line >> shift;
    }
    // Lines and rows of the top field are even, those of the bottom field odd.
    let row = ((line >> 1 >> shift) << 1) | (line & 1);
    // A height that does not fit leaves the last lines of a field without a row of their own.
    if row < rows { row } else { row.saturating_sub(2).min(rows - 1) }
}

impl UnpackBuffers {
    /// `view` itself if its format is direct, otherwise its pixels in a direct format. Samples of
    /// more than 8 bits are rounded to the nearest value.
    pub fn unpack<'a>(&'a mut self, view: &ImageView<'a>) -> ImageView<'a> {
        let info = view.info();
        if info.is_direct() {
            return *view;
        }
        let target = ImageInfo { format: direct_format(info), interlaced: false, ..info };
        let count = target.format.planes();
        let mut strides = [0; 3];
        for (plane, (buffer, stride)) in self.planes.iter_mut().zip(&mut strides).enumerate().take(count) {
            let (row, rows) = target.format.plane_bytes(plane, info.width, info.height);
            buffer.resize(row * rows, 0);
            *stride = row;
        }
        self.row.resize(info.width, 0);
        let Self { planes, row } = self;
        simd::widest(
            #[inline(always)]
            || match target.format {
                PixelFormat::Rgb if info.format.layout().has_palette => unpack_palette(view, &mut planes[0]),
                PixelFormat::Rgb => unpack_rgb(view, &mut planes[0], row),
                _ => {
                    for (index, buffer) in planes.iter_mut().enumerate().take(count) {
                        unpack_plane(view, target, index, buffer);
                    }
                }
            },
        );
        let [first, second, third] = planes;
        let image = ImageView::new(target, &[&first[..], second, third][..count], &strides[..count]);
        image.expect("the buffers have the size of the image")
    }
}

/// Buffers for callers on several threads.
#[derive(Debug, Default)]
pub(crate) struct UnpackPool {
    free: Mutex<Vec<UnpackBuffers>>,
}

impl UnpackPool {
    /// Calls `work` with `view` in a direct format.
    pub(crate) fn direct<T>(&self, view: &ImageView<'_>, work: impl FnOnce(&ImageView<'_>) -> T) -> T {
        if view.is_direct() {
            return work(view);
        }
        let mut buffers = lock(&self.free).pop().unwrap_or_default();
        let result = work(&buffers.unpack(view));
        lock(&self.free).push(buffers);
        result
    }
}

/// Converts luma or a chroma component to a plane of its own.
#[inline(always)]
fn unpack_plane(view: &ImageView<'_>, target: ImageInfo, index: usize, buffer: &mut [u8]) {
    let info = view.info();
    let component = info.format.layout().components[index];
    let plane = view.plane(component.plane);
    let scale = ByteScale::new(info.format, index, info.coding);
    let (x, y) = view.origin();
    let (cols, _) = target.format.plane_size(index, info.width, info.height);
    let (shift_x, shift_y) = if index > 0 { info.format.chroma_shift() } else { (0, 0) };
    for (row, values) in buffer.chunks_exact_mut(cols).enumerate() {
        let source = if index > 0 && info.has_field_chroma() {
            chroma_row(info, y + row, plane.layout.rows)
        } else {
            (y >> shift_y) + row
        };
        samples::read(plane.row(source), component, scale, x >> shift_x, values);
    }
}

/// Converts red, green and blue to packed pixels. `row` has the length of a component's row.
#[inline(always)]
fn unpack_rgb(view: &ImageView<'_>, pixels: &mut [u8], row: &mut [u8]) {
    let info = view.info();
    let (x, y) = view.origin();
    for (index, component) in info.format.layout().components.into_iter().enumerate() {
        let plane = view.plane(component.plane);
        let scale = ByteScale::new(info.format, index, info.coding);
        for (line, pixels) in pixels.chunks_exact_mut(3 * info.width).enumerate() {
            samples::read(plane.row(y + line), component, scale, x, row);
            for (pixel, value) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(&*row) {
                pixel[index] = *value;
            }
        }
    }
}

/// Replaces each index by its entry of the palette.
#[inline(always)]
fn unpack_palette(view: &ImageView<'_>, pixels: &mut [u8]) {
    let (x, y) = view.origin();
    let palette = palette(&view.plane(1));
    for (line, pixels) in pixels.chunks_exact_mut(3 * view.width()).enumerate() {
        for (pixel, index) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(&view.plane(0).row(y + line)[x..]) {
            *pixel = palette[usize::from(*index)];
        }
    }
}

/// Red, green and blue of the 256 entries of a palette.
pub(super) fn palette(plane: &Plane<'_>) -> [[u8; 3]; 256] {
    std::array::from_fn(|index| {
        let entry = plane.row(index);
        [entry[2], entry[1], entry[0]]
    })
}

#[cfg(test)]
mod tests {
    use super::super::format::Region;
    use super::super::testing::{TestImage, tolerance};
    use super::super::yuv::YuvCoding;
    use super::*;
    use proptest::prelude::*;

    fn converted() -> impl Iterator<Item = PixelFormat> {
        PixelFormat::ALL.into_iter().filter(|format| !format.is_direct())
    }

    #[test]
    fn every_format_keeps_the_colours_in_both_ranges() {
        let colors: [[u8; 3]; 6] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255; 3], [0; 3], [12, 200, 77]];
        // Stripes as wide as the most subsampled chroma.
        let pixels = (0..48 * 16).map(|at| colors[at % 48 / 8]).collect::<Vec<_>>();
        for (format, full_range) in PixelFormat::ALL.into_iter().flat_map(|format| [(format, false), (format, true)]) {
            let coding = YuvCoding { full_range, ..YuvCoding::default() };
            let image = TestImage::new(ImageInfo { coding, ..ImageInfo::new(format, 48, 16) }, &pixels, 7);
            for (at, found) in image.pixels().into_iter().enumerate() {
                let (x, y) = (at % 48, at / 48);
                let [r, g, b] = colors[x / 8].map(f32::from);
                let luma = 0.299 * r + 0.587 * g + 0.114 * b;
                let is_gray = format.layout().model == ColorModel::Gray;
                let expected = if is_gray { [luma; 3] } else { [r, g, b] };
                for (found, expected) in found.into_iter().zip(expected) {
                    let tolerance = f32::from(tolerance(format)).max(0.51);
                    assert!((found - expected).abs() <= tolerance, "{format} {full_range} {x},{y}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn deep_samples_become_the_nearest_8_bit_value() {
        for (format, depth) in [
            (PixelFormat::I420Le10, 10),
            (PixelFormat::I420Le12, 12),
            (PixelFormat::Y444Le16, 16),
            (PixelFormat::GbrLe10, 10),
            (PixelFormat::Gray16Le, 16),
        ] {
            let max = (1u32 << depth) - 1;
            for full_range in [false, true] {
                let info = ImageInfo {
                    coding: YuvCoding { full_range, ..YuvCoding::default() },
                    ..ImageInfo::new(format, max as usize + 1, 1)
                };
                let mut image = TestImage::new(info, &vec![[0; 3]; info.width], 0);
                for plane in &mut image.planes {
                    for (sample, bytes) in plane.chunks_exact_mut(2).enumerate() {
                        bytes.copy_from_slice(&(sample as u16).to_le_bytes());
                    }
                }
                let mut buffers = UnpackBuffers::default();
                let view = buffers.unpack(&image.view());
                let channels = view.info().format.channels(0);
                let values = view.plane(0).row(0).chunks(channels).map(|pixel| f64::from(pixel[0])).collect::<Vec<_>>();
                assert_eq!(values.len(), max as usize + 1);
                let is_limited = format.is_yuv() && !full_range;
                let unit = if is_limited { f64::from(1 << (depth - 8)) } else { f64::from(max) / 255.0 };
                for (sample, value) in values.into_iter().enumerate() {
                    let exact = (sample as f64 / unit).min(255.0);
                    assert!(
                        (value - exact).abs() <= 0.5 + 1e-4,
                        "{format} {full_range}: {sample} is {value}, not {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn chroma_of_interlaced_frames_belongs_to_its_field() {
        // One field is red, the other one blue, as if the scene had changed between them.
        let field_colors = [[255, 0, 0], [0, 0, 255]];
        for height in [16, 22, 23] {
            let pixels = (0..16 * height).map(|at| field_colors[at / 16 % 2]).collect::<Vec<_>>();
            for format in PixelFormat::ALL.into_iter().filter(|format| format.chroma_shift().1 > 0) {
                let info = ImageInfo { interlaced: true, ..ImageInfo::new(format, 16, height) };
                let image = TestImage::new(info, &pixels, 3);
                let found = image.pixels();
                for y in 0..height {
                    let expected = field_colors[y % 2].map(f32::from);
                    let found = found[16 * y + 5];
                    let is_equal = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= 3.0);
                    assert!(is_equal, "{format} {height}: line {y} is {found:?}, not {expected:?}");
                }
                // The same rows as a progressive image give both lines the mean of the colours.
                let mixed = TestImage::new(ImageInfo { interlaced: false, ..info }, &pixels, 3);
                assert!(mixed.pixels()[16 * 4 + 5][0] < 200.0, "{format}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_part_has_the_samples_of_the_whole(
            format in proptest::sample::select(converted().collect::<Vec<_>>()),
            interlaced: bool,
            width in 1usize..50, height in 1usize..50,
            crop in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
        ) {
            let info = ImageInfo { interlaced, ..ImageInfo::new(format, width, height) };
            let mut image = TestImage::new(info, &vec![[0; 3]; width * height], 5);
            for (index, byte) in image.planes.iter_mut().flatten().enumerate() {
                *byte = (index * 7 % 253) as u8;
            }
            let part = |start: f64, len: f64, total: usize| {
                let start = (start * total as f64) as usize;
                (start, 1 + (len * (total - start - 1) as f64) as usize)
            };
            let ((x, w), (y, h)) = (part(crop.0, crop.2, width), part(crop.1, crop.3, height));
            let region = Region { x, y, width: w, height: h };
            let (mut whole, mut cut) = (UnpackBuffers::default(), UnpackBuffers::default());
            let whole = whole.unpack(&image.view());
            let cut = cut.unpack(&image.view().crop(region).unwrap());
            // The constructor crops as well.
            let view = ImageView::cropped(info, &image.slices(), &image.strides, region).unwrap();
            let mut buffers = UnpackBuffers::default();
            prop_assert_eq!(buffers.unpack(&view).plane(0).row(0), cut.plane(0).row(0));
            prop_assert_eq!((cut.width(), cut.height()), (w, h));
            // The rows of a subsampled chroma plane start at the sample to which the first pixel
            // belongs, as in direct formats.
            let expected = whole.crop(region).unwrap();
            for plane in 0..whole.info().format.planes() {
                let (found, expected) = (cut.plane(plane), expected.plane(plane));
                prop_assert_eq!(found.layout.rows, expected.layout.rows);
                for row in 0..found.layout.rows {
                    prop_assert_eq!(found.row(row), expected.row(row), "{} plane {} row {}", format, plane, row);
                }
            }
        }
    }
}
