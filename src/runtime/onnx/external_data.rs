//! External data: the weights of a model in other files.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use prost::Message as _;

use super::{Attribute, Graph, MAX_MODEL_BYTES, Model, Node, Tensor};

/// Maximum number of graphs around a subgraph. The conditions and loops of real models need two or
/// three; each level takes stack and a copy of its graph.
const MAX_GRAPH_DEPTH: usize = 8;

/// Why the external data of a tensor cannot be embedded.
#[derive(Debug, thiserror::Error)]
pub struct ExternalDataError {
    /// Name of the tensor; empty for [`ExternalDataErrorKind::TooDeep`].
    pub tensor: String,
    /// Location of the data, as the tensor states it.
    pub location: String,
    /// What is wrong.
    #[source]
    pub kind: ExternalDataErrorKind,
}

impl fmt::Display for ExternalDataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensor, location, kind } = self;
        match kind {
            ExternalDataErrorKind::TooDeep => write!(f, "{kind}"),
            _ => write!(f, "tensor `{tensor}` with external data in `{location}`: {kind}"),
        }
    }
}

/// What is wrong with external data.
#[derive(Debug, thiserror::Error)]
pub enum ExternalDataErrorKind {
    /// The location is missing, absolute or contains `..`.
    #[error("the location must be a path relative to the model's directory, without `..`; export the model again")]
    Location,
    /// The location leads out of the model's directory through a symbolic link.
    #[error("the file is outside of the model's directory; copy it beside the model instead of linking it")]
    OutsideDirectory,
    /// The file does not exist.
    #[error("this file with weights of the model is missing; copy it to {} under that name", .directory.display())]
    Missing {
        /// The directory of the model, or of the file that the model links to.
        directory: PathBuf,
    },
    /// The file cannot be read.
    #[error("the file cannot be read ({0}); keep it beside the model under its original name")]
    Read(#[source] io::Error),
    /// Offset or length is not a number.
    #[error("{key}={value} is not a number of bytes; export the model again")]
    Number {
        /// `offset` or `length`.
        key: &'static str,
        /// The value in the tensor.
        value: String,
    },
    /// Offset and length exceed the file.
    #[error(
        "{length} bytes at offset {offset} exceed the file of {file_length} bytes; the file is truncated or belongs to \
         another model, so copy it again"
    )]
    Range {
        /// Offset of the data, in bytes.
        offset: u64,
        /// Length of the data, in bytes.
        length: u64,
        /// Length of the file, in bytes.
        file_length: u64,
    },
    /// The model with its data is longer than a protocol buffer can be.
    #[error("the model with its data exceeds 2 GiB; use a smaller model or one with 16-bit weights")]
    TooLarge,
    /// The subgraphs are nested too deeply.
    #[error("its subgraphs are nested more than {MAX_GRAPH_DEPTH} deep; export the model again")]
    TooDeep,
}

/// Reads external data of a model.
struct ExternalData<'a> {
    /// The model file.
    model: &'a Path,
    /// Open files with their lengths, by location. Each file is opened once, so that all tensors
    /// come from the same version of it.
    files: HashMap<String, (File, u64)>,
    /// Bytes that can still be embedded.
    budget: u64,
}

impl Model {
    /// Replaces external data by `raw_data`: in initializers, in tensor attributes of nodes and in
    /// subgraphs. Returns whether any tensor had external data.
    ///
    /// `model` is the path of the model file.
    ///
    /// # Errors
    /// If a location is not below the directory of the model, a file cannot be read, a range
    /// exceeds its file, subgraphs are nested too deeply, or the result exceeds 2 GiB. The model
    /// is then unusable.
    pub(crate) fn embed_external_data(&mut self, model: &Path) -> Result<bool, ExternalDataError> {
        let budget = MAX_MODEL_BYTES.saturating_sub(self.encoded_len() as u64);
        let mut data = ExternalData { model, files: HashMap::new(), budget };
        self.graph.as_mut().map_or(Ok(false), |graph| data.embed_in_graph(graph, 0))
    }
}

