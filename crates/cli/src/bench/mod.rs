//! `retinaface bench`: frame rate of the element `retinaface`, and the time of each of its stages.
//!
//! The frames are decoded before the measurement and held in memory. The element comes from the
//! GStreamer registry, as in gst-launch. A bare session repeats one inference on a constant tensor.
//! Measurements of a bare session alternate with those of the element, because the speed of a
//! shared machine changes within seconds.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use retinaface::detect::Detector;
use retinaface::geometry::InputSize;
use serde::Serialize;

use self::frames::Nv12Frames;
use self::session::BareSession;
use self::stream::{ElementArgs, Mode, Stream, run_round};
use crate::args::{ModelArgs, model_path, silence_opencv};
use crate::elements;
use crate::status::Outcome;

mod frames;
mod session;
mod stream;

/// Frames per stream before the measurement: sessions, pools and caches are set up meanwhile.
const WARM_UP_FRAMES: u32 = 8;
/// Frames per stream and round where rounds alternate with the bare session.
const ROUND_FRAMES: u32 = 48;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Video file that supplies the frames
    clip: PathBuf,
    /// Size that frames are scaled to, in pixels
    #[arg(long, value_name = "WxH", default_value = "1920x1080", value_parser = parse_frame_size)]
    frame_size: (usize, usize),
    /// Number of concurrent streams, which share one model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    streams: u32,
    /// Number of frames per stream
    #[arg(long, value_name = "N", default_value_t = 480, value_parser = clap::value_parser!(u32).range(1..))]
    frames: u32,
    /// Frame rate of each stream, in frames per second; 0: as fast as the element accepts frames
    #[arg(long, value_name = "N", default_value_t = 0)]
    fps: u32,
    /// Replace the frames of the clip by one frame that shows the clip's first face N times
    #[arg(long, value_name = "N")]
    faces: Option<usize>,
    /// ONNX file of the detector; default: $RETINAFACE_MODEL, the model in the program's directory,
    /// or the installed model
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    element_args: ElementArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model_args: ModelArgs,
}

/// Parses a size such as `1920x1080`.
fn parse_frame_size(text: &str) -> Result<(usize, usize), String> {
    let size = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    // NV12 has one chroma sample per 2 x 2 pixels.
    let is_valid = |side: &usize| (16..=8192).contains(side) && side.is_multiple_of(2);
    size.filter(|(width, height)| is_valid(width) && is_valid(height))
        .ok_or_else(|| "not WIDTHxHEIGHT with even values from 16 to 8192".to_owned())
}

/// The report, as `--json` prints it.
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
    /// Frames that the element output, of all streams.
    frames: u64,
    /// Frames that the element did not output.
    lost: u64,
    seconds: f64,
    /// Frames per second, of all streams.
    rate: f64,
    /// Median of the bare session's inferences per second; null with a fixed frame rate.
    bare_rate: Option<f64>,
    /// Median over the rounds of `rate / bare_rate`.
    rate_to_bare: Option<f64>,
    /// Time of a frame from the element's sink pad to its source pad, in ns.
    delay_p50: u64,
    delay_p99: u64,
    delay_max: u64,
    /// Resident memory before the streams start, and at the end.
    resident_start_kb: u64,
    resident_end_kb: u64,
    /// Property `stats` of the first stream's element.
    stats: serde_json::Value,
}

/// What the rounds measured.
#[derive(Default)]
struct Measurement {
    seconds: f64,
    /// Time of each frame in the element.
    delays: Vec<Duration>,
    /// Inferences per second of the bare session, in each round.
    bare_rates: Vec<f64>,
    /// Frame rate of the element to the rate of the bare session, in each round.
    ratios: Vec<f64>,
}

impl Bench {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        silence_opencv()?;
        elements::require(&["retinaface"])?;
        let model = model_path(self.model.as_deref())?;
        let frames = self.frames(&model)?;
        let options = self.model_args.options();
        let input_size = InputSize::from(self.element_args.input_size);
        let mut session = BareSession::open(&model, &options, self.frame_size, input_size)?;
        if self.compares() {
            // The first inferences are slower.
            session.measure()?;
        }

