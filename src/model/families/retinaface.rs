//! RetinaFace as biubug6/Pytorch_Retinaface trains and exports it (mnet0.25, ResNet50): `data/config.py`,
//! `utils/box_utils.py`, `data/data_augment.py` (`rgb_means`).

use super::{Centre, Family};
use crate::layout::{Arrangement, Boxes, Scores, Variances};
use crate::preprocess::{ChannelOrder, Normalization, Padding};

/// Three outputs, in any order, with or without their softmax.
pub const RETINAFACE: Family = Family {
    name: "RetinaFace (biubug6)",
    sign: "rows of 2, 4 and 10 numbers an anchor, all strides together: two anchors a cell",
    arrangement: Arrangement::Together,
    scores: Scores::Pairs,
    boxes: Boxes::CentreSize,
    landmarks: true,
    levels: &[(8, &[16.0, 32.0]), (16, &[64.0, 128.0]), (32, &[256.0, 512.0])],
    centre: Centre::OfCell,
    variances: Variances { centre: 0.1, size: 0.2, point: 0.1 },
    normalization: Normalization {
        order: ChannelOrder::Bgr,
        mean: [104.0, 117.0, 123.0],
        scale: 1.0,
        padding: Padding::Mean,
    },
    multiple: 1,
};
