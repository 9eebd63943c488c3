//! Drawing of boxes, landmarks and labels into images of all pixel formats.
//!
//! The size of lines, dots and text is proportional to the image: with 360 rows a line is 2 pixels
//! wide. In 4:2:0 formats boxes, dots and label backgrounds are drawn into the chroma planes, too.

use opencv::boxed_ref::BoxedRefMut;
use opencv::core::{Mat, Point as CvPoint, Scalar};
use opencv::imgproc;

use super::error::ImageError;
use super::format::PixelFormat;
use super::mat;
use super::view::ImageViewMut;
use crate::geometry::{Face, Point, Rect};

/// A colour: red, green, blue.
pub type Rgb = [u8; 3];

/// Number of fractional bits of the fixed-point coordinates passed to OpenCV.
const FRACTION_BITS: i32 = 4;
/// Height of a capital letter at font scale 1, in pixels.
const FONT_HEIGHT: f64 = 21.0;
const FONT: i32 = imgproc::FONT_HERSHEY_SIMPLEX;

/// Radius of the points of a landmark model, as a fraction of the width of the face.
const POINT_SIZE: f32 = 0.008;

/// What an overlay contains, and its colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayStyle {
    /// Draw the bounding box.
    pub boxes: bool,
    /// Draw the five landmarks.
    pub landmarks: bool,
    /// Draw the points of a landmark model.
    pub points: bool,
    /// Print the score.
    pub score: bool,
    /// Print the track id, if the face has one.
    pub id: bool,
    /// Colour of boxes and of the label background.
    pub box_color: Rgb,
    /// Colour of landmarks and points.
    pub landmark_color: Rgb,
    /// Line width in pixels, at most 64; 0 selects a width in proportion to the image.
    pub line_width: u32,
}

impl Default for OverlayStyle {
    fn default() -> Self {
        Self {
            boxes: true,
            landmarks: true,
            points: true,
            score: true,
            id: true,
            box_color: [0x00, 0xE6, 0x76],
            landmark_color: [0xFF, 0xD6, 0x00],
            line_width: 0,
        }
    }
}

/// Draws `faces` into `image`. Coordinates are pixels of `image`; parts outside are clipped.
///
/// # Errors
/// If OpenCV fails, for example because memory is exhausted.
pub fn draw_faces(image: &mut ImageViewMut<'_>, faces: &[Face], style: &OverlayStyle) -> Result<(), ImageError> {
    let mut canvas = Canvas::new(image, style.line_width);
    for face in faces {
        if style.boxes {
            canvas.rectangle(face.rect, style.box_color)?;
        }
        let large = 1.5 * canvas.line as f32;
        // A small radius keeps the points of a small face apart.
        let small = (POINT_SIZE * face.rect.w).min(large / 2.0).max(1.0);
        let dots = [(style.points, face.points.as_slice(), small), (style.landmarks, landmarks(face), large)];
        for (_, points, radius) in dots.into_iter().filter(|(enabled, ..)| *enabled) {
            for point in points {
                canvas.dot(*point, radius, style.landmark_color)?;
            }
        }
        if let Some(text) = label(face, style) {
            canvas.label(face.rect, &text, style.box_color)?;
        }
    }
    Ok(())
}

/// The five landmarks; empty without landmarks.
fn landmarks(face: &Face) -> &[Point] {
    face.landmarks.as_ref().map_or(&[], |points| points.as_slice())
}

/// The label, for example `#7 0.98`; `None` if neither id nor score is printed.
fn label(face: &Face, style: &OverlayStyle) -> Option<String> {
    let id = face.track_id.filter(|_| style.id).map(|id| format!("#{id}"));
    let score = style.score.then(|| format!("{:.2}", face.score));
    let parts = id.into_iter().chain(score).collect::<Vec<_>>();
    (!parts.is_empty()).then(|| parts.join(" "))
}

struct Canvas<'c, 'a> {
    image: &'c mut ImageViewMut<'a>,
    line: i32,
}

impl<'c, 'a> Canvas<'c, 'a> {
    fn new(image: &'c mut ImageViewMut<'a>, line_width: u32) -> Self {
        let shorter = image.width().min(image.height());
        let line = if line_width > 0 { line_width.min(64) as i32 } else { (shorter as f32 / 180.0).round() as i32 };
        // Chroma planes have half the size, so that line widths must be even.
        let is_even = image.info().format.is_yuv420();
        Self { image, line: if is_even { (line.max(2) + 1) & !1 } else { line.max(1) } }
    }

