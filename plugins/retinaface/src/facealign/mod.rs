//! Outputs each face as an aligned crop in a buffer of its own.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface ! facealign ! pngenc ! multifilesink location=%06d.png
//! ```
//!
//! A crop is one bilinear warp from the full-resolution frame by the similarity transform that maps
//! the five landmarks to the ArcFace template, as InsightFace's `norm_crop` does. It has the
//! frame's timestamp and a meta with its origin and the transforms in both directions, see
//! [`face_meta::CropOrigin`]. A frame without crops becomes a GAP event, so that sinks do not wait.
//! Encoders keep each GAP event until the next crop: if faces are rare, set `gap-interval`.

use gst::glib;
use gst::prelude::*;

mod imp;
mod negotiation;

glib::wrapper! {
    /// The element `facealign`.
    pub(crate) struct FaceAlign(ObjectSubclass<imp::FaceAlign>) @extends gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "facealign", gst::Rank::NONE, FaceAlign::static_type())
}
