//! `retinaface eval`, through the program's binary.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use binary::{run, status, stderr, text};
use opencv::core::{Mat, Point2f, Scalar, Size, Vector};
use opencv::prelude::*;
use opencv::{imgcodecs, imgproc};
use retinaface::align::Similarity;
use retinaface::face::Point;
use serde::Deserialize;

#[path = "common/binary.rs"]
mod binary;
mod common;

/// What `eval widerface --json` says, written a second time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Average {
    schema: String,
    pictures: usize,
    missing: usize,
    detections: usize,
    format: String,
    raw_scores: bool,
    sets: Vec<Set>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    name: String,
    faces: usize,
    average_precision: Option<f64>,
    recall: f64,
    precision: f64,
}

/// What `eval landmarks --json` says, written a second time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Distances {
    schema: String,
    pictures: usize,
    faces: usize,
    found: usize,
    nme: Option<f64>,
    points: Option<[f64; 5]>,
    failures: usize,
    failure_rate: f64,
    failure_limit: f64,
}

/// WIDER FACE's ground truth and somebody's detections, unpacked, or `None` where they are not there.
struct Wider {
    truth: PathBuf,
    detections: PathBuf,
    _folder: tempfile::TempDir,
}

impl Wider {
    fn new() -> Option<Self> {
        let archive = common::shared("eval/wider/published_r50/python_detect.tar.gz")?;
        let folder = tempfile::tempdir().unwrap();
        let unpacked = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(folder.path()).status().unwrap();
        assert!(unpacked.success());
        let detections = folder.path().join("python_detect");
        Some(Self { truth: common::shared("eval/wider/ground_truth")?, detections, _folder: folder })
    }

    fn arguments(&self) -> [&str; 6] {
        ["eval", "widerface", "--predictions", text(&self.detections), "--ground-truth", text(&self.truth)]
    }

    fn average(&self, options: &[&str]) -> Average {
        let output = run(&[&self.arguments(), options, &["--json"]].concat());
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn error(&self, options: &[&str]) -> String {
        let output = run(&[&self.arguments(), options].concat());
        assert_eq!((status(&output), output.stdout.len()), (2, 0));
        stderr(&output)
    }
}

fn assert_averages(average: &Average, percent: [f64; 3], tolerance: f64) {
    for (set, percent) in average.sets.iter().zip(percent) {
        let is = 100.0 * set.average_precision.unwrap();
        assert!((is - percent).abs() <= tolerance, "{}: {is} is not {percent}", set.name);
    }
}

#[test]
fn published_detections_have_the_average_precision_that_was_published() {
    let Some(wider) = Wider::new() else { return };
    let raw = wider.average(&["--raw-scores"]);
    assert_averages(&raw, [92.25, 88.86, 64.02], 0.1);
    // What a transcription of the official tool to NumPy gave, which shares nothing with this one.
    assert_averages(&raw, [92.340, 88.921, 64.082], 0.001);
    let official = wider.average(&[]);
    assert_averages(&official, [92.361, 88.936, 64.091], 0.001);
    assert_eq!((raw.raw_scores, official.raw_scores, official.format.as_str()), (true, false, "xywh"));
    assert_eq!((official.schema.as_str(), official.pictures, official.missing), ("retinaface.widerface/1", 3226, 0));
    assert_eq!(official.detections, 21375);
    // As many as the official tool counts.
    let faces = official.sets.iter().map(|set| (set.name.as_str(), set.faces));
    assert_eq!(faces.collect::<Vec<_>>(), [("easy", 7211), ("medium", 13319), ("hard", 31958)]);
    assert!(official.sets.iter().all(|set| set.recall > 0.6 && set.precision > 0.9));
}

#[test]
fn corners_are_read_as_what_they_are() {
    let Some(wider) = Wider::new() else { return };
    let error = wider.error(&["--format", "corners"]);
    assert!(error.contains(".txt: line 3") && error.contains("say --format xywh"), "{error}");
    for event in fs::read_dir(&wider.detections).unwrap() {
        for file in fs::read_dir(event.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            let content = fs::read_to_string(&file).unwrap();
            let lines = content.lines().enumerate().map(|(number, line)| {
                if number < 2 {
                    return format!("{line}\n");
                }
                let numbers = line.split_whitespace().map(|word| word.parse::<f64>().unwrap()).collect::<Vec<_>>();
                let [x, y, w, h, score] = numbers[..] else { panic!("{line}") };
                format!("{x} {y} {} {} {score}\n", x + w, y + h)
            });
            let content = lines.collect::<String>();
            fs::write(&file, content).unwrap();
        }
    }
    assert_averages(&wider.average(&["--format", "corners"]), [92.361, 88.936, 64.091], 0.001);
}

#[test]
fn files_that_are_missing_count_as_no_detections_and_broken_ones_are_errors() {
    let Some(wider) = Wider::new() else { return };
    let event = wider.detections.join("0--Parade");
    let file = event.join("0_Parade_Parade_0_102.txt");
    let content = fs::read_to_string(&file).unwrap();
    fs::write(&file, content.replacen('\n', "\n9", 1)).unwrap();
    let error = wider.error(&[]);
    assert!(error.contains("0_Parade_Parade_0_102.txt: line 2 says that 9"), "{error}");

    fs::remove_file(&file).unwrap();
    let output = run(&wider.arguments());
    let words = stderr(&output);
    assert_eq!(status(&output), 0);
    assert!(
        words.contains("1 of 3226 pictures have no file") && words.contains("0_Parade_Parade_0_102.txt"),
        "{words}"
    );
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("pictures 3226, of them 1 without a file"), "{table}");
    // Its faces are still there to be found.
    let average = wider.average(&[]);
    assert_eq!((average.missing, average.sets[2].faces), (1, 31958));

