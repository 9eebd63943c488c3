//! Detection in the regions of objects that an earlier detector found.

use std::sync::Arc;

use crate::aspect::{aspect, stored};
use crate::common;
use retinaface::detect::{DetectionSettings, Detector, ObjectRegion, Views};
use retinaface::geometry::{Face, Rect, iou};
use retinaface::inference::{ModelOptions, Preprocessing, SharedModel};

fn settings(views: Views) -> DetectionSettings {
    DetectionSettings { views, max_batch: 8, ..DetectionSettings::default() }
}

fn with_objects(rects: &[Rect]) -> DetectionSettings {
    let objects = (1..).zip(rects).map(|(id, rect)| ObjectRegion { rect: *rect, id });
    settings(Views { objects: Some(objects.collect()), ..Views::default() })
}

/// The rectangle of a person with this face.
fn person(face: &Face) -> Rect {
    let Rect { x, y, w, h } = face.rect;
    Rect::new(x - 0.6 * w, y - 0.4 * h, 2.2 * w, 3.0 * h)
}

#[test]
fn faces_in_regions_of_objects_are_those_of_static_regions_wherever_frames_are_preprocessed() {
    for preprocessing in [Preprocessing::Cpu, Preprocessing::Device] {
        let options = ModelOptions { preprocessing, ..ModelOptions::default() };
        let detector = Detector::new(&SharedModel::open(&common::default_model(), &options).unwrap());
        for ratio in [(1, 1), (2, 1)].map(aspect) {
            let image = stored("multi_face.jpg", ratio);
            let image = image.view();
            let all = detector.detect(&image, &DetectionSettings::default()).unwrap().faces;
            assert_eq!(all.len(), 5);
            let rects = all.iter().map(person).collect::<Vec<_>>();
            let in_rois = settings(Views { rois: rects.clone().into(), ..Views::default() });
            let expected = detector.detect(&image, &in_rois).unwrap().faces;
            let found = detector.detect(&image, &with_objects(&rects)).unwrap().faces;
            assert_eq!(found.len(), expected.len(), "{preprocessing:?} {ratio}: {found:?} {expected:?}");
            for (id, face) in (1..).zip(&all) {
                let best = found.iter().max_by(|a, b| iou(a.rect, face.rect).total_cmp(&iou(b.rect, face.rect)));
                let best = best.unwrap();
                let same = expected.iter().map(|expected| iou(expected.rect, best.rect)).fold(0.0, f32::max);
                assert!(same > 0.95, "{preprocessing:?} {ratio}: {same} of {best:?}");
                assert_eq!(best.parent_id, Some(id), "{preprocessing:?} {ratio}: {best:?}");
            }
        }
    }
}

#[test]
fn regions_of_similar_proportions_share_a_run_and_no_region_needs_none() {
    let detector = Detector::new(&common::open_default());
    let image = stored("multi_face.jpg", aspect((1, 1)));
    let rects =
        [Rect::new(0.0, 0.0, 150.0, 340.0), Rect::new(200.0, 100.0, 99.0, 240.0), Rect::new(500.0, 20.0, 301.0, 640.0)];
    let detection = detector.detect(&image.view(), &with_objects(&rects)).unwrap();
    assert_eq!(detection.batch, 3);
    assert_eq!(detection.objects.unwrap().len(), 3);
    let none = detector.detect(&image.view(), &with_objects(&[])).unwrap();
    assert_eq!((none.batch, none.faces.len(), none.objects.as_deref()), (0, 0, Some(&[][..])));
    let outside = detector.detect(&image.view(), &with_objects(&[Rect::new(5000.0, 0.0, 10.0, 10.0)])).unwrap();
    assert_eq!((outside.batch, outside.faces.len()), (0, 0));
}

#[test]
fn large_faces_in_regions_are_refined_with_the_regions_of_their_detection() {
    let detector = Detector::new(&common::open_default());
    let image = stored("single_face.jpg", aspect((1, 1)));
    let image = image.view();
    let face = detector.detect(&image, &DetectionSettings::default()).unwrap().faces.remove(0);
    let plain = with_objects(&[face.rect]);
    let settings = DetectionSettings { refine_large_faces: true, ..plain.clone() };
    let mut detection = detector.submit(&image, &plain).unwrap().wait().unwrap();
    let before = detection.faces[0].landmarks;
    // Of a later call only the settings are known, not the regions of the frame.
    let later = DetectionSettings { views: Views::default(), ..settings.clone() };
    detector.refine_large_faces(&image, &later, &mut detection).unwrap();
    assert_ne!(detection.faces[0].landmarks, before);
    let at_once = detector.detect(&image, &settings).unwrap();
    assert_eq!(at_once.faces, detection.faces);
    assert!(Arc::ptr_eq(at_once.objects.as_ref().unwrap(), settings.views.objects.as_ref().unwrap()));
}
