//! Stride-aware views of images in borrowed memory.
//!
//! The constructor of a view checks the layout once. Planes and rows of a view therefore never
//! contain padding and never extend beyond the borrowed memory.

use super::error::ImageError;
use super::format::{ImageInfo, Region};

/// Maximum number of planes of a format.
pub(crate) const MAX_PLANES: usize = 4;

/// The layout of a plane in its slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlaneLayout {
    pub(crate) cols: usize,
    pub(crate) rows: usize,
    pub(crate) channels: usize,
    pub(crate) stride: usize,
}

impl PlaneLayout {
    /// Bytes per row, without padding.
    pub(crate) fn row_bytes(self) -> usize {
        self.cols * self.channels
    }

    /// Bytes from the first pixel to the end of the last pixel.
    fn bytes(self) -> usize {
        (self.rows - 1).saturating_mul(self.stride).saturating_add(self.row_bytes())
    }
}

impl ImageInfo {
    /// Checks that planes of `lengths` bytes with `strides` contain this image. Returns for each
    /// plane the layout of `region` and the byte offset of its first pixel.
    ///
    /// In formats that are not direct, pixels of `region` can start within a column. The layouts
    /// are then those of the whole image.
    fn layout(
        self,
        lengths: impl ExactSizeIterator<Item = usize>,
        strides: &[usize],
        region: Region,
    ) -> Result<[(PlaneLayout, usize); MAX_PLANES], ImageError> {
        let Self { format, width, height, .. } = self;
        if width == 0 || height == 0 || region.width == 0 || region.height == 0 {
            return Err(ImageError::Empty { width: region.width, height: region.height });
        }
        let (expected, found) = (format.planes(), lengths.len().min(strides.len()));
        if found != expected {
            return Err(ImageError::Planes { format, expected, found });
        }
        let inside = |start: usize, len: usize, limit: usize| start.checked_add(len).is_some_and(|end| end <= limit);
        if !inside(region.x, region.width, width) || !inside(region.y, region.height, height) {
            return Err(ImageError::Region { region, width, height });
        }
        let is_direct = self.is_direct();
        let mut planes = [(PlaneLayout::default(), 0); MAX_PLANES];
        for ((plane, slot), length) in planes.iter_mut().enumerate().zip(lengths) {
            let channels = format.channels(plane);
            let (cols, rows) = format.plane_size(plane, width, height);
            let full = PlaneLayout { cols, rows, channels, stride: strides[plane] };
            if full.row_bytes() > full.stride {
                return Err(ImageError::Stride { format, plane, row: full.row_bytes(), stride: full.stride });
            }
            if full.bytes() > length {
                return Err(ImageError::TooShort { format, plane, needed: full.bytes(), found: length });
            }
            if !is_direct {
                *slot = (full, 0);
                continue;
            }
            // A region at an odd offset shares its first chroma sample with the pixel before it.
            let (shift_x, shift_y) = if plane > 0 { format.chroma_shift() } else { (0, 0) };
            let (x, y) = (region.x >> shift_x, region.y >> shift_y);
            let (cols, rows) = format.plane_size(plane, region.width, region.height);
            let part = PlaneLayout { cols: cols.min(full.cols - x), rows: rows.min(full.rows - y), ..full };
            *slot = (part, y * full.stride + x * channels);
        }
        Ok(planes)
    }

    /// The image of `region`, and the position of its first pixel in the planes of
    /// [`Self::layout`].
    fn part(self, region: Region) -> (Self, (usize, usize)) {
        let origin = if self.is_direct() { (0, 0) } else { (region.x, region.y) };
        (Self { width: region.width, height: region.height, ..self }, origin)
    }
}

/// One plane of a view, read-only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plane<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) layout: PlaneLayout,
}

impl<'a> Plane<'a> {
    /// The bytes of row `row`, without padding.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        let start = row * self.layout.stride;
        &self.data[start..start + self.layout.row_bytes()]
    }

    /// Copies the plane to `pixels`, without padding between rows.
    ///
    /// # Panics
    /// If `pixels` does not have the length of all rows.
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

impl PlaneMut<'_> {
    fn as_plane(&self) -> Plane<'_> {
        Plane { data: self.data, layout: self.layout }
    }
}

/// A read-only view of an image in borrowed memory.
///
/// ```
/// use retinaface::image::{ImageInfo, ImageView, PixelFormat};
/// // An RGB image of 5 x 4 pixels with a stride of 16 bytes, as GStreamer allocates it.
/// let memory = [0u8; 64];
/// let view = ImageView::new(ImageInfo::new(PixelFormat::Rgb, 5, 4), &[&memory], &[16])?;
/// assert_eq!((view.width(), view.height()), (5, 4));
/// # Ok::<(), retinaface::image::ImageError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ImageView<'a> {
    info: ImageInfo,
    /// Position of the first pixel in the planes; (0, 0) in direct formats.
    origin: (usize, usize),
    planes: [Option<Plane<'a>>; MAX_PLANES],
}

