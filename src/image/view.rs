//! Borrowed, stride-aware views of the pixel formats we take.
//!
//! A view checks its layout once, when it is made; afterwards its planes and rows never show padding
//! and never reach outside the memory they borrow.

use std::fmt;

use crate::yuv::YuvCoding;

/// The pixel formats that every part of this crate takes, 8 bits a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Luma plane, then one plane of interleaved Cb, Cr at half width and height.
    Nv12,
    /// Luma plane, then a Cb and a Cr plane, each at half width and height.
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
    /// All formats, in the order in which an element offers them.
    pub const ALL: [Self; 9] =
        [Self::Nv12, Self::I420, Self::Rgb, Self::Bgr, Self::Rgbx, Self::Bgrx, Self::Rgba, Self::Bgra, Self::Gray8];

    /// How many planes a picture of this format has: 1 to 3.
    pub const fn planes(self) -> usize {
        match self {
            Self::I420 => 3,
            Self::Nv12 => 2,
            _ => 1,
        }
    }

    /// Whether colour is stored as luma and two half-size colour differences.
    pub const fn is_yuv420(self) -> bool {
        matches!(self, Self::Nv12 | Self::I420)
    }

    /// Bytes a pixel of plane `plane`: 1 to 4.
    pub(crate) const fn channels(self, plane: usize) -> usize {
        match self {
            Self::Nv12 => 1 + plane,
            Self::I420 | Self::Gray8 => 1,
            Self::Rgb | Self::Bgr => 3,
            Self::Rgbx | Self::Bgrx | Self::Rgba | Self::Bgra => 4,
        }
    }

    /// Byte offsets of red, green and blue within a packed pixel; `None` for the planar formats and grey.
    pub(crate) const fn rgb_offsets(self) -> Option<[usize; 3]> {
        match self {
            Self::Rgb | Self::Rgbx | Self::Rgba => Some([0, 1, 2]),
            Self::Bgr | Self::Bgrx | Self::Bgra => Some([2, 1, 0]),
            Self::Nv12 | Self::I420 | Self::Gray8 => None,
        }
    }

    /// Bytes of a row, and rows, of plane `plane` of a picture of `width` x `height`.
    pub const fn plane_bytes(self, plane: usize, width: usize, height: usize) -> (usize, usize) {
        let (cols, rows) = self.plane_size(plane, width, height);
        (cols * self.channels(plane), rows)
    }

    /// Columns and rows of plane `plane` of a picture of `width` x `height`.
    pub(crate) const fn plane_size(self, plane: usize, width: usize, height: usize) -> (usize, usize) {
        if plane > 0 { (width.div_ceil(2), height.div_ceil(2)) } else { (width, height) }
    }
}

/// What a picture's memory looks like; the part that views share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// How pixels are stored.
    pub format: PixelFormat,
    /// Columns, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// How colour is coded in a YUV format.
    pub coding: YuvCoding,
}

/// A part of a picture, in whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Left column.
    pub x: usize,
    /// Top row.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// Why a view cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The picture has no pixels.
    #[error("a picture of {width}x{height} has no pixels")]
    Empty {
        /// Columns asked for.
        width: usize,
        /// Rows asked for.
        height: usize,
    },
    /// The number of planes does not fit the format.
    #[error("{format} has {expected} planes, {found} were given")]
    Planes {
        /// The format.
        format: PixelFormat,
        /// Planes that the format has.
        expected: usize,
        /// Planes given.
        found: usize,
    },
    /// A row is longer than the distance between rows.
    #[error("plane {plane} of {format}: a row takes {row} bytes, but the stride is {stride}")]
    Stride {
        /// The format.
        format: PixelFormat,
        /// Which plane.
        plane: usize,
        /// Bytes of a row.
        row: usize,
        /// The stride given.
        stride: usize,
    },
    /// The memory ends before the picture does.
    #[error("plane {plane} of {format} needs {needed} bytes, the memory has {found}")]
    TooShort {
        /// The format.
        format: PixelFormat,
        /// Which plane.
        plane: usize,
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        found: usize,
    },
    /// The region asked for is not inside the picture.
    #[error("the region {region:?} is not inside a picture of {width}x{height}")]
    Region {
        /// The region asked for.
        region: Region,
        /// Columns of the picture.
        width: usize,
        /// Rows of the picture.
        height: usize,
    },
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

/// Where one plane's pixels lie within its slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlaneLayout {
    pub(crate) cols: usize,
    pub(crate) rows: usize,
    pub(crate) channels: usize,
    pub(crate) stride: usize,
}

