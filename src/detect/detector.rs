//! From a frame to faces in frame pixels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::detection::{Detection, DetectionSettings};
use super::error::DetectError;
use super::merge::{self, LandmarkFusion, Merge};
use super::pending::{MAX_PENDING_VIEWS, PendingDetection, SubmittedView};
use super::pool::ViewBuffers;
use super::preprocess;
use super::refine;
use super::shared::Shared;
use super::view_settings::Views;
use super::views::View;
use crate::image::{ImageInfo, ImageView};
use crate::inference::{Client, FrameSpec, InputSpec, ModelError, Request, SharedModel, Tensors};
use crate::model::ModelSpec;
use crate::sync::lock;

/// Detects faces with a shared model. Several threads may use one detector at once.
///
/// ```no_run
/// use std::path::Path;
/// use retinaface::{DetectionSettings, Detector, ImageInfo, ImageView, ModelOptions, PixelFormat, SharedModel};
///
/// let model = SharedModel::open(Path::new("retinaface_mnet025.onnx"), &ModelOptions::default())?;
/// let detector = Detector::new(&model);
/// let pixels = vec![0u8; 640 * 480 * 3];
/// let frame = ImageView::new(ImageInfo::new(PixelFormat::Rgb, 640, 480), &[&pixels], &[640 * 3])?;
/// for face in detector.detect(&frame, &DetectionSettings::default())?.faces {
///     println!("{:.2} at {:?}", face.score, face.rect);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Detector {
    client: Client<Tensors>,
    shared: Arc<Shared>,
    number: usize,
}

impl Detector {
    /// A detector that shares `model` with other callers.
    pub fn new(model: &Arc<SharedModel>) -> Self {
        let number = model.take_number();
        Self { client: model.client(), shared: Arc::new(Shared::new(model)), number }
    }

    /// The model in use.
    pub fn model(&self) -> &Arc<SharedModel> {
        &self.shared.model
    }

    /// The smallest number, from 0, that no other detector of this model has. Streams with an
    /// inference interval use it to infer on different frames.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Detects the faces of one frame; waits for the model.
    ///
    /// # Errors
    /// If the frame cannot be preprocessed or the model does not run.
    pub fn detect(&self, frame: &ImageView<'_>, settings: &DetectionSettings) -> Result<Detection, DetectError> {
        let mut detection = self.submit(frame, settings)?.wait()?;
        if settings.refine_large_faces {
            self.refine_large_faces(frame, settings, &mut detection)?;
        }
        Ok(detection)
    }

    /// Takes the landmarks of the faces that are large in the model's input, above 320 pixels, from
    /// a second view that shows them with 160 pixels: the landmarks of smaller faces are more
    /// precise. At most 16 faces of a frame get one. `frame` and `settings` are those of the
    /// detection; with [`DetectionSettings::refine_large_faces`] the memory of second views is kept
    /// from frame to frame. Boxes and scores stay. The time is added to that of the inference.
    ///
    /// # Errors
    /// If the frame cannot be preprocessed or the model does not run.
    pub fn refine_large_faces(
        &self,
        frame: &ImageView<'_>,
        settings: &DetectionSettings,
        detection: &mut Detection,
    ) -> Result<(), DetectError> {
        let start = Instant::now();
        let size = frame.info().size();
        if !self.shared.layout()?.landmarks {
            return Ok(());
        }
        // The regions of objects are those of this frame.
        let views = Views { objects: detection.objects.clone(), ..settings.views.clone() };
        let settings = DetectionSettings { views, ..settings.clone() };
        let views = self.shared.views(size, &settings);
        let second_views = refine::second_views(&detection.faces, &views, size, self.shared.model.spec());
        if second_views.is_empty() {
            return Ok(());
        }
        // Of a face in its second view all candidates count, as for [`LandmarkFusion::Mean`]. Other
        // streams rarely have a second view at the same time, so that none is waited for.
        let settings = DetectionSettings {
            score_threshold: merge::FUSION_SCORE,
            batch_timeout: Duration::ZERO,
            landmark_fusion: match settings.merge {
                Merge::Nms => settings.landmark_fusion,
                Merge::Vote => LandmarkFusion::Mean,
            },
            ..settings
        };
        let views = second_views.iter().map(|second| second.view).collect();
        let pending = PendingDetection::with_views(&self.shared, views, size, &settings, start);
        let pending = self.shared.unpacked.direct(frame, |frame| {
            let input_spec = |_: &View| self.shared.second_view_spec();
            self.submit_views(frame, pending, input_spec)
        })?;
        let (found, non_finite) = pending.wait_for_views()?;
        for (second, candidates) in second_views.iter().zip(found) {
            let DetectionSettings { landmark_fusion, iou_threshold, .. } = settings;
            if let Some(landmarks) = second.landmarks(candidates, landmark_fusion, iou_threshold, size) {
                detection.faces[second.face].landmarks = Some(landmarks);
            }
        }
        detection.non_finite += non_finite;
        detection.timing.inference += start.elapsed();
        Ok(())
    }

