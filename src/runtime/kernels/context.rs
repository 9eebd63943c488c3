//! Access to ONNX Runtime's kernel context during a run.
//!
//! The calls of the `ort` crate allocate several objects per tensor. This module calls the C API
//! directly, because it runs for each frame.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::AsPointer as _;
use ort::operator::ComputeContext;
use ort::sys::{ONNXTensorElementDataType, OrtValue};

use crate::runtime::check;

/// One call of a kernel by ONNX Runtime. It lends each output at most once.
pub(super) struct KernelCall<'a> {
    context: &'a ComputeContext,
    lent_outputs: LentOutputs,
}

/// Bit `n` is set when output `n` has been lent.
#[derive(Default)]
struct LentOutputs(u32);

impl LentOutputs {
    /// Marks output `index` as lent. False if it is already lent or out of range.
    fn lend(&mut self, index: usize) -> bool {
        let bit = u32::try_from(index).ok().and_then(|index| 1u32.checked_shl(index)).unwrap_or(0);
        let is_available = self.0 & bit != bit;
        self.0 |= bit;
        is_available
    }
}

impl<'a> KernelCall<'a> {
    /// # Safety
    /// - ONNX Runtime called the kernel with `context`, and the call does not return within `'a`.
    /// - The call creates no other `KernelCall`, and accesses outputs in no other way.
    /// - The operator declares all its outputs as `float`, and no output as in-place or aliased.
    #[expect(unsafe_code, reason = "the caller has exclusive access to the outputs")]
    pub(super) unsafe fn new(context: &'a ComputeContext) -> Self {
        Self { context, lent_outputs: LentOutputs::default() }
    }

    /// The shape and the values of input `index`.
    ///
    /// # Errors
    /// If the input is not a 4-dimensional `float` tensor.
    #[expect(unsafe_code, reason = "ONNX Runtime keeps inputs alive and unchanged during the call, see `new`")]
    pub(super) fn input(&self, index: usize) -> ort::Result<([usize; 4], &'a [f32])> {
        let mut dims = [0i64; 4];
        let (mut value, mut info, mut data) = (ptr::null(), ptr::null_mut(), ptr::null_mut());
        // An integer, because ONNX Runtime may return types that the Rust enum does not have.
        let mut element_type = 0i32;
        let mut rank = 0;
        unsafe {
            let api = ort::api();
            check((api.KernelContext_GetInput)(self.context.ptr(), index, &mut value))?;
            if value.is_null() {
                return Err(ort::Error::new(format!("input {index} is missing")));
            }
            check((api.GetTensorTypeAndShape)(value, &mut info))?;
            let read = check((api.GetTensorElementType)(info, ptr::from_mut(&mut element_type).cast()))
                .and_then(|()| check((api.GetDimensionsCount)(info, &mut rank)))
                .and_then(|()| match rank {
                    4 => check((api.GetDimensions)(info, dims.as_mut_ptr(), dims.len())),
                    _ => Err(ort::Error::new(format!("input {index} has {rank} dimensions instead of 4"))),
                });
            (api.ReleaseTensorTypeAndShapeInfo)(info);
            read?;
            if element_type != ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT as i32 {
                return Err(ort::Error::new(format!("input {index} is not a float tensor")));
            }
            check((api.GetTensorMutableData)(value.cast_mut(), &mut data))?;
        }
        let shape = dims.map(usize::try_from);
        let [Ok(a), Ok(b), Ok(c), Ok(d)] = shape else {
            return Err(ort::Error::new(format!("input {index} has the invalid shape {dims:?}")));
        };
        let shape = [a, b, c, d];
        let len = element_count(shape).ok_or_else(|| too_large(shape))?;
        if len == 0 {
            return Ok((shape, &[]));
        }
        let first = float_pointer(data)?;
        Ok((shape, unsafe { std::slice::from_raw_parts(first, len) }))
    }

