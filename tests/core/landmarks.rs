//! Landmark models: recognition, and the positions of the points in the frame.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common;
use opencv::core::Mat;
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::prelude::*;
use retinaface::crops::align::Affine;
use retinaface::crops::{CropMode, LandmarkSettings, Landmarker, align, five_landmarks};
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::{Face, Landmarks, Point, Rect};
use retinaface::image::{ImageInfo, ImageView, OwnedImage, PixelFormat};
use retinaface::inference::{Model, ModelOptions, ModelTask, SharedModel};

fn tiny(name: &str) -> PathBuf {
    common::root().join("tests/fixtures/models").join(name)
}

fn options() -> ModelOptions {
    ModelOptions { task: ModelTask::Landmarks, ..ModelOptions::default() }
}

fn landmarker(path: &Path) -> Landmarker {
    Landmarker::new(&SharedModel::open(path, &options()).unwrap()).unwrap()
}

fn view(mat: &Mat) -> ImageView<'_> {
    let (width, height) = (mat.cols() as usize, mat.rows() as usize);
    ImageView::new(ImageInfo::new(PixelFormat::Bgr, width, height), &[mat.data_bytes().unwrap()], &[3 * width]).unwrap()
}

/// Normalized mean error: the mean distance between corresponding landmarks, divided by the
/// distance between the eyes.
fn normalized_mean_error(actual: &Landmarks, expected: &Landmarks) -> f32 {
    let distance = |a: Point, b: Point| (a.x - b.x).hypot(a.y - b.y);
    let sum = actual.iter().zip(expected).map(|(a, b)| distance(*a, *b)).sum::<f32>();
    sum / 5.0 / distance(expected[0], expected[1])
}

#[test]
fn count_and_unit_of_points_are_recognised() {
    for (file, parts) in [
        ("landmarks68.onnx", &["68 points", "fractions of the input size, 0 to 1", "(grey - 0)"][..]),
        ("landmarks106.onnx", &["106 points", "relative to the centre, -1 to 1", "(RGB - [0.0, 0.0, 0.0]) * 1"]),
        ("landmarks98_rank3.onnx", &["98 points", "pixels of the input", "[N, 98, 2]"]),
        ("landmarks_fixed1.onnx", &["10 points", "[1, 3, 64, 64]"]),
    ] {
        let model = Model::open(&tiny(file), &options()).unwrap();
        let text = model.spec().to_string();
        for part in parts {
            assert!(text.contains(part), "{file}: {text}");
        }
    }
    let options = ModelOptions {
        overrides: "points=pixels; color-order=BGR; mean=127.5; scale=0.0078125".parse().unwrap(),
        ..options()
    };
    let text = Model::open(&tiny("landmarks_fixed1.onnx"), &options).unwrap().spec().to_string();
    assert!(
        text.contains("pixels of the input") && text.contains("(BGR - [127.5, 127.5, 127.5]) * 0.0078125"),
        "{text}"
    );
}

#[test]
fn unsuitable_model_is_refused_with_its_outputs() {
    for (file, part) in [
        ("biubug6.onnx", "must have a fixed height and width"),
        ("yunet_fixed.onnx", "cls_8"),
        ("fp16_input.onnx", "its input is float16"),
        ("two_inputs.onnx", "it has 2 inputs"),
    ] {
        let error = Model::open(&tiny(file), &options()).err().unwrap_or_else(|| panic!("{file}")).to_string();
        assert!(error.contains(part), "{error}");
    }
    for file in ["embedding128_mobilefacenet.onnx", "embedding512_faceplugin.onnx"] {
        let Some(file) = common::shared(&format!("models/{file}")) else { continue };
        let error = Model::open(&file, &options()).err().unwrap().to_string();
        assert!(error.contains("not a landmark model") && error.contains("not spread over the image"), "{error}");
    }
    let model = SharedModel::open(&tiny("biubug6.onnx"), &ModelOptions::default()).unwrap();
    let error = Landmarker::new(&model).unwrap_err().to_string();
    assert!(error.contains("opened for face detection"), "{error}");
    let model = SharedModel::open(&tiny("landmarks68.onnx"), &options()).unwrap();
    let pixels = vec![0; 3 * 64 * 64];
    let frame = ImageView::new(ImageInfo::new(PixelFormat::Bgr, 64, 64), &[&pixels], &[3 * 64]).unwrap();
    let error = Detector::new(&model).detect(&frame, &DetectionSettings::default()).unwrap_err().to_string();
    assert!(error.contains("opened for landmarks on faces"), "{error}");
}

