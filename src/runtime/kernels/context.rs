//! What a kernel asks of ONNX Runtime while it runs. The binding's own calls make several objects each; a frame must not.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::AsPointer as _;
use ort::operator::ComputeContext;
use ort::sys::OrtValue;

use crate::runtime::check;

/// Input `index` of a kernel that declares it as floats: its four sides and its values.
#[expect(unsafe_code, reason = "ONNX Runtime keeps a run's inputs until the kernel has ended, and nobody writes them")]
pub(super) fn input(context: &ComputeContext, index: usize) -> ort::Result<([usize; 4], &[f32])> {
    let mut sides = [0i64; 4];
    let (mut value, mut info, mut floats) = (ptr::null(), ptr::null_mut(), ptr::null_mut());
    let mut count = 0;
    unsafe {
        let api = ort::api();
        check((api.KernelContext_GetInput)(context.ptr(), index, &mut value))?;
        if value.is_null() {
            return Err(ort::Error::new("an input is missing"));
        }
        check((api.GetTensorTypeAndShape)(value, &mut info))?;
        let read = check((api.GetDimensionsCount)(info, &mut count)).and_then(|()| match count {
            4 => check((api.GetDimensions)(info, sides.as_mut_ptr(), sides.len())),
            _ => Err(ort::Error::new(format!("an input has {count} sides, not four"))),
        });
        (api.ReleaseTensorTypeAndShapeInfo)(info);
        read?;
        check((api.GetTensorMutableData)(value.cast_mut(), &mut floats))?;
    }
    let [a, b, c, d] = sides.map(|side| usize::try_from(side).unwrap_or(0));
    Ok(([a, b, c, d], unsafe { slice(floats, a * b * c * d) }))
}

/// Output `index` of a kernel that declares it as floats, made with these sides.
#[expect(unsafe_code, reason = "each output is asked for once in a run, and is the kernel's until that has ended")]
#[expect(clippy::mut_from_ref, reason = "the context stands for the run, which lends each output once")]
pub(super) fn output(context: &ComputeContext, index: usize, sides: [usize; 4]) -> ort::Result<&mut [f32]> {
    let dims = sides.map(|side| side as i64);
    let (mut value, mut floats) = (ptr::null_mut::<OrtValue>(), ptr::null_mut());
    unsafe {
        let api = ort::api();
        let context = context.ptr().cast_mut();
        check((api.KernelContext_GetOutput)(context, index, dims.as_ptr(), dims.len(), &mut value))?;
        if value.is_null() {
            return Err(ort::Error::new("an output is missing"));
        }
        check((api.GetTensorMutableData)(value, &mut floats))?;
        let len = sides.iter().product();
        Ok(if len == 0 { &mut [] } else { std::slice::from_raw_parts_mut(floats.cast(), len) })
    }
}

/// `len` floats that begin at `first`, which may be anything where there are none.
#[expect(unsafe_code, reason = "see `input`")]
unsafe fn slice<'a>(first: *const c_void, len: usize) -> &'a [f32] {
    if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(first.cast(), len) } }
}

/// Runs `job` for each number below `count` on ONNX Runtime's threads. Nothing may unwind through them.
pub(super) fn on_all_threads<F: Fn(usize) + Sync>(context: &ComputeContext, count: usize, job: F) -> ort::Result<()> {
    struct Work<F> {
        job: F,
        failed: AtomicBool,
    }
    #[expect(unsafe_code, reason = "called below only, with a `Work<F>` that outlives the call")]
    unsafe extern "C" fn run<F: Fn(usize) + Sync>(work: *mut c_void, number: usize) {
        let work = unsafe { &*work.cast::<Work<F>>() };
        if catch_unwind(AssertUnwindSafe(|| (work.job)(number))).is_err() {
            work.failed.store(true, Ordering::Relaxed);
        }
    }
    let work = Work { job, failed: AtomicBool::new(false) };
    #[expect(unsafe_code, reason = "it returns when all of them have ended")]
    unsafe {
        let data = ptr::from_ref(&work).cast_mut().cast();
        check((ort::api().KernelContext_ParallelFor)(context.ptr(), run::<F>, count, 0, data))?;
    }
    if work.failed.into_inner() {
        return Err(ort::Error::new("a kernel failed; this is a bug of retinaface"));
    }
    Ok(())
}
