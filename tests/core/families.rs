//! Each family of detectors: recognised, and decoded as its authors do.
//!
//! tests/fixtures/families.json holds the authors' numbers (tests/reference/make_families.py); the models behind them lie
//! beside the project. tests/fixtures/models are tiny models of each layout (make_models.py there) that all read the same
//! thing out of a picture, so that every layout must find the same faces.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use opencv::core::{Mat, Size, Vec3b};
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::imgproc;
use opencv::prelude::*;
use retinaface::align::{self, Similarity};
use retinaface::detector::{Detector, Settings, SharedModel};
use retinaface::face::{Face, Rect};
use retinaface::image::{ImageInfo, ImageView, OwnedImage, PixelFormat, Region};
use retinaface::letterbox::InputSize;
use retinaface::looks::{self, Looks, Scales, Tiles};
use retinaface::merge::Merge;
use retinaface::model::{Model, Options, Preprocessing};
use serde::Deserialize;

mod common;

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

/// A BGR picture in the left top corner of a larger one.
fn padded(view: &ImageView<'_>, width: usize, height: usize, ground: [u8; 3]) -> Photo {
    let info = ImageInfo::new(PixelFormat::Bgr, width, height);
    let mut large = OwnedImage::new(info, vec![0; 3 * width * height]).unwrap();
    let identity = Similarity::from_matrix([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);
    align::warp(view, &identity, &mut large.view_mut(), &mut Default::default()).unwrap();
    let mut pixels = large.data().to_vec();
    for (index, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        if index % width >= view.width() || index / width >= view.height() {
            *pixel = ground;
        }
    }
    Photo { pixels, info }
}

fn tiny(name: &str) -> std::path::PathBuf {
    common::root().join("tests/fixtures/models").join(name)
}

fn assert_near(what: &str, faces: &[Face], expected: &[FamilyFace]) {
    assert_eq!(faces.len(), expected.len(), "{what}: {faces:?} instead of {expected:?}");
    for (face, expected) in faces.iter().zip(expected) {
        assert!((face.score - expected.score).abs() <= 2e-3, "{what}: {} is not {}", face.score, expected.score);
        let Rect { x, y, w, h } = face.rect;
        let [left, top, width, height] = expected.rect;
        let edges = [(x, left), (y, top), (x + w, left + width), (y + h, top + height)];
        let points = face.landmarks.iter().flatten().flat_map(|point| [point.x, point.y]);
        let points = points.zip(expected.landmarks.into_iter().flatten()).collect::<Vec<_>>();
        assert_eq!(points.len(), expected.landmarks.map_or(0, |points| points.len()), "{what}");
        assert_eq!(face.landmarks.is_some(), expected.landmarks.is_some(), "{what}");
        for (is, should) in edges.into_iter().chain(points) {
            assert!((is - should).abs() <= 0.5, "{what}: {face:?} is not {expected:?}");
        }
    }
}

#[test]
fn each_family_finds_what_its_authors_decoding_finds() {
    let text = std::fs::read_to_string(common::root().join("tests/fixtures/families.json")).unwrap();
    let families = serde_json::from_str::<Families>(&text).unwrap();
    assert!(families.records.len() >= 14);
    for record in families.records {
        let Some(path) = common::shared(&format!("models/{}", record.model)) else { continue };
        let photo = Photo::open(&record.source);
        assert_eq!(record.sha256.len(), 64);
        let [x, y, width, height] = record.crop;
        let crop = photo.view().crop(Region { x, y, width, height }).unwrap();
        let fixed = Model::open(&path, &Options::default()).unwrap().contract().fixed_size;
        // What the references pad themselves: biubug6's with its mean, the others' with black. The element would enlarge it.
        let ground = if record.model.contains("biubug6") { [104, 117, 123] } else { [0; 3] };
        let padded = fixed.map(|(width, height)| padded(&crop, width, height, ground));
        let crop = padded.as_ref().map_or(crop, Photo::view);
        let settings = Settings {
            score_threshold: record.score_threshold,
            iou_threshold: record.iou_threshold,
            input_size: InputSize::Native,
            ..Settings::default()
        };
        // Its operators are of version 9, around which the graph's nodes cannot be put.
        let is_old = record.model == "retinaface_biubug6_fixed640.onnx";
        let ways = if is_old { &[Preprocessing::Cpu][..] } else { &[Preprocessing::Cpu, Preprocessing::Device] };
        for &preprocessing in ways {
            let model = SharedModel::open(&path, &Options { preprocessing, ..Options::default() }).unwrap();
            let found = Detector::new(&model).detect(&crop, &settings).unwrap();
            let what = format!("{} on {} {:?} {preprocessing:?}", record.model, record.source, record.crop);
            assert_near(&what, &found.faces, &record.faces);
        }
    }
}

#[test]
fn every_layout_is_recognised_and_explained() {
    for (file, family, because) in [
        ("biubug6.onnx", "RetinaFace (biubug6)", "3 outputs"),
        ("biubug6_logits.onnx", "RetinaFace (biubug6)", "logits"),
        ("biubug6_extra.onnx", "RetinaFace (biubug6)", "output `embedding` is no part of the layout and is not read"),
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
        let model = Model::open(&tiny(file), &Options::default()).unwrap_or_else(|error| panic!("{file}: {error}"));
        let contract = model.contract();
        assert_eq!(contract.family, family, "{file}");
        let text = contract.to_string();
        assert!(text.contains(because), "{file}: {text}");
    }
}

/// A picture that is dark but for a bright square.
fn picture(side: usize, bright: Region) -> Vec<u8> {
    let mut pixels = vec![10; 3 * side * side];
    for row in bright.y..bright.y + bright.height {
        pixels[3 * (row * side + bright.x)..3 * (row * side + bright.x + bright.width)].fill(250);
    }
    pixels
}

#[test]
fn the_same_picture_has_the_same_scores_in_every_layout_on_the_cpu_and_in_the_graph() {
    const SIDE: usize = 96;
    let pixels = picture(SIDE, Region { x: 32, y: 32, width: 32, height: 32 });
    let view = ImageView::new(ImageInfo::new(PixelFormat::Bgr, SIDE, SIDE), &[&pixels], &[3 * SIDE]).unwrap();
    let settings =
        Settings { input_size: InputSize::Native, iou_threshold: 1.0, score_threshold: 0.3, ..Settings::default() };
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
            let model = SharedModel::open(&tiny(file), &Options { preprocessing, ..Options::default() }).unwrap();
            Detector::new(&model).detect(&view, &settings).unwrap().faces
        };
        let (found, in_graph) = (detect(Preprocessing::Cpu), detect(Preprocessing::Device));
        assert!(!found.is_empty(), "{file}");
        assert_eq!(found.len(), in_graph.len(), "{file}");
        for face in &found {
            let near = |other: &&Face| {
                let numbers = |face: &Face| {
                    let points = face.landmarks.iter().flatten().flat_map(|point| [point.x, point.y]);
                    let Rect { x, y, w, h } = face.rect;
                    [100.0 * face.score, x, y, w, h].into_iter().chain(points).collect::<Vec<_>>()
                };
                numbers(face).iter().zip(numbers(other)).all(|(is, should)| (is - should).abs() < 0.05)
            };
            assert!(in_graph.iter().any(|other| near(&other)), "{file}: {face:?} is not in {in_graph:?}");
        }
        if file.starts_with("yunet") {
            continue;
        }
        let scores = found.iter().map(|face| face.score).collect::<Vec<_>>();
        let expected = expected.get_or_insert_with(|| scores.clone());
        assert_eq!(scores.len(), expected.len(), "{file}");
        for (is, should) in scores.iter().zip(expected.iter()) {
            assert!((is - should).abs() < 2e-3, "{file}: {scores:?} are not {expected:?}");
        }
    }
}

