//! `SEED=0x… cargo test -p sim replay -- --nocapture` prints the timeline of one seed; the scenarios that once failed run
//! here too.

use sim::engine;
use sim::run::report;
use sim::scenario::{Scenario, Seed};

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
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect(folder).map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "toml")) {
        let text = std::fs::read_to_string(path).expect("a file");
        let scenario = Scenario::from_toml(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let outcome = engine::run(&scenario);
        assert!(outcome.is_good(), "{}:\n{}", path.display(), report(&scenario, &outcome));
    }
}
