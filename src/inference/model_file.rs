//! A model file, read once.

use std::fmt;
use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;

use super::error::ModelError;
use crate::runtime::onnx::{self, MAX_MODEL_BYTES};

/// The bytes of a model file, with the weights that it keeps in other files.
///
/// The files are read once. The probe, every session and every later shape use these bytes, so that
/// a file that is replaced meanwhile cannot mix the weights of two models.
#[derive(Clone)]
pub struct ModelFile {
    path: PathBuf,
    bytes: Arc<Vec<u8>>,
    digest: ModelDigest,
}

/// A hash of a model's bytes. Models with equal digests have equal contents, whatever their files
/// are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModelDigest([u64; 3]);

impl ModelDigest {
    fn of(bytes: &[u8]) -> Self {
        // Two hashes with different prefixes, and the length: two models that differ do not collide
        // by chance.
        let hash = |prefix: u8| {
            let mut hasher = DefaultHasher::new();
            prefix.hash(&mut hasher);
            hasher.write(bytes);
            hasher.finish()
        };
        Self([bytes.len() as u64, hash(0), hash(1)])
    }
}

impl ModelFile {
    /// Reads `path` and the files with external weights that it names.
    ///
    /// # Errors
    /// If a file cannot be read, is not a regular file, or is longer than an ONNX file can be.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let read = |source| ModelError::Read { path: path.to_path_buf(), source };
        // Without O_NONBLOCK, opening a named pipe blocks until it has a writer.
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if metadata.is_dir() {
            return Err(read(io::ErrorKind::IsADirectory.into()));
        }
        // Some devices never end.
        if !metadata.is_file() {
            return Err(read(io::Error::other("it is not a regular file")));
        }
        let too_large = |bytes| ModelError::TooLarge { path: path.to_path_buf(), bytes };
        if metadata.len() > MAX_MODEL_BYTES {
            return Err(too_large(metadata.len()));
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        // The file can grow meanwhile.
        file.take(MAX_MODEL_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > MAX_MODEL_BYTES {
            return Err(too_large(bytes.len() as u64));
        }
        if let Some(complete) = with_external_data(path, &bytes)? {
            bytes = complete;
        }
        let digest = ModelDigest::of(&bytes);
        Ok(Self { path: path.to_path_buf(), bytes: Arc::new(bytes), digest })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A hash of the contents.
    pub fn digest(&self) -> ModelDigest {
        self.digest
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn shared_bytes(&self) -> Arc<Vec<u8>> {
        Arc::clone(&self.bytes)
    }
}

/// The model with its external weights in it, if it has any.
fn with_external_data(path: &Path, bytes: &[u8]) -> Result<Option<Vec<u8>>, ModelError> {
    // ONNX Runtime reports later what is wrong with a file that is not ONNX.
    let Ok(mut model) = onnx::Model::parse(bytes) else { return Ok(None) };
    match model.embed_external_data(path) {
        Ok(false) => Ok(None),
        Ok(true) => Ok(Some(model.encode_to_vec())),
        Err(source) => Err(ModelError::ExternalData { path: path.to_path_buf(), source }),
    }
}

impl fmt::Debug for ModelFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelFile").field("path", &self.path).field("bytes", &self.bytes.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn replacing_file_does_not_change_read_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.onnx");
        fs::write(&path, "first").unwrap();
        let first = ModelFile::read(&path).unwrap();
        fs::write(&path, "other").unwrap();
        let other = ModelFile::read(&path).unwrap();
        assert_eq!((first.bytes(), other.bytes()), (&b"first"[..], &b"other"[..]));
        assert_ne!(first.digest(), other.digest());
        fs::write(directory.path().join("copy.onnx"), "first").unwrap();
        assert_eq!(ModelFile::read(&directory.path().join("copy.onnx")).unwrap().digest(), first.digest());
    }

    #[test]
    fn only_regular_files_are_read() {
        let error = ModelFile::read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        let error = ModelFile::read(Path::new("/")).unwrap_err();
        assert!(matches!(&error, ModelError::Read { source, .. } if source.kind() == io::ErrorKind::IsADirectory));
    }
}
