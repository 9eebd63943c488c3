//! Views of a frame (test-time augmentation): image pyramid, horizontal flip, tiles and regions of
//! interest.
//!
//! Each view is a separate input of the model. [`super::merge`] merges the candidates of all views.
//!
//! Source of pyramid and flip: `detect(img, threshold, scales, do_flip)` in
//! deepinsight/insightface, `detection/retinaface/retinaface.py`.

use super::decode::RankedFace;
use super::merge::Candidate;
use super::object_regions::ObjectRegion;
use super::view_settings::{MAX_PARTS, Scales, Tiles, Views};
use crate::geometry::{FrameSize, InputSize, Letterbox, PixelAspect, Point, Rect};
use crate::image::Region;
use crate::model::ModelSpec;

/// Width and height of tiles if neither the model nor the settings determine the input size.
const DEFAULT_TILE_SIZE: usize = 640;
/// Overlap of adjacent tiles as a fraction of their size. A face up to this size is complete in one
/// of them.
const TILE_OVERLAP: f32 = 0.2;
/// Minimum longer side of the input from which [`Scales::Auto`] adds a small scale.
const AUTO_MIN_INPUT: usize = 512;
/// Longer side of the input at the small scale of [`Scales::Auto`].
const AUTO_SMALL_INPUT: f32 = 256.0;
/// Maximum size (longer side) of faces at the large scale of [`Scales::Auto`], in input pixels;
/// larger faces exceed the anchors and are taken from the small scale.
///
/// The limit is necessary because a part of a large face can have as good a score as the whole
/// face. The evaluation of the reference, `test_widerface.py`, filters the faces of each scale by
/// size, too.
const AUTO_MAX_FACE: f32 = 512.0;
/// Faces between this fraction of the limit and the limit are taken from both scales.
const AUTO_OVERLAP: f32 = 0.5;
/// Maximum size of faces that tiles contain completely or truncated, as a fraction of the shorter
/// side of a tile. Of a larger face, tiles can show parts only.
const TILE_MAX_FACE: f32 = 0.4;
/// The longer side of a face in its second view, see [`super::refine`], in input pixels.
const SECOND_VIEW_FACE: f32 = 160.0;
/// Width and height of the input of a second view. It shows a face with a margin of 0.3 times its
/// size.
const SECOND_VIEW_INPUT: usize = 256;
/// All face sizes.
const ANY_SIZE: (f32, f32) = (0.0, f32::INFINITY);
/// A box is truncated if its distance to an inner edge is below this fraction of its size.
const TRUNCATION_MARGIN: f32 = 0.05;

/// One view of a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct View {
    /// The region of the frame.
    pub(crate) region: Region,
    /// The mapping between the region and the model's input.
    pub(crate) letterbox: Letterbox,
    /// Factors for x and y that make the frame's pixels square.
    stretch: (f32, f32),
    /// Whether the input is flipped horizontally.
    pub(crate) flipped: bool,
    /// Minimum and maximum size (longer side) of faces from this view, in input pixels.
    face_sizes: (f32, f32),
    /// Maximum size of faces that the view can contain completely, in input pixels. A candidate
    /// within a larger face is a part of that face.
    max_whole_face: f32,
    /// For a tile: pixels of a whole region's view per pixel of the frame. 0 for other views.
    whole_scale: f32,
    /// Whether the left, top, right and bottom edge lies inside another view, so that faces at the
    /// edge can be truncated.
    inner_edges: [bool; 4],
}

impl View {
    /// Whether this view shows a whole region, so that its candidates confirm those of tiles.
    pub(super) fn is_whole(&self) -> bool {
        self.whole_scale == 0.0
    }

