//! Reading the faces of frames, with a warning when other elements have lost them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use face_meta::{AnalysedFaces, FrameFaces, FrameState};
use gst::prelude::*;
use gst_video::VideoInfo;

use super::frame;

/// Number of frames without a detection result after which a pipeline that never has one is
/// reported. `inference-interval` and `mode=latest` leave fewer frames without one.
const FRAMES_WITHOUT_DETECTION: u32 = 300;

/// Reads faces for one element. It posts each of its warnings once in the life of the element, since
/// the cause is the order of the elements.
#[derive(Debug, Default)]
pub(crate) struct FaceReader {
    has_reported_loss: AtomicBool,
    has_reported_unknown_frame: AtomicBool,
    /// Frames without a detection result so far, until the first frame with one.
    without_detection: AtomicU32,
}

/// The faces of a frame for an element that reads their pixels.
#[derive(Debug)]
pub(crate) enum FacesToCrop {
    /// They were found in this frame.
    Here(FrameFaces),
    /// They were found in an earlier frame, which has this format.
    Earlier(AnalysedFaces, VideoInfo),
    /// They are those of the analysis with the number `known`.
    Known,
    /// They were found in an earlier frame, which is not known.
    Unknown,
}

impl FaceReader {
    /// As [`Self::read`], for an element that reads the pixels below the faces. `known` is the number
    /// of the latest analysis of an earlier frame that it has processed.
    pub(crate) fn read_to_crop(
        &self,
        element: &impl IsA<gst::Element>,
        buffer: &gst::BufferRef,
        info: &VideoInfo,
        use_of_faces: &str,
        known: Option<u64>,
    ) -> FacesToCrop {
        if let Some(number) = face_meta::analysis_number(buffer) {
            self.without_detection.store(u32::MAX, Ordering::Relaxed);
            if known == Some(number) {
                return FacesToCrop::Known;
            }
        }
        if let Some(analysed) = face_meta::read_analysed(buffer)
            && let Some(info) = analysed.frame.caps().and_then(|caps| VideoInfo::from_caps(caps).ok())
        {
            return FacesToCrop::Earlier(analysed, info);
        }
        let found = self.read(element, buffer, info, use_of_faces);
        if found.age.is_zero() || found.state == FrameState::Predicted {
            return FacesToCrop::Here(found);
        }
        if !self.has_reported_unknown_frame.swap(true, Ordering::Relaxed) {
            gst::element_warning!(
                element.as_ref(),
                gst::StreamError::Failed,
                (
                    "the faces of an earlier frame are not {use_of_faces}, because that frame is not attached; remove \
                     videoconvert and other converters between retinaface and {}, or set mode=sync on retinaface",
                    element.as_ref().name()
                )
            );
        }
        FacesToCrop::Unknown
    }

    /// The faces of a frame. `use_of_faces` is what `element` does to them, as in "drawn".
    pub(crate) fn read(
        &self,
        element: &impl IsA<gst::Element>,
        buffer: &gst::BufferRef,
        info: &VideoInfo,
        use_of_faces: &str,
    ) -> FrameFaces {
        let found = face_meta::read(buffer, frame::frame_size(buffer, info));
        let element = element.as_ref();
        if found.state.has_result() {
            self.without_detection.store(u32::MAX, Ordering::Relaxed);
        } else if !found.failed {
            self.count_frame_without_detection(element, use_of_faces);
        }
        if found.lost > 0 && !self.has_reported_loss.swap(true, Ordering::Relaxed) {
            let (lost, all, name) = (found.lost, found.lost + found.faces.len(), element.name());
            gst::element_warning!(
                element,
                gst::StreamError::Failed,
                ("{lost} of {all} faces of a frame have lost their position and are not {use_of_faces}: an element \
                     between the detector and {name} has probably changed the geometry of the frame, as videoflip, videocrop, \
                     videobox and a videoscale to another display aspect ratio do; put {name} before that element, or \
                     put that element before `retinaface`"),
                ["further lost faces of this element are counted in the metadata and not reported"]
            );
        }
        found
    }

    fn count_frame_without_detection(&self, element: &gst::Element, use_of_faces: &str) {
        let count = |frames: u32| (frames < FRAMES_WITHOUT_DETECTION).then(|| frames + 1);
        if self.without_detection.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count)
            == Ok(FRAMES_WITHOUT_DETECTION - 1)
        {
            let name = element.name();
            gst::element_warning!(
                element,
                gst::StreamError::Failed,
                ("none of the first {FRAMES_WITHOUT_DETECTION} frames carries a detection result, so no face is \
                     {use_of_faces}: put `retinaface` before {name}, and behind compositor, deinterlace and other \
                     elements that keep no metadata")
            );
        }
    }
}
