//! What pounce is to reach beside the others, with one worker on CPython 3.11, and whether a run shows it.

use std::fmt::Write as _;

use crate::report::{cells, format_ms, header, title};
use crate::results::{Cell, Idle, Results, Spread, Turn};

/// CPU per request of hello: at most so many times that of this server, at so many connections.
const HELLO: [(&str, usize, f64); 7] = [
    ("bare-hyper", 1, 1.5),
    ("bare-hyper", 16, 1.5),
    ("bare-hyper", 128, 1.5),
    ("granian", 16, 0.45),
    ("granian", 128, 0.70),
    ("uvicorn", 16, 0.55),
    ("uvicorn", 128, 0.55),
];

/// Whom pounce is to be ahead of everywhere.
const OTHERS: [&str; 2] = ["granian", "uvicorn"];

/// What is compared with theirs: for hello, CPU has limits of its own.
const FIGURES: [Figure; 3] = [
    Figure { title: "CPU", of: Turn::cpu_us_per_unit, wanted: Wanted::AtMost(1.0) },
    Figure { title: "rate", of: Turn::units_per_second, wanted: Wanted::AtLeast(1.0) },
    Figure { title: "p99", of: |turn| turn.p99_us, wanted: Wanted::AtMost(1.0) },
];

/// A worker may have so much more memory than uvicorn's, in MB (2^20 bytes).
const MEMORY_MB: f64 = 6.0;

/// Idle CPU that the table shows as 0.00, in ms/s.
const NO_CPU: f64 = 0.005;

struct Figure {
    title: &'static str,
    of: fn(&Turn) -> f64,
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    /// Rounds lie on both sides of the limit: they do not agree.
    Even,
    Short,
}

impl Wanted {
    fn verdict(self, seen: Spread) -> Verdict {
        let (best, worst, limit) = match self {
            Wanted::AtMost(limit) => (seen.low, seen.high, limit),
            // The same, mirrored.
            Wanted::AtLeast(limit) => (-seen.high, -seen.low, -limit),
        };
        match () {
            () if worst <= limit => Verdict::Reached,
            () if best > limit => Verdict::Short,
            () => Verdict::Even,
        }
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Reached => "reached",
            Verdict::Even => "even",
            Verdict::Short => "**short**",
        }
    }
}

/// What was found, as it is counted: the name of the figure, with its value.
#[derive(Debug, Default)]
struct Found {
    reached: usize,
    even: Vec<String>,
    short: Vec<String>,
}

impl Found {
    fn add(&mut self, verdict: Verdict, what: String) {
        match verdict {
            Verdict::Reached => self.reached += 1,
            Verdict::Even => self.even.push(what),
            Verdict::Short => self.short.push(what),
        }
    }

    fn summary(&self) -> String {
        let all = self.reached + self.even.len() + self.short.len();
        let mut out = format!("Of {all} figures that were measured, {} are reached.\n", self.reached);
        for (word, names) in [("Short", &self.short), ("Even", &self.even)] {
            if !names.is_empty() {
                let _ = write!(out, "\n{word} ({}):\n\n- {}\n", names.len(), names.join("\n- "));
            }
        }
        out
    }
}

/// The section of the table, from its heading on, and its first paragraph by itself.
pub fn section(results: &Results) -> (String, String) {
    let mut found = Found::default();
    let mut limits = String::new();
    limits_table(results, &mut found, &mut limits);
    let mut comparisons = String::new();
    comparison_table(results, &mut found, &mut comparisons);
    let summary = if results.turns.iter().any(|turn| turn.server == "pounce" && turn.workers == 1) {
        [vec![found.summary()], missing(results)].concat().join("\n")
    } else {
        "The targets are for pounce with one worker, which this run is without.\n".to_owned()
    };
    let mut out = format!("## Targets\n\n{summary}\n");
    if !limits.is_empty() || !comparisons.is_empty() {
        out.push_str(
            "One worker on a core of its own. Medians of the rounds' ratios, and in parentheses the lowest and the highest; \
             *even* where those lie on both sides of what is wanted.\n\n",
        );
    }
    if !limits.is_empty() {
        header(&mut out, ["", "connections", "wanted", "seen", "rounds", ""].map(str::to_owned));
        let _ = writeln!(out, "{limits}");
    }
    if !comparisons.is_empty() {
        out.push_str("Wanted everywhere: CPU and p99 not above theirs, rate not below. In brackets both p99 in ms.\n\n");
        let columns = FIGURES
            .iter()
            .flat_map(|figure| OTHERS.map(|other| format!("{}, pounce ÷ {other}", figure.title)));
        header(&mut out, ["".to_owned(), "connections".to_owned()].into_iter().chain(columns));
        out.push_str(&comparisons);
    }
    (out, summary)
}

