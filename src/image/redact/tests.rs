//! Tests of redaction in all formats.

use opencv::core::{BORDER_REFLECT, CV_32F, Mat, Point as CvPoint};
use opencv::imgproc;
use opencv::prelude::*;
use proptest::prelude::*;

use super::super::format::{PixelFormat, Region};
use super::super::testing::{TestImage, tolerance};
use super::super::unpack::UnpackBuffers;
use super::*;
use crate::geometry::Rect;

const COLOR: Rgb = [200, 40, 90];

fn solid(color: Rgb) -> RedactionStyle {
    RedactionStyle { color, ..RedactionStyle::default() }
}

fn pixelate(blocks: u32) -> RedactionStyle {
    RedactionStyle { method: RedactionMethod::Pixelate { blocks }, ..RedactionStyle::default() }
}

fn blur(sigma: f32) -> RedactionStyle {
    RedactionStyle { method: RedactionMethod::Blur { sigma }, ..RedactionStyle::default() }
}

fn area(rect: Rect, shape: RedactionShape) -> RedactedArea {
    RedactedArea { rect, shape }
}

fn boxed(x: f32, y: f32, w: f32, h: f32) -> RedactedArea {
    area(Rect::new(x, y, w, h), RedactionShape::Box)
}

fn redacted(image: &mut TestImage, areas: &[RedactedArea], style: &RedactionStyle) {
    redact(&mut image.view_mut(), areas, style, &mut RedactionBuffers::default());
    image.assert_padding();
}

/// An image whose bytes differ from their neighbours, also in bits that no component uses.
fn patterned(info: ImageInfo, padding: usize) -> TestImage {
    let mut image = TestImage::new(info, &vec![[50; 3]; info.width * info.height], padding);
    for (plane, (data, stride)) in image.planes.iter_mut().zip(&image.strides).enumerate() {
        for (row, bytes) in data.chunks_mut(*stride).enumerate() {
            for (col, byte) in bytes[..stride - padding].iter_mut().enumerate() {
                let index = plane * 7919 + row * 263 + col;
                *byte = (index * index % 251) as u8;
            }
        }
    }
    image
}

/// Each format, progressive and interlaced.
fn infos(width: usize, height: usize) -> impl Iterator<Item = ImageInfo> {
    PixelFormat::ALL.into_iter().flat_map(move |format| {
        [false, true].map(|interlaced| ImageInfo { interlaced, ..ImageInfo::new(format, width, height) })
    })
}

/// What a solid colour looks like in an image.
fn expected_color(image: &TestImage, color: Rgb) -> [f32; 3] {
    let layout = image.info.format.layout();
    if layout.has_palette {
        let colors = palette(&image.view().plane(1));
        return colors[usize::from(nearest(&colors, color))].map(f32::from);
    }
    let [r, g, b] = color.map(f32::from);
    if layout.model == ColorModel::Gray { [0.299 * r + 0.587 * g + 0.114 * b; 3] } else { [r, g, b] }
}

/// Asserts that the pixels for which `is_covered` holds have the colour.
fn assert_color(image: &TestImage, color: Rgb, is_covered: impl Fn(usize, usize) -> bool) {
    let info = image.info;
    let expected = expected_color(image, color);
    let tolerance = f32::from(tolerance(info.format)).max(0.51);
    for (at, found) in image.pixels().into_iter().enumerate() {
        let (x, y) = (at % info.width, at / info.width);
        if is_covered(x, y) {
            let is_equal = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= tolerance);
            assert!(is_equal, "{info:?} {x},{y}: {found:?} is not {expected:?}");
        }
    }
}

