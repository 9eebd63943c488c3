//! A warning for video that is stored rotated: phones write how to rotate it into a tag.
//!
//! The detector uses it. Elements after it follow the landmarks of the faces in any direction.

use std::sync::Mutex;

use gst::glib::{EnumValue, ParamFlags};
use gst::prelude::*;

use super::sync::lock;

/// Elements that are searched upstream for one that rotates.
const MAX_ELEMENTS: usize = 200;

/// The orientation of the stream of a sink pad.
#[derive(Default)]
pub(crate) struct Orientation(Mutex<State>);

#[derive(Default)]
struct State {
    /// Tag `image-orientation` of this stream, and of the whole source. The former takes precedence.
    stream: Option<String>,
    global: Option<String>,
    /// Since the last frame a tag or the stream has changed.
    changed: bool,
    warned: bool,
}

impl Orientation {
    /// Forgets everything. Called from `start`.
    pub(crate) fn reset(&self) {
        *lock(&self.0) = State::default();
    }

    /// Observes an event of the sink pad.
    pub(crate) fn event(&self, event: &gst::EventRef) {
        match event.view() {
            gst::EventView::StreamStart(_) => {
                let mut state = lock(&self.0);
                *state = State { warned: state.warned, ..State::default() };
            }
            gst::EventView::Tag(event) => {
                let Some(orientation) = event.tag().get::<gst::tags::ImageOrientation>() else { return };
                let orientation = Some(orientation.get().to_owned());
                let mut state = lock(&self.0);
                match event.tag().scope() {
                    gst::TagScope::Global => state.global = orientation,
                    _ => state.stream = orientation,
                }
                state.changed = true;
            }
            _ => {}
        }
    }

    /// Called before each frame, when all tags of the stream have arrived. Posts a warning, once,
    /// if the frame is rotated and no element upstream has rotated it.
    pub(crate) fn before_frame(&self, element: &gst::Element, sink: &gst::Pad) {
        let orientation = {
            let mut state = lock(&self.0);
            if !std::mem::take(&mut state.changed) || state.warned {
                return;
            }
            let tag = state.stream.as_ref().or(state.global.as_ref());
            let Some(orientation) = tag.filter(|tag| *tag != "rotate-0").cloned() else { return };
            state.warned = true;
            orientation
        };
        if is_rotated_upstream(sink) {
            // A later stream may come from another source.
            lock(&self.0).warned = false;
            return;
        }
        let name = element.name();
        gst::element_warning!(
            element,
            gst::StreamError::Format,
            ("The video is stored rotated (image-orientation: {orientation}), and {name} misses rotated faces; put \
                 `videoflip video-direction=auto` before {name}")
        );
    }
}

/// Whether an element upstream rotates or flips the video. The tag does not tell: `videoflip` of
/// GStreamer 1.22 keeps it.
fn is_rotated_upstream(sink: &gst::Pad) -> bool {
    let mut sinks = vec![sink.clone()];
    for _ in 0..MAX_ELEMENTS {
        let Some(mut pad) = sinks.pop().map(|sink| sink.peer()) else { return false };
        // Into a bin.
        while let Some(target) =
            pad.as_ref().and_then(|pad| pad.downcast_ref::<gst::GhostPad>()).map(|ghost| ghost.target())
        {
            pad = target;
        }
        let Some(pad) = pad else { continue };
        if let Some(ghost) = pad.parent().and_downcast::<gst::GhostPad>() {
            // Out of a bin: the inner side of its sink pad.
            sinks.push(ghost.upcast());
        } else if let Some(element) = pad.parent_element() {
            if rotates(&element) {
                return true;
            }
            sinks.extend(element.sink_pads());
        }
    }
    false
}

/// Whether an element is set to rotate or flip: `video-direction` of the interface
/// `GstVideoDirection`, `flip-method` of NVIDIA's elements.
fn rotates(element: &gst::Element) -> bool {
    ["video-direction", "flip-method"].into_iter().any(|name| {
        element.find_property(name).is_some_and(|property| property.flags().contains(ParamFlags::READABLE)) && {
            let value = element.property_value(name);
            // 0 is the identity in both.
            EnumValue::from_value(&value).is_some_and(|(_, value)| value.value() != 0)
        }
    })
}
