//! The rounds: every server of a run is up at the same time, and they take turns (A/B/A/B), so that a noisy minute hits
//! all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::affinity::{self, Cores};
use crate::environment::Environment;
use crate::load::{Edge, INTERRUPTED, Load, Outcome};
use crate::processes::{self, Memory, Usage, Used};
use crate::results::{Failure, Idle, Results, Tried, Turn};
use crate::servers::{Granian, Program, Running, Server};
use crate::workload::Workload;

/// Until when a server must be idle again after it was loaded.
const SETTLE: Duration = Duration::from_secs(10);

/// How many short turns a candidate has at each concurrency.
const TRIES: usize = 3;

/// What is measured how often.
#[derive(Debug)]
pub struct Plan<'a> {
    pub environment: &'a Environment,
    pub servers: &'a [Server],
    pub concurrency: &'a [usize],
    pub rounds: usize,
    /// As `rounds`, with more than one worker.
    pub many_workers_rounds: usize,
    pub window: Duration,
    pub idle: Duration,
}

/// A server in the ring, and for which concurrencies it is there.
struct Contender {
    running: Running,
    settings: Option<String>,
    concurrency: Vec<usize>,
    memory_fresh: Memory,
}

/// Measures one workload.
///
/// # Errors
/// An interrupt, or a pounce or bare hyper that gives a wrong answer. Another server that fails is noted in the results.
pub fn workload(
    plan: &Plan,
    workload: &Workload,
    workers: usize,
    results: &mut Results,
) -> Result<(), String> {
    affinity::pin(&Cores::for_workers(workers).load);
    let began = Instant::now();
    let servers = choose(plan, workload, workers, results)?;
    let chosen = began.elapsed();
    let mut contenders = start(plan, workload, workers, servers, results)?;
    let started = began.elapsed();
    let rounds = if workers > 1 { plan.many_workers_rounds } else { plan.rounds };
    for &concurrency in plan.concurrency {
        for round in 0..rounds {
            let mut order: Vec<usize> =
                (0..contenders.len()).filter(|i| contenders[*i].concurrency.contains(&concurrency)).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            let mut failed = Vec::new();
            for index in order {
                let contender = &contenders[index];
                match turn(plan, contender, workload, workers, concurrency, round) {
                    Ok(turn) => results.turns.push(turn),
                    Err(message) => {
                        note(results, &contender.running.server, workload, workers, message)?;
                        failed.push(index);
                    }
                }
                settle(&contenders);
            }
            failed.sort_unstable();
            for index in failed.into_iter().rev() {
                drop(contenders.remove(index));
            }
        }
        progress(plan, results, workload, workers, concurrency);
    }
    let loaded = began.elapsed();
    watch_idle(plan, &contenders, workload, workers, results);
    let watched = began.elapsed();
    contenders.iter_mut().for_each(|contender| contender.running.ask_to_leave());
    drop(contenders);
    eprintln!(
        "{}, {workers} worker(s): {:.0} s, of which settings {:.0}, start {:.0}, load {:.0}, idle {:.0}, stop {:.0}",
        workload.name,
        began.elapsed().as_secs_f64(),
        chosen.as_secs_f64(),
        (started - chosen).as_secs_f64(),
        (loaded - started).as_secs_f64(),
        (watched - loaded).as_secs_f64(),
        (began.elapsed() - watched).as_secs_f64(),
    );
    Ok(())
}

/// A competitor's failure is a result; one of ours ends the run.
fn note(
    results: &mut Results,
    server: &Server,
    workload: &Workload,
    workers: usize,
    message: String,
) -> Result<(), String> {
    let message = format!("{} at {}: {message}", server.name, workload.name);
    if !server.is_competitor() || INTERRUPTED.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(message);
    }
    eprintln!("{message}");
    results.failures.push(Failure {
        workload: workload.name.to_owned(),
        workers,
        server: server.name.to_owned(),
        message,
    });
    Ok(())
}

/// A server with its settings, and the concurrencies at which it takes part with them.
type Chosen = (Server, Option<String>, Vec<usize>);

/// The servers that have this workload, with the best settings for each concurrency where there is a choice.
fn choose(
    plan: &Plan,
    workload: &Workload,
    workers: usize,
    results: &mut Results,
) -> Result<Vec<Chosen>, String> {
    let mut chosen = Vec::new();
    for server in plan.servers.iter().filter(|server| server.path(workload).is_some()) {
        match server.program {
            Program::Granian(_) => chosen.extend(best_granian(plan, server, workload, workers, results)?),
            _ => chosen.push((server.clone(), None, plan.concurrency.to_vec())),
        }
    }
    Ok(chosen)
}