impl ExternalData<'_> {
    /// `depth` is the number of graphs around this one.
    fn embed_in_graph(&mut self, graph: &mut Graph, depth: usize) -> Result<bool, ExternalDataError> {
        let mut embedded = false;
        if depth > MAX_GRAPH_DEPTH {
            let (tensor, location) = (String::new(), String::new());
            return Err(ExternalDataError { tensor, location, kind: ExternalDataErrorKind::TooDeep });
        }
        for tensor in &mut graph.initializer {
            embedded |= self.embed_in_tensor(tensor)?;
        }
        for bytes in &mut graph.node {
            // ONNX Runtime reports nodes that cannot be decoded.
            let Ok(mut node) = Node::decode(bytes.as_slice()) else { continue };
            let mut changed = false;
            for Attribute { t, tensors, g, graphs, .. } in &mut node.attribute {
                for tensor in t.iter_mut().chain(tensors) {
                    changed |= self.embed_in_tensor(tensor)?;
                }
                for bytes in g.iter_mut().chain(graphs) {
                    let Ok(mut graph) = Graph::decode(bytes.as_slice()) else { continue };
                    if self.embed_in_graph(&mut graph, depth + 1)? {
                        *bytes = graph.encode_to_vec();
                        changed = true;
                    }
                }
            }
            if changed {
                *bytes = node.encode_to_vec();
                embedded = true;
            }
        }
        Ok(embedded)
    }

    /// Embeds the data of an encoded tensor; returns whether it was external.
    fn embed_in_tensor(&mut self, bytes: &mut Vec<u8>) -> Result<bool, ExternalDataError> {
        // ONNX Runtime reports tensors that cannot be decoded.
        let Ok(mut tensor) = Tensor::decode(bytes.as_slice()) else { return Ok(false) };
        if !tensor.is_external() {
            return Ok(false);
        }
        let location = entry(&tensor, "location").unwrap_or_default().to_owned();
        match self.read(&tensor, &location) {
            Ok(data) => tensor.raw_data = Some(data),
            Err(kind) => {
                return Err(ExternalDataError { tensor: tensor.name.unwrap_or_default(), location, kind });
            }
        }
        tensor.external_data.clear();
        tensor.data_location = None;
        *bytes = tensor.encode_to_vec();
        Ok(true)
    }

    fn read(&mut self, tensor: &Tensor, location: &str) -> Result<Vec<u8>, ExternalDataErrorKind> {
        let number = |key: &'static str| {
            let number =
                |value: &str| value.parse().map_err(|_| ExternalDataErrorKind::Number { key, value: value.to_owned() });
            entry(tensor, key).map(number).transpose()
        };
        let (offset, length) = (number("offset")?.unwrap_or(0u64), number("length")?);
        let (file, file_length) = match self.files.entry(location.to_owned()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(open_external(self.model, location)?),
        };
        let length = length.unwrap_or(file_length.saturating_sub(offset));
        if offset.checked_add(length).is_none_or(|end| end > *file_length) {
            return Err(ExternalDataErrorKind::Range { offset, length, file_length: *file_length });
        }
        self.budget = self.budget.checked_sub(length).ok_or(ExternalDataErrorKind::TooLarge)?;
        let mut data = vec![0; usize::try_from(length).map_err(|_| ExternalDataErrorKind::TooLarge)?];
        file.read_exact_at(&mut data, offset).map_err(ExternalDataErrorKind::Read)?;
        Ok(data)
    }
}

/// The value of an entry of a tensor's `external_data`.
fn entry<'a>(tensor: &'a Tensor, key: &str) -> Option<&'a str> {
    let entry = tensor.external_data.iter().find(|entry| entry.key.as_deref() == Some(key));
    entry.and_then(|entry| entry.value.as_deref())
}

/// Opens a file of external data, and returns it with its length.
fn open_external(model: &Path, location: &str) -> Result<(File, u64), ExternalDataErrorKind> {
    let relative = Path::new(location);
    let is_plain = |component: Component<'_>| matches!(component, Component::Normal(_) | Component::CurDir);
    if location.is_empty() || !relative.components().all(is_plain) {
        return Err(ExternalDataErrorKind::Location);
    }
    let canonical = |path: PathBuf| fs::canonicalize(path).map_err(ExternalDataErrorKind::Read);
    let directory_of = |model: &Path| match model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let directory = canonical(directory_of(model))?;
    // The model can be a link to a file that has its weights beside it.
    let target_directory = directory_of(&canonical(model.to_path_buf())?);
    let places = [&directory, &target_directory].map(|place| place.join(relative));
    let Some(place) = places.into_iter().find(|place| place.symlink_metadata().is_ok()) else {
        return Err(ExternalDataErrorKind::Missing { directory: target_directory });
    };
    let path = canonical(place)?;
    // In a download cache, model and data can both be links into one other directory.
    if !path.starts_with(&directory) && !path.starts_with(&target_directory) {
        return Err(ExternalDataErrorKind::OutsideDirectory);
    }
    // Opening a FIFO would block until another process writes to it.
    let metadata = fs::metadata(&path).map_err(ExternalDataErrorKind::Read)?;
    if !metadata.is_file() {
        return Err(ExternalDataErrorKind::Read(io::Error::other("it is not a regular file")));
    }
    let file = File::open(&path).map_err(ExternalDataErrorKind::Read)?;
    let length = file.metadata().map_err(ExternalDataErrorKind::Read)?.len();
    Ok((file, length))
}

