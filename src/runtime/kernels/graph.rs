//! Replaces convolutions of an ONNX graph with nodes for the kernels of this module.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use prost::Message as _;

use super::attributes::{NHWC_INPUT, NHWC_OUTPUTS, OUTPUT_CHANNELS, SLOPES, STRIDES};
use super::lanes::SimdLevel;
use super::{CONVOLUTION, DOMAIN, MAX_OUTPUTS, STEM, stem, winograd};
use crate::runtime::onnx::{AttributeValue, Graph, GraphBuilder, Model, Node, Tensor};

/// Maximum product of input and output channels of a Winograd convolution. The transformed weights
/// of larger ones do not fit into the cache.
const MAX_CHANNEL_PAIRS: usize = 256 * 256;
/// Maximum number of weights to read. Nodes can share weights, so a small file could otherwise
/// require any amount of memory.
const MAX_WEIGHTS: usize = 32 << 20;
/// The prefix of the names of new constants and nodes.
const PREFIX: &str = "retinaface/kernels/";

/// The shape parameters of a convolution.
#[derive(Clone, Copy, PartialEq)]
struct ConvShape {
    /// `[output channels, input channels per group, kernel height, kernel width]`.
    weight_dims: [usize; 4],
    stride: i64,
    padding: i64,
    groups: i64,
}

impl ConvShape {
    fn output_channels(&self) -> usize {
        self.weight_dims[0]
    }

    /// Whether [`winograd`] supports the convolution.
    fn supports_winograd(&self) -> bool {
        let [outputs, inputs, height, width] = self.weight_dims;
        (height, width, self.stride, self.padding, self.groups) == (3, 3, 1, 1, 1)
            && outputs % winograd::CHANNEL_BLOCK == 0
            && inputs % winograd::CHANNEL_BLOCK == 0
            && outputs > 0
            && inputs > 0
            && outputs.saturating_mul(inputs) <= MAX_CHANNEL_PAIRS
    }

    /// Whether the convolution can be the first one of a [`stem`].
    fn is_first_of_stem(&self) -> bool {
        let [outputs, inputs, height, width] = self.weight_dims;
        (height, width, self.stride, self.padding, self.groups) == (3, 3, 2, 1, 1)
            && (1..=stem::MAX_INPUT_CHANNELS).contains(&inputs)
            && stem_supports_channels(outputs)
    }

    /// Whether the convolution can be the depthwise one of a stem's layer with `channels` channels.
    fn is_depthwise_of_stem(&self, channels: usize) -> bool {
        self.weight_dims == [channels, 1, 3, 3]
            && (1..=2).contains(&self.stride)
            && (self.padding, self.groups) == (1, channels as i64)
    }

    /// Whether the convolution can be the pointwise one of a stem's layer with `channels` channels.
    fn is_pointwise_of_stem(&self, channels: usize) -> bool {
        self.weight_dims == [self.output_channels(), channels, 1, 1]
            && (self.stride, self.padding, self.groups) == (1, 0, 1)
            && stem_supports_channels(self.output_channels())
    }
}

fn stem_supports_channels(channels: usize) -> bool {
    channels > 0 && channels.is_multiple_of(stem::CHANNEL_BLOCK) && channels <= stem::MAX_CHANNELS
}

/// A convolution, fused with the batch normalization and the activation that follow it.
struct Layer {
    /// The indices of its nodes. The convolution is the first.
    nodes: Vec<usize>,
    input: String,
    output: String,
    shape: ConvShape,
    weights: Vec<f32>,
    bias: Vec<f32>,
    slope: f32,
}

impl Layer {
    fn output_channels(&self) -> usize {
        self.shape.output_channels()
    }

    fn input_channels(&self) -> usize {
        self.shape.weight_dims[1]
    }

    fn channel_pairs(&self) -> usize {
        self.output_channels() * self.input_channels()
    }

    /// Whether both layers compute the same values.
    fn is_equivalent_to(&self, other: &Self) -> bool {
        self.input == other.input
            && self.shape == other.shape
            && self.slope.to_bits() == other.slope.to_bits()
            && self.weights == other.weights
            && self.bias == other.bias
    }
}

