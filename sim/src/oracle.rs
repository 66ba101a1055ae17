//! The judge: what must hold after every run, and a cause from a closed list for every failed request.
//!
//! No tolerances: the clock is virtual, and order is decided by bytes (what had come when the server's side ended), not
//! by nearby times. Where the scenario's settings are right, no request may fail at all, explained or not.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use pounce_core::policy::{CLOSE_LINGER, CLOSE_SETTLE, EXIT_GRACE, FRESH_LINGER, KILL_GRACE, STABLE_AFTER};
use pounce_core::supervisor::exit;

use crate::http1::Failure;
use crate::instance::{History, Instance, WorkerEnd};
use crate::net::{Facts, HostId, SimNet};
use crate::scenario::{FaultKind, RequestKind};
use crate::world::{Attempt, Served, World};

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The balancer knew no pod.
    NoEndpoint,
    /// The server was told to stop, and nobody listened any more (or not yet again).
    NotListening,
    /// A connection made during the drain: 503.
    Draining,
    /// The server ended a kept connection while the request was on its way to it.
    IdleCloseRace,
    /// The same, on a connection that had not carried a request.
    FreshCloseRace,
    /// A handshake that began before and ended after the listener was closed.
    LateHandshake,
    /// The drain's deadline, or a signal that cut it short.
    Deadline,
    /// The process was killed.
    Killed,
    /// No worker was there to answer.
    NoWorker,
    /// `max_connections`.
    TooManyConnections,
    /// A limit of the server that the client or the application ran into: 408, 504, write timeout.
    ServerTimeout,
    /// The client went away on purpose.
    PeerGone,
    /// The client's own timeout.
    Impatient,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::NoEndpoint => "no-endpoint",
            Cause::NotListening => "not-listening",
            Cause::Draining => "draining-503",
            Cause::IdleCloseRace => "idle-close-race",
            Cause::FreshCloseRace => "fresh-close-race",
            Cause::LateHandshake => "late-handshake",
            Cause::Deadline => "deadline",
            Cause::Killed => "killed",
            Cause::NoWorker => "no-worker",
            Cause::TooManyConnections => "too-many-connections",
            Cause::ServerTimeout => "server-timeout",
            Cause::PeerGone => "peer-gone",
            Cause::Impatient => "client-timeout",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the judge found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Causes of requests that failed for good.
    pub causes: BTreeMap<Cause, u32>,
    /// Requests, their retries not counted.
    pub requests: u32,
    pub failed: u32,
    pub attempts: u32,
    pub problems: Vec<String>,
}

