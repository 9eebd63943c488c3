//! The first layers of a MobileNet, fused row by row: a 3 x 3 convolution with stride 2, then
//! depthwise separable layers (a 3 x 3 depthwise and a 1 x 1 pointwise convolution each).
//!
//! These layers have the largest images and the fewest channels of the network, so memory bandwidth
//! limits them. Fusion keeps each row in the cache until the next layer reads it.

use super::lanes::{AlignedBuffer, SharedOutput, Simd, SimdKernel, SimdLevel, activate, load, run};

/// Minimum number of output rows of a job. Adjacent jobs both compute the rows around their border.
const MIN_ROWS: usize = 8;
/// Maximum number of output rows of a job.
const MAX_ROWS: usize = 24;
/// Channel counts are multiples of this.
pub(crate) const CHANNEL_BLOCK: usize = 8;
/// Floats before the first column of a row, so that a vector load can start left of it.
const ROW_MARGIN: usize = 16;
/// Maximum number of input channels of the first convolution.
pub(crate) const MAX_INPUT_CHANNELS: usize = 4;
/// Maximum number of output channels of each layer.
pub(crate) const MAX_CHANNELS: usize = 64;
pub(crate) const MAX_SEPARABLE_LAYERS: usize = 6;

/// The parameters of a convolution. `bias` and `slopes` have one value per output channel.
#[derive(Debug)]
pub(crate) struct ConvParams {
    pub(crate) weights: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) slopes: Vec<f32>,
}

impl ConvParams {
    fn output_channels(&self) -> usize {
        self.bias.len()
    }

    /// Reorders weights `[output channels, taps]` to `[channel blocks, taps, CHANNEL_BLOCK]`.
    fn with_blocked_weights(self) -> Self {
        let taps = self.weights.len() / self.bias.len();
        let mut weights = Vec::with_capacity(self.weights.len());
        for block in self.weights.chunks_exact(CHANNEL_BLOCK * taps) {
            for tap in 0..taps {
                weights.extend((0..CHANNEL_BLOCK).map(|channel| block[channel * taps + tap]));
            }
        }
        Self { weights, ..self }
    }
}

/// A depthwise separable layer.
#[derive(Debug)]
pub(crate) struct SeparableLayer {
    /// Weights `[channels, 9]`.
    depthwise: ConvParams,
    /// Weights `[channel blocks, channels, CHANNEL_BLOCK]`.
    pointwise: ConvParams,
    /// Stride of the depthwise convolution, 1 or 2.
    stride: usize,
}

impl SeparableLayer {
    /// The weights have the shapes `[channels, 1, 3, 3]` and `[output channels, channels, 1, 1]`.
    /// Both channel counts are multiples of [`CHANNEL_BLOCK`].
    pub(crate) fn new(depthwise: ConvParams, pointwise: ConvParams, stride: usize) -> Self {
        Self { depthwise, pointwise: pointwise.with_blocked_weights(), stride }
    }
}

/// The fused layers.
#[derive(Debug)]
pub(crate) struct Stem {
    input_channels: usize,
    /// Weights `[channel blocks, input channels * 9, CHANNEL_BLOCK]`.
    first: ConvParams,
    layers: Vec<SeparableLayer>,
}

/// Scratch memory of a thread, reused by its jobs.
#[derive(Debug, Default)]
pub(crate) struct Scratch(AlignedBuffer);

/// The division of an image into jobs that can run in parallel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jobs {
    /// Output rows of a job.
    rows: usize,
    count: usize,
}

