//! What a scenario consists of, and its truth.

use retinaface::geometry::{Landmarks, Rect};

use crate::error::Error;
use crate::faces::{Head, Person};
use crate::motion::{Camera, Key};

/// A description of a sequence. [`SCENARIOS`](crate::SCENARIOS) has those of this crate. A test can
/// make its own; `Vec::leak` makes slices of values that are not constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    /// Name: lower case with hyphens.
    pub name: &'static str,
    /// What happens, in one sentence.
    pub description: &'static str,
    /// Width of the frames, in pixels; 1..=4096.
    pub width: usize,
    /// Height of the frames, in pixels; 1..=4096.
    pub height: usize,
    /// Nominal number of frames per second; above 0.
    pub frame_rate: u32,
    /// Number of frame periods; above 0. The number of frames is smaller with [`Timing::Dropped`].
    pub periods: usize,
    /// When frames are taken.
    pub timing: Timing,
    /// What is drawn over the background, from far to near.
    pub layers: &'static [Layer],
    /// The motion of the camera.
    pub camera: Camera,
    /// Amplitude of the noise that differs from frame to frame, in levels of 8 bits; at most 127.
    pub noise: u8,
}

/// When the frames of a sequence are taken. The first one has a time of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// At the nominal frame rate.
    Regular,
    /// At the nominal frame rate, but the periods of these ranges have no frame: the first period
    /// without a frame, and the first one with a frame again.
    Dropped(&'static [(usize, usize)]),
    /// These intervals follow each other again and again, in ms.
    Uneven(&'static [u32]),
}

/// Time and duration of a frame, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTime {
    /// Presentation time since the start of the sequence.
    pub pts_ns: u64,
    /// Nominal duration; with [`Timing::Uneven`] the time until the next frame. Before dropped
    /// frames it is the nominal one, so that the gap can be seen.
    pub duration_ns: u64,
}

/// Something that is drawn over the background.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layer {
    /// A face.
    Face(Actor),
    /// A pillar, which hides what is behind it.
    Pillar(Pillar),
}

/// A face that moves. Each is one identity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Actor {
    /// Whose face it is.
    pub person: Person,
    /// Keys in the order of time, at least one.
    pub path: &'static [Key],
    /// Amplitude of the vertical motion of a walk with 2 steps per second, in heights of the face
    /// box.
    pub bob: f64,
}

/// A vertical pillar over the whole height of the frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pillar {
    /// Left edge, in world pixels.
    pub x: f64,
    /// Width, in pixels.
    pub width: f64,
}

/// A face of which at least a part of the box is in the frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrueFace {
    /// The identity: from 1, in the order of the scenario's faces.
    pub id: u32,
    /// Bounding box, in frame pixels; it can extend beyond the frame.
    pub rect: Rect,
    /// Left eye, right eye, nose tip, left mouth corner, right mouth corner, in frame pixels.
    pub landmarks: Landmarks,
    /// Share of the box that is in the frame and not behind a pillar or a nearer head, in
    /// 0.0..=1.0. A head hides less than its box, because it is an ellipse.
    pub visibility: f32,
}

/// A layer at one instant, in frame pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Placed {
    Head { id: u32, head: Head },
    Pillar { left: f64, right: f64 },
}

/// Nanoseconds of a second and of a millisecond.
const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;
/// Steps per second of a walk.
const STEP_RATE: f64 = 2.0;
/// Points per axis of the grid on which the visibility is measured.
const VISIBILITY_GRID: u16 = 32;
/// Maximum width and height of a frame.
const MAX_SIDE: usize = 4096;
/// Maximum number of pixels of the world that the camera sees.
const MAX_WORLD: f64 = 1e8;

impl Scenario {
    /// Times of all frames, in the order of time.
    pub fn timeline(&self) -> Vec<FrameTime> {
        let period = |index: usize| index as u64 * SECOND / u64::from(self.frame_rate.max(1));
        let regular = (0..self.periods)
            .map(|index| FrameTime { pts_ns: period(index), duration_ns: period(index + 1) - period(index) });
        match self.timing {
            Timing::Regular => regular.collect(),
            Timing::Dropped(gaps) => {
                let is_dropped = |index: usize| gaps.iter().any(|(start, end)| (*start..*end).contains(&index));
                regular.enumerate().filter(|(index, _)| !is_dropped(*index)).map(|(_, time)| time).collect()
            }
            Timing::Uneven(intervals) => {
                let intervals = intervals.iter().cycle().take(self.periods).map(|ms| u64::from(*ms) * MILLISECOND);
                let frames = intervals.scan(0, |end, duration_ns| {
                    let pts_ns = std::mem::replace(end, *end + duration_ns);
                    Some(FrameTime { pts_ns, duration_ns })
                });
                frames.collect()
            }
        }
    }

