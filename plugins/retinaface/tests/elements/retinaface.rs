//! The element `retinaface`.

use crate::common::{self, clip, fixture_model, info, project, quoted, run, with_watchdog};
use crate::frames;
use crate::start_errors::assert_contains;
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::geometry::{Face, Point};

fn harness(properties: &str) -> gst_check::Harness {
    common::init();
    gst_check::Harness::new_parse(&format!(
        "retinaface name=it model-file={} {properties}",
        quoted(&project::default_model())
    ))
}

/// The element in the bin of the harness.
fn element(harness: &gst_check::Harness) -> gst::Element {
    harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("it").unwrap()
}

/// The faces of multi_face.jpg after `elements`.
fn photo_faces(elements: &str) -> Vec<Face> {
    let photo = clip("multi_face.jpg");
    let samples = run(&format!("filesrc location={photo} ! jpegdec ! videoconvert ! {elements} ! appsink name=out"));
    let [sample] = samples.as_slice() else { panic!("{} samples", samples.len()) };
    common::read_faces(sample)
}

/// Asserts that each expected face has a face with all landmarks within `max_distance` pixels.
fn assert_same_faces(name: &str, faces: &[Face], expected: &[Face], max_distance: f32) {
    assert_eq!(faces.len(), expected.len(), "{name}: {faces:?}");
    for expected in expected {
        let distance = |face: &Face| {
            let pairs = face.landmarks.unwrap().into_iter().zip(expected.landmarks.unwrap());
            pairs.map(|(a, b)| (a.x - b.x).abs().max((a.y - b.y).abs())).fold(0.0, f32::max)
        };
        let nearest = faces.iter().map(distance).fold(f32::INFINITY, f32::min);
        assert!(nearest <= max_distance, "{name}: the nearest face is {nearest} px from {expected:?}");
    }
}

#[test]
fn all_formats_give_the_same_faces() {
    with_watchdog(|| {
        let expected = photo_faces("video/x-raw,format=BGR ! retinaface");
        assert_eq!(expected.len(), 5);
        let photo = &run(&format!(
            "filesrc location={} ! jpegdec ! videoconvert ! video/x-raw,format=BGR ! appsink name=out",
            clip("multi_face.jpg")
        ))[0];
        // One element takes the formats one after the other.
        let mut detector = gst_check::Harness::new_parse("retinaface");
        for format in frames::formats() {
            let name = format.to_str();
            // Without colour the model input differs more, and so do the landmarks.
            let max_distance = if name.starts_with("GRAY") || name == "RGB8P" { 6.0 } else { 1.5 };
            let mut convert =
                gst_check::Harness::new_parse(&format!("videoconvert ! capsfilter caps=video/x-raw,format={name}"));
            convert.set_src_caps(photo.caps_owned().unwrap());
            let frame = convert.push_and_pull(photo.buffer_owned().unwrap()).unwrap();
            let caps = convert.sinkpad().unwrap().current_caps().unwrap();
            detector.set_src_caps(caps.clone());
            let frame = detector.push_and_pull(frame).unwrap();
            let faces = common::read_faces(&gst::Sample::builder().buffer(&frame).caps(&caps).build());
            assert_same_faces(name, &faces, &expected, max_distance);
        }
    });
}

#[test]
fn odd_and_portrait_frames_give_frame_coordinates() {
    with_watchdog(|| {
        let expected = photo_faces("video/x-raw,format=BGR ! retinaface input-size=0");
        let check = |elements: &str, transform: &dyn Fn(Point) -> Point, max_distance: f32| {
            let moved = expected.iter().map(|face| face.mapped(transform)).collect::<Vec<_>>();
            for format in ["NV12", "I420", "RGB", "BGRA"] {
                let elements = format!("{elements},format={format},pixel-aspect-ratio=1/1 ! retinaface input-size=0");
                assert_same_faces(&elements, &photo_faces(&elements), &moved, max_distance);
            }
        };
        for (width, height) in [(999, 667), (501, 333), (667, 445)] {
            let (x, y) = (width as f32 / 1000.0, height as f32 / 667.0);
            let elements = format!("videoscale add-borders=false ! video/x-raw,width={width},height={height}");
            // Scaling changes the model input, so landmarks differ by a few pixels. A shift or a
            // shear would differ more.
            check(&elements, &|p| Point::new(p.x * x, p.y * y), 8.0);
        }
        // Portrait, with black bars above and below.
        let elements = "videobox top=-301 bottom=-400 ! videoconvert ! video/x-raw,width=1000,height=1368";
        check(elements, &|p| Point::new(p.x, p.y + 301.0), 4.0);
    });
}

