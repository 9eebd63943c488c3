//! The WIDER FACE format of detections: one text file `EVENT/NAME.txt` per image.
//!
//! Line 1 is the name of the image, line 2 the number of boxes. Each further line is a box:
//! `x y w h score`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use retinaface::geometry::Face;
use serde::Serialize;

use super::protocol::Detection;

/// Format of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// x y w h score, the official format
    Xywh,
    /// x1 y1 x2 y2 score
    Corners,
}

/// Reads the detections of the image `name`; None if the file does not exist.
pub(super) fn read(path: &Path, name: &str, format: Format) -> anyhow::Result<Option<Vec<Detection>>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let text = str::from_utf8(&text).with_context(|| format!("{} is not UTF-8 text", path.display()))?;
    parse(text, name, format).with_context(|| path.display().to_string()).map(Some)
}

fn parse(text: &str, name: &str, format: Format) -> anyhow::Result<Vec<Detection>> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim();
    let file_name = first.rsplit('/').next().unwrap_or_default();
    let is_extension = |text: &str| text.len() <= 4 && text.chars().all(char::is_alphanumeric);
    let stem = file_name.rsplit_once('.').filter(|(_, extension)| is_extension(extension));
    ensure!(
        file_name == name || stem.is_some_and(|(stem, _)| stem == name),
        "line 1 is {first:?} instead of the image name {name}"
    );
    let count = lines.next().unwrap_or_default().trim();
    let count =
        count.parse::<usize>().map_err(|_| anyhow::anyhow!("line 2 is {count:?} instead of the number of boxes"))?;
    let mut detections = Vec::new();
    for (number, line) in (3..).zip(lines) {
        if line.trim().is_empty() {
            continue;
        }
        detections.push(parse_detection(line, format).with_context(|| format!("line {number}, {line:?}"))?);
    }
    ensure!(
        detections.len() == count,
        "line 2 announces {count} boxes, but the file has {}: the file is truncated or the number is wrong; write it again",
        detections.len()
    );
    Ok(detections)
}

fn parse_detection(line: &str, format: Format) -> anyhow::Result<Detection> {
    let mut values = [0.0; 5];
    let mut words = line.split_ascii_whitespace();
    for value in &mut values {
        let word = words.next().context("expected five values, the last one the score, found fewer")?;
        *value = word.parse::<f64>().map_err(|_| anyhow::anyhow!("{word:?} is not a number"))?;
        ensure!(value.is_finite(), "{word} is not finite: drop such detections when the file is written");
    }
    ensure!(words.next().is_none(), "expected five values, the last one the score, found more");
    let [x, y, c, d, score] = values;
    let corners = match format {
        Format::Xywh => [x, y, x + c, y + d],
        Format::Corners => [x, y, c, d],
    };
    if corners[2] < corners[0] || corners[3] < corners[1] {
        match format {
            Format::Xywh => bail!("the width or height is negative"),
            Format::Corners => bail!(
                "the right edge is left of the left edge, or the bottom edge above the top edge: use --format xywh if the \
                 values are x y w h"
            ),
        }
    }
    Ok(Detection { corners, score })
}

/// The faces of the image `name` in the official format.
pub(super) fn write(name: &str, faces: &[Face]) -> String {
    let mut text = format!("{name}\n{}\n", faces.len());
    for Face { rect, score, .. } in faces {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:.3} {:.3} {:.3} {:.3} {score:.6}", rect.x, rect.y, rect.w, rect.h);
    }
    text
}

#[cfg(test)]
mod tests {
    use retinaface::geometry::Rect;

    use super::*;

    fn error(text: &str, format: Format) -> String {
        format!("{:#}", parse(text, "a_1", format).unwrap_err())
    }

    #[test]
    fn both_formats_are_parsed() {
        let text = "0--Parade/a_1.jpg\n2\n10 20 5.5 6 0.75 \r\n0 0 10 20 1e-1\n\n";
        let [first, second] = parse(text, "a_1", Format::Xywh).unwrap()[..] else { panic!("two") };
        assert_eq!(first, Detection { corners: [10.0, 20.0, 15.5, 26.0], score: 0.75 });
        assert_eq!(second, Detection { corners: [0.0, 0.0, 10.0, 20.0], score: 0.1 });
        let text = "a_1\n1\n10 20 15.5 26 0.75\n";
        assert_eq!(parse(text, "a_1", Format::Corners).unwrap(), [first]);
        assert_eq!(parse("a_1.png\n0\n", "a_1", Format::Corners).unwrap(), []);
    }

    #[test]
    fn errors_name_the_line() {
        let cases = [
            ("", "line 1 is \"\""),
            ("0--Parade/a_2.jpg\n0\n", "instead of the image name a_1"),
            ("a_1\n", "line 2 is \"\""),
            ("a_1\n-1\n", "line 2 is \"-1\""),
            ("a_1\n2\n1 2 3 4 0.5\n", "line 2 announces 2 boxes, but the file has 1"),
            ("a_1\n0\n1 2 3 4 0.5\n", "line 2 announces 0 boxes, but the file has 1"),
            ("a_1\n2\n1 2 3 4 0.5\n1 2 3 4\n", "line 4, \"1 2 3 4\": expected five values"),
            ("a_1\n1\n1 2 3 4 5 6\n", "line 3, \"1 2 3 4 5 6\": expected five values"),
            ("a_1\n1\n1 2 x 4 0.5\n", "line 3, \"1 2 x 4 0.5\": \"x\" is not a number"),
            ("a_1\n1\n1 2 3 4 nan\n", "nan is not finite"),
            ("a_1\n1\n1 inf 3 4 1\n", "inf is not finite"),
            ("a_1\n1\n1 2 -3 4 1\n", "the width or height is negative"),
        ];
        for (text, part) in cases {
            assert!(error(text, Format::Xywh).contains(part), "{part} is not in: {}", error(text, Format::Xywh));
        }
        assert!(error("a_1\n1\n10 20 5 6 0.5\n", Format::Corners).contains("--format xywh"));
        let huge = "a_1\n18446744073709551615\n";
        assert!(
            error(huge, Format::Xywh).contains("but the file has 0"),
            "nothing is allocated for the announced number"
        );
    }

    #[test]
    fn written_detections_are_parsed_again() {
        let face = |x, score| Face { score, rect: Rect::new(x, 2.5, 3.25, 4.0), ..Face::default() };
        let text = write("0--Parade/a_1.jpg", &[face(-1.0004, 0.987_654_3), face(7.0, 0.02)]);
        assert_eq!(text, "0--Parade/a_1.jpg\n2\n-1.000 2.500 3.250 4.000 0.987654\n7.000 2.500 3.250 4.000 0.020000\n");
        let detections = parse(&text, "a_1", Format::Xywh).unwrap();
        assert_eq!(detections[1], Detection { corners: [7.0, 2.5, 10.25, 6.5], score: 0.02 });
    }
}
