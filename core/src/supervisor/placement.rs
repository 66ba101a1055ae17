//! Where an accepted connection goes.

use super::{State, Supervisor, WorkerId, WorkerState};
use crate::event::Event;
use crate::policy::NOTIFY_INTERVAL;
use crate::time::Instant;

/// Where an accepted connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    Worker(WorkerId),
    /// The supervisor reads its request and answers with a complete 503.
    Refuse(Refusal),
    /// Nobody can take it now, somebody will. Keep it as if it were still in the accept queue, and place it again,
    /// before any other, when [`Supervisor::wants_accept`] says so.
    Hold,
}

/// Why a connection is answered with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Draining,
    TooManyConnections,
}

impl Supervisor {
    /// Whether the accept queue is to be read. While not every worker is there yet, or none at the moment, connections
    /// wait in it: that is what it is for, and the first worker to be ready does not get them all. During a shutdown none will
    /// come any more, so there is nothing to wait for.
    pub fn wants_accept(&self) -> bool {
        match self.state {
            State::Starting | State::Exited => false,
            State::Running | State::Reloading => self.least_loaded().is_some(),
            State::LameDuck | State::EmptyingBacklog | State::Draining | State::Forcing | State::Closing => {
                !self.listeners_closed
            }
        }
    }

    /// Whether what happens next depends on the accept queue being empty: the driver then places what it holds, asks the
    /// kernel itself, reads the queue to its end and says [`super::Input::AcceptBlocked`].
    pub fn wants_backlog_empty(&self) -> bool {
        match self.state {
            State::EmptyingBacklog => true,
            State::Closing => self.settle_until.is_none() && !self.listeners_closed,
            _ => false,
        }
    }

    /// A connection was accepted: where it goes. The driver obeys at once.
    #[must_use]
    pub fn on_accepted(&mut self, now: Instant) -> Placement {
        let placement = self.place(now);
        match placement {
            Placement::Worker(worker) => {
                if let Some(p) = self.procs.get_mut(&worker) {
                    p.dealt += 1;
                    self.turn = worker;
                }
            }
            Placement::Refuse(_) => self.refusing += 1,
            Placement::Hold => {}
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

    fn place(&mut self, now: Instant) -> Placement {
        if matches!(self.state, State::Draining | State::Forcing | State::Closing | State::Exited) {
            return Placement::Refuse(Refusal::Draining);
        }
        if let Some(limit) = self.policy.max_connections
            && self.open_on_workers() >= u64::from(limit)
        {
            if now >= self.over_limit_again {
                self.over_limit_again = now + NOTIFY_INTERVAL;
                self.report(Event::TooManyConnections { limit });
            }
            return Placement::Refuse(Refusal::TooManyConnections);
        }
        match self.least_loaded() {
            Some(worker) => Placement::Worker(worker),
            // A worker that dies during a shutdown is not replaced: nobody will ever take it.
            None if matches!(self.state, State::LameDuck | State::EmptyingBacklog) => {
                Placement::Refuse(Refusal::Draining)
            }
            None => Placement::Hold,
        }
    }

    /// The worker with the fewest connections, of those that may get one.
    fn least_loaded(&self) -> Option<WorkerId> {
        let draining = match self.state {
            State::Running | State::Reloading | State::LameDuck => false,
            // The workers have been told to drain, but not yet that the last deal was made.
            State::EmptyingBacklog => true,
            _ => return None,
        };
        let takes = |p: &super::Proc| match p.state {
            WorkerState::Ready => !draining && !p.unreachable,
            WorkerState::Draining => draining && !p.retiring && !p.unreachable,
            _ => false,
        };
        // One that retires, or whose generation may yet turn out not to start, is better than none.
        let second_best = |p: &super::Proc| p.retiring || p.generation > self.serving_generation;
        self.procs
            .iter()
            .filter(|(_, p)| takes(p))
            .min_by_key(|(id, p)| (second_best(p), p.open(), **id <= self.turn, **id))
            .map(|(id, _)| *id)
    }
}