#[test]
fn points_of_a_batch_lie_in_their_own_crops() {
    let info = ImageInfo::new(PixelFormat::Rgb, 400, 300);
    let pixels = (0..3 * 400 * 300).map(|i| (i * 7 % 253) as u8).collect::<Vec<_>>();
    let frame = ImageView::new(info, &[&pixels], &[3 * 400]).unwrap();
    let face = |x: f32, y: f32, side: f32| Face { rect: Rect::new(x, y, side, side), ..Face::default() };
    let faces = [face(10.0, 20.0, 80.0), face(200.0, 100.0, 120.0), face(300.0, 10.0, 50.0)];
    let settings = LandmarkSettings { crop: CropMode::Upright, ..LandmarkSettings::default() };
    for file in ["landmarks68.onnx", "landmarks106.onnx", "landmarks98_rank3.onnx", "landmarks_fixed1.onnx"] {
        let landmarker = landmarker(&tiny(file));
        let together = landmarker.find(&frame, &faces, &settings).unwrap();
        let dynamic_batch = file != "landmarks_fixed1.onnx";
        assert_eq!(together.batch, if dynamic_batch { 3 } else { 1 }, "{file}: the faces of a frame share a run");
        for (points, face) in together.points.iter().zip(&faces) {
            let points = points.as_ref().unwrap();
            assert_eq!(points.len(), landmarker.count());
            let rect = face.rect;
            let within = |point: &Point| {
                point.x >= rect.x - 1.0
                    && point.x <= rect.right()
                    && point.y >= rect.y - 1.0
                    && point.y <= rect.bottom()
            };
            assert!(points.iter().all(within), "{file}: {points:?} in {rect:?}");
            let alone = landmarker.find(&frame, std::slice::from_ref(face), &settings).unwrap();
            let near = |(a, b): (&Point, &Point)| (a.x - b.x).abs() < 1e-2 && (a.y - b.y).abs() < 1e-2;
            assert!(
                points.iter().zip(alone.points[0].as_ref().unwrap()).all(near),
                "{file}: the batch size does not change the points"
            );
        }
    }
    let landmarker = landmarker(&tiny("landmarks68.onnx"));
    let invalid_faces = [face(10.0, 10.0, 0.0), face(f32::NAN, 0.0, 10.0), face(30.0, 30.0, 60.0)];
    let found = landmarker.find(&frame, &invalid_faces, &settings).unwrap();
    assert_eq!(found.points.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true]);
    let template = LandmarkSettings { crop: CropMode::Template, ..settings };
    assert_eq!(
        landmarker.find(&frame, &faces[..1], &template).unwrap().points,
        [None],
        "the template crop requires landmarks"
    );
}

#[test]
fn streams_share_runs() {
    let model = SharedModel::open(&tiny("landmarks68.onnx"), &options()).unwrap();
    let pixels = vec![90; 3 * 100 * 100];
    let settings =
        LandmarkSettings { batch_timeout: Duration::from_secs(3600), max_batch: 4, ..LandmarkSettings::default() };
    let barrier = std::sync::Barrier::new(2);
    let stream = || {
        let landmarker = Landmarker::new(&model).unwrap();
        let frame = ImageView::new(ImageInfo::new(PixelFormat::Bgr, 100, 100), &[&pixels], &[300]).unwrap();
        let face = |x: f32| Face { rect: Rect::new(x, 10.0, 40.0, 40.0), ..Face::default() };
        // Batches wait for a stream from its first frame on.
        landmarker.find(&frame, &[face(5.0)], &LandmarkSettings::default()).unwrap();
        barrier.wait();
        // Two streams with two faces each fill a batch of four only together.
        landmarker.find(&frame, &[face(5.0), face(50.0)], &settings).unwrap().batch
    };
    let batches = std::thread::scope(|scope| [scope.spawn(stream), scope.spawn(stream)].map(|one| one.join().unwrap()));
    assert_eq!(batches, [4, 4]);
}

#[test]
fn points_agree_with_detector_and_rotate_with_face() {
    let Some(path) = common::shared("models/landmarks68_faceplugin.onnx") else { return };
    let landmarker = landmarker(&path);
    let detector = Detector::new(&common::open_default());
    for name in ["single_face.jpg", "multi_face.jpg"] {
        let photo = imread(common::media(name), IMREAD_COLOR).unwrap();
        let frame = view(&photo);
        let faces = detector.detect(&frame, &DetectionSettings::default()).unwrap().faces;
        let found = landmarker.find(&frame, &faces, &LandmarkSettings::default()).unwrap().points;
        for (face, points) in faces.iter().zip(&found) {
            let five = five_landmarks(points.as_ref().unwrap()).unwrap();
            let error = normalized_mean_error(&five, &face.landmarks.unwrap());
            eprintln!("{name}: normalized mean error {error:.3}");
            assert!(error < 0.16, "{name}: normalized mean error {error}");
        }
        // In the photo rotated by 40 degrees the aligned crops are the same, so that the points
        // rotate with it.
        let (sin, cos) = 40f64.to_radians().sin_cos();
        let (x, y) = (f64::from(photo.cols()) / 2.0, f64::from(photo.rows()) / 2.0);
        let rotated_from_photo =
            Affine::from_matrix([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]);
        let info = frame.info();
        let mut rotated = OwnedImage::new(info, vec![0; 3 * info.width * info.height]).unwrap();
        align::warp(&frame, &rotated_from_photo, &mut rotated.view_mut(), &mut Default::default()).unwrap();
        for (face, points) in faces.iter().zip(&found) {
            let centre =
                rotated_from_photo.apply(Point::new(face.rect.x + face.rect.w / 2.0, face.rect.y + face.rect.h / 2.0));
            let (w, h) = (face.rect.w, face.rect.h);
            let rect = Rect::new(centre.x - w / 2.0, centre.y - h / 2.0, w, h);
            let inside =
                rect.x > 0.0 && rect.y > 0.0 && rect.right() < info.width as f32 && rect.bottom() < info.height as f32;
            if !inside {
                continue;
            }
            let landmarks = face.landmarks.map(|points| points.map(|point| rotated_from_photo.apply(point)));
            let rotated_face = Face { rect, landmarks, ..face.clone() };
            let rotated_points = landmarker
                .find(&rotated.view(), &[rotated_face], &LandmarkSettings::default())
                .unwrap()
                .points
                .remove(0)
                .unwrap();
            let expected = points.as_ref().unwrap().iter().map(|point| rotated_from_photo.apply(*point));
            let eyes = face.landmarks.unwrap();
            let eye_distance = (eyes[0].x - eyes[1].x).hypot(eyes[0].y - eyes[1].y);
            let mean =
                rotated_points.iter().zip(expected).map(|(a, b)| (a.x - b.x).hypot(a.y - b.y)).sum::<f32>() / 68.0;
            assert!(mean / eye_distance < 0.06, "{name}: normalized mean error {}", mean / eye_distance);
        }
    }
}
