//! The memory of one batch item: the tensors that a run reads and writes, bound to its session
//! once.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{DynTensor, PrimitiveTensorElementType, TensorElementType};

use super::device_graph::{self, FrameSpec};
use super::engine::BatchItem;
use super::error::ModelError;
use super::options::AUTO_BATCH;
use crate::model::{MAX_HEADS, ModelSpec};
use crate::runtime::{Exclusive, Provider, exclusive};
use crate::sync::lock;

/// The kind and the shape of an input. Items with equal specs can share a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputSpec {
    /// `[3, height, width]` floats, made from the frame on the CPU.
    Floats {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The frame's own planes; the device graph converts them.
    Planes(FrameSpec),
    /// The frame's own planes in the device's memory.
    DevicePlanes(FrameSpec),
}

impl InputSpec {
    /// Width and height of the model's input.
    pub fn input(&self) -> (usize, usize) {
        match self {
            Self::Floats { width, height } => (*width, *height),
            Self::Planes(frame) | Self::DevicePlanes(frame) => frame.letterbox().input(),
        }
    }

    /// Name, element type and shape of each input for `count` items.
    fn inputs(&self, spec: &ModelSpec, count: usize) -> Vec<(String, TensorElementType, Vec<usize>)> {
        match self {
            Self::Floats { width, height } => {
                vec![(spec.input_name.clone(), TensorElementType::Float32, vec![count, spec.channels, *height, *width])]
            }
            Self::Planes(frame) | Self::DevicePlanes(frame) => (0..frame.planes())
                .map(|plane| {
                    let [rows, cols, channels] = frame.plane_shape(plane);
                    (device_graph::plane_name(plane), TensorElementType::Uint8, vec![count, rows, cols, channels])
                })
                .collect(),
        }
    }

    /// Name and shape of each output for `count` items.
    fn outputs(&self, spec: &ModelSpec, count: usize) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::Floats { width, height } => spec.output_shapes((*width, *height), count),
            Self::Planes(frame) | Self::DevicePlanes(frame) => {
                let candidates = device_graph::candidates(spec, frame);
                vec![(device_graph::OUTPUT.to_owned(), vec![count, candidates, spec.candidate_len()])]
            }
        }
    }

    /// TensorRT's optimization profile: the inputs' names and shapes for the smallest, the usual
    /// and the largest batch.
    pub(crate) fn profile(&self, spec: &ModelSpec) -> [String; 3] {
        let max = if spec.dynamic_batch { AUTO_BATCH } else { 1 };
        [1, max, max].map(|count| {
            let input = |(name, _, shape): (String, _, Vec<usize>)| {
                let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
                format!("{name}:{shape}")
            };
            self.inputs(spec, count).into_iter().map(input).collect::<Vec<_>>().join(",")
        })
    }
}

impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.input();
        write!(f, "an input of {width}x{height}")?;
        if let Self::Planes(frame) | Self::DevicePlanes(frame) = self {
            let (width, height) = frame.letterbox().frame();
            write!(f, " made from frames of {width}x{height}")?;
        }
        Ok(())
    }
}

/// Where a run's tensors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorMemory {
    /// In the memory that the provider itself uses.
    Host,
    /// In the CPU's memory. The provider copies between it and the device.
    Copied,
    /// In page-locked memory. The provider copies between it and the GPU.
    Pinned,
    /// In the GPU's memory, at one address for all runs of a shape and batch size, since a CUDA
    /// graph records addresses. Inputs are copied before a run and outputs after it.
    Device,
}

/// Allocates a model's tensors, on any thread.
pub struct TensorAllocator {
    spec: Arc<ModelSpec>,
    provider: Provider,
    memory: TensorMemory,
    /// For page-locked memory; `None` if plain memory suffices.
    pinned: Option<Mutex<Allocator>>,
    device: Option<Mutex<Allocator>>,
    /// Which input specs have tensors.
    users: Mutex<HashMap<InputSpec, Weak<SpecUse>>>,
    /// How often the last tensors of an input spec were dropped.
    released: Arc<AtomicUsize>,
}

impl fmt::Debug for TensorAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorAllocator").field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// Shared by all tensors of one input spec and dropped with the last of them.
#[derive(Debug)]
struct SpecUse {
    released: Arc<AtomicUsize>,
}

