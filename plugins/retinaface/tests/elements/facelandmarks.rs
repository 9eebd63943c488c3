//! The element `facelandmarks`.

use gst::prelude::*;
use gst_video::VideoFormat;

use crate::common::{
    self, face, fixture_model, frame_with_faces, info, project, quoted, read_faces, run, try_run, with_watchdog,
};
use retinaface::crops::five_landmarks;
use retinaface::geometry::{Face, Point};

fn harness(properties: &str) -> gst_check::Harness {
    common::init();
    let mut harness = gst_check::Harness::new_parse(&format!("facelandmarks {properties}"));
    harness.set_src_caps(info(VideoFormat::Nv12, 320, 180).to_caps().unwrap());
    harness
}

fn push_through(harness: &mut gst_check::Harness, faces: &[Face]) -> Vec<Face> {
    let out = harness.push_and_pull(frame_with_faces(&info(VideoFormat::Nv12, 320, 180), 0, faces)).unwrap();
    face_meta::read(&out, (320, 180)).into_faces()
}

#[test]
fn points_are_added_and_other_fields_stay() {
    with_watchdog(|| {
        let faces = [face(0.9, 40.0, 20.0, 100.0, 100.0), face(0.8, 200.0, 60.0, 40.0, 50.0)];
        for (model, count) in [("landmarks68.onnx", 68), ("landmarks98_rank3.onnx", 98), ("landmarks106.onnx", 106)] {
            let mut harness = harness(&format!("model-file={}", fixture_model(model)));
            let found = push_through(&mut harness, &faces);
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
                assert_eq!(&Face { points: vec![], ..found.clone() }, before, "nothing else changes");
            }
            assert_eq!(push_through(&mut harness, &[]), []);
        }
    });
}

#[test]
fn min_face_size_and_refine_landmarks_are_applied() {
    with_watchdog(|| {
        let faces = [face(0.9, 40.0, 20.0, 100.0, 100.0), face(0.8, 200.0, 60.0, 40.0, 50.0)];
        let found = push_through(
            &mut harness(&format!("model-file={} min-face-size=60", fixture_model("landmarks68.onnx"))),
            &faces,
        );
        assert_eq!(found.iter().map(|face| face.points.len()).collect::<Vec<_>>(), [68, 0]);
        let refined = push_through(
            &mut harness(&format!("model-file={} refine-landmarks=true", fixture_model("landmarks68.onnx"))),
            &faces,
        );
        for face in refined {
            assert_eq!(face.landmarks, five_landmarks(&face.points));
        }
    });
}

#[test]
fn crop_properties_can_change_in_playing() {
    with_watchdog(|| {
        let mut harness = harness(&format!("name=it model-file={}", fixture_model("landmarks68.onnx")));
        let element = harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("it").unwrap();
        assert_eq!(element.property::<String>("active-provider"), "cpu");
        let rotated = face(0.9, 100.0, 40.0, 80.0, 80.0);
        let [a, b, nose, c, d] = rotated.landmarks.unwrap();
        let rotate = |point: Point| Point::new(140.0 - (point.y - 80.0), 80.0 + (point.x - 140.0));
        let rotated = [Face { landmarks: Some([a, b, nose, c, d].map(rotate)), ..rotated }];
        let aligned = push_through(&mut harness, &rotated);
        element.set_property_from_str("crop", "upright");
        let upright = push_through(&mut harness, &rotated);
        assert_ne!(aligned[0].points, upright[0].points);
        element.set_property("crop-scale", 2.0f32);
        let spread = |faces: &[Face]| {
            let xs = faces[0].points.iter().map(|point| point.x);
            xs.clone().fold(f32::MIN, f32::max) - xs.fold(f32::MAX, f32::min)
        };
        let wide = push_through(&mut harness, &rotated);
        assert!(spread(&wide) > 1.2 * spread(&upright), "{} {}", spread(&wide), spread(&upright));
    });
}

#[test]
fn frames_in_flight_keep_order_and_their_points() {
    with_watchdog(|| {
        // The faces move. Every third frame has none.
        let faces_of = |number: u64| {
            let x = 10.0 + 12.0 * number as f32;
            if number % 3 == 2 {
                vec![]
            } else {
                vec![face(0.9, x, 20.0, 60.0, 60.0), face(0.8, x + 5.0, 100.0, 40.0, 50.0)]
            }
        };
        let info = info(VideoFormat::Nv12, 320, 180);
        let run = |inflight: u32| {
            let mut harness = harness(&format!("model-file={} inflight={inflight}", fixture_model("landmarks68.onnx")));
            for number in 0..18 {
                harness.push(frame_with_faces(&info, number, &faces_of(number))).unwrap();
            }
            let frames = (0..18).map(|number| {
                let out = harness.pull().unwrap();
                assert_eq!(out.pts(), Some(gst::ClockTime::from_mseconds(40) * number), "inflight={inflight}");
                face_meta::read(&out, (320, 180)).into_faces()
            });
            frames.collect::<Vec<_>>()
        };
        let sequential = run(1);
        for (number, faces) in sequential.iter().enumerate() {
            assert_eq!(faces.len(), faces_of(number as u64).len());
            assert!(faces.iter().all(|face| face.points.len() == 68));
        }
        assert_eq!(run(2), sequential);
        assert_eq!(run(5), sequential);
    });
}

