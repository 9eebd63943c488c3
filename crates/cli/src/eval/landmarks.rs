//! `retinaface eval landmarks`: how far the five points are from the true ones.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::Args;
use retinaface::detector::Settings;
use retinaface::letterbox::InputSize;
use serde::Serialize;

use super::super::progress::{self, tell};
use super::super::{Outcome, Run, open_detector, picture};
use super::nme::{self, Summary};

#[derive(Debug, Args)]
#[command(
    after_help = "The truth file has a line `file,x1,y1,...,x5,y5` a face: eye, eye, nose, mouth corner, mouth corner, \
                        each from the image's left, in pixels. Several faces of a picture are several lines; lines that \
                        begin with # are comments.\n\n\
                        Exit status: 0 if each picture was read, 2 on an error."
)]
pub(super) struct Landmarks {
    /// Folder of the pictures that the truth file names
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// CSV file of the true points, see below
    #[arg(long, value_name = "FILE")]
    truth: PathBuf,
    /// ONNX file of the detector; none: $RETINAFACE_MODEL, beside the program, or the installed one
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Longer side of the model's input in pixels; 0: the picture's own size
    #[arg(long, value_name = "PIXELS", default_value_t = 640, value_parser = clap::value_parser!(u32).range(0..=16384))]
    input_size: u32,
    /// A face whose error is above this, in parts of the distance of the eyes, counts as a failure
    #[arg(long, value_name = "PART", default_value_t = 0.1, value_parser = limit)]
    failure: f64,
    /// One JSON object instead of words
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: Run,
}

fn limit(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err("not a number from 0 on".to_owned()) }
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    /// That were read.
    pictures: usize,
    /// Faces of the truth file that are in them,
    faces: usize,
    /// and those of them that were found.
    found: usize,
    /// Mean error of the found ones in parts of the distance of the eyes; null where none was found.
    nme: Option<f64>,
    /// The same of each point, in the library's order.
    points: Option<[f64; 5]>,
    /// Not found, or with an error above the limit.
    failures: usize,
    failure_rate: f64,
    failure_limit: f64,
}

impl Landmarks {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        let file = self.truth.display();
        let text = fs::read_to_string(&self.truth).with_context(|| format!("{file} cannot be read"))?;
        let pictures = nme::parse(&text).with_context(|| file.to_string())?;
        let detector = open_detector(self.model.as_ref(), &self.run)?;
        let contract = detector.model().contract();
        ensure!(
            contract.layout().is_some_and(|layout| layout.landmarks),
            "the model ({}) finds boxes without landmarks: there is nothing to compare",
            contract.family
        );
        let settings = Settings { input_size: InputSize::from(self.input_size), ..Settings::default() };
        let bar = progress::bar(pictures.len());
        let (mut faces, mut read) = (Vec::new(), 0);
        for picture in &pictures {
            bar.set_message(picture.file.clone());
            let path = self.images.join(&picture.file);
            let detected = picture::read(&path).and_then(|image| Ok(detector.detect(&image.view(), &settings)?.faces));
            match detected {
                Ok(detected) => {
                    read += 1;
                    faces.extend(nme::matched(&picture.faces, &detected));
                }
                Err(error) => bar.suspend(|| tell(&path, &format!("{error:#}"))),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        ensure!(read > 0, "no picture of {file} could be read: --images is the folder that its names begin in");
        let summary = Summary::of(&faces, self.failure);
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&self.report(read, &summary))?)?;
        } else {
            write!(io::stdout(), "{}", self.words(read, &summary))?;
        }
        Ok(if read == pictures.len() { Outcome::Found } else { Outcome::Failed })
    }

    fn report(&self, pictures: usize, summary: &Summary) -> Report {
        Report {
            schema: "retinaface.landmarks/1",
            pictures,
            faces: summary.faces,
            found: summary.found,
            nme: summary.nme,
            points: summary.points,
            failures: summary.failures(),
            failure_rate: summary.failure_rate(),
            failure_limit: self.failure,
        }
    }

    fn words(&self, pictures: usize, summary: &Summary) -> String {
        let Summary { faces, found, nme, far, .. } = *summary;
        let nme = nme.map_or_else(|| "-".to_owned(), |nme| format!("{nme:.4}"));
        format!(
            "faces     {faces} in {pictures} pictures, {found} found\n\
             NME       {nme} (mean over those found, in parts of the distance of the eyes)\n\
             failures  {:.2} %: {} not found, {far} with an error above {}\n",
            100.0 * summary.failure_rate(),
            faces - found,
            self.failure
        )
    }
}
