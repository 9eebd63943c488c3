//! One crop per track.

use std::time::Duration;

use face_meta::FrameFace;
use gst::glib;
use gst_video::VideoInfo;
use retinaface::crops::FaceQuality;
use retinaface::track::{BestShot, BestShotSettings, BestShots};

use super::cropper::{Crop, CropFailure, Timing};
use crate::common::stream_time::StreamTime;

/// Maximum number of tracks whose crops are kept.
const MAX_TRACKS: usize = 256;
/// Maximum memory of the kept crops, in bytes.
const MAX_BYTES: usize = 64 << 20;
/// Number of frames with faces after which a stream without any track id is reported.
const FRAMES_WITHOUT_IDS: u32 = 30;

/// A kept crop with the time of its frame.
#[derive(Clone)]
struct Shot {
    crop: Crop,
    time: Duration,
}

/// The best crops of the tracks of a stream.
pub(super) struct TrackCrops {
    shots: BestShots<Shot>,
    /// Final crops that leave with the present frame.
    finals: Vec<BestShot<Shot>>,
    time: StreamTime,
    /// Time of the latest frame, for the rules and for buffers.
    now: Duration,
    timing: Timing,
    ids: IdReport,
}

impl Default for TrackCrops {
    fn default() -> Self {
        Self {
            shots: BestShots::new(MAX_TRACKS),
            finals: Vec::new(),
            time: StreamTime::default(),
            now: Duration::ZERO,
            timing: Timing::default(),
            ids: IdReport::default(),
        }
    }
}

impl TrackCrops {
    /// Limits the memory. Nothing must be kept: crops of another format would be lost.
    pub(super) fn set_crop_size(&mut self, bytes: usize) {
        self.shots = BestShots::new((MAX_BYTES / bytes.max(1)).min(MAX_TRACKS));
    }

    /// Takes the frame rate of these caps for frames without timestamps.
    pub(super) fn set_info(&mut self, info: &VideoInfo) {
        self.time.set_info(info);
    }

    /// Whether this rate changes the direction of playback. The times of kept crops then mean nothing.
    pub(super) fn turns(&self, rate: f64) -> bool {
        let mut time = self.time;
        time.set_rate(rate)
    }

    /// Sets the direction of playback.
    pub(super) fn set_rate(&mut self, rate: f64) {
        self.time.set_rate(rate);
    }

    /// A frame has arrived.
    pub(super) fn start_frame(&mut self, buffer: &gst::BufferRef) {
        self.now = self.time.next(buffer.pts());
        self.timing = Timing::of(buffer);
        // Before the frame's faces: one of them may have the id of a track that has ended.
        self.finals.extend(self.shots.take_ended());
    }

    /// Takes a face of the present frame, or one that was found `age` earlier and that it carries.
    /// `highest` is its quality without the sharpness. `crop` is called if its crop may be better than
    /// the one that is kept.
    pub(super) fn offer(
        &mut self,
        found: &FrameFace,
        highest: FaceQuality,
        age: Duration,
        crop: impl FnOnce() -> Result<Option<Crop>, CropFailure>,
    ) -> Result<(), CropFailure> {
        let Some(id) = found.face.track_id else { return Ok(()) };
        self.finals.extend(self.shots.see(self.now, id));
        if self.shots.would_keep(id, highest.overall())
            && let Some(crop) = crop()?
        {
            self.shots.offer(id, crop.quality(), Shot { crop, time: self.now.saturating_sub(age) });
        }
        Ok(())
    }

    /// The crops that leave with the present frame.
    pub(super) fn finish_frame(&mut self, settings: &BestShotSettings) -> Result<Vec<gst::Buffer>, glib::BoolError> {
        let mut shots = std::mem::take(&mut self.finals);
        shots.extend(self.shots.take_due(self.now, settings));
        self.buffers(shots)
    }

    /// The final crops of all tracks: the stream ends. They have the time of the latest frame.
    pub(super) fn end(&mut self) -> Result<Vec<gst::Buffer>, glib::BoolError> {
        let mut shots = std::mem::take(&mut self.finals);
        shots.extend(self.shots.take_all());
        self.buffers(shots)
    }

    /// A track has ended. Its crop leaves with the next frame, which has the time of the end.
    pub(super) fn end_track(&mut self, track_id: u64) {
        self.shots.end(track_id);
    }

    /// Forgets all crops: the stream is flushed.
    pub(super) fn flush(&mut self) {
        self.shots.clear();
        self.finals.clear();
        self.time.clear();
    }

    pub(super) fn ids(&mut self) -> &mut IdReport {
        &mut self.ids
    }

    fn buffers(&self, shots: Vec<BestShot<Shot>>) -> Result<Vec<gst::Buffer>, glib::BoolError> {
        let finish = |best: BestShot<Shot>| {
            let age = self.now.saturating_sub(best.shot.time);
            best.shot.crop.finish_best_shot(self.timing, best.kind, age)
        };
        shots.into_iter().map(finish).collect()
    }
}

/// Finds out that no element upstream gives faces ids.
#[derive(Debug, Default)]
pub(super) struct IdReport {
    /// A track event or a face with an id was seen.
    has_tracks: bool,
    /// Frames with faces and without ids.
    frames: u32,
    is_posted: bool,
}

impl IdReport {
    /// A tracker is there.
    pub(super) fn see_track(&mut self) {
        self.has_tracks = true;
    }

    /// Counts a frame with these faces. Returns whether to report now that they have no ids.
    pub(super) fn count(&mut self, faces: &[FrameFace]) -> bool {
        self.has_tracks |= faces.iter().any(|found| found.face.track_id.is_some());
        self.frames = self.frames.saturating_add(u32::from(!faces.is_empty()));
        self.is_due(FRAMES_WITHOUT_IDS)
    }

    /// Returns whether to report at the end of the stream that faces have no ids.
    pub(super) fn end(&mut self) -> bool {
        self.is_due(1)
    }

    fn is_due(&mut self, frames: u32) -> bool {
        let is_due = !self.has_tracks && !self.is_posted && self.frames >= frames;
        self.is_posted |= is_due;
        is_due
    }
}
