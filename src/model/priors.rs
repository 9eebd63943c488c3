//! Priors (anchors): the boxes that the heads' numbers are relative to.
//!
//! Sources: biubug6/Pytorch_Retinaface, `layers/functions/prior_box.py`; deepinsight/insightface,
//! `detection/retinaface/rcnn/processing/generate_anchor.py` and `model_zoo/scrfd.py`.

/// One prior, in input pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// Centre, from the left.
    pub cx: f32,
    /// Centre, from the top.
    pub cy: f32,
    /// Side of the square.
    pub size: f32,
}

/// One level of the pyramid: a stride, and the priors at each of its cells, in input pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Distance between cells.
    pub stride: usize,
    /// Distance of the priors' centre from the left and top edge of their cell.
    pub centre: f32,
    /// Sides of the priors of a cell.
    pub anchors: Vec<f32>,
}

impl Level {
    /// Columns and rows of cells that cover an input of `width` x `height`.
    pub fn cells(&self, width: usize, height: usize) -> (usize, usize) {
        (width.div_ceil(self.stride), height.div_ceil(self.stride))
    }

    /// How many priors an input of `width` x `height` has at this level.
    pub fn count(&self, width: usize, height: usize) -> usize {
        let (cols, rows) = self.cells(width, height);
        cols * rows * self.anchors.len()
    }

    /// Prior `anchor` of the cell at `col`, `row`.
    pub fn prior(&self, col: usize, row: usize, anchor: usize) -> Prior {
        let centre = |cell: usize| (cell * self.stride) as f32 + self.centre;
        Prior { cx: centre(col), cy: centre(row), size: self.anchors[anchor] }
    }
}

/// How many priors an input of `width` x `height` pixels has.
pub fn count(levels: &[Level], width: usize, height: usize) -> usize {
    levels.iter().map(|level| level.count(width, height)).sum()
}

/// The priors of an input of `width` x `height` pixels: level by level, row by row, cell by cell, in the anchors' order.
pub fn generate(levels: &[Level], width: usize, height: usize) -> Vec<Prior> {
    let mut priors = Vec::with_capacity(count(levels, width, height));
    for level in levels {
        let (cols, rows) = level.cells(width, height);
        for row in 0..rows {
            for col in 0..cols {
                priors.extend((0..level.anchors.len()).map(|anchor| level.prior(col, row, anchor)));
            }
        }
    }
    priors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families;

    fn levels() -> Vec<Level> {
        families::RETINAFACE.layout().levels
    }

    #[test]
    fn a_640_square_has_16800_priors() {
        assert_eq!(generate(&levels(), 640, 640).len(), 16_800);
        assert_eq!(count(&levels(), 640, 640), 16_800);
    }

    #[test]
    fn odd_sizes_round_their_cells_up() {
        // 33 x 9: 5x2 cells at 8, 3x1 at 16, 2x1 at 32, two priors each.
        assert_eq!(generate(&levels(), 33, 9).len(), 2 * (10 + 3 + 2));
    }

    #[test]
    fn the_first_priors_are_the_left_top_cell_small_before_large() {
        let priors = generate(&levels(), 64, 64);
        assert_eq!(priors[0], Prior { cx: 4.0, cy: 4.0, size: 16.0 });
        assert_eq!(priors[1], Prior { cx: 4.0, cy: 4.0, size: 32.0 });
        assert_eq!(priors[2], Prior { cx: 12.0, cy: 4.0, size: 16.0 });
        assert_eq!(priors[2 * 64], Prior { cx: 8.0, cy: 8.0, size: 64.0 });
    }

    #[test]
    fn insightface_counts_its_anchors_from_the_middle_of_sixteen_pixels() {
        // generate_anchors(base_size=16, scales=[2, 1]) at stride 8: [-8, -8, 23, 23] and [0, 0, 15, 15].
        let priors = generate(&families::INSIGHTFACE.layout().levels, 64, 64);
        assert_eq!(priors[0], Prior { cx: 7.5, cy: 7.5, size: 32.0 });
        assert_eq!(priors[1], Prior { cx: 7.5, cy: 7.5, size: 16.0 });
        assert_eq!(priors[2], Prior { cx: 15.5, cy: 7.5, size: 32.0 });
    }
}
