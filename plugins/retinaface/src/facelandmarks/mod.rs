//! A landmark model's points for each face: 68, 98, 106, any number.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface ! facelandmarks model-file=landmarks.onnx ! facemetaoverlay \
//!   ! videoconvert ! autovideosink
//! ```
//!
//! The model is shown a crop of each face that is upright by its five landmarks; crops of all faces, and of other streams
//! whose elements have the same model, share runs. Its points, in pixels of the frame, are added to the face; the five stay,
//! unless `refine-landmarks` puts those in their place that follow from the points: `facealign` then aligns by them.
//! What the model wants and what its numbers mean is recognised when it is opened; `model-options` says otherwise.

use gst::glib;
use gst::prelude::*;

mod imp;

glib::wrapper! {
    /// The element `facelandmarks`.
    pub(crate) struct FaceLandmarks(ObjectSubclass<imp::FaceLandmarks>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    imp::Crop::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(Some(plugin), "facelandmarks", gst::Rank::NONE, FaceLandmarks::static_type())
}