    /// The second view of a face with this box in the square pixels of the frame; `None` if the face
    /// lies outside the frame.
    pub(super) fn second(rect: Rect, frame: FrameSize, spec: &ModelSpec) -> Option<Self> {
        let FrameSize { width, height, pixel_aspect } = frame;
        let (stretch_x, stretch_y) = pixel_aspect.stretch();
        let stretch = (stretch_x as f32, stretch_y as f32);
        let size = InputSize::Fixed(SECOND_VIEW_INPUT, SECOND_VIEW_INPUT);
        let scale = SECOND_VIEW_FACE / rect.w.max(rect.h);
        // A fixed input size of the model takes precedence, and shows more around the face.
        let (cols, rows) = spec.fixed_size.unwrap_or((SECOND_VIEW_INPUT, SECOND_VIEW_INPUT));
        let side = cols.min(rows) as f32 / scale;
        let (centre_x, centre_y) = (rect.x + rect.w / 2.0, rect.y + rect.h / 2.0);
        let (left, top) = (centre_x - side / 2.0, centre_y - side / 2.0);
        let stored = Rect::new(left / stretch.0, top / stretch.1, side / stretch.0, side / stretch.1);
        let region = pixel_region(stored, width, height)?;
        let part = FrameSize { width: region.width, height: region.height, pixel_aspect };
        // At the frame's edge the region is smaller: the scale stays, and the rest is padding.
        let whole = spec.letterbox(part, size, 1.0).content();
        let fit = whole.0 as f32 / (region.width as f32 * stretch.0);
        Some(Self {
            region,
            letterbox: spec.letterbox(part, size, scale / fit),
            stretch,
            flipped: false,
            face_sizes: ANY_SIZE,
            max_whole_face: f32::INFINITY,
            whole_scale: 0.0,
            inner_edges: [false; 4],
        })
    }

    /// Whether the region contains a point of the frame.
    pub(super) fn contains(&self, point: Point) -> bool {
        let Region { x, y, width, height } = self.region;
        let is_within = |value: f32, start: usize, len: usize| value >= start as f32 && value < (start + len) as f32;
        is_within(point.x, x, width) && is_within(point.y, y, height)
    }

    /// Input pixels per square pixel of the frame.
    pub(super) fn scale(&self) -> f32 {
        self.letterbox.content().0 as f32 / (self.region.width as f32 * self.stretch.0)
    }

    /// The input of all second views of a model.
    pub(super) fn second_view_input(spec: &ModelSpec) -> (usize, usize) {
        let square = FrameSize { width: 1, height: 1, pixel_aspect: PixelAspect::SQUARE };
        spec.letterbox(square, InputSize::Fixed(SECOND_VIEW_INPUT, SECOND_VIEW_INPUT), 1.0).input()
    }

    /// Maps a face from input pixels to the square pixels of the frame, see
    /// [`PixelAspect::stretch`](crate::geometry::PixelAspect::stretch). Returns `None` if the face
    /// has the wrong size for this view or lies in the padding.
    pub(crate) fn map_to_square_frame(&self, RankedFace { face, log_odds }: &RankedFace) -> Option<Candidate> {
        let size = face.rect.w.max(face.rect.h);
        if size < self.face_sizes.0 || size > self.face_sizes.1 {
            return None;
        }
        let width = self.region.width as f32;
        let (left, top) = (self.region.x as f32, self.region.y as f32);
        let mut face = face.mapped(|point| self.letterbox.frame_from_input(point));
        if self.flipped {
            face.rect.x = width - face.rect.right();
            let mirrored = |point: Point| Point::new(width - point.x, point.y);
            // Flipping exchanges left and right landmarks.
            face.landmarks = face.landmarks.map(|[a, b, nose, c, d]| [b, a, nose, d, c].map(mirrored));
        }
        let rect = face.rect;
        // A face outside the region lies in the padding.
        rect.clipped(width, self.region.height as f32)?;
        let (margin_x, margin_y) = (TRUNCATION_MARGIN * rect.w, TRUNCATION_MARGIN * rect.h);
        let at_edges = [
            rect.x < margin_x,
            rect.y < margin_y,
            rect.right() > width - margin_x,
            rect.bottom() > self.region.height as f32 - margin_y,
        ];
        let truncated = at_edges.iter().zip(self.inner_edges).any(|(at_edge, inner)| *at_edge && inner);
        let (stretch_x, stretch_y) = self.stretch;
        let max_whole_face = self.max_whole_face * width * stretch_x / self.letterbox.content().0 as f32;
        let face = face.mapped(|point| Point::new((point.x + left) * stretch_x, (point.y + top) * stretch_y));
        let whole_size = self.whole_scale * face.rect.w.max(face.rect.h);
        Some(Candidate { face, log_odds: *log_odds, truncated, max_whole_face, whole_size })
    }
}

