//! From facts to a plan, and from many runs of a plan to numbers.

use std::time::Duration;

use pounce_core::Policy;
use pounce_core::policy::{PolicyError, PolicySettings};

use super::facts::{Facts, Firmness, Platform, Value};
use crate::pure::plan::{BalancerPlan, ClientPlan, Layer, Plan, Probe, Retry, Span, Strategy};
use crate::pure::{self, Cause, Causes};

/// What is taken where nobody said anything. Pessimistic, and printed.
pub fn assume(facts: &mut Facts) {
    let time = |ms: u64| Value::Time(Duration::from_millis(ms));
    let mut assume = |name, value, why: &str| {
        facts.otherwise(name, value, &format!("assumed: {why}"), Firmness::Assumed);
    };
    assume("balancer_idle", time(60_000), "60 s is usual (nginx, ALB)");
    assume("balancers", Value::Count(2), "two that hear of changes at different times");
    assume("retry", Value::Word("nothing"), "the worst case");
    assume("clients", Value::Count(8), "changes how often chance strikes, not what can happen");
    assume("think", time(1000), "changes how often chance strikes, not what can happen");
    assume("latency", time(2), "one data centre");
    assume("process_start", time(300), "a container's process takes a moment to listen");
    assume("boot", time(3000), "the import of an application");
    assume("schedule", time(3000), "the image is on the node");
    let typical = Value::Time(facts.time("request_duration") / 10);
    facts.otherwise("typical_request", typical, "assumed: a tenth of the longest", Firmness::Assumed);
    for (name, value) in [
        ("max_surge", Value::Count(0)),
        ("max_unavailable", Value::Count(0)),
        ("min_ready", time(0)),
        ("readiness_period", time(1000)),
        ("readiness_delay", time(0)),
        ("readiness_successes", Value::Count(1)),
        ("propagation", time(0)),
    ] {
        facts.otherwise(name, value, "does not matter here", Firmness::Default);
    }
}

/// The plan that the facts describe.
///
/// # Errors
/// A duration that pounce would refuse.
pub fn plan(facts: &Facts) -> Result<Plan, PolicyError> {
    let seconds = |name| facts.time(name).as_secs_f64();
    let request_timeout = Some(seconds("request_timeout")).filter(|limit| *limit > 0.0);
    let policy = Policy::new(PolicySettings {
        shutdown_timeout: seconds("shutdown_timeout"),
        drain_delay: seconds("drain_delay"),
        keepalive_linger: seconds("keepalive_linger"),
        keep_alive_timeout: seconds("keep_alive_timeout"),
        request_timeout,
        max_connections: Some(facts.count("max_connections")).filter(|limit| *limit > 0),
        ..PolicySettings::default()
    })?;
    let retry = match facts.word("retry") {
        "connect" => Retry::Connect,
        "stale" => Retry::Stale,
        "unavailable" => Retry::Unavailable,
        _ => Retry::Nothing,
    };
    let (longest, think, latency) =
        (facts.time("request_duration"), facts.time("think"), facts.time("latency"));
    let at_most = |name| {
        let most: Duration = facts.time(name);
        Span::Between(most / 10, most)
    };
    let l4 = facts.word("balancer") == "l4";
    let balancers = facts.count("balancers").max(1);
    let clients = facts.count("clients").max(1);
    let boot = facts.time("boot");
    // Whoever keeps their own connection may leave it idle as long as they keep it.
    let idle = facts.time("balancer_idle");
    let client = ClientPlan {
        start: boot + Duration::from_secs(1),
        think: Span::Exponential(think, (think * 10).max(if l4 { idle } else { Duration::ZERO })),
        keep: idle,
        retry,
        takes: Span::Exponential(facts.time("typical_request"), longest),
        not_idempotent: 0.3,
        ..ClientPlan::default()
    };
    // Now and then one takes as long as they ever do: that is what a deadline is for.
    let long =
        ClientPlan { takes: Span::Either(facts.time("typical_request"), longest, 0.5), ..client.clone() };
    let pre_stop = facts.time("pre_stop");
    // Only Kubernetes counts what comes before the signal.
    let kubernetes = facts.platform == Platform::Kubernetes;
    let grace = facts.time("grace") + if kubernetes { Duration::ZERO } else { pre_stop };
    Ok(Plan {
        policy,
        workers: facts.count("workers").max(1),
        process_start: at_most("process_start"),
        boot: at_most("boot"),
        app_shutdown: Span::Between(Duration::ZERO, Duration::from_millis(100)),
        replicas: facts.count("replicas"),
        strategy: match facts.word("deploy") {
            "recreate" | "restart" => Strategy::Recreate,
            "reload" => Strategy::Reload,
            _ => Strategy::Rolling {
                max_surge: facts.count("max_surge"),
                max_unavailable: facts.count("max_unavailable"),
            },
        },
        deploy_at: boot + Duration::from_secs(2),
        min_ready: facts.time("min_ready"),
        grace,
        pre_stop,
        last_grace: if kubernetes { Duration::from_secs(2) } else { Duration::ZERO },
        schedule: at_most("schedule"),
        kubelet: if facts.platform == Platform::Systemd {
            Span::ZERO
        } else {
            Span::Between(Duration::ZERO, Duration::from_secs(1))
        },
        probe: (facts.word("readiness") != "none").then(|| Probe {
            initial_delay: facts.time("readiness_delay"),
            period: facts.time("readiness_period").max(Duration::from_millis(100)),
            successes: facts.count("readiness_successes").max(1),
            connect_only: facts.word("readiness") == "connect",
        }),
        term_to_all: facts.word("term_to_all") == "yes",
        one_address: facts.platform == Platform::Systemd,
        socket_activation: facts.word("socket_activation") == "yes",
        latency: Span::Between(latency / 10, latency),
        balancers: (0..balancers)
            .map(|_| BalancerPlan {
                layer: if l4 { Layer::L4 } else { Layer::L7 },
                propagation: at_most("propagation"),
                pool_idle: idle,
                retry,
            })
            .collect(),
        clients: (0..clients)
            .map(|index| ClientPlan {
                balancer: index % balancers,
                ..if index % 4 == 0 { long.clone() } else { client.clone() }
            })
            .collect(),
        margin: Duration::from_secs(2),
        faults: Vec::new(),
    })
}

