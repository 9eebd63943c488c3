//! The first layers of a MobileNet, row by row: a convolution of 3 x 3 and stride 2, then pairs of one of 3 x 3 for each
//! channel alone and one of 1 x 1. Their planes are the network's largest and have the fewest channels, so that memory is
//! what they wait for; a row that has just been made is still in the cache when the next layer takes it.

use super::lanes::{Floats, Target, Width, Work, activate, apart, load, neighbours, run};

/// Fewest rows that a job makes: those around them, which its neighbours make as well, are work done twice.
const FEWEST_ROWS: usize = 8;
/// Most rows that a job makes where there are enough jobs for all threads.
const MOST_ROWS: usize = 24;
/// Channels come in groups of so many.
pub(crate) const GROUP: usize = 8;
/// Floats before a row, so that what is left of it can be read.
const BEFORE: usize = 16;
/// Most inputs of the first layer.
pub(crate) const INPUTS: usize = 4;
/// Most channels of any layer.
pub(crate) const CHANNELS: usize = 64;
/// Most pairs of layers.
pub(crate) const PAIRS: usize = 6;

/// One of the layers: weights, and bias and slope of each output.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) weights: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) slope: Vec<f32>,
}

impl Layer {
    fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Weights `[outputs, taps]` as `[groups, taps, GROUP]`.
    fn grouped(self) -> Self {
        let taps = self.weights.len() / self.bias.len();
        let mut weights = Vec::with_capacity(self.weights.len());
        for group in self.weights.chunks_exact(GROUP * taps) {
            for tap in 0..taps {
                weights.extend((0..GROUP).map(|channel| group[channel * taps + tap]));
            }
        }
        Self { weights, ..self }
    }
}

/// A convolution of each channel alone, and one over all channels of a pixel.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Stride of the first, 1 or 2.
    step: usize,
    /// Weights `[channels, 9]`.
    each: Layer,
    /// Weights `[groups, channels, GROUP]`.
    last: Layer,
}

impl Pair {
    /// Of weights `[channels, 1, 3, 3]` and `[outputs, channels, 1, 1]`; both counts are multiples of [`GROUP`].
    pub(crate) fn new(step: usize, each: Layer, last: Layer) -> Self {
        Self { step, each, last: last.grouped() }
    }
}

/// All of them, ready to be run.
#[derive(Debug)]
pub(crate) struct Stem {
    inputs: usize,
    /// Weights `[groups, inputs * 9, GROUP]`.
    first: Layer,
    pairs: Vec<Pair>,
}

/// Memory of a thread that runs jobs.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Floats);

/// How a picture is cut into jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jobs {
    rows: usize,
    count: usize,
}

impl Jobs {
    /// `height` rows for `threads` threads.
    pub(crate) fn of(height: usize, threads: usize) -> Self {
        let threads = threads.max(1);
        let wanted = threads * height.div_ceil(threads * MOST_ROWS).max(1);
        let count = wanted.min(height.div_ceil(FEWEST_ROWS)).max(1);
        let rows = height.div_ceil(count).max(1);
        Self { rows, count: height.div_ceil(rows) }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

impl Stem {
    /// Of the first layer's weights `[channels, inputs, 3, 3]`, with a multiple of [`GROUP`] channels, and at least one pair,
    /// at most [`PAIRS`].
    pub(crate) fn new(inputs: usize, first: Layer, pairs: Vec<Pair>) -> Self {
        assert!((1..=PAIRS).contains(&pairs.len()), "there are pairs, and not too many");
        Self { inputs, first: first.grouped(), pairs }
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.pairs.last().map_or(0, |pair| pair.last.outputs())
    }

    /// Height and width of what comes of a picture.
    pub(crate) fn size(&self, height: usize, width: usize) -> (usize, usize) {
        let steps = self.pairs.iter().map(|pair| pair.step);
        std::iter::once(2)
            .chain(steps)
            .fold((height, width), |(high, wide), step| (high.div_ceil(step), wide.div_ceil(step)))
    }

    /// Runs job `number` of `jobs` on a picture's planes, into planes.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a job needs")]
    pub(crate) fn run(
        &self,
        lanes: Width,
        (height, width): (usize, usize),
        jobs: &Jobs,
        number: usize,
        input: &[f32],
        target: &Target<'_>,
        scratch: &mut Scratch,
    ) {
        assert_eq!(input.len(), self.inputs * height * width, "the input is of the picture's size");
        run(lanes, Job { stem: self, height, width, jobs, number, input, target, scratch });
    }
}

struct Job<'a> {
    stem: &'a Stem,
    height: usize,
    width: usize,
    jobs: &'a Jobs,
    number: usize,
    input: &'a [f32],
    target: &'a Target<'a>,
    scratch: &'a mut Scratch,
}

/// The rows of one layer's results that are kept.
#[derive(Clone, Copy, Default)]
struct Level {
    channels: usize,
    height: usize,
    width: usize,
    /// Whether even and odd columns lie apart, for a layer of stride 2.
    is_apart: bool,
    /// From one channel's row, or half of it, to the next one's.
    stride: usize,
    /// Of all channels.
    row_len: usize,
    /// How many rows are kept; row y is at y modulo it.
    kept: usize,
    /// Where they are in the scratch memory.
    start: usize,
    /// The next row to be made; the first may be above the picture.
    next: isize,
}

impl Level {
    fn at(&self, y: isize) -> usize {
        self.start + y.rem_euclid(self.kept as isize) as usize * self.row_len
    }

