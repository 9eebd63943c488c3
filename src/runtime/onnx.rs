//! The parts of ONNX's file format that are needed to read a model's nodes and constants, to put others before, after or in
//! place of them, and to fix its input's size.
//!
//! Source: `onnx/onnx.proto` of the ONNX project. A graph's own nodes, weights and annotations are carried as the bytes
//! that they are, so that nothing of them can be lost on the way.

use prost::Message;

/// A file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Model {
    #[prost(int64, optional, tag = "1")]
    pub(crate) ir_version: Option<i64>,
    #[prost(string, optional, tag = "2")]
    producer_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    producer_version: Option<String>,
    #[prost(string, optional, tag = "4")]
    domain: Option<String>,
    #[prost(int64, optional, tag = "5")]
    model_version: Option<i64>,
    #[prost(string, optional, tag = "6")]
    doc_string: Option<String>,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    metadata_props: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "20")]
    training_info: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "25")]
    functions: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "26")]
    configuration: Vec<Vec<u8>>,
}

/// A graph; what is not looked at stays bytes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Graph {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) node: Vec<Vec<u8>>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(crate) initializer: Vec<Vec<u8>>,
    #[prost(string, optional, tag = "10")]
    doc_string: Option<String>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<ValueInfo>,
    #[prost(bytes = "vec", repeated, tag = "13")]
    pub(crate) value_info: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    quantization_annotation: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub(crate) sparse_initializer: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "16")]
    metadata_props: Vec<Vec<u8>>,
}

/// Which version of a domain's operators a file uses.
#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, optional, tag = "1")]
    domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    version: Option<i64>,
}

/// An input or output of a graph.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueInfo {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(message, optional, tag = "2")]
    r#type: Option<Type>,
    #[prost(string, optional, tag = "3")]
    doc_string: Option<String>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    metadata_props: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, optional, tag = "1")]
    elem_type: Option<i32>,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    dim_param: Option<String>,
}

/// Element types, as ONNX numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Element {
    F32 = 1,
    U8 = 2,
    I64 = 7,
}

/// One side of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// The number of pictures, open until a run.
    Batch,
    Fixed(usize),
}

impl ValueInfo {
    pub(crate) fn new(name: &str, element: Element, sides: &[Side]) -> Self {
        let dimension = |side: &Side| match side {
            Side::Batch => Dimension { dim_value: None, dim_param: Some("N".to_owned()) },
            Side::Fixed(len) => Dimension { dim_value: Some(*len as i64), dim_param: None },
        };
        let shape = Shape { dim: sides.iter().map(dimension).collect() };
        let tensor_type = TensorType { elem_type: Some(element as i32), shape: Some(shape) };
        Self { name: Some(name.to_owned()), r#type: Some(Type { tensor_type: Some(tensor_type) }), ..Self::default() }
    }
}

impl Model {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// If they are not ONNX, or have no graph.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let model = Self::decode(bytes).map_err(|error| error.to_string())?;
        if model.graph.is_some() { Ok(model) } else { Err("the file has no graph".to_owned()) }
    }

    /// The version of the standard operators that it uses; 0 if it says none.
    pub(crate) fn opset(&self) -> i64 {
        let standard = |set: &&OperatorSet| matches!(set.domain.as_deref(), None | Some("" | "ai.onnx"));
        self.opset_import.iter().find(standard).and_then(|set| set.version).unwrap_or(0)
    }

    /// Whether it has operators of its own, made of nodes.
    pub(crate) fn has_functions(&self) -> bool {
        !self.functions.is_empty()
    }

    /// Says that nodes of `domain` are used.
    pub(crate) fn import(&mut self, domain: &str) {
        self.opset_import.push(OperatorSet { domain: Some(domain.to_owned()), version: Some(1) });
    }

    /// Declares the input `name` as of this shape.
    ///
    /// # Errors
    /// If there is no such input.
    pub(crate) fn fix_input(&mut self, name: &str, sides: &[Side]) -> Result<(), String> {
        let graph = self.graph.as_mut().ok_or("the file has no graph")?;
        let input = graph.input.iter_mut().find(|input| input.name.as_deref() == Some(name));
        *input.ok_or_else(|| format!("there is no input {name}"))? = ValueInfo::new(name, Element::F32, sides);
        // What was inferred for open sides may contradict the fixed ones.
        graph.value_info.clear();
        Ok(())
    }
}

