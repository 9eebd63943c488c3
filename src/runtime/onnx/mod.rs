//! The ONNX file format: reading nodes and constants, building graphs, fixing the input shape and
//! embedding external data.
//!
//! Source: `onnx/onnx.proto` of the ONNX project. Messages that this crate does not read are stored
//! as bytes, so that decoding and encoding preserve them.

mod builder;
mod external_data;

use std::collections::HashSet;

use prost::Message;

pub(crate) use builder::{AttributeValue, GraphBuilder};
pub use external_data::{ExternalDataError, ExternalDataErrorKind};

/// Maximum length of an encoded model: the limit of protocol buffers.
pub(crate) const MAX_MODEL_BYTES: u64 = i32::MAX as u64;

/// `ModelProto`: the content of an ONNX file.
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

/// `GraphProto`.
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

/// `OperatorSetIdProto`: the version of the operators of a domain.
#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, optional, tag = "1")]
    domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    version: Option<i64>,
}

/// `ValueInfoProto`: an input or output of a graph.
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

/// `TypeProto`.
#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
    #[prost(bytes = "vec", optional, tag = "4")]
    sequence_type: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    map_type: Option<Vec<u8>>,
    #[prost(string, optional, tag = "6")]
    denotation: Option<String>,
    #[prost(bytes = "vec", optional, tag = "7")]
    opaque_type: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "8")]
    sparse_tensor_type: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "9")]
    optional_type: Option<Vec<u8>>,
}

/// `TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, optional, tag = "1")]
    elem_type: Option<i32>,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

/// `TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

/// `TensorShapeProto.Dimension`.
#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    dim_param: Option<String>,
    #[prost(string, optional, tag = "3")]
    denotation: Option<String>,
}

/// Element types, with the values of `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum ElementType {
    F32 = 1,
    U8 = 2,
    I64 = 7,
}

/// One dimension of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dim {
    /// The batch dimension, whose length is set by each run.
    Batch,
    /// A dimension of fixed length.
    Fixed(usize),
}

impl ValueInfo {
    /// An input or output of type tensor.
    pub(crate) fn new(name: &str, element: ElementType, dims: &[Dim]) -> Self {
        let dimension = |dim: &Dim| match dim {
            Dim::Batch => Dimension { dim_param: Some("N".to_owned()), ..Dimension::default() },
            Dim::Fixed(len) => Dimension { dim_value: Some(*len as i64), ..Dimension::default() },
        };
        let shape = Shape { dim: dims.iter().map(dimension).collect() };
        let tensor_type = Some(TensorType { elem_type: Some(element as i32), shape: Some(shape) });
        let r#type = Some(Type { tensor_type, ..Type::default() });
        Self { name: Some(name.to_owned()), r#type, ..Self::default() }
    }
}

impl Model {
    /// A model with one node, of a standard operator with one input and one output of the shape
    /// `dims`.
    pub(crate) fn with_one_node(op_type: &str, opset: i64, dims: &[Dim]) -> Self {
        let value = |name| ValueInfo::new(name, ElementType::F32, dims);
        let node = Node {
            input: vec!["input".to_owned()],
            output: vec!["output".to_owned()],
            op_type: Some(op_type.to_owned()),
            ..Node::default()
        };
        let graph = Graph {
            node: vec![node.encode_to_vec()],
            name: Some(op_type.to_owned()),
            input: vec![value("input")],
            output: vec![value("output")],
            ..Graph::default()
        };
        let operators = OperatorSet { domain: None, version: Some(opset) };
        Self { ir_version: Some(7), graph: Some(graph), opset_import: vec![operators], ..Self::default() }
    }

    /// The names of all nodes.
    pub(crate) fn node_names(&self) -> HashSet<String> {
        let nodes = self.graph.iter().flat_map(|graph| &graph.node);
        nodes.filter_map(|bytes| Node::decode(bytes.as_slice()).ok()?.name).collect()
    }

    /// The names of the nodes that only compute shapes: their inputs are constants and outputs of
    /// `Shape` nodes. Execution providers for GPUs leave such nodes to the CPU on purpose.
    pub(crate) fn shape_nodes(&self) -> HashSet<String> {
        let Some(graph) = &self.graph else { return HashSet::new() };
        let initializers = graph.initializer.iter().filter_map(|bytes| Tensor::decode(bytes.as_slice()).ok()?.name);
        let mut constants = initializers.collect::<HashSet<_>>();
        let mut shapes = HashSet::new();
        let mut names = HashSet::new();
        // The nodes of a graph are sorted: each comes after those that compute its inputs.
        for node in graph.node.iter().filter_map(|bytes| Node::decode(bytes.as_slice()).ok()) {
            let mut inputs = node.input.iter().filter(|name| !name.is_empty());
            if node.standard_op() == "Constant" || (node.input.is_empty() && !node.has_graph()) {
                constants.extend(node.output);
            } else if matches!(node.standard_op(), "Shape" | "Size")
                || (inputs.clone().any(|name| shapes.contains(name))
                    && inputs.all(|name| shapes.contains(name) || constants.contains(name)))
            {
                shapes.extend(node.output);
                names.extend(node.name);
            }
        }
        names
    }

