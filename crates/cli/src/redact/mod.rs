//! `retinaface redact`: a file to a file in which every face is covered.
//!
//! A video is decoded twice: the first pass finds the faces of all frames, the second one covers them
//! and encodes the frames. So the frames before the first detection of a face are covered, too. A frame
//! whose known faces may be incomplete is covered completely, and after an error there is no output
//! file.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use retinaface::detect::{Scales, Tiles};
use retinaface::geometry::{Point, Rect};
use retinaface::image::{
    MAX_MOSAIC_BLOCKS, MIN_BLUR_SIGMA, PolygonError, RedactedArea, RedactionMethod, RedactionShape, RedactionStyle,
    Rgb, parse_polygons,
};
use retinaface::track::{CoverageSettings, DEFAULT_HOLD, DEFAULT_MARGIN};
use serde::Serialize;

use self::video::Container;
use crate::args::{ModelArgs, parse_threshold};
use crate::atomic_file::PartialFile;
use crate::status::Outcome;

mod areas;
mod image;
mod streams;
mod video;

/// Score threshold of the detection: a face that is not detected cannot be covered.
const DEFAULT_SCORE: f32 = 0.2;
/// Maximum margin, relative to the box.
const MAX_MARGIN: f32 = 4.0;
/// Constant rate factor of the encoder: visually close to the source.
const DEFAULT_QUALITY: u32 = 18;
/// Maximum interval of inferences. With a larger one, predictions are older than the limit of
/// [`CoverageSettings::max_age`] at usual frame rates.
const MAX_INTERVAL: i64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// A colour; the only method that removes all details of a face
    Solid,
    /// A mosaic of at most 8 blocks; people may still be recognised
    Pixelate,
    /// A Gaussian blur, sigma at least half the longer side; people may still be recognised
    Blur,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// The ellipse in the grown box
    Ellipse,
    /// The grown box
    Box,
}

#[derive(Debug, Args)]
pub(crate) struct Redact {
    /// Video or image file
    input: PathBuf,
    /// File to write: .mp4, .m4v, .mov or .mkv for a video; .jpg, .png, .webp, .tiff or .bmp for an
    /// image
    output: PathBuf,
    /// Overwrite the file OUTPUT
    #[arg(long)]
    force: bool,
    /// How faces are covered
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Method::Solid)]
    method: Method,
    /// Colour of method solid, of masks and of frames that are covered whole
    #[arg(long, value_name = "RRGGBB", default_value = "000000", value_parser = parse_color)]
    color: Rgb,
    /// Shape of the covered areas
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Shape::Ellipse)]
    shape: Shape,
    /// Size of a covered area, relative to the box of the face: 1 to 4
    #[arg(long, value_name = "FACTOR", default_value_t = DEFAULT_MARGIN, value_parser = parse_margin)]
    margin: f32,
    /// Time in ms for which a face stays covered before it is found first and after it is found last
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_HOLD.as_millis() as u32)]
    hold: u32,
    /// Polygons that are always covered, in pixels of the upright frame: x,y of each corner, as in
    /// 10,10,200,10,100,150; `;` separates polygons
    #[arg(long, value_name = "POLYGONS", default_value = "", value_parser = parse_masks, hide_default_value = true)]
    mask: Masks,
    /// Quality of the video: constant rate factor of H.264, 0 (best) to 50
    #[arg(long, value_name = "N", default_value_t = DEFAULT_QUALITY, value_parser = clap::value_parser!(u32).range(0..=50))]
    quality: u32,
    /// Cover faces whose score is above this value
    #[arg(long, value_name = "0..1", default_value_t = DEFAULT_SCORE, value_parser = parse_threshold)]
    score_threshold: f32,
    /// Longer side of the model's input in pixels; 0: the size of the frame
    #[arg(long, value_name = "PIXELS", default_value_t = 640, value_parser = clap::value_parser!(u32).range(0..=16384))]
    input_size: u32,
    /// Scales of the image pyramid, relative to the scale that --input-size gives; auto: 1.0 and, for
    /// an input of at least 512 px, a scale with 256 px on the longer side for large faces
    #[arg(long, value_name = "FACTOR,...", default_value = "auto", value_parser = checked::<Scales>)]
    scales: String,
    /// Also run detection on overlapping tiles, for small faces: none, auto (tiles of the input size,
    /// at full resolution), or columns and rows, as in 3x2
    #[arg(long, value_name = "TILES", default_value = "none", value_parser = checked::<Tiles>)]
    tiles: String,
    /// Run inference on every Nth frame of a video, and predict the faces of the others
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_INTERVAL))]
    inference_interval: u32,
    /// ONNX file of the detector; default: $RETINAFACE_MODEL, the model in the program's directory,
    /// or the installed model
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model_args: ModelArgs,
}

/// Polygons with the text that they were parsed from.
#[derive(Clone, Debug)]
struct Masks {
    text: String,
    polygons: Arc<[Vec<Point>]>,
}

