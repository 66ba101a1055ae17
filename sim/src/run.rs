//! `sim run FILE`: one scenario from a file, as a timeline.

use std::fmt::Write;
use std::process::ExitCode;

use crate::engine::{Engine, Outcome};
use crate::scenario::Scenario;
use crate::shrink::class_of;
use crate::trace::Line;
use crate::{picture, story};

/// Runs a scenario from a file, and prints its timeline
#[derive(Debug, clap::Args)]
pub struct Arguments {
    file: String,
    /// The network: turmoil-net (the fast one) or turmoil
    #[arg(long, value_name = "NAME", default_value = "turmoil-net")]
    engine: Engine,
    /// Every line of the timeline
    #[arg(long)]
    all: bool,
    /// Draw the timeline into this file as well
    #[arg(long, value_name = "OUT")]
    svg: Option<String>,
}

/// Runs the command.
pub fn main(asked: &Arguments) -> ExitCode {
    let path = &asked.file;
    let scenario = match std::fs::read_to_string(path)
        .map_err(|error| error.to_string())
        .and_then(|text| Scenario::from_toml(&text))
    {
        Ok(scenario) => scenario,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::from(2);
        }
    };
    for fault in asked.engine.cannot(&scenario) {
        eprintln!("{}: this network knows no {}; nothing happens then", asked.engine.name(), fault.name());
    }
    let outcome = asked.engine.run(&scenario);
    let tell = if asked.all { report_all } else { report };
    print!("{}", tell(&scenario, &outcome));
    if let Some(out) = &asked.svg
        && let Err(error) = std::fs::write(out, picture::svg(&outcome))
    {
        eprintln!("{out}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::from(!outcome.is_good()))
}

/// The timeline of a run, told in short (see [`story`]), what was wrong with its settings, and what came of it.
pub fn report(scenario: &Scenario, outcome: &Outcome) -> String {
    report_of(&story::tell(&outcome.lines, &outcome.verdict.problems), scenario, outcome)
}

/// [`report`] with every line.
pub fn report_all(scenario: &Scenario, outcome: &Outcome) -> String {
    report_of(&outcome.lines, scenario, outcome)
}

fn report_of(lines: &[Line], scenario: &Scenario, outcome: &Outcome) -> String {
    let mut text = format!("seed {} profile={}\n", scenario.seed, scenario.profile.name());
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    let verdict = &outcome.verdict;
    let _ = writeln!(text, "{} of {} requests failed", verdict.failed, verdict.requests);
    for (cause, count) in &verdict.causes {
        let _ = writeln!(text, "  {count} {cause}");
    }
    for violation in scenario.violations() {
        let _ = writeln!(text, "  does not hold: {violation}");
    }
    let alike = |a: &String, b: &String| class_of(a) == class_of(b);
    for problems in verdict.problems.chunk_by(alike) {
        let _ = write!(text, "PROBLEM: {}", problems[0]);
        let more = problems.len() - 1;
        let _ = writeln!(
            text,
            "{}",
            if more > 0 { format!(" (and {more} more like it)") } else { String::new() }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        asked: Arguments,
    }

    fn asked(args: &[&str]) -> Result<Arguments, String> {
        let command = Command::try_parse_from(["run"].iter().chain(args));
        command.map(|command| command.asked).map_err(|error| error.to_string())
    }

    #[test]
    fn the_engine_stands_before_the_file_or_after_it() {
        for args in [["--engine", "turmoil", "a.toml"], ["a.toml", "--engine", "turmoil"]] {
            let asked = asked(&args).expect("a good command line");
            assert_eq!((asked.file.as_str(), asked.engine), ("a.toml", Engine::Turmoil));
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (args, named) in [
            (&["a.toml", "--engine", "madsim"][..], "\"madsim\": turmoil-net or turmoil"),
            (&["a.toml", "--engine"], "'--engine <NAME>'"),
            (&["a.toml", "--json"], "'--json'"),
            (&["a.toml", "b.toml"], "'b.toml'"),
            (&[], "<FILE>"),
        ] {
            let error = asked(args).expect_err("a bad command line");
            assert!(error.contains(named), "{args:?}: {error}");
        }
    }
}
