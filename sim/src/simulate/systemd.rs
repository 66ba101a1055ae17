//! A systemd unit (systemd.service(5), systemd.kill(5)).

use std::time::Duration;

use super::command_line::{self, Variable};
use super::facts::{Facts, Firmness, Value};
use super::problem::{Problem, nearest};

/// What matters of a unit, and what is often there.
const KNOWN: &[&str] = &[
    "ExecStart",
    "ExecReload",
    "ExecStop",
    "ExecStartPre",
    "ExecStopPost",
    "TimeoutStopSec",
    "TimeoutSec",
    "TimeoutStartSec",
    "KillMode",
    "KillSignal",
    "SendSIGKILL",
    "Environment",
    "EnvironmentFile",
    "Restart",
    "RestartSec",
    "Type",
    "User",
    "Group",
    "WorkingDirectory",
    "Sockets",
    "WatchdogSec",
];

/// Reads a unit, and after it its drop-ins as `systemctl cat` prints them: each under a comment with its path.
///
/// # Errors
/// What is wrong with it, with the line.
pub fn read(file: &str, text: &str, command: Option<&str>, facts: &mut Facts) -> Result<(), Problem> {
    let mut section = String::new();
    let mut start = None;
    let mut reload = None;
    let mut variables = Vec::new();
    let mut sockets = None;
    let (mut grace, mut mode) = (None, None);
    // Which file a line is of, and how many lines were before it.
    let (mut part, mut before) = (file.to_owned(), 0);
    for (line, text) in logical_lines(text) {
        let text = text.trim();
        if let Some(path) = part_of(text) {
            (part, before) = (path.to_owned(), line);
            section.clear();
            continue;
        }
        let line = line - before;
        let at = |what: String| Problem::at(&part, line, what);
        let origin = format!("{part}:{line}");
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        let Some((key, value)) = text.split_once('=') else {
            return Err(at(format!("{text:?} is neither a [Section] nor Name=value")));
        };
        let (key, value) = (key.trim(), value.trim());
        if section != "Service" {
            continue;
        }
        match key {
            // An empty value takes back what came before.
            "ExecStart" if value.is_empty() => start = None,
            "Environment" if value.is_empty() => variables.clear(),
            "TimeoutStopSec" | "TimeoutSec" if value.is_empty() => grace = None,
            "Sockets" if value.is_empty() => sockets = None,
            "ExecStart" => {
                start = Some((value.trim_start_matches(['@', '-', ':', '+', '!']).to_owned(), origin))
            }
            "ExecReload" => reload = Some(origin),
            "TimeoutStopSec" | "TimeoutSec" => {
                let time = timespan(value).ok_or_else(|| {
                    at(format!("{key}: must be a time span as in systemd.time(7), such as 90, 1min 30s or infinity; got {value:?}"))
                })?;
                let endless = matches!(value, "infinity" | "0");
                grace = Some((
                    time,
                    if endless { format!("{origin}: {key}={value}, taken as a day") } else { origin },
                ));
            }
            "KillMode" => {
                if !["control-group", "mixed", "process", "none"].contains(&value) {
                    return Err(at(format!(
                        "KillMode: must be control-group, mixed, process or none; got {value:?}"
                    )));
                }
                if value == "none" {
                    return Err(at(
                        "KillMode=none: nothing is signalled, so nothing drains; use mixed".into()
                    ));
                }
                mode = Some((value.to_owned(), origin));
            }
            "KillSignal" if !matches!(value, "SIGTERM" | "SIGINT" | "TERM" | "INT" | "15" | "2") => {
                return Err(at(format!("KillSignal={value}: pounce drains on SIGTERM and SIGINT only")));
            }
            "Environment" => {
                for word in command_line::split(value, &origin) {
                    if let Some((name, value)) = word.text.split_once('=') {
                        let (name, value, origin) = (name.to_owned(), value.to_owned(), origin.clone());
                        variables.retain(|other: &Variable| other.name != name);
                        variables.push(Variable { name, value, origin });
                    }
                }
            }
            "EnvironmentFile" => {
                facts.notes.push(format!("variables from EnvironmentFile ({origin}) are not seen"))
            }
            "ExecStop" => facts.ask(
                "--pre-stop",
                Some("pre_stop"),
                format!("how long ExecStop takes before systemd sends the signal ({origin})"),
            ),
            "Sockets" => sockets = Some(origin),
            key if KNOWN.contains(&key) => {}
            key => {
                if let Some(meant) = nearest(key, KNOWN.iter().copied()) {
                    return Err(at(format!("{key}: there is no such setting\n  did you mean {meant}?")));
                }
            }
        }
    }
    match sockets {
        Some(origin) => facts.said("socket_activation", Value::Word("yes"), format!("Sockets, {origin}")),
        None => facts.otherwise(
            "socket_activation",
            Value::Word("no"),
            "there is no Sockets=; a .socket of the same name is not seen",
            Firmness::Default,
        ),
    }
    const SYSTEMD: &str = "default of systemd";
    match grace {
        Some((time, origin)) => facts.said("grace", Value::Time(time), origin),
        None => facts.set("grace", Value::Time(Duration::from_secs(90)), SYSTEMD, Firmness::Default),
    }
    match mode {
        Some((mode, origin)) => {
            let all = mode == "control-group";
            facts.said("term_to_all", Value::Word(if all { "yes" } else { "no" }), origin);
        }
        None => {
            facts.set("term_to_all", Value::Word("yes"), "KillMode, default of systemd", Firmness::Default)
        }
    }
    if !facts.has("deploy") {
        let how = reload.map_or("systemctl restart".to_owned(), |origin| {
            format!("systemctl restart; ExecReload is there ({origin}), try --deploy reload")
        });
        facts.set("deploy", Value::Word("restart"), how, Firmness::Default);
    }
    facts.set("replicas", Value::Count(1), "one unit", Firmness::Default);
    facts.set(
        "schedule",
        Value::Time(Duration::ZERO),
        "systemd starts it when the old one has ended",
        Firmness::Default,
    );
    facts.otherwise("pre_stop", Value::Time(Duration::ZERO), "there is no ExecStop", Firmness::Default);
    facts.set("readiness", Value::Word("none"), "systemd has no readiness check", Firmness::Default);
    if let Some(arguments) = command_line::spoken(command)? {
        return command_line::read(&arguments, &variables, facts);
    }
    let Some((start, origin)) = start else {
        return Err(Problem::at(file, 1, "[Service] has no ExecStart".into()));
    };
    let words = command_line::split(&start, &origin);
    match command_line::arguments(&words) {
        Some(arguments) => command_line::read(&arguments, &variables, facts),
        None => {
            facts.ask("--command", None, command_line::unknown(&words, &origin));
            Ok(())
        }
    }
}

