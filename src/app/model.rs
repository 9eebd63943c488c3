//! `retinaface model FILE`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use retinaface::model::Model;

use super::{Outcome, Run};

#[derive(Debug, Args)]
pub(super) struct ModelFile {
    /// ONNX file
    file: PathBuf,
    #[command(flatten)]
    run: Run,
}

impl ModelFile {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        let model = Model::open(&self.file, &self.run.options())?;
        writeln!(io::stdout(), "file:       {}\n{}", self.file.display(), model.contract())?;
        Ok(Outcome::Found)
    }
}
