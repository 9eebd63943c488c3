//! GStreamer elements that detect, align, draw and publish faces.
//!
//! | element | does |
//! |---|---|
//! | `retinaface` | detects faces and attaches them to the buffer |
//! | `facelandmarks` | a landmark model's points for each face |
//! | `facealign` | every face as an aligned crop of its own |
//! | `facemetaoverlay` | draws boxes, landmarks, scores and ids |
//! | `facemetapublish` | one JSON line a frame |
//!
//! [`meta`] is how other Rust code reads the faces and the crops' origins.

#![allow(missing_docs, reason = "plugin_define! makes public items without")]

use gst::glib;

mod caps;
mod engines;
mod facealign;
mod facelandmarks;
mod facemetaoverlay;
mod facemetapublish;
mod frame;
mod latency;
mod lock;
pub mod meta;
mod model_settings;
mod retinaface;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    meta::register();
    retinaface::register(plugin)?;
    facealign::register(plugin)?;
    facelandmarks::register(plugin)?;
    facemetaoverlay::register(plugin)?;
    facemetapublish::register(plugin)
}

gst::plugin_define!(
    retinaface,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    // GStreamer's word for "several licences, among them MIT or Apache-2.0".
    "MIT/X11",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("BUILD_REL_DATE")
);
