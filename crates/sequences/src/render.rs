//! From a scenario to frames.

use std::path::Path;
use std::sync::Arc;

use crate::background::{Background, SensorNoise};
use crate::error::Error;
use crate::faces::{MULTI_FACE, Person, SINGLE_FACE};
use crate::scenario::{FrameTime, Placed, Scenario, TrueFace};
use crate::sprite::{PhotoPixels, Sprite};

/// Grey of a pillar in its middle and at its edges.
const PILLAR: [f64; 2] = [112.0, 58.0];

/// The heads of all people. Sequences share them, so that a renderer can be dropped before them.
#[derive(Clone, Debug)]
pub struct Renderer {
    sprites: Arc<[Sprite]>,
}

impl Renderer {
    /// Reads the photos from the directory of the media, `.fetch/media` in the repository.
    ///
    /// # Errors
    /// If a photo is missing or is another one.
    pub fn open(media: &Path) -> Result<Self, Error> {
        let (multi_face, single_face) = (PhotoPixels::read(media, MULTI_FACE)?, PhotoPixels::read(media, SINGLE_FACE)?);
        let sprite = |person: Person| {
            let photo = if person.photo() == SINGLE_FACE { &single_face } else { &multi_face };
            Sprite::new(person, photo)
        };
        Ok(Self { sprites: Person::ALL.into_iter().map(sprite).collect::<Result<_, _>>()? })
    }

    /// Prepares the frames of a scenario: makes the background.
    ///
    /// # Errors
    /// If the scenario has values that cannot be rendered, which those of this crate have not.
    pub fn sequence(&self, scenario: &Scenario) -> Result<Sequence, Error> {
        let times = scenario.timeline();
        let [left, top, right, bottom] = scenario.world(&times)?;
        let size = ((right - left) as usize, (bottom - top) as usize);
        Ok(Sequence {
            scenario: *scenario,
            times,
            sprites: Arc::clone(&self.sprites),
            background: Background::new((left, top), size),
            noise: SensorNoise::new(3 * scenario.width * scenario.height, scenario.noise),
        })
    }
}

/// A frame with its truth.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Presentation time since the start of the sequence, in nanoseconds.
    pub pts_ns: u64,
    /// See [`FrameTime::duration_ns`].
    pub duration_ns: u64,
    /// Width, in pixels.
    pub width: usize,
    /// Height, in pixels.
    pub height: usize,
    /// Packed RGB with a stride of `3 * width` bytes.
    pub rgb: Vec<u8>,
    /// The true faces, from far to near.
    pub faces: Vec<TrueFace>,
}

/// The frames of a scenario. Each is rendered when it is asked for, in any order.
#[derive(Debug)]
pub struct Sequence {
    scenario: Scenario,
    times: Vec<FrameTime>,
    sprites: Arc<[Sprite]>,
    background: Background,
    noise: SensorNoise,
}

impl Sequence {
    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Number of frames.
    #[expect(clippy::len_without_is_empty, reason = "a sequence has at least one frame")]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Time and duration of each frame.
    pub fn times(&self) -> &[FrameTime] {
        &self.times
    }

    /// All frames, in the order of time.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = Result<Frame, Error>> + '_ {
        (0..self.len()).map(|index| self.frame(index))
    }

    /// Renders frame `index`, from 0.
    ///
    /// # Errors
    /// If there is no such frame, or OpenCV fails.
    pub fn frame(&self, index: usize) -> Result<Frame, Error> {
        let FrameTime { pts_ns, duration_ns } =
            *self.times.get(index).ok_or(Error::FrameIndex { index, len: self.len() })?;
        let Scenario { width, height, .. } = self.scenario;
        let mut rgb = Vec::with_capacity(3 * width * height);
        self.background.copy(self.scenario.camera_at(pts_ns), (width, height), &mut rgb);
        for layer in self.scenario.placed(pts_ns) {
            match layer {
                Placed::Head { head, .. } => self.sprites[head.person as usize].draw(&head, &mut rgb, width, height)?,
                Placed::Pillar { left, right } => draw_pillar(left, right, &mut rgb, width),
            }
        }
        self.noise.add(index, &mut rgb);
        Ok(Frame { pts_ns, duration_ns, width, height, rgb, faces: self.scenario.faces_at(pts_ns) })
    }
}

/// Draws a pillar between two positions: a cylinder with light from the front.
fn draw_pillar(left: f64, right: f64, rgb: &mut [u8], width: usize) {
    // The saturating conversions clip to the frame on the left.
    let end = (right.ceil() as usize).min(width);
    let start = (left.floor() as usize).min(end);
    // For each column the weight of what is behind, and the weighted grey of the pillar, in 1/256.
    let column = |col: usize| {
        let x = col as f64;
        let coverage = (x + 1.0).min(right) - x.max(left);
        let side = (2.0 * (x + 0.5 - left) / (right - left) - 1.0).clamp(-1.0, 1.0);
        let [middle, edge] = PILLAR;
        let grey = edge + (middle - edge) * (1.0 - side * side).sqrt();
        ((256.0 * (1.0 - coverage)) as u16, (256.0 * grey * coverage) as u16)
    };
    let columns = (start..end).map(column).collect::<Vec<_>>();
    for row in rgb.chunks_exact_mut(3 * width) {
        let (pixels, _) = row[3 * start..].as_chunks_mut::<3>();
        for (pixel, (behind, grey)) in pixels.iter_mut().zip(&columns) {
            for value in pixel {
                *value = ((u16::from(*value) * behind + grey) >> 8) as u8;
            }
        }
    }
}