impl Jobs {
    /// Divides `out_height` rows for `threads` threads.
    pub(crate) fn new(out_height: usize, threads: usize) -> Self {
        let threads = threads.max(1);
        let wanted = threads * out_height.div_ceil(threads * MAX_ROWS).max(1);
        let count = wanted.min(out_height.div_ceil(MIN_ROWS)).max(1);
        let rows = out_height.div_ceil(count).max(1);
        Self { rows, count: out_height.div_ceil(rows) }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

impl Stem {
    /// `first` has weights `[channels, input_channels, 3, 3]` with a multiple of [`CHANNEL_BLOCK`]
    /// channels.
    ///
    /// # Panics
    /// If there is no separable layer, or if there are more than [`MAX_SEPARABLE_LAYERS`].
    pub(crate) fn new(input_channels: usize, first: ConvParams, layers: Vec<SeparableLayer>) -> Self {
        assert!((1..=MAX_SEPARABLE_LAYERS).contains(&layers.len()), "the number of separable layers is supported");
        Self { input_channels, first: first.with_blocked_weights(), layers }
    }

    pub(crate) fn input_channels(&self) -> usize {
        self.input_channels
    }

    pub(crate) fn output_channels(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.pointwise.output_channels())
    }

    /// Height and width of the output for an image of this size.
    pub(crate) fn output_size(&self, height: usize, width: usize) -> (usize, usize) {
        let strides = self.layers.iter().map(|layer| layer.stride);
        std::iter::once(2)
            .chain(strides)
            .fold((height, width), |(height, width), stride| (height.div_ceil(stride), width.div_ceil(stride)))
    }

    /// Runs job `index` of `jobs` on one image. `input` and `output` are NCHW.
    ///
    /// # Panics
    /// If `index` is not below `jobs.count()`, or if `input` or `output` has the wrong length.
    ///
    /// # Safety
    /// Concurrent calls with the same `output` use the same image size, equal `jobs` and different
    /// indices.
    #[expect(unsafe_code, reason = "jobs write to a shared output")]
    #[expect(clippy::too_many_arguments, reason = "a job needs all of them")]
    pub(crate) unsafe fn run(
        &self,
        level: SimdLevel,
        (height, width): (usize, usize),
        jobs: &Jobs,
        index: usize,
        input: &[f32],
        output: &SharedOutput<'_>,
        scratch: &mut Scratch,
    ) {
        assert!(index < jobs.count, "the job index is in range");
        assert_eq!(input.len(), self.input_channels * height * width, "the input has the size of the image");
        run(level, Job { stem: self, height, width, jobs, index, input, output, scratch });
    }

    /// Sets up the row buffers of all layers for a job whose first output row is `first`. `chunk`
    /// is the number of floats that the inner loops process at once.
    ///
    /// Returns how many output rows before `first` the job passes through, without writing them, to
    /// fill the buffers.
    fn set_up_buffers(
        &self,
        buffers: &mut [RowBuffer],
        (height, width): (usize, usize),
        first: usize,
        chunk: usize,
    ) -> usize {
        // Sizes, from the first layer to the last.
        let (mut rows, mut columns) = (height.div_ceil(2), width.div_ceil(2));
        for (buffer, layer) in buffers.iter_mut().zip(&self.layers) {
            let channels = layer.depthwise.output_channels();
            let deinterleaved = layer.stride == 2;
            let pitch = padded_row_len(columns.div_ceil(layer.stride), chunk);
            let row_len = channels * pitch * layer.stride;
            *buffer = RowBuffer { channels, height: rows, width: columns, deinterleaved, pitch, row_len, ..*buffer };
            (rows, columns) = (rows.div_ceil(layer.stride), columns.div_ceil(layer.stride));
        }
        // Required rows, from the last layer to the first. One more output row requires `advance`
        // more rows of a layer and 2 rows around them. Output row `first` requires `radius` rows on
        // both sides. The warm-up rows limit how many rows a layer computes per output row, so that
        // they fit into its buffer.
        let (mut next_row, mut advance, mut radius, mut warm_up) = (first as isize, 1, 0, 0);
        for (buffer, layer) in buffers.iter_mut().zip(&self.layers).rev() {
            next_row = next_row * layer.stride as isize - 1;
            advance *= layer.stride;
            radius = radius * layer.stride + 1;
            (buffer.next_row, buffer.capacity) = (next_row, advance + 2);
            warm_up = warm_up.max((2 * radius + 1).div_ceil(advance) - 1);
        }
        let mut start = 0;
        for buffer in buffers.iter_mut() {
            buffer.start = start;
            start += buffer.capacity * buffer.row_len;
        }
        warm_up
    }

    /// For each layer, the last input row that output row `y` requires.
    fn required_rows(&self, y: isize) -> [isize; MAX_SEPARABLE_LAYERS] {
        let mut required = [0; MAX_SEPARABLE_LAYERS];
        let mut last = y;
        for (required, layer) in required[..self.layers.len()].iter_mut().zip(&self.layers).rev() {
            last = last * layer.stride as isize + 1;
            *required = last;
        }
        required
    }
}

/// One job of a stem.
struct Job<'a> {
    stem: &'a Stem,
    height: usize,
    width: usize,
    jobs: &'a Jobs,
    index: usize,
    input: &'a [f32],
    output: &'a SharedOutput<'a>,
    scratch: &'a mut Scratch,
}

