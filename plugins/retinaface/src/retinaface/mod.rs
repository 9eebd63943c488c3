//! Detects faces and attaches them to the buffer.
//!
//! ```sh
//! gst-launch-1.0 filesrc location=in.mp4 ! decodebin ! videoflip video-direction=auto ! retinaface ! facemetapublish ! fakesink
//! ```
//!
//! # Views
//! By default detection runs once on each frame, at the size of `input-size`. `scales`, `flip`,
//! `tiles` and `roi` add further views or replace the whole frame; `merge` says how their faces are
//! merged. All views of a frame are submitted to the model at once.
//!
//! # Threads and latency
//! The streaming thread converts the frame to a tensor. The model runs on the threads of an engine,
//! which elements with the same model and the same options share. In `mode=sync` each frame waits
//! for its own faces: for a live source on the streaming thread, else (`inflight` of 2 and more) on
//! a thread that pushes each frame in order as soon as its faces are there, while the next frame is
//! converted. In `mode=latest` no frame waits: a background thread analyses the newest frame, and
//! each frame gets the newest known faces, with their age.
//!
//! The element answers the LATENCY query with its `batch-timeout` (if `batch-size` makes it wait)
//! plus the 95th percentile of its processing time, with zero in `mode=latest`, and announces
//! changes.
//!
//! # Messages
//! Element messages: `retinaface-provider` at start (`provider`, `device`, `library`, `notes`),
//! `retinaface-stats` every `stats-interval`. Progress messages with the code `retinaface-engine`
//! while a provider builds an engine.
//!
//! # Metadata
//! Each face is a `GstVideoRegionOfInterestMeta` of type `face` and an entry of a custom meta, see
//! the crate [`face_meta`]. The element maps pixels for reading only and never copies them.

use gst::glib;
use gst::prelude::*;

mod imp;
mod regions;
mod settings;
mod stats;

use settings::{Merge, Mode, Preprocessing};

use crate::common::model_properties::{ExecutionProvider, Precision};

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
