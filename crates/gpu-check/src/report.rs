//! The report: report.json, report.md and throughput.svg.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use retinaface::runtime::{Precision, Provider};
use serde::Serialize;
use serde_json::Value;

use crate::devices::ProviderEntry;
use crate::steps::{ModelPrecision, Settings, Step, Task};

/// Minimum throughput of the batching engine relative to the bare session at its best batch.
const MIN_THROUGHPUT_RATIO: f64 = 0.8;
/// Maximum p99 of a frame of one stream relative to the median of the bare session.
const MAX_LATENCY_RATIO: f64 = 2.0;

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub(crate) enum Status {
    Done { result: Value },
    Failed { error: String },
    TimedOut { limit: f64, messages: String },
    NotRun { reason: String },
}

impl Status {
    /// How a step ended that has no result.
    pub(crate) fn problem(&self) -> String {
        match self {
            Self::Done { .. } => String::new(),
            Self::Failed { error } => error.clone(),
            Self::TimedOut { limit, messages } => format!("it did not end within {limit:.0} s: {messages}"),
            Self::NotRun { reason } => reason.clone(),
        }
    }
}

/// A step and how it ended.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StepResult {
    pub(crate) step: Step,
    /// Duration of the step, with the start of its process and the set-up of the model.
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) status: Status,
}

impl StepResult {
    /// A number of the result.
    fn number(&self, name: &str) -> Option<f64> {
        match &self.status {
            Status::Done { result } => result.get(name)?.as_f64(),
            _ => None,
        }
    }

    /// What the step did.
    fn title(&self) -> String {
        let Step { provider, task, .. } = &self.step;
        let task = match task {
            Task::Parity => "comparison with the CPU provider".to_owned(),
            Task::Start { is_first: true } => "start, without a cache".to_owned(),
            Task::Start { is_first: false } => "start, from the cache".to_owned(),
            Task::Session { batch } => format!("bare session, batch of {batch}"),
            Task::Engine => "throughput".to_owned(),
            Task::Latency => "one stream".to_owned(),
            Task::Streams => "streams of 30 frames/s".to_owned(),
        };
        format!("{provider}, {}: {task}", self.variant())
    }

    /// The precision of the model and of the provider.
    fn variant(&self) -> &'static str {
        match (self.step.model, self.step.precision) {
            (ModelPrecision::Float16, _) => "fp16 model",
            (ModelPrecision::Float32, Precision::Reduced) => "precision=reduced",
            (ModelPrecision::Float32, Precision::Full) => "fp32",
        }
    }

    /// The result, in words.
    fn summary(&self) -> String {
        let number = |name: &str| self.number(name).unwrap_or_default();
        match (&self.status, self.step.task) {
            (Status::Failed { error }, _) => format!("**failed**: {error}"),
            (Status::TimedOut { limit, messages }, _) => format!("**timed out** after {limit:.0} s: {messages}"),
            (Status::NotRun { reason }, _) => format!("not run: {reason}"),
            (Status::Done { .. }, Task::Parity) => format!(
                "{} faces in {} frames, {} unmatched; scores differ by {:.5}, landmarks by {:.3} px, boxes by {:.3} px",
                number("faces"),
                number("frames"),
                number("unmatched"),
                number("max_score"),
                number("max_landmark"),
                number("max_box")
            ),
            (Status::Done { .. }, Task::Start { .. }) => format!("{:.1} s", number("seconds")),
            (Status::Done { .. }, Task::Session { .. }) => {
                format!("{:.0} images/s, median {:.2} ms", number("images_per_second"), number("median_ms"))
            }
            (Status::Done { .. }, Task::Engine) => format!(
                "{:.0} frames/s of {} streams, mean batch {:.1}",
                number("frames_per_second"),
                number("streams"),
                number("mean_batch")
            ),
            (Status::Done { .. }, Task::Latency) => {
                format!("p50 {:.2} ms, p99 {:.2} ms", number("p50_ms"), number("p99_ms"))
            }
            (Status::Done { .. }, Task::Streams) => format!("{} in real time", number("streams")),
        }
    }
}

impl fmt::Display for StepResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({:.1} s)", self.title(), self.summary().replace("**", ""), self.seconds)
    }
}

/// A comparison with a goal.
#[derive(Debug, PartialEq, Serialize)]
struct Goal {
    provider: &'static str,
    variant: &'static str,
    goal: &'static str,
    value: f64,
    limit: f64,
    met: bool,
}