/// The path in a comment above each part of what `systemctl cat` prints.
fn part_of(line: &str) -> Option<&str> {
    let path = line.strip_prefix("# ")?;
    let is_path =
        path.contains('/') && !path.contains(' ') && (path.ends_with(".conf") || path.ends_with(".service"));
    is_path.then(|| path.rsplit_once(".d/").map_or(path.rsplit('/').next().unwrap_or(path), |(_, name)| name))
}

/// Lines with those joined that end in a backslash; numbered by their first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let (line, more) = line.strip_suffix('\\').map_or((line, false), |line| (line, true));
        match lines.last_mut() {
            Some((_, last)) if goes_on => {
                last.push(' ');
                last.push_str(line);
            }
            _ => lines.push((index + 1, line.to_owned())),
        }
        goes_on = more;
    }
    lines
}

/// systemd.time(7): `90`, `5min 20s`, `infinity`.
fn timespan(text: &str) -> Option<Duration> {
    if text == "infinity" || text == "0" {
        // For a stop, 0 means no limit as well.
        return Some(Duration::from_secs(86_400));
    }
    let mut sum = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().ok()?;
        rest = rest[end..].trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        sum += number
            * match &rest[..end] {
                "" | "s" | "sec" | "second" | "seconds" => 1.0,
                "ms" | "msec" => 0.001,
                "m" | "min" | "minute" | "minutes" => 60.0,
                "h" | "hr" | "hour" | "hours" => 3600.0,
                _ => return None,
            };
        rest = rest[end..].trim_start();
    }
    Duration::try_from_secs_f64(sum).ok()
}
