//! What the end-to-end tests of pounce are made of: a raw HTTP/1.1 client that says exactly what became of
//! each request, load generators on top of it, and a harness that builds, starts, signals and watches the
//! `pounce` executable.
//!
//! Everything here is blocking `std` code (the load generators: one thread and epoll), so that a fault of an
//! async runtime cannot hide in both the server and its tests.

pub mod binary;
pub mod client;
pub mod events;
pub mod heavy;
pub mod interpreters;
pub mod ledger;
pub mod load;
pub mod log_redaction;
pub mod outcome;
pub mod ports;
pub mod processes;
pub mod request;
pub mod response;
pub mod server;
pub mod skip;
pub mod venv;
pub mod worker_kind;

pub use client::{Address, Close, Connection, Session};
pub use events::Events;
pub use ledger::Ledger;
pub use load::{FreshLoad, KeepAliveLoad, RunningLoad};
pub use outcome::{Answer, Outcome};
pub use request::Request;
pub use server::{Server, ServerBuilder};
pub use worker_kind::{Busy, WorkerKind, with_both, with_each};

pub use rustix::process::Signal;
