//! `sim replay SEED [--all] [--toml]`: the scenario of a seed, as a timeline or as a file.

use std::process::ExitCode;

use crate::engine;
use crate::run::{report, report_all};
use crate::scenario::{Scenario, Seed};

/// Runs the command.
pub fn main(args: &[String]) -> ExitCode {
    let Some(seed) = args.first() else {
        eprintln!("usage: sim replay SEED [--all] [--toml]");
        return ExitCode::from(2);
    };
    match seed.parse::<Seed>() {
        Ok(seed) => {
            let scenario = Scenario::draw(seed.0);
            if args.iter().any(|arg| arg == "--toml") {
                print!("{}", scenario.to_toml());
                return ExitCode::SUCCESS;
            }
            let outcome = engine::run(&scenario);
            let tell = if args.iter().any(|arg| arg == "--all") { report_all } else { report };
            print!("{}", tell(&scenario, &outcome));
            ExitCode::from(u8::from(!outcome.is_good()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
