//! Finds convolutions in a model that kernels of ours do faster, and puts those in their place.

use std::collections::{HashMap, HashSet};

use prost::Message as _;

use super::lanes::Width;
use super::{CONVOLUTION, DOMAIN, OUTPUTS, STEM, stem, winograd};
use crate::onnx::{Builder, Graph, Model, Node, Tensor, Value};

/// Weights above this many would no longer stay in a processor's cache once they are transformed.
const MOST_WEIGHTS: usize = 256 * 256;

/// A convolution, with what follows it and can be done on the way.
struct Layer {
    /// The nodes: itself, a normalisation, an activation.
    nodes: Vec<usize>,
    input: String,
    output: String,
    /// `[outputs, inputs of a group, height, width]`.
    sides: [usize; 4],
    weights: Vec<f32>,
    bias: Vec<f32>,
    slope: f32,
    step: i64,
    padding: i64,
    groups: i64,
}

impl Layer {
    fn outputs(&self) -> usize {
        self.sides[0]
    }

    fn gives_the_same_as(&self, other: &Self) -> bool {
        let numbers = |layer: &Self| (layer.sides, layer.step, layer.padding, layer.groups);
        self.input == other.input
            && numbers(self) == numbers(other)
            && self.slope.to_bits() == other.slope.to_bits()
            && self.weights == other.weights
            && self.bias == other.bias
    }

    /// Whether [`winograd`] does it.
    fn is_for_winograd(&self) -> bool {
        let [outputs, inputs, height, width] = self.sides;
        (height, width, self.step, self.padding, self.groups) == (3, 3, 1, 1, 1)
            && outputs % winograd::GROUP == 0
            && inputs % winograd::GROUP == 0
            && inputs > 0
    }
}

/// What is known of a graph's nodes.
struct Reader<'a> {
    nodes: &'a [Node],
    constants: HashMap<&'a str, &'a Tensor>,
    users: HashMap<&'a str, Vec<usize>>,
    outputs: HashSet<&'a str>,
}

