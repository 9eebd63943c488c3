//! Execution providers: selection, configuration, and remedies for start errors.

use std::fmt;
use std::path::Path;

use ort::ep::{self, ExecutionProvider as _, ExecutionProviderDispatch};

use super::device::DeviceKind;
use super::locate::RuntimeBuild;

/// The execution provider of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Provider {
    /// With [`Precision::Full`] the first of CUDA, TensorRT for RTX, WebGPU and the CPU provider that
    /// is installed, has a GPU or is the CPU provider, and starts; with [`Precision::Reduced`] CUDA,
    /// then OpenVINO. TensorRT is not included, because building its engine takes minutes.
    #[default]
    Auto,
    /// The CPU provider of ONNX Runtime.
    Cpu,
    /// Intel OpenVINO, on processors, GPUs and NPUs of Intel.
    OpenVino,
    /// WebGPU, on GPUs with a Vulkan driver.
    WebGpu,
    /// NVIDIA CUDA.
    Cuda,
    /// NVIDIA TensorRT.
    TensorRt,
    /// NVIDIA TensorRT for RTX.
    NvTensorRtRtx,
}

impl Provider {
    /// All providers, in the order of documentation and messages.
    pub const ALL: [Self; 7] =
        [Self::Auto, Self::Cpu, Self::OpenVino, Self::WebGpu, Self::Cuda, Self::TensorRt, Self::NvTensorRtRtx];

