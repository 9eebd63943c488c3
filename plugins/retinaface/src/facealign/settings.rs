//! Properties.

use std::ops::RangeInclusive;
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use retinaface::crops::FaceQuality;
use retinaface::geometry::{ARCFACE_SIZE, Face};
use retinaface::track::{BestShotSettings, DEFAULT_BEST_SHOT_DELAY, DEFAULT_BEST_SHOT_GAIN};

const DEFAULT_SIZE: u32 = ARCFACE_SIZE as u32;
const DEFAULT_MIN_FACE_SIZE: u32 = 0;
const DEFAULT_MIN_SCORE: f32 = 0.0;
const DEFAULT_MAX_FACES: u32 = 0;
const DEFAULT_GAP_INTERVAL: u32 = 0;
const DEFAULT_ALIGN_WITHOUT_LANDMARKS: bool = false;
const DEFAULT_ANTIALIAS: bool = false;
const DEFAULT_ALIGN_PREDICTED: bool = false;
const DEFAULT_MIN_QUALITY: f32 = 0.0;
const DEFAULT_BEST_SHOT: bool = false;
/// Range of the width and height of a crop, in pixels.
pub(super) const SIZE: RangeInclusive<u32> = 16..=1024;

#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) size: u32,
    pub(super) min_face_size: u32,
    min_score: f32,
    pub(super) max_faces: u32,
    pub(super) gap_interval: u32,
    pub(super) align_without_landmarks: bool,
    pub(super) antialias: bool,
    align_predicted: bool,
    min_quality: f32,
    pub(super) best_shot: bool,
    pub(super) best_shots: BestShotSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            size: DEFAULT_SIZE,
            min_face_size: DEFAULT_MIN_FACE_SIZE,
            min_score: DEFAULT_MIN_SCORE,
            max_faces: DEFAULT_MAX_FACES,
            gap_interval: DEFAULT_GAP_INTERVAL,
            align_without_landmarks: DEFAULT_ALIGN_WITHOUT_LANDMARKS,
            antialias: DEFAULT_ANTIALIAS,
            align_predicted: DEFAULT_ALIGN_PREDICTED,
            min_quality: DEFAULT_MIN_QUALITY,
            best_shot: DEFAULT_BEST_SHOT,
            best_shots: BestShotSettings::default(),
        }
    }
}

impl Settings {
    pub(super) fn wants(&self, face: &Face) -> bool {
        let is_wanted = self.align_predicted || face.uncertainty.is_none();
        is_wanted && face.score >= self.min_score && face.rect.w.min(face.rect.h) >= self.min_face_size as f32
    }

    /// Whether a crop of this quality is wanted.
    pub(super) fn wants_quality(&self, quality: &FaceQuality) -> bool {
        quality.overall() >= self.min_quality
    }

    pub(super) fn max_faces(&self) -> usize {
        if self.max_faces == 0 { usize::MAX } else { self.max_faces as usize }
    }

    pub(super) fn set_property(&mut self, value: &glib::Value, pspec: &glib::ParamSpec) {
        const CHECKED: &str = "GObject checks the type of a property";
        match pspec.name() {
            "size" => self.size = value.get().expect(CHECKED),
            "min-face-size" => self.min_face_size = value.get().expect(CHECKED),
            "min-score" => self.min_score = value.get().expect(CHECKED),
            "max-faces" => self.max_faces = value.get().expect(CHECKED),
            "gap-interval" => self.gap_interval = value.get().expect(CHECKED),
            "align-without-landmarks" => self.align_without_landmarks = value.get().expect(CHECKED),
            "antialias" => self.antialias = value.get().expect(CHECKED),
            "align-predicted" => self.align_predicted = value.get().expect(CHECKED),
            "min-quality" => self.min_quality = value.get().expect(CHECKED),
            "best-shot" => self.best_shot = value.get().expect(CHECKED),
            "best-shot-delay" => {
                self.best_shots.delay = Duration::from_millis(value.get::<u32>().expect(CHECKED).into());
            }
            "best-shot-gain" => self.best_shots.gain = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
        }
    }

