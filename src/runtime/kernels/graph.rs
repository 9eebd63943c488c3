//! Finds convolutions in a model that kernels of ours do faster, and puts those in their place.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use prost::Message as _;

use super::lanes::Width;
use super::{CONVOLUTION, DOMAIN, OUTPUTS, STEM, stem, winograd};
use crate::onnx::{Builder, Graph, Model, Node, Tensor, Value};

/// Most pairs of an input and an output channel: of more, the transformed weights would no longer stay in a processor's
/// cache.
const MOST_PAIRS: usize = 256 * 256;
/// Most weights that are read at all. Nodes may share them, so that a small file could ask for any number.
const MOST_WEIGHTS: usize = 32 << 20;
/// What the names of constants and nodes begin with.
const PREFIX: &str = "retinaface/kernels/";

/// What a convolution is like, without its values.
#[derive(Clone, Copy, PartialEq)]
struct Outline {
    /// `[outputs, inputs of a group, height, width]`.
    sides: [usize; 4],
    step: i64,
    padding: i64,
    groups: i64,
}

impl Outline {
    /// Whether [`winograd`] does it.
    fn is_for_winograd(&self) -> bool {
        let [outputs, inputs, height, width] = self.sides;
        (height, width, self.step, self.padding, self.groups) == (3, 3, 1, 1, 1)
            && outputs % winograd::GROUP == 0
            && inputs % winograd::GROUP == 0
            && outputs > 0
            && inputs > 0
            && outputs * inputs <= MOST_PAIRS
    }

    /// Whether a [`stem`] begins with it.
    fn begins_a_stem(&self) -> bool {
        let [outputs, inputs, height, width] = self.sides;
        (height, width, self.step, self.padding, self.groups) == (3, 3, 2, 1, 1)
            && (1..=stem::INPUTS).contains(&inputs)
            && fits_a_stem(outputs)
    }
}

fn fits_a_stem(channels: usize) -> bool {
    channels > 0 && channels.is_multiple_of(stem::GROUP) && channels <= stem::CHANNELS
}

/// A convolution, with what follows it and can be done on the way.
struct Layer {
    /// The nodes: itself, a normalisation, an activation.
    nodes: Vec<usize>,
    input: String,
    output: String,
    outline: Outline,
    weights: Vec<f32>,
    bias: Vec<f32>,
    slope: f32,
}

impl Layer {
    fn outputs(&self) -> usize {
        self.outline.sides[0]
    }

    fn pairs(&self) -> usize {
        self.outline.sides[0] * self.outline.sides[1]
    }

    fn gives_the_same_as(&self, other: &Self) -> bool {
        self.input == other.input
            && self.outline == other.outline
            && self.slope.to_bits() == other.slope.to_bits()
            && self.weights == other.weights
            && self.bias == other.bias
    }
}

/// What is known of a graph's nodes.
struct Reader<'a> {
    nodes: &'a [Node],
    constants: HashMap<&'a str, &'a Tensor>,
    users: HashMap<&'a str, Vec<usize>>,
    outputs: HashSet<&'a str>,
    /// How many more weights may be read.
    left: Cell<usize>,
}

