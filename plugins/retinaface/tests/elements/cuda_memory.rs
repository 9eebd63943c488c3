//! The feature `cuda-memory` without a GPU: pad template caps, and the error on the CPU provider.

use crate::common::{self, info, project, quoted, with_watchdog};
use gst::prelude::*;
use gst_video::VideoFormat;

fn cuda_caps() -> gst::Caps {
    let mut caps = info(VideoFormat::Nv12, 640, 360).to_caps().unwrap();
    caps.make_mut().set_features_simple(Some(gst::CapsFeatures::new(["memory:CUDAMemory"])));
    caps
}

#[test]
fn detector_accepts_cuda_and_system_memory_caps() {
    common::init();
    let element = gst::ElementFactory::make("retinaface").build().unwrap();
    for pad in ["sink", "src"] {
        let caps = element.static_pad(pad).unwrap().pad_template_caps();
        assert!(
            caps.can_intersect(&cuda_caps())
                && caps.can_intersect(&info(VideoFormat::Nv12, 640, 360).to_caps().unwrap())
        );
    }
    let overlay = gst::ElementFactory::make("facemetaoverlay").build().unwrap();
    assert!(!overlay.static_pad("sink").unwrap().pad_template_caps().can_intersect(&cuda_caps()));
}

#[test]
fn cuda_memory_frame_on_cpu_provider_is_an_error() {
    with_watchdog(|| {
        let model = quoted(&project::default_model());
        let description = format!("retinaface name=it execution-provider=cpu model-file={model}");
        let mut harness = gst_check::Harness::new_parse(&description);
        let element = harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("it").unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        harness.set_src_caps(cuda_caps());
        assert!(harness.push(common::frame(&info(VideoFormat::Nv12, 640, 360), 0)).is_err());
        let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("an error message is posted");
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        let text = error.error().to_string();
        assert!(text.contains("execution-provider=cuda") && text.contains("cudadownload"), "{text}");
    });
}
