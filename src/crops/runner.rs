//! A batched runner for models that run on a crop of each face.
//!
//! The runner warps each face into the model's input, submits the crops of a frame as batches, and
//! decodes the outputs. What the outputs mean is left to a [`CropDecoder`], so that landmark and
//! embedding models share the runner.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::align::{self, Affine, WarpBuffers};
use crate::image::{ImageError, ImageInfo, ImageView, OwnedImage, PixelFormat};
use crate::inference::{
    Client, HeadOutputs, InputSpec, ModelError, PendingReply, Request, RunOutput, SharedModel, Tensors,
};
use crate::model::{ChannelOrder, ModelSpec, Normalization};
use crate::sync::lock;

/// The automatic batch size. The models are so small that a batch reduces the fixed cost per crop,
/// also on a CPU.
const AUTO_CROP_BATCH: usize = 16;

/// Maximum number of pending crops of one frame, which bounds the memory of a frame with many
/// faces.
const MAX_PENDING_CROPS: usize = 64;

/// Why a model cannot run on the crops of a frame.
#[derive(Debug, thiserror::Error)]
pub enum CropError {
    /// The frame cannot be warped.
    #[error("a face cannot be cropped from the frame: {0}")]
    Image(#[from] ImageError),
    /// The model does not run.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Decodes the outputs of a model for one crop.
pub(crate) trait CropDecoder: Send + Sync + 'static {
    /// The decoded output.
    type Value: Send + 'static;

    /// The value for a crop; `None` if the outputs contain NaN or infinity.
    fn decode(&self, outputs: &HeadOutputs<'_>, frame_from_crop: &Affine) -> Option<Self::Value>;
}

/// How crops share runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batching {
    /// Maximum number of crops in a run; 0 for a number that suits the model.
    pub(crate) max_batch: usize,
    /// Maximum time to wait for the crops of other callers.
    pub(crate) batch_timeout: Duration,
}

/// The values of a frame's crops.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CropValues<V> {
    /// One per crop; `None` for a crop without a transform or with outputs that are not finite.
    pub(crate) values: Vec<Option<V>>,
    /// Maximum number of crops, of this and other callers, in one run.
    pub(crate) batch: usize,
    /// From the submission to the end of the last run, and decoding.
    pub(crate) duration: Duration,
}

/// Runs a model on crops. Several threads may use one runner at once.
pub(crate) struct CropRunner<D> {
    client: Client<Tensors>,
    shared: Arc<Shared<D>>,
}

struct Shared<D> {
    model: Arc<SharedModel>,
    /// Width and height of the model's input.
    size: (usize, usize),
    decoder: D,
    free: Mutex<Vec<CropBuffers>>,
}

/// Memory of one crop, reused by later crops.
#[derive(Debug)]
struct CropBuffers {
    tensors: Tensors,
    warped: WarpedCrop,
}

/// A warped crop, and the buffers of the warp.
#[derive(Debug)]
struct WarpedCrop {
    crop: OwnedImage,
    scratch: WarpBuffers,
}

impl<D> fmt::Debug for CropRunner<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CropRunner")
            .field("client", &self.client)
            .field("size", &self.shared.size)
            .finish_non_exhaustive()
    }
}

impl<D: CropDecoder> CropRunner<D> {
    /// A runner of `model`, whose input has a fixed width and height of `size`.
    pub(crate) fn new(model: &Arc<SharedModel>, size: (usize, usize), decoder: D) -> Self {
        let shared = Shared { model: Arc::clone(model), size, decoder, free: Mutex::default() };
        Self { client: model.client(), shared: Arc::new(shared) }
    }

    /// Width and height of the model's input.
    pub(crate) fn size(&self) -> (usize, usize) {
        self.shared.size
    }

    pub(crate) fn decoder(&self) -> &D {
        &self.shared.decoder
    }

    /// Warps the crops and submits them to the model. Waits for earlier crops of this call while
    /// more than [`MAX_PENDING_CROPS`] are pending. A crop without a transform is skipped. The
    /// frame is not needed afterwards.
    ///
    /// # Errors
    /// If the frame cannot be warped or the engine has stopped.
    pub(crate) fn submit(
        &self,
        frame: &ImageView<'_>,
        crops: impl IntoIterator<Item = Option<Affine>>,
        batching: Batching,
    ) -> Result<PendingCrops<D>, CropError> {
        let requested = if batching.max_batch == 0 { AUTO_CROP_BATCH } else { batching.max_batch };
        let max_batch = self.shared.model.batch(requested).min(MAX_PENDING_CROPS);
        let mut pending = PendingCrops::new(&self.shared);
        // Crops are submitted as whole batches: no run starts with a part of one, and the first
        // batch runs while the second one is warped.
        let mut batch = Vec::with_capacity(max_batch);
        for (index, crop_from_frame) in crops.into_iter().enumerate() {
            pending.values.push(None);
            let Some((crop_from_frame, frame_from_crop)) =
                crop_from_frame.and_then(|transform| Some((transform, transform.inverse()?)))
            else {
                continue;
            };
            let mut buffers = self.shared.buffers()?;
            let CropBuffers { tensors, warped: WarpedCrop { crop, scratch } } = &mut buffers;
            align::warp(frame, &crop_from_frame, &mut crop.view_mut(), scratch)?;
            fill(crop.data(), self.shared.model.spec(), tensors.floats()?);
            batch.push((index, buffers, frame_from_crop));
            if batch.len() == max_batch {
                self.submit_batch(&mut pending, &mut batch, max_batch, batching.batch_timeout)?;
            }
        }
        self.submit_batch(&mut pending, &mut batch, max_batch, batching.batch_timeout)?;
        Ok(pending)
    }

