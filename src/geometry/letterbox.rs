//! The letterbox: how a frame maps to the model's input.
//!
//! The frame is scaled and placed in the top left corner of the input. The rest of the input, on
//! the right and at the bottom, is padding. Both directions use the same scale factors, so that a
//! point maps back to its position. The scale factors of x and y differ if the pixels of the frame are
//! not square: those of the input always are.

use super::aspect::FrameSize;
use super::face::Point;

/// Width and height of an input are multiples of this: the largest stride of the known detectors.
pub(crate) const INPUT_MULTIPLE: usize = 32;

/// Maximum width and height of a scaled frame, in pixels.
const MAX_SIDE: usize = 16_384;

/// The size of the model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputSize {
    /// The size of the frame in square pixels, without padding.
    Native,
    /// The longer side in pixels; the other side follows from the aspect ratio of the frame.
    Longest(usize),
    /// Width and height of a model with a fixed input size.
    Fixed(usize, usize),
}

impl From<u32> for InputSize {
    /// 0 is the size of the frame; any other value is the longer side in pixels.
    fn from(size: u32) -> Self {
        if size == 0 { Self::Native } else { Self::Longest(size as usize) }
    }
}

/// The mapping between a frame and the model's input. All sizes are (width, height) in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Letterbox {
    frame: (usize, usize),
    content: (usize, usize),
    input: (usize, usize),
}

impl Letterbox {
    /// The letterbox of a frame, whose width and height are at least 1.
    pub fn new(frame: impl Into<FrameSize>, size: InputSize) -> Self {
        Self::scaled(frame, size, 1.0, 1)
    }

    /// The letterbox of a frame, scaled to `size` and then by `scale`.
    ///
    /// Width and height of the input are multiples of `size_multiple`. In an input of fixed size
    /// the scale is at most 1. A `scale` that is not finite counts as 1.
    pub fn scaled(frame: impl Into<FrameSize>, size: InputSize, scale: f32, size_multiple: usize) -> Self {
        let FrameSize { width, height, pixel_aspect } = frame.into();
        let frame = (width.max(1), height.max(1));
        let (stretch_x, stretch_y) = pixel_aspect.stretch();
        // The size of the frame in square pixels.
        let (width, height) = (frame.0 as f64 * stretch_x, frame.1 as f64 * stretch_y);
        let longest = width.max(height);
        let resized = |factor: f64| {
            let side = |len: f64| ((len * factor).round() as usize).clamp(1, MAX_SIDE);
            (side(width), side(height))
        };
        let scale = if scale.is_finite() { f64::from(scale.max(0.0)) } else { 1.0 };
        match size {
            InputSize::Native => {
                // The size of a frame is not limited. Only stretching can exceed the limit.
                let fit = (MAX_SIDE.max(frame.0).max(frame.1) as f64 / longest).min(1.0);
                let content = if scale == 1.0 && pixel_aspect.ratio() == 1.0 { frame } else { resized(scale * fit) };
                let round_up = |len: usize| len.next_multiple_of(size_multiple.max(1));
                Self { frame, content, input: (round_up(content.0), round_up(content.1)) }
            }
            InputSize::Fixed(w, h) => {
                let (w, h) = (w.max(1), h.max(1));
                let fit = (w as f64 / width).min(h as f64 / height);
                let (cols, rows) = resized(fit * scale.min(1.0));
                Self { frame, content: (cols.min(w), rows.min(h)), input: (w, h) }
            }
            InputSize::Longest(side) => {
                let content = resized(side.max(1) as f64 / longest * scale);
                let round_up = |len: usize| len.next_multiple_of(INPUT_MULTIPLE.max(size_multiple));
                Self { frame, content, input: (round_up(content.0), round_up(content.1)) }
            }
        }
    }

    /// This letterbox with more padding: its input has at least this width and height.
    pub(crate) fn padded(self, (width, height): (usize, usize)) -> Self {
        Self { input: (self.input.0.max(width), self.input.1.max(height)), ..self }
    }

    /// Size of the frame, in stored pixels.
    pub fn frame(&self) -> (usize, usize) {
        self.frame
    }

    /// Size of the scaled frame within the input.
    pub fn content(&self) -> (usize, usize) {
        self.content
    }

    /// Size of the model's input.
    pub fn input(&self) -> (usize, usize) {
        self.input
    }

    fn scale(&self) -> (f32, f32) {
        (self.content.0 as f32 / self.frame.0 as f32, self.content.1 as f32 / self.frame.1 as f32)
    }

    /// Maps a point from frame pixels to input pixels.
    pub fn input_from_frame(&self, frame: Point) -> Point {
        let (x, y) = self.scale();
        Point::new(frame.x * x, frame.y * y)
    }

    /// Maps a point from input pixels to frame pixels.
    pub fn frame_from_input(&self, input: Point) -> Point {
        let (x, y) = self.scale();
        Point::new(input.x / x, input.y / y)
    }
}

