//! The properties of `retinaface`: their defaults, and their values as the library needs them.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use retinaface::detect::{
    DetectionSettings, LandmarkFusion as LibraryLandmarkFusion, Merge as LibraryMerge, Scales, Tiles, Views, parse_rois,
};
use retinaface::geometry::{InputSize, Rect};
use retinaface::inference::Preprocessing as LibraryPreprocessing;

use super::regions::ObjectClasses;
use crate::common::failures::{OnError, on_error_property};
use crate::common::model_properties::{ModelProperties, ParsedProperty};

const DEFAULT_SCORE_THRESHOLD: f32 = 0.5;
const DEFAULT_IOU_THRESHOLD: f32 = 0.4;
const DEFAULT_INPUT_SIZE: u32 = 640;
const DEFAULT_MAX_FACES: u32 = 0;
const DEFAULT_MIN_FACE_SIZE: u32 = 0;
const DEFAULT_INFERENCE_INTERVAL: u32 = 1;
const DEFAULT_BATCH_SIZE: u32 = 0;
const DEFAULT_BATCH_TIMEOUT: u32 = 10;
const DEFAULT_PARALLEL_RUNS: u32 = 1;
const DEFAULT_INFLIGHT: u32 = 0;
const DEFAULT_MAX_AGE: u32 = 1000;
const DEFAULT_STATS_INTERVAL: u32 = 0;
const DEFAULT_CUDA_GRAPH: bool = false;
const DEFAULT_SCALES: &str = "1.0";
const DEFAULT_FLIP: bool = false;
const DEFAULT_TILES: &str = "none";

/// Where frames are preprocessed, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFacePreprocessing")]
#[repr(i32)]
pub(super) enum Preprocessing {
    #[default]
    #[enum_value(name = "Auto: on the device with CUDA and TensorRT, else on the CPU", nick = "auto")]
    Auto,
    #[enum_value(name = "CPU", nick = "cpu")]
    Cpu,
    #[enum_value(name = "Device: in the model's graph", nick = "device")]
    Device,
}

impl From<Preprocessing> for LibraryPreprocessing {
    fn from(preprocessing: Preprocessing) -> Self {
        match preprocessing {
            Preprocessing::Auto => Self::Auto,
            Preprocessing::Cpu => Self::Cpu,
            Preprocessing::Device => Self::Device,
        }
    }
}

/// How overlapping faces are merged, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceMerge")]
#[repr(i32)]
pub(super) enum Merge {
    #[default]
    #[enum_value(name = "NMS: the best of overlapping faces is kept", nick = "nms")]
    Nms,
    #[enum_value(name = "Vote: overlapping faces become their mean, weighted by score", nick = "vote")]
    Vote,
}

impl From<Merge> for LibraryMerge {
    fn from(merge: Merge) -> Self {
        match merge {
            Merge::Nms => Self::Nms,
            Merge::Vote => Self::Vote,
        }
    }
}

/// How the landmarks of a face's candidates are fused, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceLandmarkFusion")]
#[repr(i32)]
pub(super) enum LandmarkFusion {
    #[enum_value(name = "None: the landmarks of the best candidate", nick = "none")]
    None,
    #[default]
    #[enum_value(
        name = "Mean: the mean of the overlapping candidates (IoU of at least 0.6), weighted by score",
        nick = "mean"
    )]
    Mean,
}

impl From<LandmarkFusion> for LibraryLandmarkFusion {
    fn from(fusion: LandmarkFusion) -> Self {
        match fusion {
            LandmarkFusion::None => Self::None,
            LandmarkFusion::Mean => Self::Mean,
        }
    }
}

/// Whether large faces get a second inference, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceRefineLargeFaces")]
#[repr(i32)]
pub(super) enum RefineLargeFaces {
    #[default]
    #[enum_value(name = "Auto: on, except for live sources", nick = "auto")]
    Auto,
    #[enum_value(name = "On", nick = "on")]
    On,
    #[enum_value(name = "Off", nick = "off")]
    Off,
}

/// Where detection runs, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceInferenceRegion")]
#[repr(i32)]
pub(super) enum InferenceRegion {
    #[default]
    #[enum_value(name = "Full frame, or the regions of roi", nick = "full-frame")]
    FullFrame,
    #[enum_value(name = "ROI list: the regions of interest that an earlier detector attached", nick = "roi-list")]
    RoiList,
}

/// Whether frames wait for their faces, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceMode")]
#[repr(i32)]
pub(super) enum Mode {
    #[default]
    #[enum_value(name = "Sync: each frame waits for its own faces", nick = "sync")]
    Sync,
    #[enum_value(name = "Latest: no frame waits, each gets the newest known faces", nick = "latest")]
    Latest,
}

