//! Optimal assignment of sparse pairs.

use std::collections::BTreeMap;

use anyhow::ensure;
use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;

/// Weights are rounded to multiples of 1 / SCALE, the spacing of f64 below 1. Their sums stay far
/// below the range of i128.
const SCALE: f64 = (1_u64 << 53) as f64;
/// Maximum weight. The largest are those of CLEAR with at most 1001 and the number of frames of a
/// video.
const MAX_WEIGHT: f64 = (1_u64 << 40) as f64;
/// Maximum number of cells of one weight matrix: 256 MiB.
const MAX_CELLS: usize = 1 << 24;

/// A row and a column that can be assigned to each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) row: usize,
    pub(super) column: usize,
    /// At least 0. A pair of weight 0 is as good as none and is not assigned.
    pub(super) weight: f64,
}

/// The indices of the pairs with the largest sum of weights in which no row and no column occurs
/// twice, ascending. Each pair of a row and a column occurs at most once in `pairs`.
///
/// Independent groups of pairs are solved on their own, so that the time depends on the largest
/// group and not on the number of boxes. Of equally good assignments, any is returned.
pub(super) fn assign(pairs: &[Pair]) -> anyhow::Result<Vec<usize>> {
    let mut chosen = Vec::new();
    for group in groups(pairs) {
        match group[..] {
            [single] => chosen.extend((scaled(pairs[single].weight) > 0).then_some(single)),
            _ => assign_group(pairs, &group, &mut chosen)?,
        }
    }
    chosen.sort_unstable();
    Ok(chosen)
}

fn scaled(weight: f64) -> i128 {
    (weight.clamp(0.0, MAX_WEIGHT) * SCALE) as i128
}

/// Divides the indices of pairs into groups that share neither rows nor columns.
fn groups(pairs: &[Pair]) -> Vec<Vec<usize>> {
    fn root(parents: &mut [usize], mut index: usize) -> usize {
        while parents[index] != index {
            parents[index] = parents[parents[index]];
            index = parents[index];
        }
        index
    }
    let mut parents = (0..pairs.len()).collect::<Vec<_>>();
    let (mut rows, mut columns) = (BTreeMap::new(), BTreeMap::new());
    for (index, pair) in pairs.iter().enumerate() {
        for first in [*rows.entry(pair.row).or_insert(index), *columns.entry(pair.column).or_insert(index)] {
            let (first, own) = (root(&mut parents, first), root(&mut parents, index));
            parents[own] = first;
        }
    }
    let mut groups = BTreeMap::<usize, Vec<usize>>::new();
    for index in 0..pairs.len() {
        groups.entry(root(&mut parents, index)).or_default().push(index);
    }
    groups.into_values().collect()
}

fn assign_group(pairs: &[Pair], group: &[usize], chosen: &mut Vec<usize>) -> anyhow::Result<()> {
    let positions = |key: fn(&Pair) -> usize| {
        let mut keys = group.iter().map(|index| key(&pairs[*index])).collect::<Vec<_>>();
        keys.sort_unstable();
        keys.dedup();
        keys
    };
    let (rows, columns) = (positions(|pair| pair.row), positions(|pair| pair.column));
    ensure!(
        rows.len().saturating_mul(columns.len()) <= MAX_CELLS,
        "a group of {} true and {} predicted boxes or tracks overlaps: too many to assign; evaluate parts of the video as \
         sequences of their own",
        rows.len(),
        columns.len()
    );
    // The solver needs at least as many columns as rows.
    let is_transposed = rows.len() > columns.len();
    let (height, width) = if is_transposed { (columns.len(), rows.len()) } else { (rows.len(), columns.len()) };
    let mut weights = Matrix::new(height, width, 0);
    let mut cells = BTreeMap::new();
    for index in group {
        let pair = &pairs[*index];
        // Both exist, because the positions come from the same pairs.
        let row = rows.partition_point(|row| *row < pair.row);
        let column = columns.partition_point(|column| *column < pair.column);
        let cell = if is_transposed { (column, row) } else { (row, column) };
        weights[cell] = scaled(pair.weight);
        cells.insert(cell, *index);
    }
    let (_, assigned) = kuhn_munkres(&weights);
    let cells = assigned.into_iter().enumerate().filter(|cell| weights[*cell] > 0).filter_map(|cell| cells.get(&cell));
    chosen.extend(cells);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn pairs(weights: &[(usize, usize, f64)]) -> Vec<Pair> {
        weights.iter().map(|&(row, column, weight)| Pair { row, column, weight }).collect()
    }

    #[test]
    fn the_sum_is_maximal_not_each_pair() {
        let two = pairs(&[(0, 0, 0.9), (0, 1, 0.8), (1, 0, 0.8)]);
        assert_eq!(assign(&two).unwrap(), [1, 2]);
        // More rows than columns, and pairs without a weight.
        let tall = pairs(&[(5, 3, 0.5), (7, 3, 0.75), (9, 3, 0.25), (9, 4, 0.0)]);
        assert_eq!(assign(&tall).unwrap(), [1]);
        assert_eq!(assign(&[]).unwrap(), [0; 0]);
        // Differences that a rounding to fewer bits would lose.
        let close = pairs(&[(0, 0, 1000.5), (0, 1, 1000.5 + 1e-12), (1, 0, 0.25), (1, 1, 0.25)]);
        assert_eq!(assign(&close).unwrap(), [1, 2]);
    }

    /// The largest sum, by trying all assignments.
    fn largest(weights: &[Vec<u8>], taken: &mut Vec<bool>) -> u32 {
        let Some((row, rest)) = weights.split_first() else { return 0 };
        let mut best = largest(rest, taken);
        for (column, weight) in row.iter().enumerate() {
            if !taken[column] {
                taken[column] = true;
                best = best.max(u32::from(*weight) + largest(rest, taken));
                taken[column] = false;
            }
        }
        best
    }

    proptest! {
        #[test]
        fn the_sum_equals_that_of_a_search(weights in (1..6_usize, 1..6_usize).prop_flat_map(|(rows, columns)| {
            vec(vec(prop_oneof![Just(0_u8), 0..20_u8], columns), rows)
        })) {
            let all = weights.iter().enumerate().flat_map(|(row, weights)| {
                let pair = move |(column, weight): (usize, &u8)| Pair { row, column, weight: f64::from(*weight) };
                weights.iter().enumerate().filter(|(_, weight)| **weight > 0).map(pair)
            });
            let all = all.collect::<Vec<_>>();
            let chosen = assign(&all).unwrap();
            let sum = chosen.iter().map(|index| all[*index].weight).sum::<f64>();
            prop_assert_eq!(sum, f64::from(largest(&weights, &mut vec![false; weights[0].len()])));
            for key in [|pair: &Pair| pair.row, |pair: &Pair| pair.column] {
                let mut keys = chosen.iter().map(|index| key(&all[*index])).collect::<Vec<_>>();
                keys.sort_unstable();
                let count = keys.len();
                keys.dedup();
                prop_assert_eq!(keys.len(), count);
            }
        }
    }
}