/// The nodes of a graph, with lookups by value name.
struct GraphReader<'a> {
    nodes: &'a [Node],
    constants: HashMap<&'a str, &'a Tensor>,
    consumers: HashMap<&'a str, Vec<usize>>,
    graph_outputs: HashSet<&'a str>,
    /// How many more weights the reader may read.
    weight_budget: Cell<usize>,
}

impl<'a> GraphReader<'a> {
    /// With `overridable_initializers` (IR version 4 and later), the initializer of a graph input
    /// is only a default value, and not a constant.
    fn new(graph: &'a Graph, nodes: &'a [Node], tensors: &'a [Tensor], overridable_initializers: bool) -> Self {
        let inputs = graph.input.iter().filter_map(|input| input.name.as_deref()).collect::<HashSet<_>>();
        let mut constants = HashMap::new();
        for tensor in tensors {
            let is_constant = |name: &&str| !(overridable_initializers && inputs.contains(name));
            if let Some(name) = tensor.name.as_deref().filter(is_constant) {
                constants.insert(name, tensor);
            }
        }
        let mut consumers = HashMap::<_, Vec<_>>::new();
        for (index, node) in nodes.iter().enumerate() {
            for name in &node.input {
                consumers.entry(name.as_str()).or_default().push(index);
            }
            // Exporters write an Identity node for a constant that several nodes share.
            if let ("Identity", [input], [output]) = (node.standard_op(), node.input.as_slice(), node.output.as_slice())
                && let Some(tensor) = constants.get(input.as_str())
            {
                constants.insert(output, tensor);
            }
        }
        Self {
            nodes,
            constants,
            consumers,
            graph_outputs: graph.output.iter().filter_map(|output| output.name.as_deref()).collect(),
            weight_budget: Cell::new(MAX_WEIGHTS),
        }
    }

    fn constant(&self, name: &str) -> Option<Vec<f32>> {
        let (_, values) = self.constants.get(name)?.floats()?;
        self.weight_budget.set(self.weight_budget.get().checked_sub(values.len())?);
        Some(values)
    }

    /// A constant of shape `[len]`.
    fn constant_vector(&self, name: &str, len: usize) -> Option<Vec<f32>> {
        (self.constants.get(name)?.dims()? == [len]).then(|| self.constant(name)).flatten()
    }

    fn consumers(&self, name: &str) -> impl Iterator<Item = usize> {
        self.consumers.get(name).into_iter().flatten().copied()
    }

    /// The node that reads `name`, if no other node reads it and it is not a graph output.
    fn single_consumer(&self, name: &str) -> Option<usize> {
        match self.consumers.get(name).map(Vec::as_slice) {
            Some([consumer]) if !self.graph_outputs.contains(name) => Some(*consumer),
            _ => None,
        }
    }

    /// The shape parameters of node `index`, if it is a convolution that a kernel could support.
    fn conv_shape(&self, index: usize) -> Option<ConvShape> {
        let node = &self.nodes[index];
        if node.standard_op() != "Conv" || !matches!(node.text("auto_pad"), None | Some(b"NOTSET")) {
            return None;
        }
        let weight_dims = <[usize; 4]>::try_from(self.constants.get(node.input.get(1)?.as_str())?.dims()?).ok()?;
        // No kernel supports attributes that differ between the dimensions.
        let uniform = |name: &str, count: usize, default: i64| match node.ints(name) {
            None => Some(default),
            Some(values) => {
                let is_uniform = |first: &i64| values.len() == count && values.iter().all(|value| value == first);
                values.first().copied().filter(is_uniform)
            }
        };
        let (stride, padding) = (uniform("strides", 2, 1)?, uniform("pads", 4, 0)?);
        let kernel_shape = [weight_dims[2], weight_dims[3]].map(|dim| dim as i64);
        if uniform("dilations", 2, 1)? != 1 || node.ints("kernel_shape").is_some_and(|shape| shape != kernel_shape) {
            return None;
        }
        Some(ConvShape { weight_dims, stride, padding, groups: node.int("group", 1) })
    }

