//! Frames whose pixels are not square: detection, alignment, landmark models and head pose see the
//! displayed picture.

use crate::common;
use opencv::core::Size;
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::imgproc;
use opencv::prelude::*;
use ort::session::Session;
use ort::value::TensorRef;
use retinaface::crops::align::WarpBuffers;
use retinaface::crops::{Landmarker, align};
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::{Face, PixelAspect, Point, iou};
use retinaface::image::{ImageInfo, OwnedImage, PixelFormat};
use retinaface::inference::{ModelOptions, ModelTask};
use retinaface::runtime;
use retinaface::{LandmarkSettings, Provider, SharedModel};

/// Pixel aspect ratios from 1:3 to 3:1, with those of standard definition video.
const RATIOS: [(u32, u32); 8] = [(1, 3), (1, 2), (10, 11), (12, 11), (4, 3), (16, 11), (2, 1), (3, 1)];

/// A photo as a recorder stores it that squeezes one axis to pixels of this shape.
pub(crate) fn stored(name: &str, pixel_aspect: PixelAspect) -> OwnedImage {
    let mat = imread(common::media(name), IMREAD_COLOR).unwrap();
    let (x, y) = pixel_aspect.stretch();
    let (width, height) = ((f64::from(mat.cols()) / x).round(), (f64::from(mat.rows()) / y).round());
    let mut squeezed = Mat::default();
    let size = Size::new(width as i32, height as i32);
    imgproc::resize(&mat, &mut squeezed, size, 0.0, 0.0, imgproc::INTER_AREA).unwrap();
    let info =
        ImageInfo { pixel_aspect, ..ImageInfo::new(PixelFormat::Bgr, size.width as usize, size.height as usize) };
    OwnedImage::new(info, squeezed.data_bytes().unwrap().to_vec()).unwrap()
}

pub(crate) fn aspect((width, height): (u32, u32)) -> PixelAspect {
    PixelAspect::new(width, height)
}

/// The face in the pixels of the photo.
fn displayed(face: &Face, pixel_aspect: PixelAspect) -> Face {
    let (x, y) = pixel_aspect.stretch();
    face.mapped(|point| Point::new(point.x * x as f32, point.y * y as f32))
}

pub(crate) fn distance(a: Point, b: Point) -> f32 {
    (a.x - b.x).hypot(a.y - b.y)
}

pub(crate) fn mean_distance(a: &[Point], b: &[Point]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| distance(*a, *b)).sum::<f32>() / a.len() as f32
}

#[test]
fn faces_in_non_square_pixels_are_those_of_the_displayed_picture() {
    let detector = Detector::new(&common::open_default());
    let views = |tiles: &str, flip| retinaface::detect::Views {
        tiles: tiles.parse().unwrap(),
        flip,
        ..retinaface::detect::Views::default()
    };
    for views in [views("none", false), views("none", true), views("2x2", false), views("auto", false)] {
        let settings = DetectionSettings { views, ..DetectionSettings::default() };
        let detect = |pixel_aspect| {
            let image = stored("multi_face.jpg", pixel_aspect);
            detector.detect(&image.view(), &settings).unwrap().faces
        };
        let expected = detect(PixelAspect::SQUARE);
        assert_eq!(expected.len(), 5);
        for ratio in RATIOS.map(aspect) {
            let found = detect(ratio);
            assert_eq!(found.len(), 5, "{ratio} {:?}", settings.views);
            for expected in &expected {
                let shown = found.iter().map(|face| displayed(face, ratio));
                let best = shown.max_by(|a, b| iou(a.rect, expected.rect).total_cmp(&iou(b.rect, expected.rect)));
                let best = best.unwrap();
                let overlap = iou(best.rect, expected.rect);
                assert!(overlap > 0.8, "{ratio}: IoU {overlap}");
                assert!((best.score - expected.score).abs() < 0.1, "{ratio}: {} {}", best.score, expected.score);
                let (found, expected) = (best.landmarks.unwrap(), expected.landmarks.unwrap());
                let error = mean_distance(&found, &expected) / distance(expected[0], expected[1]);
                assert!(error < 0.1, "{ratio}: the landmarks are off by {error} of the distance of the eyes");
            }
        }
    }
}

