//! Where lines go: a file, a pipe or standard output.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// A writer that has no buffer of its own.
#[derive(Debug)]
pub(super) enum LineSink {
    File(File),
    Stdout(io::Stdout),
}

impl LineSink {
    /// Opens `location` anew; `None` is standard output.
    pub(super) fn open(location: Option<&Path>) -> io::Result<Self> {
        match location {
            Some(path) => File::create(path).map(Self::File),
            None => Ok(Self::Stdout(io::stdout())),
        }
    }

    /// Writes a whole line and hands it to the system.
    pub(super) fn write(&mut self, line: &str) -> io::Result<()> {
        without_sigpipe(|| match self {
            Self::File(file) => file.write_all(line.as_bytes()),
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(line.as_bytes())?;
                stdout.flush()
            }
        })
    }
}

/// Keeps a closed pipe from killing the process: the signal is held back on this thread during the
/// write, and taken away if the write raised it. A plugin must not change it for the whole process.
fn without_sigpipe<T>(write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let pipe = SigSet::from(Signal::SIGPIPE);
    let before = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let result = write();
    let raised = matches!(&result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
    if raised && !before.contains(Signal::SIGPIPE) {
        // Pending on this thread, so this returns at once.
        pipe.wait()?;
    }
    before.thread_set_mask()?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_closed_pipe_is_an_error_and_not_a_signal() {
        // Rust ignores SIGPIPE in its own programs; under gst-launch-1.0 it kills, so that is set here.
        #[expect(unsafe_code, reason = "installs the default action, which no other test relies on")]
        unsafe {
            nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl).unwrap();
        }
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = LineSink::File(File::from(OwnedFd::from(writer)));
        for _ in 0..2 {
            assert_eq!(sink.write("line\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
        let blocked = SigSet::thread_get_mask().unwrap().contains(Signal::SIGPIPE);
        assert!(!blocked, "the thread's signals are as before");
    }
}
