//! One worker: which phase its connections are in, when it is done, and what it tells its supervisor.

use std::collections::VecDeque;

use crate::connection::Phase;
use crate::machine;
use crate::planted;
use crate::policy::{ABORT_GRACE, CLOSE_ALL_GRACE, Policy, STATUS_INTERVAL};
use crate::protocol::{FromWorker, ToWorker, VERSION};
use crate::time::Instant;

machine! {
    /// Where a worker is.
    pub enum State {
        /// The application is being loaded.
        Booting,
        Serving,
        /// Not ready any more, but new work is still served.
        LameDuck,
        /// Running requests are finished.
        Draining,
        /// The last request has ended; the application shuts down.
        Stopping,
        /// The deadline came: what can be answered is answered, the rest is cut.
        Aborting,
        /// Everything is said; the process leaves.
        Stopped,
    }
    /// What moves a worker.
    pub enum Edge {
        Ready: Booting => Serving,
        StartFailed: Booting => Stopped,
        /// Told to stop before there was anything to lose.
        StopEarly: Booting => Stopped,
        Delay: Serving => LameDuck,
        Drain: Serving | LameDuck => Draining,
        /// No connection is left and none will come.
        Quiet: Draining => Stopping,
        HostStopped: Stopping => Stopped,
        Deadline: Serving | LameDuck | Draining | Stopping => Aborting,
        /// Every connection is closed after the deadline, or the grace is over.
        Aborted: Aborting => Stopped,
    }
}

/// What happened to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The application is started.
    Ready,
    /// The application did not start.
    StartFailed {
        message: String,
    },
    /// A message from the supervisor. `active`: connections with a request under way at this moment.
    Order {
        message: ToWorker,
        active: u64,
    },
    /// The supervisor's end of the line is closed.
    SupervisorGone {
        active: u64,
    },
    /// A connection is registered.
    Opened,
    /// A connection is closed, `cut` of its requests without a whole answer.
    Closed {
        cut: u64,
    },
    /// Requests so far, to report.
    Requests {
        requests: u64,
    },
    /// The application's shutdown is done.
    HostStopped,
    /// Somebody sent this process a SIGTERM.
    Terminated,
    Timeout,
}

/// What a worker's driver is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    Send(FromWorker),
    /// The server leaves: from here on this worker says so to whoever asks for readiness.
    NotReady,
    /// Tell every connection, those to come too.
    Phase(Phase),
    /// Run the application's shutdown, then say [`Input::HostStopped`].
    StopHost,
    /// Close every connection that is left, at once, and report each as [`Input::Closed`].
    CloseAll,
    /// Leave the process, when everything sent is flushed.
    Exit {
        code: i32,
    },
    /// Always the last one.
    Timeout(Option<Instant>),
}

/// Exit code of a worker that cut something.
pub const EXIT_FORCED: i32 = 4;
/// Exit code of a worker whose application did not start.
pub const EXIT_START_FAILED: i32 = 3;

/// One worker. See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    policy: Policy,
    state: State,
    outputs: VecDeque<Output>,
    deadline: Option<Instant>,
    /// The server leaves, and not this worker alone.
    server_leaves: bool,
    /// No connection will be dealt any more.
    last_deal: bool,
    supervisor_gone: bool,
    /// The grace after the deadline is over, [`Output::CloseAll`] was given out.
    closing_all: bool,
    open: u64,
    closed: u64,
    cut: u64,
    requests: u64,
    /// What the supervisor was last told (closed, requests), and when it may be told again.
    told: (u64, u64),
    told_at: Instant,
    status_due: bool,
    ignored: u32,
}

impl Worker {
    /// A worker whose process just started.
    pub fn new(policy: Policy, now: Instant) -> Worker {
        Worker {
            policy,
            state: State::Booting,
            outputs: VecDeque::from([Output::Send(FromWorker::Hello { version: VERSION })]),
            deadline: None,
            server_leaves: false,
            last_deal: false,
            supervisor_gone: false,
            closing_all: false,
            open: 0,
            closed: 0,
            cut: 0,
            requests: 0,
            told: (0, 0),
            told_at: now,
            status_due: false,
            ignored: 0,
        }
    }

