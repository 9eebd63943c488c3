//! The scenarios: their truth, their frames, what the detector finds in them, and the program.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::collections::HashSet;
use std::fs;
use std::process::{Command, Output};

use retinaface::geometry::{Rect, iou};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface::{DetectionSettings, Detector};
use retinaface_sequences::{
    Actor, Camera, Error, Frame, FrameTime, Key, Layer, Person, Renderer, SCENARIOS, Scenario, TrueFace, scenario,
};

#[path = "../../../tests/common/mod.rs"]
mod common;

fn renderer() -> Renderer {
    Renderer::open(&common::fetched("media")).unwrap()
}

/// The truth of each frame.
fn truth(name: &str) -> Vec<(FrameTime, Vec<TrueFace>)> {
    let scenario = scenario(name).unwrap();
    scenario.timeline().into_iter().map(|time| (time, scenario.faces_at(time.pts_ns))).collect()
}

/// Seconds of a time or a difference.
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Horizontal and vertical distance of the centres of two boxes.
fn distance(a: Rect, b: Rect) -> (f32, f32) {
    ((b.x + b.w / 2.0) - (a.x + a.w / 2.0), (b.y + b.h / 2.0) - (a.y + a.h / 2.0))
}

/// How far the face `id` moves from each frame to the next, in widths of its box.
fn steps(name: &str, id: u32) -> Vec<f32> {
    let faces = truth(name).into_iter().filter_map(|(_, faces)| faces.into_iter().find(|face| face.id == id));
    let rects = faces.map(|face| face.rect).collect::<Vec<_>>();
    let step = |pair: &[Rect]| {
        let (x, y) = distance(pair[0], pair[1]);
        x.hypot(y) / pair[0].w
    };
    rects.windows(2).map(step).collect()
}

fn median(mut values: Vec<f32>) -> f32 {
    values.sort_by(f32::total_cmp);
    values[values.len() / 2]
}

/// A face that does not move.
fn curls(key: Key) -> &'static [Layer] {
    vec![Layer::Face(Actor { person: Person::Curls, path: vec![key].leak(), bob: 0.0 })].leak()
}

