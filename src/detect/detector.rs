//! From a frame to faces in frame pixels.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::decode;
use super::error::DetectError;
use super::merge::{self, Candidate, LandmarkFusion, Merge, MergeSettings};
use super::pool::{Pool, ViewBuffers};
use super::preprocess::{self, PreprocessBuffers};
use super::refine;
use super::view_settings::Views;
use super::views::{self, View};
use crate::geometry::{Face, FrameSize, InputSize, MAX_CANDIDATES, Point, Ranked as _};
use crate::image::{ImageInfo, ImageView, UnpackPool};
use crate::inference::{
    AUTO_BATCH, Client, FrameSpec, InputSpec, ModelError, PendingReply, Request, RunOutput, SharedModel, Tensors,
};
use crate::model::{Layout, ModelSpec};
use crate::sync::lock;

/// Maximum number of views of one frame that are pending at once; they fill a GPU's batch.
const MAX_PENDING_VIEWS: usize = AUTO_BATCH;

/// Per-call detection settings.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionSettings {
    /// Faces with a higher score are kept, in 0.0..=1.0.
    pub score_threshold: f32,
    /// Of two faces whose intersection over union is higher, the better one is kept, in 0.0..=1.0.
    pub iou_threshold: f32,
    /// Size of the model's input.
    pub input_size: InputSize,
    /// Test-time augmentation: scales, flip, tiles, regions of interest.
    pub views: Views,
    /// How overlapping faces of several views are merged.
    pub merge: Merge,
    /// How the landmarks of the candidates of one face are fused; [`Merge::Vote`] always takes their
    /// mean.
    pub landmark_fusion: LandmarkFusion,
    /// Whether [`Detector::detect`] takes the landmarks of large faces from a second view, see
    /// [`Detector::refine_large_faces`].
    pub refine_large_faces: bool,
    /// Maximum number of faces, best scores first; 0 for no limit.
    pub max_faces: usize,
    /// Minimum length of a face's shorter side, in frame pixels.
    pub min_face_size: f32,
    /// Maximum number of frames in a run; 0 for a number that suits the provider and the memory.
    pub max_batch: usize,
    /// Maximum time to wait for other frames to share the run.
    pub batch_timeout: Duration,
}

impl Default for DetectionSettings {
    fn default() -> Self {
        Self {
            score_threshold: 0.5,
            iou_threshold: 0.4,
            input_size: InputSize::Longest(640),
            views: Views::default(),
            merge: Merge::default(),
            landmark_fusion: LandmarkFusion::default(),
            refine_large_faces: false,
            max_faces: 0,
            min_face_size: 0.0,
            max_batch: 1,
            batch_timeout: Duration::ZERO,
        }
    }
}

/// Duration of each stage of a detection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the frame to the tensor.
    pub preprocess: Duration,
    /// In the engine's queue.
    pub wait: Duration,
    /// The model's run, and the whole second inference of large faces.
    pub inference: Duration,
    /// From the outputs to faces.
    pub decode: Duration,
}

impl Timing {
    /// The sum of all stages.
    pub fn total(&self) -> Duration {
        self.preprocess + self.wait + self.inference + self.decode
    }
}

/// The result of a detection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detection {
    /// Faces in frame pixels, best score first.
    pub faces: Vec<Face>,
    /// Number of candidates that were dropped because a value was NaN or infinite.
    pub non_finite: usize,
    /// Duration of each stage.
    pub timing: Timing,
    /// Number of frames in the run, this one included.
    pub batch: usize,
}

/// The views of frames of one size, and the settings that they follow from.
#[derive(Debug)]
struct Plan {
    frame: FrameSize,
    size: InputSize,
    settings: Views,
    views: Arc<[View]>,
}

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

/// What a detector's pending frames need.
#[derive(Debug)]
struct Shared {
    model: Arc<SharedModel>,
    buffers: Mutex<Pool>,
    /// Memory for frames that are converted to a direct format.
    unpacked: UnpackPool,
    plan: Mutex<Option<Plan>>,
}