fn start(
    plan: &Plan,
    workload: &Workload,
    workers: usize,
    chosen: Vec<Chosen>,
    results: &mut Results,
) -> Result<Vec<Contender>, String> {
    let mut contenders = Vec::new();
    for (server, settings, concurrency) in chosen {
        match server.start(plan.environment, workload, workers) {
            Ok(running) => {
                let memory_fresh = Memory::default();
                contenders.push(Contender { running, settings, concurrency, memory_fresh });
            }
            Err(message) => note(results, &server, workload, workers, message)?,
        }
    }
    // When all are there: the pages that they share, of one interpreter, are divided among the same number for each.
    for contender in &mut contenders {
        contender.memory_fresh = Memory::of(contender.running.pid());
    }
    Ok(contenders)
}

/// The settings of granian among which the best is looked for, each with the concurrencies at which it is tried: all
/// of them, or with several workers the two that were best with one.
fn candidates(
    workload: &Workload,
    workers: usize,
    concurrency: &[usize],
    tried: &[Tried],
) -> BTreeMap<Granian, Vec<usize>> {
    let mut candidates: BTreeMap<Granian, Vec<usize>> = BTreeMap::new();
    for &concurrency in concurrency {
        let mut settings = Granian::candidates();
        let figure = |settings: Granian| {
            let tried = tried.iter().find(|tried| {
                (tried.workers, tried.workload.as_str(), tried.concurrency) == (1, workload.name, concurrency)
                    && tried.settings == settings.title()
            });
            tried.map(|tried| tried.cpu_us_per_unit)
        };
        if workers > 1 && settings.iter().any(|settings| figure(*settings).is_some()) {
            let figure = |settings: &Granian| figure(*settings).unwrap_or(f64::INFINITY);
            settings.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
            settings.truncate(2);
        }
        settings.into_iter().for_each(|settings| candidates.entry(settings).or_default().push(concurrency));
    }
    candidates
}

/// Lets the candidates take a few short turns each, and returns the one that used the least CPU at each concurrency.
fn best_granian(
    plan: &Plan,
    server: &Server,
    workload: &Workload,
    workers: usize,
    results: &mut Results,
) -> Result<Vec<Chosen>, String> {
    let window = plan.window.min(Duration::from_millis(500)) / 4;
    let mut contenders = Vec::new();
    for (settings, concurrency) in candidates(workload, workers, plan.concurrency, &results.tried) {
        let server = Server { program: Program::Granian(settings), ..server.clone() };
        match server.start(plan.environment, workload, workers) {
            Ok(running) => {
                let memory_fresh = Memory::default();
                let title = Some(settings.title());
                contenders
                    .push((settings, Contender { running, settings: title, concurrency, memory_fresh }));
            }
            Err(message) => {
                note(results, &server, workload, workers, format!("{}: {message}", settings.title()))?;
            }
        }
    }
    let (settings, mut contenders): (Vec<Granian>, Vec<Contender>) = contenders.into_iter().unzip();
    // Of each that takes part, in the order of the settings.
    let mut cpu: BTreeMap<usize, BTreeMap<Granian, Vec<f64>>> = BTreeMap::new();
    for &concurrency in plan.concurrency {
        for _ in 0..TRIES {
            for (settings, contender) in settings.iter().zip(&contenders) {
                if !contender.concurrency.contains(&concurrency) {
                    continue;
                }
                match load(&contender.running, workload, concurrency, window) {
                    Ok((outcome, used)) => {
                        let figures = cpu.entry(concurrency).or_default().entry(*settings).or_default();
                        figures.push(used.cpu_us / outcome.units.max(1.0));
                    }
                    Err(message) => {
                        let message = format!("{}: {message}", settings.title());
                        note(results, &contender.running.server, workload, workers, message)?;
                    }
                }
                settle(&contenders);
            }
        }
    }
    contenders.iter_mut().for_each(|contender| contender.running.ask_to_leave());
    drop(contenders);
    let mut chosen: BTreeMap<Granian, Vec<usize>> = BTreeMap::new();
    for (concurrency, figures) in cpu {
        // A wrong answer disqualifies.
        let figures = figures.into_iter().filter(|(_, figures)| figures.len() == TRIES);
        let figures: Vec<(f64, Granian)> = figures
            .filter_map(|(settings, figures)| Some((crate::results::median(figures)?, settings)))
            .collect();
        let best = figures.iter().min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, settings)| *settings);
        for (figure, settings) in &figures {
            results.tried.push(Tried {
                workload: workload.name.to_owned(),
                workers,
                concurrency,
                settings: settings.title(),
                cpu_us_per_unit: *figure,
                chosen: Some(*settings) == best,
            });
        }
        if let Some(best) = best {
            chosen.entry(best).or_default().push(concurrency);
        }
    }
    Ok(chosen
        .into_iter()
        .map(|(settings, concurrency)| {
            let server = Server { program: Program::Granian(settings), ..server.clone() };
            (server, Some(settings.title()), concurrency)
        })
        .collect())
}

