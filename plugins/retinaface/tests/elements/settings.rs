//! Warnings about settings with which an element can find nothing.

use crate::common::{self, frame_with_faces, info, project, quoted, with_watchdog};
use gst::prelude::*;
use gst_video::VideoFormat;

/// An element in a harness, and the bus that receives its warnings.
struct Watched {
    harness: gst_check::Harness,
    bus: gst::Bus,
    frames: u64,
}

impl Watched {
    /// `element` with its properties; it is named `it`.
    fn new(element: &str) -> Self {
        common::init();
        let harness = gst_check::Harness::new_parse(element);
        let bus = gst::Bus::new();
        harness.element().unwrap().set_bus(Some(&bus));
        Self { harness, bus, frames: 0 }
    }

    /// Pushes two frames of this size. Returns the warnings about them.
    fn warnings(&mut self, width: u32, height: u32) -> Vec<String> {
        let info = info(VideoFormat::Rgb, width, height);
        self.harness.set_src_caps(info.to_caps().unwrap());
        for _ in 0..2 {
            self.harness.push(frame_with_faces(&info, self.frames, &[])).unwrap();
            self.frames += 1;
        }
        common::warnings(&self.bus)
    }

    fn it(&self) -> gst::Element {
        self.harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("it").unwrap()
    }

    fn set(&self, name: &str, value: impl Into<gst::glib::Value>) {
        self.it().set_property(name, value);
    }

    /// Number of frames in which the detector has searched.
    fn inferred(&self) -> u64 {
        self.it().property::<gst::Structure>("stats").get("inferred").unwrap()
    }
}

fn detector(properties: &str) -> Watched {
    Watched::new(&format!("retinaface name=it model-file={} {properties}", quoted(&project::default_model())))
}

#[track_caller]
fn assert_one(warnings: &[String], part: &str) {
    let [warning] = warnings else { panic!("{warnings:?}") };
    assert!(warning.starts_with("it: ") && warning.contains(part), "{warning}");
}

#[test]
fn a_region_outside_the_frame_is_reported_once_per_size_and_per_change() {
    with_watchdog(|| {
        let mut it = detector("roi=400,0,100,100 inflight=1");
        assert_one(&it.warnings(320, 180), "400,0,100,100 of roi covers no pixel of the frame of 320 x 180");
        assert_eq!(it.warnings(320, 180), [""; 0]);
        assert_one(&it.warnings(160, 90), "of the frame of 160 x 90");
        assert_eq!(it.warnings(640, 360), [""; 0]);
        it.set("roi", "0,0,100,100;700,0,9,9");
        assert_one(&it.warnings(640, 360), "700,0,9,9");
        // Another property does not repeat it.
        it.set("iou-threshold", 0.5f32);
        assert_eq!(it.warnings(640, 360), [""; 0]);
    });
}

#[test]
fn each_setting_of_the_detector_that_finds_nothing_is_reported() {
    with_watchdog(|| {
        for (properties, part) in [
            ("score-threshold=1", "no score is above 1"),
            ("min-face-size=181", "min-face-size is 181, but the frame has 320 x 180"),
            ("input-size=8", "at most 8 x 5 pixels"),
            ("scales=0.01", "at most 6 x 4 pixels"),
            ("roi=0,0,20,20 tiles=32x32", "tiles is 32x32"),
            ("mode=latest max-age=39", "max-age is 39 ms, less than the time between two frames at 25 frames"),
        ] {
            let mut it = detector(properties);
            let mut warnings = it.warnings(320, 180);
            // In mode latest, a thread of the element takes the frame.
            common::wait_until(|| {
                warnings.extend(common::warnings(&it.bus));
                !warnings.is_empty()
            });
            assert_one(&warnings, part);
        }
        for properties in
            ["min-face-size=180", "mode=latest max-age=40", "tiles=auto", "max-age=1", "roi=319,179,99,99"]
        {
            let mut it = detector(properties);
            let mut warnings = it.warnings(320, 180);
            common::wait_until(|| it.inferred() > 0);
            warnings.extend(common::warnings(&it.bus));
            assert_eq!(warnings, [""; 0], "{properties}");
        }
    });
}

#[test]
fn a_minimum_size_above_the_frame_is_reported_by_the_elements_that_select_faces() {
    with_watchdog(|| {
        let model = quoted(&project::root().join("tests/fixtures/models/landmarks68.onnx"));
        for element in ["facealign name=it".to_owned(), format!("facelandmarks name=it model-file={model}")] {
            let mut it = Watched::new(&format!("{element} min-face-size=200"));
            assert_eq!(it.warnings(320, 240), [""; 0]);
            assert_one(&it.warnings(320, 180), "min-face-size is 200, but the frame has 320 x 180");
            it.set("min-face-size", 180u32);
            assert_eq!(it.warnings(320, 180), [""; 0]);
            it.set("min-face-size", 181u32);
            assert_one(&it.warnings(320, 180), "min-face-size is 181");
        }
    });
}