    /// The name in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::OpenVino => "openvino",
            Self::WebGpu => "webgpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::NvTensorRtRtx => "nv-tensorrt-rtx",
        }
    }

    /// The name in ONNX Runtime.
    pub(crate) const fn ep_name(self) -> &'static str {
        match self {
            Self::Auto | Self::Cpu => "CPUExecutionProvider",
            Self::OpenVino => "OpenVINOExecutionProvider",
            Self::WebGpu => "WebGpuExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
            Self::TensorRt => "TensorrtExecutionProvider",
            Self::NvTensorRtRtx => "NvTensorRTRTXExecutionProvider",
        }
    }

    /// File name of the library that contains the provider; `None` if it is part of ONNX Runtime.
    pub(crate) const fn plugin_file(self) -> Option<&'static str> {
        match self {
            Self::Auto | Self::Cpu | Self::Cuda | Self::TensorRt => None,
            Self::OpenVino => Some("libonnxruntime_providers_openvino_plugin.so"),
            Self::WebGpu => Some("libonnxruntime_providers_webgpu.so"),
            Self::NvTensorRtRtx => Some("libonnxruntime_providers_nv_tensorrt_rtx.so"),
        }
    }

    /// Name prefixes of the libraries to load before the provider's own, from the same directory.
    pub(crate) const fn preloaded_libraries(self) -> &'static [&'static str] {
        match self {
            Self::Auto | Self::Cpu | Self::OpenVino | Self::WebGpu => &[],
            Self::Cuda | Self::TensorRt => &[
                "libcudart.so",
                "libcublas",
                "libcudnn",
                "libcufft",
                "libcurand",
                "libnvrtc",
                "libnvJitLink",
                "libnvinfer",
                "libnvonnxparser",
            ],
            Self::NvTensorRtRtx => &["libcudart.so", "libtensorrt_rtx", "libtensorrt_onnxparser_rtx"],
        }
    }

    /// The providers to try, in order of preference; a single one unless this is [`Self::Auto`].
    pub(crate) fn candidates(self, precision: Precision) -> &'static [Self] {
        match (self, precision) {
            (Self::Auto, Precision::Full) => &[Self::Cuda, Self::NvTensorRtRtx, Self::WebGpu, Self::Cpu],
            (Self::Auto, Precision::Reduced) => &[Self::Cuda, Self::OpenVino],
            (Self::Cpu, _) => &[Self::Cpu],
            (Self::OpenVino, _) => &[Self::OpenVino],
            (Self::WebGpu, _) => &[Self::WebGpu],
            (Self::Cuda, _) => &[Self::Cuda],
            (Self::TensorRt, _) => &[Self::TensorRt],
            (Self::NvTensorRtRtx, _) => &[Self::NvTensorRtRtx],
        }
    }

    /// Whether the provider is in the build of ONNX Runtime for CUDA only.
    pub(crate) const fn needs_cuda_build(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt)
    }

    /// The builds of ONNX Runtime to search, in order of preference. On a machine with an NVIDIA
    /// driver the build for CUDA serves all providers, so that any of them can run in one process.
    pub(crate) fn builds(self) -> &'static [RuntimeBuild] {
        if self.needs_cuda_build() || has_nvidia_driver() {
            &[RuntimeBuild::Cuda, RuntimeBuild::Cpu]
        } else {
            &[RuntimeBuild::Cpu, RuntimeBuild::Cuda]
        }
    }

    /// How the user can install the provider.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Auto | Self::Cpu => "run `make setup`, or set ORT_DYLIB_PATH to a libonnxruntime.so",
            Self::OpenVino => "run `scripts/setup.sh --openvino`",
            Self::WebGpu => "run `scripts/setup.sh --webgpu`",
            Self::Cuda => {
                "run `scripts/setup.sh --cuda`, which installs ONNX Runtime for CUDA 13 and NVIDIA's libraries, or set \
                 ORT_DYLIB_PATH to a build with CUDA"
            }
            Self::TensorRt => {
                "run `scripts/setup.sh --cuda`, which installs ONNX Runtime for CUDA 13, and copy libnvinfer.so.10 and \
                 libnvonnxparser.so.10 of TensorRT 10 beside it or into the search path of the dynamic linker"
            }
            Self::NvTensorRtRtx => "run `scripts/setup.sh --tensorrt-rtx`",
        }
    }

    /// What the user can do if the provider has no device.
    pub(crate) fn device_remedy(self) -> &'static str {
        match self {
            Self::Auto | Self::Cpu => "use device-id=0",
            Self::OpenVino => {
                "no processor, GPU or NPU of Intel was found; a GPU needs the package intel-opencl-icd; or use \
                 execution-provider=cpu"
            }
            Self::WebGpu => {
                "it needs a GPU with a Vulkan driver: install libvulkan1 and the driver (mesa-vulkan-drivers for AMD and \
                 Intel, NVIDIA's own for NVIDIA), and pass the GPU through to a container"
            }
            Self::Cuda | Self::TensorRt => {
                "it needs an NVIDIA GPU: install NVIDIA's driver, and pass the GPU through to a container"
            }
            Self::NvTensorRtRtx => {
                "it needs an NVIDIA RTX GPU (not one for data centres, such as A100 or H100) and driver 580 or newer; pass \
                 the GPU through to a container"
            }
        }
    }

    /// Whether the loaded ONNX Runtime was built with this provider, or can load it.
    pub(crate) fn is_built_in(self) -> bool {
        let available = match self {
            Self::Auto | Self::Cpu | Self::OpenVino | Self::WebGpu | Self::NvTensorRtRtx => return true,
            Self::Cuda => ep::CUDA::is_available(),
            Self::TensorRt => ep::TensorRT::is_available(),
        };
        available.unwrap_or(false)
    }

    /// Whether the provider uses memory of CUDA: tensors in page-locked memory are copied to and
    /// from the device, and frames in CUDA memory are accepted.
    pub(crate) const fn uses_cuda_memory(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt)
    }

    /// Whether the provider is made for GPUs. The other ones are fast on a CPU.
    pub(crate) const fn is_for_gpus(self) -> bool {
        matches!(self, Self::WebGpu | Self::Cuda | Self::TensorRt | Self::NvTensorRtRtx)
    }

    /// Whether a session with a fixed input shape is faster: OpenVINO and TensorRT compile for the
    /// shape, and a CUDA graph is recorded for one shape.
    pub(crate) const fn wants_fixed_shapes(self) -> bool {
        matches!(self, Self::OpenVino | Self::Cuda | Self::TensorRt | Self::NvTensorRtRtx)
    }

    /// Whether the provider can compute in a lower precision than the model file has.
    pub const fn has_reduced_precision(self) -> bool {
        matches!(self, Self::OpenVino | Self::Cuda | Self::TensorRt)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
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
    /// The provider of ONNX Runtime to register with a session; `None` for the CPU provider, which is
    /// always registered, and for plug-ins. Creating the session fails if the provider does not start.
    pub(crate) fn dispatch(self, setting: &ProviderConfig<'_>) -> Option<ExecutionProviderDispatch> {
        let device = i32::try_from(setting.device_id).unwrap_or(i32::MAX);
        let reduced = setting.precision == Precision::Reduced;
        let dispatch = match self {
            Self::Auto | Self::Cpu | Self::OpenVino | Self::WebGpu | Self::NvTensorRtRtx => return None,
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
        };
        Some(dispatch.error_on_failure())
    }

    /// The options of a plug-in for a session on a device of `kind`.
    pub(crate) fn plugin_options(self, setting: &ProviderConfig<'_>, kind: DeviceKind) -> Vec<(&'static str, String)> {
        match self {
            Self::OpenVino => {
                // OpenVINO would select bfloat16 or float16 where the device has it; here the user
                // decides.
                let hint = match (setting.precision, kind) {
                    (Precision::Full, _) => "f32",
                    (Precision::Reduced, DeviceKind::Cpu) => "bf16",
                    (Precision::Reduced, DeviceKind::Gpu | DeviceKind::Npu) => "f16",
                };
                let config =
                    format!(r#"{{"{kind}":{{"PERFORMANCE_HINT":"LATENCY","INFERENCE_PRECISION_HINT":"{hint}"}}}}"#);
                let threads = (setting.threads > 0).then(|| ("num_of_threads", setting.threads.to_string()));
                [("load_config", config)].into_iter().chain(threads).collect()
            }
            // Without it, the nodes that compute indices would run on the CPU.
            Self::WebGpu => vec![("enableInt64", "1".to_owned())],
            _ => Vec::new(),
        }
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
    let is_nvidia = matches!(provider, Provider::Cuda | Provider::TensorRt | Provider::NvTensorRtRtx);
    match missing {
        Some("libcuda.so.1") if is_nvidia => {
            "libcuda.so.1 is part of NVIDIA's driver: install the driver, and pass the GPU through to a container"
                .to_owned()
        }
        Some("libvulkan.so.1") => "libvulkan.so.1 is missing: install the package libvulkan1".to_owned(),
        Some(library) => format!("{library} is missing: {}", provider.remedy()),
        None if is_nvidia && !has_nvidia_driver() => {
            "no NVIDIA GPU is visible: install the driver, and pass the GPU through to a container".to_owned()
        }
        None if is_nvidia => "check device-id and `nvidia-smi`; CUDA 13 requires driver 580 or newer".to_owned(),
        None if provider == Provider::WebGpu && message.contains("f16") => {
            "the GPU does not compute in half precision: use the model in full precision".to_owned()
        }
        None if provider == Provider::WebGpu => provider.device_remedy().to_owned(),
        None if provider == Provider::OpenVino => "set another device-id, or use execution-provider=cpu".to_owned(),
        None => provider.remedy().to_owned(),
    }
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
        let half = "Program Transpose requires f16 but the device does not support it.";
        assert!(start_remedy(Provider::WebGpu, half).contains("full precision"));
        assert!(start_remedy(Provider::WebGpu, "no adapter").contains("Vulkan driver"));
    }
}
