//! Execution providers: selection, configuration, remedies for start errors, and the engine cache
//! of TensorRT.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProvider as _, ExecutionProviderDispatch};

use super::kernels;
use super::locate::RuntimeBuild;

/// The execution provider of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Provider {
    /// CUDA if it starts, else the faster one of OpenVINO and the CPU provider. That is OpenVINO for
    /// [`Precision::Reduced`] and where the processor does not support the kernels of this crate,
    /// else the CPU provider, which also starts faster and needs less memory. TensorRT is not
    /// included, because building its engine takes minutes.
    #[default]
    Auto,
    /// The CPU provider of ONNX Runtime.
    Cpu,
    /// NVIDIA CUDA.
    Cuda,
    /// NVIDIA TensorRT.
    TensorRt,
    /// Intel OpenVINO, on the CPU.
    OpenVino,
}

impl Provider {
    /// All providers, in the order of documentation and messages.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Cpu, Self::Cuda, Self::TensorRt, Self::OpenVino];

    /// The name in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::OpenVino => "openvino",
        }
    }

    /// The providers to try, in order of preference; a single one unless this is [`Self::Auto`].
    pub(crate) fn candidates(self, precision: Precision) -> &'static [Self] {
        match self {
            Self::Auto if prefers_cpu(precision) => &[Self::Cuda, Self::Cpu],
            Self::Auto => &[Self::Cuda, Self::OpenVino, Self::Cpu],
            Self::Cpu => &[Self::Cpu],
            Self::Cuda => &[Self::Cuda],
            Self::TensorRt => &[Self::TensorRt],
            Self::OpenVino => &[Self::OpenVino],
        }
    }

    /// The builds of ONNX Runtime to search, in order of preference. Builds for other hardware are
    /// included, because a custom build in their directory can contain this provider.
    pub(crate) fn builds(self, precision: Precision) -> &'static [RuntimeBuild] {
        use RuntimeBuild::{Cpu, Cuda, OpenVino};
        match self {
            Self::Auto if has_nvidia_driver() && prefers_cpu(precision) => &[Cuda, Cpu, OpenVino],
            Self::Auto if has_nvidia_driver() => &[Cuda, OpenVino, Cpu],
            Self::Auto if prefers_cpu(precision) => &[Cpu, OpenVino, Cuda],
            Self::Auto => &[OpenVino, Cpu, Cuda],
            Self::Cpu => &[Cpu, OpenVino, Cuda],
            Self::Cuda | Self::TensorRt => &[Cuda, Cpu, OpenVino],
            Self::OpenVino => &[OpenVino, Cpu, Cuda],
        }
    }

    /// How the user can install a build of ONNX Runtime with this provider.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Auto | Self::Cpu => "run `make setup`, or set ORT_DYLIB_PATH to a libonnxruntime.so",
            Self::Cuda => {
                "run `scripts/setup.sh --cuda`, which installs ONNX Runtime for CUDA 13 and NVIDIA's libraries, or set \
                 ORT_DYLIB_PATH to a build with CUDA"
            }
            Self::TensorRt => {
                "run `scripts/setup.sh --cuda`, which installs ONNX Runtime for CUDA 13, and copy libnvinfer.so.10 and \
                 libnvonnxparser.so.10 of TensorRT 10 beside it or into the search path of the dynamic linker"
            }
            Self::OpenVino => {
                "run `scripts/setup.sh --openvino`, which installs ONNX Runtime with OpenVINO, or set ORT_DYLIB_PATH to a \
                 build with OpenVINO"
            }
        }
    }

    /// Whether the loaded ONNX Runtime was built with this provider.
    pub(crate) fn is_built_in(self) -> bool {
        let available = match self {
            Self::Auto | Self::Cpu => return true,
            Self::Cuda => ep::CUDA::is_available(),
            Self::TensorRt => ep::TensorRT::is_available(),
            Self::OpenVino => ep::OpenVINO::is_available(),
        };
        available.unwrap_or(false)
    }

    /// Whether the provider runs on a GPU, so that tensors are copied to and from the device.
    pub(crate) const fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt)
    }

    /// Whether a session with a fixed input shape is faster: OpenVINO and TensorRT compile for the
    /// shape, and a CUDA graph is recorded for one shape.
    pub(crate) const fn wants_fixed_shapes(self) -> bool {
        !matches!(self, Self::Auto | Self::Cpu)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the CPU provider with the kernels of this crate is faster than OpenVINO.
fn prefers_cpu(precision: Precision) -> bool {
    precision == Precision::Full && kernels::are_supported()
}

/// The numeric precision of inference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// float32 throughout; the results equal the reference implementation.
    #[default]
    Full,
    /// The reduced precision of the provider: bfloat16 with OpenVINO, float16 with TensorRT,
    /// TensorFloat-32 with CUDA. It is faster; scores change by a few thousandths.
    Reduced,
}