/// A ring buffer with the most recent input rows of a separable layer.
#[derive(Clone, Copy, Default)]
struct RowBuffer {
    channels: usize,
    height: usize,
    width: usize,
    /// Whether even and odd columns are stored in separate halves, for a layer with stride 2.
    deinterleaved: bool,
    /// Floats from one channel's row, or half of a row, to the next.
    pitch: usize,
    /// Floats of a row with all its channels.
    row_len: usize,
    /// Number of rows. Row `y` is stored at `y` modulo this.
    capacity: usize,
    /// Position in the memory of all buffers.
    start: usize,
    /// The next row to compute. The first one may be above the image.
    next_row: isize,
}

impl RowBuffer {
    fn row_start(&self, y: isize) -> usize {
        self.start + y.rem_euclid(self.capacity as isize) as usize * self.row_len
    }

    fn is_inside_image(&self, y: isize) -> bool {
        usize::try_from(y).is_ok_and(|y| y < self.height)
    }
}

/// Floats of a row with `width` columns: the margin, and chunks that cover the row and its right
/// neighbour.
const fn padded_row_len(width: usize, chunk: usize) -> usize {
    ROW_MARGIN + width.div_ceil(chunk) * chunk + chunk
}

/// The scratch memory of a job, divided by purpose.
struct Workspace<'a> {
    /// All row buffers.
    rows: &'a mut [f32],
    /// For each input channel, 3 rows of the image, each as its even columns and its odd columns.
    image_rows: &'a mut [f32],
    /// Floats from one half of an image row to the next.
    image_pitch: usize,
    /// The row that a depthwise convolution computed, for all channels.
    depthwise: &'a mut [f32],
    /// The rows of one channel block that a layer computed.
    result: &'a mut [f32],
}

impl<'a> Workspace<'a> {
    fn new(scratch: &'a mut Scratch, stem: &Stem, buffers: &[RowBuffer], width: usize, chunk: usize) -> Self {
        let rows_len = buffers.iter().map(|buffer| buffer.capacity * buffer.row_len).sum::<usize>();
        let image_pitch = padded_row_len(width.div_ceil(2), chunk);
        let image_len = stem.input_channels * 3 * 2 * image_pitch;
        let depthwise_len = buffers.iter().map(|buffer| buffer.channels * padded_row_len(buffer.width, chunk)).max();
        let depthwise_len = depthwise_len.unwrap_or(0);
        let result_len = CHANNEL_BLOCK * padded_row_len(width.div_ceil(2), chunk);
        let memory = scratch.0.get(rows_len + image_len + depthwise_len + result_len);
        let (rows, memory) = memory.split_at_mut(rows_len);
        let (image_rows, memory) = memory.split_at_mut(image_len);
        let (depthwise, result) = memory.split_at_mut(depthwise_len);
        // The margins are the zero padding of the convolutions. Nothing writes to them later.
        rows.fill(0.0);
        image_rows.fill(0.0);
        Self { rows, image_rows, image_pitch, depthwise, result }
    }
}

