//! `retinaface eval landmarks`: normalised mean error of the five landmarks.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::Args;
use retinaface::detect::DetectionSettings;
use retinaface::geometry::InputSize;
use serde::Serialize;

use super::nme::{self, Summary};
use crate::args::{ModelArgs, check_settings};
use crate::image_file::{self, InputImage};
use crate::status::{Outcome, progress_bar, report_input};

#[derive(Debug, Args)]
#[command(
    after_help = "The truth file has one line `file,x1,y1,...,x5,y5` per face: eye, eye, nose, mouth corner, mouth corner, \
                        with the image's left one first, in pixels. An image with several faces has several lines. Lines \
                        that begin with # are comments.\n\n\
                        Exit status: 0 if every image was read, 2 on an error."
)]
pub(super) struct Landmarks {
    /// Directory of the images that the truth file names
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// CSV file with the true points, see below
    #[arg(long, value_name = "FILE")]
    truth: PathBuf,
    /// ONNX file of the detector; default: $RETINAFACE_MODEL, the model in the program's directory,
    /// or the installed model
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Longer side of the model's input in pixels; 0: the size of the image
    #[arg(long, value_name = "PIXELS", default_value_t = 640, value_parser = clap::value_parser!(u32).range(0..=16384))]
    input_size: u32,
    /// A face whose error is above this value, relative to the distance between the eyes, is a
    /// failure
    #[arg(long, value_name = "RATIO", default_value_t = 0.1, value_parser = parse_limit)]
    failure: f64,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model_args: ModelArgs,
}

fn parse_limit(text: &str) -> Result<f64, String> {
    let limit = text.parse::<f64>().map_err(|error| error.to_string())?;
    if limit.is_finite() && limit >= 0.0 { Ok(limit) } else { Err("not a finite number of at least 0".to_owned()) }
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    /// Images that were read.
    #[serde(rename = "pictures")]
    images: usize,
    /// True faces in these images.
    faces: usize,
    /// True faces with a matched detection.
    found: usize,
    /// Mean error of the found faces, relative to the distance between the eyes; null if none was
    /// found.
    nme: Option<f64>,
    /// The same for each point, in the library's order.
    points: Option<[f64; 5]>,
    /// Faces that were not found, or whose error is above the limit.
    failures: usize,
    failure_rate: f64,
    failure_limit: f64,
}

impl Landmarks {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        let file = self.truth.display();
        let text = fs::read_to_string(&self.truth).with_context(|| format!("cannot read {file}"))?;
        let images = nme::parse(&text).with_context(|| file.to_string())?;
        let detector = self.model_args.open_detector(self.model.as_deref())?;
        let spec = detector.model().spec();
        ensure!(
            spec.layout().is_some_and(|layout| layout.landmarks),
            "the model ({}) has no landmarks: choose a model with landmarks",
            spec.family
        );
        let settings =
            DetectionSettings { input_size: InputSize::from(self.input_size), ..DetectionSettings::default() };
        let bar = progress_bar(images.len());
        let (mut faces, mut read) = (Vec::new(), 0);
        for image in &images {
            bar.set_message(image.file.clone());
            let path = self.images.join(&image.file);
            let detected = image_file::read(&path).and_then(|InputImage { image, warning }| {
                bar.suspend(|| warning.iter().for_each(|warning| report_input(&path, warning)));
                check_settings(&detector, &settings, &image)?;
                Ok(detector.detect(&image.view(), &settings)?.faces)
            });
            match detected {
                Ok(detected) => {
                    read += 1;
                    faces.extend(nme::match_faces(&image.faces, &detected));
                }
                Err(error) => bar.suspend(|| report_input(&path, &format!("{error:#}"))),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        ensure!(
            read > 0,
            "no image of {file} could be read: --images is the directory that its file names are relative to"
        );
        let summary = Summary::new(&faces, self.failure);
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&self.report(read, &summary))?)?;
        } else {
            write!(io::stdout(), "{}", self.text(read, &summary))?;
        }
        Ok(if read == images.len() { Outcome::Found } else { Outcome::Failed })
    }

    fn report(&self, images: usize, summary: &Summary) -> Report {
        Report {
            schema: "retinaface.landmarks/1",
            images,
            faces: summary.faces,
            found: summary.found,
            nme: summary.nme,
            points: summary.points,
            failures: summary.failures(),
            failure_rate: summary.failure_rate(),
            failure_limit: self.failure,
        }
    }

    fn text(&self, images: usize, summary: &Summary) -> String {
        let Summary { faces, found, nme, above_limit, .. } = *summary;
        let nme = nme.map_or_else(|| "-".to_owned(), |nme| format!("{nme:.4}"));
        format!(
            "faces     {faces} in {images} images, {found} found\n\
             NME       {nme} (mean over the found faces, relative to the distance between the eyes)\n\
             failures  {:.2} %: {} not found, {above_limit} with an error above {}\n",
            100.0 * summary.failure_rate(),
            faces - found,
            self.failure
        )
    }
}
