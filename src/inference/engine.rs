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
mod tests {
    use super::*;

    /// A timeout that never expires in a test that passes.
    const NEVER: Duration = Duration::from_secs(3600);

    /// An item of some width whose result is its value.
    #[derive(Debug)]
    struct Number {
        value: f32,
        width: usize,
        result: Option<f32>,
    }

    impl BatchItem for Number {
        type Shape = usize;

        fn shape(&self) -> usize {
            self.width
        }
    }

    fn request(value: f32, width: usize, max_batch: usize, batch_timeout: Duration) -> Request<Number> {
        Request { item: Number { value, width, result: None }, max_batch, batch_timeout }
    }

    fn immediate(value: f32, width: usize, max_batch: usize) -> Request<Number> {
        request(value, width, max_batch, Duration::ZERO)
    }

    fn infer(client: &Client<Number>, request: Request<Number>) -> ReplyResult<Number> {
        client.submit(request)?.wait()
    }

    /// Runs `body` on a thread and fails if it does not end in 5 minutes. The tests take
    /// milliseconds, so that even a busy machine does not reach this limit.
    fn watched(body: impl FnOnce() + Send + 'static) {
        let (done, finished) = bounded::<()>(0);
        let thread = thread::spawn(move || {
            body();
            drop(done);
        });
        match finished.recv_timeout(Duration::from_secs(300)) {
            Err(RecvTimeoutError::Disconnected) => thread.join().unwrap(),
            _ => panic!("the engine hangs"),
        }
    }

    /// Number of items and width of each run.
    type Runs = Arc<Mutex<Vec<(usize, usize)>>>;

    fn copy_values(items: &mut [Number]) {
        items.iter_mut().for_each(|item| item.result = Some(item.value));
    }

    /// An engine that copies values to results, and the runs so far.
    fn echo() -> (Arc<Engine<Number>>, Runs) {
        let runs = Runs::default();
        let seen = Arc::clone(&runs);
        let engine = Engine::spawn([move |items: &mut [Number]| -> Result<(), String> {
            lock(&seen).push((items.len(), items[0].width));
            copy_values(items);
            Ok(())
        }]);
        (engine.unwrap(), runs)
    }

    /// Stops each run of an engine until the gate opens.
    struct Gate {
        started: Receiver<()>,
        closed: Sender<()>,
    }

    impl Gate {
        /// Waits until a run has started and is stopped at the gate: requests from now on stay in
        /// the queue.
        fn wait_for_run(&self) {
            self.started.recv().unwrap();
        }

        /// Lets this run and all later ones pass.
        fn open(self) {
            drop(self.closed);
        }
    }

    /// An engine that calls `work` for each run once the gate lets it pass.
    fn gated(
        mut work: impl FnMut(&mut [Number]) -> Result<(), String> + Send + 'static,
    ) -> (Arc<Engine<Number>>, Gate, Runs) {
        let (start, started) = unbounded();
        let (closed, pass) = bounded::<()>(0);
        let runs = Runs::default();
        let seen = Arc::clone(&runs);
        let engine = Engine::spawn([move |items: &mut [Number]| {
            lock(&seen).push((items.len(), items[0].width));
            let _ = start.send(());
            // An error means that the gate is open.
            let _ = pass.recv();
            work(items)
        }]);
        (engine.unwrap(), Gate { started, closed }, runs)
    }

    fn gated_echo() -> (Arc<Engine<Number>>, Gate, Runs) {
        gated(|items| {
            copy_values(items);
            Ok(())
        })
    }

    /// Waits long enough for an engine that wrongly starts a run at once. A correct engine passes
    /// whatever the duration.
    fn wait_for_premature_run() {
        thread::sleep(Duration::from_millis(20));
    }

