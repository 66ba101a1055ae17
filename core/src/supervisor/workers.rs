//! The workers one by one: what they say, how they end, and who takes their place.

use std::time::Duration;

use super::{Edge, Notify, Output, State, Supervisor, WorkerEdge, WorkerId, WorkerState, exit};
use crate::event::{Event, ExitStatus};
use crate::planted;
use crate::policy::{
    BACKOFF_MAX, BACKOFF_MIN, CRASH_LOOP_DEATHS, KILL_GRACE, LEAVE_GRACE, RETIRE_DELAY, STABLE_AFTER,
};
use crate::protocol::{FromWorker, ToWorker, VERSION};
use crate::time::Instant;

/// One worker process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Proc {
    pub number: u32,
    pub generation: u32,
    pub state: WorkerState,
    /// Connections dealt, and those of them that it reported closed.
    pub dealt: u64,
    pub closed: u64,
    pub requests: u64,
    /// When it was started; once it serves, since when.
    pub since: Instant,
    /// When it has to be ready, at the latest.
    pub ready_by: Option<Instant>,
    pub kill_at: Option<Instant>,
    pub deadline: Option<Instant>,
    /// It was told to go, or asked to, while the server serves on.
    pub retiring: bool,
    /// It was told that the deadline is here.
    pub forced: bool,
    /// It said `StartFailed`.
    pub start_failed: bool,
    pub stopped_said: bool,
    /// It answered the order to drain.
    pub draining_said: bool,
    /// It was ready once, so there may be something to lose.
    pub served: bool,
    /// A connection could not be given to it: its process is gone or going.
    pub unreachable: bool,
}

impl Proc {
    pub fn open(&self) -> u64 {
        self.dealt.saturating_sub(self.closed)
    }

    pub fn go(&mut self, edge: WorkerEdge) -> bool {
        match self.state.step(edge) {
            Some(to) => {
                self.state = to;
                true
            }
            None => false,
        }
    }

    /// When it is waited for no longer; `None` where nobody waits.
    pub fn give_up_at(&self) -> Option<Instant> {
        let starts = matches!(self.state, WorkerState::Spawned | WorkerState::Booting) && !self.start_failed;
        self.ready_by.filter(|_| starts)
    }

    /// When it is to be told that the deadline is here.
    pub fn abort_at(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.state == WorkerState::Draining)
    }
}

/// A place for a worker, numbered from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    /// When to start a worker here, if one is due.
    pub spawn_at: Option<Instant>,
    /// When to replace the worker that asked to retire.
    pub retire_at: Option<Instant>,
    /// Deaths in a row.
    pub deaths: u32,
}

impl Supervisor {
    pub(super) fn spawn(&mut self, now: Instant, number: u32, generation: u32) {
        let worker = self.next_worker;
        self.next_worker += 1;
        let proc = Proc {
            number,
            generation,
            state: WorkerState::Spawned,
            dealt: 0,
            closed: 0,
            requests: 0,
            since: now,
            ready_by: self.policy.startup_timeout.map(|time| now + time),
            kill_at: None,
            deadline: None,
            retiring: false,
            forced: false,
            start_failed: false,
            stopped_said: false,
            draining_said: false,
            served: false,
            unreachable: false,
        };
        self.procs.insert(worker, proc);
        self.output(Output::Spawn { worker, number, generation });
    }

    pub(super) fn clear_slots(&mut self) {
        self.slots.fill(Slot::default());
    }

    pub(super) fn drain_worker(
        &mut self,
        now: Instant,
        worker: WorkerId,
        deadline: Instant,
        for_server: bool,
    ) {
        if let Some(p) = self.procs.get_mut(&worker)
            && p.go(WorkerEdge::Drain)
        {
            p.deadline = Some(deadline);
            p.kill_at = Some(deadline + KILL_GRACE);
            if planted!(KillAtDeadline) {
                p.deadline = None;
                p.kill_at = Some(deadline);
            }
            if planted!(NoDeadline) {
                p.deadline = None;
                p.kill_at = None;
            }
            p.retiring = !for_server;
            let remaining = deadline.since(now);
            let order =
                if for_server { ToWorker::Drain { remaining } } else { ToWorker::Retire { remaining } };
            self.tell(worker, order);
        }
    }