/// What this run cannot say, in sentences.
fn missing(results: &Results) -> Vec<String> {
    let measured = |server: &str| results.turns.iter().any(|t| t.server == server && t.workers == 1);
    let absent: Vec<&str> =
        ["bare-hyper", "granian", "uvicorn"].into_iter().filter(|name| !measured(name)).collect();
    let mut out = Vec::new();
    if !absent.is_empty() {
        out.push(format!("Not in this run, and so not compared with: {}.\n", absent.join(", ")));
    }
    let python = results.facts.iter().find(|(name, _)| name == "python").map(|(_, version)| version);
    if let Some(version) = python.filter(|version| !version.contains("3.11")) {
        out.push(format!("The targets are for CPython 3.11, and this run is of {version}.\n"));
    }
    out
}

fn limits_table(results: &Results, found: &mut Found, out: &mut String) {
    for (other, concurrency, limit) in HELLO {
        let cell = Cell { workload: "hello", workers: 1, concurrency };
        let ratios = results.ratios(cell, "pounce", other, Turn::cpu_us_per_unit);
        let Some(seen) = Spread::of(ratios) else { continue };
        let verdict = Wanted::AtMost(limit).verdict(seen);
        found.add(
            verdict,
            format!("hello × {concurrency}, CPU ÷ {other}: {:.2}, not {limit:.2}", seen.middle),
        );
        let _ = writeln!(
            out,
            "| hello, CPU ÷ {other} | {concurrency} | ≤ {limit:.2} | {:.2} | {:.2}–{:.2} | {} |",
            seen.middle,
            seen.low,
            seen.high,
            verdict.word()
        );
    }
    let idle: Vec<&Idle> = results.idle.iter().filter(|idle| idle.workers == 1).collect();
    let ours: Vec<&Idle> = idle.iter().copied().filter(|idle| idle.server == "pounce").collect();
    // The worst after any workload: it must be 0 after each.
    let idle_cpu = ours.iter().map(|idle| idle.used.cpu_us / 1e3 / idle.seconds).reduce(f64::max);
    if let Some(cpu) = idle_cpu {
        let verdict = if cpu < NO_CPU { Verdict::Reached } else { Verdict::Short };
        found.add(verdict, format!("idle CPU: {cpu:.2} ms/s"));
        let _ = writeln!(
            out,
            "| idle CPU, ms/s, the most of all workloads | | 0 | {cpu:.2} | | {} |",
            verdict.word()
        );
    }
    for ours in ours {
        let uvicorn = idle.iter().find(|idle| idle.server == "uvicorn" && idle.workload == ours.workload);
        let Some(theirs) = uvicorn else { continue };
        memory_rows(ours, theirs, found, out);
    }
}

fn memory_rows(ours: &Idle, theirs: &Idle, found: &mut Found, out: &mut String) {
    let moments = [
        ("after start", ours.memory_fresh, theirs.memory_fresh),
        ("after load", ours.memory_loaded, theirs.memory_loaded),
    ];
    for (moment, ours_then, theirs_then) in moments {
        // All applications start alike.
        if moment == "after start" && ours.workload != "hello" {
            continue;
        }
        let mb = |kib: u64| kib as f64 / 1024.0;
        let (seen, uvicorn) = (mb(ours_then.worker_pss_kib), mb(theirs_then.worker_pss_kib));
        let more = seen - uvicorn;
        let verdict = if more <= MEMORY_MB { Verdict::Reached } else { Verdict::Short };
        let what = format!("{}, PSS of the worker {moment}", title(&ours.workload));
        found.add(verdict, format!("{what}: uvicorn's {more:+.1} MB"));
        let _ = writeln!(
            out,
            "| {what}, MB | | ≤ uvicorn's {uvicorn:.1} + {MEMORY_MB} | {seen:.1} ({more:+.1}) | | {} |",
            verdict.word()
        );
    }
}

