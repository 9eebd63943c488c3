//! One frame's whole way: view in, faces in frame pixels out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::contract::Contract;
use crate::decode;
use crate::device::Frames;
use crate::engine::{Client, EngineError, Request, Ticket};
use crate::face::Face;
use crate::image::{ImageError, ImageInfo, ImageView};
use crate::layout::Layout;
use crate::letterbox::InputSize;
use crate::lock::lock;
use crate::looks::{self, Look, Looks};
use crate::merge::{self, Candidate, Merge};
use crate::nms::TOP_K;
use crate::preprocess::{self, Scratch};
use crate::shared::AUTO_BATCH;
pub use crate::shared::SharedModel;
use crate::tensors::{Feed, Found, Tensors};

/// Looks at one frame that are under way at once; a GPU's batch is full by then.
const MOST_UNDERWAY: usize = AUTO_BATCH;

/// What a detection can be told from call to call.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Faces scored above this stay, in 0.0..=1.0.
    pub score_threshold: f32,
    /// Of two faces that overlap by more than this, the better stays, in 0.0..=1.0.
    pub iou_threshold: f32,
    /// How large the model's input is made.
    pub input_size: InputSize,
    /// Where and at which sizes a frame is looked at.
    pub looks: Looks,
    /// How what several looks found is brought together.
    pub merge: Merge,
    /// At most so many faces, the best ones; 0 for all.
    pub max_faces: usize,
    /// Faces whose shorter side is below this many frame pixels are left out.
    pub min_face_size: f32,
    /// At most so many frames share a run; 0 for as many as are worth it, and as memory allows.
    pub max_batch: usize,
    /// How long a frame may wait for others to share its run.
    pub batch_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            score_threshold: 0.5,
            iou_threshold: 0.4,
            input_size: InputSize::Longest(640),
            looks: Looks::default(),
            merge: Merge::default(),
            max_faces: 0,
            min_face_size: 0.0,
            max_batch: 1,
            batch_timeout: Duration::ZERO,
        }
    }
}

/// How long the stages of one detection took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Frame to tensor.
    pub preprocess: Duration,
    /// In the engine's queue.
    pub wait: Duration,
    /// The model's run.
    pub inference: Duration,
    /// Outputs to faces.
    pub decode: Duration,
}

impl Timing {
    /// All stages.
    pub fn total(&self) -> Duration {
        self.preprocess + self.wait + self.inference + self.decode
    }
}

/// What was found in a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detection {
    /// Faces in frame pixels, best score first.
    pub faces: Vec<Face>,
    /// Candidates dropped because the model gave numbers that are not finite.
    pub non_finite: usize,
    /// How long it took.
    pub timing: Timing,
    /// How many frames shared the run, this one included.
    pub batch: usize,
}

