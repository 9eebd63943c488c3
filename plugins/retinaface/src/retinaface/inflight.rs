//! Frames between the element's sink pad and its source pad: some are run by the model while the next is made ready.
//!
//! A thread of its own takes each frame's result and pushes it, in the order in which frames came, as soon as it is
//! there: a frame never waits for the next one. Whoever sends something that must not overtake a frame drains first.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use retinaface::detector::{DetectError, Detection, Underway};

use crate::lock::lock;
use crate::meta::FrameSize;

/// A frame on its way.
pub(super) struct Frame {
    pub(super) buffer: gst::Buffer,
    pub(super) size: FrameSize,
    pub(super) arrived: Instant,
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

/// The frames in flight of one element between start and stop.
pub(super) struct Inflight {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Inflight {
    /// `push` attaches what became of a frame and pushes it.
    pub(super) fn start(
        push: impl Fn(Frame, Outcome) -> Result<gst::FlowSuccess, gst::FlowError> + Send + 'static,
    ) -> io::Result<Self> {
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
        let thread = thread::Builder::new().name("retinaface-push".to_owned()).spawn(move || ours.serve(&push))?;
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
    fn serve(&self, push: &impl Fn(Frame, Outcome) -> Result<gst::FlowSuccess, gst::FlowError>) {
        loop {
            let (underway, flushes) = {
                let mut queue = self.wait(lock(&self.queue), |queue| !queue.frames.is_empty() || queue.closed);
                if queue.closed {
                    return;
                }
                let flushes = queue.flushes;
                (queue.frames.front_mut().and_then(|frame| frame.underway.take()), flushes)
            };
            let outcome = underway.map(Underway::wait);
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
            let flow = push(frame, outcome);
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
