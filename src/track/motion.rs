//! The motion of one face: a Kalman filter with constant velocity.
//!
//! The state is the centre of the box, the logarithm of its size and the logarithm of its aspect
//! ratio, each with its velocity. Neither the dynamics nor the measurements couple the four, so that
//! the filter of eight states is four filters of two, without an approximation. The noise is
//! proportional to the size of the face, as in SORT and its successors (Bewley et al. 2016, Wojke et
//! al. 2017).

use crate::geometry::{Face, Landmarks, Point, Rect};

/// Standard deviation of a measured centre, as a fraction of the face's size.
const CENTRE_NOISE: f64 = 0.04;
/// Standard deviation of the logarithm of a measured size and aspect ratio.
const SHAPE_NOISE: f64 = 0.04;
/// Intensity of the random acceleration of the centre: after one second it has changed the velocity by
/// this many face sizes per second (one standard deviation).
const CENTRE_ACCELERATION: f64 = 4.0;
/// The same for the logarithm of the size, per second.
const SIZE_ACCELERATION: f64 = 0.5;
/// The same for the logarithm of the aspect ratio, per second.
const ASPECT_ACCELERATION: f64 = 0.2;
/// Standard deviation of the velocity of a face that was seen once, in face sizes per second.
const INITIAL_SPEED: f64 = 2.0;
/// Standard deviation of the change of the logarithms of a face that was seen once, per second.
const INITIAL_SHAPE_SPEED: f64 = 0.3;
/// Largest change of the logarithm of the size or the aspect ratio by a prediction. The box of a face
/// that disappears behind something shrinks quickly, and does not go on doing so.
const MAX_SHAPE_CHANGE: f64 = 0.2;

/// A value, its velocity per second, and their covariance.
#[derive(Clone, Copy, Debug)]
struct Axis {
    value: f64,
    /// Change per second.
    velocity: f64,
    /// Variance of the value.
    value_variance: f64,
    covariance: f64,
    /// Variance of the velocity.
    velocity_variance: f64,
}

impl Axis {
    fn new(value: f64, deviation: f64, velocity_deviation: f64) -> Self {
        Self {
            value,
            velocity: 0.0,
            value_variance: deviation * deviation,
            covariance: 0.0,
            velocity_variance: velocity_deviation * velocity_deviation,
        }
    }

    /// The state after `seconds`, with white noise of the acceleration of this intensity.
    fn predicted(self, seconds: f64, acceleration: f64) -> Self {
        let Self { value, velocity, value_variance, covariance, velocity_variance } = self;
        let intensity = acceleration * acceleration;
        Self {
            value: value + velocity * seconds,
            velocity,
            value_variance: value_variance
                + 2.0 * seconds * covariance
                + seconds * seconds * velocity_variance
                + intensity * seconds.powi(3) / 3.0,
            covariance: covariance + seconds * velocity_variance + intensity * seconds * seconds / 2.0,
            velocity_variance: velocity_variance + intensity * seconds,
        }
    }

    /// Corrects the state by a measurement with this standard deviation.
    fn correct(&mut self, measured: f64, deviation: f64) {
        let innovation = measured - self.value;
        let variance = self.value_variance + deviation * deviation;
        let (gain, velocity_gain) = (self.value_variance / variance, self.covariance / variance);
        self.value += gain * innovation;
        self.velocity += velocity_gain * innovation;
        self.velocity_variance -= velocity_gain * self.covariance;
        self.covariance *= 1.0 - gain;
        self.value_variance *= 1.0 - gain;
    }
}

/// What a filter measures of a face.
#[derive(Clone, Copy, Debug)]
struct Measurement {
    x: f64,
    y: f64,
    log_size: f64,
    log_aspect: f64,
}

impl Measurement {
    fn new(rect: Rect) -> Self {
        let [x, y, w, h] = [rect.x, rect.y, rect.w, rect.h].map(f64::from);
        Self { x: x + w / 2.0, y: y + h / 2.0, log_size: (w * h).ln() / 2.0, log_aspect: (w / h).ln() }
    }
}

