//! The quality of real faces falls with what makes them harder to recognise.

use std::path::{Path, PathBuf};

use opencv::core::{self, BORDER_REFLECT_101, Mat, Scalar, Size, no_array};
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::imgproc::{self, INTER_AREA};
use opencv::prelude::*;
use retinaface::crops::FaceQuality;
use retinaface::crops::align::{self, WarpBuffers};
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::{Face, PixelAspect, Point};
use retinaface::image::{ImageInfo, ImageView, OwnedImage, PixelFormat};

use crate::common;

fn read(file: &Path) -> Mat {
    imread(file.to_str().unwrap(), IMREAD_COLOR).unwrap()
}

fn blurred(image: &Mat, sigma: f64) -> Mat {
    let mut out = Mat::default();
    imgproc::gaussian_blur_def(image, &mut out, Size::new(0, 0), sigma).unwrap();
    out
}

/// The image in which each pixel is the mean of a row of `length` pixels: the camera has moved.
fn motion_blurred(image: &Mat, length: i32) -> Mat {
    let mut out = Mat::default();
    let anchor = core::Point::new(-1, -1);
    imgproc::blur(image, &mut out, Size::new(length, 1), anchor, BORDER_REFLECT_101).unwrap();
    out
}

/// The image with Gaussian noise of a standard deviation in grey levels; the same on every run.
fn noisy(image: &Mat, deviation: f64) -> Mat {
    let mut noise = Mat::new_size_with_default(image.size().unwrap(), core::CV_16SC3, Scalar::all(0.0)).unwrap();
    core::set_rng_seed(7).unwrap();
    core::randn(&mut noise, &Scalar::all(0.0), &Scalar::all(deviation)).unwrap();
    let mut out = Mat::default();
    core::add(image, &noise, &mut out, &no_array(), core::CV_8U).unwrap();
    out
}

fn shrunk(image: &Mat, factor: f64) -> Mat {
    let mut out = Mat::default();
    imgproc::resize(image, &mut out, Size::new(0, 0), factor, factor, INTER_AREA).unwrap();
    out
}

fn scaled(face: &Face, factor: f64) -> Face {
    let factor = factor as f32;
    face.mapped(|point| Point::new(point.x * factor, point.y * factor))
}

fn view(image: &Mat) -> ImageView<'_> {
    let (width, height) = (image.cols() as usize, image.rows() as usize);
    let info = ImageInfo::new(PixelFormat::Bgr, width, height);
    ImageView::new(info, &[image.data_bytes().unwrap()], &[3 * width]).unwrap()
}

/// The quality of a crop with this size.
fn quality_at(size: usize, image: &Mat, face: &Face) -> FaceQuality {
    let info = ImageInfo::new(PixelFormat::Rgb, size, size);
    let mut crop = OwnedImage::new(info, vec![0; 3 * size * size]).unwrap();
    let transform = align::crop_of_face(face, PixelAspect::SQUARE, size).unwrap();
    align::warp(&view(image), &transform, &mut crop.view_mut(), &mut WarpBuffers::default()).unwrap();
    FaceQuality::measure(face, view(image).info().size(), &crop.view()).unwrap()
}

fn quality(image: &Mat, face: &Face) -> FaceQuality {
    quality_at(112, image, face)
}

/// The largest face of each image with its image.
fn faces(files: &[PathBuf]) -> Vec<(Mat, Face)> {
    let detector = Detector::new(&common::open_default());
    let largest = |file: &PathBuf| {
        let image = read(file);
        let faces = detector.detect(&view(&image), &DetectionSettings::default()).unwrap().faces;
        let largest = faces.into_iter().max_by(|a, b| a.rect.area().total_cmp(&b.rect.area()));
        (image, largest.unwrap_or_else(|| panic!("{} shows no face", file.display())))
    };
    files.iter().map(largest).collect()
}

/// The faces of the two photos with their images.
fn photos() -> Vec<(Mat, Face)> {
    let detector = Detector::new(&common::open_default());
    let mut found = Vec::new();
    for name in ["multi_face.jpg", "single_face.jpg"] {
        let image = read(&common::media(name));
        let faces = detector.detect(&view(&image), &DetectionSettings::default()).unwrap().faces;
        found.extend(faces.into_iter().map(|face| (image.clone(), face)));
    }
    assert_eq!(found.len(), 6);
    found
}

fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let values = values.collect::<Vec<_>>();
    values.iter().sum::<f32>() / values.len() as f32
}

#[test]
fn sharp_large_faces_of_photos_have_a_high_quality() {
    for (image, face) in photos() {
        let found = quality(&image, &face);
        assert!(found.overall() > 0.6 && found.sharpness > 0.6, "{found:?} of {face:?}");
    }
}

#[test]
fn blur_noise_and_few_pixels_lower_the_quality_of_each_face() {
    for (image, face) in photos() {
        // In units of the crop's pixels, since the faces of the photos are large.
        let unit = f64::from(face.rect.h) / 112.0;
        let falls = |name: &str, versions: Vec<FaceQuality>, last: f32| {
            let values = versions.iter().map(FaceQuality::overall).collect::<Vec<_>>();
            assert!(values.windows(2).all(|pair| pair[1] < pair[0]), "{name}: {values:?}");
            assert!(*values.last().unwrap() < last, "{name}: {values:?}");
        };
        let version = |image: Mat| quality(&image, &face);
        falls("blur", [0.5, 1.0, 2.0, 4.0, 6.0].map(|sigma| version(blurred(&image, sigma * unit))).into(), 0.3);
        let motion = [5.0, 9.0, 15.0].map(|length| version(motion_blurred(&image, (length * unit) as i32)));
        falls("motion blur", motion.into(), 0.45);
        let noise = [5.0, 20.0, 40.0, 60.0].map(|deviation| version(noisy(&image, deviation)));
        falls("noise", noise.into(), 0.6);
        let small = [0.5, 0.35, 0.25, 0.15, 0.1].map(|factor| {
            let factor = factor / unit;
            quality(&shrunk(&image, factor), &scaled(&face, factor))
        });
        falls("size", small.into(), 0.3);
    }
}

#[test]
fn quality_does_not_depend_on_the_size_of_the_crop() {
    for (image, face) in photos() {
        // The frame has the resolution of the crop, so that large crops show nothing more.
        let factor = 100.0 / f64::from(face.rect.h);
        let (image, face) = (shrunk(&image, factor), scaled(&face, factor));
        let [at_112, others @ ..] = [112, 128, 160, 224, 256].map(|size| quality_at(size, &image, &face));
        for other in others {
            assert!((at_112.overall() - other.overall()).abs() < 0.1, "{at_112:?} {other:?}");
        }
    }
}

#[test]
fn known_people_have_a_lower_quality_in_worse_pictures() {
    let Some(directory) = common::shared("eval/identity/lfw10") else { return };
    let mut files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    files.sort();
    let faces = faces(&files);
    assert_eq!(faces.len(), 100);
    let mean = |version: &dyn Fn(&Mat, &Face) -> FaceQuality| {
        mean(faces.iter().map(|(image, face)| version(image, face).overall()))
    };
    let clean = mean(&|image, face| quality(image, face));
    let blur = [1.0, 2.0, 3.0, 4.0].map(|sigma| mean(&|image, face| quality(&blurred(image, sigma), face)));
    let noise = [10.0, 20.0, 40.0].map(|deviation| mean(&|image, face| quality(&noisy(image, deviation), face)));
    let small =
        [0.5, 0.25, 0.12].map(|factor| mean(&|image, face| quality(&shrunk(image, factor), &scaled(face, factor))));
    for (name, values, limit) in [("blur", &blur[..], 0.3), ("noise", &noise, 0.35), ("size", &small, 0.3)] {
        assert!(
            values.iter().try_fold(clean, |last, value| (*value < last).then_some(*value)).is_some(),
            "{name}: {values:?}"
        );
        assert!(values.last().unwrap() / clean < limit, "{name}: {values:?} of {clean}");
    }
    // Flat and black crops have nothing to recognise.
    let (image, face) = &faces[0];
    let flat = Mat::new_size_with_default(image.size().unwrap(), core::CV_8UC3, Scalar::all(90.0)).unwrap();
    assert_eq!(quality(&flat, face).overall(), 0.0);
}
