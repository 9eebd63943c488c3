//! The background: smooth noise that covers the world as far as the camera moves, and the noise of
//! the sensor.

/// Octaves of the texture: the distance of the lattice points in pixels, and the amplitude in
/// levels. The coarse ones are light and shadow, the fine ones give motion estimation something to
/// hold on to.
const OCTAVES: [(usize, f32); 4] = [(140, 46.0), (52, 26.0), (19, 14.0), (6, 9.0)];
/// Distance of the lattice points of the colour noise, in pixels.
const COLOR_CELL: usize = 210;
/// The two colours between which the colour noise mixes.
const COLORS: [[f32; 3]; 2] = [[134.0, 142.0, 146.0], [128.0, 116.0, 98.0]];

/// The visible part of the world in packed RGB.
#[derive(Debug)]
pub(crate) struct Background {
    rgb: Vec<u8>,
    /// World position of the first pixel.
    origin: (i64, i64),
    /// Width and height, in pixels.
    size: (usize, usize),
}

impl Background {
    /// A background of `width` x `height` pixels whose first pixel is at `origin` in the world. A
    /// part of the world looks the same in every background.
    pub(crate) fn new(origin: (i64, i64), (width, height): (usize, usize)) -> Self {
        let mut rgb = Vec::with_capacity(3 * width * height);
        let (mut luma, mut mix) = (vec![0.0; width], vec![0.0; width]);
        for row in 0..height {
            let y = origin.1 + row as i64;
            luma.fill(0.0);
            for (seed, (cell, amplitude)) in OCTAVES.into_iter().enumerate() {
                add_noise(&mut luma, (origin.0, y), seed as u64, cell, amplitude);
            }
            mix.fill(0.5);
            add_noise(&mut mix, (origin.0, y), OCTAVES.len() as u64, COLOR_CELL, 0.5);
            for (luma, mix) in luma.iter().zip(&mix) {
                // `as` saturates.
                rgb.extend((0..3).map(|c| (COLORS[0][c] + mix * (COLORS[1][c] - COLORS[0][c]) + luma) as u8));
            }
        }
        Self { rgb, origin, size: (width, height) }
    }

    /// Copies `width` x `height` pixels to `rgb`, of which the first is at `(x, y)` in the world,
    /// with bilinear interpolation. They lie within the background, with one more pixel on each
    /// axis.
    pub(crate) fn copy(&self, (x, y): (f64, f64), (width, height): (usize, usize), rgb: &mut Vec<u8>) {
        // Steps of 1/256 pixel.
        let fixed = |value: f64, origin: i64| {
            let value = (value * 256.0).round() as i64 - origin * 256;
            ((value >> 8) as usize, (value & 255) as u16)
        };
        let ((left, fx), (top, fy)) = (fixed(x, self.origin.0), fixed(y, self.origin.1));
        let row = |row: usize, col: usize| &self.rgb[3 * (row * self.size.0 + col)..][..3 * width];
        rgb.clear();
        for line in top..top + height {
            if fx == 0 && fy == 0 {
                rgb.extend_from_slice(row(line, left));
                continue;
            }
            let above = row(line, left).iter().zip(row(line, left + 1));
            let below = row(line + 1, left).iter().zip(row(line + 1, left + 1));
            // 16 bits are enough, because each step rounds to 8 bits; wider ones take twice as
            // long.
            let between = |a: u16, b: u16, weight: u16| (a * (256 - weight) + b * weight + 128) >> 8;
            rgb.extend(above.zip(below).map(|((a, b), (c, d))| {
                let [a, b, c, d] = [*a, *b, *c, *d].map(u16::from);
                between(between(a, b, fx), between(c, d, fx), fy) as u8
            }));
        }
    }
}