/// Judges a run.
pub fn judge<N: SimNet>(world: &Arc<World>, net: &N) -> Verdict {
    let mut verdict = Verdict::default();
    let attempts = world.attempts();
    let instances = world.instances();
    let served = world.served();
    let judge = Judge { world, instances: &instances, attempts: &attempts, served: &served };
    let mut earlier: Option<(u64, Option<Cause>)> = None;
    let mut requests = std::collections::BTreeSet::new();
    let mut any_cut: BTreeMap<u64, u64> = BTreeMap::new();
    for attempt in &attempts {
        verdict.attempts += 1;
        requests.insert((attempt.client, attempt.request, attempt.pipelined.then_some(attempt.id)));
        let starts = served.get(&attempt.id).map_or(0, |s| s.starts);
        if starts > 1 {
            verdict.problems.push(format!("r{}: started {starts} times", attempt.id));
        }
        let facts = attempt.conn.and_then(|conn| net.facts(conn));
        match &attempt.result {
            None => verdict.problems.push(format!("r{}: neither answered nor failed", attempt.id)),
            Some(Ok(())) => {
                if starts != 1 {
                    verdict.problems.push(format!("r{}: answered without having been started", attempt.id));
                }
                let draining =
                    served.get(&attempt.id).and_then(|s| s.head).is_some_and(|(_, draining)| draining);
                let batch = attempt.pipelined
                    || attempts.get(attempt.id as usize + 1).is_some_and(|next| next.pipelined);
                if draining && !attempt.close && !batch {
                    verdict.problems.push(format!(
                        "r{}: answered while draining, without an announcement of the end",
                        attempt.id
                    ));
                }
                earlier = None;
            }
            Some(Err(failure)) => {
                let cause = match (attempt.pipelined, earlier) {
                    // What follows a failed answer on its connection failed with it.
                    (true, Some((before, cause))) if before + 1 == attempt.id => cause,
                    _ if facts.is_none() && attempt.conn.is_some() => None,
                    _ => judge.explain(attempt, failure, facts),
                };
                earlier = Some((attempt.id, cause));
                let unexplained = cause.is_none() && (attempt.conn.is_none() || facts.is_some());
                if unexplained {
                    verdict.problems.push(format!(
                        "r{} of client {} failed and nothing explains it: {failure:?} (sent from {} ms on, {}) {facts:?}",
                        attempt.id, attempt.client, attempt.start_ms, attempt.pod.map_or_else(|| "no pod".to_owned(), |p| format!("pod-{p}"))
                    ));
                }
                if cause == Some(Cause::Deadline)
                    && let Some(instance) = judge.instance(attempt, facts.as_ref())
                {
                    // The code is about the shutdown; a worker that retired before it had a deadline of its own.
                    let history = instance.history();
                    if history.heard.is_some_and(|at| attempt.end_ms >= at) && history.retired.is_none() {
                        any_cut.entry(instance.supervisor.id()).or_insert(attempt.id);
                    }
                }
                if !attempt.retried && *failure != Failure::GaveUp {
                    verdict.failed += 1;
                    if let Some(cause) = cause {
                        *verdict.causes.entry(cause).or_default() += 1;
                    }
                }
            }
        }
    }
    verdict.requests = requests.len() as u32;
    let violations = world.scenario.violations();
    if violations.is_empty() && verdict.failed > 0 {
        verdict.problems.push(format!(
            "every inequality holds, and {} of {} requests failed ({})",
            verdict.failed,
            verdict.requests,
            verdict.causes.iter().map(|(c, n)| format!("{n} {c}")).collect::<Vec<_>>().join(", ")
        ));
    }
    for instance in &instances {
        judge.lifecycle(instance, any_cut.get(&instance.supervisor.id()).copied(), &mut verdict.problems);
    }
    judge.readiness(&mut verdict.problems);
    verdict.problems.extend(world.take_problems());
    verdict
}

struct Judge<'a> {
    world: &'a Arc<World>,
    instances: &'a [Arc<Instance>],
    attempts: &'a [Attempt],
    served: &'a BTreeMap<u64, Served>,
}

