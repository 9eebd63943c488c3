//! Reading and writing image files.
//!
//! OpenCV decodes; the crate `gif` decodes GIF. A file is recognised by its content, never by its
//! name. OpenCV is told to ignore the EXIF orientation: it knows it in some formats only.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use opencv::boxed_ref::BoxedRef;
use opencv::core::{LogLevel, Mat, Vector, set_log_level};
use opencv::imgcodecs::{self, IMREAD_COLOR, IMREAD_IGNORE_ORIENTATION};
use opencv::prelude::*;
use retinaface::image::{ImageInfo, OwnedImage, PixelFormat};

use self::jpeg::{End, Jpeg};
use self::kind::{Format, Kind, OTHER_FILE};
use crate::{atomic_file, stderr};

pub(crate) mod container;
mod jpeg;
mod kind;
mod orientation;
#[cfg(test)]
mod tests;

/// An image file that was read.
pub(crate) struct InputImage {
    /// BGR, upright.
    pub(crate) image: OwnedImage,
    /// What the decoder complained about.
    pub(crate) warning: Option<String>,
}

/// Reads an image as BGR, rotated as its EXIF data requires. Of an animation or a file with several
/// pages it reads the first.
pub(crate) fn read(path: &Path) -> anyhow::Result<InputImage> {
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::IsADirectory => {
            anyhow::anyhow!("this is a directory: give the image files in it, as in DIR/*.jpg")
        }
        _ => error.into(),
    })?;
    ensure!(!bytes.is_empty(), "the file is empty: copy or download it again");
    let (mat, warnings) = decode(&bytes)?;
    let mat = orientation::upright(mat, orientation(&bytes))?;
    let info = ImageInfo::new(PixelFormat::Bgr, mat.cols() as usize, mat.rows() as usize);
    let warning = (!warnings.is_empty()).then(|| format!("warning of the decoder: {}", warnings.join("; ")));
    Ok(InputImage { image: OwnedImage::new(info, mat.data_bytes()?.to_vec())?, warning })
}

/// The orientation of an image by its EXIF data, 1..=8 with the meaning of TIFF's tag 274.
pub(crate) fn orientation(bytes: &[u8]) -> u32 {
    orientation::of(kind::format(bytes), bytes)
}

/// Decodes a file. Returns the image as it is stored, and the lines of the decoder.
fn decode(bytes: &[u8]) -> anyhow::Result<(Mat, Vec<String>)> {
    if let Some(kind) = kind::camera_raw(bytes) {
        bail!(unsupported(kind));
    }
    match kind::format(bytes) {
        Format::Gif => {
            let image = container::gif_first_frame(bytes);
            return Ok((image.map_err(|error| anyhow::anyhow!(unreadable(bytes, &format!("{error:#}"))))?, Vec::new()));
        }
        Format::WebP => {
            if let Some(frame) = container::webp_first_frame(bytes) {
                let (image, warnings) = decode_with_opencv(&frame.file)?;
                return Ok((frame.complete(image)?, warnings));
            }
        }
        Format::Jpeg => {
            let jpeg = Jpeg::parse(bytes).context("not a JPEG file")?;
            // Damaged data can look like a segment that reaches beyond the end of the file.
            let is_damaged = jpeg.has_scan() && bytes.ends_with(&[0xFF, 0xD9]);
            if jpeg.end != End::Marker && !is_damaged && jpeg.unsupported().is_none() {
                return decode_jpeg_without_end(bytes, &jpeg);
            }
        }
        Format::Png | Format::Tiff | Format::Other => {}
    }
    decode_with_opencv(bytes)
}

/// Decodes a JPEG file that lacks the end-of-image marker, if nothing else is missing. Without this
/// check, a decoder fills the missing part with grey.
fn decode_jpeg_without_end(bytes: &[u8], jpeg: &Jpeg<'_>) -> anyhow::Result<(Mat, Vec<String>)> {
    const TRUNCATED: &str = "the JPEG file is truncated: copy or download it again";
    ensure!(jpeg.ends_in_last_scan(), TRUNCATED);
    // An interrupted copy can leave zero bytes in place of the marker.
    let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    for data in [bytes, &bytes[..bytes.len() - zeros]] {
        let whole = [data.strip_suffix(&[0xFF]).unwrap_or(data), &[0xFF, 0xD9]].concat();
        // The decoder warns if it lacks data, or if it has more than it needs.
        if let Ok((image, warnings)) = decode_with_opencv(&whole)
            && warnings.is_empty()
        {
            return Ok((image, warnings));
        }
    }
    bail!(TRUNCATED)
}

