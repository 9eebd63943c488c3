//! Caps that no element takes: the error names the reason and the remedy, wherever the element is.

use crate::common::{self, info, quoted, run, try_run, with_watchdog};
use gst::prelude::*;
use gst_video::VideoFormat;

const ELEMENTS: [&str; 5] = [
    "retinaface",
    "facealign",
    "facemetaoverlay",
    "facemetapublish location=/dev/null",
    "facelandmarks model-file=MODEL",
];

/// The elements, each with its properties.
fn elements() -> impl Iterator<Item = String> {
    let model = common::project::root().join("tests/fixtures/models/landmarks106.onnx");
    ELEMENTS.into_iter().map(move |element| element.replace("MODEL", &quoted(&model)))
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

/// Error messages that a bus has received so far.
fn errors(bus: &gst::Bus) -> Vec<String> {
    let message = |message: gst::Message| match message.view() {
        gst::MessageView::Error(error) => format!("{} {:?}", error.error(), error.debug()),
        _ => unreachable!("only errors are popped"),
    };
    std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Error])).map(message).collect()
}

#[test]
fn the_error_names_the_remedy_in_every_position() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let file = quoted(&directory.path().join("small.mkv"));
        run(&format!(
            "videotestsrc num-buffers=5 ! video/x-raw,width=8,height=8 ! avenc_mpeg4 ! matroskamux ! filesink location={file}"
        ));
        for element in elements() {
            // The caps are known only after the pads are linked.
            for before in ["decodebin", "decodebin ! queue", "decodebin ! tee", "decodebin ! identity ! queue ! tee"] {
                let description = format!("filesrc location={file} ! {before} ! {element} ! fakesink");
                let error = try_run(&description).expect_err(&description);
                assert_contains(
                    &error.text,
                    &["cannot take video/x-raw", "8x8 is outside of 16x16 to", "put `videoscale`"],
                );
                error.assert_code(gst::StreamError::Format);
            }
        }
    });
}

#[test]
fn each_refusal_has_its_own_reason_and_remedy() {
    with_watchdog(|| {
        common::init();
        for (caps, parts) in [
            ("video/x-raw,format=v210,width=64,height=64", ["format v210", "put `videoconvert`"]),
            ("video/x-raw,format=NV12,width=8,height=64", ["8x64 is outside of 16x16", "put `videoscale`"]),
            ("video/x-raw,format=NV12,width=64,height=20000", ["64x20000 is outside of", "put `videoscale`"]),
            ("video/x-raw,format=NV12,width=64,height=64,interlace-mode=fields", ["fields", "source or decoder"]),
            (
                "video/x-raw(format:Interlaced),format=NV12,width=64,height=64,interlace-mode=alternate",
                ["fields", "put `interlace"],
            ),
            ("video/x-bayer,format=rggb,width=64,height=64", ["Bayer", "put `bayer2rgb`"]),
            ("image/jpeg,width=64,height=64", ["not raw video", "put a decoder, for example `decodebin`"]),
            ("video/x-raw(memory:DMABuf),format=NV12,width=64,height=64", ["not in system memory", "put `vapostproc`"]),
            (
                "video/x-raw(memory:VAMemory),format=NV12,width=64,height=64",
                ["not in system memory", "put `vapostproc`"],
            ),
            (
                "video/x-raw(memory:GLMemory),format=RGBA,width=64,height=64",
                ["not in system memory", "put `gldownload`"],
            ),
            (
                "video/x-raw(memory:D3D11Memory),format=NV12,width=64,height=64",
                ["not in system memory", "download element"],
            ),
            ("video/x-raw(memory:CUDAMemory),format=P010_10LE,width=64,height=64", ["CUDA", "put `cudadownload`"]),
        ] {
            for element in elements() {
                let pipeline = gst::parse::launch(&format!("appsrc name=in ! {element} ! fakesink")).unwrap();
                let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
                let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
                pipeline.set_state(gst::State::Playing).unwrap();
                let caps = caps.parse::<gst::Caps>().unwrap();
                let frame = common::frame(&info(VideoFormat::Nv12, 64, 64), 0);
                source.push_sample(&gst::Sample::builder().caps(&caps).buffer(&frame).build()).ok();
                let bus = pipeline.bus().unwrap();
                let message = bus.timed_pop_filtered(gst::ClockTime::NONE, &[gst::MessageType::Error]).unwrap();
                let gst::MessageView::Error(error) = message.view() else { unreachable!() };
                let text = error.error().to_string();
                // The element itself says why.
                assert_contains(&text, &["cannot take", parts[0], parts[1]]);
                pipeline.set_state(gst::State::Null).unwrap();
                let repeated = errors(&bus).into_iter().filter(|text| text.contains("cannot take")).count();
                assert_eq!(repeated, 0, "{caps}: the error is posted once");
            }
        }
    });
}

#[test]
fn queries_and_candidates_that_are_not_used_post_no_error() {
    with_watchdog(|| {
        common::init();
        let unsupported = "video/x-raw,format=v210,width=64,height=64,framerate=25/1".parse::<gst::Caps>().unwrap();
        for description in elements() {
            let pipeline = gst::parse::launch(
                "videotestsrc num-buffers=3 ! video/x-raw,format=v210,width=64,height=64,framerate=25/1 ! queue name=from",
            );
            let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
            let bus = pipeline.bus().unwrap();
            let from = pipeline.by_name("from").unwrap();
            let source = from.static_pad("src").unwrap();
            let blocked =
                source.add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, |_, _| gst::PadProbeReturn::Ok).unwrap();
            pipeline.set_state(gst::State::Playing).unwrap();
            // The source has sent its caps.
            let upstream = from.static_pad("sink").unwrap().peer().unwrap();
            common::wait_until(|| upstream.current_caps().is_some());
            let element = gst::parse::bin_from_description(&description, false).unwrap();
            let candidate = element.iterate_elements().into_iter().flatten().next().unwrap();
            let sink = candidate.static_pad("sink").unwrap();
            element.remove(&candidate).unwrap();
            assert!(!sink.query_accept_caps(&unsupported));
            pipeline.add(&candidate).unwrap();
            source.link_full(&sink, gst::PadLinkCheck::empty()).unwrap();
            // What an element does that tries several candidates.
            assert!(!sink.query_accept_caps(&unsupported));
            assert!(sink.query_caps(Some(&unsupported)).is_empty());
            candidate.set_state(gst::State::Ready).unwrap();
            assert!(!sink.query_accept_caps(&unsupported));
            source.unlink(&sink).unwrap();
            // Another candidate takes the caps.
            let convert = gst::ElementFactory::make("videoconvert").build().unwrap();
            let end = gst::ElementFactory::make("fakesink").property("async", false).build().unwrap();
            pipeline.add_many([&convert, &end]).unwrap();
            gst::Element::link_many([&from, &convert, &candidate, &end]).unwrap();
            for element in [&end, &candidate, &convert] {
                element.sync_state_with_parent().unwrap();
            }
            source.remove_probe(blocked);
            let message =
                bus.timed_pop_filtered(gst::ClockTime::NONE, &[gst::MessageType::Eos, gst::MessageType::Error]);
            let message = message.unwrap();
            assert_eq!(message.type_(), gst::MessageType::Eos, "{description}: {message:?}");
            pipeline.set_state(gst::State::Null).unwrap();
            assert_eq!(errors(&bus), Vec::<String>::new(), "{description}");
        }
    });
}
