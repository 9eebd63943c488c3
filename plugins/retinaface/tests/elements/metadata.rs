//! Faces on buffers, through the elements that stand between ours.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::face::{Face, Point, Rect};

mod common;
use common::{face, frame_with, info, watched};

/// Pushes one frame of `width` x `height` with `faces` through `elements`; gives what comes out of each
/// `appsink`, in the order of their names.
fn through(elements: &str, width: u32, height: u32, faces: &[Face]) -> Vec<gst::Sample> {
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
    source.push_buffer(frame_with(&info, 0, faces)).unwrap();
    source.end_of_stream().unwrap();
    let bus = pipeline.bus().unwrap();
    let end =
        bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Eos, gst::MessageType::Error]);
    assert_eq!(end.unwrap().type_(), gst::MessageType::Eos, "{elements}");
    pipeline.set_state(gst::State::Null).unwrap();
    let mut samples = std::mem::take(&mut *samples.lock().unwrap());
    samples.sort_by(|a, b| a.0.cmp(&b.0));
    samples.into_iter().map(|(_, sample)| sample).collect()
}

fn one(elements: &str, width: u32, height: u32, faces: &[Face]) -> Vec<Face> {
    let samples = through(&format!("{elements} ! appsink name=out"), width, height, faces);
    let [sample] = samples.as_slice() else { panic!("{} samples", samples.len()) };
    common::faces_on(sample)
}

fn assert_near(is: &[Face], should: &[Face], most: f32) {
    assert_eq!(is.len(), should.len(), "{is:?} {should:?}");
    for (is, should) in is.iter().zip(should) {
        assert_eq!((is.score, is.track_id), (should.score, should.track_id));
        let corners = |rect: Rect| [Point::new(rect.x, rect.y), Point::new(rect.right(), rect.bottom())];
        let all = |face: &Face| [face.landmarks.unwrap().as_slice(), &corners(face.rect)].concat();
        for (is, should) in all(is).iter().zip(all(should)) {
            let off = (is.x - should.x).abs().max((is.y - should.y).abs());
            assert!(off <= most, "{is:?} is not {should:?}");
        }
    }
}

/// Faces with fractional coordinates: within, at an edge, reaching outside, tiny.
fn faces() -> Vec<Face> {
    vec![
        Face { track_id: Some(7), ..face(0.99, 200.25, 100.75, 161.5, 203.125) },
        face(0.9, 0.0, 0.0, 40.5, 40.5),
        face(0.8, -30.5, 250.25, 100.0, 120.0),
        face(0.7, 600.4, 330.6, 13.7, 17.2),
    ]
}

#[test]
fn faces_come_through_queue_and_format_changes_unchanged() {
    watched(|| {
        for elements in [
            "queue",
            "identity",
            "videoconvert ! video/x-raw,format=RGB",
            "videoconvert ! video/x-raw,format=NV12 ! queue ! videoconvert ! video/x-raw,format=BGRA",
            "videorate ! video/x-raw,framerate=25/1",
        ] {
            assert_near(&one(elements, 640, 360, &faces()), &faces(), 1e-3);
        }
    });
}

#[test]
fn points_are_rescaled_with_the_face_and_added_without_a_new_identity() {
    watched(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let mut buffer = common::frame_with(&info, 0, &faces());
        let before = gstretinaface::meta::read(&buffer, (640, 360));
        let mut with_points = before.clone();
        for found in &mut with_points.faces {
            found.face.points =
                (0..68).map(|i| Point::new(found.face.rect.x + i as f32 / 7.0, 3.5 * i as f32)).collect();
        }
        gstretinaface::meta::update(buffer.get_mut().unwrap(), &with_points, (640, 360)).unwrap();
        assert_eq!(gstretinaface::meta::read(&buffer, (640, 360)), with_points);
        let ids =
            |faces: &gstretinaface::meta::FrameFaces| faces.faces.iter().map(|face| face.roi_id).collect::<Vec<_>>();
        assert_eq!(ids(&before), ids(&with_points));

        let faces = with_points.into_faces();
        let small = one("videoscale ! video/x-raw,width=320,height=180", 640, 360, &faces);
        for (small, face) in small.iter().zip(&faces) {
            for (is, should) in small.points.iter().zip(&face.points) {
                assert!((2.0 * is.x - should.x).abs() < 0.01 && (2.0 * is.y - should.y).abs() < 0.01);
            }
            assert_eq!(small.points.len(), 68);
        }
        let mut bare = common::frame(&info, 0);
        assert!(gstretinaface::meta::update(bare.get_mut().unwrap(), &before, (640, 360)).is_err());
    });
}

