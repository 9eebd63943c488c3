//! Locating the ONNX Runtime library and the default model.
//!
//! The search order is as follows; the first existing file is used:
//!
//! 1. the environment variable: `ORT_DYLIB_PATH` for the library, `RETINAFACE_MODEL` for the model.
//!    If the variable is set and the file does not exist, the search fails;
//! 2. for the library, the directory in `RETINAFACE_RUNTIMES`;
//! 3. the directory of the plugin or program;
//! 4. the installation prefix: `PREFIX/lib/retinaface` and `PREFIX/share/retinaface` for a plugin
//!    in `PREFIX/lib/gstreamer-1.0` or a program in `PREFIX/bin`;
//! 5. the same subdirectories of `/usr/local` and `/usr`;
//! 6. for the library, the search path of the dynamic linker.
//!
//! The builds of ONNX Runtime have the same file name. Each [`RuntimeBuild`] is therefore installed
//! in a separate subdirectory: `onnxruntime`, `onnxruntime-cuda`. The libraries of other execution
//! providers are in `providers/NAME` of the directories of steps 2 to 5.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

/// File name of the ONNX Runtime library; the number is its ABI version.
pub const RUNTIME_FILE: &str = "libonnxruntime.so.1";
/// File name of the default model.
pub const MODEL_FILE: &str = "retinaface_mnet025.onnx";
/// Environment variable with the path of the ONNX Runtime library.
pub const RUNTIME_VARIABLE: &str = "ORT_DYLIB_PATH";
/// Environment variable with the path of a directory of [`RuntimeBuild`]s and execution providers.
pub const RUNTIMES_VARIABLE: &str = "RETINAFACE_RUNTIMES";
/// Environment variable with the path of the default model.
pub const MODEL_VARIABLE: &str = "RETINAFACE_MODEL";

/// The error of a search that found no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    what: &'static str,
    variable: &'static str,
    /// Value of the variable if it is set; no other path is searched then.
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
        write!(f, "{what} was not found; searched ${variable} (not set)")?;
        for path in tried {
            write!(f, ", {}", path.display())?;
        }
        write!(f, "; run `make setup` and `. ./env.sh` in the project directory, or set {variable}")
    }
}

impl std::error::Error for NotFound {}

/// `base_dir`, and the subdirectory `below_prefix` of its prefix and of the system's prefixes.
fn directories(base_dir: Option<&Path>, below_prefix: &str) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    if let Some(base_dir) = base_dir {
        directories.push(base_dir.to_path_buf());
        // PREFIX/bin, PREFIX/lib/gstreamer-1.0 and PREFIX/lib/TRIPLET/gstreamer-1.0.
        directories.extend(base_dir.ancestors().skip(1).take(3).map(|prefix| prefix.join(below_prefix)));
    }
    directories.extend(["/usr/local", "/usr"].map(|prefix| Path::new(prefix).join(below_prefix)));
    directories
}

/// The path in the environment variable; `None` if it is not set.
fn by_variable(what: &'static str, variable: &'static str) -> Result<Option<PathBuf>, NotFound> {
    let Some(path) = env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    let missing = NotFound { what, variable, set_to: Some(path.clone()), tried: Vec::new() };
    if path.exists() { Ok(Some(path)) } else { Err(missing) }
}

/// The first of `paths` that exists.
fn first_existing(
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

/// A build of ONNX Runtime, installed with the libraries for its hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuntimeBuild {
    /// For the CPU.
    Cpu,
    /// With the execution providers for NVIDIA CUDA and TensorRT.
    Cuda,
}

impl RuntimeBuild {
    /// Name of its installation directory.
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Cpu => "onnxruntime",
            Self::Cuda => "onnxruntime-cuda",
        }
    }
}

/// The directories that can contain ONNX Runtime and execution providers.
fn library_directories(base_dir: Option<&Path>) -> Vec<PathBuf> {
    let runtimes = env::var_os(RUNTIMES_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    runtimes.into_iter().chain(directories(base_dir, "lib/retinaface")).collect()
}

/// The path of `file`, the library of the execution provider `name`. `base_dir` is the directory of
/// the calling plugin or program.
///
/// # Errors
/// If the library is not found: the paths that were searched.
pub(crate) fn plugin(base_dir: Option<&Path>, name: &str, file: &str) -> Result<PathBuf, Vec<PathBuf>> {
    let directories = library_directories(base_dir).into_iter();
    let paths = directories.map(|directory| directory.join("providers").join(name).join(file));
    first_existing("", "", paths).map_err(|not_found| not_found.tried)
}

/// The path of the ONNX Runtime library, of the first of `builds` that is installed. `base_dir` is
/// the directory of the calling plugin or program.
///
/// # Errors
/// If the library is not found. The search path of the dynamic linker is not included.
pub fn runtime(base_dir: Option<&Path>, builds: &[RuntimeBuild]) -> Result<PathBuf, NotFound> {
    const WHAT: &str = "the ONNX Runtime library";
    if let Some(path) = by_variable(WHAT, RUNTIME_VARIABLE)? {
        return Ok(path);
    }
    let directories = library_directories(base_dir);
    let paths_of_build = |build: RuntimeBuild| {
        directories.iter().flat_map(move |directory| {
            // The CPU build can also be installed in the directory itself.
            let direct = (build == RuntimeBuild::Cpu).then(|| directory.join(RUNTIME_FILE));
            direct.into_iter().chain([directory.join(build.directory()).join(RUNTIME_FILE)])
        })
    };
    first_existing(WHAT, RUNTIME_VARIABLE, builds.iter().copied().flat_map(paths_of_build))
}

/// The path of the default model. `base_dir` is the directory of the calling plugin or program.
///
/// # Errors
/// If the model is not found.
pub fn model(base_dir: Option<&Path>) -> Result<PathBuf, NotFound> {
    const WHAT: &str = "the default face detection model";
    match by_variable(WHAT, MODEL_VARIABLE)? {
        Some(path) => Ok(path),
        None => first_existing(WHAT, MODEL_VARIABLE, model_paths(base_dir)),
    }
}

fn model_paths(base_dir: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    directories(base_dir, "share/retinaface").into_iter().map(|directory| directory.join(MODEL_FILE))
}

impl NotFound {
    /// Whether the environment variable is set, so that no other path may be tried.
    pub(crate) fn is_by_variable(&self) -> bool {
        self.set_to.is_some()
    }

    /// Adds another path to the list of searched paths.
    pub(crate) fn also_tried(mut self, path: PathBuf) -> Self {
        self.tried.push(path);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_plugin_finds_the_model_in_its_prefix() {
        let root = tempfile::tempdir().unwrap();
        let plugin = root.path().join("lib/gstreamer-1.0");
        let share = root.path().join("share/retinaface");
        std::fs::create_dir_all(&plugin).unwrap();
        std::fs::create_dir_all(&share).unwrap();
        std::fs::write(share.join(MODEL_FILE), "model").unwrap();
        let found = first_existing("the model", "RETINAFACE_TEST_UNSET", model_paths(Some(&plugin))).unwrap();
        assert_eq!(found.canonicalize().unwrap(), share.join(MODEL_FILE).canonicalize().unwrap());
    }

    #[test]
    fn the_error_lists_the_searched_paths_and_the_remedy() {
        let base_dir = Path::new("/nowhere/lib/gstreamer-1.0");
        let error = first_existing("the model", "RETINAFACE_TEST_UNSET", model_paths(Some(base_dir))).unwrap_err();
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
