//! Points, rectangles, landmarks, faces and head poses; letterbox, IoU and NMS.

mod face;
mod letterbox;
mod nms;
mod pose;

pub use face::{ARCFACE_SIZE, ARCFACE_TEMPLATE, Face, Landmarks, Point, Rect, iou};
pub(crate) use letterbox::INPUT_MULTIPLE;
pub use letterbox::{InputSize, Letterbox};
pub(crate) use nms::MAX_CANDIDATES;
pub use nms::nms;
pub use pose::HeadPose;