#[cfg(test)]
mod tests {
    use super::super::StringEntry;
    use super::*;

    const MODEL: &str = ".fetch/models/retinaface_mnet025.onnx";

    /// The test model with its first initializer of raw data moved to `weights.bin` at offset 3,
    /// and the index of that initializer.
    fn with_external_data(directory: &Path) -> (Model, usize) {
        let mut model = Model::parse(&fs::read(MODEL).unwrap()).unwrap();
        let initializers = &mut model.graph.as_mut().unwrap().initializer;
        let decode = |bytes: &Vec<u8>| Tensor::decode(bytes.as_slice()).unwrap();
        let index = initializers.iter().position(|bytes| decode(bytes).raw_data.is_some()).unwrap();
        let mut tensor = decode(&initializers[index]);
        let data = tensor.raw_data.take().unwrap();
        fs::write(directory.join("model.onnx"), "").unwrap();
        fs::write(directory.join("weights.bin"), [&[1, 2, 3][..], &data].concat()).unwrap();
        let entry = |key: &str, value: String| StringEntry { key: Some(key.to_owned()), value: Some(value) };
        tensor.external_data = vec![
            entry("location", "weights.bin".to_owned()),
            entry("offset", "3".to_owned()),
            entry("length", data.len().to_string()),
        ];
        tensor.data_location = Some(1);
        initializers[index] = tensor.encode_to_vec();
        (model, index)
    }

    /// The error after `change` was applied to the tensor with external data.
    fn error_after(directory: &Path, change: impl FnOnce(&mut Tensor)) -> ExternalDataErrorKind {
        let (mut model, index) = with_external_data(directory);
        let bytes = &mut model.graph.as_mut().unwrap().initializer[index];
        let mut tensor = Tensor::decode(bytes.as_slice()).unwrap();
        change(&mut tensor);
        *bytes = tensor.encode_to_vec();
        let error = model.embed_external_data(&directory.join("model.onnx")).unwrap_err();
        assert_eq!(Some(&error.tensor), tensor.name.as_ref());
        error.kind
    }

    fn set(tensor: &mut Tensor, key: &str, value: &str) {
        let entry = tensor.external_data.iter_mut().find(|entry| entry.key.as_deref() == Some(key));
        entry.unwrap().value = Some(value.to_owned());
    }

    #[test]
    fn embedding_restores_the_model_with_internal_data() {
        let directory = tempfile::tempdir().unwrap();
        let original = Model::parse(&fs::read(MODEL).unwrap()).unwrap();
        let (mut model, _) = with_external_data(directory.path());
        assert_ne!(model, original);
        assert!(model.embed_external_data(&directory.path().join("model.onnx")).unwrap());
        assert_eq!(model, original);
        assert!(!model.embed_external_data(&directory.path().join("model.onnx")).unwrap(), "nothing is left to embed");
    }

    #[test]
    fn tensors_of_constant_nodes_and_subgraphs_are_embedded() {
        let directory = tempfile::tempdir().unwrap();
        let (model, index) = with_external_data(directory.path());
        let tensor = model.graph.unwrap().initializer[index].clone();
        let constant = |name: &str| {
            let attribute = Attribute { name: Some(name.to_owned()), t: Some(tensor.clone()), ..Attribute::default() };
            Node { attribute: vec![attribute], doc_string: Some("kept".to_owned()), ..Node::default() }
        };
        let body = Graph { node: vec![constant("inner").encode_to_vec()], ..Graph::default() };
        let attribute = Attribute { g: Some(body.encode_to_vec()), ..Attribute::default() };
        let branch = Node { attribute: vec![attribute], ..Node::default() };
        let node = vec![constant("outer").encode_to_vec(), branch.encode_to_vec()];
        let mut model = Model { graph: Some(Graph { node, ..Graph::default() }), ..Model::default() };
        assert!(model.embed_external_data(&directory.path().join("model.onnx")).unwrap());
        let nodes = model.graph.unwrap().node;
        let [outer, branch] = [0, 1].map(|index| Node::decode(nodes[index].as_slice()).unwrap());
        let body = Graph::decode(branch.attribute[0].g.as_deref().unwrap()).unwrap();
        for node in [outer, Node::decode(body.node[0].as_slice()).unwrap()] {
            let tensor = Tensor::decode(node.attribute[0].t.as_deref().unwrap()).unwrap();
            assert!(tensor.raw_data.is_some() && !tensor.is_external());
            assert_eq!(node.doc_string.as_deref(), Some("kept"));
        }
    }

