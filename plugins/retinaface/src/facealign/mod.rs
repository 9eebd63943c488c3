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
//!
//! With `best-shot`, a track that `facetrack` follows has its best crop only:
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface ! facetrack ! facealign best-shot=true ! pngenc ! multifilesink location=%06d.png
//! ```

use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;

mod best_shot;
mod cropper;
mod gap;
mod imp;
mod negotiation;
mod settings;

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("facealign", gst::DebugColorFlags::empty(), Some("Alignment of faces")));

glib::wrapper! {
    /// The element `facealign`.
    pub(crate) struct FaceAlign(ObjectSubclass<imp::FaceAlign>) @extends gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "facealign", gst::Rank::NONE, FaceAlign::static_type())
}
