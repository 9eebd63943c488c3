//! SIMD support: kernels are loops over `f32` arrays that the compiler vectorizes for AVX2 and for
//! AVX-512.
//!
//! [`run`] selects the version for this CPU. It passes a [`Simd`] token to the kernel. The token
//! proves that the CPU supports the instructions, so methods of the token may use intrinsics.

use std::marker::PhantomData;

/// A SIMD instruction set of this CPU: AVX2 with FMA (8 lanes of `f32`) or AVX-512 (16 lanes).
///
/// Only [`SimdLevel::detect`] creates a value, after it has checked the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SimdLevel {
    lanes: usize,
}

impl SimdLevel {
    /// The widest instruction set of this CPU. `None` if the CPU has no AVX2 or no FMA.
    pub(crate) fn detect() -> Option<Self> {
        // Coverage counters would slow the loops down, see scripts/coverage-rustc.
        if cfg!(coverage) {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let has_avx512 = has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq");
            match (has!("avx2") && has!("fma"), has_avx512) {
                (true, true) => Some(Self { lanes: 16 }),
                (true, false) => Some(Self { lanes: 8 }),
                (false, _) => None,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// The number of `f32` lanes of a vector register.
    pub(crate) fn lanes(self) -> usize {
        self.lanes
    }

    /// All instruction sets of this CPU.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let widest = Self::detect().map_or(0, Self::lanes);
        [8, 16].into_iter().filter(|lanes| *lanes <= widest).map(|lanes| Self { lanes }).collect()
    }
}

/// Proof that the CPU supports the instruction set with `L` lanes: AVX2 and FMA for 8 lanes, and
/// also AVX-512 (F, VL, BW and DQ) for 16 lanes.
///
/// Only [`run`] creates a token, after the CPU check.
#[derive(Clone, Copy)]
pub(crate) struct Simd<const L: usize>(());

/// A computation that [`run`] compiles for each instruction set.
///
/// The method and all functions that it calls need `#[inline(always)]`. A function that is not
/// inlined is compiled without the instruction set.
pub(crate) trait SimdKernel {
    fn run<const L: usize>(self, simd: Simd<L>);
}

/// Runs `kernel` with the instruction set `level`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn run(level: SimdLevel, kernel: impl SimdKernel) {
    #[target_feature(enable = "avx2,fma")]
    fn with_avx2(kernel: impl SimdKernel) {
        kernel.run(Simd::<8>(()));
    }
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
    fn with_avx512(kernel: impl SimdKernel) {
        kernel.run(Simd::<16>(()));
    }
    #[expect(unsafe_code, reason = "`SimdLevel::detect` found these features on this CPU")]
    unsafe {
        match level.lanes {
            16 => with_avx512(kernel),
            _ => with_avx2(kernel),
        }
    }
}

/// Other architectures have no [`SimdLevel`], so this function is never called.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn run(_: SimdLevel, _: impl SimdKernel) {}

#[cfg(target_arch = "x86_64")]
impl<const L: usize> Simd<L> {
    /// Transposes an 8 x 8 matrix.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the token proves AVX2; arrays and vectors have the same size")]
    pub(crate) fn transpose(self, rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        use std::arch::x86_64::*;
        // Interleave single floats, then pairs of floats, then exchange the 128-bit halves.
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

    /// Separates 16 floats into those at even and those at odd indices.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the token proves AVX2; arrays and vectors have the same size")]
    pub(crate) fn deinterleave(self, values: [f32; 16]) -> [[f32; 8]; 2] {
        use std::arch::x86_64::*;
        // Select within each 128-bit half, then reorder the 64-bit quarters.
        const EVEN: i32 = 0x88;
        const ODD: i32 = 0xDD;
        const ORDER: i32 = 0xD8;
        unsafe {
            let [low, high] = std::mem::transmute::<[f32; 16], [__m256; 2]>(values);
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<EVEN>(low, high));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<ODD>(low, high));
            let both = [_mm256_permute4x64_pd::<ORDER>(even), _mm256_permute4x64_pd::<ORDER>(odd)];
            std::mem::transmute::<[__m256d; 2], [[f32; 8]; 2]>(both)
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl<const L: usize> Simd<L> {
    pub(crate) fn transpose(self, rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        std::array::from_fn(|column| std::array::from_fn(|row| rows[row][column]))
    }

    pub(crate) fn deinterleave(self, values: [f32; 16]) -> [[f32; 8]; 2] {
        [0, 1].map(|odd| std::array::from_fn(|index| values[2 * index + odd]))
    }
}

impl<const L: usize> Simd<L> {
    /// The left and the right neighbour of each element of `current`. `previous` and `next` are the
    /// vectors before and after it.
    ///
    /// Three aligned loads and two shuffles cost less than two loads that cross a cache line.
    #[inline(always)]
    pub(crate) fn neighbours(self, previous: [f32; L], current: [f32; L], next: [f32; L]) -> [[f32; L]; 2] {
        #[cfg(target_arch = "x86_64")]
        if L == 16 {
            use std::arch::x86_64::*;
            use std::mem::transmute_copy;
            #[expect(
                unsafe_code,
                reason = "a token with 16 lanes proves AVX-512F; arrays and vectors have the same size"
            )]
            unsafe {
                let [previous, current, next] =
                    [previous, current, next].map(|vector| transmute_copy::<[f32; L], __m512i>(&vector));
                let both = [_mm512_alignr_epi32::<15>(current, previous), _mm512_alignr_epi32::<1>(next, current)];
                return both.map(|vector| transmute_copy::<__m512i, [f32; L]>(&vector));
            }
        }
        [
            std::array::from_fn(|l| if l == 0 { previous[L - 1] } else { current[l - 1] }),
            std::array::from_fn(|l| if l == L - 1 { next[0] } else { current[l + 1] }),
        ]
    }
}

/// The `L` floats of `from` that start at `at`.
#[inline(always)]
pub(crate) fn load<const L: usize>(from: &[f32], at: usize) -> [f32; L] {
    let mut lanes = [0.0; L];
    lanes.copy_from_slice(&from[at..at + L]);
    lanes
}

/// `z` if it is not negative, else `slope * z`. Slope 0 is ReLU, slope 1 is the identity, any other
/// slope is leaky ReLU. NaN stays NaN.
#[inline(always)]
pub(crate) fn activate(z: f32, slope: f32) -> f32 {
    // The product comes before the comparison, so that the compiler emits a blend and no branch.
    let scaled = slope * z;
    if z < 0.0 { scaled } else { z }
}

/// A growing buffer that starts at a cache line.
#[derive(Debug, Default)]
pub(crate) struct AlignedBuffer(Vec<f32>);

impl AlignedBuffer {
    /// The first `len` floats, with unspecified values.
    ///
    /// The alignment matters: a vector that crosses a cache line costs two loads.
    pub(crate) fn get(&mut self, len: usize) -> &mut [f32] {
        const CACHE_LINE: usize = 64;
        let spare = CACHE_LINE / size_of::<f32>();
        if self.0.len() < len + spare {
            self.0.resize(len + spare, 0.0);
        }
        let first = self.0.as_ptr().align_offset(CACHE_LINE).min(spare);
        &mut self.0[first..][..len]
    }
}

/// An output tensor that jobs on several threads write, each its own ranges.
pub(crate) struct SharedOutput<'a> {
    first: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

#[expect(unsafe_code, reason = "`write` is the only access, and its contract excludes data races")]
unsafe impl Sync for SharedOutput<'_> {}
#[expect(unsafe_code, reason = "it owns a `&mut [f32]`, which is `Send`")]
unsafe impl Send for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    pub(crate) fn new(values: &'a mut [f32]) -> Self {
        Self { first: values.as_mut_ptr(), len: values.len(), borrow: PhantomData }
    }

    /// Writes `values` at index `at`.
    ///
    /// # Panics
    /// If the range exceeds the output.
    ///
    /// # Safety
    /// No concurrent call on the same output writes to an overlapping range.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the range is in bounds, and the caller excludes data races")]
    pub(crate) unsafe fn write(&self, at: usize, values: &[f32]) {
        assert!(at <= self.len && values.len() <= self.len - at, "the range exceeds the output");
        // `values` cannot overlap the output: the output is mutably borrowed for `'a`.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.first.add(at), values.len()) }
    }
}
