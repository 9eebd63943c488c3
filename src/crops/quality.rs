//! How well a crop of a face is suited for recognition.

use super::align::{self, Affine};
use super::sharpness::sharpness;
use crate::geometry::{ARCFACE_SIZE, Face, FrameSize, Point};
use crate::image::{ImageError, ImageView};

/// The quality of a face for recognition: five factors, each in 0.0..=1.0, of which 1.0 is best.
///
/// The curves were chosen on pictures of known people: how the similarity of a recognition model
/// falls when their faces are blurred, shrunk, noisy or cut. docs/tracking.md has the figures.
///
/// It says nothing about occlusion, expression and light, which only a model can judge.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaceQuality {
    /// Resolution: `1 - exp(-6 s)`, where `s` is the number of frame pixels per pixel of a crop of
    /// 112 x 112, along an axis. At `s = 1` the eyes are 35 pixels apart.
    pub size: f32,
    /// Detail of the crop without noise: `clamp((0.9 - b) / 0.45, 0, 1) / (1 + (5 n)^2)`, with the
    /// blur effect `b` and the ratio `n` of noise to contrast.
    pub sharpness: f32,
    /// Cosine of the angle between the direction of the face and the camera: `cos(yaw) cos(pitch)`,
    /// 0 if the face looks away. The roll does not count, since alignment removes it. 1 without
    /// landmarks.
    pub pose: f32,
    /// The square of the detector's score.
    pub score: f32,
    /// The square of the share of a crop of 112 x 112 that shows the frame and not what is beyond
    /// its edges.
    pub visibility: f32,
}

impl FaceQuality {
    /// The quality of a face of a frame of this size. `crop` is its aligned crop.
    ///
    /// # Errors
    /// If OpenCV cannot resize the crop.
    ///
    /// # Panics
    /// If the crop is neither RGB nor BGR.
    pub fn measure(face: &Face, frame: FrameSize, crop: &ImageView<'_>) -> Result<Self, ImageError> {
        Self::without_sharpness(face, frame).with_sharpness(face, crop)
    }

    /// This quality of a face with the sharpness of its crop.
    ///
    /// # Errors
    /// As [`Self::measure`].
    ///
    /// # Panics
    /// As [`Self::measure`].
    pub fn with_sharpness(self, face: &Face, crop: &ImageView<'_>) -> Result<Self, ImageError> {
        Ok(Self { sharpness: unit(sharpness(crop, face.landmarks.is_some())?), ..self })
    }

    /// As [`Self::measure`] with a sharpness of 1, which needs no pixels: the highest quality that the
    /// face can have. All factors are 0 if no crop can be made.
    pub fn without_sharpness(face: &Face, frame: FrameSize) -> Self {
        let Ok(crop_from_frame) = align::crop_of_face(face, frame.pixel_aspect, ARCFACE_SIZE) else {
            return Self::default();
        };
        let pose = face.landmarks.map_or(Some(1.0), |_| {
            let pose = face.pose(frame.pixel_aspect)?;
            Some(pose.yaw.to_radians().cos().max(0.0) * pose.pitch.to_radians().cos())
        });
        Self {
            size: unit(1.0 - (-6.0 * resolution(&crop_from_frame)).exp()),
            sharpness: 1.0,
            pose: unit(pose.unwrap_or(0.0)),
            score: unit(face.score).powi(2),
            visibility: visible_share(&crop_from_frame, frame).powi(2),
        }
    }

    /// The quality, in 0.0..=1.0: the product of the factors.
    pub fn overall(&self) -> f32 {
        [self.size, self.sharpness, self.pose, self.score, self.visibility].map(unit).iter().product()
    }
}

/// Limits a value to 0.0..=1.0; NaN becomes 0.
fn unit(value: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}

/// Number of frame pixels per pixel of the crop, along an axis.
fn resolution(crop_from_frame: &Affine) -> f32 {
    let [[a, b, _], [c, d, _]] = crop_from_frame.matrix();
    (1.0 / (a * d - b * c).abs().sqrt()) as f32
}