/// Everything that is reported.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    version: &'static str,
    processor: String,
    input_size: usize,
    providers: Vec<ProviderEntry>,
    steps: Vec<StepResult>,
    goals: Vec<Goal>,
}

impl Report {
    pub(crate) fn new(providers: &[ProviderEntry], settings: &Settings) -> Self {
        let cpu = providers.iter().find(|entry| entry.provider == Provider::Cpu.name());
        let processor = cpu.and_then(|cpu| cpu.devices.first()?.name.clone()).unwrap_or_default();
        Self {
            schema: "retinaface.gpu-check/1",
            version: env!("CARGO_PKG_VERSION"),
            processor,
            input_size: settings.input_size,
            providers: providers.to_vec(),
            steps: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Adds a step.
    pub(crate) fn push(&mut self, step_result: StepResult) {
        self.steps.push(step_result);
        self.goals = goals(&self.steps);
    }

    /// Whether every step was run and was successful.
    pub(crate) fn is_success(&self) -> bool {
        self.steps.iter().all(|step_result| matches!(step_result.status, Status::Done { .. }))
    }

    /// The providers with their devices, as lines.
    pub(crate) fn devices(&self) -> String {
        let mut text = String::new();
        for ProviderEntry { provider, devices, problem, .. } in &self.providers {
            let devices = devices.iter().map(|device| {
                let name = device.name.as_deref().unwrap_or(&device.vendor);
                format!("{}: {} {name}", device.id, device.kind)
            });
            let devices = devices.collect::<Vec<_>>().join("; ");
            // Writing to a String cannot fail, here and below.
            let _ = match problem {
                Some(problem) => writeln!(text, "{provider}: not usable: {problem}"),
                None => writeln!(text, "{provider}: {devices}"),
            };
        }
        text
    }

    /// Writes all files. They replace those of an earlier call at once, so that a reader never sees a
    /// part of a file.
    pub(crate) fn write(&self, out: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        for (name, text) in [("report.json", json), ("report.md", self.markdown()), ("throughput.svg", self.svg())] {
            let (file, temporary) = (out.join(name), out.join(format!("{name}.part")));
            fs::write(&temporary, text)
                .and_then(|()| fs::rename(&temporary, &file))
                .with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "# Check of the execution providers\n\nretinaface {}, input {} px, processor {}.\n\n## Devices\n\n",
            self.version, self.input_size, self.processor
        );
        for line in self.devices().lines() {
            let _ = writeln!(text, "- {line}");
        }
        text += "\n## Steps\n\n| step | result | seconds |\n|---|---|---:|\n";
        for step_result in &self.steps {
            let summary = step_result.summary().replace('|', "\\|").replace('\n', " ");
            let _ = writeln!(text, "| {} | {summary} | {:.1} |", step_result.title(), step_result.seconds);
        }
        if !self.goals.is_empty() {
            text += "\n## Goals\n\n| provider | goal | value | |\n|---|---|---:|---|\n";
            for Goal { provider, variant, goal, value, limit, met } in &self.goals {
                let met = if *met { "met" } else { "**missed**" };
                let _ = writeln!(text, "| {provider}, {variant} | {goal} {limit} | {value:.2} | {met} |");
            }
        }
        text += "\n![throughput](throughput.svg)\n";
        text
    }

    /// Bars of the throughput of the batching engine and of the bare sessions.
    fn svg(&self) -> String {
        const LEFT: f64 = 360.0;
        const WIDTH: f64 = 480.0;
        const ROW: f64 = 26.0;
        let bars = self.steps.iter().filter_map(|step_result| {
            let (name, colour) = match step_result.step.task {
                Task::Engine => ("frames_per_second", "#0072b2"),
                Task::Session { .. } => ("images_per_second", "#bbbbbb"),
                _ => return None,
            };
            Some((step_result.title(), step_result.number(name)?, colour))
        });
        let bars = bars.collect::<Vec<_>>();
        let max = bars.iter().map(|(_, value, _)| *value).fold(1.0, f64::max);
        let (total_width, total_height) = (LEFT + WIDTH + 90.0, 50.0 + ROW * bars.len() as f64);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total_width}\" height=\"{total_height}\" \
             font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">frames or images per second</text>\n"
        );
        for (row, (title, value, colour)) in bars.iter().enumerate() {
            let y = 38.0 + ROW * row as f64;
            let width = WIDTH * value / max;
            let title = title.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{title}</text>\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{value:.0}</text>",
                LEFT - 8.0,
                y + 14.0,
                ROW - 7.0,
                LEFT + width + 6.0,
                y + 14.0
            );
        }
        svg + "</svg>\n"
    }
}

