//! Every face as an aligned crop, a buffer of its own.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface ! facealign ! pngenc ! multifilesink location=%06d.png
//! ```
//!
//! A crop is one bilinear warp from the full-resolution frame by the similarity transform that brings
//! the five landmarks to the ArcFace template: InsightFace's `norm_crop`. It has the frame's time, and
//! a meta that says where it comes from and how to map points both ways, see [`crate::meta::CropOrigin`].
//! A frame without a face that is wanted becomes a GAP event, so that sinks do not wait. Encoders behind keep every
//! one until the next crop: where faces are rare, `gap-interval` makes one of many.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// The element `facealign`.
    pub(crate) struct FaceAlign(ObjectSubclass<imp::FaceAlign>) @extends gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "facealign", gst::Rank::NONE, FaceAlign::static_type())
}