impl Precision {
    /// All precisions.
    pub const ALL: [Self; 2] = [Self::Full, Self::Reduced];

    /// The name in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Reduced => "reduced",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The configuration of a provider for one session.
#[derive(Clone, Debug)]
pub(crate) struct ProviderConfig<'a> {
    pub(crate) device_id: u32,
    pub(crate) threads: usize,
    pub(crate) precision: Precision,
    pub(crate) cuda_graph: bool,
    /// Directory of TensorRT's engine and timing caches; `None` disables the caches.
    pub(crate) cache: Option<&'a Path>,
    /// Names and shapes of the inputs at the minimum, optimum and maximum batch size, for TensorRT.
    pub(crate) profile: Option<[String; 3]>,
}

impl Provider {
    /// The provider to register with a session; `None` for the CPU provider, which is always
    /// registered. Creating the session fails if the provider does not start.
    pub(crate) fn dispatch(self, setting: &ProviderConfig<'_>) -> Option<ExecutionProviderDispatch> {
        let device = i32::try_from(setting.device_id).unwrap_or(i32::MAX);
        let reduced = setting.precision == Precision::Reduced;
        let dispatch = match self {
            Self::Auto | Self::Cpu => return None,
            Self::Cuda => ep::CUDA::default()
                .with_device_id(device)
                .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
                // The exhaustive search takes ten seconds for a few shapes, this one a few
                // milliseconds.
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
                .with_tf32(reduced)
                .with_cuda_graph(setting.cuda_graph)
                .build(),
            Self::TensorRt => {
                let mut tensorrt = ep::TensorRT::default()
                    .with_device_id(device)
                    .with_fp16(reduced)
                    .with_cuda_graph(setting.cuda_graph)
                    .with_detailed_build_log(false);
                if let Some(cache) = setting.cache {
                    let cache = cache.display();
                    tensorrt = tensorrt
                        .with_engine_cache(true)
                        .with_engine_cache_path(&cache)
                        .with_timing_cache(true)
                        .with_timing_cache_path(&cache);
                }
                if let Some([min, opt, max]) = &setting.profile {
                    tensorrt =
                        tensorrt.with_profile_min_shapes(min).with_profile_opt_shapes(opt).with_profile_max_shapes(max);
                }
                tensorrt.build()
            }
            Self::OpenVino => {
                // OpenVINO would select bfloat16 on CPUs that support it; here the user decides.
                let hint = if reduced { "bf16" } else { "f32" };
                let config =
                    format!(r#"{{"CPU":{{"PERFORMANCE_HINT":"LATENCY","INFERENCE_PRECISION_HINT":"{hint}"}}}}"#);
                let mut openvino =
                    ep::OpenVINO::default().with_device_type("CPU").with_arbitrary_config("load_config", config);
                if setting.threads > 0 {
                    openvino = openvino.with_num_threads(setting.threads);
                }
                openvino.build()
            }
        };
        Some(dispatch.error_on_failure())
    }
}

/// Whether the kernel driver of an NVIDIA GPU is present; under WSL its device is `/dev/dxg`.
pub(crate) fn has_nvidia_driver() -> bool {
    ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists())
}

