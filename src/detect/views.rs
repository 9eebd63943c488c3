//! Where and at which sizes a frame is looked at: image pyramid, mirror image, tiles, regions of interest.
//!
//! Each look is a picture of its own for the model. What the looks find is brought together by [`crate::merge`].
//!
//! Source of the pyramid and mirror image: `detect(img, threshold, scales, do_flip)` in deepinsight/insightface,
//! `detection/retinaface/retinaface.py`.

use std::str::FromStr;
use std::sync::Arc;

use crate::contract::Contract;
use crate::face::{Face, Point, Rect};
use crate::image::Region;
use crate::letterbox::{InputSize, Letterbox};
use crate::merge::Candidate;
use crate::overrides::number;

/// Side of a tile where nothing else says one.
const TILE: usize = 640;
/// Part of a tile's sides that it shares with the next one: a face of that size is whole in one of them.
const TILE_OVERLAP: f32 = 0.2;
/// Most tiles of a side, scales and regions that are taken.
const MOST: usize = 64;
/// Largest and smallest scale.
const SCALES: std::ops::RangeInclusive<f32> = 0.01..=16.0;
/// From this longer side of the input on, [`Scales::Auto`] looks again,
const AUTO_FROM: usize = 512;
/// at this one. There faces count that are larger than the anchors are made for, and at the large size only those that are
/// not: a part of a large face that looks like one has as good a score as the whole (the reference's evaluation,
/// `test_widerface.py`, keeps each scale's faces by size, too).
const AUTO_SIDE: f32 = 256.0;
const AUTO_LARGEST: f32 = 512.0;
/// Both sizes count for faces around the limit, down to this part of it.
const AUTO_SHARED: f32 = 0.5;
/// Faces whose longer side is below this part of a tile's shorter one are seen whole in some tile or as a cut one in
/// others; of larger ones tiles may show nothing but parts.
const TILE_WHOLE: f32 = 0.4;
/// Any side of a face.
const ANY: (f32, f32) = (0.0, f32::INFINITY);
/// A box that ends closer to the inner edge of a tile than this part of its side is cut there.
const CUT_MARGIN: f32 = 0.05;

/// Sizes at which a frame is looked at, as factors of what the input size makes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// Once, and where that input is large a second time at a small size, for faces that fill it.
    Auto,
    /// At each of these.
    Each(Arc<[f32]>),
}

/// How a frame is cut up, beside being looked at as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiles {
    /// Not at all.
    #[default]
    None,
    /// Into as many tiles of the input size as cover it at full resolution.
    Auto,
    /// Into so many columns and rows, each as large as the input size says.
    Grid(usize, usize),
}

/// Where and at which sizes a frame is looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Looks {
    /// At which sizes.
    pub scales: Scales,
    /// Whether also in a mirror.
    pub flip: bool,
    /// Whether also in parts.
    pub tiles: Tiles,
    /// Only within these, in frame pixels; none: the whole frame.
    pub rois: Arc<[Rect]>,
}

impl Default for Scales {
    fn default() -> Self {
        Self::Each([1.0].into())
    }
}

impl Default for Looks {
    fn default() -> Self {
        Self { scales: Scales::default(), flip: false, tiles: Tiles::None, rois: [].into() }
    }
}

impl FromStr for Scales {
    type Err = String;

    /// Reads `auto`, or factors as `1.0,0.2`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let factor = |text: &str| {
            let factor = number(text)?;
            if SCALES.contains(&factor) { Ok(factor) } else { Err(format!("{factor} is not within 0.01 to 16")) }
        };
        let factors = text.split(',').map(factor).collect::<Result<Vec<_>, _>>()?;
        if factors.len() > MOST { Err(format!("more than {MOST} scales")) } else { Ok(Self::Each(factors.into())) }
    }
}

impl FromStr for Tiles {
    type Err = String;

