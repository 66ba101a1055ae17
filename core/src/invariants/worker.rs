//! The ledger of one worker.

use super::{Violation, check_clock, check_timeout, check_worker, require};
use crate::connection::Phase;
use crate::policy::{ABORT_GRACE, CLOSE_ALL_GRACE};
use crate::protocol::{FromWorker, ToWorker};
use crate::time::Instant;
use crate::worker::{EXIT_FORCED, Input, Output, State, Worker};

/// Watches one worker.
#[derive(Clone, Debug)]
pub struct WorkerObserver {
    last: Instant,
    opened: u64,
    closed: u64,
    cut: u64,
    phase: Phase,
    /// It was told that the server leaves, and said so to those who ask for readiness.
    server_leaves: bool,
    not_ready: bool,
    /// The earliest end that was ever ordered.
    deadline: Option<Instant>,
    aborted_at: Option<Instant>,
    last_deal: bool,
    stop_host: bool,
    host_stopped: bool,
    was_ready: bool,
    start_failed: bool,
    supervisor_gone: bool,
    /// It said that it stopped, and whether clean.
    stopped: Option<bool>,
    exited: bool,
    outputs: u32,
}

impl WorkerObserver {
    /// For a worker made at `now`.
    pub fn new(now: Instant) -> WorkerObserver {
        WorkerObserver {
            last: now,
            opened: 0,
            closed: 0,
            cut: 0,
            phase: Phase::Serving,
            server_leaves: false,
            not_ready: false,
            deadline: None,
            aborted_at: None,
            last_deal: false,
            stop_host: false,
            host_stopped: false,
            was_ready: false,
            start_failed: false,
            supervisor_gone: false,
            stopped: None,
            exited: false,
            outputs: 0,
        }
    }

