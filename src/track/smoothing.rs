//! Smooth boxes and landmarks for people who look at them: the One Euro filter.
//!
//! The filter is a low-pass of first order whose cutoff frequency rises with the speed: a still face
//! does not jitter, and a moving one does not lag (Casiez, Roussel and Vogel, "1 € Filter", 2012).

use std::collections::HashMap;
use std::time::Duration;

use super::association::size;
use crate::geometry::{Face, Point, Rect};

/// Cutoff frequency of a still face, in Hz.
const MIN_CUTOFF: f32 = 1.0;
/// Rise of the cutoff frequency with the speed, in Hz per face size per second.
const SPEED_CUTOFF: f32 = 6.0;
/// Cutoff frequency of the speed, in Hz: the value of the authors.
const DERIVATIVE_CUTOFF: f32 = 1.0;
/// A track that was not seen for this long starts anew.
const MAX_GAP: Duration = Duration::from_millis(500);

/// A filtered value, in units of the size of the face.
#[derive(Clone, Copy, Debug)]
struct OneEuro {
    value: f32,
    speed: f32,
}

/// The weight of a new value after this time.
fn weight(cutoff: f32, seconds: f32) -> f32 {
    let step = std::f32::consts::TAU * cutoff * seconds;
    step / (step + 1.0)
}

impl OneEuro {
    fn new(value: f32) -> Self {
        Self { value, speed: 0.0 }
    }

    /// The filtered value. `scale` is the size of the face in the unit of `value`.
    fn filter(&mut self, value: f32, seconds: f32, scale: f32) -> f32 {
        let speed = (value - self.value) / scale / seconds;
        self.speed += weight(DERIVATIVE_CUTOFF, seconds) * (speed - self.speed);
        let cutoff = MIN_CUTOFF + SPEED_CUTOFF * self.speed.abs();
        self.value += weight(cutoff, seconds) * (value - self.value);
        self.value
    }
}

/// The filters of a face: centre, sides, landmarks.
#[derive(Clone, Debug)]
struct Filters {
    time: Duration,
    values: Vec<OneEuro>,
}

/// The coordinates of a face that are filtered.
fn values(face: &Face) -> Vec<f32> {
    let Rect { x, y, w, h } = face.rect;
    let points = face.landmarks.iter().flatten().flat_map(|point| [point.x, point.y]);
    [x + w / 2.0, y + h / 2.0, w, h].into_iter().chain(points).collect()
}

/// Smooths the faces of a stream over their tracks.
#[derive(Clone, Debug, Default)]
pub struct Smoother {
    tracks: HashMap<u64, Filters>,
}

impl Smoother {
    /// No face was seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Smooths the boxes and landmarks of the faces with a track id in the frame with this time.
    /// Faces without an id and the points of landmark models stay as they are.
    pub fn smooth(&mut self, time: Duration, faces: &mut [Face]) {
        self.tracks.retain(|_, filters| filters.time <= time && time - filters.time <= MAX_GAP);
        for face in faces.iter_mut().filter(|face| face.is_finite() && face.rect.area() > 0.0) {
            let Some(id) = face.track_id else { continue };
            let (measured, scale) = (values(face), size(face.rect));
            let filters = self.tracks.get_mut(&id).filter(|filters| filters.values.len() == measured.len());
            let Some(Filters { time: last, values }) = filters else {
                let values = measured.into_iter().map(OneEuro::new).collect();
                self.tracks.insert(id, Filters { time, values });
                continue;
            };
            let seconds = (time - *last).as_secs_f32();
            *last = time;
            if seconds > 0.0 {
                values.iter_mut().zip(measured).for_each(|(filter, value)| {
                    filter.filter(value, seconds, scale);
                });
            }
            if let [x, y, w, h, points @ ..] = &values[..] {
                face.rect = Rect::new(x.value - w.value / 2.0, y.value - h.value / 2.0, w.value, h.value);
                let smoothed = points.as_chunks::<2>().0.iter().map(|[x, y]| Point::new(x.value, y.value));
                for (point, smoothed) in face.landmarks.iter_mut().flatten().zip(smoothed) {
                    *point = smoothed;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(x: f32, id: u64) -> Face {
        let rect = Rect::new(x, 50.0, 40.0, 40.0);
        Face { rect, landmarks: Some([Point::new(x + 20.0, 70.0); 5]), track_id: Some(id), ..Face::default() }
    }

    /// The boxes after smoothing faces at these positions, one per 40 ms.
    fn smoothed(positions: impl Iterator<Item = f32>) -> Vec<Face> {
        let mut smoother = Smoother::new();
        let smooth = |(number, x): (u64, f32)| {
            let mut faces = [face(x, 1)];
            smoother.smooth(Duration::from_millis(40 * number), &mut faces);
            faces[0].clone()
        };
        (0..).zip(positions).map(smooth).collect()
    }

    #[test]
    fn a_still_face_jitters_less() {
        // Noise of one pixel in a face of 40.
        let noise = |number: u32| if number.wrapping_mul(2_654_435_761) >> 31 == 0 { 1.0 } else { -1.0 };
        let faces = smoothed((0..200).map(|number| 100.0 + noise(number)));
        let steps = faces.windows(2).map(|pair| (pair[1].rect.x - pair[0].rect.x).abs());
        let raw = (1..200).map(|number| (noise(number) - noise(number - 1)).abs());
        let (mean, raw) = (steps.sum::<f32>() / 199.0, raw.sum::<f32>() / 199.0);
        assert!(mean < raw / 3.0, "{mean} {raw}");
    }

    #[test]
    fn a_moving_face_lags_by_a_small_part_of_its_size() {
        // One face size per second.
        let faces = smoothed((0..100).map(|number| 1.6 * number as f32));
        let last = &faces[99];
        let lag = 1.6 * 99.0 - last.rect.x;
        assert!((0.0..0.06 * 40.0).contains(&lag), "{lag}");
        assert!((last.landmarks.unwrap()[0].x - last.rect.x - 20.0).abs() < 0.5);
    }

    #[test]
    fn the_first_face_of_a_track_a_gap_and_faces_without_an_id_are_not_smoothed() {
        let mut smoother = Smoother::new();
        let mut at = |time: u64, x: f32, id: Option<u64>| {
            let mut faces = [Face { track_id: id, ..face(x, 0) }];
            smoother.smooth(Duration::from_millis(time), &mut faces);
            faces[0].rect.x
        };
        assert_eq!(at(0, 10.0, Some(1)), 10.0);
        assert!(at(40, 12.0, Some(1)) < 12.0);
        assert_eq!(at(80, 14.0, None), 14.0);
        assert_eq!(at(700, 30.0, Some(1)), 30.0, "the gap is too long");
        assert_eq!(at(600, 40.0, Some(1)), 40.0, "the time goes back");
    }
}