/// What many rollouts came to.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    pub rollouts: u64,
    pub requests: u64,
    pub dropped: u64,
    /// Requests over their own limit or left by their client; no rollout's doing.
    pub causes: Causes,
    /// Rollouts that dropped something.
    pub dropping: u64,
    pub median: u32,
    pub p99: u32,
    pub worst: u32,
    pub worst_seed: u64,
    /// How long a rollout takes, at the median.
    pub takes: Duration,
    /// Promises of pounce's that did not hold: bugs.
    pub broken: Vec<String>,
}

impl Numbers {
    /// Requests dropped per rollout, on average.
    pub fn mean(&self) -> f64 {
        self.dropped as f64 / self.rollouts.max(1) as f64
    }

    /// The share of rollouts that drop something: below which it is with 95 % confidence (Wilson; for none at all the rule
    /// of three).
    pub fn upper_bound(&self) -> f64 {
        let n = self.rollouts.max(1) as f64;
        if self.dropping == 0 {
            return (3.0 / n).min(1.0);
        }
        self.wilson(1.0).min(1.0)
    }

    /// Above which it is.
    pub fn lower_bound(&self) -> f64 {
        if self.dropping == 0 { 0.0 } else { self.wilson(-1.0).max(0.0) }
    }

    fn wilson(&self, side: f64) -> f64 {
        const Z: f64 = 1.96;
        let n = self.rollouts.max(1) as f64;
        let p = self.dropping as f64 / n;
        let middle = p + Z * Z / (2.0 * n);
        let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        (middle + side * half) / (1.0 + Z * Z / n)
    }
}

/// Runs rollouts of a plan, with the seeds from `seed` on.
pub fn measure(plan: &Plan, seed: u64, rollouts: u64) -> Numbers {
    let mut numbers = Numbers { rollouts, worst_seed: seed, ..Numbers::default() };
    let mut each = Vec::with_capacity(rollouts as usize);
    let mut times = Vec::with_capacity(rollouts as usize);
    for seed in seed..seed.saturating_add(rollouts) {
        let outcome = pure::run(plan, seed);
        let dropped = outcome.dropped();
        if dropped > numbers.worst {
            numbers.worst = dropped;
            numbers.worst_seed = seed;
        }
        numbers.requests += u64::from(outcome.requests);
        numbers.dropped += u64::from(dropped);
        numbers.dropping += u64::from(dropped > 0);
        numbers.causes.merge(&outcome.causes);
        if outcome.causes.get(Cause::Unexplained) > 0 || !outcome.broken.is_empty() {
            numbers
                .broken
                .extend(outcome.broken.into_iter().map(|what| format!("seed {seed}: {what}")).take(3));
        }
        each.push(dropped);
        times.push(outcome.rollout);
    }
    each.sort_unstable();
    times.sort_unstable();
    let at = |share: f64| ((rollouts as f64 * share).ceil() as usize).saturating_sub(1);
    numbers.median = each.get(at(0.5)).copied().unwrap_or_default();
    numbers.p99 = each.get(at(0.99)).copied().unwrap_or_default();
    numbers.takes = times.get(at(0.5)).copied().unwrap_or_default();
    numbers
}
