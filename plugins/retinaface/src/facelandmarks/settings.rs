//! The properties of `facelandmarks`: their defaults, and their values as the library needs them.

use std::sync::LazyLock;
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use retinaface::crops::{CropMode, LandmarkSettings};
use retinaface::geometry::Face;

use crate::common::failures::{OnError, on_error_property};
use crate::common::model_properties::ModelProperties;

const DEFAULT_CROP_SCALE: f32 = 1.0;
const DEFAULT_MIN_FACE_SIZE: u32 = 0;
const DEFAULT_REFINE_LANDMARKS: bool = false;
const DEFAULT_BATCH_SIZE: u32 = 0;
const DEFAULT_BATCH_TIMEOUT: u32 = 0;
const DEFAULT_INFLIGHT: u32 = 0;

/// The part of the frame that the model receives, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFaceLandmarksCrop")]
#[repr(i32)]
pub(crate) enum Crop {
    #[default]
    #[enum_value(name = "Aligned: the square around the box, rotated upright by the five landmarks", nick = "aligned")]
    Aligned,
    #[enum_value(name = "Upright: the square around the box, not rotated", nick = "upright")]
    Upright,
    #[enum_value(name = "Template: the five landmarks on the ArcFace template", nick = "template")]
    Template,
}

impl From<Crop> for CropMode {
    fn from(crop: Crop) -> Self {
        match crop {
            Crop::Aligned => Self::Aligned,
            Crop::Upright => Self::Upright,
            Crop::Template => Self::Template,
        }
    }
}

/// The values that the user set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) model: ModelProperties,
    crop: Crop,
    crop_scale: f32,
    pub(super) min_face_size: u32,
    pub(super) refine_landmarks: bool,
    batch_size: u32,
    batch_timeout: u32,
    pub(super) inflight: u32,
    pub(super) on_error: OnError,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: ModelProperties::default(),
            crop: Crop::default(),
            crop_scale: DEFAULT_CROP_SCALE,
            min_face_size: DEFAULT_MIN_FACE_SIZE,
            refine_landmarks: DEFAULT_REFINE_LANDMARKS,
            batch_size: DEFAULT_BATCH_SIZE,
            batch_timeout: DEFAULT_BATCH_TIMEOUT,
            inflight: DEFAULT_INFLIGHT,
            on_error: OnError::default(),
        }
    }
}

impl Settings {
    /// Maximum time that a face waits for a batch to fill.
    pub(super) fn batch_timeout(&self) -> Duration {
        Duration::from_millis(self.batch_timeout.into())
    }

    pub(super) fn landmarks(&self) -> LandmarkSettings {
        LandmarkSettings {
            crop: self.crop.into(),
            crop_scale: self.crop_scale,
            max_batch: self.batch_size as usize,
            batch_timeout: self.batch_timeout(),
        }
    }

    /// Whether a face is large enough for the model.
    pub(super) fn wants(&self, face: &Face) -> bool {
        face.rect.w.min(face.rect.h) >= self.min_face_size as f32
    }

    /// Sets a property.
    pub(super) fn set(&mut self, name: &str, value: &glib::Value) {
        const CHECKED: &str = "GObject checks the type of a property";
        if self.model.set(name, value) {
            return;
        }
        match name {
            "crop" => self.crop = value.get().expect(CHECKED),
            "crop-scale" => self.crop_scale = value.get().expect(CHECKED),
            "min-face-size" => self.min_face_size = value.get().expect(CHECKED),
            "refine-landmarks" => self.refine_landmarks = value.get().expect(CHECKED),
            "batch-size" => self.batch_size = value.get().expect(CHECKED),
            "batch-timeout" => self.batch_timeout = value.get().expect(CHECKED),
            "inflight" => self.inflight = value.get().expect(CHECKED),
            "on-error" => self.on_error = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
        }
    }

    /// A property's value.
    pub(super) fn get(&self, name: &str) -> glib::Value {
        if let Some(value) = self.model.get(name) {
            return value;
        }
        match name {
            "crop" => self.crop.to_value(),
            "crop-scale" => self.crop_scale.to_value(),
            "min-face-size" => self.min_face_size.to_value(),
            "refine-landmarks" => self.refine_landmarks.to_value(),
            "batch-size" => self.batch_size.to_value(),
            "batch-timeout" => self.batch_timeout.to_value(),
            "inflight" => self.inflight.to_value(),
            "on-error" => self.on_error.to_value(),
            _ => unreachable!("GObject reads listed properties only"),
        }
    }
}

/// The element's properties, the read-only one included.
pub(super) fn properties() -> &'static [glib::ParamSpec] {
    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let mut properties = ModelProperties::properties("ONNX file of the landmark model; required");
        properties.extend([
            glib::ParamSpecEnum::builder_with_default("crop", Crop::default())
                .nick("Crop")
                .blurb("Part of the frame that the model receives for a face")
                .mutable_playing()
                .build(),
            glib::ParamSpecFloat::builder("crop-scale")
                .nick("Crop scale")
                .blurb("Scale of the crop; 1.5 makes it 1.5 times as wide and high, which InsightFace's models need")
                .minimum(0.25)
                .maximum(8.0)
                .default_value(DEFAULT_CROP_SCALE)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("min-face-size")
                .nick("Minimum face size")
                .blurb("Minimum length of a face's shorter side in frame pixels; smaller faces get no points; 0: no limit")
                .maximum(16384)
                .default_value(DEFAULT_MIN_FACE_SIZE)
                .mutable_playing()
                .build(),
            glib::ParamSpecBoolean::builder("refine-landmarks")
                .nick("Refine landmarks")
                .blurb("Replace the detector's five landmarks by those that follow from the points (models of 68, 98 or 106 points)")
                .default_value(DEFAULT_REFINE_LANDMARKS)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("batch-size")
                .nick("Batch size")
                .blurb("Maximum number of faces, of all streams that share the model, per inference; 0: 16")
                .maximum(64)
                .default_value(DEFAULT_BATCH_SIZE)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("batch-timeout")
                .nick("Batch timeout")
                .blurb("Maximum time in ms that a face waits for the faces of other streams to share its inference; 0: no waiting")
                .maximum(10_000)
                .default_value(DEFAULT_BATCH_TIMEOUT)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("inflight")
                .nick("Frames in flight")
                .blurb("Maximum number of frames of this stream in flight; they leave in order; 0: 1 for live sources, else enough to keep the model busy")
                .maximum(64)
                .default_value(DEFAULT_INFLIGHT)
                .mutable_ready()
                .build(),
            on_error_property(),
        ]);
        properties
    });
    &PROPERTIES
}
