//! Rendered sequences with known truth through detector, tracker and redaction: no face is seen.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Progress, model_that_fails_on_white, project, quoted, with_watchdog};
use crate::sequences::{Picture, Played, play, play_changed, truth};
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::{Rect, iou};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface_sequences::{Layer, SCENARIOS, Sequence};

/// The same in RGB and BGR.
const COLOR: [u8; 3] = [255, 0, 255];
const DETECTOR: &str = "retinaface score-threshold=0.2";
const TRACKER: &str = "facetrack score-threshold=0.2";
const REDACTOR: &str = "faceredact name=redactor color=0xFF00FF lookahead=10";

/// Number of frames of a sequence that are enough for two faces to cross.
const LENGTH: usize = 100;

/// The columns that a pillar hides. The camera is at rest in scenarios with a pillar.
fn hidden(sequence: &Sequence) -> Range<f32> {
    let pillar = sequence.scenario().layers.iter().find_map(|layer| match layer {
        Layer::Pillar(pillar) => Some(pillar.x as f32..(pillar.x + pillar.width) as f32),
        Layer::Face(_) => None,
    });
    pillar.unwrap_or(0.0..0.0)
}

/// The share of the pixels of the ellipse in a box, inside of the frame and not in `hidden` columns, that
/// are not covered.
fn uncovered(pixels: &[u8], (width, height): (usize, usize), rect: Rect, hidden: &Range<f32>) -> f32 {
    let (mut all, mut open) = (0, 0);
    let (centre_x, centre_y) = (rect.x + rect.w / 2.0, rect.y + rect.h / 2.0);
    for y in rect.y.max(0.0) as usize..(rect.bottom().max(0.0) as usize).min(height) {
        for x in rect.x.max(0.0) as usize..(rect.right().max(0.0) as usize).min(width) {
            let (dx, dy) = ((x as f32 + 0.5 - centre_x) / rect.w * 2.0, (y as f32 + 0.5 - centre_y) / rect.h * 2.0);
            if dx * dx + dy * dy <= 1.0 && !hidden.contains(&(x as f32 + 0.5)) {
                all += 1;
                open += usize::from(pixels[(y * width + x) * 3..][..3] != COLOR);
            }
        }
    }
    open as f32 / all.max(1) as f32
}

/// Fails if a pixel of a face is open or the detector finds a face. `is_mirrored` says of which frames the
/// left and the right side are swapped. Returns which frames have no open pixel at all.
fn check_covered(
    what: &str,
    sequence: &Sequence,
    samples: &[gst::Sample],
    is_mirrored: impl Fn(usize) -> bool,
) -> Vec<bool> {
    let detector = Detector::new(&project::open_default());
    let (hidden, mut checked) = (hidden(sequence), 0);
    let mut whole = Vec::new();
    for (number, sample) in samples.iter().enumerate() {
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        let size = (info.width() as usize, info.height() as usize);
        let scale = size.0 as f32 / sequence.scenario().width as f32;
        let map = sample.buffer().unwrap().map_readable().unwrap();
        let in_frame = |rect: Rect| {
            let rect = Rect::new(rect.x * scale, rect.y * scale, rect.w * scale, rect.h * scale);
            if is_mirrored(number) { Rect { x: size.0 as f32 - rect.right(), ..rect } } else { rect }
        };
        let hidden = hidden.start * scale..hidden.end * scale;
        let truth = truth(sequence, sample);
        for face in truth.iter().filter(|face| face.visibility > 0.3) {
            let share = uncovered(&map, size, in_frame(face.rect), &hidden);
            assert!(share == 0.0, "{what}, frame {number}: {share} of {face:?} is open");
            checked += 1;
        }
        if number % 7 == 0 {
            let format = if info.format() == VideoFormat::Bgr { PixelFormat::Bgr } else { PixelFormat::Rgb };
            let view = ImageView::new(ImageInfo::new(format, size.0, size.1), &[&map], &[size.0 * 3]).unwrap();
            let faces = detector.detect(&view, &DetectionSettings::default()).unwrap().faces;
            let is_true = |rect: Rect| truth.iter().any(|face| iou(in_frame(face.rect), rect) > 0.3);
            assert!(!faces.iter().any(|face| is_true(face.rect)), "{what}, frame {number}: {faces:?}");
        }
        whole.push(map.chunks_exact(3).all(|pixel| pixel == COLOR));
        Progress::of_current_test().advance();
    }
    assert!(checked > samples.len() / 2, "{what}: {checked} faces");
    whole
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
        let sequences = redacted_sequences();
        for (name, interval) in
            sequences.iter().flat_map(|(name, intervals)| intervals.iter().map(move |i| (*name, *i)))
        {
            let elements = format!(
                "{DETECTOR} inference-interval={interval} ! {TRACKER} \
                 lost-timeout=4000 ! tee name=t ! queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! fakesink t. ! queue \
                 ! faceredact color=0xFF00FF lookahead={} max-face-age=3000",
                (3 * interval).max(10)
            );
            let (sequence, samples) = play(name, &elements);
            assert_eq!(samples.len(), sequence.len());
            check_covered(&format!("{name}, interval {interval}"), &sequence, &samples, |_| false);
        }
    });
}