/// The views of a frame; empty if no region intersects the frame.
pub(crate) fn plan(frame: FrameSize, spec: &ModelSpec, size: InputSize, views: &Views) -> Vec<View> {
    let FrameSize { width, height, pixel_aspect } = frame;
    let (stretch_x, stretch_y) = pixel_aspect.stretch();
    let stretch = (stretch_x as f32, stretch_y as f32);
    let part = |region: Region| FrameSize { width: region.width, height: region.height, pixel_aspect };
    let regions = match &views.objects {
        None => regions((width, height), &views.rois),
        Some(objects) => object_regions((width, height), objects),
    };
    let mut plan = Vec::new();
    for &region in &regions {
        let letterbox = |scale| spec.letterbox(part(region), size, scale);
        let inner_edges = inner_edges(region, &regions);
        for Scale { factor, face_sizes, max_whole_face } in scales(&views.scales, letterbox(1.0)) {
            let letterbox = letterbox(factor);
            plan.push(View {
                region,
                letterbox,
                stretch,
                flipped: false,
                face_sizes,
                max_whole_face,
                whole_scale: 0.0,
                inner_edges,
            });
        }
        let whole_width = region.width as f32 * stretch.0;
        let whole = plan.iter().filter(|view| view.region == region && view.is_whole());
        let whole_scale = whole.map(|view| view.letterbox.content().0).max().unwrap_or(0) as f32 / whole_width;
        for (tile, tile_edges) in tiles(region, spec, size, views.tiles, (stretch_x, stretch_y)) {
            let size = if views.tiles == Tiles::Auto { InputSize::Native } else { size };
            let letterbox = spec.letterbox(part(tile), size, 1.0);
            let (cols, rows) = letterbox.content();
            let inner_edges = std::array::from_fn(|edge| tile_edges[edge] || inner_edges[edge]);
            let max_whole_face = TILE_MAX_FACE * cols.min(rows) as f32;
            let (region, flipped, face_sizes) = (tile, false, ANY_SIZE);
            plan.push(View {
                region,
                letterbox,
                stretch,
                flipped,
                face_sizes,
                max_whole_face,
                whole_scale,
                inner_edges,
            });
        }
    }
    if views.flip {
        plan = plan.into_iter().flat_map(|view| [view, View { flipped: true, ..view }]).collect();
    }
    plan
}

/// The parts of a frame of `width` x `height` in which detection runs: the regions of interest, or
/// the whole frame.
pub(super) fn regions((width, height): (usize, usize), rois: &[Rect]) -> Vec<Region> {
    match rois {
        [] => vec![Region { x: 0, y: 0, width, height }],
        rois => rois.iter().filter_map(|roi| pixel_region(*roi, width, height)).collect(),
    }
}

/// The pixels of the regions of objects, each once.
fn object_regions((width, height): (usize, usize), objects: &[ObjectRegion]) -> Vec<Region> {
    let mut regions = Vec::with_capacity(objects.len());
    for region in objects.iter().filter_map(|object| pixel_region(object.rect, width, height)) {
        if !regions.contains(&region) {
            regions.push(region);
        }
    }
    regions
}

