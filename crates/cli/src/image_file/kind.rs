//! What a file is, by its content.

use exif::{In, Tag};

use super::jpeg::Jpeg;
use super::orientation;

/// The formats that are treated in a way of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    Gif,
    WebP,
    Tiff,
    Other,
}

/// The name of a kind of files, and what the user can do with one that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// With its article.
    pub(super) name: &'static str,
    pub(super) remedy: &'static str,
}

impl Kind {
    /// Whether files of this kind are read unless they are damaged.
    pub(super) fn is_readable(self) -> bool {
        self.remedy == REPAIR
    }
}

/// For images in formats that are read.
const REPAIR: &str = "copy or download the file again, or save it as JPEG or PNG with an image editor";
/// For images in other formats.
pub(super) const CONVERT: &str = "convert it to JPEG or PNG, as in `magick IN OUT.png`";
const CONVERT_HEIF: &str = "convert it to JPEG or PNG, as in `heif-convert IN OUT.png` (package libheif-examples)";
const CONVERT_JXL: &str = "convert it to JPEG or PNG, as in `djxl IN OUT.png` (package libjxl-tools)";
const DEVELOP: &str = "develop it to JPEG or TIFF with a raw converter such as darktable or RawTherapee";
const RENDER: &str = "render it to PNG, as in `rsvg-convert IN -o OUT.png`";
const RENDER_PAGES: &str = "extract or render its pages, as in `pdftoppm -png IN OUT`";
const PLAY: &str = "process videos with a pipeline, as in `gst-launch-1.0 filesrc location=IN ! decodebin \
                    ! videoflip video-direction=auto ! retinaface ! facemetapublish ! fakesink`";
const EXTRACT: &str = "extract the images from it";
pub(super) const OTHER_FILE: &str = "give an image file, such as JPEG, PNG, WebP, TIFF or GIF";

const JPEG: &str = "a JPEG image";
const PNG: &str = "a PNG image";
const GIF: &str = "a GIF image";
const WEBP: &str = "a WebP image";
const TIFF: &str = "a TIFF image";
const RAW: &str = "a raw image of a camera";
const ARCHIVE: &str = "an archive or a compressed file";

/// First bytes, name and remedy. The first that fits is taken.
const SIGNATURES: [(&[u8], &str, &str); 64] = [
    (b"\xFF\xD8\xFF\xF7", "a JPEG-LS image", CONVERT),
    (b"\xFF\xD8", JPEG, REPAIR),
    (b"\x89PNG\r\n\x1A\n", PNG, REPAIR),
    (b"GIF8", GIF, REPAIR),
    (b"II*\0\x10\0\0\0CR", RAW, DEVELOP),
    (b"II*\0", TIFF, REPAIR),
    (b"MM\0*", TIFF, REPAIR),
    (b"II+\0", TIFF, REPAIR),
    (b"MM\0+", TIFF, REPAIR),
    (b"IIRO", RAW, DEVELOP),
    (b"IIRS", RAW, DEVELOP),
    (b"MMOR", RAW, DEVELOP),
    (b"IIU\0", RAW, DEVELOP),
    (b"FUJIFILMCCD-RAW", RAW, DEVELOP),
    (b"FOVb", RAW, DEVELOP),
    (b"\0MRM", RAW, DEVELOP),
    (b"BM", "a BMP image", REPAIR),
    (b"\0\0\0\x0CjP  ", "a JPEG 2000 image", REPAIR),
    (b"\xFF\x4F\xFF\x51", "a JPEG 2000 image", REPAIR),
    (b"P1", "a PNM image", REPAIR),
    (b"P2", "a PNM image", REPAIR),
    (b"P3", "a PNM image", REPAIR),
    (b"P4", "a PNM image", REPAIR),
    (b"P5", "a PNM image", REPAIR),
    (b"P6", "a PNM image", REPAIR),
    (b"P7", "a PNM image", REPAIR),
    (b"\x59\xA6\x6A\x95", "a Sun raster image", REPAIR),
    (b"#?RADIANCE", "a Radiance HDR image", REPAIR),
    (b"#?RGBE", "a Radiance HDR image", REPAIR),
    (b"\0\0\0\x0CJXL ", "a JPEG XL image", CONVERT_JXL),
    (b"\xFF\x0A", "a JPEG XL image", CONVERT_JXL),
    (b"II\xBC", "a JPEG XR image", CONVERT),
    (b"\x76\x2F\x31\x01", "an OpenEXR image", CONVERT),
    (b"8BPS", "a Photoshop file", CONVERT),
    (b"gimp xcf", "a GIMP file", CONVERT),
    (b"\0\0\x01\0", "an icon (ICO)", CONVERT),
    (b"qoif", "a QOI image", CONVERT),
    (b"DDS ", "a DDS texture", CONVERT),
    (b"BPG\xFB", "a BPG image", CONVERT),
    (b"FLIF", "a FLIF image", CONVERT),
    (b"farbfeld", "a farbfeld image", CONVERT),
    (b"AT&TFORM", "a DjVu document", RENDER_PAGES),
    (b"%PDF-", "a PDF document", RENDER_PAGES),
    (b"%!PS", "a PostScript document", RENDER_PAGES),
    (b"\x1A\x45\xDF\xA3", "a video (Matroska or WebM)", PLAY),
    (b"FLV\x01", "a video (FLV)", PLAY),
    (b"\x30\x26\xB2\x75", "a video (ASF or WMV)", PLAY),
    (b"\0\0\x01\xBA", "a video (MPEG)", PLAY),
    (b"\0\0\x01\xB3", "a video (MPEG)", PLAY),
    (b"\0\0\0\x01", "a video (H.264 or H.265)", PLAY),
    (b"OggS", "a video or audio file (Ogg)", PLAY),
    (b"DKIF", "a video (IVF)", PLAY),
    (b"YUV4MPEG2", "a video (Y4M)", PLAY),
    (b"PK\x03\x04", ARCHIVE, EXTRACT),
    (b"\x1F\x8B", ARCHIVE, EXTRACT),
    (b"BZh", ARCHIVE, EXTRACT),
    (b"\xFD7zXZ", ARCHIVE, EXTRACT),
    (b"7z\xBC\xAF", ARCHIVE, EXTRACT),
    (b"Rar!", ARCHIVE, EXTRACT),
    (b"\x28\xB5\x2F\xFD", ARCHIVE, EXTRACT),
    (b"\x7FELF", "a program or library", OTHER_FILE),
    (b"\x93NUMPY", "a NumPy array", "save it as PNG, as in `cv2.imwrite(\"out.png\", array)`"),
    (b"SQLite format 3", "a SQLite database", OTHER_FILE),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
];