#[test]
fn frames_in_flight_are_pushed_before_eos() {
    with_watchdog(|| {
        let info = info(VideoFormat::Nv12, 320, 180);
        let mut harness = harness(&format!("model-file={} inflight=4", fixture_model("landmarks68.onnx")));
        let faces = [face(0.9, 40.0, 20.0, 100.0, 100.0)];
        assert_eq!(
            face_meta::read(&harness.push_and_pull(frame_with_faces(&info, 0, &faces)).unwrap(), (320, 180))
                .faces
                .len(),
            1
        );
        harness.push(frame_with_faces(&info, 1, &faces)).unwrap();
        harness.push(frame_with_faces(&info, 2, &faces)).unwrap();
        // The call returns after all frames were pushed.
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(harness.buffers_in_queue(), 2);
    });
}

#[test]
fn lost_face_count_is_kept() {
    with_watchdog(|| {
        let info = info(VideoFormat::Nv12, 320, 180);
        let mut buffer =
            frame_with_faces(&info, 0, &[face(0.9, 40.0, 20.0, 100.0, 100.0), face(0.8, 200.0, 60.0, 40.0, 50.0)]);
        common::clip_roi(buffer.get_mut().unwrap(), 1);
        let mut harness = harness(&format!("model-file={}", fixture_model("landmarks68.onnx")));
        let out = harness.push_and_pull(buffer).unwrap();
        let found = face_meta::read(&out, (320, 180));
        assert_eq!((found.faces.len(), found.faces[0].face.points.len(), found.lost), (1, 68, 1));
    });
}

#[test]
fn latency_includes_batch_timeout_and_processing_time() {
    with_watchdog(|| {
        let mut harness = harness(&format!("model-file={} batch-timeout=30", fixture_model("landmarks68.onnx")));
        harness
            .push_and_pull(frame_with_faces(
                &info(VideoFormat::Nv12, 320, 180),
                0,
                &[face(0.9, 40.0, 20.0, 100.0, 100.0)],
            ))
            .unwrap();
        let latency = harness.query_latency().unwrap();
        let (min, max) = (gst::ClockTime::from_mseconds(30), gst::ClockTime::from_seconds(5));
        assert!(latency > min && latency < max, "{latency}");
    });
}

#[test]
fn invalid_configuration_is_a_start_error() {
    with_watchdog(|| {
        for (properties, parts) in [
            (String::new(), ["model-file is not set", "ONNX file"]),
            (format!("model-file={}", fixture_model("biubug6.onnx")), ["biubug6.onnx", "fixed height and width"]),
            (
                format!("model-file={}", fixture_model("classifier.onnx")),
                ["classifier.onnx", "has an unsupported input"],
            ),
            (
                format!("model-file={} refine-landmarks=true", fixture_model("landmarks_fixed1.onnx")),
                ["refine-landmarks", "finds 10"],
            ),
            (
                format!("model-file={} model-options=points=feet", fixture_model("landmarks68.onnx")),
                ["model-options", "fraction or signed"],
            ),
        ] {
            let error = try_run(&format!(
                "videotestsrc num-buffers=2 ! video/x-raw,width=160,height=90 ! facelandmarks {properties} ! fakesink"
            ));
            let error = error.expect_err("the pipeline fails");
            for part in parts {
                assert!(error.text.contains(part), "`{part}` is not in: {error}");
            }
        }
    });
}

#[test]
fn refined_landmarks_stay_near_detected_landmarks() {
    with_watchdog(|| {
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
        let faces = |samples: &[gst::Sample]| read_faces(&samples[0]);
        let (plain, refined) = (faces(&pipeline("")), faces(&pipeline("refine-landmarks=true")));
        assert_eq!((plain.len(), refined.len()), (5, 5));
        for (plain, refined) in plain.iter().zip(&refined) {
            assert_eq!((plain.points.len(), plain.rect), (68, refined.rect));
            assert_ne!(plain.landmarks, refined.landmarks);
            let (before, after) = (plain.landmarks.unwrap(), refined.landmarks.unwrap());
            let distances = before.iter().zip(&after).map(|(a, b)| (a.x - b.x).hypot(a.y - b.y));
            assert!(distances.sum::<f32>() / 5.0 < 0.15 * plain.rect.w, "{plain:?} {refined:?}");
        }
    });
}
