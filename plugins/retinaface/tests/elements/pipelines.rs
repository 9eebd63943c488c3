//! Whole pipelines through gst-launch-1.0, as users run them; nothing of ours may warn in them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use gst::prelude::*;

mod common;
use common::{clip, project, quoted, run, watched};

/// Runs pipelines/`name`.launch.
fn launch(name: &str, variables: &[(&str, &str)]) -> Output {
    let target = common::target_folder();
    let mut command = common::command("scripts/until-end", &target);
    command.arg("scripts/launch").arg(format!("pipelines/{name}.launch"));
    for (variable, value) in variables {
        command.arg(format!("{variable}={value}"));
    }
    command.output().unwrap()
}

fn launch_well(name: &str, variables: &[(&str, &str)]) -> Output {
    let output = launch(name, variables);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {:?} {errors}", output.status);
    for word in ["WARNING", "CRITICAL", "ERROR"] {
        assert!(!errors.contains(word), "{name}: {errors}");
    }
    output
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = entries.filter(|file| file.extension().is_some_and(|found| found == ending)).collect::<Vec<_>>();
    files.sort();
    files
}

fn lines(file: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How many frames a video file decodes to, from its first to its end.
fn frames_of(file: &Path) -> usize {
    run(&format!("filesrc location={} ! decodebin ! video/x-raw ! appsink name=out", quoted(file))).len()
}

#[test]
fn each_pipeline_file_has_a_test_here() {
    let files = files(&project::root().join("pipelines"), "launch");
    let names = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect::<BTreeSet<_>>();
    let tested = ["annotate", "crops", "landmarks", "many", "metadata", "recogniser", "rtsp-record", "webcam"];
    assert_eq!(names, BTreeSet::from(tested));
    for file in files {
        let first = std::fs::read_to_string(file).unwrap().lines().next().unwrap().to_owned();
        assert!(first.starts_with("# ") && first.ends_with('.'), "its first line says what it shows: {first}");
    }
}

#[test]
fn landmarks_gives_points_and_pose_on_each_face() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let (clip, model) =
            (project::media("single_face.mp4"), project::root().join("tests/fixtures/models/landmarks68.onnx"));
        launch_well("landmarks", &[("INPUT", text(&clip)), ("LANDMARKS", text(&model)), ("OUT", text(folder.path()))]);
        let lines = lines(&folder.path().join("faces.jsonl"));
        let faces = lines.iter().flat_map(|line| line["faces"].as_array().unwrap()).collect::<Vec<_>>();
        assert!(faces.len() >= 60, "{} faces", faces.len());
        for face in faces {
            assert_eq!(face["points"].as_array().unwrap().len(), 68);
            assert!(face["pose"]["yaw"].as_f64().unwrap().abs() < 60.0, "{face}");
        }
        assert_eq!(frames_of(&folder.path().join("annotated.mp4")), lines.len());
    });
}

#[test]
fn annotate_gives_a_video_that_plays_crops_and_a_line_a_frame() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        // A name with a space: it stays one word.
        let input = folder.path().join("my clip.mp4");
        std::os::unix::fs::symlink(project::media("WolfgangLanger_Pexels.mp4"), &input).unwrap();
        launch_well("annotate", &[("INPUT", text(&input)), ("OUT", text(folder.path()))]);
        let lines = lines(&folder.path().join("faces.jsonl"));
        assert_eq!(lines.len(), 472);
        let faces = lines.iter().map(|line| line["faces"].as_array().unwrap().len()).sum::<usize>();
        assert!(faces >= 460, "one talking face: {faces}");
        assert_eq!(files(folder.path(), "png").len(), faces);
        assert_eq!(frames_of(&folder.path().join("annotated.mp4")), lines.len());
    });
}

#[test]
fn annotate_does_not_wait_for_a_face_that_comes_late_or_never() {
    watched(|| {
        for (name, frames) in [("noface_face.mov", 100..), ("no_face.mp4", 90..)] {
            let folder = tempfile::tempdir().unwrap();
            launch_well("annotate", &[("INPUT", text(&project::media(name))), ("OUT", text(folder.path()))]);
            let lines = lines(&folder.path().join("faces.jsonl"));
            assert!(frames.contains(&lines.len()), "{name}: {} frames", lines.len());
            assert_eq!(frames_of(&folder.path().join("annotated.mp4")), lines.len(), "{name}");
        }
    });
}