    /// Preprocesses a frame and submits it to the model without waiting for the result; blocks only
    /// while the model's queue is full. The frame is not needed afterwards.
    ///
    /// # Errors
    /// If the frame cannot be preprocessed or the engine has stopped.
    pub fn submit(&self, frame: &ImageView<'_>, settings: &DetectionSettings) -> Result<PendingDetection, DetectError> {
        let start = Instant::now();
        // All views are taken from one converted frame.
        self.shared.unpacked.direct(frame, |frame| self.submit_direct(frame, settings, start))
    }

    /// As [`Self::submit`], for a frame in a direct format that arrived at `start`.
    fn submit_direct(
        &self,
        frame: &ImageView<'_>,
        settings: &DetectionSettings,
        start: Instant,
    ) -> Result<PendingDetection, DetectError> {
        let model = &self.shared.model;
        self.shared.layout()?;
        let pending = PendingDetection::new(&self.shared, frame.info().size(), settings, start);
        let input_spec = |view: &View| {
            let View { region, letterbox, .. } = view;
            let (width, height) = letterbox.input();
            let info = ImageInfo { width: region.width, height: region.height, ..frame.info() };
            // A graph has one frame size, and each region of an object another size.
            if model.preprocesses_on_device() && settings.views.objects.is_none() {
                InputSpec::Planes(FrameSpec::new(&info, *letterbox))
            } else {
                InputSpec::Floats { width, height }
            }
        };
        let refined = settings.refine_large_faces.then(|| self.shared.second_view_spec());
        // After a frame without regions, the next ones need the same memory as before.
        if !pending.views.is_empty() {
            lock(&self.shared.buffers).keep(pending.views.iter().map(input_spec).chain(refined));
        }
        self.submit_views(frame, pending, input_spec)
    }

    /// Preprocesses and submits all views of a frame.
    fn submit_views(
        &self,
        frame: &ImageView<'_>,
        mut pending: PendingDetection,
        input_spec: impl Fn(&View) -> InputSpec,
    ) -> Result<PendingDetection, DetectError> {
        let model = &self.shared.model;
        // Views of one shape are submitted as whole batches, so that no run starts with a part of
        // one. The first batch runs while the second one is preprocessed.
        let mut batch = Vec::new();
        for index in 0..pending.views.len() {
            let view = pending.views[index];
            let image = frame.crop(view.region)?;
            let view_spec = input_spec(&view);
            pending.limit_pending(batch.len())?;
            let mut buffers = self.shared.buffers(view_spec)?;
            fill(&mut buffers, view_spec, &image, &view, model.spec())?;
            let (width, height) = view.letterbox.input();
            let max_batch = model.batch(match pending.settings.max_batch {
                0 => model.auto_batch(width, height),
                requested => requested,
            });
            pending.preprocess = pending.start.elapsed().saturating_sub(pending.submitting);
            let is_complete = batch.len() + 1 >= max_batch.min(MAX_PENDING_VIEWS)
                || pending.views.get(index + 1).is_none_or(|next| input_spec(next) != view_spec);
            match (is_complete, batch.is_empty()) {
                (true, true) => self.submit_view(&mut pending, buffers, view, max_batch)?,
                (true, false) => {
                    batch.push((buffers, view));
                    self.submit_batch(&mut pending, &mut batch, max_batch)?;
                }
                (false, _) => batch.push((buffers, view)),
            }
        }
        Ok(pending)
    }

