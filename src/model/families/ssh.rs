//! SSH, the single stage headless detector that RetinaFace came from: Najibi et al., "SSH: Single Stage Headless Face
//! Detector", ICCV 2017, in the form that InsightFace's tools export (deepinsight/mxnet-SSH).

use super::{Family, INSIGHTFACE};

/// Six outputs, two a stride: InsightFace's without landmarks. Models that keep the original's means need `mean` and
/// `color-order`, see [`crate::overrides`].
pub const SSH: Family = Family {
    name: "SSH",
    sign: "planes of 4 and 8 channels at each stride, and none of landmarks: two anchors a cell",
    landmarks: false,
    ..INSIGHTFACE
};
