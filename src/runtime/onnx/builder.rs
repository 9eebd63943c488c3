//! Building nodes and constants, and adding them to a model.

use prost::Message as _;

use super::{Attribute, ElementType, Model, Node, Tensor, ValueInfo};

/// The value of an attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AttributeValue<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Text(&'a str),
}

/// Builds nodes and constants to add to a model. All names begin with a prefix, so that they do not
/// collide with names of the model.
#[derive(Debug)]
pub(crate) struct GraphBuilder {
    prefix: &'static str,
    pub(crate) nodes: Vec<Vec<u8>>,
    pub(crate) initializers: Vec<Vec<u8>>,
}

impl GraphBuilder {
    /// A builder whose names begin with `prefix`.
    pub(crate) fn new(prefix: &'static str) -> Self {
        Self { prefix, nodes: Vec::new(), initializers: Vec::new() }
    }

    fn constant(&mut self, element: ElementType, dims: &[usize], raw_data: Vec<u8>) -> String {
        let name = format!("{}constant{}", self.prefix, self.initializers.len());
        let tensor = Tensor {
            dims: dims.iter().map(|len| *len as i64).collect(),
            data_type: Some(element as i32),
            name: Some(name.clone()),
            raw_data: Some(raw_data),
            ..Tensor::default()
        };
        self.initializers.push(tensor.encode_to_vec());
        name
    }

    /// Adds a float32 constant and returns its name.
    pub(crate) fn floats(&mut self, dims: &[usize], values: &[f32]) -> String {
        self.constant(ElementType::F32, dims, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Adds a constant list of int64 values and returns its name.
    pub(crate) fn ints(&mut self, values: &[i64]) -> String {
        self.constant(ElementType::I64, &[values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Adds a standard node with one output and returns the name of the output.
    pub(crate) fn node(&mut self, op_type: &str, inputs: &[&str], attributes: &[(&str, AttributeValue<'_>)]) -> String {
        let [output] = self.node_with(op_type, inputs, attributes);
        output
    }

    /// Adds a standard node with `N` outputs and returns their names.
    pub(crate) fn node_with<const N: usize>(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        attributes: &[(&str, AttributeValue<'_>)],
    ) -> [String; N] {
        let name = format!("{}{op_type}{}", self.prefix, self.nodes.len());
        let outputs = std::array::from_fn(|index| format!("{name}:{index}"));
        self.push(op_type, inputs, &outputs, attributes, None);
        outputs
    }

    /// Adds a standard node with one output of the given name.
    pub(crate) fn node_named(
        &mut self,
        output: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: &[(&str, AttributeValue<'_>)],
    ) {
        self.push(op_type, inputs, &[output.to_owned()], attributes, None);
    }

    /// Adds a node with outputs of the given names. `domain` is the operator domain; `None` selects
    /// the standard operators.
    pub(crate) fn push(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        outputs: &[String],
        attributes: &[(&str, AttributeValue<'_>)],
        domain: Option<&str>,
    ) {
        // Values of `AttributeProto.AttributeType`.
        const INT: i32 = 2;
        const STRING: i32 = 3;
        const FLOATS: i32 = 6;
        const INTS: i32 = 7;
        let attribute = |(name, value): &(&str, AttributeValue<'_>)| {
            let named = Attribute { name: Some((*name).to_owned()), ..Attribute::default() };
            match value {
                AttributeValue::Int(value) => Attribute { i: Some(*value), r#type: Some(INT), ..named },
                AttributeValue::Ints(values) => Attribute { ints: values.to_vec(), r#type: Some(INTS), ..named },
                AttributeValue::Floats(values) => Attribute { floats: values.to_vec(), r#type: Some(FLOATS), ..named },
                AttributeValue::Text(text) => {
                    Attribute { s: Some(text.as_bytes().to_vec()), r#type: Some(STRING), ..named }
                }
            }
        };
        let node = Node {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: outputs.to_vec(),
            name: Some(format!("{}{op_type}{}", self.prefix, self.nodes.len())),
            op_type: Some(op_type.to_owned()),
            attribute: attributes.iter().map(attribute).collect(),
            domain: domain.map(str::to_owned),
            ..Node::default()
        };
        self.nodes.push(node.encode_to_vec());
    }
}

impl Model {
    /// Adds the nodes of `before` at the beginning of the graph and those of `after` at its end,
    /// and replaces its inputs and outputs.
    ///
    /// `before` must produce values with the names of the previous inputs; `after` can consume
    /// values with the names of the previous outputs.
    pub(crate) fn enclose(
        &mut self,
        before: GraphBuilder,
        after: GraphBuilder,
        input: Vec<ValueInfo>,
        output: Vec<ValueInfo>,
    ) {
        let graph = self.graph.get_or_insert_default();
        let nodes = std::mem::take(&mut graph.node);
        graph.node = [before.nodes, nodes, after.nodes].concat();
        graph.initializer.extend(before.initializers);
        graph.initializer.extend(after.initializers);
        (graph.input, graph.output) = (input, output);
        graph.value_info.clear();
    }
}
