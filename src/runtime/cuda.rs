//! Frames that lie in a GPU's memory already, as GStreamer's `nvcodec` decodes them: taken without a way through the
//! system's memory.
//!
//! The decoder's memory belongs to a CUDA context of its own, ONNX Runtime's to the device's primary one. The driver's
//! peer copy goes between any two contexts and takes off the padding of rows on the way, at the speed of the GPU's own
//! memory. The driver is loaded when it is first needed: this crate links none of CUDA.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL, Symbol};

use crate::image::{ImageError, ImageInfo};

/// One plane in a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePlane {
    /// Address of the first pixel, as CUDA's driver gives it.
    pub address: u64,
    /// Bytes from row to row.
    pub pitch: usize,
}

/// A frame in a GPU's memory. Whoever makes one keeps the memory until it has been handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFrame<'a> {
    info: ImageInfo,
    planes: &'a [DevicePlane],
}

impl<'a> DeviceFrame<'a> {
    /// A frame of `info` in `planes`.
    ///
    /// # Errors
    /// If the number of planes is not the format's, or a row is longer than the pitch.
    ///
    /// # Safety
    /// Each plane has to have as many rows of that pitch as `info` says, in memory of a CUDA device, for as long as the
    /// frame is in use.
    #[expect(unsafe_code, reason = "nothing here can see whether an address on a GPU is what it is said to be")]
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

    /// What the frame looks like.
    pub fn info(&self) -> ImageInfo {
        self.info
    }

    /// Copies plane `plane` without padding to `target`, an address on a device with room for it, and waits for it.
    ///
    /// # Errors
    /// If there is no driver, or it does not copy.
    pub(crate) fn copy_plane(&self, plane: usize, target: u64) -> Result<(), String> {
        let DevicePlane { address, pitch } = self.planes[plane];
        let (row, rows) = self.info.format.plane_bytes(plane, self.info.width, self.info.height);
        driver()?.copy(address, pitch, target, row, rows)
    }
}

/// `CUDA_MEMCPY3D_PEER` of `cuda.h`.
#[repr(C)]
struct PeerCopy {
    source: End,
    target: End,
    width_in_bytes: usize,
    height: usize,
    depth: usize,
}

/// Either half of `CUDA_MEMCPY3D_PEER`.
#[repr(C)]
struct End {
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

/// The driver, loaded by the first call.
fn driver() -> Result<&'static Driver, String> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    DRIVER.get_or_init(Driver::load).as_ref().map_err(Clone::clone)
}

impl Driver {
    #[expect(unsafe_code, reason = "loads NVIDIA's driver and names its functions by the signatures of cuda.h")]
    fn load() -> Result<Self, String> {
        let missing = |error: libloading::Error| {
            format!(
                "{error}; frames in CUDA memory need NVIDIA's driver: install it, and in a container pass the GPU through"
            )
        };
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

    /// The context that an address belongs to.
    #[expect(unsafe_code, reason = "the driver writes one pointer, and says so if the address is none of its own")]
    fn context(&self, address: u64) -> Result<Context, String> {
        const CU_POINTER_ATTRIBUTE_CONTEXT: c_int = 1;
        let mut context: Context = ptr::null_mut();
        let status =
            unsafe { (self.pointer_get_attribute)((&raw mut context).cast(), CU_POINTER_ATTRIBUTE_CONTEXT, address) };
        check("cuPointerGetAttribute", status)?;
        Ok(context)
    }

    /// Waits until what was asked for in a context is done.
    #[expect(unsafe_code, reason = "the context is pushed for the call and popped whatever it says")]
    fn wait_for(&self, context: Context) -> Result<(), String> {
        unsafe {
            check("cuCtxPushCurrent", (self.push_context)(context))?;
            let status = (self.synchronize)();
            let mut popped = ptr::null_mut();
            check("cuCtxPopCurrent", (self.pop_context)(&raw mut popped))?;
            check("cuCtxSynchronize", status)
        }
    }

    #[expect(
        unsafe_code,
        reason = "both addresses and their extents are vouched for by who made the frame and the tensor"
    )]
    fn copy(&self, source: u64, pitch: usize, target: u64, row: usize, rows: usize) -> Result<(), String> {
        const CU_MEMORYTYPE_DEVICE: c_int = 2;
        let end = |device: u64, pitch: usize| -> Result<End, String> {
            Ok(End {
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
        let (source, target) = (end(source, pitch)?, end(target, row)?);
        // The decoder may still be writing, on a stream that we do not know.
        self.wait_for(source.context)?;
        let context = target.context;
        let copy = PeerCopy { source, target, width_in_bytes: row, height: rows, depth: 1 };
        check("cuMemcpy3DPeer", unsafe { (self.copy_peer)(&raw const copy) })?;
        self.wait_for(context)
    }
}

fn check(call: &str, status: Status) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("CUDA's {call} fails with error {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::PixelFormat;

    #[test]
    fn the_copys_layout_is_that_of_cuda_h() {
        // On 64 bits: 4 * 8, an int and its padding, 3 * 8, a context, 2 * 8 for each end, and three sizes.
        assert_eq!((size_of::<End>(), size_of::<PeerCopy>()), (88, 200));
        assert_eq!(std::mem::offset_of!(End, device), 48);
        assert_eq!(std::mem::offset_of!(End, pitch), 72);
    }

    #[test]
    #[expect(unsafe_code, reason = "frames that nothing reads")]
    fn a_frame_whose_planes_do_not_fit_its_format_is_refused() {
        let info = ImageInfo::new(PixelFormat::Nv12, 640, 360);
        let plane = |pitch| DevicePlane { address: 0, pitch };
        let fits = |planes: &[DevicePlane]| unsafe { DeviceFrame::new(info, planes) }.is_ok();
        assert!(!fits(&[plane(640)]));
        assert!(!fits(&[plane(640), plane(639)]));
        assert!(fits(&[plane(768), plane(768)]));
    }

    #[test]
    #[expect(unsafe_code, reason = "an address that is none is for the driver to refuse")]
    fn without_a_driver_or_with_an_address_that_is_none_the_copy_is_an_error_with_its_reason() {
        let info = ImageInfo::new(PixelFormat::Gray8, 64, 64);
        let planes = [DevicePlane { address: 0, pitch: 64 }];
        let frame = unsafe { DeviceFrame::new(info, &planes) }.unwrap();
        let error = frame.copy_plane(0, 0).unwrap_err();
        assert!(error.contains("NVIDIA's driver") || error.contains("CUDA's cu"), "{error}");
    }
}