/// Why a frame has no detection.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The frame cannot be turned into a tensor.
    #[error("preprocessing failed: {0}")]
    Preprocess(#[from] opencv::Error),
    /// A part of the frame cannot be looked at.
    #[error(transparent)]
    Part(#[from] ImageError),
    /// The model did not run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model's tensors cannot be made or read.
    #[error("the model's tensors cannot be used: {0}")]
    Tensors(String),
}

/// Memory that one frame leaves for the next.
#[derive(Debug)]
struct Buffers {
    tensors: Tensors,
    scratch: Scratch,
}

/// Memory that waits for a frame.
#[derive(Debug, Default)]
struct Pool {
    /// How the frames of now are fed.
    feeds: Vec<Feed>,
    free: Vec<Buffers>,
}

impl Pool {
    /// What was left by frames that were fed otherwise goes.
    fn keep(&mut self, feeds: impl Iterator<Item = Feed> + Clone) {
        if self.feeds.iter().copied().ne(feeds.clone()) {
            self.feeds.clear();
            self.feeds.extend(feeds);
            let Self { feeds, free } = self;
            free.retain(|buffers| feeds.contains(&buffers.tensors.feed()));
        }
    }

    fn take(&mut self, feed: Feed) -> Option<Buffers> {
        let at = self.free.iter().rposition(|buffers| buffers.tensors.feed() == feed)?;
        Some(self.free.swap_remove(at))
    }

    fn give_back(&mut self, buffers: Buffers) {
        if self.feeds.contains(&buffers.tensors.feed()) {
            self.free.push(buffers);
        }
    }
}

/// The looks at frames of one size, and what they were planned for.
#[derive(Debug)]
struct Plan {
    frame: (usize, usize),
    size: InputSize,
    looks: Looks,
    plan: Arc<[Look]>,
}

/// Detects faces with a shared model. Several threads may use one detector at once.
///
/// ```no_run
/// use std::path::Path;
/// use retinaface::detector::{Detector, Settings, SharedModel};
/// use retinaface::image::{ImageInfo, ImageView, PixelFormat};
///
/// let model = SharedModel::open(Path::new("retinaface_mnet025.onnx"), &Default::default())?;
/// let detector = Detector::new(&model);
/// let pixels = vec![0u8; 640 * 480 * 3];
/// let frame = ImageView::new(ImageInfo::new(PixelFormat::Rgb, 640, 480), &[&pixels], &[640 * 3])?;
/// for face in detector.detect(&frame, &Settings::default())?.faces {
///     println!("{:.2} at {:?}", face.score, face.rect);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Detector {
    client: Client<Tensors>,
    common: Arc<Common>,
    number: usize,
}

/// What a detector's frames under way need.
#[derive(Debug)]
struct Common {
    model: Arc<SharedModel>,
    buffers: Mutex<Pool>,
    plan: Mutex<Option<Plan>>,
}

impl Detector {
    /// A detector that shares `model` with others.
    pub fn new(model: &Arc<SharedModel>) -> Self {
        let number = {
            let mut numbers = lock(&model.numbers);
            let free = (0..).find(|number| !numbers.contains(number)).expect("a set of detectors is finite");
            numbers.insert(free);
            free
        };
        let common = Common { model: Arc::clone(model), buffers: Mutex::default(), plan: Mutex::default() };
        Self { client: model.client(), common: Arc::new(common), number }
    }

    /// The model in use.
    pub fn model(&self) -> &Arc<SharedModel> {
        &self.common.model
    }

    /// The least number, from 0, that no other living detector of this model has: streams that look at every Nth frame
    /// can take turns by it.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Detects the faces of one frame; waits for the model.
    ///
    /// # Errors
    /// If the frame cannot be resized or the model does not run.
    pub fn detect(&self, frame: &ImageView<'_>, settings: &Settings) -> Result<Detection, DetectError> {
        self.submit(frame, settings)?.wait()
    }

    /// Makes a frame ready and hands it to the model without waiting for it; waits only while the model's queue is full.
    /// The frame is no longer needed afterwards.
    ///
    /// # Errors
    /// If the frame cannot be resized or the model does not run any more.
    pub fn submit(&self, frame: &ImageView<'_>, settings: &Settings) -> Result<Underway, DetectError> {
        let model = &self.common.model;
        let start = Instant::now();
        self.common.layout()?;
        let mut underway = Underway::new(&self.common, (frame.width(), frame.height()), settings, start);
        let feed = |look: &Look| {
            let Look { region, letterbox, .. } = look;
            let (width, height) = letterbox.input();
            let info = ImageInfo { width: region.width, height: region.height, ..frame.info() };
            if model.on_device { Feed::Planes(Frames::new(&info, *letterbox)) } else { Feed::Floats { width, height } }
        };
        lock(&self.common.buffers).keep(underway.plan.iter().map(feed));
        for index in 0..underway.plan.len() {
            let look = underway.plan[index];
            let part = frame.crop(look.region)?;
            let feed = feed(&look);
            underway.make_room()?;
            let mut buffers = self.common.buffers(feed)?;
            fill(&mut buffers, feed, &part, &look, model.contract())?;
            let (width, height) = look.letterbox.input();
            let max_batch = match settings.max_batch {
                0 => model.auto_batch(width, height),
                wanted => wanted,
            };
            underway.preprocess = start.elapsed().saturating_sub(underway.handing_in);
            self.hand_in(&mut underway, buffers, look, max_batch)?;
        }
        Ok(underway)
    }

