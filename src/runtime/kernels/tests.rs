//! The kernels against reference implementations. `inference::kernel_tests` runs them in sessions.

use proptest::prelude::*;

use super::lanes::{SharedOutput, SimdLevel, activate};
use super::stem::{self, ConvParams, SeparableLayer, Stem};
use super::winograd::{self, ConvOutput, Convolution, TensorLayout};

/// Pseudo-random numbers between -1 and 1.
pub(crate) fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// Compares with a tolerance of 2e-5, relative to 1 + the magnitude of the expected value.
pub(crate) fn assert_close(actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let difference = (actual - expected).abs();
        assert!(difference <= 2e-5 * (1.0 + expected.abs()), "index {index}: {actual} instead of {expected}");
    }
}

/// A direct convolution of an NCHW image, summed in `f64`. The kernel is square, and the padding is
/// half of its size.
fn reference_convolution(
    input: &[f32],
    input_channels: usize,
    (height, width): (usize, usize),
    params: &ConvParams,
    kernel_size: usize,
    stride: usize,
    depthwise: bool,
) -> Vec<f32> {
    let output_channels = params.bias.len();
    let (out_height, out_width) = (height.div_ceil(stride), width.div_ceil(stride));
    let padding = kernel_size / 2;
    let mut result = Vec::new();
    for output in 0..output_channels {
        let channels = if depthwise { output..output + 1 } else { 0..input_channels };
        for y in 0..out_height {
            for x in 0..out_width {
                let mut sum = f64::from(params.bias[output]);
                for (k, channel) in channels.clone().enumerate() {
                    for dy in 0..kernel_size {
                        for dx in 0..kernel_size {
                            let (Some(row), Some(column)) =
                                ((y * stride + dy).checked_sub(padding), (x * stride + dx).checked_sub(padding))
                            else {
                                continue;
                            };
                            if row < height && column < width {
                                let kernel = output * channels.len() + k;
                                let weight = params.weights[(kernel * kernel_size + dy) * kernel_size + dx];
                                sum += f64::from(input[(channel * height + row) * width + column]) * f64::from(weight);
                            }
                        }
                    }
                }
                result.push((if sum < 0.0 { sum * f64::from(params.slopes[output]) } else { sum }) as f32);
            }
        }
    }
    result
}

fn nchw_to_nhwc(planes: &[f32], channels: usize) -> Vec<f32> {
    let plane = planes.len() / channels;
    (0..planes.len()).map(|index| planes[index % channels * plane + index / channels]).collect()
}

