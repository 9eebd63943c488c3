//! The warp of a frame to an aligned crop.

use super::affine::Affine;
use crate::geometry::Point;
use crate::image::{
    ImageError, ImageInfo, ImageView, ImageViewMut, PixelFormat, Plane, Region, RgbFromYuv, UnpackBuffers, mat, simd,
};

/// Buffers that are reused between warps, so that a steady stream does not allocate memory.
#[derive(Debug, Default)]
pub struct WarpBuffers {
    unpacked: UnpackBuffers,
    direct: DirectBuffers,
    oversampled: Vec<u8>,
}

#[derive(Debug, Default)]
struct DirectBuffers {
    planes: [Vec<u8>; 3],
    chroma: [Vec<u8>; 2],
    rows: [Vec<u8>; 5],
}

/// Warps the frame into `crop`, an RGB or BGR image, with bilinear interpolation from full
/// resolution. Pixels outside the frame are black.
///
/// YUV frames are warped plane by plane and converted afterwards, so that only pixels of the crop
/// are converted. Chroma samples are taken as centred between their luma samples. In 4:2:0 formats
/// they have half the resolution of the crop. Of frames whose format is not direct, only the part
/// under the crop is converted to a direct format.
///
/// # Errors
/// If OpenCV fails; it accepts images of up to 32,766 x 32,766 pixels.
///
/// # Panics
/// If `crop` is neither RGB nor BGR.
pub fn warp(
    frame: &ImageView<'_>,
    crop_from_frame: &Affine,
    crop: &mut ImageViewMut<'_>,
    scratch: &mut WarpBuffers,
) -> Result<(), ImageError> {
    let WarpBuffers { unpacked, direct, .. } = scratch;
    if frame.is_direct() {
        return warp_direct(frame, crop_from_frame, crop, direct);
    }
    let Some(region) = region_under(frame, crop_from_frame, (crop.width(), crop.height())) else {
        for_each_row(crop, |_, row| row.fill(0));
        return Ok(());
    };
    let part = unpacked.unpack(&frame.crop(region)?);
    let crop_from_part = crop_from_frame.after_shift((region.x as f64, region.y as f64));
    warp_direct(&part, &crop_from_part, crop, direct)
}

/// As [`warp`], but each pixel of the crop is the mean of the pixels of the frame that it covers, if
/// those are at least 1.5 per axis. [`warp`] takes the four nearest ones only, so that noise and fine
/// structures of a face that is much larger than the crop become noise of the crop.
///
/// It samples a crop that is larger by a whole factor, at most 16 and at most 4096 pixels per side,
/// and averages it. The time grows with the square of the factor.
///
/// # Errors
/// As [`warp`].
///
/// # Panics
/// As [`warp`].
pub fn warp_antialiased(
    frame: &ImageView<'_>,
    crop_from_frame: &Affine,
    crop: &mut ImageViewMut<'_>,
    scratch: &mut WarpBuffers,
) -> Result<(), ImageError> {
    let (width, height) = (crop.width(), crop.height());
    let factor = oversampling(crop_from_frame, width.max(height));
    if factor == 1 {
        return warp(frame, crop_from_frame, crop, scratch);
    }
    let info = ImageInfo { width: width * factor, height: height * factor, ..crop.info() };
    let stride = 3 * info.width;
    let mut pixels = std::mem::take(&mut scratch.oversampled);
    pixels.resize(stride * info.height, 0);
    let mut large = ImageViewMut::new(info, vec![&mut pixels], &[stride])?;
    warp(frame, &crop_from_frame.magnified(factor), &mut large, scratch)?;
    let large = ImageView::new(info, &[&pixels], &[stride])?;
    mat::shrink(&large.plane(0), crop.plane_mut(0))?;
    scratch.oversampled = pixels;
    Ok(())
}

