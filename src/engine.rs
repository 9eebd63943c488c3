//! The thread that owns a session: a bounded queue, dynamic batching, many callers.
//!
//! Callers hand in one picture each and wait for their own reply. The thread takes what waits and has
//! the same shape as one batch. It knows nothing of models: what runs a batch is a closure, so that
//! its behaviour can be tested without one.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::runtime::panic_message;

/// Requests that can wait; a caller that would be one more waits to hand in.
const QUEUE: usize = 64;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The run failed; the next one may work.
    #[error("inference failed: {0}")]
    Run(Arc<str>),
    /// The run panicked; the engine answers every request with this from then on.
    #[error("inference panicked, its engine is stopped: {0}")]
    Panicked(Arc<str>),
    /// The engine's thread has ended.
    #[error("the inference engine has stopped")]
    Stopped,
}

/// One picture to infer.
#[derive(Debug)]
pub struct Request {
    /// `[3, height, width]`.
    pub input: Vec<f32>,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// At most so many pictures may share a run with this one, itself included; at least 1.
    pub max_batch: usize,
    /// How long it may wait for others to share the run.
    pub batch_timeout: Duration,
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub struct Reply<O> {
    /// What the run gave, for the whole batch.
    pub outputs: Arc<O>,
    /// Which picture of the batch is the caller's.
    pub index: usize,
    /// How many pictures shared the run.
    pub batch: usize,
    /// The request's tensor, to be used again.
    pub input: Vec<f32>,
    /// From handing in to the start of the run.
    pub wait: Duration,
    /// The run itself.
    pub run: Duration,
}

/// One run: `[count, 3, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Pictures.
    pub count: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

type Answer<O> = Result<Reply<O>, EngineError>;

struct Pending<O> {
    request: Request,
    since: Instant,
    answer: Sender<Answer<O>>,
}

impl<O> Pending<O> {
    fn shape(&self) -> (usize, usize) {
        (self.request.width, self.request.height)
    }

    fn deadline(&self) -> Instant {
        self.since + self.request.batch_timeout
    }
}

/// A thread that runs batches. Dropping it lets the thread finish what waits, and joins it.
pub struct Engine<O> {
    queue: Option<Sender<Pending<O>>>,
    clients: Arc<AtomicUsize>,
    panicked: Arc<OnceLock<Arc<str>>>,
    thread: Option<JoinHandle<()>>,
}

impl<O> fmt::Debug for Engine<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("clients", &self.clients)
            .field("panicked", &self.panicked)
            .finish_non_exhaustive()
    }
}

impl<O: Send + Sync + 'static> Engine<O> {
    /// Starts the thread. `runner` gets the batch's tensor and its shape and gives its outputs, or why not.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn spawn<R>(runner: R) -> io::Result<Arc<Self>>
    where
        R: FnMut(&[f32], BatchShape) -> Result<O, String> + Send + 'static,
    {
        let (queue, requests) = bounded(QUEUE);
        let clients = Arc::new(AtomicUsize::new(0));
        let panicked = Arc::new(OnceLock::new());
        let mut worker = Worker {
            requests,
            pending: VecDeque::new(),
            clients: Arc::clone(&clients),
            panicked: Arc::clone(&panicked),
            runner,
            tensor: Vec::new(),
        };
        let thread = thread::Builder::new().name("retinaface-engine".to_owned()).spawn(move || worker.serve())?;
        Ok(Arc::new(Self { queue: Some(queue), clients, panicked, thread: Some(thread) }))
    }

    /// A caller's handle. The number of those in use tells the engine when nobody is left to wait for.
    pub fn client(self: &Arc<Self>) -> Client<O> {
        Client { engine: Arc::clone(self), active: AtomicBool::new(false) }
    }

    /// Whether a run has panicked, so that a new engine is needed.
    pub fn has_panicked(&self) -> bool {
        self.panicked.get().is_some()
    }
}

