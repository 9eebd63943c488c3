//! Face metadata on buffers that pass through elements of GStreamer.

use std::sync::{Arc, Mutex};

use crate::common::{self, face, frame_with_faces, info, with_watchdog};
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::geometry::{Face, Point, Rect};

/// Pushes one frame with `faces` through `elements`. Returns the sample of each `appsink`, sorted
/// by the names of the sinks.
fn push_through(elements: &str, width: u32, height: u32, faces: &[Face]) -> Vec<gst::Sample> {
    common::init();
    let info = info(VideoFormat::I420, width, height);
    let pipeline = gst::parse::launch(&format!("appsrc name=in format=time ! {elements}")).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    source.set_caps(Some(&info.to_caps().unwrap()));
    let samples = Arc::new(Mutex::new(Vec::new()));
    for sink in pipeline.iterate_sinks().into_iter().map(Result::unwrap) {
        let (name, kept) = (sink.name(), Arc::clone(&samples));
        let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
            kept.lock().unwrap().push((name.clone(), sink.pull_sample().map_err(|_| gst::FlowError::Eos)?));
            Ok(gst::FlowSuccess::Ok)
        });
        sink.downcast::<gst_app::AppSink>().unwrap().set_callbacks(callbacks.build());
    }
    pipeline.set_state(gst::State::Playing).unwrap();
    source.push_buffer(frame_with_faces(&info, 0, faces)).unwrap();
    source.end_of_stream().unwrap();
    let bus = pipeline.bus().unwrap();
    let end = bus.timed_pop_filtered(gst::ClockTime::NONE, &[gst::MessageType::Eos, gst::MessageType::Error]);
    assert_eq!(end.unwrap().type_(), gst::MessageType::Eos, "{elements}");
    pipeline.set_state(gst::State::Null).unwrap();
    let mut samples = std::mem::take(&mut *samples.lock().unwrap());
    samples.sort_by(|a, b| a.0.cmp(&b.0));
    samples.into_iter().map(|(_, sample)| sample).collect()
}

/// Pushes one frame with `faces` through `elements` and returns its faces after them.
fn faces_after(elements: &str, width: u32, height: u32, faces: &[Face]) -> Vec<Face> {
    let samples = push_through(&format!("{elements} ! appsink name=out"), width, height, faces);
    let [sample] = samples.as_slice() else { panic!("{} samples", samples.len()) };
    common::read_faces(sample)
}

fn assert_near(faces: &[Face], expected: &[Face], max_distance: f32) {
    assert_eq!(faces.len(), expected.len(), "{faces:?} {expected:?}");
    for (face, expected) in faces.iter().zip(expected) {
        let values = |face: &Face| (face.score, face.track_id, face.parent_id);
        assert_eq!(values(face), values(expected));
        let corners = |rect: Rect| [Point::new(rect.x, rect.y), Point::new(rect.right(), rect.bottom())];
        let points = |face: &Face| [face.landmarks.unwrap().as_slice(), &corners(face.rect)].concat();
        for (point, expected) in points(face).iter().zip(points(expected)) {
            let distance = (point.x - expected.x).abs().max((point.y - expected.y).abs());
            assert!(distance <= max_distance, "{point:?} is not {expected:?}");
        }
    }
}

/// Faces with fractional coordinates: inside the frame, at its corner, partly outside, tiny.
fn faces() -> Vec<Face> {
    vec![
        Face { track_id: Some(7), parent_id: Some(3), ..face(0.99, 200.25, 100.75, 161.5, 203.125) },
        face(0.9, 0.0, 0.0, 40.5, 40.5),
        face(0.8, -30.5, 250.25, 100.0, 120.0),
        face(0.7, 600.4, 330.6, 13.7, 17.2),
    ]
}

