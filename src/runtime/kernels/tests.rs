use ort::value::Tensor;
use proptest::prelude::*;
use prost::Message as _;

use super::lanes::{Target, Width, activate};
use super::stem::{self, Layer, Pair, Stem};
use super::winograd::{self, Convolution, Jobs, Order, Output};
use super::with_kernels;
use crate::model::{Kernels, Options};
use crate::onnx::{Builder, Element, Model, Side, Value, ValueInfo};
use crate::provider::Provider;
use crate::session::{Source, session};

/// Numbers between -1 and 1 that look random.
fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
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
        for lanes in Width::all() {
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
        for lanes in Width::all() {
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

#[test]
fn what_is_no_number_stays_none() {
    for slope in [0.0, 0.1, 1.0] {
        assert!(activate(f32::NAN, slope).is_nan());
    }
    let convolution = Convolution::new(&noise(1, 16 * 16 * 9), 16, noise(2, 16), vec![0.0; 16]);
    let mut input = noise(3, 16 * 8 * 8);
    input[100] = f32::NAN;
    for lanes in Width::all() {
        let mut found = vec![0.0; input.len()];
        let target = Target::new(&mut found);
        let outputs = [Some(Output { first: 0, channels: 16, order: Order::Planar, target })];
        let jobs = Jobs::of(8, 8);
        let mut scratch = winograd::Scratch::default();
        convolution.run(lanes, &jobs, 0, &input, Order::Planar, &outputs, &mut scratch);
        assert!(found.iter().any(|value| value.is_nan()));
    }
}

/// A model of these nodes and outputs, which takes `x`, a picture of 16 channels.
fn model(nodes: impl FnOnce(&mut Builder), outputs: &[(&str, usize)]) -> Vec<u8> {
    let file = std::fs::read(".fetch/models/retinaface_mnet025.onnx").unwrap();
    let mut model = Model::parse(&file).unwrap();
    let mut builder = Builder::new("test/");
    nodes(&mut builder);
    let graph = model.graph.as_mut().unwrap();
    (graph.node, graph.initializer) = (builder.nodes, builder.initializers);
    graph.value_info.clear();
    let picture = |name: &str, channels| {
        ValueInfo::new(name, Element::F32, &[Side::Fixed(1), Side::Fixed(channels), Side::Fixed(21), Side::Fixed(34)])
    };
    graph.input = vec![picture("x", 16)];
    graph.output = outputs.iter().map(|(name, channels)| picture(name, *channels)).collect();
    model.encode_to_vec()
}

/// A convolution of 3 x 3; its weights depend on `seed` alone.
fn convolve(
    builder: &mut Builder,
    seed: u32,
    (from, inputs): (&str, usize),
    (to, outputs): (&str, usize),
    more: &[(&str, Value<'_>)],
) {
    let weights = noise(seed, outputs * inputs * 9).iter().map(|weight| weight * 0.1).collect::<Vec<_>>();
    let weights = builder.floats(&[outputs, inputs, 3, 3], &weights);
    let bias = builder.floats(&[outputs], &noise(seed ^ 1, outputs));
    let pads = [("pads", Value::Ints(&[1, 1, 1, 1]))];
    let attributes = if more.is_empty() { &pads[..] } else { more };
    builder.push("Conv", &[from, &weights, &bias], &[to.to_owned()], attributes, None);
}

fn node(builder: &mut Builder, kind: &str, inputs: &[&str], output: &str) {
    builder.push(kind, inputs, &[output.to_owned()], &[], None);
}

/// Runs it with kernels and without, and says how many there were.
fn assert_alike(file: &[u8]) -> usize {
    let runtime = crate::runtime::load(None, Provider::Cpu).unwrap();
    let input = Tensor::from_array(([1usize, 16, 21, 34], noise(7, 16 * 21 * 34))).unwrap();
    let mut counts = Vec::new();
    let [expected, found] = [Kernels::Runtime, Kernels::Auto].map(|kernels| {
        let options = Options { provider: Provider::Cpu, kernels, ..Options::default() };
        let made = session(&runtime, &options, Source::Bytes(file), None);
        let (mut session, count) = made.map_err(|error| error.of(Provider::Cpu, "test".as_ref())).unwrap();
        counts.push(count.unwrap());
        let outputs = session.run(ort::inputs!["x" => &input]).unwrap();
        outputs.values().map(|value| value.try_extract_tensor::<f32>().unwrap().1.to_vec()).collect::<Vec<_>>()
    });
    for (found, expected) in found.iter().zip(&expected) {
        assert_close(found, expected);
    }
    counts[1]
}

#[test]
fn a_graph_with_kernels_gives_what_it_gives_without() {
    let is_here = usize::from(!Width::all().is_empty());
    // A result that others read as well, and one that is an output.
    let both = model(
        |b| {
            convolve(b, 10, ("x", 16), ("a", 32), &[]);
            node(b, "Relu", &["a"], "r");
            node(b, "Add", &["a", "r"], "sum");
            convolve(b, 20, ("r", 32), ("c", 32), &[]);
        },
        &[("sum", 32), ("r", 32), ("c", 32)],
    );
    assert_eq!(assert_alike(&both), 2 * is_here);
    // Between two kernels channels stay together, but not where somebody else looks.
    for foreign in [false, true] {
        let chain = model(
            |b| {
                convolve(b, 10, ("x", 16), ("a", 32), &[]);
                convolve(b, 20, ("a", 32), ("c", 32), &[]);
                node(b, "Add", &[if foreign { "a" } else { "c" }, "c"], "out");
            },
            &[("out", 32)],
        );
        assert_eq!(assert_alike(&chain), 2 * is_here);
    }
    // Two that are the same, one of which somebody else reads; siblings; and a result under another name.
    let twins = model(
        |b| {
            for name in ["a", "twin"] {
                convolve(b, 10, ("x", 16), (&format!("{name}0"), 16), &[]);
                node(b, "LeakyRelu", &[&format!("{name}0")], name);
            }
            convolve(b, 30, ("x", 16), ("sibling", 16), &[]);
            convolve(b, 40, ("a", 16), ("c", 16), &[]);
            convolve(b, 50, ("twin", 16), ("d", 32), &[]);
            node(b, "Add", &["twin", "c"], "e");
        },
        &[("e", 16), ("d", 32), ("sibling", 16), ("twin", 16)],
    );
    assert_eq!(assert_alike(&twins), 2 * is_here);
    // A normalisation is part of it.
    let normalised = model(
        |b| {
            convolve(b, 10, ("x", 16), ("a", 32), &[]);
            let [scale, shift, mean] = [1, 2, 3].map(|seed| b.floats(&[32], &noise(seed, 32)));
            let variance = b.floats(&[32], &noise(4, 32).iter().map(|value| value + 1.5).collect::<Vec<_>>());
            node(b, "BatchNormalization", &["a", &scale, &shift, &mean, &variance], "n");
            node(b, "Relu", &["n"], "out");
        },
        &[("out", 32)],
    );
    assert_eq!(assert_alike(&normalised), is_here);
}

#[test]
fn what_kernels_do_not_do_is_left_to_onnx_runtime() {
    let one = [("pads", Value::Ints(&[1, 1, 1, 1]))];
    let left = [
        [("auto_pad", Value::Text("SAME_UPPER"))].to_vec(),
        [("pads", Value::Ints(&[2, 2, 2, 2])), ("dilations", Value::Ints(&[2, 2]))].to_vec(),
        [("pads", Value::Ints(&[0, 0, 2, 2]))].to_vec(),
        // Whoever says a thing twice may mean another one of them.
        [one[0], one[0]].to_vec(),
    ];
    for attributes in left {
        let is_twice = attributes.len() == 2 && attributes[1].0 == "pads";
        let file = model(|b| convolve(b, 10, ("x", 16), ("out", 32), &attributes), &[("out", 32)]);
        assert!(with_kernels(&file).is_none());
        assert!(is_twice || assert_alike(&file) == 0);
    }
    let few = model(|b| convolve(b, 10, ("x", 16), ("out", 16), &[]), &[("out", 16)]);
    assert_eq!(assert_alike(&few), 0, "few outputs are not worth it");
    // A small file may not ask for any number of weights.
    let many = model(
        |b| {
            let weights = b.floats(&[256, 256, 3, 3], &vec![0.01; 256 * 256 * 9]);
            for index in 0..400 {
                let (from, to) = (format!("v{index}"), format!("v{}", index + 1));
                b.push("Conv", &[&from, &weights], &[to], &one, None);
            }
        },
        &[("v400", 256)],
    );
    assert!(with_kernels(&many).is_none_or(|(_, count)| count < 100));
}
