//! Complete pipelines in gst-launch-1.0, as users run them. No element may print a warning.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::{self, clip, project, quoted, run, with_watchdog};
use gst::prelude::*;

/// Runs pipelines/`name`.launch.
fn launch(name: &str, variables: &[(&str, &str)]) -> Output {
    let target = common::target_directory();
    let mut command = common::command("scripts/until-end", &target);
    command.arg("scripts/launch").arg(format!("pipelines/{name}.launch"));
    for (variable, value) in variables {
        command.arg(format!("{variable}={value}"));
    }
    let out = variables.iter().find(|(variable, _)| *variable == "OUT").map(|(_, value)| Path::new(*value));
    common::output_of(&mut command, out)
}

fn launch_without_warnings(name: &str, variables: &[(&str, &str)]) -> Output {
    let output = launch(name, variables);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {:?} {errors}", output.status);
    for word in ["WARNING", "CRITICAL", "ERROR"] {
        assert!(!errors.contains(word), "{name}: {errors}");
    }
    output
}

fn path_str(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files = entries.filter(|file| file.extension().is_some_and(|found| found == extension)).collect::<Vec<_>>();
    files.sort();
    files
}

/// The lines of frames and of events of tracks.
fn lines_and_events(file: &Path) -> (Vec<serde_json::Value>, Vec<serde_json::Value>) {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.partition(|line| line["schema"] == "retinaface.frame/1")
}

/// The lines of frames.
fn lines(file: &Path) -> Vec<serde_json::Value> {
    lines_and_events(file).0
}

/// The number of frames that a video file decodes to.
fn frame_count(file: &Path) -> usize {
    run(&format!("filesrc location={} ! decodebin ! video/x-raw ! appsink name=out", quoted(file))).len()
}

#[test]
fn each_pipeline_file_has_a_test() {
    let files = files(&project::root().join("pipelines"), "launch");
    let names = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect::<BTreeSet<_>>();
    let tested = [
        "annotate",
        "best-shots",
        "crops",
        "landmarks",
        "many",
        "metadata",
        "recogniser",
        "redact",
        "rtsp-record",
        "track",
        "webcam",
    ];
    assert_eq!(names, BTreeSet::from(tested));
    for file in files {
        let first = std::fs::read_to_string(file).unwrap().lines().next().unwrap().to_owned();
        assert!(first.starts_with("# ") && first.ends_with('.'), "the first line describes the pipeline: {first}");
    }
}

#[test]
fn landmarks_pipeline_writes_points_and_pose_per_face() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let (clip, model) =
            (project::media("single_face.mp4"), project::root().join("tests/fixtures/models/landmarks68.onnx"));
        launch_without_warnings(
            "landmarks",
            &[("INPUT", path_str(&clip)), ("LANDMARKS", path_str(&model)), ("OUT", path_str(directory.path()))],
        );
        let lines = lines(&directory.path().join("faces.jsonl"));
        let faces = lines.iter().flat_map(|line| line["faces"].as_array().unwrap()).collect::<Vec<_>>();
        assert!(faces.len() >= 60, "{} faces", faces.len());
        for face in faces {
            assert_eq!(face["points"].as_array().unwrap().len(), 68);
            assert!(face["pose"]["yaw"].as_f64().unwrap().abs() < 60.0, "{face}");
        }
        assert_eq!(frame_count(&directory.path().join("annotated.mp4")), lines.len());
    });
}

#[test]
fn annotate_pipeline_writes_video_crops_and_metadata() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        // A file name with a space must not be split.
        let input = directory.path().join("my clip.mp4");
        std::os::unix::fs::symlink(project::media("WolfgangLanger_Pexels.mp4"), &input).unwrap();
        launch_without_warnings("annotate", &[("INPUT", path_str(&input)), ("OUT", path_str(directory.path()))]);
        let lines = lines(&directory.path().join("faces.jsonl"));
        assert_eq!(lines.len(), 472);
        let faces = lines.iter().map(|line| line["faces"].as_array().unwrap().len()).sum::<usize>();
        assert!(faces >= 460, "{faces} faces in a clip that shows one");
        assert_eq!(files(directory.path(), "png").len(), faces);
        assert_eq!(frame_count(&directory.path().join("annotated.mp4")), lines.len());
    });
}

