//! YuNet, a detector for edge devices.
//!
//! Sources: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023;
//! ShiqiYu/libfacedetection.train; OpenCV, `modules/objdetect/src/face_detect.cpp`.

use super::super::input::{ChannelOrder, Normalization, Padding};
use super::super::layout::{AnchorCentre, Arrangement, Boxes, Family, Scores, Variances};

/// Twelve outputs, four per stride.
pub(crate) const YUNET: Family = Family {
    name: "YuNet",
    signature: "[A, 1] twice, [A, 4] and [A, 10] at each stride, with one anchor per cell",
    arrangement: Arrangement::Rows,
    scores: Scores::Product,
    boxes: Boxes::CentreSize,
    landmarks: true,
    levels: &[(8, &[8.0]), (16, &[16.0]), (32, &[32.0])],
    anchor_centre: AnchorCentre::Pixels(0.0),
    variances: Variances { centre: 1.0, size: 1.0, point: 1.0 },
    normalization: Normalization { order: ChannelOrder::Bgr, mean: [0.0; 3], scale: 1.0, padding: Padding::Black },
    size_multiple: 32,
};
