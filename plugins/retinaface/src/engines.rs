//! Models shared between elements and pipelines: what changes the answer or its cost -> a weak reference.
//!
//! A model lives as long as an element uses it. Elements that ask for the same file on the same
//! provider with the same number of threads share one session and one thread; what may differ from
//! frame to frame (thresholds, batching) goes with the request.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use retinaface::detector::SharedModel;
use retinaface::model::{ModelError, Options};
use retinaface::runtime::Provider;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    path: PathBuf,
    /// A file that was replaced is another model.
    file: Option<(u64, SystemTime)>,
    provider: Provider,
    threads: usize,
}

impl Key {
    fn new(path: &Path, options: &Options) -> Self {
        let file = fs::metadata(path).ok().and_then(|data| Some((data.len(), data.modified().ok()?)));
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        Self { path, file, provider: options.provider.resolved(), threads: options.threads }
    }
}

type Slot = Arc<Mutex<Weak<SharedModel>>>;

static SLOTS: LazyLock<Mutex<HashMap<Key, Slot>>> = LazyLock::new(Mutex::default);

/// The model of that file, opened if no element uses it yet.
pub(crate) fn get(path: &Path, options: &Options) -> Result<Arc<SharedModel>, ModelError> {
    let slot = slot(Key::new(path, options));
    // Held while opening, so that two elements that start at once open it once; others are not held up.
    let mut slot = lock(&slot);
    if let Some(model) = slot.upgrade().filter(|model| !model.has_panicked()) {
        return Ok(model);
    }
    let model = SharedModel::open(path, options)?;
    *slot = Arc::downgrade(&model);
    Ok(model)
}

fn slot(key: Key) -> Slot {
    let mut slots = lock(&SLOTS);
    slots.retain(|other, slot| {
        // A slot that someone is just opening is locked and has a second owner.
        *other == key || Arc::strong_count(slot) > 1 || lock(slot).strong_count() > 0
    });
    Arc::clone(slots.entry(key).or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