#[test]
fn crop_meta_offsets_the_faces() {
    with_watchdog(|| {
        let expected = photo_faces("video/x-raw,format=NV12 ! retinaface input-size=0");
        // As from videocrop: the full frame with a crop meta.
        let info = info(VideoFormat::Nv12, 1000, 667);
        let photo = clip("multi_face.jpg");
        let sample = run(&format!(
            "filesrc location={photo} ! jpegdec ! videoconvert ! video/x-raw,format=NV12 ! appsink name=out"
        ));
        let mut buffer = sample[0].buffer_owned().unwrap();
        let out = buffer.make_mut();
        let strides = info.stride().to_vec();
        gst_video::VideoMeta::add_full(
            out,
            gst_video::VideoFrameFlags::empty(),
            VideoFormat::Nv12,
            1000,
            667,
            info.offset(),
            &strides,
        )
        .unwrap();
        gst_video::VideoCropMeta::add(out, (150, 40, 700, 500));
        let mut harness = harness("input-size=0");
        harness.set_src_caps(common::info(VideoFormat::Nv12, 700, 500).to_caps().unwrap());
        let out = harness.push_and_pull(buffer).unwrap();
        let found = face_meta::read(&out, (700, 500)).faces;
        let found = found.into_iter().map(|found| found.face).collect::<Vec<_>>();
        let moved =
            expected.iter().map(|face| face.mapped(|p| Point::new(p.x - 150.0, p.y - 40.0))).collect::<Vec<_>>();
        assert_same_faces("crop", &found, &moved, 6.0);
        // The overlay draws only inside the crop rectangle.
        let mut overlay = gst_check::Harness::new("facemetaoverlay");
        overlay.set_src_caps(common::info(VideoFormat::Nv12, 700, 500).to_caps().unwrap());
        let drawn = overlay.push_and_pull(out).unwrap();
        let (before, after) = (sample[0].buffer().unwrap().map_readable().unwrap(), drawn.map_readable().unwrap());
        let rows = before.chunks(1000).zip(after.chunks(1000)).take(667).enumerate();
        for (row, (before, after)) in rows {
            let inside = (40..540).contains(&row);
            assert_eq!(before[..150], after[..150], "left of the crop, row {row}");
            assert_eq!(before[850..], after[850..], "right of the crop, row {row}");
            assert!(inside || before == after, "row {row}");
        }
        assert_ne!(before.as_slice(), after.as_slice());
    });
}

#[test]
fn row_padding_does_not_change_faces() {
    with_watchdog(|| {
        let photo = clip("single_face.jpg");
        let sample = &run(&format!(
            "filesrc location={photo} ! jpegdec ! videoconvert ! video/x-raw,format=RGB ! appsink name=out"
        ))[0];
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        let (width, height, stride) = (info.width() as usize, info.height() as usize, info.stride()[0] as usize);
        let faces = |padding: usize| {
            let map = sample.buffer().unwrap().map_readable().unwrap();
            let rows = map.chunks(stride).take(height).map(|row| [&row[..3 * width], &vec![0xEE; padding]].concat());
            let mut buffer = gst::Buffer::from_mut_slice(rows.collect::<Vec<_>>().concat());
            let strides = [(3 * width + padding) as i32];
            let flags = gst_video::VideoFrameFlags::empty();
            let out = buffer.get_mut().unwrap();
            gst_video::VideoMeta::add_full(out, flags, VideoFormat::Rgb, info.width(), info.height(), &[0], &strides)
                .unwrap();
            let mut harness = harness("");
            harness.set_src_caps(sample.caps_owned().unwrap());
            let out = harness.push_and_pull(buffer).unwrap();
            face_meta::read(&out, (width, height)).faces.into_iter().map(|found| found.face).collect::<Vec<_>>()
        };
        let expected = faces(0);
        assert_eq!(expected.len(), 1);
        for padding in [1, 7, 64, 1000] {
            assert_eq!(faces(padding), expected, "{padding} bytes of padding");
        }
    });
}

