//! The element `facemetapublish`.

use crate::common::{self, face, frame_with_faces, info, quoted, with_watchdog};
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::geometry::{Face, Point};
use serde::Deserialize;

/// A second definition of the schema: a renamed, added or removed field fails the tests.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Line {
    schema: String,
    stream: String,
    frame: u64,
    pts_ns: Option<u64>,
    utc: Option<String>,
    width: u32,
    height: u32,
    pixel_aspect_ratio: [u32; 2],
    state: String,
    age_ns: Option<u64>,
    lost: usize,
    faces: Vec<LineFace>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct LineFace {
    score: f32,
    #[serde(rename = "box")]
    rect: LineBox,
    landmarks: Option<[[f32; 2]; 5]>,
    points: Option<Vec<[f32; 2]>>,
    pose: Option<LinePose>,
    track_id: Option<u64>,
    parent_id: Option<i32>,
    uncertainty: Option<f32>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct LinePose {
    yaw: f32,
    pitch: f32,
    roll: f32,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct LineBox {
    x: f32,
    y: f32,
    w: f32,
    h: f32,
}

fn parse(text: &str) -> Vec<Line> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Publishes `frames` and returns the lines.
fn publish(properties: &str, frames: Vec<gst::Buffer>) -> Vec<Line> {
    common::init();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("faces.jsonl");
    let mut harness =
        gst_check::Harness::new_parse(&format!("facemetapublish location={} {properties}", quoted(&file)));
    harness.set_src_caps(info(VideoFormat::I420, 320, 180).to_caps().unwrap());
    for frame in frames {
        let address = frame.map_readable().unwrap().as_ptr();
        let out = harness.push_and_pull(frame).unwrap();
        assert_eq!(out.map_readable().unwrap().as_ptr(), address, "the frame is not copied");
    }
    // Read while the element runs: each line is written before its frame is pushed.
    parse(&std::fs::read_to_string(file).unwrap())
}

fn frames(faces: &[&[Face]]) -> Vec<gst::Buffer> {
    let info = info(VideoFormat::I420, 320, 180);
    faces.iter().enumerate().map(|(number, faces)| frame_with_faces(&info, number as u64, faces)).collect()
}

#[test]
fn each_frame_is_published_as_one_line() {
    with_watchdog(|| {
        let points = vec![Point::new(11.5, 22.0), Point::new(60.25, 90.0)];
        let one = Face { track_id: Some(9), parent_id: Some(-5), points, ..face(0.75, 10.5, 20.25, 80.0, 80.0) };
        let two = Face { landmarks: None, ..face(0.5, 100.0, 20.0, 60.0, 70.0) };
        let lines = publish("stream-id=door", frames(&[&[one.clone(), two], &[]]));
        assert_eq!(lines.len(), 2);
        let line = &lines[0];
        assert_eq!((line.schema.as_str(), line.stream.as_str()), ("retinaface.frame/1", "door"));
        assert_eq!((line.frame, line.pts_ns, line.width, line.height), (0, Some(0), 320, 180));
        let [first, second] = line.faces.as_slice() else { panic!("{line:?}") };
        assert_eq!(first.rect, LineBox { x: 10.5, y: 20.25, w: 80.0, h: 80.0 });
        assert_eq!(first.points.as_deref().unwrap(), [[11.5, 22.0], [60.25, 90.0]]);
        // The landmarks are those of a frontal face.
        let pose = first.pose.as_ref().unwrap();
        assert!([pose.yaw, pose.pitch, pose.roll].iter().all(|angle| angle.abs() < 1.0), "{pose:?}");
        assert_eq!((second.points.as_ref(), second.pose.as_ref()), (None, None));
        assert_eq!(first.landmarks.unwrap(), one.landmarks.unwrap().map(|p| [p.x, p.y]));
        assert_eq!((first.score, first.track_id, first.parent_id), (0.75, Some(9), Some(-5)));
        assert_eq!((second.landmarks, second.track_id, second.parent_id), (None, None, None));
        assert_eq!((lines[1].frame, lines[1].pts_ns, lines[1].utc.as_deref()), (1, Some(40_000_000), None));
        assert_eq!(lines[1].faces, []);
    });
}

#[test]
fn add_empty_results_false_skips_empty_frames() {
    with_watchdog(|| {
        let one = face(0.75, 10.5, 20.25, 80.0, 90.0);
        let lines = publish("add-empty-results=false", frames(&[&[], &[one], &[]]));
        assert_eq!(lines.iter().map(|line| line.frame).collect::<Vec<_>>(), [1]);
        assert!(!lines[0].stream.is_empty(), "the default is the stream ID of the pad");
    });
}

#[test]
fn capture_time_comes_from_reference_timestamp() {
    with_watchdog(|| {
        let mut frames = frames(&[&[], &[], &[]]);
        let unix = gst::ClockTime::from_nseconds(1_764_093_600_123_456_789);
        for (frame, (name, offset)) in
            frames.iter_mut().zip([("x-unix", 0), ("x-ntp", 2_208_988_800), ("x-made-up", 0)])
        {
            let reference = gst::Caps::new_empty_simple(format!("timestamp/{name}"));
            let time = unix + gst::ClockTime::from_seconds(offset);
            gst::ReferenceTimestampMeta::add(frame.get_mut().unwrap(), &reference, time, gst::ClockTime::NONE);
        }
        let utc = publish("", frames).into_iter().map(|line| line.utc).collect::<Vec<_>>();
        let expected = Some("2025-11-25T18:00:00.123456789Z".to_owned());
        assert_eq!(utc, [expected.clone(), expected, None]);
    });
}

#[test]
fn age_is_null_without_detection() {
    with_watchdog(|| {
        let info = common::info(VideoFormat::I420, 320, 180);
        let mut aged = common::frame(&info, 2);
        let faces = [common::face(0.75, 10.0, 20.0, 80.0, 90.0)];
        let age = std::time::Duration::from_millis(80);
        let earlier = face_meta::AnalysedFrame::new(&common::frame(&info, 0), &info.to_caps().unwrap());
        face_meta::attach_aged(aged.get_mut().unwrap(), &faces, (320, 180), age, &earlier).unwrap();
        let frames = vec![common::frame(&info, 0), common::frame_with_faces(&info, 1, &faces), aged];
        let mut predicted = common::frame(&info, 3);
        let face = Face { uncertainty: Some(2.5), track_id: Some(1), ..faces[0].clone() };
        let from = face_meta::Prediction { age, ..Default::default() };
        face_meta::attach_predicted(predicted.get_mut().unwrap(), &[face], (320, 180), &from).unwrap();
        let lines = publish("", frames.into_iter().chain([predicted]).collect());
        let ages = lines.iter().map(|line| (line.state.as_str(), line.age_ns)).collect::<Vec<_>>();
        let age = Some(80_000_000);
        assert_eq!(ages, [("none", None), ("detected", Some(0)), ("detected", age), ("predicted", age)]);
        assert_eq!(lines[3].faces[0].uncertainty, Some(2.5));
        assert_eq!(lines[2].faces[0].uncertainty, None);
    });
}

#[test]
fn schema_file_matches_the_published_fields() {
    let text = std::fs::read_to_string(common::project::root().join("assets/retinaface.frame-1.schema.json")).unwrap();
    let schema = serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let names = |object: &serde_json::Value| {
        assert_eq!(object["additionalProperties"], false);
        let mut names = object["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        names.sort();
        names
    };
    let frame = [
        "age_ns",
        "faces",
        "frame",
        "height",
        "lost",
        "pixel_aspect_ratio",
        "pts_ns",
        "schema",
        "source",
        "state",
        "stream",
        "utc",
        "width",
    ];
    assert_eq!(names(&schema), frame);
    let face = &schema["$defs"]["face"];
    assert_eq!(names(face), ["box", "landmarks", "parent_id", "points", "pose", "score", "track_id", "uncertainty"]);
    assert_eq!(names(&face["properties"]["box"]), ["h", "w", "x", "y"]);
    assert_eq!(schema["properties"]["schema"]["const"], "retinaface.frame/1");
}

fn pipeline_error(location: &str) -> common::PipelineError {
    let pipeline = format!("videotestsrc num-buffers=5 ! facemetapublish location={location} ! fakesink");
    common::try_run(&pipeline).expect_err("the pipeline fails")
}

#[test]
fn full_disk_is_an_error_with_cause() {
    with_watchdog(|| {
        let error = pipeline_error("/dev/full");
        error.assert_code(gst::ResourceError::NoSpaceLeft);
        assert!(error.text.contains("No space left") && error.text.contains("/dev/full"), "{error}");
    });
}

#[test]
fn unwritable_location_is_a_start_error() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        for location in [directory.path().to_path_buf(), directory.path().join("none/faces.jsonl")] {
            let error = pipeline_error(&quoted(&location));
            error.assert_code(gst::ResourceError::OpenWrite);
            let text = &error.text;
            assert!(text.contains(&location.display().to_string()) && text.contains("set `location`"), "{error}");
        }
    });
}

