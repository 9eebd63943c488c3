//! Drawing of boxes, landmarks and labels into images of all pixel formats.
//!
//! The size of lines, dots and text is proportional to the image: with 360 rows a line is 2 pixels
//! wide. Packed RGB of 8 bits, 8-bit luma, `Y444` and the direct 4:2:0 formats are drawn into
//! directly. In 4:2:0 formats boxes, dots and label backgrounds are drawn into the chroma planes,
//! too. All other formats are drawn into on a [`canvas`](super::canvas).

use opencv::boxed_ref::BoxedRefMut;
use opencv::core::{Mat, Point as CvPoint, Scalar};
use opencv::imgproc;

use super::canvas::CanvasBuffers;
use super::error::ImageError;
use super::format::{ImageInfo, Region};
use super::layout::ColorModel;
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

/// Buffers that are reused between calls, so that a steady stream does not allocate memory.
#[derive(Debug, Default)]
pub struct OverlayBuffers {
    canvas: CanvasBuffers,
}

/// Draws `faces` into `image`. Coordinates are pixels of `image`; parts outside are clipped. Samples
/// that nothing is drawn over keep their value.
///
/// # Errors
/// If OpenCV fails, for example because memory is exhausted.
pub fn draw_faces(
    image: &mut ImageViewMut<'_>,
    faces: &[Face],
    style: &OverlayStyle,
    buffers: &mut OverlayBuffers,
) -> Result<(), ImageError> {
    let info = image.info();
    let overlay = Overlay::new(info, style);
    // OpenCV blends one, three and four channels only, which shows in chroma of full size.
    let is_drawable = match info.format.chroma_shift() {
        (0, 0) => info.format.planes() != 2,
        shift => shift == (1, 1),
    };
    let in_place = info.is_direct() && is_drawable;
    for face in faces {
        if in_place {
            overlay.draw(face, &mut Canvas { image, offset: Point::default() })?;
        } else if let Some(region) = overlay.extent(face)? {
            let area = buffers.canvas.read(&image.as_view(), region);
            let offset = Point::new(region.x as f32, region.y as f32);
            overlay.draw(face, &mut Canvas { image: &mut buffers.canvas.view(info, area)?, offset })?;
            buffers.canvas.write(image, area);
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

/// What is drawn, and its size, for images of one size.
struct Overlay<'s> {
    style: &'s OverlayStyle,
    /// Size of the image.
    width: f32,
    height: f32,
    /// Line width.
    line: i32,
}

/// A label, in pixels of the image.
struct Label {
    text: String,
    /// With even coordinates, so that the backgrounds in luma and chroma planes cover the same
    /// pixels.
    background: Rect,
    /// Left end of the base line.
    origin: (i32, i32),
    scale: f64,
    thickness: i32,
}

impl<'s> Overlay<'s> {
    fn new(info: ImageInfo, style: &'s OverlayStyle) -> Self {
        let shorter = info.width.min(info.height);
        let width = style.line_width;
        let line = if width > 0 { width.min(64) as i32 } else { (shorter as f32 / 180.0).round() as i32 };
        // With chroma subsampling line widths must be even.
        let is_even = info.format.chroma_shift() != (0, 0);
        let line = if is_even { (line.max(2) + 1) & !1 } else { line.max(1) };
        Self { style, width: info.width as f32, height: info.height as f32, line }
    }

    /// The points to draw with their radius.
    fn dots<'f>(&self, face: &'f Face) -> impl Iterator<Item = (Point, f32)> + use<'f> {
        let large = 1.5 * self.line as f32;
        // A small radius keeps the points of a small face apart.
        let small = (POINT_SIZE * face.rect.w).min(large / 2.0).max(1.0);
        let dots = [(self.style.points, face.points.as_slice(), small), (self.style.landmarks, landmarks(face), large)];
        dots.into_iter()
            .filter(|(enabled, ..)| *enabled)
            .flat_map(|(_, points, radius)| points.iter().map(move |point| (*point, radius)))
    }

    fn draw(&self, face: &Face, canvas: &mut Canvas<'_, '_>) -> Result<(), ImageError> {
        if self.style.boxes {
            canvas.rectangle(face.rect, self.line, self.style.box_color)?;
        }
        for (point, radius) in self.dots(face) {
            canvas.dot(point, radius, self.style.landmark_color)?;
        }
        if let Some(label) = self.label(face)? {
            canvas.label(&label, self.style.box_color)?;
        }
        Ok(())
    }

    /// The label above the box, or inside the box if it does not fit above; `None` if nothing is
    /// printed.
    fn label(&self, face: &Face) -> Result<Option<Label>, ImageError> {
        let Self { width, height, .. } = *self;
        // Clipping also excludes coordinates that are not finite from the calculation below.
        let (Some(text), Some(rect)) = (label(face, self.style), face.rect.clipped(width, height)) else {
            return Ok(None);
        };
        let letters = (width.min(height) / 32.0).max(9.0);
        let scale = f64::from(letters) / FONT_HEIGHT * 0.75;
        let thickness = (letters / 16.0).round().max(1.0) as i32;
        let mut baseline = 0;
        let size = imgproc::get_text_size(&text, FONT, scale, thickness, &mut baseline)?;
        let pad = (letters / 4.0).round();
        let (background_width, background_height) = (size.width as f32 + 2.0 * pad, size.height as f32 + 2.0 * pad);
        let even = |v: f32| (v / 2.0).round() * 2.0;
        let x = even(rect.x.min(width - background_width).max(0.0));
        let above = rect.y - background_height;
        let y = even(if above >= 0.0 { above } else { rect.y.min((height - background_height).max(0.0)) });
        let (right, bottom) = (even(x + background_width), even(y + background_height));
        let background = Rect { x, y, w: right - x, h: bottom - y };
        let origin = ((x + pad) as i32, (y + pad) as i32 + size.height);
        Ok(Some(Label { text, background, origin, scale, thickness }))
    }

    /// The part of the image into which a face is drawn; `None` if it is empty.
    fn extent(&self, face: &Face) -> Result<Option<Region>, ImageError> {
        let boxed = self.style.boxes.then_some((face.rect, self.line as f32));
        let label = self.label(face)?.map(|label| (label.background, 1.0));
        let dots = self.dots(face).map(|(point, radius)| (Rect { x: point.x, y: point.y, w: 0.0, h: 0.0 }, radius));
        let parts = boxed.into_iter().chain(label).chain(dots);
        let (mut min, mut max) = (Point::new(f32::MAX, f32::MAX), Point::new(f32::MIN, f32::MIN));
        for (rect, margin) in parts {
            // As in `fixed`, so that this covers what is drawn for any coordinates. Antialiasing
            // and rounding add less than two pixels.
            let ends = |start: f32, end: f32| [start, end].map(|v| if v.is_nan() { 0.0 } else { v.clamp(MIN, MAX) });
            let margin = margin + 2.0;
            for x in ends(rect.x, rect.right()) {
                (min.x, max.x) = (min.x.min(x - margin), max.x.max(x + margin));
            }
            for y in ends(rect.y, rect.bottom()) {
                (min.y, max.y) = (min.y.min(y - margin), max.y.max(y + margin));
            }
        }
        let axis = |from: f32, to: f32, len: f32| {
            let (from, to) = (from.floor().max(0.0), to.ceil().min(len));
            (to > from).then_some((from as usize, (to - from) as usize))
        };
        let (x, y) = (axis(min.x, max.x, self.width), axis(min.y, max.y, self.height));
        Ok(x.zip(y).map(|((x, width), (y, height))| Region { x, y, width, height }))
    }
}

