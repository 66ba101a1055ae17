//! The two kinds of worker: what a server promises, it promises for both.

use std::thread;

use crate::server::{Server, ServerBuilder};

/// What runs in the worker processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerKind {
    /// The service that is built into pounce: Rust all through.
    Demo,
    /// `tests/apps/plain.py`: Python, by way of the extension module.
    Python,
}

/// All four of a connection's timeouts, each longer than any pause of a test and unlike the others.
const TIMEOUTS: [&str; 8] =
    ["--header-timeout", "8", "--body-timeout", "9", "--write-timeout", "10", "--keep-alive-timeout", "11"];

impl WorkerKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Demo, Self::Python];

    /// A server of such workers, with header, body, write and keep-alive timeouts on. Both kinds have `/`,
    /// `/slow?s=SECONDS`, `/stream?n=LINES&gap=SECONDS` and `/echo`; the demo begins to answer an `/echo` before it
    /// has all of the request, the Python application does not.
    pub fn server(self) -> ServerBuilder {
        let server = match self {
            Self::Demo => Server::demo(),
            Self::Python => Server::app("plain:app"),
        };
        server.args(TIMEOUTS)
    }
}

/// Runs `case` with each kind of worker, both at the same time.
///
/// # Panics
/// If one of them did; its own message is printed before, by a thread with the kind's name.
#[track_caller]
pub fn with_both(case: impl Fn(WorkerKind) + Sync) {
    let case = &case;
    let failed = thread::scope(|scope| {
        WorkerKind::ALL
            .map(|kind| {
                let thread = thread::Builder::new().name(format!("{kind:?}"));
                (kind, thread.spawn_scoped(scope, move || case(kind)).expect("a thread can be started"))
            })
            .into_iter()
            .filter_map(|(kind, running)| running.join().is_err().then_some(kind))
            .collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "failed with these workers: {failed:?}");
}