/// Whether the left, top, right and bottom edge of a region lies inside another region.
fn inner_edges(region: Region, regions: &[Region]) -> [bool; 4] {
    let end = |region: &Region| (region.x + region.width, region.y + region.height);
    let (right, bottom) = end(&region);
    let intersects = |other: &&Region| {
        let (other_right, other_bottom) = end(other);
        other.x < right && region.x < other_right && other.y < bottom && region.y < other_bottom
    };
    let mut inner = [false; 4];
    for other in regions.iter().filter(|other| **other != region).filter(intersects) {
        let (other_right, other_bottom) = end(other);
        let extends = [other.x < region.x, other.y < region.y, other_right > right, other_bottom > bottom];
        inner.iter_mut().zip(extends).for_each(|(inner, extends)| *inner |= extends);
    }
    inner
}

/// A scale of a region; the limits are those of [`View`].
struct Scale {
    factor: f32,
    face_sizes: (f32, f32),
    max_whole_face: f32,
}

/// The scales of a region with this letterbox at scale 1.
fn scales(scales: &Scales, letterbox: Letterbox) -> Vec<Scale> {
    let unlimited = |factor| Scale { factor, face_sizes: ANY_SIZE, max_whole_face: f32::INFINITY };
    let (cols, rows) = letterbox.content();
    let longest = cols.max(rows);
    match scales {
        Scales::Each(factors) => factors.iter().copied().map(unlimited).collect(),
        Scales::Auto if longest < AUTO_MIN_INPUT => vec![unlimited(1.0)],
        Scales::Auto => {
            let factor = AUTO_SMALL_INPUT / longest as f32;
            let large_faces = (AUTO_OVERLAP * AUTO_MAX_FACE * factor, f32::INFINITY);
            vec![
                Scale { factor: 1.0, face_sizes: (0.0, AUTO_MAX_FACE), max_whole_face: AUTO_MAX_FACE },
                Scale { factor, face_sizes: large_faces, max_whole_face: f32::INFINITY },
            ]
        }
    }
}

/// The pixels of a frame that a region of interest covers. The region starts at even pixels, where
/// chroma samples start; `None` if it lies outside the frame.
fn pixel_region(roi: Rect, width: usize, height: usize) -> Option<Region> {
    let part = roi.clipped(width as f32, height as f32)?;
    let (x, y) = (part.x as usize & !1, part.y as usize & !1);
    let (right, bottom) = ((part.right().ceil() as usize).min(width), (part.bottom().ceil() as usize).min(height));
    (x < right && y < bottom).then(|| Region { x, y, width: right - x, height: bottom - y })
}

/// The tiles of a region, all of one size, each with its inner edges. `stretch` makes the pixels of
/// the region square.
fn tiles(
    region: Region,
    spec: &ModelSpec,
    size: InputSize,
    tiles: Tiles,
    (stretch_x, stretch_y): (f64, f64),
) -> Vec<(Region, [bool; 4])> {
    let (spans_x, spans_y) = match tiles {
        Tiles::None => return Vec::new(),
        Tiles::Auto => {
            let (width, height) = match (spec.fixed_size, size) {
                (Some(size), _) => size,
                (None, InputSize::Fixed(width, height)) => (width, height),
                (None, InputSize::Longest(side)) => (side, side),
                (None, InputSize::Native) => (DEFAULT_TILE_SIZE, DEFAULT_TILE_SIZE),
            };
            // The model receives square pixels, so that fewer stored pixels fill its input.
            let stored = |len: usize, stretch: f64| (len as f64 / stretch).round() as usize;
            let (width, height) = (stored(width, stretch_x), stored(height, stretch_y));
            (covering_spans(region.width, width), covering_spans(region.height, height))
        }
        Tiles::Grid(cols, rows) => {
            let spans = |len, count| spread(len, span_len(len, count), count);
            (spans(region.width, cols), spans(region.height, rows))
        }
    };
    if spans_x.len() * spans_y.len() <= 1 {
        return Vec::new();
    }
    let mut all = Vec::new();
    for &(y, height) in &spans_y {
        for &(x, width) in &spans_x {
            let inner_edges = [x > 0, y > 0, x + width < region.width, y + height < region.height];
            all.push((Region { x: region.x + x, y: region.y + y, width, height }, inner_edges));
        }
    }
    all
}

