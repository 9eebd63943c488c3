//! The caps that all elements accept, and the error for other caps.

use std::sync::LazyLock;

use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::image::PixelFormat;

/// The accepted formats in the order of preference, with their names in the library.
pub(crate) const FORMATS: [(VideoFormat, PixelFormat); 9] = [
    (VideoFormat::Nv12, PixelFormat::Nv12),
    (VideoFormat::I420, PixelFormat::I420),
    (VideoFormat::Rgb, PixelFormat::Rgb),
    (VideoFormat::Bgr, PixelFormat::Bgr),
    (VideoFormat::Rgbx, PixelFormat::Rgbx),
    (VideoFormat::Bgrx, PixelFormat::Bgrx),
    (VideoFormat::Rgba, PixelFormat::Rgba),
    (VideoFormat::Bgra, PixelFormat::Bgra),
    (VideoFormat::Gray8, PixelFormat::Gray8),
];

/// Range of a frame's width and height, in pixels.
const SIDE: std::ops::RangeInclusive<i32> = 16..=16384;

static CAPS: LazyLock<gst::Caps> = LazyLock::new(|| {
    let (from, to) = (*SIDE.start(), *SIDE.end());
    let formats = FORMATS.map(|(format, _)| format);
    gst_video::VideoCapsBuilder::new().format_list(formats).width_range(from..=to).height_range(from..=to).build()
});

/// Raw video in system memory in the accepted formats.
pub(crate) fn frame_caps() -> &'static gst::Caps {
    &CAPS
}

/// An always pad of [`frame_caps`].
pub(crate) fn frame_pad(name: &str, direction: gst::PadDirection) -> gst::PadTemplate {
    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, frame_caps())
        .expect("the caps and the name are constants")
}

/// A pad that also accepts frames in CUDA memory.
#[cfg(feature = "cuda-memory")]
pub(crate) fn detector_pad(name: &str, direction: gst::PadDirection) -> gst::PadTemplate {
    let mut caps = frame_caps().copy();
    let mut on_gpu = frame_caps().copy();
    let features = gst::CapsFeatures::new([CUDA_MEMORY]);
    on_gpu.make_mut().set_features_simple(Some(features));
    caps.make_mut().append(on_gpu);
    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
        .expect("the caps and the name are constants")
}

#[cfg(not(feature = "cuda-memory"))]
pub(crate) use frame_pad as detector_pad;

/// The caps feature of frames in CUDA memory.
#[cfg(feature = "cuda-memory")]
const CUDA_MEMORY: &str = "memory:CUDAMemory";

/// Whether the frames are in system memory.
pub(crate) fn is_in_system_memory(caps: &gst::CapsRef) -> bool {
    caps.features(0).is_none_or(|features| features.contains("memory:SystemMemory"))
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
    let formats = FORMATS.map(|(format, _)| format.to_str().to_string()).join(", ");
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
