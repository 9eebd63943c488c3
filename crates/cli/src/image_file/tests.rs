//! Reading files in each format and orientation.

use opencv::core::{Mat, Scalar, Vec3b, Vector};
use proptest::prelude::*;

use super::*;

/// Stored width and height for orientation 1.
const SIZE: (i32, i32) = (48, 32);
/// Colours of the quarters of the upright image: top left, top right, bottom left, bottom right.
const COLOURS: [[u8; 3]; 4] = [[0, 0, 255], [0, 255, 0], [255, 0, 0], [255, 255, 255]];

/// The upright image.
fn upright() -> Mat {
    let (width, height) = SIZE;
    let mut image = Mat::new_rows_cols_with_default(height, width, Vec3b::opencv_type(), Scalar::all(0.0)).unwrap();
    for row in 0..height {
        for col in 0..width {
            let quarter = usize::from(row >= height / 2) * 2 + usize::from(col >= width / 2);
            *image.at_2d_mut::<Vec3b>(row, col).unwrap() = COLOURS[quarter].into();
        }
    }
    image
}

/// The image as a file with `orientation` stores it.
fn stored(orientation: u32) -> Mat {
    // Each rotation is its own inverse but those by 90 degrees.
    let inverse = match orientation {
        6 => 8,
        8 => 6,
        other => other,
    };
    orientation::upright(upright(), inverse).unwrap()
}

fn encode(extension: &str, image: &Mat) -> Vec<u8> {
    let mut bytes = Vector::new();
    let quality = if extension == ".webp" { imgcodecs::IMWRITE_WEBP_QUALITY } else { imgcodecs::IMWRITE_JPEG_QUALITY };
    // Above 100, WebP is lossless.
    let parameters = Vector::from_slice(&[quality, if extension == ".webp" { 101 } else { 95 }]);
    assert!(imgcodecs::imencode(extension, image, &mut bytes, &parameters).unwrap());
    bytes.to_vec()
}

/// EXIF data with an orientation, in big-endian order.
fn exif(orientation: u16) -> Vec<u8> {
    let entry = [&[0x01, 0x12, 0, 3, 0, 0, 0, 1][..], &orientation.to_be_bytes(), &[0, 0]].concat();
    [b"MM\0*\0\0\0\x08\0\x01", &entry[..], &[0; 4]].concat()
}

/// A JPEG segment.
fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
    [&[0xFF, marker][..], &(content.len() as u16 + 2).to_be_bytes(), content].concat()
}

/// A JPEG file with segments after the start of the image.
fn jpeg_with(image: &Mat, segments: &[Vec<u8>]) -> Vec<u8> {
    let bytes = encode(".jpg", image);
    [&bytes[..2], &segments.concat(), &bytes[2..]].concat()
}

fn exif_segment(orientation: u16) -> Vec<u8> {
    segment(0xE1, &[b"Exif\0\0", &exif(orientation)[..]].concat())
}

/// A PNG chunk.
fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for byte in kind.iter().chain(data) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &(!crc).to_be_bytes()].concat()
}

fn riff_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [&kind[..], &(data.len() as u32).to_le_bytes(), data, &[0][..data.len() % 2]].concat()
}

