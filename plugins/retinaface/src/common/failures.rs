//! What an element does with a frame on which its model fails.

use std::sync::Mutex;

use gst::glib;
use gst::prelude::*;

use super::sync::lock;

const DEFAULT_ON_ERROR: OnError = OnError::Fail;
/// Number of failures without a result between them after which the stream ends nevertheless: then
/// the model does not fail now and then, it does not work.
pub(crate) const MAX_CONSECUTIVE_FAILURES: u32 = 100;
/// A warning is posted with the first failure and then with every Nth one.
const WARNING_INTERVAL: u64 = 100;

/// What happens when the model fails on a frame, as a property's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceOnError")]
#[repr(i32)]
pub(crate) enum OnError {
    #[enum_value(name = "Fail: the stream ends with an error", nick = "fail")]
    Fail,
    #[enum_value(
        name = "Skip: the frame passes without a result; after 100 failures in a row the stream ends with an error",
        nick = "skip"
    )]
    Skip,
}

impl Default for OnError {
    fn default() -> Self {
        DEFAULT_ON_ERROR
    }
}

/// The property `on-error`.
pub(crate) fn on_error_property() -> glib::ParamSpec {
    glib::ParamSpecEnum::builder_with_default("on-error", DEFAULT_ON_ERROR)
        .nick("On error")
        .blurb("What to do with a frame on which the model fails")
        .mutable_playing()
        .build()
}

/// The failures of an element since start.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    consecutive: u32,
    total: u64,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// The frame passes without a result.
    Skip,
    /// As [`Self::Skip`], and a warning is due. The number is that of all failures so far.
    Warn(u64),
    /// The stream ends.
    End,
}

impl Failures {
    /// Starts anew.
    pub(super) fn clear(&self) {
        *lock(&self.0) = Counts::default();
    }

    /// Notes that the model has a result.
    pub(super) fn succeeded(&self) {
        lock(&self.0).consecutive = 0;
    }

    /// Counts a failure.
    pub(super) fn failed(&self) -> Consequence {
        let mut counts = lock(&self.0);
        counts.consecutive += 1;
        counts.total += 1;
        if counts.consecutive >= MAX_CONSECUTIVE_FAILURES {
            Consequence::End
        } else if counts.total % WARNING_INTERVAL == 1 {
            Consequence::Warn(counts.total)
        } else {
            Consequence::Skip
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_without_a_result_between_them_end_the_stream() {
        let failures = Failures::default();
        for _ in 1..MAX_CONSECUTIVE_FAILURES {
            assert_ne!(failures.failed(), Consequence::End);
        }
        failures.succeeded();
        for _ in 1..MAX_CONSECUTIVE_FAILURES {
            assert_ne!(failures.failed(), Consequence::End);
        }
        assert_eq!(failures.failed(), Consequence::End);
        failures.clear();
        assert_eq!(failures.failed(), Consequence::Warn(1));
    }

    #[test]
    fn one_of_a_hundred_failures_is_reported() {
        let failures = Failures::default();
        let reported = (0..1000).filter_map(|_| {
            failures.succeeded();
            match failures.failed() {
                Consequence::Warn(total) => Some(total),
                _ => None,
            }
        });
        assert_eq!(reported.collect::<Vec<_>>(), (0..10).map(|hundreds| 100 * hundreds + 1).collect::<Vec<_>>());
    }
}
