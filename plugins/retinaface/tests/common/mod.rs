//! What the element tests share: the plugin registered, frames with known faces, a watchdog.

#![allow(dead_code, reason = "each test file uses its part of this")]
#![allow(unreachable_pub, reason = "a module of many test crates")]

use std::path::PathBuf;
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use gst::prelude::*;
use gstretinaface::meta::FrameSize;
use retinaface::face::{Face, Landmarks, Point, Rect};

#[path = "../../../../tests/common/mod.rs"]
pub mod project;

/// GStreamer with our elements in it.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gstretinaface::plugin_register_static().unwrap();
    });
}

/// Runs `body` and fails if it is not done in time: a pipeline that hangs must not hang the tests.
pub fn watched(body: impl FnOnce() + Send + 'static) {
    init();
    let (done, finished) = channel::<()>();
    let thread = std::thread::spawn(move || {
        // Dropped when the body ends, however it ends.
        let _done = done;
        body();
    });
    match finished.recv_timeout(Duration::from_secs(300)) {
        Err(RecvTimeoutError::Disconnected) => {
            if let Err(payload) = thread.join() {
                std::panic::resume_unwind(payload);
            }
        }
        _ => panic!("not done after five minutes"),
    }
}

/// The plugin's file as cargo built it for these tests.
pub fn plugin_file() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let file = deps.join("libgstretinaface.so");
    assert!(file.exists(), "cargo builds {} with the tests", file.display());
    file
}

/// A target folder, for `CARGO_TARGET_DIR`, whose `plugins` holds nothing but the plugin under test.
pub fn target_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::os::unix::fs::symlink(plugin_file(), folder.path().join("plugins/libgstretinaface.so")).unwrap();
    folder
}

/// gst-launch-1.0, or a script that runs it, with the plugin under test in a registry of its own.
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

/// Landmarks of an upright face in a box.
pub fn landmarks_in(rect: Rect) -> Landmarks {
    retinaface::align::ARCFACE_TEMPLATE
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

/// Frame number `number` of 25 a second: a gradient, so that pixels differ.
pub fn frame(info: &gst_video::VideoInfo, number: u64) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_mut_slice((0..info.size()).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let out = buffer.get_mut().unwrap();
    out.set_pts(gst::ClockTime::from_mseconds(40) * number);
    out.set_duration(gst::ClockTime::from_mseconds(40));
    buffer
}

/// That frame with faces on it.
pub fn frame_with(info: &gst_video::VideoInfo, number: u64, faces: &[Face]) -> gst::Buffer {
    let mut buffer = frame(info, number);
    let out = buffer.get_mut().unwrap();
    gstretinaface::meta::attach(out, faces, (info.width() as usize, info.height() as usize)).unwrap();
    buffer
}

/// Runs a pipeline to its end and gives what its appsink named `out` got.
pub fn run(description: &str) -> Vec<gst::Sample> {
    try_run(description).unwrap_or_else(|error| panic!("{description}: {error}"))
}

/// As [`run`], or the first error that it posted: its text, then its debug text.
pub fn try_run(description: &str) -> Result<Vec<gst::Sample>, String> {
    init();
    let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("out").map(|sink| sink.downcast::<gst_app::AppSink>().unwrap());
    let samples = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    if let Some(sink) = &sink {
        sink.set_property("sync", false);
        let kept = std::sync::Arc::clone(&samples);
        let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(move |sink| {
            kept.lock().unwrap().push(sink.pull_sample().map_err(|_| gst::FlowError::Eos)?);
            Ok(gst::FlowSuccess::Ok)
        });
        sink.set_callbacks(callbacks.build());
    }
    let bus = pipeline.bus().unwrap();
    let started = pipeline.set_state(gst::State::Playing);
    let mut result = Ok(());
    for message in bus.iter_timed(gst::ClockTime::from_seconds(100)) {
        match message.view() {
            gst::MessageView::Eos(_) => break,
            gst::MessageView::Error(error) => {
                result = Err(format!("{} {}", error.error(), error.debug().unwrap_or_default()));
                break;
            }
            _ => {}
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    result?;
    started.map_err(|error| error.to_string())?;
    Ok(std::mem::take(&mut *samples.lock().unwrap()))
}

/// The faces on a sample, in its own pixels.
pub fn faces_on(sample: &gst::Sample) -> Vec<Face> {
    let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
    let size = FrameSize { width: info.width() as usize, height: info.height() as usize, pixel_aspect: info.par() };
    gstretinaface::meta::read(sample.buffer().unwrap(), size).into_faces()
}

/// A quoted path for a pipeline description.
pub fn quoted(path: &std::path::Path) -> String {
    format!("\"{}\"", path.display())
}

pub fn clip(name: &str) -> String {
    quoted(&project::media(name))
}
