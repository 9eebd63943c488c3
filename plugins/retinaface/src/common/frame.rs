//! From a mapped video frame to an image view. Only this module handles GStreamer's strides and
//! crop metas.

use face_meta::to_pixel_aspect;
use gst_video::prelude::VideoBufferExt;
use gst_video::{
    VideoBufferFlags, VideoColorMatrix, VideoColorRange, VideoCropMeta, VideoFrameExt, VideoFrameRef, VideoInfo,
    VideoInterlaceMode, VideoMeta,
};
use retinaface::geometry::FrameSize;
use retinaface::image::{ImageError, ImageInfo, ImageView, ImageViewMut, PixelFormat, Region, YuvCoding, YuvMatrix};
#[cfg(feature = "cuda-memory")]
use retinaface::runtime::{DeviceFrame, DevicePlane};

/// Why a buffer cannot be mapped as a frame.
#[derive(Debug)]
pub(crate) enum FrameError {
    /// The buffer is smaller than its caps or its video meta say.
    Map,
    /// The plane with this index continues in another memory of the buffer.
    SplitPlane(usize),
    /// A view cannot have the buffer's layout.
    Layout(ImageError),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Map => f.write_str("the buffer is too small for a frame of its caps or its video meta"),
            Self::SplitPlane(plane) => write!(
                f,
                "plane {plane} continues in another memory of the buffer: the element before must put each plane into \
                 one memory"
            ),
            Self::Layout(error) => write!(f, "the frame's memory layout is not usable: {error}"),
        }
    }
}

impl From<ImageError> for FrameError {
    fn from(error: ImageError) -> Self {
        Self::Layout(error)
    }
}

/// Calls `work` with a view of the frame in `buffer`, or of its crop if it has one. Maps for
/// reading only, so that pixels that a `tee` shares between branches are not copied.
pub(crate) fn read<T>(
    buffer: &gst::BufferRef,
    info: &VideoInfo,
    work: impl FnOnce(&ImageView<'_>) -> T,
) -> Result<T, FrameError> {
    check_video_meta(buffer, info)?;
    let region = region(buffer, info);
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).map_err(|_| FrameError::Map)?;
    let image = ImageInfo { interlaced: is_interlaced(buffer, info), ..image_info(frame.info())? };
    let planes = frame.planes_data();
    let view = ImageView::cropped(image, &planes[..image.format.planes()], &strides(&frame), region)?;
    Ok(work(&view))
}

/// Whether the buffer's memory is on a GPU.
#[cfg(feature = "cuda-memory")]
pub(crate) fn is_on_gpu(buffer: &gst::BufferRef) -> bool {
    buffer.n_memory() > 0 && buffer.peek_memory(0).is_type("gst.cuda.memory")
}

