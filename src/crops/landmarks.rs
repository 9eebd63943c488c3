//! Landmark models: more points for each face, from a model that runs on the face's crop.
//!
//! Any model with one image as input and pairs or triples of coordinates as output fits: 68, 98,
//! 106 points or any other number. The probe at opening finds the meaning of the coordinates, see
//! [`crate::inference::ModelTask::Landmarks`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::align::{self, Affine, AlignError};
use super::runner::{Batching, CropDecoder, CropError, CropRunner, CropValues, PendingCrops};
use crate::geometry::{ARCFACE_SIZE, ARCFACE_TEMPLATE, Face, Landmarks, PixelAspect, Point};
use crate::image::ImageView;
use crate::inference::{HeadOutputs, ModelError, SharedModel};
use crate::model::{LandmarkOutput, PointUnit};

/// How the five landmarks follow from a model's points: each is the mean of the points with these
/// indices. Sources: the numbering of iBUG 300-W (68), of WFLW (98) and of InsightFace's 2d106det
/// (106).
const FIVE_LANDMARKS_FROM: [(usize, [&[usize]; 5]); 3] = [
    (68, [&[37, 38, 40, 41], &[43, 44, 46, 47], &[30], &[48, 60], &[54, 64]]),
    (98, [&[96], &[97], &[54], &[76, 88], &[82, 92]]),
    (106, [&[38], &[88], &[86], &[52], &[61]]),
];

/// The part of the frame that a landmark model receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CropMode {
    /// The square around the box, rotated upright by the five landmarks if the face has them.
    #[default]
    Aligned,
    /// The square around the box, not rotated.
    Upright,
    /// The ArcFace alignment, as recognition models receive it. Faces without landmarks get no
    /// points.
    Template,
}

/// Per-call settings of a landmark model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LandmarkSettings {
    /// The part of the frame that the model receives.
    pub crop: CropMode,
    /// Size of that part relative to [`CropMode`]: 1.5 shows half as much again.
    pub crop_scale: f32,
    /// Maximum number of crops in a run; 0 for a number that suits the model.
    pub max_batch: usize,
    /// Maximum time to wait for the crops of other callers.
    pub batch_timeout: Duration,
}

impl Default for LandmarkSettings {
    fn default() -> Self {
        Self { crop: CropMode::default(), crop_scale: 1.0, max_batch: 0, batch_timeout: Duration::ZERO }
    }
}

/// The landmarks of the faces of a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundLandmarks {
    /// The points of each face, in frame pixels; `None` if the face has no crop or the model's
    /// output is not finite.
    pub points: Vec<Option<Vec<Point>>>,
    /// Maximum number of crops, of this frame and of other frames, in one run.
    pub batch: usize,
    /// From the submission to the end of the last run, and decoding.
    pub duration: Duration,
}

/// Finds landmarks with a shared model that was opened for
/// [`crate::inference::ModelTask::Landmarks`].
///
/// ```no_run
/// use std::path::Path;
/// use retinaface::inference::ModelTask;
/// use retinaface::{Landmarker, LandmarkSettings, ModelOptions, SharedModel};
/// # fn example(frame: &retinaface::ImageView<'_>, faces: &[retinaface::Face]) -> Result<(), Box<dyn std::error::Error>> {
/// let options = ModelOptions { task: ModelTask::Landmarks, ..ModelOptions::default() };
/// let landmarker = Landmarker::new(&SharedModel::open(Path::new("landmarks68.onnx"), &options)?)?;
/// let found = landmarker.find(frame, faces, &LandmarkSettings::default())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Landmarker {
    runner: CropRunner<LandmarkDecoder>,
}

impl Landmarker {
    /// A landmarker that shares `model` with other callers.
    ///
    /// # Errors
    /// If the model was opened for detection.
    pub fn new(model: &Arc<SharedModel>) -> Result<Self, ModelError> {
        let spec = model.spec();
        let wrong_task = || ModelError::Task { found: "face detection", wanted: "landmarks on faces" };
        let (output, size) = spec.points().cloned().zip(spec.fixed_size).ok_or_else(wrong_task)?;
        Ok(Self { runner: CropRunner::new(model, size, LandmarkDecoder { output, size }) })
    }

