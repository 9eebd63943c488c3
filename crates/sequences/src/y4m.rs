//! YUV4MPEG2: raw video with a short text header, which GStreamer's `y4mdec` and FFmpeg read.
//!
//! Source: the manual page yuv4mpeg(5) of MJPEG tools. The chroma is 4:2:0 with samples in the
//! middle of four pixels (`C420jpeg`). The coding is BT.601 in the limited range, which readers
//! assume for videos of this size.

use std::io::{self, Write};

/// Writes frames of one size.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    output: W,
    width: usize,
    planes: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the header. The frame rate is nominal.
    pub(crate) fn new(mut output: W, (width, height): (usize, usize), frame_rate: u32) -> io::Result<Self> {
        writeln!(output, "YUV4MPEG2 W{width} H{height} F{frame_rate}:1 Ip A1:1 C420jpeg")?;
        Ok(Self { output, width, planes: Vec::new() })
    }

    /// Writes a frame of packed RGB without padding.
    pub(crate) fn write(&mut self, rgb: &[u8]) -> io::Result<()> {
        let (pixels, _) = rgb.as_chunks::<3>();
        self.planes.clear();
        self.planes.extend(pixels.iter().map(|pixel| luma(pixel.map(i32::from))));
        for weights in [CB, CR] {
            for rows in pixels.chunks(2 * self.width) {
                // The last row and column of an odd size count twice.
                let (above, below) = rows.split_at(self.width);
                let below = if below.is_empty() { above } else { below };
                let mean = |(above, below): (&[[u8; 3]], &[[u8; 3]])| {
                    let sum = |c: usize| {
                        let corners = [above[0], above[above.len() - 1], below[0], below[below.len() - 1]];
                        corners.iter().map(|pixel| i32::from(pixel[c])).sum::<i32>()
                    };
                    chroma(weights, [0, 1, 2].map(sum))
                };
                self.planes.extend(above.chunks(2).zip(below.chunks(2)).map(mean));
            }
        }
        self.output.write_all(b"FRAME\n")?;
        self.output.write_all(&self.planes)
    }

    /// Writes what is buffered.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Weights of red, green and blue in 1/65536, for levels in 16..=235 and 16..=240. Source: ITU-R
/// BT.601-7.
const LUMA: [i32; 3] = [16_829, 33_039, 6_416];
const CB: [i32; 3] = [-9_714, -19_070, 28_784];
const CR: [i32; 3] = [28_784, -24_103, -4_681];

fn weighted(weights: [i32; 3], rgb: [i32; 3]) -> i32 {
    weights.iter().zip(rgb).map(|(weight, value)| weight * value).sum()
}

fn luma(rgb: [i32; 3]) -> u8 {
    ((weighted(LUMA, rgb) + (16 << 16) + (1 << 15)) >> 16) as u8
}

/// The chroma of four pixels, from their sums.
fn chroma(weights: [i32; 3], sums: [i32; 3]) -> u8 {
    ((weighted(weights, sums) + (128 << 18) + (1 << 17)) >> 18) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(rgb: &[u8], size: (usize, usize)) -> (String, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, size, 30).unwrap();
        writer.write(rgb).unwrap();
        writer.finish().unwrap();
        let start = bytes.windows(6).position(|part| part == b"FRAME\n").unwrap();
        (String::from_utf8(bytes[..start].to_vec()).unwrap(), bytes[start + 6..].to_vec())
    }

    #[test]
    fn colours_are_coded_in_the_limited_range_of_bt601() {
        for (rgb, yuv) in [
            ([0, 0, 0], [16, 128, 128]),
            ([255, 255, 255], [235, 128, 128]),
            ([255, 0, 0], [81, 90, 240]),
            ([0, 255, 0], [145, 54, 34]),
            ([0, 0, 255], [41, 240, 110]),
        ] {
            let (header, planes) = written(&rgb.repeat(4), (2, 2));
            assert_eq!(header, "YUV4MPEG2 W2 H2 F30:1 Ip A1:1 C420jpeg\n");
            assert_eq!(planes, [yuv[0], yuv[0], yuv[0], yuv[0], yuv[1], yuv[2]]);
        }
    }

    #[test]
    fn chroma_is_the_mean_of_four_pixels_and_an_odd_size_is_rounded_up() {
        let row = [[255, 0, 0], [0, 0, 0], [0, 0, 255]].concat();
        let (_, planes) = written(&row.repeat(3), (3, 3));
        assert_eq!(planes[..9], [81, 16, 41].repeat(3));
        assert_eq!(planes[9..], [109, 240, 109, 240, 184, 110, 184, 110]);
    }
}
