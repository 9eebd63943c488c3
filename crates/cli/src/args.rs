//! Arguments that several commands share, and how a command opens its model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use retinaface::detect::{
    DetectionSettings, Detector, LandmarkFusion, Merge, Scales, SettingsProblem, Tiles, Views, parse_rois,
};
use retinaface::geometry::Rect;
use retinaface::image::OwnedImage;
use retinaface::inference::{Kernels, ModelFile, ModelOptions, OpenContext, Progress, SharedModel};
use retinaface::model::Overrides;
use retinaface::runtime::{Precision, Provider, locate};

use crate::status::{report, report_notes};

/// How a model is run.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// ONNX Runtime execution provider: auto, cpu, openvino, webgpu, cuda, tensorrt or
    /// nv-tensorrt-rtx; an error if it is not available
    #[arg(long, value_name = "NAME", default_value_t = Provider::Auto)]
    pub(crate) execution_provider: Provider,
    /// Index of the device among those of the execution provider; `retinaface devices` lists them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) device_id: u32,
    /// Arithmetic: full, or reduced (bfloat16, float16 or TF32; an error if the provider has none)
    #[arg(long, value_name = "NAME", default_value_t = Precision::Full)]
    pub(crate) precision: Precision,
    /// Convolution kernels on the CPU: auto (built-in kernels where they are faster) or runtime
    /// (ONNX Runtime's only)
    #[arg(long, value_name = "NAME", default_value_t = Kernels::Auto)]
    pub(crate) kernels: Kernels,
    /// Run on the CPU and print a note if the execution provider is not available
    #[arg(long)]
    pub(crate) allow_cpu_fallback: bool,
    /// Threads per inference; 0: one per physical core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// Overrides for the detected model parameters, as in mean=104,117,123; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_model_option)]
    model_option: Vec<(String, String)>,
}

impl ModelArgs {
    pub(crate) fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        for (key, value) in &self.model_option {
            overrides.set(key, value).expect("parse_model_option has accepted the value");
        }
        overrides
    }

    pub(crate) fn options(&self) -> ModelOptions {
        ModelOptions {
            overrides: self.overrides(),
            provider: self.execution_provider,
            device_id: self.device_id,
            precision: self.precision,
            kernels: self.kernels,
            allow_cpu_fallback: self.allow_cpu_fallback,
            threads: self.threads,
            ..ModelOptions::default()
        }
    }

    /// Opens a model for several threads.
    pub(crate) fn open_shared(&self, file: &Path) -> anyhow::Result<Arc<SharedModel>> {
        Ok(SharedModel::open_file(&ModelFile::read(file)?, &self.options(), &open_context())?)
    }

    /// Opens `file`, or the default model, as a detector. Reports notes about the backend on
    /// standard error.
    pub(crate) fn open_detector(&self, file: Option<&Path>) -> anyhow::Result<Detector> {
        silence_opencv()?;
        let model = self.open_shared(&model_path(file)?)?;
        report_notes(model.backend());
        Ok(Detector::new(&model))
    }
}

/// Where in the image and at which scales detection runs.
#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// Scales of the image pyramid, relative to the scale that --input-size gives; auto: 1.0 and, for
    /// an input of at least 512 px, a scale with 256 px on the longer side for large faces
    #[arg(long, value_name = "FACTOR,...", default_value = "1.0", value_parser = str::parse::<Scales>)]
    scales: Scales,
    /// Also run detection on the horizontally flipped image
    #[arg(long)]
    flip: bool,
    /// Also run detection on overlapping tiles: none, auto (tiles of the input size, at full
    /// resolution), or columns and rows, as in 3x2
    #[arg(long, value_name = "TILES", default_value = "none", value_parser = str::parse::<Tiles>)]
    tiles: Tiles,
    /// Run detection only in these regions, in image pixels; `;` separates regions
    #[arg(long, value_name = "X,Y,W,H", default_value = "", value_parser = parse_rois, hide_default_value = true)]
    roi: Arc<[Rect]>,
    /// How overlapping detections are merged: nms (keep the best score) or vote (score-weighted
    /// mean)
    #[arg(long, value_name = "NAME", default_value = "nms", value_parser = parse_merge)]
    pub(crate) merge: Merge,
    /// How the landmarks of a face are computed: mean (of its overlapping candidates, weighted by
    /// score) or none (those of the best candidate); not used with --merge vote
    #[arg(long, value_name = "NAME", default_value = "mean", value_parser = parse_landmark_fusion)]
    pub(crate) landmark_fusion: LandmarkFusion,
}