#[test]
fn names_are_unique_and_sequences_take_4_to_10_seconds() {
    let names = SCENARIOS.iter().map(|scenario| scenario.name).collect::<HashSet<_>>();
    assert_eq!(names.len(), SCENARIOS.len());
    for scenario in SCENARIOS {
        assert!(scenario.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", scenario.name);
        let times = scenario.timeline();
        assert_eq!(times[0].pts_ns, 0);
        assert!(times.is_sorted_by(|a, b| a.pts_ns + a.duration_ns <= b.pts_ns), "{}", scenario.name);
        let end = times.last().map(|time| seconds(time.pts_ns + time.duration_ns)).unwrap();
        assert!((4.0..=10.001).contains(&end), "{} takes {end} s", scenario.name);
    }
}

#[test]
fn true_faces_are_partly_in_the_frame_and_have_sensible_values() {
    for scenario in SCENARIOS {
        let actors = scenario.layers.iter().filter(|layer| matches!(layer, Layer::Face(_))).count() as u32;
        let mut seen = HashSet::new();
        for (_, faces) in truth(scenario.name) {
            for (index, face) in faces.iter().enumerate() {
                let TrueFace { id, rect, landmarks, visibility } = *face;
                assert!((1..=actors).contains(&id) && faces[..index].iter().all(|other| other.id < id));
                assert!(rect.clipped(scenario.width as f32, scenario.height as f32).is_some());
                assert!((0.0..=1.0).contains(&visibility));
                assert!((15.0..=200.5).contains(&rect.w) && (23.5..=202.0).contains(&rect.h), "{rect:?}");
                let inside =
                    |x: f32, y: f32| (rect.x..rect.right()).contains(&x) && (rect.y..rect.bottom()).contains(&y);
                assert!(landmarks.iter().all(|point| inside(point.x, point.y)), "{}: {face:?}", scenario.name);
                seen.insert(id);
            }
        }
        assert_eq!(seen.len() as u32, actors, "{}", scenario.name);
    }
}

#[test]
fn the_visibility_is_the_share_of_the_box_in_the_frame() {
    let half_outside = Scenario { layers: curls(Key::new(0.0, 0.0, 100.0, 80.0)), ..*scenario("still").unwrap() };
    assert_eq!(half_outside.faces_at(0)[0].visibility, 0.5);
}

#[test]
fn crossing_faces_overlap_and_the_nearer_one_stays_visible() {
    let frames = truth("crossing");
    let visibility = |id: u32| {
        let faces = frames.iter().flat_map(|(_, faces)| faces).filter(|face| face.id == id);
        faces.map(|face| face.visibility).fold(1.0, f32::min)
    };
    assert!(visibility(1) < 0.1, "{}", visibility(1));
    assert_eq!(visibility(2), 1.0);
    let overlap = |faces: &[TrueFace]| iou(faces[0].rect, faces[1].rect) > 0.3;
    let changes = frames.windows(2).filter(|pair| overlap(&pair[0].1) != overlap(&pair[1].1)).count();
    assert_eq!(changes, 4, "they overlap twice");
}

#[test]
fn faces_that_meet_keep_their_sides() {
    for (_, faces) in truth("meet") {
        assert!(distance(faces[0].rect, faces[1].rect).0 > 60.0);
        assert!(faces[0].visibility > 0.6);
    }
    assert!(truth("meet").iter().any(|(_, faces)| faces[0].visibility < 0.9));
}

#[test]
fn the_occluded_face_is_hidden_for_600_ms_and_the_other_one_never() {
    let frames = truth("occlusion");
    let hidden = frames.iter().map(|(_, faces)| faces[0].visibility == 0.0).collect::<Vec<_>>();
    let runs = hidden.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect::<Vec<_>>();
    assert_eq!(runs.iter().map(|(hidden, _)| *hidden).collect::<Vec<_>>(), [false, true, false, true, false]);
    for (_, frames) in runs.iter().filter(|(hidden, _)| *hidden) {
        assert!((17..=19).contains(frames), "hidden for {frames} frames at 30 frames per second");
    }
    assert!(frames.iter().all(|(_, faces)| faces.len() == 2 && faces[1].visibility == 1.0));
}

#[test]
fn faces_enter_and_leave_with_a_time_without_any_in_between() {
    let frames = truth("enter-leave");
    let count = |from: f64, to: f64| {
        let within = frames.iter().filter(|(time, _)| (from..to).contains(&seconds(time.pts_ns)));
        within.map(|(_, faces)| faces.len()).max().unwrap()
    };
    assert_eq!([count(0.0, 0.3), count(0.3, 3.5), count(3.6, 4.2), count(4.2, 8.0)], [0, 2, 0, 3]);
}

#[test]
fn the_approaching_face_grows_from_24_to_200_pixels_and_shrinks_again() {
    let heights = truth("approach").iter().map(|(_, faces)| faces[0].rect.h).collect::<Vec<_>>();
    let near = |value: f32, expected: f32| (value - expected).abs() < 1.0;
    assert!(near(heights[0], 24.0) && near(heights[120], 200.0) && near(heights[239], 24.0), "{heights:?}");
    assert!(heights[..=120].is_sorted() && heights[120..].iter().rev().is_sorted());
}

#[test]
fn the_camera_pans_over_faces_that_stand() {
    let frames = truth("pan");
    let standing =
        |(_, faces): &(FrameTime, Vec<TrueFace>)| faces.iter().find(|face| face.id == 2).map(|face| face.rect);
    let speeds =
        frames.windows(2).filter_map(|pair| Some(-distance(standing(&pair[0])?, standing(&pair[1])?).0 * 30.0));
    let speeds = speeds.collect::<Vec<_>>();
    let (slowest, fastest) = speeds.iter().fold((0.0f32, 0.0f32), |(low, high), v| (low.min(*v), high.max(*v)));
    assert!((200.0..300.0).contains(&fastest) && (-260.0..-100.0).contains(&slowest), "{slowest}..{fastest} px/s");
    assert_eq!(speeds[..20], [0.0; 20]);
}

#[test]
fn the_camera_jumps_by_the_width_of_a_face() {
    let steps = steps("shake", 1);
    let jumps = steps.iter().filter(|step| **step > 0.01).copied().collect::<Vec<_>>();
    assert_eq!(jumps.len(), 5, "{jumps:?}");
    assert!(jumps.iter().all(|jump| (0.9..1.5).contains(jump)), "{jumps:?}");
}

#[test]
fn the_fast_face_moves_by_half_of_its_width_per_frame() {
    assert!((0.45..0.55).contains(&median(steps("fast", 2))), "{:?}", steps("fast", 2));
}

#[test]
fn people_walk_by_a_third_to_two_thirds_of_a_width_per_frame_at_the_low_rate() {
    let medians = [1, 3].map(|id| median(steps("low-rate", id)));
    assert!(medians.iter().all(|step| (0.3..0.7).contains(step)), "{medians:?}");
}

#[test]
fn dropped_frames_leave_gaps_of_up_to_400_ms() {
    let times = scenario("dropped").unwrap().timeline();
    let gaps = times.windows(2).map(|pair| pair[1].pts_ns - pair[0].pts_ns).filter(|gap| *gap > 34_000_000);
    let gaps = gaps.map(|gap| (gap + 500_000) / 1_000_000).collect::<Vec<_>>();
    assert_eq!(gaps, [67, 133, 233, 400, 67, 67, 400]);
    assert!(times.iter().all(|time| time.duration_ns.abs_diff(33_333_333) <= 1));
}

#[test]
fn frame_times_of_the_variable_scenario_are_uneven() {
    let times = scenario("variable").unwrap().timeline();
    assert!(times.windows(2).all(|pair| pair[0].pts_ns + pair[0].duration_ns == pair[1].pts_ns));
    let durations = times.iter().map(|time| time.duration_ns / 1_000_000).collect::<HashSet<_>>();
    assert_eq!((durations.iter().min(), durations.iter().max()), (Some(&20), Some(&120)));
}

#[test]
fn frames_of_the_still_scenario_differ_by_noise_only() {
    let sequence = renderer().sequence(scenario("still").unwrap()).unwrap();
    let (a, b) = (sequence.frame(3).unwrap(), sequence.frame(100).unwrap());
    assert_eq!(a.faces, b.faces);
    let largest = a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b)).max();
    assert_eq!(largest, Some(4), "twice the amplitude");
}

