//! `retinaface bench`: how many frames a second the element takes here, and what each of its stages costs.
//!
//! Frames are decoded first and held in memory. They go through the element `retinaface` as GStreamer has it, which is
//! asked for by name as gst-launch would. A bare session, the model alone on a tensor that never changes, runs in turns
//! with it: a shared machine changes its speed within seconds, so that only what was measured side by side compares.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use crossbeam_channel::{Receiver, unbounded};
use gst::prelude::*;
use retinaface::detector::{Detector, Settings, SharedModel};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface::letterbox::InputSize;
use retinaface::model::{Kernels, Model, Options};
use retinaface::tensors::Feed;
use serde::Serialize;

use super::{Outcome, Run, home, model_path};

/// Frames that are held in memory, taken again and again.
const HELD: usize = 24;
/// Pictures in the bare session's part of a round.
const BARE: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Sync,
    Latest,
}

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Video whose frames are taken
    clip: PathBuf,
    /// Size of the frames
    #[arg(long, value_name = "WxH", default_value = "1920x1080", value_parser = size)]
    frame_size: (usize, usize),
    /// Streams at once, on one model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    streams: u32,
    /// Frames of each stream, in rounds
    #[arg(long, value_name = "N", default_value_t = 480, value_parser = clap::value_parser!(u32).range(1..))]
    frames: u32,
    /// Frames a second that each stream brings; 0: as fast as they are taken
    #[arg(long, value_name = "N", default_value_t = 0)]
    fps: u32,
    /// Put so many faces, all that of the clip, into each frame instead of the clip's pictures
    #[arg(long, value_name = "N")]
    faces: Option<usize>,
    /// ONNX file of the detector; none: $RETINAFACE_MODEL, beside the program, or the installed one
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Longer side of the model's input in pixels; 0: the frame's own size
    #[arg(long, value_name = "PIXELS", default_value_t = 640, value_parser = clap::value_parser!(u32).range(0..=16384))]
    input_size: u32,
    /// As the element's property
    #[arg(long, value_enum, default_value_t = Mode::Sync)]
    mode: Mode,
    /// As the element's property
    #[arg(long, value_name = "N", default_value_t = 0)]
    inflight: u32,
    /// As the element's property
    #[arg(long, value_name = "N", default_value_t = 0)]
    batch_size: u32,
    /// As the element's property
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    parallel_runs: u32,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: Run,
}

/// `1920x1080`.
fn size(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let inside = |side: &usize| (16..=8192).contains(side) && side.is_multiple_of(2);
    parsed
        .filter(|(width, height)| inside(width) && inside(height))
        .ok_or_else(|| "not WIDTHxHEIGHT with even sides of 16 to 8192".to_owned())
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    streams: u32,
    width: usize,
    height: usize,
    input_width: usize,
    input_height: usize,
    provider: &'static str,
    threads: usize,
    precision: String,
    /// Frames that came out, of all streams.
    frames: u64,
    /// Frames that went in and did not come out.
    lost: u64,
    seconds: f64,
    /// Frames a second, of all streams.
    rate: f64,
    /// The bare session's pictures a second, in turns with it; null at a given rate.
    bare_rate: Option<f64>,
    /// The median of `rate / bare_rate` of the rounds.
    rate_to_bare: Option<f64>,
    /// How long a frame was in the element, from pad to pad, in ns.
    delay_p50: u64,
    delay_p99: u64,
    delay_max: u64,
    /// Memory in use before the streams were made, and at the end.
    resident_start_kb: u64,
    resident_end_kb: u64,
    /// The first stream's `stats`.
    stats: serde_json::Value,
}