/// Luma, or the packed pixels.
fn first_plane(image: &TestImage) -> Vec<Vec<u8>> {
    let mut buffers = UnpackBuffers::default();
    let view = buffers.unpack(&image.view());
    let channels = view.plane(0).layout.channels;
    let rows = 0..view.height();
    rows.flat_map(|row| view.plane(0).row(row).chunks(channels).map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
}

/// Asserts that bytes changed only in samples that a pixel uses for which `may_change` holds, and
/// luma only in such pixels.
fn assert_kept(image: &TestImage, before: &TestImage, may_change: impl Fn(usize, usize) -> bool) {
    let ImageInfo { format, width, height, .. } = image.info;
    for (at, (found, old)) in first_plane(image).iter().zip(first_plane(before)).enumerate() {
        assert!(*found == old || may_change(at % width, at / width), "{:?}: pixel {at} changed", image.info);
    }
    for (plane, stride) in image.strides.iter().enumerate() {
        let (after, before) = (&image.planes[plane], &before.planes[plane]);
        if format.layout().has_palette && plane == 1 {
            assert_eq!(after, before);
            continue;
        }
        let (shift_x, shift_y) = format.layout().planes()[plane].shift;
        for at in (0..after.len()).filter(|at| after[*at] != before[*at]) {
            let (col, row) = (at % stride / format.channels(plane), at / stride);
            // The rows of a pair of fields are covered together, and the last lines of a field can
            // use the rows of the pair before.
            let (top, lines) = if image.info.has_field_chroma() && shift_y > 0 {
                (row >> 1 << (shift_y + 1), 4 << shift_y)
            } else {
                (row << shift_y, 1 << shift_y)
            };
            let is_used = (top..(top + lines).min(height))
                .any(|y| (col << shift_x..((col + 1) << shift_x).min(width)).any(|x| may_change(x, y)));
            assert!(is_used, "{:?}: column {col}, row {row} of plane {plane} changed", image.info);
        }
    }
}

/// Whether a shape covers a pixel: for certain, and perhaps.
fn touches(area: RedactedArea, x: usize, y: usize) -> (bool, bool) {
    let Rect { x: left, y: top, w, h } = area.rect;
    let axis = |start: f32, len: f32, at: usize| {
        let (a, b) = (f64::from(start), f64::from(start) + f64::from(len));
        let (from, to) = (a.min(b), a.max(b));
        let (at, radius, centre) = (at as f64, (to - from) / 2.0, f64::midpoint(from, to));
        let touches = if from == to { (at..at + 1.0).contains(&from) } else { at + 1.0 > from && at < to };
        // Distance of the nearest point of the pixel from the centre.
        (touches, (centre.clamp(at, at + 1.0) - centre) / radius)
    };
    let ((in_x, dx), (in_y, dy)) = (axis(left, w, x), axis(top, h, y));
    let is_ellipse = area.shape == RedactionShape::Ellipse && w != 0.0 && h != 0.0;
    let distance = if is_ellipse { dx * dx + dy * dy } else { 0.0 };
    (in_x && in_y && distance < 1.0 - 1e-9, in_x && in_y && distance < 1.0 + 1e-9)
}

#[test]
fn the_whole_image_is_covered_in_every_format() {
    for (width, height) in [(1, 1), (37, 23), (64, 22)] {
        for info in infos(width, height) {
            let mut image = patterned(info, 5);
            redact_all(&mut image.view_mut(), COLOR);
            image.assert_padding();
            assert_color(&image, COLOR, |_, _| true);
        }
    }
}

#[test]
fn alpha_and_unused_bytes_are_kept_and_unused_bits_are_cleared() {
    for info in infos(20, 12) {
        let before = patterned(info, 0);
        let mut after = patterned(info, 0);
        redact_all(&mut after.view_mut(), COLOR);
        if let Some(alpha) = info.format.layout().alpha {
            let values = |image: &TestImage| {
                let words = image.planes[alpha.plane].chunks(alpha.step).map(|word| {
                    let bytes = &word[alpha.offset..][..alpha.sample.bytes];
                    let word = bytes.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
                    if alpha.sample.big_endian { word } else { word >> alpha.sample.shift & alpha.sample.max() }
                });
                words.collect::<Vec<_>>()
            };
            assert_eq!(values(&after), values(&before), "{}", info.format);
        }
    }
    for (format, byte) in [(PixelFormat::Rgbx, 3), (PixelFormat::Xbgr, 0)] {
        let info = ImageInfo::new(format, 20, 12);
        let (before, mut after) = (patterned(info, 0), patterned(info, 0));
        redact_all(&mut after.view_mut(), COLOR);
        let kept = |image: &TestImage| image.planes[0].iter().skip(byte).step_by(4).copied().collect::<Vec<_>>();
        assert_eq!(kept(&after), kept(&before), "{format}");
    }
    // The bits around 10 bits could hold the rest of a deeper sample.
    for (format, unused) in [(PixelFormat::P010, 0x003F), (PixelFormat::I420Le10, 0xFC00), (PixelFormat::Y210, 0x003F)]
    {
        for style in [solid(COLOR), pixelate(4), blur(0.5)] {
            let mut image = patterned(ImageInfo::new(format, 32, 32), 0);
            redacted(&mut image, &[boxed(0.0, 0.0, 32.0, 32.0)], &style);
            let words = image.planes.iter().flat_map(|plane| plane.as_chunks::<2>().0);
            assert!(words.into_iter().all(|word| u16::from_le_bytes(*word) & unused == 0), "{format} {style:?}");
        }
    }
}

#[test]
fn coordinates_that_are_not_finite_cover_the_whole_image() {
    for style in [solid(COLOR), RedactionStyle { color: COLOR, ..pixelate(4) }] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for index in 0..4 {
                let mut values = [10.0; 4];
                values[index] = bad;
                let [x, y, w, h] = values;
                let mut image = patterned(ImageInfo::new(PixelFormat::Nv12, 40, 30), 3);
                redacted(&mut image, &[boxed(1.0, 1.0, 9.0, 9.0), boxed(x, y, w, h)], &style);
                assert_color(&image, COLOR, |_, _| true);
            }
            let mut image = patterned(ImageInfo::new(PixelFormat::Nv12, 40, 30), 3);
            let polygon = vec![Point::new(1.0, 1.0), Point::new(5.0, bad), Point::new(9.0, 9.0)];
            redact_polygons(&mut image.view_mut(), &[polygon], COLOR, &mut RedactionBuffers::default());
            assert_color(&image, COLOR, |_, _| true);
        }
    }
}

