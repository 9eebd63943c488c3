//! Helpers for the element tests: plugin registration, frames with known faces, a watchdog.

#![allow(dead_code, reason = "each test binary uses a part of this module")]
#![allow(unreachable_pub, reason = "several test crates include this module")]

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use gst::prelude::*;
use retinaface::geometry::FrameSize;
use retinaface::geometry::{Face, Landmarks, Point, Rect};

#[path = "../../../../tests/common/mod.rs"]
pub mod project;

/// Initialises GStreamer and registers the plugin.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gstretinaface::plugin_register_static().unwrap();
    });
}

/// A test without progress for this long has hung. The total time of a test is not limited, since
/// the machine can be busy.
const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(300);

thread_local! {
    /// The progress counter of the test that runs on this thread.
    static PROGRESS: RefCell<Arc<AtomicU64>> = RefCell::default();
}

/// A progress counter that a test can move to its threads and callbacks.
#[derive(Clone)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// The counter of the test that runs on this thread.
    pub fn of_current_test() -> Self {
        Self(PROGRESS.with_borrow(Arc::clone))
    }

    /// Reports progress, for example a frame or a line of output.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Spawns a thread whose pipelines report progress to the test that runs on this thread.
pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    let progress = Progress::of_current_test();
    std::thread::spawn(move || {
        PROGRESS.set(progress.0);
        body()
    })
}

/// Runs `body` and panics if it makes no progress: a pipeline that hangs must not block the tests.
pub fn with_watchdog(body: impl FnOnce() + Send + 'static) {
    init();
    let progress = Arc::new(AtomicU64::new(0));
    let (done, finished) = channel::<()>();
    let counter = Arc::clone(&progress);
    let thread = std::thread::spawn(move || {
        PROGRESS.set(counter);
        // Dropped when the body returns or panics.
        let _done = done;
        body();
    });
    let (mut last_count, mut last_time) = (0, Instant::now());
    loop {
        match finished.recv_timeout(Duration::from_secs(1)) {
            Err(RecvTimeoutError::Disconnected) => {
                if let Err(payload) = thread.join() {
                    std::panic::resume_unwind(payload);
                }
                return;
            }
            _ => {
                let count = progress.load(Ordering::Relaxed);
                if count != last_count {
                    (last_count, last_time) = (count, Instant::now());
                }
                assert!(last_time.elapsed() < WATCHDOG_TIMEOUT, "no progress for {WATCHDOG_TIMEOUT:?}");
            }
        }
    }
}

/// Waits until `condition` is true. The watchdog of the test limits the wait.
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns a function that gives the number of buffers that have passed a pad of `element`.
pub fn count_buffers(element: &gst::Element, pad: &str) -> impl Fn() -> usize + use<> {
    let count = Arc::new(AtomicU64::new(0));
    let (counted, progress) = (Arc::clone(&count), Progress::of_current_test());
    element.static_pad(pad).unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        progress.advance();
        gst::PadProbeReturn::Ok
    });
    move || count.load(Ordering::Relaxed) as usize
}

/// Runs a command and returns its output. Files that grow in `directory` count as progress.
pub fn output_of(command: &mut std::process::Command, directory: Option<&std::path::Path>) -> std::process::Output {
    let progress = Progress::of_current_test();
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let (done, finished) = channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        done.send(()).unwrap();
        output
    });
    let total_size = || {
        let entries = directory.and_then(|directory| std::fs::read_dir(directory).ok());
        entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .map(|data| data.len() + 1)
            .sum::<u64>()
    };
    let mut last_size = 0;
    while finished.recv_timeout(Duration::from_secs(1)).is_err() {
        let size = total_size();
        if size != last_size {
            last_size = size;
            progress.advance();
        }
    }
    progress.advance();
    waiter.join().unwrap()
}

/// The plugin library that cargo built for these tests.
pub fn plugin_file() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let file = deps.join("libgstretinaface.so");
    assert!(file.exists(), "{} is missing: cargo builds it with the tests", file.display());
    file
}

/// A directory for `CARGO_TARGET_DIR` whose `plugins` contains only the plugin under test.
pub fn target_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("plugins")).unwrap();
    std::os::unix::fs::symlink(plugin_file(), directory.path().join("plugins/libgstretinaface.so")).unwrap();
    directory
}

/// A command for gst-launch-1.0, or a script that runs it, with the plugin under test and its own
/// registry.
pub fn command(program: &str, target: &tempfile::TempDir) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command
        .current_dir(project::root())
        .env("CARGO_TARGET_DIR", target.path())
        .env("GST_PLUGIN_PATH", target.path().join("plugins"))
        .env("GST_REGISTRY", target.path().join("registry.bin"))
        .env("G_DEBUG", "fatal_warnings");
    command
}

/// Landmarks of an upright frontal face in a box.
pub fn landmarks_in(rect: Rect) -> Landmarks {
    retinaface::geometry::ARCFACE_TEMPLATE
        .map(|point| Point::new(rect.x + point.x * rect.w / 112.0, rect.y + point.y * rect.h / 112.0))
}

/// A face with upright landmarks.
pub fn face(score: f32, x: f32, y: f32, w: f32, h: f32) -> Face {
    let rect = Rect { x, y, w, h };
    Face { score, rect, landmarks: Some(landmarks_in(rect)), ..Face::default() }
}

