//! Models shared between elements and pipelines: what changes the answer or its cost -> a weak reference.
//!
//! A model lives as long as an element uses it. Elements that ask for the same file run in the same way (provider,
//! device, precision, threads, parallel runs and the like) share its sessions and threads; what may differ from frame to
//! frame (thresholds, batching) goes with the request.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::SystemTime;

use retinaface::detector::SharedModel;
use retinaface::model::{Kernels, ModelError, Options, Preprocessing, Purpose};
use retinaface::overrides::Overrides;
use retinaface::provider::{Precision, Provider};
use retinaface::runtime;

use crate::lock::lock;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    path: PathBuf,
    /// A file that was replaced is another model.
    file: Option<(u64, SystemTime)>,
    provider: Provider,
    device_id: u32,
    precision: Precision,
    kernels: Kernels,
    allow_cpu_fallback: bool,
    preprocessing: Preprocessing,
    cuda_graph: bool,
    threads: usize,
    parallel_runs: usize,
    purpose: Purpose,
    overrides: Overrides,
}

impl Key {
    fn new(path: &Path, options: &Options) -> Self {
        let file = fs::metadata(path).ok().and_then(|data| Some((data.len(), data.modified().ok()?)));
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let Options {
            provider,
            device_id,
            precision,
            kernels,
            allow_cpu_fallback,
            preprocessing,
            cuda_graph,
            threads,
            parallel_runs,
            purpose,
            ref overrides,
            ..
        } = *options;
        Self {
            path,
            file,
            provider,
            device_id,
            precision,
            kernels,
            allow_cpu_fallback,
            preprocessing,
            cuda_graph,
            threads,
            parallel_runs,
            purpose,
            overrides: overrides.clone(),
        }
    }
}

type Slot = Arc<Mutex<Weak<SharedModel>>>;

static SLOTS: LazyLock<Mutex<HashMap<Key, Slot>>> = LazyLock::new(Mutex::default);

/// The model of that file, opened if no element uses it yet.
pub(crate) fn get(path: &Path, options: &Options) -> Result<Arc<SharedModel>, ModelError> {
    // One that was asked for by name is as good for those who left it open.
    let provider = match runtime::likely(options.home.as_deref(), options.provider) {
        Ok(provider) => provider,
        // Opening says what stands in its way, and runs on the CPU instead.
        Err(_) if options.allow_cpu_fallback => options.provider,
        Err(error) => return Err(error.into()),
    };
    let slot = slot(Key::new(path, &Options { provider, ..options.clone() }));
    // Held while opening, so that two elements that start at once open it once; others are not held up.
    let mut slot = lock(&slot);
    // What `auto` turned out to be need not be what it was likely to be.
    let is_wanted = |model: &Arc<SharedModel>| {
        let runs_on = model.running().provider;
        options.provider == Provider::Auto || runs_on == options.provider || options.allow_cpu_fallback
    };
    if let Some(model) = slot.upgrade().filter(|model| !model.has_panicked() && is_wanted(model)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn default_model() -> PathBuf {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.fetch/models/retinaface_mnet025.onnx");
        assert!(file.exists(), "{} is not there: run `make setup`", file.display());
        file
    }

    #[test]
    fn a_model_is_shared_by_what_changes_its_answer_and_goes_with_its_last_user() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("model.onnx"), folder.path().join("link.onnx"));
        fs::copy(default_model(), &file).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let options = |threads, provider| Options { threads, provider, ..Options::default() };
        let first = get(&file, &options(1, Provider::Auto)).unwrap();
        let same = get(&link, &options(1, Provider::Cpu)).unwrap();
        assert!(Arc::ptr_eq(&first, &same), "another name of the same file, and what auto stands for");
        let other = get(&file, &options(2, Provider::Cpu)).unwrap();
        assert!(!Arc::ptr_eq(&first, &other), "another number of threads");

        let gone = Arc::downgrade(&first);
        drop((first, same));
        assert!(gone.upgrade().is_none(), "no list keeps it alive");
        assert!(get(&file, &options(1, Provider::Cpu)).is_ok(), "it is opened again");
        let left = lock(&SLOTS).len();
        drop(other);
        let _other_file = get(&default_model(), &options(1, Provider::Cpu)).unwrap();
        assert!(lock(&SLOTS).len() < left + 1, "entries of models that are gone are gone");
    }

    #[test]
    fn two_elements_that_start_at_once_open_the_model_once() {
        let threads = [(); 4].map(|()| {
            std::thread::spawn(|| get(&default_model(), &Options { threads: 3, ..Options::default() }).unwrap())
        });
        let models = threads.map(|thread| thread.join().unwrap());
        assert!(models.iter().all(|model| Arc::ptr_eq(model, &models[0])));
    }
}
