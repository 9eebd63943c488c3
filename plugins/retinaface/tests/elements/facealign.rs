//! The element `facealign`.

use crate::common::{self, face, frame_with_faces, info, with_watchdog};
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::crops::align;
use retinaface::crops::align::WarpBuffers;
use retinaface::geometry::{Face, Landmarks, PixelAspect, Point};
use retinaface::image::{ImageInfo, ImageView, OwnedImage, PixelFormat};

fn harness(description: &str, width: u32, height: u32) -> gst_check::Harness {
    common::init();
    let mut harness = gst_check::Harness::new_parse(description);
    harness.set_src_caps(info(VideoFormat::Rgb, width, height).to_caps().unwrap());
    harness
}

fn pull_all(harness: &mut gst_check::Harness) -> Vec<gst::Buffer> {
    std::iter::from_fn(|| harness.try_pull()).collect()
}

/// Start and duration of each GAP event.
fn gaps(harness: &mut gst_check::Harness) -> Vec<(gst::ClockTime, Option<gst::ClockTime>)> {
    let gap = |event: gst::Event| match event.view() {
        gst::EventView::Gap(gap) => Some(gap.get()),
        _ => None,
    };
    events(harness).into_iter().filter_map(gap).collect()
}

fn events(harness: &mut gst_check::Harness) -> Vec<gst::Event> {
    std::iter::from_fn(|| harness.try_pull_event()).collect()
}

#[test]
fn each_face_becomes_crop_with_timestamp_and_crop_meta() {
    with_watchdog(|| {
        let info = info(VideoFormat::Rgb, 640, 360);
        let faces = [
            Face { track_id: Some(4), parent_id: Some(5), ..face(0.9, 100.5, 50.25, 120.0, 140.0) },
            face(0.8, 400.0, 200.0, 60.0, 70.0),
            face(0.7, -20.0, -30.0, 90.0, 100.0),
        ];
        let mut harness = harness("facealign", 640, 360);
        let frame = frame_with_faces(&info, 5, &faces);
        assert_eq!(harness.push(frame.clone()), Ok(gst::FlowSuccess::Ok));
        let crops = pull_all(&mut harness);
        assert_eq!(crops.len(), 3);
        let attached = face_meta::read(&frame, (640, 360)).faces;
        for ((crop, face), attached) in crops.iter().zip(&faces).zip(attached) {
            assert_eq!((crop.pts(), crop.duration()), (frame.pts(), frame.duration()));
            let origin = face_meta::read_crop(crop).unwrap();
            assert_eq!(origin.stream, harness.element().unwrap().static_pad("sink").unwrap().stream_id().unwrap());
            assert_eq!((origin.frame_pts, origin.frame_size), (frame.pts(), (640, 360).into()));
            assert_eq!((origin.roi_id, &origin.face), (attached.roi_id, face));
            let crop_from_frame = align::crop_from_frame(&face.landmarks.unwrap(), PixelAspect::SQUARE, 112).unwrap();
            assert_eq!(origin.crop_from_frame, crop_from_frame);
            // The landmarks map close to the template, and the inverse maps back to the frame.
            for (landmark, expected) in face.landmarks.unwrap().into_iter().zip(retinaface::geometry::ARCFACE_TEMPLATE)
            {
                let in_crop = origin.crop_from_frame.apply(landmark);
                let back = origin.frame_from_crop.apply(in_crop);
                assert!((in_crop.x - expected.x).abs() < 4.0 && (in_crop.y - expected.y).abs() < 4.0);
                assert!((back.x - landmark.x).abs() < 0.01 && (back.y - landmark.y).abs() < 0.01);
            }
            // The pixels equal those of `align::warp`.
            let map = frame.map_readable().unwrap();
            let view = ImageView::new(ImageInfo::new(PixelFormat::Rgb, 640, 360), &[&map], &[640 * 3]).unwrap();
            let mut expected =
                OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, 112, 112), vec![0; 112 * 112 * 3]).unwrap();
            align::warp(&view, &crop_from_frame, &mut expected.view_mut(), &mut WarpBuffers::default()).unwrap();
            assert_eq!(crop.map_readable().unwrap().as_slice(), expected.data());
        }
    });
}

