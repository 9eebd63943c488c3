//! Detections as WIDER FACE's tools exchange them: a text file a picture, `EVENT/NAME.txt`.
//!
//! Its first line is the picture's name, its second how many boxes follow, then a line a box: `x y w h score`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use retinaface::face::Face;
use serde::Serialize;

use super::protocol::Detection;

/// What the first four numbers of a line are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// x y w h score, the official one
    Xywh,
    /// x1 y1 x2 y2 score
    Corners,
}

/// Reads a file of the picture of that name; none if there is no such file.
pub(super) fn read(path: &Path, name: &str, format: Format) -> anyhow::Result<Option<Vec<Detection>>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("{} cannot be read", path.display()))?,
    };
    let text = str::from_utf8(&text).with_context(|| format!("{} is no text", path.display()))?;
    parse(text, name, format).with_context(|| path.display().to_string()).map(Some)
}

fn parse(text: &str, name: &str, format: Format) -> anyhow::Result<Vec<Detection>> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim();
    let named = first.rsplit('/').next().unwrap_or_default();
    let stem =
        named.rsplit_once('.').filter(|(_, ending)| ending.len() <= 4 && ending.chars().all(char::is_alphanumeric));
    ensure!(
        named == name || stem.is_some_and(|(stem, _)| stem == name),
        "line 1 is {first:?} and should name the picture {name}: each file begins with its picture's name"
    );
    let count = lines.next().unwrap_or_default().trim();
    let count = count
        .parse::<usize>()
        .map_err(|_| anyhow::anyhow!("line 2 is {count:?} and should say how many boxes follow, one a line"))?;
    let mut detections = Vec::new();
    for (number, line) in (3..).zip(lines) {
        if line.trim().is_empty() {
            continue;
        }
        detections.push(detection(line, format).with_context(|| format!("line {number}, {line:?}"))?);
    }
    ensure!(
        detections.len() == count,
        "line 2 says that {count} boxes follow, and {} do: the file is cut off, or the count is wrong; write it anew",
        detections.len()
    );
    Ok(detections)
}

fn detection(line: &str, format: Format) -> anyhow::Result<Detection> {
    let mut numbers = [0.0; 5];
    let mut words = line.split_ascii_whitespace();
    for number in &mut numbers {
        let word = words.next().context("should be five numbers, the last one the score, and has fewer")?;
        *number = word.parse::<f64>().map_err(|_| anyhow::anyhow!("{word:?} is no number"))?;
        ensure!(number.is_finite(), "{word} is not finite: leave out what the detector gives of that kind");
    }
    ensure!(words.next().is_none(), "should be five numbers, the last one the score, and has more");
    let [x, y, c, d, score] = numbers;
    let corners = match format {
        Format::Xywh => [x, y, x + c, y + d],
        Format::Corners => [x, y, c, d],
    };
    if corners[2] < corners[0] || corners[3] < corners[1] {
        match format {
            Format::Xywh => bail!("a width or a height is below 0"),
            Format::Corners => bail!(
                "the right or bottom edge lies before the left or top one: if the numbers are x y w h, say --format xywh"
            ),
        }
    }
    Ok(Detection { corners, score })
}

/// The official file of a picture's faces.
pub(super) fn write(name: &str, faces: &[Face]) -> String {
    let mut text = format!("{name}\n{}\n", faces.len());
    for Face { rect, score, .. } in faces {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{:.3} {:.3} {:.3} {:.3} {score:.6}", rect.x, rect.y, rect.w, rect.h);
    }
    text
}

#[cfg(test)]
mod tests {
    use retinaface::face::Rect;

    use super::*;

    fn error(text: &str, format: Format) -> String {
        format!("{:#}", parse(text, "a_1", format).unwrap_err())
    }

    #[test]
    fn both_formats_are_read() {
        let text = "0--Parade/a_1.jpg\n2\n10 20 5.5 6 0.75 \r\n0 0 10 20 1e-1\n\n";
        let [first, second] = parse(text, "a_1", Format::Xywh).unwrap()[..] else { panic!("two") };
        assert_eq!(first, Detection { corners: [10.0, 20.0, 15.5, 26.0], score: 0.75 });
        assert_eq!(second, Detection { corners: [0.0, 0.0, 10.0, 20.0], score: 0.1 });
        let text = "a_1\n1\n10 20 15.5 26 0.75\n";
        assert_eq!(parse(text, "a_1", Format::Corners).unwrap(), [first]);
        assert_eq!(parse("a_1.png\n0\n", "a_1", Format::Corners).unwrap(), []);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named_with_its_line() {
        let cases = [
            ("", "line 1 is \"\""),
            ("0--Parade/a_2.jpg\n0\n", "should name the picture a_1"),
            ("a_1\n", "line 2 is \"\""),
            ("a_1\n-1\n", "line 2 is \"-1\""),
            ("a_1\n2\n1 2 3 4 0.5\n", "line 2 says that 2 boxes follow, and 1 do"),
            ("a_1\n0\n1 2 3 4 0.5\n", "line 2 says that 0 boxes follow, and 1 do"),
            ("a_1\n2\n1 2 3 4 0.5\n1 2 3 4\n", "line 4, \"1 2 3 4\": should be five numbers"),
            ("a_1\n1\n1 2 3 4 5 6\n", "line 3, \"1 2 3 4 5 6\": should be five numbers"),
            ("a_1\n1\n1 2 x 4 0.5\n", "line 3, \"1 2 x 4 0.5\": \"x\" is no number"),
            ("a_1\n1\n1 2 3 4 nan\n", "nan is not finite"),
            ("a_1\n1\n1 inf 3 4 1\n", "inf is not finite"),
            ("a_1\n1\n1 2 -3 4 1\n", "a width or a height is below 0"),
        ];
        for (text, part) in cases {
            assert!(error(text, Format::Xywh).contains(part), "{part} is not in: {}", error(text, Format::Xywh));
        }
        assert!(error("a_1\n1\n10 20 5 6 0.5\n", Format::Corners).contains("--format xywh"));
        let huge = "a_1\n18446744073709551615\n";
        assert!(error(huge, Format::Xywh).contains("and 0 do"), "no memory is taken for what a count says");
    }

    #[test]
    fn what_is_written_is_read() {
        let face = |x, score| Face { score, rect: Rect::new(x, 2.5, 3.25, 4.0), ..Face::default() };
        let text = write("0--Parade/a_1.jpg", &[face(-1.0004, 0.987_654_3), face(7.0, 0.02)]);
        assert_eq!(text, "0--Parade/a_1.jpg\n2\n-1.000 2.500 3.250 4.000 0.987654\n7.000 2.500 3.250 4.000 0.020000\n");
        let detections = parse(&text, "a_1", Format::Xywh).unwrap();
        assert_eq!(detections[1], Detection { corners: [7.0, 2.5, 10.25, 6.5], score: 0.02 });
    }
}