impl<'a> ImageView<'a> {
    /// A view of a whole image, with one slice and one stride (in bytes) per plane.
    ///
    /// # Errors
    /// If the slices and strides do not fit `info`.
    pub fn new(info: ImageInfo, planes: &[&'a [u8]], strides: &[usize]) -> Result<Self, ImageError> {
        Self::cropped(info, planes, strides, info.full_region())
    }

    /// A view of `region` of the image that `info` describes.
    ///
    /// In formats with chroma subsampling a region at an odd offset shares its first chroma sample
    /// with the pixel before it, which shifts the chroma by half a sample.
    ///
    /// # Errors
    /// As [`ImageView::new`], and if the region is empty or not inside the image.
    pub fn cropped(
        info: ImageInfo,
        planes: &[&'a [u8]],
        strides: &[usize],
        region: Region,
    ) -> Result<Self, ImageError> {
        let layouts = info.layout(planes.iter().map(|plane| plane.len()), strides, region)?;
        let mut views = [None; MAX_PLANES];
        for ((view, data), (layout, offset)) in views.iter_mut().zip(planes).zip(layouts) {
            *view = Some(Plane { data: &data[offset..], layout });
        }
        let (info, origin) = info.part(region);
        Ok(Self { info, origin, planes: views })
    }

    /// A view of a region of this view.
    ///
    /// # Errors
    /// If the region is empty or not inside the view.
    pub fn crop(&self, region: Region) -> Result<Self, ImageError> {
        if !self.info.is_direct() {
            let ImageInfo { width, height, .. } = self.info;
            let inside = |start: usize, len: usize, limit: usize| len > 0 && start <= limit && len <= limit - start;
            if !inside(region.x, region.width, width) || !inside(region.y, region.height, height) {
                return Err(ImageError::Region { region, width, height });
            }
            let (info, (x, y)) = self.info.part(region);
            return Ok(Self { info, origin: (self.origin.0 + x, self.origin.1 + y), ..*self });
        }
        let planes = self.planes.iter().flatten();
        let (mut data, mut strides) = ([&[][..]; MAX_PLANES], [0; MAX_PLANES]);
        for ((data, stride), plane) in data.iter_mut().zip(&mut strides).zip(planes.clone()) {
            (*data, *stride) = (plane.data, plane.layout.stride);
        }
        let count = planes.count();
        Self::cropped(self.info, &data[..count], &strides[..count], region)
    }

    /// The description of the image in the view.
    pub fn info(&self) -> ImageInfo {
        self.info
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.info.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.info.height
    }

    /// Whether the planes are processed as they are; see [`PixelFormat::is_direct`]. Images with
    /// subsampled chroma rows in fields are not direct.
    ///
    /// [`PixelFormat::is_direct`]: super::PixelFormat::is_direct
    pub fn is_direct(&self) -> bool {
        self.info.is_direct()
    }

    /// Position of the first pixel in the planes.
    pub(super) fn origin(&self) -> (usize, usize) {
        self.origin
    }

    /// The plane with that index; every format has plane 0. In formats that are not direct it is
    /// the plane of the whole image.
    pub(crate) fn plane(&self, index: usize) -> Plane<'a> {
        self.planes[index].expect("the layout check filled every plane of the format")
    }
}

/// A writable view of an image in borrowed memory.
#[derive(Debug)]
pub struct ImageViewMut<'a> {
    info: ImageInfo,
    /// As in [`ImageView`].
    origin: (usize, usize),
    /// Column and line of the first pixel within its chroma sample. Not (0, 0) in direct formats at
    /// an odd offset only.
    chroma_phase: (usize, usize),
    planes: [Option<PlaneMut<'a>>; MAX_PLANES],
}

impl<'a> ImageViewMut<'a> {
    /// A writable view of a whole image; see [`ImageView::new`].
    ///
    /// # Errors
    /// As [`ImageView::new`].
    pub fn new(info: ImageInfo, planes: Vec<&'a mut [u8]>, strides: &[usize]) -> Result<Self, ImageError> {
        Self::cropped(info, planes, strides, info.full_region())
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
        let mut views = [const { None }; MAX_PLANES];
        for ((view, data), (layout, offset)) in views.iter_mut().zip(planes).zip(layouts) {
            *view = Some(PlaneMut { data: &mut data[offset..], layout });
        }
        let (shift_x, shift_y) = if info.is_direct() { info.format.chroma_shift() } else { (0, 0) };
        let chroma_phase = (region.x % (1 << shift_x), region.y % (1 << shift_y));
        let (info, origin) = info.part(region);
        Ok(Self { info, origin, chroma_phase, planes: views })
    }

    /// A read-only view of the same pixels.
    pub(crate) fn as_view(&self) -> ImageView<'_> {
        let planes = self.planes.each_ref().map(|plane| plane.as_ref().map(PlaneMut::as_plane));
        ImageView { info: self.info, origin: self.origin, planes }
    }

