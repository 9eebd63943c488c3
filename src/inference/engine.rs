//! The thread that owns a session: a bounded queue, dynamic batching, many callers.
//!
//! Callers hand in one picture each, with the memory that the run writes its results to, and wait for their own. The
//! thread takes what waits and has the same shape as one batch. It knows nothing of models: what runs a batch is a
//! closure, so that its behaviour can be tested without one. In the steady state it allocates nothing.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};

use crate::lock::lock;
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

/// The memory of one picture: what goes into a run, and what comes out.
pub trait Picture: Send + 'static {
    /// What pictures must have in common to share a run.
    type Shape: PartialEq;

    /// This picture's.
    fn shape(&self) -> Self::Shape;
}

/// One picture to infer.
#[derive(Debug)]
pub struct Request<P> {
    /// Its memory, which comes back with the reply.
    pub picture: P,
    /// At most so many pictures may share a run with this one, itself included; at least 1.
    pub max_batch: usize,
    /// How long it may wait for others to share the run.
    pub batch_timeout: Duration,
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub struct Reply<P> {
    /// The request's picture, with its results.
    pub picture: P,
    /// How many pictures shared the run.
    pub batch: usize,
    /// From handing in to the start of the run.
    pub wait: Duration,
    /// The run itself.
    pub run: Duration,
}

type Answer<P> = Result<Reply<P>, EngineError>;

/// An answer on its way, with the line it came by, for the next one.
struct Letter<P> {
    answer: Answer<P>,
    line: Sender<Letter<P>>,
}

/// How many of a client's requests have no answer yet, and how many clients have such.
struct Share {
    requests: AtomicUsize,
    busy_clients: Arc<AtomicUsize>,
}

/// Who waits for an answer, and since when.
struct Caller<P> {
    line: Sender<Letter<P>>,
    since: Instant,
    share: Arc<Share>,
}

impl<P> Drop for Caller<P> {
    fn drop(&mut self) {
        if self.share.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.share.busy_clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<P> Caller<P> {
    /// A caller that no longer waits is no error.
    fn answer(self, answer: Answer<P>) {
        let line = self.line.clone();
        let _ = self.line.send(Letter { answer, line });
    }
}

struct Pending<P> {
    request: Request<P>,
    caller: Caller<P>,
}

impl<P> Pending<P> {
    fn deadline(&self) -> Instant {
        self.caller.since + self.request.batch_timeout
    }
}

/// Threads that run batches. Dropping it lets them finish what waits, and joins them.
pub struct Engine<P> {
    queue: Option<Sender<Pending<P>>>,
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

impl<P: Picture> Engine<P> {
    /// Starts a thread for each of `runners`, which run at the same time. A runner gets the pictures of a batch, at
    /// least one and all of one shape, and leaves each one's results in it, or says why it cannot.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn spawn<R>(runners: impl IntoIterator<Item = R>) -> io::Result<Arc<Self>>
    where
        R: FnMut(&mut [P]) -> Result<(), String> + Send + 'static,
    {
        let (queue, requests) = bounded(QUEUE);
        let clients = Arc::new(AtomicUsize::new(0));
        let panicked = Arc::new(OnceLock::new());
        let busy_clients = Arc::new(AtomicUsize::new(0));
        let gather = Gather {
            requests,
            pending: VecDeque::new(),
            indices: Vec::new(),
            clients: Arc::clone(&clients),
            busy_clients: Arc::clone(&busy_clients),
        };
        let gather = Arc::new(Mutex::new(gather));
        let mut engine = Self { queue: Some(queue), clients, busy_clients, panicked, threads: Vec::new() };
        for runner in runners {
            let mut worker = Worker {
                gather: Arc::clone(&gather),
                pictures: Vec::new(),
                callers: Vec::new(),
                panicked: Arc::clone(&engine.panicked),
                runner,
            };
            let thread = thread::Builder::new().name("retinaface-engine".to_owned()).spawn(move || worker.serve())?;
            engine.threads.push(thread);
        }
        Ok(Arc::new(engine))
    }

    /// A caller's handle. The number of those in use tells the engine when nobody is left to wait for.
    pub fn client(self: &Arc<Self>) -> Client<P> {
        let share = Share { requests: AtomicUsize::new(0), busy_clients: Arc::clone(&self.busy_clients) };
        Client {
            engine: Arc::clone(self),
            active: AtomicBool::new(false),
            share: Arc::new(share),
            lines: Arc::default(),
        }
    }

    /// Whether a run has panicked, so that a new engine is needed.
    pub fn has_panicked(&self) -> bool {
        self.panicked.get().is_some()
    }
}

impl<P> Drop for Engine<P> {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            // The thread catches panics of the runner; one of its own has no caller left to hear of it.
            let _ = thread.join();
        }
    }
}

/// Both ends of the way that an answer takes.
type Line<P> = (Sender<Letter<P>>, Receiver<Letter<P>>);

/// Lines that no answer is on its way by.
type Lines<P> = Arc<Mutex<Vec<Line<P>>>>;

/// One caller of an engine.
pub struct Client<P> {
    engine: Arc<Engine<P>>,
    /// Whether others' batches wait for this caller: from its first request until it rests.
    active: AtomicBool,
    share: Arc<Share>,
    lines: Lines<P>,
}

impl<P> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("engine", &self.engine).field("active", &self.active).finish_non_exhaustive()
    }
}

