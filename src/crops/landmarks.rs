//! More landmarks: a model that is run on each face's crop, several faces and streams at once.
//!
//! Any model with one picture in and pairs or triples of numbers out will do: 68, 98, 106 points, any number. What its
//! coordinates mean is recognised when it is opened, see [`crate::model::Purpose::Points`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::align::{self, ARCFACE_SIZE, AlignError, Scratch, Similarity};
use crate::contract::{Contract, Points};
use crate::detector::{DetectError, SharedModel};
use crate::engine::{Client, Request, Ticket};
use crate::face::{Face, Landmarks, Point};
use crate::image::{ImageInfo, ImageView, OwnedImage, PixelFormat};
use crate::lock::lock;
use crate::overrides::PointUnit;
use crate::preprocess::{ChannelOrder, Normalization};
use crate::tensors::{Feed, Found, Tensors};

/// Crops that share a run where it is left open. Such models are so small that a run's fixed cost counts on a CPU, too.
const AUTO_BATCH: usize = 16;

/// Crops of one frame that are under way at once, which bounds the memory of a crowd.
const MOST_UNDERWAY: usize = 64;

/// How the five landmarks follow from others: each is the mean of points of these indices. Sources: the numbering of
/// iBUG 300-W (68), of WFLW (98) and of InsightFace's 2d106det (106).
const FIVE_OF: [(usize, [&[usize]; 5]); 3] = [
    (68, [&[37, 38, 40, 41], &[43, 44, 46, 47], &[30], &[48, 60], &[54, 64]]),
    (98, [&[96], &[97], &[54], &[76, 88], &[82, 92]]),
    (106, [&[38], &[88], &[86], &[52], &[61]]),
];

/// What of the frame a landmark model is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crop {
    /// The square around the box, turned so that the face is upright by its five landmarks, where it has them.
    #[default]
    Aligned,
    /// The square around the box as it is.
    Upright,
    /// As recognition models are shown: the five landmarks on the ArcFace template. Faces without landmarks get no points.
    Template,
}

/// What may change from call to call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What the model is shown.
    pub crop: Crop,
    /// How much more of the frame than [`Crop`] says: 1.5 shows half as much again.
    pub crop_scale: f32,
    /// At most so many crops share a run; 0 for as many as are worth it.
    pub max_batch: usize,
    /// How long a crop may wait for others to share its run.
    pub batch_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { crop: Crop::default(), crop_scale: 1.0, max_batch: 0, batch_timeout: Duration::ZERO }
    }
}

/// Memory that one crop leaves for the next.
#[derive(Debug)]
struct Buffers {
    tensors: Tensors,
    crop: OwnedImage,
    scratch: Scratch,
}

/// What was found on the faces of a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundPoints {
    /// Each face's; none where its crop is not determined, or the model's numbers are not finite.
    pub points: Vec<Option<Vec<Point>>>,
    /// How many crops, of this frame and of others, shared a run at most.
    pub batch: usize,
}

/// Finds points with a shared model that was opened for [`crate::model::Purpose::Points`].
#[derive(Debug)]
pub struct Landmarker {
    client: Client<Tensors>,
    model: Arc<SharedModel>,
    points: Points,
    /// Width and height of the model's input.
    size: (usize, usize),
    free: Mutex<Vec<Buffers>>,
}

impl Landmarker {
    /// A user of `model`; none if that was opened to find faces.
    pub fn new(model: &Arc<SharedModel>) -> Option<Self> {
        let contract = model.contract();
        let (points, size) = (contract.points()?.clone(), contract.fixed_size?);
        Some(Self { client: model.client(), model: Arc::clone(model), points, size, free: Mutex::default() })
    }

    /// How many points the model finds.
    pub fn count(&self) -> usize {
        self.points.count
    }

    /// Each face's points, in frame pixels. As many crops as may be under way are handed in before the first is waited for.
    ///
    /// # Errors
    /// If the frame cannot be warped or the model does not run.
    pub fn find(&self, frame: &ImageView<'_>, faces: &[Face], settings: &Settings) -> Result<FoundPoints, DetectError> {
        let mut found = FoundPoints { points: Vec::with_capacity(faces.len()), batch: 0 };
        for faces in faces.chunks(MOST_UNDERWAY) {
            let underway = faces.iter().map(|face| self.submit(frame, face, settings));
            for one in underway.collect::<Result<Vec<_>, _>>()? {
                found.points.push(match one {
                    Some(one) => self.wait(one, &mut found.batch)?,
                    None => None,
                });
            }
        }
        Ok(found)
    }

