//! Parity with the Python reference implementations on photos and crops. The tests of the plugin
//! compare video clips.

use crate::common;
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::prelude::*;
use retinaface::crops::align;
use retinaface::crops::align::WarpBuffers;
use retinaface::detect::{DetectionSettings, Detector, LandmarkFusion};
use retinaface::geometry::{InputSize, PixelAspect};
use retinaface::image::{ImageInfo, OwnedImage, PixelFormat};

fn photo(name: &str) -> OwnedImage {
    let mat = imread(common::media(name), IMREAD_COLOR).unwrap();
    let info = ImageInfo::new(PixelFormat::Bgr, mat.cols() as usize, mat.rows() as usize);
    OwnedImage::new(info, mat.data_bytes().unwrap().to_vec()).unwrap()
}

/// As the reference, which takes the landmarks of the best candidate.
fn reference_settings() -> DetectionSettings {
    DetectionSettings { landmark_fusion: LandmarkFusion::None, ..DetectionSettings::default() }
}

#[test]
fn faces_at_native_size_match_reference() {
    let detector = Detector::new(&common::open_default());
    let settings = DetectionSettings { input_size: InputSize::Native, ..reference_settings() };
    for expected in common::reference().photos {
        let found = detector.detect(&photo(&expected.source).view(), &settings).unwrap();
        common::assert_matched(&expected.source, &found.faces, &expected.faces, 2e-3, 0.5);
        assert_eq!(found.non_finite, 0);
    }
}

#[test]
fn large_faces_at_640_match_reference() {
    let detector = Detector::new(&common::open_default());
    let (mut sum, mut count) = (0.0, 0);
    for expected in common::reference().photos {
        let found = detector.detect(&photo(&expected.source).view(), &reference_settings()).unwrap();
        let (overlap, faces) = common::overlap_of_large(&found.faces, &expected.faces);
        sum += overlap;
        count += faces;
    }
    assert!(count >= 6, "the photos contain at least six large faces");
    assert!(sum / count as f32 >= 0.9, "mean IoU {} over {count} faces", sum / count as f32);
}

/// The image of `synthetic` in tests/reference/make_reference.py.
fn synthetic() -> OwnedImage {
    let pixel = |i: usize| {
        let (x, y) = (i % 400, i / 400);
        [(x * x + 3 * y) % 251, (x * y / 7 + 5 * x) % 253, (y * y / 3 + 11 * x) % 256].map(|v| v as u8)
    };
    let data = (0..400 * 300).flat_map(pixel).collect();
    OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, 400, 300), data).unwrap()
}

#[test]
fn crops_match_insightface_norm_crop() {
    let reference = common::reference();
    assert!(reference.crops.iter().filter(|crop| crop.source == "synthetic").count() == 3);
    for expected in reference.crops {
        let name = &expected.source;
        let landmarks = common::points(&expected.landmarks);
        let transform = align::crop_from_frame(&landmarks, PixelAspect::SQUARE, expected.size).unwrap();
        for (actual, expected_value) in transform.matrix().iter().flatten().zip(expected.matrix.iter().flatten()) {
            assert!(
                (actual - expected_value).abs() <= 1e-4 * expected_value.abs().max(1.0),
                "{name}: {transform:?} is not {:?}",
                expected.matrix
            );
        }
        let image = if name == "synthetic" { synthetic() } else { photo(name) };
        let info = ImageInfo::new(PixelFormat::Rgb, expected.size, expected.size);
        let mut crop = OwnedImage::new(info, vec![0; 3 * expected.size * expected.size]).unwrap();
        align::warp(&image.view(), &transform, &mut crop.view_mut(), &mut WarpBuffers::default()).unwrap();
        let (actual_pixels, expected_pixels) = match (&expected.file, &expected.pixels) {
            (Some(file), None) => {
                let path = common::root().join("tests/fixtures").join(file);
                let mat = imread(path, IMREAD_COLOR).unwrap();
                let bgr = mat.data_bytes().unwrap().as_chunks::<3>().0;
                (crop.data().to_vec(), bgr.iter().flat_map(|[b, g, r]| [*r, *g, *b]).collect())
            }
            (None, Some(pixels)) => {
                let kept = crop.data().as_chunks::<3>().0.iter().step_by(expected.step.unwrap());
                (kept.flatten().copied().collect::<Vec<_>>(), pixels.clone())
            }
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(actual_pixels.len(), expected_pixels.len());
        let pixels = actual_pixels.chunks(3).zip(expected_pixels.chunks(3));
        let count = pixels.len();
        let near =
            pixels.filter(|(actual, expected)| actual.iter().zip(*expected).all(|(a, b)| a.abs_diff(*b) <= 1)).count();
        assert!(near * 100 >= count * 99, "{name} {:?}: {near} of {count} pixels are within 1", expected.file);
    }
}