#[test]
fn faces_are_unchanged_after_queue_and_format_conversion() {
    with_watchdog(|| {
        for elements in [
            "queue",
            "identity",
            "videoconvert ! video/x-raw,format=RGB",
            "videoconvert ! video/x-raw,format=NV12 ! queue ! videoconvert ! video/x-raw,format=BGRA",
            "videorate ! video/x-raw,framerate=25/1",
        ] {
            assert_near(&faces_after(elements, 640, 360, &faces()), &faces(), 1e-3);
        }
    });
}

#[test]
fn points_scale_with_face_and_keep_roi_id() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let mut buffer = common::frame_with_faces(&info, 0, &faces());
        let before = face_meta::read(&buffer, (640, 360));
        let mut with_points = before.clone();
        for found in &mut with_points.faces {
            found.face.points =
                (0..68).map(|i| Point::new(found.face.rect.x + i as f32 / 7.0, 3.5 * i as f32)).collect();
        }
        face_meta::update(buffer.get_mut().unwrap(), &with_points, (640, 360)).unwrap();
        assert_eq!(face_meta::read(&buffer, (640, 360)), with_points);
        let ids = |faces: &face_meta::FrameFaces| faces.faces.iter().map(|face| face.roi_id).collect::<Vec<_>>();
        assert_eq!(ids(&before), ids(&with_points));

        let faces = with_points.into_faces();
        let scaled = faces_after("videoscale ! video/x-raw,width=320,height=180", 640, 360, &faces);
        for (scaled, face) in scaled.iter().zip(&faces) {
            for (point, expected) in scaled.points.iter().zip(&face.points) {
                assert!((2.0 * point.x - expected.x).abs() < 0.01 && (2.0 * point.y - expected.y).abs() < 0.01);
            }
            assert_eq!(scaled.points.len(), 68);
        }
        let mut without_meta = common::frame(&info, 0);
        assert!(face_meta::update(without_meta.get_mut().unwrap(), &before, (640, 360)).is_err());
    });
}

#[test]
fn meta_contains_head_pose() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let buffer = common::frame_with_faces(&info, 0, &[face(0.9, 100.0, 50.0, 112.0, 112.0)]);
        let meta = gst::meta::CustomMeta::from_buffer(&buffer, face_meta::FRAME_META).unwrap();
        let faces = meta.structure().get::<gst::Array>("faces").unwrap();
        let face = faces[0].get::<gst::Structure>().unwrap();
        let pose = face.get::<gst::Array>("pose").unwrap();
        let angles = pose.iter().map(|angle| angle.get::<f64>().unwrap()).collect::<Vec<_>>();
        // The landmarks are those of a frontal face.
        assert!(angles.len() == 3 && angles.iter().all(|angle| angle.abs() < 1.0), "{angles:?}");
    });
}

#[test]
fn tee_branches_keep_the_faces() {
    with_watchdog(|| {
        let elements =
            "tee name=t ! queue ! appsink name=a t. ! queue ! videoconvert ! video/x-raw,format=RGB ! appsink name=b";
        let samples = push_through(elements, 640, 360, &faces());
        assert_eq!(samples.len(), 2);
        samples.iter().for_each(|sample| assert_near(&common::read_faces(sample), &faces(), 1e-3));
    });
}

#[test]
fn landmarks_scale_with_the_frame() {
    with_watchdog(|| {
        // The last two change the pixel aspect ratio, not the display aspect ratio.
        for (width, height) in [(320, 180), (1920, 1080), (214, 121), (80, 45), (640, 200), (1001, 333)] {
            let scale = |width, height| format!("videoscale ! video/x-raw,width={width},height={height}");
            // Read in the scaled frame, then scaled back here.
            let scaled = faces_after(&scale(width, height), 640, 360, &faces());
            let (x, y) = (640.0 / width as f32, 360.0 / height as f32);
            let back = scaled.iter().map(|face| face.mapped(|p| Point::new(p.x * x, p.y * y))).collect::<Vec<_>>();
            assert_near(&back, &faces(), 0.5);
            // Scaled back by GStreamer.
            let round_trip = format!("{} ! {}", scale(width, height), scale(640, 360));
            assert_near(&faces_after(&round_trip, 640, 360, &faces()), &faces(), 0.5);
        }
    });
}

