//! Pixels that are not square.
//!
//! Recorders that store half of the width of a picture have pixels that are twice as wide as high.
//! Coordinates of faces always count stored pixels. Models receive square pixels.

use std::fmt;

/// The pixel aspect ratio: width of a pixel over its height, as `pixel-aspect-ratio` in caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PixelAspect {
    width: u32,
    height: u32,
}

impl PixelAspect {
    /// Square pixels.
    pub const SQUARE: Self = Self { width: 1, height: 1 };

    /// Pixels whose width and height have the ratio `width` to `height`. A ratio with a 0 says
    /// nothing and counts as square.
    pub const fn new(width: u32, height: u32) -> Self {
        if width == 0 || height == 0 { Self::SQUARE } else { Self { width, height } }
    }

    /// Width and height of a pixel in a common unit, each at least 1.
    pub const fn parts(self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Width over height.
    pub fn ratio(self) -> f64 {
        f64::from(self.width) / f64::from(self.height)
    }

    /// Factors for x and y that make the pixels square. Each is at least 1, so that no resolution
    /// is lost.
    pub fn stretch(self) -> (f64, f64) {
        let ratio = self.ratio();
        (ratio.max(1.0), ratio.recip().max(1.0))
    }
}

impl Default for PixelAspect {
    fn default() -> Self {
        Self::SQUARE
    }
}

impl fmt::Display for PixelAspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.width, self.height)
    }
}

/// A frame's size in pixels and the shape of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSize {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Shape of a pixel.
    pub pixel_aspect: PixelAspect,
}

impl FrameSize {
    /// Width over height of the displayed frame.
    pub fn display_aspect(self) -> f64 {
        self.width as f64 * self.pixel_aspect.ratio() / self.height.max(1) as f64
    }
}

impl From<(usize, usize)> for FrameSize {
    /// Width and height, with square pixels.
    fn from((width, height): (usize, usize)) -> Self {
        Self { width, height, pixel_aspect: PixelAspect::SQUARE }
    }
}
