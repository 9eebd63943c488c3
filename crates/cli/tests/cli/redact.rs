//! The command `retinaface redact`.

use std::path::{Path, PathBuf};
use std::process::Output;
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
    // The plugin that cargo built with the tests, and a registry of its own: the one in use may have read
    // another build.
    let plugins = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    assert!(plugins.join("libgstretinaface.so").exists(), "{} has no plugin", plugins.display());
    let registry = tempfile::tempdir().unwrap();
    let arguments = [&["redact", "--execution-provider", "cpu"], arguments].concat();
    let mut command = program(&arguments);
    command.env("GST_PLUGIN_PATH", plugins).env("GST_REGISTRY", registry.path().join("registry.bin"));
    command.output().unwrap()
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

#[test]
fn a_rotated_clip_is_written_upright_with_its_faces_covered() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("phone.mp4");
    write_clip(&input, "videoflip video-direction=90l ! x264enc bframes=0 speed-preset=ultrafast", "mp4mux");
    let mut bytes = std::fs::read(&input).unwrap();
    // The matrix of the video track: rotate by 90 degrees clockwise. Numbers have 16 fractional bits.
    let matrix = bytes.windows(4).position(|name| name == b"tkhd").unwrap() + 44;
    let rotation = [0, 0x10000, 0, -0x10000, 0, 0, 320 << 16, 0, 0x4000_0000];
    bytes[matrix..][..36].copy_from_slice(rotation.map(i32::to_be_bytes).as_flattened());
    std::fs::write(&input, bytes).unwrap();
    let output = directory.path().join("out.mkv");
    let result = redact(&[path_str(&input), path_str(&output)]);
    assert_eq!((status(&result), stderr(&result).as_str()), (0, ""));
    check_video(&input, &output, MATROSKA_TICK);
    let corner = |file: &Path| {
        let frame = shown_frames(file).remove(0).1;
        Mat::roi(&frame, opencv::core::Rect::new(0, 0, 60, 60)).unwrap().try_clone().unwrap()
    };
    let difference = opencv::core::norm2_def(&corner(&input), &corner(&output)).unwrap() / 60.0;
    assert!(difference < 20.0, "{difference}");
}

#[test]
fn options_of_a_video_are_used_and_masks_are_covered_in_every_frame() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (clip(directory.path(), "a.mp4"), directory.path().join("out.mov"));
    let options = ["--method", "blur", "--shape", "box", "--color", "00ff00", "--mask", "0,0,40,0,40,40,0,40"];
    let more = ["--inference-interval", "4", "--quality", "10", "--hold", "500", "--margin", "1.5"];
    let result = redact(&[&[path_str(&input), path_str(&output)], &options[..], &more].concat());
    assert_eq!((status(&result), stderr(&result).as_str()), (0, ""));
    check_video(&input, &output, MP4_TICK);
    for (_, frame) in shown_frames(&output) {
        let [b, g, r] = frame.at_2d::<opencv::core::Vec3b>(20, 20).unwrap().0;
        assert!(g > 240 && b < 15 && r < 15, "{b} {g} {r}");
    }
}

/// A clip that this muxer writes. `prepare` is called with it before it has a frame.
fn clip_with(file: &Path, muxer: &str, prepare: impl Fn(&gst::Element) + Send + Sync + 'static) {
    let encoder = "x264enc bframes=0 speed-preset=ultrafast";
    let pipeline =
        launch(&format!("{} ! {encoder} ! {muxer} name=mux ! filesink location={}", frames(), file.display()));
    let mux = pipeline.by_name("mux").unwrap();
    // A muxer forgets what it has before it starts.
    let (weak, pad) = (mux.downgrade(), mux.sink_pads().remove(0));
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        prepare(&weak.upgrade().unwrap());
        gst::PadProbeReturn::Remove
    });
    run_pipeline(&pipeline);
}

/// Whether a file has these bytes.
fn has(file: &Path, id: &[u8]) -> bool {
    std::fs::read(file).unwrap().windows(id.len()).any(|bytes| bytes == id)
}

#[test]
fn chapters_are_kept_or_named() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("chapters.mkv");
    clip_with(&input, "matroskamux", |mux| {
        let mut toc = gst::Toc::new(gst::TocScope::Global);
        let mut edition = gst::TocEntry::new(gst::TocEntryType::Edition, "1");
        let mut chapter = gst::TocEntry::new(gst::TocEntryType::Chapter, "2");
        chapter.get_mut().unwrap().set_start_stop_times(0, 500_000_000);
        edition.get_mut().unwrap().append_sub_entry(chapter);
        toc.get_mut().unwrap().append_entry(edition);
        mux.dynamic_cast_ref::<gst::TocSetter>().unwrap().set_toc(Some(&toc));
    });
    // The identifiers of an edition with chapters in Matroska.
    let edition = [0x10, 0x43, 0xA7, 0x70];
    assert!(has(&input, &edition));
    let output = directory.path().join("out.mkv");
    let result = redact(&[path_str(&input), path_str(&output)]);
    assert_eq!((status(&result), stderr(&result).as_str(), has(&output, &edition)), (0, "", true));
    let result = redact(&[path_str(&input), path_str(&directory.path().join("out.mp4"))]);
    assert!(stderr(&result).contains("the chapters are dropped: write .mkv"), "{}", stderr(&result));
}

