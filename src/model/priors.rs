//! Priors (anchor boxes): the boxes that the outputs of a detector are relative to.
//!
//! Sources: biubug6/Pytorch_Retinaface, `layers/functions/prior_box.py`; deepinsight/insightface,
//! `detection/retinaface/rcnn/processing/generate_anchor.py` and `model_zoo/scrfd.py`.

/// A square prior, in input pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// Centre, from the left edge.
    pub cx: f32,
    /// Centre, from the top edge.
    pub cy: f32,
    /// Width and height.
    pub size: f32,
}

/// A level of the feature pyramid: the stride of its cells and the anchors of each cell, in input
/// pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Distance between cells.
    pub stride: usize,
    /// Offset of the anchor centres from the top left corner of their cell, on both axes.
    pub centre_offset: f32,
    /// Width and height of each anchor of a cell.
    pub anchors: Vec<f32>,
}

impl Level {
    /// Number of columns and rows of cells for an input of `width` x `height`.
    pub fn cells(&self, width: usize, height: usize) -> (usize, usize) {
        (width.div_ceil(self.stride), height.div_ceil(self.stride))
    }

    /// Number of priors for an input of `width` x `height`.
    pub fn count(&self, width: usize, height: usize) -> usize {
        let (cols, rows) = self.cells(width, height);
        cols * rows * self.anchors.len()
    }

    /// The prior of anchor `anchor` in the cell at `col`, `row`.
    pub fn prior(&self, col: usize, row: usize, anchor: usize) -> Prior {
        let centre = |cell: usize| (cell * self.stride) as f32 + self.centre_offset;
        Prior { cx: centre(col), cy: centre(row), size: self.anchors[anchor] }
    }
}

/// Number of priors of all levels for an input of `width` x `height` pixels.
pub(crate) fn count(levels: &[Level], width: usize, height: usize) -> usize {
    levels.iter().map(|level| level.count(width, height)).sum()
}

/// The priors for an input of `width` x `height` pixels, ordered by level, row, column and anchor.
pub(crate) fn generate(levels: &[Level], width: usize, height: usize) -> Vec<Prior> {
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

    /// The levels of biubug6's RetinaFace.
    fn levels() -> Vec<Level> {
        let level = |stride: usize, anchors: [f32; 2]| Level {
            stride,
            centre_offset: stride as f32 / 2.0,
            anchors: anchors.to_vec(),
        };
        vec![level(8, [16.0, 32.0]), level(16, [64.0, 128.0]), level(32, [256.0, 512.0])]
    }

    #[test]
    fn an_input_of_640_x_640_has_16800_priors() {
        assert_eq!(generate(&levels(), 640, 640).len(), 16_800);
        assert_eq!(count(&levels(), 640, 640), 16_800);
    }

    #[test]
    fn the_number_of_cells_is_rounded_up() {
        // 33 x 9: 5 x 2 cells at stride 8, 3 x 1 at 16, 2 x 1 at 32, with two priors each.
        assert_eq!(generate(&levels(), 33, 9).len(), 2 * (10 + 3 + 2));
    }

    #[test]
    fn priors_are_ordered_by_level_row_column_and_anchor() {
        let priors = generate(&levels(), 64, 64);
        assert_eq!(priors[0], Prior { cx: 4.0, cy: 4.0, size: 16.0 });
        assert_eq!(priors[1], Prior { cx: 4.0, cy: 4.0, size: 32.0 });
        assert_eq!(priors[2], Prior { cx: 12.0, cy: 4.0, size: 16.0 });
        assert_eq!(priors[2 * 64], Prior { cx: 8.0, cy: 8.0, size: 64.0 });
    }
}