#[test]
fn video_meta_beyond_buffer_size_is_an_error() {
    with_watchdog(|| {
        let info = info(VideoFormat::Nv12, 64, 64);
        let size = info.size();
        for (width, height, offset, stride) in [
            (64, 64, [0, 64 * 64], [64, 6400]),
            (64, 64, [0, size], [64, 64]),
            (64, 6400, [0, 64 * 64], [64, 64]),
            (64, 64, [usize::MAX - 10, 64 * 64], [64, 64]),
            (64, 64, [0, 64 * 64], [-64, 64]),
            (64, 64, [0, 64 * 64], [16, 64]),
            (32, 32, [0, 64 * 64], [64, 64]),
        ] {
            for element in ["retinaface", "facealign", "facemetaoverlay"] {
                let mut buffer = common::frame_with_faces(&info, 0, &[common::face(0.9, 10.0, 10.0, 40.0, 40.0)]);
                let flags = gst_video::VideoFrameFlags::empty();
                let out = buffer.get_mut().unwrap();
                // GStreamer refuses to attach some of these metas.
                if gst_video::VideoMeta::add_full(out, flags, VideoFormat::Nv12, width, height, &offset, &stride)
                    .is_err()
                {
                    continue;
                }
                let mut harness = gst_check::Harness::new(element);
                harness.set_src_caps(info.to_caps().unwrap());
                assert_eq!(
                    harness.push(buffer),
                    Err(gst::FlowError::Error),
                    "{element} {width}x{height} {offset:?} {stride:?}"
                );
            }
        }
    });
}

#[test]
fn frames_from_16x16_to_8k_are_processed() {
    with_watchdog(|| {
        for (format, width, height) in [
            (VideoFormat::Nv12, 16, 16),
            (VideoFormat::I420, 17, 23),
            (VideoFormat::Gray8, 16, 2000),
            (VideoFormat::Rgb, 2000, 16),
            (VideoFormat::Nv12, 7680, 4320),
            (VideoFormat::Bgra, 4320, 7680),
        ] {
            let info = info(format, width, height);
            let mut harness = harness("input-size=160");
            harness.set_src_caps(info.to_caps().unwrap());
            let out = harness.push_and_pull(common::frame(&info, 0)).unwrap();
            assert!(face_meta::read(&out, (width as usize, height as usize)).state.has_result(), "{info:?}");
        }
    });
}

#[test]
fn pixels_shared_by_tee_are_not_copied() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let mut harness = harness("");
        harness.set_src_caps(info.to_caps().unwrap());
        let buffer = common::frame(&info, 3);
        let other_branch = buffer.clone();
        let out = harness.push_and_pull(buffer).unwrap();
        assert!(face_meta::read(&out, (640, 360)).state.has_result());
        assert!(!face_meta::read(&other_branch, (640, 360)).state.has_result(), "the other branch has no metadata");
        let address = |buffer: &gst::Buffer| buffer.map_readable().unwrap().as_ptr();
        assert_eq!(address(&out), address(&other_branch), "both buffers share their memory");
        assert_eq!((out.pts(), out.duration()), (other_branch.pts(), other_branch.duration()));
    });
}

