//! Face metadata on buffers: the only place that reads or writes it.
//!
//! A face is two things on a buffer. A `GstVideoRegionOfInterestMeta` of type `face` holds its
//! rectangle: every GStreamer element knows it, scales it, and drops it when it no longer fits. One
//! `GstCustomMeta`, named [`FRAME_META`], holds the rest of all faces (floats, landmarks, scores), joined
//! on the rectangle's id; it has no tags, so that elements between us carry it along untouched.
//!
//! A face whose rectangle is gone (after `videocrop`) is not read. Where the rectangle moved by no more
//! than the frame's change of size and its rounding explain, coordinates are the floats scaled by that
//! change, exact through any number of rescalings; where something else moved the rectangle, they move
//! with it. A face is dropped where its place cannot be known: its rectangle was cut off, or the shape of
//! the picture changed, since `videoscale` then adds borders (or not) and leaves no word of them.
//!
//! For readers of DL Streamer's metadata the rectangle carries a `detection` param; it is never read back.

use std::collections::HashMap;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use gst::glib;
use gst::meta::CustomMeta;
use gst_video::VideoRegionOfInterestMeta;
use retinaface::align::Similarity;
use retinaface::face::{Face, Point, Rect};
use retinaface::pose::HeadPose;

/// Type of the region of interest of a face.
pub const ROI_TYPE: &str = "face";
/// Name of the custom meta on a frame.
pub const FRAME_META: &str = "RetinaFaceFrameMeta";
/// Name of the custom meta on an aligned crop.
pub const CROP_META: &str = "RetinaFaceCropMeta";

/// GStreamer truncates a rectangle to whole pixels at each size that the frame goes through, so it may
/// differ from its scaled self by this many pixels,
const ROUNDING_PIXELS: f32 = 8.0;
/// or by this part of its size.
const ROUNDING_PART: f32 = 0.06;
/// A picture whose shape changed by no more than this many pixels was rounded, not given borders.
const BORDER_PIXELS: f64 = 2.0;

/// Makes the custom metas known to GStreamer; may be called often.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in [FRAME_META, CROP_META] {
            if !CustomMeta::is_registered(name) {
                CustomMeta::register_simple(name);
            }
        }
    });
}

/// A frame's size in pixels and the shape of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSize {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Width of a pixel over its height.
    pub pixel_aspect: gst::Fraction,
}

impl From<(usize, usize)> for FrameSize {
    /// Width and height, with square pixels.
    fn from((width, height): (usize, usize)) -> Self {
        Self { width, height, pixel_aspect: gst::Fraction::new(1, 1) }
    }
}

impl FrameSize {
    /// Width in units of which the height of a pixel is one.
    fn display_width(&self) -> f64 {
        self.width as f64 * f64::from(self.pixel_aspect.numer()) / f64::from(self.pixel_aspect.denom().max(1))
    }
}

/// A face on a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameFace {
    /// Id of its region of interest, unique within the process until 2^31 faces were seen.
    pub roi_id: i32,
    /// The face, in pixels of the frame that it was read from.
    pub face: Face,
}

/// The faces read from a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameFaces {
    /// Whether a detector looked at this frame; without it, no faces means nothing.
    pub detected: bool,
    /// How much older than this frame the one is in which the faces were found; zero where it is the same.
    pub age: Duration,
    /// The faces, in the order in which they were attached: best score first.
    pub faces: Vec<FrameFace>,
}

impl FrameFaces {
    /// The faces alone.
    pub fn into_faces(self) -> Vec<Face> {
        self.faces.into_iter().map(|found| found.face).collect()
    }
}

fn next_roi_id() -> i32 {
    static NEXT: AtomicI32 = AtomicI32::new(1);
    // After an overflow ids start anew; a negative one would be taken for "none" by others.
    NEXT.fetch_add(1, Ordering::Relaxed) & i32::MAX
}

/// The whole pixels that a face covers in a frame: x, y, width, height; `None` outside of it.
fn roi_rect(rect: Rect, width: usize, height: usize) -> Option<[u32; 4]> {
    let inside = rect.clipped(width as f32, height as f32)?;
    let (x, y) = (inside.x.floor() as u32, inside.y.floor() as u32);
    let (right, bottom) = (inside.right().ceil() as u32, inside.bottom().ceil() as u32);
    Some([x, y, right.min(width as u32).saturating_sub(x).max(1), bottom.min(height as u32).saturating_sub(y).max(1)])
}

fn doubles(values: impl IntoIterator<Item = f64>) -> gst::Array {
    gst::Array::new(values)
}

