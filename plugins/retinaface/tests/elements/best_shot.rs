//! `facealign best-shot=true`: one crop per track.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::{self, face, frame, frame_with_faces, info, with_watchdog};
use crate::sequences::play_with;
use face_meta::{AnalysedFrame, CropOrigin, Prediction};
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::geometry::Face;
use retinaface::track::{BestShotKind, TrackEvent, TrackEventKind};

const SIZE: (usize, usize) = (320, 180);
use BestShotKind::{Better, Final, First};

fn video() -> gst_video::VideoInfo {
    info(VideoFormat::Gray8, SIZE.0 as u32, SIZE.1 as u32)
}

fn harness(description: &str) -> gst_check::Harness {
    common::init();
    let mut harness = gst_check::Harness::new_parse(description);
    harness.set_src_caps(video().to_caps().unwrap());
    harness
}

/// A face of a track. Its quality rises with its score.
fn tracked(id: u64, score: f32) -> Face {
    let x = 10.0 + 100.0 * (id % 3) as f32;
    Face { track_id: Some(id), ..face(score, x, 20.0, 80.0, 100.0) }
}

fn push(harness: &mut gst_check::Harness, number: u64, faces: &[Face]) {
    harness.push(frame_with_faces(&video(), number, faces)).unwrap();
}

fn end_track(harness: &mut gst_check::Harness, track_id: u64) {
    let event = TrackEvent {
        kind: TrackEventKind::Ended,
        track_id,
        time: Duration::ZERO,
        first_seen: Duration::ZERO,
        last_seen: Duration::ZERO,
        is_confirmed: true,
    };
    assert!(harness.push_event(gst::event::CustomDownstream::new(face_meta::track_event(&event))));
}

fn pull(harness: &mut gst_check::Harness) -> Vec<(gst::Buffer, CropOrigin)> {
    let crops = std::iter::from_fn(|| harness.try_pull());
    crops.map(|crop| (crop.clone(), face_meta::read_crop(&crop).unwrap())).collect()
}

/// Kind, track, time of the buffer and of the frame in ms.
fn summary((crop, origin): &(gst::Buffer, CropOrigin)) -> (BestShotKind, u64, u64, u64) {
    let pts = crop.pts().unwrap();
    let frame = origin.frame_pts.unwrap();
    assert_eq!(u128::from((pts - frame).nseconds()), origin.age.as_nanos(), "the age is the difference");
    (origin.best_shot.unwrap(), origin.face.track_id.unwrap(), pts.mseconds(), frame.mseconds())
}

fn pull_summaries(harness: &mut gst_check::Harness) -> Vec<(BestShotKind, u64, u64, u64)> {
    pull(harness).iter().map(summary).collect()
}

#[test]
fn every_crop_has_its_quality() {
    with_watchdog(|| {
        let mut harness = harness("facealign");
        push(&mut harness, 0, &[face(0.9, 20.0, 20.0, 80.0, 100.0)]);
        let (_, origin) = pull(&mut harness).remove(0);
        let quality = origin.quality.unwrap();
        assert_eq!(origin.best_shot, None);
        assert!((quality.score - 0.81).abs() < 1e-6 && quality.visibility == 1.0, "{quality:?}");
        assert!(quality.overall() > 0.0 && quality.overall() < 1.0, "{quality:?}");
    });
}

#[test]
fn crops_below_the_minimum_quality_are_dropped() {
    with_watchdog(|| {
        let mut open = harness("facealign");
        push(&mut open, 0, &[tracked(1, 0.9), tracked(2, 0.5)]);
        let qualities = pull(&mut open).iter().map(|(_, origin)| origin.quality.unwrap().overall()).collect::<Vec<_>>();
        assert!(qualities[0] > 2.0 * qualities[1], "{qualities:?}");
        let mut strict = harness(&format!("facealign min-quality={}", qualities[0] * 0.9));
        push(&mut strict, 0, &[tracked(1, 0.9), tracked(2, 0.5)]);
        assert_eq!(pull(&mut strict).iter().map(|(_, origin)| origin.face.track_id).collect::<Vec<_>>(), [Some(1)]);
    });
}

