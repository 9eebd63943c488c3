//! The detector families: recognition, decoding and views.
//!
//! tests/fixtures/families.json contains the results of the original implementations, created by
//! tests/reference/make_families.py; the models are part of the evaluation material.
//! tests/fixtures/models contains a small model of each layout, created by make_models.py. All of
//! them compute the same faces from an image.

use crate::common;
use opencv::core::{Mat, Size, Vec3b};
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::imgproc;
use opencv::prelude::*;
use retinaface::crops::align;
use retinaface::crops::align::Affine;
use retinaface::detect::{DetectionSettings, Detector, LandmarkFusion, Merge, Scales, Tiles, Views, parse_rois};
use retinaface::geometry::{Face, InputSize, Rect};
use retinaface::image::{ImageInfo, ImageView, OwnedImage, PixelFormat, Region};
use retinaface::inference::{Model, ModelOptions, Preprocessing, SharedModel};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Families {
    records: Vec<Record>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    model: String,
    source: String,
    sha256: String,
    crop: [usize; 4],
    score_threshold: f32,
    iou_threshold: f32,
    faces: Vec<FamilyFace>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FamilyFace {
    score: f32,
    #[serde(rename = "box")]
    rect: [f32; 4],
    landmarks: Option<[f32; 10]>,
}

struct Photo {
    pixels: Vec<u8>,
    info: ImageInfo,
}

impl Photo {
    fn open(name: &str) -> Self {
        let mat = imread(common::media(name), IMREAD_COLOR).unwrap();
        let info = ImageInfo::new(PixelFormat::Bgr, mat.cols() as usize, mat.rows() as usize);
        Self { pixels: mat.data_bytes().unwrap().to_vec(), info }
    }

    fn view(&self) -> ImageView<'_> {
        ImageView::new(self.info, &[&self.pixels], &[3 * self.info.width]).unwrap()
    }
}