pub fn info(format: gst_video::VideoFormat, width: u32, height: u32) -> gst_video::VideoInfo {
    gst_video::VideoInfo::builder(format, width, height).fps(gst::Fraction::new(25, 1)).build().unwrap()
}

/// Frame `number` at 25 frames per second. Adjacent pixels differ.
pub fn frame(info: &gst_video::VideoInfo, number: u64) -> gst::Buffer {
    Progress::of_current_test().advance();
    let mut buffer = gst::Buffer::from_mut_slice((0..info.size()).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let out = buffer.get_mut().unwrap();
    out.set_pts(gst::ClockTime::from_mseconds(40) * number);
    out.set_duration(gst::ClockTime::from_mseconds(40));
    buffer
}

/// The same as [`frame`], with faces attached.
pub fn frame_with_faces(info: &gst_video::VideoInfo, number: u64, faces: &[Face]) -> gst::Buffer {
    let mut buffer = frame(info, number);
    let out = buffer.get_mut().unwrap();
    face_meta::attach(out, faces, (info.width() as usize, info.height() as usize)).unwrap();
    buffer
}

/// Halves the width of the region of interest `index`, as an element that crops the frame would.
pub fn clip_roi(buffer: &mut gst::BufferRef, index: usize) {
    let mut roi = buffer.iter_meta_mut::<gst_video::VideoRegionOfInterestMeta>().nth(index).unwrap();
    let (x, y, w, h) = roi.rect();
    roi.set_rect((x, y, w / 2, h));
}

/// Runs a pipeline until EOS and returns the samples of its appsink named `out`.
pub fn run(description: &str) -> Vec<gst::Sample> {
    try_run(description).unwrap_or_else(|error| panic!("{description}: {error}"))
}

/// An error message of a pipeline.
#[derive(Debug)]
pub struct PipelineError {
    /// The domain, the code and the text for the user.
    error: gst::glib::Error,
    /// The text for the user and the debug details.
    pub text: String,
}

impl PipelineError {
    /// The content of an error message.
    pub fn new(message: &gst::message::Error) -> Self {
        let error = message.error();
        let text = format!("{error} {}", message.debug().unwrap_or_default());
        Self { error, text }
    }

    /// Asserts the domain and the code.
    pub fn assert_code<T: gst::glib::error::ErrorDomain + std::fmt::Debug + PartialEq>(&self, code: T) {
        assert_eq!(self.error.kind::<T>(), Some(code), "{:?}", self.error);
    }
}

impl std::fmt::Display for PipelineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The same as [`run`], but returns the first error message of the pipeline.
pub fn try_run(description: &str) -> Result<Vec<gst::Sample>, PipelineError> {
    init();
    let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("out").map(|sink| sink.downcast::<gst_app::AppSink>().unwrap());
    let samples = Arc::new(std::sync::Mutex::new(Vec::new()));
    if let Some(sink) = &sink {
        sink.set_property("sync", false);
        let kept = Arc::clone(&samples);
        let progress = Progress::of_current_test();
        let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
            progress.advance();
            kept.lock().unwrap().push(sink.pull_sample().map_err(|_| gst::FlowError::Eos)?);
            Ok(gst::FlowSuccess::Ok)
        });
        sink.set_callbacks(callbacks.build());
    }
    let bus = pipeline.bus().unwrap();
    let started = pipeline.set_state(gst::State::Playing);
    let mut result = Ok(());
    for message in bus.iter_timed(gst::ClockTime::NONE) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => {
                result = Err(PipelineError::new(error));
                break;
            }
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    result?;
    assert!(started.is_ok(), "{description} does not start and posts no error");
    Ok(std::mem::take(&mut *samples.lock().unwrap()))
}

/// The faces attached to a sample, in pixels of its frame.
pub fn read_faces(sample: &gst::Sample) -> Vec<Face> {
    let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
    let pixel_aspect = face_meta::to_pixel_aspect(info.par());
    let size = FrameSize { width: info.width() as usize, height: info.height() as usize, pixel_aspect };
    face_meta::read(sample.buffer().unwrap(), size).into_faces()
}

/// The texts of the warnings that are on a bus.
pub fn warnings(bus: &gst::Bus) -> Vec<String> {
    let text = |message: gst::Message| match message.view() {
        gst::MessageView::Warning(warning) => Some(warning.error().to_string()),
        _ => None,
    };
    bus.iter().filter_map(text).collect()
}

/// The default model, with nodes that fail on each frame whose corner at the top left is white.
pub fn model_that_fails_on_white() -> tempfile::NamedTempFile {
    let part = project::root().join("tests/fixtures/models/fails_on_white.part");
    // Bytes of messages that follow each other are one message.
    let model = [project::default_model(), part].map(|file| std::fs::read(file).unwrap()).concat();
    let file = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
    std::fs::write(file.path(), model).unwrap();
    file
}

/// A path in quotes, for a pipeline description.
pub fn quoted(path: &std::path::Path) -> String {
    format!("\"{}\"", path.display())
}

/// The quoted path of a media file.
pub fn clip(name: &str) -> String {
    quoted(&project::media(name))
}

/// A small model that tests/fixtures/models/make_models.py has made.
pub fn fixture_model(name: &str) -> String {
    quoted(&project::root().join("tests/fixtures/models").join(name))
}
