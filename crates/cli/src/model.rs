//! `retinaface model FILE`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use retinaface::contract::Contract;
use retinaface::model::{Model, Options, Purpose, Running};
use retinaface::preprocess::ChannelOrder;
use serde::Serialize;

use super::{Outcome, Run, tell_notes};

#[derive(Debug, Args)]
pub(super) struct ModelFile {
    /// ONNX file
    file: PathBuf,
    /// Say it for programs: one line of JSON
    #[arg(long)]
    json: bool,
    /// It is a landmark model, for facelandmarks
    #[arg(long)]
    landmarks: bool,
    #[command(flatten)]
    run: Run,
}

impl ModelFile {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        let purpose = if self.landmarks { Purpose::Points } else { Purpose::Faces };
        let model = Model::open(&self.file, &Options { purpose, ..self.run.options() })?;
        let (file, contract) = (self.file.display(), model.contract().as_ref());
        tell_notes(model.running());
        if self.json {
            let line = serde_json::to_string(&ModelRecord::from(contract))?;
            writeln!(io::stdout(), "{line}")?;
        } else {
            let Running { provider, library, kernels, .. } = model.running();
            let ours = if *kernels > 0 { format!(", with {kernels} kernels of retinaface") } else { String::new() };
            writeln!(
                io::stdout(),
                "file:       {file}\nruns on:    {provider}, {}{ours}\n{contract}",
                library.display()
            )?;
        }
        Ok(Outcome::Found)
    }
}

/// What other programs need to feed a model: its input is `(pixel - mean) * scale`, pixel in 0..=255, planar.
#[derive(Debug, Serialize)]
struct ModelRecord<'a> {
    schema: &'static str,
    layout: &'a str,
    input: &'a str,
    /// Width and height; null for a model that takes any.
    fixed_size: Option<[usize; 2]>,
    dynamic_batch: bool,
    /// What is read of the outputs: in the order scores, boxes, landmarks, each level by level.
    outputs: Vec<&'a str>,
    landmarks: bool,
    /// How many points a landmark model finds; null for a detector.
    points: Option<usize>,
    strides: Vec<usize>,
    multiple: usize,
    /// Of the input's channels, and so of `mean`.
    order: &'static str,
    mean: [f32; 3],
    scale: f32,
}

impl<'a> From<&'a Contract> for ModelRecord<'a> {
    fn from(contract: &'a Contract) -> Self {
        Self {
            schema: "retinaface.model/1",
            layout: contract.family,
            input: &contract.input,
            fixed_size: contract.fixed_size.map(|(width, height)| [width, height]),
            dynamic_batch: contract.dynamic_batch,
            outputs: contract.outputs.iter().map(String::as_str).collect(),
            landmarks: contract.layout().is_some_and(|layout| layout.landmarks),
            points: contract.points().map(|points| points.count),
            strides: contract.layout().iter().flat_map(|layout| &layout.levels).map(|level| level.stride).collect(),
            multiple: contract.multiple,
            order: match contract.normalization.order {
                ChannelOrder::Rgb => "RGB",
                ChannelOrder::Bgr => "BGR",
            },
            mean: contract.normalization.mean,
            scale: contract.normalization.scale,
        }
    }
}
