//! Reading and writing image files with OpenCV.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use opencv::boxed_ref::BoxedRef;
use opencv::core::{Mat, Vector};
use opencv::imgcodecs::{self, IMREAD_COLOR};
use opencv::prelude::*;
use retinaface::image::{ImageInfo, OwnedImage, PixelFormat};

use crate::atomic_file;

/// Reads an image as BGR, rotated as its EXIF orientation requires.
pub(crate) fn read(path: &Path) -> anyhow::Result<OwnedImage> {
    let bytes = fs::read(path)?;
    if is_truncated_jpeg(&bytes) {
        bail!("the JPEG file is truncated: it has no end-of-image marker");
    }
    let bytes = Mat::from_slice(&bytes).context("the file is empty")?;
    // OpenCV returns an empty image or an error for a file that it cannot decode.
    let mat = imgcodecs::imdecode(&bytes, IMREAD_COLOR).ok().filter(|mat| !mat.empty());
    let mat = mat.context("not a readable image: the file is damaged or has an unsupported format")?;
    let info = ImageInfo::new(PixelFormat::Bgr, mat.cols() as usize, mat.rows() as usize);
    Ok(OwnedImage::new(info, mat.data_bytes()?.to_vec())?)
}

/// Whether a JPEG file ends before its end-of-image marker. Decoders fill the missing part with
/// grey and return no error.
///
/// Walks the segments, so that the markers of an embedded thumbnail or of an appended video do not
/// count. Source: ITU-T T.81, annex B.
fn is_truncated_jpeg(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(&[0xFF, 0xD8]) else { return false };
    loop {
        // Fill bytes may precede a marker.
        let [0xFF, marker, after @ ..] = rest else { return rest.len() < 2 };
        match marker {
            0xFF => rest = &rest[1..],
            0xD9 => return false,
            // Restart markers and TEM have no length.
            0xD0..=0xD7 | 0x01 => rest = after,
            _ => {
                let [high, low, ..] = after else { return true };
                let Some(next) = after.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return true };
                rest = next;
                if *marker == 0xDA {
                    // In entropy-coded data, FF precedes 00, a restart marker or the next segment's
                    // marker.
                    let is_marker = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xD0..=0xD7);
                    let Some(at) = rest.windows(2).position(is_marker) else { return true };
                    rest = &rest[at..];
                }
            }
        }
    }
}

/// Writes a BGR image as a whole; the file extension selects the format.
pub(crate) fn write(path: &Path, image: &OwnedImage) -> anyhow::Result<()> {
    let (width, height) = (image.view().width(), image.view().height());
    let rows: BoxedRef<'_, Mat> = Mat::new_rows_cols_with_bytes::<opencv::core::Vec3b>(
        i32::try_from(height)?,
        i32::try_from(width)?,
        image.data(),
    )?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("png");
    let mut bytes = Vector::new();
    if !imgcodecs::imencode(&format!(".{extension}"), &rows, &mut bytes, &Vector::new())? {
        bail!("OpenCV cannot write .{extension} files");
    }
    atomic_file::write(path, bytes.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(read(&file).unwrap().data(), image.data());
    }

    #[test]
    fn a_jpeg_file_without_an_end_of_image_marker_is_truncated() {
        let thumbnail = [0xFF, 0xE1, 0, 8, 0xFF, 0xDA, 1, 0xFF, 0xD9, 7];
        let scan = [0xFF, 0xDA, 0, 3, 9, 1, 0xFF, 0x00, 2, 0xFF, 0xD0, 3];
        let whole = [&[0xFF, 0xD8][..], &thumbnail, &scan, &scan, &[0xFF, 0xD9]].concat();
        assert!(!is_truncated_jpeg(&whole));
        let with_video = [&whole[..], &[1, 0xFF, 0xDA, 5, 0xFF, 0xDA]].concat();
        assert!(!is_truncated_jpeg(&with_video), "data after the image does not matter");
        for len in 4..whole.len() {
            assert!(is_truncated_jpeg(&whole[..len]), "truncated after {len} bytes");
        }
        assert!(!is_truncated_jpeg(b"\x89PNG"));
    }
}
