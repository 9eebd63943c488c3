//! Each stage around the model, and the model itself.
//!
//! Unless a name says otherwise: one 1920 x 1080 NV12 frame, `input-size` 640, the default model.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may panic; criterion_main! has no docs")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use opencv::core::Mat;
use opencv::imgcodecs::{IMREAD_COLOR, imread};
use opencv::imgproc;
use opencv::prelude::*;
use retinaface::crops::FaceQuality;
use retinaface::crops::align;
use retinaface::crops::align::WarpBuffers;
use retinaface::detect::{Decoded, DetectionSettings, Detector, PreprocessBuffers, decode, fill_input};
use retinaface::geometry::{InputSize, Letterbox, PixelAspect, Rect, nms};
use retinaface::image::{
    ImageInfo, ImageView, ImageViewMut, OverlayBuffers, OverlayStyle, OwnedImage, PixelFormat, RedactedArea,
    RedactionBuffers, RedactionMethod, RedactionShape, RedactionStyle, draw_faces, redact, redact_all,
};
use retinaface::inference::{HeadOutputs, InputSpec, Model, ModelOptions, RunOutput, SharedModel};

#[path = "../tests/common/mod.rs"]
mod common;

/// multi_face.jpg scaled to 1920 x 1080, as NV12 planes.
fn frame() -> [Vec<u8>; 2] {
    let photo = imread(common::media("multi_face.jpg"), IMREAD_COLOR).unwrap();
    let mut large = Mat::default();
    imgproc::resize(&photo, &mut large, opencv::core::Size::new(1920, 1080), 0.0, 0.0, imgproc::INTER_CUBIC).unwrap();
    let mut yuv = Mat::default();
    imgproc::cvt_color(&large, &mut yuv, imgproc::COLOR_BGR2YUV_I420, 0).unwrap();
    let planes = yuv.data_bytes().unwrap();
    let (luma, chroma) = planes.split_at(1920 * 1080);
    let (cb, cr) = chroma.split_at(960 * 540);
    [luma.to_vec(), cb.iter().zip(cr).flat_map(|(cb, cr)| [*cb, *cr]).collect()]
}

fn view(planes: &[Vec<u8>; 2]) -> ImageView<'_> {
    ImageView::new(ImageInfo::new(PixelFormat::Nv12, 1920, 1080), &[&planes[0], &planes[1]], &[1920, 1920]).unwrap()
}