impl Drop for SpecUse {
    fn drop(&mut self) {
        self.released.fetch_add(1, Ordering::Release);
    }
}

impl TensorAllocator {
    pub(crate) fn new(
        session: &Session,
        spec: Arc<ModelSpec>,
        provider: Provider,
        memory: TensorMemory,
        device_id: u32,
    ) -> Result<Self, ModelError> {
        let device_id = i32::try_from(device_id).unwrap_or(i32::MAX);
        let allocator = |device, kind| {
            let info = MemoryInfo::new(device, device_id, AllocatorType::Device, kind)?;
            Allocator::new(session, info).map(|allocator| Some(Mutex::new(allocator)))
        };
        let (pinned, device) = match memory {
            TensorMemory::Host | TensorMemory::Copied => (None, None),
            TensorMemory::Pinned | TensorMemory::Device => (
                allocator(AllocationDevice::CUDA_PINNED, MemoryType::CPUInput).map_err(ModelError::tensor)?,
                allocator(AllocationDevice::CUDA, MemoryType::Default).map_err(ModelError::tensor)?,
            ),
        };
        Ok(Self { spec, provider, memory, pinned, device, users: Mutex::default(), released: Arc::default() })
    }

    /// An allocator whose tensors are copied before and after each run, as for a CUDA graph, but
    /// from CPU to CPU.
    #[cfg(test)]
    pub(crate) fn copying(self) -> Self {
        Self { memory: TensorMemory::Device, ..self }
    }

    /// Tensors of one item.
    ///
    /// # Errors
    /// If the memory cannot be allocated.
    pub fn tensors(&self, input_spec: InputSpec) -> Result<Tensors, ModelError> {
        let user = {
            let mut users = lock(&self.users);
            users.retain(|_, user| user.strong_count() > 0);
            let known = users.get(&input_spec).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let user = Arc::new(SpecUse { released: Arc::clone(&self.released) });
                users.insert(input_spec, Arc::downgrade(&user));
                user
            })
        };
        let bound = self.bound(&input_spec, 1, false).map_err(ModelError::tensor)?;
        Ok(Tensors { input_spec, bound, _user: user })
    }

    /// Whether runs use tensors at one address on the device, into which each item is copied.
    pub(crate) fn uses_device_buffers(&self, input_spec: &InputSpec) -> bool {
        self.memory == TensorMemory::Device && !matches!(input_spec, InputSpec::DevicePlanes(_))
    }

    /// Tensors of `count` items. With `for_runs` a run reads and writes them directly.
    pub(crate) fn bound(&self, input_spec: &InputSpec, count: usize, for_runs: bool) -> ort::Result<BoundTensors> {
        let in_device_memory = for_runs && self.uses_device_buffers(input_spec);
        let allocate = |allocator: &Option<Mutex<Allocator>>, element, shape: Vec<usize>| match allocator {
            Some(allocator) => DynTensor::new(&lock(allocator), element, shape),
            None => DynTensor::new(&Allocator::default(), element, shape),
        };
        let host = |element, shape| allocate(&self.pinned, element, shape);
        let on_device = |element, shape| allocate(&self.device, element, shape);
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        let resident = matches!(input_spec, InputSpec::DevicePlanes(_));
        for (name, element, shape) in input_spec.inputs(&self.spec, count) {
            if resident {
                inputs.push(BoundValue { name, host: on_device(element, shape)?, device: None });
                continue;
            }
            let mut tensor = host(element, shape.clone())?;
            // The content of new memory is unspecified.
            match element {
                TensorElementType::Float32 => tensor.try_extract_tensor_mut::<f32>()?.1.fill(0.0),
                _ => tensor.try_extract_tensor_mut::<u8>()?.1.fill(0),
            }
            let device = if in_device_memory { Some(on_device(element, shape)?) } else { None };
            inputs.push(BoundValue { name, host: tensor, device });
        }
        for (name, shape) in input_spec.outputs(&self.spec, count) {
            let tensor = host(TensorElementType::Float32, shape.clone())?;
            let device = if in_device_memory { Some(on_device(TensorElementType::Float32, shape)?) } else { None };
            outputs.push(BoundValue { name, host: tensor, device });
        }
        Ok(BoundTensors { count, resident, inputs, outputs, bindings: Vec::new() })
    }

    /// How many input specs have lost their last tensors so far.
    pub(crate) fn released(&self) -> usize {
        self.released.load(Ordering::Acquire)
    }

    /// Whether tensors of this input spec exist.
    pub(crate) fn in_use(&self, input_spec: &InputSpec) -> bool {
        lock(&self.users).get(input_spec).is_some_and(|user| user.strong_count() > 0)
    }
}

