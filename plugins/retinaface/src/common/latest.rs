//! The newest frame looked at in the background, while the video goes on.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gst_video::VideoInfo;
use retinaface::face::Face;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::lock::lock;
use crate::meta::FrameSize;

/// A frame to look at.
pub(super) struct Offer {
    pub(super) buffer: gst::Buffer,
    /// Of the caps with which it came: others may follow before it is looked at.
    pub(super) info: VideoInfo,
    pub(super) arrived: Instant,
}

/// What was found in a frame.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) faces: Arc<[Face]>,
    pub(super) size: FrameSize,
    pub(super) pts: Option<gst::ClockTime>,
    pub(super) arrived: Instant,
}

impl Found {
    /// How much older its frame is than one with this time that arrives now.
    pub(super) fn age(&self, pts: Option<gst::ClockTime>) -> Duration {
        let nanoseconds = match (pts, self.pts) {
            // Either way round: a stream that is played backwards has ages, too.
            (Some(now), Some(then)) => now.nseconds().abs_diff(then.nseconds()),
            _ => return self.arrived.elapsed(),
        };
        Duration::from_nanos(nanoseconds)
    }
}

#[derive(Default)]
struct Desk {
    offer: Option<Offer>,
    /// The thread looks at a frame.
    busy: bool,
    found: Option<Found>,
    failed: bool,
    /// Rises whenever what is found of earlier frames no longer counts.
    resets: u64,
    closed: bool,
}

/// The background of one element between start and stop.
pub(super) struct Latest {
    shared: Arc<(Mutex<Desk>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Latest {
    /// `look` looks at a frame; it has said why if it fails, and no other follows.
    pub(super) fn start(look: impl Fn(Offer) -> Option<Found> + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(Desk::default()), Condvar::new()));
        let ours = Arc::clone(&shared);
        let thread = thread::Builder::new().name("retinaface-latest".to_owned()).spawn(move || serve(&ours, &look))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Gives the frame that `offer` makes to the background if that is free, and returns the newest that is known, and
    /// whether the frame was taken.
    ///
    /// # Errors
    /// If a frame could not be looked at.
    pub(super) fn exchange(
        &self,
        offer: Option<impl FnOnce() -> Offer>,
    ) -> Result<(Option<Found>, bool), gst::FlowError> {
        let (desk, changed) = &*self.shared;
        let mut desk = lock(desk);
        if desk.failed {
            return Err(gst::FlowError::Error);
        }
        let taken = match (offer, desk.busy, &desk.offer) {
            (Some(offer), false, None) => {
                desk.offer = Some(offer());
                changed.notify_all();
                true
            }
            _ => false,
        };
        Ok((desk.found.clone(), taken))
    }

    /// Forgets what was found: the frames that follow are others.
    pub(super) fn reset(&self) {
        let mut desk = lock(&self.shared.0);
        desk.resets += 1;
        (desk.offer, desk.found) = (None, None);
    }
}

impl Drop for Latest {
    fn drop(&mut self) {
        lock(&self.shared.0).closed = true;
        self.shared.1.notify_all();
        // Dropped by the thread itself when that held the element's last reference.
        if let Some(thread) = self.thread.take().filter(|looking| looking.thread().id() != thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// Keeps the thread from taking the processor of the one that wakes it: that has a frame to pass on first.
fn yield_to_waker() {
    let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    // Of 0 to 99: a niceness of 4.
    let priority = ThreadPriorityValue::try_from(36).map_or(ThreadPriority::Min, ThreadPriority::Crossplatform);
    // Where the system does not allow it, the background works as well, at the price of some delays.
    let _ = set_thread_priority_and_policy(thread_native_id(), priority, batch);
}

fn serve((desk, changed): &(Mutex<Desk>, Condvar), look: &impl Fn(Offer) -> Option<Found>) {
    yield_to_waker();
    let mut resets = 0;
    let mut result = None;
    loop {
        let offer = {
            let mut desk = lock(desk);
            if desk.resets == resets && result.is_some() {
                desk.found = result.take();
            }
            desk.busy = false;
            let mut desk = changed
                .wait_while(desk, |desk| desk.offer.is_none() && !desk.closed)
                .unwrap_or_else(PoisonError::into_inner);
            if desk.closed {
                return;
            }
            desk.busy = true;
            resets = desk.resets;
            desk.offer.take()
        };
        // GStreamer's guard against panics is not around this thread.
        result = offer.and_then(|offer| panic::catch_unwind(AssertUnwindSafe(|| look(offer))).ok().flatten());
        if result.is_none() {
            lock(desk).failed = true;
        }
    }
}
