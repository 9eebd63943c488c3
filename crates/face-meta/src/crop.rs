//! The origin of an aligned crop.

use std::time::Duration;

use gst::glib;
use gst::meta::CustomMeta;
use retinaface::align::Affine;
use retinaface::crops::FaceQuality;
use retinaface::geometry::{Face, FrameSize};
use retinaface::track::BestShotKind;

use crate::fields::{face_from, matrix, matrix_from, pixel_aspect, pixel_aspect_from, with_face};
use crate::{CROP_META, register};

/// Field of the pixel aspect ratio of the crop's frame.
const FRAME_PIXEL_ASPECT: &str = "frame-pixel-aspect-ratio";
/// Field of the factors of the quality.
const QUALITY_FACTORS: &str = "quality-factors";
/// Field of the reason why a best shot was emitted.
const BEST_SHOT: &str = "best-shot";

/// Where an aligned crop comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct CropOrigin {
    /// Id of the frame's stream.
    pub stream: String,
    /// Presentation time of the frame in which the face was found.
    pub frame_pts: Option<gst::ClockTime>,
    /// Difference between the time of the crop and of the frame in which the face was found, whose
    /// pixels the crop shows; zero unless the detector runs in `mode=latest`, or the crop is a best
    /// shot of an earlier frame.
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
    /// The quality of the crop; `None` if another writer has not measured it.
    pub quality: Option<FaceQuality>,
    /// Why the crop was emitted, if it is the best shot of a track.
    pub best_shot: Option<BestShotKind>,
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
    if let Some(quality) = &origin.quality {
        // For readers in other languages; this crate computes it from the factors.
        structure.set("quality", f64::from(quality.overall()));
        structure.set(QUALITY_FACTORS, factors(quality));
    }
    if let Some(kind) = origin.best_shot {
        structure.set(BEST_SHOT, kind.name());
    }
    Ok(())
}

fn factors(quality: &FaceQuality) -> gst::Structure {
    let FaceQuality { size, sharpness, pose, score, visibility } = *quality;
    gst::Structure::builder(QUALITY_FACTORS)
        .field("size", f64::from(size))
        .field("sharpness", f64::from(sharpness))
        .field("pose", f64::from(pose))
        .field("score", f64::from(score))
        .field("visibility", f64::from(visibility))
        .build()
}

/// The factors of the quality; `None` if one is missing.
fn factors_from(structure: &gst::StructureRef) -> Option<FaceQuality> {
    let factors = structure.get::<gst::Structure>(QUALITY_FACTORS).ok()?;
    let factor = |name: &str| factors.get::<f64>(name).ok().map(|value| value as f32);
    Some(FaceQuality {
        size: factor("size")?,
        sharpness: factor("sharpness")?,
        pose: factor("pose")?,
        score: factor("score")?,
        visibility: factor("visibility")?,
    })
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
        quality: factors_from(structure),
        best_shot: structure.get::<&str>(BEST_SHOT).ok().and_then(BestShotKind::from_name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> CropOrigin {
        let identity = Affine::from_matrix([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);
        CropOrigin {
            stream: "door".to_owned(),
            frame_pts: Some(gst::ClockTime::from_mseconds(40)),
            age: Duration::from_millis(80),
            frame_size: (640, 360).into(),
            roi_id: 7,
            face: Face { score: 0.5, track_id: Some(3), ..Face::default() },
            crop_from_frame: identity,
            frame_from_crop: identity,
            quality: Some(FaceQuality { size: 0.5, sharpness: 0.25, pose: 1.0, score: 0.75, visibility: 0.125 }),
            best_shot: Some(BestShotKind::Better),
        }
    }

    #[test]
    fn the_quality_and_the_kind_of_a_best_shot_are_read_back() {
        gst::init().unwrap();
        for kind in BestShotKind::ALL.map(Some).into_iter().chain([None]) {
            let origin = CropOrigin { best_shot: kind, ..origin() };
            let mut buffer = gst::Buffer::new();
            attach_crop(buffer.get_mut().unwrap(), &origin).unwrap();
            assert_eq!(read_crop(&buffer), Some(origin.clone()));
            let meta = CustomMeta::from_buffer(&buffer, CROP_META).unwrap();
            let quality = meta.structure().get::<f64>("quality").unwrap();
            assert_eq!(quality as f32, origin.quality.unwrap().overall());
        }
    }

    #[test]
    fn crops_without_a_quality_or_with_an_unknown_kind_are_read() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        let plain = CropOrigin { quality: None, best_shot: None, ..origin() };
        attach_crop(buffer.get_mut().unwrap(), &plain).unwrap();
        assert_eq!(read_crop(&buffer), Some(plain.clone()));
        let mut meta = CustomMeta::from_mut_buffer(buffer.get_mut().unwrap(), CROP_META).unwrap();
        meta.mut_structure().set(BEST_SHOT, "last");
        meta.mut_structure().set(QUALITY_FACTORS, gst::Structure::builder(QUALITY_FACTORS).field("size", 1.0).build());
        assert_eq!(read_crop(&buffer), Some(plain));
    }
}
