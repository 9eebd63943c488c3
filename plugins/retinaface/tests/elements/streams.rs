//! The element `retinaface` among others: frames in flight, streams that share a model, video that never waits.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_video::VideoFormat;

mod common;
use common::{clip, info, project, quoted, watched};

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
fn frames_in_flight_leave_in_the_order_in_which_they_came() {
    watched(|| {
        for inflight in [1, 2, 5] {
            let info = info(VideoFormat::I420, 320, 180);
            let mut harness = harness(&format!("inflight={inflight} inference-interval=2"));
            harness.set_src_caps(info.to_caps().unwrap());
            for number in 0..20 {
                harness.push(common::frame(&info, number)).unwrap();
            }
            let times = (0..20).map(|_| milliseconds(harness.pull().unwrap().pts())).collect::<Vec<_>>();
            assert_eq!(times, (0..20).map(|number| 40 * number).collect::<Vec<_>>(), "{inflight} in flight");
        }
    });
}

#[test]
fn a_single_frame_leaves_without_another_one_behind_it() {
    watched(|| {
        let info = info(VideoFormat::I420, 320, 180);
        let mut harness = harness("inflight=8");
        harness.set_src_caps(info.to_caps().unwrap());
        for number in 0..3 {
            let out = harness.push_and_pull(common::frame(&info, number)).unwrap();
            assert!(gstretinaface::meta::read(&out, (320, 180)).detected);
        }
    });
}

