//! `retinaface detect`: pictures to JSON lines, crops and drawn copies.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use retinaface::align::{self, ARCFACE_SIZE, Scratch};
use retinaface::detector::{Detector, Settings};
use retinaface::draw::{self, Style};
use retinaface::face::Face;
use retinaface::image::{ImageInfo, OwnedImage, PixelFormat};
use retinaface::letterbox::InputSize;
use retinaface::record::{FrameRecord, Origin};

use super::progress::{self, tell};
use super::{Looking, Outcome, Run, open_detector, part, picture};

#[derive(Debug, Args)]
pub(super) struct Detect {
    /// Pictures: JPEG, PNG, WebP, anything that OpenCV reads
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// ONNX file of the detector; none: $RETINAFACE_MODEL, beside the program, or the installed one
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Keep faces scored above this
    #[arg(long, value_name = "0..1", default_value_t = Settings::default().score_threshold, value_parser = part)]
    score_threshold: f32,
    /// Of two faces whose intersection over union is above this, keep the better
    #[arg(long, value_name = "0..1", default_value_t = Settings::default().iou_threshold, value_parser = part)]
    iou_threshold: f32,
    /// Longer side of the model's input in pixels; 0: the picture's own size
    #[arg(long, value_name = "PIXELS", default_value_t = 640, value_parser = clap::value_parser!(u32).range(0..=16384))]
    input_size: u32,
    /// At most so many faces a picture, best scores first; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_faces: usize,
    /// Leave out faces whose shorter side is below this many pixels of the picture
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    min_face_size: u16,
    /// Write every face as an aligned 112 x 112 PNG into this folder: NAME-0.png, NAME-1.png, ...
    #[arg(long, value_name = "DIR")]
    crops: Option<PathBuf>,
    /// Where a face has no landmarks, write the square around its box
    #[arg(long)]
    align_without_landmarks: bool,
    /// Write a copy of every picture with its faces drawn into this folder: NAME.jpg
    #[arg(long, value_name = "DIR")]
    annotate: Option<PathBuf>,
    #[command(flatten)]
    looking: Looking,
    #[command(flatten)]
    run: Run,
}

impl Detect {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        for folder in [&self.crops, &self.annotate].into_iter().flatten() {
            fs::create_dir_all(folder).with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        }
        let detector = open_detector(self.model.as_ref(), &self.run)?;
        let mut job = Job { detect: self, detector, names: HashMap::new(), scratch: Scratch::default() };
        let bar = progress::bar(self.inputs.len());
        let (mut found, mut failed) = (false, false);
        for (number, input) in self.inputs.iter().enumerate() {
            bar.set_message(input.display().to_string());
            match job.picture(number, input) {
                Ok(Done { line, faces, notes, error }) => {
                    found |= faces > 0;
                    failed |= error.is_some();
                    // A picture's line is out before the next one is looked at.
                    bar.suspend(|| {
                        let mut stdout = io::stdout().lock();
                        stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush())?;
                        notes.iter().for_each(|note| tell(input, note));
                        error.iter().for_each(|error| tell(input, &format!("{error:#}")));
                        io::Result::Ok(())
                    })?;
                }
                Err(error) => {
                    failed = true;
                    bar.suspend(|| tell(input, &format!("{error:#}")));
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(if failed {
            Outcome::Failed
        } else if found {
            Outcome::Found
        } else {
            Outcome::Nothing
        })
    }

    fn settings(&self) -> Settings {
        Settings {
            score_threshold: self.score_threshold,
            iou_threshold: self.iou_threshold,
            input_size: InputSize::from(self.input_size),
            looks: self.looking.looks(),
            merge: self.looking.merge,
            max_faces: self.max_faces,
            min_face_size: f32::from(self.min_face_size),
            ..Settings::default()
        }
    }
}

/// What became of a picture.
struct Done {
    line: String,
    faces: usize,
    notes: Vec<String>,
    /// Why not every file of it could be written. What was found is not lost for that.
    error: Option<anyhow::Error>,
}

struct Job<'a> {
    detect: &'a Detect,
    detector: Detector,
    /// How often each name was given to a picture's files.
    names: HashMap<String, usize>,
    scratch: Scratch,
}

impl Job<'_> {
    fn picture(&mut self, number: usize, input: &Path) -> anyhow::Result<Done> {
        let mut image = picture::read(input)?;
        let faces = self.detector.detect(&image.view(), &self.detect.settings())?.faces;
        let source = input.to_string_lossy();
        let (width, height) = (image.view().width(), image.view().height());
        let line = FrameRecord::new(Origin::Source(&source), number as u64, width, height, &faces)
            .with_age(Some(Duration::ZERO))
            .to_line();
        let mut notes = Vec::new();
        let error = self.write_files(input, &mut image, &faces, &mut notes).err();
        Ok(Done { line, faces: faces.len(), notes, error })
    }

    /// Writes the crops and the drawn copy that are asked for.
    fn write_files(
        &mut self,
        input: &Path,
        image: &mut OwnedImage,
        faces: &[Face],
        notes: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let name = self.name(input);
        if let Some(folder) = &self.detect.crops {
            for (index, face) in faces.iter().enumerate() {
                match self.crop(image, face)? {
                    Ok(crop) => self.write(&folder.join(format!("{name}-{index}.png")), &crop)?,
                    Err(why) => notes.push(format!("face {index} has no crop: {why}")),
                }
            }
        }
        if let Some(folder) = &self.detect.annotate {
            draw::draw_faces(&mut image.view_mut(), faces, &Style::default())?;
            self.write(&folder.join(format!("{name}.jpg")), image)?;
        }
        Ok(())
    }

    /// Writes a picture, but never over one of the inputs.
    fn write(&self, path: &Path, image: &OwnedImage) -> anyhow::Result<()> {
        if let Ok(existing) = path.canonicalize()
            && self.detect.inputs.iter().any(|input| input.canonicalize().is_ok_and(|input| input == existing))
        {
            bail!("{} is one of the inputs and is not written over; choose another folder", path.display());
        }
        picture::write(path, image)
    }

    /// A face's crop, or why its landmarks give none.
    fn crop(&mut self, image: &OwnedImage, face: &Face) -> anyhow::Result<Result<OwnedImage, String>> {
        let transform = match &face.landmarks {
            Some(landmarks) => align::crop_from_frame(landmarks, ARCFACE_SIZE),
            None if self.detect.align_without_landmarks => align::crop_of_box(face.rect, ARCFACE_SIZE),
            None => {
                return Ok(Err(
                    "it has no landmarks; --align-without-landmarks takes the square around its box".to_owned()
                ));
            }
        };
        let transform = match transform {
            Ok(transform) => transform,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let info = ImageInfo::new(PixelFormat::Bgr, ARCFACE_SIZE, ARCFACE_SIZE);
        let mut crop = OwnedImage::new(info, vec![0; 3 * ARCFACE_SIZE * ARCFACE_SIZE])?;
        align::warp(&image.view(), &transform, &mut crop.view_mut(), &mut self.scratch)?;
        Ok(Ok(crop))
    }

    /// A name for an input's files that no other input of this run has.
    fn name(&mut self, input: &Path) -> String {
        let stem = input.file_stem().map_or_else(|| "picture".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let mut name = stem.clone();
        loop {
            let times = self.names.entry(name.clone()).or_default();
            *times += 1;
            if *times == 1 {
                return name;
            }
            name = format!("{stem}.{times}");
        }
    }
}
