//! The program `retinaface-track-sequences`: detections and tracks of the sequences, for evaluations.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::{Face, Point, Rect, iou};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface::inference::{ModelOptions, SharedModel};
use retinaface::track::{Tracker, TrackerSettings};
use retinaface_sequences::{Renderer, SCENARIOS, Scenario, Sequence};

/// Detect and track faces in rendered sequences
///
/// Writes OUT/truth/NAME.txt, OUT/detections/NAME.txt (the faces of every frame, with their landmarks
/// in ten more columns) and OUT/interval-N/NAME.txt (tracks, if every Nth frame is analysed), all in
/// the format of the MOT Challenge, and OUT/times/NAME.csv. Prints for each interval how well the faces
/// in frames that are not analysed agree with their detections. Existing files of detections are used.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Directory for the results; created if it does not exist
    out: PathBuf,
    /// ONNX file of the detector
    #[arg(long, value_name = "FILE", default_value = ".fetch/models/retinaface_mnet025.onnx")]
    model: PathBuf,
    /// Directory with the photos multi_face.jpg and single_face.jpg
    #[arg(long, value_name = "DIR", default_value = ".fetch/media")]
    media: PathBuf,
    /// Analyse every Nth frame
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 3, 5])]
    intervals: Vec<usize>,
    /// Number of detections after which a face gets its id
    #[arg(long, value_name = "COUNT", default_value_t = retinaface::track::DEFAULT_MIN_HITS)]
    min_hits: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("retinaface-track-sequences: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Detections whose score is at least this are written. Trackers use those with a low score, too.
const MIN_SCORE: f32 = 0.2;

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let renderer = Renderer::open(&arguments.media)?;
    for directory in ["truth", "detections", "times"] {
        fs::create_dir_all(arguments.out.join(directory))?;
    }
    let mut all = Vec::new();
    for scenario in SCENARIOS {
        let sequence = renderer.sequence(scenario)?;
        write_truth(&arguments.out, scenario, &sequence)?;
        let file = arguments.out.join(format!("detections/{}.txt", scenario.name));
        if !file.exists() {
            fs::write(&file, detections_text(&detect(&arguments.model, &sequence)?))?;
        }
        let text = fs::read_to_string(&file)?;
        let frames = parse(&text, sequence.len()).with_context(|| file.display().to_string())?;
        all.push((scenario, sequence, frames));
    }
    for interval in &arguments.intervals {
        ensure!(*interval > 0, "an interval is at least 1");
        let directory = arguments.out.join(format!("interval-{interval}"));
        fs::create_dir_all(&directory)?;
        let mut total = Agreement::default();
        for (scenario, sequence, frames) in &all {
            let settings = TrackerSettings { min_hits: arguments.min_hits, ..TrackerSettings::default() };
            let (tracks, agreement) = track(sequence, frames, *interval, &settings);
            fs::write(directory.join(format!("{}.txt", scenario.name)), tracks)?;
            writeln!(io::stdout(), "interval {interval} {:<12} {agreement}", scenario.name)?;
            total.add(&agreement);
        }
        writeln!(io::stdout(), "interval {interval} {:<12} {total}", "all")?;
    }
    Ok(())
}

fn write_truth(out: &Path, scenario: &Scenario, sequence: &Sequence) -> anyhow::Result<()> {
    let (mut truth, mut times) = (String::new(), "frame,pts_ns\n".to_owned());
    for (number, time) in (1..).zip(sequence.times()) {
        writeln!(times, "{number},{}", time.pts_ns)?;
        for face in scenario.faces_at(time.pts_ns) {
            let Rect { x, y, w, h } = face.rect;
            // A face that is hardly visible need not be found.
            let confidence = u8::from(face.visibility >= 0.1);
            writeln!(truth, "{number},{},{x:.2},{y:.2},{w:.2},{h:.2},{confidence},1,{:.3}", face.id, face.visibility)?;
        }
    }
    fs::write(out.join(format!("truth/{}.txt", scenario.name)), truth)?;
    fs::write(out.join(format!("times/{}.csv", scenario.name)), times)?;
    Ok(())
}

