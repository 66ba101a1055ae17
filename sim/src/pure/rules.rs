//! What must hold of a plan if a rollout is to drop nothing: inequalities that need no simulation.

use std::time::Duration;

use pounce_core::policy::FRESH_LINGER;

use super::plan::{ClientPlan, Fault, Layer, Plan, Retry, Span, Strategy, Trouble};

/// What each inequality needs beside its figures: descriptors passed between processes, tasks to be polled.
pub const SLACK: Duration = Duration::from_millis(20);

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The server serves until every balancer has heard of its end.
    Propagation,
    /// The platform waits as long as the server may need.
    Grace,
    /// Requests may run as long as they need.
    LongestRequest,
    /// The server does not close a connection first that somebody else still uses.
    KeepAlive,
    /// Whoever keeps a connection of their own is told of its end in time.
    OwnConnections,
    /// There is always somebody to serve.
    Availability,
    /// Traffic comes only to who can take it.
    Readiness,
    /// Limits and time-outs of the server that a client's way of sending meets.
    Limits,
    /// The client waits long enough.
    Client,
    /// Nothing else goes wrong.
    Faults,
}

/// One inequality, with its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub topic: Topic,
    /// In the names of the settings: `have >= need`.
    pub text: &'static str,
    pub have: Figure,
    pub need: Figure,
    pub holds: bool,
}

/// A side of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figure {
    Time(Duration),
    Count(u64),
    /// A thing that is there or not.
    Is(bool),
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Figure::Time(time) => f.write_str(&seconds(*time)),
            Figure::Count(count) => write!(f, "{count}"),
            Figure::Is(true) => f.write_str("yes"),
            Figure::Is(false) => f.write_str("no"),
        }
    }
}

/// `2.5 s`, with no more digits than it has, at most three.
pub fn seconds(time: Duration) -> String {
    let rounded = format!("{:.3}", time.as_secs_f64());
    let short = rounded.trim_end_matches('0').trim_end_matches('.');
    format!("{short} s")
}

/// The network's part of an exchange, and the slack.
pub fn wire(plan: &Plan) -> Duration {
    plan.latency.longest() * 4 + SLACK
}

/// The longest that a request of `client` takes inside the server.
pub fn longest_request(plan: &Plan, client: &ClientPlan) -> Duration {
    let gap = |probability: f64, span: Span| if probability > 0.0 { span.longest() } else { Duration::ZERO };
    let app = client.takes.longest();
    // Those sent at once are answered one after the other, and read one after the other.
    let mut longest = app * (1 + client.pipelined);
    longest += gap(client.slow_head, client.head_gap);
    longest += gap(client.upload, client.upload_gap) * client.upload_parts;
    longest += gap(client.streaming, client.stream_gap) * client.stream_parts;
    longest + (client.read_gap + plan.latency.longest() * 2) * client.read_parts
}

/// The longest that an answer takes after its head.
fn longest_tail(plan: &Plan, client: &ClientPlan) -> Duration {
    let streamed = if client.streaming > 0.0 {
        client.stream_gap.longest() * client.stream_parts
    } else {
        Duration::ZERO
    };
    streamed.max((client.read_gap + plan.latency.longest() * 2) * client.read_parts)
}

