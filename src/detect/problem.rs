//! Settings with which nothing can be found in frames of a certain size.

use super::detection::DetectionSettings;
use super::view_settings::Tiles;
use super::views;
use crate::geometry::{FrameSize, Rect};
use crate::model::ModelSpec;

/// A view whose longer side has fewer pixels in the model's input shows no face that a detector can
/// find.
const MIN_INPUT: usize = 12;

/// Why a setting finds nothing in frames of a certain size.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SettingsProblem {
    /// No score can be above the threshold.
    #[error("score-threshold is {0}, and no score is above 1, so no face is ever found; set it below 1")]
    ScoreThreshold(f32),
    /// A region of interest does not cover a pixel of the frame.
    #[error(
        "the region {},{},{},{} of roi covers no pixel of the frame of {width} x {height}, so nothing is found in it; \
         regions are x,y,width,height in pixels of the frame", roi.x, roi.y, roi.w, roi.h
    )]
    Roi {
        /// The region, in frame pixels.
        roi: Rect,
        /// Width of the frame.
        width: usize,
        /// Height of the frame.
        height: usize,
    },
    /// The frame, or each region of interest, is smaller than the smallest wanted face.
    #[error(
        "min-face-size is {min_face_size}, but the {} {width} x {height} pixels, so no face in it is large enough; set a \
         smaller size", if *.is_roi { "largest region of roi has" } else { "frame has" }
    )]
    MinFaceSize {
        /// Minimum length of a face's shorter side, in frame pixels.
        min_face_size: f32,
        /// Whether the size is that of a region of interest instead of the frame.
        is_roi: bool,
        /// Width of the frame or the region.
        width: usize,
        /// Height of the frame or the region.
        height: usize,
    },
    /// There are more tiles than pixels.
    #[error(
        "tiles is {cols}x{rows}, which is more than the pixels of an area of {width} x {height}; set fewer columns and rows"
    )]
    Tiles {
        /// Columns of tiles.
        cols: usize,
        /// Rows of tiles.
        rows: usize,
        /// Width of the frame or the region.
        width: usize,
        /// Height of the frame or the region.
        height: usize,
    },
    /// The model sees every view at a size at which it finds nothing.
    #[error(
        "input-size and scales show the model at most {width} x {height} pixels, and faces need at least about \
         {MIN_INPUT}, so no face is ever found; set a larger input-size or scale"
    )]
    Input {
        /// Width of the largest view in the model's input.
        width: usize,
        /// Height of the largest view in the model's input.
        height: usize,
    },
}

impl SettingsProblem {
    /// The problem of a minimum length of a face's shorter side, in frame pixels, with frames of
    /// `width` x `height`.
    pub fn of_min_face_size(min_face_size: f32, (width, height): (usize, usize)) -> Option<Self> {
        (min_face_size > width.min(height) as f32).then_some(Self::MinFaceSize {
            min_face_size,
            is_roi: false,
            width,
            height,
        })
    }
}

