//! A whole server in memory: one supervisor, its workers, their connections and the clients, wired as the real drivers
//! wire them. Nothing happens by itself: every message, every step of a client, every timer is an [`Action`] that the
//! test chooses, so any interleaving can be had. Every input and output passes the observers.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use pounce_core::connection::{
    Connection, Ending, Output as ConnectionOutput, Phase, ReadVerdict, Role, State,
};
use pounce_core::event::{ExitStatus, Signal};
use pounce_core::invariants::{
    ConnectionAnswer, ConnectionInput, ConnectionObserver, SupervisorObserver, Violation, WorkerObserver,
};
use pounce_core::policy::Policy;
use pounce_core::protocol::{FromWorker, ToWorker};
use pounce_core::supervisor::{Input as SupervisorInput, Output as SupervisorOutput, Placement, WorkerId};
use pounce_core::worker::{Input as WorkerInput, Output as WorkerOutput};
use pounce_core::{Instant, Supervisor, Worker};

type Checked = Result<(), Violation>;

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub term: u8,
    pub int: u8,
    pub quit: u8,
    pub hup: u8,
    pub crash: u8,
    pub boot_failure: u8,
    /// SIGTERM to one worker.
    pub retire: u8,
    /// A half-sent request head.
    pub half_head: u8,
}

/// What a server is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub policy: Policy,
    pub workers: u32,
    pub clients: u8,
    pub budget: Budget,
    /// A request is written the moment the connection is there, not some time after.
    pub eager_clients: bool,
}

/// One thing that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Connect(u8),
    Send(u8),
    SendHalf(u8),
    Accept,
    Sweep,
    ToWorker(WorkerId),
    FromWorker(WorkerId),
    Ready(WorkerId),
    StartFailed(WorkerId),
    HostStopped(WorkerId),
    Terminated(WorkerId),
    Crash(WorkerId),
    Reap(WorkerId),
    Read(u8),
    Respond(u8),
    Signal(Signal),
    /// Time goes on to the next timer of anybody.
    Tick,
    SupervisorTimeout,
    WorkerTimeout(WorkerId),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ToWorkerItem {
    Deal(u8),
    Message(ToWorker),
}

/// One worker process.
#[derive(Clone, Debug)]
struct Proc {
    worker: Worker,
    observer: WorkerObserver,
    inbox: VecDeque<ToWorkerItem>,
    outbox: VecDeque<FromWorker>,
    timeout: Option<Instant>,
    app_stopping: bool,
    app_ready: bool,
    dead: Option<ExitStatus>,
}

/// The processes that are not reaped, in the order of their start. A vector, because it is copied for every state.
#[derive(Clone, Debug, Default)]
struct Procs(Vec<(WorkerId, Proc)>);

impl Procs {
    fn get(&mut self, id: WorkerId) -> Option<&mut Proc> {
        self.0.iter_mut().find(|(known, _)| *known == id).map(|(_, proc)| proc)
    }
}

/// Where a client's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Place {
    Away,
    Backlog,
    Held,
    /// In a worker's inbox.
    Dealt(WorkerId),
    Worker(WorkerId),
    /// The supervisor answers it.
    FrontDesk,
    Gone,
}

/// What of its request a client has written, and the server read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    Unsent,
    /// Half of the head is in the socket, or read.
    Half {
        read: bool,
    },
    Sent,
    Read,
}

/// How it ended for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Open,
    /// A whole response of the application's.
    Answered,
    /// A whole 503.
    Refused,
    /// Ended before a request was sent.
    Unused,
    /// Sent, and no whole answer.
    Lost,
}

#[derive(Clone, Debug, Hash)]
struct Client {
    place: Place,
    request: Request,
    outcome: Outcome,
    connection: Option<Connection>,
    timeout: Option<Instant>,
}

/// The server and its world.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub now: Instant,
    policy: Policy,
    eager_clients: bool,
    supervisor: Supervisor,
    supervisor_timeout: Option<Instant>,
    procs: Procs,
    clients: Vec<Client>,
    backlog: VecDeque<u8>,
    held: VecDeque<u8>,
    listening: bool,
    dropping_syns: bool,
    front_desk_phase: Phase,
    pub budget: Budget,
    pub exit: Option<i32>,
    /// A request was lost after the shutdown began.
    lost_in_shutdown: bool,
    supervisor_observer: SupervisorObserver,
    connection_observers: Vec<Option<ConnectionObserver>>,
}