    /// Tells the model's engine that no face will come for a while.
    pub fn rest(&self) {
        self.client.rest();
    }

    fn submit(&self, frame: &ImageView<'_>, face: &Face, settings: &Settings) -> Result<Option<Underway>, DetectError> {
        let Some((crop_from_frame, back)) = crop_from_frame(face, settings, self.size)
            .ok()
            .and_then(|transform| Some((transform, transform.inverse()?)))
        else {
            return Ok(None);
        };
        let mut buffers = self.buffers()?;
        let Buffers { tensors, crop, scratch } = &mut buffers;
        align::warp(frame, &crop_from_frame, &mut crop.view_mut(), scratch)?;
        let contract = self.model.contract();
        fill(crop.data(), contract, tensors.floats().map_err(DetectError::Tensors)?);
        let Buffers { tensors, crop, scratch } = buffers;
        let wanted = if settings.max_batch == 0 { AUTO_BATCH } else { settings.max_batch };
        let request =
            Request { picture: tensors, max_batch: self.model.batch(wanted), batch_timeout: settings.batch_timeout };
        let ticket = self.client.submit(request)?;
        Ok(Some(Underway { ticket, frame_from_crop: back, crop, scratch }))
    }

    fn wait(&self, underway: Underway, batch: &mut usize) -> Result<Option<Vec<Point>>, DetectError> {
        let Underway { ticket, frame_from_crop, crop, scratch } = underway;
        let reply = ticket.wait()?;
        *batch = (*batch).max(reply.batch);
        let points = match reply.picture.found().map_err(DetectError::Tensors)? {
            Found::Heads(heads) => self.points(heads.values().first().copied().unwrap_or_default(), &frame_from_crop),
            Found::Candidates(_) => None,
        };
        lock(&self.free).push(Buffers { tensors: reply.picture, crop, scratch });
        Ok(points)
    }

    fn points(&self, values: &[f32], frame_from_crop: &Similarity) -> Option<Vec<Point>> {
        let Points { count, numbers, skipped, unit, .. } = self.points;
        let (width, height) = (self.size.0 as f32, self.size.1 as f32);
        let along = |value: f32, side: f32| match unit {
            PointUnit::Fraction => value * side,
            PointUnit::Signed => (value + 1.0) * side / 2.0,
            PointUnit::Pixels => value,
        };
        let in_crop = |numbers: &[f32]| Point::new(along(numbers[0], width), along(numbers[1], height));
        let points =
            values.get(skipped..)?.chunks_exact(numbers).map(|numbers| frame_from_crop.apply(in_crop(numbers)));
        let points = points.take(count).collect::<Vec<_>>();
        (points.len() == count && points.iter().all(|point| point.is_finite())).then_some(points)
    }

    fn buffers(&self) -> Result<Buffers, DetectError> {
        if let Some(free) = lock(&self.free).pop() {
            return Ok(free);
        }
        let (width, height) = self.size;
        let tensors = self.model.tensors(Feed::Floats { width, height }).map_err(DetectError::Tensors)?;
        let info = ImageInfo::new(PixelFormat::Rgb, width, height);
        let crop = OwnedImage::new(info, vec![0; 3 * width * height])?;
        Ok(Buffers { tensors, crop, scratch: Scratch::default() })
    }
}

/// A crop that the model has, or has had.
struct Underway {
    ticket: Ticket<Tensors>,
    frame_from_crop: Similarity,
    crop: OwnedImage,
    scratch: Scratch,
}