impl Reader<'_> {
    fn constant(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        self.constants.get(name)?.floats()
    }

    /// The one node that uses `name`, if there is one alone.
    fn only_user(&self, name: &str) -> Option<usize> {
        match self.users.get(name).map(Vec::as_slice) {
            Some([user]) if !self.outputs.contains(name) => Some(*user),
            _ => None,
        }
    }

    fn layer(&self, index: usize) -> Option<Layer> {
        let node = &self.nodes[index];
        if node.standard() != "Conv" || !matches!(node.text("auto_pad"), None | Some(b"NOTSET")) {
            return None;
        }
        let (input, kernel) = (node.input.first()?, node.input.get(1)?);
        let (sides, mut weights) = self.constant(kernel)?;
        let sides = <[usize; 4]>::try_from(sides).ok()?;
        // The same on all sides, or nothing that is looked for here.
        let same = |name: &str, default: i64| match node.ints(name) {
            None | Some([]) => Some(default),
            Some([first, others @ ..]) => others.iter().all(|other| other == first).then_some(*first),
        };
        let (step, padding) = (same("strides", 1)?, same("pads", 0)?);
        if same("dilations", 1)? != 1 {
            return None;
        }
        let mut bias = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(name) => self.constant(name)?.1,
            None => vec![0.0; sides[0]],
        };
        if bias.len() != sides[0] || weights.is_empty() {
            return None;
        }
        let (mut nodes, mut output) = (vec![index], node.output.first()?.clone());
        if let Some((user, factors)) = self.normalisation(&output, sides[0]) {
            for ((kernel, bias), (scale, shift)) in
                weights.chunks_exact_mut(sides[1] * sides[2] * sides[3]).zip(&mut bias).zip(factors)
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
        let (input, groups) = (input.clone(), node.int("group", 1));
        Some(Layer { nodes, input, output, sides, weights, bias, slope, step, padding, groups })
    }

    /// A batch normalisation that alone uses `name`, as a factor and a summand for each channel.
    fn normalisation(&self, name: &str, channels: usize) -> Option<(usize, Vec<(f64, f64)>)> {
        let user = self.only_user(name)?;
        let node = &self.nodes[user];
        if node.standard() != "BatchNormalization" || node.output.len() != 1 || node.int("training_mode", 0) != 0 {
            return None;
        }
        let of = |index: usize| self.constant(node.input.get(index)?).map(|(_, values)| values);
        let (scale, shift, mean, variance) = (of(1)?, of(2)?, of(3)?, of(4)?);
        if [&scale, &shift, &mean, &variance].iter().any(|values| values.len() != channels) {
            return None;
        }
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let factors = (0..channels).map(|channel| {
            let factor = f64::from(scale[channel]) / (f64::from(variance[channel]) + epsilon).sqrt();
            (factor, f64::from(shift[channel]) - f64::from(mean[channel]) * factor)
        });
        Some((user, factors.collect()))
    }

    /// The layers of a [`stem`] that begins at this node: the first, then pairs.
    fn stem(&self, index: usize) -> Option<Vec<Layer>> {
        let first = self.layer(index)?;
        let fits = |count: usize| count > 0 && count.is_multiple_of(stem::GROUP) && count <= stem::CHANNELS;
        let is_first = first.sides[1..] == [first.sides[1], 3, 3]
            && (first.step, first.padding, first.groups) == (2, 1, 1)
            && (1..=stem::INPUTS).contains(&first.sides[1])
            && fits(first.outputs());
        let mut layers = vec![first];
        while is_first && layers.len() < 2 * stem::PAIRS {
            let (before, channels) = (&layers[layers.len() - 1], layers[layers.len() - 1].outputs());
            // The results must be taken as a picture, not as weights.
            let next = |layer: &Layer| {
                self.only_user(&layer.output)
                    .and_then(|user| self.layer(user))
                    .filter(|next| next.input == layer.output)
            };
            let Some(each) = next(before) else { break };
            let Some(last) = next(&each) else { break };
            let outputs = last.outputs();
            let is_each = each.sides == [channels, 1, 3, 3] && each.padding == 1 && each.groups == channels as i64;
            let is_last =
                last.sides == [outputs, channels, 1, 1] && (last.step, last.padding, last.groups) == (1, 0, 1);
            // Planes that have become small, with many channels, are for matrix products.
            if !is_each || !(1..=2).contains(&each.step) || !is_last || !fits(outputs) || channels >= stem::CHANNELS {
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
    let overridable = model.ir_version.unwrap_or(0) >= 4;
    let has_functions = model.has_functions();
    let graph = model.graph.as_mut()?;
    let nodes = graph.node.iter().map(|node| Node::decode(node.as_slice()).ok()).collect::<Option<Vec<_>>>()?;
    // Graphs within nodes may use this one's values; and nobody else's nodes may pass for ours.
    if has_functions || nodes.iter().any(|node| node.has_graph() || node.is_of(DOMAIN)) {
        return None;
    }
    let tensors = graph.initializer.iter().map(|tensor| Tensor::decode(tensor.as_slice()).ok());
    let tensors = tensors.collect::<Option<Vec<_>>>()?;
    let (made, replaced) = plan(graph, &nodes, &tensors, overridable, width);
    let count = made.iter().filter(|(_, make)| !matches!(make, Make::Twin { .. })).count();
    if count == 0 {
        return None;
    }
    let mut builder = Builder::new("retinaface/");
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
    // What nothing uses any more would be loaded for nothing, and warned of.
    let used = nodes.iter().enumerate().filter(|(index, _)| !replaced.contains(index));
    let used = used.flat_map(|(_, node)| &node.input).map(String::as_str).collect::<HashSet<_>>();
    let is_output = |name: &str| graph.output.iter().any(|output| output.name.as_deref() == Some(name));
    let mut unused = tensors.iter().map(|tensor| {
        let name = tensor.name.as_deref().unwrap_or_default();
        !used.contains(name) && !is_output(name)
    });
    let gone = tensors
        .iter()
        .filter_map(|tensor| tensor.name.as_deref())
        .filter(|name| !used.contains(name) && !is_output(name));
    let gone = gone.collect::<HashSet<_>>();
    graph.initializer.retain(|_| !unused.next().unwrap_or(false));
    graph.input.retain(|input| !gone.contains(input.name.as_deref().unwrap_or_default()));
    graph.initializer.extend(builder.initializers);
    graph.value_info.clear();
    model.import(DOMAIN);
    Some(count)
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
    let has_stem = width == Width::Sixteen;
    for index in 0..nodes.len() {
        if has_stem && let Some(layers) = reader.stem(index) {
            replaced.extend(layers.iter().flat_map(|layer| layer.nodes.clone()));
            made.push((index, Make::Stem(layers)));
            continue;
        }
        let Some(mut layer) = reader.layer(index).filter(Layer::is_for_winograd) else { continue };
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
        let weights = |layers: &[Layer]| layers.iter().map(|layer| layer.sides[0] * layer.sides[1]).sum::<usize>();
        let sibling = families.iter_mut().find(|(_, family)| {
            family[0].input == layer.input
                && family[0].sides[1] == layer.sides[1]
                && family.len() < OUTPUTS
                && weights(family) + layer.sides[0] * layer.sides[1] <= MOST_WEIGHTS
        });
        match sibling {
            Some((_, family)) => family.push(layer),
            None if weights(std::slice::from_ref(&layer)) <= MOST_WEIGHTS => families.push((index, vec![layer])),
            None => {}
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
    fn build(self, builder: &mut Builder) {
        match self {
            Self::Stem(layers) => {
                let (Some(first), Some(last)) = (layers.first(), layers.last()) else { return };
                let mut inputs = vec![first.input.clone()];
                for layer in &layers {
                    inputs.push(builder.floats(&layer.sides, &layer.weights));
                    inputs.push(builder.floats(&[layer.bias.len()], &layer.bias));
                }
                let slopes = layers.iter().map(|layer| layer.slope).collect::<Vec<_>>();
                let steps = layers[1..].iter().step_by(2).map(|layer| layer.step).collect::<Vec<_>>();
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
                let weights = builder.floats(&[bias.len(), layers[0].sides[1], 3, 3], &weights);
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
