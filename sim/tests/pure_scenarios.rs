//! Two hundred thousand rollouts through the pure tier.

use std::collections::BTreeMap;
use std::time::Instant;

use sim::pure::{self, Cause, Causes, Plan, rules};
use sim::scenario::{Scenario, Seed};
use sim::shrink::shrink_while;

const SCENARIOS: u64 = 200_000;

/// What a range of seeds came to.
#[derive(Default)]
struct Tally {
    safe: u64,
    unsafe_and_failing: u64,
    unsafe_and_clean: u64,
    requests: u64,
    seconds: f64,
    causes: Causes,
    events: u64,
    /// Seed and what was wrong.
    wrong: Vec<(u64, String)>,
}

fn run_seed(seed: u64, tally: &mut Tally) {
    let plan = Plan::of(&Scenario::draw(seed)).expect("a drawn scenario is valid");
    let outcome = pure::run(&plan, seed);
    let safe = rules::is_safe(&plan);
    // Who leaves by themselves is not the server's failure.
    let failed: u32 =
        outcome.causes.iter().filter(|(cause, _)| *cause != Cause::PeerFault).map(|(_, n)| n).sum();
    match (safe, failed > 0) {
        (true, _) => tally.safe += 1,
        (false, true) => tally.unsafe_and_failing += 1,
        (false, false) => tally.unsafe_and_clean += 1,
    }
    if safe && failed > 0 {
        let causes: Vec<_> = outcome.causes.iter().collect();
        tally.wrong.push((seed, format!("every rule holds and {failed} request(s) failed: {causes:?}")));
    }
    tally.wrong.extend(outcome.broken.iter().map(|what| (seed, what.clone())));
    tally.requests += u64::from(outcome.requests);
    tally.seconds += outcome.ended_at.as_nanos() as f64 / 1e9;
    tally.events += outcome.events;
    tally.causes.merge(&outcome.causes);
}

/// Whether a scenario breaks a promise, or fails against every rule.
fn is_wrong(scenario: &Scenario, seed: u64) -> bool {
    let Ok(plan) = Plan::of(scenario) else { return false };
    let outcome = pure::run(&plan, seed);
    let failed = outcome.causes.iter().any(|(cause, _)| cause != Cause::PeerFault);
    !outcome.broken.is_empty() || (failed && rules::is_safe(&plan))
}

fn run_range(seeds: std::ops::Range<u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        run_seed(seed, &mut tally);
        if tally.wrong.len() > 20 {
            break;
        }
    }
    tally
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long the test took is printed; nothing in a run reads it")]
fn settings_that_satisfy_the_rules_drop_nothing_and_the_others_fail_for_known_causes() {
    let begun = Instant::now();
    let half = SCENARIOS / 2;
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| run_range(half..SCENARIOS));
        let first = run_range(0..half);
        (first, other.join().expect("a run does not panic"))
    });
    let mut causes = Causes::default();
    causes.merge(&first.causes);
    causes.merge(&second.causes);
    let both = [&first, &second];
    let sum = |of: fn(&Tally) -> u64| both.iter().map(|tally| of(tally)).sum::<u64>();
    let (safe, failing) = (sum(|t| t.safe), sum(|t| t.unsafe_and_failing));
    let days = both.iter().map(|t| t.seconds).sum::<f64>() / 86_400.0;
    println!("pure tier: {SCENARIOS} scenarios, {} requests, {days:.1} simulated days", sum(|t| t.requests));
    println!("  {safe} satisfy every rule, {} do not: {failing} of those fail", SCENARIOS - safe);
    println!("  {:.0} scenarios/s on two threads", SCENARIOS as f64 / begun.elapsed().as_secs_f64());
    for (cause, count) in causes.iter() {
        println!("  {count:>8} {cause}");
    }
    let wrong: BTreeMap<u64, &String> = both.iter().flat_map(|t| &t.wrong).map(|(s, w)| (*s, w)).collect();
    if let Some(seed) = wrong.keys().next() {
        let small = shrink_while(&Scenario::draw(*seed), 20_000, |scenario| is_wrong(scenario, *seed));
        panic!(
            "{wrong:#?}\n\nthe smallest like the first:\n\n{}\nreplay it: SEED={seed:#x} cargo test -p sim --test \
             pure_scenarios replay -- --nocapture",
            small.to_toml()
        );
    }
    // A generator that never fails, or always does, proves nothing.
    assert!(safe > SCENARIOS / 5, "{safe} of {SCENARIOS} scenarios satisfy every rule");
    assert!(failing > SCENARIOS / 20, "{failing} of {SCENARIOS} scenarios fail");
    for cause in Cause::ALL {
        let may_be_absent =
            matches!(cause, Cause::Unexplained | Cause::PipelinedRace | Cause::RefusedBeforeListen);
        assert!(may_be_absent || causes.get(cause) > 0, "no scenario ever failed of {cause}");
    }
}

#[test]
fn a_seed_gives_the_same_run_in_another_thread_and_with_its_timeline() {
    for seed in 0..200 {
        let plan = Plan::of(&Scenario::draw(seed)).expect("a drawn scenario is valid");
        let here = pure::run(&plan, seed);
        let there = std::thread::scope(|scope| {
            scope.spawn(|| pure::run(&plan, seed)).join().expect("a run does not panic")
        });
        let (traced, lines) = pure::trace(&plan, seed);
        assert_eq!(here, there, "seed {seed}");
        assert_eq!(here, traced, "seed {seed}");
        assert!(!lines.is_empty(), "seed {seed}");
    }
}

/// Prints the run of one seed: `SEED=0x2a cargo test -p sim --test pure_scenarios replay -- --nocapture`.
#[test]
fn replay() {
    let Ok(seed) = std::env::var("SEED") else { return };
    let Seed(seed) = seed.parse().expect("SEED is a number, decimal or hexadecimal with 0x");
    let scenario = Scenario::draw(seed);
    let plan = Plan::of(&scenario).expect("a drawn scenario is valid");
    let (outcome, lines) = pure::trace(&plan, seed);
    println!("{}", scenario.to_toml());
    rules::rules(&plan)
        .iter()
        .filter(|rule| !rule.holds)
        .for_each(|rule| println!("violated: {}", rule.text));
    lines.iter().for_each(|line| println!("{line}"));
    let causes: Vec<_> = outcome.causes.iter().collect();
    println!("{} requests, {} answered, {causes:?}", outcome.requests, outcome.answered);
    outcome.broken.iter().for_each(|what| println!("BROKEN {what}"));
}

#[test]
#[ignore = "a benchmark: cargo test --release -p sim --test pure_scenarios -- --ignored --nocapture"]
#[allow(clippy::disallowed_methods, reason = "this is a benchmark")]
fn rollouts_per_second() {
    let plan = Plan::default();
    let (mut requests, mut events) = (0, 0);
    let begun = Instant::now();
    const RUNS: u64 = 50_000;
    for seed in 0..RUNS {
        let outcome = pure::run(&plan, seed);
        requests += u64::from(outcome.requests);
        events += outcome.events;
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{:.0} rollouts/s on one core ({} requests and {} events each, {:.0} ns per event)",
        RUNS as f64 / took,
        requests / RUNS,
        events / RUNS,
        took * 1e9 / events as f64
    );
}
