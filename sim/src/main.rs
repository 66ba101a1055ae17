//! `cargo run --release -p sim -- soak | run | replay | hunt | simulate`

use std::process::ExitCode;

use clap::Parser;

/// Simulated deployments of pounce: thousands of seeded rollouts, and how many requests yours would lose.
#[derive(Debug, Parser)]
#[command(name = "sim", max_term_width = 110)]
enum Command {
    Soak(sim::soak::Arguments),
    Run(sim::run::Arguments),
    Replay(sim::replay::Arguments),
    Hunt(sim::hunt::Arguments),
    /// How many requests a deployment loses: see `sim simulate --help`
    #[command(disable_help_flag = true)]
    Simulate {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Soak(arguments) => sim::soak::main(&arguments),
        Command::Run(arguments) => sim::run::main(&arguments),
        Command::Replay(arguments) => sim::replay::main(&arguments),
        Command::Hunt(arguments) => sim::hunt::main(&arguments),
        Command::Simulate { arguments } => sim::simulate::main(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }

    #[test]
    fn the_flags_of_simulate_are_its_own() {
        let command = Command::try_parse_from(["sim", "simulate", "a.yaml", "--balancer", "l4", "--help"]);
        let Ok(Command::Simulate { arguments }) = command else { panic!("{command:?}") };
        assert_eq!(arguments, ["a.yaml", "--balancer", "l4", "--help"]);
    }
}
