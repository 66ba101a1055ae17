//! Mutexes of a world in which a panic is a finding, not a reason for more of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The value, also after somebody panicked with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
