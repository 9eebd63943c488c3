//! Statistics of the element: since start, and of the last interval.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use retinaface::detect::{Detection, ObjectRegions, Timing};

/// Larger batches are counted as this size.
const MAX_BATCH: usize = 64;
/// Longest recorded time; the resolution is one hundredth of a time.
const MAX_TIME: Duration = Duration::from_secs(600);

/// The stages, in the order of [`times`].
const STAGES: [&str; 4] = ["wait", "preprocess", "inference", "decode"];

fn times(timing: &Timing) -> [Duration; STAGES.len()] {
    let Timing { preprocess, wait, inference, decode } = *timing;
    [wait, preprocess, inference, decode]
}

/// Counts of a period.
#[derive(Clone, Debug)]
struct Count {
    since: Instant,
    frames: u64,
    inferred: u64,
    skipped: u64,
    failed: u64,
    regions: u64,
    regions_left_out: u64,
    faces: u64,
    non_finite: u64,
    /// Number of analysed frames by the size of their batch; 0 for frames without a region.
    batches: [u64; MAX_BATCH + 1],
    times: [Histogram<u64>; STAGES.len()],
}

impl Count {
    fn new() -> Self {
        let histogram =
            || Histogram::new_with_max(MAX_TIME.as_nanos() as u64, 2).expect("the limits are valid for a histogram");
        Self {
            since: Instant::now(),
            frames: 0,
            inferred: 0,
            skipped: 0,
            failed: 0,
            regions: 0,
            regions_left_out: 0,
            faces: 0,
            non_finite: 0,
            batches: [0; MAX_BATCH + 1],
            times: [histogram(), histogram(), histogram(), histogram()],
        }
    }

    fn reset(&mut self) {
        let Self {
            since,
            frames,
            inferred,
            skipped,
            failed,
            regions,
            regions_left_out,
            faces,
            non_finite,
            batches,
            times,
        } = self;
        *since = Instant::now();
        (*frames, *inferred, *skipped, *failed, *faces, *non_finite) = (0, 0, 0, 0, 0, 0);
        (*regions, *regions_left_out) = (0, 0);
        *batches = [0; MAX_BATCH + 1];
        times.iter_mut().for_each(Histogram::reset);
    }

    fn detection(&mut self, detection: &Detection) {
        self.inferred += 1;
        self.faces += detection.faces.len() as u64;
        self.non_finite += detection.non_finite as u64;
        self.batches[detection.batch.min(MAX_BATCH)] += 1;
        for (histogram, time) in self.times.iter_mut().zip(times(&detection.timing)) {
            histogram.saturating_record(time.as_nanos() as u64);
        }
    }

    fn structure(&self, name: &str) -> gst::structure::Builder {
        let mut builder = gst::Structure::builder(name)
            .field("duration", self.since.elapsed().as_nanos() as u64)
            .field("frames", self.frames)
            .field("inferred", self.inferred)
            .field("skipped", self.skipped)
            .field("failed", self.failed)
            .field("regions", self.regions)
            .field("regions-left-out", self.regions_left_out)
            .field("faces", self.faces)
            .field("non-finite", self.non_finite);
        let mut batches = gst::Structure::builder("batches");
        for (size, count) in self.batches.iter().enumerate().filter(|(_, count)| **count > 0) {
            batches = batches.field(size.to_string(), *count);
        }
        builder = builder.field("batches", batches.build());
        for (stage, histogram) in STAGES.iter().zip(&self.times) {
            builder = builder.field(format!("{stage}-time"), histogram.mean() as u64);
            for percentile in [50.0, 95.0, 99.0] {
                let value = histogram.value_at_quantile(percentile / 100.0);
                builder = builder.field(format!("{stage}-p{percentile}"), value);
            }
        }
        builder
    }
}

#[derive(Clone, Debug)]
pub(super) struct Stats {
    whole: Count,
    /// The current interval.
    interval: Count,
    /// The last completed interval.
    last: Option<gst::Structure>,
}

impl Default for Stats {
    fn default() -> Self {
        Self { whole: Count::new(), interval: Count::new(), last: None }
    }
}

