//! Frames between the element's sink pad and its source pad: some are run by the model while the next is made ready.
//!
//! A thread of its own takes each frame's result and pushes it, in the order in which frames came, as soon as it is
//! there: a frame never waits for the next one. Whoever sends something that must not overtake a frame drains first.

use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use retinaface::detector::{DetectError, Detection, Underway};

use crate::lock::lock;
use crate::meta::FrameSize;

/// A frame on its way.
pub(super) struct Frame {
    pub(super) buffer: gst::Buffer,
    pub(super) size: FrameSize,
    /// What the model does with it; `None` for a frame that is not looked at.
    pub(super) underway: Option<Underway>,
}

/// What became of a frame: nothing, if it was not looked at.
pub(super) type Outcome = Option<Result<Detection, DetectError>>;

struct Queue {
    frames: VecDeque<Frame>,
    /// A frame has left the queue and is being pushed.
    pushing: bool,
    /// What the last push said.
    flow: Result<gst::FlowSuccess, gst::FlowError>,
    flushing: bool,
    /// Rises with each flush, so that what was under way then is not taken for what came later.
    flushes: u64,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>, ready: impl Fn(&Queue) -> bool) -> MutexGuard<'a, Queue> {
        // As with `lock`: nothing that can panic runs under this lock.
        self.changed.wait_while(queue, |queue| !ready(queue)).unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread does with frames; see [`Inflight::start`].
pub(super) trait Pusher: Send + 'static {
    /// Attaches what became of a frame and pushes it.
    fn push(&self, frame: Frame, outcome: Outcome) -> Result<gst::FlowSuccess, gst::FlowError>;

    /// Tells of a panic, which must not leave the thread.
    fn panicked(&self);
}

/// The frames in flight of one element between start and stop.
pub(super) struct Inflight {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Inflight {
    /// Starts the thread that pushes.
    pub(super) fn start(pusher: impl Pusher) -> io::Result<Self> {
        let queue = Queue {
            frames: VecDeque::new(),
            pushing: false,
            flow: Ok(gst::FlowSuccess::Ok),
            flushing: false,
            flushes: 0,
            closed: false,
        };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new() });
        let ours = Arc::clone(&shared);
        let thread = thread::Builder::new().name("retinaface-push".to_owned()).spawn(move || ours.serve(&pusher))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits while there are `limit` frames, at least 1, whose results are not there yet.
    pub(super) fn wait_for_room(&self, limit: usize) -> Result<gst::FlowSuccess, gst::FlowError> {
        let queue = self.shared.wait(lock(&self.shared.queue), |queue| {
            queue.frames.len() < limit || queue.flow.is_err() || queue.flushing || queue.closed
        });
        if queue.flushing || queue.closed { Err(gst::FlowError::Flushing) } else { queue.flow }
    }

    /// Hands over a frame, which one thread alone does after it has waited for room.
    pub(super) fn submit(&self, frame: Frame) -> Result<gst::FlowSuccess, gst::FlowError> {
        let mut queue = lock(&self.shared.queue);
        if queue.flushing || queue.closed {
            return Err(gst::FlowError::Flushing);
        }
        let flow = queue.flow?;
        queue.frames.push_back(frame);
        self.shared.changed.notify_all();
        Ok(flow)
    }

    /// Waits until every frame has been pushed.
    pub(super) fn drain(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        let queue = self.shared.wait(lock(&self.shared.queue), |queue| {
            (queue.frames.is_empty() && !queue.pushing) || queue.flushing || queue.closed
        });
        queue.flow
    }

    /// Takes frames again after a push that failed for a reason that is over: the end of a stream once another one
    /// begins, no link once there is one.
    pub(super) fn forgive(&self) {
        let mut queue = lock(&self.shared.queue);
        if matches!(queue.flow, Err(gst::FlowError::Eos | gst::FlowError::NotLinked)) {
            queue.flow = Ok(gst::FlowSuccess::Ok);
        }
    }

    /// Drops what is on its way, and refuses more.
    pub(super) fn flush_start(&self) {
        let mut queue = lock(&self.shared.queue);
        queue.flushing = true;
        queue.flushes += 1;
        queue.frames.clear();
        self.shared.changed.notify_all();
    }