impl PlaneLayout {
    /// Bytes of pixels in a row.
    pub(crate) fn row_bytes(self) -> usize {
        self.cols * self.channels
    }

    /// Bytes from the first pixel to the end of the last.
    fn bytes(self) -> usize {
        (self.rows - 1).saturating_mul(self.stride).saturating_add(self.row_bytes())
    }
}

impl ImageInfo {
    /// An image description without YUV coding to speak of (BT.601, limited range).
    pub fn new(format: PixelFormat, width: usize, height: usize) -> Self {
        Self { format, width, height, coding: YuvCoding::default() }
    }

    fn whole(self) -> Region {
        Region { x: 0, y: 0, width: self.width, height: self.height }
    }

    /// Checks that `lengths` and `strides` hold this picture; gives each plane's layout for `region`
    /// and the byte at which the region begins.
    fn layout(
        self,
        lengths: impl ExactSizeIterator<Item = usize>,
        strides: &[usize],
        region: Region,
    ) -> Result<[(PlaneLayout, usize); 3], ImageError> {
        let Self { format, width, height, .. } = self;
        if width == 0 || height == 0 || region.width == 0 || region.height == 0 {
            return Err(ImageError::Empty { width: region.width, height: region.height });
        }
        let (expected, found) = (format.planes(), lengths.len().min(strides.len()));
        if found != expected {
            return Err(ImageError::Planes { format, expected, found });
        }
        let inside = |from: usize, len: usize, whole: usize| from.checked_add(len).is_some_and(|to| to <= whole);
        if !inside(region.x, region.width, width) || !inside(region.y, region.height, height) {
            return Err(ImageError::Region { region, width, height });
        }
        let mut planes = [(PlaneLayout::default(), 0); 3];
        for ((plane, slot), length) in planes.iter_mut().enumerate().zip(lengths) {
            let channels = format.channels(plane);
            let (cols, rows) = format.plane_size(plane, width, height);
            let whole = PlaneLayout { cols, rows, channels, stride: strides[plane] };
            if whole.row_bytes() > whole.stride {
                return Err(ImageError::Stride { format, plane, row: whole.row_bytes(), stride: whole.stride });
            }
            if whole.bytes() > length {
                return Err(ImageError::TooShort { format, plane, needed: whole.bytes(), found: length });
            }
            // An odd corner shares its colour sample with the pixel before it.
            let shift = usize::from(plane > 0);
            let (x, y) = (region.x >> shift, region.y >> shift);
            let (cols, rows) = format.plane_size(plane, region.width, region.height);
            let part = PlaneLayout { cols: cols.min(whole.cols - x), rows: rows.min(whole.rows - y), ..whole };
            *slot = (part, y * whole.stride + x * channels);
        }
        Ok(planes)
    }
}

/// One plane of a view, read only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plane<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) layout: PlaneLayout,
}

impl<'a> Plane<'a> {
    /// The pixels of row `row`, without padding.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        let start = row * self.layout.stride;
        &self.data[start..start + self.layout.row_bytes()]
    }

    /// Copies the pixels without padding between rows.
    ///
    /// # Panics
    /// If `pixels` is not as long as all rows together.
    pub(crate) fn copy_to(&self, pixels: &mut [u8]) {
        let PlaneLayout { rows, stride, .. } = self.layout;
        let row_bytes = self.layout.row_bytes();
        assert_eq!(pixels.len(), row_bytes * rows, "the plane has {rows} rows of {row_bytes} bytes");
        if stride == row_bytes {
            pixels.copy_from_slice(&self.data[..pixels.len()]);
        } else {
            for (index, row) in pixels.chunks_exact_mut(row_bytes).enumerate() {
                row.copy_from_slice(self.row(index));
            }
        }
    }
}

/// One plane of a view, writable.
#[derive(Debug)]
pub(crate) struct PlaneMut<'a> {
    pub(crate) data: &'a mut [u8],
    pub(crate) layout: PlaneLayout,
}

/// A picture in borrowed memory, read only.
///
/// ```
/// use retinaface::image::{ImageInfo, ImageView, PixelFormat};
/// // A 5 x 4 RGB picture whose rows begin every 16 bytes, as GStreamer lays it out.
/// let memory = [0u8; 64];
/// let view = ImageView::new(ImageInfo::new(PixelFormat::Rgb, 5, 4), &[&memory], &[16])?;
/// assert_eq!((view.width(), view.height()), (5, 4));
/// # Ok::<(), retinaface::image::ImageError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ImageView<'a> {
    info: ImageInfo,
    planes: [Option<Plane<'a>>; 3],
}

