//! Standard error: the program's own messages, and what libraries write to it.
//!
//! libpng, libjpeg and parts of OpenCV write straight to file descriptor 2. While a library runs
//! that does so, [`capture`] redirects the descriptor to memory. The program's messages go to a
//! duplicate of the descriptor, so that a redirection on another thread does not take them.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::dup2_stderr;

/// Maximum number of lines that [`capture`] returns: a damaged file can cause thousands.
const MAX_LINES: usize = 5;
/// Maximum number of bytes that [`capture`] reads.
const MAX_BYTES: u64 = 64 << 10;

/// The original standard error; `None` if it is closed.
static ORIGINAL: LazyLock<Option<File>> =
    LazyLock::new(|| io::stderr().as_fd().try_clone_to_owned().ok().map(File::from));

/// Writes one line to the original standard error. If it is closed, there is no other place for the
/// line.
pub(crate) fn write_line(line: &str) {
    if let Some(mut original) = ORIGINAL.as_ref() {
        let _ = original.write_all(format!("{line}\n").as_bytes());
    }
}

/// Another handle of the original standard error.
pub(crate) fn original() -> Option<File> {
    ORIGINAL.as_ref()?.try_clone().ok()
}

/// Runs `body`. Returns its result and the different lines that it wrote to standard error, without
/// colour codes.
pub(crate) fn capture<T>(body: impl FnOnce() -> T) -> (T, Vec<String>) {
    static REDIRECTED: Mutex<()> = Mutex::new(());
    let _one_at_a_time = REDIRECTED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(redirection) = Redirection::start() else {
        // Then the lines stay on standard error.
        return (body(), Vec::new());
    };
    let result = body();
    (result, redirection.lines())
}

/// File descriptor 2 is `memory` until this is dropped.
struct Redirection {
    original: &'static File,
    memory: File,
}

impl Redirection {
    fn start() -> Option<Self> {
        let original = ORIGINAL.as_ref()?;
        let memory = File::from(memfd_create("retinaface-stderr", MFdFlags::MFD_CLOEXEC).ok()?);
        dup2_stderr(&memory).ok()?;
        Some(Self { original, memory })
    }

    fn lines(self) -> Vec<String> {
        let mut bytes = Vec::new();
        // What cannot be read is lost, as on a closed standard error.
        let _ = (&self.memory).rewind().and_then(|()| (&self.memory).take(MAX_BYTES).read_to_end(&mut bytes));
        lines_of(&String::from_utf8_lossy(&bytes))
    }
}

impl Drop for Redirection {
    fn drop(&mut self) {
        // The descriptors are open, so that this cannot fail.
        let _ = dup2_stderr(self.original);
    }
}

/// The different lines of a text, without colour codes and blank lines.
fn lines_of(text: &str) -> Vec<String> {
    let plain = console::strip_ansi_codes(text);
    let mut seen = HashSet::new();
    let lines = plain.lines().map(str::trim).filter(|line| !line.is_empty() && seen.insert(*line));
    lines.take(MAX_LINES).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_captured_once_without_colours() {
        let ((), lines) = capture(|| {
            // As a library: not through Rust's standard library, whose output tests capture.
            let mut library = File::from(io::stderr().as_fd().try_clone_to_owned().unwrap());
            library.write_all(b"\x1B[1;31mlibpng error\x1B[m\n\nlibpng error\n second \n").unwrap();
        });
        assert_eq!(lines, ["libpng error", "second"]);
        let ((), lines) = capture(|| {});
        assert_eq!(lines, [""; 0]);
        assert_eq!(lines_of(&(0..100).map(|line| format!("{line}\n")).collect::<String>()).len(), MAX_LINES);
    }

    #[test]
    fn standard_error_is_restored_after_a_panic() {
        let target =
            |file: &dyn std::os::fd::AsRawFd| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let before = target(&io::stderr()).unwrap();
        let result = std::panic::catch_unwind(|| capture(|| panic!("in a decoder")));
        assert!(result.is_err());
        assert_eq!(target(&io::stderr()).unwrap(), before);
    }
}