impl SimdKernel for Job<'_> {
    #[inline(always)]
    fn run<const L: usize>(self, simd: Simd<L>) {
        // The accumulators of a channel block fill the vector registers.
        if L == 16 { self.run_with::<L, 2>(simd) } else { self.run_with::<L, 1>(simd) }
    }
}

impl Job<'_> {
    /// Computes the job's rows with `N` vectors per accumulator.
    #[inline(always)]
    fn run_with<const L: usize, const N: usize>(self, simd: Simd<L>) {
        let Self { stem, height, width, jobs, index, input, output, scratch } = self;
        let size = (height, width);
        let out_size = stem.output_size(height, width);
        let first = index * jobs.rows;
        let end = (first + jobs.rows).min(out_size.0);
        let mut buffers = [RowBuffer::default(); MAX_SEPARABLE_LAYERS];
        let buffers = &mut buffers[..stem.layers.len()];
        let warm_up = stem.set_up_buffers(buffers, size, first, N * L);
        let mut workspace = Workspace::new(scratch, stem, buffers, width, N * L);

        for y in first as isize - warm_up as isize..end as isize {
            let required = stem.required_rows(y);
            for index in 0..buffers.len() {
                while buffers[index].next_row <= required[index] {
                    compute_row::<L, N>(simd, stem, index, buffers, input, size, &mut workspace);
                    buffers[index].next_row += 1;
                }
            }
            if y >= first as isize {
                compute_output_row::<L, N>(simd, stem, y as usize, buffers, out_size, output, &mut workspace);
            }
        }
    }
}

/// Computes the next row of buffer `index`: a row of the first convolution, or of the separable
/// layer before.
#[inline(always)]
fn compute_row<const L: usize, const N: usize>(
    simd: Simd<L>,
    stem: &Stem,
    index: usize,
    buffers: &[RowBuffer],
    image: &[f32],
    size: (usize, usize),
    workspace: &mut Workspace<'_>,
) {
    let Workspace { rows, image_rows, image_pitch, depthwise, result } = workspace;
    let buffer = &buffers[index];
    let y = buffer.next_row;
    if !buffer.is_inside_image(y) {
        rows[buffer.row_start(y)..][..buffer.row_len].fill(0.0);
    } else if index == 0 {
        load_image_rows(simd, image, stem.input_channels, size, y as usize, image_rows, *image_pitch);
        let offsets = tap_offsets(*image_pitch);
        let offsets = &offsets[..stem.input_channels * 9];
        for block in 0..buffer.channels / CHANNEL_BLOCK {
            weighted_sums::<L, N>(&stem.first, block, offsets, image_rows, result, buffer.width);
            store_rows::<L, N>(simd, buffer, y, block, result, rows);
        }
    } else {
        let layer = &stem.layers[index - 1];
        depthwise_row::<L, N>(simd, layer, &buffers[index - 1], y, rows, depthwise, buffer.width);
        let offsets = channel_offsets(padded_row_len(buffer.width, N * L));
        let offsets = &offsets[..layer.depthwise.output_channels()];
        for block in 0..buffer.channels / CHANNEL_BLOCK {
            weighted_sums::<L, N>(&layer.pointwise, block, offsets, depthwise, result, buffer.width);
            store_rows::<L, N>(simd, buffer, y, block, result, rows);
        }
    }
}

/// Computes row `y` of the last separable layer and writes it to `output`.
#[inline(always)]
#[expect(unsafe_code, reason = "jobs have disjoint rows, and `Stem::run` excludes equal indices")]
fn compute_output_row<const L: usize, const N: usize>(
    simd: Simd<L>,
    stem: &Stem,
    y: usize,
    buffers: &[RowBuffer],
    (out_height, out_width): (usize, usize),
    output: &SharedOutput<'_>,
    workspace: &mut Workspace<'_>,
) {
    let Workspace { rows, depthwise, result, .. } = workspace;
    let (Some(layer), Some(buffer)) = (stem.layers.last(), buffers.last()) else { return };
    depthwise_row::<L, N>(simd, layer, buffer, y as isize, rows, depthwise, out_width);
    let pitch = padded_row_len(out_width, N * L);
    let offsets = channel_offsets(pitch);
    let offsets = &offsets[..layer.depthwise.output_channels()];
    for block in 0..layer.pointwise.output_channels() / CHANNEL_BLOCK {
        weighted_sums::<L, N>(&layer.pointwise, block, offsets, depthwise, result, out_width);
        for (index, row) in result.chunks_exact(pitch).take(CHANNEL_BLOCK).enumerate() {
            let channel = block * CHANNEL_BLOCK + index;
            let row = &row[ROW_MARGIN..][..out_width];
            unsafe { output.write((channel * out_height + y) * out_width, row) }
        }
    }
}

