//! Detections that were submitted to the model and whose results have not been read yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::decode;
use super::detection::{Detection, DetectionSettings, Timing};
use super::error::DetectError;
use super::merge::{self, Candidate, LandmarkFusion, MergeSettings};
use super::object_regions;
use super::pool::ViewBuffers;
use super::preprocess::PreprocessBuffers;
use super::shared::Shared;
use super::views::View;
use crate::geometry::{Face, FrameSize, MAX_CANDIDATES, Point, Ranked as _};
use crate::inference::{AUTO_BATCH, ModelError, PendingReply, RunOutput, Tensors};
use crate::sync::lock;

/// Maximum number of views of one frame that are pending at once; they fill a GPU's batch.
pub(super) const MAX_PENDING_VIEWS: usize = AUTO_BATCH;
/// A view that was submitted to the model.
#[derive(Debug)]
pub(super) struct SubmittedView {
    pub(super) reply: PendingReply<Tensors>,
    pub(super) scratch: PreprocessBuffers,
    pub(super) since: Instant,
    pub(super) view: View,
}

/// A detection that was submitted and whose result has not been read yet. Dropping it discards the
/// result.
#[derive(Debug)]
pub struct PendingDetection {
    /// Views whose replies have not been read yet, the oldest first.
    pub(super) replies: VecDeque<SubmittedView>,
    shared: Arc<Shared>,
    pub(super) views: Arc<[View]>,
    frame: FrameSize,
    pub(super) settings: DetectionSettings,
    pub(super) start: Instant,
    pub(super) preprocess: Duration,
    /// Time spent in submissions, which block while the queue is full, and in reading replies to
    /// limit their number.
    pub(super) submitting: Duration,
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
    pub(super) fn new(shared: &Arc<Shared>, frame: FrameSize, settings: &DetectionSettings, start: Instant) -> Self {
        let views = shared.views(frame, settings);
        Self::with_views(shared, views, frame, settings, start)
    }

    pub(super) fn with_views(
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
    pub(super) fn limit_pending(&mut self, preprocessed: usize) -> Result<(), DetectError> {
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
    pub(super) fn wait_for_views(mut self) -> Result<(Vec<Vec<Candidate>>, usize), DetectError> {
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
        let (mut faces, overflowed) = select(found, frame, &settings);
        let objects = settings.views.objects;
        if let Some(objects) = &objects {
            object_regions::set_parents(&mut faces, objects);
        }
        decode += before.elapsed();
        let wait = wait.unwrap_or_default();
        // From the start of the first view to the end of the last one, without the other stages.
        let inference = (end - start).saturating_sub(preprocess + wait);
        let timing = Timing { preprocess, wait, inference, decode };
        Ok(Detection { faces, non_finite: non_finite + overflowed, timing, batch, objects })
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