    /// Calls `work` for each plane with its `Mat`, the colour in that plane and the scale of the
    /// plane relative to the image.
    fn each_plane(
        &mut self,
        rgb: Rgb,
        mut work: impl FnMut(&mut BoxedRefMut<'_, Mat>, Scalar, f32) -> opencv::Result<()>,
    ) -> Result<(), ImageError> {
        let info = self.image.info();
        let yuv = info.coding.yuv_from_rgb(rgb).map(f64::from);
        for plane in 0..info.format.planes() {
            let (color, scale) = match info.format {
                PixelFormat::Gray8 => (Scalar::all(luma(rgb)), 1.0),
                PixelFormat::Nv12 if plane == 1 => (Scalar::new(yuv[1], yuv[2], 0.0, 0.0), 0.5),
                PixelFormat::Nv12 | PixelFormat::I420 => (Scalar::all(yuv[plane]), if plane > 0 { 0.5 } else { 1.0 }),
                packed => {
                    // Alpha and padding bytes are set to opaque.
                    let mut color = Scalar::all(255.0);
                    let offsets = packed.rgb_offsets().unwrap_or_default();
                    offsets.iter().zip(rgb).for_each(|(offset, value)| color[*offset] = f64::from(value));
                    (color, 1.0)
                }
            };
            work(&mut mat::mat_mut(self.image.plane_mut(plane))?, color, scale)?;
        }
        Ok(())
    }

    fn rectangle(&mut self, rect: Rect, color: Rgb) -> Result<(), ImageError> {
        let line = self.line;
        self.each_plane(color, |mat, color, scale| {
            let from = fixed(Point::new(rect.x, rect.y), scale);
            let to = fixed(Point::new(rect.right(), rect.bottom()), scale);
            let width = scaled(line, scale);
            imgproc::rectangle_points(mat, from, to, color, width, imgproc::LINE_8, FRACTION_BITS)
        })
    }

    fn dot(&mut self, centre: Point, radius: f32, color: Rgb) -> Result<(), ImageError> {
        self.each_plane(color, |mat, color, scale| {
            let radius = (radius * scale * (1 << FRACTION_BITS) as f32) as i32;
            imgproc::circle(mat, fixed(centre, scale), radius, color, imgproc::FILLED, imgproc::LINE_AA, FRACTION_BITS)
        })
    }

    /// Text on a background of `color` above the box, or inside the box if it does not fit above.
    fn label(&mut self, rect: Rect, text: &str, color: Rgb) -> Result<(), ImageError> {
        let (width, height) = (self.image.width() as f32, self.image.height() as f32);
        // Clipping also excludes coordinates that are not finite from the calculation below.
        let Some(rect) = rect.clipped(width, height) else { return Ok(()) };
        let letters = (width.min(height) / 32.0).max(9.0);
        let scale = f64::from(letters) / FONT_HEIGHT * 0.75;
        let thickness = (letters / 16.0).round().max(1.0) as i32;
        let mut baseline = 0;
        let size = imgproc::get_text_size(text, FONT, scale, thickness, &mut baseline)?;
        let pad = (letters / 4.0).round();
        let (background_width, background_height) = (size.width as f32 + 2.0 * pad, size.height as f32 + 2.0 * pad);
        // Even coordinates make the backgrounds in luma and chroma planes cover the same pixels.
        let even = |v: f32| (v / 2.0).round() * 2.0;
        let x = even(rect.x.min(width - background_width).max(0.0));
        let above = rect.y - background_height;
        let y = even(if above >= 0.0 { above } else { rect.y.min((height - background_height).max(0.0)) });
        self.each_plane(color, |mat, color, scale| {
            let at = |v: f32| (v * scale) as i32;
            let to = CvPoint::new(at(even(x + background_width)) - 1, at(even(y + background_height)) - 1);
            imgproc::rectangle_points(mat, CvPoint::new(at(x), at(y)), to, color, imgproc::FILLED, imgproc::LINE_8, 0)
        })?;
        let ink: Rgb = if luma(color) > 110.0 { [0; 3] } else { [255; 3] };
        let origin = CvPoint::new((x + pad) as i32, (y + pad) as i32 + size.height);
        self.each_plane(ink, |mat, color, plane_scale| {
            // Text is drawn in luma only: scaled glyphs in the chroma planes would not match it.
            if plane_scale < 1.0 {
                return Ok(());
            }
            imgproc::put_text(mat, text, origin, FONT, scale, color, thickness, imgproc::LINE_AA, false)
        })
    }
}

/// Luma of BT.601 in 0..=255, full range.
fn luma(rgb: Rgb) -> f64 {
    let [r, g, b] = rgb.map(f64::from);
    0.299 * r + 0.587 * g + 0.114 * b
}

fn scaled(line: i32, scale: f32) -> i32 {
    ((line as f32 * scale) as i32).max(1)
}

/// Fixed-point coordinates. Values far outside of any image are clamped to values that are still
/// outside, so that they cannot overflow.
fn fixed(point: Point, scale: f32) -> CvPoint {
    let axis = |v: f32| (v * scale).clamp(-20_000.0, 40_000.0) * (1 << FRACTION_BITS) as f32;
    CvPoint::new(axis(point.x).round() as i32, axis(point.y).round() as i32)
}

#[cfg(test)]
mod tests {
    use super::super::format::ImageInfo;
    use super::super::yuv::YuvCoding;
    use super::*;
    use proptest::prelude::*;

