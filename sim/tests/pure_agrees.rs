//! The two tiers, on the same scenarios: does the simulation without hyper lie?
//!
//! What a scenario comes to hangs on chance, and the tiers draw different latencies from one seed. So the question is
//! whether what came of it with hyper can come of it without: the pure tier runs until it shows the same, a few thousand times at
//! most. What it cannot show has a reason out of a list, or the test fails.

use std::collections::{BTreeMap, BTreeSet};

use sim::engine::{self, Outcome};
use sim::outcome::{Loss, OutcomeClass};
use sim::pure::plan::Trouble;
use sim::pure::{self, Plan};
use sim::scenario::{Fault, FaultKind, PlatformKind, Profile, RequestKind, Scenario, Seed};

const SCENARIOS: u64 = 600;
/// A rare race may take many runs to show. Most scenarios take one.
const MOST_RUNS: u64 = 3000;
/// How often what came of a scenario with hyper must not come again, to be called a rare race.
const FURTHER_RUNS: u64 = 20;
/// The one reason that says nothing about the tiers. It must stay rare itself.
const RARE: &str = "it was a race so rare that it does not come again with hyper either";

/// The same scenario with other workers struck. Which worker has a connection hangs on the probes before it, and this
/// tier sends none to a server that is well.
fn with_workers_turned(plan: &Plan, by: u32) -> Plan {
    let mut turned = plan.clone();
    for fault in &mut turned.faults {
        match &mut fault.what {
            Trouble::KillWorker { worker }
            | Trouble::TermWorker { worker }
            | Trouble::FreezeWorker { worker, .. } => *worker = (*worker + by) % plan.workers,
            _ => {}
        }
    }
    turned
}

/// Whether the pure tier comes to `wanted`: to a run without a loss, or to each of the losses in one run or another. What it
/// came to otherwise, if not.
fn comes_to(scenario: &Scenario, wanted: &OutcomeClass) -> Result<(), BTreeSet<Loss>> {
    let plan = Plan::of(scenario).expect("a drawn scenario is valid");
    let mut seen = BTreeSet::new();
    for seed in 0..MOST_RUNS {
        let turned = with_workers_turned(&plan, seed as u32 % plan.workers);
        let outcome = OutcomeClass::from(&pure::run(&turned, seed));
        match (&outcome, wanted) {
            (OutcomeClass::Broken, _) => {
                panic!("seed {}: a run of the pure tier broke a promise", scenario.seed)
            }
            (OutcomeClass::Clean, OutcomeClass::Clean) => return Ok(()),
            (OutcomeClass::Lossy(found), _) => seen.extend(found.iter().copied()),
            (OutcomeClass::Clean, _) => {}
        }
        if let OutcomeClass::Lossy(losses) = wanted
            && losses.is_subset(&seen)
        {
            return Ok(());
        }
    }
    Err(seen)
}

/// Whether the tier with hyper comes to what is `missing` (nothing: a run without a loss) again, by another chance.
fn comes_again(scenario: &Scenario, missing: &BTreeSet<Loss>) -> bool {
    (1..=FURTHER_RUNS).any(|run| {
        let seed = Seed(scenario.seed.0 ^ (run << 32));
        match OutcomeClass::from(&engine::run(&Scenario { seed, ..scenario.clone() })) {
            OutcomeClass::Clean => missing.is_empty(),
            OutcomeClass::Lossy(losses) => !losses.is_disjoint(missing),
            OutcomeClass::Broken => panic!("seed {seed}: a run broke a promise"),
        }
    })
}

/// Why the pure tier cannot come to what the tier with hyper came to. The list is closed.
fn reason(scenario: &Scenario, with_hyper: &Outcome, seen: &BTreeSet<Loss>) -> Option<&'static str> {
    let up =
        with_hyper.lines.iter().find(|line| line.what.contains("everything") && line.what.contains(" up"));
    let up_ms = up.map_or(u64::MAX, |line| line.ms);
    if scenario.faults.iter().any(|fault| fault.at_ms <= up_ms) {
        // There, clients and the deploy wait until everything is up. Here, everything is up from the start.
        return Some("a fault strikes before everything is up");
    }
    if scenario.clients.iter().any(|client| matches!(client.request, RequestKind::EarlyHead { .. })) {
        return Some(
            "a request begins while its connection still carries an answer, and here it waits its turn",
        );
    }
    let ends = |fault: &Fault| {
        matches!(fault.what, FaultKind::Term | FaultKind::Int | FaultKind::Quit | FaultKind::KillSupervisor)
    };
    let struck_again = scenario.faults.iter().any(|first| {
        ends(first) && scenario.faults.iter().any(|next| next.pod == first.pod && next.at_ms > first.at_ms)
    });
    if struck_again && matches!(scenario.platform.kind, PlatformKind::Kubernetes | PlatformKind::Ecs) {
        return Some(
            "a fault strikes a server that was started again in its pod, and here another pod takes its place",
        );
    }
    let full = with_hyper.lines.iter().any(|line| line.what.contains("(max_connections)"));
    if full && with_hyper.lines.iter().any(|line| line.what.ends_with("is not ready")) {
        return Some(
            "a probe that comes beside max_connections is turned away, and this tier probes no pod that is well",
        );
    }
    let missing = match OutcomeClass::from(with_hyper) {
        OutcomeClass::Lossy(losses) => losses.difference(seen).copied().collect(),
        OutcomeClass::Clean | OutcomeClass::Broken => BTreeSet::new(),
    };
    (!comes_again(scenario, &missing)).then_some(RARE)
}

#[test]
fn a_scenario_comes_to_the_same_with_hyper_and_without() {
    let (mut agree, mut explained, mut unexplained) = (0, BTreeMap::<_, Vec<String>>::new(), Vec::new());
    for seed in 0..SCENARIOS {
        let profile = Profile::ALL[(seed % 4) as usize];
        let scenario = Scenario::draw_as(profile, seed);
        let outcome = engine::run(&scenario);
        let with_hyper = OutcomeClass::from(&outcome);
        let Err(seen) = comes_to(&scenario, &with_hyper) else {
            agree += 1;
            continue;
        };
        let what = format!("{profile:?} {seed:#x}: {with_hyper}, and not without hyper: {seen:?}");
        match reason(&scenario, &outcome, &seen) {
            Some(reason) => explained.entry(reason).or_default().push(what),
            None => unexplained.push(what),
        }
    }
    println!("the tiers agree on {agree} of {SCENARIOS} scenarios");
    for (reason, scenarios) in &explained {
        println!("{} differ because {reason}:\n  {}", scenarios.len(), scenarios.join("\n  "));
    }
    assert!(unexplained.is_empty(), "and nothing explains these:\n{}", unexplained.join("\n"));
    let rare = explained.get(RARE).map_or(0, Vec::len) as u64;
    assert!(rare * 100 <= SCENARIOS, "{rare} of {SCENARIOS} are too many to be chance");
    assert!(agree * 100 >= SCENARIOS * 97, "the tiers agree on {agree} of {SCENARIOS} only");
}
