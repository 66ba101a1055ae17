//! `sim soak`: fresh seeds until the time is over.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::scenario::{Scenario, Seed};
use crate::tally::{Tally, run_seeds};
use crate::{coverage, regressions, shrink};

/// Runs fresh seeds until the time is over
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// The first seed [default: from the clock]
    #[arg(long)]
    from: Option<Seed>,
}

fn minutes(text: &str) -> Result<f64, &'static str> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| *minutes > 0.0 && minutes.is_finite());
    minutes.ok_or("it must be a number above 0")
}

/// Runs the command.
#[allow(
    clippy::disallowed_methods,
    reason = "the soak itself is outside of the simulation: its seeds are fresh"
)]
pub fn main(arguments: &Arguments) -> ExitCode {
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let from = arguments.from.map_or_else(fresh, |seed| seed.0);
    let minutes = arguments.minutes;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let began = std::time::Instant::now();
    let length = Duration::from_secs_f64(minutes * 60.0);
    let mut total = Tally::default();
    let mut next = from;
    println!("seeds from {} on, {threads} threads, {minutes} minutes", Seed(from));
    while began.elapsed() < length {
        let tally = run_seeds(next, 500, threads);
        next = next.wrapping_add(500);
        for (seed, problems) in &tally.bad {
            println!("\nseed {}: {}", Seed(*seed), problems.first().map_or("", String::as_str));
            println!("  replay: SEED={} cargo test -p sim replay -- --nocapture", Seed(*seed));
            let small = shrink::shrink(&Scenario::draw(*seed));
            let problem = problems.first().map_or("", String::as_str);
            println!("  {}", regressions::keep(&regressions::folder(), &small, problem));
        }
        total.merge(tally);
        let seconds = began.elapsed().as_secs_f64();
        print!(
            "\r{:>6.0} s  {} scenarios ({:.0}/s), {:.1} simulated hours, {} requests, {} failed, {} bad ",
            seconds,
            total.scenarios,
            total.scenarios as f64 / seconds,
            total.simulated_ms as f64 / 3.6e6,
            total.requests,
            total.failed,
            total.bad.len()
        );
        let _ = std::io::Write::flush(&mut std::io::stdout());
    }
    println!("\n\n{}{}\n{}", total.summary(), coverage::summary(&total.cells), total.mark_table());
    let never = total.missing_marks();
    if !never.is_empty() {
        println!("a long run must meet every mark; these never happened: {never:?}");
    }
    ExitCode::from(u8::from(!total.bad.is_empty() || !never.is_empty()))
}
