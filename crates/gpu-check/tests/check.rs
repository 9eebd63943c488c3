//! The program, on the CPU provider: the steps on a GPU are the same. `.ci/run` also runs the small
//! bundle on WebGPU.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "../../../tests/common/mod.rs"]
mod common;

/// Two frames of random noise, which contain no face.
fn noise(directory: &Path) -> PathBuf {
    let file = directory.join("noise_64x48.nv12");
    let bytes = (0..2u32 * 64 * 48 * 3 / 2).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8);
    std::fs::write(&file, bytes.collect::<Vec<_>>()).unwrap();
    file
}

/// Runs the program with ONNX Runtime and no other provider.
fn check(directory: &Path, arguments: &[&str]) -> Output {
    let runtimes = directory.join("runtimes");
    std::fs::create_dir_all(&runtimes).unwrap();
    let _ = std::os::unix::fs::symlink(common::fetched("onnxruntime"), runtimes.join("onnxruntime"));
    // Not the variable of cargo: a shell that wraps the compiler drops names with hyphens.
    let tests = std::env::current_exe().unwrap();
    Command::new(tests.ancestors().nth(2).unwrap().join("retinaface-gpu-check"))
        .arg(directory.join("out"))
        .arg("--frames")
        .arg(noise(directory))
        .args(arguments)
        .env_remove("ORT_DYLIB_PATH")
        .env("RETINAFACE_RUNTIMES", runtimes)
        .env("RETINAFACE_MODEL", common::default_model())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn report(directory: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(directory.join("out/report.json")).unwrap()).unwrap()
}

#[test]
fn every_step_of_a_provider_is_run_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--execution-provider", "cpu", "--input-size", "64", "--measure", "0.05", "--enlarge", "2"];
    let output = check(directory.path(), &options);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let report = report(directory.path());
    let steps = report["steps"].as_array().unwrap();
    let tasks = steps.iter().map(|step| step["step"]["task"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(tasks, ["parity", "engine", "latency", "session", "session", "session", "session", "streams"]);
    assert!(steps.iter().all(|step| step["status"] == "done"), "{report}");
    assert_eq!(steps[0]["result"]["frames"], 2);
    assert!(steps[1]["result"]["frames_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(report["goals"].as_array().unwrap().len(), 2);
    let markdown = std::fs::read_to_string(directory.path().join("out/report.md")).unwrap();
    assert!(markdown.contains("| cpu, fp32: bare session, batch of 64 | "), "{markdown}");
    assert!(std::fs::read_to_string(directory.path().join("out/throughput.svg")).unwrap().ends_with("</svg>\n"));
}

#[test]
fn a_machine_without_a_gpu_gets_a_report_of_what_each_provider_needs() {
    let directory = tempfile::tempdir().unwrap();
    let output = check(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.contains("no usable execution provider has a GPU or an NPU"), "{error}");
    let markdown = std::fs::read_to_string(directory.path().join("out/report.md")).unwrap();
    assert!(markdown.contains("- webgpu: not usable: not installed: run `scripts/setup.sh --webgpu`"), "{markdown}");
    assert!(report(directory.path())["steps"].as_array().unwrap().is_empty());
}

#[test]
fn after_the_time_limit_steps_are_reported_as_not_run() {
    let directory = tempfile::tempdir().unwrap();
    let output = check(directory.path(), &["--execution-provider", "cpu", "--limit", "0"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("comparison with the CPU provider: not run: the limit of 0 s"), "{output:?}");
}

#[test]
fn an_unusable_provider_or_file_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let output = check(directory.path(), &["--execution-provider", "webgpu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("webgpu is not usable: not installed"), "{}", text(&output.stderr));
    let output = check(directory.path(), &["--fp16-model", "/nowhere.onnx"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/nowhere.onnx does not exist"), "{}", text(&output.stderr));
}
