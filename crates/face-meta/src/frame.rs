//! The faces on a frame.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gst::glib;
use gst::meta::CustomMeta;
use gst_video::VideoRegionOfInterestMeta;
use retinaface::geometry::{Face, FrameSize, PixelAspect, Rect};
use retinaface::record::FrameState;

use crate::analysed::{self, AnalysedFaces, AnalysedFrame};
use crate::fields::{face_from, pixel_aspect, pixel_aspect_from, with_face};
use crate::position::{follow, may_have_borders, roi_rect};
use crate::regions::roi_type;
use crate::{FRAME_META, ROI_TYPE, register};

/// Field of the frame's pixel aspect ratio.
const PIXEL_ASPECT: &str = "pixel-aspect-ratio";
/// Field of the name of the [`FrameState`].
const STATE: &str = "state";

/// A face on a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameFace {
    /// Id of its region of interest: unique among the ids of one copy of this crate, until 2^30
    /// faces were attached. Other ids collide with negligible probability.
    pub roi_id: i32,
    /// The face, in pixels of the frame that it was read from.
    pub face: Face,
}

/// The faces read from a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameFaces {
    /// Whether the faces were detected or predicted. If neither, an empty list says nothing.
    pub state: FrameState,
    /// Difference between the times of this frame and of the frame in which the faces were found;
    /// zero for the same frame. The positions of predicted faces are those in this frame.
    pub age: Duration,
    /// The faces, in the order in which they were attached: best score first.
    pub faces: Vec<FrameFace>,
    /// Number of faces that were found but have no known position any more: the frame was flipped or
    /// cropped, its display aspect ratio changed, an id is ambiguous, or the metadata was damaged.
    /// A reader that must not miss a face treats this as a failure.
    pub lost: usize,
    /// Whether the detector failed on this frame, or the metadata does not say how the faces were
    /// found: then an earlier result does not say either which faces the frame has.
    pub failed: bool,
}

impl FrameFaces {
    /// The age of the faces; `None` if no detection result applies to this frame or all of its faces
    /// are lost. Only if the age is known does an empty list mean that the frame has no faces.
    pub fn known_age(&self) -> Option<Duration> {
        (self.state.has_result() && (self.lost == 0 || !self.faces.is_empty())).then_some(self.age)
    }

    /// The faces alone. Whether the frame was analysed, the age and the number of lost faces are
    /// discarded: do not use this where no face may be missed.
    pub fn into_faces(self) -> Vec<Face> {
        self.faces.into_iter().map(|found| found.face).collect()
    }
}

/// A positive id, different from the other ids of this process. The first one is random, so that it
/// is none of the ids of a detector that counts from 1.
fn next_roi_id() -> i32 {
    /// Ids lie in `FIRST..2 * FIRST`, which is positive as an `i32`.
    const FIRST: u32 = 1 << 30;
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| {
        let random = RandomState::new().build_hasher().finish();
        AtomicU32::new(random as u32)
    });
    let id = FIRST | (NEXT.fetch_add(1, Ordering::Relaxed) & (FIRST - 1));
    id.cast_signed()
}

/// Attaches `faces` that were found in this frame, in pixels of a frame of `size`, in place of the
/// faces that are there. A face wholly outside the frame has no rectangle and is left out.
///
/// # Errors
/// If GStreamer cannot add the meta.
pub fn attach(buffer: &mut gst::BufferRef, faces: &[Face], size: impl Into<FrameSize>) -> Result<(), glib::BoolError> {
    attach_found(
        buffer,
        faces,
        size.into(),
        &Found { state: FrameState::Detected, age: Duration::ZERO, lost: 0, analysed: None },
    )
}

/// As [`attach`], for faces that were found in the frame `analysed`, which has the same size. `age` is
/// the time since that frame.
///
/// # Errors
/// If GStreamer cannot add the meta.
pub fn attach_aged(
    buffer: &mut gst::BufferRef,
    faces: &[Face],
    size: impl Into<FrameSize>,
    age: Duration,
    analysed: &AnalysedFrame,
) -> Result<(), glib::BoolError> {
    let found = Found { state: FrameState::Detected, age, lost: 0, analysed: Some(analysed) };
    attach_found(buffer, faces, size.into(), &found)
}

