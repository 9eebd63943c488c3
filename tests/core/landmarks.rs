//! Landmark models: recognised, and their points where the face is.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use opencv::core::Mat;
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::prelude::*;
use retinaface::align::{self, Similarity};
use retinaface::detector::{Detector, Settings as DetectorSettings, SharedModel};
use retinaface::face::{Face, Landmarks, Point, Rect};
use retinaface::image::{ImageInfo, ImageView, OwnedImage, PixelFormat};
use retinaface::landmarks::{self, Crop, Landmarker, Settings};
use retinaface::model::{Model, Options, Purpose};

mod common;

fn tiny(name: &str) -> PathBuf {
    common::root().join("tests/fixtures/models").join(name)
}

fn options() -> Options {
    Options { purpose: Purpose::Points, ..Options::default() }
}

fn landmarker(path: &Path) -> Landmarker {
    Landmarker::new(&SharedModel::open(path, &options()).unwrap()).unwrap()
}

fn view(mat: &Mat) -> ImageView<'_> {
    let (width, height) = (mat.cols() as usize, mat.rows() as usize);
    ImageView::new(ImageInfo::new(PixelFormat::Bgr, width, height), &[mat.data_bytes().unwrap()], &[3 * width]).unwrap()
}

/// Mean distance of two sets of landmarks, over the distance of the eyes.
fn off(is: &Landmarks, should: &Landmarks) -> f32 {
    let distance = |a: Point, b: Point| (a.x - b.x).hypot(a.y - b.y);
    let sum = is.iter().zip(should).map(|(a, b)| distance(*a, *b)).sum::<f32>();
    sum / 5.0 / distance(should[0], should[1])
}

#[test]
fn what_points_are_is_recognised() {
    for (file, parts) in [
        ("landmarks68.onnx", &["68 points", "parts of the crop", "(grey - 0)"][..]),
        ("landmarks106.onnx", &["106 points", "from its middle", "(RGB - [0.0, 0.0, 0.0]) * 1"]),
        ("landmarks98_rank3.onnx", &["98 points", "pixels of the input", "[N, 98, 2]"]),
        ("landmarks_fixed1.onnx", &["10 points", "[1, 3, 64, 64]"]),
    ] {
        let model = Model::open(&tiny(file), &options()).unwrap();
        let text = model.contract().to_string();
        for part in parts {
            assert!(text.contains(part), "{file}: {text}");
        }
    }
    let said = Options {
        overrides: "points=pixels; color-order=BGR; mean=127.5; scale=0.0078125".parse().unwrap(),
        ..options()
    };
    let text = Model::open(&tiny("landmarks_fixed1.onnx"), &said).unwrap().contract().to_string();
    assert!(
        text.contains("pixels of the input") && text.contains("(BGR - [127.5, 127.5, 127.5]) * 0.0078125"),
        "{text}"
    );
}

#[test]
fn what_is_no_landmark_model_is_refused_with_what_was_found() {
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
        assert!(error.contains("not a landmark model") && error.contains("not spread over the picture"), "{error}");
    }
    let model = SharedModel::open(&tiny("biubug6.onnx"), &Options::default()).unwrap();
    assert!(Landmarker::new(&model).is_none(), "it finds faces");
    let model = SharedModel::open(&tiny("landmarks68.onnx"), &options()).unwrap();
    let pixels = vec![0; 3 * 64 * 64];
    let frame = ImageView::new(ImageInfo::new(PixelFormat::Bgr, 64, 64), &[&pixels], &[3 * 64]).unwrap();
    let error = Detector::new(&model).detect(&frame, &DetectorSettings::default()).unwrap_err().to_string();
    assert!(error.contains("finds points of faces"), "{error}");
}

#[test]
fn points_lie_in_the_crop_that_the_model_was_shown_and_faces_do_not_mix() {
    let info = ImageInfo::new(PixelFormat::Rgb, 400, 300);
    let pixels = (0..3 * 400 * 300).map(|i| (i * 7 % 253) as u8).collect::<Vec<_>>();
    let frame = ImageView::new(info, &[&pixels], &[3 * 400]).unwrap();
    let face = |x: f32, y: f32, side: f32| Face { rect: Rect::new(x, y, side, side), ..Face::default() };
    let faces = [face(10.0, 20.0, 80.0), face(200.0, 100.0, 120.0), face(300.0, 10.0, 50.0)];
    let settings = Settings { crop: Crop::Upright, ..Settings::default() };
    for file in ["landmarks68.onnx", "landmarks106.onnx", "landmarks98_rank3.onnx", "landmarks_fixed1.onnx"] {
        let landmarker = landmarker(&tiny(file));
        let together = landmarker.find(&frame, &faces, &settings).unwrap();
        let takes_many = file != "landmarks_fixed1.onnx";
        assert!(together.batch > 1 || !takes_many, "{file}: faces share a run");
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
                "{file}: a batch gives what each gets alone"
            );
        }
    }
    let none = landmarker(&tiny("landmarks68.onnx"));
    let nowhere = [face(10.0, 10.0, 0.0), face(f32::NAN, 0.0, 10.0), face(30.0, 30.0, 60.0)];
    let found = none.find(&frame, &nowhere, &settings).unwrap();
    assert_eq!(found.points.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true]);
    let template = Settings { crop: Crop::Template, ..settings };
    assert_eq!(
        none.find(&frame, &faces[..1], &template).unwrap().points,
        [None],
        "without landmarks there is no template"
    );
}

