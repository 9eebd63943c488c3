//! RetinaFace as InsightFace publishes it for MXNet (mnet.25, R50, R152): deepinsight/insightface,
//! `detection/retinaface/retinaface.py` and `rcnn/processing/`.

use super::{Centre, Family};
use crate::layout::{Arrangement, Boxes, Scores, Variances};
use crate::preprocess::{ChannelOrder, Normalization, Padding};

/// Nine outputs, three a stride.
pub const INSIGHTFACE: Family = Family {
    name: "RetinaFace (InsightFace)",
    sign: "planes of 4, 8 and 20 channels at each stride: two anchors a cell",
    arrangement: Arrangement::Planes,
    scores: Scores::Pairs,
    boxes: Boxes::CentreSizeInclusive,
    landmarks: true,
    levels: &[(8, &[32.0, 16.0]), (16, &[128.0, 64.0]), (32, &[512.0, 256.0])],
    // The middle of its base anchor, whose sixteen pixels are numbered from 0.
    centre: Centre::Pixels(7.5),
    variances: Variances { centre: 1.0, size: 1.0, point: 1.0 },
    normalization: Normalization { order: ChannelOrder::Rgb, mean: [0.0; 3], scale: 1.0, padding: Padding::Black },
    multiple: 1,
};
