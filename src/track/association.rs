//! Which detection belongs to which track.
//!
//! The order is that of ByteTrack (Zhang et al. 2022): detections with a high score are assigned
//! first, to all tracks; then those with a low score, to tracks that are not lost. A third step assigns
//! the remaining detections with a high score by distance, for faces that moved by more than their
//! width. Each step is an optimal assignment (Kuhn and Munkres).

use pathfinding::prelude::{Matrix, kuhn_munkres_min};

use super::motion::Predicted;
use crate::geometry::{Face, Landmarks, Point, Rect, iou};

/// Smallest intersection over union of a prediction and a detection of a high score.
const MIN_IOU: f32 = 0.2;
/// The same for a detection of a low score, which must fit better.
const MIN_IOU_LOW: f32 = 0.4;
/// Largest ratio of the sizes of a prediction and a detection of one face.
const MAX_SIZE_RATIO: f32 = 1.8;
/// Largest mean distance of predicted and detected landmarks, in sizes of the face.
const MAX_LANDMARK_DISTANCE: f32 = 0.7;
/// Weight of the distance of the landmarks against the intersection over union.
const LANDMARK_WEIGHT: f32 = 0.5;
/// Largest distance of the centres in the third step, in standard deviations of the prediction.
const MAX_DEVIATIONS: f32 = 3.0;
/// Largest distance of the centres in the third step, in sizes of the face.
const MAX_DISTANCE: f32 = 3.0;
/// Smallest intersection over union of a detection and a prediction moved by the camera shift.
const MIN_SHIFTED_IOU: f32 = 0.5;
/// Integer cost of a pair that is not allowed. Costs of allowed pairs are below 10 million, and at most
/// [`super::MAX_TRACKS`] pairs are summed.
const FORBIDDEN: i64 = 1_000_000_000_000;

/// A track that takes part in the association.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) predicted: Predicted,
    /// It was matched at the latest inference.
    pub(super) is_active: bool,
}

/// The step of the association.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    High,
    Low,
    Distance,
}

/// The faces that belong to the tracks: for each track the index of its face.
pub(super) fn associate(tracks: &[Expected], faces: &[&Face], high_score: f32) -> Vec<Option<usize>> {
    let mut matched = vec![None; tracks.len()];
    let mut is_taken = vec![false; faces.len()];
    for step in [Step::High, Step::Low, Step::Distance] {
        let free_tracks = (0..tracks.len())
            .filter(|track| matched[*track].is_none() && (step != Step::Low || tracks[*track].is_active))
            .collect::<Vec<_>>();
        let free_faces = (0..faces.len())
            .filter(|face| !is_taken[*face] && (faces[*face].score >= high_score) == (step != Step::Low))
            .collect::<Vec<_>>();
        let cost = |track: usize, face: usize| cost(step, &tracks[free_tracks[track]], faces[free_faces[face]]);
        for (track, face) in assign(free_tracks.len(), free_faces.len(), cost) {
            matched[free_tracks[track]] = Some(free_faces[face]);
            is_taken[free_faces[face]] = true;
        }
    }
    matched
}

/// The cost of joining a track and a face, at least 0; `None` if they cannot be the same.
fn cost(step: Step, track: &Expected, face: &Face) -> Option<f32> {
    let Predicted { rect, landmarks, uncertainty } = track.predicted;
    let ratio = (size(rect) / size(face.rect)).max(size(face.rect) / size(rect));
    if ratio > MAX_SIZE_RATIO {
        return None;
    }
    if step == Step::Distance {
        let (dx, dy) = centre_distance(rect, face.rect);
        let pixels = dx.hypot(dy);
        let size = size(rect);
        let is_near = pixels <= (MAX_DEVIATIONS * uncertainty).min(MAX_DISTANCE * size);
        return is_near.then_some(pixels / size + ratio - 1.0);
    }
    let overlap = iou(rect, face.rect);
    let limit = if step == Step::Low { MIN_IOU_LOW } else { MIN_IOU };
    let distance = landmarks.zip(face.landmarks).map(|(a, b)| landmark_distance(&a, &b, face.rect)).unwrap_or(0.0);
    let is_near = overlap >= limit && distance <= MAX_LANDMARK_DISTANCE;
    is_near.then_some(1.0 - overlap + LANDMARK_WEIGHT * distance)
}

