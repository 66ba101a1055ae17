//! `SEED=0x… cargo test -p sim replay -- --nocapture` prints the timeline of one seed; the scenarios that once failed run
//! here too.

use std::path::Path;

use pounce_core::mutants::{Mutant, Planted};
use sim::run::report;
use sim::scenario::{Scenario, Seed};
use sim::{engine, regressions, shrink};

#[test]
fn replay() {
    let Ok(seed) = std::env::var("SEED") else { return };
    let seed: Seed = seed.parse().expect("SEED");
    let scenario = Scenario::draw(seed.0);
    let outcome = engine::run(&scenario);
    println!("{}", report(&scenario, &outcome));
    assert!(outcome.is_good(), "{:#?}", outcome.verdict.problems);
}

#[test]
fn what_was_found_once_stays_away() {
    for (path, scenario, outcome) in
        regressions::run_all(&regressions::folder()).expect("files that can be read")
    {
        assert!(outcome.is_good(), "{}:\n{}", path.display(), report(&scenario, &outcome));
    }
}

#[test]
fn a_finding_is_kept_as_a_file_that_fails_until_the_bug_is_gone() {
    const BUG: Mutant = Mutant::NoCloseWhileDraining;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let planted = Planted::new(BUG);
    let found = (0..200).map(Scenario::draw).find_map(|s| Some((shrink::class(&s)?, s)));
    let (class, scenario) = found.expect("a seed that finds the bug");
    let small = shrink::shrink(&scenario);
    let path = regressions::store(folder.path(), &small, &class).expect("a file");
    assert_eq!(regressions::store(folder.path(), &small, &class).expect("the same file"), path);
    let again = |what: &str| regressions::run_all(folder.path()).expect(what).remove(0);
    let (_, _, outcome) = again("with the bug");
    assert_eq!(outcome.verdict.problems.first().map(|p| shrink::class_of(p)), Some(class));
    assert_eq!(outcome.hash, engine::run(&small).hash, "the file is the same run");
    drop(planted);
    let (_, scenario, outcome) = again("without the bug");
    assert!(outcome.is_good(), "{}", report(&scenario, &outcome));
}

#[test]
fn a_folder_that_takes_no_file_leaves_the_scenario_on_the_terminal() {
    let text = regressions::keep(Path::new("/nowhere"), &Scenario::draw(1), "a problem");
    assert!(text.contains("/nowhere") && text.contains("[server]"), "{text}");
}
