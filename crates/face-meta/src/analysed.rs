//! The frame in which faces were found, if it is not the frame that carries them.
//!
//! In `mode=latest` a frame carries the faces of an earlier one. Pixels below such a face are those of
//! something else if the face has moved. The metadata therefore refers to the earlier frame, so that
//! elements that read pixels take those in which the faces were found.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gst::glib;
use gst::meta::CustomMeta;

use crate::fields::face_from;
use crate::frame::{FrameFace, age_from, entries, entry, roi_from, size_from};
use crate::{ANALYSED_META, FRAME_META, register};
use retinaface::geometry::{Face, FrameSize, PixelAspect};

/// Field of the analysed frame.
const FRAME: &str = "frame";
/// Field of the number of the analysis.
const NUMBER: &str = "analysis";
/// Field of the faces in pixels of the analysed frame, if they are not those of the frame's meta.
const FACES: &str = "faces";

/// A frame that a detector has analysed: a reference to its buffer and its caps.
#[derive(Clone, Debug)]
pub struct AnalysedFrame {
    sample: gst::Sample,
    number: u64,
}

impl AnalysedFrame {
    /// A frame that was analysed now. Each analysis gets a number of its own, so that a reader knows
    /// whether it has seen the same faces before.
    pub fn new(buffer: &gst::Buffer, caps: &gst::Caps) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let sample = gst::Sample::builder().buffer(buffer).caps(caps).build();
        Self { sample, number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// The frame.
    pub fn buffer(&self) -> Option<&gst::BufferRef> {
        self.sample.buffer()
    }

    /// The caps of the frame.
    pub fn caps(&self) -> Option<&gst::CapsRef> {
        self.sample.caps()
    }

    /// Number of the analysis, unique in this process.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Attaches the frame in place of one that is there.
    pub(crate) fn attach(&self, buffer: &mut gst::BufferRef) -> Result<(), glib::BoolError> {
        remove(buffer);
        let mut meta = CustomMeta::add(buffer, ANALYSED_META)?;
        meta.mut_structure().set(FRAME, &self.sample);
        meta.mut_structure().set(NUMBER, self.number);
        Ok(())
    }

    /// As [`Self::attach`], with the faces in pixels of this frame: those of the buffer's own meta
    /// are elsewhere.
    pub(crate) fn attach_with_faces(
        &self,
        buffer: &mut gst::BufferRef,
        faces: &[FrameFace],
        pixel_aspect: PixelAspect,
    ) -> Result<(), glib::BoolError> {
        self.attach(buffer)?;
        let entries = faces.iter().map(|found| entry(found.roi_id, [0; 4], &found.face, pixel_aspect));
        let entries = gst::Array::new(entries.collect::<Vec<_>>());
        CustomMeta::from_mut_buffer(buffer, ANALYSED_META)?.mut_structure().set(FACES, entries);
        Ok(())
    }

    fn from(buffer: &gst::BufferRef) -> Option<Self> {
        let meta = CustomMeta::from_buffer(buffer, ANALYSED_META).ok()?;
        Some(Self { sample: meta.structure().get(FRAME).ok()?, number: meta.structure().get(NUMBER).ok()? })
    }
}

/// Removes the frame in which faces were found, with its pixels. The faces stay.
pub fn remove_analysed(buffer: &mut gst::BufferRef) {
    register();
    remove(buffer);
}

/// Removes the frame that was attached before.
pub(crate) fn remove(buffer: &mut gst::BufferRef) {
    while let Ok(meta) = CustomMeta::from_mut_buffer(buffer, ANALYSED_META) {
        if meta.remove().is_err() {
            break;
        }
    }
}

/// Number of the analysis whose faces the buffer carries, if its frame is known and is not this one.
pub fn analysis_number(buffer: &gst::BufferRef) -> Option<u64> {
    register();
    CustomMeta::from_buffer(buffer, ANALYSED_META).ok()?.structure().get(NUMBER).ok()
}

/// The faces of an earlier frame that a buffer carries, with that frame.
#[derive(Clone, Debug)]
pub struct AnalysedFaces {
    /// The frame in which the faces were found.
    pub frame: AnalysedFrame,
    /// Difference between the times of the two frames.
    pub age: Duration,
    /// The faces, in pixels of that frame, best score first. It does not matter whether their regions
    /// of interest are still on the buffer.
    pub faces: Vec<FrameFace>,
}

/// The faces of an earlier frame, with that frame; `None` if the faces were found in this frame, or if
/// the earlier frame is not known.
pub fn read_analysed(buffer: &gst::BufferRef) -> Option<AnalysedFaces> {
    register();
    let frame = AnalysedFrame::from(buffer)?;
    let meta = CustomMeta::from_buffer(buffer, FRAME_META).ok()?;
    let structure = meta.structure();
    let age = age_from(structure);
    let own = CustomMeta::from_buffer(buffer, ANALYSED_META).ok()?;
    let own = own.structure();
    let structure = if own.has_field(FACES) { own } else { structure };
    let face = |entry: &gst::StructureRef| {
        Some(FrameFace { roi_id: entry.get::<i32>("roi-id").ok()?, face: face_from(entry)? })
    };
    Some(AnalysedFaces { frame, age, faces: entries(structure).into_iter().filter_map(face).collect() })
}

/// Replaces the faces that [`read_analysed`] returned, in the same order, by faces with additions.
/// Their regions of interest on this buffer stay as they are, and so do faces whose positions a tracker
/// has predicted in this frame.
///
/// # Errors
/// If the buffer does not carry this number of faces.
pub fn update_analysed(buffer: &mut gst::BufferRef, faces: &[Face]) -> Result<(), glib::BoolError> {
    let other = || glib::bool_error!("the buffer carries other faces");
    let meta = CustomMeta::from_buffer(buffer, FRAME_META)?;
    let FrameSize { pixel_aspect, .. } = size_from(meta.structure()).ok_or_else(other)?;
    let has_own = CustomMeta::from_buffer(buffer, ANALYSED_META).is_ok_and(|meta| meta.structure().has_field(FACES));
    let mut meta = CustomMeta::from_mut_buffer(buffer, if has_own { ANALYSED_META } else { FRAME_META })?;
    let structure = meta.mut_structure();
    let old = entries(structure);
    if old.len() != faces.len() {
        return Err(other());
    }
    let new = old
        .iter()
        .zip(faces)
        .filter_map(|(old, face)| Some(entry(old.get::<i32>("roi-id").ok()?, roi_from(old)?, face, pixel_aspect)));
    let new = gst::Array::new(new.collect::<Vec<_>>());
    structure.set(FACES, new);
    Ok(())
}
