//! Head pose from the five landmarks.

use nalgebra::{Matrix2x3, Matrix3, Vector3};

use super::aspect::PixelAspect;
use super::face::{Face, Landmarks, Point};

/// The five landmarks of a mean face in frontal pose, in template pixels: x to the right of the
/// image, y down, z away from the camera.
///
/// x and y are those of [`super::face::ARCFACE_TEMPLATE`], made symmetric, so that a face on the
/// template has a frontal pose. z is anthropometric: the nose tip lies 23 mm in front of the
/// pupils, the mouth corners 2 mm behind them, and the pupils are 63 mm apart.
const MEAN_FACE: [[f64; 3]; 5] =
    [[-17.62, 0.0, 0.0], [17.62, 0.0, 0.0], [0.0, 20.14, -12.9], [-14.59, 40.69, 1.1], [14.59, 40.69, 1.1]];

/// Orientation of a head, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadPose {
    /// Rotation about the vertical axis, in -180..=180; positive towards the right of the image.
    pub yaw: f32,
    /// Rotation about the axis through the ears, in -90..=90; positive upwards.
    pub pitch: f32,
    /// Rotation in the image plane, in -180..=180; positive clockwise.
    pub roll: f32,
}

/// The head pose for these landmarks; `None` if the landmarks are degenerate.
///
/// It fits a scaled orthographic projection of a mean face to the landmarks, in the least squares
/// sense, and takes the nearest rotation by singular value decomposition. The rotation order is
/// roll, then pitch, then yaw. Real faces differ from the mean face: expect an error of several
/// degrees, larger in pitch than in yaw.
///
/// Source: the POS step of DeMenthon and Davis, "Model-Based Object Pose in 25 Lines of Code", IJCV
/// 1995.
pub(super) fn head_pose(landmarks: &Landmarks) -> Option<HeadPose> {
    if !landmarks.iter().all(|point| point.is_finite()) {
        return None;
    }
    let model = MEAN_FACE.map(Vector3::from);
    let model_mean = model.iter().sum::<Vector3<f64>>() / model.len() as f64;
    let mean = |value: &dyn Fn(usize) -> f64| (0..landmarks.len()).map(value).sum::<f64>() / landmarks.len() as f64;
    let (x, y) = (|index: usize| f64::from(landmarks[index].x), |index: usize| f64::from(landmarks[index].y));
    let (mean_x, mean_y) = (mean(&x), mean(&y));
    // Least squares of `image = projection * model`, both relative to their means.
    let mut scatter = Matrix3::zeros();
    let mut mixed = Matrix2x3::zeros();
    for (index, point) in model.iter().enumerate() {
        let point = point - model_mean;
        scatter += point * point.transpose();
        mixed += nalgebra::Vector2::new(x(index) - mean_x, y(index) - mean_y) * point.transpose();
    }
    let projection = mixed * scatter.try_inverse()?;
    let svd = projection.svd(true, true);
    let (u, v_t) = (svd.u?, svd.v_t?);
    // Collinear points have no extent in one of the two directions.
    if svd.singular_values.min().partial_cmp(&(1e-6 * svd.singular_values.max()))?.is_le() {
        return None;
    }
    let rows = u * v_t;
    let (right, down) = (rows.row(0).transpose(), rows.row(1).transpose());
    let away = right.cross(&down);
    let rotation = Matrix3::from_rows(&[right.transpose(), down.transpose(), away.transpose()]);
    let forward = rotation * Vector3::new(0.0, 0.0, -1.0);
    let yaw = forward.x.atan2(-forward.z);
    let pitch = (-forward.y).clamp(-1.0, 1.0).asin();
    let in_plane = (about_y(yaw) * about_x(pitch)).transpose() * rotation;
    let roll = in_plane[(1, 0)].atan2(in_plane[(0, 0)]);
    let [yaw, pitch, roll] = [yaw, pitch, roll].map(|angle| angle.to_degrees() as f32);
    Some(HeadPose { yaw, pitch, roll })
}

/// Landmarks in units of which x and y have the same length.
pub(crate) fn in_square_pixels(landmarks: &Landmarks, pixel_aspect: PixelAspect) -> Landmarks {
    let (x, y) = pixel_aspect.stretch();
    landmarks.map(|point| Point::new((f64::from(point.x) * x) as f32, (f64::from(point.y) * y) as f32))
}

impl Face {
    /// The head pose from the five landmarks, in a frame with pixels of this shape; `None` without
    /// landmarks or with degenerate ones.
    pub fn pose(&self, pixel_aspect: PixelAspect) -> Option<HeadPose> {
        head_pose(&in_square_pixels(&self.landmarks?, pixel_aspect))
    }
}

