//! Errors of this crate.

use std::path::PathBuf;

/// Why a sequence cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A photo cannot be read.
    #[error("{} cannot be read ({source}): run `make setup`, or name the directory of the photos", path.display())]
    Read {
        /// The file of the photo.
        path: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// A photo is not the one in which the positions of the faces are known.
    #[error(
        "{} has {}x{} pixels instead of {}x{}: it is not the photo that `make setup` fetches",
        path.display(), found.0, found.1, expected.0, expected.1
    )]
    Photo {
        /// The file of the photo.
        path: PathBuf,
        /// Width and height of the expected photo, in pixels.
        expected: (usize, usize),
        /// Width and height found; 0 if the file is not an image.
        found: (usize, usize),
    },
    /// A scenario has values that cannot be rendered.
    #[error("scenario {name} cannot be rendered: {problem}")]
    Scenario {
        /// Name of the scenario.
        name: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// The sequence has no frame with that index.
    #[error("there is no frame {index}: the sequence has {len} frames")]
    FrameIndex {
        /// The requested index.
        index: usize,
        /// Number of frames.
        len: usize,
    },
    /// An OpenCV function failed.
    #[error("OpenCV failed: {0}")]
    OpenCv(#[from] opencv::Error),
}