/// The image in the top left corner of a BGR image of `width` x `height`, padded with `colour`.
fn padded(view: &ImageView<'_>, width: usize, height: usize, colour: [u8; 3]) -> Photo {
    let info = ImageInfo::new(PixelFormat::Bgr, width, height);
    let mut large = OwnedImage::new(info, vec![0; 3 * width * height]).unwrap();
    let identity = Affine::from_matrix([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);
    align::warp(view, &identity, &mut large.view_mut(), &mut Default::default()).unwrap();
    let mut pixels = large.data().to_vec();
    for (index, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        if index % width >= view.width() || index / width >= view.height() {
            *pixel = colour;
        }
    }
    Photo { pixels, info }
}

fn tiny(name: &str) -> std::path::PathBuf {
    common::root().join("tests/fixtures/models").join(name)
}

/// Asserts that scores are equal within 2e-3, and box edges and landmarks within 0.5 pixels.
fn assert_near(name: &str, faces: &[Face], expected: &[FamilyFace]) {
    assert_eq!(faces.len(), expected.len(), "{name}: {faces:?} instead of {expected:?}");
    for (face, expected) in faces.iter().zip(expected) {
        assert!((face.score - expected.score).abs() <= 2e-3, "{name}: {} is not {}", face.score, expected.score);
        let Rect { x, y, w, h } = face.rect;
        let [left, top, width, height] = expected.rect;
        let edges = [(x, left), (y, top), (x + w, left + width), (y + h, top + height)];
        let points = face.landmarks.iter().flatten().flat_map(|point| [point.x, point.y]);
        let points = points.zip(expected.landmarks.into_iter().flatten()).collect::<Vec<_>>();
        assert_eq!(points.len(), expected.landmarks.map_or(0, |points| points.len()), "{name}");
        assert_eq!(face.landmarks.is_some(), expected.landmarks.is_some(), "{name}");
        for (actual, expected_value) in edges.into_iter().chain(points) {
            assert!((actual - expected_value).abs() <= 0.5, "{name}: {face:?} is not {expected:?}");
        }
    }
}

#[test]
fn faces_of_each_family_match_original_implementation() {
    let text = std::fs::read_to_string(common::root().join("tests/fixtures/families.json")).unwrap();
    let families = serde_json::from_str::<Families>(&text).unwrap();
    assert!(families.records.len() >= 14);
    for record in families.records {
        let Some(path) = common::shared(&format!("models/{}", record.model)) else { continue };
        let photo = Photo::open(&record.source);
        assert_eq!(record.sha256.len(), 64);
        let [x, y, width, height] = record.crop;
        let crop = photo.view().crop(Region { x, y, width, height }).unwrap();
        let fixed = Model::open(&path, &ModelOptions::default()).unwrap().spec().fixed_size;
        // The references pad to the fixed input size: biubug6 with the mean colour, the others with
        // black. Without this padding the detector would enlarge the crop.
        let colour = if record.model.contains("biubug6") { [104, 117, 123] } else { [0; 3] };
        let padded = fixed.map(|(width, height)| padded(&crop, width, height, colour));
        let crop = padded.as_ref().map_or(crop, Photo::view);
        let settings = DetectionSettings {
            score_threshold: record.score_threshold,
            iou_threshold: record.iou_threshold,
            input_size: InputSize::Native,
            landmark_fusion: LandmarkFusion::None,
            ..DetectionSettings::default()
        };
        // Its operator set 9 is too old for the nodes of the device graph.
        let has_old_opset = record.model == "retinaface_biubug6_fixed640.onnx";
        let modes =
            if has_old_opset { &[Preprocessing::Cpu][..] } else { &[Preprocessing::Cpu, Preprocessing::Device] };
        for &preprocessing in modes {
            let model = SharedModel::open(&path, &ModelOptions { preprocessing, ..ModelOptions::default() }).unwrap();
            let found = Detector::new(&model).detect(&crop, &settings).unwrap();
            let name = format!("{} on {} {:?} {preprocessing:?}", record.model, record.source, record.crop);
            assert_near(&name, &found.faces, &record.faces);
        }
    }
}

#[test]
fn every_layout_is_recognised_and_described() {
    for (file, family, part) in [
        ("biubug6.onnx", "RetinaFace (biubug6)", "3 outputs"),
        ("biubug6_logits.onnx", "RetinaFace (biubug6)", "logits"),
        (
            "biubug6_extra.onnx",
            "RetinaFace (biubug6)",
            "output `embedding` does not belong to the layout and is ignored",
        ),
        ("insightface.onnx", "RetinaFace (InsightFace)", "9 outputs"),
        ("ssh.onnx", "SSH", "6 outputs"),
        ("scrfd.onnx", "SCRFD", "9 outputs"),
        ("scrfd_rank2.onnx", "SCRFD", "score_8 [A, 1] of stride 8, probabilities"),
        ("scrfd_nokps.onnx", "SCRFD without keypoints", "6 outputs"),
        ("yunet.onnx", "YuNet", "12 outputs"),
        ("yunet_fixed.onnx", "YuNet", "[1, 3, 64, 96]"),
        ("wide_batch1.onnx", "RetinaFace (biubug6)", "[1, 3, height, width]"),
        ("metadata.onnx", "RetinaFace (InsightFace)", "(BGR - [104.0, 117.0, 123.0]) * 0.0078125"),
    ] {
        let model =
            Model::open(&tiny(file), &ModelOptions::default()).unwrap_or_else(|error| panic!("{file}: {error}"));
        let spec = model.spec();
        assert_eq!(spec.family, family, "{file}");
        let text = spec.to_string();
        assert!(text.contains(part), "{file}: {text}");
    }
}

/// A dark BGR image of `side` x `side` with a bright region.
fn bright_region(side: usize, bright: Region) -> Vec<u8> {
    let mut pixels = vec![10; 3 * side * side];
    for row in bright.y..bright.y + bright.height {
        pixels[3 * (row * side + bright.x)..3 * (row * side + bright.x + bright.width)].fill(250);
    }
    pixels
}

#[test]
fn scores_do_not_depend_on_layout_or_device_graph() {
    const SIDE: usize = 96;
    let pixels = bright_region(SIDE, Region { x: 32, y: 32, width: 32, height: 32 });
    let view = ImageView::new(ImageInfo::new(PixelFormat::Bgr, SIDE, SIDE), &[&pixels], &[3 * SIDE]).unwrap();
    let settings = DetectionSettings {
        input_size: InputSize::Native,
        iou_threshold: 1.0,
        score_threshold: 0.3,
        ..DetectionSettings::default()
    };
    let mut expected = None::<Vec<f32>>;
    for file in [
        "biubug6.onnx",
        "biubug6_logits.onnx",
        "biubug6_extra.onnx",
        "insightface.onnx",
        "ssh.onnx",
        "scrfd.onnx",
        "scrfd_rank2.onnx",
        "scrfd_nokps.onnx",
        "yunet.onnx",
        "metadata.onnx",
    ] {
        let detect = |preprocessing| {
            let model =
                SharedModel::open(&tiny(file), &ModelOptions { preprocessing, ..ModelOptions::default() }).unwrap();
            Detector::new(&model).detect(&view, &settings).unwrap().faces
        };
        let (on_cpu, in_graph) = (detect(Preprocessing::Cpu), detect(Preprocessing::Device));
        assert!(!on_cpu.is_empty(), "{file}");
        assert_eq!(on_cpu.len(), in_graph.len(), "{file}");
        for face in &on_cpu {
            let is_near = |other: &Face| {
                let values = |face: &Face| {
                    let points = face.landmarks.iter().flatten().flat_map(|point| [point.x, point.y]);
                    let Rect { x, y, w, h } = face.rect;
                    [100.0 * face.score, x, y, w, h].into_iter().chain(points).collect::<Vec<_>>()
                };
                values(face).iter().zip(values(other)).all(|(a, b)| (a - b).abs() < 0.05)
            };
            assert!(in_graph.iter().any(is_near), "{file}: {face:?} is not in {in_graph:?}");
        }
        if file.starts_with("yunet") {
            continue;
        }
        let scores = on_cpu.iter().map(|face| face.score).collect::<Vec<_>>();
        let expected = expected.get_or_insert_with(|| scores.clone());
        assert_eq!(scores.len(), expected.len(), "{file}");
        for (actual, expected_score) in scores.iter().zip(expected.iter()) {
            assert!((actual - expected_score).abs() < 2e-3, "{file}: {scores:?} are not {expected:?}");
        }
    }
}

#[test]
fn options_take_precedence_over_metadata_and_layout() {
    let open = |overrides: &str| {
        let options = ModelOptions { overrides: overrides.parse().unwrap(), ..ModelOptions::default() };
        Model::open(&tiny("metadata.onnx"), &options)
    };
    let text = open("mean=1,2,3; color-order=RGB").unwrap().spec().to_string();
    assert!(text.contains("(RGB - [1.0, 2.0, 3.0]) * 0.0078125"), "{text}");
    assert!(text.contains("overridden model parameters: color-order=RGB; mean=1,2,3"), "{text}");
    assert!(text.contains("0.2 (landmarks)"), "{text}");
    let error = open("strides=4,8,16").unwrap_err().to_string();
    assert!(error.contains("not a detector") && error.contains("stride 4"), "{error}");
    let anchors = ModelOptions {
        overrides: "anchors=32,16,48,24/128,64,192,96/512,256,768,384".parse().unwrap(),
        ..ModelOptions::default()
    };
    let model = Model::open(&tiny("odd_anchors.onnx"), &anchors).unwrap();
    assert_eq!(model.spec().layout().unwrap().levels[0].anchors, [32.0, 16.0, 48.0, 24.0]);
}

#[test]
fn unknown_metadata_key_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("model.onnx");
    // An element of a repeated field of a protocol buffer can be appended to the file. Field 14,
    // `metadata_props`, consists of keys and values.
    let (key, value) = (b"retinaface.means", b"1");
    let entry = [&[0x0A, key.len() as u8][..], key, &[0x12, value.len() as u8], value].concat();
    let bytes = [std::fs::read(tiny("insightface.onnx")).unwrap(), vec![0x72, entry.len() as u8], entry].concat();
    std::fs::write(&file, bytes).unwrap();
    let text = Model::open(&file, &ModelOptions::default()).unwrap().spec().to_string();
    assert!(text.contains("unknown metadata key retinaface.means is ignored; known keys: color-order"), "{text}");
}

