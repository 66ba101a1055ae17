//! The supervisor: which workers run, which of them gets a connection, and the shutdown of the whole server.
//!
//! It accepts every connection itself and deals it to a worker, so it knows when the accept queue was empty, it can
//! answer when no worker can, and it is never blocked by an application.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::event::{Event, ExitStatus, Signal};
use crate::machine;
use crate::policy::{
    BACKOFF_MAX, BACKOFF_MIN, BOOT_KILL_GRACE, CLOSE_SETTLE, CRASH_LOOP_DEATHS, KILL_GRACE, NOTIFY_INTERVAL,
    Policy, RETIRE_DELAY, STABLE_AFTER,
};
use crate::protocol::{FromWorker, ToWorker, VERSION};
use crate::time::Instant;

/// Names one worker process for ever.
pub type WorkerId = u64;

machine! {
    /// Where the server is.
    pub enum State {
        /// The first workers load the application; connections wait in the accept queue.
        Starting,
        Running,
        /// A new generation is loading beside the old one.
        Reloading,
        /// Told to stop; new work is still taken for `drain_delay`.
        LameDuck,
        /// What was in the accept queue when the drain began is dealt out.
        EmptyingBacklog,
        /// Running requests are finished, new connections get a 503.
        Draining,
        /// The deadline came, or the shutdown was cut short.
        Forcing,
        /// No worker is left; SYNs are dropped and the accept queue is emptied.
        Closing,
        /// The process leaves.
        Exited,
    }
    /// What moves the server.
    pub enum Edge {
        AllReady: Starting => Running,
        ReloadBegun: Running => Reloading,
        ReloadDone: Reloading => Running,
        Delay: Starting | Running | Reloading => LameDuck,
        Drain: Starting | Running | Reloading | LameDuck => EmptyingBacklog,
        BacklogEmpty: EmptyingBacklog => Draining,
        Force: Starting | Running | Reloading | LameDuck | EmptyingBacklog | Draining => Forcing,
        NoWorkers: EmptyingBacklog | Draining | Forcing => Closing,
        Closed: Closing => Exited,
    }
}

machine! {
    /// Where one worker is, as the supervisor knows it.
    pub enum WorkerState {
        /// Its process was started.
        Spawned,
        /// It said hello and loads the application.
        Booting,
        Ready,
        /// It finishes what it has and gets no new connection.
        Draining,
        /// It was told that the deadline is here.
        Aborting,
        /// It said that it is done; its process is about to leave.
        Stopped,
        /// SIGKILL was sent.
        Killed,
        /// Reaped.
        Gone,
    }
    /// What moves a worker.
    pub enum WorkerEdge {
        Hello: Spawned => Booting,
        Ready: Booting => Ready,
        Drain: Booting | Ready => Draining,
        Abort: Booting | Ready | Draining => Aborting,
        Stopped: Booting | Ready | Draining | Aborting => Stopped,
        Kill: Spawned | Booting | Ready | Draining | Aborting | Stopped => Killed,
        Exited: Spawned | Booting | Ready | Draining | Aborting | Stopped | Killed => Gone,
    }
}

/// Exit codes of the server.
pub mod exit {
    pub const CLEAN: i32 = 0;
    pub const INTERNAL: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const START_FAILED: i32 = 3;
    pub const FORCED: i32 = 4;
    pub const CRASH_LOOP: i32 = 5;
}

/// What happened to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Signal(Signal),
    Worker {
        worker: WorkerId,
        message: FromWorker,
    },
    /// A worker's process is gone and reaped; `undelivered` connections dealt to it came back, to be placed again.
    Exited {
        worker: WorkerId,
        status: ExitStatus,
        undelivered: u64,
    },
    /// A worker's process could not be started.
    SpawnFailed {
        worker: WorkerId,
    },
    /// The accept queues were all seen empty.
    AcceptBlocked,
    /// A connection that the supervisor itself answers was closed.
    RefusedClosed,
    Timeout,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Spawn {
        worker: WorkerId,
        number: u32,
        generation: u32,
    },
    Tell {
        worker: WorkerId,
        message: ToWorker,
    },
    Kill {
        worker: WorkerId,
    },
    /// Drop SYNs from now on; handshakes under way still end in the accept queue.
    RefuseNew,
    /// Close the listening sockets. The accept queue was empty.
    CloseListeners,
    /// The phase of the connections that the supervisor itself answers.
    Phase(crate::connection::Phase),
    Notify(Notify),
    Report(Event),
    Exit {
        code: i32,
    },
    /// Always the last one.
    Timeout(Option<Instant>),
}

