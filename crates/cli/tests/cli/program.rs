//! The commands `retinaface detect` and `retinaface model`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::binary::{path_str, program, run, status, stderr};
use crate::common;
use serde::Deserialize;

/// A line of `detect`. A second definition of the schema, so that no field changes unnoticed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "serde checks that the line has exactly these fields")]
struct Line {
    schema: String,
    source: String,
    frame: u64,
    pts_ns: Option<u64>,
    utc: Option<String>,
    width: u32,
    height: u32,
    pixel_aspect_ratio: [u32; 2],
    state: String,
    age_ns: u64,
    lost: usize,
    faces: Vec<serde_json::Value>,
}

fn lines(output: &Output) -> Vec<Line> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// A uniform grey image.
fn grey_image(directory: &Path) -> PathBuf {
    let file = directory.join("grey.png");
    let mat =
        opencv::core::Mat::new_rows_cols_with_default(90, 120, opencv::core::CV_8UC3, opencv::core::Scalar::all(120.0));
    opencv::imgcodecs::imwrite(&file, &mat.unwrap(), &opencv::core::Vector::new()).unwrap();
    file
}

#[test]
fn detected_faces_are_printed_with_status_0() {
    let (multi, single) = (common::media("multi_face.jpg"), common::media("single_face.jpg"));
    let output = run(&["detect", path_str(&multi), path_str(&single)]);
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    let lines = lines(&output);
    assert_eq!(lines.iter().map(|line| line.faces.len()).collect::<Vec<_>>(), [5, 1]);
    assert_eq!((lines[0].source.as_str(), lines[0].frame, lines[1].frame), (path_str(&multi), 0, 1));
    assert_eq!((lines[0].width, lines[0].height), (1000, 667));
}

#[test]
fn options_change_the_detections() {
    let multi = common::media("multi_face.jpg");
    let count = |options: &[&str]| {
        let output = run(&[&["detect", path_str(&multi)], options].concat());
        (lines(&output)[0].faces.len(), status(&output))
    };
    assert_eq!(count(&["--max-faces", "2"]), (2, 0));
    assert_eq!(count(&["--score-threshold", "0.9999"]), (0, 1));
    assert!(count(&["--score-threshold", "0.02", "--iou-threshold", "1"]).0 > 20);
    assert_eq!(count(&["--input-size", "0"]), (5, 0));
    assert_eq!(count(&["--min-face-size", "500"]), (0, 1));
    assert_eq!(count(&["--execution-provider", "cpu", "--threads", "1"]), (5, 0));
}

#[test]
fn a_setting_that_finds_nothing_in_an_image_is_an_error_with_its_size() {
    let (multi, single) = (common::media("multi_face.jpg"), common::media("single_face.jpg"));
    for (options, part) in [
        (&["--roi", "1000,0,50,50"][..], "1000,0,50,50 of roi covers no pixel of the frame of 1000 x 667"),
        (&["--roi", "0,0,500,500;0,700,50,50"], "0,700,50,50"),
        (&["--min-face-size", "700"], "min-face-size is 700, but the frame has 1000 x 667"),
        (
            &["--roi", "0,0,40,40", "--tiles", "64x1"],
            "tiles is 64x1, which is more than the pixels of an area of 40 x 40",
        ),
        (&["--input-size", "8"], "at most 8 x 5 pixels"),
        (&["--score-threshold", "1"], "no score is above 1"),
    ] {
        let output = run(&[&["detect", path_str(&multi)], options].concat());
        assert_eq!(status(&output), 2, "{options:?}");
        assert!(stderr(&output).contains(part), "{options:?}: {}", stderr(&output));
    }
    // A region outside of one image is an error of that image only.
    let output = run(&["detect", path_str(&single), path_str(&multi), "--roi", "600,0,400,600"]);
    assert_eq!((status(&output), lines(&output).len()), (2, 1));
    assert!(stderr(&output).contains("the frame of 572 x 562"), "{}", stderr(&output));
    // A minimum size may be meant to select the large images.
    let output = run(&["detect", path_str(&single), path_str(&multi), "--min-face-size", "600"]);
    assert_eq!((status(&output), lines(&output).len(), stderr(&output).as_str()), (1, 2, ""));
}

