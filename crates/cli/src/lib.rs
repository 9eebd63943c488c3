//! The program `retinaface`: command line and exit status.
//!
//! Results go to standard output, messages to standard error. Exit status: 0 if a face was found, 1
//! if none was found, 2 on an error.

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::status::Outcome;

mod args;
mod atomic_file;
mod bench;
mod detect;
mod devices;
mod elements;
mod eval;
mod image_file;
mod model;
pub mod parsers;
mod redact;
mod status;
mod stderr;

/// Detect faces with RetinaFace and align them for recognition
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Detect faces in images; print one JSON line per image on standard output
    #[command(after_help = "Exit status: 0 if a face was found, 1 if no image contains a face, 2 on an error.")]
    Detect(detect::Detect),
    /// Cover every face of a video or an image, and write it to another file
    #[command(
        after_help = "Exit status: 0 if a face was covered, 1 if none was found (OUT is written, too), 2 on an error \
                            (OUT is not written)."
    )]
    Redact(Box<redact::Redact>),
    /// Measure the frame rate of the GStreamer element retinaface and the time of each stage
    Bench(bench::Bench),
    /// Measure the accuracy of a detector on annotated images, or of a tracker
    Eval(eval::Eval),
    /// List the execution providers and their devices, and why a provider cannot be used
    Devices(devices::Devices),
    /// Print the layout, inputs, outputs and strides of a model file, or why it is not supported
    Model(model::InspectModel),
}

/// Runs the command that the arguments of the process name.
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    status::receive_library_lines();
    let result = match command {
        Command::Bench(command) => command.run(),
        Command::Detect(command) => command.run(),
        Command::Devices(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Model(command) => command.run(),
        Command::Redact(command) => command.run(),
    };
    let status = exit_code(result);
    status::flush_libraries();
    status
}

fn exit_code(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Found) => ExitCode::SUCCESS,
        Ok(Outcome::Nothing) => ExitCode::from(1),
        Ok(Outcome::Failed) => ExitCode::from(2),
        // The reader of standard output has read enough, as `head` does.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            status::report(&status::describe(&error));
            ExitCode::from(2)
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
