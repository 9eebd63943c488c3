//! Streams from memory through the element `retinaface`.

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use crossbeam_channel::{Receiver, unbounded};
use gst::prelude::*;

use super::frames::Nv12Frames;
use crate::args::ModelArgs;
use crate::elements;

/// A stream that yields no frame for this long has stalled.
const STALL_TIMEOUT: gst::ClockTime = gst::ClockTime::from_seconds(60);
/// Frame rate in the caps of streams that are not paced.
const NOMINAL_FPS: i32 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    Sync,
    Latest,
}

/// Properties of the element.
#[derive(Debug, Args)]
pub(super) struct ElementArgs {
    /// Longer side of the model's input in pixels; 0: the size of the frame
    #[arg(long, value_name = "PIXELS", default_value_t = 640, value_parser = clap::value_parser!(u32).range(0..=16384))]
    pub(super) input_size: u32,
    /// Property `mode` of the element
    #[arg(long, value_enum, default_value_t = Mode::Sync)]
    pub(super) mode: Mode,
    /// Property `inflight` of the element: maximum number of frames of a stream in the element; 0:
    /// chosen by the element
    #[arg(long, value_name = "N", default_value_t = 0)]
    inflight: u32,
    /// Property `batch-size` of the element: maximum number of frames per inference; 0: chosen by
    /// the element
    #[arg(long, value_name = "N", default_value_t = 0)]
    batch_size: u32,
    /// Property `parallel-runs` of the element: number of concurrent inferences
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel_runs: u32,
}

/// A pipeline `appsrc ! retinaface ! appsink`.
pub(super) struct Stream {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    sink: gst_app::AppSink,
    element: gst::Element,
    frames: Vec<gst::Buffer>,
    /// For each frame, the time from the element's sink pad to its source pad.
    delays: Receiver<Duration>,
}

/// Frame memory that many buffers share.
struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Stream {
    /// Starts a pipeline. `fps` only sets the caps; see [`run_round`].
    pub(super) fn start(
        model: &Path,
        model_args: &ModelArgs,
        element_args: &ElementArgs,
        frames: &Nv12Frames,
        fps: u32,
    ) -> anyhow::Result<Self> {
        let (width, height) = (frames.width as u32, frames.height as u32);
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Nv12, width, height)
            .fps(gst::Fraction::new(if fps > 0 { fps as i32 } else { NOMINAL_FPS }, 1))
            .build()?;
        let element = elements::retinaface(model, model_args)
            .property("input-size", element_args.input_size)
            .property("inflight", element_args.inflight)
            .property("batch-size", element_args.batch_size)
            .property("parallel-runs", element_args.parallel_runs)
            .property("max-age", 0u32)
            .property_from_str("mode", if element_args.mode == Mode::Latest { "latest" } else { "sync" })
            .build()?;
        let source = gst_app::AppSrc::builder()
            .caps(&info.to_caps()?)
            .format(gst::Format::Time)
            .block(true)
            .max_buffers(2)
            .build();
        let sink = gst_app::AppSink::builder().sync(false).max_buffers(4).build();
        let pipeline = gst::Pipeline::new();
        pipeline.add_many([source.upcast_ref(), &element, sink.upcast_ref()])?;
        gst::Element::link_many([source.upcast_ref(), &element, sink.upcast_ref()])?;
        let (entry_sender, entries) = unbounded();
        let (delay_sender, delays) = unbounded();
        add_buffer_probe(&element, "sink", move || {
            let _ = entry_sender.send(Instant::now());
        })?;
        add_buffer_probe(&element, "src", move || {
            if let Ok(entry) = entries.try_recv() {
                let _ = delay_sender.send(entry.elapsed());
            }
        })?;
        pipeline.set_state(gst::State::Playing).map_err(|error| pipeline_error(&pipeline, error.into()))?;
        let frames = frames.frames.iter().map(|frame| gst::Buffer::from_slice(SharedBytes(Arc::clone(frame))));
        let frames = frames.collect();
        Ok(Self { pipeline, source, sink, element, frames, delays })
    }

    /// The element's property `stats`.
    pub(super) fn stats(&self) -> gst::Structure {
        self.element.property("stats")
    }

    fn send(&self, frames: u32, fps: u32) {
        let start = Instant::now();
        for index in 0..frames {
            if fps > 0 {
                let due = start + Duration::from_secs(1) * index / fps;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let mut buffer = self.frames[index as usize % self.frames.len()].copy();
            buffer.make_mut().set_pts(gst::ClockTime::from_nseconds(start.elapsed().as_nanos() as u64));
            if self.source.push_buffer(buffer).is_err() {
                return;
            }
        }
    }

    fn receive(&self, frames: u32) -> Vec<Duration> {
        (0..frames)
            .map_while(|_| self.sink.try_pull_sample(STALL_TIMEOUT).and_then(|_| self.delays.try_recv().ok()))
            .collect()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// Calls `callback` for each buffer that passes a pad of the element.
fn add_buffer_probe(
    element: &gst::Element,
    pad: &str,
    callback: impl Fn() + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let pad = element.static_pad(pad).with_context(|| format!("the element has no pad {pad}"))?;
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        callback();
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// The error message on the pipeline's bus, or `fallback` if there is none.
fn pipeline_error(pipeline: &gst::Pipeline, fallback: anyhow::Error) -> anyhow::Error {
    let message = pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
    match message.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => anyhow::anyhow!("{}", error.error()),
        _ => fallback,
    }
}

/// The result of [`run_round`].
pub(super) struct Round {
    pub(super) seconds: f64,
    /// For each frame, the time from the element's sink pad to its source pad.
    pub(super) delays: Vec<Duration>,
}

/// Sends `frames` frames through each stream, all streams at the same time. `fps` is the rate of
/// each stream; 0: as fast as the element accepts frames.
pub(super) fn run_round(streams: &[Stream], frames: u32, fps: u32) -> anyhow::Result<Round> {
    let barrier = Barrier::new(streams.len() + 1);
    thread::scope(|scope| {
        let threads = streams.iter().map(|stream| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                stream.send(frames, fps);
            });
            scope.spawn(move || stream.receive(frames))
        });
        let threads = threads.collect::<Vec<_>>();
        barrier.wait();
        let start = Instant::now();
        let mut delays = Vec::new();
        for thread in threads {
            delays.extend(thread.join().map_err(|_| anyhow::anyhow!("a stream's thread panicked"))?);
        }
        let seconds = start.elapsed().as_secs_f64();
        let expected = frames as usize * streams.len();
        if delays.len() < expected {
            let missing = expected - delays.len();
            let error = anyhow::anyhow!("the element did not output {missing} of {expected} frames");
            return Err(streams.iter().fold(error, |error, stream| pipeline_error(&stream.pipeline, error)));
        }
        Ok(Round { seconds, delays })
    })
}