#[test]
fn crops_metadata_and_recogniser_give_what_they_say() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let clip = project::media("single_face.mp4");
        launch_well("crops", &[("INPUT", text(&clip)), ("OUT", text(folder.path()))]);
        let crops = files(folder.path(), "png");
        assert!(crops.len() >= 60, "{} crops", crops.len());
        let crop = run(&format!("filesrc location={} ! pngdec ! appsink name=out", quoted(&crops[0])));
        let info = gst_video::VideoInfo::from_caps(crop[0].caps().unwrap()).unwrap();
        assert_eq!((info.width(), info.height()), (112, 112));

        let output = launch_well("metadata", &[("INPUT", text(&clip))]);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout.lines().count(), 72);
        assert!(stdout.lines().all(|line| line.starts_with(r#"{"schema":"retinaface.frame/1","#)), "nothing else");

        launch_well("recogniser", &[("INPUT", text(&clip)), ("OUT", text(folder.path()))]);
        let bytes = std::fs::metadata(folder.path().join("crops.bgr")).unwrap().len();
        assert!(bytes > 0 && bytes.is_multiple_of(112 * 112 * 3));
    });
}

#[test]
fn cameras_are_shown_and_recorded() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = format!("filesrc location={} ! decodebin", text(&project::media("single_face.mp4")));
        launch_well("webcam", &[("SOURCE", &source), ("SINK", "fakesink")]);
        launch_well("rtsp-record", &[("SOURCE", &source), ("OUT", text(folder.path()))]);
        let videos = files(folder.path(), "mkv");
        assert_eq!(videos.len(), 1);
        let lines = lines(&folder.path().join("faces.jsonl"));
        assert!(!lines.is_empty() && lines.iter().all(|line| line["stream"] == "camera"));
        assert_eq!(frames_of(&videos[0]), lines.len());
    });
}

#[test]
fn two_streams_on_one_engine_do_not_mix() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let (with, without) = (project::media("single_face.mp4"), project::media("no_face.mp4"));
        launch_well("many", &[("INPUT", text(&with)), ("OTHER", text(&without)), ("OUT", text(folder.path()))]);
        let faces = |name: &str| {
            let lines = lines(&folder.path().join(name));
            let faces = lines.iter().map(|line| line["faces"].as_array().unwrap().len()).sum::<usize>();
            (lines.len(), faces)
        };
        let (first, second) = (faces("first.jsonl"), faces("second.jsonl"));
        assert!(first.0 == 72 && first.1 >= 70, "{first:?}");
        assert!(second.0 > 90 && second.1 <= 2, "{second:?}");
    });
}

#[test]
fn a_face_that_leaves_and_one_that_enters_are_seen_doing_so() {
    watched(|| {
        let present = |name: &str| {
            let samples = run(&format!("filesrc location={} ! decodebin ! retinaface ! appsink name=out", clip(name)));
            samples.iter().map(|sample| !common::faces_on(sample).is_empty()).collect::<Vec<_>>()
        };
        let share = |frames: &[bool]| frames.iter().filter(|face| **face).count() * 100 / frames.len();
        let leaves = present("face_noface.mov");
        let (start, end) = (share(&leaves[..20]), share(&leaves[leaves.len() - 20..]));
        assert!(start >= 95 && end <= 5, "leaves: {start} % at the start, {end} % at the end");
        let enters = present("noface_face.mov");
        let (start, end) = (share(&enters[..20]), share(&enters[enters.len() - 20..]));
        assert!(start <= 5 && end >= 95, "enters: {start} % at the start, {end} % at the end");
    });
}

