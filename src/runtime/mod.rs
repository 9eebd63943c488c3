//! ONNX Runtime: locating and loading the library, execution providers and their devices, the ONNX
//! file format, frames in CUDA memory and CPU kernels.

#[cfg(feature = "cuda-memory")]
mod cuda;
mod device;
pub(crate) mod engine_cache;
mod error;
pub(crate) mod exclusive;
pub(crate) mod kernels;
pub(crate) mod library;
pub mod locate;
mod nvidia;
pub(crate) mod onnx;
mod plugin;
pub(crate) mod provider;
mod vulkan;

#[cfg(feature = "cuda-memory")]
pub use cuda::{DeviceFrame, DevicePlane};
pub use device::{DeviceInfo, DeviceKind};
pub use error::RuntimeError;
pub(crate) use exclusive::{Exclusive, exclusive};
pub use kernels::with_kernels;
pub use library::{Runtime, load};
pub(crate) use library::{check, panic_message, single_line};
pub(crate) use nvidia::nvidia_gpus;
pub use onnx::{ExternalDataError, ExternalDataErrorKind};
pub use plugin::likely_provider;
pub(crate) use plugin::registered;
pub(crate) use provider::ProviderConfig;
pub use provider::{Precision, Provider};
pub(crate) use vulkan::vulkan_devices;