#[test]
fn frame_without_accepted_faces_becomes_gap() {
    with_watchdog(|| {
        let info = info(VideoFormat::Rgb, 320, 180);
        let mut harness = harness("facealign min-face-size=50 min-score=0.6 max-faces=1", 320, 180);
        let poor = face(0.5, 10.0, 10.0, 100.0, 100.0);
        let small = face(0.9, 10.0, 10.0, 49.0, 100.0);
        for (number, faces) in [vec![], vec![poor.clone()], vec![small.clone()]].into_iter().enumerate() {
            harness.push(frame_with_faces(&info, number as u64, &faces)).unwrap();
        }
        assert_eq!(pull_all(&mut harness).len(), 0);
        let ms = gst::ClockTime::from_mseconds;
        assert_eq!(gaps(&mut harness), [0, 40, 80].map(|start| (ms(start), Some(ms(40)))));
        harness.push(common::frame(&info, 3)).unwrap();
        assert_eq!(gaps(&mut harness), [(ms(120), Some(ms(40)))]);
        let good = face(0.8, 100.0, 20.0, 80.0, 90.0);
        harness.push(frame_with_faces(&info, 60, &[small, good, poor, face(0.7, 200.0, 20.0, 80.0, 90.0)])).unwrap();
        let crops = pull_all(&mut harness);
        assert_eq!(crops.iter().map(|crop| face_meta::read_crop(crop).unwrap().face.score).collect::<Vec<_>>(), [0.8]);
    });
}

#[test]
fn gap_interval_merges_gaps_except_first_after_crop() {
    with_watchdog(|| {
        let info = info(VideoFormat::Rgb, 320, 180);
        let ms = gst::ClockTime::from_mseconds;
        let mut harness = harness("facealign gap-interval=1000", 320, 180);
        for start in [0, 60] {
            harness.push(frame_with_faces(&info, start, &[face(0.9, 50.0, 20.0, 100.0, 120.0)])).unwrap();
            for next in 1..56 {
                harness.push(common::frame(&info, start + next)).unwrap();
            }
            let first = 40 * (start + 1);
            let expected = [(first, 40), (first + 40, 1000), (first + 1040, 1000)]
                .map(|(start, duration)| (ms(start), Some(ms(duration))));
            assert_eq!(gaps(&mut harness), expected);
        }
        assert!(harness.push_event(gst::event::Eos::new()));
        assert_eq!(gaps(&mut harness), [(ms(40 * 112), Some(ms(160)))], "the pending gap is sent before EOS");
    });
}

#[test]
fn degenerate_landmarks_skip_only_their_face() {
    with_watchdog(|| {
        let info = info(VideoFormat::Rgb, 320, 180);
        let good = face(0.8, 100.0, 20.0, 80.0, 90.0);
        let with = |landmarks: Option<Landmarks>| Face { landmarks, ..face(0.9, 10.0, 10.0, 50.0, 50.0) };
        let line = std::array::from_fn(|i| Point::new(20.0 + i as f32, 30.0 + i as f32));
        let faces = [with(Some([Point::new(30.0, 30.0); 5])), with(Some(line)), good.clone()];
        let mut harness = harness("facealign", 320, 180);
        harness.push(frame_with_faces(&info, 0, &faces)).unwrap();
        let crops = pull_all(&mut harness);
        assert_eq!(crops.len(), 1);
        assert_eq!(face_meta::read_crop(&crops[0]).unwrap().face, good);
        harness.push(frame_with_faces(&info, 1, &faces[..2])).unwrap();
        assert!(events(&mut harness).iter().any(|event| event.type_() == gst::EventType::Gap));
    });
}

#[test]
fn faces_without_landmarks_require_align_without_landmarks() {
    with_watchdog(|| {
        let info = info(VideoFormat::Rgb, 320, 180);
        let boxed = Face { landmarks: None, ..face(0.9, 100.0, 20.0, 80.0, 100.0) };
        let mut harness = harness("facealign name=align", 320, 180);
        let bus = gst::Bus::new();
        let align = harness.element().unwrap();
        align.set_bus(Some(&bus));
        let pushed = harness.push(frame_with_faces(&info, 0, std::slice::from_ref(&boxed)));
        assert_eq!(pushed, Err(gst::FlowError::Error));
        let message = bus.pop_filtered(&[gst::MessageType::Error]).unwrap();
        let gst::MessageView::Error(error) = message.view() else { panic!("{message:?}") };
        assert!(error.error().message().contains("align-without-landmarks=true"), "{error:?}");

        let mut harness = self::harness("facealign align-without-landmarks=true size=100", 320, 180);
        harness.push(frame_with_faces(&info, 0, &[boxed, face(0.8, 10.0, 10.0, 60.0, 70.0)])).unwrap();
        let crops = pull_all(&mut harness);
        assert_eq!(crops.len(), 2);
        let origin = face_meta::read_crop(&crops[0]).unwrap();
        // The crop has the centre of the box, and its side is the longer side of the box.
        assert_eq!(origin.frame_from_crop.apply(Point::new(0.0, 0.0)), Point::new(90.0, 20.0));
    });
}

