//! The element on a decoded 1080p clip, compared with a bare session.
//!
//! 48 frames of the demo clip, decoded, scaled to 1920 x 1080 and held in memory as NV12, go
//! through the element. The bare session runs the model as many times on a constant tensor of the
//! same shape.
//!
//! A shared machine changes its speed within seconds. Therefore the reported ratios are of pairs: a
//! round of the bare session, then one of the element, twenty times. `target/tmp/paired.json` has
//! the times of each pair.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may panic; criterion_main! has no docs")]

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use retinaface::inference::{InputSpec, Model, ModelOptions};

#[path = "../plugins/retinaface/tests/common/mod.rs"]
mod common;

const FRAMES: usize = 48;

fn element(c: &mut Criterion) {
    common::init();
    let clip = common::clip("WolfgangLanger_Pexels.mp4");
    let samples = common::run(&format!(
        "filesrc location={clip} ! decodebin ! identity eos-after={} ! videoconvert ! videoscale \
         ! video/x-raw,format=NV12,width=1920,height=1080 ! appsink name=out",
        FRAMES + 1
    ));
    let samples = &samples[..FRAMES];
    let model = common::quoted(&common::project::default_model());
    let harness = |description: &str| {
        let mut harness = gst_check::Harness::new_parse(description);
        harness.set_src_caps(samples[0].caps_owned().unwrap());
        harness
    };
    let all_frames = |harness: &mut gst_check::Harness| {
        // Like a file source, as fast as the element accepts them.
        for sample in samples {
            harness.push(sample.buffer_owned().unwrap()).unwrap();
        }
        for _ in samples {
            black_box(harness.pull().unwrap());
        }
    };

    let mut group = c.benchmark_group("clip");
    group.sample_size(20);
    group.throughput(Throughput::Elements(FRAMES as u64));
    let mut bare = Model::open(&common::project::default_model(), &ModelOptions::default()).unwrap();
    let mut tensors = [bare.allocator().tensors(InputSpec::Floats { width: 640, height: 384 }).unwrap()];
    group.bench_function("bare_session", |b| {
        b.iter(|| (0..FRAMES).for_each(|_| bare.run(black_box(&mut tensors)).unwrap()));
    });
    let mut detecting = harness(&format!("retinaface model-file={model}"));
    group.bench_function("retinaface", |b| b.iter(|| all_frames(&mut detecting)));
    let mut whole = harness(&format!("retinaface model-file={model} ! facemetaoverlay ! facealign"));
    group.bench_function("retinaface_overlay_align", |b| b.iter(|| all_frames(&mut whole)));
    group.finish();

    let seconds = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    let mut bare_round = || (0..FRAMES).for_each(|_| bare.run(black_box(&mut tensors)).unwrap());
    let pairs = (0..20).map(|_| {
        let bare = seconds(&mut bare_round);
        let element = seconds(&mut || all_frames(&mut detecting));
        let whole = seconds(&mut || all_frames(&mut whole));
        [bare, element, whole]
    });
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("paired.json");
    std::fs::write(file, serde_json::to_string(&pairs.collect::<Vec<_>>()).unwrap()).unwrap();
}

/// What elements without a model cost per 1080p frame with 0, 1 and 20 faces. `identity` is the cost of
/// the harness.
fn followers(c: &mut Criterion) {
    common::init();
    let info = common::info(gst_video::VideoFormat::Nv12, 1920, 1080);
    let mut group = c.benchmark_group("followers");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for count in [0, 1, 20] {
        // Every fifth frame is analysed, as with inference-interval=5.
        let frame = |number: u64, is_analysed: bool| {
            let at = |face: usize| ((face % 5 * 350 + 40) as f32 + 2.0 * number as f32, (face / 5 * 250 + 40) as f32);
            let faces = (0..count).map(|face| common::face(0.9, at(face).0, at(face).1, 90.0, 110.0));
            if is_analysed {
                common::frame_with_faces(&info, number, &faces.collect::<Vec<_>>())
            } else {
                common::frame(&info, number)
            }
        };
        for (name, description, interval) in [
            ("identity", "identity", 1),
            ("facetrack", "facetrack", 1),
            ("facetrack_interval_5", "facetrack", 5),
            ("faceredact", "faceredact", 1),
            ("faceredact_lookahead_10", "faceredact lookahead=10", 1),
        ] {
            let frames = (0..FRAMES as u64).map(|number| frame(number, number % interval == 0)).collect::<Vec<_>>();
            let mut harness = gst_check::Harness::new_parse(description);
            harness.set_src_caps(info.to_caps().unwrap());
            group.bench_function(format!("{name}_{count}"), |b| {
                b.iter(|| {
                    for frame in &frames {
                        // The pixels are copied where they are changed, because this list shares them.
                        harness.push(frame.clone()).unwrap();
                        while let Some(out) = harness.try_pull() {
                            black_box(out);
                        }
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, element, followers);
criterion_main!(benches);