/// Compares the batching engine with the bare sessions of the same provider and model.
fn goals(steps: &[StepResult]) -> Vec<Goal> {
    let mut goals = Vec::new();
    for step_result in steps {
        let Step { provider, model, .. } = &step_result.step;
        let sessions = steps.iter().filter(|other| {
            matches!(other.step.task, Task::Session { .. })
                && (other.step.provider, other.step.model) == (*provider, *model)
        });
        // In reduced precision there is no bare session to compare with.
        if step_result.step.precision == Precision::Reduced {
            continue;
        }
        let mut goal = |goal, value: f64, limit: f64, met: bool| {
            goals.push(Goal { provider: provider.name(), variant: step_result.variant(), goal, value, limit, met });
        };
        if let (Task::Engine, Some(rate)) = (step_result.step.task, step_result.number("frames_per_second")) {
            let best = sessions.clone().filter_map(|session| session.number("images_per_second")).reduce(f64::max);
            if let Some(best) = best {
                let ratio = rate / best;
                goal(
                    "throughput relative to the best bare session, at least",
                    ratio,
                    MIN_THROUGHPUT_RATIO,
                    ratio >= MIN_THROUGHPUT_RATIO,
                );
            }
        }
        if let (Task::Latency, Some(p99)) = (step_result.step.task, step_result.number("p99_ms")) {
            let single = sessions.clone().find(|session| session.step.task == Task::Session { batch: 1 });
            if let Some(median) = single.and_then(|session| session.number("median_ms")) {
                let ratio = p99 / median;
                goal(
                    "p99 of one stream relative to the median of the bare session, at most",
                    ratio,
                    MAX_LATENCY_RATIO,
                    ratio <= MAX_LATENCY_RATIO,
                );
            }
        }
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn step_result(task: Task, result: Value) -> StepResult {
        let step = Step {
            provider: Provider::WebGpu,
            device_id: 0,
            task,
            model: ModelPrecision::Float32,
            precision: Precision::Full,
        };
        StepResult { step, seconds: 1.0, status: Status::Done { result } }
    }

    fn report() -> Report {
        let settings = Settings {
            frames: "f_16x16.nv12".into(),
            model: "m.onnx".into(),
            fp16_model: None,
            input_size: 640,
            enlarge: 3,
            measure: std::time::Duration::from_secs(1),
        };
        let mut report = Report::new(&[], &settings);
        report.push(step_result(Task::Engine, json!({ "frames_per_second": 85.0, "streams": 4, "mean_batch": 2.5 })));
        report.push(step_result(Task::Session { batch: 1 }, json!({ "images_per_second": 50.0, "median_ms": 20.0 })));
        report.push(step_result(Task::Session { batch: 4 }, json!({ "images_per_second": 100.0, "median_ms": 40.0 })));
        report.push(step_result(Task::Latency, json!({ "p50_ms": 25.0, "p99_ms": 50.0 })));
        report
    }

    #[test]
    fn goals_compare_the_engine_with_the_best_session_and_a_frame_with_one_image() {
        let report = report();
        let goals = report.goals.iter().map(|goal| (goal.value, goal.met)).collect::<Vec<_>>();
        assert_eq!(goals, [(0.85, true), (2.5, false)]);
        assert!(report.is_success());
    }

    #[test]
    fn failures_are_in_every_file_and_make_the_check_fail() {
        let mut report = report();
        let mut failed = step_result(Task::Parity, Value::Null);
        failed.status = Status::Failed { error: "a | b".to_owned() };
        report.push(failed);
        let directory = tempfile::tempdir().unwrap();
        report.write(directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(read("report.md").contains("| **failed**: a \\| b | 1.0 |"), "{}", read("report.md"));
        let json: Value = serde_json::from_str(&read("report.json")).unwrap();
        assert_eq!((&json["steps"][4]["status"], &json["steps"][4]["error"]), (&json!("failed"), &json!("a | b")));
        assert!(read("throughput.svg").contains(">85</text>"));
        assert!(!report.is_success());
    }
}
