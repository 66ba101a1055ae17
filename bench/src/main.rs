//! `cargo run --release -p bench`: measures pounce beside other servers and writes the table. See README.md.

mod affinity;
mod chart;
mod environment;
mod load;
mod measure;
mod processes;
mod report;
mod response;
mod results;
mod servers;
mod targets;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::results::Results;
use crate::servers::Server;
use crate::workload::Workload;

/// Measures pounce beside other servers: server CPU per request, requests per second, latency, memory, idle CPU.
#[derive(Debug, Parser)]
struct Arguments {
    /// hello, echo, sleep, starlette, large, upload, connect, stream [default: all]
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Connections, each with one request under way
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 128])]
    concurrency: Vec<usize>,
    /// bare-hyper, pounce-demo, pounce, granian, uvicorn, hypercorn, gunicorn; and, if asked for, uvicorn-h11,
    /// gunicorn-asgi, baseline-demo, baseline [default: those before the semicolon]
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// How often each server has its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one turn
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// One worker on a core of its own; two workers share both cores with the load
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    workers: Vec<usize>,
    /// With more than one worker, only these workloads [default: those of --workloads]
    #[arg(long, value_delimiter = ',')]
    many_workers_workloads: Vec<String>,
    /// With more than one worker, how often each server has its turn; not more often than --rounds
    #[arg(long, default_value_t = 3)]
    many_workers_rounds: usize,
    /// How long the idle servers are watched, after each workload
    #[arg(long, default_value_t = 1.0)]
    idle_seconds: f64,
    /// Where the table, the picture and the raw data go [default: bench/results in the checkout]
    #[arg(long, default_value_os_t = environment::root().join("bench/results"), hide_default_value = true)]
    out: PathBuf,
    /// Another pounce executable, beside its extension module, for the servers baseline and baseline-demo
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// The interpreter that the baseline was built for [default: the same as everything else's]
    #[arg(long)]
    baseline_python: Option<PathBuf>,
    /// Only write table and picture again, from the raw data in the output directory
    #[arg(long)]
    render: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let raw = arguments.out.join("results.json");
    if arguments.render {
        let results = Results::load(&raw)?;
        return report::write(&results, &arguments.out);
    }
    let workloads =
        chosen(&arguments.workloads, Workload::all(), |workload| workload.name, "workload", |_| true)?;
    let servers = chosen(
        &arguments.servers,
        Server::all(),
        |server| server.name,
        "server",
        |server| server.by_default,
    )?;
    let many_workers = if arguments.many_workers_workloads.is_empty() {
        workloads.clone()
    } else {
        chosen(&arguments.many_workers_workloads, workloads.clone(), |w| w.name, "workload", |_| true)?
    };
    if arguments.rounds == 0
        || arguments.many_workers_rounds == 0
        || arguments.seconds <= 0.0
        || arguments.concurrency.contains(&0)
    {
        return Err("--rounds, --seconds and --concurrency must be more than 0".to_owned());
    }
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&load::INTERRUPTED))
            .map_err(|error| format!("no handler for ctrl-c: {error}"))?;
    }
    let environment = environment::prepare(arguments.baseline.clone(), arguments.baseline_python.clone())?;
    let began = Instant::now();
    let mut results = Results::new(environment::describe(&environment), arguments.rounds, arguments.seconds);
    let plan = measure::Plan {
        environment: &environment,
        servers: &servers,
        concurrency: &arguments.concurrency,
        rounds: arguments.rounds,
        many_workers_rounds: arguments.many_workers_rounds.min(arguments.rounds),
        window: Duration::from_secs_f64(arguments.seconds),
        idle: Duration::from_secs_f64(arguments.idle_seconds),
    };
    for &workers in &arguments.workers {
        for workload in if workers > 1 { &many_workers } else { &workloads } {
            measure::workload(&plan, workload, workers, &mut results)?;
            // Nothing is lost when a later workload fails.
            results.save(&raw)?;
        }
    }
    let took = match began.elapsed().as_secs_f64() {
        short if short < 90.0 => format!("{short:.0} s"),
        long => format!("{:.0} min", long / 60.0),
    };
    results.facts.push(("took".to_owned(), took));
    results.save(&raw)?;
    report::write(&results, &arguments.out)?;
    eprintln!("written to {}", arguments.out.display());
    Ok(())
}

/// The items with these names; without names, those that are there by default.
fn chosen<T>(
    names: &[String],
    all: Vec<T>,
    name: fn(&T) -> &'static str,
    kind: &str,
    by_default: fn(&T) -> bool,
) -> Result<Vec<T>, String> {
    let known: Vec<&str> = all.iter().map(name).collect();
    if let Some(unknown) = names.iter().find(|wanted| !known.contains(&wanted.as_str())) {
        return Err(format!("there is no {kind} {unknown:?}; there are {}", known.join(", ")));
    }
    let wanted =
        |item: &T| if names.is_empty() { by_default(item) } else { names.iter().any(|n| n == name(item)) };
    Ok(all.into_iter().filter(wanted).collect())
}