#[test]
fn closed_pipe_is_an_error_without_crash() {
    with_watchdog(|| {
        let target = common::target_directory();
        let mut command = common::command("gst-launch-1.0", &target);
        let pipeline =
            "videotestsrc is-live=true ! video/x-raw,width=64,height=64,framerate=200/1 ! facemetapublish ! fakesink";
        let child = command
            .arg("-q")
            .args(pipeline.split(' '))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = child.spawn().unwrap();
        // The reader closes the pipe after some lines: gst-launch-1.0 1.22 can hang on any error
        // before its main loop runs, also with `identity error-after=1`.
        let mut first = [0; 1000];
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code != 0), "{:?} {errors}", output.status);
        assert!(errors.contains("standard output has closed it"), "{errors}");
    });
}

#[test]
fn a_line_has_the_pixel_aspect_ratio_and_stored_pixels() {
    with_watchdog(|| {
        common::init();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lines");
        let stored = gst_video::VideoInfo::builder(VideoFormat::Rgb, 320, 360).par(gst::Fraction::new(2, 1));
        let info = stored.build().unwrap();
        let mut harness = gst_check::Harness::new_parse(&format!("facemetapublish location={}", file.display()));
        harness.set_src_caps(info.to_caps().unwrap());
        let mut buffer = gst::Buffer::from_mut_slice(vec![0u8; info.size()]);
        let pixel_aspect = face_meta::to_pixel_aspect(info.par());
        let size = retinaface::geometry::FrameSize { width: 320, height: 360, pixel_aspect };
        let upright = retinaface::geometry::ARCFACE_TEMPLATE.map(|p| Point::new(p.x / 2.0 + 20.0, p.y + 30.0));
        let face = Face { landmarks: Some(upright), ..face(0.9, 20.0, 30.0, 56.0, 112.0) };
        face_meta::attach(buffer.get_mut().unwrap(), std::slice::from_ref(&face), size).unwrap();
        harness.push(buffer).unwrap();
        drop(harness);
        let line = parse(&std::fs::read_to_string(&file).unwrap()).remove(0);
        assert_eq!((line.width, line.height, line.pixel_aspect_ratio), (320, 360, [2, 1]));
        let face = &line.faces[0];
        assert_eq!((face.rect.x, face.rect.w), (20.0, 56.0));
        let pose = face.pose.as_ref().unwrap();
        assert!(pose.yaw.abs() < 1.0 && pose.pitch.abs() < 1.0 && pose.roll.abs() < 1.0, "{pose:?} is not frontal");
    });
}

