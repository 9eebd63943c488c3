//! One JSON line a frame, to a file or to standard output. Frames pass untouched.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface ! facemetapublish location=faces.jsonl ! fakesink
//! ```
//!
//! A line is written with one call as soon as its frame passes; a pipeline that is killed loses at most
//! the line in flight. The schema is in `assets/retinaface.frame-1.schema.json`.

use gst::glib;
use gst::prelude::*;

mod imp;
mod sink;

glib::wrapper! {
    /// The element `facemetapublish`.
    pub(crate) struct FaceMetaPublish(ObjectSubclass<imp::FaceMetaPublish>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "facemetapublish", gst::Rank::NONE, FaceMetaPublish::static_type())
}
