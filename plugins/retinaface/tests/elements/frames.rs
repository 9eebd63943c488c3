//! What all elements promise of frames: any format, any size, any stride, and crop metas.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use gst_video::{VideoCropMeta, VideoFormat, VideoFrameFlags, VideoMeta};
use retinaface::face::{Face, Point};

mod common;
use common::{clip, face, frame_with, info, run, watched};

const FORMATS: [&str; 9] = ["NV12", "I420", "RGB", "BGR", "RGBx", "BGRx", "RGBA", "BGRA", "GRAY8"];
const AFTER_DETECTION: [&str; 3] = ["facealign", "facemetaoverlay", "facemetapublish location=/dev/null"];

fn harness(description: &str, info: &gst_video::VideoInfo) -> gst_check::Harness {
    common::init();
    let mut harness = gst_check::Harness::new_parse(description);
    harness.set_src_caps(info.to_caps().unwrap());
    harness
}

#[test]
fn every_element_takes_every_format_from_16_by_16_to_8k_and_odd_sizes() {
    watched(|| {
        for format in FORMATS.map(VideoFormat::from_string) {
            for (width, height) in [(16, 16), (17, 31), (321, 181)] {
                let info = info(format, width, height);
                let side = width.min(height) as f32;
                for element in AFTER_DETECTION {
                    let faces =
                        [face(0.9, 1.5, 2.5, side / 2.0, side / 2.0), face(0.8, -4.0, -5.0, side * 2.0, side * 3.0)];
                    let mut harness = harness(element, &info);
                    assert!(harness.push(frame_with(&info, 0, &faces)).is_ok(), "{element} {info:?}");
                    assert!(harness.try_pull().is_some(), "{element} {info:?}");
                }
            }
        }
        for (format, width, height) in [(VideoFormat::Nv12, 7680, 4320), (VideoFormat::Bgra, 4320, 7680)] {
            let info = info(format, width, height);
            for element in AFTER_DETECTION {
                let mut harness = harness(element, &info);
                let out = harness.push_and_pull(frame_with(&info, 0, &[face(0.9, 3000.5, 2000.0, 1200.0, 1500.0)]));
                assert!(out.is_ok(), "{element} {info:?}");
            }
        }
    });
}