#[test]
fn track_pipeline_follows_the_face_between_inferences() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let clip = project::media("WolfgangLanger_Pexels.mp4");
        launch_without_warnings("track", &[("INPUT", path_str(&clip)), ("OUT", path_str(directory.path()))]);
        let (frames, events) = lines_and_events(&directory.path().join("faces.jsonl"));
        assert_eq!(frames.len(), 472);
        let predicted = frames.iter().filter(|line| line["state"] == "predicted").count();
        assert!((370..380).contains(&predicted), "{predicted} of {} frames are predicted", frames.len());
        let faces = frames.iter().flat_map(|line| line["faces"].as_array().unwrap()).collect::<Vec<_>>();
        assert!(faces.len() >= 460, "{} faces in a clip that shows one", faces.len());
        let ids = faces.iter().filter_map(|face| face["track_id"].as_u64()).collect::<BTreeSet<_>>();
        assert_eq!(ids.len(), 1, "one face has one id: {events:?}");
        assert_eq!(events.last().unwrap()["event"], "ended");
        assert_eq!(frame_count(&directory.path().join("annotated.mp4")), frames.len());
    });
}

#[test]
fn best_shots_pipeline_writes_few_crops_of_a_track() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let clip = project::media("WolfgangLanger_Pexels.mp4");
        launch_without_warnings("best-shots", &[("INPUT", path_str(&clip)), ("OUT", path_str(directory.path()))]);
        // One face: the first crop, the final one, and better ones in between.
        let crops = files(directory.path(), "png").len();
        assert!((2..=6).contains(&crops), "{crops} crops");
    });
}

#[test]
fn redact_pipeline_leaves_no_face_that_a_detector_finds() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let clip = project::media("single_face.mp4");
        launch_without_warnings("redact", &[("INPUT", path_str(&clip)), ("OUT", path_str(directory.path()))]);
        let redacted = directory.path().join("redacted.mp4");
        let samples =
            run(&format!("filesrc location={} ! decodebin ! retinaface ! appsink name=out", quoted(&redacted)));
        assert_eq!(samples.len(), frame_count(&clip));
        assert!(samples.iter().all(|sample| common::read_faces(sample).is_empty()));
    });
}

#[test]
fn annotate_pipeline_does_not_stall_without_faces() {
    with_watchdog(|| {
        for (name, frames) in [("noface_face.mov", 100..), ("no_face.mp4", 90..)] {
            let directory = tempfile::tempdir().unwrap();
            launch_without_warnings(
                "annotate",
                &[("INPUT", path_str(&project::media(name))), ("OUT", path_str(directory.path()))],
            );
            let lines = lines(&directory.path().join("faces.jsonl"));
            assert!(frames.contains(&lines.len()), "{name}: {} frames", lines.len());
            assert_eq!(frame_count(&directory.path().join("annotated.mp4")), lines.len(), "{name}");
        }
    });
}

#[test]
fn crops_metadata_and_recogniser_pipelines_write_their_files() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let clip = project::media("single_face.mp4");
        launch_without_warnings("crops", &[("INPUT", path_str(&clip)), ("OUT", path_str(directory.path()))]);
        let crops = files(directory.path(), "png");
        assert!(crops.len() >= 60, "{} crops", crops.len());
        let crop = run(&format!("filesrc location={} ! pngdec ! appsink name=out", quoted(&crops[0])));
        let info = gst_video::VideoInfo::from_caps(crop[0].caps().unwrap()).unwrap();
        assert_eq!((info.width(), info.height()), (112, 112));

        let output = launch_without_warnings("metadata", &[("INPUT", path_str(&clip))]);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout.lines().count(), 72);
        assert!(
            stdout.lines().all(|line| line.starts_with(r#"{"schema":"retinaface.frame/1","#)),
            "standard output has only metadata"
        );

        launch_without_warnings("recogniser", &[("INPUT", path_str(&clip)), ("OUT", path_str(directory.path()))]);
        let bytes = std::fs::metadata(directory.path().join("crops.bgr")).unwrap().len();
        assert!(bytes > 0 && bytes.is_multiple_of(112 * 112 * 3));
    });
}

