//! What is served.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
pub use pounce_core::connection::Ending;
use pounce_core::connection::Phase;

use crate::exchange::RequestBody;
use crate::shared::Shared;

/// Any error, as hyper takes them.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An application: makes a service for each connection.
///
/// A service future or a response body that the server drops has been ended by it; [`ConnectionInfo::ending`] says why.
pub trait App: Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
    type Service: hyper::service::Service<
            http::Request<RequestBody>,
            Response = http::Response<Self::Body>,
            Error: Into<BoxError>,
            Future: Send,
        > + Unpin
        + Send
        + 'static;

    fn serve_connection(&self, connection: ConnectionInfo) -> Self::Service;
}

/// The other end of a connection, or this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    Tcp(SocketAddr),
    /// A Unix socket; peers there have no address.
    Unix,
}

impl PeerAddr {
    /// The address, unless it is a Unix socket's.
    pub fn tcp(self) -> Option<SocketAddr> {
        match self {
            PeerAddr::Tcp(address) => Some(address),
            PeerAddr::Unix => None,
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddr::Tcp(address) => address.fmt(f),
            PeerAddr::Unix => f.write_str("unix"),
        }
    }
}

impl From<Option<SocketAddr>> for PeerAddr {
    fn from(address: Option<SocketAddr>) -> PeerAddr {
        address.map_or(PeerAddr::Unix, PeerAddr::Tcp)
    }
}

/// Facts of one connection. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionInfo(pub(crate) Arc<Shared>);

impl ConnectionInfo {
    pub fn peer(&self) -> PeerAddr {
        self.0.peer
    }

    /// The address that the peer connected to.
    pub fn local(&self) -> PeerAddr {
        self.0.local
    }

    /// Why the server ended the request that runs, or the last one; `None` while it has not.
    pub fn ending(&self) -> Option<Ending> {
        self.0.lock().ending
    }

    /// The server is on its way out.
    pub fn draining(&self) -> bool {
        self.0.lock().machine.phase() != Phase::Serving
    }

    /// The peer will send nothing more. It may still read: a half-closed client gets its answer.
    pub fn peer_half_closed(&self) -> bool {
        self.0.lock().peer_ended
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo").field("peer", &self.0.peer).finish_non_exhaustive()
    }
}
