//! Boxes, landmarks and labels, drawn straight into a picture of any of our formats.
//!
//! Lines, dots and text grow with the picture: at 360 rows a line is 2 pixels wide. In the 4:2:0
//! formats everything is also drawn into the half-size colour planes.

use opencv::core::{Point as CvPoint, Scalar};
use opencv::{Result, imgproc};

use crate::cv;
use crate::face::{Face, Point, Rect};
use crate::image::{ImageViewMut, PixelFormat};

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// OpenCV's fixed-point coordinates have this many fractional bits.
const FRACTION: i32 = 4;
/// Height in pixels of a capital letter of the font at scale 1.
const FONT_HEIGHT: f64 = 21.0;
const FONT: i32 = imgproc::FONT_HERSHEY_SIMPLEX;

/// Radius of a landmark model's points, as a part of the face's width.
const POINT_SIZE: f32 = 0.008;

/// What is drawn, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Draw the bounding box.
    pub boxes: bool,
    /// Draw the five landmarks.
    pub landmarks: bool,
    /// Draw a landmark model's points, where a face has some.
    pub points: bool,
    /// Write the score.
    pub score: bool,
    /// Write the track id, where a face has one.
    pub id: bool,
    /// Colour of boxes and of the label's ground.
    pub box_color: Rgb,
    /// Colour of landmarks.
    pub landmark_color: Rgb,
    /// Width of lines in pixels; 0 for one in proportion to the picture.
    pub line_width: u32,
}

