//! Scheduling: frames in flight, streams that share a model, latest-only detection.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{self, clip, info, project, quoted, wait_until, with_watchdog};
use gst::prelude::*;
use gst_video::VideoFormat;

fn harness(properties: &str) -> gst_check::Harness {
    common::init();
    let model = quoted(&project::default_model());
    gst_check::Harness::new_parse(&format!("retinaface name=it model-file={model} {properties}"))
}

fn element(harness: &gst_check::Harness) -> gst::Element {
    harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("it").unwrap()
}

fn push_all(harness: &mut gst_check::Harness, frames: impl Iterator<Item = gst::Buffer>) {
    for frame in frames {
        harness.push(frame).unwrap();
    }
}

fn milliseconds(time: Option<gst::ClockTime>) -> u64 {
    time.unwrap().mseconds()
}

#[test]
fn frames_in_flight_are_pushed_in_order() {
    with_watchdog(|| {
        for inflight in [1, 2, 5] {
            let info = info(VideoFormat::I420, 320, 180);
            let mut harness = harness(&format!("inflight={inflight} inference-interval=2"));
            harness.set_src_caps(info.to_caps().unwrap());
            for number in 0..20 {
                harness.push(common::frame(&info, number)).unwrap();
            }
            let times = (0..20).map(|_| milliseconds(harness.pull().unwrap().pts())).collect::<Vec<_>>();
            assert_eq!(times, (0..20).map(|number| 40 * number).collect::<Vec<_>>(), "inflight={inflight}");
        }
    });
}

#[test]
fn frame_is_pushed_without_a_following_frame() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 320, 180);
        let mut harness = harness("inflight=8");
        harness.set_src_caps(info.to_caps().unwrap());
        for number in 0..3 {
            let out = harness.push_and_pull(common::frame(&info, number)).unwrap();
            assert!(face_meta::read(&out, (320, 180)).state.has_result());
        }
    });
}

#[test]
fn serialized_events_never_overtake_frames() {
    with_watchdog(|| {
        // Caps, a tag and EOS, each between frames that are in flight.
        let description = format!("retinaface name=it inflight=4 model-file={}", quoted(&project::default_model()));
        let mut harness = gst_check::Harness::new_parse(&description);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&seen);
        let source = element(&harness).static_pad("src").unwrap();
        source.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, probe| {
            let item = match &probe.data {
                Some(gst::PadProbeData::Buffer(buffer)) => format!("frame {}", milliseconds(buffer.pts())),
                Some(gst::PadProbeData::Event(event)) => event.type_().name().to_string(),
                _ => return gst::PadProbeReturn::Ok,
            };
            recorded.lock().unwrap().push(item);
            gst::PadProbeReturn::Ok
        });
        let small = info(VideoFormat::I420, 320, 180);
        harness.set_src_caps(small.to_caps().unwrap());
        push_all(&mut harness, (0..4).map(|number| common::frame(&small, number)));
        harness.push_event(gst::event::Tag::new(gst::TagList::new()));
        push_all(&mut harness, (4..8).map(|number| common::frame(&small, number)));
        let large = info(VideoFormat::Nv12, 640, 360);
        harness.set_src_caps(large.to_caps().unwrap());
        push_all(&mut harness, (8..11).map(|number| common::frame(&large, number)));
        harness.push_event(gst::event::Eos::new());
        let seen = seen.lock().unwrap().clone();
        let of_interest = |item: &&String| item.starts_with("frame") || ["caps", "tag", "eos"].contains(&item.as_str());
        let seen = seen.iter().filter(of_interest).cloned().collect::<Vec<_>>();
        let frames = |numbers: std::ops::Range<u64>| numbers.map(|number| format!("frame {}", 40 * number));
        let expected = ["caps".to_owned()]
            .into_iter()
            .chain(frames(0..4))
            .chain(["tag".to_owned()])
            .chain(frames(4..8))
            .chain(["caps".to_owned()])
            .chain(frames(8..11))
            .chain(["eos".to_owned()]);
        assert_eq!(seen, expected.collect::<Vec<_>>());
    });
}

