//! The layout of a detector's outputs: which tensors exist, and how their values encode scores,
//! boxes and landmarks.
//!
//! [`Layout`] describes all known detector families; see [`super::families`]. The decoders on the
//! CPU and in the device graph use this description only, and do not depend on a family.

use std::fmt;

use super::input::Normalization;
use super::priors::{self, Level, Prior};

/// Maximum number of heads (output tensors) of a layout.
pub(crate) const MAX_HEADS: usize = 64;

/// Number of values of a candidate that the device graph decoded: score, log-odds, and box (x, y, w,
/// h) in input pixels.
pub(crate) const CANDIDATE_LEN: usize = 6;
/// The same with five landmarks (x, y).
pub(crate) const CANDIDATE_LEN_WITH_LANDMARKS: usize = 16;

/// The arrangement of levels, cells and anchors in the output tensors, without the batch dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// One tensor per role, of shape `[anchors of all levels, channels]`.
    Concatenated,
    /// One tensor per role and level, of shape `[anchors of the level, channels]`.
    Rows,
    /// One tensor per role and level, of shape `[anchors per cell * channels, rows, columns]`.
    /// Score tensors contain the background planes of all anchors, followed by the face planes.
    Nchw,
}

/// How scores are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Two values per anchor: background and face.
    Pairs,
    /// One value per anchor.
    Single,
    /// One value per anchor in each of two tensors, class and objectness. The score is their
    /// geometric mean.
    Product,
}

/// How the four values of a box are encoded. The unit is the size of the prior times
/// [`Variances::centre`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boxes {
    /// Offset of the centre in units, and logarithm of the size relative to the prior.
    CentreSize,
    /// As [`Boxes::CentreSize`], with a size that includes the last pixel: the box is one pixel
    /// narrower and lower than the encoded size.
    CentreSizeInclusive,
    /// Distances from the centre of the prior to the left, top, right and bottom edge, in units.
    Distances,
}

/// Factors of the output values, by which the training divides its targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variances {
    /// Factor of centre offsets and of distances.
    pub centre: f32,
    /// Factor of sizes, applied before the exponential.
    pub size: f32,
    /// Factor of landmark offsets.
    pub point: f32,
}

/// What a tensor contains for each anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The score.
    Score,
    /// The box.
    Box,
    /// The five landmarks.
    Landmarks,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Score => "scores",
            Self::Box => "boxes",
            Self::Landmarks => "landmarks",
        })
    }
}

/// An output tensor of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What the tensor contains.
    pub role: Role,
    /// Index of its level; `None` if it contains all levels.
    pub level: Option<usize>,
}

/// The layout of a detector's outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Arrangement of the values in the outputs.
    pub arrangement: Arrangement,
    /// Encoding of scores.
    pub scores: Scores,
    /// Whether scores are logits, so that the decoder applies a softmax or sigmoid.
    pub logits: bool,
    /// Encoding of boxes.
    pub boxes: Boxes,
    /// Whether the model outputs landmarks.
    pub landmarks: bool,
    /// Levels of the feature pyramid.
    pub levels: Vec<Level>,
    /// Factors of the output values.
    pub variances: Variances,
}

impl Layout {
    /// The output tensors: scores, boxes, landmarks; each role ordered by level.
    pub fn heads(&self) -> Vec<Head> {
        let scores: &[Role] = match self.scores {
            Scores::Pairs | Scores::Single => &[Role::Score],
            Scores::Product => &[Role::Score, Role::Score],
        };
        let landmarks: &[Role] = if self.landmarks { &[Role::Landmarks] } else { &[] };
        let roles = [scores, &[Role::Box], landmarks].concat();
        let heads_of_role = |role: Role| match self.arrangement {
            Arrangement::Concatenated => vec![Head { role, level: None }],
            _ => (0..self.levels.len()).map(|level| Head { role, level: Some(level) }).collect(),
        };
        roles.into_iter().flat_map(heads_of_role).collect()
    }

    /// Number of values of a role per anchor.
    pub fn channels(&self, role: Role) -> usize {
        match (role, self.scores) {
            (Role::Score, Scores::Pairs) => 2,
            (Role::Score, Scores::Single | Scores::Product) => 1,
            (Role::Box, _) => 4,
            (Role::Landmarks, _) => 10,
        }
    }

    /// Shape of a head's tensor for an input of `width` x `height`, without the batch dimension.
    pub fn shape(&self, head: Head, width: usize, height: usize) -> Vec<usize> {
        let channels = self.channels(head.role);
        match head.level.map(|level| &self.levels[level]) {
            None => vec![priors::count(&self.levels, width, height), channels],
            Some(level) => {
                let (cols, rows) = level.cells(width, height);
                match self.arrangement {
                    Arrangement::Nchw => vec![level.anchors.len() * channels, rows, cols],
                    _ => vec![level.anchors.len() * rows * cols, channels],
                }
            }
        }
    }

    /// The priors for an input of `width` x `height`, ordered by level, row, column and anchor.
    pub fn priors(&self, width: usize, height: usize) -> Vec<Prior> {
        priors::generate(&self.levels, width, height)
    }
}

/// The position of anchor centres in their cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AnchorCentre {
    /// The centre of the cell.
    CellCentre,
    /// This number of pixels from the left and top edge of the cell.
    Pixels(f32),
}

impl AnchorCentre {
    /// The offset from the top left corner of a cell, in pixels, for cells of this stride.
    pub fn offset(self, stride: usize) -> f32 {
        match self {
            Self::CellCentre => 0.5 * stride as f32,
            Self::Pixels(pixels) => pixels,
        }
    }
}

/// The description of a detector family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Common name of the family.
    pub name: &'static str,
    /// The outputs by which the family is recognised, for users.
    pub signature: &'static str,
    /// Arrangement of the values in the outputs.
    pub arrangement: Arrangement,
    /// Encoding of scores.
    pub scores: Scores,
    /// Encoding of boxes.
    pub boxes: Boxes,
    /// Whether the models output landmarks.
    pub landmarks: bool,
    /// Stride of each level, with the sizes of the anchors of a cell in input pixels.
    pub levels: &'static [(usize, &'static [f32])],
    /// Position of the anchor centres.
    pub anchor_centre: AnchorCentre,
    /// Factors of the output values.
    pub variances: Variances,
    /// Normalization used in training.
    pub normalization: Normalization,
    /// Width and height of an input must be multiples of this.
    pub size_multiple: usize,
}

impl Family {
    /// The layout of the outputs.
    pub fn layout(&self) -> Layout {
        let level = |(stride, anchors): &(usize, &[f32])| Level {
            stride: *stride,
            centre_offset: self.anchor_centre.offset(*stride),
            anchors: anchors.to_vec(),
        };
        Layout {
            arrangement: self.arrangement,
            scores: self.scores,
            logits: false,
            boxes: self.boxes,
            landmarks: self.landmarks,
            levels: self.levels.iter().map(level).collect(),
            variances: self.variances,
        }
    }
}
