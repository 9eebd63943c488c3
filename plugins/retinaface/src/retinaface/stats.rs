//! What the element did since it started.

use std::time::Duration;

use retinaface::detector::{Detection, Timing};

#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    frames: u64,
    inferred: u64,
    faces: u64,
    non_finite: u64,
    total: Timing,
}

impl Stats {
    /// Counts a frame; gives its number, from 0.
    pub(super) fn frame(&mut self) -> u64 {
        self.frames += 1;
        self.frames - 1
    }

    /// Counts what was found in a frame.
    pub(super) fn detection(&mut self, detection: &Detection) {
        let Timing { preprocess, wait, inference, decode } = detection.timing;
        self.inferred += 1;
        self.faces += detection.faces.len() as u64;
        self.non_finite += detection.non_finite as u64;
        self.total.preprocess += preprocess;
        self.total.wait += wait;
        self.total.inference += inference;
        self.total.decode += decode;
    }

    /// The value of the property `stats`.
    pub(super) fn structure(&self) -> gst::Structure {
        let mean = |total: Duration| (total.as_nanos() / u128::from(self.inferred.max(1))) as u64;
        gst::Structure::builder("retinaface-stats")
            .field("frames", self.frames)
            .field("inferred", self.inferred)
            .field("skipped", self.frames - self.inferred)
            .field("faces", self.faces)
            .field("non-finite", self.non_finite)
            .field("preprocess-time", mean(self.total.preprocess))
            .field("wait-time", mean(self.total.wait))
            .field("inference-time", mean(self.total.inference))
            .field("decode-time", mean(self.total.decode))
            .build()
    }
}
