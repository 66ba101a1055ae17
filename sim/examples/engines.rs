//! How fast each network is, on one thread, with the same scenarios, by CPU time:
//! `cargo run -p sim --example engines [SCENARIOS]`

use std::time::Duration;

use sim::engine::Engine;
use sim::scenario::{Profile, Scenario};

/// What this thread has had of the CPU, in seconds: others who use the machine do not count.
fn cpu_seconds() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    schedstat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}

fn main() {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(400);
    let scenarios: Vec<Scenario> = (0..count).map(|seed| Scenario::draw_as(Profile::Rollout, seed)).collect();
    for engine in Engine::ALL {
        // Nobody waits for the slowest.
        let scenarios =
            if engine == Engine::Turmoil { &scenarios[..scenarios.len() / 10] } else { &scenarios[..] };
        let (mut requests, mut bad) = (0, 0);
        let mut simulated = Duration::ZERO;
        let begin = cpu_seconds();
        for scenario in scenarios {
            let outcome = engine.run(scenario);
            requests += outcome.verdict.requests;
            simulated += Duration::from_millis(outcome.simulated_ms);
            bad += u32::from(!outcome.is_good());
        }
        let took = cpu_seconds() - begin;
        println!(
            "{:<12} {:>6.0} scenarios/s  {:>7.0} requests/s  {:>6.0} times real time  {bad} of {} with a problem",
            engine.name(),
            scenarios.len() as f64 / took,
            f64::from(requests) / took,
            simulated.as_secs_f64() / took,
            scenarios.len(),
        );
    }
}