impl Detector {
    /// A detector that shares `model` with other callers.
    pub fn new(model: &Arc<SharedModel>) -> Self {
        let number = model.take_number();
        let shared = Shared {
            model: Arc::clone(model),
            buffers: Mutex::default(),
            unpacked: UnpackPool::default(),
            plan: Mutex::default(),
        };
        Self { client: model.client(), shared: Arc::new(shared), number }
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
        let views = self.shared.views(size, settings);
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
            ..settings.clone()
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
            if model.preprocesses_on_device() {
                InputSpec::Planes(FrameSpec::new(&info, *letterbox))
            } else {
                InputSpec::Floats { width, height }
            }
        };
        let refined = settings.refine_large_faces.then(|| self.shared.second_view_spec());
        lock(&self.shared.buffers).keep(pending.views.iter().map(input_spec).chain(refined));
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
        if !pending.views.iter().all(is_whole) {
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

/// A view that was submitted to the model.
#[derive(Debug)]
struct SubmittedView {
    reply: PendingReply<Tensors>,
    scratch: PreprocessBuffers,
    since: Instant,
    view: View,
}

/// A detection that was submitted and whose result has not been read yet. Dropping it discards the
/// result.
#[derive(Debug)]
pub struct PendingDetection {
    /// Views whose replies have not been read yet, the oldest first.
    replies: VecDeque<SubmittedView>,
    shared: Arc<Shared>,
    views: Arc<[View]>,
    frame: FrameSize,
    settings: DetectionSettings,
    start: Instant,
    preprocess: Duration,
    /// Time spent in submissions, which block while the queue is full, and in reading replies to
    /// limit their number.
    submitting: Duration,
    /// Candidates of the views that were read.
    found: Vec<Candidate>,
    /// End of each view that was read in `found`.
    view_ends: Vec<usize>,
    non_finite: usize,
    batch: usize,
    decode: Duration,
    /// The first view's time in the queue.
    wait: Option<Duration>,
    /// End of the last view's run.
    end: Instant,
}

impl PendingDetection {
    fn new(shared: &Arc<Shared>, frame: FrameSize, settings: &DetectionSettings, start: Instant) -> Self {
        let views = shared.views(frame, settings);
        Self::with_views(shared, views, frame, settings, start)
    }

    fn with_views(
        shared: &Arc<Shared>,
        views: Arc<[View]>,
        frame: FrameSize,
        settings: &DetectionSettings,
        start: Instant,
    ) -> Self {
        Self {
            replies: VecDeque::with_capacity(views.len().min(MAX_PENDING_VIEWS)),
            shared: Arc::clone(shared),
            views,
            frame,
            settings: settings.clone(),
            start,
            preprocess: Duration::ZERO,
            submitting: Duration::ZERO,
            found: Vec::new(),
            view_ends: Vec::new(),
            non_finite: 0,
            batch: 0,
            decode: Duration::ZERO,
            wait: None,
            end: start,
        }
    }

    /// Whether [`Self::wait`] would return at once.
    pub fn is_ready(&self) -> bool {
        self.replies.iter().all(|submitted| submitted.reply.is_ready())
    }

    /// Reads the oldest reply if the maximum number of views is pending, so that many tiles need no
    /// more memory. `preprocessed` views are not submitted yet.
    fn limit_pending(&mut self, preprocessed: usize) -> Result<(), DetectError> {
        let before = Instant::now();
        if self.replies.len() + preprocessed >= MAX_PENDING_VIEWS
            && let Some(oldest) = self.replies.pop_front()
        {
            self.read(oldest)?;
            self.submitting += before.elapsed();
        }
        Ok(())
    }

    /// Waits for one view and decodes its output.
    fn read(&mut self, SubmittedView { reply, scratch, since, view }: SubmittedView) -> Result<(), DetectError> {
        let layout = self.shared.layout()?;
        let reply = reply.wait().map_err(ModelError::from)?;
        let before = Instant::now();
        // Below the threshold, candidates of the whole frame confirm those of tiles, and candidates
        // of any view contribute their landmarks.
        let confirms = view.is_whole() && self.views.iter().any(|view| !view.is_whole());
        let is_fused = layout.landmarks && self.settings.landmark_fusion == LandmarkFusion::Mean;
        let mut threshold = self.settings.score_threshold;
        if confirms {
            threshold = threshold.min(merge::CONFIRMING_SCORE);
        }
        if is_fused {
            threshold = threshold.min(merge::FUSION_SCORE);
        }
        let decoded = match reply.item.output()? {
            RunOutput::Heads(heads) => decode::decode(layout, view.letterbox.input(), heads.values(), threshold),
            RunOutput::Candidates(candidates) => decode::from_candidates(candidates, layout.landmarks, threshold),
        };
        lock(&self.shared.buffers).put_back(ViewBuffers { tensors: reply.item, scratch });
        self.non_finite += decoded.non_finite;
        // Non-maximum suppression has this limit. At a threshold of 0 every anchor is a candidate.
        let mut candidates = decoded.candidates;
        if candidates.len() > MAX_CANDIDATES {
            candidates.sort_by(|a, b| b.rank().total_cmp(&a.rank()));
            candidates.truncate(MAX_CANDIDATES);
        }
        self.found.extend(candidates.iter().filter_map(|face| view.map_to_square_frame(face)));
        self.view_ends.push(self.found.len());
        self.batch = self.batch.max(reply.batch);
        self.wait.get_or_insert(reply.wait);
        self.end = self.end.max(since + reply.wait + reply.run);
        self.decode += before.elapsed();
        Ok(())
    }

    /// Waits for the model. Returns the candidates of each view, and the number of those that were
    /// dropped because a value is not finite.
    fn wait_for_views(mut self) -> Result<(Vec<Vec<Candidate>>, usize), DetectError> {
        while let Some(oldest) = self.replies.pop_front() {
            self.read(oldest)?;
        }
        let mut non_finite = self.non_finite;
        let mut found = self.found.into_iter();
        let starts = std::iter::once(0).chain(self.view_ends.iter().copied());
        let counts = starts.zip(&self.view_ends).map(|(start, end)| end - start);
        // A position can overflow when it is mapped to the frame.
        let views = counts.map(|count| {
            let (finite, overflowed): (Vec<_>, Vec<_>) =
                found.by_ref().take(count).partition(|candidate| candidate.face.is_finite());
            non_finite += overflowed.len();
            finite
        });
        let views = views.collect();
        Ok((views, non_finite))
    }

    /// Waits for the model and decodes its outputs.
    ///
    /// # Errors
    /// If the model does not run.
    pub fn wait(mut self) -> Result<Detection, DetectError> {
        while let Some(oldest) = self.replies.pop_front() {
            self.read(oldest)?;
        }
        let Self { frame, settings, start, preprocess, found, non_finite, batch, mut decode, wait, end, .. } = self;
        let before = Instant::now();
        let (faces, overflowed) = select(found, frame, &settings);
        decode += before.elapsed();
        let wait = wait.unwrap_or_default();
        // From the start of the first view to the end of the last one, without the other stages.
        let inference = (end - start).saturating_sub(preprocess + wait);
        let timing = Timing { preprocess, wait, inference, decode };
        Ok(Detection { faces, non_finite: non_finite + overflowed, timing, batch })
    }
}

impl Shared {
    /// The layout of the model's outputs.
    fn layout(&self) -> Result<&Layout, DetectError> {
        let layout = self.model.spec().layout();
        Ok(layout.ok_or(ModelError::Task { found: "landmarks on faces", wanted: "face detection" })?)
    }

    /// The views of a frame of that size.
    fn views(&self, frame: FrameSize, settings: &DetectionSettings) -> Arc<[View]> {
        let DetectionSettings { input_size: size, views: wanted, .. } = settings;
        let mut plan = lock(&self.plan);
        match &*plan {
            Some(known) if known.frame == frame && known.size == *size && known.settings == *wanted => {
                Arc::clone(&known.views)
            }
            _ => {
                let views: Arc<[View]> = views::plan(frame, self.model.spec(), *size, wanted).into();
                *plan = Some(Plan { frame, size: *size, settings: wanted.clone(), views: Arc::clone(&views) });
                views
            }
        }
    }

    /// The input of second views. It does not depend on the face, so that no provider makes a
    /// session for each.
    fn second_view_spec(&self) -> InputSpec {
        let (width, height) = View::second_view_input(self.model.spec());
        InputSpec::Floats { width, height }
    }

    /// Memory for a view: that of an earlier frame, or new memory.
    fn buffers(&self, input_spec: InputSpec) -> Result<ViewBuffers, DetectError> {
        if let Some(free) = lock(&self.buffers).take(input_spec) {
            return Ok(free);
        }
        let tensors = self.model.tensors(input_spec)?;
        Ok(ViewBuffers { tensors, scratch: PreprocessBuffers::default() })
    }
}

/// Merges the candidates of all views, maps them to frame pixels and applies the limits of the
/// settings. Also returns the number of candidates without a finite position. A face wholly outside
/// the frame lies in the padding and is dropped.
fn select(found: Vec<Candidate>, frame: FrameSize, settings: &DetectionSettings) -> (Vec<Face>, usize) {
    let FrameSize { width, height, pixel_aspect } = frame;
    let (stretch_x, stretch_y) = pixel_aspect.stretch();
    let (stretch_x, stretch_y) = (stretch_x as f32, stretch_y as f32);
    let count = found.len();
    let finite = found.into_iter().filter(|candidate| candidate.face.is_finite()).collect::<Vec<_>>();
    let overflowed = count - finite.len();
    let DetectionSettings { merge, landmark_fusion, iou_threshold, score_threshold, .. } = *settings;
    let mut faces = merge::merge(finite, MergeSettings { merge, landmark_fusion, iou_threshold, score_threshold });
    if (stretch_x, stretch_y) != (1.0, 1.0) {
        faces
            .iter_mut()
            .for_each(|face| *face = face.mapped(|point| Point::new(point.x / stretch_x, point.y / stretch_y)));
    }
    faces.retain(|face| face.rect.clipped(width as f32, height as f32).is_some());
    faces.retain(|face| face.rect.w.min(face.rect.h) >= settings.min_face_size);
    if settings.max_faces > 0 {
        faces.truncate(settings.max_faces);
    }
    (faces, overflowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Rect;

    fn face(score: f32, x: f32, side: f32) -> Face {
        Face { score, rect: Rect::new(x, 0.0, side, side), ..Face::default() }
    }

    #[test]
    fn minimum_size_applies_before_maximum_number() {
        let found =
            [face(0.9, 0.0, 20.0), face(0.8, 200.0, 60.0), face(0.7, 400.0, 80.0)].map(Candidate::of_whole_frame);
        let settings = DetectionSettings { min_face_size: 25.0, max_faces: 1, ..DetectionSettings::default() };
        let (faces, _) = select(found.to_vec(), (1280, 720).into(), &settings);
        assert_eq!(faces, [face(0.8, 200.0, 60.0)]);
        let (all, _) = select(found.to_vec(), (1280, 720).into(), &DetectionSettings::default());
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn a_face_in_the_padding_is_dropped() {
        // A frame of 1280 x 720 fills 640 x 360 of the input's 640 x 384.
        let at =
            |y: f32| Candidate::of_whole_frame(Face { rect: Rect::new(200.0, y, 40.0, 40.0), ..face(0.9, 0.0, 0.0) });
        assert_eq!(select(vec![at(722.0)], (1280, 720).into(), &DetectionSettings::default()), (vec![], 0));
        assert_eq!(select(vec![at(718.0)], (1280, 720).into(), &DetectionSettings::default()).0.len(), 1);
    }

    #[test]
    fn a_face_whose_position_overflows_is_dropped_and_counted() {
        let far = face(0.9, f32::INFINITY, 20.0);
        assert_eq!(
            select(vec![Candidate::of_whole_frame(far)], (7680, 4320).into(), &DetectionSettings::default()),
            (vec![], 1)
        );
    }
}
