//! The ground truth of the WIDER FACE validation set, from its four MAT files.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::matlab::{self, Array};
use super::protocol::{DIFFICULTIES, GroundTruth};

/// The variables with the names and boxes of all images.
const VARIABLES: [&str; 3] = ["event_list", "file_list", "face_bbx_list"];

/// An image of the data set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AnnotatedImage {
    /// Directory of the file.
    pub(super) event: String,
    /// File name without extension.
    pub(super) name: String,
    pub(super) truth: GroundTruth,
}

/// Reads `wider_face_val.mat`, and per difficulty `wider_easy_val.mat` and so on, from a directory.
pub(super) fn read(directory: &Path) -> anyhow::Result<Vec<AnnotatedImage>> {
    let all = variables(directory, "wider_face_val.mat", VARIABLES)?;
    let mut images = parse_images(&all).context("wider_face_val.mat")?;
    for (difficulty, name) in DIFFICULTIES.iter().enumerate() {
        let file = format!("wider_{name}_val.mat");
        let [list] = variables(directory, &file, ["gt_list"])?;
        mark_evaluated(&mut images, difficulty, &list).context(file)?;
    }
    Ok(images)
}

/// Reads the images and the evaluated boxes that one MAT file contains, for the fuzz target. Returns
/// the number of images.
pub(crate) fn read_file(file: &[u8]) -> anyhow::Result<usize> {
    let mut images = parse_images(&matlab::read(file, VARIABLES)?)?;
    let [list] = matlab::read(file, ["gt_list"])?;
    mark_evaluated(&mut images, 0, &list)?;
    Ok(images.len())
}

fn variables<const N: usize>(directory: &Path, name: &str, wanted: [&str; N]) -> anyhow::Result<[Array; N]> {
    let path = directory.join(name);
    let hint = "--ground-truth is the directory with WIDER FACE's wider_face_val.mat, wider_easy_val.mat, \
                wider_medium_val.mat and wider_hard_val.mat";
    let bytes = fs::read(&path).with_context(|| format!("cannot read {} ({hint})", path.display()))?;
    matlab::read(&bytes, wanted).with_context(|| path.display().to_string())
}

/// All images with their boxes, all of them ignored so far.
fn parse_images([events, files, boxes]: &[Array; 3]) -> anyhow::Result<Vec<AnnotatedImage>> {
    let (events, files, boxes) = (events.cells()?, files.cells()?, boxes.cells()?);
    ensure!(
        events.len() == files.len() && events.len() == boxes.len(),
        "event_list has {} events, file_list {} and face_bbx_list {}",
        events.len(),
        files.len(),
        boxes.len()
    );
    let mut images = Vec::new();
    for ((event, files), boxes) in events.iter().zip(files).zip(boxes) {
        let event = event.text()?;
        let (files, boxes) = (files.cells()?, boxes.cells()?);
        ensure!(files.len() == boxes.len(), "{event} has {} files, but boxes for {}", files.len(), boxes.len());
        for (file, boxes) in files.iter().zip(boxes) {
            let name = file.text()?;
            // The names become paths, which must stay below the directories of the command line.
            let is_name = |text: &str| !text.is_empty() && text != ".." && !text.contains(['/', '\\', '\0']);
            ensure!(is_name(event) && is_name(name), "{event:?} and {name:?} are not names of a directory and a file");
            let boxes = parse_boxes(boxes).with_context(|| format!("{event}/{name}"))?;
            let truth = GroundTruth { evaluated: vec![[false; 3]; boxes.len()], boxes, faces: [0; 3] };
            images.push(AnnotatedImage { event: event.to_owned(), name: name.to_owned(), truth });
        }
    }
    Ok(images)
}

/// Converts a matrix with one row `x y w h` per box to corners.
fn parse_boxes(boxes: &Array) -> anyhow::Result<Vec<[f64; 4]>> {
    let (values, rows) = boxes.numeric()?;
    ensure!(
        rows.checked_mul(4) == Some(values.len()),
        "expected 4 columns (x, y, w, h), found {} values in {rows} rows",
        values.len()
    );
    ensure!(values.iter().all(|value| value.is_finite()), "a box has a value that is not finite");
    let column = |at: usize, row: usize| values[at * rows + row];
    let corners = |row: usize| {
        let [x, y, w, h] = [0, 1, 2, 3].map(|at| column(at, row));
        [x, y, x + w, y + h]
    };
    Ok((0..rows).map(corners).collect())
}

