//! The simulated world of pounce: production code (core, the generic drivers, hyper) under a seeded simulator, and the
//! oracles that decide whether a deploy lost anything.

pub mod pure;
pub mod replay;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod simulate;
pub mod soak;
