//! ONNX Runtime: locating and loading the library, execution providers, the ONNX file format,
//! frames in CUDA memory and CPU kernels.

#[cfg(feature = "cuda-memory")]
mod cuda;
mod error;
pub(crate) mod kernels;
pub(crate) mod library;
pub mod locate;
pub(crate) mod onnx;
pub(crate) mod provider;

#[cfg(feature = "cuda-memory")]
pub use cuda::{DeviceFrame, DevicePlane};
pub use error::RuntimeError;
pub use kernels::with_kernels;
pub use library::{Runtime, likely_provider, load};
pub(crate) use library::{check, panic_message, single_line};
pub use onnx::{ExternalDataError, ExternalDataErrorKind};
pub(crate) use provider::ProviderConfig;
pub use provider::{Precision, Provider};