impl DetectionSettings {
    /// The settings with which a model can find nothing in frames of this size: each alone is a
    /// mistake.
    pub fn problems(&self, spec: &ModelSpec, frame: impl Into<FrameSize>) -> Vec<SettingsProblem> {
        let frame = frame.into();
        let FrameSize { width, height, .. } = frame;
        let mut problems = Vec::new();
        if self.score_threshold >= 1.0 {
            problems.push(SettingsProblem::ScoreThreshold(self.score_threshold));
        }
        let covers_pixel = |roi: &Rect| {
            roi.clipped(width as f32, height as f32).is_some_and(|inside| inside.w >= 1.0 && inside.h >= 1.0)
        };
        let outside = self.views.rois.iter().filter(|roi| !covers_pixel(roi));
        problems.extend(outside.map(|roi| SettingsProblem::Roi { roi: *roi, width, height }));
        let areas = views::regions((width, height), &self.views.rois);
        if let Some(largest) = areas.iter().max_by_key(|area| area.width.min(area.height))
            && let Some(problem) =
                SettingsProblem::of_min_face_size(self.min_face_size, (largest.width, largest.height))
        {
            problems.push(match problem {
                SettingsProblem::MinFaceSize { min_face_size, width, height, .. } => {
                    SettingsProblem::MinFaceSize { min_face_size, is_roi: !self.views.rois.is_empty(), width, height }
                }
                other => other,
            });
        }
        if let Tiles::Grid(cols, rows) = self.views.tiles
            && let Some(area) = areas.iter().find(|area| cols > area.width || rows > area.height)
        {
            problems.push(SettingsProblem::Tiles { cols, rows, width: area.width, height: area.height });
        }
        let inputs = views::plan(frame, spec, self.input_size, &self.views);
        let inputs = inputs.iter().map(|view| view.letterbox.content());
        if let Some((width, height)) = inputs.max_by_key(|(cols, rows)| cols.max(rows).to_owned())
            && width.max(height) < MIN_INPUT
        {
            problems.push(SettingsProblem::Input { width, height });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::parse_rois;
    use crate::geometry::InputSize;
    use crate::model::{FamilyMatch, Input, families};

    fn spec() -> ModelSpec {
        let input = Input { name: "input".to_owned(), channels: 3, fixed_size: None, dynamic_batch: true };
        let family = &families::RETINAFACE;
        let recognised = FamilyMatch { family, layout: family.layout(), outputs: vec![] };
        ModelSpec::for_detector(input, &[], recognised, false, family.normalization)
    }

    fn problems(change: impl FnOnce(&mut DetectionSettings)) -> Vec<String> {
        let mut settings = DetectionSettings::default();
        change(&mut settings);
        settings.problems(&spec(), (640, 360)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_setting_that_finds_nothing_in_the_frame_is_named_with_the_size() {
        let roi = |text: &'static str| {
            move |settings: &mut DetectionSettings| settings.views.rois = parse_rois(text).unwrap()
        };
        let tiles = |cols, rows| move |settings: &mut DetectionSettings| settings.views.tiles = Tiles::Grid(cols, rows);
        let min_face_size = |size| move |settings: &mut DetectionSettings| settings.min_face_size = size;
        let scales =
            |text: &'static str| move |settings: &mut DetectionSettings| settings.views.scales = text.parse().unwrap();
        let input_size = |size| move |settings: &mut DetectionSettings| settings.input_size = InputSize::from(size);
        let threshold = |value| move |settings: &mut DetectionSettings| settings.score_threshold = value;
        for (problems, parts) in [
            (problems(threshold(1.0)), &["score-threshold is 1"][..]),
            (problems(roi("640,0,10,10")), &["640,0,10,10", "640 x 360"]),
            (problems(roi("-10,0,10,10")), &["-10,0,10,10"]),
            // Less than a pixel of it is in the frame.
            (problems(roi("639.5,0,10,10")), &["639.5,0,10,10"]),
            (problems(roi("0,0,90,90;0,400,9,9;0,-9,9,9")), &["0,400,9,9", "0,-9,9,9"]),
            (problems(min_face_size(361.0)), &["min-face-size is 361, but the frame has 640 x 360"]),
            (
                problems(|settings| (roi("0,0,50,50;0,0,90,80")(settings), min_face_size(81.0)(settings)).0),
                &["the largest region of roi has 90 x 80"],
            ),
            (
                problems(|settings| (roi("0,0,30,30")(settings), tiles(31, 1)(settings)).0),
                &["tiles is 31x1, which is more than the pixels of an area of 30 x 30"],
            ),
            (problems(input_size(8)), &["at most 8 x 5 pixels"]),
            (problems(scales("0.01,0.015")), &["at most 10 x 5 pixels"]),
        ] {
            let text = problems.join("\n");
            assert!(parts.iter().all(|part| text.contains(part)), "{text}: {parts:?}");
            // One problem per line; none is told twice.
            assert_eq!(problems.len(), if text.contains("0,-9,9,9") { 2 } else { 1 }, "{text}");
        }
        for usable in [
            problems(|_| {}),
            problems(threshold(0.999)),
            problems(roi("630,350,100,100")),
            problems(min_face_size(360.0)),
            problems(tiles(64, 64)),
            problems(scales("0.01,0.5")),
            problems(input_size(16)),
        ] {
            assert_eq!(usable, [""; 0]);
        }
    }
}
