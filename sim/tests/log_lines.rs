//! The log of a drain, with the times of the virtual clock.

use std::fmt::Write;

use sim::engine;
use sim::scenario::Scenario;

/// The log of the one server in `scenario`, from its first signal on.
fn log(scenario: &str) -> String {
    let scenario = Scenario::from_toml(scenario).expect("the scenario of this test");
    let outcome = engine::run(&scenario);
    assert!(outcome.is_good(), "{:#?}", outcome.verdict.problems);
    let (_, lines) = outcome.logs.first().expect("one server");
    let mut text = String::new();
    for (ms, line) in lines.iter().skip_while(|(_, line)| !line.starts_with("Received")) {
        // The virtual clock begins at the epoch of Unix time.
        let (minutes, seconds) = (ms / 60_000, ms / 1000 % 60);
        let _ = writeln!(text, "[1970-01-01 00:{minutes:02}:{seconds:02}] {line}");
    }
    text
}

#[test]
fn the_lines_of_a_drain_with_four_workers() {
    insta::assert_snapshot!(log(include_str!("four_workers.toml")));
}

#[test]
fn the_lines_of_a_drain_that_runs_into_its_deadline() {
    insta::assert_snapshot!(log(include_str!("four_workers_forced.toml")));
}
