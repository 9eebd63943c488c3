//! All elements accept any frame format, size and stride, and crop metas.

use crate::common::{self, clip, face, frame_with_faces, info, run, with_watchdog};
use gst_video::prelude::VideoBufferExt;
use gst_video::{VideoBufferFlags, VideoCropMeta, VideoFormat, VideoFrameFlags, VideoMeta};
use retinaface::geometry::{Face, Point};
use retinaface::image::PixelFormat;

/// All formats that the running GStreamer knows.
pub(crate) fn formats() -> Vec<VideoFormat> {
    common::init();
    let formats = PixelFormat::ALL.map(|format| VideoFormat::from_string(format.name()));
    let known = formats.into_iter().filter(|format| *format != VideoFormat::Unknown).collect::<Vec<_>>();
    assert!(known.len() > 70, "{} formats", known.len());
    known
}

fn pixel_format(format: VideoFormat) -> PixelFormat {
    PixelFormat::from_name(format.to_str()).unwrap()
}

const POST_DETECTION_ELEMENTS: [&str; 5] =
    ["facealign", "facemetaoverlay", "faceredact", "facetrack", "facemetapublish location=/dev/null"];

fn harness(description: &str, info: &gst_video::VideoInfo) -> gst_check::Harness {
    common::init();
    let mut harness = gst_check::Harness::new_parse(description);
    harness.set_src_caps(info.to_caps().unwrap());
    harness
}

