//! Points, boxes and faces: the words everything else speaks.
//!
//! All coordinates are floats in pixels. Which pixels (frame, input or crop) is said by the name of
//! the variable that holds them. `x` grows to the right and `y` downwards.

use crate::pose::{self, HeadPose};

/// A position in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Distance from the left edge, in pixels.
    pub x: f32,
    /// Distance from the top edge, in pixels.
    pub y: f32,
}

impl Point {
    /// A point at `(x, y)`.
    pub const fn new(x: f32, y: f32) -> Self {
        Self { x, y }
    }

    /// Whether both coordinates are finite numbers.
    pub fn is_finite(self) -> bool {
        self.x.is_finite() && self.y.is_finite()
    }
}

/// Five facial landmarks in ArcFace order, each named from the image's left:
/// eye, eye, nose tip, mouth corner, mouth corner.
pub type Landmarks = [Point; 5];

/// An axis-aligned rectangle in pixels. It may reach outside the image it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width; a box decoded by this crate is never negative.
    pub w: f32,
    /// Height; a box decoded by this crate is never negative.
    pub h: f32,
}

impl Rect {
    /// A rectangle from its left top corner and its size.
    pub const fn new(x: f32, y: f32, w: f32, h: f32) -> Self {
        Self { x, y, w, h }
    }

    /// The right edge.
    pub fn right(self) -> f32 {
        self.x + self.w
    }

    /// The bottom edge.
    pub fn bottom(self) -> f32 {
        self.y + self.h
    }

    /// The area in square pixels; 0 for an empty or inverted rectangle.
    pub fn area(self) -> f32 {
        self.w.max(0.0) * self.h.max(0.0)
    }

    /// The part of this rectangle inside an image of `width` x `height` pixels, or `None` if there is none.
    pub fn clipped(self, width: f32, height: f32) -> Option<Self> {
        let x = self.x.max(0.0);
        let y = self.y.max(0.0);
        let w = self.right().min(width) - x;
        let h = self.bottom().min(height) - y;
        (w > 0.0 && h > 0.0).then_some(Self { x, y, w, h })
    }

    /// Whether every number in it is finite.
    pub fn is_finite(self) -> bool {
        self.x.is_finite() && self.y.is_finite() && self.w.is_finite() && self.h.is_finite()
    }
}

/// Intersection over union of two boxes, in 0.0..=1.0; 0 where either has no area.
pub fn iou(a: Rect, b: Rect) -> f32 {
    // Clamped on each axis: boxes apart on both would otherwise have a positive "overlap".
    let w = (a.right().min(b.right()) - a.x.max(b.x)).max(0.0);
    let h = (a.bottom().min(b.bottom()) - a.y.max(b.y)).max(0.0);
    let intersection = w * h;
    let union = a.area() + b.area() - intersection;
    if union > 0.0 { (intersection / union).clamp(0.0, 1.0) } else { 0.0 }
}

/// One detected face.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Face {
    /// The detector's confidence, in 0.0..=1.0.
    pub score: f32,
    /// The bounding box; it may reach outside the frame.
    pub rect: Rect,
    /// The five landmarks, or `None` from a source that has none.
    pub landmarks: Option<Landmarks>,
    /// What a landmark model found beside the five, in its own order; empty where none looked.
    pub points: Vec<Point>,
    /// A number that stays with one person from frame to frame, where something assigns it.
    pub track_id: Option<u64>,
}

impl Face {
    /// Whether its score, box and landmarks are finite numbers.
    pub fn is_finite(&self) -> bool {
        let mut points = self.landmarks.iter().flatten().chain(&self.points);
        self.score.is_finite() && self.rect.is_finite() && points.all(|point| point.is_finite())
    }

    /// Which way the head is turned, by the five landmarks, where it has them.
    pub fn pose(&self) -> Option<HeadPose> {
        pose::head_pose(self.landmarks.as_ref()?)
    }

    /// The same face after `transform` moved each of its points.
    ///
    /// `transform` must be an axis-aligned scaling and shift; a rectangle has no rotation to keep.
    pub fn mapped(&self, transform: impl Fn(Point) -> Point) -> Self {
        let from = transform(Point::new(self.rect.x, self.rect.y));
        let to = transform(Point::new(self.rect.right(), self.rect.bottom()));
        Self {
            rect: Rect::new(from.x, from.y, to.x - from.x, to.y - from.y),
            landmarks: self.landmarks.map(|points| points.map(&transform)),
            points: self.points.iter().map(|point| transform(*point)).collect(),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_apart_on_both_axes_do_not_overlap() {
        let a = Rect::new(0.0, 0.0, 10.0, 10.0);
        let b = Rect::new(30.0, 30.0, 10.0, 10.0);
        assert_eq!(iou(a, b), 0.0);
    }

    #[test]
    fn iou_of_a_half_overlap_is_one_third() {
        let a = Rect::new(0.0, 0.0, 10.0, 10.0);
        let b = Rect::new(5.0, 0.0, 10.0, 10.0);
        assert!((iou(a, b) - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(iou(a, a), 1.0);
    }

    #[test]
    fn boxes_without_area_have_no_overlap_and_no_nan() {
        let empty = Rect::default();
        let inverted = Rect::new(5.0, 5.0, -3.0, -3.0);
        assert_eq!(iou(empty, empty), 0.0);
        assert_eq!(iou(inverted, inverted), 0.0);
    }

    #[test]
    fn a_box_that_leaves_the_frame_is_clipped_to_it() {
        let rect = Rect::new(-5.0, 90.0, 20.0, 20.0);
        assert_eq!(rect.clipped(100.0, 100.0), Some(Rect::new(0.0, 90.0, 15.0, 10.0)));
        assert_eq!(Rect::new(200.0, 0.0, 5.0, 5.0).clipped(100.0, 100.0), None);
    }
}