fn floats(structure: &gst::StructureRef, field: &str) -> Option<Vec<f64>> {
    let array = structure.get::<gst::Array>(field).ok()?;
    array.iter().map(|value| value.get::<f64>().ok()).collect()
}

fn points_to_array(points: &[Point]) -> gst::Array {
    doubles(points.iter().flat_map(|point| [f64::from(point.x), f64::from(point.y)]))
}

fn points_from(structure: &gst::StructureRef, field: &str) -> Option<Vec<Point>> {
    let values = floats(structure, field)?;
    Some(values.as_chunks::<2>().0.iter().map(|[x, y]| Point::new(*x as f32, *y as f32)).collect())
}

fn rect_to_array(rect: Rect) -> gst::Array {
    doubles([rect.x, rect.y, rect.w, rect.h].map(f64::from))
}

fn rect_from(structure: &gst::StructureRef) -> Option<Rect> {
    let [x, y, w, h] = floats(structure, "box")?[..] else { return None };
    Some(Rect { x: x as f32, y: y as f32, w: w as f32, h: h as f32 })
}

/// The fields that a face has on a frame and on a crop.
fn with_face(builder: gst::structure::Builder, face: &Face) -> gst::Structure {
    builder
        .field("score", f64::from(face.score))
        .field("box", rect_to_array(face.rect))
        .field_if_some("landmarks", face.landmarks.as_ref().map(|points| points_to_array(points)))
        .field_if_some(
            "points",
            Some(&face.points).filter(|points| !points.is_empty()).map(|points| points_to_array(points)),
        )
        // For other readers: it follows from the landmarks.
        .field_if_some(
            "pose",
            face.pose().map(|HeadPose { yaw, pitch, roll }| doubles([yaw, pitch, roll].map(f64::from))),
        )
        .field_if_some("track-id", face.track_id)
        .build()
}

fn face_from(structure: &gst::StructureRef) -> Option<Face> {
    Some(Face {
        score: structure.get::<f64>("score").ok()? as f32,
        rect: rect_from(structure)?,
        landmarks: points_from(structure, "landmarks").and_then(|points| points.try_into().ok()),
        points: points_from(structure, "points").unwrap_or_default(),
        track_id: structure.get("track-id").ok(),
    })
}

/// Attaches `faces`, found in this very frame, as [`attach_aged`] does.
///
/// # Errors
/// If GStreamer cannot add the meta.
pub fn attach(buffer: &mut gst::BufferRef, faces: &[Face], size: impl Into<FrameSize>) -> Result<(), glib::BoolError> {
    attach_aged(buffer, faces, size, Duration::ZERO)
}

/// Attaches `faces`, in pixels of a frame of `size`, in place of any that are there. `age` is how much older than this
/// frame the one is in which they were found. A face wholly outside the frame has no rectangle and is left out.
///
/// # Errors
/// If GStreamer cannot add the meta.
pub fn attach_aged(
    buffer: &mut gst::BufferRef,
    faces: &[Face],
    size: impl Into<FrameSize>,
    age: Duration,
) -> Result<(), glib::BoolError> {
    register();
    let size = size.into();
    let FrameSize { width, height, .. } = size;
    remove(buffer);
    let mut entries = Vec::with_capacity(faces.len());
    for face in faces {
        let Some([x, y, w, h]) = roi_rect(face.rect, width, height) else { continue };
        let roi_id = next_roi_id();
        let mut roi = VideoRegionOfInterestMeta::add(buffer, ROI_TYPE, (x, y, w, h));
        roi.set_id(roi_id);
        let part = |value: f32, whole: usize| f64::from(value) / whole as f64;
        roi.add_param(
            gst::Structure::builder("detection")
                .field("confidence", f64::from(face.score))
                .field("x_min", part(face.rect.x, width))
                .field("y_min", part(face.rect.y, height))
                .field("x_max", part(face.rect.right(), width))
                .field("y_max", part(face.rect.bottom(), height))
                .build(),
        );
        entries.push(entry(roi_id, [x, y, w, h], face));
    }
    let mut meta = CustomMeta::add(buffer, FRAME_META)?;
    write(meta.mut_structure(), entries, size, age);
    Ok(())
}

