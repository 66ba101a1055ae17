//! Whether every cell of the core's transition tables was reached, and which need not be.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

pub use pounce_core::coverage::{Cell, Counts, take};

use crate::pure::{self, Plan};
use crate::scenario::Scenario;

/// Cells that no run reaches, `(machine, state, edge, why)`. The long run fails when one of them is reached.
pub const UNREACHED: &[(&str, &str, &str, &str)] = &[
    ("Connection", "Fresh", "Closed", FINISHED_FIRST),
    ("Connection", "Idle", "Closed", FINISHED_FIRST),
    ("Connection", "ReadingHead", "Closed", FINISHED_FIRST),
    ("Connection", "InFlight", "Closed", FINISHED_FIRST),
    ("Connection", "Streaming", "Closed", FINISHED_FIRST),
    ("Connection", "Flushing", "Closed", FINISHED_FIRST),
    ("Connection", "Fresh", "RequestStarted", HEAD_FIRST),
    ("Connection", "Idle", "RequestStarted", HEAD_FIRST),
    ("Connection", "Flushing", "RequestStarted", HEAD_FIRST),
    ("Worker", "Serving", "Deadline", TOLD_BEFORE),
    ("Supervisor's worker", "Booting", "Abort", TOLD_BEFORE),
    ("Supervisor's worker", "Booting", "Stopped", ORDERED_BEFORE),
    ("Supervisor's worker", "Ready", "Stopped", ORDERED_BEFORE),
];

const FINISHED_FIRST: &str =
    "both drivers say that the parser is done before they close; the cell is for one that does not";
const HEAD_FIRST: &str =
    "both drivers say a head's first bytes before its request; the cell is for one that does not";
const TOLD_BEFORE: &str =
    "a worker is told of the shutdown before its deadline; the exhaustive search of core finds no other way";
const ORDERED_BEFORE: &str = "a worker stops when it was told to, which is on record by then; the cell is for one that does as it likes";

/// Adds `more` to `counts`.
pub fn merge(counts: &mut Counts, more: Counts) {
    for (cell, count) in more {
        *counts.entry(cell).or_default() += count;
    }
}

/// What `count` seeds from `base` on reach in the pure tier.
pub fn of_pure_tier(base: u64, count: u64, threads: usize) -> Counts {
    let all = Mutex::new(Counts::new());
    let threads = threads.max(1) as u64;
    std::thread::scope(|scope| {
        for first in 0..threads {
            let all = &all;
            scope.spawn(move || {
                for nth in (first..count).step_by(threads as usize) {
                    let seed = base.wrapping_add(nth);
                    // A scenario that makes no plan is for the other tier.
                    if let Ok(plan) = Plan::of(&Scenario::draw(seed)) {
                        pure::run(&plan, seed);
                    }
                }
                merge(&mut all.lock().unwrap_or_else(PoisonError::into_inner), take());
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn reason(cell: &Cell) -> Option<&'static str> {
    UNREACHED
        .iter()
        .find(|(machine, state, edge, _)| {
            (*machine, *state, *edge) == (cell.machine, &*cell.state, &*cell.edge)
        })
        .map(|(_, _, _, why)| *why)
}

/// A line for each machine, and one for each of its cells that was never reached.
pub fn summary(counts: &Counts) -> String {
    let mut machines: BTreeMap<&str, Vec<(&Cell, u64)>> = BTreeMap::new();
    for (cell, count) in counts {
        machines.entry(cell.machine).or_default().push((cell, *count));
    }
    let mut text = String::new();
    for (index, (machine, cells)) in machines.iter().enumerate() {
        let reached = cells.iter().filter(|(_, count)| *count > 0).count();
        let begin = if index == 0 { "machines    " } else { "            " };
        let _ = writeln!(text, "{begin} {machine}: cells reached {reached} of {}", cells.len());
        for (cell, _) in cells.iter().filter(|(_, count)| *count == 0) {
            let why = reason(cell).unwrap_or("for no known reason");
            let _ = writeln!(text, "             never: {} in {}: {why}", cell.edge, cell.state);
        }
    }
    text
}

/// How often each cell was reached.
pub fn table(counts: &Counts) -> String {
    let mut text = String::new();
    for (cell, count) in counts {
        let _ = writeln!(text, "{count:>9}  {cell}");
    }
    text
}

/// Where the list of what is not reached and the truth differ, in either direction.
pub fn differences(counts: &Counts) -> Vec<String> {
    let mut found = Vec::new();
    for (cell, count) in counts {
        match (count, reason(cell)) {
            (0, None) => found.push(format!("this cell of a table was never reached: {cell}")),
            (1.., Some(_)) => {
                found.push(format!("{cell} is reached now: take it off the list in sim/src/coverage.rs"))
            }
            _ => {}
        }
    }
    for (machine, state, edge, _) in UNREACHED {
        let cell = Cell { machine, state: (*state).to_owned(), edge: (*edge).to_owned() };
        if !counts.contains_key(&cell) {
            found.push(format!("no table has the cell {cell}: take it off the list in sim/src/coverage.rs"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the list says, exactly.
    fn as_listed() -> Counts {
        let mut counts = take();
        for (cell, count) in &mut counts {
            *count = u64::from(reason(cell).is_none());
        }
        counts
    }

    #[test]
    fn the_list_of_unreached_cells_is_honest_in_both_directions() {
        assert_eq!(differences(&as_listed()), Vec::<String>::new());
        for (cell, listed) in as_listed() {
            let mut counts = as_listed();
            counts.insert(cell.clone(), 1 - listed);
            let found = differences(&counts);
            assert!(found.len() == 1 && found[0].contains(&cell.to_string()), "{cell}: {found:?}");
        }
    }
}
