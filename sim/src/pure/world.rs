//! The state of a run, its event queue and its loop. What the events do is in the modules beside this one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use pounce_core::Instant;

use super::ledger::{Cause, Line, Outcome};
use super::plan::Plan;
use super::pod::Pod;
use super::socket::{Down, Seg, Socket};
use super::traffic::{Balancer, Client, Request};
use crate::rng::Rng;

/// Names a pod for ever; never used again, unlike a place in a list of endpoints.
pub(crate) type PodId = u32;
pub(crate) type SocketId = u32;
pub(crate) type RequestId = u32;

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    // The platform.
    RolloutStart,
    Reconcile,
    ContainerStart(PodId),
    ProcessStart(PodId),
    Probe(PodId),
    Terminate(PodId),
    Term(PodId),
    Kill(PodId),
    Endpoint {
        balancer: u32,
        pod: PodId,
        up: bool,
    },
    // The server.
    Wake(PodId),
    WakeWorker(PodId, u32),
    WorkerStart(PodId, u32),
    Booted(PodId, u32),
    AppStopped(PodId, u32),
    Poll(SocketId),
    Answer(SocketId, RequestId),
    AnswerEnd(SocketId, RequestId),
    // The network.
    Syn(SocketId),
    Connected(SocketId),
    /// The third part of the handshake.
    Ack(SocketId),
    Refused(SocketId),
    Up(SocketId, Seg),
    Down(SocketId, Down),
    // The clients.
    Ask(u32),
    Dispatch(RequestId),
    PoolIdle(SocketId),
    Leave(RequestId),
    AnswerTimeout(RequestId, u32),
    ConnectTimeout(SocketId),
    TrafficEnd,
    GiveUp,
    Fault(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    at: Instant,
    seq: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// How long a rollout may take before it is called stuck.
const STUCK_AFTER: Duration = Duration::from_secs(900);

pub(crate) struct World<'p> {
    pub plan: &'p Plan,
    pub rng: Rng,
    pub now: Instant,
    queue: BinaryHeap<Reverse<Entry>>,
    seq: u64,
    pub pods: Vec<Pod>,
    pub sockets: Vec<Socket>,
    pub requests: Vec<Request>,
    pub balancers: Vec<Balancer>,
    pub clients: Vec<Client>,
    /// Connections in a listening socket that no process has open, because the service manager does.
    pub kept: std::collections::VecDeque<SocketId>,
    pub outcome: Outcome,
    /// Requests whose fate is open.
    pub outstanding: u32,
    pub rolling: bool,
    pub rolled: bool,
    pub traffic_ended: bool,
    gave_up: bool,
    /// The last requests of a run with faults get the time that they need.
    reprieved: bool,
    pub lines: Option<Vec<Line>>,
}

