//! YuNet: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023; ShiqiYu/libfacedetection.train, and
//! OpenCV's `modules/objdetect/src/face_detect.cpp`.

use super::{Centre, Family};
use crate::layout::{Arrangement, Boxes, Scores, Variances};
use crate::preprocess::{ChannelOrder, Normalization, Padding};

/// Twelve outputs, four a stride.
pub const YUNET: Family = Family {
    name: "YuNet",
    sign: "rows of 1, 1, 4 and 10 numbers a cell at each stride",
    arrangement: Arrangement::Rows,
    scores: Scores::Product,
    boxes: Boxes::CentreSize,
    landmarks: true,
    levels: &[(8, &[8.0]), (16, &[16.0]), (32, &[32.0])],
    centre: Centre::Pixels(0.0),
    variances: Variances { centre: 1.0, size: 1.0, point: 1.0 },
    normalization: Normalization { order: ChannelOrder::Bgr, mean: [0.0; 3], scale: 1.0, padding: Padding::Black },
    multiple: 32,
};
