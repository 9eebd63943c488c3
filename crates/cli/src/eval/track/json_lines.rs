//! Tracks in the JSON lines of `facemetapublish`, schema `retinaface.frame/1`.

use anyhow::{Context as _, ensure};
use retinaface::record;
use serde::Deserialize;

use super::tracks::{Collector, MAX_FRAME, Role, TrackBox, Tracks, quote};

#[derive(Debug, Deserialize)]
struct Header {
    schema: String,
}

/// The fields of a line that tracks need. A line has other fields, too.
#[derive(Debug, Deserialize)]
struct Line {
    stream: Option<String>,
    /// Counted from 0.
    frame: u64,
    faces: Vec<Face>,
}

#[derive(Debug, Deserialize)]
struct Face {
    #[serde(rename = "box")]
    rect: Rect,
    track_id: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Rect {
    x: f64,
    y: f64,
    w: f64,
    h: f64,
}

/// Parses the lines of one stream. Frame 0 of the lines is frame 1 of the tracks. Faces without a
/// `track_id` are left out and counted.
pub(super) fn parse(text: &str) -> anyhow::Result<Tracks> {
    let mut file = File::default();
    for (number, text) in (1..).zip(text.lines()) {
        if !text.trim().is_empty() {
            file.add(number, text).with_context(|| format!("line {number}, {}", quote(text)))?;
        }
    }
    Ok(file.collector.into_tracks())
}

#[derive(Debug, Default)]
struct File {
    collector: Collector,
    stream: Option<String>,
    /// The last line, and its frame.
    last: Option<(usize, u64)>,
}

impl File {
    fn add(&mut self, number: usize, text: &str) -> anyhow::Result<()> {
        let Some(Line { stream, frame, faces }) = parse_line(text)? else { return Ok(()) };
        if let Some(stream) = stream {
            let first = self.stream.get_or_insert_with(|| stream.clone());
            ensure!(
                *first == stream,
                "the stream is {}, but the lines before are of {}: write one file per stream",
                quote(&stream),
                quote(first)
            );
        }
        ensure!(frame < MAX_FRAME, "frame {frame} is not below {MAX_FRAME}");
        if let Some((line, last)) = self.last.replace((number, frame)) {
            ensure!(
                frame > last,
                "frame {frame} is not above frame {last} of line {line}: the file has several recordings; write one file \
                 per recording"
            );
        }
        let all = faces.len();
        let mut tracked = 0;
        for Face { rect: Rect { x, y, w, h }, track_id } in faces {
            let Some(id) = track_id else { continue };
            tracked += 1;
            self.collector.add(frame + 1, number, TrackBox::new(id, [x, y, w, h], Role::Evaluated)?)?;
        }
        self.collector.add_untracked(all - tracked);
        Ok(())
    }
}

/// The frame of a line; `None` if the line is an event of a track.
fn parse_line(text: &str) -> anyhow::Result<Option<Line>> {
    let expected = || format!("not a line of the schema {}", record::SCHEMA);
    if record::is_unfinished(text.as_bytes()) {
        anyhow::bail!("the line is unfinished: remove it, or record again");
    }
    let Header { schema } = serde_json::from_str(text).with_context(expected)?;
    if schema == record::TRACK_SCHEMA {
        return Ok(None);
    }
    ensure!(schema == record::SCHEMA, "the schema is {} instead of {}", quote(&schema), record::SCHEMA);
    serde_json::from_str(text).map(Some).with_context(expected)
}

#[cfg(test)]
mod tests {
    use retinaface::geometry::{Face, Rect};
    use retinaface::record::{FrameRecord, Origin};

    use super::*;

    fn line(stream: &str, frame: u64, faces: &[(f32, Option<u64>)]) -> String {
        let face = |&(x, track_id)| Face { rect: Rect::new(x, 2.5, 3.0, 4.0), track_id, ..Face::default() };
        let faces = faces.iter().map(face).collect::<Vec<_>>();
        FrameRecord::new(Origin::Stream(stream), frame, (64, 48), &faces).to_line()
    }

    #[test]
    fn frames_count_from_1_and_faces_without_an_id_are_counted() {
        let event = "{\"schema\":\"retinaface.track/1\",\"stream\":\"a\",\"event\":\"ended\",\"track_id\":9}";
        let text = event.to_owned()
            + "\n"
            + &line("a", 0, &[(1.0, Some(9)), (5.0, None)])
            + "\n"
            + &line("a", 4, &[])
            + &line("a", 7, &[(1.5, Some(9))]);
        let tracks = parse(&text).unwrap();
        assert_eq!((tracks.frames.len(), tracks.untracked), (2, 1));
        assert_eq!(tracks.frames[&1], [TrackBox { id: 9, corners: [1.0, 2.5, 4.0, 6.5], role: Role::Evaluated }]);
        assert_eq!(tracks.frames[&8][0].corners[0], 1.5);
    }

    #[test]
    fn errors_name_the_line_and_the_remedy() {
        let good = line("a", 3, &[(1.0, Some(9))]);
        let twice = line("a", 4, &[(1.0, Some(9)), (5.0, Some(9))]);
        let cases = [
            (good[..60].to_owned(), "line 1, \"{\\\"schema\\\"", "the line is unfinished"),
            ("1,1,0,0,1,1,1".to_owned(), "line 1", "not a line of the schema retinaface.frame/1"),
            ("{\"frame\":1}".to_owned(), "missing field `schema`", "retinaface.frame/1"),
            (good.replace("frame/1", "frame/2"), "line 1", "the schema is \"retinaface.frame/2\" instead of"),
            (good.replace("\"frame\":3", "\"frame\":-3"), "line 1", "invalid value"),
            (good.replace("\"frame\":3", "\"frame\":2147483647"), "line 1", "frame 2147483647 is not below"),
            (good.replace("\"w\":3.0", "\"w\":1e999"), "line 1", "number out of range"),
            (good.replace("\"w\":3.0", "\"w\":-3"), "line 1", "the width or height is negative"),
            (good.replace("\"track_id\":9", "\"track_id\":-9"), "line 1", "invalid value"),
            (good.clone() + &good, "line 2", "frame 3 is not above frame 3 of line 1"),
            (good.clone() + &line("a", 2, &[]), "line 2", "write one file per recording"),
            (good.clone() + &line("b", 4, &[]), "line 2", "the stream is \"b\", but the lines before are of \"a\""),
            (good.clone() + &twice, "line 2", "id 9 has two boxes in frame 5, in this line"),
            ("[".repeat(100_000), "line 1", "not a line of the schema"),
        ];
        for (text, place, part) in cases {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(place) && error.contains(part), "{place} and {part} are not in: {error}");
        }
    }
}
