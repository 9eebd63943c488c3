//! Mosaic and blur of the samples of one component in an area.
//!
//! OpenCV is not used here. Its calls allocate and can fail, and for areas of 100 pixels they cost
//! more than the pixels: a blur by way of a reduced copy took four times as long.

use std::f64::consts::PI;

use super::super::simd;
use super::super::view::ImageViewMut;
use super::raster::{RasterShape, SampleGrid, Span};
use super::words::SampleWords;

/// Least size of a block, in pixels, so that a small face does not keep its pixels.
const MIN_BLOCK: f64 = 4.0;
/// Number of cosine waves along each axis of a blur. With a standard deviation of half of the area,
/// the next wave would keep exp(-(4 pi / 2)^2 / 2) of its amplitude, less than 1e-8.
const WAVES: usize = 4;

/// How the samples of an area are smoothed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Smoothing {
    /// Number of blocks along the longer side.
    Mosaic(u32),
    /// Standard deviation relative to the longer side, at least 0.5.
    Blur(f64),
}

/// Buffers that are reused between calls.
#[derive(Debug, Default)]
pub(super) struct SmoothBuffers {
    /// The samples of the bounding box.
    samples: Vec<f32>,
    /// Sums over columns.
    sums: Vec<f32>,
    /// The waves of a blur at each column and each row.
    waves: Vec<[f32; WAVES]>,
}

impl SmoothBuffers {
    /// Smooths component `index` in `coverage`, whose pixels are `spans`. The result depends on
    /// samples of the bounding box of the shape only.
    pub(super) fn smooth(
        &mut self,
        image: &mut ImageViewMut<'_>,
        coverage: &RasterShape,
        spans: &[Span],
        index: usize,
        smoothing: Smoothing,
    ) {
        let format = image.info().format;
        let grid = SampleGrid::new(image, index);
        let (mut left, mut top, mut right, mut bottom) = (usize::MAX, usize::MAX, 0, 0);
        grid.samples(spans.iter().copied(), |Span { line, start, end }| {
            (left, right) = (left.min(start), right.max(end));
            (top, bottom) = (top.min(line), bottom.max(line + 1));
        });
        if left >= right {
            return;
        }
        let (width, height) = (right - left, bottom - top);
        let words = SampleWords::new(format, index);
        let plane = image.plane_mut(format.layout().components[index].plane);
        let stride = plane.layout.stride;
        self.samples.resize(width * height, 0.0);
        simd::widest(
            #[inline(always)]
            || {
                for (row, values) in self.samples.chunks_exact_mut(width).enumerate() {
                    words.read(&plane.data[(top + row) * stride + left * words.step..], values);
                }
                match smoothing {
                    Smoothing::Mosaic(blocks) => {
                        let size = (coverage.size() / f64::from(blocks)).max(MIN_BLOCK);
                        let (x, y) = coverage.corner();
                        // Samples at the edges can have their centre outside of the shape. The first
                        // and the last block take them, so that there are not more blocks; `as`
                        // saturates at the first one.
                        let block = |centre: f64, start: f64| (((centre - start) / size) as u32).min(blocks - 1);
                        let cols = |col: usize| block(grid.centre(left + col, 0).0, x);
                        let rows = |row: usize| block(grid.centre(0, top + row).1, y);
                        self.mosaic(width, cols, rows);
                    }
                    Smoothing::Blur(sigma) => {
                        let (shift_x, shift_y) = grid.shift();
                        let sigma = |shift: u32| sigma * coverage.size() / f64::from(1 << shift);
                        self.blur((width, height), (sigma(shift_x), sigma(shift_y)));
                    }
                }
                grid.samples(spans.iter().copied(), |Span { line, start, end }| {
                    let row = &mut plane.data[line * stride + start * words.step..line * stride + end * words.step];
                    words.write(row, &self.samples[(line - top) * width + start - left..][..end - start]);
                });
            },
        );
    }