/// Overlapping spans (start, length) of length `span` that cover `len`.
fn covering_spans(len: usize, span: usize) -> Vec<(usize, usize)> {
    let span = span.clamp(1, len);
    let overlap = (span as f32 * TILE_OVERLAP) as usize;
    let count = len.saturating_sub(overlap).div_ceil((span - overlap).max(1)).max(1);
    if count > MAX_PARTS { spread(len, span_len(len, MAX_PARTS), MAX_PARTS) } else { spread(len, span, count) }
}

/// The length of `count` overlapping spans that cover `len`.
fn span_len(len: usize, count: usize) -> usize {
    let parts = count as f32 - (count - 1) as f32 * TILE_OVERLAP;
    ((len as f32 / parts).ceil() as usize).clamp(1, len)
}

/// `count` spans, evenly distributed from the start to the end of `len`. Their length is `span` or
/// one more, so that all spans start at even pixels, where chroma samples start. Equal spans are
/// removed.
fn spread(len: usize, span: usize, count: usize) -> Vec<(usize, usize)> {
    let span = if (len - span).is_multiple_of(2) { span } else { span + 1 };
    let last = len - span;
    let start = |index: usize| if count > 1 { (last * index / (count - 1)) & !1 } else { 0 };
    let mut spans = (0..count).map(|index| (start(index), span)).collect::<Vec<_>>();
    spans.dedup();
    spans
}

#[cfg(test)]
mod tests {
    use super::super::merge::{LandmarkFusion, Merge, MergeSettings, merge};
    use super::super::view_settings::parse_rois;
    use super::*;
    use crate::geometry::Face;
    use crate::model::{FamilyMatch, Input, families};
    use proptest::prelude::*;

    fn spec(fixed_size: Option<(usize, usize)>) -> ModelSpec {
        let input = Input { name: "input".to_owned(), channels: 3, fixed_size, dynamic_batch: true };
        let family = &families::RETINAFACE;
        let recognised = FamilyMatch { family, layout: family.layout(), outputs: vec![] };
        ModelSpec::for_detector(input, &[], recognised, false, family.normalization)
    }

    const MERGE: MergeSettings = MergeSettings {
        merge: Merge::Nms,
        landmark_fusion: LandmarkFusion::None,
        iou_threshold: 0.4,
        score_threshold: 0.5,
    };

    fn planned(frame: (usize, usize), size: InputSize, views: &Views) -> Vec<View> {
        plan(frame.into(), &spec(None), size, views)
    }

    fn face(score: f32, x: f32, y: f32, size: f32) -> Face {
        let landmarks = std::array::from_fn(|index| Point::new(x + index as f32, y + 2.0 * index as f32));
        Face { score, rect: Rect::new(x, y, size, size), landmarks: Some(landmarks), ..Face::default() }
    }

    fn map(view: &View, face: &Face) -> Option<Candidate> {
        let log_odds = (face.score / (1.0 - face.score)).ln();
        view.map_to_square_frame(&RankedFace { face: face.clone(), log_odds })
    }

    #[test]
    fn the_default_is_one_view_of_the_whole_frame() {
        let plan = planned((1920, 1080), InputSize::Longest(640), &Views::default());
        let [view] = plan.as_slice() else { panic!("{plan:?}") };
        assert_eq!(view.letterbox, Letterbox::new((1920, 1080), InputSize::Longest(640)));
        assert_eq!(view.region, Region { x: 0, y: 0, width: 1920, height: 1080 });
        let mapped = map(view, &face(0.9, 320.0, 0.0, 10.0)).unwrap();
        assert_eq!((mapped.face.rect, mapped.truncated), (Rect::new(960.0, 0.0, 30.0, 30.0), false));
    }

