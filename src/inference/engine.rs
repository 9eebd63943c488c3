//! The batching engine: threads that own the sessions, a bounded queue, and many callers.
//!
//! A caller submits one item, or several at once, each with the memory that receives its results. A
//! worker takes the waiting items of one shape as a batch. The engine knows nothing of models: a
//! closure runs a batch, so that tests need no model. In the steady state the engine allocates
//! nothing for a single item.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};

use crate::runtime::panic_message;
use crate::sync::lock;

/// Maximum number of queued submissions; a further caller blocks in `submit`.
const QUEUE_CAPACITY: usize = 64;

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The run failed. Later runs can succeed.
    #[error("inference failed: {0}")]
    Run(Arc<str>),
    /// A run panicked. The engine fails every request from then on.
    #[error("inference panicked and its engine stopped: {0}; open the model again")]
    Panicked(Arc<str>),
    /// The engine's threads have ended.
    #[error("the inference engine has stopped")]
    Stopped,
}

/// The memory of one batch item: the inputs and the outputs of a run.
pub(crate) trait BatchItem: Send + 'static {
    /// Items share a run if their shapes are equal.
    type Shape: PartialEq;

    /// The shape of this item.
    fn shape(&self) -> Self::Shape;
}

/// One item to run.
#[derive(Debug)]
pub(crate) struct Request<P> {
    /// The item's memory. The reply returns it.
    pub(crate) item: P,
    /// Maximum number of items in this item's run, itself included; at least 1.
    pub(crate) max_batch: usize,
    /// Maximum time to wait for other items to share the run.
    pub(crate) batch_timeout: Duration,
}

/// The reply to a [`Request`].
#[derive(Debug)]
pub(crate) struct Reply<P> {
    /// The request's item, with its results.
    pub(crate) item: P,
    /// Number of items in the run.
    pub(crate) batch: usize,
    /// Time from submission to the start of the run.
    pub(crate) wait: Duration,
    /// Duration of the run.
    pub(crate) run: Duration,
}

type ReplyResult<P> = Result<Reply<P>, EngineError>;

/// A reply and the sender that carried it, so that the next request can reuse the channel.
struct Envelope<P> {
    result: ReplyResult<P>,
    sender: Sender<Envelope<P>>,
}

/// The requests of one client that the batcher has received and not answered, and how many clients
/// have such requests.
struct ClientLoad {
    requests: AtomicUsize,
    busy_clients: Arc<AtomicUsize>,
}

/// Where the reply to a queued request goes.
struct Caller<P> {
    sender: Sender<Envelope<P>>,
    since: Instant,
    load: Arc<ClientLoad>,
    /// Whether this request is part of `load`.
    is_counted: bool,
}

impl<P> Caller<P> {
    /// Counts the client as busy. The batcher calls this when it receives the request, not the
    /// client before it sends it: otherwise a batch could start without a request on its way.
    fn count(&mut self) {
        self.is_counted = true;
        if self.load.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            self.load.busy_clients.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn uncount(&mut self) {
        if std::mem::take(&mut self.is_counted) && self.load.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.load.busy_clients.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn reply(mut self, result: ReplyResult<P>) {
        // Before the reply, so that a client that has it does not count as busy.
        self.uncount();
        let sender = self.sender.clone();
        // A caller that no longer waits is not an error.
        let _ = self.sender.send(Envelope { result, sender });
    }
}

impl<P> Drop for Caller<P> {
    fn drop(&mut self) {
        self.uncount();
    }
}

struct Queued<P> {
    request: Request<P>,
    caller: Caller<P>,
}

impl<P> Queued<P> {
    fn counted(mut self) -> Self {
        self.caller.count();
        self
    }

    fn deadline(&self) -> Instant {
        self.caller.since.checked_add(self.request.batch_timeout).unwrap_or_else(far_future)
    }
}

/// A deadline that no test and no stream reaches, for timeouts that `Instant` cannot represent.
fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(3600 * 24 * 365)
}

/// What a caller puts into the queue at once.
enum Submission<P> {
    One(Queued<P>),
    Many(Vec<Queued<P>>),
}

/// Worker threads that run batches. Dropping the engine lets them finish the queued requests, then
/// joins them.
pub(crate) struct Engine<P> {
    queue: Option<Sender<Submission<P>>>,
    clients: Arc<AtomicUsize>,
    busy_clients: Arc<AtomicUsize>,
    panicked: Arc<OnceLock<Arc<str>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<P> fmt::Debug for Engine<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("clients", &self.clients)
            .field("panicked", &self.panicked)
            .finish_non_exhaustive()
    }
}

