//! Face metadata on GStreamer buffers. Only this crate reads or writes it.
//!
//! A face consists of two metas on a buffer. A `GstVideoRegionOfInterestMeta` of type [`ROI_TYPE`]
//! holds its rectangle: every GStreamer element knows that meta, scales it, and drops it when it no
//! longer fits. One `GstCustomMeta` named [`FRAME_META`] holds everything else about all faces
//! (float coordinates, landmarks, scores), joined by the ROI's id. It has no tags, so that other
//! elements keep it.
//!
//! # Positions
//! A face has no position any more if its ROI is gone (after `videocrop`) or was cut, or if the
//! frame's display aspect ratio changed: `videoscale` then adds borders or not, and does not say
//! which. Such a face is lost: it is left out and counted in [`FrameFaces::lost`], so that a reader
//! can tell "no faces" from "lost faces". If the ROI moved only as the frame's scaling and its
//! rounding explain, the coordinates are the stored floats times the scale, exact through any number
//! of rescalings. If another element moved the ROI, the coordinates move with it.
//!
//! # Faces of an earlier frame
//! A detector that does not make frames wait attaches the faces of an earlier frame, with their age.
//! [`read_analysed`] returns that frame, for readers of pixels. It is a meta of its own, which does
//! not pass through encoders and converters.
//!
//! # Predicted faces
//! A tracker attaches faces to frames that no detector has analysed ([`attach_predicted`]):
//! [`FrameFaces::state`] tells them apart, and each face whose position is predicted has an
//! uncertainty. Their coordinates are those of the frame that carries them.
//!
//! # Parents
//! A detector that looks in the regions of objects of an earlier detector ([`object_regions`]) gives
//! each face the id of its object, [`Face::parent_id`](retinaface::Face::parent_id). The ROI of the
//! face has it, too, but only in the frame in which the face was found: in another frame the id can
//! mean another object.
//!
//! # Foreign regions of interest
//! Other detectors may attach ROIs of type `face` with ids of their own. Ids of this crate start at
//! a random number, and a face whose id belongs to different ROIs is lost and counted, so that a
//! foreign ROI never becomes the position of a face.
//!
//! For readers of DL Streamer's metadata the ROI has a `detection` parameter, which this crate
//! never reads.
//!
//! ```
//! # gst::init().unwrap();
//! use face_meta::FrameState;
//! use retinaface::{Face, Rect};
//! let mut buffer = gst::Buffer::new();
//! let face = Face { score: 0.9, rect: Rect::new(10.0, 20.0, 40.0, 50.0), ..Face::default() };
//! face_meta::attach(buffer.get_mut().unwrap(), &[face], (640, 360))?;
//! let found = face_meta::read(&buffer, (640, 360));
//! assert_eq!((found.state, found.faces.len(), found.lost), (FrameState::Detected, 1, 0));
//! # Ok::<(), gst::glib::BoolError>(())
//! ```

use std::sync::Once;

use gst::meta::CustomMeta;

mod analysed;
mod crop;
mod fields;
mod frame;
mod position;
mod regions;
mod track_event;

pub use analysed::{AnalysedFaces, AnalysedFrame, analysis_number, read_analysed, remove_analysed, update_analysed};
pub use crop::{CropOrigin, attach_crop, read_crop};
pub use fields::to_pixel_aspect;
pub use frame::{
    FrameFace, FrameFaces, Prediction, attach, attach_aged, attach_failure, attach_predicted, read, strip, update,
};
pub use regions::object_regions;
pub use retinaface::record::FrameState;
pub use track_event::{TRACK_EVENT, read_track_event, track_event};

/// Type of the region of interest of a face.
pub const ROI_TYPE: &str = "face";
/// Name of the custom meta on a frame.
pub const FRAME_META: &str = "RetinaFaceFrameMeta";
/// Name of the custom meta with the frame in which the faces were found, if that is another one. It
/// has the tag `memory`: it stays on a buffer and on its copies, but encoders and converters do not
/// copy it. An encoded stream would otherwise hold a raw frame per buffer.
pub const ANALYSED_META: &str = "RetinaFaceAnalysedMeta";
/// Name of the custom meta on an aligned crop.
pub const CROP_META: &str = "RetinaFaceCropMeta";

/// Registers the custom metas with GStreamer. Every function of this crate calls it; a plugin calls
/// it when it is loaded.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (name, tags) in [(FRAME_META, &[][..]), (CROP_META, &[]), (ANALYSED_META, &["memory"])] {
            if !CustomMeta::is_registered(name) {
                CustomMeta::register(name, tags);
            }
        }
    });
}