/// The shared library that a message of the dynamic linker reports as missing: `libcublasLt.so.13`
/// in "libcublasLt.so.13: cannot open shared object file: No such file or directory".
pub(crate) fn missing_library(message: &str) -> Option<&str> {
    let (before, _) = message.split_once(": cannot open shared object file")?;
    before.rsplit([' ', '\'', '"']).next().filter(|name| name.starts_with("lib"))
}

/// What the user can do if a provider is available but does not start.
pub(crate) fn start_remedy(provider: Provider, message: &str) -> String {
    let missing = missing_library(message);
    match (provider, missing) {
        (Provider::Cuda | Provider::TensorRt, Some("libcuda.so.1")) => {
            "libcuda.so.1 is part of NVIDIA's driver: install the driver, and pass the GPU through to a container"
                .to_owned()
        }
        (_, Some(library)) => format!("{library} is missing: {}", provider.remedy()),
        (Provider::Cuda | Provider::TensorRt, None) if !has_nvidia_driver() => {
            "no NVIDIA GPU is visible: install the driver, and pass the GPU through to a container".to_owned()
        }
        (Provider::Cuda | Provider::TensorRt, None) => {
            "check device-id and `nvidia-smi`; CUDA 13 requires driver 580 or newer".to_owned()
        }
        _ => provider.remedy().to_owned(),
    }
}

/// Why there is no directory for TensorRT's engine cache.
///
/// Engines are executable code for the GPU, so that the directory must be private.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheDirError {
    /// The environment names no base directory.
    #[error("neither XDG_CACHE_HOME nor HOME is an absolute path; set XDG_CACHE_HOME to a private directory")]
    NoBase,
    /// The directory cannot be created or read.
    #[error("cache directory {path} cannot be created ({source}); set XDG_CACHE_HOME to a writable directory")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The path is a symbolic link or a file.
    #[error("cache directory {path} is not a directory but a link or file; remove it")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory belongs to another user.
    #[error("cache directory {path} belongs to user id {owner}; set XDG_CACHE_HOME to a directory of this user")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// User id of the owner.
        owner: u32,
    },
    /// The directory is accessible to other users and its permissions cannot be changed.
    #[error("permissions of cache directory {path} cannot be set to 0700 ({source}); set XDG_CACHE_HOME")]
    Permissions {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The directory of TensorRT's engine caches, `$XDG_CACHE_HOME/retinaface/tensorrt` or
/// `~/.cache/retinaface/tensorrt`; created if it does not exist.
///
/// # Errors
/// If no base directory is set, or the directory is not private: owned by the effective user, with
/// mode 0700 and not a symbolic link.
pub(crate) fn tensorrt_cache_dir() -> Result<PathBuf, CacheDirError> {
    private_cache_dir(&cache_base(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))?)
}