fn comparison_table(results: &Results, found: &mut Found, out: &mut String) {
    for (workload, concurrency) in cells(results, 1) {
        let cell = Cell { workload: &workload, workers: 1, concurrency };
        let mut any = false;
        let mut row = vec![title(&workload), concurrency.to_string()];
        for figure in &FIGURES {
            for other in OTHERS {
                if workload == "hello" && figure.title == "CPU" {
                    row.push("above".to_owned());
                    continue;
                }
                let Some(seen) = Spread::of(results.ratios(cell, "pounce", other, figure.of)) else {
                    row.push("-".to_owned());
                    continue;
                };
                any = true;
                let verdict = figure.wanted.verdict(seen);
                found.add(
                    verdict,
                    format!(
                        "{} × {concurrency}, {} ÷ {other}: {:.2}",
                        title(&workload),
                        figure.title,
                        seen.middle
                    ),
                );
                let note = if verdict == Verdict::Reached { "" } else { verdict.word() };
                let mut text = format!("{:.2} ({:.2}–{:.2}) {note}", seen.middle, seen.low, seen.high);
                let ms = |server| results.median(cell, server, figure.of).map_or("-".to_owned(), format_ms);
                if figure.title == "p99" {
                    let _ = write!(text, " [{}, {}]", ms("pounce"), ms(other));
                }
                row.push(text.trim_end().replace("  ", " "));
            }
        }
        if any {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::turn;

    fn spread(low: f64, middle: f64, high: f64) -> Spread {
        Spread { low, middle, high }
    }

    /// Hello at 16 connections, with these ratios of CPU in the rounds.
    fn hello(other: &str, ratios: &[f64]) -> Results {
        let mut results = Results::new(Vec::new(), ratios.len(), 1.0);
        for (round, ratio) in ratios.iter().enumerate() {
            results.turns.push(turn("pounce", round, 10.0 * ratio));
            results.turns.push(turn(other, round, 10.0));
        }
        results
    }

    #[test]
    fn a_difference_within_the_spread_is_neither_reached_nor_short() {
        assert_eq!(Wanted::AtMost(1.0).verdict(spread(0.8, 0.9, 0.95)), Verdict::Reached);
        assert_eq!(Wanted::AtMost(1.0).verdict(spread(0.9, 0.95, 1.1)), Verdict::Even);
        assert_eq!(Wanted::AtMost(1.0).verdict(spread(0.9, 1.05, 1.1)), Verdict::Even);
        assert_eq!(Wanted::AtMost(1.0).verdict(spread(1.05, 1.1, 1.2)), Verdict::Short);
    }

    #[test]
    fn a_rate_has_to_be_above_theirs() {
        assert_eq!(Wanted::AtLeast(1.0).verdict(spread(1.05, 1.1, 1.2)), Verdict::Reached);
        assert_eq!(Wanted::AtLeast(1.0).verdict(spread(0.9, 1.0, 1.2)), Verdict::Even);
        assert_eq!(Wanted::AtLeast(1.0).verdict(spread(0.8, 0.9, 0.95)), Verdict::Short);
    }

    #[test]
    fn hello_is_held_against_its_own_limit() {
        let (text, _) = section(&hello("granian", &[0.40, 0.41, 0.42, 0.43, 0.44]));
        assert!(
            text.contains("| hello, CPU ÷ granian | 16 | ≤ 0.45 | 0.42 | 0.40–0.44 | reached |"),
            "{text}"
        );
        let (text, summary) = section(&hello("granian", &[0.50, 0.51, 0.52, 0.53, 0.46]));
        assert!(text.contains("| 0.51 | 0.46–0.53 | **short** |"), "{text}");
        assert!(summary.contains("Short (1):\n\n- hello × 16, CPU ÷ granian: 0.51, not 0.45\n"), "{summary}");
    }

    #[test]
    fn what_a_run_is_without_is_named() {
        let (_, summary) = section(&hello("uvicorn", &[0.4]));
        assert!(summary.contains("not compared with: bare-hyper, granian."), "{summary}");
        let (text, _) = section(&Results::new(Vec::new(), 1, 1.0));
        assert!(text.contains("which this run is without"), "{text}");
        assert!(!text.contains('|'), "{text}");
    }

    #[test]
    fn another_workload_is_compared_by_its_p99_too() {
        let mut results = hello("granian", &[0.4]);
        for turn in &mut results.turns {
            turn.workload = "connect".into();
            turn.p99_us = if turn.server == "pounce" { 3000.0 } else { 2000.0 };
        }
        let (text, summary) = section(&results);
        assert!(text.contains("| 1.50 (1.50–1.50) **short** [3.00, 2.00] |"), "{text}");
        assert!(summary.contains("new connection per request × 16, p99 ÷ granian: 1.50"), "{summary}");
    }

    #[test]
    fn memory_is_compared_with_that_of_uvicorn() {
        let mut results = hello("uvicorn", &[0.4]);
        for (server, mb) in [("pounce", 27), ("uvicorn", 20)] {
            let memory = crate::processes::Memory { worker_pss_kib: mb * 1024, ..Default::default() };
            results.idle.push(Idle {
                workload: "hello".into(),
                workers: 1,
                server: server.into(),
                seconds: 1.0,
                used: crate::processes::Used::default(),
                memory_fresh: Default::default(),
                memory_loaded: memory,
            });
        }
        let (text, _) = section(&results);
        assert!(text.contains("≤ uvicorn's 20.0 + 6 | 27.0 (+7.0) | | **short** |"), "{text}");
        assert!(text.contains("| 0 | 0.00 | | reached |"), "{text}");
    }
}
