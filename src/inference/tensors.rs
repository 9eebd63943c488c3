//! A picture's memory: the tensors that a run reads and writes, bound to its session once.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{DynTensor, PrimitiveTensorElementType, TensorElementType};

use crate::contract::Contract;
use crate::decode::MAX_HEADS;
use crate::device::{self, Frames};
use crate::engine::Picture;
use crate::lock::lock;

/// What is fed to a model, and how large it is. Pictures that are fed alike can share a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feed {
    /// `[3, height, width]` floats, made of the frame on the CPU.
    Floats {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The frame's own planes; the rest happens on the device.
    Planes(Frames),
    /// The frame's own planes, which are on the device already.
    Resident(Frames),
}

impl Feed {
    /// Width and height of the model's input.
    pub fn input(&self) -> (usize, usize) {
        match self {
            Self::Floats { width, height } => (*width, *height),
            Self::Planes(frames) | Self::Resident(frames) => frames.letterbox().input(),
        }
    }

    /// Name, element type and sides, the number of pictures first, of each input.
    fn inputs(&self, contract: &Contract, count: usize) -> Vec<(String, TensorElementType, Vec<usize>)> {
        match self {
            Self::Floats { width, height } => {
                vec![(
                    contract.input.clone(),
                    TensorElementType::Float32,
                    vec![count, contract.channels, *height, *width],
                )]
            }
            Self::Planes(frames) | Self::Resident(frames) => (0..frames.planes())
                .map(|plane| {
                    let [rows, cols, channels] = frames.plane_shape(plane);
                    (device::plane_name(plane), TensorElementType::Uint8, vec![count, rows, cols, channels])
                })
                .collect(),
        }
    }

    /// Name and sides of each output.
    fn outputs(&self, contract: &Contract, count: usize) -> Vec<(String, Vec<usize>)> {
        match self {
            Self::Floats { width, height } => contract.output_sides((*width, *height), count),
            Self::Planes(frames) | Self::Resident(frames) => {
                let candidates = device::candidates(contract, frames);
                vec![(device::OUTPUT.to_owned(), vec![count, candidates, contract.candidate()])]
            }
        }
    }

    /// Names and sides of the inputs for one, some and many pictures, as TensorRT wants to hear of them.
    pub(crate) fn profile(&self, contract: &Contract) -> [String; 3] {
        let largest = if contract.dynamic_batch { crate::shared::AUTO_BATCH } else { 1 };
        [1, largest, largest].map(|count| {
            let input = |(name, _, sides): (String, _, Vec<usize>)| {
                let sides = sides.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
                format!("{name}:{sides}")
            };
            self.inputs(contract, count).into_iter().map(input).collect::<Vec<_>>().join(",")
        })
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, height) = self.input();
        write!(f, "an input of {width}x{height}")?;
        if let Self::Planes(frames) | Self::Resident(frames) = self {
            let (width, height) = frames.letterbox().frame();
            write!(f, " made of frames of {width}x{height}")?;
        }
        Ok(())
    }
}

/// Where a run's tensors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the memory that the provider itself works on.
    Host,
    /// In memory that a GPU can copy from and to by itself; the provider does.
    Pinned,
    /// On the GPU, at one place for all runs of a shape and a number of pictures, since a CUDA graph knows no other;
    /// copied before and after.
    Device,
}

/// Makes tensors for a model, on any thread.
pub struct Maker {
    contract: Arc<Contract>,
    place: Place,
    /// Of pinned memory; none where plain memory will do.
    pinned: Option<Mutex<Allocator>>,
    device: Option<Mutex<Allocator>>,
    /// Who still has tensors of a shape.
    users: Mutex<HashMap<Feed, Weak<User>>>,
    /// How often the last tensors of some shape were dropped.
    gone: Arc<AtomicUsize>,
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maker").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Shared by all tensors of a shape; goes with the last of them.
#[derive(Debug)]
struct User {
    gone: Arc<AtomicUsize>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.gone.fetch_add(1, Ordering::Release);
    }
}

impl Maker {
    pub(crate) fn new(session: &Session, contract: Arc<Contract>, place: Place, device_id: u32) -> ort::Result<Self> {
        let device_id = i32::try_from(device_id).unwrap_or(i32::MAX);
        let allocator = |device, memory| {
            let memory = MemoryInfo::new(device, device_id, AllocatorType::Device, memory)?;
            Allocator::new(session, memory).map(|allocator| Some(Mutex::new(allocator)))
        };
        let pinned = match place {
            Place::Host => None,
            Place::Pinned | Place::Device => allocator(AllocationDevice::CUDA_PINNED, MemoryType::CPUInput)?,
        };
        let device = match place {
            Place::Host => None,
            Place::Pinned | Place::Device => allocator(AllocationDevice::CUDA, MemoryType::Default)?,
        };
        Ok(Self { contract, place, pinned, device, users: Mutex::default(), gone: Arc::default() })
    }

    /// A maker whose tensors are copied before and after each run, as for a CUDA graph, but from CPU to CPU.
    #[cfg(test)]
    pub(crate) fn copying(self) -> Self {
        Self { place: Place::Device, ..self }
    }

