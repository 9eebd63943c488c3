//! The command `retinaface redact`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use gst::prelude::*;
use opencv::core::{Mat, Vector};
use opencv::imgcodecs::{IMREAD_COLOR, imread, imwrite};
use opencv::prelude::*;
use retinaface::detect::{DetectionSettings, Detector};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};

use crate::binary::{path_str, program, status, stderr};
use crate::common;

/// Nothing in these tests takes this long.
const TIMEOUT: gst::ClockTime = gst::ClockTime::from_seconds(60);
/// Frames of the clips.
const FRAMES: usize = 24;

fn redact(arguments: &[&str]) -> Output {
    let plugins = Path::new(env!("CARGO_BIN_EXE_retinaface")).parent().unwrap().to_path_buf();
    let arguments = [&["redact", "--execution-provider", "cpu"], arguments].concat();
    program(&arguments).env("GST_PLUGIN_PATH", plugins).output().unwrap()
}

/// A pipeline that ends itself.
fn run_pipeline(pipeline: &gst::Pipeline) {
    pipeline.set_state(gst::State::Playing).unwrap();
    let end = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = pipeline.bus().unwrap().timed_pop_filtered(TIMEOUT, &end).expect("the pipeline ends");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    pipeline.set_state(gst::State::Null).unwrap();
}

fn launch(description: &str) -> gst::Pipeline {
    gst::init().unwrap();
    gst::parse::launch(description).unwrap().downcast().unwrap()
}

/// The description of a clip of [`FRAMES`] small frames with one face.
fn frames() -> String {
    format!(
        "filesrc location={} ! decodebin ! videoscale ! video/x-raw,width=320,height=180 ! identity eos-after={} name=frames",
        common::media("single_face.mp4").display(),
        FRAMES + 1
    )
}

/// Writes a clip with AAC audio.
fn write_clip(file: &Path, encoder: &str, muxer: &str) {
    let audio = "audiotestsrc num-buffers=40 wave=ticks ! audioconvert ! avenc_aac ! aacparse ! mux.";
    let location = file.display();
    run_pipeline(&launch(&format!(
        "{} ! {encoder} ! {muxer} name=mux ! filesink location={location} {audio}",
        frames()
    )));
}

fn clip(directory: &Path, name: &str) -> PathBuf {
    let file = directory.join(name);
    let muxer = if name.ends_with("mkv") { "matroskamux" } else { "mp4mux" };
    write_clip(&file, "x264enc bframes=0 speed-preset=ultrafast", muxer);
    file
}

/// The buffers of a file that leave this chain of elements.
fn buffers(file: &Path, chain: &str) -> Vec<gst::Sample> {
    let pipeline =
        launch(&format!("filesrc location={} ! {chain} ! appsink name=out sync=false max-buffers=4", file.display()));
    let sink = pipeline.by_name("out").and_downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let samples = std::iter::from_fn(|| sink.try_pull_sample(TIMEOUT)).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    samples
}

fn audio_packets(file: &Path) -> Vec<Vec<u8>> {
    let packets = buffers(file, "parsebin ! audio/mpeg");
    packets.iter().map(|packet| packet.buffer().unwrap().map_readable().unwrap().to_vec()).collect()
}

/// BGR frames with their running time, as a player shows them.
fn shown_frames(file: &Path) -> Vec<(Duration, Mat)> {
    let samples = buffers(file, "decodebin ! videoconvert ! videoflip video-direction=auto ! video/x-raw,format=BGR");
    let frame = |sample: &gst::Sample| {
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        let buffer = sample.buffer().unwrap();
        let segment = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap();
        let time = segment.to_running_time(buffer.pts()).unwrap();
        let bytes = buffer.map_readable().unwrap();
        let (width, height) = (info.width() as usize, info.height() as usize);
        let rows = bytes.chunks(info.stride()[0] as usize).take(height);
        let pixels = rows.flat_map(|row| row[..3 * width].to_vec()).collect::<Vec<_>>();
        let mat = Mat::from_slice(&pixels).unwrap().reshape(3, height as i32).unwrap().try_clone().unwrap();
        (time.into(), mat)
    };
    samples.iter().map(frame).collect()
}

/// Number of faces with a score above 0.5, in each image.
fn faces_in<'a>(images: impl Iterator<Item = &'a Mat>) -> Vec<usize> {
    let detector = Detector::new(&common::open_default());
    let count = |image: &Mat| {
        let (width, height) = (image.cols() as usize, image.rows() as usize);
        let info = ImageInfo::new(PixelFormat::Bgr, width, height);
        let view = ImageView::new(info, &[image.data_bytes().unwrap()], &[3 * width]).unwrap();
        detector.detect(&view, &DetectionSettings::default()).unwrap().faces.len()
    };
    images.map(count).collect()
}

/// Fails if the output has other frames than the input, or shows a face.
fn check_video(input: &Path, output: &Path, tolerance: Duration) {
    let (before, after) = (shown_frames(input), shown_frames(output));
    assert!(before.len() >= FRAMES - 1, "{} frames", before.len());
    assert_eq!(after.len(), before.len());
    for ((before, _), (after, _)) in before.iter().zip(&after) {
        assert!(before.abs_diff(*after) <= tolerance, "{before:?} {after:?}");
    }
    let sampled = |frames: &[(Duration, Mat)]| faces_in(frames.iter().step_by(6).map(|(_, frame)| frame));
    assert!(sampled(&before).iter().all(|faces| *faces == 1), "the input shows a face");
    assert_eq!(sampled(&after).iter().sum::<usize>(), 0);
    assert_eq!(before[0].1.size().unwrap(), after[0].1.size().unwrap());
}

/// Half a tick of MP4, or of Matroska.
const MP4_TICK: Duration = Duration::from_micros(5);
const MATROSKA_TICK: Duration = Duration::from_micros(501);

#[test]
fn faces_are_covered_and_audio_packets_and_timestamps_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    for (name, out, tolerance) in
        [("a.mp4", "out.mp4", MP4_TICK), ("a.mkv", "out.mkv", MATROSKA_TICK), ("b.mp4", "c.mkv", MATROSKA_TICK)]
    {
        let (input, output) = (clip(directory.path(), name), directory.path().join(out));
        let result = redact(&[path_str(&input), path_str(&output), "--json"]);
        assert_eq!((status(&result), stderr(&result).as_str()), (0, ""), "{name}");
        let report = serde_json::from_slice::<serde_json::Value>(&result.stdout).unwrap();
        assert_eq!(report["schema"], "retinaface.redact/1");
        assert_eq!((&report["frames_covered_whole"], &report["notes"]), (&0.into(), &serde_json::json!([])));
        assert_eq!(report["frames"], report["faces"], "{report}");
        check_video(&input, &output, tolerance);
        let packets = audio_packets(&input);
        assert!(packets.len() > 30 && audio_packets(&output) == packets, "{name}");
    }
    let left = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().contains("partial")).count(), 0);
}
