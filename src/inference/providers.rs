//! Which execution providers can be used on this machine, and on which devices.

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use ort::value::Tensor;
use prost::Message as _;

use super::error::ModelError;
use super::options::{Kernels, ModelOptions};
use super::session::SessionRequest;
use crate::runtime::onnx::{Dim, Model};
use crate::runtime::{
    DeviceInfo, DeviceKind, Provider, Runtime, RuntimeError, exclusive, load, nvidia_gpus, panic_message, single_line,
    vulkan_devices,
};

/// An execution provider on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderReport {
    /// The provider; never [`Provider::Auto`].
    pub provider: Provider,
    /// The library that contains it; `None` if it is not installed.
    pub library: Option<PathBuf>,
    /// Its version; `None` if it does not report one.
    pub version: Option<String>,
    /// The devices that it supports.
    pub devices: Vec<DeviceInfo>,
    /// Why it cannot be used; `None` if a model was run on its first device.
    pub problem: Option<String>,
}

/// The providers, in the order of [`Provider::ALL`]. Each one that is installed runs a model of one
/// node. `base_dir` is the directory of the calling plugin or program.
///
/// # Errors
/// If ONNX Runtime is not found or cannot be loaded.
pub fn provider_reports(base_dir: Option<&Path>) -> Result<Vec<ProviderReport>, RuntimeError> {
    let providers = Provider::ALL.into_iter().filter(|provider| *provider != Provider::Auto);
    providers.map(|provider| provider_report(base_dir, provider)).collect()
}

/// One of [`provider_reports`].
///
/// # Errors
/// If ONNX Runtime is not found or cannot be loaded.
pub fn provider_report(base_dir: Option<&Path>, provider: Provider) -> Result<ProviderReport, RuntimeError> {
    // Where it is installed, the build for CUDA has all providers.
    let runtime = load(base_dir, Provider::Cuda).or_else(|_| load(base_dir, Provider::Cpu))?;
    let mut report = ProviderReport { provider, library: None, version: None, devices: Vec::new(), problem: None };
    report.problem = fill(&mut report, &runtime, base_dir).err().map(|error| match error {
        ModelError::Runtime(error) if error.is_not_installed() => format!("not installed: {}", provider.remedy()),
        error => error.to_string(),
    });
    Ok(report)
}

fn fill(report: &mut ProviderReport, runtime: &Runtime, base_dir: Option<&Path>) -> Result<(), ModelError> {
    let provider = report.provider;
    if !provider.is_built_in() {
        return Err(RuntimeError::Provider { provider, library: runtime.path().to_path_buf() }.into());
    }
    report.library = Some(runtime.register(base_dir, provider)?);
    let is_part_of_runtime = provider.plugin_file().is_none();
    report.version = runtime.provider_version(if is_part_of_runtime { Provider::Cpu } else { provider });
    report.devices = match provider {
        // A driver without a GPU reports an error.
        _ if provider.uses_cuda_memory() => nvidia_gpus().map_err(|error| match error {
            RuntimeError::CudaCall { .. } => RuntimeError::NoGpu { provider },
            error => error,
        })?,
        _ => runtime.devices(provider),
    };
    if provider == Provider::WebGpu {
        describe_adapter(&mut report.devices);
    }
    for device in report.devices.iter_mut().filter(|device| device.kind == DeviceKind::Cpu) {
        device.name = device.name.take().or_else(processor_name);
    }
    let device = runtime.check_provider(base_dir, provider, 0, false)?;
    run_one_node(runtime, provider, &device)
}

/// Adds what the Vulkan drivers say about the device of WebGPU. ONNX Runtime lists the GPUs of the
/// operating system, whether they have a driver or not.
fn describe_adapter(devices: &mut [DeviceInfo]) {
    let adapters = vulkan_devices();
    let hardware = adapters.iter().filter(|adapter| adapter.is_hardware).collect::<Vec<_>>();
    for device in devices {
        match hardware[..] {
            [] => {
                device.kind = DeviceKind::Cpu;
                device.name = Some("software adapter".to_owned());
            }
            [only] => (device.name, device.memory) = (Some(only.name.clone()), Some(only.memory)),
            // Which one WebGPU takes is not known.
            _ => {}
        }
    }
}

/// The name of the processor.
fn processor_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.trim_start().strip_prefix(':'))?;
    Some(name.trim().to_owned())
}

/// Runs a model of one node on a device.
fn run_one_node(runtime: &Runtime, provider: Provider, device: &DeviceInfo) -> Result<(), ModelError> {
    const OPSET: i64 = 13;
    const SHAPE: [usize; 2] = [1, 4];
    let bytes = Model::with_one_node("Relu", OPSET, &SHAPE.map(Dim::Fixed)).encode_to_vec();
    let options = ModelOptions { provider, kernels: Kernels::Runtime, ..ModelOptions::default() };
    let request = SessionRequest { runtime, options: &options, device, bytes: &bytes, shape: None, engine_cache: None };
    let path = Path::new("the test model");
    let mut session = request.create().map_err(|error| error.into_model_error(provider, path, &bytes))?.session;
    let failed = |reason: String| ModelError::Run { path: path.to_path_buf(), reason };
    let run = || -> ort::Result<Vec<f32>> {
        let _exclusive = exclusive(provider);
        let input = Tensor::from_array((SHAPE, vec![-1.0f32, 0.0, 1.0, 2.0]))?;
        let outputs = session.run(ort::inputs![input])?;
        Ok(outputs[0].try_extract_tensor::<f32>()?.1.to_vec())
    };
    let output =
        panic::catch_unwind(AssertUnwindSafe(run)).map_err(|payload| failed(panic_message(payload.as_ref())))?;
    match output.map_err(|error| failed(single_line(error.message())))? {
        output if output == [0.0, 0.0, 1.0, 2.0] => Ok(()),
        output => Err(failed(format!("the result is wrong: {output:?}"))),
    }
}