/// Marks the boxes that are evaluated at a difficulty.
fn mark_evaluated(images: &mut [AnnotatedImage], difficulty: usize, list: &Array) -> anyhow::Result<()> {
    let mut indices = Vec::with_capacity(images.len());
    for event in list.cells()? {
        indices.extend(event.cells()?);
    }
    ensure!(indices.len() == images.len(), "gt_list has {} images instead of {}", indices.len(), images.len());
    for (image, indices) in images.iter_mut().zip(indices) {
        let AnnotatedImage { event, name, truth } = image;
        let (indices, _) = indices.numeric().with_context(|| format!("{event}/{name}"))?;
        for index in indices {
            // MATLAB indices start at 1.
            let at = (index.fract() == 0.0 && *index >= 1.0).then(|| *index as usize - 1);
            let evaluated = at.and_then(|at| truth.evaluated.get_mut(at));
            let evaluated = evaluated.with_context(|| format!("{event}/{name} has no box {index}"))?;
            ensure!(!evaluated[difficulty], "gt_list names box {index} of {event}/{name} twice");
            evaluated[difficulty] = true;
        }
        truth.faces[difficulty] = indices.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::matlab::tests::{cell, char, file, matrix};

    fn directory(hard: &[[f64; 1]]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let boxes = cell("", &[matrix(&[[1.0, 2.0, 10.0, 20.0], [5.0, 5.0, 3.0, 4.0]]), matrix::<4>(&[])]);
        let all = [
            cell("event_list", &[char("0--Parade")]),
            cell("file_list", &[cell("", &[char("a"), char("b")])]),
            cell("face_bbx_list", &[boxes]),
        ];
        std::fs::write(directory.path().join("wider_face_val.mat"), file(&all)).unwrap();
        for (name, indices) in [("easy", &[][..]), ("medium", &[[2.0]]), ("hard", hard)] {
            let list = cell("gt_list", &[cell("", &[matrix(indices), matrix::<1>(&[])])]);
            std::fs::write(directory.path().join(format!("wider_{name}_val.mat")), file(&[list])).unwrap();
        }
        directory
    }

    #[test]
    fn boxes_and_their_difficulties_come_from_the_four_files() {
        let images = read(directory(&[[1.0], [2.0]]).path()).unwrap();
        let names = images.iter().map(|image| (image.event.as_str(), image.name.as_str()));
        assert_eq!(names.collect::<Vec<_>>(), [("0--Parade", "a"), ("0--Parade", "b")]);
        let truth = &images[0].truth;
        assert_eq!(truth.boxes, [[1.0, 2.0, 11.0, 22.0], [5.0, 5.0, 8.0, 9.0]]);
        assert_eq!(truth.evaluated, [[false, false, true], [false, true, true]]);
        assert_eq!(truth.faces, [0, 1, 2]);
        assert_eq!(images[1].truth, GroundTruth::default());
    }

    #[test]
    fn errors_name_a_box_that_does_not_exist_and_a_missing_file() {
        let error = |directory: &Path| format!("{:#}", read(directory).unwrap_err());
        for invalid in [3.0, 0.0, 1.5, -1.0, f64::NAN] {
            let text = error(directory(&[[invalid]]).path());
            assert!(text.contains("wider_hard_val.mat") && text.contains("0--Parade/a has no box"), "{text}");
        }
        assert!(error(directory(&[[1.0], [1.0]]).path()).contains("twice"));
        let directory = directory(&[]);
        std::fs::remove_file(directory.path().join("wider_medium_val.mat")).unwrap();
        let text = error(directory.path());
        assert!(text.contains("wider_medium_val.mat (--ground-truth is") && text.starts_with("cannot read"), "{text}");
    }
}
