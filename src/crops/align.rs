//! Face alignment: the similarity transform of five landmarks, and the warp to an aligned crop.
//!
//! The result equals InsightFace's `norm_crop` (`insightface/utils/face_align.py`), with which
//! ArcFace recognition models are trained.

use nalgebra::{Matrix2, Vector2};

pub use super::affine::Affine;
pub use super::warp::{WarpBuffers, warp, warp_antialiased};
use crate::geometry::{ARCFACE_SIZE, ARCFACE_TEMPLATE, Face, Landmarks, PixelAspect, Point, Rect, in_square_pixels};

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
    let (ratio, shift) = template_scale(size);
    ARCFACE_TEMPLATE.map(|point| Point::new(point.x * ratio + shift, point.y * ratio))
}

/// The scale of the template in a crop of `size` x `size` pixels, and its shift to the right.
pub(super) fn template_scale(size: usize) -> (f32, f32) {
    if !size.is_multiple_of(ARCFACE_SIZE) && size.is_multiple_of(128) {
        let ratio = size as f32 / 128.0;
        (ratio, 8.0 * ratio)
    } else {
        (size as f32 / ARCFACE_SIZE as f32, 0.0)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
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
}