/// The time at which two states are compared.
const COMPARED_AT: Instant = Instant::from_millis(1_000_000_000);
/// What is longer ago than this is as good as ever: more than any time that a machine counts from the past, given the
/// policies of the tests.
const LONG_AGO: Duration = Duration::from_millis(1100);
/// The same for a worker, which counts only the interval between two reports.
const LONG_AGO_FOR_A_WORKER: Duration = Duration::from_millis(10);
/// A timer further away than this is none: the policies of the tests say so for what they do not mean to try.
const NEVER: Duration = Duration::from_secs(3600);

fn violation(rule: &'static str, seen: String) -> Violation {
    Violation { number: 22, rule, seen }
}

impl Cluster {
    pub fn new(setup: Setup) -> Result<Cluster, Violation> {
        let now = Instant::from_millis(60_000);
        let client = Client {
            place: Place::Away,
            request: Request::Unsent,
            outcome: Outcome::Open,
            connection: None,
            timeout: None,
        };
        let mut this = Cluster {
            now,
            policy: setup.policy,
            eager_clients: setup.eager_clients,
            supervisor: Supervisor::new(setup.policy, setup.workers, now),
            supervisor_timeout: None,
            procs: Procs::default(),
            clients: vec![client; usize::from(setup.clients)],
            backlog: VecDeque::new(),
            held: VecDeque::new(),
            listening: true,
            dropping_syns: false,
            front_desk_phase: Phase::Serving,
            budget: setup.budget,
            exit: None,
            lost_in_shutdown: false,
            supervisor_observer: SupervisorObserver::new(now),
            connection_observers: vec![None; usize::from(setup.clients)],
        };
        this.obey_supervisor()?;
        Ok(this)
    }

    /// A server whose workers all serve.
    pub fn started(setup: Setup) -> Result<Cluster, Violation> {
        let mut this = Cluster::new(setup)?;
        while !this.supervisor.is_ready() {
            let next = this
                .actions()
                .into_iter()
                .find(|a| matches!(a, Action::Ready(_) | Action::FromWorker(_) | Action::ToWorker(_)));
            this.apply(next.ok_or_else(|| violation("a healthy server starts", format!("{this:?}")))?)?;
        }
        Ok(this)
    }

    pub fn outcomes(&self) -> Vec<Outcome> {
        self.clients.iter().map(|c| c.outcome).collect()
    }

    pub fn shutting_down(&self) -> bool {
        self.supervisor.deadline().is_some()
    }