#[test]
fn frame_with_lost_faces_is_always_published() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 320, 180);
        let frames = || {
            let mut clipped =
                frame_with_faces(&info, 0, &[face(0.9, 20.0, 20.0, 60.0, 60.0), face(0.8, 120.0, 20.0, 60.0, 60.0)]);
            common::clip_roi(clipped.get_mut().unwrap(), 0);
            common::clip_roi(clipped.get_mut().unwrap(), 1);
            vec![clipped, frame_with_faces(&info, 1, &[]), common::frame(&info, 2)]
        };
        let lines = publish("", frames());
        let fields = |line: &Line| (line.age_ns, line.lost, line.faces.len());
        assert_eq!(lines.iter().map(fields).collect::<Vec<_>>(), [(None, 2, 0), (Some(0), 0, 0), (None, 0, 0)]);
        let lines = publish("add-empty-results=false", frames());
        assert_eq!(lines.iter().map(fields).collect::<Vec<_>>(), [(None, 2, 0)]);
    });
}

#[test]
fn killed_pipeline_loses_at_most_one_line() {
    with_watchdog(|| {
        let target = common::target_directory();
        let file = target.path().join("faces.jsonl");
        let mut command = common::command("gst-launch-1.0", &target);
        let pipeline = format!(
            "videotestsrc ! video/x-raw,width=64,height=64,framerate=1000/1 ! facemetapublish location={} ! fakesink",
            file.display()
        );
        let mut child = command.arg("-q").args(pipeline.split(' ')).spawn().unwrap();
        let lines = || std::fs::read_to_string(&file).unwrap_or_default();
        while lines().lines().count() < 200 {
            assert!(child.try_wait().unwrap().is_none(), "the pipeline still runs");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let text = lines();
        let complete = &text[..text.rfind('\n').unwrap() + 1];
        let numbers = parse(complete).into_iter().map(|line| line.frame).collect::<Vec<_>>();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    });
}

/// Publishes `count` frames to `file` with another set of properties.
fn publish_to(file: &std::path::Path, count: u32, properties: &str) -> Result<(), common::PipelineError> {
    let pipeline = format!(
        "videotestsrc num-buffers={count} ! video/x-raw,width=64,height=64 ! \
         facemetapublish location={} {properties} ! fakesink",
        quoted(file)
    );
    common::try_run(&pipeline).map(|_| ())
}

fn frame_numbers(file: &std::path::Path) -> Vec<u64> {
    parse(&std::fs::read_to_string(file).unwrap()).into_iter().map(|line| line.frame).collect()
}

#[test]
fn a_second_publisher_on_one_file_is_refused() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("faces.jsonl");
        let first =
            gst::parse::launch(&format!("appsrc name=in ! facemetapublish location={} ! fakesink", quoted(&file)));
        let first = first.unwrap();
        first.set_state(gst::State::Paused).unwrap();
        std::fs::write(&file, "a line of the first one\n").unwrap();
        for properties in ["", "append=true"] {
            let error = publish_to(&file, 3, properties).unwrap_err();
            error.assert_code(gst::ResourceError::Busy);
            let remedy = "give each its own `location`";
            assert!(error.text.contains("faces.jsonl") && error.text.contains(remedy), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "a line of the first one\n", "the file is not truncated");
        first.set_state(gst::State::Null).unwrap();
        publish_to(&file, 3, "").unwrap();
        assert_eq!(frame_numbers(&file), [0, 1, 2]);
    });
}

