//! GStreamer elements that detect, align, draw and publish faces.
//!
//! | element | what it does |
//! |---|---|
//! | `retinaface` | detects faces and attaches them to the buffer |
//! | `facetrack` | gives each face an id across frames, and predicts faces between inferences |
//! | `facelandmarks` | adds the points of a landmark model to each face |
//! | `facealign` | outputs each face as an aligned crop |
//! | `facemetaoverlay` | draws boxes, landmarks, scores and ids |
//! | `faceredact` | covers faces, and the whole frame if its known faces may be incomplete |
//! | `facemetapublish` | writes one JSON line per frame, and one per event of a track |
//!
//! Other Rust programs read the metadata with the crate [`face_meta`].

#![allow(missing_docs, reason = "plugin_define! makes public items without documentation")]

use gst::glib;

mod common;
mod facealign;
mod facelandmarks;
mod facemetaoverlay;
mod facemetapublish;
mod faceredact;
mod facetrack;
mod retinaface;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    common::logging::init();
    face_meta::register();
    retinaface::register(plugin)?;
    facealign::register(plugin)?;
    facelandmarks::register(plugin)?;
    facetrack::register(plugin)?;
    faceredact::register(plugin)?;
    facemetaoverlay::register(plugin)?;
    facemetapublish::register(plugin)
}

gst::plugin_define!(
    retinaface,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    // GStreamer has no name for "MIT or Apache-2.0".
    "MIT/X11",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("BUILD_REL_DATE")
);
