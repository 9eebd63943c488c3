//! scripts/setup.sh and env.sh, on a copy of the project with made-up tools: nothing is installed or fetched here.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod common;

/// A copy of what set-up needs, and a folder of tools that come before the system's.
struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["Cargo.toml", "env.sh", "scripts/setup.sh"] {
            let to = project.path(name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(common::root().join(name), to).unwrap();
        }
        std::fs::create_dir(project.path("tools")).unwrap();
        // Every package is there, unless a test says otherwise.
        project.tool("dpkg-query", "echo installed");
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tool(&self, name: &str, script: &str) {
        let file = self.path("tools").join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `python3 -m pip download` puts `contents` where the wheel should be; all else is the real python3.
    fn pip_gives(&self, contents: &str) {
        let script = format!(
            "case \"$*\" in *'pip download'*) ;; *) PATH=${{PATH#*:}} exec python3 \"$@\" ;; esac\n\
             while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && folder=$2; shift; done\n\
             mkdir -p \"$folder\"; {contents}"
        );
        self.tool("python3", &script);
    }

    fn setup(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:{}", self.path("tools").display(), std::env::var("PATH").unwrap());
        Command::new("bash").arg(self.path("scripts/setup.sh")).args(arguments).env("PATH", path).output().unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn without_root_or_sudo_the_exact_list_is_printed_and_the_status_is_2() {
    let project = Project::new();
    project.tool("dpkg-query", "case \"$*\" in *libopencv-dev*|*clang) exit 1 ;; *) echo installed ;; esac");
    project.tool("id", "echo 1000");
    project.tool("sudo", "exit 1");
    let output = project.setup(&[]);
    assert_eq!(output.status.code(), Some(2));
    let listed =
        stderr(&output).lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(listed, ["libopencv-dev", "clang"], "{}", stderr(&output));
    assert!(!project.path(".fetch").exists());
}

#[test]
fn a_machine_without_apt_is_told_what_to_install() {
    let project = Project::new();
    project.tool("dpkg-query", "exit 1");
    let output = project.setup(&["--no-apt"]);
    assert_eq!(output.status.code(), Some(2));
    for package in ["libgstreamer1.0-dev", "gstreamer1.0-libav", "libclang-dev"] {
        assert!(stderr(&output).contains(&format!("  {package}\n")), "{}", stderr(&output));
    }
}

#[test]
fn with_everything_there_nothing_is_fetched() {
    let project = Project::new();
    std::os::unix::fs::symlink(common::root().join(".fetch"), project.path(".fetch")).unwrap();
    project.pip_gives("echo 'there is no network' >&2; exit 1");
    let output = project.setup(&[]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert_eq!(project.setup(&["--check"]).status.code(), Some(0));
}

#[test]
fn a_broken_download_is_an_error_and_leaves_nothing_that_looks_good() {
    let project = Project::new();
    for (contents, says) in
        [("echo broken >\"$folder/a.whl\"", "not the file that was pinned"), ("exit 1", "cannot be fetched")]
    {
        project.pip_gives(contents);
        let output = project.setup(&[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
        assert_eq!(names(&project.path(".fetch")), Vec::<String>::new());
        assert_eq!(project.setup(&["--check"]).status.code(), Some(1));
    }
}

#[test]
fn a_set_for_a_provider_is_fetched_only_where_it_is_asked_for_and_whole_or_not_at_all() {
    let project = Project::new();
    std::fs::create_dir(project.path(".fetch")).unwrap();
    for name in ["media", "models", "onnxruntime"] {
        std::os::unix::fs::symlink(common::fetched(name), project.path(".fetch").join(name)).unwrap();
    }
    assert_eq!(project.setup(&["--check"]).status.code(), Some(0));
    for (option, wheel) in [("--cuda", "onnxruntime-gpu"), ("--openvino", "onnxruntime-openvino")] {
        let output = project.setup(&["--check", option]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(&format!("ONNX Runtime for {}", &option[2..])), "{}", stderr(&output));
        project.pip_gives("echo broken >\"$folder/a.whl\"");
        let output = project.setup(&[option]);
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        assert!(error.contains(wheel) && error.contains("not the file that was pinned"), "{error}");
        let mut left = names(&project.path(".fetch"));
        left.sort();
        assert_eq!(left, ["media", "models", "onnxruntime"]);
    }
    project.tool("uname", "echo aarch64");
    let output = project.setup(&["--openvino"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("published for x86_64 only"), "{}", stderr(&output));
}

#[test]
fn a_file_that_was_damaged_later_is_noticed() {
    let project = Project::new();
    let models = project.path(".fetch/models");
    std::fs::create_dir_all(&models).unwrap();
    std::fs::write(models.join("retinaface_mnet025.onnx"), "cut").unwrap();
    let output = project.setup(&["--check"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("the default model"), "{}", stderr(&output));
}

#[test]
fn env_sh_leaves_what_is_set_and_sets_the_rest_in_sh_and_bash() {
    let project = Project::new();
    for shell in ["sh", "bash"] {
        let script = ". ./env.sh && echo \"$RETINAFACE_RUNTIMES|$RETINAFACE_MODEL|$GST_PLUGIN_PATH\"";
        let mut command = Command::new(shell);
        command.args(["-c", script]).current_dir(project.folder.path());
        for variable in ["RETINAFACE_RUNTIMES", "GST_PLUGIN_PATH", "CARGO_TARGET_DIR"] {
            command.env_remove(variable);
        }
        let output = command.env("RETINAFACE_MODEL", "/mine.onnx").output().unwrap();
        let root = project.folder.path().canonicalize().unwrap();
        let root = root.display();
        let expected = format!("{root}/.fetch|/mine.onnx|{root}/target/plugins\n");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{shell}");
    }
}
