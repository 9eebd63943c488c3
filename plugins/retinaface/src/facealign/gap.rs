//! GAP events while there is no crop.

/// Time without a crop for which downstream has received no GAP event yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gap {
    /// Whether a GAP event was sent since the last crop.
    sent: bool,
    /// Start and end of the time without an event.
    span: Option<(gst::ClockTime, gst::ClockTime)>,
}

impl Gap {
    /// Adds a frame without a crop. Returns start and duration of the GAP event to send now: the
    /// first one at once, so that sinks do not wait, then one per `interval`, or per frame if that
    /// is zero.
    pub(super) fn add(
        &mut self,
        pts: gst::ClockTime,
        duration: Option<gst::ClockTime>,
        interval: gst::ClockTime,
    ) -> Option<(gst::ClockTime, Option<gst::ClockTime>)> {
        if !std::mem::replace(&mut self.sent, true) || interval.is_zero() {
            return Some((pts, duration));
        }
        let end = pts.saturating_add(duration.unwrap_or_default());
        let (start, _) = *self.span.get_or_insert((pts, end));
        self.span = Some((start, end));
        if end.checked_sub(start)? < interval {
            return None;
        }
        self.take_rest()
    }

    /// The time without an event so far.
    pub(super) fn take_rest(&mut self) -> Option<(gst::ClockTime, Option<gst::ClockTime>)> {
        let (start, end) = self.span.take()?;
        Some((start, end.checked_sub(start)))
    }
}
