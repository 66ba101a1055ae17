//! Which settings matter, and the smallest values that make a deployment safe.

use std::time::Duration;

use super::facts::{Facts, Value};
use super::model::{self, Numbers};
use crate::pure::plan::Plan;
use crate::pure::rules::{self, Figure, Rule, Topic};

/// What a change of one setting does.
#[derive(Clone, Debug)]
pub struct Effect {
    pub name: &'static str,
    pub from: Value,
    pub to: Value,
    /// Requests dropped per rollout, before and after.
    pub before: f64,
    pub after: f64,
}

/// Settings that an operator has a hand on, in the order in which they are named.
const KNOBS: [&str; 12] = [
    "drain_delay",
    "pre_stop",
    "shutdown_timeout",
    "grace",
    "keep_alive_timeout",
    "keepalive_linger",
    "max_unavailable",
    "max_surge",
    "min_ready",
    "readiness",
    "retry",
    "propagation",
];

/// Changes each setting by itself, both ways, and keeps what makes a difference.
pub fn sensitivity(facts: &Facts, seed: u64, rollouts: u64) -> Vec<Effect> {
    let mean =
        |facts: &Facts| model::plan(facts).ok().map(|plan| model::measure(&plan, seed, rollouts).mean());
    let Some(before) = mean(facts) else { return Vec::new() };
    let mut effects = Vec::new();
    for name in KNOBS {
        let Some(from) = facts.get(name).map(|fact| fact.value) else { continue };
        if !applies(name, facts.word("deploy")) {
            continue;
        }
        let trials: Vec<Value> = match from {
            Value::Time(time) if time.is_zero() => vec![Value::Time(Duration::from_secs(10))],
            Value::Time(time) => vec![Value::Time(time / 2), Value::Time(time * 2)],
            Value::Count(count) => {
                let less = count.checked_sub(1).map(Value::Count);
                less.into_iter().chain([Value::Count(count + 1)]).collect()
            }
            Value::Word("none") => vec![Value::Word("http")],
            Value::Word("http") => vec![Value::Word("none")],
            Value::Word("nothing") => vec![Value::Word("stale")],
            Value::Word("stale" | "unavailable") => vec![Value::Word("nothing")],
            Value::Word(_) => Vec::new(),
        };
        for to in trials {
            let trial = facts.with(name, to);
            let stuck = trial.word("deploy") == "rolling"
                && trial.count("max_surge") == 0
                && trial.count("max_unavailable") == 0;
            if stuck {
                continue;
            }
            if let Some(after) = mean(&trial)
                && matters(before, after, rollouts)
            {
                effects.push(Effect { name, from, to, before, after });
            }
        }
    }
    effects.sort_by(|a, b| (b.after - b.before).abs().total_cmp(&(a.after - a.before).abs()));
    effects
}

/// Whether a setting has a meaning for this way to deploy.
fn applies(name: &str, deploy: &str) -> bool {
    match name {
        "max_unavailable" | "max_surge" | "min_ready" | "readiness" | "propagation" => deploy == "rolling",
        "grace" | "pre_stop" => deploy != "reload",
        _ => true,
    }
}

/// More than chance: the same seeds were used, so small differences are real, but not worth a line.
fn matters(before: f64, after: f64, rollouts: u64) -> bool {
    let difference = (after - before).abs();
    difference > 0.1 * before.max(after) && difference * rollouts as f64 > 3.0
}

/// A setting to change.
#[derive(Clone, Debug)]
pub struct Change {
    pub name: &'static str,
    pub from: Value,
    pub to: Value,
}

/// What makes a deployment safe.
#[derive(Clone, Debug)]
pub struct Remedy {
    pub changes: Vec<Change>,
    /// Rules that no setting of this deployment can satisfy, in words.
    pub beyond: Vec<&'static str>,
    /// What the changed deployment comes to.
    pub numbers: Numbers,
}

/// The smallest values, in whole seconds, for which every rule holds; checked by as many rollouts. `None`: nothing needs
/// to change.
pub fn remedy(facts: &Facts, seed: u64, rollouts: u64) -> Option<Remedy> {
    let mut wanted = facts.clone();
    let mut changes: Vec<Change> = Vec::new();
    // One change can move another rule's need (the grace period adds up all others), so more than one round.
    for _ in 0..8 {
        let plan = model::plan(&wanted).ok()?;
        let Some((name, to)) =
            rules::rules(&plan).iter().filter(|rule| !rule.holds).find_map(|rule| fix(rule, &wanted, &plan))
        else {
            break;
        };
        wanted = wanted.with(name, to);
        let from = facts.get(name).map_or(to, |fact| fact.value);
        changes.retain(|change| change.name != name);
        if from != to {
            changes.push(Change { name, from, to });
        }
    }
    let plan = model::plan(&wanted).ok()?;
    let beyond: Vec<&'static str> =
        rules::rules(&plan).iter().filter(|rule| !rule.holds).map(|rule| rule.text).collect();
    if changes.is_empty() && beyond.is_empty() {
        return None;
    }
    Some(Remedy { changes, beyond, numbers: model::measure(&plan, seed, rollouts) })
}

/// The setting that satisfies a rule, and its smallest value.
fn fix(rule: &Rule, facts: &Facts, plan: &Plan) -> Option<(&'static str, Value)> {
    let (Figure::Time(have), Figure::Time(need)) = (rule.have, rule.need) else {
        return match rule.topic {
            Topic::Availability if facts.word("deploy") == "rolling" => {
                Some(("max_unavailable", Value::Count(plan.replicas.saturating_sub(1))))
            }
            Topic::Availability if facts.word("deploy") == "restart" => {
                Some(("deploy", Value::Word("reload")))
            }
            Topic::Availability => Some(("deploy", Value::Word("rolling"))),
            Topic::Readiness => Some(("readiness", Value::Word("http"))),
            Topic::OwnConnections => Some(("retry", Value::Word("stale"))),
            Topic::Limits => Some(("max_connections", Value::Count(0))),
            _ => None,
        };
    };
    let lacking = need.saturating_sub(have);
    let more = |name: &str| Value::Time(whole_seconds(facts.time(name) + lacking));
    match rule.topic {
        // pounce's own delay: also where the container has no `sleep`.
        Topic::Propagation | Topic::OwnConnections if facts.word("deploy") == "rolling" => {
            Some(("drain_delay", more("drain_delay")))
        }
        Topic::OwnConnections => Some(("keepalive_linger", more("keepalive_linger"))),
        Topic::LongestRequest => Some(("shutdown_timeout", more("shutdown_timeout"))),
        Topic::Grace => Some(("grace", more("grace"))),
        Topic::KeepAlive => Some(("keep_alive_timeout", more("keep_alive_timeout"))),
        Topic::Limits if plan.policy.request_timeout.is_some() => {
            Some(("request_timeout", more("request_timeout")))
        }
        _ => None,
    }
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}
