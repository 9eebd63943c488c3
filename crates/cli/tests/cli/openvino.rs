//! The execution provider `openvino`. The tests are skipped unless `scripts/setup.sh --openvino`
//! has installed it; in CI it is required.
//!
//! They run the program, since a process loads one ONNX Runtime and the library's tests load the
//! CPU build.

use std::process::Command;

use serde::Deserialize;

use crate::common;

#[derive(Debug, Deserialize)]
struct Line {
    faces: Vec<Face>,
}

#[derive(Debug, Deserialize)]
struct Face {
    score: f32,
    landmarks: [[f32; 2]; 5],
}

/// Whether ONNX Runtime with OpenVINO is installed. In CI it must be.
fn is_installed() -> bool {
    let installed = common::root().join(".fetch/onnxruntime-openvino/.complete").exists();
    let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(installed || !ci, "ONNX Runtime with OpenVINO is missing in CI: run `scripts/setup.sh --openvino`");
    if !installed {
        eprintln!("skipped: run `scripts/setup.sh --openvino` first");
    }
    installed
}

/// The faces that `detect` finds in two photos, and its standard error.
fn detect(arguments: &[&str]) -> (Vec<Vec<Face>>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_retinaface"))
        .arg("detect")
        .args([common::media("multi_face.jpg"), common::media("single_face.jpg")])
        .args(arguments)
        .env_remove("ORT_DYLIB_PATH")
        .env("RETINAFACE_RUNTIMES", common::root().join(".fetch"))
        .env("RETINAFACE_MODEL", common::default_model())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let lines = String::from_utf8(output.stdout).unwrap();
    (lines.lines().map(|line| serde_json::from_str::<Line>(line).unwrap().faces).collect(), stderr)
}

/// The maximum differences between nearest faces: of scores, and of landmarks in pixels.
fn max_differences(faces: &[Vec<Face>], expected: &[Vec<Face>]) -> (f32, f32) {
    assert_eq!(faces.iter().map(Vec::len).collect::<Vec<_>>(), [5, 1]);
    let (mut score, mut pixels) = (0.0f32, 0.0f32);
    for (faces, expected) in faces.iter().zip(expected) {
        assert_eq!(faces.len(), expected.len());
        for face in faces {
            let distance = |other: &Face| {
                let points = face.landmarks.as_flattened().iter().zip(other.landmarks.as_flattened());
                points.map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
            };
            let nearest = expected.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap();
            score = score.max((face.score - nearest.score).abs());
            pixels = pixels.max(distance(nearest));
        }
    }
    (score, pixels)
}

#[test]
fn full_precision_matches_the_cpu_provider() {
    if !is_installed() {
        return;
    }
    for size in ["640", "0", "320"] {
        let size = ["--input-size", size];
        let (expected, _) = detect(&[&["--execution-provider", "cpu"][..], &size].concat());
        let (found, stderr) = detect(&[&["--execution-provider", "openvino"][..], &size].concat());
        assert_eq!(stderr, "", "the provider supports the whole graph");
        let (score, pixels) = max_differences(&found, &expected);
        assert!(score < 1e-3 && pixels < 0.05, "{size:?}: scores differ by {score}, landmarks by {pixels} px");
    }
}

#[test]
fn auto_selects_the_faster_one_of_openvino_and_our_kernels() {
    if !is_installed() {
        return;
    }
    let runs_on = |options: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_retinaface"))
            .arg("model")
            .arg(common::default_model())
            .args(options)
            .env_remove("ORT_DYLIB_PATH")
            .env("RETINAFACE_RUNTIMES", common::root().join(".fetch"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find_map(|line| line.strip_prefix("runs on:")).unwrap().trim().to_owned()
    };
    let is_openvino = |options: &[&str]| runs_on(options).starts_with("openvino,");
    let cpu = runs_on(&["--execution-provider", "cpu"]);
    assert!(cpu.starts_with("cpu,"), "{cpu}");
    // Without the kernels, on a processor without AVX2, OpenVINO is faster.
    let has_kernels = cpu.ends_with("kernels of retinaface");
    assert_eq!(is_openvino(&[]), !has_kernels, "the CPU provider has kernels: {cpu}");
    assert!(is_openvino(&["--precision", "reduced"]));
    assert!(is_openvino(&["--execution-provider", "openvino"]));
}

#[test]
fn reduced_precision_changes_faces_slightly() {
    if !is_installed() {
        return;
    }
    let (expected, _) = detect(&["--execution-provider", "cpu"]);
    let (found, _) = detect(&["--execution-provider", "openvino", "--precision", "reduced"]);
    let (score, pixels) = max_differences(&found, &expected);
    assert!(score < 0.02 && pixels < 2.0, "scores differ by {score}, landmarks by {pixels} px");
}