fn decode_with_opencv(bytes: &[u8]) -> anyhow::Result<(Mat, Vec<String>)> {
    let input = Mat::from_slice(bytes)?;
    // The libraries below OpenCV write to standard error, or to OpenCV's log.
    let (image, lines) = stderr::capture(|| {
        let level = set_log_level(LogLevel::LOG_LEVEL_WARNING);
        let image = imgcodecs::imdecode(&input, IMREAD_COLOR | IMREAD_IGNORE_ORIENTATION);
        // Only a missing library could fail, which `imdecode` needs, too.
        let _ = level.and_then(set_log_level);
        image
    });
    let mut lines = lines.iter().map(|line| without_origin(line).to_owned()).collect::<Vec<_>>();
    lines.retain(|line| !line.is_empty());
    lines.dedup();
    match image {
        Ok(image) if !image.empty() => Ok((image, lines)),
        Ok(_) => bail!(unreadable(bytes, &lines.join("; "))),
        // The name of the limits in OpenCV's assertions.
        Err(error) if error.message.contains("CV_IO_MAX_IMAGE_") => {
            let name = kind::of(bytes).map_or("an image", |kind| kind.name);
            bail!(
                "the file is {name} that is larger than OpenCV reads (2^30 pixels, 2^20 on a side): scale it down or \
                 cut it into parts, or raise OPENCV_IO_MAX_IMAGE_PIXELS, _WIDTH or _HEIGHT"
            )
        }
        Err(error) => bail!(unreadable(bytes, without_origin(&error.message))),
    }
}

/// Why a file is not read, and what to do.
fn unreadable(bytes: &[u8], reason: &str) -> String {
    let Some(kind) = kind::of(bytes) else {
        return format!("the file is not an image of a known format: {OTHER_FILE}");
    };
    if !kind.is_readable() {
        return unsupported(kind);
    }
    let reason = if reason.is_empty() { "it is truncated, damaged or of an unusual variant" } else { reason };
    format!("the file is {} that cannot be decoded ({reason}): {}", kind.name, kind.remedy)
}

fn unsupported(kind: Kind) -> String {
    format!("the file is {}, which is not read: {}", kind.name, kind.remedy)
}

/// The text of a line of OpenCV, without its prefix and its place in OpenCV's source.
fn without_origin(line: &str) -> &str {
    // OpenCV 4.6: [ WARN:0@0.012] global ./modules/imgcodecs/src/grfmt_tiff.cpp (629) readData TEXT
    // OpenCV 4.10: [ WARN:0@0.012] global grfmt_tiff.cpp:710 readData TEXT
    let after_word = |text: &'_ str| text.split_once(' ').map_or(0, |(word, _)| word.len() + 1);
    let mut text = line.split_once("] global ").map_or(line, |(_, text)| {
        let text = &text[after_word(text)..];
        let text = if text.starts_with('(') { &text[after_word(text)..] } else { text };
        &text[after_word(text)..]
    });
    // can't read data: OpenCV(4.6.0) PATH:102: error: (-2:Unspecified error) TEXT in function 'readBlock'
    if let Some((_, error)) = text.split_once(" error: (") {
        text = error.split_once(") ").map_or(error, |(_, error)| error);
        text = text.split_once("in function '").map_or(text, |(text, _)| text);
    }
    // Further lines of an error begin with `>`.
    text.trim_start_matches("> ").trim()
}

/// Writes a BGR image as a whole, without metadata; the file extension selects the format.
pub(crate) fn write(path: &Path, image: &OwnedImage) -> anyhow::Result<()> {
    write_as(path, path.extension().and_then(|extension| extension.to_str()).unwrap_or("png"), image)
}

/// As [`write()`], with the format of this file extension.
pub(crate) fn write_as(path: &Path, extension: &str, image: &OwnedImage) -> anyhow::Result<()> {
    let (width, height) = (image.view().width(), image.view().height());
    let rows: BoxedRef<'_, Mat> = Mat::new_rows_cols_with_bytes::<opencv::core::Vec3b>(
        i32::try_from(height)?,
        i32::try_from(width)?,
        image.data(),
    )?;
    let mut bytes = Vector::new();
    if !imgcodecs::imencode(&format!(".{extension}"), &rows, &mut bytes, &Vector::new())? {
        bail!("OpenCV cannot write .{extension} files");
    }
    atomic_file::write(path, bytes.as_slice())
}