/// Whether each face in `found` overlaps exactly one face in `expected` with an IoU above
/// `overlap`, and their numbers are equal.
fn same_faces(found: &[Face], expected: &[Face], overlap: f32) -> bool {
    let same = |face: &Face| {
        let overlaps = expected.iter().filter(|other| retinaface::geometry::iou(face.rect, other.rect) > overlap);
        overlaps.count() == 1
    };
    found.len() == expected.len() && found.iter().all(same)
}

#[test]
fn each_face_is_found_once_in_all_views() {
    let detector = Detector::new(&common::open_default());
    let photo = Photo::open("multi_face.jpg");
    let detect = |settings: &DetectionSettings| detector.detect(&photo.view(), settings).unwrap().faces;
    let plain = detect(&DetectionSettings::default());
    assert_eq!(plain.len(), 5);
    for views in [
        Views { scales: "1.0,0.5".parse().unwrap(), ..Views::default() },
        Views { scales: "auto".parse().unwrap(), ..Views::default() },
        Views { flip: true, ..Views::default() },
        Views { tiles: Tiles::Auto, ..Views::default() },
        Views { tiles: Tiles::Grid(3, 2), flip: true, scales: "1.0,1.5".parse().unwrap(), ..Views::default() },
    ] {
        for merge in [Merge::Nms, Merge::Vote] {
            let found = detect(&DetectionSettings { views: views.clone(), merge, ..DetectionSettings::default() });
            assert!(same_faces(&found, &plain, 0.6), "{views:?} {merge:?}: {found:?} instead of {plain:?}");
        }
    }
    // The flipped view does not exchange left and right landmarks.
    let with_flip = detect(&DetectionSettings {
        views: Views { flip: true, ..Views::default() },
        merge: Merge::Vote,
        ..DetectionSettings::default()
    });
    for (face, other) in plain.iter().flat_map(|face| with_flip.iter().map(move |other| (face, other))) {
        if retinaface::geometry::iou(face.rect, other.rect) > 0.6 {
            let side = face.rect.w.max(face.rect.h);
            for (a, b) in face.landmarks.unwrap().iter().zip(other.landmarks.unwrap()) {
                assert!((a.x - b.x).hypot(a.y - b.y) < 0.06 * side, "{face:?} {other:?}");
            }
        }
    }
}