    /// Tensors for one picture that is fed so.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn tensors(&self, feed: Feed) -> ort::Result<Tensors> {
        let user = {
            let mut users = lock(&self.users);
            users.retain(|_, user| user.strong_count() > 0);
            let known = users.get(&feed).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let user = Arc::new(User { gone: Arc::clone(&self.gone) });
                users.insert(feed, Arc::downgrade(&user));
                user
            })
        };
        Ok(Tensors { feed, bound: self.bound(&feed, 1, false)?, _user: user })
    }

    /// Whether runs go through tensors at one place on the device, into which pictures are copied.
    pub(crate) fn runs_in_place(&self, feed: &Feed) -> bool {
        self.place == Place::Device && !matches!(feed, Feed::Resident(_))
    }

    /// Tensors for `count` pictures at once; those that runs go through have their place on the device.
    pub(crate) fn bound(&self, feed: &Feed, count: usize, runs: bool) -> ort::Result<Bound> {
        let in_place = runs && self.runs_in_place(feed);
        let host = |element: TensorElementType, sides: Vec<usize>| match &self.pinned {
            Some(pinned) => DynTensor::new(&lock(pinned), element, sides),
            None => DynTensor::new(&Allocator::default(), element, sides),
        };
        let on_device = |element: TensorElementType, sides: Vec<usize>| match &self.device {
            Some(device) => DynTensor::new(&lock(device), element, sides),
            None => DynTensor::new(&Allocator::default(), element, sides),
        };
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        let resident = matches!(feed, Feed::Resident(_));
        for (name, element, sides) in feed.inputs(&self.contract, count) {
            if resident {
                inputs.push(Port { name, host: on_device(element, sides)?, device: None });
                continue;
            }
            let mut tensor = host(element, sides.clone())?;
            // A new tensor holds whatever was there.
            match element {
                TensorElementType::Float32 => tensor.try_extract_tensor_mut::<f32>()?.1.fill(0.0),
                _ => tensor.try_extract_tensor_mut::<u8>()?.1.fill(0),
            }
            let device = if in_place { Some(on_device(element, sides)?) } else { None };
            inputs.push(Port { name, host: tensor, device });
        }
        for (name, sides) in feed.outputs(&self.contract, count) {
            let tensor = host(TensorElementType::Float32, sides.clone())?;
            let device = if in_place { Some(on_device(TensorElementType::Float32, sides)?) } else { None };
            outputs.push(Port { name, host: tensor, device });
        }
        Ok(Bound { count, resident, inputs, outputs, bindings: Vec::new() })
    }

    /// How many shapes have gone so far.
    pub(crate) fn gone(&self) -> usize {
        self.gone.load(Ordering::Acquire)
    }

    /// Whether somebody has tensors of this shape.
    pub(crate) fn is_fed(&self, feed: &Feed) -> bool {
        lock(&self.users).get(feed).is_some_and(|user| user.strong_count() > 0)
    }
}

/// One input or output.
#[derive(Debug)]
struct Port {
    name: String,
    /// The one that is filled or read here; on the device for inputs that are filled there.
    host: DynTensor,
    /// Its copy on the device, where runs use that one.
    device: Option<DynTensor>,
}

impl Port {
    fn values<T: PrimitiveTensorElementType>(&self) -> Result<&[T], String> {
        self.host.try_extract_tensor::<T>().map(|(_, values)| values).map_err(|error| error.to_string())
    }

    fn values_mut<T: PrimitiveTensorElementType>(&mut self) -> Result<&mut [T], String> {
        self.host.try_extract_tensor_mut::<T>().map(|(_, values)| values).map_err(|error| error.to_string())
    }

    /// Copies `from`, the tensor of one picture, to picture `index` of this tensor.
    fn put<T: PrimitiveTensorElementType + Copy>(&mut self, index: usize, from: &Self) -> Result<(), String> {
        let from = from.values::<T>()?;
        let len = from.len();
        let all = self.values_mut::<T>()?;
        let part = all.get_mut(index * len..(index + 1) * len).ok_or("a batch's tensor is too short")?;
        part.copy_from_slice(from);
        Ok(())
    }
}

/// Tensors for some pictures, bound to a session at their first run on it.
pub(crate) struct Bound {
    count: usize,
    /// The inputs are on the device for good.
    resident: bool,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// To each of the sessions that run side by side, see [`crate::model::Model::beside`].
    bindings: Vec<Option<IoBinding>>,
}