#[test]
fn camera_pipelines_display_and_record() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let source = format!("filesrc location={} ! decodebin", path_str(&project::media("single_face.mp4")));
        launch_without_warnings("webcam", &[("SOURCE", &source), ("SINK", "fakesink")]);
        launch_without_warnings("rtsp-record", &[("SOURCE", &source), ("OUT", path_str(directory.path()))]);
        let videos = files(directory.path(), "mkv");
        assert_eq!(videos.len(), 1);
        let lines = lines(&directory.path().join("faces.jsonl"));
        assert!(!lines.is_empty() && lines.iter().all(|line| line["stream"] == "camera"));
        assert_eq!(frame_count(&videos[0]), lines.len());
    });
}

#[test]
fn the_webcam_pipeline_takes_what_cameras_give() {
    with_watchdog(|| {
        for caps in
            ["format=YUY2", "format=UYVY", "format=NV21", "format=YV12,interlace-mode=interleaved", "format=GRAY16_LE"]
        {
            let source = format!("videotestsrc num-buffers=5 ! video/x-raw,width=640,height=480,{caps} ! decodebin");
            launch_without_warnings("webcam", &[("SOURCE", &source), ("SINK", "fakesink")]);
        }
        // JPEG with the 4:2:2 subsampling of cameras.
        let jpeg = "videotestsrc num-buffers=5 ! video/x-raw,format=Y42B,width=640,height=480 ! jpegenc ! decodebin";
        launch_without_warnings("webcam", &[("SOURCE", jpeg), ("SINK", "fakesink")]);
    });
}

#[test]
fn streams_that_share_a_model_do_not_mix_results() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let (face_clip, no_face_clip) = (project::media("single_face.mp4"), project::media("no_face.mp4"));
        launch_without_warnings(
            "many",
            &[("INPUT", path_str(&face_clip)), ("OTHER", path_str(&no_face_clip)), ("OUT", path_str(directory.path()))],
        );
        let faces = |name: &str| {
            let lines = lines(&directory.path().join(name));
            let faces = lines.iter().map(|line| line["faces"].as_array().unwrap().len()).sum::<usize>();
            (lines.len(), faces)
        };
        let (first, second) = (faces("first.jsonl"), faces("second.jsonl"));
        assert!(first.0 == 72 && first.1 >= 70, "{first:?}");
        assert!(second.0 > 90 && second.1 <= 2, "{second:?}");
    });
}

#[test]
fn metadata_follows_face_leaving_or_entering_frame() {
    with_watchdog(|| {
        let has_faces = |name: &str| {
            let samples = run(&format!("filesrc location={} ! decodebin ! retinaface ! appsink name=out", clip(name)));
            samples.iter().map(|sample| !common::read_faces(sample).is_empty()).collect::<Vec<_>>()
        };
        let percentage = |frames: &[bool]| frames.iter().filter(|face| **face).count() * 100 / frames.len();
        let leaves = has_faces("face_noface.mov");
        let (start, end) = (percentage(&leaves[..20]), percentage(&leaves[leaves.len() - 20..]));
        assert!(start >= 95 && end <= 5, "leaves: {start} % at the start, {end} % at the end");
        let enters = has_faces("noface_face.mov");
        let (start, end) = (percentage(&enters[..20]), percentage(&enters[enters.len() - 20..]));
        assert!(start <= 5 && end >= 95, "enters: {start} % at the start, {end} % at the end");
    });
}

#[test]
fn truncated_video_gives_playable_output() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let whole = directory.path().join("whole.mkv");
        let clip = clip("single_face.mp4");
        run(&format!(
            "filesrc location={clip} ! qtdemux ! h264parse ! matroskamux ! filesink location={}",
            quoted(&whole)
        ));
        let bytes = std::fs::read(&whole).unwrap();
        let input = directory.path().join("cut.mkv");
        std::fs::write(&input, &bytes[..bytes.len() * 6 / 10]).unwrap();
        launch_without_warnings("annotate", &[("INPUT", path_str(&input)), ("OUT", path_str(directory.path()))]);
        let lines = lines(&directory.path().join("faces.jsonl"));
        assert!((20..72).contains(&lines.len()), "{} frames", lines.len());
        assert_eq!(frame_count(&directory.path().join("annotated.mp4")), lines.len());
        assert_eq!(
            files(directory.path(), "png").len(),
            lines.iter().map(|line| line["faces"].as_array().unwrap().len()).sum::<usize>()
        );
    });
}