    #[test]
    fn auto_adds_small_scale_to_large_input() {
        let inputs = |scales: &str, size| {
            let views = Views { scales: scales.parse().unwrap(), ..Views::default() };
            planned((1920, 1080), size, &views).iter().map(|view| view.letterbox.content()).collect::<Vec<_>>()
        };
        assert_eq!(inputs("1.0,0.2", InputSize::Longest(640)), [(640, 360), (128, 72)]);
        assert_eq!(inputs("auto", InputSize::Longest(640)), [(640, 360), (256, 144)]);
        assert_eq!(inputs("auto", InputSize::Longest(320)), [(320, 180)]);
        assert_eq!(inputs("auto", InputSize::Native), [(1920, 1080), (256, 144)]);
    }

    #[test]
    fn the_small_scale_of_auto_is_used_for_large_faces() {
        let views = Views { scales: Scales::Auto, ..Views::default() };
        let plan = planned((1920, 1080), InputSize::Native, &views);
        let is_used = |size: f32| {
            let factor = 256.0 / 1920.0;
            [map(&plan[0], &face(0.9, 0.0, 0.0, size)), map(&plan[1], &face(0.9, 0.0, 0.0, size * factor))]
                .map(|found| found.is_some())
        };
        assert_eq!([20.0, 400.0, 900.0].map(is_used), [[true, false], [true, true], [false, true]]);
    }

    #[test]
    fn landmarks_of_the_flipped_view_keep_left_and_right() {
        let views = Views { flip: true, ..Views::default() };
        let plan = planned((640, 480), InputSize::Native, &views);
        let [plain, flipped] = plan.as_slice() else { panic!("{plan:?}") };
        let found = face(0.9, 100.0, 50.0, 40.0);
        let [left, right, nose, mouth_left, mouth_right] = found.landmarks.unwrap();
        // The same face in the flipped view.
        let flip = |point: Point| Point::new(640.0 - point.x, point.y);
        let in_flipped = Face {
            rect: Rect::new(640.0 - 140.0, 50.0, 40.0, 40.0),
            landmarks: Some([right, left, nose, mouth_right, mouth_left].map(flip)),
            ..found.clone()
        };
        assert_eq!(map(plain, &found), map(flipped, &in_flipped));
    }

    #[test]
    fn auto_tiles_cover_a_4k_frame_at_full_resolution() {
        let views = Views { tiles: Tiles::Auto, ..Views::default() };
        let plan = planned((3840, 2160), InputSize::Longest(640), &views);
        assert_eq!(plan[0].letterbox.content(), (640, 360), "the first view is the whole frame");
        let tiles = &plan[1..];
        assert_eq!(tiles.len(), 8 * 4);
        assert!(
            tiles.iter().all(|tile| tile.letterbox.input() == (640, 640) && tile.letterbox.content() == (640, 640))
        );
        let last = tiles.last().unwrap();
        assert_eq!((last.region.x + 640, last.region.y + 640), (3840, 2160));
        assert_eq!((tiles[0].inner_edges, last.inner_edges), ([false, false, true, true], [true, true, false, false]));
        // A small frame fits into one tile, which would equal the view of the whole frame.
        assert_eq!(planned((640, 360), InputSize::Longest(640), &views).len(), 1);
    }

    #[test]
    fn a_grid_has_the_given_number_of_tiles_of_the_input_size() {
        let views = Views { tiles: "3x2".parse().unwrap(), ..Views::default() };
        let plan = planned((1920, 1080), InputSize::Longest(640), &views);
        assert_eq!(plan.len(), 1 + 6);
        assert!(plan[1..].iter().all(|tile| tile.letterbox.content().0 == 640));
        let fixed = super::plan((1920, 1080).into(), &spec(Some((320, 320))), InputSize::Longest(640), &views);
        assert!(fixed.iter().all(|view| view.letterbox.input() == (320, 320)));
    }