#[test]
fn changed_display_aspect_ratio_drops_faces() {
    with_watchdog(|| {
        // Borders may have been added, so the positions of the faces are unknown.
        for (width, height) in [(640, 640), (320, 120), (1000, 360)] {
            for borders in [true, false] {
                let caps = format!("video/x-raw,width={width},height={height},pixel-aspect-ratio=1/1");
                let found = faces_after(&format!("videoscale add-borders={borders} ! {caps}"), 640, 360, &faces());
                assert_eq!(found, [], "{width}x{height}");
            }
        }
    });
}

#[test]
fn clipped_roi_drops_its_face() {
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    let mut buffer = frame_with_faces(&info, 0, &[face(0.9, 100.0, 100.0, 80.0, 80.0)]);
    let out = buffer.get_mut().unwrap();
    for mut meta in out.iter_meta_mut::<gst_video::VideoRegionOfInterestMeta>() {
        meta.set_rect((0, 100, 40, 80));
    }
    assert_eq!(face_meta::read(out, (640, 360)).faces, []);
}

#[test]
fn videocrop_drops_or_moves_faces_correctly() {
    with_watchdog(|| {
        // GStreamer 1.22 drops the ROIs. If a version moves them, the landmarks must move, too.
        for (left, top) in [(2, 0), (100, 60), (0, 180)] {
            let elements = format!("videocrop left={left} top={top} ! videoconvert ! video/x-raw,format=RGB");
            let found = faces_after(&elements, 640, 360, &faces()[..1]);
            let moved = faces()[0].mapped(|p| Point::new(p.x - left as f32, p.y - top as f32));
            if !found.is_empty() {
                assert_near(&found, &[moved], 0.5);
            }
        }
    });
}

#[test]
fn moved_roi_moves_its_landmarks() {
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    let mut buffer = frame_with_faces(&info, 0, &[face(0.9, 100.0, 100.0, 80.0, 80.0)]);
    let out = buffer.get_mut().unwrap();
    for mut meta in out.iter_meta_mut::<gst_video::VideoRegionOfInterestMeta>() {
        meta.set_rect((300, 50, 160, 160));
    }
    let found = face_meta::read(out, (640, 360)).faces;
    assert_near(&[found[0].face.clone()], &[face(0.9, 300.0, 50.0, 160.0, 160.0)], 0.01);
}

#[test]
fn roi_moved_by_videocrop_is_not_scaled() {
    // videocrop of GStreamer 1.28 moves the ROIs, and keeps their size in a smaller frame.
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    for left in [2, 50] {
        let mut buffer = frame_with_faces(&info, 0, &faces()[..1]);
        let out = buffer.get_mut().unwrap();
        for mut meta in out.iter_meta_mut::<gst_video::VideoRegionOfInterestMeta>() {
            let (x, y, w, h) = meta.rect();
            meta.set_rect((x - left, y, w, h));
        }
        let found = face_meta::read(out, (640 - left as usize, 360)).faces;
        let moved = faces()[0].mapped(|p| Point::new(p.x - left as f32, p.y));
        assert_near(&[found[0].face.clone()], &[moved], 1e-3);
    }
}

#[test]
fn second_detection_replaces_faces_and_keeps_foreign_rois() {
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    let mut buffer = frame_with_faces(&info, 0, &faces());
    let out = buffer.get_mut().unwrap();
    gst_video::VideoRegionOfInterestMeta::add(out, "car", (1, 2, 30, 40));
    gst_video::VideoRegionOfInterestMeta::add(out, "face", (5, 5, 50, 50)).set_id(-5);
    face_meta::attach(out, &faces()[1..2], (640, 360)).unwrap();
    let found = face_meta::read(out, (640, 360));
    assert_near(&found.faces.iter().map(|found| found.face.clone()).collect::<Vec<_>>(), &faces()[1..2], 1e-3);
    let types = out.iter_meta::<gst_video::VideoRegionOfInterestMeta>().map(|roi| roi.roi_type()).collect::<Vec<_>>();
    assert_eq!(types.len(), 3, "{types:?}");
}