#[test]
fn second_onnx_runtime_in_process_is_an_error() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let cpu_runtime = directory.path().join("onnxruntime");
        std::os::unix::fs::symlink(common::project::fetched("onnxruntime"), cpu_runtime).unwrap();
        let other = directory.path().join("onnxruntime-cuda/libonnxruntime.so.1");
        std::fs::create_dir(other.parent().unwrap()).unwrap();
        std::fs::write(&other, "another library").unwrap();
        let target = common::target_directory();
        let mut command = common::command("gst-launch-1.0", &target);
        command.env_remove("ORT_DYLIB_PATH").env("RETINAFACE_RUNTIMES", directory.path());
        // Elements start from sink to source, so the CPU runtime is loaded first.
        let pipeline = "videotestsrc num-buffers=1 ! retinaface execution-provider=cuda ! retinaface \
                        execution-provider=cpu ! fakesink";
        let output = command.arg("-q").args(pipeline.split_whitespace()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        let other = other.display().to_string();
        for part in ["a process can load ONNX Runtime only once", &other, "a separate process"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    });
}

#[test]
fn lines_of_onnx_runtime_are_in_the_debug_log_and_not_on_standard_error() {
    with_watchdog(|| {
        let model = project::root().join("tests/fixtures/models/fails_at_run.onnx");
        let pipeline = format!("videotestsrc num-buffers=1 ! retinaface model-file={} ! fakesink", model.display());
        let target = common::target_directory();
        let launch = |debug: &str| {
            let mut command = common::command("gst-launch-1.0", &target);
            command.env("GST_DEBUG", debug).env("GST_DEBUG_NO_COLOR", "1").arg("-q");
            let output = command.args(pipeline.split_whitespace()).output().unwrap();
            assert!(!output.status.success());
            String::from_utf8(output.stderr).unwrap()
        };
        let silent = launch("none");
        assert!(silent.contains("Reshape"), "the error of the element has ONNX Runtime's reason: {silent}");
        assert!(!silent.contains("[E:onnxruntime") && !silent.contains('\u{1B}'), "{silent}");
        let logged = launch("onnxruntime:1");
        let lines = logged.lines().filter(|line| line.contains(" onnxruntime ")).collect::<Vec<_>>();
        assert!(lines.len() == 1 && lines[0].contains("ERROR") && lines[0].contains("Reshape"), "{logged}");
    });
}

/// Runs `retinaface bench` with the plugin under test. Returns `None` if the program is not built.
fn bench(arguments: &[&str]) -> Option<std::process::Output> {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let program = deps.join("../retinaface");
    if !program.exists() {
        let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(!ci, "{} is missing in CI: run the tests of all packages", program.display());
        eprintln!("skipped: {} is not built; run the tests of all packages", program.display());
        return None;
    }
    let target = common::target_directory();
    let mut command = common::command(path_str(&program), &target);
    command.args(["bench", "--execution-provider", "cpu"]);
    Some(common::output_of(command.args(arguments), None))
}

#[test]
fn bench_reports_rates_and_statistics() {
    with_watchdog(|| {
        let clip = project::media("single_face.mp4");
        let small = ["--frame-size", "320x180", "--input-size", "160"];
        let run = |arguments: &[&str]| {
            let size = if arguments.contains(&"--frame-size") { &[] } else { &small[..] };
            let output = bench(&[&[path_str(&clip)], size, arguments].concat())?;
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
        // The statistics of the stream include the frames before the measurement.
        assert_eq!(report["stats"]["inferred"].as_u64(), Some(68));
        assert!(report["stats"]["inference-p99"].as_u64() >= report["stats"]["inference-p50"].as_u64());

        let crowd = run(&["--json", "--faces", "4", "--frames", "8", "--frame-size", "640x360", "--input-size", "0"]);
        let crowd = serde_json::from_str::<serde_json::Value>(&crowd.unwrap()).unwrap();
        assert_eq!(crowd["stats"]["faces"].as_u64(), Some(4 * 16), "each frame has the requested faces");

        let table = run(&["--mode", "latest", "--fps", "100", "--frames", "50"]).unwrap();
        for part in ["1 of 320x180", "provider:   cpu", "50 in", "0 lost", "latency:", "preprocess"] {
            assert!(table.contains(part), "`{part}` is not in: {table}");
        }
    });
}

#[test]
fn bench_error_names_the_invalid_file() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let no_clip = directory.path().join("no clip.mp4");
        std::fs::write(&no_clip, "no video").unwrap();
        let clip = project::media("single_face.mp4");
        for (arguments, part) in [
            (vec!["/nowhere.mp4"], "cannot decode /nowhere.mp4"),
            (vec![path_str(&no_clip)], "cannot decode"),
            (vec![path_str(&clip), "--model", "/nowhere.onnx"], "/nowhere.onnx"),
        ] {
            let Some(output) = bench(&arguments) else { return };
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(2) && error.contains(part), "{arguments:?}: {error}");
        }
    });
}

