//! The geometry between a frame and the model's input.
//!
//! A frame is scaled to fit and put into the left top corner of the input; what is left over at the
//! right and at the bottom is padding. Both directions use the same two scale factors, so a point
//! comes back to where it was.

use crate::face::Point;

/// Both sides of an input are a multiple of the coarsest stride of the detector family.
pub const INPUT_MULTIPLE: usize = 32;

/// Longest side that a frame is resized to.
const LONGEST: usize = 16_384;

/// How large the model's input is made for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputSize {
    /// The frame's own size, unpadded.
    Native,
    /// The longer side in pixels; the other in proportion.
    Longest(usize),
    /// A model that takes one size only: width and height.
    Fixed(usize, usize),
}

impl From<u32> for InputSize {
    /// 0 is the frame's own size, anything else the longer side in pixels.
    fn from(size: u32) -> Self {
        if size == 0 { Self::Native } else { Self::Longest(size as usize) }
    }
}

/// Where a frame lies in the model's input. All sizes are (width, height) in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Letterbox {
    frame: (usize, usize),
    content: (usize, usize),
    input: (usize, usize),
}

impl Letterbox {
    /// The letterbox of a frame of `width` x `height`, each at least 1.
    pub fn new(width: usize, height: usize, size: InputSize) -> Self {
        Self::scaled(width, height, size, 1.0, 1)
    }

    /// The letterbox of a frame that is made `scale` times as large as `size` says, in an input whose sides are multiples
    /// of `multiple`. A fixed input holds no more than fits.
    pub fn scaled(width: usize, height: usize, size: InputSize, scale: f32, multiple: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let frame = (width, height);
        let longest = width.max(height);
        let resized = |factor: f64| {
            let side = |len: usize| ((len as f64 * factor).round() as usize).clamp(1, LONGEST);
            (side(width), side(height))
        };
        let scale = if scale.is_finite() { f64::from(scale.max(0.0)) } else { 1.0 };
        match size {
            InputSize::Native => {
                let content = if scale == 1.0 { frame } else { resized(scale) };
                let up = |len: usize| len.next_multiple_of(multiple.max(1));
                Self { frame, content, input: (up(content.0), up(content.1)) }
            }
            InputSize::Fixed(w, h) => {
                let (w, h) = (w.max(1), h.max(1));
                let fit = (w as f64 / width as f64).min(h as f64 / height as f64);
                let (cols, rows) = resized(fit * scale.min(1.0));
                Self { frame, content: (cols.min(w), rows.min(h)), input: (w, h) }
            }
            InputSize::Longest(wanted) => {
                let content = resized(wanted.max(1) as f64 / longest as f64 * scale);
                let up = |len: usize| len.next_multiple_of(INPUT_MULTIPLE.max(multiple));
                Self { frame, content, input: (up(content.0), up(content.1)) }
            }
        }
    }

    /// The frame's size.
    pub fn frame(&self) -> (usize, usize) {
        self.frame
    }

    /// The scaled frame's size within the input.
    pub fn content(&self) -> (usize, usize) {
        self.content
    }

    /// The model's input size.
    pub fn input(&self) -> (usize, usize) {
        self.input
    }

    fn scale(&self) -> (f32, f32) {
        (self.content.0 as f32 / self.frame.0 as f32, self.content.1 as f32 / self.frame.1 as f32)
    }

    /// From frame pixels to input pixels.
    pub fn input_from_frame(&self, frame: Point) -> Point {
        let (x, y) = self.scale();
        Point::new(frame.x * x, frame.y * y)
    }

    /// From input pixels back to frame pixels.
    pub fn frame_from_input(&self, input: Point) -> Point {
        let (x, y) = self.scale();
        Point::new(input.x / x, input.y / y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn full_hd_at_640_becomes_640_by_384_with_24_rows_of_padding() {
        let letterbox = Letterbox::new(1920, 1080, InputSize::Longest(640));
        assert_eq!(letterbox.content(), (640, 360));
        assert_eq!(letterbox.input(), (640, 384));
    }

    #[test]
    fn a_portrait_frame_is_padded_at_the_right() {
        let letterbox = Letterbox::new(1080, 1920, InputSize::Longest(640));
        assert_eq!(letterbox.content(), (360, 640));
        assert_eq!(letterbox.input(), (384, 640));
    }

    #[test]
    fn size_0_is_the_frame_itself() {
        let letterbox = Letterbox::new(333, 17, InputSize::from(0));
        assert_eq!((letterbox.content(), letterbox.input()), ((333, 17), (333, 17)));
    }

    #[test]
    fn a_fixed_input_holds_frames_of_any_shape() {
        let letterbox = Letterbox::new(1000, 3000, InputSize::Fixed(640, 640));
        assert_eq!((letterbox.content(), letterbox.input()), ((213, 640), (640, 640)));
    }

    #[test]
    fn a_scale_makes_the_content_larger_or_smaller_but_never_larger_than_a_fixed_input() {
        let scaled = |size, scale, multiple| {
            let letterbox = Letterbox::scaled(1920, 1080, size, scale, multiple);
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

    proptest! {
        #[test]
        fn a_point_comes_back_within_half_a_pixel(
            width in 1usize..9000, height in 1usize..9000, longest in 0u32..2048,
            x in 0.0f32..1.0, y in 0.0f32..1.0,
        ) {
            let letterbox = Letterbox::new(width, height, longest.into());
            let frame = Point::new(x * width as f32, y * height as f32);
            let input = letterbox.input_from_frame(frame);
            let (content_width, content_height) = letterbox.content();
            prop_assert!(input.x <= content_width as f32 + 0.01 && input.y <= content_height as f32 + 0.01);
            let back = letterbox.frame_from_input(input);
            prop_assert!((back.x - frame.x).abs() < 0.5 && (back.y - frame.y).abs() < 0.5);
        }

        #[test]
        fn the_input_holds_the_content_and_its_sides_are_multiples_of_32(
            width in 1usize..9000, height in 1usize..9000, longest in 1u32..2048,
        ) {
            let letterbox = Letterbox::new(width, height, longest.into());
            let ((cw, ch), (iw, ih)) = (letterbox.content(), letterbox.input());
            prop_assert!(cw >= 1 && ch >= 1 && iw - cw < 32 && ih - ch < 32);
            prop_assert_eq!((iw % 32, ih % 32), (0, 0));
            prop_assert_eq!(cw.max(ch), longest as usize);
        }
    }
}
