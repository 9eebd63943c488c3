//! Frames in flight: the model runs some of them while the next one is preprocessed.
//!
//! A thread waits for each frame's result and pushes the frame, in the order of arrival, as soon as
//! the result is there: no frame waits for the next one. A caller that sends something that must
//! not overtake a frame drains first.

use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use retinaface::geometry::FrameSize;

use super::sync::lock;

/// A frame on its way through a model-running element.
pub(super) struct FrameJob<P> {
    pub(super) buffer: gst::Buffer,
    pub(super) size: FrameSize,
    /// What was submitted to the model; `None` for a frame that is not analysed.
    pub(super) pending: Option<P>,
}

struct Queue<P> {
    frames: VecDeque<FrameJob<P>>,
    /// A frame has left the queue and is being pushed.
    pushing: bool,
    /// Result of the last push.
    flow: Result<gst::FlowSuccess, gst::FlowError>,
    flushing: bool,
    /// Rises with each flush, so that a frame from before a flush is not taken for a later one.
    flushes: u64,
    closed: bool,
}

struct Shared<P> {
    queue: Mutex<Queue<P>>,
    changed: Condvar,
}

impl<P> Shared<P> {
    fn wait<'a>(&self, queue: MutexGuard<'a, Queue<P>>, ready: impl Fn(&Queue<P>) -> bool) -> MutexGuard<'a, Queue<P>> {
        // As in `lock`: nothing that can panic runs under this lock.
        self.changed.wait_while(queue, |queue| !ready(queue)).unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread does with frames.
pub(super) trait Pusher: Send + 'static {
    /// What was submitted to the model for a frame.
    type Pending: Send + 'static;
    /// The model's result for a frame.
    type Outcome;

    /// Waits for the model.
    fn wait(pending: Self::Pending) -> Self::Outcome;

    /// Attaches the result to its frame and pushes the frame.
    fn push(
        &self,
        frame: FrameJob<Self::Pending>,
        outcome: Option<Self::Outcome>,
    ) -> Result<gst::FlowSuccess, gst::FlowError>;

    /// Posts the error for a panic, which must not leave the thread.
    fn panicked(&self);
}

/// The frames in flight of one element between start and stop.
pub(super) struct InFlight<P> {
    shared: Arc<Shared<P>>,
    thread: Option<JoinHandle<()>>,
}

impl<P: Send + 'static> InFlight<P> {
    /// Starts the thread that pushes.
    pub(super) fn start(pusher: impl Pusher<Pending = P>) -> io::Result<Self> {
        let queue = Queue {
            frames: VecDeque::new(),
            pushing: false,
            flow: Ok(gst::FlowSuccess::Ok),
            flushing: false,
            flushes: 0,
            closed: false,
        };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new() });
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new().name("retinaface-push".to_owned()).spawn(move || worker.serve(&pusher))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Blocks while `limit` frames, at least 1, have no result.
    pub(super) fn wait_for_room(&self, limit: usize) -> Result<gst::FlowSuccess, gst::FlowError> {
        let queue = self.shared.wait(lock(&self.shared.queue), |queue| {
            queue.frames.len() < limit || queue.flow.is_err() || queue.flushing || queue.closed
        });
        if queue.flushing || queue.closed { Err(gst::FlowError::Flushing) } else { queue.flow }
    }

    /// Queues a frame. Only one thread calls this, after `wait_for_room`.
    pub(super) fn submit(&self, frame: FrameJob<P>) -> Result<gst::FlowSuccess, gst::FlowError> {
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

    /// Accepts frames again after a push that failed for a reason that has ended: EOS when another
    /// stream starts, a missing link when there is one again.
    pub(super) fn clear_flow_error(&self) {
        let mut queue = lock(&self.shared.queue);
        if matches!(queue.flow, Err(gst::FlowError::Eos | gst::FlowError::NotLinked)) {
            queue.flow = Ok(gst::FlowSuccess::Ok);
        }
    }

    /// Drops the frames in flight and refuses more.
    pub(super) fn flush_start(&self) {
        let mut queue = lock(&self.shared.queue);
        queue.flushing = true;
        queue.flushes += 1;
        queue.frames.clear();
        self.shared.changed.notify_all();
    }

    /// Accepts frames again.
    pub(super) fn flush_stop(&self) {
        let mut queue = self.shared.wait(lock(&self.shared.queue), |queue| !queue.pushing);
        queue.flushing = false;
        queue.flow = Ok(gst::FlowSuccess::Ok);
    }
}

