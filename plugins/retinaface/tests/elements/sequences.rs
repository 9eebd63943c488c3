//! Rendered sequences with known truth through detector and tracker.

use std::collections::BTreeMap;

use crate::common::{self, Progress, project, with_watchdog};
use face_meta::FrameState;
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::geometry::iou;
use retinaface_sequences::{Renderer, Sequence, TrueFace, scenario};

/// A frame with its size, before it enters a pipeline.
pub(crate) struct Picture {
    /// Rows without padding, three bytes per pixel.
    pub(crate) pixels: Vec<u8>,
    pub(crate) format: VideoFormat,
    pub(crate) size: (usize, usize),
}

/// What a pipeline has made of a sequence.
pub(crate) struct Played {
    pub(crate) sequence: Sequence,
    /// The frames that left the pipeline, in order.
    pub(crate) samples: Vec<gst::Sample>,
    /// Number of frames that the element `redactor` has covered whole; 0 without such an element.
    pub(crate) in_doubt: u64,
}

/// Plays a sequence through `elements`. Returns the frames that leave, in order.
pub(crate) fn play(name: &str, elements: &str) -> (Sequence, Vec<gst::Sample>) {
    play_with(name, elements, |_| {})
}

/// As [`play`]. `prepare` is called with the pipeline before it starts.
pub(crate) fn play_with(
    name: &str,
    elements: &str,
    prepare: impl FnOnce(&gst::Pipeline),
) -> (Sequence, Vec<gst::Sample>) {
    let Played { sequence, samples, .. } = play_changed(name, usize::MAX, elements, prepare, |_, picture| picture);
    (sequence, samples)
}

/// As [`play`], the first `length` frames only. `prepare` is called with the pipeline before it starts, and
/// `change` with the number of each frame.
pub(crate) fn play_changed(
    name: &str,
    length: usize,
    elements: &str,
    prepare: impl FnOnce(&gst::Pipeline),
    change: impl Fn(usize, Picture) -> Picture + Send + 'static,
) -> Played {
    common::init();
    let renderer = Renderer::open(&project::media("multi_face.jpg").with_file_name("")).unwrap();
    let scenario = scenario(name).unwrap();
    let sequence = renderer.sequence(scenario).unwrap();
    let pipeline = gst::parse::launch(&format!("appsrc name=in ! {elements} ! appsink name=out")).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    source.set_format(gst::Format::Time);
    source.set_block(true);
    source.set_max_bytes((8 * 3 * scenario.width * scenario.height) as u64);
    sink.set_property("sync", false);
    prepare(&pipeline);
    pipeline.set_state(gst::State::Playing).unwrap();
    let progress = Progress::of_current_test();
    let frames = renderer.sequence(scenario).unwrap();
    let feeder = std::thread::spawn(move || {
        for (number, frame) in frames.frames().enumerate().take(length) {
            let frame = frame.unwrap();
            let picture =
                Picture { pixels: frame.rgb, format: VideoFormat::Rgb, size: (scenario.width, scenario.height) };
            let Picture { pixels, format, size: (width, height) } = change(number, picture);
            let mut buffer = gst::Buffer::from_mut_slice(pixels);
            let out = buffer.get_mut().unwrap();
            out.set_pts(gst::ClockTime::from_nseconds(frame.pts_ns));
            out.set_duration(gst::ClockTime::from_nseconds(frame.duration_ns));
            let caps = common::info(format, width as u32, height as u32).to_caps().unwrap();
            source.push_sample(&gst::Sample::builder().buffer(&buffer).caps(&caps).build()).unwrap();
            progress.advance();
        }
        source.end_of_stream().unwrap();
    });
    let samples = std::iter::from_fn(|| sink.pull_sample().ok()).collect::<Vec<_>>();
    feeder.join().unwrap();
    let redactor = pipeline.by_name("redactor");
    let in_doubt =
        redactor.map_or(0, |redactor| redactor.property::<gst::Structure>("stats").get("frames-covered").unwrap());
    pipeline.set_state(gst::State::Null).unwrap();
    Played { sequence, samples, in_doubt }
}

/// The truth of a frame.
pub(crate) fn truth(sequence: &Sequence, sample: &gst::Sample) -> Vec<TrueFace> {
    sequence.scenario().faces_at(sample.buffer().unwrap().pts().unwrap().nseconds())
}

#[test]
fn faces_keep_their_ids_and_are_known_in_every_frame_at_an_interval_of_5() {
    with_watchdog(|| {
        for name in ["crossing", "crowd", "dropped"] {
            let (sequence, samples) = play(name, "retinaface inference-interval=5 ! facetrack min-hits=1");
            assert_eq!(samples.len(), sequence.len());
            let (mut ious, mut owners) = (Vec::new(), BTreeMap::<u64, BTreeMap<u32, usize>>::new());
            let mut predicted = 0;
            for sample in &samples {
                let faces = common::read_faces(sample);
                predicted += usize::from(
                    face_meta::read(sample.buffer().unwrap(), sequence_size(&sequence)).state == FrameState::Predicted,
                );
                for truth in truth(&sequence, sample).iter().filter(|face| face.visibility > 0.9) {
                    let best = faces.iter().max_by(|a, b| iou(a.rect, truth.rect).total_cmp(&iou(b.rect, truth.rect)));
                    let overlap = best.map_or(0.0, |face| iou(face.rect, truth.rect));
                    ious.push(overlap);
                    if let Some(id) = best.filter(|_| overlap > 0.5).and_then(|face| face.track_id) {
                        *owners.entry(id).or_default().entry(truth.id).or_default() += 1;
                    }
                }
            }
            // All but every fifth frame, and those before the first inference.
            assert!(predicted * 10 >= samples.len() * 7, "{name}: {predicted} of {}", samples.len());
            let mean = ious.iter().sum::<f32>() / ious.len() as f32;
            assert!(mean > 0.8, "{name}: the mean IoU with the truth is {mean}");
            let of_owner = |counts: &BTreeMap<u32, usize>| counts.values().max().copied().unwrap_or(0);
            let right = owners.values().map(of_owner).sum::<usize>() as f32;
            let all = owners.values().flat_map(BTreeMap::values).sum::<usize>() as f32;
            assert!(right / all > 0.98, "{name}: {owners:?}");
        }
    });
}

pub(crate) fn sequence_size(sequence: &Sequence) -> (usize, usize) {
    (sequence.scenario().width, sequence.scenario().height)
}
