//! Convolutions of 3 x 3, stride 1 and padding 1, with a quarter of the multiplications.
//!
//! Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), F(4 x 4, 3 x 3): 4 x 4 outputs come
//! of 6 x 6 inputs by transforming both and the kernel, and multiplying element by element; over many tiles and channels
//! that is 36 matrix products. Results differ from the direct sum by rounding alone, some 1e-5 of the sum's largest terms.

#![expect(clippy::needless_range_loop, reason = "loops over indices of a constant number become vector code")]

use super::lanes::{Floats, Target, Width, Work, activate, load, run, transposed};

/// Inputs on a side of a tile.
const IN: usize = 6;
/// Outputs on a side of a tile.
const OUT: usize = 4;
/// Elements of a transformed tile.
const ELEMENTS: usize = IN * IN;
/// Tiles that one job transforms at once: what it works on stays in a core's own cache.
const TILES: usize = 24;
/// Channels come in groups of so many.
pub(crate) const GROUP: usize = 16;

/// How channels lie in a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Plane after plane: `[channels, height, width]`.
    Planar,
    /// All channels of a pixel together: `[height, width, channels]`.
    Interleaved,
}

/// A convolution with bias and activation, ready to be run.
#[derive(Debug)]
pub(crate) struct Convolution {
    inputs: usize,
    outputs: usize,
    /// `[36, inputs, outputs]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
    slope: Vec<f32>,
}

/// How a picture is cut into jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jobs {
    height: usize,
    width: usize,
    /// Tiles of a job, downwards and across.
    rows: usize,
    columns: usize,
    across: usize,
    count: usize,
}

impl Jobs {
    pub(crate) fn of(height: usize, width: usize) -> Self {
        let (down, across) = (height.div_ceil(OUT), width.div_ceil(OUT));
        let parts = across.div_ceil(TILES).max(1);
        let columns = across.div_ceil(parts).max(1);
        let rows = (TILES / columns).clamp(1, down.max(1));
        Self { height, width, rows, columns, across: parts, count: parts * down.div_ceil(rows) }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// Memory of a thread that runs jobs.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pixels: Floats,
    transformed: Floats,
    products: Floats,
    results: Floats,
}

/// Where some of the output channels go.
pub(crate) struct Output<'a> {
    /// The first of them.
    pub(crate) first: usize,
    pub(crate) channels: usize,
    pub(crate) order: Order,
    pub(crate) target: Target<'a>,
}

/// One job of a convolution.
struct Job<'a> {
    convolution: &'a Convolution,
    jobs: &'a Jobs,
    number: usize,
    input: &'a [f32],
    order: Order,
    outputs: &'a [Option<Output<'a>>],
    scratch: &'a mut Scratch,
}

