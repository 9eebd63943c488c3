//! The program `retinaface`.

use std::process::ExitCode;

fn main() -> ExitCode {
    retinaface_cli::run()
}
