//! Where the run-time files are: ONNX Runtime's library and the default model.
//!
//! Each is looked for in this order, and the first that exists is taken:
//!
//! 1. the variable: `ORT_DYLIB_PATH` for the library, `RETINAFACE_MODEL` for the model. A variable that
//!    is set is obeyed: if it names nothing, that is an error, not a reason to look further;
//! 2. for the library, the folder that `RETINAFACE_RUNTIMES` names;
//! 3. the folder of the plugin or program itself;
//! 4. the installed place relative to it: `PREFIX/lib/retinaface` and `PREFIX/share/retinaface` for a
//!    plugin in `PREFIX/lib/gstreamer-1.0` or a program in `PREFIX/bin`;
//! 5. the same below `/usr/local` and `/usr`;
//! 6. for the library, what the dynamic linker finds by name.
//!
//! Builds of ONNX Runtime for different hardware are different libraries of one name, so each [`RuntimeSet`] has a
//! folder of its own within these places: `onnxruntime`, `onnxruntime-cuda`, `onnxruntime-openvino`.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

/// File name of ONNX Runtime's library; the number is its ABI version.
pub const RUNTIME_FILE: &str = "libonnxruntime.so.1";
/// File name of the default model.
pub const MODEL_FILE: &str = "retinaface_mnet025.onnx";
/// Variable that names ONNX Runtime's library.
pub const RUNTIME_VARIABLE: &str = "ORT_DYLIB_PATH";
/// Variable that names a folder of [`RuntimeSet`]s.
pub const RUNTIMES_VARIABLE: &str = "RETINAFACE_RUNTIMES";
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

/// What the variable names, if it is set.
fn by_variable(what: &'static str, variable: &'static str) -> Result<Option<PathBuf>, NotFound> {
    let Some(path) = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    let missing = NotFound { what, variable, set_to: Some(path.clone()), tried: Vec::new() };
    if path.exists() { Ok(Some(path)) } else { Err(missing) }
}

/// The first of `paths` that exists.
fn first(
    what: &'static str,
    variable: &'static str,
    paths: impl IntoIterator<Item = PathBuf>,
) -> Result<PathBuf, NotFound> {
    let mut tried = Vec::new();
    for path in paths {
        if path.exists() {
            return Ok(path);
        }
        if !tried.contains(&path) {
            tried.push(path);
        }
    }
    Err(NotFound { what, variable, set_to: None, tried })
}

/// A build of ONNX Runtime, with the libraries that its hardware needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuntimeSet {
    /// The plain one: CPU.
    Cpu,
    /// With NVIDIA CUDA and TensorRT.
    Cuda,
    /// With Intel OpenVINO.
    OpenVino,
}

impl RuntimeSet {
    /// Its folder.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Cpu => "onnxruntime",
            Self::Cuda => "onnxruntime-cuda",
            Self::OpenVino => "onnxruntime-openvino",
        }
    }
}

/// ONNX Runtime's library, of the first of `sets` that is there. `home` is the folder of the plugin or program that
/// asks.
///
/// # Errors
/// If it is in none of the places; the dynamic linker is for the caller to ask.
pub fn runtime(home: Option<&Path>, sets: &[RuntimeSet]) -> Result<PathBuf, NotFound> {
    const WHAT: &str = "ONNX Runtime's library";
    if let Some(path) = by_variable(WHAT, RUNTIME_VARIABLE)? {
        return Ok(path);
    }
    let runtimes = env::var_os(RUNTIMES_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let places = runtimes.into_iter().chain(folders(home, "lib/retinaface")).collect::<Vec<_>>();
    let of_set = |set: RuntimeSet| {
        places.iter().flat_map(move |place| {
            // The plain library of an installation or of one's own may also lie in the place itself.
            let itself = (set == RuntimeSet::Cpu).then(|| place.join(RUNTIME_FILE));
            itself.into_iter().chain([place.join(set.folder()).join(RUNTIME_FILE)])
        })
    };
    first(WHAT, RUNTIME_VARIABLE, sets.iter().copied().flat_map(of_set))
}

/// The default model. `home` is the folder of the plugin or program that asks.
///
/// # Errors
/// If it is in none of the places.
pub fn model(home: Option<&Path>) -> Result<PathBuf, NotFound> {
    const WHAT: &str = "the default face detection model";
    match by_variable(WHAT, MODEL_VARIABLE)? {
        Some(path) => Ok(path),
        None => first(WHAT, MODEL_VARIABLE, model_places(home)),
    }
}

fn model_places(home: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    folders(home, "share/retinaface").into_iter().map(|folder| folder.join(MODEL_FILE))
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
        let found = first("the model", "RETINAFACE_TEST_UNSET", model_places(Some(&plugin))).unwrap();
        assert_eq!(found.canonicalize().unwrap(), share.join(MODEL_FILE).canonicalize().unwrap());
    }

    #[test]
    fn the_error_says_each_place_and_the_remedy() {
        let home = Path::new("/nowhere/lib/gstreamer-1.0");
        let error = first("the model", "RETINAFACE_TEST_UNSET", model_places(Some(home))).unwrap_err();
        let text = error.to_string();
        for part in [
            "$RETINAFACE_TEST_UNSET (not set)",
            "/nowhere/lib/gstreamer-1.0/retinaface_mnet025.onnx",
            "/nowhere/share/retinaface/retinaface_mnet025.onnx",
            "/usr/local/share/retinaface/retinaface_mnet025.onnx",
            "make setup",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}
