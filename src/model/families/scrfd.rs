//! SCRFD: Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR 2022;
//! deepinsight/insightface, `python-package/insightface/model_zoo/scrfd.py`.

use super::{Centre, Family};
use crate::layout::{Arrangement, Boxes, Scores, Variances};
use crate::preprocess::{ChannelOrder, Normalization, Padding};

/// Nine outputs, three a stride, with or without the batch's side.
pub const SCRFD: Family = Family {
    name: "SCRFD",
    sign: "rows of 1, 4 and 10 numbers an anchor at each stride: two anchors a cell",
    arrangement: Arrangement::Rows,
    scores: Scores::Single,
    boxes: Boxes::Distances,
    landmarks: true,
    // Both anchors of a cell lie at its corner, and distances count in strides.
    levels: &[(8, &[8.0, 8.0]), (16, &[16.0, 16.0]), (32, &[32.0, 32.0])],
    centre: Centre::Pixels(0.0),
    variances: Variances { centre: 1.0, size: 1.0, point: 1.0 },
    normalization: Normalization {
        order: ChannelOrder::Rgb,
        mean: [127.5; 3],
        scale: 1.0 / 128.0,
        padding: Padding::Black,
    },
    // Its feature pyramid adds levels of twice the size to each other.
    multiple: 32,
};

/// Six outputs: without keypoints.
pub const SCRFD_BOXES: Family = Family {
    name: "SCRFD without keypoints",
    sign: "rows of 1 and 4 numbers an anchor at each stride: two anchors a cell",
    landmarks: false,
    ..SCRFD
};