/// For the service manager (sd_notify(3)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notify {
    /// Every worker serves.
    Ready,
    Reloading,
    /// The drain really begins.
    Stopping,
    /// There is progress; so much more time may be needed.
    ExtendTimeout(Duration),
    Status {
        workers: usize,
        connections: u64,
        active: u64,
    },
}

/// Where an accepted connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    Worker(WorkerId),
    /// The supervisor reads its request and answers with a complete 503.
    Refuse(Refusal),
}

/// Why a connection is answered with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Draining,
    TooManyConnections,
    /// No worker is there to take it.
    NoWorker,
}

/// One worker process.
#[derive(Clone, Debug)]
struct Proc {
    number: u32,
    generation: u32,
    state: WorkerState,
    /// Connections dealt, and those of them that it reported closed.
    dealt: u64,
    closed: u64,
    active: u64,
    requests: u64,
    since: Instant,
    kill_at: Option<Instant>,
    deadline: Option<Instant>,
    /// It was told to go while the server serves on; its end is no death.
    retiring: bool,
    /// The deadline was reported for it.
    forced: bool,
    /// It said `StartFailed`.
    start_failed: bool,
    stopped_said: bool,
    /// It answered the order to drain.
    draining_said: bool,
    /// It was ready once, so there may be something to lose.
    served: bool,
    /// A connection could not be given to it: its process is gone or going.
    unreachable: bool,
}

impl Proc {
    fn open(&self) -> u64 {
        self.dealt.saturating_sub(self.closed)
    }

    fn go(&mut self, edge: WorkerEdge) -> bool {
        match self.state.next(edge) {
            Some(to) => {
                self.state = to;
                true
            }
            None => false,
        }
    }
}

/// A place for a worker, numbered from 1.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// When to start a worker here, if one is due.
    spawn_at: Option<Instant>,
    /// When to replace the worker that asked to retire.
    retire_at: Option<Instant>,
}

/// The server. See the module.
#[derive(Clone, Debug)]
pub struct Supervisor {
    policy: Policy,
    state: State,
    procs: BTreeMap<WorkerId, Proc>,
    slots: Vec<Slot>,
    next_worker: WorkerId,
    generation: u32,
    /// The last generation that served; a reload that fails falls back to it.
    serving_generation: u32,
    outputs: VecDeque<Output>,
    /// End of `drain_delay`.
    delay_until: Option<Instant>,
    /// The forced end. Never moves back.
    deadline: Option<Instant>,
    /// Until when the listeners stay open after the last worker.
    settle_until: Option<Instant>,
    accept_blocked: bool,
    /// `settle_until` has passed; the next empty accept queue is the last look.
    settled: bool,
    /// The log was told that the server shuts down.
    announced: bool,
    refusing: u64,
    lost: bool,
    killed_now: bool,
    code: Option<i32>,
    deaths: u32,
    over_limit: bool,
    notified_at: Instant,
    progress: u64,
    progress_told: u64,
    listeners_closed: bool,
    /// Where the search for the least loaded worker begins, so that equals take turns.
    turn: WorkerId,
    ignored: u32,
}

impl Supervisor {
    /// A server with `workers` workers (at least one), which are started at once.
    pub fn new(policy: Policy, workers: u32, now: Instant) -> Supervisor {
        let workers = workers.max(1);
        let mut this = Supervisor {
            policy,
            state: State::Starting,
            procs: BTreeMap::new(),
            slots: vec![Slot::default(); workers as usize],
            next_worker: 1,
            generation: 1,
            serving_generation: 1,
            outputs: VecDeque::new(),
            delay_until: None,
            deadline: None,
            settle_until: None,
            accept_blocked: false,
            settled: false,
            announced: false,
            refusing: 0,
            lost: false,
            killed_now: false,
            code: None,
            deaths: 0,
            over_limit: false,
            notified_at: now,
            progress: 0,
            progress_told: 0,
            listeners_closed: false,
            turn: 0,
            ignored: 0,
        };
        for number in 1..=workers {
            this.spawn(now, number, 1);
        }
        this
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Inputs that made no sense where they came.
    pub fn ignored(&self) -> u32 {
        self.ignored
    }

    /// The forced end, once a shutdown was asked for.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The exit code, once it is decided.
    pub fn exit_code(&self) -> Option<i32> {
        self.code
    }

    /// Something that reached this server got no whole answer, or may not have.
    pub fn lost_something(&self) -> bool {
        self.lost
    }

    /// The states of all workers that are not reaped, in the order they were started.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, u32, WorkerState)> + '_ {
        self.procs.iter().map(|(id, p)| (*id, p.number, p.state))
    }