    #[test]
    fn each_caller_receives_its_own_reply() {
        watched(|| {
            let (engine, _) = echo();
            let threads = (0..8).map(|caller| {
                let client = engine.client();
                thread::spawn(move || {
                    for i in 0..20 {
                        let value = (caller * 100 + i) as f32;
                        assert_eq!(infer(&client, immediate(value, 4, 8)).unwrap().item.result, Some(value));
                    }
                })
            });
            threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn only_requests_of_equal_shape_share_a_run() {
        watched(|| {
            let (engine, gate, runs) = gated_echo();
            let client = engine.client();
            let first = client.submit(immediate(0.0, 4, 8)).unwrap();
            gate.wait_for_run();
            let replies = [(1.0, 4), (2.0, 6), (3.0, 4), (4.0, 6)]
                .map(|(value, width)| (value, client.submit(immediate(value, width, 8)).unwrap()));
            gate.open();
            first.wait().unwrap();
            for (value, reply) in replies {
                assert_eq!(reply.wait().unwrap().item.result, Some(value));
            }
            assert_eq!(*lock(&runs), [(1, 4), (2, 4), (2, 6)]);
        });
    }

    #[test]
    fn items_submitted_together_share_a_run() {
        watched(|| {
            let (engine, runs) = echo();
            let client = engine.client();
            for _ in 0..50 {
                let requests = [1.0, 2.0, 3.0, 4.0, 5.0].map(|value| immediate(value, 4, 3));
                let replies = client.submit_all(requests).unwrap();
                let results = replies.into_iter().map(|reply| reply.wait().unwrap().item.result.unwrap());
                assert_eq!(results.collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0, 5.0]);
            }
            assert_eq!(*lock(&runs), [(3, 4), (2, 4)].repeat(50));
            assert!(client.submit_all([]).unwrap().is_empty());
        });
    }

    #[test]
    fn batch_respects_smallest_limit_of_its_requests() {
        watched(|| {
            let (engine, gate, runs) = gated_echo();
            let client = engine.client();
            let first = client.submit(immediate(0.0, 4, 1)).unwrap();
            gate.wait_for_run();
            let replies = [8, 2, 8, 1].map(|limit| client.submit(immediate(1.0, 4, limit)).unwrap());
            gate.open();
            first.wait().unwrap();
            replies.into_iter().for_each(|reply| assert!(reply.wait().is_ok()));
            let batches = lock(&runs).iter().map(|(count, _)| *count).collect::<Vec<_>>();
            assert_eq!(batches, [1, 2, 1, 1]);
        });
    }

    #[test]
    fn client_counts_as_busy_once_its_request_is_received() {
        watched(|| {
            let (engine, gate, _) = gated_echo();
            let client = engine.client();
            let busy = || engine.busy_clients.load(Ordering::Relaxed);
            let (queued, reply) = client.queue(immediate(1.0, 4, 8));
            assert_eq!(busy(), 0, "the request is still on its way");
            client.send(Submission::One(queued)).unwrap();
            gate.wait_for_run();
            assert_eq!(busy(), 1);
            gate.open();
            reply.wait().unwrap();
            assert_eq!(busy(), 0);
            drop(client.queue(immediate(1.0, 4, 8)));
            assert_eq!(busy(), 0, "a request that is never sent does not count");
        });
    }

    #[test]
    fn batch_waits_for_active_callers_until_timeout() {
        watched(|| {
            let (engine, runs) = echo();
            let (one, other) = (engine.client(), engine.client());
            // A caller counts from its first request.
            infer(&one, request(0.0, 4, 2, NEVER)).unwrap();
            infer(&other, immediate(0.0, 4, 2)).unwrap();
            let reply = one.submit(request(1.0, 4, 2, NEVER)).unwrap();
            wait_for_premature_run();
            infer(&other, request(2.0, 4, 2, NEVER)).unwrap();
            reply.wait().unwrap();
            // `other` submits nothing: `one` runs alone once its timeout has expired.
            let start = Instant::now();
            infer(&one, request(3.0, 4, 2, Duration::from_millis(30))).unwrap();
            assert!(start.elapsed() >= Duration::from_millis(30));
            // `other` is idle: batches do not wait for it until its next request.
            other.set_idle();
            infer(&one, request(4.0, 4, 2, NEVER)).unwrap();
            infer(&other, immediate(5.0, 4, 2)).unwrap();
            let reply = one.submit(request(6.0, 4, 2, NEVER)).unwrap();
            wait_for_premature_run();
            infer(&other, request(7.0, 4, 2, NEVER)).unwrap();
            reply.wait().unwrap();
            // `other` is gone.
            drop(other);
            infer(&one, request(8.0, 4, 2, NEVER)).unwrap();
            let batches = lock(&runs).iter().map(|(count, _)| *count).collect::<Vec<_>>();
            assert_eq!(batches, [1, 1, 2, 1, 1, 1, 2, 1]);
        });
    }

    #[test]
    fn immediate_request_does_not_wait_for_other_shape() {
        watched(|| {
            let (engine, _) = echo();
            let [patient, urgent, silent] = [(); 3].map(|()| engine.client());
            infer(&silent, immediate(0.0, 4, 1)).unwrap();
            let reply = patient.submit(request(1.0, 4, 8, NEVER)).unwrap();
            // The oldest request's run starts now, although its batch is not full, so that this one
            // can follow.
            infer(&urgent, immediate(2.0, 6, 1)).unwrap();
            reply.wait().unwrap();
        });
    }

    #[test]
    fn failed_run_fails_its_batch_only() {
        watched(|| {
            let mut fail = true;
            let (engine, gate, _) = gated(move |items| {
                if items.len() > 1 && std::mem::take(&mut fail) { Err("out of memory".to_owned()) } else { Ok(()) }
            });
            let client = engine.client();
            let first = client.submit(immediate(0.0, 4, 8)).unwrap();
            gate.wait_for_run();
            let replies = [(); 3].map(|()| client.submit(immediate(0.0, 4, 8)).unwrap());
            gate.open();
            assert!(first.wait().is_ok());
            for reply in replies {
                assert_eq!(reply.wait().unwrap_err(), EngineError::Run("out of memory".into()));
            }
            assert!(infer(&client, immediate(0.0, 4, 8)).is_ok());
        });
    }

    #[test]
    fn panic_in_run_is_error_for_every_caller() {
        watched(|| {
            let (engine, gate, _) = gated(|_| panic!("index out of bounds"));
            let client = engine.client();
            let first = client.submit(immediate(0.0, 4, 1)).unwrap();
            gate.wait_for_run();
            let replies = [6, 4].map(|width| client.submit(immediate(0.0, width, 1)).unwrap());
            gate.open();
            let expected = EngineError::Panicked("index out of bounds".into());
            for reply in [first].into_iter().chain(replies) {
                assert_eq!(reply.wait().unwrap_err(), expected);
            }
            assert_eq!(infer(&client, immediate(0.0, 4, 1)).unwrap_err(), expected);
            let group = client.submit_all([1.0, 2.0].map(|value| immediate(value, 4, 2))).unwrap();
            group.into_iter().for_each(|reply| assert_eq!(reply.wait().unwrap_err(), expected));
            assert!(engine.has_panicked());
        });
    }

    #[test]
    fn runners_run_concurrently_and_requests_run_once() {
        watched(|| {
            let (arrived, count) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
            let runner = || {
                let (arrived, count) = (Arc::clone(&arrived), Arc::clone(&count));
                move |items: &mut [Number]| -> Result<(), String> {
                    // Neither run ends before the other one has started.
                    arrived.wait();
                    count.fetch_add(items.len(), Ordering::Relaxed);
                    copy_values(items);
                    Ok(())
                }
            };
            let engine = Engine::spawn([runner(), runner()]).unwrap();
            let client = engine.client();
            for round in 0..20 {
                let replies = [0.0, 0.5].map(|part| client.submit(immediate(round as f32 + part, 4, 1)).unwrap());
                let results = replies.map(|reply| reply.wait().unwrap().item.result.unwrap());
                assert_eq!(results, [round as f32, round as f32 + 0.5]);
            }
            assert_eq!(count.load(Ordering::Relaxed), 40);
        });
    }

    #[test]
    fn panic_of_one_runner_stops_the_others() {
        watched(|| {
            let runner = |items: &mut [Number]| -> Result<(), String> {
                assert!(!items[0].value.is_nan(), "not a number");
                Ok(())
            };
            let engine = Engine::spawn([runner, runner]).unwrap();
            let client = engine.client();
            assert!((0..20).all(|_| infer(&client, immediate(0.0, 4, 1)).is_ok()));
            let expected = EngineError::Panicked("not a number".into());
            assert_eq!(infer(&client, immediate(f32::NAN, 4, 1)).unwrap_err(), expected);
            assert!((0..20).all(|_| infer(&client, immediate(0.0, 4, 1)).unwrap_err() == expected));
        });
    }

    #[test]
    fn dropping_the_engine_joins_its_threads() {
        watched(|| {
            let alive = Arc::new(());
            let held = Arc::clone(&alive);
            let engine = Engine::spawn([move |_: &mut [Number]| -> Result<(), String> {
                let _ = &held;
                Ok(())
            }]);
            let client = engine.unwrap().client();
            infer(&client, immediate(0.0, 4, 1)).unwrap();
            drop(client);
            assert_eq!(Arc::strong_count(&alive), 1, "the thread and its closure are gone");
        });
    }

    #[test]
    fn dropped_reply_does_not_affect_other_replies() {
        watched(|| {
            let (engine, gate, _) = gated_echo();
            let client = engine.client();
            let first = client.submit(immediate(0.0, 4, 1)).unwrap();
            gate.wait_for_run();
            drop(client.submit(immediate(1.0, 4, 1)).unwrap());
            let third = client.submit(immediate(2.0, 4, 1)).unwrap();
            gate.open();
            assert_eq!(first.wait().unwrap().item.result, Some(0.0));
            assert_eq!(third.wait().unwrap().item.result, Some(2.0));
            // The channels of the two replies that were read are free again, the third channel is
            // gone.
            assert_eq!(lock(&client.channels).len(), 2);
        });
    }

    #[test]
    fn unread_reply_is_dropped_with_its_handle() {
        struct Held(Arc<()>);

        impl BatchItem for Held {
            type Shape = ();

            fn shape(&self) {}
        }

        watched(|| {
            let engine = Engine::spawn([|_: &mut [Held]| -> Result<(), String> { Ok(()) }]).unwrap();
            let client = engine.client();
            let alive = Arc::new(());
            let request = Request { item: Held(Arc::clone(&alive)), max_batch: 1, batch_timeout: Duration::ZERO };
            assert_eq!(Arc::strong_count(&request.item.0), 2);
            let reply = client.submit(request).unwrap();
            while !reply.is_ready() {
                thread::yield_now();
            }
            drop(reply);
            assert_eq!(Arc::strong_count(&alive), 1, "nothing keeps the item");
        });
    }

    #[test]
    fn two_items_of_one_caller_count_once() {
        watched(|| {
            let (engine, runs) = echo();
            let (one, other) = (engine.client(), engine.client());
            infer(&one, immediate(0.0, 4, 1)).unwrap();
            infer(&other, immediate(0.0, 4, 1)).unwrap();
            // Two items of one caller wait for the other caller's item, which fills the batch.
            let replies = [1.0, 2.0].map(|value| one.submit(request(value, 4, 3, NEVER)).unwrap());
            wait_for_premature_run();
            infer(&other, request(3.0, 4, 3, NEVER)).unwrap();
            replies.into_iter().for_each(|reply| assert_eq!(reply.wait().unwrap().batch, 3));
            assert_eq!(lock(&runs).last(), Some(&(3, 4)));
        });
    }

    #[test]
    fn pending_reply_is_ready_after_its_run() {
        watched(|| {
            let (engine, gate, _) = gated_echo();
            let client = engine.client();
            let reply = client.submit(immediate(1.0, 4, 1)).unwrap();
            gate.wait_for_run();
            assert!(!reply.is_ready());
            gate.open();
            while !reply.is_ready() {
                thread::yield_now();
            }
            assert_eq!(reply.wait().unwrap().item.result, Some(1.0));
        });
    }
}
