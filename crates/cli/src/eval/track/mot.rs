//! The text format of the MOT challenge: a line `frame,id,x,y,w,h,conf,...` per box.
//!
//! Source: MOTChallenge, "Submission instructions", and the preprocessing of its evaluation in
//! TrackEval (`mot_challenge_2d_box.py`).

use anyhow::{Context as _, ensure};

use super::tracks::{Collector, MAX_FRAME, Role, TrackBox, Tracks, quote};

/// Numbers of the columns of a row.
const COLUMNS: std::ops::RangeInclusive<usize> = 7..=10;
/// Classes of MOT16 and MOT17 whose predictions do not count: person on vehicle, static person,
/// distractor, reflection.
const DISTRACTORS: [f64; 4] = [2.0, 7.0, 8.0, 12.0];
/// The largest integer below which all integers are exact in f64.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Parses the true tracks.
pub(super) fn parse_truth(text: &str) -> anyhow::Result<Tracks> {
    parse(text, role)
}

/// Parses the tracks of a tracker. The columns after the box do not matter.
pub(super) fn parse_predictions(text: &str) -> anyhow::Result<Tracks> {
    parse(text, |_| Ok(Role::Evaluated))
}

fn parse(text: &str, role: fn(&[f64]) -> anyhow::Result<Role>) -> anyhow::Result<Tracks> {
    let mut collector = Collector::default();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let mut add = || {
            let values = parse_values(line)?;
            let (frame, id) = (frame_number(values[0])?, track_id(values[1])?);
            let tracked = TrackBox::new(id, [values[2], values[3], values[4], values[5]], role(&values)?)?;
            collector.add(frame, number, tracked)
        };
        add().with_context(|| format!("line {number}, {}", quote(line)))?;
    }
    Ok(collector.into_tracks())
}

/// The values of a line; their number is one of [`COLUMNS`].
fn parse_values(line: &str) -> anyhow::Result<Vec<f64>> {
    let columns = line.split(',').count();
    ensure!(
        COLUMNS.contains(&columns),
        "expected 7 to 10 values with commas between them, frame,id,x,y,w,h,conf,..., found {columns}"
    );
    let value = |field: &str| {
        let field = field.trim();
        let value = field.parse::<f64>().ok().filter(|value| value.is_finite());
        value.with_context(|| format!("{} is not a finite number", quote(field)))
    };
    line.split(',').map(value).collect()
}

/// An integer, which numpy may have written as `1.000e+00`.
fn integer(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() <= MAX_EXACT).then_some(value as i64)
}

fn frame_number(value: f64) -> anyhow::Result<u64> {
    let frame = integer(value).and_then(|frame| u64::try_from(frame).ok()).filter(|frame| *frame <= MAX_FRAME);
    let frame = frame.with_context(|| {
        format!("frame {value} is not an integer from 1 to {MAX_FRAME}: the first value is the number of the frame, not a time")
    })?;
    ensure!(frame > 0, "frame 0: frames count from 1, add 1 to each frame of the file");
    Ok(frame)
}

fn track_id(value: f64) -> anyhow::Result<u64> {
    ensure!(value != -1.0, "id -1: the file has detections without tracks; give the output of a tracker");
    let id = integer(value).and_then(|id| u64::try_from(id).ok());
    id.with_context(|| format!("id {value} is not an integer of at least 0"))
}