#[test]
fn every_scenario_renders_the_same_bytes_on_every_run_and_in_any_order() {
    let (first, second) = (renderer(), renderer());
    for scenario in SCENARIOS {
        let (first, second) = (first.sequence(scenario).unwrap(), second.sequence(scenario).unwrap());
        let indices = [0, first.len() / 3, first.len() - 1];
        let forwards = indices.map(|index| first.frame(index).unwrap());
        for (index, frame) in indices.into_iter().zip(forwards).rev() {
            assert!(frame == second.frame(index).unwrap(), "{}: frame {index} differs", scenario.name);
            assert_eq!(frame.rgb.len(), 3 * scenario.width * scenario.height);
            assert_eq!(frame.faces, scenario.faces_at(frame.pts_ns));
        }
        assert_eq!(first.frames().len(), scenario.timeline().len());
    }
}

#[test]
fn faces_at_every_edge_and_outside_of_the_frame_are_drawn_without_a_panic() {
    let renderer = renderer();
    for (x, y) in [(0.0, 0.0), (63.9, 47.9), (-40.0, 20.0), (20.0, 1e5), (-1e5, -1e5), (32.0, -60.0)] {
        for size in [1.0, 30.0, 700.0] {
            let layers = curls(Key::new(0.0, x, y, size).roll(200.0));
            let base = scenario("still").unwrap();
            let scenario = Scenario { width: 64, height: 48, periods: 1, layers, ..*base };
            assert_eq!(renderer.sequence(&scenario).unwrap().frame(0).unwrap().rgb.len(), 64 * 48 * 3);
        }
    }
}