#[test]
fn rounding_of_huge_coordinates_covers_more_and_not_less() {
    // In `f32` the right edge of the first can be anywhere within 4 pixels of 30, the others cover
    // the image or its left part.
    for (rect, width) in [
        (Rect::new(-33_554_432.0, 0.0, 33_554_464.0, 30.0), 32),
        (Rect::new(-1e30, -1e30, 2e30, 2e30), 40),
        (Rect::new(f32::MIN, f32::MIN, f32::MAX, f32::MAX), 1),
        (Rect::new(f32::MAX, f32::MAX, f32::MIN, f32::MIN), 1),
    ] {
        let mut image = patterned(ImageInfo::new(PixelFormat::Rgb, 40, 30), 0);
        redacted(&mut image, &[area(rect, RedactionShape::Ellipse)], &solid(COLOR));
        assert_color(&image, COLOR, |x, _| x < width);
    }
}

#[test]
fn an_ellipse_at_a_margin_of_1_3_covers_83_percent_of_the_sides_of_a_box() {
    let (face, size) = (Rect::new(200.0, 200.0, 400.0, 400.0), 800);
    let covers = |margin: f32, at: (f32, f32)| {
        let mut image = patterned(ImageInfo::new(PixelFormat::Gray8, size, size), 0);
        image.planes[0].fill(9);
        redacted(&mut image, &[area(face.grown(margin), RedactionShape::Ellipse)], &solid([0; 3]));
        image.planes[0][at.1 as usize * size + at.0 as usize] == 0
    };
    let side = |part: f32| (face.x, face.y + face.h / 2.0 + part / 2.0 * face.h);
    assert!(covers(1.3, side(0.83)) && !covers(1.3, side(0.85)));
    assert!(covers(2.0f32.sqrt(), (face.x, face.y)) && !covers(1.4, (face.x, face.y)));
}

