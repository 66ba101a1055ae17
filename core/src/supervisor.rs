//! The supervisor: which workers run, which of them gets a connection, and the shutdown of the whole server.
//!
//! It accepts every connection itself and deals it to a worker, so it knows when the accept queue was empty, it can
//! answer when no worker can, and it is never blocked by an application.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::connection::Phase;
use crate::event::{Event, ExitStatus, Signal};
use crate::machine;
use crate::policy::{EXIT_GRACE, NOTIFY_INTERVAL, Policy};
use crate::protocol::{FromWorker, ToWorker};
use crate::time::Instant;

mod placement;
mod reload;
mod shutdown;
mod workers;

pub use placement::{Placement, Refusal};
use workers::{Proc, Slot};

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
        Delay: Running | Reloading => LameDuck,
        Drain: Starting | Running | Reloading | LameDuck => EmptyingBacklog,
        BacklogEmpty: EmptyingBacklog => Draining,
        Force: Starting | Running | Reloading | LameDuck | EmptyingBacklog | Draining => Forcing,
        NoWorkers: EmptyingBacklog | Draining | Forcing => Closing,
        Closed: Closing => Exited,
        /// The time after the deadline is over, or the operator wants the end at once.
        Abandon: Forcing | Closing => Exited,
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// The accept queues were all seen empty; see [`Supervisor::wants_backlog_empty`].
    AcceptBlocked,
    /// A connection that the supervisor itself answers was closed.
    RefusedClosed,
    Timeout,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    Phase(Phase),
    Notify(Notify),
    Report(Event),
    Exit {
        code: i32,
    },
    /// Always the last one.
    Timeout(Option<Instant>),
}

/// For the service manager (sd_notify(3)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    },
}

