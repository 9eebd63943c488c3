//! The orientation of an image: where its first row and column are shown.

use exif::{Exif, In, Reader, Tag};
use opencv::core::{self, Mat};

use super::container::{png_chunks, webp_chunks};
use super::jpeg::Jpeg;
use super::kind::Format;

/// The orientation of an image by its EXIF data, 1..=8 with the meaning of TIFF's tag 274. It is 1,
/// upright, if the file has none or a value out of range.
///
/// TIFF files give 1: OpenCV rotates them itself, and cannot be told not to.
pub(super) fn of(format: Format, bytes: &[u8]) -> u32 {
    let orientation = match format {
        Format::Jpeg => Jpeg::parse(bytes).and_then(|jpeg| jpeg.exif.into_iter().find_map(in_exif)),
        Format::Png => png_chunks(bytes).filter(|(kind, _)| *kind == b"eXIf").find_map(|(_, data)| in_exif(data)),
        Format::WebP => webp_chunks(bytes).filter(|(kind, _)| *kind == b"EXIF").find_map(|(_, data)| in_exif(data)),
        Format::Gif | Format::Tiff | Format::Other => None,
    };
    orientation.filter(|orientation| (1..=8).contains(orientation)).unwrap_or(1)
}

/// The value of the orientation tag in EXIF data. Some programs write the prefix of JPEG in other
/// formats, too.
fn in_exif(data: &[u8]) -> Option<u32> {
    let field = parse(data.strip_prefix(b"Exif\0\0").unwrap_or(data))?;
    field.get_field(Tag::Orientation, In::PRIMARY)?.value.get_uint(0)
}

/// Parses a TIFF structure. A damaged part does not hide the others.
pub(super) fn parse(tiff: &[u8]) -> Option<Exif> {
    let exif = Reader::new().continue_on_error(true).read_raw(tiff.to_vec());
    exif.or_else(|error| error.distill_partial_result(|_| ())).ok()
}

/// Rotates and flips an image so that it is upright.
pub(super) fn upright(image: Mat, orientation: u32) -> opencv::Result<Mat> {
    let mut upright = Mat::default();
    match orientation {
        2 => core::flip(&image, &mut upright, 1)?,
        3 => core::rotate(&image, &mut upright, core::ROTATE_180)?,
        4 => core::flip(&image, &mut upright, 0)?,
        5 => core::transpose(&image, &mut upright)?,
        6 => core::rotate(&image, &mut upright, core::ROTATE_90_CLOCKWISE)?,
        7 => {
            let mut transposed = Mat::default();
            core::transpose(&image, &mut transposed)?;
            core::rotate(&transposed, &mut upright, core::ROTATE_180)?;
        }
        8 => core::rotate(&image, &mut upright, core::ROTATE_90_COUNTERCLOCKWISE)?,
        _ => return Ok(image),
    }
    Ok(upright)
}