#[test]
fn flush_drops_only_frames_in_flight() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 640, 360);
        let mut harness = harness("inflight=6 input-size=0");
        harness.set_src_caps(info.to_caps().unwrap());
        harness.push_and_pull(common::frame(&info, 0)).unwrap();
        for round in 1..10 {
            push_all(&mut harness, (0..6).map(|number| common::frame(&info, 100 * round + number)));
            assert!(harness.push_event(gst::event::FlushStart::new()));
            assert_eq!(harness.push(common::frame(&info, 1)), Err(gst::FlowError::Flushing));
            assert!(harness.push_event(gst::event::FlushStop::new(true)));
            assert!(harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())));
            while let Some(early) = harness.try_pull() {
                assert!(milliseconds(early.pts()) >= 40 * 100 * round, "a frame of an earlier round");
            }
            harness.push(common::frame(&info, 10_000 + round)).unwrap();
            assert_eq!(milliseconds(harness.pull().unwrap().pts()), 40 * (10_000 + round));
        }
    });
}

#[test]
fn pipeline_with_frames_in_flight_stops() {
    with_watchdog(|| {
        for frames in [0, 1, 2, 5, 20] {
            let pipeline = gst::parse::launch(&format!(
                "videotestsrc ! video/x-raw,width=640,height=360 ! retinaface name=it inflight=5 model-file={} ! queue ! fakesink",
                quoted(&project::default_model())
            ));
            let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
            let passed = common::count_buffers(&pipeline.by_name("it").unwrap(), "src");
            pipeline.set_state(gst::State::Playing).unwrap();
            wait_until(|| passed() >= frames);
            pipeline.set_state(gst::State::Null).unwrap();
        }
    });
}

#[test]
fn downstream_eos_stops_the_source() {
    with_watchdog(|| {
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc num-buffers=1000 ! video/x-raw,width=160,height=90 ! retinaface name=it inflight=4 model-file={} \
             ! identity eos-after=5 ! fakesink",
            quoted(&project::default_model())
        ));
        let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
        let received = Arc::new(Mutex::new(0));
        let count = Arc::clone(&received);
        let sink = pipeline.by_name("it").unwrap().static_pad("sink").unwrap();
        sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            *count.lock().unwrap() += 1;
            gst::PadProbeReturn::Ok
        });
        pipeline.set_state(gst::State::Playing).unwrap();
        let message_types = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::NONE, &message_types).unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(message.type_(), gst::MessageType::Eos);
        let received = *received.lock().unwrap();
        assert!(received < 20, "{received} frames arrived after the downstream EOS");
    });
}

#[test]
fn unpushed_frame_at_eos_is_an_error() {
    with_watchdog(|| {
        let description = format!("retinaface name=it inflight=4 model-file={}", quoted(&project::default_model()));
        let mut harness = gst_check::Harness::new_parse(&description);
        let element = element(&harness);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let info = info(VideoFormat::I420, 160, 90);
        harness.set_src_caps(info.to_caps().unwrap());
        let source = element.static_pad("src").unwrap();
        let peer = source.peer().unwrap();
        source.unlink(&peer).unwrap();
        harness.push(common::frame(&info, 0)).unwrap();
        harness.push_event(gst::event::Eos::new());
        let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("the lost frame is reported");
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        assert!(error.error().to_string().contains("could not be pushed"), "{error:?}");
        // After relinking, a new stream runs.
        source.link(&peer).unwrap();
        harness.push_event(gst::event::StreamStart::new("another"));
        harness.set_src_caps(info.to_caps().unwrap());
        harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
        let out = harness.push_and_pull(common::frame(&info, 1)).unwrap();
        assert_eq!(milliseconds(out.pts()), 40);
    });
}