impl<'p> World<'p> {
    pub fn new(plan: &'p Plan, seed: u64, with_lines: bool) -> World<'p> {
        World {
            plan,
            rng: Rng::new(seed),
            now: Instant::ZERO,
            queue: BinaryHeap::with_capacity(256),
            seq: 0,
            pods: Vec::with_capacity(plan.replicas as usize * 2 + 2),
            sockets: Vec::with_capacity(64),
            requests: Vec::with_capacity(256),
            balancers: plan.balancers.iter().map(|_| Balancer::default()).collect(),
            clients: plan.clients.iter().map(|c| Client::new(c.requests)).collect(),
            kept: std::collections::VecDeque::new(),
            outcome: Outcome::default(),
            outstanding: 0,
            rolling: false,
            rolled: false,
            traffic_ended: false,
            gave_up: false,
            reprieved: false,
            lines: with_lines.then(Vec::new),
        }
    }

    pub fn at(&mut self, at: Instant, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), seq: self.seq, event }));
    }

    pub fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub fn latency(&mut self) -> Duration {
        self.plan.latency.draw(&mut self.rng)
    }

    /// A line of the timeline; the closure runs only when somebody reads it.
    pub fn line(&mut self, line: impl FnOnce() -> (String, String)) {
        if let Some(lines) = &mut self.lines {
            let (who, what) = line();
            lines.push(Line { at: self.now, who, what });
        }
    }

    /// A promise of the server was broken.
    pub fn broken(&mut self, what: impl FnOnce() -> String) {
        let what = format!("{} {}", self.now, what());
        self.line(|| ("BROKEN".into(), what.clone()));
        self.outcome.broken.push(what);
    }

    pub fn run(mut self) -> (Outcome, Vec<Line>) {
        self.set_up();
        while let Some(Reverse(Entry { at, event, .. })) = self.queue.pop() {
            debug_assert!(at >= self.now, "time moves forward");
            self.now = at;
            self.outcome.events += 1;
            self.mix(at.as_nanos());
            self.dispatch(event);
            if self.is_over() {
                break;
            }
        }
        self.settle_accounts();
        (self.outcome, self.lines.unwrap_or_default())
    }

    fn mix(&mut self, value: u64) {
        self.outcome.hash = (self.outcome.hash.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::RolloutStart => self.start_rollout(),
            Event::Reconcile => self.reconcile(),
            Event::ContainerStart(pod) => self.start_container(pod),
            Event::ProcessStart(pod) => self.start_process(pod),
            Event::Probe(pod) => self.probe(pod),
            Event::Terminate(pod) => self.terminate(pod),
            Event::Term(pod) => self.term(pod),
            Event::Kill(pod) => self.platform_kill(pod),
            Event::Endpoint { balancer, pod, up } => self.endpoint(balancer, pod, up),
            Event::Wake(pod) => self.wake(pod),
            Event::WakeWorker(pod, worker) => self.wake_worker(pod, worker),
            Event::WorkerStart(pod, worker) => self.start_worker(pod, worker),
            Event::Booted(pod, worker) => self.booted(pod, worker),
            Event::AppStopped(pod, worker) => self.app_stopped(pod, worker),
            Event::Poll(socket) => self.poll_due(socket),
            Event::Answer(socket, request) => self.answer(socket, request),
            Event::AnswerEnd(socket, request) => self.answer_end(socket, request),
            Event::Syn(socket) => self.syn(socket),
            Event::Connected(socket) => self.connected(socket),
            Event::Ack(socket) => self.ack(socket),
            Event::Refused(socket) => self.refused(socket),
            Event::Up(socket, seg) => self.up(socket, seg),
            Event::Down(socket, down) => self.down(socket, down),
            Event::Ask(client) => self.ask(client),
            Event::Dispatch(request) => self.dispatch_request(request),
            Event::PoolIdle(socket) => self.pool_idle(socket),
            Event::Leave(request) => self.leave(request),
            Event::AnswerTimeout(request, tries) => self.answer_timeout(request, tries),
            Event::ConnectTimeout(socket) => self.connect_timeout(socket),
            Event::TrafficEnd => self.traffic_ended = true,
            Event::GiveUp => self.give_up(),
            Event::Fault(index) => self.strike(index),
        }
    }

    fn set_up(&mut self) {
        for _ in 0..self.plan.replicas {
            self.create_first_pod();
        }
        for (client, plan) in self.plan.clients.iter().enumerate() {
            // Clients without an end of their own are not in step.
            let think =
                if plan.requests == u32::MAX { plan.think.draw(&mut self.rng) } else { Duration::ZERO };
            self.after(plan.start + think, Event::Ask(client as u32));
        }
        for (index, fault) in self.plan.faults.iter().enumerate() {
            self.after(fault.at, Event::Fault(index as u32));
        }
        self.after(self.plan.deploy_at, Event::RolloutStart);
        self.after(self.plan.deploy_at + STUCK_AFTER, Event::GiveUp);
    }

    /// The rollout is stuck: what is left has to end.
    fn give_up(&mut self) {
        if !self.rolled {
            self.rolled = true;
            self.traffic_ended = true;
            self.clients.iter_mut().for_each(|client| client.left = 0);
            if self.plan.faults.is_empty() {
                self.broken(|| "the rollout did not finish".into());
            }
        } else if !self.plan.faults.is_empty() && !std::mem::replace(&mut self.reprieved, true) {
            // A server that a fault left hanging answers nobody; its clients come to an end all the same.
            self.traffic_ended = true;
            self.clients.iter_mut().for_each(|client| client.left = 0);
        } else {
            let left = self.outstanding;
            self.broken(|| format!("{left} request(s) or a pod have no end"));
            self.gave_up = true;
        }
        self.after(STUCK_AFTER, Event::GiveUp);
    }

    fn is_over(&self) -> bool {
        self.gave_up
            || (self.rolled
                && self.outstanding == 0
                && (self.traffic_ended || self.clients.iter().all(|c| c.left == 0))
                && self
                    .clients
                    .iter()
                    .zip(&self.plan.clients)
                    .all(|(c, p)| c.left == 0 || p.requests == u32::MAX)
                && self.pods.iter().all(Pod::is_settled))
    }

    /// What must be true when a run has ended.
    fn settle_accounts(&mut self) {
        self.outcome.ended_at = self.now;
        let unexplained = self.outcome.causes.get(Cause::Unexplained);
        if unexplained > 0 {
            self.broken(|| format!("{unexplained} request(s) failed without a cause"));
        }
        let failed: u32 = self.outcome.causes.iter().map(|(_, count)| count).sum();
        let (asked, answered) = (self.outcome.requests, self.outcome.answered);
        if asked != answered + failed || self.outstanding > 0 {
            let open = self.outstanding;
            self.broken(|| {
                format!("{asked} requests were sent, {answered} answered, {failed} failed, {open} are open")
            });
        }
    }
}