/// Runs all jobs of a convolution.
#[expect(unsafe_code, reason = "the jobs run one after the other")]
fn run_convolution(
    convolution: &Convolution,
    level: SimdLevel,
    (height, width): (usize, usize),
    input: &[f32],
    input_layout: TensorLayout,
    outputs: &[Option<ConvOutput<'_>>],
) {
    let (jobs, mut scratch) = (winograd::Jobs::new(height, width), winograd::Scratch::default());
    for index in 0..jobs.count() {
        unsafe { convolution.run(level, &jobs, index, input, input_layout, outputs, &mut scratch) }
    }
}

/// Runs all jobs of a stem.
#[expect(unsafe_code, reason = "the jobs run one after the other")]
fn run_stem(stem: &Stem, level: SimdLevel, size: (usize, usize), threads: usize, input: &[f32]) -> Vec<f32> {
    let (out_height, out_width) = stem.output_size(size.0, size.1);
    let mut values = vec![f32::NAN; stem.output_channels() * out_height * out_width];
    let (output, mut scratch) = (SharedOutput::new(&mut values), stem::Scratch::default());
    let jobs = stem::Jobs::new(out_height, threads);
    for index in 0..jobs.count() {
        unsafe { stem.run(level, size, &jobs, index, input, &output, &mut scratch) }
    }
    values
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_winograd_convolution_matches_direct_convolution(
        height in 1..40usize, width in 1..130usize, input_blocks in 1..3usize,
        output_blocks in (1..6usize, 0..3usize), seed: u32, nchw: (bool, bool),
    ) {
        let layout = |nchw| if nchw { TensorLayout::Nchw } else { TensorLayout::Nhwc };
        let (input_channels, first, second) = (input_blocks * 16, output_blocks.0 * 16, output_blocks.1 * 16);
        let params = ConvParams {
            weights: noise(seed, (first + second) * input_channels * 9).iter().map(|weight| weight * 0.1).collect(),
            bias: noise(seed ^ 1, first + second),
            slopes: noise(seed ^ 2, first + second),
        };
        let input = noise(seed ^ 3, input_channels * height * width);
        let expected = reference_convolution(&input, input_channels, (height, width), &params, 3, 1, false);
        let input = if nchw.0 { input } else { nchw_to_nhwc(&input, input_channels) };
        let convolution = Convolution::new(&params.weights, input_channels, params.bias, params.slopes);
        for level in SimdLevel::available() {
            let mut first_values = vec![f32::NAN; first * height * width];
            let mut second_values = vec![f32::NAN; second * height * width];
            let output = |first_channel, channels, values| {
                let values = SharedOutput::new(values);
                Some(ConvOutput { first_channel, channels, layout: layout(nchw.1), values })
            };
            let outputs = [output(0, first, &mut first_values), output(first, second, &mut second_values)];
            run_convolution(&convolution, level, (height, width), &input, layout(nchw.0), &outputs);
            let (first_expected, second_expected) = expected.split_at(first_values.len());
            for (actual, expected) in [(first_values, first_expected), (second_values, second_expected)] {
                let channels = expected.len() / (height * width);
                let expected =
                    if nchw.1 || channels == 0 { expected.to_vec() } else { nchw_to_nhwc(expected, channels) };
                assert_close(&actual, &expected);
            }
        }
    }

    #[test]
    fn a_stem_matches_its_layers_run_one_by_one(
        height in 1..80usize, width in 1..150usize, input_channels in 1..5usize, threads in 1..5usize,
        blocks in 1..4usize,
        layers in prop::collection::vec((1..4usize, 1..3usize), 1..=stem::MAX_SEPARABLE_LAYERS), seed: u32,
    ) {
        let params = |salt: u32, channels, weights_per_channel| ConvParams {
            weights: noise(seed ^ salt, channels * weights_per_channel).iter().map(|weight| weight * 0.4).collect(),
            bias: noise(seed ^ salt ^ 1024, channels),
            slopes: noise(seed ^ salt ^ 2048, channels),
        };
        let mut channels = blocks * 8;
        let input = noise(seed ^ 4096, input_channels * height * width);
        let first = params(1, channels, input_channels * 9);
        let mut expected = reference_convolution(&input, input_channels, (height, width), &first, 3, 2, false);
        let mut size = (height.div_ceil(2), width.div_ceil(2));
        let mut separable_layers = Vec::new();
        for (index, (blocks, stride)) in layers.into_iter().enumerate() {
            let depthwise = params(2 + index as u32, channels, 9);
            let pointwise = params(100 + index as u32, blocks * 8, channels);
            expected = reference_convolution(&expected, channels, size, &depthwise, 3, stride, true);
            size = (size.0.div_ceil(stride), size.1.div_ceil(stride));
            expected = reference_convolution(&expected, channels, size, &pointwise, 1, 1, false);
            channels = blocks * 8;
            separable_layers.push(SeparableLayer::new(depthwise, pointwise, stride));
        }
        let stem = Stem::new(input_channels, first, separable_layers);
        assert_eq!((stem.output_size(height, width), stem.output_channels()), (size, channels));
        for level in SimdLevel::available() {
            assert_close(&run_stem(&stem, level, (height, width), threads, &input), &expected);
        }
    }
}

#[test]
fn nan_stays_nan_through_activation_and_convolution() {
    for slope in [0.0, 0.1, 1.0] {
        assert!(activate(f32::NAN, slope).is_nan());
    }
    let convolution = Convolution::new(&noise(1, 16 * 16 * 9), 16, noise(2, 16), vec![0.0; 16]);
    let mut input = noise(3, 16 * 8 * 8);
    input[100] = f32::NAN;
    for level in SimdLevel::available() {
        let mut actual = vec![0.0; input.len()];
        let values = SharedOutput::new(&mut actual);
        let outputs = [Some(ConvOutput { first_channel: 0, channels: 16, layout: TensorLayout::Nchw, values })];
        run_convolution(&convolution, level, (8, 8), &input, TensorLayout::Nchw, &outputs);
        assert!(actual.iter().any(|value| value.is_nan()));
    }
}

#[test]
#[should_panic(expected = "the range exceeds the output")]
#[expect(unsafe_code, reason = "no other thread writes")]
fn a_write_outside_the_output_panics() {
    let mut values = [0.0; 8];
    unsafe { SharedOutput::new(&mut values).write(6, &[1.0; 3]) }
}