#[test]
fn streams_share_runs() {
    let model = SharedModel::open(&tiny("landmarks68.onnx"), &options()).unwrap();
    let pixels = vec![90; 3 * 100 * 100];
    let settings = Settings { batch_timeout: Duration::from_secs(20), max_batch: 4, ..Settings::default() };
    let both = std::sync::Barrier::new(2);
    let stream = || {
        let landmarker = Landmarker::new(&model).unwrap();
        let frame = ImageView::new(ImageInfo::new(PixelFormat::Bgr, 100, 100), &[&pixels], &[300]).unwrap();
        let face = |x: f32| Face { rect: Rect::new(x, 10.0, 40.0, 40.0), ..Face::default() };
        // From its first frame on, a stream is one that others' runs wait for.
        landmarker.find(&frame, &[face(5.0)], &Settings::default()).unwrap();
        both.wait();
        // Two streams of two faces each: the run is full only with both.
        landmarker.find(&frame, &[face(5.0), face(50.0)], &settings).unwrap().batch
    };
    let batches = std::thread::scope(|scope| [scope.spawn(stream), scope.spawn(stream)].map(|one| one.join().unwrap()));
    assert_eq!(batches, [4, 4]);
}

#[test]
fn a_real_models_points_agree_with_the_detectors_and_turn_with_the_face() {
    let Some(path) = common::shared("models/landmarks68_faceplugin.onnx") else { return };
    let landmarker = landmarker(&path);
    let detector = Detector::new(&common::open_default());
    for name in ["single_face.jpg", "multi_face.jpg"] {
        let photo = imread(common::media(name), IMREAD_COLOR).unwrap();
        let frame = view(&photo);
        let faces = detector.detect(&frame, &DetectorSettings::default()).unwrap().faces;
        let found = landmarker.find(&frame, &faces, &Settings::default()).unwrap().points;
        for (face, points) in faces.iter().zip(&found) {
            let five = landmarks::five_of(points.as_ref().unwrap()).unwrap();
            let off = off(&five, &face.landmarks.unwrap());
            eprintln!("{name}: {off:.3} of the eyes' distance");
            assert!(off < 0.16, "{name}: {off}");
        }
        // The whole photo turned by 40 degrees: the aligned crops show the same, so the points turn with it.
        let (sin, cos) = 40f64.to_radians().sin_cos();
        let (x, y) = (f64::from(photo.cols()) / 2.0, f64::from(photo.rows()) / 2.0);
        let turned = Similarity::from_matrix([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]);
        let info = frame.info();
        let mut copy = OwnedImage::new(info, vec![0; 3 * info.width * info.height]).unwrap();
        align::warp(&frame, &turned, &mut copy.view_mut(), &mut Default::default()).unwrap();
        for (face, points) in faces.iter().zip(&found) {
            let centre = turned.apply(Point::new(face.rect.x + face.rect.w / 2.0, face.rect.y + face.rect.h / 2.0));
            let (w, h) = (face.rect.w, face.rect.h);
            let rect = Rect::new(centre.x - w / 2.0, centre.y - h / 2.0, w, h);
            let inside =
                rect.x > 0.0 && rect.y > 0.0 && rect.right() < info.width as f32 && rect.bottom() < info.height as f32;
            if !inside {
                continue;
            }
            let landmarks = face.landmarks.map(|points| points.map(|point| turned.apply(point)));
            let again = Face { rect, landmarks, ..face.clone() };
            let points_again =
                landmarker.find(&copy.view(), &[again], &Settings::default()).unwrap().points.remove(0).unwrap();
            let expected = points.as_ref().unwrap().iter().map(|point| turned.apply(*point));
            let eyes = face.landmarks.unwrap();
            let eyes = (eyes[0].x - eyes[1].x).hypot(eyes[0].y - eyes[1].y);
            let mean = points_again.iter().zip(expected).map(|(a, b)| (a.x - b.x).hypot(a.y - b.y)).sum::<f32>() / 68.0;
            assert!(mean / eyes < 0.06, "{name}: {} of the eyes' distance", mean / eyes);
        }
    }
}
