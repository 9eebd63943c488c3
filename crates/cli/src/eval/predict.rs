//! `retinaface eval predict`: detections of a folder of pictures, in WIDER FACE's format.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use retinaface::detector::{Detector, Settings};
use retinaface::image::OwnedImage;
use retinaface::letterbox::InputSize;

use super::super::progress::{self, tell};
use super::super::{Looking, Outcome, Run, open_detector, part, picture};
use super::{predictions, write_whole};

/// Endings of pictures' names, in small letters.
const ENDINGS: [&str; 6] = ["jpg", "jpeg", "png", "bmp", "webp", "tiff"];
/// Pictures that are read while the model runs.
const AHEAD: usize = 2;

#[derive(Debug, Args)]
pub(super) struct Predict {
    /// Folder of pictures, in it or in its folders (EVENT/NAME.jpg)
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// Write EVENT/NAME.txt, or NAME.txt, into this folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// ONNX file of the detector; none: $RETINAFACE_MODEL, beside the program, or the installed one
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Longer side of the model's input in pixels; 0: the picture's own size
    #[arg(long, value_name = "PIXELS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16384))]
    input_size: u32,
    /// Keep faces scored above this
    #[arg(long, value_name = "0..1", default_value_t = 0.02, value_parser = part)]
    score_threshold: f32,
    /// Of two faces whose intersection over union is above this, keep the better
    #[arg(long, value_name = "0..1", default_value_t = Settings::default().iou_threshold, value_parser = part)]
    iou_threshold: f32,
    /// At most so many faces a picture, best scores first; 0: all
    #[arg(long, value_name = "N", default_value_t = 750)]
    max_faces: usize,
    #[command(flatten)]
    looking: Looking,
    #[command(flatten)]
    run: Run,
}

/// A picture, and the file of its faces, from their folders.
#[derive(Debug, PartialEq)]
struct Job {
    picture: PathBuf,
    file: PathBuf,
}

impl Predict {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        let jobs = jobs(&self.images)?;
        fs::create_dir_all(&self.out).with_context(|| format!("the folder {} cannot be made", self.out.display()))?;
        let detector = open_detector(self.model.as_ref(), &self.run)?;
        let bar = progress::bar(jobs.len());
        let mut failed = false;
        thread::scope(|scope| {
            let (sender, pictures) = mpsc::sync_channel(AHEAD);
            let reader = &jobs;
            scope.spawn(move || {
                for job in reader {
                    if sender.send(picture::read(&self.images.join(&job.picture))).is_err() {
                        // Detection has ended, for an error.
                        break;
                    }
                }
            });
            // Moved in, so that the reader sees it end.
            for (job, image) in jobs.iter().zip(pictures) {
                bar.set_message(job.picture.display().to_string());
                match image.and_then(|image| self.text(&detector, job, &image)) {
                    Ok(text) => self.write(job, &text)?,
                    Err(error) => {
                        failed = true;
                        bar.suspend(|| tell(&self.images.join(&job.picture), &format!("{error:#}")));
                    }
                }
                bar.inc(1);
            }
            anyhow::Ok(())
        })?;
        bar.finish_and_clear();
        Ok(if failed { Outcome::Failed } else { Outcome::Found })
    }

    /// What a picture's file says.
    fn text(&self, detector: &Detector, job: &Job, image: &OwnedImage) -> anyhow::Result<String> {
        let name = job.picture.to_str().context("its name is no UTF-8, and so cannot be written into a text file")?;
        ensure!(!name.contains(['\n', '\r']), "its name has a line break, and so cannot be a line of a text file");
        let settings = Settings {
            score_threshold: self.score_threshold,
            iou_threshold: self.iou_threshold,
            input_size: InputSize::from(self.input_size),
            looks: self.looking.looks(),
            merge: self.looking.merge,
            max_faces: self.max_faces,
            ..Settings::default()
        };
        Ok(predictions::write(name, &detector.detect(&image.view(), &settings)?.faces))
    }

    fn write(&self, job: &Job, text: &str) -> anyhow::Result<()> {
        let path = self.out.join(&job.file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        }
        write_whole(&path, text.as_bytes())
    }
}

/// The pictures of a folder and of its folders, by name.
fn jobs(folder: &Path) -> anyhow::Result<Vec<Job>> {
    let mut pictures = Vec::new();
    for path in entries(folder, Path::new(""))? {
        if folder.join(&path).is_dir() {
            pictures.extend(entries(&folder.join(&path), &path)?.into_iter().filter(|path| is_picture(path)));
        } else if is_picture(&path) {
            pictures.push(path);
        }
    }
    if pictures.is_empty() {
        bail!(
            "{} has no picture ({}), nor has a folder in it: --images is the folder of files such as EVENT/NAME.jpg",
            folder.display(),
            ENDINGS.join(", ")
        );
    }
    pictures.sort();
    let mut files = HashMap::new();
    let jobs = pictures.into_iter().map(|picture| {
        let file = picture.with_extension("txt");
        if let Some(other) = files.insert(file.clone(), picture.clone()) {
            bail!("{} and {} would have one file, {}: rename one", other.display(), picture.display(), file.display());
        }
        Ok(Job { picture, file })
    });
    jobs.collect()
}

/// What a folder has, each below `below`.
fn entries(folder: &Path, below: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let wrong = || format!("the folder {} cannot be read", folder.display());
    let entries = fs::read_dir(folder).with_context(wrong)?;
    entries.map(|entry| Ok(below.join(entry.with_context(wrong)?.file_name()))).collect()
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    ENDINGS.contains(&ending.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_found_in_a_folder_and_in_its_folders() {
        let folder = tempfile::tempdir().unwrap();
        for event in ["0--Parade", "1--Handshaking/deeper"] {
            fs::create_dir_all(folder.path().join(event)).unwrap();
        }
        for file in
            ["b.PNG", "0--Parade/a.1.jpg", "1--Handshaking/notes.txt", "1--Handshaking/deeper/a.jpg", "list.csv"]
        {
            fs::write(folder.path().join(file), "").unwrap();
        }
        let job = |picture: &str, file: &str| Job { picture: picture.into(), file: file.into() };
        assert_eq!(
            jobs(folder.path()).unwrap(),
            [job("0--Parade/a.1.jpg", "0--Parade/a.1.txt"), job("b.PNG", "b.txt")]
        );
        fs::write(folder.path().join("b.jpg"), "").unwrap();
        let error = jobs(folder.path()).unwrap_err().to_string();
        assert!(error.contains("b.PNG") && error.contains("b.jpg") && error.contains("rename one"), "{error}");
        let empty = folder.path().join("1--Handshaking/deeper/a.jpg");
        fs::remove_file(empty).unwrap();
        assert!(jobs(&folder.path().join("1--Handshaking")).unwrap_err().to_string().contains("has no picture"));
        assert!(jobs(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere cannot be read"));
    }
}
