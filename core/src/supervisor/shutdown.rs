//! Signals, and the shutdown of the whole server phase by phase.

use super::workers::Proc;
use super::{Edge, Notify, Output, State, Supervisor, WorkerId, WorkerState, exit};
use crate::connection::Phase;
use crate::event::{Event, Signal};
use crate::planted;
use crate::policy::{BOOT_KILL_GRACE, CLOSE_SETTLE, EXIT_GRACE, KILL_GRACE};
use crate::protocol::ToWorker;
use crate::time::Instant;

impl Supervisor {
    pub(super) fn signal(&mut self, now: Instant, signal: Signal) {
        match signal {
            Signal::Term | Signal::Int if !self.shutting_down() => self.begin_shutdown(now, signal),
            Signal::Term if planted!(DeadlineExtended) => self.extend(now),
            Signal::Term => self.report(Event::ShutdownInProgress { signal }),
            Signal::Int if self.aborting => self.kill_all(now, signal),
            Signal::Int => {
                self.report(Event::ShutdownCutShort { signal });
                self.move_deadline(now);
                if self.state == State::Closing {
                    self.abort_own();
                } else {
                    self.force(now, false);
                }
            }
            Signal::Quit => self.kill_all(now, signal),
            Signal::Hup if self.shutting_down() && planted!(HupWhileDraining) => {
                self.spawn(now, 1, self.generation)
            }
            Signal::Hup if self.state == State::Running => self.begin_reload(now),
            Signal::Hup => self.report(Event::ReloadIgnored),
        }
    }

