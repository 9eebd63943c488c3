use proptest::prelude::*;

use super::lanes::{Target, Width, width};
use super::stem::{self, Layer, Pair, Stem};
use super::winograd::{self, Convolution, Jobs, Order, Output};

/// Numbers between -1 and 1 that look random.
fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

fn widths() -> Vec<Width> {
    match width() {
        Some(Width::Sixteen) => vec![Width::Eight, Width::Sixteen],
        width => width.into_iter().collect(),
    }
}

/// A convolution by its definition: kernels of `side`, with padding of half of it.
fn directly(
    input: &[f32],
    inputs: usize,
    (height, width): (usize, usize),
    layer: &Layer,
    side: usize,
    step: usize,
    alone: bool,
) -> Vec<f32> {
    let outputs = layer.bias.len();
    let (high, wide) = (height.div_ceil(step), width.div_ceil(step));
    let mut to = Vec::new();
    for output in 0..outputs {
        let from = if alone { output..output + 1 } else { 0..inputs };
        for y in 0..high {
            for x in 0..wide {
                let mut sum = f64::from(layer.bias[output]);
                for (k, channel) in from.clone().enumerate() {
                    for dy in 0..side {
                        for dx in 0..side {
                            let (Some(row), Some(column)) =
                                ((y * step + dy).checked_sub(side / 2), (x * step + dx).checked_sub(side / 2))
                            else {
                                continue;
                            };
                            if row < height && column < width {
                                let weight = layer.weights[((output * from.len() + k) * side + dy) * side + dx];
                                sum += f64::from(input[(channel * height + row) * width + column]) * f64::from(weight);
                            }
                        }
                    }
                }
                to.push((if sum < 0.0 { sum * f64::from(layer.slope[output]) } else { sum }) as f32);
            }
        }
    }
    to
}

fn interleaved(planes: &[f32], channels: usize) -> Vec<f32> {
    let plane = planes.len() / channels;
    (0..planes.len()).map(|index| planes[index % channels * plane + index / channels]).collect()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= 2e-5 * (1.0 + expected.abs()), "at {index}: {found}, not {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_convolution_is_the_sum_it_stands_for(
        height in 1..40usize, width in 1..130usize, inputs in 1..3usize, counts in (1..6usize, 0..3usize), seed: u32,
        orders: (bool, bool),
    ) {
        let order = |planar| if planar { Order::Planar } else { Order::Interleaved };
        let (inputs, first, second) = (inputs * 16, counts.0 * 16, counts.1 * 16);
        let layer = Layer {
            weights: noise(seed, (first + second) * inputs * 9).iter().map(|weight| weight * 0.1).collect(),
            bias: noise(seed ^ 1, first + second),
            slope: noise(seed ^ 2, first + second),
        };
        let input = noise(seed ^ 3, inputs * height * width);
        let expected = directly(&input, inputs, (height, width), &layer, 3, 1, false);
        let given = if orders.0 { input } else { interleaved(&input, inputs) };
        let convolution = Convolution::new(&layer.weights, inputs, layer.bias, layer.slope);
        for lanes in widths() {
            let (mut one, mut two) = (vec![f32::NAN; first * height * width], vec![f32::NAN; second * height * width]);
            let target = |first, channels, floats| Some(Output { first, channels, order: order(orders.1), target: Target::new(floats) });
            let outputs = [target(0, first, &mut one), target(first, second, &mut two)];
            let (jobs, mut scratch) = (Jobs::of(height, width), winograd::Scratch::default());
            for number in 0..jobs.count() {
                convolution.run(lanes, &jobs, number, &given, order(orders.0), &outputs, &mut scratch);
            }
            let (left, right) = expected.split_at(one.len());
            for (found, expected) in [(one, left), (two, right)] {
                let channels = expected.len() / (height * width);
                let expected = if orders.1 || channels == 0 { expected.to_vec() } else { interleaved(expected, channels) };
                assert_close(&found, &expected);
            }
        }
    }

    #[test]
    fn a_stem_is_its_layers(
        height in 1..80usize, width in 1..150usize, inputs in 1..5usize, threads in 1..5usize, channels in 1..4usize,
        pairs in prop::collection::vec((1..4usize, 1..3usize), 1..=stem::PAIRS), seed: u32,
    ) {
        let layer = |salt: u32, count, each| Layer {
            weights: noise(seed ^ salt, count * each).iter().map(|weight| weight * 0.4).collect(),
            bias: noise(seed ^ salt ^ 1024, count),
            slope: noise(seed ^ salt ^ 2048, count),
        };
        let mut channels = channels * 8;
        let input = noise(seed ^ 4096, inputs * height * width);
        let first = layer(1, channels, inputs * 9);
        let mut expected = directly(&input, inputs, (height, width), &first, 3, 2, false);
        let mut size = (height.div_ceil(2), width.div_ceil(2));
        let mut made = Vec::new();
        for (index, (outputs, step)) in pairs.into_iter().enumerate() {
            let (each, last) = (layer(2 + index as u32, channels, 9), layer(100 + index as u32, outputs * 8, channels));
            expected = directly(&expected, channels, size, &each, 3, step, true);
            size = (size.0.div_ceil(step), size.1.div_ceil(step));
            expected = directly(&expected, channels, size, &last, 1, 1, false);
            channels = outputs * 8;
            made.push(Pair::new(step, each, last));
        }
        let stem = Stem::new(inputs, first, made);
        assert_eq!((stem.size(height, width), stem.outputs()), (size, channels));
        for lanes in widths() {
            let mut found = vec![f32::NAN; channels * size.0 * size.1];
            let (target, mut scratch) = (Target::new(&mut found), stem::Scratch::default());
            let jobs = stem::Jobs::of(size.0, threads);
            for number in 0..jobs.count() {
                stem.run(lanes, (height, width), &jobs, number, &input, &target, &mut scratch);
            }
            assert_close(&found, &expected);
        }
    }
}
