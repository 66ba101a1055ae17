//! Planted bugs, for the simulator to find. Compiled only with the feature `mutants`, which only the simulator asks for.
//!
//! A test suite that finds nothing may be looking at a program without bugs, or not be looking. Each bug here is one that a
//! server of this kind has had; the simulator has to find it, and says how many seeds that took.

use std::cell::Cell;

macro_rules! mutants {
    ($( $(#[$meta:meta])* $name:ident ),+ $(,)?) => {
        /// One planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant { $( $(#[$meta])* $name ),+ }

        impl Mutant {
            pub const ALL: &'static [Mutant] = &[$( Mutant::$name ),+];
        }
    };
}

mutants! {
    /// The drain begins at the signal; `drain_delay` is ignored.
    NoLameDuck,
    /// The accept queue is not read to its end before new connections are refused.
    BacklogNotEmptied,
    /// Readiness goes on saying yes during the shutdown.
    ReadyWhileDraining,
    /// A worker that retires says that the server is not ready.
    RetiringSaysNotReady,
    /// Responses in the lame-duck phase do not announce the end.
    NoCloseInLameDuck,
    /// Responses during the drain do not announce the end.
    NoCloseWhileDraining,
    /// A connection that announced its end goes on.
    CloseAnnouncedButKept,
    /// An idle connection ends without a look at what the socket has.
    EofDespiteBytes,
    /// Bytes of a head that came while a response was being written do not count.
    HeadBytesForgotten,
    /// hyper's own graceful shutdown, the industry's default.
    HyperGraceful,
    /// The deadline is never armed.
    NoDeadline,
    /// Another SIGTERM gives the shutdown another budget.
    DeadlineExtended,
    /// The worker's deadline comes a millisecond early.
    DeadlineEarly,
    /// A worker leaves with one connection still open.
    LastConnectionForgotten,
    /// The last connection closes, and nobody looks whether the worker is done.
    ExitCheckForgotten,
    /// A connection dealt during the drain's first instant is dropped.
    LateDealDropped,
    /// A response that is cut at the deadline ends like a complete one.
    CutLooksComplete,
    /// A closed connection is counted twice.
    ClosedTwice,
    /// The old generation goes when the new one is started, not when it serves.
    OldRetiredOnSpawn,
    /// A reload that fails takes the old generation with it.
    FailedReloadKillsOld,
    /// A worker's end is matched by its number in the log, not by its process.
    ExitByNumber,
    /// The pause before a restart never grows.
    NoBackoff,
    /// The supervisor kills at the deadline, without the worker's grace.
    KillAtDeadline,
    /// SIGHUP during a drain starts workers.
    HupWhileDraining,
    /// SIGTERM during a reload forgets the new generation.
    TermForgetsReload,
    /// Connections are not woken when the phase changes.
    LostWakeup,
    /// A connection is closed at once after the last response, whatever the peer still sends.
    NoCloseLinger,
    /// Connections that come back from a dead worker are dropped.
    UndeliveredDropped,
    /// SYNs are not dropped before the listener closes.
    NoRefuseNew,
    /// Exit code 0 whatever was cut.
    CodeAlwaysZero,
    /// The application's shutdown begins before its last request has ended.
    HostStoppedEarly,
}

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Whether `mutant` is planted on this thread.
pub fn is(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

/// Plants a bug on this thread until it is dropped.
#[derive(Debug)]
pub struct Planted(());

impl Planted {
    pub fn new(mutant: Mutant) -> Planted {
        PLANTED.set(Some(mutant));
        Planted(())
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.set(None);
    }
}