#[test]
fn what_is_serialized_never_overtakes_a_frame() {
    watched(|| {
        // Caps, a tag and the end, each between frames that are still under way.
        let description = format!("retinaface name=it inflight=4 model-file={}", quoted(&project::default_model()));
        let mut harness = gst_check::Harness::new_parse(&description);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ours = Arc::clone(&seen);
        let source = element(&harness).static_pad("src").unwrap();
        source.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, probe| {
            let what = match &probe.data {
                Some(gst::PadProbeData::Buffer(buffer)) => format!("frame {}", milliseconds(buffer.pts())),
                Some(gst::PadProbeData::Event(event)) => event.type_().name().to_string(),
                _ => return gst::PadProbeReturn::Ok,
            };
            ours.lock().unwrap().push(what);
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
        let of_interest = |what: &&String| what.starts_with("frame") || ["caps", "tag", "eos"].contains(&what.as_str());
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
fn a_flush_drops_what_is_in_flight_and_nothing_after_it() {
    watched(|| {
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
fn a_pipeline_with_frames_in_flight_stops_at_any_time() {
    watched(|| {
        for milliseconds in [0, 1, 5, 20, 60] {
            let pipeline = gst::parse::launch(&format!(
                "videotestsrc ! video/x-raw,width=640,height=360 ! retinaface inflight=5 model-file={} ! queue ! fakesink",
                quoted(&project::default_model())
            ));
            let pipeline = pipeline.unwrap();
            pipeline.set_state(gst::State::Playing).unwrap();
            std::thread::sleep(Duration::from_millis(milliseconds));
            pipeline.set_state(gst::State::Null).unwrap();
        }
    });
}

#[test]
fn an_end_downstream_reaches_the_source() {
    watched(|| {
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc num-buffers=1000 ! video/x-raw,width=160,height=90 ! retinaface name=it inflight=4 model-file={} \
             ! identity eos-after=5 ! fakesink",
            quoted(&project::default_model())
        ));
        let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
        let came = Arc::new(Mutex::new(0));
        let count = Arc::clone(&came);
        let sink = pipeline.by_name("it").unwrap().static_pad("sink").unwrap();
        sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            *count.lock().unwrap() += 1;
            gst::PadProbeReturn::Ok
        });
        pipeline.set_state(gst::State::Playing).unwrap();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends).unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(message.type_(), gst::MessageType::Eos);
        let came = *came.lock().unwrap();
        assert!(came < 20, "{came} frames came although nobody took them");
    });
}

#[test]
fn frames_that_cannot_be_pushed_at_the_end_are_an_error_of_the_pipeline() {
    watched(|| {
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
        let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("the lost frame is told");
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        assert!(error.error().to_string().contains("could not be pushed"), "{error:?}");
        // Once there is a link again, another stream goes on.
        source.link(&peer).unwrap();
        harness.push_event(gst::event::StreamStart::new("another"));
        harness.set_src_caps(info.to_caps().unwrap());
        harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
        let out = harness.push_and_pull(common::frame(&info, 1)).unwrap();
        assert_eq!(milliseconds(out.pts()), 40);
    });
}

#[test]
fn a_provider_that_is_not_there_is_the_cpu_where_that_is_allowed_and_only_there() {
    watched(|| {
        let mut fallback = harness("execution-provider=cuda allow-cpu-fallback=true");
        let info = info(VideoFormat::I420, 160, 90);
        fallback.set_src_caps(info.to_caps().unwrap());
        assert!(fallback.push_and_pull(common::frame(&info, 0)).is_ok());
        let element = element(&fallback);
        assert_eq!(element.property::<Option<String>>("active-provider").as_deref(), Some("cpu"));
        // The model that is open now must not be taken for what another element insists on.
        let strict = gst::ElementFactory::make("retinaface").property("model-file", project::default_model());
        let strict = strict.property_from_str("execution-provider", "cuda").build().unwrap();
        assert!(strict.set_state(gst::State::Paused).is_err());
        strict.set_state(gst::State::Null).unwrap();
    });
}

#[test]
fn caps_may_change_in_mode_latest_while_a_frame_of_before_is_looked_at() {
    watched(|| {
        let mut harness = harness("mode=latest input-size=1280 threads=1");
        for round in 0..30u64 {
            let info =
                if round % 2 == 0 { info(VideoFormat::I420, 640, 360) } else { info(VideoFormat::Nv12, 1280, 720) };
            harness.set_src_caps(info.to_caps().unwrap());
            for number in 0..3 {
                let out = harness.push_and_pull(common::frame(&info, 3 * round + number)).unwrap();
                let size = (info.width() as usize, info.height() as usize);
                assert_eq!(gstretinaface::meta::read(&out, size).faces, []);
                std::thread::sleep(Duration::from_millis(number));
            }
        }
    });
}

#[test]
fn a_live_source_has_one_frame_in_flight_and_a_file_has_more() {
    watched(|| {
        for (live, threads) in [(true, 0), (false, 1)] {
            let pipeline = gst::parse::launch(&format!(
                "videotestsrc is-live={live} num-buffers=4 ! video/x-raw,width=160,height=90 ! retinaface name=it \
                 model-file={} ! fakesink name=out signal-handoffs=true",
                quoted(&project::default_model())
            ));
            let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
            // A file's frames are pushed by a thread of the element's own.
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
fn streams_that_look_at_every_nth_frame_take_turns() {
    watched(|| {
        // A model of their own, so that no other test's streams are among them.
        let mut streams = (0..3).map(|_| harness("inference-interval=3 threads=3")).collect::<Vec<_>>();
        let info = info(VideoFormat::I420, 160, 90);
        let looked_at = streams.iter_mut().map(|harness| {
            harness.set_src_caps(info.to_caps().unwrap());
            let detected = |number| {
                let out = harness.push_and_pull(common::frame(&info, number)).unwrap();
                gstretinaface::meta::read(&out, (160, 90)).detected
            };
            (0..6).map(detected).collect::<Vec<_>>()
        });
        let mut looked_at = looked_at.collect::<Vec<_>>();
        for number in 0..6 {
            let at_once = looked_at.iter().filter(|stream| stream[number]).count();
            assert_eq!(at_once, 1, "frame {number}: {looked_at:?}");
        }
        // Who leaves makes room for who comes.
        drop(streams.remove(1));
        looked_at.remove(1);
        let mut newcomer = harness("inference-interval=3 threads=3");
        newcomer.set_src_caps(info.to_caps().unwrap());
        let detected = |number| {
            let out = newcomer.push_and_pull(common::frame(&info, number)).unwrap();
            gstretinaface::meta::read(&out, (160, 90)).detected
        };
        looked_at.push((0..6).map(detected).collect());
        assert!((0..6).all(|number| looked_at.iter().filter(|stream| stream[number]).count() == 1), "{looked_at:?}");
    });
}

#[test]
fn streams_come_and_go_and_no_other_loses_a_frame() {
    watched(|| {
        let model = quoted(&project::default_model());
        let lasting = [2, 4].map(|batch| {
            let description = format!(
                "videotestsrc num-buffers=150 ! video/x-raw,width=160,height=90,framerate=300/1 ! retinaface \
                 model-file={model} batch-size={batch} batch-timeout=20 ! appsink name=out"
            );
            std::thread::spawn(move || common::run(&description))
        });
        let coming = (0..8).map(|number| {
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
        coming.for_each(drop);
        for stream in lasting {
            let samples = stream.join().unwrap();
            assert_eq!(samples.len(), 150);
            assert!(samples.windows(2).all(|pair| pair[0].buffer().unwrap().pts() < pair[1].buffer().unwrap().pts()));
        }
    });
}

#[test]
fn statistics_are_posted_at_each_interval_and_readable_at_any_time() {
    watched(|| {
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
            let message = bus.timed_pop(gst::ClockTime::from_seconds(60)).unwrap();
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
        // The frames of the intervals that ended are those until the last message.
        assert_eq!(frames, count(posted.last().unwrap(), "frames"));
        let [provider] = providers.as_slice() else { panic!("{providers:?}") };
        assert_eq!(provider.get::<String>("provider").unwrap(), "cpu");
        assert!(provider.get::<String>("library").unwrap().contains("onnxruntime"));
    });
}

#[test]
fn video_never_waits_in_mode_latest_and_faces_come_with_their_age() {
    watched(|| {
        // 1920 pixels of input on one thread: some runs a second, while frames come every 10 ms.
        let photo = clip("multi_face.jpg");
        let sample = &common::run(&format!(
            "filesrc location={photo} ! jpegdec ! videoconvert ! video/x-raw,format=I420 ! appsink name=out"
        ))[0];
        let mut harness = harness("mode=latest input-size=1920 threads=1 max-age=2000");
        harness.set_src_caps(sample.caps_owned().unwrap());
        let mut ages = Vec::new();
        let mut delays = Vec::new();
        for number in 0..300u64 {
            let mut buffer = sample.buffer_owned().unwrap();
            buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(10) * number);
            let start = Instant::now();
            let out = harness.push_and_pull(buffer).unwrap();
            delays.push(start.elapsed());
            assert_eq!(milliseconds(out.pts()), 10 * number);
            let found = gstretinaface::meta::read(&out, (1000, 667));
            if found.detected {
                assert_eq!(found.faces.len(), 5);
                ages.push(found.age);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let stats = element(&harness).property::<gst::Structure>("stats");
        let (frames, inferred) = (stats.get::<u64>("frames").unwrap(), stats.get::<u64>("inferred").unwrap());
        let run = Duration::from_nanos(stats.get::<u64>("inference-p50").unwrap());
        assert_eq!(frames, 300);
        assert!((2..200).contains(&inferred), "{inferred} of {frames}");
        delays.sort_unstable();
        let (median, slowest) = (delays[150], delays[299]);
        assert!(
            slowest < run && median < run / 10,
            "frames took {median:?} to {slowest:?}, a run {run:?}: they waited"
        );
        assert!(ages.len() > 100, "{} frames had faces", ages.len());
        assert!(ages.iter().all(|age| *age > Duration::ZERO && *age <= Duration::from_secs(2)));
        assert!(ages.windows(2).any(|pair| pair[1] > pair[0]) && ages.windows(2).any(|pair| pair[1] < pair[0]));
        assert_eq!(harness.query_latency(), Some(gst::ClockTime::ZERO));
    });
}

#[test]
fn faces_older_than_max_age_are_given_to_no_frame() {
    watched(|| {
        let sample =
            &common::run(&format!("filesrc location={} ! jpegdec ! appsink name=out", clip("multi_face.jpg")))[0];
        let mut harness = harness("mode=latest max-age=500");
        harness.set_src_caps(sample.caps_owned().unwrap());
        let mut push = |milliseconds: u64| {
            let mut buffer = sample.buffer_owned().unwrap();
            buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(milliseconds));
            let out = harness.push_and_pull(buffer).unwrap();
            gstretinaface::meta::read(&out, (1000, 667))
        };
        assert!(!push(0).detected, "nothing is known yet");
        let inferred = |harness: &gst_check::Harness| {
            element(harness).property::<gst::Structure>("stats").get::<u64>("inferred").unwrap()
        };
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!((push(500).age, push(500).faces.len()), (Duration::from_millis(500), 5));
        std::thread::sleep(Duration::from_secs(1));
        assert!(!push(1001).detected, "the newest faces are of 500 ms");
        assert!(inferred(&harness) >= 2);
    });
}

#[test]
fn a_model_that_fails_in_the_background_is_an_error_of_the_stream() {
    watched(|| {
        // A frame whose memory is too small for its caps cannot be looked at.
        let info = info(VideoFormat::I420, 320, 180);
        let mut harness = harness("mode=latest");
        harness.set_src_caps(info.to_caps().unwrap());
        let flow = (0..200).map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            harness.push(gst::Buffer::from_mut_slice(vec![0; 100]))
        });
        let mut flow = flow.skip_while(Result::is_ok);
        assert_eq!(flow.next(), Some(Err(gst::FlowError::Error)));
    });
}
