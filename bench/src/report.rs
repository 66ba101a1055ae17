//! The table.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::chart;
use crate::results::{Cell, Results, Turn, median};
use crate::servers::Server;
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
    let table = table(results);
    println!("{table}");
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

fn table(results: &Results) -> String {
    let mut out = String::from("# Benchmark\n\nHow to read this: [README.md](../README.md). ");
    let _ = writeln!(
        out,
        "Median of {} interleaved rounds of {} s. {}.\n",
        results.rounds,
        results.seconds,
        results.facts.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("; "),
    );
    for workers in results.distinct(|turn| turn.workers) {
        let (place, note) = match workers {
            1 => ("one worker on a core of its own".to_owned(), ""),
            n => (
                format!("{n} workers"),
                "The load shares the cores with the servers: only CPU per request is comparable.\n\n",
            ),
        };
        let _ =
            writeln!(out, "## {place}\n\n{note}### Server CPU per request, µs (per chunk in the stream)\n");
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
        let _ = writeln!(out, "\n### Context switches per request\n");
        let switches = |turn: &Turn| turn.used.switches as f64 / turn.units.max(1.0);
        figure_table(results, workers, &mut out, |turn| format!("{:.2}", switches(turn)), switches);
        let _ = writeln!(out, "\n### Memory and idle CPU\n");
        idle_table(results, workers, &mut out);
    }
    if !results.tried.is_empty() {
        out.push_str("\n## granian: what was tried\n\nCPU µs per request in a short run; the best at each was taken.\n\n");
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

fn header(out: &mut String, columns: impl IntoIterator<Item = String>) {
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
        if workload == "stream" {
            continue;
        }
        let cell = Cell { workload: &workload, workers, concurrency };
        let mut row = vec![title(&workload), concurrency.to_string()];
        for server in &servers {
            let figures: [fn(&Turn) -> f64; 3] = [|t| t.p50_us, |t| t.p99_us, |t| t.max_us];
            let figures = figures.map(|figure| results.median(cell, server.name, figure));
            row.push(match figures {
                [Some(p50), Some(p99), Some(max)] => {
                    format!("{} / {} / {}", format_ms(p50), format_ms(p99), format_ms(max))
                }
                _ => "-".to_owned(),
            });
        }
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
}

fn idle_table(results: &Results, workers: usize, out: &mut String) {
    header(
        out,
        [
            "",
            "worker PSS after start, MB",
            "worker PSS after load, MB",
            "worker RSS after load, MB",
            "all processes, PSS after load, MB",
            "idle CPU, ms/s",
            "idle context switches/s",
        ]
        .map(str::to_owned),
    );
    let mb = |kib: Option<f64>| kib.map_or("-".to_owned(), |kib| format!("{:.1}", kib / 1024.0));
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
            "| {} | {} | {} | {} | {} | {} | {} |",
            server.name,
            mb(memory(|idle| idle.memory_fresh.worker_pss_kib)),
            mb(memory(|idle| idle.memory_loaded.worker_pss_kib)),
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

fn format_ms(us: f64) -> String {
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

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(format_count(1_234_567.4), "1,234,567");
        assert_eq!(format_count(999.0), "999");
    }
}
