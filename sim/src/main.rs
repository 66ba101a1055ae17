//! `cargo run --release -p sim -- soak | run | replay | simulate`

use std::process::ExitCode;

const USAGE: &str = "\
usage: sim soak [--minutes N]            fresh seeds until the time is over
       sim run FILE [--engine NAME] [--all] [--svg OUT]
                                         one scenario from a file, as a timeline; on the network
                                         turmoil-net (the fast one) or turmoil
       sim hunt [BUG] [--seeds N]        how many seeds each planted bug takes
       sim replay SEED [--all]           one scenario from its seed, as a timeline
       sim simulate FILE [...]           how many requests a deployment loses
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    match command.as_deref() {
        Some("soak") => sim::soak::main(&rest),
        Some("hunt") => sim::hunt::main(&rest),
        Some("run") => sim::run::main(&rest),
        Some("replay") => sim::replay::main(&rest),
        Some("simulate") => sim::simulate::main(&rest),
        Some("--help" | "-h") => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprint!("there is no command {other:?}\n{USAGE}");
            ExitCode::from(2)
        }
        None => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
