//! The command `retinaface eval track`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::binary::{path_str, run, status, stderr};
use crate::common;
use serde::Deserialize;
use serde_json::{Value, json};

/// Output of `eval track --json`. A second definition, so that no field changes unnoticed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    schema: String,
    sequences: Vec<Scores>,
    combined: Scores,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scores {
    name: Option<String>,
    hota: f64,
    deta: f64,
    assa: f64,
    loca: f64,
    mota: f64,
    motp: f64,
    idf1: f64,
    idp: f64,
    idr: f64,
    id_switches: usize,
    fragmentations: usize,
    false_positives: usize,
    false_negatives: usize,
    truth_ids: usize,
    predicted_ids: usize,
    truth_boxes: usize,
    predicted_boxes: usize,
    ignored_truth: usize,
    ignored_predictions: usize,
    faces_without_track_id: usize,
}

impl Scores {
    /// The values that TrackEval has, too.
    fn values(&self) -> BTreeMap<String, f64> {
        let values = json!({
            "hota": self.hota, "deta": self.deta, "assa": self.assa, "loca": self.loca,
            "mota": self.mota, "motp": self.motp, "idf1": self.idf1, "idp": self.idp, "idr": self.idr,
            "id_switches": self.id_switches, "fragmentations": self.fragmentations,
            "false_positives": self.false_positives, "false_negatives": self.false_negatives,
            "truth_ids": self.truth_ids, "predicted_ids": self.predicted_ids,
            "truth_boxes": self.truth_boxes, "predicted_boxes": self.predicted_boxes,
        });
        serde_json::from_value(values).unwrap()
    }
}

/// A part of tests/fixtures/tracks/expected.json, which tests/reference/make_tracks.py writes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    sequences: BTreeMap<String, BTreeMap<String, f64>>,
    combined: BTreeMap<String, f64>,
}

fn fixtures() -> PathBuf {
    common::root().join("tests/fixtures/tracks")
}

fn expected(benchmark: &str) -> Expected {
    let text = fs::read_to_string(fixtures().join("expected.json")).unwrap();
    let mut all = serde_json::from_str::<BTreeMap<String, Expected>>(&text).unwrap();
    all.remove(benchmark).unwrap()
}

fn track(truth: &Path, predictions: &Path, options: &[&str]) -> std::process::Output {
    run(&[&["eval", "track", "--truth", path_str(truth), "--predictions", path_str(predictions)], options].concat())
}