impl Judge<'_> {
    fn ms(&self, at: tokio::time::Instant) -> u64 {
        self.world.trace.ms(at)
    }

    /// The server that an attempt met.
    fn instance(&self, attempt: &Attempt, facts: Option<&Facts>) -> Option<&Arc<Instance>> {
        if let Some(owner) = facts.and_then(|f| f.owner) {
            return self.instances.iter().find(|i| {
                i.supervisor.id() == owner || i.history().workers.iter().any(|w| w.process.id() == owner)
            });
        }
        // Of two servers one after the other, the one in whose time the connection ended, not the one that was there when
        // the client learnt of it.
        let pod = attempt.pod?;
        let end = facts.and_then(|f| f.ended).map_or(attempt.end_ms, |ended| self.ms(ended.at));
        self.instances.iter().rfind(|i| i.pod == pod && i.history().started <= end)
    }

    fn has_fault(&self, is: impl Fn(&FaultKind) -> bool) -> bool {
        self.world.scenario.faults.iter().any(|fault| is(&fault.what))
    }

    fn explain(&self, attempt: &Attempt, failure: &Failure, facts: Option<Facts>) -> Option<Cause> {
        let scenario = &self.world.scenario;
        let client = &scenario.clients[attempt.client];
        match failure {
            Failure::NoEndpoint => return Some(Cause::NoEndpoint),
            Failure::GaveUp => return Some(Cause::PeerGone),
            _ => {}
        }
        let instance = self.instance(attempt, facts.as_ref());
        let history = instance.map(|i| i.history()).unwrap_or_default();
        // Of two ends the server's counts: what it did too early is not excused by the time on the wire.
        let end = facts.and_then(|f| f.ended).map_or(attempt.end_ms, |ended| self.ms(ended.at));
        let by = |at: Option<u64>| at.is_some_and(|at| at <= end);
        let over = by(history.exited.map(|(at, _)| at)) || by(history.killed);
        let budget = scenario.server.drain_delay_ms + scenario.server.shutdown_timeout_ms;
        let deadline = history.heard.map(|at| at + budget);
        // The workers of a dead supervisor drain by themselves, with a deadline of their own.
        let orphaned = history.killed.map(|at| at + scenario.server.shutdown_timeout_ms);
        let retiring = match facts {
            Some(facts) => facts.owner.and_then(|owner| self.retired_until(&history, owner)),
            // A network that does not know whose the connection was: anybody's deadline will do.
            None => {
                let first = history.retired.map(|at| at + scenario.server.shutdown_timeout_ms);
                first.into_iter().chain(history.forced).min()
            }
        };
        let forced = by(history.hurried) || by(deadline) || by(orphaned) || by(retiring);
        match failure {
            Failure::Refused | Failure::ConnectTimeout => {
                let stopping = by(history.all_stopped) || by(history.stop) || over || by(history.gave_up);
                (instance.is_none() || stopping || self.gap(attempt)).then_some(Cause::NotListening)
            }
            Failure::Timeout => self.impatience(attempt, &history, client.timeout_ms),
            Failure::Status(503) => {
                let facts = facts?;
                let queued = facts.queued.map(|at| self.ms(at));
                if history.drain.is_some_and(|drain| queued.is_some_and(|queued| queued >= drain)) {
                    return Some(Cause::Draining);
                }
                if forced {
                    // What waits for a worker, or for a descriptor, until the deadline or until a shutdown is cut short is
                    // refused by the supervisor like what comes later.
                    let refused = instance.is_some_and(|i| facts.owner == Some(i.supervisor.id()));
                    return Some(if refused { Cause::Draining } else { Cause::Deadline });
                }
                if by(history.too_many) {
                    return Some(Cause::TooManyConnections);
                }
                let not_yet = history.ready.is_none_or(|at| at > end);
                (not_yet || by(history.no_worker) || self.worker_died(&history, end))
                    .then_some(Cause::NoWorker)
            }
            Failure::Status(504) => scenario
                .server
                .request_timeout_ms
                .is_some_and(|limit| limit <= attempt.end_ms - attempt.start_ms)
                .then_some(Cause::ServerTimeout),
            Failure::Status(408) => {
                let s = &scenario.server;
                let slow = match client.request {
                    RequestKind::HalfHead { gap_ms } => gap_ms + 600 >= s.header_timeout_ms,
                    RequestKind::EarlyHead { gap_ms, .. } => {
                        gap_ms + scenario.reading_ms(client) + 600 >= s.header_timeout_ms
                    }
                    RequestKind::Upload { gap_ms, .. } => gap_ms + 600 >= s.body_timeout_ms,
                    _ => false,
                };
                let stalled = self.has_fault(|f| {
                    matches!(
                        f,
                        FaultKind::StallLink { .. }
                            | FaultKind::FreezeWorker { .. }
                            | FaultKind::FreezeSupervisor { .. }
                            | FaultKind::OutOfDescriptors { .. }
                    )
                });
                (slow || stalled).then_some(Cause::ServerTimeout)
            }
            Failure::Closed | Failure::Reset => {
                let facts = facts?;
                let Some(ended) = facts.ended else {
                    // The server has not ended it: the client's own reset, after the server's host was gone.
                    return None;
                };
                if ended.killed {
                    return self.killed(&history, self.ms(ended.at));
                }
                if *failure == Failure::Reset
                    && let Some(died) = facts.owner.and_then(|owner| self.died(&history, instance, owner))
                    && (end..=attempt.end_ms).contains(&died)
                {
                    // It had ended its side, and was killed before it could read on until the client does.
                    return self.killed(&history, died);
                }
                if facts.owner.is_none() {
                    // In the accept queue, or not even there.
                    if facts.queued.is_none() {
                        let closed = by(history.all_stopped) || by(history.hurried) || over;
                        return (closed || self.gap(attempt)).then_some(Cause::LateHandshake);
                    }
                    // Where nobody killed it, it left without looking into its queue, as its deadline allows.
                    let killed = history.killed.is_some();
                    let cause = if killed { Cause::Killed } else { Cause::Deadline };
                    return (over || self.gap(attempt))
                        .then_some(cause)
                        .filter(|_| killed || history.hurried.is_some() || self.bounded_close(&history));
                }
                if forced {
                    return Some(Cause::Deadline);
                }
                if ended.delivered > attempt.offset {
                    // Bytes of this request had come. Nothing excuses that but a limit of the client's own making.
                    return self.timed_out(attempt).then_some(Cause::ServerTimeout);
                }
                // Since when it may close what has no request, and how long it must wait before.
                let leaving = [history.drain, history.retired, history.killed]
                    .into_iter()
                    .flatten()
                    .filter(|at| *at <= end)
                    .min();
                let closed = self.ms(ended.at);
                let lingered = |idle_since: u64, linger: u64| {
                    leaving.is_some_and(|at| at.max(idle_since) + linger <= closed)
                };
                let linger = scenario.server.keepalive_linger_ms;
                if attempt.reused {
                    let idle = scenario.server.keep_alive_timeout_ms;
                    let since = self.previous_head(attempt).unwrap_or(0);
                    (lingered(since, linger) || since + idle <= closed).then_some(Cause::IdleCloseRace)
                } else {
                    let waited = facts.queued.is_some_and(|at| {
                        self.ms(at) + scenario.server.header_timeout_ms <= self.ms(ended.at)
                    });
                    let queued = facts.queued.map_or(0, |at| self.ms(at));
                    if lingered(queued, linger.max(FRESH_LINGER.as_millis() as u64)) {
                        Some(Cause::FreshCloseRace)
                    } else {
                        waited.then_some(Cause::ServerTimeout)
                    }
                }
            }
            Failure::Truncated => {
                let facts = facts?;
                if let Some(ended) = facts.ended {
                    if ended.killed {
                        return self.killed(&history, self.ms(ended.at));
                    }
                    if forced {
                        return Some(Cause::Deadline);
                    }
                }
                self.timed_out(attempt).then_some(Cause::ServerTimeout)
            }
            _ => None,
        }
    }

    /// The end of all patience with a queue that cannot be emptied, or was not while the supervisor had no CPU.
    fn bounded_close(&self, history: &History) -> bool {
        let s = &self.world.scenario.server;
        let overdue = |stop: u64| {
            let end = stop + s.drain_delay_ms + s.shutdown_timeout_ms + EXIT_GRACE.as_millis() as u64;
            history.exited.is_some_and(|(at, code)| at >= end && code == exit::FORCED)
        };
        let frozen = self.has_fault(|f| matches!(f, FaultKind::FreezeSupervisor { .. }));
        history.stop.is_some_and(|stop| {
            self.has_fault(|f| matches!(f, FaultKind::OutOfDescriptors { .. })) || (frozen && overdue(stop))
        })
    }

    /// Between the attempt's start and its end one server on its pod was over, or the next was not there yet.
    fn gap(&self, attempt: &Attempt) -> bool {
        self.instances.iter().filter(|i| Some(i.pod) == attempt.pod).any(|i| {
            let history = i.history();
            let closed = history
                .all_stopped
                .into_iter()
                .chain(history.exited.map(|(at, _)| at))
                .chain(history.killed)
                .min();
            closed.is_some_and(|at| at <= attempt.end_ms && at + 40_000 >= attempt.start_ms)
        })
    }

    /// When the last response before this attempt began on its connection: from then on, at the earliest, it was idle.
    fn previous_head(&self, attempt: &Attempt) -> Option<u64> {
        self.attempts
            .iter()
            .filter(|a| a.conn == attempt.conn && a.id < attempt.id && a.result == Some(Ok(())))
            .filter_map(|a| self.served.get(&a.id)?.head.map(|(at, _)| at))
            .max()
    }

    fn worker_died(&self, history: &History, by: u64) -> bool {
        history
            .workers
            .iter()
            .any(|w| w.ended.is_some_and(|(at, how)| at <= by && !matches!(how, WorkerEnd::Exited(0 | 4))))
    }

    /// When the worker in process `owner` was at its deadline: by its own clock, or because it was told to.
    fn retired_until(&self, history: &History, owner: u64) -> Option<u64> {
        let worker = history.workers.iter().find(|w| w.process.id() == owner)?;
        let gone = worker.ended.map_or(u64::MAX, |(at, _)| at + 5);
        let told = history.log.iter().find_map(|(at, event)| match event {
            pounce_core::Event::WorkerForced { worker: number, .. } => {
                (*number == worker.number && worker.started <= *at && *at <= gone).then_some(*at)
            }
            _ => None,
        });
        [worker.drains_until, told].into_iter().flatten().min()
    }

    /// When the process `owner` was killed, if it was.
    fn died(&self, history: &History, instance: Option<&Arc<Instance>>, owner: u64) -> Option<u64> {
        if instance.is_some_and(|i| i.supervisor.id() == owner) {
            return history.killed;
        }
        let worker = history.workers.iter().find(|w| w.process.id() == owner)?;
        worker.ended.and_then(|(at, how)| (!matches!(how, WorkerEnd::Exited(_))).then_some(at))
    }

    /// Somebody with the right to it killed a process of this server then: why.
    fn killed(&self, history: &History, at: u64) -> Option<Cause> {
        let s = &self.world.scenario.server;
        let by_fault = history.killed == Some(at)
            || history.workers.iter().any(|w| {
                matches!(w.ended, Some((ended, WorkerEnd::KilledByFault | WorkerEnd::KilledByPlatform)) if ended == at)
            });
        if by_fault {
            return Some(Cause::Killed);
        }
        let by_supervisor = history.workers.iter().any(|w| match w.ended {
            Some((ended, WorkerEnd::KilledBySupervisor)) => {
                // Not before its deadline and its grace, unless in a hurry.
                let grace = KILL_GRACE.as_millis() as u64;
                let due =
                    |since: Option<u64>, budget: u64| since.is_some_and(|s| s + budget + grace <= ended);
                ended == at
                    && (history.hurried.is_some_and(|hurried| hurried <= ended)
                        || due(history.heard, s.drain_delay_ms + s.shutdown_timeout_ms)
                        || due(history.retired, s.shutdown_timeout_ms)
                        || due(history.gave_up, s.shutdown_timeout_ms)
                        || due(history.forced, 0))
            }
            _ => false,
        });
        by_supervisor.then_some(Cause::Deadline)
    }

    /// The client or the application was slower than the server's limits.
    fn timed_out(&self, attempt: &Attempt) -> bool {
        let s = &self.world.scenario.server;
        let client = &self.world.scenario.clients[attempt.client];
        let wire = 8 * self.world.scenario.network.latency.max_ms();
        let stalled = self.has_fault(|f| {
            matches!(
                f,
                FaultKind::StallLink { .. }
                    | FaultKind::FreezeWorker { .. }
                    | FaultKind::FreezeSupervisor { .. }
            )
        });
        let slow = match client.request {
            RequestKind::HalfHead { gap_ms } => gap_ms + wire >= s.header_timeout_ms,
            RequestKind::Upload { gap_ms, .. } => gap_ms + wire >= s.body_timeout_ms,
            RequestKind::SlowReader { pause_ms, .. } => 4 * pause_ms + wire >= s.write_timeout_ms,
            RequestKind::EarlyHead { pause_ms, gap_ms, .. } => {
                let head_ms = gap_ms + self.world.scenario.reading_ms(client);
                4 * pause_ms + wire >= s.write_timeout_ms || head_ms + wire >= s.header_timeout_ms
            }
            _ => false,
        };
        slow || (stalled && s.header_timeout_ms.min(s.body_timeout_ms).min(s.write_timeout_ms) < 5000)
    }

    fn impatience(&self, attempt: &Attempt, history: &History, timeout_ms: u64) -> Option<Cause> {
        let scenario = &self.world.scenario;
        let client = &scenario.clients[attempt.client];
        let needs = scenario.longest_request_ms(client) + 8 * scenario.network.latency.max_ms();
        if timeout_ms < needs {
            return Some(Cause::Impatient);
        }
        // Waiting in the accept queue of a server without a worker, for a SYN that is dropped, behind a frozen process.
        let waits = self.has_fault(|f| !f.is_harmless());
        let stopping = history.stop.is_some_and(|at| at <= attempt.end_ms);
        let starting = history.ready.is_none_or(|at| at >= attempt.start_ms);
        (waits || stopping || starting).then_some(Cause::Impatient)
    }

    /// Of one server's whole life.
    fn lifecycle(&self, instance: &Arc<Instance>, cut: Option<u64>, problems: &mut Vec<String>) {
        let history = instance.history();
        let s = &self.world.scenario.server;
        let pod = instance.pod;
        let frozen: u64 = history.frozen.iter().map(|(from, to)| to - from).sum();
        if let (Some(stop), Some(heard)) = (history.stop, history.heard)
            && heard > stop + frozen + 5
        {
            problems.push(format!("pod-{pod}: takes {} ms to hear the signal", heard - stop));
        }
        if let (Some(heard), Some(drain)) = (history.heard, history.drain)
            && history.hurried.is_none()
            && history.gave_up.is_none()
            && history.ready.is_some_and(|ready| ready < heard)
        {
            // A delay of zero is over at once; any other lasts to the millisecond.
            if drain < heard + s.drain_delay_ms {
                problems.push(format!(
                    "pod-{pod}: drains {} ms after it read the signal; drain_delay is {} ms",
                    drain - heard,
                    s.drain_delay_ms
                ));
            }
        }
        if let (Some(heard), Some(forced), None) = (history.heard, history.forced, history.hurried)
            && forced >= heard
            && history.retired.is_none()
            && history.gave_up.is_none()
            && forced > heard + s.drain_delay_ms + s.shutdown_timeout_ms + frozen + 5
        {
            problems.push(format!("pod-{pod}: its deadline came {} ms after the signal", forced - heard));
        }
        if let (Some(stop), Some((exited, code))) = (history.stop, history.exited) {
            let bound = stop + s.drain_delay_ms + s.shutdown_timeout_ms + 1000 + frozen;
            if exited > bound {
                problems.push(format!(
                    "pod-{pod}: exits {} ms after the signal; the budget is {} ms",
                    exited - stop,
                    bound - stop
                ));
            }
            if code == 0
                && let Some(cut) = cut
            {
                problems.push(format!("pod-{pod}: exits with 0, but r{cut} was cut at the deadline"));
            }
            self.promptness(instance, &history, stop, exited, problems);
            // The application's own shutdown has to fit in as well, after whatever lingers.
            let tail = CLOSE_LINGER.as_millis() as u64 + self.world.scenario.app.shutdown.max_ms() + 100;
            let fits = s.shutdown_timeout_ms >= self.world.scenario.longest_drain_ms() + tail;
            let calm =
                fits && self.world.scenario.faults.is_empty() && self.world.scenario.violations().is_empty();
            if calm && code != 0 {
                problems.push(format!("pod-{pod}: exits with {code}, and nothing was wrong"));
            }
        }
        if let (Some((exited, code)), None) = (history.exited, history.stop)
            && history.gave_up.is_none()
        {
            problems.push(format!("pod-{pod}: exits with {code} at {exited} ms, and nobody told it to"));
        }
        if history.exited.is_some() && history.workers.iter().any(|w| w.ended.is_none()) {
            problems.push(format!("pod-{pod}: the server is gone, a worker is not"));
        }
        self.supervision(instance, &history, problems);
        self.giving_up(&history, pod, problems);
        let most = history.workers.iter().map(|w| w.number).max().unwrap_or(0);
        if most > s.workers {
            problems.push(format!("pod-{pod}: worker number {most} of {}", s.workers));
        }
        for w in &history.workers {
            if let Some((at, WorkerEnd::KilledBySupervisor)) = w.ended
                && self.killed(&history, at).is_none()
                && !self.starting(&history, at)
            {
                problems.push(format!("pod-{pod}: worker {} was killed before its deadline", w.number));
            }
        }
    }

    /// A server does not end on account of a place that cannot be filled while another worker serves, and has for a while.
    fn giving_up(&self, history: &History, pod: HostId, problems: &mut Vec<String>) {
        use pounce_core::Event;
        // Who serves, by place and generation, and since when.
        let mut serving: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for (at, event) in &history.log {
            match event {
                Event::WorkerReady { worker, generation } => {
                    serving.insert((*worker, *generation), *at);
                }
                Event::WorkerDied { worker, .. } => serving.retain(|(place, _), _| place != worker),
                Event::ReloadFailed { generation } => serving.retain(|(_, g), _| g != generation),
                Event::ReloadFinished { generation } => serving.retain(|(_, g), _| g == generation),
                Event::CrashLoop { .. } => {
                    let stable = STABLE_AFTER.as_millis() as u64;
                    if serving.values().any(|since| since + stable <= *at) {
                        problems.push(format!("pod-{pod}: gives up at {at} ms, although a worker serves"));
                    }
                }
                _ => {}
            }
        }
    }

    /// Reloads, restarts and late starts.
    fn supervision(&self, instance: &Arc<Instance>, history: &History, problems: &mut Vec<String>) {
        use pounce_core::Event;
        let pod = instance.pod;
        self.old_generation(history, pod, problems);
        let mut restarts: BTreeMap<u32, u64> = BTreeMap::new();
        for (at, event) in &history.log {
            match event {
                // New code begins without a past.
                Event::ReloadStarted { .. } => restarts.clear(),
                Event::WorkerRespawning { worker, delay } if delay.is_zero() => {
                    if let Some(before) = restarts.insert(*worker, *at)
                        && at - before < STABLE_AFTER.as_millis() as u64
                    {
                        problems
                            .push(format!("pod-{pod}: worker {worker} is restarted twice without a pause"));
                    }
                }
                _ => {}
            }
        }
        if let Some(drain) = history.drain {
            for worker in history.workers.iter().filter(|w| w.started > drain) {
                problems.push(format!("pod-{pod}: worker {} is started during the drain", worker.number));
            }
        }
    }

    /// Those who serve stay until a new generation serves, and for good if it does not. Told by their processes: a worker
    /// of the new generation may become ready in the moment in which it is told to go, and then it drains as well.
    fn old_generation(&self, history: &History, pod: HostId, problems: &mut Vec<String>) {
        use pounce_core::Event;
        if self.has_fault(|f| matches!(f, FaultKind::TermWorker { .. })) {
            return;
        }
        let (mut serving, mut new) = (1, 1);
        // What the log said last, and when.
        let (mut state, mut since) = ("", 0);
        let mut check = |state: &str, serving: u32, from: u64, to: u64| {
            let left = history
                .workers
                .iter()
                .find(|w| w.generation == serving && w.draining.is_some_and(|at| from <= at && at < to));
            if let (Some(worker), false) = (left, state.is_empty()) {
                problems.push(format!(
                    "pod-{pod}: {state}, and worker {} of generation {serving} retires at {} ms",
                    worker.number,
                    worker.draining.unwrap_or(0)
                ));
            }
        };
        for (at, event) in &history.log {
            let (before, then) = (
                serving,
                match event {
                    Event::ReloadStarted { generation } => {
                        new = *generation;
                        "a reload begins"
                    }
                    Event::ReloadFailed { .. } => "a reload fails",
                    Event::ReloadFinished { .. } => {
                        serving = new;
                        ""
                    }
                    Event::ShutdownRequested { .. }
                    | Event::CrashLoop { .. }
                    | Event::KillRequested { .. } => "",
                    _ => continue,
                },
            );
            check(state, before, since, *at);
            (state, since) = (then, *at);
        }
        // The workers of a dead supervisor drain by themselves.
        check(state, serving, since, history.killed.unwrap_or(u64::MAX));
    }

    /// A worker that never served may be killed soon.
    fn starting(&self, history: &History, _at: u64) -> bool {
        history.stop.is_some() || history.gave_up.is_some() || history.retired.is_some()
    }

    /// With nothing left to do, a server leaves; it does not wait for its deadline.
    fn promptness(
        &self,
        instance: &Arc<Instance>,
        history: &History,
        stop: u64,
        exited: u64,
        problems: &mut Vec<String>,
    ) {
        let scenario = &self.world.scenario;
        let s = &scenario.server;
        if !scenario.faults.is_empty() {
            return;
        }
        let begun = history.drain.unwrap_or(stop).max(stop + s.drain_delay_ms);
        let busy = self
            .attempts
            .iter()
            .filter(|a| a.pod == Some(instance.pod) && a.start_ms <= exited)
            .map(|a| a.end_ms)
            .max()
            .unwrap_or(0);
        // Whoever was in the middle of something: a connection without a request lingers, a closed one is read from for a
        // moment, a client's end takes its time on the wire, an application has its shutdown.
        let wire = 2 * scenario.network.latency.max_ms();
        let linger = s.keepalive_linger_ms.max(FRESH_LINGER.as_millis() as u64);
        let tail = linger.max(CLOSE_LINGER.as_millis() as u64)
            + CLOSE_LINGER.as_millis() as u64
            + CLOSE_SETTLE.as_millis() as u64
            + scenario.app.shutdown.max_ms()
            + wire
            + 50;
        let abandoned = self.attempts.iter().any(|a| {
            a.pod == Some(instance.pod) && matches!(a.result, Some(Err(Failure::GaveUp | Failure::Timeout)))
        });
        if !abandoned && exited > begun.max(busy) + tail {
            problems.push(format!(
                "pod-{}: had nothing to do from {} ms on and exits at {exited} ms",
                instance.pod,
                begun.max(busy)
            ));
        }
    }

    /// Readiness says no from the signal on, and not before: who retires, or takes its place, is no reason.
    fn readiness(&self, problems: &mut Vec<String>) {
        for probe in self.world.probes() {
            let serves = self.instances.iter().filter(|i| i.pod == probe.pod).any(|i| {
                let history = i.history();
                let by = |at: Option<u64>| at.is_some_and(|at| at <= probe.answered_ms);
                // The connections of a worker that is at its deadline are all ended with 503.
                let excused = by(history.stop)
                    || by(history.exited.map(|(at, _)| at))
                    || by(history.killed)
                    || by(history.gave_up)
                    || by(history.forced)
                    || by(history.too_many);
                history.ready.is_some_and(|ready| ready <= probe.sent_ms) && !excused
            });
            if serves && probe.refused {
                problems.push(format!(
                    "pod-{}: serves, and says at {} ms that it is not ready",
                    probe.pod, probe.answered_ms
                ));
            }
            let stopped = self.instances.iter().filter(|i| i.pod == probe.pod).any(|i| {
                let history = i.history();
                let frozen = !history.frozen.is_empty();
                let over = history.exited.map(|(at, _)| at).or(history.killed).unwrap_or(u64::MAX);
                !frozen
                    && history.stop.is_some_and(|stop| stop + 50 <= probe.sent_ms)
                    && probe.answered_ms <= over
            });
            if stopped && probe.ready {
                problems.push(format!("pod-{}: says that it is ready at {} ms", probe.pod, probe.sent_ms));
            }
        }
    }
}