impl<'a> ImageView<'a> {
    /// A view of a whole picture: one slice and one stride (bytes from row to row) a plane.
    ///
    /// # Errors
    /// If the slices do not hold a picture of that description; nothing is read past their ends.
    pub fn new(info: ImageInfo, planes: &[&'a [u8]], strides: &[usize]) -> Result<Self, ImageError> {
        Self::cropped(info, planes, strides, info.whole())
    }

    /// A view of `region` of a picture that `info` describes. In the 4:2:0 formats an odd corner
    /// shares its colour sample with the pixel before it, so colour moves by half a sample there.
    ///
    /// # Errors
    /// As [`ImageView::new`], and if the region is empty or not inside the picture.
    pub fn cropped(
        info: ImageInfo,
        planes: &[&'a [u8]],
        strides: &[usize],
        region: Region,
    ) -> Result<Self, ImageError> {
        let layouts = info.layout(planes.iter().map(|plane| plane.len()), strides, region)?;
        let mut views = [None; 3];
        for ((view, data), (layout, offset)) in views.iter_mut().zip(planes).zip(layouts) {
            *view = Some(Plane { data: &data[offset..], layout });
        }
        Ok(Self { info: ImageInfo { width: region.width, height: region.height, ..info }, planes: views })
    }

    /// A part of this view.
    ///
    /// # Errors
    /// If the region is empty or not inside the view.
    pub fn crop(&self, region: Region) -> Result<Self, ImageError> {
        let planes = self.planes.iter().flatten();
        let (mut data, mut strides) = ([&[][..]; 3], [0; 3]);
        for ((data, stride), plane) in data.iter_mut().zip(&mut strides).zip(planes.clone()) {
            (*data, *stride) = (plane.data, plane.layout.stride);
        }
        let count = planes.count();
        Self::cropped(self.info, &data[..count], &strides[..count], region)
    }

    /// The description of what the view shows.
    pub fn info(&self) -> ImageInfo {
        self.info
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.info.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.info.height
    }

    /// The plane of that index; every format has plane 0.
    pub(crate) fn plane(&self, index: usize) -> Plane<'a> {
        self.planes[index].expect("the layout check filled every plane of the format")
    }
}

/// A picture in borrowed memory, writable.
#[derive(Debug)]
pub struct ImageViewMut<'a> {
    info: ImageInfo,
    planes: [Option<PlaneMut<'a>>; 3],
}

impl<'a> ImageViewMut<'a> {
    /// A writable view of a whole picture; see [`ImageView::new`].
    ///
    /// # Errors
    /// As [`ImageView::new`].
    pub fn new(info: ImageInfo, planes: Vec<&'a mut [u8]>, strides: &[usize]) -> Result<Self, ImageError> {
        Self::cropped(info, planes, strides, info.whole())
    }

    /// A writable view of `region`; see [`ImageView::cropped`].
    ///
    /// # Errors
    /// As [`ImageView::cropped`].
    pub fn cropped(
        info: ImageInfo,
        planes: Vec<&'a mut [u8]>,
        strides: &[usize],
        region: Region,
    ) -> Result<Self, ImageError> {
        let layouts = info.layout(planes.iter().map(|plane| plane.len()), strides, region)?;
        let mut views = [None, None, None];
        for ((view, data), (layout, offset)) in views.iter_mut().zip(planes).zip(layouts) {
            *view = Some(PlaneMut { data: &mut data[offset..], layout });
        }
        Ok(Self { info: ImageInfo { width: region.width, height: region.height, ..info }, planes: views })
    }

    /// The description of what the view shows.
    pub fn info(&self) -> ImageInfo {
        self.info
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.info.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.info.height
    }

    /// The plane of that index; every format has plane 0.
    pub(crate) fn plane_mut(&mut self, index: usize) -> &mut PlaneMut<'a> {
        self.planes[index].as_mut().expect("the layout check filled every plane of the format")
    }
}

/// A picture that owns its memory, without padding between rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedImage {
    info: ImageInfo,
    data: Vec<u8>,
}

impl OwnedImage {
    /// A packed or grey picture from tightly packed rows.
    ///
    /// # Errors
    /// If `data` is shorter than the picture, or the format has several planes.
    pub fn new(info: ImageInfo, data: Vec<u8>) -> Result<Self, ImageError> {
        let image = Self { info, data };
        image.try_view()?;
        Ok(image)
    }

