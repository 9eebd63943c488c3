//! Models that cannot be used: each is refused with a message of its own, that names the file and what to do.
//!
//! tests/fixtures/models/make_models.py says how each file was made.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::path::Path;

use retinaface::detector::{Detector, Settings, SharedModel};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface::letterbox::InputSize;
use retinaface::model::{Model, ModelError, Options, Preprocessing};

mod common;

fn open(path: &Path) -> Result<Model, ModelError> {
    Model::open(path, &Options::default())
}

fn refused(path: &Path) -> String {
    let message = open(path).expect_err("it cannot be used").to_string();
    assert!(message.contains(&path.display().to_string()), "{message}");
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn each_unusable_model_has_a_message_of_its_own() {
    let mut all = Vec::new();
    for (file, parts) in [
        ("fp16_input.onnx", &["its input is float16", "keep_io_types"][..]),
        ("int64_input.onnx", &["its input is of whole numbers", "int64", "export it with a float32 input"]),
        ("uint8_input.onnx", &["its input is of whole numbers", "uint8"]),
        ("grey_input.onnx", &["its input has 1 channels", "expected one float32 picture [N, 3, height, width]"]),
        ("two_inputs.onnx", &["it has 2 inputs", "`mask`"]),
        ("nan.onnx", &["numbers that are not finite in output a", "black picture"]),
        ("opset_future.onnx", &["version 999 of ONNX's operators", "newer ONNX Runtime"]),
        ("opset_old.onnx", &["version 1 of ONNX's operators", "export it again"]),
        ("wrong_shape.onnx", &["closest is RetinaFace (biubug6)", "no output for its landmarks", "`c` [1, 84, 8]"]),
        ("fp16_outputs.onnx", &["its outputs are float16", "keep_io_types", "f16"]),
        (
            "classifier.onnx",
            &["none of its outputs is one of a detector's", "[1, 1000]", "SCRFD, SCRFD without keypoints, YuNet"],
        ),
        ("odd_anchors.onnx", &["fit RetinaFace (InsightFace) with 4 anchors a cell", "model option anchors"]),
        ("fails_at_run.onnx", &["does not run", "Reshape"]),
        ("external.onnx", &["missing.weights"]),
        ("bad_metadata.onnx", &["model option mean=red", "not a number", "the file's own metadata"]),
        ("landmarks68.onnx", &["its input has 1 channels", "facelandmarks"]),
        ("landmarks106.onnx", &["looks like a landmark model", "facelandmarks", "[1, 212]"]),
    ] {
        let message = refused(&common::root().join("tests/fixtures/models").join(file));
        for part in parts {
            assert!(message.contains(part), "{file}: {message}");
        }
        all.push(message.replace(file, ""));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 17, "each has its own words");
}

#[test]
fn what_is_said_of_a_model_and_cannot_be_is_no_fault_of_the_model() {
    let said = |said: &str| {
        let options = Options { overrides: said.parse().unwrap(), ..Options::default() };
        Model::open(&common::default_model(), &options).err().unwrap()
    };
    let error = said("strides=8,16");
    assert!(matches!(error, ModelError::Override { .. }), "{error}");
    assert!(error.to_string().contains("2 strides and anchors of 3 levels"), "{error}");
    let Some(old) = common::shared("models/retinaface_biubug6_fixed640.onnx") else { return };
    let options = Options { preprocessing: Preprocessing::Device, ..Options::default() };
    let error = Model::open(&old, &options).err().unwrap().to_string();
    assert!(error.contains("version 9, 11 or newer is needed") && error.contains("preprocessing=cpu"), "{error}");
}

#[test]
fn damaged_files_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let whole = fs::read(common::default_model()).unwrap();
    for (bytes, part) in [
        (&[][..], "it is empty"),
        (b"<html><body>Not found</body></html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"\xff\xff\xff\xff not a model", "truncated or of another format"),
        (&whole[..whole.len() / 2], "truncated or of another format"),
        (&whole[..whole.len() - 1], "truncated or of another format"),
    ] {
        fs::write(&path, bytes).unwrap();
        let message = refused(&path);
        assert!(message.contains(part), "{message}");
    }
    // Of two gigabytes and more, of which none is on the disk.
    fs::File::create(&path).unwrap().set_len(1 << 31).unwrap();
    let message = refused(&path);
    assert!(message.contains("2147483648 bytes") && message.contains("2 GiB"), "{message}");
    let message = refused(folder.path());
    assert!(message.contains("directory"), "{message}");
    // Opening it would wait for ever, or read for ever.
    let message = refused(std::path::Path::new("/dev/zero"));
    assert!(message.contains("no regular file"), "{message}");
    let message = refused(&folder.path().join("none.onnx"));
    assert!(message.contains("No such file"), "{message}");
}

#[test]
fn a_file_with_a_byte_changed_anywhere_is_refused_or_runs_but_never_harms() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let whole = fs::read(common::root().join("tests/fixtures/models/scrfd.onnx")).unwrap();
    let pixels = vec![90; 3 * 64 * 64];
    let view = ImageView::new(ImageInfo::new(PixelFormat::Bgr, 64, 64), &[&pixels], &[3 * 64]).unwrap();
    let (mut refused, mut ran) = (0, 0);
    for (round, at) in (0..whole.len()).step_by(whole.len() / 60).enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (round % 8);
        fs::write(&path, bytes).unwrap();
        match SharedModel::open(&path, &Options::default()) {
            Ok(model) => {
                let _ = Detector::new(&model).detect(&view, &Settings::default());
                ran += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("model.onnx"), "{error}");
                refused += 1;
            }
        }
    }
    eprintln!("{refused} refused, {ran} run");
    assert!(refused > 0 && ran > 0);
}

#[test]
fn numbers_that_are_none_in_some_pictures_are_dropped_and_counted() {
    let path = common::root().join("tests/fixtures/models/inf_sometimes.onnx");
    for preprocessing in [Preprocessing::Cpu, Preprocessing::Device] {
        let model = SharedModel::open(&path, &Options { preprocessing, ..Options::default() }).unwrap();
        let pixels = vec![255; 3 * 64 * 64];
        let view = ImageView::new(ImageInfo::new(PixelFormat::Bgr, 64, 64), &[&pixels], &[3 * 64]).unwrap();
        let settings = Settings { input_size: InputSize::Native, score_threshold: 0.3, ..Settings::default() };
        let found = Detector::new(&model).detect(&view, &settings).unwrap();
        assert_eq!(found.faces, []);
        assert!(found.non_finite > 0, "{found:?}");
    }
}
