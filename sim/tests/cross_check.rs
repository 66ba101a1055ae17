//! Two networks that have nothing in common but the world around them, and the same scenarios on both: files, and deploys drawn
//! from seeds. Each has to come to the same class of outcome, or one of the two networks is not what we think it is.
//!
//! Chance is taken out (every segment takes the same time), the clock's grain is not: turmoil's goes in ticks of 1 to 5 ms. Where
//! the classes differ, the fast engine runs the scenario again with everything moved by a few milliseconds: what happens in each
//! of those runs must have happened on turmoil too, and what happens in none of them must not. What is left is a
//! difference of the networks, and has its reason in [`REASONS`], or the test fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use pounce_core::mutants::{Mutant, Planted};
use sim::engine::Engine;
use sim::outcome::{Loss, OutcomeClass};
use sim::scenario::{Dist, Profile, RequestKind, Scenario};

/// What turmoil's network does differently, and the losses that come and go with it.
struct Reason {
    what: &'static str,
    /// Could it matter here at all?
    concerns: fn(&Scenario) -> bool,
    losses: &'static [Loss],
}

const REASONS: &[Reason] = &[
    Reason {
        what: "a connection is made when it is accepted, not when it is queued: what waited for a server without a worker until that \
               one drained counts as come during the drain",
        concerns: |scenario| !scenario.faults.is_empty(),
        losses: &[Loss::Drained, Loss::Killed, Loss::NobodyThere],
    },
    Reason {
        what: "the room in a socket is counted in segments, not in bytes: a large response has left the server at another time, and \
               the time for the next head, which had begun meanwhile, runs from there",
        concerns: |scenario| {
            scenario.clients.iter().any(|client| matches!(client.request, RequestKind::EarlyHead { .. }))
        },
        losses: &[Loss::Limit, Loss::Deadline],
    },
    Reason {
        what: "a client pauses for exactly as long as the server keeps its connection: which of the two is first hangs on the tick",
        concerns: |scenario| {
            let kept_ms = scenario.server.keep_alive_timeout_ms;
            let equal =
                |think: &Dist| matches!(think, Dist::Fixed { ms } if ms + 50 >= kept_ms && *ms <= kept_ms);
            scenario.clients.iter().any(|client| equal(&client.think))
        },
        losses: &[Loss::CloseRace],
    },
];

/// How a scenario's two outcomes compare.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Comparison {
    Same,
    /// The fast engine comes to the same, moved by milliseconds.
    Close,
    /// For the reason of this number.
    Explained(usize),
    Different(String),
}

fn losses(class: &OutcomeClass) -> Option<BTreeSet<Loss>> {
    match class {
        OutcomeClass::Clean => Some(BTreeSet::new()),
        OutcomeClass::Lossy(losses) => Some(losses.clone()),
        OutcomeClass::Broken => None,
    }
}

/// How often the fast engine runs a scenario again where the two differ.
const MOVES: u64 = 48;

/// Every segment takes the same time. `nth` = 0: nothing else changes; otherwise every event that has a time of its own moves
/// by up to 22 ms, which is what some ways to and fro cost in turmoil's ticks, and each by another.
fn moved(scenario: &Scenario, nth: u64) -> Scenario {
    let mut moved = scenario.clone();
    let latency = scenario.network.latency.max_ms().clamp(1, 20);
    let ways = [latency, latency + 3, latency - latency / 4, latency + 1];
    moved.network.latency = Dist::Fixed { ms: ways[nth as usize % ways.len()] };
    let by = |what: u64| nth * (2 * what + 3) % 23;
    moved.platform.deploy_at_ms += by(0);
    moved.faults.iter_mut().for_each(|fault| fault.at_ms += by(1));
    moved.clients.iter_mut().zip(2..).for_each(|(client, what)| client.start_ms += by(what));
    moved
}