#[test]
fn detection_is_limited_to_regions() {
    let detector = Detector::new(&common::open_default());
    let photo = Photo::open("multi_face.jpg");
    let all = detector.detect(&photo.view(), &DetectionSettings::default()).unwrap().faces;
    let around = |face: &Face| {
        let Rect { x, y, w, h } = face.rect;
        format!("{},{},{},{}", x - w / 2.0, y - h / 2.0, 2.0 * w, 2.0 * h)
    };
    let detect = |roi: &str| {
        let views = Views { rois: parse_rois(roi).unwrap(), ..Views::default() };
        detector.detect(&photo.view(), &DetectionSettings { views, ..DetectionSettings::default() }).unwrap().faces
    };
    for face in &all {
        let found = detect(&around(face));
        assert!(
            found.iter().any(|other| retinaface::geometry::iou(face.rect, other.rect) > 0.6),
            "{face:?}: {found:?}"
        );
    }
    let two = detect(&format!("{};{};9000,0,10,10", around(&all[0]), around(&all[1])));
    assert!(two.len() < all.len() && two.len() >= 2, "{two:?}");
    assert_eq!(detect("9000,0,10,10"), []);
    // This region contains no face.
    assert_eq!(detect("0,0,60,60"), []);
}

#[test]
fn face_that_fills_frame_is_found_with_defaults() {
    let detector = Detector::new(&common::open_default());
    for name in ["single_face.jpg", "multi_face.jpg"] {
        let photo = Photo::open(name);
        let faces = detector.detect(&photo.view(), &DetectionSettings::default()).unwrap().faces;
        for face in faces {
            let part = face.rect.clipped(photo.info.width as f32, photo.info.height as f32).unwrap();
            let region =
                Region { x: part.x as usize, y: part.y as usize, width: part.w as usize, height: part.h as usize };
            let view = photo.view().crop(region).unwrap();
            let found = detector.detect(&view, &DetectionSettings::default()).unwrap().faces;
            let (width, height) = (region.width as f32, region.height as f32);
            let fills = |face: &Face| retinaface::geometry::iou(face.rect, Rect::new(0.0, 0.0, width, height)) > 0.6;
            assert!(found.iter().any(fills), "{name}: {region:?} {found:?}");
            // At 1080 rows and full resolution it exceeds the anchors and is found at the small
            // scale.
            let large = enlarged(&view, 1080);
            let settings = DetectionSettings {
                input_size: InputSize::Native,
                views: Views { scales: "auto".parse().unwrap(), ..Views::default() },
                ..DetectionSettings::default()
            };
            let found = detector.detect(&large.view(), &settings).unwrap().faces;
            let (width, height) = (large.info.width as f32, large.info.height as f32);
            let fills = |face: &Face| retinaface::geometry::iou(face.rect, Rect::new(0.0, 0.0, width, height)) > 0.6;
            assert!(found.iter().any(fills), "{name}: {region:?} enlarged {found:?}");
        }
    }
}

