//! The destination of lines: a file, a pipe or standard output.

use std::fs::{File, OpenOptions, TryLockError as FileLockError};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use retinaface::record;

/// Held for a whole line on standard output, which several elements of a process can share.
static STDOUT: Mutex<()> = Mutex::new(());

/// Interval in ms at which a write that waits for a slow reader checks whether it must give up.
const POLL_INTERVAL_MS: u8 = 50;
/// A pipe that is ready accepts this many bytes without blocking: PIPE_BUF on Linux.
const CHUNK: usize = 4096;
/// The end of an existing file is searched for an unfinished line of at most this many bytes.
const MAX_UNFINISHED_LINE: u64 = 16 << 20;

/// An unbuffered writer that gives up on a reader that reads nothing, when it is told to.
#[derive(Debug)]
pub(super) struct LineSink {
    file: File,
    is_stdout: bool,
    /// This writer holds the lock of the file.
    is_locked: bool,
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

/// Why a destination cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Another writer holds the lock of the file.
    Busy,
    /// The system's error.
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl LineSink {
    /// Opens `location`; `None` is standard output. A file is locked until the sink is dropped, and
    /// then truncated, or continued at its end if `append` is set. Returns the sink and what the
    /// user should know about the file.
    ///
    /// # Errors
    /// If it cannot be opened; for a named pipe, if nothing reads it yet; if another sink, of this
    /// process or of another one, writes the file.
    pub(super) fn open(location: Option<&Path>, append: bool) -> Result<(Self, Option<String>), OpenError> {
        let Some(path) = location else {
            let mut sink = Self::from(io::stdout().as_fd().try_clone_to_owned()?);
            sink.is_stdout = true;
            return Ok((sink, None));
        };
        // Without O_NONBLOCK, opening a named pipe without a reader blocks. With O_APPEND, every
        // line goes to the end, also after another program has truncated the file.
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            // A pipe that is open for reading, too, always has a reader.
            .read(append && path.is_file())
            .custom_flags(O_NONBLOCK)
            .open(path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(code) if code == Errno::ENXIO as i32 => {
                io::Error::other("nothing reads this pipe: start its reader first")
            }
            _ => error,
        })?;
        let mut sink = Self::from(OwnedFd::from(file));
        // Several writers may share a pipe or a device.
        if !sink.file.metadata()?.is_file() {
            return Ok((sink, None));
        }
        let mut note = None;
        match sink.file.try_lock() {
            Ok(()) => sink.is_locked = true,
            Err(FileLockError::WouldBlock) => return Err(OpenError::Busy),
            Err(FileLockError::Error(error)) => {
                let path = path.display();
                note = Some(format!(
                    "the file system cannot lock {path}: {error}; make sure that nothing else writes this file"
                ));
            }
        }
        // Only now: without the lock, these are another writer's lines.
        if !append {
            sink.file.set_len(0)?;
        } else if let Some(removed) = end_last_line(&sink.file)? {
            let removed =
                format!("an unfinished line of {removed} bytes was removed from the end of {}", path.display());
            note = Some(note.map_or(removed.clone(), |note| format!("{note}; {removed}")));
        }
        Ok((sink, note))
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
        Self { file: File::from(fd), is_stdout: false, is_locked: false, tail: Vec::new() }
    }
}

impl Drop for LineSink {
    fn drop(&mut self) {
        if self.is_locked {
            // Explicitly, because a forked child that still has the file open would keep the lock.
            let _ = self.file.unlock();
        }
    }
}