#[test]
fn the_first_crop_comes_after_the_delay_and_is_the_best_so_far() {
    with_watchdog(|| {
        let mut harness = harness("facealign best-shot=true best-shot-delay=100 best-shot-gain=1");
        let scores = [0.5, 0.9, 0.7, 0.6, 0.8];
        for (number, score) in (0..).zip(scores) {
            push(&mut harness, number, &[tracked(1, score)]);
        }
        // The frame at 120 ms is the first one after the delay; the best one was at 40 ms.
        let crops = pull(&mut harness);
        assert_eq!(crops.iter().map(summary).collect::<Vec<_>>(), [(First, 1, 120, 40)]);
        assert_eq!(crops[0].1.face.score, 0.9);
        end_track(&mut harness, 1);
        assert_eq!(pull(&mut harness).len(), 0, "the final crop leaves with the next frame");
        harness.push(frame(&video(), 5)).unwrap();
        assert_eq!(pull_summaries(&mut harness), [(Final, 1, 200, 40)]);
    });
}

#[test]
fn the_pixels_are_those_of_the_frame_in_which_the_face_was_best() {
    with_watchdog(|| {
        let faces = [tracked(1, 0.9)];
        let mut all = harness("facealign");
        let mut best = harness("facealign best-shot=true best-shot-delay=0");
        let shifted = |number: u64| {
            let mut buffer = frame_with_faces(&video(), number, &[tracked(1, 0.9 - 0.1 * number as f32)]);
            let mut map = buffer.get_mut().unwrap().map_writable().unwrap();
            map.iter_mut().for_each(|value| *value = value.wrapping_add(40 * number as u8));
            drop(map);
            buffer
        };
        all.push(shifted(0)).unwrap();
        let expected = pull(&mut all).remove(0);
        for number in 0..3 {
            best.push(shifted(number)).unwrap();
        }
        assert!(best.push_event(gst::event::Eos::new()));
        let crops = pull(&mut best);
        assert_eq!(crops.iter().map(summary).collect::<Vec<_>>(), [(First, 1, 0, 0), (Final, 1, 80, 0)]);
        for (crop, origin) in &crops {
            assert_eq!(crop.map_readable().unwrap().as_slice(), expected.0.map_readable().unwrap().as_slice());
            assert_eq!(origin.face.rect, faces[0].rect);
        }
        // They share their pixels.
        let address = |index: usize| crops[index].0.peek_memory(0).as_ptr();
        assert_eq!(address(0), address(1));
    });
}

#[test]
fn a_better_crop_comes_when_the_quality_rises_by_the_gain() {
    with_watchdog(|| {
        let mut plain = harness("facealign");
        let scores = [0.5, 0.6, 0.8, 0.9, 1.0];
        push(&mut plain, 0, &[tracked(1, 1.0)]);
        let best = pull(&mut plain)[0].1.quality.unwrap().overall();
        // The qualities are 0.25, 0.36, 0.64, 0.81 and 1 times that of the best one.
        let gain = 0.35 * best;
        let mut harness = harness(&format!("facealign best-shot=true best-shot-delay=0 best-shot-gain={gain}"));
        for (number, score) in (0..).zip(scores) {
            push(&mut harness, number, &[tracked(1, score)]);
        }
        assert!(harness.push_event(gst::event::Eos::new()));
        let expected = [(First, 1, 0, 0), (Better, 1, 80, 80), (Better, 1, 160, 160), (Final, 1, 160, 160)];
        assert_eq!(pull_summaries(&mut harness), expected);
    });
}

#[test]
fn a_track_that_ends_emits_its_best_crop_once() {
    with_watchdog(|| {
        let mut harness = harness("facealign best-shot=true");
        push(&mut harness, 0, &[tracked(1, 0.9), tracked(2, 0.7)]);
        end_track(&mut harness, 1);
        end_track(&mut harness, 1);
        // A face with the id of an ended track is another track.
        push(&mut harness, 1, &[tracked(1, 0.5), tracked(2, 0.8)]);
        assert_eq!(pull_summaries(&mut harness), [(Final, 1, 40, 0)]);
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(pull_summaries(&mut harness), [(Final, 2, 40, 40), (Final, 1, 40, 40)]);
    });
}

