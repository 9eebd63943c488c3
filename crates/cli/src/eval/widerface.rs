//! `retinaface eval widerface`: average precision on WIDER FACE's validation set.
//!
//! Shown right by detections of a RetinaFace ResNet50 on all 3,226 pictures whose author (Charrin/RetinaFace-Cpp) published
//! 92.25, 88.86 and 64.02. They are `x y w h score`, and the pixel convention (see [`super::protocol`]) is needed: without
//! the + 1 hard is 0.4 points lower, and read as corners nothing is found. The official tool's way gives 92.36, 88.94 and
//! 64.09, with scores as they are (`--raw-scores`) 92.34, 88.92 and 64.08, which is within 0.1 of all three. Which of the
//! two the author's evaluation did is not known.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;

use super::super::Outcome;
use super::predictions::{self, Format};
use super::protocol::{Curve, Detection, SETS, Scale, Totals};
use super::truth::{self, Picture};
use super::{plot, write_whole};

#[derive(Debug, Args)]
pub(super) struct WiderFace {
    /// Folder of the detections: EVENT/NAME.txt, as `retinaface eval predict` writes them
    #[arg(long, value_name = "DIR")]
    predictions: PathBuf,
    /// Folder of wider_face_val.mat, wider_easy_val.mat, wider_medium_val.mat and wider_hard_val.mat
    #[arg(long, value_name = "DIR")]
    ground_truth: PathBuf,
    /// What the numbers of a detection are
    #[arg(long, value_enum, default_value_t = Format::Xywh)]
    format: Format,
    /// Take scores as they are, between 0 and 1, instead of stretching them so that all detections span 0 to 1
    #[arg(long)]
    raw_scores: bool,
    /// Only pictures that are in this folder, as EVENT/NAME.jpg, count
    #[arg(long, value_name = "DIR")]
    subset: Option<PathBuf>,
    /// Draw the curves of precision and recall into this file
    #[arg(long, value_name = "FILE.svg", value_parser = svg)]
    plot: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// The name of a file that can only be an SVG.
fn svg(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_svg = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("svg"));
    if is_svg { Ok(path) } else { Err("plots are SVG: name a file that ends in .svg".to_owned()) }
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    /// That counted,
    pictures: usize,
    /// and of these without a file of detections.
    missing: usize,
    detections: usize,
    format: Format,
    raw_scores: bool,
    sets: Vec<Set>,
}

#[derive(Debug, Serialize)]
struct Set {
    name: &'static str,
    /// That count in it.
    faces: usize,
    /// In 0..=1; null without faces.
    average_precision: Option<f64>,
    /// Of all detections, whatever their score.
    recall: f64,
    precision: f64,
}

impl WiderFace {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        let mut pictures = truth::read(&self.ground_truth)?;
        if let Some(folder) = &self.subset {
            keep_those_in(&mut pictures, folder)?;
        }
        let (mut found, missing) = self.predictions(&pictures)?;
        let scores = found.iter().flatten().map(|detection| detection.score);
        let scale = if self.raw_scores { Scale::RAW } else { Scale::of(scores) };
        let mut totals = Totals::new();
        for (picture, detections) in pictures.iter().zip(&mut found) {
            totals.add(&picture.truth, detections, scale);
        }
        let curves = totals.curves();
        if let Some(file) = &self.plot {
            let part =
                if self.subset.is_some() { format!(", {} pictures of it", pictures.len()) } else { String::new() };
            let title = format!("WIDER FACE validation set{part}: precision and recall");
            write_whole(file, plot::svg(&title, &curves).as_bytes())?;
        }
        let sets = SETS.into_iter().zip(&curves).map(|(name, curve)| Set::new(name, curve)).collect();
        let report = Report {
            schema: "retinaface.widerface/1",
            pictures: pictures.len(),
            missing,
            detections: found.iter().map(Vec::len).sum(),
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

    /// The detections of each picture, and how many have no file. As for the official tool these have no detections; but it
    /// is said.
    fn predictions(&self, pictures: &[Picture]) -> anyhow::Result<(Vec<Vec<Detection>>, usize)> {
        let mut missing = Vec::new();
        let mut all = Vec::with_capacity(pictures.len());
        for Picture { event, name, .. } in pictures {
            let path = self.predictions.join(event).join(format!("{name}.txt"));
            let found = predictions::read(&path, name, self.format)?;
            if found.is_none() {
                missing.push(path);
            }
            all.push(found.unwrap_or_default());
        }
        if let Some(first) = missing.first() {
            ensure!(
                missing.len() < pictures.len(),
                "there is no file of detections for any picture: --predictions is the folder of files such as {}",
                first.display()
            );
            // Without a standard error there is nobody to tell.
            let _ = writeln!(
                io::stderr(),
                "retinaface: {} of {} pictures have no file of detections and count as without any, the first being {}; for a \
                 part of the data set name the folder of its pictures by --subset",
                missing.len(),
                pictures.len(),
                first.display()
            );
        }
        Ok((all, missing.len()))
    }
}

/// Leaves the pictures that a folder has.
fn keep_those_in(pictures: &mut Vec<Picture>, folder: &Path) -> anyhow::Result<()> {
    // One that is not there must not look like one without pictures.
    fs::read_dir(folder).with_context(|| format!("the folder {} cannot be read", folder.display()))?;
    pictures.retain(|Picture { event, name, .. }| folder.join(event).join(format!("{name}.jpg")).is_file());
    if pictures.is_empty() {
        bail!(
            "{} has no picture of the ground truth: --subset is the folder of files such as 0--Parade/NAME.jpg",
            folder.display()
        );
    }
    Ok(())
}

impl Set {
    fn new(name: &'static str, curve: &Curve) -> Self {
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
        let sets = self.sets.iter().map(|Set { name, faces, average_precision, recall, precision }| {
            let average = average_precision.map_or_else(|| "-".to_owned(), |average| format!("{:.2}", 100.0 * average));
            let (recall, precision) = (100.0 * recall, 100.0 * precision);
            format!("{name:<8}{average:>8}{faces:>8}{recall:>8.2}{precision:>11.2}\n")
        });
        format!(
            "{:<8}{:>8}{:>8}{:>8}{:>11}\n{}pictures {}, of them {} without a file; detections {}\n",
            "set",
            "AP %",
            "faces",
            "recall",
            "precision",
            sets.collect::<String>(),
            self.pictures,
            self.missing,
            self.detections
        )
    }
}