/// The values that the user set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) model: ModelProperties,
    pub(super) score_threshold: f32,
    pub(super) iou_threshold: f32,
    pub(super) input_size: u32,
    pub(super) max_faces: u32,
    pub(super) min_face_size: u32,
    pub(super) inference_interval: u32,
    pub(super) batch_size: u32,
    pub(super) batch_timeout: u32,
    pub(super) parallel_runs: u32,
    pub(super) mode: Mode,
    pub(super) max_age: u32,
    pub(super) inflight: u32,
    pub(super) on_error: OnError,
    pub(super) stats_interval: u32,
    pub(super) preprocessing: Preprocessing,
    pub(super) cuda_graph: bool,
    scales: ParsedProperty<Scales>,
    flip: bool,
    tiles: ParsedProperty<Tiles>,
    roi: ParsedProperty<Arc<[Rect]>>,
    inference_region: InferenceRegion,
    object_class: ParsedProperty<ObjectClasses>,
    merge: Merge,
    landmark_fusion: LandmarkFusion,
    refine_large_faces: RefineLargeFaces,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: ModelProperties::default(),
            score_threshold: DEFAULT_SCORE_THRESHOLD,
            iou_threshold: DEFAULT_IOU_THRESHOLD,
            input_size: DEFAULT_INPUT_SIZE,
            max_faces: DEFAULT_MAX_FACES,
            min_face_size: DEFAULT_MIN_FACE_SIZE,
            inference_interval: DEFAULT_INFERENCE_INTERVAL,
            batch_size: DEFAULT_BATCH_SIZE,
            batch_timeout: DEFAULT_BATCH_TIMEOUT,
            parallel_runs: DEFAULT_PARALLEL_RUNS,
            mode: Mode::default(),
            max_age: DEFAULT_MAX_AGE,
            inflight: DEFAULT_INFLIGHT,
            on_error: OnError::default(),
            stats_interval: DEFAULT_STATS_INTERVAL,
            preprocessing: Preprocessing::default(),
            cuda_graph: DEFAULT_CUDA_GRAPH,
            scales: ParsedProperty::new(DEFAULT_SCALES, Scales::default()),
            flip: DEFAULT_FLIP,
            tiles: ParsedProperty::new(DEFAULT_TILES, Tiles::default()),
            roi: ParsedProperty::new("", [].into()),
            inference_region: InferenceRegion::default(),
            object_class: ParsedProperty::new("", ObjectClasses::default()),
            merge: Merge::default(),
            landmark_fusion: LandmarkFusion::default(),
            refine_large_faces: RefineLargeFaces::default(),
        }
    }
}

impl Settings {
    /// How long a frame waits for a batch to fill: not at all if the batch size is left to the
    /// element.
    pub(super) fn batch_timeout(&self) -> Duration {
        if self.batch_size > 1 { Duration::from_millis(self.batch_timeout.into()) } else { Duration::ZERO }
    }

    /// The first problem of the properties that are parsed.
    pub(super) fn problem(&self) -> Option<String> {
        ["scales", "tiles", "roi"].into_iter().find_map(|name| self.problem_with(name))
    }

    /// The problem of the last value of a property.
    pub(super) fn problem_with(&self, name: &str) -> Option<String> {
        match name {
            "scales" => self.scales.problem(name),
            "tiles" => self.tiles.problem(name),
            "roi" => self.roi.problem(name),
            _ => None,
        }
    }

    /// `max-age` and the frame rate, if every result is older when the next frame arrives: in mode
    /// latest, the age is at least the time between two frames.
    pub(super) fn short_max_age(&self, fps: gst::Fraction) -> Option<(u32, gst::Fraction)> {
        let (frames, seconds) = (i64::from(fps.numer()), i64::from(fps.denom()));
        let is_short =
            self.mode == Mode::Latest && self.max_age > 0 && i64::from(self.max_age) * frames < 1000 * seconds;
        (is_short && frames > 0).then_some((self.max_age, fps))
    }

    /// The classes of the objects in whose regions detection runs; `None` if it does not depend on
    /// objects.
    pub(super) fn object_classes(&self) -> Option<ObjectClasses> {
        (self.inference_region == InferenceRegion::RoiList).then(|| self.object_class.value())
    }

    /// The settings of the library for a stream from a live source or another one, without the
    /// regions of objects, which differ from frame to frame.
    pub(super) fn detection(&self, is_live: bool) -> DetectionSettings {
        let views = Views {
            scales: self.scales.value(),
            flip: self.flip,
            tiles: self.tiles.value(),
            rois: self.roi.value(),
            objects: None,
        };
        DetectionSettings {
            views,
            merge: self.merge.into(),
            landmark_fusion: self.landmark_fusion.into(),
            refine_large_faces: match self.refine_large_faces {
                RefineLargeFaces::Auto => !is_live,
                RefineLargeFaces::On => true,
                RefineLargeFaces::Off => false,
            },
            score_threshold: self.score_threshold,
            iou_threshold: self.iou_threshold,
            input_size: InputSize::from(self.input_size),
            max_faces: self.max_faces as usize,
            min_face_size: self.min_face_size as f32,
            max_batch: self.batch_size as usize,
            batch_timeout: self.batch_timeout(),
        }
    }
}