impl<P: BatchItem> Engine<P> {
    /// Starts one thread per runner; the runners run concurrently. A runner receives the items of a
    /// batch, at least one and all of one shape, and writes each item's results into it.
    ///
    /// # Errors
    /// If the system cannot create a thread.
    pub(crate) fn spawn<R, E>(runners: impl IntoIterator<Item = R>) -> io::Result<Arc<Self>>
    where
        R: FnMut(&mut [P]) -> Result<(), E> + Send + 'static,
        E: fmt::Display,
    {
        let (queue, submissions) = bounded(QUEUE_CAPACITY);
        let clients = Arc::new(AtomicUsize::new(0));
        let panicked = Arc::new(OnceLock::new());
        let busy_clients = Arc::new(AtomicUsize::new(0));
        let batcher = Batcher {
            submissions,
            queued: VecDeque::new(),
            indices: Vec::new(),
            clients: Arc::clone(&clients),
            busy_clients: Arc::clone(&busy_clients),
        };
        let batcher = Arc::new(Mutex::new(batcher));
        let mut engine = Self { queue: Some(queue), clients, busy_clients, panicked, threads: Vec::new() };
        for runner in runners {
            let mut worker = Worker {
                batcher: Arc::clone(&batcher),
                items: Vec::new(),
                callers: Vec::new(),
                panicked: Arc::clone(&engine.panicked),
                runner,
            };
            let thread = thread::Builder::new().name("retinaface-engine".to_owned()).spawn(move || worker.serve())?;
            engine.threads.push(thread);
        }
        Ok(Arc::new(engine))
    }

    /// A handle for one caller. The number of active handles tells the batcher how many callers a
    /// batch can wait for.
    pub(crate) fn client(self: &Arc<Self>) -> Client<P> {
        let load = ClientLoad { requests: AtomicUsize::new(0), busy_clients: Arc::clone(&self.busy_clients) };
        Client {
            engine: Arc::clone(self),
            active: AtomicBool::new(false),
            load: Arc::new(load),
            channels: Arc::default(),
        }
    }

    /// Whether a run has panicked, so that the model must be opened again.
    pub(crate) fn has_panicked(&self) -> bool {
        self.panicked.get().is_some()
    }
}

impl<P> Drop for Engine<P> {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            // The worker catches panics of its runner. Its own panics cannot be reported to a
            // caller.
            let _ = thread.join();
        }
    }
}

/// Both ends of a channel that carries one reply at a time.
type ReplyChannel<P> = (Sender<Envelope<P>>, Receiver<Envelope<P>>);

/// Channels without a reply in transit.
type ReplyChannels<P> = Arc<Mutex<Vec<ReplyChannel<P>>>>;

/// One caller of an engine.
pub(crate) struct Client<P> {
    engine: Arc<Engine<P>>,
    /// Whether batches wait for this caller: from its first request until `set_idle`.
    active: AtomicBool,
    load: Arc<ClientLoad>,
    channels: ReplyChannels<P>,
}

impl<P> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("engine", &self.engine).field("active", &self.active).finish_non_exhaustive()
    }
}

