//! What a model runs on, how each kind of hardware is asked for, and what is told when it is not there.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProvider as _, ExecutionProviderDispatch};

use crate::locate::RuntimeSet;

/// What the model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Provider {
    /// The best of the others that works here: CUDA, then OpenVINO, then the CPU. Never TensorRT, which builds for minutes.
    #[default]
    Auto,
    /// ONNX Runtime's own CPU kernels.
    Cpu,
    /// NVIDIA CUDA.
    Cuda,
    /// NVIDIA TensorRT.
    TensorRt,
    /// Intel OpenVINO, on the CPU.
    OpenVino,
}

impl Provider {
    /// All providers, in the order in which they are offered.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Cpu, Self::Cuda, Self::TensorRt, Self::OpenVino];

    /// The name by which users know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::OpenVino => "openvino",
        }
    }

    /// What [`Self::Auto`] tries, best first; itself for all others.
    pub(crate) fn candidates(self) -> &'static [Self] {
        match self {
            Self::Auto => &[Self::Cuda, Self::OpenVino, Self::Cpu],
            Self::Cpu => &[Self::Cpu],
            Self::Cuda => &[Self::Cuda],
            Self::TensorRt => &[Self::TensorRt],
            Self::OpenVino => &[Self::OpenVino],
        }
    }

    /// Which builds of ONNX Runtime may have it, the one made for it first. The others are looked at as well: one that
    /// somebody put in the plain one's place may have everything.
    pub(crate) fn sets(self) -> &'static [RuntimeSet] {
        use RuntimeSet::{Cpu, Cuda, OpenVino};
        match self {
            Self::Auto if has_nvidia_driver() => &[Cuda, OpenVino, Cpu],
            Self::Auto => &[OpenVino, Cpu, Cuda],
            Self::Cpu => &[Cpu, OpenVino, Cuda],
            Self::Cuda | Self::TensorRt => &[Cuda, Cpu, OpenVino],
            Self::OpenVino => &[OpenVino, Cpu, Cuda],
        }
    }

    /// How to get a build of ONNX Runtime that has it.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Auto | Self::Cpu => "run `make setup`, or set ORT_DYLIB_PATH to a libonnxruntime.so",
            Self::Cuda => {
                "run `scripts/setup.sh --cuda`, which brings ONNX Runtime for CUDA 13 and NVIDIA's libraries, or set \
                 ORT_DYLIB_PATH to a build with CUDA"
            }
            Self::TensorRt => {
                "run `scripts/setup.sh --cuda`, which brings ONNX Runtime for CUDA 13, and put TensorRT 10's libnvinfer.so.10 and \
                 libnvonnxparser.so.10 beside it or where the dynamic linker looks"
            }
            Self::OpenVino => {
                "run `scripts/setup.sh --openvino`, which brings ONNX Runtime with OpenVINO, or set ORT_DYLIB_PATH to a \
                 build with OpenVINO"
            }
        }
    }

    /// Whether the loaded ONNX Runtime was built with it.
    pub(crate) fn is_built_in(self) -> bool {
        let available = match self {
            Self::Auto | Self::Cpu => return true,
            Self::Cuda => ep::CUDA::is_available(),
            Self::TensorRt => ep::TensorRT::is_available(),
            Self::OpenVino => ep::OpenVINO::is_available(),
        };
        available.unwrap_or(false)
    }

    /// Whether tensors have to be brought to another device and back.
    pub(crate) const fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt)
    }

    /// Whether a session made for one shape is worth having: OpenVINO and TensorRT compile for shapes, and a CUDA graph
    /// has but one.
    pub(crate) const fn wants_fixed_shapes(self) -> bool {
        !matches!(self, Self::Auto | Self::Cpu)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|provider| provider.name() == name)
            .ok_or_else(|| format!("no execution provider is called {name}; there are {known}"))
    }
}

/// In which arithmetic a provider runs the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32 bits throughout: what the reference gives.
    #[default]
    Full,
    /// 16 bits where the provider and its hardware have them: bfloat16 on OpenVINO, fp16 on TensorRT, TensorFloat-32 on
    /// CUDA. Faster; scores move by some thousandths.
    Reduced,
}