/// The motion of a face, at the time of its latest measurement.
#[derive(Clone, Debug)]
pub(super) struct Motion {
    x: Axis,
    y: Axis,
    log_size: Axis,
    log_aspect: Axis,
    /// The landmarks relative to the box: from -0.5 to 0.5 inside of it.
    landmarks: Option<Landmarks>,
}

/// Where a face is expected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Predicted {
    pub(super) rect: Rect,
    pub(super) landmarks: Option<Landmarks>,
    /// Standard deviation of the centre, in pixels: the larger one of the two axes.
    pub(super) uncertainty: f32,
}

impl Motion {
    /// The motion of a face that was seen once. Its box must have an area.
    pub(super) fn new(face: &Face) -> Self {
        let Measurement { x, y, log_size, log_aspect } = Measurement::new(face.rect);
        let size = log_size.exp();
        Self {
            x: Axis::new(x, CENTRE_NOISE * size, INITIAL_SPEED * size),
            y: Axis::new(y, CENTRE_NOISE * size, INITIAL_SPEED * size),
            log_size: Axis::new(log_size, SHAPE_NOISE, INITIAL_SHAPE_SPEED),
            log_aspect: Axis::new(log_aspect, SHAPE_NOISE, INITIAL_SHAPE_SPEED / 2.0),
            landmarks: relative_landmarks(face),
        }
    }

    /// The state after `seconds` without a measurement.
    fn after(&self, seconds: f64) -> Self {
        let size = self.log_size.value.exp();
        let centre = |axis: Axis| axis.predicted(seconds, CENTRE_ACCELERATION * size);
        let shape = |axis: Axis, acceleration: f64| {
            let mut next = axis.predicted(seconds, acceleration);
            next.value = next.value.clamp(axis.value - MAX_SHAPE_CHANGE, axis.value + MAX_SHAPE_CHANGE);
            next
        };
        Self {
            x: centre(self.x),
            y: centre(self.y),
            log_size: shape(self.log_size, SIZE_ACCELERATION),
            log_aspect: shape(self.log_aspect, ASPECT_ACCELERATION),
            landmarks: self.landmarks,
        }
    }

    /// Where the face is `seconds` after its latest measurement.
    pub(super) fn predict(&self, seconds: f64) -> Predicted {
        let next = self.after(seconds);
        let (size, aspect) = (next.log_size.value.exp(), (next.log_aspect.value / 2.0).exp());
        let (w, h) = (size * aspect, size / aspect);
        let [x, y] = [next.x.value - w / 2.0, next.y.value - h / 2.0];
        let rect = Rect::new(x as f32, y as f32, w as f32, h as f32);
        let landmarks = self.landmarks.map(|points| {
            points.map(|Point { x, y }| {
                let (x, y) = (next.x.value + f64::from(x) * w, next.y.value + f64::from(y) * h);
                Point::new(x as f32, y as f32)
            })
        });
        let uncertainty = next.x.value_variance.max(next.y.value_variance).sqrt() as f32;
        Predicted { rect, landmarks, uncertainty }
    }

    /// Adds a measurement `seconds` after the latest one. `noise` is 1 for a certain detection and
    /// more for one with a low score.
    pub(super) fn measure(&mut self, seconds: f64, face: &Face, noise: f64) {
        let Measurement { x, y, log_size, log_aspect } = Measurement::new(face.rect);
        let mut next = self.after(seconds);
        let centre_noise = noise * CENTRE_NOISE * log_size.exp();
        next.x.correct(x, centre_noise);
        next.y.correct(y, centre_noise);
        next.log_size.correct(log_size, noise * SHAPE_NOISE);
        next.log_aspect.correct(log_aspect, noise * SHAPE_NOISE);
        next.landmarks = relative_landmarks(face).or(self.landmarks);
        *self = next;
    }