    /// A hash of everything that decides what can happen from here, with times relative to now.
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        let back = self.now;
        let shift_within = |at: &mut Instant, long_ago: Duration| {
            *at = if *at >= back {
                COMPARED_AT + at.since(back)
            } else {
                COMPARED_AT - back.since(*at).min(long_ago)
            };
        };
        let shift = |at: &mut Instant| shift_within(at, LONG_AGO);
        let shifted = |at: Option<Instant>| {
            at.map(|mut at| {
                shift(&mut at);
                at
            })
        };
        let mut supervisor = self.supervisor.clone();
        supervisor.for_each_instant(shift);
        supervisor.hash(hasher);
        shifted(self.supervisor_timeout).hash(hasher);
        for (id, proc) in &self.procs.0 {
            id.hash(hasher);
            let mut worker = proc.worker.clone();
            worker.for_each_instant(|at| shift_within(at, LONG_AGO_FOR_A_WORKER));
            worker.hash(hasher);
            (&proc.inbox, &proc.outbox, proc.app_stopping, proc.app_ready, proc.dead).hash(hasher);
            shifted(proc.timeout).hash(hasher);
        }
        for client in &self.clients {
            (client.place, client.request, client.outcome).hash(hasher);
            shifted(client.timeout).hash(hasher);
            if let Some(mut connection) = client.connection.clone() {
                connection.for_each_instant(shift);
                connection.hash(hasher);
            }
        }
        (&self.backlog, &self.held, self.listening, self.dropping_syns, self.front_desk_phase).hash(hasher);
        (self.budget, self.exit, self.lost_in_shutdown).hash(hasher);
    }

    /// Everything that can happen next.
    pub fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.exit.is_some() {
            return actions;
        }
        self.client_actions(&mut actions);
        if self.supervisor.wants_backlog_empty() {
            actions.push(Action::Sweep);
        } else if self.supervisor.wants_accept() && !(self.backlog.is_empty() && self.held.is_empty()) {
            actions.push(Action::Accept);
        }
        for &(id, ref proc) in &self.procs.0 {
            self.proc_actions(id, proc, &mut actions);
        }
        let b = &self.budget;
        for (left, signal) in
            [(b.term, Signal::Term), (b.int, Signal::Int), (b.quit, Signal::Quit), (b.hup, Signal::Hup)]
        {
            if left > 0 {
                actions.push(Action::Signal(signal));
            }
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        // The supervisor runs no user code, so it is prompt: time does not go on while something waits for it. A
        // worker can be busy for as long as it likes.
        let urgent = |a: &Action| {
            matches!(a, Action::Accept | Action::Sweep | Action::FromWorker(_) | Action::Reap(_))
        };
        let mut anybody = actions.iter().any(urgent);
        if due(self.supervisor_timeout) {
            actions.push(Action::SupervisorTimeout);
            anybody = true;
        }
        for &(id, ref proc) in &self.procs.0 {
            if proc.dead.is_none() && due(proc.timeout) {
                actions.push(Action::WorkerTimeout(id));
                anybody = true;
            }
        }
        if !anybody && self.next_timer().is_some() {
            actions.push(Action::Tick);
        }
        actions
    }

    fn client_actions(&self, actions: &mut Vec<Action>) {
        let mut someone_is_away = false;
        for (i, client) in self.clients.iter().enumerate() {
            let i = i as u8;
            match (client.place, client.request) {
                (Place::Gone, _) => continue,
                // Clients are alike, so only the first of those who are away comes next.
                (Place::Away, _) => {
                    if !someone_is_away && self.listening && !self.dropping_syns {
                        actions.push(Action::Connect(i));
                    }
                    someone_is_away = true;
                    continue;
                }
                (_, Request::Unsent) => {
                    actions.push(Action::Send(i));
                    if self.budget.half_head > 0 {
                        actions.push(Action::SendHalf(i));
                    }
                }
                (_, Request::Half { read: true }) => actions.push(Action::Send(i)),
                _ => {}
            }
            let Some(connection) = &client.connection else { continue };
            match (connection.state(), client.request) {
                (State::Fresh | State::ReadingHead, Request::Sent | Request::Half { read: false }) => {
                    actions.push(Action::Read(i));
                }
                (State::InFlight, _) => actions.push(Action::Respond(i)),
                _ => {}
            }
        }
    }

    fn proc_actions(&self, id: WorkerId, proc: &Proc, actions: &mut Vec<Action>) {
        if !proc.outbox.is_empty() {
            actions.push(Action::FromWorker(id));
        }
        if proc.dead.is_some() {
            if proc.outbox.is_empty() {
                actions.push(Action::Reap(id));
            }
            return;
        }
        if !proc.inbox.is_empty() {
            actions.push(Action::ToWorker(id));
        }
        if !proc.app_ready {
            actions.push(Action::Ready(id));
            if self.budget.boot_failure > 0 {
                actions.push(Action::StartFailed(id));
            }
        }
        if proc.app_stopping {
            actions.push(Action::HostStopped(id));
        }
        if self.budget.retire > 0 {
            actions.push(Action::Terminated(id));
        }
        if self.budget.crash > 0 {
            actions.push(Action::Crash(id));
        }
    }

    /// The earliest timer of anybody.
    fn next_timer(&self) -> Option<Instant> {
        let procs = self.procs.0.iter().map(|(_, proc)| proc).filter(|p| p.dead.is_none()).map(|p| p.timeout);
        let clients = self.clients.iter().filter(|c| c.connection.is_some()).map(|c| c.timeout);
        let far = self.now + NEVER;
        std::iter::once(self.supervisor_timeout)
            .chain(procs)
            .chain(clients)
            .flatten()
            .filter(|at| *at < far)
            .min()
    }

    /// Lets one thing happen, and everything that follows from it at once.
    pub fn apply(&mut self, action: Action) -> Checked {
        match action {
            Action::Connect(i) => {
                self.clients[usize::from(i)].place = Place::Backlog;
                self.backlog.push_back(i);
                if self.eager_clients {
                    self.clients[usize::from(i)].request = Request::Sent;
                }
            }
            Action::Send(i) => self.clients[usize::from(i)].request = Request::Sent,
            Action::SendHalf(i) => {
                self.budget.half_head -= 1;
                self.clients[usize::from(i)].request = Request::Half { read: false };
            }
            Action::Accept => {
                if let Some(i) = self.held.pop_front().or_else(|| self.backlog.pop_front()) {
                    self.place(i)?;
                }
            }
            Action::Sweep => {
                for i in std::mem::take(&mut self.held).into_iter().chain(std::mem::take(&mut self.backlog)) {
                    self.place(i)?;
                }
                self.tell_supervisor(SupervisorInput::AcceptBlocked)?;
            }
            Action::ToWorker(id) => self.deliver_to_worker(id)?,
            Action::FromWorker(id) => {
                if let Some(message) = self.procs.get(id).and_then(|p| p.outbox.pop_front()) {
                    self.tell_supervisor(SupervisorInput::Worker { worker: id, message })?;
                }
            }
            Action::Ready(id) => {
                self.proc(id).app_ready = true;
                self.tell_worker(id, WorkerInput::Ready)?;
            }
            Action::StartFailed(id) => {
                self.budget.boot_failure -= 1;
                self.proc(id).app_ready = true;
                self.tell_worker(id, WorkerInput::StartFailed { message: "no".into() })?;
            }
            Action::HostStopped(id) => {
                self.proc(id).app_stopping = false;
                self.tell_worker(id, WorkerInput::HostStopped)?;
            }
            Action::Terminated(id) => {
                self.budget.retire -= 1;
                self.tell_worker(id, WorkerInput::Terminated)?;
            }
            Action::Crash(id) => {
                self.budget.crash -= 1;
                self.die(id, ExitStatus::Signal(11), true)?;
            }
            Action::Reap(id) => self.reap(id)?,
            Action::Read(i) => self.read(i)?,
            Action::Respond(i) => self.respond(i, Outcome::Answered)?,
            Action::Signal(signal) => {
                let left = match signal {
                    Signal::Term => &mut self.budget.term,
                    Signal::Int => &mut self.budget.int,
                    Signal::Quit => &mut self.budget.quit,
                    Signal::Hup => &mut self.budget.hup,
                };
                *left -= 1;
                self.tell_supervisor(SupervisorInput::Signal(signal))?;
            }
            Action::Tick => {
                if let Some(at) = self.next_timer() {
                    self.now = self.now.max(at);
                }
            }
            Action::SupervisorTimeout => self.tell_supervisor(SupervisorInput::Timeout)?,
            Action::WorkerTimeout(id) => self.tell_worker(id, WorkerInput::Timeout)?,
        }
        self.pump()
    }

    fn proc(&mut self, id: WorkerId) -> &mut Proc {
        self.procs.get(id).expect("the action names a process that exists")
    }

    fn tell_supervisor(&mut self, input: SupervisorInput) -> Checked {
        self.supervisor_observer.input(&self.supervisor, self.now, &input)?;
        self.supervisor.handle(self.now, input);
        self.obey_supervisor()
    }

    fn tell_worker(&mut self, id: WorkerId, input: WorkerInput) -> Checked {
        let now = self.now;
        let Some(proc) = self.procs.get(id) else { return Ok(()) };
        proc.observer.input(&proc.worker, now, &input)?;
        proc.worker.handle(now, input);
        self.obey_worker(id)
    }

    fn obey_supervisor(&mut self) -> Checked {
        loop {
            let output = self.supervisor.poll_output();
            self.supervisor_observer.output(&self.supervisor, self.now, &output)?;
            match output {
                SupervisorOutput::Spawn { worker, .. } => {
                    let proc = Proc {
                        worker: Worker::new(self.policy, self.now),
                        observer: WorkerObserver::new(self.now),
                        inbox: VecDeque::new(),
                        outbox: VecDeque::new(),
                        timeout: None,
                        app_stopping: false,
                        app_ready: false,
                        dead: None,
                    };
                    self.procs.0.push((worker, proc));
                    self.obey_worker(worker)?;
                }
                SupervisorOutput::Tell { worker, message } => {
                    if let Some(proc) = self.procs.get(worker).filter(|p| p.dead.is_none()) {
                        proc.inbox.push_back(ToWorkerItem::Message(message));
                    }
                }
                SupervisorOutput::Kill { worker } => self.die(worker, ExitStatus::Signal(9), true)?,
                SupervisorOutput::RefuseNew => self.dropping_syns = true,
                SupervisorOutput::CloseListeners => {
                    self.listening = false;
                    for i in std::mem::take(&mut self.backlog) {
                        self.lose(i, self.out_of_patience(), "reset in the accept queue")?;
                    }
                }
                SupervisorOutput::Phase(phase) => {
                    self.front_desk_phase = self.front_desk_phase.max(phase);
                    for i in 0..self.clients.len() {
                        if self.clients[i].place == Place::FrontDesk {
                            self.step(i as u8, ConnectionInput::Phase(phase))?;
                        }
                    }
                }
                SupervisorOutput::Notify(_) | SupervisorOutput::Report(_) => {}
                SupervisorOutput::Exit { code } => return self.leave(code),
                SupervisorOutput::Timeout(at) => {
                    self.supervisor_timeout = at;
                    return Ok(());
                }
            }
        }
    }

    /// The supervisor was told to stop at once, or its time and the grace after it are over.
    fn out_of_patience(&self) -> bool {
        let late = self.supervisor.deadline().is_some_and(|at| at <= self.now);
        late || self.supervisor.cut_short()
    }

    fn leave(&mut self, code: i32) -> Checked {
        self.exit = Some(code);
        let rest: Vec<u8> = (0..self.clients.len() as u8).collect();
        for i in rest {
            let client = &self.clients[usize::from(i)];
            if !matches!(client.place, Place::Away | Place::Gone) {
                self.lose(i, self.out_of_patience(), "left behind by the exit")?;
            }
        }
        if code == 0 && self.lost_in_shutdown {
            return Err(violation(
                "nobody lost a request if the exit code is 0",
                format!("{:?}", self.outcomes()),
            ));
        }
        Ok(())
    }

    fn obey_worker(&mut self, id: WorkerId) -> Checked {
        let now = self.now;
        loop {
            let Some(proc) = self.procs.get(id) else { return Ok(()) };
            let output = proc.worker.poll_output();
            proc.observer.output(&proc.worker, now, &output)?;
            match output {
                WorkerOutput::Send(message) => proc.outbox.push_back(message),
                WorkerOutput::Phase(phase) => self.each_connection_of(id, ConnectionInput::Phase(phase))?,
                WorkerOutput::NotReady => {}
                WorkerOutput::StopHost => proc.app_stopping = true,
                WorkerOutput::CloseAll => {
                    for i in self.clients_of(id) {
                        self.step(i, ConnectionInput::CloseAll)?;
                        self.closed(i)?;
                    }
                }
                WorkerOutput::Exit { code } => return self.die(id, ExitStatus::Code(code), false),
                WorkerOutput::Timeout(at) => {
                    proc.timeout = at;
                    return Ok(());
                }
            }
        }
    }

    fn clients_of(&self, id: WorkerId) -> Vec<u8> {
        let of = |c: &Client| c.place == Place::Worker(id) && c.connection.is_some();
        (0..self.clients.len() as u8).filter(|i| of(&self.clients[usize::from(*i)])).collect()
    }

    fn each_connection_of(&mut self, id: WorkerId, input: ConnectionInput) -> Checked {
        for i in self.clients_of(id) {
            self.step(i, input)?;
        }
        Ok(())
    }

    /// The process ends; `excused`: what it was doing may be lost.
    fn die(&mut self, id: WorkerId, status: ExitStatus, excused: bool) -> Checked {
        let Some(proc) = self.procs.get(id).filter(|p| p.dead.is_none()) else { return Ok(()) };
        proc.dead = Some(status);
        let aborting = proc.worker.phase() == Phase::Aborting;
        for i in self.clients_of(id) {
            self.lose(i, excused || aborting, "open when its worker left")?;
        }
        Ok(())
    }

    fn reap(&mut self, id: WorkerId) -> Checked {
        let Some(at) = self.procs.0.iter().position(|(known, _)| *known == id) else { return Ok(()) };
        let (_, proc) = self.procs.0.remove(at);
        let undelivered: Vec<u8> = proc
            .inbox
            .iter()
            .filter_map(|item| match item {
                ToWorkerItem::Deal(i) => Some(*i),
                ToWorkerItem::Message(_) => None,
            })
            .collect();
        let status = proc.dead.unwrap_or(ExitStatus::Code(0));
        self.tell_supervisor(SupervisorInput::Exited {
            worker: id,
            status,
            undelivered: undelivered.len() as u64,
        })?;
        for i in undelivered {
            if self.exit.is_none() {
                self.place(i)?;
            }
        }
        Ok(())
    }

    /// As the driver does it: what nobody takes is held.
    fn place(&mut self, i: u8) -> Checked {
        let mut placement = self.supervisor.on_accepted(self.now);
        loop {
            self.supervisor_observer.placed(&self.supervisor, placement)?;
            let client = &mut self.clients[usize::from(i)];
            match placement {
                Placement::Worker(id) => {
                    if let Some(proc) = self.procs.get(id).filter(|p| p.dead.is_none()) {
                        proc.inbox.push_back(ToWorkerItem::Deal(i));
                        client.place = Place::Dealt(id);
                        break;
                    }
                    self.supervisor_observer.deal_failed(id);
                    placement = self.supervisor.on_deal_failed(self.now, id);
                }
                Placement::Refuse(_) => {
                    client.place = Place::FrontDesk;
                    self.open(i, Role::Refuse, self.front_desk_phase);
                    break;
                }
                Placement::Hold => {
                    client.place = Place::Held;
                    self.held.push_back(i);
                    break;
                }
            }
        }
        self.obey_supervisor()
    }

    fn open(&mut self, i: u8, role: Role, phase: Phase) {
        let connection = Connection::new(&self.policy, role, phase, self.now);
        self.clients[usize::from(i)].connection = Some(connection);
        self.connection_observers[usize::from(i)] = Some(ConnectionObserver::new(phase, self.now));
    }

    fn deliver_to_worker(&mut self, id: WorkerId) -> Checked {
        match self.proc(id).inbox.pop_front() {
            Some(ToWorkerItem::Deal(i)) => {
                self.tell_worker(id, WorkerInput::Opened)?;
                self.clients[usize::from(i)].place = Place::Worker(id);
                let phase = self.proc(id).worker.phase();
                self.open(i, Role::Serve, phase);
                Ok(())
            }
            Some(ToWorkerItem::Message(message)) => {
                let active = |c: &Client| c.connection.as_ref().is_some_and(Connection::is_active);
                let active =
                    self.clients_of(id).iter().filter(|i| active(&self.clients[usize::from(**i)])).count();
                self.tell_worker(id, WorkerInput::Order { message, active: active as u64 })
            }
            None => Ok(()),
        }
    }

    fn step(&mut self, i: u8, input: ConnectionInput) -> Result<ConnectionAnswer, Violation> {
        let i = usize::from(i);
        match (&mut self.clients[i].connection, &mut self.connection_observers[i]) {
            (Some(connection), Some(observer)) => observer.step(connection, self.now, input),
            _ => Ok(ConnectionAnswer::Nothing),
        }
    }

    /// What is in the socket is read.
    fn read(&mut self, i: u8) -> Checked {
        self.step(i, ConnectionInput::HeadBytes)?;
        let client = &mut self.clients[usize::from(i)];
        match client.request {
            Request::Half { .. } => client.request = Request::Half { read: true },
            _ => {
                client.request = Request::Read;
                self.step(i, ConnectionInput::Request { has_body: false, client_close: false })?;
                if self.clients[usize::from(i)].place == Place::FrontDesk {
                    self.respond(i, Outcome::Refused)?;
                }
            }
        }
        Ok(())
    }

    fn respond(&mut self, i: u8, outcome: Outcome) -> Checked {
        self.step(i, ConnectionInput::ResponseHead { pipelined: false })?;
        self.step(i, ConnectionInput::ResponseEnd)?;
        self.step(i, ConnectionInput::Flushed)?;
        self.clients[usize::from(i)].outcome = outcome;
        self.close_if_over(i)
    }

    fn close_if_over(&mut self, i: u8) -> Checked {
        let over = |c: &Connection| c.state() == State::Closing;
        if self.clients[usize::from(i)].connection.as_ref().is_some_and(over) {
            self.closed(i)
        } else {
            Ok(())
        }
    }

    /// The socket is closed; its owner takes note.
    fn closed(&mut self, i: u8) -> Checked {
        self.step(i, ConnectionInput::Closed)?;
        let client = &mut self.clients[usize::from(i)];
        let Some(connection) = client.connection.take() else { return Ok(()) };
        let place = std::mem::replace(&mut client.place, Place::Gone);
        let cut = u64::from(connection.cut_requests());
        match (client.outcome, client.request) {
            (Outcome::Open, Request::Unsent) => client.outcome = Outcome::Unused,
            (Outcome::Open, _) => {
                // A half-sent head that the client never finished is its own failure, unless the server cut it.
                client.outcome = Outcome::Lost;
                let excused = connection.phase() == Phase::Aborting;
                self.lost_in_shutdown |= self.shutting_down();
                if !excused {
                    let seen = format!("client {i} at {}: {connection:?}", self.now);
                    return Err(violation("no request is lost before the deadline", seen));
                }
            }
            _ => {}
        }
        match place {
            Place::Worker(id) => self.tell_worker(id, WorkerInput::Closed { cut }),
            Place::FrontDesk => self.tell_supervisor(SupervisorInput::RefusedClosed),
            _ => Ok(()),
        }
    }

    /// The connection is gone with whoever had it.
    fn lose(&mut self, i: u8, excused: bool, how: &'static str) -> Checked {
        let shutting_down = self.shutting_down();
        let client = &mut self.clients[usize::from(i)];
        client.connection = None;
        let before = std::mem::replace(&mut client.place, Place::Gone);
        match (client.outcome, client.request) {
            (Outcome::Open, Request::Unsent) => client.outcome = Outcome::Unused,
            (Outcome::Open, _) => {
                client.outcome = Outcome::Lost;
                self.lost_in_shutdown |= shutting_down;
                if !excused {
                    let seen = format!("client {i} at {}: {how}, was {before:?}", self.now);
                    return Err(violation("no request is lost before the deadline", seen));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What the connections do by themselves, as their tasks do when a timer or a phase wakes them.
    fn pump(&mut self) -> Checked {
        for i in 0..self.clients.len() as u8 {
            self.poll_connection(i)?;
        }
        Ok(())
    }

    fn poll_connection(&mut self, i: u8) -> Checked {
        for _ in 0..8 {
            if self.clients[usize::from(i)].connection.is_none() {
                return Ok(());
            }
            let ConnectionAnswer::Output(output) = self.step(i, ConnectionInput::Poll)? else {
                return Ok(());
            };
            match output {
                ConnectionOutput::Wake => {
                    if matches!(
                        self.clients[usize::from(i)].request,
                        Request::Sent | Request::Half { read: false }
                    ) {
                        self.read(i)?;
                    } else if self.step(i, ConnectionInput::ReadBlocked)?
                        == ConnectionAnswer::Read(ReadVerdict::Eof)
                    {
                        self.closed(i)?;
                    }
                }
                ConnectionOutput::Reject(_) => {
                    self.clients[usize::from(i)].outcome = Outcome::Refused;
                    self.closed(i)?;
                }
                ConnectionOutput::EndRequest(Ending::Forced) => self.respond(i, Outcome::Refused)?,
                ConnectionOutput::EndRequest(_) => self.respond(i, Outcome::Answered)?,
                // No write waits in this world.
                ConnectionOutput::ProbeWrite => {}
                ConnectionOutput::Cut => {
                    self.step(i, ConnectionInput::Finished)?;
                    self.closed(i)?;
                }
                ConnectionOutput::Timeout(at) => {
                    self.clients[usize::from(i)].timeout = at;
                    return Ok(());
                }
            }
        }
        Err(violation(
            "a connection comes to rest",
            format!("client {i}: {:?}", self.clients[usize::from(i)]),
        ))
    }
}
