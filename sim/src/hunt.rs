//! Plants each bug in turn and looks how many seeds it takes to find it, and how short a story the finding shrinks to.
//! `sim hunt`

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pounce_core::mutants::{Mutant, Planted};

use crate::engine;
use crate::scenario::{Scenario, Seed};
use crate::shrink::shrink;
use crate::story;
use crate::trace::Line;

/// One hunt.
#[derive(Clone, Debug)]
pub struct Hunt {
    pub mutant: Mutant,
    /// The seed that found it, counted from the first one tried, and what it showed.
    pub found: Option<(u64, u64, String)>,
    pub took: Duration,
    /// The lines of the shrunk finding's timeline.
    pub story: Vec<Line>,
}

impl Hunt {
    /// The median and the most of the lines that the findings of `hunts` shrink to.
    pub fn story_lines(hunts: &[Hunt]) -> (usize, usize) {
        let mut lines: Vec<usize> =
            hunts.iter().filter(|hunt| hunt.found.is_some()).map(|hunt| hunt.story.len()).collect();
        lines.sort_unstable();
        (lines.get(lines.len() / 2).copied().unwrap_or(0), lines.last().copied().unwrap_or(0))
    }
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
                    let took = began.elapsed();
                    let story = found.as_ref().map(|(_, seed, _)| {
                        let outcome = engine::run(&shrink(&Scenario::draw(*seed)));
                        story::tell(&outcome.lines, &outcome.verdict.problems)
                    });
                    let hunt = Hunt { mutant, found, took, story: story.unwrap_or_default() };
                    hunts.lock().unwrap_or_else(PoisonError::into_inner).push(hunt);
                }
            });
        }
    });
    let mut hunts = hunts.into_inner().unwrap_or_else(PoisonError::into_inner);
    hunts.sort_by_key(|hunt| hunt.mutant);
    hunts
}

/// Plants bugs, and counts the seeds that it takes to find them
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// One of those in MUTANTS.md [default: each of them in turn]
    #[arg(value_parser = mutant)]
    bug: Option<Mutant>,
    /// Most seeds for one bug
    #[arg(long, value_name = "N", default_value_t = 1500)]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value = "0x1000000")]
    from: Seed,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let named = Mutant::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name);
    named.ok_or_else(|| format!("it must be one of {:?}", Mutant::ALL))
}

/// Runs the command. A release build does without the checks of the machines' invariants: what is found there shows on
/// the wire.
pub fn main(arguments: &Arguments) -> ExitCode {
    let mutants = arguments.bug.map_or_else(|| Mutant::ALL.to_vec(), |mutant| vec![mutant]);
    let most = arguments.seeds;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let hunts = hunt(&mutants, arguments.from.0, most, threads);
    for hunt in &hunts {
        match &hunt.found {
            Some((seeds, seed, problem)) => {
                println!(
                    "{:?}: {seeds} seeds, {} ms; {}: {problem}",
                    hunt.mutant,
                    hunt.took.as_millis(),
                    Seed(*seed)
                );
            }
            None => println!("{:?}: not found in {most} seeds", hunt.mutant),
        }
    }
    ExitCode::from(u8::from(hunts.iter().any(|hunt| hunt.found.is_none())))
}
