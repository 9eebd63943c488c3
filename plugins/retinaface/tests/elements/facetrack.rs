//! `facetrack`: ids across frames, predictions between inferences, events.

use std::time::Duration;

use crate::common::{self, clip, face, frame, frame_with_faces, info, quoted, run, with_watchdog};
use face_meta::{AnalysedFrame, FrameFaces, FrameState, Prediction};
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::geometry::Face;
use retinaface::track::TrackEventKind;

const SIZE: (usize, usize) = (320, 180);

fn video() -> gst_video::VideoInfo {
    info(VideoFormat::Gray8, SIZE.0 as u32, SIZE.1 as u32)
}

fn harness(description: &str) -> gst_check::Harness {
    common::init();
    let mut harness = gst_check::Harness::new_parse(description);
    harness.set_src_caps(video().to_caps().unwrap());
    harness
}

/// A face that moves by 3 pixels per frame.
fn moving(number: u64) -> Face {
    face(0.9, 20.0 + 3.0 * number as f32, 60.0, 40.0, 50.0)
}

/// Pushes a frame and returns the faces that it leaves with.
fn push(harness: &mut gst_check::Harness, buffer: gst::Buffer) -> FrameFaces {
    face_meta::read(&harness.push_and_pull(buffer).unwrap(), SIZE)
}

/// Frames with [`moving`], of which every `interval`th was analysed.
fn play(harness: &mut gst_check::Harness, numbers: std::ops::Range<u64>, interval: u64) -> Vec<FrameFaces> {
    let buffers = numbers.map(|number| match number % interval {
        0 => frame_with_faces(&video(), number, &[moving(number)]),
        _ => frame(&video(), number),
    });
    buffers.map(|buffer| push(harness, buffer)).collect()
}

/// The id of the only face.
fn id(found: &FrameFaces) -> Option<u64> {
    assert_eq!(found.faces.len(), 1, "{found:?}");
    found.faces[0].face.track_id
}

/// The events that left the element: kinds and times in ms.
fn events(harness: &mut gst_check::Harness) -> Vec<(TrackEventKind, u64)> {
    let events = std::iter::from_fn(|| harness.try_pull_event());
    let event = |event: gst::Event| face_meta::read_track_event(event.structure()?);
    events.filter_map(event).map(|event| (event.kind, event.time.as_millis() as u64)).collect()
}

#[test]
fn frames_between_inferences_have_the_predicted_face_with_its_id() {
    with_watchdog(|| {
        let mut harness = harness("facetrack");
        let found = play(&mut harness, 0..21, 5);
        let ids = found[5..].iter().map(id).collect::<Vec<_>>();
        assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        for (number, found) in found.iter().enumerate() {
            let is_analysed = number % 5 == 0;
            let state = if is_analysed { FrameState::Detected } else { FrameState::Predicted };
            assert_eq!((found.state, found.age), (state, Duration::from_millis(40 * (number as u64 % 5))));
            let face = &found.faces[0].face;
            assert_eq!(face.uncertainty.is_none(), is_analysed);
            if number > 5 {
                let (expected, found) = (moving(number as u64), face);
                assert!((found.rect.x - expected.rect.x).abs() < 1.0, "frame {number}: {found:?}");
                let nose = |face: &Face| face.landmarks.unwrap()[2].x;
                assert!((nose(found) - nose(&expected)).abs() < 1.0, "frame {number}: {found:?}");
            }
        }
        let uncertainty = |number: usize| found[number].faces[0].face.uncertainty.unwrap();
        assert!(uncertainty(19) > uncertainty(16));
    });
}

#[test]
fn frames_from_a_failure_to_the_next_result_have_no_predicted_faces() {
    with_watchdog(|| {
        let mut harness = harness("facetrack");
        play(&mut harness, 0..11, 5);
        let mut failed = frame(&video(), 11);
        face_meta::attach_failure(failed.get_mut().unwrap(), SIZE).unwrap();
        let found = push(&mut harness, failed);
        assert_eq!((found.state, found.failed, found.faces.len()), (FrameState::None, true, 0));
        let states = play(&mut harness, 12..20, 5).into_iter().map(|found| found.state);
        // The next result is that of frame 15.
        let expected = [vec![FrameState::None; 3], vec![FrameState::Detected], vec![FrameState::Predicted; 4]];
        assert_eq!(states.collect::<Vec<_>>(), expected.concat());
    });
}

#[test]
fn a_detected_face_keeps_its_position_and_its_region_of_interest() {
    with_watchdog(|| {
        let mut harness = harness("facetrack min-hits=1");
        let buffer = frame_with_faces(&video(), 0, &[moving(0)]);
        let before = face_meta::read(&buffer, SIZE).faces.remove(0);
        let after = push(&mut harness, buffer).faces.remove(0);
        assert_eq!(after.roi_id, before.roi_id);
        assert_eq!(Face { track_id: None, ..after.face.clone() }, before.face);
        assert!(after.face.track_id.is_some());
    });
}