    /// Number of points that the model finds.
    pub fn count(&self) -> usize {
        self.runner.decoder().output.count
    }

    /// Finds the points of each face; waits for the model.
    ///
    /// # Errors
    /// If the frame cannot be warped or the model does not run.
    pub fn find(
        &self,
        frame: &ImageView<'_>,
        faces: &[Face],
        settings: &LandmarkSettings,
    ) -> Result<FoundLandmarks, CropError> {
        self.submit(frame, faces, settings)?.wait()
    }

    /// Submits the crops of all faces without waiting for the results. The frame is not needed
    /// afterwards.
    ///
    /// # Errors
    /// If the frame cannot be warped or the engine has stopped.
    pub fn submit(
        &self,
        frame: &ImageView<'_>,
        faces: &[Face],
        settings: &LandmarkSettings,
    ) -> Result<PendingLandmarks, CropError> {
        let pixel_aspect = frame.info().pixel_aspect;
        let crops = faces.iter().map(|face| crop_from_frame(face, pixel_aspect, settings, self.runner.size()).ok());
        let batching = Batching { max_batch: settings.max_batch, batch_timeout: settings.batch_timeout };
        Ok(PendingLandmarks { crops: self.runner.submit(frame, crops, batching)? })
    }

    /// Declares that no face follows for a while, so that other callers' batches do not wait for
    /// one.
    pub fn set_idle(&self) {
        self.runner.set_idle();
    }
}

/// Faces that were submitted and whose points have not been read yet. Dropping it discards them.
pub struct PendingLandmarks {
    crops: PendingCrops<LandmarkDecoder>,
}

impl fmt::Debug for PendingLandmarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PendingLandmarks").field(&self.crops).finish()
    }
}

impl PendingLandmarks {
    /// Waits for the model.
    ///
    /// # Errors
    /// If the model does not run.
    pub fn wait(self) -> Result<FoundLandmarks, CropError> {
        let CropValues { values: points, batch, duration } = self.crops.wait()?;
        Ok(FoundLandmarks { points, batch, duration })
    }
}

/// From a model's output to points in frame pixels.
#[derive(Debug)]
struct LandmarkDecoder {
    output: LandmarkOutput,
    /// Width and height of the model's input.
    size: (usize, usize),
}

impl CropDecoder for LandmarkDecoder {
    type Value = Vec<Point>;

    fn decode(&self, outputs: &HeadOutputs<'_>, frame_from_crop: &Affine) -> Option<Vec<Point>> {
        let LandmarkOutput { count, point_dims: values_per_point, skipped, unit, .. } = self.output;
        let (width, height) = (self.size.0 as f32, self.size.1 as f32);
        let in_pixels = |value: f32, len: f32| match unit {
            PointUnit::Fraction => value * len,
            PointUnit::Signed => (value + 1.0) * len / 2.0,
            PointUnit::Pixels => value,
        };
        let in_crop = |point: &[f32]| Point::new(in_pixels(point[0], width), in_pixels(point[1], height));
        let values = outputs.values().first()?.get(skipped..)?;
        let points = values.chunks_exact(values_per_point).map(|point| frame_from_crop.apply(in_crop(point)));
        let points = points.take(count).collect::<Vec<_>>();
        (points.len() == count && points.iter().all(|point| point.is_finite())).then_some(points)
    }
}

