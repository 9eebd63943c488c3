//! The elements of this project, by name through the GStreamer registry.

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::args::{ModelArgs, program_directory};

/// Initialises GStreamer. Fails unless the registry, or a plugin near this program, has all of these
/// elements of the project.
pub(crate) fn require(names: &[&str]) -> anyhow::Result<()> {
    gst::init().context("cannot initialise GStreamer")?;
    if let Some(directory) = program_directory() {
        for plugins in ["../lib/gstreamer-1.0", "../plugins"] {
            gst::Registry::get().scan_path(directory.join(plugins));
        }
    }
    for name in names {
        ensure!(
            gst::ElementFactory::find(name).is_some(),
            "GStreamer has no element {name}: run `. ./env.sh` in the project's directory, or set GST_PLUGIN_PATH to the \
             directory of libgstretinaface.so"
        );
    }
    Ok(())
}

/// The element `retinaface` with a model, and with the properties that say how it is run.
pub(crate) fn retinaface<'a>(model: &'a Path, model_args: &'a ModelArgs) -> gst::element_factory::ElementBuilder<'a> {
    let ModelArgs { execution_provider, device_id, precision, kernels, allow_cpu_fallback, threads, .. } = model_args;
    gst::ElementFactory::make("retinaface")
        .property("model-file", model)
        .property("threads", *threads as u32)
        .property("device-id", *device_id)
        .property("allow-cpu-fallback", *allow_cpu_fallback)
        .property("model-options", model_args.overrides().to_string())
        .property_from_str("execution-provider", execution_provider.name())
        .property_from_str("precision", precision.name())
        .property_from_str("kernels", kernels.name())
}