#[test]
fn missing_weights_and_each_other_format_are_named_once() {
    let models = common::root().join("tests/fixtures/models");
    let directory = tempfile::tempdir().unwrap();
    let pickle = directory.path().join("model.pth");
    std::fs::write(&pickle, b"\x80\x02\x8a\n").unwrap();
    for (file, part) in [
        (models.join("external.onnx"), "weights of the model is missing"),
        (pickle, "Python pickle"),
        (directory.path().join("none.onnx"), "No such file"),
    ] {
        let output = run(&["model", path_str(&file)]);
        let text = stderr(&output);
        assert_eq!((status(&output), text.matches(part).count()), (2, 1), "{text}");
    }
}

#[test]
fn image_without_faces_is_status_1() {
    let directory = tempfile::tempdir().unwrap();
    let output = run(&["detect", path_str(&grey_image(directory.path()))]);
    assert_eq!((status(&output), lines(&output)[0].faces.len()), (1, 0));
}

#[test]
fn damaged_image_is_reported_and_others_are_processed() {
    let directory = tempfile::tempdir().unwrap();
    let single = common::media("single_face.jpg");
    let bytes = std::fs::read(&single).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let file = directory.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    };
    let damaged = [
        file("truncated.jpg", &bytes[..bytes.len() / 2]),
        file("text.png", b"not an image"),
        file("empty.webp", b""),
        directory.path().join("missing.jpg"),
        directory.path().to_path_buf(),
    ];
    let inputs = [damaged.iter().map(|file| path_str(file)).collect::<Vec<_>>(), vec![path_str(&single)]].concat();
    let output = run(&[vec!["detect"], inputs].concat());
    assert_eq!(status(&output), 2);
    let lines = lines(&output);
    assert_eq!((lines.len(), lines[0].faces.len(), lines[0].frame), (1, 1, 5));
    let errors = stderr(&output);
    for file in &damaged {
        assert_eq!(errors.matches(&format!("retinaface: {}: ", file.display())).count(), 1, "{errors}");
    }
    assert!(errors.contains("the JPEG file is truncated"), "{errors}");
}

#[test]
fn crops_and_annotated_copies_get_unique_names() {
    let directory = tempfile::tempdir().unwrap();
    let (multi, single) = (common::media("multi_face.jpg"), common::media("single_face.jpg"));
    let (crops, annotated) = (directory.path().join("new/crops"), directory.path().join("annotated"));
    let inputs = [
        "detect",
        path_str(&multi),
        path_str(&single),
        path_str(&single),
        "--crops",
        path_str(&crops),
        "--annotate",
        path_str(&annotated),
    ];
    assert_eq!(status(&run(&inputs)), 0);
    let names = |directory: &Path| {
        let mut names =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        names.sort();
        names.into_iter().map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
    };
    let expected = ["multi_face-0.png", "multi_face-1.png", "multi_face-2.png", "multi_face-3.png", "multi_face-4.png"];
    assert_eq!(names(&crops), [&expected[..], &["single_face-0.png", "single_face.2-0.png"]].concat());
    assert_eq!(names(&annotated), ["multi_face.jpg", "single_face.2.jpg", "single_face.jpg"]);
    let size = |file: PathBuf| {
        use opencv::prelude::*;
        let mat = opencv::imgcodecs::imread(file, opencv::imgcodecs::IMREAD_COLOR).unwrap();
        (mat.cols(), mat.rows())
    };
    assert_eq!(size(crops.join("multi_face-0.png")), (112, 112));
    assert_eq!(size(annotated.join("multi_face.jpg")), (1000, 667));
}