#[test]
fn mosaic_and_blur_remove_a_checkerboard_in_every_format() {
    let (width, height) = (96, 80);
    // Cells as large as the chroma samples of all formats.
    let cell = |at: usize| [[220, 30, 60], [20, 130, 240]][(at % width / 4 + at / width / 4) % 2];
    let pixels = (0..width * height).map(cell).collect::<Vec<_>>();
    for info in infos(width, height).filter(|info| !info.format.layout().has_palette) {
        // Chroma rows of fields mix the cells.
        if info.has_field_chroma() {
            continue;
        }
        for style in [pixelate(4), blur(0.5), blur(2.0), blur(f32::INFINITY), blur(f32::NAN)] {
            let before = TestImage::new(info, &pixels, 7);
            let mut image = TestImage::new(info, &pixels, 7);
            redacted(&mut image, &[boxed(8.0, 8.0, 64.0, 64.0)], &style);
            let is_inside = |x: usize, y: usize| (8..72).contains(&x) && (8..72).contains(&y);
            assert_kept(&image, &before, is_inside);
            let (pixels, old) = (image.pixels(), before.pixels());
            let inside = (0..width * height).filter(|at| is_inside(at % width, at / width));
            for channel in 0..3 {
                let values = inside.clone().map(|at| pixels[at][channel]);
                let mean = inside.clone().map(|at| f64::from(old[at][channel])).sum::<f64>() / (64.0 * 64.0);
                let error = values.map(|value| (f64::from(value) - mean).abs()).fold(0.0, f64::max);
                // YUV colours that no RGB has are clipped.
                let limit = f64::from(tolerance(info.format)) + if info.format.is_yuv() { 8.0 } else { 1.5 };
                assert!(error <= limit, "{info:?} {style:?}: {error}");
            }
        }
    }
}

#[test]
fn smoothing_looks_the_same_in_every_format_without_subsampling() {
    let (width, height) = (90, 70);
    let pixel =
        |at: usize| [at % width * 2, at / width * 3, (at % width) * (at / width) % 200].map(|value| value as u8);
    let pixels = (0..width * height).map(pixel).collect::<Vec<_>>();
    let areas = [
        area(Rect::new(10.3, 20.7, 40.0, 43.0), RedactionShape::Ellipse),
        area(Rect::new(40.0, 30.0, 70.0, 60.0), RedactionShape::Box),
    ];
    for style in [solid(COLOR), pixelate(5), blur(0.5)] {
        let result = |format| {
            let mut image = TestImage::new(ImageInfo::new(format, width, height), &pixels, 5);
            redacted(&mut image, &areas, &style);
            image.pixels()
        };
        let [rgb, yuv, gray] = [PixelFormat::Rgb, PixelFormat::Y444, PixelFormat::Gray8].map(result);
        for format in PixelFormat::ALL {
            if format.chroma_shift() != (0, 0) || format.layout().has_palette {
                continue;
            }
            let expected = match format.layout().model {
                ColorModel::Gray => &gray,
                ColorModel::Rgb => &rgb,
                ColorModel::Yuv => &yuv,
            };
            for (at, (found, expected)) in result(format).into_iter().zip(expected).enumerate() {
                // The components are rounded to 8 bits in one of the images.
                let limit = f32::from(tolerance(format)) + if format.is_yuv() { 2.0 } else { 1.0 };
                let is_equal = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= limit);
                assert!(is_equal, "{format} {style:?} {at}: {found:?} is not {expected:?}");
            }
        }
    }
}

