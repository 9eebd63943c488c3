//! Adds the points of a landmark model to each face: 68, 98, 106 or any other number.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface ! facelandmarks model-file=landmarks.onnx ! facemetaoverlay \
//!   ! videoconvert ! autovideosink
//! ```
//!
//! The model receives a crop of each face, rotated upright by the five landmarks. The crops of a
//! frame share runs, also with those of other streams on the same model. The points, in frame
//! pixels, are added to the face. The five landmarks stay, unless `refine-landmarks` replaces them
//! by those that follow from the points: `facealign` then aligns by them. What the model needs and
//! what its output means is detected when it is opened; `model-options` overrides it.
//!
//! Threads, frames in flight and the LATENCY query are as in `retinaface`.

use gst::glib;
use gst::prelude::*;

mod imp;
mod settings;

glib::wrapper! {
    /// The element `facelandmarks`.
    pub(crate) struct FaceLandmarks(ObjectSubclass<imp::FaceLandmarks>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    settings::Crop::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(Some(plugin), "facelandmarks", gst::Rank::NONE, FaceLandmarks::static_type())
}
