//! The program, through its binary.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use binary::{program, run, status, stderr, text};
use serde::Deserialize;

#[path = "common/binary.rs"]
mod binary;
mod common;

/// The schema, written a second time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by serde only: what counts is that each field is there and no other")]
struct Line {
    schema: String,
    source: String,
    frame: u64,
    pts_ns: Option<u64>,
    utc: Option<String>,
    width: u32,
    height: u32,
    age_ns: u64,
    faces: Vec<serde_json::Value>,
}

fn lines(output: &Output) -> Vec<Line> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// A picture of one grey.
fn grey_picture(folder: &Path) -> PathBuf {
    let file = folder.join("grey.png");
    let mat =
        opencv::core::Mat::new_rows_cols_with_default(90, 120, opencv::core::CV_8UC3, opencv::core::Scalar::all(120.0));
    opencv::imgcodecs::imwrite(&file, &mat.unwrap(), &opencv::core::Vector::new()).unwrap();
    file
}

#[test]
fn faces_are_found_and_the_status_says_so() {
    let (multi, single) = (common::media("multi_face.jpg"), common::media("single_face.jpg"));
    let output = run(&["detect", text(&multi), text(&single)]);
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    let lines = lines(&output);
    assert_eq!(lines.iter().map(|line| line.faces.len()).collect::<Vec<_>>(), [5, 1]);
    assert_eq!((lines[0].source.as_str(), lines[0].frame, lines[1].frame), (text(&multi), 0, 1));
    assert_eq!((lines[0].width, lines[0].height), (1000, 667));
}

#[test]
fn options_change_what_is_found() {
    let multi = common::media("multi_face.jpg");
    let count = |options: &[&str]| {
        let output = run(&[&["detect", text(&multi)], options].concat());
        (lines(&output)[0].faces.len(), status(&output))
    };
    assert_eq!(count(&["--max-faces", "2"]), (2, 0));
    assert_eq!(count(&["--score-threshold", "1"]), (0, 1));
    assert!(count(&["--score-threshold", "0.02", "--iou-threshold", "1"]).0 > 20);
    assert_eq!(count(&["--input-size", "0"]), (5, 0));
    assert_eq!(count(&["--min-face-size", "500"]), (0, 1));
    assert_eq!(count(&["--execution-provider", "cpu", "--threads", "1"]), (5, 0));
}

#[test]
fn a_picture_without_a_face_is_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["detect", text(&grey_picture(folder.path()))]);
    assert_eq!((status(&output), lines(&output)[0].faces.len()), (1, 0));
}

#[test]
fn a_broken_picture_is_named_the_others_still_run_and_the_status_is_2() {
    let folder = tempfile::tempdir().unwrap();
    let single = common::media("single_face.jpg");
    let bytes = std::fs::read(&single).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let broken = [
        file("cut.jpg", &bytes[..bytes.len() / 2]),
        file("text.png", b"no picture"),
        file("empty.webp", b""),
        folder.path().join("missing.jpg"),
        folder.path().to_path_buf(),
    ];
    let inputs = [broken.iter().map(|file| text(file)).collect::<Vec<_>>(), vec![text(&single)]].concat();
    let output = run(&[vec!["detect"], inputs].concat());
    assert_eq!(status(&output), 2);
    let lines = lines(&output);
    assert_eq!((lines.len(), lines[0].faces.len(), lines[0].frame), (1, 1, 5));
    let errors = stderr(&output);
    for file in &broken {
        assert_eq!(errors.matches(&format!("retinaface: {}: ", file.display())).count(), 1, "{errors}");
    }
    assert!(errors.contains("truncated"), "{errors}");
}

#[test]
fn crops_and_drawn_copies_are_written_and_no_name_is_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (multi, single) = (common::media("multi_face.jpg"), common::media("single_face.jpg"));
    let (crops, drawn) = (folder.path().join("new/crops"), folder.path().join("drawn"));
    let inputs =
        ["detect", text(&multi), text(&single), text(&single), "--crops", text(&crops), "--annotate", text(&drawn)];
    assert_eq!(status(&run(&inputs)), 0);
    let names = |folder: &Path| {
        let mut names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
    };
    let expected = ["multi_face-0.png", "multi_face-1.png", "multi_face-2.png", "multi_face-3.png", "multi_face-4.png"];
    assert_eq!(names(&crops), [&expected[..], &["single_face-0.png", "single_face.2-0.png"]].concat());
    assert_eq!(names(&drawn), ["multi_face.jpg", "single_face.2.jpg", "single_face.jpg"]);
    let size = |file: PathBuf| {
        use opencv::prelude::*;
        let mat = opencv::imgcodecs::imread(file, opencv::imgcodecs::IMREAD_COLOR).unwrap();
        (mat.cols(), mat.rows())
    };
    assert_eq!(size(crops.join("multi_face-0.png")), (112, 112));
    assert_eq!(size(drawn.join("multi_face.jpg")), (1000, 667));
}

