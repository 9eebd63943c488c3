//! The JSON-lines schema: one line a frame or picture.
//!
//! `assets/retinaface.frame-1.schema.json` documents it. Fields are added within `/1`; a change of
//! meaning is a new number.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::face::Face;
use crate::pose::HeadPose;

/// Value of the field `schema`.
pub const SCHEMA: &str = "retinaface.frame/1";

/// Where a frame came from.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum Origin<'a> {
    /// A stream's name.
    #[serde(rename = "stream")]
    Stream(&'a str),
    /// A file's name.
    #[serde(rename = "source")]
    Source(&'a str),
}

/// One line.
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
    age_ns: Option<u64>,
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

impl From<&Face> for FaceRecord {
    fn from(face: &Face) -> Self {
        let rect = face.rect;
        Self {
            score: face.score,
            rect: BoxRecord { x: rect.x, y: rect.y, w: rect.w, h: rect.h },
            landmarks: face.landmarks.map(|points| points.map(|point| [point.x, point.y])),
            points: (!face.points.is_empty()).then(|| face.points.iter().map(|point| [point.x, point.y]).collect()),
            pose: face.pose().map(|HeadPose { yaw, pitch, roll }| PoseRecord { yaw, pitch, roll }),
            track_id: face.track_id,
        }
    }
}

impl<'a> FrameRecord<'a> {
    /// The record of frame number `frame` (from 0) of `width` x `height` pixels.
    pub fn new(origin: Origin<'a>, frame: u64, width: usize, height: usize, faces: &[Face]) -> Self {
        let faces = faces.iter().map(FaceRecord::from).collect();
        Self { schema: SCHEMA, origin, frame, pts_ns: None, utc: None, width, height, age_ns: None, faces }
    }

    /// With the frame's time in its stream, in nanoseconds.
    #[must_use]
    pub fn with_pts(self, pts_ns: Option<u64>) -> Self {
        Self { pts_ns, ..self }
    }

    /// With the time at which the frame was taken, as nanoseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn with_utc(self, unix_ns: Option<u64>) -> Self {
        let time = unix_ns.map(|ns| SystemTime::UNIX_EPOCH + Duration::from_nanos(ns));
        Self { utc: time.map(|time| humantime::format_rfc3339_nanos(time).to_string()), ..self }
    }

    /// With how much older than the frame the one is in which its faces were found: zero where it is the same. Without
    /// it, no detector looked.
    #[must_use]
    pub fn with_age(self, age: Option<Duration>) -> Self {
        Self { age_ns: age.map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)), ..self }
    }

    /// The line, with its end.
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("plain data with string keys always serialises");
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::face::{Point, Rect};

    #[test]
    fn a_line_is_the_documented_one() {
        // On a line, and so without a pose.
        let landmarks = std::array::from_fn(|i| Point::new(i as f32 + 0.5, 2.0 * i as f32));
        let rect = Rect::new(1.5, -2.0, 30.25, 40.0);
        let points = vec![Point::new(3.5, 4.0)];
        let face = Face { score: 0.75, rect, landmarks: Some(landmarks), points, ..Face::default() };
        let record = FrameRecord::new(Origin::Stream("cam\"1"), 7, 640, 360, &[face]);
        let record = record.with_pts(Some(40_000_000)).with_utc(Some(1_764_093_600_123_456_789));
        let line = record.with_age(Some(Duration::from_millis(80))).to_line();
        assert_eq!(
            line,
            concat!(
                r#"{"schema":"retinaface.frame/1","stream":"cam\"1","frame":7,"pts_ns":40000000,"#,
                r#""utc":"2025-11-25T18:00:00.123456789Z","width":640,"height":360,"age_ns":80000000,"faces":[{"score":0.75,"#,
                r#""box":{"x":1.5,"y":-2.0,"w":30.25,"h":40.0},"landmarks":[[0.5,0.0],[1.5,2.0],[2.5,4.0],[3.5,6.0],[4.5,8.0]],"#,
                r#""points":[[3.5,4.0]],"pose":null,"track_id":null}]}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_picture_has_a_source_and_no_time() {
        let line = FrameRecord::new(Origin::Source("a.jpg"), 0, 10, 20, &[]).to_line();
        let expected = r#"{"schema":"retinaface.frame/1","source":"a.jpg","frame":0,"pts_ns":null,"utc":null,"width":10,"height":20,"age_ns":null,"faces":[]}"#;
        assert_eq!(line.trim_end(), expected);
    }
}