#[test]
fn cpu_fallback_requires_allow_cpu_fallback() {
    with_watchdog(|| {
        let mut fallback = harness("execution-provider=cuda allow-cpu-fallback=true");
        let info = info(VideoFormat::I420, 160, 90);
        fallback.set_src_caps(info.to_caps().unwrap());
        assert!(fallback.push_and_pull(common::frame(&info, 0)).is_ok());
        let element = element(&fallback);
        assert_eq!(element.property::<Option<String>>("active-provider").as_deref(), Some("cpu"));
        // An element that requires the provider must not share the open CPU model.
        let strict = gst::ElementFactory::make("retinaface").property("model-file", project::default_model());
        let strict = strict.property_from_str("execution-provider", "cuda").build().unwrap();
        assert!(strict.set_state(gst::State::Paused).is_err());
        strict.set_state(gst::State::Null).unwrap();
    });
}

#[test]
fn caps_can_change_during_detection_in_mode_latest() {
    with_watchdog(|| {
        let mut harness = harness("mode=latest input-size=1280 threads=1");
        for round in 0..30u64 {
            let info =
                if round % 2 == 0 { info(VideoFormat::I420, 640, 360) } else { info(VideoFormat::Nv12, 1280, 720) };
            harness.set_src_caps(info.to_caps().unwrap());
            for number in 0..3 {
                let out = harness.push_and_pull(common::frame(&info, 3 * round + number)).unwrap();
                let size = (info.width() as usize, info.height() as usize);
                assert_eq!(face_meta::read(&out, size).faces, []);
            }
        }
    });
}

#[test]
fn only_non_live_source_has_several_frames_in_flight() {
    with_watchdog(|| {
        for (live, threads) in [(true, 0), (false, 1)] {
            let pipeline = gst::parse::launch(&format!(
                "videotestsrc is-live={live} num-buffers=4 ! video/x-raw,width=160,height=90 ! retinaface name=it \
                 model-file={} ! fakesink name=out signal-handoffs=true",
                quoted(&project::default_model())
            ));
            let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
            // With several frames in flight, a thread of the element pushes the buffers.
            let (name, names) = channel();
            pipeline.by_name("out").unwrap().connect("handoff", false, move |_| {
                let _ = name.send(std::thread::current().name().map(str::to_owned));
                None
            });
            pipeline.set_state(gst::State::Playing).unwrap();
            let names = names.into_iter().take(4).collect::<Vec<_>>();
            pipeline.set_state(gst::State::Null).unwrap();
            let pushers = names.iter().flatten().filter(|name| name.starts_with("retinaface-push")).count();
            assert_eq!(pushers > 0, threads > 0, "live: {live}, {names:?}");
        }
    });
}

#[test]
fn streams_with_inference_interval_take_turns() {
    with_watchdog(|| {
        // `threads=3` gives this test its own model, which other tests do not share.
        let mut streams = (0..3).map(|_| harness("inference-interval=3 threads=3")).collect::<Vec<_>>();
        let info = info(VideoFormat::I420, 160, 90);
        let analysed = streams.iter_mut().map(|harness| {
            harness.set_src_caps(info.to_caps().unwrap());
            let detected = |number| {
                let out = harness.push_and_pull(common::frame(&info, number)).unwrap();
                face_meta::read(&out, (160, 90)).state.has_result()
            };
            (0..6).map(detected).collect::<Vec<_>>()
        });
        let mut analysed = analysed.collect::<Vec<_>>();
        for number in 0..6 {
            let concurrent = analysed.iter().filter(|stream| stream[number]).count();
            assert_eq!(concurrent, 1, "frame {number}: {analysed:?}");
        }
        // A new stream takes over the turn of a stream that has ended.
        drop(streams.remove(1));
        analysed.remove(1);
        let mut new_stream = harness("inference-interval=3 threads=3");
        new_stream.set_src_caps(info.to_caps().unwrap());
        let detected = |number| {
            let out = new_stream.push_and_pull(common::frame(&info, number)).unwrap();
            face_meta::read(&out, (160, 90)).state.has_result()
        };
        analysed.push((0..6).map(detected).collect());
        assert!((0..6).all(|number| analysed.iter().filter(|stream| stream[number]).count() == 1), "{analysed:?}");
    });
}