#[test]
fn blocks_have_the_mean_of_their_samples_at_full_depth() {
    let mut image = patterned(ImageInfo::new(PixelFormat::Gray16Le, 48, 40), 0);
    let samples = |image: &TestImage| {
        image.planes[0].as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word)).collect::<Vec<_>>()
    };
    let before = samples(&image);
    // The left block lies outside of the image, the next one half.
    redacted(&mut image, &[boxed(-12.0, 8.0, 32.0, 32.0)], &pixelate(4));
    let after = samples(&image);
    for (cols, rows) in [(0..4, 8..16), (4..12, 16..24), (12..20, 32..40)] {
        let block = || rows.clone().flat_map(|y| cols.clone().map(move |x| y * 48 + x));
        let mean = block().map(|at| f64::from(before[at])).sum::<f64>() / block().count() as f64;
        for at in block() {
            assert!((f64::from(after[at]) - mean).abs() <= 0.51, "{cols:?} {rows:?}: {} is not {mean}", after[at]);
        }
    }
}

#[test]
fn a_blur_is_that_of_opencv() {
    let (width, height) = (100, 130);
    for (name, pixel) in [
        ("noise", (|x, y| (x * 7919 + y * 104_729) * (x + 3 * y) % 65_536) as fn(usize, usize) -> usize),
        ("edge", |x, y| if x + y < 115 { 0 } else { 65_535 }),
        ("corner", |x, y| if x < 9 && y > 100 { 65_535 } else { 0 }),
    ] {
        for sigma in [0.5f32, 0.7, 1.5] {
            let mut image = patterned(ImageInfo::new(PixelFormat::Gray16Le, width, height), 0);
            for (at, word) in image.planes[0].as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *word = (pixel(at % width, at / width) as u16).to_le_bytes();
            }
            let words = |image: &TestImage| {
                let words = image.planes[0].as_chunks::<2>().0.iter();
                words.map(|word| f32::from(u16::from_le_bytes(*word))).collect::<Vec<_>>()
            };
            let samples = words(&image);
            let source = Mat::new_rows_cols_with_data(height as i32, width as i32, &samples).unwrap();
            let deviation = 130.0 * f64::from(sigma);
            let size = 2 * (5.0 * deviation) as i32 + 1;
            let kernel = imgproc::get_gaussian_kernel(size, deviation, CV_32F).unwrap();
            let (mut expected, anchor) = (Mat::default(), CvPoint::new(-1, -1));
            imgproc::sep_filter_2d(&source, &mut expected, -1, &kernel, &kernel, anchor, 0.0, BORDER_REFLECT).unwrap();
            redacted(&mut image, &[boxed(0.0, 0.0, 100.0, 130.0)], &blur(sigma));
            let pairs = words(&image).into_iter().zip(expected.data_typed::<f32>().unwrap().to_vec());
            let error = pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
            assert!(error <= 1.0, "{name} {sigma}: {error}");
        }
    }
}

#[test]
fn smoothing_depends_on_pixels_of_the_box_only() {
    for info in infos(64, 48).filter(|info| info.format.chroma_shift() == (0, 0)) {
        for style in [pixelate(3), blur(0.6)] {
            let inside = |at: usize| (10..40).contains(&(at % 64)) && (5..45).contains(&(at / 64));
            let [first, second] = [10, 240].map(|outside| {
                let pixels = (0..64 * 48).map(|at| if inside(at) { [(at % 97) as u8 * 2; 3] } else { [outside; 3] });
                let mut image = TestImage::new(info, &pixels.collect::<Vec<_>>(), 0);
                redacted(&mut image, &[area(Rect::new(10.0, 5.0, 30.0, 40.0), RedactionShape::Ellipse)], &style);
                image.pixels()
            });
            assert!((0..64 * 48).filter(|at| inside(*at)).all(|at| first[at] == second[at]), "{info:?} {style:?}");
        }
    }
}

