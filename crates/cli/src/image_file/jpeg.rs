//! The segments of a JPEG file: EXIF data, and whether the file is complete.
//!
//! Walks the segments, so that the markers of an embedded thumbnail or of an appended video do not
//! count. Source: ITU-T T.81, annexes B and G.

use std::collections::HashMap;

use super::kind::{CONVERT, Kind};

/// The first bytes of an APP1 segment with EXIF data.
const EXIF: &[u8] = b"Exif\0\0";
/// Number of coefficients of a block.
const COEFFICIENTS: usize = 64;

/// Where a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the end-of-image marker.
    Marker,
    /// In the entropy-coded data of a scan.
    InScan,
    /// Before the first scan, or in a segment.
    InSegment,
}

/// The frame header: how the image is coded.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Second byte of the marker, 0xC0..=0xCF.
    marker: u8,
    /// Bits per sample.
    precision: u8,
    /// Number of colour components.
    components: usize,
}

/// What the segments of a file contain.
#[derive(Debug)]
pub(super) struct Jpeg<'a> {
    /// The EXIF data of each APP1 segment that has some: a TIFF structure.
    pub(super) exif: Vec<&'a [u8]>,
    pub(super) end: End,
    frame: Option<Frame>,
    /// For each component, the bits of each coefficient that are still missing; `None` before the
    /// first scan of the coefficient.
    missing_bits: HashMap<u8, [Option<u8>; COEFFICIENTS]>,
}

impl<'a> Jpeg<'a> {
    /// Reads the segments; `None` if the file is not a JPEG file.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
        let mut jpeg = Self { exif: Vec::new(), end: End::InSegment, frame: None, missing_bits: HashMap::new() };
        loop {
            // Decoders skip bytes between segments, and fill bytes before a marker.
            let Some(at) = rest.windows(2).position(is_marker) else { return Some(jpeg) };
            let (marker, after) = (rest[at + 1], &rest[at + 2..]);
            match marker {
                0xD9 => {
                    jpeg.end = End::Marker;
                    return Some(jpeg);
                }
                // TEM and a second start of image have no length.
                0x01 | 0xD8 => rest = after,
                _ => {
                    jpeg.end = End::InSegment;
                    let [high, low, ..] = after else { return Some(jpeg) };
                    let len = usize::from(u16::from_be_bytes([*high, *low])).max(2);
                    let Some(segment) = after.get(2..len) else { return Some(jpeg) };
                    jpeg.segment(marker, segment);
                    // Entropy-coded data follows, which has no markers but restart markers.
                    if marker == 0xDA {
                        jpeg.end = End::InScan;
                    }
                    rest = &after[len..];
                }
            }
        }
    }

    fn segment(&mut self, marker: u8, segment: &'a [u8]) {
        match (marker, segment) {
            (0xE1, _) => self.exif.extend(segment.strip_prefix(EXIF)),
            // C4, C8 and CC are no frame headers.
            (0xC0..=0xCF, [precision, _, _, _, _, components, ..]) if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                self.frame = Some(Frame { marker, precision: *precision, components: usize::from(*components) });
            }
            (0xDA, [count, scan @ ..]) => {
                let Some((components, [first, last, bits])) = scan.split_at_checked(2 * usize::from(*count)) else {
                    return;
                };
                for component in components.chunks_exact(2) {
                    let missing = self.missing_bits.entry(component[0]).or_insert([None; COEFFICIENTS]);
                    let range = usize::from(*first)..=usize::from(*last).min(COEFFICIENTS - 1);
                    missing.get_mut(range).into_iter().flatten().for_each(|missing| *missing = Some(bits & 0x0F));
                }
            }
            _ => {}
        }
    }

    /// Whether the image data has begun.
    pub(super) fn has_scan(&self) -> bool {
        !self.missing_bits.is_empty()
    }

    /// Whether the file ends in its last scan, so that only the end-of-image marker may be missing.
    /// If data of this scan is missing, too, a decoder warns.
    pub(super) fn ends_in_last_scan(&self) -> bool {
        let Some(frame) = self.frame else { return false };
        // A decoder of arithmetic coding does not notice missing data.
        let is_huffman = frame.marker < 0xC8;
        let is_complete = |missing: &[Option<u8>; COEFFICIENTS]| missing.iter().all(|bits| *bits == Some(0));
        self.end == End::InScan
            && is_huffman
            && self.missing_bits.len() == frame.components
            && self.missing_bits.values().all(is_complete)
    }

    /// The kind of coding, if it is one that some or all builds of libjpeg do not decode.
    pub(super) fn unsupported(&self) -> Option<Kind> {
        let Frame { marker, precision, .. } = self.frame?;
        let name = match marker {
            0xC3 | 0xC7 | 0xCB | 0xCF => "a lossless JPEG image",
            0xC5 | 0xC6 | 0xCD | 0xCE => "a hierarchical JPEG image",
            _ if precision == 12 => "a JPEG image of 12 bits per sample",
            // Most builds of libjpeg decode it, so that a file without its end is truncated.
            0xC9 | 0xCA if self.end == End::Marker => "a JPEG image with arithmetic coding",
            _ => return None,
        };
        Some(Kind { name, remedy: CONVERT })
    }
}

