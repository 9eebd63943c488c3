//! Image files from the field through the program: what standard error and the lines say.

use std::path::{Path, PathBuf};

use opencv::core::{Mat, Vector};
use opencv::imgcodecs::{IMREAD_COLOR, imencode, imread};
use opencv::prelude::*;

use crate::binary::{path_str, program, run, status, stderr};
use crate::common;

fn photo(extension: &str) -> Vec<u8> {
    let mat = imread(path_str(&common::media("single_face.jpg")), IMREAD_COLOR).unwrap();
    encoded(&mat, extension)
}

fn encoded(mat: &Mat, extension: &str) -> Vec<u8> {
    let mut bytes = Vector::new();
    assert!(imencode(extension, mat, &mut bytes, &Vector::new()).unwrap());
    bytes.to_vec()
}

fn file(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let file = directory.join(name);
    std::fs::write(&file, bytes).unwrap();
    file
}

/// PNG data with a chunk after the header.
fn with_png_chunk(png: &[u8], chunk: &[u8]) -> Vec<u8> {
    let (head, body) = png.split_at(8 + 25);
    [head, chunk, body].concat()
}

#[test]
fn standard_error_has_one_line_of_the_program_for_each_damaged_file() {
    let directory = tempfile::tempdir().unwrap();
    let cut = |extension: &str, part: usize| {
        let bytes = photo(extension);
        bytes[..bytes.len() * part / 8].to_vec()
    };
    let mut bad_checksum = photo(".png");
    let middle = bad_checksum.len() / 2;
    bad_checksum[middle] ^= 0x55;
    let files = [
        ("cut.jpg", cut(".jpg", 4), "the JPEG file is truncated"),
        ("cut.png", cut(".png", 4), "a PNG image that cannot be decoded (libpng error: "),
        ("checksum.png", bad_checksum, "a PNG image that cannot be decoded (libpng error: "),
        ("cut.webp", cut(".webp", 4), "a WebP image that cannot be decoded"),
        ("cut.tiff", cut(".tiff", 4), "a TIFF image that cannot be decoded"),
        ("cut.bmp", cut(".bmp", 4), "a BMP image that cannot be decoded (Unexpected end of input stream)"),
        ("cut.jp2", cut(".jp2", 4), "a JPEG 2000 image that cannot be decoded (OpenJPEG2000: "),
        ("page.jpg", b"<!DOCTYPE html>".to_vec(), "an HTML page"),
    ];
    for (name, bytes, part) in files {
        let path = file(directory.path(), name, &bytes);
        let output = run(&["detect", path_str(&path)]);
        let text = stderr(&output);
        assert_eq!((status(&output), output.stdout.len()), (2, 0), "{name}: {text}");
        assert_eq!(text.lines().count(), 1, "{name}: {text}");
        assert!(text.starts_with(&format!("retinaface: {}: the ", path.display())), "{name}: {text}");
        assert!(text.contains(part) && text.contains("again"), "{name}: {text}");
        assert!(!text.contains('\u{1B}') && !text.contains(".cpp"), "{name}: {text}");
    }
}

#[test]
fn warnings_of_a_decoder_name_the_file_once_and_the_faces_are_printed() {
    let directory = tempfile::tempdir().unwrap();
    // A chunk with a wrong checksum, twice.
    let chunk = [&[0, 0, 0, 1][..], b"gAMA", &[0], &[1, 2, 3, 4]].concat();
    let png = file(directory.path(), "chunks.png", &with_png_chunk(&photo(".png"), &[&chunk[..], &chunk].concat()));
    // Bytes between the segments of a JPEG file.
    let jpeg = photo(".jpg");
    let second = 4 + usize::from(u16::from_be_bytes([jpeg[4], jpeg[5]]));
    let extra = [&jpeg[..second], &[1, 2, 3], &jpeg[second..]].concat();
    let jpeg = file(directory.path(), "extra.jpg", &extra);
    for (path, part) in [(&png, "libpng warning: gAMA: "), (&jpeg, "Corrupt JPEG data: 3 extraneous bytes")] {
        let output = run(&["detect", path_str(path), path_str(&common::media("single_face.jpg"))]);
        let text = stderr(&output);
        assert_eq!((status(&output), text.lines().count()), (0, 1), "{text}");
        assert!(text.starts_with(&format!("retinaface: {}: warning of the decoder: {part}", path.display())), "{text}");
        assert_eq!(String::from_utf8(output.stdout).unwrap().matches("\"score\"").count(), 2);
    }
    // The images of this command are decoded on another thread.
    let found = directory.path().join("found");
    let output = run(&["eval", "predict", "--images", path_str(directory.path()), "--out", path_str(&found)]);
    let text = stderr(&output);
    assert_eq!((status(&output), text.lines().count()), (0, 2), "{text}");
    for path in [&png, &jpeg] {
        assert_eq!(text.matches(&format!("retinaface: {}: ", path.display())).count(), 1, "{text}");
    }
}

