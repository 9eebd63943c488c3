//! The files of each sequence, and reading them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::tracks::Tracks;
use super::{json_lines, mot};

/// The extension of files with JSON lines.
const JSON_LINES: &str = "jsonl";

/// The files of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SequenceFiles {
    pub(super) name: String,
    pub(super) truth: PathBuf,
    pub(super) predictions: PathBuf,
}

impl SequenceFiles {
    /// The sequences of two files, or of two directories in the order of their names.
    pub(super) fn find(truth: &Path, predictions: &Path) -> anyhow::Result<Vec<Self>> {
        let is_directory = |option: &str, path: &Path| {
            let metadata = fs::metadata(path).with_context(|| format!("cannot read {} ({option})", path.display()))?;
            anyhow::Ok(metadata.is_dir())
        };
        match (is_directory("--truth", truth)?, is_directory("--predictions", predictions)?) {
            (true, true) => Self::in_directories(truth, predictions),
            (false, false) => {
                Ok(vec![Self { name: name(truth), truth: truth.to_owned(), predictions: predictions.to_owned() }])
            }
            (is_directory, _) => {
                let (directory, file) = if is_directory { (truth, predictions) } else { (predictions, truth) };
                bail!(
                    "{} is a directory, but {} is a file: give two files or two directories",
                    directory.display(),
                    file.display()
                )
            }
        }
    }

    fn in_directories(truth: &Path, predictions: &Path) -> anyhow::Result<Vec<Self>> {
        let truths = list(truth, |path| {
            if path.is_dir() {
                Some(path.join("gt/gt.txt")).filter(|path| path.is_file())
            } else {
                has_extension(path, "txt").then(|| path.to_owned())
            }
        })?;
        ensure!(
            !truths.is_empty(),
            "{} has no sequences: --truth is the directory of files NAME.txt or NAME/gt/gt.txt",
            truth.display()
        );
        let is_tracks = |path: &Path| has_extension(path, "txt") || has_extension(path, JSON_LINES);
        let mut tracks = list(predictions, |path| (path.is_file() && is_tracks(path)).then(|| path.to_owned()))?;
        let mut sequences = Vec::new();
        for (name, truth) in truths {
            let predictions = tracks.remove(&name).with_context(|| {
                format!(
                    "{name} has a truth ({}) but no predictions: {} needs {name}.txt or {name}.jsonl, which may be empty",
                    truth.display(),
                    predictions.display()
                )
            })?;
            sequences.push(Self { name, truth, predictions });
        }
        if let Some((name, file)) = tracks.first_key_value() {
            bail!(
                "{name} has predictions ({}) but no truth: {} needs {name}.txt or {name}/gt/gt.txt, or remove the \
                 predictions",
                file.display(),
                truth.display()
            );
        }
        Ok(sequences)
    }

    pub(super) fn read(&self) -> anyhow::Result<(Tracks, Tracks)> {
        let parse =
            if has_extension(&self.predictions, JSON_LINES) { json_lines::parse } else { mot::parse_predictions };
        Ok((read(&self.truth, mot::parse_truth)?, read(&self.predictions, parse)?))
    }
}

fn read(path: &Path, parse: fn(&str) -> anyhow::Result<Tracks>) -> anyhow::Result<Tracks> {
    let file = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read {file}"))?;
    let text = str::from_utf8(&bytes).with_context(|| format!("{file} is not UTF-8 text"))?;
    parse(text).with_context(|| file.to_string())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|own| own.eq_ignore_ascii_case(extension))
}

/// The files of a directory that `file` selects, by the name of the sequence.
fn list(directory: &Path, file: impl Fn(&Path) -> Option<PathBuf>) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let context = || format!("cannot read the directory {}", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let Some(path) = file(&entry.with_context(context)?.path()) else { continue };
        let name = name(&path);
        if let Some(other) = files.insert(name.clone(), path.clone()) {
            bail!("{name} has two files, {} and {}: remove one", other.display(), path.display());
        }
    }
    Ok(files)
}

/// The name of a sequence: NAME of NAME/gt/gt.txt, otherwise the name of the file.
fn name(path: &Path) -> String {
    let in_layout = path.ends_with("gt/gt.txt");
    let own = if in_layout { path.ancestors().nth(2).and_then(Path::file_name) } else { path.file_stem() };
    own.or(path.file_stem()).map_or_else(String::new, |name: &OsStr| name.to_string_lossy().into_owned())
}