impl Bench {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        opencv::core::set_log_level(opencv::core::LogLevel::LOG_LEVEL_SILENT)?;
        gst::init().context("GStreamer does not start")?;
        find_element()?;
        let model = model_path(self.model.as_ref())?;
        let mut frames = decode(&self.clip, self.frame_size)?;
        if let Some(faces) = self.faces {
            frames = vec![Arc::new(self.crowd(&model, &frames, faces)?)];
        }
        let mut options = self.run.options();
        options.progress = None;
        // ONNX Runtime as anybody has it: a comparison with kernels of ours in it would say less.
        let mut bare = Model::open(&model, &Options { kernels: Kernels::Runtime, ..options.clone() })?;
        let running = bare.running().clone();
        let (width, height) = self.frame_size;
        let letterbox = bare.contract().letterbox(width, height, InputSize::from(self.input_size), 1.0);
        let (input_width, input_height) = letterbox.input();
        let feed = Feed::Floats { width: input_width, height: input_height };
        let mut tensors = [bare.maker().tensors(feed)?];
        let mut bare_round = || -> anyhow::Result<f64> {
            let start = Instant::now();
            for _ in 0..BARE {
                bare.run(&mut tensors).map_err(anyhow::Error::msg)?;
            }
            Ok(BARE as f64 / start.elapsed().as_secs_f64())
        };
        let compares = self.fps == 0 && self.mode == Mode::Sync;
        if compares {
            bare_round()?;
        }

        let resident_start_kb = resident_kb()?;
        let streams = (0..self.streams).map(|_| Stream::start(self, &model, &frames)).collect::<Result<Vec<_>, _>>()?;
        // Whatever is made once is made now.
        round(&streams, 8, self.fps)?;
        let (mut taken, mut seconds, mut delays) = (0, 0.0, Vec::new());
        let (mut bares, mut ratios) = (Vec::new(), Vec::new());
        let mut left = self.frames;
        while left > 0 {
            let each = if compares { left.min(48) } else { left };
            left -= each;
            let bare = if compares { Some(bare_round()?) } else { None };
            let done = round(&streams, each, self.fps)?;
            if let Some(bare) = bare {
                ratios.push(done.delays.len() as f64 / done.seconds / bare);
                bares.push(bare);
            }
            taken += done.delays.len() as u64;
            seconds += done.seconds;
            delays.extend(done.delays);
        }
        let stats = json(&streams[0].element.property::<gst::Structure>("stats"));
        let resident_end_kb = resident_kb()?;
        drop(streams);
        delays.sort_unstable();
        let delay = |part: f64| {
            let at = ((delays.len() as f64 * part) as usize).min(delays.len().saturating_sub(1));
            delays.get(at).map_or(0, |delay: &Duration| delay.as_nanos() as u64)
        };
        let report = Report {
            streams: self.streams,
            width,
            height,
            input_width,
            input_height,
            provider: running.provider.name(),
            threads: options.threads,
            precision: options.precision.to_string(),
            frames: taken,
            lost: u64::from(self.frames) * u64::from(self.streams) - taken,
            seconds,
            rate: taken as f64 / seconds,
            bare_rate: median(bares),
            rate_to_bare: median(ratios),
            delay_p50: delay(0.5),
            delay_p99: delay(0.99),
            delay_max: delay(1.0),
            resident_start_kb,
            resident_end_kb,
            stats,
        };
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
        } else {
            report.print()?;
        }
        Ok(Outcome::Found)
    }

    /// A frame of grey with the clip's first face so many times in it.
    fn crowd(&self, model: &Path, frames: &[Arc<Vec<u8>>], faces: usize) -> anyhow::Result<Vec<u8>> {
        let (width, height) = self.frame_size;
        let shared = SharedModel::open(model, &self.run.options())?;
        let detector = Detector::new(&shared);
        let settings = Settings { input_size: InputSize::Longest(640), ..Settings::default() };
        let info = ImageInfo::new(PixelFormat::Nv12, width, height);
        let found = frames.iter().find_map(|frame| {
            let (luma, colour) = frame.split_at(width * height);
            let view = ImageView::new(info, &[luma, colour], &[width, width]).ok()?;
            let rect = detector.detect(&view, &settings).ok()?.faces.first()?.rect;
            Some((frame, rect))
        });
        let (frame, rect) = found.context("no face was found in the clip")?;
        let side = rect.w.max(rect.h) * 1.3;
        let (centre_x, centre_y) = (rect.x + rect.w / 2.0, rect.y + rect.h / 2.0);
        // The largest even square of which so many fit.
        let fitting = |cell: usize| (width / cell) * (height / cell) >= faces;
        let cell = (2..=height.min(width)).rev().step_by(2).map(|cell| cell & !1).find(|cell| fitting(*cell));
        let cell = cell.context("so many faces do not fit into the frame")?;
        let cols = width / cell;
        let mut crowd = vec![128; frame.len()];
        for number in 0..faces {
            let (left, top) = (number % cols * cell, number / cols * cell);
            for row in (top..top + cell).filter(|row| *row < height) {
                for col in left..left + cell {
                    let from = |at: usize, begin: usize, centre: f32, most: usize| {
                        let place = centre - side / 2.0 + (at - begin) as f32 * side / cell as f32;
                        place.clamp(0.0, (most - 1) as f32) as usize
                    };
                    let (x, y) = (from(col, left, centre_x, width), from(row, top, centre_y, height));
                    crowd[row * width + col] = frame[y * width + x];
                    if row % 2 == 0 && col % 2 == 0 {
                        let (to, at) =
                            (width * height + row / 2 * width + col, width * height + y / 2 * width + (x & !1));
                        crowd[to..to + 2].copy_from_slice(&frame[at..at + 2]);
                    }
                }
            }
        }
        Ok(crowd)
    }
}