#[test]
fn elements_accept_all_formats_from_16x16_to_8k() {
    with_watchdog(|| {
        for format in formats() {
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
        let model = common::quoted(&common::project::root().join("tests/fixtures/models/landmarks68.onnx"));
        let mut landmarks = gst_check::Harness::new_parse(&format!("facelandmarks model-file={model}"));
        for format in formats() {
            let info = info(format, 65, 49);
            landmarks.set_src_caps(info.to_caps().unwrap());
            let out = landmarks.push_and_pull(frame_with_faces(&info, 0, &[face(0.9, 10.5, 5.0, 30.0, 40.0)])).unwrap();
            let sample = gst::Sample::builder().buffer(&out).caps(&info.to_caps().unwrap()).build();
            assert_eq!(common::read_faces(&sample)[0].points.len(), 68, "{format:?}");
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

/// A photo in BGR with its faces.
fn photo_with_faces() -> gst::Sample {
    let photo = clip("multi_face.jpg");
    let mut samples = run(&format!(
        "filesrc location={photo} ! jpegdec ! videoconvert ! video/x-raw,format=BGR ! retinaface ! appsink name=out"
    ));
    samples.remove(0)
}

/// The bytes of what leaves `elements` for a sample with the caps fields `extra`.
fn outputs(elements: &str, sample: &gst::Sample, extra: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let mut harness = gst_check::Harness::new_parse(elements);
    let mut caps = sample.caps_owned().unwrap();
    for (name, value) in extra {
        caps.make_mut().structure_mut(0).unwrap().set(*name, *value);
    }
    harness.set_src_caps(caps);
    harness.push(sample.buffer_owned().unwrap()).unwrap_or_else(|error| panic!("{elements}: {error}"));
    std::iter::from_fn(move || harness.try_pull()).map(|buffer| buffer.map_readable().unwrap().to_vec()).collect()
}

/// The mean difference of the bytes of two lists of crops.
fn mean_difference(found: &[Vec<u8>], expected: &[Vec<u8>]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    let (sum, count) = pairs.fold((0.0, 0.0), |(sum, count), (a, b)| (sum + f64::from(a.abs_diff(*b)), count + 1.0));
    sum / count
}

/// The largest mean difference, in levels, between a crop in this format and one after
/// `videoconvert`. It converts 8-bit YUV in steps that lose up to 3 levels, interpolates chroma
/// differently, and repeats the bits of RGB15.
fn tolerance(format: VideoFormat) -> f64 {
    let name = format.to_str();
    let is_deep = name.contains('_') || name == "Y210" || name == "Y410";
    match (pixel_format(format).is_yuv(), is_deep) {
        (true, false) => 3.0,
        (true, true) => 1.5,
        (false, _) => 0.6,
    }
}

/// Whether `videoconvert` is not that of GStreamer 1.22, with which the limits were measured.
fn has_new_videoconvert() -> bool {
    gst::version() >= (1, 26, 0, 0)
}

#[test]
fn crops_of_all_formats_equal_those_after_videoconvert() {
    with_watchdog(|| {
        let photo = photo_with_faces();
        let expected = outputs("facealign", &photo, &[]);
        assert_eq!(expected.len(), 5);
        for format in formats() {
            let name = format.to_str();
            let convert = format!("videoconvert dither=none ! video/x-raw,format={name}");
            let crops = outputs(&format!("{convert} ! facealign"), &photo, &[]);
            let converted = outputs(
                &format!("{convert} ! videoconvert dither=none ! video/x-raw,format=RGB ! facealign"),
                &photo,
                &[],
            );
            let difference = mean_difference(&crops, &converted);
            let tolerance = tolerance(format);
            assert!(difference <= tolerance, "{name}: {difference} levels from the crops after videoconvert");
            // Colours are lost by luma alone, and by the palette that videoconvert makes.
            if !name.starts_with("GRAY") && name != "RGB8P" {
                let difference = mean_difference(&crops, &expected);
                // videoconvert 1.26 makes Y41B with other chroma than 1.22, by up to 30 levels.
                let limit = if name == "Y41B" && has_new_videoconvert() { 2.8 } else { 2.5 };
                assert!(difference <= limit, "{name}: {difference} levels from the crops of BGR");
            }
        }
        let gray = outputs("videoconvert ! video/x-raw,format=GRAY8 ! facealign", &photo, &[]);
        assert!(gray.iter().flat_map(|crop| crop.chunks(3)).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
    });
}

#[test]
fn ranges_matrices_and_interlaced_chroma_follow_the_caps() {
    with_watchdog(|| {
        let photo = photo_with_faces();
        for name in
            ["NV12", "I420", "YV12", "YUY2", "Y42B", "Y444", "AYUV", "P010_10LE", "I420_10LE", "I422_12LE", "Y410"]
        {
            // BT.601, BT.709 and BT.2020 in limited range, BT.601 and BT.709 in full range.
            for colorimetry in ["2:4:5:4", "2:3:5:1", "2:6:13:7", "1:4:0:1", "1:3:5:1"] {
                for interlace_mode in ["progressive", "interleaved", "mixed"] {
                    let format = format!("video/x-raw,format={name},colorimetry={colorimetry}");
                    let convert = format!("videoconvert dither=none ! {format}");
                    let extra = [("interlace-mode", interlace_mode)];
                    let crops = outputs(&format!("{convert} ! facealign"), &photo, &extra);
                    let back = "videoconvert dither=none ! video/x-raw,format=RGB,colorimetry=sRGB";
                    let expected = outputs(&format!("{convert} ! {back} ! facealign"), &photo, &extra);
                    let difference = mean_difference(&crops, &expected);
                    // videoconvert 1.26 loses more on the way through P010 in BT.2020, 1.21 levels
                    // instead of 1.14 if interlaced.
                    let is_lossy = has_new_videoconvert() && name == "P010_10LE" && colorimetry == "2:6:13:7";
                    let tolerance = tolerance(VideoFormat::from_string(name)) + if is_lossy { 0.1 } else { 0.0 };
                    assert!(difference <= tolerance, "{format} {interlace_mode}: {difference} levels");
                }
            }
        }
    });
}

#[test]
fn chroma_of_interlaced_frames_is_that_of_the_line() {
    with_watchdog(|| {
        common::init();
        // The lines of one field are red, those of the other one blue.
        let (width, height) = (128, 128);
        let pixels = (0..width * height).flat_map(|at| if at / width % 2 == 0 { [255, 0, 0] } else { [0, 0, 255] });
        let pixels = pixels.collect::<Vec<u8>>();
        let info = info(VideoFormat::Rgb, width as u32, height as u32);
        // The mean difference of red in adjacent lines of a crop at the scale of the frame.
        let lines_differ = |format: &str, interlace_mode: &str, flags: VideoBufferFlags| {
            let mut buffer = gst::Buffer::from_slice(pixels.clone());
            let out = buffer.get_mut().unwrap();
            out.set_video_flags(flags);
            let faces = [face(0.9, 8.0, 8.0, 112.0, 112.0)];
            face_meta::attach(out, &faces, (width, height)).unwrap();
            let sample = gst::Sample::builder().buffer(&buffer).caps(&info.to_caps().unwrap()).build();
            let elements = format!("videoconvert ! video/x-raw,format={format} ! facealign");
            let crop = outputs(&elements, &sample, &[("interlace-mode", interlace_mode)]).remove(0);
            let red = |line: usize| f64::from(crop[(line * 112 + 56) * 3]);
            (40..60).map(|line| (red(line) - red(line + 1)).abs()).sum::<f64>() / 20.0
        };
        let (marked, unmarked) = (VideoBufferFlags::INTERLACED, VideoBufferFlags::empty());
        for format in ["NV12", "I420", "P010_10LE", "I420_12LE", "YUV9"] {
            for (interlace_mode, flags) in [("interleaved", marked), ("interleaved", unmarked), ("mixed", marked)] {
                let difference = lines_differ(format, interlace_mode, flags);
                assert!(difference > 200.0, "{format} {interlace_mode} {flags:?}: {difference}");
            }
            for interlace_mode in ["progressive", "mixed"] {
                let difference = lines_differ(format, interlace_mode, unmarked);
                assert!(difference < 120.0, "{format} {interlace_mode}: {difference}");
            }
        }
    });
}

#[test]
fn every_format_of_the_documented_elements_is_taken() {
    let text = std::fs::read_to_string(common::project::root().join("docs/formats.md")).unwrap();
    let table = text.split_once("| element |").unwrap().1.split_once("\n\n").unwrap().0;
    let rows = table.lines().skip(2).filter_map(|row| row.split('|').nth(3));
    let mut count = 0;
    for name in rows.flat_map(|formats| formats.split([',', ' '])).map(|name| name.trim_matches('`')) {
        if !name.is_empty() {
            count += 1;
            assert!(PixelFormat::from_name(name).is_some(), "{name} is in the table of docs/formats.md");
        }
    }
    assert!(count > 100, "{count} formats in the table");
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
        let single_plane = formats().into_iter().filter(|format| pixel_format(*format).planes() == 1);
        for format in single_plane {
            let (width, height) = (101, 83);
            let info = info(format, width, height);
            let (row, _) = pixel_format(format).plane_bytes(0, width as usize, 1);
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
fn a_plane_must_lie_within_the_memory_in_which_it_starts() {
    with_watchdog(|| {
        let info = info(VideoFormat::Nv12, 64, 48);
        let pushed = |parts: &[usize], element: &str| {
            let mut buffer = frame_with_faces(&info, 0, &[face(0.9, 10.0, 10.0, 30.0, 30.0)]);
            let out = buffer.get_mut().unwrap();
            out.remove_all_memory();
            parts.iter().for_each(|size| out.append_memory(gst::Memory::from_mut_slice(vec![90u8; *size])));
            let (flags, format) = (VideoFrameFlags::empty(), info.format());
            VideoMeta::add_full(out, flags, format, 64, 48, info.offset(), info.stride()).unwrap();
            harness(element, &info).push(buffer)
        };
        let (luma, chroma) = (64 * 48, 64 * 24);
        for element in ["facealign", "facemetaoverlay", "retinaface"] {
            // One memory per plane, as of a DMABuf, and one for both.
            assert!(pushed(&[luma, chroma], element).is_ok(), "{element}");
            assert!(pushed(&[luma + chroma], element).is_ok(), "{element}");
            // GStreamer maps only the memory in which a plane starts.
            assert!(pushed(&[luma / 2, luma / 2, chroma], element).is_err(), "{element}");
            assert!(pushed(&[luma, chroma / 2, chroma / 2], element).is_err(), "{element}");
        }
    });
}

#[test]
fn crop_meta_with_odd_offset_moves_faces_and_crops() {
    with_watchdog(|| {
        for (format, max_difference) in [
            (VideoFormat::Rgb, 0.01),
            (VideoFormat::Nv12, 3.0),
            (VideoFormat::Nv16, 3.0),
            (VideoFormat::Yuy2, 3.0),
            (VideoFormat::P01010le, 3.0),
            (VideoFormat::I42210le, 3.0),
            (VideoFormat::Gbr, 0.01),
            (VideoFormat::Y410, 0.01),
        ] {
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
