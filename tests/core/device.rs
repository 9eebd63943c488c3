//! The device graph, run on the CPU, finds the same faces as preprocessing and decoding on the CPU.

use crate::common;
use opencv::core::{Mat, Size};
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::imgproc;
use opencv::prelude::*;
use retinaface::detect::{Detection, DetectionSettings, Detector};
use retinaface::geometry::{InputSize, iou};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface::inference::{ModelOptions, Preprocessing, SharedModel};

/// The planes and strides of a photo with five faces, scaled to `width` x `height` and converted to
/// `format`. Rows are padded to a multiple of 64 bytes.
fn photo(format: PixelFormat, width: usize, height: usize) -> (Vec<Vec<u8>>, Vec<usize>) {
    let original = imread(common::media("multi_face.jpg"), IMREAD_COLOR).unwrap();
    let mut bgr = Mat::default();
    let size = Size::new(width as i32, height as i32);
    imgproc::resize(&original, &mut bgr, size, 0.0, 0.0, imgproc::INTER_AREA).unwrap();
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
            let (luma, chroma) = yuv.split_at(width * height);
            let (cb, cr) = chroma.split_at(width * height / 4);
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
    let (planes, strides) = photo(format, size.0, size.1);
    let planes = planes.iter().map(Vec::as_slice).collect::<Vec<_>>();
    let frame = ImageView::new(ImageInfo::new(format, size.0, size.1), &planes, &strides).unwrap();
    let settings = DetectionSettings { input_size: input, ..DetectionSettings::default() };
    Detector::new(model).detect(&frame, &settings).unwrap()
}

/// The default model with preprocessing on the CPU and in the device graph.
fn models() -> [std::sync::Arc<SharedModel>; 2] {
    [Preprocessing::Cpu, Preprocessing::Device].map(|preprocessing| {
        let options = ModelOptions { preprocessing, ..ModelOptions::default() };
        SharedModel::open(&common::default_model(), &options).unwrap()
    })
}

#[test]
fn device_graph_finds_same_faces_in_every_format() {
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
                // The device graph resizes chroma planes differently and does not round to 8 bits.
                assert!(
                    (face.score - same.score).abs() < 0.01,
                    "{format} {size:?}: {} is not {}",
                    face.score,
                    same.score
                );
                assert!(iou(face.rect, same.rect) > 0.97, "{format} {size:?}: {:?} is not {:?}", face.rect, same.rect);
                for (point, other) in face.landmarks.unwrap().iter().zip(same.landmarks.unwrap()) {
                    let distance = (point.x - other.x).abs().max((point.y - other.y).abs());
                    assert!(distance < 1.0, "{format} {size:?}: {point:?} is not {other:?}");
                }
            }
        }
    }
}

#[test]
fn device_graph_accepts_any_frame_size() {
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
