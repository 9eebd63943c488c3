//! Detects faces and attaches them to the buffer.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! retinaface ! facemetapublish ! fakesink
//! ```
//!
//! # Looks
//! A frame is looked at once, at the size that `input-size` says; `scales`, `flip`, `tiles` and `roi` add looks or put others
//! in its place, and `merge` says how what they find comes together. All looks of a frame are handed to the model at once.
//!
//! # Threads and time
//! The frame is turned into a tensor on the stream's own thread; the model runs on the threads of an engine that elements
//! share which ask for the same model, run in the same way. In `mode=sync` each frame waits for its own faces: of a live
//! source on the stream's thread, else (`inflight` of 2 and more) on a thread that pushes each frame in its turn as soon as
//! it has them, so that the next one is made ready meanwhile. In `mode=latest` no frame waits: a thread in the background
//! looks at the newest one, and each frame that passes gets the newest faces that are known, with their age.
//!
//! The element answers the LATENCY query with its `batch-timeout` (where `batch-size` makes it wait) and the 95th percentile
//! of the time that it needs for a frame, nothing in `mode=latest`, and announces when that changes.
//!
//! # Messages
//! Element messages: `retinaface-provider` at start (`provider`, `library`, `notes`), `retinaface-stats` every
//! `stats-interval`. Progress messages of code `retinaface-engine` while a provider builds for minutes.
//!
//! # Metadata
//! Each face is a `GstVideoRegionOfInterestMeta` of type `face` and an entry of a custom meta, see
//! [`crate::meta`]. Pixels are mapped for reading only and never copied.

use gst::glib;
use gst::prelude::*;

mod imp;
mod inflight;
mod latest;
mod settings;
mod stats;

use settings::{Merge, Mode, Preprocessing};

use crate::model_settings::{ExecutionProvider, Precision};

glib::wrapper! {
    /// The element `retinaface`.
    pub(crate) struct RetinaFace(ObjectSubclass<imp::RetinaFace>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    for kind in [
        ExecutionProvider::static_type(),
        Merge::static_type(),
        Mode::static_type(),
        Precision::static_type(),
        Preprocessing::static_type(),
    ] {
        kind.mark_as_plugin_api(gst::PluginAPIFlags::empty());
    }
    gst::Element::register(Some(plugin), "retinaface", gst::Rank::NONE, RetinaFace::static_type())
}