fn report(truth: &Path, predictions: &Path) -> (Report, String) {
    let output = track(truth, predictions, &["--json"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    (serde_json::from_slice(&output.stdout).unwrap(), stderr(&output))
}

fn error(truth: &Path, predictions: &Path) -> String {
    let output = track(truth, predictions, &[]);
    assert_eq!((status(&output), output.stdout.len()), (2, 0));
    stderr(&output)
}

fn assert_equal(name: &str, scores: &Scores, expected: &BTreeMap<String, f64>) {
    const TOLERANCE: f64 = 1e-6;
    let values = scores.values();
    assert!(values.keys().eq(expected.keys()), "{name}");
    for (metric, value) in values {
        assert!(
            (value - expected[&metric]).abs() <= TOLERANCE,
            "{name}: {metric} is {value}, not {}",
            expected[&metric]
        );
    }
}

fn assert_equals_trackeval(benchmark: &str, truth: &Path, predictions: &Path) -> Report {
    let (expected, (report, messages)) = (expected(benchmark), report(truth, predictions));
    assert_eq!((report.schema.as_str(), messages.as_str()), ("retinaface.tracking/1", ""));
    let names = report.sequences.iter().map(|scores| scores.name.as_ref().unwrap());
    assert!(names.eq(expected.sequences.keys()), "{report:?}");
    for (scores, (name, values)) in report.sequences.iter().zip(&expected.sequences) {
        assert_equal(name, scores, values);
    }
    assert_equal("combined", &report.combined, &expected.combined);
    report
}

#[test]
fn metrics_of_both_layouts_equal_those_of_trackeval() {
    let report = |benchmark| {
        let directory = fixtures().join(benchmark);
        assert_equals_trackeval(benchmark, &directory.join("truth"), &directory.join("predictions")).combined
    };
    let (mot15, mot17) = (report("mot15"), report("mot17"));
    // The fixtures contain what the metrics count.
    for scores in [&mot15, &mot17] {
        assert!(scores.id_switches > 10 && scores.fragmentations > 10 && scores.ignored_truth > 10, "{scores:?}");
        assert!(scores.false_positives > 50 && scores.false_negatives > 50, "{scores:?}");
    }
    assert_eq!((mot15.ignored_predictions, mot15.faces_without_track_id), (0, 0));
    assert!(mot17.ignored_predictions > 10, "{mot17:?}");
}

/// JSON lines with the boxes of a file of the MOT challenge. Lines without faces are left out, as
/// with `add-empty-results=false`.
fn json_lines(mot: &str) -> String {
    let mut frames = BTreeMap::<u64, Vec<Value>>::new();
    for line in mot.lines() {
        let values = line.split(',').map(|value| value.parse::<f64>().unwrap()).collect::<Vec<_>>();
        let [x, y, w, h] = [2, 3, 4, 5].map(|column| values[column]);
        let rect = json!({ "x": x, "y": y, "w": w, "h": h });
        let face = json!({ "score": 0.9, "box": rect, "landmarks": null, "track_id": values[1] as u64 });
        frames.entry(values[0] as u64 - 1).or_default().push(face);
    }
    frames.into_iter().fold(String::new(), |mut text, (frame, faces)| {
        let line = json!({ "schema": "retinaface.frame/1", "stream": "cam", "frame": frame, "faces": faces });
        writeln!(text, "{line}").unwrap();
        text
    })
}

#[test]
fn json_lines_give_the_metrics_of_the_same_tracks() {
    let (directory, fixtures) = (tempfile::tempdir().unwrap(), fixtures().join("mot15"));
    for name in expected("mot15").sequences.keys() {
        let mot = fs::read_to_string(fixtures.join(format!("predictions/{name}.txt"))).unwrap();
        fs::write(directory.path().join(format!("{name}.jsonl")), json_lines(&mot)).unwrap();
    }
    assert_equals_trackeval("mot15", &fixtures.join("truth"), directory.path());
}

#[test]
fn two_files_give_a_table_of_one_row_and_directories_a_combined_one() {
    let directory = fixtures().join("mot17");
    let table = |truth: &str, predictions: &str| {
        let output = track(&directory.join(truth), &directory.join(predictions), &[]);
        assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
        String::from_utf8(output.stdout).unwrap()
    };
    let one = table("truth/crowd/gt/gt.txt", "predictions/crowd.txt");
    let lines = one.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect::<Vec<_>>();
    assert_eq!(lines.len(), 3, "{one}");
    let crowd = &expected("mot17").sequences["crowd"];
    let percent = |metric: &str| format!("{:.2}", 100.0 * crowd[metric]);
    assert_eq!(lines[1][..3], ["crowd", &percent("hota"), &percent("deta")]);
    assert_eq!((lines[1][5], lines[1][7]), (percent("mota").as_str(), percent("idf1").as_str()));
    assert_eq!(lines[1][10], crowd["id_switches"].to_string());
    let all = table("truth", "predictions");
    let names = all.lines().filter_map(|line| line.split_whitespace().next()).collect::<Vec<_>>();
    assert_eq!(names, ["sequence", "crowd", "distractors", "combined", "metrics"]);
}

/// A directory with the given files.
fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = directory.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    directory
}

const ROW: &str = "1,1,0,0,10,10,1,-1,-1,-1\n";

#[test]
fn faces_without_a_track_id_do_not_count_and_are_reported() {
    let tracked = json_lines(ROW);
    let untracked = tracked.replace("\"track_id\":1", "\"track_id\":null");
    let second = untracked.replace("\"frame\":0", "\"frame\":1");
    let directory = files(&[("truth.txt", ROW), ("some.jsonl", &(tracked + &second)), ("none.jsonl", &untracked)]);
    let file = |name: &str| directory.path().join(name);
    let (report, messages) = report(&file("truth.txt"), &file("some.jsonl"));
    assert_eq!((report.combined.mota, report.combined.false_positives), (1.0, 0));
    assert_eq!(report.combined.faces_without_track_id, 1);
    assert!(messages.contains("some.jsonl: 1 faces without track_id, which do not count"), "{messages}");
    let error = error(&file("truth.txt"), &file("none.jsonl"));
    assert!(error.contains("no face of") && error.contains("record the lines behind a tracker"), "{error}");
}

#[test]
fn errors_name_file_line_and_remedy() {
    let ignored = "1,1,0,0,10,10,0,-1,-1,-1\n";
    let bad = [
        (
            "short.txt",
            "1,1,0,0,10,10,1\n1,2,0,0,10,10\n",
            "short.txt: line 2, \"1,2,0,0,10,10\": expected 7 to 10 values",
        ),
        (
            "infinite.txt",
            "1,1,0,inf,10,10,1\n",
            "infinite.txt: line 1, \"1,1,0,inf,10,10,1\": \"inf\" is not a finite number",
        ),
        (
            "twice.txt",
            "2,1,0,0,1,1,1\n2,1,5,0,1,1,1\n",
            "twice.txt: line 2, \"2,1,5,0,1,1,1\": id 1 has two boxes in frame 2",
        ),
        ("zero.txt", "0,1,0,0,1,1,1\n", "zero.txt: line 1, \"0,1,0,0,1,1,1\": frame 0: frames count from 1, add 1"),
        ("time.txt", "1764093600123456789,1,0,0,1,1,1\n", "the number of the frame, not a time"),
        (
            "untracked.txt",
            "1,-1,0,0,1,1,1\n",
            "untracked.txt: line 1, \"1,-1,0,0,1,1,1\": id -1: the file has detections",
        ),
        ("version.jsonl", "{\"schema\":\"retinaface.frame/9\"}\n", "the schema is \"retinaface.frame/9\" instead of"),
        ("mot.jsonl", ROW, "mot.jsonl: line 1, \"1,1,0,0,10,10,1,-1,-1,-1\": not a line of the schema"),
    ];
    let all = bad.map(|(name, text, _)| (name, text));
    let directory = files(&[&all[..], &[("truth.txt", ROW), ("ignored.txt", ignored), ("d/a.txt", ROW)]].concat());
    let file = |name: &str| directory.path().join(name);
    fs::write(file("latin.txt"), b"1,1,0,0,10,10,1 \xe4\n").unwrap();
    for (name, _, part) in bad {
        let error = error(&file("truth.txt"), &file(name));
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let cases = [
        ("truth.txt", "latin.txt", "latin.txt is not UTF-8 text"),
        ("truth.txt", "missing.txt", "missing.txt (--predictions)"),
        ("missing.txt", "truth.txt", "missing.txt (--truth)"),
        ("d", "truth.txt", "give two files or two directories"),
        ("truth.txt", "d", "give two files or two directories"),
        ("ignored.txt", "truth.txt", "no box to evaluate"),
    ];
    for (truth, predictions, part) in cases {
        let error = error(&file(truth), &file(predictions));
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn a_sequence_in_one_directory_only_is_an_error() {
    let directory = files(&[
        ("one/a.txt", ROW),
        ("two/a.txt", ROW),
        ("two/b/gt/gt.txt", ROW),
        ("tracks/a.txt", ROW),
        ("tracks/b.jsonl", &json_lines(ROW)),
        ("double/a.txt", ROW),
        ("double/a.jsonl", &json_lines(ROW)),
        ("notes/read.me", ""),
    ]);
    let file = |name: &str| directory.path().join(name);
    let (report, _) = report(&file("two"), &file("tracks"));
    assert_eq!((report.sequences.len(), report.combined.mota, report.combined.hota), (2, 1.0, 1.0));
    let cases = [
        ("two", "one", "b has a truth", "needs b.txt or b.jsonl, which may be empty"),
        ("one", "tracks", "b has predictions", "needs b.txt or b/gt/gt.txt, or remove the predictions"),
        ("one", "double", "a has two files", "remove one"),
        ("notes", "tracks", "has no sequences", "NAME.txt or NAME/gt/gt.txt"),
    ];
    for (truth, predictions, what, remedy) in cases {
        let error = error(&file(truth), &file(predictions));
        assert!(error.contains(what) && error.contains(remedy), "{error}");
    }
}
