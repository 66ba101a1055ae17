//! The short way to a server in this process.

use std::io;

use http::{Request, Response};
use pounce_core::supervisor::Notify;
use pounce_core::{Event, Policy};

use crate::app::{App, BoxError, ConnectionInfo};
use crate::exchange::RequestBody;
use crate::os::listener::{BindAddress, OsListener};
use crate::os::signals::Signals;
use crate::shared::ServeOptions;
use crate::supervisor::Observer;
use crate::{in_process, logging, worker};

/// A server in this process: any hyper service, or a tower service through `hyper_util::service::TowerToHyperService`,
/// with the drain of pounce.
///
/// ```no_run
/// # async fn run(service: impl Clone + Send + Sync + Unpin + 'static + hyper::service::Service<
/// #     http::Request<pounce_runtime_tokio::RequestBody>,
/// #     Response = http::Response<http_body_util::Full<bytes::Bytes>>,
/// #     Error = std::convert::Infallible, Future: Send>) -> std::io::Result<()> {
/// let code = pounce_runtime_tokio::Server::bind("127.0.0.1:8000")?.serve(service).await;
/// std::process::exit(code)
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    listeners: Vec<OsListener>,
    signals: Signals,
    policy: Policy,
    options: ServeOptions,
}

/// The longest accept queue, in connections.
const BACKLOG: u32 = 2048;

impl Server {
    /// Listens on `address` (see [`BindAddress`]) and catches SIGTERM, SIGINT and SIGQUIT from now on.
    ///
    /// # Errors
    /// The address is none, or in use; the text says what to do.
    pub fn bind(address: &str) -> io::Result<Server> {
        let address: BindAddress =
            address.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let signals = Signals::install()?;
        let listener = OsListener::bind(&address, BACKLOG)?;
        let (policy, options) = (Policy::default(), ServeOptions::default());
        Ok(Server { listeners: vec![listener], signals, policy, options })
    }

    /// Where the server listens, with the real port. `None` on a Unix socket.
    pub fn local_addr(&self) -> Option<std::net::SocketAddr> {
        self.listeners.first().and_then(OsListener::local_addr)
    }

    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Server {
        self.policy = policy;
        self
    }

    #[must_use]
    pub fn options(mut self, options: ServeOptions) -> Server {
        self.options = options;
        self
    }

    /// Serves until a signal has ended the server, and returns the exit code for the process
    /// ([`pounce_core::supervisor::exit`]). To be called inside a tokio runtime.
    pub async fn serve<S: CloneService>(self, service: S) -> i32 {
        let Server { listeners, signals, policy, options } = self;
        let app = Always(service);
        in_process::serve(listeners, app, policy, options, signals, Logged, worker::tokio_spawn()).await
    }
}

/// A hyper service of which each connection gets a clone. Every service with these bounds is one.
pub trait CloneService:
    hyper::service::Service<
        Request<RequestBody>,
        Response = Response<Self::ResponseBody>,
        Error: Into<BoxError>,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + Unpin
    + 'static
{
    type ResponseBody: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> CloneService for S
where
    S: hyper::service::Service<
            Request<RequestBody>,
            Response = Response<B>,
            Error: Into<BoxError>,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + Unpin
        + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = B;
}

/// The same service for every connection.
#[derive(Clone)]
struct Always<S>(S);

impl<S: CloneService> App for Always<S> {
    type Body = S::ResponseBody;
    type Service = S;

    fn serve_connection(&self, _connection: ConnectionInfo) -> S {
        self.0.clone()
    }
}

/// Lifecycle events go to the log. There is no service manager to tell: a library does not speak for its process.
struct Logged;

impl Observer for Logged {
    fn event(&mut self, event: &Event) {
        logging::lifecycle(event);
    }

    fn notify(&mut self, _notify: &Notify) {}
}