    /// Adds a measurement whose position has this standard deviation in pixels, if it is more than that
    /// of a detection.
    pub(super) fn measure_uncertain(&mut self, seconds: f64, face: &Face, uncertainty: f32) {
        let size = f64::from(face.rect.w * face.rect.h).sqrt();
        let noise = f64::from(uncertainty) / (CENTRE_NOISE * size);
        self.measure(seconds, face, if noise.is_finite() { noise.max(1.0) } else { 1.0 });
    }

    /// Moves the face by a shift of the camera, in pixels. The velocity stays that of the face.
    pub(super) fn shift(&mut self, by: Point) {
        self.x.value += f64::from(by.x);
        self.y.value += f64::from(by.y);
    }
}

/// The landmarks relative to the centre and the size of the box.
fn relative_landmarks(face: &Face) -> Option<Landmarks> {
    let Rect { x, y, w, h } = face.rect;
    face.landmarks
        .map(|points| points.map(|point| Point::new((point.x - x - w / 2.0) / w, (point.y - y - h / 2.0) / h)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(x: f32, y: f32, w: f32, h: f32) -> Face {
        let landmarks = crate::geometry::ARCFACE_TEMPLATE.map(|p| Point::new(x + p.x * w / 112.0, y + p.y * h / 112.0));
        Face { score: 0.9, rect: Rect::new(x, y, w, h), landmarks: Some(landmarks), ..Face::default() }
    }

    #[test]
    fn a_constant_velocity_is_learned_and_predicted() {
        let mut motion = Motion::new(&face(100.0, 50.0, 40.0, 50.0));
        for step in 1..10 {
            motion.measure(0.2, &face(100.0 + 12.0 * step as f32, 50.0 - 4.0 * step as f32, 40.0, 50.0), 1.0);
        }
        let Predicted { rect, landmarks, .. } = motion.predict(0.2);
        let expected = face(220.0, 10.0, 40.0, 50.0);
        assert!((rect.x - 220.0).abs() < 1.0 && (rect.y - 10.0).abs() < 1.0, "{rect:?}");
        assert!((rect.w - 40.0).abs() < 0.5 && (rect.h - 50.0).abs() < 0.5, "{rect:?}");
        for (found, expected) in landmarks.unwrap().iter().zip(expected.landmarks.unwrap()) {
            assert!((found.x - expected.x).abs() < 1.0 && (found.y - expected.y).abs() < 1.0);
        }
    }

    #[test]
    fn uncertainty_grows_with_time_and_shrinks_with_measurements() {
        let mut motion = Motion::new(&face(0.0, 0.0, 50.0, 50.0));
        let first = motion.predict(0.1).uncertainty;
        assert!(motion.predict(0.4).uncertainty > 2.0 * first);
        for _ in 0..5 {
            motion.measure(0.1, &face(0.0, 0.0, 50.0, 50.0), 1.0);
        }
        assert!(motion.predict(0.1).uncertainty < 0.8 * first);
        // A face twice as large is uncertain by twice as many pixels.
        let large = Motion::new(&face(0.0, 0.0, 100.0, 100.0)).predict(0.1).uncertainty;
        assert!((large / first - 2.0).abs() < 1e-3);
    }

    #[test]
    fn a_face_keeps_a_finite_size_however_long_it_is_predicted() {
        let mut motion = Motion::new(&face(0.0, 0.0, 20.0, 20.0));
        motion.measure(0.04, &face(0.0, 0.0, 40.0, 40.0), 1.0);
        let Predicted { rect, .. } = motion.predict(1e6);
        assert!(rect.is_finite() && rect.w < 100.0, "{rect:?}");
    }

    #[test]
    fn a_face_without_landmarks_is_predicted_without() {
        let boxed = Face { landmarks: None, ..face(0.0, 0.0, 20.0, 20.0) };
        assert!(Motion::new(&boxed).predict(0.1).landmarks.is_none());
    }
}
