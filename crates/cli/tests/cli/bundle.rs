//! What scripts/bundle.sh refuses, on a copy of the project with made-up files and tools: nothing is built
//! here. scripts/bundle-test.sh runs a whole bundle.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

mod common;

/// A copy of what bundle.sh reads, a folder of tools that come before the system's, and one for bundles.
struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    /// With everything that is fetched and built, by name only.
    fn new() -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["Cargo.toml", "scripts/bundle.sh"] {
            let contents = std::fs::read(common::root().join(name)).unwrap();
            project.write(name, &contents);
        }
        for name in [
            ".fetch/onnxruntime/libonnxruntime.so.1",
            ".fetch/models/retinaface_mnet025.onnx",
            "target/release/libgstretinaface.so",
        ] {
            project.write(name, b"made up");
        }
        // The loader's name is read from the program.
        project.write("target/release/retinaface", &std::fs::read("/bin/sh").unwrap());
        std::fs::create_dir(project.path("bundles")).unwrap();
        project.tool("uname", "echo Linux x86_64");
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
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

    /// What is beside the bundle, half-made ones included.
    fn bundles(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("bundles")).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
        names.sort();
        names
    }

    /// bundle.sh fails with this status, says this, and leaves nothing. The result is all that it said.
    fn refuses(&self, arguments: &[&str], status: i32, says: &[&str]) -> String {
        let before = self.bundles();
        let output = self.bundle(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
        for part in says {
            assert!(stderr.contains(part), "{arguments:?}: {part} is not in: {stderr}");
        }
        assert_eq!(self.bundles(), before, "{arguments:?}");
        stderr
    }
}

#[test]
fn a_wrong_call_says_what_is_wrong_and_how_it_is_called() {
    let project = Project::new();
    let usage = "scripts/bundle.sh [--cuda|--openvino] [--media] OUT_DIR";
    project.refuses(&["--rocm", "out"], 2, &["unknown option --rocm", usage]);
    project.refuses(&["--media"], 2, &["OUT_DIR is missing", usage]);
    project.refuses(&["one", "two"], 2, &["one OUT_DIR, not one and two", usage]);
    project.refuses(&["--cuda", "--openvino", "out"], 2, &["one of --cuda and --openvino", usage]);
}

#[test]
fn another_kind_of_machine_is_told_what_to_use() {
    let project = Project::new();
    project.tool("uname", "echo Linux aarch64");
    project.refuses(&["out"], 1, &["x86-64 Linux", "this is Linux aarch64", "use such a machine"]);
}

#[test]
fn a_folder_that_is_no_bundle_is_left_alone() {
    let project = Project::new();
    project.write("bundles/mine/letter", b"dear");
    project.write("bundles/file", b"a file");
    // Nor is a link to one replaced.
    project.write("elsewhere/.retinaface-bundle", b"");
    std::os::unix::fs::symlink("../elsewhere", project.path("bundles/link")).unwrap();
    for out in ["mine", "mine/", "file", "link"] {
        project.refuses(&[out], 1, &["exists and is not a bundle"]);
    }
    assert_eq!(std::fs::read(project.path("bundles/mine/letter")).unwrap(), b"dear");
    project.refuses(&["nowhere/out"], 1, &["there is no folder nowhere"]);
}

#[test]
fn what_is_not_fetched_or_built_is_named_with_the_remedy() {
    let project = Project::new();
    project.refuses(&["--cuda", "out"], 1, &["onnxruntime-cuda/libonnxruntime.so.1", "run scripts/setup.sh --cuda\n"]);
    project.refuses(
        &["--openvino", "out"],
        1,
        &["onnxruntime-openvino/libonnxruntime.so.1", "run scripts/setup.sh --openvino\n"],
    );
    project.refuses(&["--media", "out"], 1, &[".fetch/media", "run scripts/setup.sh\n"]);
    for (name, remedy) in [
        ("target/release/retinaface", "run make build\n"),
        (".fetch/models/retinaface_mnet025.onnx", "run scripts/setup.sh\n"),
        (".fetch/onnxruntime/libonnxruntime.so.1", "run scripts/setup.sh\n"),
    ] {
        std::fs::remove_file(project.path(name)).unwrap();
        project.refuses(&["out"], 1, &[name, remedy]);
    }
}

#[test]
fn a_missing_library_is_named_and_the_bundle_that_was_there_stays() {
    let project = Project::new();
    project.write("bundles/out/.retinaface-bundle", b"the last one");
    project.tool(
        "ldd",
        "case $1 in *libgstretinaface.so) echo '\tlibopencv_core.so.406 => not found' ;;\n\
         */libgstlibav.so) echo '\tlibavcodec.so.59 => not found' ;; esac",
    );
    let says = ["libgstretinaface.so needs libopencv_core.so.406", "libgstlibav.so needs libavcodec.so.59"];
    project.refuses(&["out"], 1, &says);
    assert_eq!(std::fs::read(project.path("bundles/out/.retinaface-bundle")).unwrap(), b"the last one");
}

#[test]
fn a_library_that_is_too_old_is_named() {
    let project = Project::new();
    project.tool("ldd", "echo \"/lib/libc.so.6: version 'GLIBC_9.99' not found (required by $1)\"");
    let stderr = project.refuses(&["out"], 1, &["target/release/retinaface needs a newer library"]);
    assert!(stderr.lines().last().unwrap().contains("version 'GLIBC_9.99' not found"), "{stderr}");
}