/// The element's properties, the read-only ones included.
pub(super) fn properties() -> &'static [glib::ParamSpec] {
    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let mut properties = ModelProperties::properties(
            "ONNX file of the detector; none: $RETINAFACE_MODEL, the file beside the plugin, or the installed file",
        );
        properties.extend([
                glib::ParamSpecFloat::builder("score-threshold")
                    .nick("Score threshold")
                    .blurb("Keep faces whose score is above this value")
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(DEFAULT_SCORE_THRESHOLD)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecFloat::builder("iou-threshold")
                    .nick("IoU threshold")
                    .blurb("Of two faces whose intersection over union is above this value, keep the better one")
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(DEFAULT_IOU_THRESHOLD)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("input-size")
                    .nick("Input size")
                    .blurb("Length of the longer side of the model's input in pixels; 0: the frame's own size. Models with a fixed input size ignore it")
                    .maximum(16384)
                    .default_value(DEFAULT_INPUT_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("scales")
                    .nick("Scales")
                    .blurb("Image pyramid: scales of the frame relative to input-size, separated by commas (\"1.0,0.2\"); auto: 1.0 and, for inputs of at least 512 px, a second scale with 256 px on the longer side for large faces")
                    .default_value(DEFAULT_SCALES)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("flip")
                    .nick("Flip")
                    .blurb("Also run detection on the horizontally flipped frame")
                    .default_value(DEFAULT_FLIP)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("tiles")
                    .nick("Tiles")
                    .blurb("Also run detection on overlapping tiles: none, auto (tiles of the input size at full resolution), or columns x rows (\"3x2\")")
                    .default_value(DEFAULT_TILES)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("roi")
                    .nick("Regions of interest")
                    .blurb("Run detection only in these regions: x,y,width,height in frame pixels, separated by `;`; none: the whole frame. Each region is scaled as a frame of its own")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("inference-region", InferenceRegion::default())
                    .nick("Inference region")
                    .blurb("Where detection runs. In roi-list only in the regions of interest (GstVideoRegionOfInterestMeta) of an earlier detector, which roi clips; each face gets the id of its region as parent")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("object-class")
                    .nick("Object class")
                    .blurb("With inference-region=roi-list, the types of the regions of interest, separated by commas; none: all types. Faces of retinaface elements are never regions")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("merge", Merge::default())
                    .nick("Merge")
                    .blurb("How overlapping faces are merged")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("landmark-fusion", LandmarkFusion::default())
                    .nick("Landmark fusion")
                    .blurb("How the landmarks of a face are computed from its candidates; not used with merge=vote, which averages the faces it merges")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("refine-large-faces", RefineLargeFaces::default())
                    .nick("Refine large faces")
                    .blurb("Run a second inference for the landmarks of faces whose longer side is above 320 px in the model's input, with the face scaled to 160 px; no effect on frames in CUDA memory")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("max-faces")
                    .nick("Maximum faces")
                    .blurb("Maximum number of faces per frame, best scores first; 0: no limit")
                    .default_value(DEFAULT_MAX_FACES)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("min-face-size")
                    .nick("Minimum face size")
                    .blurb("Minimum length of a face's shorter side in frame pixels; 0: no limit")
                    .maximum(16384)
                    .default_value(DEFAULT_MIN_FACE_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("inference-interval")
                    .nick("Inference interval")
                    .blurb("Run inference on every Nth frame; in mode sync the others get no faces, in mode latest the newest known ones")
                    .minimum(1)
                    .default_value(DEFAULT_INFERENCE_INTERVAL)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("batch-size")
                    .nick("Batch size")
                    .blurb("Maximum number of frames, of all streams that share the model, per inference; 0: the waiting frames on a GPU, 1 on a CPU")
                    .maximum(64)
                    .default_value(DEFAULT_BATCH_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("batch-timeout")
                    .nick("Batch timeout")
                    .blurb("Maximum time in ms that a frame waits for a batch to fill, with a batch-size of 2 or more. Ends early when every playing stream has submitted a frame")
                    .maximum(10_000)
                    .default_value(DEFAULT_BATCH_TIMEOUT)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("parallel-runs")
                    .nick("Parallel runs")
                    .blurb("Number of concurrent inferences, each on `threads` threads; several single-threaded inferences process more frames than one multi-threaded inference")
                    .minimum(1)
                    .maximum(64)
                    .default_value(DEFAULT_PARALLEL_RUNS)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("mode", Mode::default())
                    .nick("Mode")
                    .blurb("Whether frames wait for their own faces or pass at once with the newest known faces")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("max-age")
                    .nick("Maximum age")
                    .blurb("In mode latest, detections older than this (ms) are not reused; 0: no limit")
                    .default_value(DEFAULT_MAX_AGE)
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
                glib::ParamSpecUInt::builder("stats-interval")
                    .nick("Statistics interval")
                    .blurb("Interval in ms of element messages with statistics; 0: no messages")
                    .default_value(DEFAULT_STATS_INTERVAL)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("preprocessing", Preprocessing::default())
                    .nick("Preprocessing")
                    .blurb("Where frames are resized and converted for the model")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("cuda-graph")
                    .nick("CUDA graph")
                    .blurb("Replay a recorded CUDA graph for each input shape (execution providers cuda and tensorrt)")
                    .default_value(DEFAULT_CUDA_GRAPH)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Statistics since start and of the last interval: frames, inferred, skipped and failed frames, regions of roi-list and those left out, faces, batch sizes (0: no region), and times of each stage in ns")
                    .read_only()
                    .build(),
            ]);
        properties
    });
    &PROPERTIES
}