/// A WebP file of chunks.
fn webp(chunks: &[u8]) -> Vec<u8> {
    [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", chunks].concat()
}

/// The header chunk of an extended WebP file.
fn webp_header(flags: u8, (width, height): (i32, i32)) -> Vec<u8> {
    let (width, height) = ((width - 1).to_le_bytes(), (height - 1).to_le_bytes());
    riff_chunk(b"VP8X", &[&[flags, 0, 0, 0][..], &width[..3], &height[..3]].concat())
}

/// A TIFF file without compression.
fn tiff(image: &Mat, entries: &[(u16, u32)]) -> Vec<u8> {
    let pixels = image.data_bytes().unwrap().chunks(3).flat_map(|bgr| [bgr[2], bgr[1], bgr[0]]).collect::<Vec<_>>();
    let (width, height) = (image.cols() as u32, image.rows() as u32);
    let mut entries = [
        &[(256, width), (257, height), (258, 8), (259, 1), (262, 2), (273, 8), (277, 3), (278, height)][..],
        &[(279, pixels.len() as u32)],
        entries,
    ]
    .concat();
    entries.sort_unstable();
    let mut bytes = [b"II*\0", &(8 + pixels.len() as u32).to_le_bytes()[..], &pixels].concat();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, value) in entries {
        // LONG, but SHORT for the orientation, as the standard requires.
        let kind = if tag == 274 { 3_u16 } else { 4 };
        bytes
            .extend([&tag.to_le_bytes()[..], &kind.to_le_bytes(), &1_u32.to_le_bytes(), &value.to_le_bytes()].concat());
    }
    bytes.extend([0; 4]);
    bytes
}

fn read_bytes(bytes: &[u8]) -> anyhow::Result<InputImage> {
    let directory = tempfile::tempdir().unwrap();
    // The name says nothing about the content.
    let file = directory.path().join("file.jpg");
    fs::write(&file, bytes).unwrap();
    read(&file)
}

fn error_of(bytes: &[u8]) -> String {
    format!("{:#}", read_bytes(bytes).err().expect("the file is not read"))
}

/// Asserts that a file is read as the upright image, without warnings.
fn assert_upright(bytes: &[u8], name: &str) {
    let InputImage { image, warning } = read_bytes(bytes).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    assert_eq!(warning, None, "{name}");
    let size = (image.view().width() as i32, image.view().height() as i32);
    assert_eq!(size, SIZE, "{name}");
    let (width, height) = (image.view().width(), image.view().height());
    let corners = [(4, 4), (width - 5, 4), (4, height - 5), (width - 5, height - 5)];
    for ((x, y), expected) in corners.into_iter().zip(COLOURS) {
        let pixel = &image.data()[3 * (y * width + x)..][..3];
        // JPEG changes colours by a few levels.
        let is_near = pixel.iter().zip(expected).all(|(value, expected)| value.abs_diff(expected) <= 4);
        assert!(is_near, "{name}: pixel {x},{y} is {pixel:?}, not {expected:?}");
    }
}

#[test]
fn every_orientation_is_applied_once_in_every_format() {
    for orientation in 1..=8 {
        let (image, tag) = (stored(orientation), orientation as u16);
        let size = (image.cols(), image.rows());
        assert_upright(&jpeg_with(&image, &[exif_segment(tag)]), &format!("JPEG {orientation}"));
        let png = encode(".png", &image);
        let (head, body) = png.split_at(8 + 25);
        assert_upright(&[head, &png_chunk(b"eXIf", &exif(tag)), body].concat(), &format!("PNG {orientation}"));
        let (body, end) = png.split_at(png.len() - 12);
        let late = [body, &png_chunk(b"eXIf", &exif(tag)), end].concat();
        assert_upright(&late, &format!("PNG {orientation}, after the pixels"));
        let still = encode(".webp", &image);
        for prefix in [&b""[..], b"Exif\0\0"] {
            let exif = riff_chunk(b"EXIF", &[prefix, &exif(tag)].concat());
            let file = webp(&[&webp_header(0x08, size), &still[12..], &exif].concat());
            assert_upright(&file, &format!("WebP {orientation}"));
        }
        let file = tiff(&image, &[(274, orientation)]);
        assert_upright(&file, &format!("TIFF {orientation}"));
    }
}