/// Sees to it that there is an element `retinaface`: GStreamer's, or one beside this program.
fn find_element() -> anyhow::Result<()> {
    if let Some(home) = home() {
        for folder in ["../lib/gstreamer-1.0", "../plugins"] {
            gst::Registry::get().scan_path(home.join(folder));
        }
    }
    ensure!(
        gst::ElementFactory::find("retinaface").is_some(),
        "GStreamer has no element retinaface: `. ./env.sh` in the project's folder, or set GST_PLUGIN_PATH to the \
         folder of libgstretinaface.so"
    );
    Ok(())
}

fn resident_kb() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The clip's first frames as NV12 of that size.
fn decode(clip: &Path, (width, height): (usize, usize)) -> anyhow::Result<Vec<Arc<Vec<u8>>>> {
    let pipeline = gst::parse::launch(&format!(
        "filesrc name=in ! decodebin ! videoconvert ! videoscale add-borders=false \
         ! video/x-raw,format=NV12,width={width},height={height},pixel-aspect-ratio=1/1 ! appsink name=out sync=false max-buffers=2"
    ))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().expect("several elements make a pipeline");
    pipeline.by_name("in").context("filesrc")?.set_property("location", clip);
    let sink = pipeline.by_name("out").and_downcast::<gst_app::AppSink>().context("appsink")?;
    let wrong = || format!("{} cannot be decoded", clip.display());
    let bus = pipeline.bus().context("a pipeline has a bus")?;
    let started = pipeline.set_state(gst::State::Playing);
    let mut frames = Vec::new();
    let mut error = None;
    while frames.len() < HELD && started.is_ok() && !sink.is_eos() {
        error = bus.pop_filtered(&[gst::MessageType::Error]);
        if error.is_some() {
            break;
        }
        let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) else { continue };
        let info = sample.caps().and_then(|caps| gst_video::VideoInfo::from_caps(caps).ok()).with_context(wrong)?;
        let buffer = sample.buffer().with_context(wrong)?;
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).ok().with_context(wrong)?;
        let mut bytes = Vec::with_capacity(width * height * 3 / 2);
        for (plane, rows) in [(0, height), (1, height / 2)] {
            let stride = gst_video::VideoFrameExt::plane_stride(&frame)[plane] as usize;
            let data = frame.plane_data(plane as u32).with_context(wrong)?;
            data.chunks(stride).take(rows).for_each(|row| bytes.extend_from_slice(&row[..width]));
        }
        frames.push(Arc::new(bytes));
    }
    let error = error.or_else(|| bus.pop_filtered(&[gst::MessageType::Error]));
    pipeline.set_state(gst::State::Null)?;
    if let Some(gst::MessageView::Error(error)) = error.as_ref().map(|message| message.view()) {
        bail!("{}: {}", wrong(), error.error());
    }
    ensure!(!frames.is_empty(), "{}: it has no frames", wrong());
    Ok(frames)
}

