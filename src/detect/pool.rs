//! Memory of views that later frames reuse.

use super::preprocess::PreprocessBuffers;
use crate::inference::{InputSpec, Tensors};

/// Memory of one view, reused by later frames.
#[derive(Debug)]
pub(super) struct ViewBuffers {
    pub(super) tensors: Tensors,
    pub(super) scratch: PreprocessBuffers,
}

/// Memory that no view uses.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// The input specs of the current frames.
    input_specs: Vec<InputSpec>,
    free: Vec<ViewBuffers>,
}

impl Pool {
    /// Keeps only memory for these input specs.
    pub(super) fn keep(&mut self, input_specs: impl Iterator<Item = InputSpec> + Clone) {
        if self.input_specs.iter().copied().ne(input_specs.clone()) {
            self.input_specs.clear();
            self.input_specs.extend(input_specs);
            let Self { input_specs, free } = self;
            free.retain(|buffers| input_specs.contains(&buffers.tensors.input_spec()));
        }
    }

    pub(super) fn take(&mut self, input_spec: InputSpec) -> Option<ViewBuffers> {
        let position = self.free.iter().rposition(|buffers| buffers.tensors.input_spec() == input_spec)?;
        Some(self.free.swap_remove(position))
    }

    pub(super) fn put_back(&mut self, buffers: ViewBuffers) {
        if self.input_specs.contains(&buffers.tensors.input_spec()) {
            self.free.push(buffers);
        }
    }
}
