//! How a command ends, its messages on standard error, and its progress bar.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::{LevelFilter, Log, Metadata, Record};
use retinaface::inference::BackendInfo;

use crate::stderr;

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

/// Prints a message on standard error, after the lines of libraries that it does not repeat.
pub(crate) fn report(message: &str) {
    LIBRARIES.flush(message);
    stderr::write_line(&format!("retinaface: {message}"));
}

/// An error with its causes, without those that the text before already has.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
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
    const REDRAWS_PER_SECOND: u8 = 20;
    // Not indicatif's own target: while a decoder runs, file descriptor 2 is redirected.
    let terminal = File::open("/dev/null").ok().zip(stderr::original());
    let target = terminal.map_or_else(ProgressDrawTarget::hidden, |(input, output)| {
        ProgressDrawTarget::term(console::Term::read_write_pair(input, output), REDRAWS_PER_SECOND)
    });
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta} {msg}");
    ProgressBar::with_draw_target(Some(images as u64), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The error lines of libraries, above all of ONNX Runtime, and the warnings of the core library.
static LIBRARIES: LibraryLog = LibraryLog(Mutex::new(Lines { waiting: Vec::new(), reported: Vec::new() }));

/// Receives the lines that libraries log, so that they become messages of the program.
///
/// A library often logs an error and also returns it. So a line waits for the next message and is
/// left out if the message contains it.
struct LibraryLog(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    waiting: Vec<String>,
    /// Lines that were printed or are part of a message.
    reported: Vec<String>,
}

/// Makes the error lines of libraries messages of the program. [`flush_libraries`] must be called at
/// the end.
pub(crate) fn receive_library_lines() {
    // Fails only if the program has set a logger before.
    if log::set_logger(&LIBRARIES).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// Prints the lines of libraries that still wait.
pub(crate) fn flush_libraries() {
    LIBRARIES.flush("");
}

impl LibraryLog {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self, message: &str) {
        let mut lines = self.lines();
        for line in lines.take_new(message) {
            stderr::write_line(&format!("retinaface: {line}"));
        }
    }
}

impl Lines {
    /// The waiting lines that `message` does not contain and that were not reported before.
    fn take_new(&mut self, message: &str) -> Vec<String> {
        let mut new = Vec::new();
        for line in std::mem::take(&mut self.waiting) {
            if self.reported.contains(&line) {
                continue;
            }
            let (_, text) = line.split_once(": ").unwrap_or(("", &line));
            if !message.contains(text) {
                new.push(line.clone());
            }
            self.reported.push(line);
        }
        new
    }
}

impl Log for LibraryLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= LevelFilter::Error || is_own(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = if is_own(record.target()) {
                record.args().to_string()
            } else {
                format!("{}: {}", record.target(), record.args())
            };
            self.lines().waiting.push(line);
        }
    }

    fn flush(&self) {}
}

/// Whether a line comes from the core library.
fn is_own(target: &str) -> bool {
    target.split("::").next() == Some("retinaface")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_part_of_a_message_or_repeats_is_not_printed() {
        let mut lines = Lines::default();
        let log = |lines: &mut Lines, text: &str| lines.waiting.push(format!("onnxruntime: {text}"));
        log(&mut lines, "Reshape failed");
        log(&mut lines, "libcublas.so is missing");
        log(&mut lines, "libcublas.so is missing");
        assert_eq!(
            lines.take_new("model a.onnx does not run: Reshape failed"),
            ["onnxruntime: libcublas.so is missing"]
        );
        log(&mut lines, "libcublas.so is missing");
        log(&mut lines, "Reshape failed");
        assert_eq!(lines.take_new(""), [""; 0]);
        log(&mut lines, "another");
        assert_eq!(lines.take_new(""), ["onnxruntime: another"]);
    }
}
