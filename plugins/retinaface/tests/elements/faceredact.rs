//! `faceredact`: what is covered, what passes, and what happens to frames in doubt.

use std::time::Duration;

use crate::common::{self, face, frame, frame_with_faces, info, with_watchdog};
use face_meta::{AnalysedFrame, FrameState, Prediction};
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::geometry::{Face, Rect};

const SIZE: (usize, usize) = (320, 180);
/// White: no frame of the tests has it.
const COLOR: u8 = 255;

fn video() -> gst_video::VideoInfo {
    info(VideoFormat::Gray8, SIZE.0 as u32, SIZE.1 as u32)
}

fn harness(properties: &str) -> gst_check::Harness {
    common::init();
    let mut harness = gst_check::Harness::new_parse(&format!("faceredact color=0xFFFFFF {properties}"));
    harness.set_src_caps(video().to_caps().unwrap());
    harness
}

fn at(x: f32) -> Face {
    face(0.9, x, 60.0, 40.0, 50.0)
}

/// The share of the pixels of a rectangle that are covered.
fn covered(buffer: &gst::Buffer, rect: Rect) -> f32 {
    let map = buffer.map_readable().unwrap();
    let columns = rect.x.max(0.0) as usize..(rect.right() as usize).min(SIZE.0);
    let rows = rect.y.max(0.0) as usize..(rect.bottom() as usize).min(SIZE.1);
    let pixels = rows.flat_map(|row| columns.clone().map(move |column| row * SIZE.0 + column));
    let (all, white) = pixels.fold((0, 0), |(all, white), at| (all + 1, white + usize::from(map[at] == COLOR)));
    white as f32 / all as f32
}

fn frame_rect() -> Rect {
    Rect::new(0.0, 0.0, SIZE.0 as f32, SIZE.1 as f32)
}

/// The middle of a face, which every shape covers.
fn middle(face: &Face) -> Rect {
    let Rect { x, y, w, h } = face.rect;
    Rect::new(x + w / 4.0, y + h / 4.0, w / 2.0, h / 2.0)
}

/// The element in the harness.
fn element(harness: &gst_check::Harness) -> gst::Element {
    let bin = harness.element().unwrap().downcast::<gst::Bin>().unwrap();
    bin.iterate_elements().find(|element| element.has_property("lookahead")).unwrap()
}

fn stat(harness: &gst_check::Harness, field: &str) -> u64 {
    element(harness).property::<gst::Structure>("stats").get(field).unwrap()
}

#[test]
fn faces_are_covered_and_the_rest_of_the_frame_is_not() {
    with_watchdog(|| {
        for (properties, share) in [("shape=box", 0.999..=1.0), ("", 0.98..=0.998)] {
            let mut harness = harness(properties);
            let one = at(100.0);
            let buffer = frame_with_faces(&video(), 0, std::slice::from_ref(&one));
            let before = buffer.map_readable().unwrap().to_vec();
            let out = harness.push_and_pull(buffer).unwrap();
            assert!(share.contains(&covered(&out, one.rect)), "{properties}: {}", covered(&out, one.rect));
            assert_eq!(covered(&out, middle(&one)), 1.0);
            // 1.3 times the box and the rounding.
            let grown = one.rect.grown(1.4);
            let after = out.map_readable().unwrap();
            let outside = (0..before.len()).filter(|at| {
                let (x, y) = ((at % SIZE.0) as f32, (at / SIZE.0) as f32);
                !(grown.x..grown.right()).contains(&x) || !(grown.y..grown.bottom()).contains(&y)
            });
            assert!(outside.into_iter().all(|at| before[at] == after[at]));
            assert_eq!((stat(&harness, "faces"), stat(&harness, "frames-covered")), (1, 0));
        }
    });
}

#[test]
fn a_frame_without_faces_passes_unchanged_and_without_a_copy() {
    with_watchdog(|| {
        let mut harness = harness("");
        let buffer = frame_with_faces(&video(), 0, &[]);
        let branch = buffer.clone();
        let out = harness.push_and_pull(buffer).unwrap();
        assert_eq!(out.peek_memory(0).as_ptr(), branch.peek_memory(0).as_ptr());
    });
}

