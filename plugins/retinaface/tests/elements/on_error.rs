//! The property `on-error`: what becomes of frames on which the model fails.

use crate::common::{
    self, PipelineError, face, frame_with_faces, info, model_that_fails_on_white, project, quoted, wait_until,
    with_watchdog,
};
use face_meta::FrameFaces;
use gst::prelude::*;
use gst_video::VideoFormat;

const SIZE: (usize, usize) = (320, 180);
/// Every way in which frames pass through the element.
const MODES: [&str; 3] = ["inflight=1", "inflight=4", "mode=latest"];

/// A detector that fails on white frames, and its bus.
struct Failing {
    harness: gst_check::Harness,
    bus: gst::Bus,
    pushed: u64,
    _model: tempfile::NamedTempFile,
}

impl Failing {
    fn new(properties: &str) -> Self {
        common::init();
        let model = model_that_fails_on_white();
        let file = quoted(model.path());
        let description = format!("retinaface name=it model-file={file} execution-provider=cpu input-size=160");
        let mut harness = gst_check::Harness::new_parse(&format!("{description} {properties}"));
        let bus = gst::Bus::new();
        harness.element().unwrap().set_bus(Some(&bus));
        harness.set_src_caps(info(VideoFormat::Gray8, SIZE.0 as u32, SIZE.1 as u32).to_caps().unwrap());
        Self { harness, bus, pushed: 0, _model: model }
    }

    /// Pushes a frame that carries a face of another detector.
    fn push(&mut self, is_white: bool) -> Result<gst::FlowSuccess, gst::FlowError> {
        let video = info(VideoFormat::Gray8, SIZE.0 as u32, SIZE.1 as u32);
        let mut buffer = frame_with_faces(&video, self.pushed, &[face(0.9, 10.0, 10.0, 40.0, 50.0)]);
        let level = if is_white { 255 } else { 40 };
        buffer.get_mut().unwrap().map_writable().unwrap().fill(level);
        self.pushed += 1;
        self.harness.push(buffer)
    }

    fn pull(&mut self) -> FrameFaces {
        face_meta::read(&self.harness.pull().unwrap(), SIZE)
    }

    fn stat(&self, name: &str) -> u64 {
        let element = self.harness.element().unwrap().downcast::<gst::Bin>().unwrap().by_name("it").unwrap();
        element.property::<gst::Structure>("stats").get(name).unwrap()
    }

    fn error(&self) -> PipelineError {
        let message = self.bus.pop_filtered(&[gst::MessageType::Error]).expect("the failure is reported");
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        PipelineError::new(error)
    }
}

#[test]
fn a_failed_frame_passes_without_a_result_if_the_user_wants() {
    with_watchdog(|| {
        for properties in ["inflight=1", "inflight=4"] {
            let mut failing = Failing::new(&format!("on-error=skip {properties}"));
            let is_white = |number: u64| [3, 4, 7].contains(&number);
            for number in 0..12 {
                failing.push(is_white(number)).unwrap();
            }
            for number in 0..12 {
                let found = failing.pull();
                assert_eq!(found.state.has_result(), !is_white(number), "{properties}, frame {number}");
                // Also the face of the other detector is gone.
                assert_eq!((found.failed, found.faces.len(), found.lost), (is_white(number), 0, 0));
            }
            assert_eq!((failing.stat("frames"), failing.stat("inferred"), failing.stat("failed")), (12, 9, 3));
            let warnings = common::warnings(&failing.bus);
            let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
            for part in ["Face detection failed: ", "Reshape", "without a result (on-error=skip)"] {
                assert!(warning.contains(part), "{warning}");
            }
        }
    });
}

#[test]
fn a_failed_frame_ends_the_stream_by_default() {
    with_watchdog(|| {
        for mode in MODES {
            let mut failing = Failing::new(mode);
            let mut flow = Ok(gst::FlowSuccess::Ok);
            wait_until(|| {
                flow = failing.push(true);
                flow.is_err()
            });
            assert_eq!(flow, Err(gst::FlowError::Error), "{mode}");
            failing.error().assert_code(gst::StreamError::Failed);
            assert_eq!(failing.stat("failed"), 0);
        }
    });
}

#[test]
fn a_hundred_failures_in_a_row_end_the_stream() {
    with_watchdog(|| {
        for mode in MODES {
            let mut failing = Failing::new(&format!("on-error=skip {mode}"));
            let progress = common::Progress::of_current_test();
            // The failures before a result do not count.
            wait_until(|| {
                progress.advance();
                failing.push(true).unwrap();
                failing.pull();
                failing.stat("failed") >= 50
            });
            wait_until(|| {
                failing.push(false).unwrap();
                failing.pull();
                failing.stat("inferred") > 0
            });
            let before = failing.stat("failed");
            let mut flow = Ok(gst::FlowSuccess::Ok);
            wait_until(|| {
                progress.advance();
                flow = failing.push(true);
                flow.is_err()
            });
            assert_eq!(flow, Err(gst::FlowError::Error), "{mode}");
            let error = failing.error();
            error.assert_code(gst::StreamError::Failed);
            assert!(error.text.contains("Face detection failed 100 times in a row: "), "{}", error.text);
            assert!(error.text.contains("Reshape"), "{}", error.text);
            assert_eq!(failing.stat("failed"), before + 99, "{mode}");
        }
    });
}

#[test]
fn a_failure_in_mode_latest_discards_the_result_before_it() {
    with_watchdog(|| {
        let mut failing = Failing::new("on-error=skip mode=latest max-age=0");
        for is_white in [false, true, false] {
            wait_until(|| {
                failing.push(is_white).unwrap();
                let found = failing.pull();
                assert!(!(found.failed && found.state.has_result()));
                if is_white { found.failed } else { found.state.has_result() }
            });
        }
    });
}

#[test]
fn faces_have_no_points_if_the_landmark_model_fails() {
    with_watchdog(|| {
        let model = quoted(&project::root().join("tests/fixtures/models/landmarks68.onnx"));
        let video = info(VideoFormat::Gray8, SIZE.0 as u32, SIZE.1 as u32);
        for inflight in [1, 4] {
            let description = format!("facelandmarks model-file={model} on-error=skip inflight={inflight}");
            let mut harness = gst_check::Harness::new_parse(&description);
            let bus = gst::Bus::new();
            harness.element().unwrap().set_bus(Some(&bus));
            harness.set_src_caps(video.to_caps().unwrap());
            let mut points = Vec::new();
            for number in 0..6 {
                let mut buffer = frame_with_faces(&video, number, &[face(0.9, 40.0, 20.0, 100.0, 100.0)]);
                if number % 2 == 1 {
                    // A frame whose memory is too small for its caps cannot be read.
                    buffer.get_mut().unwrap().set_size(100);
                }
                let found = face_meta::read(&harness.push_and_pull(buffer).unwrap(), SIZE);
                points.push(found.faces.iter().map(|found| found.face.points.len()).sum::<usize>());
            }
            assert_eq!(points, [68, 0, 68, 0, 68, 0], "inflight={inflight}");
            let warnings = common::warnings(&bus);
            assert!(warnings.len() == 1 && warnings[0].contains("Finding face landmarks failed: "), "{warnings:?}");
        }
    });
}
