//! Frames in CUDA memory, for example from GStreamer's `nvcodec` decoders, copied to tensors on the
//! device without a detour through system memory.
//!
//! The memory of the decoder belongs to its own CUDA context, that of ONNX Runtime to the primary
//! context of the device. The driver's peer copy works between any two contexts and removes the
//! padding of rows, at the bandwidth of device memory. The driver is loaded on first use, so that
//! this crate does not link CUDA.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL, Symbol};

use super::error::RuntimeError;
use crate::image::{ImageError, ImageInfo};

/// One plane in CUDA memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePlane {
    /// Device address of the first pixel (`CUdeviceptr`).
    pub address: u64,
    /// Distance between rows, in bytes.
    pub pitch: usize,
}

/// A frame in borrowed CUDA memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFrame<'a> {
    info: ImageInfo,
    planes: &'a [DevicePlane],
}

impl<'a> DeviceFrame<'a> {
    /// A frame with the description `info` in `planes`.
    ///
    /// # Errors
    /// If the number of planes does not match the format, or a pitch is shorter than a row.
    ///
    /// # Safety
    /// Each plane must be memory of a CUDA device that contains all rows of the plane at the given
    /// pitch, and must stay allocated while the frame exists.
    #[expect(unsafe_code, reason = "this function cannot check that the addresses are valid device memory")]
    pub unsafe fn new(info: ImageInfo, planes: &'a [DevicePlane]) -> Result<Self, ImageError> {
        let format = info.format;
        if planes.len() != format.planes() {
            return Err(ImageError::Planes { format, expected: format.planes(), found: planes.len() });
        }
        for (plane, DevicePlane { pitch, .. }) in planes.iter().enumerate() {
            let (row, _) = format.plane_bytes(plane, info.width, info.height);
            if *pitch < row {
                return Err(ImageError::Stride { format, plane, row, stride: *pitch });
            }
        }
        Ok(Self { info, planes })
    }

    /// The description of the frame.
    pub fn info(&self) -> ImageInfo {
        self.info
    }

    /// Copies plane `plane` without padding to the device address `target` and waits for
    /// completion. The memory at `target` must hold all rows of the plane.
    ///
    /// # Errors
    /// If the driver cannot be loaded or the copy fails.
    pub(crate) fn copy_plane(&self, plane: usize, target: u64) -> Result<(), RuntimeError> {
        let DevicePlane { address, pitch } = self.planes[plane];
        let (row, rows) = self.info.format.plane_bytes(plane, self.info.width, self.info.height);
        driver()?.copy(address, pitch, target, row, rows)
    }
}

/// `CUDA_MEMCPY3D_PEER` in `cuda.h`.
#[repr(C)]
struct PeerCopy {
    source: CopyEndpoint,
    target: CopyEndpoint,
    width_in_bytes: usize,
    height: usize,
    depth: usize,
}

/// The source or destination fields of `CUDA_MEMCPY3D_PEER`.
#[repr(C)]
struct CopyEndpoint {
    x_in_bytes: usize,
    y: usize,
    z: usize,
    level: usize,
    memory_type: c_int,
    host: *mut c_void,
    device: u64,
    array: *mut c_void,
    context: *mut c_void,
    pitch: usize,
    height: usize,
}

type Status = c_int;
type Context = *mut c_void;

struct Driver {
    pointer_get_attribute: Symbol<unsafe extern "C" fn(*mut c_void, c_int, u64) -> Status>,
    copy_peer: Symbol<unsafe extern "C" fn(*const PeerCopy) -> Status>,
    push_context: Symbol<unsafe extern "C" fn(Context) -> Status>,
    pop_context: Symbol<unsafe extern "C" fn(*mut Context) -> Status>,
    synchronize: Symbol<unsafe extern "C" fn() -> Status>,
    _library: Library,
}

/// The CUDA driver, loaded by the first call.
fn driver() -> Result<&'static Driver, RuntimeError> {
    static DRIVER: OnceLock<Result<Driver, RuntimeError>> = OnceLock::new();
    DRIVER.get_or_init(Driver::load).as_ref().map_err(Clone::clone)
}

impl Driver {
    #[expect(unsafe_code, reason = "loads NVIDIA's driver; the signatures are those of cuda.h")]
    fn load() -> Result<Self, RuntimeError> {
        let missing = |error: libloading::Error| RuntimeError::CudaDriver { reason: error.to_string() };
        unsafe {
            let library = Library::open(Some("libcuda.so.1"), RTLD_LAZY | RTLD_LOCAL).map_err(missing)?;
            Ok(Self {
                pointer_get_attribute: library.get(b"cuPointerGetAttribute").map_err(missing)?,
                copy_peer: library.get(b"cuMemcpy3DPeer").map_err(missing)?,
                push_context: library.get(b"cuCtxPushCurrent_v2").map_err(missing)?,
                pop_context: library.get(b"cuCtxPopCurrent_v2").map_err(missing)?,
                synchronize: library.get(b"cuCtxSynchronize").map_err(missing)?,
                _library: library,
            })
        }
    }