#[test]
fn the_final_crops_come_before_eos_and_before_another_stream() {
    with_watchdog(|| {
        for event in [gst::event::Eos::new(), gst::event::StreamStart::new("another")] {
            let mut harness = harness("facealign best-shot=true");
            push(&mut harness, 0, &[tracked(1, 0.9), tracked(2, 0.8)]);
            let sink = harness.sinkpad().unwrap();
            let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            let seen = std::sync::Arc::clone(&order);
            sink.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
                seen.lock().unwrap().push(info.event().map(|event| event.type_()));
                gst::PadProbeReturn::Ok
            });
            let kind = event.type_();
            assert!(harness.push_event(event));
            assert_eq!(*order.lock().unwrap(), [None, None, Some(kind)]);
        }
    });
}

#[test]
fn a_flush_drops_the_kept_crops() {
    with_watchdog(|| {
        let mut harness = harness("facealign best-shot=true");
        push(&mut harness, 0, &[tracked(1, 0.9)]);
        assert!(harness.push_event(gst::event::FlushStart::new()));
        assert!(harness.push_event(gst::event::FlushStop::new(true)));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        assert!(harness.push_event(gst::event::Segment::new(&segment)));
        // As facetrack does after a flush.
        end_track(&mut harness, 1);
        push(&mut harness, 9, &[tracked(2, 0.9)]);
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(pull_summaries(&mut harness), [(Final, 2, 360, 360)]);
    });
}

#[test]
fn a_change_of_direction_ends_the_kept_crops_in_their_segment() {
    with_watchdog(|| {
        let mut harness = harness("facealign best-shot=true");
        push(&mut harness, 5, &[tracked(1, 0.9)]);
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_rate(-1.0);
        segment.set_stop(gst::ClockTime::from_seconds(10));
        assert!(harness.push_event(gst::event::Segment::new(&segment)));
        assert_eq!(pull_summaries(&mut harness), [(Final, 1, 200, 200)]);
        // Backwards, the age is the time since the frame, too.
        push(&mut harness, 4, &[tracked(2, 0.9)]);
        push(&mut harness, 3, &[tracked(2, 0.5)]);
        assert!(harness.push_event(gst::event::Eos::new()));
        let (crop, origin) = pull(&mut harness).remove(0);
        assert_eq!(
            (crop.pts(), origin.frame_pts),
            (Some(gst::ClockTime::from_mseconds(120)), Some(gst::ClockTime::from_mseconds(160)))
        );
        assert_eq!(origin.age, Duration::from_millis(40));
    });
}

#[test]
fn another_format_of_crops_ends_the_kept_ones() {
    with_watchdog(|| {
        let mut harness = harness("facealign best-shot=true ! capsfilter name=filter caps=video/x-raw,format=RGB");
        push(&mut harness, 0, &[tracked(1, 0.9)]);
        let filter = harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("filter").unwrap();
        filter.set_property("caps", "video/x-raw,format=BGR".parse::<gst::Caps>().unwrap());
        push(&mut harness, 1, &[tracked(2, 0.9)]);
        assert_eq!(pull_summaries(&mut harness), [(Final, 1, 0, 0)]);
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(pull_summaries(&mut harness), [(Final, 2, 40, 40)]);
    });
}

#[test]
fn beyond_256_tracks_the_one_that_was_not_seen_for_longest_ends_early() {
    with_watchdog(|| {
        let mut harness = harness("facealign best-shot=true best-shot-delay=3600000");
        for id in 1..=300 {
            push(&mut harness, id, &[tracked(id, 0.9)]);
        }
        let early = pull_summaries(&mut harness);
        assert_eq!(
            early.iter().map(|(kind, id, ..)| (*kind, *id)).collect::<Vec<_>>(),
            (1..=44).map(|id| (Final, id)).collect::<Vec<_>>()
        );
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(pull(&mut harness).len(), 256);

        // Crops of 3 MB: 64 MiB of them.
        let mut large = self::harness("facealign best-shot=true size=1024 best-shot-delay=3600000");
        for id in 1..=30 {
            push(&mut large, id, &[tracked(id, 0.9)]);
        }
        assert_eq!(pull(&mut large).len(), 9);
        assert!(large.push_event(gst::event::Eos::new()));
        assert_eq!(pull(&mut large).len(), 21);
    });
}