    /// The layer that starts with the convolution node `index`.
    fn layer(&self, index: usize) -> Option<Layer> {
        let (node, shape) = (&self.nodes[index], self.conv_shape(index)?);
        let output_channels = shape.output_channels();
        let input = node.input.first()?.clone();
        let mut weights = self.constant(node.input.get(1)?)?;
        let mut bias = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => self.constant_vector(name, output_channels)?,
            None => vec![0.0; output_channels],
        };
        if weights.is_empty() {
            return None;
        }
        let (mut nodes, mut output) = (vec![index], node.output.first()?.clone());
        if let Some((consumer, factors)) = self.batch_normalization(&output, output_channels) {
            let kernels = weights.chunks_exact_mut(shape.weight_dims[1..].iter().product());
            for ((kernel, bias), (scale, offset)) in kernels.zip(&mut bias).zip(factors) {
                kernel.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
                *bias = (f64::from(*bias) * scale + offset) as f32;
            }
            nodes.push(consumer);
            output.clone_from(self.nodes[consumer].output.first()?);
        }
        let mut slope = 1.0;
        if let Some(consumer) = self.single_consumer(&output) {
            let activation = match self.nodes[consumer].standard_op() {
                "Relu" => Some(0.0),
                "LeakyRelu" => Some(self.nodes[consumer].float("alpha", 0.01)),
                _ => None,
            };
            if let Some(alpha) = activation {
                slope = alpha;
                nodes.push(consumer);
                output.clone_from(self.nodes[consumer].output.first()?);
            }
        }
        Some(Layer { nodes, input, output, shape, weights, bias, slope })
    }

    /// The node and, per channel, the scale and the offset of a batch normalization that is the
    /// single consumer of `name`.
    fn batch_normalization(&self, name: &str, channels: usize) -> Option<(usize, Vec<(f64, f64)>)> {
        let consumer = self.single_consumer(name)?;
        let node = &self.nodes[consumer];
        if node.standard_op() != "BatchNormalization" || node.output.len() != 1 || node.int("training_mode", 0) != 0 {
            return None;
        }
        let input = |index: usize| self.constant_vector(node.input.get(index)?, channels);
        let (scale, bias, mean, variance) = (input(1)?, input(2)?, input(3)?, input(4)?);
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let factors = (0..channels).map(|channel| {
            let factor = f64::from(scale[channel]) / (f64::from(variance[channel]) + epsilon).sqrt();
            (factor, f64::from(bias[channel]) - f64::from(mean[channel]) * factor)
        });
        Some((consumer, factors.collect()))
    }

    /// The layers of a [`stem`] that starts at node `index`: the first convolution, then the
    /// depthwise and the pointwise convolution of each separable layer.
    fn stem(&self, index: usize) -> Option<Vec<Layer>> {
        if !self.conv_shape(index)?.is_first_of_stem() {
            return None;
        }
        let next = |layer: &Layer| {
            let next = self.single_consumer(&layer.output).and_then(|consumer| self.layer(consumer))?;
            // The output must be the consumer's activation input, not its weights.
            (next.input == layer.output).then_some(next)
        };
        let mut layers = vec![self.layer(index)?];
        while layers.len() < 2 * stem::MAX_SEPARABLE_LAYERS {
            let previous = &layers[layers.len() - 1];
            let channels = previous.output_channels();
            let Some(depthwise) = next(previous) else { break };
            let Some(pointwise) = next(&depthwise) else { break };
            // Matrix multiplication is faster for small images with many channels.
            let has_many_channels = channels >= stem::MAX_CHANNELS;
            if has_many_channels
                || !depthwise.shape.is_depthwise_of_stem(channels)
                || !pointwise.shape.is_pointwise_of_stem(channels)
            {
                break;
            }
            layers.extend([depthwise, pointwise]);
        }
        (layers.len() > 1).then_some(layers)
    }
}

/// Convolutions with the same input, which one node computes.
struct FusedConvolutions {
    layers: Vec<Layer>,
    nhwc_input: bool,
    nhwc_outputs: Vec<bool>,
}

/// A new node.
enum Replacement {
    Stem(Vec<Layer>),
    Convolutions(FusedConvolutions),
    /// An Identity node: `output` is equal to the output `original` of another layer.
    Duplicate {
        original: String,
        output: String,
    },
}