    /// As [`Self::submit`], for a frame in a GPU's memory, of which the frame's maker vouches until this returns. It can
    /// be looked at at several sizes, but neither in parts nor in a mirror.
    ///
    /// # Errors
    /// If the model does not run on a GPU, the frame cannot be copied, or the model does not run any more.
    #[cfg(feature = "cuda-memory")]
    pub fn submit_resident(
        &self,
        frame: &crate::cuda::DeviceFrame<'_>,
        settings: &Settings,
    ) -> Result<Underway, DetectError> {
        let start = Instant::now();
        if !self.common.model.running.is_gpu() {
            let provider = self.common.model.running.provider;
            return Err(DetectError::Tensors(format!(
                "frames in CUDA memory need execution-provider=cuda or tensorrt, and this is {provider}; put \
                 `cudadownload` before the element to use it"
            )));
        }
        let info = frame.info();
        let mut underway = Underway::new(&self.common, (info.width, info.height), settings, start);
        let is_whole =
            |look: &Look| (look.region.width, look.region.height) == (info.width, info.height) && !look.flipped;
        if !underway.plan.iter().all(is_whole) {
            return Err(DetectError::Tensors(
                "roi, tiles and flip need frames in system memory; put `cudadownload` before the element".to_owned(),
            ));
        }
        let feed = |look: &Look| Feed::Resident(Frames::new(&info, look.letterbox));
        lock(&self.common.buffers).keep(underway.plan.iter().map(feed));
        for index in 0..underway.plan.len() {
            let look = underway.plan[index];
            underway.make_room()?;
            let mut buffers = self.common.buffers(feed(&look))?;
            for plane in 0..info.format.planes() {
                let address = buffers.tensors.address(plane).map_err(DetectError::Tensors)?;
                frame.copy_plane(plane, address).map_err(DetectError::Tensors)?;
            }
            underway.preprocess = start.elapsed().saturating_sub(underway.handing_in);
            // Each has its own place on the device: none is gathered into a batch.
            self.hand_in(&mut underway, buffers, look, 1)?;
        }
        Ok(underway)
    }

    fn hand_in(
        &self,
        underway: &mut Underway,
        Buffers { tensors, scratch }: Buffers,
        look: Look,
        max_batch: usize,
    ) -> Result<(), DetectError> {
        let before = Instant::now();
        let ticket = self.client.submit(Request {
            picture: tensors,
            max_batch: self.common.model.batch(max_batch),
            batch_timeout: underway.settings.batch_timeout,
        })?;
        underway.handing_in += before.elapsed();
        underway.tickets.push_back(Submitted { ticket, scratch, since: before, look });
        Ok(())
    }

    /// Tells the model's engine that no frame will come for a while, so that others need not wait for one.
    pub fn rest(&self) {
        self.client.rest();
    }
}

/// Fills a look's tensors from its part of the frame.
fn fill(
    Buffers { tensors, scratch }: &mut Buffers,
    feed: Feed,
    part: &ImageView<'_>,
    look: &Look,
    contract: &Contract,
) -> Result<(), DetectError> {
    if let Feed::Planes(frames) = feed {
        for index in 0..frames.planes() {
            let plane = part.plane(index);
            let pixels = tensors.plane(index).map_err(DetectError::Tensors)?;
            plane.copy_to(pixels);
            if look.flipped {
                let channels = plane.layout.channels;
                pixels.chunks_exact_mut(plane.layout.row_bytes()).for_each(|row| preprocess::mirror(row, channels));
            }
        }
        return Ok(());
    }
    let floats = tensors.floats().map_err(DetectError::Tensors)?;
    preprocess::fill_input(part, &look.letterbox, &contract.normalization, floats, scratch)?;
    if look.flipped {
        let ((width, _), (cols, _)) = (look.letterbox.input(), look.letterbox.content());
        floats.chunks_exact_mut(width).for_each(|row| row[..cols].reverse());
    }
    Ok(())
}

