//! The execution provider `openvino`. The tests are skipped unless `scripts/setup.sh --openvino`
//! has installed it; in CI it is required. It accepts processors of Intel only: on other ones the
//! tests check the refusal.
//!
//! They run the program, since ONNX Runtime loads a provider once per process, from the directory
//! that the first model names.

use std::process::Command;

use crate::binary::{DetectedFace, DetectedLine};
use crate::common;

/// Whether the provider can run a model here. If it cannot, its refusal is checked.
fn is_usable() -> bool {
    if !common::has_component("providers/openvino", "--openvino") {
        return false;
    }
    let vendor = processor_vendor();
    if vendor == "GenuineIntel" {
        return true;
    }
    let arguments = ["--execution-provider", "openvino"];
    let output = command().arg("detect").arg(common::media("single_face.jpg")).args(arguments).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    for part in
        ["openvino has no device 0 on this machine", "Intel's processors and GPUs only", "execution-provider=cpu"]
    {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    false
}

/// The manufacturer that the processor reports.
fn processor_vendor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("vendor_id")).unwrap_or_default();
    line.trim_start().trim_start_matches(':').trim().to_owned()
}

/// The program with the libraries and the default model of set-up.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retinaface"));
    command
        .env_remove("ORT_DYLIB_PATH")
        .env("RETINAFACE_RUNTIMES", common::root().join(".fetch"))
        .env("RETINAFACE_MODEL", common::default_model());
    command
}

/// The faces that `detect` finds in two photos, and its standard error.
fn detect(arguments: &[&str]) -> (Vec<Vec<DetectedFace>>, String) {
    let photos = [common::media("multi_face.jpg"), common::media("single_face.jpg")];
    let output = command().arg("detect").args(photos).args(arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let lines = String::from_utf8(output.stdout).unwrap();
    (lines.lines().map(|line| serde_json::from_str::<DetectedLine>(line).unwrap().faces).collect(), stderr)
}

/// The maximum differences between nearest faces: of scores, and of landmarks in pixels.
fn max_differences(faces: &[Vec<DetectedFace>], expected: &[Vec<DetectedFace>]) -> (f32, f32) {
    assert_eq!(faces.iter().map(Vec::len).collect::<Vec<_>>(), [5, 1]);
    let (mut score, mut pixels) = (0.0f32, 0.0f32);
    for (faces, expected) in faces.iter().zip(expected) {
        assert_eq!(faces.len(), expected.len());
        for face in faces {
            let distance = |other: &DetectedFace| {
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
    if !is_usable() {
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
fn auto_takes_openvino_for_reduced_precision_only() {
    if !is_usable() {
        return;
    }
    // No other provider, which `auto` could prefer.
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("providers")).unwrap();
    for name in ["onnxruntime", "providers/openvino"] {
        std::os::unix::fs::symlink(common::fetched(name), directory.path().join(name)).unwrap();
    }
    let runs_on = |options: &[&str]| {
        let mut command = command();
        command.env("RETINAFACE_RUNTIMES", directory.path());
        let output = command.arg("model").arg(common::default_model()).args(options).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find_map(|line| line.strip_prefix("runs on:")).unwrap().trim().to_owned()
    };
    assert!(runs_on(&[]).starts_with("cpu,"));
    assert!(runs_on(&["--precision", "reduced"]).starts_with("openvino,"));
    assert!(runs_on(&["--execution-provider", "openvino"]).starts_with("openvino,"));
}

#[test]
fn reduced_precision_changes_faces_slightly() {
    if !is_usable() {
        return;
    }
    let (expected, _) = detect(&["--execution-provider", "cpu"]);
    let (found, _) = detect(&["--execution-provider", "openvino", "--precision", "reduced"]);
    let (score, pixels) = max_differences(&found, &expected);
    assert!(score < 0.02 && pixels < 2.0, "scores differ by {score}, landmarks by {pixels} px");
}
