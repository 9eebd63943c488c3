//! Where lines go: a file, a pipe or standard output.

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

/// Held for a whole line on standard output, which several elements of a process may share.
static STDOUT: Mutex<()> = Mutex::new(());

/// How often a write that waits for a slow reader looks whether it should give up, in ms.
const LOOK_EVERY: u8 = 50;
/// A pipe that is ready takes this much without blocking (POSIX's least PIPE_BUF is less, Linux's is this).
const CHUNK: usize = 4096;

/// A writer that has no buffer of its own, and looks every [`LOOK_EVERY`] whether it should give up on a reader that
/// takes nothing.
#[derive(Debug)]
pub(super) struct LineSink {
    file: File,
    is_stdout: bool,
    /// The rest of a line that was given up on when a part of it was out: it goes before the next.
    tail: Vec<u8>,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All of it went out.
    Whole,
    /// The writer was told to give up while the reader took nothing.
    GivenUp,
}

impl LineSink {
    /// Opens `location` anew; `None` is standard output.
    ///
    /// # Errors
    /// If it cannot be opened; for a named pipe, if nothing reads it yet.
    pub(super) fn open(location: Option<&Path>) -> io::Result<Self> {
        let file = match location {
            // Without O_NONBLOCK, opening a named pipe that nobody reads would wait for ever.
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

    /// Writes a whole line and hands it to the system; gives up once `stop` says so and the reader takes nothing.
    ///
    /// # Errors
    /// What the system says of a full disk, a closed pipe and the like. Part of the line may be out then.
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
        // Given up on before its first byte was out, the line is dropped; else its rest goes before the next one.
        if sent <= tail {
            self.tail.truncate(tail);
        }
        self.tail.drain(..sent.min(self.tail.len()));
        result
    }
}

/// Sends all of `bytes`, counting in `sent`.
fn send(file: &mut File, bytes: &[u8], sent: &mut usize, stop: impl Fn() -> bool) -> io::Result<Written> {
    while *sent < bytes.len() {
        let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut ready, PollTimeout::from(LOOK_EVERY)) {
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
    use std::time::Instant;

    #[test]
    fn a_closed_pipe_is_an_error_and_not_a_signal() {
        // Rust ignores SIGPIPE in its own programs; under gst-launch-1.0 it kills, so that is set here.
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
    fn a_reader_that_takes_nothing_holds_the_writer_only_until_it_is_told_to_stop_and_no_line_is_torn() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = LineSink::from(OwnedFd::from(writer));
        let line = |number: usize| format!("{number} {}\n", "x".repeat(9000));
        let start = Instant::now();
        // A pipe holds 64 KiB; the line that finds it full gives up, half of it out.
        let whole =
            (0..1000).take_while(|number| sink.write(&line(*number), || true).unwrap() == Written::Whole).count();
        assert!(whole < 20 && start.elapsed() < Duration::from_secs(10));
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
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = LineSink::open(Some(&pipe)).unwrap_err();
        assert!(error.to_string().contains("start its reader first"), "{error}");
    }
}
