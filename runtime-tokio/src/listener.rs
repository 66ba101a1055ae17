//! Where connections come from.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection as a listener hands it out: not yet read from, able to be given to another process.
#[derive(Debug)]
pub struct Accepted<Io> {
    pub io: Io,
    /// `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The address that the peer connected to. `None` on a Unix socket.
    pub local: Option<SocketAddr>,
}

/// A connection's bytes, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether bytes, or the peer's end, wait to be read: asked of the kernel itself. A reactor knows only what it was
    /// told at its last turn, and a connection that ends on that knowledge loses the request that came since.
    fn readable_now(&self) -> bool;

    /// Bytes that were written and that the peer has not taken yet. A slow reader is told from one that does not read
    /// at all by this alone: the socket asks for more only when much of its buffer is free. `None`: not known.
    fn unsent_bytes(&self) -> Option<u64> {
        None
    }

    /// Lets the drop of this stream be a reset instead of an orderly end, for a response whose end the peer could not
    /// tell from a complete one otherwise. Best effort.
    fn reset_on_drop(&self);
}

/// A socket at rest, which becomes a stream in the process that serves it.
pub trait Socket: Send + 'static {
    type Stream: Stream;

    /// Registers the socket with the runtime of the calling task.
    ///
    /// # Errors
    /// The runtime could not take it (descriptor limit, a socket that is already broken).
    fn into_stream(self) -> io::Result<Self::Stream>;
}

/// A listening socket. Polled, not awaited: no future holds a connection that its cancellation could lose.
pub trait Listener: Send + 'static {
    type Io: Socket;

    /// The next connection of the accept queue; `Pending` is the proof that the queue was empty at this moment.
    ///
    /// # Errors
    /// As accept(2). `ECONNABORTED` and the like concern one connection only and are skipped; out of descriptors (`EMFILE`,
    /// `ENFILE`, `ENOBUFS`, `ENOMEM`) the caller waits before it tries again.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<Self::Io>>>;

    /// From now on new connection attempts get no answer (TCP: SYNs are dropped, so that the client tries again,
    /// elsewhere or later), while handshakes under way still end in the accept queue. Best effort.
    fn refuse_new(&mut self);

    /// For people: `http://127.0.0.1:8000`, `unix:/run/pounce.sock`.
    fn name(&self) -> String;
}