    /// Allocates output `index` with this shape and lends its values.
    ///
    /// # Errors
    /// If the output was lent before, or if the allocation fails.
    #[expect(unsafe_code, reason = "this call lends each output once, and no other code accesses it, see `new`")]
    pub(super) fn output(&mut self, index: usize, shape: [usize; 4]) -> ort::Result<&'a mut [f32]> {
        let len = element_count(shape).ok_or_else(|| too_large(shape))?;
        let dims = shape.map(|dim| dim as i64);
        if !self.lent_outputs.lend(index) {
            return Err(ort::Error::new(format!("output {index} is already in use or out of range")));
        }
        let (mut value, mut data) = (ptr::null_mut::<OrtValue>(), ptr::null_mut());
        unsafe {
            let api = ort::api();
            let context = self.context.ptr().cast_mut();
            check((api.KernelContext_GetOutput)(context, index, dims.as_ptr(), dims.len(), &mut value))?;
            if value.is_null() {
                return Err(ort::Error::new(format!("output {index} is missing")));
            }
            check((api.GetTensorMutableData)(value, &mut data))?;
        }
        if len == 0 {
            return Ok(&mut []);
        }
        let first = float_pointer(data)?.cast_mut();
        Ok(unsafe { std::slice::from_raw_parts_mut(first, len) })
    }

    /// Runs `job` once for each index below `count` on ONNX Runtime's intra-op threads, and returns
    /// when all jobs have ended.
    ///
    /// # Errors
    /// If a job panics. The panic does not unwind through ONNX Runtime.
    pub(super) fn parallel_for<F: Fn(usize) + Sync>(&self, count: usize, job: F) -> ort::Result<()> {
        struct Shared<F> {
            job: F,
            panicked: AtomicBool,
        }
        #[expect(unsafe_code, reason = "called only below, with a `Shared<F>` that outlives the call")]
        unsafe extern "C" fn run_job<F: Fn(usize) + Sync>(shared: *mut c_void, index: usize) {
            let shared = unsafe { &*shared.cast::<Shared<F>>() };
            if catch_unwind(AssertUnwindSafe(|| (shared.job)(index))).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        let shared = Shared { job, panicked: AtomicBool::new(false) };
        #[expect(unsafe_code, reason = "`KernelContext_ParallelFor` returns after all jobs have ended")]
        unsafe {
            let data = ptr::from_ref(&shared).cast_mut().cast();
            check((ort::api().KernelContext_ParallelFor)(self.context.ptr(), run_job::<F>, count, 0, data))?;
        }
        if shared.panicked.into_inner() {
            return Err(ort::Error::new("a convolution kernel panicked; this is a bug in retinaface"));
        }
        Ok(())
    }
}

/// The number of elements of a `float` tensor, if it fits into the address space. All dimensions
/// then fit into an `i64`.
fn element_count(shape: [usize; 4]) -> Option<usize> {
    // A slice may have at most `isize::MAX` bytes.
    const MAX: usize = isize::MAX as usize / size_of::<f32>();
    let count = shape.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim))?;
    (count <= MAX && shape.iter().all(|dim| *dim <= MAX)).then_some(count)
}

fn too_large(shape: [usize; 4]) -> ort::Error {
    ort::Error::new(format!("a tensor of shape {shape:?} does not fit into memory"))
}

/// The address of a tensor's first value.
fn float_pointer(data: *mut c_void) -> ort::Result<*const f32> {
    let first = data.cast::<f32>().cast_const();
    if first.is_null() || !first.is_aligned() {
        return Err(ort::Error::new("a tensor is not aligned to 4 bytes or has no memory"));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::{LentOutputs, element_count};

    #[test]
    fn an_output_is_lent_only_once() {
        let mut outputs = LentOutputs::default();
        assert!(outputs.lend(0));
        assert!(outputs.lend(31));
        assert!(!outputs.lend(0));
        assert!(!outputs.lend(32));
        assert!(!outputs.lend(usize::MAX));
    }

    #[test]
    fn the_element_count_of_a_shape_is_checked_for_overflow() {
        assert_eq!(element_count([2, 3, 5, 7]), Some(210));
        assert_eq!(element_count([2, 0, 5, 7]), Some(0));
        assert_eq!(element_count([usize::MAX, 2, 1, 1]), None);
        assert_eq!(element_count([usize::MAX / 4, 1, 1, 1]), None);
        assert_eq!(element_count([usize::MAX, 0, 1, 1]), None);
    }
}
