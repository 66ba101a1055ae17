//! `sim run FILE`: one scenario from a file, as a timeline.

use std::fmt::Write;
use std::process::ExitCode;

use crate::engine::{Engine, Outcome};
use crate::picture;
use crate::scenario::Scenario;

const USAGE: &str = "usage: sim run FILE [--engine turmoil-net|turmoil] [--svg OUT]";

/// What the command line asks for.
struct Asked {
    path: String,
    engine: Engine,
    svg: Option<String>,
}

fn read(args: &[String]) -> Result<Asked, String> {
    let (mut path, mut engine, mut svg) = (None, Engine::TurmoilNet, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value =
            |what: &str| args.next().cloned().ok_or_else(|| format!("{arg} needs {what}\n{USAGE}"));
        match arg.as_str() {
            "--engine" => engine = value("the name of an engine")?.parse()?,
            "--svg" => svg = Some(value("the path of the picture")?),
            flag if flag.starts_with('-') => return Err(format!("there is no option {flag}\n{USAGE}")),
            _ if path.is_some() => return Err(format!("one file at a time, not also {arg}\n{USAGE}")),
            _ => path = Some(arg.clone()),
        }
    }
    Ok(Asked { path: path.ok_or(USAGE)?, engine, svg })
}

/// Runs the command.
pub fn main(args: &[String]) -> ExitCode {
    let asked = match read(args) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let path = &asked.path;
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
    print!("{}", report(&scenario, &outcome));
    if let Some(out) = &asked.svg
        && let Err(error) = std::fs::write(out, picture::svg(&outcome))
    {
        eprintln!("{out}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::from(!outcome.is_good()))
}

/// The timeline of a run, what was wrong with its settings, and what came of it.
pub fn report(scenario: &Scenario, outcome: &Outcome) -> String {
    let mut text = format!("seed {} profile={}\n", scenario.seed, scenario.profile.name());
    for line in &outcome.lines {
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
    for problem in &verdict.problems {
        let _ = writeln!(text, "PROBLEM: {problem}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(args: &[&str]) -> Result<Asked, String> {
        read(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_engine_stands_before_the_file_or_after_it() {
        for args in [["--engine", "turmoil", "a.toml"], ["a.toml", "--engine", "turmoil"]] {
            let asked = asked(&args).expect("a good command line");
            assert_eq!((asked.path.as_str(), asked.engine), ("a.toml", Engine::Turmoil));
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (args, named) in [
            (&["a.toml", "--engine", "madsim"][..], "\"madsim\": turmoil-net or turmoil"),
            (&["a.toml", "--engine"], "--engine needs"),
            (&["a.toml", "--json"], "no option --json"),
            (&["a.toml", "b.toml"], "also b.toml"),
            (&[], "usage"),
        ] {
            let error = asked(args).err().expect("a bad command line");
            assert!(error.contains(named), "{args:?}: {error}");
        }
    }
}
