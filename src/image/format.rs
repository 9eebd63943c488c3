//! Pixel formats and image descriptions.

use std::fmt;

use super::yuv::YuvCoding;
use crate::geometry::{FrameSize, PixelAspect};

/// The supported pixel formats, with 8 bits per sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// A luma plane and a plane of interleaved Cb and Cr at half width and height.
    Nv12,
    /// A luma plane, a Cb plane and a Cr plane; both chroma planes at half width and height.
    I420,
    /// Packed red, green, blue.
    Rgb,
    /// Packed blue, green, red.
    Bgr,
    /// Packed red, green, blue and an unused byte.
    Rgbx,
    /// Packed blue, green, red and an unused byte.
    Bgrx,
    /// Packed red, green, blue, alpha.
    Rgba,
    /// Packed blue, green, red, alpha.
    Bgra,
    /// One plane of full-range luma.
    Gray8,
}

impl PixelFormat {
    /// All formats, in the order of preference in caps.
    pub const ALL: [Self; 9] =
        [Self::Nv12, Self::I420, Self::Rgb, Self::Bgr, Self::Rgbx, Self::Bgrx, Self::Rgba, Self::Bgra, Self::Gray8];

    /// Number of planes: 1 to 3.
    pub const fn planes(self) -> usize {
        match self {
            Self::I420 => 3,
            Self::Nv12 => 2,
            _ => 1,
        }
    }

    /// Whether this is a YUV format with 4:2:0 chroma subsampling.
    pub const fn is_yuv420(self) -> bool {
        matches!(self, Self::Nv12 | Self::I420)
    }

    /// Bytes per pixel of plane `plane`: 1 to 4.
    pub(crate) const fn channels(self, plane: usize) -> usize {
        match self {
            Self::Nv12 => 1 + plane,
            Self::I420 | Self::Gray8 => 1,
            Self::Rgb | Self::Bgr => 3,
            Self::Rgbx | Self::Bgrx | Self::Rgba | Self::Bgra => 4,
        }
    }

    /// Byte offsets of red, green and blue in a packed pixel; `None` for YUV formats and grey.
    pub(crate) const fn rgb_offsets(self) -> Option<[usize; 3]> {
        match self {
            Self::Rgb | Self::Rgbx | Self::Rgba => Some([0, 1, 2]),
            Self::Bgr | Self::Bgrx | Self::Bgra => Some([2, 1, 0]),
            Self::Nv12 | Self::I420 | Self::Gray8 => None,
        }
    }

    /// Bytes per row and number of rows of plane `plane` of an image of `width` x `height`.
    pub const fn plane_bytes(self, plane: usize, width: usize, height: usize) -> (usize, usize) {
        let (cols, rows) = self.plane_size(plane, width, height);
        (cols * self.channels(plane), rows)
    }

    /// Width and height of plane `plane` of an image of `width` x `height`.
    pub(crate) const fn plane_size(self, plane: usize, width: usize, height: usize) -> (usize, usize) {
        if plane > 0 { (width.div_ceil(2), height.div_ceil(2)) } else { (width, height) }
    }
}

/// The description of an image: pixel format, size, colour coding and pixel aspect ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// The pixel format.
    pub format: PixelFormat,
    /// Width in pixels, at least 1.
    pub width: usize,
    /// Height in pixels, at least 1.
    pub height: usize,
    /// The colour coding of YUV formats.
    pub coding: YuvCoding,
    /// Shape of a pixel.
    pub pixel_aspect: PixelAspect,
}

/// A rectangle of whole pixels in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Left edge.
    pub x: usize,
    /// Top edge.
    pub y: usize,
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
}

impl fmt::Display for PixelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nv12 => "NV12",
            Self::I420 => "I420",
            Self::Rgb => "RGB",
            Self::Bgr => "BGR",
            Self::Rgbx => "RGBx",
            Self::Bgrx => "BGRx",
            Self::Rgba => "RGBA",
            Self::Bgra => "BGRA",
            Self::Gray8 => "GRAY8",
        })
    }
}

impl ImageInfo {
    /// An image description with the default colour coding, BT.601 with limited range, and square
    /// pixels.
    pub fn new(format: PixelFormat, width: usize, height: usize) -> Self {
        Self { format, width, height, coding: YuvCoding::default(), pixel_aspect: PixelAspect::SQUARE }
    }

    /// Width, height and shape of a pixel.
    pub fn size(self) -> FrameSize {
        FrameSize { width: self.width, height: self.height, pixel_aspect: self.pixel_aspect }
    }

    /// The region that covers the whole image.
    pub(super) fn full_region(self) -> Region {
        Region { x: 0, y: 0, width: self.width, height: self.height }
    }
}
