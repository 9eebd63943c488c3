//! The steps: comparing faces with those of the CPU, and measuring.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use retinaface::geometry::{Face, InputSize, iou};
use retinaface::inference::{ModelFile, ModelOptions, OpenContext, ResidentSession, SharedModel};
use retinaface::runtime::{Precision, Provider};
use retinaface::{DetectionSettings, Detector};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::frames::Frames;
use crate::program_directory;

/// Frames that are analysed before a measurement: sessions and caches are set up meanwhile.
const WARM_UP: usize = 4;
/// Streams of the throughput measurement.
const STREAMS: usize = 4;
/// Frame rate of real-time streams.
const FPS: u32 = 30;
/// Numbers of real-time streams that are tried.
const STREAM_COUNTS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// Maximum p99 delay, over all streams, with which the streams count as real time: two intervals.
const MAX_DELAY: Duration = Duration::from_millis(2000 / FPS as u64);
/// Largest differences of a provider in full precision.
const MAX_SCORE_DIFFERENCE: f32 = 2e-3;
const MAX_PIXELS: f32 = 0.5;

/// What all steps need.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) frames: PathBuf,
    pub(crate) model: PathBuf,
    pub(crate) fp16_model: Option<PathBuf>,
    pub(crate) input_size: usize,
    /// Factor by which frames are enlarged for the measurements.
    pub(crate) enlarge: usize,
    /// Length of a measurement.
    pub(crate) measure: Duration,
}

/// The precision of the model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModelPrecision {
    Float32,
    Float16,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "task")]
pub(crate) enum Task {
    /// Compares the faces with those of the CPU provider.
    Parity,
    /// Measures how long a model takes to open and to find the first faces.
    Start {
        /// Whether caches are empty.
        is_first: bool,
    },
    /// Measures a bare session whose input stays on the device.
    Session { batch: usize },
    /// Measures the throughput of several streams of 8-bit frames.
    Engine,
    /// Measures the time of a frame of one stream.
    Latency,
    /// Counts how many streams of 30 frames per second run in real time.
    Streams,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    #[serde(with = "by_name")]
    pub(crate) provider: Provider,
    pub(crate) device_id: u32,
    #[serde(flatten)]
    pub(crate) task: Task,
    pub(crate) model: ModelPrecision,
    #[serde(with = "by_name")]
    pub(crate) precision: Precision,
}

/// Providers and precisions as their names.
mod by_name {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error>
    where
        T::Err: Display,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Runs a step. Returns its result.
pub(crate) fn run(step: &Step, settings: &Settings) -> anyhow::Result<Value> {
    let frames = Frames::read(&settings.frames)?;
    match step.task {
        Task::Parity => parity(step, settings, &frames),
        Task::Start { .. } => start(step, settings, &frames.enlarged(settings.enlarge)),
        Task::Session { batch } => session(step, settings, batch, &frames),
        Task::Engine => engine(step, settings, &frames.enlarged(settings.enlarge)),
        Task::Latency => latency(step, settings, &frames.enlarged(settings.enlarge)),
        Task::Streams => streams(step, settings, &frames.enlarged(settings.enlarge)),
    }
}

fn model_file(step: &Step, settings: &Settings) -> anyhow::Result<ModelFile> {
    let file = match step.model {
        ModelPrecision::Float32 => &settings.model,
        ModelPrecision::Float16 => settings.fp16_model.as_ref().context("--fp16-model is missing")?,
    };
    Ok(ModelFile::read(file)?)
}

fn context() -> OpenContext {
    OpenContext { base_dir: program_directory(), progress: None }
}

fn options(step: &Step) -> ModelOptions {
    let Step { provider, device_id, precision, .. } = *step;
    ModelOptions { provider, device_id, precision, ..ModelOptions::default() }
}

fn open(step: &Step, settings: &Settings) -> anyhow::Result<Arc<SharedModel>> {
    Ok(SharedModel::open_file(&model_file(step, settings)?, &options(step), &context())?)
}

fn detection(settings: &Settings) -> DetectionSettings {
    // 0: as many frames in a run as suit the provider.
    DetectionSettings {
        input_size: InputSize::Longest(settings.input_size),
        max_batch: 0,
        batch_timeout: Duration::from_millis(2),
        ..DetectionSettings::default()
    }
}

// ---------------------------------------------------------------- parity

fn parity(step: &Step, settings: &Settings, frames: &Frames) -> anyhow::Result<Value> {
    let reference =
        Step { provider: Provider::Cpu, model: ModelPrecision::Float32, precision: Precision::Full, ..step.clone() };
    let [expected, found] = [&reference, step].map(|step| -> anyhow::Result<Vec<Vec<Face>>> {
        let detector = Detector::new(&open(step, settings)?);
        let detect = |index| Ok(detector.detect(&frames.view(index)?, &detection(settings))?.faces);
        (0..frames.len()).map(detect).collect()
    });
    let difference = difference(&found?, &expected?);
    let is_exact = step.model == ModelPrecision::Float32 && step.precision == Precision::Full;
    ensure!(
        !is_exact || difference.is_within(MAX_SCORE_DIFFERENCE, MAX_PIXELS),
        "the faces differ from those of the CPU: {}",
        serde_json::to_string(&difference)?
    );
    Ok(serde_json::to_value(difference)?)
}

/// How the faces of two runs differ.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Difference {
    frames: usize,
    faces: usize,
    /// Faces of one run without a face of the other one.
    unmatched: usize,
    max_score: f32,
    /// Largest distance of a landmark's coordinate, in pixels.
    max_landmark: f32,
    /// Largest distance of a box's corner's coordinate, in pixels.
    max_box: f32,
}