    /// Takes frames again.
    pub(super) fn flush_stop(&self) {
        let mut queue = self.shared.wait(lock(&self.shared.queue), |queue| !queue.pushing);
        queue.flushing = false;
        queue.flow = Ok(gst::FlowSuccess::Ok);
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        {
            let mut queue = lock(&self.shared.queue);
            queue.closed = true;
            queue.frames.clear();
            self.shared.changed.notify_all();
        }
        // Dropped by the pushing thread itself when that held the element's last reference.
        if let Some(thread) = self.thread.take().filter(|pushing| pushing.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, pusher: &impl Pusher) {
        loop {
            let (underway, flushes) = {
                let mut queue = self.wait(lock(&self.queue), |queue| !queue.frames.is_empty() || queue.closed);
                if queue.closed {
                    return;
                }
                let flushes = queue.flushes;
                (queue.frames.front_mut().and_then(|frame| frame.underway.take()), flushes)
            };
            // GStreamer's guard against panics is not around this thread.
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| underway.map(Underway::wait)));
            let frame = {
                let mut queue = lock(&self.queue);
                if queue.flushes != flushes || queue.closed {
                    continue;
                }
                let frame = queue.frames.pop_front();
                queue.pushing = frame.is_some();
                self.changed.notify_all();
                frame
            };
            let Some(frame) = frame else { continue };
            let pushed =
                outcome.and_then(|outcome| panic::catch_unwind(AssertUnwindSafe(|| pusher.push(frame, outcome))));
            let flow = pushed.unwrap_or_else(|_| {
                pusher.panicked();
                Err(gst::FlowError::Error)
            });
            let mut queue = lock(&self.queue);
            queue.pushing = false;
            if queue.flushes == flushes {
                queue.flow = flow;
                if flow.is_err() {
                    queue.frames.clear();
                }
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes to a list; does not survive the frame at 5 ms.
    struct List(Arc<Mutex<Vec<u64>>>, Arc<Mutex<usize>>);

    impl Pusher for List {
        fn push(&self, frame: Frame, _: Outcome) -> Result<gst::FlowSuccess, gst::FlowError> {
            let time = frame.buffer.pts().unwrap().mseconds();
            assert_ne!(time, 5);
            lock(&self.0).push(time);
            if time == 7 { Err(gst::FlowError::Eos) } else { Ok(gst::FlowSuccess::Ok) }
        }

        fn panicked(&self) {
            *lock(&self.1) += 1;
        }
    }

    fn frame(milliseconds: u64) -> Frame {
        let mut buffer = gst::Buffer::new();
        buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_mseconds(milliseconds));
        Frame { buffer, size: (16, 16).into(), underway: None }
    }

    #[test]
    fn a_panic_on_the_pushing_thread_is_an_error_of_the_flow_and_no_one_waits_for_ever() {
        gst::init().unwrap();
        let (pushed, panics) = (Arc::default(), Arc::default());
        let inflight = Inflight::start(List(Arc::clone(&pushed), Arc::clone(&panics))).unwrap();
        for time in [1, 2, 5] {
            inflight.wait_for_room(2).unwrap();
            inflight.submit(frame(time)).unwrap();
        }
        assert_eq!(inflight.drain(), Err(gst::FlowError::Error));
        assert_eq!(inflight.wait_for_room(2), Err(gst::FlowError::Error));
        assert_eq!((lock(&pushed).clone(), *lock(&panics)), (vec![1, 2], 1));
    }

    #[test]
    fn an_end_downstream_lasts_until_another_stream_begins_and_a_flush_clears_all() {
        gst::init().unwrap();
        let (pushed, panics) = (Arc::default(), Arc::default());
        let inflight = Inflight::start(List(Arc::clone(&pushed), panics)).unwrap();
        inflight.submit(frame(7)).unwrap();
        assert_eq!(inflight.drain(), Err(gst::FlowError::Eos));
        assert_eq!(inflight.submit(frame(8)), Err(gst::FlowError::Eos));
        inflight.forgive();
        inflight.submit(frame(9)).unwrap();
        assert_eq!(inflight.drain(), Ok(gst::FlowSuccess::Ok));
        inflight.flush_start();
        assert_eq!(inflight.submit(frame(10)), Err(gst::FlowError::Flushing));
        inflight.flush_stop();
        inflight.submit(frame(11)).unwrap();
        assert_eq!(inflight.drain(), Ok(gst::FlowSuccess::Ok));
        assert_eq!(*lock(&pushed), [7, 9, 11]);
    }
}
