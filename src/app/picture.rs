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
/// Within the picture's data a byte FF is always followed by 00 or a restart marker, so an end marker
/// after the last start of a scan is the picture's own.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xFF, marker]);
    bytes.starts_with(&[0xFF, 0xD8]) && last(0xD9).unwrap_or(0) < last(0xDA).unwrap_or(bytes.len())
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
    fn a_jpeg_file_is_cut_when_its_last_scan_has_no_end() {
        let whole = [0xFF, 0xD8, 0xFF, 0xE1, 0xFF, 0xDA, 1, 0xFF, 0xD9, 0xFF, 0xDA, 1, 0xFF, 0x00, 2, 0xFF, 0xD9, 9, 9];
        assert!(!is_cut_jpeg(&whole), "bytes after the end do not matter");
        assert!(is_cut_jpeg(&whole[..15]), "the thumbnail's end is not the picture's");
        assert!(!is_cut_jpeg(b"\x89PNG"));
    }
}