#[test]
fn roi_has_rectangle_and_normalised_detection() {
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    let buffer = frame_with_faces(&info, 0, &[face(0.75, -10.5, 90.0, 74.5, 45.0)]);
    let roi = buffer.meta::<gst_video::VideoRegionOfInterestMeta>().unwrap();
    assert_eq!((roi.roi_type(), roi.rect()), ("face", (0, 90, 64, 45)));
    assert!(roi.id() > 0);
    let detection = roi.param("detection").unwrap();
    let number = |name| detection.get::<f64>(name).unwrap();
    assert_eq!((number("confidence"), number("y_min"), number("y_max")), (0.75, 0.25, 0.375));
    assert!((number("x_min") - -10.5 / 640.0).abs() < 1e-9 && (number("x_max") - 0.1).abs() < 1e-9);
}

#[test]
fn undetected_frame_differs_from_frame_without_faces() {
    common::init();
    let info = info(VideoFormat::I420, 64, 64);
    assert!(!face_meta::read(&common::frame(&info, 0), (64, 64)).state.has_result());
    let empty = face_meta::read(&frame_with_faces(&info, 0, &[]), (64, 64));
    assert!(empty.state.has_result() && empty.faces.is_empty());
}

fn roi_ids(buffer: &gst::BufferRef) -> Vec<i32> {
    buffer.iter_meta::<gst_video::VideoRegionOfInterestMeta>().map(|roi| roi.id()).collect()
}

fn add_foreign_roi(buffer: &mut gst::BufferRef, rect: (u32, u32, u32, u32), id: i32) {
    gst_video::VideoRegionOfInterestMeta::add(buffer, face_meta::ROI_TYPE, rect).set_id(id);
}

#[test]
fn foreign_rois_are_never_matched_to_faces() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 640, 360);
        // The ROIs of the faces stay, or are removed as `videocrop` does.
        for own_rois_stay in [true, false] {
            let mut buffer = frame_with_faces(&info, 0, &faces());
            let out = buffer.get_mut().unwrap();
            let own_ids = roi_ids(out);
            if !own_rois_stay {
                out.foreach_meta_mut(|mut meta| {
                    let roi = meta.downcast_ref::<gst_video::VideoRegionOfInterestMeta>().is_some();
                    std::ops::ControlFlow::Continue(if roi {
                        gst::buffer::BufferMetaForeachAction::Remove
                    } else {
                        gst::buffer::BufferMetaForeachAction::Keep
                    })
                });
            }
            // Another detector numbers its ROIs from 1, and has found the same rectangle.
            for id in 1..=1000 {
                add_foreign_roi(out, (200, 100, 162, 204), id);
            }
            assert!(own_ids.iter().all(|id| *id > 1000), "{own_ids:?}");
            let found = face_meta::read(out, (640, 360));
            if own_rois_stay {
                assert_near(&found.clone().into_faces(), &faces(), 1e-3);
                assert_eq!(found.lost, 0);
            } else {
                assert_eq!((found.state.has_result(), found.faces, found.lost), (true, vec![], 4));
            }
        }
    });
}

#[test]
fn duplicate_roi_id_drops_the_face() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let mut buffer = frame_with_faces(&info, 0, &faces());
        let out = buffer.get_mut().unwrap();
        let ids = roi_ids(out);
        add_foreign_roi(out, (300, 20, 50, 50), ids[1]);
        let found = face_meta::read(out, (640, 360));
        assert_eq!((found.faces.len(), found.lost), (3, 1));
        assert!(found.faces.iter().all(|face| face.roi_id != ids[1]));
    });
}

