//! `sim simulate FILE`: how many requests a rollout of this deployment drops, why, and what to change.
//!
//! What the file and the flags do not say is either a default of the platform or of pounce, or an assumption that is
//! printed as one, or, where the answer hangs on it, a question: then nothing is simulated.

mod advice;
mod command_line;
mod ecs;
pub mod facts;
mod kubernetes;
mod model;
mod problem;
mod report;
mod systemd;
mod tree;

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

pub use problem::Problem;
pub use report::Report;

use facts::{Facts, Platform};

use crate::pure;

/// What the command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub stdout: String,
    pub stderr: String,
    /// 0; 1: more was dropped than `--max-dropped`; 2: something is wrong with the input or missing.
    pub code: u8,
}

/// Runs the command.
pub fn main(args: &[String]) -> ExitCode {
    let answer = answer(args, read_from_disk);
    print!("{}", answer.stdout);
    eprint!("{}", answer.stderr);
    ExitCode::from(answer.code)
}

/// The text of a file, of standard input (`-`), or of a unit with its drop-ins, in the way of `systemctl cat`.
fn read_from_disk(path: &str) -> Result<String, String> {
    if path == "-" {
        return std::io::read_to_string(std::io::stdin()).map_err(|error| error.to_string());
    }
    if std::path::Path::new(path).is_dir() {
        return Err("is a directory: give one file, or the output of `kubectl kustomize` or `helm template` by a pipe to `-`".into());
    }
    let read = |path: &std::path::Path| std::fs::read_to_string(path).map_err(|error| error.to_string());
    let mut text = read(path.as_ref())?;
    if path.ends_with(".service")
        && let Ok(folder) = std::fs::read_dir(format!("{path}.d"))
    {
        let mut parts: Vec<_> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
        parts.retain(|part| part.extension().is_some_and(|extension| extension == "conf"));
        // The order of their names is the order in which they win.
        parts.sort();
        for part in parts {
            text += &format!("\n# {}\n{}", part.display(), read(&part)?);
        }
    }
    Ok(text)
}

/// Flags that are a fact's.
const FACT_FLAGS: [(&str, &str, &str); 9] = [
    ("request-duration", "request_duration", "DURATION"),
    ("typical-request", "typical_request", "DURATION"),
    ("propagation", "propagation", "DURATION"),
    ("balancer", "balancer", "l4|l7"),
    ("balancer-idle", "balancer_idle", "DURATION"),
    ("retry", "retry", "WHAT"),
    ("pre-stop", "pre_stop", "DURATION"),
    ("deploy", "deploy", "HOW"),
    ("replicas", "replicas", "COUNT"),
];

fn command() -> Command {
    let mut command = Command::new("sim simulate")
        .about("How many requests does a rollout of this deployment drop, why, and what to change?")
        .no_binary_name(true)
        .args_override_self(true)
        .max_term_width(110)
        .arg(Arg::new("file").value_name("FILE").required(true).help(
            "A Kubernetes Deployment (.yaml, several documents allowed), a systemd unit (.service, its drop-ins beside it), an ECS task definition (.json); - for standard input",
        ));
    for (flag, fact, value_name) in FACT_FLAGS {
        let help = facts::key(fact).map_or("", |key| key.help);
        command = command.arg(Arg::new(flag).long(flag).value_name(value_name).help(help));
    }
    command
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .help("Change anything that the report lists under `What this rests on`; may be repeated"),
        )
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("NAME")
                .help("Which Deployment, if the file has several"),
        )
        .arg(Arg::new("container").long("container").value_name("NAME").help("Which container runs pounce"))
        .arg(Arg::new("command").long("command").value_name("COMMAND").help(
            "How pounce is started, where the file leaves it to the image: \"pounce main:app --workers 4\"",
        ))
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("Your copy of the settings file that pounce reads in the container (pounce.toml)"),
        )
        .arg(
            Arg::new("rollouts")
                .long("rollouts")
                .value_name("COUNT")
                .default_value("2000")
                .help("How many to simulate"),
        )
        .arg(Arg::new("seed").long("seed").value_name("NUMBER").default_value("1").help("The first seed"))
        .arg(
            Arg::new("max-dropped")
                .long("max-dropped")
                .value_name("COUNT")
                .help("Exit with 1 if the worst rollout drops more"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Write the report as JSON"))
}

/// The command as a function; `read` reads a file.
pub fn answer(args: &[String], read: impl Fn(&str) -> Result<String, String>) -> Answer {
    let refuse = |stderr: String| Answer { stdout: String::new(), stderr: stderr + "\n", code: 2 };
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) if error.exit_code() == 0 => {
            return Answer { stdout: error.to_string(), stderr: String::new(), code: 0 };
        }
        Err(error) => return refuse(error.to_string().trim_end().to_owned()),
    };
    match report(&matches, read) {
        Ok(report) => {
            let stdout = if matches.get_flag("json") {
                serde_json::to_string_pretty(&report.json()).unwrap_or_default() + "\n"
            } else {
                report.text()
            };
            let stderr = match report.max_dropped {
                Some(most) if report.exceeded() => {
                    format!("a rollout dropped {} request(s), allowed are {most}\n", report.numbers.worst)
                }
                _ => String::new(),
            };
            Answer { stdout, stderr, code: u8::from(report.exceeded()) }
        }
        Err(problem) => refuse(problem.to_string()),
    }
}

