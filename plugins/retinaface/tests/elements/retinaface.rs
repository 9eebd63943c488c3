//! The element `retinaface`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::face::{Face, Point};

mod common;
use common::{clip, info, project, quoted, run, try_run, watched};

const FORMATS: [&str; 9] = ["NV12", "I420", "RGB", "BGR", "RGBx", "BGRx", "RGBA", "BGRA", "GRAY8"];

fn harness(properties: &str) -> gst_check::Harness {
    common::init();
    gst_check::Harness::new_parse(&format!(
        "retinaface name=it model-file={} {properties}",
        quoted(&project::default_model())
    ))
}

/// The element itself: the harness has it in a bin.
fn element(harness: &gst_check::Harness) -> gst::Element {
    harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("it").unwrap()
}

/// multi_face.jpg in the caps given, after `elements`.
fn photo(elements: &str) -> Vec<Face> {
    let photo = clip("multi_face.jpg");
    let samples = run(&format!("filesrc location={photo} ! jpegdec ! videoconvert ! {elements} ! appsink name=out"));
    let [sample] = samples.as_slice() else { panic!("{} samples", samples.len()) };
    common::faces_on(sample)
}

/// Each expected face has one whose landmarks are within `most` pixels.
fn assert_same_faces(name: &str, is: &[Face], should: &[Face], most: f32) {
    assert_eq!(is.len(), should.len(), "{name}: {is:?}");
    for should in should {
        let off = |face: &Face| {
            let pairs = face.landmarks.unwrap().into_iter().zip(should.landmarks.unwrap());
            pairs.map(|(a, b)| (a.x - b.x).abs().max((a.y - b.y).abs())).fold(0.0, f32::max)
        };
        let best = is.iter().map(off).fold(f32::INFINITY, f32::min);
        assert!(best <= most, "{name}: {best} px off {should:?}");
    }
}

#[test]
fn each_format_gives_the_same_faces() {
    watched(|| {
        let expected = photo("video/x-raw,format=BGR ! retinaface");
        assert_eq!(expected.len(), 5);
        for format in FORMATS {
            // A photo without colour is another picture: its landmarks may move a little further.
            let most = if format == "GRAY8" { 6.0 } else { 1.5 };
            assert_same_faces(format, &photo(&format!("video/x-raw,format={format} ! retinaface")), &expected, most);
        }
    });
}

#[test]
fn odd_sizes_and_portrait_frames_give_faces_in_their_own_pixels() {
    watched(|| {
        let expected = photo("video/x-raw,format=BGR ! retinaface input-size=0");
        let check = |elements: &str, place: &dyn Fn(Point) -> Point, most: f32| {
            let moved = expected.iter().map(|face| face.mapped(place)).collect::<Vec<_>>();
            for format in ["NV12", "I420", "RGB", "BGRA"] {
                let elements = format!("{elements},format={format},pixel-aspect-ratio=1/1 ! retinaface input-size=0");
                assert_same_faces(&elements, &photo(&elements), &moved, most);
            }
        };
        for (width, height) in [(999, 667), (501, 333), (667, 445)] {
            let (x, y) = (width as f32 / 1000.0, height as f32 / 667.0);
            let elements = format!("videoscale add-borders=false ! video/x-raw,width={width},height={height}");
            // A face of half the size is another picture to the network: a few pixels, not a shift or a shear.
            check(&elements, &|p| Point::new(p.x * x, p.y * y), 8.0);
        }
        // Portrait: black above and below.
        let elements = "videobox top=-301 bottom=-400 ! videoconvert ! video/x-raw,width=1000,height=1368";
        check(elements, &|p| Point::new(p.x, p.y + 301.0), 4.0);
    });
}

