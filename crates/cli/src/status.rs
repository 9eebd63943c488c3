//! How a command ends, its messages on standard error, and its progress bar.

use std::io::{self, Write as _};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use retinaface::inference::BackendInfo;

/// How a command that returned no error ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit status 0.
    Found,
    /// Exit status 1.
    Nothing,
    /// Exit status 2: some inputs failed, and the command has reported each error.
    Failed,
}

/// Prints a message on standard error.
pub(crate) fn report(message: &str) {
    // If standard error is closed, there is no other place for the message.
    let _ = writeln!(io::stderr(), "retinaface: {message}");
}

/// Prints a message about an input file on standard error.
pub(crate) fn report_input(input: &Path, message: &str) {
    report(&format!("{}: {message}", input.display()));
}

/// Prints notes about the backend on standard error, such as a fallback to the CPU.
pub(crate) fn report_notes(backend: &BackendInfo) {
    for note in &backend.notes {
        report(note);
    }
}

/// A progress bar over `images` images, hidden if standard error is not a terminal.
pub(crate) fn progress_bar(images: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta} {msg}");
    ProgressBar::new(images as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
