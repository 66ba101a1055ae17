//! The table.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::chart;
use crate::results::{Cell, Results, Spread, Turn, median};
use crate::servers::Server;
use crate::targets;
use crate::workload::Workload;

/// Writes `table.md` and `cpu.svg` into `dir`.
///
/// # Errors
/// A file cannot be written.
pub fn write(results: &Results, dir: &Path) -> Result<(), String> {
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    let (targets, summary) = targets::section(results);
    let table = table(results, &targets);
    println!("{table}\nTargets: {summary}");
    write("table.md", table)?;
    write("cpu.svg", chart::draw(results))
}

/// The name of a workload as in the table.
pub fn title(workload: &str) -> String {
    let all = Workload::all();
    let found = all.iter().find(|w| w.name == workload);
    found.map_or_else(|| workload.to_owned(), |w| w.title.to_owned())
}

/// The servers of a run, in the order of [`Server::all`].
pub fn servers(results: &Results, workers: usize) -> Vec<Server> {
    let measured = results.distinct(|turn| (turn.workers, turn.server.clone()));
    Server::all()
        .into_iter()
        .filter(|server| measured.iter().any(|(w, name)| *w == workers && name == server.name))
        .collect()
}

/// All cells of a run, in the order in which they were measured.
pub fn cells(results: &Results, workers: usize) -> Vec<(String, usize)> {
    let all = results.distinct(|turn| (turn.workers, turn.workload.clone(), turn.concurrency));
    all.into_iter()
        .filter(|cell| cell.0 == workers)
        .map(|(_, workload, concurrency)| (workload, concurrency))
        .collect()
}

/// Facts that stand in a sentence of their own.
const MADE: [&str; 2] = ["command", "took"];

fn table(results: &Results, targets: &str) -> String {
    let mut out = String::from("# Benchmark\n\nHow to read this: [README.md](../README.md). ");
    let made = MADE.map(|made| results.facts.iter().find(|(name, _)| name == made));
    let _ = writeln!(
        out,
        "{} Median of {} interleaved rounds of {} s. {}.\n",
        match made {
            [Some((_, command)), Some((_, took))] => format!("Made in {took} by {command}."),
            [Some((_, command)), None] => format!("Made by {command}, which has not come to its end."),
            _ => "The command was not recorded.".to_owned(),
        },
        results.rounds,
        results.seconds,
        results
            .facts
            .iter()
            .filter(|(name, _)| !MADE.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {value}"))
            .collect::<Vec<_>>()
            .join("; "),
    );
    out.push_str(targets);
    for workers in results.distinct(|turn| turn.workers) {
        let (place, note) = match workers {
            1 => ("one worker on a core of its own".to_owned(), String::new()),
            n => (
                format!("{n} workers"),
                format!(
                    "Median of {} rounds. The load shares the cores with the servers: only CPU per request is comparable.\n\n",
                    results.rounds_with(workers)
                ),
            ),
        };
        let _ =
            writeln!(out, "\n## {place}\n\n{note}### Server CPU per request, µs (per chunk in the stream)\n");
        cpu_table(results, workers, &mut out);
        let _ = writeln!(out, "\n### Requests (or chunks) per second\n");
        figure_table(
            results,
            workers,
            &mut out,
            |turn| format_count(turn.units_per_second()),
            Turn::units_per_second,
        );
        let _ = writeln!(out, "\n### Latency, p50 / p99 / max in ms\n");
        latency_table(results, workers, &mut out);
        out.push_str(
            "\nThe stream's is the time of a whole response of 2,000 chunks. \"≥\": requests were under way for the whole turn. \
             \"-\" where others have a figure: there was no request that both began and ended inside of a turn.\n",
        );
        let _ = writeln!(out, "\n### Context switches per request\n");
        let switches = |turn: &Turn| turn.used.switches as f64 / turn.units.max(1.0);
        figure_table(results, workers, &mut out, |turn| format!("{:.2}", switches(turn)), switches);
        standby_table(results, workers, &mut out);
        let _ = writeln!(out, "\n### Memory and idle CPU\n");
        idle_table(results, workers, &mut out);
    }
    if !results.tried.is_empty() {
        out.push_str(
            "\n## granian: what was tried\n\nCPU µs per request in a short run; the best at each was taken. With several \
             workers, the two that were best with one.\n\n",
        );
        tried_table(results, &mut out);
    }
    if !results.failures.is_empty() {
        out.push_str("\n## Not measured\n\n");
        for failure in &results.failures {
            let _ = writeln!(out, "- {} worker(s), {}", failure.workers, failure.message.replace('\n', " "));
        }
    }
    out
}

/// The first line of a table, and the one below it.
pub fn header(out: &mut String, columns: impl IntoIterator<Item = String>) {
    let columns: Vec<String> = columns.into_iter().collect();
    let _ = writeln!(out, "| {} |", columns.join(" | "));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(columns.len() - 1));
}