    /// Decodes the bytes of an ONNX file.
    ///
    /// # Errors
    /// If the bytes are not ONNX or contain no graph.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let model = Self::decode(bytes).map_err(|error| error.to_string())?;
        if model.graph.is_some() { Ok(model) } else { Err("the model has no graph".to_owned()) }
    }

    /// The version of the standard operator set; 0 if the model declares none.
    pub(crate) fn opset(&self) -> i64 {
        let standard = |set: &&OperatorSet| matches!(set.domain.as_deref(), None | Some("" | "ai.onnx"));
        self.opset_import.iter().find(standard).and_then(|set| set.version).unwrap_or(0)
    }

    /// Whether the model defines functions, that is operators composed of nodes.
    pub(crate) fn has_functions(&self) -> bool {
        !self.functions.is_empty()
    }

    /// Declares that nodes use version 1 of the operators of `domain`.
    pub(crate) fn import(&mut self, domain: &str) {
        self.opset_import.push(OperatorSet { domain: Some(domain.to_owned()), version: Some(1) });
    }

    /// Sets the shape of the float32 input `name`.
    ///
    /// # Errors
    /// If the model has no input of that name.
    pub(crate) fn fix_input(&mut self, name: &str, dims: &[Dim]) -> Result<(), String> {
        let graph = self.graph.as_mut().ok_or("the model has no graph")?;
        let input = graph.input.iter_mut().find(|input| input.name.as_deref() == Some(name));
        *input.ok_or_else(|| format!("the model has no input `{name}`"))? =
            ValueInfo::new(name, ElementType::F32, dims);
        // Shapes that were inferred for the dynamic input can contradict the fixed one.
        graph.value_info.clear();
        Ok(())
    }
}

/// `NodeProto`.
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
    #[prost(string, optional, tag = "6")]
    doc_string: Option<String>,
    #[prost(string, optional, tag = "7")]
    domain: Option<String>,
    #[prost(string, optional, tag = "8")]
    overload: Option<String>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    metadata_props: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "10")]
    device_configurations: Vec<Vec<u8>>,
}

impl Node {
    /// The operator type, if it is a standard operator; otherwise empty.
    pub(crate) fn standard_op(&self) -> &str {
        match self.domain.as_deref() {
            None | Some("" | "ai.onnx") => self.op_type.as_deref().unwrap_or_default(),
            Some(_) => "",
        }
    }

    /// Whether its operator belongs to `domain`.
    pub(crate) fn is_in_domain(&self, domain: &str) -> bool {
        self.domain.as_deref() == Some(domain)
    }

    fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))
    }

    /// The value of a float attribute.
    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.f.unwrap_or(0.0))
    }

    /// The value of an integer attribute.
    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i.unwrap_or(0))
    }

    /// The value of an attribute that is a list of integers.
    pub(crate) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    /// The value of a string attribute.
    pub(crate) fn text(&self, name: &str) -> Option<&[u8]> {
        self.attribute(name).and_then(|attribute| attribute.s.as_deref())
    }

    /// Whether an attribute contains a subgraph, as in loops and branches. The declared type of the
    /// attribute is not taken into account.
    pub(crate) fn has_graph(&self) -> bool {
        self.attribute.iter().any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty())
    }

    /// Whether an attribute is duplicated, or is a tensor with external data.
    pub(crate) fn has_unsupported_attributes(&self) -> bool {
        let is_duplicate = |(index, attribute): (usize, &Attribute)| {
            self.attribute[..index].iter().any(|other| other.name == attribute.name)
        };
        let is_external = |tensor: &Vec<u8>| Tensor::decode(tensor.as_slice()).is_ok_and(|tensor| tensor.is_external());
        self.attribute.iter().enumerate().any(is_duplicate)
            || self.attribute.iter().filter_map(|attribute| attribute.t.as_ref()).any(is_external)
    }
}

