//! Fields of a structure: how faces, points, rectangles and matrices are stored.

use gst::glib;
use retinaface::align::Affine;
use retinaface::geometry::{Face, HeadPose, PixelAspect, Point, Rect};

/// A short list of numbers, readable from every language.
pub(crate) fn doubles(values: impl IntoIterator<Item = f64>) -> gst::Array {
    gst::Array::new(values)
}

fn doubles_from(structure: &gst::StructureRef, field: &str) -> Option<Vec<f64>> {
    let array = structure.get::<gst::ArrayRef>(field).ok()?;
    array.iter().map(|value| value.get::<f64>().ok()).collect()
}

/// A long vector of floats: little-endian 32-bit floats in one `GBytes`. An array would need one
/// `GValue` per number.
fn float_bytes(values: impl IntoIterator<Item = f32>) -> glib::Bytes {
    glib::Bytes::from_owned(values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
}

/// The floats of such a field; `None` if the field is missing or its length is not a multiple of
/// four.
fn float_bytes_from(structure: &gst::StructureRef, field: &str) -> Option<Vec<f32>> {
    let bytes = structure.get::<glib::Bytes>(field).ok()?;
    let (floats, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn landmarks(points: &[Point]) -> gst::Array {
    doubles(points.iter().flat_map(|point| [f64::from(point.x), f64::from(point.y)]))
}

fn landmarks_from(structure: &gst::StructureRef) -> Option<[Point; 5]> {
    let values = doubles_from(structure, "landmarks")?;
    let points = values.as_chunks::<2>().0.iter().map(|[x, y]| Point::new(*x as f32, *y as f32)).collect::<Vec<_>>();
    points.try_into().ok()
}

fn points_from(structure: &gst::StructureRef) -> Option<Vec<Point>> {
    let values = float_bytes_from(structure, "points")?;
    let (points, rest) = values.as_chunks::<2>();
    rest.is_empty().then(|| points.iter().map(|[x, y]| Point::new(*x, *y)).collect())
}

fn rect_from(structure: &gst::StructureRef) -> Option<Rect> {
    let [x, y, w, h] = doubles_from(structure, "box")?[..] else { return None };
    Some(Rect { x: x as f32, y: y as f32, w: w as f32, h: h as f32 })
}

/// Adds the fields that a face has on a frame with pixels of this shape and on a crop of it.
pub(crate) fn with_face(builder: gst::structure::Builder, face: &Face, pixel_aspect: PixelAspect) -> gst::Structure {
    let Rect { x, y, w, h } = face.rect;
    let points =
        (!face.points.is_empty()).then(|| float_bytes(face.points.iter().flat_map(|point| [point.x, point.y])));
    builder
        .field("score", f64::from(face.score))
        .field("box", doubles([x, y, w, h].map(f64::from)))
        .field_if_some("landmarks", face.landmarks.as_ref().map(|points| landmarks(points)))
        .field_if_some("points", points)
        // For readers in other languages; this crate computes it from the landmarks.
        .field_if_some(
            "pose",
            face.pose(pixel_aspect).map(|HeadPose { yaw, pitch, roll }| doubles([yaw, pitch, roll].map(f64::from))),
        )
        .field_if_some("track-id", face.track_id)
        .field_if_some("parent-id", face.parent_id)
        .field_if_some("uncertainty", face.uncertainty.map(f64::from))
        .build()
}

/// The face of such a structure; `None` if its score or box is missing.
pub(crate) fn face_from(structure: &gst::StructureRef) -> Option<Face> {
    Some(Face {
        score: structure.get::<f64>("score").ok()? as f32,
        rect: rect_from(structure)?,
        landmarks: landmarks_from(structure),
        points: points_from(structure).unwrap_or_default(),
        track_id: structure.get("track-id").ok(),
        parent_id: structure.get("parent-id").ok(),
        uncertainty: structure.get::<f64>("uncertainty").ok().map(|pixels| pixels as f32),
    })
}

/// A pixel aspect ratio, as in caps.
pub(crate) fn pixel_aspect(aspect: PixelAspect) -> gst::Fraction {
    let (width, height) = aspect.parts();
    let part = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    gst::Fraction::new(part(width), part(height))
}

/// The pixel aspect ratio in such a field; square pixels if it is missing or not positive.
pub(crate) fn pixel_aspect_from(structure: &gst::StructureRef, field: &str) -> PixelAspect {
    structure.get::<gst::Fraction>(field).map_or(PixelAspect::SQUARE, to_pixel_aspect)
}

/// The pixel aspect ratio of caps; square pixels if it is not positive.
pub fn to_pixel_aspect(fraction: gst::Fraction) -> PixelAspect {
    let part = |value: i32| u32::try_from(value).unwrap_or(0);
    PixelAspect::new(part(fraction.numer()), part(fraction.denom()))
}

pub(crate) fn matrix(transform: &Affine) -> gst::Array {
    doubles(transform.matrix().into_iter().flatten())
}

pub(crate) fn matrix_from(structure: &gst::StructureRef, field: &str) -> Option<Affine> {
    let [a, b, c, d, e, f] = doubles_from(structure, field)?[..] else { return None };
    Some(Affine::from_matrix([[a, b, c], [d, e, f]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_points_are_stored_as_bytes_and_read_back_exactly() {
        gst::init().unwrap();
        let points = (0..478).map(|i| Point::new(i as f32 / 7.0, -1e-3 * i as f32)).collect::<Vec<_>>();
        let face = Face { points: points.clone(), ..Face::default() };
        let structure = with_face(gst::Structure::builder("face"), &face, PixelAspect::SQUARE);
        assert_eq!(structure.get::<glib::Bytes>("points").unwrap().len(), 478 * 8);
        assert_eq!(face_from(&structure).unwrap().points, points);
    }

    #[test]
    fn a_damaged_points_field_is_ignored() {
        gst::init().unwrap();
        let mut structure = with_face(gst::Structure::builder("face"), &Face::default(), PixelAspect::SQUARE);
        for bytes in [&[0u8; 7][..], &[0; 12]] {
            structure.set("points", glib::Bytes::from_owned(bytes.to_vec()));
            assert_eq!(face_from(&structure).unwrap().points, []);
        }
    }
}