#[test]
fn what_is_said_of_a_model_counts_before_its_layout_and_its_file() {
    let open = |said: &str| {
        let options = Options { overrides: said.parse().unwrap(), ..Options::default() };
        Model::open(&tiny("metadata.onnx"), &options)
    };
    let text = open("mean=1,2,3; color-order=RGB").unwrap().contract().to_string();
    assert!(text.contains("(RGB - [1.0, 2.0, 3.0]) * 0.0078125"), "{text}");
    assert!(text.contains("said of it in place of the layout's own: color-order=RGB; mean=1,2,3"), "{text}");
    assert!(text.contains("0.2 (landmarks)"), "{text}");
    let error = open("strides=4,8,16").unwrap_err().to_string();
    assert!(error.contains("not a detector") && error.contains("stride 4"), "{error}");
    let anchors = Options {
        overrides: "anchors=32,16,48,24/128,64,192,96/512,256,768,384".parse().unwrap(),
        ..Options::default()
    };
    let model = Model::open(&tiny("odd_anchors.onnx"), &anchors).unwrap();
    assert_eq!(model.contract().layout().unwrap().levels[0].anchors, [32.0, 16.0, 48.0, 24.0]);
}

#[test]
fn a_metadata_key_that_is_not_known_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    // A repeated field of a protocol buffer may be written behind everything else: field 14, of a key and a value.
    let (key, value) = (b"retinaface.means", b"1");
    let entry = [&[0x0A, key.len() as u8][..], key, &[0x12, value.len() as u8], value].concat();
    let bytes = [std::fs::read(tiny("insightface.onnx")).unwrap(), vec![0x72, entry.len() as u8], entry].concat();
    std::fs::write(&file, bytes).unwrap();
    let text = Model::open(&file, &Options::default()).unwrap().contract().to_string();
    assert!(text.contains("metadata key retinaface.means is not known; known are color-order"), "{text}");
}