    /// The context of a device address.
    #[expect(unsafe_code, reason = "the driver writes one pointer and returns an error for unknown addresses")]
    fn context(&self, address: u64) -> Result<Context, RuntimeError> {
        const CU_POINTER_ATTRIBUTE_CONTEXT: c_int = 1;
        let mut context: Context = ptr::null_mut();
        let status =
            unsafe { (self.pointer_get_attribute)((&raw mut context).cast(), CU_POINTER_ATTRIBUTE_CONTEXT, address) };
        check("cuPointerGetAttribute", status)?;
        Ok(context)
    }

    /// Waits until all work of a context is complete.
    #[expect(unsafe_code, reason = "the context is pushed before the call and popped after it, also on errors")]
    fn wait_for(&self, context: Context) -> Result<(), RuntimeError> {
        unsafe {
            check("cuCtxPushCurrent", (self.push_context)(context))?;
            let status = (self.synchronize)();
            let mut popped = ptr::null_mut();
            check("cuCtxPopCurrent", (self.pop_context)(&raw mut popped))?;
            check("cuCtxSynchronize", status)
        }
    }

    #[expect(unsafe_code, reason = "`DeviceFrame::new` and the tensor guarantee both addresses and their extents")]
    fn copy(&self, source: u64, pitch: usize, target: u64, row: usize, rows: usize) -> Result<(), RuntimeError> {
        const CU_MEMORYTYPE_DEVICE: c_int = 2;
        let endpoint = |device: u64, pitch: usize| -> Result<CopyEndpoint, RuntimeError> {
            Ok(CopyEndpoint {
                x_in_bytes: 0,
                y: 0,
                z: 0,
                level: 0,
                memory_type: CU_MEMORYTYPE_DEVICE,
                host: ptr::null_mut(),
                device,
                array: ptr::null_mut(),
                context: self.context(device)?,
                pitch,
                height: rows,
            })
        };
        let (source, target) = (endpoint(source, pitch)?, endpoint(target, row)?);
        // The decoder can still be writing on a stream that is unknown here.
        self.wait_for(source.context)?;
        let context = target.context;
        let copy = PeerCopy { source, target, width_in_bytes: row, height: rows, depth: 1 };
        check("cuMemcpy3DPeer", unsafe { (self.copy_peer)(&raw const copy) })?;
        self.wait_for(context)
    }
}

fn check(function: &'static str, status: Status) -> Result<(), RuntimeError> {
    if status == 0 { Ok(()) } else { Err(RuntimeError::CudaCall { function, status }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::PixelFormat;

    #[test]
    fn the_layout_of_the_copy_matches_cuda_h() {
        // 64-bit layout of an endpoint: 4 sizes, an int with padding, 3 pointers, a context, 2
        // sizes.
        assert_eq!((size_of::<CopyEndpoint>(), size_of::<PeerCopy>()), (88, 200));
        assert_eq!(std::mem::offset_of!(CopyEndpoint, device), 48);
        assert_eq!(std::mem::offset_of!(CopyEndpoint, pitch), 72);
    }

    #[test]
    #[expect(unsafe_code, reason = "the frames are not read")]
    fn planes_that_do_not_fit_the_format_are_an_error() {
        let info = ImageInfo::new(PixelFormat::Nv12, 640, 360);
        let plane = |pitch| DevicePlane { address: 0, pitch };
        let fits = |planes: &[DevicePlane]| unsafe { DeviceFrame::new(info, planes) }.is_ok();
        assert!(!fits(&[plane(640)]));
        assert!(!fits(&[plane(640), plane(639)]));
        assert!(fits(&[plane(768), plane(768)]));
    }

    #[test]
    #[expect(unsafe_code, reason = "the driver refuses the invalid address")]
    fn copy_without_driver_or_valid_address_is_an_error() {
        let info = ImageInfo::new(PixelFormat::Gray8, 64, 64);
        let planes = [DevicePlane { address: 0, pitch: 64 }];
        let frame = unsafe { DeviceFrame::new(info, &planes) }.unwrap();
        let error = frame.copy_plane(0, 0).unwrap_err();
        assert!(matches!(error, RuntimeError::CudaDriver { .. } | RuntimeError::CudaCall { .. }), "{error}");
    }
}