/// Rotation about the y axis; positive angles turn a frontal face to the right of the image.
fn about_y(angle: f64) -> Matrix3<f64> {
    let (sin, cos) = angle.sin_cos();
    Matrix3::new(cos, 0.0, -sin, 0.0, 1.0, 0.0, sin, 0.0, cos)
}

/// Rotation about the x axis; positive angles turn a frontal face upwards.
fn about_x(angle: f64) -> Matrix3<f64> {
    let (sin, cos) = angle.sin_cos();
    Matrix3::new(1.0, 0.0, 0.0, 0.0, cos, sin, 0.0, -sin, cos)
}

#[cfg(test)]
mod tests {
    use super::super::face::ARCFACE_TEMPLATE;
    use super::*;
    use proptest::prelude::*;

    fn about_z(angle: f64) -> Matrix3<f64> {
        let (sin, cos) = angle.sin_cos();
        Matrix3::new(cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0)
    }

    /// The mean face, rotated by angles in degrees and projected to the image.
    fn projected(yaw: f64, pitch: f64, roll: f64, scale: f64, shift: (f64, f64)) -> Landmarks {
        let [yaw, pitch, roll] = [yaw, pitch, roll].map(f64::to_radians);
        let rotation = about_y(yaw) * about_x(pitch) * about_z(roll);
        MEAN_FACE.map(|point| {
            let point = rotation * Vector3::from(point) * scale;
            Point::new((point.x + shift.0) as f32, (point.y + shift.1) as f32)
        })
    }

    #[test]
    fn signs_are_as_documented() {
        let pose = |points: &Landmarks| head_pose(points).unwrap();
        let ahead = pose(&ARCFACE_TEMPLATE);
        assert!(ahead.yaw.abs() < 1.0 && ahead.pitch.abs() < 1.0 && ahead.roll.abs() < 1.0, "{ahead:?}");
        let moved = |x: f32, y: f32| {
            let mut points = ARCFACE_TEMPLATE;
            points[2] = Point::new(points[2].x + x, points[2].y + y);
            pose(&points)
        };
        // The nose tip moves in the direction of the turn.
        assert!(moved(6.0, 0.0).yaw > 15.0 && moved(-6.0, 0.0).yaw < -15.0);
        assert!(moved(0.0, -5.0).pitch > 8.0 && moved(0.0, 5.0).pitch < -8.0);
        // A quarter turn clockwise moves the top to the right.
        let turned = pose(&ARCFACE_TEMPLATE.map(|point| Point::new(-point.y, point.x)));
        assert!((turned.roll - 90.0).abs() < 1.0, "{turned:?}");
    }

    #[test]
    fn mirroring_negates_yaw_and_roll() {
        let points = projected(25.0, -10.0, 12.0, 3.0, (50.0, 60.0));
        let [a, b, nose, c, d] = points.map(|point| Point::new(500.0 - point.x, point.y));
        let (pose, mirrored) = (head_pose(&points).unwrap(), head_pose(&[b, a, nose, d, c]).unwrap());
        assert!((pose.yaw + mirrored.yaw).abs() < 0.1 && (pose.roll + mirrored.roll).abs() < 0.1);
        assert!((pose.pitch - mirrored.pitch).abs() < 0.1, "{pose:?} {mirrored:?}");
    }

    #[test]
    fn degenerate_points_have_no_pose() {
        assert_eq!(head_pose(&[Point::new(3.0, 4.0); 5]), None);
        assert_eq!(head_pose(&std::array::from_fn(|i| Point::new(i as f32, 2.0 * i as f32))), None);
        assert_eq!(head_pose(&[Point::new(f32::NAN, 4.0); 5]), None);
    }

    proptest! {
        #[test]
        fn the_angles_of_a_rotated_mean_face_are_recovered(
            yaw in -80.0f64..80.0, pitch in -60.0f64..60.0, roll in -170.0f64..170.0,
            scale in 0.2f64..20.0, x in -500.0f64..2000.0, y in -500.0f64..2000.0,
        ) {
            let pose = head_pose(&projected(yaw, pitch, roll, scale, (x, y))).unwrap();
            for (actual, expected) in [(pose.yaw, yaw), (pose.pitch, pitch), (pose.roll, roll)] {
                prop_assert!((f64::from(actual) - expected).abs() < 0.1, "{pose:?} is not {yaw}, {pitch}, {roll}");
            }
        }

        #[test]
        fn arbitrary_points_do_not_panic(values in proptest::array::uniform10(proptest::num::f32::ANY)) {
            let points = std::array::from_fn(|i| Point::new(values[2 * i], values[2 * i + 1]));
            if let Some(HeadPose { yaw, pitch, roll }) = head_pose(&points) {
                prop_assert!([yaw, pitch, roll].iter().all(|angle| angle.is_finite()));
            }
        }
    }
}