impl ViewArgs {
    pub(crate) fn views(&self) -> Views {
        Views {
            scales: self.scales.clone(),
            flip: self.flip,
            tiles: self.tiles,
            rois: Arc::clone(&self.roi),
            objects: None,
        }
    }
}

/// Checks the key and the value here, so that a wrong one is a usage error.
fn parse_model_option(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Overrides::default().set(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_merge(text: &str) -> Result<Merge, String> {
    match text {
        "nms" => Ok(Merge::Nms),
        "vote" => Ok(Merge::Vote),
        _ => Err("expected nms or vote".to_owned()),
    }
}

fn parse_landmark_fusion(text: &str) -> Result<LandmarkFusion, String> {
    match text {
        "mean" => Ok(LandmarkFusion::Mean),
        "none" => Ok(LandmarkFusion::None),
        _ => Err("expected mean or none".to_owned()),
    }
}

/// Parses `refine-large-faces` as the element has it. For images, `auto` is on.
pub(crate) fn parse_refine_large_faces(text: &str) -> Result<bool, String> {
    match text {
        "auto" | "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected auto, on or off".to_owned()),
    }
}

/// Parses a value in 0.0..=1.0.
pub(crate) fn parse_fraction(text: &str) -> Result<f32, String> {
    let value = text.parse::<f32>().map_err(|error| error.to_string())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("not between 0 and 1".to_owned()) }
}

/// Parses a score threshold: faces with a higher score are kept, so that 1 would keep none.
pub(crate) fn parse_threshold(text: &str) -> Result<f32, String> {
    match parse_fraction(text)? {
        1.0 => Err("no score is above 1, so no face would be found; give a value below 1".to_owned()),
        threshold => Ok(threshold),
    }
}

/// Checks that the settings can find a face in an image of this size. Returns the problem of a
/// `min-face-size` that is larger than the image: it may be meant to select among images.
pub(crate) fn check_settings(
    detector: &Detector,
    settings: &DetectionSettings,
    image: &OwnedImage,
) -> anyhow::Result<Option<SettingsProblem>> {
    let problems = settings.problems(detector.model().spec(), image.view().info().size());
    let is_size = |problem: &SettingsProblem| matches!(problem, SettingsProblem::MinFaceSize { .. });
    match problems.iter().find(|problem| !is_size(problem)) {
        Some(problem) => Err((*problem).into()),
        None => Ok(problems.into_iter().next()),
    }
}

/// Where ONNX Runtime is searched, with progress on standard error.
pub(crate) fn open_context() -> OpenContext {
    OpenContext {
        base_dir: program_directory(),
        progress: Some(Progress::new(|step, done| report(&format!("{step}{}", if done { ": done" } else { " ..." })))),
    }
}

/// The directory of the running program. Models and libraries are looked up relative to it.
pub(crate) fn program_directory() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_path_buf())
}

/// `file`, or the path of the default model.
pub(crate) fn model_path(file: Option<&Path>) -> Result<PathBuf, locate::NotFound> {
    file.map_or_else(|| locate::model(program_directory().as_deref()), |file| Ok(file.to_path_buf()))
}

/// Turns off OpenCV's log: it would mix with this program's messages, and failures also return as
/// errors.
pub(crate) fn silence_opencv() -> opencv::Result<()> {
    opencv::core::set_log_level(opencv::core::LogLevel::LOG_LEVEL_SILENT)?;
    Ok(())
}