    /// The policy came with the start message, after the machine was made.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// What it decides by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Every point in time that it holds. A search moves them, to recognise a state that it has seen at another time.
    #[doc(hidden)]
    pub fn for_each_instant(&mut self, mut f: impl FnMut(&mut Instant)) {
        self.deadline.iter_mut().for_each(&mut f);
        f(&mut self.told_at);
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// The phase of a connection that opens now.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Booting | State::Serving => Phase::Serving,
            State::LameDuck => Phase::LameDuck,
            State::Draining | State::Stopping => Phase::Draining,
            State::Aborting | State::Stopped => Phase::Aborting,
        }
    }

    /// Inputs that made no sense where they came.
    pub fn ignored(&self) -> u32 {
        self.ignored
    }

    /// When everything has to be over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn go(&mut self, edge: Edge) -> bool {
        match self.state.step(edge) {
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

    fn send(&mut self, message: FromWorker) {
        if !self.supervisor_gone {
            self.outputs.push_back(Output::Send(message));
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Ready => {
                if self.go(Edge::Ready) {
                    self.send(FromWorker::Ready);
                }
            }
            Input::StartFailed { message } => {
                if self.go(Edge::StartFailed) {
                    self.send(FromWorker::StartFailed { message });
                    self.outputs.push_back(Output::Exit { code: EXIT_START_FAILED });
                }
            }
            Input::Order { message, active } => self.order(now, message, active),
            Input::SupervisorGone { active } => {
                if !self.supervisor_gone {
                    self.supervisor_gone = true;
                    self.last_deal = true;
                    self.not_ready();
                    self.drain(now + self.policy.shutdown_timeout, active);
                }
            }
            Input::Opened => self.open = self.open.saturating_add(1),
            Input::Closed { cut } => {
                if self.open == 0 {
                    self.ignored = self.ignored.saturating_add(1);
                } else {
                    self.open -= 1;
                    if planted!(ClosedTwice) {
                        self.open = self.open.saturating_sub(1);
                    }
                    self.closed = self.closed.saturating_add(1);
                }
                self.cut = self.cut.saturating_add(cut);
                self.status_due = true;
            }
            Input::Requests { requests } => self.requests = requests,
            Input::HostStopped => {
                if self.go(Edge::HostStopped) {
                    self.stopped(true);
                }
            }
            Input::Terminated => {
                if matches!(self.state, State::Booting | State::Serving) {
                    self.send(FromWorker::RetireMe);
                }
            }
            Input::Timeout => {}
        }
        self.settle(now);
    }

    fn order(&mut self, now: Instant, message: ToWorker, active: u64) {
        match message {
            ToWorker::LameDuck => {
                self.not_ready();
                if self.state == State::Booting {
                    self.leave_early();
                } else if !self.is_draining() && self.go(Edge::Delay) {
                    self.outputs.push_back(Output::Phase(Phase::LameDuck));
                }
            }
            ToWorker::Drain { remaining } => {
                self.not_ready();
                self.drain(now + remaining, active);
            }
            ToWorker::Retire { remaining } => {
                if planted!(RetiringSaysNotReady) {
                    self.not_ready();
                }
                self.drain(now + remaining, active);
            }
            ToWorker::LastDeal => self.last_deal = true,
            ToWorker::Abort => self.abort(now, active),
            // The driver registers a dealt connection itself, and the start message is its own affair.
            ToWorker::Deal { .. } | ToWorker::Start { .. } => {}
        }
    }

    fn leave_early(&mut self) {
        if self.go(Edge::StopEarly) {
            self.stopped(true);
        }
    }

    /// Readiness goes before anything else that the server's end has for an effect.
    fn not_ready(&mut self) {
        let before = std::mem::replace(&mut self.server_leaves, true);
        let heard = !matches!(self.state, State::Booting | State::Stopped);
        if heard && !before && !planted!(ReadyWhileDraining) {
            self.outputs.push_back(Output::NotReady);
        }
    }

    fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining | State::Stopping)
    }

    fn drain(&mut self, deadline: Instant, active: u64) {
        match self.state {
            State::Booting => return self.leave_early(),
            // The deadline is behind it; what is armed now is the grace.
            State::Aborting | State::Stopped => return,
            _ => {}
        }
        // A deadline never moves back: several signals are one shutdown.
        self.deadline = Some(self.deadline.map_or(deadline, |old| old.min(deadline)));
        if planted!(DeadlineExtended) {
            self.deadline = Some(deadline);
        }
        if planted!(NoDeadline) {
            self.deadline = None;
        }
        if planted!(DeadlineEarly) {
            self.deadline = Some(deadline - std::time::Duration::from_millis(1));
        }
        if !self.is_draining() && self.go(Edge::Drain) {
            self.send(FromWorker::Draining { active });
            self.outputs.push_back(Output::Phase(Phase::Draining));
        }
    }

    fn abort(&mut self, now: Instant, active: u64) {
        if self.state == State::Booting {
            return self.leave_early();
        }
        if matches!(self.state, State::Serving | State::LameDuck) {
            self.not_ready();
            self.send(FromWorker::Draining { active });
        }
        let app_is_stopping = self.state == State::Stopping;
        if self.go(Edge::Deadline) {
            self.deadline = Some(now + ABORT_GRACE);
            self.last_deal = true;
            self.outputs.push_back(Output::Phase(Phase::Aborting));
            if app_is_stopping {
                // No request is left, but the application's shutdown is cut.
                self.go(Edge::Aborted);
                self.stopped(false);
            }
        }
    }

    fn stopped(&mut self, clean: bool) {
        // Of a connection that is still not closed nothing can be said but that something on it may be lost.
        self.cut = self.cut.saturating_add(self.open);
        let clean = clean && self.cut == 0;
        self.send(FromWorker::Stopped { cut: self.cut, requests: self.requests, clean });
        self.outputs.push_back(Output::Exit { code: if clean { 0 } else { EXIT_FORCED } });
    }

    /// What follows from the state alone, whichever input led to it.
    fn settle(&mut self, now: Instant) {
        let left = if planted!(HostStoppedEarly) {
            0
        } else {
            self.open.saturating_sub(u64::from(planted!(LastConnectionForgotten)))
        };
        let looks = self.closed == 0 || !planted!(ExitCheckForgotten);
        if self.state == State::Draining && left == 0 && self.last_deal && looks && self.go(Edge::Quiet) {
            self.outputs.push_back(Output::StopHost);
        }
        let due = self.deadline.is_some_and(|at| at <= now);
        match self.state {
            State::Draining | State::Stopping if due => self.abort(now, 0),
            _ => {}
        }
        let due = self.deadline.is_some_and(|at| at <= now);
        if self.state == State::Aborting && (self.open == 0 || (due && self.closing_all)) {
            self.go(Edge::Aborted);
            // Whatever became of the requests, the application's shutdown did not run.
            self.stopped(false);
        } else if self.state == State::Aborting && due {
            self.closing_all = true;
            self.deadline = Some(now + CLOSE_ALL_GRACE);
            self.outputs.push_back(Output::CloseAll);
        }
        let counts = (self.closed, self.requests);
        if self.status_due && self.state != State::Stopped && now >= self.told_at + STATUS_INTERVAL {
            self.status_due = false;
            if counts != self.told {
                self.told = counts;
                self.told_at = now;
                self.send(FromWorker::Status { closed: self.closed, requests: self.requests });
            }
        }
    }

    /// What to do next. Call until it yields [`Output::Timeout`].
    #[must_use]
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        if self.state == State::Stopped {
            return Output::Timeout(None);
        }
        let status = self.status_due.then(|| self.told_at + STATUS_INTERVAL);
        Output::Timeout([self.deadline, status].into_iter().flatten().min())
    }
}
