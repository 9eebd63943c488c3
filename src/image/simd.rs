//! Loops compiled twice: for any machine, and for x86-64 with AVX2, which is twice as fast at them.

/// Runs `work`, compiled with AVX2 where the machine has it. `work` must be inlined to profit.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn widest<T>(work: impl FnOnce() -> T) -> T {
    #[target_feature(enable = "avx2,fma")]
    fn with_avx2<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        #[expect(unsafe_code, reason = "the machine was asked for both features on the line above")]
        unsafe {
            with_avx2(work)
        }
    } else {
        work()
    }
}

/// Runs `work`; other machines' vector units are always on.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) fn widest<T>(work: impl FnOnce() -> T) -> T {
    work()
}