#[test]
fn detection_properties_apply_and_change_in_playing() {
    with_watchdog(|| {
        let all = photo_faces("video/x-raw,format=I420 ! retinaface");
        let best = photo_faces("video/x-raw,format=I420 ! retinaface max-faces=2");
        assert_eq!(best, all[..2]);
        let large = photo_faces("video/x-raw,format=I420 ! retinaface min-face-size=85");
        assert!(!large.is_empty() && large.len() < all.len());
        assert!(large.iter().all(|face| face.rect.w.min(face.rect.h) >= 85.0));
        assert_eq!(photo_faces("video/x-raw,format=I420 ! retinaface score-threshold=1"), []);
        assert!(photo_faces("video/x-raw,format=I420 ! retinaface score-threshold=0.02 iou-threshold=1").len() > 20);

        let sample = &run(&format!("filesrc location={} ! jpegdec ! appsink name=out", clip("multi_face.jpg")))[0];
        let mut harness = harness("");
        harness.set_src_caps(sample.caps_owned().unwrap());
        let count = |harness: &mut gst_check::Harness| {
            let out = harness.push_and_pull(sample.buffer_owned().unwrap()).unwrap();
            face_meta::read(&out, (1000, 667)).faces.len()
        };
        assert_eq!(count(&mut harness), 5);
        element(&harness).set_property("max-faces", 1u32);
        assert_eq!(count(&mut harness), 1);
    });
}

#[test]
fn inference_interval_skips_frames_and_stats_count_them() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 320, 180);
        // `threads=5` gives this test its own model: streams that share a model take turns.
        let mut harness = harness("inference-interval=3 threads=5");
        harness.set_src_caps(info.to_caps().unwrap());
        let detected = (0..7).map(|number| {
            let out = harness.push_and_pull(common::frame(&info, number)).unwrap();
            face_meta::read(&out, (320, 180)).state.has_result()
        });
        assert_eq!(detected.collect::<Vec<_>>(), [true, false, false, true, false, false, true]);
        let element = element(&harness);
        let stats = element.property::<gst::Structure>("stats");
        let count = |name| stats.get::<u64>(name).unwrap();
        assert_eq!((count("frames"), count("inferred"), count("skipped")), (7, 3, 4));
        assert!(count("inference-time") > 0 && count("preprocess-time") > 0 && count("decode-time") > 0);
        assert_eq!(element.property::<Option<String>>("active-provider").as_deref(), Some("cpu"));
        element.set_state(gst::State::Null).unwrap();
        assert_eq!(element.property::<Option<String>>("active-provider"), None);
    });
}

#[test]
fn latency_query_includes_element_latency() {
    with_watchdog(|| {
        let latency = |properties: &str| {
            let info = info(VideoFormat::I420, 640, 360);
            let mut harness = harness(properties);
            harness.set_upstream_latency(gst::ClockTime::from_mseconds(100));
            harness.set_src_caps(info.to_caps().unwrap());
            harness.push_and_pull(common::frame(&info, 0)).unwrap();
            harness.query_latency().unwrap().mseconds()
        };
        let unbatched = latency("");
        assert!(unbatched > 100 && unbatched < 10_000, "{unbatched} ms");
        let batched = latency("batch-size=4 batch-timeout=3000");
        assert!(batched >= 3100, "{batched} ms");
    });
}

#[test]
fn timestamps_flush_and_eos_are_forwarded() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 160, 90);
        let mut harness = harness("");
        harness.set_src_caps(info.to_caps().unwrap());
        harness.push_and_pull(common::frame(&info, 0)).unwrap();
        assert!(harness.push_event(gst::event::FlushStart::new()));
        assert_eq!(harness.push(common::frame(&info, 1)), Err(gst::FlowError::Flushing));
        assert!(harness.push_event(gst::event::FlushStop::new(true)));
        assert!(harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())));
        let out = harness.push_and_pull(common::frame(&info, 2)).unwrap();
        assert_eq!(out.pts(), Some(gst::ClockTime::from_mseconds(80)));
        assert!(harness.push_event(gst::event::Eos::new()));
        let mut last = None;
        while let Some(event) = harness.try_pull_event() {
            last = Some(event.type_());
        }
        assert_eq!(last, Some(gst::EventType::Eos));
    });
}

