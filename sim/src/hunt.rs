//! Plants each bug in turn and looks how many seeds it takes to find it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pounce_core::mutants::{Mutant, Planted};

use crate::engine;
use crate::scenario::Scenario;

/// One hunt.
#[derive(Clone, Debug)]
pub struct Hunt {
    pub mutant: Mutant,
    /// The seed that found it, counted from the first one tried, and what it showed.
    pub found: Option<(u64, u64, String)>,
    pub took: Duration,
}

/// Hunts `mutants` with up to `most` seeds each, from `base` on.
#[allow(
    clippy::disallowed_methods,
    reason = "how long a hunt takes is a figure of this machine, not of a run"
)]
pub fn hunt(mutants: &[Mutant], base: u64, most: u64, threads: usize) -> Vec<Hunt> {
    let next = AtomicUsize::new(0);
    let hunts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(&mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _planted = Planted::new(mutant);
                    let began = Instant::now();
                    let found = (0..most).find_map(|nth| {
                        let seed = base.wrapping_add(nth);
                        let outcome = engine::run(&Scenario::draw(seed));
                        outcome.verdict.problems.first().map(|problem| (nth + 1, seed, problem.clone()))
                    });
                    let hunt = Hunt { mutant, found, took: began.elapsed() };
                    hunts.lock().unwrap_or_else(PoisonError::into_inner).push(hunt);
                }
            });
        }
    });
    let mut hunts = hunts.into_inner().unwrap_or_else(PoisonError::into_inner);
    hunts.sort_by_key(|hunt| hunt.mutant);
    hunts
}
