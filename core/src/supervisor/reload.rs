//! The rolling reload: a new generation beside the old one, which goes when every worker of the new one serves.

use super::{Edge, Notify, Output, Supervisor, WorkerState};
use crate::event::Event;
use crate::planted;
use crate::time::Instant;

impl Supervisor {
    pub(super) fn begin_reload(&mut self, now: Instant) {
        if !self.go(Edge::ReloadBegun) {
            return;
        }
        self.generation += 1;
        let generation = self.generation;
        self.report(Event::ReloadStarted { generation });
        self.output(Output::Notify(Notify::Reloading));
        self.clear_slots();
        for number in 1..=self.slots.len() as u32 {
            self.spawn(now, number, generation);
        }
        if planted!(OldRetiredOnSpawn) {
            for worker in self.workers_where(|p| p.generation < generation) {
                self.retire(now, worker);
            }
        }
    }

    /// Every worker of this generation serves.
    pub(super) fn generation_is_complete(&self, generation: u32) -> bool {
        (1..=self.slots.len() as u32).all(|number| {
            self.procs
                .values()
                .any(|p| p.number == number && p.generation == generation && p.state == WorkerState::Ready)
        })
    }

    /// The new generation serves: the old one finishes what it has.
    pub(super) fn finish_reload(&mut self, now: Instant) {
        if !self.go(Edge::ReloadDone) {
            return;
        }
        let generation = self.generation;
        self.serving_generation = generation;
        self.report(Event::ReloadFinished { generation });
        self.output(Output::Notify(Notify::Ready));
        for worker in self.workers_where(|p| p.generation < generation) {
            self.retire(now, worker);
        }
        // Of the new one somebody may have asked to go already.
        self.fill_vacancies(now);
    }

    /// A worker of the new generation ended: the old one serves on.
    pub(super) fn fail_reload(&mut self, now: Instant) {
        if !self.go(Edge::ReloadDone) {
            return;
        }
        let generation = self.generation;
        self.report(Event::ReloadFailed { generation });
        self.output(Output::Notify(Notify::Ready));
        for worker in self.workers_where(|p| p.generation == generation || planted!(FailedReloadKillsOld)) {
            self.retire(now, worker);
        }
        // Of the old generation somebody may have died or asked to go while the new one was to take over.
        self.fill_vacancies(now);
    }
}
