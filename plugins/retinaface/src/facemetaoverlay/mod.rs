//! Draws the faces that a frame carries.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface ! facemetaoverlay ! videoconvert ! autovideosink
//! ```
//!
//! It draws in the frame's own format. Frames without faces pass unchanged and are not copied.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// The element `facemetaoverlay`.
    pub(crate) struct FaceMetaOverlay(ObjectSubclass<imp::FaceMetaOverlay>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "facemetaoverlay", gst::Rank::NONE, FaceMetaOverlay::static_type())
}
