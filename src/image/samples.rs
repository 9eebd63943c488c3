//! Samples of any depth as 8-bit values, and back.

use super::format::PixelFormat;
use super::layout::{ColorModel, Component, SampleFormat};
use super::yuv::YuvCoding;

/// The conversion between the samples of a component and 8 bits: `value = sample * scale + offset`.
///
/// In limited-range YUV a sample of `n` bits is `2^(n - 8)` times the value. In full range and in
/// RGB the highest sample is 255. The centre of chroma is 128 in both.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByteScale {
    sample: SampleFormat,
    scale: f32,
    offset: f32,
}

impl ByteScale {
    /// The conversion of component `index` of a format.
    pub(super) fn new(format: PixelFormat, index: usize, coding: YuvCoding) -> Self {
        let layout = format.layout();
        Self::of(layout.components[index].sample, layout.model, index > 0, coding.full_range)
    }

    /// The conversion of alpha.
    pub(super) fn of_alpha(alpha: Component) -> Self {
        Self::of(alpha.sample, ColorModel::Gray, false, true)
    }

    fn of(sample: SampleFormat, model: ColorModel, is_chroma: bool, full_range: bool) -> Self {
        let is_yuv = model == ColorModel::Yuv;
        let unit = (1u32 << sample.depth) as f32 / 256.0;
        let scale = if is_yuv && !full_range { 1.0 / unit } else { 255.0 / sample.max() as f32 };
        let centre = if is_yuv && is_chroma { 128.0 } else { 0.0 };
        Self { sample, scale, offset: centre - centre * unit * scale }
    }

    /// Whether samples are bytes with the value itself.
    fn is_identity(self) -> bool {
        self.sample.depth == 8 && self.sample.bytes == 1
    }

    /// The nearest 8-bit value of a sample; of two values equally near, the even one.
    #[inline(always)]
    fn byte(self, sample: u32) -> u8 {
        let value = (sample as f32 * self.scale + self.offset).min(255.0);
        // Adding 2^23 rounds to an integer in the lowest bits of the float.
        (value + 8_388_608.0).to_bits() as u8
    }

    /// The nearest sample of an 8-bit value.
    pub(super) fn sample(self, value: u8) -> u32 {
        let sample = (f32::from(value) - self.offset) / self.scale;
        // `as` saturates at 0.
        (sample.round() as u32).min(self.sample.max())
    }

    /// Replaces the sample at the start of `bytes`; other bits of its word stay as they are.
    pub(super) fn write(self, value: u8, bytes: &mut [u8]) {
        let SampleFormat { bytes: len, big_endian, shift, .. } = self.sample;
        let mut word = [0; 4];
        word[..len].copy_from_slice(&bytes[..len]);
        let swap = |word: u32| if big_endian { u32::from((word as u16).swap_bytes()) } else { word };
        let old = swap(u32::from_le_bytes(word));
        let new = old & !(self.sample.max() << shift) | self.sample(value) << shift;
        bytes[..len].copy_from_slice(&swap(new).to_le_bytes()[..len]);
    }
}

/// Reads samples `first..` of a component from a row of its plane, one for each byte of `values`.
///
/// # Panics
/// If the row has fewer samples.
#[inline(always)]
pub(super) fn read(row: &[u8], component: Component, scale: ByteScale, first: usize, values: &mut [u8]) {
    let Component { offset, step, .. } = component;
    let row = &row[first * step..];
    let shift = 8 * offset as u32;
    match step {
        1 => values.copy_from_slice(&row[..values.len()]),
        2 => convert(row.as_chunks::<2>().0, |word| u32::from(u16::from_le_bytes(*word)) >> shift, scale, values),
        3 => convert(row.as_chunks::<3>().0, |word| u32::from(word[offset]), scale, values),
        4 => convert(row.as_chunks::<4>().0, |word| u32::from_le_bytes(*word) >> shift, scale, values),
        _ => convert(row.as_chunks::<8>().0, |word| (u64::from_le_bytes(*word) >> shift) as u32, scale, values),
    }
}

/// Converts one word to each value.
#[inline(always)]
fn convert<W>(words: &[W], word: impl Fn(&W) -> u32, scale: ByteScale, values: &mut [u8]) {
    let words = &words[..values.len()];
    let SampleFormat { big_endian, shift, .. } = scale.sample;
    let mask = scale.sample.max();
    let pairs = values.iter_mut().zip(words);
    // A loop for each kind of sample lets the compiler vectorise it.
    if scale.is_identity() {
        pairs.for_each(|(value, from)| *value = word(from) as u8);
    } else if big_endian {
        pairs.for_each(|(value, from)| *value = scale.byte(u32::from((word(from) as u16).swap_bytes()) & mask));
    } else {
        pairs.for_each(|(value, from)| *value = scale.byte((word(from) >> shift) & mask));
    }
}