/// Adds noise in `-amplitude..=amplitude` to a row of values whose first is at `(x, y)`: random
/// values at lattice points, `cell` pixels apart, with smooth interpolation between them.
fn add_noise(values: &mut [f32], (x, y): (i64, i64), seed: u64, cell: usize, amplitude: f32) {
    let cell = cell as i64;
    let smooth = |position: i64| {
        let t = position.rem_euclid(cell) as f32 / cell as f32;
        t * t * (3.0 - 2.0 * t)
    };
    let (row, fy) = (y.div_euclid(cell), smooth(y));
    let lattice = |col: i64| {
        let value = |row: i64| {
            let hash = hash(seed ^ hash(col as u64 ^ hash(row as u64)));
            (hash >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        amplitude * (value(row) * (1.0 - fy) + value(row + 1) * fy)
    };
    let (mut col, mut ends) = (x.div_euclid(cell), None);
    for (index, value) in values.iter_mut().enumerate() {
        let x = x + index as i64;
        if x.div_euclid(cell) != col {
            (col, ends) = (x.div_euclid(cell), None);
        }
        let (from, to) = *ends.get_or_insert_with(|| (lattice(col), lattice(col + 1)));
        *value += from + smooth(x) * (to - from);
    }
}

/// SplitMix64: a random number for each number.
/// Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (2014).
pub(crate) fn hash(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Noise of the sensor. Each frame takes its noise from a random position of one table, which is
/// much faster than to make it anew.
#[derive(Debug)]
pub(crate) struct SensorNoise(Vec<i8>);

/// Number of positions at which the noise of a frame can start.
const NOISE_OFFSETS: usize = 1 << 16;

impl SensorNoise {
    /// Noise for frames of `bytes` bytes, uniform in `-amplitude..=amplitude` levels.
    pub(crate) fn new(bytes: usize, amplitude: u8) -> Self {
        if amplitude == 0 {
            return Self(Vec::new());
        }
        let span = 2 * u64::from(amplitude) + 1;
        let levels = |random: u64| random.to_le_bytes().map(|byte| ((u64::from(byte) * span) >> 8) as i16);
        let random = (0..(bytes + NOISE_OFFSETS).div_ceil(8) as u64).map(hash);
        Self(random.flat_map(levels).map(|level| (level - i16::from(amplitude)) as i8).collect())
    }

    /// Adds the noise of frame `index`.
    pub(crate) fn add(&self, index: usize, rgb: &mut [u8]) {
        let offset = hash(index as u64) as usize % NOISE_OFFSETS;
        for (value, noise) in rgb.iter_mut().zip(self.0.iter().skip(offset)) {
            *value = value.saturating_add_signed(*noise);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(background: &Background, at: (f64, f64)) -> Vec<u8> {
        let mut rgb = Vec::new();
        background.copy(at, (20, 10), &mut rgb);
        rgb
    }

    #[test]
    fn a_place_in_the_world_looks_the_same_in_every_background() {
        let a = Background::new((-30, -20), (100, 60));
        let b = Background::new((10, 5), (60, 40));
        assert_eq!(part(&a, (15.0, 7.0)), part(&b, (15.0, 7.0)));
        assert_eq!(part(&a, (15.3, 7.9)), part(&b, (15.3, 7.9)));
    }

    #[test]
    fn a_position_between_two_pixels_is_their_mean() {
        let background = Background::new((0, 0), (40, 20));
        let (left, right) = (part(&background, (4.0, 3.0)), part(&background, (5.0, 3.0)));
        for ((between, a), b) in part(&background, (4.5, 3.0)).iter().zip(&left).zip(&right) {
            assert_eq!(i32::from(*between), (i32::from(*a) + i32::from(*b) + 1) / 2);
        }
    }

    #[test]
    fn sensor_noise_has_all_levels_of_its_amplitude_and_a_mean_of_zero() {
        let noise = SensorNoise::new(30_000, 2);
        let mut frames = [vec![128u8; 30_000], vec![128u8; 30_000]];
        frames.iter_mut().enumerate().for_each(|(index, frame)| noise.add(index, frame));
        assert_ne!(frames[0], frames[1]);
        let mut counts = [0; 5];
        frames[0].iter().for_each(|value| counts[usize::from(*value) - 126] += 1);
        assert!(counts.iter().all(|count| (5_500..6_500).contains(count)), "{counts:?}");
    }
}