#[test]
fn another_branch_of_a_tee_keeps_its_pixels() {
    with_watchdog(|| {
        let mut harness = harness("");
        let buffer = frame_with_faces(&video(), 0, &[at(100.0)]);
        let branch = buffer.clone();
        let out = harness.push_and_pull(buffer).unwrap();
        assert_eq!(covered(&out, middle(&at(100.0))), 1.0);
        assert_eq!(covered(&branch, frame_rect()), 0.0);
    });
}

/// Frames whose known faces may be incomplete, with the reason.
fn frames_in_doubt() -> Vec<(gst::Buffer, &'static str)> {
    let mut lost = frame_with_faces(&video(), 1, &[at(100.0), at(200.0)]);
    common::clip_roi(lost.get_mut().unwrap(), 0);
    let mut old = frame(&video(), 2);
    let from = Prediction { age: Duration::from_millis(600), ..Default::default() };
    face_meta::attach_predicted(old.get_mut().unwrap(), &[at(100.0)], SIZE, &from).unwrap();
    let mut lost_before = frame(&video(), 3);
    let from = Prediction { lost: 1, ..Default::default() };
    face_meta::attach_predicted(lost_before.get_mut().unwrap(), &[], SIZE, &from).unwrap();
    let mut failed = frame_with_faces(&video(), 5, &[at(100.0)]);
    face_meta::attach_failure(failed.get_mut().unwrap(), SIZE).unwrap();
    let invalid = Face { uncertainty: Some(f32::NAN), ..at(100.0) };
    let invalid = frame_with_faces(&video(), 4, &[invalid]);
    vec![
        (frame(&video(), 0), "no detection result"),
        (lost, "lost faces"),
        (old, "older than the limit"),
        (lost_before, "lost faces"),
        (invalid, "invalid face box"),
        (failed, "no detection result"),
    ]
}

#[test]
fn a_frame_in_doubt_is_covered_whole_and_counted() {
    with_watchdog(|| {
        for (buffer, reason) in frames_in_doubt() {
            for method in ["solid", "blur", "pixelate"] {
                let mut harness = harness(&format!("method={method}"));
                let bus = gst::Bus::new();
                harness.element().unwrap().set_bus(Some(&bus));
                let out = harness.push_and_pull(buffer.clone()).unwrap();
                assert_eq!(covered(&out, frame_rect()), 1.0, "{reason}");
                assert_eq!((stat(&harness, "frames"), stat(&harness, "frames-covered")), (1, 1));
                let mut messages = bus.iter().filter_map(|message| message.structure().map(ToOwned::to_owned));
                let message = messages.find(|message| message.name() == "retinaface-redact-doubt").unwrap();
                assert!(message.get::<&str>("reason").unwrap().contains(reason), "{message}");
            }
        }
    });
}

#[test]
fn a_frame_in_doubt_is_dropped_or_ends_the_stream_if_the_user_wants() {
    with_watchdog(|| {
        for (buffer, reason) in frames_in_doubt() {
            let mut dropping = harness("on-doubt=drop");
            dropping.push(buffer.clone()).unwrap();
            assert!(dropping.try_pull().is_none(), "{reason}");
            let next = dropping.push_and_pull(frame_with_faces(&video(), 9, &[])).unwrap();
            assert!(next.flags().contains(gst::BufferFlags::DISCONT));
            assert_eq!((stat(&dropping, "frames-dropped"), stat(&dropping, "frames-covered")), (1, 0));
            let mut failing = harness("on-doubt=error");
            let bus = gst::Bus::new();
            failing.element().unwrap().set_bus(Some(&bus));
            assert_eq!(failing.push(buffer), Err(gst::FlowError::Error));
            let error = bus.iter().find_map(|message| match message.view() {
                gst::MessageView::Error(error) => Some(error.error().to_string()),
                _ => None,
            });
            let error = error.unwrap();
            assert!(error.contains(reason) && error.contains("on-doubt=cover"), "{error}");
        }
    });
}

#[test]
fn an_earlier_frame_and_a_parent_do_not_leave_the_element() {
    with_watchdog(|| {
        let mut harness = harness("");
        let mut buffer = frame(&video(), 1);
        let original = frame(&video(), 0);
        let earlier = AnalysedFrame::new(&original, &video().to_caps().unwrap());
        let out = buffer.get_mut().unwrap();
        face_meta::attach_aged(out, &[at(100.0)], SIZE, Duration::from_millis(40), &earlier).unwrap();
        gst::ParentBufferMeta::add(out, &original);
        let out = harness.push_and_pull(buffer).unwrap();
        assert!(face_meta::read_analysed(&out).is_none() && out.meta::<gst::ParentBufferMeta>().is_none());
        assert_eq!(covered(&out, middle(&at(100.0))), 1.0);
        assert_eq!(face_meta::read(&out, SIZE).faces.len(), 1, "the metadata of faces stays");
    });
}