    /// Connections open on workers and on the supervisor itself.
    pub fn open_connections(&self) -> u64 {
        self.procs.values().map(Proc::open).sum::<u64>().saturating_add(self.refusing)
    }

    /// Connections that the supervisor itself answers.
    pub fn refusing(&self) -> u64 {
        self.refusing
    }

    /// Whether readiness is to be said.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Running | State::Reloading)
    }

    fn go(&mut self, edge: Edge) -> bool {
        match self.state.next(edge) {
            Some(to) => {
                self.state = to;
                true
            }
            None => {
                self.ignored = self.ignored.saturating_add(1);
                false
            }
        }
    }

    fn shutting_down(&self) -> bool {
        !matches!(self.state, State::Starting | State::Running | State::Reloading)
    }

    fn report(&mut self, event: Event) {
        self.outputs.push_back(Output::Report(event));
    }

    fn tell(&mut self, worker: WorkerId, message: ToWorker) {
        self.outputs.push_back(Output::Tell { worker, message });
    }

    fn spawn(&mut self, now: Instant, number: u32, generation: u32) {
        let worker = self.next_worker;
        self.next_worker += 1;
        self.procs.insert(
            worker,
            Proc {
                number,
                generation,
                state: WorkerState::Spawned,
                dealt: 0,
                closed: 0,
                active: 0,
                requests: 0,
                since: now,
                kill_at: None,
                deadline: None,
                retiring: false,
                forced: false,
                start_failed: false,
                stopped_said: false,
                draining_said: false,
                served: false,
                unreachable: false,
            },
        );
        self.outputs.push_back(Output::Spawn { worker, number, generation });
    }

    /// Whether the accept queue is to be read. While no worker is there yet, or none at the moment, connections wait
    /// in it: that is what it is for.
    pub fn wants_accept(&self) -> bool {
        match self.state {
            State::Starting | State::Running | State::Reloading | State::LameDuck => self.someone_takes(),
            State::EmptyingBacklog | State::Draining | State::Forcing | State::Closing => {
                !self.listeners_closed
            }
            State::Exited => false,
        }
    }

    /// Whether what happens next depends on the accept queue being empty: the driver then asks the kernel itself, reads
    /// the queue to its end and says [`Input::AcceptBlocked`].
    pub fn wants_backlog_empty(&self) -> bool {
        match self.state {
            State::EmptyingBacklog => !self.accept_blocked,
            State::Closing => self.settled && !self.listeners_closed && !self.accept_blocked,
            _ => false,
        }
    }

    fn someone_takes(&self) -> bool {
        self.procs.values().any(|p| p.state == WorkerState::Ready)
    }

    /// A connection was accepted: where it goes. The driver obeys at once.
    #[must_use]
    pub fn on_accepted(&mut self, _now: Instant) -> Placement {
        self.accept_blocked = false;
        let placement = self.place();
        match placement {
            Placement::Worker(worker) => {
                if let Some(p) = self.procs.get_mut(&worker) {
                    p.dealt += 1;
                    self.turn = worker;
                }
            }
            Placement::Refuse(_) => self.refusing += 1,
        }
        placement
    }

    /// A connection dealt to `worker` could not be given to it: the worker is gone, its exit will be reported.
    #[must_use]
    pub fn on_deal_failed(&mut self, now: Instant, worker: WorkerId) -> Placement {
        if let Some(p) = self.procs.get_mut(&worker) {
            p.dealt = p.dealt.saturating_sub(1);
            p.unreachable = true;
        }
        self.on_accepted(now)
    }

    fn place(&mut self) -> Placement {
        let serving = matches!(
            self.state,
            State::Starting | State::Running | State::Reloading | State::LameDuck | State::EmptyingBacklog
        );
        if !serving {
            return Placement::Refuse(Refusal::Draining);
        }
        if let Some(limit) = self.policy.max_connections {
            if self.open_connections() >= u64::from(limit) {
                if !self.over_limit {
                    self.over_limit = true;
                    self.report(Event::TooManyConnections { limit });
                }
                return Placement::Refuse(Refusal::TooManyConnections);
            }
            self.over_limit = false;
        }
        // In the backlog phase the workers have been told to drain, but not yet that the last deal was made.
        let state =
            if self.state == State::EmptyingBacklog { WorkerState::Draining } else { WorkerState::Ready };
        let takes = |p: &Proc| p.state == state && !p.retiring && !p.unreachable;
        let turn = self.turn;
        let least =
            self.procs.iter().filter(|(_, p)| takes(p)).min_by_key(|(id, p)| (p.open(), **id <= turn, **id));
        match least {
            Some((id, _)) => Placement::Worker(*id),
            // A retiring worker is still better than none.
            None => match self.procs.iter().find(|(_, p)| p.state == WorkerState::Ready && !p.unreachable) {
                Some((id, _)) => Placement::Worker(*id),
                None if self.state == State::EmptyingBacklog => Placement::Refuse(Refusal::Draining),
                None => Placement::Refuse(Refusal::NoWorker),
            },
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Signal(signal) => self.signal(now, signal),
            Input::Worker { worker, message } => self.message(now, worker, message),
            Input::Exited { worker, status, undelivered } => self.exited(now, worker, status, undelivered),
            Input::SpawnFailed { worker } => self.exited(now, worker, ExitStatus::NotStarted, 0),
            Input::AcceptBlocked => self.accept_blocked = true,
            Input::RefusedClosed => self.refusing = self.refusing.saturating_sub(1),
            Input::Timeout => {}
        }
        self.settle(now);
    }

    fn signal(&mut self, now: Instant, signal: Signal) {
        match signal {
            Signal::Term | Signal::Int if !self.shutting_down() => self.begin_shutdown(now, signal),
            Signal::Term => self.report(Event::ShutdownInProgress { signal }),
            Signal::Int => {
                if self.state == State::Forcing {
                    self.kill_all(signal);
                } else if matches!(self.state, State::LameDuck | State::EmptyingBacklog | State::Draining) {
                    self.report(Event::ShutdownCutShort { signal });
                    self.force(now, false);
                } else {
                    self.report(Event::ShutdownInProgress { signal });
                }
            }
            Signal::Quit => {
                if !matches!(self.state, State::Closing | State::Exited) {
                    self.kill_all(signal);
                }
            }
            Signal::Hup => {
                if self.state == State::Running {
                    self.begin_reload(now);
                } else {
                    self.report(Event::ReloadIgnored);
                }
            }
        }
    }

    fn begin_shutdown(&mut self, now: Instant, signal: Signal) {
        self.report(Event::ShutdownRequested { signal });
        for slot in &mut self.slots {
            *slot = Slot::default();
        }
        self.deadline = Some(now + self.policy.budget());
        let starting = self.state == State::Starting;
        if self.policy.drain_delay.is_zero() || starting {
            self.begin_drain(now);
        } else if self.go(Edge::Delay) {
            self.delay_until = Some(now + self.policy.drain_delay);
            self.report(Event::Delaying { delay: self.policy.drain_delay });
            self.outputs.push_back(Output::Phase(crate::connection::Phase::LameDuck));
            self.stop_booting(now);
            for worker in self.in_state(WorkerState::Ready) {
                self.tell(worker, ToWorker::LameDuck);
            }
        }
    }

    fn in_state(&self, state: WorkerState) -> Vec<WorkerId> {
        self.procs.iter().filter(|(_, p)| p.state == state).map(|(id, _)| *id).collect()
    }

    /// Workers that have not finished loading have nothing to lose.
    fn stop_booting(&mut self, now: Instant) {
        for worker in self.in_state(WorkerState::Spawned) {
            self.kill(worker);
        }
        for worker in self.in_state(WorkerState::Booting) {
            if let Some(p) = self.procs.get_mut(&worker) {
                p.go(WorkerEdge::Drain);
                p.retiring = true;
                p.kill_at = Some(now + BOOT_KILL_GRACE);
            }
            self.tell(worker, ToWorker::Drain { remaining: BOOT_KILL_GRACE });
            self.tell(worker, ToWorker::LastDeal);
        }
    }

    fn begin_drain(&mut self, now: Instant) {
        if !self.go(Edge::Drain) {
            return;
        }
        self.delay_until = None;
        self.accept_blocked = false;
        let deadline = now + self.policy.shutdown_timeout;
        let deadline = self.deadline.map_or(deadline, |d| d.min(deadline));
        self.deadline = Some(deadline);
        self.outputs.push_back(Output::Notify(Notify::Stopping));
        // A server that gives up because nothing started has said what there is to say.
        self.announced = self.code.is_none() || self.procs.values().any(|p| p.served);
        if self.announced {
            self.report(Event::ShuttingDown { workers: self.procs.len() });
        }
        self.outputs.push_back(Output::Phase(crate::connection::Phase::Draining));
        self.extend_timeout(now);
        self.stop_booting(now);
        for worker in self.in_state(WorkerState::Ready) {
            self.drain_worker(now, worker, deadline, true);
        }
    }

    fn drain_worker(&mut self, now: Instant, worker: WorkerId, deadline: Instant, for_server: bool) {
        if let Some(p) = self.procs.get_mut(&worker)
            && p.go(WorkerEdge::Drain)
        {
            p.deadline = Some(deadline);
            p.kill_at = Some(deadline + KILL_GRACE);
            p.retiring = !for_server;
            self.tell(worker, ToWorker::Drain { remaining: deadline.since(now) });
        }
    }

    fn kill(&mut self, worker: WorkerId) {
        if let Some(p) = self.procs.get_mut(&worker)
            && p.go(WorkerEdge::Kill)
        {
            p.kill_at = None;
            self.outputs.push_back(Output::Kill { worker });
        }
    }

    fn kill_all(&mut self, signal: Signal) {
        self.report(Event::KillRequested { signal });
        self.killed_now = true;
        if self.state != State::Forcing {
            self.go(Edge::Force);
        }
        for worker in self.procs.keys().copied().collect::<Vec<_>>() {
            self.lost |= self.procs.get(&worker).is_some_and(|p| p.open() > 0 && !p.stopped_said);
            self.kill(worker);
        }
        self.outputs.push_back(Output::Phase(crate::connection::Phase::Aborting));
    }

    /// The deadline, or the operator's impatience.
    fn force(&mut self, now: Instant, deadline_passed: bool) {
        if !self.go(Edge::Force) {
            return;
        }
        self.delay_until = None;
        self.deadline = Some(self.deadline.map_or(now, |d| d.min(now)));
        self.outputs.push_back(Output::Phase(crate::connection::Phase::Aborting));
        for worker in self.procs.keys().copied().collect::<Vec<_>>() {
            self.abort_worker(now, worker, deadline_passed);
        }
    }

    fn abort_worker(&mut self, now: Instant, worker: WorkerId, deadline_passed: bool) {
        let timeout = self.policy.shutdown_timeout;
        let Some(p) = self.procs.get_mut(&worker) else { return };
        if !p.go(WorkerEdge::Abort) {
            return;
        }
        p.kill_at = Some(now + KILL_GRACE);
        p.forced = true;
        let number = p.number;
        if deadline_passed {
            self.report(Event::WorkerForced { worker: number, timeout });
        }
        self.tell(worker, ToWorker::Abort);
    }

    fn begin_reload(&mut self, now: Instant) {
        if !self.go(Edge::ReloadBegun) {
            return;
        }
        self.generation += 1;
        let generation = self.generation;
        self.report(Event::ReloadStarted { generation });
        self.outputs.push_back(Output::Notify(Notify::Reloading));
        for number in 1..=self.slots.len() as u32 {
            self.slots[number as usize - 1] = Slot::default();
            self.spawn(now, number, generation);
        }
    }

    fn message(&mut self, now: Instant, worker: WorkerId, message: FromWorker) {
        let shutting_down = self.shutting_down();
        let Some(p) = self.procs.get_mut(&worker) else {
            self.ignored = self.ignored.saturating_add(1);
            return;
        };
        let number = p.number;
        match message {
            FromWorker::Hello { version } => {
                if version != VERSION {
                    let message = format!(
                        "its extension speaks version {version} of the control protocol, this executable {VERSION}: \
                         they are not of one build; build or install both again"
                    );
                    p.start_failed = true;
                    self.report(Event::WorkerStartFailed { worker: number, message });
                    self.kill(worker);
                } else if !p.go(WorkerEdge::Hello) {
                    self.ignored = self.ignored.saturating_add(1);
                }
            }
            FromWorker::Ready => {
                if p.go(WorkerEdge::Ready) {
                    p.since = now;
                    p.served = true;
                    let generation = p.generation;
                    self.report(Event::WorkerReady { worker: number, generation });
                    self.worker_ready(now, worker);
                } else {
                    self.ignored = self.ignored.saturating_add(1);
                }
            }
            FromWorker::StartFailed { message } => {
                if !p.start_failed && matches!(p.state, WorkerState::Spawned | WorkerState::Booting) {
                    p.start_failed = true;
                    // Several workers fail for one reason; it is said once for each generation.
                    let generation = p.generation;
                    let said = self
                        .procs
                        .iter()
                        .any(|(id, p)| *id != worker && p.start_failed && p.generation == generation);
                    if !said {
                        self.report(Event::WorkerStartFailed { worker: number, message });
                    }
                }
            }
            FromWorker::Status { closed, active, requests } => {
                p.closed = closed.min(p.dealt);
                p.active = active;
                self.progress = self.progress.saturating_add(requests.saturating_sub(p.requests));
                p.requests = requests;
            }
            FromWorker::Draining { active } => {
                p.active = active;
                let first = !std::mem::replace(&mut p.draining_said, true);
                if first && p.state != WorkerState::Stopped {
                    if active > 0 {
                        self.report(Event::WorkerDraining { worker: number, active });
                    } else {
                        self.report(Event::WorkerIdle { worker: number });
                    }
                }
            }
            FromWorker::RetireMe => {
                if p.state == WorkerState::Ready && !p.retiring && !shutting_down {
                    p.retiring = true;
                    self.slots[number as usize - 1].retire_at = Some(now + RETIRE_DELAY);
                }
            }
            FromWorker::Stopped { cut, requests, clean } => {
                if !p.go(WorkerEdge::Stopped) {
                    self.ignored = self.ignored.saturating_add(1);
                    return;
                }
                self.progress = self.progress.saturating_add(requests.saturating_sub(p.requests));
                p.requests = requests;
                p.stopped_said = true;
                p.closed = p.dealt;
                p.active = 0;
                p.kill_at = Some(now + KILL_GRACE);
                if cut > 0 {
                    self.report(Event::RequestsCut { worker: number, requests: cut });
                }
                self.lost |= !clean;
            }
        }
    }

    /// A worker is ready: the server may be, a reload may be done, a retiring worker may go.
    fn worker_ready(&mut self, now: Instant, worker: WorkerId) {
        let Some((number, generation)) = self.procs.get(&worker).map(|p| (p.number, p.generation)) else {
            return;
        };
        let complete = (1..=self.slots.len() as u32).all(|n| {
            self.procs
                .values()
                .any(|p| p.number == n && p.generation == generation && p.state == WorkerState::Ready)
        });
        if self.state == State::Starting && complete && self.go(Edge::AllReady) {
            self.outputs.push_back(Output::Notify(Notify::Ready));
        }
        let reloaded = self.state == State::Reloading && generation == self.generation && complete;
        if reloaded && self.go(Edge::ReloadDone) {
            self.serving_generation = generation;
            self.report(Event::ReloadFinished { generation });
            self.outputs.push_back(Output::Notify(Notify::Ready));
        }
        // Those whose place is taken go: the old generation, and who asked to retire in this place.
        let replaced = |id: WorkerId, p: &Proc| {
            let old_generation = reloaded && p.generation < generation;
            old_generation
                || (id != worker && p.number == number && p.retiring && p.state == WorkerState::Ready)
        };
        let old: Vec<WorkerId> =
            self.procs.iter().filter(|(id, p)| replaced(**id, p)).map(|(id, _)| *id).collect();
        old.into_iter().for_each(|id| self.retire(now, id));
    }

    /// Lets one worker finish what it has while the server serves on.
    fn retire(&mut self, now: Instant, worker: WorkerId) {
        match self.procs.get(&worker).map(|p| p.state) {
            Some(WorkerState::Spawned) => self.kill(worker),
            Some(WorkerState::Booting | WorkerState::Ready) => {
                self.drain_worker(now, worker, now + self.policy.shutdown_timeout, false);
                self.tell(worker, ToWorker::LastDeal);
            }
            _ => {}
        }
    }

    fn exited(&mut self, now: Instant, worker: WorkerId, status: ExitStatus, undelivered: u64) {
        let Some(mut p) = self.procs.remove(&worker) else {
            self.ignored = self.ignored.saturating_add(1);
            return;
        };
        let before = p.state;
        p.go(WorkerEdge::Exited);
        p.closed = p.closed.saturating_add(undelivered).min(p.dealt);
        let number = p.number;
        let left = p.open();
        match before {
            _ if p.start_failed => {}
            _ if self.shutting_down() && !p.served => self.worker_stopped(number),
            WorkerState::Stopped => self.worker_stopped(number),
            WorkerState::Killed if p.stopped_said => self.worker_stopped(number),
            WorkerState::Spawned | WorkerState::Booting => {
                self.report(Event::WorkerDiedStarting { worker: number, status });
            }
            WorkerState::Killed | WorkerState::Aborting => {
                self.lost |= self.shutting_down() && (p.forced || left > 0);
                self.worker_stopped(number);
            }
            _ => {
                // It may have left what it was serving. During a shutdown that is part of the shutdown's result.
                self.lost |= self.shutting_down() && (left > 0 || status != ExitStatus::Code(0));
                self.report(Event::WorkerDied { worker: number, status, connections: left });
            }
        }
        if self.shutting_down() {
            return;
        }
        match before {
            WorkerState::Spawned | WorkerState::Booting => self.start_failed(now, p.number, p.generation),
            WorkerState::Killed if p.start_failed => self.start_failed(now, p.number, p.generation),
            // It retires as it was told to; its successor is there already, or comes.
            _ if p.retiring && self.has_successor(p.number) => {}
            WorkerState::Stopped if p.retiring => {}
            WorkerState::Killed if p.forced || p.retiring => {}
            _ => self.worker_died(now, &p),
        }
    }

    fn worker_stopped(&mut self, worker: u32) {
        if self.announced || !self.shutting_down() {
            self.report(Event::WorkerStopped { worker });
        }
    }

    fn has_successor(&self, number: u32) -> bool {
        self.procs.values().any(|p| {
            p.number == number
                && !p.retiring
                && matches!(p.state, WorkerState::Spawned | WorkerState::Booting | WorkerState::Ready)
        })
    }

    /// A worker ended before it was ready.
    fn start_failed(&mut self, now: Instant, number: u32, generation: u32) {
        match self.state {
            State::Starting => {
                self.code = Some(exit::START_FAILED);
                self.give_up(now);
            }
            State::Reloading if generation == self.generation => {
                self.report(Event::ReloadFailed { generation });
                self.go(Edge::ReloadDone);
                self.outputs.push_back(Output::Notify(Notify::Ready));
                self.generation = self.serving_generation;
                let failed: Vec<WorkerId> = self
                    .procs
                    .iter()
                    .filter(|(_, p)| p.generation == generation)
                    .map(|(id, _)| *id)
                    .collect();
                for id in failed {
                    if let Some(p) = self.procs.get_mut(&id) {
                        p.retiring = true;
                    }
                    self.retire(now, id);
                }
            }
            _ => {
                // A replacement did not start. A worker that only retires for it serves on.
                if self.procs.values().any(|p| p.number == number && p.state == WorkerState::Ready) {
                    self.procs.values_mut().filter(|p| p.number == number).for_each(|p| p.retiring = false);
                }
                self.another_death(now, number);
            }
        }
    }

    fn worker_died(&mut self, now: Instant, dead: &Proc) {
        if self.state == State::Reloading && dead.generation == self.generation {
            return self.start_failed(now, dead.number, dead.generation);
        }
        if now.since(dead.since) >= STABLE_AFTER {
            self.deaths = 0;
        }
        self.another_death(now, dead.number);
    }

    /// Replaces a worker: at once the first time, then with growing pauses, then not at all.
    fn another_death(&mut self, now: Instant, number: u32) {
        self.deaths = self.deaths.saturating_add(1);
        if self.deaths >= CRASH_LOOP_DEATHS {
            self.report(Event::CrashLoop { deaths: self.deaths });
            self.code = Some(exit::CRASH_LOOP);
            return self.give_up(now);
        }
        if self.has_successor(number) {
            return;
        }
        let delay = match self.deaths {
            0 | 1 => Duration::ZERO,
            n => BACKOFF_MIN.saturating_mul(1 << (n - 2).min(16)).min(BACKOFF_MAX),
        };
        self.report(Event::WorkerRespawning { worker: number, delay });
        self.slots[number as usize - 1].spawn_at = Some(now + delay);
    }

    /// The server cannot go on; those workers that serve finish what they have.
    fn give_up(&mut self, now: Instant) {
        for slot in &mut self.slots {
            *slot = Slot::default();
        }
        self.deadline = Some(now + self.policy.shutdown_timeout);
        self.begin_drain(now);
    }

    fn extend_timeout(&mut self, now: Instant) {
        if let Some(deadline) = self.deadline {
            let more = deadline.since(now).saturating_add(KILL_GRACE).saturating_add(Duration::from_secs(1));
            self.outputs.push_back(Output::Notify(Notify::ExtendTimeout(more)));
        }
        self.notified_at = now;
    }

    /// What follows from the state and the time alone, whichever input led to it.
    fn settle(&mut self, now: Instant) {
        if !self.shutting_down() {
            self.fill_slots(now);
        }
        if self.state == State::LameDuck && self.delay_until.is_some_and(|at| at <= now) {
            self.begin_drain(now);
        }
        if self.state == State::EmptyingBacklog && self.accept_blocked && self.go(Edge::BacklogEmpty) {
            for worker in self.in_state(WorkerState::Draining) {
                self.tell(worker, ToWorker::LastDeal);
            }
        }
        if matches!(self.state, State::EmptyingBacklog | State::Draining)
            && self.deadline.is_some_and(|at| at <= now)
        {
            self.force(now, true);
        }
        self.enforce_deadlines(now);
        if matches!(self.state, State::EmptyingBacklog | State::Draining | State::Forcing)
            && self.procs.is_empty()
        {
            self.begin_closing(now);
        }
        self.finish_closing(now);
        self.notify(now);
    }

    /// Starts the workers that are due.
    fn fill_slots(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let number = index as u32 + 1;
            if self.slots[index].spawn_at.is_some_and(|at| at <= now) {
                self.slots[index].spawn_at = None;
                self.spawn(now, number, self.generation);
            }
            if self.slots[index].retire_at.is_some_and(|at| at <= now) {
                self.slots[index].retire_at = None;
                let retires = self
                    .procs
                    .values()
                    .any(|p| p.number == number && p.retiring && p.state == WorkerState::Ready);
                if retires && !self.has_successor(number) {
                    self.report(Event::WorkerRetiring { worker: number });
                    self.spawn(now, number, self.generation);
                }
            }
        }
    }

    /// The deadlines of single workers: those that retire while the server serves, and the kill after the abort.
    fn enforce_deadlines(&mut self, now: Instant) {
        for worker in self.procs.keys().copied().collect::<Vec<_>>() {
            let Some(p) = self.procs.get(&worker) else { continue };
            let overdue = p.deadline.is_some_and(|at| at <= now) && p.state == WorkerState::Draining;
            let kill = p.kill_at.is_some_and(|at| at <= now);
            if overdue {
                self.abort_worker(now, worker, true);
            } else if kill {
                self.lost |= self.shutting_down() && p.served && !p.stopped_said;
                self.kill(worker);
            }
        }
    }

    fn begin_closing(&mut self, now: Instant) {
        if self.go(Edge::NoWorkers) {
            if self.announced {
                self.report(Event::AllStopped);
            }
            self.outputs.push_back(Output::RefuseNew);
            self.settle_until = Some(now + CLOSE_SETTLE);
            self.accept_blocked = false;
        }
    }

    fn finish_closing(&mut self, now: Instant) {
        if self.state != State::Closing {
            return;
        }
        if !self.settled && self.settle_until.is_none_or(|at| at <= now) {
            self.settled = true;
            self.accept_blocked = false;
        }
        let out_of_patience = self.closing_bound().is_some_and(|at| at <= now);
        if !self.listeners_closed && ((self.settled && self.accept_blocked) || out_of_patience) {
            self.listeners_closed = true;
            self.outputs.push_back(Output::CloseListeners);
        }
        // Connections that we answer ourselves end by their own linger; the deadline bounds them as everything.
        if self.listeners_closed && (self.refusing == 0 || out_of_patience) && self.go(Edge::Closed) {
            let code =
                self.code.unwrap_or(if self.lost || self.killed_now { exit::FORCED } else { exit::CLEAN });
            self.code = Some(code);
            self.outputs.push_back(Output::Exit { code });
        }
    }

    /// The end of all patience: after the deadline a kill's grace, for the supervisor's own connections too.
    fn closing_bound(&self) -> Option<Instant> {
        let after_deadline = self.deadline.map(|at| at + KILL_GRACE);
        after_deadline.max(self.settle_until)
    }

    fn notify(&mut self, now: Instant) {
        if now < self.notified_at + NOTIFY_INTERVAL || self.progress == self.progress_told {
            return;
        }
        self.progress_told = self.progress;
        self.notified_at = now;
        let workers = self.procs.values().filter(|p| p.state == WorkerState::Ready).count();
        let active = self.procs.values().map(|p| p.active).sum();
        self.outputs.push_back(Output::Notify(Notify::Status {
            workers,
            connections: self.open_connections(),
            active,
        }));
        if self.shutting_down() && self.state != State::Closing {
            self.extend_timeout(now);
        }
    }

    /// What to do next. Call until it yields [`Output::Timeout`].
    #[must_use]
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        if self.state == State::Exited {
            return Output::Timeout(None);
        }
        let mut due: Option<Instant> = None;
        let mut consider = |at: Option<Instant>| {
            if let Some(at) = at {
                due = Some(due.map_or(at, |d| d.min(at)));
            }
        };
        consider(self.delay_until);
        for slot in &self.slots {
            consider(slot.spawn_at);
            consider(slot.retire_at);
        }
        match self.state {
            State::EmptyingBacklog | State::Draining => consider(self.deadline),
            State::Closing if !self.settled => consider(self.settle_until),
            State::Closing => consider(self.closing_bound()),
            _ => {}
        }
        for p in self.procs.values() {
            if p.state == WorkerState::Draining {
                consider(p.deadline);
            }
            consider(p.kill_at);
        }
        Output::Timeout(due)
    }
}