#[test]
fn exif_data_is_found_among_the_segments_of_a_jpeg_file() {
    let image = stored(6);
    let xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>");
    let jfif = segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
    let empty = segment(0xE1, b"Exif\0\0");
    let other = segment(0xE2, &[0xFF; 300]);
    let comment = segment(0xFE, b"Exif\0\0");
    for (name, segments) in [
        ("after XMP", vec![xmp.clone(), exif_segment(6)]),
        ("before XMP", vec![exif_segment(6), xmp.clone()]),
        ("after JFIF and others", vec![jfif, other, comment, xmp, exif_segment(6)]),
        ("after empty EXIF data", vec![empty, exif_segment(6)]),
        ("twice", vec![exif_segment(6), exif_segment(3)]),
    ] {
        assert_upright(&jpeg_with(&image, &segments), name);
    }
    let bytes = encode(".jpg", &image);
    let at = bytes.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
    assert_upright(&[&bytes[..at], &exif_segment(6), &bytes[at..]].concat(), "directly before the scan");
}

#[test]
fn a_damaged_or_invalid_orientation_counts_as_upright() {
    for orientation in [0, 9, 0x0600, u16::MAX] {
        assert_upright(&jpeg_with(&upright(), &[exif_segment(orientation)]), &format!("{orientation}"));
    }
    let damaged = exif(6)[..15].to_vec();
    assert_upright(&jpeg_with(&upright(), &[segment(0xE1, &[b"Exif\0\0", &damaged[..]].concat())]), "cut");
    // A damaged entry does not hide the orientation.
    let mut entries = exif(6);
    entries[9] = 2;
    let bad = [0x01, 0x0F, 0, 2, 0, 0, 0, 99, 0xFF, 0xFF, 0xFF, 0xFF];
    let data = [b"Exif\0\0", &entries[..10], &bad, &entries[10..]].concat();
    assert_upright(&jpeg_with(&stored(6), &[segment(0xE1, &data)]), "beside a damaged entry");
}

#[test]
fn the_first_frame_of_an_animation_is_read() {
    let (width, height) = SIZE;
    let mut gif = Vec::new();
    {
        let palette = COLOURS.iter().flat_map(|bgr| [bgr[2], bgr[1], bgr[0]]).collect::<Vec<_>>();
        let mut encoder = gif::Encoder::new(&mut gif, width as u16, height as u16, &palette).unwrap();
        let quarter = |at: i32| u8::from(at / width >= height / 2) * 2 + u8::from(at % width >= width / 2);
        let pixels = (0..width * height).map(quarter).collect::<Vec<_>>();
        let frame = |pixels: Vec<u8>| gif::Frame::from_indexed_pixels(width as u16, height as u16, pixels, None);
        let rotated = pixels.iter().rev().copied().collect();
        encoder.write_frame(&frame(pixels)).unwrap();
        encoder.write_frame(&frame(rotated)).unwrap();
    }
    assert_upright(&gif, "GIF");
    let cut = error_of(&gif[..60]);
    assert!(cut.starts_with("the file is a GIF image that cannot be decoded (") && cut.contains("again"), "{cut}");

    // Position, size and duration, then the frame.
    let frame = |image: &Mat, x: u8| {
        let (cols, rows) = ((image.cols() - 1).to_le_bytes(), (image.rows() - 1).to_le_bytes());
        let head = [&[x, 0, 0, 0, 0, 0][..], &cols[..3], &rows[..3], &[100, 0, 0, 0]].concat();
        riff_chunk(b"ANMF", &[&head, &encode(".webp", image)[12..]].concat())
    };
    let animation = riff_chunk(b"ANIM", &[0; 6]);
    let frames = [frame(&upright(), 0), frame(&stored(3), 0)].concat();
    assert_upright(&webp(&[webp_header(0x02, SIZE), animation.clone(), frames].concat()), "WebP");
    // A frame of which the left part is not covered, and an orientation.
    let right = Mat::roi(&upright(), opencv::core::Rect::new(24, 0, 24, 32)).unwrap().try_clone().unwrap();
    let chunks = [webp_header(0x0A, SIZE), animation, frame(&right, 12), riff_chunk(b"EXIF", &exif(3))].concat();
    let image = read_bytes(&webp(&chunks)).unwrap().image;
    let pixel = |x: usize, y: usize| &image.data()[3 * (48 * y + x)..][..3];
    assert_eq!([pixel(4, 4), pixel(4, 28), pixel(40, 4)], [&COLOURS[3][..], &COLOURS[1], &[0, 0, 0]]);
}