impl Reader<'_> {
    fn constant(&self, name: &str) -> Option<Vec<f32>> {
        let (_, values) = self.constants.get(name)?.floats()?;
        self.left.set(self.left.get().checked_sub(values.len())?);
        Some(values)
    }

    /// A constant with one side, of this length.
    fn list(&self, name: &str, len: usize) -> Option<Vec<f32>> {
        (self.constants.get(name)?.sides()? == [len]).then(|| self.constant(name)).flatten()
    }

    /// The one node that uses `name`, if there is one alone.
    fn only_user(&self, name: &str) -> Option<usize> {
        match self.users.get(name).map(Vec::as_slice) {
            Some([user]) if !self.outputs.contains(name) => Some(*user),
            _ => None,
        }
    }

    fn outline(&self, index: usize) -> Option<Outline> {
        let node = &self.nodes[index];
        if node.standard() != "Conv" || !matches!(node.text("auto_pad"), None | Some(b"NOTSET")) {
            return None;
        }
        let sides = <[usize; 4]>::try_from(self.constants.get(node.input.get(1)?.as_str())?.sides()?).ok()?;
        // The same on all sides, or nothing that is looked for here.
        let same = |name: &str, count: usize, default: i64| match node.ints(name) {
            None => Some(default),
            Some(all) => {
                all.first().copied().filter(|first| all.len() == count && all.iter().all(|other| other == first))
            }
        };
        let (step, padding) = (same("strides", 2, 1)?, same("pads", 4, 0)?);
        let kernel = [sides[2], sides[3]].map(|side| side as i64);
        if same("dilations", 2, 1)? != 1 || node.ints("kernel_shape").is_some_and(|shape| shape != kernel) {
            return None;
        }
        Some(Outline { sides, step, padding, groups: node.int("group", 1) })
    }

    fn layer(&self, index: usize) -> Option<Layer> {
        let (node, outline) = (&self.nodes[index], self.outline(index)?);
        let [outputs, ..] = outline.sides;
        let input = node.input.first()?.clone();
        let mut weights = self.constant(node.input.get(1)?)?;
        let mut bias = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => self.list(name, outputs)?,
            None => vec![0.0; outputs],
        };
        if weights.is_empty() {
            return None;
        }
        let (mut nodes, mut output) = (vec![index], node.output.first()?.clone());
        if let Some((user, factors)) = self.normalisation(&output, outputs) {
            for ((kernel, bias), (scale, shift)) in
                weights.chunks_exact_mut(outline.sides[1..].iter().product()).zip(&mut bias).zip(factors)
            {
                kernel.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
                *bias = (f64::from(*bias) * scale + shift) as f32;
            }
            nodes.push(user);
            output.clone_from(self.nodes[user].output.first()?);
        }
        let mut slope = 1.0;
        if let Some(user) = self.only_user(&output) {
            let activation = match self.nodes[user].standard() {
                "Relu" => Some(0.0),
                "LeakyRelu" => Some(self.nodes[user].float("alpha", 0.01)),
                _ => None,
            };
            if let Some(found) = activation {
                slope = found;
                nodes.push(user);
                output.clone_from(self.nodes[user].output.first()?);
            }
        }
        Some(Layer { nodes, input, output, outline, weights, bias, slope })
    }

    /// A batch normalisation that alone uses `name`, as a factor and a summand for each channel.
    fn normalisation(&self, name: &str, channels: usize) -> Option<(usize, Vec<(f64, f64)>)> {
        let user = self.only_user(name)?;
        let node = &self.nodes[user];
        if node.standard() != "BatchNormalization" || node.output.len() != 1 || node.int("training_mode", 0) != 0 {
            return None;
        }
        let of = |index: usize| self.list(node.input.get(index)?, channels);
        let (scale, shift, mean, variance) = (of(1)?, of(2)?, of(3)?, of(4)?);
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let factors = (0..channels).map(|channel| {
            let factor = f64::from(scale[channel]) / (f64::from(variance[channel]) + epsilon).sqrt();
            (factor, f64::from(shift[channel]) - f64::from(mean[channel]) * factor)
        });
        Some((user, factors.collect()))
    }

    /// The layers of a [`stem`] that begins at this node: the first, then pairs.
    fn stem(&self, index: usize) -> Option<Vec<Layer>> {
        if !self.outline(index)?.begins_a_stem() {
            return None;
        }
        let mut layers = vec![self.layer(index)?];
        while layers.len() < 2 * stem::PAIRS {
            let (before, channels) = (&layers[layers.len() - 1], layers[layers.len() - 1].outputs());
            // The results must be taken as a picture, not as weights.
            let next = |layer: &Layer| {
                self.only_user(&layer.output)
                    .and_then(|user| self.layer(user))
                    .filter(|next| next.input == layer.output)
            };
            let Some(each) = next(before) else { break };
            let Some(last) = next(&each) else { break };
            let (outputs, [one, two]) = (last.outputs(), [&each, &last].map(|layer| layer.outline));
            let is_each = one.sides == [channels, 1, 3, 3] && one.padding == 1 && one.groups == channels as i64;
            let is_last = two.sides == [outputs, channels, 1, 1] && (two.step, two.padding, two.groups) == (1, 0, 1);
            // Planes that have become small, with many channels, are for matrix products.
            let is_small = channels >= stem::CHANNELS;
            if is_small || !is_each || !(1..=2).contains(&one.step) || !is_last || !fits_a_stem(outputs) {
                break;
            }
            layers.extend([each, last]);
        }
        (layers.len() > 1).then_some(layers)
    }
}