/// The server. See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Supervisor {
    policy: Policy,
    state: State,
    procs: BTreeMap<WorkerId, Proc>,
    slots: Vec<Slot>,
    next_worker: WorkerId,
    /// The last generation that was begun. A number is never used again, also if that generation failed.
    generation: u32,
    /// The last generation that served; a reload that fails falls back to it.
    serving_generation: u32,
    outputs: VecDeque<Output>,
    /// End of `drain_delay`.
    delay_until: Option<Instant>,
    /// The forced end. Never moves back.
    deadline: Option<Instant>,
    /// Until when the listeners stay open after the last worker; `None` once that time is over.
    settle_until: Option<Instant>,
    /// The log was told that the server shuts down.
    announced: bool,
    /// The phase of the supervisor's own connections is the last one.
    aborting: bool,
    /// The service manager was told that the server stops.
    stopping_said: bool,
    refusing: u64,
    lost: bool,
    killed_now: bool,
    code: Option<i32>,
    /// When the log may be told again that there are too many connections.
    over_limit_again: Instant,
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
            announced: false,
            aborting: false,
            stopping_said: false,
            refusing: 0,
            lost: false,
            killed_now: false,
            code: None,
            over_limit_again: now,
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

    /// What it decides by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The exit code, once it is decided.
    pub fn exit_code(&self) -> Option<i32> {
        self.code
    }

    /// Something that was under way when the shutdown began got no whole answer, or may not have.
    pub fn lost_something(&self) -> bool {
        self.lost
    }

    /// The states of all workers that are not reaped, in the order they were started.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, u32, WorkerState)> + '_ {
        self.procs.iter().map(|(id, p)| (*id, p.number, p.state))
    }

    /// Connections open on workers and on the supervisor itself.
    pub fn open_connections(&self) -> u64 {
        self.open_on_workers().saturating_add(self.refusing)
    }

    fn open_on_workers(&self) -> u64 {
        self.procs.values().map(Proc::open).sum()
    }

    /// Connections that the supervisor itself answers.
    pub fn refusing(&self) -> u64 {
        self.refusing
    }

    /// Whether readiness is to be said.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Running | State::Reloading)
    }

    /// How many places for workers there are.
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    /// The shutdown is in its last phase: the deadline came, or somebody cut it short.
    pub fn cut_short(&self) -> bool {
        self.aborting
    }

    /// Places with nobody in them and nobody due.
    pub fn vacancies(&self) -> Vec<u32> {
        let due = |number: u32| {
            let slot = self.slots[number as usize - 1];
            slot.spawn_at.is_some() || slot.retire_at.is_some()
        };
        // The end of one who was not told to go is followed by a start.
        let held = |number: u32| self.procs.values().any(|p| p.number == number && !p.retiring);
        (1..=self.slots.len() as u32).filter(|&n| !held(n) && !due(n)).collect()
    }

    /// Places that more than one worker of a generation holds for good.
    pub fn crowded(&self) -> Vec<u32> {
        let stays = |p: &Proc, number: u32| {
            p.number == number
                && !p.retiring
                && matches!(p.state, WorkerState::Spawned | WorkerState::Booting | WorkerState::Ready)
        };
        let holders = |number: u32, generation: u32| {
            self.procs.values().filter(|p| p.generation == generation && stays(p, number)).count()
        };
        (1..=self.slots.len() as u32)
            .filter(|&n| self.procs.values().any(|p| holders(n, p.generation) > 1))
            .collect()
    }

    /// Every point in time that it holds. A search moves them, to recognise a state that it has seen at another time.
    #[doc(hidden)]
    pub fn for_each_instant(&mut self, mut f: impl FnMut(&mut Instant)) {
        for p in self.procs.values_mut() {
            f(&mut p.since);
            p.kill_at.iter_mut().chain(&mut p.deadline).chain(&mut p.ready_by).for_each(&mut f);
        }
        for slot in &mut self.slots {
            slot.spawn_at.iter_mut().chain(&mut slot.retire_at).for_each(&mut f);
        }
        let own = [&mut self.delay_until, &mut self.deadline, &mut self.settle_until];
        own.into_iter().flatten().for_each(&mut f);
        f(&mut self.over_limit_again);
        f(&mut self.notified_at);
    }

    fn shutting_down(&self) -> bool {
        !matches!(self.state, State::Starting | State::Running | State::Reloading)
    }

    fn go(&mut self, edge: Edge) -> bool {
        match self.state.step(edge) {
            Some(to) => {
                self.state = to;
                true
            }
            None => {
                self.ignore();
                false
            }
        }
    }

    fn ignore(&mut self) {
        self.ignored = self.ignored.saturating_add(1);
    }

    fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn report(&mut self, event: Event) {
        self.output(Output::Report(event));
    }

    fn tell(&mut self, worker: WorkerId, message: ToWorker) {
        self.output(Output::Tell { worker, message });
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if self.state == State::Exited {
            return self.ignore();
        }
        match input {
            Input::Signal(signal) => self.signal(now, signal),
            Input::Worker { worker, message } => self.message(now, worker, message),
            Input::Exited { worker, status, undelivered } => self.exited(now, worker, status, undelivered),
            Input::SpawnFailed { worker } => self.exited(now, worker, ExitStatus::NotStarted, 0),
            Input::AcceptBlocked => self.backlog_empty(),
            Input::RefusedClosed => self.refusing = self.refusing.saturating_sub(1),
            Input::Timeout => {}
        }
        self.settle(now);
    }

    /// What follows from the state and the time alone, whichever input led to it.
    fn settle(&mut self, now: Instant) {
        if !self.shutting_down() {
            self.fill_slots(now);
        }
        // That a worker did not start may have ended the server.
        if self.shutting_down() {
            self.advance_shutdown(now);
        }
        self.notify(now);
    }

    fn extend_timeout(&mut self, now: Instant) {
        if let Some(deadline) = self.deadline {
            let more = deadline.since(now).saturating_add(EXIT_GRACE).saturating_add(Duration::from_secs(1));
            self.output(Output::Notify(Notify::ExtendTimeout(more)));
        }
        self.notified_at = now;
    }

    fn notify(&mut self, now: Instant) {
        let done = self.state == State::Exited || self.progress == self.progress_told;
        if done || now < self.notified_at + NOTIFY_INTERVAL {
            return;
        }
        self.progress_told = self.progress;
        self.notified_at = now;
        let workers = self.procs.values().filter(|p| p.state == WorkerState::Ready).count();
        self.output(Output::Notify(Notify::Status { workers, connections: self.open_connections() }));
        if matches!(self.state, State::EmptyingBacklog | State::Draining) {
            self.extend_timeout(now);
        }
    }

    /// What to do next. Call until it yields [`Output::Timeout`].
    #[must_use]
    pub fn poll_output(&mut self) -> Output {
        match self.outputs.pop_front() {
            Some(output) => output,
            None => Output::Timeout(self.next_timeout()),
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let exit = self.deadline.map(|at| at + EXIT_GRACE);
        let (phase, end) = match self.state {
            State::Starting | State::Running | State::Reloading => (None, None),
            State::LameDuck => (self.delay_until, None),
            State::EmptyingBacklog | State::Draining => (self.deadline, None),
            State::Forcing => (None, exit),
            State::Closing => {
                let abort = if self.aborting { None } else { self.deadline };
                ([self.settle_until, abort].into_iter().flatten().min(), exit)
            }
            State::Exited => return None,
        };
        let slots = self.slots.iter().flat_map(|slot| [slot.spawn_at, slot.retire_at]);
        let workers = self.procs.values().flat_map(|p| [p.abort_at(), p.kill_at, p.give_up_at()]);
        [phase, end].into_iter().chain(slots).chain(workers).flatten().min()
    }
}
