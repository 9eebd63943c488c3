//! Invalid and damaged models: each is refused with a specific message that names the file and the
//! remedy.
//!
//! tests/fixtures/models/make_models.py creates the files.

use std::fs;
use std::path::Path;

use crate::common;
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::InputSize;
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface::inference::{Model, ModelError, ModelOptions, Preprocessing, SharedModel};

fn open(path: &Path) -> Result<Model, ModelError> {
    Model::open(path, &ModelOptions::default())
}

/// The message of the error for an invalid model: one line with the path of the file.
fn refusal(path: &Path) -> String {
    let message = open(path).expect_err("the model is invalid").to_string();
    assert!(message.contains(&path.display().to_string()), "{message}");
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn each_invalid_model_has_a_specific_message() {
    let mut messages = Vec::new();
    for (file, parts) in [
        ("fp16_input.onnx", &["its input is float16", "keep_io_types"][..]),
        ("int64_input.onnx", &["its input has the integer type", "int64", "export the model with a float32 input"]),
        ("uint8_input.onnx", &["its input has the integer type", "uint8"]),
        ("grey_input.onnx", &["its input has 1 channel;", "expected one float32 image [N, 3, height, width]"]),
        ("two_inputs.onnx", &["it has 2 inputs", "`mask`"]),
        ("nan.onnx", &["values that are not finite in output a", "black image"]),
        ("opset_future.onnx", &["operator set 999", "newer ONNX Runtime"]),
        ("opset_old.onnx", &["operator set 1,", "export the model with operator set 11 to 17"]),
        (
            "wrong_shape.onnx",
            &[
                "closest is RetinaFace (biubug6)",
                "no output has the shape [1, 84, 10] of the landmarks",
                "`c` [1, 84, 8]",
            ],
        ),
        ("fp16_outputs.onnx", &["its outputs are float16", "keep_io_types", "f16"]),
        (
            "classifier.onnx",
            &["no output has the shape of a detector output", "[1, 1000]", "SCRFD, SCRFD without keypoints, YuNet"],
        ),
        ("odd_anchors.onnx", &["fit RetinaFace (InsightFace) with 4 anchors per cell", "model option anchors"]),
        ("fails_at_run.onnx", &["does not run", "Reshape"]),
        (
            "external.onnx",
            &["`missing.weights`", "weights of the model is missing", "tests/fixtures/models under that name"],
        ),
        ("bad_metadata.onnx", &["model option mean=red", "not a number", "the file's own metadata"]),
        ("landmarks68.onnx", &["its input has 1 channel;", "facelandmarks"]),
        ("landmarks106.onnx", &["probably a landmark model", "facelandmarks", "[1, 212]"]),
    ] {
        let message = refusal(&common::root().join("tests/fixtures/models").join(file));
        for part in parts {
            assert!(message.contains(part), "{file}: {message}");
        }
        messages.push(message.replace(file, ""));
    }
    messages.sort();
    messages.dedup();
    assert_eq!(messages.len(), 17, "all messages are different");
}

#[test]
fn invalid_override_is_not_reported_as_model_fault() {
    let error_with = |overrides: &str| {
        let options = ModelOptions { overrides: overrides.parse().unwrap(), ..ModelOptions::default() };
        Model::open(&common::default_model(), &options).err().unwrap()
    };
    let error = error_with("strides=8,16");
    assert!(matches!(error, ModelError::Override { .. }), "{error}");
    assert!(error.to_string().contains("2 strides and anchors of 3 levels"), "{error}");
    // Its operator set is older than that of the nodes of the device graph.
    let Some(old_model) = common::shared("models/retinaface_biubug6_fixed640.onnx") else { return };
    let options = ModelOptions { preprocessing: Preprocessing::Device, ..ModelOptions::default() };
    let error = Model::open(&old_model, &options).err().unwrap().to_string();
    assert!(
        error.contains("operator set 9, but operator set 11 or newer is required")
            && error.contains("preprocessing=cpu"),
        "{error}"
    );
}

#[test]
fn damaged_file_is_described_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    let bytes = fs::read(common::default_model()).unwrap();
    for (content, part) in [
        (&[][..], "it is empty"),
        (b"<html><body>Not found</body></html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"404: Not Found", "error message of a server"),
        (b"PK\x03\x04 archive/data.pkl", "torch.onnx.export"),
        (b"\xff\xff\xff\xff not a model", "truncated or has another format"),
        (&bytes[..bytes.len() / 2], "truncated or has another format"),
        (&bytes[..bytes.len() - 1], "truncated or has another format"),
    ] {
        fs::write(&path, content).unwrap();
        let message = refusal(&path);
        assert!(message.contains(part), "{message}");
    }
    // The file begins with the field of the IR version.
    let mut newer = bytes.clone();
    assert_eq!(newer[0], 8);
    newer[1] = 127;
    fs::write(&path, newer).unwrap();
    let message = refusal(&path);
    assert!(message.contains("IR version 127") && message.contains("newer ONNX Runtime"), "{message}");
    // A sparse file of 2 GiB, which occupies no disk space.
    fs::File::create(&path).unwrap().set_len(1 << 31).unwrap();
    let message = refusal(&path);
    assert!(message.contains("2147483648 bytes") && message.contains("2 GiB"), "{message}");
    let message = refusal(directory.path());
    assert!(message.contains("directory"), "{message}");
    // Reading a device could block or never end.
    let message = refusal(Path::new("/dev/zero"));
    assert!(message.contains("not a regular file"), "{message}");
    let message = refusal(&directory.path().join("none.onnx"));
    assert!(message.contains("No such file"), "{message}");
}

#[test]
fn corrupted_byte_causes_error_or_valid_run() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    let bytes = fs::read(common::root().join("tests/fixtures/models/scrfd.onnx")).unwrap();
    let pixels = vec![90; 3 * 64 * 64];
    let view = ImageView::new(ImageInfo::new(PixelFormat::Bgr, 64, 64), &[&pixels], &[3 * 64]).unwrap();
    let (mut refused, mut ran) = (0, 0);
    for (round, at) in (0..bytes.len()).step_by(bytes.len() / 60).enumerate() {
        let mut corrupted = bytes.clone();
        corrupted[at] ^= 1 << (round % 8);
        fs::write(&path, corrupted).unwrap();
        match SharedModel::open(&path, &ModelOptions::default()) {
            Ok(model) => {
                let _ = Detector::new(&model).detect(&view, &DetectionSettings::default());
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
fn non_finite_candidates_are_dropped_and_counted() {
    let path = common::root().join("tests/fixtures/models/inf_sometimes.onnx");
    for preprocessing in [Preprocessing::Cpu, Preprocessing::Device] {
        let model = SharedModel::open(&path, &ModelOptions { preprocessing, ..ModelOptions::default() }).unwrap();
        let pixels = vec![255; 3 * 64 * 64];
        let view = ImageView::new(ImageInfo::new(PixelFormat::Bgr, 64, 64), &[&pixels], &[3 * 64]).unwrap();
        let settings =
            DetectionSettings { input_size: InputSize::Native, score_threshold: 0.3, ..DetectionSettings::default() };
        let found = Detector::new(&model).detect(&view, &settings).unwrap();
        assert_eq!(found.faces, []);
        assert!(found.non_finite > 0, "{found:?}");
    }
}