    /// Replaces the samples by the mean of their block. The arguments `col_block` and `row_block`
    /// are the index of the block of a column and of a row.
    #[inline(always)]
    fn mosaic(&mut self, width: usize, col_block: impl Fn(usize) -> u32, row_block: impl Fn(usize) -> u32) {
        let Self { samples, sums, .. } = self;
        let height = samples.len() / width;
        let mut top = 0;
        while top < height {
            let bottom = end_of(top, height, &row_block);
            let band = &mut samples[top * width..bottom * width];
            sums.clear();
            sums.resize(width, 0.0);
            for row in band.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, sample)| *sum += sample);
            }
            let mut left = 0;
            while left < width {
                let right = end_of(left, width, &col_block);
                let sum = sums[left..right].iter().map(|sum| f64::from(*sum)).sum::<f64>();
                band[left..right].fill((sum / ((bottom - top) * (right - left)) as f64) as f32);
                left = right;
            }
            (1..bottom - top).for_each(|row| band.copy_within(..width, row * width));
            top = bottom;
        }
    }

    /// Blurs the samples, of `width` x `height`, with these standard deviations in samples.
    ///
    /// Continued by its mirror image, a row is a sum of cosine waves, the type II discrete cosine
    /// transform, and a Gaussian blur multiplies each wave by a factor (symmetric convolution:
    /// S. A. Martucci, IEEE Transactions on Signal Processing 42(5), 1994). With a standard
    /// deviation of half of the row or more, only the first [`WAVES`] waves remain.
    #[inline(always)]
    fn blur(&mut self, (width, height): (usize, usize), sigma: (f64, f64)) {
        let Self { samples, sums, waves } = self;
        waves.clear();
        waves.extend((0..width).map(|x| values(x, width)));
        waves.extend((0..height).map(|y| values(y, height)));
        let (waves_x, waves_y) = waves.split_at(width);
        sums.clear();
        sums.resize(WAVES * width, 0.0);
        for (row, waves) in samples.chunks_exact(width).zip(waves_y) {
            for (sums, wave) in sums.chunks_exact_mut(width).zip(waves) {
                sums.iter_mut().zip(row).for_each(|(sum, sample)| *sum += wave * sample);
            }
        }
        // For each wave along the columns, the blurred row of its amplitudes.
        for (index, sums) in sums.chunks_exact_mut(width).enumerate() {
            let mut amplitudes = [0.0; WAVES];
            for (sum, waves) in sums.iter().zip(waves_x) {
                for (amplitude, wave) in amplitudes.iter_mut().zip(waves) {
                    *amplitude += f64::from(wave * sum);
                }
            }
            for (wave, amplitude) in amplitudes.iter_mut().enumerate() {
                *amplitude *= factor(wave, width, sigma.0) * factor(index, height, sigma.1);
            }
            let amplitudes = amplitudes.map(|amplitude| amplitude as f32);
            for (sum, waves) in sums.iter_mut().zip(waves_x) {
                *sum = waves.iter().zip(amplitudes).map(|(wave, amplitude)| wave * amplitude).sum();
            }
        }
        for (row, waves) in samples.chunks_exact_mut(width).zip(waves_y) {
            row.fill(0.0);
            for (sums, wave) in sums.chunks_exact(width).zip(waves) {
                row.iter_mut().zip(sums).for_each(|(sample, sum)| *sample += wave * sum);
            }
        }
    }
}

/// The end of the block that starts at `start`.
#[inline(always)]
fn end_of(start: usize, limit: usize, block: &impl Fn(usize) -> u32) -> usize {
    let first = block(start);
    (start + 1..limit).find(|at| block(*at) != first).unwrap_or(limit)
}

/// The values at sample `at` of the first cosine waves over `len` samples:
/// cos(k pi (at + 1/2) / len).
#[inline(always)]
fn values(at: usize, len: usize) -> [f32; WAVES] {
    let first = (PI * (at as f64 + 0.5) / len as f64).cos();
    // Chebyshev polynomials.
    [1.0, first, 2.0 * first * first - 1.0, (4.0 * first * first - 3.0) * first].map(|wave| wave as f32)
}

/// From the sum of the products with wave `wave` over `len` samples to its amplitude after a blur.
fn factor(wave: usize, len: usize, sigma: f64) -> f64 {
    let frequency = PI * wave as f64 / len as f64;
    (-(frequency * sigma).powi(2) / 2.0).exp() * if wave == 0 { 1.0 } else { 2.0 } / len as f64
}
