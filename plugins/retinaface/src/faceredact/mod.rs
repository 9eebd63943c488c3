//! Covers the faces of a frame, and the whole frame if its known faces may be incomplete.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface score-threshold=0.2 ! facetrack score-threshold=0.2 ! faceredact lookahead=10 ! videoconvert ! x264enc ! mp4mux ! filesink location=out.mp4
//! ```

use gst::glib;
use gst::prelude::*;

mod cover;
mod delayed;
mod imp;
mod settings;

glib::wrapper! {
    /// The element `faceredact`.
    pub(crate) struct FaceRedact(ObjectSubclass<imp::FaceRedact>)
        @extends gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "faceredact", gst::Rank::NONE, FaceRedact::static_type())
}
