//! The execution provider `openvino`, where `scripts/setup.sh --openvino` brought it; in CI it must be there.
//!
//! Through the program: a process has one ONNX Runtime, and the other tests' is the plain one.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::process::Command;

use serde::Deserialize;

mod common;

#[derive(Debug, Deserialize)]
struct Line {
    faces: Vec<Face>,
}

#[derive(Debug, Deserialize)]
struct Face {
    score: f32,
    landmarks: [[f32; 2]; 5],
}

/// Whether OpenVINO's ONNX Runtime is there.
fn is_there() -> bool {
    let there = common::root().join(".fetch/onnxruntime-openvino/.complete").exists();
    let ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(there || !ci, "OpenVINO's ONNX Runtime is missing in CI: run `scripts/setup.sh --openvino`");
    if !there {
        eprintln!("not run: `scripts/setup.sh --openvino` did not run");
    }
    there
}

/// Faces of the photos, and what was said.
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
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let lines = String::from_utf8(output.stdout).unwrap();
    (lines.lines().map(|line| serde_json::from_str::<Line>(line).unwrap().faces).collect(), said)
}

/// The largest differences of scores and of landmarks, in pixels.
fn differences(some: &[Vec<Face>], others: &[Vec<Face>]) -> (f32, f32) {
    assert_eq!(some.iter().map(Vec::len).collect::<Vec<_>>(), [5, 1]);
    let (mut score, mut pixels) = (0.0f32, 0.0f32);
    for (some, others) in some.iter().zip(others) {
        assert_eq!(some.len(), others.len());
        for face in some {
            let off = |other: &Face| {
                let points = face.landmarks.as_flattened().iter().zip(other.landmarks.as_flattened());
                points.map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
            };
            let nearest = others.iter().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap();
            score = score.max((face.score - nearest.score).abs());
            pixels = pixels.max(off(nearest));
        }
    }
    (score, pixels)
}

#[test]
fn in_full_precision_it_finds_what_the_cpu_finds() {
    if !is_there() {
        return;
    }
    let (expected, _) = detect(&["--execution-provider", "cpu"]);
    for size in ["640", "0", "320"] {
        let size = ["--input-size", size];
        let (expected, _) = detect(&[&["--execution-provider", "cpu"][..], &size].concat());
        let (found, said) = detect(&[&["--execution-provider", "openvino"][..], &size].concat());
        assert_eq!(said, "", "it takes the whole graph");
        let (score, pixels) = differences(&found, &expected);
        assert!(score < 1e-3 && pixels < 0.05, "{size:?}: scores off by {score}, landmarks by {pixels} px");
    }
    let (auto, _) = detect(&[]);
    assert_eq!(differences(&auto, &detect(&["--execution-provider", "openvino"]).0), (0.0, 0.0), "auto is openvino");
    assert!(differences(&auto, &expected).1 > 0.0, "and not the CPU, whose last digits differ");
}

#[test]
fn in_reduced_precision_faces_move_by_little() {
    if !is_there() {
        return;
    }
    let (expected, _) = detect(&["--execution-provider", "cpu"]);
    let (found, _) = detect(&["--execution-provider", "openvino", "--precision", "reduced"]);
    let (score, pixels) = differences(&found, &expected);
    assert!(score < 0.02 && pixels < 2.0, "scores off by {score}, landmarks by {pixels} px");
}