    #[test]
    fn locations_outside_of_the_directory_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for location in ["../weights.bin", "/etc/passwd", "", "a/../../weights.bin"] {
            let error = error_after(directory.path(), |tensor| set(tensor, "location", location));
            assert!(matches!(error, ExternalDataErrorKind::Location), "{location}: {error}");
        }
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link.bin")).unwrap();
        let error = error_after(directory.path(), |tensor| set(tensor, "location", "link.bin"));
        assert!(matches!(error, ExternalDataErrorKind::OutsideDirectory), "{error}");
    }

    #[test]
    fn model_and_data_can_be_links_into_one_directory() {
        let directory = tempfile::tempdir().unwrap();
        let [blobs, snapshot] = ["blobs", "snapshot"].map(|name| directory.path().join(name));
        fs::create_dir(&blobs).unwrap();
        fs::create_dir(&snapshot).unwrap();
        let (mut model, _) = with_external_data(&blobs);
        for name in ["model.onnx", "weights.bin"] {
            std::os::unix::fs::symlink(format!("../blobs/{name}"), snapshot.join(name)).unwrap();
        }
        assert!(model.embed_external_data(&snapshot.join("model.onnx")).unwrap());
    }

    #[test]
    fn a_link_to_a_model_finds_the_weights_beside_the_model() {
        let directory = tempfile::tempdir().unwrap();
        let [models, links] = ["models", "links"].map(|name| directory.path().join(name));
        fs::create_dir(&models).unwrap();
        fs::create_dir(&links).unwrap();
        fs::write(models.join("model.onnx"), "").unwrap();
        let (mut model, _) = with_external_data(&models);
        std::os::unix::fs::symlink("../models/model.onnx", links.join("first.onnx")).unwrap();
        std::os::unix::fs::symlink("first.onnx", links.join("second.onnx")).unwrap();
        assert!(model.clone().embed_external_data(&links.join("first.onnx")).unwrap());
        assert!(model.clone().embed_external_data(&links.join("second.onnx")).unwrap());
        // Weights beside the link come first: these are too short.
        fs::write(links.join("weights.bin"), "").unwrap();
        let error = model.embed_external_data(&links.join("second.onnx")).unwrap_err();
        assert!(matches!(error.kind, ExternalDataErrorKind::Range { .. }), "{error}");
    }

    #[test]
    fn deeply_nested_subgraphs_are_an_error() {
        let nested = |depth: usize| {
            let mut graph = Graph::default();
            for _ in 0..depth {
                let attribute = Attribute { g: Some(graph.encode_to_vec()), ..Attribute::default() };
                let node = Node { attribute: vec![attribute], ..Node::default() };
                graph = Graph { node: vec![node.encode_to_vec()], ..Graph::default() };
            }
            Model { graph: Some(graph), ..Model::default() }.embed_external_data(Path::new("model.onnx"))
        };
        assert!(!nested(MAX_GRAPH_DEPTH).unwrap());
        for depth in [MAX_GRAPH_DEPTH + 1, 2000] {
            let error = nested(depth).unwrap_err();
            assert!(matches!(error.kind, ExternalDataErrorKind::TooDeep), "{error}");
        }
    }

    #[test]
    fn missing_files_and_invalid_ranges_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let error = error_after(directory.path(), |tensor| set(tensor, "location", "missing.bin"));
        assert!(matches!(&error, ExternalDataErrorKind::Missing { .. }), "{error}");
        assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
        let error = error_after(directory.path(), |tensor| set(tensor, "location", "."));
        assert!(error.to_string().contains("not a regular file"), "{error}");
        let error = error_after(directory.path(), |tensor| set(tensor, "offset", "-1"));
        assert!(matches!(&error, ExternalDataErrorKind::Number { key: "offset", .. }), "{error}");
        for (key, value) in [("offset", "4"), ("offset", "18446744073709551615"), ("length", "99999999999")] {
            let error = error_after(directory.path(), |tensor| set(tensor, key, value));
            assert!(matches!(error, ExternalDataErrorKind::Range { .. }), "{key}={value}: {error}");
        }
    }

    #[test]
    fn data_that_exceeds_the_limit_of_protocol_buffers_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = error_after(directory.path(), |tensor| {
            // A sparse file.
            File::create(directory.path().join("weights.bin")).unwrap().set_len(3 << 30).unwrap();
            set(tensor, "length", &(2u64 << 30).to_string());
        });
        assert!(matches!(error, ExternalDataErrorKind::TooLarge), "{error}");
    }
}
