//! The program `retinaface-gpu-check`: checks and measures the execution providers of a machine.
//!
//! It needs neither GStreamer nor a decoder, so that a minimal bundle can run it on another machine.
//! Each step runs in a process of its own with a time limit, because a driver can hang or crash. The
//! report is written after every step.

mod devices;
mod frames;
mod plan;
mod report;
mod steps;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use retinaface::runtime::{Provider, locate};

use crate::devices::ProviderEntry;
use crate::report::{Report, Status, StepResult};
use crate::steps::{Settings, Step};

/// Factor of the time limit of TensorRT's steps.
const TENSORRT_LIMIT_FACTOR: u32 = 4;

/// Check and measure the execution providers of this machine
///
/// Compares the faces of each provider with those of the CPU, then measures it. Writes report.json,
/// report.md and throughput.svg.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// Directory for the report; created if it does not exist
    out: PathBuf,
    /// Execution providers to check; default: every usable provider with a GPU or an NPU. Repeatable
    #[arg(long = "execution-provider", value_name = "NAME")]
    providers: Vec<Provider>,
    /// Frames in NV12 without padding, one after the other; the name ends in _WIDTHxHEIGHT.nv12
    #[arg(long, value_name = "FILE")]
    frames: PathBuf,
    /// ONNX file of the detector; default: $RETINAFACE_MODEL, the model in the program's directory,
    /// or the installed model
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The same model in half precision (`make models`)
    #[arg(long, value_name = "FILE")]
    fp16_model: Option<PathBuf>,
    /// Longer side of the model's input in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 640, value_parser = clap::value_parser!(u32).range(32..=4096))]
    input_size: u32,
    /// Factor by which the frames are enlarged for the measurements
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=8))]
    enlarge: u32,
    /// Length of a measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0)]
    measure: f64,
    /// Time limit of a step; four times as long for TensorRT, which builds an engine for each shape
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    step_limit: u64,
    /// Time limit of all steps
    #[arg(long, value_name = "SECONDS", default_value_t = 480)]
    limit: u64,
    /// Only compare the faces and measure one small batch, for slow devices
    #[arg(long)]
    quick: bool,
    /// Run one step, as JSON, or list the devices of a provider, and print the result
    #[arg(long, value_name = "JSON", hide = true)]
    step: Option<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("retinaface-gpu-check: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs all steps, or one. Returns whether every step was successful.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    ensure!(arguments.measure > 0.0 && arguments.measure <= 60.0, "--measure must be above 0 and at most 60");
    let settings = settings(arguments)?;
    if let Some(step) = &arguments.step {
        let result = match step.parse::<Provider>() {
            Ok(provider) => serde_json::to_value(ProviderEntry::find(provider)?)?,
            Err(_) => steps::run(&serde_json::from_str::<Step>(step).context("--step")?, &settings)?,
        };
        writeln!(io::stdout(), "{result}")?;
        return Ok(true);
    }
    let deadline = Instant::now() + Duration::from_secs(arguments.limit);
    fs::create_dir_all(&arguments.out).with_context(|| arguments.out.display().to_string())?;
    let cache = cache_directory(&arguments.out)?;
    if cache.exists() {
        // Of an earlier check: the first start must build TensorRT's engine.
        fs::remove_dir_all(&cache).with_context(|| cache.display().to_string())?;
    }
    let step_limit = Duration::from_secs(arguments.step_limit);
    let entries = list_providers(&arguments.out, step_limit)?;
    let mut report = Report::new(&entries, &settings);
    report.write(&arguments.out)?;
    write!(io::stdout(), "{}", report.devices())?;
    let targets = plan::targets(&entries, &arguments.providers)?;
    let steps = plan::steps(&targets, settings.fp16_model.is_some(), arguments.quick);
    if steps.is_empty() {
        bail!(
            "no usable execution provider has a GPU or an NPU; {} says what each one needs; to check one on the \
             processor, name it with --execution-provider",
            arguments.out.join("report.md").display()
        );
    }
    for step in steps {
        let left = deadline.saturating_duration_since(Instant::now());
        let factor = if step.provider == Provider::TensorRt { TENSORRT_LIMIT_FACTOR } else { 1 };
        let limit = left.min(step_limit * factor);
        let start = Instant::now();
        let status = if limit.is_zero() {
            Status::NotRun { reason: format!("the limit of {} s for all steps was reached", arguments.limit) }
        } else {
            run_child(&serde_json::to_string(&step)?, &arguments.out, limit)?
        };
        let result = StepResult { step, seconds: start.elapsed().as_secs_f64(), status };
        writeln!(io::stdout(), "{result}")?;
        report.push(result);
        report.write(&arguments.out)?;
    }
    writeln!(io::stdout(), "report: {}", arguments.out.join("report.md").display())?;
    Ok(report.is_success())
}

