//! Loops over arrays of floats that become vector code: compiled for AVX2 and for AVX-512, and run on what the machine has.

use std::marker::PhantomData;

/// How many floats this machine's vector unit holds: 8 (x86-64, AVX2 and FMA) or 16 (AVX-512). Made by [`width`] alone,
/// which asks the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Width {
    lanes: usize,
}

impl Width {
    pub(crate) fn lanes(self) -> usize {
        self.lanes
    }

    /// All that this machine has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let widest = width().map_or(0, Self::lanes);
        [8, 16].into_iter().filter(|lanes| *lanes <= widest).map(|lanes| Self { lanes }).collect()
    }
}

/// This machine's; none where these kernels would be no faster than others.
pub(crate) fn width() -> Option<Width> {
    // See scripts/coverage-rustc.
    if cfg!(coverage) {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let wide = has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq");
        match (has!("avx2") && has!("fma"), wide) {
            (true, true) => Some(Width { lanes: 16 }),
            (true, false) => Some(Width { lanes: 8 }),
            (false, _) => None,
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Something to run with `L` lanes. `run`, and all that it calls, has to be inlined to profit.
pub(crate) trait Work {
    fn run<const L: usize>(self);
}

/// Runs `work` compiled for `width`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn run(width: Width, work: impl Work) {
    #[target_feature(enable = "avx2,fma")]
    fn eight(work: impl Work) {
        work.run::<8>();
    }
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
    fn sixteen(work: impl Work) {
        work.run::<16>();
    }
    #[expect(unsafe_code, reason = "the machine said that it has these features when the width was made")]
    unsafe {
        match width.lanes {
            16 => sixteen(work),
            _ => eight(work),
        }
    }
}

/// No other machine has a width.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn run(_: Width, _: impl Work) {}

/// `L` floats of `from`, from `at` on.
#[inline(always)]
pub(crate) fn load<const L: usize>(from: &[f32], at: usize) -> [f32; L] {
    let mut lanes = [0.0; L];
    lanes.copy_from_slice(&from[at..at + L]);
    lanes
}

/// Memory that is kept from job to job.
#[derive(Debug, Default)]
pub(crate) struct Floats(Vec<f32>);

impl Floats {
    /// The first `len` of them, whatever they are. They begin where a cache line does: vectors across two lines cost double.
    pub(crate) fn get(&mut self, len: usize) -> &mut [f32] {
        const LINE: usize = 64;
        let spare = LINE / size_of::<f32>();
        if self.0.len() < len + spare {
            self.0.resize(len + spare, 0.0);
        }
        let first = self.0.as_ptr().align_offset(LINE).min(spare);
        &mut self.0[first..][..len]
    }
}

/// `z`, or `slope` times it where it is negative: ReLU with 0, leaky ReLU, nothing with 1. What is no number stays none.
#[inline(always)]
pub(crate) fn activate(z: f32, slope: f32) -> f32 {
    // Both are there before one is chosen: a choice of numbers, unlike one of ways, becomes vector code.
    let low = slope * z;
    if z < 0.0 { low } else { z }
}

/// Floats that jobs on several threads write, each its own part of them.
pub(crate) struct Target<'a> {
    first: *mut f32,
    len: usize,
    of: PhantomData<&'a mut [f32]>,
}

#[expect(unsafe_code, reason = "jobs write disjoint parts, see `put`")]
unsafe impl Sync for Target<'_> {}
#[expect(unsafe_code, reason = "it is a slice of floats, which may go to another thread")]
unsafe impl Send for Target<'_> {}

impl<'a> Target<'a> {
    pub(crate) fn new(floats: &'a mut [f32]) -> Self {
        Self { first: floats.as_mut_ptr(), len: floats.len(), of: PhantomData }
    }

    /// Writes `floats` at `at`. No two jobs may write the same place.
    #[inline(always)]
    pub(crate) fn put(&self, at: usize, floats: &[f32]) {
        assert!(at <= self.len && floats.len() <= self.len - at, "within the output");
        #[expect(unsafe_code, reason = "it is within the slice, and nobody else writes or reads there meanwhile")]
        unsafe {
            std::ptr::copy_nonoverlapping(floats.as_ptr(), self.first.add(at), floats.len());
        }
    }
}

/// Eight rows of eight floats become eight columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "called within `run` only, with AVX on; arrays and vectors have the same bytes")]
pub(crate) fn transposed(rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
    use std::arch::x86_64::*;
    // Pairs of floats, then pairs of pairs, then halves change places.
    const LOW: i32 = 0x44;
    const HIGH: i32 = 0xEE;
    unsafe {
        let [r0, r1, r2, r3, r4, r5, r6, r7] = std::mem::transmute::<[[f32; 8]; 8], [__m256; 8]>(rows);
        let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        let (a4, a5) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
        let (a6, a7) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
        let (b0, b1) = (_mm256_shuffle_ps::<LOW>(a0, a2), _mm256_shuffle_ps::<HIGH>(a0, a2));
        let (b2, b3) = (_mm256_shuffle_ps::<LOW>(a1, a3), _mm256_shuffle_ps::<HIGH>(a1, a3));
        let (b4, b5) = (_mm256_shuffle_ps::<LOW>(a4, a6), _mm256_shuffle_ps::<HIGH>(a4, a6));
        let (b6, b7) = (_mm256_shuffle_ps::<LOW>(a5, a7), _mm256_shuffle_ps::<HIGH>(a5, a7));
        let (top, bottom) = ([b0, b1, b2, b3], [b4, b5, b6, b7]);
        let columns: [__m256; 8] = std::array::from_fn(|index| {
            let (x, y) = (top[index % 4], bottom[index % 4]);
            if index < 4 { _mm256_permute2f128_ps::<0x20>(x, y) } else { _mm256_permute2f128_ps::<0x31>(x, y) }
        });
        std::mem::transmute::<[__m256; 8], [[f32; 8]; 8]>(columns)
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn transposed(rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
    std::array::from_fn(|column| std::array::from_fn(|row| rows[row][column]))
}

/// What lies one before and one after each of `now`'s floats, with `before` and `after` it. Three loads of whole cache
/// lines cost less than two that cross one.
#[inline(always)]
pub(crate) fn neighbours<const L: usize>(before: [f32; L], now: [f32; L], after: [f32; L]) -> [[f32; L]; 2] {
    #[cfg(target_arch = "x86_64")]
    if L == 16 {
        use std::arch::x86_64::*;
        use std::mem::transmute_copy;
        #[expect(
            unsafe_code,
            reason = "sixteen lanes are run with AVX-512 only; arrays and vectors have the same bytes"
        )]
        unsafe {
            let [before, now, after] = [before, now, after].map(|lanes| transmute_copy::<[f32; L], __m512i>(&lanes));
            let both = [_mm512_alignr_epi32::<15>(now, before), _mm512_alignr_epi32::<1>(after, now)];
            return both.map(|lanes| transmute_copy::<__m512i, [f32; L]>(&lanes));
        }
    }
    [
        std::array::from_fn(|l| if l == 0 { before[L - 1] } else { now[l - 1] }),
        std::array::from_fn(|l| if l == L - 1 { after[0] } else { now[l + 1] }),
    ]
}

/// Sixteen floats apart: those at even places, those at odd ones.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "called within `run` only, with AVX2 on; arrays and vectors have the same bytes")]
pub(crate) fn apart(pairs: [f32; 16]) -> [[f32; 8]; 2] {
    use std::arch::x86_64::*;
    // Within each half first, then the quarters change places.
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xDD;
    const ORDER: i32 = 0xD8;
    unsafe {
        let [low, high] = std::mem::transmute::<[f32; 16], [__m256; 2]>(pairs);
        let even = _mm256_castps_pd(_mm256_shuffle_ps::<EVEN>(low, high));
        let odd = _mm256_castps_pd(_mm256_shuffle_ps::<ODD>(low, high));
        let both = [_mm256_permute4x64_pd::<ORDER>(even), _mm256_permute4x64_pd::<ORDER>(odd)];
        std::mem::transmute::<[__m256d; 2], [[f32; 8]; 2]>(both)
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn apart(pairs: [f32; 16]) -> [[f32; 8]; 2] {
    [0, 1].map(|odd| std::array::from_fn(|index| pairs[2 * index + odd]))
}
