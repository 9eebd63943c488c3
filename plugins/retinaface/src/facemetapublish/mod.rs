//! Writes one JSON line per frame to a file, a named pipe or standard output. Frames pass
//! unchanged.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface ! facemetapublish location=faces.jsonl ! fakesink
//! ```
//!
//! A line is written as soon as its frame passes, so that a pipeline that is killed loses at most
//! the last line. The schema is in `assets/retinaface.frame-1.schema.json`.

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
