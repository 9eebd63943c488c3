//! The elements on WebGPU, with SwiftShader as the GPU. A test is skipped unless `scripts/setup.sh
//! --webgpu --swiftshader` has installed both; in CI they are required.
//!
//! Each test runs in a process of its own, because the Vulkan loader and ONNX Runtime read
//! environment variables. SwiftShader is slow, so that the inputs are small.

use std::process::Command;

use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::geometry::Face;

use crate::common::{self, face, frame_with_faces, info, project, quoted, read_faces, run, with_watchdog};

/// Set in the process that has SwiftShader.
const MARK: &str = "RETINAFACE_TEST_WEBGPU";

/// Runs the body of the test `name` in another process of this test binary.
fn on_swiftshader(name: &str, body: impl FnOnce() + Send + 'static) {
    if std::env::var_os(MARK).is_some() {
        with_watchdog(body);
        return;
    }
    let components = ["providers/webgpu", "swiftshader"];
    if !components.iter().all(|name| project::has_component(name, "--webgpu --swiftshader")) {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&format!("webgpu::{name}"), "--exact", "--nocapture"])
        .env(MARK, "1")
        .env_remove("ORT_DYLIB_PATH")
        .env("RETINAFACE_RUNTIMES", project::root().join(".fetch"))
        .env("VK_ICD_FILENAMES", project::fetched("swiftshader/vk_swiftshader_icd.json"))
        .env("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1")
        // The Vulkan loader warns without it.
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success() && text[0].contains("1 passed"), "{}\n{}", text[0], text[1]);
}

/// A photo with five faces, as a description that ends before the detector.
fn photo(format: &str, frames: u32) -> String {
    let file = common::clip("multi_face.jpg");
    format!(
        "filesrc location={file} ! jpegdec ! videoconvert ! videoscale ! video/x-raw,format={format},width=320,height=214 \
         ! imagefreeze num-buffers={frames}"
    )
}

fn detector(properties: &str) -> String {
    format!("retinaface input-size=192 refine-large-faces=off {properties}")
}

fn assert_equal(found: &[Face], expected: &[Face]) {
    assert_eq!(found.len(), expected.len(), "{found:?}, {expected:?}");
    for (face, expected) in found.iter().zip(expected) {
        assert!((face.score - expected.score).abs() < 2e-3, "{face:?}, {expected:?}");
        let points = face.landmarks.unwrap().into_iter().zip(expected.landmarks.unwrap());
        for (point, expected) in points {
            assert!(
                (point.x - expected.x).abs() < 0.5 && (point.y - expected.y).abs() < 0.5,
                "{point:?}, {expected:?}"
            );
        }
    }
}

/// Runs a pipeline until EOS and returns the property `stats` of the elements with these names.
fn stats<const N: usize>(description: &str, names: [&str; N]) -> [gst::Structure; N] {
    let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let end = bus.timed_pop_filtered(gst::ClockTime::NONE, &[gst::MessageType::Eos, gst::MessageType::Error]).unwrap();
    assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
    let stats = names.map(|name| pipeline.by_name(name).unwrap().property::<gst::Structure>("stats"));
    pipeline.set_state(gst::State::Null).unwrap();
    stats
}

#[test]
fn faces_equal_those_of_the_cpu_in_each_format_and_batch_and_beside_other_providers() {
    on_swiftshader("faces_equal_those_of_the_cpu_in_each_format_and_batch_and_beside_other_providers", || {
        let faces = |format: &str, properties: &str| {
            let samples = run(&format!("{} ! {} ! appsink name=out", photo(format, 1), detector(properties)));
            read_faces(&samples[0])
        };
        for format in ["NV12", "I420"] {
            let expected = faces(format, "execution-provider=cpu");
            assert!(expected.len() >= 4, "{expected:?}");
            assert_equal(&faces(format, "execution-provider=webgpu"), &expected);
        }

        // Two streams share an engine, and other providers run beside it.
        let stream = |name: &str, provider: &str| {
            let properties = format!("name={name} execution-provider={provider} batch-size=2 batch-timeout=60000");
            format!("{} ! {} ! fakesink ", photo("NV12", 3), detector(&properties))
        };
        let is_intel = std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("GenuineIntel");
        let has_openvino = is_intel && project::root().join(".fetch/providers/openvino/.complete").exists();
        let other = if has_openvino { "openvino" } else { "cpu" };
        let pipeline = [stream("a", "webgpu"), stream("b", "webgpu"), stream("c", "cpu"), stream("d", other)].concat();
        let stats = stats(&pipeline, ["a", "b", "c", "d"]);
        let counts = stats.each_ref().map(|stats| ["frames", "faces"].map(|name| stats.get::<u64>(name).unwrap()));
        assert!(counts.iter().all(|count| *count == counts[2] && count[0] == 3), "{counts:?}");
        for stats in &stats[..2] {
            let batches = stats.get::<gst::Structure>("batches").unwrap();
            assert!(batches.get::<u64>("2").is_ok_and(|count| count > 0), "{batches}");
        }
    });
}