/// Replaces the convolutions for which the kernels are faster on a CPU with this SIMD level.
/// Returns the number of custom nodes, or `None` if there are none.
pub(super) fn rewrite(model: &mut Model, level: SimdLevel) -> Option<usize> {
    // Older versions of BatchNormalization can be in training mode.
    const MIN_OPSET: i64 = 7;
    let overridable_initializers = model.ir_version.unwrap_or(0) >= 4;
    if model.has_functions() || model.opset() < MIN_OPSET {
        return None;
    }
    let graph = model.graph.as_mut()?;
    let nodes = graph.node.iter().map(|node| Node::decode(node.as_slice()).ok()).collect::<Option<Vec<_>>>()?;
    let tensors = graph.initializer.iter().map(|tensor| Tensor::decode(tensor.as_slice()).ok());
    let tensors = tensors.collect::<Option<Vec<_>>>()?;
    if !is_supported(graph, &nodes, &tensors) {
        return None;
    }
    let reader = GraphReader::new(graph, &nodes, &tensors, overridable_initializers);
    let GraphEdits { replacements, removed } = Planner::new(&reader).plan(level);
    let is_kernel = |replacement: &&(usize, Replacement)| !matches!(replacement.1, Replacement::Duplicate { .. });
    let count = replacements.iter().filter(is_kernel).count();
    if count == 0 {
        return None;
    }
    remove_unused_initializers(graph, &nodes, &tensors, &replacements, &removed);

    let mut builder = GraphBuilder::new(PREFIX);
    let mut new_nodes = Vec::new();
    let mut replacements = replacements.into_iter().peekable();
    for (index, node) in graph.node.drain(..).enumerate() {
        while let Some((_, replacement)) = replacements.next_if(|(at, _)| *at == index) {
            let first = builder.nodes.len();
            replacement.build(&mut builder);
            new_nodes.extend(builder.nodes[first..].iter().cloned());
        }
        if !removed.contains(&index) {
            new_nodes.push(node);
        }
    }
    graph.node = new_nodes;
    graph.initializer.extend(builder.initializers);
    graph.value_info.clear();
    model.import(DOMAIN);
    Some(count)
}

/// Whether the rewrite understands the whole graph: all values are in the file and in the main
/// graph, no name or attribute occurs twice, and no node uses the domain of the kernels.
fn is_supported(graph: &Graph, nodes: &[Node], tensors: &[Tensor]) -> bool {
    let outputs = nodes.iter().flat_map(|node| &node.output).map(String::as_str).filter(|name| !name.is_empty());
    let mut names = HashSet::new();
    let mut all_names = tensors.iter().map(|tensor| tensor.name.as_deref().unwrap_or_default()).chain(outputs);
    graph.sparse_initializer.is_empty()
        && all_names.all(|name| names.insert(name) && !name.starts_with(PREFIX))
        && !tensors.iter().any(Tensor::is_external)
        && !nodes.iter().any(|node| node.has_graph() || node.has_unsupported_attributes() || node.is_in_domain(DOMAIN))
}

/// Removes initializers that no node uses any more. ONNX Runtime would load them and log a warning.
fn remove_unused_initializers(
    graph: &mut Graph,
    nodes: &[Node],
    tensors: &[Tensor],
    replacements: &[(usize, Replacement)],
    removed: &HashSet<usize>,
) {
    let remaining = nodes.iter().enumerate().filter(|(index, _)| !removed.contains(index));
    let used = remaining.flat_map(|(_, node)| node.input.iter().map(String::as_str));
    let used = used.chain(replacements.iter().map(|(_, replacement)| replacement.input()));
    let used = used.chain(graph.output.iter().filter_map(|output| output.name.as_deref())).collect::<HashSet<_>>();
    let unused = tensors.iter().filter_map(|tensor| tensor.name.clone()).filter(|name| !used.contains(name.as_str()));
    let unused = unused.collect::<HashSet<_>>();
    let is_unused = |name: Option<&String>| name.is_some_and(|name| unused.contains(name));
    let mut names = tensors.iter().map(|tensor| tensor.name.as_ref());
    graph.initializer.retain(|_| !is_unused(names.next().flatten()));
    graph.input.retain(|input| !is_unused(input.name.as_ref()));
}

/// The changes to a graph.
struct GraphEdits {
    /// New nodes, each with the index of the node before which it is inserted, in this order.
    replacements: Vec<(usize, Replacement)>,
    /// The indices of nodes to remove.
    removed: HashSet<usize>,
}