    /// The forced end is at `at`, or earlier if it was: no signal ever extends a shutdown.
    fn move_deadline(&mut self, at: Instant) {
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    /// The planted bug: a shutdown that begins anew.
    fn extend(&mut self, now: Instant) {
        let deadline = now + self.policy.budget();
        self.deadline = Some(deadline);
        for worker in self.workers_where(|p| p.state == WorkerState::Draining) {
            if let Some(p) = self.procs.get_mut(&worker) {
                p.deadline = Some(deadline);
                p.kill_at = Some(deadline + KILL_GRACE);
            }
            self.tell(worker, ToWorker::Drain { remaining: deadline.since(now) });
        }
    }

    fn begin_shutdown(&mut self, now: Instant, signal: Signal) {
        self.report(Event::ShutdownRequested { signal });
        self.clear_slots();
        self.move_deadline(now + self.policy.budget());
        // While nothing serves yet there is nothing to delay for.
        let delay =
            !self.policy.drain_delay.is_zero() && self.state != State::Starting && !planted!(NoLameDuck);
        if !delay {
            self.begin_drain(now);
        } else if self.go(Edge::Delay) {
            self.delay_until = Some(now + self.policy.drain_delay);
            self.report(Event::Delaying { delay: self.policy.drain_delay });
            self.output(Output::Phase(Phase::LameDuck));
            let mut leaving = self.workers_where(|p| p.state == WorkerState::Ready);
            leaving.extend(self.on_their_way_out().into_iter().map(|(worker, _)| worker));
            for worker in leaving {
                self.tell(worker, ToWorker::LameDuck);
            }
            self.stop_booting(now);
        }
    }

    /// The server cannot go on; those workers that serve finish what they have.
    pub(super) fn give_up(&mut self, now: Instant, code: i32) {
        self.code = Some(code);
        self.clear_slots();
        self.begin_drain(now);
    }

    /// Workers that have not finished loading have nothing to lose.
    fn stop_booting(&mut self, now: Instant) {
        for worker in self.workers_where(|p| p.state == WorkerState::Spawned) {
            self.kill(worker);
        }
        let deadline = self.deadline.unwrap_or(now);
        for worker in self.workers_where(|p| p.state == WorkerState::Booting) {
            if let Some(p) = self.procs.get_mut(&worker) {
                p.go(super::WorkerEdge::Drain);
                p.retiring = true;
                p.kill_at = Some((now + BOOT_KILL_GRACE).min(deadline + KILL_GRACE));
            }
            // It leaves at once, unless it has just become ready: then it has an application to shut down.
            self.tell(worker, ToWorker::Drain { remaining: deadline.since(now) });
            self.tell(worker, ToWorker::LastDeal);
        }
    }

    fn begin_drain(&mut self, now: Instant) {
        if !self.go(Edge::Drain) {
            return;
        }
        self.delay_until = None;
        let deadline = now + self.policy.shutdown_timeout;
        self.move_deadline(deadline);
        let deadline = self.deadline.unwrap_or(deadline);
        self.say_stopping();
        // A server that gives up because nothing started has said what there is to say.
        self.announced = self.code.is_none() || self.procs.values().any(|p| p.served);
        if self.announced {
            self.report(Event::ShuttingDown { workers: self.procs.len() });
        }
        self.output(Output::Phase(Phase::Draining));
        self.extend_timeout(now);
        if planted!(NoDeadline) {
            self.deadline = None;
        }
        // Whoever retires keeps its deadline, which is the earlier one, and hears that the server is not ready any more.
        for (worker, own) in self.on_their_way_out() {
            let remaining = own.unwrap_or(deadline).since(now);
            self.tell(worker, ToWorker::Drain { remaining });
        }
        self.stop_booting(now);
        let old = self.serving_generation;
        for worker in self.workers_where(|p| {
            p.state == WorkerState::Ready && (p.generation == old || !planted!(TermForgetsReload))
        }) {
            self.drain_worker(now, worker, deadline, true);
        }
        if planted!(BacklogNotEmptied) {
            self.backlog_empty();
        }
    }

    fn say_stopping(&mut self) {
        if !self.stopping_said {
            self.stopping_said = true;
            self.output(Output::Notify(Notify::Stopping));
        }
    }

    /// The accept queues were seen empty.
    pub(super) fn backlog_empty(&mut self) {
        if !self.wants_backlog_empty() {
            return;
        }
        match self.state {
            State::EmptyingBacklog => {
                self.go(Edge::BacklogEmpty);
                for worker in self.workers_where(|p| p.state == WorkerState::Draining && !p.retiring) {
                    self.tell(worker, ToWorker::LastDeal);
                }
            }
            _ => self.close_listeners(),
        }
    }

    fn close_listeners(&mut self) {
        if !self.listeners_closed {
            self.listeners_closed = true;
            self.output(Output::CloseListeners);
        }
    }

    /// The supervisor's own connections end with what they have.
    fn abort_own(&mut self) {
        if !self.aborting {
            self.aborting = true;
            self.output(Output::Phase(Phase::Aborting));
        }
    }

    /// The deadline, or the operator's impatience.
    fn force(&mut self, now: Instant, deadline_passed: bool) {
        if !self.go(Edge::Force) {
            return;
        }
        self.delay_until = None;
        self.move_deadline(now);
        self.say_stopping();
        self.abort_own();
        for worker in self.workers_where(|_| true) {
            self.abort_worker(now, worker, deadline_passed);
        }
    }

    fn kill_all(&mut self, now: Instant, signal: Signal) {
        self.report(Event::KillRequested { signal });
        self.killed_now = true;
        self.clear_slots();
        self.delay_until = None;
        self.move_deadline(now);
        self.say_stopping();
        if self.state == State::Closing {
            return self.abandon();
        }
        if self.state != State::Forcing {
            self.go(Edge::Force);
        }
        for worker in self.workers_where(|_| true) {
            self.lost |= self.procs.get(&worker).is_some_and(|p| p.open() > 0);
            self.kill(worker);
        }
        self.abort_own();
    }

    /// Leaves without waiting for anything more.
    fn abandon(&mut self) {
        // A connection in an accept queue that was not looked into is lost as well.
        self.lost |= !self.procs.is_empty() || self.refusing > 0 || !self.listeners_closed;
        if self.go(Edge::Abandon) {
            self.close_listeners();
            self.exit();
        }
    }

    fn exit(&mut self) {
        let forced = (self.lost || self.killed_now) && !planted!(CodeAlwaysZero);
        let code = self.code.unwrap_or(if forced { exit::FORCED } else { exit::CLEAN });
        self.code = Some(code);
        self.output(Output::Exit { code });
    }

    /// What is due.
    pub(super) fn advance_shutdown(&mut self, now: Instant) {
        if self.state == State::LameDuck && self.delay_until.is_some_and(|at| at <= now) {
            self.begin_drain(now);
        }
        let overdue = self.deadline.is_some_and(|at| at <= now);
        if overdue && matches!(self.state, State::EmptyingBacklog | State::Draining) {
            self.force(now, true);
        }
        self.enforce_deadlines(now);
        if matches!(self.state, State::EmptyingBacklog | State::Draining | State::Forcing)
            && self.procs.is_empty()
        {
            self.begin_closing(now);
        }
        if self.state == State::Closing {
            self.advance_closing(now, overdue);
        }
        if matches!(self.state, State::Forcing | State::Closing)
            && self.deadline.is_some_and(|at| at + EXIT_GRACE <= now)
        {
            self.abandon();
        }
    }

    fn begin_closing(&mut self, now: Instant) {
        if self.go(Edge::NoWorkers) {
            if self.announced {
                self.report(Event::AllStopped);
            }
            if planted!(NoRefuseNew) {
                return self.close_listeners();
            }
            self.output(Output::RefuseNew);
            self.settle_until = Some(now + CLOSE_SETTLE);
        }
    }

    fn advance_closing(&mut self, now: Instant, overdue: bool) {
        if self.settle_until.is_some_and(|at| at <= now) {
            self.settle_until = None;
        }
        if overdue {
            self.abort_own();
        }
        // Connections that we answer ourselves end by their own linger; the deadline bounds them as everything.
        if self.listeners_closed && self.refusing == 0 && self.go(Edge::Closed) {
            self.exit();
        }
    }

    /// Whose end belongs to the shutdown, and what of it may be lost.
    pub(super) fn note_loss(&mut self, p: &Proc, died_well: bool) {
        if self.shutting_down() && p.served && !p.stopped_said {
            self.lost |= p.open() > 0 || p.forced || !died_well;
        }
    }

    pub(super) fn workers_where(&self, choose: impl Fn(&Proc) -> bool) -> Vec<WorkerId> {
        self.procs.iter().filter(|(_, p)| choose(p)).map(|(id, _)| *id).collect()
    }
}