/// The number of samples per pixel of the crop and axis: the pixels of the frame that it covers, on
/// the axis on which they are most.
fn oversampling(crop_from_frame: &Affine, longer_side: usize) -> usize {
    const MAX_FACTOR: f64 = 16.0;
    /// Maximum width and height of the oversampled crop, which bound its memory to 48 MiB.
    const MAX_SIDE: usize = 4096;
    let [[a, b, _], [c, d, _]] = crop_from_frame.matrix;
    let scale = a.hypot(c).min(b.hypot(d));
    // `as` turns NaN into 0.
    let factor = (1.0 / scale).round().min(MAX_FACTOR) as usize;
    factor.min(MAX_SIDE / longer_side.max(1)).max(1)
}

/// The part of the frame that a crop of this size shows, with a margin for interpolation; `None` if
/// the crop lies outside of the frame. It starts at multiples of the margin, so that it has the
/// same chroma samples as the frame.
fn region_under(frame: &ImageView<'_>, crop_from_frame: &Affine, (width, height): (usize, usize)) -> Option<Region> {
    /// In pixels: two samples of the most subsampled chroma.
    const MARGIN: f64 = 8.0;
    let frame_from_crop = crop_from_frame.inverse()?;
    // Chroma samples reach beyond the last pixels.
    let (right, bottom) = (width as f32 + 1.0, height as f32 + 1.0);
    let corners = [(-2.0, -2.0), (right, -2.0), (-2.0, bottom), (right, bottom)];
    let corners = corners.map(|(x, y)| frame_from_crop.apply(Point::new(x, y)));
    let axis = |values: [f32; 4], len: usize| {
        let min = f64::from(values.into_iter().fold(f32::INFINITY, f32::min));
        let max = f64::from(values.into_iter().fold(f32::NEG_INFINITY, f32::max));
        // `as` saturates at 0.
        let from = (((min / MARGIN).floor() - 1.0) * MARGIN) as usize;
        let to = (max + MARGIN).ceil().min(len as f64) as usize;
        (to > from).then(|| (from, to - from))
    };
    let (x, width) = axis(corners.map(|corner| corner.x), frame.width())?;
    let (y, height) = axis(corners.map(|corner| corner.y), frame.height())?;
    Some(Region { x, y, width, height })
}

