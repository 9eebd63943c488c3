//! The program's own parsers of untrusted files, for the fuzz targets.

use opencv::prelude::*;

use crate::eval::{track, truth};
use crate::image_file::{self, container};

/// The orientation of an image by its EXIF data, 1..=8 with the meaning of TIFF's tag 274.
pub fn orientation(image: &[u8]) -> u32 {
    image_file::orientation(image)
}

/// Width and height in pixels of the first frame of a GIF file.
///
/// # Errors
/// If the file is damaged, or the image has too many pixels.
pub fn gif_first_frame(file: &[u8]) -> anyhow::Result<(i32, i32)> {
    container::gif_first_frame(file).map(|image| (image.cols(), image.rows()))
}

/// The first frame of an animated WebP file, as a WebP file; `None` if the file is a still image or
/// damaged.
pub fn webp_first_frame(file: &[u8]) -> Option<Vec<u8>> {
    container::webp_first_frame(file).map(|frame| frame.file)
}

/// Reads the ground truth of WIDER FACE from a MAT file with all its variables. Returns the number
/// of images.
///
/// # Errors
/// If the file is damaged, or is no ground truth of WIDER FACE.
pub fn mat_file(file: &[u8]) -> anyhow::Result<usize> {
    truth::read_file(file)
}

/// Evaluates predicted tracks, in the format of the MOT challenge or as JSON lines, with true tracks
/// in the format of the MOT challenge. Returns HOTA, DetA, AssA, LocA, MOTP, IDF1, IDP, IDR and
/// MOTA.
///
/// # Errors
/// If one of the files is damaged, or has too many boxes to compare.
pub fn tracks(truth: &str, predictions: &str) -> anyhow::Result<[f64; 9]> {
    track::evaluate_texts(truth, predictions)
}