#[test]
fn pixels_that_a_tee_shares_are_not_copied() {
    with_watchdog(|| {
        let mut harness = harness("facetrack");
        let buffer = frame_with_faces(&video(), 0, &[moving(0)]);
        let branch = buffer.clone();
        let out = harness.push_and_pull(buffer).unwrap();
        let address = |buffer: &gst::Buffer| buffer.peek_memory(0).as_ptr();
        assert_eq!(address(&out), address(&branch));
        assert_eq!(face_meta::read(&branch, SIZE).faces[0].face.track_id, None);
    });
}

#[test]
fn faces_of_an_earlier_frame_are_carried_to_this_one() {
    with_watchdog(|| {
        let mut harness = harness("facetrack");
        let caps = video().to_caps().unwrap();
        // A detector that needs 4 frames and reports the faces of the frame in which it found them.
        let mut analysed = None;
        for number in 0..30 {
            let mut buffer = frame(&video(), number);
            if number >= 4 && number % 4 == 0 {
                analysed = Some((number - 4, AnalysedFrame::new(&frame(&video(), number - 4), &caps)));
            }
            if let Some((then, analysed)) = &analysed {
                let age = Duration::from_millis(40 * (number - then));
                face_meta::attach_aged(buffer.get_mut().unwrap(), &[moving(*then)], SIZE, age, analysed).unwrap();
            }
            let out = harness.push_and_pull(buffer).unwrap();
            let found = face_meta::read(&out, SIZE);
            let Some((then, _)) = &analysed else {
                assert_eq!(found.state, FrameState::None);
                continue;
            };
            assert_eq!((found.state, found.age), (FrameState::Predicted, Duration::from_millis(40 * (number - then))));
            if number >= 12 {
                let rect = found.faces[0].face.rect;
                assert!((rect.x - moving(number).rect.x).abs() < 2.0, "frame {number}: {rect:?}");
                // Crops take the pixels of the analysed frame, where the face was found.
                let earlier = face_meta::read_analysed(&out).unwrap();
                assert_eq!(earlier.faces[0].face.rect, moving(*then).rect);
                assert_eq!(earlier.faces[0].face.track_id, id(&found));
                assert!(id(&found).is_some());
                // A landmark model adds points to the faces of the analysed frame only.
                let mut out = out;
                let points = vec![retinaface::geometry::Point::new(1.0, 2.0)];
                let faces = [Face { points: points.clone(), ..earlier.faces[0].face.clone() }];
                face_meta::update_analysed(out.make_mut(), &faces).unwrap();
                assert_eq!(face_meta::read_analysed(&out).unwrap().faces[0].face.points, points);
                assert_eq!(face_meta::read(&out, SIZE), found);
                assert!(face_meta::update_analysed(out.make_mut(), &[]).is_err());
            }
        }
    });
}

#[test]
fn a_timestamp_that_jumps_or_goes_back_ends_the_tracks_and_a_discont_does_not() {
    with_watchdog(|| {
        let mut harness = harness("facetrack lost-timeout=1000");
        let first = id(play(&mut harness, 0..3, 1).last().unwrap());
        let mut discont = frame_with_faces(&video(), 3, &[moving(3)]);
        discont.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
        assert_eq!(id(&push(&mut harness, discont)), first);
        // A gap of 1 s is within the timeout, one of more is not.
        let at = |number: u64| frame_with_faces(&video(), number, &[moving(3)]);
        assert_eq!(id(&push(&mut harness, at(28))), first);
        assert_eq!(id(&push(&mut harness, at(54))), None);
        let second = id(&push(&mut harness, at(55)));
        assert!(second.is_some() && second != first);
        assert_eq!(id(&push(&mut harness, at(54))), None, "the time goes back");
        let kinds = events(&mut harness);
        use TrackEventKind::{Confirmed, Ended, Started};
        let expected = [
            (Started, 0),
            (Confirmed, 40),
            (Ended, 1120),
            (Started, 2160),
            (Confirmed, 2200),
            (Ended, 2200),
            (Started, 2160),
        ];
        assert_eq!(kinds, expected);
    });
}

#[test]
fn a_flush_ends_the_tracks_and_restart_ids_counts_from_1_again() {
    with_watchdog(|| {
        for (description, restarts) in [("facetrack", false), ("facetrack restart-ids=true", true)] {
            let mut harness = harness(description);
            let first = id(play(&mut harness, 0..3, 1).last().unwrap());
            assert!(harness.push_event(gst::event::FlushStart::new()));
            assert!(harness.push_event(gst::event::FlushStop::new(true)));
            let segment = gst::FormattedSegment::<gst::ClockTime>::new();
            assert!(harness.push_event(gst::event::Segment::new(&segment)));
            let second = id(play(&mut harness, 0..3, 1).last().unwrap());
            assert_eq!(second == first, restarts, "{description}: {first:?} {second:?}");
            assert_eq!(first == Some(1), restarts || first == Some(1));
        }
    });
}

