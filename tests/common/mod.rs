//! Helpers for the integration tests of all packages: file paths, and the results of the Python
//! reference implementations.

#![allow(dead_code, reason = "each test crate uses a part of this module")]
#![allow(unreachable_pub, reason = "several test crates include this module")]

use std::path::{Path, PathBuf};

use retinaface::geometry::{Face, Landmarks, Point, Rect, iou};
use retinaface::{ModelOptions, SharedModel};
use serde::Deserialize;

/// The root of the repository.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.ancestors().find(|directory| directory.join("pipelines").is_dir());
    root.expect("the packages lie below the repository's root").canonicalize().unwrap()
}

/// A file that `make setup` has installed below `.fetch`.
pub fn fetched(path: &str) -> PathBuf {
    let file = root().join(".fetch").join(path);
    assert!(file.exists(), "{} is missing: run `make setup`", file.display());
    file
}

/// Whether `scripts/setup.sh` has installed a component below `.fetch`. In CI (`CI=true`) a missing
/// one is a failure. `option` installs it.
pub fn has_component(directory: &str, option: &str) -> bool {
    let is_installed = root().join(".fetch").join(directory).join(".complete").exists();
    let is_required = std::env::var_os("CI").is_some_and(|ci| ci == "true") && cfg!(target_arch = "x86_64");
    assert!(is_installed || !is_required, "{directory} is missing in CI: run `scripts/setup.sh {option}`");
    if !is_installed {
        eprintln!("skipped: run `scripts/setup.sh {option}` first");
    }
    is_installed
}

pub fn media(name: &str) -> PathBuf {
    fetched("media").join(name)
}

pub fn default_model() -> PathBuf {
    fetched("models/retinaface_mnet025.onnx")
}

/// Environment variable with the directory of the evaluation material, and its default relative to
/// the root.
pub const TEST_DATA_VARIABLE: &str = "RETINAFACE_TEST_DATA";
const DEFAULT_TEST_DATA: &str = "../shared";

/// A file of the evaluation material, or `None` if it is missing. In CI (`CI=true`) a missing file
/// is a failure.
pub fn shared(path: &str) -> Option<PathBuf> {
    let directory =
        std::env::var_os(TEST_DATA_VARIABLE).map_or_else(|| PathBuf::from(DEFAULT_TEST_DATA), PathBuf::from);
    let file = root().join(directory).join(path);
    if file.exists() {
        return Some(file);
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{} is missing in CI", file.display());
    eprintln!("skipped: {} is missing", file.display());
    None
}

pub fn open_default() -> std::sync::Arc<SharedModel> {
    SharedModel::open(&default_model(), &ModelOptions::default()).unwrap()
}

/// tests/fixtures/reference.json, written by tests/reference/make_reference.py.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    pub photos: Vec<ReferenceImage>,
    pub frames: Vec<ReferenceImage>,
    pub crops: Vec<Crop>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceImage {
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

/// Asserts that `faces` equals the reference: the same number of faces, scores within `max_score`,
/// and box edges and landmarks within `max_pixels`.
pub fn assert_matched(name: &str, faces: &[Face], expected: &[ReferenceFace], max_score: f32, max_pixels: f32) {
    assert_eq!(faces.len(), expected.len(), "{name}: {faces:?} instead of {expected:?}");
    for (face, expected) in pairs(faces, expected) {
        let difference = (face.score - expected.score).abs();
        assert!(difference <= max_score, "{name}: score {} is not {}", face.score, expected.score);
        let edges = |rect: Rect| [rect.x, rect.y, rect.right(), rect.bottom()];
        for (edge, expected_edge) in edges(face.rect).iter().zip(edges(expected.rect())) {
            let is_near = (edge - expected_edge).abs() <= max_pixels;
            assert!(is_near, "{name}: {:?} is not {:?}", face.rect, expected.rect());
        }
        for (point, expected) in face.landmarks.unwrap().iter().zip(points(&expected.landmarks)) {
            let is_near = (point.x - expected.x).abs() <= max_pixels && (point.y - expected.y).abs() <= max_pixels;
            assert!(is_near, "{name}: landmark {point:?} is not {expected:?}");
        }
    }
}

/// Pairs each expected face with the face of the highest IoU.
pub fn pairs<'a>(faces: &'a [Face], expected: &'a [ReferenceFace]) -> Vec<(&'a Face, &'a ReferenceFace)> {
    let best = |expected: &'a ReferenceFace| {
        let overlap = |face: &Face| iou(face.rect, expected.rect());
        let face = faces.iter().max_by(|a, b| overlap(a).total_cmp(&overlap(b)))?;
        Some((face, expected))
    };
    expected.iter().filter_map(best).collect()
}

/// The sum of the highest IoU of each expected face with sides above 32 px, and the number of these
/// faces.
pub fn overlap_of_large(faces: &[Face], expected: &[ReferenceFace]) -> (f32, usize) {
    let large = expected.iter().filter(|face| face.rect[2].min(face.rect[3]) > 32.0);
    large.fold((0.0, 0), |(sum, count), expected| {
        let best = faces.iter().map(|face| iou(face.rect, expected.rect())).fold(0.0, f32::max);
        (sum + best, count + 1)
    })
}
