//! Face alignment: the similarity transform of five landmarks, and the warp to an aligned crop.
//!
//! The result equals InsightFace's `norm_crop` (`insightface/utils/face_align.py`), with which
//! ArcFace recognition models are trained.

use nalgebra::{Matrix2, Vector2};

pub use super::affine::Affine;
use crate::geometry::{ARCFACE_SIZE, ARCFACE_TEMPLATE, Face, Landmarks, PixelAspect, Point, Rect, in_square_pixels};
use crate::image::{
    ImageError, ImageInfo, ImageView, ImageViewMut, PixelFormat, Plane, Region, RgbFromYuv, UnpackBuffers, mat, simd,
};

/// Points are collinear if their standard deviation across the principal axis is below this
/// fraction of the standard deviation along it.
const COLLINEAR_RATIO: f64 = 1e-3;

/// Why a face cannot be aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlignError {
    /// A coordinate is NaN or infinite.
    #[error("a coordinate of the face is not finite")]
    NotFinite,
    /// All landmarks are equal, or the box has no area.
    #[error("all landmarks are the same point, or the box has no area")]
    SamePoint,
    /// The landmarks are collinear.
    #[error("the landmarks are collinear")]
    Collinear,
    /// The transform is not finite or has no inverse.
    #[error("the coordinates of the face are too large or too small for a transform")]
    OutOfRange,
}

/// The similarity that maps `source` to `target` with the least squared error.
///
/// Source: S. Umeyama, "Least-squares estimation of transformation parameters between two point
/// patterns", IEEE PAMI 13(4), 1991, equations 38 to 43.
///
/// # Errors
/// If the source points are not finite, equal or collinear.
pub fn umeyama(source: &Landmarks, target: &Landmarks) -> Result<Affine, AlignError> {
    if !source.iter().chain(target).all(|point| point.is_finite()) {
        return Err(AlignError::NotFinite);
    }
    let vectors = |points: &Landmarks| points.map(|point| Vector2::new(f64::from(point.x), f64::from(point.y)));
    let (source, target) = (vectors(source), vectors(target));
    let count = source.len() as f64;
    let mean = |points: &[Vector2<f64>]| points.iter().sum::<Vector2<f64>>() / count;
    let (source_mean, target_mean) = (mean(&source), mean(&target));

    let mut covariance = Matrix2::zeros();
    let mut scatter = Matrix2::zeros();
    for (from, to) in source.iter().zip(&target) {
        let (from, to) = (from - source_mean, to - target_mean);
        covariance += to * from.transpose() / count;
        scatter += from * from.transpose() / count;
    }
    let variance = scatter.trace();
    if !variance.is_finite() {
        return Err(AlignError::OutOfRange);
    }
    let magnitude = source_mean.amax().max(1.0);
    if variance <= (magnitude * f64::from(f32::EPSILON)).powi(2) {
        return Err(AlignError::SamePoint);
    }
    // The eigenvalues of the scatter matrix are the variances along and across the principal axis.
    let variances = scatter.symmetric_eigenvalues();
    if variances.min().max(0.0).sqrt() < COLLINEAR_RATIO * variances.max().sqrt() {
        return Err(AlignError::Collinear);
    }
    let svd = covariance.svd(true, true);
    let (Some(u), Some(v_t)) = (svd.u, svd.v_t) else { return Err(AlignError::OutOfRange) };
    let mut signs = Vector2::new(1.0, 1.0);
    if u.determinant() * v_t.determinant() < 0.0 {
        signs.y = -1.0;
    }
    let rotation = u * Matrix2::from_diagonal(&signs) * v_t;
    let scale = svd.singular_values.dot(&signs) / variance;
    let linear = rotation * scale;
    let shift = target_mean - linear * source_mean;
    let similarity = Affine { matrix: [[linear.m11, linear.m12, shift.x], [linear.m21, linear.m22, shift.y]] };
    let finite = similarity.matrix.iter().flatten().all(|value| value.is_finite());
    if finite && similarity.inverse().is_some() { Ok(similarity) } else { Err(AlignError::OutOfRange) }
}

/// The positions of the five landmarks in a crop of `size` x `size` pixels.
///
/// Sizes that are a multiple of 128 but not of 112 centre the template of a 112 crop in a crop of
/// 128 and scale that, as InsightFace does; such a crop shows more of the surroundings. All other
/// sizes scale the template.
pub fn template(size: usize) -> Landmarks {
    let (ratio, shift) = if !size.is_multiple_of(ARCFACE_SIZE) && size.is_multiple_of(128) {
        let ratio = size as f32 / 128.0;
        (ratio, 8.0 * ratio)
    } else {
        (size as f32 / ARCFACE_SIZE as f32, 0.0)
    };
    ARCFACE_TEMPLATE.map(|point| Point::new(point.x * ratio + shift, point.y * ratio))
}

