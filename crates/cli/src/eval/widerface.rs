//! `retinaface eval widerface`: average precision on the WIDER FACE validation set.
//!
//! Verified with the published detections of a RetinaFace ResNet50 (Charrin/RetinaFace-Cpp) on all
//! 3,226 images, for which the author reports 92.25, 88.86 and 64.02 % (easy, medium, hard). The
//! official protocol gives 92.36, 88.94 and 64.09 %; raw scores (`--raw-scores`) give 92.34, 88.92
//! and 64.08 %, within 0.1 of the author's values. It is not known which of the two the author
//! used. The pixel convention of [`super::protocol`] matters: without the + 1, hard is 0.4 points
//! lower.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;

use super::plot;
use super::predictions::{self, Format};
use super::protocol::{DIFFICULTIES, Detection, Evaluation, PrCurve, ScoreNormalization};
use super::truth::{self, AnnotatedImage};
use crate::atomic_file;
use crate::status::{Outcome, report};

#[derive(Debug, Args)]
pub(super) struct WiderFace {
    /// Directory of the detections: EVENT/NAME.txt, as `retinaface eval predict` writes them
    #[arg(long, value_name = "DIR")]
    predictions: PathBuf,
    /// Directory with wider_face_val.mat, wider_easy_val.mat, wider_medium_val.mat and
    /// wider_hard_val.mat
    #[arg(long, value_name = "DIR")]
    ground_truth: PathBuf,
    /// Format of a detection
    #[arg(long, value_enum, default_value_t = Format::Xywh)]
    format: Format,
    /// Use the scores as they are, from 0 to 1, instead of normalising them to 0 to 1 over all
    /// detections
    #[arg(long)]
    raw_scores: bool,
    /// Evaluate only the images that exist in this directory as EVENT/NAME.jpg
    #[arg(long, value_name = "DIR")]
    subset: Option<PathBuf>,
    /// Write a plot of the precision-recall curves to this file
    #[arg(long, value_name = "FILE.svg", value_parser = parse_svg_path)]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

fn parse_svg_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_svg = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
    if is_svg { Ok(path) } else { Err("not a file name that ends in .svg".to_owned()) }
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    /// Evaluated images.
    #[serde(rename = "pictures")]
    images: usize,
    /// Evaluated images without a file of detections.
    missing: usize,
    detections: usize,
    format: Format,
    raw_scores: bool,
    sets: Vec<DifficultyReport>,
}

#[derive(Debug, Serialize)]
struct DifficultyReport {
    name: &'static str,
    /// Evaluated faces.
    faces: usize,
    /// In 0.0..=1.0; null without faces.
    average_precision: Option<f64>,
    /// Recall and precision of all detections of any score, in 0.0..=1.0.
    recall: f64,
    precision: f64,
}

impl WiderFace {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        let mut images = truth::read(&self.ground_truth)?;
        if let Some(directory) = &self.subset {
            retain_existing(&mut images, directory)?;
        }
        let (mut predictions, missing) = self.read_predictions(&images)?;
        let scores = predictions.iter().flatten().map(|detection| detection.score);
        let normalization =
            if self.raw_scores { ScoreNormalization::NONE } else { ScoreNormalization::from_scores(scores) };
        let mut evaluation = Evaluation::new();
        for (image, detections) in images.iter().zip(&mut predictions) {
            evaluation.add(&image.truth, detections, normalization);
        }
        let curves = evaluation.curves();
        if let Some(file) = &self.plot {
            let subset = if self.subset.is_some() { format!(", {} images", images.len()) } else { String::new() };
            let title = format!("WIDER FACE validation set{subset}: precision and recall");
            atomic_file::write(file, plot::svg(&title, &curves).as_bytes())?;
        }
        let sets = DIFFICULTIES.into_iter().zip(&curves);
        let sets = sets.map(|(name, curve)| DifficultyReport::new(name, curve)).collect();
        let report = Report {
            schema: "retinaface.widerface/1",
            images: images.len(),
            missing,
            detections: predictions.iter().map(Vec::len).sum(),
            format: self.format,
            raw_scores: self.raw_scores,
            sets,
        };
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
        } else {
            write!(io::stdout(), "{}", report.table())?;
        }
        Ok(Outcome::Found)
    }

    /// The detections of each image, and the number of images without a file. As in the official
    /// tool, an image without a file has no detections; a message reports it.
    fn read_predictions(&self, images: &[AnnotatedImage]) -> anyhow::Result<(Vec<Vec<Detection>>, usize)> {
        let mut missing = Vec::new();
        let mut all = Vec::with_capacity(images.len());
        for AnnotatedImage { event, name, .. } in images {
            let path = self.predictions.join(event).join(format!("{name}.txt"));
            let detections = predictions::read(&path, name, self.format)?;
            if detections.is_none() {
                missing.push(path);
            }
            all.push(detections.unwrap_or_default());
        }
        if let Some(first) = missing.first() {
            ensure!(
                missing.len() < images.len(),
                "no image has a file of detections: --predictions is the directory of files such as {}",
                first.display()
            );
            report(&format!(
                "{} of {} images have no file of detections and are evaluated without detections, the first is {}; to \
                 evaluate a part of the data set, use --subset with the directory of its images",
                missing.len(),
                images.len(),
                first.display()
            ));
        }
        Ok((all, missing.len()))
    }
}

/// Retains the images that exist in a directory.
fn retain_existing(images: &mut Vec<AnnotatedImage>, directory: &Path) -> anyhow::Result<()> {
    // So that the error tells a missing directory from one without images.
    fs::read_dir(directory).with_context(|| format!("cannot read the directory {}", directory.display()))?;
    images.retain(|AnnotatedImage { event, name, .. }| directory.join(event).join(format!("{name}.jpg")).is_file());
    if images.is_empty() {
        bail!(
            "{} contains no image of the ground truth: --subset is the directory of files such as 0--Parade/NAME.jpg",
            directory.display()
        );
    }
    Ok(())
}

impl DifficultyReport {
    fn new(name: &'static str, curve: &PrCurve) -> Self {
        let last = curve.points.last();
        Self {
            name,
            faces: curve.faces,
            average_precision: curve.average_precision,
            recall: last.map_or(0.0, |point| point.recall),
            precision: last.map_or(0.0, |point| point.precision),
        }
    }
}

impl Report {
    fn table(&self) -> String {
        let sets = self.sets.iter().map(|DifficultyReport { name, faces, average_precision, recall, precision }| {
            let average = average_precision.map_or_else(|| "-".to_owned(), |average| format!("{:.2}", 100.0 * average));
            let (recall, precision) = (100.0 * recall, 100.0 * precision);
            format!("{name:<8}{average:>8}{faces:>8}{recall:>8.2}{precision:>11.2}\n")
        });
        format!(
            "{:<8}{:>8}{:>8}{:>8}{:>11}\n{}images {}, of them {} without a file; detections {}\n",
            "set",
            "AP %",
            "faces",
            "recall",
            "precision",
            sets.collect::<String>(),
            self.images,
            self.missing,
            self.detections
        )
    }
}
