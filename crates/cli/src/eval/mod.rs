//! `retinaface eval`: how good a detector is, on pictures whose faces are known.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::Outcome;

mod landmarks;
mod matlab;
mod nme;
mod plot;
mod predict;
mod predictions;
mod protocol;
mod truth;
mod widerface;

#[derive(Debug, Args)]
pub(super) struct Eval {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Average precision of detections on WIDER FACE's validation set, by its official protocol
    #[command(name = "widerface")]
    WiderFace(widerface::WiderFace),
    /// Detect the faces of all pictures of a folder, and write them as WIDER FACE's tools read them
    #[command(after_help = "Exit status: 0 if each picture was read, 2 on an error.")]
    Predict(predict::Predict),
    /// How far landmarks are from the true ones, in parts of the distance of the eyes
    Landmarks(landmarks::Landmarks),
}

impl Eval {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        match &self.what {
            What::WiderFace(command) => command.run(),
            What::Predict(command) => command.run(),
            What::Landmarks(command) => command.run(),
        }
    }
}

/// Writes a file so that nobody ever sees a part of it: under another name first.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().with_context(|| format!("{} names no file", path.display()))?);
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .inspect_err(|_| {
            // What counts is the first error.
            let _ = fs::remove_file(&partial);
        })
        .with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.txt");
        write_whole(&file, b"first").unwrap();
        write_whole(&file, b"second").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"second");
        // A folder is in its place: nothing is left behind.
        let taken = folder.path().join("taken");
        fs::create_dir_all(taken.join("full")).unwrap();
        assert!(write_whole(&taken, b"x").unwrap_err().to_string().contains("taken cannot be written"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(write_whole(Path::new("/"), b"x").is_err());
    }
}
