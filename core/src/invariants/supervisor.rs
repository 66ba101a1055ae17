//! The ledger of the supervisor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Violation, check_clock, check_supervisor, check_timeout, require};
use crate::event::{Event, ExitStatus, Signal};
use crate::policy::{BACKOFF_MAX, BACKOFF_MIN, EXIT_GRACE, KILL_GRACE, STABLE_AFTER};
use crate::protocol::{FromWorker, ToWorker, VERSION};
use crate::supervisor::{Input, Output, Placement, State, Supervisor, WorkerId, exit};
use crate::time::Instant;

/// What is known of one worker process.
#[derive(Clone, Debug)]
struct Known {
    number: u32,
    generation: u32,
    since: Instant,
    started: Instant,
    hello: bool,
    ready: bool,
    /// It was told that the server leaves.
    told_leaving: bool,
    /// The end that it was told.
    told_deadline: Option<Instant>,
    aborted_at: Option<Instant>,
    stopped_at: Option<Instant>,
    killed: bool,
    start_failed: bool,
    last_deal: bool,
    dealt: u64,
    closed: u64,
}

impl Known {
    /// Nothing that it says any more makes it ready.
    fn is_over(&self) -> bool {
        self.killed || self.start_failed || self.stopped_at.is_some()
    }
}

/// Watches one supervisor.
#[derive(Clone, Debug)]
pub struct SupervisorObserver {
    last: Instant,
    workers: BTreeMap<WorkerId, Known>,
    highest: WorkerId,
    deadline: Option<Instant>,
    shutting_down: bool,
    /// The operator wanted an earlier end: a SIGINT during the shutdown.
    cut_short: bool,
    /// SIGQUIT, or a SIGINT after `cut_short`.
    quit: bool,
    refused_new: bool,
    /// Since `RefuseNew`, and the last connection after it, the accept queue was seen empty.
    backlog_empty: bool,
    listeners_closed: bool,
    /// They were closed without a last look into the accept queue.
    closed_blindly: bool,
    refusing: u64,
    lost: bool,
    start_failed: bool,
    crash_loop: bool,
    failed_generations: BTreeSet<u32>,
    /// Deaths in a row by place, and when the next start is allowed.
    deaths: BTreeMap<u32, u32>,
    not_before: BTreeMap<u32, Instant>,
    exited: bool,
    outputs: usize,
    /// The last thing that happened was an input, so what was due is done.
    settled: bool,
}

impl SupervisorObserver {
    /// For a supervisor made at `now`.
    pub fn new(now: Instant) -> SupervisorObserver {
        SupervisorObserver {
            last: now,
            workers: BTreeMap::new(),
            highest: 0,
            deadline: None,
            shutting_down: false,
            cut_short: false,
            quit: false,
            refused_new: false,
            backlog_empty: false,
            listeners_closed: false,
            closed_blindly: false,
            refusing: 0,
            lost: false,
            start_failed: false,
            crash_loop: false,
            failed_generations: BTreeSet::new(),
            deaths: BTreeMap::new(),
            not_before: BTreeMap::new(),
            exited: false,
            outputs: 0,
            settled: true,
        }
    }

