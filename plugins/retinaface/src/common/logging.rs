//! ONNX Runtime's log in GStreamer's debug log.

use std::sync::LazyLock;

use gst::{DebugCategory, DebugColorFlags, DebugLevel};
use log::{Level, LevelFilter, Log, Metadata, Record};

static CAT: LazyLock<DebugCategory> = LazyLock::new(|| {
    DebugCategory::new("onnxruntime", DebugColorFlags::empty(), Some("Log of ONNX Runtime, of all elements"))
});

struct DebugLog;

impl Log for DebugLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match record.level() {
            Level::Error => gst::error!(CAT, "{}", record.args()),
            Level::Warn => gst::warning!(CAT, "{}", record.args()),
            Level::Info => gst::info!(CAT, "{}", record.args()),
            Level::Debug => gst::debug!(CAT, "{}", record.args()),
            Level::Trace => gst::trace!(CAT, "{}", record.args()),
        }
    }

    fn flush(&self) {}
}

/// Sends the lines that the core library passes on from ONNX Runtime to the debug category
/// `onnxruntime`. Called when the plugin is loaded. A program that links the plugin and has a logger
/// of its own keeps it.
pub(crate) fn init() {
    static LOG: DebugLog = DebugLog;
    // More than warnings costs time, so it is requested only if `GST_DEBUG` asks for it.
    let level = match CAT.threshold() {
        DebugLevel::None | DebugLevel::Error | DebugLevel::Warning => LevelFilter::Warn,
        DebugLevel::Fixme | DebugLevel::Info => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(level);
    }
}
