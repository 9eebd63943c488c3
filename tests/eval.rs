//! `retinaface eval`, through the program's binary.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use binary::{run, status, stderr, text};
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
}

/// What `detect` finds in a picture.
fn faces(picture: &Path, input_size: &str) -> Vec<Face> {
    let output = run(&["detect", text(picture), "--input-size", input_size]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    serde_json::from_slice::<Line>(&output.stdout).unwrap().faces
}
