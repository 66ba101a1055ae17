//! Where workers come from, seen from the supervisor; and where orders come from, seen from a worker.

use std::io;
use std::task::{Context, Poll};

use pounce_core::event::ExitStatus;
use pounce_core::protocol::{FromWorker, ToWorker};

use crate::listener::Accepted;

/// Names one worker process for ever; never used again, unlike a pid or the number in the log.
pub type WorkerId = u64;

/// What a worker did.
#[derive(Debug)]
pub enum HostEvent<Io> {
    Message {
        worker: WorkerId,
        message: FromWorker,
    },
    /// The process is gone and reaped. Every message that it sent has been handed out before. `undelivered` are the
    /// connections dealt to it that it never took, in order.
    Exited {
        worker: WorkerId,
        status: ExitStatus,
        undelivered: Vec<Accepted<Io>>,
    },
}

/// Starts and ends worker processes and carries messages and connections to them.
pub trait WorkerHost: Send + 'static {
    type Io;

    /// Starts a worker process. It says `Hello` once it runs.
    ///
    /// # Errors
    /// As fork(2) and execve(2); the worker does not exist then and no event follows.
    fn spawn(&mut self, worker: WorkerId, number: u32, generation: u32) -> io::Result<()>;

    /// Sends a message, in order with deals. Never blocks: what the socket does not take is kept and sent later.
    /// A message to a worker that is gone is dropped.
    fn tell(&mut self, worker: WorkerId, message: &ToWorker);

    /// Hands a connection to a worker, in order with messages. Never blocks, as [`WorkerHost::tell`]. The connection
    /// is not lost with the worker: what it did not take comes back in [`HostEvent::Exited`].
    ///
    /// # Errors
    /// Gives the connection back if the worker is gone.
    fn deal(&mut self, worker: WorkerId, connection: Accepted<Self::Io>) -> Result<(), Accepted<Self::Io>>;

    /// SIGKILL.
    fn kill(&mut self, worker: WorkerId);

    /// Several connections came at once, so more will: may hold the calling thread for a moment, in which they gather and
    /// after which one wake-up takes them all. Not where the workers run on that thread too.
    fn gather(&mut self) {}

    /// The next thing that a worker did. Also moves kept messages on.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<HostEvent<Self::Io>>;
}

/// A worker's end of the line to its supervisor.
pub trait Orders: Send + 'static {
    type Io: Send;

    /// The next message, with its connection if it is a `Deal`. `None`: the supervisor is gone.
    ///
    /// # Errors
    /// The packet was not a message of this version, or the socket failed.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Order<Self::Io>>>>;

    /// Sends a message. Never blocks: what the socket does not take is kept; see [`Orders::poll_flush`].
    fn send(&mut self, message: &FromWorker);

    /// Ready when every message was taken by the socket, or the supervisor is gone.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A message from the supervisor.
#[derive(Debug)]
pub enum Order<Io> {
    Message(ToWorker),
    Deal(Accepted<Io>),
    /// A connection was dealt that this process may not have: the application took the last descriptors that were free.
    Lost,
}
