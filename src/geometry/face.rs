//! Points, rectangles and faces.
//!
//! All coordinates are floats in pixels: `x` grows to the right, `y` grows downwards. The name of a
//! variable states its coordinate space: frame, input or crop.

/// A position, in pixels.
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

    /// Whether both coordinates are finite.
    pub fn is_finite(self) -> bool {
        self.x.is_finite() && self.y.is_finite()
    }
}

/// Five facial landmarks in ArcFace order: left eye, right eye, nose tip, left mouth corner, right
/// mouth corner. Left and right are those of the image.
pub type Landmarks = [Point; 5];

/// Width and height of the input of ArcFace recognition models, in pixels.
pub const ARCFACE_SIZE: usize = 112;

/// The ArcFace template: positions of the five landmarks in a crop of 112 x 112 pixels.
///
/// Source: `arcface_dst` in insightface, `insightface/utils/face_align.py`.
pub const ARCFACE_TEMPLATE: Landmarks = [
    Point::new(38.2946, 51.6963),
    Point::new(73.5318, 51.5014),
    Point::new(56.0252, 71.7366),
    Point::new(41.5493, 92.3655),
    Point::new(70.7299, 92.2041),
];

/// An axis-aligned rectangle, in pixels. It can extend beyond the image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width; never negative in a box decoded by this crate.
    pub w: f32,
    /// Height; never negative in a box decoded by this crate.
    pub h: f32,
}

impl Rect {
    /// A rectangle from its top left corner and its size.
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

    /// The area in square pixels; 0 if the width or height is not positive.
    pub fn area(self) -> f32 {
        self.w.max(0.0) * self.h.max(0.0)
    }

    /// The intersection with an image of `width` x `height` pixels; `None` if it has no area.
    pub fn clipped(self, width: f32, height: f32) -> Option<Self> {
        let x = self.x.max(0.0);
        let y = self.y.max(0.0);
        let w = self.right().min(width) - x;
        let h = self.bottom().min(height) - y;
        (w > 0.0 && h > 0.0).then_some(Self { x, y, w, h })
    }

    /// This rectangle with width and height multiplied by `factor`, about the same centre.
    pub fn grown(self, factor: f32) -> Self {
        let (w, h) = (self.w * factor, self.h * factor);
        Self { x: self.x + (self.w - w) / 2.0, y: self.y + (self.h - h) / 2.0, w, h }
    }

    /// Whether position and size are finite.
    pub fn is_finite(self) -> bool {
        self.x.is_finite() && self.y.is_finite() && self.w.is_finite() && self.h.is_finite()
    }
}

/// Intersection over union of two boxes, in 0.0..=1.0; 0 if either box has no area.
pub fn iou(a: Rect, b: Rect) -> f32 {
    // Each axis is clamped: two negative extents would otherwise multiply to a positive overlap.
    let w = (a.right().min(b.right()) - a.x.max(b.x)).max(0.0);
    let h = (a.bottom().min(b.bottom()) - a.y.max(b.y)).max(0.0);
    let intersection = w * h;
    let union = a.area() + b.area() - intersection;
    if union > 0.0 { (intersection / union).clamp(0.0, 1.0) } else { 0.0 }
}

/// One detected face.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Face {
    /// Confidence of the detector, in 0.0..=1.0.
    pub score: f32,
    /// Bounding box; it can extend beyond the frame.
    pub rect: Rect,
    /// The five landmarks; `None` if the detector has no landmark outputs.
    pub landmarks: Option<Landmarks>,
    /// Points of a landmark model, in the order of its output; empty without a landmark model.
    pub points: Vec<Point>,
    /// Track id, constant for one person across frames; `None` without a tracker.
    pub track_id: Option<u64>,
    /// Id of the object in whose region the face was found, in the frame that was analysed; `None` if
    /// the detector looked in the whole frame. Ids of another frame can mean other objects.
    pub parent_id: Option<i32>,
    /// Standard deviation of the centre of the box in pixels, the larger one of x and y, if a tracker
    /// predicted the position; `None` if a detector found the face, in this or an earlier frame.
    pub uncertainty: Option<f32>,
}

impl Face {
    /// Whether the score, the box, the landmarks, the points and the uncertainty are finite.
    pub fn is_finite(&self) -> bool {
        let mut points = self.landmarks.iter().flatten().chain(&self.points);
        self.score.is_finite()
            && self.rect.is_finite()
            && points.all(|point| point.is_finite())
            && self.uncertainty.is_none_or(f32::is_finite)
    }

    /// This face with `transform` applied to the box, the landmarks and the points.
    ///
    /// `transform` must consist of an axis-aligned scale and a shift, because a [`Rect`] cannot
    /// represent a rotation.
    pub fn mapped(&self, transform: impl Fn(Point) -> Point) -> Self {
        let from = transform(Point::new(self.rect.x, self.rect.y));
        let to = transform(Point::new(self.rect.right(), self.rect.bottom()));
        let rect = Rect::new(from.x, from.y, to.x - from.x, to.y - from.y);
        // The larger one of the two scales: an uncertainty must not shrink by more than the face.
        let scale = (rect.w / self.rect.w).max(rect.h / self.rect.h);
        Self {
            rect,
            uncertainty: self.uncertainty.map(|pixels| if scale.is_finite() { pixels * scale } else { pixels }),
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
    fn boxes_that_are_disjoint_on_both_axes_do_not_overlap() {
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
    fn boxes_without_area_have_an_iou_of_zero() {
        let empty = Rect::default();
        let inverted = Rect::new(5.0, 5.0, -3.0, -3.0);
        assert_eq!(iou(empty, empty), 0.0);
        assert_eq!(iou(inverted, inverted), 0.0);
    }

    #[test]
    fn a_grown_box_has_the_same_centre() {
        assert_eq!(Rect::new(10.0, 20.0, 40.0, 20.0).grown(1.5), Rect::new(0.0, 15.0, 60.0, 30.0));
        assert_eq!(Rect::new(10.0, 20.0, 40.0, 20.0).grown(1.0), Rect::new(10.0, 20.0, 40.0, 20.0));
    }

    #[test]
    fn a_box_that_extends_beyond_the_frame_is_clipped() {
        let rect = Rect::new(-5.0, 90.0, 20.0, 20.0);
        assert_eq!(rect.clipped(100.0, 100.0), Some(Rect::new(0.0, 90.0, 15.0, 10.0)));
        assert_eq!(Rect::new(200.0, 0.0, 5.0, 5.0).clipped(100.0, 100.0), None);
    }
}
