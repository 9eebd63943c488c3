//! Winograd convolution: 3 x 3, stride 1, padding 1, with a quarter of the multiplications.
//!
//! Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), the
//! algorithm F(4 x 4, 3 x 3). It computes a tile of 4 x 4 outputs from a tile of 6 x 6 inputs. It
//! transforms the input tile and the kernel, multiplies them element by element, and transforms the
//! product to the output tile. Over all tiles and channels, the products of each of the 36 elements
//! form a matrix multiplication. The result differs from direct convolution only by rounding, about
//! 1e-5 of the largest terms.

#![expect(clippy::needless_range_loop, reason = "the compiler vectorizes index loops with a constant count")]

use super::lanes::{AlignedBuffer, SharedOutput, Simd, SimdKernel, SimdLevel, activate, load, run};

/// Side length of an input tile.
const INPUT_TILE: usize = 6;
/// Side length of an output tile.
const OUTPUT_TILE: usize = 4;
/// Elements of a transformed tile.
const ELEMENTS: usize = INPUT_TILE * INPUT_TILE;
/// Maximum number of tiles of a job, so that its scratch memory fits into the L2 cache of a core.
const MAX_TILES: usize = 24;
/// Channel counts are multiples of this.
pub(crate) const CHANNEL_BLOCK: usize = 16;

/// The memory layout of an activation tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorLayout {
    /// `[batch, channels, height, width]`.
    Nchw,
    /// `[batch, height, width, channels]`.
    Nhwc,
}

/// A convolution with bias and activation, with transformed weights.
#[derive(Debug)]
pub(crate) struct Convolution {
    input_channels: usize,
    output_channels: usize,
    /// `[36, input channels, output channels]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
    slopes: Vec<f32>,
}

/// The division of an image into jobs that can run in parallel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jobs {
    height: usize,
    width: usize,
    /// Tile rows of a job.
    rows: usize,
    /// Tile columns of a job.
    columns: usize,
    /// Jobs side by side.
    across: usize,
    count: usize,
}

impl Jobs {
    pub(crate) fn new(height: usize, width: usize) -> Self {
        let (tile_rows, tile_columns) = (height.div_ceil(OUTPUT_TILE), width.div_ceil(OUTPUT_TILE));
        let across = tile_columns.div_ceil(MAX_TILES).max(1);
        let columns = tile_columns.div_ceil(across).max(1);
        let rows = (MAX_TILES / columns).clamp(1, tile_rows.max(1));
        Self { height, width, rows, columns, across, count: across * tile_rows.div_ceil(rows) }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// Scratch memory of a thread, reused by its jobs.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pixels: AlignedBuffer,
    transformed: AlignedBuffer,
    products: AlignedBuffer,
    results: AlignedBuffer,
}

/// An output tensor, which receives a range of the convolution's output channels.
pub(crate) struct ConvOutput<'a> {
    pub(crate) first_channel: usize,
    pub(crate) channels: usize,
    pub(crate) layout: TensorLayout,
    /// The values of one image.
    pub(crate) values: SharedOutput<'a>,
}

/// One job of a convolution.
struct Job<'a> {
    convolution: &'a Convolution,
    jobs: &'a Jobs,
    index: usize,
    input: &'a [f32],
    input_layout: TensorLayout,
    outputs: &'a [Option<ConvOutput<'a>>],
    scratch: &'a mut Scratch,
}

