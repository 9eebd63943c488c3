//! `retinaface detect`: detects faces in images and writes JSON lines, aligned crops and annotated
//! copies.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args};
use retinaface::crops::align;
use retinaface::crops::align::WarpBuffers;
use retinaface::detect::{DetectionSettings, Detector, SettingsProblem};
use retinaface::geometry::{ARCFACE_SIZE, Face, InputSize};
use retinaface::image::{ImageInfo, OverlayBuffers, OverlayStyle, OwnedImage, PixelFormat, draw_faces};
use retinaface::record::{FrameRecord, FrameState, Origin};

use crate::args::{ModelArgs, ViewArgs, check_settings, parse_fraction, parse_refine_large_faces, parse_threshold};
use crate::image_file::{self, InputImage};
use crate::status::{Outcome, progress_bar, report_input};

#[derive(Debug, Args)]
pub(crate) struct Detect {
    /// Image files: JPEG, PNG, WebP, TIFF, GIF or any other format that OpenCV reads
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// ONNX file of the detector; default: $RETINAFACE_MODEL, the model in the program's directory,
    /// or the installed model
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Keep faces whose score is above this value
    #[arg(long, value_name = "0..1", default_value_t = DetectionSettings::default().score_threshold, value_parser = parse_threshold)]
    score_threshold: f32,
    /// Of two faces whose intersection over union is above this value, keep the one with the higher
    /// score
    #[arg(long, value_name = "0..1", default_value_t = DetectionSettings::default().iou_threshold, value_parser = parse_fraction)]
    iou_threshold: f32,
    /// Longer side of the model's input in pixels; 0: the size of the image
    #[arg(long, value_name = "PIXELS", default_value_t = 640, value_parser = clap::value_parser!(u32).range(0..=16384))]
    input_size: u32,
    /// Maximum number of faces per image, highest scores first; 0: no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_faces: usize,
    /// Drop faces whose shorter side is below this size, in image pixels; 0: keep all
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    min_face_size: u16,
    /// Write each face as an aligned 112 x 112 PNG to this directory: NAME-0.png, NAME-1.png, ...
    #[arg(long, value_name = "DIR")]
    crops: Option<PathBuf>,
    /// For a face without landmarks, write the square around its box to --crops
    #[arg(long)]
    align_without_landmarks: bool,
    /// Average all image pixels that a pixel of a crop covers, instead of bilinear interpolation;
    /// reduces noise in --crops of large faces
    #[arg(long)]
    antialias: bool,
    /// Write a copy of each image with its faces drawn to this directory: NAME.jpg
    #[arg(long, value_name = "DIR")]
    annotate: Option<PathBuf>,
    /// Run a second inference for the landmarks of faces whose longer side is above 320 px in the
    /// model's input, with the face scaled to 160 px: auto (on), on or off
    #[arg(long, value_name = "NAME", default_value = "auto", action = ArgAction::Set, value_parser = parse_refine_large_faces)]
    refine_large_faces: bool,
    #[command(flatten)]
    views: ViewArgs,
    #[command(flatten)]
    model_args: ModelArgs,
}

impl Detect {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        for directory in [&self.crops, &self.annotate].into_iter().flatten() {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create the directory {}", directory.display()))?;
        }
        let detector = self.model_args.open_detector(self.model.as_deref())?;
        let mut processor = ImageProcessor {
            command: self,
            detector,
            names: HashMap::new(),
            scratch: WarpBuffers::default(),
            too_small: None,
            has_large_image: false,
        };
        let bar = progress_bar(self.inputs.len());
        let (mut found, mut failed) = (false, false);
        for (index, input) in self.inputs.iter().enumerate() {
            bar.set_message(input.display().to_string());
            match processor.process(index, input) {
                Ok(ImageResult { line, faces, notes, error }) => {
                    found |= faces > 0;
                    failed |= error.is_some();
                    // A reader of the pipe receives each line before the next image is processed.
                    bar.suspend(|| {
                        let mut stdout = io::stdout().lock();
                        stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush())?;
                        notes.iter().for_each(|note| report_input(input, note));
                        error.iter().for_each(|error| report_input(input, &format!("{error:#}")));
                        io::Result::Ok(())
                    })?;
                }
                Err(error) => {
                    failed = true;
                    bar.suspend(|| report_input(input, &format!("{error:#}")));
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if let Some((input, problem)) = processor.too_small.filter(|_| !processor.has_large_image) {
            failed = true;
            report_input(&input, &problem.to_string());
        }
        Ok(if failed {
            Outcome::Failed
        } else if found {
            Outcome::Found
        } else {
            Outcome::Nothing
        })
    }

    fn settings(&self) -> DetectionSettings {
        DetectionSettings {
            score_threshold: self.score_threshold,
            iou_threshold: self.iou_threshold,
            input_size: InputSize::from(self.input_size),
            views: self.views.views(),
            merge: self.views.merge,
            landmark_fusion: self.views.landmark_fusion,
            refine_large_faces: self.refine_large_faces,
            max_faces: self.max_faces,
            min_face_size: f32::from(self.min_face_size),
            ..DetectionSettings::default()
        }
    }
}

/// The result of one image.
struct ImageResult {
    /// JSON line.
    line: String,
    faces: usize,
    /// The warning of the image's decoder, and messages about faces without a crop.
    notes: Vec<String>,
    /// Why a crop or the annotated copy was not written. The line is printed even so.
    error: Option<anyhow::Error>,
}

struct ImageProcessor<'a> {
    command: &'a Detect,
    detector: Detector,
    /// Number of uses of each output name.
    names: HashMap<String, usize>,
    scratch: WarpBuffers,
    /// The first image that is smaller than the smallest wanted face.
    too_small: Option<(PathBuf, SettingsProblem)>,
    /// An image was not.
    has_large_image: bool,
}