fn write(structure: &mut gst::StructureRef, entries: Vec<gst::Structure>, size: FrameSize, age: Duration) {
    structure.set("width", size.width as u32);
    structure.set("height", size.height as u32);
    structure.set("display-width", size.display_width());
    structure.set("age-ns", u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    structure.set("faces", gst::Array::new(entries));
}

/// A face's entry, with its region of interest.
fn entry(roi_id: i32, roi: [u32; 4], face: &Face) -> gst::Structure {
    with_face(gst::Structure::builder("face").field("roi-id", roi_id).field("roi", gst::Array::new(roi)), face)
}

/// Writes what was added to the faces that [`read`] gave: their regions of interest stay, with their ids and whatever
/// others attached to them.
///
/// # Errors
/// If no faces were attached to the buffer.
pub fn update(
    buffer: &mut gst::BufferRef,
    faces: &FrameFaces,
    size: impl Into<FrameSize>,
) -> Result<(), glib::BoolError> {
    let rois = rois(buffer);
    let known = |found: &FrameFace| {
        let (x, y, w, h) = *rois.get(&found.roi_id)?;
        Some(entry(found.roi_id, [x, y, w, h], &found.face))
    };
    let entries = faces.faces.iter().filter_map(known).collect();
    let mut meta = CustomMeta::from_mut_buffer(buffer, FRAME_META)?;
    write(meta.mut_structure(), entries, size.into(), faces.age);
    Ok(())
}

/// The rectangles of faces' regions of interest, by their ids.
fn rois(buffer: &gst::BufferRef) -> HashMap<i32, (u32, u32, u32, u32)> {
    let rois = buffer.iter_meta::<VideoRegionOfInterestMeta>().filter(|roi| roi.roi_type() == ROI_TYPE);
    rois.map(|roi| (roi.id(), roi.rect())).collect()
}

/// Takes away the faces that were attached before: another detector's results must not be mixed in.
fn remove(buffer: &mut gst::BufferRef) {
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
            let ours = roi.is_some_and(|roi| roi.roi_type() == ROI_TYPE && ids.contains(&roi.id()));
            std::ops::ControlFlow::Continue(if ours {
                gst::buffer::BufferMetaForeachAction::Remove
            } else {
                gst::buffer::BufferMetaForeachAction::Keep
            })
        });
    }
}

fn entries(structure: &gst::StructureRef) -> Vec<gst::Structure> {
    let array = structure.get::<gst::Array>("faces").ok();
    array.iter().flat_map(|array| array.iter()).filter_map(|value| value.get::<gst::Structure>().ok()).collect()
}

/// The faces on a frame that now has that size.
pub fn read(buffer: &gst::BufferRef, size: impl Into<FrameSize>) -> FrameFaces {
    let size = size.into();
    let FrameSize { width, height, .. } = size;
    register();
    let Ok(meta) = CustomMeta::from_buffer(buffer, FRAME_META) else { return FrameFaces::default() };
    let structure = meta.structure();
    let (Ok(was_width), Ok(was_height)) = (structure.get::<u32>("width"), structure.get::<u32>("height")) else {
        return FrameFaces::default();
    };
    let was_shape = structure.get::<f64>("display-width").unwrap_or(was_width.into()) / f64::from(was_height.max(1));
    let shape_changed = shape_changed(was_shape, &size);
    let scale = Some((width as f32 / was_width.max(1) as f32, height as f32 / was_height.max(1) as f32));
    let rois = rois(buffer);
    let face = |entry: &gst::Structure| {
        let roi_id = entry.get::<i32>("roi-id").ok()?;
        let (x, y, w, h) = *rois.get(&roi_id)?;
        let now = Rect::new(x as f32, y as f32, w as f32, h as f32);
        let array = entry.get::<gst::Array>("roi").ok()?;
        let [x, y, w, h] = array.iter().filter_map(|value| value.get::<u32>().ok()).collect::<Vec<_>>()[..] else {
            return None;
        };
        let was = Rect::new(x as f32, y as f32, w as f32, h as f32);
        // In a picture of another shape only a rectangle that kept its size tells where it went: it was cropped around.
        if shape_changed && (now.w, now.h) != (was.w, was.h) {
            return None;
        }
        let face = follow(&face_from(entry)?, was, now, scale.filter(|_| !shape_changed))?;
        Some(FrameFace { roi_id, face })
    };
    let age = Duration::from_nanos(structure.get::<u64>("age-ns").unwrap_or(0));
    FrameFaces { detected: true, age, faces: entries(structure).iter().filter_map(face).collect() }
}

/// Whether a picture that was `was_shape` times as wide as high has, in a frame of `size`, room for borders.
fn shape_changed(was_shape: f64, size: &FrameSize) -> bool {
    let (width, height) = (size.display_width(), size.height as f64);
    let (fitting_width, fitting_height) = (height * was_shape, width / was_shape);
    width - fitting_width > BORDER_PIXELS || height - fitting_height > BORDER_PIXELS
}

/// One axis of a rectangle: where it begins, and how long it is.
type Span = (f32, f32);