#[test]
fn a_jpeg_file_with_a_damaged_byte_is_not_taken_for_a_truncated_one() {
    let mut bytes = encode(".jpg", &upright());
    // In the entropy-coded data, this looks like a segment that ends beyond the file.
    let at = bytes.len() - 20;
    bytes[at..at + 4].copy_from_slice(&[0xFF, 0x05, 0xFF, 0xFF]);
    let (image, warnings) = decode(&bytes).unwrap();
    assert_eq!((image.cols(), image.rows()), SIZE);
    assert!(!warnings.is_empty());
}

#[test]
fn a_jpeg_file_that_lacks_only_the_end_marker_is_whole() {
    let progressive = {
        let mut bytes = Vector::new();
        let parameters = Vector::from_slice(&[imgcodecs::IMWRITE_JPEG_PROGRESSIVE, 1]);
        imgcodecs::imencode(".jpg", &upright(), &mut bytes, &parameters).unwrap();
        bytes.to_vec()
    };
    let intervals = {
        let mut bytes = Vector::new();
        let parameters = Vector::from_slice(&[imgcodecs::IMWRITE_JPEG_RST_INTERVAL, 2]);
        imgcodecs::imencode(".jpg", &upright(), &mut bytes, &parameters).unwrap();
        bytes.to_vec()
    };
    for (name, whole) in
        [("sequential", encode(".jpg", &upright())), ("progressive", progressive), ("restart intervals", intervals)]
    {
        assert_upright(&whole, name);
        let without_marker = &whole[..whole.len() - 2];
        assert_upright(without_marker, &format!("{name} without the marker"));
        assert_upright(&whole[..whole.len() - 1], &format!("{name} with half of the marker"));
        assert_upright(&[without_marker, &[0; 1000]].concat(), &format!("{name} with zeros for the marker"));
        for len in (2..without_marker.len()).rev() {
            for zeros in [0, 1000] {
                let error = error_of(&[&without_marker[..len], &[0; 1000][..zeros]].concat());
                assert!(
                    error.contains("the JPEG file is truncated"),
                    "{name}, {len} of {} bytes: {error}",
                    whole.len()
                );
            }
        }
    }
}

#[test]
fn a_cmyk_jpeg_file_has_its_colours() {
    // Made by tests/fixtures/images/make_images.py.
    for (name, file) in [
        ("CMYK", &include_bytes!("../../../../tests/fixtures/images/cmyk.jpg")[..]),
        ("YCCK", include_bytes!("../../../../tests/fixtures/images/ycck.jpg")),
    ] {
        assert_upright(file, name);
    }
}

#[test]
fn images_of_16_bits_and_with_transparency_are_read() {
    let mut deep = Mat::default();
    upright().convert_to(&mut deep, opencv::core::CV_16U, 257.0, 0.0).unwrap();
    let mut transparent =
        Mat::new_rows_cols_with_default(SIZE.1, SIZE.0, opencv::core::CV_8UC4, Scalar::all(128.0)).unwrap();
    let images = Vector::<Mat>::from_iter([upright()]);
    let mut output = Vector::<Mat>::from_iter([transparent.clone()]);
    opencv::core::mix_channels(&images, &mut output, &[0, 0, 1, 1, 2, 2]).unwrap();
    transparent = output.get(0).unwrap();
    assert_eq!(transparent.at_2d::<opencv::core::Vec4b>(0, 0).unwrap()[3], 128);
    for extension in [".png", ".tiff"] {
        assert_upright(&encode(extension, &deep), &format!("16 bits, {extension}"));
        assert_upright(&encode(extension, &transparent), &format!("transparent, {extension}"));
    }
    assert_upright(&encode(".webp", &transparent), "transparent WebP");
}