    /// Before [`Supervisor::handle`] gets `input`.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn input(&mut self, s: &Supervisor, now: Instant, input: &Input) -> Result<(), Violation> {
        check_clock(self.last, now)?;
        self.last = now;
        self.outputs = 0;
        self.settled = true;
        // Its last output may not have been taken yet.
        if self.exited || s.state() == State::Exited {
            return Ok(());
        }
        match input {
            Input::Signal(signal) => {
                self.quit |= *signal == Signal::Quit || (*signal == Signal::Int && s.cut_short());
                self.cut_short |= *signal == Signal::Int && self.shutting_down;
                self.shutting_down |= *signal != Signal::Hup;
            }
            Input::Worker { worker, message } => self.message(now, *worker, message),
            Input::Exited { worker, status, undelivered } => self.gone(now, *worker, *status, *undelivered),
            Input::SpawnFailed { worker } => self.gone(now, *worker, ExitStatus::NotStarted, 0),
            Input::AcceptBlocked => self.backlog_empty = self.refused_new && s.wants_backlog_empty(),
            Input::RefusedClosed => self.refusing = self.refusing.saturating_sub(1),
            Input::Timeout => {}
        }
        Ok(())
    }

    fn message(&mut self, now: Instant, worker: WorkerId, message: &FromWorker) {
        let Some(known) = self.workers.get_mut(&worker) else { return };
        match message {
            FromWorker::Hello { version } => known.hello |= *version == VERSION,
            FromWorker::StartFailed { .. } => known.start_failed |= !known.ready,
            FromWorker::Ready if known.hello && !known.is_over() => {
                known.ready = true;
                known.since = now;
            }
            FromWorker::Status { closed, .. } => known.closed = known.closed.max((*closed).min(known.dealt)),
            FromWorker::Stopped { clean, .. } if known.hello && !known.killed => {
                known.stopped_at.get_or_insert(now);
                known.closed = known.dealt;
                self.lost |= self.shutting_down && !clean;
            }
            _ => {}
        }
    }

    fn gone(&mut self, now: Instant, worker: WorkerId, status: ExitStatus, undelivered: u64) {
        let Some(known) = self.workers.remove(&worker) else { return };
        if known.ready && known.stopped_at.is_none() && self.shutting_down {
            let left = known.dealt.saturating_sub(known.closed + undelivered);
            self.lost |= left > 0 || status != ExitStatus::Code(0) || known.aborted_at.is_some();
        }
        self.start_failed |= !known.ready && !self.shutting_down;
        if known.ready && now.since(known.since) >= STABLE_AFTER {
            self.deaths.insert(known.number, 0);
        }
    }

    /// After [`Supervisor::on_accepted`] or [`Supervisor::on_deal_failed`] answered.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn placed(&mut self, s: &Supervisor, placement: Placement) -> Result<(), Violation> {
        self.backlog_empty = false;
        self.settled = false;
        match placement {
            Placement::Worker(worker) => {
                let known = self.workers.get_mut(&worker);
                let takes = known.as_ref().is_some_and(|k| k.ready && !k.last_deal && k.stopped_at.is_none());
                if let Some(known) = known {
                    known.dealt += 1;
                }
                require(10, "a connection goes to a worker that will read it", takes, || {
                    format!("dealt to {worker} while {:?}", s.state())
                })
            }
            Placement::Refuse(_) => {
                self.refusing += 1;
                Ok(())
            }
            Placement::Hold => {
                let rule = "a connection is held only while nobody takes one, and never to the end";
                let waits = !s.wants_accept() && s.state() != State::Exited;
                require(10, rule, waits, || format!("held while {:?}", s.state()))
            }
        }
    }

    /// Before [`Supervisor::on_deal_failed`] is asked where the connection goes instead.
    pub fn deal_failed(&mut self, worker: WorkerId) {
        if let Some(known) = self.workers.get_mut(&worker) {
            known.dealt = known.dealt.saturating_sub(1);
        }
    }

    /// After [`Supervisor::poll_output`] gave `output`.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn output(&mut self, s: &Supervisor, now: Instant, output: &Output) -> Result<(), Violation> {
        self.outputs += 1;
        let bound = 16 + 6 * (self.workers.len() + 2 * s.places());
        require(20, "one input has a bounded number of outputs", self.outputs <= bound, || {
            format!("{output:?}")
        })?;
        if let Output::Timeout(at) = output {
            if self.settled {
                check_timeout(now, *at)?;
            }
            return self.check_rest(s, *at);
        }
        require(7, "after its exit a server does nothing", !self.exited, || format!("{output:?}"))?;
        match output {
            Output::Spawn { worker, number, generation } => self.spawned(now, *worker, *number, *generation),
            Output::Tell { worker, message } => self.told(s, now, *worker, message),
            Output::Kill { worker } => self.killed(s, now, *worker),
            Output::RefuseNew => {
                self.refused_new = true;
                self.backlog_empty = false;
                require(2, "SYNs are dropped when no worker is left", self.workers.is_empty(), || {
                    format!("{} workers", self.workers.len())
                })
            }
            Output::CloseListeners => {
                self.listeners_closed = true;
                self.closed_blindly = !self.backlog_empty;
                let impatient = self.quit || self.is_out_of_time(now);
                let rule = "listeners are closed with the accept queue empty";
                require(2, rule, self.backlog_empty || impatient, || {
                    format!("at {now}, SYNs dropped: {}", self.refused_new)
                })
            }
            Output::Phase(_) => require(3, "readiness goes first", !s.is_ready(), || format!("{output:?}")),
            Output::Report(event) => self.reported(now, event),
            Output::Exit { code } => self.exit(s, now, *code),
            Output::Notify(_) | Output::Timeout(_) => Ok(()),
        }
    }

    fn is_out_of_time(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| at + EXIT_GRACE <= now)
    }

    fn spawned(
        &mut self,
        now: Instant,
        worker: WorkerId,
        number: u32,
        generation: u32,
    ) -> Result<(), Violation> {
        require(11, "a worker's name is never used again", worker > self.highest, || format!("{worker}"))?;
        require(14, "no worker is started during a shutdown", !self.shutting_down, || format!("{worker}"))?;
        let allowed = self.not_before.remove(&number).unwrap_or(now);
        require(16, "a worker is not started before its pause is over", allowed <= now, || {
            format!("{number} at {now}, not before {allowed}")
        })?;
        self.highest = worker;
        let known = Known {
            number,
            generation,
            since: now,
            started: now,
            hello: false,
            ready: false,
            told_leaving: false,
            told_deadline: None,
            aborted_at: None,
            stopped_at: None,
            killed: false,
            start_failed: false,
            last_deal: false,
            dealt: 0,
            closed: 0,
        };
        self.workers.insert(worker, known);
        Ok(())
    }

    fn told(
        &mut self,
        s: &Supervisor,
        now: Instant,
        worker: WorkerId,
        message: &ToWorker,
    ) -> Result<(), Violation> {
        let shutting_down = self.shutting_down || s.deadline().is_some();
        let place_is_taken = |number: u32| {
            self.workers
                .iter()
                .any(|(id, k)| *id != worker && k.number == number && k.ready && k.told_deadline.is_none())
        };
        let taken = self.workers.get(&worker).is_some_and(|k| place_is_taken(k.number));
        let Some(known) = self.workers.get_mut(&worker) else { return Ok(()) };
        match message {
            ToWorker::Drain { remaining } | ToWorker::Retire { remaining } => {
                let for_server = matches!(message, ToWorker::Drain { .. });
                known.told_leaving |= for_server;
                require(
                    3,
                    "a worker is told the truth about its server",
                    for_server == shutting_down,
                    || format!("{message:?} to {worker} while {:?}", s.state()),
                )?;
                let at = now + *remaining;
                known.told_deadline = Some(known.told_deadline.map_or(at, |d| d.min(at)));
                let failed = self.failed_generations.contains(&known.generation);
                let rule = "a worker goes only when its place is taken, or its generation failed";
                require(12, rule, shutting_down || !known.ready || taken || failed, || {
                    format!("{worker} of place {}", known.number)
                })
            }
            ToWorker::LastDeal => {
                known.last_deal = true;
                Ok(())
            }
            ToWorker::Abort => {
                known.aborted_at = Some(now);
                known.last_deal = true;
                let due = known.told_deadline.is_some_and(|at| at <= now) || self.cut_short || !known.ready;
                require(1, "nothing is aborted before its deadline", due, || {
                    format!("{worker} at {now}, deadline {:?}", known.told_deadline)
                })
            }
            ToWorker::LameDuck => {
                known.told_leaving = true;
                require(3, "readiness goes first", !s.is_ready(), || "lame duck".into())
            }
            ToWorker::Deal { .. } | ToWorker::Start { .. } => Ok(()),
        }
    }

    fn killed(&mut self, s: &Supervisor, now: Instant, worker: WorkerId) -> Result<(), Violation> {
        let Some(known) = self.workers.get_mut(&worker) else { return Ok(()) };
        known.killed = true;
        // It said so in the instant in which its time was over, and the decision had been made.
        let limit = s.policy().startup_timeout;
        known.ready &= limit.is_none_or(|limit| known.since < known.started + limit);
        let after = |at: Option<Instant>| at.is_some_and(|at| at + KILL_GRACE <= now);
        let fair = !known.ready || self.quit || after(known.aborted_at) || after(known.stopped_at);
        require(13, "no worker is killed before its own end of time", fair, || {
            format!("{worker} at {now}: {known:?}")
        })
    }

    fn reported(&mut self, now: Instant, event: &Event) -> Result<(), Violation> {
        match event {
            Event::WorkerRespawning { worker, delay } => {
                let deaths = self.deaths.entry(*worker).or_insert(0);
                *deaths += 1;
                let least = match *deaths {
                    0 | 1 => Duration::ZERO,
                    n => BACKOFF_MIN.saturating_mul(1 << (n - 2).min(16)).min(BACKOFF_MAX),
                };
                self.not_before.insert(*worker, now + *delay);
                let rule = "the pause grows with every death in a row and has a limit";
                require(16, rule, *delay >= least && *delay <= BACKOFF_MAX, || {
                    format!("{delay:?} after {deaths} deaths of {worker}")
                })
            }
            Event::WorkerStartTimedOut { .. } => {
                self.start_failed = true;
                Ok(())
            }
            Event::CrashLoop { .. } => {
                self.crash_loop = true;
                let stable = |k: &&Known| {
                    k.ready && !k.is_over() && k.told_deadline.is_none() && now.since(k.since) >= STABLE_AFTER
                };
                let stable = self.workers.values().filter(stable).count();
                require(23, "the server does not give up while somebody serves", stable == 0, || {
                    format!("{stable} at {now}")
                })
            }
            Event::ReloadStarted { .. } => {
                self.deaths.clear();
                self.not_before.clear();
                Ok(())
            }
            Event::ReloadFailed { generation } => {
                self.failed_generations.insert(*generation);
                Ok(())
            }
            Event::ReloadFinished { generation } => {
                let all = self.workers.values().filter(|k| k.generation == *generation).all(|k| k.ready);
                require(12, "a reload is done when every new worker serves", all, || format!("{generation}"))
            }
            Event::AllStopped => {
                require(7, "all are stopped when none is left", self.workers.is_empty(), || {
                    format!("{} left", self.workers.len())
                })
            }
            _ => Ok(()),
        }
    }

    fn exit(&mut self, s: &Supervisor, now: Instant, code: i32) -> Result<(), Violation> {
        self.exited = true;
        let late = self.deadline.is_some_and(|at| at + EXIT_GRACE < now);
        require(17, "the server leaves in time", !late, || {
            format!("at {now}, deadline {:?}", self.deadline)
        })?;
        require(2, "nobody listens for a server that is gone", self.listeners_closed, || {
            format!("code {code}")
        })?;
        let abandoned = !self.workers.is_empty() || self.refusing > 0;
        let impatient = self.quit || self.is_out_of_time(now);
        require(7, "nobody is left behind", !abandoned || impatient, || {
            format!("{} workers, {} refused", self.workers.len(), self.refusing)
        })?;
        let abandoned = abandoned || self.closed_blindly;
        let truth = match code {
            exit::CLEAN => !self.lost && !self.quit && !abandoned,
            exit::FORCED => self.lost || self.quit || abandoned,
            exit::START_FAILED => self.start_failed,
            exit::CRASH_LOOP => self.crash_loop,
            _ => false,
        };
        let rule = "the exit code is 0 exactly where nothing failed and nothing was lost";
        require(15, rule, truth, || {
            let (lost, quit) = (self.lost, self.quit);
            format!("code {code}, lost: {lost}, killed: {quit}, left behind: {abandoned}, {:?}", s.state())
        })
    }

    fn check_rest(&mut self, s: &Supervisor, timeout: Option<Instant>) -> Result<(), Violation> {
        check_supervisor(s)?;
        let never_later = match (self.deadline, s.deadline()) {
            (Some(before), Some(now)) => now <= before,
            (before, _) => before.is_none(),
        };
        require(14, "no signal ever extends a shutdown", never_later, || {
            format!("{:?} after {:?}", s.deadline(), self.deadline)
        })?;
        self.deadline = s.deadline();
        self.shutting_down |= self.deadline.is_some();
        if let (Some(deadline), false) = (self.deadline, s.state() == State::Exited) {
            let bound = deadline + EXIT_GRACE;
            require(17, "a timer bounds every shutdown", timeout.is_some_and(|at| at <= bound), || {
                format!("next at {timeout:?}, but the bound is {bound}")
            })?;
        }
        if let (Some(limit), false) = (s.policy().startup_timeout, self.shutting_down) {
            let starts = |k: &&Known| !k.ready && !k.is_over() && k.told_deadline.is_none();
            let due = self.workers.values().filter(starts).map(|k| k.started + limit).min();
            let waits = due.is_none_or(|due| self.last < due && timeout.is_some_and(|at| at <= due));
            require(21, "a start that takes too long has failed", !self.settled || waits, || {
                format!("due at {due:?}, now {}, next at {timeout:?}", self.last)
            })?;
        }
        if self.shutting_down && !self.exited {
            let unaware = |k: &Known| k.ready && !k.told_leaving && !k.is_over() && k.aborted_at.is_none();
            let unaware: Vec<_> =
                self.workers.iter().filter(|(_, k)| unaware(k)).map(|(id, _)| *id).collect();
            let rule = "every worker that serves hears at once that the server leaves";
            require(3, rule, unaware.is_empty(), || format!("{unaware:?} while {:?}", s.state()))?;
        }
        require(7, "refused are open or closed", s.refusing() == self.refusing, || {
            format!("{} of {}", s.refusing(), self.refusing)
        })?;
        let open: u64 = self.workers.values().map(|k| k.dealt - k.closed.min(k.dealt)).sum();
        require(7, "dealt are open or closed", s.open_connections() == open + self.refusing, || {
            format!("{} of {open} and {}", s.open_connections(), self.refusing)
        })
    }
}
