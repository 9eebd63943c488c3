//! From the library's errors to GStreamer's error domains and codes.

use std::fmt::Display;
use std::io;

use retinaface::crops::CropError;
use retinaface::detect::DetectError;
use retinaface::image::ImageError;
use retinaface::inference::{EngineError, ModelError};
use retinaface::runtime::RuntimeError;

use super::frame::FrameError;

/// The GStreamer error that fits a failure. A program can act on it without reading the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    /// `RESOURCE_ERROR_NOT_FOUND`: a file does not exist.
    NotFound,
    /// `RESOURCE_ERROR_OPEN_READ`: a file cannot be read.
    OpenRead,
    /// `RESOURCE_ERROR_SETTINGS`: a property has a value that cannot be used here.
    Settings,
    /// `LIBRARY_ERROR_INIT`: ONNX Runtime or the CUDA driver cannot be loaded.
    LibraryInit,
    /// `LIBRARY_ERROR_FAILED`: a tensor or a CUDA call failed, or the inference engine has stopped.
    LibraryFailed,
    /// `CORE_ERROR_THREAD`: a thread cannot be started.
    Thread,
    /// `STREAM_ERROR_WRONG_TYPE`: the file or the data is of another kind.
    WrongType,
    /// `STREAM_ERROR_FORMAT`: a frame's memory does not match its caps.
    Format,
    /// `STREAM_ERROR_FAILED`: the model failed on a frame, or the stream failed for another reason.
    Failed,
}

impl ErrorCode {
    /// An error message with this domain and code.
    pub(crate) fn message(self, text: &str) -> gst::ErrorMessage {
        match self {
            Self::NotFound => gst::error_msg!(gst::ResourceError::NotFound, ("{text}")),
            Self::OpenRead => gst::error_msg!(gst::ResourceError::OpenRead, ("{text}")),
            Self::Settings => gst::error_msg!(gst::ResourceError::Settings, ("{text}")),
            Self::LibraryInit => gst::error_msg!(gst::LibraryError::Init, ("{text}")),
            Self::LibraryFailed => gst::error_msg!(gst::LibraryError::Failed, ("{text}")),
            Self::Thread => gst::error_msg!(gst::CoreError::Thread, ("{text}")),
            Self::WrongType => gst::error_msg!(gst::StreamError::WrongType, ("{text}")),
            Self::Format => gst::error_msg!(gst::StreamError::Format, ("{text}")),
            Self::Failed => gst::error_msg!(gst::StreamError::Failed, ("{text}")),
        }
    }
}

/// An error with a fitting GStreamer error.
pub(crate) trait Coded: Display {
    /// The fitting GStreamer error.
    fn code(&self) -> ErrorCode;

    /// Whether each further frame would fail, too, until the element is started again.
    fn is_permanent(&self) -> bool {
        false
    }
}

impl Coded for ModelError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Read { .. } | Self::ExternalData { .. } => ErrorCode::OpenRead,
            Self::Task { .. } | Self::DeviceGraph { .. } | Self::Override { .. } => ErrorCode::Settings,
            Self::Runtime(error) => error.code(),
            Self::Thread(_) => ErrorCode::Thread,
            Self::Tensor(_) | Self::Engine(EngineError::Panicked(_) | EngineError::Stopped) => ErrorCode::LibraryFailed,
            Self::Engine(EngineError::Run(_)) => ErrorCode::Failed,
            Self::TooLarge { .. }
            | Self::NotOnnx { .. }
            | Self::Opset { .. }
            | Self::Input { .. }
            | Self::Outputs { .. }
            | Self::NoLandmarks { .. }
            | Self::NotFinite { .. }
            | Self::Run { .. } => ErrorCode::WrongType,
        }
    }

    fn is_permanent(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Panicked(_) | EngineError::Stopped))
    }
}

impl Coded for RuntimeError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::TooOld { .. } | Self::Load { .. } | Self::PluginLoad { .. } | Self::CudaDriver { .. } => {
                ErrorCode::LibraryInit
            }
            Self::CudaCall { .. } => ErrorCode::LibraryFailed,
            // The user named a provider or a precision that is unknown or that this machine does
            // not have.
            Self::Provider { .. }
            | Self::PluginNotFound { .. }
            | Self::NoGpu { .. }
            | Self::NoDevice { .. }
            | Self::OneRuntime { .. }
            | Self::ProviderStart { .. }
            | Self::Precision { .. }
            | Self::UnknownName { .. } => ErrorCode::Settings,
        }
    }
}

impl Coded for ImageError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Format
    }
}

impl Coded for FrameError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Format
    }
}