/// Convolutions of the same input, done as one.
struct Siblings {
    layers: Vec<Layer>,
    interleaved_input: bool,
    interleaved_outputs: Vec<bool>,
}

/// Puts kernels of ours in place of what they do faster on such a machine. How many, if there was anything.
pub(super) fn rewrite(model: &mut Model, width: Width) -> Option<usize> {
    // Before, a normalisation could be one that learns.
    const OLDEST: i64 = 7;
    let overridable = model.ir_version.unwrap_or(0) >= 4;
    if model.has_functions() || model.opset() < OLDEST {
        return None;
    }
    let graph = model.graph.as_mut()?;
    let nodes = graph.node.iter().map(|node| Node::decode(node.as_slice()).ok()).collect::<Option<Vec<_>>>()?;
    let tensors = graph.initializer.iter().map(|tensor| Tensor::decode(tensor.as_slice()).ok());
    let tensors = tensors.collect::<Option<Vec<_>>>()?;
    if !is_plain(graph, &nodes, &tensors) {
        return None;
    }
    let (made, replaced) = plan(graph, &nodes, &tensors, overridable, width);
    let count = made.iter().filter(|(_, make)| !matches!(make, Make::Twin { .. })).count();
    if count == 0 {
        return None;
    }
    // What nothing uses any more would be loaded for nothing, and warned of.
    let kept = nodes.iter().enumerate().filter(|(index, _)| !replaced.contains(index));
    let used = kept.flat_map(|(_, node)| node.input.iter().map(String::as_str));
    let used = used.chain(made.iter().map(|(_, make)| make.input()));
    let used = used.chain(graph.output.iter().filter_map(|output| output.name.as_deref())).collect::<HashSet<_>>();
    let gone = tensors.iter().filter_map(|tensor| tensor.name.clone()).filter(|name| !used.contains(name.as_str()));
    let gone = gone.collect::<HashSet<_>>();
    let is_gone = |name: Option<&String>| name.is_some_and(|name| gone.contains(name));
    let mut names = tensors.iter().map(|tensor| tensor.name.as_ref());
    graph.initializer.retain(|_| !is_gone(names.next().flatten()));
    graph.input.retain(|input| !is_gone(input.name.as_ref()));

    let mut builder = Builder::new(PREFIX);
    let mut kept = Vec::new();
    let mut made = made.into_iter().peekable();
    for (index, node) in graph.node.drain(..).enumerate() {
        while let Some((_, make)) = made.next_if(|(at, _)| *at == index) {
            let before = builder.nodes.len();
            make.build(&mut builder);
            kept.extend(builder.nodes[before..].iter().cloned());
        }
        if !replaced.contains(&index) {
            kept.push(node);
        }
    }
    graph.node = kept;
    graph.initializer.extend(builder.initializers);
    graph.value_info.clear();
    model.import(DOMAIN);
    Some(count)
}

/// Whether names and attributes mean here what they mean to ONNX Runtime: all values are in the file and in this graph, and
/// nothing is said twice. Nobody else's nodes may pass for ours.
fn is_plain(graph: &Graph, nodes: &[Node], tensors: &[Tensor]) -> bool {
    let given = nodes.iter().flat_map(|node| &node.output).map(String::as_str).filter(|name| !name.is_empty());
    let mut names = HashSet::new();
    let mut all = tensors.iter().map(|tensor| tensor.name.as_deref().unwrap_or_default()).chain(given);
    graph.sparse_initializer.is_empty()
        && all.all(|name| names.insert(name) && !name.starts_with(PREFIX))
        && !tensors.iter().any(Tensor::is_elsewhere)
        && !nodes.iter().any(|node| node.has_graph() || node.is_odd() || node.is_of(DOMAIN))
}

