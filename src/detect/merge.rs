//! Merging of the candidates from all views of a frame.
//!
//! Source of box voting: S. Gidaris and N. Komodakis, "Object detection via a multi-region and
//! semantic segmentation-aware CNN model", ICCV 2015; `bbox_vote` in deepinsight/insightface,
//! `detection/retinaface/retinaface.py`.

use crate::geometry::{Face, Landmarks, MAX_CANDIDATES, Point, Ranked, Rect, iou, nms, suppress};

/// A truncated face is a duplicate of another face if the two cover each other by more than this
/// fraction of the smaller box.
const TRUNCATED_COVERAGE: f32 = 0.5;
/// A candidate of a tile that has at least this size (longer side, in input pixels) in the view of
/// the whole region must be a candidate there, too. Otherwise it is a part of a face or of a body,
/// or a texture that looks like a face only at full resolution.
const MIN_CONFIRMED_SIZE: f32 = 24.0;
/// Larger faces can exceed the anchors in the view of the whole region, and need not be confirmed.
const MAX_CONFIRMED_SIZE: f32 = 256.0;
/// Minimum intersection over union of a candidate and the one that confirms it.
const CONFIRMING_IOU: f32 = 0.4;
/// Candidates of the whole region with a higher score confirm those of tiles, even if they are not
/// reported.
pub(super) const CONFIRMING_SCORE: f32 = 0.1;
/// Whole candidates that overlap by more than this are duplicates, of which one confirms.
const DUPLICATE_IOU: f32 = 0.7;
/// A candidate is a part of a larger face if that face covers more than this fraction of it.
const PART_COVERAGE: f32 = 0.6;
/// The larger face must have more than this multiple of the area of the candidate.
const PART_AREA_RATIO: f32 = 2.0;

/// Parts of a face that look like a face have at least this fraction of its size. Smaller candidates
/// are faces in front of it.
const MIN_PART_SIZE: f32 = 0.125;

/// How overlapping faces of several views are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merge {
    /// Non-maximum suppression: the face with the best score is kept.
    #[default]
    Nms,
    /// Box voting: overlapping faces are replaced by the mean of their boxes and landmarks,
    /// weighted by their scores.
    Vote,
}

/// How the landmarks of the candidates of one face are fused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LandmarkFusion {
    /// The landmarks of the best candidate.
    None,
    /// The mean of the landmarks of the best candidate and of all candidates with a score above 0.1
    /// whose IoU with it is at least 0.6, weighted by score. Averaging reduces jitter.
    #[default]
    Mean,
}

/// Candidates with a higher score take part in [`LandmarkFusion::Mean`], even if it is below the
/// threshold.
pub(super) const FUSION_SCORE: f32 = 0.1;
/// Minimum intersection over union of the best candidate and one whose landmarks are fused with its
/// own. It keeps apart faces that overlap.
const FUSION_IOU: f32 = 0.6;

/// A candidate from one view.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// The face, in the square pixels of the frame.
    pub(crate) face: Face,
    /// See [`super::decode::RankedFace::log_odds`].
    pub(crate) log_odds: f32,
    /// Whether an inner edge of the view truncates the face.
    pub(crate) truncated: bool,
    /// Maximum size (longer side) of the faces that the view can contain completely, in the same
    /// pixels; infinite for views of the whole region at a coarse scale.
    pub(crate) max_whole_face: f32,
    /// For a candidate of a tile: its size (longer side) in the input of the view of the whole region.
    /// 0 for candidates of other views.
    pub(crate) whole_size: f32,
}

impl Candidate {
    /// Whether the candidate is from a view of a whole region.
    fn is_whole(&self) -> bool {
        self.whole_size == 0.0
    }

    /// A candidate from a view of the whole frame.
    #[cfg(test)]
    pub(crate) fn of_whole_frame(face: Face) -> Self {
        let log_odds = (face.score / (1.0 - face.score)).ln();
        Self { face, log_odds, truncated: false, max_whole_face: f32::INFINITY, whole_size: 0.0 }
    }
}

impl Ranked for Candidate {
    fn rank(&self) -> f32 {
        self.log_odds
    }