/// The format of a file.
pub(super) fn format(bytes: &[u8]) -> Format {
    match by_signature(bytes).map(|kind| kind.name) {
        Some(JPEG) => Format::Jpeg,
        Some(PNG) => Format::Png,
        Some(GIF) => Format::Gif,
        Some(WEBP) => Format::WebP,
        Some(TIFF) => Format::Tiff,
        _ => Format::Other,
    }
}

/// What a file is; `None` if its format is unknown.
pub(super) fn of(bytes: &[u8]) -> Option<Kind> {
    let jpeg = || Jpeg::parse(bytes).and_then(|jpeg| jpeg.unsupported());
    jpeg().or_else(|| by_signature(bytes)).or_else(|| by_text(bytes))
}

/// A raw image of a camera. Its first image is a preview, which must not be taken for the image.
pub(super) fn camera_raw(bytes: &[u8]) -> Option<Kind> {
    let raw = Kind { name: RAW, remedy: DEVELOP };
    match by_signature(bytes)?.name {
        RAW => Some(raw),
        TIFF => {
            const NEW_SUBFILE_TYPE: u16 = 254;
            const DNG_VERSION: u16 = 50706;
            let exif = orientation::parse(bytes)?;
            let first = |tag| exif.get_field(Tag(exif::Context::Tiff, tag), In::PRIMARY);
            // Bit 0: a version of another image in the file at a lower resolution.
            let is_preview = first(NEW_SUBFILE_TYPE).and_then(|field| field.value.get_uint(0)).unwrap_or(0) & 1 == 1;
            (is_preview || first(DNG_VERSION).is_some()).then_some(raw)
        }
        _ => None,
    }
}

fn by_signature(bytes: &[u8]) -> Option<Kind> {
    let signature = SIGNATURES.into_iter().find(|(start, ..)| bytes.starts_with(start));
    let by_start = signature.map(|(_, name, remedy)| Kind { name, remedy });
    by_start.or_else(|| match (bytes.get(..4)?, bytes.get(4..8)?, bytes.get(8..12).unwrap_or_default()) {
        (b"RIFF", _, b"WEBP") => Some(Kind { name: WEBP, remedy: REPAIR }),
        (b"RIFF", _, b"AVI ") => Some(Kind { name: "a video (AVI)", remedy: PLAY }),
        (_, b"ftyp", _) => Some(by_brands(bytes)),
        (_, b"moov" | b"mdat" | b"wide", _) => Some(Kind { name: "a video (QuickTime)", remedy: PLAY }),
        _ if bytes[0] == 0x47 && bytes.get(188) == Some(&0x47) => {
            Some(Kind { name: "a video (MPEG transport stream)", remedy: PLAY })
        }
        _ if bytes.get(128..132) == Some(b"DICM") => Some(Kind { name: "a DICOM image", remedy: REPAIR }),
        _ => None,
    })
}

