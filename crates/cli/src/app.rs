//! The program on top of the library: command line and exit status.
//!
//! Results go to standard output, words to standard error. Exit status: 0 found, 1 no face, 2 error.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use retinaface::detector::{Detector, SharedModel};
use retinaface::face::Rect;
use retinaface::locate;
use retinaface::looks::{self, Looks, Scales, Tiles};
use retinaface::merge::Merge;
use retinaface::model::{Kernels, Options, Progress, Running};
use retinaface::overrides::Overrides;
use retinaface::provider::{Precision, Provider};

mod bench;
mod detect;
mod eval;
mod model;
mod picture;
mod progress;

/// Detect faces with RetinaFace, align them for recognition.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Detect the faces of pictures: one JSON line a picture on standard output
    #[command(after_help = "Exit status: 0 if a face was found, 1 if there is none in any picture, 2 on an error.")]
    Detect(detect::Detect),
    /// Measure how many frames a second the element takes, and what each stage costs
    Bench(bench::Bench),
    /// Measure how good a detector is, on pictures whose faces are known
    Eval(eval::Eval),
    /// Say what a model file is: its layout, inputs, outputs and strides, or what is wrong with it
    Model(model::ModelFile),
}

/// How a model is run, for each command that runs one.
#[derive(Debug, Args)]
struct Run {
    /// What the model runs on; one that is named and not there is an error
    #[arg(long, value_name = "NAME", default_value_t = Provider::Auto)]
    execution_provider: Provider,
    /// Which GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    device_id: u32,
    /// Arithmetic: full (32 bits), or reduced (16 bits where the provider has them)
    #[arg(long, value_name = "NAME", default_value_t = Precision::Full)]
    precision: Precision,
    /// Convolutions on the CPU: auto (kernels of this program where they are faster), or runtime (ONNX Runtime's alone)
    #[arg(long, value_name = "NAME", default_value_t = Kernels::Auto)]
    kernels: Kernels,
    /// Take the CPU where the provider is not there, and say so
    #[arg(long)]
    allow_cpu_fallback: bool,
    /// Threads of one run; 0: one a physical core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// What to believe of the model in place of what its layout says, as in mean=104,117,123; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = model_option)]
    model_option: Vec<(String, String)>,
}

/// `key=value` of a model option.
fn model_option(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Overrides::default().set(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Run {
    /// What is said of the model.
    fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        for (key, value) in &self.model_option {
            overrides.set(key, value).expect("the command line was checked");
        }
        overrides
    }

    fn options(&self) -> Options {
        Options {
            overrides: self.overrides(),
            provider: self.execution_provider,
            device_id: self.device_id,
            precision: self.precision,
            kernels: self.kernels,
            allow_cpu_fallback: self.allow_cpu_fallback,
            threads: self.threads,
            home: home(),
            progress: Some(Progress::new(|what, ended| {
                let _ = writeln!(io::stderr(), "retinaface: {what}{}", if ended { ": done" } else { " ..." });
            })),
            ..Options::default()
        }
    }
}

/// Where and at which sizes pictures are looked at, for each command that looks at some.
#[derive(Debug, Args)]
struct Looking {
    /// Sizes to look at, as factors of what --input-size makes of the picture; or auto: also a small one for close-ups
    #[arg(long, value_name = "FACTOR,...", default_value = "1.0", value_parser = str::parse::<Scales>)]
    scales: Scales,
    /// Look in a mirror, too
    #[arg(long)]
    flip: bool,
    /// Look at overlapping parts, too: auto (of the input size, at full resolution), or columns and rows, as in 3x2
    #[arg(long, value_name = "TILES", default_value = "none", value_parser = str::parse::<Tiles>)]
    tiles: Tiles,
    /// Look only here, in pixels of the picture; several are separated by `;`
    #[arg(long, value_name = "X,Y,W,H", default_value = "", value_parser = looks::rois, hide_default_value = true)]
    roi: Arc<[Rect]>,
    /// How faces that overlap become one: nms (the best stays), vote (their weighted mean)
    #[arg(long, value_name = "NAME", default_value = "nms", value_parser = merge)]
    merge: Merge,
}

fn merge(text: &str) -> Result<Merge, String> {
    match text {
        "nms" => Ok(Merge::Nms),
        "vote" => Ok(Merge::Vote),
        _ => Err("expected nms or vote".to_owned()),
    }
}

impl Looking {
    fn looks(&self) -> Looks {
        Looks { scales: self.scales.clone(), flip: self.flip, tiles: self.tiles, rois: Arc::clone(&self.roi) }
    }
}

/// A number in 0.0..=1.0.
fn part(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().map_err(|error| error.to_string())?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("not between 0 and 1".to_owned()) }
}

/// A detector of pictures, with the model asked for or the default one; says what a user should know of it.
fn open_detector(model: Option<&PathBuf>, run: &Run) -> anyhow::Result<Detector> {
    // OpenCV's own messages would stand between ours; what it cannot do comes back as an error.
    opencv::core::set_log_level(opencv::core::LogLevel::LOG_LEVEL_SILENT)?;
    let model = SharedModel::open(&model_path(model)?, &run.options())?;
    tell_notes(model.running());
    Ok(Detector::new(&model))
}

/// What a user should know of what the model runs on.
fn tell_notes(running: &Running) {
    for note in &running.notes {
        let _ = writeln!(io::stderr(), "retinaface: {note}");
    }
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Found,
    Nothing,
    /// Errors that were told when they occurred.
    Failed,
}

/// The program's folder.
fn home() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_path_buf())
}

/// The model asked for, or the default one.
fn model_path(file: Option<&PathBuf>) -> Result<PathBuf, locate::NotFound> {
    file.map_or_else(|| locate::model(home().as_deref()), |file| Ok(file.clone()))
}

/// Runs the command line's command.
pub(crate) fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(command) => command.run(),
        Command::Detect(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Model(command) => command.run(),
    };
    match result {
        Ok(Outcome::Found) => ExitCode::SUCCESS,
        Ok(Outcome::Nothing) => ExitCode::from(1),
        Ok(Outcome::Failed) => ExitCode::from(2),
        // Whoever read our output has had enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if even this cannot be told.
            let _ = writeln!(io::stderr(), "retinaface: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