#[test]
fn a_file_that_another_process_writes_is_refused_until_that_process_is_killed() {
    with_watchdog(|| {
        let target = common::target_directory();
        let file = target.path().join("faces.jsonl");
        let mut command = common::command("gst-launch-1.0", &target);
        let pipeline = format!(
            "videotestsrc is-live=true ! video/x-raw,width=64,height=64,framerate=100/1 ! \
             facemetapublish location={} ! fakesink",
            file.display()
        );
        let mut child = command.arg("-q").args(pipeline.split(' ')).spawn().unwrap();
        let lines = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
        common::wait_until(|| lines() >= 5);
        publish_to(&file, 3, "append=true").unwrap_err().assert_code(gst::ResourceError::Busy);
        child.kill().unwrap();
        child.wait().unwrap();
        let before = lines();
        publish_to(&file, 3, "append=true").unwrap();
        // The line that the killed process was writing is removed.
        let numbers = frame_numbers(&file);
        assert!((before + 2..=before + 3).contains(&numbers.len()) && numbers.ends_with(&[0, 1, 2]), "{numbers:?}");
    });
}

#[test]
fn a_restarted_pipeline_continues_its_file_if_append_is_set() {
    with_watchdog(|| {
        for (append, expected) in [(true, vec![0, 1, 0, 1, 0, 1]), (false, vec![0, 1])] {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("faces.jsonl");
            let pipeline = format!(
                "videotestsrc num-buffers=2 ! video/x-raw,width=64,height=64 ! \
                 facemetapublish append={append} location={} ! fakesink",
                quoted(&file)
            );
            let pipeline = gst::parse::launch(&pipeline).unwrap();
            // The second time from READY, the third time from NULL.
            for stopped in [gst::State::Ready, gst::State::Null, gst::State::Null] {
                pipeline.set_state(gst::State::Playing).unwrap();
                let end = [gst::MessageType::Eos, gst::MessageType::Error];
                let message = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::NONE, &end).unwrap();
                assert_eq!(message.type_(), gst::MessageType::Eos);
                pipeline.set_state(stopped).unwrap();
            }
            assert_eq!(frame_numbers(&file), expected, "append={append}");
        }
    });
}