    fn has(&self, y: isize) -> bool {
        usize::try_from(y).is_ok_and(|y| y < self.height)
    }
}

/// Room for a row of `width` floats: what is before it, and whole steps.
const fn room(width: usize, step: usize) -> usize {
    BEFORE + width.div_ceil(step) * step + step
}

impl Work for Job<'_> {
    #[inline(always)]
    fn run<const L: usize>(self) {
        // As many vectors of a row are summed at once, for a group of channels, as there are registers for.
        if L == 16 { self.run_with::<L, 2>() } else { self.run_with::<L, 1>() }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn run_with<const L: usize, const N: usize>(self) {
        let Self { stem, height, width, jobs, number, input, target, scratch } = self;
        let step = N * L;
        let pairs = stem.pairs.as_slice();
        let (high, wide) = stem.size(height, width);
        let first = number * jobs.rows;
        let until = (first + jobs.rows).min(high);

        // The layers' sizes from the first one on; then, from the last one back, which of their rows are wanted.
        let mut levels = [Level::default(); PAIRS];
        let levels = &mut levels[..pairs.len()];
        let mut start = 0;
        let (mut rows, mut columns) = (height.div_ceil(2), width.div_ceil(2));
        for (level, pair) in levels.iter_mut().zip(pairs) {
            let channels = pair.each.outputs();
            let is_apart = pair.step == 2;
            let stride = room(columns.div_ceil(pair.step), step);
            let row_len = channels * stride * pair.step;
            *level = Level { channels, height: rows, width: columns, is_apart, stride, row_len, ..*level };
            (rows, columns) = (rows.div_ceil(pair.step), columns.div_ceil(pair.step));
        }
        // Of one more row at the end come `ahead` rows of a layer, and two around them; of the job's first row come `around`
        // on each side. Rows before that one are gone through, too, so that no layer ever makes more at once than are kept.
        let (mut next, mut ahead, mut around, mut before) = (first as isize, 1, 0, 0);
        for (level, pair) in levels.iter_mut().zip(pairs).rev() {
            (next, ahead, around) = (next * pair.step as isize - 1, ahead * pair.step, around * pair.step + 1);
            (level.next, level.kept) = (next, ahead + 2);
            before = before.max((2 * around + 1).div_ceil(ahead) - 1);
        }
        for level in levels.iter_mut() {
            level.start = start;
            start += level.kept * level.row_len;
        }
        // Of each input's three rows the even columns, then the odd ones; one layer's results of channels alone; rows on
        // their way to where they belong.
        let taken = room(width.div_ceil(2), step);
        let widest = levels.iter().map(|level| level.channels * room(level.width, step)).max().unwrap_or(0);
        let lengths = [start, stem.inputs * 3 * 2 * taken, widest, GROUP * room(width.div_ceil(2), step)];
        let (kept, rest) = scratch.0.get(lengths.iter().sum()).split_at_mut(lengths[0]);
        let (split, rest) = rest.split_at_mut(lengths[1]);
        let (middle, result) = rest.split_at_mut(lengths[2]);
        // Tap x of a kernel's row: the odd column before, the even one, the odd one.
        let taps: [usize; 9 * INPUTS] = std::array::from_fn(|tap| {
            let line = tap / 3 * 2 * taken + BEFORE;
            [line + taken - 1, line, line + taken][tap % 3]
        });
        let taps = &taps[..stem.inputs * 9];
        // Zeros around all rows, where nothing else is written.
        kept.fill(0.0);
        split.fill(0.0);

        for y in first as isize - before as isize..until as isize {
            let mut wanted = [0isize; PAIRS];
            let mut below = y;
            for (wanted, pair) in wanted[..pairs.len()].iter_mut().zip(pairs).rev() {
                below = below * pair.step as isize + 1;
                *wanted = below;
            }
            for index in 0..levels.len() {
                while levels[index].next <= wanted[index] {
                    let level = levels[index];
                    let row = level.next;
                    levels[index].next += 1;
                    if !level.has(row) {
                        kept[level.at(row)..][..level.row_len].fill(0.0);
                    } else if index == 0 {
                        take_rows(input, stem.inputs, (height, width), row as usize, split, taken);
                        for group in 0..level.channels / GROUP {
                            sums::<L, N>(&stem.first, group, taps, split, result, level.width);
                            keep::<L, N>(&level, row, group, result, kept);
                        }
                    } else {
                        let pair = &pairs[index - 1];
                        each::<L, N>(pair, &levels[index - 1], row, kept, middle, level.width);
                        let rows = each_row(room(level.width, step));
                        let rows = &rows[..pair.each.outputs()];
                        for group in 0..level.channels / GROUP {
                            sums::<L, N>(&pair.last, group, rows, middle, result, level.width);
                            keep::<L, N>(&level, row, group, result, kept);
                        }
                    }
                }
            }
            let (Some(pair), Some(level)) = (pairs.last(), levels.last()) else { return };
            if y < first as isize {
                continue;
            }
            each::<L, N>(pair, level, y, kept, middle, wide);
            let stride = room(wide, step);
            let rows = each_row(stride);
            let rows = &rows[..pair.each.outputs()];
            for group in 0..stem.outputs() / GROUP {
                sums::<L, N>(&pair.last, group, rows, middle, result, wide);
                for (index, row) in result.chunks_exact(stride).take(GROUP).enumerate() {
                    let plane = group * GROUP + index;
                    target.put((plane * high + y as usize) * wide, &row[BEFORE..][..wide]);
                }
            }
        }
    }
}

/// The three rows around row `y` of the first layer, columns apart by whether they are even, zeros beyond the border.
#[inline(always)]
fn take_rows(
    input: &[f32],
    inputs: usize,
    (height, width): (usize, usize),
    y: usize,
    split: &mut [f32],
    stride: usize,
) {
    for channel in 0..inputs {
        for tap in 0..3 {
            let both = &mut split[(channel * 3 + tap) * 2 * stride..][..2 * stride];
            match (2 * y + tap).checked_sub(1).filter(|row| *row < height) {
                Some(row) => take_apart(&input[(channel * height + row) * width..][..width], both, stride),
                None => {
                    both[BEFORE..][..width.div_ceil(2)].fill(0.0);
                    both[stride + BEFORE..][..width / 2].fill(0.0);
                }
            }
        }
    }
}

/// The even columns of a row, and its odd ones a `stride` behind.
#[inline(always)]
fn take_apart(row: &[f32], to: &mut [f32], stride: usize) {
    let (even, odd) = to.split_at_mut(stride);
    let (even, odd) = (&mut even[BEFORE..], &mut odd[BEFORE..]);
    let whole = row.len() / 16 * 16;
    for x in (0..whole).step_by(16) {
        let [evens, odds] = apart(load::<16>(row, x));
        even[x / 2..][..8].copy_from_slice(&evens);
        odd[x / 2..][..8].copy_from_slice(&odds);
    }
    for x in whole..row.len() {
        let to = if x % 2 == 0 { &mut even[x / 2] } else { &mut odd[x / 2] };
        *to = row[x];
    }
}

/// Puts a group's rows where the next layer looks for them.
#[inline(always)]
fn keep<const L: usize, const N: usize>(level: &Level, y: isize, group: usize, rows: &[f32], kept: &mut [f32]) {
    let stride = room(level.width, N * L);
    for (index, row) in rows.chunks_exact(stride).take(GROUP).enumerate() {
        let row = &row[BEFORE..][..level.width];
        let channel = group * GROUP + index;
        if level.is_apart {
            let to = &mut kept[level.at(y) + channel * 2 * level.stride..][..2 * level.stride];
            take_apart(row, to, level.stride);
        } else {
            kept[level.at(y) + channel * level.stride + BEFORE..][..level.width].copy_from_slice(row);
        }
    }
}

/// A row of a convolution of each channel alone.
#[inline(always)]
fn each<const L: usize, const N: usize>(
    pair: &Pair,
    level: &Level,
    y: isize,
    kept: &[f32],
    to: &mut [f32],
    wide: usize,
) {
    let layer = &pair.each;
    let top = y * pair.step as isize - 1;
    let around = [level.at(top), level.at(top + 1), level.at(top + 2)];
    let stride = room(wide, N * L);
    for channel in 0..layer.outputs() {
        let weights = load::<9>(&layer.weights, channel * 9);
        let (bias, slope) = (layer.bias[channel], layer.slope[channel]);
        let base = channel * level.stride * pair.step;
        for x in (0..wide).step_by(L) {
            let mut sum = [bias; L];
            for row in 0..3 {
                let line = &kept[around[row] + base + x..];
                let now = load::<L>(line, BEFORE);
                let taps = if pair.step == 2 {
                    let odd = load::<L>(line, level.stride + BEFORE);
                    let [before, _] = neighbours(load::<L>(line, level.stride + BEFORE - L), odd, odd);
                    [before, now, odd]
                } else {
                    let [before, after] = neighbours(load::<L>(line, BEFORE - L), now, load::<L>(line, BEFORE + L));
                    [before, now, after]
                };
                for tap in 0..3 {
                    let weight = weights[row * 3 + tap];
                    for l in 0..L {
                        sum[l] = weight.mul_add(taps[tap][l], sum[l]);
                    }
                }
            }
            let to = &mut to[channel * stride + BEFORE + x..][..L];
            for l in 0..L {
                to[l] = activate(sum[l], slope);
            }
        }
    }
}

/// Where each channel's row begins.
#[inline(always)]
fn each_row(stride: usize) -> [usize; CHANNELS] {
    std::array::from_fn(|channel| channel * stride + BEFORE)
}

/// A group of `layer`'s outputs: the sum of rows of `from`, which begin at `taps`, each by its weight.
#[inline(always)]
fn sums<const L: usize, const N: usize>(
    layer: &Layer,
    group: usize,
    taps: &[usize],
    from: &[f32],
    to: &mut [f32],
    wide: usize,
) {
    let stride = room(wide, N * L);
    let weights = &layer.weights[group * taps.len() * GROUP..][..taps.len() * GROUP];
    let bias = load::<GROUP>(&layer.bias, group * GROUP);
    let slope = load::<GROUP>(&layer.slope, group * GROUP);
    for x in (0..wide).step_by(N * L) {
        let mut sums = [[[0.0f32; L]; N]; GROUP];
        for (tap, weights) in taps.iter().zip(weights.chunks_exact(GROUP)) {
            let line = &from[tap + x..][..N * L];
            for channel in 0..GROUP {
                let weight = weights[channel];
                for n in 0..N {
                    for l in 0..L {
                        sums[channel][n][l] = weight.mul_add(line[n * L + l], sums[channel][n][l]);
                    }
                }
            }
        }
        for channel in 0..GROUP {
            let line = &mut to[channel * stride + BEFORE + x..][..N * L];
            for n in 0..N {
                for l in 0..L {
                    line[n * L + l] = activate(sums[channel][n][l] + bias[channel], slope[channel]);
                }
            }
        }
    }
}