    fn face(rect: Rect) -> Face {
        let points = std::array::from_fn(|i| Point::new(rect.x + 3.0 * i as f32, rect.y + rect.h / 2.0));
        Face { score: 0.9, rect, landmarks: Some(points), track_id: Some(12), ..Face::default() }
    }

    /// Draws into an image with padding of 0xEE and returns its planes and strides.
    fn drawn(
        format: PixelFormat,
        width: usize,
        height: usize,
        faces: &[Face],
        style: &OverlayStyle,
    ) -> Vec<(Vec<u8>, usize)> {
        let info = ImageInfo::new(format, width, height);
        let mut planes = (0..format.planes())
            .map(|plane| {
                let (cols, rows) = if plane > 0 { (width.div_ceil(2), height.div_ceil(2)) } else { (width, height) };
                let row = cols * format.channels(plane);
                let mut data = Vec::new();
                (0..rows).for_each(|_| data.extend([vec![50; row], vec![0xEE; 13]].concat()));
                (data, row + 13)
            })
            .collect::<Vec<_>>();
        let strides = planes.iter().map(|plane| plane.1).collect::<Vec<_>>();
        let slices = planes.iter_mut().map(|plane| plane.0.as_mut_slice()).collect();
        draw_faces(&mut ImageViewMut::new(info, slices, &strides).unwrap(), faces, style).unwrap();
        for (data, stride) in &planes {
            assert!(data.chunks(*stride).all(|row| row[stride - 13..] == [0xEE; 13]), "{format}: padding is unchanged");
        }
        planes
    }

    #[test]
    fn a_box_has_its_colour_in_each_format() {
        let rgb = [10, 200, 90];
        let style =
            OverlayStyle { box_color: rgb, landmarks: false, score: false, id: false, ..OverlayStyle::default() };
        for format in PixelFormat::ALL {
            let planes = drawn(format, 120, 90, &[face(Rect::new(20.0, 30.0, 60.0, 40.0))], &style);
            let luma_at = |x: usize, y: usize| &planes[0].0[y * planes[0].1 + x * format.channels(0)..];
            // The centre of the left edge.
            match format.rgb_offsets() {
                Some(offsets) => assert_eq!(offsets.map(|offset| luma_at(20, 50)[offset]), rgb, "{format}"),
                None if format == PixelFormat::Gray8 => assert_eq!(luma_at(20, 50)[0], luma(rgb).round() as u8),
                None => {
                    let [y, cb, cr] = YuvCoding::default().yuv_from_rgb(rgb);
                    assert_eq!(luma_at(20, 50)[0], y, "{format}");
                    let (first, stride) = &planes[1];
                    let chroma = if format == PixelFormat::Nv12 {
                        [first[25 * stride + 20], first[25 * stride + 21]]
                    } else {
                        [first[25 * stride + 10], planes[2].0[25 * stride + 10]]
                    };
                    assert_eq!(chroma, [cb, cr], "{format}");
                }
            }
            assert!(luma_at(50, 50)[..1] == [50], "{format}: the inside is unchanged");
        }
    }

    #[test]
    fn disabled_parts_are_not_drawn() {
        let off = OverlayStyle { boxes: false, landmarks: false, score: false, id: false, ..OverlayStyle::default() };
        let unchanged = drawn(PixelFormat::Rgb, 64, 64, &[], &off);
        let rect = Rect::new(10.0, 25.0, 30.0, 30.0);
        assert_eq!(drawn(PixelFormat::Rgb, 64, 64, &[face(rect)], &off), unchanged);
        for style in [
            OverlayStyle { boxes: true, ..off },
            OverlayStyle { landmarks: true, ..off },
            OverlayStyle { score: true, ..off },
            OverlayStyle { id: true, ..off },
        ] {
            assert_ne!(drawn(PixelFormat::Rgb, 64, 64, &[face(rect)], &style), unchanged, "{style:?}");
        }
    }

    #[test]
    fn labels_contain_the_enabled_parts() {
        let face = face(Rect::default());
        let style = OverlayStyle::default();
        assert_eq!(label(&face, &style).unwrap(), "#12 0.90");
        assert_eq!(label(&face, &OverlayStyle { id: false, ..style }).unwrap(), "0.90");
        assert_eq!(label(&Face { track_id: None, ..face }, &OverlayStyle { score: false, ..style }), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_box_draws_outside_the_image(
            format in proptest::sample::select(&PixelFormat::ALL[..]),
            width in 1usize..80, height in 1usize..80,
            rect in proptest::array::uniform4(prop_oneof![-200.0f32..200.0, proptest::num::f32::ANY]),
            line_width in 0u32..100,
        ) {
            let [x, y, w, h] = rect;
            let style = OverlayStyle { line_width, ..OverlayStyle::default() };
            drawn(format, width, height, &[face(Rect { x, y, w, h })], &style);
        }
    }
}
