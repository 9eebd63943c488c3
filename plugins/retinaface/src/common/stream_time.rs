//! Times of frames for elements that follow faces over time.

use std::time::Duration;

use gst_video::VideoInfo;

/// The time between two frames without timestamps, if the caps have no frame rate either.
const DEFAULT_FRAME_TIME: Duration = Duration::from_millis(40);
/// The longest time between two frames that counts; more is a gap.
const MAX_FRAME_TIME: Duration = Duration::from_secs(1);
/// The largest timestamp.
const MAX: Duration = Duration::from_nanos(u64::MAX);

/// Times of the frames of a stream, in the direction in which it is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamTime {
    is_reverse: bool,
    frame_time: Duration,
    /// The caps have a frame rate.
    has_rate: bool,
    last: Option<Duration>,
}

impl Default for StreamTime {
    fn default() -> Self {
        Self { is_reverse: false, frame_time: DEFAULT_FRAME_TIME, has_rate: false, last: None }
    }
}

impl StreamTime {
    /// Sets the direction of playback. Returns whether it has changed.
    pub(crate) fn set_rate(&mut self, rate: f64) -> bool {
        std::mem::replace(&mut self.is_reverse, rate < 0.0) != self.is_reverse
    }

    /// Takes the frame rate of these caps for frames without timestamps.
    pub(crate) fn set_info(&mut self, info: &VideoInfo) {
        let fps = info.fps();
        self.has_rate = fps.numer() > 0 && fps.denom() > 0;
        if self.has_rate {
            self.frame_time = Duration::from_secs_f64(f64::from(fps.denom()) / f64::from(fps.numer()));
        }
    }

    /// The time between two frames; without a frame rate in the caps, the longest one so far, up to 1 s.
    pub(crate) fn frame_time(&self) -> Duration {
        self.frame_time
    }

    /// The time of the latest frame.
    pub(crate) fn last(&self) -> Option<Duration> {
        self.last
    }

    /// The time of the next frame, which has this timestamp.
    pub(crate) fn next(&mut self, pts: Option<gst::ClockTime>) -> Duration {
        let time = match pts {
            Some(pts) => self.mirrored(Duration::from_nanos(pts.nseconds())),
            None => self.last.map_or(Duration::ZERO, |time| time + self.frame_time),
        };
        if let (false, Some(step)) = (self.has_rate, self.last.and_then(|last| time.checked_sub(last))) {
            self.frame_time = self.frame_time.max(step.min(MAX_FRAME_TIME));
        }
        self.last = Some(time);
        time
    }

    /// Sets the time of the latest frame.
    pub(crate) fn set_last(&mut self, time: Duration) {
        self.last = Some(time);
    }

    /// Forgets the latest frame: the stream continues after a seek or a flush.
    pub(crate) fn clear(&mut self) {
        self.last = None;
    }

    /// From a timestamp to the time in the direction of playback, and back.
    pub(crate) fn mirrored(&self, time: Duration) -> Duration {
        if self.is_reverse { MAX.saturating_sub(time) } else { time }
    }
}
