//! Stand-in for the runtime crate's API until it is there: serves plain hyper on a TCP port.
#![allow(missing_docs)]

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};

pub trait App: Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;
    type Service: hyper::service::Service<
            http::Request<RequestBody>,
            Response = http::Response<Self::Body>,
            Error: Into<Box<dyn Error + Send + Sync>> + Send,
            Future: Send,
        > + Send
        + 'static;
    fn serve_connection(&self, connection: ConnectionInfo) -> Self::Service;
}

#[derive(Clone, Debug)]
pub enum PeerAddr {
    Tcp(SocketAddr),
    #[allow(dead_code)]
    Unix(Option<PathBuf>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    PeerGone,
    RequestTimeout,
    Forced,
}

#[derive(Clone)]
pub struct ConnectionInfo(Arc<(PeerAddr, PeerAddr, AtomicU8)>);

impl ConnectionInfo {
    pub fn peer(&self) -> &PeerAddr {
        &self.0.0
    }
    pub fn local(&self) -> &PeerAddr {
        &self.0.1
    }
    pub fn ending(&self) -> Option<Ending> {
        match self.0.2.load(Ordering::Relaxed) {
            1 => Some(Ending::PeerGone),
            2 => Some(Ending::RequestTimeout),
            3 => Some(Ending::Forced),
            _ => None,
        }
    }
}

pub struct RequestBody(Incoming);

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

pub enum HostCommand {
    Stop,
    Exit { code: i32 },
}

pub struct StartInfo {
    pub worker: u32,
    pub generation: u32,
    pub settings: String,
}

type HostFn = Box<dyn Fn(HostCommand) + Send + Sync>;

#[derive(Clone, Default)]
pub struct WorkerHandle(Arc<Inner>);

#[derive(Default)]
struct Inner {
    host: Mutex<Option<HostFn>>,
    running: AtomicUsize,
}

pub async fn connect(control: OwnedFd) -> io::Result<(WorkerHandle, StartInfo)> {
    std::mem::forget(control);
    let settings = std::env::var("POUNCE_STANDIN").unwrap_or_else(|_| "{}".to_owned());
    Ok((WorkerHandle::default(), StartInfo { worker: 1, generation: 1, settings }))
}

impl WorkerHandle {
    pub fn serve<A: App>(&self, app: A) {
        let listener = std::net::TcpListener::bind(
            std::env::var("POUNCE_STANDIN_LISTEN").unwrap_or_else(|_| "127.0.0.1:0".to_owned()),
        )
        .unwrap();
        listener.set_nonblocking(true).unwrap();
        eprintln!("standin: ready on {}", listener.local_addr().unwrap());
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, peer)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let info = ConnectionInfo(Arc::new((
                    PeerAddr::Tcp(peer),
                    PeerAddr::Tcp(stream.local_addr().unwrap()),
                    AtomicU8::new(0),
                )));
                let service = Converted { service: app.serve_connection(info.clone()), info };
                inner.running.fetch_add(1, Ordering::Relaxed);
                let inner = Arc::clone(&inner);
                tokio::spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    inner.running.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
    }
    pub fn start_failed(&self, message: String) {
        eprintln!("standin: start failed: {message}");
        self.host(HostCommand::Exit { code: 3 });
    }
    pub fn set_host(&self, f: HostFn) {
        *self.0.host.lock().unwrap() = Some(f);
    }
    fn host(&self, command: HostCommand) {
        if let Some(host) = &*self.0.host.lock().unwrap() {
            host(command);
        }
    }
    pub fn host_stopped(&self) {
        eprintln!("standin: host stopped");
        self.host(HostCommand::Exit { code: 0 });
    }
    pub fn retire_me(&self) {
        eprintln!("standin: retire");
        self.host(HostCommand::Stop);
    }
}

struct Converted<S> {
    service: S,
    info: ConnectionInfo,
}

impl<S> hyper::service::Service<http::Request<Incoming>> for Converted<S>
where
    S: hyper::service::Service<http::Request<RequestBody>>,
    S::Future: Send + 'static,
    S::Response: Send,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;
    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let future = self.service.call(request.map(RequestBody));
        let info = self.info.clone();
        let limit = std::env::var("POUNCE_STANDIN_TIMEOUT").ok().and_then(|it| it.parse().ok());
        Box::pin(async move {
            match limit {
                None => future.await,
                Some(limit) => {
                    let mut future = Box::pin(future);
                    match tokio::time::timeout(std::time::Duration::from_secs_f64(limit), &mut future).await {
                        Ok(result) => result,
                        Err(_) => {
                            info.0.2.store(2, Ordering::Relaxed);
                            drop(future);
                            std::future::pending().await
                        }
                    }
                }
            }
        })
    }
}
