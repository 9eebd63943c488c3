//! Video that is stored rotated, with a tag that says how.

use std::path::{Path, PathBuf};

use crate::common::{self, project, quoted, run, with_watchdog};
use gst::prelude::*;

/// The matrix of a video that is to be rotated by 90 degrees clockwise, in the fixed-point numbers
/// of the box `tkhd`. Its height is 640 pixels.
const CLOCKWISE: [i32; 9] = [0, 0x10000, 0, -0x10000, 0, 0, 640 << 16, 0, 0x4000_0000];

/// A clip as a phone stores it: rotated by 90 degrees, with the tag for the reverse. The muxer of
/// GStreamer 1.22 writes no tag, so its matrix is replaced.
fn phone_clip(directory: &Path) -> PathBuf {
    let file = directory.join("phone.mp4");
    run(&format!(
        "filesrc location={} ! decodebin ! videoflip video-direction=90l ! x264enc tune=zerolatency \
         speed-preset=ultrafast ! h264parse ! mp4mux ! filesink location={}",
        common::clip("single_face.mp4"),
        quoted(&file)
    ));
    let mut bytes = std::fs::read(&file).unwrap();
    let matrix = bytes.windows(4).position(|name| name == b"tkhd").unwrap() + 44;
    let upright = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];
    assert_eq!(&bytes[matrix..][..36], upright.map(i32::to_be_bytes).as_flattened());
    bytes[matrix..][..36].copy_from_slice(CLOCKWISE.map(i32::to_be_bytes).as_flattened());
    std::fs::write(&file, bytes).unwrap();
    file
}

/// Runs a pipeline until EOS and returns the texts of its warnings.
fn warnings_of(description: &str) -> Vec<String> {
    common::init();
    let pipeline = gst::parse::launch(description).unwrap();
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut warnings = Vec::new();
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => panic!("{description}: {error:?}"),
            gst::MessageView::Warning(warning) => {
                warnings.push(format!("{} {}", warning.error(), warning.debug().unwrap_or_default()));
            }
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    warnings
}

#[test]
fn pipelines_turn_a_phone_video_upright() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let clip = phone_clip(directory.path());
        let target = common::target_directory();
        let mut command = common::command("scripts/until-end", &target);
        command.args(["scripts/launch", "pipelines/metadata.launch", &format!("INPUT={}", clip.display())]);
        let output = common::output_of(&mut command, None);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !errors.contains("WARNING"), "{errors}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>();
        let with_face = lines.iter().filter(|line| line["faces"].as_array().unwrap().len() == 1).count();
        assert!(with_face * 10 >= lines.len() * 9, "{with_face} of {} frames have the face", lines.len());
        assert!(lines.iter().all(|line| line["width"] == 640 && line["height"] == 360), "the frames are upright");
    });
}

#[test]
fn rotated_video_that_nobody_rotates_gives_one_warning_with_the_remedy() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let clip = quoted(&phone_clip(directory.path()));
        let detector = "retinaface name=detector input-size=160 ! facelandmarks ! facealign ! fakesink";
        let detector = detector.replace(
            "facelandmarks",
            &format!(
                "facelandmarks model-file={}",
                quoted(&project::root().join("tests/fixtures/models/landmarks106.onnx"))
            ),
        );
        let warnings = warnings_of(&format!("filesrc location={clip} ! decodebin ! {detector}"));
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        for part in ["stored rotated (image-orientation: rotate-90)", "detector", "videoflip video-direction=auto"] {
            assert!(warning.contains(part), "{part} is not in: {warning}");
        }
        for rotation in [
            "videoflip video-direction=auto",
            "videoflip video-direction=90r",
            "queue ! videoflip video-direction=auto ! queue ! videoconvert",
        ] {
            let warnings = warnings_of(&format!("filesrc location={clip} ! decodebin ! {rotation} ! {detector}"));
            assert_eq!(warnings, [""; 0], "{rotation}");
        }
        let warnings = warnings_of(&format!("filesrc location={clip} ! decodebin ! videoflip ! {detector}"));
        assert_eq!(warnings.len(), 1, "videoflip does nothing by default");
    });
}

/// A pipeline `appsrc ! ELEMENTS ! fakesink`, to which tags are sent before each of two frames.
fn warnings_with_tags(elements: &str, tags: &[(&str, gst::TagScope)]) -> usize {
    common::init();
    let model = quoted(&project::default_model());
    let mut harness =
        gst_check::Harness::new_parse(&elements.replace("DETECTOR", &format!("retinaface model-file={model}")));
    let bus = gst::Bus::new();
    harness.element().unwrap().set_bus(Some(&bus));
    let info = common::info(gst_video::VideoFormat::Gray8, 64, 64);
    harness.set_src_caps(info.to_caps().unwrap());
    for number in 0..2 {
        for (orientation, scope) in tags {
            let mut list = gst::TagList::new();
            let tags = list.get_mut().unwrap();
            tags.add::<gst::tags::ImageOrientation>(orientation, gst::TagMergeMode::Replace);
            tags.set_scope(*scope);
            harness.push_event(gst::event::Tag::new(list));
        }
        harness.push(common::frame(&info, number)).unwrap();
    }
    harness.element().unwrap().set_bus(None);
    bus.iter().filter(|message| message.type_() == gst::MessageType::Warning).count()
}

#[test]
fn each_orientation_tag_counts_unless_the_stream_says_otherwise() {
    with_watchdog(|| {
        use gst::TagScope::{Global, Stream};
        for orientation in ["rotate-90", "rotate-180", "rotate-270", "flip-rotate-0", "flip-rotate-90"] {
            for scope in [Global, Stream] {
                assert_eq!(warnings_with_tags("DETECTOR", &[(orientation, scope)]), 1, "{orientation}");
            }
        }
        assert_eq!(warnings_with_tags("DETECTOR", &[]), 0);
        assert_eq!(warnings_with_tags("DETECTOR", &[("rotate-0", Stream)]), 0);
        assert_eq!(warnings_with_tags("DETECTOR", &[("rotate-90", Global), ("rotate-0", Stream)]), 0);
        assert_eq!(warnings_with_tags("DETECTOR", &[("rotate-0", Global), ("rotate-90", Stream)]), 1);
        // An earlier tag of the stream is replaced before the first frame.
        assert_eq!(warnings_with_tags("DETECTOR", &[("rotate-90", Stream), ("rotate-0", Stream)]), 0);
        // The detector is in a bin, and so is the element that rotates.
        let bins = "bin. ( videoflip video-direction=180 ) ! bin. ( queue ! DETECTOR )";
        assert_eq!(warnings_with_tags(bins, &[("rotate-180", Stream)]), 0);
    });
}