#[test]
fn shapes_change_and_elements_start_again() {
    on_swiftshader("shapes_change_and_elements_start_again", || {
        let element = detector("name=it execution-provider=webgpu");
        let mut harness = gst_check::Harness::new_parse(&element);
        let frame = |width: u32, height: u32| {
            let caps = format!("video/x-raw,format=NV12,width={width},height={height}");
            let file = common::clip("single_face.jpg");
            let photo =
                format!("filesrc location={file} ! jpegdec ! videoconvert ! videoscale ! {caps} ! appsink name=out");
            run(&photo).remove(0)
        };
        let mut faces = |sample: &gst::Sample| {
            harness.set_src_caps(sample.caps_owned().unwrap());
            let out = harness.push_and_pull(sample.buffer_owned().unwrap()).unwrap();
            face_meta::read(&out, (0, 0)).into_faces().len()
        };
        let (wide, tall) = (frame(320, 180), frame(180, 320));
        assert_eq!([&wide, &tall, &wide].map(&mut faces), [1, 1, 1]);
        drop(harness);

        let pipeline = format!("{} ! {element} ! fakesink", photo("NV12", 1));
        let pipeline = gst::parse::launch(&pipeline).unwrap().downcast::<gst::Pipeline>().unwrap();
        for _ in 0..2 {
            pipeline.set_state(gst::State::Playing).unwrap();
            let messages = [gst::MessageType::Eos, gst::MessageType::Error];
            let end = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::NONE, &messages).unwrap();
            assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
            let stats = pipeline.by_name("it").unwrap().property::<gst::Structure>("stats");
            assert!(stats.get::<u64>("faces").unwrap() >= 4, "{stats}");
            pipeline.set_state(gst::State::Null).unwrap();
        }
    });
}

#[test]
fn landmark_models_run_on_crops_and_failures_name_the_device() {
    on_swiftshader("landmark_models_run_on_crops_and_failures_name_the_device", || {
        let size = (320, 180);
        let faces = [face(0.9, 40.0, 20.0, 100.0, 100.0), face(0.8, 200.0, 60.0, 40.0, 50.0)];
        let points = |provider: &str| {
            let model = quoted(&project::root().join("tests/fixtures/models/landmarks68.onnx"));
            let element = format!("facelandmarks model-file={model} execution-provider={provider}");
            let mut harness = gst_check::Harness::new_parse(&element);
            harness.set_src_caps(info(VideoFormat::Nv12, size.0, size.1).to_caps().unwrap());
            let frame = frame_with_faces(&info(VideoFormat::Nv12, size.0, size.1), 0, &faces);
            let out = harness.push_and_pull(frame).unwrap();
            let faces = face_meta::read(&out, (size.0 as usize, size.1 as usize)).into_faces();
            faces.into_iter().flat_map(|face| face.points).collect::<Vec<_>>()
        };
        let (found, expected) = (points("webgpu"), points("cpu"));
        assert_eq!(found.len(), 2 * 68);
        for (point, expected) in found.iter().zip(&expected) {
            assert!(
                (point.x - expected.x).abs() < 0.5 && (point.y - expected.y).abs() < 0.5,
                "{point:?}, {expected:?}"
            );
        }

        // Two models run at the same time, which ONNX Runtime alone does not allow on WebGPU.
        let model = quoted(&project::root().join("tests/fixtures/models/landmarks68.onnx"));
        let provider = "execution-provider=webgpu";
        let stream = format!(
            "{} ! {} ! queue ! facelandmarks model-file={model} {provider} ! fakesink",
            photo("NV12", 12),
            detector(provider)
        );
        let [stats] = stats(&stream.replace("retinaface ", "retinaface name=it "), ["it"]);
        assert_eq!(stats.get::<u64>("inferred"), Ok(12));

        let model = quoted(&project::root().join("tests/fixtures/models/fails_at_run.onnx"));
        let description =
            format!("videotestsrc num-buffers=1 ! retinaface model-file={model} execution-provider=webgpu");
        let error = common::try_run(&format!("{description} ! fakesink")).unwrap_err();
        for part in ["fails_at_run.onnx", "webgpu", "device 0: "] {
            assert!(error.text.contains(part), "{part} is not in: {}", error.text);
        }
    });
}
