//! RetinaFace as trained and exported by biubug6/Pytorch_Retinaface (mnet0.25, ResNet50).
//!
//! Source: biubug6/Pytorch_Retinaface, `data/config.py`, `utils/box_utils.py` and
//! `data/data_augment.py` (`rgb_means`).

use super::super::input::{ChannelOrder, Normalization, Padding};
use super::super::layout::{AnchorCentre, Arrangement, Boxes, Family, Scores, Variances};

/// Three outputs, in any order, with or without a softmax.
pub(crate) const RETINAFACE: Family = Family {
    name: "RetinaFace (biubug6)",
    signature: "[A, 2], [A, 4] and [A, 10] for all strides, with two anchors per cell",
    arrangement: Arrangement::Concatenated,
    scores: Scores::Pairs,
    boxes: Boxes::CentreSize,
    landmarks: true,
    levels: &[(8, &[16.0, 32.0]), (16, &[64.0, 128.0]), (32, &[256.0, 512.0])],
    anchor_centre: AnchorCentre::CellCentre,
    variances: Variances { centre: 0.1, size: 0.2, point: 0.1 },
    normalization: Normalization {
        order: ChannelOrder::Bgr,
        mean: [104.0, 117.0, 123.0],
        scale: 1.0,
        padding: Padding::Mean,
    },
    size_multiple: 1,
};