    fn rect(&self) -> Rect {
        self.face.rect
    }
}

/// The settings of [`merge`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergeSettings {
    pub(crate) merge: Merge,
    pub(crate) landmark_fusion: LandmarkFusion,
    pub(crate) iou_threshold: f32,
    pub(crate) score_threshold: f32,
}

/// Merges the candidates from all views of a frame. Those with a score of at most the threshold only
/// confirm fused, or contribute their landmarks. The result is sorted by rank, best first.
pub(crate) fn merge(mut candidates: Vec<Candidate>, settings: MergeSettings) -> Vec<Face> {
    let MergeSettings { merge, landmark_fusion, iou_threshold, score_threshold } = settings;
    drop_unconfirmed(&mut candidates);
    let (mut candidates, below_threshold): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.face.score > score_threshold);
    drop_parts(&mut candidates, iou_threshold);
    let (truncated, complete): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.truncated);
    let mut kept = match (merge, landmark_fusion) {
        (Merge::Nms, LandmarkFusion::None) => nms(complete, iou_threshold),
        (Merge::Nms, LandmarkFusion::Mean) => nms_with_fusion(complete, below_threshold, iou_threshold),
        (Merge::Vote, _) => vote(complete, iou_threshold),
    };
    // Other views contain most truncated faces completely. The remaining ones exceed the overlap of
    // tiles.
    for candidate in nms(truncated, iou_threshold) {
        if kept.iter().all(|other| coverage(candidate.face.rect, other.face.rect) <= TRUNCATED_COVERAGE) {
            kept.push(candidate);
        }
    }
    kept.sort_by(|a, b| b.rank().total_cmp(&a.rank()));
    kept.into_iter().map(|candidate| candidate.face).collect()
}

/// Non-maximum suppression with [`LandmarkFusion::Mean`]. Candidates in `below_threshold` only
/// contribute landmarks.
pub(super) fn nms_with_fusion(
    candidates: Vec<Candidate>,
    mut below_threshold: Vec<Candidate>,
    iou_threshold: f32,
) -> Vec<Candidate> {
    let mut suppressed = Vec::new();
    let mut kept = suppress(candidates, iou_threshold, |candidate| suppressed.push(candidate));
    below_threshold.retain(|candidate| candidate.face.score > FUSION_SCORE && !candidate.truncated);
    below_threshold.sort_by(|a, b| b.rank().total_cmp(&a.rank()));
    below_threshold.truncate(MAX_CANDIDATES);
    let mut fused: Vec<Vec<Candidate>> = Vec::new();
    fused.resize_with(kept.len(), Vec::new);
    for candidate in suppressed.into_iter().chain(below_threshold) {
        let overlaps = kept.iter().map(|best| iou(best.face.rect, candidate.face.rect)).enumerate();
        let nearest = overlaps.max_by(|(_, a), (_, b)| a.total_cmp(b));
        if let Some((index, _)) = nearest.filter(|(_, overlap)| *overlap >= FUSION_IOU) {
            fused[index].push(candidate);
        }
    }
    for (best, fused) in kept.iter_mut().zip(fused) {
        let group = || std::iter::once(&best.face).chain(fused.iter().map(|candidate| &candidate.face));
        if let Some(landmarks) = mean_landmarks(group) {
            best.face.landmarks = Some(landmarks);
        }
    }
    kept
}

/// Drops candidates of tiles that the view of the whole region shows large enough to find them, and
/// that are no candidates there.
fn drop_unconfirmed(candidates: &mut Vec<Candidate>) {
    let must_be_confirmed =
        |candidate: &Candidate| (MIN_CONFIRMED_SIZE..=MAX_CONFIRMED_SIZE).contains(&candidate.whole_size);
    if !candidates.iter().any(must_be_confirmed) {
        return;
    }
    let whole = candidates.iter().filter(|candidate| candidate.is_whole()).map(|candidate| candidate.face.clone());
    let whole = nms(whole.collect(), DUPLICATE_IOU);
    candidates.retain(|candidate| {
        let rect = candidate.face.rect;
        let confirms = |whole: &Face| {
            iou(rect, whole.rect) > CONFIRMING_IOU
                // A truncated face is a part of the one that confirms it.
                || candidate.truncated
                    && whole.rect.area() > rect.area()
                    && coverage(rect, whole.rect) > TRUNCATED_COVERAGE
        };
        !must_be_confirmed(candidate) || whole.iter().any(confirms)
    });
}