impl Convolution {
    /// Of `weights` `[outputs, inputs, 3, 3]`, and bias and slope of each output; both counts are multiples of [`GROUP`].
    pub(crate) fn new(weights: &[f32], inputs: usize, bias: Vec<f32>, slope: Vec<f32>) -> Self {
        const G: [[f64; 3]; IN] = [
            [1.0 / 4.0, 0.0, 0.0],
            [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
            [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
            [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
            [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
            [0.0, 0.0, 1.0],
        ];
        let outputs = bias.len();
        let mut transformed = vec![0.0; ELEMENTS * inputs * outputs];
        for (index, kernel) in weights.chunks_exact(9).enumerate() {
            let (output, input) = (index / inputs, index % inputs);
            for (row, down) in G.iter().enumerate() {
                for (column, across) in G.iter().enumerate() {
                    let mut sum = 0.0;
                    for (y, down) in down.iter().enumerate() {
                        for (x, across) in across.iter().enumerate() {
                            sum += down * f64::from(kernel[y * 3 + x]) * across;
                        }
                    }
                    transformed[((row * IN + column) * inputs + input) * outputs + output] = sum as f32;
                }
            }
        }
        Self { inputs, outputs, weights: transformed, bias, slope }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Runs job `number` of `jobs` on one picture's channels.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a job needs")]
    pub(crate) fn run(
        &self,
        width: Width,
        jobs: &Jobs,
        number: usize,
        input: &[f32],
        order: Order,
        outputs: &[Option<Output<'_>>],
        scratch: &mut Scratch,
    ) {
        assert_eq!(input.len(), self.inputs * jobs.height * jobs.width, "the input is of the picture's size");
        run(width, Job { convolution: self, jobs, number, input, order, outputs, scratch });
    }
}

impl Work for Job<'_> {
    #[inline(always)]
    fn run<const L: usize>(self) {
        let Self { convolution, jobs, number, input, order, outputs, scratch } = self;
        let Convolution { inputs, outputs: channels, .. } = *convolution;
        let Jobs { height, width, rows, columns, across, .. } = *jobs;
        // Where the job's outputs begin, and how many of them there are.
        let (top, left) = (number / across * rows * OUT, number % across * columns * OUT);
        let (high, wide) = ((height - top).min(rows * OUT), (width - left).min(columns * OUT));
        let (rows, columns) = (high.div_ceil(OUT), wide.div_ceil(OUT));
        let tiles = rows * columns;
        let pixels = scratch.pixels.get((rows * OUT + 2) * (columns * OUT + 2) * inputs);
        let transformed = scratch.transformed.get(ELEMENTS * tiles * inputs);
        let products = scratch.products.get(ELEMENTS * tiles * channels);
        let results = scratch.results.get(rows * columns * OUT * OUT * channels);

        // The inputs around them, with zeros beyond the picture's border.
        let stride = columns * OUT + 2;
        for row in 0..rows * OUT + 2 {
            let line = &mut pixels[row * stride * inputs..][..stride * inputs];
            // One line above the outputs.
            let Some(y) = (top + row).checked_sub(1).filter(|y| *y < height) else {
                line.fill(0.0);
                continue;
            };
            let from = left.saturating_sub(1);
            let until = (left + stride - 1).min(width);
            let skipped = usize::from(left == 0);
            let len = until - from;
            line[..skipped * inputs].fill(0.0);
            line[(skipped + len) * inputs..].fill(0.0);
            let line = &mut line[skipped * inputs..][..len * inputs];
            match order {
                Order::Interleaved => line.copy_from_slice(&input[(y * width + from) * inputs..][..len * inputs]),
                Order::Planar => interleave(&input[y * width + from..], height * width, line, inputs, len),
            }
        }

        for row in 0..rows {
            for column in 0..columns {
                let from = (row * OUT * stride + column * OUT) * inputs;
                transform_input::<L>(&pixels[from..], stride, inputs, row * columns + column, tiles, transformed);
            }
        }
        for element in 0..ELEMENTS {
            let tiles_of = &transformed[element * tiles * inputs..][..tiles * inputs];
            let weights = &convolution.weights[element * inputs * channels..][..inputs * channels];
            multiply::<L>(tiles_of, inputs, weights, channels, &mut products[element * tiles * channels..], tiles);
        }
        let stride = columns * OUT;
        for row in 0..rows {
            for column in 0..columns {
                let to = (row * OUT * stride + column * OUT) * channels;
                let tile = row * columns + column;
                transform_output::<L>(products, tile, tiles, convolution, &mut results[to..], stride);
            }
        }

        for output in outputs.iter().flatten() {
            for row in 0..high {
                let line = &results[row * stride * channels..][..wide * channels];
                let y = top + row;
                match output.order {
                    Order::Interleaved if output.channels == channels => {
                        output.target.put((y * width + left) * channels, line);
                    }
                    Order::Interleaved => {
                        for (x, pixel) in line.chunks_exact(channels).enumerate() {
                            let at = (y * width + left + x) * output.channels;
                            output.target.put(at, &pixel[output.first..][..output.channels]);
                        }
                    }
                    Order::Planar => {
                        deinterleave(&line[output.first..], channels, output, y * width + left, height * width, wide);
                    }
                }
            }
        }
    }
}

/// `to[x][channel] = from[channel][x]`, with `plane` floats from one channel to the next.
#[inline(always)]
fn interleave(from: &[f32], plane: usize, to: &mut [f32], channels: usize, len: usize) {
    let whole = len / 8 * 8;
    for x in (0..whole).step_by(8) {
        for first in (0..channels).step_by(8) {
            let rows = std::array::from_fn(|index| load::<8>(from, (first + index) * plane + x));
            for (index, column) in transposed(rows).iter().enumerate() {
                to[(x + index) * channels + first..][..8].copy_from_slice(column);
            }
        }
    }
    for x in whole..len {
        for (channel, to) in to[x * channels..][..channels].iter_mut().enumerate() {
            *to = from[channel * plane + x];
        }
    }
}

/// The other way round, for an output's channels.
#[inline(always)]
fn deinterleave(from: &[f32], channels: usize, output: &Output<'_>, at: usize, plane: usize, len: usize) {
    let whole = len / 8 * 8;
    for first in (0..output.channels).step_by(8) {
        for x in (0..whole).step_by(8) {
            let rows = std::array::from_fn(|index| load::<8>(from, (x + index) * channels + first));
            for (index, column) in transposed(rows).iter().enumerate() {
                output.target.put((first + index) * plane + at + x, column);
            }
        }
        for x in whole..len {
            for channel in first..first + 8 {
                output.target.put(channel * plane + at + x, &[from[x * channels + channel]]);
            }
        }
    }
}

/// One tile's inputs, transformed along one side.
#[inline(always)]
fn forth<const L: usize>(d: [[f32; L]; IN]) -> [[f32; L]; IN] {
    let mut to = [[0.0; L]; IN];
    for l in 0..L {
        let [d0, d1, d2, d3, d4, d5] = [d[0][l], d[1][l], d[2][l], d[3][l], d[4][l], d[5][l]];
        let (even, odd) = (d4 - 4.0 * d2, d3 - 4.0 * d1);
        let (far, near) = (d4 - d2, 2.0 * (d3 - d1));
        to[0][l] = 4.0 * d0 - 5.0 * d2 + d4;
        to[1][l] = even + odd;
        to[2][l] = even - odd;
        to[3][l] = far + near;
        to[4][l] = far - near;
        to[5][l] = 4.0 * d1 - 5.0 * d3 + d5;
    }
    to
}

/// One tile's products, transformed back along one side.
#[inline(always)]
fn back<const L: usize>(m: [[f32; L]; IN]) -> [[f32; L]; OUT] {
    let mut to = [[0.0; L]; OUT];
    for l in 0..L {
        let [m0, m1, m2, m3, m4, m5] = [m[0][l], m[1][l], m[2][l], m[3][l], m[4][l], m[5][l]];
        let (sum, difference) = (m1 + m2, m1 - m2);
        let (far_sum, far_difference) = (m3 + m4, m3 - m4);
        to[0][l] = m0 + sum + far_sum;
        to[1][l] = difference + 2.0 * far_difference;
        to[2][l] = sum + 4.0 * far_sum;
        to[3][l] = difference + 8.0 * far_difference + m5;
    }
    to
}

/// The tile whose first pixel is `pixels`' first one, into `to` `[36, tiles, channels]`.
#[inline(always)]
fn transform_input<const L: usize>(
    pixels: &[f32],
    stride: usize,
    channels: usize,
    tile: usize,
    tiles: usize,
    to: &mut [f32],
) {
    for channel in (0..channels).step_by(L) {
        let mut half = [[[0.0; L]; IN]; IN];
        for x in 0..IN {
            let column = std::array::from_fn(|y| load::<L>(pixels, (y * stride + x) * channels + channel));
            for (y, lanes) in forth(column).into_iter().enumerate() {
                half[y][x] = lanes;
            }
        }
        for (y, row) in half.into_iter().enumerate() {
            for (x, lanes) in forth(row).into_iter().enumerate() {
                let at = ((y * IN + x) * tiles + tile) * channels + channel;
                to[at..at + L].copy_from_slice(&lanes);
            }
        }
    }
}

/// A tile's products `[36, tiles, channels]` become outputs, from `to`'s first pixel on.
#[inline(always)]
fn transform_output<const L: usize>(
    products: &[f32],
    tile: usize,
    tiles: usize,
    convolution: &Convolution,
    to: &mut [f32],
    stride: usize,
) {
    let channels = convolution.outputs;
    for channel in (0..channels).step_by(L) {
        let mut half = [[[0.0; L]; IN]; OUT];
        for x in 0..IN {
            let column =
                std::array::from_fn(|y| load::<L>(products, ((y * IN + x) * tiles + tile) * channels + channel));
            for (y, lanes) in back(column).into_iter().enumerate() {
                half[y][x] = lanes;
            }
        }
        let bias = load::<L>(&convolution.bias, channel);
        let slope = load::<L>(&convolution.slope, channel);
        for (y, row) in half.into_iter().enumerate() {
            for (x, mut lanes) in back(row).into_iter().enumerate() {
                for l in 0..L {
                    lanes[l] = activate(lanes[l] + bias[l], slope[l]);
                }
                let at = (y * stride + x) * channels + channel;
                to[at..at + L].copy_from_slice(&lanes);
            }
        }
    }
}

/// `to[row][column]`, the sum over `k` of `rows[row][k] * weights[k][column]`.
#[inline(always)]
fn multiply<const L: usize>(rows: &[f32], inner: usize, weights: &[f32], columns: usize, to: &mut [f32], count: usize) {
    let mut column = 0;
    while column < columns {
        // As many vectors side by side as there are registers for.
        let vectors = ((columns - column) / L).min(if L == 16 { 4 } else { 2 });
        match vectors {
            4 => strip::<L, 4>(rows, inner, &weights[column..], columns, &mut to[column..], count),
            3 => strip::<L, 3>(rows, inner, &weights[column..], columns, &mut to[column..], count),
            2 => strip::<L, 2>(rows, inner, &weights[column..], columns, &mut to[column..], count),
            _ => strip::<L, 1>(rows, inner, &weights[column..], columns, &mut to[column..], count),
        }
        column += vectors.max(1) * L;
    }
}

#[inline(always)]
fn strip<const L: usize, const N: usize>(
    rows: &[f32],
    inner: usize,
    weights: &[f32],
    columns: usize,
    to: &mut [f32],
    count: usize,
) {
    let mut row = 0;
    while row + 6 <= count {
        block::<L, 6, N>(&rows[row * inner..], inner, weights, columns, &mut to[row * columns..]);
        row += 6;
    }
    while row + 2 <= count {
        block::<L, 2, N>(&rows[row * inner..], inner, weights, columns, &mut to[row * columns..]);
        row += 2;
    }
    if row < count {
        block::<L, 1, N>(&rows[row * inner..], inner, weights, columns, &mut to[row * columns..]);
    }
}

/// `R` rows and `N` vectors of columns, in registers.
#[inline(always)]
fn block<const L: usize, const R: usize, const N: usize>(
    rows: &[f32],
    inner: usize,
    weights: &[f32],
    columns: usize,
    to: &mut [f32],
) {
    let mut sums = [[[0.0f32; L]; N]; R];
    for k in 0..inner {
        let weights = &weights[k * columns..][..N * L];
        let vectors: [[f32; L]; N] = std::array::from_fn(|n| load::<L>(weights, n * L));
        for r in 0..R {
            let factor = rows[r * inner + k];
            for n in 0..N {
                for l in 0..L {
                    sums[r][n][l] = factor.mul_add(vectors[n][l], sums[r][n][l]);
                }
            }
        }
    }
    for r in 0..R {
        for n in 0..N {
            to[r * columns + n * L..][..L].copy_from_slice(&sums[r][n]);
        }
    }
}