#[test]
fn downstream_caps_select_format_and_size_sets_dimensions() {
    with_watchdog(|| {
        let info = info(VideoFormat::Rgb, 320, 180);
        let faces = [face(0.9, 50.0, 20.0, 100.0, 120.0)];
        let crop = |description: &str| {
            let mut harness = harness(description, 320, 180);
            harness.push(frame_with_faces(&info, 0, &faces)).unwrap();
            let buffer = harness.pull().unwrap();
            let caps = harness.sinkpad().unwrap().current_caps().unwrap();
            (gst_video::VideoInfo::from_caps(&caps).unwrap(), buffer.map_readable().unwrap().to_vec())
        };
        let (rgb_info, rgb) = crop("facealign");
        assert_eq!((rgb_info.format(), rgb_info.width(), rgb_info.height()), (VideoFormat::Rgb, 112, 112));
        let (bgr_info, bgr) = crop("facealign ! capsfilter caps=video/x-raw,format=BGR");
        assert_eq!(bgr_info.format(), VideoFormat::Bgr);
        assert!(rgb.chunks(3).zip(bgr.chunks(3)).all(|(a, b)| [a[0], a[1], a[2]] == [b[2], b[1], b[0]]));
        for size in [16, 75, 128, 224] {
            let (info, data) = crop(&format!("facealign size={size}"));
            assert_eq!((info.width(), info.height(), data.len()), (size, size, info.size()));
        }
    });
}

#[test]
fn unsupported_downstream_caps_error_suggests_videoconvert() {
    with_watchdog(|| {
        assert!(gst::parse::launch("facealign ! video/x-raw,format=NV12 ! fakesink").is_err(), "linking fails");
        // Downstream caps can change after linking.
        let pipeline = gst::parse::launch("videotestsrc num-buffers=2 ! facealign ! appsink name=out").unwrap();
        let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
        let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
        sink.set_caps(Some(&"video/x-raw,format=NV12".parse().unwrap()));
        let _ = pipeline.set_state(gst::State::Playing);
        let bus = pipeline.bus().unwrap();
        let message = bus.timed_pop_filtered(gst::ClockTime::NONE, &[gst::MessageType::Error]).unwrap();
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        let text = error.error().to_string();
        assert!(text.contains("format { RGB, BGR }, but downstream accepts NV12; put `videoconvert` after"), "{text}");
        pipeline.set_state(gst::State::Null).unwrap();
    });
}

#[test]
fn eos_flush_and_segment_events_are_forwarded() {
    with_watchdog(|| {
        let info = info(VideoFormat::Rgb, 320, 180);
        let faces = [face(0.9, 50.0, 20.0, 100.0, 120.0)];
        let mut harness = harness("facealign", 320, 180);
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(gst::ClockTime::from_seconds(3));
        assert!(harness.push_event(gst::event::Segment::new(&segment)));
        harness.push(frame_with_faces(&info, 80, &faces)).unwrap();
        let types = |events: &[gst::Event]| events.iter().map(|event| event.type_()).collect::<Vec<_>>();
        let seen = events(&mut harness);
        assert!(seen.iter().any(|event| matches!(event.view(), gst::EventView::Segment(s) if s.segment().downcast_ref::<gst::ClockTime>().is_some_and(|s| s.start() == segment.start()))), "{:?}", types(&seen));

        assert!(harness.push_event(gst::event::FlushStart::new()));
        assert_eq!(harness.push(frame_with_faces(&info, 81, &faces)), Err(gst::FlowError::Flushing));
        assert!(harness.push_event(gst::event::FlushStop::new(true)));
        assert!(harness.push_event(gst::event::Segment::new(&segment)));
        assert_eq!(harness.push(frame_with_faces(&info, 82, &faces)), Ok(gst::FlowSuccess::Ok));
        assert!(harness.push_event(gst::event::Eos::new()));
        let seen = types(&events(&mut harness));
        assert!(
            seen.contains(&gst::EventType::FlushStart)
                && seen.contains(&gst::EventType::FlushStop)
                && seen.contains(&gst::EventType::Eos),
            "{seen:?}"
        );
    });
}

