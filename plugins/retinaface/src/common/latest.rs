//! Latest-only scheduling: a background thread analyses the newest frame while the video passes.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use face_meta::FrameSize;
use gst_video::VideoInfo;
use nix::libc;

use super::sync::lock;

/// A frame for the background thread.
pub(super) struct LatestFrame {
    pub(super) buffer: gst::Buffer,
    /// Of the frame's own caps. Other caps can follow before it is analysed.
    pub(super) info: VideoInfo,
    pub(super) size: FrameSize,
    pub(super) arrived: Instant,
}

/// The analysis of a frame.
#[derive(Debug)]
pub(super) struct LatestResult<T> {
    pub(super) output: Arc<T>,
    pub(super) size: FrameSize,
    pts: Option<gst::ClockTime>,
    arrived: Instant,
}

impl<T> Clone for LatestResult<T> {
    fn clone(&self) -> Self {
        Self { output: Arc::clone(&self.output), ..*self }
    }
}

impl<T> LatestResult<T> {
    /// The time between the analysed frame and one with this timestamp that arrives now.
    pub(super) fn age(&self, pts: Option<gst::ClockTime>) -> Duration {
        let nanoseconds = match (pts, self.pts) {
            // In both directions: a stream that is played backwards has ages, too.
            (Some(now), Some(then)) => now.nseconds().abs_diff(then.nseconds()),
            _ => return self.arrived.elapsed(),
        };
        Duration::from_nanos(nanoseconds)
    }
}

/// What the streaming thread and the background thread exchange.
struct Exchange<T> {
    frame: Option<LatestFrame>,
    /// The background thread is analysing a frame.
    busy: bool,
    result: Option<LatestResult<T>>,
    failed: bool,
    /// Rises when results of earlier frames become invalid.
    resets: u64,
    closed: bool,
}

type Shared<T> = (Mutex<Exchange<T>>, Condvar);

