//! `sim soak`: fresh seeds until the time is over.

use std::process::ExitCode;

use crate::engine;
use crate::scenario::Scenario;

/// Runs the command.
pub fn main(args: &[String]) -> ExitCode {
    let mut bad = 0;
    let from: u64 = args.first().and_then(|a| a.parse().ok()).unwrap_or(0);
    let count: u64 = args.get(1).and_then(|a| a.parse().ok()).unwrap_or(100);
    let (mut requests, mut ms) = (0, 0);
    let mut kinds = std::collections::BTreeMap::<String, (u32, u64)>::new();
    for seed in from..from + count {
        let scenario = Scenario::draw(seed);
        let outcome = engine::run(&scenario);
        requests += outcome.verdict.requests;
        ms += outcome.simulated_ms;
        if !outcome.is_good() {
            bad += 1;
            for problem in &outcome.verdict.problems {
                let key: String = problem.chars().filter(|c| !c.is_ascii_digit()).take(90).collect();
                let entry = kinds.entry(format!("{} {key}", scenario.profile.name())).or_insert((0, seed));
                entry.0 += 1;
            }
        }
    }
    println!("{bad} of {count} bad, {requests} requests, {} s simulated", ms / 1000);
    for (kind, (count, seed)) in kinds {
        println!("{count:>5}  (seed {seed}) {kind}");
    }
    ExitCode::from(u8::from(bad > 0))
}