/// As [`attach`], for faces that a tracker expects in this frame.
///
/// # Errors
/// If GStreamer cannot add the meta.
pub fn attach_predicted(
    buffer: &mut gst::BufferRef,
    faces: &[Face],
    size: impl Into<FrameSize>,
    from: &Prediction<'_>,
) -> Result<(), glib::BoolError> {
    let size = size.into();
    let Prediction { age, lost, analysed } = *from;
    attach_found(buffer, faces, size, &Found { state: FrameState::Predicted, age, lost, analysed: None })?;
    match analysed {
        Some(analysed) => analysed.frame.attach_with_faces(buffer, &analysed.faces, size.pixel_aspect),
        None => Ok(()),
    }
}

/// Marks a frame on which the detector failed, in place of the faces that are there: no result applies
/// to it.
///
/// # Errors
/// If GStreamer cannot add the meta.
pub fn attach_failure(buffer: &mut gst::BufferRef, size: impl Into<FrameSize>) -> Result<(), glib::BoolError> {
    let found = Found { state: FrameState::None, age: Duration::ZERO, lost: 0, analysed: None };
    attach_found(buffer, &[], size.into(), &found)
}

/// What faces were predicted from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prediction<'a> {
    /// The time since the frame in which the faces were detected.
    pub age: Duration,
    /// Number of faces of that frame whose position was lost.
    pub lost: usize,
    /// That frame with the faces in its own pixels, for readers of pixels, if it is known.
    pub analysed: Option<&'a AnalysedFaces>,
}

/// How the faces of a frame were found.
struct Found<'a> {
    state: FrameState,
    age: Duration,
    lost: usize,
    /// The frame in which they were found, if it is another one.
    analysed: Option<&'a AnalysedFrame>,
}

impl Found<'_> {
    /// Whether the faces were found in the frame that carries them.
    fn is_of_this_frame(&self) -> bool {
        self.state == FrameState::Detected && self.age.is_zero() && self.analysed.is_none()
    }
}

fn attach_found(
    buffer: &mut gst::BufferRef,
    faces: &[Face],
    size: FrameSize,
    found: &Found<'_>,
) -> Result<(), glib::BoolError> {
    register();
    let FrameSize { width, height, .. } = size;
    remove(buffer);
    let mut entries = Vec::with_capacity(faces.len());
    for face in faces {
        let Some([x, y, w, h]) = roi_rect(face.rect, width, height) else { continue };
        let roi_id = next_roi_id();
        let mut roi = VideoRegionOfInterestMeta::add(buffer, ROI_TYPE, (x, y, w, h));
        roi.set_id(roi_id);
        if let Some(parent_id) = face.parent_id.filter(|_| found.is_of_this_frame()) {
            roi.set_parent_id(parent_id);
        }
        let fraction = |value: f32, whole: usize| f64::from(value) / whole as f64;
        roi.add_param(
            gst::Structure::builder("detection")
                .field("confidence", f64::from(face.score))
                .field("x_min", fraction(face.rect.x, width))
                .field("y_min", fraction(face.rect.y, height))
                .field("x_max", fraction(face.rect.right(), width))
                .field("y_max", fraction(face.rect.bottom(), height))
                .build(),
        );
        entries.push(entry(roi_id, [x, y, w, h], face, size.pixel_aspect));
    }
    let mut meta = CustomMeta::add(buffer, FRAME_META)?;
    write(meta.mut_structure(), entries, size, found);
    found.analysed.map_or(Ok(()), |analysed| analysed.attach(buffer))
}

fn write(structure: &mut gst::StructureRef, entries: Vec<gst::Structure>, size: FrameSize, found: &Found<'_>) {
    structure.set(STATE, found.state.name());
    structure.set("width", size.width as u32);
    structure.set("height", size.height as u32);
    structure.set(PIXEL_ASPECT, pixel_aspect(size.pixel_aspect));
    structure.set("age-ns", u64::try_from(found.age.as_nanos()).unwrap_or(u64::MAX));
    structure.set("lost", u32::try_from(found.lost).unwrap_or(u32::MAX));
    structure.set("faces", gst::Array::new(entries));
}

