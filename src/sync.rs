//! Locking that a panic elsewhere cannot break.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; what is under this crate's locks is whole at any time, so that a panic of another holder leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
