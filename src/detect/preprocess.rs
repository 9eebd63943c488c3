//! Preprocessing: from the pixels of a frame to the input tensor of the model.
//!
//! The planes are resized in the pixel format of the frame. Only the resized image is then
//! converted to planar floats.

use crate::geometry::Letterbox;
use crate::image::{ImageError, ImageView, Plane, RgbFromYuv, mat, simd};
use crate::model::{ChannelOrder, Normalization, Padding};

/// Buffers that are reused between calls, so that a steady stream does not allocate memory.
#[derive(Debug, Default)]
pub struct PreprocessBuffers {
    planes: [Vec<u8>; 3],
    chroma_rows: [Vec<u8>; 2],
}

/// Fills `input`, a tensor of shape `[3, height, width]` with the input size of the letterbox.
///
/// The planes are resized with bilinear interpolation, chroma planes to the size of the resized luma
/// plane divided by their subsampling. In 4:2:0 formats each chroma sample then applies to 2 x 2
/// pixels.
///
/// # Errors
/// If OpenCV fails, for example because memory is exhausted.
///
/// # Panics
/// If the length of `input` or the size of `view` does not match the letterbox, or the format of
/// `view` is not direct; [`UnpackBuffers::unpack`](crate::image::UnpackBuffers::unpack) converts it.
pub fn fill_input(
    view: &ImageView<'_>,
    letterbox: &Letterbox,
    normalization: &Normalization,
    input: &mut [f32],
    scratch: &mut PreprocessBuffers,
) -> Result<(), ImageError> {
    let (width, height) = letterbox.input();
    assert_eq!(input.len(), 3 * width * height, "the tensor is [3, {height}, {width}]");
    assert_eq!((view.width(), view.height()), letterbox.frame(), "the letterbox has the size of the frame");
    assert!(view.is_direct(), "{} was converted to a direct format", view.info().format);
    let (cols, rows) = letterbox.content();
    let native = letterbox.content() == letterbox.frame();

    let PreprocessBuffers { planes: buffers, chroma_rows } = scratch;
    let mut planes = [None; 3];
    for (index, (slot, buffer)) in planes.iter_mut().zip(buffers).enumerate().take(view.info().format.planes()) {
        let source = view.plane(index);
        *slot = Some(if native {
            source
        } else {
            let (cols, rows) = view.info().format.plane_size(index, cols, rows);
            let mut resized = mat::scratch(buffer, cols, rows, source.layout.channels);
            mat::resize(&source, &mut resized)?;
            Plane { layout: resized.layout, data: resized.data }
        });
    }
    let rgb_planes = planar(input, normalization.order);
    let affine = affine(normalization);
    let padding = affine.map(|(_, black)| match normalization.padding {
        Padding::Mean => 0.0,
        Padding::Black => black,
    });
    let output = Output { rgb_planes, cols, rows, width, affine, padding };
    let luma = planes[0].expect("every format has a first plane");
    simd::widest(
        #[inline(always)]
        || match (view.info().format.rgb_offsets(), planes[1]) {
            (Some(offsets), _) => output.write_packed(luma, offsets),
            (None, None) => output.write_packed(luma, [0, 0, 0]),
            (None, Some(first)) => {
                let format = view.info().format;
                let (shift, swapped) = (format.chroma_shift(), format.is_cr_first());
                let chroma = Chroma { first, second: planes[2], shift, swapped };
                output.write_yuv(luma, chroma, view.info().coding.rgb_from_yuv(), chroma_rows);
            }
        },
    );
    Ok(())
}

/// Mirrors a row of pixels of `channels` bytes each.
pub(crate) fn mirror(row: &mut [u8], channels: usize) {
    row.reverse();
    row.chunks_exact_mut(channels).for_each(<[u8]>::reverse);
}

/// Scale and offset of `value * scale + offset` for red, green and blue.
fn affine(normalization: &Normalization) -> [(f32, f32); 3] {
    let [first, second, third] = normalization.mean.map(|mean| (normalization.scale, -mean * normalization.scale));
    match normalization.order {
        ChannelOrder::Rgb => [first, second, third],
        ChannelOrder::Bgr => [third, second, first],
    }
}

/// The planes of the tensor for red, green and blue.
fn planar(input: &mut [f32], order: ChannelOrder) -> [&mut [f32]; 3] {
    let plane = input.len() / 3;
    let (first, rest) = input.split_at_mut(plane);
    let (second, third) = rest.split_at_mut(plane);
    match order {
        ChannelOrder::Rgb => [first, second, third],
        ChannelOrder::Bgr => [third, second, first],
    }
}

/// The chroma planes.
struct Chroma<'a> {
    /// Interleaved Cb and Cr, or Cb only.
    first: Plane<'a>,
    /// Cr, if it has a separate plane.
    second: Option<Plane<'a>>,
    /// Binary logarithm of the subsampling.
    shift: (u32, u32),
    /// Cr is before Cb.
    swapped: bool,
}