/// A face's entry, with its region of interest.
pub(crate) fn entry(roi_id: i32, roi: [u32; 4], face: &Face, pixel_aspect: PixelAspect) -> gst::Structure {
    let builder = gst::Structure::builder("face").field("roi-id", roi_id).field("roi", gst::Array::new(roi));
    with_face(builder, face, pixel_aspect)
}

/// Writes the faces that [`read`] returned back, with additions. Their regions of interest stay,
/// with their ids and the parameters of other elements.
///
/// # Errors
/// If the buffer has no faces attached.
pub fn update(
    buffer: &mut gst::BufferRef,
    faces: &FrameFaces,
    size: impl Into<FrameSize>,
) -> Result<(), glib::BoolError> {
    let size = size.into();
    // Now the coordinates count the pixels of this frame.
    analysed::remove(buffer);
    let rois = Rois::of(buffer);
    let known = |found: &FrameFace| Some(entry(found.roi_id, rois.get(found.roi_id)?, &found.face, size.pixel_aspect));
    let entries = faces.faces.iter().filter_map(known).collect::<Vec<_>>();
    // A face without an ROI stays a lost one for the next reader.
    let lost = faces.lost + (faces.faces.len() - entries.len());
    let mut meta = CustomMeta::from_mut_buffer(buffer, FRAME_META)?;
    let found = Found { state: faces.state, age: faces.age, lost, analysed: None };
    write(meta.mut_structure(), entries, size, &found);
    Ok(())
}

/// The regions of interest of type [`ROI_TYPE`], by their ids.
struct Rois(HashMap<i32, Option<[u32; 4]>>);

impl Rois {
    fn of(buffer: &gst::BufferRef) -> Self {
        let mut rois = HashMap::new();
        for roi in buffer.iter_meta::<VideoRegionOfInterestMeta>().filter(|roi| roi_type(roi) == ROI_TYPE) {
            let (x, y, w, h) = roi.rect();
            let rect = [x, y, w, h];
            // An id with two rectangles identifies nothing. An ROI that was copied stays known.
            let known = rois.entry(roi.id()).or_insert(Some(rect));
            *known = known.filter(|known| *known == rect);
        }
        Self(rois)
    }

    /// x, y, width and height of the ROI with that id, if all of its copies agree.
    fn get(&self, id: i32) -> Option<[u32; 4]> {
        self.0.get(&id).copied().flatten()
    }
}

/// Removes all metadata of faces, with their regions of interest. Those of other detectors stay.
pub fn strip(buffer: &mut gst::BufferRef) {
    register();
    remove(buffer);
}

/// Removes the faces that were attached before: the results of two detectors must not be mixed.
fn remove(buffer: &mut gst::BufferRef) {
    analysed::remove(buffer);
    let mut ids = Vec::new();
    while let Ok(meta) = CustomMeta::from_mut_buffer(buffer, FRAME_META) {
        ids.extend(entries(meta.structure()).iter().filter_map(|entry| entry.get::<i32>("roi-id").ok()));
        if meta.remove().is_err() {
            break;
        }
    }
    if !ids.is_empty() {
        buffer.foreach_meta_mut(|mut meta| {
            let roi = meta.downcast_ref::<VideoRegionOfInterestMeta>();
            let own = roi.is_some_and(|roi| roi_type(roi) == ROI_TYPE && ids.contains(&roi.id()));
            std::ops::ControlFlow::Continue(if own {
                gst::buffer::BufferMetaForeachAction::Remove
            } else {
                gst::buffer::BufferMetaForeachAction::Keep
            })
        });
    }
}

/// The entries of the faces; they are not copied.
pub(crate) fn entries(structure: &gst::StructureRef) -> Vec<&gst::StructureRef> {
    let array = structure.get::<gst::ArrayRef>("faces").ok();
    let values = array.map(|array| array.as_slice()).unwrap_or_default();
    values.iter().filter_map(|value| value.get::<&gst::StructureRef>().ok()).collect()
}

