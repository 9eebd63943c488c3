//! ONNX Runtime alone, as the reference for the element's frame rate.

use std::path::Path;
use std::time::Instant;

use retinaface::geometry::InputSize;
use retinaface::inference::{BackendInfo, InputSpec, Kernels, Model, ModelFile, ModelOptions, OpenContext, Tensors};

use crate::args::program_directory;

/// Inferences of one measurement.
const RUNS: usize = 24;

/// A session that repeats one inference: no preprocessing, no decoding, no GStreamer.
pub(super) struct BareSession {
    model: Model,
    tensors: [Tensors; 1],
    pub(super) input_width: usize,
    pub(super) input_height: usize,
}

impl BareSession {
    /// Opens a model for frames of `width` x `height`.
    pub(super) fn open(
        file: &Path,
        options: &ModelOptions,
        (width, height): (usize, usize),
        input_size: InputSize,
    ) -> anyhow::Result<Self> {
        // Without the built-in kernels, so that the reference is ONNX Runtime as others use it.
        let options = ModelOptions { kernels: Kernels::Runtime, ..options.clone() };
        let context = OpenContext { base_dir: program_directory(), progress: None };
        let model = Model::open_file(&ModelFile::read(file)?, &options, &context)?;
        let (input_width, input_height) = model.spec().letterbox((width, height).into(), input_size, 1.0).input();
        let input_spec = InputSpec::Floats { width: input_width, height: input_height };
        let tensors = [model.allocator().tensors(input_spec)?];
        Ok(Self { model, tensors, input_width, input_height })
    }

    pub(super) fn backend(&self) -> &BackendInfo {
        self.model.backend()
    }

    /// Inferences per second.
    pub(super) fn measure(&mut self) -> anyhow::Result<f64> {
        let start = Instant::now();
        for _ in 0..RUNS {
            self.model.run(&mut self.tensors).map_err(anyhow::Error::msg)?;
        }
        Ok(RUNS as f64 / start.elapsed().as_secs_f64())
    }
}