/// A node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, optional, tag = "3")]
    name: Option<String>,
    #[prost(string, optional, tag = "4")]
    op_type: Option<String>,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
    #[prost(string, optional, tag = "7")]
    domain: Option<String>,
}

impl Node {
    /// Which of the standard operators it is; empty for any other.
    pub(crate) fn standard(&self) -> &str {
        match self.domain.as_deref() {
            None | Some("" | "ai.onnx") => self.op_type.as_deref().unwrap_or_default(),
            Some(_) => "",
        }
    }

    /// Whether it is one of `domain`'s operators.
    pub(crate) fn is_of(&self, domain: &str) -> bool {
        self.domain.as_deref() == Some(domain)
    }

    fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.f.unwrap_or(0.0))
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i.unwrap_or(0))
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    pub(crate) fn text(&self, name: &str) -> Option<&[u8]> {
        self.attribute(name).and_then(|attribute| attribute.s.as_deref())
    }

    /// Whether it has a graph of its own, as loops and branches do; whatever its attributes are said to be.
    pub(crate) fn has_graph(&self) -> bool {
        self.attribute.iter().any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty())
    }

    /// Whether an attribute comes twice, or is a constant that is not in the file.
    pub(crate) fn is_odd(&self) -> bool {
        let comes_twice = |(index, attribute): (usize, &Attribute)| {
            self.attribute[..index].iter().any(|other| other.name == attribute.name)
        };
        let is_elsewhere =
            |tensor: &Vec<u8>| Tensor::decode(tensor.as_slice()).is_ok_and(|tensor| tensor.is_elsewhere());
        self.attribute.iter().enumerate().any(comes_twice)
            || self.attribute.iter().filter_map(|attribute| attribute.t.as_ref()).any(is_elsewhere)
    }
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(float, optional, tag = "2")]
    f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    s: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    t: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "6")]
    g: Option<Vec<u8>>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "11")]
    graphs: Vec<Vec<u8>>,
    #[prost(int32, optional, tag = "20")]
    r#type: Option<i32>,
}

/// A constant.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, optional, tag = "2")]
    data_type: Option<i32>,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(string, optional, tag = "8")]
    pub(crate) name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "9")]
    raw_data: Option<Vec<u8>>,
    #[prost(int32, optional, tag = "14")]
    data_location: Option<i32>,
}

impl Tensor {
    /// Whether its values are in another file.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.data_location.unwrap_or(0) != 0
    }

    /// Its sides.
    pub(crate) fn sides(&self) -> Option<Vec<usize>> {
        self.dims.iter().map(|side| usize::try_from(*side).ok()).collect()
    }

    /// Its sides and values, if they are floats and in the file.
    pub(crate) fn floats(&self) -> Option<(Vec<usize>, Vec<f32>)> {
        if self.data_type != Some(Element::F32 as i32) || self.is_elsewhere() {
            return None;
        }
        let dims = self.sides()?;
        let count = dims.iter().try_fold(1usize, |count, side| count.checked_mul(*side))?;
        let values = match &self.raw_data {
            Some(raw) => raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            None => self.float_data.clone(),
        };
        (values.len() == count && self.raw_data.as_ref().is_none_or(|raw| raw.len() == 4 * count))
            .then_some((dims, values))
    }
}

/// The value of a node's attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Floats(&'a [f32]),
    Text(&'a str),
}

/// Nodes and constants to put into a model, each named with a prefix of their own.
#[derive(Debug)]
pub(crate) struct Builder {
    prefix: &'static str,
    pub(crate) nodes: Vec<Vec<u8>>,
    pub(crate) initializers: Vec<Vec<u8>>,
}

impl Builder {
    pub(crate) fn new(prefix: &'static str) -> Self {
        Self { prefix, nodes: Vec::new(), initializers: Vec::new() }
    }