/// As [`warp`], for a frame in a direct format.
fn warp_direct(
    frame: &ImageView<'_>,
    crop_from_frame: &Affine,
    crop: &mut ImageViewMut<'_>,
    scratch: &mut DirectBuffers,
) -> Result<(), ImageError> {
    let format = frame.info().format;
    let target =
        crop.info().format.rgb_offsets().filter(|_| matches!(crop.info().format, PixelFormat::Rgb | PixelFormat::Bgr));
    let target = target.expect("the crop is RGB or BGR");
    let (width, height) = (crop.width(), crop.height());
    let luma = frame.plane(0);
    if matches!(format, PixelFormat::Rgb | PixelFormat::Bgr) {
        mat::warp_affine(&luma, crop.plane_mut(0), &crop_from_frame.matrix, 0)?;
        if format.rgb_offsets() != Some(target) {
            for_each_row(crop, |_, row| row.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2)));
        }
        return Ok(());
    }
    let coding = frame.info().coding;
    let [luma_buffer, first_buffer, second_buffer] = &mut scratch.planes;
    let black = if format.is_yuv() { coding.yuv_from_rgb([0, 0, 0])[0] } else { 0 };
    let luma = warped(&luma, crop_from_frame, (width, height), black, luma_buffer)?;
    if let Some(source) = format.rgb_offsets() {
        for_each_row(crop, |index, row| {
            for (to, from) in row.as_chunks_mut::<3>().0.iter_mut().zip(luma.row(index).as_chunks::<4>().0) {
                target.iter().zip(source).for_each(|(t, s)| to[*t] = from[s]);
            }
        });
        return Ok(());
    }
    if !format.is_yuv() {
        for_each_row(crop, |index, row| {
            row.as_chunks_mut::<3>().0.iter_mut().zip(luma.row(index)).for_each(|(to, y)| to.fill(*y));
        });
        return Ok(());
    }
    let [first_large, second_large] = &mut scratch.chroma;
    let has_two_planes = format.planes() == 3;
    let (shift_x, shift_y) = format.chroma_shift();
    let crop_from_chroma = crop_from_frame.after_stretch((f64::from(1u32 << shift_x), f64::from(1u32 << shift_y)));
    let (first, second) = if (shift_x, shift_y) == (1, 1) {
        // Chroma is warped to half the size of the crop and then enlarged. Chroma sample c covers
        // pixels 2c and 2c + 1 of the frame and of the crop, so that its centre lies at 2c + 0.5.
        let transform = crop_from_chroma.before_halving();
        let size = (width.div_ceil(2), height.div_ceil(2));
        let chroma =
            |plane, buffer, large| enlarged(&warped(&frame.plane(plane), &transform, size, 128, buffer)?, large);
        let first = chroma(1, first_buffer, first_large)?;
        (first, if has_two_planes { Some(chroma(2, second_buffer, second_large)?) } else { None })
    } else {
        let chroma = |plane, buffer| warped(&frame.plane(plane), &crop_from_chroma, (width, height), 128, buffer);
        let first = chroma(1, first_buffer)?;
        (first, if has_two_planes { Some(chroma(2, second_buffer)?) } else { None })
    };
    let swapped = format.is_cr_first();
    let rgb_from_yuv = coding.rgb_from_yuv();
    let rows = &mut scratch.rows;
    rows.iter_mut().for_each(|row| row.resize(width, 0));
    for_each_row(crop, |index, row| {
        let pixels = row.as_chunks_mut::<3>().0;
        let luma = luma.row(index);
        let chroma = ChromaRow { first: first.row(index), second: second.map(|plane| plane.row(index)), swapped };
        simd::widest(
            #[inline(always)]
            || convert(luma, chroma, rgb_from_yuv, target[0] == 2, rows, pixels),
        );
    });
    Ok(())
}

/// Warps a plane into `buffer`; pixels outside the plane have the value `border`.
fn warped<'b>(
    plane: &Plane<'_>,
    target_from_source: &Affine,
    (cols, rows): (usize, usize),
    border: u8,
    buffer: &'b mut Vec<u8>,
) -> Result<Plane<'b>, ImageError> {
    let mut target = mat::scratch(buffer, cols, rows, plane.layout.channels);
    mat::warp_affine(plane, &mut target, &target_from_source.matrix, border)?;
    Ok(Plane { layout: target.layout, data: target.data })
}

/// Resizes a plane to twice its size into `buffer`.
fn enlarged<'b>(plane: &Plane<'_>, buffer: &'b mut Vec<u8>) -> Result<Plane<'b>, ImageError> {
    let layout = plane.layout;
    let mut target = mat::scratch(buffer, 2 * layout.cols, 2 * layout.rows, layout.channels);
    mat::resize(plane, &mut target)?;
    Ok(Plane { layout: target.layout, data: target.data })
}

/// The chroma of a row, one sample for each pixel.
#[derive(Clone, Copy)]
struct ChromaRow<'a> {
    /// Interleaved Cb and Cr, or Cb only.
    first: &'a [u8],
    /// Cr, if it is separate.
    second: Option<&'a [u8]>,
    /// Cr is before Cb.
    swapped: bool,
}