/// One input or output.
#[derive(Debug)]
struct BoundValue {
    name: String,
    /// The tensor that callers fill or read; in the device's memory for inputs that are filled
    /// there.
    host: DynTensor,
    /// Its copy on the device, if runs use that one.
    device: Option<DynTensor>,
}

impl BoundValue {
    fn values<T: PrimitiveTensorElementType>(&self) -> Result<&[T], ModelError> {
        self.host.try_extract_tensor::<T>().map(|(_, values)| values).map_err(ModelError::tensor)
    }

    fn values_mut<T: PrimitiveTensorElementType>(&mut self) -> Result<&mut [T], ModelError> {
        self.host.try_extract_tensor_mut::<T>().map(|(_, values)| values).map_err(ModelError::tensor)
    }

    /// Copies `from`, the tensor of one item, to item `index` of this tensor.
    fn copy_item<T: PrimitiveTensorElementType + Copy>(&mut self, index: usize, from: &Self) -> Result<(), ModelError> {
        let from = from.values::<T>()?;
        let len = from.len();
        let all = self.values_mut::<T>()?;
        all.get_mut(index * len..(index + 1) * len).ok_or_else(batch_too_short)?.copy_from_slice(from);
        Ok(())
    }
}

fn batch_too_short() -> ModelError {
    ModelError::Tensor("the batch's tensor is too short for its items".to_owned())
}

/// Tensors of one or several items, bound to a session at their first run on it.
pub(crate) struct BoundTensors {
    count: usize,
    /// The inputs stay in the device's memory.
    resident: bool,
    inputs: Vec<BoundValue>,
    outputs: Vec<BoundValue>,
    /// One binding per concurrent session, see [`super::model::Model::another_session`].
    bindings: Vec<Option<Exclusive<IoBinding>>>,
}

impl BoundTensors {
    /// Number of items.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Runs the session with index `index` on these tensors.
    pub(crate) fn run(
        &mut self,
        (index, session): (usize, &mut Session),
        allocator: &TensorAllocator,
        options: Option<&RunOptions>,
    ) -> ort::Result<()> {
        let _exclusive = exclusive(allocator.provider);
        if self.bindings.len() <= index {
            self.bindings.resize_with(index + 1, || None);
        }
        let slot = &mut self.bindings[index];
        let binding = match slot {
            Some(binding) => binding,
            None => {
                let mut binding = session.create_binding()?;
                for value in &self.inputs {
                    binding.bind_input(&value.name, value.device.as_ref().unwrap_or(&value.host))?;
                }
                for value in &mut self.outputs {
                    binding.bind_output(&value.name, value.device.as_mut().unwrap_or(&mut value.host))?;
                }
                slot.insert(Exclusive::new(binding, allocator.provider))
            }
        };
        match allocator.memory {
            _ if self.resident => {}
            TensorMemory::Host => {}
            // Binding an input copies it to the device.
            TensorMemory::Copied | TensorMemory::Pinned => {
                for value in &self.inputs {
                    binding.bind_input(&value.name, &value.host)?;
                }
            }
            TensorMemory::Device => {
                for BoundValue { host, device, .. } in &mut self.inputs {
                    device.as_mut().map_or(Ok(()), |device| host.copy_into(device))?;
                }
            }
        }
        match options {
            Some(options) => session.run_binding_with_options(binding, options).map(drop)?,
            None => session.run_binding(binding).map(drop)?,
        }
        for BoundValue { host, device, .. } in &mut self.outputs {
            device.as_ref().map_or(Ok(()), |device| device.copy_into(&mut *host))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn clear_outputs(&mut self) {
        self.outputs.iter_mut().for_each(|value| value.values_mut::<f32>().unwrap().fill(0.0));
    }

    /// Copies the inputs of `item` to item `index` of this batch.
    pub(crate) fn gather(&mut self, index: usize, item: &Self) -> Result<(), ModelError> {
        for (value, from) in self.inputs.iter_mut().zip(&item.inputs) {
            match value.host.data_type() {
                TensorElementType::Uint8 => value.copy_item::<u8>(index, from)?,
                _ => value.copy_item::<f32>(index, from)?,
            }
        }
        Ok(())
    }

    /// Copies the outputs of item `index` of this batch to `item`.
    pub(crate) fn scatter(&self, index: usize, item: &mut Self) -> Result<(), ModelError> {
        for (value, to) in self.outputs.iter().zip(&mut item.outputs) {
            let to = to.values_mut::<f32>()?;
            let len = to.len();
            let part = value.values::<f32>()?.get(index * len..(index + 1) * len);
            to.copy_from_slice(part.ok_or_else(batch_too_short)?);
        }
        Ok(())
    }
}

/// The tensors of one item: a caller fills them, [`crate::inference::Model::run`] runs them, the
/// caller reads the output.
pub struct Tensors {
    input_spec: InputSpec,
    bound: BoundTensors,
    _user: Arc<SpecUse>,
}

impl fmt::Debug for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensors").field("input_spec", &self.input_spec).finish_non_exhaustive()
    }
}

