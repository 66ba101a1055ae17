//! The application under test. What it does with a request is in the request's path, so that it is the same on
//! whichever pod and try.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use pounce_runtime_tokio::{App, ConnectionInfo, RequestBody};
use tokio::time::Sleep;

use crate::scenario::RequestKind;
use crate::world::World;

/// One worker's application.
#[derive(Clone)]
pub struct SimApp {
    pub world: Arc<World>,
    /// The process that it runs in.
    pub process: u64,
}

impl std::fmt::Debug for SimApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimApp({})", self.process)
    }
}

/// The byte that every byte of request `id`'s answer is.
pub fn fill(id: u64) -> u8 {
    b'a' + (id % 26) as u8
}

/// Bytes of an answer to `kind`.
pub fn answer_bytes(kind: &RequestKind) -> u64 {
    match kind {
        RequestKind::Stream { chunks, chunk_bytes, .. } => u64::from(*chunks) * u64::from(*chunk_bytes),
        RequestKind::SlowReader { bytes, .. } | RequestKind::EarlyHead { bytes, .. } => u64::from(*bytes),
        RequestKind::Upload { chunks, chunk_bytes, .. } => u64::from(*chunks) * u64::from(*chunk_bytes),
        _ => 10,
    }
}

/// The path that asks for it.
pub fn path(id: u64, duration_ms: u64, kind: &RequestKind) -> String {
    let (mode, a, b, gap) = match kind {
        RequestKind::Stream { chunks, chunk_bytes, gap_ms } => ('s', *chunks, *chunk_bytes, *gap_ms),
        RequestKind::SlowReader { bytes, .. } | RequestKind::EarlyHead { bytes, .. } => ('l', *bytes, 0, 0),
        RequestKind::Upload { .. } => ('u', 0, 0, 0),
        _ => ('g', 10, 0, 0),
    };
    format!("/{id}/{duration_ms}/{mode}/{a}/{b}/{gap}")
}

impl App for SimApp {
    type Body = AppBody;
    type Service = SimService;

    fn serve_connection(&self, connection: ConnectionInfo) -> SimService {
        SimService { app: self.clone(), connection }
    }
}

/// The service of one connection.
#[derive(Debug)]
pub struct SimService {
    app: SimApp,
    connection: ConnectionInfo,
}

impl hyper::service::Service<Request<RequestBody>> for SimService {
    type Response = Response<AppBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AppBody>, Infallible>> + Send>>;

    fn call(&self, request: Request<RequestBody>) -> Self::Future {
        let (app, connection) = (self.app.clone(), self.connection.clone());
        Box::pin(async move {
            let parts: Vec<&str> = request.uri().path().split('/').skip(1).collect();
            let number = |index: usize| parts.get(index).and_then(|p| p.parse::<u64>().ok()).unwrap_or(0);
            let (id, duration, a, b, gap) = (number(0), number(1), number(3), number(4), number(5));
            let mode = parts.get(2).copied().unwrap_or("g").to_owned();
            app.world.started(id, app.process);
            let mut received = 0;
            if mode == "u" {
                let mut body = request.into_body();
                while let Some(frame) = body.frame().await {
                    match frame {
                        Ok(frame) => received += frame.data_ref().map_or(0, |data| data.len() as u64),
                        // The server answers for it, or the client is gone.
                        Err(_) => std::future::pending::<()>().await,
                    }
                }
            }
            if duration > 0 {
                tokio::time::sleep(Duration::from_millis(duration)).await;
            }
            app.world.head(id, connection.draining());
            let full = |length: u64| AppBody::Full(Bytes::from(vec![fill(id); length as usize]));
            let body = match mode.as_str() {
                "s" => AppBody::Stream {
                    left: a,
                    chunk: Bytes::from(vec![fill(id); b as usize]),
                    gap: Duration::from_millis(gap),
                    sleep: None,
                },
                "l" => full(a),
                "u" => full(received),
                _ => full(10),
            };
            Ok(Response::new(body))
        })
    }
}

/// The application's answers.
#[derive(Debug)]
pub enum AppBody {
    Full(Bytes),
    Stream { left: u64, chunk: Bytes, gap: Duration, sleep: Option<Pin<Box<Sleep>>> },
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            AppBody::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            AppBody::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            AppBody::Stream { left: 0, .. } => Poll::Ready(None),
            AppBody::Stream { left, chunk, gap, sleep } => {
                let waiting = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(*gap)));
                if waiting.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                *sleep = None;
                *left -= 1;
                Poll::Ready(Some(Ok(Frame::data(chunk.clone()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AppBody::Full(bytes) => bytes.is_empty(),
            AppBody::Stream { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AppBody::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            AppBody::Stream { .. } => SizeHint::default(),
        }
    }
}