    fn stride(&self) -> usize {
        self.info.width * self.info.format.channels(0)
    }

    fn try_view(&self) -> Result<ImageView<'_>, ImageError> {
        ImageView::new(self.info, &[&self.data], &[self.stride()])
    }

    /// A view of the whole picture.
    pub fn view(&self) -> ImageView<'_> {
        self.try_view().expect("checked when it was made")
    }

    /// A writable view of the whole picture.
    pub fn view_mut(&mut self) -> ImageViewMut<'_> {
        let stride = self.stride();
        ImageViewMut::new(self.info, vec![&mut self.data], &[stride]).expect("checked when it was made")
    }

    /// The pixels, row after row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_buffer_is_an_error_that_says_how_much_is_missing() {
        let memory = [0u8; 10];
        let error = ImageView::new(ImageInfo::new(PixelFormat::Gray8, 4, 4), &[&memory], &[4]).unwrap_err();
        assert_eq!(error, ImageError::TooShort { format: PixelFormat::Gray8, plane: 0, needed: 16, found: 10 });
    }

    #[test]
    fn a_stride_below_a_row_is_an_error() {
        let memory = [0u8; 100];
        let error = ImageView::new(ImageInfo::new(PixelFormat::Rgb, 4, 4), &[&memory], &[11]).unwrap_err();
        assert!(matches!(error, ImageError::Stride { row: 12, stride: 11, .. }), "{error}");
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let memory = [0u8; 16];
        for (width, height, stride) in
            [(usize::MAX / 8, 3, usize::MAX), (2, usize::MAX, 2), (1, usize::MAX, usize::MAX)]
        {
            let error = ImageView::new(ImageInfo::new(PixelFormat::Gray8, width, height), &[&memory], &[stride]);
            assert!(error.is_err());
        }
        let region = Region { x: usize::MAX, y: 0, width: 1, height: 1 };
        let info = ImageInfo::new(PixelFormat::Gray8, 4, 4);
        assert!(matches!(ImageView::cropped(info, &[&memory], &[4], region), Err(ImageError::Region { .. })));
    }

    /// Fills a picture so that every byte of a pixel is known from its place, and all padding is 0xEE.
    fn picture(info: ImageInfo, padding: usize) -> (Vec<Vec<u8>>, Vec<usize>) {
        (0..info.format.planes())
            .map(|plane| {
                let (cols, rows) = info.format.plane_size(plane, info.width, info.height);
                let stride = cols * info.format.channels(plane) + padding;
                let mut data = vec![0xEE; rows * stride];
                for row in 0..rows {
                    for (col, byte) in data[row * stride..][..stride - padding].iter_mut().enumerate() {
                        *byte = pattern(plane, row, col);
                    }
                }
                (data, stride)
            })
            .unzip()
    }

    /// Never 0xEE.
    fn pattern(plane: usize, row: usize, col: usize) -> u8 {
        ((plane * 71 + row * 31 + col * 7) % 0xEE) as u8
    }

    proptest! {
        #[test]
        fn rows_never_show_padding_whatever_the_stride(
            format in proptest::sample::select(&PixelFormat::ALL[..]),
            width in 1usize..70, height in 1usize..70, padding in 0usize..40,
            crop in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
        ) {
            let info = ImageInfo::new(format, width, height);
            let (data, strides) = picture(info, padding);
            let slices = data.iter().map(Vec::as_slice).collect::<Vec<_>>();
            let part = |at: f64, len: f64, whole: usize| {
                let from = (at * whole as f64) as usize;
                (from, 1 + (len * (whole - from - 1) as f64) as usize)
            };
            let (x, w) = part(crop.0, crop.2, width);
            let (y, h) = part(crop.1, crop.3, height);
            let region = Region { x, y, width: w, height: h };
            let view = ImageView::cropped(info, &slices, &strides, region).unwrap();
            prop_assert_eq!((view.width(), view.height()), (w, h));
            for index in 0..format.planes() {
                let plane = view.plane(index);
                let shift = usize::from(index > 0);
                let first = (x >> shift) * format.channels(index);
                for row in 0..plane.layout.rows {
                    for (col, byte) in plane.row(row).iter().enumerate() {
                        prop_assert_eq!(*byte, pattern(index, (y >> shift) + row, first + col));
                    }
                }
            }
        }
    }
}