#[test]
fn what_decodes_of_a_truncated_video_is_kept_and_plays() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole.mkv");
        let clip = clip("single_face.mp4");
        run(&format!(
            "filesrc location={clip} ! qtdemux ! h264parse ! matroskamux ! filesink location={}",
            quoted(&whole)
        ));
        let bytes = std::fs::read(&whole).unwrap();
        let input = folder.path().join("cut.mkv");
        std::fs::write(&input, &bytes[..bytes.len() * 6 / 10]).unwrap();
        launch_well("annotate", &[("INPUT", text(&input)), ("OUT", text(folder.path()))]);
        let lines = lines(&folder.path().join("faces.jsonl"));
        assert!((20..72).contains(&lines.len()), "{} frames", lines.len());
        assert_eq!(frames_of(&folder.path().join("annotated.mp4")), lines.len());
        assert_eq!(
            files(folder.path(), "png").len(),
            lines.iter().map(|line| line["faces"].as_array().unwrap().len()).sum::<usize>()
        );
    });
}

#[test]
fn two_libraries_that_cannot_live_in_one_process_are_an_error_that_says_so() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("onnxruntime");
        std::os::unix::fs::symlink(common::project::fetched("onnxruntime"), plain).unwrap();
        let other = folder.path().join("onnxruntime-openvino/libonnxruntime.so.1");
        std::fs::create_dir(other.parent().unwrap()).unwrap();
        std::fs::write(&other, "another library").unwrap();
        let target = common::target_folder();
        let mut command = common::command("gst-launch-1.0", &target);
        command.env_remove("ORT_DYLIB_PATH").env("RETINAFACE_RUNTIMES", folder.path());
        // Elements start from the last one on.
        let pipeline = "videotestsrc num-buffers=1 ! retinaface execution-provider=openvino ! retinaface \
                        execution-provider=cpu ! fakesink";
        let output = command.arg("-q").args(pipeline.split_whitespace()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        let other = other.display().to_string();
        for part in ["two ONNX Runtimes cannot live in one process", &other, "a process of its own"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    });
}

/// `retinaface bench` with the plugin under test, at a size that takes no time.
fn bench(arguments: &[&str]) -> Option<std::process::Output> {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let program = deps.join("../retinaface");
    if !program.exists() {
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!ci, "{} is missing in CI: test the whole workspace", program.display());
        eprintln!("not run: {} is not built; test the whole workspace", program.display());
        return None;
    }
    let target = common::target_folder();
    let mut command = common::command(text(&program), &target);
    command.args(["bench", "--execution-provider", "cpu"]);
    Some(command.args(arguments).output().unwrap())
}

#[test]
fn the_program_measures_the_element() {
    watched(|| {
        let clip = project::media("single_face.mp4");
        let small = ["--frame-size", "320x180", "--input-size", "160"];
        let run = |arguments: &[&str]| {
            let size = if arguments.contains(&"--frame-size") { &[] } else { &small[..] };
            let output = bench(&[&[text(&clip)], size, arguments].concat())?;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).unwrap())
        };
        let Some(line) = run(&["--json", "--streams", "2", "--frames", "60", "--threads", "1"]) else { return };
        let report = serde_json::from_str::<serde_json::Value>(&line).unwrap();
        assert_eq!((report["frames"].as_u64(), report["lost"].as_u64()), (Some(120), Some(0)));
        assert_eq!((report["provider"].as_str(), report["input_width"].as_u64()), (Some("cpu"), Some(160)));
        for rate in ["rate", "bare_rate", "rate_to_bare", "seconds"] {
            assert!(report[rate].as_f64().unwrap() > 0.0, "{rate} of {report}");
        }
        // What goes before it is counted to the stream's own statistics.
        assert_eq!(report["stats"]["inferred"].as_u64(), Some(68));
        assert!(report["stats"]["inference-p99"].as_u64() >= report["stats"]["inference-p50"].as_u64());

        let crowd = run(&["--json", "--faces", "4", "--frames", "8", "--frame-size", "640x360", "--input-size", "0"]);
        let crowd = serde_json::from_str::<serde_json::Value>(&crowd.unwrap()).unwrap();
        assert_eq!(crowd["stats"]["faces"].as_u64(), Some(4 * 16), "each frame has the faces asked for");

        let table = run(&["--mode", "latest", "--fps", "100", "--frames", "50"]).unwrap();
        for part in ["1 of 320x180", "provider:   cpu", "50 in", "0 lost", "in element", "preprocess"] {
            assert!(table.contains(part), "`{part}` is not in: {table}");
        }
    });
}