/// Drops candidates that are parts of a larger face. In a tile, a detector can mistake an eye and a
/// cheek for a face.
fn drop_parts(candidates: &mut Vec<Candidate>, iou_threshold: f32) {
    if candidates.iter().all(|candidate| candidate.max_whole_face == f32::INFINITY) {
        return;
    }
    let size = |face: &Face| face.rect.w.max(face.rect.h);
    let shows_it_whole =
        |candidate: &&Candidate| candidate.is_whole() && size(&candidate.face) <= candidate.max_whole_face;
    let large = candidates.iter().filter(shows_it_whole).map(|candidate| candidate.face.clone());
    let large = nms(large.collect(), iou_threshold);
    candidates.retain(|candidate| {
        let rect = candidate.face.rect;
        let is_within = |large: &Face| {
            // Only faces with a better score count: at a low threshold, large false positives are
            // frequent.
            large.score >= candidate.face.score
                && size(large) > candidate.max_whole_face
                && size(&candidate.face) >= MIN_PART_SIZE * size(large)
                && large.rect.area() > PART_AREA_RATIO * rect.area()
                && coverage(rect, large.rect) > PART_COVERAGE
        };
        !large.iter().any(is_within)
    });
}

/// The intersection of two boxes as a fraction of the smaller one, in 0.0..=1.0.
fn coverage(a: Rect, b: Rect) -> f32 {
    let w = (a.right().min(b.right()) - a.x.max(b.x)).max(0.0);
    let h = (a.bottom().min(b.bottom()) - a.y.max(b.y)).max(0.0);
    let smaller = a.area().min(b.area());
    if smaller > 0.0 { w * h / smaller } else { 0.0 }
}

/// Box voting: merges each candidate that has the best rank at its position with the candidates that
/// overlap it.
///
/// Boxes and landmarks are means, weighted by score; the score is the best one. The reference drops
/// candidates without overlapping ones; here they are kept.
fn vote(mut candidates: Vec<Candidate>, iou_threshold: f32) -> Vec<Candidate> {
    candidates.sort_by(|a, b| b.rank().total_cmp(&a.rank()));
    candidates.truncate(MAX_CANDIDATES);
    let mut kept = Vec::new();
    while let Some(best) = candidates.first() {
        let rect = best.face.rect;
        let (group, rest): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .enumerate()
            .partition(|(index, candidate)| *index == 0 || iou(rect, candidate.face.rect) >= iou_threshold);
        kept.push(mean(group.into_iter().map(|(_, candidate)| candidate).collect()));
        candidates = rest.into_iter().map(|(_, candidate)| candidate).collect();
    }
    kept
}

/// The mean of at least one candidate, weighted by score. Other fields are those of the first one.
fn mean(group: Vec<Candidate>) -> Candidate {
    let faces = || group.iter().map(|candidate| &candidate.face);
    let side = |value: fn(Rect) -> f32| weighted_mean(faces().map(|face| (weight(face), value(face.rect))));
    let rect = Rect { x: side(|rect| rect.x), y: side(|rect| rect.y), w: side(|rect| rect.w), h: side(|rect| rect.h) };
    let landmarks = mean_landmarks(faces);
    let mut best = group.into_iter().next().expect("a group has at least one candidate");
    best.face = Face { rect, landmarks, ..best.face };
    best
}

/// The means of the landmarks of faces, weighted by score; `None` if one has no landmarks.
fn mean_landmarks<'a, I: Iterator<Item = &'a Face>>(faces: impl Fn() -> I) -> Option<Landmarks> {
    if !faces().all(|face| face.landmarks.is_some()) {
        return None;
    }
    let axis = |index: usize, value: fn(Point) -> f32| {
        let weighted = |face: &'a Face| Some((weight(face), value(face.landmarks?[index])));
        weighted_mean(faces().filter_map(weighted))
    };
    Some(std::array::from_fn(|index| Point::new(axis(index, |point| point.x), axis(index, |point| point.y))))
}

