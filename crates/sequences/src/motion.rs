//! Positions as functions of time: smooth curves through keys.

/// Where a face is at one instant. Between two keys all values change smoothly; before the first
/// and after the last key they are constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Time since the start of the sequence, in seconds.
    pub time: f64,
    /// Centre of the face box, in world pixels.
    pub x: f64,
    /// Centre of the face box, in world pixels.
    pub y: f64,
    /// Height of the face box without roll, in pixels; above 0.
    pub size: f64,
    /// Rotation of the face relative to its photo, in degrees; positive is clockwise in the image.
    pub roll: f64,
}

impl Key {
    /// A key at `time` seconds with the centre `(x, y)`, the box height `size` and a roll of 0.
    pub const fn new(time: f64, x: f64, y: f64, size: f64) -> Self {
        Self { time, x, y, size, roll: 0.0 }
    }

    /// This key with a roll, in degrees.
    pub const fn roll(self, roll: f64) -> Self {
        Self { roll, ..self }
    }

    /// The interpolated key at `time` seconds. `keys` is not empty.
    pub(crate) fn at(keys: &[Self], time: f64) -> Self {
        let value = |value: fn(&Self) -> f64| interpolate(keys, time, |key| key.time, value);
        Self {
            time,
            x: value(|key| key.x),
            y: value(|key| key.y),
            // A constant speed of approach changes the logarithm linearly where the size is small.
            size: value(|key| key.size.ln()).exp(),
            roll: value(|key| key.roll),
        }
    }

    pub(crate) fn is_valid(&self) -> bool {
        let values = [self.time, self.x, self.y, self.size, self.roll];
        values.iter().all(|value| value.is_finite() && value.abs() <= 1e5) && self.size >= 1.0
    }
}

/// Where the camera is at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CameraKey {
    /// Time since the start of the sequence, in seconds.
    pub time: f64,
    /// World position of the left edge of the frame, in pixels.
    pub x: f64,
    /// World position of the top edge of the frame, in pixels.
    pub y: f64,
}

/// A shift of the camera within one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jump {
    /// Frames from this time on are shifted, in seconds.
    pub time: f64,
    /// Shift to the right, in pixels.
    pub x: f64,
    /// Shift downwards, in pixels.
    pub y: f64,
}

/// The motion of the camera: a smooth curve through the keys, plus all jumps so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Camera {
    /// Keys in the order of time. Without keys the camera is at (0, 0).
    pub path: &'static [CameraKey],
    /// Jumps in any order.
    pub jumps: &'static [Jump],
}

impl Camera {
    /// A camera at (0, 0) that does not move.
    pub const STILL: Self = Self { path: &[], jumps: &[] };

    /// World position of the top left corner of the frame at `time` seconds.
    pub(crate) fn at(&self, time: f64) -> (f64, f64) {
        let value = |value: fn(&CameraKey) -> f64| match self.path {
            [] => 0.0,
            path => interpolate(path, time, |key| key.time, value),
        };
        let jumps = self.jumps.iter().filter(|jump| jump.time <= time);
        jumps.fold((value(|key| key.x), value(|key| key.y)), |(x, y), jump| (x + jump.x, y + jump.y))
    }

    pub(crate) fn is_valid(&self) -> bool {
        let path = self.path.iter().flat_map(|key| [key.time, key.x, key.y]);
        let jumps = self.jumps.iter().flat_map(|jump| [jump.time, jump.x, jump.y]);
        path.chain(jumps).all(|value| value.is_finite() && value.abs() <= 1e5)
            && self.path.is_sorted_by(|a, b| a.time < b.time)
    }
}

/// Monotone cubic interpolation: the curve has no extremum between two keys, so that a face between
/// equal keys stands still. `keys` is not empty and in the order of time.
///
/// Source: Fritsch and Butland, A Method for Constructing Local Monotone Piecewise Cubic
/// Interpolants (1984). The slopes at both ends are those of the first and the last interval.
fn interpolate<K>(keys: &[K], time: f64, time_of: impl Fn(&K) -> f64, value_of: impl Fn(&K) -> f64) -> f64 {
    let after = keys.partition_point(|key| time_of(key) <= time);
    if after == 0 || after == keys.len() {
        return value_of(&keys[after.saturating_sub(1)]);
    }
    let length = |interval: usize| time_of(&keys[interval + 1]) - time_of(&keys[interval]);
    let secant = |interval: usize| (value_of(&keys[interval + 1]) - value_of(&keys[interval])) / length(interval);
    let slope = |key: usize| {
        if key == 0 || key + 1 == keys.len() {
            return secant(key.saturating_sub(1).min(keys.len() - 2));
        }
        let (before, after) = (secant(key - 1), secant(key));
        if before * after <= 0.0 {
            return 0.0;
        }
        let (shorter, longer) = (length(key - 1) + 2.0 * length(key), 2.0 * length(key - 1) + length(key));
        (shorter + longer) / (longer / before + shorter / after)
    };
    let start = after - 1;
    let h = length(start);
    let s = (time - time_of(&keys[start])) / h;
    let (from, to) = (value_of(&keys[start]), value_of(&keys[after]));
    // The Hermite basis, as a difference, so that equal keys give exactly their value.
    from + (to - from) * s * s * (3.0 - 2.0 * s)
        + slope(start) * h * s * (1.0 - s).powi(2)
        + slope(after) * h * s * s * (s - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(time: f64, x: f64) -> Key {
        Key::new(time, x, 0.0, 50.0)
    }

    #[test]
    fn a_curve_goes_through_its_keys_and_is_constant_outside() {
        let keys = [at(1.0, 10.0), at(2.0, 50.0), at(4.0, 20.0)];
        for (time, x) in [(0.0, 10.0), (1.0, 10.0), (2.0, 50.0), (4.0, 20.0), (9.0, 20.0)] {
            assert!((Key::at(&keys, time).x - x).abs() < 1e-9, "{time}: {:?}", Key::at(&keys, time));
        }
    }

    #[test]
    fn a_constant_speed_stays_constant() {
        let keys = [at(0.0, 0.0), at(1.0, 10.0), at(4.0, 40.0)];
        for step in 0..=40 {
            let time = f64::from(step) / 10.0;
            assert!((Key::at(&keys, time).x - 10.0 * time).abs() < 1e-9);
        }
    }

    #[test]
    fn a_face_stands_still_between_equal_keys() {
        let keys = [at(0.0, 0.0), at(1.0, 30.0), at(2.0, 30.0), at(3.0, 0.0)];
        for step in 0..=10 {
            assert_eq!(Key::at(&keys, 1.0 + f64::from(step) / 10.0).x, 30.0);
        }
    }

    #[test]
    fn jumps_add_up() {
        let camera = Camera {
            path: &[CameraKey { time: 0.0, x: 5.0, y: 0.0 }],
            jumps: &[Jump { time: 1.0, x: 10.0, y: 0.0 }, Jump { time: 2.0, x: 0.0, y: 7.0 }],
        };
        assert_eq!([0.9, 1.0, 2.5].map(|time| camera.at(time)), [(5.0, 0.0), (15.0, 0.0), (15.0, 7.0)]);
    }
}