#[test]
fn what_the_colour_covers_stays_covered() {
    // A small area gets the colour, also under a large one that comes later.
    let small = boxed(30.0, 30.0, 4.0, 4.0);
    let large = boxed(10.0, 10.0, 44.0, 44.0);
    for areas in [[small, large], [large, small]] {
        for style in [pixelate(4), blur(0.5)] {
            let mut image = patterned(ImageInfo::new(PixelFormat::I420, 64, 64), 3);
            redacted(&mut image, &areas, &RedactionStyle { color: COLOR, ..style });
            assert_color(&image, COLOR, |x, y| (30..34).contains(&x) && (30..34).contains(&y));
        }
    }
    let mut image = patterned(ImageInfo::new(PixelFormat::Rgb8p, 64, 64), 3);
    redacted(&mut image, &[large], &RedactionStyle { color: COLOR, ..blur(0.5) });
    assert_color(&image, COLOR, |x, y| (10..54).contains(&x) && (10..54).contains(&y));
}

#[test]
fn a_part_at_an_odd_offset_covers_the_chroma_of_the_whole_image() {
    for info in infos(42, 30) {
        for region in
            [(1, 1, 20, 18), (3, 2, 39, 28), (2, 3, 6, 5)].map(|(x, y, width, height)| Region { x, y, width, height })
        {
            let before = patterned(info, 3);
            let mut image = patterned(info, 3);
            let planes = image.planes.iter_mut().map(Vec::as_mut_slice).collect();
            let mut part = ImageViewMut::cropped(info, planes, &image.strides, region).unwrap();
            let areas = [boxed(2.0, 1.0, 3.0, 3.0), boxed(region.width as f32 - 2.0, 0.0, 50.0, 50.0)];
            redact(&mut part, &areas, &solid(COLOR), &mut RedactionBuffers::default());
            image.assert_padding();
            let is_covered = |x: usize, y: usize| {
                let Region { x: left, y: top, width, height } = region;
                let (x, y) = (x.wrapping_sub(left), y.wrapping_sub(top));
                x < width && y < height && areas.iter().any(|area| touches(*area, x, y).0)
            };
            assert_color(&image, COLOR, is_covered);
            assert_kept(&image, &before, is_covered);
        }
    }
}

#[test]
fn a_polygon_covers_what_it_winds_around() {
    let info = ImageInfo::new(PixelFormat::Rgb, 100, 100);
    let covered = |polygon: Vec<Point>| {
        let mut image = patterned(info, 0);
        let before = patterned(info, 0);
        redact_polygons(&mut image.view_mut(), &[polygon], COLOR, &mut RedactionBuffers::default());
        let pixels = image.pixels().into_iter().zip(before.pixels());
        pixels.map(|(after, before)| after != before).collect::<Vec<_>>()
    };
    // A star, whose edges wind twice around its centre.
    let star = [0.0, 2.0, 4.0, 1.0, 3.0f32].map(|step| {
        let angle = step * std::f32::consts::TAU / 5.0;
        Point::new(50.0 + 40.0 * angle.sin(), 50.0 - 40.0 * angle.cos())
    });
    let found = covered(star.to_vec());
    assert!(found[50 * 100 + 50] && found[12 * 100 + 50] && !found[90 * 100 + 50] && !found[5 * 100 + 5]);
    assert_eq!(covered(Vec::new()).into_iter().filter(|covered| *covered).count(), 0);
    assert_eq!(covered(vec![Point::new(3.5, 4.5)]).iter().position(|covered| *covered), Some(403));
    let huge = [(-1e30, 20.0), (1e30, 30.0), (-1e30, 40.0)].map(|(x, y)| Point::new(x, y));
    let rows = covered(huge.to_vec()).chunks(100).map(|row| row.iter().all(|covered| *covered)).collect::<Vec<_>>();
    assert!(rows.iter().enumerate().all(|(y, covered)| *covered == (20..40).contains(&y)), "{rows:?}");
}

