//! The GPUs that NVIDIA's driver lists.

use std::ffi::{CStr, c_char, c_int, c_uint};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL, Symbol};

use super::device::DeviceInfo;
use super::error::RuntimeError;

type Status = c_int;

/// The GPUs of NVIDIA, in the order of CUDA, with name and memory.
///
/// # Errors
/// If the driver cannot be loaded, or reports an error.
#[expect(unsafe_code, reason = "calls NVIDIA's driver; the signatures are those of cuda.h")]
pub(crate) fn nvidia_gpus() -> Result<Vec<DeviceInfo>, RuntimeError> {
    let missing = |error: libloading::Error| RuntimeError::CudaDriver { reason: error.to_string() };
    unsafe {
        let driver = Library::open(Some("libcuda.so.1"), RTLD_LAZY | RTLD_LOCAL).map_err(missing)?;
        // Unloading a driver that has started threads is not safe.
        let driver = std::mem::ManuallyDrop::new(driver);
        let init: Symbol<unsafe extern "C" fn(c_uint) -> Status> = driver.get(b"cuInit").map_err(missing)?;
        let count: Symbol<unsafe extern "C" fn(*mut c_int) -> Status> =
            driver.get(b"cuDeviceGetCount").map_err(missing)?;
        let get: Symbol<unsafe extern "C" fn(*mut c_int, c_int) -> Status> =
            driver.get(b"cuDeviceGet").map_err(missing)?;
        let name: Symbol<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status> =
            driver.get(b"cuDeviceGetName").map_err(missing)?;
        let memory: Symbol<unsafe extern "C" fn(*mut usize, c_int) -> Status> =
            driver.get(b"cuDeviceTotalMem_v2").map_err(missing)?;
        check("cuInit", init(0))?;
        let mut devices = 0;
        check("cuDeviceGetCount", count(&mut devices))?;
        let device = |index: c_int| {
            let (mut handle, mut bytes, mut text) = (0, 0, [0; 256]);
            check("cuDeviceGet", get(&mut handle, index))?;
            check("cuDeviceTotalMem", memory(&mut bytes, handle))?;
            // The last byte stays 0, so that the text always ends.
            check("cuDeviceGetName", name(text.as_mut_ptr(), text.len() as c_int - 1, handle))?;
            let name = CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned();
            let gpu = DeviceInfo::nvidia(u32::try_from(index).unwrap_or_default());
            Ok(DeviceInfo { name: Some(name), memory: u64::try_from(bytes).ok(), ..gpu })
        };
        (0..devices).map(device).collect()
    }
}

fn check(function: &'static str, status: Status) -> Result<(), RuntimeError> {
    if status == 0 { Ok(()) } else { Err(RuntimeError::CudaCall { function, status }) }
}
