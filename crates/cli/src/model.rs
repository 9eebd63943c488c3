//! `retinaface model FILE`: prints what a model file contains.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use retinaface::inference::{BackendInfo, Model, ModelFile, ModelOptions, ModelTask};
use retinaface::model::{ChannelOrder, ModelSpec};
use retinaface::runtime::Provider;
use serde::Serialize;

use crate::args::{ModelArgs, open_context};
use crate::status::{Outcome, report_notes};

#[derive(Debug, Args)]
pub(crate) struct InspectModel {
    /// ONNX file
    file: PathBuf,
    /// Print one line of JSON instead of text
    #[arg(long)]
    json: bool,
    /// The file is a landmark model for the element facelandmarks
    #[arg(long)]
    landmarks: bool,
    #[command(flatten)]
    model_args: ModelArgs,
}

impl InspectModel {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        let task = if self.landmarks { ModelTask::Landmarks } else { ModelTask::Detection };
        let options = ModelOptions { task, ..self.model_args.options() };
        let model = Model::open_file(&ModelFile::read(&self.file)?, &options, &open_context())?;
        let (file, spec) = (self.file.display(), model.spec().as_ref());
        report_notes(model.backend());
        if self.json {
            let line = serde_json::to_string(&ModelRecord::from(spec))?;
            writeln!(io::stdout(), "{line}")?;
        } else {
            let BackendInfo { provider, device, library, kernels, .. } = model.backend();
            let built_in = match (provider, kernels) {
                (Provider::Cpu, 0) => String::new(),
                (Provider::Cpu, kernels) => format!(", with {kernels} kernels of retinaface"),
                _ => format!(", device {device}"),
            };
            writeln!(
                io::stdout(),
                "file:       {file}\nruns on:    {provider}, {}{built_in}\n{spec}",
                library.display()
            )?;
        }
        Ok(Outcome::Found)
    }
}

/// What another program needs to run the model. The input is planar and holds `(pixel - mean) *
/// scale`, with pixels in 0..=255.
#[derive(Debug, Serialize)]
struct ModelRecord<'a> {
    schema: &'static str,
    layout: &'a str,
    input: &'a str,
    /// Width and height in pixels; null if the model accepts any size.
    fixed_size: Option<[usize; 2]>,
    dynamic_batch: bool,
    /// Names of the outputs that are read: scores, boxes, landmarks, each in the order of the
    /// levels.
    outputs: Vec<&'a str>,
    landmarks: bool,
    /// Number of points of a landmark model; null for a detector.
    points: Option<usize>,
    strides: Vec<usize>,
    multiple: usize,
    /// Order of the input's channels, and of `mean`.
    order: &'static str,
    mean: [f32; 3],
    scale: f32,
}

impl<'a> From<&'a ModelSpec> for ModelRecord<'a> {
    fn from(spec: &'a ModelSpec) -> Self {
        Self {
            schema: "retinaface.model/1",
            layout: spec.family,
            input: &spec.input_name,
            fixed_size: spec.fixed_size.map(|(width, height)| [width, height]),
            dynamic_batch: spec.dynamic_batch,
            outputs: spec.output_names.iter().map(String::as_str).collect(),
            landmarks: spec.layout().is_some_and(|layout| layout.landmarks),
            points: spec.points().map(|points| points.count),
            strides: spec.layout().iter().flat_map(|layout| &layout.levels).map(|level| level.stride).collect(),
            multiple: spec.size_multiple,
            order: match spec.normalization.order {
                ChannelOrder::Rgb => "RGB",
                ChannelOrder::Bgr => "BGR",
            },
            mean: spec.normalization.mean,
            scale: spec.normalization.scale,
        }
    }
}