#[test]
fn crops_look_the_same_from_each_format() {
    watched(|| {
        let crops = |format: &str| {
            let photo = clip("multi_face.jpg");
            // Detected once in BGR, so that each format is given the same landmarks.
            let samples = run(&format!(
                "filesrc location={photo} ! jpegdec ! videoconvert ! video/x-raw,format=BGR ! retinaface \
                 ! videoconvert ! video/x-raw,format={format} ! facealign ! video/x-raw,format=RGB ! appsink name=out"
            ));
            let pixels = |sample: &gst::Sample| sample.buffer().unwrap().map_readable().unwrap().to_vec();
            samples.iter().map(pixels).collect::<Vec<_>>()
        };
        let expected = crops("BGR");
        assert_eq!(expected.len(), 5);
        for format in FORMATS.into_iter().filter(|format| *format != "GRAY8") {
            // 4:2:0 has a quarter of the colour, and is converted twice.
            let most = if matches!(format, "NV12" | "I420") { 3.0 } else { 0.01 };
            for (is, should) in crops(format).iter().zip(&expected) {
                assert_eq!(is.len(), should.len());
                let off = is.iter().zip(should).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / is.len() as f64;
                assert!(off <= most, "{format}: {off} levels off on average");
            }
        }
        let grey = crops("GRAY8");
        assert!(grey.iter().flat_map(|crop| crop.chunks(3)).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
    });
}

#[test]
fn rows_with_padding_change_nothing() {
    watched(|| {
        for (format, channels) in [(VideoFormat::Rgb, 3), (VideoFormat::Bgra, 4), (VideoFormat::Gray8, 1)] {
            let (width, height) = (101, 83);
            let info = info(format, width, height);
            let row = width as usize * channels;
            let framed = |padding: usize| {
                let pixels = (0..height as usize)
                    .flat_map(|y| (0..row + padding).map(move |x| if x < row { (x * 7 + y * 13) as u8 } else { 0xEE }));
                let mut buffer = gst::Buffer::from_mut_slice(pixels.collect::<Vec<_>>());
                let out = buffer.get_mut().unwrap();
                let strides = [(row + padding) as i32];
                VideoMeta::add_full(out, VideoFrameFlags::empty(), format, width, height, &[0], &strides).unwrap();
                let faces = [face(0.9, 20.0, 10.0, 60.0, 60.0)];
                gstretinaface::meta::attach(out, &faces, (width as usize, height as usize)).unwrap();
                buffer
            };
            let crop = |padding: usize| {
                let out = harness("facealign", &info).push_and_pull(framed(padding)).unwrap();
                out.map_readable().unwrap().to_vec()
            };
            let drawn = |padding: usize| {
                let out = harness("facemetaoverlay", &info).push_and_pull(framed(padding)).unwrap();
                let map = out.map_readable().unwrap();
                let rows = map.chunks(row + padding);
                assert!(rows.clone().all(|line| line[row..].iter().all(|byte| *byte == 0xEE)), "padding is untouched");
                rows.flat_map(|line| line[..row].to_vec()).collect::<Vec<_>>()
            };
            for padding in [1, 13, 64] {
                assert_eq!(crop(padding), crop(0), "{format:?} {padding}");
                assert_eq!(drawn(padding), drawn(0), "{format:?} {padding}");
            }
        }
    });
}

#[test]
fn crop_metas_are_where_faces_and_crops_come_from_even_at_odd_corners() {
    watched(|| {
        for (format, most) in [(VideoFormat::Rgb, 0.01), (VideoFormat::Nv12, 3.0)] {
            let photo = clip("multi_face.jpg");
            let name = format.to_str();
            let sample = &run(&format!(
                "filesrc location={photo} ! jpegdec ! videoconvert ! video/x-raw,format={name} ! retinaface ! appsink name=out"
            ))[0];
            let whole_info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
            let faces = common::faces_on(sample);
            let crops_of = |info: &gst_video::VideoInfo, buffer: gst::Buffer| {
                let mut harness = harness("facealign", info);
                harness.push(buffer).unwrap();
                std::iter::from_fn(move || harness.try_pull()).collect::<Vec<_>>()
            };
            let whole = crops_of(&whole_info, sample.buffer_owned().unwrap());
            let (x, y, width, height) = (151, 41, 701, 501);
            let mut buffer = sample.buffer_owned().unwrap();
            let out = buffer.make_mut();
            let (offsets, strides) = (whole_info.offset().to_vec(), whole_info.stride().to_vec());
            VideoMeta::add_full(out, VideoFrameFlags::empty(), format, 1000, 667, &offsets, &strides).unwrap();
            VideoCropMeta::add(out, (x, y, width, height));
            let moved = faces.iter().map(|face| face.mapped(|p| Point::new(p.x - x as f32, p.y - y as f32)));
            let moved = moved.collect::<Vec<Face>>();
            gstretinaface::meta::attach(out, &moved, (width as usize, height as usize)).unwrap();
            let colorimetry = whole_info.colorimetry();
            let cropped_info =
                gst_video::VideoInfo::builder(format, width, height).colorimetry(&colorimetry).build().unwrap();
            let crops = crops_of(&cropped_info, buffer.clone());
            assert_eq!((crops.len(), whole.len()), (5, 5));
            for (crop, whole) in crops.iter().zip(&whole) {
                let origin = gstretinaface::meta::read_crop(crop).unwrap();
                assert_eq!(origin.frame_size, (width, height));
                let (is, should) = (crop.map_readable().unwrap(), whole.map_readable().unwrap());
                let off =
                    is.iter().zip(should.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / is.len() as f64;
                // A face at the crop's edge is black beyond it: compare those that lie within.
                let inside = origin.face.rect.x > 60.0 && origin.face.rect.y > 60.0 && origin.face.rect.right() < 640.0;
                assert!(!inside || off <= most, "{name}: {off} levels off on average");
            }
            // The line counts in the crop's pixels, too.
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("faces.jsonl");
            let description = format!("facemetapublish location={}", common::quoted(&file));
            harness(&description, &cropped_info).push_and_pull(buffer).unwrap();
            let line = serde_json::from_str::<serde_json::Value>(&std::fs::read_to_string(file).unwrap()).unwrap();
            assert_eq!((line["width"].as_u64(), line["height"].as_u64()), (Some(701), Some(501)));
            let box_x = line["faces"][0]["box"]["x"].as_f64().unwrap();
            assert!((box_x - f64::from(moved[0].rect.x)).abs() < 1e-3);
        }
    });
}
