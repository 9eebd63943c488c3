//! In the steady state a frame allocates next to nothing: its tensors, buffers and reply line are those of an earlier one.
//!
//! One test in a binary of its own: the allocator that counts is the whole process's.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use retinaface::detector::{Detector, Settings};
use retinaface::image::{ImageInfo, ImageView, PixelFormat};
use retinaface::letterbox::InputSize;

mod common;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; this one passes all calls on")]
unsafe impl GlobalAlloc for Counting {
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
static ALLOCATOR: Counting = Counting;

#[test]
fn a_frame_in_the_steady_state_allocates_no_buffer() {
    const FRAMES: usize = 40;
    let model = common::open_default();
    let detector = Detector::new(&model);
    let planes = [vec![90; 1280 * 720], vec![128; 1280 * 360]];
    let info = ImageInfo::new(PixelFormat::Nv12, 1280, 720);
    let frame = ImageView::new(info, &[&planes[0], &planes[1]], &[1280, 1280]).unwrap();
    let settings = Settings { input_size: InputSize::Longest(320), ..Settings::default() };
    // Two under way at once, as in the element.
    let pairs = |count: usize| {
        for _ in 0..count {
            let underway = [(); 2].map(|()| detector.submit(&frame, &settings).unwrap());
            underway.into_iter().for_each(|one| assert_eq!(one.wait().unwrap().faces, []));
        }
    };
    pairs(10);
    let before = (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    pairs(FRAMES / 2);
    let calls = (CALLS.load(Ordering::Relaxed) - before.0) / FRAMES;
    let bytes = (BYTES.load(Ordering::Relaxed) - before.1) / FRAMES;
    // The binding makes some small objects for each run's outputs.
    // A tensor of this size has 737 280 bytes, a plane's resized copy 57 600.
    eprintln!("{calls} allocations of {bytes} bytes a frame");
    assert!(calls <= 16 && bytes <= 2048, "{calls} allocations of {bytes} bytes a frame");
}