#[test]
fn the_end_of_the_stream_ends_the_tracks_downstream_and_on_the_bus() {
    with_watchdog(|| {
        let mut harness = harness("facetrack");
        let bus = gst::Bus::new();
        harness.element().unwrap().set_bus(Some(&bus));
        play(&mut harness, 0..3, 1);
        assert!(harness.push_event(gst::event::Eos::new()));
        use TrackEventKind::{Confirmed, Ended, Started};
        let expected = [(Started, 0), (Confirmed, 40), (Ended, 80)];
        let messages = bus.iter().filter_map(|message| face_meta::read_track_event(message.structure()?));
        let messages = messages.map(|event| (event.kind, event.time.as_millis() as u64)).collect::<Vec<_>>();
        assert_eq!(messages, expected);
        // They arrive before EOS.
        let all = std::iter::from_fn(|| harness.try_pull_event()).collect::<Vec<_>>();
        assert_eq!(all.last().unwrap().type_(), gst::EventType::Eos);
        let downstream = all.iter().filter_map(|event| face_meta::read_track_event(event.structure()?));
        assert_eq!(downstream.map(|event| event.kind).collect::<Vec<_>>(), [Started, Confirmed, Ended]);
    });
}

#[test]
fn a_stream_that_is_played_backwards_is_tracked() {
    with_watchdog(|| {
        let mut harness = harness("facetrack");
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_rate(-1.0);
        segment.set_stop(gst::ClockTime::from_seconds(10));
        assert!(harness.push_event(gst::event::Segment::new(&segment)));
        let backwards = |harness: &mut gst_check::Harness, number| {
            push(harness, frame_with_faces(&video(), number, &[moving(number)]))
        };
        let ids = (0..6).rev().map(|number| id(&backwards(&mut harness, number))).collect::<Vec<_>>();
        assert!(ids[1].is_some() && ids[1..].iter().all(|id| *id == ids[1]), "{ids:?}");
        assert_eq!(events(&mut harness), [(TrackEventKind::Started, 200), (TrackEventKind::Confirmed, 160)]);
    });
}

#[test]
fn frames_without_timestamps_are_tracked_at_the_frame_rate() {
    with_watchdog(|| {
        let mut harness = harness("facetrack");
        let untimed = |number: u64| {
            let mut buffer = frame_with_faces(&video(), number, &[moving(number)]);
            buffer.get_mut().unwrap().set_pts(gst::ClockTime::NONE);
            buffer
        };
        let ids = (0..4).map(|number| id(&push(&mut harness, untimed(number)))).collect::<Vec<_>>();
        assert!(ids[1].is_some() && ids[1..].iter().all(|id| *id == ids[1]), "{ids:?}");
        let mut blank = frame(&video(), 0);
        blank.get_mut().unwrap().set_pts(gst::ClockTime::NONE);
        assert_eq!(push(&mut harness, blank).age, Duration::from_millis(40));
    });
}

#[test]
fn predictions_stop_after_the_lost_timeout() {
    with_watchdog(|| {
        let mut harness = harness("facetrack lost-timeout=200");
        play(&mut harness, 0..3, 1);
        let states = (3..10).map(|number| push(&mut harness, frame(&video(), number)).state).collect::<Vec<_>>();
        assert_eq!(states[..5], [FrameState::Predicted; 5]);
        assert_eq!(states[5..], [FrameState::None; 2]);
        assert_eq!(events(&mut harness).last(), Some(&(TrackEventKind::Ended, 320)));
    });
}

#[test]
fn faces_that_lost_their_position_stay_lost_in_predicted_frames() {
    with_watchdog(|| {
        let mut harness = harness("facetrack");
        let mut buffer = frame_with_faces(&video(), 0, &[moving(0), face(0.8, 200.0, 20.0, 60.0, 60.0)]);
        common::clip_roi(buffer.get_mut().unwrap(), 1);
        let found = push(&mut harness, buffer);
        assert_eq!((found.faces.len(), found.lost), (1, 1));
        let predicted = push(&mut harness, frame(&video(), 1));
        assert_eq!((predicted.state, predicted.faces.len(), predicted.lost), (FrameState::Predicted, 1, 1));
        let next = push(&mut harness, frame_with_faces(&video(), 2, &[moving(2)]));
        assert_eq!((next.faces.len(), next.lost), (1, 0));
    });
}

