//! The programs in examples/, as users run them, and the Python of docs/python.md.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{self, clip, project, quoted, run, with_watchdog};
use face_meta::CropOrigin;
use serde_json::Value;

/// The directory of cargo's outputs, which has a directory for each profile.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_path_buf()
}

fn required(file: PathBuf) -> PathBuf {
    assert!(file.exists(), "{} is missing: run `make examples`", file.display());
    file
}

/// The Python with the packages of examples/requirements.txt.
fn python() -> PathBuf {
    required(target().join("examples/venv/bin/python"))
}

fn rust_example() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    required(deps.join("../examples/crops"))
}

/// Builds the example in C as its first lines say.
fn c_example(directory: &Path) -> PathBuf {
    let program = directory.join("crops-c");
    let command = format!(
        "cc -std=c11 -Wall -Wextra -Werror examples/crops.c -o {} $(pkg-config --cflags --libs gstreamer-1.0 gstreamer-app-1.0)",
        program.display()
    );
    let output = Command::new("sh").args(["-c", &command]).current_dir(project::root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// Runs a program with the plugin under test.
fn run_program(program: &Path, arguments: &[&str]) -> Output {
    let target = common::target_directory();
    let mut command = common::command(program.to_str().unwrap(), &target);
    command
        .env("RETINAFACE_RUNTIMES", project::root().join(".fetch"))
        .env("RETINAFACE_MODEL", project::default_model());
    common::output_of(command.args(arguments), None)
}

fn run_python(arguments: &[&str]) -> Output {
    run_program(&python(), arguments)
}

/// The standard output of a run that succeeded.
fn text(output: Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The crops of a media file with their origins, in RGB.
fn crops(name: &str) -> Vec<(CropOrigin, Vec<u8>)> {
    let clip = clip(name);
    let samples = run(&format!(
        "filesrc location={clip} ! decodebin ! retinaface ! facealign ! video/x-raw,format=RGB ! appsink name=out"
    ));
    let crop = |sample: &gst::Sample| {
        let buffer = sample.buffer().unwrap();
        (face_meta::read_crop(buffer).unwrap(), buffer.map_readable().unwrap().to_vec())
    };
    samples.iter().map(crop).collect()
}

/// The path of a media file.
fn media(name: &str) -> String {
    project::media(name).to_str().unwrap().to_owned()
}

/// Runs an example that writes crops, and compares lines and files with the crops of `facealign`.
fn assert_writes_crops(program: &Path) {
    let directory = tempfile::tempdir().unwrap();
    // A new directory in one that exists.
    let out = directory.path().join("new");
    let lines = text(run_program(program, &[&media("single_face.mp4"), out.to_str().unwrap()]));
    let expected = crops("single_face.mp4");
    assert_eq!((lines.lines().count(), expected.len()), (72, 72));
    for (number, (line, (origin, pixels))) in lines.lines().zip(&expected).enumerate() {
        let name = format!("crop-{number:05}.ppm");
        assert!(line.ends_with(&format!("  {name}")), "{line}");
        let printed = line.trim_end_matches(&name).split_whitespace().filter_map(|word| word.parse::<f64>().ok());
        let (rect, nose) = (origin.face.rect, origin.face.landmarks.unwrap()[2]);
        let in_crop = origin.crop_from_frame.apply(nose);
        let time = origin.frame_pts.unwrap().nseconds() as f64 / 1e9;
        let coordinates = [rect.x, rect.y, rect.w, rect.h, nose.x, nose.y, in_crop.x, in_crop.y].map(f64::from);
        let expected = [time, f64::from(origin.face.score)].into_iter().chain(coordinates).collect::<Vec<_>>();
        let printed = printed.collect::<Vec<_>>();
        assert_eq!(printed.len(), expected.len(), "{line}");
        // Coordinates are printed with one decimal.
        assert!(printed.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 0.051), "{line}: {expected:?}");
        let file = std::fs::read(out.join(&name)).unwrap();
        assert!(file == [b"P6\n112 112\n255\n", &pixels[..]].concat(), "{name} has other pixels");
    }
}

#[test]
fn c_example_builds_without_warnings_and_writes_each_crop() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        assert_writes_crops(&c_example(directory.path()));
    });
}

#[test]
fn rust_example_writes_each_crop() {
    with_watchdog(|| assert_writes_crops(&rust_example()));
}

#[test]
fn examples_report_the_file_that_cannot_be_read() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let (c, gallery) = (c_example(directory.path()), project::media("single_face.jpg"));
        std::os::unix::fs::symlink(gallery, directory.path().join("Ann.jpg")).unwrap();
        let recogniser = ["examples/recogniser.py", "--gallery", path];
        for (name, reason) in [("/nowhere.mp4".to_owned(), "not found"), (media("LICENSE"), "text file")] {
            for (output, status) in [
                (run_program(&c, &[&name, path]), 1),
                (run_program(&rust_example(), &[&name, path]), 1),
                (run_python(&[&recogniser[..], &[&name]].concat()), 2),
            ] {
                let error = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(status), "{error}");
                assert!(error.contains(&name) && error.contains(reason), "{error}");
            }
        }
    });
}

