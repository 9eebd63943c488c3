//! Writing files atomically.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A file beside `path` that takes its place when it is complete. It is removed if it is dropped
/// before.
pub(crate) struct PartialFile {
    temporary: PathBuf,
    path: PathBuf,
}

impl PartialFile {
    /// Creates an empty file.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let mut name = OsString::from(".");
        name.push(path.file_name().with_context(|| format!("{} is not a file name", path.display()))?);
        name.push(format!(".{}.partial", std::process::id()));
        let temporary = path.with_file_name(name);
        fs::write(&temporary, []).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { temporary, path: path.to_path_buf() })
    }

    /// Where the content is written until it is complete.
    pub(crate) fn partial_path(&self) -> &Path {
        &self.temporary
    }

    /// Gives the file its name, in place of the file that has it.
    pub(crate) fn persist(self) -> anyhow::Result<()> {
        fs::rename(&self.temporary, &self.path).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        // Fails after a rename. Of an error, the caller needs the first one.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Writes to a temporary file in the same directory and renames it, so that readers never see a
/// partly written file, not even when two processes write it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let file = PartialFile::create(path)?;
    fs::write(file.partial_path(), bytes).with_context(|| format!("cannot write {}", path.display()))?;
    file.persist()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_completely_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.txt");
        write(&file, b"first").unwrap();
        write(&file, b"second").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"second");
        // A directory has the name of the file: the rename fails, and the temporary file is
        // removed.
        let taken = directory.path().join("taken");
        fs::create_dir_all(taken.join("full")).unwrap();
        let error = write(&taken, b"x").unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.ends_with("taken"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(write(Path::new("/"), b"x").is_err());
    }
}
