//! Priors (anchors): the boxes that the heads' numbers are relative to.
//!
//! Source: biubug6/Pytorch_Retinaface, `layers/functions/prior_box.py`.

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

/// One level of the pyramid: a stride and the sides of the squares at each of its cells, in input pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Distance between cells.
    pub stride: usize,
    /// Sides of the priors of a cell.
    pub sizes: [usize; 2],
}

/// The three levels of RetinaFace as biubug6 trained it.
pub const LEVELS: [Level; 3] = [
    Level { stride: 8, sizes: [16, 32] },
    Level { stride: 16, sizes: [64, 128] },
    Level { stride: 32, sizes: [256, 512] },
];

/// How many priors an input of `width` x `height` pixels has.
pub fn count(width: usize, height: usize) -> usize {
    LEVELS.iter().map(|level| width.div_ceil(level.stride) * height.div_ceil(level.stride) * level.sizes.len()).sum()
}

/// The priors of an input of `width` x `height` pixels, in the order of the model's outputs: level by
/// level, row by row, cell by cell, small before large.
pub fn generate(width: usize, height: usize) -> Vec<Prior> {
    let mut priors = Vec::with_capacity(count(width, height));
    for Level { stride, sizes } in LEVELS {
        for row in 0..height.div_ceil(stride) {
            for col in 0..width.div_ceil(stride) {
                let centre = |cell: usize| (cell as f32 + 0.5) * stride as f32;
                priors.extend(sizes.map(|size| Prior { cx: centre(col), cy: centre(row), size: size as f32 }));
            }
        }
    }
    priors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_640_square_has_16800_priors() {
        assert_eq!(generate(640, 640).len(), 16_800);
        assert_eq!(count(640, 640), 16_800);
    }

    #[test]
    fn odd_sizes_round_their_cells_up() {
        // 33 x 9: 5x2 cells at 8, 3x1 at 16, 2x1 at 32, two priors each.
        assert_eq!(generate(33, 9).len(), 2 * (10 + 3 + 2));
    }

    #[test]
    fn the_first_priors_are_the_left_top_cell_small_before_large() {
        let priors = generate(64, 64);
        assert_eq!(priors[0], Prior { cx: 4.0, cy: 4.0, size: 16.0 });
        assert_eq!(priors[1], Prior { cx: 4.0, cy: 4.0, size: 32.0 });
        assert_eq!(priors[2], Prior { cx: 12.0, cy: 4.0, size: 16.0 });
        assert_eq!(priors[2 * 64], Prior { cx: 8.0, cy: 8.0, size: 64.0 });
    }
}
