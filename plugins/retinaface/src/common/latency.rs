//! The latency that an element reports.

use std::collections::VecDeque;
use std::time::Duration;

use gst::prelude::*;

/// Number of recent frames that count.
const WINDOW: usize = 64;
/// Factor from the measured to the reported latency. With headroom it changes rarely.
const HEADROOM: f64 = 1.25;
/// The reported latency is a multiple of this.
const STEP: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(crate) struct Latency {
    recent: VecDeque<Duration>,
    reported: Duration,
}

impl Latency {
    /// The reported latency.
    pub(crate) fn reported(&self) -> Duration {
        self.reported
    }

    /// Records the time of a frame. Returns whether the reported latency has changed: it rises if
    /// one in twenty frames took longer, and falls if it is more than twice too high.
    pub(crate) fn observe(&mut self, time: Duration) -> bool {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(time);
        let mut sorted = [Duration::ZERO; WINDOW];
        sorted.iter_mut().zip(&self.recent).for_each(|(sorted, recent)| *sorted = *recent);
        let sorted = &mut sorted[..self.recent.len()];
        sorted.sort_unstable();
        let percentile = sorted[(sorted.len() * 19 / 20).min(sorted.len() - 1)];
        let wanted = round_up(percentile.mul_f64(HEADROOM));
        let full = self.recent.len() == WINDOW;
        let changes = percentile > self.reported || (full && wanted * 2 < self.reported);
        if changes {
            self.reported = wanted;
        }
        changes
    }
}

/// Answers a LATENCY query of the source pad with the latency of upstream plus `own`. Returns
/// whether upstream answered.
pub(crate) fn answer(query: &mut gst::query::Latency, sink: &gst::Pad, own: gst::ClockTime) -> bool {
    let mut upstream = gst::query::Latency::new();
    if !sink.peer_query(&mut upstream) {
        return false;
    }
    let (live, min, max) = upstream.result();
    query.set(live, min.saturating_add(own), max.map(|max| max.saturating_add(own)));
    true
}

fn round_up(time: Duration) -> Duration {
    let steps = time.as_nanos().div_ceil(STEP.as_nanos()).max(1);
    STEP * u32::try_from(steps).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_frame_sets_the_latency_with_headroom() {
        let mut latency = Latency::default();
        assert!(latency.observe(ms(20)));
        assert_eq!(latency.reported(), ms(25));
        assert!(!latency.observe(ms(22)));
    }

    #[test]
    fn one_slow_frame_changes_nothing_but_a_slower_stream_does() {
        let mut latency = Latency::default();
        (0..WINDOW).for_each(|_| {
            latency.observe(ms(20));
        });
        assert!(!latency.observe(ms(900)));
        assert_eq!(latency.reported(), ms(25));
        assert!((0..WINDOW).any(|_| latency.observe(ms(60))));
        assert_eq!(latency.reported(), ms(75));
    }

    #[test]
    fn the_latency_falls_only_if_it_is_far_too_high() {
        let mut latency = Latency::default();
        latency.observe(ms(100));
        assert!(!(0..WINDOW).any(|_| latency.observe(ms(60))));
        assert!((0..WINDOW).any(|_| latency.observe(ms(10))));
        assert_eq!(latency.reported(), ms(15));
    }
}