impl Difference {
    fn is_within(&self, score: f32, pixels: f32) -> bool {
        self.unmatched == 0 && self.max_score <= score && self.max_landmark <= pixels && self.max_box <= pixels
    }
}

/// Compares each face with the one of the other run that it overlaps most.
fn difference(found: &[Vec<Face>], expected: &[Vec<Face>]) -> Difference {
    let mut total = Difference { frames: expected.len(), ..Difference::default() };
    for (found, expected) in found.iter().zip(expected) {
        total.faces += expected.len();
        let mut left = found.iter().collect::<Vec<_>>();
        for face in expected {
            let overlap = |other: &&Face| iou(face.rect, other.rect);
            let best = (0..left.len()).max_by(|a, b| overlap(&left[*a]).total_cmp(&overlap(&left[*b])));
            let Some(other) = best.filter(|best| overlap(&left[*best]) > 0.5).map(|best| left.swap_remove(best)) else {
                total.unmatched += 1;
                continue;
            };
            total.max_score = total.max_score.max((face.score - other.score).abs());
            let corners = |face: &Face| [face.rect.x, face.rect.y, face.rect.right(), face.rect.bottom()];
            for (a, b) in corners(face).into_iter().zip(corners(other)) {
                total.max_box = total.max_box.max((a - b).abs());
            }
            for (a, b) in face.landmarks.iter().flatten().zip(other.landmarks.iter().flatten()) {
                total.max_landmark = total.max_landmark.max((a.x - b.x).abs()).max((a.y - b.y).abs());
            }
        }
        total.unmatched += left.len();
    }
    total
}

// ---------------------------------------------------------------- measurements

fn start(step: &Step, settings: &Settings, frames: &Frames) -> anyhow::Result<Value> {
    let start = Instant::now();
    let detector = Detector::new(&open(step, settings)?);
    detector.detect(&frames.view(0)?, &detection(settings))?;
    Ok(json!({ "seconds": start.elapsed().as_secs_f64() }))
}