/// Runs the recogniser and returns time, name and similarity of each line.
fn recognise(gallery: &Path, video: &str) -> Vec<(f64, String, f64)> {
    let output = run_python(&["examples/recogniser.py", "--gallery", gallery.to_str().unwrap(), video]);
    let line = |line: &str| {
        let [time, "s", name, similarity] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
        (time.parse().unwrap(), name.to_owned(), similarity.parse().unwrap())
    };
    text(output).lines().map(line).collect()
}

#[test]
fn python_example_names_the_person_of_the_gallery_and_no_other() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        // A photo of the person of single_face.mp4, and an aligned crop from the first frame of another clip.
        std::os::unix::fs::symlink(project::media("single_face.jpg"), directory.path().join("Ann__1.jpg")).unwrap();
        std::fs::create_dir(directory.path().join("Bob")).unwrap();
        let clip = clip("WolfgangLanger_Pexels.mp4");
        let video = directory.path().join("bob.mkv");
        run(&format!(
            "filesrc location={clip} ! decodebin ! videorate ! video/x-raw,framerate=2/1 ! jpegenc ! matroskamux \
             ! filesink location={}",
            quoted(&video)
        ));
        run(&format!(
            "filesrc location={clip} ! decodebin ! retinaface ! facealign ! pngenc snapshot=true ! filesink location={}",
            quoted(&directory.path().join("Bob/crop.png"))
        ));

        let times = crops("single_face.mp4").iter().map(|(origin, _)| origin.frame_pts.unwrap()).collect::<Vec<_>>();
        let ann = recognise(directory.path(), &media("single_face.mp4"));
        assert_eq!(ann.len(), times.len());
        for ((time, name, similarity), expected) in ann.iter().zip(times) {
            assert!((time - expected.nseconds() as f64 / 1e9).abs() <= 0.00051, "{time} is not {expected}");
            assert!(name == "Ann" && *similarity > 0.45, "{name} at {time}: {similarity}");
        }
        let bob = recognise(directory.path(), video.to_str().unwrap());
        assert!(
            bob.len() >= 38 && bob.iter().all(|(_, name, similarity)| name == "Bob" && *similarity > 0.45),
            "{bob:?}"
        );
        let others = recognise(directory.path(), &media("multi_face.jpg"));
        assert_eq!(others.len(), 5);
        assert!(others.iter().all(|(_, name, similarity)| name == "unknown" && *similarity < 0.363), "{others:?}");
    });
}

/// The numbers of nested JSON arrays in their order.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        value => vec![value.as_f64().unwrap()],
    }
}

#[test]
fn python_example_reads_every_field_of_a_crop() {
    with_watchdog(|| {
        let script = "import json, sys; sys.path.insert(0, 'examples'); import recogniser as r; r.Gst.init(None)\n\
                      for sample in r.samples(sys.argv[1], r.CROPS):\n\
                      \x20   face = r.face_of(sample)._asdict()\n\
                      \x20   values = {name: getattr(value, 'tolist', lambda: value)() for name, value in face.items()}\n\
                      \x20   print(json.dumps(values))";
        let lines = text(run_python(&["-c", script, &media("multi_face.jpg")]));
        let expected = crops("multi_face.jpg");
        assert_eq!((lines.lines().count(), expected.len()), (5, 5));
        for (line, (origin, pixels)) in lines.lines().zip(expected) {
            let read = serde_json::from_str::<Value>(line).unwrap();
            let (rect, landmarks) = (origin.face.rect, origin.face.landmarks.unwrap());
            let fields: [(&str, Vec<f64>); 7] = [
                ("time", vec![origin.frame_pts.unwrap().nseconds() as f64 / 1e9]),
                ("score", vec![origin.face.score.into()]),
                ("box", [rect.x, rect.y, rect.w, rect.h].map(f64::from).to_vec()),
                ("landmarks", landmarks.iter().flat_map(|point| [point.x.into(), point.y.into()]).collect()),
                ("crop_from_frame", origin.crop_from_frame.matrix().concat()),
                ("frame_from_crop", origin.frame_from_crop.matrix().concat()),
                ("crop", pixels.into_iter().map(f64::from).collect()),
            ];
            assert_eq!(read.as_object().unwrap().len(), fields.len());
            for (name, expected) in fields {
                let found = flat(&read[name]);
                // JSON is read with an error in the last digit.
                let same = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-9);
                assert!(found.len() == expected.len() && same, "{name}");
            }
        }
    });
}

#[test]
fn python_blocks_of_the_documentation_run() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(project::media("multi_face.jpg"), directory.path().join("clip.mp4")).unwrap();
        let page = std::fs::read_to_string(project::root().join("docs/python.md")).unwrap();
        let blocks =
            page.split("```python\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect::<Vec<_>>();
        assert_eq!(blocks.len(), 2, "one block for crops and one for frames");
        for block in blocks {
            let script = format!("import os; os.chdir({:?})\n{block}", directory.path());
            let printed = text(run_python(&["-W", "error::UserWarning", "-c", &script]));
            assert_eq!(printed.lines().count(), 5, "one line per face: {printed}");
        }
    });
}

#[test]
fn tests_of_the_python_example_pass() {
    with_watchdog(|| {
        let output = run_python(&["-m", "unittest", "discover", "-s", "examples"]);
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && report.contains("OK"), "{report}");
        assert!(!report.contains("Ran 0 tests"), "{report}");
    });
}
