//! The landmarks of faces that are large in the model's input come from a second view.

use crate::aspect::{aspect, distance, mean_distance, stored};
use crate::common;
use retinaface::detect::{DetectionSettings, Detector, LandmarkFusion, Views, parse_rois};
use retinaface::geometry::{Face, InputSize, PixelAspect, Rect};
use retinaface::image::{ImageView, Region};
use retinaface::inference::{ModelOptions, Preprocessing, SharedModel};

/// The size of the face in the input from which it is large, and in its second view.
const LARGE: f32 = 320.0;
const REFINED: f32 = 160.0;

fn detect(detector: &Detector, image: &ImageView<'_>, size: f32, refine: bool) -> Vec<Face> {
    let settings = DetectionSettings {
        input_size: InputSize::Longest(size as usize),
        refine_large_faces: refine,
        ..DetectionSettings::default()
    };
    detector.detect(image, &settings).unwrap().faces
}

/// The longer side of a face in square pixels.
fn size(face: &Face, pixel_aspect: PixelAspect) -> f32 {
    let (x, y) = pixel_aspect.stretch();
    (face.rect.w * x as f32).max(face.rect.h * y as f32)
}

/// The distance of the landmarks of two faces, in units of the distance between the eyes.
fn difference(a: &Face, b: &Face) -> f32 {
    let (a, b) = (a.landmarks.unwrap(), b.landmarks.unwrap());
    mean_distance(&a, &b) / distance(b[0], b[1])
}

#[test]
fn a_large_face_has_the_landmarks_of_a_view_in_which_it_is_smaller() {
    for preprocessing in [Preprocessing::Cpu, Preprocessing::Device] {
        let options = ModelOptions { preprocessing, ..ModelOptions::default() };
        let detector = Detector::new(&SharedModel::open(&common::default_model(), &options).unwrap());
        for ratio in [(1, 1), (2, 1), (1, 2)].map(aspect) {
            let image = stored("single_face.jpg", ratio);
            let image = image.view();
            let face = detect(&detector, &image, 640.0, false).remove(0);
            // The input size at which the face has a given size.
            let (x, y) = ratio.stretch();
            let longest = (image.width() as f64 * x).max(image.height() as f64 * y) as f32;
            let at = |wanted: f32| wanted * longest / size(&face, ratio);
            let expected = detect(&detector, &image, at(REFINED), false).remove(0);
            let [plain, refined] =
                [false, true].map(|refine| detect(&detector, &image, at(1.8 * LARGE), refine).remove(0));
            assert_eq!((refined.rect, refined.score), (plain.rect, plain.score), "{ratio}: the box stays");
            let (before, after) = (difference(&plain, &expected), difference(&refined, &expected));
            assert!(after < 0.06 && after < 0.8 * before, "{ratio}: {before} without, {after} with a second view");
            // Just below the limit, nothing changes.
            let [plain, refined] = [false, true].map(|refine| detect(&detector, &image, at(0.9 * LARGE), refine));
            assert_eq!(plain, refined, "{ratio}");
        }
    }
}

#[test]
fn large_faces_are_refined_in_regions_at_edges_and_by_models_with_a_fixed_input() {
    let detector = Detector::new(&common::open_default());
    let image = stored("single_face.jpg", PixelAspect::SQUARE);
    let face = detect(&detector, &image.view(), 640.0, false).remove(0);
    let Rect { x, y, w, h } = face.rect;
    // A region that the face fills: it is large there, and small in the frame.
    let views = Views { rois: parse_rois(&format!("{x},{y},{w},{h}")).unwrap(), ..Views::default() };
    let settings = DetectionSettings { views, refine_large_faces: true, ..DetectionSettings::default() };
    let in_region = detector.detect(&image.view(), &settings).unwrap().faces.remove(0);
    assert!(difference(&in_region, &face) < 0.08, "{}", difference(&in_region, &face));
    // The frame cuts the face, so that a part of the second view is padding.
    let (left, top) = ((x + 0.1 * w) as usize & !1, (y + 0.1 * h) as usize & !1);
    let (width, height) = (image.view().width() - left, image.view().height() - top);
    let cut = image.view().crop(Region { x: left, y: top, width, height }).unwrap();
    let [plain, refined] = [false, true].map(|refine| detect(&detector, &cut, 1200.0, refine).remove(0));
    assert_ne!(plain.landmarks, refined.landmarks);
    let shifted = refined.mapped(|point| {
        let (left, top) = (left as f32, top as f32);
        retinaface::Point::new(point.x + left, point.y + top)
    });
    assert!(difference(&shifted, &face) < 0.1, "{}", difference(&shifted, &face));
    // The second inference has the size of the model's input, too.
    let Some(fixed) = common::shared("models/retinaface_biubug6_fixed640.onnx") else { return };
    let detector = Detector::new(&SharedModel::open(&fixed, &ModelOptions::default()).unwrap());
    let face_only = image
        .view()
        .crop(Region { x: x as usize & !1, y: y as usize & !1, width: w as usize, height: h as usize })
        .unwrap();
    let [plain, refined] = [false, true].map(|refine| detect(&detector, &face_only, 640.0, refine).remove(0));
    assert_ne!(plain.landmarks, refined.landmarks);
    let expected = detect(&detector, &image.view(), 640.0, false).remove(0);
    let (left, top) = ((x as usize & !1) as f32, (y as usize & !1) as f32);
    let shifted = refined.mapped(|point| retinaface::Point::new(point.x + left, point.y + top));
    assert!(difference(&shifted, &expected) < 0.1, "{}", difference(&shifted, &expected));
}

#[test]
fn small_faces_are_not_refined_and_landmark_fusion_changes_only_landmarks() {
    let detector = Detector::new(&common::open_default());
    let image = stored("multi_face.jpg", PixelAspect::SQUARE);
    let [plain, refined] = [false, true].map(|refine| detect(&detector, &image.view(), 640.0, refine));
    assert_eq!(plain, refined);
    assert_eq!(plain.len(), 5);
    let settings = DetectionSettings { landmark_fusion: LandmarkFusion::None, ..DetectionSettings::default() };
    let best = detector.detect(&image.view(), &settings).unwrap().faces;
    for (fused, best) in plain.iter().zip(&best) {
        assert_eq!((fused.rect, fused.score), (best.rect, best.score));
        assert!(fused.landmarks != best.landmarks && difference(fused, best) < 0.1);
    }
}
