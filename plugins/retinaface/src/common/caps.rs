//! The caps that all elements accept, and the error for other caps.

use std::sync::LazyLock;

use gst::prelude::*;
use retinaface::image::PixelFormat;

/// Range of a frame's width and height, in pixels.
const SIDE: std::ops::RangeInclusive<i32> = 16..=16384;

/// Names of the caps features of memory.
const SYSTEM_MEMORY: &str = "memory:SystemMemory";
#[cfg(feature = "cuda-memory")]
const CUDA_MEMORY: &str = "memory:CUDAMemory";

static CAPS: LazyLock<gst::Caps> = LazyLock::new(|| caps_of(PixelFormat::ALL));

/// Raw video in system memory in these formats. Formats that the running GStreamer does not know
/// are harmless.
fn caps_of(formats: impl IntoIterator<Item = PixelFormat>) -> gst::Caps {
    let (from, to) = (*SIDE.start(), *SIDE.end());
    gst_video::VideoCapsBuilder::new()
        .width_range(from..=to)
        .height_range(from..=to)
        .field("format", gst::List::new(formats.into_iter().map(PixelFormat::name)))
        .build()
}

/// Raw video in system memory in the accepted formats.
pub(crate) fn frame_caps() -> &'static gst::Caps {
    &CAPS
}

/// An always pad of [`frame_caps`].
pub(crate) fn frame_pad(name: &str, direction: gst::PadDirection) -> gst::PadTemplate {
    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, frame_caps())
        .expect("the caps and the name are constants")
}

/// A pad that also accepts frames in CUDA memory. They stay there, so that only formats that need
/// no conversion are accepted.
#[cfg(feature = "cuda-memory")]
pub(crate) fn detector_pad(name: &str, direction: gst::PadDirection) -> gst::PadTemplate {
    let mut caps = frame_caps().copy();
    let mut on_gpu = caps_of(PixelFormat::ALL.into_iter().filter(|format| format.is_direct()));
    let features = gst::CapsFeatures::new([CUDA_MEMORY]);
    on_gpu.make_mut().set_features_simple(Some(features));
    caps.make_mut().append(on_gpu);
    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
        .expect("the caps and the name are constants")
}

#[cfg(not(feature = "cuda-memory"))]
pub(crate) use frame_pad as detector_pad;

/// Whether the frames are in system memory.
pub(crate) fn is_in_system_memory(caps: &gst::CapsRef) -> bool {
    caps.features(0).is_none_or(|features| features.contains(SYSTEM_MEMORY))
}

/// Makes `element` post an error if its sink pad receives caps that it does not support. GStreamer
/// refuses them before it asks the element, and upstream reports no more than "not negotiated".
pub(crate) fn report_unsupported_caps(element: &impl IsA<gst::Element>, sink: &gst::Pad) {
    let element = element.as_ref().downgrade();
    sink.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::Caps(event)) = info.event().map(|event| event.view())
            && let Some(element) = element.upgrade()
            && element.static_pad("sink").is_some_and(|sink| !event.caps().can_intersect(&sink.pad_template_caps()))
        {
            post_error(&element, event.caps());
        }
        gst::PadProbeReturn::Ok
    });
}

fn post_error(element: &gst::Element, caps: &gst::CapsRef) {
    let formats = PixelFormat::ALL.map(PixelFormat::name).join(", ");
    let name = element.name();
    gst::element_error!(
        element,
        gst::StreamError::Format,
        ("{name} cannot take {caps}"),
        [
            "it accepts raw video in system memory with a width and height of {} to {} pixels, as {formats}; put \
             `videoconvert` (for GPU memory its download element) before it",
            SIDE.start(),
            SIDE.end()
        ]
    );
}
