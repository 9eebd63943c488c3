//! The graph that a GPU is given, run on the CPU: it finds what the way over the CPU's own preprocessing finds.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use opencv::core::{Mat, Size};
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::imgproc;
use opencv::prelude::*;
use retinaface::detector::{Detection, Detector, Settings, SharedModel};
use retinaface::face::iou;
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface::letterbox::InputSize;
use retinaface::model::{Options, Preprocessing};

mod common;

/// A photo of five faces in `format`, `width` x `height`, with rows padded to a multiple of 64 bytes.
fn picture(format: PixelFormat, width: usize, height: usize) -> (Vec<Vec<u8>>, Vec<usize>) {
    let photo = imread(common::media("multi_face.jpg"), IMREAD_COLOR).unwrap();
    let mut bgr = Mat::default();
    let size = Size::new(width as i32, height as i32);
    imgproc::resize(&photo, &mut bgr, size, 0.0, 0.0, imgproc::INTER_AREA).unwrap();
    let converted = |code| {
        let mut other = Mat::default();
        imgproc::cvt_color(&bgr, &mut other, code, 0).unwrap();
        other.data_bytes().unwrap().to_vec()
    };
    let planes = match format {
        PixelFormat::Bgr => vec![bgr.data_bytes().unwrap().to_vec()],
        PixelFormat::Rgb => vec![converted(imgproc::COLOR_BGR2RGB)],
        PixelFormat::Bgrx | PixelFormat::Bgra => vec![converted(imgproc::COLOR_BGR2BGRA)],
        PixelFormat::Rgbx | PixelFormat::Rgba => vec![converted(imgproc::COLOR_BGR2RGBA)],
        PixelFormat::Gray8 => vec![converted(imgproc::COLOR_BGR2GRAY)],
        PixelFormat::I420 | PixelFormat::Nv12 => {
            let yuv = converted(imgproc::COLOR_BGR2YUV_I420);
            let (luma, colour) = yuv.split_at(width * height);
            let (cb, cr) = colour.split_at(width * height / 4);
            if format == PixelFormat::I420 {
                vec![luma.to_vec(), cb.to_vec(), cr.to_vec()]
            } else {
                vec![luma.to_vec(), cb.iter().zip(cr).flat_map(|(cb, cr)| [*cb, *cr]).collect()]
            }
        }
    };
    let padded = planes.into_iter().enumerate().map(|(plane, bytes)| {
        let (row, _) = format.plane_bytes(plane, width, height);
        let stride = row.next_multiple_of(64);
        let rows = bytes.chunks(row).flat_map(|row| [row, &vec![0xAA; stride - row.len()]].concat());
        (rows.collect::<Vec<_>>(), stride)
    });
    padded.unzip()
}

fn detect(
    model: &std::sync::Arc<SharedModel>,
    format: PixelFormat,
    size: (usize, usize),
    input: InputSize,
) -> Detection {
    let (planes, strides) = picture(format, size.0, size.1);
    let planes = planes.iter().map(Vec::as_slice).collect::<Vec<_>>();
    let frame = ImageView::new(ImageInfo::new(format, size.0, size.1), &planes, &strides).unwrap();
    let settings = Settings { input_size: input, ..Settings::default() };
    Detector::new(model).detect(&frame, &settings).unwrap()
}

fn models() -> [std::sync::Arc<SharedModel>; 2] {
    [Preprocessing::Cpu, Preprocessing::Device].map(|preprocessing| {
        let options = Options { preprocessing, ..Options::default() };
        SharedModel::open(&common::default_model(), &options).unwrap()
    })
}

#[test]
fn every_format_gives_the_faces_that_the_way_over_the_cpu_gives() {
    let [cpu, device] = models();
    for format in PixelFormat::ALL {
        for (size, input) in [((1280, 720), InputSize::Longest(640)), ((640, 360), InputSize::Native)] {
            let [expected, found] = [&cpu, &device].map(|model| detect(model, format, size, input));
            assert_eq!(expected.faces.len(), 5, "{format} {size:?}");
            assert_eq!(found.faces.len(), 5, "{format} {size:?}: {:?}", found.faces);
            for face in &found.faces {
                let same =
                    expected.faces.iter().max_by(|a, b| iou(a.rect, face.rect).total_cmp(&iou(b.rect, face.rect)));
                let same = same.unwrap();
                // Colour at half the resolution, and what rounding to 8 bits in between does.
                assert!(
                    (face.score - same.score).abs() < 0.01,
                    "{format} {size:?}: {} is not {}",
                    face.score,
                    same.score
                );
                assert!(iou(face.rect, same.rect) > 0.97, "{format} {size:?}: {:?} is not {:?}", face.rect, same.rect);
                for (point, other) in face.landmarks.unwrap().iter().zip(same.landmarks.unwrap()) {
                    let off = (point.x - other.x).abs().max((point.y - other.y).abs());
                    assert!(off < 1.0, "{format} {size:?}: {point:?} is not {other:?}");
                }
            }
        }
    }
}

#[test]
fn frames_of_any_shape_fit_the_graph() {
    let [cpu, device] = models();
    for size in [(16, 16), (322, 182), (1918, 1080), (360, 640), (854, 480)] {
        for input in [160, 416, 640] {
            let [expected, found] =
                [&cpu, &device].map(|model| detect(model, PixelFormat::Nv12, size, InputSize::Longest(input)));
            let (expected, found) = (expected.faces.len(), found.faces.len());
            assert!(expected.abs_diff(found) <= 1, "{size:?} at {input}: {found} faces instead of {expected}");
        }
    }
}
