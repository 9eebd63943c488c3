//! Runtime dispatch: loops compiled for the baseline CPU and for x86-64 with AVX2 and FMA.

/// Runs `work`, compiled for AVX2 and FMA if the CPU supports both.
///
/// `work` must be `#[inline(always)]`, because only inlined code is compiled for these features.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn widest<T>(work: impl FnOnce() -> T) -> T {
    #[target_feature(enable = "avx2,fma")]
    fn with_avx2<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        #[expect(unsafe_code, reason = "the condition above checks both CPU features")]
        unsafe {
            with_avx2(work)
        }
    } else {
        work()
    }
}

/// Runs `work`; the baseline of other architectures includes their vector instructions.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) fn widest<T>(work: impl FnOnce() -> T) -> T {
    work()
}
