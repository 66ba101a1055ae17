//! `sim replay SEED [--toml]`: the scenario of a seed, as a timeline.

use std::process::ExitCode;

use crate::engine;
use crate::run::report;
use crate::scenario::{Scenario, Seed};

/// Runs the command.
pub fn main(args: &[String]) -> ExitCode {
    let Some(seed) = args.first() else {
        eprintln!("usage: sim replay SEED [--toml]");
        return ExitCode::from(2);
    };
    match seed.parse::<Seed>() {
        Ok(seed) => {
            let scenario = Scenario::draw(seed.0);
            if args.get(1).is_some_and(|flag| flag == "--toml") {
                print!("{}", scenario.to_toml());
                return ExitCode::SUCCESS;
            }
            let outcome = engine::run(&scenario);
            print!("{}", report(&scenario, &outcome));
            ExitCode::from(u8::from(!outcome.is_good()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