#[test]
fn what_is_not_read_is_named_with_a_remedy() {
    for (bytes, parts) in [
        (&b"\0\0\0\x1Cftypavif\0\0\0\0mif1avif"[..], ["an AVIF image", "heif-convert"]),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ["a HEIC image", "heif-convert"]),
        (b"\x76\x2F\x31\x01\x02\0\0\0\0\0\0\0", ["an OpenEXR image", "convert it to JPEG or PNG"]),
        (b"\0\0\0\x14ftypqt  \0\0\x02\0qt  ", ["a video (MP4 or QuickTime)", "decodebin"]),
        (b"\xFF\xD8\xFF\xC1\0\x0B\x0C\0\x08\0\x08\x01\x01\x11\0", ["a JPEG image of 12 bits", "convert it to JPEG"]),
        (b"<!DOCTYPE html><title>404</title>", ["an HTML page", "download the image again"]),
        (b"not an image", ["a text file", "give an image file"]),
        (b"", ["the file is empty", "again"]),
        (b"\x01\x02\x03\x04\x05\x06", ["not an image of a known format", "give an image file"]),
        (b"\x89PNG\r\n\x1A\n", ["a PNG image that cannot be decoded (", "again"]),
        (b"BM\x01\x02", ["a BMP image that cannot be decoded (", "again"]),
        (b"RIFF\0\0\0\0WEBPVP8X", ["a WebP image that cannot be decoded (", "again"]),
    ] {
        let error = error_of(bytes);
        for part in parts {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let error = read(directory.path()).err().unwrap().to_string();
    assert!(error.contains("this is a directory: give the image files in it"), "{error}");
}

#[test]
fn the_preview_of_a_raw_image_is_not_taken_for_the_image() {
    for (name, entry) in [("NEF or ARW", (254, 1)), ("DNG", (50706, 0x0401))] {
        let error = error_of(&tiff(&upright(), &[entry]));
        assert!(error.contains("a raw image of a camera") && error.contains("raw converter"), "{name}: {error}");
    }
    assert_upright(&tiff(&upright(), &[(254, 0)]), "a full image");
}

#[test]
fn an_image_above_the_limit_of_opencv_is_named_as_too_large() {
    // 40000 x 40000 pixels, no pixel data.
    let header = [&40000_u32.to_be_bytes()[..], &40000_u32.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let png =
        [&b"\x89PNG\r\n\x1A\n"[..], &png_chunk(b"IHDR", &header), &png_chunk(b"IDAT", &[]), &png_chunk(b"IEND", &[])];
    let error = error_of(&png.concat());
    assert!(error.contains("a PNG image that is larger than OpenCV reads (2^30 pixels"), "{error}");
    assert!(error.contains("scale it down"), "{error}");
    let gif = [&b"GIF89a\xFF\xFF\xFF\xFF\x80\0\0"[..], &[0; 6], b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"].concat();
    let error = error_of(&gif);
    assert!(error.contains("65535 x 65535 pixels"), "{error}");
}

#[test]
fn lines_of_opencv_lose_their_place_in_its_source() {
    for (line, expected) in [
        (
            "[ WARN:0@0.012] global ./modules/imgcodecs/src/grfmt_tiff.cpp (629) readData OpenCV TIFF: 32-bit samples",
            "OpenCV TIFF: 32-bit samples",
        ),
        ("[ WARN:0@0.025] global grfmt_tiff.cpp:710 readData OpenCV TIFF: 32-bit", "OpenCV TIFF: 32-bit"),
        (
            "[ERROR:0@0.027] global loadsave.cpp:910 imdecode_ imdecode_(''): can't read data: OpenCV(4.10.0) \
             ./a.cpp:1: error: (-2:Unspecified error) Unexpected end of input stream in function 'readBlock'",
            "Unexpected end of input stream",
        ),
        ("OpenCV(4.10.0) ./a.cpp:129: error: (-2:Unspecified error) in function 'virtual bool cv::A::b()'", ""),
        ("> WebP backend does not support this", "WebP backend does not support this"),
        ("global", "global"),
        ("] global x", "x"),
        (
            "imdecode_(''): can't read data: OpenCV(4.6.0) ./a.cpp:102: error: (-2:Unspecified error) Unexpected end \
             of input stream in function 'readBlock'",
            "Unexpected end of input stream",
        ),
        ("libpng error: IDAT: CRC error", "libpng error: IDAT: CRC error"),
    ] {
        assert_eq!(without_origin(line), expected);
    }
}

/// First bytes of files.
const STARTS: &[&[u8]] = &[
    b"\xFF\xD8\xFF",
    b"\x89PNG\r\n\x1A\n",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x18ftyp",
    b"<html",
    b"",
];

proptest! {
    /// EXIF data from outside: any bytes, and valid data with damaged bytes.
    #[test]
    fn exif_data_of_any_bytes_gives_a_valid_orientation(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        damage in proptest::collection::vec((0_usize..26, any::<u8>()), 0..8),
        little_endian: bool,
    ) {
        let mut valid = exif(6);
        damage.iter().for_each(|(at, byte)| valid[*at] = *byte);
        let order: &[u8] = if little_endian { b"II*\0\x08\0\0\0" } else { b"MM\0*\0\0\0\x08" };
        for data in [bytes.clone(), valid, [order, &bytes].concat()] {
            let app1 = segment(0xE1, &[b"Exif\0\0", &data[..]].concat());
            let files = [
                (Format::Jpeg, [&[0xFF, 0xD8][..], &app1].concat()),
                (Format::Png, [&b"\x89PNG\r\n\x1A\n"[..], &png_chunk(b"eXIf", &data)].concat()),
                (Format::WebP, webp(&riff_chunk(b"EXIF", &data))),
            ];
            for (format, file) in files {
                prop_assert!((1..=8).contains(&orientation::of(format, &file)));
            }
            let _ = kind::camera_raw(&data);
        }
    }

    /// Files from outside: containers with damaged lengths and any content.
    #[test]
    fn any_bytes_are_an_image_or_an_error(
        start in proptest::sample::select(STARTS),
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let file = [start, &bytes].concat();
        let format = kind::format(&file);
        prop_assert!((1..=8).contains(&orientation::of(format, &file)));
        let _ = (kind::of(&file), kind::camera_raw(&file), container::webp_first_frame(&file));
        let _ = container::gif_first_frame(&file);
    }

    /// A valid file with damaged bytes.
    #[test]
    fn a_damaged_file_is_an_image_or_an_error(
        which in 0_usize..4,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let image = stored(6);
        let mut file = match which {
            0 => jpeg_with(&image, &[exif_segment(6)]),
            1 => encode(".png", &image),
            2 => {
                let still = encode(".webp", &image);
                webp(&[&webp_header(0x08, (32, 48)), &still[12..], &riff_chunk(b"EXIF", &exif(6))].concat())
            }
            _ => tiff(&image, &[(274, 6)]),
        };
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Err(error) = read_bytes(&file) {
            let error = format!("{error:#}");
            prop_assert!(error.contains(": ") && !error.contains('\n'), "{error}");
        }
    }
}

#[test]
fn an_image_that_another_process_reads_is_replaced_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("face-0.png");
    fs::write(&file, "the crop of an earlier run").unwrap();
    let mut reader = fs::File::open(&file).unwrap();
    let image = OwnedImage::new(ImageInfo::new(PixelFormat::Bgr, 2, 2), vec![7; 12]).unwrap();
    write(&file, &image).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!(text, "the crop of an earlier run");
    assert_eq!(read(&file).unwrap().image.data(), image.data());
}
