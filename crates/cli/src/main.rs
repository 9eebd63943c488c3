//! The `retinaface` program; see [`app`].

use std::process::ExitCode;

mod app;

fn main() -> ExitCode {
    app::run()
}
