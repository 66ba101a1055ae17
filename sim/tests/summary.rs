//! The run that CI sees: thousands of seeds, then every planted bug, then one screen that says what came of it.
//!
//! Not the standard harness: the screen is the point, and the harness swallows what a passing test prints.

use std::process::ExitCode;

use pounce_core::mutants::Mutant;
use sim::hunt::{Hunt, hunt};
use sim::scenario::{Scenario, Seed};
use sim::tally::run_seeds;
use sim::{coverage, regressions, shrink};

/// The seeds of every run in CI begin here: a run that passed passes again. `SEED_BASE` asks for others.
const BASE: u64 = 0x0100_0000;
const SCENARIOS: u64 = 3000;
const HUNT: u64 = 2000;
/// What these reach of the tables is added; `pure_scenarios.rs` judges them.
const PURE_SCENARIOS: u64 = 20_000;
/// A finding is read by a person: the lines that it may shrink to, in the middle and at the most.
const STORY: (usize, usize) = (12, 25);

/// Planted bugs that this tier cannot see. None at the moment; MUTANTS.md would say why, one by one.
const SURVIVORS: &[Mutant] = &[];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        println!("summary: test");
        return ExitCode::SUCCESS;
    }
    // `cargo test NAME` means other tests.
    let name = args.iter().find(|arg| !arg.starts_with('-'));
    if name.is_some_and(|name| !"summary".contains(name.as_str())) {
        return ExitCode::SUCCESS;
    }
    let base = match std::env::var("SEED_BASE").map(|text| text.parse::<Seed>()) {
        Ok(Ok(seed)) => seed.0,
        Ok(Err(error)) => {
            eprintln!("SEED_BASE: {error}");
            return ExitCode::from(2);
        }
        Err(_) => BASE,
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(4);
    let tally = run_seeds(base, SCENARIOS, threads);
    let mut reached = tally.cells.clone();
    coverage::merge(&mut reached, coverage::of_pure_tier(base, PURE_SCENARIOS, threads));
    let hunts = hunt(Mutant::ALL, base, HUNT, threads);

    println!(
        "\n==== the simulator: real core, real driver, real hyper; simulated network, processes, clock ===="
    );
    println!("seeds        {} and the {} after it", Seed(base), SCENARIOS - 1);
    print!("{}{}", tally.summary(), coverage::summary(&reached));
    let found = hunts.iter().filter(|hunt| hunt.found.is_some()).count();
    println!("mutants      {found} of {} planted bugs found (seeds, milliseconds)", hunts.len());
    let cells: Vec<String> = hunts
        .iter()
        .map(|hunt| match &hunt.found {
            Some((seeds, _, _)) => format!("{:?} {seeds}, {}", hunt.mutant, hunt.took.as_millis()),
            None => format!("{:?} SURVIVES", hunt.mutant),
        })
        .collect();
    for row in cells.chunks(3) {
        println!(
            "             {}",
            row.iter().map(|cell| format!("{cell:<36}")).collect::<String>().trim_end()
        );
    }
    let (median, most) = Hunt::story_lines(&hunts);
    println!("shrunk       to {median} lines of a timeline in the median, {most} at the most");
    let mut good = true;
    if args.iter().any(|arg| arg == "--nocapture") {
        print!("{}{}", tally.mark_table(), coverage::table(&reached));
        for hunt in &hunts {
            if let Some((_, seed, problem)) = &hunt.found {
                println!("{:?}: {} {problem}", hunt.mutant, Seed(*seed));
                hunt.story.iter().for_each(|line| println!("{line}"));
            }
        }
    }
    for hunt in &hunts {
        if hunt.found.is_some() == SURVIVORS.contains(&hunt.mutant) {
            good = false;
            println!(
                "FAILED: {:?} {}",
                hunt.mutant,
                if hunt.found.is_some() {
                    "is found now: take it off the list of survivors"
                } else {
                    "is not found any more"
                }
            );
        }
    }
    for (seed, problems) in tally.bad.iter().take(5) {
        good = false;
        println!("\nFAILED: seed {}", Seed(*seed));
        problems.iter().take(4).for_each(|problem| println!("  {problem}"));
        println!("  replay: SEED={} cargo test -p sim replay -- --nocapture", Seed(*seed));
        let small = shrink::shrink(&Scenario::draw(*seed));
        let problem = problems.first().map_or("", String::as_str);
        println!("  {}", regressions::keep(&regressions::folder(), &small, problem));
    }
    if base == BASE {
        for mark in tally.missing_marks() {
            good = false;
            println!("FAILED: this never happened: {mark}");
        }
        for difference in coverage::differences(&reached) {
            good = false;
            println!("FAILED: {difference}");
        }
        if median > STORY.0 || most > STORY.1 {
            good = false;
            println!(
                "FAILED: a finding must shrink to {} lines in the median and {} at the most",
                STORY.0, STORY.1
            );
        }
    }
    println!("{}", if good { "ok" } else { "FAILED" });
    ExitCode::from(u8::from(!good))
}