/// `AttributeProto`.
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
    #[prost(bytes = "vec", repeated, tag = "9")]
    strings: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "10")]
    tensors: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "11")]
    graphs: Vec<Vec<u8>>,
    #[prost(string, optional, tag = "13")]
    doc_string: Option<String>,
    #[prost(bytes = "vec", optional, tag = "14")]
    tp: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "15")]
    type_protos: Vec<Vec<u8>>,
    #[prost(int32, optional, tag = "20")]
    r#type: Option<i32>,
    #[prost(string, optional, tag = "21")]
    ref_attr_name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "22")]
    sparse_tensor: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "23")]
    sparse_tensors: Vec<Vec<u8>>,
}

/// `TensorProto`: a constant.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, optional, tag = "2")]
    data_type: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "3")]
    segment: Option<Vec<u8>>,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    string_data: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "7")]
    int64_data: Vec<i64>,
    #[prost(string, optional, tag = "8")]
    pub(crate) name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "9")]
    raw_data: Option<Vec<u8>>,
    #[prost(double, repeated, tag = "10")]
    double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    uint64_data: Vec<u64>,
    #[prost(string, optional, tag = "12")]
    doc_string: Option<String>,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringEntry>,
    #[prost(int32, optional, tag = "14")]
    data_location: Option<i32>,
    #[prost(bytes = "vec", repeated, tag = "16")]
    metadata_props: Vec<Vec<u8>>,
}

/// `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
struct StringEntry {
    #[prost(string, optional, tag = "1")]
    key: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

impl Tensor {
    /// Whether its values are stored in another file.
    pub(crate) fn is_external(&self) -> bool {
        self.data_location.unwrap_or(0) != 0
    }

    /// Its dimensions; `None` if one is negative.
    pub(crate) fn dims(&self) -> Option<Vec<usize>> {
        self.dims.iter().map(|len| usize::try_from(*len).ok()).collect()
    }

    /// Its dimensions and values, if it is a float32 tensor without external data.
    pub(crate) fn floats(&self) -> Option<(Vec<usize>, Vec<f32>)> {
        if self.data_type != Some(ElementType::F32 as i32) || self.is_external() {
            return None;
        }
        let dims = self.dims()?;
        let count = dims.iter().try_fold(1usize, |count, len| count.checked_mul(*len))?;
        let values = match &self.raw_data {
            Some(raw) => raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            None => self.float_data.clone(),
        };
        (values.len() == count && self.raw_data.as_ref().is_none_or(|raw| raw.len() == 4 * count))
            .then_some((dims, values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = ".fetch/models/retinaface_mnet025.onnx";

    #[test]
    fn encoding_a_tensor_keeps_all_fields() {
        let tensor = Tensor {
            dims: vec![2],
            data_type: Some(11),
            segment: Some(vec![8, 1]),
            float_data: vec![1.0],
            int32_data: vec![-2],
            string_data: vec![b"a".to_vec()],
            int64_data: vec![3],
            name: Some("tensor".to_owned()),
            raw_data: Some(vec![4]),
            double_data: vec![5.0],
            uint64_data: vec![6],
            doc_string: Some("doc".to_owned()),
            external_data: vec![StringEntry { key: Some("location".to_owned()), value: None }],
            data_location: Some(1),
            metadata_props: vec![vec![10, 1, b'k']],
        };
        assert_eq!(Tensor::decode(tensor.encode_to_vec().as_slice()).unwrap(), tensor);
    }

    #[test]
    fn decoding_and_encoding_preserve_a_file() {
        let file = std::fs::read(MODEL).unwrap();
        let model = Model::parse(&file).unwrap();
        assert_eq!(model.opset(), 11);
        let written = model.encode_to_vec();
        assert_eq!(Model::parse(&written).unwrap(), model);
        // Weights and nodes make up most of the file; losing any would show in the length.
        assert!(written.len() + 1024 > file.len(), "{} bytes became {}", file.len(), written.len());
    }

    #[test]
    fn bytes_that_are_not_onnx_are_an_error() {
        for bytes in [&b""[..], b"\xff\xff\xff", b"<html></html>", &[0; 64]] {
            assert!(Model::parse(bytes).is_err());
        }
    }

    #[test]
    fn fixing_a_missing_input_is_an_error() {
        let file = std::fs::read(MODEL).unwrap();
        let mut model = Model::parse(&file).unwrap();
        assert!(model.fix_input("input", &[Dim::Batch, Dim::Fixed(3), Dim::Fixed(32), Dim::Fixed(64)]).is_ok());
        assert!(model.fix_input("data", &[]).unwrap_err().contains("data"));
    }
}