/// The base directory of caches, by the XDG base directory specification: relative paths are
/// ignored.
fn cache_base(xdg_cache_home: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, CacheDirError> {
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(xdg_cache_home).or_else(|| Some(absolute(home)?.join(".cache")));
    base.ok_or(CacheDirError::NoBase)
}

/// Creates the cache directory below `base`. Also its parent must be private: its owner could
/// replace the directory after the check.
fn private_cache_dir(base: &Path) -> Result<PathBuf, CacheDirError> {
    let parent = base.join("retinaface");
    let path = parent.join("tensorrt");
    make_private(&parent)?;
    make_private(&path)?;
    Ok(path)
}

/// Creates a directory, or checks that an existing one belongs to this user and takes it from all
/// others.
fn make_private(path: &Path) -> Result<(), CacheDirError> {
    const PRIVATE: u32 = 0o700;
    let path = path.to_path_buf();
    let create = |source| CacheDirError::Create { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(PRIVATE).create(&path).map_err(create)?;
    let metadata = fs::symlink_metadata(&path).map_err(create)?;
    if !metadata.is_dir() {
        return Err(CacheDirError::NotADirectory { path });
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(CacheDirError::Owner { path, owner: metadata.uid() });
    }
    if metadata.mode() & 0o077 != 0 {
        let set = fs::set_permissions(&path, Permissions::from_mode(PRIVATE));
        set.map_err(|source| CacheDirError::Permissions { path: path.clone(), source })?;
    }
    Ok(())
}

/// The name of the subdirectory of [`tensorrt_cache_dir`] for a model, shape, device and version of
/// ONNX Runtime. The file names in it contain the version of TensorRT and the architecture of the
/// GPU.
pub(crate) fn tensorrt_key(model: &[u8], shape: &impl Hash, device_id: u32, version: &str) -> String {
    let mut key = DefaultHasher::new();
    (model, device_id, version).hash(&mut key);
    shape.hash(&mut key);
    format!("{:016x}", key.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_library_is_parsed_from_linker_message() {
        let message = "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open \
                       shared object file: No such file or directory";
        assert_eq!(missing_library(message), Some("libcublasLt.so.13"));
        assert!(
            start_remedy(Provider::Cuda, message)
                .starts_with("libcublasLt.so.13 is missing: run `scripts/setup.sh --cuda`")
        );
        let driver = "with error: libcuda.so.1: cannot open shared object file: No such file or directory";
        assert!(start_remedy(Provider::TensorRt, driver).contains("NVIDIA's driver"));
        assert_eq!(missing_library("CUDA failure 100: no CUDA-capable device is detected"), None);
    }

    #[test]
    fn the_cache_key_depends_on_model_shape_device_and_version() {
        let first = tensorrt_key(b"model", &(640, 384), 0, "1.31.1");
        assert_eq!(first, tensorrt_key(b"model", &(640, 384), 0, "1.31.1"));
        let others = [
            tensorrt_key(b"other", &(640, 384), 0, "1.31.1"),
            tensorrt_key(b"model", &(640, 640), 0, "1.31.1"),
            tensorrt_key(b"model", &(640, 384), 1, "1.31.1"),
            tensorrt_key(b"model", &(640, 384), 0, "1.32.0"),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_cache_directory_is_created_private() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().join("cache");
        let path = private_cache_dir(&base).unwrap();
        assert_eq!(path, base.join("retinaface/tensorrt"));
        assert_eq!((mode(&path), mode(&base.join("retinaface"))), (0o700, 0o700));
        assert_eq!(private_cache_dir(&base).unwrap(), path, "an existing directory is reused");
    }

    #[test]
    fn permissions_for_other_users_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let path = private_cache_dir(base.path()).unwrap();
        for directory in [path.as_path(), path.parent().unwrap()] {
            fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
            private_cache_dir(base.path()).unwrap();
            assert_eq!(mode(directory), 0o700);
        }
    }

    #[test]
    fn a_link_or_file_is_not_used_as_cache_directory() {
        let (base, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = base.path().join("retinaface/tensorrt");
        fs::create_dir(base.path().join("retinaface")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &path).unwrap();
        let error = private_cache_dir(base.path()).unwrap_err();
        assert!(matches!(error, CacheDirError::NotADirectory { .. }), "{error}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let error = private_cache_dir(base.path()).unwrap_err();
        assert!(matches!(error, CacheDirError::Create { .. }), "{error}");
        fs::remove_dir_all(base.path().join("retinaface")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), base.path().join("retinaface")).unwrap();
        let error = private_cache_dir(base.path()).unwrap_err();
        assert!(matches!(error, CacheDirError::NotADirectory { .. }), "{error}");
    }

    #[test]
    fn the_cache_base_follows_the_xdg_specification() {
        let base = |xdg: Option<&str>, home: Option<&str>| cache_base(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(base(Some("/cache"), Some("/home/a")).unwrap(), Path::new("/cache"));
        for ignored in [None, Some(""), Some("cache")] {
            assert_eq!(base(ignored, Some("/home/a")).unwrap(), Path::new("/home/a/.cache"));
            assert!(matches!(base(ignored, None), Err(CacheDirError::NoBase)));
            assert!(matches!(base(None, ignored), Err(CacheDirError::NoBase)));
        }
    }
}