#[test]
fn caps_can_change_in_playing() {
    with_watchdog(|| {
        let mut harness = harness("");
        for (number, (format, width, height)) in
            [(VideoFormat::I420, 320, 180), (VideoFormat::Rgb, 181, 321), (VideoFormat::Nv12, 640, 360)]
                .into_iter()
                .enumerate()
        {
            let info = info(format, width, height);
            harness.set_src_caps(info.to_caps().unwrap());
            let out = harness.push_and_pull(common::frame(&info, number as u64)).unwrap();
            assert!(face_meta::read(&out, (width as usize, height as usize)).state.has_result());
        }
    });
}

#[test]
fn all_layouts_run_in_a_pipeline() {
    with_watchdog(|| {
        for (name, landmarks) in
            [("insightface.onnx", true), ("scrfd.onnx", true), ("yunet.onnx", true), ("ssh.onnx", false)]
        {
            let samples = common::run(&format!(
                "videotestsrc pattern=white num-buffers=2 ! video/x-raw,width=160,height=90,format=NV12 ! \
                 retinaface input-size=160 model-file={} ! appsink name=out",
                fixture_model(name)
            ));
            for sample in samples {
                let faces = face_meta::read(sample.buffer().unwrap(), (160, 90)).into_faces();
                assert!(!faces.is_empty(), "{name}");
                assert!(faces.iter().all(|face| face.landmarks.is_some() == landmarks), "{name}");
            }
        }
    });
}

#[test]
fn roi_scales_and_thresholds_can_change_in_playing() {
    with_watchdog(|| {
        let mut harness =
            harness(&format!("model-file={} input-size=160 score-threshold=0.5", fixture_model("biubug6.onnx")));
        let element = element(&harness);
        let info = info(VideoFormat::Rgb, 160, 96);
        harness.set_src_caps(info.to_caps().unwrap());
        let white = || {
            let mut buffer = gst::Buffer::from_mut_slice(vec![255u8; info.size()]);
            buffer.get_mut().unwrap().set_pts(gst::ClockTime::ZERO);
            buffer
        };
        let faces = |harness: &mut gst_check::Harness| {
            let out = harness.push_and_pull(white()).unwrap();
            face_meta::read(&out, (160, 96)).into_faces()
        };
        let full_frame = faces(&mut harness);
        assert!(full_frame.iter().any(|face| face.rect.x > 100.0), "{full_frame:?}");
        element.set_property("roi", "0,0,40,40");
        let inside_roi = faces(&mut harness);
        assert!(!inside_roi.is_empty() && inside_roi.iter().all(|face| face.rect.x < 40.0), "{inside_roi:?}");
        element.set_property("score-threshold", 0.999f32);
        assert_eq!(faces(&mut harness), []);
        element.set_property("score-threshold", 0.5f32);
        element.set_property("roi", "");
        element.set_property("scales", "1.0,0.5");
        assert!(faces(&mut harness).len() > full_frame.len(), "the scale 0.5 finds larger faces");
        element.set_property("iou-threshold", 0.0f32);
        assert!(faces(&mut harness).len() < full_frame.len());
        let before = faces(&mut harness);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        element.set_property("scales", "nonsense");
        let message = bus.pop_filtered(&[gst::MessageType::Warning]).unwrap();
        let gst::MessageView::Warning(warning) = message.view() else { panic!("{message:?}") };
        assert_contains(warning.error().message(), &["scales=\"nonsense\"", "the previous value stays in effect"]);
        assert_eq!(faces(&mut harness), before, "an invalid value does not stop the stream");
        element.set_property("scales", "1.0");
        let single_scale = faces(&mut harness);
        element.set_property("scales", "1.0,0.5");
        element.set_property("scales", None::<String>);
        assert_eq!(faces(&mut harness), single_scale, "no value means the default");
    });
}