/// The transform from frame pixels to the pixels of an aligned crop of `size` x `size`, which always
/// has square pixels.
///
/// # Errors
/// As [`umeyama`].
pub fn crop_from_frame(landmarks: &Landmarks, pixel_aspect: PixelAspect, size: usize) -> Result<Affine, AlignError> {
    crop_to(landmarks, pixel_aspect, &template(size))
}

/// The transform from frame pixels to a crop in which the landmarks have the positions `target`.
///
/// # Errors
/// As [`umeyama`].
pub(super) fn crop_to(
    landmarks: &Landmarks,
    pixel_aspect: PixelAspect,
    target: &Landmarks,
) -> Result<Affine, AlignError> {
    Ok(umeyama(&in_square_pixels(landmarks, pixel_aspect), target)?.after_stretch(pixel_aspect.stretch()))
}

/// The transform from frame pixels to an upright crop of `size` x `size` pixels, for faces without
/// landmarks. The crop shows the square with the centre and the longer side of the displayed box.
///
/// # Errors
/// If the box has no area or is not finite.
pub fn crop_of_box(rect: Rect, pixel_aspect: PixelAspect, size: usize) -> Result<Affine, AlignError> {
    crop_around(rect, pixel_aspect, 1.0, 0.0, (size, size))
}

/// The transform from frame pixels to the crop of a face: aligned by its landmarks, or of its box if
/// it has none.
///
/// # Errors
/// As [`crop_from_frame`] and [`crop_of_box`].
pub fn crop_of_face(face: &Face, pixel_aspect: PixelAspect, size: usize) -> Result<Affine, AlignError> {
    match &face.landmarks {
        Some(landmarks) => crop_from_frame(landmarks, pixel_aspect, size),
        None => crop_of_box(face.rect, pixel_aspect, size),
    }
}

