//! Images in any format for unit tests.

use super::format::{ImageInfo, PixelFormat};
use super::layout::ColorModel;
use super::samples::ByteScale;
use super::unpack::{UnpackBuffers, chroma_row};

/// An image with its planes, each with rows of padding of [`PADDING`].
pub(crate) struct TestImage {
    pub(crate) info: ImageInfo,
    pub(crate) planes: Vec<Vec<u8>>,
    pub(crate) strides: Vec<usize>,
}

/// The bytes of the padding.
pub(crate) const PADDING: u8 = 0xEE;

impl TestImage {
    /// An image of `pixels`, red, green and blue. A chroma sample is the mean of its pixels; formats
    /// without chroma get the luma of BT.601 in full range.
    pub(crate) fn new(info: ImageInfo, pixels: &[[u8; 3]], padding: usize) -> Self {
        let layout = info.format.layout();
        let values = pixels.iter().map(|rgb| match layout.model {
            ColorModel::Yuv => info.coding.yuv_from_rgb(*rgb),
            ColorModel::Rgb => *rgb,
            ColorModel::Gray => {
                let [r, g, b] = rgb.map(f32::from);
                [(0.299 * r + 0.587 * g + 0.114 * b).round() as u8; 3]
            }
        });
        let values = values.collect::<Vec<_>>();
        let (mut planes, mut strides) = (Vec::new(), Vec::new());
        for plane in 0..info.format.planes() {
            let (row, rows) = info.format.plane_bytes(plane, info.width, info.height);
            let mut bytes = vec![0x55; row];
            bytes.resize(row + padding, PADDING);
            planes.push(bytes.repeat(rows));
            strides.push(row + padding);
        }
        let mut image = Self { info, planes, strides };
        if layout.has_palette {
            image.fill_palette(&values);
            return image;
        }
        for (index, component) in layout.components.into_iter().enumerate() {
            let (shift_x, _) = if index > 0 { info.format.chroma_shift() } else { (0, 0) };
            let cols = info.width.div_ceil(1 << shift_x);
            let (_, rows) = info.format.plane_size(component.plane, info.width, info.height);
            // Sum and count of the pixels of each sample.
            let mut sums = vec![(0, 0); cols * rows];
            for (at, value) in values.iter().enumerate() {
                let (y, x) = (at / info.width, at % info.width);
                let row = if index > 0 { chroma_row(info, y, rows) } else { y };
                let (sum, count) = &mut sums[row * cols + (x >> shift_x)];
                *sum += u32::from(value[index]);
                *count += 1;
            }
            for (at, (sum, count)) in sums.into_iter().enumerate() {
                let start = at / cols * image.strides[component.plane] + component.offset + at % cols * component.step;
                let value = ((sum + count / 2).checked_div(count)).unwrap_or(128) as u8;
                let scale = ByteScale::new(info.format, index, info.coding);
                scale.write(value, &mut image.planes[component.plane][start..]);
            }
        }
        image
    }

    /// Stores the colours of an image of at most 256 colours, or the nearest of 6 x 6 x 6 colours.
    fn fill_palette(&mut self, values: &[[u8; 3]]) {
        let mut colors = values.to_vec();
        colors.sort_unstable();
        colors.dedup();
        let is_exact = colors.len() <= 256;
        let level = |value: u8| (u32::from(value) + 25) / 51;
        if !is_exact {
            colors = (0..216u32).map(|i| [i / 36, i / 6 % 6, i % 6].map(|level| (level * 51) as u8)).collect();
        }
        for (index, [red, green, blue]) in colors.iter().enumerate() {
            let start = index * self.strides[1];
            self.planes[1][start..start + 4].copy_from_slice(&[*blue, *green, *red, 255]);
        }
        for (at, color) in values.iter().enumerate() {
            let index = if is_exact {
                colors.binary_search(color).expect("the palette has all colours")
            } else {
                let [r, g, b] = color.map(level);
                (36 * r + 6 * g + b) as usize
            };
            self.planes[0][at / self.info.width * self.strides[0] + at % self.info.width] = index as u8;
        }
    }

    /// The planes as slices.
    pub(crate) fn slices(&self) -> Vec<&[u8]> {
        self.planes.iter().map(Vec::as_slice).collect()
    }

    /// A view of the whole image.
    pub(crate) fn view(&self) -> super::ImageView<'_> {
        super::ImageView::new(self.info, &self.slices(), &self.strides).expect("the planes fit the format")
    }

    /// A writable view of the whole image.
    pub(crate) fn view_mut(&mut self) -> super::ImageViewMut<'_> {
        let planes = self.planes.iter_mut().map(Vec::as_mut_slice).collect();
        super::ImageViewMut::new(self.info, planes, &self.strides).expect("the planes fit the format")
    }

    /// Red, green and blue of each pixel, row by row; chroma is not interpolated.
    pub(crate) fn pixels(&self) -> Vec<[f32; 3]> {
        let mut buffers = UnpackBuffers::default();
        let view = buffers.unpack(&self.view());
        let format = view.info().format;
        let shift = format.chroma_shift();
        let pixel = |x: usize, y: usize| {
            let plane = |index: usize, shift: (u32, u32)| view.plane(index).row(y >> shift.1);
            match format.rgb_offsets() {
                Some(offsets) => offsets.map(|offset| f32::from(plane(0, (0, 0))[x * format.channels(0) + offset])),
                None if format == PixelFormat::Gray8 => [f32::from(plane(0, (0, 0))[x]); 3],
                None => {
                    let layout = format.layout();
                    let [cb, cr] = [1, 2].map(|index| {
                        let component = layout.components[index];
                        plane(component.plane, shift)[(x >> shift.0) * component.step + component.offset]
                    });
                    self.info.coding.rgb_from_yuv().rgb(plane(0, (0, 0))[x], cb, cr)
                }
            }
        };
        let width = self.info.width;
        (0..width * self.info.height).map(|at| pixel(at % width, at / width)).collect()
    }

    /// Asserts that no byte of the padding was written.
    pub(crate) fn assert_padding(&self) {
        for (plane, (data, stride)) in self.planes.iter().zip(&self.strides).enumerate() {
            let (row, _) = self.info.format.plane_bytes(plane, self.info.width, self.info.height);
            let is_kept = data.chunks(*stride).all(|bytes| bytes[row..].iter().all(|byte| *byte == PADDING));
            assert!(is_kept, "{}: padding is unchanged", self.info.format);
        }
    }
}

/// The tolerance in levels for a colour that was stored in `format`: limited range, and few bits.
pub(crate) fn tolerance(format: PixelFormat) -> u8 {
    let depths = format.layout().components.map(|component| component.sample.depth);
    match depths.into_iter().min() {
        Some(5) => 5,
        _ if format.is_yuv() => 2,
        _ => 0,
    }
}