/// Whether two bytes are a marker; in entropy-coded data, FF also precedes 00 and restart markers.
fn is_marker(pair: &[u8]) -> bool {
    pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xD0..=0xD7 | 0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 13] = [0xFF, 0xC0, 0, 11, 8, 0, 8, 0, 8, 1, 1, 0x11, 0];
    const SCAN: [u8; 16] = [0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 9, 0xFF, 0x00, 2, 0xFF, 0xD0];

    fn parse(bytes: &[u8]) -> Jpeg<'_> {
        Jpeg::parse(bytes).unwrap()
    }

    #[test]
    fn markers_of_thumbnails_and_of_appended_data_do_not_count() {
        let thumbnail = [0xFF, 0xE1, 0, 8, 0xFF, 0xDA, 1, 0xFF, 0xD9, 7];
        let whole = [&[0xFF, 0xD8][..], &thumbnail, &FRAME, &SCAN, &[0xFF, 0xD9]].concat();
        assert_eq!(parse(&whole).end, End::Marker);
        let with_video = [&whole[..], &[1, 0xFF, 0xDA, 5, 0xFF, 0xDA]].concat();
        assert_eq!(parse(&with_video).end, End::Marker, "data after the image does not matter");
        let scan_data = whole.len() - 2 - (SCAN.len() - 10);
        for len in 2..whole.len() {
            let expected = if len < scan_data { End::InSegment } else { End::InScan };
            assert_eq!(parse(&whole[..len]).end, expected, "truncated after {len} bytes");
            assert_eq!(parse(&whole[..len]).ends_in_last_scan(), len >= scan_data);
        }
        assert!(Jpeg::parse(b"\x89PNG").is_none());
    }

    #[test]
    fn a_progressive_file_that_lacks_scans_does_not_end_in_its_last_scan() {
        let mut frame = FRAME;
        frame[1] = 0xC2;
        let scan = |first: u8, last: u8, bits: u8| [0xFF, 0xDA, 0, 8, 1, 1, 0, first, last, bits, 5, 6];
        let scans = [scan(0, 0, 0x01), scan(1, 63, 0x01), scan(0, 0, 0x10), scan(1, 63, 0x10)];
        for count in 1..=scans.len() {
            let bytes = [&[0xFF, 0xD8][..], &frame, &scans[..count].concat()].concat();
            assert_eq!(parse(&bytes).end, End::InScan);
            assert_eq!(parse(&bytes).ends_in_last_scan(), count == scans.len(), "{count} scans");
        }
        // A colour image with one scan per component.
        let mut colour = FRAME;
        colour[9] = 3;
        let bytes = [&[0xFF, 0xD8][..], &colour, &SCAN].concat();
        assert!(!parse(&bytes).ends_in_last_scan());
    }
}