impl Bound {
    /// For how many pictures.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Runs these tensors on `session`, which is number `number` of those that run side by side.
    pub(crate) fn run(
        &mut self,
        (number, session): (usize, &mut Session),
        maker: &Maker,
        options: Option<&RunOptions>,
    ) -> ort::Result<()> {
        if self.bindings.len() <= number {
            self.bindings.resize_with(number + 1, || None);
        }
        let slot = &mut self.bindings[number];
        let binding = match slot {
            Some(binding) => binding,
            None => {
                let mut binding = session.create_binding()?;
                for port in &self.inputs {
                    binding.bind_input(&port.name, port.device.as_ref().unwrap_or(&port.host))?;
                }
                for port in &mut self.outputs {
                    binding.bind_output(&port.name, port.device.as_mut().unwrap_or(&mut port.host))?;
                }
                slot.insert(binding)
            }
        };
        match maker.place {
            _ if self.resident => {}
            Place::Host => {}
            // Binding is what copies to the device.
            Place::Pinned => {
                for port in &self.inputs {
                    binding.bind_input(&port.name, &port.host)?;
                }
            }
            Place::Device => {
                for Port { host, device, .. } in &mut self.inputs {
                    device.as_mut().map_or(Ok(()), |device| host.copy_into(device))?;
                }
            }
        }
        match options {
            Some(options) => session.run_binding_with_options(binding, options).map(drop)?,
            None => session.run_binding(binding).map(drop)?,
        }
        for Port { host, device, .. } in &mut self.outputs {
            device.as_ref().map_or(Ok(()), |device| device.copy_into(&mut *host))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn clear_outputs(&mut self) {
        self.outputs.iter_mut().for_each(|port| port.values_mut::<f32>().unwrap().fill(0.0));
    }

    /// Takes the inputs of `picture` as those of picture `index`.
    pub(crate) fn gather(&mut self, index: usize, picture: &Self) -> Result<(), String> {
        for (port, from) in self.inputs.iter_mut().zip(&picture.inputs) {
            match port.host.data_type() {
                TensorElementType::Uint8 => port.put::<u8>(index, from)?,
                _ => port.put::<f32>(index, from)?,
            }
        }
        Ok(())
    }

    /// Gives the outputs of picture `index` to `picture`.
    pub(crate) fn scatter(&self, index: usize, picture: &mut Self) -> Result<(), String> {
        for (port, to) in self.outputs.iter().zip(&mut picture.outputs) {
            let to = to.values_mut::<f32>()?;
            let len = to.len();
            let part = port.values::<f32>()?.get(index * len..(index + 1) * len);
            to.copy_from_slice(part.ok_or("a batch's tensor is too short")?);
        }
        Ok(())
    }
}

/// The tensors of one picture: filled by who has a frame, run by [`crate::model::Model::run`], read by who asked.
pub struct Tensors {
    feed: Feed,
    bound: Bound,
    _user: Arc<User>,
}

impl fmt::Debug for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensors").field("feed", &self.feed).finish_non_exhaustive()
    }
}

impl Picture for Tensors {
    type Shape = Feed;

    fn shape(&self) -> Feed {
        self.feed
    }
}

/// What a run found for a picture.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack for a moment; a box would be an allocation a frame"
)]
pub enum Found<'a> {
    /// The outputs that are read, in the contract's order.
    Heads(Heads<'a>),
    /// The best candidates, decoded, best first, see [`crate::decode::from_candidates`].
    Candidates(&'a [f32]),
}

/// Outputs of a model, in the contract's order; on the stack, since each frame has some.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    values: [&'a [f32]; MAX_HEADS],
    count: usize,
}

impl<'a> Heads<'a> {
    /// Each output's numbers.
    pub fn values(&self) -> &[&'a [f32]] {
        &self.values[..self.count]
    }
}

impl Tensors {
    /// What is fed, and how large it is.
    pub fn feed(&self) -> Feed {
        self.feed
    }

    pub(crate) fn bound(&mut self) -> &mut Bound {
        &mut self.bound
    }

    /// The input `[3, height, width]`, if floats are fed.
    ///
    /// # Errors
    /// If planes are.
    pub fn floats(&mut self) -> Result<&mut [f32], String> {
        self.bound.inputs.first_mut().ok_or("no input")?.values_mut::<f32>()
    }

    /// Plane `plane` of the frame, `[rows, columns, channels]`, if planes are fed.
    ///
    /// # Errors
    /// If floats are, or there is no such plane.
    pub fn plane(&mut self, plane: usize) -> Result<&mut [u8], String> {
        self.bound.inputs.get_mut(plane).ok_or("no such plane")?.values_mut::<u8>()
    }

    /// Where plane `plane` of a frame that is resident on the device has to be copied to.
    #[cfg(feature = "cuda-memory")]
    pub(crate) fn address(&mut self, plane: usize) -> Result<u64, String> {
        let port = self.bound.inputs.get_mut(plane).ok_or("no such plane")?;
        Ok(port.host.data_ptr_mut() as u64)
    }

    /// What the last run found.
    ///
    /// # Errors
    /// If the outputs are not floats that the CPU can read.
    pub fn found(&self) -> Result<Found<'_>, String> {
        let outputs = self.bound.outputs.as_slice();
        if !matches!(self.feed, Feed::Floats { .. }) {
            return Ok(Found::Candidates(outputs.first().ok_or("no output")?.values()?));
        }
        let mut heads = Heads { values: [&[]; MAX_HEADS], count: outputs.len() };
        for (port, values) in outputs.iter().zip(&mut heads.values) {
            *values = port.values()?;
        }
        Ok(Found::Heads(heads))
    }
}