/// The faces of every frame.
fn detect(model: &Path, sequence: &Sequence) -> anyhow::Result<Vec<Vec<Face>>> {
    let detector = Detector::new(&SharedModel::open(model, &ModelOptions::default())?);
    let settings = DetectionSettings { score_threshold: MIN_SCORE, ..DetectionSettings::default() };
    let faces = |frame: Result<retinaface_sequences::Frame, retinaface_sequences::Error>| {
        let frame = frame?;
        let info = ImageInfo::new(PixelFormat::Rgb, frame.width, frame.height);
        let view = ImageView::new(info, &[&frame.rgb], &[frame.width * 3])?;
        Ok(detector.detect(&view, &settings)?.faces)
    };
    sequence.frames().map(faces).collect()
}

fn detections_text(frames: &[Vec<Face>]) -> String {
    let mut text = String::new();
    for (number, faces) in (1..).zip(frames) {
        for face in faces {
            let Rect { x, y, w, h } = face.rect;
            let points = face.landmarks.iter().flatten().map(|point| format!(",{:.2},{:.2}", point.x, point.y));
            let points = points.collect::<String>();
            text += &format!("{number},-1,{x:.2},{y:.2},{w:.2},{h:.2},{:.4}{points}\n", face.score);
        }
    }
    text
}

fn parse(text: &str, frames: usize) -> anyhow::Result<Vec<Vec<Face>>> {
    let mut found = vec![Vec::new(); frames];
    for line in text.lines() {
        let numbers = line.split(',').map(str::parse::<f32>).collect::<Result<Vec<_>, _>>()?;
        let [number, _, x, y, w, h, score, ref points @ ..] = numbers[..] else { anyhow::bail!("{line}") };
        let points = points.as_chunks::<2>().0.iter().map(|[x, y]| Point::new(*x, *y)).collect::<Vec<_>>();
        let face = Face { score, rect: Rect::new(x, y, w, h), landmarks: points.try_into().ok(), ..Face::default() };
        let faces = found.get_mut(number as usize - 1).with_context(|| format!("{line}: there is no such frame"))?;
        faces.push(face);
    }
    Ok(found)
}

/// How well the faces of frames that are not analysed agree with the detections of these frames.
#[derive(Debug, Default)]
struct Agreement {
    /// Sum of the intersections over union, 0 for a detection without a face.
    sum: f32,
    detections: usize,
    missed: usize,
}

impl Agreement {
    fn add(&mut self, other: &Self) {
        self.sum += other.sum;
        self.detections += other.detections;
        self.missed += other.missed;
    }
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sum, detections, missed } = *self;
        let found = (detections - missed).max(1) as f32;
        write!(
            f,
            "{detections} detections between inferences, mean IoU {:.3}, {missed} without a face, {:.3} with those",
            sum / found,
            sum / detections.max(1) as f32
        )
    }
}

fn track(
    sequence: &Sequence,
    frames: &[Vec<Face>],
    interval: usize,
    settings: &TrackerSettings,
) -> (String, Agreement) {
    let scenario = sequence.scenario();
    let size = (scenario.width, scenario.height);
    let mut tracker = Tracker::with_restarted_ids();
    let (mut text, mut agreement) = (String::new(), Agreement::default());
    for (index, (time, detected)) in sequence.times().iter().zip(frames).enumerate() {
        let time = Duration::from_nanos(time.pts_ns);
        let faces = if index % interval == 0 {
            let mut faces = detected.clone();
            tracker.update(time, &mut faces, size, settings);
            faces
        } else {
            tracker.expire(time, settings);
            let faces = tracker.predict(time);
            for detection in detected.iter().filter(|face| face.score >= settings.score_threshold) {
                let best = faces.iter().map(|face| iou(face.rect, detection.rect)).fold(0.0, f32::max);
                agreement.sum += best;
                agreement.detections += 1;
                agreement.missed += usize::from(best == 0.0);
            }
            faces
        };
        for face in faces {
            let (Rect { x, y, w, h }, Some(id)) = (face.rect, face.track_id) else { continue };
            text += &format!("{},{id},{x:.2},{y:.2},{w:.2},{h:.2},{:.4},-1,-1,-1\n", index + 1, face.score);
        }
    }
    (text, agreement)
}