#[test]
fn predicted_faces_are_best_shots_only_with_align_predicted() {
    with_watchdog(|| {
        for (property, expected) in [("", (Final, 1, 40, 0)), ("align-predicted=true", (Final, 1, 40, 40))] {
            let mut harness = harness(&format!("facealign best-shot=true {property}"));
            push(&mut harness, 0, &[tracked(1, 0.6)]);
            let mut buffer = frame(&video(), 1);
            let predicted = Face { uncertainty: Some(2.0), ..tracked(1, 0.9) };
            let from = Prediction { age: Duration::from_millis(40), ..Default::default() };
            face_meta::attach_predicted(buffer.get_mut().unwrap(), &[predicted], SIZE, &from).unwrap();
            harness.push(buffer).unwrap();
            assert!(harness.push_event(gst::event::Eos::new()));
            assert_eq!(pull_summaries(&mut harness), [expected]);
        }
    });
}

#[test]
fn faces_of_an_earlier_frame_keep_the_time_of_that_frame() {
    with_watchdog(|| {
        let mut harness = harness("facealign best-shot=true best-shot-delay=100");
        let analysed = AnalysedFrame::new(&frame(&video(), 0), &video().to_caps().unwrap());
        for number in 2..6 {
            let mut buffer = frame(&video(), number);
            let age = Duration::from_millis(40 * number);
            face_meta::attach_aged(buffer.get_mut().unwrap(), &[tracked(1, 0.9)], SIZE, age, &analysed).unwrap();
            harness.push(buffer).unwrap();
        }
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(pull_summaries(&mut harness), [(First, 1, 200, 0), (Final, 1, 200, 0)]);
    });
}

#[test]
fn frames_without_a_best_shot_become_gaps() {
    with_watchdog(|| {
        let mut harness = harness("facealign best-shot=true best-shot-delay=100");
        for number in 0..4 {
            push(&mut harness, number, &[tracked(1, 0.9)]);
        }
        let events = std::iter::from_fn(|| harness.try_pull_event()).collect::<Vec<_>>();
        let gaps = events.iter().filter(|event| event.type_() == gst::EventType::Gap).count();
        assert_eq!((gaps, pull(&mut harness).len()), (3, 1));
    });
}

#[test]
fn faces_without_ids_give_no_crop_and_one_warning_that_names_facetrack() {
    with_watchdog(|| {
        let untracked = face(0.9, 20.0, 20.0, 80.0, 100.0);
        // In a long stream, and at the end of a short one.
        for (frames, ends) in [(30, false), (2, true)] {
            let mut harness = harness("facealign best-shot=true");
            let bus = gst::Bus::new();
            harness.element().unwrap().set_bus(Some(&bus));
            for number in 0..frames {
                assert_eq!(common::warnings(&bus), Vec::<String>::new());
                push(&mut harness, number, std::slice::from_ref(&untracked));
            }
            if ends {
                assert!(harness.push_event(gst::event::Eos::new()));
            }
            let warnings = common::warnings(&bus);
            assert!(warnings.len() == 1 && warnings[0].contains("put `facetrack` between"), "{warnings:?}");
            if !ends {
                push(&mut harness, frames, std::slice::from_ref(&untracked));
            }
            assert_eq!((common::warnings(&bus).len(), pull(&mut harness).len()), (0, 0));
        }
        // The tracker has not confirmed the track yet.
        let mut harness = harness("facetrack min-hits=1000 ! facealign best-shot=true");
        let bus = gst::Bus::new();
        harness.element().unwrap().set_bus(Some(&bus));
        for number in 0..40 {
            push(&mut harness, number, std::slice::from_ref(&untracked));
        }
        assert_eq!(common::warnings(&bus), Vec::<String>::new());
    });
}

