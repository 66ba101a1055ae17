//! What the core's transition tables have a cell for and chance alone seldom brings about.

use pounce_core::policy::{CLOSE_SETTLE, EXIT_GRACE};

use super::{Dist, Fault, FaultKind, Profile, RequestKind, Scenario};
use crate::rng::Rng;

impl Scenario {
    /// Adds such a thing to some scenarios with faults. From a stream of its own: a seed without it means what it always
    /// meant. Returns whether it did.
    pub(super) fn draw_rare(&mut self) -> bool {
        let rng = &mut Rng::fork(self.seed.0, 4);
        // Faults that were drawn to meet stay as they are.
        let meets = matches!(
            self.faults.first().map(|fault| fault.what),
            Some(FaultKind::FreezeSupervisor { .. } | FaultKind::FreezeWorker { .. })
        );
        if self.profile != Profile::Chaos || meets || !rng.chance(20) {
            return false;
        }
        let at_ms = rng.between(3000, 5000);
        match rng.below(6) {
            0 => self.draw_quick_quit(at_ms, rng),
            1 => self.draw_frozen_end(at_ms, rng),
            2 => self.draw_rude_clients(rng),
            3 => self.draw_failed_spawn(at_ms, rng),
            4 => self.draw_stuck_worker(at_ms, rng),
            _ => {
                self.strike(at_ms, FaultKind::Hup);
                self.strike(at_ms + rng.between(1, 100), FaultKind::Quit);
            }
        }
        true
    }

    fn strike(&mut self, at_ms: u64, what: FaultKind) {
        self.faults.push(Fault { at_ms, pod: 0, what });
    }

    /// SIGQUIT while the last worker leaves, or the listeners are about to close.
    fn draw_quick_quit(&mut self, at_ms: u64, rng: &mut Rng) {
        self.server.drain_delay_ms = 0;
        self.faults.clear();
        for client in &mut self.clients {
            client.start_ms = client.start_ms.max(at_ms + 1000);
        }
        self.strike(at_ms, FaultKind::Term);
        // Workers leave within a few milliseconds, of many there is one between its last word and its end; the listeners stay
        // open for longer.
        let after_ms = if rng.chance(50) {
            self.server.workers = 8;
            self.app.shutdown = Dist::ZERO;
            rng.between(2, 5)
        } else {
            rng.between(3, CLOSE_SETTLE.as_millis() as u64)
        };
        self.strike(at_ms + after_ms, FaultKind::Quit);
    }

    /// A supervisor without CPU from before the deadline until all that comes after it is overdue.
    fn draw_frozen_end(&mut self, at_ms: u64, rng: &mut Rng) {
        self.server.drain_delay_ms = 0;
        self.server.shutdown_timeout_ms = rng.between(100, 1000);
        self.app.duration = Dist::Fixed { ms: rng.between(1500, 4000) };
        self.faults.clear();
        for client in &mut self.clients {
            client.start_ms = at_ms.saturating_sub(rng.between(50, 500));
        }
        self.strike(at_ms, FaultKind::Term);
        let budget_ms = self.server.shutdown_timeout_ms + EXIT_GRACE.as_millis() as u64;
        self.strike(at_ms + 20, FaultKind::FreezeSupervisor { for_ms: budget_ms + rng.between(0, 500) });
    }

    /// A worker without CPU that dies while it should answer what is left at the deadline.
    fn draw_stuck_worker(&mut self, at_ms: u64, rng: &mut Rng) {
        self.server.drain_delay_ms = 0;
        self.server.shutdown_timeout_ms = rng.between(200, 1000);
        self.faults.clear();
        for client in &mut self.clients {
            client.start_ms = at_ms.saturating_sub(rng.between(50, 500));
        }
        self.strike(at_ms, FaultKind::Term);
        let worker = rng.between(1, u64::from(self.server.workers)) as u32;
        self.strike(at_ms + 1, FaultKind::FreezeWorker { worker, for_ms: 5000 });
        let deadline_ms = at_ms + self.server.shutdown_timeout_ms;
        self.strike(deadline_ms + rng.between(1, 300), FaultKind::KillWorker { worker });
    }

    /// Clients that leave with a reset, or in the middle of a head.
    fn draw_rude_clients(&mut self, rng: &mut Rng) {
        for client in &mut self.clients {
            match rng.below(3) {
                0 => {}
                1 => {
                    let after_ms = rng.log_between(1, 500);
                    client.request = RequestKind::Disconnect { after_ms, reset: true };
                }
                _ => {
                    client.timeout_ms = rng.log_between(50, 500);
                    client.request = RequestKind::HalfHead { gap_ms: 2 * client.timeout_ms };
                }
            }
        }
    }

    /// A worker dies while no process can be started.
    fn draw_failed_spawn(&mut self, at_ms: u64, rng: &mut Rng) {
        let worker = rng.between(1, u64::from(self.server.workers)) as u32;
        self.strike(at_ms, FaultKind::OutOfDescriptors { for_ms: rng.between(100, 2000) });
        self.strike(at_ms + rng.between(1, 100), FaultKind::KillWorker { worker });
    }
}
