//! The boxes of the tracks of a video.

use std::collections::{BTreeMap, HashMap};

use anyhow::ensure;

/// Maximum frame number. A larger one is most likely a time in ms or ns.
pub(super) const MAX_FRAME: u64 = 0x7FFF_FFFF;
/// Maximum number of boxes in a frame: the time of the assignment grows with its third power. Frames
/// of MOT20, the densest of the challenge, have about 250.
const MAX_BOXES: usize = 1000;
/// Maximum absolute value of a coordinate in pixels, so that areas are exact enough and finite.
const MAX_COORDINATE: f64 = 1e9;

/// What a box of the truth does. Predictions have [`Role::Evaluated`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It is to be found.
    Evaluated,
    /// It is not to be found, and a prediction of it is a false positive.
    Ignored,
    /// It is not to be found, and a prediction of it does not count.
    Distractor,
}

/// A box of a track in a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TrackBox {
    pub(super) id: u64,
    /// Left, top, right and bottom in pixels.
    pub(super) corners: [f64; 4],
    pub(super) role: Role,
}

impl TrackBox {
    pub(super) fn new(id: u64, [x, y, w, h]: [f64; 4], role: Role) -> anyhow::Result<Self> {
        for value in [x, y, w, h] {
            ensure!(value.is_finite(), "{value} is not finite: leave such boxes out when the file is written");
            ensure!(
                value.abs() <= MAX_COORDINATE,
                "{value} is not a position or size in pixels: at most {MAX_COORDINATE} is accepted"
            );
        }
        ensure!(w >= 0.0 && h >= 0.0, "the width or height is negative: a box is x,y,w,h, not two corners");
        Ok(Self { id, corners: [x, y, x + w, y + h], role })
    }

    /// Intersection over union, in 0.0..=1.0. It is 0 if a box has no area, as in TrackEval.
    pub(super) fn iou(&self, other: &Self) -> f64 {
        let ([l1, t1, r1, b1], [l2, t2, r2, b2]) = (self.corners, other.corners);
        let intersection = (r1.min(r2) - l1.max(l2)).max(0.0) * (b1.min(b2) - t1.max(t2)).max(0.0);
        let areas = [(r1 - l1) * (b1 - t1), (r2 - l2) * (b2 - t2)];
        let union = areas[0] + areas[1] - intersection;
        if areas.iter().chain([&union]).any(|area| *area <= f64::EPSILON) { 0.0 } else { intersection / union }
    }
}

/// The boxes of a file by frame, counted from 1. Within a frame they have the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tracks {
    pub(super) frames: BTreeMap<u64, Vec<TrackBox>>,
    /// Faces without an id of a track, which have been left out.
    pub(super) untracked: usize,
}

/// Collects the boxes of a file and checks what concerns several of them.
#[derive(Debug, Default)]
pub(super) struct Collector {
    tracks: Tracks,
    /// The line of the box of an id in a frame.
    lines: HashMap<(u64, u64), usize>,
}

impl Collector {
    /// Adds the box that line `line` has in frame `frame`.
    pub(super) fn add(&mut self, frame: u64, line: usize, tracked: TrackBox) -> anyhow::Result<()> {
        let id = tracked.id;
        if let Some(first) = self.lines.insert((frame, id), line) {
            let place = if first == line { "in this line".to_owned() } else { format!("first in line {first}") };
            anyhow::bail!(
                "id {id} has two boxes in frame {frame}, {place}: remove one, or write one file per video if the file has \
                 several"
            );
        }
        let boxes = self.tracks.frames.entry(frame).or_default();
        ensure!(
            boxes.len() < MAX_BOXES,
            "frame {frame} has more than {MAX_BOXES} boxes: leave out boxes with a low score, or check that the first \
             column is the frame"
        );
        boxes.push(tracked);
        Ok(())
    }

    pub(super) fn add_untracked(&mut self, faces: usize) {
        self.tracks.untracked += faces;
    }

    pub(super) fn into_tracks(self) -> Tracks {
        self.tracks
    }
}

/// A line for an error message, shortened.
pub(super) fn quote(line: &str) -> String {
    const MAX_CHARACTERS: usize = 100;
    match line.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{:?}...", &line[..end]),
        None => format!("{line:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(xywh: [f64; 4]) -> TrackBox {
        TrackBox::new(1, xywh, Role::Evaluated).unwrap()
    }

    #[test]
    fn iou_is_that_of_boxes_without_an_extra_pixel() {
        let iou = |a, b| tracked(a).iou(&tracked(b));
        assert_eq!(iou([0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]), 1.0);
        assert_eq!(iou([0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 10.0, 10.0]), 50.0 / 150.0);
        assert_eq!(iou([0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 10.0, 10.0]), 0.0);
        assert_eq!(iou([0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 10.0, 10.0]), 0.0, "apart on both axes");
        assert_eq!(iou([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]), 0.0, "no area");
    }

    #[test]
    fn errors_of_boxes_say_what_is_wrong() {
        let error = |xywh| TrackBox::new(1, xywh, Role::Evaluated).unwrap_err().to_string();
        assert!(error([f64::NAN, 0.0, 1.0, 1.0]).contains("NaN is not finite"));
        assert!(error([0.0, 1e300, 1.0, 1.0]).contains("is not a position or size in pixels"));
        assert!(error([20.0, 20.0, -5.0, 1.0]).contains("x,y,w,h, not two corners"));
    }

    #[test]
    fn an_id_has_one_box_per_frame_and_a_frame_a_limited_number() {
        let mut collector = Collector::default();
        collector.add(7, 1, tracked([0.0; 4])).unwrap();
        collector.add(8, 2, tracked([0.0; 4])).unwrap();
        let error = collector.add(7, 3, tracked([0.0; 4])).unwrap_err().to_string();
        assert!(error.contains("id 1 has two boxes in frame 7, first in line 1"), "{error}");
        let mut add = |id| collector.add(9, 4, TrackBox { id, ..tracked([0.0; 4]) });
        let error = (0..).find_map(|id| add(id).err()).unwrap().to_string();
        assert!(error.contains("frame 9 has more than 1000 boxes"), "{error}");
    }

    #[test]
    fn long_lines_are_shortened() {
        assert_eq!(quote("1,2"), "\"1,2\"");
        assert_eq!(quote(&"ä".repeat(1000)).chars().count(), 105);
    }
}