    /// As [`Self::submit`], for a frame in a GPU's memory, which must stay valid until this
    /// returns. Such frames can have several scales, but no tiles, regions or mirror images.
    ///
    /// # Errors
    /// If the model does not run on CUDA or TensorRT, the frame cannot be copied, or the engine has
    /// stopped.
    #[cfg(feature = "cuda-memory")]
    pub fn submit_device_frame(
        &self,
        frame: &crate::runtime::DeviceFrame<'_>,
        settings: &DetectionSettings,
    ) -> Result<PendingDetection, DetectError> {
        let start = Instant::now();
        let backend = self.shared.model.backend();
        if !backend.accepts_cuda_memory() {
            return Err(DetectError::DeviceFrame { provider: backend.provider });
        }
        let info = frame.info();
        if !info.is_direct() {
            return Err(DetectError::DeviceFormat(info.format));
        }
        let mut pending = PendingDetection::new(&self.shared, info.size(), settings, start);
        let is_whole =
            |view: &View| (view.region.width, view.region.height) == (info.width, info.height) && !view.flipped;
        if settings.views.objects.is_some() || !pending.views.iter().all(is_whole) {
            return Err(DetectError::DeviceViews);
        }
        let input_spec = |view: &View| InputSpec::DevicePlanes(FrameSpec::new(&info, view.letterbox));
        lock(&self.shared.buffers).keep(pending.views.iter().map(input_spec));
        for index in 0..pending.views.len() {
            let view = pending.views[index];
            pending.limit_pending(0)?;
            let mut buffers = self.shared.buffers(input_spec(&view))?;
            for plane in 0..info.format.planes() {
                let address = buffers.tensors.address(plane)?;
                frame.copy_plane(plane, address).map_err(DetectError::DeviceCopy)?;
            }
            pending.preprocess = start.elapsed().saturating_sub(pending.submitting);
            // Each item has its own address on the device, so none is copied into a batch.
            self.submit_view(&mut pending, buffers, view, 1)?;
        }
        Ok(pending)
    }

    fn submit_view(
        &self,
        pending: &mut PendingDetection,
        ViewBuffers { tensors, scratch }: ViewBuffers,
        view: View,
        max_batch: usize,
    ) -> Result<(), DetectError> {
        let before = Instant::now();
        let request = Request { item: tensors, max_batch, batch_timeout: pending.settings.batch_timeout };
        let reply = self.client.submit(request).map_err(ModelError::from)?;
        pending.submitting += before.elapsed();
        pending.replies.push_back(SubmittedView { reply, scratch, since: before, view });
        Ok(())
    }

    /// Submits the views of a batch at once and leaves `batch` empty.
    fn submit_batch(
        &self,
        pending: &mut PendingDetection,
        batch: &mut Vec<(ViewBuffers, View)>,
        max_batch: usize,
    ) -> Result<(), DetectError> {
        let since = Instant::now();
        let batch_timeout = pending.settings.batch_timeout;
        let views = batch.drain(..).map(|(ViewBuffers { tensors, scratch }, view)| (tensors, (scratch, view)));
        let (items, views): (Vec<_>, Vec<_>) = views.unzip();
        let requests = items.into_iter().map(|item| Request { item, max_batch, batch_timeout });
        let replies = self.client.submit_all(requests).map_err(ModelError::from)?;
        pending.submitting += since.elapsed();
        let submitted = |(reply, (scratch, view))| SubmittedView { reply, scratch, since, view };
        pending.replies.extend(replies.into_iter().zip(views).map(submitted));
        Ok(())
    }

    /// Declares that no frame follows for a while, so that other callers' batches do not wait for
    /// one.
    pub fn set_idle(&self) {
        self.client.set_idle();
    }
}

/// Fills a view's tensors from its part of the frame.
fn fill(
    ViewBuffers { tensors, scratch }: &mut ViewBuffers,
    input_spec: InputSpec,
    image: &ImageView<'_>,
    view: &View,
    spec: &ModelSpec,
) -> Result<(), DetectError> {
    if let InputSpec::Planes(frame) = input_spec {
        for index in 0..frame.planes() {
            let plane = image.plane(index);
            let pixels = tensors.plane(index)?;
            plane.copy_to(pixels);
            if view.flipped {
                let channels = plane.layout.channels;
                pixels.chunks_exact_mut(plane.layout.row_bytes()).for_each(|row| preprocess::mirror(row, channels));
            }
        }
        return Ok(());
    }
    let floats = tensors.floats()?;
    preprocess::fill_input(image, &view.letterbox, &spec.normalization, floats, scratch)?;
    if view.flipped {
        let ((width, _), (cols, _)) = (view.letterbox.input(), view.letterbox.content());
        floats.chunks_exact_mut(width).for_each(|row| row[..cols].reverse());
    }
    Ok(())
}

impl Drop for Detector {
    fn drop(&mut self) {
        self.shared.model.release_number(self.number);
    }
}