#[test]
fn lines_of_onnx_runtime_are_not_printed_beside_the_error_that_contains_them() {
    let model = common::root().join("tests/fixtures/models/fails_at_run.onnx");
    let output = run(&["model", path_str(&model)]);
    let text = stderr(&output);
    assert_eq!((status(&output), text.lines().count()), (2, 1), "{text}");
    assert!(text.starts_with("retinaface: model file ") && text.matches("Non-zero status code").count() == 1, "{text}");
}

#[test]
fn the_face_of_a_rotated_photo_is_found_upright() {
    let directory = tempfile::tempdir().unwrap();
    let upright = imread(path_str(&common::media("single_face.jpg")), IMREAD_COLOR).unwrap();
    let mut rotated = Mat::default();
    opencv::core::rotate(&upright, &mut rotated, opencv::core::ROTATE_90_COUNTERCLOCKWISE).unwrap();
    // Orientation 6: rotate by 90 degrees clockwise.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let size = [rotated.cols() - 1, rotated.rows() - 1].map(|side| side.to_le_bytes());
    let still = encoded(&rotated, ".webp");
    let chunks =
        [&b"VP8X\x0A\0\0\0\x08\0\0\0"[..], &size[0][..3], &size[1][..3], &still[12..], b"EXIF\x1A\0\0\0", exif]
            .concat();
    let webp = [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunks].concat();
    let path = file(directory.path(), "phone.webp", &webp);
    let output = run(&["detect", path_str(&path), "--annotate", path_str(&directory.path().join("drawn"))]);
    assert_eq!((status(&output), stderr(&output).as_str()), (0, ""));
    let line = serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    assert_eq!((line["width"].as_i64(), line["height"].as_i64()), (Some(572), Some(562)));
    let pose = &line["faces"][0]["pose"];
    assert!(line["faces"].as_array().unwrap().len() == 1 && pose["roll"].as_f64().unwrap().abs() < 30.0, "{line}");
}

#[test]
fn a_jpeg_without_its_end_marker_gives_the_same_line_as_the_whole_file() {
    let directory = tempfile::tempdir().unwrap();
    let whole = std::fs::read(common::media("single_face.jpg")).unwrap();
    assert!(whole.ends_with(&[0xFF, 0xD9]));
    let line = |len: usize| {
        let path = file(directory.path(), "photo.jpg", &whole[..len]);
        let output = run(&["detect", path_str(&path)]);
        assert_eq!(output.stdout.is_empty(), status(&output) == 2);
        (output.stdout.clone(), stderr(&output))
    };
    let expected = line(whole.len());
    assert_eq!(expected.1, "");
    assert_eq!(line(whole.len() - 2), expected);
    assert!(line(whole.len() - 3).1.contains("the JPEG file is truncated"));
}

#[test]
fn messages_are_printed_while_standard_error_is_closed_or_redirected() {
    let directory = tempfile::tempdir().unwrap();
    let bad = file(directory.path(), "cut.png", &photo(".png")[..1000]);
    let log = directory.path().join("log");
    let mut command = program(&["detect", path_str(&bad), path_str(&common::media("single_face.jpg"))]);
    let output = command.stderr(std::fs::File::create(&log).unwrap()).output().unwrap();
    assert_eq!((status(&output), output.stdout.is_empty()), (2, false));
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    // 2>&- closes it.
    let command = program(&[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$0\" detect \"$1\" \"$2\" 2>&-"]).arg(command.get_program());
    shell.args([&bad, &common::media("single_face.jpg")]);
    command.get_envs().for_each(|(name, value)| {
        shell.env(name, value.unwrap());
    });
    let output = shell.output().unwrap();
    assert_eq!((status(&output), output.stdout.is_empty(), output.stderr.len()), (2, false, 0));
}
