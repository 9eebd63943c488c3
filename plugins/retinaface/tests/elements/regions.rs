//! `retinaface inference-region=roi-list`: detection in the regions of interest of an earlier detector.

use std::sync::Arc;
use std::sync::Mutex;

use face_meta::{FrameFaces, FrameState};
use gst::prelude::*;
use gst_video::{VideoInfo, VideoRegionOfInterestMeta};
use retinaface::geometry::{Face, FrameSize, Rect, iou};

use crate::common::{self, clip, run, with_watchdog};

/// A region of interest: its type, its id and its rectangle.
type Region<'a> = (&'a str, i32, (u32, u32, u32, u32));

/// multi_face.jpg in the caps that `elements` give it.
fn photo(elements: &str) -> gst::Sample {
    let decoded = format!("filesrc location={} ! jpegdec ! videoconvert", clip("multi_face.jpg"));
    run(&format!("{decoded} ! {elements} ! appsink name=out")).remove(0)
}

fn i420() -> gst::Sample {
    photo("video/x-raw,format=I420")
}

/// A frame with the pixels of the sample and these regions, `number` x 40 ms after the first one.
fn frame(sample: &gst::Sample, number: u64, regions: &[Region<'_>]) -> gst::Buffer {
    common::Progress::of_current_test().advance();
    let mut buffer = sample.buffer_owned().unwrap();
    let out = buffer.make_mut();
    out.set_pts(gst::ClockTime::from_mseconds(40) * number);
    for (class, id, rect) in regions {
        VideoRegionOfInterestMeta::add(out, class, *rect).set_id(*id);
    }
    buffer
}

/// Pushes one frame with these regions from an appsrc through `elements`.
fn push(elements: &str, sample: &gst::Sample, regions: &[Region<'_>]) -> gst::Sample {
    common::init();
    let pipeline = gst::parse::launch(&format!("appsrc name=in format=time ! {elements} ! appsink name=out")).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    source.set_caps(sample.caps_owned().as_ref());
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    source.push_buffer(frame(sample, 0, regions)).unwrap();
    source.end_of_stream().unwrap();
    let sample = sink.pull_sample().unwrap_or_else(|_| panic!("{elements}: no sample"));
    pipeline.set_state(gst::State::Null).unwrap();
    sample
}

fn read(sample: &gst::Sample) -> FrameFaces {
    let info = VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
    let pixel_aspect = face_meta::to_pixel_aspect(info.par());
    let size = FrameSize { width: info.width() as usize, height: info.height() as usize, pixel_aspect };
    face_meta::read(sample.buffer().unwrap(), size)
}

fn faces(elements: &str, sample: &gst::Sample, regions: &[Region<'_>]) -> Vec<Face> {
    let found = read(&push(elements, sample, regions));
    assert_eq!((found.state, found.lost, found.age.is_zero()), (FrameState::Detected, 0, true), "{elements}");
    found.into_faces()
}

/// The rectangle of a person with this face.
fn person(face: &Face) -> (u32, u32, u32, u32) {
    let Rect { x, y, w, h } = face.rect;
    ((x - 0.6 * w).max(0.0) as u32, (y - 0.4 * h).max(0.0) as u32, (2.2 * w) as u32, (3.0 * h) as u32)
}

fn is_within(face: &Face, (x, y, w, h): (u32, u32, u32, u32)) -> bool {
    let (centre_x, centre_y) = (face.rect.x + face.rect.w / 2.0, face.rect.y + face.rect.h / 2.0);
    (x as f32..(x + w) as f32).contains(&centre_x) && (y as f32..(y + h) as f32).contains(&centre_y)
}

/// Whether the face lies in the region with some distance to its edges.
fn is_complete(face: &Face, (x, y, w, h): (u32, u32, u32, u32)) -> bool {
    let Rect { w: margin, .. } = face.rect.grown(0.2);
    let (left, top) = (face.rect.x - x as f32, face.rect.y - y as f32);
    let (right, bottom) = ((x + w) as f32 - face.rect.right(), (y + h) as f32 - face.rect.bottom());
    [left, top, right, bottom].iter().all(|distance| *distance >= margin)
}

/// Asserts that the faces are the same, in any order, apart from their parents.
fn assert_same(name: &str, faces: &[Face], expected: &[Face], max_distance: f32) {
    assert_eq!(faces.len(), expected.len(), "{name}: {faces:?} {expected:?}");
    for expected in expected {
        let distance = |face: &Face| {
            let (a, b) = (face.rect, expected.rect);
            let corners = [a.x - b.x, a.y - b.y, a.right() - b.right(), a.bottom() - b.bottom()];
            let pairs = face.landmarks.unwrap().into_iter().zip(expected.landmarks.unwrap());
            let points = pairs.flat_map(|(a, b)| [a.x - b.x, a.y - b.y]);
            corners.into_iter().chain(points).map(f32::abs).fold(0.0, f32::max)
        };
        let nearest = faces.iter().map(distance).fold(f32::INFINITY, f32::min);
        assert!(nearest <= max_distance, "{name}: the nearest face is {nearest} px from {expected:?}");
    }
}

#[test]
fn faces_are_those_of_a_static_region_with_the_same_rectangle() {
    with_watchdog(|| {
        let stored = "videoscale add-borders=false ! video/x-raw,format=I420,width=500,height=667";
        for (name, sample) in [("square", i420()), ("2/1", photo(&format!("{stored},pixel-aspect-ratio=2/1")))] {
            let all = faces("retinaface", &sample, &[]);
            assert_eq!(all.len(), 5, "{name}");
            for (id, face) in (100..).zip(&all) {
                let (x, y, w, h) = person(face);
                let expected = faces(&format!("retinaface roi={x},{y},{w},{h}"), &sample, &[]);
                assert!(expected.iter().any(|face| is_within(face, (x, y, w, h))), "{name}: {expected:?}");
                assert!(expected.iter().all(|face| face.parent_id.is_none()));
                let found = faces("retinaface inference-region=roi-list", &sample, &[("person", id, (x, y, w, h))]);
                // The input has more padding, which changes only what the model makes of faces that the
                // edge of the region cuts.
                let complete = |faces: &[Face]| {
                    faces.iter().filter(|face| is_complete(face, (x, y, w, h))).cloned().collect::<Vec<_>>()
                };
                assert_same(name, &complete(&found), &complete(&expected), 1.0);
                assert!(found.iter().all(|face| face.parent_id == Some(id)), "{name}: {found:?}");
                // The same place as in the whole frame, within the precision of another scale.
                let is_same = |found: &&Face| iou(found.rect, face.rect) > 0.6;
                assert_eq!(found.iter().filter(is_same).count(), 1, "{name}: {found:?} {face:?}");
            }
        }
    });
}

#[test]
fn each_face_has_the_id_of_its_region_and_faces_outside_are_not_found() {
    with_watchdog(|| {
        let sample = i420();
        let all = faces("retinaface", &sample, &[]);
        let (left, right) = (
            all.iter().min_by(|a, b| a.rect.x.total_cmp(&b.rect.x)).unwrap(),
            all.iter().max_by(|a, b| a.rect.x.total_cmp(&b.rect.x)).unwrap(),
        );
        let regions = [("person", 41, person(left)), ("person", -7, person(right))];
        let out = push("retinaface inference-region=roi-list object-class=person", &sample, &regions);
        let found = read(&out);
        assert!(found.faces.len() >= 2 && found.faces.len() < all.len(), "{found:?}");
        for found in &found.faces {
            let parent = regions.iter().find(|(_, id, _)| found.face.parent_id == Some(*id)).unwrap();
            assert!(is_within(&found.face, parent.2), "{found:?} {parent:?}");
            // Readers of regions of interest see the parent, too.
            let rois = out.buffer().unwrap().iter_meta::<VideoRegionOfInterestMeta>();
            let of_face = rois.filter(|roi| roi.id() == found.roi_id).map(|roi| roi.parent_id()).collect::<Vec<_>>();
            assert_eq!(of_face, [parent.1]);
        }
        for (_, id, _) in regions {
            assert!(found.faces.iter().any(|found| found.face.parent_id == Some(id)), "{id}: {found:?}");
        }
        let persons = out.buffer().unwrap().iter_meta::<VideoRegionOfInterestMeta>();
        assert_eq!(persons.filter(|roi| roi.roi_type() == "person").count(), 2, "the regions stay");
    });
}

#[test]
fn only_regions_of_the_wanted_classes_count() {
    with_watchdog(|| {
        let sample = i420();
        let all = faces("retinaface", &sample, &[]);
        let regions = [("person", 1, person(&all[0])), ("car", 2, person(&all[1]))];
        let parents = |properties: &str| {
            let found = faces(&format!("retinaface inference-region=roi-list {properties}"), &sample, &regions);
            let mut parents = found.iter().map(|face| face.parent_id.unwrap()).collect::<Vec<_>>();
            parents.sort_unstable();
            parents.dedup();
            parents
        };
        assert_eq!(parents("object-class=person"), [1]);
        assert_eq!(parents("object-class=car"), [2]);
        assert_eq!(parents("object-class=\"bus, car,person\""), [1, 2]);
        assert_eq!(parents(""), [1, 2]);
        assert_eq!(parents("object-class=perso"), [0; 0]);
        // Without roi-list the regions mean nothing.
        let whole = faces("retinaface object-class=person", &sample, &regions);
        assert_eq!(whole, all);
    });
}

#[test]
fn a_face_in_overlapping_regions_is_found_once_and_belongs_to_the_smallest() {
    with_watchdog(|| {
        let sample = i420();
        let face = &faces("retinaface", &sample, &[])[0];
        let (x, y, w, h) = person(face);
        let (shifted, group) = ((x - w / 4, y, w, h + 20), (x.saturating_sub(2 * w), 0, 5 * w, 667));
        for regions in [
            [("group", 1, group), ("person", 2, (x, y, w, h)), ("person", 3, shifted)],
            [("person", 3, shifted), ("person", 2, (x, y, w, h)), ("group", 1, group)],
        ] {
            let found = faces("retinaface inference-region=roi-list", &sample, &regions);
            let same = found.iter().filter(|found| iou(found.rect, face.rect) > 0.5);
            assert_eq!(same.map(|face| face.parent_id).collect::<Vec<_>>(), [Some(2)], "{found:?}");
        }
    });
}

#[test]
fn the_static_regions_clip_those_of_objects() {
    with_watchdog(|| {
        let sample = i420();
        let all = faces("retinaface", &sample, &[]);
        let regions = all.iter().map(|face| ("person", face.rect.x as i32, person(face))).collect::<Vec<_>>();
        let found = faces("retinaface inference-region=roi-list roi=0,0,500,667", &sample, &regions);
        let expected = all.iter().filter(|face| face.rect.right() < 450.0).count();
        assert!(expected > 0 && found.len() >= expected && found.len() < all.len(), "{found:?}");
        assert!(found.iter().all(|face| face.rect.x < 500.0), "{found:?}");
    });
}

/// A harness with a model that no other test uses, so that no other stream shares its runs.
fn own_model(properties: &str) -> (gst_check::Harness, gst::Element) {
    common::init();
    let harness = gst_check::Harness::new_parse(&format!("retinaface name=it inference-region=roi-list {properties}"));
    let element = harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("it").unwrap();
    (harness, element)
}

fn count(element: &gst::Element, name: &str) -> u64 {
    element.property::<gst::Structure>("stats").get(name).unwrap()
}

/// The number of frames by the size of their batch.
fn batches(element: &gst::Element) -> Vec<(String, u64)> {
    let batches = element.property::<gst::Structure>("stats").get::<gst::Structure>("batches").unwrap();
    batches.iter().map(|(name, count)| (name.to_string(), count.get().unwrap())).collect()
}

#[test]
fn the_regions_of_a_frame_share_one_run() {
    with_watchdog(|| {
        let sample = i420();
        let (mut harness, element) = own_model("batch-size=8 batch-timeout=0 threads=7");
        harness.set_src_caps(sample.caps_owned().unwrap());
        // Persons of three sizes and the same proportions, within a quarter of the height.
        let regions =
            [("person", 1, (0, 0, 150, 340)), ("person", 2, (200, 100, 99, 240)), ("person", 3, (500, 20, 301, 640))];
        harness.push_and_pull(frame(&sample, 0, &regions)).unwrap();
        assert_eq!(batches(&element), [("3".to_owned(), 1)]);
        assert_eq!((count(&element, "inferred"), count(&element, "regions")), (1, 3));
        // A frame without a region is analysed without a run.
        let out = harness.push_and_pull(frame(&sample, 1, &[])).unwrap();
        let found = face_meta::read(&out, (1000, 667));
        assert_eq!(
            (found.state, found.known_age(), found.faces.len()),
            (FrameState::Detected, Some(Default::default()), 0)
        );
        assert_eq!(batches(&element), [("0".to_owned(), 1), ("3".to_owned(), 1)]);
        assert_eq!((count(&element, "inferred"), count(&element, "regions")), (2, 3));
    });
}

#[test]
fn regions_that_cannot_be_used_are_dropped_and_those_beyond_the_limit_are_counted() {
    with_watchdog(|| {
        let sample = i420();
        let face = faces("retinaface", &sample, &[]).remove(0);
        const MAX: u32 = u32::MAX;
        let mut regions = vec![
            ("person", 0, (0, 0, 0, 0)),
            ("person", 0, (MAX, MAX, MAX, MAX)),
            ("person", 0, (1000, 0, 10, 10)),
            ("person", i32::MIN, (0, 667, MAX, MAX)),
            ("", i32::MAX, (10, 10, 0, 50)),
            // A pixel at the corner, and columns and rows of one pixel.
            ("", 5, (999, 666, MAX, MAX)),
            ("person", 6, (999, 0, MAX, MAX)),
            ("person", 6, (0, 665, 1000, 1)),
        ];
        let (x, y, w, h) = person(&face);
        // It reaches to the edge of the frame and past the range of the type.
        regions.push(("person", 9, (x, y, w, h)));
        let (mut harness, element) = own_model("input-size=64 threads=9");
        harness.set_src_caps(sample.caps_owned().unwrap());
        harness.push_and_pull(frame(&sample, 0, &regions)).unwrap();
        assert_eq!((count(&element, "regions"), count(&element, "regions-left-out")), (4, 0));
        element.set_property("input-size", 640u32);
        let out = harness.push_and_pull(frame(&sample, 1, &regions[8..])).unwrap();
        assert!(!face_meta::read(&out, (1000, 667)).faces.is_empty());
        // Thousands of small regions, and the one with the face.
        element.set_property("input-size", 64u32);
        let crowd = (0..5000).map(|index| ("person", index, (index as u32 % 900, index as u32 / 900, 8, 8)));
        let crowd = crowd.chain([regions[8]]).collect::<Vec<_>>();
        harness.push_and_pull(frame(&sample, 2, &crowd)).unwrap();
        assert_eq!((count(&element, "regions"), count(&element, "regions-left-out")), (4 + 1 + 64, 5001 - 64));
    });
}

#[test]
fn regions_are_scaled_by_videoscale_with_the_frame() {
    with_watchdog(|| {
        let sample = i420();
        let face = faces("retinaface", &sample, &[]).remove(0);
        let region = ("person", 5, person(&face));
        let detector = "retinaface inference-region=roi-list object-class=person";
        let scaled = format!("videoscale add-borders=false ! video/x-raw,width=500,height=333 ! {detector}");
        let before = faces(detector, &sample, &[region]);
        let after = faces(&scaled, &sample, &[region]);
        let halved = before.iter().map(|face| face.mapped(|p| retinaface::Point::new(p.x * 0.5, p.y * 333.0 / 667.0)));
        // Half of the pixels are gone, and with them some of the precision.
        assert_same("videoscale", &after, &halved.collect::<Vec<_>>(), 4.0);
        assert!(after.iter().all(|face| face.parent_id == Some(5)));
    });
}

#[test]
fn faces_of_another_retinaface_are_no_regions() {
    with_watchdog(|| {
        let sample = i420();
        for class in ["", "object-class=face"] {
            let found = faces(&format!("retinaface ! retinaface inference-region=roi-list {class}"), &sample, &[]);
            assert_eq!(found, [], "{class}");
        }
        // A face of another detector is one.
        let face = faces("retinaface", &sample, &[]).remove(0);
        let region = ("face", 3, person(&face));
        let found = faces("retinaface inference-region=roi-list object-class=face", &sample, &[region]);
        assert!(!found.is_empty() && found.iter().all(|face| face.parent_id == Some(3)), "{found:?}");
    });
}

#[test]
fn every_mode_takes_the_regions_of_the_analysed_frame() {
    with_watchdog(|| {
        let sample = i420();
        let all = faces("retinaface", &sample, &[]);
        let rects = [person(&all[0]), person(&all[1])];
        for mode in ["inflight=1", "inflight=4", "inference-interval=2 threads=3", "mode=latest max-age=0"] {
            let (mut harness, _) = own_model(&format!("input-size=160 refine-large-faces=on {mode}"));
            harness.set_src_caps(sample.caps_owned().unwrap());
            let mut with_faces = 0;
            for number in 0.. {
                // The region moves from one face to the other, and has the number of its frame as id.
                let region = ("person", number as i32, rects[number as usize % 2]);
                let out = harness.push_and_pull(frame(&sample, number, &[region])).unwrap();
                let found = face_meta::read(&out, (1000, 667));
                let analysed = number - found.age.as_millis() as u64 / 40;
                for found in &found.faces {
                    assert_eq!(found.face.parent_id, Some(analysed as i32), "{mode}: frame {number}, {found:?}");
                    assert!(is_within(&found.face, rects[analysed as usize % 2]), "{mode}: frame {number}, {found:?}");
                }
                with_faces += usize::from(!found.faces.is_empty());
                if number >= 5 && with_faces >= 3 {
                    break;
                }
            }
        }
    });
}

#[test]
fn facetrack_keeps_the_parent_and_a_predicted_face_has_that_of_its_detection() {
    with_watchdog(|| {
        let sample = i420();
        let all = faces("retinaface", &sample, &[]);
        common::init();
        let mut harness = gst_check::Harness::new_parse(
            "retinaface inference-region=roi-list inference-interval=2 threads=2 ! facetrack min-hits=1",
        );
        harness.set_src_caps(sample.caps_owned().unwrap());
        let parents = |buffer: &gst::BufferRef| {
            let found = face_meta::read(buffer, (1000, 667));
            let [face] = &found.faces[..] else { panic!("{found:?}") };
            let roi = buffer.iter_meta::<VideoRegionOfInterestMeta>().find(|roi| roi.id() == face.roi_id).unwrap();
            (found.state, face.face.parent_id, roi.parent_id(), face.face.track_id.is_some())
        };
        // Only this face is in it.
        let Rect { x, y, w, h } = all[0].rect.grown(1.4);
        let region = ("person", 17, (x as u32, y as u32, w as u32, h as u32));
        let detected = harness.push_and_pull(frame(&sample, 0, &[region])).unwrap();
        assert_eq!(parents(&detected), (FrameState::Detected, Some(17), 17, true));
        // In this frame the id can mean another object.
        let other = ("person", 17, person(&all[1]));
        let predicted = harness.push_and_pull(frame(&sample, 1, &[other])).unwrap();
        assert_eq!(parents(&predicted), (FrameState::Predicted, Some(17), 0, true));
    });
}

#[test]
fn regions_and_classes_can_change_in_playing() {
    with_watchdog(|| {
        let sample = i420();
        let all = faces("retinaface", &sample, &[]);
        let region = ("person", 1, person(&all[0]));
        let (mut harness, element) = own_model("object-class=car");
        harness.set_src_caps(sample.caps_owned().unwrap());
        let number = Arc::new(Mutex::new(0));
        let count = |harness: &mut gst_check::Harness| {
            let mut number = number.lock().unwrap();
            *number += 1;
            let out = harness.push_and_pull(frame(&sample, *number, &[region])).unwrap();
            face_meta::read(&out, (1000, 667)).faces.len()
        };
        assert_eq!(count(&mut harness), 0);
        element.set_property("object-class", "car,person");
        let in_region = count(&mut harness);
        assert!(in_region > 0 && in_region < 5);
        element.set_property_from_str("inference-region", "full-frame");
        assert_eq!(count(&mut harness), 5);
        element.set_property_from_str("inference-region", "roi-list");
        element.set_property("object-class", None::<String>);
        assert_eq!(count(&mut harness), in_region);
    });
}
