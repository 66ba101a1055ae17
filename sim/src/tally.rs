//! Many runs, added up.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::coverage;
use crate::engine::{self, Outcome};
use crate::lock::lock;
use crate::oracle::Cause;
use crate::scenario::{Profile, Scenario, Seed};

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub scenarios: u64,
    /// With settings that are right, where not one request may fail.
    pub strict: u64,
    pub strict_requests: u64,
    pub profiles: BTreeMap<Profile, u64>,
    pub requests: u64,
    pub attempts: u64,
    pub failed: u64,
    pub simulated_ms: u64,
    pub causes: BTreeMap<Cause, u64>,
    /// How often, and the first seed.
    pub marks: BTreeMap<&'static str, (u64, u64)>,
    /// How often each cell of the core's tables was reached.
    pub cells: coverage::Counts,
    /// Seeds whose runs had a problem.
    pub bad: Vec<(u64, Vec<String>)>,
}

impl Tally {
    /// Adds one run.
    pub fn add(&mut self, seed: u64, scenario: &Scenario, outcome: &Outcome) {
        let verdict = &outcome.verdict;
        self.scenarios += 1;
        if scenario.violations().is_empty() {
            self.strict += 1;
            self.strict_requests += u64::from(verdict.requests);
        }
        *self.profiles.entry(scenario.profile).or_default() += 1;
        self.requests += u64::from(verdict.requests);
        self.attempts += u64::from(verdict.attempts);
        self.failed += u64::from(verdict.failed);
        self.simulated_ms += outcome.simulated_ms;
        for (cause, count) in &verdict.causes {
            *self.causes.entry(*cause).or_default() += u64::from(*count);
        }
        for (mark, count) in &outcome.marks {
            let entry = self.marks.entry(mark).or_insert((0, seed));
            entry.0 += count;
            entry.1 = entry.1.min(seed);
        }
        if !outcome.is_good() {
            self.bad.push((seed, verdict.problems.clone()));
            self.bad.sort();
        }
    }

    /// Adds another tally.
    pub fn merge(&mut self, other: Tally) {
        self.scenarios += other.scenarios;
        self.strict += other.strict;
        self.strict_requests += other.strict_requests;
        self.requests += other.requests;
        self.attempts += other.attempts;
        self.failed += other.failed;
        self.simulated_ms += other.simulated_ms;
        for (profile, count) in other.profiles {
            *self.profiles.entry(profile).or_default() += count;
        }
        for (cause, count) in other.causes {
            *self.causes.entry(cause).or_default() += count;
        }
        for (mark, (count, seed)) in other.marks {
            let entry = self.marks.entry(mark).or_insert((0, seed));
            entry.0 += count;
            entry.1 = entry.1.min(seed);
        }
        coverage::merge(&mut self.cells, other.cells);
        self.bad.extend(other.bad);
    }

    /// The summary: one screen.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let hours = self.simulated_ms as f64 / 3_600_000.0;
        let profiles: Vec<String> = self.profiles.iter().map(|(p, n)| format!("{} {n}", p.name())).collect();
        let _ = writeln!(text, "scenarios    {} ({})", self.scenarios, profiles.join(", "));
        let _ = writeln!(text, "simulated    {hours:.1} hours");
        let _ = writeln!(
            text,
            "requests     {} in {} attempts; {} failed, each with a cause",
            self.requests, self.attempts, self.failed
        );
        let _ = writeln!(
            text,
            "  where the settings are right: {} scenarios, {} requests, dropped: {}",
            self.strict,
            self.strict_requests,
            self.bad
                .iter()
                .filter(|(_, problems)| problems.iter().any(|p| p.starts_with("every inequality")))
                .count()
        );
        let causes: Vec<String> = self.causes.iter().map(|(cause, n)| format!("{cause} {n}")).collect();
        for (index, row) in causes.chunks(5).enumerate() {
            let _ = writeln!(
                text,
                "{}{}",
                if index == 0 { "causes       " } else { "             " },
                row.join(", ")
            );
        }
        let missing = MUST_HAPPEN.iter().filter(|mark| !self.marks.contains_key(*mark)).count();
        let _ = writeln!(
            text,
            "marks        {} of {} that must happen",
            MUST_HAPPEN.len() - missing,
            MUST_HAPPEN.len()
        );
        for mark in self.missing_marks() {
            let _ = writeln!(text, "             never: {mark}");
        }
        text
    }

    /// The whole table of marks.
    pub fn mark_table(&self) -> String {
        let mut text = String::new();
        for (mark, (count, seed)) in &self.marks {
            let _ = writeln!(text, "{count:>9}  first in {seed:#x}  {mark}");
        }
        text
    }

    /// Marks that never happened and must in a long run.
    pub fn missing_marks(&self) -> Vec<&'static str> {
        MUST_HAPPEN.iter().filter(|mark| !self.marks.contains_key(*mark)).copied().collect()
    }
}

