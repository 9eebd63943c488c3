//! SCRFD, InsightFace's successor of RetinaFace.
//!
//! Sources: Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR
//! 2022; deepinsight/insightface, `python-package/insightface/model_zoo/scrfd.py`.

use super::super::input::{ChannelOrder, Normalization, Padding};
use super::super::layout::{AnchorCentre, Arrangement, Boxes, Family, Scores, Variances};

/// Nine outputs, three per stride, with or without a batch dimension.
pub(crate) const SCRFD: Family = Family {
    name: "SCRFD",
    signature: "[A, 1], [A, 4] and [A, 10] at each stride, with two anchors per cell",
    arrangement: Arrangement::Rows,
    scores: Scores::Single,
    boxes: Boxes::Distances,
    landmarks: true,
    // Both anchors of a cell have their centre at its corner; distances are in units of the stride.
    levels: &[(8, &[8.0, 8.0]), (16, &[16.0, 16.0]), (32, &[32.0, 32.0])],
    anchor_centre: AnchorCentre::Pixels(0.0),
    variances: Variances { centre: 1.0, size: 1.0, point: 1.0 },
    normalization: Normalization {
        order: ChannelOrder::Rgb,
        mean: [127.5; 3],
        scale: 1.0 / 128.0,
        padding: Padding::Black,
    },
    // The feature pyramid adds upsampled levels, whose sizes must match.
    size_multiple: 32,
};

/// Six outputs: the layout without landmarks.
pub(crate) const SCRFD_BOXES: Family = Family {
    name: "SCRFD without keypoints",
    signature: "[A, 1] and [A, 4] at each stride, with two anchors per cell",
    landmarks: false,
    ..SCRFD
};
