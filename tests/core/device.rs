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
        PixelFormat::Argb | PixelFormat::Xrgb => {
            let bgra = converted(imgproc::COLOR_BGR2BGRA);
            vec![bgra.as_chunks::<4>().0.iter().flat_map(|[b, g, r, a]| [*a, *r, *g, *b]).collect()]
        }
        _ => {
            let yuv = converted(imgproc::COLOR_BGR2YUV_I420);
            let (luma, chroma) = yuv.split_at(width * height);
            let (cb, cr) = chroma.split_at(width * height / 4);
            let at = |row: usize, col: usize| row / 2 * (width / 2) + col / 2;
            // Cb and Cr of each pixel.
            let pixels = (0..width * height).map(|i| at(i / width, i % width)).map(|at| (cb[at], cr[at]));
            let pairs = |step: (usize, usize)| {
                let wanted = move |i: &usize| (i / width).is_multiple_of(step.1) && (i % width).is_multiple_of(step.0);
                pixels.clone().enumerate().filter(move |(i, _)| wanted(i)).map(|(_, pair)| pair).collect::<Vec<_>>()
            };
            let planar = |pairs: Vec<(u8, u8)>| {
                let (cb, cr) = pairs.into_iter().unzip();
                [luma.to_vec(), cb, cr]
            };
            let semi_planar = |pairs: Vec<(u8, u8)>, swap: bool| {
                let chroma = pairs.into_iter().flat_map(|(cb, cr)| if swap { [cr, cb] } else { [cb, cr] });
                vec![luma.to_vec(), chroma.collect()]
            };
            match format {
                PixelFormat::I420 => planar(pairs((2, 2))).to_vec(),
                PixelFormat::Yv12 => {
                    let [luma, cb, cr] = planar(pairs((2, 2)));
                    vec![luma, cr, cb]
                }
                PixelFormat::Nv12 | PixelFormat::Nv21 => semi_planar(pairs((2, 2)), format == PixelFormat::Nv21),
                PixelFormat::Nv16 | PixelFormat::Nv61 => semi_planar(pairs((2, 1)), format == PixelFormat::Nv61),
                PixelFormat::Nv24 => semi_planar(pairs((1, 1)), false),
                PixelFormat::Y42b => planar(pairs((2, 1))).to_vec(),
                PixelFormat::Y444 => planar(pairs((1, 1))).to_vec(),
                PixelFormat::Yuy2 => {
                    let pixels = luma.as_chunks::<2>().0.iter().zip(pairs((2, 1)));
                    vec![pixels.flat_map(|([first, second], (cb, cr))| [*first, cb, *second, cr]).collect()]
                }
                // The lowest bits are set, which rounding to 8 bits must not carry.
                PixelFormat::P010 => {
                    let word = |value: u8| (u16::from(value) << 8 | 0x40).to_le_bytes();
                    let chroma = pairs((2, 2)).into_iter().flat_map(|(cb, cr)| [word(cb), word(cr)]).flatten();
                    vec![luma.iter().flat_map(|value| word(*value)).collect(), chroma.collect()]
                }
                other => unreachable!("{other} is not tested here"),
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

/// Formats of each kind: planes that are processed as they are, in each order and with each common
/// subsampling, and formats that are converted to such planes.
const FORMATS: [PixelFormat; 20] = [
    PixelFormat::Nv12,
    PixelFormat::I420,
    PixelFormat::Rgb,
    PixelFormat::Bgr,
    PixelFormat::Rgbx,
    PixelFormat::Bgrx,
    PixelFormat::Rgba,
    PixelFormat::Bgra,
    PixelFormat::Gray8,
    PixelFormat::Nv21,
    PixelFormat::Yv12,
    PixelFormat::Nv16,
    PixelFormat::Nv61,
    PixelFormat::Nv24,
    PixelFormat::Y42b,
    PixelFormat::Y444,
    PixelFormat::Argb,
    PixelFormat::Xrgb,
    PixelFormat::Yuy2,
    PixelFormat::P010,
];

#[test]
fn device_graph_finds_same_faces_in_every_format() {
    let [cpu, device] = models();
    for format in FORMATS {
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