fn session(step: &Step, settings: &Settings, batch: usize, frames: &Frames) -> anyhow::Result<Value> {
    let file = model_file(step, settings)?;
    let model = SharedModel::open_file(&file, &options(step), &context())?;
    let size = InputSize::Longest(settings.input_size);
    let input = model.spec().letterbox(frames.size().into(), size, 1.0).input();
    drop(model);
    let mut session = ResidentSession::open(&file, &options(step), &context(), input, batch)?;
    for _ in 0..WARM_UP {
        session.run()?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < settings.measure || times.len() < 3 {
        let run = Instant::now();
        session.run()?;
        times.push(run.elapsed());
    }
    let images = (times.len() * batch) as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    Ok(json!({ "batch": batch, "images_per_second": images, "median_ms": milliseconds(quantile(&times, 0.5)) }))
}

/// Finishes frames of a stream in order, with several in flight. Returns the number of frames and the
/// sum of their batch sizes.
fn push_frames(
    detector: &Detector,
    frames: &Frames,
    detection: &DetectionSettings,
    mut keep_going: impl FnMut(usize) -> bool,
) -> anyhow::Result<(usize, usize)> {
    let inflight = detector.model().default_inflight();
    let mut pending = VecDeque::new();
    let (mut count, mut batches) = (0, 0);
    let mut index = 0;
    while keep_going(index) {
        pending.push_back(detector.submit(&frames.view(index)?, detection)?);
        index += 1;
        if pending.len() >= inflight {
            batches += pending.pop_front().context("a frame is in flight")?.wait()?.batch;
            count += 1;
        }
    }
    for frame in pending {
        batches += frame.wait()?.batch;
        count += 1;
    }
    Ok((count, batches))
}

fn engine(step: &Step, settings: &Settings, frames: &Frames) -> anyhow::Result<Value> {
    let model = open(step, settings)?;
    let detection = detection(settings);
    let detectors = (0..STREAMS).map(|_| Detector::new(&model)).collect::<Vec<_>>();
    let all = |keep_going: &(dyn Fn(usize) -> bool + Sync)| -> anyhow::Result<(usize, usize)> {
        thread::scope(|scope| {
            let streams = detectors
                .iter()
                .map(|detector| scope.spawn(|| push_frames(detector, frames, &detection, keep_going)))
                .collect::<Vec<_>>();
            let join = |stream: thread::ScopedJoinHandle<'_, anyhow::Result<(usize, usize)>>| {
                stream.join().map_err(|_| anyhow::anyhow!("a stream panicked"))?
            };
            streams.into_iter().map(join).try_fold((0, 0), |(count, batches), stream| {
                let (more, more_batches) = stream?;
                Ok((count + more, batches + more_batches))
            })
        })
    };
    // Each size of a batch is set up by its first run.
    let warm_up = Instant::now();
    all(&|index| index < WARM_UP || (warm_up.elapsed() < settings.measure / 2 && index < 64))?;
    let start = Instant::now();
    let (count, batches) = all(&|index| index == 0 || start.elapsed() < settings.measure)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({
        "streams": STREAMS,
        "frames_per_second": count as f64 / seconds,
        "mean_batch": batches as f64 / count as f64,
    }))
}

fn latency(step: &Step, settings: &Settings, frames: &Frames) -> anyhow::Result<Value> {
    let detector = Detector::new(&open(step, settings)?);
    let detection = DetectionSettings { max_batch: 1, ..detection(settings) };
    for index in 0..WARM_UP {
        detector.detect(&frames.view(index)?, &detection)?;
    }
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < settings.measure || times.len() < 3 {
        let frame = Instant::now();
        detector.detect(&frames.view(times.len())?, &detection)?;
        times.push(frame.elapsed());
    }
    times.sort_unstable();
    let [p50, p99] = [0.5, 0.99].map(|q| milliseconds(quantile(&times, q)));
    Ok(json!({ "frames": times.len(), "p50_ms": p50, "p99_ms": p99 }))
}

fn streams(step: &Step, settings: &Settings, frames: &Frames) -> anyhow::Result<Value> {
    let model = open(step, settings)?;
    let detection = detection(settings);
    let (mut sustained, mut delay_ms) = (0, None);
    for count in STREAM_COUNTS {
        let detectors = (0..count).map(|_| Detector::new(&model)).collect::<Vec<_>>();
        let delays = run_in_real_time(&detectors, frames, &detection, settings.measure)?;
        let p99 = quantile(&delays, 0.99);
        if p99 > MAX_DELAY {
            break;
        }
        (sustained, delay_ms) = (count, Some(milliseconds(p99)));
    }
    Ok(json!({ "fps": FPS, "streams": sustained, "p99_ms": delay_ms, "tried": STREAM_COUNTS }))
}

