//! Execution providers that ONNX Runtime loads from libraries of their own, and their devices.
//!
//! A library is registered once per process, by the first model that needs it; afterwards ONNX
//! Runtime lists the devices that the provider supports.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use ort::AsPointer as _;
use ort::device::Device;
use ort::environment::Environment;
use ort::memory::DeviceType;
use ort::session::builder::SessionBuilder;

use super::device::{DeviceInfo, DeviceKind};
use super::error::RuntimeError;
use super::library::{Runtime, check, load, preload, single_line};
use super::locate;
use super::provider::{Precision, Provider, missing_library, start_remedy};
use super::vulkan::vulkan_devices;

/// The registered libraries. A registration changes lists of ONNX Runtime that are read without
/// protection when devices are listed and sessions are created. So it has write access, and those
/// have read access.
static REGISTERED: RwLock<Vec<(Provider, PathBuf)>> = RwLock::new(Vec::new());

/// Read access to [`REGISTERED`].
pub(crate) type Registered = RwLockReadGuard<'static, Vec<(Provider, PathBuf)>>;

/// Keeps providers from being registered, while a session is created.
pub(crate) fn registered() -> Registered {
    REGISTERED.read().unwrap_or_else(PoisonError::into_inner)
}

/// The provider that `provider` probably selects: for [`Provider::Auto`] the first candidate that is
/// installed and has a device. Whether it starts is not checked.
///
/// # Errors
/// As [`load`].
pub fn likely_provider(
    base_dir: Option<&Path>,
    provider: Provider,
    device_id: u32,
    precision: Precision,
) -> Result<Provider, RuntimeError> {
    let runtime = load(base_dir, provider)?;
    if provider != Provider::Auto {
        return Ok(provider);
    }
    let candidates = provider.candidates(precision);
    let is_likely = |candidate: &&Provider| runtime.check_provider(base_dir, **candidate, device_id, true).is_ok();
    Ok(*candidates.iter().find(is_likely).unwrap_or(&provider))
}

impl Runtime {
    /// Checks that this library has `provider`, or loads the library of the provider, and that the
    /// provider has the device; returns the device. Whether the provider starts is not checked.
    ///
    /// # Errors
    /// What is missing, and the remedy.
    pub(crate) fn check_provider(
        &self,
        base_dir: Option<&Path>,
        provider: Provider,
        device_id: u32,
        hardware_only: bool,
    ) -> Result<DeviceInfo, RuntimeError> {
        if !provider.is_built_in() {
            return Err(RuntimeError::Provider { provider, library: self.path().to_path_buf() });
        }
        if provider.uses_cuda_memory() {
            preload(self.path(), provider.preloaded_libraries());
            return Ok(DeviceInfo::nvidia(device_id));
        }
        if provider == Provider::Cpu && hardware_only {
            // `auto` was set with the device of another provider.
            return Ok(DeviceInfo::cpu());
        }
        let hardware_only = hardware_only && provider.is_for_gpus();
        if hardware_only {
            // Before Vulkan drivers and the library of the provider are loaded, which takes time and
            // memory.
            plugin_path(base_dir, provider)?;
            if !self.has_gpu_for(provider) {
                return Err(RuntimeError::NoGpu { provider });
            }
        }
        self.register(base_dir, provider)?;
        self.device(provider, device_id, hardware_only)
    }

    /// Registers the library of a plug-in provider, unless that was done before; returns its path.
    ///
    /// # Errors
    /// If the library is not found or cannot be loaded.
    pub(crate) fn register(&self, base_dir: Option<&Path>, provider: Provider) -> Result<PathBuf, RuntimeError> {
        if provider.plugin_file().is_none() {
            return Ok(self.path().to_path_buf());
        }
        let known = |registered: &[(Provider, PathBuf)]| {
            registered.iter().find(|(known, _)| *known == provider).map(|(_, path)| path.clone())
        };
        if let Some(path) = known(&registered()) {
            return Ok(path);
        }
        let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = known(&registered) {
            return Ok(path);
        }
        let path = plugin_path(base_dir, provider)?;
        // The dynamic linker finds these libraries only if they are loaded already.
        preload(&path, provider.preloaded_libraries());
        self.environment().register_ep_library(provider.name(), &path).map_err(|error| {
            let reason = single_line(error.message());
            let remedy = match missing_library(&reason) {
                Some(_) => start_remedy(provider, &reason),
                // The provider requires a newer ONNX Runtime than ours has to be.
                None if reason.contains("minimum required version") => Provider::Cpu.remedy().to_owned(),
                None => provider.remedy().to_owned(),
            };
            RuntimeError::PluginLoad { provider, path: path.clone(), reason, remedy }
        })?;
        registered.push((provider, path.clone()));
        Ok(path)
    }

    /// The devices of a provider: of a plug-in that is registered, or of the CPU provider.
    pub fn devices(&self, provider: Provider) -> Vec<DeviceInfo> {
        let _registered = registered();
        let devices = devices(self.environment(), provider).into_iter();
        devices.zip(0..).map(|(device, id)| device_info(&device, id)).collect()
    }

    /// The version of a provider that has a device.
    pub(crate) fn provider_version(&self, provider: Provider) -> Option<String> {
        let _registered = registered();
        metadata(devices(self.environment(), provider).first()?, c"version")
    }

    /// The device with the index `id`. With `hardware_only`, software that emulates one is refused.
    ///
    /// # Errors
    /// If the provider has no such device.
    fn device(&self, provider: Provider, id: u32, hardware_only: bool) -> Result<DeviceInfo, RuntimeError> {
        let mut devices = self.devices(provider);
        devices.retain(|device| !hardware_only || device.kind == DeviceKind::Gpu);
        match devices.iter().find(|device| device.id == id) {
            Some(device) => Ok(device.clone()),
            None => {
                Err(RuntimeError::NoDevice { provider, device_id: id, remedy: self.device_remedy(provider), devices })
            }
        }
    }