    fn submit_batch(
        &self,
        pending: &mut PendingCrops<D>,
        batch: &mut Vec<(usize, CropBuffers, Affine)>,
        max_batch: usize,
        batch_timeout: Duration,
    ) -> Result<(), CropError> {
        while pending.replies.len() + batch.len() > MAX_PENDING_CROPS {
            pending.read_oldest()?;
        }
        let since = Instant::now();
        let (items, crops): (Vec<_>, Vec<_>) = batch
            .drain(..)
            .map(|(index, CropBuffers { tensors, warped }, frame_from_crop)| {
                (tensors, (index, warped, frame_from_crop))
            })
            .unzip();
        let requests = items.into_iter().map(|item| Request { item, max_batch, batch_timeout });
        let replies = self.client.submit_all(requests).map_err(ModelError::from)?;
        let submitted = replies.into_iter().zip(crops).map(|(reply, (index, warped, frame_from_crop))| SubmittedCrop {
            reply,
            index,
            warped,
            frame_from_crop,
            since,
        });
        pending.replies.extend(submitted);
        Ok(())
    }

    /// Declares that no crop follows for a while, so that other callers' batches do not wait for
    /// one.
    pub(crate) fn set_idle(&self) {
        self.client.set_idle();
    }
}

impl<D> Shared<D> {
    /// Memory for a crop: that of an earlier one, or new memory.
    fn buffers(&self) -> Result<CropBuffers, CropError> {
        if let Some(free) = lock(&self.free).pop() {
            return Ok(free);
        }
        let (width, height) = self.size;
        let tensors = self.model.tensors(InputSpec::Floats { width, height })?;
        let info = ImageInfo::new(PixelFormat::Rgb, width, height);
        let crop = OwnedImage::new(info, vec![0; 3 * width * height])?;
        Ok(CropBuffers { tensors, warped: WarpedCrop { crop, scratch: WarpBuffers::default() } })
    }
}

/// A crop that was submitted to the model.
struct SubmittedCrop {
    reply: PendingReply<Tensors>,
    index: usize,
    warped: WarpedCrop,
    frame_from_crop: Affine,
    since: Instant,
}

/// The crops of a frame that were submitted and whose values have not been read yet. Dropping it
/// discards them.
pub(crate) struct PendingCrops<D: CropDecoder> {
    shared: Arc<Shared<D>>,
    /// Crops whose replies have not been read yet, the oldest first.
    replies: VecDeque<SubmittedCrop>,
    values: Vec<Option<D::Value>>,
    batch: usize,
    start: Instant,
    /// End of the last run.
    end: Instant,
    decode: Duration,
}

impl<D: CropDecoder> fmt::Debug for PendingCrops<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCrops").field("pending", &self.replies.len()).finish_non_exhaustive()
    }
}

impl<D: CropDecoder> PendingCrops<D> {
    fn new(shared: &Arc<Shared<D>>) -> Self {
        let start = Instant::now();
        Self {
            shared: Arc::clone(shared),
            replies: VecDeque::new(),
            values: Vec::new(),
            batch: 0,
            start,
            end: start,
            decode: Duration::ZERO,
        }
    }

    fn read_oldest(&mut self) -> Result<(), CropError> {
        let Some(SubmittedCrop { reply, index, warped, frame_from_crop, since }) = self.replies.pop_front() else {
            return Ok(());
        };
        let reply = reply.wait().map_err(ModelError::from)?;
        let before = Instant::now();
        self.batch = self.batch.max(reply.batch);
        self.end = self.end.max(since + reply.wait + reply.run);
        if let RunOutput::Heads(outputs) = reply.item.output()? {
            self.values[index] = self.shared.decoder.decode(&outputs, &frame_from_crop);
        }
        lock(&self.shared.free).push(CropBuffers { tensors: reply.item, warped });
        self.decode += before.elapsed();
        Ok(())
    }

    /// Waits for the model and decodes its outputs.
    ///
    /// # Errors
    /// If the model does not run.
    pub(crate) fn wait(mut self) -> Result<CropValues<D::Value>, CropError> {
        while !self.replies.is_empty() {
            self.read_oldest()?;
        }
        let Self { values, batch, start, end, decode, .. } = self;
        Ok(CropValues { values, batch, duration: end - start + decode })
    }
}

/// Fills a model's input from an RGB crop of its size.
fn fill(pixels: &[u8], spec: &ModelSpec, input: &mut [f32]) {
    let Normalization { order, mean, scale, .. } = spec.normalization;
    let pixels = pixels.as_chunks::<3>().0;
    if spec.channels == 1 {
        for (value, [r, g, b]) in input.iter_mut().zip(pixels) {
            // BT.601 luma, as OpenCV and Pillow convert to grey.
            let grey = 0.299 * f32::from(*r) + 0.587 * f32::from(*g) + 0.114 * f32::from(*b);
            *value = (grey - mean[0]) * scale;
        }
        return;
    }
    for (channel, plane) in input.chunks_exact_mut(pixels.len().max(1)).enumerate() {
        let from = if order == ChannelOrder::Bgr { 2 - channel } else { channel };
        for (value, pixel) in plane.iter_mut().zip(pixels) {
            *value = (f32::from(pixel[from]) - mean[channel]) * scale;
        }
    }
}