/// The pairs of the assignment with the most pairs and, of those, the lowest sum of costs.
fn assign(rows: usize, columns: usize, cost: impl Fn(usize, usize) -> Option<f32>) -> Vec<(usize, usize)> {
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    // The algorithm needs at least as many columns as rows.
    let is_transposed = rows > columns;
    let (short, long) = (rows.min(columns), rows.max(columns));
    let integer = |cost: Option<f32>| cost.map_or(FORBIDDEN, |cost| (f64::from(cost) * 1e6) as i64);
    let weight = |at: (usize, usize)| if is_transposed { integer(cost(at.1, at.0)) } else { integer(cost(at.0, at.1)) };
    let weights = Matrix::from_fn(short, long, weight);
    let (_, assigned) = kuhn_munkres_min(&weights);
    let pairs = assigned.into_iter().enumerate().filter(|at| weights[*at] < FORBIDDEN);
    pairs.map(|(row, column)| if is_transposed { (column, row) } else { (row, column) }).collect()
}

/// The shift of the camera in pixels, if one shift explains where all active tracks are now, and no
/// shift does not.
///
/// Every detection of about the size of the largest face is tried as the place to which that face was
/// shifted. The others must then be found where the same shift puts them, except those that leave the
/// frame. One face alone shows no shift: it moved.
pub(super) fn camera_shift(tracks: &[Expected], faces: &[&Face], frame: (f32, f32)) -> Option<Point> {
    let active = tracks.iter().filter(|track| track.is_active).map(|track| track.predicted.rect).collect::<Vec<_>>();
    let anchor = active.iter().copied().max_by(|a, b| a.area().total_cmp(&b.area()))?;
    if active.len() < 2 || explained(&active, faces, Point::default(), frame, MIN_IOU).is_some() {
        return None;
    }
    // A face that is where it was expected speaks against a shift.
    let is_still = |track: &&Rect| faces.iter().any(|face| iou(**track, face.rect) >= MIN_SHIFTED_IOU);
    if 2 * active.iter().filter(is_still).count() >= active.len() {
        return None;
    }
    let shifts = faces.iter().filter(|face| {
        let ratio = size(face.rect) / size(anchor);
        (1.0 / MAX_SIZE_RATIO..MAX_SIZE_RATIO).contains(&ratio)
    });
    let shifts = shifts.map(|face| {
        let (dx, dy) = centre_distance(anchor, face.rect);
        Point::new(dx, dy)
    });
    let scored = shifts.filter_map(|by| Some((explained(&active, faces, by, frame, MIN_SHIFTED_IOU)?, by)));
    scored.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, by)| by)
}

/// How well a shift explains the detections: the sum of the overlaps. `None` if a track in the frame
/// is not found, or if fewer than two are.
fn explained(tracks: &[Rect], faces: &[&Face], by: Point, frame: (f32, f32), min_iou: f32) -> Option<f32> {
    let (mut sum, mut count) = (0.0, 0);
    for track in tracks {
        let moved = Rect::new(track.x + by.x, track.y + by.y, track.w, track.h);
        let visible = moved.clipped(frame.0, frame.1).map_or(0.0, Rect::area);
        let best = faces.iter().map(|face| iou(moved, face.rect)).fold(0.0, f32::max);
        if best >= min_iou {
            sum += best;
            count += 1;
        } else if visible > 0.5 * track.area() {
            return None;
        }
    }
    (count >= 2).then_some(sum)
}

/// The size of a box: the side of a square of the same area.
pub(super) fn size(rect: Rect) -> f32 {
    (rect.w * rect.h).sqrt()
}

/// From the centre of a box to that of another one.
fn centre_distance(from: Rect, to: Rect) -> (f32, f32) {
    (to.x - from.x + (to.w - from.w) / 2.0, to.y - from.y + (to.h - from.h) / 2.0)
}