fn stages(c: &mut Criterion) {
    let planes = frame();
    let frame = view(&planes);
    let letterbox = Letterbox::new((1920, 1080), InputSize::Longest(640));
    let (width, height) = letterbox.input();
    let mut model = Model::open(&common::default_model(), &ModelOptions::default()).unwrap();
    let normalization = model.spec().normalization;
    let mut tensors = model.allocator().tensors(InputSpec::Floats { width, height }).unwrap();
    let mut scratch = PreprocessBuffers::default();
    let settings = DetectionSettings::default();
    let layout = model.spec().layout().unwrap().clone();
    let all = |heads: HeadOutputs<'_>| -> Decoded {
        decode(&layout, (width, height), heads.values(), settings.score_threshold)
    };

    let mut group = c.benchmark_group("frame");
    group.sample_size(60);
    group.bench_function("preprocess", |b| {
        b.iter(|| {
            let input = tensors.floats().unwrap();
            fill_input(&frame, &letterbox, &normalization, black_box(input), &mut scratch).unwrap();
        });
    });
    group.bench_function("model", |b| b.iter(|| model.run(black_box(std::slice::from_mut(&mut tensors))).unwrap()));
    let heads = || match tensors.output().unwrap() {
        RunOutput::Heads(heads) => heads,
        RunOutput::Candidates(_) => unreachable!("the input is floats"),
    };
    group.bench_function("decode_nms", |b| {
        b.iter(|| nms(all(heads()).candidates, settings.iou_threshold));
    });
    let detector = Detector::new(&SharedModel::open(&common::default_model(), &ModelOptions::default()).unwrap());
    group.bench_function("detect", |b| b.iter(|| detector.detect(black_box(&frame), &settings).unwrap()));
    let faces = detector.detect(&frame, &settings).unwrap().faces;
    assert_eq!(faces.len(), 5);

    let landmarks = faces[0].landmarks.unwrap();
    let mut crop = OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, 112, 112), vec![0; 3 * 112 * 112]).unwrap();
    let mut scratch = WarpBuffers::default();
    group.bench_function("align_one_nv12", |b| {
        b.iter(|| {
            let transform = align::crop_from_frame(black_box(&landmarks), PixelAspect::SQUARE, 112).unwrap();
            align::warp(&frame, &transform, &mut crop.view_mut(), &mut scratch).unwrap();
        });
    });
    let mut bgr = Mat::default();
    let photo = imread(common::media("multi_face.jpg"), IMREAD_COLOR).unwrap();
    imgproc::resize(&photo, &mut bgr, opencv::core::Size::new(1920, 1080), 0.0, 0.0, imgproc::INTER_CUBIC).unwrap();
    let info = ImageInfo::new(PixelFormat::Bgr, 1920, 1080);
    let packed = ImageView::new(info, &[bgr.data_bytes().unwrap()], &[3 * 1920]).unwrap();
    group.bench_function("align_one_bgr", |b| {
        b.iter(|| {
            let transform = align::crop_from_frame(black_box(&landmarks), PixelAspect::SQUARE, 112).unwrap();
            align::warp(&packed, &transform, &mut crop.view_mut(), &mut scratch).unwrap();
        });
    });

    let size = frame.info().size();
    group.bench_function("quality_one", |b| {
        b.iter(|| FaceQuality::measure(black_box(&faces[0]), size, &crop.view()).unwrap());
    });
    group.bench_function("quality_one_without_sharpness", |b| {
        b.iter(|| FaceQuality::without_sharpness(black_box(&faces[0]), size));
    });

    let mut drawn = planes.clone();
    let mut buffers = OverlayBuffers::default();
    group.bench_function("overlay_five", |b| {
        b.iter(|| {
            let [luma, chroma] = &mut drawn;
            let info = ImageInfo::new(PixelFormat::Nv12, 1920, 1080);
            let mut view = ImageViewMut::new(info, vec![luma, chroma], &[1920, 1920]).unwrap();
            draw_faces(&mut view, black_box(&faces), &OverlayStyle::default(), &mut buffers).unwrap();
        });
    });
    group.finish();
}

/// Redaction of faces of 100 pixels, and copying the frame for comparison.
fn redaction(c: &mut Criterion) {
    let (width, height) = (1920, 1080);
    let mut group = c.benchmark_group("redact");
    group.sample_size(60);
    for format in [PixelFormat::Nv12, PixelFormat::I420, PixelFormat::Bgrx, PixelFormat::P010] {
        let info = ImageInfo::new(format, width, height);
        let layout = (0..format.planes()).map(|plane| format.plane_bytes(plane, width, height)).collect::<Vec<_>>();
        let strides = layout.iter().map(|(row, _)| *row).collect::<Vec<_>>();
        let pixels = |(row, rows): &(usize, usize)| (0..row * rows).map(|at| (at * at % 251) as u8).collect::<Vec<_>>();
        let mut planes = layout.iter().map(pixels).collect::<Vec<_>>();
        let mut copy = planes.clone();
        group.bench_function(format!("copy_{format}"), |b| {
            b.iter(|| {
                black_box(&mut copy).iter_mut().zip(&planes).for_each(|(copy, plane)| copy.copy_from_slice(plane));
            });
        });
        let mut image = ImageViewMut::new(info, planes.iter_mut().map(Vec::as_mut_slice).collect(), &strides).unwrap();
        group.bench_function(format!("all_{format}"), |b| b.iter(|| redact_all(&mut image, black_box([0; 3]))));
        let areas = (0..20).map(|index| {
            let (x, y) = (20.0 + 360.5 * (index % 5) as f32, 30.3 + 250.5 * (index / 5) as f32);
            RedactedArea { rect: Rect::new(x, y, 100.0, 100.0), shape: RedactionShape::Ellipse }
        });
        let areas = areas.collect::<Vec<_>>();
        let mut buffers = RedactionBuffers::default();
        for (name, method) in [
            ("solid", RedactionMethod::Solid),
            ("pixelate", RedactionMethod::Pixelate { blocks: 5 }),
            ("blur", RedactionMethod::Blur { sigma: 0.5 }),
        ] {
            let style = RedactionStyle { method, ..RedactionStyle::default() };
            for count in [1, 20] {
                group.bench_function(format!("{name}_{count}_{format}"), |b| {
                    b.iter(|| redact(&mut image, black_box(&areas[..count]), &style, &mut buffers));
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, stages, redaction);
criterion_main!(benches);