fn report(matches: &ArgMatches, read: impl Fn(&str) -> Result<String, String>) -> Result<Report, Problem> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let number = |name: &str, least: u64, most: u64| {
        let given = text(name).unwrap_or_default();
        let parsed = match given.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => given.parse().ok(),
        };
        let parsed = parsed.filter(|n: &u64| (least..=most).contains(n));
        parsed.ok_or_else(|| {
            Problem(format!("--{name} must be a whole number from {least} to {most}, got {given:?}"))
        })
    };
    let rollouts = number("rollouts", 1, 10_000_000)?;
    let seed = number("seed", 0, u64::MAX)?;
    let max_dropped = match text("max-dropped") {
        Some(_) => Some(number("max-dropped", 0, u64::from(u32::MAX))? as u32),
        None => None,
    };
    let file = text("file").unwrap_or_default();
    let content = read(file).map_err(|error| Problem(format!("{file}: {error}")))?;
    let shown = if file == "-" { "stdin" } else { file.rsplit('/').next().unwrap_or(file) };
    let mut facts = Facts::default();
    facts.config_file = text("config").map(str::to_owned);
    // Flags come before the file, because some of it hangs on them, and after it, because they win.
    take_flags(matches, &mut facts)?;
    read_file(shown, &content, matches, &mut facts)?;
    take_flags(matches, &mut facts)?;
    ask(&mut facts);
    let open = facts.open_questions();
    if !open.is_empty() {
        let mut text = format!("{shown}: before anything can be said, say:");
        for question in open {
            text += &format!("\n  {:<24} {}", question.flag, question.what);
        }
        return Err(Problem(text));
    }
    if facts.count("replicas") == 0 {
        return Err(Problem(format!("{shown}: replicas is 0: there is nothing to roll out")));
    }
    model::assume(&mut facts);
    if facts.count("replicas") > 200 || facts.count("clients") > 1000 || facts.count("workers") > 64 {
        return Err(Problem("more than 200 replicas, 64 workers or 1000 clients are not simulated".into()));
    }
    let plan = model::plan(&facts).map_err(|error| Problem(format!("pounce would not start: {error}")))?;
    let rules = report::judge(&facts, &plan);
    let numbers = model::measure(&plan, seed, rollouts);
    let worst = if numbers.worst > 0 {
        report::shorten(&pure::trace(&plan, numbers.worst_seed).1, 16)
    } else {
        Vec::new()
    };
    let trials = (rollouts / 10).clamp(20, 400).min(rollouts);
    let effects = advice::sensitivity(&facts, seed, trials);
    let remedy = advice::remedy(&facts, seed, rollouts);
    let title = format!(
        "{shown}: {} of {} instance(s), {} worker(s) each",
        facts.word("deploy"),
        facts.count("replicas"),
        facts.count("workers")
    );
    Ok(Report { title, facts, rules, seed, numbers, worst, effects, remedy, max_dropped })
}

fn take_flags(matches: &ArgMatches, facts: &mut Facts) -> Result<(), Problem> {
    for (flag, fact, _) in FACT_FLAGS {
        if let Some(value) = matches.get_one::<String>(flag) {
            facts.take_flag(fact, value, &format!("--{flag}"))?;
        }
    }
    for given in matches.get_many::<String>("set").into_iter().flatten() {
        facts.take(given, "--set")?;
    }
    Ok(())
}

fn read_file(file: &str, content: &str, matches: &ArgMatches, facts: &mut Facts) -> Result<(), Problem> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let (container, command) = (text("container"), text("command"));
    // By its name, or what comes by a pipe by what is in it.
    let is_unit = || content.lines().any(|line| line.trim() == "[Service]");
    let is_json = || content.trim_start().starts_with('{');
    if file.ends_with(".service") || is_unit() {
        facts.platform = Platform::Systemd;
        systemd::read(file, content, command, facts)
    } else if is_json() && content.contains("containerDefinitions") {
        facts.platform = Platform::Ecs;
        ecs::read(file, content, container, command, facts)
    } else {
        facts.platform = Platform::Kubernetes;
        kubernetes::read(file, content, text("name"), container, command, facts)
    }
}

/// What no file says and everything hangs on.
fn ask(facts: &mut Facts) {
    facts.ask(
        "--request-duration",
        Some("request_duration"),
        "the longest that the application takes to answer a request, as 2s",
    );
    let hint = facts.balancer_hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
    facts.ask(
        "--balancer",
        Some("balancer"),
        format!(
            "l7 if a proxy keeps the connections (ingress, ALB, mesh), l4 if clients keep their own (NLB, plain Service){hint}"
        ),
    );
    if facts.word("deploy") == "rolling" {
        facts.ask(
            "--propagation",
            Some("propagation"),
            "the longest from an endpoint's removal until the balancers act on it, as 5s",
        );
    }
}