impl Drop for Detector {
    fn drop(&mut self) {
        lock(&self.common.model.numbers).remove(&self.number);
    }
}

/// One look that was handed in.
#[derive(Debug)]
struct Submitted {
    ticket: Ticket<Tensors>,
    scratch: Scratch,
    since: Instant,
    look: Look,
}

/// A frame that the model has, or has had, without its faces being asked for yet. Dropping it gives them up.
#[derive(Debug)]
pub struct Underway {
    /// Looks whose answers have not been read yet, the oldest first.
    tickets: VecDeque<Submitted>,
    common: Arc<Common>,
    plan: Arc<[Look]>,
    /// Width and height.
    frame: (usize, usize),
    settings: Settings,
    start: Instant,
    preprocess: Duration,
    /// How long handing in took, which waits while the queue is full, and reading answers to make room.
    handing_in: Duration,
    /// What the looks so far found.
    found: Vec<Candidate>,
    non_finite: usize,
    batch: usize,
    decode: Duration,
    /// The first look's, in the queue.
    wait: Option<Duration>,
    /// When the last look's run ended.
    end: Instant,
}

impl Underway {
    fn new(common: &Arc<Common>, frame: (usize, usize), settings: &Settings, start: Instant) -> Self {
        let plan = common.plan(frame, settings);
        Self {
            tickets: VecDeque::with_capacity(plan.len().min(MOST_UNDERWAY)),
            common: Arc::clone(common),
            plan,
            frame,
            settings: settings.clone(),
            start,
            preprocess: Duration::ZERO,
            handing_in: Duration::ZERO,
            found: Vec::new(),
            non_finite: 0,
            batch: 0,
            decode: Duration::ZERO,
            wait: None,
            end: start,
        }
    }

    /// Whether [`Self::wait`] would not have to wait.
    pub fn is_ready(&self) -> bool {
        self.tickets.iter().all(|submitted| submitted.ticket.is_ready())
    }

    /// Reads the oldest answer if as many looks are under way as may be: a frame in many tiles needs no more memory.
    fn make_room(&mut self) -> Result<(), DetectError> {
        let before = Instant::now();
        if self.tickets.len() >= MOST_UNDERWAY
            && let Some(oldest) = self.tickets.pop_front()
        {
            self.read(oldest)?;
            self.handing_in += before.elapsed();
        }
        Ok(())
    }

    /// Waits for one look, and decodes what it found.
    fn read(&mut self, Submitted { ticket, scratch, since, look }: Submitted) -> Result<(), DetectError> {
        let layout = self.common.layout()?;
        let reply = ticket.wait()?;
        let before = Instant::now();
        let decoded = match reply.picture.found().map_err(DetectError::Tensors)? {
            Found::Heads(heads) => {
                decode::decode(layout, look.letterbox.input(), heads.values(), self.settings.score_threshold)
            }
            Found::Candidates(candidates) => {
                decode::from_candidates(candidates, layout.landmarks, self.settings.score_threshold)
            }
        };
        lock(&self.common.buffers).give_back(Buffers { tensors: reply.picture, scratch });
        self.non_finite += decoded.non_finite;
        // As many as enter suppression: a threshold of 0 takes every anchor of every look.
        let mut candidates = decoded.candidates;
        if candidates.len() > TOP_K {
            candidates.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
            candidates.truncate(TOP_K);
        }
        self.found.extend(candidates.iter().filter_map(|face| look.in_frame(face)));
        self.batch = self.batch.max(reply.batch);
        self.wait.get_or_insert(reply.wait);
        self.end = self.end.max(since + reply.wait + reply.run);
        self.decode += before.elapsed();
        Ok(())
    }