struct Planner<'a> {
    reader: &'a GraphReader<'a>,
    edits: GraphEdits,
    /// Layers with the same input, which one node will compute, with the index of that node.
    groups: Vec<(usize, Vec<Layer>)>,
    /// Outputs of duplicate layers, and the output of the original layer.
    duplicates: HashMap<String, String>,
}

impl<'a> Planner<'a> {
    fn new(reader: &'a GraphReader<'a>) -> Self {
        let edits = GraphEdits { replacements: Vec::new(), removed: HashSet::new() };
        Self { reader, edits, groups: Vec::new(), duplicates: HashMap::new() }
    }

    fn plan(mut self, level: SimdLevel) -> GraphEdits {
        // With 8 lanes the first layers are limited by computation, and fusion does not help.
        let use_stem = level.lanes() == 16;
        for index in 0..self.reader.nodes.len() {
            if use_stem && let Some(layers) = self.reader.stem(index) {
                self.edits.removed.extend(layers.iter().flat_map(|layer| layer.nodes.clone()));
                self.edits.replacements.push((index, Replacement::Stem(layers)));
            } else if self.reader.conv_shape(index).is_some_and(|shape| shape.supports_winograd())
                && let Some(layer) = self.reader.layer(index)
            {
                self.add_layer(index, layer);
            }
        }
        // With few output channels the transforms cost more than they save.
        self.groups.retain(|(_, layers)| {
            layers.iter().map(Layer::output_channels).sum::<usize>() >= 2 * winograd::CHANNEL_BLOCK
        });
        let nhwc_values = self.nhwc_values();
        for (index, layers) in std::mem::take(&mut self.groups) {
            self.edits.removed.extend(layers.iter().flat_map(|layer| layer.nodes.clone()));
            let convolutions = FusedConvolutions {
                nhwc_input: nhwc_values.contains(&layers[0].input),
                nhwc_outputs: layers.iter().map(|layer| nhwc_values.contains(&layer.output)).collect(),
                layers,
            };
            self.edits.replacements.push((index, Replacement::Convolutions(convolutions)));
        }
        self.remove_unused_duplicates();
        self.edits.replacements.sort_by_key(|(index, _)| *index);
        self.edits
    }

    /// Adds a Winograd convolution: as a duplicate, to a group with the same input, or as a new
    /// group.
    fn add_layer(&mut self, index: usize, mut layer: Layer) {
        if let Some(original) = self.duplicates.get(&layer.input) {
            layer.input.clone_from(original);
        }
        let original = self.groups.iter().flat_map(|(_, layers)| layers).find(|other| other.is_equivalent_to(&layer));
        if let Some(original) = original {
            let original = original.output.clone();
            let last = layer.nodes.last().copied().unwrap_or(index);
            let duplicate = Replacement::Duplicate { original: original.clone(), output: layer.output.clone() };
            self.edits.replacements.push((last, duplicate));
            self.edits.removed.extend(layer.nodes);
            self.duplicates.insert(layer.output, original);
            return;
        }
        let group = self.groups.iter_mut().find(|(_, layers)| {
            layers[0].input == layer.input
                && layers[0].input_channels() == layer.input_channels()
                && layers.len() < MAX_OUTPUTS
                && layers.iter().map(Layer::channel_pairs).sum::<usize>() + layer.channel_pairs() <= MAX_CHANNEL_PAIRS
        });
        match group {
            Some((_, layers)) => layers.push(layer),
            None => self.groups.push((index, vec![layer])),
        }
    }

    /// The outputs that only convolutions of groups read. These values can be NHWC.
    fn nhwc_values(&self) -> HashSet<String> {
        let reader = self.reader;
        let layers = self.groups.iter().flat_map(|(_, layers)| layers);
        let convolutions = layers.clone().map(|layer| layer.nodes[0]).collect::<HashSet<_>>();
        let is_internal = |name: &str| {
            let duplicates = self.duplicates.iter().filter(|(_, original)| *original == name);
            let names =
                std::iter::once(name).chain(duplicates.map(|(duplicate, _)| duplicate.as_str())).collect::<Vec<_>>();
            let is_convolution_input = |consumer: usize| {
                let uses = reader.nodes[consumer].input.iter().filter(|input| names.contains(&input.as_str())).count();
                convolutions.contains(&consumer) && uses == 1
            };
            // Removed nodes are duplicates here: the first layer of a stem has fewer input
            // channels.
            let mut consumers = names
                .iter()
                .flat_map(|name| reader.consumers(name))
                .filter(|consumer| !self.edits.removed.contains(consumer))
                .peekable();
            consumers.peek().is_some()
                && consumers.all(is_convolution_input)
                && !names.iter().any(|name| reader.graph_outputs.contains(name))
        };
        layers.map(|layer| layer.output.clone()).filter(|name| is_internal(name)).collect()
    }

