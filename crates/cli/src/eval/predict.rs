//! `retinaface eval predict`: detections in a directory of images, in the WIDER FACE format.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::InputSize;
use retinaface::image::OwnedImage;

use super::predictions;
use crate::args::{ModelArgs, ViewArgs, check_settings, parse_fraction, parse_threshold};
use crate::atomic_file;
use crate::image_file::{self, InputImage};
use crate::status::{Outcome, progress_bar, report_input};

/// Extensions of image files, in lower case.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "gif"];
/// Images that are decoded ahead of the detector.
const READ_AHEAD: usize = 2;

#[derive(Debug, Args)]
pub(super) struct Predict {
    /// Directory of images, which are in it or in its subdirectories (EVENT/NAME.jpg)
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Write EVENT/NAME.txt or NAME.txt to this directory
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// ONNX file of the detector; default: $RETINAFACE_MODEL, the model in the program's directory,
    /// or the installed model
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Longer side of the model's input in pixels; 0: the size of the image
    #[arg(long, value_name = "PIXELS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16384))]
    input_size: u32,
    /// Keep faces whose score is above this value
    #[arg(long, value_name = "0..1", default_value_t = 0.02, value_parser = parse_threshold)]
    score_threshold: f32,
    /// Of two faces whose intersection over union is above this value, keep the one with the higher
    /// score
    #[arg(long, value_name = "0..1", default_value_t = DetectionSettings::default().iou_threshold, value_parser = parse_fraction)]
    iou_threshold: f32,
    /// Maximum number of faces per image, highest scores first; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 750)]
    max_faces: usize,
    #[command(flatten)]
    views: ViewArgs,
    #[command(flatten)]
    model_args: ModelArgs,
}

/// An image and the file for its detections.
#[derive(Debug, PartialEq)]
struct ImagePaths {
    /// Relative to --images.
    image: PathBuf,
    /// Relative to --out.
    detections: PathBuf,
}

impl Predict {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        let paths = find_images(&self.images)?;
        create_directory(&self.out)?;
        let detector = self.model_args.open_detector(self.model.as_deref())?;
        let bar = progress_bar(paths.len());
        let mut failed = false;
        thread::scope(|scope| {
            let (sender, images) = mpsc::sync_channel(READ_AHEAD);
            let paths = &paths;
            scope.spawn(move || {
                for paths in paths {
                    if sender.send(image_file::read(&self.images.join(&paths.image))).is_err() {
                        // Detection has stopped on an error.
                        break;
                    }
                }
            });
            // The loop owns the receiver: when it stops early, the reader's `send` fails.
            for (paths, image) in paths.iter().zip(images) {
                bar.set_message(paths.image.display().to_string());
                let image = image.map(|InputImage { image, warning }| {
                    let path = self.images.join(&paths.image);
                    bar.suspend(|| warning.iter().for_each(|warning| report_input(&path, warning)));
                    image
                });
                match image.and_then(|image| self.detect(&detector, paths, &image)) {
                    Ok(text) => self.write(paths, &text)?,
                    Err(error) => {
                        failed = true;
                        bar.suspend(|| report_input(&self.images.join(&paths.image), &format!("{error:#}")));
                    }
                }
                bar.inc(1);
            }
            anyhow::Ok(())
        })?;
        bar.finish_and_clear();
        Ok(if failed { Outcome::Failed } else { Outcome::Found })
    }

    /// The content of an image's file of detections.
    fn detect(&self, detector: &Detector, paths: &ImagePaths, image: &OwnedImage) -> anyhow::Result<String> {
        let name = paths.image.to_str().context("the file name is not UTF-8; rename the file")?;
        ensure!(!name.contains(['\n', '\r']), "the file name contains a line break; rename the file");
        let settings = DetectionSettings {
            score_threshold: self.score_threshold,
            iou_threshold: self.iou_threshold,
            input_size: InputSize::from(self.input_size),
            views: self.views.views(),
            merge: self.views.merge,
            landmark_fusion: self.views.landmark_fusion,
            max_faces: self.max_faces,
            ..DetectionSettings::default()
        };
        check_settings(detector, &settings, image)?;
        Ok(predictions::write(name, &detector.detect(&image.view(), &settings)?.faces))
    }

    fn write(&self, paths: &ImagePaths, text: &str) -> anyhow::Result<()> {
        let path = self.out.join(&paths.detections);
        if let Some(directory) = path.parent() {
            create_directory(directory)?;
        }
        atomic_file::write(&path, text.as_bytes())
    }
}

fn create_directory(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create the directory {}", path.display()))
}

/// The images of a directory and of its subdirectories, one level deep, sorted by path.
fn find_images(directory: &Path) -> anyhow::Result<Vec<ImagePaths>> {
    let mut images = Vec::new();
    for path in entries(directory, Path::new(""))? {
        if directory.join(&path).is_dir() {
            images.extend(entries(&directory.join(&path), &path)?.into_iter().filter(|path| is_image(path)));
        } else if is_image(&path) {
            images.push(path);
        }
    }
    if images.is_empty() {
        bail!(
            "{} and its subdirectories contain no images ({}): --images is the directory of files such as EVENT/NAME.jpg",
            directory.display(),
            EXTENSIONS.join(", ")
        );
    }
    images.sort();
    let mut images_by_file = HashMap::new();
    let paths = images.into_iter().map(|image| {
        let detections = image.with_extension("txt");
        if let Some(other) = images_by_file.insert(detections.clone(), image.clone()) {
            bail!(
                "{} and {} have the same file of detections, {}: rename one image",
                other.display(),
                image.display(),
                detections.display()
            );
        }
        Ok(ImagePaths { image, detections })
    });
    paths.collect()
}

/// The entries of a directory, each joined to `prefix`.
fn entries(directory: &Path, prefix: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let failure = || format!("cannot read the directory {}", directory.display());
    let entries = fs::read_dir(directory).with_context(failure)?;
    entries.map(|entry| Ok(prefix.join(entry.with_context(failure)?.file_name()))).collect()
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_in_a_directory_and_in_its_subdirectories() {
        let directory = tempfile::tempdir().unwrap();
        for event in ["0--Parade", "1--Handshaking/deeper"] {
            fs::create_dir_all(directory.path().join(event)).unwrap();
        }
        for file in
            ["b.PNG", "0--Parade/a.1.jpg", "1--Handshaking/notes.txt", "1--Handshaking/deeper/a.jpg", "list.csv"]
        {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let paths = |image: &str, detections: &str| ImagePaths { image: image.into(), detections: detections.into() };
        assert_eq!(
            find_images(directory.path()).unwrap(),
            [paths("0--Parade/a.1.jpg", "0--Parade/a.1.txt"), paths("b.PNG", "b.txt")]
        );
        fs::write(directory.path().join("b.jpg"), "").unwrap();
        let error = find_images(directory.path()).unwrap_err().to_string();
        assert!(error.contains("b.PNG") && error.contains("b.jpg") && error.contains("rename one"), "{error}");
        let image = directory.path().join("1--Handshaking/deeper/a.jpg");
        fs::remove_file(image).unwrap();
        let error = find_images(&directory.path().join("1--Handshaking")).unwrap_err().to_string();
        assert!(error.contains("1--Handshaking and its subdirectories contain no images"), "{error}");
        let error = find_images(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("cannot read the directory /nowhere"), "{error}");
    }
}
