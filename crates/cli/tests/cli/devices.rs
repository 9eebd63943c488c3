//! The command `retinaface devices`.

use std::path::Path;
use std::process::Output;

use crate::binary::{path_str, program, status, stderr};
use crate::common;
use serde::Deserialize;

/// The output of `--json`. A second definition of the schema, so that no field changes unnoticed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Devices {
    schema: String,
    pub(crate) providers: Vec<Provider>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    pub(crate) provider: String,
    pub(crate) usable: bool,
    library: Option<String>,
    version: Option<String>,
    pub(crate) devices: Vec<Device>,
    problem: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "serde checks that a device has exactly these fields")]
pub(crate) struct Device {
    id: u32,
    pub(crate) kind: String,
    vendor: String,
    name: Option<String>,
    memory_bytes: Option<u64>,
}

fn devices(runtimes: &Path, arguments: &[&str]) -> Output {
    let arguments = [&["devices"], arguments].concat();
    program(&arguments).env_remove("ORT_DYLIB_PATH").env("RETINAFACE_RUNTIMES", runtimes).output().unwrap()
}

/// A directory with ONNX Runtime and no other provider.
fn only_runtime() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(common::fetched("onnxruntime"), directory.path().join("onnxruntime")).unwrap();
    directory
}

#[test]
fn each_provider_is_listed_with_the_command_that_installs_it() {
    let output = devices(only_runtime().path(), &["--json"]);
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    let devices: Devices = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(devices.schema, "retinaface.devices/1");
    let names = devices.providers.iter().map(|provider| provider.provider.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["cpu", "openvino", "webgpu", "cuda", "tensorrt", "nv-tensorrt-rtx"]);
    let cpu = &devices.providers[0];
    assert!(cpu.usable && cpu.problem.is_none(), "{cpu:?}");
    assert!(cpu.library.as_ref().unwrap().ends_with("onnxruntime/libonnxruntime.so.1"), "{cpu:?}");
    assert!(cpu.version.as_ref().unwrap().starts_with("1."), "{cpu:?}");
    assert_eq!((cpu.devices.len(), cpu.devices[0].kind.as_str()), (1, "CPU"));
    for (provider, option) in devices.providers[1..].iter().zip(["openvino", "webgpu", "cuda", "cuda", "tensorrt-rtx"])
    {
        let problem = provider.problem.as_ref().unwrap();
        assert!(!provider.usable && provider.library.is_none(), "{provider:?}");
        assert!(problem.contains(&format!("`scripts/setup.sh --{option}`")), "{problem}");
    }
}

#[test]
fn text_has_a_line_per_device_and_problem() {
    let output = devices(only_runtime().path(), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().collect::<Vec<_>>();
    assert!(lines[0] == "cpu" && lines[1].starts_with("  library: ") && lines[1].contains(", version 1."), "{text}");
    assert!(lines[2].starts_with("  device-id=0: CPU, "), "{text}");
    assert!(text.contains("\nwebgpu\n  not usable: not installed: run `scripts/setup.sh --webgpu`\n"), "{text}");
}

#[test]
fn broken_library_of_a_provider_is_a_problem_of_that_provider_only() {
    let directory = only_runtime();
    let library = directory.path().join("providers/webgpu/libonnxruntime_providers_webgpu.so");
    std::fs::create_dir_all(library.parent().unwrap()).unwrap();
    std::fs::write(&library, "not a library").unwrap();
    let output = devices(directory.path(), &["--json"]);
    let devices: Devices = serde_json::from_slice(&output.stdout).unwrap();
    assert!(devices.providers[0].usable);
    let webgpu = &devices.providers[2];
    let problem = webgpu.problem.as_ref().unwrap();
    for part in ["webgpu cannot be loaded from", library.to_str().unwrap(), "scripts/setup.sh --webgpu"] {
        assert!(problem.contains(part), "{part} is not in: {problem}");
    }
}

#[test]
fn missing_onnx_runtime_is_an_error() {
    let output = program(&["devices"]).env("ORT_DYLIB_PATH", "/nowhere.so").output().unwrap();
    assert_eq!(status(&output), 2);
    assert!(stderr(&output).contains("ORT_DYLIB_PATH is set to /nowhere.so"), "{}", stderr(&output));
}

#[test]
fn a_device_that_does_not_exist_is_an_error_that_lists_the_devices() {
    let photo = common::media("single_face.jpg");
    let detect = |provider: &str| {
        let arguments = ["detect", path_str(&photo), "--execution-provider", provider, "--device-id", "3"];
        program(&arguments).env("RETINAFACE_RUNTIMES", only_runtime().path()).output().unwrap()
    };
    let output = detect("cpu");
    assert_eq!(status(&output), 2);
    let error = stderr(&output);
    assert!(error.contains("cpu has no device 3; set device-id to one of its devices: 0: CPU"), "{error}");
    assert_eq!(status(&detect("auto")), 0, "auto takes a provider that has the device, or else the processor");
}