#[test]
fn scenarios_that_cannot_be_rendered_are_errors() {
    let (renderer, still) = (renderer(), scenario("still").unwrap());
    let far = Camera { path: &[], jumps: &[retinaface_sequences::Jump { time: 0.1, x: 9e4, y: 9e4 }] };
    for scenario in [
        Scenario { width: 0, ..*still },
        Scenario { height: 1 << 40, ..*still },
        Scenario { frame_rate: 0, ..*still },
        Scenario { periods: 0, ..*still },
        Scenario { noise: 200, ..*still },
        Scenario { camera: far, ..*still },
        Scenario { layers: &[Layer::Face(Actor { person: Person::Curls, path: &[], bob: 0.0 })], ..*still },
        Scenario { layers: curls(Key::new(0.0, f64::NAN, 0.0, 50.0)), ..*still },
        Scenario { layers: curls(Key::new(0.0, 0.0, 0.0, 0.0)), ..*still },
    ] {
        let error = renderer.sequence(&scenario).unwrap_err();
        assert!(matches!(error, Error::Scenario { name: "still", .. }), "{error}");
    }
    let error = renderer.sequence(still).unwrap().frame(150).unwrap_err();
    assert_eq!(error.to_string(), "there is no frame 150: the sequence has 150 frames");
}

#[test]
fn a_missing_or_another_photo_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let error = Renderer::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("multi_face.jpg") && error.to_string().contains("make setup"), "{error}");
    for photo in ["single_face.jpg", "no_face.mp4"] {
        fs::copy(common::media(photo), directory.path().join("multi_face.jpg")).unwrap();
        let error = Renderer::open(directory.path()).unwrap_err();
        assert!(matches!(error, Error::Photo { expected: (1000, 667), .. }), "{error}");
    }
}

/// What the detector finds in a scenario.
#[derive(Debug, Default)]
struct Found {
    /// Completely visible faces, and how many of them are found with an IoU of at least 0.5.
    visible: usize,
    found: usize,
    iou: f32,
    /// Distance of the landmarks from the true ones, in widths of the face box.
    landmarks: f32,
    /// Detections that touch no true face.
    false_positives: usize,
}

fn detect(detector: &Detector, frame: &Frame, result: &mut Found) {
    let info = ImageInfo::new(PixelFormat::Rgb, frame.width, frame.height);
    let view = ImageView::new(info, &[&frame.rgb], &[3 * frame.width]).unwrap();
    let faces = detector.detect(&view, &DetectionSettings::default()).unwrap().faces;
    for truth in frame.faces.iter().filter(|face| face.visibility == 1.0) {
        result.visible += 1;
        let best = faces.iter().max_by(|a, b| iou(a.rect, truth.rect).total_cmp(&iou(b.rect, truth.rect)));
        if let Some(face) = best.filter(|face| iou(face.rect, truth.rect) >= 0.5) {
            result.found += 1;
            result.iou += iou(face.rect, truth.rect);
            let points = face.landmarks.unwrap().into_iter().zip(truth.landmarks);
            let distances = points.map(|(a, b)| (a.x - b.x).hypot(a.y - b.y) / truth.rect.w);
            result.landmarks += distances.sum::<f32>() / 5.0;
        }
    }
    let is_false = |rect: Rect| frame.faces.iter().all(|truth| iou(rect, truth.rect) < 0.1);
    result.false_positives += faces.iter().filter(|face| is_false(face.rect)).count();
}

/// The detector runs on every 12th frame. On all frames it finds each of the 4964 completely
/// visible faces with a mean IoU of 0.93, and nothing else.
const DETECTION_STEP: usize = 12;