/// All rules that apply to `plan`. All hold: no request may be dropped.
pub fn rules(plan: &Plan) -> Vec<Rule> {
    let mut found = Vec::new();
    let mut time = |topic, text, have: Duration, need: Duration| {
        let (have_figure, need_figure) = (Figure::Time(have), Figure::Time(need));
        found.push(Rule { topic, text, have: have_figure, need: need_figure, holds: have >= need });
    };
    let policy = &plan.policy;
    let wire = wire(plan);
    let rolling = matches!(plan.strategy, Strategy::Rolling { .. });
    let reload = plan.strategy == Strategy::Reload;
    let longest = plan.clients.iter().map(|c| longest_request(plan, c)).max().unwrap_or_default();
    let propagation = plan.balancers.iter().map(|b| b.propagation.longest()).max().unwrap_or_default();
    if !reload {
        time(
            Topic::Grace,
            "grace period >= preStop + drain_delay + shutdown_timeout + 1 s",
            plan.grace,
            plan.pre_stop + policy.budget() + Duration::from_secs(1),
        );
    }
    if rolling {
        time(
            Topic::Propagation,
            "preStop + drain_delay >= endpoint propagation + a handshake",
            plan.pre_stop + policy.drain_delay,
            propagation + wire,
        );
    }
    let keeps = plan.clients.iter().any(|client| is_kept(plan, client).is_some());
    // Also where it would be tried again: a request that comes within the linger is served, and takes as long as any.
    let reuses = plan.clients.iter().any(|client| is_reused(plan, client));
    let linger = if reuses { policy.keepalive_linger } else { Duration::ZERO };
    // An answer whose head went out before the drain could not announce the end; another request may follow it.
    let tail = plan.clients.iter().map(|c| longest_tail(plan, c)).max().unwrap_or_default();
    let tail = if reuses { tail } else { Duration::ZERO };
    time(
        Topic::LongestRequest,
        if !tail.is_zero() {
            "shutdown_timeout >= rest of a streamed answer + keepalive_linger + longest request"
        } else if reuses {
            "shutdown_timeout >= keepalive_linger + longest request"
        } else {
            "shutdown_timeout >= longest request"
        },
        policy.shutdown_timeout,
        tail + linger + longest + wire,
    );
    if reload {
        time(
            Topic::OwnConnections,
            "a connection waits for its first request longer than a round trip takes",
            policy.keepalive_linger.max(FRESH_LINGER),
            wire,
        );
    }
    let idle = plan.clients.iter().filter_map(|c| is_kept(plan, c)).max();
    if let Some(idle) = idle {
        time(
            Topic::KeepAlive,
            "keep_alive_timeout > time that the other end keeps a connection idle",
            policy.keep_alive_timeout,
            idle + wire,
        );
    }
    let own = plan.clients.iter().filter(|c| layer(plan, c) == Layer::L4);
    let own = own.filter_map(|c| is_kept(plan, c).map(|idle| idle + longest_request(plan, c) + wire)).max();
    if let (Some(pause), true) = (own, rolling) {
        time(
            Topic::OwnConnections,
            "drain_delay >= pause between two requests of a client that keeps its own connection",
            policy.drain_delay,
            pause,
        );
    }
    for client in &plan.clients {
        let head = if client.slow_head > 0.0 { client.head_gap.longest() } else { Duration::ZERO };
        time(Topic::Limits, "header_timeout > time of a request head", policy.header_timeout, head + wire);
        if client.upload > 0.0 {
            let gap = client.upload_gap.longest();
            time(Topic::Limits, "body_timeout > pause in a request body", policy.body_timeout, gap + wire);
        }
        if client.read_parts > 0 {
            let gap = client.read_gap;
            time(Topic::Limits, "write_timeout > pause of a slow reader", policy.write_timeout, gap + wire);
        }
        let longest = longest_request(plan, client);
        if let Some(limit) = policy.request_timeout {
            time(Topic::Limits, "request_timeout > longest request", limit, longest + wire);
        }
        if let Some(timeout) = client.timeout {
            time(Topic::Client, "client's timeout > longest request", timeout, longest + wire * 2);
        }
    }
    let mut is = |topic, text, holds| {
        found.push(Rule { topic, text, have: Figure::Is(holds), need: Figure::Is(true), holds });
    };
    if reload && keeps {
        is(Topic::OwnConnections, "kept connections are retried when a reload closes them", false);
    }
    match plan.strategy {
        Strategy::Recreate => {
            is(Topic::Availability, "somebody serves while the new instance starts", false);
        }
        Strategy::Rolling { max_unavailable, .. } => {
            if plan.probe.is_none() {
                let at_once = plan.process_start.longest().is_zero();
                is(
                    Topic::Readiness,
                    "a pod gets traffic only when its port listens (readinessProbe)",
                    at_once,
                );
            }
            let (have, need) = (u64::from(plan.replicas), u64::from(max_unavailable) + 1);
            found.push(Rule {
                topic: Topic::Availability,
                text: "replicas >= maxUnavailable + 1",
                have: Figure::Count(have),
                need: Figure::Count(need),
                holds: have >= need,
            });
        }
        Strategy::Reload => {}
    }
    if let Some(limit) = policy.max_connections {
        let (have, need) = (u64::from(limit), plan.clients.len() as u64 * 4 + 2);
        found.push(Rule {
            topic: Topic::Limits,
            text: "max_connections >= connections",
            have: Figure::Count(have),
            need: Figure::Count(need),
            holds: have >= need,
        });
    }
    // Where nobody starts the server again, its first start is the only one.
    let restarted_at = match plan.strategy {
        Strategy::Reload => plan.schedule.longest(),
        Strategy::Rolling { .. } | Strategy::Recreate => Duration::ZERO,
    };
    let harmless = |fault: &Fault| matches!(fault.what, Trouble::BootCrash { .. }) && fault.at > restarted_at;
    if !plan.faults.iter().all(harmless) {
        found.push(Rule {
            topic: Topic::Faults,
            text: "no fault that costs requests",
            have: Figure::Is(false),
            need: Figure::Is(true),
            holds: false,
        });
    }
    found
}

/// Whether all rules hold.
pub fn is_safe(plan: &Plan) -> bool {
    rules(plan).iter().all(|rule| rule.holds)
}

fn layer(plan: &Plan, client: &ClientPlan) -> Layer {
    plan.balancers[client.balancer as usize].layer
}

/// How long a connection that carries this client's requests may be idle and then be used again, where nobody would try
/// the request again.
fn is_kept(plan: &Plan, client: &ClientPlan) -> Option<Duration> {
    let balancer = &plan.balancers[client.balancer as usize];
    let (retry, idle) = match balancer.layer {
        Layer::L4 => (client.retry, client.keep.min(client.think.longest())),
        Layer::L7 => (client.retry.max(balancer.retry), balancer.pool_idle),
    };
    let tried_again = retry >= Retry::Stale && client.not_idempotent <= 0.0;
    (!tried_again && is_reused(plan, client)).then_some(idle)
}

/// Whether a connection may carry more than one request of this client's, or of others.
fn is_reused(plan: &Plan, client: &ClientPlan) -> bool {
    layer(plan, client) == Layer::L7 || (!client.keep.is_zero() && client.requests > 1)
}
