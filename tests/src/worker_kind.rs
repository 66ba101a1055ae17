//! The two kinds of worker, and the two ways in which one is busy: what a server promises, it promises for all of them.

use std::fmt::Debug;
use std::thread;

use crate::request::Request;
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

/// What keeps a Python worker from coming back to its event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// `time.sleep`, which lets other threads have the interpreter.
    Sleeping,
    /// A loop in Python, which does not.
    Computing,
}

impl Busy {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sleeping, Self::Computing];

    /// The request to `tests/apps/plain.py` that makes its worker busy; the answer comes after `seconds`.
    pub fn request(self, seconds: u32) -> Request {
        match self {
            Self::Sleeping => Request::get(&format!("/block?s={seconds}")),
            Self::Computing => Request::get(&format!("/compute?s={seconds}")),
        }
    }

    /// The event that says that the worker is busy from now on.
    pub fn begins(self) -> &'static str {
        match self {
            Self::Sleeping => "block begins",
            Self::Computing => "compute begins",
        }
    }
}

/// Runs `case` with each kind of worker, both at the same time.
///
/// # Panics
/// If one of them did; its own message is printed before, by a thread with the kind's name.
#[track_caller]
pub fn with_both(case: impl Fn(WorkerKind) + Sync) {
    with_each(WorkerKind::ALL, case);
}

/// Runs `case` with each of `kinds`, all at the same time, and returns what it returned, in the same order.
///
/// # Panics
/// If one of them did; its own message is printed before, by a thread with the kind's name.
#[track_caller]
pub fn with_each<K, T, const N: usize>(kinds: [K; N], case: impl Fn(K) -> T + Sync) -> [T; N]
where
    K: Copy + Debug + Send,
    T: Send,
{
    let case = &case;
    let results = thread::scope(|scope| {
        kinds
            .map(|kind| {
                let thread = thread::Builder::new().name(format!("{kind:?}"));
                thread.spawn_scoped(scope, move || case(kind)).expect("a thread can be started")
            })
            .map(|running| running.join())
    });
    let failed: Vec<K> =
        kinds.iter().zip(&results).filter(|(_, result)| result.is_err()).map(|(kind, _)| *kind).collect();
    assert!(failed.is_empty(), "failed with these: {failed:?}");
    results.map(|result| result.unwrap_or_else(|_| unreachable!("none failed")))
}