fn compare(scenario: &Scenario, on_turmoil: impl Fn(&Scenario) -> OutcomeClass) -> Comparison {
    let scenario = &moved(scenario, 0);
    let fast = |scenario: &Scenario| OutcomeClass::from(&Engine::TurmoilNet.run(scenario));
    let (here, there) = (fast(scenario), on_turmoil(scenario));
    if here == there {
        return Comparison::Same;
    }
    let different = Comparison::Different(format!(
        "{} on turmoil-net, {} on turmoil, seed {}, {} ({:?})",
        here,
        there,
        scenario.seed,
        scenario.profile.name(),
        scenario.faults,
    ));
    let (Some(_), Some(there)) = (losses(&here), losses(&there)) else { return different };
    // Where the settings are right, no millisecond may matter.
    if scenario.violations().is_empty() {
        return different;
    }
    let mut runs = Vec::new();
    for nth in 0..MOVES {
        let Some(found) = losses(&fast(&moved(scenario, nth))) else { return different };
        runs.push(found);
    }
    let ever: BTreeSet<Loss> = runs.iter().flatten().copied().collect();
    let always: BTreeSet<Loss> =
        ever.iter().filter(|loss| runs.iter().all(|run| run.contains(loss))).copied().collect();
    let odd: BTreeSet<Loss> = (&there - &ever).union(&(&always - &there)).copied().collect();
    if odd.is_empty() {
        return Comparison::Close;
    }
    REASONS
        .iter()
        .position(|reason| (reason.concerns)(scenario) && odd.iter().all(|loss| reason.losses.contains(loss)))
        .map_or(different, Comparison::Explained)
}

fn on_turmoil(scenario: &Scenario) -> OutcomeClass {
    OutcomeClass::from(&Engine::Turmoil.run(scenario))
}

fn files() -> Vec<(String, Scenario)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<PathBuf> = ["regressions", "tests"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).expect("the folder is there"))
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    found.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("it can be read");
        Scenario::from_toml(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    found.iter().map(|path| (path.display().to_string(), read(path))).collect()
}

fn drawn(profile: Profile, count: usize) -> Vec<(String, Scenario)> {
    (0..)
        .map(|seed| Scenario::draw_as(profile, seed))
        .filter(|scenario| Engine::Turmoil.cannot(scenario).is_empty())
        .take(count)
        .map(|scenario| (format!("{} {}", profile.name(), scenario.seed), scenario))
        .collect()
}

/// Compares all, and fails with those that differ and nothing explains it.
fn check(of: &str, scenarios: &[(String, Scenario)]) {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut different = Vec::new();
    for (name, scenario) in scenarios {
        let count = match compare(scenario, on_turmoil) {
            Comparison::Same => "the same class".to_owned(),
            Comparison::Close => "the same class when moved by milliseconds".to_owned(),
            Comparison::Explained(reason) => REASONS[reason].what.to_owned(),
            Comparison::Different(how) => {
                different.push(format!("{name}: {how}"));
                continue;
            }
        };
        *counts.entry(count).or_default() += 1;
    }
    for (what, count) in counts {
        println!("{of}: {count:>4} of {}: {what}", scenarios.len());
    }
    assert!(different.is_empty(), "{of}: nothing explains\n{}", different.join("\n"));
}

#[test]
fn scenario_files_come_to_the_same_end_on_both_networks() {
    check("files", &files());
}

#[test]
fn deploys_with_settings_that_are_right_lose_nothing_on_either_network() {
    check("rollout", &drawn(Profile::Rollout, 60));
}

#[test]
fn small_deploys_come_to_the_same_end_on_both_networks() {
    check("lite", &drawn(Profile::Lite, 60));
}

#[test]
fn deploys_with_wrong_settings_lose_for_the_same_reasons_on_both_networks() {
    check("misconfigured", &drawn(Profile::Misconfigured, 40));
}

#[test]
fn faults_cost_the_same_on_both_networks() {
    check("chaos", &drawn(Profile::Chaos, 40));
}

#[test]
fn a_bug_that_only_one_network_meets_is_seen() {
    let buggy = |scenario: &Scenario| {
        let _planted = Planted::new(Mutant::NoLameDuck);
        on_turmoil(scenario)
    };
    let seen = drawn(Profile::Rollout, 12)
        .iter()
        .any(|(_, scenario)| matches!(compare(scenario, buggy), Comparison::Different(_)));
    assert!(seen);
}