    /// Removes Identity nodes whose output no remaining node reads.
    fn remove_unused_duplicates(&mut self) {
        let (reader, removed) = (self.reader, &self.edits.removed);
        self.edits.replacements.retain(|(_, replacement)| match replacement {
            Replacement::Duplicate { output, .. } => {
                reader.graph_outputs.contains(output.as_str())
                    || reader.consumers(output).any(|consumer| !removed.contains(&consumer))
            }
            Replacement::Stem(_) | Replacement::Convolutions(_) => true,
        });
    }
}

impl Replacement {
    /// The name of the activation input.
    fn input(&self) -> &str {
        match self {
            Self::Stem(layers) => layers.first().map_or("", |layer| &layer.input),
            Self::Convolutions(convolutions) => &convolutions.layers[0].input,
            Self::Duplicate { original, .. } => original,
        }
    }

    fn build(self, builder: &mut GraphBuilder) {
        match self {
            Self::Stem(layers) => build_stem(&layers, builder),
            Self::Convolutions(convolutions) => convolutions.build(builder),
            Self::Duplicate { original, output } => builder.push("Identity", &[&original], &[output], &[], None),
        }
    }
}

fn build_stem(layers: &[Layer], builder: &mut GraphBuilder) {
    let [first, separable @ ..] = layers else { return };
    let last = separable.last().unwrap_or(first);
    let mut inputs = vec![first.input.clone()];
    for layer in layers {
        inputs.push(builder.floats(&layer.shape.weight_dims, &layer.weights));
        inputs.push(builder.floats(&[layer.bias.len()], &layer.bias));
    }
    let slopes = layers.iter().map(|layer| layer.slope).collect::<Vec<_>>();
    // Each separable layer is a depthwise and a pointwise convolution.
    let strides = separable.iter().step_by(2).map(|depthwise| depthwise.shape.stride).collect::<Vec<_>>();
    let inputs = inputs.iter().map(String::as_str).collect::<Vec<_>>();
    let attributes = [(SLOPES, AttributeValue::Floats(&slopes)), (STRIDES, AttributeValue::Ints(&strides))];
    builder.push(STEM, &inputs, std::slice::from_ref(&last.output), &attributes, Some(DOMAIN));
}

impl FusedConvolutions {
    fn build(self, builder: &mut GraphBuilder) {
        let Self { layers, nhwc_input, nhwc_outputs } = self;
        let weights = layers.iter().flat_map(|layer| layer.weights.iter().copied()).collect::<Vec<_>>();
        let bias = layers.iter().flat_map(|layer| layer.bias.iter().copied()).collect::<Vec<_>>();
        let slopes = layers.iter().flat_map(|layer| vec![layer.slope; layer.output_channels()]).collect::<Vec<_>>();
        let output_channels = layers.iter().map(|layer| layer.output_channels() as i64).collect::<Vec<_>>();
        let nhwc_outputs = nhwc_outputs.iter().map(|flag| i64::from(*flag)).collect::<Vec<_>>();
        let weights = builder.floats(&[bias.len(), layers[0].input_channels(), 3, 3], &weights);
        let bias = builder.floats(&[bias.len()], &bias);
        let outputs = layers.iter().map(|layer| layer.output.clone()).collect::<Vec<_>>();
        let attributes = [
            (SLOPES, AttributeValue::Floats(&slopes)),
            (OUTPUT_CHANNELS, AttributeValue::Ints(&output_channels)),
            (NHWC_INPUT, AttributeValue::Int(i64::from(nhwc_input))),
            (NHWC_OUTPUTS, AttributeValue::Ints(&nhwc_outputs)),
        ];
        builder.push(CONVOLUTION, &[&layers[0].input, &weights, &bias], &outputs, &attributes, Some(DOMAIN));
    }
}