    #[test]
    fn regions_are_clipped_and_regions_outside_are_ignored() {
        let views = Views {
            rois: parse_rois("-50,-50,150,150; 1900,1000,500,500;5000,0,10,10; 11.5,13,20,20").unwrap(),
            ..Views::default()
        };
        let plan = planned((1920, 1080), InputSize::Longest(640), &views);
        let regions = plan.iter().map(|view| view.region).collect::<Vec<_>>();
        let region = |x, y, width, height| Region { x, y, width, height };
        assert_eq!(regions, [region(0, 0, 100, 100), region(1900, 1000, 20, 80), region(10, 12, 22, 21)]);
        let found = map(&plan[1], &face(0.9, 0.0, 0.0, 64.0)).unwrap().face;
        assert_eq!((found.rect.x, found.rect.y), (1900.0, 1000.0));
        let in_padding = Face { rect: Rect::new(300.0, 0.0, 20.0, 20.0), ..Face::default() };
        assert_eq!(map(&plan[1], &in_padding), None, "the face lies outside the region");
        let outside = Views { rois: parse_rois("5000,0,10,10").unwrap(), ..Views::default() };
        assert_eq!(planned((1920, 1080), InputSize::Native, &outside), []);
    }

    #[test]
    fn a_face_between_tiles_is_reported_once_and_complete() {
        let views = Views { tiles: Tiles::Grid(2, 1), ..Views::default() };
        let plan = planned((1000, 200), InputSize::Native, &views);
        let [_, left, right] = plan.as_slice() else { panic!("{plan:?}") };
        // The tiles are 0..556 and 444..1000. The left one truncates the face at 500..570.
        let half = map(left, &face(0.95, 500.0, 50.0, 60.0)).unwrap();
        let complete = map(right, &face(0.90, 56.0, 50.0, 70.0)).unwrap();
        assert!(half.truncated && !complete.truncated, "{half:?} {complete:?}");
        // The whole frame shows the face, too, with a score below the threshold.
        let whole = Candidate::of_whole_frame(face(0.2, 500.0, 50.0, 75.0));
        let merged = merge(vec![whole.clone(), half.clone(), complete.clone()], MERGE);
        assert_eq!(merged, [complete.face]);
        // A face that is truncated in all tiles is kept.
        assert_eq!(merge(vec![whole, half.clone()], MERGE), [half.face]);
    }

    #[test]
    fn a_face_in_overlapping_regions_is_reported_once() {
        let views = Views { rois: parse_rois("0,0,400,400;300,0,400,400").unwrap(), ..Views::default() };
        let plan = planned((1920, 1080), InputSize::Native, &views);
        assert_eq!(
            plan.iter().map(|view| view.inner_edges).collect::<Vec<_>>(),
            [[false, false, true, false], [true, false, false, false]]
        );
        let half = map(&plan[0], &face(0.95, 350.0, 50.0, 52.0)).unwrap();
        let complete = map(&plan[1], &face(0.9, 50.0, 50.0, 80.0)).unwrap();
        assert_eq!(merge(vec![half, complete.clone()], MERGE), [complete.face]);
    }

    proptest! {
        #[test]
        fn tiles_cover_the_region_and_overlap_by_a_face(
            width in 1usize..5000, height in 1usize..3000, side in 64usize..1000,
        ) {
            let region = Region { x: 0, y: 0, width, height };
            let tiles = tiles(region, &spec(None), InputSize::Longest(side), Tiles::Auto, (1.0, 1.0));
            for (tile, _) in &tiles {
                prop_assert!(tile.x + tile.width <= width && tile.y + tile.height <= height);
            }
            // A face of half the size of the overlap is complete in one of the tiles at any
            // position.
            let face = side / 10;
            for (x, y) in [(0, 0), (width / 2, height / 2), (width / 3, height / 5), (width - 1, height - 1)] {
                let (x, y) = (x.min(width.saturating_sub(face)), y.min(height.saturating_sub(face)));
                let holds = |tile: &Region| {
                    let fits = |start: usize, len: usize, at: usize, total: usize| {
                        start <= at && (at + face).min(total) <= start + len
                    };
                    fits(tile.x, tile.width, x, width) && fits(tile.y, tile.height, y, height)
                };
                prop_assert!(tiles.is_empty() || tiles.iter().any(|(tile, _)| holds(tile)));
            }
        }
    }
}