#[test]
fn input_is_not_overwritten_and_faces_are_printed() {
    let directory = tempfile::tempdir().unwrap();
    let photo = directory.path().join("photo.jpg");
    std::fs::copy(common::media("single_face.jpg"), &photo).unwrap();
    let before = std::fs::read(&photo).unwrap();
    let output = run(&["detect", path_str(&photo), "--annotate", path_str(directory.path())]);
    assert_eq!((status(&output), lines(&output)[0].faces.len()), (2, 1));
    assert!(stderr(&output).contains("is one of the inputs"), "{}", stderr(&output));
    assert_eq!(std::fs::read(&photo).unwrap(), before);
}

#[test]
fn png_webp_and_bmp_are_supported() {
    let directory = tempfile::tempdir().unwrap();
    let photo = opencv::imgcodecs::imread(common::media("single_face.jpg"), opencv::imgcodecs::IMREAD_COLOR).unwrap();
    for name in ["face.png", "face.webp", "face.bmp"] {
        let file = directory.path().join(name);
        assert!(opencv::imgcodecs::imwrite(&file, &photo, &opencv::core::Vector::new()).unwrap());
        let output = run(&["detect", path_str(&file)]);
        assert_eq!((status(&output), lines(&output)[0].faces.len()), (0, 1), "{name}");
    }
}

#[test]
fn uncreatable_directory_is_status_2_before_detection() {
    let single = common::media("single_face.jpg");
    for option in ["--crops", "--annotate"] {
        let output = run(&["detect", path_str(&single), option, "/dev/null/directory"]);
        assert_eq!((status(&output), output.stdout.len()), (2, 0));
        assert!(stderr(&output).contains("/dev/null/directory"), "{}", stderr(&output));
    }
}