#[test]
fn starting_and_stopping_streams_lose_no_frames() {
    with_watchdog(|| {
        let model = quoted(&project::default_model());
        let persistent_streams = [2, 4].map(|batch| {
            let description = format!(
                "videotestsrc num-buffers=150 ! video/x-raw,width=160,height=90,framerate=300/1 ! retinaface \
                 model-file={model} batch-size={batch} batch-timeout=20 ! appsink name=out"
            );
            common::spawn(move || common::run(&description))
        });
        let short_streams = (0..8).map(|number| {
            let description = format!(
                "videotestsrc num-buffers={} ! video/x-raw,width={},height=90 ! retinaface model-file={model} \
                 batch-size={} ! appsink name=out",
                5 + number,
                160 + 64 * (number % 2),
                number % 5
            );
            let samples = common::run(&description);
            assert_eq!(samples.len(), 5 + number);
        });
        short_streams.for_each(drop);
        for stream in persistent_streams {
            let samples = stream.join().unwrap();
            assert_eq!(samples.len(), 150);
            assert!(samples.windows(2).all(|pair| pair[0].buffer().unwrap().pts() < pair[1].buffer().unwrap().pts()));
        }
    });
}

#[test]
fn stats_are_posted_at_each_interval() {
    with_watchdog(|| {
        let photo = clip("multi_face.jpg");
        let model = quoted(&project::default_model());
        let pipeline = gst::parse::launch(&format!(
            "filesrc location={photo} ! jpegdec ! imagefreeze num-buffers=60 ! retinaface name=it stats-interval=50 \
             inference-interval=2 threads=6 model-file={model} ! fakesink"
        ));
        let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let bus = pipeline.bus().unwrap();
        let (mut posted, mut providers) = (Vec::new(), Vec::new());
        loop {
            let message = bus.timed_pop(gst::ClockTime::NONE).unwrap();
            match message.view() {
                gst::MessageView::Element(element) => match element.structure() {
                    Some(stats) if stats.name() == "retinaface-stats" => posted.push(stats.to_owned()),
                    Some(provider) if provider.name() == "retinaface-provider" => providers.push(provider.to_owned()),
                    _ => {}
                },
                gst::MessageView::Error(error) => panic!("{error:?}"),
                gst::MessageView::Eos(_) => break,
                _ => {}
            }
        }
        let stats = pipeline.by_name("it").unwrap().property::<gst::Structure>("stats");
        pipeline.set_state(gst::State::Null).unwrap();
        let count = |stats: &gst::Structure, name: &str| stats.get::<u64>(name).unwrap();
        assert_eq!((count(&stats, "frames"), count(&stats, "inferred"), count(&stats, "skipped")), (60, 30, 30));
        assert_eq!(count(&stats, "faces"), 5 * 30);
        assert_eq!(stats.get::<gst::Structure>("batches").unwrap().get::<u64>("1"), Ok(30));
        for stage in ["wait", "preprocess", "inference", "decode"] {
            let [p50, p95, p99] = [50, 95, 99].map(|percentile| count(&stats, &format!("{stage}-p{percentile}")));
            assert!(0 < p50 && p50 <= p95 && p95 <= p99, "{stage}: {p50} {p95} {p99}");
        }
        assert!(posted.len() >= 2, "{} messages", posted.len());
        let intervals = posted.iter().map(|stats| stats.get::<gst::Structure>("interval").unwrap());
        let frames = intervals.map(|interval| count(&interval, "frames")).sum::<u64>();
        // The completed intervals add up to the total of the last message.
        assert_eq!(frames, count(posted.last().unwrap(), "frames"));
        let [provider] = providers.as_slice() else { panic!("{providers:?}") };
        assert_eq!(provider.get::<String>("provider").unwrap(), "cpu");
        assert!(provider.get::<String>("library").unwrap().contains("onnxruntime"));
    });
}

fn inferred(harness: &gst_check::Harness) -> u64 {
    element(harness).property::<gst::Structure>("stats").get("inferred").unwrap()
}

/// The sample of multi_face.jpg after `elements`.
fn photo_sample(elements: &str) -> gst::Sample {
    let photo = clip("multi_face.jpg");
    common::run(&format!("filesrc location={photo} ! jpegdec ! {elements} ! appsink name=out")).remove(0)
}

