//! Latest-only scheduling: a background thread analyses the newest frame while the video passes.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use face_meta::AnalysedFrame;
use gst_video::VideoInfo;
use nix::libc;
use retinaface::geometry::FrameSize;

use super::sync::lock;

/// A frame for the background thread.
pub(super) struct LatestFrame {
    pub(super) buffer: gst::Buffer,
    /// The frame's own caps. Other caps can follow before it is analysed.
    pub(super) caps: gst::Caps,
    pub(super) info: VideoInfo,
    pub(super) size: FrameSize,
    pub(super) arrived: Instant,
}

/// What became of the analysis of a frame.
pub(super) enum Analysis<T> {
    Found(T),
    /// There is nothing to analyse in the frame.
    Nothing,
    /// The model failed, and the stream continues.
    Failed,
}

/// What is known when a frame passes.
pub(super) struct Known<T> {
    pub(super) result: Option<LatestResult<T>>,
    /// The latest analysis failed.
    pub(super) has_failed: bool,
    /// The background thread has taken the frame.
    pub(super) taken: bool,
}

/// The analysis of a frame.
#[derive(Debug)]
pub(super) struct LatestResult<T> {
    pub(super) output: Arc<T>,
    /// A reference to the analysed frame, whose pixels are those of the output.
    pub(super) frame: AnalysedFrame,
    pub(super) size: FrameSize,
    pts: Option<gst::ClockTime>,
    arrived: Instant,
}