    /// What the user can do if a provider does not have the device.
    fn device_remedy(&self, provider: Provider) -> String {
        if provider != Provider::OpenVino {
            return provider.device_remedy().to_owned();
        }
        let vendor = self.devices(Provider::Cpu).into_iter().map(|cpu| cpu.vendor).find(|vendor| !vendor.is_empty());
        match vendor {
            Some(vendor) if vendor != "Intel" => format!(
                "this plug-in of ONNX Runtime accepts Intel's processors and GPUs only, and the processor is made by \
                 {vendor}: use execution-provider=cpu"
            ),
            _ => provider.device_remedy().to_owned(),
        }
    }

    /// Adds a device of a plug-in provider to the options of a session. The keys of `options` are
    /// those of the provider.
    ///
    /// # Errors
    /// If the device does not exist any more, or the provider refuses an option.
    pub(crate) fn with_device(
        &self,
        builder: SessionBuilder,
        provider: Provider,
        id: u32,
        options: &[(&str, String)],
        _registered: &Registered,
    ) -> ort::Result<SessionBuilder> {
        let options = options.iter().map(|(key, value)| (format!("{}.{key}", provider.ep_name()), value.clone()));
        let options = options.collect::<Vec<_>>();
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let device = devices(self.environment(), provider).into_iter().nth(index);
        let device = device.ok_or_else(|| ort::Error::new(format!("{provider} has no device {id} any more")))?;
        Ok(builder.with_devices([device], Some(&options))?)
    }

    /// Whether the operating system lists a GPU, which ONNX Runtime can offer to plug-ins, and for
    /// WebGPU also whether a driver of it is there: the GPU can be one without Vulkan, such as that
    /// of a server's management controller, and the only driver one that runs on the processor.
    fn has_gpu_for(&self, provider: Provider) -> bool {
        hardware_kinds(self.environment()).is_ok_and(|kinds| kinds.contains(&DeviceKind::Gpu))
            && (provider != Provider::WebGpu || vulkan_devices().iter().any(|device| device.is_hardware))
    }
}

/// The path of the library of a plug-in provider.
fn plugin_path(base_dir: Option<&Path>, provider: Provider) -> Result<PathBuf, RuntimeError> {
    let file = provider.plugin_file().unwrap_or_default();
    locate::plugin(base_dir, provider.name(), file).map_err(|searched| RuntimeError::PluginNotFound {
        provider,
        file,
        searched,
    })
}

/// The devices of a provider, in the order of `device-id`: processors before GPUs and NPUs, but
/// after the GPUs of a provider for GPUs, where a processor emulates one.
fn devices(environment: &Environment, provider: Provider) -> Vec<Device<'_>> {
    let of_provider = environment.devices().filter(|device| device.ep().is_ok_and(|name| name == provider.ep_name()));
    let mut devices = of_provider.collect::<Vec<_>>();
    devices.sort_by_key(|device| {
        let kind = kind_of(device.hardware_device().ty());
        (provider.is_for_gpus() && kind == DeviceKind::Cpu, kind)
    });
    if provider == Provider::WebGpu {
        // It accepts one device, and chooses the GPU itself.
        devices.truncate(1);
    }
    devices
}

fn device_info(device: &Device<'_>, id: u32) -> DeviceInfo {
    let hardware = device.hardware_device();
    let kind = kind_of(hardware.ty());
    DeviceInfo {
        id,
        kind,
        vendor: hardware.vendor().unwrap_or_default().to_owned(),
        // OpenVINO numbers its GPUs: `GPU.0`.
        name: metadata(device, c"ov_device").filter(|name| name != kind.name()),
        memory: None,
    }
}

/// What a provider says about a device under `key`.
#[expect(unsafe_code, reason = "the binding has no function for it; the device is valid and the strings are its own")]
fn metadata(device: &Device<'_>, key: &CStr) -> Option<String> {
    unsafe {
        let api = ort::api();
        let pairs = (api.EpDevice_EpMetadata)(device.ptr());
        if pairs.is_null() {
            return None;
        }
        let value: *const c_char = (api.GetKeyValue)(pairs, key.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// The kinds of the devices that the operating system lists.
#[expect(unsafe_code, reason = "the binding has no function for it; the array has the length that is passed")]
fn hardware_kinds(environment: &Environment) -> ort::Result<Vec<DeviceKind>> {
    unsafe {
        let api = ort::api();
        let mut count = 0;
        check((api.GetNumHardwareDevices)(environment.ptr(), &mut count))?;
        let mut devices = vec![ptr::null(); count];
        check((api.GetHardwareDevices)(environment.ptr(), devices.as_mut_ptr(), count))?;
        let kind = |device| match (api.HardwareDevice_Type)(device) {
            ort::sys::OrtHardwareDeviceType::OrtHardwareDeviceType_CPU => DeviceKind::Cpu,
            ort::sys::OrtHardwareDeviceType::OrtHardwareDeviceType_GPU => DeviceKind::Gpu,
            ort::sys::OrtHardwareDeviceType::OrtHardwareDeviceType_NPU => DeviceKind::Npu,
        };
        Ok(devices.into_iter().filter(|device| !device.is_null()).map(kind).collect())
    }
}

/// The kind of a device that ONNX Runtime reports. New kinds of devices count as NPU.
fn kind_of(device: DeviceType) -> DeviceKind {
    match device {
        DeviceType::CPU => DeviceKind::Cpu,
        DeviceType::GPU => DeviceKind::Gpu,
        _ => DeviceKind::Npu,
    }
}