impl Precision {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Full, Self::Reduced];

    /// The name by which users know it.
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

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == name)
            .ok_or_else(|| format!("no precision is called {name}; there are full and reduced"))
    }
}

/// What a provider is told when a session is made on it.
#[derive(Clone, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) device_id: u32,
    pub(crate) threads: usize,
    pub(crate) precision: Precision,
    pub(crate) cuda_graph: bool,
    /// Where TensorRT keeps what it builds.
    pub(crate) cache: Option<&'a Path>,
    /// The inputs' names and shapes for the least, the usual and the largest batch, for TensorRT.
    pub(crate) profile: Option<[String; 3]>,
}

impl Provider {
    /// How to register it with a session, failing if it cannot start; `None` for the CPU, which is always there.
    pub(crate) fn dispatch(self, setting: &Setting<'_>) -> Option<ExecutionProviderDispatch> {
        let device = i32::try_from(setting.device_id).unwrap_or(i32::MAX);
        let reduced = setting.precision == Precision::Reduced;
        let dispatch = match self {
            Self::Auto | Self::Cpu => return None,
            Self::Cuda => ep::CUDA::default()
                .with_device_id(device)
                .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
                // The exhaustive search takes ten seconds for a handful of shapes, this one some milliseconds.
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
                if let Some([least, usual, most]) = &setting.profile {
                    tensorrt = tensorrt
                        .with_profile_min_shapes(least)
                        .with_profile_opt_shapes(usual)
                        .with_profile_max_shapes(most);
                }
                tensorrt.build()
            }
            Self::OpenVino => {
                // OpenVINO would take bfloat16 by itself where the CPU has it; here that is for the user to say.
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

/// Whether the kernel has an NVIDIA GPU to offer; `/dev/dxg` is the way to one from WSL.
pub(crate) fn has_nvidia_driver() -> bool {
    ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists())
}

/// Which shared library a loader's message misses: `libcublasLt.so.13` of "libcublasLt.so.13: cannot open shared object
/// file: No such file or directory".
pub(crate) fn missing_library(message: &str) -> Option<&str> {
    let (before, _) = message.split_once(": cannot open shared object file")?;
    before.rsplit([' ', '\'', '"']).next().filter(|name| name.starts_with("lib"))
}

/// What a user can do about a provider that is built in but does not start.
pub(crate) fn start_remedy(provider: Provider, message: &str) -> String {
    let missing = missing_library(message);
    match (provider, missing) {
        (Provider::Cuda | Provider::TensorRt, Some("libcuda.so.1")) => {
            "libcuda.so.1 comes with NVIDIA's driver: install the driver, and in a container pass the GPU through"
                .to_owned()
        }
        (_, Some(library)) => format!("{library} is missing: {}", provider.remedy()),
        (Provider::Cuda | Provider::TensorRt, None) if !has_nvidia_driver() => {
            "no NVIDIA GPU is visible here: install the driver, and in a container pass the GPU through".to_owned()
        }
        (Provider::Cuda | Provider::TensorRt, None) => {
            "check device-id and `nvidia-smi`; CUDA 13 needs driver 580 or newer".to_owned()
        }
        _ => provider.remedy().to_owned(),
    }
}

/// Where TensorRT keeps what it builds: `$XDG_CACHE_HOME/retinaface/tensorrt`.
pub(crate) fn tensorrt_caches() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|base| !base.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    base.or_else(home).unwrap_or_else(std::env::temp_dir).join("retinaface/tensorrt")
}

/// The name within [`tensorrt_caches`] for this model, shape, device and ONNX Runtime. TensorRT's own version and the GPU's
/// architecture are part of the names that ONNX Runtime gives to the files.
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
    fn names_are_read_back() {
        assert!(Provider::ALL.into_iter().all(|provider| provider.name().parse() == Ok(provider)));
        assert!(Precision::ALL.into_iter().all(|precision| precision.name().parse() == Ok(precision)));
        assert!("gpu".parse::<Provider>().unwrap_err().contains("auto, cpu, cuda, tensorrt, openvino"));
    }

    #[test]
    fn the_missing_library_is_found_in_the_loaders_words() {
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
    fn what_tensorrt_builds_is_kept_apart_by_model_shape_device_and_version() {
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
}