#[test]
fn the_meta_says_the_heads_pose() {
    watched(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let buffer = common::frame_with(&info, 0, &[face(0.9, 100.0, 50.0, 112.0, 112.0)]);
        let meta = gst::meta::CustomMeta::from_buffer(&buffer, gstretinaface::meta::FRAME_META).unwrap();
        let faces = meta.structure().get::<gst::Array>("faces").unwrap();
        let face = faces[0].get::<gst::Structure>().unwrap();
        let pose = face.get::<gst::Array>("pose").unwrap();
        let angles = pose.iter().map(|angle| angle.get::<f64>().unwrap()).collect::<Vec<_>>();
        // Its landmarks are those of a face that looks straight ahead.
        assert!(angles.len() == 3 && angles.iter().all(|angle| angle.abs() < 1.0), "{angles:?}");
    });
}

#[test]
fn each_branch_of_a_tee_has_the_faces() {
    watched(|| {
        let elements =
            "tee name=t ! queue ! appsink name=a t. ! queue ! videoconvert ! video/x-raw,format=RGB ! appsink name=b";
        let samples = through(elements, 640, 360, &faces());
        assert_eq!(samples.len(), 2);
        samples.iter().for_each(|sample| assert_near(&common::faces_on(sample), &faces(), 1e-3));
    });
}

#[test]
fn landmarks_land_on_the_same_pixel_after_scaling_however_small_the_frame_was_between() {
    watched(|| {
        // The last two change the shape of pixels, not of the picture.
        for (width, height) in [(320, 180), (1920, 1080), (214, 121), (80, 45), (640, 200), (1001, 333)] {
            let scale = |width, height| format!("videoscale ! video/x-raw,width={width},height={height}");
            // Read in the scaled frame and scaled back by hand.
            let scaled = one(&scale(width, height), 640, 360, &faces());
            let (x, y) = (640.0 / width as f32, 360.0 / height as f32);
            let back = scaled.iter().map(|face| face.mapped(|p| Point::new(p.x * x, p.y * y))).collect::<Vec<_>>();
            assert_near(&back, &faces(), 0.5);
            // Scaled back by GStreamer.
            let there_and_back = format!("{} ! {}", scale(width, height), scale(640, 360));
            assert_near(&one(&there_and_back, 640, 360, &faces()), &faces(), 0.5);
        }
    });
}

#[test]
fn a_change_of_the_pictures_shape_drops_faces_since_it_may_have_added_borders() {
    watched(|| {
        for (width, height) in [(640, 640), (320, 120), (1000, 360)] {
            for borders in [true, false] {
                let caps = format!("video/x-raw,width={width},height={height},pixel-aspect-ratio=1/1");
                let found = one(&format!("videoscale add-borders={borders} ! {caps}"), 640, 360, &faces());
                assert_eq!(found, [], "{width}x{height}");
            }
        }
    });
}

#[test]
fn a_rectangle_that_was_cut_off_drops_its_face() {
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    let mut buffer = frame_with(&info, 0, &[face(0.9, 100.0, 100.0, 80.0, 80.0)]);
    let out = buffer.get_mut().unwrap();
    for mut meta in out.iter_meta_mut::<gst_video::VideoRegionOfInterestMeta>() {
        meta.set_rect((0, 100, 40, 80));
    }
    assert_eq!(gstretinaface::meta::read(out, (640, 360)).faces, []);
}