    /// Reads `none`, `auto`, or columns and rows as `3x2`.
    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.trim().parse::<usize>().ok().filter(|count| (1..=MOST).contains(count));
        match text.trim() {
            "" | "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            grid => {
                let (cols, rows) = grid.split_once('x').unwrap_or((grid, ""));
                let (cols, rows) = side(cols).zip(side(rows)).ok_or_else(|| {
                    format!("`{grid}` is neither `none`, `auto` nor columns and rows up to {MOST}, as in 3x2")
                })?;
                Ok(Self::Grid(cols, rows))
            }
        }
    }
}

/// Reads regions as `x,y,width,height`, `;` between several.
///
/// # Errors
/// If a region has other than four numbers, or no area.
pub fn rois(text: &str) -> Result<Arc<[Rect]>, String> {
    let roi = |text: &str| match text.split(',').map(number).collect::<Result<Vec<_>, _>>()?[..] {
        [x, y, w, h] if w > 0.0 && h > 0.0 => Ok(Rect::new(x, y, w, h)),
        _ => Err(format!("`{}` is not x,y,width,height with a width and height above 0", text.trim())),
    };
    let parts = text.split(';').filter(|part| !part.trim().is_empty());
    let rois = parts.map(roi).collect::<Result<Vec<_>, _>>()?;
    if rois.len() > MOST { Err(format!("more than {MOST} regions")) } else { Ok(rois.into()) }
}

/// One look at a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Look {
    /// The part of the frame.
    pub(crate) region: Region,
    /// Where it lies in the model's input.
    pub(crate) letterbox: Letterbox,
    /// Whether it is seen in a mirror.
    pub(crate) flipped: bool,
    /// The longer side in input pixels of faces that count, from and to.
    sides: (f32, f32),
    /// The longer side in input pixels of faces that are seen whole, whatever lies where. What is found within a larger
    /// one is a part of it.
    whole: f32,
    /// Which of its edges (left, top, right, bottom) have more of the frame behind them, seen by another look.
    inner: [bool; 4],
}

impl Look {
    /// A face in this look's input, in frame pixels; none if it is not for this look.
    pub(crate) fn in_frame(&self, face: &Face) -> Option<Candidate> {
        let side = face.rect.w.max(face.rect.h);
        if side < self.sides.0 || side > self.sides.1 {
            return None;
        }
        let width = self.region.width as f32;
        let (left, top) = (self.region.x as f32, self.region.y as f32);
        let mut face = face.mapped(|point| self.letterbox.frame_from_input(point));
        if self.flipped {
            face.rect.x = width - face.rect.right();
            let mirrored = |point: Point| Point::new(width - point.x, point.y);
            // What was at the left is at the right.
            face.landmarks = face.landmarks.map(|[a, b, nose, c, d]| [b, a, nose, d, c].map(mirrored));
        }
        let rect = face.rect;
        // What lies in the padding alone.
        rect.clipped(width, self.region.height as f32)?;
        let (margin_x, margin_y) = (CUT_MARGIN * rect.w, CUT_MARGIN * rect.h);
        let ends = [
            rect.x < margin_x,
            rect.y < margin_y,
            rect.right() > width - margin_x,
            rect.bottom() > self.region.height as f32 - margin_y,
        ];
        let cut = ends.iter().zip(self.inner).any(|(ends, inner)| *ends && inner);
        let whole = self.whole * width / self.letterbox.content().0 as f32;
        Some(Candidate { face: face.mapped(|point| Point::new(point.x + left, point.y + top)), cut, whole })
    }
}

/// All looks at a frame of `width` x `height`; none where no region lies in it.
pub(crate) fn plan((width, height): (usize, usize), contract: &Contract, size: InputSize, looks: &Looks) -> Vec<Look> {
    let regions = match &looks.rois[..] {
        [] => vec![Region { x: 0, y: 0, width, height }],
        rois => rois.iter().filter_map(|roi| covered(*roi, width, height)).collect(),
    };
    let mut plan = Vec::new();
    for &region in &regions {
        let letterbox = |scale| contract.letterbox(region.width, region.height, size, scale);
        let inner = shared_edges(region, &regions);
        for Scale { factor, sides, whole } in scales(&looks.scales, letterbox(1.0)) {
            plan.push(Look { region, letterbox: letterbox(factor), flipped: false, sides, whole, inner });
        }
        for (tile, edges) in tiles(region, contract, size, looks.tiles) {
            let size = if looks.tiles == Tiles::Auto { InputSize::Native } else { size };
            let letterbox = contract.letterbox(tile.width, tile.height, size, 1.0);
            let (cols, rows) = letterbox.content();
            let inner = std::array::from_fn(|edge| edges[edge] || inner[edge]);
            let whole = TILE_WHOLE * cols.min(rows) as f32;
            plan.push(Look { region: tile, letterbox, flipped: false, sides: ANY, whole, inner });
        }
    }
    if looks.flip {
        plan = plan.into_iter().flat_map(|look| [look, Look { flipped: true, ..look }]).collect();
    }
    plan
}