impl<P: BatchItem> Client<P> {
    /// Submits an item without waiting for its reply. Blocks while the queue is full.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub(crate) fn submit(&self, request: Request<P>) -> Result<PendingReply<P>, EngineError> {
        let (queued, reply) = self.queue(request);
        self.send(Submission::One(queued))?;
        Ok(reply)
    }

    /// Submits several items at once, so that no run starts with only a part of them: they share a
    /// run as far as their shapes and batch limits allow. The replies are in the order of the
    /// requests.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub(crate) fn submit_all(
        &self,
        requests: impl IntoIterator<Item = Request<P>>,
    ) -> Result<Vec<PendingReply<P>>, EngineError> {
        let (queued, replies): (Vec<_>, Vec<_>) = requests.into_iter().map(|request| self.queue(request)).unzip();
        if !queued.is_empty() {
            self.send(Submission::Many(queued))?;
        }
        Ok(replies)
    }

    fn queue(&self, request: Request<P>) -> (Queued<P>, PendingReply<P>) {
        // Not a bounded channel: an envelope holds a sender of its own channel, and of crossbeam's
        // channels only the unbounded one drops its messages once the receiver is gone.
        let (sender, replies) = lock(&self.channels).pop().unwrap_or_else(unbounded);
        let caller = Caller { sender, since: Instant::now(), load: Arc::clone(&self.load), is_counted: false };
        (Queued { request, caller }, PendingReply { replies, channels: Arc::clone(&self.channels) })
    }

    fn send(&self, submission: Submission<P>) -> Result<(), EngineError> {
        if !self.active.swap(true, Ordering::Relaxed) {
            self.engine.clients.fetch_add(1, Ordering::Relaxed);
        }
        let queue = self.engine.queue.as_ref().ok_or(EngineError::Stopped)?;
        queue.send(submission).map_err(|_| EngineError::Stopped)
    }
}

impl<P> Client<P> {
    /// Declares that no request follows for a while (the stream ended or paused), so that batches
    /// do not wait for this caller. The next request makes it active again.
    pub(crate) fn set_idle(&self) {
        if self.active.swap(false, Ordering::Relaxed) {
            self.engine.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<P> Drop for Client<P> {
    fn drop(&mut self) {
        self.set_idle();
    }
}

/// A reply that has not been read yet. Dropping it discards the reply and the item's memory.
pub(crate) struct PendingReply<P> {
    replies: Receiver<Envelope<P>>,
    channels: ReplyChannels<P>,
}

impl<P> fmt::Debug for PendingReply<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReply").field("ready", &self.is_ready()).finish_non_exhaustive()
    }
}

impl<P> PendingReply<P> {
    /// Whether [`Self::wait`] would return at once.
    pub(crate) fn is_ready(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Waits for the reply.
    ///
    /// # Errors
    /// If the run fails or panics, or the engine has stopped.
    pub(crate) fn wait(self) -> ReplyResult<P> {
        let Envelope { result, sender } = self.replies.recv().map_err(|_| EngineError::Stopped)?;
        lock(&self.channels).push((sender, self.replies));
        result
    }
}

/// The queued requests and the choice of the next batch. One worker at a time holds it; none holds
/// it during a run.
struct Batcher<P> {
    submissions: Receiver<Submission<P>>,
    queued: VecDeque<Queued<P>>,
    /// Indices into `queued` of the next batch.
    indices: Vec<usize>,
    clients: Arc<AtomicUsize>,
    busy_clients: Arc<AtomicUsize>,
}

struct Worker<P, R> {
    batcher: Arc<Mutex<Batcher<P>>>,
    /// The items of the current batch and their callers, of equal length.
    items: Vec<P>,
    callers: Vec<Caller<P>>,
    panicked: Arc<OnceLock<Arc<str>>>,
    runner: R,
}

impl<P: BatchItem> Batcher<P> {
    fn enqueue(&mut self, submission: Submission<P>) {
        match submission {
            Submission::One(queued) => self.queued.push_back(queued.counted()),
            Submission::Many(queued) => self.queued.extend(queued.into_iter().map(Queued::counted)),
        }
    }