#[test]
fn frames_at_native_size_match_the_reference() {
    with_watchdog(|| {
        let reference = project::reference().frames;
        let mut compared = 0;
        for source in ["WolfgangLanger_Pexels.mp4", "single_face.mp4", "face_noface.mov", "no_face.mp4"] {
            let expected_frames = reference.iter().filter(|frame| frame.source == source).collect::<Vec<_>>();
            let last = expected_frames.iter().filter_map(|frame| frame.frame).max().unwrap();
            let decoded = format!("filesrc location={} ! decodebin ! video/x-raw", clip(source));
            let native = run(&format!(
                "{decoded} ! identity eos-after={} ! retinaface input-size=0 landmark-fusion=none refine-large-faces=off ! appsink name=out",
                last + 2
            ));
            let at_640 = run(&format!("{decoded} ! identity eos-after={} ! retinaface ! appsink name=out", last + 2));
            let (mut sum, mut count) = (0.0, 0);
            for expected in expected_frames {
                let index = expected.frame.unwrap();
                let name = format!("{source}, frame {index}");
                project::assert_matched(&name, &common::read_faces(&native[index]), &expected.faces, 2e-3, 0.5);
                let (overlap, faces) = project::overlap_of_large(&common::read_faces(&at_640[index]), &expected.faces);
                sum += overlap;
                count += faces;
                compared += 1;
            }
            assert!(count == 0 || sum / count as f32 >= 0.9, "{source} at 640: mean IoU {}", sum / count as f32);
        }
        assert_eq!(compared, reference.len());
    });
}

#[test]
fn large_faces_are_refined_unless_the_source_is_live() {
    with_watchdog(|| {
        let photo = clip("single_face.jpg");
        let decoded = format!("filesrc location={photo} ! jpegdec ! videoconvert ! video/x-raw,format=I420");
        let sample = run(&format!("{decoded} ! appsink name=out")).remove(0);
        let landmarks = |mode: &str, refine: &str, is_live: bool| {
            let element = format!("retinaface input-size=1600 mode={mode} refine-large-faces={refine}");
            let mut harness = gst_check::Harness::new_parse(&element);
            harness.set_live(is_live);
            harness.set_src_caps(sample.caps_owned().unwrap());
            loop {
                // In mode latest, the faces are known after some frames.
                let out = harness.push_and_pull(sample.buffer_owned().unwrap()).unwrap();
                let out = gst::Sample::builder().buffer(&out).caps(&sample.caps_owned().unwrap()).build();
                if let Some(face) = common::read_faces(&out).first() {
                    return face.landmarks.unwrap();
                }
            }
        };
        let (on, off) = (landmarks("sync", "on", true), landmarks("sync", "off", false));
        assert_ne!(on, off);
        for mode in ["sync", "sync inflight=3", "latest"] {
            assert_eq!(landmarks(mode, "on", true), on, "{mode}");
            assert_eq!(landmarks(mode, "auto", true), off, "{mode}");
            assert_eq!(landmarks(mode, "auto", false), on, "{mode}");
        }
    });
}

#[test]
fn pipelines_that_share_a_model_get_own_faces() {
    with_watchdog(|| {
        let threads = [("multi_face.jpg", 5), ("single_face.jpg", 1), ("multi_face.jpg", 5)].map(|(name, count)| {
            common::spawn(move || {
                let samples = run(&format!(
                    "filesrc location={} ! jpegdec ! imagefreeze num-buffers=8 ! retinaface batch-size=4 batch-timeout=50 ! appsink name=out",
                    clip(name)
                ));
                assert_eq!(samples.len(), 8);
                samples.iter().for_each(|sample| assert_eq!(common::read_faces(sample).len(), count, "{name}"));
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn fixed_size_model_finds_the_same_faces() {
    with_watchdog(|| {
        let Some(model) = project::shared("models/retinaface_biubug6_fixed640.onnx") else { return };
        let fixed = photo_faces(&format!("video/x-raw,format=I420 ! retinaface model-file={}", quoted(&model)));
        // The same network with other weights: the coordinates differ.
        assert_same_faces("fixed", &fixed, &photo_faces("video/x-raw,format=I420 ! retinaface"), 8.0);
    });
}
