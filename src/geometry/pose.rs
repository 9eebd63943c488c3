//! Head pose from the five landmarks.

use nalgebra::{Matrix2x3, Matrix3, Vector3};

use crate::face::Landmarks;

/// The five landmarks of an upright face that looks straight ahead, as seen from it: x to the image's right, y down, z
/// away from the camera. x and y are those of [`crate::align::ARCFACE_TEMPLATE`], made symmetric, so that a face on the
/// template is one that looks straight ahead; z, which a picture does not show, is that of a mean face (nose tip 23 mm
/// before the pupils, mouth corners 2 mm behind them, pupils 63 mm apart).
const MODEL: [[f64; 3]; 5] =
    [[-17.62, 0.0, 0.0], [17.62, 0.0, 0.0], [0.0, 20.14, -12.9], [-14.59, 40.69, 1.1], [14.59, 40.69, 1.1]];

/// Which way a head is turned, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadPose {
    /// About the vertical axis: positive where the face looks to the image's right. Within -180..=180.
    pub yaw: f32,
    /// About the axis from ear to ear: positive where the face looks up. Within -90..=90.
    pub pitch: f32,
    /// In the image's plane: positive where the head is turned clockwise, as the image shows it. Within -180..=180.
    pub roll: f32,
}

/// The pose of the head that has these landmarks; none where they determine none.
///
/// The rotation that, with a scale and a shift, brings a mean face's landmarks closest to these as seen from afar (scaled
/// orthographic projection: DeMenthon and Davis, "Model-Based Object Pose in 25 Lines of Code", IJCV 1995, its POS step,
/// with the nearest rotation taken by singular values). Faces differ from the mean one: expect some degrees of error, more
/// in pitch than in yaw. The head is turned by `roll` first, then by `pitch`, then by `yaw`.
pub fn head_pose(landmarks: &Landmarks) -> Option<HeadPose> {
    if !landmarks.iter().all(|point| point.is_finite()) {
        return None;
    }
    let model = MODEL.map(Vector3::from);
    let model_mean = model.iter().sum::<Vector3<f64>>() / model.len() as f64;
    let mean = |value: &dyn Fn(usize) -> f64| (0..landmarks.len()).map(value).sum::<f64>() / landmarks.len() as f64;
    let (x, y) = (|index: usize| f64::from(landmarks[index].x), |index: usize| f64::from(landmarks[index].y));
    let (mean_x, mean_y) = (mean(&x), mean(&y));
    // Least squares: image = projection * model, both about their means.
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
    // All points on a line leave nothing of one of the two directions.
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

/// Turns what looks ahead to the image's right.
fn about_y(angle: f64) -> Matrix3<f64> {
    let (sin, cos) = angle.sin_cos();
    Matrix3::new(cos, 0.0, -sin, 0.0, 1.0, 0.0, sin, 0.0, cos)
}

/// Turns what looks ahead upwards.
fn about_x(angle: f64) -> Matrix3<f64> {
    let (sin, cos) = angle.sin_cos();
    Matrix3::new(1.0, 0.0, 0.0, 0.0, cos, sin, 0.0, -sin, cos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::ARCFACE_TEMPLATE;
    use crate::face::Point;
    use proptest::prelude::*;

    fn about_z(angle: f64) -> Matrix3<f64> {
        let (sin, cos) = angle.sin_cos();
        Matrix3::new(cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0)
    }

    /// The model's landmarks, turned by degrees, seen from afar.
    fn seen(yaw: f64, pitch: f64, roll: f64, scale: f64, shift: (f64, f64)) -> Landmarks {
        let [yaw, pitch, roll] = [yaw, pitch, roll].map(f64::to_radians);
        let rotation = about_y(yaw) * about_x(pitch) * about_z(roll);
        MODEL.map(|point| {
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
        // The nose goes where the face looks.
        assert!(moved(6.0, 0.0).yaw > 15.0 && moved(-6.0, 0.0).yaw < -15.0);
        assert!(moved(0.0, -5.0).pitch > 8.0 && moved(0.0, 5.0).pitch < -8.0);
        // A quarter turn clockwise: what was up is at the right.
        let turned = pose(&ARCFACE_TEMPLATE.map(|point| Point::new(-point.y, point.x)));
        assert!((turned.roll - 90.0).abs() < 1.0, "{turned:?}");
    }

    #[test]
    fn a_mirrored_face_looks_the_other_way() {
        let points = seen(25.0, -10.0, 12.0, 3.0, (50.0, 60.0));
        let [a, b, nose, c, d] = points.map(|point| Point::new(500.0 - point.x, point.y));
        let (pose, mirrored) = (head_pose(&points).unwrap(), head_pose(&[b, a, nose, d, c]).unwrap());
        assert!((pose.yaw + mirrored.yaw).abs() < 0.1 && (pose.roll + mirrored.roll).abs() < 0.1);
        assert!((pose.pitch - mirrored.pitch).abs() < 0.1, "{pose:?} {mirrored:?}");
    }

    #[test]
    fn points_that_determine_no_pose_have_none() {
        assert_eq!(head_pose(&[Point::new(3.0, 4.0); 5]), None);
        assert_eq!(head_pose(&std::array::from_fn(|i| Point::new(i as f32, 2.0 * i as f32))), None);
        assert_eq!(head_pose(&[Point::new(f32::NAN, 4.0); 5]), None);
    }

    proptest! {
        #[test]
        fn a_turned_mean_face_has_the_angles_that_it_was_turned_by(
            yaw in -80.0f64..80.0, pitch in -60.0f64..60.0, roll in -170.0f64..170.0,
            scale in 0.2f64..20.0, x in -500.0f64..2000.0, y in -500.0f64..2000.0,
        ) {
            let pose = head_pose(&seen(yaw, pitch, roll, scale, (x, y))).unwrap();
            for (is, should) in [(pose.yaw, yaw), (pose.pitch, pitch), (pose.roll, roll)] {
                prop_assert!((f64::from(is) - should).abs() < 0.1, "{pose:?} is not {yaw}, {pitch}, {roll}");
            }
        }

        #[test]
        fn no_five_points_make_it_panic(values in proptest::array::uniform10(proptest::num::f32::ANY)) {
            let points = std::array::from_fn(|i| Point::new(values[2 * i], values[2 * i + 1]));
            if let Some(HeadPose { yaw, pitch, roll }) = head_pose(&points) {
                prop_assert!([yaw, pitch, roll].iter().all(|angle| angle.is_finite()));
            }
        }
    }
}
