//! A session whose input stays on the device, to measure the model without uploads.

use std::path::PathBuf;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, TensorElementType};
use prost::Message as _;

use super::error::ModelError;
use super::model::Model;
use super::model_file::ModelFile;
use super::options::{ModelOptions, OpenContext};
use super::session::SessionRequest;
use crate::runtime::onnx::{self, Dim};
use crate::runtime::{DeviceInfo, Exclusive, Provider, exclusive, single_line};

/// Repeats one inference on a constant batch. The input stays in the memory of the device, so that
/// the time of a run is that of the model. The outputs are copied to the CPU's memory: some providers
/// return before the GPU has finished, and the copy waits for it.
#[derive(Debug)]
pub struct ResidentSession {
    // Dropped before its session.
    binding: Exclusive<IoBinding>,
    session: Exclusive<Session>,
    path: PathBuf,
    provider: Provider,
    device: DeviceInfo,
}

impl ResidentSession {
    /// Opens a model for batches of `batch` inputs of `width` x `height`.
    ///
    /// # Errors
    /// As [`Model::open_file`], and if the model or the provider does not take such batches.
    pub fn open(
        file: &ModelFile,
        options: &ModelOptions,
        context: &OpenContext,
        (width, height): (usize, usize),
        batch: usize,
    ) -> Result<Self, ModelError> {
        let model = Model::open_file(file, options, context)?;
        let factory = model.factory();
        let (spec, provider) = (&factory.spec, factory.options.provider);
        let path = file.path().to_path_buf();
        let failed =
            |reason: String| ModelError::Run { path: path.clone(), reason }.on_device(provider, &factory.device);
        if batch > 1 && !spec.dynamic_batch {
            return Err(failed("the model, or the provider, runs one image at a time".to_owned()));
        }
        let shape = [batch, spec.channels, height, width];
        let fix_input = || -> Result<Vec<u8>, String> {
            let mut onnx = onnx::Model::parse(file.bytes())?;
            onnx.fix_input(&spec.input_name, &shape.map(Dim::Fixed))?;
            Ok(onnx.encode_to_vec())
        };
        let bytes = fix_input().map_err(&failed)?;
        let request = SessionRequest {
            runtime: &factory.runtime,
            options: &factory.options,
            device: &factory.device,
            bytes: &bytes,
            shape: None,
            engine_cache: None,
        };
        let session = request.create().map_err(|error| error.into_model_error(provider, &path, &bytes))?.session;
        let bind = || -> ort::Result<IoBinding> {
            let _exclusive = exclusive(provider);
            let mut input = DynTensor::new(&Allocator::default(), TensorElementType::Float32, shape.to_vec())?;
            // The content of new memory is unspecified.
            input.try_extract_tensor_mut::<f32>()?.1.fill(0.0);
            let mut binding = session.create_binding()?;
            // Binding copies the input to the device.
            binding.bind_input(&spec.input_name, &input)?;
            let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
            for name in &spec.output_names {
                binding.bind_output_to_device(name, &memory)?;
            }
            binding.synchronize_inputs()?;
            Ok(binding)
        };
        let binding = bind().map_err(|error| failed(single_line(error.message())))?;
        let binding = Exclusive::new(binding, provider);
        Ok(Self { binding, path, provider, device: factory.device.clone(), session })
    }

    /// Runs the batch and waits for the outputs.
    ///
    /// # Errors
    /// If the run fails.
    pub fn run(&mut self) -> Result<(), ModelError> {
        let Self { session, binding, path, provider, device } = self;
        let _exclusive = exclusive(*provider);
        session.run_binding(binding).map(drop).map_err(|error| {
            let reason = single_line(error.message());
            ModelError::Run { path: path.clone(), reason }.on_device(*provider, device)
        })
    }
}