/// An image or a part of one.
struct Canvas<'c, 'a> {
    image: &'c mut ImageViewMut<'a>,
    /// Position of the part.
    offset: Point,
}

impl Canvas<'_, '_> {
    /// Calls `work` for each plane with its `Mat`, the colour in that plane and the scale of the
    /// plane relative to the image.
    fn each_plane(
        &mut self,
        rgb: Rgb,
        mut work: impl FnMut(&mut BoxedRefMut<'_, Mat>, Scalar, f32) -> opencv::Result<()>,
    ) -> Result<(), ImageError> {
        let info = self.image.info();
        let layout = info.format.layout();
        let yuv = info.coding.yuv_from_rgb(rgb);
        for plane in 0..info.format.planes() {
            let values = match layout.model {
                ColorModel::Gray => [luma(rgb).round() as u8; 3],
                ColorModel::Rgb => rgb,
                ColorModel::Yuv => yuv,
            };
            // Alpha and padding bytes are set to opaque.
            let mut color = Scalar::all(255.0);
            for (component, value) in layout.components.iter().zip(values) {
                if component.plane == plane {
                    color[component.offset] = f64::from(value);
                }
            }
            let scale = if plane > 0 && info.format.chroma_shift() != (0, 0) { 0.5 } else { 1.0 };
            work(&mut mat::mat_mut(self.image.plane_mut(plane))?, color, scale)?;
        }
        Ok(())
    }

    fn rectangle(&mut self, rect: Rect, line: i32, color: Rgb) -> Result<(), ImageError> {
        let offset = self.offset;
        self.each_plane(color, |mat, color, scale| {
            let from = fixed(Point::new(rect.x, rect.y), offset, scale);
            let to = fixed(Point::new(rect.right(), rect.bottom()), offset, scale);
            let width = scaled(line, scale);
            imgproc::rectangle_points(mat, from, to, color, width, imgproc::LINE_8, FRACTION_BITS)
        })
    }

    fn dot(&mut self, centre: Point, radius: f32, color: Rgb) -> Result<(), ImageError> {
        let offset = self.offset;
        self.each_plane(color, |mat, color, scale| {
            let radius = (radius * scale * (1 << FRACTION_BITS) as f32) as i32;
            let centre = fixed(centre, offset, scale);
            imgproc::circle(mat, centre, radius, color, imgproc::FILLED, imgproc::LINE_AA, FRACTION_BITS)
        })
    }

    /// Text on a background of `color`.
    fn label(&mut self, label: &Label, color: Rgb) -> Result<(), ImageError> {
        let Label { text, background, origin, scale: font_scale, thickness } = label;
        let offset = self.offset;
        self.each_plane(color, |mat, color, scale| {
            let at = |x: f32, y: f32| (((x - offset.x) * scale) as i32, ((y - offset.y) * scale) as i32);
            let ((left, top), (right, bottom)) =
                (at(background.x, background.y), at(background.right(), background.bottom()));
            let (from, to) = (CvPoint::new(left, top), CvPoint::new(right - 1, bottom - 1));
            imgproc::rectangle_points(mat, from, to, color, imgproc::FILLED, imgproc::LINE_8, 0)
        })?;
        let ink: Rgb = if luma(color) > 110.0 { [0; 3] } else { [255; 3] };
        let origin = CvPoint::new(origin.0 - offset.x as i32, origin.1 - offset.y as i32);
        self.each_plane(ink, |mat, color, scale| {
            // Text is drawn in luma only: scaled glyphs in the chroma planes would not match it.
            if scale < 1.0 {
                return Ok(());
            }
            imgproc::put_text(mat, text, origin, FONT, *font_scale, color, *thickness, imgproc::LINE_AA, false)
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

/// Range of the coordinates that are drawn. It ends outside of any image.
const MIN: f32 = -20_000.0;
const MAX: f32 = 40_000.0;

/// Fixed-point coordinates, relative to `offset`, in a plane of this scale. Values far outside of
/// any image are clamped to values that are still outside, so that they cannot overflow.
fn fixed(point: Point, offset: Point, scale: f32) -> CvPoint {
    let axis = |v: f32, offset: f32| ((v - offset) * scale).clamp(MIN, MAX) * (1 << FRACTION_BITS) as f32;
    CvPoint::new(axis(point.x, offset.x).round() as i32, axis(point.y, offset.y).round() as i32)
}

#[cfg(test)]
mod tests {
    use super::super::format::PixelFormat;
    use super::super::testing::{TestImage, tolerance};
    use super::*;
    use proptest::prelude::*;

    fn face(rect: Rect) -> Face {
        let points = std::array::from_fn(|i| Point::new(rect.x + 3.0 * i as f32, rect.y + rect.h / 2.0));
        Face { score: 0.9, rect, landmarks: Some(points), track_id: Some(12), ..Face::default() }
    }

    /// Draws into a grey image with padding.
    fn drawn(format: PixelFormat, width: usize, height: usize, faces: &[Face], style: &OverlayStyle) -> TestImage {
        let mut image = TestImage::new(ImageInfo::new(format, width, height), &vec![[50; 3]; width * height], 13);
        draw_faces(&mut image.view_mut(), faces, style, &mut OverlayBuffers::default()).unwrap();
        image.assert_padding();
        image
    }

    #[test]
    fn a_box_has_its_colour_in_each_format() {
        // The palette of the grey image has one colour.
        for format in PixelFormat::ALL.into_iter().filter(|format| *format != PixelFormat::Rgb8p) {
            let rgb = [10, 200, 90];
            let style =
                OverlayStyle { box_color: rgb, landmarks: false, score: false, id: false, ..OverlayStyle::default() };
            let image = drawn(format, 120, 90, &[face(Rect::new(20.0, 30.0, 60.0, 40.0))], &style);
            let expected = if format.layout().model == ColorModel::Gray { [luma(rgb).round() as u8; 3] } else { rgb };
            // The left edge is 2 pixels wide. The mean of chroma over 4 pixels is not its colour.
            let pixels = image.pixels();
            let found = pixels[50 * 120 + 20];
            for (found, expected) in found.into_iter().zip(expected) {
                let tolerance = if format.chroma_shift().0 == 2 { 100 } else { tolerance(format) };
                assert!((found - f32::from(expected)).abs() <= f32::from(tolerance), "{format}: {found} {expected}");
            }
            let inside = pixels[50 * 120 + 50];
            assert!(inside.iter().all(|value| (value - 50.0).abs() <= f32::from(tolerance(format))), "{format}");
        }
    }

    #[test]
    fn a_face_looks_the_same_in_every_format_without_subsampling() {
        let faces = [face(Rect::new(20.3, 30.7, 60.0, 40.0)), face(Rect::new(90.0, 50.0, 60.0, 60.0))];
        let [rgb, yuv, gray] = [PixelFormat::Rgb, PixelFormat::Y444, PixelFormat::Gray8]
            .map(|format| drawn(format, 120, 90, &faces, &OverlayStyle::default()));
        for format in PixelFormat::ALL {
            if format.chroma_shift() != (0, 0) || format.layout().has_palette {
                continue;
            }
            let image = drawn(format, 120, 90, &faces, &OverlayStyle::default());
            // Lines are blended in the components of the format.
            let expected = match format.layout().model {
                ColorModel::Gray => &gray,
                ColorModel::Rgb => &rgb,
                ColorModel::Yuv => &yuv,
            };
            for (at, (found, expected)) in image.pixels().into_iter().zip(expected.pixels()).enumerate() {
                let (x, y) = (at % 120, at / 120);
                for (found, expected) in found.into_iter().zip(expected) {
                    let tolerance = f32::from(tolerance(format));
                    assert!((found - expected).abs() <= tolerance, "{format} {x},{y}: {found} is not {expected}");
                }
            }
        }
    }

    #[test]
    fn samples_outside_of_the_drawing_keep_every_bit() {
        let (width, height) = (117, 91);
        let rect = Rect::new(20.0, 30.0, 60.0, 40.0);
        let style = OverlayStyle { landmarks: false, score: false, id: false, ..OverlayStyle::default() };
        for (format, interlaced) in PixelFormat::ALL.into_iter().flat_map(|format| [(format, false), (format, true)]) {
            let info = ImageInfo { interlaced, ..ImageInfo::new(format, width, height) };
            let mut image = TestImage::new(info, &vec![[50; 3]; width * height], 0);
            // Also bits that no component uses.
            for (index, byte) in image.planes.iter_mut().flatten().enumerate() {
                *byte = (index * index % 251) as u8;
            }
            let before = image.planes.clone();
            draw_faces(&mut image.view_mut(), &[face(rect)], &style, &mut OverlayBuffers::default()).unwrap();
            assert_ne!(image.planes, before, "{format}");
            for (plane, ((after, before), stride)) in image.planes.iter().zip(&before).zip(&image.strides).enumerate() {
                let (cols, rows) = format.plane_size(plane, width, height);
                let (cols_of, rows_of) = (width as f32 / cols as f32, height as f32 / rows as f32);
                let changed = (0..after.len()).filter(|at| after[*at] != before[*at]);
                for at in changed {
                    let (x, y) =
                        ((at % stride / format.channels(plane)) as f32 * cols_of, (at / stride) as f32 * rows_of);
                    let is_inside = |margin: f32| {
                        let margins = (margin + 2.0 * cols_of, margin + 2.0 * rows_of);
                        (rect.x - margins.0..rect.right() + margins.0).contains(&x)
                            && (rect.y - margins.1..rect.bottom() + margins.1).contains(&y)
                    };
                    let is_within = (rect.x + 12.0..rect.right() - 12.0).contains(&x)
                        && (rect.y + 12.0..rect.bottom() - 12.0).contains(&y);
                    assert!(is_inside(3.0) && !is_within, "{format}: {x},{y} in plane {plane} changed");
                }
            }
        }
    }

    #[test]
    fn disabled_parts_are_not_drawn() {
        let off = OverlayStyle { boxes: false, landmarks: false, score: false, id: false, ..OverlayStyle::default() };
        let unchanged = drawn(PixelFormat::Rgb, 64, 64, &[], &off).planes;
        let rect = Rect::new(10.0, 25.0, 30.0, 30.0);
        assert_eq!(drawn(PixelFormat::Rgb, 64, 64, &[face(rect)], &off).planes, unchanged);
        for style in [
            OverlayStyle { boxes: true, ..off },
            OverlayStyle { landmarks: true, ..off },
            OverlayStyle { score: true, ..off },
            OverlayStyle { id: true, ..off },
        ] {
            assert_ne!(drawn(PixelFormat::Rgb, 64, 64, &[face(rect)], &style).planes, unchanged, "{style:?}");
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
        #![proptest_config(ProptestConfig::with_cases(600))]
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
