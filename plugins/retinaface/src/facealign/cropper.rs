//! From a face of a frame to its crop.

use std::time::Duration;

use face_meta::{CropOrigin, FrameFace};
use gst::glib;
use gst::prelude::*;
use gst_video::VideoInfo;
use retinaface::align::{self, Affine, AlignError, WarpBuffers};
use retinaface::crops::FaceQuality;
use retinaface::geometry::{Face, PixelAspect};
use retinaface::image::ImageView;
use retinaface::track::BestShotKind;

use super::CAT;
use super::settings::Settings;
use crate::common::errors::Coded;
use crate::common::frame;

/// The frame in which faces were found.
pub(super) struct Source<'a> {
    pub(super) buffer: &'a gst::BufferRef,
    pub(super) info: &'a VideoInfo,
    /// The time since then.
    pub(super) age: Duration,
    /// Id of its stream.
    pub(super) stream: &'a str,
    /// The time of the frame that carries the faces.
    pub(super) timing: Timing,
}

/// Why a frame has no crops.
pub(super) enum CropFailure {
    /// The flow return of the pool of crops.
    Flow(gst::FlowError),
    /// An error to post.
    Error(Box<dyn Coded>),
}

impl<E: Coded + 'static> From<E> for CropFailure {
    fn from(error: E) -> Self {
        Self::Error(Box::new(error))
    }
}

/// When a crop is output.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    pub(super) pts: Option<gst::ClockTime>,
    pub(super) duration: Option<gst::ClockTime>,
}

impl Timing {
    pub(super) fn of(buffer: &gst::BufferRef) -> Self {
        Self { pts: buffer.pts(), duration: buffer.duration() }
    }
}

/// A crop before it is output. A clone shares its pixels.
#[derive(Clone)]
pub(super) struct Crop {
    pixels: gst::Buffer,
    origin: CropOrigin,
    quality: FaceQuality,
}

impl Crop {
    pub(super) fn quality(&self) -> f32 {
        self.quality.overall()
    }

    /// The buffer with time and metadata.
    pub(super) fn finish(self, timing: Timing) -> Result<gst::Buffer, glib::BoolError> {
        let Self { mut pixels, origin, .. } = self;
        // Pixels that another clone refers to are not copied.
        let out = pixels.make_mut();
        out.set_pts(timing.pts);
        out.set_duration(timing.duration);
        face_meta::attach_crop(out, &origin)?;
        Ok(pixels)
    }

    /// As [`Self::finish`], for the best shot of a track, whose frame is this much older.
    pub(super) fn finish_best_shot(
        mut self,
        timing: Timing,
        kind: BestShotKind,
        age: Duration,
    ) -> Result<gst::Buffer, glib::BoolError> {
        self.origin.age = age;
        self.origin.best_shot = Some(kind);
        self.finish(timing)
    }
}

/// What exists once the format of the crops is negotiated.
pub(super) struct Cropper {
    caps: gst::Caps,
    crop: VideoInfo,
    pool: gst::BufferPool,
    scratch: WarpBuffers,
}

impl Cropper {
    pub(super) fn new(caps: gst::Caps, crop: VideoInfo) -> Result<Self, glib::BoolError> {
        let pool = gst_video::VideoBufferPool::new();
        let mut config = pool.config();
        config.set_params(Some(&caps), crop.size() as u32, 0, 0);
        pool.set_config(config)?;
        pool.set_active(true)?;
        Ok(Self { caps, crop, pool: pool.upcast(), scratch: WarpBuffers::default() })
    }

    pub(super) fn caps(&self) -> &gst::Caps {
        &self.caps
    }

    /// The crop of a face; `None` if its landmarks do not determine one, or if its quality is too low.
    /// `highest` is its quality without the sharpness.
    pub(super) fn crop(
        &mut self,
        source: &Source<'_>,
        view: &ImageView<'_>,
        found: &FrameFace,
        highest: FaceQuality,
        settings: &Settings,
    ) -> Result<Option<Crop>, CropFailure> {
        let frame_size = view.info().size();
        if !settings.wants_quality(&highest) {
            return Ok(None);
        }
        let transform = match transform(&found.face, frame_size.pixel_aspect, self.crop.width() as usize) {
            Ok(transform) => transform,
            Err(reason) => {
                gst::debug!(CAT, "face {} has no crop: {reason}", found.roi_id);
                return Ok(None);
            }
        };
        let mut pixels = self.pool.acquire_buffer(None).map_err(CropFailure::Flow)?;
        let (crop_from_frame, frame_from_crop) = transform;
        let out = pixels.make_mut();
        let warp = if settings.antialias { align::warp_antialiased } else { align::warp };
        let scratch = &mut self.scratch;
        frame::write(out, &self.crop, |crop| warp(view, &crop_from_frame, crop, scratch))??;
        let quality = frame::read(out, &self.crop, |crop| highest.with_sharpness(&found.face, crop))??;
        if !settings.wants_quality(&quality) {
            return Ok(None);
        }
        let origin = CropOrigin {
            stream: source.stream.to_owned(),
            frame_pts: source.buffer.pts(),
            age: source.age,
            frame_size,
            roi_id: found.roi_id,
            face: found.face.clone(),
            crop_from_frame,
            frame_from_crop,
            quality: Some(quality),
            best_shot: None,
        };
        Ok(Some(Crop { pixels, origin, quality }))
    }
}

impl Drop for Cropper {
    fn drop(&mut self) {
        // Crops that downstream still uses return to an inactive pool, which frees them.
        let _ = self.pool.set_active(false);
    }
}

/// The transform to a crop and its inverse.
fn transform(face: &Face, pixel_aspect: PixelAspect, size: usize) -> Result<(Affine, Affine), AlignError> {
    let crop_from_frame = align::crop_of_face(face, pixel_aspect, size)?;
    let frame_from_crop = crop_from_frame.inverse().ok_or(AlignError::OutOfRange)?;
    Ok((crop_from_frame, frame_from_crop))
}
