//! A server in this process, over in-memory pipes or loopback TCP, with signals that the test sends.

#![allow(dead_code, reason = "each test program uses a part")]

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use pounce_core::Event;
use pounce_core::event::Signal;
use pounce_core::policy::{Policy, PolicySettings};
use pounce_core::supervisor::Notify;
use pounce_runtime_tokio::listener::{Accepted, Listener, Socket, Stream};
use pounce_runtime_tokio::supervisor::{Observer, Signals};
use pounce_runtime_tokio::{App, ConnectionInfo, RequestBody, ServeOptions, in_process};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// An in-memory pipe, as a connection.
#[derive(Debug)]
pub struct Pipe(pub DuplexStream);

impl Socket for Pipe {
    type Stream = Pipe;

    fn into_stream(self) -> io::Result<Pipe> {
        Ok(self)
    }
}

impl Stream for Pipe {
    /// A pipe has no reactor in between: a read finds what is there.
    fn readable_now(&self) -> bool {
        false
    }

    fn reset_on_drop(&self) {}
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Something that a test puts in and a driver polls out.
pub struct Queue<T> {
    into: UnboundedSender<T>,
    out: Arc<Mutex<UnboundedReceiver<T>>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue { into: self.into.clone(), out: Arc::clone(&self.out) }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let (into, out) = mpsc::unbounded_channel();
        Queue { into, out: Arc::new(Mutex::new(out)) }
    }
}

impl<T> Queue<T> {
    pub fn put(&self, item: T) {
        assert!(self.into.send(item).is_ok(), "the queue has its other end itself");
    }

    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<T> {
        match self.out.lock().unwrap().poll_recv(cx) {
            Poll::Ready(Some(item)) => Poll::Ready(item),
            // It never ends: this end can put something in.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Listener for Queue<Pipe> {
    type Io = Pipe;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<Pipe>>> {
        self.poll(cx).map(|io| Ok(Accepted { io, peer: None, local: None }))
    }

    fn refuse_new(&mut self) {}

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

impl Signals for Queue<Signal> {
    fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        self.poll(cx)
    }
}

/// Collects what the log would say, and when the server is ready.
#[derive(Clone, Default)]
pub struct Told {
    pub events: Arc<Mutex<Vec<String>>>,
    ready: Arc<tokio::sync::Notify>,
}

impl Told {
    /// Waits until the server is ready.
    pub async fn ready(&self) {
        self.ready.notified().await;
    }
}

impl Observer for Told {
    fn event(&mut self, event: &Event) {
        self.events.lock().unwrap().push(event.to_string());
    }

    fn notify(&mut self, notify: &Notify) {
        if *notify == Notify::Ready {
            self.ready.notify_one();
        }
    }
}

/// Answers with the method, the path and the body; `/slow` after 300 ms.
#[derive(Clone, Copy, Debug)]
pub struct Mirror;

impl App for Mirror {
    type Body = Full<Bytes>;
    type Service = Mirror;

    fn serve_connection(&self, _connection: ConnectionInfo) -> Mirror {
        Mirror
    }
}

impl hyper::service::Service<Request<RequestBody>> for Mirror {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<RequestBody>) -> Self::Future {
        Box::pin(async move {
            let what = format!("{} {} ", request.method(), request.uri().path());
            if request.uri().path() == "/slow" {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let body = match request.into_body().collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => Bytes::from(format!("broken: {error}")),
            };
            Ok(Response::new(Full::new(Bytes::from([what.as_bytes(), &body].concat()))))
        })
    }
}

/// A policy that differs from the default in what `change` says.
pub fn policy(change: impl FnOnce(&mut PolicySettings)) -> Policy {
    let mut settings = PolicySettings::default();
    change(&mut settings);
    Policy::new(settings).unwrap()
}

/// A running server, and how to talk to it.
pub struct Server {
    pub signals: Queue<Signal>,
    pub told: Told,
    pub exit: tokio::task::JoinHandle<i32>,
}

/// Starts a server and waits until it is ready.
pub async fn serve<L: Listener>(listener: L, policy: Policy, options: ServeOptions) -> Server {
    let (signals, told) = (Queue::default(), Told::default());
    let spawn = pounce_runtime_tokio::worker::tokio_spawn();
    let run =
        in_process::serve(vec![listener], Mirror, policy, options, signals.clone(), told.clone(), spawn);
    let exit = tokio::spawn(run);
    told.ready().await;
    Server { signals, told, exit }
}
