//! Decoded frames that are held in memory.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use gst::prelude::*;
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::{InputSize, Rect};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};

/// Frames of a clip that are held in memory; streams repeat them.
const MAX_FRAMES: usize = 24;
/// Side of the square around a face that [`Nv12Frames::crowd`] copies, relative to the longer side
/// of the face's box.
const CROWD_MARGIN: f32 = 1.3;

/// NV12 frames of one size, without padding between rows.
pub(super) struct Nv12Frames {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) frames: Vec<Arc<Vec<u8>>>,
}

impl Nv12Frames {
    /// Decodes the first frames of a video, rotated as its tag requires, and scales them to `width` x
    /// `height`.
    pub(super) fn decode(clip: &Path, (width, height): (usize, usize)) -> anyhow::Result<Self> {
        let pipeline = gst::parse::launch(&format!(
            "filesrc name=in ! decodebin ! videoconvert ! videoflip video-direction=auto ! videoscale add-borders=false \
             ! video/x-raw,format=NV12,width={width},height={height},pixel-aspect-ratio=1/1 ! appsink name=out sync=false max-buffers=2"
        ))?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a launch line of several elements is a pipeline");
        pipeline.by_name("in").context("filesrc")?.set_property("location", clip);
        let sink = pipeline.by_name("out").and_downcast::<gst_app::AppSink>().context("appsink")?;
        let failure = || format!("cannot decode {}", clip.display());
        let bus = pipeline.bus().context("a pipeline has a bus")?;
        let started = pipeline.set_state(gst::State::Playing);
        let mut frames = Vec::new();
        let mut error = None;
        while frames.len() < MAX_FRAMES && started.is_ok() && !sink.is_eos() {
            error = bus.pop_filtered(&[gst::MessageType::Error]);
            if error.is_some() {
                break;
            }
            let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) else { continue };
            let info = sample.caps().and_then(|caps| gst_video::VideoInfo::from_caps(caps).ok());
            let info = info.with_context(failure)?;
            let buffer = sample.buffer().with_context(failure)?;
            let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).ok().with_context(failure)?;
            let mut bytes = Vec::with_capacity(width * height * 3 / 2);
            for (plane, rows) in [(0, height), (1, height / 2)] {
                let stride = gst_video::VideoFrameExt::plane_stride(&frame)[plane] as usize;
                let data = frame.plane_data(plane as u32).with_context(failure)?;
                data.chunks(stride).take(rows).for_each(|row| bytes.extend_from_slice(&row[..width]));
            }
            frames.push(Arc::new(bytes));
        }
        let error = error.or_else(|| bus.pop_filtered(&[gst::MessageType::Error]));
        pipeline.set_state(gst::State::Null)?;
        if let Some(gst::MessageView::Error(error)) = error.as_ref().map(|message| message.view()) {
            bail!("{}: {}", failure(), error.error());
        }
        ensure!(!frames.is_empty(), "{}: the file has no video frames", failure());
        Ok(Self { width, height, frames })
    }

    /// One grey frame that shows the first detected face `faces` times, in a grid.
    pub(super) fn crowd(&self, detector: &Detector, faces: usize) -> anyhow::Result<Self> {
        let Self { width, height, .. } = *self;
        let (frame, rect) = self.first_face(detector).context("no face was detected in the clip")?;
        let side = rect.w.max(rect.h) * CROWD_MARGIN;
        let (centre_x, centre_y) = (rect.x + rect.w / 2.0, rect.y + rect.h / 2.0);
        let cell = self.crowd_cell(faces).with_context(|| format!("{faces} faces do not fit into the frame"))?;
        let cols = width / cell;
        // Position in the face's square, clamped to the frame, of a position in a cell that begins
        // at `begin`.
        let source = |at: usize, begin: usize, centre: f32, len: usize| {
            let position = centre - side / 2.0 + (at - begin) as f32 * side / cell as f32;
            position.clamp(0.0, (len - 1) as f32) as usize
        };
        let mut crowd = vec![128; frame.len()];
        for index in 0..faces {
            let (left, top) = (index % cols * cell, index / cols * cell);
            for row in (top..top + cell).filter(|row| *row < height) {
                for col in left..left + cell {
                    let (x, y) = (source(col, left, centre_x, width), source(row, top, centre_y, height));
                    crowd[row * width + col] = frame[y * width + x];
                    if row % 2 == 0 && col % 2 == 0 {
                        let chroma = |row: usize, col: usize| width * height + row / 2 * width + (col & !1);
                        let (to, from) = (chroma(row, col), chroma(y, x));
                        crowd[to..to + 2].copy_from_slice(&frame[from..from + 2]);
                    }
                }
            }
        }
        Ok(Self { width, height, frames: vec![Arc::new(crowd)] })
    }

    /// The first frame with a face, and the box of its first face.
    fn first_face(&self, detector: &Detector) -> Option<(&[u8], Rect)> {
        let Self { width, height, .. } = *self;
        let settings = DetectionSettings { input_size: InputSize::Longest(640), ..DetectionSettings::default() };
        let info = ImageInfo::new(PixelFormat::Nv12, width, height);
        self.frames.iter().find_map(|frame| {
            let (luma, chroma) = frame.split_at(width * height);
            let view = ImageView::new(info, &[luma, chroma], &[width, width]).ok()?;
            let rect = detector.detect(&view, &settings).ok()?.faces.first()?.rect;
            Some((frame.as_slice(), rect))
        })
    }

    /// The largest even side of a square cell of which the frame holds `faces`.
    fn crowd_cell(&self, faces: usize) -> Option<usize> {
        let fits = |cell: &usize| (self.width / cell) * (self.height / cell) >= faces;
        (2..=self.height.min(self.width)).rev().step_by(2).map(|cell| cell & !1).find(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The average difference of two frames' luma, in 0.0..=255.0.
    fn difference<'a>(first: impl Iterator<Item = &'a u8>, second: impl Iterator<Item = &'a u8>) -> f64 {
        let differences = first.zip(second).map(|(a, b)| f64::from(a.abs_diff(*b))).collect::<Vec<_>>();
        differences.iter().sum::<f64>() / differences.len() as f64
    }

    #[test]
    fn frames_of_a_clip_with_an_orientation_tag_are_rotated() {
        gst::init().unwrap();
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.fetch/media/single_face.mp4");
        let mut bytes = std::fs::read(&clip).unwrap_or_else(|error| panic!("{error}: run `make setup`"));
        // The matrix of the video track: rotate by 180 degrees. Numbers have 16 fractional bits.
        let matrix = bytes.windows(4).position(|name| name == b"tkhd").unwrap() + 44;
        let rotation = [-0x10000, 0, 0, 0, -0x10000, 0, 640 << 16, 360 << 16, 0x4000_0000];
        bytes[matrix..][..36].copy_from_slice(rotation.map(i32::to_be_bytes).as_flattened());
        let directory = tempfile::tempdir().unwrap();
        let rotated = directory.path().join("rotated.mp4");
        std::fs::write(&rotated, bytes).unwrap();

        let size = (64, 36);
        let luma = |clip: &Path| Nv12Frames::decode(clip, size).unwrap().frames[0][..size.0 * size.1].to_vec();
        let (upright, rotated) = (luma(&clip), luma(&rotated));
        let (same, turned) =
            (difference(upright.iter(), rotated.iter()), difference(upright.iter(), rotated.iter().rev()));
        assert!(turned < 3.0 && same > 10.0, "{turned} to the rotated frame, {same} to the frame as it is stored");
    }
}
