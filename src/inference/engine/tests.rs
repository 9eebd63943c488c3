//! The batching engine with models that the tests control.

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
        let (engine, gate, _) =
            gated(
                move |items| {
                    if items.len() > 1 && std::mem::take(&mut fail) { Err("out of memory".to_owned()) } else { Ok(()) }
                },
            );
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