fn parse_masks(text: &str) -> Result<Masks, PolygonError> {
    Ok(Masks { text: text.to_owned(), polygons: parse_polygons(text)?.into() })
}

/// Checks a value that the element `retinaface` parses, so that a wrong one is a usage error.
fn checked<T: FromStr>(text: &str) -> Result<String, T::Err> {
    text.parse::<T>().map(|_| text.to_owned())
}

fn parse_color(text: &str) -> Result<Rgb, String> {
    let digits = text.trim_start_matches('#');
    let value = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 6 && !digits.starts_with('+'));
    let [_, r, g, b] = value.ok_or("not six hexadecimal digits, as in 00FF00 for green")?.to_be_bytes();
    Ok([r, g, b])
}

fn parse_margin(text: &str) -> Result<f32, String> {
    let value = text.parse::<f32>().map_err(|error| error.to_string())?;
    if (1.0..=MAX_MARGIN).contains(&value) { Ok(value) } else { Err(format!("not between 1 and {MAX_MARGIN}")) }
}

/// What was done, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
struct Report {
    schema: &'static str,
    /// Number of frames; 1 for an image.
    frames: usize,
    /// Number of faces that were found, of all frames.
    faces: usize,
    /// Number of frames that were covered whole, because it is in doubt where their faces are.
    frames_covered_whole: usize,
    /// What of the input the output does not have.
    notes: Vec<String>,
}

impl Redact {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        let output = self.check_files()?;
        let container = Container::of(&self.output);
        ensure!(
            container.is_some() || image::is_image_name(&self.output),
            "the name of {} does not end in .mp4, .m4v, .mov, .mkv, .jpg, .png, .webp, .tiff or .bmp: the end of the name \
             selects the format",
            self.output.display()
        );
        let report = match container {
            Some(container) => self.redact_video(container, output.partial_path()),
            None => self.redact_image(output.partial_path()),
        };
        let report = report.with_context(|| format!("{} is not written", self.output.display()))?;
        output.persist()?;
        report.print(self.json)?;
        Ok(if report.faces > 0 { Outcome::Found } else { Outcome::Nothing })
    }

    /// Checks both files before anything else is done, and creates the file that becomes the output.
    fn check_files(&self) -> anyhow::Result<PartialFile> {
        let Self { input, output, .. } = self;
        ensure!(input.is_file(), "{}: {}", input.display(), if input.exists() { "not a file" } else { "no such file" });
        if let Ok(existing) = output.canonicalize() {
            if input.canonicalize().is_ok_and(|input| input == existing) {
                bail!("{} is the input and is not overwritten; choose another output file", output.display());
            }
            ensure!(!existing.is_dir(), "{} is a directory; give the name of a file", output.display());
            ensure!(self.force, "{} exists; --force overwrites it", output.display());
        }
        PartialFile::create(output)
    }

    /// What decides the areas of a frame.
    fn coverage(&self) -> CoverageSettings {
        CoverageSettings {
            margin: self.margin,
            hold: Duration::from_millis(self.hold.into()),
            ..CoverageSettings::default()
        }
    }

    fn style(&self) -> RedactionStyle {
        let method = match self.method {
            Method::Solid => RedactionMethod::Solid,
            Method::Pixelate => RedactionMethod::Pixelate { blocks: MAX_MOSAIC_BLOCKS },
            Method::Blur => RedactionMethod::Blur { sigma: MIN_BLUR_SIGMA },
        };
        RedactionStyle { method, color: self.color }
    }

    fn area(&self, rect: Rect) -> RedactedArea {
        let shape = match self.shape {
            Shape::Ellipse => RedactionShape::Ellipse,
            Shape::Box => RedactionShape::Box,
        };
        RedactedArea { rect, shape }
    }
}

/// The end of a file's name, in lower case.
fn extension(path: &Path) -> String {
    path.extension().map_or_else(String::new, |extension| extension.to_string_lossy().to_lowercase())
}

impl Report {
    fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let Self { frames, faces, frames_covered_whole, notes, .. } = self;
        if json {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        writeln!(out, "frames: {frames}, faces: {faces}, frames covered whole: {frames_covered_whole}")?;
        drop(out);
        notes.iter().for_each(|note| crate::status::report(note));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_options_are_checked() {
        assert_eq!(parse_color("00ff7F"), Ok([0, 255, 127]));
        assert_eq!(parse_color("#010203"), Ok([1, 2, 3]));
        for wrong in ["", "fff", "+12345", "12345g", "1234567"] {
            assert!(parse_color(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_margin("1.5"), Ok(1.5));
        assert!(parse_margin("0.9").is_err() && parse_margin("nan").is_err() && parse_margin("5").is_err());
        assert_eq!(checked::<Tiles>("3x2"), Ok("3x2".to_owned()));
        assert!(checked::<Scales>("x").is_err() && parse_masks("1,2,3").is_err());
    }
}
