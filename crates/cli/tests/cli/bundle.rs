//! Errors of scripts/bundle.sh, in a copy of the project with fake files and tools: nothing is
//! built. scripts/bundle-test.sh tests a complete bundle.

use crate::common;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A copy of the files that bundle.sh reads, a directory of tools that precedes the system's in
/// PATH, and a directory for bundles.
struct Project {
    directory: tempfile::TempDir,
}

impl Project {
    /// All downloaded and built files exist, but have no valid content.
    fn new() -> Self {
        let project = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["Cargo.toml", "scripts/bundle.sh"] {
            let contents = std::fs::read(common::root().join(name)).unwrap();
            project.write(name, &contents);
        }
        for name in [
            ".fetch/onnxruntime/libonnxruntime.so.1",
            ".fetch/models/retinaface_mnet025.onnx",
            "target/release/libgstretinaface.so",
        ] {
            project.write(name, b"fake");
        }
        // bundle.sh reads the name of the dynamic loader from the program.
        project.write("target/release/retinaface", &std::fs::read("/bin/sh").unwrap());
        std::fs::create_dir(project.path("bundles")).unwrap();
        project.tool("uname", "echo Linux x86_64");
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, contents: &[u8]) {
        let file = self.path(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, contents).unwrap();
    }

    fn tool(&self, name: &str, script: &str) {
        self.write(&format!("tools/{name}"), format!("#!/bin/sh\n{script}\n").as_bytes());
        std::fs::set_permissions(self.path("tools").join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn bundle(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:{}", self.path("tools").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.arg(self.path("scripts/bundle.sh")).args(arguments).current_dir(self.path("bundles"));
        command.env("PATH", path).env_remove("CARGO_TARGET_DIR").output().unwrap()
    }

    /// The entries of the directory for bundles, incomplete bundles included.
    fn bundles(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("bundles")).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
        names.sort();
        names
    }

    /// Asserts that bundle.sh fails with this status and these messages, and leaves no files.
    /// Returns its standard error.
    fn assert_fails(&self, arguments: &[&str], status: i32, messages: &[&str]) -> String {
        let before = self.bundles();
        let output = self.bundle(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
        for message in messages {
            assert!(stderr.contains(message), "{arguments:?}: {message} is not in: {stderr}");
        }
        assert_eq!(self.bundles(), before, "{arguments:?}");
        stderr
    }
}

#[test]
fn usage_error_prints_the_problem_and_usage() {
    let project = Project::new();
    let usage = "scripts/bundle.sh [--openvino] [--webgpu] [--cuda] [--media] OUT_DIR, or --minimal";
    project.assert_fails(&["--rocm", "out"], 2, &["unknown option --rocm", usage]);
    project.assert_fails(&["--media"], 2, &["OUT_DIR is missing", usage]);
    project.assert_fails(&["one", "two"], 2, &["one OUT_DIR, not one and two", usage]);
    project.assert_fails(
        &["--minimal", "--cuda", "out"],
        2,
        &["--minimal cannot be combined with --cuda or --media", usage],
    );
}

#[test]
fn unsupported_machine_error_names_the_supported_one() {
    let project = Project::new();
    project.tool("uname", "echo Linux aarch64");
    project.assert_fails(&["out"], 1, &["x86-64 Linux", "this is Linux aarch64", "use such a machine"]);
}

#[test]
fn directory_that_is_not_a_bundle_is_kept() {
    let project = Project::new();
    project.write("bundles/mine/notes.txt", b"notes");
    project.write("bundles/file", b"a file");
    // A symbolic link to a bundle is not replaced either.
    project.write("elsewhere/.retinaface-bundle", b"");
    std::os::unix::fs::symlink("../elsewhere", project.path("bundles/link")).unwrap();
    for out in ["mine", "mine/", "file", "link"] {
        project.assert_fails(&[out], 1, &["exists and is not a bundle"]);
    }
    assert_eq!(std::fs::read(project.path("bundles/mine/notes.txt")).unwrap(), b"notes");
    project.assert_fails(&["nowhere/out"], 1, &["there is no directory nowhere"]);
}

#[test]
fn missing_file_error_names_the_setup_command() {
    let project = Project::new();
    project.assert_fails(
        &["--cuda", "out"],
        1,
        &["onnxruntime-cuda/libonnxruntime.so.1", "run scripts/setup.sh --cuda\n"],
    );
    for provider in ["openvino", "webgpu"] {
        let remedy = format!("run scripts/setup.sh --{provider}\n");
        project.assert_fails(&[&format!("--{provider}"), "out"], 1, &[&format!("providers/{provider}"), &remedy]);
    }
    project.assert_fails(&["--media", "out"], 1, &[".fetch/media", "run scripts/setup.sh\n"]);
    for (name, remedy) in [
        ("target/release/retinaface", "run make build\n"),
        (".fetch/models/retinaface_mnet025.onnx", "run scripts/setup.sh\n"),
        (".fetch/onnxruntime/libonnxruntime.so.1", "run scripts/setup.sh\n"),
    ] {
        std::fs::remove_file(project.path(name)).unwrap();
        project.assert_fails(&["out"], 1, &[name, remedy]);
    }
}

#[test]
fn missing_library_is_reported_and_bundle_is_kept() {
    let project = Project::new();
    project.write("bundles/out/.retinaface-bundle", b"the previous bundle");
    project.tool(
        "ldd",
        "case $1 in *libgstretinaface.so) echo '\tlibopencv_core.so.406 => not found' ;;\n\
         */libgstlibav.so) echo '\tlibavcodec.so.59 => not found' ;; esac",
    );
    let messages = ["libgstretinaface.so needs libopencv_core.so.406", "libgstlibav.so needs libavcodec.so.59"];
    project.assert_fails(&["out"], 1, &messages);
    assert_eq!(std::fs::read(project.path("bundles/out/.retinaface-bundle")).unwrap(), b"the previous bundle");
}

#[test]
fn library_that_is_too_old_is_reported() {
    let project = Project::new();
    project.tool("ldd", "echo \"/lib/libc.so.6: version 'GLIBC_9.99' not found (required by $1)\"");
    let stderr = project.assert_fails(&["out"], 1, &["target/release/retinaface needs a newer library"]);
    assert!(stderr.lines().last().unwrap().contains("version 'GLIBC_9.99' not found"), "{stderr}");
}
