//! `sim run FILE`: one scenario from a file, as a timeline.

use std::fmt::Write;
use std::process::ExitCode;

use crate::engine::{Engine, Outcome};
use crate::scenario::Scenario;
use crate::shrink::class_of;
use crate::trace::Line;
use crate::{picture, story};

const USAGE: &str = "usage: sim run FILE [--engine turmoil-net|turmoil] [--all] [--svg OUT]";

/// What the command line asks for.
struct Asked {
    path: String,
    engine: Engine,
    /// Every line of the timeline.
    all: bool,
    svg: Option<String>,
}

fn read(args: &[String]) -> Result<Asked, String> {
    let (mut path, mut engine, mut all, mut svg) = (None, Engine::TurmoilNet, false, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value =
            |what: &str| args.next().cloned().ok_or_else(|| format!("{arg} needs {what}\n{USAGE}"));
        match arg.as_str() {
            "--engine" => engine = value("the name of an engine")?.parse()?,
            "--all" => all = true,
            "--svg" => svg = Some(value("the path of the picture")?),
            flag if flag.starts_with('-') => return Err(format!("there is no option {flag}\n{USAGE}")),
            _ if path.is_some() => return Err(format!("one file at a time, not also {arg}\n{USAGE}")),
            _ => path = Some(arg.clone()),
        }
    }
    Ok(Asked { path: path.ok_or(USAGE)?, engine, all, svg })
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
