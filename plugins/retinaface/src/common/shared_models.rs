//! Models shared between elements and pipelines of one process.
//!
//! A model lives while an element uses it. Elements that ask for a file of the same contents with
//! equal options share its sessions and threads. What can differ from frame to frame (thresholds,
//! batching) belongs to the request.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, Weak};

use retinaface::inference::{ModelDigest, ModelError, ModelFile, ModelOptions, OpenContext, SharedModel};
use retinaface::runtime::{self, Provider};

use super::sync::lock;

/// Everything that changes a model's results or their cost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    contents: ModelDigest,
    options: ModelOptions,
}

type Slot = Arc<Mutex<Weak<SharedModel>>>;

static SLOTS: LazyLock<Mutex<HashMap<Key, Slot>>> = LazyLock::new(Mutex::default);

/// The model of that file, opened if no element uses it yet.
pub(crate) fn get(path: &Path, options: &ModelOptions, context: &OpenContext) -> Result<Arc<SharedModel>, ModelError> {
    let file = ModelFile::read(path)?;
    // An element that names a provider shares its model with elements for which `auto` means that
    // provider.
    let base_dir = context.base_dir.as_deref();
    let likely = runtime::likely_provider(base_dir, options.provider, options.device_id, options.precision);
    let provider = match likely {
        Ok(provider) => provider,
        // Opening the model reports the error, and runs it on the CPU.
        Err(_) if options.allow_cpu_fallback => options.provider,
        Err(error) => return Err(error.into()),
    };
    let slot = slot(Key { contents: file.digest(), options: ModelOptions { provider, ..options.clone() } });
    // Held while the model opens, so that elements that start at the same time open it once. Other
    // models are not affected.
    let mut slot = lock(&slot);
    // The provider that `auto` took can be another one than the likely one.
    let is_wanted = |model: &Arc<SharedModel>| {
        let active = model.backend().provider;
        options.provider == Provider::Auto || active == options.provider || options.allow_cpu_fallback
    };
    if let Some(model) = slot.upgrade().filter(|model| !model.has_panicked() && is_wanted(model)) {
        return Ok(model);
    }
    let model = SharedModel::open_file(&file, options, context)?;
    *slot = Arc::downgrade(&model);
    Ok(model)
}

fn slot(key: Key) -> Slot {
    let mut slots = lock(&SLOTS);
    slots.retain(|other, slot| {
        // The slot of a model that is being opened is locked and has a second owner.
        *other == key || Arc::strong_count(slot) > 1 || lock(slot).strong_count() > 0
    });
    Arc::clone(slots.entry(key).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    fn default_model() -> PathBuf {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.fetch/models/retinaface_mnet025.onnx");
        assert!(file.exists(), "{} is missing: run `make setup`", file.display());
        file
    }

    fn get(path: &Path, options: &ModelOptions) -> Result<Arc<SharedModel>, ModelError> {
        super::get(path, options, &OpenContext::default())
    }

    #[test]
    fn a_model_is_shared_by_contents_and_options_and_dropped_with_its_last_user() {
        let directory = tempfile::tempdir().unwrap();
        let (file, copy) = (directory.path().join("model.onnx"), directory.path().join("copy.onnx"));
        // A field of an ONNX file that changes nothing: the name of the program that wrote it.
        let with_producer = |name: u8| [fs::read(default_model()).unwrap(), vec![0x12, 1, name]].concat();
        fs::write(&file, with_producer(b'a')).unwrap();
        fs::write(&copy, with_producer(b'a')).unwrap();
        let options = |threads, provider| ModelOptions { threads, provider, ..ModelOptions::default() };
        let first = get(&file, &options(1, Provider::Auto)).unwrap();
        let same = get(&copy, &options(1, Provider::Cpu)).unwrap();
        assert!(Arc::ptr_eq(&first, &same), "another name of the same contents, and the provider of `auto`");
        let other = get(&file, &options(2, Provider::Cpu)).unwrap();
        assert!(!Arc::ptr_eq(&first, &other), "another number of threads");

        // A file that is replaced is another model, even with the same length and time.
        fs::write(&file, with_producer(b'b')).unwrap();
        let changed = get(&file, &options(1, Provider::Cpu)).unwrap();
        assert!(!Arc::ptr_eq(&first, &changed), "other contents");

        let gone = Arc::downgrade(&first);
        drop((first, same));
        assert!(gone.upgrade().is_none(), "no list keeps it alive");
        assert!(get(&copy, &options(1, Provider::Cpu)).is_ok(), "it is opened again");
        let left = lock(&SLOTS).len();
        drop(other);
        let _another = get(&default_model(), &options(7, Provider::Cpu)).unwrap();
        assert!(lock(&SLOTS).len() < left + 1, "entries of models that are gone are gone");
    }

    #[test]
    fn elements_that_start_at_the_same_time_open_the_model_once() {
        let threads = [(); 4].map(|()| {
            std::thread::spawn(|| {
                get(&default_model(), &ModelOptions { threads: 3, ..ModelOptions::default() }).unwrap()
            })
        });
        let models = threads.map(|thread| thread.join().unwrap());
        assert!(models.iter().all(|model| Arc::ptr_eq(model, &models[0])));
    }
}