/// Mean distance of the landmarks, in sizes of the face. Each axis counts in sides of the box, so that
/// pixels need not be square.
fn landmark_distance(a: &Landmarks, b: &Landmarks, rect: Rect) -> f32 {
    a.iter().zip(b).map(|(a, b)| ((a.x - b.x) / rect.w).hypot((a.y - b.y) / rect.h)).sum::<f32>() / 5.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(score: f32, x: f32, y: f32, side: f32) -> Face {
        Face { score, rect: Rect::new(x, y, side, side), ..Face::default() }
    }

    fn expected(x: f32, y: f32, side: f32) -> Expected {
        let predicted = Predicted { rect: Rect::new(x, y, side, side), landmarks: None, uncertainty: side };
        Expected { predicted, is_active: true }
    }

    fn matches(tracks: &[Expected], faces: &[Face]) -> Vec<Option<usize>> {
        associate(tracks, &faces.iter().collect::<Vec<_>>(), 0.5)
    }

    #[test]
    fn the_assignment_is_the_best_for_all_and_not_for_the_first() {
        // The first track overlaps the first face most, but the second one has no other face.
        let tracks = [expected(10.0, 0.0, 40.0), expected(0.0, 0.0, 40.0)];
        let faces = [face(0.9, 8.0, 0.0, 40.0), face(0.9, 30.0, 0.0, 40.0)];
        assert_eq!(matches(&tracks, &faces), [Some(1), Some(0)]);
    }

    #[test]
    fn low_scores_choose_after_high_scores_and_must_fit_better() {
        let tracks = [expected(0.0, 0.0, 40.0)];
        let low = face(0.2, 0.0, 0.0, 40.0);
        assert_eq!(matches(&tracks, &[low.clone(), face(0.9, 10.0, 0.0, 40.0)]), [Some(1)]);
        assert_eq!(matches(&tracks, &[low]), [Some(0)]);
        assert_eq!(matches(&tracks, &[face(0.2, 22.0, 0.0, 40.0)]), [None]);
        let lost = Expected { is_active: false, ..tracks[0] };
        assert_eq!(matches(&[lost], &[face(0.2, 0.0, 0.0, 40.0)]), [None], "a low score does not resume a track");
    }

    #[test]
    fn a_face_of_another_size_or_with_landmarks_elsewhere_is_another_one() {
        assert_eq!(matches(&[expected(0.0, 0.0, 40.0)], &[face(0.9, -20.0, -20.0, 80.0)]), [None]);
        let at = |x: f32| Some([Point::new(x, 20.0); 5]);
        let mut track = expected(0.0, 0.0, 40.0);
        track.predicted.landmarks = at(0.0);
        track.predicted.uncertainty = 0.0;
        let mut other = face(0.9, 5.0, 0.0, 40.0);
        other.landmarks = at(39.0);
        assert_eq!(matches(&[track], &[other]), [None]);
    }

    #[test]
    fn a_face_that_moved_by_more_than_its_width_is_joined_within_the_uncertainty() {
        let mut track = expected(0.0, 0.0, 40.0);
        assert_eq!(matches(&[track], &[face(0.9, 60.0, 0.0, 40.0)]), [Some(0)]);
        track.predicted.uncertainty = 5.0;
        assert_eq!(matches(&[track], &[face(0.9, 60.0, 0.0, 40.0)]), [None]);
    }

    #[test]
    fn there_can_be_more_tracks_than_faces_and_more_faces_than_tracks() {
        let tracks = [expected(0.0, 0.0, 40.0), expected(100.0, 0.0, 40.0), expected(200.0, 0.0, 40.0)];
        assert_eq!(matches(&tracks, &[face(0.9, 101.0, 0.0, 40.0)]), [None, Some(0), None]);
        let faces = [300.0, 201.0, 1.0, 101.0, 400.0].map(|x| face(0.9, x, 0.0, 40.0));
        assert_eq!(matches(&tracks, &faces), [Some(2), Some(3), Some(1)]);
        assert_eq!(matches(&[], &faces), []);
    }

    #[test]
    fn a_shift_of_all_faces_is_the_cameras_and_a_shift_of_one_is_not() {
        let tracks = [expected(0.0, 0.0, 40.0), expected(100.0, 50.0, 60.0), expected(300.0, 20.0, 30.0)];
        let shift = |faces: &[Face]| camera_shift(&tracks, &faces.iter().collect::<Vec<_>>(), (400.0, 200.0));
        // The third face leaves the frame.
        let shifted = [face(0.9, 110.0, 10.0, 40.0), face(0.9, 211.0, 60.0, 60.0)];
        let by = shift(&shifted).unwrap();
        assert!((by.x - 111.0).abs() < 1e-3 && (by.y - 10.0).abs() < 1e-3, "{by:?}");
        let still = [face(0.9, 1.0, 0.0, 40.0), face(0.9, 101.0, 50.0, 60.0), face(0.9, 300.0, 20.0, 30.0)];
        assert_eq!(shift(&still), None);
        let one_moved = [face(0.9, 1.0, 0.0, 40.0), face(0.9, 211.0, 50.0, 60.0), face(0.9, 300.0, 20.0, 30.0)];
        assert_eq!(shift(&one_moved), None);
        // The first one turns away, and a third one appears at the distance between the two.
        let two = [expected(100.0, 50.0, 50.0), expected(220.0, 50.0, 50.0)];
        let row = [face(0.9, 220.0, 50.0, 50.0), face(0.9, 340.0, 50.0, 50.0)];
        assert_eq!(camera_shift(&two, &row.iter().collect::<Vec<_>>(), (640.0, 360.0)), None);
        assert_eq!(camera_shift(&tracks[..1], &[&shifted[0]], (400.0, 200.0)), None, "one face shows no shift");
    }
}
