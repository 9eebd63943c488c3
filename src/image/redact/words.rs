//! Samples of all depths as bits of the words of a row, which are read and written without a
//! conversion to 8 bits.

use super::super::format::PixelFormat;
use super::super::layout::{Component, SampleFormat};

/// Where the samples of a component are in a row of words.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleWords {
    /// Bytes of a word, which is read as a little-endian number: 1, 2, 3, 4 or 8.
    pub(super) step: usize,
    /// The bits of the component. They include unused bits of its samples, which are cleared by
    /// writing, because they can repeat what is redacted; but not those that other components use.
    pub(super) mask: u64,
    /// Position of the sample in the word.
    offset: u32,
    sample: SampleFormat,
}

impl SampleWords {
    /// The samples of component `index` of a format.
    pub(super) fn new(format: PixelFormat, index: usize) -> Self {
        let layout = format.layout();
        let component = layout.components[index];
        let Component { step, sample, .. } = component;
        // The components of grey and of a palette are the same one.
        let is_alone = layout.components.iter().chain(&layout.alpha).all(|other| {
            (other.plane, other.offset) != (component.plane, component.offset) || other.sample == component.sample
        });
        let offset = 8 * component.offset as u32;
        let bits = if is_alone { (1 << (8 * sample.bytes)) - 1 } else { u64::from(sample.max()) << sample.shift };
        Self { step, mask: bits << offset, offset, sample }
    }

    /// The word with `sample`, and zeros otherwise.
    pub(super) fn word(self, sample: u32) -> u64 {
        let SampleFormat { big_endian, shift, .. } = self.sample;
        let value = sample << shift;
        u64::from(if big_endian { u32::from((value as u16).swap_bytes()) } else { value }) << self.offset
    }

    /// Reads the samples of the words of `row`, one for each of `values`.
    #[inline(always)]
    pub(super) fn read(self, row: &[u8], values: &mut [f32]) {
        let Self { step, offset, sample, .. } = self;
        macro_rules! read {
            ($word:ty) => {{
                let (max, shift) = (sample.max() as $word, offset + sample.shift);
                for (value, bytes) in values.iter_mut().zip(row.as_chunks::<{ size_of::<$word>() }>().0) {
                    let word = <$word>::from_le_bytes(*bytes);
                    let word = if sample.big_endian { word.swap_bytes() } else { word };
                    // Samples have at most 16 bits.
                    *value = f32::from(((word >> shift) & max) as u16);
                }
            }};
        }
        match step {
            1 => values.iter_mut().zip(row).for_each(|(value, byte)| *value = f32::from(*byte)),
            2 => read!(u16),
            4 => read!(u32),
            8 => read!(u64),
            _ => {
                let offset = offset as usize / 8;
                values
                    .iter_mut()
                    .zip(row.as_chunks::<3>().0)
                    .for_each(|(value, bytes)| *value = f32::from(bytes[offset]));
            }
        }
    }

    /// Replaces the samples of the words of `row` with the nearest ones of `values`.
    #[inline(always)]
    pub(super) fn write(self, row: &mut [u8], values: &[f32]) {
        let Self { step, mask, offset, sample } = self;
        let max = sample.max() as f32;
        // Adding 2^23 rounds to an integer in the lowest bits of the float.
        let nearest = |value: f32| (value.clamp(0.0, max) + 8_388_608.0).to_bits() as u16;
        macro_rules! write {
            ($word:ty) => {{
                let (kept, shift) = (!(mask as $word), offset + sample.shift);
                for (bytes, value) in row.as_chunks_mut::<{ size_of::<$word>() }>().0.iter_mut().zip(values) {
                    let word = (nearest(*value) as $word) << shift;
                    let word = if sample.big_endian { word.swap_bytes() } else { word };
                    *bytes = (<$word>::from_le_bytes(*bytes) & kept | word).to_le_bytes();
                }
            }};
        }
        match step {
            1 => write!(u8),
            2 => write!(u16),
            4 => write!(u32),
            8 => write!(u64),
            _ => {
                let offset = offset as usize / 8;
                let pixels = row.as_chunks_mut::<3>().0.iter_mut();
                pixels.zip(values).for_each(|(bytes, value)| bytes[offset] = nearest(*value) as u8);
            }
        }
    }
}

/// Replaces the bits of `mask` in all words of `step` bytes with those of `word`.
pub(super) fn fill(row: &mut [u8], step: usize, mask: u64, word: u64) {
    macro_rules! fill {
        ($word:ty) => {{
            let (kept, word) = (!(mask as $word), word as $word);
            let words = row.as_chunks_mut::<{ size_of::<$word>() }>().0;
            if kept == 0 {
                words.fill(word.to_le_bytes());
            } else {
                words
                    .iter_mut()
                    .for_each(|bytes| *bytes = (<$word>::from_le_bytes(*bytes) & kept | word).to_le_bytes());
            }
        }};
    }
    match step {
        1 => fill!(u8),
        2 => fill!(u16),
        4 => fill!(u32),
        8 => fill!(u64),
        _ => {
            // Packed RGB has no other components.
            let [first, second, third, ..] = word.to_le_bytes();
            row.as_chunks_mut::<3>().0.fill([first, second, third]);
        }
    }
}
