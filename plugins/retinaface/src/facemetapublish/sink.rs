//! The destination of lines: a file, a pipe or standard output.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Held for a whole line on standard output, which several elements of a process can share.
static STDOUT: Mutex<()> = Mutex::new(());

/// Interval in ms at which a write that waits for a slow reader checks whether it must give up.
const POLL_INTERVAL_MS: u8 = 50;
/// A pipe that is ready accepts this many bytes without blocking: PIPE_BUF on Linux.
const CHUNK: usize = 4096;

/// An unbuffered writer that gives up on a reader that reads nothing, when it is told to.
#[derive(Debug)]
pub(super) struct LineSink {
    file: File,
    is_stdout: bool,
    /// The rest of a line that was partly written when the writer gave up. It is written before the
    /// next line.
    tail: Vec<u8>,
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// The whole line was written.
    Whole,
    /// The writer gave up because the reader read nothing.
    GivenUp,
}

impl LineSink {
    /// Opens and truncates `location`; `None` is standard output.
    ///
    /// # Errors
    /// If it cannot be opened; for a named pipe, if nothing reads it yet.
    pub(super) fn open(location: Option<&Path>) -> io::Result<Self> {
        let file = match location {
            // Without O_NONBLOCK, opening a named pipe without a reader blocks.
            Some(path) => {
                let opened =
                    OpenOptions::new().write(true).create(true).truncate(true).custom_flags(O_NONBLOCK).open(path);
                opened.map_err(|error| match error.raw_os_error() {
                    Some(code) if code == Errno::ENXIO as i32 => {
                        io::Error::other("nothing reads this pipe: start its reader first")
                    }
                    _ => error,
                })?
            }
            None => File::from(io::stdout().as_fd().try_clone_to_owned()?),
        };
        Ok(Self { file, is_stdout: location.is_none(), tail: Vec::new() })
    }

    /// Writes a whole line. Gives up if `stop` returns true while the reader reads nothing.
    ///
    /// # Errors
    /// The system's error, such as a full disk or a closed pipe. A part of the line can be written
    /// by then.
    pub(super) fn write(&mut self, line: &str, stop: impl Fn() -> bool) -> io::Result<Written> {
        let _stdout = loop {
            if !self.is_stdout {
                break None;
            }
            match STDOUT.try_lock() {
                Ok(guard) => break Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if stop() => return Ok(Written::GivenUp),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let tail = self.tail.len();
        self.tail.extend_from_slice(line.as_bytes());
        let mut sent = 0;
        let result = without_sigpipe(|| send(&mut self.file, &self.tail, &mut sent, stop));
        // A line of which nothing was written is dropped; the rest of a partly written one is kept.
        if sent <= tail {
            self.tail.truncate(tail);
        }
        self.tail.drain(..sent.min(self.tail.len()));
        result
    }
}

/// Writes all of `bytes`; `sent` counts them.
fn send(file: &mut File, bytes: &[u8], sent: &mut usize, stop: impl Fn() -> bool) -> io::Result<Written> {
    while *sent < bytes.len() {
        let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut ready, PollTimeout::from(POLL_INTERVAL_MS)) {
            Ok(0) if stop() => return Ok(Written::GivenUp),
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let rest = &bytes[*sent..];
        match file.write(&rest[..rest.len().min(CHUNK)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *sent += written,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Written::Whole)
}

impl From<OwnedFd> for LineSink {
    fn from(fd: OwnedFd) -> Self {
        Self { file: File::from(fd), is_stdout: false, tail: Vec::new() }
    }
}

/// Keeps a closed pipe from killing the process: SIGPIPE is blocked on this thread during the
/// write, and consumed if the write raised it. A plugin must not change the signal's action for the
/// whole process.
fn without_sigpipe<T>(write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let pipe = SigSet::from(Signal::SIGPIPE);
    let before = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let result = write();
    let raised = matches!(&result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
    if raised && !before.contains(Signal::SIGPIPE) {
        // The signal is pending on this thread, so this returns at once.
        pipe.wait()?;
    }
    before.thread_set_mask()?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_an_error_and_not_a_signal() {
        // Rust programs ignore SIGPIPE, but gst-launch-1.0 does not.
        #[expect(unsafe_code, reason = "installs the default action, which no other test relies on")]
        unsafe {
            nix::sys::signal::signal(Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl).unwrap();
        }
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = LineSink::from(OwnedFd::from(writer));
        for _ in 0..2 {
            let error = sink.write("line\n", || false).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
        let blocked = SigSet::thread_get_mask().unwrap().contains(Signal::SIGPIPE);
        assert!(!blocked, "the thread's signals are as before");
    }

    #[test]
    fn a_reader_that_reads_nothing_blocks_the_writer_only_until_it_must_stop_and_no_line_is_torn() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = LineSink::from(OwnedFd::from(writer));
        let line = |number: usize| format!("{number} {}\n", "x".repeat(9000));
        // A pipe holds 64 KiB. The line that finds it full is partly written.
        let whole =
            (0..1000).take_while(|number| sink.write(&line(*number), || true).unwrap() == Written::Whole).count();
        assert!(whole < 20);
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            io::Read::read_to_string(&mut reader, &mut text).map(|_| text)
        });
        assert_eq!(sink.write(&line(1000), || false).unwrap(), Written::Whole);
        drop(sink);
        let text = reading.join().unwrap().unwrap();
        let numbers = text.lines().map(|line| {
            let (number, rest) = line.split_once(' ').unwrap();
            assert_eq!(rest.len(), 9000, "line {number} is whole");
            number.parse::<usize>().unwrap()
        });
        let numbers = numbers.collect::<Vec<_>>();
        assert!(numbers.is_sorted() && numbers.last() == Some(&1000) && numbers.len() > whole, "{numbers:?}");
    }

    #[test]
    fn a_named_pipe_without_a_reader_is_an_error_and_not_a_wait() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = LineSink::open(Some(&pipe)).unwrap_err();
        assert!(error.to_string().contains("start its reader first"), "{error}");
    }
}
