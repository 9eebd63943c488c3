//! Points, rectangles, landmarks, faces and head poses; pixel aspect ratio, letterbox, IoU and NMS.

mod aspect;
mod face;
mod letterbox;
mod nms;
mod pose;

pub use aspect::{FrameSize, PixelAspect};
pub use face::{ARCFACE_SIZE, ARCFACE_TEMPLATE, Face, Landmarks, Point, Rect, iou};
pub(crate) use letterbox::INPUT_MULTIPLE;
pub use letterbox::{InputSize, Letterbox};
pub(crate) use nms::{MAX_CANDIDATES, suppress};
pub use nms::{Ranked, nms};
pub use pose::HeadPose;
pub(crate) use pose::in_square_pixels;