/// Copies the 3 image rows that row `y` of the first convolution requires, with even and odd
/// columns separated. Rows outside the image are zero.
#[inline(always)]
fn load_image_rows<const L: usize>(
    simd: Simd<L>,
    image: &[f32],
    channels: usize,
    (height, width): (usize, usize),
    y: usize,
    to: &mut [f32],
    pitch: usize,
) {
    for channel in 0..channels {
        for tap in 0..3 {
            let halves = &mut to[(channel * 3 + tap) * 2 * pitch..][..2 * pitch];
            match (2 * y + tap).checked_sub(1).filter(|row| *row < height) {
                Some(row) => {
                    deinterleave_row(simd, &image[(channel * height + row) * width..][..width], halves, pitch);
                }
                None => {
                    halves[ROW_MARGIN..][..width.div_ceil(2)].fill(0.0);
                    halves[pitch + ROW_MARGIN..][..width / 2].fill(0.0);
                }
            }
        }
    }
}

/// Copies the even columns of a row to the first half of `to`, and the odd columns to the second
/// half, which starts at `pitch`.
#[inline(always)]
fn deinterleave_row<const L: usize>(simd: Simd<L>, row: &[f32], to: &mut [f32], pitch: usize) {
    let (even, odd) = to.split_at_mut(pitch);
    let (even, odd) = (&mut even[ROW_MARGIN..], &mut odd[ROW_MARGIN..]);
    let vectorized = row.len() / 16 * 16;
    for x in (0..vectorized).step_by(16) {
        let [evens, odds] = simd.deinterleave(load::<16>(row, x));
        even[x / 2..][..8].copy_from_slice(&evens);
        odd[x / 2..][..8].copy_from_slice(&odds);
    }
    for x in vectorized..row.len() {
        let to = if x % 2 == 0 { &mut even[x / 2] } else { &mut odd[x / 2] };
        *to = row[x];
    }
}

/// Copies the rows of one channel block to row `y` of a buffer.
#[inline(always)]
fn store_rows<const L: usize, const N: usize>(
    simd: Simd<L>,
    buffer: &RowBuffer,
    y: isize,
    block: usize,
    from: &[f32],
    rows: &mut [f32],
) {
    let pitch = padded_row_len(buffer.width, N * L);
    for (index, row) in from.chunks_exact(pitch).take(CHANNEL_BLOCK).enumerate() {
        let row = &row[ROW_MARGIN..][..buffer.width];
        let channel = block * CHANNEL_BLOCK + index;
        if buffer.deinterleaved {
            let to = &mut rows[buffer.row_start(y) + channel * 2 * buffer.pitch..][..2 * buffer.pitch];
            deinterleave_row(simd, row, to, buffer.pitch);
        } else {
            let start = buffer.row_start(y) + channel * buffer.pitch + ROW_MARGIN;
            rows[start..][..buffer.width].copy_from_slice(row);
        }
    }
}