/// The weight of a face in a mean.
fn weight(face: &Face) -> f64 {
    f64::from(face.score.max(f32::MIN_POSITIVE))
}

/// The mean of values, each with its weight.
fn weighted_mean(values: impl Iterator<Item = (f64, f32)>) -> f32 {
    let (sum, total) =
        values.fold((0.0, 0.0), |(sum, total), (weight, value)| (sum + weight * f64::from(value), total + weight));
    (sum / total) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn face(score: f32, x: f32, y: f32, size: f32) -> Face {
        let landmarks = std::array::from_fn(|index| Point::new(x + index as f32, y + 2.0 * index as f32));
        Face { score, rect: Rect::new(x, y, size, size), landmarks: Some(landmarks), ..Face::default() }
    }

    /// A candidate of a tile with full resolution, whose frame the whole view shows at `whole_scale`.
    fn of_tile(face: Face, whole_scale: f32) -> Candidate {
        let whole_size = whole_scale * face.rect.w;
        Candidate { max_whole_face: 256.0, whole_size, ..Candidate::of_whole_frame(face) }
    }

    const SETTINGS: MergeSettings = MergeSettings {
        merge: Merge::Nms,
        landmark_fusion: LandmarkFusion::None,
        iou_threshold: 0.4,
        score_threshold: 0.5,
    };

    fn merge(candidates: Vec<Candidate>) -> Vec<Face> {
        super::merge(candidates, SETTINGS)
    }

    #[test]
    fn parts_of_a_face_that_exceeds_a_tile_are_dropped() {
        let large = Candidate::of_whole_frame(face(0.97, 0.0, 0.0, 1000.0));
        let part = |x: f32, size: f32| of_tile(face(0.95, x, 300.0, size), 0.1);
        // One candidate is a part of the large face, the others lie beside it and in front of it.
        let found = vec![large.clone(), part(300.0, 200.0), part(2000.0, 200.0), part(300.0, 100.0)];
        let expected =
            [face(0.97, 0.0, 0.0, 1000.0), face(0.95, 2000.0, 300.0, 200.0), face(0.95, 300.0, 300.0, 100.0)];
        assert_eq!(merge(found), expected);
        // A large box with a lower score does not suppress anything.
        let poor = Candidate::of_whole_frame(face(0.6, 0.0, 0.0, 1000.0));
        assert_eq!(merge(vec![poor, part(300.0, 200.0)]).len(), 2);
        let small = Candidate::of_whole_frame(face(0.9, 0.0, 300.0, 200.0));
        assert_eq!(merge(vec![small, part(20.0, 30.0)]).len(), 2, "a tile contains a face of this size completely");
        // The whole view of scales=auto has a limit, too.
        let limited = Candidate { max_whole_face: 1200.0, ..large };
        assert_eq!(merge(vec![limited, part(300.0, 200.0)]), [face(0.97, 0.0, 0.0, 1000.0)]);
    }

    #[test]
    fn a_tile_adds_only_faces_that_are_too_small_for_the_whole_frame() {
        let tile = |size: f32| of_tile(face(0.9, 500.0, 300.0, size), 0.2);
        let whole = |score: f32, size: f32| Candidate::of_whole_frame(face(score, 500.0, 300.0, size));
        // 110 pixels are 22 in the input of the whole frame, 130 are 26, and 1300 are 260.
        assert_eq!(merge(vec![tile(110.0)]).len(), 1);
        assert_eq!(merge(vec![tile(130.0)]), []);
        assert_eq!(merge(vec![tile(1300.0)]).len(), 1);
        // A poor candidate of the whole frame confirms it, but is not reported itself.
        assert_eq!(merge(vec![tile(130.0), whole(0.2, 120.0)]), [tile(130.0).face]);
        assert_eq!(merge(vec![tile(130.0), whole(0.2, 240.0)]), [], "a part of something larger");
        let truncated = Candidate { truncated: true, ..tile(130.0) };
        assert_eq!(merge(vec![truncated.clone(), whole(0.2, 240.0)]), std::slice::from_ref(&truncated.face));
        assert_eq!(merge(vec![truncated, whole(0.95, 240.0)]), [whole(0.95, 240.0).face]);
    }

    #[test]
    fn landmarks_are_the_mean_of_the_candidates_of_one_face() {
        let found = [
            face(0.9, 10.0, 10.0, 20.0),
            // Its box overlaps by 0.67, and its score is below the threshold.
            face(0.3, 14.0, 10.0, 20.0),
            // Its score is too low.
            face(0.05, 11.0, 10.0, 20.0),
            // Overlaps by 0.54: it can be another face beside the first one.
            face(0.6, 16.0, 10.0, 20.0),
            face(0.8, 90.0, 0.0, 20.0),
        ]
        .map(Candidate::of_whole_frame);
        let fuse = |landmark_fusion| super::merge(found.to_vec(), MergeSettings { landmark_fusion, ..SETTINGS });
        let [fused, alone] = &fuse(LandmarkFusion::Mean)[..] else { panic!("two faces") };
        assert_eq!(*alone, face(0.8, 90.0, 0.0, 20.0));
        assert_eq!((fused.score, fused.rect), (0.9, face(0.9, 10.0, 10.0, 20.0).rect), "the box is that of the best");
        let nose = fused.landmarks.unwrap()[2];
        assert!((nose.x - 13.0).abs() < 1e-5 && (nose.y - 14.0).abs() < 1e-5, "{nose:?}");
        assert_eq!(fuse(LandmarkFusion::None)[0], face(0.9, 10.0, 10.0, 20.0));
        let boxes_only = found.map(|mut candidate| {
            candidate.face.landmarks = None;
            candidate
        });
        let settings = MergeSettings { landmark_fusion: LandmarkFusion::Mean, ..SETTINGS };
        assert_eq!(super::merge(boxes_only.to_vec(), settings)[0].landmarks, None);
    }

    #[test]
    fn equal_scores_are_ranked_by_their_log_odds_and_then_by_order() {
        let ranked =
            |x: f32, log_odds: f32| Candidate { log_odds, ..Candidate::of_whole_frame(face(1.0, x, 0.0, 20.0)) };
        assert_eq!(merge(vec![ranked(0.0, 9.5), ranked(1.0, 12.0), ranked(2.0, 11.0)]), [face(1.0, 1.0, 0.0, 20.0)]);
        assert_eq!(merge(vec![ranked(1.0, 9.5), ranked(0.0, 9.5)]), [face(1.0, 1.0, 0.0, 20.0)]);
    }

    #[test]
    fn votes_are_weighted_by_score() {
        let all = [face(0.9, 10.0, 10.0, 20.0), face(0.3, 14.0, 10.0, 20.0), face(0.8, 90.0, 0.0, 20.0)];
        let merged = super::merge(
            all.map(Candidate::of_whole_frame).to_vec(),
            MergeSettings { merge: Merge::Vote, score_threshold: 0.1, ..SETTINGS },
        );
        let [voted, alone] = merged.as_slice() else { panic!("{merged:?}") };
        assert_eq!((voted.score, alone.clone()), (0.9, face(0.8, 90.0, 0.0, 20.0)));
        assert!((voted.rect.x - 11.0).abs() < 1e-5 && (voted.rect.w - 20.0).abs() < 1e-5, "{voted:?}");
        assert!((voted.landmarks.unwrap()[0].x - 11.0).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn voting_never_adds_faces_and_sorts_by_score(xs in proptest::collection::vec(0.0f32..900.0, 0..30)) {
            let candidate = |(i, x): (usize, &f32)| {
                Candidate::of_whole_frame(face(0.5 + i as f32 / 100.0, *x, 0.0, 30.0))
            };
            let faces = xs.iter().enumerate().map(candidate).collect::<Vec<_>>();
            let voted = super::merge(faces.clone(), MergeSettings { merge: Merge::Vote, score_threshold: 0.1, ..SETTINGS });
            prop_assert!(voted.len() <= faces.len() && voted.is_empty() == faces.is_empty());
            prop_assert!(voted.windows(2).all(|pair| pair[0].score >= pair[1].score));
        }
    }
}