/// Which edges of a region (left, top, right, bottom) lie within another one.
fn shared_edges(region: Region, regions: &[Region]) -> [bool; 4] {
    let end = |region: &Region| (region.x + region.width, region.y + region.height);
    let (right, bottom) = end(&region);
    let meet = |other: &&Region| {
        let (other_right, other_bottom) = end(other);
        other.x < right && region.x < other_right && other.y < bottom && region.y < other_bottom
    };
    let mut shared = [false; 4];
    for other in regions.iter().filter(|other| **other != region).filter(meet) {
        let (other_right, other_bottom) = end(other);
        let within = [other.x < region.x, other.y < region.y, other_right > right, other_bottom > bottom];
        shared.iter_mut().zip(within).for_each(|(shared, within)| *shared |= within);
    }
    shared
}

/// A size at which a region is looked at.
struct Scale {
    factor: f32,
    /// As in [`Look`].
    sides: (f32, f32),
    whole: f32,
}

/// All sizes, where the region lies so in the input at the first.
fn scales(scales: &Scales, letterbox: Letterbox) -> Vec<Scale> {
    let all = |factor| Scale { factor, sides: ANY, whole: f32::INFINITY };
    let (cols, rows) = letterbox.content();
    let longest = cols.max(rows);
    match scales {
        Scales::Each(factors) => factors.iter().copied().map(all).collect(),
        Scales::Auto if longest < AUTO_FROM => vec![all(1.0)],
        Scales::Auto => {
            let factor = AUTO_SIDE / longest as f32;
            let small = (AUTO_SHARED * AUTO_LARGEST * factor, f32::INFINITY);
            vec![
                Scale { factor: 1.0, sides: (0.0, AUTO_LARGEST), whole: AUTO_LARGEST },
                Scale { factor, sides: small, whole: f32::INFINITY },
            ]
        }
    }
}

/// The pixels of a frame that a region covers, beginning at even ones, where colour samples do.
fn covered(roi: Rect, width: usize, height: usize) -> Option<Region> {
    let part = roi.clipped(width as f32, height as f32)?;
    let (x, y) = (part.x as usize & !1, part.y as usize & !1);
    let (right, bottom) = ((part.right().ceil() as usize).min(width), (part.bottom().ceil() as usize).min(height));
    (x < right && y < bottom).then(|| Region { x, y, width: right - x, height: bottom - y })
}

/// Tiles of a region, all of one size, with the edges that they have within it.
fn tiles(region: Region, contract: &Contract, size: InputSize, tiles: Tiles) -> Vec<(Region, [bool; 4])> {
    let (spans_x, spans_y) = match tiles {
        Tiles::None => return Vec::new(),
        Tiles::Auto => {
            let (width, height) = match (contract.fixed_size, size) {
                (Some(sides), _) => sides,
                (None, InputSize::Fixed(width, height)) => (width, height),
                (None, InputSize::Longest(side)) => (side, side),
                (None, InputSize::Native) => (TILE, TILE),
            };
            (spans_of(region.width, width), spans_of(region.height, height))
        }
        Tiles::Grid(cols, rows) => {
            let spans = |len, count| spread(len, side_of(len, count), count);
            (spans(region.width, cols), spans(region.height, rows))
        }
    };
    if spans_x.len() * spans_y.len() <= 1 {
        return Vec::new();
    }
    let mut all = Vec::new();
    for &(y, height) in &spans_y {
        for &(x, width) in &spans_x {
            let inner = [x > 0, y > 0, x + width < region.width, y + height < region.height];
            all.push((Region { x: region.x + x, y: region.y + y, width, height }, inner));
        }
    }
    all
}