    pub(super) fn property(&self, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "size" => self.size.to_value(),
            "min-face-size" => self.min_face_size.to_value(),
            "min-score" => self.min_score.to_value(),
            "max-faces" => self.max_faces.to_value(),
            "gap-interval" => self.gap_interval.to_value(),
            "align-without-landmarks" => self.align_without_landmarks.to_value(),
            "antialias" => self.antialias.to_value(),
            "align-predicted" => self.align_predicted.to_value(),
            "min-quality" => self.min_quality.to_value(),
            "best-shot" => self.best_shot.to_value(),
            "best-shot-delay" => u32::try_from(self.best_shots.delay.as_millis()).unwrap_or(u32::MAX).to_value(),
            "best-shot-gain" => self.best_shots.gain.to_value(),
            _ => unreachable!("GObject reads listed properties only"),
        }
    }
}

pub(super) fn properties() -> Vec<glib::ParamSpec> {
    vec![
        glib::ParamSpecUInt::builder("size")
            .nick("Size")
            .blurb("Width and height of a crop in pixels")
            .minimum(*SIZE.start())
            .maximum(*SIZE.end())
            .default_value(DEFAULT_SIZE)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("min-face-size")
            .nick("Minimum face size")
            .blurb("Minimum length of a face's shorter side in frame pixels; smaller faces have no crop; 0: no limit")
            .maximum(16384)
            .default_value(DEFAULT_MIN_FACE_SIZE)
            .mutable_playing()
            .build(),
        glib::ParamSpecFloat::builder("min-score")
            .nick("Minimum score")
            .blurb("Minimum score; faces with a lower score have no crop")
            .minimum(0.0)
            .maximum(1.0)
            .default_value(DEFAULT_MIN_SCORE)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("max-faces")
            .nick("Maximum faces")
            .blurb("Maximum number of crops per frame, best scores first; 0: no limit")
            .default_value(DEFAULT_MAX_FACES)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("gap-interval")
            .nick("Gap interval")
            .blurb(
                "Interval in ms of GAP events while there is no face, after the first one; 0: one event per frame",
            )
            .maximum(60_000)
            .default_value(DEFAULT_GAP_INTERVAL)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("align-without-landmarks")
            .nick("Align without landmarks")
            .blurb("Crop the square around the box of faces without landmarks, instead of failing")
            .default_value(DEFAULT_ALIGN_WITHOUT_LANDMARKS)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("antialias")
            .nick("Antialias")
            .blurb("Average all frame pixels that a crop pixel covers, where it covers 1.5 or more per axis, to reduce noise in crops of large faces; off: bilinear interpolation, as InsightFace's norm_crop")
            .default_value(DEFAULT_ANTIALIAS)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("align-predicted")
            .nick("Align predicted faces")
            .blurb(
                "Also crop faces whose position facetrack predicted, between inferences; their landmarks are less \
                 exact",
            )
            .default_value(DEFAULT_ALIGN_PREDICTED)
            .mutable_playing()
            .build(),
        glib::ParamSpecFloat::builder("min-quality")
            .nick("Minimum quality")
            .blurb("Minimum quality of a crop, see docs/tracking.md; crops with a lower quality are dropped")
            .minimum(0.0)
            .maximum(1.0)
            .default_value(DEFAULT_MIN_QUALITY)
            .mutable_playing()
            .build(),
        glib::ParamSpecBoolean::builder("best-shot")
            .nick("Best shot")
            .blurb(
                "Output one crop per track instead of one per face and frame: the best one after best-shot-delay, a \
                 better one after a gain of best-shot-gain, and the best of all when the track ends. Needs facetrack",
            )
            .default_value(DEFAULT_BEST_SHOT)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("best-shot-delay")
            .nick("Best-shot delay")
            .blurb(
                "Time in ms from the first face with the id of a track to the track's first crop; 0: with that face",
            )
            .maximum(3_600_000)
            .default_value(u32::try_from(DEFAULT_BEST_SHOT_DELAY.as_millis()).unwrap_or(u32::MAX))
            .mutable_playing()
            .build(),
        glib::ParamSpecFloat::builder("best-shot-gain")
            .nick("Best-shot gain")
            .blurb(
                "Increase of the quality over that of the previous crop of a track after which a better one is \
                 output; 0: any increase, 1: never",
            )
            .minimum(0.0)
            .maximum(1.0)
            .default_value(DEFAULT_BEST_SHOT_GAIN)
            .mutable_playing()
            .build(),
    ]
}