#[test]
fn a_crop_drops_faces_and_never_misplaces_them() {
    watched(|| {
        // GStreamer 1.22 drops the rectangles; a version that moves them must move the landmarks, too.
        for (left, top) in [(2, 0), (100, 60), (0, 180)] {
            let elements = format!("videocrop left={left} top={top} ! videoconvert ! video/x-raw,format=RGB");
            let found = one(&elements, 640, 360, &faces()[..1]);
            let moved = faces()[0].mapped(|p| Point::new(p.x - left as f32, p.y - top as f32));
            if !found.is_empty() {
                assert_near(&found, &[moved], 0.5);
            }
        }
    });
}

#[test]
fn a_rectangle_that_someone_moved_takes_its_landmarks_along() {
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    let mut buffer = frame_with(&info, 0, &[face(0.9, 100.0, 100.0, 80.0, 80.0)]);
    let out = buffer.get_mut().unwrap();
    for mut meta in out.iter_meta_mut::<gst_video::VideoRegionOfInterestMeta>() {
        meta.set_rect((300, 50, 160, 160));
    }
    let found = gstretinaface::meta::read(out, (640, 360)).faces;
    assert_near(&[found[0].face.clone()], &[face(0.9, 300.0, 50.0, 160.0, 160.0)], 0.01);
}

#[test]
fn a_crop_that_keeps_rectangles_is_not_taken_for_a_scaling() {
    // As GStreamer 1.28's videocrop leaves them: moved, of the same size, in a smaller frame.
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    for left in [2, 50] {
        let mut buffer = frame_with(&info, 0, &faces()[..1]);
        let out = buffer.get_mut().unwrap();
        for mut meta in out.iter_meta_mut::<gst_video::VideoRegionOfInterestMeta>() {
            let (x, y, w, h) = meta.rect();
            meta.set_rect((x - left, y, w, h));
        }
        let found = gstretinaface::meta::read(out, (640 - left as usize, 360)).faces;
        let moved = faces()[0].mapped(|p| Point::new(p.x - left as f32, p.y));
        assert_near(&[found[0].face.clone()], &[moved], 1e-3);
    }
}

#[test]
fn a_second_detection_replaces_the_first_and_leaves_strangers_alone() {
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    let mut buffer = frame_with(&info, 0, &faces());
    let out = buffer.get_mut().unwrap();
    gst_video::VideoRegionOfInterestMeta::add(out, "car", (1, 2, 30, 40));
    gst_video::VideoRegionOfInterestMeta::add(out, "face", (5, 5, 50, 50)).set_id(-5);
    gstretinaface::meta::attach(out, &faces()[1..2], (640, 360)).unwrap();
    let found = gstretinaface::meta::read(out, (640, 360));
    assert_near(&found.faces.iter().map(|found| found.face.clone()).collect::<Vec<_>>(), &faces()[1..2], 1e-3);
    let types = out.iter_meta::<gst_video::VideoRegionOfInterestMeta>().map(|roi| roi.roi_type()).collect::<Vec<_>>();
    assert_eq!(types.len(), 3, "{types:?}");
}

#[test]
fn other_programs_see_a_rectangle_and_a_normalised_detection() {
    common::init();
    let info = info(VideoFormat::I420, 640, 360);
    let buffer = frame_with(&info, 0, &[face(0.75, -10.5, 90.0, 74.5, 45.0)]);
    let roi = buffer.meta::<gst_video::VideoRegionOfInterestMeta>().unwrap();
    assert_eq!((roi.roi_type(), roi.rect()), ("face", (0, 90, 64, 45)));
    assert!(roi.id() > 0);
    let detection = roi.param("detection").unwrap();
    let number = |name| detection.get::<f64>(name).unwrap();
    assert_eq!((number("confidence"), number("y_min"), number("y_max")), (0.75, 0.25, 0.375));
    assert!((number("x_min") - -10.5 / 640.0).abs() < 1e-9 && (number("x_max") - 0.1).abs() < 1e-9);
}

#[test]
fn a_frame_nobody_looked_at_differs_from_one_without_faces() {
    common::init();
    let info = info(VideoFormat::I420, 64, 64);
    assert!(!gstretinaface::meta::read(&common::frame(&info, 0), (64, 64)).detected);
    let empty = gstretinaface::meta::read(&frame_with(&info, 0, &[]), (64, 64));
    assert!(empty.detected && empty.faces.is_empty());
}