#[test]
fn closed_pipe_is_success() {
    let single = common::media("single_face.jpg");
    let inputs = vec![path_str(&single); 20];
    let mut child = program(&[vec!["detect"], inputs].concat()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn usage_error_is_status_2_and_help_is_0() {
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
fn model_prints_layout_and_outputs() {
    let output = run(&["model", path_str(&common::default_model())]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    for part in [
        "RetinaFace",
        "input [N, 3, height, width]",
        "loc [N, A, 4]",
        "conf [N, A, 2]",
        "landmarks [N, A, 10]",
        "8 (anchors of 16 and 32 px, centred 4 px into the cell)",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert_eq!(status(&output), 0);
}

/// Output of `model --json`.
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
fn model_prints_json() {
    let line = |model: &Path| {
        let output = run(&["model", "--json", path_str(model)]);
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
fn crops_without_landmarks_require_align_without_landmarks() {
    let directory = tempfile::tempdir().unwrap();
    let model = common::root().join("tests/fixtures/models/ssh.onnx");
    let white = directory.path().join("white.png");
    let image =
        opencv::core::Mat::new_rows_cols_with_default(96, 96, opencv::core::CV_8UC3, opencv::core::Scalar::all(255.0));
    opencv::imgcodecs::imwrite(path_str(&white), &image.unwrap(), &opencv::core::Vector::new()).unwrap();
    let crops = directory.path().join("crops");
    let args =
        ["detect", "--model", path_str(&model), "--input-size", "96", "--crops", path_str(&crops), path_str(&white)];
    let output = run(&args);
    assert!(stderr(&output).contains("--align-without-landmarks"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(&crops).unwrap().count(), 0);
    let output = run(&[&args[..], &["--align-without-landmarks"]].concat());
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    assert!(std::fs::read_dir(&crops).unwrap().count() > 0);
}

#[test]
fn options_of_landmarks_and_crops_change_those_only() {
    let directory = tempfile::tempdir().unwrap();
    let photo = common::media("single_face.jpg");
    let detect = |options: &[&str]| {
        let output = run(&[&["detect", "--input-size", "1600", path_str(&photo)], options].concat());
        assert_eq!((status(&output), stderr(&output).as_str()), (0, ""), "{options:?}");
        let face = lines(&output)[0].faces[0].clone();
        (face["landmarks"].clone(), face["box"].clone())
    };
    let default = detect(&[]);
    assert_eq!(detect(&["--refine-large-faces", "on", "--landmark-fusion", "mean"]), default);
    for options in [&["--refine-large-faces", "off"][..], &["--landmark-fusion", "none"]] {
        let (landmarks, rect) = detect(options);
        assert!(landmarks != default.0 && rect == default.1, "{options:?}");
    }
    for (option, expected) in [("--refine-large-faces", "auto, on or off"), ("--landmark-fusion", "mean or none")] {
        let output = run(&["detect", path_str(&photo), option, "some"]);
        assert_eq!(status(&output), 2);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    let crop = |options: &[&str]| {
        let crops = directory.path().join(options.len().to_string());
        detect(&[&["--crops", path_str(&crops)], options].concat());
        std::fs::read(crops.join("single_face-0.png")).unwrap()
    };
    assert_ne!(crop(&[]), crop(&["--antialias"]));
}

#[test]
fn views_and_model_options_use_the_element_syntax() {
    let photo = common::media("multi_face.jpg");
    let faces = |options: &[&str]| {
        let output = run(&[&["detect", path_str(&photo)], options].concat());
        let line = serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
        line["faces"].as_array().unwrap().len()
    };
    assert_eq!(faces(&["--scales", "1.0,0.5", "--flip", "--merge", "vote", "--tiles", "2x2"]), 5);
    assert_eq!(faces(&["--roi", "300,200,150,200"]), 1);
    // With this scale the model's input is almost constant.
    let output = run(&["detect", path_str(&photo), "--model-option", "scale=0.001"]);
    assert_eq!(status(&output), 1);
    for (options, problem) in [
        (["--scales", "0"], "0 is not within 0.01 to 16"),
        (["--tiles", "x"], "as in 3x2"),
        (["--roi", "1,2"], "x,y,width,height"),
        (["--merge", "mean"], "expected nms or vote"),
        (["--model-option", "mean=red"], "`red` is not a number"),
    ] {
        let output = run(&[&["detect", path_str(&photo)], &options[..]].concat());
        assert_eq!(status(&output), 2);
        assert!(stderr(&output).contains(problem), "{}", stderr(&output));
    }
}

#[test]
fn model_landmarks_prints_the_point_count() {
    let file = common::root().join("tests/fixtures/models/landmarks106.onnx");
    let output = run(&["model", "--landmarks", path_str(&file)]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("106 points, relative to the centre, -1 to 1"), "{stdout}");
    let output = run(&["model", "--landmarks", "--json", path_str(&file)]);
    assert_eq!(serde_json::from_slice::<ModelLine>(&output.stdout).unwrap().points, Some(106));
}

#[test]
fn model_reports_why_a_file_is_unsupported() {
    let cases = [
        ("models/landmarks68_faceplugin.onnx", "its input has 1 channel;"),
        ("models/embedding128_mobilefacenet.onnx", "[1, 128]"),
        ("models/README.md", "not an ONNX file"),
    ];
    for (file, part) in cases {
        let Some(file) = common::shared(file) else { continue };
        for options in [&["model"][..], &["model", "--json"]] {
            let output = run(&[options, &[path_str(&file)]].concat());
            assert_eq!((status(&output), output.stdout.len()), (2, 0));
            assert!(stderr(&output).contains(part), "{part} is not in: {}", stderr(&output));
        }
    }
    let output = run(&["model", "/nowhere.onnx"]);
    assert!(status(&output) == 2 && stderr(&output).contains("/nowhere.onnx"), "{}", stderr(&output));
}

#[test]
fn model_outputs_can_have_any_names_and_order() {
    // The export of OpenSeeFace has the outputs `output0`, `586` and `585` and a fixed size.
    let Some(model) = common::shared("models/retinaface_biubug6_fixed640.onnx") else { return };
    let photo = common::media("multi_face.jpg");
    let output = run(&["detect", path_str(&photo), "--model", path_str(&model)]);
    assert_eq!((status(&output), lines(&output)[0].faces.len()), (0, 5));
}

/// A library that claims to be ONNX Runtime `version`, but provides no API.
fn fake_runtime(directory: &Path, version: &str) -> PathBuf {
    let (source, library) = (directory.join("runtime.c"), directory.join("libonnxruntime.so.1"));
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
fn errors_distinguish_missing_old_and_invalid_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let model = common::default_model();
    let error = |runtime: &Path| {
        let output = program(&["model", path_str(&model)]).env("ORT_DYLIB_PATH", runtime).output().unwrap();
        assert_eq!((status(&output), output.stdout.len()), (2, 0));
        stderr(&output)
    };
    let assert_contains = |text: &str, parts: &[&str]| {
        parts.iter().for_each(|part| assert!(text.contains(part), "{part} is not in: {text}"));
    };
    assert_contains(
        &error(Path::new("/nowhere/libonnxruntime.so")),
        &["ORT_DYLIB_PATH is set to /nowhere/libonnxruntime.so", "does not exist"],
    );
    let old = fake_runtime(directory.path(), "1.10.3");
    assert_contains(&error(&old), &[path_str(&old), "version 1.10.3, but 1.24 or newer is required", "make setup"]);
    // A library with a supported version but no API must not crash the program.
    let without_api = fake_runtime(directory.path(), "1.99.0");
    assert_contains(&error(&without_api), &[path_str(&without_api), "cannot be used as ONNX Runtime"]);
    let text_file = directory.path().join("text.so");
    std::fs::write(&text_file, "not a library".repeat(100)).unwrap();
    assert_contains(&error(&text_file), &["cannot be used as ONNX Runtime", "invalid ELF header"]);
}

#[test]
fn missing_model_error_lists_searched_paths() {
    let mut command = program(&["detect", "a.jpg"]);
    let output = command.env_remove("ORT_DYLIB_PATH").env_remove("RETINAFACE_MODEL").output().unwrap();
    assert_eq!(status(&output), 2);
    let directory = Path::new(env!("CARGO_BIN_EXE_retinaface")).parent().unwrap();
    for part in [
        "$RETINAFACE_MODEL (not set)",
        path_str(&directory.join("retinaface_mnet025.onnx")),
        "/usr/share/retinaface",
        "make setup",
    ] {
        assert!(stderr(&output).contains(part), "{part} is not in: {}", stderr(&output));
    }
}

#[test]
fn unavailable_provider_fails_without_allow_cpu_fallback() {
    let photo = common::media("single_face.jpg");
    let arguments = ["detect", path_str(&photo), "--execution-provider", "cuda"];
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
fn each_provider_loads_its_own_library() {
    // A valid ONNX Runtime in the directory of the CPU build, and an invalid one in that of the
    // CUDA build.
    let directory = tempfile::tempdir().unwrap();
    let photo = common::media("single_face.jpg");
    let cuda = directory.path().join("onnxruntime-cuda");
    std::fs::create_dir(&cuda).unwrap();
    std::os::unix::fs::symlink(common::fetched("onnxruntime"), directory.path().join("onnxruntime")).unwrap();
    std::fs::write(cuda.join("libonnxruntime.so.1"), "not a library").unwrap();
    let detect = |provider: &str| {
        let mut command = program(&["detect", path_str(&photo), "--execution-provider", provider]);
        command.env_remove("ORT_DYLIB_PATH").env("RETINAFACE_RUNTIMES", directory.path()).output().unwrap()
    };
    assert_eq!(status(&detect("cpu")), 0);
    let output = detect("cuda");
    let error = stderr(&output);
    assert_eq!(status(&output), 2);
    assert!(error.contains("onnxruntime-cuda/libonnxruntime.so.1") && error.contains("cannot be used"), "{error}");
    let output = detect("openvino");
    assert!(stderr(&output).contains("scripts/setup.sh --openvino"), "{}", stderr(&output));
}