#[test]
fn a_change_of_the_frame_size_ends_the_tracks() {
    with_watchdog(|| {
        let mut harness = harness("facetrack");
        play(&mut harness, 0..3, 1);
        let larger = info(VideoFormat::Gray8, 640, 360);
        harness.set_src_caps(larger.to_caps().unwrap());
        let out = harness.push_and_pull(frame_with_faces(&larger, 3, &[moving(3)])).unwrap();
        assert_eq!(id(&face_meta::read(&out, (640, 360))), None);
        assert_eq!(events(&mut harness)[2], (TrackEventKind::Ended, 80));
    });
}

#[test]
fn predicted_faces_have_crops_only_with_align_predicted() {
    with_watchdog(|| {
        for (property, expected) in [("", 1), ("align-predicted=true", 2)] {
            let mut harness = harness(&format!("facealign {property}"));
            harness.push(frame_with_faces(&video(), 0, &[moving(0)])).unwrap();
            let mut buffer = frame(&video(), 1);
            let predicted = Face { uncertainty: Some(2.0), ..moving(1) };
            let from = Prediction { age: Duration::from_millis(40), ..Default::default() };
            face_meta::attach_predicted(buffer.get_mut().unwrap(), &[predicted], SIZE, &from).unwrap();
            harness.push(buffer).unwrap();
            let crops = std::iter::from_fn(|| harness.try_pull()).collect::<Vec<_>>();
            assert_eq!(crops.len(), expected, "{property}");
            let uncertainty = |crop: &gst::Buffer| face_meta::read_crop(crop).unwrap().face.uncertainty;
            assert_eq!(uncertainty(&crops[0]), None);
            assert!(crops[1..].iter().all(|crop| uncertainty(crop) == Some(2.0)));
        }
    });
}

/// A second definition of the schema of events, as for frames.
#[derive(Debug, serde::Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct EventLine {
    schema: String,
    stream: String,
    event: String,
    track_id: u64,
    pts_ns: u64,
    first_seen_ns: u64,
    last_seen_ns: u64,
    confirmed: bool,
}

#[test]
fn events_are_published_between_the_lines_of_frames() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("faces.jsonl");
        let description = format!("facetrack ! facemetapublish stream-id=door location={}", quoted(&file));
        let mut harness = harness(&description);
        play(&mut harness, 0..2, 1);
        harness.push_event(gst::event::Eos::new());
        let text = std::fs::read_to_string(file).unwrap();
        let is_event = |line: &&str| line.contains("retinaface.track/1");
        let order = text.lines().map(|line| is_event(&line)).collect::<Vec<_>>();
        assert_eq!(order, [true, false, true, false, true]);
        let events = text.lines().filter(is_event).map(|line| serde_json::from_str::<EventLine>(line).unwrap());
        let events = events.collect::<Vec<_>>();
        let names = events.iter().map(|event| (event.event.as_str(), event.confirmed)).collect::<Vec<_>>();
        assert_eq!(names, [("started", false), ("confirmed", true), ("ended", true)]);
        let last = &events[2];
        assert_eq!((last.schema.as_str(), last.stream.as_str()), ("retinaface.track/1", "door"));
        assert_eq!((last.pts_ns, last.first_seen_ns, last.last_seen_ns), (40_000_000, 0, 40_000_000));
        assert_eq!(last.track_id, events[0].track_id);
        let schema =
            std::fs::read_to_string(common::project::root().join("assets/retinaface.track-1.schema.json")).unwrap();
        let schema = serde_json::from_str::<serde_json::Value>(&schema).unwrap();
        let mut fields = schema["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        fields.sort();
        let expected =
            ["confirmed", "event", "first_seen_ns", "last_seen_ns", "pts_ns", "schema", "stream", "track_id"];
        assert_eq!(fields, expected);
        let kinds = schema["properties"]["event"]["enum"].as_array().unwrap();
        assert_eq!(kinds, &TrackEventKind::ALL.map(|kind| serde_json::Value::from(kind.name())));
    });
}

#[test]
fn a_clip_has_one_track_and_a_face_on_every_frame_at_any_interval() {
    with_watchdog(|| {
        for interval in [1, 5] {
            let clip = clip("single_face.mp4");
            let samples = run(&format!(
                "filesrc location={clip} ! decodebin ! retinaface inference-interval={interval} ! facetrack min-hits=1 \
                 ! appsink name=out"
            ));
            // Streams that share a model take turns: the first frame need not be analysed.
            let faces = samples.iter().map(common::read_faces).collect::<Vec<_>>();
            let start = faces.iter().position(|faces| !faces.is_empty()).unwrap();
            assert!(start < interval, "interval {interval}: {start}");
            let ids = faces[start..].iter().map(|faces| {
                assert_eq!(faces.len(), 1, "interval {interval}");
                faces[0].track_id.unwrap()
            });
            let ids = ids.collect::<std::collections::BTreeSet<_>>();
            assert_eq!(ids.len(), 1, "interval {interval}: {ids:?}");
        }
    });
}