#[test]
fn a_crop_meta_moves_the_faces_with_it() {
    watched(|| {
        let expected = photo("video/x-raw,format=NV12 ! retinaface input-size=0");
        // Elements that take crop metas are given the whole frame and the rectangle: as videocrop would.
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
        let found = gstretinaface::meta::read(&out, (700, 500)).faces;
        let found = found.into_iter().map(|found| found.face).collect::<Vec<_>>();
        let moved =
            expected.iter().map(|face| face.mapped(|p| Point::new(p.x - 150.0, p.y - 40.0))).collect::<Vec<_>>();
        assert_same_faces("crop", &found, &moved, 6.0);
        // The overlay draws into the crop and nowhere else.
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
fn rows_with_padding_of_any_length_give_the_same_faces() {
    watched(|| {
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
            gstretinaface::meta::read(&out, (width, height))
                .faces
                .into_iter()
                .map(|found| found.face)
                .collect::<Vec<_>>()
        };
        let expected = faces(0);
        assert_eq!(expected.len(), 1);
        for padding in [1, 7, 64, 1000] {
            assert_eq!(faces(padding), expected, "{padding} bytes of padding");
        }
    });
}

#[test]
fn a_video_meta_that_says_more_than_the_memory_holds_is_an_error() {
    watched(|| {
        let info = info(VideoFormat::Nv12, 64, 64);
        let whole = info.size();
        for (width, height, offset, stride) in [
            (64, 64, [0, 64 * 64], [64, 6400]),
            (64, 64, [0, whole], [64, 64]),
            (64, 6400, [0, 64 * 64], [64, 64]),
            (64, 64, [usize::MAX - 10, 64 * 64], [64, 64]),
            (64, 64, [0, 64 * 64], [-64, 64]),
            (64, 64, [0, 64 * 64], [16, 64]),
            (32, 32, [0, 64 * 64], [64, 64]),
        ] {
            for element in ["retinaface", "facealign", "facemetaoverlay"] {
                let mut buffer = common::frame_with(&info, 0, &[common::face(0.9, 10.0, 10.0, 40.0, 40.0)]);
                let flags = gst_video::VideoFrameFlags::empty();
                let out = buffer.get_mut().unwrap();
                // Some of these GStreamer refuses to attach.
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
fn frames_from_16_by_16_to_8k_pass() {
    watched(|| {
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
            assert!(gstretinaface::meta::read(&out, (width as usize, height as usize)).detected, "{info:?}");
        }
    });
}

#[test]
fn pixels_that_a_tee_shares_are_never_copied() {
    watched(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let mut harness = harness("");
        harness.set_src_caps(info.to_caps().unwrap());
        let buffer = common::frame(&info, 3);
        let other_branch = buffer.clone();
        let out = harness.push_and_pull(buffer).unwrap();
        assert!(gstretinaface::meta::read(&out, (640, 360)).detected);
        assert!(!gstretinaface::meta::read(&other_branch, (640, 360)).detected, "the other branch's buffer is its own");
        let address = |buffer: &gst::Buffer| buffer.map_readable().unwrap().as_ptr();
        assert_eq!(address(&out), address(&other_branch), "both show the same memory");
        assert_eq!((out.pts(), out.duration()), (other_branch.pts(), other_branch.duration()));
    });
}

#[test]
fn thresholds_sizes_and_numbers_are_obeyed_and_may_change_while_playing() {
    watched(|| {
        let all = photo("video/x-raw,format=I420 ! retinaface");
        let best = photo("video/x-raw,format=I420 ! retinaface max-faces=2");
        assert_eq!(best, all[..2]);
        let large = photo("video/x-raw,format=I420 ! retinaface min-face-size=85");
        assert!(!large.is_empty() && large.len() < all.len());
        assert!(large.iter().all(|face| face.rect.w.min(face.rect.h) >= 85.0));
        assert_eq!(photo("video/x-raw,format=I420 ! retinaface score-threshold=1"), []);
        assert!(photo("video/x-raw,format=I420 ! retinaface score-threshold=0.02 iou-threshold=1").len() > 20);

        let sample = &run(&format!("filesrc location={} ! jpegdec ! appsink name=out", clip("multi_face.jpg")))[0];
        let mut harness = harness("");
        harness.set_src_caps(sample.caps_owned().unwrap());
        let count = |harness: &mut gst_check::Harness| {
            let out = harness.push_and_pull(sample.buffer_owned().unwrap()).unwrap();
            gstretinaface::meta::read(&out, (1000, 667)).faces.len()
        };
        assert_eq!(count(&mut harness), 5);
        element(&harness).set_property("max-faces", 1u32);
        assert_eq!(count(&mut harness), 1);
    });
}

#[test]
fn every_nth_frame_is_looked_at_and_stats_tell() {
    watched(|| {
        let info = info(VideoFormat::I420, 320, 180);
        // A model of its own: streams that share one take turns.
        let mut harness = harness("inference-interval=3 threads=5");
        harness.set_src_caps(info.to_caps().unwrap());
        let looked_at = (0..7).map(|number| {
            let out = harness.push_and_pull(common::frame(&info, number)).unwrap();
            gstretinaface::meta::read(&out, (320, 180)).detected
        });
        assert_eq!(looked_at.collect::<Vec<_>>(), [true, false, false, true, false, false, true]);
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
fn the_latency_query_says_what_the_element_adds() {
    watched(|| {
        let latency = |properties: &str| {
            let info = info(VideoFormat::I420, 640, 360);
            let mut harness = harness(properties);
            harness.set_upstream_latency(gst::ClockTime::from_mseconds(100));
            harness.set_src_caps(info.to_caps().unwrap());
            harness.push_and_pull(common::frame(&info, 0)).unwrap();
            harness.query_latency().unwrap().mseconds()
        };
        let alone = latency("");
        assert!(alone > 100 && alone < 10_000, "{alone} ms");
        let waiting = latency("batch-size=4 batch-timeout=3000");
        assert!(waiting >= 3100, "{waiting} ms");
    });
}

#[test]
fn time_and_flow_pass_through() {
    watched(|| {
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
fn caps_may_change_while_playing() {
    watched(|| {
        let mut harness = harness("");
        for (number, (format, width, height)) in
            [(VideoFormat::I420, 320, 180), (VideoFormat::Rgb, 181, 321), (VideoFormat::Nv12, 640, 360)]
                .into_iter()
                .enumerate()
        {
            let info = info(format, width, height);
            harness.set_src_caps(info.to_caps().unwrap());
            let out = harness.push_and_pull(common::frame(&info, number as u64)).unwrap();
            assert!(gstretinaface::meta::read(&out, (width as usize, height as usize)).detected);
        }
    });
}

/// The error of a pipeline that cannot start, or not go on.
fn error_of(elements: &str) -> String {
    let error =
        try_run(&format!("videotestsrc num-buffers=3 ! video/x-raw,width=160,height=90 ! {elements} ! fakesink"));
    error.expect_err("the pipeline fails")
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn a_missing_model_is_a_start_error_not_a_silent_passthrough() {
    watched(|| {
        let error = error_of("retinaface model-file=/nowhere/model.onnx");
        assert_says(&error, &["/nowhere/model.onnx", "No such file", "set model-file"]);
        let error = error_of("retinaface model-file=/tmp");
        assert_says(&error, &["/tmp", "cannot be read"]);
    });
}

#[test]
fn a_file_that_is_not_onnx_is_a_start_error() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let model = std::fs::read(project::default_model()).unwrap();
        for (name, bytes) in
            [("text.onnx", b"# not a model".as_slice()), ("cut.onnx", &model[..100_000]), ("empty.onnx", b"")]
        {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            let error = error_of(&format!("retinaface model-file={}", quoted(&file)));
            assert_says(&error, &[name, "not an ONNX file"]);
        }
    });
}

#[test]
fn a_model_of_another_kind_is_a_start_error_that_lists_what_was_found_and_expected() {
    watched(|| {
        for (name, parts) in [
            ("embedding512_faceplugin.onnx", ["`output` [1, 512]", "known are RetinaFace"]),
            ("landmarks68_faceplugin.onnx", ["(1, 1, 64, 64)", "[N, 3, height, width]"]),
        ] {
            if let Some(model) = project::shared(&format!("models/{name}")) {
                assert_says(&error_of(&format!("retinaface model-file={}", quoted(&model))), &parts);
            }
        }
    });
}

/// A model of the tests' own that reads each layout the same, see tests/fixtures/models/make_models.py.
fn tiny(name: &str) -> String {
    quoted(&project::root().join("tests/fixtures/models").join(name))
}

#[test]
fn every_layout_runs_in_a_pipeline_with_and_without_landmarks() {
    watched(|| {
        for (name, landmarks) in
            [("insightface.onnx", true), ("scrfd.onnx", true), ("yunet.onnx", true), ("ssh.onnx", false)]
        {
            let samples = common::run(&format!(
                "videotestsrc pattern=white num-buffers=2 ! video/x-raw,width=160,height=90,format=NV12 ! \
                 retinaface input-size=160 model-file={} ! appsink name=out",
                tiny(name)
            ));
            for sample in samples {
                let faces = gstretinaface::meta::read(sample.buffer().unwrap(), (160, 90)).into_faces();
                assert!(!faces.is_empty(), "{name}");
                assert!(faces.iter().all(|face| face.landmarks.is_some() == landmarks), "{name}");
            }
        }
    });
}

#[test]
fn properties_that_make_no_sense_are_errors_that_name_them() {
    watched(|| {
        for (property, problem) in [
            ("scales=1.0,big", "`big` is not a number"),
            ("tiles=many", "as in 3x2"),
            ("roi=1,2,3", "x,y,width,height"),
            ("model-options=mean=red", "`red` is not a number"),
            ("model-options=colour=red", "there is no such key"),
        ] {
            let name = property.split('=').next().unwrap();
            assert_says(&error_of(&format!("retinaface {property}")), &[name, problem]);
        }
        let error = error_of(&format!("retinaface model-file={}", tiny("bad_metadata.onnx")));
        assert_says(&error, &["model option mean=red", "metadata"]);
    });
}

#[test]
fn regions_scales_and_thresholds_change_while_playing() {
    watched(|| {
        let mut harness = harness(&format!("model-file={} input-size=160 score-threshold=0.5", tiny("biubug6.onnx")));
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
            gstretinaface::meta::read(&out, (160, 96)).into_faces()
        };
        let everywhere = faces(&mut harness);
        assert!(everywhere.iter().any(|face| face.rect.x > 100.0), "{everywhere:?}");
        element.set_property("roi", "0,0,40,40");
        let within = faces(&mut harness);
        assert!(!within.is_empty() && within.iter().all(|face| face.rect.x < 40.0), "{within:?}");
        element.set_property("score-threshold", 0.999f32);
        assert_eq!(faces(&mut harness), []);
        element.set_property("score-threshold", 0.5f32);
        element.set_property("roi", "");
        element.set_property("scales", "1.0,0.5");
        assert!(faces(&mut harness).len() > everywhere.len(), "larger faces are found at half the size");
        element.set_property("iou-threshold", 0.0f32);
        assert!(faces(&mut harness).len() < everywhere.len());
        let before = faces(&mut harness);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        element.set_property("scales", "nonsense");
        let message = bus.pop_filtered(&[gst::MessageType::Warning]).unwrap();
        let gst::MessageView::Warning(warning) = message.view() else { panic!("{message:?}") };
        assert_says(warning.error().message(), &["scales=\"nonsense\"", "what was said before stays in force"]);
        assert_eq!(faces(&mut harness), before, "a slip does not end a stream");
        element.set_property("scales", "1.0");
        let once = faces(&mut harness);
        element.set_property("scales", "1.0,0.5");
        element.set_property("scales", None::<String>);
        assert_eq!(faces(&mut harness), once, "none is the default");
    });
}

#[test]
fn a_provider_that_is_not_there_is_a_start_error_and_auto_is_the_cpu() {
    watched(|| {
        for (provider, set) in [("cuda", "cuda"), ("tensorrt", "cuda"), ("openvino", "openvino")] {
            let error = error_of(&format!("retinaface execution-provider={provider}"));
            assert_says(&error, &[provider, "not available", &format!("scripts/setup.sh --{set}")]);
        }
        run(
            "videotestsrc num-buffers=1 ! retinaface execution-provider=auto ! retinaface execution-provider=cpu ! fakesink",
        );
    });
}

#[test]
fn caps_that_are_not_taken_are_named_with_the_remedy() {
    watched(|| {
        common::init();
        for element in ["retinaface", "facealign", "facemetaoverlay", "facemetapublish"] {
            let pipeline = gst::parse::launch(&format!("appsrc name=in ! {element} name=it ! fakesink")).unwrap();
            let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
            let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
            pipeline.set_state(gst::State::Playing).unwrap();
            let info = info(VideoFormat::P01010le, 64, 64);
            let caps = info.to_caps().unwrap();
            source.push_sample(&gst::Sample::builder().caps(&caps).buffer(&common::frame(&info, 0)).build()).ok();
            let bus = pipeline.bus().unwrap();
            let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(30), &[gst::MessageType::Error]).unwrap();
            let gst::MessageView::Error(error) = message.view() else { unreachable!() };
            let text = format!("{} {}", error.error(), error.debug().unwrap_or_default());
            assert_says(&text, &["it cannot take", "P010_10LE", "put `videoconvert`", "NV12, I420, RGB"]);
            pipeline.set_state(gst::State::Null).unwrap();
        }
    });
}

#[test]
fn clip_frames_at_native_size_give_the_references_faces() {
    watched(|| {
        let reference = project::reference().frames;
        let mut compared = 0;
        for source in ["WolfgangLanger_Pexels.mp4", "single_face.mp4", "face_noface.mov", "no_face.mp4"] {
            let wanted = reference.iter().filter(|frame| frame.source == source).collect::<Vec<_>>();
            let last = wanted.iter().filter_map(|frame| frame.frame).max().unwrap();
            let decoded = format!("filesrc location={} ! decodebin ! video/x-raw", clip(source));
            let native = run(&format!(
                "{decoded} ! identity eos-after={} ! retinaface input-size=0 ! appsink name=out",
                last + 2
            ));
            let at_640 = run(&format!("{decoded} ! identity eos-after={} ! retinaface ! appsink name=out", last + 2));
            let (mut sum, mut count) = (0.0, 0);
            for expected in wanted {
                let index = expected.frame.unwrap();
                let name = format!("{source}, frame {index}");
                project::assert_matched(&name, &common::faces_on(&native[index]), &expected.faces, 2e-3, 0.5);
                let (overlap, faces) = project::overlap_of_large(&common::faces_on(&at_640[index]), &expected.faces);
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
fn two_pipelines_share_a_model_and_each_gets_its_own_faces() {
    watched(|| {
        let threads = [("multi_face.jpg", 5), ("single_face.jpg", 1), ("multi_face.jpg", 5)].map(|(name, count)| {
            std::thread::spawn(move || {
                let samples = run(&format!(
                    "filesrc location={} ! jpegdec ! imagefreeze num-buffers=8 ! retinaface batch-size=4 batch-timeout=50 ! appsink name=out",
                    clip(name)
                ));
                assert_eq!(samples.len(), 8);
                samples.iter().for_each(|sample| assert_eq!(common::faces_on(sample).len(), count, "{name}"));
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_model_of_one_fixed_size_finds_the_same_faces() {
    watched(|| {
        let Some(model) = project::shared("models/retinaface_biubug6_fixed640.onnx") else { return };
        let fixed = photo(&format!("video/x-raw,format=I420 ! retinaface model-file={}", quoted(&model)));
        // Another training of the same network: the same faces, not the same numbers.
        assert_same_faces("fixed", &fixed, &photo("video/x-raw,format=I420 ! retinaface"), 8.0);
    });
}