#[test]
fn copied_roi_keeps_the_face() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let mut buffer = frame_with_faces(&info, 0, &faces());
        let out = buffer.get_mut().unwrap();
        let rois = out.iter_meta::<gst_video::VideoRegionOfInterestMeta>().map(|roi| (roi.rect(), roi.id()));
        for (rect, id) in rois.collect::<Vec<_>>() {
            add_foreign_roi(out, rect, id);
        }
        let found = face_meta::read(out, (640, 360));
        assert_eq!(found.lost, 0);
        assert_near(&found.into_faces(), &faces(), 1e-3);
    });
}

#[test]
fn roi_ids_are_unique_and_large() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let mut ids =
            (0..50).flat_map(|number| roi_ids(&frame_with_faces(&info, number, &faces()))).collect::<Vec<_>>();
        assert!(ids.iter().all(|id| *id >= 1 << 30));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 200);
    });
}

#[test]
fn lost_faces_are_counted() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let read = |buffer: &gst::BufferRef, size: (usize, usize)| {
            let found = face_meta::read(buffer, size);
            (found.state.has_result(), found.faces.len(), found.lost)
        };
        assert_eq!(read(&common::frame(&info, 0), (640, 360)), (false, 0, 0));
        assert_eq!(read(&frame_with_faces(&info, 0, &[]), (640, 360)), (true, 0, 0));
        assert_eq!(read(&frame_with_faces(&info, 0, &faces()), (640, 360)), (true, 4, 0));
        // A clipped ROI, and a later update of the other faces.
        let mut buffer = frame_with_faces(&info, 0, &faces());
        let out = buffer.get_mut().unwrap();
        common::clip_roi(out, 0);
        assert_eq!(read(out, (640, 360)), (true, 3, 1));
        let kept = face_meta::read(out, (640, 360));
        face_meta::update(out, &kept, (640, 360)).unwrap();
        assert_eq!(read(out, (640, 360)), (true, 3, 1));
        // A new detection resets the count.
        face_meta::attach(out, &faces()[..1], (640, 360)).unwrap();
        assert_eq!(read(out, (640, 360)), (true, 1, 0));
        // Damaged metadata counts as a lost face, not as a frame without faces.
        let mut meta = gst::meta::CustomMeta::from_mut_buffer(out, face_meta::FRAME_META).unwrap();
        meta.mut_structure().remove_field("faces");
        assert_eq!(read(out, (640, 360)), (true, 0, 1));
    });
}

#[test]
fn faces_lost_by_videocrop_are_counted() {
    with_watchdog(|| {
        let count = |elements: &str| {
            let samples = push_through(&format!("{elements} ! appsink name=out"), 640, 360, &faces());
            let info = gst_video::VideoInfo::from_caps(samples[0].caps().unwrap()).unwrap();
            let size = (info.width() as usize, info.height() as usize);
            let found = face_meta::read(samples[0].buffer().unwrap(), size);
            (found.faces.len(), found.lost)
        };
        let (kept, lost) = count("videocrop left=100 top=60");
        assert_eq!(kept + lost, 4);
        // Another aspect ratio: videoscale may have added borders.
        assert_eq!(count("videoscale ! video/x-raw,width=640,height=640,pixel-aspect-ratio=1/1"), (0, 4));
    });
}

/// The warnings of a pipeline of one frame with five faces.
fn warnings_of(elements: &str) -> Vec<String> {
    let source = format!("filesrc location={} ! jpegdec ! retinaface", common::clip("multi_face.jpg"));
    let pipeline = gst::parse::launch(&format!("{source} ! {elements} ! fakesink")).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut warnings = Vec::new();
    for message in pipeline.bus().unwrap().iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => panic!("{elements}: {error:?}"),
            gst::MessageView::Warning(warning) => warnings.push(warning.error().to_string()),
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    warnings
}

