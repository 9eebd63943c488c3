//! Runs each fuzz target on its corpus and on random changes of it.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::fs;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// A change of a file.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    FlipBit(Index, u8),
    /// Four bytes, as of a length or an offset.
    Number(Index, u32),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Continues with another file of the corpus.
    Splice(Index, Index),
    Truncate(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let number = prop_oneof![any::<u32>(), prop::sample::select(vec![0, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX])];
    prop_oneof![
        4 => any::<(Index, u8)>().prop_map(|(at, byte)| Change::Set(at, byte)),
        4 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Change::FlipBit(at, bit)),
        2 => (any::<Index>(), number).prop_map(|(at, number)| Change::Number(at, number)),
        2 => (any::<Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (any::<Index>(), 1..40usize).prop_map(|(at, len)| Change::Remove(at, len)),
        1 => any::<(Index, Index)>().prop_map(|(file, at)| Change::Splice(file, at)),
        1 => any::<Index>().prop_map(Change::Truncate),
    ]
}

fn apply(change: &Change, file: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = |index: &Index| index.index(file.len() + 1);
    match change {
        Change::Set(index, byte) => {
            let at = at(index);
            if let Some(target) = file.get_mut(at) {
                *target = *byte;
            }
        }
        Change::FlipBit(index, bit) => {
            let at = at(index);
            if let Some(target) = file.get_mut(at) {
                *target ^= 1 << bit;
            }
        }
        Change::Number(index, number) => {
            let at = at(index);
            file.iter_mut().skip(at).zip(number.to_le_bytes()).for_each(|(target, byte)| *target = byte);
        }
        Change::Insert(index, bytes) => {
            let at = at(index);
            file.splice(at..at, bytes.iter().copied());
        }
        Change::Remove(index, len) => {
            let at = at(index);
            file.drain(at..(at + len).min(file.len()));
        }
        Change::Splice(other, index) => {
            let (at, other) = (at(index), &corpus[other.index(corpus.len())]);
            file.truncate(at);
            file.extend_from_slice(&other[at.min(other.len())..]);
        }
        Change::Truncate(index) => {
            let at = at(index);
            file.truncate(at);
        }
    }
}

/// Runs a target on the files in `directories` below the project, and on `cases` changes of them.
fn smoke(target: fn(&[u8]), directories: &[&str], cases: u32) {
    let mut files = directories.iter().flat_map(|directory| {
        let directory = retinaface_fuzz::root().join(directory);
        let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_none_or(|name| name != "py"))
    });
    let mut files = files.by_ref().collect::<Vec<PathBuf>>();
    files.sort();
    assert!(files.len() >= 3, "{directories:?} have {} files", files.len());
    let corpus = files.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
    for (path, file) in files.iter().zip(&corpus) {
        eprintln!("{}", path.display());
        target(file);
    }
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let strategy = (0..corpus.len(), vec(change(), 1..8));
    let result = runner.run(&strategy, |(index, changes)| {
        let mut file = corpus[index].clone();
        changes.iter().for_each(|change| apply(change, &mut file, &corpus));
        target(&file);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}; the files by index: {files:#?}"));
}

#[test]
fn frames_with_any_memory_and_metas_are_refused_or_processed() {
    smoke(retinaface_fuzz::frame, &["fuzz/corpus/frame"], 400);
}

#[test]
fn damaged_image_files_have_a_valid_orientation() {
    smoke(retinaface_fuzz::image_file, &["fuzz/corpus/image_file"], 2000);
}

#[test]
fn only_a_line_that_this_library_began_is_unfinished() {
    smoke(retinaface_fuzz::json_line, &["fuzz/corpus/json_line"], 2000);
}

#[test]
fn damaged_mat_files_are_errors() {
    smoke(retinaface_fuzz::mat_file, &["fuzz/corpus/mat_file"], 2000);
}

#[test]
fn damaged_models_are_errors_or_run() {
    smoke(retinaface_fuzz::model, &["tests/fixtures/models", "fuzz/corpus/model"], 150);
}

#[test]
fn damaged_graphs_are_rewritten_or_left_alone() {
    smoke(retinaface_fuzz::model_graph, &["tests/fixtures/models", "fuzz/corpus/model"], 2000);
}

#[test]
fn any_text_is_an_error_or_valid_model_options() {
    smoke(retinaface_fuzz::model_options, &["fuzz/corpus/model_options"], 2000);
}

#[test]
fn damaged_tracks_are_errors_or_have_finite_metrics() {
    smoke(retinaface_fuzz::tracks, &["fuzz/corpus/tracks"], 4000);
}

#[test]
fn any_text_is_an_error_or_valid_views() {
    smoke(retinaface_fuzz::views, &["fuzz/corpus/views"], 2000);
}
