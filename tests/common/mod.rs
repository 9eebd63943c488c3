//! What the tests of both packages share: where files are, and the Python references' numbers.

#![allow(dead_code, reason = "each test file uses its part of this")]
#![allow(unreachable_pub, reason = "a module of many test crates")]

use std::path::{Path, PathBuf};

use retinaface::detector::SharedModel;
use retinaface::face::{Face, Landmarks, Point, Rect, iou};
use retinaface::model::Options;
use serde::Deserialize;

/// The project's folder, from the package of either.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = if package.join("plugins").is_dir() { package.to_path_buf() } else { package.join("../..") };
    root.canonicalize().unwrap()
}

/// A file that `make setup` brought.
pub fn fetched(path: &str) -> PathBuf {
    let file = root().join(".fetch").join(path);
    assert!(file.exists(), "{} is not there: run `make setup`", file.display());
    file
}

pub fn media(name: &str) -> PathBuf {
    fetched("media").join(name)
}

pub fn default_model() -> PathBuf {
    fetched("models/retinaface_mnet025.onnx")
}

/// A file of the test material beside the project, or `None` where it is not there. In CI it must be.
pub fn shared(path: &str) -> Option<PathBuf> {
    let file = root().join("../shared").join(path);
    if file.exists() {
        return Some(file);
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{} is missing in CI", file.display());
    eprintln!("not run: {} is not there", file.display());
    None
}

pub fn open_default() -> std::sync::Arc<SharedModel> {
    SharedModel::open(&default_model(), &Options::default()).unwrap()
}

/// tests/fixtures/reference.json; tests/reference/make_reference.py says how it was made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    pub photos: Vec<Picture>,
    pub frames: Vec<Picture>,
    pub crops: Vec<Crop>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Picture {
    pub source: String,
    pub sha256: String,
    pub frame: Option<usize>,
    pub faces: Vec<ReferenceFace>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceFace {
    pub score: f32,
    #[serde(rename = "box")]
    pub rect: [f32; 4],
    pub landmarks: [f32; 10],
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crop {
    pub source: String,
    pub size: usize,
    pub landmarks: [f32; 10],
    pub matrix: [[f64; 3]; 2],
    pub step: Option<usize>,
    pub pixels: Option<Vec<u8>>,
    pub file: Option<String>,
}

pub fn reference() -> Reference {
    let text = std::fs::read_to_string(root().join("tests/fixtures/reference.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub fn points(values: &[f32; 10]) -> Landmarks {
    std::array::from_fn(|i| Point::new(values[2 * i], values[2 * i + 1]))
}

impl ReferenceFace {
    pub fn rect(&self) -> Rect {
        let [x, y, w, h] = self.rect;
        Rect { x, y, w, h }
    }
}

/// How far `faces` are from the reference's: the worst score, the worst box or landmark coordinate.
/// Fails unless each face of either is matched by one of the other.
pub fn assert_matched(name: &str, faces: &[Face], expected: &[ReferenceFace], max_score: f32, max_pixels: f32) {
    assert_eq!(faces.len(), expected.len(), "{name}: {faces:?} instead of {expected:?}");
    for (face, expected) in pairs(faces, expected) {
        let off = (face.score - expected.score).abs();
        assert!(off <= max_score, "{name}: score {} is not {}", face.score, expected.score);
        let is = [face.rect.x, face.rect.y, face.rect.right(), face.rect.bottom()];
        let rect = expected.rect();
        let should = [rect.x, rect.y, rect.right(), rect.bottom()];
        for (is, should) in is.iter().zip(should) {
            assert!((is - should).abs() <= max_pixels, "{name}: {:?} is not {rect:?}", face.rect);
        }
        for (is, should) in face.landmarks.unwrap().iter().zip(points(&expected.landmarks)) {
            let near = (is.x - should.x).abs() <= max_pixels && (is.y - should.y).abs() <= max_pixels;
            assert!(near, "{name}: landmark {is:?} is not {should:?}");
        }
    }
}

/// Each expected face with the one that overlaps it best.
pub fn pairs<'a>(faces: &'a [Face], expected: &'a [ReferenceFace]) -> Vec<(&'a Face, &'a ReferenceFace)> {
    let best = |expected: &'a ReferenceFace| {
        let overlap = |face: &Face| iou(face.rect, expected.rect());
        let face = faces.iter().max_by(|a, b| overlap(a).total_cmp(&overlap(b)))?;
        Some((face, expected))
    };
    expected.iter().filter_map(best).collect()
}

/// The sum over, and the number of, expected faces whose sides are above 32 px of the best overlap's IoU.
pub fn overlap_of_large(faces: &[Face], expected: &[ReferenceFace]) -> (f32, usize) {
    let large = expected.iter().filter(|face| face.rect[2].min(face.rect[3]) > 32.0);
    large.fold((0.0, 0), |(sum, count), expected| {
        let best = faces.iter().map(|face| iou(face.rect, expected.rect())).fold(0.0, f32::max);
        (sum + best, count + 1)
    })
}
