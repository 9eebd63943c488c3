//! The caps that all elements accept, and the error for other caps.

use std::sync::{LazyLock, Mutex};

use gst::prelude::*;
use retinaface::image::PixelFormat;

use super::sync::lock;

/// Range of a frame's width and height, in pixels.
const SIDE: std::ops::RangeInclusive<i32> = 16..=16384;

/// Names of the caps features of memory.
const SYSTEM_MEMORY: &str = "memory:SystemMemory";
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

/// Refuses caps that `element` does not take, and makes it post an error with the remedy.
/// Otherwise upstream would report no more than "not negotiated".
///
/// The caps are known from the query that GStreamer sends before it delivers a CAPS event. Behind a
/// ghost pad, such as that of `decodebin`, or a `queue` the event itself never arrives, because the
/// query is forwarded from there. Only a stream that has these caps is an error: elements that try
/// several candidates send the same query before they link or activate one.
pub(crate) fn report_unsupported_caps(element: &impl IsA<gst::Element>, sink: &gst::Pad) {
    let element = element.as_ref().downgrade();
    // The query is repeated on the way of an event.
    let reported = Mutex::new(None::<gst::Caps>);
    sink.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::PUSH, move |sink, info| {
        let Some(gst::QueryViewMut::AcceptCaps(query)) = info.query_mut().map(gst::QueryRef::view_mut) else {
            return gst::PadProbeReturn::Ok;
        };
        let caps = query.caps_owned();
        let Some(refusal) = refusal(&caps, &sink.pad_template_caps()) else {
            *lock(&reported) = None;
            return gst::PadProbeReturn::Ok;
        };
        query.set_result(false);
        if sink.is_active() && sink.peer().is_some_and(|peer| has_caps(&peer, &caps)) {
            let is_new = lock(&reported).replace(caps.clone()).as_ref() != Some(&caps);
            if let Some(element) = element.upgrade().filter(|_| is_new) {
                post_error(&element, &caps, refusal);
            }
        }
        gst::PadProbeReturn::Handled
    });
}

/// Whether the stream that leaves `source` has these caps: the source pad where it comes from has
/// sent them. Follows ghost pads and elements that do not change caps.
fn has_caps(source: &gst::Pad, caps: &gst::Caps) -> bool {
    if source.current_caps().as_ref() == Some(caps) {
        return true;
    }
    let before = |sink: gst::Pad| sink.peer().is_some_and(|peer| has_caps(&peer, caps));
    if let Some(ghost) = source.downcast_ref::<gst::ProxyPad>() {
        return ghost.internal().is_some_and(|internal| before(internal.upcast()));
    }
    // A converter asks downstream whether it takes its own input caps; that is no error.
    let passes = |sink: &gst::Pad| {
        sink.pad_flags().contains(gst::PadFlags::PROXY_CAPS)
            || sink.pad_template_caps().is_any() && source.pad_template_caps().is_any()
    };
    source.iterate_internal_links().into_iter().flatten().any(|sink| passes(&sink) && before(sink))
}

/// Why caps are refused, and the remedy.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    reason: String,
    remedy: &'static str,
}

/// Why fixed caps do not fit the caps of a pad template; `None` if they do.
fn refusal(caps: &gst::CapsRef, template: &gst::CapsRef) -> Option<Refusal> {
    let refusal = |reason: &str, remedy| Some(Refusal { reason: reason.to_owned(), remedy });
    let structure = caps.structure(0)?;
    let interlace_mode = structure.get::<&str>("interlace-mode").unwrap_or("progressive");
    // Caps without a field for it accept all interlace modes.
    let separate_fields = "the fields of a frame are separate";
    match interlace_mode {
        "alternate" => {
            return refusal(separate_fields, "put `interlace ! video/x-raw,interlace-mode=interleaved` before it");
        }
        // No element of GStreamer weaves them.
        "fields" => return refusal(separate_fields, "set its source or decoder to interleaved frames"),
        _ => {}
    }
    if caps.can_intersect(template) {
        return None;
    }
    match structure.name().as_str() {
        "video/x-raw" => {}
        "video/x-bayer" => return refusal("Bayer patterns are not RGB", "put `bayer2rgb` before it"),
        _ => return refusal("it is not raw video", "put a decoder, for example `decodebin`, before it"),
    }
    let features = caps.features(0).map(ToString::to_string).unwrap_or_default();
    let download = match features.as_str() {
        "" | SYSTEM_MEMORY => None,
        CUDA_MEMORY => Some("put `cudadownload` before it"),
        "memory:GLMemory" => Some("put `gldownload` before it"),
        "memory:VAMemory" | "memory:DMABuf" => Some(
            "put `vapostproc`, or `video/x-raw` as the caps of the source, before it, so that the frames are in system memory",
        ),
        _ => Some("put the download element of this memory before it"),
    };
    if let Some(remedy) = download {
        let is_cuda = features == CUDA_MEMORY && template.to_string().contains(CUDA_MEMORY);
        let what = if is_cuda {
            "this format in CUDA memory needs a conversion"
        } else {
            "the frames are not in system memory"
        };
        return refusal(what, remedy);
    }
    let format = structure.get::<&str>("format").unwrap_or("unknown");
    if PixelFormat::from_name(format).is_none() {
        return Some(Refusal {
            reason: format!("format {format} is not supported"),
            remedy: "put `videoconvert` before it",
        });
    }
    let side = |name| structure.get::<i32>(name).unwrap_or_default();
    let (width, height) = (side("width"), side("height"));
    let (from, to) = (*SIDE.start(), *SIDE.end());
    Some(Refusal {
        reason: format!("{width}x{height} is outside of {from}x{from} to {to}x{to}"),
        remedy: "put `videoscale` with a capsfilter of another size before it",
    })
}

fn post_error(element: &gst::Element, caps: &gst::CapsRef, Refusal { reason, remedy }: Refusal) {
    let formats = PixelFormat::ALL.map(PixelFormat::name).join(", ");
    let name = element.name();
    gst::element_error!(
        element,
        gst::StreamError::Format,
        ("{name} cannot take {caps}: {reason}; {remedy}"),
        [
            "it accepts raw video in system memory with a width and height of {} to {} pixels, as {formats}",
            SIDE.start(),
            SIDE.end()
        ]
    );
}