impl ImageProcessor<'_> {
    fn process(&mut self, index: usize, input: &Path) -> anyhow::Result<ImageResult> {
        let InputImage { mut image, warning } = image_file::read(input)?;
        let mut notes = Vec::from_iter(warning);
        let settings = self.command.settings();
        match check_settings(&self.detector, &settings, &image)? {
            Some(problem) => {
                self.too_small.get_or_insert((input.to_path_buf(), problem));
            }
            None => self.has_large_image = true,
        }
        let faces = self.detector.detect(&image.view(), &settings)?.faces;
        let source = input.to_string_lossy();
        let line = FrameRecord::new(Origin::Source(&source), index as u64, image.view().info().size(), &faces)
            .with_state(FrameState::Detected)
            .with_age(Some(Duration::ZERO))
            .to_line();
        let error = self.write_files(input, &mut image, &faces, &mut notes).err();
        Ok(ImageResult { line, faces: faces.len(), notes, error })
    }

    /// Writes the crops and the annotated copy, if requested.
    fn write_files(
        &mut self,
        input: &Path,
        image: &mut OwnedImage,
        faces: &[Face],
        notes: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let name = self.unique_name(input);
        if let Some(directory) = &self.command.crops {
            for (index, face) in faces.iter().enumerate() {
                match self.crop(image, face)? {
                    Ok(crop) => self.write(&directory.join(format!("{name}-{index}.png")), &crop)?,
                    Err(reason) => notes.push(format!("face {index} has no crop: {reason}")),
                }
            }
        }
        if let Some(directory) = &self.command.annotate {
            draw_faces(&mut image.view_mut(), faces, &OverlayStyle::default(), &mut OverlayBuffers::default())?;
            self.write(&directory.join(format!("{name}.jpg")), image)?;
        }
        Ok(())
    }

    /// Writes an image, but never overwrites an input.
    fn write(&self, path: &Path, image: &OwnedImage) -> anyhow::Result<()> {
        if let Ok(existing) = path.canonicalize()
            && self.command.inputs.iter().any(|input| input.canonicalize().is_ok_and(|input| input == existing))
        {
            bail!("{} is one of the inputs and is not overwritten; choose another directory", path.display());
        }
        image_file::write(path, image)
    }

    /// The aligned crop of a face. The inner error is the reason why the face has no crop.
    fn crop(&mut self, image: &OwnedImage, face: &Face) -> anyhow::Result<Result<OwnedImage, String>> {
        if face.landmarks.is_none() && !self.command.align_without_landmarks {
            return Ok(Err(
                "the face has no landmarks; --align-without-landmarks writes the square around its box".to_owned()
            ));
        }
        let transform = match align::crop_of_face(face, image.view().info().pixel_aspect, ARCFACE_SIZE) {
            Ok(transform) => transform,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let info = ImageInfo::new(PixelFormat::Bgr, ARCFACE_SIZE, ARCFACE_SIZE);
        let mut crop = OwnedImage::new(info, vec![0; 3 * ARCFACE_SIZE * ARCFACE_SIZE])?;
        let warp = if self.command.antialias { align::warp_antialiased } else { align::warp };
        warp(&image.view(), &transform, &mut crop.view_mut(), &mut self.scratch)?;
        Ok(Ok(crop))
    }

    /// The stem of an input's output files, unique among the inputs.
    fn unique_name(&mut self, input: &Path) -> String {
        let stem = input.file_stem().map_or_else(|| "image".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let mut name = stem.clone();
        loop {
            let uses = self.names.entry(name.clone()).or_default();
            *uses += 1;
            if *uses == 1 {
                return name;
            }
            name = format!("{stem}.{uses}");
        }
    }
}