#[test]
fn what_the_program_cannot_measure_is_an_error_with_its_cause() {
    watched(|| {
        let folder = tempfile::tempdir().unwrap();
        let no_clip = folder.path().join("no clip.mp4");
        std::fs::write(&no_clip, "no video").unwrap();
        let clip = project::media("single_face.mp4");
        for (arguments, part) in [
            (vec!["/nowhere.mp4"], "/nowhere.mp4 cannot be decoded"),
            (vec![text(&no_clip)], "cannot be decoded"),
            (vec![text(&clip), "--model", "/nowhere.onnx"], "/nowhere.onnx"),
        ] {
            let Some(output) = bench(&arguments) else { return };
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(2) && error.contains(part), "{arguments:?}: {error}");
        }
    });
}

#[test]
fn streams_that_would_share_runs_go_one_by_one_on_openvino() {
    watched(|| {
        let there = common::project::root().join(".fetch/onnxruntime-openvino/.complete").exists();
        if !there {
            let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!ci, "OpenVINO's ONNX Runtime is missing in CI: run `scripts/setup.sh --openvino`");
            eprintln!("not run: `scripts/setup.sh --openvino` did not run");
            return;
        }
        let target = common::target_folder();
        let mut command = common::command("scripts/until-end", &target);
        command.env_remove("ORT_DYLIB_PATH").env("RETINAFACE_RUNTIMES", common::project::root().join(".fetch"));
        let stream = "videotestsrc num-buffers=8 ! video/x-raw,width=320,height=180 ! retinaface input-size=160 \
                      execution-provider=openvino batch-size=2 batch-timeout=50 ! facemetapublish ! fakesink ";
        let output = command.args(["gst-launch-1.0", "-q"]).args(stream.repeat(2).split_whitespace()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 16);
    });
}

#[test]
fn without_onnx_runtime_the_element_does_not_start_and_says_where_it_looked() {
    watched(|| {
        let error = |variable: Option<&str>| {
            let target = common::target_folder();
            let mut command = common::command("gst-launch-1.0", &target);
            match variable {
                Some(value) => command.env("ORT_DYLIB_PATH", value),
                None => command.env_remove("ORT_DYLIB_PATH").env_remove("RETINAFACE_RUNTIMES"),
            };
            let output =
                command.args(["-q", "videotestsrc", "num-buffers=1", "!", "retinaface", "!", "fakesink"]).output();
            let output = output.unwrap();
            assert!(output.status.code().is_some_and(|code| code != 0));
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        assert!(error(Some("/nowhere.so")).contains("ORT_DYLIB_PATH is set to /nowhere.so"));
        let nowhere = error(None);
        assert!(nowhere.contains("libonnxruntime.so.1") && nowhere.contains("$ORT_DYLIB_PATH (not set)"), "{nowhere}");
    });
}

#[test]
fn a_reader_that_stalls_does_not_keep_a_pipeline_from_stopping() {
    watched(|| {
        common::init();
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // Opened for both, so that neither end waits; nothing is ever read.
        let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let description = format!(
            "videotestsrc ! video/x-raw,width=64,height=64 ! facemetapublish location={} ! fakesink",
            quoted(&pipe)
        );
        let pipeline = gst::parse::launch(&description).unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(700));
        pipeline.set_state(gst::State::Null).unwrap();
    });
}

#[test]
fn an_output_folder_that_cannot_be_written_is_named() {
    watched(|| {
        let clip = project::media("single_face.mp4");
        let target = common::target_folder();
        let mut command = common::command("gst-launch-1.0", &target);
        let pipeline = format!(
            "filesrc location={} ! decodebin ! retinaface ! facemetapublish location=/proc/faces.jsonl ! fakesink",
            clip.display()
        );
        let output = command.arg("-q").args(pipeline.split(' ')).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code != 0) && errors.contains("/proc/faces.jsonl"), "{errors}");
    });
}

/// Ours on two branches, behind `source`.
fn both_branches(source: &str) -> gst::Element {
    let elements = "retinaface ! tee name=t ! queue ! facealign ! fakesink t. ! queue ! facemetaoverlay ! fakesink";
    gst::parse::launch(&format!("{source} ! {elements}")).unwrap()
}

fn wait_for_state(pipeline: &gst::Element) {
    let (result, _, _) = pipeline.state(gst::ClockTime::from_seconds(30));
    let error = pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
    assert!(result.is_ok(), "{error:?}");
}