/// What a long run must have met: every lifecycle event, every cause of failure, every fault.
pub const MUST_HAPPEN: &[&str] = &[
    "a SYN was dropped",
    "a handshake ended at a closed listener",
    "a request was tried again",
    "a worker died while starting",
    "a worker's process could not be started",
    "a worker never got ready",
    "accept failed for want of a descriptor",
    "all_stopped",
    "an application did not start",
    "boot-crash",
    "boot-hang",
    "client-timeout",
    "connections came back from a dead worker",
    "deadline",
    "drain_delayed",
    "draining-503",
    "freeze-supervisor",
    "freeze-worker",
    "hup",
    "idle-close-race",
    "int",
    "kill-supervisor",
    "kill-worker",
    "kill_requested",
    "killed",
    "late-handshake",
    "no-endpoint",
    "not-listening",
    "out-of-descriptors",
    "quit",
    "reload_failed",
    "reload_finished",
    "reload_ignored",
    "reload_started",
    "requests_cut",
    "server-timeout",
    "shutdown_cut_short",
    "shutdown_in_progress",
    "shutdown_requested",
    "shutting_down",
    "stall-link",
    "term",
    "term-worker",
    "the platform killed a server that never got ready",
    "the platform's grace period ran out",
    "too-many-connections",
    "too_many_connections",
    "worker_died",
    "worker_died_starting",
    "worker_draining",
    "worker_forced",
    "worker_idle",
    "worker_ready",
    "worker_respawning",
    "worker_retiring",
    "worker_stopped",
];

/// A run that takes longer than this by the clock on the wall hangs: they take milliseconds.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// Runs `count` seeds from `base` on, on `threads` threads. One that hangs ends the process: nothing else would ever name it.
#[allow(clippy::disallowed_methods, reason = "the watch over a run is outside of the simulation")]
pub fn run_seeds(base: u64, count: u64, threads: usize) -> Tally {
    let next = AtomicU64::new(0);
    let tally = Mutex::new(Tally::default());
    let under_way = Mutex::new(BTreeMap::new());
    let (running, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let running = running.clone();
            scope.spawn(|| {
                let _running = running;
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let seed = base.wrapping_add(index);
                    lock(&under_way).insert(seed, Instant::now());
                    let scenario = Scenario::draw(seed);
                    let outcome = engine::run(&scenario);
                    lock(&under_way).remove(&seed);
                    lock(&tally).add(seed, &scenario, &outcome);
                }
                coverage::merge(&mut lock(&tally).cells, coverage::take());
            });
        }
        drop(running);
        while ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            for (seed, began) in &*lock(&under_way) {
                if began.elapsed() > HANGS_AFTER {
                    eprintln!(
                        "seed {} hangs: after {} s by the wall clock it has not ended. `sim replay {}` hangs too",
                        Seed(*seed),
                        HANGS_AFTER.as_secs(),
                        Seed(*seed)
                    );
                    std::process::exit(1);
                }
            }
        }
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}