enum Make {
    Stem(Vec<Layer>),
    Siblings(Siblings),
    /// What another layer gives under another name.
    Twin {
        of: String,
        output: String,
    },
}

/// What to make before which node, and the nodes that are no longer needed.
fn plan(
    graph: &Graph,
    nodes: &[Node],
    tensors: &[Tensor],
    overridable: bool,
    width: Width,
) -> (Vec<(usize, Make)>, HashSet<usize>) {
    let inputs = graph.input.iter().filter_map(|input| input.name.as_deref()).collect::<HashSet<_>>();
    let mut reader = Reader {
        nodes,
        constants: HashMap::new(),
        users: HashMap::new(),
        outputs: graph.output.iter().filter_map(|output| output.name.as_deref()).collect(),
        left: Cell::new(MOST_WEIGHTS),
    };
    for tensor in tensors {
        // From this version on an input's value is only a default.
        if let Some(name) = tensor.name.as_deref().filter(|name| !(overridable && inputs.contains(name))) {
            reader.constants.insert(name, tensor);
        }
    }
    for (index, node) in nodes.iter().enumerate() {
        for name in &node.input {
            reader.users.entry(name).or_default().push(index);
        }
        // Exporters write a constant that two nodes share as another constant.
        if let ("Identity", [input], [output]) = (node.standard(), node.input.as_slice(), node.output.as_slice())
            && let Some(tensor) = reader.constants.get(input.as_str())
        {
            reader.constants.insert(output, tensor);
        }
    }

    let (mut made, mut replaced) = (Vec::new(), HashSet::new());
    let mut families = Vec::<(usize, Vec<Layer>)>::new();
    // Results that another layer gives, too, and which one that is.
    let mut twins = HashMap::<String, String>::new();
    // With eight lanes memory is no longer what these layers wait for.
    let has_stem = width.lanes() == 16;
    for index in 0..nodes.len() {
        if has_stem && let Some(layers) = reader.stem(index) {
            replaced.extend(layers.iter().flat_map(|layer| layer.nodes.clone()));
            made.push((index, Make::Stem(layers)));
            continue;
        }
        if !reader.outline(index).is_some_and(|outline| outline.is_for_winograd()) {
            continue;
        }
        let Some(mut layer) = reader.layer(index) else { continue };
        if let Some(input) = twins.get(&layer.input) {
            layer.input.clone_from(input);
        }
        let twin = families.iter().flat_map(|(_, family)| family).find(|other| other.gives_the_same_as(&layer));
        if let Some(twin) = twin {
            let twin = twin.output.clone();
            let last = layer.nodes.last().copied().unwrap_or(index);
            made.push((last, Make::Twin { of: twin.clone(), output: layer.output.clone() }));
            replaced.extend(layer.nodes);
            twins.insert(layer.output, twin);
            continue;
        }
        let sibling = families.iter_mut().find(|(_, family)| {
            family[0].input == layer.input
                && family[0].outline.sides[1] == layer.outline.sides[1]
                && family.len() < OUTPUTS
                && family.iter().map(Layer::pairs).sum::<usize>() + layer.pairs() <= MOST_PAIRS
        });
        match sibling {
            Some((_, family)) => family.push(layer),
            None => families.push((index, vec![layer])),
        }
    }
    // Few outputs are not worth the transforms.
    families.retain(|(_, layers)| layers.iter().map(Layer::outputs).sum::<usize>() >= 2 * winograd::GROUP);
    // Between two of them a picture's channels stay together.
    let starts =
        families.iter().flat_map(|(_, layers)| layers.iter().map(|layer| layer.nodes[0])).collect::<HashSet<_>>();
    let users_of = |name: &str| reader.users.get(name).into_iter().flatten().copied();
    let stays = |name: &str| {
        let names =
            std::iter::once(name).chain(twins.iter().filter(|(_, of)| *of == name).map(|(twin, _)| twin.as_str()));
        let names = names.collect::<Vec<_>>();
        let is_picture = |user: usize| {
            let times = nodes[user].input.iter().filter(|input| names.contains(&input.as_str())).count();
            starts.contains(&user) && times == 1
        };
        // Twins are gone; a stem never takes as many channels.
        let mut users = names.iter().flat_map(|name| users_of(name)).filter(|user| !replaced.contains(user)).peekable();
        users.peek().is_some() && users.all(is_picture) && !names.iter().any(|name| reader.outputs.contains(name))
    };
    let inside = families.iter().flat_map(|(_, layers)| layers.iter().map(|layer| layer.output.clone()));
    let inside = inside.filter(|name| stays(name)).collect::<HashSet<_>>();
    for (index, layers) in families {
        replaced.extend(layers.iter().flat_map(|layer| layer.nodes.clone()));
        let siblings = Siblings {
            interleaved_input: inside.contains(&layers[0].input),
            interleaved_outputs: layers.iter().map(|layer| inside.contains(&layer.output)).collect(),
            layers,
        };
        made.push((index, Make::Siblings(siblings)));
    }
    // A twin that nobody else uses need not be given.
    made.retain(|(_, make)| match make {
        Make::Twin { output, .. } => {
            reader.outputs.contains(output.as_str()) || users_of(output).any(|user| !replaced.contains(&user))
        }
        Make::Stem(_) | Make::Siblings(_) => true,
    });
    made.sort_by_key(|(index, _)| *index);
    (made, replaced)
}