impl Settings {
    /// Sets a property.
    pub(super) fn set(&mut self, name: &str, value: &glib::Value) {
        const CHECKED: &str = "GObject checks the type of a property";
        if self.model.set(name, value) {
            return;
        }
        match name {
            "score-threshold" => self.score_threshold = value.get().expect(CHECKED),
            "iou-threshold" => self.iou_threshold = value.get().expect(CHECKED),
            "input-size" => self.input_size = value.get().expect(CHECKED),
            "scales" => self.scales.set(value, str::parse),
            "flip" => self.flip = value.get().expect(CHECKED),
            "tiles" => self.tiles.set(value, str::parse),
            "roi" => self.roi.set(value, parse_rois),
            "inference-region" => self.inference_region = value.get().expect(CHECKED),
            "object-class" => self.object_class.set(value, str::parse),
            "merge" => self.merge = value.get().expect(CHECKED),
            "landmark-fusion" => self.landmark_fusion = value.get().expect(CHECKED),
            "refine-large-faces" => self.refine_large_faces = value.get().expect(CHECKED),
            "max-faces" => self.max_faces = value.get().expect(CHECKED),
            "min-face-size" => self.min_face_size = value.get().expect(CHECKED),
            "inference-interval" => self.inference_interval = value.get().expect(CHECKED),
            "batch-size" => self.batch_size = value.get().expect(CHECKED),
            "batch-timeout" => self.batch_timeout = value.get().expect(CHECKED),
            "parallel-runs" => self.parallel_runs = value.get().expect(CHECKED),
            "mode" => self.mode = value.get().expect(CHECKED),
            "max-age" => self.max_age = value.get().expect(CHECKED),
            "inflight" => self.inflight = value.get().expect(CHECKED),
            "on-error" => self.on_error = value.get().expect(CHECKED),
            "stats-interval" => self.stats_interval = value.get().expect(CHECKED),
            "preprocessing" => self.preprocessing = value.get().expect(CHECKED),
            "cuda-graph" => self.cuda_graph = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
        }
    }

    /// A property's value.
    pub(super) fn get(&self, name: &str) -> glib::Value {
        if let Some(value) = self.model.get(name) {
            return value;
        }
        match name {
            "score-threshold" => self.score_threshold.to_value(),
            "iou-threshold" => self.iou_threshold.to_value(),
            "input-size" => self.input_size.to_value(),
            "scales" => self.scales.to_value(),
            "flip" => self.flip.to_value(),
            "tiles" => self.tiles.to_value(),
            "roi" => self.roi.to_value(),
            "inference-region" => self.inference_region.to_value(),
            "object-class" => self.object_class.to_value(),
            "merge" => self.merge.to_value(),
            "landmark-fusion" => self.landmark_fusion.to_value(),
            "refine-large-faces" => self.refine_large_faces.to_value(),
            "max-faces" => self.max_faces.to_value(),
            "min-face-size" => self.min_face_size.to_value(),
            "inference-interval" => self.inference_interval.to_value(),
            "batch-size" => self.batch_size.to_value(),
            "batch-timeout" => self.batch_timeout.to_value(),
            "parallel-runs" => self.parallel_runs.to_value(),
            "mode" => self.mode.to_value(),
            "max-age" => self.max_age.to_value(),
            "inflight" => self.inflight.to_value(),
            "on-error" => self.on_error.to_value(),
            "stats-interval" => self.stats_interval.to_value(),
            "preprocessing" => self.preprocessing.to_value(),
            "cuda-graph" => self.cuda_graph.to_value(),
            _ => unreachable!("GObject reads listed properties only"),
        }
    }
}