/// The transform from frame pixels to what the model is shown, a picture of that width and height.
fn crop_from_frame(face: &Face, settings: &Settings, size: (usize, usize)) -> Result<Similarity, AlignError> {
    let scale = f64::from(settings.crop_scale);
    // How the face lies; upright where nothing says.
    let turn = |landmarks: &Landmarks| align::crop_from_frame(landmarks, ARCFACE_SIZE).map(|upright| upright.turn());
    match (settings.crop, &face.landmarks) {
        (Crop::Aligned, Some(landmarks)) => align::crop_around(face.rect, scale, turn(landmarks)?, size),
        (Crop::Aligned, None) | (Crop::Upright, _) => align::crop_around(face.rect, scale, 0.0, size),
        (Crop::Template, Some(landmarks)) => {
            let (side, middle) = (size.0.min(size.1) as f32, ARCFACE_SIZE as f32 / 2.0);
            let factor = side / ARCFACE_SIZE as f32;
            let shown =
                |template: f32, whole: usize| (template - middle) * factor / settings.crop_scale + whole as f32 / 2.0;
            let target =
                align::ARCFACE_TEMPLATE.map(|point| Point::new(shown(point.x, size.0), shown(point.y, size.1)));
            align::umeyama(landmarks, &target)
        }
        (Crop::Template, None) => Err(AlignError::SamePoint),
    }
}

/// Fills a model's input from an RGB crop of its size.
fn fill(pixels: &[u8], contract: &Contract, input: &mut [f32]) {
    let Normalization { order, mean, scale, .. } = contract.normalization;
    let pixels = pixels.as_chunks::<3>().0;
    if contract.channels == 1 {
        for (value, [r, g, b]) in input.iter_mut().zip(pixels) {
            // Luma of BT.601, which OpenCV's and Pillow's grey is.
            let grey = 0.299 * f32::from(*r) + 0.587 * f32::from(*g) + 0.114 * f32::from(*b);
            *value = (grey - mean[0]) * scale;
        }
        return;
    }
    for (channel, plane) in input.chunks_exact_mut(pixels.len().max(1)).enumerate() {
        let from = if order == ChannelOrder::Bgr { 2 - channel } else { channel };
        for (value, pixel) in plane.iter_mut().zip(pixels) {
            *value = (f32::from(pixel[from]) - mean[channel]) * scale;
        }
    }
}

/// The five landmarks that follow from a model's points; none where the meaning of so many points is not known.
pub fn five_of(points: &[Point]) -> Option<Landmarks> {
    let (_, groups) = FIVE_OF.iter().find(|(count, _)| *count == points.len())?;
    Some(groups.map(|group| {
        let count = group.len() as f32;
        let sum = group
            .iter()
            .fold(Point::default(), |sum, index| Point::new(sum.x + points[*index].x, sum.y + points[*index].y));
        Point::new(sum.x / count, sum.y / count)
    }))
}

/// Numbers of points that [`five_of`] knows the meaning of.
pub fn known_counts() -> [usize; FIVE_OF.len()] {
    FIVE_OF.map(|(count, _)| count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::ARCFACE_TEMPLATE;
    use crate::face::Rect;

    #[test]
    fn a_turned_face_is_shown_upright() {
        let quarter = ARCFACE_TEMPLATE.map(|point| Point::new(200.0 - point.y, 100.0 + point.x));
        let face = Face { rect: Rect::new(88.0, 100.0, 112.0, 112.0), landmarks: Some(quarter), ..Face::default() };
        for crop in [Crop::Aligned, Crop::Template] {
            let settings = Settings { crop, ..Settings::default() };
            let transform = crop_from_frame(&face, &settings, (112, 112)).unwrap();
            for (point, template) in quarter.iter().zip(ARCFACE_TEMPLATE) {
                let shown = transform.apply(*point);
                assert!((shown.x - template.x).abs() < 1.5 && (shown.y - template.y).abs() < 1.5, "{crop:?} {shown:?}");
            }
        }
        let settings = Settings { crop: Crop::Upright, crop_scale: 2.0, ..Settings::default() };
        let transform = crop_from_frame(&face, &settings, (64, 64)).unwrap();
        assert_eq!(transform.apply(Point::new(143.5, 155.5)), Point::new(31.5, 31.5));
        assert!((transform.matrix()[0][0] - 64.0 / 224.0).abs() < 1e-9);
    }

    #[test]
    fn five_points_follow_from_as_many_as_are_known() {
        for count in known_counts() {
            let points = (0..count).map(|index| Point::new(index as f32, 2.0 * index as f32)).collect::<Vec<_>>();
            assert!(five_of(&points).is_some());
        }
        let points = (0..68).map(|index| Point::new(index as f32, 0.0)).collect::<Vec<_>>();
        assert_eq!(five_of(&points).unwrap().map(|point| point.x), [39.0, 45.0, 30.0, 54.0, 59.0]);
        assert_eq!(five_of(&points[..67]), None);
    }
}
