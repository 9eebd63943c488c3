//! The element `facelandmarks`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::face::{Face, Point};
use retinaface::landmarks;

mod common;
use common::{face, faces_on, frame_with, info, project, quoted, run, try_run, watched};

/// A model of the tests' own, see tests/fixtures/models/make_models.py.
fn tiny(name: &str) -> String {
    quoted(&project::root().join("tests/fixtures/models").join(name))
}

fn harness(properties: &str) -> gst_check::Harness {
    common::init();
    let mut harness = gst_check::Harness::new_parse(&format!("facelandmarks {properties}"));
    harness.set_src_caps(info(VideoFormat::Nv12, 320, 180).to_caps().unwrap());
    harness
}

fn through(harness: &mut gst_check::Harness, faces: &[Face]) -> Vec<Face> {
    let out = harness.push_and_pull(frame_with(&info(VideoFormat::Nv12, 320, 180), 0, faces)).unwrap();
    gstretinaface::meta::read(&out, (320, 180)).into_faces()
}

#[test]
fn points_are_added_to_each_face_and_the_five_stay() {
    watched(|| {
        let faces = [face(0.9, 40.0, 20.0, 100.0, 100.0), face(0.8, 200.0, 60.0, 40.0, 50.0)];
        for (model, count) in [("landmarks68.onnx", 68), ("landmarks98_rank3.onnx", 98), ("landmarks106.onnx", 106)] {
            let mut harness = harness(&format!("model-file={}", tiny(model)));
            let found = through(&mut harness, &faces);
            assert_eq!(found.len(), 2);
            for (found, before) in found.iter().zip(&faces) {
                assert_eq!(found.points.len(), count);
                let rect = before.rect;
                let (margin_x, margin_y) = (0.3 * rect.w, 0.3 * rect.h);
                assert!(
                    found.points.iter().all(|point| point.x > rect.x - margin_x && point.x < rect.right() + margin_x)
                );
                assert!(
                    found.points.iter().all(|point| point.y > rect.y - margin_y && point.y < rect.bottom() + margin_y)
                );
                assert_eq!(&Face { points: vec![], ..found.clone() }, before, "nothing else changed");
            }
            assert_eq!(through(&mut harness, &[]), []);
        }
    });
}

#[test]
fn small_faces_can_be_left_out_and_refined_landmarks_take_the_place_of_the_five() {
    watched(|| {
        let faces = [face(0.9, 40.0, 20.0, 100.0, 100.0), face(0.8, 200.0, 60.0, 40.0, 50.0)];
        let found = through(&mut harness(&format!("model-file={} min-face-size=60", tiny("landmarks68.onnx"))), &faces);
        assert_eq!(found.iter().map(|face| face.points.len()).collect::<Vec<_>>(), [68, 0]);
        let refined =
            through(&mut harness(&format!("model-file={} refine-landmarks=true", tiny("landmarks68.onnx"))), &faces);
        for face in refined {
            assert_eq!(face.landmarks, landmarks::five_of(&face.points));
        }
    });
}

#[test]
fn the_crop_may_change_while_playing() {
    watched(|| {
        let mut harness = harness(&format!("name=it model-file={}", tiny("landmarks68.onnx")));
        let element = harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("it").unwrap();
        assert_eq!(element.property::<String>("active-provider"), "cpu");
        let turned = face(0.9, 100.0, 40.0, 80.0, 80.0);
        let [a, b, nose, c, d] = turned.landmarks.unwrap();
        let turn = |point: Point| Point::new(140.0 - (point.y - 80.0), 80.0 + (point.x - 140.0));
        let turned = [Face { landmarks: Some([a, b, nose, c, d].map(turn)), ..turned }];
        let aligned = through(&mut harness, &turned);
        element.set_property_from_str("crop", "upright");
        let upright = through(&mut harness, &turned);
        assert_ne!(aligned[0].points, upright[0].points);
        element.set_property("crop-scale", 2.0f32);
        let spread = |faces: &[Face]| {
            let xs = faces[0].points.iter().map(|point| point.x);
            xs.clone().fold(f32::MIN, f32::max) - xs.fold(f32::MAX, f32::min)
        };
        let wide = through(&mut harness, &turned);
        assert!(spread(&wide) > 1.2 * spread(&upright), "{} {}", spread(&wide), spread(&upright));
    });
}

#[test]
fn the_latency_query_says_what_the_element_adds() {
    watched(|| {
        let mut harness = harness(&format!("model-file={} batch-timeout=30", tiny("landmarks68.onnx")));
        harness
            .push_and_pull(frame_with(&info(VideoFormat::Nv12, 320, 180), 0, &[face(0.9, 40.0, 20.0, 100.0, 100.0)]))
            .unwrap();
        let latency = harness.query_latency().unwrap();
        let (least, most) = (gst::ClockTime::from_mseconds(30), gst::ClockTime::from_seconds(5));
        assert!(latency > least && latency < most, "{latency}");
    });
}

#[test]
fn what_cannot_be_is_a_start_error_that_says_why() {
    watched(|| {
        for (properties, parts) in [
            (String::new(), ["model-file is not set", "ONNX file"]),
            (format!("model-file={}", tiny("biubug6.onnx")), ["biubug6.onnx", "fixed height and width"]),
            (format!("model-file={}", tiny("classifier.onnx")), ["classifier.onnx", "cannot be fed"]),
            (
                format!("model-file={} refine-landmarks=true", tiny("landmarks_fixed1.onnx")),
                ["refine-landmarks", "finds 10"],
            ),
            (
                format!("model-file={} model-options=points=feet", tiny("landmarks68.onnx")),
                ["model-options", "fraction or signed"],
            ),
        ] {
            let error = try_run(&format!(
                "videotestsrc num-buffers=2 ! video/x-raw,width=160,height=90 ! facelandmarks {properties} ! fakesink"
            ));
            let error = error.expect_err("the pipeline fails");
            for part in parts {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        }
    });
}

#[test]
fn streams_share_the_model_and_crops_follow_the_refined_landmarks() {
    watched(|| {
        let Some(model) = project::shared("models/landmarks68_faceplugin.onnx") else { return };
        let photo = common::quoted(&project::media("multi_face.jpg"));
        let pipeline = |extra: &str| {
            run(&format!(
                "filesrc location={photo} ! jpegdec ! videoconvert ! video/x-raw,format=I420 ! retinaface model-file={} ! \
                 facelandmarks model-file={} {extra} ! tee name=t ! queue ! facealign ! fakesink async=false t. ! queue ! appsink name=out",
                quoted(&project::default_model()),
                quoted(&model)
            ))
        };
        let faces = |samples: &[gst::Sample]| faces_on(&samples[0]);
        let (plain, refined) = (faces(&pipeline("")), faces(&pipeline("refine-landmarks=true")));
        assert_eq!((plain.len(), refined.len()), (5, 5));
        for (plain, refined) in plain.iter().zip(&refined) {
            assert_eq!((plain.points.len(), plain.rect), (68, refined.rect));
            assert_ne!(plain.landmarks, refined.landmarks);
            let (before, after) = (plain.landmarks.unwrap(), refined.landmarks.unwrap());
            let off = before.iter().zip(&after).map(|(a, b)| (a.x - b.x).hypot(a.y - b.y));
            assert!(off.sum::<f32>() / 5.0 < 0.15 * plain.rect.w, "{plain:?} {refined:?}");
        }
    });
}
