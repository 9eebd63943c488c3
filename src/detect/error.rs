//! Errors of detection.

use crate::image::ImageError;
#[cfg(feature = "cuda-memory")]
use crate::image::PixelFormat;
use crate::inference::ModelError;
#[cfg(feature = "cuda-memory")]
use crate::runtime::{Provider, RuntimeError};

/// Why a detection fails.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The frame cannot be preprocessed.
    #[error("the frame cannot be preprocessed: {0}")]
    Image(#[from] ImageError),
    /// The model does not run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The frame is in CUDA memory, but the model does not run on a GPU.
    #[cfg(feature = "cuda-memory")]
    #[error(
        "frames in CUDA memory need execution-provider=cuda or tensorrt, but the model runs on {provider}; put \
         `cudadownload` before the element"
    )]
    DeviceFrame {
        /// The model's provider.
        provider: Provider,
    },
    /// The frame is in CUDA memory in a format that would have to be converted.
    #[cfg(feature = "cuda-memory")]
    #[error(
        "frames of format {0} in CUDA memory are not supported if the format needs a conversion or the frames are \
         interlaced; put `cudadownload` before the element"
    )]
    DeviceFormat(PixelFormat),
    /// The frame is in CUDA memory, but the settings need parts or mirror images of it.
    #[cfg(feature = "cuda-memory")]
    #[error(
        "roi, inference-region=roi-list, tiles and flip need frames in system memory; put `cudadownload` before the element"
    )]
    DeviceViews,
    /// The frame cannot be copied within the GPU's memory.
    #[cfg(feature = "cuda-memory")]
    #[error("the frame cannot be copied on the GPU: {0}")]
    DeviceCopy(RuntimeError),
}
