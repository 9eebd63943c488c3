//! What a detector's outputs mean: which tensors there are, and how their numbers become scores, boxes and landmarks.
//!
//! All families that are known here are described by the same few words, see [`crate::families`]; decoding
//! ([`crate::decode`], [`crate::device`]) reads the description and knows no family.

use std::fmt;

use crate::priors::{self, Level, Prior};

/// How the numbers of the levels and cells lie in the outputs. Sides are given without the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// One tensor `[anchors of all levels, numbers]` a role.
    Together,
    /// One tensor `[anchors of the level, numbers]` a role and level.
    Rows,
    /// One tensor `[anchors of a cell * numbers, rows, columns]` a role and level. Scores come as the background of
    /// each anchor, then the face of each.
    Planes,
}

/// What says how sure the model is of a face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Two numbers an anchor: background, face.
    Pairs,
    /// One number an anchor.
    Single,
    /// One number an anchor in each of two tensors, whose geometric mean is the score: class and objectness.
    Product,
}

/// What the four numbers of a box are, with `unit` for the prior's side times the variance of centres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boxes {
    /// The centre's offset in units; the logarithm of the sides over the prior's.
    CentreSize,
    /// The same in whole pixels whose last one is part of the box: it is one pixel less wide than it counts.
    CentreSizeInclusive,
    /// From the prior's centre to the left, top, right and bottom edge, in units.
    Distances,
}

/// Factors that the outputs' numbers are multiplied by: what training divided them by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variances {
    /// Of centres, or of distances.
    pub centre: f32,
    /// Of sizes, within the exponential.
    pub size: f32,
    /// Of landmarks.
    pub point: f32,
}

/// What a tensor tells of each anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// How sure the model is.
    Score,
    /// The box.
    Box,
    /// The five points.
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

/// One tensor of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it tells.
    pub role: Role,
    /// Index of its level; `None` for all of them.
    pub level: Option<usize>,
}

/// What a detector's outputs mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// How numbers lie in the outputs.
    pub arrangement: Arrangement,
    /// What scores are.
    pub scores: Scores,
    /// Whether scores are what comes before a softmax or sigmoid, which is then left to us.
    pub logits: bool,
    /// What boxes are.
    pub boxes: Boxes,
    /// Whether there are landmarks.
    pub landmarks: bool,
    /// Strides and anchors.
    pub levels: Vec<Level>,
    /// Factors of the numbers.
    pub variances: Variances,
}

impl Layout {
    /// The tensors: all scores before all boxes before all landmarks, each level by level.
    pub fn heads(&self) -> Vec<Head> {
        let scores: &[Role] = match self.scores {
            Scores::Pairs | Scores::Single => &[Role::Score],
            Scores::Product => &[Role::Score, Role::Score],
        };
        let landmarks: &[Role] = if self.landmarks { &[Role::Landmarks] } else { &[] };
        let roles = [scores, &[Role::Box], landmarks].concat();
        let of_levels = |role: Role| match self.arrangement {
            Arrangement::Together => vec![Head { role, level: None }],
            _ => (0..self.levels.len()).map(|level| Head { role, level: Some(level) }).collect(),
        };
        roles.into_iter().flat_map(of_levels).collect()
    }

    /// Numbers that a role has for each anchor.
    pub fn numbers(&self, role: Role) -> usize {
        match (role, self.scores) {
            (Role::Score, Scores::Pairs) => 2,
            (Role::Score, Scores::Single | Scores::Product) => 1,
            (Role::Box, _) => 4,
            (Role::Landmarks, _) => 10,
        }
    }

    /// Sides of a head's tensor for an input of `width` x `height`, without the batch.
    pub fn sides(&self, head: Head, width: usize, height: usize) -> Vec<usize> {
        let numbers = self.numbers(head.role);
        match head.level.map(|level| &self.levels[level]) {
            None => vec![priors::count(&self.levels, width, height), numbers],
            Some(level) => {
                let (cols, rows) = level.cells(width, height);
                match self.arrangement {
                    Arrangement::Planes => vec![level.anchors.len() * numbers, rows, cols],
                    _ => vec![level.anchors.len() * rows * cols, numbers],
                }
            }
        }
    }

    /// The anchors of an input of `width` x `height`.
    pub fn priors(&self, width: usize, height: usize) -> Vec<Prior> {
        priors::generate(&self.levels, width, height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families;

    #[test]
    fn a_head_a_role_and_level_with_the_sides_of_its_arrangement() {
        let layout = families::INSIGHTFACE.layout();
        let heads = layout.heads();
        assert_eq!(heads.len(), 9);
        assert_eq!(heads[0], Head { role: Role::Score, level: Some(0) });
        // 70 x 50 at stride 8, cells rounded up; two anchors.
        assert_eq!(layout.sides(heads[0], 70, 50), [4, 7, 9]);
        assert_eq!(layout.sides(heads[3], 70, 50), [8, 7, 9]);
        assert_eq!(layout.sides(heads[8], 70, 50), [20, 2, 3]);
        let layout = families::RETINAFACE.layout();
        let sides = layout.heads().into_iter().map(|head| layout.sides(head, 640, 640)).collect::<Vec<_>>();
        assert_eq!(sides, [[16_800, 2], [16_800, 4], [16_800, 10]]);
        let layout = families::YUNET.layout();
        assert_eq!(layout.heads().len(), 12);
        assert_eq!(layout.sides(layout.heads()[4], 640, 640), [1600, 1]);
    }
}
