//! The origin of an aligned crop.

use std::time::Duration;

use gst::glib;
use gst::meta::CustomMeta;
use retinaface::align::Affine;
use retinaface::geometry::{Face, FrameSize};

use crate::fields::{face_from, matrix, matrix_from, pixel_aspect, pixel_aspect_from, with_face};
use crate::{CROP_META, register};

/// Field of the pixel aspect ratio of the crop's frame.
const FRAME_PIXEL_ASPECT: &str = "frame-pixel-aspect-ratio";

/// Where an aligned crop comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct CropOrigin {
    /// Id of the frame's stream.
    pub stream: String,
    /// Presentation time of the frame in which the face was found.
    pub frame_pts: Option<gst::ClockTime>,
    /// Difference between the time of the crop and of the frame in which the face was found, whose
    /// pixels the crop shows; zero unless the detector runs in `mode=latest`.
    pub age: Duration,
    /// Size of the frame and the shape of its pixels. The crop's pixels are square.
    pub frame_size: FrameSize,
    /// Id of the face's region of interest on the frame.
    pub roi_id: i32,
    /// The face, in frame pixels.
    pub face: Face,
    /// From frame pixels to the crop's pixels.
    pub crop_from_frame: Affine,
    /// From the crop's pixels to frame pixels.
    pub frame_from_crop: Affine,
}

/// Attaches the origin of an aligned crop.
///
/// # Errors
/// If GStreamer cannot add the meta.
pub fn attach_crop(buffer: &mut gst::BufferRef, origin: &CropOrigin) -> Result<(), glib::BoolError> {
    register();
    let mut meta = CustomMeta::add(buffer, CROP_META)?;
    let structure = meta.mut_structure();
    structure.set("stream", &origin.stream);
    if let Some(pts) = origin.frame_pts {
        structure.set("frame-pts", pts.nseconds());
    }
    structure.set("age-ns", u64::try_from(origin.age.as_nanos()).unwrap_or(u64::MAX));
    let FrameSize { width, height, pixel_aspect: aspect } = origin.frame_size;
    structure.set("frame-width", width as u32);
    structure.set("frame-height", height as u32);
    structure.set(FRAME_PIXEL_ASPECT, pixel_aspect(aspect));
    structure.set("roi-id", origin.roi_id);
    structure.set("crop-from-frame", matrix(&origin.crop_from_frame));
    structure.set("frame-from-crop", matrix(&origin.frame_from_crop));
    structure.set("face", with_face(gst::Structure::builder("face"), &origin.face, aspect));
    Ok(())
}

/// The origin of an aligned crop, or `None` on any other buffer.
pub fn read_crop(buffer: &gst::BufferRef) -> Option<CropOrigin> {
    register();
    let meta = CustomMeta::from_buffer(buffer, CROP_META).ok()?;
    let structure = meta.structure();
    Some(CropOrigin {
        stream: structure.get("stream").ok()?,
        frame_pts: structure.get("frame-pts").ok().map(gst::ClockTime::from_nseconds),
        age: Duration::from_nanos(structure.get("age-ns").unwrap_or(0)),
        frame_size: FrameSize {
            width: structure.get::<u32>("frame-width").ok()? as usize,
            height: structure.get::<u32>("frame-height").ok()? as usize,
            pixel_aspect: pixel_aspect_from(structure, FRAME_PIXEL_ASPECT),
        },
        roi_id: structure.get("roi-id").ok()?,
        face: face_from(structure.get::<gst::Structure>("face").ok()?.as_ref())?,
        crop_from_frame: matrix_from(structure, "crop-from-frame")?,
        frame_from_crop: matrix_from(structure, "frame-from-crop")?,
    })
}