impl<P> Drop for InFlight<P> {
    fn drop(&mut self) {
        {
            let mut queue = lock(&self.shared.queue);
            queue.closed = true;
            queue.frames.clear();
            self.shared.changed.notify_all();
        }
        // The thread itself drops this if it held the element's last reference.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl<P: Send + 'static> Shared<P> {
    fn serve<U: Pusher<Pending = P>>(&self, pusher: &U) {
        loop {
            let (pending, flushes) = {
                let mut queue = self.wait(lock(&self.queue), |queue| !queue.frames.is_empty() || queue.closed);
                if queue.closed {
                    return;
                }
                let flushes = queue.flushes;
                (queue.frames.front_mut().and_then(|frame| frame.pending.take()), flushes)
            };
            // GStreamer catches panics on its own threads only.
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| pending.map(U::wait)));
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

    /// Appends each frame's time to a list; panics at the frame of 5 ms, ends at the frame of 7 ms.
    struct List(Arc<Mutex<Vec<u64>>>, Arc<Mutex<usize>>);

    impl Pusher for List {
        type Pending = ();
        type Outcome = ();

        fn wait((): ()) {}

        fn push(&self, frame: FrameJob<()>, _: Option<()>) -> Result<gst::FlowSuccess, gst::FlowError> {
            let time = frame.buffer.pts().unwrap().mseconds();
            assert_ne!(time, 5);
            lock(&self.0).push(time);
            if time == 7 { Err(gst::FlowError::Eos) } else { Ok(gst::FlowSuccess::Ok) }
        }

        fn panicked(&self) {
            *lock(&self.1) += 1;
        }
    }

    fn frame(milliseconds: u64) -> FrameJob<()> {
        let mut buffer = gst::Buffer::new();
        buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_mseconds(milliseconds));
        FrameJob { buffer, size: (16, 16).into(), pending: None }
    }

    #[test]
    fn a_panic_on_the_pushing_thread_is_a_flow_error_and_nobody_waits_for_ever() {
        gst::init().unwrap();
        let (pushed, panics) = (Arc::default(), Arc::default());
        let in_flight = InFlight::start(List(Arc::clone(&pushed), Arc::clone(&panics))).unwrap();
        for time in [1, 2, 5] {
            in_flight.wait_for_room(2).unwrap();
            in_flight.submit(frame(time)).unwrap();
        }
        assert_eq!(in_flight.drain(), Err(gst::FlowError::Error));
        assert_eq!(in_flight.wait_for_room(2), Err(gst::FlowError::Error));
        assert_eq!((lock(&pushed).clone(), *lock(&panics)), (vec![1, 2], 1));
    }

    #[test]
    fn an_eos_from_downstream_lasts_until_another_stream_starts_and_a_flush_clears_everything() {
        gst::init().unwrap();
        let (pushed, panics) = (Arc::default(), Arc::default());
        let in_flight = InFlight::start(List(Arc::clone(&pushed), panics)).unwrap();
        in_flight.submit(frame(7)).unwrap();
        assert_eq!(in_flight.drain(), Err(gst::FlowError::Eos));
        assert_eq!(in_flight.submit(frame(8)), Err(gst::FlowError::Eos));
        in_flight.clear_flow_error();
        in_flight.submit(frame(9)).unwrap();
        assert_eq!(in_flight.drain(), Ok(gst::FlowSuccess::Ok));
        in_flight.flush_start();
        assert_eq!(in_flight.submit(frame(10)), Err(gst::FlowError::Flushing));
        in_flight.flush_stop();
        in_flight.submit(frame(11)).unwrap();
        assert_eq!(in_flight.drain(), Ok(gst::FlowSuccess::Ok));
        assert_eq!(*lock(&pushed), [7, 9, 11]);
    }
}