/// A pipeline from memory through the element into nothing.
struct Stream {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    sink: gst_app::AppSink,
    element: gst::Element,
    frames: Vec<gst::Buffer>,
    /// How long each frame was in the element.
    delays: Receiver<Duration>,
}

/// Memory of a frame that many buffers show.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Stream {
    fn start(bench: &Bench, model: &Path, frames: &[Arc<Vec<u8>>]) -> anyhow::Result<Self> {
        let (width, height) = bench.frame_size;
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Nv12, width as u32, height as u32)
            .fps(gst::Fraction::new(if bench.fps > 0 { bench.fps as i32 } else { 30 }, 1))
            .build()?;
        let Run { execution_provider, device_id, precision, kernels, allow_cpu_fallback, threads, .. } = &bench.run;
        let element = gst::ElementFactory::make("retinaface")
            .property("model-file", model)
            .property("input-size", bench.input_size)
            .property("threads", *threads as u32)
            .property("device-id", *device_id)
            .property("allow-cpu-fallback", *allow_cpu_fallback)
            .property("inflight", bench.inflight)
            .property("batch-size", bench.batch_size)
            .property("parallel-runs", bench.parallel_runs)
            .property("model-options", bench.run.overrides().to_string())
            .property("max-age", 0u32)
            .property_from_str("execution-provider", execution_provider.name())
            .property_from_str("precision", precision.name())
            .property_from_str("kernels", kernels.name())
            .property_from_str("mode", if bench.mode == Mode::Latest { "latest" } else { "sync" })
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
        let (came, times) = unbounded();
        let (gone, delays) = unbounded();
        probe(&element, "sink", move || {
            let _ = came.send(Instant::now());
        })?;
        probe(&element, "src", move || {
            if let Ok(time) = times.try_recv() {
                let _ = gone.send(time.elapsed());
            }
        })?;
        pipeline.set_state(gst::State::Playing).map_err(|error| said(&pipeline, error.into()))?;
        let frames = frames.iter().map(|frame| gst::Buffer::from_slice(Shared(Arc::clone(frame)))).collect();
        Ok(Self { pipeline, source, sink, element, frames, delays })
    }
}

/// Calls `act` for each buffer that passes a pad of the element.
fn probe(element: &gst::Element, pad: &str, act: impl Fn() + Send + Sync + 'static) -> anyhow::Result<()> {
    let pad = element.static_pad(pad).with_context(|| format!("the element has no pad {pad}"))?;
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        act();
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// The pipeline's own error, if it has one to tell.
fn said(pipeline: &gst::Pipeline, error: anyhow::Error) -> anyhow::Error {
    let message = pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
    match message.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(error)) => anyhow::anyhow!("{}", error.error()),
        _ => error,
    }
}

/// What a round gave: how long it took, and how long each frame that came out was in the element.
struct Round {
    seconds: f64,
    delays: Vec<Duration>,
}

/// Sends `each` frames through each stream at once.
fn round(streams: &[Stream], each: u32, fps: u32) -> anyhow::Result<Round> {
    let barrier = Barrier::new(streams.len() + 1);
    thread::scope(|scope| {
        let threads = streams.iter().map(|stream| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                stream.send(each, fps);
            });
            scope.spawn(move || stream.receive(each))
        });
        let threads = threads.collect::<Vec<_>>();
        barrier.wait();
        let start = Instant::now();
        let mut delays = Vec::new();
        for thread in threads {
            delays.extend(thread.join().map_err(|_| anyhow::anyhow!("a stream's thread panicked"))?);
        }
        let seconds = start.elapsed().as_secs_f64();
        let expected = each as usize * streams.len();
        if delays.len() < expected {
            let missing =
                anyhow::anyhow!("{} of {expected} frames did not come out of the element", expected - delays.len());
            let error = streams.iter().fold(missing, |error, stream| said(&stream.pipeline, error));
            return Err(error);
        }
        Ok(Round { seconds, delays })
    })
}