impl Coded for DetectError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Image(error) => error.code(),
            Self::Model(error) => error.code(),
            #[cfg(feature = "cuda-memory")]
            Self::DeviceFrame { .. } | Self::DeviceViews => ErrorCode::Settings,
            #[cfg(feature = "cuda-memory")]
            Self::DeviceFormat(_) => ErrorCode::Format,
            #[cfg(feature = "cuda-memory")]
            Self::DeviceCopy(_) => ErrorCode::LibraryFailed,
        }
    }

    fn is_permanent(&self) -> bool {
        matches!(self, Self::Model(error) if error.is_permanent())
    }
}

impl Coded for CropError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Image(error) => error.code(),
            Self::Model(error) => error.code(),
        }
    }

    fn is_permanent(&self) -> bool {
        matches!(self, Self::Model(error) if error.is_permanent())
    }
}

/// GStreamer could not attach a meta to a buffer.
impl Coded for gst::glib::BoolError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Failed
    }
}

/// Why an element has no result of its model for a frame.
#[derive(Debug)]
pub(crate) enum FrameModelError<E> {
    /// The element has no model before start and after stop.
    NotStarted,
    Frame(FrameError),
    Model(E),
    Meta(gst::glib::BoolError),
}

impl<E: Display> Display for FrameModelError<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotStarted => f.write_str("the element is not started"),
            Self::Frame(error) => error.fmt(f),
            Self::Model(error) => error.fmt(f),
            Self::Meta(error) => error.fmt(f),
        }
    }
}

impl<E: Coded> Coded for FrameModelError<E> {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotStarted => ErrorCode::Failed,
            Self::Frame(error) => error.code(),
            Self::Model(error) => error.code(),
            Self::Meta(error) => error.code(),
        }
    }

    fn is_permanent(&self) -> bool {
        match self {
            // Without metadata, a frame cannot say that it has no result.
            Self::NotStarted | Self::Meta(_) => true,
            Self::Frame(error) => error.is_permanent(),
            Self::Model(error) => error.is_permanent(),
        }
    }
}

/// An error with a text for the user that the library does not know.
#[derive(Debug)]
pub(crate) struct ElementError {
    pub(crate) code: ErrorCode,
    pub(crate) text: &'static str,
}

impl Display for ElementError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text)
    }
}

impl Coded for ElementError {
    fn code(&self) -> ErrorCode {
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use retinaface::runtime::Provider;
    use std::path::PathBuf;

    #[test]
    fn each_kind_of_failure_has_its_own_code() {
        let path = || PathBuf::from("model.onnx");
        let read = |kind: io::ErrorKind| ModelError::Read { path: path(), source: kind.into() };
        assert_eq!(read(io::ErrorKind::NotFound).code(), ErrorCode::NotFound);
        assert_eq!(read(io::ErrorKind::PermissionDenied).code(), ErrorCode::OpenRead);
        let provider = RuntimeError::Provider { provider: Provider::Cuda, library: path() };
        assert_eq!(ModelError::from(provider).code(), ErrorCode::Settings);
        let load = RuntimeError::Load { path: String::new(), reason: String::new() };
        assert_eq!(ModelError::from(load).code(), ErrorCode::LibraryInit);
        let driver = RuntimeError::CudaDriver { reason: String::new() };
        assert_eq!(driver.code(), ErrorCode::LibraryInit);
        let call = RuntimeError::CudaCall { function: "cuInit", status: 999 };
        assert_eq!(call.code(), ErrorCode::LibraryFailed);
        let name = RuntimeError::UnknownName { setting: "precision", name: String::new(), known: String::new() };
        assert_eq!(name.code(), ErrorCode::Settings);
        assert_eq!(ModelError::Thread(io::ErrorKind::WouldBlock.into()).code(), ErrorCode::Thread);
        let run = ModelError::from(EngineError::Run("out of memory".into()));
        assert_eq!(DetectError::from(run).code(), ErrorCode::Failed);
        assert!(!DetectError::from(ModelError::from(EngineError::Run("out of memory".into()))).is_permanent());
        assert_eq!(ModelError::from(EngineError::Stopped).code(), ErrorCode::LibraryFailed);
        let stopped = || ModelError::from(EngineError::Stopped);
        assert!(FrameModelError::Model(DetectError::from(stopped())).is_permanent());
        assert!(FrameModelError::Model(CropError::from(stopped())).is_permanent());
        let not_onnx = ModelError::NotOnnx { path: path(), reason: String::new() };
        assert_eq!(not_onnx.code(), ErrorCode::WrongType);
        let image = ImageError::Empty { width: 0, height: 0 };
        assert_eq!(CropError::from(image).code(), ErrorCode::Format);
    }
}
