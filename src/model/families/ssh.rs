//! SSH (Single Stage Headless face detector), the predecessor of RetinaFace, as exported by
//! InsightFace.
//!
//! Sources: Najibi et al., "SSH: Single Stage Headless Face Detector", ICCV 2017;
//! deepinsight/mxnet-SSH.

use super::super::layout::Family;
use super::insightface::INSIGHTFACE;

/// Six outputs, two per stride: the layout of InsightFace's RetinaFace without landmarks.
///
/// Models with the original mean need the overrides `mean` and `color-order`, see
/// [`crate::model::Overrides`].
pub(crate) const SSH: Family = Family {
    name: "SSH",
    signature: "[4, H, W] and [8, H, W] at each stride, with two anchors per cell and without landmarks",
    landmarks: false,
    ..INSIGHTFACE
};