    /// Those that are on their way out while the server stayed, with their deadlines.
    pub(super) fn on_their_way_out(&self) -> Vec<(WorkerId, Option<Instant>)> {
        let leaves = |p: &Proc| p.state == WorkerState::Draining && p.retiring;
        self.procs.iter().filter(|(_, p)| leaves(p)).map(|(id, p)| (*id, p.deadline)).collect()
    }

    /// Lets one worker finish what it has while the server serves on.
    pub(super) fn retire(&mut self, now: Instant, worker: WorkerId) {
        let Some(p) = self.procs.get_mut(&worker) else { return };
        match p.state {
            WorkerState::Spawned => {
                p.retiring = true;
                self.kill(worker);
            }
            WorkerState::Booting | WorkerState::Ready => {
                self.drain_worker(now, worker, now + self.policy.shutdown_timeout, false);
                self.tell(worker, ToWorker::LastDeal);
            }
            _ => {}
        }
    }

    pub(super) fn abort_worker(&mut self, now: Instant, worker: WorkerId, deadline_passed: bool) {
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

    pub(super) fn kill(&mut self, worker: WorkerId) {
        if let Some(p) = self.procs.get_mut(&worker) {
            p.kill_at = None;
            if p.go(WorkerEdge::Kill) {
                self.output(Output::Kill { worker });
            }
        }
    }

    /// The deadlines of single workers: those that retire while the server serves, and the kill after the abort.
    pub(super) fn enforce_deadlines(&mut self, now: Instant) {
        for worker in self.workers_where(|p| p.abort_at().is_some_and(|at| at <= now)) {
            self.abort_worker(now, worker, true);
        }
        for worker in self.workers_where(|p| p.kill_at.is_some_and(|at| at <= now)) {
            self.kill(worker);
        }
    }

    /// A worker that hangs while it starts has failed to start, as one that ended has: nothing waits for it any more, not even
    /// for its process to be gone.
    pub(super) fn enforce_startup_timeout(&mut self, now: Instant) {
        let overdue = |p: &Proc| p.give_up_at().is_some_and(|at| at <= now);
        for worker in self.workers_where(overdue) {
            // What became of the one before may have ended this one as well.
            let Some(p) = self.procs.get_mut(&worker).filter(|p| overdue(p)) else { continue };
            p.start_failed = true;
            p.retiring = true;
            let (number, generation) = (p.number, p.generation);
            let timeout = self.policy.startup_timeout.unwrap_or_default();
            self.report(Event::WorkerStartTimedOut { worker: number, timeout });
            self.kill(worker);
            self.start_failed(now, number, generation);
        }
    }

    pub(super) fn message(&mut self, now: Instant, worker: WorkerId, message: FromWorker) {
        let (shutting_down, server_deadline) = (self.shutting_down(), self.deadline);
        let Some(p) = self.procs.get_mut(&worker) else { return self.ignore() };
        let number = p.number;
        match message {
            FromWorker::Hello { version } if version != VERSION && p.state == WorkerState::Spawned => {
                let message = format!(
                    "its extension speaks version {version} of the control protocol, this executable {VERSION}: \
                     they are not of one build; build or install both again"
                );
                p.start_failed = true;
                self.report(Event::WorkerStartFailed { worker: number, message });
                self.kill(worker);
            }
            FromWorker::Hello { .. } => {
                if !p.go(WorkerEdge::Hello) {
                    self.ignore();
                }
            }
            FromWorker::Ready => {
                if p.start_failed {
                    self.ignore();
                } else if p.go(WorkerEdge::Ready) {
                    p.since = now;
                    p.served = true;
                    let generation = p.generation;
                    self.report(Event::WorkerReady { worker: number, generation });
                    self.worker_ready(now, worker);
                } else if matches!(p.state, WorkerState::Draining | WorkerState::Aborting) {
                    // It became ready before it read that it is not needed: it has an application to shut down now.
                    p.served = true;
                    if let (None, Some(deadline), false) = (p.deadline, server_deadline, p.forced) {
                        p.deadline = Some(deadline);
                        p.kill_at = Some(deadline + KILL_GRACE);
                    }
                } else {
                    self.ignore();
                }
            }
            FromWorker::StartFailed { message } => {
                if !p.start_failed && !p.served {
                    p.start_failed = true;
                    // It leaves by itself. If it cannot, it is in the way.
                    p.kill_at = Some(p.kill_at.unwrap_or(now + KILL_GRACE).min(now + KILL_GRACE));
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
            FromWorker::Status { closed, requests } => {
                p.closed = p.closed.max(closed.min(p.dealt));
                self.progress = self.progress.saturating_add(requests.saturating_sub(p.requests));
                p.requests = p.requests.max(requests);
            }
            FromWorker::Draining { active } => {
                let first = !std::mem::replace(&mut p.draining_said, true);
                if first && p.state != WorkerState::Stopped {
                    self.report(match active {
                        0 => Event::WorkerIdle { worker: number },
                        active => Event::WorkerDraining { worker: number, active },
                    });
                }
            }
            FromWorker::RetireMe => {
                if p.state == WorkerState::Ready && !p.retiring && !shutting_down {
                    p.retiring = true;
                    self.slots[number as usize - 1].retire_at = Some(now + RETIRE_DELAY);
                }
            }
            FromWorker::Stopped { cut, requests, clean } => {
                // Its own clock said that the deadline is here before we did.
                let forced_itself = !clean && p.abort_at().is_some_and(|at| at <= now);
                // Where the supervisor had no CPU, its timer for the kill is overdue, and the worker is not.
                let least = if p.state == WorkerState::Aborting { now } else { now + KILL_GRACE };
                if !p.go(WorkerEdge::Stopped) {
                    return self.ignore();
                }
                self.progress = self.progress.saturating_add(requests.saturating_sub(p.requests));
                p.requests = p.requests.max(requests);
                p.stopped_said = true;
                p.closed = p.dealt;
                let leaves = now + LEAVE_GRACE;
                p.kill_at = Some(p.kill_at.map_or(leaves, |at| at.min(leaves)).max(least));
                if forced_itself {
                    let timeout = self.policy.shutdown_timeout;
                    self.report(Event::WorkerForced { worker: number, timeout });
                }
                if cut > 0 {
                    self.report(Event::RequestsCut { worker: number, requests: cut });
                }
                self.lost |= shutting_down && !clean;
            }
        }
    }

    /// A worker is ready: the server may be, a reload may be done, a retiring worker may go.
    fn worker_ready(&mut self, now: Instant, worker: WorkerId) {
        let Some((number, generation)) = self.procs.get(&worker).map(|p| (p.number, p.generation)) else {
            return;
        };
        // Whoever asked to retire from this place can go.
        let replaced = |p: &Proc| p.number == number && p.retiring && p.state == WorkerState::Ready;
        for worker in self.workers_where(replaced) {
            self.retire(now, worker);
        }
        if generation != self.generation || !self.generation_is_complete(generation) {
            return;
        }
        if self.state == State::Reloading {
            self.finish_reload(now);
        } else if self.state == State::Starting && self.go(Edge::AllReady) {
            self.output(Output::Notify(Notify::Ready));
        }
    }

    pub(super) fn exited(&mut self, now: Instant, worker: WorkerId, status: ExitStatus, undelivered: u64) {
        let worker = if planted!(ExitByNumber) {
            let number = self.procs.get(&worker).map(|p| p.number);
            self.procs.iter().rfind(|(_, p)| Some(p.number) == number).map_or(worker, |(id, _)| *id)
        } else {
            worker
        };
        let Some(mut p) = self.procs.remove(&worker) else { return self.ignore() };
        let before = p.state;
        p.go(WorkerEdge::Exited);
        p.closed = p.closed.saturating_add(undelivered).min(p.dealt);
        let told_to_go = matches!(
            before,
            WorkerState::Draining | WorkerState::Aborting | WorkerState::Stopped | WorkerState::Killed
        );
        let ended_by_us = p.stopped_said || matches!(before, WorkerState::Aborting | WorkerState::Killed);
        if p.start_failed {
            // Its last words were the report.
        } else if ended_by_us || (self.shutting_down() && !p.served) {
            self.worker_stopped(p.number);
        } else if p.served {
            self.report(Event::WorkerDied { worker: p.number, status, connections: p.open() });
        } else {
            self.report(Event::WorkerDiedStarting { worker: p.number, status });
        }
        self.note_loss(&p, status == ExitStatus::Code(0));
        if self.shutting_down() || (told_to_go && p.retiring) {
            // It went as it was told to.
        } else if p.served {
            self.worker_died(now, &p);
        } else {
            self.start_failed(now, p.number, p.generation);
        }
    }

    fn worker_stopped(&mut self, worker: u32) {
        if self.announced || !self.shutting_down() {
            self.report(Event::WorkerStopped { worker });
        }
    }

    /// Somebody is in this place, or about to be, who will stay.
    pub(super) fn has_successor(&self, number: u32) -> bool {
        self.procs.values().any(|p| {
            p.number == number
                && !p.retiring
                && matches!(p.state, WorkerState::Spawned | WorkerState::Booting | WorkerState::Ready)
        })
    }

    /// A worker ended before it was ready.
    fn start_failed(&mut self, now: Instant, number: u32, generation: u32) {
        match self.state {
            State::Starting => self.give_up(now, exit::START_FAILED),
            State::Reloading if generation == self.generation => self.fail_reload(now),
            _ => {
                // A replacement did not start. A worker that only retires for it serves on.
                let waits = |p: &&mut Proc| p.number == number && p.state == WorkerState::Ready;
                self.procs.values_mut().filter(waits).for_each(|p| p.retiring = false);
                self.another_death(now, number);
            }
        }
    }

    fn worker_died(&mut self, now: Instant, dead: &Proc) {
        if self.state == State::Reloading && dead.generation == self.generation {
            return self.fail_reload(now);
        }
        if now.since(dead.since) >= STABLE_AFTER {
            self.slots[dead.number as usize - 1].deaths = 0;
        }
        self.another_death(now, dead.number);
    }

    /// Somebody serves, and has done so for a while: whatever keeps the others from starting, it is not down.
    fn serves_in_earnest(&self, now: Instant) -> bool {
        let stable = |p: &Proc| p.state == WorkerState::Ready && now.since(p.since) >= STABLE_AFTER;
        self.procs.values().any(stable)
    }

    /// Replaces a worker: at once the first time, then with growing pauses, and not at all when nobody serves any more.
    fn another_death(&mut self, now: Instant, number: u32) {
        let slot = &mut self.slots[number as usize - 1];
        slot.deaths = slot.deaths.saturating_add(1);
        let deaths = slot.deaths;
        if deaths >= CRASH_LOOP_DEATHS && !self.serves_in_earnest(now) {
            self.report(Event::CrashLoop { deaths });
            return self.give_up(now, exit::CRASH_LOOP);
        }
        if self.has_successor(number) {
            return;
        }
        let delay = match deaths {
            0 | 1 => Duration::ZERO,
            _ if planted!(NoBackoff) => Duration::ZERO,
            n => BACKOFF_MIN.saturating_mul(1 << (n - 2).min(16)).min(BACKOFF_MAX),
        };
        self.report(Event::WorkerRespawning { worker: number, delay });
        self.slots[number as usize - 1].spawn_at = Some(now + delay);
    }

    /// Starts a worker in every place that nobody holds for good.
    pub(super) fn fill_vacancies(&mut self, now: Instant) {
        for number in 1..=self.slots.len() as u32 {
            if !self.has_successor(number) {
                self.slots[number as usize - 1].spawn_at.get_or_insert(now);
            }
        }
    }

    /// Starts the workers that are due.
    pub(super) fn fill_slots(&mut self, now: Instant) {
        self.enforce_deadlines(now);
        self.enforce_startup_timeout(now);
        for index in 0..self.slots.len() {
            let number = index as u32 + 1;
            if self.slots[index].spawn_at.is_some_and(|at| at <= now) {
                self.slots[index].spawn_at = None;
                self.spawn(now, number, self.serving_generation);
            }
            if self.slots[index].retire_at.is_some_and(|at| at <= now) {
                self.slots[index].retire_at = None;
                let retires = |p: &Proc| p.number == number && p.retiring && p.state == WorkerState::Ready;
                if self.procs.values().any(retires) && !self.has_successor(number) {
                    self.report(Event::WorkerRetiring { worker: number });
                    self.spawn(now, number, self.serving_generation);
                }
            }
        }
    }
}