#[test]
fn each_confirmed_track_of_a_sequence_has_exactly_one_final_crop() {
    with_watchdog(|| {
        let elements = "retinaface inference-interval=3 ! facetrack ! tee name=t ! queue max-size-buffers=0 max-size-bytes=0 \
                        max-size-time=0 ! fakesink name=events async=false t. ! queue ! facealign best-shot=true";
        for name in ["enter-leave", "crossing"] {
            let tracks = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            let confirmed = std::sync::Arc::clone(&tracks);
            let (_, samples) = play_with(name, elements, move |pipeline| {
                let pad = pipeline.by_name("events").unwrap().static_pad("sink").unwrap();
                pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
                    let event = info.event().and_then(|event| face_meta::read_track_event(event.structure()?));
                    if let Some(event) = event.filter(|event| event.kind == TrackEventKind::Confirmed) {
                        confirmed.lock().unwrap().push(event.track_id);
                    }
                    gst::PadProbeReturn::Ok
                });
            });
            let mut kinds = BTreeMap::<u64, Vec<(BestShotKind, f32)>>::new();
            let mut last = gst::ClockTime::ZERO;
            for sample in &samples {
                let crop = sample.buffer().unwrap();
                let origin = face_meta::read_crop(crop).unwrap();
                let pts = crop.pts().unwrap();
                assert!(pts >= last, "{name}: the time of buffers does not go back");
                assert_eq!(origin.face.uncertainty, None);
                assert_eq!(
                    pts,
                    origin.frame_pts.unwrap() + gst::ClockTime::from_nseconds(origin.age.as_nanos() as u64)
                );
                last = pts;
                let quality = origin.quality.unwrap().overall();
                kinds.entry(origin.face.track_id.unwrap()).or_default().push((origin.best_shot.unwrap(), quality));
            }
            let mut tracks = tracks.lock().unwrap().clone();
            tracks.sort_unstable();
            assert!(tracks.len() > 1, "{name}: {tracks:?}");
            assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), tracks, "{name}");
            for (id, shots) in &kinds {
                let finals = shots.iter().filter(|(kind, _)| *kind == Final).count();
                assert!(finals == 1 && shots.last().unwrap().0 == Final, "{name}, track {id}: {shots:?}");
                assert!(shots.iter().filter(|(kind, _)| *kind == First).count() <= 1, "{name}, track {id}: {shots:?}");
                let rises = shots.windows(2).all(|pair| match pair[1].0 {
                    Final => pair[1].1 >= pair[0].1,
                    _ => pair[1].1 >= pair[0].1 + 0.15,
                });
                assert!(rises, "{name}, track {id}: {shots:?}");
            }
            assert!(samples.len() < 5 * tracks.len(), "{name}: {} crops of {} tracks", samples.len(), tracks.len());
        }
    });
}

#[test]
fn best_shots_in_latest_mode_are_cut_from_the_analysed_frames() {
    with_watchdog(|| {
        let mut harness = harness("facetrack min-hits=1 ! facealign best-shot=true");
        let caps = video().to_caps().unwrap();
        let moving = |number: u64| face(0.9, 20.0 + 3.0 * number as f32, 20.0, 80.0, 100.0);
        // Each frame has other pixels.
        let frame = |number: u64| {
            let mut buffer = frame(&video(), number);
            let mut map = buffer.get_mut().unwrap().map_writable().unwrap();
            map.iter_mut().for_each(|value| *value = value.wrapping_mul(number as u8 + 3));
            drop(map);
            buffer
        };
        // A detector that needs 4 frames.
        for number in (4..24).step_by(4) {
            let then = number - 4;
            let analysed = AnalysedFrame::new(&frame(then), &caps);
            for number in number..number + 4 {
                let mut buffer = frame(number);
                let age = Duration::from_millis(40 * (number - then));
                face_meta::attach_aged(buffer.get_mut().unwrap(), &[moving(then)], SIZE, age, &analysed).unwrap();
                harness.push(buffer).unwrap();
            }
        }
        assert!(harness.push_event(gst::event::Eos::new()));
        let crops = pull(&mut harness);
        let kinds = crops.iter().map(|(_, origin)| origin.best_shot.unwrap()).collect::<Vec<_>>();
        assert!(kinds.first() == Some(&First) && kinds.last() == Some(&Final), "{kinds:?}");
        for (crop, origin) in &crops {
            let then = origin.frame_pts.unwrap().mseconds() / 40;
            assert!(then % 4 == 0 && crop.pts() > origin.frame_pts, "{origin:?}");
            let mut plain = self::harness("facealign");
            let mut buffer = frame(then);
            face_meta::attach(buffer.get_mut().unwrap(), &[moving(then)], SIZE).unwrap();
            plain.push(buffer).unwrap();
            let (expected, of_frame) = pull(&mut plain).remove(0);
            assert_eq!(crop.map_readable().unwrap().as_slice(), expected.map_readable().unwrap().as_slice());
            assert_eq!(origin.quality, of_frame.quality);
        }
    });
}
