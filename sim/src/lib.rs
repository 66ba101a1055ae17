//! The simulated world of pounce: production code (core, the generic drivers, hyper) under a seeded simulator, and the
//! oracles that decide whether a deploy lost anything.

pub mod app;
pub mod channel;
pub mod client;
pub mod coverage;
pub mod engine;
pub mod http1;
pub mod hunt;
pub mod instance;
pub mod leaks;
mod lock;
pub mod marks;
pub mod net;
pub mod networks;
pub mod oracle;
pub mod outcome;
pub mod picture;
pub mod platform;
pub mod process;
pub mod pure;
pub mod regressions;
pub mod replay;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod shrink;
pub mod simulate;
pub mod soak;
pub mod story;
pub mod tally;
pub mod trace;
pub mod world;
