//! A mapped video frame -> an image view. The one place where GStreamer's strides and crop metas are met.

use gst_video::{VideoColorMatrix, VideoColorRange, VideoCropMeta, VideoFrameExt, VideoFrameRef, VideoInfo, VideoMeta};
use retinaface::image::{ImageError, ImageInfo, ImageView, ImageViewMut, PixelFormat, Region};
use retinaface::yuv::{YuvCoding, YuvMatrix};

use crate::caps;
use crate::meta::FrameSize;

/// Why a buffer cannot be looked at as a frame.
#[derive(Debug)]
pub(crate) enum FrameError {
    /// The buffer does not hold what its caps or its video meta say.
    Map,
    /// Its layout is not one that a view can have.
    Layout(ImageError),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Map => f.write_str("the buffer is too small for a frame of its caps or its video meta"),
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
    check_video_meta(buffer, info)?;
    let region = region(buffer, info);
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(|_| FrameError::Map)?;
    let image = image_info(frame.info())?;
    let planes = frame.planes_data();
    let view = ImageView::cropped(image, &planes[..image.format.planes()], &strides(&frame), region)?;
    Ok(work(&view))
}

/// Calls `work` with a writable view of the frame in `buffer`, of its crop where it has one.
pub(crate) fn write<T>(
    buffer: &mut gst::BufferRef,
    info: &VideoInfo,
    work: impl FnOnce(&mut ImageViewMut<'_>) -> T,
) -> Result<T, FrameError> {
    check_video_meta(buffer, info)?;
    let region = region(buffer, info);
    let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, info).map_err(|_| FrameError::Map)?;
    let image = image_info(frame.info())?;
    let strides = strides(&frame);
    let planes = frame.planes_data_mut().into_iter().take(image.format.planes()).collect();
    let mut view = ImageViewMut::cropped(image, planes, &strides, region)?;
    Ok(work(&mut view))
}

/// Calls `work` with a view of a frame of that format and size whose bytes are all 0.
pub(crate) fn black<T>(info: &VideoInfo, work: impl FnOnce(&ImageView<'_>) -> T) -> Result<T, FrameError> {
    let image = image_info(info)?;
    let planes = (0..image.format.planes()).map(|plane| {
        let (row, rows) = image.format.plane_bytes(plane, image.width, image.height);
        (vec![0; row * rows], row)
    });
    let (planes, strides): (Vec<_>, Vec<_>) = planes.unzip();
    let planes = planes.iter().map(Vec::as_slice).collect::<Vec<_>>();
    Ok(work(&ImageView::new(image, &planes, &strides)?))
}

/// Where a buffer has a video meta, GStreamer maps what it says without a look at how much memory there is.
fn check_video_meta(buffer: &gst::BufferRef, info: &VideoInfo) -> Result<(), FrameError> {
    let Some(meta) = buffer.meta::<VideoMeta>() else { return Ok(()) };
    let format = image_info(info)?.format;
    let (width, height) = (meta.width() as usize, meta.height() as usize);
    let fits = meta.width() >= info.width() && meta.height() >= info.height();
    if meta.format() != info.format() || meta.n_planes() as usize != format.planes() || !fits {
        return Err(FrameError::Map);
    }
    for (plane, (offset, stride)) in meta.offset().iter().zip(meta.stride()).enumerate().take(format.planes()) {
        let (row, rows) = format.plane_bytes(plane, width, height);
        let stride = usize::try_from(*stride).map_err(|_| FrameError::Map)?;
        // The last row may end with its pixels.
        let end = stride.checked_mul(rows).and_then(|bytes| bytes.checked_add(*offset));
        if stride < row || end.is_none_or(|end| end - (stride - row) > buffer.size()) {
            return Err(FrameError::Map);
        }
    }
    Ok(())
}

/// The frame's strides in bytes; one that is negative becomes 0, which no view accepts.
fn strides(frame: &impl VideoFrameExt) -> Vec<usize> {
    let planes = frame.n_planes() as usize;
    frame.plane_stride()[..planes].iter().map(|stride| usize::try_from(*stride).unwrap_or(0)).collect()
}

/// The part of the frame that counts: its crop meta's rectangle, or what the caps say.
fn region(buffer: &gst::BufferRef, info: &VideoInfo) -> Region {
    let whole = (0, 0, info.width(), info.height());
    let (x, y, width, height) = buffer.meta::<VideoCropMeta>().map_or(whole, |crop| crop.rect());
    Region { x: x as usize, y: y as usize, width: width as usize, height: height as usize }
}

/// The size in which faces are counted.
pub(crate) fn frame_size(buffer: &gst::BufferRef, info: &VideoInfo) -> FrameSize {
    let Region { width, height, .. } = region(buffer, info);
    FrameSize { width, height, pixel_aspect: info.par() }
}

fn image_info(info: &VideoInfo) -> Result<ImageInfo, FrameError> {
    let known = caps::FORMATS.iter().find(|(format, _)| *format == info.format());
    let format: PixelFormat = known.ok_or(FrameError::Map)?.1;
    let colorimetry = info.colorimetry();
    let matrix = match colorimetry.matrix() {
        VideoColorMatrix::Bt709 => YuvMatrix::Bt709,
        VideoColorMatrix::Bt2020 => YuvMatrix::Bt2020,
        _ => YuvMatrix::Bt601,
    };
    let coding = YuvCoding { matrix, full_range: colorimetry.range() == VideoColorRange::Range0_255 };
    Ok(ImageInfo { format, width: info.width() as usize, height: info.height() as usize, coding })
}