    /// The description of the image in the view.
    pub fn info(&self) -> ImageInfo {
        self.info
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.info.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.info.height
    }

    /// Column and line of the first pixel, counted from the start of the planes: the luma or RGB
    /// sample of pixel `x` has the index `x + column`, its chroma sample `(x + column) >> shift`.
    ///
    /// At an odd offset of a direct format, the chroma samples of the last column and line can lie
    /// one behind the layout of the plane, but within its data.
    pub(super) fn sample_origin(&self, is_chroma: bool) -> (usize, usize) {
        let phase = if is_chroma { self.chroma_phase } else { (0, 0) };
        (self.origin.0 + phase.0, self.origin.1 + phase.1)
    }

    /// The plane with that index; every format has plane 0. In formats that are not direct it is
    /// the plane of the whole image.
    pub(crate) fn plane_mut(&mut self, index: usize) -> &mut PlaneMut<'a> {
        self.planes[index].as_mut().expect("the layout check filled every plane of the format")
    }
}

/// An image with a single plane that owns its memory, without padding between rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedImage {
    info: ImageInfo,
    data: Vec<u8>,
}

impl OwnedImage {
    /// An image from rows without padding.
    ///
    /// # Errors
    /// If `data` is shorter than the image, or the format has several planes.
    pub fn new(info: ImageInfo, data: Vec<u8>) -> Result<Self, ImageError> {
        let image = Self { info, data };
        image.try_view()?;
        Ok(image)
    }

    fn stride(&self) -> usize {
        self.info.format.plane_bytes(0, self.info.width, 1).0
    }

    fn try_view(&self) -> Result<ImageView<'_>, ImageError> {
        ImageView::new(self.info, &[&self.data], &[self.stride()])
    }

    /// A view of the image.
    pub fn view(&self) -> ImageView<'_> {
        self.try_view().expect("the constructor checked the layout")
    }

    /// A writable view of the image.
    pub fn view_mut(&mut self) -> ImageViewMut<'_> {
        let stride = self.stride();
        ImageViewMut::new(self.info, vec![&mut self.data], &[stride]).expect("the constructor checked the layout")
    }

    /// The bytes of all rows, without padding.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::PixelFormat;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_buffer_is_an_error_with_the_needed_length() {
        let memory = [0u8; 10];
        let error = ImageView::new(ImageInfo::new(PixelFormat::Gray8, 4, 4), &[&memory], &[4]).unwrap_err();
        assert_eq!(error, ImageError::TooShort { format: PixelFormat::Gray8, plane: 0, needed: 16, found: 10 });
    }

    #[test]
    fn a_stride_shorter_than_a_row_is_an_error() {
        let memory = [0u8; 100];
        let error = ImageView::new(ImageInfo::new(PixelFormat::Rgb, 4, 4), &[&memory], &[11]).unwrap_err();
        assert!(matches!(error, ImageError::Stride { row: 12, stride: 11, .. }), "{error}");
    }

    #[test]
    fn extreme_sizes_do_not_overflow() {
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

    /// An image whose bytes depend on their position only, with padding of 0xEE.
    fn image(info: ImageInfo, padding: usize) -> (Vec<Vec<u8>>, Vec<usize>) {
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

    /// The byte at a position; never 0xEE.
    fn pattern(plane: usize, row: usize, col: usize) -> u8 {
        ((plane * 71 + row * 31 + col * 7) % 0xEE) as u8
    }

    fn direct_formats() -> Vec<PixelFormat> {
        PixelFormat::ALL.into_iter().filter(|format| format.is_direct()).collect()
    }

    proptest! {
        #[test]
        fn rows_do_not_contain_padding_at_any_stride(
            format in proptest::sample::select(direct_formats()),
            width in 1usize..70, height in 1usize..70, padding in 0usize..40,
            crop in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
        ) {
            let info = ImageInfo::new(format, width, height);
            let (data, strides) = image(info, padding);
            let slices = data.iter().map(Vec::as_slice).collect::<Vec<_>>();
            let part = |start: f64, len: f64, total: usize| {
                let start = (start * total as f64) as usize;
                (start, 1 + (len * (total - start - 1) as f64) as usize)
            };
            let (x, w) = part(crop.0, crop.2, width);
            let (y, h) = part(crop.1, crop.3, height);
            let region = Region { x, y, width: w, height: h };
            let view = ImageView::cropped(info, &slices, &strides, region).unwrap();
            prop_assert_eq!((view.width(), view.height()), (w, h));
            for index in 0..format.planes() {
                let plane = view.plane(index);
                let (shift_x, shift_y) = if index > 0 { format.chroma_shift() } else { (0, 0) };
                let first = (x >> shift_x) * format.channels(index);
                for row in 0..plane.layout.rows {
                    for (col, byte) in plane.row(row).iter().enumerate() {
                        prop_assert_eq!(*byte, pattern(index, (y >> shift_y) + row, first + col));
                    }
                }
            }
        }
    }
}
