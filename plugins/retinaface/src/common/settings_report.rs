//! Warnings about settings with which an element can find nothing.

use std::fmt::Display;
use std::sync::Mutex;

use gst::prelude::*;

use super::sync::lock;

/// The problems of an element's settings that are on the bus.
#[derive(Debug, Default)]
pub(crate) struct SettingsReport(Mutex<Vec<String>>);

impl SettingsReport {
    /// Posts those of the present `problems` that were not among those of the last call, so that
    /// each is posted once per change of the caps or the settings.
    pub(crate) fn post(&self, element: &impl IsA<gst::Element>, problems: impl IntoIterator<Item: Display>) {
        let problems = problems.into_iter().map(|problem| problem.to_string()).collect::<Vec<_>>();
        let before = std::mem::replace(&mut *lock(&self.0), problems.clone());
        // Posted without a lock: a handler of the bus may call the element.
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            let element = element.as_ref();
            gst::element_warning!(element, gst::ResourceError::Settings, ("{}: {problem}", element.name()));
        }
    }

    /// Forgets the problems: the element has stopped.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }
}