#[test]
fn head_pose_is_that_of_the_displayed_face() {
    let detector = Detector::new(&common::open_default());
    let pose = |pixel_aspect| {
        let image = stored("single_face.jpg", pixel_aspect);
        let faces = detector.detect(&image.view(), &DetectionSettings::default()).unwrap().faces;
        faces[0].pose(pixel_aspect).unwrap()
    };
    let expected = pose(PixelAspect::SQUARE);
    for ratio in RATIOS.map(aspect) {
        let found = pose(ratio);
        for (found, expected) in [(found.yaw, expected.yaw), (found.pitch, expected.pitch), (found.roll, expected.roll)]
        {
            assert!((found - expected).abs() < 6.0, "{ratio}: {found} degrees instead of {expected}");
        }
    }
}

#[test]
fn landmark_models_see_the_displayed_face() {
    let Some(model) = common::shared("models/landmarks68_faceplugin.onnx") else { return };
    let detector = Detector::new(&common::open_default());
    let options = ModelOptions { task: ModelTask::Landmarks, ..ModelOptions::default() };
    let landmarker = Landmarker::new(&SharedModel::open(&model, &options).unwrap()).unwrap();
    let points = |pixel_aspect| {
        let image = stored("single_face.jpg", pixel_aspect);
        let faces = detector.detect(&image.view(), &DetectionSettings::default()).unwrap().faces;
        let found = landmarker.find(&image.view(), &faces[..1], &LandmarkSettings::default()).unwrap();
        let points = found.points[0].clone().unwrap();
        displayed(&Face { points, ..faces[0].clone() }, pixel_aspect)
    };
    let expected = points(PixelAspect::SQUARE);
    let eyes = expected.landmarks.map(|[a, b, ..]| distance(a, b)).unwrap();
    for ratio in RATIOS.map(aspect) {
        let error = mean_distance(&points(ratio).points, &expected.points) / eyes;
        assert!(error < 0.06, "{ratio}: the points are off by {error} of the distance of the eyes");
    }
}

/// The recognition model SFace: 128 values of an aligned RGB crop of 112 x 112 pixels.
struct Sface(Session);

impl Sface {
    fn open() -> Self {
        let runtime = runtime::load(None, Provider::Cpu).unwrap();
        let model = common::fetched("models/sface.onnx");
        Self(Session::builder(runtime.environment()).unwrap().commit_from_file(model).unwrap())
    }

    fn embedding(&mut self, image: &OwnedImage, face: &Face) -> Vec<f32> {
        let pixel_aspect = image.view().info().pixel_aspect;
        let transform = align::crop_from_frame(&face.landmarks.unwrap(), pixel_aspect, 112).unwrap();
        let mut crop = OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, 112, 112), vec![0; 3 * 112 * 112]).unwrap();
        align::warp(&image.view(), &transform, &mut crop.view_mut(), &mut WarpBuffers::default()).unwrap();
        let pixels = crop.data().as_chunks::<3>().0;
        let planes = (0..3).flat_map(|channel| pixels.iter().map(move |pixel| f32::from(pixel[channel])));
        let planes = planes.collect::<Vec<_>>();
        let input = TensorRef::from_array_view(([1usize, 3, 112, 112], &planes[..])).unwrap();
        let outputs = self.0.run(ort::inputs![input]).unwrap();
        outputs[0].try_extract_tensor::<f32>().unwrap().1.to_vec()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn crops_of_non_square_pixels_are_recognised_as_those_of_square_pixels() {
    let detector = Detector::new(&common::open_default());
    let mut sface = Sface::open();
    let mut embedding = |pixel_aspect| {
        let image = stored("single_face.jpg", pixel_aspect);
        let faces = detector.detect(&image.view(), &DetectionSettings::default()).unwrap().faces;
        sface.embedding(&image, &faces[0])
    };
    let expected = embedding(PixelAspect::SQUARE);
    for ratio in RATIOS.map(aspect) {
        let similarity = cosine(&embedding(ratio), &expected);
        assert!(similarity >= 0.97, "{ratio}: the cosine similarity is {similarity}");
    }
}