/// A BGR image, resized to this height with its aspect ratio.
fn enlarged(view: &ImageView<'_>, height: usize) -> Photo {
    resized(view, (view.width() * height).div_ceil(view.height()), height)
}

/// A BGR image, resized to `width` x `height`: averaged if it shrinks, so that there is no
/// aliasing.
fn resized(view: &ImageView<'_>, width: usize, height: usize) -> Photo {
    let region = Region { x: 0, y: 0, width: view.width(), height: view.height() };
    let mut copy = OwnedImage::new(view.info(), vec![0; 3 * region.width * region.height]).unwrap();
    align::warp(
        view,
        &Affine::from_matrix([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        &mut copy.view_mut(),
        &mut Default::default(),
    )
    .unwrap();
    let source =
        Mat::new_rows_cols_with_bytes::<Vec3b>(region.height as i32, region.width as i32, copy.data()).unwrap();
    let mut target = Mat::default();
    let interpolation = if width < region.width { imgproc::INTER_AREA } else { imgproc::INTER_LINEAR };
    imgproc::resize(&source, &mut target, Size::new(width as i32, height as i32), 0.0, 0.0, interpolation).unwrap();
    Photo { pixels: target.data_bytes().unwrap().to_vec(), info: ImageInfo::new(PixelFormat::Bgr, width, height) }
}

#[test]
fn large_faces_of_4k_frame_are_found_once() {
    let detector = Detector::new(&common::open_default());
    for (name, count) in [("single_face.jpg", 1), ("multi_face.jpg", 5)] {
        let photo = Photo::open(name);
        let large = resized(&photo.view(), 3840, 3840 * photo.info.height / photo.info.width);
        let expected = detector.detect(&large.view(), &DetectionSettings::default()).unwrap().faces;
        assert_eq!(expected.len(), count);
        for settings in [
            DetectionSettings {
                views: Views { tiles: Tiles::Auto, ..Views::default() },
                ..DetectionSettings::default()
            },
            DetectionSettings {
                views: Views { scales: Scales::Auto, ..Views::default() },
                input_size: InputSize::Longest(1920),
                ..DetectionSettings::default()
            },
        ] {
            let found = detector.detect(&large.view(), &settings).unwrap().faces;
            // The model has false positives outside the faces, such as an enlarged ear. Ignore
            // them.
            let is_mostly_within = |face: &Face, large: &Face| {
                let part = Rect { x: face.rect.x - large.rect.x, y: face.rect.y - large.rect.y, ..face.rect };
                part.clipped(large.rect.w, large.rect.h).map_or(0.0, Rect::area) > 0.5 * face.rect.area()
            };
            let is_on_face = |face: &Face| expected.iter().any(|large| is_mostly_within(face, large));
            let on_faces = found.into_iter().filter(is_on_face).collect::<Vec<_>>();
            assert!(same_faces(&on_faces, &expected, 0.6), "{name} {:?}: {on_faces:?}", settings.views);
        }
    }
}

/// Pastes `photo` into `target` with its corner at x, y.
fn paste(photo: &Photo, target: &mut Photo, (x, y): (usize, usize)) {
    for row in 0..photo.info.height {
        let line = &photo.pixels[3 * row * photo.info.width..3 * (row + 1) * photo.info.width];
        let at = 3 * ((y + row) * target.info.width + x);
        target.pixels[at..at + line.len()].copy_from_slice(line);
    }
}

#[test]
fn tiles_find_one_face_in_a_close_up_and_the_small_faces_beside_and_in_front_of_it() {
    let detector = Detector::new(&common::open_default());
    let photo = Photo::open("single_face.jpg");
    let detect = |photo: &Photo, tiles: &str, scales: &str, flip: bool| {
        let views = Views { tiles: tiles.parse().unwrap(), scales: scales.parse().unwrap(), flip, ..Views::default() };
        detector.detect(&photo.view(), &DetectionSettings { views, ..DetectionSettings::default() }).unwrap().faces
    };
    // 4, 12 and 24 megapixels; the largest face has 1550 x 2180 pixels.
    for (height, views) in [
        (1982, &[("auto", "1.0", false), ("3x2", "1.0", true), ("auto", "auto", false)][..]),
        (3434, &[("auto", "1.0", true), ("3x2", "1.0", false)]),
        (4856, &[("auto", "1.0", true), ("3x2", "auto", false)]),
    ] {
        let large = enlarged(&photo.view(), height);
        let expected = detector.detect(&large.view(), &DetectionSettings::default()).unwrap().faces;
        assert_eq!(expected.len(), 1);
        for &(tiles, scales, flip) in views {
            let mut found = detect(&large, tiles, scales, flip);
            // The background, which is enlarged, too, has textures that look like small faces.
            let Rect { x, y, w, h } = expected[0].rect;
            let overlaps = |other: Rect| Rect { x: other.x - x, y: other.y - y, ..other }.clipped(w, h).is_some();
            found.retain(|face| overlaps(face.rect) || face.rect.h > 0.1 * h);
            assert!(same_faces(&found, &expected, 0.6), "{height} {tiles} {scales} {flip}: {found:?}");
        }
    }
    let mut large = enlarged(&photo.view(), 4856);
    let group = Photo::open("multi_face.jpg");
    let group = resized(&group.view(), 500, 333);
    // Beside the face, and in front of its forehead.
    let corners = [(50, 4400), (1700, 1300)];
    for corner in corners {
        paste(&group, &mut large, corner);
    }
    let found = detect(&large, "auto", "1.0", false);
    let is_in = |face: &Face, (x, y): (usize, usize)| {
        let (width, height) = (group.info.width as f32, group.info.height as f32);
        Rect { x: face.rect.x - x as f32, y: face.rect.y - y as f32, ..face.rect }.clipped(width, height).is_some()
            && face.rect.h < height
    };
    for corner in corners {
        assert_eq!(found.iter().filter(|face| is_in(face, corner)).count(), 5, "{corner:?}: {found:?}");
    }
    assert_eq!(found.iter().filter(|face| face.rect.h > 1800.0).count(), 1, "{found:?}");
}

#[test]
fn device_graph_accepts_yuv_regions_of_any_size() {
    let pixels = vec![128; 1280 * 720 * 3 / 2];
    for (width, height, views) in [
        (1280, 720, Views { tiles: Tiles::Grid(3, 2), ..Views::default() }),
        (
            1280,
            720,
            Views { rois: parse_rois("100,100,300,201;10,12,333,211").unwrap(), flip: true, ..Views::default() },
        ),
        (1001, 667, Views::default()),
    ] {
        let (chroma_width, chroma_height) = (2 * usize::div_ceil(width, 2), usize::div_ceil(height, 2));
        let planes = [&pixels[..width * height], &pixels[..chroma_width * chroma_height]];
        let info = ImageInfo::new(PixelFormat::Nv12, width, height);
        let view = ImageView::new(info, &planes, &[width, chroma_width]).unwrap();
        let options = ModelOptions { preprocessing: Preprocessing::Device, ..ModelOptions::default() };
        let model = SharedModel::open(&common::default_model(), &options).unwrap();
        let settings = DetectionSettings { views, ..DetectionSettings::default() };
        let found =
            Detector::new(&model).detect(&view, &settings).unwrap_or_else(|error| panic!("{settings:?}: {error}"));
        assert_eq!(found.faces, []);
    }
}

#[test]
fn tiny_faces_of_4k_frame_are_found_with_tiles() {
    let detector = Detector::new(&common::open_default());
    let photo = Photo::open("multi_face.jpg");
    let faces = detector.detect(&photo.view(), &DetectionSettings::default()).unwrap().faces;
    let smallest = faces.iter().map(|face| face.rect.w.min(face.rect.h)).fold(f32::MAX, f32::min);
    // Copies of the photo on a grey 4K frame. The smallest face of each copy is 12 pixels wide.
    let scale = 12.0 / smallest;
    let small = resized(&photo.view(), (1000.0 * scale) as usize, (667.0 * scale) as usize);
    let info = ImageInfo::new(PixelFormat::Bgr, 3840, 2160);
    let mut frame = Photo { pixels: vec![127; 3 * 3840 * 2160], info };
    let mut expected = Vec::new();
    // Some copies are at the borders of tiles with 640 pixels.
    for (x, y) in [(30, 40), (470, 480), (1000, 700), (1555, 505), (2040, 1200), (2600, 30), (3000, 2000), (3600, 1050)]
    {
        paste(&small, &mut frame, (x, y));
        let placed = |face: &Face| {
            let Rect { x: left, y: top, w, h } = face.rect;
            Rect::new(x as f32 + left * scale, y as f32 + top * scale, w * scale, h * scale)
        };
        expected.extend(faces.iter().map(placed));
    }
    let view = frame.view();
    let settings = DetectionSettings {
        views: Views { tiles: Tiles::Auto, ..Views::default() },
        max_batch: 4,
        ..DetectionSettings::default()
    };
    let with_tiles = detector.detect(&view, &settings).unwrap();
    let without = detector.detect(&view, &DetectionSettings::default()).unwrap().faces;
    let count_found = |faces: &[Face]| {
        let hits =
            |rect: &&Rect| faces.iter().filter(|face| retinaface::geometry::iou(face.rect, **rect) > 0.35).count();
        assert!(expected.iter().all(|rect| hits(&rect) <= 1), "a face was found twice: {faces:?}");
        expected.iter().filter(|rect| hits(rect) == 1).count()
    };
    let (with_tiles_found, without_found) = (count_found(&with_tiles.faces), count_found(&without));
    eprintln!("{with_tiles_found} of {} faces with tiles, {without_found} without", expected.len());
    assert!(with_tiles_found * 10 >= expected.len() * 9, "{with_tiles_found} of {}", expected.len());
    assert!(without_found < expected.len() / 4, "{without_found} faces were found without tiles");
    assert_eq!(with_tiles.batch, 4, "tiles share runs");
}
