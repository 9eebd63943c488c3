//! Memory does not grow with frames, restarts, streams and input shapes.
//!
//! The only test of this binary, since it measures the resident memory of the process.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use gst_video::VideoFormat;

mod common;
use common::{info, project, quoted, with_watchdog};

/// Number of measurements, of which the median counts. The memory that the C library caches per
/// thread grows and shrinks in steps, whose time depends on the scheduler.
const WINDOWS: u64 = 3;
/// A leaked tensor has 300 to 600 KiB: one per round adds more in a window of 16 rounds.
const MAX_GROWTH_KIB: i64 = 4 * 1024;

/// Resident memory in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs two detection streams that share a model, and one landmark stream, with changing modes and
/// caps. Each round pushes about 180 frames.
fn run_rounds(count: u64) {
    let model = quoted(&project::default_model());
    let landmark_model = quoted(&project::root().join("tests/fixtures/models/landmarks68.onnx"));
    for round in 0..count {
        let modes = [
            "inflight=2",
            "inflight=1",
            "mode=latest",
            "batch-size=2 batch-timeout=1",
            "tiles=2x1 flip=true scales=1.0,0.5",
        ];
        let mut landmarks = gst_check::Harness::new_parse(&format!("facelandmarks model-file={landmark_model}"));
        let mut streams = [0, 1].map(|number| {
            let mode = modes[(round + number) as usize % modes.len()];
            gst_check::Harness::new_parse(&format!("retinaface model-file={model} input-size=224 {mode}"))
        });
        for (format, width, height) in [
            (VideoFormat::Nv12, 640, 360),
            (VideoFormat::Bgr, 360, 640),
            (VideoFormat::Gray8, 320 + 16 * (round % 8) as u32, 320),
        ] {
            let info = info(format, width, height);
            for harness in &mut streams {
                harness.set_src_caps(info.to_caps().unwrap());
            }
            for number in 0..20 {
                for harness in &mut streams {
                    harness.push(common::frame(&info, number)).unwrap();
                }
            }
            landmarks.set_src_caps(info.to_caps().unwrap());
            for number in 0..20 {
                let faces = [10.0, 100.0, 190.0].map(|x| common::face(0.9, x, 50.0, 80.0, 90.0));
                landmarks.push_and_pull(common::frame_with_faces(&info, number, &faces)).unwrap();
            }
            for _ in 0..20 {
                streams.iter_mut().for_each(|harness| drop(harness.pull().unwrap()));
            }
        }
        // A flush while frames are in flight, then EOS. The next round starts new elements.
        for harness in &mut streams {
            let info = info(VideoFormat::Nv12, 640, 360);
            harness.set_src_caps(info.to_caps().unwrap());
            for number in 0..2 {
                harness.push(common::frame(&info, number)).unwrap();
            }
            assert!(harness.push_event(gst::event::FlushStart::new()));
            assert!(harness.push_event(gst::event::FlushStop::new(true)));
            assert!(harness.push_event(gst::event::Eos::new()));
        }
    }
}

#[test]
fn memory_does_not_grow_with_frames_restarts_and_shapes() {
    let body = || {
        // Keeps the model open, like another stream of a long-running process.
        common::init();
        let model = quoted(&project::default_model());
        let mut persistent = gst_check::Harness::new_parse(&format!("retinaface model-file={model} input-size=224"));
        let info = info(VideoFormat::I420, 320, 180);
        persistent.set_src_caps(info.to_caps().unwrap());
        persistent.push_and_pull(common::frame(&info, 0)).unwrap();
        // Warm-up: every shape and mode, and the memory that the C library caches per thread.
        run_rounds(16);
        // `make soak` sets SOAK_ROUNDS.
        let soak = std::env::var("SOAK_ROUNDS").map(|count| count.parse::<u64>().unwrap());
        let rounds = soak.as_ref().map_or(16, |count| count.div_ceil(WINDOWS));
        let mut growths = Vec::new();
        for window in 0..WINDOWS {
            let before = resident_kib();
            run_rounds(rounds);
            let after = resident_kib();
            eprintln!("window {window} of {rounds} rounds: {before} KiB, then {after} KiB");
            growths.push(after as i64 - before as i64);
        }
        growths.sort_unstable();
        let median = growths[growths.len() / 2];
        assert!(median < MAX_GROWTH_KIB, "resident memory grew by {growths:?} KiB in windows of {rounds} rounds");
        assert!(persistent.push_and_pull(common::frame(&info, 1)).is_ok());
    };
    // The time of a soak test is not limited.
    if std::env::var_os("SOAK_ROUNDS").is_some() { body() } else { with_watchdog(body) }
}
