//! The landmarks of large faces, from a second view that shows them smaller.
//!
//! The anchors of a detector regress the landmarks of a face well up to about half of the size of
//! the largest anchor. docs/accuracy.md has the measurements.

use super::merge::{Candidate, LandmarkFusion, nms_with_fusion};
use super::views::View;
use crate::geometry::{Face, FrameSize, Landmarks, Point, Rect, iou, nms};
use crate::model::ModelSpec;

/// Faces whose longer side is above this, in input pixels, get a second inference.
const LARGE_FACE: f32 = 320.0;
/// Maximum number of faces of a frame that get a second inference, best first.
const MAX_SECOND_VIEWS: usize = 16;
/// Minimum intersection over union of a face and the candidate for it in the second view.
const SAME_FACE_IOU: f32 = 0.5;

/// A face that gets a second inference.
pub(super) struct SecondView {
    /// Index of the face.
    pub(super) face: usize,
    /// The box of the face, in the square pixels of the frame.
    rect: Rect,
    pub(super) view: View,
}

/// The second views of the faces, in frame pixels, that are large in the input. `views` are those in
/// which they were found.
pub(super) fn second_views(faces: &[Face], views: &[View], frame: FrameSize, spec: &ModelSpec) -> Vec<SecondView> {
    let (stretch_x, stretch_y) = frame.pixel_aspect.stretch();
    let (stretch_x, stretch_y) = (stretch_x as f32, stretch_y as f32);
    let second_view = |(index, Face { rect, .. }): (usize, &Face)| {
        let centre = Point::new(rect.x + rect.w / 2.0, rect.y + rect.h / 2.0);
        let square = Rect::new(rect.x * stretch_x, rect.y * stretch_y, rect.w * stretch_x, rect.h * stretch_y);
        let scales = views.iter().filter(|view| view.is_whole() && view.contains(centre)).map(View::scale);
        let size = square.w.max(square.h);
        if size * scales.reduce(f32::max)? <= LARGE_FACE {
            return None;
        }
        let view = View::second(square, frame, spec)?;
        Some(SecondView { face: index, rect: square, view })
    };
    faces.iter().enumerate().filter_map(second_view).take(MAX_SECOND_VIEWS).collect()
}

impl SecondView {
    /// The landmarks of the face among the candidates of its second view, in frame pixels.
    pub(super) fn landmarks(
        &self,
        candidates: Vec<Candidate>,
        fusion: LandmarkFusion,
        iou_threshold: f32,
        frame: FrameSize,
    ) -> Option<Landmarks> {
        let found = match fusion {
            LandmarkFusion::None => nms(candidates, iou_threshold),
            LandmarkFusion::Mean => nms_with_fusion(candidates, Vec::new(), iou_threshold),
        };
        let overlap = |candidate: &Candidate| iou(candidate.face.rect, self.rect);
        let best = found.into_iter().max_by(|a, b| overlap(a).total_cmp(&overlap(b)))?;
        if overlap(&best) < SAME_FACE_IOU {
            return None;
        }
        let (stretch_x, stretch_y) = frame.pixel_aspect.stretch();
        let to_frame = |point: Point| Point::new(point.x / stretch_x as f32, point.y / stretch_y as f32);
        let landmarks = best.face.landmarks?.map(to_frame);
        landmarks.iter().all(|point| point.is_finite()).then_some(landmarks)
    }
}