/// The share of a crop of 112 x 112 that lies within the frame.
fn visible_share(crop_from_frame: &Affine, frame: FrameSize) -> f32 {
    /// Points per axis at which the crop is tested.
    const POINTS: usize = 16;
    let Some(frame_from_crop) = crop_from_frame.inverse() else { return 0.0 };
    let at = |index: usize| (index as f32 + 0.5) * (ARCFACE_SIZE / POINTS) as f32 - 0.5;
    let is_inside = |point: &Point| {
        // Integers are the centres of pixels.
        let (x, y) = (point.x + 0.5, point.y + 0.5);
        (0.0..frame.width as f32).contains(&x) && (0.0..frame.height as f32).contains(&y)
    };
    let points = (0..POINTS * POINTS).map(|i| frame_from_crop.apply(Point::new(at(i % POINTS), at(i / POINTS))));
    points.filter(is_inside).count() as f32 / (POINTS * POINTS) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{ARCFACE_TEMPLATE, PixelAspect, Rect};
    use crate::image::{ImageInfo, OwnedImage, PixelFormat};
    use proptest::prelude::*;

    const FRAME: FrameSize = FrameSize { width: 640, height: 360, pixel_aspect: PixelAspect::SQUARE };

    /// A frontal face of `scale` times the size of the template, at this position.
    fn face(scale: f32, x: f32, y: f32) -> Face {
        let landmarks = ARCFACE_TEMPLATE.map(|point| Point::new(x + scale * point.x, y + scale * point.y));
        let rect = Rect::new(x + 12.0 * scale, y, 88.0 * scale, 112.0 * scale);
        Face { score: 1.0, rect, landmarks: Some(landmarks), ..Face::default() }
    }

    fn quality(face: &Face) -> FaceQuality {
        FaceQuality::without_sharpness(face, FRAME)
    }

    #[test]
    fn a_large_frontal_face_has_a_quality_of_nearly_one() {
        let found = quality(&face(1.5, 100.0, 50.0));
        assert!(found.overall() > 0.95, "{found:?}");
        assert_eq!((found.score, found.visibility), (1.0, 1.0));
    }

    #[test]
    fn each_factor_falls_with_what_it_measures() {
        let falls = |name: &str, values: &[f32]| {
            assert!(values.windows(2).all(|pair| pair[1] < pair[0]), "{name}: {values:?}");
            assert!(*values.last().unwrap() < 0.5 * values[0], "{name}: {values:?}");
        };
        let sizes = [1.5, 1.0, 0.5, 0.25, 0.1].map(|scale| quality(&face(scale, 100.0, 50.0)).size);
        falls("size", &sizes);
        assert!(sizes[4] < 0.5, "{sizes:?}");
        let cut = [0.0, -30.0, -60.0, -90.0].map(|x| quality(&face(1.0, x, 50.0)).visibility);
        falls("visibility", &cut);
        let score = [1.0, 0.9, 0.7, 0.4].map(|score| quality(&Face { score, ..face(1.0, 100.0, 50.0) }).score);
        falls("score", &score);
        // The nose tip moves to the side as the head turns.
        let pose = [0.0, 8.0, 16.0, 40.0].map(|shift| {
            let mut turned = face(1.0, 100.0, 50.0);
            turned.landmarks.as_mut().unwrap()[2].x += shift;
            quality(&turned).pose
        });
        falls("pose", &pose);
    }

    #[test]
    fn a_rotated_face_has_the_quality_of_an_upright_one() {
        let upright = quality(&face(1.0, 200.0, 100.0)).overall();
        let rotated = face(1.0, 0.0, 0.0).landmarks.unwrap().map(|point| Point::new(300.0 - point.y, 100.0 + point.x));
        let rotated = quality(&Face { landmarks: Some(rotated), ..face(1.0, 200.0, 100.0) }).overall();
        assert!((upright - rotated).abs() < 1e-3, "{upright} {rotated}");
    }

    #[test]
    fn a_face_without_landmarks_counts_as_frontal_and_one_without_a_crop_as_useless() {
        let boxed = Face { landmarks: None, ..face(1.0, 100.0, 50.0) };
        assert!(quality(&boxed).overall() > 0.9);
        let same = Face { landmarks: Some([Point::new(9.0, 9.0); 5]), ..face(1.0, 100.0, 50.0) };
        assert_eq!(quality(&same), FaceQuality::default());
        assert_eq!(quality(&Face::default()).overall(), 0.0);
    }

    proptest! {
        #[test]
        fn any_face_has_a_quality_between_zero_and_one(
            values in proptest::array::uniform16(proptest::num::f32::ANY),
            has_landmarks: bool, aspect in 1u32..4,
        ) {
            let [score, x, y, w, h, _, landmarks @ ..] = values;
            let points = std::array::from_fn(|i| Point::new(landmarks[2 * i], landmarks[2 * i + 1]));
            let landmarks = has_landmarks.then_some(points);
            let face = Face { score, rect: Rect::new(x, y, w, h), landmarks, ..Face::default() };
            let frame = FrameSize { pixel_aspect: PixelAspect::new(aspect, 1), ..FRAME };
            let crop = OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, 16, 16), vec![9; 3 * 16 * 16]).unwrap();
            let found = FaceQuality::measure(&face, frame, &crop.view()).unwrap();
            let FaceQuality { size, sharpness, pose, score, visibility } = found;
            for value in [size, sharpness, pose, score, visibility, found.overall()] {
                prop_assert!((0.0..=1.0).contains(&value), "{found:?}");
            }
            prop_assert!(found.overall() <= FaceQuality::without_sharpness(&face, frame).overall());
        }
    }

    #[test]
    fn factors_that_are_no_numbers_give_a_quality_of_zero() {
        let broken = FaceQuality { size: f32::NAN, sharpness: 7.0, pose: 1.0, score: 1.0, visibility: 1.0 };
        assert_eq!(broken.overall(), 0.0);
        let beyond = FaceQuality { size: 2.0, sharpness: 7.0, pose: 1.0, score: 1.0, visibility: f32::INFINITY };
        assert_eq!(beyond.overall(), 1.0);
    }
}