    /// Before [`Worker::handle`] gets `input`.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn input(&mut self, w: &Worker, now: Instant, input: &Input) -> Result<(), Violation> {
        check_clock(self.last, now)?;
        self.last = now;
        self.outputs = 0;
        match input {
            Input::Opened => self.opened += 1,
            Input::Closed { cut } => {
                self.closed += u64::from(self.opened > self.closed);
                self.cut += cut;
            }
            Input::Ready => self.was_ready |= w.state() == State::Booting,
            Input::StartFailed { .. } => self.start_failed |= w.state() == State::Booting,
            Input::HostStopped => self.host_stopped |= w.state() == State::Stopping,
            Input::SupervisorGone { .. } if !self.supervisor_gone => {
                self.supervisor_gone = true;
                self.last_deal = true;
                self.server_leaves = true;
                self.ends_at(now + w.policy().shutdown_timeout);
            }
            Input::Order { message, .. } => match message {
                ToWorker::LameDuck => self.server_leaves = true,
                ToWorker::Drain { remaining } => {
                    self.server_leaves = true;
                    self.ends_at(now + *remaining);
                }
                ToWorker::Retire { remaining } => self.ends_at(now + *remaining),
                ToWorker::Abort => {
                    // Who was told to retire before is at its own end only.
                    self.server_leaves |= self.deadline.is_none();
                    self.ends_at(now);
                }
                ToWorker::LastDeal => self.last_deal = true,
                ToWorker::Start { .. } | ToWorker::Deal { .. } => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn ends_at(&mut self, at: Instant) {
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    /// After [`Worker::poll_output`] gave `output`.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn output(&mut self, w: &Worker, now: Instant, output: &Output) -> Result<(), Violation> {
        self.outputs += 1;
        require(20, "one input has a bounded number of outputs", self.outputs < 12, || {
            format!("{output:?}")
        })?;
        if let Output::Timeout(at) = output {
            check_timeout(now, *at)?;
            return self.check_rest(w, now, *at);
        }
        require(7, "after its exit a worker does nothing", !self.exited, || format!("{output:?}"))?;
        let open = self.opened - self.closed;
        match output {
            Output::NotReady => {
                let news = self.server_leaves && !self.not_ready;
                self.not_ready = true;
                require(3, "a worker is not ready when its server leaves, and said so once", news, || {
                    format!("at {now}, the server leaves: {}", self.server_leaves)
                })
            }
            Output::Phase(phase) => self.entered(now, *phase),
            Output::StopHost => {
                let right = open == 0 && !self.stop_host && self.last_deal;
                self.stop_host = true;
                require(7, "the application is stopped once, after its last request", right, || {
                    format!("{open} open at {now}")
                })
            }
            Output::CloseAll => {
                let due = self.aborted_at.is_some_and(|at| at + ABORT_GRACE <= now);
                require(13, "what is left is closed after the grace", due, || {
                    format!("at {now}, aborted at {:?}", self.aborted_at)
                })
            }
            Output::Send(FromWorker::Stopped { cut, clean, .. }) => {
                require(7, "a worker stops once", self.stopped.is_none(), || format!("{output:?}"))?;
                self.stopped = Some(*clean);
                self.check_clean(open, *cut, *clean)
            }
            Output::Send(FromWorker::Ready) => {
                require(12, "only a started application is ready", self.was_ready, || format!("{output:?}"))
            }
            Output::Exit { code } => {
                self.exited = true;
                let said = self.stopped.is_some() || self.start_failed || self.supervisor_gone;
                require(7, "a worker says how it ended before it leaves", said, || format!("{output:?}"))?;
                let true_code = self.stopped.is_none_or(|clean| clean != (*code == EXIT_FORCED));
                require(15, "the exit code tells the truth", true_code, || {
                    format!("code {code}, clean: {:?}", self.stopped)
                })
            }
            Output::Send(_) | Output::Timeout(_) => Ok(()),
        }
    }

    fn entered(&mut self, now: Instant, phase: Phase) -> Result<(), Violation> {
        let before = std::mem::replace(&mut self.phase, phase);
        require(14, "phases only go forward", phase > before, || format!("{phase:?} after {before:?}"))?;
        let first = phase != Phase::LameDuck || self.not_ready;
        require(3, "readiness goes first", first, || format!("{phase:?}"))?;
        if phase != Phase::Aborting {
            return Ok(());
        }
        self.aborted_at = Some(now);
        let due = self.deadline.is_some_and(|at| at <= now);
        require(1, "nothing is aborted before the deadline or the order", due, || {
            format!("aborting at {now}, deadline {:?}", self.deadline)
        })
    }

    fn check_clean(&self, open: u64, cut: u64, clean: bool) -> Result<(), Violation> {
        let whole = self.cut == 0 && open == 0 && (self.host_stopped || !self.was_ready);
        let rule = "clean is exactly: nothing cut, nothing open, the application shut down";
        require(15, rule, clean == whole, || {
            format!("clean: {clean}, cut {}, open {open}, shut down: {}", self.cut, self.host_stopped)
        })?;
        require(7, "every cut request is reported", cut >= self.cut, || format!("{cut} of {}", self.cut))
    }

    fn check_rest(&self, w: &Worker, now: Instant, timeout: Option<Instant>) -> Result<(), Violation> {
        check_worker(w)?;
        let open = self.opened - self.closed;
        require(7, "opened are open or closed", w.open() == open, || format!("{} of {open}", w.open()))?;
        let ready = !self.not_ready && self.was_ready && !self.exited;
        let rule = "a worker is not ready from the moment on at which it hears that its server leaves";
        require(3, rule, !self.server_leaves || !ready, || format!("{:?} at {now}", w.state()))?;
        let idle = open == 0 && self.last_deal && self.phase == Phase::Draining && !self.exited;
        let rule = "a worker without connections stops its application at once";
        require(18, rule, !idle || self.stop_host, || format!("{:?} at {now}", w.state()))?;
        if let (Some(deadline), false, true) = (self.deadline, self.exited, self.was_ready) {
            let bound = self.aborted_at.map_or(deadline, |at| at + ABORT_GRACE + CLOSE_ALL_GRACE);
            let bounded = timeout.is_some_and(|at| at <= bound);
            require(17, "a timer ends everything that has a deadline", bounded, || {
                format!("next at {timeout:?}, but the bound is {bound}")
            })?;
        }
        Ok(())
    }
}