#[test]
fn strip_metadata_removes_all_that_is_known_of_faces() {
    with_watchdog(|| {
        let mut harness = harness("strip-metadata=true");
        let out = harness.push_and_pull(frame_with_faces(&video(), 0, &[at(100.0)])).unwrap();
        assert_eq!(face_meta::read(&out, SIZE).state, FrameState::None);
        assert_eq!(out.iter_meta::<gst_video::VideoRegionOfInterestMeta>().count(), 0);
        assert_eq!(covered(&out, middle(&at(100.0))), 1.0);
    });
}

#[test]
fn a_face_that_disappears_stays_covered_for_the_hold() {
    with_watchdog(|| {
        let mut harness = harness("hold=200");
        for number in 0..3 {
            harness.push_and_pull(frame_with_faces(&video(), number, &[at(100.0)])).unwrap();
        }
        let shares = (3..10).map(|number| {
            let out = harness.push_and_pull(frame_with_faces(&video(), number, &[])).unwrap();
            covered(&out, middle(&at(100.0)))
        });
        assert_eq!(shares.collect::<Vec<_>>(), [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    });
}

/// Pushes frames in which a face appears in frame 5, and returns what leaves.
fn appearing(harness: &mut gst_check::Harness) -> Vec<gst::Buffer> {
    for number in 0..8 {
        let faces = if number < 5 { vec![] } else { vec![at(100.0 + 2.0 * number as f32)] };
        harness.push(frame_with_faces(&video(), number, &faces)).unwrap();
    }
    std::iter::from_fn(|| harness.try_pull()).collect()
}

#[test]
fn a_face_is_covered_before_it_is_found() {
    with_watchdog(|| {
        let mut harness = harness("lookahead=3");
        let mut out = appearing(&mut harness);
        assert_eq!(out.len(), 5, "three frames are held");
        assert!(harness.push_event(gst::event::Eos::new()));
        out.extend(std::iter::from_fn(|| harness.try_pull()));
        let times = out.iter().map(|buffer| buffer.pts().unwrap().mseconds()).collect::<Vec<_>>();
        assert_eq!(times, (0..8).map(|number| 40 * number).collect::<Vec<_>>());
        let shares =
            out.iter().zip(0..).map(|(buffer, number)| covered(buffer, middle(&at(100.0 + 2.0 * number as f32))));
        assert_eq!(shares.collect::<Vec<_>>(), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let last = std::iter::from_fn(|| harness.try_pull_event()).last().unwrap();
        assert_eq!(last.type_(), gst::EventType::Eos);
    });
}

#[test]
fn events_keep_their_place_between_held_frames_and_a_flush_drops_both() {
    with_watchdog(|| {
        let mut harness = harness("lookahead=2");
        let pull = |harness: &mut gst_check::Harness| {
            let events = std::iter::from_fn(|| harness.try_pull_event()).collect::<Vec<_>>();
            events.iter().any(|event| event.type_() == gst::EventType::CustomDownstream)
        };
        let custom = |name: &str| gst::event::CustomDownstream::new(gst::Structure::new_empty(name));
        harness.push(frame_with_faces(&video(), 0, &[])).unwrap();
        assert!(harness.push_event(custom("after-0")));
        harness.push(frame_with_faces(&video(), 1, &[])).unwrap();
        harness.push(frame_with_faces(&video(), 2, &[])).unwrap();
        assert_eq!(harness.buffers_received(), 1);
        assert!(pull(&mut harness), "only frames in front of it delay it");
        harness.push(frame_with_faces(&video(), 3, &[])).unwrap();
        assert!(harness.push_event(custom("after-3")));
        assert!(!pull(&mut harness), "it waits with the frames before it");
        assert!(harness.push_event(gst::event::FlushStart::new()));
        assert!(harness.push_event(gst::event::FlushStop::new(true)));
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        assert!(harness.push_event(gst::event::Segment::new(&segment)));
        let received = harness.buffers_received();
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(harness.buffers_received(), received);
    });
}

#[test]
fn the_lookahead_is_reported_as_latency() {
    with_watchdog(|| {
        let mut harness = harness("lookahead=5");
        harness.push(frame_with_faces(&video(), 0, &[])).unwrap();
        let mut query = gst::query::Latency::new();
        assert!(harness.element().unwrap().static_pad("src").unwrap().query(&mut query));
        assert_eq!(query.result().1, gst::ClockTime::from_mseconds(200));
    });
}

#[test]
fn exempt_tracks_are_visible_until_the_user_takes_it_back_also_in_held_frames() {
    with_watchdog(|| {
        let mut harness = harness("lookahead=2 exempt-tracks=7");
        let exempt = Face { track_id: Some(7), ..at(100.0) };
        let other = Face { track_id: Some(8), ..at(220.0) };
        let mut push = |number: u64| {
            harness.push(frame_with_faces(&video(), number, &[exempt.clone(), other.clone()])).unwrap();
            harness.try_pull()
        };
        assert!(push(0).is_none() && push(1).is_none());
        let out = push(2).unwrap();
        assert_eq!((covered(&out, exempt.rect), covered(&out, middle(&other))), (0.0, 1.0));
        element(&harness).set_property("exempt-tracks", "");
        assert!(harness.push_event(gst::event::Eos::new()));
        let rest = std::iter::from_fn(|| harness.try_pull()).collect::<Vec<_>>();
        assert_eq!(rest.len(), 2);
        for out in rest {
            assert_eq!((covered(&out, middle(&exempt)), covered(&out, middle(&other))), (1.0, 1.0));
        }
    });
}

#[test]
fn masks_are_covered_in_every_frame() {
    with_watchdog(|| {
        let mut harness = harness("masks=\"10,10,50,10,50,40,10,40; 200,100,300,100,250,170\"");
        let out = harness.push_and_pull(frame_with_faces(&video(), 0, &[])).unwrap();
        assert_eq!(covered(&out, Rect::new(10.0, 10.0, 40.0, 30.0)), 1.0);
        assert_eq!(covered(&out, Rect::new(245.0, 110.0, 10.0, 10.0)), 1.0);
        assert_eq!(covered(&out, Rect::new(100.0, 20.0, 50.0, 50.0)), 0.0);
    });
}

#[test]
fn settings_that_cannot_be_parsed_fail_the_start() {
    with_watchdog(|| {
        for (properties, reason) in [("exempt-tracks=x", "`x` is not a track id"), ("masks=1,2,3,4", "three corners")] {
            let error = common::try_run(&format!("videotestsrc num-buffers=1 ! faceredact {properties} ! fakesink"));
            let error = error.expect_err("the start fails");
            error.assert_code(gst::ResourceError::Settings);
            assert!(error.text.contains(reason), "{error}");
        }
    });
}

#[test]
fn what_lies_outside_of_the_crop_of_a_frame_is_covered() {
    with_watchdog(|| {
        common::init();
        let mut harness = gst_check::Harness::new_parse("faceredact color=0xFFFFFF");
        let cropped = info(VideoFormat::Gray8, 200, 100);
        harness.set_src_caps(cropped.to_caps().unwrap());
        let mut buffer = frame(&video(), 0);
        let out = buffer.get_mut().unwrap();
        let flags = gst_video::VideoFrameFlags::empty();
        gst_video::VideoMeta::add(out, flags, VideoFormat::Gray8, SIZE.0 as u32, SIZE.1 as u32).unwrap();
        gst_video::VideoCropMeta::add(out, (51, 33, 200, 100));
        face_meta::attach(out, &[face(0.9, 50.0, 20.0, 40.0, 50.0)], (200, 100)).unwrap();
        let out = harness.push_and_pull(buffer).unwrap();
        for outside in
            [(0.0, 0.0, 320.0, 33.0), (0.0, 133.0, 320.0, 47.0), (0.0, 33.0, 51.0, 100.0), (251.0, 33.0, 69.0, 100.0)]
        {
            let (x, y, w, h) = outside;
            assert_eq!(covered(&out, Rect::new(x, y, w, h)), 1.0, "{outside:?}");
        }
        assert_eq!(covered(&out, Rect::new(111.0, 65.0, 20.0, 25.0)), 1.0, "the face, moved by the crop");
        assert_eq!(covered(&out, Rect::new(170.0, 60.0, 60.0, 60.0)), 0.0);
    });
}

/// Numbers below a limit, the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A frame with any metadata, and the faces that it says to be in the frame.
fn any_frame(numbers: &mut Numbers, number: u64) -> (gst::Buffer, Vec<Face>) {
    let count = numbers.below(3);
    let any = |numbers: &mut Numbers| Face {
        track_id: Some(numbers.below(4)).filter(|id| *id > 0),
        ..at(20.0 + numbers.below(240) as f32)
    };
    let faces = (0..count).map(|_| any(numbers)).collect::<Vec<_>>();
    let mut buffer = frame(&video(), number);
    let out = buffer.get_mut().unwrap();
    match numbers.below(6) {
        0 => return (buffer, Vec::new()),
        1 => {
            let from = Prediction { age: Duration::from_millis(numbers.below(900)), ..Default::default() };
            let predicted = |face: &Face| Face { uncertainty: Some(3.0), ..face.clone() };
            let predicted = faces.iter().map(predicted).collect::<Vec<_>>();
            face_meta::attach_predicted(out, &predicted, SIZE, &from).unwrap();
        }
        2 if count > 0 => {
            face_meta::attach(out, &faces, SIZE).unwrap();
            common::clip_roi(out, 0);
        }
        _ => face_meta::attach(out, &faces, SIZE).unwrap(),
    }
    if numbers.below(8) == 0 {
        out.set_pts(gst::ClockTime::NONE);
    }
    (buffer, faces)
}

/// Any sequence of frames and events: what leaves is covered whole, or shows none of the faces that
/// its metadata names.
#[test]
fn whatever_happens_a_frame_is_covered_whole_or_its_faces_are() {
    with_watchdog(|| {
        for seed in 0..150 {
            let mut numbers = Numbers(seed);
            let lookahead = numbers.below(5);
            let mut harness = harness(&format!("lookahead={lookahead} hold={}", numbers.below(300)));
            let mut expected = std::collections::HashMap::new();
            let (mut number, mut left) = (0, 0);
            let mut check = |harness: &mut gst_check::Harness, expected: &std::collections::HashMap<u64, Vec<Face>>| {
                while let Some(out) = harness.try_pull() {
                    left += 1;
                    let faces = &expected[&out.offset()];
                    let is_whole = covered(&out, frame_rect()) == 1.0;
                    let are_covered = faces.iter().all(|face| covered(&out, middle(face)) == 1.0);
                    let has_result = face_meta::read(&out, SIZE).state != FrameState::None;
                    assert!(is_whole || (are_covered && has_result), "seed {seed}: {faces:?}");
                }
            };
            for _ in 0..40 {
                match numbers.below(14) {
                    0 => {
                        let time = gst::ClockTime::from_mseconds(40 * number);
                        harness.push_event(gst::event::Gap::builder(time).build());
                    }
                    1 => {
                        harness.push_event(gst::event::FlushStart::new());
                        harness.push_event(gst::event::FlushStop::new(true));
                        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
                        harness.push_event(gst::event::Segment::new(&segment));
                    }
                    2 => number = numbers.below(number + 1),
                    3 => {
                        let rate = gst::Fraction::new(10 + numbers.below(20) as i32, 1);
                        let info = gst_video::VideoInfo::builder(VideoFormat::Gray8, SIZE.0 as u32, SIZE.1 as u32);
                        harness.set_src_caps(info.fps(rate).build().unwrap().to_caps().unwrap());
                    }
                    4 => {
                        // An id that no face has: nobody is exempt.
                        let ids = if numbers.below(2) == 0 { "" } else { "99" };
                        element(&harness).set_property("exempt-tracks", ids);
                    }
                    _ => {
                        let (mut buffer, faces) = any_frame(&mut numbers, number);
                        let offset = expected.len() as u64;
                        buffer.get_mut().unwrap().set_offset(offset);
                        expected.insert(offset, faces);
                        number += 1;
                        harness.push(buffer).unwrap();
                    }
                }
                check(&mut harness, &expected);
            }
            assert!(harness.push_event(gst::event::Eos::new()));
            check(&mut harness, &expected);
            assert!(left > 0, "seed {seed}");
        }
    });
}