#[test]
fn openvino_streams_with_batch_size_publish_all_frames() {
    with_watchdog(|| {
        if !project::has_component("providers/openvino", "--openvino") {
            return;
        }
        if !std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("GenuineIntel") {
            eprintln!("skipped: OpenVINO runs on processors of Intel only");
            return;
        }
        let target = common::target_directory();
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
fn missing_onnx_runtime_error_lists_searched_paths() {
    with_watchdog(|| {
        let error = |variable: Option<&str>| {
            let target = common::target_directory();
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
fn stalled_pipe_reader_does_not_block_shutdown() {
    with_watchdog(|| {
        common::init();
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // Opened for reading and writing, so that opening does not block. Nothing is read.
        let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let description = format!(
            "videotestsrc ! video/x-raw,width=64,height=64 ! facemetapublish name=it location={} ! fakesink",
            quoted(&pipe)
        );
        let pipeline = gst::parse::launch(&description).unwrap();
        let element = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("it").unwrap();
        let frames = common::count_buffers(&element, "sink");
        pipeline.set_state(gst::State::Playing).unwrap();
        // A pipe buffers 64 KiB. When no more frames arrive, the writer is blocked.
        let mut last_count = 0;
        common::wait_until(|| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let count = frames();
            count > 0 && count == std::mem::replace(&mut last_count, count)
        });
        pipeline.set_state(gst::State::Null).unwrap();
    });
}

#[test]
fn output_in_unwritable_directory_is_an_error() {
    with_watchdog(|| {
        let clip = project::media("single_face.mp4");
        let target = common::target_directory();
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

/// A pipeline of `source`, the detector, and a branch each for `facealign` and `facemetaoverlay`.
fn two_branch_pipeline(source: &str) -> gst::Element {
    let elements =
        "retinaface name=it ! tee name=t ! queue ! facealign ! fakesink t. ! queue ! facemetaoverlay ! fakesink";
    gst::parse::launch(&format!("{source} ! {elements}")).unwrap()
}

fn wait_for_state(pipeline: &gst::Element) {
    let (result, _, _) = pipeline.state(gst::ClockTime::NONE);
    let error = pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
    assert!(result.is_ok(), "{error:?}");
}

#[test]
fn pipeline_stops_after_any_number_of_frames() {
    with_watchdog(|| {
        common::init();
        let source = format!("filesrc location={} ! decodebin", clip("WolfgangLanger_Pexels.mp4"));
        for frames in [0, 1, 2, 5, 20, 50] {
            let pipeline = two_branch_pipeline(&source);
            let element = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("it").unwrap();
            let passed = common::count_buffers(&element, "src");
            pipeline.set_state(gst::State::Playing).unwrap();
            common::wait_until(|| passed() >= frames);
            pipeline.set_state(gst::State::Null).unwrap();
        }
    });
}

#[test]
fn pipeline_restarts_after_stop() {
    with_watchdog(|| {
        common::init();
        let pipeline = two_branch_pipeline("videotestsrc ! video/x-raw,width=320,height=180");
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
fn seek_flushes_all_elements() {
    with_watchdog(|| {
        common::init();
        let source = format!("filesrc location={} ! decodebin", clip("WolfgangLanger_Pexels.mp4"));
        let pipeline = two_branch_pipeline(&source);
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