fn load(
    running: &Running,
    workload: &Workload,
    connections: usize,
    window: Duration,
) -> Result<(Outcome, Used), String> {
    let path = running.server.path(workload).unwrap_or("/");
    let load = Load {
        port: running.port,
        request: workload.request(path),
        response_bytes: workload.response_bytes,
        units_per_response: workload.units_per_response,
        reconnect: workload.reconnect,
        connections,
    };
    let family = processes::tree(running.pid());
    let mut before = Usage::default();
    let mut after = Usage::default();
    let warm_up = (window / 5).max(Duration::from_millis(50));
    let outcome = load
        .run(warm_up, window, |edge| match edge {
            Edge::Begin => before = Usage::of(&family),
            Edge::End => after = Usage::of(&family),
        })
        .map_err(|error| error.to_string())?;
    if processes::tree(running.pid()) != family {
        return Err("its processes changed while it was loaded".to_owned());
    }
    Ok((outcome, after.since(&before)))
}

fn turn(
    plan: &Plan,
    contender: &Contender,
    workload: &Workload,
    workers: usize,
    concurrency: usize,
    round: usize,
) -> Result<Turn, String> {
    let (outcome, used) = load(&contender.running, workload, concurrency, plan.window)?;
    let us = |ns: u64| ns as f64 / 1e3;
    Ok(Turn {
        workload: workload.name.to_owned(),
        workers,
        concurrency,
        server: contender.running.server.name.to_owned(),
        settings: contender.settings.clone(),
        round,
        units: outcome.units,
        seconds: outcome.elapsed.as_secs_f64(),
        used,
        p50_us: us(outcome.latency.value_at_quantile(0.5)),
        p99_us: us(outcome.latency.value_at_quantile(0.99)),
        max_us: us(outcome.latency.max()),
    })
}

/// Waits until no server has anything left to do of what it was asked.
fn settle(contenders: &[Contender]) {
    let families = processes::trees(contenders.iter().map(|contender| contender.running.pid()));
    let usage = || families.iter().map(Usage::of).collect::<Vec<_>>();
    let deadline = Instant::now() + SETTLE;
    let mut before = usage();
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(15));
        let after = usage();
        let cpu_us: f64 = after.iter().zip(&before).map(|(after, before)| after.since(before).cpu_us).sum();
        if cpu_us < 2_000.0 {
            return;
        }
        before = after;
    }
}

/// All of them at the same time: what has nothing to do does not disturb.
fn watch_idle(
    plan: &Plan,
    contenders: &[Contender],
    workload: &Workload,
    workers: usize,
    results: &mut Results,
) {
    std::thread::sleep(Duration::from_millis(200));
    let families = processes::trees(contenders.iter().map(|contender| contender.running.pid()));
    let usage = || families.iter().map(Usage::of).collect::<Vec<_>>();
    let (began, before) = (Instant::now(), usage());
    std::thread::sleep(plan.idle);
    let seconds = began.elapsed().as_secs_f64();
    for ((contender, after), before) in contenders.iter().zip(usage()).zip(&before) {
        results.idle.push(Idle {
            workload: workload.name.to_owned(),
            workers,
            server: contender.running.server.name.to_owned(),
            seconds,
            used: after.since(before),
            memory_fresh: contender.memory_fresh,
            memory_loaded: Memory::of(contender.running.pid()),
        });
    }
}

fn progress(plan: &Plan, results: &Results, workload: &Workload, workers: usize, concurrency: usize) {
    let cell = crate::results::Cell { workload: workload.name, workers, concurrency };
    let figures: Vec<String> = plan
        .servers
        .iter()
        .filter_map(|server| {
            let cpu = results.median(cell, server.name, Turn::cpu_us_per_unit)?;
            let rate = results.median(cell, server.name, Turn::units_per_second)?;
            let p99 = results.median(cell, server.name, |turn| turn.p99_us)?;
            Some(format!("{} {cpu:.1} µs ({rate:.0}/s, p99 {p99:.0} µs)", server.name))
        })
        .collect();
    eprintln!("{} × {concurrency}, {workers} worker(s): {}", workload.name, figures.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(settings: Granian, concurrency: usize, cpu_us_per_unit: f64) -> Tried {
        let settings = settings.title();
        Tried { workload: "hello".into(), workers: 1, concurrency, settings, cpu_us_per_unit, chosen: false }
    }

    #[test]
    fn with_two_workers_the_two_settings_are_tried_that_were_best_with_one() {
        let hello = Workload::all().remove(0);
        let all = Granian::candidates();
        let mut seen = Vec::new();
        for (i, settings) in all.iter().enumerate() {
            seen.push(tried(*settings, 1, i as f64));
            seen.push(tried(*settings, 16, 10.0 - i as f64));
        }
        let chosen = candidates(&hello, 2, &[1, 16], &seen);
        let expected = [(all[0], vec![1]), (all[1], vec![1]), (all[6], vec![16]), (all[7], vec![16])];
        assert_eq!(chosen, BTreeMap::from(expected));
    }

    #[test]
    fn without_a_run_with_one_worker_all_settings_are_tried() {
        let hello = Workload::all().remove(0);
        let chosen = candidates(&hello, 2, &[1, 16], &[]);
        assert_eq!(chosen.len(), Granian::candidates().len());
        assert!(chosen.values().all(|concurrency| concurrency == &[1, 16]));
    }
}
