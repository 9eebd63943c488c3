//! Memory stays bounded: thousands of frames, restarts, streams and shapes that come and go.
//!
//! One test in a binary of its own, since it looks at the whole process's resident memory.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use gst_video::VideoFormat;

mod common;
use common::{info, project, quoted, watched};

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Two streams on one model, and one of landmarks, through every kind of change: some 300 frames.
fn rounds(count: u64) {
    let model = quoted(&project::default_model());
    let points = quoted(&project::root().join("tests/fixtures/models/landmarks68.onnx"));
    for round in 0..count {
        let modes = [
            "inflight=2",
            "inflight=1",
            "mode=latest",
            "batch-size=2 batch-timeout=1",
            "tiles=2x1 flip=true scales=1.0,0.5",
        ];
        let mut landmarks = gst_check::Harness::new_parse(&format!("facelandmarks model-file={points}"));
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
                landmarks.push_and_pull(common::frame_with(&info, number, &faces)).unwrap();
            }
            for _ in 0..20 {
                streams.iter_mut().for_each(|harness| drop(harness.pull().unwrap()));
            }
        }
        // A flush with frames under way whose results nobody takes, an end, a restart.
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
        // Keeps the model open, as another stream of a long-lived process would.
        common::init();
        let model = quoted(&project::default_model());
        let mut lasting = gst_check::Harness::new_parse(&format!("retinaface model-file={model} input-size=224"));
        let info = info(VideoFormat::I420, 320, 180);
        lasting.set_src_caps(info.to_caps().unwrap());
        lasting.push_and_pull(common::frame(&info, 0)).unwrap();
        // Every shape and mode once, and what the C library keeps of each thread's memory.
        rounds(16);
        let before = resident();
        // `make soak` asks for more.
        let count = std::env::var("SOAK_ROUNDS").map_or(32, |rounds| rounds.parse().unwrap());
        rounds(count);
        let after = resident();
        let frames = count * 3 * 20 * 2;
        // A leaked tensor of a shape has 300 to 600 KiB; one a round would show as 10 MiB and more.
        assert!(after < before + 8 * 1024, "{before} KiB became {after} KiB in {frames} frames");
        eprintln!("{before} KiB, after {frames} more frames {after} KiB");
        assert!(lasting.push_and_pull(common::frame(&info, 1)).is_ok());
    };
    // A soak takes as long as it takes.
    if std::env::var_os("SOAK_ROUNDS").is_some() { body() } else { watched(body) }
}
