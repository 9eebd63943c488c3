//! The execution providers of the machine, as a process prints them for another one.

use retinaface::inference::provider_report;
use retinaface::runtime::{DeviceInfo, Provider};
use serde::{Deserialize, Serialize};

use crate::program_directory;

/// An execution provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProviderEntry {
    pub(crate) provider: String,
    pub(crate) version: Option<String>,
    pub(crate) devices: Vec<DeviceEntry>,
    /// Why it cannot be used; `None` if it can.
    pub(crate) problem: Option<String>,
}

/// A device of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceEntry {
    /// The value of `device-id`.
    pub(crate) id: u32,
    pub(crate) kind: String,
    pub(crate) vendor: String,
    pub(crate) name: Option<String>,
    pub(crate) memory_bytes: Option<u64>,
}

impl ProviderEntry {
    /// Loads a provider and lists its devices.
    pub(crate) fn find(provider: Provider) -> anyhow::Result<Self> {
        let report = provider_report(program_directory().as_deref(), provider)?;
        let device = |device: DeviceInfo| DeviceEntry {
            id: device.id,
            kind: device.kind.name().to_owned(),
            vendor: device.vendor,
            name: device.name,
            memory_bytes: device.memory,
        };
        Ok(Self {
            provider: provider.name().to_owned(),
            version: report.version,
            devices: report.devices.into_iter().map(device).collect(),
            problem: report.problem,
        })
    }

    /// A provider whose process did not end as expected.
    pub(crate) fn unusable(provider: Provider, problem: &str) -> Self {
        let problem = Some(problem.to_owned());
        Self { provider: provider.name().to_owned(), version: None, devices: Vec::new(), problem }
    }
}