/// Runs streams at [`FPS`] frames per second. Returns how long after it was due each frame was
/// finished, sorted. Stops early once many frames are late.
fn run_in_real_time(
    detectors: &[Detector],
    frames: &Frames,
    detection: &DetectionSettings,
    measure: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let interval = Duration::from_secs(1) / FPS;
    let total = measure.as_secs_f64() * f64::from(FPS);
    let late = AtomicUsize::new(0);
    // The first frames of each detector set it up.
    for detector in detectors {
        detector.detect(&frames.view(0)?, detection)?;
    }
    let start = Instant::now();
    let stream = |detector: &Detector, offset: Duration| -> anyhow::Result<Vec<Duration>> {
        let mut delays = Vec::new();
        for index in 0..total.ceil() as u32 {
            // Streams do not start at the same moment.
            let due = start + offset + interval * index;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            detector.detect(&frames.view(index as usize)?, detection)?;
            let delay = due.elapsed();
            delays.push(delay);
            if delay > MAX_DELAY && late.fetch_add(1, Ordering::Relaxed) > 20 * detectors.len() {
                break;
            }
        }
        Ok(delays)
    };
    let mut delays = Vec::new();
    thread::scope(|scope| -> anyhow::Result<()> {
        let streams = detectors.iter().zip(0..).map(|(detector, index)| {
            let offset = interval * index / detectors.len() as u32;
            let stream = &stream;
            scope.spawn(move || stream(detector, offset))
        });
        for stream in streams.collect::<Vec<_>>() {
            delays.extend(stream.join().map_err(|_| anyhow::anyhow!("a stream panicked"))??);
        }
        Ok(())
    })?;
    delays.sort_unstable();
    Ok(delays)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A quantile of sorted times; zero if there are none.
fn quantile(sorted: &[Duration], quantile: f64) -> Duration {
    let index = (sorted.len() as f64 * quantile) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use retinaface::geometry::{Point, Rect};

    fn face(score: f32, x: f32) -> Face {
        let rect = Rect { x, y: 10.0, w: 40.0, h: 50.0 };
        Face { score, rect, landmarks: Some([Point { x, y: 20.0 }; 5]), ..Face::default() }
    }

    #[test]
    fn steps_are_written_and_read_as_json() {
        for task in [Task::Parity, Task::Start { is_first: true }, Task::Session { batch: 16 }, Task::Engine] {
            let step = Step {
                provider: Provider::NvTensorRtRtx,
                device_id: 1,
                task,
                model: ModelPrecision::Float16,
                precision: Precision::Reduced,
            };
            let text = serde_json::to_string(&step).unwrap();
            assert_eq!(serde_json::from_str::<Step>(&text).unwrap(), step, "{text}");
        }
    }

    #[test]
    fn faces_are_compared_with_those_that_they_overlap() {
        let expected = [vec![face(0.9, 10.0), face(0.8, 200.0)], vec![]];
        let found = [vec![face(0.801, 200.25), face(0.9, 10.0)], vec![face(0.6, 50.0)]];
        let difference = difference(&found, &expected);
        assert_eq!((difference.frames, difference.faces, difference.unmatched), (2, 2, 1));
        assert!((difference.max_score - 1e-3).abs() < 1e-6 && difference.max_landmark == 0.25, "{difference:?}");
        assert!(!difference.is_within(2e-3, 0.5));
        let same = super::difference(&found[..1], &expected[..1]);
        assert!(same.is_within(2e-3, 0.5) && !same.is_within(2e-3, 0.2) && !same.is_within(5e-4, 0.5));
    }

    #[test]
    fn quantiles_are_of_sorted_times() {
        let times = [1, 2, 3, 4].map(Duration::from_millis);
        assert_eq!(quantile(&times, 0.5), Duration::from_millis(3));
        assert_eq!(quantile(&times, 0.99), Duration::from_millis(4));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