impl Default for Style {
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

/// Draws `faces`, whose coordinates are this picture's pixels. What lies outside is clipped.
///
/// # Errors
/// If OpenCV refuses, which for a checked view means that it is out of memory.
pub fn draw_faces(image: &mut ImageViewMut<'_>, faces: &[Face], style: &Style) -> Result<()> {
    let mut canvas = Canvas::new(image, style.line_width);
    for face in faces {
        if style.boxes {
            canvas.rectangle(face.rect, style.box_color)?;
        }
        let large = 1.5 * canvas.line as f32;
        // Many points of a small face must not run into each other.
        let small = (POINT_SIZE * face.rect.w).min(large / 2.0).max(1.0);
        let dots = [(style.points, face.points.as_slice(), small), (style.landmarks, five(face), large)];
        for (_, points, radius) in dots.into_iter().filter(|(wanted, ..)| *wanted) {
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

/// The five landmarks, or none.
fn five(face: &Face) -> &[Point] {
    face.landmarks.as_ref().map_or(&[], |points| points.as_slice())
}

/// `#7 0.98`, or the part of it that is wanted.
fn label(face: &Face, style: &Style) -> Option<String> {
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
        // A line of odd width has no half in the colour planes.
        let even = image.info().format.is_yuv420();
        Self { image, line: if even { (line.max(2) + 1) & !1 } else { line.max(1) } }
    }

    /// Calls `work` for each plane with its Mat, its colour and what frame lengths are multiplied by.
    fn each_plane(
        &mut self,
        rgb: Rgb,
        mut work: impl FnMut(&mut opencv::boxed_ref::BoxedRefMut<'_, opencv::core::Mat>, Scalar, f32) -> Result<()>,
    ) -> Result<()> {
        let info = self.image.info();
        let yuv = info.coding.yuv_from_rgb(rgb).map(f64::from);
        for plane in 0..info.format.planes() {
            let (color, scale) = match info.format {
                PixelFormat::Gray8 => (Scalar::all(luma(rgb)), 1.0),
                PixelFormat::Nv12 if plane == 1 => (Scalar::new(yuv[1], yuv[2], 0.0, 0.0), 0.5),
                PixelFormat::Nv12 | PixelFormat::I420 => (Scalar::all(yuv[plane]), if plane > 0 { 0.5 } else { 1.0 }),
                packed => {
                    // An unused byte or alpha becomes opaque.
                    let mut color = Scalar::all(255.0);
                    let offsets = packed.rgb_offsets().unwrap_or_default();
                    offsets.iter().zip(rgb).for_each(|(offset, value)| color[*offset] = f64::from(value));
                    (color, 1.0)
                }
            };
            work(&mut cv::mat_mut(self.image.plane_mut(plane))?, color, scale)?;
        }
        Ok(())
    }

    fn rectangle(&mut self, rect: Rect, color: Rgb) -> Result<()> {
        let line = self.line;
        self.each_plane(color, |mat, color, scale| {
            let from = fixed(Point::new(rect.x, rect.y), scale);
            let to = fixed(Point::new(rect.right(), rect.bottom()), scale);
            let width = scaled(line, scale);
            imgproc::rectangle_points(mat, from, to, color, width, imgproc::LINE_8, FRACTION)
        })
    }

    fn dot(&mut self, centre: Point, radius: f32, color: Rgb) -> Result<()> {
        self.each_plane(color, |mat, color, scale| {
            let radius = (radius * scale * (1 << FRACTION) as f32) as i32;
            imgproc::circle(mat, fixed(centre, scale), radius, color, imgproc::FILLED, imgproc::LINE_AA, FRACTION)
        })
    }

    /// Text on a ground of `color`, above the box, or within it where there is no room above.
    fn label(&mut self, rect: Rect, text: &str, color: Rgb) -> Result<()> {
        let (width, height) = (self.image.width() as f32, self.image.height() as f32);
        // Also keeps numbers that are not finite out of the arithmetic below.
        let Some(rect) = rect.clipped(width, height) else { return Ok(()) };
        let letters = (width.min(height) / 32.0).max(9.0);
        let scale = f64::from(letters) / FONT_HEIGHT * 0.75;
        let thickness = (letters / 16.0).round().max(1.0) as i32;
        let mut baseline = 0;
        let size = imgproc::get_text_size(text, FONT, scale, thickness, &mut baseline)?;
        let pad = (letters / 4.0).round();
        let (ground_width, ground_height) = (size.width as f32 + 2.0 * pad, size.height as f32 + 2.0 * pad);
        // Whole, even pixels, so that the colour planes' ground covers the same ones.
        let even = |v: f32| (v / 2.0).round() * 2.0;
        let x = even(rect.x.min(width - ground_width).max(0.0));
        let above = rect.y - ground_height;
        let y = even(if above >= 0.0 { above } else { rect.y.min((height - ground_height).max(0.0)) });
        self.each_plane(color, |mat, color, scale| {
            let at = |v: f32| (v * scale) as i32;
            let to = CvPoint::new(at(even(x + ground_width)) - 1, at(even(y + ground_height)) - 1);
            imgproc::rectangle_points(mat, CvPoint::new(at(x), at(y)), to, color, imgproc::FILLED, imgproc::LINE_8, 0)
        })?;
        let ink: Rgb = if luma(color) > 110.0 { [0; 3] } else { [255; 3] };
        let origin = CvPoint::new((x + pad) as i32, (y + pad) as i32 + size.height);
        self.each_plane(ink, |mat, color, plane_scale| {
            // Letters of half size would not lie under the luma's: they keep the ground's colour.
            if plane_scale < 1.0 {
                return Ok(());
            }
            imgproc::put_text(mat, text, origin, FONT, scale, color, thickness, imgproc::LINE_AA, false)
        })
    }
}

/// Full-range BT.601 luma.
fn luma(rgb: Rgb) -> f64 {
    let [r, g, b] = rgb.map(f64::from);
    0.299 * r + 0.587 * g + 0.114 * b
}

fn scaled(line: i32, scale: f32) -> i32 {
    ((line as f32 * scale) as i32).max(1)
}

/// Fixed-point coordinates. What lies far outside any picture is brought to where it is still outside,
/// before it could overflow.
fn fixed(point: Point, scale: f32) -> CvPoint {
    let axis = |v: f32| (v * scale).clamp(-20_000.0, 40_000.0) * (1 << FRACTION) as f32;
    CvPoint::new(axis(point.x).round() as i32, axis(point.y).round() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::ImageInfo;
    use crate::yuv::YuvCoding;
    use proptest::prelude::*;

    fn face(rect: Rect) -> Face {
        let points = std::array::from_fn(|i| Point::new(rect.x + 3.0 * i as f32, rect.y + rect.h / 2.0));
        Face { score: 0.9, rect, landmarks: Some(points), track_id: Some(12), ..Face::default() }
    }

    /// Draws into a picture with 0xEE in all padding; gives the planes and strides.
    fn drawn(format: PixelFormat, width: usize, height: usize, faces: &[Face], style: &Style) -> Vec<(Vec<u8>, usize)> {
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
            assert!(data.chunks(*stride).all(|row| row[stride - 13..] == [0xEE; 13]), "{format}: padding is untouched");
        }
        planes
    }

    #[test]
    fn a_box_has_its_colour_in_each_format() {
        let rgb = [10, 200, 90];
        let style = Style { box_color: rgb, landmarks: false, score: false, id: false, ..Style::default() };
        for format in PixelFormat::ALL {
            let planes = drawn(format, 120, 90, &[face(Rect::new(20.0, 30.0, 60.0, 40.0))], &style);
            let luma_at = |x: usize, y: usize| &planes[0].0[y * planes[0].1 + x * format.channels(0)..];
            // The left edge, half way down.
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
            assert!(luma_at(50, 50)[..1] == [50], "{format}: the inside is untouched");
        }
    }

    #[test]
    fn what_is_switched_off_is_not_drawn() {
        let off = Style { boxes: false, landmarks: false, score: false, id: false, ..Style::default() };
        let untouched = drawn(PixelFormat::Rgb, 64, 64, &[], &off);
        let rect = Rect::new(10.0, 25.0, 30.0, 30.0);
        assert_eq!(drawn(PixelFormat::Rgb, 64, 64, &[face(rect)], &off), untouched);
        for style in [
            Style { boxes: true, ..off },
            Style { landmarks: true, ..off },
            Style { score: true, ..off },
            Style { id: true, ..off },
        ] {
            assert_ne!(drawn(PixelFormat::Rgb, 64, 64, &[face(rect)], &style), untouched, "{style:?}");
        }
    }

    #[test]
    fn labels_say_what_is_asked_for() {
        let face = face(Rect::default());
        let style = Style::default();
        assert_eq!(label(&face, &style).unwrap(), "#12 0.90");
        assert_eq!(label(&face, &Style { id: false, ..style }).unwrap(), "0.90");
        assert_eq!(label(&Face { track_id: None, ..face }, &Style { score: false, ..style }), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_box_wherever_it_lies_draws_outside_the_picture(
            format in proptest::sample::select(&PixelFormat::ALL[..]),
            width in 1usize..80, height in 1usize..80,
            rect in proptest::array::uniform4(prop_oneof![-200.0f32..200.0, proptest::num::f32::ANY]),
            line_width in 0u32..100,
        ) {
            let [x, y, w, h] = rect;
            drawn(format, width, height, &[face(Rect { x, y, w, h })], &Style { line_width, ..Style::default() });
        }
    }
}
