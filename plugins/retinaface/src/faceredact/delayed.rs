//! The frames that the element delays, and the events between them.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use gst_video::VideoInfo;
use retinaface::geometry::Rect;
use retinaface::track::{Coverage, CoverageSettings, FrameCoverage, KnownFaces, areas_before};

/// A frame that is delayed until the frames after it are known.
pub(super) struct DelayedFrame {
    pub(super) buffer: gst::Buffer,
    pub(super) info: VideoInfo,
    pub(super) time: Duration,
    pub(super) known: KnownFaces,
    pub(super) coverage: FrameCoverage,
    /// The setting of exempt tracks when it arrived.
    pub(super) exempt: BTreeSet<u64>,
}

/// What leaves in the order in which it arrived.
pub(super) enum Item {
    Frame(Box<DelayedFrame>),
    Event(gst::Event),
}

impl Item {
    fn is_frame(&self) -> bool {
        matches!(self, Self::Frame(_))
    }

    fn is_gap(&self) -> bool {
        matches!(self, Self::Event(event) if event.type_() == gst::EventType::Gap)
    }
}

/// Delayed frames and events, oldest first.
#[derive(Default)]
pub(super) struct DelayedItems(VecDeque<Item>);

impl DelayedItems {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn push(&mut self, frame: DelayedFrame) {
        self.0.push_back(Item::Frame(Box::new(frame)));
    }

    /// Adds an event if there are frames that it must not overtake. Returns whether there are.
    pub(super) fn delay_event(&mut self, event: &gst::Event) -> bool {
        if self.0.is_empty() {
            return false;
        }
        // A stream of GAP events must not fill the memory.
        if event.type_() == gst::EventType::Gap && self.0.back().is_some_and(Item::is_gap) {
            self.0.pop_back();
        }
        self.0.push_back(Item::Event(event.clone()));
        true
    }

    /// Takes the oldest item if more than `delayed` frames wait. Events do not wait for frames behind
    /// them. `coverage` is that of the newest frame.
    pub(super) fn take(&mut self, delayed: usize, coverage: &Coverage, settings: &CoverageSettings) -> Option<Item> {
        let frames = self.0.iter().filter(|item| item.is_frame()).count();
        if frames <= delayed && self.0.front().is_some_and(Item::is_frame) {
            return None;
        }
        let mut item = self.0.pop_front()?;
        if let Item::Frame(frame) = &mut item {
            let exempt = coverage.exempt_tracks(settings);
            let areas = self.areas_before(frame, &CoverageSettings { exempt, ..settings.clone() });
            frame.coverage.held_areas.extend(areas);
            if !frame.exempt.is_subset(&settings.exempt) {
                // A track is no longer exempt.
                frame.coverage = without_exemptions(frame, settings);
            }
        }
        Some(item)
    }

    /// The areas of faces that later frames show and `frame` does not: faces before they were found.
    fn areas_before(&self, frame: &DelayedFrame, settings: &CoverageSettings) -> Vec<Rect> {
        let later = self.0.iter().filter_map(|item| match item {
            Item::Frame(frame) => Some(&**frame),
            Item::Event(_) => None,
        });
        let frames = [frame].into_iter().chain(later).map(|frame| (frame.time, &frame.known)).collect::<Vec<_>>();
        let newest = frames.last().map_or(frame.time, |(time, _)| *time);
        // The delay says how far a face is covered backwards.
        let hold = settings.hold.max(newest.saturating_sub(frame.time));
        areas_before(&frames, &CoverageSettings { hold, ..settings.clone() }).swap_remove(0)
    }
}

/// What to cover in a delayed frame if no track is exempt.
fn without_exemptions(frame: &DelayedFrame, settings: &CoverageSettings) -> FrameCoverage {
    let settings = CoverageSettings { exempt: BTreeSet::new(), ..settings.clone() };
    let all = Coverage::new().update(frame.time, &frame.known, &settings);
    let areas = frame.coverage.areas.iter().chain(&all.areas).copied().collect();
    FrameCoverage { areas, exempt: 0, faces: all.faces, ..frame.coverage.clone() }
}