impl Stats {
    /// Counts a frame; returns its number, from 0.
    pub(super) fn frame(&mut self) -> u64 {
        self.interval.frames += 1;
        self.whole.frames += 1;
        self.whole.frames - 1
    }

    /// Counts a frame that was not analysed.
    pub(super) fn skip(&mut self) {
        self.whole.skipped += 1;
        self.interval.skipped += 1;
    }

    /// Counts a frame on which the model failed.
    pub(super) fn fail(&mut self) {
        self.whole.failed += 1;
        self.interval.failed += 1;
    }

    /// Counts the regions of a frame in which detection runs, and those that are left out.
    pub(super) fn regions(&mut self, regions: &ObjectRegions) {
        for count in [&mut self.whole, &mut self.interval] {
            count.regions += regions.regions.len() as u64;
            count.regions_left_out += regions.left_out as u64;
        }
    }

    /// Counts a detection.
    pub(super) fn detection(&mut self, detection: &Detection) {
        self.whole.detection(detection);
        self.interval.detection(detection);
    }

    /// Ends the interval if it has that length; then its message is due. A length of zero never
    /// ends.
    pub(super) fn end_interval(&mut self, length: Duration) -> bool {
        let ends = !length.is_zero() && self.interval.since.elapsed() >= length;
        if ends {
            self.last = Some(self.interval.structure("interval").build());
            self.interval.reset();
        }
        ends
    }

    /// The value of the property `stats`: counts and times in ns since start and of the last
    /// interval.
    pub(super) fn structure(&self) -> gst::Structure {
        self.whole.structure("retinaface-stats").field_if_some("interval", self.last.clone()).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(milliseconds: u64, batch: usize) -> Detection {
        let timing = Timing { inference: Duration::from_millis(milliseconds), ..Timing::default() };
        Detection { timing, batch, ..Detection::default() }
    }

    #[test]
    fn percentiles_and_batch_sizes_are_those_of_the_counted_detections() {
        gst::init().unwrap();
        let mut stats = Stats::default();
        for number in 1..=100 {
            assert_eq!(stats.frame(), number - 1);
            stats.detection(&detection(number, if number % 4 == 0 { 3 } else { 1 }));
        }
        stats.frame();
        stats.skip();
        let structure = stats.structure();
        let count = |name| structure.get::<u64>(name).unwrap();
        assert_eq!((count("frames"), count("inferred"), count("skipped")), (101, 100, 1));
        for (name, milliseconds) in [("inference-p50", 50), ("inference-p95", 95), ("inference-p99", 99)] {
            let off = count(name).abs_diff(milliseconds * 1_000_000);
            assert!(off <= milliseconds * 10_000, "{name} is {}", count(name));
        }
        let batches = structure.get::<gst::Structure>("batches").unwrap();
        assert_eq!((batches.get::<u64>("1"), batches.get::<u64>("3")), (Ok(75), Ok(25)));
        assert_eq!(batches.n_fields(), 2);
        assert!(!structure.has_field("interval"), "no interval has ended yet");
    }

    #[test]
    fn an_interval_holds_the_counts_since_the_last_one() {
        gst::init().unwrap();
        let mut stats = Stats::default();
        stats.frame();
        assert!(!stats.end_interval(Duration::ZERO), "0 never ends an interval");
        assert!(!stats.end_interval(Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(2));
        assert!(stats.end_interval(Duration::from_millis(1)));
        stats.frame();
        stats.frame();
        std::thread::sleep(Duration::from_millis(2));
        assert!(stats.end_interval(Duration::from_millis(1)));
        let structure = stats.structure();
        let interval = structure.get::<gst::Structure>("interval").unwrap();
        assert_eq!((structure.get::<u64>("frames"), interval.get::<u64>("frames")), (Ok(3), Ok(2)));
    }

    #[test]
    fn longer_times_than_the_maximum_are_counted_as_the_maximum() {
        gst::init().unwrap();
        let mut stats = Stats::default();
        stats.detection(&detection(u64::MAX / 1_000_000, 500));
        let structure = stats.structure();
        assert!(structure.get::<u64>("inference-p99").unwrap() >= MAX_TIME.as_nanos() as u64 * 99 / 100);
        assert_eq!(structure.get::<gst::Structure>("batches").unwrap().get::<u64>("64"), Ok(1));
    }
}