/// Whether a span went from `was` to `now` by nothing but the scaling of the frame, with what GStreamer's
/// truncation loses on the way.
fn only_scaled(was: Span, now: Span, scale: f32) -> bool {
    // Truncation makes any span shorter in a smaller frame: one that kept its length was cropped around.
    if scale < 1.0 && now.1 >= was.1 {
        return false;
    }
    let most = (ROUNDING_PIXELS * scale.max(1.0)).max(ROUNDING_PART * was.1 * scale);
    let off = |was: f32, now: f32| (was * scale - now).abs();
    // Begin and length are truncated each for itself, so the end may be off by both.
    off(was.0, now.0) <= most && off(was.0 + was.1, now.0 + now.1) <= 2.0 * most
}

/// The face after its rectangle went from `was` to `now` while the frame's sides changed by `scale`, where that is all
/// that can have happened; `None` if the rectangle was cut off, so that nothing says where the face is within it.
fn follow(face: &Face, was: Rect, now: Rect, scale: Option<(f32, f32)>) -> Option<Face> {
    let scaled = |(x, y): &(f32, f32)| {
        only_scaled((was.x, was.w), (now.x, now.w), *x) && only_scaled((was.y, was.h), (now.y, now.h), *y)
    };
    if let Some((x, y)) = scale.filter(scaled) {
        return Some(face.mapped(|point| Point::new(point.x * x, point.y * y)));
    }
    let (x, y) = (now.w / was.w.max(1.0), now.h / was.h.max(1.0));
    let (wide, high) = ((now.w - was.w * y).abs(), (now.h - was.h * x).abs());
    let same_shape = wide.min(high) <= (ROUNDING_PART * now.w.min(now.h)).max(ROUNDING_PIXELS);
    same_shape.then(|| face.mapped(|point| Point::new(now.x + (point.x - was.x) * x, now.y + (point.y - was.y) * y)))
}

/// Where an aligned crop comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct CropOrigin {
    /// Id of the stream that the frame was in.
    pub stream: String,
    /// The frame's presentation time.
    pub frame_pts: Option<gst::ClockTime>,
    /// Width and height of the frame.
    pub frame_size: (u32, u32),
    /// Id of the face's region of interest on the frame.
    pub roi_id: i32,
    /// The face, in frame pixels.
    pub face: Face,
    /// From frame pixels to the crop's.
    pub crop_from_frame: Similarity,
    /// From the crop's pixels to the frame's.
    pub frame_from_crop: Similarity,
}

fn matrix_to_array(similarity: &Similarity) -> gst::Array {
    doubles(similarity.matrix().into_iter().flatten())
}

fn matrix_from(structure: &gst::StructureRef, field: &str) -> Option<Similarity> {
    let [a, b, c, d, e, f] = floats(structure, field)?[..] else { return None };
    Some(Similarity::from_matrix([[a, b, c], [d, e, f]]))
}

/// Attaches an aligned crop's origin.
///
/// # Errors
/// If GStreamer cannot add the meta.
pub fn attach_crop(buffer: &mut gst::BufferRef, origin: &CropOrigin) -> Result<(), glib::BoolError> {
    register();
    let mut meta = CustomMeta::add(buffer, CROP_META)?;
    let structure = meta.mut_structure();
    structure.set("stream", &origin.stream);
    if let Some(pts) = origin.frame_pts {
        structure.set("frame-pts", pts.nseconds());
    }
    structure.set("frame-width", origin.frame_size.0);
    structure.set("frame-height", origin.frame_size.1);
    structure.set("roi-id", origin.roi_id);
    structure.set("crop-from-frame", matrix_to_array(&origin.crop_from_frame));
    structure.set("frame-from-crop", matrix_to_array(&origin.frame_from_crop));
    structure.set("face", with_face(gst::Structure::builder("face"), &origin.face));
    Ok(())
}

/// An aligned crop's origin, or `None` on any other buffer.
pub fn read_crop(buffer: &gst::BufferRef) -> Option<CropOrigin> {
    register();
    let meta = CustomMeta::from_buffer(buffer, CROP_META).ok()?;
    let structure = meta.structure();
    Some(CropOrigin {
        stream: structure.get("stream").ok()?,
        frame_pts: structure.get("frame-pts").ok().map(gst::ClockTime::from_nseconds),
        frame_size: (structure.get("frame-width").ok()?, structure.get("frame-height").ok()?),
        roi_id: structure.get("roi-id").ok()?,
        face: face_from(structure.get::<gst::Structure>("face").ok()?.as_ref())?,
        crop_from_frame: matrix_from(structure, "crop-from-frame")?,
        frame_from_crop: matrix_from(structure, "frame-from-crop")?,
    })
}
