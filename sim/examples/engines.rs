//! How fast each network is, on one thread, with the same scenarios: `cargo run -p sim --example engines [SCENARIOS]`

use std::time::Duration;

use sim::engine::Engine;
use sim::scenario::{Profile, Scenario};

#[allow(clippy::disallowed_methods, reason = "this measures how long the machine takes")]
fn clock() -> std::time::Instant {
    std::time::Instant::now()
}

fn main() {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(400);
    let scenarios: Vec<Scenario> = (0..count).map(|seed| Scenario::draw_as(Profile::Rollout, seed)).collect();
    for engine in Engine::ALL {
        // Nobody waits for the slowest.
        let scenarios = if engine == Engine::Turmoil { &scenarios[..scenarios.len() / 10] } else { &scenarios[..] };
        let (mut requests, mut bad) = (0, 0);
        let mut simulated = Duration::ZERO;
        let begin = clock();
        for scenario in scenarios {
            let outcome = engine.run(scenario);
            requests += outcome.verdict.requests;
            simulated += Duration::from_millis(outcome.simulated_ms);
            bad += u32::from(!outcome.is_good());
        }
        let took = begin.elapsed().as_secs_f64();
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