    fn constant(&mut self, element: Element, dims: &[usize], raw_data: Vec<u8>) -> String {
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

    /// A constant of floats; its name.
    pub(crate) fn floats(&mut self, dims: &[usize], values: &[f32]) -> String {
        self.constant(Element::F32, dims, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// A constant list of whole numbers; its name.
    pub(crate) fn ints(&mut self, values: &[i64]) -> String {
        self.constant(Element::I64, &[values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// A node with one output; its name.
    pub(crate) fn node(&mut self, op_type: &str, inputs: &[&str], attributes: &[(&str, Value<'_>)]) -> String {
        let [output] = self.node_with(op_type, inputs, attributes);
        output
    }

    /// A node with several outputs; their names.
    pub(crate) fn node_with<const N: usize>(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        attributes: &[(&str, Value<'_>)],
    ) -> [String; N] {
        let name = format!("{}{op_type}{}", self.prefix, self.nodes.len());
        let outputs = std::array::from_fn(|index| format!("{name}:{index}"));
        self.push(op_type, inputs, &outputs, attributes, None);
        outputs
    }

    /// A node whose output has this name.
    pub(crate) fn node_named(
        &mut self,
        output: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: &[(&str, Value<'_>)],
    ) {
        self.push(op_type, inputs, &[output.to_owned()], attributes, None);
    }

    /// A node whose outputs have these names, of `domain`'s operators or, without one, a standard one.
    pub(crate) fn push(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        outputs: &[String],
        attributes: &[(&str, Value<'_>)],
        domain: Option<&str>,
    ) {
        // The numbers of AttributeProto.AttributeType.
        const INT: i32 = 2;
        const STRING: i32 = 3;
        const FLOATS: i32 = 6;
        const INTS: i32 = 7;
        let attribute = |(name, value): &(&str, Value<'_>)| {
            let named = Attribute { name: Some((*name).to_owned()), ..Attribute::default() };
            match value {
                Value::Int(value) => Attribute { i: Some(*value), r#type: Some(INT), ..named },
                Value::Ints(values) => Attribute { ints: values.to_vec(), r#type: Some(INTS), ..named },
                Value::Floats(values) => Attribute { floats: values.to_vec(), r#type: Some(FLOATS), ..named },
                Value::Text(text) => Attribute { s: Some(text.as_bytes().to_vec()), r#type: Some(STRING), ..named },
            }
        };
        let node = Node {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: outputs.to_vec(),
            name: Some(format!("{}{op_type}{}", self.prefix, self.nodes.len())),
            op_type: Some(op_type.to_owned()),
            attribute: attributes.iter().map(attribute).collect(),
            domain: domain.map(str::to_owned),
        };
        self.nodes.push(node.encode_to_vec());
    }
}

impl Model {
    /// Puts `before` in front of this graph and `after` behind it, and declares these inputs and outputs in place of its
    /// own: `before` has to make what its inputs were called, `after` may use what its outputs were called.
    pub(crate) fn enclose(&mut self, before: Builder, after: Builder, input: Vec<ValueInfo>, output: Vec<ValueInfo>) {
        let graph = self.graph.get_or_insert_default();
        let own = std::mem::take(&mut graph.node);
        graph.node = [before.nodes, own, after.nodes].concat();
        graph.initializer.extend(before.initializers);
        graph.initializer.extend(after.initializers);
        (graph.input, graph.output) = (input, output);
        graph.value_info.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_survives_reading_and_writing() {
        let file = std::fs::read(".fetch/models/retinaface_mnet025.onnx").unwrap();
        let model = Model::parse(&file).unwrap();
        assert_eq!(model.opset(), 11);
        let written = model.encode_to_vec();
        assert_eq!(Model::parse(&written).unwrap(), model);
        // Weights and nodes are most of a file: nothing of them went missing.
        assert!(written.len() + 1024 > file.len(), "{} bytes became {}", file.len(), written.len());
    }

    #[test]
    fn what_is_no_model_is_an_error() {
        for bytes in [&b""[..], b"\xff\xff\xff", b"<html></html>", &[0; 64]] {
            assert!(Model::parse(bytes).is_err());
        }
    }

    #[test]
    fn an_input_that_is_not_there_cannot_be_fixed() {
        let file = std::fs::read(".fetch/models/retinaface_mnet025.onnx").unwrap();
        let mut model = Model::parse(&file).unwrap();
        assert!(model.fix_input("input", &[Side::Batch, Side::Fixed(3), Side::Fixed(32), Side::Fixed(64)]).is_ok());
        assert!(model.fix_input("data", &[]).unwrap_err().contains("data"));
    }
}