/// Makes sure that the next line starts on a line of its own: removes the beginning of a record, as
/// a killed process leaves it, and ends any other text with a newline. Returns the number of bytes
/// that were removed.
fn end_last_line(file: &File) -> io::Result<Option<u64>> {
    const BLOCK: u64 = 64 << 10;
    let end = file.metadata()?.len();
    let mut start = end;
    let mut last_line = Vec::new();
    while start > 0 && end - start < MAX_UNFINISHED_LINE {
        let from = start.saturating_sub(BLOCK);
        let mut block = vec![0; (start - from) as usize];
        file.read_exact_at(&mut block, from)?;
        let newline = block.iter().rposition(|byte| *byte == b'\n');
        last_line.splice(..0, block.drain(newline.map_or(0, |at| at + 1)..));
        start = from;
        if newline.is_some() {
            break;
        }
    }
    if last_line.is_empty() {
        return Ok(None);
    }
    if record::is_unfinished(&last_line) {
        file.set_len(end - last_line.len() as u64)?;
        return Ok(Some(last_line.len() as u64));
    }
    (&*file).write_all(b"\n")?;
    Ok(None)
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
        for append in [false, true] {
            let OpenError::Io(error) = LineSink::open(Some(&pipe), append).unwrap_err() else { panic!("not a file") };
            assert!(error.to_string().contains("start its reader first"), "{error}");
        }
    }

    fn open(path: &Path, append: bool) -> Result<LineSink, OpenError> {
        LineSink::open(Some(path), append).map(|(sink, _)| sink)
    }

    fn write(sink: &mut LineSink, line: &str) {
        assert_eq!(sink.write(line, || false).unwrap(), Written::Whole);
    }

    #[test]
    fn a_file_that_is_being_written_is_refused_and_keeps_its_lines() {
        let directory = tempfile::tempdir().unwrap();
        let name = |name: &str| directory.path().join(name);
        let mut first = open(&name("a"), false).unwrap();
        write(&mut first, "1\n");
        std::os::unix::fs::symlink("a", name("symlink")).unwrap();
        std::fs::hard_link(name("a"), name("hard link")).unwrap();
        for other in ["a", "symlink", "hard link"] {
            for append in [false, true] {
                assert!(matches!(open(&name(other), append), Err(OpenError::Busy)), "{other}");
            }
        }
        write(&mut first, "2\n");
        assert_eq!(std::fs::read_to_string(name("a")).unwrap(), "1\n2\n");
        // A copy of the descriptor, as a forked child has it, does not keep the lock.
        let _child = first.file.try_clone().unwrap();
        drop(first);
        write(&mut open(&name("symlink"), true).unwrap(), "3\n");
        assert_eq!(std::fs::read_to_string(name("a")).unwrap(), "1\n2\n3\n");
        drop(open(&name("hard link"), false).unwrap());
        assert_eq!(std::fs::read_to_string(name("a")).unwrap(), "");
    }

    #[test]
    fn two_writers_may_share_a_pipe() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(&pipe).unwrap();
        let (mut one, mut two) = (open(&pipe, false).unwrap(), open(&pipe, true).unwrap());
        write(&mut one, "1\n");
        write(&mut two, "2\n");
        let mut text = [0; 4];
        io::Read::read_exact(&mut &reader, &mut text).unwrap();
        assert_eq!(&text, b"1\n2\n");
    }

    #[test]
    fn an_unfinished_last_line_never_merges_with_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("faces.jsonl");
        let long = format!(r#"{{"schema":"retinaface.frame/1","stream":"{}""#, "x".repeat(200_000));
        // Before, and what stays of it.
        for (before, kept) in [
            ("", ""),
            ("old\n", "old\n"),
            ("old\n{\"sche", "old\n"),
            ("old\n{\"schema\":\"retinaface.frame/1\",\"width\":64", "old\n"),
            (&format!("old\n{long}"), "old\n"),
            (&long, ""),
            // Records of which only the newline is missing, and text of other programs, stay.
            ("{\"schema\":\"retinaface.frame/1\",\"faces\":[]}", "{\"schema\":\"retinaface.frame/1\",\"faces\":[]}\n"),
            ("old\nnote", "old\nnote\n"),
        ] {
            std::fs::write(&file, before).unwrap();
            let (mut sink, note) = LineSink::open(Some(&file), true).unwrap();
            assert_eq!(note.is_some(), kept.len() < before.len(), "{before:.60}");
            write(&mut sink, "new\n");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{kept}new\n"), "{before:.60}");
        }
    }

    #[test]
    fn a_file_that_is_truncated_while_it_is_written_has_no_hole() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("faces.jsonl");
        let mut sink = open(&file, false).unwrap();
        write(&mut sink, "1\n");
        // As `copytruncate` of logrotate does.
        File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
        write(&mut sink, "2\n");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "2\n");
    }
}