/// The winding number of a polygon around a point.
fn winding(polygon: &[Point], x: f64, y: f64) -> i32 {
    let edges = polygon.iter().zip(polygon.iter().cycle().skip(1));
    let turn = edges.map(|(from, to)| {
        let [x0, y0, x1, y1] = [from.x, from.y, to.x, to.y].map(f64::from);
        let is_left = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0);
        i32::from(y0 <= y && y1 > y && is_left > 0.0) - i32::from(y0 > y && y1 <= y && is_left < 0.0)
    });
    turn.sum()
}

/// Whether an edge of a polygon meets a square pixel that is enlarged by `margin`.
fn edge_meets(polygon: &[Point], x: usize, y: usize, margin: f64) -> bool {
    let (left, top) = (x as f64 - margin, y as f64 - margin);
    polygon.iter().zip(polygon.iter().cycle().skip(1)).any(|(from, to)| {
        let [x0, y0, x1, y1] = [from.x, from.y, to.x, to.y].map(f64::from);
        // The part of the edge within each of the four half planes.
        let (mut enter, mut leave) = (0.0f64, 1.0f64);
        let side = 1.0 + 2.0 * margin;
        for (start, delta, low) in [(x0, x1 - x0, left), (y0, y1 - y0, top)] {
            if delta == 0.0 {
                if start < low || start > low + side {
                    return false;
                }
                continue;
            }
            let (a, b) = ((low - start) / delta, (low + side - start) / delta);
            (enter, leave) = (enter.max(a.min(b)), leave.min(a.max(b)));
        }
        enter <= leave
    })
}

fn shape() -> impl Strategy<Value = RedactionShape> {
    prop_oneof![Just(RedactionShape::Ellipse), Just(RedactionShape::Box)]
}

