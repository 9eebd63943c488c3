//! RetinaFace as published by InsightFace for MXNet (mnet.25, R50, R152).
//!
//! Source: deepinsight/insightface, `detection/retinaface/retinaface.py` and `rcnn/processing/`.

use super::super::input::{ChannelOrder, Normalization, Padding};
use super::super::layout::{AnchorCentre, Arrangement, Boxes, Family, Scores, Variances};

/// Nine outputs, three per stride.
pub(crate) const INSIGHTFACE: Family = Family {
    name: "RetinaFace (InsightFace)",
    signature: "[4, H, W], [8, H, W] and [20, H, W] at each stride, with two anchors per cell",
    arrangement: Arrangement::Nchw,
    scores: Scores::Pairs,
    boxes: Boxes::CentreSizeInclusive,
    landmarks: true,
    levels: &[(8, &[32.0, 16.0]), (16, &[128.0, 64.0]), (32, &[512.0, 256.0])],
    // The centre of the base anchor of `generate_anchor.py`, whose 16 pixels are numbered 0 to 15.
    anchor_centre: AnchorCentre::Pixels(7.5),
    variances: Variances { centre: 1.0, size: 1.0, point: 1.0 },
    normalization: Normalization { order: ChannelOrder::Rgb, mean: [0.0; 3], scale: 1.0, padding: Padding::Black },
    size_multiple: 1,
};

#[cfg(test)]
mod tests {
    use super::super::super::priors::Prior;
    use super::*;

    #[test]
    fn the_priors_match_generate_anchors() {
        // generate_anchors(base_size=16, scales=[2, 1]) at stride 8:
        // [-8, -8, 23, 23] and [0, 0, 15, 15].
        let priors = INSIGHTFACE.layout().priors(64, 64);
        assert_eq!(priors[0], Prior { cx: 7.5, cy: 7.5, size: 32.0 });
        assert_eq!(priors[1], Prior { cx: 7.5, cy: 7.5, size: 16.0 });
        assert_eq!(priors[2], Prior { cx: 15.5, cy: 7.5, size: 32.0 });
    }
}
