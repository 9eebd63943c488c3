//! Sharpness of an aligned crop.

use super::align::template_scale;
use crate::geometry::ARCFACE_SIZE;
use crate::image::{ImageError, ImageView, PixelFormat, Plane, mat, simd};

/// The inner face in a crop of 112 x 112: without hair, background and what is beyond the frame.
const LEFT: usize = 24;
const TOP: usize = 36;
const WIDTH: usize = 64;
const HEIGHT: usize = 68;
/// Size of the smoothed luma, which has no border.
const INNER_WIDTH: usize = WIDTH - 2;
const INNER_HEIGHT: usize = HEIGHT - 2;

/// The blur effects of which the sharpness is 0 and 1.
const BLURRED: f32 = 0.9;
const SHARP: f32 = 0.45;
/// The ratio of noise to contrast at which noise halves the sharpness.
const HALVING_NOISE: f32 = 0.2;
/// Minimum contrast in grey levels: that of a face in the dark. Less is an even area.
const MIN_CONTRAST: f32 = 1.0;

type Luma = [[f32; WIDTH]; HEIGHT];
type Smoothed = [[f32; INNER_WIDTH]; INNER_HEIGHT];

/// The sharpness of the inner face of an aligned crop, in 0.0..=1.0, in the resolution of a crop of
/// 112 x 112. A smaller crop is enlarged before, so that it is less sharp.
///
/// The blur effect says how much of the differences between neighbouring pixels a further blur
/// leaves. Source: F. Crete, T. Dolmiere, P. Ladret, M. Nicolas, "The blur effect: perception and
/// estimation with a new no-reference perceptual blur metric", SPIE 6492, 2007. Here the luma is
/// smoothed with a 3 x 3 binomial filter first, since noise would count as detail.
pub(super) fn sharpness(crop: &ImageView<'_>, is_aligned: bool) -> Result<f32, ImageError> {
    let luma = inner_luma(crop, is_aligned)?;
    Ok(simd::widest(
        #[inline(always)]
        || {
            let smoothed = smoothed(&luma);
            let contrast = contrast(&smoothed);
            if contrast < MIN_CONTRAST {
                return 0.0;
            }
            let noise = noise(&luma) / contrast / HALVING_NOISE;
            let detail = (BLURRED - blur_effect(&smoothed)) / (BLURRED - SHARP);
            detail.clamp(0.0, 1.0) / (1.0 + noise * noise)
        },
    ))
}

/// The luma of the inner face, in grey levels.
fn inner_luma(crop: &ImageView<'_>, is_aligned: bool) -> Result<Luma, ImageError> {
    assert!(matches!(crop.info().format, PixelFormat::Rgb | PixelFormat::Bgr), "the crop is RGB or BGR");
    let (width, height) = (crop.width(), crop.height());
    // The square around a box has no template.
    let (scale, shift) = if is_aligned { template_scale(width) } else { (width as f32 / ARCFACE_SIZE as f32, 0.0) };
    let plane = crop.plane(0);
    let at = |offset: usize, shift: f32, end: usize| ((offset as f32 * scale + shift) as usize).min(end);
    let (left, right) = (at(LEFT, shift, width), at(LEFT + WIDTH, shift, width));
    let (top, bottom) = (at(TOP, 0.0, height), at(TOP + HEIGHT, 0.0, height));
    let mut luma = [[0.0; WIDTH]; HEIGHT];
    if left == right || top == bottom {
        return Ok(luma);
    }
    let mut layout = plane.layout;
    (layout.cols, layout.rows) = (right - left, bottom - top);
    let inner = Plane { data: &plane.data[top * layout.stride + 3 * left..], layout };
    let mut pixels = Vec::new();
    let inner = if (layout.cols, layout.rows) == (WIDTH, HEIGHT) {
        inner
    } else {
        let mut target = mat::scratch(&mut pixels, WIDTH, HEIGHT, 3);
        mat::shrink(&inner, &mut target)?;
        Plane { layout: target.layout, data: &pixels }
    };
    for (row, values) in luma.iter_mut().enumerate() {
        // Equal weights of red and blue: the order of the channels does not matter.
        for (value, [a, green, c]) in values.iter_mut().zip(inner.row(row).as_chunks::<3>().0) {
            *value = f32::from(u16::from(*a) + 2 * u16::from(*green) + u16::from(*c)) / 4.0;
        }
    }
    Ok(luma)
}