impl<O> Drop for Engine<O> {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // The thread catches panics of the runner; one of its own has no caller left to hear of it.
            let _ = thread.join();
        }
    }
}

/// One caller of an engine.
#[derive(Debug)]
pub struct Client<O> {
    engine: Arc<Engine<O>>,
    /// Whether others' batches wait for this caller: from its first request until it rests.
    active: AtomicBool,
}

impl<O: Send + Sync + 'static> Client<O> {
    /// Hands in a picture without waiting for its answer; waits while the queue is full.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub fn submit(&self, request: Request) -> Result<Ticket<O>, EngineError> {
        if !self.active.swap(true, Ordering::Relaxed) {
            self.engine.clients.fetch_add(1, Ordering::Relaxed);
        }
        let (answer, ticket) = bounded(1);
        let queue = self.engine.queue.as_ref().ok_or(EngineError::Stopped)?;
        queue.send(Pending { request, since: Instant::now(), answer }).map_err(|_| EngineError::Stopped)?;
        Ok(Ticket { answer: ticket })
    }

    /// Hands in a picture and waits for its answer.
    ///
    /// # Errors
    /// If the run fails or panics, or the engine has stopped.
    pub fn infer(&self, request: Request) -> Answer<O> {
        self.submit(request)?.wait()
    }
}