#[cfg(test)]
mod tests {
    use super::super::aspect::PixelAspect;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn full_hd_at_640_becomes_640_by_384_with_24_rows_of_padding() {
        let letterbox = Letterbox::new((1920, 1080), InputSize::Longest(640));
        assert_eq!(letterbox.content(), (640, 360));
        assert_eq!(letterbox.input(), (640, 384));
    }

    #[test]
    fn a_portrait_frame_is_padded_on_the_right() {
        let letterbox = Letterbox::new((1080, 1920), InputSize::Longest(640));
        assert_eq!(letterbox.content(), (360, 640));
        assert_eq!(letterbox.input(), (384, 640));
    }

    #[test]
    fn size_0_is_the_size_of_the_frame() {
        let letterbox = Letterbox::new((333, 17), InputSize::from(0));
        assert_eq!((letterbox.content(), letterbox.input()), ((333, 17), (333, 17)));
    }

    #[test]
    fn a_fixed_input_fits_any_aspect_ratio() {
        let letterbox = Letterbox::new((1000, 3000), InputSize::Fixed(640, 640));
        assert_eq!((letterbox.content(), letterbox.input()), ((213, 640), (640, 640)));
    }

    #[test]
    fn the_scale_resizes_the_content_up_to_a_fixed_input() {
        let scaled = |size, scale, size_multiple| {
            let letterbox = Letterbox::scaled((1920, 1080), size, scale, size_multiple);
            (letterbox.content(), letterbox.input())
        };
        assert_eq!(scaled(InputSize::Longest(640), 0.25, 1), ((160, 90), (160, 96)));
        assert_eq!(scaled(InputSize::Longest(640), 1.5, 1), ((960, 540), (960, 544)));
        assert_eq!(scaled(InputSize::Native, 0.5, 1), ((960, 540), (960, 540)));
        assert_eq!(scaled(InputSize::Native, 1.0, 32), ((1920, 1080), (1920, 1088)));
        assert_eq!(scaled(InputSize::Fixed(640, 640), 0.5, 1), ((320, 180), (640, 640)));
        assert_eq!(scaled(InputSize::Fixed(640, 640), 3.0, 1), ((640, 360), (640, 640)));
        assert_eq!(scaled(InputSize::Native, f32::INFINITY, 1), scaled(InputSize::Native, 1.0, 1));
        assert_eq!(scaled(InputSize::Longest(640), 0.0, 1), ((1, 1), (32, 32)));
    }

    #[test]
    fn the_input_shows_square_pixels() {
        let frame = |width, height, pixel_aspect| FrameSize { width, height, pixel_aspect };
        // 704 x 576 stored pixels of 16:11 are displayed as 1024 x 576.
        let wide = frame(704, 576, PixelAspect::new(16, 11));
        let letterbox = Letterbox::new(wide, InputSize::Longest(640));
        assert_eq!((letterbox.content(), letterbox.input()), ((640, 360), (640, 384)));
        let corner = letterbox.frame_from_input(Point::new(640.0, 360.0));
        assert!((corner.x - 704.0).abs() < 0.01 && (corner.y - 576.0).abs() < 0.01, "{corner:?}");
        assert_eq!(Letterbox::new(wide, InputSize::Native).content(), (1024, 576));
        // No axis is shrunk: rows that are missing are interpolated.
        let high = frame(640, 180, PixelAspect::new(1, 2));
        assert_eq!(Letterbox::new(high, InputSize::Native).content(), (640, 360));
        assert_eq!(Letterbox::new(high, InputSize::Fixed(320, 320)).content(), (320, 180));
        // An absurd ratio cannot exhaust the memory.
        let absurd = frame(1920, 1080, PixelAspect::new(u32::MAX, 1));
        let (cols, rows) = Letterbox::new(absurd, InputSize::Native).content();
        assert!(cols <= MAX_SIDE && rows >= 1, "{cols}x{rows}");
    }

    proptest! {
        #[test]
        fn a_point_maps_back_within_half_a_pixel(
            width in 1usize..9000, height in 1usize..9000, longest in 0u32..2048,
            x in 0.0f32..1.0, y in 0.0f32..1.0,
        ) {
            let letterbox = Letterbox::new((width, height), longest.into());
            let frame = Point::new(x * width as f32, y * height as f32);
            let input = letterbox.input_from_frame(frame);
            let (content_width, content_height) = letterbox.content();
            prop_assert!(input.x <= content_width as f32 + 0.01 && input.y <= content_height as f32 + 0.01);
            let back = letterbox.frame_from_input(input);
            prop_assert!((back.x - frame.x).abs() < 0.5 && (back.y - frame.y).abs() < 0.5);
        }

        #[test]
        fn the_input_contains_the_content_and_is_a_multiple_of_32(
            width in 1usize..9000, height in 1usize..9000, longest in 1u32..2048,
        ) {
            let letterbox = Letterbox::new((width, height), longest.into());
            let ((cw, ch), (iw, ih)) = (letterbox.content(), letterbox.input());
            prop_assert!(cw >= 1 && ch >= 1 && iw - cw < 32 && ih - ch < 32);
            prop_assert_eq!((iw % 32, ih % 32), (0, 0));
            prop_assert_eq!(cw.max(ch), longest as usize);
        }
    }
}
