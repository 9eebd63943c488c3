//! Images in memory: pixel formats, stride-aware views, YUV coding, drawing.

mod draw;
mod error;
mod format;
pub(crate) mod mat;
pub(crate) mod simd;
mod view;
mod yuv;

pub use draw::{OverlayStyle, Rgb, draw_faces};
pub use error::{ImageError, OpenCvErrorKind};
pub use format::{ImageInfo, PixelFormat, Region};
pub(crate) use view::Plane;
pub use view::{ImageView, ImageViewMut, OwnedImage};
pub(crate) use yuv::RgbFromYuv;
pub use yuv::{YuvCoding, YuvMatrix};