    let nothing = tempfile::tempdir().unwrap();
    let (folder, truth) = (text(nothing.path()), text(&wider.truth));
    let output = run(&["eval", "widerface", "--predictions", folder, "--ground-truth", truth]);
    assert!(status(&output) == 2 && stderr(&output).contains("--predictions is the folder of"), "{}", stderr(&output));
    let output = run(&["eval", "widerface", "--predictions", folder, "--ground-truth", folder]);
    assert!(
        status(&output) == 2 && stderr(&output).contains("wider_face_val.mat cannot be read"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_subset_says_how_much_of_the_set_it_is_and_draws_its_curves() {
    let Some(wider) = Wider::new() else { return };
    let Some(images) = common::shared("eval/wider/images") else { return };
    let plot = wider.detections.join("curves.svg");
    let average = wider.average(&["--subset", text(&images), "--plot", text(&plot)]);
    let faces = average.sets.iter().map(|set| set.faces).collect::<Vec<_>>();
    assert_eq!((average.pictures, average.missing, faces), (120, 0, vec![263, 573, 1819]));
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("120 pictures") && svg.matches("<polyline").count() == 3);
    let error = wider.error(&["--subset", "/nowhere"]);
    assert!(error.contains("/nowhere cannot be read"), "{error}");
    let error = wider.error(&["--subset", text(&wider.truth)]);
    assert!(error.contains("has no picture of the ground truth"), "{error}");
    let error = wider.error(&["--plot", "/nowhere/curves.svg"]);
    assert!(error.contains("/nowhere/curves.svg cannot be written"), "{error}");
}

#[test]
fn predictions_are_the_detections_and_a_broken_picture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (images, out) = (folder.path().join("images"), folder.path().join("out"));
    fs::create_dir_all(images.join("0--Event")).unwrap();
    fs::copy(common::media("single_face.jpg"), images.join("0--Event/single.jpg")).unwrap();
    fs::copy(common::media("multi_face.jpg"), images.join("multi.jpg")).unwrap();
    fs::write(images.join("broken.jpg"), "no picture").unwrap();
    let predict = |options: &[&str]| {
        let output = run(&[&["eval", "predict", "--images", text(&images), "--out", text(&out)], options].concat());
        assert_eq!((status(&output), output.stdout.len()), (2, 0));
        let words = stderr(&output);
        assert!(words.lines().count() == 1 && words.contains("broken.jpg: not a picture"), "{words}");
    };
    predict(&["--score-threshold", "0.5"]);
    let written = |file: &str| fs::read_to_string(out.join(file)).unwrap();
    let multi = written("multi.txt");
    let lines = multi.lines().collect::<Vec<_>>();
    assert_eq!((lines[0], lines[1], lines.len()), ("multi.jpg", "5", 7));
    assert!(written("0--Event/single.txt").starts_with("0--Event/single.jpg\n1\n"));
    let mut names = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, ["0--Event", "multi.txt"], "nothing is left of what was written first");