fn style() -> impl Strategy<Value = RedactionStyle> {
    prop_oneof![
        Just(solid(COLOR)),
        (0u32..12).prop_map(pixelate),
        prop_oneof![0.0f32..3.0, proptest::num::f32::ANY].prop_map(blur)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn what_a_shape_touches_is_covered_and_nothing_else(
        format in proptest::sample::select(&PixelFormat::ALL[..]),
        interlaced: bool,
        width in 1usize..60, height in 1usize..60, padding in 0usize..20,
        corner in (-40.0f32..80.0, -40.0f32..80.0),
        size in prop_oneof![(-70.0f32..70.0, -70.0f32..70.0), (0.0f32..1.5, 0.0f32..1.5), Just((0.0, 0.0))],
        snapped: bool,
        shape in shape(), style in style(),
    ) {
        let info = ImageInfo { interlaced, ..ImageInfo::new(format, width, height) };
        let snap = |value: f32| if snapped { value.round() } else { value };
        let rect = Rect::new(snap(corner.0), snap(corner.1), snap(size.0), snap(size.1));
        let area = area(rect, shape);
        let (before, mut image) = (patterned(info, padding), patterned(info, padding));
        redacted(&mut image, &[area], &style);
        assert_kept(&image, &before, |x, y| touches(area, x, y).1);
        if style.method == RedactionMethod::Solid {
            assert_color(&image, COLOR, |x, y| touches(area, x, y).0);
        }
    }

    #[test]
    fn any_coordinates_cover_all_that_they_can_mean(
        format in proptest::sample::select(&PixelFormat::ALL[..]),
        interlaced: bool,
        width in 1usize..40, height in 1usize..40,
        rect in proptest::array::uniform4(prop_oneof![-200.0f32..200.0, proptest::num::f32::ANY]),
        shape in shape(), style in style(),
    ) {
        let info = ImageInfo { interlaced, ..ImageInfo::new(format, width, height) };
        let [x, y, w, h] = rect;
        let area = area(Rect { x, y, w, h }, shape);
        let mut image = patterned(info, 3);
        redacted(&mut image, &[area], &style);
        let is_finite = area.rect.is_finite();
        if style.method == RedactionMethod::Solid || !is_finite {
            assert_color(&image, style.color, |x, y| !is_finite || touches(area, x, y).0);
        }
    }

    #[test]
    fn a_mosaic_has_at_most_as_many_blocks_as_set(
        corner in (-40.0f32..80.0, -40.0f32..80.0), size in (8.0f32..100.0, 0.0f32..100.0), blocks in 2u32..=8,
    ) {
        let [before, mut image] = [(); 2].map(|()| patterned(ImageInfo::new(PixelFormat::I420, 90, 70), 0));
        redacted(&mut image, &[boxed(corner.0, corner.1, size.0, size.1)], &pixelate(blocks));
        for (plane, before) in image.planes.iter().zip(&before.planes) {
            let changed = plane.iter().zip(before).filter(|(after, before)| after != before);
            let values = changed.map(|(after, _)| *after).collect::<std::collections::BTreeSet<_>>();
            prop_assert!(values.len() <= (blocks * blocks) as usize, "{} values", values.len());
        }
    }

    #[test]
    fn the_order_of_solid_areas_has_no_effect(
        format in proptest::sample::select(&PixelFormat::ALL[..]),
        rects in proptest::collection::vec((-20.0f32..60.0, -20.0f32..60.0, 0.0f32..40.0, 0.0f32..40.0), 1..6),
        shape in shape(),
    ) {
        let areas = rects.iter().map(|(x, y, w, h)| area(Rect::new(*x, *y, *w, *h), shape));
        let [forwards, backwards] = [areas.clone().collect::<Vec<_>>(), areas.rev().collect()].map(|areas| {
            let mut image = patterned(ImageInfo::new(format, 50, 40), 3);
            redacted(&mut image, &areas, &solid(COLOR));
            image.planes
        });
        prop_assert_eq!(forwards, backwards);
    }

    #[test]
    fn what_a_polygon_touches_is_covered_and_nothing_else(
        format in proptest::sample::select(&PixelFormat::ALL[..]),
        interlaced: bool,
        points in proptest::collection::vec((-20.0f32..70.0, -20.0f32..70.0), 0..9),
        snapped: bool,
    ) {
        let snap = |value: f32| if snapped { value.round() } else { value };
        let polygon = points.iter().map(|(x, y)| Point::new(snap(*x), snap(*y))).collect::<Vec<_>>();
        let info = ImageInfo { interlaced, ..ImageInfo::new(format, 50, 44) };
        let (before, mut image) = (patterned(info, 4), patterned(info, 4));
        let mut buffers = RedactionBuffers::default();
        redact_polygons(&mut image.view_mut(), std::slice::from_ref(&polygon), COLOR, &mut buffers);
        image.assert_padding();
        let touches = |x: usize, y: usize, margin: f64| {
            winding(&polygon, x as f64 + 0.5, y as f64 + 0.5) != 0 || edge_meets(&polygon, x, y, margin)
        };
        assert_color(&image, COLOR, |x, y| touches(x, y, -1e-6));
        assert_kept(&image, &before, |x, y| touches(x, y, 1e-6));
    }

    #[test]
    fn no_polygon_writes_outside_of_the_image(
        format in proptest::sample::select(&PixelFormat::ALL[..]),
        width in 1usize..40, height in 1usize..40,
        points in proptest::collection::vec([proptest::num::f32::ANY, proptest::num::f32::ANY], 1..6),
    ) {
        let polygon = points.iter().map(|[x, y]| Point::new(*x, *y)).collect::<Vec<_>>();
        let mut image = patterned(ImageInfo::new(format, width, height), 4);
        redact_polygons(&mut image.view_mut(), &[polygon], COLOR, &mut RedactionBuffers::default());
        image.assert_padding();
    }
}
