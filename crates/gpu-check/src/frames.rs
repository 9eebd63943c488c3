//! NV12 frames from a file.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};

/// Frames of one size, without padding.
#[derive(Debug)]
pub(crate) struct Frames {
    width: usize,
    height: usize,
    frames: Vec<Vec<u8>>,
}

impl Frames {
    /// Reads a file whose name ends in `_WIDTHxHEIGHT.nv12`.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let size = name.rsplit('_').next().and_then(|size| size.split_once('x'));
        let size = size.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        let is_valid = |side: usize| (16..=8192).contains(&side) && side.is_multiple_of(2);
        let (width, height) =
            size.filter(|(width, height)| is_valid(*width) && is_valid(*height)).with_context(|| {
                format!("{}: the name must end in _WIDTHxHEIGHT.nv12 with even sides from 16 to 8192", file.display())
            })?;
        let bytes = fs::read(file).with_context(|| file.display().to_string())?;
        let len = width * height * 3 / 2;
        ensure!(
            !bytes.is_empty() && bytes.len().is_multiple_of(len),
            "{} has {} bytes, which is not a multiple of the frame size of {len} bytes: make it with scripts/make-frames",
            file.display(),
            bytes.len()
        );
        Ok(Self { width, height, frames: bytes.chunks_exact(len).map(<[u8]>::to_vec).collect() })
    }

    /// The frames with each sample repeated `factor` times in both directions.
    pub(crate) fn enlarged(&self, factor: usize) -> Self {
        let (width, height) = (self.width, self.height);
        let enlarge = |frame: &Vec<u8>| {
            let (luma, chroma) = frame.split_at(width * height);
            let mut bytes = repeated(luma, width, 1, factor);
            bytes.extend(repeated(chroma, width / 2, 2, factor));
            bytes
        };
        Self { width: width * factor, height: height * factor, frames: self.frames.iter().map(enlarge).collect() }
    }

    /// Number of frames.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Width and height.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Frame `index`, counted from the start again after the last one.
    pub(crate) fn view(&self, index: usize) -> anyhow::Result<ImageView<'_>> {
        let (luma, chroma) = self.frames[index % self.frames.len()].split_at(self.width * self.height);
        let info = ImageInfo::new(PixelFormat::Nv12, self.width, self.height);
        Ok(ImageView::new(info, &[luma, chroma], &[self.width; 2])?)
    }
}

/// A plane of `cols` samples of `channels` bytes per row, with each sample repeated.
fn repeated(plane: &[u8], cols: usize, channels: usize, factor: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(plane.len() * factor * factor);
    for row in plane.chunks_exact(cols * channels) {
        let start = bytes.len();
        for sample in row.chunks_exact(channels) {
            (0..factor).for_each(|_| bytes.extend_from_slice(sample));
        }
        let end = bytes.len();
        (1..factor).for_each(|_| bytes.extend_from_within(start..end));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(name);
        fs::write(&file, bytes).unwrap();
        (directory, file)
    }

    #[test]
    fn frames_are_read_and_enlarged() {
        let bytes = (0..2 * 384).map(|index| (index % 251) as u8).collect::<Vec<_>>();
        let (_directory, file) = file("frames_16x16.nv12", &bytes);
        let frames = Frames::read(&file).unwrap();
        assert_eq!((frames.len(), frames.size()), (2, (16, 16)));
        let large = frames.enlarged(3);
        assert_eq!((large.len(), large.size()), (2, (48, 48)));
        let (luma, chroma) = large.frames[1].split_at(48 * 48);
        assert_eq!(luma[7 * 48 + 5], frames.frames[1][2 * 16 + 1]);
        assert_eq!(chroma[4 * 48 + 7], frames.frames[1][256 + 16 + 2 + 1], "the second byte of a pair stays second");
        large.view(3).unwrap();
    }

    #[test]
    fn a_file_without_size_or_with_a_part_of_a_frame_is_an_error() {
        for (name, bytes, part) in [
            ("frames.nv12", 384, "_WIDTHxHEIGHT"),
            ("f_16x15.nv12", 384, "_WIDTHxHEIGHT"),
            ("f_16x16.nv12", 385, "385 bytes"),
        ] {
            let (_directory, file) = file(name, &vec![0; bytes]);
            let error = Frames::read(&file).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