#[test]
fn an_input_is_never_written_over_and_its_faces_are_not_lost_for_that() {
    let folder = tempfile::tempdir().unwrap();
    let photo = folder.path().join("photo.jpg");
    std::fs::copy(common::media("single_face.jpg"), &photo).unwrap();
    let before = std::fs::read(&photo).unwrap();
    let output = run(&["detect", text(&photo), "--annotate", text(folder.path())]);
    assert_eq!((status(&output), lines(&output)[0].faces.len()), (2, 1));
    assert!(stderr(&output).contains("is one of the inputs"), "{}", stderr(&output));
    assert_eq!(std::fs::read(&photo).unwrap(), before);
}

#[test]
fn png_and_webp_are_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let photo = opencv::imgcodecs::imread(common::media("single_face.jpg"), opencv::imgcodecs::IMREAD_COLOR).unwrap();
    for name in ["face.png", "face.webp", "face.bmp"] {
        let file = folder.path().join(name);
        assert!(opencv::imgcodecs::imwrite(&file, &photo, &opencv::core::Vector::new()).unwrap());
        let output = run(&["detect", text(&file)]);
        assert_eq!((status(&output), lines(&output)[0].faces.len()), (0, 1), "{name}");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_status_2_before_anything_is_read() {
    let single = common::media("single_face.jpg");
    for option in ["--crops", "--annotate"] {
        let output = run(&["detect", text(&single), option, "/dev/null/folder"]);
        assert_eq!((status(&output), output.stdout.len()), (2, 0));
        assert!(stderr(&output).contains("/dev/null/folder"), "{}", stderr(&output));
    }
}

#[test]
fn a_closed_pipe_is_success() {
    let single = common::media("single_face.jpg");
    let inputs = vec![text(&single); 20];
    let mut child = program(&[vec!["detect"], inputs].concat()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn wrong_arguments_are_status_2_and_help_is_status_0() {
    for arguments in [
        &["detect"][..],
        &["detect", "a.jpg", "--score-threshold", "2"],
        &["detect", "a.jpg", "--execution-provider", "tpu"],
        &[],
    ] {
        let output = run(arguments);
        assert_eq!((status(&output), output.stdout.len()), (2, 0), "{arguments:?}");
    }
    assert_eq!(status(&run(&["--help"])), 0);
}

#[test]
fn model_says_what_a_model_is() {
    let output = run(&["model", text(&common::default_model())]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    for part in [
        "RetinaFace",
        "input [N, 3, height, width]",
        "loc [N, A, 4]",
        "conf [N, A, 2]",
        "landmarks [N, A, 10]",
        "8 (anchors of 16 and 32 px, 4 px into their cell)",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert_eq!(status(&output), 0);
}

/// What `model --json` says, written a second time.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct ModelLine {
    schema: String,
    layout: String,
    input: String,
    fixed_size: Option<[usize; 2]>,
    dynamic_batch: bool,
    outputs: Vec<String>,
    landmarks: bool,
    points: Option<usize>,
    strides: Vec<usize>,
    multiple: usize,
    order: String,
    mean: [f32; 3],
    scale: f32,
}

#[test]
fn model_says_what_a_model_is_to_programs_too() {
    let line = |model: &Path| {
        let output = run(&["model", "--json", text(model)]);
        assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
        serde_json::from_slice::<ModelLine>(&output.stdout).unwrap()
    };
    let names = |names: [&str; 3]| names.map(str::to_owned).to_vec();
    let default = line(&common::default_model());
    let expected = ModelLine {
        schema: "retinaface.model/1".to_owned(),
        layout: "RetinaFace (biubug6)".to_owned(),
        input: "input".to_owned(),
        fixed_size: None,
        dynamic_batch: true,
        outputs: names(["conf", "loc", "landmarks"]),
        landmarks: true,
        points: None,
        strides: vec![8, 16, 32],
        multiple: 1,
        order: "BGR".to_owned(),
        mean: [104.0, 117.0, 123.0],
        scale: 1.0,
    };
    assert_eq!(default, expected);
    let Some(fixed) = common::shared("models/retinaface_biubug6_fixed640.onnx") else { return };
    let (input, fixed_size, dynamic_batch) = ("input0".to_owned(), Some([640, 640]), false);
    let outputs = names(["586", "output0", "585"]);
    assert_eq!(line(&fixed), ModelLine { input, fixed_size, dynamic_batch, outputs, ..expected });
}

#[test]
fn a_model_without_landmarks_gives_crops_only_if_squares_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = common::root().join("tests/fixtures/models/ssh.onnx");
    let white = folder.path().join("white.png");
    let picture =
        opencv::core::Mat::new_rows_cols_with_default(96, 96, opencv::core::CV_8UC3, opencv::core::Scalar::all(255.0));
    opencv::imgcodecs::imwrite(text(&white), &picture.unwrap(), &opencv::core::Vector::new()).unwrap();
    let crops = folder.path().join("crops");
    let args = ["detect", "--model", text(&model), "--input-size", "96", "--crops", text(&crops), text(&white)];
    let output = run(&args);
    assert!(stderr(&output).contains("--align-without-landmarks"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(&crops).unwrap().count(), 0);
    let output = run(&[&args[..], &["--align-without-landmarks"]].concat());
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    assert!(std::fs::read_dir(&crops).unwrap().count() > 0);
}

#[test]
fn looks_and_model_options_are_those_of_the_element() {
    let photo = common::media("multi_face.jpg");
    let faces = |options: &[&str]| {
        let output = run(&[&["detect", text(&photo)], options].concat());
        let line = serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
        line["faces"].as_array().unwrap().len()
    };
    assert_eq!(faces(&["--scales", "1.0,0.5", "--flip", "--merge", "vote", "--tiles", "2x2"]), 5);
    assert_eq!(faces(&["--roi", "300,200,150,200"]), 1);
    // With another mean it sees another picture.
    let output = run(&["detect", text(&photo), "--model-option", "scale=0.001"]);
    assert_eq!(status(&output), 1);
    for (options, problem) in [
        (["--scales", "0"], "0 is not within 0.01 to 16"),
        (["--tiles", "x"], "as in 3x2"),
        (["--roi", "1,2"], "x,y,width,height"),
        (["--merge", "mean"], "expected nms or vote"),
        (["--model-option", "mean=red"], "`red` is not a number"),
    ] {
        let output = run(&[&["detect", text(&photo)], &options[..]].concat());
        assert_eq!(status(&output), 2);
        assert!(stderr(&output).contains(problem), "{}", stderr(&output));
    }
}

#[test]
fn model_says_what_a_landmark_model_is_when_told_that_it_is_one() {
    let file = common::root().join("tests/fixtures/models/landmarks106.onnx");
    let output = run(&["model", "--landmarks", text(&file)]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("106 points, from its middle, -1 to 1"), "{said}");
    let output = run(&["model", "--landmarks", "--json", text(&file)]);
    assert_eq!(serde_json::from_slice::<ModelLine>(&output.stdout).unwrap().points, Some(106));
}

#[test]
fn model_says_what_is_wrong_with_a_file() {
    let cases = [
        ("models/landmarks68_faceplugin.onnx", "its input has 1 channels"),
        ("models/embedding128_mobilefacenet.onnx", "[1, 128]"),
        ("models/README.md", "not an ONNX file"),
    ];
    for (file, part) in cases {
        let Some(file) = common::shared(file) else { continue };
        for options in [&["model"][..], &["model", "--json"]] {
            let output = run(&[options, &[text(&file)]].concat());
            assert_eq!((status(&output), output.stdout.len()), (2, 0));
            assert!(stderr(&output).contains(part), "{part} is not in: {}", stderr(&output));
        }
    }
    let output = run(&["model", "/nowhere.onnx"]);
    assert!(status(&output) == 2 && stderr(&output).contains("/nowhere.onnx"), "{}", stderr(&output));
}

#[test]
fn names_of_outputs_and_their_order_do_not_matter() {
    // OpenSeeFace's export: `output0`, `586`, `585`, of one fixed size.
    let Some(model) = common::shared("models/retinaface_biubug6_fixed640.onnx") else { return };
    let photo = common::media("multi_face.jpg");
    let output = run(&["detect", text(&photo), "--model", text(&model)]);
    assert_eq!((status(&output), lines(&output)[0].faces.len()), (0, 5));
}

/// A library that says that it is ONNX Runtime of that version, and gives `api` as its API.
fn made_up_runtime(folder: &Path, version: &str) -> PathBuf {
    let (source, library) = (folder.join("runtime.c"), folder.join("libonnxruntime.so.1"));
    let code = format!(
        "static const void *api(unsigned v) {{ (void)v; return 0; }}\n\
         static const char *version(void) {{ return \"{version}\"; }}\n\
         static const struct {{ const void *(*api)(unsigned); const char *(*version)(void); }} base = {{ api, version }};\n\
         const void *OrtGetApiBase(void) {{ return &base; }}\n"
    );
    std::fs::write(&source, code).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(compiled.success());
    library
}

#[test]
fn no_runtime_an_old_one_and_one_that_is_none_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let model = common::default_model();
    let error = |runtime: &Path| {
        let output = program(&["model", text(&model)]).env("ORT_DYLIB_PATH", runtime).output().unwrap();
        assert_eq!((status(&output), output.stdout.len()), (2, 0));
        stderr(&output)
    };
    let says = |text: &str, parts: &[&str]| {
        parts.iter().for_each(|part| assert!(text.contains(part), "{part} is not in: {text}"));
    };
    says(
        &error(Path::new("/nowhere/libonnxruntime.so")),
        &["ORT_DYLIB_PATH is set to /nowhere/libonnxruntime.so", "does not exist"],
    );
    let old = made_up_runtime(folder.path(), "1.10.3");
    says(&error(&old), &[text(&old), "version 1.10.3, too old", "1.24 or newer", "make setup"]);
    // A newer number without an API behind it must not bring the program down.
    let liar = made_up_runtime(folder.path(), "1.99.0");
    says(&error(&liar), &[text(&liar), "cannot be used as ONNX Runtime"]);
    let text_file = folder.path().join("text.so");
    std::fs::write(&text_file, "no library".repeat(100)).unwrap();
    says(&error(&text_file), &["cannot be used as ONNX Runtime", "invalid ELF header"]);
}

#[test]
fn without_any_variable_the_error_says_where_it_looked() {
    let mut command = program(&["detect", "a.jpg"]);
    let output = command.env_remove("ORT_DYLIB_PATH").env_remove("RETINAFACE_MODEL").output().unwrap();
    assert_eq!(status(&output), 2);
    let folder = Path::new(env!("CARGO_BIN_EXE_retinaface")).parent().unwrap();
    for part in [
        "$RETINAFACE_MODEL (not set)",
        text(&folder.join("retinaface_mnet025.onnx")),
        "/usr/share/retinaface",
        "make setup",
    ] {
        assert!(stderr(&output).contains(part), "{part} is not in: {}", stderr(&output));
    }
}

#[test]
fn a_provider_that_is_not_there_is_an_error_unless_the_cpu_is_allowed_for_it() {
    let photo = common::media("single_face.jpg");
    let arguments = ["detect", text(&photo), "--execution-provider", "cuda"];
    let output = run(&arguments);
    assert_eq!(status(&output), 2);
    for part in ["execution provider cuda is not available in", "libonnxruntime.so.1", "scripts/setup.sh --cuda"] {
        assert!(stderr(&output).contains(part), "{part} is not in: {}", stderr(&output));
    }
    let output = run(&[arguments.as_slice(), &["--allow-cpu-fallback"]].concat());
    assert_eq!((status(&output), lines(&output)[0].faces.len()), (0, 1));
    assert!(stderr(&output).starts_with("retinaface: running on the CPU: execution provider cuda is not"));
}

#[test]
fn each_provider_has_its_own_library() {
    // An ONNX Runtime in the plain place, and something that is none in that for CUDA.
    let folder = tempfile::tempdir().unwrap();
    let photo = common::media("single_face.jpg");
    let cuda = folder.path().join("onnxruntime-cuda");
    std::fs::create_dir(&cuda).unwrap();
    std::os::unix::fs::symlink(common::fetched("onnxruntime"), folder.path().join("onnxruntime")).unwrap();
    std::fs::write(cuda.join("libonnxruntime.so.1"), "no library").unwrap();
    let detect = |provider: &str| {
        let mut command = program(&["detect", text(&photo), "--execution-provider", provider]);
        command.env_remove("ORT_DYLIB_PATH").env("RETINAFACE_RUNTIMES", folder.path()).output().unwrap()
    };
    assert_eq!(status(&detect("cpu")), 0);
    let output = detect("cuda");
    let error = stderr(&output);
    assert_eq!(status(&output), 2);
    assert!(error.contains("onnxruntime-cuda/libonnxruntime.so.1") && error.contains("cannot be used"), "{error}");
    let output = detect("openvino");
    assert!(stderr(&output).contains("scripts/setup.sh --openvino"), "{}", stderr(&output));
}
