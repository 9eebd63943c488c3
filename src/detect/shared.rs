//! What the pending frames of a detector share: the model, memory, the plan of views.

use std::sync::{Arc, Mutex};

use super::detection::DetectionSettings;
use super::error::DetectError;
use super::pool::{Pool, ViewBuffers};
use super::preprocess::PreprocessBuffers;
use super::shared_inputs::share_inputs;
use super::view_settings::Views;
use super::views::{self, View};
use crate::geometry::{FrameSize, InputSize};
use crate::image::UnpackPool;
use crate::inference::{InputSpec, ModelError, SharedModel};
use crate::model::Layout;
use crate::sync::lock;

/// The views of frames of one size, and the settings that they follow from.
#[derive(Debug)]
struct Plan {
    frame: FrameSize,
    size: InputSize,
    settings: Views,
    views: Arc<[View]>,
}

/// What a detector's pending frames need.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) model: Arc<SharedModel>,
    pub(super) buffers: Mutex<Pool>,
    /// Memory for frames that are converted to a direct format.
    pub(super) unpacked: UnpackPool,
    plan: Mutex<Option<Plan>>,
}

impl Shared {
    pub(super) fn new(model: &Arc<SharedModel>) -> Self {
        Self {
            model: Arc::clone(model),
            buffers: Mutex::default(),
            unpacked: UnpackPool::default(),
            plan: Mutex::default(),
        }
    }

    /// The layout of the model's outputs.
    pub(super) fn layout(&self) -> Result<&Layout, DetectError> {
        let layout = self.model.spec().layout();
        Ok(layout.ok_or(ModelError::Task { found: "landmarks on faces", wanted: "face detection" })?)
    }

    /// The views of a frame of that size.
    pub(super) fn views(&self, frame: FrameSize, settings: &DetectionSettings) -> Arc<[View]> {
        let DetectionSettings { input_size: size, views: wanted, .. } = settings;
        let mut plan = lock(&self.plan);
        match &*plan {
            Some(known) if known.frame == frame && known.size == *size && known.settings == *wanted => {
                Arc::clone(&known.views)
            }
            _ => {
                let mut views = views::plan(frame, self.model.spec(), *size, wanted);
                if wanted.objects.is_some() {
                    let one_shape = self.model.backend().provider.wants_fixed_shapes();
                    share_inputs(&mut views, self.model.spec(), *size, frame, one_shape);
                }
                let views: Arc<[View]> = views.into();
                *plan = Some(Plan { frame, size: *size, settings: wanted.clone(), views: Arc::clone(&views) });
                views
            }
        }
    }

    /// The input of second views. It does not depend on the face, so that no provider makes a
    /// session for each.
    pub(super) fn second_view_spec(&self) -> InputSpec {
        let (width, height) = View::second_view_input(self.model.spec());
        InputSpec::Floats { width, height }
    }

    /// Memory for a view: that of an earlier frame, or new memory.
    pub(super) fn buffers(&self, input_spec: InputSpec) -> Result<ViewBuffers, DetectError> {
        if let Some(free) = lock(&self.buffers).take(input_spec) {
            return Ok(free);
        }
        let tensors = self.model.tensors(input_spec)?;
        Ok(ViewBuffers { tensors, scratch: PreprocessBuffers::default() })
    }
}