#[test]
fn mode_latest_passes_frames_during_detection() {
    with_watchdog(|| {
        // With one thread and a large input, many frames pass during a run, also on a busy machine.
        // A unit test of the scheduling checks that a frame never waits for the model.
        let sample = photo_sample("videoconvert ! video/x-raw,format=I420");
        let mut harness = harness("mode=latest input-size=1920 threads=1 max-age=0");
        harness.set_src_caps(sample.caps_owned().unwrap());
        let progress = common::Progress::of_current_test();
        let (mut ages, mut frames) = (Vec::new(), 0u64);
        // Ages rise while the same result is reused, and fall when a new one arrives.
        let rises = |ages: &[Duration]| ages.windows(2).any(|pair| pair[1] > pair[0]);
        let falls = |ages: &[Duration]| ages.windows(2).any(|pair| pair[1] < pair[0]);
        while inferred(&harness) < 3 || !rises(&ages) || !falls(&ages) {
            let mut buffer = sample.buffer_owned().unwrap();
            buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(10) * frames);
            let out = harness.push_and_pull(buffer).unwrap();
            progress.advance();
            assert_eq!(milliseconds(out.pts()), 10 * frames, "frames are pushed immediately and in order");
            let found = face_meta::read(&out, (1000, 667));
            if found.state.has_result() {
                assert_eq!(found.faces.len(), 5);
                ages.push(found.age);
            } else {
                assert!(ages.is_empty(), "a result stays until a newer one arrives");
            }
            frames += 1;
        }
        let stats = element(&harness).property::<gst::Structure>("stats");
        let count = |name: &str| stats.get::<u64>(name).unwrap();
        assert_eq!(count("frames"), frames);
        assert!(count("inferred") + count("skipped") <= frames && count("skipped") > 0, "{stats}");
        assert!(ages.iter().all(|age| *age > Duration::ZERO), "the faces come from an earlier frame");
        assert_eq!(harness.query_latency(), Some(gst::ClockTime::ZERO));
    });
}

#[test]
fn faces_older_than_max_age_are_not_reused() {
    with_watchdog(|| {
        let sample = photo_sample("identity");
        // Only the first frame is analysed. `threads=7` keeps streams of other tests from
        // sharing the model.
        let mut harness = harness("mode=latest max-age=500 inference-interval=1000000 threads=7");
        harness.set_src_caps(sample.caps_owned().unwrap());
        let progress = common::Progress::of_current_test();
        let push = |harness: &mut gst_check::Harness, milliseconds: u64| {
            progress.advance();
            let mut buffer = sample.buffer_owned().unwrap();
            buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(milliseconds));
            let out = harness.push_and_pull(buffer).unwrap();
            face_meta::read(&out, (1000, 667))
        };
        assert!(!push(&mut harness, 0).state.has_result(), "no result is known yet");
        let mut found = push(&mut harness, 500);
        wait_until(|| {
            found = push(&mut harness, 500);
            found.state.has_result()
        });
        assert_eq!((found.age, found.faces.len()), (Duration::from_millis(500), 5));
        assert!(!push(&mut harness, 501).state.has_result(), "the only result is 501 ms old");
        assert_eq!(inferred(&harness), 1);
    });
}

#[test]
fn failed_detection_is_a_stream_error() {
    with_watchdog(|| {
        for properties in ["mode=latest", "inflight=1", "inflight=4"] {
            // A frame whose memory is too small for its caps cannot be analysed.
            let info = info(VideoFormat::I420, 320, 180);
            let mut harness = harness(properties);
            let bus = gst::Bus::new();
            element(&harness).set_bus(Some(&bus));
            harness.set_src_caps(info.to_caps().unwrap());
            let mut flow = Ok(gst::FlowSuccess::Ok);
            wait_until(|| {
                flow = harness.push(gst::Buffer::from_mut_slice(vec![0; 100]));
                flow.is_err()
            });
            assert_eq!(flow, Err(gst::FlowError::Error), "{properties}");
            let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("the failure is reported");
            let gst::MessageView::Error(error) = message.view() else { unreachable!() };
            common::PipelineError::new(error).assert_code(gst::StreamError::Format);
        }
    });
}
