//! The directory of TensorRT's engine and timing caches.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Why there is no directory for TensorRT's engine cache.
///
/// Engines are executable code for the GPU, so that the directory must be private.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheDirError {
    /// The environment names no base directory.
    #[error("neither XDG_CACHE_HOME nor HOME is an absolute path; set XDG_CACHE_HOME to a private directory")]
    NoBase,
    /// The directory cannot be created or read.
    #[error("cache directory {path} cannot be created ({source}); set XDG_CACHE_HOME to a writable directory")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The path is a symbolic link or a file.
    #[error("cache directory {path} is not a directory but a link or file; remove it")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory belongs to another user.
    #[error("cache directory {path} belongs to user id {owner}; set XDG_CACHE_HOME to a directory of this user")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// User id of the owner.
        owner: u32,
    },
    /// The directory is accessible to other users and its permissions cannot be changed.
    #[error("permissions of cache directory {path} cannot be set to 0700 ({source}); set XDG_CACHE_HOME")]
    Permissions {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The directory of TensorRT's engine caches, `$XDG_CACHE_HOME/retinaface/tensorrt` or
/// `~/.cache/retinaface/tensorrt`; created if it does not exist.
///
/// # Errors
/// If no base directory is set, or the directory is not private: owned by the effective user, with
/// mode 0700 and not a symbolic link.
pub(crate) fn tensorrt_cache_dir() -> Result<PathBuf, CacheDirError> {
    private_cache_dir(&cache_base(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))?)
}

/// The base directory of caches, by the XDG base directory specification: relative paths are
/// ignored.
fn cache_base(xdg_cache_home: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, CacheDirError> {
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(xdg_cache_home).or_else(|| Some(absolute(home)?.join(".cache")));
    base.ok_or(CacheDirError::NoBase)
}

/// Creates the cache directory below `base`. Also its parent must be private: its owner could
/// replace the directory after the check.
fn private_cache_dir(base: &Path) -> Result<PathBuf, CacheDirError> {
    let parent = base.join("retinaface");
    let path = parent.join("tensorrt");
    make_private(&parent)?;
    make_private(&path)?;
    Ok(path)
}

/// Creates a directory, or checks that an existing one belongs to this user and takes it from all
/// others.
fn make_private(path: &Path) -> Result<(), CacheDirError> {
    const PRIVATE: u32 = 0o700;
    let path = path.to_path_buf();
    let create = |source| CacheDirError::Create { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(PRIVATE).create(&path).map_err(create)?;
    let metadata = fs::symlink_metadata(&path).map_err(create)?;
    if !metadata.is_dir() {
        return Err(CacheDirError::NotADirectory { path });
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(CacheDirError::Owner { path, owner: metadata.uid() });
    }
    if metadata.mode() & 0o077 != 0 {
        let set = fs::set_permissions(&path, Permissions::from_mode(PRIVATE));
        set.map_err(|source| CacheDirError::Permissions { path: path.clone(), source })?;
    }
    Ok(())
}

/// The name of the subdirectory of [`tensorrt_cache_dir`] for a model, shape, device and version of
/// ONNX Runtime. The file names in it contain the version of TensorRT and the architecture of the
/// GPU.
pub(crate) fn tensorrt_key(model: &[u8], shape: &impl Hash, device_id: u32, version: &str) -> String {
    let mut key = DefaultHasher::new();
    (model, device_id, version).hash(&mut key);
    shape.hash(&mut key);
    format!("{:016x}", key.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_key_depends_on_model_shape_device_and_version() {
        let first = tensorrt_key(b"model", &(640, 384), 0, "1.31.1");
        assert_eq!(first, tensorrt_key(b"model", &(640, 384), 0, "1.31.1"));
        let others = [
            tensorrt_key(b"other", &(640, 384), 0, "1.31.1"),
            tensorrt_key(b"model", &(640, 640), 0, "1.31.1"),
            tensorrt_key(b"model", &(640, 384), 1, "1.31.1"),
            tensorrt_key(b"model", &(640, 384), 0, "1.32.0"),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_cache_directory_is_created_private() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().join("cache");
        let path = private_cache_dir(&base).unwrap();
        assert_eq!(path, base.join("retinaface/tensorrt"));
        assert_eq!((mode(&path), mode(&base.join("retinaface"))), (0o700, 0o700));
        assert_eq!(private_cache_dir(&base).unwrap(), path, "an existing directory is reused");
    }

    #[test]
    fn permissions_for_other_users_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let path = private_cache_dir(base.path()).unwrap();
        for directory in [path.as_path(), path.parent().unwrap()] {
            fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
            private_cache_dir(base.path()).unwrap();
            assert_eq!(mode(directory), 0o700);
        }
    }

    #[test]
    fn a_link_or_file_is_not_used_as_cache_directory() {
        let (base, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = base.path().join("retinaface/tensorrt");
        fs::create_dir(base.path().join("retinaface")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &path).unwrap();
        let error = private_cache_dir(base.path()).unwrap_err();
        assert!(matches!(error, CacheDirError::NotADirectory { .. }), "{error}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        let error = private_cache_dir(base.path()).unwrap_err();
        assert!(matches!(error, CacheDirError::Create { .. }), "{error}");
        fs::remove_dir_all(base.path().join("retinaface")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), base.path().join("retinaface")).unwrap();
        let error = private_cache_dir(base.path()).unwrap_err();
        assert!(matches!(error, CacheDirError::NotADirectory { .. }), "{error}");
    }

    #[test]
    fn the_cache_base_follows_the_xdg_specification() {
        let base = |xdg: Option<&str>, home: Option<&str>| cache_base(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(base(Some("/cache"), Some("/home/a")).unwrap(), Path::new("/cache"));
        for ignored in [None, Some(""), Some("cache")] {
            assert_eq!(base(ignored, Some("/home/a")).unwrap(), Path::new("/home/a/.cache"));
            assert!(matches!(base(ignored, None), Err(CacheDirError::NoBase)));
            assert!(matches!(base(None, ignored), Err(CacheDirError::NoBase)));
        }
    }
}