/// Converts a row of YUV samples to RGB or BGR pixels. `rows` are buffers with the length of the
/// row.
#[inline(always)]
fn convert(
    luma: &[u8],
    chroma: ChromaRow<'_>,
    rgb_from_yuv: RgbFromYuv,
    blue_first: bool,
    rows: &mut [Vec<u8>; 5],
    pixels: &mut [[u8; 3]],
) {
    let len = luma.len();
    // Slices of one known length let the compiler remove the bounds checks and vectorise the loops.
    let ChromaRow { first, second, swapped } = chroma;
    let [cb, cr, red, green, blue] = rows;
    let (cb, cr) = (&mut cb[..len], &mut cr[..len]);
    let (red, green, blue) = (&mut red[..len], &mut green[..len], &mut blue[..len]);
    if let Some(second) = second {
        cb.copy_from_slice(&first[..len]);
        cr.copy_from_slice(&second[..len]);
    } else {
        let pairs = &first.as_chunks::<2>().0[..len];
        for i in 0..len {
            cb[i] = pairs[i][0];
            cr[i] = pairs[i][1];
        }
    }
    let (cb, cr) = if swapped { (&*cr, &*cb) } else { (&*cb, &*cr) };
    // Adding 2^23 rounds to an integer in the lowest bits of the float; `as` would compile to
    // branches.
    let byte = |value: f32| (value + 8_388_608.0).to_bits() as u8;
    for i in 0..len {
        let [r, g, b] = rgb_from_yuv.rgb(luma[i], cb[i], cr[i]);
        red[i] = byte(r);
        green[i] = byte(g);
        blue[i] = byte(b);
    }
    let (first, third) = if blue_first { (blue, red) } else { (red, blue) };
    let pixels = &mut pixels[..len];
    for i in 0..len {
        pixels[i] = [first[i], green[i], third[i]];
    }
}

