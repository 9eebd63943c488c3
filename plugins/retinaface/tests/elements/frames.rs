//! All elements accept any frame format, size and stride, and crop metas.

use crate::common::{self, clip, face, frame_with_faces, info, run, with_watchdog};
use gst_video::{VideoCropMeta, VideoFormat, VideoFrameFlags, VideoMeta};
use retinaface::geometry::{Face, Point};

const FORMATS: [&str; 9] = ["NV12", "I420", "RGB", "BGR", "RGBx", "BGRx", "RGBA", "BGRA", "GRAY8"];
const POST_DETECTION_ELEMENTS: [&str; 3] = ["facealign", "facemetaoverlay", "facemetapublish location=/dev/null"];

fn harness(description: &str, info: &gst_video::VideoInfo) -> gst_check::Harness {
    common::init();
    let mut harness = gst_check::Harness::new_parse(description);
    harness.set_src_caps(info.to_caps().unwrap());
    harness
}

#[test]
fn elements_accept_all_formats_from_16x16_to_8k() {
    with_watchdog(|| {
        for format in FORMATS.map(VideoFormat::from_string) {
            for (width, height) in [(16, 16), (17, 31), (321, 181)] {
                let info = info(format, width, height);
                let side = width.min(height) as f32;
                for element in POST_DETECTION_ELEMENTS {
                    let faces =
                        [face(0.9, 1.5, 2.5, side / 2.0, side / 2.0), face(0.8, -4.0, -5.0, side * 2.0, side * 3.0)];
                    let mut harness = harness(element, &info);
                    assert!(harness.push(frame_with_faces(&info, 0, &faces)).is_ok(), "{element} {info:?}");
                    assert!(harness.try_pull().is_some(), "{element} {info:?}");
                }
            }
        }
        for (format, width, height) in [(VideoFormat::Nv12, 7680, 4320), (VideoFormat::Bgra, 4320, 7680)] {
            let info = info(format, width, height);
            for element in POST_DETECTION_ELEMENTS {
                let mut harness = harness(element, &info);
                let out =
                    harness.push_and_pull(frame_with_faces(&info, 0, &[face(0.9, 3000.5, 2000.0, 1200.0, 1500.0)]));
                assert!(out.is_ok(), "{element} {info:?}");
            }
        }
    });
}