/// What a true box does, by its columns `conf` and `class`.
///
/// A row of 8 or 9 values has a class in column 8. A row of 10 values, as in MOT15, has world
/// coordinates there.
fn role(values: &[f64]) -> anyhow::Result<Role> {
    let conf = values[6];
    // TrackEval takes the integer part, and so ignores a box with a score below 1.
    ensure!(
        conf.fract() == 0.0,
        "value 7 of a true box is 1, or 0 if the box is not evaluated, not a score: {conf} was found"
    );
    let class = if values.len() == 10 { -1.0 } else { values.get(7).copied().unwrap_or(-1.0) };
    ensure!(
        class == -1.0 || (class.fract() == 0.0 && (1.0..=13.0).contains(&class)),
        "class {class} (value 8) is unknown: write 1 for what is evaluated; 2 to 13 are other classes of the MOT challenge"
    );
    Ok(if DISTRACTORS.contains(&class) {
        Role::Distractor
    } else if class.abs() == 1.0 && conf != 0.0 {
        Role::Evaluated
    } else {
        Role::Ignored
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_each_year_of_the_challenge_are_parsed() {
        let text = "2,7,10,20,30.5,40,1,-1,-1,-1\r\n\n1,7, 1.0e+01 ,20,30,40,0\n1.0,3,0,0,1,1,1,1,0.5\n1,4,0,0,1,1,1,12,1\n\
                    1,5,0,0,1,1,1,3,1\n1,6,0,0,1,1,-1,-1\n3,1,0,0,1,1,1,2.5,-3,0\n";
        let tracks = parse_truth(text).unwrap();
        let first = tracks.frames[&1].iter().map(|tracked| (tracked.id, tracked.role)).collect::<Vec<_>>();
        let (ignored, evaluated) = (Role::Ignored, Role::Evaluated);
        assert_eq!(first, [(7, ignored), (3, evaluated), (4, Role::Distractor), (5, ignored), (6, evaluated)]);
        assert_eq!(tracks.frames[&2], [TrackBox { id: 7, corners: [10.0, 20.0, 40.5, 60.0], role: evaluated }]);
        assert_eq!(tracks.frames[&3][0].role, evaluated, "ten values have world coordinates, not a class");
        let predictions = parse_predictions("1,0,0,0,1,1,0.25\n1,1,0,0,1,1,-1,-1,-1,-1\n").unwrap();
        assert!(predictions.frames[&1].iter().all(|tracked| tracked.role == evaluated));
        assert_eq!(parse_predictions("").unwrap(), Tracks::default());
    }

    #[test]
    fn errors_name_the_line_and_the_remedy() {
        let cases = [
            ("\n1,1,0,0,1,1\n", "line 2, \"1,1,0,0,1,1\": expected 7 to 10 values"),
            ("1 1 0 0 1 1 1", "with commas between them"),
            ("1,1,0,0,1,1,1,1,1,1,1", "found 11"),
            ("frame,id,x,y,w,h,conf", "line 1, \"frame,id,x,y,w,h,conf\": \"frame\" is not a finite number"),
            ("1,1,0,nan,1,1,1", "\"nan\" is not a finite number"),
            ("1,1,0,0,inf,1,1", "\"inf\" is not a finite number"),
            ("1,1,0,0,1,1,", "\"\" is not a finite number"),
            ("0,1,0,0,1,1,1", "frames count from 1"),
            ("-3,1,0,0,1,1,1", "frame -3 is not an integer from 1"),
            ("1.5,1,0,0,1,1,1", "frame 1.5 is not an integer"),
            ("1764093600123,1,0,0,1,1,1", "the number of the frame, not a time"),
            ("1e300,1,0,0,1,1,1", "the number of the frame, not a time"),
            ("1,-1,0,0,1,1,1", "give the output of a tracker"),
            ("1,-2,0,0,1,1,1", "id -2 is not an integer of at least 0"),
            ("1,0.5,0,0,1,1,1", "id 0.5 is not an integer"),
            ("1,1e18,0,0,1,1,1", "is not an integer of at least 0"),
            ("1,1,0,0,-1,1,1", "not two corners"),
            (
                "1,1,0,0,1,1,1\n1,1,5,5,1,1,1",
                "line 2, \"1,1,5,5,1,1,1\": id 1 has two boxes in frame 1, first in line 1",
            ),
            ("1,1,0,0,1,1,0.5", "not a score"),
            ("1,1,0,0,1,1,1,14", "class 14 (value 8) is unknown: write 1"),
            ("1,1,0,0,1,1,1,0,1", "class 0 (value 8)"),
            ("1,1,0,0,1,1,1,1.5,1", "class 1.5"),
        ];
        for (text, part) in cases {
            let error = format!("{:#}", parse_truth(text).unwrap_err());
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}