impl Stream {
    fn send(&self, frames: u32, fps: u32) {
        let start = Instant::now();
        for number in 0..frames {
            if fps > 0 {
                let due = start + Duration::from_secs(1) * number / fps;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let mut buffer = self.frames[number as usize % self.frames.len()].copy();
            buffer.make_mut().set_pts(gst::ClockTime::from_nseconds(start.elapsed().as_nanos() as u64));
            if self.source.push_buffer(buffer).is_err() {
                return;
            }
        }
    }

    fn receive(&self, frames: u32) -> Vec<Duration> {
        const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(60);
        (0..frames)
            .map_while(|_| self.sink.try_pull_sample(PATIENCE).and_then(|_| self.delays.try_recv().ok()))
            .collect()
    }
}

/// A structure of numbers as JSON.
fn json(structure: &gst::StructureRef) -> serde_json::Value {
    let field = |(name, value): (&gst::glib::GStr, &gst::glib::SendValue)| {
        let value = match (value.get::<u64>(), value.get::<gst::Structure>()) {
            (Ok(number), _) => number.into(),
            (_, Ok(inner)) => json(&inner),
            _ => serde_json::Value::Null,
        };
        (name.to_string(), value)
    };
    structure.iter().map(field).collect::<serde_json::Map<_, _>>().into()
}

impl Report {
    fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let Self { streams, width, height, input_width, input_height, provider, precision, .. } = self;
        writeln!(out, "streams:    {streams} of {width}x{height}, input {input_width}x{input_height}")?;
        writeln!(out, "provider:   {provider}, precision {precision}")?;
        writeln!(out, "frames:     {} in {:.1} s, {} lost", self.frames, self.seconds, self.lost)?;
        writeln!(out, "rate:       {:.1} frames/s", self.rate)?;
        if let (Some(bare), Some(ratio)) = (self.bare_rate, self.rate_to_bare) {
            writeln!(
                out,
                "model:      {bare:.1} pictures/s in ONNX Runtime alone; the element has {ratio:.3} of that"
            )?;
        }
        let ms = |value: &serde_json::Value| value.as_u64().unwrap_or(0) as f64 / 1e6;
        let [p50, p99, max] = [self.delay_p50, self.delay_p99, self.delay_max].map(|delay| delay as f64 / 1e6);
        writeln!(out, "in element: p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")?;
        writeln!(out, "memory:     {} MB, at first {} MB", self.resident_end_kb / 1024, self.resident_start_kb / 1024)?;
        writeln!(out, "stats of the first stream:")?;
        let stats = &self.stats;
        let count = |name: &str| stats[name].as_u64().unwrap_or(0);
        let [inferred, skipped, faces] = ["inferred", "skipped", "faces"].map(count);
        writeln!(out, "  {} frames, {inferred} inferred, {skipped} skipped, {faces} faces", count("frames"))?;
        writeln!(out, "  batches: {}", stats["batches"])?;
        writeln!(out, "  {:<11} {:>9} {:>9} {:>9}", "ms", "p50", "p95", "p99")?;
        for stage in ["wait", "preprocess", "inference", "decode"] {
            let [p50, p95, p99] = [50, 95, 99].map(|percentile| ms(&stats[format!("{stage}-p{percentile}")]));
            writeln!(out, "  {stage:<11} {p50:>9.3} {p95:>9.3} {p99:>9.3}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_sizes_are_read() {
        assert_eq!(size("1920x1080"), Ok((1920, 1080)));
        for wrong in ["1920", "1920x", "x", "1921x1080", "8x8", "99999x16", "-2x16"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
