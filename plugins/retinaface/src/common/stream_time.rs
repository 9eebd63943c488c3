//! Times of frames for elements that follow faces over time.

use std::time::Duration;

use gst_video::VideoInfo;

/// The time between two frames without timestamps, if the caps have no frame rate either.
const DEFAULT_FRAME_TIME: Duration = Duration::from_millis(40);
/// The largest timestamp.
const MAX: Duration = Duration::from_nanos(u64::MAX);

/// Times of the frames of a stream, in the direction in which it is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamTime {
    is_reverse: bool,
    frame_time: Duration,
    last: Option<Duration>,
}

impl Default for StreamTime {
    fn default() -> Self {
        Self { is_reverse: false, frame_time: DEFAULT_FRAME_TIME, last: None }
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
        if fps.numer() > 0 && fps.denom() > 0 {
            self.frame_time = Duration::from_secs_f64(f64::from(fps.denom()) / f64::from(fps.numer()));
        }
    }

    /// The time between two frames.
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
        self.last = Some(time);
        time
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
