//! Providers that do not allow concurrent calls.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

use super::provider::Provider;
use crate::sync::lock;

/// All sessions of ONNX Runtime's WebGPU provider share one context of the GPU, which is not safe to
/// use from several threads (microsoft/onnxruntime#32561). The GPU runs one session at a time anyway.
static WEBGPU: Mutex<()> = Mutex::new(());

/// Exclusive access to a provider, for the creation and the run of a session; `None` if the provider
/// allows concurrent calls.
pub(crate) fn exclusive(provider: Provider) -> Option<MutexGuard<'static, ()>> {
    (provider == Provider::WebGpu).then(|| lock(&WEBGPU))
}

/// A session or binding of a provider, which is dropped with exclusive access to it.
#[derive(Debug)]
pub(crate) struct Exclusive<T> {
    /// `None` only during the drop.
    value: Option<T>,
    provider: Provider,
}

impl<T> Exclusive<T> {
    pub(crate) fn new(value: T, provider: Provider) -> Self {
        Self { value: Some(value), provider }
    }
}

impl<T> Deref for Exclusive<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("the value is taken only by the drop")
    }
}

impl<T> DerefMut for Exclusive<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("the value is taken only by the drop")
    }
}

impl<T> Drop for Exclusive<T> {
    fn drop(&mut self) {
        let _exclusive = exclusive(self.provider);
        drop(self.value.take());
    }
}