impl<T> Clone for LatestResult<T> {
    fn clone(&self) -> Self {
        Self { output: Arc::clone(&self.output), frame: self.frame.clone(), ..*self }
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
    /// The latest analysis failed, and the stream continues.
    has_failed: bool,
    /// Why the stream ends.
    error: Option<gst::FlowError>,
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
    /// Starts the thread. After [`Analysis::Nothing`] and [`Analysis::Failed`] no result is known. An
    /// error, which `analyse` or `panicked` has posted, ends the stream.
    pub(super) fn start(
        analyse: impl Fn(&gst::Buffer, &VideoInfo) -> Result<Analysis<T>, gst::FlowError> + Send + 'static,
        panicked: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let exchange = Exchange {
            frame: None,
            busy: false,
            result: None,
            has_failed: false,
            error: None,
            resets: 0,
            closed: false,
        };
        let shared = Arc::new((Mutex::new(exchange), Condvar::new()));
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new().name("retinaface-latest".to_owned());
        let thread = thread.spawn(move || serve(&worker, &analyse, &panicked))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Gives the frame to the background thread if that is free. Never blocks on the model.
    ///
    /// # Errors
    /// If the analysis of an earlier frame failed.
    pub(super) fn exchange(&self, frame: Option<impl FnOnce() -> LatestFrame>) -> Result<Known<T>, gst::FlowError> {
        let (exchange, changed) = &*self.shared;
        let mut exchange = lock(exchange);
        if let Some(error) = exchange.error {
            return Err(error);
        }
        let taken = match (frame, exchange.busy, &exchange.frame) {
            (Some(frame), false, None) => {
                exchange.frame = Some(frame());
                changed.notify_all();
                true
            }
            _ => false,
        };
        Ok(Known { result: exchange.result.clone(), has_failed: exchange.has_failed, taken })
    }

    /// Discards results and the waiting frame: the next frames belong to another part of the
    /// stream.
    pub(super) fn reset(&self) {
        let mut exchange = lock(&self.shared.0);
        exchange.resets += 1;
        (exchange.frame, exchange.result, exchange.has_failed) = (None, None, false);
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

/// Keeps this thread from preempting the thread that wakes it, which has a frame to push first. The
/// thread's share of the processor stays the same, so that it does not starve on a busy machine.
fn yield_to_waker() {
    // 0 is the calling thread. Batch scheduling needs no privilege; without it a frame can be
    // delayed by a time slice.
    #[expect(unsafe_code, reason = "the call reads one initialised structure and affects this thread only")]
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &libc::sched_param { sched_priority: 0 });
    }
}

fn serve<T>(
    (exchange, changed): &Shared<T>,
    analyse: &impl Fn(&gst::Buffer, &VideoInfo) -> Result<Analysis<T>, gst::FlowError>,
    panicked: &impl Fn(),
) {
    yield_to_waker();
    loop {
        let (frame, resets) = {
            let mut exchange = changed
                .wait_while(lock(exchange), |exchange| exchange.frame.is_none() && !exchange.closed)
                .unwrap_or_else(PoisonError::into_inner);
            if exchange.closed {
                return;
            }
            exchange.busy = true;
            (exchange.frame.take(), exchange.resets)
        };
        let Some(LatestFrame { buffer, caps, info, size, arrived }) = frame else { continue };
        let pts = buffer.pts();
        // GStreamer catches panics on its own threads only.
        let analysed = panic::catch_unwind(AssertUnwindSafe(|| analyse(&buffer, &info))).unwrap_or_else(|_| {
            panicked();
            Err(gst::FlowError::Error)
        });
        let mut exchange = lock(exchange);
        exchange.busy = false;
        match analysed {
            Ok(analysis) if exchange.resets == resets => {
                exchange.has_failed = matches!(analysis, Analysis::Failed);
                exchange.result = match analysis {
                    Analysis::Found(output) => {
                        let frame = AnalysedFrame::new(&buffer, &caps);
                        Some(LatestResult { output: Arc::new(output), frame, size, pts, arrived })
                    }
                    Analysis::Nothing | Analysis::Failed => None,
                };
            }
            Ok(_) => {}
            Err(error) => exchange.error = Some(error),
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
        let caps = info.to_caps().unwrap();
        LatestFrame { buffer, caps, info, size: (16, 16).into(), arrived: Instant::now() }
    }

    /// A background whose analysis, the frame's time, waits for a permission; and the times at
    /// which it started.
    fn gated() -> (Latest<u64>, Sender<()>, Receiver<u64>) {
        gst::init().unwrap();
        let (permit, permits) = channel();
        let (start, started) = channel();
        let analyse = move |buffer: &gst::Buffer, _: &VideoInfo| {
            let time = milliseconds(buffer);
            start.send(time).unwrap();
            permits.recv().map(|()| Analysis::Found(time)).map_err(|_| gst::FlowError::NotSupported)
        };
        (Latest::start(analyse, || panic!("the analysis panicked")).unwrap(), permit, started)
    }

    fn milliseconds(buffer: &gst::Buffer) -> u64 {
        buffer.pts().unwrap().mseconds()
    }

    /// The newest result; no frame is given to the background.
    fn result(latest: &Latest<u64>) -> Result<Option<LatestResult<u64>>, gst::FlowError> {
        latest.exchange(None::<fn() -> LatestFrame>).map(|known| known.result)
    }

    /// Waits until the stream has failed.
    fn wait_for_error(latest: &Latest<u64>) -> gst::FlowError {
        loop {
            if let Err(error) = result(latest) {
                return error;
            }
            thread::yield_now();
        }
    }

    /// Exchanges frames with this time until a result of at least `time` is known.
    fn wait_for_result(latest: &Latest<u64>, time: u64) -> LatestResult<u64> {
        loop {
            if let Some(result) = result(latest).unwrap().filter(|result| *result.output >= time) {
                return result;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn frames_pass_while_the_model_is_busy_and_one_is_taken_when_it_is_free() {
        let (latest, permit, started) = gated();
        let known = latest.exchange(Some(|| frame(0))).unwrap();
        assert!(known.result.is_none() && known.taken);
        assert_eq!(started.recv().unwrap(), 0);
        // The analysis cannot end: every exchange returns nevertheless, and takes no frame.
        for number in 1..1000 {
            let known = latest.exchange(Some(|| frame(number))).unwrap();
            assert!(known.result.is_none() && !known.taken, "frame {number}");
        }
        permit.send(()).unwrap();
        let first = wait_for_result(&latest, 0);
        assert_eq!(first.age(Some(gst::ClockTime::from_mseconds(999))), Duration::from_millis(999));
        assert!(latest.exchange(Some(|| frame(1000))).unwrap().taken);
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
        while !latest.exchange(Some(|| frame(7))).unwrap().taken {
            thread::yield_now();
        }
        assert_eq!(started.recv().unwrap(), 7);
        assert!(result(&latest).unwrap().is_none(), "the frame before the reset");
        permit.send(()).unwrap();
        assert_eq!(*wait_for_result(&latest, 7).output, 7);
    }

    #[test]
    fn a_failed_analysis_fails_the_stream() {
        let (latest, permit, _started) = gated();
        latest.exchange(Some(|| frame(0))).unwrap();
        drop(permit);
        assert_eq!(wait_for_error(&latest), gst::FlowError::NotSupported);
        assert_eq!(result(&latest).err(), Some(gst::FlowError::NotSupported), "it does not recover");
    }

    #[test]
    fn a_panic_in_the_analysis_is_reported_once_and_fails_the_stream() {
        gst::init().unwrap();
        let (report, reports) = channel();
        let latest =
            Latest::<u64>::start(|_, _| panic!("as the test wants"), move || report.send(()).unwrap()).unwrap();
        latest.exchange(Some(|| frame(0))).unwrap();
        assert_eq!(wait_for_error(&latest), gst::FlowError::Error);
        assert_eq!(latest.exchange(Some(|| frame(1))).err(), Some(gst::FlowError::Error));
        drop(latest);
        assert_eq!(reports.into_iter().count(), 1);
    }

    #[test]
    fn a_frame_without_a_result_discards_the_one_before_and_the_stream_continues() {
        gst::init().unwrap();
        // There is nothing to analyse in the first odd frame, and the model fails on the second one.
        let analyse = |buffer: &gst::Buffer, _: &VideoInfo| {
            Ok(match milliseconds(buffer) {
                1 => Analysis::Nothing,
                3 => Analysis::Failed,
                time => Analysis::Found(time),
            })
        };
        let latest = Latest::start(analyse, || panic!("the analysis panicked")).unwrap();
        for (time, has_failed) in [(1, false), (3, true)] {
            assert!(latest.exchange(Some(|| frame(time - 1))).unwrap().taken);
            assert_eq!(*wait_for_result(&latest, time - 1).output, time - 1);
            assert!(latest.exchange(Some(|| frame(time))).unwrap().taken);
            while result(&latest).unwrap().is_some() {
                thread::yield_now();
            }
            assert_eq!(latest.exchange(None::<fn() -> LatestFrame>).unwrap().has_failed, has_failed);
        }
        latest.reset();
        assert!(!latest.exchange(Some(|| frame(4))).unwrap().has_failed);
        assert_eq!(*wait_for_result(&latest, 4).output, 4);
    }
}