/// As many spans of `side` as cover `len` with their overlap.
fn spans_of(len: usize, side: usize) -> Vec<(usize, usize)> {
    let side = side.clamp(1, len);
    let overlap = (side as f32 * TILE_OVERLAP) as usize;
    let count = len.saturating_sub(overlap).div_ceil((side - overlap).max(1)).max(1);
    if count > MOST { spread(len, side_of(len, MOST), MOST) } else { spread(len, side, count) }
}

/// The side of `count` spans that cover `len` with their overlap.
fn side_of(len: usize, count: usize) -> usize {
    let parts = count as f32 - (count - 1) as f32 * TILE_OVERLAP;
    ((len as f32 / parts).ceil() as usize).clamp(1, len)
}

/// `count` spans of `side`, or one more, the first at the beginning of `len` and the last at its end. All begin at even
/// pixels, where colour samples do.
fn spread(len: usize, side: usize, count: usize) -> Vec<(usize, usize)> {
    let side = if (len - side).is_multiple_of(2) { side } else { side + 1 };
    let room = len - side;
    let at = |index: usize| if count > 1 { (room * index / (count - 1)) & !1 } else { 0 };
    let mut spans = (0..count).map(|index| (at(index), side)).collect::<Vec<_>>();
    spans.dedup();
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Input;
    use crate::families::{self, Recognised};
    use crate::merge::{Merge, merge};
    use proptest::prelude::*;

    fn contract(fixed_size: Option<(usize, usize)>) -> Contract {
        let input = Input { name: "input".to_owned(), channels: 3, fixed_size, dynamic_batch: true };
        let family = &families::RETINAFACE;
        let recognised = Recognised { family, layout: family.layout(), outputs: vec![] };
        Contract::of_faces(input, &[], recognised, false, family.normalization)
    }

    fn planned(frame: (usize, usize), size: InputSize, looks: &Looks) -> Vec<Look> {
        plan(frame, &contract(None), size, looks)
    }

    fn face(score: f32, x: f32, y: f32, side: f32) -> Face {
        let landmarks = std::array::from_fn(|index| Point::new(x + index as f32, y + 2.0 * index as f32));
        Face { score, rect: Rect::new(x, y, side, side), landmarks: Some(landmarks), ..Face::default() }
    }

    #[test]
    fn a_frame_is_looked_at_once_unless_more_is_said() {
        let plan = planned((1920, 1080), InputSize::Longest(640), &Looks::default());
        let [look] = plan.as_slice() else { panic!("{plan:?}") };
        assert_eq!(look.letterbox, Letterbox::new(1920, 1080, InputSize::Longest(640)));
        assert_eq!(look.region, Region { x: 0, y: 0, width: 1920, height: 1080 });
        let same = look.in_frame(&face(0.9, 320.0, 0.0, 10.0)).unwrap();
        assert_eq!((same.face.rect, same.cut), (Rect::new(960.0, 0.0, 30.0, 30.0), false));
    }

    #[test]
    fn each_scale_is_a_look_and_auto_adds_a_small_one_to_a_large_input() {
        let inputs = |scales: &str, size| {
            let looks = Looks { scales: scales.parse().unwrap(), ..Looks::default() };
            planned((1920, 1080), size, &looks).iter().map(|look| look.letterbox.content()).collect::<Vec<_>>()
        };
        assert_eq!(inputs("1.0,0.2", InputSize::Longest(640)), [(640, 360), (128, 72)]);
        assert_eq!(inputs("auto", InputSize::Longest(640)), [(640, 360), (256, 144)]);
        assert_eq!(inputs("auto", InputSize::Longest(320)), [(320, 180)]);
        assert_eq!(inputs("auto", InputSize::Native), [(1920, 1080), (256, 144)]);
    }

    #[test]
    fn with_auto_the_small_size_is_for_the_faces_that_the_large_one_is_not_for() {
        let looks = Looks { scales: Scales::Auto, ..Looks::default() };
        let plan = planned((1920, 1080), InputSize::Native, &looks);
        let counts = |side: f32| {
            let factor = 256.0 / 1920.0;
            [plan[0].in_frame(&face(0.9, 0.0, 0.0, side)), plan[1].in_frame(&face(0.9, 0.0, 0.0, side * factor))]
                .map(|found| found.is_some())
        };
        assert_eq!([20.0, 400.0, 900.0].map(counts), [[true, false], [true, true], [false, true]]);
    }

    #[test]
    fn a_mirror_image_comes_back_with_left_and_right_as_they_are() {
        let looks = Looks { flip: true, ..Looks::default() };
        let plan = planned((640, 480), InputSize::Native, &looks);
        let [plain, mirror] = plan.as_slice() else { panic!("{plan:?}") };
        let found = face(0.9, 100.0, 50.0, 40.0);
        let [left, right, nose, mouth_left, mouth_right] = found.landmarks.unwrap();
        // The same face, seen in the mirror.
        let turned = |point: Point| Point::new(640.0 - point.x, point.y);
        let seen = Face {
            rect: Rect::new(640.0 - 140.0, 50.0, 40.0, 40.0),
            landmarks: Some([right, left, nose, mouth_right, mouth_left].map(turned)),
            ..found.clone()
        };
        assert_eq!(plain.in_frame(&found), mirror.in_frame(&seen));
    }

    #[test]
    fn auto_tiles_cover_4k_at_full_resolution_in_one_shape() {
        let looks = Looks { tiles: Tiles::Auto, ..Looks::default() };
        let plan = planned((3840, 2160), InputSize::Longest(640), &looks);
        assert_eq!(plan[0].letterbox.content(), (640, 360), "the whole frame first");
        let tiles = &plan[1..];
        assert_eq!(tiles.len(), 8 * 4);
        assert!(
            tiles.iter().all(|tile| tile.letterbox.input() == (640, 640) && tile.letterbox.content() == (640, 640))
        );
        let last = tiles.last().unwrap();
        assert_eq!((last.region.x + 640, last.region.y + 640), (3840, 2160));
        assert_eq!((tiles[0].inner, last.inner), ([false, false, true, true], [true, true, false, false]));
        // A small frame is one tile, which is the whole frame.
        assert_eq!(planned((640, 360), InputSize::Longest(640), &looks).len(), 1);
    }

    #[test]
    fn a_grid_is_as_said_and_of_the_input_size() {
        let looks = Looks { tiles: "3x2".parse().unwrap(), ..Looks::default() };
        let plan = planned((1920, 1080), InputSize::Longest(640), &looks);
        assert_eq!(plan.len(), 1 + 6);
        assert!(plan[1..].iter().all(|tile| tile.letterbox.content().0 == 640));
        let fixed = super::plan((1920, 1080), &contract(Some((320, 320))), InputSize::Longest(640), &looks);
        assert!(fixed.iter().all(|look| look.letterbox.input() == (320, 320)));
    }

    #[test]
    fn regions_are_clipped_and_those_outside_are_not_looked_at() {
        let looks = Looks {
            rois: rois("-50,-50,150,150; 1900,1000,500,500;5000,0,10,10; 11.5,13,20,20").unwrap(),
            ..Looks::default()
        };
        let plan = planned((1920, 1080), InputSize::Longest(640), &looks);
        let regions = plan.iter().map(|look| look.region).collect::<Vec<_>>();
        let region = |x, y, width, height| Region { x, y, width, height };
        assert_eq!(regions, [region(0, 0, 100, 100), region(1900, 1000, 20, 80), region(10, 12, 22, 21)]);
        let found = plan[1].in_frame(&face(0.9, 0.0, 0.0, 64.0)).unwrap().face;
        assert_eq!((found.rect.x, found.rect.y), (1900.0, 1000.0));
        let in_padding = Face { rect: Rect::new(300.0, 0.0, 20.0, 20.0), ..Face::default() };
        assert_eq!(plan[1].in_frame(&in_padding), None, "it lies beside the region, if within the frame");
        let outside = Looks { rois: rois("5000,0,10,10").unwrap(), ..Looks::default() };
        assert_eq!(planned((1920, 1080), InputSize::Native, &outside), []);
    }

    #[test]
    fn a_face_on_a_seam_is_found_once_and_whole() {
        let looks = Looks { tiles: Tiles::Grid(2, 1), ..Looks::default() };
        let plan = planned((1000, 200), InputSize::Native, &looks);
        let [_, left, right] = plan.as_slice() else { panic!("{plan:?}") };
        // 556 px wide each: 0..556 and 444..1000. The face at 500..570 is cut off in the left one.
        let half = left.in_frame(&face(0.95, 500.0, 50.0, 60.0)).unwrap();
        let whole = right.in_frame(&face(0.90, 56.0, 50.0, 70.0)).unwrap();
        assert!(half.cut && !whole.cut, "{half:?} {whole:?}");
        let merged = merge(vec![half.clone(), whole.clone()], Merge::Nms, 0.4);
        assert_eq!(merged, [whole.face]);
        // One that no look saw whole is kept.
        assert_eq!(merge(vec![half.clone()], Merge::Nms, 0.4), [half.face]);
    }

    #[test]
    fn regions_that_overlap_share_their_faces() {
        let looks = Looks { rois: rois("0,0,400,400;300,0,400,400").unwrap(), ..Looks::default() };
        let plan = planned((1920, 1080), InputSize::Native, &looks);
        assert_eq!(
            plan.iter().map(|look| look.inner).collect::<Vec<_>>(),
            [[false, false, true, false], [true, false, false, false]]
        );
        let half = plan[0].in_frame(&face(0.95, 350.0, 50.0, 52.0)).unwrap();
        let whole = plan[1].in_frame(&face(0.9, 50.0, 50.0, 80.0)).unwrap();
        assert_eq!(merge(vec![half, whole.clone()], Merge::Nms, 0.4), [whole.face]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (error, part) in [
            ("".parse::<Scales>().unwrap_err(), "`` is not a number"),
            ("1,x".parse::<Scales>().unwrap_err(), "`x` is not a number"),
            ("0".parse::<Scales>().unwrap_err(), "0 is not within"),
            (["1"; 99].join(",").parse::<Scales>().unwrap_err(), "more than 64"),
            ("3".parse::<Tiles>().unwrap_err(), "as in 3x2"),
            ("0x2".parse::<Tiles>().unwrap_err(), "as in 3x2"),
            (rois("1,2,3").unwrap_err(), "x,y,width,height"),
            (rois("1,2,3,0").unwrap_err(), "above 0"),
            (rois("1,2,3,nan").unwrap_err(), "`nan` is not a number"),
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(rois(" ; ").unwrap().len(), 0);
    }

    proptest! {
        #[test]
        fn tiles_cover_the_region_and_share_enough_for_a_face(width in 1usize..5000, height in 1usize..3000, side in 64usize..1000) {
            let region = Region { x: 0, y: 0, width, height };
            let tiles = tiles(region, &contract(None), InputSize::Longest(side), Tiles::Auto);
            for (tile, _) in &tiles {
                prop_assert!(tile.x + tile.width <= width && tile.y + tile.height <= height);
            }
            // A face of half of what tiles share, anywhere, is whole in one.
            let face = side / 10;
            for (x, y) in [(0, 0), (width / 2, height / 2), (width / 3, height / 5), (width - 1, height - 1)] {
                let (x, y) = (x.min(width.saturating_sub(face)), y.min(height.saturating_sub(face)));
                let holds = |tile: &Region| {
                    let fits = |from: usize, len: usize, at: usize, whole: usize| from <= at && (at + face).min(whole) <= from + len;
                    fits(tile.x, tile.width, x, width) && fits(tile.y, tile.height, y, height)
                };
                prop_assert!(tiles.is_empty() || tiles.iter().any(|(tile, _)| holds(tile)));
            }
        }
    }
}
