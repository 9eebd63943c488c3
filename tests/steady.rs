//! In the steady state a frame reuses the tensors, buffers and reply channels of earlier frames and
//! allocates almost no memory.
//!
//! The test has a separate binary, because the counting allocator applies to the process.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use retinaface::detect::{DetectionSettings, Detector};
use retinaface::geometry::InputSize;
use retinaface::image::{ImageInfo, ImageView, PixelFormat};

mod common;

/// Number of allocations.
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// Sum of the allocated bytes.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// The system allocator, with counters.
struct CountingAllocator;

#[expect(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait; all calls are forwarded to the system allocator")]
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn steady_state_frame_allocates_no_buffer() {
    let model = common::open_default();
    // A direct format, and one that is converted.
    for (format, bytes) in [(PixelFormat::Nv12, 1), (PixelFormat::P010, 2)] {
        let planes = [vec![90; bytes * 1280 * 720], vec![128; bytes * 1280 * 360]];
        let strides = [bytes * 1280; 2];
        let frame = ImageView::new(ImageInfo::new(format, 1280, 720), &[&planes[0], &planes[1]], &strides).unwrap();
        assert_steady(&Detector::new(&model), &frame);
    }
}

/// Detects faces in frames without faces, and counts the allocations.
fn assert_steady(detector: &Detector, frame: &ImageView<'_>) {
    const FRAMES: usize = 40;
    let settings = DetectionSettings { input_size: InputSize::Longest(320), ..DetectionSettings::default() };
    // Two frames in flight, as in the element.
    let detect_pairs = |count: usize| {
        for _ in 0..count {
            let pending = [(); 2].map(|()| detector.submit(frame, &settings).unwrap());
            pending.into_iter().for_each(|detection| assert_eq!(detection.wait().unwrap().faces, []));
        }
    };
    detect_pairs(10);
    let before = (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    detect_pairs(FRAMES / 2);
    let calls = (CALLS.load(Ordering::Relaxed) - before.0) / FRAMES;
    let bytes = (BYTES.load(Ordering::Relaxed) - before.1) / FRAMES;
    // The `ort` crate allocates some small objects for the outputs of each run. In comparison, an
    // input tensor has 737,280 bytes and a resized luma plane has 57,600 bytes.
    eprintln!("{calls} allocations and {bytes} bytes per frame");
    assert!(calls <= 16 && bytes <= 2048, "{calls} allocations and {bytes} bytes per frame");
}