impl BatchItem for Tensors {
    type Shape = InputSpec;

    fn shape(&self) -> InputSpec {
        self.input_spec
    }
}

/// The output of a run for one item.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack for a moment; a box would be one allocation per frame"
)]
pub enum RunOutput<'a> {
    /// The model's outputs, in the order of [`ModelSpec::output_names`].
    Heads(HeadOutputs<'a>),
    /// Decoded candidates of the device graph, the best first.
    Candidates(&'a [f32]),
}

/// A model's outputs, in the order of [`ModelSpec::output_names`]; on the stack, since each frame
/// has some.
#[derive(Clone, Copy, Debug)]
pub struct HeadOutputs<'a> {
    values: [&'a [f32]; MAX_HEADS],
    count: usize,
}

impl<'a> HeadOutputs<'a> {
    /// The values of each output.
    pub fn values(&self) -> &[&'a [f32]] {
        &self.values[..self.count]
    }
}

impl Tensors {
    /// The kind and the shape of the input.
    pub fn input_spec(&self) -> InputSpec {
        self.input_spec
    }

    pub(crate) fn bound(&mut self) -> &mut BoundTensors {
        &mut self.bound
    }

    /// The input `[3, height, width]` of [`InputSpec::Floats`].
    ///
    /// # Errors
    /// If the input has another kind.
    pub fn floats(&mut self) -> Result<&mut [f32], ModelError> {
        self.input(0)?.values_mut::<f32>()
    }

    /// Plane `plane` of [`InputSpec::Planes`], `[rows, columns, channels]`.
    ///
    /// # Errors
    /// If the input has another kind, or there is no such plane.
    pub fn plane(&mut self, plane: usize) -> Result<&mut [u8], ModelError> {
        self.input(plane)?.values_mut::<u8>()
    }

    fn input(&mut self, index: usize) -> Result<&mut BoundValue, ModelError> {
        self.bound.inputs.get_mut(index).ok_or_else(|| ModelError::Tensor(format!("there is no input {index}")))
    }

    /// Address of plane `plane` of [`InputSpec::DevicePlanes`] in the device's memory.
    #[cfg(feature = "cuda-memory")]
    pub(crate) fn address(&mut self, plane: usize) -> Result<u64, ModelError> {
        Ok(self.input(plane)?.host.data_ptr_mut() as u64)
    }

    /// The output of the last run.
    ///
    /// # Errors
    /// If the outputs are not floats in memory that the CPU can read.
    pub fn output(&self) -> Result<RunOutput<'_>, ModelError> {
        let outputs = self.bound.outputs.as_slice();
        if !matches!(self.input_spec, InputSpec::Floats { .. }) {
            let output = outputs.first().ok_or_else(|| ModelError::Tensor("there is no output".to_owned()))?;
            return Ok(RunOutput::Candidates(output.values()?));
        }
        let mut heads = HeadOutputs { values: [&[]; MAX_HEADS], count: outputs.len() };
        for (value, values) in outputs.iter().zip(&mut heads.values) {
            *values = value.values()?;
        }
        Ok(RunOutput::Heads(heads))
    }
}