#[test]
fn crops_are_equal_for_all_formats() {
    with_watchdog(|| {
        let crops = |format: &str| {
            let photo = clip("multi_face.jpg");
            // Detection runs in BGR, so that all formats get the same landmarks.
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
            // 4:2:0 formats have a quarter of the chroma samples, and are converted twice.
            let max_difference = if matches!(format, "NV12" | "I420") { 3.0 } else { 0.01 };
            for (crop, expected) in crops(format).iter().zip(&expected) {
                assert_eq!(crop.len(), expected.len());
                let sum = crop.iter().zip(expected).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
                let difference = sum / crop.len() as f64;
                assert!(difference <= max_difference, "{format}: the mean difference is {difference} levels");
            }
        }
        let grey = crops("GRAY8");
        assert!(grey.iter().flat_map(|crop| crop.chunks(3)).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
    });
}

#[test]
fn a_crop_shows_the_displayed_face_whatever_the_pixel_aspect_ratio() {
    with_watchdog(|| {
        let photo = clip("single_face.jpg");
        let crop = |size: &str| {
            let samples = run(&format!(
                "filesrc location={photo} ! jpegdec ! videoscale add-borders=false ! video/x-raw,{size} ! retinaface \
                 ! facealign ! video/x-raw,format=RGB,pixel-aspect-ratio=1/1 ! appsink name=out"
            ));
            assert_eq!(samples.len(), 1, "{size}");
            let buffer = samples[0].buffer_owned().unwrap();
            let origin = face_meta::read_crop(&buffer).unwrap();
            (buffer.map_readable().unwrap().to_vec(), origin)
        };
        let (expected, square) = crop("width=572,height=562,pixel-aspect-ratio=1/1");
        for (size, ratio) in [
            ("width=286,height=562,pixel-aspect-ratio=2/1", (2, 1)),
            ("width=572,height=281,pixel-aspect-ratio=1/2", (1, 2)),
            ("width=429,height=562,pixel-aspect-ratio=4/3", (4, 3)),
        ] {
            let (pixels, origin) = crop(size);
            let sum = pixels.iter().zip(&expected).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
            let difference = sum / pixels.len() as f64;
            // A squeezed crop differs by more than 20.
            assert!(difference < 6.0, "{size}: the mean difference is {difference} levels");
            assert_eq!(origin.frame_size.pixel_aspect.parts(), ratio);
            assert!((origin.face.score - square.face.score).abs() < 0.01, "{size}: {}", origin.face.score);
        }
    });
}

#[test]
fn row_padding_does_not_change_the_result() {
    with_watchdog(|| {
        for (format, channels) in [(VideoFormat::Rgb, 3), (VideoFormat::Bgra, 4), (VideoFormat::Gray8, 1)] {
            let (width, height) = (101, 83);
            let info = info(format, width, height);
            let row = width as usize * channels;
            let padded_frame = |padding: usize| {
                let pixels = (0..height as usize)
                    .flat_map(|y| (0..row + padding).map(move |x| if x < row { (x * 7 + y * 13) as u8 } else { 0xEE }));
                let mut buffer = gst::Buffer::from_mut_slice(pixels.collect::<Vec<_>>());
                let out = buffer.get_mut().unwrap();
                let strides = [(row + padding) as i32];
                VideoMeta::add_full(out, VideoFrameFlags::empty(), format, width, height, &[0], &strides).unwrap();
                let faces = [face(0.9, 20.0, 10.0, 60.0, 60.0)];
                face_meta::attach(out, &faces, (width as usize, height as usize)).unwrap();
                buffer
            };
            let crop = |padding: usize| {
                let out = harness("facealign", &info).push_and_pull(padded_frame(padding)).unwrap();
                out.map_readable().unwrap().to_vec()
            };
            let drawn = |padding: usize| {
                let out = harness("facemetaoverlay", &info).push_and_pull(padded_frame(padding)).unwrap();
                let map = out.map_readable().unwrap();
                let rows = map.chunks(row + padding);
                assert!(
                    rows.clone().all(|line| line[row..].iter().all(|byte| *byte == 0xEE)),
                    "the padding is unchanged"
                );
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
fn crop_meta_with_odd_offset_moves_faces_and_crops() {
    with_watchdog(|| {
        for (format, max_difference) in [(VideoFormat::Rgb, 0.01), (VideoFormat::Nv12, 3.0)] {
            let photo = clip("multi_face.jpg");
            let name = format.to_str();
            let sample = &run(&format!(
                "filesrc location={photo} ! jpegdec ! videoconvert ! video/x-raw,format={name} ! retinaface ! appsink name=out"
            ))[0];
            let full_info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
            let faces = common::read_faces(sample);
            let crops_of = |info: &gst_video::VideoInfo, buffer: gst::Buffer| {
                let mut harness = harness("facealign", info);
                harness.push(buffer).unwrap();
                std::iter::from_fn(move || harness.try_pull()).collect::<Vec<_>>()
            };
            let full = crops_of(&full_info, sample.buffer_owned().unwrap());
            let (x, y, width, height) = (151, 41, 701, 501);
            let mut buffer = sample.buffer_owned().unwrap();
            let out = buffer.make_mut();
            let (offsets, strides) = (full_info.offset().to_vec(), full_info.stride().to_vec());
            VideoMeta::add_full(out, VideoFrameFlags::empty(), format, 1000, 667, &offsets, &strides).unwrap();
            VideoCropMeta::add(out, (x, y, width, height));
            let moved = faces.iter().map(|face| face.mapped(|p| Point::new(p.x - x as f32, p.y - y as f32)));
            let moved = moved.collect::<Vec<Face>>();
            face_meta::attach(out, &moved, (width as usize, height as usize)).unwrap();
            let colorimetry = full_info.colorimetry();
            let cropped_info =
                gst_video::VideoInfo::builder(format, width, height).colorimetry(&colorimetry).build().unwrap();
            let crops = crops_of(&cropped_info, buffer.clone());
            assert_eq!((crops.len(), full.len()), (5, 5));
            for (crop, full) in crops.iter().zip(&full) {
                let origin = face_meta::read_crop(crop).unwrap();
                assert_eq!(origin.frame_size, (width as usize, height as usize).into());
                let (pixels, expected) = (crop.map_readable().unwrap(), full.map_readable().unwrap());
                let sum = pixels.iter().zip(expected.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
                let difference = sum / pixels.len() as f64;
                // Pixels outside the crop rectangle are black: compare only faces inside it.
                let inside = origin.face.rect.x > 60.0 && origin.face.rect.y > 60.0 && origin.face.rect.right() < 640.0;
                assert!(!inside || difference <= max_difference, "{name}: the mean difference is {difference} levels");
            }
            // The published coordinates are relative to the crop rectangle, too.
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("faces.jsonl");
            let description = format!("facemetapublish location={}", common::quoted(&file));
            harness(&description, &cropped_info).push_and_pull(buffer).unwrap();
            let line = serde_json::from_str::<serde_json::Value>(&std::fs::read_to_string(file).unwrap()).unwrap();
            assert_eq!((line["width"].as_u64(), line["height"].as_u64()), (Some(701), Some(501)));
            let box_x = line["faces"][0]["box"]["x"].as_f64().unwrap();
            assert!((box_x - f64::from(moved[0].rect.x)).abs() < 1e-3);
        }
    });
}