/// Where the faces of multi_face.jpg are, each once.
fn same_faces(found: &[Face], expected: &[Face], overlap: f32) -> bool {
    let same = |face: &Face| {
        let overlaps = expected.iter().filter(|other| retinaface::face::iou(face.rect, other.rect) > overlap);
        overlaps.count() == 1
    };
    found.len() == expected.len() && found.iter().all(same)
}

#[test]
fn pyramids_mirrors_tiles_and_votes_find_each_face_once() {
    let detector = Detector::new(&common::open_default());
    let photo = Photo::open("multi_face.jpg");
    let detect = |settings: &Settings| detector.detect(&photo.view(), settings).unwrap().faces;
    let plain = detect(&Settings::default());
    assert_eq!(plain.len(), 5);
    for looks in [
        Looks { scales: "1.0,0.5".parse().unwrap(), ..Looks::default() },
        Looks { scales: "auto".parse().unwrap(), ..Looks::default() },
        Looks { flip: true, ..Looks::default() },
        Looks { tiles: Tiles::Auto, ..Looks::default() },
        Looks { tiles: Tiles::Grid(3, 2), flip: true, scales: "1.0,1.5".parse().unwrap(), ..Looks::default() },
    ] {
        for merge in [Merge::Nms, Merge::Vote] {
            let found = detect(&Settings { looks: looks.clone(), merge, ..Settings::default() });
            assert!(same_faces(&found, &plain, 0.6), "{looks:?} {merge:?}: {found:?} instead of {plain:?}");
        }
    }
    // The mirror alone finds the same landmarks, left and right where they belong.
    let both = detect(&Settings {
        looks: Looks { flip: true, ..Looks::default() },
        merge: Merge::Vote,
        ..Settings::default()
    });
    for (face, other) in plain.iter().flat_map(|face| both.iter().map(move |other| (face, other))) {
        if retinaface::face::iou(face.rect, other.rect) > 0.6 {
            let side = face.rect.w.max(face.rect.h);
            for (a, b) in face.landmarks.unwrap().iter().zip(other.landmarks.unwrap()) {
                assert!((a.x - b.x).hypot(a.y - b.y) < 0.06 * side, "{face:?} {other:?}");
            }
        }
    }
}

#[test]
fn only_regions_are_looked_at() {
    let detector = Detector::new(&common::open_default());
    let photo = Photo::open("multi_face.jpg");
    let all = detector.detect(&photo.view(), &Settings::default()).unwrap().faces;
    let around = |face: &Face| {
        let Rect { x, y, w, h } = face.rect;
        format!("{},{},{},{}", x - w / 2.0, y - h / 2.0, 2.0 * w, 2.0 * h)
    };
    let detect = |roi: &str| {
        let looks = Looks { rois: looks::rois(roi).unwrap(), ..Looks::default() };
        detector.detect(&photo.view(), &Settings { looks, ..Settings::default() }).unwrap().faces
    };
    for face in &all {
        let found = detect(&around(face));
        assert!(found.iter().any(|other| retinaface::face::iou(face.rect, other.rect) > 0.6), "{face:?}: {found:?}");
    }
    let two = detect(&format!("{};{};9000,0,10,10", around(&all[0]), around(&all[1])));
    assert!(two.len() < all.len() && two.len() >= 2, "{two:?}");
    assert_eq!(detect("9000,0,10,10"), []);
    // The rest of the frame is not looked at.
    assert_eq!(detect("0,0,60,60"), []);
}

