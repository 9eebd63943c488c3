//! The program `retinaface-sequences`: writes sequences as video files with their truth, for
//! evaluations of trackers.

mod output;
mod y4m;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use retinaface_sequences::{Renderer, SCENARIOS, Scenario, scenario};

/// Render video sequences of moving faces with known truth
///
/// For each scenario writes NAME/frames.y4m (YUV4MPEG2), NAME/times.csv (the presentation time of
/// each frame), NAME/seqinfo.ini and NAME/gt/gt.txt (the truth in the format of the MOT Challenge).
/// Faces of which less than a tenth is visible have a confidence of 0, so that evaluations ignore
/// them.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = scenario_list())]
struct Arguments {
    /// Directory for the sequences; created if it does not exist
    out: PathBuf,
    /// Scenarios; default: all
    #[arg(value_name = "NAME", value_parser = parse_scenario)]
    scenarios: Vec<&'static Scenario>,
    /// Directory with the photos multi_face.jpg and single_face.jpg
    #[arg(long, value_name = "DIR", default_value = ".fetch/media")]
    media: PathBuf,
}

fn scenario_list() -> String {
    let lines = SCENARIOS.iter().map(|scenario| format!("\n  {:<12} {}", scenario.name, scenario.description));
    format!("Scenarios:{}", lines.collect::<String>())
}

fn parse_scenario(name: &str) -> Result<&'static Scenario, String> {
    scenario(name).ok_or_else(|| {
        let names = SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>();
        format!("the scenarios are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("retinaface-sequences: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let renderer = Renderer::open(&arguments.media)?;
    let all = SCENARIOS.iter().collect::<Vec<_>>();
    let scenarios = if arguments.scenarios.is_empty() { &all } else { &arguments.scenarios };
    for scenario in scenarios {
        let directory = arguments.out.join(scenario.name);
        let sequence = renderer.sequence(scenario)?;
        output::write(&directory, &sequence).with_context(|| directory.display().to_string())?;
        writeln!(io::stdout(), "{}: {} frames", directory.display(), sequence.len())?;
    }
    Ok(())
}
