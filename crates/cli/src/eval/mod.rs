//! `retinaface eval`: accuracy of a detector on annotated images, and of a tracker.

use clap::{Args, Subcommand};

use crate::status::Outcome;

mod landmarks;
mod matlab;
mod nme;
mod plot;
mod predict;
mod predictions;
mod protocol;
pub(crate) mod track;
pub(crate) mod truth;
mod widerface;

#[derive(Debug, Args)]
pub(crate) struct Eval {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compute the average precision on the WIDER FACE validation set with its official protocol
    #[command(name = "widerface")]
    WiderFace(widerface::WiderFace),
    /// Detect faces in all images of a directory and write them in the WIDER FACE format
    #[command(after_help = "Exit status: 0 if every image was read, 2 on an error.")]
    Predict(predict::Predict),
    /// Compute the normalised mean error of landmarks: their distance to the true ones, relative to
    /// the distance between the eyes
    Landmarks(landmarks::Landmarks),
    /// Compute HOTA, MOTA, IDF1 and related metrics of a tracker, as the MOT challenge does
    Track(track::Track),
}

impl Eval {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        match &self.command {
            Command::WiderFace(command) => command.run(),
            Command::Predict(command) => command.run(),
            Command::Landmarks(command) => command.run(),
            Command::Track(command) => command.run(),
        }
    }
}