impl<P: Picture> Client<P> {
    /// Hands in a picture without waiting for its answer; waits while the queue is full.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub fn submit(&self, request: Request<P>) -> Result<Ticket<P>, EngineError> {
        if !self.active.swap(true, Ordering::Relaxed) {
            self.engine.clients.fetch_add(1, Ordering::Relaxed);
        }
        // Not a bounded channel: a letter holds an end of its own line, and of the channel's kinds only this one drops
        // what nobody can receive any more.
        let (line, letters) = lock(&self.lines).pop().unwrap_or_else(unbounded);
        let queue = self.engine.queue.as_ref().ok_or(EngineError::Stopped)?;
        if self.share.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            self.share.busy_clients.fetch_add(1, Ordering::Relaxed);
        }
        let caller = Caller { line, since: Instant::now(), share: Arc::clone(&self.share) };
        queue.send(Pending { request, caller }).map_err(|_| EngineError::Stopped)?;
        Ok(Ticket { letters, lines: Arc::clone(&self.lines) })
    }

    /// Hands in a picture and waits for its answer.
    ///
    /// # Errors
    /// If the run fails or panics, or the engine has stopped.
    pub fn infer(&self, request: Request<P>) -> Answer<P> {
        self.submit(request)?.wait()
    }
}

impl<P> Client<P> {
    /// Tells the engine that no request will come for a while (a stream has ended or paused), so that others'
    /// batches need not wait for one. The next request ends the rest.
    pub fn rest(&self) {
        if self.active.swap(false, Ordering::Relaxed) {
            self.engine.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<P> Drop for Client<P> {
    fn drop(&mut self) {
        self.rest();
    }
}

/// The claim to one answer. Dropping it gives the answer up, with the picture's memory.
pub struct Ticket<P> {
    letters: Receiver<Letter<P>>,
    lines: Lines<P>,
}

impl<P> fmt::Debug for Ticket<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("ready", &self.is_ready()).finish_non_exhaustive()
    }
}

impl<P> Ticket<P> {
    /// Whether [`Self::wait`] would return at once.
    pub fn is_ready(&self) -> bool {
        !self.letters.is_empty()
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// If the run fails or panics, or the engine has stopped.
    pub fn wait(self) -> Answer<P> {
        let Letter { answer, line } = self.letters.recv().map_err(|_| EngineError::Stopped)?;
        lock(&self.lines).push((line, self.letters));
        answer
    }
}

/// What waits, and the choice of the next batch. One worker at a time gathers; it holds no lock while it runs what it has.
struct Gather<P> {
    requests: Receiver<Pending<P>>,
    pending: VecDeque<Pending<P>>,
    /// Which of `pending` make up the next batch.
    indices: Vec<usize>,
    clients: Arc<AtomicUsize>,
    busy_clients: Arc<AtomicUsize>,
}

struct Worker<P, R> {
    gather: Arc<Mutex<Gather<P>>>,
    /// The batch that runs, and who waits for it: as long as each other.
    pictures: Vec<P>,
    callers: Vec<Caller<P>>,
    panicked: Arc<OnceLock<Arc<str>>>,
    runner: R,
}

impl<P: Picture> Gather<P> {
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