    let detected = faces(&common::media("multi_face.jpg"), "0");
    for (line, face) in lines[2..].iter().zip(&detected) {
        let numbers = line.split(' ').map(|word| word.parse::<f64>().unwrap()).collect::<Vec<_>>();
        let expected = [face.rect["x"], face.rect["y"], face.rect["w"], face.rect["h"], face.score];
        for (is, should) in numbers.iter().zip(expected) {
            assert!((is - should).abs() < 0.06, "{line} is not {face:?}");
        }
    }
    // The default keeps what evaluations need: faces of any score, here two more.
    predict(&[]);
    assert!(written("multi.txt").lines().count() > lines.len());
    // Even beside the pictures, none of them is written over.
    let before = fs::read(images.join("multi.jpg")).unwrap();
    let output = run(&["eval", "predict", "--images", text(&images), "--out", text(&images), "--max-faces", "1"]);
    assert_eq!(status(&output), 2);
    assert_eq!(fs::read(images.join("multi.jpg")).unwrap(), before);
    assert_eq!(fs::read_to_string(images.join("multi.txt")).unwrap().lines().count(), 3);
}

#[test]
fn predict_names_folders_that_are_of_no_use() {
    let folder = tempfile::tempdir().unwrap();
    let error = |images: &str, out: &str| {
        let output = run(&["eval", "predict", "--images", images, "--out", out]);
        assert_eq!(status(&output), 2);
        stderr(&output)
    };
    assert!(error("/nowhere", text(folder.path())).contains("the folder /nowhere cannot be read"));
    assert!(error(text(folder.path()), text(folder.path())).contains("has no picture"));
    fs::copy(common::media("single_face.jpg"), folder.path().join("a.jpg")).unwrap();
    assert!(error(text(folder.path()), "/dev/null/out").contains("the folder /dev/null/out cannot be made"));
}

/// A line of `detect`.
#[derive(Debug, Deserialize)]
struct Line {
    faces: Vec<Face>,
}

#[derive(Debug, Deserialize)]
struct Face {
    score: f64,
    #[serde(rename = "box")]
    rect: BTreeMap<String, f64>,
    landmarks: [[f32; 2]; 5],
}

