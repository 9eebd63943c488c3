//! The JSON Lines records: one line per frame or image, and one per event of a track.
//!
//! `assets/retinaface.frame-1.schema.json` is the JSON schema. New fields keep the version `/1`; a
//! changed meaning requires a new version.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::IgnoredAny;

use crate::geometry::{Face, FrameSize, HeadPose, PixelAspect};
use crate::track::TrackEvent;

/// Value of the field `schema`: name and version.
pub const SCHEMA: &str = "retinaface.frame/1";

/// Where the faces of a frame come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameState {
    /// No detection result applies to the frame. An empty list of faces says nothing.
    #[default]
    None,
    /// A detector found them, in this frame or in an earlier one.
    Detected,
    /// A tracker predicted where the faces of an earlier frame are in this one.
    Predicted,
}

impl FrameState {
    /// The name, as in JSON lines and metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Detected => "detected",
            Self::Predicted => "predicted",
        }
    }

    /// Whether a result applies to the frame.
    pub fn has_result(self) -> bool {
        self != Self::None
    }
}

/// The origin of a frame.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum Origin<'a> {
    /// Name of the stream.
    #[serde(rename = "stream")]
    Stream(&'a str),
    /// Name of the file.
    #[serde(rename = "source")]
    Source(&'a str),
}

/// The record of one frame; one line of JSON.
#[derive(Clone, Debug, Serialize)]
pub struct FrameRecord<'a> {
    schema: &'static str,
    #[serde(flatten)]
    origin: Origin<'a>,
    frame: u64,
    pts_ns: Option<u64>,
    utc: Option<String>,
    width: usize,
    height: usize,
    pixel_aspect_ratio: [u32; 2],
    state: FrameState,
    age_ns: Option<u64>,
    lost: usize,
    faces: Vec<FaceRecord>,
}

#[derive(Clone, Debug, Serialize)]
struct FaceRecord {
    score: f32,
    #[serde(rename = "box")]
    rect: BoxRecord,
    landmarks: Option<[[f32; 2]; 5]>,
    points: Option<Vec<[f32; 2]>>,
    pose: Option<PoseRecord>,
    track_id: Option<u64>,
    parent_id: Option<i32>,
    uncertainty: Option<f32>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PoseRecord {
    yaw: f32,
    pitch: f32,
    roll: f32,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct BoxRecord {
    x: f32,
    y: f32,
    w: f32,
    h: f32,
}

impl FaceRecord {
    fn new(face: &Face, pixel_aspect: PixelAspect) -> Self {
        let rect = face.rect;
        Self {
            score: face.score,
            rect: BoxRecord { x: rect.x, y: rect.y, w: rect.w, h: rect.h },
            landmarks: face.landmarks.map(|points| points.map(|point| [point.x, point.y])),
            points: (!face.points.is_empty()).then(|| face.points.iter().map(|point| [point.x, point.y]).collect()),
            pose: face.pose(pixel_aspect).map(|HeadPose { yaw, pitch, roll }| PoseRecord { yaw, pitch, roll }),
            track_id: face.track_id,
            parent_id: face.parent_id,
            uncertainty: face.uncertainty,
        }
    }
}

impl<'a> FrameRecord<'a> {
    /// The record of frame `frame`, counted from 0. The coordinates of `faces` are frame pixels.
    pub fn new(origin: Origin<'a>, frame: u64, size: impl Into<FrameSize>, faces: &[Face]) -> Self {
        let FrameSize { width, height, pixel_aspect } = size.into();
        Self {
            schema: SCHEMA,
            origin,
            frame,
            pts_ns: None,
            utc: None,
            width,
            height,
            pixel_aspect_ratio: pixel_aspect.parts().into(),
            state: FrameState::None,
            age_ns: None,
            lost: 0,
            faces: faces.iter().map(|face| FaceRecord::new(face, pixel_aspect)).collect(),
        }
    }

    /// Sets the presentation timestamp, in nanoseconds.
    #[must_use]
    pub fn with_pts(self, pts_ns: Option<u64>) -> Self {
        Self { pts_ns, ..self }
    }

    /// Sets the capture time, in nanoseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn with_utc(self, unix_ns: Option<u64>) -> Self {
        let time = unix_ns.map(|ns| SystemTime::UNIX_EPOCH + Duration::from_nanos(ns));
        Self { utc: time.map(|time| humantime::format_rfc3339_nanos(time).to_string()), ..self }
    }

    /// Sets where the faces come from.
    #[must_use]
    pub fn with_state(self, state: FrameState) -> Self {
        Self { state, ..self }
    }

    /// Sets the age of the faces: the time from the analysed frame to this frame. It is zero if the
    /// faces were detected in this frame, and `None` if no detection result applies to it or all of
    /// its faces are lost.
    #[must_use]
    pub fn with_age(self, age: Option<Duration>) -> Self {
        Self { age_ns: age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)), ..self }
    }

    /// Sets the number of detected faces whose position in this frame is lost.
    #[must_use]
    pub fn with_lost(self, lost: usize) -> Self {
        Self { lost, ..self }
    }

    /// The record as JSON, with a newline at the end.
    pub fn to_line(&self) -> String {
        to_line(self)
    }
}

/// Value of the field `schema` of the events of tracks.
pub const TRACK_SCHEMA: &str = "retinaface.track/1";

