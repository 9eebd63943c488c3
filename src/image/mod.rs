//! Images in memory: pixel formats, stride-aware views, YUV coding, drawing, redaction.

mod canvas;
mod draw;
mod error;
mod format;
mod layout;
pub(crate) mod mat;
mod polygon;
mod redact;
mod samples;
pub(crate) mod simd;
#[cfg(test)]
pub(crate) mod testing;
mod unpack;
mod view;
mod yuv;

pub use draw::{OverlayBuffers, OverlayStyle, Rgb, draw_faces};
pub use error::{ImageError, OpenCvErrorKind};
pub use format::{ImageInfo, PixelFormat, Region};
pub use polygon::{PolygonError, parse_polygons};
pub use redact::{
    MAX_MOSAIC_BLOCKS, MIN_BLUR_SIGMA, MIN_SMOOTHED_SIZE, RedactedArea, RedactionBuffers, RedactionMethod,
    RedactionShape, RedactionStyle, redact, redact_all, redact_polygons,
};
pub use unpack::UnpackBuffers;
pub(crate) use unpack::UnpackPool;
pub(crate) use view::Plane;
pub use view::{ImageView, ImageViewMut, OwnedImage};
pub(crate) use yuv::RgbFromYuv;
pub use yuv::{YuvCoding, YuvMatrix};