impl Chroma<'_> {
    /// Expands chroma row `row` to one Cb and one Cr value per pixel.
    #[inline(always)]
    fn expand(&self, row: usize, cb: &mut [u8], cr: &mut [u8]) {
        let (first, second) = if self.swapped { (cr, cb) } else { (cb, cr) };
        let (shift, _) = self.shift;
        if let Some(plane) = self.second {
            repeat(self.first.row(row), shift, first, |sample| *sample);
            repeat(plane.row(row), shift, second, |sample| *sample);
        } else {
            let pairs = self.first.row(row).as_chunks::<2>().0;
            repeat(pairs, shift, first, |pair| pair[0]);
            repeat(pairs, shift, second, |pair| pair[1]);
        }
    }
}

/// Writes each sample `1 << shift` times, the last one less often if the row ends before.
#[inline(always)]
fn repeat<S>(samples: &[S], shift: u32, row: &mut [u8], value: impl Fn(&S) -> u8) {
    match shift {
        0 => row.iter_mut().zip(samples).for_each(|(to, sample)| *to = value(sample)),
        1 => duplicate(samples, row, value),
        _ => row.chunks_mut(1 << shift).zip(samples).for_each(|(to, sample)| to.fill(value(sample))),
    }
}

/// Writes each sample twice; the last sample once if the length of the row is odd.
#[inline(always)]
fn duplicate<S>(samples: &[S], row: &mut [u8], value: impl Fn(&S) -> u8) {
    let (pairs, last) = row.as_chunks_mut::<2>();
    for (pair, sample) in pairs.iter_mut().zip(samples) {
        // A 16-bit multiplication vectorises better than two byte stores.
        *pair = (u16::from(value(sample)) * 0x0101).to_ne_bytes();
    }
    if let ([last], Some(sample)) = (last, samples.get(pairs.len())) {
        *last = value(sample);
    }
}

/// The tensor to fill, and the conversion of pixels to its values.
struct Output<'a> {
    rgb_planes: [&'a mut [f32]; 3],
    /// Size of the resized frame in the tensor.
    cols: usize,
    rows: usize,
    /// Width of the tensor.
    width: usize,
    affine: [(f32, f32); 3],
    /// Values of the padding for red, green and blue.
    padding: [f32; 3],
}

impl Output<'_> {
    #[inline(always)]
    fn write_packed(self, plane: Plane<'_>, offsets: [usize; 3]) {
        let Self { rgb_planes, cols, rows, width, affine, padding } = self;
        for (((target, offset), affine), padding) in rgb_planes.into_iter().zip(offsets).zip(affine).zip(padding) {
            for (row, line) in target.chunks_exact_mut(width).enumerate() {
                let content = if row < rows { cols } else { 0 };
                if content > 0 {
                    let (pixels, line) = (plane.row(row), &mut line[..content]);
                    // Constant channel counts and offsets let the compiler vectorise each loop.
                    match plane.layout.channels {
                        1 => samples(pixels.as_chunks::<1>().0, |[sample]| *sample, affine, line),
                        3 => match offset {
                            0 => samples(pixels.as_chunks::<3>().0, |pixel| pixel[0], affine, line),
                            1 => samples(pixels.as_chunks::<3>().0, |pixel| pixel[1], affine, line),
                            _ => samples(pixels.as_chunks::<3>().0, |pixel| pixel[2], affine, line),
                        },
                        _ => {
                            let shift = 8 * offset as u32;
                            let value = |pixel: &[u8; 4]| (u32::from_le_bytes(*pixel) >> shift) as u8;
                            samples(pixels.as_chunks::<4>().0, value, affine, line);
                        }
                    }
                }
                line[content..].fill(padding);
            }
        }
    }

    #[inline(always)]
    fn write_yuv(self, luma: Plane<'_>, chroma: Chroma<'_>, rgb_from_yuv: RgbFromYuv, chroma_rows: &mut [Vec<u8>; 2]) {
        let Self { rgb_planes: [red, green, blue], cols, rows, width, affine, padding } = self;
        let [cb, cr] = chroma_rows;
        cb.resize(cols, 0);
        cr.resize(cols, 0);
        for row in 0..red.len() / width {
            let line = row * width..(row + 1) * width;
            let lines = [&mut red[line.clone()], &mut green[line.clone()], &mut blue[line]];
            let content = if row < rows { cols } else { 0 };
            let mut paddings = padding.into_iter();
            let [red, green, blue] = lines.map(|line| {
                let (content, rest) = line.split_at_mut(content);
                rest.fill(paddings.next().unwrap_or_default());
                content
            });
            if content == 0 {
                continue;
            }
            let (_, shift) = chroma.shift;
            if row.is_multiple_of(1 << shift) {
                chroma.expand(row >> shift, cb, cr);
            }
            yuv_row(luma.row(row), cb, cr, rgb_from_yuv, affine, [red, green, blue]);
        }
    }
}

