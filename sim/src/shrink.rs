//! Makes a failing scenario smaller, as long as it fails in the same way: fewer faults, clients and requests, a simpler
//! platform, simpler durations, rounder numbers. On the scenario, not on bytes: what is left is a story that a person can
//! read.

use crate::engine;
use crate::scenario::{Client, Dist, PlatformKind, RequestKind, Retry, Scenario};

/// Most runs that one shrinking may take. A run has an end of its own.
const MOST_RUNS: usize = 600;

/// How a run failed, without its figures: two failures of one kind are one failure.
pub fn class(scenario: &Scenario) -> Option<String> {
    let outcome = engine::run(scenario);
    outcome.verdict.problems.first().map(|problem| class_of(problem))
}

/// The kind of a problem.
pub fn class_of(problem: &str) -> String {
    problem.chars().filter(|c| !c.is_ascii_digit()).take(40).collect()
}

/// The smallest scenario found that fails as `scenario` does. Itself, if it does not fail.
pub fn shrink(scenario: &Scenario) -> Scenario {
    let Some(wanted) = class(scenario) else { return scenario.clone() };
    shrink_while(scenario, MOST_RUNS, |candidate| class(candidate).as_ref() == Some(&wanted))
}

/// The smallest scenario found for which `fails` holds, after at most `most_runs` tries.
pub fn shrink_while(
    scenario: &Scenario,
    most_runs: usize,
    mut fails: impl FnMut(&Scenario) -> bool,
) -> Scenario {
    let mut best = scenario.clone();
    let (mut runs, mut at, mut better) = (0, 0, false);
    loop {
        // After a step that held, the next one is the same again, on what is left: its index means the next of its kind.
        let Some(candidate) = candidates(&best).into_iter().nth(at) else {
            if !better {
                return best;
            }
            (at, better) = (0, false);
            continue;
        };
        if candidate == best || candidate.check().is_err() {
            at += 1;
            continue;
        }
        if runs == most_runs {
            return best;
        }
        runs += 1;
        if fails(&candidate) {
            best = candidate;
            better = true;
        } else {
            at += 1;
        }
    }
}