#[test]
fn downstream_flow_error_is_returned_upstream() {
    with_watchdog(|| {
        let info = info(VideoFormat::Rgb, 320, 180);
        for flow_error in
            [gst::FlowError::Eos, gst::FlowError::Error, gst::FlowError::NotLinked, gst::FlowError::Flushing]
        {
            let element = gst::ElementFactory::make("facealign").build().unwrap();
            let (source, sink) = (
                gst::Pad::builder(gst::PadDirection::Src).name("src").build(),
                gst::Pad::builder(gst::PadDirection::Sink).name("sink"),
            );
            let sink = sink.chain_function(move |_, _, _| Err(flow_error)).event_function(|_, _, _| true).build();
            for pad in [&source, &sink] {
                pad.set_active(true).unwrap();
            }
            source.link(&element.static_pad("sink").unwrap()).unwrap();
            element.static_pad("src").unwrap().link(&sink).unwrap();
            element.set_state(gst::State::Playing).unwrap();
            source.push_event(gst::event::StreamStart::new("test"));
            source.push_event(gst::event::Caps::new(&info.to_caps().unwrap()));
            source.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
            let faces = [face(0.9, 50.0, 20.0, 100.0, 120.0), face(0.8, 150.0, 20.0, 100.0, 120.0)];
            assert_eq!(source.push(frame_with_faces(&info, 0, &faces)), Err(flow_error));
            element.set_state(gst::State::Null).unwrap();
        }
    });
}

#[test]
fn a_failed_negotiation_names_the_field_that_downstream_does_not_accept() {
    with_watchdog(|| {
        let caps = |filter: &str| format!("facealign ! capsfilter caps=\"{filter}\"");
        for (elements, parts) in [
            (
                caps("video/x-raw,framerate=25/1"),
                ["framerate 0/1, but downstream accepts 25/1", "remove the framerate"],
            ),
            (caps("video/x-raw,width=224,height=224"), ["width 112, but downstream accepts 224", "set size=224"]),
            (
                caps("video/x-raw,pixel-aspect-ratio=2/1"),
                ["pixel-aspect-ratio 1/1, but", "remove the pixel-aspect-ratio"],
            ),
        ] {
            let source = "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=320,height=180";
            let error = common::try_run(&format!("{source} ! {elements} ! fakesink")).unwrap_err();
            error.assert_code(gst::CoreError::Negotiation);
            assert!(parts.iter().all(|part| error.text.contains(part)), "{error}");
        }
        // The remedies work.
        for elements in [
            "facealign ! videorate ! video/x-raw,framerate=25/1",
            "facealign size=224 ! video/x-raw,width=224,height=224",
            "facealign ! videoscale ! video/x-raw,pixel-aspect-ratio=2/1",
            "facealign ! videoscale ! video/x-raw,width=160,height=120",
            "facealign ! videoconvert ! video/x-raw,format=I420",
        ] {
            let photo = common::clip("multi_face.jpg");
            let source = format!("filesrc location={photo} ! jpegdec ! retinaface");
            assert!(!common::run(&format!("{source} ! {elements} ! appsink name=out")).is_empty(), "{elements}");
        }
    });
}

#[test]
fn antialiased_crops_of_a_large_noisy_face_have_less_noise() {
    with_watchdog(|| {
        let info = info(VideoFormat::Gray8, 1120, 1120);
        let pixels = (0..1120 * 1120u32).map(|i| 90 + (i.wrapping_mul(2_654_435_761) >> 26) as u8).collect::<Vec<_>>();
        let spread = |element: &str| {
            let mut harness = gst_check::Harness::new_parse(element);
            harness.set_src_caps(info.to_caps().unwrap());
            let mut buffer = gst::Buffer::from_mut_slice(pixels.clone());
            let large = face(0.9, 60.0, 60.0, 1000.0, 1000.0);
            face_meta::attach(buffer.get_mut().unwrap(), &[large], (1120, 1120)).unwrap();
            let crop = harness.push_and_pull(buffer).unwrap();
            let crop = crop.map_readable().unwrap().to_vec();
            let inner =
                crop.chunks(3 * 112).skip(20).take(70).flat_map(|row| row[90..240].to_vec()).collect::<Vec<_>>();
            inner.iter().max().unwrap() - inner.iter().min().unwrap()
        };
        let (plain, antialiased) = (spread("facealign"), spread("facealign antialias=true"));
        assert!(plain > 40 && antialiased < 16, "{plain} levels without, {antialiased} with antialiasing");
    });
}