/// Calls `work` with the frame that `buffer` holds in CUDA memory.
#[cfg(feature = "cuda-memory")]
#[expect(unsafe_code, reason = "the binding maps for the CPU only; the memory is unmapped whatever the work does")]
pub(crate) fn read_on_gpu<T>(
    buffer: &gst::BufferRef,
    info: &VideoInfo,
    work: impl FnOnce(&DeviceFrame<'_>) -> T,
) -> Result<T, FrameError> {
    /// `GST_MAP_CUDA` of `gst/cuda/gstcudamemory.h`: the address is the device's.
    const GST_MAP_CUDA: gst::ffi::GstMapFlags = gst::ffi::GST_MAP_FLAG_LAST << 1;

    let image = ImageInfo { interlaced: is_interlaced(buffer, info), ..image_info(info)? };
    let [memory] = buffer.iter_memories().collect::<Vec<_>>()[..] else { return Err(FrameError::Map) };
    // nvcodec describes the layout in a video meta and crops nothing.
    check_video_meta(buffer, info)?;
    if !memory.is_type("gst.cuda.memory") || buffer.meta::<VideoCropMeta>().is_some() {
        return Err(FrameError::Map);
    }
    let meta = buffer.meta::<VideoMeta>();
    let (offsets, strides) = match &meta {
        Some(meta) => (meta.offset(), meta.stride()),
        None => (info.offset(), info.stride()),
    };
    unsafe {
        struct Mapped(*mut gst::ffi::GstMemory, gst::ffi::GstMapInfo);
        impl Drop for Mapped {
            fn drop(&mut self) {
                unsafe { gst::ffi::gst_memory_unmap(self.0, &raw mut self.1) };
            }
        }
        let pointer = memory.as_ptr().cast_mut();
        let mut map = std::mem::MaybeUninit::uninit();
        if gst::ffi::gst_memory_map(pointer, map.as_mut_ptr(), gst::ffi::GST_MAP_READ | GST_MAP_CUDA) == 0 {
            return Err(FrameError::Map);
        }
        let mapped = Mapped(pointer, map.assume_init());
        let planes = offsets.iter().zip(strides).take(image.format.planes()).map(|(offset, stride)| DevicePlane {
            address: mapped.1.data as u64 + *offset as u64,
            pitch: usize::try_from(*stride).unwrap_or(0),
        });
        let planes = planes.collect::<Vec<_>>();
        let fits = offsets.iter().zip(&planes).enumerate().all(|(plane, (offset, DevicePlane { pitch, .. }))| {
            let (_, rows) = image.format.plane_bytes(plane, image.width, image.height);
            pitch.checked_mul(rows).and_then(|bytes| bytes.checked_add(*offset)).is_some_and(|end| end <= mapped.1.size)
        });
        if !fits {
            return Err(FrameError::Map);
        }
        Ok(work(&DeviceFrame::new(image, &planes)?))
    }
}

/// Calls `work` with a writable view of the frame in `buffer`, or of its crop if it has one.
pub(crate) fn write<T>(
    buffer: &mut gst::BufferRef,
    info: &VideoInfo,
    work: impl FnOnce(&mut ImageViewMut<'_>) -> T,
) -> Result<T, FrameError> {
    let region = region(buffer, info);
    write_region(buffer, info, Some(region), work)
}

/// Calls `work` with a writable view of all pixels in `buffer`, also those outside of its crop, and
/// with the region of the crop.
pub(crate) fn write_all<T>(
    buffer: &mut gst::BufferRef,
    info: &VideoInfo,
    work: impl FnOnce(&mut ImageViewMut<'_>, Region) -> T,
) -> Result<T, FrameError> {
    let crop = region(buffer, info);
    write_region(buffer, info, None, |view| work(view, crop))
}

/// Calls `work` with a writable view of a region of the stored frame, or of all of it.
fn write_region<T>(
    buffer: &mut gst::BufferRef,
    info: &VideoInfo,
    region: Option<Region>,
    work: impl FnOnce(&mut ImageViewMut<'_>) -> T,
) -> Result<T, FrameError> {
    check_video_meta(buffer, info)?;
    let interlaced = is_interlaced(buffer, info);
    let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer, info).map_err(|_| FrameError::Map)?;
    let image = ImageInfo { interlaced, ..image_info(frame.info())? };
    let strides = strides(&frame);
    let planes = frame.planes_data_mut().into_iter().take(image.format.planes()).collect();
    let region = region.unwrap_or(Region { x: 0, y: 0, width: image.width, height: image.height });
    let mut view = ImageViewMut::cropped(image, planes, &strides, region)?;
    Ok(work(&mut view))
}

/// Calls `work` with a view of a frame of this format and size whose bytes are all 0.
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

/// Checks the video meta of a buffer, if it has one: GStreamer maps its offsets and strides without
/// checking the size of the memory.
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
        if stride < row {
            return Err(FrameError::Map);
        }
        // GStreamer maps the memory of the buffer in which the plane starts.
        let (memories, skip) = buffer.find_memory(*offset..offset.saturating_add(1)).ok_or(FrameError::Map)?;
        let available = buffer.peek_memory(memories.start).size().saturating_sub(skip);
        // The last row may have no padding.
        let len = stride.checked_mul(rows).map(|len| len - (stride - row)).ok_or(FrameError::Map)?;
        if len > available {
            let is_in_buffer = offset.checked_add(len).is_some_and(|end| end <= buffer.size());
            return Err(if is_in_buffer { FrameError::SplitPlane(plane) } else { FrameError::Map });
        }
    }
    Ok(())
}

/// The frame's strides in bytes. A negative one becomes 0, which no view accepts.
fn strides(frame: &impl VideoFrameExt) -> Vec<usize> {
    let planes = frame.n_planes() as usize;
    frame.plane_stride()[..planes].iter().map(|stride| usize::try_from(*stride).unwrap_or(0)).collect()
}

/// The visible part of the frame: the rectangle of its crop meta, or the size in the caps.
fn region(buffer: &gst::BufferRef, info: &VideoInfo) -> Region {
    let whole = (0, 0, info.width(), info.height());
    let (x, y, width, height) = buffer.meta::<VideoCropMeta>().map_or(whole, |crop| crop.rect());
    Region { x: x as usize, y: y as usize, width: width as usize, height: height as usize }
}

/// The size to which the coordinates of faces refer.
pub(crate) fn frame_size(buffer: &gst::BufferRef, info: &VideoInfo) -> FrameSize {
    let Region { width, height, .. } = region(buffer, info);
    FrameSize { width, height, pixel_aspect: to_pixel_aspect(info.par()) }
}

/// Whether the chroma rows of 4:2:0 formats belong to fields.
fn is_interlaced(buffer: &gst::BufferRef, info: &VideoInfo) -> bool {
    match info.interlace_mode() {
        VideoInterlaceMode::Interleaved => true,
        // Each frame tells whether it is interlaced.
        VideoInterlaceMode::Mixed => VideoBufferExt::video_flags(buffer).contains(VideoBufferFlags::INTERLACED),
        _ => false,
    }
}

/// The description of a progressive frame with these caps.
fn image_info(info: &VideoInfo) -> Result<ImageInfo, FrameError> {
    let format = PixelFormat::from_name(info.name()).ok_or(FrameError::Map)?;
    let colorimetry = info.colorimetry();
    let matrix = match colorimetry.matrix() {
        VideoColorMatrix::Bt709 => YuvMatrix::Bt709,
        VideoColorMatrix::Bt2020 => YuvMatrix::Bt2020,
        _ => YuvMatrix::Bt601,
    };
    let coding = YuvCoding { matrix, full_range: colorimetry.range() == VideoColorRange::Range0_255 };
    let (width, height) = (info.width() as usize, info.height() as usize);
    let pixel_aspect = to_pixel_aspect(info.par());
    Ok(ImageInfo { coding, pixel_aspect, ..ImageInfo::new(format, width, height) })
}