/// The background thread of one element between start and stop.
pub(super) struct Latest<T> {
    shared: Arc<Shared<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + Sync + 'static> Latest<T> {
    /// Starts the thread. `analyse` returns `None` if it failed and has posted the error; then it is not called again.
    pub(super) fn start(analyse: impl Fn(gst::Buffer, &VideoInfo) -> Option<T> + Send + 'static) -> io::Result<Self> {
        let exchange = Exchange { frame: None, busy: false, result: None, failed: false, resets: 0, closed: false };
        let shared = Arc::new((Mutex::new(exchange), Condvar::new()));
        let worker = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("retinaface-latest".to_owned()).spawn(move || serve(&worker, &analyse))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Gives the frame to the background thread if that is free. Returns the newest result, and whether the frame was
    /// taken. Never blocks on the model.
    ///
    /// # Errors
    /// If the analysis of an earlier frame failed.
    pub(super) fn exchange(
        &self,
        frame: Option<impl FnOnce() -> LatestFrame>,
    ) -> Result<(Option<LatestResult<T>>, bool), gst::FlowError> {
        let (exchange, changed) = &*self.shared;
        let mut exchange = lock(exchange);
        if exchange.failed {
            return Err(gst::FlowError::Error);
        }
        let taken = match (frame, exchange.busy, &exchange.frame) {
            (Some(frame), false, None) => {
                exchange.frame = Some(frame());
                changed.notify_all();
                true
            }
            _ => false,
        };
        Ok((exchange.result.clone(), taken))
    }

    /// Discards results and the waiting frame: the next frames belong to another part of the stream.
    pub(super) fn reset(&self) {
        let mut exchange = lock(&self.shared.0);
        exchange.resets += 1;
        (exchange.frame, exchange.result) = (None, None);
    }
}

impl<T> Drop for Latest<T> {
    fn drop(&mut self) {
        lock(&self.shared.0).closed = true;
        self.shared.1.notify_all();
        // The thread itself drops this if it held the element's last reference.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// Keeps this thread from preempting the thread that wakes it, which has a frame to push first. The thread's share of the
/// processor stays the same, so that it does not starve on a busy machine.
fn yield_to_waker() {
    // 0 is the calling thread. Batch scheduling needs no privilege; without it a frame can be delayed by a time slice.
    #[expect(unsafe_code, reason = "the call reads one initialised structure and affects this thread only")]
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &libc::sched_param { sched_priority: 0 });
    }
}

fn serve<T>((exchange, changed): &Shared<T>, analyse: &impl Fn(gst::Buffer, &VideoInfo) -> Option<T>) {
    yield_to_waker();
    let mut resets = 0;
    let mut result = None;
    loop {
        let frame = {
            let mut exchange = lock(exchange);
            if exchange.resets == resets && result.is_some() {
                exchange.result = result.take();
            }
            exchange.busy = false;
            let mut exchange = changed
                .wait_while(exchange, |exchange| exchange.frame.is_none() && !exchange.closed)
                .unwrap_or_else(PoisonError::into_inner);
            if exchange.closed {
                return;
            }
            exchange.busy = true;
            resets = exchange.resets;
            exchange.frame.take()
        };
        result = frame.and_then(|LatestFrame { buffer, info, size, arrived }| {
            let pts = buffer.pts();
            // GStreamer catches panics on its own threads only.
            let output = panic::catch_unwind(AssertUnwindSafe(|| analyse(buffer, &info))).ok().flatten()?;
            Some(LatestResult { output: Arc::new(output), size, pts, arrived })
        });
        if result.is_none() {
            lock(exchange).failed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    fn frame(milliseconds: u64) -> LatestFrame {
        let mut buffer = gst::Buffer::new();
        buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_mseconds(milliseconds));
        let info = VideoInfo::builder(gst_video::VideoFormat::Gray8, 16, 16).build().unwrap();
        LatestFrame { buffer, info, size: (16, 16).into(), arrived: Instant::now() }
    }

    /// A background whose analysis, the frame's time, waits for a permission; and the times at which it started.
    fn gated() -> (Latest<u64>, Sender<()>, Receiver<u64>) {
        gst::init().unwrap();
        let (permit, permits) = channel();
        let (start, started) = channel();
        let latest = Latest::start(move |buffer, _| {
            let time = buffer.pts()?.mseconds();
            start.send(time).unwrap();
            permits.recv().ok()?;
            Some(time)
        });
        (latest.unwrap(), permit, started)
    }

    /// Exchanges frames with this time until a result of at least `time` is known.
    fn wait_for_result(latest: &Latest<u64>, time: u64) -> LatestResult<u64> {
        loop {
            let (result, _) = latest.exchange(None::<fn() -> LatestFrame>).unwrap();
            if let Some(result) = result.filter(|result| *result.output >= time) {
                return result;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn frames_pass_while_the_model_is_busy_and_the_newest_free_moment_takes_one() {
        let (latest, permit, started) = gated();
        let (result, taken) = latest.exchange(Some(|| frame(0))).unwrap();
        assert!(result.is_none() && taken);
        assert_eq!(started.recv().unwrap(), 0);
        // The analysis cannot end: every exchange returns nevertheless, and takes no frame.
        for number in 1..1000 {
            let (result, taken) = latest.exchange(Some(|| frame(number))).unwrap();
            assert!(result.is_none() && !taken, "frame {number}");
        }
        permit.send(()).unwrap();
        let first = wait_for_result(&latest, 0);
        assert_eq!(first.age(Some(gst::ClockTime::from_mseconds(999))), Duration::from_millis(999));
        let (_, taken) = latest.exchange(Some(|| frame(1000))).unwrap();
        assert!(taken);
        permit.send(()).unwrap();
        assert_eq!(*wait_for_result(&latest, 1000).output, 1000);
    }

    #[test]
    fn a_reset_discards_the_result_of_a_frame_that_is_being_analysed() {
        let (latest, permit, started) = gated();
        latest.exchange(Some(|| frame(5))).unwrap();
        started.recv().unwrap();
        latest.reset();
        permit.send(()).unwrap();
        // The next analysis starts after the first one has ended.
        while !latest.exchange(Some(|| frame(7))).unwrap().1 {
            thread::yield_now();
        }
        assert_eq!(started.recv().unwrap(), 7);
        assert!(latest.exchange(None::<fn() -> LatestFrame>).unwrap().0.is_none(), "the frame before the reset");
        permit.send(()).unwrap();
        assert_eq!(*wait_for_result(&latest, 7).output, 7);
    }

    #[test]
    fn a_failed_analysis_fails_the_stream() {
        let (latest, permit, _) = gated();
        latest.exchange(Some(|| frame(0))).unwrap();
        drop(permit);
        while latest.exchange(None::<fn() -> LatestFrame>).is_ok() {
            thread::yield_now();
        }
        assert_eq!(latest.exchange(None::<fn() -> LatestFrame>).err(), Some(gst::FlowError::Error));
    }
}
