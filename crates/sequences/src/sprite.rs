//! Heads cut out of the photos, and how they are drawn.

use std::fs;
use std::path::Path;

use opencv::core::{self, Mat, Scalar, Size, Vec4b};
use opencv::imgcodecs::{self, IMREAD_COLOR, IMREAD_IGNORE_ORIENTATION};
use opencv::imgproc;
use opencv::prelude::*;

use crate::error::Error;
use crate::faces::{Head, Person, Photo};

/// Number of resolutions of a sprite, each half of the one before. With four, a head is sampled
/// without gaps down to 1/16 of the size in its photo.
const LEVELS: usize = 4;

/// A photo in BGR.
#[derive(Debug)]
pub(crate) struct PhotoPixels(Mat);

impl PhotoPixels {
    /// Reads a photo from the directory of the media.
    pub(crate) fn read(directory: &Path, photo: Photo) -> Result<Self, Error> {
        let path = directory.join(photo.file);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(Error::Read { path, source }),
        };
        // OpenCV has no images without bytes.
        let mat = if bytes.is_empty() {
            Mat::default()
        } else {
            imgcodecs::imdecode(&Mat::from_slice(&bytes)?, IMREAD_COLOR | IMREAD_IGNORE_ORIENTATION)?
        };
        let found = (mat.cols() as usize, mat.rows() as usize);
        if found != photo.size {
            return Err(Error::Photo { path, expected: photo.size, found });
        }
        Ok(Self(mat))
    }
}

/// The head of a person in several resolutions: red, green and blue multiplied by the opacity, and
/// the opacity.
#[derive(Debug)]
pub(crate) struct Sprite {
    levels: Vec<Level>,
    /// Position of the first pixel in the photo.
    origin: (f64, f64),
}

#[derive(Debug)]
struct Level {
    pixels: Vec<Vec4b>,
    size: Size,
}

impl Sprite {
    /// Cuts the head of `person` out of the photo.
    pub(crate) fn new(person: Person, photo: &PhotoPixels) -> Result<Self, Error> {
        let portrait = person.portrait();
        let [left, top, right, bottom] = portrait.head();
        let (left, top) = (left.floor() as i32, top.floor() as i32);
        // Each level is exactly half of the one before.
        let side = |len: f64| (len as u32 + 1).next_multiple_of(1 << (LEVELS - 1)) as i32;
        let (cols, rows) = (side(right - f64::from(left)), side(bottom - f64::from(top)));
        let mut pixels = Vec::with_capacity((cols * rows) as usize);
        for y in top..top + rows {
            for x in left..left + cols {
                // PhotoPixels outside the photo are transparent.
                let bgr = photo.0.at_2d::<core::Vec3b>(y, x).ok();
                let alpha = bgr.map_or(0.0, |_| portrait.alpha(f64::from(x) + 0.5, f64::from(y) + 0.5));
                let [b, g, r] = bgr.map_or([0; 3], |bgr| bgr.0).map(|value| (f64::from(value) * alpha).round() as u8);
                pixels.push(Vec4b::from([r, g, b, (255.0 * alpha).round() as u8]));
            }
        }
        let mut levels = vec![Level { pixels, size: Size::new(cols, rows) }];
        while levels.len() < LEVELS {
            let last = &levels[levels.len() - 1];
            let size = Size::new(last.size.width / 2, last.size.height / 2);
            let mut half = Mat::default();
            imgproc::resize(&last.mat()?, &mut half, size, 0.0, 0.0, imgproc::INTER_AREA)?;
            levels.push(Level { pixels: half.data_typed()?.to_vec(), size });
        }
        Ok(Self { levels, origin: (f64::from(left), f64::from(top)) })
    }

    /// Draws the head over a frame of packed RGB without padding, `width` x `height` pixels.
    pub(crate) fn draw(&self, head: &Head, rgb: &mut [u8], width: usize, height: usize) -> Result<(), Error> {
        let [left, top, right, bottom] = head.bounds();
        // The saturating conversions clip to the frame on the left and at the top.
        let (left, top) = (left.floor() as usize, top.floor() as usize);
        let (right, bottom) = ((right.ceil() as usize).min(width), (bottom.ceil() as usize).min(height));
        if left >= right || top >= bottom {
            return Ok(());
        }
        // The smallest level that is not enlarged, or the first one.
        let factor = |index: usize| f64::from(1u32 << index);
        let index = (0..LEVELS).rev().find(|index| head.scale * factor(*index) <= 1.0).unwrap_or(0);
        let level = &self.levels[index];
        // OpenCV's coordinates are those of pixel centres: 0.5 less than continuous ones.
        let first = (self.origin.0 + 0.5 * factor(index), self.origin.1 + 0.5 * factor(index));
        let mut matrix = head.frame_from_photo();
        for ([a, b, c], start) in matrix.iter_mut().zip([left, top]) {
            *c += *a * first.0 + *b * first.1 - start as f64 - 0.5;
            *a *= factor(index);
            *b *= factor(index);
        }
        let size = Size::new((right - left) as i32, (bottom - top) as i32);
        let mut warped = Mat::default();
        imgproc::warp_affine(
            &level.mat()?,
            &mut warped,
            &Mat::from_slice_2d(&matrix)?,
            size,
            imgproc::INTER_LINEAR,
            core::BORDER_CONSTANT,
            Scalar::all(0.0),
        )?;
        let rows = rgb.chunks_exact_mut(3 * width).skip(top);
        for (row, source) in rows.zip(warped.data_typed::<Vec4b>()?.chunks_exact(right - left)) {
            let (pixels, _) = row[3 * left..].as_chunks_mut::<3>();
            for (pixel, source) in pixels.iter_mut().zip(source) {
                let [r, g, b, alpha] = source.0;
                let behind = 255 - u32::from(alpha);
                for (value, color) in pixel.iter_mut().zip([r, g, b]) {
                    // The rounded quotient by 255.
                    let shown = u32::from(*value) * behind + 128;
                    *value = color.saturating_add(((shown + (shown >> 8)) >> 8) as u8);
                }
            }
        }
        Ok(())
    }
}

impl Level {
    fn mat(&self) -> Result<opencv::boxed_ref::BoxedRef<'_, Mat>, Error> {
        Ok(Mat::new_rows_cols_with_data(self.size.height, self.size.width, &self.pixels)?)
    }
}