/// The luma after a 3 x 3 binomial filter.
#[inline(always)]
fn smoothed(luma: &Luma) -> Smoothed {
    let mut smoothed = [[0.0; INNER_WIDTH]; INNER_HEIGHT];
    for (rows, target) in luma.windows(3).zip(&mut smoothed) {
        for (x, value) in target.iter_mut().enumerate() {
            let across = |row: &[f32; WIDTH]| row[x] + 2.0 * row[x + 1] + row[x + 2];
            *value = (across(&rows[0]) + 2.0 * across(&rows[1]) + across(&rows[2])) / 16.0;
        }
    }
    smoothed
}

/// The standard deviation of the noise, in grey levels.
///
/// Source: J. Immerkær, "Fast Noise Variance Estimation", Computer Vision and Image Understanding
/// 64(2), 1996.
#[inline(always)]
fn noise(luma: &Luma) -> f32 {
    let mut sum = 0.0;
    for rows in luma.windows(3) {
        let mut row_sum = 0.0;
        for x in 0..INNER_WIDTH {
            let across = |row: &[f32; WIDTH]| row[x] - 2.0 * row[x + 1] + row[x + 2];
            row_sum += (across(&rows[0]) - 2.0 * across(&rows[1]) + across(&rows[2])).abs();
        }
        sum += row_sum;
    }
    (std::f32::consts::PI / 2.0).sqrt() / 6.0 * sum / (INNER_WIDTH * INNER_HEIGHT) as f32
}

/// The standard deviation of the luma, in grey levels.
#[inline(always)]
fn contrast(luma: &Smoothed) -> f32 {
    let values = luma.as_flattened();
    let count = values.len() as f32;
    let mean = values.iter().sum::<f32>() / count;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count).sqrt()
}

/// The share of the differences between neighbouring pixels that a mean of 9 pixels leaves, in
/// 0.0..=1.0; of the two axes, that which is more blurred.
#[inline(always)]
fn blur_effect(luma: &Smoothed) -> f32 {
    const BEFORE: usize = 5;
    const AFTER: usize = 4;
    let (mut across, mut down) = (Differences::default(), Differences::default());
    for row in luma {
        // The difference of two neighbouring means is that of the pixels at their ends.
        for x in BEFORE..INNER_WIDTH - AFTER {
            across.add(row[x] - row[x - 1], row[x + AFTER] - row[x - BEFORE]);
        }
    }
    for rows in luma.windows(BEFORE + AFTER + 1) {
        let (first, before, here, last) = (&rows[0], &rows[BEFORE - 1], &rows[BEFORE], &rows[BEFORE + AFTER]);
        for (((first, before), here), last) in first.iter().zip(before).zip(here).zip(last) {
            down.add(here - before, last - first);
        }
    }
    across.rest().max(down.rest())
}

/// Sums of differences along an axis.
#[derive(Default)]
struct Differences {
    all: f32,
    lost: f32,
}

impl Differences {
    /// Adds a difference of neighbours, and 9 times that of their means.
    #[inline(always)]
    fn add(&mut self, difference: f32, of_means: f32) {
        self.all += difference.abs();
        self.lost += (difference.abs() - of_means.abs() / 9.0).max(0.0);
    }

    /// The share that the means leave; 1 without any difference.
    fn rest(&self) -> f32 {
        if self.all > 0.0 { 1.0 - self.lost / self.all } else { 1.0 }
    }
}
