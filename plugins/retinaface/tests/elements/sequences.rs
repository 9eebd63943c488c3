//! Rendered sequences with known truth through detector, tracker and redaction.

use std::collections::BTreeMap;

use crate::common::{self, Progress, project, with_watchdog};
use face_meta::FrameState;
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::{Rect, iou};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};

use retinaface_sequences::{Layer, Renderer, SCENARIOS, Sequence, TrueFace, scenario};

/// Plays a sequence through `elements`. Returns the frames that leave, in order.
fn play(name: &str, elements: &str) -> (Sequence, Vec<gst::Sample>) {
    common::init();
    let renderer = Renderer::open(&project::media("multi_face.jpg").with_file_name("")).unwrap();
    let scenario = scenario(name).unwrap();
    let sequence = renderer.sequence(scenario).unwrap();
    let pipeline = gst::parse::launch(&format!("appsrc name=in ! {elements} ! appsink name=out")).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let info = common::info(VideoFormat::Rgb, scenario.width as u32, scenario.height as u32);
    source.set_caps(Some(&info.to_caps().unwrap()));
    source.set_format(gst::Format::Time);
    source.set_block(true);
    source.set_max_bytes(8 * info.size() as u64);
    sink.set_property("sync", false);
    pipeline.set_state(gst::State::Playing).unwrap();
    let progress = Progress::of_current_test();
    let frames = renderer.sequence(scenario).unwrap();
    let feeder = std::thread::spawn(move || {
        for frame in frames.frames() {
            let frame = frame.unwrap();
            let mut buffer = gst::Buffer::from_mut_slice(frame.rgb);
            let out = buffer.get_mut().unwrap();
            out.set_pts(gst::ClockTime::from_nseconds(frame.pts_ns));
            out.set_duration(gst::ClockTime::from_nseconds(frame.duration_ns));
            source.push_buffer(buffer).unwrap();
            progress.advance();
        }
        source.end_of_stream().unwrap();
    });
    let samples = std::iter::from_fn(|| sink.pull_sample().ok()).collect::<Vec<_>>();
    feeder.join().unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    (sequence, samples)
}

/// The truth of a frame.
fn truth(sequence: &Sequence, sample: &gst::Sample) -> Vec<TrueFace> {
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

fn sequence_size(sequence: &Sequence) -> (usize, usize) {
    (sequence.scenario().width, sequence.scenario().height)
}

/// The columns that a pillar hides. The camera is at rest in scenarios with a pillar.
fn hidden(sequence: &Sequence) -> std::ops::Range<f32> {
    let pillar = sequence.scenario().layers.iter().find_map(|layer| match layer {
        Layer::Pillar(pillar) => Some(pillar.x as f32..(pillar.x + pillar.width) as f32),
        Layer::Face(_) => None,
    });
    pillar.unwrap_or(0.0..0.0)
}

/// The share of the pixels of the ellipse in a box, inside of the frame and not in `hidden` columns, that
/// are not of this colour.
fn uncovered(
    pixels: &[u8],
    (width, height): (usize, usize),
    rect: Rect,
    hidden: &std::ops::Range<f32>,
    color: [u8; 3],
) -> f32 {
    let (mut all, mut open) = (0, 0);
    let (centre_x, centre_y) = (rect.x + rect.w / 2.0, rect.y + rect.h / 2.0);
    for y in rect.y.max(0.0) as usize..(rect.bottom().max(0.0) as usize).min(height) {
        for x in rect.x.max(0.0) as usize..(rect.right().max(0.0) as usize).min(width) {
            let (dx, dy) = ((x as f32 + 0.5 - centre_x) / rect.w * 2.0, (y as f32 + 0.5 - centre_y) / rect.h * 2.0);
            if dx * dx + dy * dy <= 1.0 && !hidden.contains(&(x as f32 + 0.5)) {
                all += 1;
                open += usize::from(pixels[(y * width + x) * 3..][..3] != color);
            }
        }
    }
    open as f32 / all.max(1) as f32
}

/// The scenarios of redaction, and at which intervals. `RETINAFACE_ALL_SEQUENCES=1` tests all.
fn redacted_sequences() -> Vec<(&'static str, &'static [u32])> {
    if std::env::var_os("RETINAFACE_ALL_SEQUENCES").is_some() {
        return SCENARIOS.iter().map(|scenario| (scenario.name, &[1, 3, 5][..])).collect();
    }
    vec![
        ("crossing", &[3]),
        ("occlusion", &[5]),
        ("enter-leave", &[1, 5]),
        ("shake", &[5]),
        ("fast", &[1, 3, 5]),
        ("dropped", &[1, 5]),
    ]
}

#[test]
fn no_face_is_seen_in_what_redaction_lets_pass() {
    with_watchdog(|| {
        let detector = Detector::new(&project::open_default());
        let sequences = redacted_sequences();
        for (name, interval) in
            sequences.iter().flat_map(|(name, intervals)| intervals.iter().map(move |i| (*name, *i)))
        {
            let elements = format!(
                "retinaface score-threshold=0.2 inference-interval={interval} ! facetrack score-threshold=0.2 \
                 lost-timeout=4000 ! tee name=t ! queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! fakesink t. ! queue \
                 ! faceredact color=0xFF00FF lookahead={} max-face-age=3000",
                (3 * interval).max(10)
            );
            let (sequence, samples) = play(name, &elements);
            assert_eq!(samples.len(), sequence.len());
            let (size, hidden) = (sequence_size(&sequence), hidden(&sequence));
            let mut checked = 0;
            for (number, sample) in samples.iter().enumerate() {
                let map = sample.buffer().unwrap().map_readable().unwrap();
                let truth = truth(&sequence, sample);
                for face in truth.iter().filter(|face| face.visibility > 0.3) {
                    let share = uncovered(&map, size, face.rect, &hidden, [255, 0, 255]);
                    assert!(share == 0.0, "{name}, interval {interval}, frame {number}: {share} of {face:?} is open");
                    checked += 1;
                }
                if number % 7 == 0 {
                    let info = ImageInfo::new(PixelFormat::Rgb, size.0, size.1);
                    let view = ImageView::new(info, &[&map], &[size.0 * 3]).unwrap();
                    let faces = detector.detect(&view, &DetectionSettings::default()).unwrap().faces;
                    let is_true = |rect: Rect| truth.iter().any(|face| iou(face.rect, rect) > 0.3);
                    assert!(!faces.iter().any(|face| is_true(face.rect)), "{name}, frame {number}: {faces:?}");
                }
                Progress::of_current_test().advance();
            }
            assert!(checked > sequence.len() / 2, "{name}: {checked} faces");
        }
    });
}