        let resident_start_kb = resident_kb()?;
        let start = |_| Stream::start(&model, &self.model_args, &self.element_args, &frames, self.fps);
        let streams = (0..self.streams).map(start).collect::<anyhow::Result<Vec<_>>>()?;
        let Measurement { seconds, mut delays, bare_rates, ratios } = self.measure(&streams, &mut session)?;
        let stats = structure_to_json(&streams[0].stats());
        let resident_end_kb = resident_kb()?;
        drop(streams);

        delays.sort_unstable();
        let output = delays.len() as u64;
        let (width, height) = self.frame_size;
        let report = Report {
            streams: self.streams,
            width,
            height,
            input_width: session.input_width,
            input_height: session.input_height,
            provider: session.backend().provider.name(),
            threads: options.threads,
            precision: options.precision.to_string(),
            frames: output,
            lost: u64::from(self.frames) * u64::from(self.streams) - output,
            seconds,
            rate: output as f64 / seconds,
            bare_rate: median(bare_rates),
            rate_to_bare: median(ratios),
            delay_p50: quantile_ns(&delays, 0.5),
            delay_p99: quantile_ns(&delays, 0.99),
            delay_max: quantile_ns(&delays, 1.0),
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

    /// Whether the element's frame rate is compared with the bare session's: only where the element
    /// runs one inference per frame, as fast as it can.
    fn compares(&self) -> bool {
        self.fps == 0 && self.element_args.mode == Mode::Sync
    }

    fn frames(&self, model: &Path) -> anyhow::Result<Nv12Frames> {
        let frames = Nv12Frames::decode(&self.clip, self.frame_size)?;
        let Some(faces) = self.faces else { return Ok(frames) };
        let model = self.model_args.open_shared(model)?;
        frames.crowd(&Detector::new(&model), faces)
    }

    fn measure(&self, streams: &[Stream], session: &mut BareSession) -> anyhow::Result<Measurement> {
        run_round(streams, WARM_UP_FRAMES, self.fps)?;
        let mut measurement = Measurement::default();
        let mut left = self.frames;
        while left > 0 {
            let frames = if self.compares() { left.min(ROUND_FRAMES) } else { left };
            left -= frames;
            let bare_rate = if self.compares() { Some(session.measure()?) } else { None };
            let round = run_round(streams, frames, self.fps)?;
            if let Some(bare_rate) = bare_rate {
                measurement.ratios.push(round.delays.len() as f64 / round.seconds / bare_rate);
                measurement.bare_rates.push(bare_rate);
            }
            measurement.seconds += round.seconds;
            measurement.delays.extend(round.delays);
        }
        Ok(measurement)
    }
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

/// A quantile of sorted durations, in ns; 0 if there are none.
fn quantile_ns(sorted: &[Duration], quantile: f64) -> u64 {
    let at = ((sorted.len() as f64 * quantile) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0, |duration| duration.as_nanos() as u64)
}

/// The unsigned integers and nested structures of a structure; other fields become null.
fn structure_to_json(structure: &gst::StructureRef) -> serde_json::Value {
    let field = |(name, value): (&gst::glib::GStr, &gst::glib::SendValue)| {
        let value = match (value.get::<u64>(), value.get::<gst::Structure>()) {
            (Ok(integer), _) => integer.into(),
            (_, Ok(inner)) => structure_to_json(&inner),
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
            writeln!(out, "model:      {bare:.1} images/s in ONNX Runtime alone; the element has {ratio:.3} of that")?;
        }
        let ms = |value: &serde_json::Value| value.as_u64().unwrap_or(0) as f64 / 1e6;
        let [p50, p99, max] = [self.delay_p50, self.delay_p99, self.delay_max].map(|delay| delay as f64 / 1e6);
        writeln!(out, "latency:    p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")?;
        let [at_end, at_start] = [self.resident_end_kb, self.resident_start_kb].map(|kib| kib / 1024);
        writeln!(out, "memory:     {at_end} MiB at the end, {at_start} MiB at the start")?;
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
    fn frame_sizes_are_parsed() {
        assert_eq!(parse_frame_size("1920x1080"), Ok((1920, 1080)));
        for invalid in ["1920", "1920x", "x", "1921x1080", "8x8", "99999x16", "-2x16"] {
            assert!(parse_frame_size(invalid).is_err(), "{invalid}");
        }
    }
}