/// The transform from frame pixels to a model input of that width and height.
fn crop_from_frame(
    face: &Face,
    pixel_aspect: PixelAspect,
    settings: &LandmarkSettings,
    size: (usize, usize),
) -> Result<Affine, AlignError> {
    let scale = f64::from(settings.crop_scale);
    let rotation = |landmarks: &Landmarks| {
        align::crop_from_frame(landmarks, pixel_aspect, ARCFACE_SIZE).map(|upright| upright.rotation())
    };
    match (settings.crop, &face.landmarks) {
        (CropMode::Aligned, Some(landmarks)) => {
            align::crop_around(face.rect, pixel_aspect, scale, rotation(landmarks)?, size)
        }
        (CropMode::Aligned, None) | (CropMode::Upright, _) => {
            align::crop_around(face.rect, pixel_aspect, scale, 0.0, size)
        }
        (CropMode::Template, Some(landmarks)) => {
            let (side, middle) = (size.0.min(size.1) as f32, ARCFACE_SIZE as f32 / 2.0);
            let factor = side / ARCFACE_SIZE as f32;
            let place =
                |template: f32, len: usize| (template - middle) * factor / settings.crop_scale + len as f32 / 2.0;
            let target = ARCFACE_TEMPLATE.map(|point| Point::new(place(point.x, size.0), place(point.y, size.1)));
            align::crop_to(landmarks, pixel_aspect, &target)
        }
        (CropMode::Template, None) => Err(AlignError::SamePoint),
    }
}

/// The five landmarks that follow from a model's points; `None` if the numbering of that many
/// points is not known.
pub fn five_landmarks(points: &[Point]) -> Option<Landmarks> {
    let (_, groups) = FIVE_LANDMARKS_FROM.iter().find(|(count, _)| *count == points.len())?;
    Some(groups.map(|group| {
        let count = group.len() as f32;
        let sum = group
            .iter()
            .fold(Point::default(), |sum, index| Point::new(sum.x + points[*index].x, sum.y + points[*index].y));
        Point::new(sum.x / count, sum.y / count)
    }))
}

/// Numbers of points for which [`five_landmarks`] knows the numbering.
pub fn known_point_counts() -> [usize; FIVE_LANDMARKS_FROM.len()] {
    FIVE_LANDMARKS_FROM.map(|(count, _)| count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{ARCFACE_TEMPLATE, Rect};

    #[test]
    fn a_rotated_face_is_upright_in_its_crop() {
        let quarter = ARCFACE_TEMPLATE.map(|point| Point::new(200.0 - point.y, 100.0 + point.x));
        let face = Face { rect: Rect::new(88.0, 100.0, 112.0, 112.0), landmarks: Some(quarter), ..Face::default() };
        for crop in [CropMode::Aligned, CropMode::Template] {
            let settings = LandmarkSettings { crop, ..LandmarkSettings::default() };
            let transform = crop_from_frame(&face, PixelAspect::SQUARE, &settings, (112, 112)).unwrap();
            for (point, template) in quarter.iter().zip(ARCFACE_TEMPLATE) {
                let shown = transform.apply(*point);
                assert!((shown.x - template.x).abs() < 1.5 && (shown.y - template.y).abs() < 1.5, "{crop:?} {shown:?}");
            }
        }
        let settings = LandmarkSettings { crop: CropMode::Upright, crop_scale: 2.0, ..LandmarkSettings::default() };
        let transform = crop_from_frame(&face, PixelAspect::SQUARE, &settings, (64, 64)).unwrap();
        assert_eq!(transform.apply(Point::new(143.5, 155.5)), Point::new(31.5, 31.5));
        assert!((transform.matrix()[0][0] - 64.0 / 224.0).abs() < 1e-9);
    }

    #[test]
    fn the_five_landmarks_follow_from_each_known_numbering() {
        for count in known_point_counts() {
            let points = (0..count).map(|index| Point::new(index as f32, 2.0 * index as f32)).collect::<Vec<_>>();
            assert!(five_landmarks(&points).is_some());
        }
        let points = (0..68).map(|index| Point::new(index as f32, 0.0)).collect::<Vec<_>>();
        assert_eq!(five_landmarks(&points).unwrap().map(|point| point.x), [39.0, 45.0, 30.0, 54.0, 59.0]);
        assert_eq!(five_landmarks(&points[..67]), None);
    }
}