/// The kind of an ISO base media file, by the brands of its first box.
fn by_brands(bytes: &[u8]) -> Kind {
    let len = bytes.first_chunk::<4>().map_or(0, |len| u32::from_be_bytes(*len) as usize);
    let brands = bytes.get(8..len.clamp(12, 256)).unwrap_or(bytes);
    let has = |wanted: &[&[u8; 4]]| brands.chunks_exact(4).any(|brand| wanted.iter().any(|name| *name == brand));
    if has(&[b"avif", b"avis"]) {
        Kind { name: "an AVIF image", remedy: CONVERT_HEIF }
    } else if has(&[b"crx "]) {
        Kind { name: RAW, remedy: DEVELOP }
    } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        Kind { name: "a HEIC image", remedy: CONVERT_HEIF }
    } else {
        Kind { name: "a video (MP4 or QuickTime)", remedy: PLAY }
    }
}

/// The kind of a file without a signature.
fn by_text(bytes: &[u8]) -> Option<Kind> {
    const HEAD: usize = 1024;
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(Kind { name: "a file of zero bytes, as an interrupted copy leaves it", remedy: REPAIR });
    }
    let head = &bytes[..bytes.len().min(HEAD)];
    let is_text = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The limit may cut a character.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    if !head.iter().all(is_text) {
        return None;
    }
    let text = valid.trim_start_matches('\u{FEFF}').trim_start().to_ascii_lowercase();
    Some(if text.starts_with("<!doctype html") || text.starts_with("<html") {
        let remedy = "the server has probably sent an error or a login page: open the file in a browser, and download \
                      the image again";
        Kind { name: "an HTML page", remedy }
    } else if text.contains("<svg") {
        Kind { name: "an SVG drawing", remedy: RENDER }
    } else {
        Kind { name: "a text file", remedy: OTHER_FILE }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_named_by_its_content() {
        let name = |bytes: &[u8]| of(bytes).map_or("unknown", |kind| kind.name);
        for (bytes, expected) in [
            (&b"\0\0\0\x1Cftypavif\0\0\0\0mif1avifmiaf"[..], "an AVIF image"),
            (b"\0\0\0\x1Cftypmif1\0\0\0\0mif1avifmiaf", "an AVIF image"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
            (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", RAW),
            (b"\0\0\0\x18ftypisom\0\0\x02\0isomavc1", "a video (MP4 or QuickTime)"),
            (b"\0\0\0\x08ftyp", "a video (MP4 or QuickTime)"),
            (b"\0\0\0\x14ftypqt  \0\0\x02\0qt  ", "a video (MP4 or QuickTime)"),
            (b"RIFF\0\0\0\0AVI LIST", "a video (AVI)"),
            (b"RIFF\0\0\0\0WEBPVP8 ", WEBP),
            (b"\x76\x2F\x31\x01\x02\0\0\0", "an OpenEXR image"),
            (b"\xFF\x0A\x7F\x12", "a JPEG XL image"),
            (b"II*\0\x10\0\0\0CR\x02\0", RAW),
            (b"II*\0\x08\0\0\0", TIFF),
            (b"\xEF\xBB\xBF \n<!DOCTYPE HTML><p>", "an HTML page"),
            (b"<html lang=en>", "an HTML page"),
            (b"<?xml version=\"1.0\"?>\n<svg width=\"1\">", "an SVG drawing"),
            (b"<?xml version=\"1.0\"?><note>", "a text file"),
            (b"{\"error\": 404}", "a text file"),
            ("Gesicht für Gesicht\r\n".as_bytes(), "a text file"),
            (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer, not the file itself"),
            (b"%PDF-1.7", "a PDF document"),
            (&[0; 512], "a file of zero bytes, as an interrupted copy leaves it"),
            (b"\x01\x02\x03\x04\x05", "unknown"),
            (b"\xFF\xD8\xFF\xC1\0\x0B\x0C\0\x08\0\x08\x01\x01\x11\0", "a JPEG image of 12 bits per sample"),
            (b"\xFF\xD8\xFF\xC3\0\x0B\x08\0\x08\0\x08\x01\x01\x11\0", "a lossless JPEG image"),
        ] {
            assert_eq!(name(bytes), expected, "{}", bytes.escape_ascii());
        }
        // The limit of the text that is looked at cuts a character.
        assert_eq!(name(format!("{}ü", "x".repeat(1023)).as_bytes()), "a text file");
    }
}