impl<O> Client<O> {
    /// Tells the engine that no request will come for a while (a stream has ended or paused), so that others'
    /// batches need not wait for one. The next request ends the rest.
    pub fn rest(&self) {
        if self.active.swap(false, Ordering::Relaxed) {
            self.engine.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<O> Drop for Client<O> {
    fn drop(&mut self) {
        self.rest();
    }
}

/// The claim to one answer.
#[derive(Debug)]
pub struct Ticket<O> {
    answer: Receiver<Answer<O>>,
}

impl<O> Ticket<O> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// If the run fails or panics, or the engine has stopped.
    pub fn wait(self) -> Answer<O> {
        self.answer.recv().unwrap_or(Err(EngineError::Stopped))
    }
}

struct Worker<O, R> {
    requests: Receiver<Pending<O>>,
    pending: VecDeque<Pending<O>>,
    clients: Arc<AtomicUsize>,
    panicked: Arc<OnceLock<Arc<str>>>,
    runner: R,
    /// Where several pictures are put together.
    tensor: Vec<f32>,
}

impl<O, R> Worker<O, R>
where
    R: FnMut(&[f32], BatchShape) -> Result<O, String>,
{
    fn serve(&mut self) {
        while self.wait_for_one() {
            self.wait_for_company();
            let batch = self.take_batch();
            if let Err(panic) = self.run(batch) {
                self.refuse_all(panic);
            }
        }
    }

    /// Whether there is something to run; `false` once all callers are gone.
    fn wait_for_one(&mut self) -> bool {
        if self.pending.is_empty() {
            match self.requests.recv() {
                Ok(request) => self.pending.push_back(request),
                Err(_) => return false,
            }
        }
        true
    }

    /// Waits until the oldest request's batch is full, every caller has handed in, or time is up.
    fn wait_for_company(&mut self) {
        loop {
            while self.pending.len() < QUEUE {
                match self.requests.try_recv() {
                    Ok(request) => self.pending.push_back(request),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            let batch = self.batch_indices();
            let limit = batch.iter().map(|index| self.pending[*index].request.max_batch.max(1)).min().unwrap_or(1);
            let everyone = self.pending.len() >= self.clients.load(Ordering::Relaxed);
            // Of all that wait, not of this batch alone: one that comes after it must not wait for its company.
            let deadline = self.pending.iter().map(Pending::deadline).min();
            let Some(deadline) = deadline.filter(|deadline| *deadline > Instant::now()) else { return };
            if batch.len() >= limit || everyone || self.pending.len() >= QUEUE {
                return;
            }
            match self.requests.recv_deadline(deadline) {
                Ok(request) => self.pending.push_back(request),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Which pending requests make up the next batch: the oldest, and those of its shape behind it, as
    /// many as each of them allows.
    fn batch_indices(&self) -> Vec<usize> {
        let mut batch = Vec::new();
        let mut limit = usize::MAX;
        let shape = self.pending.front().map(Pending::shape);
        for (index, pending) in self.pending.iter().enumerate() {
            let allowed = limit.min(pending.request.max_batch.max(1));
            if Some(pending.shape()) == shape && batch.len() < allowed {
                batch.push(index);
                limit = allowed;
            }
        }
        batch
    }

    fn take_batch(&mut self) -> Vec<Pending<O>> {
        let indices = self.batch_indices();
        // From the back, so that the earlier indices stay true.
        let mut batch = indices.into_iter().rev().filter_map(|index| self.pending.remove(index)).collect::<Vec<_>>();
        batch.reverse();
        batch
    }

    /// Runs and answers a batch; the error is the message of a panic.
    fn run(&mut self, batch: Vec<Pending<O>>) -> Result<(), Arc<str>> {
        let Some(first) = batch.first() else { return Ok(()) };
        let (width, height) = first.shape();
        let shape = BatchShape { count: batch.len(), width, height };
        let Self { tensor, runner, .. } = self;
        let input = if let [only] = batch.as_slice() {
            only.request.input.as_slice()
        } else {
            tensor.clear();
            batch.iter().for_each(|pending| tensor.extend_from_slice(&pending.request.input));
            tensor.as_slice()
        };
        let start = Instant::now();
        let result = panic::catch_unwind(AssertUnwindSafe(|| runner(input, shape)));
        let run = start.elapsed();
        let answer_all = |error: &EngineError| {
            for pending in &batch {
                // A caller that no longer waits is no error.
                let _ = pending.answer.send(Err(error.clone()));
            }
        };
        match result {
            Ok(Ok(outputs)) => {
                let outputs = Arc::new(outputs);
                for (index, Pending { request, since, answer }) in batch.into_iter().enumerate() {
                    let wait = start.duration_since(since);
                    let outputs = Arc::clone(&outputs);
                    let _ =
                        answer.send(Ok(Reply { outputs, index, batch: shape.count, input: request.input, wait, run }));
                }
                Ok(())
            }
            Ok(Err(reason)) => {
                answer_all(&EngineError::Run(reason.into()));
                Ok(())
            }
            Err(payload) => {
                let message: Arc<str> = panic_message(payload.as_ref()).into();
                // Known before the first caller hears of it, so that it can ask for a new engine.
                let _ = self.panicked.set(Arc::clone(&message));
                answer_all(&EngineError::Panicked(Arc::clone(&message)));
                Err(message)
            }
        }
    }

    /// After a panic the session's state is unknown: answers everyone with it until all are gone.
    fn refuse_all(&mut self, message: Arc<str>) {
        let waiting = self.pending.drain(..);
        for pending in waiting.chain(self.requests.iter()) {
            let _ = pending.answer.send(Err(EngineError::Panicked(Arc::clone(&message))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn request(value: f32, width: usize, max_batch: usize, timeout: u64) -> Request {
        let batch_timeout = Duration::from_millis(timeout);
        Request { input: vec![value; 3 * width * 2], width, height: 2, max_batch, batch_timeout }
    }

    /// Runs `body` on a thread and fails if it is not done in time.
    fn watched(body: impl FnOnce() + Send + 'static) {
        let (done, finished) = bounded::<()>(0);
        let thread = thread::spawn(move || {
            body();
            drop(done);
        });
        match finished.recv_timeout(Duration::from_secs(20)) {
            Err(RecvTimeoutError::Disconnected) => thread.join().unwrap(),
            _ => panic!("the engine hangs"),
        }
    }

    type Shapes = Arc<Mutex<Vec<BatchShape>>>;

    /// An engine that gives each picture's first number back, and the shapes it was run with.
    fn echo(delay: Duration) -> (Arc<Engine<Vec<f32>>>, Shapes) {
        let shapes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&shapes);
        let engine = Engine::spawn(move |input: &[f32], shape: BatchShape| {
            seen.lock().unwrap().push(shape);
            thread::sleep(delay);
            Ok(input.chunks(input.len() / shape.count).map(|picture| picture[0]).collect())
        });
        (engine.unwrap(), shapes)
    }

    /// Waits until the engine is busy with its first run, so that what is handed in now waits.
    fn wait_for_the_first_run(shapes: &Shapes) {
        while shapes.lock().unwrap().is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn each_caller_gets_the_answer_to_its_own_picture() {
        watched(|| {
            let (engine, _) = echo(Duration::from_millis(1));
            let threads = (0..8).map(|caller| {
                let client = engine.client();
                thread::spawn(move || {
                    for i in 0..20 {
                        let value = (caller * 100 + i) as f32;
                        let reply = client.infer(request(value, 4, 8, 0)).unwrap();
                        assert_eq!(reply.outputs[reply.index], value);
                        assert_eq!(reply.input, vec![value; 24]);
                    }
                })
            });
            threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn waiting_requests_of_one_shape_share_a_run_and_other_shapes_do_not() {
        watched(|| {
            let (engine, shapes) = echo(Duration::from_millis(200));
            let client = engine.client();
            let first = client.submit(request(0.0, 4, 8, 0)).unwrap();
            wait_for_the_first_run(&shapes);
            let tickets = [(1.0, 4), (2.0, 6), (3.0, 4), (4.0, 6)]
                .map(|(value, width)| (value, client.submit(request(value, width, 8, 0)).unwrap()));
            first.wait().unwrap();
            for (value, ticket) in tickets {
                let reply = ticket.wait().unwrap();
                assert_eq!(reply.outputs[reply.index], value);
            }
            let runs = shapes.lock().unwrap().iter().map(|shape| (shape.count, shape.width)).collect::<Vec<_>>();
            assert_eq!(runs, [(1, 4), (2, 4), (2, 6)]);
        });
    }

    #[test]
    fn a_batch_never_exceeds_what_any_of_its_requests_allows() {
        watched(|| {
            let (engine, shapes) = echo(Duration::from_millis(200));
            let client = engine.client();
            let first = client.submit(request(0.0, 4, 1, 0)).unwrap();
            wait_for_the_first_run(&shapes);
            let tickets = [8, 2, 8, 1].map(|limit| client.submit(request(1.0, 4, limit, 0)).unwrap());
            first.wait().unwrap();
            tickets.into_iter().for_each(|ticket| assert!(ticket.wait().is_ok()));
            let runs = shapes.lock().unwrap().iter().map(|shape| shape.count).collect::<Vec<_>>();
            assert_eq!(runs, [1, 2, 1, 1]);
        });
    }

    #[test]
    fn a_batch_waits_for_the_other_callers_but_not_past_its_time() {
        watched(|| {
            let (engine, shapes) = echo(Duration::ZERO);
            let (one, other) = (engine.client(), engine.client());
            // A caller counts from its first request.
            one.infer(request(0.0, 4, 2, 10_000)).unwrap();
            other.infer(request(0.0, 4, 2, 0)).unwrap();
            let ticket = one.submit(request(1.0, 4, 2, 10_000)).unwrap();
            thread::sleep(Duration::from_millis(20));
            other.infer(request(2.0, 4, 2, 10_000)).unwrap();
            ticket.wait().unwrap();
            // `other` stays away: `one` goes on alone once its time is up.
            let start = Instant::now();
            one.infer(request(3.0, 4, 2, 30)).unwrap();
            assert!(start.elapsed() >= Duration::from_millis(30));
            // `other` rests: nobody is left to wait for, until it is back.
            other.rest();
            one.infer(request(4.0, 4, 2, 10_000)).unwrap();
            other.infer(request(5.0, 4, 2, 0)).unwrap();
            let ticket = one.submit(request(6.0, 4, 2, 10_000)).unwrap();
            thread::sleep(Duration::from_millis(20));
            other.infer(request(7.0, 4, 2, 10_000)).unwrap();
            ticket.wait().unwrap();
            // `other` is gone.
            drop(other);
            one.infer(request(8.0, 4, 2, 10_000)).unwrap();
            let runs = shapes.lock().unwrap().iter().map(|shape| shape.count).collect::<Vec<_>>();
            assert_eq!(runs, [1, 1, 2, 1, 1, 1, 2, 1]);
        });
    }

    #[test]
    fn a_request_that_will_not_wait_is_not_held_up_by_one_of_another_shape_that_does() {
        watched(|| {
            let (engine, _) = echo(Duration::ZERO);
            let [patient, hasty, idle] = [(); 3].map(|()| engine.client());
            idle.infer(request(0.0, 4, 1, 0)).unwrap();
            let ticket = patient.submit(request(1.0, 4, 8, 10_000)).unwrap();
            let start = Instant::now();
            hasty.infer(request(2.0, 6, 1, 0)).unwrap();
            assert!(start.elapsed() < Duration::from_secs(5));
            ticket.wait().unwrap();
        });
    }

    #[test]
    fn a_failing_run_reaches_every_caller_of_its_batch_and_the_next_run_works() {
        watched(|| {
            let mut fail = true;
            let shapes = Shapes::default();
            let seen = Arc::clone(&shapes);
            let engine = Engine::spawn(move |_: &[f32], shape: BatchShape| {
                seen.lock().unwrap().push(shape);
                thread::sleep(Duration::from_millis(200));
                if shape.count > 1 && std::mem::take(&mut fail) { Err("out of memory".to_owned()) } else { Ok(()) }
            });
            let client = engine.unwrap().client();
            let first = client.submit(request(0.0, 4, 8, 0)).unwrap();
            wait_for_the_first_run(&shapes);
            let tickets = [(); 3].map(|()| client.submit(request(0.0, 4, 8, 0)).unwrap());
            assert!(first.wait().is_ok());
            for ticket in tickets {
                assert_eq!(ticket.wait().unwrap_err(), EngineError::Run("out of memory".into()));
            }
            assert!(client.infer(request(0.0, 4, 8, 0)).is_ok());
        });
    }

    #[test]
    fn a_panicking_run_reaches_every_waiting_caller_as_an_error_and_no_one_hangs() {
        watched(|| {
            let engine = Engine::<()>::spawn(|_: &[f32], _| {
                thread::sleep(Duration::from_millis(30));
                panic!("index out of bounds")
            });
            let engine = engine.unwrap();
            let client = engine.client();
            let tickets = [4, 6, 4].map(|width| client.submit(request(0.0, width, 1, 0)).unwrap());
            let expected = EngineError::Panicked("index out of bounds".into());
            for ticket in tickets {
                assert_eq!(ticket.wait().unwrap_err(), expected);
            }
            assert_eq!(client.infer(request(0.0, 4, 1, 0)).unwrap_err(), expected);
            assert!(engine.has_panicked());
        });
    }

    #[test]
    fn dropping_the_engine_joins_its_thread() {
        watched(|| {
            let alive = Arc::new(());
            let held = Arc::clone(&alive);
            let engine = Engine::spawn(move |_: &[f32], _| {
                let _ = &held;
                Ok(())
            });
            let client = engine.unwrap().client();
            client.infer(request(0.0, 4, 1, 0)).unwrap();
            drop(client);
            assert_eq!(Arc::strong_count(&alive), 1, "the thread and its closure are gone");
        });
    }
}
