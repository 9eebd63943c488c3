//! A mapped video frame -> an image view. The one place where GStreamer's strides and crop metas are met.

use gst_video::{VideoColorMatrix, VideoColorRange, VideoFormat, VideoFrameExt, VideoFrameRef, VideoInfo};
use retinaface::image::{ImageError, ImageInfo, ImageView, ImageViewMut, PixelFormat, Region, YuvCoding, YuvMatrix};

/// Why a buffer cannot be looked at as a frame.
#[derive(Debug)]
pub(crate) enum FrameError {
    /// The buffer does not hold what its caps say.
    Map,
    /// Its layout is not one that a view can have.
    Layout(ImageError),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Map => f.write_str("the buffer cannot be mapped as a frame of its caps (too small?)"),
            Self::Layout(error) => write!(f, "the frame's memory layout is not usable: {error}"),
        }
    }
}

impl From<ImageError> for FrameError {
    fn from(error: ImageError) -> Self {
        Self::Layout(error)
    }
}

/// Calls `work` with a view of the frame in `buffer`, of its crop where it has one. Maps for reading
/// only, so that pixels shared with other branches of a `tee` are not copied.
pub(crate) fn read<T>(
    buffer: &gst::BufferRef,
    info: &VideoInfo,
    work: impl FnOnce(&ImageView<'_>) -> T,
) -> Result<T, FrameError> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(|_| FrameError::Map)?;
    let image = image_info(frame.info())?;
    let planes = frame.planes_data();
    let view = ImageView::cropped(image, &planes[..image.format.planes()], &strides(&frame), crop(buffer, image))?;
    Ok(work(&view))
}

/// Calls `work` with a writable view of the frame in `buffer`, of its crop where it has one.
pub(crate) fn write<T>(
    buffer: &mut gst::BufferRef,
    info: &VideoInfo,
    work: impl FnOnce(&mut ImageViewMut<'_>) -> T,
) -> Result<T, FrameError> {
    let crop_of = |image| (image, crop(buffer, image));
    // Where a video meta gives another size than the caps, the mapped frame has the meta's.
    let mapped = buffer.meta::<gst_video::VideoMeta>().map(|meta| (meta.width() as usize, meta.height() as usize));
    let mut image = image_info(info)?;
    (image.width, image.height) = mapped.unwrap_or((image.width, image.height));
    let (image, region) = crop_of(image);
    let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, info).map_err(|_| FrameError::Map)?;
    let strides = strides(&frame);
    let planes = frame.planes_data_mut().into_iter().take(image.format.planes()).collect();
    let mut view = ImageViewMut::cropped(image, planes, &strides, region)?;
    Ok(work(&mut view))
}

/// The frame's strides in bytes; one that is negative becomes 0, which no view accepts.
fn strides(frame: &impl VideoFrameExt) -> Vec<usize> {
    let planes = frame.n_planes() as usize;
    frame.plane_stride()[..planes].iter().map(|stride| usize::try_from(*stride).unwrap_or(0)).collect()
}

/// The part of the frame that counts: its crop meta's rectangle, or all of it.
fn crop(buffer: &gst::BufferRef, image: ImageInfo) -> Region {
    let Some(crop) = buffer.meta::<gst_video::VideoCropMeta>() else {
        return Region { x: 0, y: 0, width: image.width, height: image.height };
    };
    let (x, y, width, height) = crop.rect();
    Region { x: x as usize, y: y as usize, width: width as usize, height: height as usize }
}

/// The size in which faces are counted: the crop's, or the caps'.
pub(crate) fn frame_size(buffer: &gst::BufferRef, info: &VideoInfo) -> (usize, usize) {
    match buffer.meta::<gst_video::VideoCropMeta>() {
        Some(crop) => (crop.rect().2 as usize, crop.rect().3 as usize),
        None => (info.width() as usize, info.height() as usize),
    }
}

fn image_info(info: &VideoInfo) -> Result<ImageInfo, FrameError> {
    let format = match info.format() {
        VideoFormat::Nv12 => PixelFormat::Nv12,
        VideoFormat::I420 => PixelFormat::I420,
        VideoFormat::Rgb => PixelFormat::Rgb,
        VideoFormat::Bgr => PixelFormat::Bgr,
        VideoFormat::Rgbx => PixelFormat::Rgbx,
        VideoFormat::Bgrx => PixelFormat::Bgrx,
        VideoFormat::Rgba => PixelFormat::Rgba,
        VideoFormat::Bgra => PixelFormat::Bgra,
        VideoFormat::Gray8 => PixelFormat::Gray8,
        _ => return Err(FrameError::Map),
    };
    let colorimetry = info.colorimetry();
    let matrix = match colorimetry.matrix() {
        VideoColorMatrix::Bt709 => YuvMatrix::Bt709,
        VideoColorMatrix::Bt2020 => YuvMatrix::Bt2020,
        _ => YuvMatrix::Bt601,
    };
    let coding = YuvCoding { matrix, full_range: colorimetry.range() == VideoColorRange::Range0_255 };
    Ok(ImageInfo { format, width: info.width() as usize, height: info.height() as usize, coding })
}
