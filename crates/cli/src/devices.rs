//! `retinaface devices`: lists execution providers and their devices.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use retinaface::inference::{ProviderReport, provider_reports};
use retinaface::runtime::DeviceInfo;
use serde::Serialize;

use crate::args::open_context;
use crate::status::Outcome;

#[derive(Debug, Args)]
pub(crate) struct Devices {
    /// Print one line of JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Devices {
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        let reports = provider_reports(open_context().base_dir.as_deref())?;
        let text = if self.json {
            let providers = reports.iter().map(ProviderRecord::from).collect();
            serde_json::to_string(&DevicesRecord { schema: "retinaface.devices/1", providers })? + "\n"
        } else {
            reports.iter().map(describe).collect()
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(Outcome::Found)
    }
}

/// The provider with its devices, as lines.
fn describe(report: &ProviderReport) -> String {
    let ProviderReport { provider, library, version, devices, problem } = report;
    let mut text = format!("{provider}\n");
    if let Some(library) = library {
        let version = version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
        let _ = writeln!(text, "  library: {}{version}", library.display());
    }
    for DeviceInfo { id, kind, vendor, name, memory } in devices {
        let name = name.as_deref().unwrap_or("unknown model");
        let vendor = if name.contains(vendor) { String::new() } else { format!(", {vendor}") };
        let memory = memory.map(|bytes| format!(", {:.1} GiB", bytes as f64 / f64::from(1 << 30))).unwrap_or_default();
        let _ = writeln!(text, "  device-id={id}: {kind}, {name}{vendor}{memory}");
    }
    if let Some(problem) = problem {
        let _ = writeln!(text, "  not usable: {problem}");
    }
    text
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct DevicesRecord<'a> {
    schema: &'static str,
    providers: Vec<ProviderRecord<'a>>,
}

#[derive(Debug, Serialize)]
struct ProviderRecord<'a> {
    provider: &'static str,
    usable: bool,
    library: Option<&'a PathBuf>,
    version: Option<&'a str>,
    devices: Vec<DeviceRecord<'a>>,
    /// Why the provider cannot be used; null if it can.
    problem: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct DeviceRecord<'a> {
    /// The value of `device-id`.
    id: u32,
    kind: &'static str,
    vendor: &'a str,
    name: Option<&'a str>,
    memory_bytes: Option<u64>,
}

impl<'a> From<&'a ProviderReport> for ProviderRecord<'a> {
    fn from(report: &'a ProviderReport) -> Self {
        let device = |device: &'a DeviceInfo| DeviceRecord {
            id: device.id,
            kind: device.kind.name(),
            vendor: &device.vendor,
            name: device.name.as_deref(),
            memory_bytes: device.memory,
        };
        Self {
            provider: report.provider.name(),
            usable: report.problem.is_none(),
            library: report.library.as_ref(),
            version: report.version.as_deref(),
            devices: report.devices.iter().map(device).collect(),
            problem: report.problem.as_deref(),
        }
    }
}
