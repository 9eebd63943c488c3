//! Pixel formats and image descriptions.

use std::fmt;

use super::layout::{ColorModel, Layout, SampleFormat, YUV410, YUV411, YUV420, YUV422, YUV444};
use super::yuv::YuvCoding;
use crate::geometry::{FrameSize, PixelAspect};

/// Declares the formats with their names in GStreamer and their layouts.
macro_rules! formats {
    ($($(#[doc = $doc:literal])+ $format:ident = $name:literal => $layout:expr;)+) => {
        /// The supported pixel formats.
        ///
        /// A direct format is processed as it is, see [`Self::is_direct`]; images in the others are
        /// converted to a direct format first, see [`super::UnpackBuffers`]. Alpha is ignored. RGB
        /// and luma without chroma are full-range.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PixelFormat {
            $($(#[doc = $doc])+ $format,)+
        }

        impl PixelFormat {
            /// All formats, in the order of preference in caps.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$format),+];

            /// The name in GStreamer, for example `NV12`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$format => $name,)+
                }
            }

            pub(crate) const fn layout(self) -> Layout {
                match self {
                    $(Self::$format => const { $layout },)+
                }
            }
        }
    };
}

formats! {
    /// A luma plane and a plane of interleaved Cb and Cr at half width and height.
    Nv12 = "NV12" => Layout::semi_planar(YUV420, SampleFormat::U8, [0, 1]);
    /// A luma plane, a Cb plane and a Cr plane; both chroma planes at half width and height.
    I420 = "I420" => Layout::planar(ColorModel::Yuv, YUV420, SampleFormat::U8, [0, 1, 2]);
    /// Packed red, green, blue.
    Rgb = "RGB" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 3, [0, 1, 2]);
    /// Packed blue, green, red.
    Bgr = "BGR" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 3, [2, 1, 0]);
    /// Packed red, green, blue and an unused byte.
    Rgbx = "RGBx" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 4, [0, 1, 2]);
    /// Packed blue, green, red and an unused byte.
    Bgrx = "BGRx" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 4, [2, 1, 0]);
    /// Packed red, green, blue, alpha.
    Rgba = "RGBA" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 4, [0, 1, 2]).with_alpha(3);
    /// Packed blue, green, red, alpha.
    Bgra = "BGRA" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 4, [2, 1, 0]).with_alpha(3);
    /// One plane of full-range luma.
    Gray8 = "GRAY8" => Layout::gray(SampleFormat::U8);
    /// As NV12, with Cr before Cb.
    Nv21 = "NV21" => Layout::semi_planar(YUV420, SampleFormat::U8, [1, 0]);
    /// As I420, with the Cr plane before the Cb plane.
    Yv12 = "YV12" => Layout::planar(ColorModel::Yuv, YUV420, SampleFormat::U8, [0, 2, 1]);
    /// A luma plane and a plane of interleaved Cb and Cr at half width.
    Nv16 = "NV16" => Layout::semi_planar(YUV422, SampleFormat::U8, [0, 1]);
    /// As NV16, with Cr before Cb.
    Nv61 = "NV61" => Layout::semi_planar(YUV422, SampleFormat::U8, [1, 0]);
    /// A luma plane and a plane of interleaved Cb and Cr at full size.
    Nv24 = "NV24" => Layout::semi_planar(YUV444, SampleFormat::U8, [0, 1]);
    /// Planes of luma, Cb and Cr; chroma at half width.
    Y42b = "Y42B" => Layout::planar(ColorModel::Yuv, YUV422, SampleFormat::U8, [0, 1, 2]);
    /// Planes of luma, Cb and Cr at full size.
    Y444 = "Y444" => Layout::planar(ColorModel::Yuv, YUV444, SampleFormat::U8, [0, 1, 2]);
    /// Planes of luma, Cb and Cr; chroma at a quarter of the width.
    Y41b = "Y41B" => Layout::planar(ColorModel::Yuv, YUV411, SampleFormat::U8, [0, 1, 2]);
    /// Planes of luma, Cb and Cr; chroma at a quarter of width and height.
    Yuv9 = "YUV9" => Layout::planar(ColorModel::Yuv, YUV410, SampleFormat::U8, [0, 1, 2]);
    /// As YUV9, with the Cr plane before the Cb plane.
    Yvu9 = "YVU9" => Layout::planar(ColorModel::Yuv, YUV410, SampleFormat::U8, [0, 2, 1]);
    /// Packed unused byte, red, green, blue.
    Xrgb = "xRGB" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 4, [1, 2, 3]);
    /// Packed unused byte, blue, green, red.
    Xbgr = "xBGR" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 4, [3, 2, 1]);
    /// Packed alpha, red, green, blue.
    Argb = "ARGB" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 4, [1, 2, 3]).with_alpha(0);
    /// Packed alpha, blue, green, red.
    Abgr = "ABGR" => Layout::packed(ColorModel::Rgb, SampleFormat::U8, 4, [3, 2, 1]).with_alpha(0);
    /// Packed luma, Cb, luma, Cr for each two pixels.
    Yuy2 = "YUY2" => Layout::packed_422(SampleFormat::U8, [0, 1, 3]);
    /// Packed Cb, luma, Cr, luma for each two pixels.
    Uyvy = "UYVY" => Layout::packed_422(SampleFormat::U8, [1, 0, 2]);
    /// Packed luma, Cr, luma, Cb for each two pixels.
    Yvyu = "YVYU" => Layout::packed_422(SampleFormat::U8, [0, 3, 1]);
    /// Packed Cr, luma, Cb, luma for each two pixels.
    Vyuy = "VYUY" => Layout::packed_422(SampleFormat::U8, [1, 2, 0]);
    /// Packed alpha, luma, Cb, Cr.
    Ayuv = "AYUV" => Layout::packed(ColorModel::Yuv, SampleFormat::U8, 4, [1, 2, 3]).with_alpha(0);
    /// Packed Cr, Cb, luma, alpha.
    Vuya = "VUYA" => Layout::packed(ColorModel::Yuv, SampleFormat::U8, 4, [2, 1, 0]).with_alpha(3);
    /// Planes of luma, Cb, Cr and alpha; chroma at half width and height.
    A420 = "A420" => Layout::planar(ColorModel::Yuv, YUV420, SampleFormat::U8, [0, 1, 2]).with_alpha_plane();
    /// Planes of luma, Cb, Cr and alpha; chroma at half width.
    A422 = "A422" => Layout::planar(ColorModel::Yuv, YUV422, SampleFormat::U8, [0, 1, 2]).with_alpha_plane();
    /// Planes of luma, Cb, Cr and alpha; chroma at full size.
    A444 = "A444" => Layout::planar(ColorModel::Yuv, YUV444, SampleFormat::U8, [0, 1, 2]).with_alpha_plane();
    /// Planes of green, blue and red.
    Gbr = "GBR" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::U8, [2, 0, 1]);
    /// Planes of green, blue, red and alpha.
    Gbra = "GBRA" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::U8, [2, 0, 1]).with_alpha_plane();
    /// Planes of red, green and blue.
    Rgbp = "RGBP" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::U8, [0, 1, 2]);
    /// Planes of blue, green and red.
    Bgrp = "BGRP" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::U8, [2, 1, 0]);
    /// A 16-bit word per pixel with 5 bits of red, 6 of green and 5 of blue, the first in the
    /// highest bits.
    Rgb16 = "RGB16" => Layout::bits(ColorModel::Rgb, 2, [(5, 11), (6, 5), (5, 0)]);
    /// A 16-bit word per pixel with 5 bits of blue, 6 of green and 5 of red, the first in the
    /// highest bits.
    Bgr16 = "BGR16" => Layout::bits(ColorModel::Rgb, 2, [(5, 0), (6, 5), (5, 11)]);
    /// A 16-bit word per pixel with 5 bits each of red, green and blue, the first in the highest
    /// bits.
    Rgb15 = "RGB15" => Layout::bits(ColorModel::Rgb, 2, [(5, 10), (5, 5), (5, 0)]);
    /// A 16-bit word per pixel with 5 bits each of blue, green and red, the first in the highest
    /// bits.
    Bgr15 = "BGR15" => Layout::bits(ColorModel::Rgb, 2, [(5, 0), (5, 5), (5, 10)]);
    /// A plane of indices and a palette of 256 entries of blue, green, red and alpha.
    Rgb8p = "RGB8P" => Layout::palette();
    /// As NV12, with 10 bits in the upper bits of 16.
    P010 = "P010_10LE" => Layout::semi_planar(YUV420, SampleFormat::HIGH10, [0, 1]);
    /// As NV12, with 12 bits in the upper bits of 16.
    P012 = "P012_LE" => Layout::semi_planar(YUV420, SampleFormat::HIGH12, [0, 1]);
    /// As NV12, with 16 bits.
    P016 = "P016_LE" => Layout::semi_planar(YUV420, SampleFormat::LE16, [0, 1]);
    /// Planes of luma, Cb and Cr with 10 bits, little-endian; chroma at half width and height.
    I420Le10 = "I420_10LE" => Layout::planar(ColorModel::Yuv, YUV420, SampleFormat::LE10, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 10 bits, big-endian; chroma at half width and height.
    I420Be10 = "I420_10BE" => Layout::planar(ColorModel::Yuv, YUV420, SampleFormat::BE10, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 12 bits, little-endian; chroma at half width and height.
    I420Le12 = "I420_12LE" => Layout::planar(ColorModel::Yuv, YUV420, SampleFormat::LE12, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 12 bits, big-endian; chroma at half width and height.
    I420Be12 = "I420_12BE" => Layout::planar(ColorModel::Yuv, YUV420, SampleFormat::BE12, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 10 bits, little-endian; chroma at half width.
    I422Le10 = "I422_10LE" => Layout::planar(ColorModel::Yuv, YUV422, SampleFormat::LE10, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 10 bits, big-endian; chroma at half width.
    I422Be10 = "I422_10BE" => Layout::planar(ColorModel::Yuv, YUV422, SampleFormat::BE10, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 12 bits, little-endian; chroma at half width.
    I422Le12 = "I422_12LE" => Layout::planar(ColorModel::Yuv, YUV422, SampleFormat::LE12, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 12 bits, big-endian; chroma at half width.
    I422Be12 = "I422_12BE" => Layout::planar(ColorModel::Yuv, YUV422, SampleFormat::BE12, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 10 bits, little-endian; chroma at full size.
    Y444Le10 = "Y444_10LE" => Layout::planar(ColorModel::Yuv, YUV444, SampleFormat::LE10, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 10 bits, big-endian; chroma at full size.
    Y444Be10 = "Y444_10BE" => Layout::planar(ColorModel::Yuv, YUV444, SampleFormat::BE10, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 12 bits, little-endian; chroma at full size.
    Y444Le12 = "Y444_12LE" => Layout::planar(ColorModel::Yuv, YUV444, SampleFormat::LE12, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 12 bits, big-endian; chroma at full size.
    Y444Be12 = "Y444_12BE" => Layout::planar(ColorModel::Yuv, YUV444, SampleFormat::BE12, [0, 1, 2]);
    /// Planes of luma, Cb and Cr with 16 bits, little-endian, at full size.
    Y444Le16 = "Y444_16LE" => Layout::planar(ColorModel::Yuv, YUV444, SampleFormat::LE16, [0, 1, 2]);
    /// Planes of luma, Cb, Cr and alpha with 10 bits, little-endian; chroma at half width and
    /// height.
    A420Le10 = "A420_10LE" => Layout::planar(ColorModel::Yuv, YUV420, SampleFormat::LE10, [0, 1, 2]).with_alpha_plane();
    /// Planes of luma, Cb, Cr and alpha with 10 bits, big-endian; chroma at half width and
    /// height.
    A420Be10 = "A420_10BE" => Layout::planar(ColorModel::Yuv, YUV420, SampleFormat::BE10, [0, 1, 2]).with_alpha_plane();
    /// Planes of luma, Cb, Cr and alpha with 10 bits, little-endian; chroma at half width.
    A422Le10 = "A422_10LE" => Layout::planar(ColorModel::Yuv, YUV422, SampleFormat::LE10, [0, 1, 2]).with_alpha_plane();
    /// Planes of luma, Cb, Cr and alpha with 10 bits, big-endian; chroma at half width.
    A422Be10 = "A422_10BE" => Layout::planar(ColorModel::Yuv, YUV422, SampleFormat::BE10, [0, 1, 2]).with_alpha_plane();
    /// Planes of luma, Cb, Cr and alpha with 10 bits, little-endian; chroma at full size.
    A444Le10 = "A444_10LE" => Layout::planar(ColorModel::Yuv, YUV444, SampleFormat::LE10, [0, 1, 2]).with_alpha_plane();
    /// Planes of luma, Cb, Cr and alpha with 10 bits, big-endian; chroma at full size.
    A444Be10 = "A444_10BE" => Layout::planar(ColorModel::Yuv, YUV444, SampleFormat::BE10, [0, 1, 2]).with_alpha_plane();
    /// Planes of green, blue and red with 10 bits, little-endian.
    GbrLe10 = "GBR_10LE" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::LE10, [2, 0, 1]);
    /// Planes of green, blue, red and alpha with 10 bits, little-endian.
    GbraLe10 = "GBRA_10LE" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::LE10, [2, 0, 1]).with_alpha_plane();
    /// Planes of green, blue and red with 10 bits, big-endian.
    GbrBe10 = "GBR_10BE" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::BE10, [2, 0, 1]);
    /// Planes of green, blue, red and alpha with 10 bits, big-endian.
    GbraBe10 = "GBRA_10BE" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::BE10, [2, 0, 1]).with_alpha_plane();
    /// Planes of green, blue and red with 12 bits, little-endian.
    GbrLe12 = "GBR_12LE" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::LE12, [2, 0, 1]);
    /// Planes of green, blue, red and alpha with 12 bits, little-endian.
    GbraLe12 = "GBRA_12LE" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::LE12, [2, 0, 1]).with_alpha_plane();
    /// Planes of green, blue and red with 12 bits, big-endian.
    GbrBe12 = "GBR_12BE" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::BE12, [2, 0, 1]);
    /// Planes of green, blue, red and alpha with 12 bits, big-endian.
    GbraBe12 = "GBRA_12BE" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::BE12, [2, 0, 1]).with_alpha_plane();
    /// Planes of green, blue and red with 16 bits, little-endian.
    GbrLe16 = "GBR_16LE" => Layout::planar(ColorModel::Rgb, YUV444, SampleFormat::LE16, [2, 0, 1]);
    /// One plane of full-range luma with 16 bits, little-endian.
    Gray16Le = "GRAY16_LE" => Layout::gray(SampleFormat::LE16);
    /// One plane of full-range luma with 16 bits, big-endian.
    Gray16Be = "GRAY16_BE" => Layout::gray(SampleFormat::BE16);
    /// One plane of full-range luma with 10 bits in the lower bits of 16, little-endian.
    Gray10Le16 = "GRAY10_LE16" => Layout::gray(SampleFormat::LE10);
    /// As YUY2, with 10 bits in the upper bits of 16.
    Y210 = "Y210" => Layout::packed_422(SampleFormat::HIGH10, [0, 1, 3]);
    /// As YUY2, with 12 bits in the upper bits of 16.
    Y212 = "Y212_LE" => Layout::packed_422(SampleFormat::HIGH12, [0, 1, 3]);
    /// A 32-bit word per pixel with 2 bits of alpha and 10 each of Cr, luma and Cb, alpha in the
    /// highest bits.
    Y410 = "Y410" => Layout::bits(ColorModel::Yuv, 4, [(10, 10), (10, 0), (10, 20)]).with_alpha_bits(2, 30);
    /// Packed Cb, luma, Cr and alpha with 12 bits in the upper bits of 16.
    Y412 = "Y412_LE" => Layout::packed(ColorModel::Yuv, SampleFormat::HIGH12, 4, [1, 0, 2]).with_alpha(3);
    /// A 32-bit word per pixel with 2 bits of alpha and 10 each of red, green and blue, alpha in
    /// the highest bits.
    Bgr10a2 = "BGR10A2_LE" => Layout::bits(ColorModel::Rgb, 4, [(10, 20), (10, 10), (10, 0)]).with_alpha_bits(2, 30);
    /// A 32-bit word per pixel with 2 bits of alpha and 10 each of blue, green and red, alpha in
    /// the highest bits.
    Rgb10a2 = "RGB10A2_LE" => Layout::bits(ColorModel::Rgb, 4, [(10, 0), (10, 10), (10, 20)]).with_alpha_bits(2, 30);
    /// Packed alpha, red, green and blue with 16 bits, little-endian.
    Argb64 = "ARGB64" => Layout::packed(ColorModel::Rgb, SampleFormat::LE16, 4, [1, 2, 3]).with_alpha(0);
}

impl PixelFormat {
    /// The format with this name in GStreamer; `None` if it is not supported.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Number of planes: 1 to 4.
    pub fn planes(self) -> usize {
        self.layout().planes().len()
    }

    /// Whether the planes are processed as they are: 8 bits per sample in planes of luma and
    /// chroma, packed RGB, or luma only.
    pub const fn is_direct(self) -> bool {
        self.layout().is_direct()
    }

    /// Whether the format has luma, Cb and Cr.
    pub fn is_yuv(self) -> bool {
        self.layout().model == ColorModel::Yuv
    }

    /// Binary logarithm of the chroma subsampling: (1, 1) for 4:2:0, (0, 0) without subsampling.
    pub const fn chroma_shift(self) -> (u32, u32) {
        self.layout().chroma_shift
    }

    /// Whether Cr precedes Cb, in the order of planes or in pairs.
    pub(crate) fn is_cr_first(self) -> bool {
        let [_, cb, cr] = self.layout().components;
        self.is_yuv() && (cr.plane, cr.offset) < (cb.plane, cb.offset)
    }

    /// Bytes per column of plane `plane`. In a direct format a column is a pixel or a chroma
    /// sample, and this is the number of channels: 1 to 4.
    pub(crate) fn channels(self, plane: usize) -> usize {
        self.layout().planes()[plane].bytes
    }

    /// Byte offsets of red, green and blue in a packed pixel of a direct format; `None` for all
    /// other formats.
    pub(crate) fn rgb_offsets(self) -> Option<[usize; 3]> {
        let layout = self.layout();
        let is_packed_rgb = layout.model == ColorModel::Rgb && layout.is_direct();
        is_packed_rgb.then(|| layout.components.map(|component| component.offset))
    }

    /// Bytes per row and number of rows of plane `plane` of an image of `width` x `height`.
    pub fn plane_bytes(self, plane: usize, width: usize, height: usize) -> (usize, usize) {
        let (cols, rows) = self.plane_size(plane, width, height);
        (cols * self.channels(plane), rows)
    }

    /// Columns and rows of plane `plane` of an image of `width` x `height`.
    pub(crate) fn plane_size(self, plane: usize, width: usize, height: usize) -> (usize, usize) {
        let layout = self.layout();
        if layout.has_palette && plane == 1 {
            return (1, 256);
        }
        let (x, y) = layout.planes()[plane].shift;
        (width.div_ceil(1 << x), height.div_ceil(1 << y))
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
    /// The rows of a subsampled chroma plane belong to the top and the bottom field in turn, as in
    /// interlaced video. Otherwise they belong to adjacent lines.
    pub interlaced: bool,
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
        f.write_str(self.name())
    }
}

impl ImageInfo {
    /// The description of a progressive image with the default colour coding, BT.601 with limited
    /// range, and square pixels.
    pub fn new(format: PixelFormat, width: usize, height: usize) -> Self {
        let (coding, pixel_aspect) = (YuvCoding::default(), PixelAspect::SQUARE);
        Self { format, width, height, coding, pixel_aspect, interlaced: false }
    }

    /// Width, height and shape of a pixel.
    pub fn size(self) -> FrameSize {
        FrameSize { width: self.width, height: self.height, pixel_aspect: self.pixel_aspect }
    }

    /// Whether the planes are processed as they are. Chroma rows that belong to fields are not.
    pub(crate) fn is_direct(self) -> bool {
        self.format.is_direct() && !self.has_field_chroma()
    }

    /// Whether chroma rows belong to fields.
    pub(crate) fn has_field_chroma(self) -> bool {
        self.interlaced && self.format.chroma_shift().1 > 0
    }

    /// The region that covers the whole image.
    pub(super) fn full_region(self) -> Region {
        Region { x: 0, y: 0, width: self.width, height: self.height }
    }
}
