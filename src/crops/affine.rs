//! Affine transforms between frames and crops.

use nalgebra::{Matrix2, Vector2};

use crate::geometry::Point;

/// An affine transform, which maps `(x, y)` to `matrix * (x, y, 1)`.
///
/// For a frame with square pixels, the transforms of faces are similarities: rotation, uniform
/// scale and translation. For other frames they are similarities of the displayed picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    pub(super) matrix: [[f64; 3]; 2],
}

impl Affine {
    /// The 2 x 3 matrix, in row-major order.
    pub fn matrix(&self) -> [[f64; 3]; 2] {
        self.matrix
    }

    /// The transform with this 2 x 3 matrix, in row-major order.
    pub fn from_matrix(matrix: [[f64; 3]; 2]) -> Self {
        Self { matrix }
    }

    /// The rotation angle of the x axis, clockwise, in radians.
    pub fn rotation(&self) -> f64 {
        let [[a, ..], [c, ..]] = self.matrix;
        c.atan2(a)
    }

    /// Maps a point from source to target coordinates.
    pub fn apply(&self, source: Point) -> Point {
        let (x, y) = (f64::from(source.x), f64::from(source.y));
        let [x, y] = self.matrix.map(|[a, b, c]| (a * x + b * y + c) as f32);
        Point::new(x, y)
    }

    /// The inverse transform; `None` if the matrix has no inverse.
    pub fn inverse(&self) -> Option<Self> {
        let [[a, b, tx], [c, d, ty]] = self.matrix;
        let inverse = Matrix2::new(a, b, c, d).try_inverse()?;
        let shift = -(inverse * Vector2::new(tx, ty));
        let matrix = [[inverse.m11, inverse.m12, shift.x], [inverse.m21, inverse.m22, shift.y]];
        matrix.iter().flatten().all(|value| value.is_finite()).then_some(Self { matrix })
    }

    /// This transform, preceded by a shift of both axes.
    pub(super) fn after_shift(&self, (x, y): (f64, f64)) -> Self {
        Self { matrix: self.matrix.map(|[a, b, c]| [a, b, a * x + b * y + c]) }
    }

    /// This transform, preceded by a stretch of both axes.
    ///
    /// Integer coordinates are the centres of pixels, so that stretching shifts them: the centre of
    /// pixel `i` lies at `i + 0.5` from the edge of the frame.
    pub(super) fn after_stretch(&self, (x, y): (f64, f64)) -> Self {
        let (shift_x, shift_y) = ((x - 1.0) / 2.0, (y - 1.0) / 2.0);
        Self { matrix: self.matrix.map(|[a, b, c]| [a * x, b * y, a * shift_x + b * shift_y + c]) }
    }

    /// This transform, followed by an enlargement: each pixel becomes `factor` x `factor` pixels.
    pub(super) fn magnified(&self, factor: usize) -> Self {
        let factor = factor as f64;
        Self { matrix: self.matrix.map(|[a, b, c]| [a * factor, b * factor, (c + 0.5) * factor - 0.5]) }
    }

    /// This transform, followed by chroma subsampling: pixels 2c and 2c + 1 become sample c.
    pub(super) fn before_halving(&self) -> Self {
        Self { matrix: self.matrix.map(|[a, b, c]| [a / 2.0, b / 2.0, (c - 0.5) / 2.0]) }
    }
}