    /// The true faces at a time since the start of the sequence, in nanoseconds, in the order of
    /// the layers: from far to near. Needs no photos.
    pub fn faces_at(&self, pts_ns: u64) -> Vec<TrueFace> {
        let placed = self.placed(pts_ns);
        let (width, height) = (self.width as f32, self.height as f32);
        let face = |(index, layer): (usize, &Placed)| {
            let Placed::Head { id, head } = *layer else { return None };
            let rect = head.rect();
            rect.clipped(width, height)?;
            let visibility = self.visibility(rect, &placed[index + 1..]);
            Some(TrueFace { id, rect, landmarks: head.landmarks(), visibility })
        };
        placed.iter().enumerate().filter_map(face).collect()
    }

    /// World position of the top left corner of the frame at a time, in pixels.
    pub(crate) fn camera_at(&self, pts_ns: u64) -> (f64, f64) {
        self.camera.at(seconds(pts_ns))
    }

    /// The layers at a time, from far to near.
    pub(crate) fn placed(&self, pts_ns: u64) -> Vec<Placed> {
        let time = seconds(pts_ns);
        let (camera_x, camera_y) = self.camera.at(time);
        let mut last_id = 0;
        let place = |layer: &Layer| match layer {
            Layer::Face(Actor { person, path, bob }) => {
                last_id += 1;
                let mut key = Key::at(path, time);
                let step = (std::f64::consts::TAU * STEP_RATE * time).sin();
                key.x -= camera_x;
                key.y += bob * key.size * step - camera_y;
                Placed::Head { id: last_id, head: Head::new(*person, &key) }
            }
            Layer::Pillar(Pillar { x, width }) => Placed::Pillar { left: x - camera_x, right: x - camera_x + width },
        };
        self.layers.iter().map(place).collect()
    }

    /// Share of `rect` that is in the frame and not hidden by `nearer`.
    fn visibility(&self, rect: Rect, nearer: &[Placed]) -> f32 {
        let (frame_width, frame_height) = (self.width as f64, self.height as f64);
        let [x, y, w, h] = [rect.x, rect.y, rect.w, rect.h].map(f64::from);
        let overlaps = |layer: &&Placed| match layer {
            Placed::Head { head, .. } => {
                let [left, top, right, bottom] = head.bounds();
                left < x + w && x < right && top < y + h && y < bottom
            }
            Placed::Pillar { left, right } => *left < x + w && x < *right,
        };
        let nearer = nearer.iter().filter(overlaps).collect::<Vec<_>>();
        let step = |index: u16| (f64::from(index) + 0.5) / f64::from(VISIBILITY_GRID);
        let points = (0..VISIBILITY_GRID)
            .flat_map(|row| (0..VISIBILITY_GRID).map(move |col| (x + w * step(col), y + h * step(row))));
        let is_visible = |(x, y): &(f64, f64)| {
            (0.0..frame_width).contains(x)
                && (0.0..frame_height).contains(y)
                && !nearer.iter().any(|layer| match layer {
                    Placed::Head { head, .. } => head.covers(*x, *y),
                    Placed::Pillar { left, right } => (*left..*right).contains(x),
                })
        };
        points.filter(is_visible).count() as f32 / f32::from(VISIBILITY_GRID).powi(2)
    }

    /// The part of the world that the frames at `times` show: left, top, right and bottom, in
    /// pixels.
    ///
    /// # Errors
    /// If the scenario has values that cannot be rendered.
    pub(crate) fn world(&self, times: &[FrameTime]) -> Result<[i64; 4], Error> {
        let check = |is_valid: bool, problem: &'static str| {
            if is_valid { Ok(()) } else { Err(Error::Scenario { name: self.name, problem }) }
        };
        let sides = 1..=MAX_SIDE;
        check(sides.contains(&self.width) && sides.contains(&self.height), "width and height must be in 1..=4096")?;
        check(self.frame_rate > 0 && !times.is_empty(), "it has no frames")?;
        check(self.noise <= 127, "the noise must be at most 127 levels")?;
        let is_valid = |layer: &Layer| match layer {
            Layer::Face(Actor { path, bob, .. }) => {
                !path.is_empty()
                    && path.iter().all(Key::is_valid)
                    && path.is_sorted_by(|a, b| a.time < b.time)
                    && (0.0..=1.0).contains(bob)
            }
            Layer::Pillar(Pillar { x, width }) => x.is_finite() && width.is_finite(),
        };
        check(self.layers.iter().all(is_valid) && self.camera.is_valid(), "a path has no keys or values out of range")?;
        let corners = times.iter().map(|time| self.camera_at(time.pts_ns));
        let range = corners.fold([f64::MAX, f64::MAX, f64::MIN, f64::MIN], |[left, top, right, bottom], (x, y)| {
            [left.min(x), top.min(y), right.max(x), bottom.max(y)]
        });
        let [left, top, right, bottom] = range;
        // One more pixel for the interpolation.
        let (right, bottom) = (right + self.width as f64 + 1.0, bottom + self.height as f64 + 1.0);
        check((right - left) * (bottom - top) <= MAX_WORLD, "the camera moves too far")?;
        Ok([left.floor() as i64, top.floor() as i64, right.ceil() as i64, bottom.ceil() as i64])
    }
}

fn seconds(pts_ns: u64) -> f64 {
    pts_ns as f64 / SECOND as f64
}
