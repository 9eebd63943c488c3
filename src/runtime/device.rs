//! Devices of execution providers.

use std::fmt;

/// The kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// A processor.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A processor for neural networks.
    Npu,
}

impl DeviceKind {
    /// The name in messages, as OpenVINO writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Gpu => "GPU",
            Self::Npu => "NPU",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A device of an execution provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The value of `device-id` that selects it.
    pub id: u32,
    /// Its kind.
    pub kind: DeviceKind,
    /// Its manufacturer, for example `Intel`; empty if it is unknown.
    pub vendor: String,
    /// Its name; `None` if the provider does not report it.
    pub name: Option<String>,
    /// Bytes of its memory; `None` if the provider does not report them.
    pub memory: Option<u64>,
}

impl DeviceInfo {
    /// The processor, for the CPU provider.
    pub(crate) fn cpu() -> Self {
        Self { id: 0, kind: DeviceKind::Cpu, vendor: String::new(), name: None, memory: None }
    }

    /// A GPU of CUDA.
    pub(crate) fn nvidia(id: u32) -> Self {
        Self { id, kind: DeviceKind::Gpu, vendor: "NVIDIA".to_owned(), name: None, memory: None }
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.kind)?;
        let name = self.name.as_deref().unwrap_or(&self.vendor);
        if name.is_empty() { Ok(()) } else { write!(f, " ({name})") }
    }
}