    /// Blocks until there is a request; `false` once all callers are gone.
    fn wait_for_request(&mut self) -> bool {
        if self.queued.is_empty() {
            match self.submissions.recv() {
                Ok(submission) => self.enqueue(submission),
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits until the oldest request's batch is full, every active caller has submitted, or a
    /// timeout expires. Then `indices` holds the batch.
    fn fill_batch(&mut self) {
        loop {
            while self.queued.len() < QUEUE_CAPACITY {
                match self.submissions.try_recv() {
                    Ok(submission) => self.enqueue(submission),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            let limit = self.choose_batch();
            // Callers whose items run on another worker have submitted, too.
            let everyone = self.busy_clients.load(Ordering::Relaxed) >= self.clients.load(Ordering::Relaxed);
            // Of all queued requests, not of this batch alone: a later request must not wait for
            // this batch to fill.
            let deadline = self.queued.iter().map(Queued::deadline).min();
            let Some(deadline) = deadline.filter(|deadline| *deadline > Instant::now()) else { return };
            if self.indices.len() >= limit || everyone || self.queued.len() >= QUEUE_CAPACITY {
                return;
            }
            match self.submissions.recv_deadline(deadline) {
                Ok(submission) => self.enqueue(submission),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Stores the next batch in `indices`: the oldest request and the requests of its shape, as
    /// many as each of them allows. Returns the maximum number that they allow.
    fn choose_batch(&mut self) -> usize {
        self.indices.clear();
        let mut limit = usize::MAX;
        let shape = self.queued.front().map(|queued| queued.request.item.shape());
        for (index, queued) in self.queued.iter().enumerate() {
            let allowed = limit.min(queued.request.max_batch.max(1));
            if self.indices.len() < allowed && Some(queued.request.item.shape()) == shape {
                self.indices.push(index);
                limit = allowed;
            }
        }
        limit
    }

    /// Moves the chosen batch out of the queue.
    fn take(&mut self, items: &mut Vec<P>, callers: &mut Vec<Caller<P>>) {
        // Each removal moves the later requests forward by one.
        for (removed, index) in self.indices.drain(..).enumerate() {
            if let Some(Queued { request, caller }) = self.queued.remove(index - removed) {
                items.push(request.item);
                callers.push(caller);
            }
        }
    }

    /// Fails every request with a panic until all callers are gone.
    fn fail_all(&mut self, message: &Arc<str>) {
        let fail = |queued: Queued<P>| queued.caller.reply(Err(EngineError::Panicked(Arc::clone(message))));
        self.queued.drain(..).for_each(fail);
        for submission in self.submissions.iter() {
            match submission {
                Submission::One(queued) => fail(queued),
                Submission::Many(queued) => queued.into_iter().for_each(fail),
            }
        }
    }
}

impl<P, R, E> Worker<P, R>
where
    P: BatchItem,
    R: FnMut(&mut [P]) -> Result<(), E>,
    E: fmt::Display,
{
    fn serve(&mut self) {
        loop {
            {
                let mut batcher = lock(&self.batcher);
                // After a panic of any worker the sessions' state is unknown.
                if let Some(message) = self.panicked.get() {
                    batcher.fail_all(message);
                }
                if !batcher.wait_for_request() {
                    return;
                }
                batcher.fill_batch();
                batcher.take(&mut self.items, &mut self.callers);
            }
            self.run();
        }
    }

    /// Runs the batch and sends the replies.
    fn run(&mut self) {
        let batch = self.items.len();
        let start = Instant::now();
        let Self { items, runner, panicked, .. } = self;
        let result = match panicked.get() {
            // Another worker panicked while this one waited for a request.
            Some(message) => Err(Box::new(message.to_string()) as Box<dyn std::any::Any + Send>),
            None => panic::catch_unwind(AssertUnwindSafe(|| runner(items))),
        };
        let run = start.elapsed();
        let error = match result {
            Ok(Ok(())) => {
                for (item, caller) in self.items.drain(..).zip(self.callers.drain(..)) {
                    let wait = start.duration_since(caller.since);
                    caller.reply(Ok(Reply { item, batch, wait, run }));
                }
                return;
            }
            Ok(Err(error)) => EngineError::Run(error.to_string().into()),
            Err(payload) => {
                let message: Arc<str> = panic_message(payload.as_ref()).into();
                // Stored before the first reply, so that a caller that sees the error can open the
                // model again.
                let _ = self.panicked.set(Arc::clone(&message));
                EngineError::Panicked(message)
            }
        };
        self.items.clear();
        self.callers.drain(..).for_each(|caller| caller.reply(Err(error.clone())));
    }
}

#[cfg(test)]
mod tests;
