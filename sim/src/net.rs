//! What a world needs of a network, and what the judge asks of one.
//!
//! The fast engine is turmoil-net with an event-driven pump of ours (`networks/turmoil_net.rs`), the second, independent one
//! is turmoil's `Sim` (`networks/turmoil_sim.rs`). Measured side by side with the TCP of our own that stood here before, on the same 1000 drawn
//! rollouts, one thread, by CPU time, the optimisation of the tests (`cargo run -p sim --example engines`; all three at
//! commit 900b28b):
//!
//! | network | scenarios/s | requests/s | times real time |
//! |---|---|---|---|
//! | a TCP of our own | 290 | 9,500 | 5,400 |
//! | turmoil-net 0.1.0, our pump | 258 | 8,500 | 4,900 |
//! | turmoil 0.7.2, ticks of 1-5 ms | 13 | 410 | 215 |
//!
//! 0.89 of the speed, the same planted bugs found, the same kind of end in every drawn deploy with the right settings: so somebody
//! else's TCP is the fast engine, and ours is gone. What turmoil-net lacks is done by the pump, and has a test in
//! `tests/turmoil_net_lacks.rs`.
//!
//! What is modelled: the three-way handshake and the accept queue, a reset for what waits in it when the listener closes, SYNs
//! lost and sent again, FIN and half-close, a reset when a socket with unread bytes is closed and for bytes that come
//! later, a reset that destroys what the peer has not read yet, windows, latency for each segment without overtaking inside a
//! connection. What is not: loss, reordering, congestion control, TIME_WAIT.

use std::future::Future;
use std::io;

use pounce_runtime_tokio::listener::{Listener, Socket, Stream};
use tokio::time::Instant;

use crate::trace::since_start;

/// A machine, or a pod: something with an address of its own.
pub type HostId = u32;

/// Names one connection of a run for ever.
pub type ConnId = u64;

/// When a SYN that got no answer is sent again, in milliseconds after the one before (tcp(7), `tcp_syn_retries`).
pub(crate) const SYN_RETRIES_MS: [u64; 5] = [1000, 2000, 4000, 8000, 16_000];

/// What a world needs of a network.
pub trait SimNet: Clone + Send + Sync + 'static {
    type Stream: Stream;
    type Listener: Listener<Io: Socket<Stream = Self::Stream>>;

    /// Runs a task on a host.
    fn spawn(&self, _host: HostId, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    /// Listens on the one port that a host has.
    ///
    /// # Errors
    /// The address is in use.
    fn bind(&self, host: HostId) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// Connects `from` one host to another.
    ///
    /// # Errors
    /// Nobody listens there, or nobody answers.
    fn connect(&self, from: HostId, to: HostId) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// A second descriptor of the same listening socket, for a service manager that keeps it open.
    fn keep_listening(&self, _listener: &Self::Listener) -> Option<Self::Listener> {
        None
    }

    /// The connection under a stream, where the network knows.
    fn conn(&self, _stream: &Self::Stream) -> Option<ConnId> {
        None
    }

    /// What happened to a connection at the server's side.
    fn facts(&self, _conn: ConnId) -> Option<Facts> {
        None
    }

    /// Segments to and from `host` wait until `until`.
    fn stall(&self, _host: HostId, _until: Instant) {}

    /// While `out`, no process of `host` can open a descriptor.
    fn out_of_descriptors(&self, _host: HostId, _out: bool) {}
}

/// What happened to a connection at the server's side, for the oracle. Times as the trace has them.
#[derive(Clone, Copy, Default)]
pub struct Facts {
    /// The handshake ended in the accept queue.
    pub queued: Option<Instant>,
    /// Accepted, and by now owned by this process.
    pub owner: Option<u64>,
    /// The server's side ended: how, when, and how many bytes had come by then.
    pub ended: Option<Ended>,
    /// Bytes that have come to the server's side in all.
    pub delivered: u64,
}

/// The end of the server's side.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub at: Instant,
    pub delivered: u64,
    pub reset: bool,
    /// The process was killed; nobody decided to close this connection.
    pub killed: bool,
}

/// In the run's own time, so that two runs of one seed say the same.
impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |at: Instant| since_start(at).as_millis();
        match self.queued {
            Some(at) => write!(f, "[in the accept queue at {} ms", ms(at))?,
            None => write!(f, "[never in the accept queue")?,
        }
        if let Some(owner) = self.owner {
            write!(f, ", then of process {owner}")?;
        }
        if let Some(ended) = self.ended {
            let how = match (ended.killed, ended.reset) {
                (true, _) => "killed",
                (false, true) => "reset",
                (false, false) => "closed",
            };
            write!(f, ", {how} at {} ms after {} bytes", ms(ended.at), ended.delivered)?;
        }
        write!(f, ", {} bytes in all]", self.delivered)
    }
}
