//! The execution provider `webgpu`, on SwiftShader, a software Vulkan driver. The tests are skipped
//! unless `scripts/setup.sh --webgpu --swiftshader` has installed both; in CI they are required.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::binary::{DetectedFace, DetectedLine, status, stderr};
use crate::common;
use crate::devices::Devices;

/// Whether provider and driver are installed. In CI they must be.
fn is_installed() -> bool {
    ["providers/webgpu", "swiftshader"].iter().all(|name| common::has_component(name, "--webgpu --swiftshader"))
}

/// The program with the libraries of set-up. `driver` is the manifest of a Vulkan driver; without
/// one, no driver is found.
fn command(driver: Option<PathBuf>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retinaface"));
    command
        .env_remove("ORT_DYLIB_PATH")
        .env_remove("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER")
        .env_remove("VK_ICD_FILENAMES")
        .env_remove("VK_DRIVER_FILES")
        .env("RETINAFACE_RUNTIMES", common::root().join(".fetch"))
        .env("RETINAFACE_MODEL", common::default_model())
        // The Vulkan loader warns without it.
        .env("XDG_RUNTIME_DIR", std::env::temp_dir());
    if let Some(driver) = driver {
        command.env("VK_ICD_FILENAMES", driver).env("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1");
    }
    command
}

fn swiftshader() -> Option<PathBuf> {
    Some(common::fetched("swiftshader/vk_swiftshader_icd.json"))
}

/// Detects the faces of a photo at a small input, because SwiftShader is slow.
fn detect(command: &mut Command, provider: &str, options: &[&str]) -> Output {
    let small = ["--input-size", "160", "--refine-large-faces", "off", "--execution-provider", provider];
    command.arg("detect").arg(common::media("multi_face.jpg")).args(small).args(options).output().unwrap()
}

fn faces(output: &Output) -> Vec<DetectedFace> {
    assert_eq!(status(output), 0, "{}", stderr(output));
    serde_json::from_slice::<DetectedLine>(&output.stdout).unwrap().faces
}

#[test]
fn faces_equal_those_of_the_cpu_provider() {
    if !is_installed() {
        return;
    }
    let output = detect(&mut command(swiftshader()), "webgpu", &[]);
    assert_eq!(stderr(&output), "", "the provider runs the whole graph");
    let (found, expected) = (faces(&output), faces(&detect(&mut command(None), "cpu", &[])));
    assert!(found.len() == expected.len() && found.len() >= 4, "{found:?}");
    for (face, expected) in found.iter().zip(&expected) {
        assert!((face.score - expected.score).abs() < 2e-3, "{face:?}, {expected:?}");
        for (point, expected) in face.landmarks.as_flattened().iter().zip(expected.landmarks.as_flattened()) {
            assert!((point - expected).abs() < 0.5, "{face:?}, {expected:?}");
        }
    }
}

#[test]
fn devices_lists_the_software_adapter_and_auto_does_not_take_it() {
    if !is_installed() {
        return;
    }
    let output = command(swiftshader()).args(["devices", "--json"]).output().unwrap();
    let devices: Devices = serde_json::from_slice(&output.stdout).unwrap();
    let webgpu = devices.providers.iter().find(|provider| provider.provider == "webgpu").unwrap();
    assert!(webgpu.usable, "{webgpu:?}");
    assert_eq!(webgpu.devices.iter().map(|device| device.kind.as_str()).collect::<Vec<_>>(), ["CPU"]);
    let output = command(swiftshader()).arg("model").arg(common::default_model()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("runs on:    cpu,"), "{text}");
}

#[test]
fn without_a_gpu_the_error_names_the_driver_to_install() {
    if !is_installed() {
        return;
    }
    let output = detect(&mut command(None), "webgpu", &[]);
    if status(&output) == 0 {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    // A machine can have a GPU without a driver.
    for part in ["execution provider webgpu", "Vulkan driver", "libvulkan1"] {
        assert!(stderr(&output).contains(part), "{part} is not in: {}", stderr(&output));
    }
}

#[test]
fn a_driver_that_cannot_be_loaded_is_an_error_with_the_remedy() {
    if !is_installed() {
        return;
    }
    let output = detect(&mut command(Some(PathBuf::from("/nowhere.json"))), "webgpu", &[]);
    assert_eq!(status(&output), 2);
    for part in ["webgpu does not start", "Vulkan driver"] {
        assert!(stderr(&output).contains(part), "{part} is not in: {}", stderr(&output));
    }
}

#[test]
fn reduced_precision_is_an_error() {
    if !is_installed() {
        return;
    }
    let output = detect(&mut command(swiftshader()), "webgpu", &["--precision", "reduced"]);
    assert_eq!(status(&output), 2);
    let error = stderr(&output);
    assert!(error.contains("precision=reduced is not supported by execution provider webgpu"), "{error}");
}
