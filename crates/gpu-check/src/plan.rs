//! Which steps are run.

use anyhow::{Context as _, bail};
use retinaface::runtime::{DeviceKind, Precision, Provider};

use crate::devices::ProviderEntry;
use crate::steps::{ModelPrecision, Step, Task};

/// Batch sizes of the bare session.
const BATCHES: [usize; 4] = [1, 4, 16, 64];

/// A provider and the device on which it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) provider: Provider,
    pub(crate) device_id: u32,
}

/// What is checked: the providers in `wanted`, or every usable provider that has a GPU or an NPU. Of
/// its devices the first GPU or NPU is taken, or else the processor.
pub(crate) fn targets(entries: &[ProviderEntry], wanted: &[Provider]) -> anyhow::Result<Vec<Target>> {
    let accelerator = |entry: &ProviderEntry| {
        entry.devices.iter().find(|device| device.kind != DeviceKind::Cpu.name()).map(|device| device.id)
    };
    if wanted.is_empty() {
        let usable = entries.iter().filter(|entry| entry.problem.is_none());
        let with_device = usable.filter_map(|entry| Some((entry, accelerator(entry)?)));
        return with_device
            .map(|(entry, device_id)| Ok(Target { provider: entry.provider.parse()?, device_id }))
            .collect();
    }
    let target = |provider: &Provider| {
        let entry = entries.iter().find(|entry| entry.provider == provider.name());
        let entry = entry.with_context(|| format!("{provider} is not a provider that can be checked"))?;
        match &entry.problem {
            Some(problem) => bail!("{provider} is not usable: {problem}"),
            None => Ok(Target { provider: *provider, device_id: accelerator(entry).unwrap_or(0) }),
        }
    };
    wanted.iter().map(target).collect()
}

/// The steps, the most important ones of all providers first.
pub(crate) fn steps(targets: &[Target], has_fp16: bool, is_quick: bool) -> Vec<Step> {
    let mut tasks = vec![(Task::Parity, ModelPrecision::Float32)];
    if is_quick {
        tasks.push((Task::Session { batch: 1 }, ModelPrecision::Float32));
    } else {
        tasks.extend([(Task::Engine, ModelPrecision::Float32), (Task::Latency, ModelPrecision::Float32)]);
        tasks.extend(BATCHES.map(|batch| (Task::Session { batch }, ModelPrecision::Float32)));
        tasks.push((Task::Streams, ModelPrecision::Float32));
        if has_fp16 {
            tasks.extend(
                [Task::Parity, Task::Engine, Task::Session { batch: 16 }].map(|task| (task, ModelPrecision::Float16)),
            );
        }
    }
    let mut steps = Vec::new();
    if !is_quick {
        // The first start builds TensorRT's engine, the second one reads it from the cache.
        let tensorrt = targets.iter().filter(|target| target.provider == Provider::TensorRt);
        steps.extend(tensorrt.flat_map(|target| {
            [true, false].map(|is_first| step(*target, Task::Start { is_first }, ModelPrecision::Float32))
        }));
    }
    for (task, model) in tasks {
        steps.extend(targets.iter().map(|target| step(*target, task, model)));
    }
    if !is_quick {
        let reduced = targets.iter().filter(|target| target.provider.has_reduced_precision());
        steps.extend(reduced.flat_map(|target| {
            let step = |task| Step { precision: Precision::Reduced, ..step(*target, task, ModelPrecision::Float32) };
            [Task::Parity, Task::Engine].map(step)
        }));
    }
    steps
}

fn step(target: Target, task: Task, model: ModelPrecision) -> Step {
    let Target { provider, device_id } = target;
    Step { provider, device_id, task, model, precision: Precision::Full }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::DeviceEntry;

    fn entry(provider: Provider, kinds: &[DeviceKind], problem: Option<&str>) -> ProviderEntry {
        let devices = kinds.iter().zip(0..).map(|(kind, id)| DeviceEntry {
            id,
            kind: kind.name().to_owned(),
            vendor: String::new(),
            name: None,
            memory_bytes: None,
        });
        ProviderEntry {
            provider: provider.name().to_owned(),
            version: None,
            devices: devices.collect(),
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn gpus_are_checked_and_software_adapters_only_by_name() {
        let entries = [
            entry(Provider::Cpu, &[DeviceKind::Cpu], None),
            entry(Provider::OpenVino, &[DeviceKind::Cpu, DeviceKind::Gpu, DeviceKind::Npu], None),
            entry(Provider::WebGpu, &[DeviceKind::Cpu], None),
            entry(Provider::Cuda, &[DeviceKind::Gpu], None),
            entry(Provider::TensorRt, &[DeviceKind::Gpu], Some("not installed")),
        ];
        let target = |provider, device_id| Target { provider, device_id };
        let all = targets(&entries, &[]).unwrap();
        assert_eq!(all, [target(Provider::OpenVino, 1), target(Provider::Cuda, 0)]);
        assert_eq!(targets(&entries, &[Provider::WebGpu]).unwrap(), [target(Provider::WebGpu, 0)]);
        let error = targets(&entries, &[Provider::TensorRt]).unwrap_err().to_string();
        assert!(error.contains("tensorrt is not usable: not installed"), "{error}");
    }

    #[test]
    fn parity_of_all_providers_comes_before_measurements() {
        let targets = [Provider::Cuda, Provider::WebGpu].map(|provider| Target { provider, device_id: 0 });
        let steps = steps(&targets, true, false);
        let first = steps.iter().position(|step| step.task != Task::Parity).unwrap();
        assert_eq!(first, 2);
        assert!(steps.iter().any(|step| step.precision == Precision::Reduced && step.provider == Provider::Cuda));
        assert!(!steps.iter().any(|step| step.precision == Precision::Reduced && step.provider == Provider::WebGpu));
        assert_eq!(super::steps(&targets[1..], true, true).len(), 2);
    }
}