/// The transform from frame pixels to a crop of the given width and height around the centre of a
/// box.
///
/// The shorter side of the crop shows `scale` times the longer side of the displayed box. The crop is
/// rotated by `rotation`, clockwise, in radians.
///
/// # Errors
/// If the box has no area, or an argument is not finite.
pub fn crop_around(
    rect: Rect,
    pixel_aspect: PixelAspect,
    scale: f64,
    rotation: f64,
    (width, height): (usize, usize),
) -> Result<Affine, AlignError> {
    if !rect.is_finite() || !scale.is_finite() || !rotation.is_finite() {
        return Err(AlignError::NotFinite);
    }
    let (stretch_x, stretch_y) = pixel_aspect.stretch();
    let [x, w] = [rect.x, rect.w].map(|value| f64::from(value) * stretch_x);
    let [y, h] = [rect.y, rect.h].map(|value| f64::from(value) * stretch_y);
    let side = w.max(h) * scale;
    if side <= 0.0 {
        return Err(AlignError::SamePoint);
    }
    let factor = width.min(height) as f64 / side;
    let (sin, cos) = (factor * rotation.sin(), factor * rotation.cos());
    // The warp places coordinates at pixel centres, the box at pixel edges.
    let (centre_x, centre_y) = (x + w / 2.0 - 0.5, y + h / 2.0 - 0.5);
    let shift = |len: usize, a: f64, b: f64| (len as f64 - 1.0) / 2.0 - a * centre_x - b * centre_y;
    let matrix = [[cos, -sin, shift(width, cos, -sin)], [sin, cos, shift(height, sin, cos)]];
    let transform = Affine { matrix }.after_stretch(pixel_aspect.stretch());
    if transform.inverse().is_some() { Ok(transform) } else { Err(AlignError::OutOfRange) }
}

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
    use super::*;
    use crate::image::testing::{TestImage, tolerance};
    use crate::image::{ImageInfo, OwnedImage};
    use proptest::prelude::*;
    use std::f64::consts::PI;

    fn similarity(scale: f64, angle: f64, x: f64, y: f64) -> Affine {
        let (sin, cos) = angle.sin_cos();
        Affine { matrix: [[scale * cos, -scale * sin, x], [scale * sin, scale * cos, y]] }
    }

    proptest! {
        #[test]
        fn a_known_similarity_is_recovered(
            scale in 0.05f64..20.0, angle in -PI..PI, x in -500.0f64..500.0, y in -500.0f64..500.0,
        ) {
            let known = similarity(scale, angle, x, y);
            let source = ARCFACE_TEMPLATE;
            let target = source.map(|point| known.apply(point));
            let found = umeyama(&source, &target).unwrap();
            for (found, known) in found.matrix.iter().flatten().zip(known.matrix.iter().flatten()) {
                // The points are f32, so that their rounding error is relative to their magnitude.
                prop_assert!((found - known).abs() <= 1e-4 * known.abs().max(1.0), "{found} is not {known}");
            }
        }

        #[test]
        fn the_inverse_reverses_the_transform(
            scale in 0.05f64..20.0, angle in -PI..PI, x in -500.0f32..500.0, y in -500.0f32..500.0,
        ) {
            let transform = similarity(scale, angle, 31.0, -17.0);
            let point = Point::new(x, y);
            let back = transform.inverse().unwrap().apply(transform.apply(point));
            prop_assert!((back.x - x).abs() < 0.01 && (back.y - y).abs() < 0.01);
        }

        #[test]
        fn arbitrary_points_do_not_panic(values in proptest::array::uniform10(proptest::num::f32::ANY)) {
            let points = std::array::from_fn(|i| Point::new(values[2 * i], values[2 * i + 1]));
            if let Ok(found) = crop_from_frame(&points, PixelAspect::SQUARE, 112) {
                prop_assert!(found.matrix.iter().flatten().all(|value| value.is_finite()));
                prop_assert!(found.inverse().is_some());
            }
        }
    }

    #[test]
    fn the_transform_of_non_square_pixels_is_that_of_the_displayed_picture() {
        let square = crop_from_frame(
            &ARCFACE_TEMPLATE.map(|p| Point::new(2.0 * p.x + 30.0, 3.0 + p.y)),
            PixelAspect::SQUARE,
            112,
        );
        // The same picture with half of its columns.
        let stored = ARCFACE_TEMPLATE.map(|p| Point::new(p.x + 15.0, 3.0 + p.y));
        let (square, stored) = (square.unwrap(), crop_from_frame(&stored, PixelAspect::new(2, 1), 112).unwrap());
        for (x, y) in [(0.0, 0.0), (17.0, 40.0), (90.0, 3.0)] {
            // Column `x` of the stored picture shows columns `2 x` and `2 x + 1`, whose centre is
            // `2 x + 0.5`.
            let (found, expected) = (stored.apply(Point::new(x, y)), square.apply(Point::new(2.0 * x + 0.5, y)));
            assert!(
                (found.x - expected.x).abs() < 1e-3 && (found.y - expected.y).abs() < 1e-3,
                "{found:?} {expected:?}"
            );
        }
        let upright = crop_of_box(Rect::new(10.0, 20.0, 25.0, 100.0), PixelAspect::new(2, 1), 100).unwrap();
        // The box is displayed as 50 x 100, around column 45 of the displayed picture.
        assert_eq!(upright.apply(Point::new(22.0, 69.5)), Point::new(49.5, 49.5));
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

    #[test]
    fn degenerate_points_are_errors() {
        let at = |x: f32, y: f32| Point::new(x, y);
        assert_eq!(crop_from_frame(&[at(500.0, 300.0); 5], PixelAspect::SQUARE, 112), Err(AlignError::SamePoint));
        let line = std::array::from_fn(|i| at(100.0 + 10.0 * i as f32, 50.0 + 7.0 * i as f32));
        assert_eq!(crop_from_frame(&line, PixelAspect::SQUARE, 112), Err(AlignError::Collinear));
        let mut points = ARCFACE_TEMPLATE;
        points[2].y = f32::NAN;
        assert_eq!(crop_from_frame(&points, PixelAspect::SQUARE, 112), Err(AlignError::NotFinite));
        assert!(
            crop_from_frame(&ARCFACE_TEMPLATE.map(|p| at(p.x * 1e36, p.y * 1e36)), PixelAspect::SQUARE, 112)
                .is_ok_and(|s| s.inverse().is_some())
        );
    }

    #[test]
    fn a_box_maps_to_the_square_around_it() {
        let transform = crop_of_box(Rect::new(10.0, 20.0, 50.0, 100.0), PixelAspect::SQUARE, 100).unwrap();
        // The square is -15..85 x 20..120; the centres of its first and of the crop's first pixel
        // coincide.
        assert_eq!(transform.apply(Point::new(-15.0, 20.0)), Point::new(0.0, 0.0));
        assert_eq!(transform.apply(Point::new(84.0, 119.0)), Point::new(99.0, 99.0));
        let rotated = crop_around(
            Rect::new(10.0, 20.0, 50.0, 100.0),
            PixelAspect::SQUARE,
            2.0,
            std::f64::consts::FRAC_PI_2,
            (100, 100),
        )
        .unwrap();
        // The rotation is clockwise, so that a point above the centre moves to its right; the scale
        // is 0.5.
        let above = rotated.apply(Point::new(34.5, 19.5));
        assert!((above.x - 74.5).abs() < 1e-4 && (above.y - 49.5).abs() < 1e-4, "{above:?}");
        assert!((rotated.rotation() - std::f64::consts::FRAC_PI_2).abs() < 1e-9);
        assert_eq!(crop_of_box(Rect::new(1.0, 2.0, 0.0, 0.0), PixelAspect::SQUARE, 112), Err(AlignError::SamePoint));
        assert_eq!(
            crop_of_box(Rect::new(f32::NAN, 2.0, 3.0, 4.0), PixelAspect::SQUARE, 112),
            Err(AlignError::NotFinite)
        );
    }

    #[test]
    fn templates_of_112_224_and_128_match_insightface() {
        assert_eq!(template(112), ARCFACE_TEMPLATE);
        assert_eq!(template(224)[0], Point::new(2.0 * 38.2946, 2.0 * 51.6963));
        assert_eq!(template(128)[0], Point::new(38.2946 + 8.0, 51.6963));
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
