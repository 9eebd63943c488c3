//! The faces of an earlier frame, in `mode=latest`: pixels are read from the frame in which they were
//! found.

use std::collections::HashSet;
use std::time::Duration;

use crate::common::{self, clip, face, info, project, quoted, run, with_watchdog};
use gst::prelude::*;
use gst_video::VideoFormat;
use retinaface::crops::align::{self, WarpBuffers};
use retinaface::geometry::{Face, Point};
use retinaface::image::{ImageInfo, ImageView, OwnedImage, PixelFormat};
use retinaface::inference::{ModelOptions, ModelTask};
use retinaface::{LandmarkSettings, Landmarker, SharedModel};

const WIDTH: usize = 1280;
const HEIGHT: usize = 360;
/// Time between two frames.
const FRAME_MS: u64 = 40;
/// The face moves by this many pixels per frame: 300 pixels per second.
const STEP: usize = 12;

/// A grey film in which a face walks from left to right.
struct Film {
    photo: Vec<u8>,
    width: usize,
    height: usize,
}

impl Film {
    fn new() -> Self {
        let (width, height) = (286, 281);
        let photo = clip("single_face.jpg");
        let samples = run(&format!(
            "filesrc location={photo} ! jpegdec ! videoconvertscale ! video/x-raw,format=RGB,width={width},height={height} \
             ! appsink name=out"
        ));
        let buffer = samples[0].buffer().unwrap().map_readable().unwrap();
        let stride = buffer.len() / height;
        let photo = buffer.chunks(stride).flat_map(|row| &row[..3 * width]).copied().collect();
        Self { photo, width, height }
    }

    /// The pixels of frame `number`. The face turns around when it reaches the right edge.
    fn pixels(&self, number: u64) -> Vec<u8> {
        let way = WIDTH - self.width;
        let position = (number as usize * STEP) % (2 * way);
        let left = position.min(2 * way - position);
        let mut pixels = vec![90; 3 * WIDTH * HEIGHT];
        for (row, line) in self.photo.chunks(3 * self.width).enumerate() {
            let start = 3 * ((row + (HEIGHT - self.height) / 2) * WIDTH + left);
            pixels[start..start + line.len()].copy_from_slice(line);
        }
        pixels
    }

    fn frame(&self, number: u64) -> gst::Buffer {
        let mut buffer = gst::Buffer::from_mut_slice(self.pixels(number));
        let out = buffer.get_mut().unwrap();
        out.set_pts(gst::ClockTime::from_mseconds(FRAME_MS * number));
        out.set_duration(gst::ClockTime::from_mseconds(FRAME_MS));
        buffer
    }

    fn harness(description: &str) -> gst_check::Harness {
        common::init();
        let mut harness = gst_check::Harness::new_parse(description);
        harness.set_src_caps(info(VideoFormat::Rgb, WIDTH as u32, HEIGHT as u32).to_caps().unwrap());
        harness
    }

    /// Pushes frames until `enough` says so of the buffers that have left.
    fn play(&self, harness: &mut gst_check::Harness, enough: impl Fn(&[gst::Buffer]) -> bool) -> Vec<gst::Buffer> {
        let mut buffers = Vec::new();
        for number in 0.. {
            harness.push(self.frame(number)).unwrap();
            buffers.extend(std::iter::from_fn(|| harness.try_pull()));
            if enough(&buffers) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        buffers
    }
}

fn view(pixels: &[u8]) -> ImageView<'_> {
    ImageView::new(ImageInfo::new(PixelFormat::Rgb, WIDTH, HEIGHT), &[pixels], &[3 * WIDTH]).unwrap()
}

#[test]
fn crops_in_latest_mode_show_the_face_where_it_was_found() {
    with_watchdog(|| {
        let film = Film::new();
        // Drawing into the frames must not change the pixels of the crops.
        let mut harness = Film::harness("retinaface mode=latest max-age=0 ! facemetaoverlay ! facealign");
        let crops = film.play(&mut harness, |crops| crops.len() >= 8);
        let mut found_in = HashSet::new();
        let mut last = None;
        for crop in &crops {
            let origin = face_meta::read_crop(crop).unwrap();
            let time = origin.frame_pts.unwrap();
            assert!(found_in.insert(time), "the face of the frame at {time} has two crops");
            // The crop has the time of the frame that carried it.
            assert!(crop.pts() > last, "{:?} after {last:?}", crop.pts());
            last = crop.pts();
            assert_eq!(origin.age, Duration::from(crop.pts().unwrap() - time));
            assert!(!origin.age.is_zero());
            let pixels = film.pixels(time.mseconds() / FRAME_MS);
            let mut expected =
                OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, 112, 112), vec![0; 3 * 112 * 112]).unwrap();
            let buffers = &mut WarpBuffers::default();
            align::warp(&view(&pixels), &origin.crop_from_frame, &mut expected.view_mut(), buffers).unwrap();
            assert_eq!(crop.map_readable().unwrap().as_slice(), expected.data(), "the crop at {time}");
        }
    });
}

