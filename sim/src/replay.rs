//! `sim replay`: the scenario of a seed, as a timeline or as a file.

use std::process::ExitCode;

use crate::engine;
use crate::run::{report, report_all};
use crate::scenario::{Scenario, Seed};

/// Runs the scenario that a seed draws, and prints its timeline
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Decimal, or hexadecimal with 0x
    seed: Seed,
    /// Every line of the timeline
    #[arg(long)]
    all: bool,
    /// Print the scenario as a file for `sim run` instead
    #[arg(long, conflicts_with = "all")]
    toml: bool,
}

/// Runs the command.
pub fn main(arguments: &Arguments) -> ExitCode {
    let scenario = Scenario::draw(arguments.seed.0);
    if arguments.toml {
        print!("{}", scenario.to_toml());
        return ExitCode::SUCCESS;
    }
    let outcome = engine::run(&scenario);
    let tell = if arguments.all { report_all } else { report };
    print!("{}", tell(&scenario, &outcome));
    ExitCode::from(u8::from(!outcome.is_good()))
}
