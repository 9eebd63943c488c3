//! Fuzz targets: each is a function that takes any bytes and must neither panic nor hang.
//!
//! `make fuzz` runs them with cargo-fuzz, that is libFuzzer with AddressSanitizer. The test `smoke`
//! runs them on the corpus and on random changes of it.

#![allow(clippy::unwrap_used, reason = "a panic is a finding")]

mod frame;

use std::path::{Path, PathBuf};

use retinaface::detect::{Scales, Tiles, parse_rois};
use retinaface::inference::ModelTask;
use retinaface::model::Overrides;
use retinaface::{DetectionSettings, Detector, Face, ImageInfo, ImageView, ModelOptions, PixelFormat, SharedModel};
use retinaface::{record, runtime};

pub use frame::frame;

/// The directory of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// An ONNX file, through the replacement of convolutions by the kernels.
pub fn model_graph(file: &[u8]) {
    if let Some((rewritten, count)) = runtime::with_kernels(file) {
        assert!(count > 0);
        // A second rewrite replaces no more convolutions than the first.
        let again = runtime::with_kernels(&rewritten);
        assert!(again.is_none_or(|(_, more)| more <= count));
    }
}

/// An ONNX file, through opening, the probe and a run.
pub fn model(file: &[u8]) {
    thread_local! {
        static DIRECTORY: tempfile::TempDir = tempfile::tempdir().unwrap();
    }
    let path = DIRECTORY.with(|directory| directory.path().join("model.onnx"));
    std::fs::write(&path, file).unwrap();
    for task in [ModelTask::Detection, ModelTask::Landmarks] {
        let options = ModelOptions { task, threads: 1, ..ModelOptions::default() };
        match SharedModel::open(&path, &options) {
            Ok(model) if task == ModelTask::Detection => {
                let pixels = [90; 48 * 3 * 64];
                let info = ImageInfo::new(PixelFormat::Bgr, 48, 64);
                let view = ImageView::new(info, &[&pixels], &[48 * 3]).unwrap();
                let detector = Detector::new(&model);
                let settings = DetectionSettings { refine_large_faces: true, ..DetectionSettings::default() };
                if let Ok(detection) = detector.detect(&view, &settings) {
                    assert!(detection.faces.iter().all(Face::is_finite));
                }
            }
            Ok(_) => {}
            Err(error) => assert!(error.to_string().contains("model.onnx"), "{error}"),
        }
    }
}

/// The model options of a user or of a file's metadata.
pub fn model_options(text: &[u8]) {
    let Ok(overrides) = String::from_utf8_lossy(text).parse::<Overrides>() else { return };
    assert_eq!(overrides.to_string().parse(), Ok(overrides));
}

/// The settings `scales`, `tiles` and `roi`.
pub fn views(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    if let Ok(Scales::Each(scales)) = text.parse() {
        assert!(scales.iter().all(|scale| *scale > 0.0 && scale.is_finite()));
    }
    if let Ok(Tiles::Grid(columns, rows)) = text.parse() {
        assert!(columns > 0 && rows > 0);
    }
    if let Ok(rois) = parse_rois(&text) {
        assert!(rois.iter().all(|roi| roi.w > 0.0 && roi.h > 0.0 && roi.x.is_finite() && roi.y.is_finite()));
    }
}

/// The last line of a file to which records are appended.
pub fn json_line(line: &[u8]) {
    // Only a record that this library began may be removed.
    if record::is_unfinished(line) {
        assert!(line.starts_with(b"{\"schema\":\"retinaface.frame/") || line.len() < 28);
    }
}

/// The parts of image files that this project reads itself: EXIF data, and the first frame of an
/// animation.
pub fn image_file(file: &[u8]) {
    use retinaface_cli::parsers;

    assert!((1..=8).contains(&parsers::orientation(file)));
    let _ = parsers::gif_first_frame(file);
    if let Some(frame) = parsers::webp_first_frame(file) {
        assert!(frame.len() <= file.len() + 20);
        assert!(parsers::webp_first_frame(&frame).is_none(), "the first frame is a still image");
    }
}

/// The ground truth of WIDER FACE.
pub fn mat_file(file: &[u8]) {
    let _ = retinaface_cli::parsers::mat_file(file);
}

/// True and predicted tracks, with an empty line between them; without one, the tracks are both.
pub fn tracks(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let (truth, predictions) = text.split_once("\n\n").unwrap_or((&text, &text));
    if let Ok(values) = retinaface_cli::parsers::tracks(truth, predictions) {
        let [metrics @ .., mota] = values;
        assert!(metrics.iter().all(|metric| (0.0..=1.0 + 1e-9).contains(metric)), "{metrics:?}");
        assert!(mota.is_finite() && mota <= 1.0, "{mota}");
    }
}
