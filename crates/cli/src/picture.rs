//! Picture files, by OpenCV.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use opencv::boxed_ref::BoxedRef;
use opencv::core::{Mat, Vector};
use opencv::imgcodecs::{self, IMREAD_COLOR};
use opencv::prelude::*;
use retinaface::image::{ImageInfo, OwnedImage, PixelFormat};

/// Reads a picture as BGR, turned as its EXIF data says.
pub(super) fn read(path: &Path) -> anyhow::Result<OwnedImage> {
    let bytes = fs::read(path)?;
    if is_cut_jpeg(&bytes) {
        bail!("the JPEG file is truncated: it has no end");
    }
    let bytes = Mat::from_slice(&bytes).context("an empty file")?;
    // OpenCV gives an empty picture, or an error, for what it cannot read.
    let mat = imgcodecs::imdecode(&bytes, IMREAD_COLOR).ok().filter(|mat| !mat.empty());
    let mat = mat.context("not a picture that can be read (broken, or of an unknown format)")?;
    let info = ImageInfo::new(PixelFormat::Bgr, mat.cols() as usize, mat.rows() as usize);
    Ok(OwnedImage::new(info, mat.data_bytes()?.to_vec())?)
}

/// Whether a JPEG file ends before its picture does. Decoders fill the rest with grey and say nothing.
///
/// Walks the segments, so that neither a thumbnail within nor a video behind the picture counts. Source: ITU-T T.81,
/// annex B.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(&[0xFF, 0xD8]) else { return false };
    loop {
        // Fill bytes may stand before a marker.
        let [0xFF, marker, after @ ..] = rest else { return rest.len() < 2 };
        match marker {
            0xFF => rest = &rest[1..],
            0xD9 => return false,
            // Without a length: restart markers, TEM.
            0xD0..=0xD7 | 0x01 => rest = after,
            _ => {
                let [high, low, ..] = after else { return true };
                let Some(next) = after.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return true };
                rest = next;
                if *marker == 0xDA {
                    // The scan's data: FF is followed by 00, a restart marker or the next segment's marker.
                    let is_marker = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xD0..=0xD7);
                    let Some(at) = rest.windows(2).position(is_marker) else { return true };
                    rest = &rest[at..];
                }
            }
        }
    }
}

/// Writes a BGR picture; the name's ending says how.
pub(super) fn write(path: &Path, image: &OwnedImage) -> anyhow::Result<()> {
    let (width, height) = (image.view().width(), image.view().height());
    let rows: BoxedRef<'_, Mat> = Mat::new_rows_cols_with_bytes::<opencv::core::Vec3b>(
        i32::try_from(height)?,
        i32::try_from(width)?,
        image.data(),
    )?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("png");
    let mut bytes = Vector::new();
    if !imgcodecs::imencode(&format!(".{ending}"), &rows, &mut bytes, &Vector::new())? {
        bail!("OpenCV cannot write a .{ending} file");
    }
    fs::write(path, bytes.as_slice()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_file_is_cut_when_its_picture_has_no_end() {
        let thumbnail = [0xFF, 0xE1, 0, 8, 0xFF, 0xDA, 1, 0xFF, 0xD9, 7];
        let scan = [0xFF, 0xDA, 0, 3, 9, 1, 0xFF, 0x00, 2, 0xFF, 0xD0, 3];
        let whole = [&[0xFF, 0xD8][..], &thumbnail, &scan, &scan, &[0xFF, 0xD9]].concat();
        assert!(!is_cut_jpeg(&whole));
        let with_video = [&whole[..], &[1, 0xFF, 0xDA, 5, 0xFF, 0xDA]].concat();
        assert!(!is_cut_jpeg(&with_video), "what stands behind the picture does not matter");
        for len in 4..whole.len() {
            assert!(is_cut_jpeg(&whole[..len]), "cut after {len} bytes");
        }
        assert!(!is_cut_jpeg(b"\x89PNG"));
    }
}