/// The record of an event of a track; one line of JSON. `assets/retinaface.track-1.schema.json` is the
/// JSON schema.
#[derive(Clone, Debug, Serialize)]
pub struct TrackRecord<'a> {
    schema: &'static str,
    stream: &'a str,
    event: &'static str,
    track_id: u64,
    pts_ns: u64,
    first_seen_ns: u64,
    last_seen_ns: u64,
    confirmed: bool,
}

impl<'a> TrackRecord<'a> {
    /// The record of an event of the stream with this name.
    pub fn new(stream: &'a str, event: &TrackEvent) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            schema: TRACK_SCHEMA,
            stream,
            event: event.kind.name(),
            track_id: event.track_id,
            pts_ns: nanoseconds(event.time),
            first_seen_ns: nanoseconds(event.first_seen),
            last_seen_ns: nanoseconds(event.last_seen),
            confirmed: event.is_confirmed,
        }
    }

    /// The record as JSON, with a newline at the end.
    pub fn to_line(&self) -> String {
        to_line(self)
    }
}

/// A record as JSON, with a newline at the end.
fn to_line(record: &impl Serialize) -> String {
    let mut line = serde_json::to_string(record).expect("plain data with string keys always serialises");
    line.push('\n');
    line
}

/// Whether `text` is the beginning of a record's line, as a process that was killed leaves it.
pub fn is_unfinished(text: &[u8]) -> bool {
    const STARTS: [&[u8]; 2] = [br#"{"schema":"retinaface.frame/"#, br#"{"schema":"retinaface.track/"#];
    let is_start = |start: &&[u8]| {
        let common = start.len().min(text.len());
        text[..common] == start[..common]
    };
    STARTS.iter().any(is_start) && serde_json::from_slice::<IgnoredAny>(text).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{Point, Rect};
    use crate::track::TrackEventKind;

    #[test]
    fn a_record_serialises_as_documented() {
        // Collinear landmarks have no pose.
        let landmarks = std::array::from_fn(|i| Point::new(i as f32 + 0.5, 2.0 * i as f32));
        let rect = Rect::new(1.5, -2.0, 30.25, 40.0);
        let points = vec![Point::new(3.5, 4.0)];
        let face =
            Face { score: 0.75, rect, landmarks: Some(landmarks), points, parent_id: Some(-4), ..Face::default() };
        let record = FrameRecord::new(Origin::Stream("cam\"1"), 7, (640, 360), &[face]);
        let record = record.with_pts(Some(40_000_000)).with_utc(Some(1_764_093_600_123_456_789));
        let record = record.with_age(Some(Duration::from_millis(80)));
        let line = record.with_state(FrameState::Detected).with_lost(2).to_line();
        assert_eq!(
            line,
            concat!(
                r#"{"schema":"retinaface.frame/1","stream":"cam\"1","frame":7,"pts_ns":40000000,"#,
                r#""utc":"2025-11-25T18:00:00.123456789Z","width":640,"height":360,"pixel_aspect_ratio":[1,1],"state":"detected","age_ns":80000000,"lost":2,"faces":[{"score":0.75,"#,
                r#""box":{"x":1.5,"y":-2.0,"w":30.25,"h":40.0},"landmarks":[[0.5,0.0],[1.5,2.0],[2.5,4.0],[3.5,6.0],[4.5,8.0]],"#,
                r#""points":[[3.5,4.0]],"pose":null,"track_id":null,"parent_id":-4,"uncertainty":null}]}"#,
                "\n"
            )
        );
    }

    const EVENT: TrackEvent = TrackEvent {
        kind: TrackEventKind::Lost,
        track_id: 3,
        time: Duration::from_millis(9),
        first_seen: Duration::from_millis(1),
        last_seen: Duration::from_millis(8),
        is_confirmed: true,
    };

    #[test]
    fn an_event_of_a_track_serialises_as_documented() {
        let line = TrackRecord::new("door", &EVENT).to_line();
        let expected = r#"{"schema":"retinaface.track/1","stream":"door","event":"lost","track_id":3,"pts_ns":9000000,"first_seen_ns":1000000,"last_seen_ns":8000000,"confirmed":true}"#;
        assert_eq!(line.trim_end(), expected);
    }

    #[test]
    fn an_image_has_a_source_and_no_timestamps() {
        let line = FrameRecord::new(Origin::Source("a.jpg"), 0, (10, 20), &[]).to_line();
        let expected = r#"{"schema":"retinaface.frame/1","source":"a.jpg","frame":0,"pts_ns":null,"utc":null,"width":10,"height":20,"pixel_aspect_ratio":[1,1],"state":"none","age_ns":null,"lost":0,"faces":[]}"#;
        assert_eq!(line.trim_end(), expected);
    }

    #[test]
    fn every_beginning_of_a_line_is_unfinished_and_the_line_is_not() {
        let line = FrameRecord::new(Origin::Source("a.jpg"), 0, (10, 20), &[Face::default()]).to_line();
        let event = TrackRecord::new("a", &EVENT).to_line();
        for line in [line, event] {
            let line = line.trim_end().as_bytes();
            assert!((1..line.len()).all(|end| is_unfinished(&line[..end])));
            assert!(!is_unfinished(line));
        }
        assert!(!is_unfinished(b"{\"level\":") && !is_unfinished(b"note"));
    }
}
