//! A bug that every layer must report. If this passes unnoticed, nothing else that passes means anything.

use pounce_core::mutants::{Mutant, Planted};
use sim::run::report;
use sim::scenario::Scenario;
use sim::{engine, shrink, story};

/// The first seed that finds `mutant`.
fn found(mutant: Mutant) -> Scenario {
    let _planted = Planted::new(mutant);
    (0..200).map(Scenario::draw).find(|scenario| !engine::run(scenario).is_good()).expect("the canary sings")
}

#[test]
fn a_bug_is_reported_and_gone_with_its_guard() {
    let scenario = found(Mutant::NoLameDuck);
    assert!(engine::run(&scenario).is_good(), "without the bug the same scenario is good");
    let _planted = Planted::new(Mutant::NoLameDuck);
    let outcome = engine::run(&scenario);
    let text = report(&scenario, &outcome);
    assert!(text.contains("PROBLEM"), "{text}");
}

#[test]
fn a_failing_scenario_shrinks_to_a_story_that_fits_on_a_screen() {
    let scenario = found(Mutant::NoCloseWhileDraining);
    let _planted = Planted::new(Mutant::NoCloseWhileDraining);
    let small = shrink::shrink(&scenario);
    let outcome = engine::run(&small);
    assert!(!outcome.is_good(), "what is left still fails");
    assert!(small.clients.len() <= 2, "{} clients are left", small.clients.len());
    let story = story::tell(&outcome.lines, &outcome.verdict.problems);
    assert!(story.len() <= 20, "{}", report(&small, &outcome));
}