fn settings(arguments: &Arguments) -> anyhow::Result<Settings> {
    let Arguments { frames, model, fp16_model, input_size, enlarge, measure, .. } = arguments;
    let model = match model {
        Some(model) => model.clone(),
        None => locate::model(program_directory().as_deref())?,
    };
    for file in [Some(frames), Some(&model), fp16_model.as_ref()].into_iter().flatten() {
        ensure!(file.is_file(), "{} does not exist", file.display());
    }
    Ok(Settings {
        frames: frames.clone(),
        model,
        fp16_model: fp16_model.clone(),
        input_size: *input_size as usize,
        enlarge: *enlarge as usize,
        measure: Duration::from_secs_f64(*measure),
    })
}

/// The directory of this program. Models and libraries are searched relative to it.
fn program_directory() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_path_buf())
}

/// The providers and their devices, each one found by a process of its own.
fn list_providers(out: &Path, limit: Duration) -> anyhow::Result<Vec<ProviderEntry>> {
    let providers = Provider::ALL.into_iter().filter(|provider| *provider != Provider::Auto);
    let entry = |provider: Provider| -> anyhow::Result<ProviderEntry> {
        Ok(match run_child(provider.name(), out, limit)? {
            Status::Done { result } => serde_json::from_value(result)?,
            status => ProviderEntry::unusable(provider, &status.problem()),
        })
    };
    let entries = providers.map(entry).collect::<anyhow::Result<Vec<_>>>()?;
    let cpu = entries.iter().find(|entry| entry.provider == Provider::Cpu.name());
    if let Some(problem) = cpu.and_then(|cpu| cpu.problem.as_ref()) {
        bail!("ONNX Runtime does not work: {problem}");
    }
    Ok(entries)
}

/// The directory of TensorRT's engines.
fn cache_directory(out: &Path) -> anyhow::Result<PathBuf> {
    Ok(fs::canonicalize(out).with_context(|| out.display().to_string())?.join("cache"))
}

/// Runs a step, as the argument of `--step`, in a process of its own.
fn run_child(step: &str, out: &Path, limit: Duration) -> anyhow::Result<Status> {
    // In a bundle, a script starts this program with the libraries of the bundle.
    let program = match std::env::var_os("RETINAFACE_GPU_CHECK") {
        Some(script) => PathBuf::from(script),
        None => std::env::current_exe().context("the path of this program")?,
    };
    let child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--step")
        .arg(step)
        .env("XDG_CACHE_HOME", cache_directory(out)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("a step cannot be started")?;
    wait(child, limit)
}

/// Waits for a process, and ends it after the time limit.
fn wait(mut child: Child, limit: Duration) -> anyhow::Result<Status> {
    const POLL: Duration = Duration::from_millis(20);
    let (mut stdout, mut stderr) = (child.stdout.take().context("stdout")?, child.stderr.take().context("stderr")?);
    // Read on threads of their own: a full pipe would block the process.
    let output = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let messages = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stderr.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if start.elapsed() > limit => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => thread::sleep(POLL),
        }
    };
    let messages = messages.join().unwrap_or_default();
    let last_lines = messages.lines().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" ");
    let Some(status) = status else {
        return Ok(Status::TimedOut { limit: limit.as_secs_f64(), messages: last_lines });
    };
    if !status.success() {
        return Ok(Status::Failed { error: format!("{status}: {last_lines}") });
    }
    let output = output.join().map_err(|_| anyhow::anyhow!("the output of a step cannot be read"))??;
    let line = output.lines().last().unwrap_or_default();
    match serde_json::from_str(line) {
        Ok(result) => Ok(Status::Done { result }),
        Err(error) => Ok(Status::Failed { error: format!("its output is not a result: {error}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_step_that_hangs_is_ended_and_one_that_crashes_is_reported() {
        let hung = wait(child("echo started >&2; exec sleep 1000"), Duration::from_millis(200)).unwrap();
        assert!(matches!(&hung, Status::TimedOut { messages, .. } if messages == "started"), "{hung:?}");
        let crashed = wait(child("echo no device >&2; kill -SEGV $$"), Duration::from_secs(60)).unwrap();
        assert!(matches!(&crashed, Status::Failed { error } if error.contains("no device")), "{crashed:?}");
        let mute = wait(child("true"), Duration::from_secs(60)).unwrap();
        assert!(matches!(&mute, Status::Failed { error } if error.contains("not a result")), "{mute:?}");
    }
}
