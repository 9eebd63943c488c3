//! What a command that goes through many pictures says meanwhile, on standard error.

use std::io::{self, Write as _};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

/// Says something about an input.
pub(super) fn tell(input: &Path, what: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "retinaface: {}: {what}", input.display());
}

/// Nothing where standard error is no terminal.
pub(super) fn bar(pictures: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta} {msg}");
    ProgressBar::new(pictures as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