/// What `detect` finds in a picture.
fn faces(picture: &Path, input_size: &str) -> Vec<Face> {
    let output = run(&["detect", text(picture), "--input-size", input_size]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    serde_json::from_slice::<Line>(&output.stdout).unwrap().faces
}

/// A change of a picture of which it is known where each point goes.
#[derive(Clone, Copy, Debug)]
struct Change {
    degrees: f64,
    scale: f64,
    /// In parts of the picture's sides.
    shift: (f64, f64),
    /// Standard deviation in pixels of the changed picture; 0 for none.
    blur: f64,
    /// What brightness is multiplied by, and what is then added.
    light: (f64, f64),
}

const NONE: Change = Change { degrees: 0.0, scale: 1.0, shift: (0.0, 0.0), blur: 0.0, light: (1.0, 0.0) };

impl Change {
    /// The changed picture, and where points go.
    fn of(self, picture: &Mat) -> (Mat, Similarity) {
        let (width, height) = (f64::from(picture.cols()), f64::from(picture.rows()));
        let size = Size::new((width * self.scale).round() as i32, (height * self.scale).round() as i32);
        let centre = Point2f::new((width / 2.0) as f32, (height / 2.0) as f32);
        let mut matrix = imgproc::get_rotation_matrix_2d(centre, self.degrees, self.scale).unwrap();
        let shifts = [
            f64::from(size.width) / 2.0 - width / 2.0 + self.shift.0 * f64::from(size.width),
            f64::from(size.height) / 2.0 - height / 2.0 + self.shift.1 * f64::from(size.height),
        ];
        for (row, shift) in (0..).zip(shifts) {
            *matrix.at_2d_mut::<f64>(row, 2).unwrap() += shift;
        }
        let mut warped = Mat::default();
        let grey = Scalar::all(90.0);
        imgproc::warp_affine(
            picture,
            &mut warped,
            &matrix,
            size,
            imgproc::INTER_AREA,
            opencv::core::BORDER_CONSTANT,
            grey,
        )
        .unwrap();
        let mut changed = warped;
        if self.blur > 0.0 {
            let mut blurred = Mat::default();
            imgproc::gaussian_blur_def(&changed, &mut blurred, Size::new(0, 0), self.blur).unwrap();
            changed = blurred;
        }
        let mut lit = Mat::default();
        changed.convert_to(&mut lit, -1, self.light.0, self.light.1).unwrap();
        let row = |row| [0, 1, 2].map(|col| *matrix.at_2d::<f64>(row, col).unwrap());
        (lit, Similarity::from_matrix([row(0), row(1)]))
    }
}

/// Changes both photos, and measures how far what is found in them is from where the points of the unchanged ones went.
fn repeatability(name: &str, changes: &[Change], input_size: &str) -> Distances {
    let folder = tempfile::tempdir().unwrap();
    let mut truth = "# what was found in the unchanged photos, moved as they were\n".to_owned();
    for photo in ["single_face.jpg", "multi_face.jpg"] {
        let path = common::media(photo);
        let found = faces(&path, input_size);
        let picture = imgcodecs::imread(text(&path), imgcodecs::IMREAD_COLOR).unwrap();
        for (number, change) in changes.iter().enumerate() {
            let (changed, transform) = change.of(&picture);
            let file = format!("{number}-{photo}.png");
            assert!(imgcodecs::imwrite(text(&folder.path().join(&file)), &changed, &Vector::new()).unwrap());
            let (width, height) = (changed.cols() as f32, changed.rows() as f32);
            for face in &found {
                let points = face.landmarks.map(|[x, y]| transform.apply(Point::new(x, y)));
                // Those that went out of the picture, or to its edge, have nothing to be found.
                let eyes = (points[0].x - points[1].x).hypot(points[0].y - points[1].y);
                let is_in =
                    |point: &Point| (eyes..width - eyes).contains(&point.x) && (eyes..height - eyes).contains(&point.y);
                if points.iter().all(is_in) {
                    let points = points.map(|point| format!(",{},{}", point.x, point.y)).concat();
                    writeln!(truth, "{file}{points}").unwrap();
                }
            }
        }
    }
    let file = folder.path().join("truth.csv");
    fs::write(&file, truth).unwrap();
    let arguments = ["eval", "landmarks", "--images", text(folder.path()), "--truth", text(&file), "--json"];
    let output = run(&[&arguments, &["--input-size", input_size][..]].concat());
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    let distances = serde_json::from_slice::<Distances>(&output.stdout).unwrap();
    eprintln!("{name}: {distances:?}");
    distances
}

#[test]
fn landmarks_are_where_a_mild_change_of_the_photo_moved_them() {
    let same = repeatability("same", &[NONE], "640");
    assert_eq!((same.schema.as_str(), same.pictures, same.faces, same.found), ("retinaface.landmarks/1", 2, 6, 6));
    assert!(same.nme.unwrap() < 0.001, "{same:?}");
    let kinds = [
        ("rotation", "640", [-6.0, -3.0, 3.0, 6.0].map(|degrees| Change { degrees, ..NONE })),
        // With a fixed input size, only resampling differs.
        ("scale", "640", [0.5, 0.7, 1.4, 2.0].map(|scale| Change { scale, ..NONE })),
        ("size", "0", [0.7, 0.85, 1.2, 1.4].map(|scale| Change { scale, ..NONE })),
        ("shift", "640", [(0.1, 0.0), (0.0, 0.1), (-0.05, 0.05), (0.013, -0.07)].map(|shift| Change { shift, ..NONE })),
        ("blur", "640", [0.5, 1.0, 1.5, 2.0].map(|blur| Change { blur, ..NONE })),
        ("light", "640", [(0.6, 0.0), (1.3, 0.0), (1.0, 40.0), (1.0, -40.0)].map(|light| Change { light, ..NONE })),
    ];
    for (name, input_size, changes) in kinds {
        let distances = repeatability(name, &changes, input_size);
        assert!(distances.nme.unwrap() < 0.05 && distances.failure_rate < 0.1, "{name}: {distances:?}");
    }
}

#[test]
fn landmarks_stay_near_under_strong_changes() {
    // The default model's points move with the head's roll: 0.09 was measured, most of it by 30 degrees.
    let changes = [(-30.0, 1.0), (30.0, 1.0), (-30.0, 0.5), (30.0, 2.0), (0.0, 0.5), (0.0, 2.0)];
    let changes = changes.map(|(degrees, scale)| Change { degrees, scale, shift: (0.03, -0.02), ..NONE });
    for input_size in ["640", "0"] {
        let distances = repeatability("strong", &changes, input_size);
        assert!(distances.found > distances.faces * 9 / 10, "{distances:?}");
        assert!(distances.nme.unwrap() < 0.12 && distances.failure_rate < 0.5, "{distances:?}");
    }
}

#[test]
fn truth_that_is_moved_by_a_known_amount_gives_that_error() {
    let folder = tempfile::tempdir().unwrap();
    let photo = common::media("multi_face.jpg");
    fs::copy(&photo, folder.path().join("multi.jpg")).unwrap();
    let found = faces(&photo, "640");
    // Along the line of the eyes, by a part of their distance.
    let truth = |part: f32| {
        let lines = found.iter().map(|face| {
            let [[x1, y1], [x2, y2], ..] = face.landmarks;
            let points = face.landmarks.map(|[x, y]| format!(",{},{}", x + part * (x2 - x1), y + part * (y2 - y1)));
            format!("multi.jpg{}\n", points.concat())
        });
        lines.collect::<String>()
    };
    let measure = |truth: String, options: &[&str]| {
        let file = folder.path().join("truth.csv");
        fs::write(&file, truth).unwrap();
        let arguments = ["eval", "landmarks", "--images", text(folder.path()), "--truth", text(&file)];
        run(&[&arguments, options].concat())
    };
    let distances = |output: &std::process::Output| {
        assert_eq!(status(output), 0, "{}", stderr(output));
        serde_json::from_slice::<Distances>(&output.stdout).unwrap()
    };
    for (part, failures) in [(0.0, 0), (0.08, 0), (0.12, 5)] {
        let distances = distances(&measure(truth(part), &["--json"]));
        assert!((distances.nme.unwrap() - f64::from(part)).abs() < 0.001, "{distances:?}");
        assert!(distances.points.unwrap().iter().all(|point| (point - f64::from(part)).abs() < 0.001), "{distances:?}");
        assert_eq!((distances.found, distances.failures, distances.failure_limit), (5, failures, 0.1));
    }
    assert_eq!(distances(&measure(truth(0.12), &["--json", "--failure", "0.13"])).failures, 0);
    // One that is nowhere is apart from the mean.
    let output = measure(truth(0.04) + "multi.jpg,2,2,6,2,4,4,2,6,6,6\n", &[]);
    let words = String::from_utf8(output.stdout).unwrap();
    assert!(words.contains("6 in 1 pictures, 5 found") && words.contains("NME       0.0400"), "{words}");
    assert!(words.contains("16.67 %: 1 not found, 0 with an error above 0.1"), "{words}");

    let output = measure(truth(0.0) + "gone.jpg,2,2,6,2,4,4,2,6,6,6\n", &["--json"]);
    let distances = serde_json::from_slice::<Distances>(&output.stdout).unwrap();
    assert_eq!((status(&output), distances.pictures, distances.faces), (2, 1, 5));
    assert!(stderr(&output).contains("gone.jpg: "), "{}", stderr(&output));
    let output = measure("multi.jpg,1,2\n".to_owned(), &[]);
    assert!(status(&output) == 2 && stderr(&output).contains("truth.csv: line 1"), "{}", stderr(&output));
}
