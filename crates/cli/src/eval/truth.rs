//! WIDER FACE's ground truth, from its four MAT files.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::matlab::{self, Array};
use super::protocol::{SETS, Truth};

/// A picture of the data set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picture {
    /// The folder it is in.
    pub(super) event: String,
    /// Its file's name without the ending.
    pub(super) name: String,
    pub(super) truth: Truth,
}

/// Reads `wider_face_val.mat` and each set's `wider_easy_val.mat`, ..., from a folder.
pub(super) fn read(folder: &Path) -> anyhow::Result<Vec<Picture>> {
    let whole = variables(folder, "wider_face_val.mat", ["event_list", "file_list", "face_bbx_list"])?;
    let mut pictures = pictures(&whole).context("wider_face_val.mat")?;
    for (set, name) in SETS.iter().enumerate() {
        let file = format!("wider_{name}_val.mat");
        let [list] = variables(folder, &file, ["gt_list"])?;
        mark(&mut pictures, set, &list).context(file)?;
    }
    Ok(pictures)
}

fn variables<const N: usize>(folder: &Path, name: &str, wanted: [&str; N]) -> anyhow::Result<[Array; N]> {
    let path = folder.join(name);
    let hint = "--ground-truth is the folder of WIDER FACE's wider_face_val.mat, wider_easy_val.mat, \
                wider_medium_val.mat and wider_hard_val.mat";
    let bytes = fs::read(&path).with_context(|| format!("{} cannot be read ({hint})", path.display()))?;
    matlab::read(&bytes, wanted).with_context(|| path.display().to_string())
}

/// All pictures with their boxes, none of which counts yet.
fn pictures([events, files, boxes]: &[Array; 3]) -> anyhow::Result<Vec<Picture>> {
    let (events, files, boxes) = (events.cells()?, files.cells()?, boxes.cells()?);
    ensure!(
        events.len() == files.len() && events.len() == boxes.len(),
        "{} events, file lists of {} and boxes of {}",
        events.len(),
        files.len(),
        boxes.len()
    );
    let mut pictures = Vec::new();
    for ((event, files), boxes) in events.iter().zip(files).zip(boxes) {
        let event = event.text()?;
        let (files, boxes) = (files.cells()?, boxes.cells()?);
        ensure!(files.len() == boxes.len(), "{event} has {} pictures and boxes of {}", files.len(), boxes.len());
        for (file, boxes) in files.iter().zip(boxes) {
            let name = file.text()?;
            // They become paths.
            let is_name = |text: &str| !text.is_empty() && text != ".." && !text.contains(['/', '\\', '\0']);
            ensure!(is_name(event) && is_name(name), "{event:?} and {name:?} are no names of a folder and a file");
            let boxes = corners(boxes).with_context(|| format!("{event}/{name}"))?;
            let truth = Truth { counts: vec![[false; 3]; boxes.len()], boxes, faces: [0; 3] };
            pictures.push(Picture { event: event.to_owned(), name: name.to_owned(), truth });
        }
    }
    Ok(pictures)
}

/// A row `x y w h` a box.
fn corners(boxes: &Array) -> anyhow::Result<Vec<[f64; 4]>> {
    let (values, rows) = boxes.numbers()?;
    ensure!(
        rows.checked_mul(4) == Some(values.len()),
        "{} numbers are not x, y, w and h of {rows} boxes",
        values.len()
    );
    ensure!(values.iter().all(|value| value.is_finite()), "a box has a number that is not finite");
    let column = |at: usize, row: usize| values[at * rows + row];
    let corners = |row: usize| {
        let [x, y, w, h] = [0, 1, 2, 3].map(|at| column(at, row));
        [x, y, x + w, y + h]
    };
    Ok((0..rows).map(corners).collect())
}

/// Marks the boxes that count in a set.
fn mark(pictures: &mut [Picture], set: usize, list: &Array) -> anyhow::Result<()> {
    let mut indices = Vec::with_capacity(pictures.len());
    for event in list.cells()? {
        indices.extend(event.cells()?);
    }
    ensure!(indices.len() == pictures.len(), "it is of {} pictures, not {}", indices.len(), pictures.len());
    for (picture, indices) in pictures.iter_mut().zip(indices) {
        let Picture { event, name, truth } = picture;
        let (indices, _) = indices.numbers().with_context(|| format!("{event}/{name}"))?;
        for index in indices {
            // They count from 1.
            let at = (index.fract() == 0.0 && *index >= 1.0).then(|| *index as usize - 1);
            let counts = at.and_then(|at| truth.counts.get_mut(at));
            let counts = counts.with_context(|| format!("{event}/{name} has no box {index}"))?;
            ensure!(!counts[set], "box {index} of {event}/{name} is there twice");
            counts[set] = true;
        }
        truth.faces[set] = indices.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::matlab::tests::{cells, file, numbers, text};
    use super::*;

    fn folder(hard: &[[f64; 1]]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let boxes = cells("", &[numbers(&[[1.0, 2.0, 10.0, 20.0], [5.0, 5.0, 3.0, 4.0]]), numbers::<4>(&[])]);
        let whole = [
            cells("event_list", &[text("0--Parade")]),
            cells("file_list", &[cells("", &[text("a"), text("b")])]),
            cells("face_bbx_list", &[boxes]),
        ];
        std::fs::write(folder.path().join("wider_face_val.mat"), file(&whole)).unwrap();
        for (name, indices) in [("easy", &[][..]), ("medium", &[[2.0]]), ("hard", hard)] {
            let list = cells("gt_list", &[cells("", &[numbers(indices), numbers::<1>(&[])])]);
            std::fs::write(folder.path().join(format!("wider_{name}_val.mat")), file(&[list])).unwrap();
        }
        folder
    }

    #[test]
    fn boxes_and_those_that_count_come_from_the_four_files() {
        let pictures = read(folder(&[[1.0], [2.0]]).path()).unwrap();
        let names = pictures.iter().map(|picture| (picture.event.as_str(), picture.name.as_str()));
        assert_eq!(names.collect::<Vec<_>>(), [("0--Parade", "a"), ("0--Parade", "b")]);
        let truth = &pictures[0].truth;
        assert_eq!(truth.boxes, [[1.0, 2.0, 11.0, 22.0], [5.0, 5.0, 8.0, 9.0]]);
        assert_eq!(truth.counts, [[false, false, true], [false, true, true]]);
        assert_eq!(truth.faces, [0, 1, 2]);
        assert_eq!(pictures[1].truth, Truth::default());
    }

    #[test]
    fn a_box_that_is_not_there_and_a_file_that_is_missing_are_named() {
        let error = |folder: &Path| format!("{:#}", read(folder).unwrap_err());
        for wrong in [3.0, 0.0, 1.5, -1.0, f64::NAN] {
            let text = error(folder(&[[wrong]]).path());
            assert!(text.contains("wider_hard_val.mat") && text.contains("0--Parade/a has no box"), "{text}");
        }
        assert!(error(folder(&[[1.0], [1.0]]).path()).contains("twice"));
        let folder = folder(&[]);
        std::fs::remove_file(folder.path().join("wider_medium_val.mat")).unwrap();
        let text = error(folder.path());
        assert!(text.contains("wider_medium_val.mat cannot be read (--ground-truth is"), "{text}");
    }
}
