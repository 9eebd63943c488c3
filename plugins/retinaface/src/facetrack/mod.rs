//! Gives each face an id that is constant across frames, and predicts faces between inferences.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface inference-interval=5 ! facetrack ! facemetaoverlay ! videoconvert ! autovideosink
//! ```
//!
//! It reads and writes metadata only. Pixels are neither mapped nor copied.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// The element `facetrack`.
    pub(crate) struct FaceTrack(ObjectSubclass<imp::FaceTrack>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "facetrack", gst::Rank::NONE, FaceTrack::static_type())
}