#[test]
fn no_face_is_seen_wherever_queues_and_tees_are() {
    with_watchdog(|| {
        for (elements, may_drop) in [
            (format!("{DETECTOR} ! queue ! {TRACKER} ! queue ! {REDACTOR}"), false),
            (
                // A branch draws into its own copy of the frames.
                format!(
                    "{DETECTOR} inference-interval=3 ! tee name=t ! queue ! facemetaoverlay ! fakesink t. ! queue \
                     ! {TRACKER} ! {REDACTOR}"
                ),
                false,
            ),
            (
                // Two branches cover the same frames.
                format!(
                    "{DETECTOR} inference-interval=3 ! {TRACKER} ! tee name=t ! queue ! faceredact method=blur ! fakesink \
                     t. ! queue ! {REDACTOR} ! queue"
                ),
                false,
            ),
            // Queues that drop frames.
            (format!("queue leaky=downstream max-size-buffers=1 ! {DETECTOR} ! {TRACKER} ! {REDACTOR}"), true),
            (format!("{DETECTOR} ! {TRACKER} ! queue leaky=downstream max-size-buffers=2 ! {REDACTOR} ! queue"), true),
        ] {
            let Played { sequence, samples, in_doubt } =
                play_changed("crossing", LENGTH, &elements, |_| {}, |_, picture| picture);
            assert!(samples.len() == LENGTH || may_drop, "{elements}: {} frames", samples.len());
            check_covered(&elements, &sequence, &samples, |_| false);
            // Those before the first inference at most: streams take turns.
            assert!(may_drop || in_doubt <= 2, "{elements}: {in_doubt}");
        }
    });
}

/// Every second pixel and row.
fn halved(Picture { pixels, format, size: (width, height) }: Picture) -> Picture {
    let row = |y: usize| (0..width / 2).flat_map(move |x| ((2 * y * width + 2 * x) * 3..).take(3));
    let pixels = (0..height / 2).flat_map(row).map(|at| pixels[at]).collect();
    Picture { pixels, format, size: (width / 2, height / 2) }
}

#[test]
fn no_face_is_seen_when_size_and_format_change() {
    with_watchdog(|| {
        for interval in [1u64, 3] {
            let elements = format!("{DETECTOR} inference-interval={interval} ! {TRACKER} ! {REDACTOR}");
            let change = |number: usize, picture: Picture| {
                let mut picture = if number / 17 % 2 == 1 { halved(picture) } else { picture };
                if number / 11 % 2 == 1 {
                    picture.pixels.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
                    picture.format = VideoFormat::Bgr;
                }
                picture
            };
            let Played { sequence, samples, in_doubt } = play_changed("crossing", LENGTH, &elements, |_| {}, change);
            assert_eq!(samples.len(), LENGTH);
            let caps = samples.windows(2).filter(|pair| pair[0].caps() != pair[1].caps());
            assert!(caps.count() >= 8, "the caps change");
            check_covered(&format!("interval {interval}"), &sequence, &samples, |_| false);
            // Of six parts of equal size, those before the next inference.
            assert!(in_doubt <= (interval - 1) * 6, "interval {interval}: {in_doubt}");
        }
    });
}

#[test]
fn no_face_is_seen_when_frames_are_mirrored_behind_the_detector() {
    with_watchdog(|| {
        const MIRRORED: Range<usize> = 20..40;
        let elements = format!("{DETECTOR} ! {TRACKER} ! videoflip name=flip ! {REDACTOR}");
        let prepare = |pipeline: &gst::Pipeline| {
            let flip = pipeline.by_name("flip").unwrap();
            let (weak, number) = (flip.downgrade(), AtomicUsize::new(0));
            flip.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                let number = number.fetch_add(1, Ordering::Relaxed);
                if number == MIRRORED.start || number == MIRRORED.end {
                    let direction = if number == MIRRORED.start { "horiz" } else { "identity" };
                    weak.upgrade().unwrap().set_property_from_str("video-direction", direction);
                }
                gst::PadProbeReturn::Ok
            });
        };
        let Played { sequence, samples, in_doubt } =
            play_changed("crossing", LENGTH, &elements, prepare, |_, picture| picture);
        assert_eq!(samples.len(), LENGTH);
        let whole = check_covered(&elements, &sequence, &samples, |number| MIRRORED.contains(&number));
        assert!(MIRRORED.into_iter().all(|number| whole[number]), "{whole:?}");
        // videoflip of GStreamer 1.22 keeps regions of interest only after its direction was set once.
        assert!(in_doubt <= MIRRORED.end as u64, "{in_doubt}");
    });
}

#[test]
fn no_face_is_seen_while_the_detector_fails_now_and_then() {
    with_watchdog(|| {
        let model = model_that_fails_on_white();
        for interval in [1, 3, 5] {
            let elements = format!(
                "{DETECTOR} model-file={} execution-provider=cpu on-error=skip inference-interval={interval} ! {TRACKER} ! \
                 {REDACTOR} lookahead={}",
                quoted(model.path()),
                (3 * interval).max(10)
            );
            let fails = |number: usize| number % 7 == 3 || (40..52).contains(&number);
            let change = move |number: usize, mut picture: Picture| {
                if fails(number) {
                    // The part that the model fails on if it is white.
                    for row in picture.pixels.chunks_exact_mut(3 * picture.size.0).take(16) {
                        row[..3 * 16].fill(255);
                    }
                }
                picture
            };
            let Played { sequence, samples, in_doubt } = play_changed("dropped", LENGTH, &elements, |_| {}, change);
            assert_eq!(samples.len(), LENGTH);
            let what = format!("interval {interval}");
            let whole = check_covered(&what, &sequence, &samples, |_| false);
            let failed = (0..LENGTH).filter(|number| fails(*number)).collect::<Vec<_>>();
            if interval == 1 {
                assert!(failed.iter().all(|number| whole[*number]), "{whole:?}");
                assert_eq!(in_doubt, failed.len() as u64);
            } else {
                // Of the failing frames, not all are analysed, but after each the frames up to the next
                // result are in doubt.
                assert!((1..LENGTH as u64 * 3 / 4).contains(&in_doubt), "{what}: {in_doubt}");
            }
        }
    });
}