impl Convolution {
    /// `weights` has the shape `[output channels, input channels, 3, 3]`. `bias` and `slopes` have
    /// one value per output channel. Both channel counts are multiples of [`CHANNEL_BLOCK`].
    pub(crate) fn new(weights: &[f32], input_channels: usize, bias: Vec<f32>, slopes: Vec<f32>) -> Self {
        /// The kernel transform matrix of F(4, 3).
        const G: [[f64; 3]; INPUT_TILE] = [
            [1.0 / 4.0, 0.0, 0.0],
            [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
            [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
            [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
            [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
            [0.0, 0.0, 1.0],
        ];
        let output_channels = bias.len();
        let mut transformed = vec![0.0; ELEMENTS * input_channels * output_channels];
        for (index, kernel) in weights.chunks_exact(9).enumerate() {
            let (output, input) = (index / input_channels, index % input_channels);
            for (row, vertical) in G.iter().enumerate() {
                for (column, horizontal) in G.iter().enumerate() {
                    let mut sum = 0.0;
                    for (y, vertical) in vertical.iter().enumerate() {
                        for (x, horizontal) in horizontal.iter().enumerate() {
                            sum += vertical * f64::from(kernel[y * 3 + x]) * horizontal;
                        }
                    }
                    let element = row * INPUT_TILE + column;
                    transformed[(element * input_channels + input) * output_channels + output] = sum as f32;
                }
            }
        }
        Self { input_channels, output_channels, weights: transformed, bias, slopes }
    }

    pub(crate) fn input_channels(&self) -> usize {
        self.input_channels
    }

    /// Runs job `index` of `jobs` on one image.
    ///
    /// # Panics
    /// If `index` is not below `jobs.count()`, or if `input` or an output has the wrong length.
    ///
    /// # Safety
    /// Concurrent calls with the same `outputs` use equal `jobs` and different indices.
    #[expect(unsafe_code, reason = "jobs write to shared outputs")]
    #[expect(clippy::too_many_arguments, reason = "a job needs all of them")]
    pub(crate) unsafe fn run(
        &self,
        level: SimdLevel,
        jobs: &Jobs,
        index: usize,
        input: &[f32],
        input_layout: TensorLayout,
        outputs: &[Option<ConvOutput<'_>>],
        scratch: &mut Scratch,
    ) {
        assert!(index < jobs.count, "the job index is in range");
        assert_eq!(input.len(), self.input_channels * jobs.height * jobs.width, "the input has the size of the image");
        run(level, Job { convolution: self, jobs, index, input, input_layout, outputs, scratch });
    }
}

/// The part of the output image that a job computes.
#[derive(Clone, Copy)]
struct JobArea {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
    /// Tile rows and tile columns that cover it.
    rows: usize,
    columns: usize,
}

impl SimdKernel for Job<'_> {
    #[inline(always)]
    fn run<const L: usize>(self, simd: Simd<L>) {
        let Self { convolution, jobs, index, input, input_layout, outputs, scratch } = self;
        let Convolution { input_channels, output_channels, .. } = *convolution;
        let (top, left) =
            (index / jobs.across * jobs.rows * OUTPUT_TILE, index % jobs.across * jobs.columns * OUTPUT_TILE);
        let height = (jobs.height - top).min(jobs.rows * OUTPUT_TILE);
        let width = (jobs.width - left).min(jobs.columns * OUTPUT_TILE);
        let (rows, columns) = (height.div_ceil(OUTPUT_TILE), width.div_ceil(OUTPUT_TILE));
        let area = JobArea { top, left, height, width, rows, columns };
        let tiles = rows * columns;
        let pixels = scratch.pixels.get((rows * OUTPUT_TILE + 2) * (columns * OUTPUT_TILE + 2) * input_channels);
        let transformed = scratch.transformed.get(ELEMENTS * tiles * input_channels);
        let products = scratch.products.get(ELEMENTS * tiles * output_channels);
        let results = scratch.results.get(rows * columns * OUTPUT_TILE * OUTPUT_TILE * output_channels);

        load_pixels(simd, input, input_layout, jobs, area, input_channels, pixels);
        let pitch = columns * OUTPUT_TILE + 2;
        for row in 0..rows {
            for column in 0..columns {
                let first = (row * OUTPUT_TILE * pitch + column * OUTPUT_TILE) * input_channels;
                let tile = row * columns + column;
                transform_input::<L>(&pixels[first..], pitch, input_channels, tile, tiles, transformed);
            }
        }
        for element in 0..ELEMENTS {
            let a = &transformed[element * tiles * input_channels..][..tiles * input_channels];
            let b =
                &convolution.weights[element * input_channels * output_channels..][..input_channels * output_channels];
            let c = &mut products[element * tiles * output_channels..];
            multiply::<L>(a, input_channels, b, output_channels, c, tiles);
        }
        let pitch = columns * OUTPUT_TILE;
        for row in 0..rows {
            for column in 0..columns {
                let first = (row * OUTPUT_TILE * pitch + column * OUTPUT_TILE) * output_channels;
                let tile = row * columns + column;
                transform_output::<L>(products, tile, tiles, convolution, &mut results[first..], pitch);
            }
        }
        for output in outputs.iter().flatten() {
            store_output(simd, results, output_channels, output, jobs, area);
        }
    }
}

/// Copies the area's inputs and a border of one pixel into `pixels` as NHWC. Pixels outside the
/// image are zero.
#[inline(always)]
fn load_pixels<const L: usize>(
    simd: Simd<L>,
    input: &[f32],
    layout: TensorLayout,
    &Jobs { height, width, .. }: &Jobs,
    JobArea { top, left, rows, columns, .. }: JobArea,
    channels: usize,
    pixels: &mut [f32],
) {
    let pitch = columns * OUTPUT_TILE + 2;
    for row in 0..rows * OUTPUT_TILE + 2 {
        let line = &mut pixels[row * pitch * channels..][..pitch * channels];
        // The first line is one pixel above the area.
        let Some(y) = (top + row).checked_sub(1).filter(|y| *y < height) else {
            line.fill(0.0);
            continue;
        };
        let first = left.saturating_sub(1);
        let end = (left + pitch - 1).min(width);
        let skipped = usize::from(left == 0);
        let len = end - first;
        line[..skipped * channels].fill(0.0);
        line[(skipped + len) * channels..].fill(0.0);
        let line = &mut line[skipped * channels..][..len * channels];
        match layout {
            TensorLayout::Nhwc => line.copy_from_slice(&input[(y * width + first) * channels..][..len * channels]),
            TensorLayout::Nchw => {
                nchw_to_nhwc(simd, &input[y * width + first..], height * width, line, channels, len);
            }
        }
    }
}

/// Copies the area's results (NHWC, all output channels) to one output tensor.
#[inline(always)]
#[expect(unsafe_code, reason = "jobs have disjoint regions, and `Convolution::run` excludes equal indices")]
fn store_output<const L: usize>(
    simd: Simd<L>,
    results: &[f32],
    channels: usize,
    output: &ConvOutput<'_>,
    jobs: &Jobs,
    area: JobArea,
) {
    let pitch = area.columns * OUTPUT_TILE;
    for row in 0..area.height {
        let line = &results[row * pitch * channels..][..area.width * channels];
        let first = (area.top + row) * jobs.width + area.left;
        match output.layout {
            TensorLayout::Nhwc if output.channels == channels => unsafe {
                output.values.write(first * channels, line);
            },
            TensorLayout::Nhwc => {
                for (x, pixel) in line.chunks_exact(channels).enumerate() {
                    let pixel = &pixel[output.first_channel..][..output.channels];
                    unsafe { output.values.write((first + x) * output.channels, pixel) }
                }
            }
            TensorLayout::Nchw => {
                let line = &line[output.first_channel..];
                let plane = jobs.height * jobs.width;
                // The line ends within its image row, so it stays inside the area.
                unsafe { nhwc_to_nchw(simd, line, channels, output, first, plane, area.width) }
            }
        }
    }
}

/// `to[x][channel] = from[channel][x]`. Channels of `from` are `plane` floats apart.
#[inline(always)]
fn nchw_to_nhwc<const L: usize>(
    simd: Simd<L>,
    from: &[f32],
    plane: usize,
    to: &mut [f32],
    channels: usize,
    len: usize,
) {
    let vectorized = len / 8 * 8;
    for x in (0..vectorized).step_by(8) {
        for first in (0..channels).step_by(8) {
            let rows = std::array::from_fn(|index| load::<8>(from, (first + index) * plane + x));
            for (index, column) in simd.transpose(rows).iter().enumerate() {
                to[(x + index) * channels + first..][..8].copy_from_slice(column);
            }
        }
    }
    for x in vectorized..len {
        for (channel, to) in to[x * channels..][..channels].iter_mut().enumerate() {
            *to = from[channel * plane + x];
        }
    }
}

/// `output[channel][at + x] = from[x][channel]`. Channels of the output are `plane` floats apart.
///
/// # Safety
/// No concurrent call writes to `at..at + len` of any channel of `output`.
#[inline(always)]
#[expect(unsafe_code, reason = "the caller excludes concurrent writes to these ranges")]
unsafe fn nhwc_to_nchw<const L: usize>(
    simd: Simd<L>,
    from: &[f32],
    channels: usize,
    output: &ConvOutput<'_>,
    at: usize,
    plane: usize,
    len: usize,
) {
    let vectorized = len / 8 * 8;
    for first in (0..output.channels).step_by(8) {
        for x in (0..vectorized).step_by(8) {
            let rows = std::array::from_fn(|index| load::<8>(from, (x + index) * channels + first));
            for (index, column) in simd.transpose(rows).iter().enumerate() {
                unsafe { output.values.write((first + index) * plane + at + x, column) }
            }
        }
        for x in vectorized..len {
            for channel in first..first + 8 {
                unsafe { output.values.write(channel * plane + at + x, &[from[x * channels + channel]]) }
            }
        }
    }
}

/// The input transform along one dimension: the product of the matrix B^T with `d`.
#[inline(always)]
fn transform_input_1d<const L: usize>(d: [[f32; L]; INPUT_TILE]) -> [[f32; L]; INPUT_TILE] {
    let mut to = [[0.0; L]; INPUT_TILE];
    for l in 0..L {
        let [d0, d1, d2, d3, d4, d5] = [d[0][l], d[1][l], d[2][l], d[3][l], d[4][l], d[5][l]];
        // Common terms of rows 1 and 2, then of rows 3 and 4.
        let (even1, odd1) = (d4 - 4.0 * d2, d3 - 4.0 * d1);
        let (even2, odd2) = (d4 - d2, 2.0 * (d3 - d1));
        to[0][l] = 4.0 * d0 - 5.0 * d2 + d4;
        to[1][l] = even1 + odd1;
        to[2][l] = even1 - odd1;
        to[3][l] = even2 + odd2;
        to[4][l] = even2 - odd2;
        to[5][l] = 4.0 * d1 - 5.0 * d3 + d5;
    }
    to
}

/// The output transform along one dimension: the product of the matrix A^T with `m`.
#[inline(always)]
fn transform_output_1d<const L: usize>(m: [[f32; L]; INPUT_TILE]) -> [[f32; L]; OUTPUT_TILE] {
    let mut to = [[0.0; L]; OUTPUT_TILE];
    for l in 0..L {
        let [m0, m1, m2, m3, m4, m5] = [m[0][l], m[1][l], m[2][l], m[3][l], m[4][l], m[5][l]];
        let (sum1, difference1) = (m1 + m2, m1 - m2);
        let (sum2, difference2) = (m3 + m4, m3 - m4);
        to[0][l] = m0 + sum1 + sum2;
        to[1][l] = difference1 + 2.0 * difference2;
        to[2][l] = sum1 + 4.0 * sum2;
        to[3][l] = difference1 + 8.0 * difference2 + m5;
    }
    to
}

/// Transforms the input tile at the start of `pixels` into tile `tile` of `to`, which has the shape
/// `[36, tiles, channels]`. Lines of `pixels` are `pitch` pixels apart.
#[inline(always)]
fn transform_input<const L: usize>(
    pixels: &[f32],
    pitch: usize,
    channels: usize,
    tile: usize,
    tiles: usize,
    to: &mut [f32],
) {
    for channel in (0..channels).step_by(L) {
        let mut vertical = [[[0.0; L]; INPUT_TILE]; INPUT_TILE];
        for x in 0..INPUT_TILE {
            let column = std::array::from_fn(|y| load::<L>(pixels, (y * pitch + x) * channels + channel));
            for (y, lanes) in transform_input_1d(column).into_iter().enumerate() {
                vertical[y][x] = lanes;
            }
        }
        for (y, row) in vertical.into_iter().enumerate() {
            for (x, lanes) in transform_input_1d(row).into_iter().enumerate() {
                let at = ((y * INPUT_TILE + x) * tiles + tile) * channels + channel;
                to[at..at + L].copy_from_slice(&lanes);
            }
        }
    }
}

/// Transforms tile `tile` of `products`, which has the shape `[36, tiles, channels]`, into the
/// output tile at the start of `to`, and applies bias and activation. Lines of `to` are `pitch`
/// pixels apart.
#[inline(always)]
fn transform_output<const L: usize>(
    products: &[f32],
    tile: usize,
    tiles: usize,
    convolution: &Convolution,
    to: &mut [f32],
    pitch: usize,
) {
    let channels = convolution.output_channels;
    for channel in (0..channels).step_by(L) {
        let mut vertical = [[[0.0; L]; INPUT_TILE]; OUTPUT_TILE];
        for x in 0..INPUT_TILE {
            let column = std::array::from_fn(|y| {
                load::<L>(products, ((y * INPUT_TILE + x) * tiles + tile) * channels + channel)
            });
            for (y, lanes) in transform_output_1d(column).into_iter().enumerate() {
                vertical[y][x] = lanes;
            }
        }
        let bias = load::<L>(&convolution.bias, channel);
        let slope = load::<L>(&convolution.slopes, channel);
        for (y, row) in vertical.into_iter().enumerate() {
            for (x, mut lanes) in transform_output_1d(row).into_iter().enumerate() {
                for l in 0..L {
                    lanes[l] = activate(lanes[l] + bias[l], slope[l]);
                }
                let at = (y * pitch + x) * channels + channel;
                to[at..at + L].copy_from_slice(&lanes);
            }
        }
    }
}

/// Matrix multiplication `c = a * b`: `a` is `[m, k]`, `b` is `[k, n]` and `c` is `[m, n]`.
#[inline(always)]
fn multiply<const L: usize>(a: &[f32], k: usize, b: &[f32], n: usize, c: &mut [f32], m: usize) {
    let mut column = 0;
    while column < n {
        // The accumulators of a micro-kernel fill the vector registers.
        let vectors = ((n - column) / L).min(if L == 16 { 4 } else { 2 });
        match vectors {
            4 => multiply_panel::<L, 4>(a, k, &b[column..], n, &mut c[column..], m),
            3 => multiply_panel::<L, 3>(a, k, &b[column..], n, &mut c[column..], m),
            2 => multiply_panel::<L, 2>(a, k, &b[column..], n, &mut c[column..], m),
            _ => multiply_panel::<L, 1>(a, k, &b[column..], n, &mut c[column..], m),
        }
        column += vectors.max(1) * L;
    }
}

/// The first `N` vectors of columns of `c`.
#[inline(always)]
fn multiply_panel<const L: usize, const N: usize>(a: &[f32], k: usize, b: &[f32], n: usize, c: &mut [f32], m: usize) {
    let mut row = 0;
    while row + 6 <= m {
        micro_kernel::<L, 6, N>(&a[row * k..], k, b, n, &mut c[row * n..]);
        row += 6;
    }
    while row + 2 <= m {
        micro_kernel::<L, 2, N>(&a[row * k..], k, b, n, &mut c[row * n..]);
        row += 2;
    }
    if row < m {
        micro_kernel::<L, 1, N>(&a[row * k..], k, b, n, &mut c[row * n..]);
    }
}

/// The first `R` rows and `N` vectors of columns of `c`, accumulated in registers.
#[inline(always)]
fn micro_kernel<const L: usize, const R: usize, const N: usize>(
    a: &[f32],
    k: usize,
    b: &[f32],
    n: usize,
    c: &mut [f32],
) {
    let mut sums = [[[0.0f32; L]; N]; R];
    for inner in 0..k {
        let b = &b[inner * n..][..N * L];
        let vectors: [[f32; L]; N] = std::array::from_fn(|vector| load::<L>(b, vector * L));
        for row in 0..R {
            let factor = a[row * k + inner];
            for vector in 0..N {
                for l in 0..L {
                    sums[row][vector][l] = factor.mul_add(vectors[vector][l], sums[row][vector][l]);
                }
            }
        }
    }
    for row in 0..R {
        for vector in 0..N {
            c[row * n + vector * L..][..L].copy_from_slice(&sums[row][vector]);
        }
    }
}
