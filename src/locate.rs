//! Where the run-time files are: ONNX Runtime's library and the default model.
//!
//! Each is looked for in this order, and the first that exists is taken:
//!
//! 1. the variable: `ORT_DYLIB_PATH` for the library, `RETINAFACE_MODEL` for the model. A variable that
//!    is set is obeyed: if it names nothing, that is an error, not a reason to look further;
//! 2. the folder of the plugin or program itself;
//! 3. the installed place relative to it: `PREFIX/lib/retinaface` and `PREFIX/share/retinaface` for a
//!    plugin in `PREFIX/lib/gstreamer-1.0` or a program in `PREFIX/bin`;
//! 4. the same below `/usr/local` and `/usr`;
//! 5. for the library, what the dynamic linker finds by name.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

/// File name of ONNX Runtime's library; the number is its ABI version.
pub const RUNTIME_FILE: &str = "libonnxruntime.so.1";
/// File name of the default model.
pub const MODEL_FILE: &str = "retinaface_mnet025.onnx";
/// Variable that names ONNX Runtime's library.
pub const RUNTIME_VARIABLE: &str = "ORT_DYLIB_PATH";
/// Variable that names the default model.
pub const MODEL_VARIABLE: &str = "RETINAFACE_MODEL";

/// A file that is in none of the places where it was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    what: &'static str,
    variable: &'static str,
    /// What the variable says, if it is set; nothing else was looked at then.
    set_to: Option<PathBuf>,
    tried: Vec<PathBuf>,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, variable, set_to, tried } = self;
        if let Some(path) = set_to {
            return write!(
                f,
                "{what}: {variable} is set to {}, which does not exist; correct or unset the variable",
                path.display()
            );
        }
        write!(f, "{what} was not found; looked at ${variable} (not set)")?;
        for path in tried {
            write!(f, ", {}", path.display())?;
        }
        write!(f, "; run `make setup` and `. ./env.sh` in the project's folder, or set {variable}")
    }
}

impl std::error::Error for NotFound {}

/// The folders below `home`'s prefix and the system's prefixes.
fn folders(home: Option<&Path>, below_prefix: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(home) = home {
        folders.push(home.to_path_buf());
        // PREFIX/bin, PREFIX/lib/gstreamer-1.0 and PREFIX/lib/TRIPLET/gstreamer-1.0.
        folders.extend(home.ancestors().skip(1).take(3).map(|prefix| prefix.join(below_prefix)));
    }
    folders.extend(["/usr/local", "/usr"].map(|prefix| Path::new(prefix).join(below_prefix)));
    folders
}

fn find(
    what: &'static str,
    variable: &'static str,
    file: &str,
    home: Option<&Path>,
    below_prefix: &str,
) -> Result<PathBuf, NotFound> {
    if let Some(path) = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from) {
        let missing = NotFound { what, variable, set_to: Some(path.clone()), tried: Vec::new() };
        return if path.exists() { Ok(path) } else { Err(missing) };
    }
    let mut tried = Vec::new();
    for folder in folders(home, below_prefix) {
        let path = folder.join(file);
        if path.exists() {
            return Ok(path);
        }
        if !tried.contains(&path) {
            tried.push(path);
        }
    }
    Err(NotFound { what, variable, set_to: None, tried })
}

/// ONNX Runtime's library. `home` is the folder of the plugin or program that asks.
///
/// # Errors
/// If it is in none of the places; the dynamic linker is for the caller to ask.
pub fn runtime(home: Option<&Path>) -> Result<PathBuf, NotFound> {
    find("ONNX Runtime's library", RUNTIME_VARIABLE, RUNTIME_FILE, home, "lib/retinaface")
}

/// The default model. `home` is the folder of the plugin or program that asks.
///
/// # Errors
/// If it is in none of the places.
pub fn model(home: Option<&Path>) -> Result<PathBuf, NotFound> {
    find("the default face detection model", MODEL_VARIABLE, MODEL_FILE, home, "share/retinaface")
}

impl NotFound {
    /// Whether a variable was set, so that no other place may be tried.
    pub(crate) fn is_by_variable(&self) -> bool {
        self.set_to.is_some()
    }

    /// The same error with one more place that was tried.
    pub(crate) fn also_tried(mut self, place: PathBuf) -> Self {
        self.tried.push(place);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_plugin_finds_its_files_by_its_own_place() {
        let root = tempfile::tempdir().unwrap();
        let plugin = root.path().join("lib/gstreamer-1.0");
        let share = root.path().join("share/retinaface");
        std::fs::create_dir_all(&plugin).unwrap();
        std::fs::create_dir_all(&share).unwrap();
        std::fs::write(share.join(MODEL_FILE), "model").unwrap();
        let found = find("the model", "RETINAFACE_TEST_UNSET", MODEL_FILE, Some(&plugin), "share/retinaface").unwrap();
        assert_eq!(found.canonicalize().unwrap(), share.join(MODEL_FILE).canonicalize().unwrap());
    }

    #[test]
    fn the_error_says_each_place_and_the_remedy() {
        let home = Path::new("/nowhere/lib/gstreamer-1.0");
        let error = find("the model", "RETINAFACE_TEST_UNSET", "m.onnx", Some(home), "share/retinaface").unwrap_err();
        let text = error.to_string();
        for part in [
            "$RETINAFACE_TEST_UNSET (not set)",
            "/nowhere/lib/gstreamer-1.0/m.onnx",
            "/nowhere/share/retinaface/m.onnx",
            "/usr/local/share/retinaface/m.onnx",
            "make setup",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}