#[test]
fn each_element_that_reads_lost_faces_warns_once_and_says_where_it_belongs() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let publish = format!("facemetapublish name=reader location={}", common::quoted(&directory.path().join("f")));
        let model = common::quoted(&common::project::root().join("tests/fixtures/models/landmarks68.onnx"));
        let landmarks = format!("facelandmarks name=reader model-file={model}");
        let readers = [
            (publish.as_str(), "published"),
            ("facealign name=reader", "aligned"),
            ("facemetaoverlay name=reader", "drawn"),
            (landmarks.as_str(), "given points"),
        ];
        for (reader, use_of_faces) in readers {
            // Two frames, one warning.
            let elements = format!("imagefreeze num-buffers=2 ! videoflip video-direction=horiz ! {reader}");
            let warnings = warnings_of(&elements);
            let [warning] = warnings.as_slice() else { panic!("{reader}: {warnings:?}") };
            let expected = format!("5 of 5 faces of a frame have lost their position and are not {use_of_faces}");
            assert!(warning.contains(&expected) && warning.contains("put reader before"), "{warning}");
            assert_eq!(warnings_of(&format!("queue ! {reader}")), [""; 0]);
        }
    });
}

#[test]
fn a_frame_that_another_element_moved_is_published_with_lost_faces_and_no_age() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("faces.jsonl");
        let publish = format!("facemetapublish location={}", common::quoted(&file));
        let directions = ["horiz", "vert", "90r", "90l", "180", "ul-lr", "ur-ll"];
        let flips = directions.map(|direction| format!("videoflip video-direction={direction}"));
        let others = [
            "videocrop left=10",
            "videobox left=-20",
            "aspectratiocrop aspect-ratio=1/1",
            "videoscale add-borders=true ! video/x-raw,width=600,height=600,pixel-aspect-ratio=1/1",
            "videoscale add-borders=false ! video/x-raw,width=600,height=600,pixel-aspect-ratio=1/1",
        ];
        for elements in flips.iter().map(String::as_str).chain(others) {
            let warnings = warnings_of(&format!("{elements} ! {publish}"));
            assert_eq!(warnings.len(), 1, "{elements}");
            let line = std::fs::read_to_string(&file).unwrap();
            assert!(line.contains(r#""age_ns":null,"lost":5,"faces":[]"#), "{elements}: {line}");
        }
    });
}

#[test]
fn the_age_is_known_while_a_face_is_left() {
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    let mut buffer = frame_with_faces(&info, 0, &faces()[..2]);
    let out = buffer.get_mut().unwrap();
    let read = |buffer: &gst::BufferRef| {
        let found = face_meta::read(buffer, (640, 360));
        (found.known_age(), found.lost)
    };
    common::clip_roi(out, 0);
    assert_eq!(read(out), (Some(std::time::Duration::ZERO), 1));
    common::clip_roi(out, 1);
    assert_eq!(read(out), (None, 2));
    assert_eq!(read(&frame_with_faces(&info, 0, &[])), (Some(std::time::Duration::ZERO), 0));
}

#[test]
fn frames_that_never_carry_a_detection_result_are_reported_once() {
    with_watchdog(|| {
        let count = |detected: u64| {
            let mut harness = gst_check::Harness::new("facemetaoverlay");
            let bus = gst::Bus::new();
            harness.element().unwrap().set_bus(Some(&bus));
            let info = info(VideoFormat::I420, 64, 64);
            harness.set_src_caps(info.to_caps().unwrap());
            for number in 0..700 {
                let frame = if number == detected {
                    frame_with_faces(&info, number, &[])
                } else {
                    common::frame(&info, number)
                };
                harness.push_and_pull(frame).unwrap();
            }
            let warnings = common::warnings(&bus);
            assert!(warnings.iter().all(|warning| warning.contains("put `retinaface` before")), "{warnings:?}");
            warnings.len()
        };
        assert_eq!(count(1000), 1);
        assert_eq!(count(299), 0, "a detector that analyses few frames");
    });
}