impl Make {
    /// What it takes.
    fn input(&self) -> &str {
        match self {
            Self::Stem(layers) => layers.first().map_or("", |layer| &layer.input),
            Self::Siblings(siblings) => &siblings.layers[0].input,
            Self::Twin { of, .. } => of,
        }
    }

    fn build(self, builder: &mut Builder) {
        match self {
            Self::Stem(layers) => {
                let (Some(first), Some(last)) = (layers.first(), layers.last()) else { return };
                let mut inputs = vec![first.input.clone()];
                for layer in &layers {
                    inputs.push(builder.floats(&layer.outline.sides, &layer.weights));
                    inputs.push(builder.floats(&[layer.bias.len()], &layer.bias));
                }
                let slopes = layers.iter().map(|layer| layer.slope).collect::<Vec<_>>();
                let steps = layers[1..].iter().step_by(2).map(|layer| layer.outline.step).collect::<Vec<_>>();
                let inputs = inputs.iter().map(String::as_str).collect::<Vec<_>>();
                let attributes = [("slopes", Value::Floats(&slopes)), ("steps", Value::Ints(&steps))];
                builder.push(STEM, &inputs, std::slice::from_ref(&last.output), &attributes, Some(DOMAIN));
            }
            Self::Twin { of, output } => builder.push("Identity", &[&of], &[output], &[], None),
            Self::Siblings(Siblings { layers, interleaved_input, interleaved_outputs }) => {
                let weights = layers.iter().flat_map(|layer| layer.weights.iter().copied()).collect::<Vec<_>>();
                let bias = layers.iter().flat_map(|layer| layer.bias.iter().copied()).collect::<Vec<_>>();
                let slopes = layers.iter().flat_map(|layer| vec![layer.slope; layer.outputs()]).collect::<Vec<_>>();
                let counts = layers.iter().map(|layer| layer.outputs() as i64).collect::<Vec<_>>();
                let flags = interleaved_outputs.iter().map(|flag| i64::from(*flag)).collect::<Vec<_>>();
                let weights = builder.floats(&[bias.len(), layers[0].outline.sides[1], 3, 3], &weights);
                let bias = builder.floats(&[bias.len()], &bias);
                let outputs = layers.iter().map(|layer| layer.output.clone()).collect::<Vec<_>>();
                let attributes = [
                    ("slopes", Value::Floats(&slopes)),
                    ("outputs", Value::Ints(&counts)),
                    ("interleaved_input", Value::Int(i64::from(interleaved_input))),
                    ("interleaved_outputs", Value::Ints(&flags)),
                ];
                builder.push(CONVOLUTION, &[&layers[0].input, &weights, &bias], &outputs, &attributes, Some(DOMAIN));
            }
        }
    }
}