/// Row `y` of a depthwise convolution, for all channels.
#[inline(always)]
fn depthwise_row<const L: usize, const N: usize>(
    simd: Simd<L>,
    layer: &SeparableLayer,
    buffer: &RowBuffer,
    y: isize,
    rows: &[f32],
    to: &mut [f32],
    out_width: usize,
) {
    let params = &layer.depthwise;
    let top = y * layer.stride as isize - 1;
    let row_starts = [buffer.row_start(top), buffer.row_start(top + 1), buffer.row_start(top + 2)];
    let pitch = padded_row_len(out_width, N * L);
    for channel in 0..params.output_channels() {
        let weights = load::<9>(&params.weights, channel * 9);
        let (bias, slope) = (params.bias[channel], params.slopes[channel]);
        let base = channel * buffer.pitch * layer.stride;
        for x in (0..out_width).step_by(L) {
            let mut sum = [bias; L];
            for row in 0..3 {
                let line = &rows[row_starts[row] + base + x..];
                let current = load::<L>(line, ROW_MARGIN);
                let taps = if layer.stride == 2 {
                    let odd = load::<L>(line, buffer.pitch + ROW_MARGIN);
                    let previous = load::<L>(line, buffer.pitch + ROW_MARGIN - L);
                    let [left, _] = simd.neighbours(previous, odd, odd);
                    [left, current, odd]
                } else {
                    let (previous, next) = (load::<L>(line, ROW_MARGIN - L), load::<L>(line, ROW_MARGIN + L));
                    let [left, right] = simd.neighbours(previous, current, next);
                    [left, current, right]
                };
                for tap in 0..3 {
                    let weight = weights[row * 3 + tap];
                    for l in 0..L {
                        sum[l] = weight.mul_add(taps[tap][l], sum[l]);
                    }
                }
            }
            let to = &mut to[channel * pitch + ROW_MARGIN + x..][..L];
            for l in 0..L {
                to[l] = activate(sum[l], slope);
            }
        }
    }
}

/// Where the row of each channel starts, for a pointwise convolution.
#[inline(always)]
fn channel_offsets(pitch: usize) -> [usize; MAX_CHANNELS] {
    std::array::from_fn(|channel| channel * pitch + ROW_MARGIN)
}

/// Where the row of each tap starts, for the first convolution. The taps of a kernel row are the
/// odd column to the left, the even column and the odd column to the right.
#[inline(always)]
fn tap_offsets(pitch: usize) -> [usize; 9 * MAX_INPUT_CHANNELS] {
    std::array::from_fn(|tap| {
        let line = tap / 3 * 2 * pitch + ROW_MARGIN;
        [line + pitch - 1, line, line + pitch][tap % 3]
    })
}

/// One channel block of a convolution's outputs: weighted sums of the rows of `from` that start at
/// `offsets`, with bias and activation.
#[inline(always)]
fn weighted_sums<const L: usize, const N: usize>(
    params: &ConvParams,
    block: usize,
    offsets: &[usize],
    from: &[f32],
    to: &mut [f32],
    out_width: usize,
) {
    let pitch = padded_row_len(out_width, N * L);
    let weights = &params.weights[block * offsets.len() * CHANNEL_BLOCK..][..offsets.len() * CHANNEL_BLOCK];
    let bias = load::<CHANNEL_BLOCK>(&params.bias, block * CHANNEL_BLOCK);
    let slope = load::<CHANNEL_BLOCK>(&params.slopes, block * CHANNEL_BLOCK);
    for x in (0..out_width).step_by(N * L) {
        let mut sums = [[[0.0f32; L]; N]; CHANNEL_BLOCK];
        for (offset, weights) in offsets.iter().zip(weights.chunks_exact(CHANNEL_BLOCK)) {
            let line = &from[offset + x..][..N * L];
            for channel in 0..CHANNEL_BLOCK {
                let weight = weights[channel];
                for n in 0..N {
                    for l in 0..L {
                        sums[channel][n][l] = weight.mul_add(line[n * L + l], sums[channel][n][l]);
                    }
                }
            }
        }
        for channel in 0..CHANNEL_BLOCK {
            let line = &mut to[channel * pitch + ROW_MARGIN + x..][..N * L];
            for n in 0..N {
                for l in 0..L {
                    line[n * L + l] = activate(sums[channel][n][l] + bias[channel], slope[channel]);
                }
            }
        }
    }
}