#[test]
fn the_detector_finds_the_faces_and_nothing_in_the_background() {
    let (renderer, detector) = (renderer(), Detector::new(&common::open_default()));
    let mut total = Found::default();
    for scenario in SCENARIOS {
        let sequence = renderer.sequence(scenario).unwrap();
        let mut result = Found::default();
        for index in (0..sequence.len()).step_by(DETECTION_STEP) {
            detect(&detector, &sequence.frame(index).unwrap(), &mut result);
        }
        let found = result.found as f32;
        let (iou, landmarks) = (result.iou / found, result.landmarks / found);
        eprintln!("{}: {result:?}, mean IoU {iou:.3}, landmarks {landmarks:.4}", scenario.name);
        total.visible += result.visible;
        total.found += result.found;
        total.iou += result.iou;
        total.landmarks += result.landmarks;
        total.false_positives += result.false_positives;
    }
    let found = total.found as f32;
    let (iou, landmarks) = (total.iou / found, total.landmarks / found);
    eprintln!("all: {total:?}, mean IoU {iou:.3}, landmarks {landmarks:.4}");
    assert!(total.visible > 300);
    assert!(found >= 0.98 * total.visible as f32, "{} of {} faces are found", total.found, total.visible);
    assert!(iou > 0.85, "mean IoU {iou}");
    assert!(landmarks < 0.04, "mean distance of the landmarks {landmarks}");
    assert_eq!(total.false_positives, 0);
}

fn program(arguments: &[&str]) -> Output {
    // Not the variable of cargo: a shell that wraps the compiler drops names with hyphens.
    let tests = std::env::current_exe().unwrap();
    let mut command = Command::new(tests.ancestors().nth(2).unwrap().join("retinaface-sequences"));
    command.args(arguments).arg("--media").arg(common::fetched("media")).output().unwrap()
}

#[test]
fn the_program_writes_video_times_and_truth() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let output = program(&[out, "low-rate", "enter-leave"]);
    assert!(output.status.success(), "{output:?}");
    let file = |name: &str| fs::read(directory.path().join(name)).unwrap();
    let text = |name: &str| String::from_utf8(file(name)).unwrap();

    let video = file("low-rate/frames.y4m");
    let header = b"YUV4MPEG2 W640 H360 F5:1 Ip A1:1 C420jpeg\n";
    assert!(video.starts_with(header));
    assert_eq!(video.len(), header.len() + 45 * (b"FRAME\n".len() + 640 * 360 * 3 / 2));
    assert!(text("low-rate/times.csv").starts_with("frame,pts_ns\n1,0\n2,200000000\n"));
    assert!(text("low-rate/seqinfo.ini").contains("\nframeRate=5\nseqLength=45\nimWidth=640\nimHeight=360\n"));

    let truth = truth("enter-leave");
    let lines = text("enter-leave/gt/gt.txt");
    let lines = lines.lines().map(|line| line.split(',').map(|field| field.parse().unwrap()).collect::<Vec<f32>>());
    let expected = truth.iter().enumerate().flat_map(|(index, (_, faces))| faces.iter().map(move |face| (index, face)));
    let mut ignored = 0;
    for (line, (index, TrueFace { id, rect, visibility, .. })) in lines.zip(expected) {
        assert_eq!(line[..2], [index as f32 + 1.0, *id as f32]);
        let rounded = line[2..6].iter().zip([rect.x, rect.y, rect.w, rect.h]);
        assert!(rounded.clone().all(|(a, b)| (a - b).abs() < 0.01), "{line:?} is not {rect:?}");
        assert_eq!(line[6..8], [f32::from(u8::from(*visibility >= 0.1)), 1.0]);
        assert!((line[8] - visibility).abs() < 0.001);
        ignored += usize::from(line[6] == 0.0);
    }
    assert!(ignored > 0, "no face is nearly invisible");
}

#[test]
fn the_program_names_the_scenarios_if_one_is_unknown() {
    let output = program(&["out", "crossroads"]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("crossing, meet, crowd"), "{message}");
}
