//! The policy of pounce as pure state machines: what a supervisor, a worker and a connection do next, given what
//! happened and when.
//!
//! Nothing here reads a clock, opens a socket, starts a thread, allocates an identifier at random or blocks. A driver
//! tells a machine what happened with `handle(now, input)` and then takes `poll_output()` until it yields
//! `Output::Timeout(at)`, which is always the last one: "call me again with a timeout at `at`, or when something
//! happens". Where the answer must be atomic with the I/O it is about, there is a synchronous verdict instead
//! (`on_read_blocked`, `on_response_head`, `on_accepted`): between "decide" and "do" a packet can arrive, inside the
//! call that did the I/O it cannot.
//!
//! Every transition is total: an input that makes no sense in a state changes nothing and is counted, it never panics.
//! Each machine has one transition table (see [`table`]) from which the tests print the whole state × edge matrix and
//! the documentation its diagram.

#![forbid(unsafe_code)]

pub mod connection;
#[cfg(feature = "coverage")]
pub mod coverage;
pub mod event;
pub mod invariants;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod policy;
pub mod protocol;
pub mod supervisor;
pub mod table;
pub mod time;
pub mod worker;

/// Whether a bug is planted, for the simulator to find. Without the feature `mutants` it is a constant `false`.
#[doc(hidden)]
#[macro_export]
macro_rules! planted {
    ($mutant:ident) => {{
        #[cfg(feature = "mutants")]
        let planted = $crate::mutants::is($crate::mutants::Mutant::$mutant);
        #[cfg(not(feature = "mutants"))]
        let planted = false;
        planted
    }};
}

pub use connection::Connection;
pub use event::Event;
pub use policy::{Policy, PolicyError};
pub use supervisor::Supervisor;
pub use time::Instant;
pub use worker::Worker;
