//! Chunks of PNG and WebP files, and the first frame of an animation.

use std::io::Cursor;
use std::num::NonZeroU64;

use anyhow::{Context as _, bail, ensure};
use opencv::boxed_ref::BoxedRef;
use opencv::core::{Mat, Rect, Scalar, Vec3b};
use opencv::prelude::*;

/// Maximum number of pixels of an image, as in OpenCV.
const MAX_PIXELS: usize = 1 << 30;

/// A type and its data.
type Chunk<'a> = (&'a [u8; 4], &'a [u8]);

/// The chunks of a PNG file up to its end or the first damaged one.
pub(super) fn png_chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let (kind, after) = after.split_first_chunk::<4>()?;
        let (data, after) = after.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        // A checksum of 4 bytes follows.
        rest = after.get(4..).unwrap_or_default();
        Some((kind, data))
    })
}

/// The chunks of a WebP file up to its end or the first damaged one.
pub(super) fn webp_chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    riff_chunks(bytes.get(12..).unwrap_or_default())
}

fn riff_chunks(mut rest: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    std::iter::from_fn(move || {
        let (kind, after) = rest.split_first_chunk::<4>()?;
        let (len, after) = after.split_first_chunk::<4>()?;
        let (data, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        // Chunks begin at even positions.
        rest = if data.len().is_multiple_of(2) { after } else { after.get(1..).unwrap_or_default() };
        Some((kind, data))
    })
}

/// The first frame of an animation, and its place in the whole picture.
pub(crate) struct FirstFrame {
    /// A WebP file of this frame alone.
    pub(crate) file: Vec<u8>,
    place: Place,
}

/// Sizes and position in pixels.
#[derive(Clone, Copy, Debug)]
struct Place {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

/// The first frame of an animated WebP file; `None` if the file is a still image or damaged.
///
/// The decoder of OpenCV 4.6 to 4.10 refuses animations. The transparency of the frame is left out,
/// as for still images.
pub(crate) fn webp_first_frame(bytes: &[u8]) -> Option<FirstFrame> {
    let mut chunks = webp_chunks(bytes);
    // Flags, 3 reserved bytes, then width and height less one.
    let (_, header) = chunks.find(|(kind, _)| *kind == b"VP8X")?;
    let u24 = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 3)?;
        Some(usize::from(bytes[0]) | usize::from(bytes[1]) << 8 | usize::from(bytes[2]) << 16)
    };
    let (width, height) = (u24(header, 4)? + 1, u24(header, 7)? + 1);
    let (_, frame) = chunks.find(|(kind, _)| *kind == b"ANMF")?;
    let place = Place { x: 2 * u24(frame, 0)?, y: 2 * u24(frame, 3)?, width, height };
    // Position, size, duration and flags take 16 bytes.
    let is_image = |(kind, _): &Chunk<'_>| *kind == b"VP8 " || *kind == b"VP8L";
    let (kind, data) = riff_chunks(frame.get(16..)?).find(is_image)?;
    let (len, padding) = (data.len() as u32, data.len() % 2);
    let size = len + padding as u32 + 12;
    let head = [&b"RIFF"[..], &size.to_le_bytes(), b"WEBP", kind, &len.to_le_bytes()].concat();
    Some(FirstFrame { file: [&head, data, &[0][..padding]].concat(), place })
}

impl FirstFrame {
    /// The whole picture at the time of the first frame, which is `image`.
    pub(super) fn complete(&self, image: Mat) -> anyhow::Result<Mat> {
        complete(image, self.place)
    }
}

/// The first frame of a GIF file, as BGR.
pub(crate) fn gif_first_frame(bytes: &[u8]) -> anyhow::Result<Mat> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    options.set_memory_limit(gif::MemoryLimit::Bytes(
        NonZeroU64::new(4 * MAX_PIXELS as u64).context("the limit is not 0")?,
    ));
    let mut decoder = options.read_info(Cursor::new(bytes))?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let frame = decoder.read_next_frame()?.context("it has no frame")?;
    let (frame_width, frame_height) = (usize::from(frame.width), usize::from(frame.height));
    ensure!(frame_width > 0 && frame_height > 0, "its first frame is empty");
    let bgr = frame.buffer.chunks_exact(4).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect::<Vec<_>>();
    let rows: BoxedRef<'_, Mat> =
        Mat::new_rows_cols_with_bytes::<Vec3b>(frame_height as i32, frame_width as i32, &bgr)?;
    complete(rows.try_clone()?, Place { x: usize::from(frame.left), y: usize::from(frame.top), width, height })
}

/// Places a frame on a black picture, unless it is the whole picture.
fn complete(frame: Mat, place: Place) -> anyhow::Result<Mat> {
    let (cols, rows) = (frame.cols() as usize, frame.rows() as usize);
    let (width, height) = (place.width.max(place.x + cols), place.height.max(place.y + rows));
    if (width, height) == (cols, rows) {
        return Ok(frame);
    }
    if width * height > MAX_PIXELS {
        bail!("it has {width} x {height} pixels, more than {MAX_PIXELS}");
    }
    let mut picture = Mat::new_rows_cols_with_default(height as i32, width as i32, frame.typ(), Scalar::all(0.0))?;
    let rect = Rect::new(place.x as i32, place.y as i32, cols as i32, rows as i32);
    frame.copy_to(&mut Mat::roi_mut(&mut picture, rect)?)?;
    Ok(picture)
}