#[test]
fn a_face_that_fills_the_frame_is_found_at_the_default_settings() {
    let detector = Detector::new(&common::open_default());
    for name in ["single_face.jpg", "multi_face.jpg"] {
        let photo = Photo::open(name);
        let faces = detector.detect(&photo.view(), &Settings::default()).unwrap().faces;
        for face in faces {
            let part = face.rect.clipped(photo.info.width as f32, photo.info.height as f32).unwrap();
            let region =
                Region { x: part.x as usize, y: part.y as usize, width: part.w as usize, height: part.h as usize };
            let view = photo.view().crop(region).unwrap();
            let found = detector.detect(&view, &Settings::default()).unwrap().faces;
            let (width, height) = (region.width as f32, region.height as f32);
            let fills = |face: &Face| retinaface::face::iou(face.rect, Rect::new(0.0, 0.0, width, height)) > 0.6;
            assert!(found.iter().any(fills), "{name}: {region:?} {found:?}");
            // Enlarged to 1080 rows and looked at in full, it needs the second size.
            let large = enlarged(&view, 1080);
            let settings = Settings {
                input_size: InputSize::Native,
                looks: Looks { scales: "auto".parse().unwrap(), ..Looks::default() },
                ..Settings::default()
            };
            let found = detector.detect(&large.view(), &settings).unwrap().faces;
            let (width, height) = (large.info.width as f32, large.info.height as f32);
            let fills = |face: &Face| retinaface::face::iou(face.rect, Rect::new(0.0, 0.0, width, height)) > 0.6;
            assert!(found.iter().any(fills), "{name}: {region:?} enlarged {found:?}");
        }
    }
}

/// A view of a BGR picture made larger.
fn enlarged(view: &ImageView<'_>, height: usize) -> Photo {
    resized(view, (view.width() * height).div_ceil(view.height()), height)
}