#[test]
fn landmark_models_in_latest_mode_see_the_face_where_it_was_found() {
    let Some(file) = project::shared("models/landmarks68_faceplugin.onnx") else { return };
    with_watchdog(move || {
        let film = Film::new();
        let options = ModelOptions { task: ModelTask::Landmarks, ..ModelOptions::default() };
        let landmarker = Landmarker::new(&SharedModel::open(&file, &options).unwrap()).unwrap();
        let model = quoted(&file);
        let mut harness = Film::harness(&format!(
            "retinaface mode=latest max-age=0 ! facelandmarks model-file={model} name=landmarks"
        ));
        let points = |buffer: &gst::Buffer| {
            let faces = face_meta::read(buffer, (WIDTH, HEIGHT)).into_faces();
            faces.into_iter().next().filter(|face| !face.points.is_empty())
        };
        let frames = film.play(&mut harness, |frames| frames.iter().filter_map(points).count() >= 12);
        let mut shared = 0;
        for found in frames.iter().filter_map(|frame| Some((face_meta::read_analysed(frame)?, points(frame)?))) {
            let (analysed, Face { points, .. }) = found;
            let time = analysed.frame.buffer().unwrap().pts().unwrap();
            let face = Face { points: vec![], ..analysed.faces[0].face.clone() };
            let pixels = film.pixels(time.mseconds() / FRAME_MS);
            let expected = landmarker.find(&view(&pixels), &[face], &LandmarkSettings::default()).unwrap();
            let expected = expected.points[0].clone().unwrap();
            let distance = |(a, b): (&Point, &Point)| (a.x - b.x).hypot(a.y - b.y);
            let error = points.iter().zip(&expected).map(distance).fold(0.0, f32::max);
            assert!(error < 0.1, "the points of the frame at {time} are off by {error} pixels");
            shared += 1;
        }
        assert!(shared >= 12);
    });
}

#[test]
fn a_face_whose_frame_is_unknown_has_no_crop_and_the_remedy_is_told_once() {
    with_watchdog(|| {
        for element in ["facealign", "facelandmarks"] {
            common::init();
            let model = quoted(&project::root().join("tests/fixtures/models/landmarks68.onnx"));
            let properties = if element == "facealign" { String::new() } else { format!("model-file={model}") };
            let mut harness = Film::harness(&format!("{element} {properties}"));
            let bus = gst::Bus::new();
            harness.element().unwrap().set_bus(Some(&bus));
            for number in 0..3 {
                let frame_info = info(VideoFormat::Rgb, WIDTH as u32, HEIGHT as u32);
                let mut buffer = common::frame(&frame_info, number);
                let out = buffer.get_mut().unwrap();
                let faces = [face(0.9, 100.0, 40.0, 120.0, 140.0)];
                let known =
                    face_meta::AnalysedFrame::new(&common::frame(&frame_info, 0), &frame_info.to_caps().unwrap());
                face_meta::attach_aged(out, &faces, (WIDTH, HEIGHT), Duration::from_millis(80), &known).unwrap();
                gst::meta::CustomMeta::from_mut_buffer(out, face_meta::ANALYSED_META).unwrap().remove().unwrap();
                harness.push(buffer).unwrap();
            }
            let out = std::iter::from_fn(|| harness.try_pull()).collect::<Vec<_>>();
            let points = out.iter().flat_map(|frame| face_meta::read(frame, (WIDTH, HEIGHT)).into_faces());
            assert!(points.map(|face| face.points.len()).all(|count| count == 0), "{element}");
            assert_eq!(out.len(), if element == "facealign" { 0 } else { 3 });
            let warnings = std::iter::from_fn(|| bus.pop()).filter_map(|message| match message.view() {
                gst::MessageView::Warning(warning) => Some(warning.error().to_string()),
                _ => None,
            });
            let warnings = warnings.collect::<Vec<_>>();
            assert!(matches!(&warnings[..], [text] if text.contains("mode=sync")), "{element}: {warnings:?}");
        }
    });
}

#[test]
fn an_encoded_or_converted_stream_holds_no_earlier_frame() {
    with_watchdog(|| {
        for (element, is_held) in
            [("identity", true), ("videoconvert ! capsfilter caps=video/x-raw,format=I420", false), ("jpegenc", false)]
        {
            let mut harness = Film::harness(element);
            let frame_info = info(VideoFormat::Rgb, WIDTH as u32, HEIGHT as u32);
            let caps = frame_info.to_caps().unwrap();
            let earlier = face_meta::AnalysedFrame::new(&common::frame(&frame_info, 0), &caps);
            let mut buffer = common::frame(&frame_info, 2);
            let faces = [face(0.9, 100.0, 40.0, 120.0, 140.0)];
            let age = Duration::from_millis(80);
            face_meta::attach_aged(buffer.get_mut().unwrap(), &faces, (WIDTH, HEIGHT), age, &earlier).unwrap();
            let out = harness.push_and_pull(buffer).unwrap();
            assert_eq!(face_meta::analysis_number(&out), is_held.then_some(earlier.number()), "{element}");
            assert_eq!(face_meta::read_analysed(&out).is_some(), is_held, "{element}");
        }
    });
}

#[test]
fn latest_mode_asks_upstream_for_the_buffers_that_it_holds() {
    with_watchdog(|| {
        common::init();
        let min_buffers = |mode: &str| {
            let mut harness = gst_check::Harness::new_parse(&format!("retinaface mode={mode}"));
            let caps = info(VideoFormat::Rgb, 320, 180).to_caps().unwrap();
            harness.set_src_caps(caps.clone());
            let mut query = gst::query::Allocation::new(Some(&caps), true);
            harness.element().unwrap().static_pad("sink").unwrap().query(&mut query);
            query.allocation_pools().map(|(_, _, min, _)| min).max().unwrap_or(0)
        };
        assert!(min_buffers("latest") >= min_buffers("sync") + 3);
    });
}