/// Calls `work` with the index and the bytes of each row.
fn for_each_row(image: &mut ImageViewMut<'_>, mut work: impl FnMut(usize, &mut [u8])) {
    let plane = image.plane_mut(0);
    let (stride, bytes) = (plane.layout.stride, plane.layout.row_bytes());
    for (index, row) in plane.data.chunks_mut(stride).take(plane.layout.rows).enumerate() {
        work(index, &mut row[..bytes]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::align::crop_from_frame;
    use super::*;
    use crate::geometry::{ARCFACE_TEMPLATE, PixelAspect};
    use crate::image::OwnedImage;
    use crate::image::testing::{TestImage, tolerance};

    fn similarity(scale: f64, angle: f64, x: f64, y: f64) -> Affine {
        let (sin, cos) = angle.sin_cos();
        Affine { matrix: [[scale * cos, -scale * sin, x], [scale * sin, scale * cos, y]] }
    }

    #[test]
    fn antialiased_crops_of_large_faces_are_means_of_the_pixels_they_cover() {
        const SIDE: usize = 1120;
        // A pattern of single pixels: its mean is grey, its samples are black or white.
        let pixels = (0..SIDE * SIDE).flat_map(|i| [if (i / SIDE + i).is_multiple_of(2) { 255 } else { 0 }; 3]);
        let image = OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, SIDE, SIDE), pixels.collect()).unwrap();
        let mut crop = OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, 112, 112), vec![0; 3 * 112 * 112]).unwrap();
        let mut scratch = WarpBuffers::default();
        for scale in [0.1, 0.25, 0.5] {
            let transform = similarity(scale, 0.0, 0.05, 0.05);
            warp_antialiased(&image.view(), &transform, &mut crop.view_mut(), &mut scratch).unwrap();
            // At the edges the crop shows black outside of the frame.
            let mut inner = crop.data().chunks(3 * 112).skip(2).take(108).flat_map(|row| &row[6..330]);
            assert!(inner.all(|value| value.abs_diff(127) <= 3), "scale {scale}");
        }
        // Below 1.5 pixels of the frame per pixel of the crop, nothing changes.
        let transform = similarity(0.8, 0.3, 2.0, -3.0);
        warp_antialiased(&image.view(), &transform, &mut crop.view_mut(), &mut scratch).unwrap();
        let antialiased = crop.data().to_vec();
        warp(&image.view(), &transform, &mut crop.view_mut(), &mut scratch).unwrap();
        assert_eq!(antialiased, crop.data());
    }

    #[test]
    fn antialiasing_does_not_move_the_crop() {
        // A gradient has the same values at the same places, whatever the number of samples.
        let (width, height) = (800, 600);
        let pixels = (0..width * height).flat_map(|i| [(i % width / 4) as u8, (i / width / 4) as u8, 50]);
        let image = OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, width, height), pixels.collect()).unwrap();
        let crops = [warp, warp_antialiased].map(|function| {
            let mut crop = OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, 64, 64), vec![0; 3 * 64 * 64]).unwrap();
            let transform = similarity(0.15, 0.2, -5.0, -8.0);
            function(&image.view(), &transform, &mut crop.view_mut(), &mut WarpBuffers::default()).unwrap();
            crop.data().to_vec()
        });
        let inner = |crop: &[u8]| {
            crop.chunks(3 * 64).skip(8).take(40).flat_map(|row| row[24..144].to_vec()).collect::<Vec<_>>()
        };
        let [plain, antialiased] = crops.map(|crop| inner(&crop));
        assert!(plain.iter().zip(&antialiased).all(|(a, b)| a.abs_diff(*b) <= 1));
    }

    /// A smooth colour image, which survives chroma subsampling.
    fn scene(width: usize, height: usize) -> Vec<[u8; 3]> {
        let wave = |v: f32| (127.5 + 100.0 * v.sin()) as u8;
        (0..width * height)
            .map(|i| {
                let (x, y) = ((i % width) as f32, (i / width) as f32);
                [wave(x / 23.0), wave(y / 19.0), wave((x + y) / 31.0)]
            })
            .collect()
    }

    #[test]
    fn crops_of_all_formats_and_channel_orders_are_equal() {
        let (width, height) = (202, 151);
        let scene = scene(width, height);
        let landmarks = ARCFACE_TEMPLATE.map(|p| Point::new(p.x * 0.9 - 20.0, p.y * 0.9 + 20.0));
        let transform = crop_from_frame(&landmarks, PixelAspect::SQUARE, 112).unwrap();
        let crop = |format: PixelFormat, interlaced: bool, order: PixelFormat| {
            let info = ImageInfo { interlaced, ..ImageInfo::new(format, width, height) };
            let image = TestImage::new(info, &scene, 3);
            let frame = image.view();
            let mut crop = OwnedImage::new(ImageInfo::new(order, 112, 112), vec![7; 3 * 112 * 112]).unwrap();
            warp(&frame, &transform, &mut crop.view_mut(), &mut WarpBuffers::default()).unwrap();
            crop.data().to_vec()
        };
        let reference = crop(PixelFormat::Rgb, false, PixelFormat::Rgb);
        // The left part of this crop lies outside the frame and is black in every format.
        assert_eq!(reference[112 * 56 * 3..][..3 * 20], [0; 3 * 20]);
        let colored = |format: &PixelFormat| !format.name().starts_with("GRAY") && *format != PixelFormat::Rgb8p;
        let formats = PixelFormat::ALL.into_iter().filter(colored);
        for (format, interlaced) in formats.flat_map(|format| [(format, false), (format, true)]) {
            let tolerance = match format.chroma_shift() {
                // Samples are rounded when they are stored and when they are warped.
                (0, 0) if format.is_yuv() => 2 + tolerance(format),
                (0, 0) => tolerance(format),
                (2, _) => 20,
                _ => 12,
            };
            let rgb = crop(format, interlaced, PixelFormat::Rgb);
            let bgr = crop(format, interlaced, PixelFormat::Bgr);
            for (i, (actual, expected)) in rgb.iter().zip(&reference).enumerate() {
                let difference = actual.abs_diff(*expected);
                // At the left edge of the frame, column 22, interpolation with black is not linear
                // in clipped YUV.
                assert!(
                    difference <= tolerance || (format.is_yuv() && i % 336 < 3 * 25),
                    "{format} {interlaced}: {actual} is not {expected} at byte {i}"
                );
            }
            for (rgb, bgr) in rgb.chunks(3).zip(bgr.chunks(3)) {
                assert_eq!([rgb[0], rgb[1], rgb[2]], [bgr[2], bgr[1], bgr[0]], "{format}");
            }
        }
    }
}
