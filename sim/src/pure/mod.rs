//! The pure tier: rollouts as a plain event queue around the production state machines, without hyper, tokio or a
//! socket. A rollout takes tens of microseconds, so hundreds of thousands of different ones fit into a test run.
//!
//! What it leaves out is what only bytes have: parsing, partial writes, flow control, packet loss. Those are the
//! business of the tier that runs hyper.

mod cluster;
pub mod ledger;
pub mod plan;
mod pod;
pub mod rules;
mod socket;
mod traffic;
mod world;

pub use ledger::{Cause, Causes, Line, Outcome};
pub use plan::Plan;

/// Runs one rollout.
pub fn run(plan: &Plan, seed: u64) -> Outcome {
    world::World::new(plan, seed, false).run().0
}

/// The same rollout, with its timeline.
pub fn trace(plan: &Plan, seed: u64) -> (Outcome, Vec<Line>) {
    world::World::new(plan, seed, true).run()
}
