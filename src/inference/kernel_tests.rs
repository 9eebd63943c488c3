//! The kernels of `runtime::kernels` in sessions: each model gives the same outputs with and
//! without them.

use ort::value::Tensor;
use prost::Message as _;

use super::options::{Kernels, ModelOptions};
use super::session::{CreatedSession, SessionRequest};
use crate::runtime::kernels::tests::{assert_close, noise};
use crate::runtime::kernels::{are_supported, with_kernels};
use crate::runtime::onnx::{AttributeValue, Dim, ElementType, GraphBuilder, Model, ValueInfo};
use crate::runtime::{Provider, library};

const HEIGHT: usize = 21;
const WIDTH: usize = 34;
const CHANNELS: usize = 16;
const PADDING_1: (&str, AttributeValue<'static>) = ("pads", AttributeValue::Ints(&[1, 1, 1, 1]));

/// A model with these nodes and these outputs (name and channels). Its input `x` is one image with
/// [`CHANNELS`] channels.
fn model(nodes: impl FnOnce(&mut GraphBuilder), outputs: &[(&str, usize)]) -> Vec<u8> {
    // Versions and metadata come from a real file.
    let file = std::fs::read(".fetch/models/retinaface_mnet025.onnx").unwrap();
    let mut model = Model::parse(&file).unwrap();
    let mut builder = GraphBuilder::new("test/");
    nodes(&mut builder);
    let graph = model.graph.as_mut().unwrap();
    (graph.node, graph.initializer) = (builder.nodes, builder.initializers);
    graph.value_info.clear();
    let image =
        |name: &str, channels| ValueInfo::new(name, ElementType::F32, &[1, channels, HEIGHT, WIDTH].map(Dim::Fixed));
    graph.input = vec![image("x", CHANNELS)];
    graph.output = outputs.iter().map(|(name, channels)| image(name, *channels)).collect();
    model.encode_to_vec()
}

/// Adds a 3 x 3 convolution with padding 1, or with `attributes` if there are any. Its weights
/// depend only on `seed`.
fn add_conv(
    builder: &mut GraphBuilder,
    seed: u32,
    (input, input_channels): (&str, usize),
    (output, output_channels): (&str, usize),
    attributes: &[(&str, AttributeValue<'_>)],
) {
    let weights = noise(seed, output_channels * input_channels * 9);
    let weights = weights.iter().map(|weight| weight * 0.1).collect::<Vec<_>>();
    let weights = builder.floats(&[output_channels, input_channels, 3, 3], &weights);
    let bias = builder.floats(&[output_channels], &noise(seed ^ 1, output_channels));
    let attributes = if attributes.is_empty() { &[PADDING_1][..] } else { attributes };
    builder.push("Conv", &[input, &weights, &bias], &[output.to_owned()], attributes, None);
}

fn add_node(builder: &mut GraphBuilder, op_type: &str, inputs: &[&str], output: &str) {
    builder.push(op_type, inputs, &[output.to_owned()], &[], None);
}

/// Runs the model with and without kernels, and compares the outputs. Returns the number of
/// kernels.
fn compare_outputs(file: &[u8]) -> usize {
    let runtime = library::load(None, Provider::Cpu).unwrap();
    let device = runtime.check_provider(None, Provider::Cpu, 0, false).unwrap();
    let input = noise(7, CHANNELS * HEIGHT * WIDTH);
    let input = Tensor::from_array(([1, CHANNELS, HEIGHT, WIDTH], input)).unwrap();
    let [(expected, _), (actual, count)] = [Kernels::Runtime, Kernels::Auto].map(|kernels| {
        let options = ModelOptions { provider: Provider::Cpu, kernels, ..ModelOptions::default() };
        let request = SessionRequest {
            runtime: &runtime,
            options: &options,
            device: &device,
            bytes: file,
            shape: None,
            engine_cache: None,
        };
        let created = request.create();
        let created = created.map_err(|error| error.into_model_error(Provider::Cpu, "test".as_ref(), file)).unwrap();
        let CreatedSession { mut session, kernels, kernels_error, .. } = created;
        assert_eq!(kernels_error, None);
        let outputs = session.run(ort::inputs!["x" => &input]).unwrap();
        let values = outputs.values().map(|value| value.try_extract_tensor::<f32>().unwrap().1.to_vec());
        (values.collect::<Vec<_>>(), kernels)
    });
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(&expected) {
        assert_close(actual, expected);
    }
    count
}

/// The number of kernels that a session has on this CPU, where a CPU with AVX2 has `count`.
fn if_supported(count: usize) -> usize {
    if are_supported() { count } else { 0 }
}

#[test]
fn other_nodes_and_graph_outputs_can_read_a_kernels_output() {
    let file = model(
        |b| {
            add_conv(b, 10, ("x", 16), ("a", 32), &[]);
            add_node(b, "Relu", &["a"], "r");
            add_node(b, "Add", &["a", "r"], "sum");
            add_conv(b, 20, ("r", 32), ("c", 32), &[]);
        },
        &[("sum", 32), ("r", 32), ("c", 32)],
    );
    assert_eq!(compare_outputs(&file), if_supported(2));
}

#[test]
fn values_are_nhwc_only_if_no_other_node_reads_them() {
    for other_node_reads_it in [false, true] {
        let file = model(
            |b| {
                add_conv(b, 10, ("x", 16), ("a", 32), &[]);
                add_conv(b, 20, ("a", 32), ("c", 32), &[]);
                add_node(b, "Add", &[if other_node_reads_it { "a" } else { "c" }, "c"], "out");
            },
            &[("out", 32)],
        );
        assert_eq!(compare_outputs(&file), if_supported(2));
    }
}

#[test]
fn convolutions_with_same_input_share_a_kernel() {
    // `duplicate` is equal to `a`. Another node and a graph output read it.
    let file = model(
        |b| {
            for name in ["a", "duplicate"] {
                add_conv(b, 10, ("x", 16), (&format!("{name}0"), 16), &[]);
                add_node(b, "LeakyRelu", &[&format!("{name}0")], name);
            }
            add_conv(b, 30, ("x", 16), ("same_input", 16), &[]);
            add_conv(b, 40, ("a", 16), ("c", 16), &[]);
            add_conv(b, 50, ("duplicate", 16), ("d", 32), &[]);
            add_node(b, "Add", &["duplicate", "c"], "e");
        },
        &[("e", 16), ("d", 32), ("same_input", 16), ("duplicate", 16)],
    );
    assert_eq!(compare_outputs(&file), if_supported(2));
}

#[test]
fn a_kernel_includes_batch_normalization_and_activation() {
    let file = model(
        |b| {
            add_conv(b, 10, ("x", 16), ("a", 32), &[]);
            let [scale, bias, mean] = [1, 2, 3].map(|seed| b.floats(&[32], &noise(seed, 32)));
            let variance = b.floats(&[32], &noise(4, 32).iter().map(|value| value + 1.5).collect::<Vec<_>>());
            add_node(b, "BatchNormalization", &["a", &scale, &bias, &mean, &variance], "n");
            add_node(b, "Relu", &["n"], "out");
        },
        &[("out", 32)],
    );
    assert_eq!(compare_outputs(&file), if_supported(1));
}

#[test]
fn unsupported_attributes_use_onnx_runtimes_kernels() {
    let unsupported = [
        vec![("auto_pad", AttributeValue::Text("SAME_UPPER"))],
        vec![("pads", AttributeValue::Ints(&[2, 2, 2, 2])), ("dilations", AttributeValue::Ints(&[2, 2]))],
        vec![("pads", AttributeValue::Ints(&[0, 0, 2, 2]))],
    ];
    for attributes in unsupported {
        let file = model(|b| add_conv(b, 10, ("x", 16), ("out", 32), &attributes), &[("out", 32)]);
        assert!(with_kernels(&file).is_none());
        assert_eq!(compare_outputs(&file), 0);
    }
}

#[test]
fn a_node_with_a_repeated_attribute_is_not_replaced() {
    // ONNX Runtime could use either value.
    let file = model(|b| add_conv(b, 10, ("x", 16), ("out", 32), &[PADDING_1, PADDING_1]), &[("out", 32)]);
    assert!(with_kernels(&file).is_none());
}

#[test]
fn a_convolution_with_few_output_channels_uses_onnx_runtimes_kernel() {
    let file = model(|b| add_conv(b, 10, ("x", 16), ("out", 16), &[]), &[("out", 16)]);
    assert_eq!(compare_outputs(&file), 0);
}

#[test]
fn memory_for_shared_weights_is_limited() {
    let file = model(
        |b| {
            let weights = b.floats(&[256, 256, 3, 3], &vec![0.01; 256 * 256 * 9]);
            for index in 0..400 {
                let (input, output) = (format!("v{index}"), format!("v{}", index + 1));
                b.push("Conv", &[&input, &weights], &[output], &[PADDING_1], None);
            }
        },
        &[("v400", 256)],
    );
    assert!(with_kernels(&file).is_none_or(|(_, count)| count < 100));
}