    /// Waits until the oldest request's batch is full, every caller has handed in, or time is up; then `indices` says
    /// which requests make it up.
    fn wait_for_company(&mut self) {
        loop {
            while self.pending.len() < QUEUE {
                match self.requests.try_recv() {
                    Ok(request) => self.pending.push_back(request),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            let limit = self.choose_batch();
            // Those whose pictures run on another worker have handed in, too.
            let everyone = self.busy_clients.load(Ordering::Relaxed) >= self.clients.load(Ordering::Relaxed);
            // Of all that wait, not of this batch alone: one that comes after it must not wait for its company.
            let deadline = self.pending.iter().map(Pending::deadline).min();
            let Some(deadline) = deadline.filter(|deadline| *deadline > Instant::now()) else { return };
            if self.indices.len() >= limit || everyone || self.pending.len() >= QUEUE {
                return;
            }
            match self.requests.recv_deadline(deadline) {
                Ok(request) => self.pending.push_back(request),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Puts the next batch into `indices`: the oldest request, and those of its shape behind it, as many as each of
    /// them allows. Returns how many they would allow at most.
    fn choose_batch(&mut self) -> usize {
        self.indices.clear();
        let mut limit = usize::MAX;
        let shape = self.pending.front().map(|pending| pending.request.picture.shape());
        for (index, pending) in self.pending.iter().enumerate() {
            let allowed = limit.min(pending.request.max_batch.max(1));
            if self.indices.len() < allowed && Some(pending.request.picture.shape()) == shape {
                self.indices.push(index);
                limit = allowed;
            }
        }
        limit
    }

    /// Moves the chosen batch out.
    fn take(&mut self, pictures: &mut Vec<P>, callers: &mut Vec<Caller<P>>) {
        // What was taken out before moves the rest to the front.
        for (taken, index) in self.indices.drain(..).enumerate() {
            if let Some(Pending { request, caller }) = self.pending.remove(index - taken) {
                pictures.push(request.picture);
                callers.push(caller);
            }
        }
    }

    /// Answers everyone with a panic until all are gone.
    fn refuse_all(&mut self, message: &Arc<str>) {
        let waiting = self.pending.drain(..);
        for pending in waiting.chain(self.requests.iter()) {
            pending.caller.answer(Err(EngineError::Panicked(Arc::clone(message))));
        }
    }
}

impl<P, R> Worker<P, R>
where
    P: Picture,
    R: FnMut(&mut [P]) -> Result<(), String>,
{
    fn serve(&mut self) {
        loop {
            {
                let mut gather = lock(&self.gather);
                // The session's state is unknown after a panic, whichever worker's it was.
                if let Some(message) = self.panicked.get() {
                    gather.refuse_all(message);
                }
                if !gather.wait_for_one() {
                    return;
                }
                gather.wait_for_company();
                gather.take(&mut self.pictures, &mut self.callers);
            }
            self.run();
        }
    }

    /// Runs and answers the batch.
    fn run(&mut self) {
        let batch = self.pictures.len();
        let start = Instant::now();
        let Self { pictures, runner, panicked, .. } = self;
        let result = match panicked.get() {
            // Another worker's run, while this one waited for something to do.
            Some(message) => Err(Box::new(message.to_string()) as Box<dyn std::any::Any + Send>),
            None => panic::catch_unwind(AssertUnwindSafe(|| runner(pictures))),
        };
        let run = start.elapsed();
        let error = match result {
            Ok(Ok(())) => {
                for (picture, caller) in self.pictures.drain(..).zip(self.callers.drain(..)) {
                    let wait = start.duration_since(caller.since);
                    caller.answer(Ok(Reply { picture, batch, wait, run }));
                }
                return;
            }
            Ok(Err(reason)) => EngineError::Run(reason.into()),
            Err(payload) => {
                let message: Arc<str> = panic_message(payload.as_ref()).into();
                // Known before the first caller hears of it, so that it can ask for a new engine.
                let _ = self.panicked.set(Arc::clone(&message));
                EngineError::Panicked(message)
            }
        };
        self.pictures.clear();
        self.callers.drain(..).for_each(|caller| caller.answer(Err(error.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A picture of some width whose result is its value.
    #[derive(Debug)]
    struct Number {
        value: f32,
        width: usize,
        result: Option<f32>,
    }

    impl Picture for Number {
        type Shape = usize;

        fn shape(&self) -> usize {
            self.width
        }
    }

    fn request(value: f32, width: usize, max_batch: usize, timeout: u64) -> Request<Number> {
        let picture = Number { value, width, result: None };
        Request { picture, max_batch, batch_timeout: Duration::from_millis(timeout) }
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

    /// How many pictures of which width went into each run.
    type Shapes = Arc<Mutex<Vec<(usize, usize)>>>;

    /// An engine whose results are the values, and the shapes it was run with.
    fn echo(delay: Duration) -> (Arc<Engine<Number>>, Shapes) {
        let shapes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&shapes);
        let engine = Engine::spawn([move |pictures: &mut [Number]| {
            seen.lock().unwrap().push((pictures.len(), pictures[0].width));
            thread::sleep(delay);
            pictures.iter_mut().for_each(|picture| picture.result = Some(picture.value));
            Ok(())
        }]);
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
                        assert_eq!(reply.picture.result, Some(value));
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
                assert_eq!(ticket.wait().unwrap().picture.result, Some(value));
            }
            assert_eq!(*shapes.lock().unwrap(), [(1, 4), (2, 4), (2, 6)]);
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
            let runs = shapes.lock().unwrap().iter().map(|(count, _)| *count).collect::<Vec<_>>();
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
            let runs = shapes.lock().unwrap().iter().map(|(count, _)| *count).collect::<Vec<_>>();
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
            let engine = Engine::spawn([move |pictures: &mut [Number]| {
                seen.lock().unwrap().push((pictures.len(), pictures[0].width));
                thread::sleep(Duration::from_millis(200));
                if pictures.len() > 1 && std::mem::take(&mut fail) { Err("out of memory".to_owned()) } else { Ok(()) }
            }]);
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
            let engine = Engine::spawn([|_: &mut [Number]| {
                thread::sleep(Duration::from_millis(30));
                panic!("index out of bounds")
            }]);
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
    fn several_runners_run_at_once_and_each_request_is_run_once() {
        watched(|| {
            let (arrived, runs) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
            let runner = || {
                let (arrived, runs) = (Arc::clone(&arrived), Arc::clone(&runs));
                move |pictures: &mut [Number]| {
                    // None ends before another one has begun.
                    arrived.wait();
                    runs.fetch_add(pictures.len(), Ordering::Relaxed);
                    pictures.iter_mut().for_each(|picture| picture.result = Some(picture.value));
                    Ok(())
                }
            };
            let engine = Engine::spawn([runner(), runner()]).unwrap();
            let client = engine.client();
            for round in 0..20 {
                let tickets = [0.0, 0.5].map(|part| client.submit(request(round as f32 + part, 4, 1, 0)).unwrap());
                let results = tickets.map(|ticket| ticket.wait().unwrap().picture.result.unwrap());
                assert_eq!(results, [round as f32, round as f32 + 0.5]);
            }
            assert_eq!(runs.load(Ordering::Relaxed), 40);
        });
    }

    #[test]
    fn a_panic_of_one_runner_stops_the_others_too() {
        watched(|| {
            let runner = |pictures: &mut [Number]| {
                assert!(!pictures[0].value.is_nan(), "not a number");
                Ok(())
            };
            let engine = Engine::spawn([runner, runner]).unwrap();
            let client = engine.client();
            assert!((0..20).all(|_| client.infer(request(0.0, 4, 1, 0)).is_ok()));
            let expected = EngineError::Panicked("not a number".into());
            assert_eq!(client.infer(request(f32::NAN, 4, 1, 0)).unwrap_err(), expected);
            assert!((0..20).all(|_| client.infer(request(0.0, 4, 1, 0)).unwrap_err() == expected));
        });
    }

    #[test]
    fn dropping_the_engine_joins_its_thread() {
        watched(|| {
            let alive = Arc::new(());
            let held = Arc::clone(&alive);
            let engine = Engine::spawn([move |_: &mut [Number]| {
                let _ = &held;
                Ok(())
            }]);
            let client = engine.unwrap().client();
            client.infer(request(0.0, 4, 1, 0)).unwrap();
            drop(client);
            assert_eq!(Arc::strong_count(&alive), 1, "the thread and its closure are gone");
        });
    }

    #[test]
    fn an_answer_that_nobody_waits_for_harms_no_other_and_frees_its_picture() {
        watched(|| {
            let (engine, shapes) = echo(Duration::from_millis(50));
            let client = engine.client();
            let first = client.submit(request(0.0, 4, 1, 0)).unwrap();
            wait_for_the_first_run(&shapes);
            drop(client.submit(request(1.0, 4, 1, 0)).unwrap());
            let third = client.submit(request(2.0, 4, 1, 0)).unwrap();
            assert_eq!(first.wait().unwrap().picture.result, Some(0.0));
            assert_eq!(third.wait().unwrap().picture.result, Some(2.0));
            // The lines of the two that were waited for are free again, that of the other is gone.
            assert_eq!(lock(&client.lines).len(), 2);
        });
    }

    #[test]
    fn an_answer_that_came_and_was_not_taken_goes_with_its_ticket() {
        struct Held(Arc<()>);

        impl Picture for Held {
            type Shape = ();

            fn shape(&self) {}
        }

        watched(|| {
            let engine = Engine::spawn([|_: &mut [Held]| Ok(())]).unwrap();
            let client = engine.client();
            let alive = Arc::new(());
            let request = Request { picture: Held(Arc::clone(&alive)), max_batch: 1, batch_timeout: Duration::ZERO };
            assert_eq!(Arc::strong_count(&request.picture.0), 2);
            let ticket = client.submit(request).unwrap();
            while !ticket.is_ready() {
                thread::sleep(Duration::from_millis(1));
            }
            drop(ticket);
            assert_eq!(Arc::strong_count(&alive), 1, "nothing keeps the picture");
        });
    }

    #[test]
    fn two_pictures_of_one_caller_are_not_everyones() {
        watched(|| {
            let (engine, shapes) = echo(Duration::ZERO);
            let (one, other) = (engine.client(), engine.client());
            one.infer(request(0.0, 4, 1, 0)).unwrap();
            other.infer(request(0.0, 4, 1, 0)).unwrap();
            // Two of one caller wait for the other one's, which fills the batch.
            let tickets = [1.0, 2.0].map(|value| one.submit(request(value, 4, 3, 10_000)).unwrap());
            thread::sleep(Duration::from_millis(50));
            other.infer(request(3.0, 4, 3, 10_000)).unwrap();
            tickets.into_iter().for_each(|ticket| assert_eq!(ticket.wait().unwrap().batch, 3));
            assert_eq!(shapes.lock().unwrap().last(), Some(&(3, 4)));
        });
    }

    #[test]
    fn a_ticket_is_ready_once_its_answer_is_there() {
        watched(|| {
            let (engine, _) = echo(Duration::from_millis(100));
            let client = engine.client();
            let ticket = client.submit(request(1.0, 4, 1, 0)).unwrap();
            assert!(!ticket.is_ready());
            while !ticket.is_ready() {
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(ticket.wait().unwrap().picture.result, Some(1.0));
        });
    }
}