fn rect([x, y, w, h]: [u32; 4]) -> Rect {
    Rect::new(x as f32, y as f32, w as f32, h as f32)
}

/// Reads the faces of a frame whose size is now `size`.
pub fn read(buffer: &gst::BufferRef, size: impl Into<FrameSize>) -> FrameFaces {
    register();
    let Ok(meta) = CustomMeta::from_buffer(buffer, FRAME_META) else { return FrameFaces::default() };
    let structure = meta.structure();
    let entries = entries(structure);
    let age = age_from(structure);
    let faces = faces(structure, &entries, &Rois::of(buffer), &size.into());
    let lost = structure.get::<u32>("lost").unwrap_or(u32::from(structure.has_field("lost"))) as usize;
    let all = structure.get::<gst::ArrayRef>("faces").map_or(0, |array| array.as_slice().len());
    let lost = match &faces {
        Some(faces) => lost + (all - faces.len()),
        // Even the number of faces is not certain. Readers must not take this for a frame without
        // faces.
        None => (lost + entries.len()).max(1),
    };
    let state = state_from(structure);
    FrameFaces { state, age, faces: faces.unwrap_or_default(), lost, failed: !state.has_result() }
}

/// Where the faces come from; `Detected` if the field is missing, as in older metadata, and `None` if the
/// detector failed or the field is damaged.
fn state_from(structure: &gst::StructureRef) -> FrameState {
    if !structure.has_field(STATE) {
        return FrameState::Detected;
    }
    match structure.get::<&str>(STATE) {
        Ok(name) if name == FrameState::Predicted.name() => FrameState::Predicted,
        Ok(name) if name == FrameState::Detected.name() => FrameState::Detected,
        _ => FrameState::None,
    }
}

/// The age of the faces.
pub(crate) fn age_from(structure: &gst::StructureRef) -> Duration {
    // Damaged metadata is not fresh.
    let missing = if structure.has_field("age-ns") { u64::MAX } else { 0 };
    Duration::from_nanos(structure.get::<u64>("age-ns").unwrap_or(missing))
}

/// The size of the frame whose pixels the stored coordinates count.
pub(crate) fn size_from(structure: &gst::StructureRef) -> Option<FrameSize> {
    let side = |field: &str| structure.get::<u32>(field).ok().map(|side| side.max(1) as usize);
    let pixel_aspect = pixel_aspect_from(structure, PIXEL_ASPECT);
    Some(FrameSize { width: side("width")?, height: side("height")?, pixel_aspect })
}

/// The region of interest of a face's entry when it was attached.
pub(crate) fn roi_from(entry: &gst::StructureRef) -> Option<[u32; 4]> {
    let array = entry.get::<gst::ArrayRef>("roi").ok()?;
    array.iter().filter_map(|value| value.get::<u32>().ok()).collect::<Vec<_>>().try_into().ok()
}

/// The faces whose position is known; `None` if the meta is damaged.
fn faces(
    structure: &gst::StructureRef,
    entries: &[&gst::StructureRef],
    rois: &Rois,
    size: &FrameSize,
) -> Option<Vec<FrameFace>> {
    let was = size_from(structure)?;
    structure.get::<gst::ArrayRef>("faces").ok()?;
    let may_have_borders = may_have_borders(*size, was.display_aspect());
    let scale = (size.width as f32 / was.width as f32, size.height as f32 / was.height as f32);
    let face = |entry: &gst::StructureRef| {
        let roi_id = entry.get::<i32>("roi-id").ok()?;
        let now = rect(rois.get(roi_id)?);
        let was = rect(roi_from(entry)?);
        // With another aspect ratio only an ROI of the same size has a known position: the frame
        // was cropped around it.
        if may_have_borders && (now.w, now.h) != (was.w, was.h) {
            return None;
        }
        let face = follow(&face_from(entry)?, was, now, (!may_have_borders).then_some(scale))?;
        Some(FrameFace { roi_id, face })
    };
    Some(entries.iter().copied().filter_map(face).collect())
}