/// Simpler scenarios, the boldest steps first.
fn candidates(scenario: &Scenario) -> Vec<Scenario> {
    let mut found = Vec::new();
    let mut with = |change: &dyn Fn(&mut Scenario)| {
        let mut candidate = scenario.clone();
        change(&mut candidate);
        found.push(candidate);
    };
    let clients = scenario.clients.len();
    with(&|s| s.clients.clear());
    if clients > 1 {
        with(&|s| s.clients.truncate(clients / 2));
        with(&|s| {
            s.clients.drain(..clients / 2);
        });
    }
    if scenario.faults.len() > 1 {
        with(&|s| s.faults.clear());
    }
    for kind in [PlatformKind::Bare, PlatformKind::Systemd] {
        // One server, and nobody who watches it.
        if !matches!(scenario.platform.kind, PlatformKind::Bare | PlatformKind::Systemd) {
            with(&|s| alone(s, kind));
        }
    }
    for pods in [1, scenario.platform.pods - 1] {
        // With fewer pods a deploy is over sooner.
        for sooner_ms in [0, 1000, 2000, 4000] {
            if pods > 0 && pods < scenario.platform.pods {
                with(&|s| {
                    s.platform.pods = pods;
                    s.clients.iter_mut().for_each(|c| c.start_ms = c.start_ms.saturating_sub(sooner_ms));
                });
            }
        }
    }
    with(&|s| {
        s.balancers.truncate(1);
        s.clients.iter_mut().for_each(|client| client.balancer = 0);
    });
    for index in 0..clients {
        with(&|s| {
            s.clients.remove(index);
        });
    }
    for index in 0..scenario.faults.len() {
        with(&|s| {
            s.faults.remove(index);
        });
    }
    with(&|s| s.server.workers = 1);
    with(&|s| s.server.workers = s.server.workers.min(2));
    with(&|s| s.platform.max_surge = 1);
    with(&|s| s.platform.max_unavailable = 0);
    with(&|s| s.platform.min_ready_ms = 0);
    with(&|s| s.platform.pre_stop_ms = 0);
    with(&|s| s.server.drain_delay_ms = 0);
    with(&|s| s.server.max_connections = None);
    with(&|s| s.server.request_timeout_ms = None);
    with(&|s| s.server.startup_timeout_ms = None);
    with(&|s| s.app.shutdown = Dist::ZERO);
    with(&|s| s.app.boot = Dist::Fixed { ms: 100 });
    with(&|s| s.platform.pod_start = Dist::Fixed { ms: 100 });
    with(&|s| s.network.latency = Dist::Fixed { ms: 1 });
    with(&|s| s.network.latency = Dist::Fixed { ms: 10 });
    with(&|s| s.app.duration = simpler(s.app.duration));
    for index in 0..scenario.balancers.len() {
        with(&|s| s.balancers[index].propagation = Dist::Fixed { ms: 1 });
        with(&|s| s.balancers[index].propagation = simpler(s.balancers[index].propagation));
    }
    for index in 0..clients {
        let client = &scenario.clients[index];
        let mut change = |change: &dyn Fn(&mut Client)| with(&|s| change(&mut s.clients[index]));
        change(&|c| c.requests = 1);
        change(&|c| c.requests /= 2);
        change(&|c| c.requests -= 1);
        if client.requests > 1 {
            for later_ms in [3000, 1000, 300, 100] {
                // Whoever starts later gets to the same moment with fewer requests.
                change(&|c| {
                    c.start_ms += later_ms;
                    c.requests = c.requests.div_ceil(2);
                });
                change(&|c| {
                    c.start_ms += later_ms;
                    c.requests -= 1;
                });
            }
        }
        change(&|c| c.request = RequestKind::Get);
        change(&|c| match &mut c.request {
            RequestKind::Pipelined { depth } => *depth = (*depth - 1).max(2),
            RequestKind::Upload { chunks, .. } | RequestKind::Stream { chunks, .. } => {
                *chunks = (*chunks / 2).max(1);
            }
            _ => {}
        });
        change(&|c| c.retry = Retry::Never);
        change(&|c| c.keep_alive = false);
        change(&|c| c.think = Dist::ZERO);
        change(&|c| c.think = simpler(c.think));
        if !client.start_ms.is_multiple_of(100) {
            change(&|c| c.start_ms -= c.start_ms % 100);
        }
    }
    for index in 0..scenario.faults.len() {
        with(&|s| s.faults[index].at_ms -= s.faults[index].at_ms % 100);
    }
    let round = |ms: u64| ms - ms % 100;
    with(&|s| s.platform.deploy_at_ms = round(s.platform.deploy_at_ms));
    with(&|s| s.server.shutdown_timeout_ms = round(s.server.shutdown_timeout_ms).max(100));
    with(&|s| s.server.drain_delay_ms = round(s.server.drain_delay_ms));
    with(&|s| s.platform.pre_stop_ms = round(s.platform.pre_stop_ms));
    with(&|s| s.platform.grace_ms = round(s.platform.grace_ms));
    // Whoever sends no request is no client.
    found.retain(|s| s.clients.iter().all(|client| client.requests > 0));
    found
}

/// The same server on a platform that has only one.
fn alone(scenario: &mut Scenario, kind: PlatformKind) {
    let platform = &mut scenario.platform;
    platform.kind = kind;
    platform.pods = 1;
    platform.max_surge = 0;
    platform.max_unavailable = 0;
    platform.pre_stop_ms = 0;
}

fn simpler(dist: Dist) -> Dist {
    match dist {
        Dist::Fixed { ms } => Dist::Fixed { ms: if ms > 10 { ms - ms % 10 } else { ms } },
        other => Dist::Fixed { ms: other.max_ms() },
    }
}