#[test]
fn cover_art_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("art.mp4");
    clip_with(&input, "mp4mux", |mux| {
        let picture = std::fs::read(common::media("single_face.jpg")).unwrap();
        let caps = gst::Caps::builder("image/jpeg").build();
        let picture = gst::Sample::builder().buffer(&gst::Buffer::from_slice(picture)).caps(&caps).build();
        let setter = mux.dynamic_cast_ref::<gst::TagSetter>().unwrap();
        setter.add_tag::<gst::tags::Image>(&picture, gst::TagMergeMode::Append);
    });
    assert!(has(&input, b"covr"));
    for name in ["out.mp4", "out.mkv"] {
        let output = directory.path().join(name);
        let result = redact(&[path_str(&input), path_str(&output)]);
        assert_eq!(status(&result), 0);
        assert!(stderr(&result).contains("cover art, thumbnails and attachments are dropped"), "{}", stderr(&result));
        assert!(!has(&output, b"covr") && !has(&output, b"JFIF"));
    }
}

#[test]
fn images_are_upright_without_metadata_and_without_faces() {
    let directory = tempfile::tempdir().unwrap();
    let photo = imread(path_str(&common::media("single_face.jpg")), IMREAD_COLOR).unwrap();
    let mut rotated = Mat::default();
    opencv::core::rotate(&photo, &mut rotated, opencv::core::ROTATE_90_COUNTERCLOCKWISE).unwrap();
    let input = directory.path().join("photo.jpg");
    imwrite(path_str(&input), &rotated, &Vector::new()).unwrap();
    let jpeg = std::fs::read(&input).unwrap();
    // Orientation 6 (rotate by 90 degrees clockwise), and a second directory with a thumbnail.
    let thumbnail = b"\xFF\xD8\xFFthumbnail\xFF\xD9";
    let exif = [
        &b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x1A\0\0\0"[..],
        b"\x02\0\x01\x02\x04\0\x01\0\0\0\x38\0\0\0\x02\x02\x04\0\x01\0\0\0\x0E\0\0\0\0\0\0\0",
        thumbnail,
    ]
    .concat();
    let segment = [&[0xFF, 0xE1], &(exif.len() as u16 + 2).to_be_bytes()[..], &exif].concat();
    std::fs::write(&input, [&jpeg[..2], &segment, &jpeg[2..]].concat()).unwrap();
    for (name, method) in [("a.jpg", "solid"), ("b.png", "pixelate"), ("c.webp", "blur")] {
        let output = directory.path().join(name);
        let mask = "0,0,40,0,40,40,0,40";
        let options = ["--method", method, "--color", "ff0000", "--mask", mask];
        let result = redact(&[&[path_str(&input), path_str(&output)], &options[..]].concat());
        assert_eq!((status(&result), stderr(&result).as_str()), (0, ""), "{name}");
        let bytes = std::fs::read(&output).unwrap();
        assert!(
            !bytes.windows(4).any(|bytes| bytes == b"Exif") && !bytes.windows(9).any(|bytes| bytes == b"thumbnail")
        );
        let image = imread(path_str(&output), IMREAD_COLOR).unwrap();
        assert_eq!(image.size().unwrap(), photo.size().unwrap());
        let [b, g, r] = image.at_2d::<opencv::core::Vec3b>(20, 20).unwrap().0;
        assert!(r > 240 && g < 15 && b < 15, "{name}: {b} {g} {r}");
        assert_eq!(faces_in(std::iter::once(&image)), [0], "{name}");
    }
    assert_eq!(faces_in(std::iter::once(&photo)), [1]);
    // Without a face, the output is written and the status is 1.
    let (result, again) = (directory.path().join("a.jpg"), directory.path().join("again.png"));
    assert_eq!(status(&redact(&[path_str(&result), path_str(&again)])), 1);
    assert!(again.exists());
}

#[test]
fn after_an_error_there_is_no_output() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (text, audio, photo) = (path("text.mp4"), path("audio.mp4"), path("photo.jpg"));
    std::fs::write(&text, "not a video").unwrap();
    let audio_only = "audiotestsrc num-buffers=20 ! audioconvert ! avenc_aac ! mp4mux ! filesink location=";
    run_pipeline(&launch(&format!("{audio_only}{}", audio.display())));
    std::fs::copy(common::media("single_face.jpg"), &photo).unwrap();
    let files = || std::fs::read_dir(directory.path()).unwrap().count();
    let before = files();
    for (input, output, part) in [
        (&photo, &photo, "is the input and is not overwritten"),
        (&photo, &text, "exists; --force overwrites it"),
        (&photo, &directory.path().to_path_buf(), "is a directory"),
        (&photo, &path("out.webm"), "does not end in .mp4, .m4v, .mov, .mkv"),
        (&photo, &path("none/out.jpg"), "cannot write"),
        (&path("none.mp4"), &path("out.mp4"), "no such file"),
        (&text, &path("out.mp4"), "is not written: cannot process"),
        (&text, &path("out.jpg"), "is not written"),
        (&audio, &path("out.mp4"), "the file has no video stream"),
    ] {
        let result = redact(&[path_str(input), path_str(output)]);
        assert_eq!((status(&result), result.stdout.len()), (2, 0), "{part}");
        assert!(stderr(&result).contains(part), "{part}: {}", stderr(&result));
        assert_eq!(files(), before, "{part}");
    }
    assert_eq!(std::fs::read(&text).unwrap(), b"not a video");
    // The model is opened before the output is touched.
    let result = redact(&[path_str(&photo), path_str(&text), "--force", "--model", "none.onnx"]);
    assert_eq!((status(&result), std::fs::read(&text).unwrap().as_slice()), (2, &b"not a video"[..]));
}
