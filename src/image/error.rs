//! Errors of views and image operations.

use super::format::{PixelFormat, Region};

/// Why an image operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The image or the region has no pixels.
    #[error("an image of {width}x{height} has no pixels; width and height must be at least 1")]
    Empty {
        /// Requested width.
        width: usize,
        /// Requested height.
        height: usize,
    },
    /// The number of planes differs from that of the pixel format.
    #[error("{format} has {expected} planes, but {found} were passed")]
    Planes {
        /// The pixel format.
        format: PixelFormat,
        /// Number of planes of the format.
        expected: usize,
        /// Number of planes passed.
        found: usize,
    },
    /// The stride is shorter than a row.
    #[error("plane {plane} of {format}: a row has {row} bytes, but the stride is {stride} bytes")]
    Stride {
        /// The pixel format.
        format: PixelFormat,
        /// Index of the plane.
        plane: usize,
        /// Bytes of a row.
        row: usize,
        /// Stride passed, in bytes.
        stride: usize,
    },
    /// The buffer is shorter than the image.
    #[error("plane {plane} of {format} needs {needed} bytes, but the buffer has {found} bytes")]
    TooShort {
        /// The pixel format.
        format: PixelFormat,
        /// Index of the plane.
        plane: usize,
        /// Bytes needed.
        needed: usize,
        /// Bytes passed.
        found: usize,
    },
    /// The region is not inside the image.
    #[error("region {region:?} is not inside the image of {width}x{height}")]
    Region {
        /// The requested region.
        region: Region,
        /// Width of the image.
        width: usize,
        /// Height of the image.
        height: usize,
    },
    /// An OpenCV function failed.
    #[error("OpenCV failed ({kind}): {message}")]
    OpenCv {
        /// What kind of failure it is.
        kind: OpenCvErrorKind,
        /// The message of OpenCV.
        message: String,
    },
}

/// The kinds of OpenCV failures that a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenCvErrorKind {
    /// Memory allocation failed.
    OutOfMemory,
    /// An argument is out of range, for example an image that is too large for the function.
    OutOfRange,
    /// Any other failure, with OpenCV's error code.
    Other(i32),
}

impl std::fmt::Display for OpenCvErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::OutOfRange => f.write_str("out of range"),
            Self::Other(code) => write!(f, "error code {code}"),
        }
    }
}

impl From<opencv::Error> for ImageError {
    fn from(error: opencv::Error) -> Self {
        let kind = match error.code {
            opencv::core::StsNoMem => OpenCvErrorKind::OutOfMemory,
            opencv::core::StsOutOfRange | opencv::core::StsBadSize => OpenCvErrorKind::OutOfRange,
            code => OpenCvErrorKind::Other(code),
        };
        Self::OpenCv { kind, message: error.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opencv_error_keeps_its_kind_and_message() {
        let error = ImageError::from(opencv::Error::new(opencv::core::StsNoMem, "Failed to allocate 1 bytes"));
        let message = "Failed to allocate 1 bytes".to_owned();
        assert_eq!(error, ImageError::OpenCv { kind: OpenCvErrorKind::OutOfMemory, message });
        assert_eq!(error.to_string(), "OpenCV failed (out of memory): Failed to allocate 1 bytes");
    }
}