/// Converts a row of YUV samples to red, green and blue values. All slices have the same length.
#[inline(always)]
fn yuv_row(y: &[u8], cb: &[u8], cr: &[u8], coding: RgbFromYuv, affine: [(f32, f32); 3], rgb: [&mut [f32]; 3]) {
    let [red, green, blue] = rgb;
    let len = y.len();
    // Slices of one known length let the compiler remove the bounds checks and vectorise the loop.
    let (cb, cr) = (&cb[..len], &cr[..len]);
    let (red, green, blue) = (&mut red[..len], &mut green[..len], &mut blue[..len]);
    for i in 0..len {
        let [r, g, b] = coding.rgb(y[i], cb[i], cr[i]);
        red[i] = r * affine[0].0 + affine[0].1;
        green[i] = g * affine[1].0 + affine[1].1;
        blue[i] = b * affine[2].0 + affine[2].1;
    }
}

/// Converts one sample of each pixel to a float.
#[inline(always)]
fn samples<P>(pixels: &[P], sample: impl Fn(&P) -> u8, (scale, offset): (f32, f32), line: &mut [f32]) {
    for (value, pixel) in line.iter_mut().zip(pixels) {
        *value = f32::from(sample(pixel)) * scale + offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::InputSize;
    use crate::image::testing::{TestImage, tolerance};
    use crate::image::{ImageInfo, PixelFormat, UnpackBuffers, YuvCoding, YuvMatrix};

    const BIUBUG6: Normalization = crate::model::families::RETINAFACE.normalization;

    fn fill(format: PixelFormat, size: (usize, usize), rgb: [u8; 3], input: InputSize) -> (Letterbox, Vec<f32>) {
        fill_as(&BIUBUG6, format, size, rgb, input)
    }

    fn fill_as(
        normalization: &Normalization,
        format: PixelFormat,
        size: (usize, usize),
        rgb: [u8; 3],
        input: InputSize,
    ) -> (Letterbox, Vec<f32>) {
        let image = TestImage::new(ImageInfo::new(format, size.0, size.1), &vec![rgb; size.0 * size.1], 5);
        let mut buffers = UnpackBuffers::default();
        let view = buffers.unpack(&image.view());
        let letterbox = Letterbox::new(size, input);
        let (width, height) = letterbox.input();
        let mut tensor = vec![f32::NAN; 3 * width * height];
        fill_input(&view, &letterbox, normalization, &mut tensor, &mut PreprocessBuffers::default()).unwrap();
        (letterbox, tensor)
    }

    #[test]
    fn all_formats_become_bgr_minus_the_mean_with_zero_padding() {
        for format in PixelFormat::ALL {
            for (size, input) in [
                ((35, 17), InputSize::Longest(64)),
                ((33, 21), InputSize::Native),
                ((200, 150), InputSize::Longest(64)),
                ((16, 16), InputSize::Fixed(64, 32)),
            ] {
                let is_gray = format.name().starts_with("GRAY");
                let rgb = if is_gray { [90, 90, 90] } else { [200, 30, 120] };
                let (letterbox, tensor) = fill(format, size, rgb, input);
                let ((width, height), (cols, rows)) = (letterbox.input(), letterbox.content());
                for (channel, mean) in BIUBUG6.mean.iter().enumerate() {
                    let expected = f32::from(rgb[2 - channel]) - mean;
                    for row in 0..height {
                        for col in 0..width {
                            let value = tensor[(channel * height + row) * width + col];
                            if row < rows && col < cols {
                                assert!(
                                    (value - expected).abs() < f32::from(tolerance(format)).max(2.5),
                                    "{format} {row},{col}: {value} is not {expected}"
                                );
                            } else {
                                assert_eq!(value, 0.0, "{format}: padding at {row},{col}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn black_padding_is_normalized() {
        let normalization = Normalization { padding: Padding::Black, scale: 0.5, ..BIUBUG6 };
        for format in [PixelFormat::Bgr, PixelFormat::Nv12] {
            let (_, tensor) = fill_as(&normalization, format, (16, 16), [90; 3], InputSize::Fixed(64, 32));
            for (plane, mean) in tensor.chunks_exact(64 * 32).zip(BIUBUG6.mean) {
                assert_eq!(plane[63], -0.5 * mean, "{format}");
            }
        }
    }

    #[test]
    fn the_yuv_matrix_of_the_frame_is_used() {
        // Pure red in BT.709, decoded as BT.601, differs by 22.
        let coding = YuvCoding { matrix: YuvMatrix::Bt709, full_range: false };
        let [y, cb, cr] = coding.yuv_from_rgb([255, 0, 0]);
        let memory = [vec![y; 32 * 32], [cb, cr].repeat(16 * 16)];
        let letterbox = Letterbox::new((32, 32), InputSize::Native);
        let red = |coding| {
            let info = ImageInfo { coding, ..ImageInfo::new(PixelFormat::Nv12, 32, 32) };
            let view = ImageView::new(info, &[&memory[0], &memory[1]], &[32, 32]).unwrap();
            let mut tensor = vec![0.0; 3 * 32 * 32];
            fill_input(&view, &letterbox, &BIUBUG6, &mut tensor, &mut PreprocessBuffers::default()).unwrap();
            tensor[2 * 32 * 32] + 123.0
        };
        assert!((red(coding) - 255.0).abs() < 3.0);
        assert!((red(YuvCoding::default()) - 233.0).abs() < 3.0);
    }
}