/// A photo made smaller or larger, without what sampling alone would make of it.
fn resized(view: &ImageView<'_>, width: usize, height: usize) -> Photo {
    let region = Region { x: 0, y: 0, width: view.width(), height: view.height() };
    let mut copy = OwnedImage::new(view.info(), vec![0; 3 * region.width * region.height]).unwrap();
    align::warp(
        view,
        &Similarity::from_matrix([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        &mut copy.view_mut(),
        &mut Default::default(),
    )
    .unwrap();
    let source =
        Mat::new_rows_cols_with_bytes::<Vec3b>(region.height as i32, region.width as i32, copy.data()).unwrap();
    let mut target = Mat::default();
    let how = if width < region.width { imgproc::INTER_AREA } else { imgproc::INTER_LINEAR };
    imgproc::resize(&source, &mut target, Size::new(width as i32, height as i32), 0.0, 0.0, how).unwrap();
    Photo { pixels: target.data_bytes().unwrap().to_vec(), info: ImageInfo::new(PixelFormat::Bgr, width, height) }
}

#[test]
fn large_faces_of_a_4k_frame_are_one_face_each_with_tiles_or_a_second_size() {
    let detector = Detector::new(&common::open_default());
    for (name, count) in [("single_face.jpg", 1), ("multi_face.jpg", 5)] {
        let photo = Photo::open(name);
        let large = resized(&photo.view(), 3840, 3840 * photo.info.height / photo.info.width);
        let expected = detector.detect(&large.view(), &Settings::default()).unwrap().faces;
        assert_eq!(expected.len(), count);
        for settings in [
            Settings { looks: Looks { tiles: Tiles::Auto, ..Looks::default() }, ..Settings::default() },
            Settings {
                looks: Looks { scales: Scales::Auto, ..Looks::default() },
                input_size: InputSize::Longest(1920),
                ..Settings::default()
            },
        ] {
            let found = detector.detect(&large.view(), &settings).unwrap().faces;
            // What lies beside them (an ear of seven times its size) is for the model to judge.
            let within = |face: &Face, large: &Face| {
                let part = Rect { x: face.rect.x - large.rect.x, y: face.rect.y - large.rect.y, ..face.rect };
                part.clipped(large.rect.w, large.rect.h).map_or(0.0, Rect::area) > 0.5 * face.rect.area()
            };
            let is_on_one = |face: &Face| expected.iter().any(|large| within(face, large));
            let on_faces = found.into_iter().filter(is_on_one).collect::<Vec<_>>();
            assert!(same_faces(&on_faces, &expected, 0.6), "{name} {:?}: {on_faces:?}", settings.looks);
        }
    }
}

#[test]
fn parts_of_yuv_frames_go_through_the_graph_at_any_size() {
    let pixels = vec![128; 1280 * 720 * 3 / 2];
    for (width, height, looks) in [
        (1280, 720, Looks { tiles: Tiles::Grid(3, 2), ..Looks::default() }),
        (
            1280,
            720,
            Looks { rois: looks::rois("100,100,300,201;10,12,333,211").unwrap(), flip: true, ..Looks::default() },
        ),
        (1001, 667, Looks::default()),
    ] {
        let (chroma_width, chroma_height) = (2 * usize::div_ceil(width, 2), usize::div_ceil(height, 2));
        let planes = [&pixels[..width * height], &pixels[..chroma_width * chroma_height]];
        let info = ImageInfo::new(PixelFormat::Nv12, width, height);
        let view = ImageView::new(info, &planes, &[width, chroma_width]).unwrap();
        let options = Options { preprocessing: Preprocessing::Device, ..Options::default() };
        let model = SharedModel::open(&common::default_model(), &options).unwrap();
        let settings = Settings { looks, ..Settings::default() };
        let found =
            Detector::new(&model).detect(&view, &settings).unwrap_or_else(|error| panic!("{settings:?}: {error}"));
        assert_eq!(found.faces, []);
    }
}

#[test]
fn tiny_faces_of_a_4k_frame_are_found_with_tiles_and_each_once() {
    let detector = Detector::new(&common::open_default());
    let photo = Photo::open("multi_face.jpg");
    let faces = detector.detect(&photo.view(), &Settings::default()).unwrap().faces;
    let smallest = faces.iter().map(|face| face.rect.w.min(face.rect.h)).fold(f32::MAX, f32::min);
    // Small copies of the photo, whose smallest face is then 12 px wide, all over a grey 4K frame.
    let scale = 12.0 / smallest;
    let small = resized(&photo.view(), (1000.0 * scale) as usize, (667.0 * scale) as usize);
    let info = ImageInfo::new(PixelFormat::Bgr, 3840, 2160);
    let mut pixels = vec![127; 3 * 3840 * 2160];
    let mut places = Vec::new();
    // On purpose also where tiles of 640 pixels meet.
    for (x, y) in [(30, 40), (470, 480), (1000, 700), (1555, 505), (2040, 1200), (2600, 30), (3000, 2000), (3600, 1050)]
    {
        for row in 0..small.info.height {
            let line = &small.pixels[3 * row * small.info.width..3 * (row + 1) * small.info.width];
            let at = 3 * ((y + row) * 3840 + x);
            pixels[at..at + line.len()].copy_from_slice(line);
        }
        let placed = |face: &Face| {
            let Rect { x: left, y: top, w, h } = face.rect;
            Rect::new(x as f32 + left * scale, y as f32 + top * scale, w * scale, h * scale)
        };
        places.extend(faces.iter().map(placed));
    }
    let view = ImageView::new(info, &[&pixels], &[3 * 3840]).unwrap();
    let settings =
        Settings { looks: Looks { tiles: Tiles::Auto, ..Looks::default() }, max_batch: 4, ..Settings::default() };
    let with_tiles = detector.detect(&view, &settings).unwrap();
    let without = detector.detect(&view, &Settings::default()).unwrap().faces;
    let found = |faces: &[Face]| {
        let hits = |place: &&Rect| faces.iter().filter(|face| retinaface::face::iou(face.rect, **place) > 0.35).count();
        assert!(places.iter().all(|place| hits(&place) <= 1), "a face was found twice: {faces:?}");
        places.iter().filter(|place| hits(place) == 1).count()
    };
    let (with_tiles_found, without_found) = (found(&with_tiles.faces), found(&without));
    eprintln!("{with_tiles_found} of {} faces with tiles, {without_found} without", places.len());
    assert!(with_tiles_found * 10 >= places.len() * 9, "{with_tiles_found} of {}", places.len());
    assert!(without_found < places.len() / 4, "they are too small without tiles");
    assert_eq!(with_tiles.batch, 4, "tiles share runs");
}