    /// Waits for the model, and decodes what it found.
    ///
    /// # Errors
    /// If the model does not run.
    pub fn wait(mut self) -> Result<Detection, DetectError> {
        while let Some(oldest) = self.tickets.pop_front() {
            self.read(oldest)?;
        }
        let Self { frame, settings, start, preprocess, found, non_finite, batch, mut decode, wait, end, .. } = self;
        let before = Instant::now();
        let (faces, overflowed) = select(found, frame, &settings);
        decode += before.elapsed();
        let wait = wait.unwrap_or_default();
        // From the first look's start to the last one's end, less what else happened meanwhile.
        let inference = (end - start).saturating_sub(preprocess + wait);
        let timing = Timing { preprocess, wait, inference, decode };
        Ok(Detection { faces, non_finite: non_finite + overflowed, timing, batch })
    }
}

impl Common {
    /// How the model's faces are decoded.
    fn layout(&self) -> Result<&Layout, DetectError> {
        let layout = self.model.contract().layout();
        layout.ok_or_else(|| DetectError::Tensors("the model finds points of faces, not faces".to_owned()))
    }

    /// The looks at a frame of that size.
    fn plan(&self, frame: (usize, usize), settings: &Settings) -> Arc<[Look]> {
        let Settings { input_size: size, looks, .. } = settings;
        let mut known = lock(&self.plan);
        match &*known {
            Some(known) if known.frame == frame && known.size == *size && known.looks == *looks => {
                Arc::clone(&known.plan)
            }
            _ => {
                let plan = looks::plan(frame, self.model.contract(), *size, looks).into();
                *known = Some(Plan { frame, size: *size, looks: looks.clone(), plan: Arc::clone(&plan) });
                plan
            }
        }
    }

    /// Memory for a frame that is fed so: an earlier one's, or new.
    fn buffers(&self, feed: Feed) -> Result<Buffers, DetectError> {
        // A lock of its own for a push or a pop; never held while anything runs.
        if let Some(free) = lock(&self.buffers).take(feed) {
            return Ok(free);
        }
        let tensors = self.model.tensors(feed).map_err(DetectError::Tensors)?;
        Ok(Buffers { tensors, scratch: Scratch::default() })
    }
}

/// From what the looks found, in frame pixels, to the faces wanted, and how many have no finite place there. What lies
/// wholly outside the frame, in the padding, is no face.
fn select(found: Vec<Candidate>, (width, height): (usize, usize), settings: &Settings) -> (Vec<Face>, usize) {
    let count = found.len();
    let finite = found.into_iter().filter(|candidate| candidate.face.is_finite()).collect::<Vec<_>>();
    let overflowed = count - finite.len();
    let mut faces = merge::merge(finite, settings.merge, settings.iou_threshold);
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
    use crate::face::Rect;

    fn face(score: f32, x: f32, side: f32) -> Face {
        Face { score, rect: Rect::new(x, 0.0, side, side), ..Face::default() }
    }

    #[test]
    fn the_smallest_size_counts_in_frame_pixels_and_before_the_largest_number() {
        let found = [face(0.9, 0.0, 20.0), face(0.8, 200.0, 60.0), face(0.7, 400.0, 80.0)].map(Candidate::whole);
        let settings = Settings { min_face_size: 25.0, max_faces: 1, ..Settings::default() };
        let (faces, _) = select(found.to_vec(), (1280, 720), &settings);
        assert_eq!(faces, [face(0.8, 200.0, 60.0)]);
        let (all, _) = select(found.to_vec(), (1280, 720), &Settings::default());
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn a_face_in_the_padding_is_none() {
        // 1280 x 720 fills 640 x 360 of the input's 640 x 384.
        let at = |y: f32| Candidate::whole(Face { rect: Rect::new(200.0, y, 40.0, 40.0), ..face(0.9, 0.0, 0.0) });
        assert_eq!(select(vec![at(722.0)], (1280, 720), &Settings::default()), (vec![], 0));
        assert_eq!(select(vec![at(718.0)], (1280, 720), &Settings::default()).0.len(), 1);
    }

    #[test]
    fn a_face_that_overflows_on_its_way_to_the_frame_is_dropped_and_counted() {
        let far = face(0.9, f32::INFINITY, 20.0);
        assert_eq!(select(vec![Candidate::whole(far)], (7680, 4320), &Settings::default()), (vec![], 1));
    }
}
