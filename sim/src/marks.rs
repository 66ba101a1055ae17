//! What must have happened at least once: a simulator that never meets a situation proves nothing about it.

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    static HITS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// It happened, in the run of this thread.
pub fn hit(mark: &'static str) {
    HITS.with_borrow_mut(|hits| *hits.entry(mark).or_default() += 1);
}

/// The marks since the last call.
pub fn take() -> BTreeMap<&'static str, u64> {
    HITS.take()
}