#[test]
fn a_pipeline_stops_at_any_moment() {
    watched(|| {
        common::init();
        let source = format!("filesrc location={} ! decodebin", clip("WolfgangLanger_Pexels.mp4"));
        for wait in [0, 1, 5, 20, 60, 150, 300] {
            let pipeline = both_branches(&source);
            pipeline.set_state(gst::State::Playing).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(wait));
            pipeline.set_state(gst::State::Null).unwrap();
        }
    });
}

#[test]
fn a_pipeline_that_was_stopped_starts_again() {
    watched(|| {
        common::init();
        let pipeline = both_branches("videotestsrc ! video/x-raw,width=320,height=180");
        for _ in 0..5 {
            pipeline.set_state(gst::State::Playing).unwrap();
            wait_for_state(&pipeline);
            pipeline.set_state(gst::State::Ready).unwrap();
            pipeline.set_state(gst::State::Paused).unwrap();
            wait_for_state(&pipeline);
            pipeline.set_state(gst::State::Null).unwrap();
        }
    });
}

#[test]
fn a_seek_flushes_through_all_elements() {
    watched(|| {
        common::init();
        let source = format!("filesrc location={} ! decodebin", clip("WolfgangLanger_Pexels.mp4"));
        let pipeline = both_branches(&source);
        pipeline.set_state(gst::State::Paused).unwrap();
        wait_for_state(&pipeline);
        for second in [10, 2, 15] {
            let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
            pipeline.seek_simple(flags, gst::ClockTime::from_seconds(second)).unwrap();
            wait_for_state(&pipeline);
            let position = pipeline.query_position::<gst::ClockTime>().unwrap();
            assert!(
                position.absdiff(gst::ClockTime::from_seconds(second)) < gst::ClockTime::from_mseconds(200),
                "{position}"
            );
        }
        pipeline.set_state(gst::State::Null).unwrap();
    });
}

#[test]
fn the_public_surface_is_the_committed_one() {
    common::init();
    let mut text = String::new();
    for name in ["retinaface", "facealign", "facemetaoverlay", "facemetapublish"] {
        let element = gst::ElementFactory::make(name).build().unwrap();
        let factory = element.factory().unwrap();
        text +=
            &format!("{name}: {} ({})\n", factory.metadata("long-name").unwrap(), factory.metadata("klass").unwrap());
        for template in factory.static_pad_templates() {
            text +=
                &format!("  pad {} {:?} {:?}\n", template.name_template(), template.direction(), template.presence());
            text += &format!("    {}\n", template.caps().to_string().replace("; ", "\n    "));
        }
        let own = |property: &&gst::glib::ParamSpec| property.owner_type() == element.type_();
        for property in element.list_properties().iter().filter(own) {
            let access = match (property.flags().contains(gst::glib::ParamFlags::WRITABLE), property.flags()) {
                (false, _) => "read only",
                (true, flags) if flags.contains(gst::PARAM_FLAG_MUTABLE_PLAYING) => "while playing",
                (true, _) => "when stopped",
            };
            text += &format!(
                "  {} {} = {}{}, {access}\n    {}\n",
                property.name(),
                property.value_type(),
                default_of(property),
                range_of(property),
                property.blurb().unwrap()
            );
        }
        text += "\n";
    }
    let file = project::root().join("tests/fixtures/elements.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == text, "the surface changed; if it should, run this test with UPDATE_SNAPSHOTS=1\n{text}");
}

fn default_of(property: &gst::glib::ParamSpec) -> String {
    if !property.flags().contains(gst::glib::ParamFlags::WRITABLE) {
        return "none".to_owned();
    }
    let value = property.default_value();
    value.serialize().map_or_else(|_| "none".to_owned(), |text| text.to_string())
}

fn range_of(property: &gst::glib::ParamSpec) -> String {
    use gst::glib::{ParamSpecFloat, ParamSpecUInt};
    if let Some(spec) = property.downcast_ref::<ParamSpecUInt>() {
        return format!(", {}..={}", spec.minimum(), spec.maximum());
    }
    property
        .downcast_ref::<ParamSpecFloat>()
        .map_or_else(String::new, |spec| format!(", {}..={}", spec.minimum(), spec.maximum()))
}