fn cpu_table(results: &Results, workers: usize, out: &mut String) {
    let servers = servers(results, workers);
    let ours: Vec<&Server> =
        servers.iter().filter(|server| !server.is_competitor() && server.name != "bare-hyper").collect();
    let mut columns = vec!["".to_owned(), "connections".to_owned()];
    columns.extend(servers.iter().map(|server| server.name.to_owned()));
    columns.extend(ours.iter().map(|server| format!("{} ÷ bare-hyper", server.name)));
    let pairs = [("baseline", "pounce"), ("baseline-demo", "pounce-demo")];
    let there = |name: &str| servers.iter().any(|server| server.name == name);
    let pairs: Vec<_> = pairs.into_iter().filter(|(a, b)| there(a) && there(b)).collect();
    columns.extend(pairs.iter().map(|(a, b)| format!("{a} ÷ {b}")));
    columns
        .extend(["pounce ÷ granian", "pounce ÷ uvicorn", "pounce ÷ best of the others"].map(str::to_owned));
    header(out, columns);
    for (workload, concurrency) in cells(results, workers) {
        let cell = Cell { workload: &workload, workers, concurrency };
        let mut row = vec![title(&workload), concurrency.to_string()];
        for server in &servers {
            let cpu = results.median(cell, server.name, Turn::cpu_us_per_unit);
            let settings = results.settings(cell, server.name).map_or(String::new(), |s| format!(" ({s})"));
            row.push(cpu.map_or("-".to_owned(), |cpu| format!("{}{settings}", format_us(cpu))));
        }
        let ratio = |a: &str, b: &str| {
            results
                .ratio(cell, a, b, Turn::cpu_us_per_unit)
                .map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        row.extend(ours.iter().map(|server| ratio(server.name, "bare-hyper")));
        row.extend(pairs.iter().map(|(a, b)| ratio(a, b)));
        row.push(ratio("pounce", "granian"));
        row.push(ratio("pounce", "uvicorn"));
        let best = servers
            .iter()
            .filter(|server| server.is_competitor())
            .filter_map(|server| {
                Some((server.name, results.median(cell, server.name, Turn::cpu_us_per_unit)?))
            })
            .min_by(|a, b| a.1.total_cmp(&b.1));
        row.push(best.map_or("-".to_owned(), |(name, _)| format!("{} ({name})", ratio("pounce", name))));
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
}

fn figure_table(
    results: &Results,
    workers: usize,
    out: &mut String,
    show: impl Fn(&Turn) -> String,
    figure: impl Fn(&Turn) -> f64 + Copy,
) {
    let servers = servers(results, workers);
    header(
        out,
        ["".to_owned(), "connections".to_owned()]
            .into_iter()
            .chain(servers.iter().map(|s| s.name.to_owned())),
    );
    for (workload, concurrency) in cells(results, workers) {
        let cell = Cell { workload: &workload, workers, concurrency };
        let mut row = vec![title(&workload), concurrency.to_string()];
        for server in &servers {
            let middle = results.median(cell, server.name, figure);
            // Shown as the turn that is nearest to the median, so that there is one way to write a figure.
            let nearest = middle.and_then(|middle| {
                results
                    .turns
                    .iter()
                    .filter(|t| {
                        t.server == server.name
                            && t.workload == workload
                            && t.workers == workers
                            && t.concurrency == concurrency
                    })
                    .min_by(|a, b| (figure(a) - middle).abs().total_cmp(&(figure(b) - middle).abs()))
            });
            row.push(nearest.map_or("-".to_owned(), &show));
        }
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
}

fn latency_table(results: &Results, workers: usize, out: &mut String) {
    let servers = servers(results, workers);
    header(
        out,
        ["".to_owned(), "connections".to_owned()]
            .into_iter()
            .chain(servers.iter().map(|s| s.name.to_owned())),
    );
    for (workload, concurrency) in cells(results, workers) {
        let cell = Cell { workload: &workload, workers, concurrency };
        let mut row = vec![title(&workload), concurrency.to_string()];
        // A latency as long as the turn was cut off by its end, but for what the histogram rounds.
        let cut_off = results.seconds * 1e6 * 0.998;
        let show = |us: f64| if us < cut_off { format_ms(us) } else { format!("≥ {}", format_ms(us)) };
        for server in &servers {
            let figures: [fn(&Turn) -> f64; 3] = [|t| t.p50_us, |t| t.p99_us, |t| t.max_us];
            let seen = || results.turns(cell, server.name).filter(|turn| turn.has_latency());
            let figures = figures.map(|figure| median(seen().map(figure).collect()));
            row.push(match figures {
                [Some(p50), Some(p99), Some(max)] => {
                    format!("{} / {} / {}", show(p50), show(p99), show(max))
                }
                _ => "-".to_owned(),
            });
        }
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
}

/// What the thread costs that stands by for the case that Python does not come back, where it never has to.
fn standby_table(results: &Results, workers: usize, out: &mut String) {
    let hello: Vec<_> = cells(results, workers).into_iter().filter(|(name, _)| name == "hello").collect();
    let ours = results.turns.iter().any(|turn| turn.workers == workers && turn.server == "pounce");
    if hello.is_empty() || !ours {
        return;
    }
    out.push_str("\n### Standby thread of pounce's worker, hello\n\n");
    if results.turns.iter().all(|turn| turn.used.standby.is_none()) {
        out.push_str("The raw data is without it: it was not measured yet.\n");
        return;
    }
    let columns =
        ["connections", "CPU of the thread, µs per request", "share of the worker's CPU, %", "rounds, %"];
    header(out, columns.map(str::to_owned));
    for (workload, concurrency) in hello {
        let cell = Cell { workload: &workload, workers, concurrency };
        let seen = || results.turns(cell, "pounce").filter_map(|turn| Some((turn, turn.used.standby?)));
        let us = median(seen().map(|(turn, standby)| standby.thread_us / turn.units.max(1.0)).collect());
        let share = seen().map(|(_, standby)| 100.0 * standby.thread_us / standby.worker_us.max(1.0));
        let (Some(us), Some(share)) = (us, Spread::of(share.collect())) else { continue };
        let Spread { low, middle, high } = share;
        let _ = writeln!(out, "| {concurrency} | {us:.4} | {middle:.3} | {low:.3}–{high:.3} |");
    }
}

fn idle_table(results: &Results, workers: usize, out: &mut String) {
    header(
        out,
        [
            "",
            "worker PSS after start, MB",
            "worker USS after start, MB",
            "worker RSS after start, MB",
            "worker PSS after load, MB",
            "worker USS after load, MB",
            "worker RSS after load, MB",
            "all processes, PSS after load, MB",
            "idle CPU, ms/s",
            "idle context switches/s",
        ]
        .map(str::to_owned),
    );
    // 0 is what older raw data was read as.
    let mb = |kib: Option<f64>| match kib {
        Some(kib) if kib > 0.0 => format!("{:.1}", kib / 1024.0),
        _ => "-".to_owned(),
    };
    for server in servers(results, workers) {
        let idle: Vec<_> = results
            .idle
            .iter()
            .filter(|idle| idle.workers == workers && idle.server == server.name)
            .collect();
        // The simplest application says most about the server.
        let first = idle.first().map(|idle| idle.workload.clone());
        let first: Vec<_> = idle.iter().filter(|idle| Some(&idle.workload) == first.as_ref()).collect();
        let memory = |figure: fn(&crate::results::Idle) -> u64| {
            median(first.iter().map(|idle| figure(idle) as f64).collect())
        };
        let cpu = median(idle.iter().map(|idle| idle.used.cpu_us / 1e3 / idle.seconds).collect());
        let switches = median(idle.iter().map(|idle| idle.used.switches as f64 / idle.seconds).collect());
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            server.name,
            mb(memory(|idle| idle.memory_fresh.worker_pss_kib)),
            mb(memory(|idle| idle.memory_fresh.worker_uss_kib)),
            mb(memory(|idle| idle.memory_fresh.worker_rss_kib)),
            mb(memory(|idle| idle.memory_loaded.worker_pss_kib)),
            mb(memory(|idle| idle.memory_loaded.worker_uss_kib)),
            mb(memory(|idle| idle.memory_loaded.worker_rss_kib)),
            mb(memory(|idle| idle.memory_loaded.total_pss_kib)),
            cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.2}")),
            switches.map_or("-".to_owned(), |switches| format!("{switches:.1}")),
        );
    }
}

fn tried_table(results: &Results, out: &mut String) {
    let mut settings: Vec<&str> = Vec::new();
    let mut cells: Vec<(usize, &str, usize)> = Vec::new();
    for tried in &results.tried {
        if !settings.contains(&tried.settings.as_str()) {
            settings.push(&tried.settings);
        }
        let cell = (tried.workers, tried.workload.as_str(), tried.concurrency);
        if !cells.contains(&cell) {
            cells.push(cell);
        }
    }
    let columns = ["", "workers", "connections"].into_iter().chain(settings.iter().copied());
    header(out, columns.map(str::to_owned));
    for (workers, workload, concurrency) in cells {
        let mut row = vec![title(workload), workers.to_string(), concurrency.to_string()];
        for name in &settings {
            let tried = results.tried.iter().find(|tried| {
                (tried.workers, tried.workload.as_str(), tried.concurrency, tried.settings.as_str())
                    == (workers, workload, concurrency, name)
            });
            row.push(tried.map_or("-".to_owned(), |tried| {
                let figure = format_us(tried.cpu_us_per_unit);
                if tried.chosen { format!("**{figure}**") } else { figure }
            }));
        }
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
}

/// Microseconds with as many digits as mean something.
pub fn format_us(us: f64) -> String {
    match us {
        us if us < 1.0 => format!("{us:.2}"),
        us if us < 100.0 => format!("{us:.1}"),
        us => format!("{us:.0}"),
    }
}

/// Milliseconds of microseconds, with as many digits as mean something.
pub fn format_ms(us: f64) -> String {
    let ms = us / 1e3;
    match ms {
        ms if ms < 1.0 => format!("{ms:.3}"),
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms => format!("{ms:.1}"),
    }
}

/// 12,345
fn format_count(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::Standby;
    use crate::results::tests::turn;

    fn latencies(of: &[(&str, f64)]) -> Results {
        let mut results = Results::new(Vec::new(), 1, 0.5);
        for (server, us) in of {
            let all = Turn { p50_us: *us, p99_us: *us, max_us: *us, ..turn(server, 0, 1.0) };
            results.turns.push(all);
        }
        results
    }

    #[test]
    fn a_latency_that_was_not_seen_is_not_zero() {
        let table = table(&latencies(&[("pounce", 2500.0), ("hypercorn", 0.0)]), "");
        assert!(table.contains("| hello | 16 | 2.50 / 2.50 / 2.50 | - |"), "{table}");
    }

    #[test]
    fn a_latency_that_the_turn_cut_off_is_a_lower_bound() {
        let table = table(&latencies(&[("hypercorn", 500_100.0)]), "");
        assert!(table.contains("| hello | 16 | ≥ 500.1 / ≥ 500.1 / ≥ 500.1 |"), "{table}");
    }

    #[test]
    fn the_standby_thread_has_its_share_of_the_worker() {
        let mut results = latencies(&[("pounce", 1.0)]);
        assert!(table(&results, "").contains("it was not measured yet"));
        results.turns[0].units = 10.0;
        results.turns[0].used.standby = Some(Standby { thread_us: 1.0, worker_us: 200.0 });
        let table = table(&results, "");
        assert!(table.contains("| 16 | 0.1000 | 0.500 | 0.500–0.500 |"), "{table}");
    }

    #[test]
    fn the_table_says_which_command_made_it() {
        let facts = |facts: &[(&str, &str)]| {
            let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            table(&Results::new(facts.collect(), 5, 0.5), "")
        };
        assert!(facts(&[("command", "`bench`"), ("took", "3 min")]).contains("Made in 3 min by `bench`."));
        assert!(facts(&[("cpu", "x")]).contains("The command was not recorded."));
    }

    #[test]
    fn another_build_is_compared_with_this_one() {
        let mut results = latencies(&[("pounce", 1.0), ("baseline", 1.0)]);
        results.turns[1].used.cpu_us = 1.1;
        let table = table(&results, "");
        assert!(table.contains("| baseline ÷ pounce |") && table.contains("| 1.10 |"), "{table}");
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(format_count(1_234_567.4), "1,234,567");
        assert_eq!(format_count(999.0), "999");
    }
}
