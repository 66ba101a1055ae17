//! The yardstick: hyper on a tokio current-thread runtime, and nothing else. It gives the same bytes as the Python
//! applications in `apps/`, and does without timeouts, limits, drain, logs and everything else that a server is.
//!
//! `bare-hyper PORT THREADS`

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

const HELLO: &[u8] = b"Hello from pounce\n";
const CHUNKS: u32 = 2_000;
const CHUNK: &[u8] = &[b'x'; 100];

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u16>().expect("a number"));
    let port = arguments.next().expect("bare-hyper PORT THREADS");
    let threads = arguments.next().unwrap_or(1);
    let others: Vec<_> = (1..threads).map(|_| std::thread::spawn(move || serve(port))).collect();
    serve(port);
    others.into_iter().for_each(|thread| thread.join().expect("a serving thread"));
}

fn serve(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.set_reuse_port(true).expect("SO_REUSEPORT");
        socket.set_nonblocking(true).expect("O_NONBLOCK");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("a free port");
        socket.listen(2048).expect("listen");
        let listener = tokio::net::TcpListener::from_std(socket.into()).expect("a listener");
        let large: Bytes = b"0123456789".repeat(10_240).into();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let large = large.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| Answer::to(request, large.clone()));
                // An error is a client that left.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}

/// An answer that is there at once costs no allocation.
enum Answer {
    Now(Option<Response<Sent>>),
    Later(Pin<Box<dyn Future<Output = Response<Sent>> + Send>>),
}

impl Answer {
    fn to(request: Request<Incoming>, large: Bytes) -> Answer {
        match request.uri().path() {
            "/echo" => Answer::Later(Box::pin(async move {
                let body =
                    request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                whole(body, "application/json")
            })),
            "/sleep" => Answer::Later(Box::pin(async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                whole(Bytes::from_static(HELLO), "text/plain; charset=utf-8")
            })),
            "/large" => Answer::Now(Some(whole(large, "application/octet-stream"))),
            "/upload" => Answer::Later(Box::pin(async move {
                let (mut body, mut length) = (request.into_body(), 0);
                while let Some(Ok(frame)) = body.frame().await {
                    length += frame.data_ref().map_or(0, Bytes::len);
                }
                whole(format!("{length}\n").into(), "text/plain; charset=utf-8")
            })),
            "/stream" => {
                let mut response = Response::new(Sent::Chunks { left: CHUNKS, budget: 0 });
                let kind = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                Answer::Now(Some(response))
            }
            _ => Answer::Now(Some(whole(Bytes::from_static(HELLO), "text/plain; charset=utf-8"))),
        }
    }
}

impl Future for Answer {
    type Output = Result<Response<Sent>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Answer::Now(response) => Poll::Ready(Ok(response.take().expect("polled after its end"))),
            Answer::Later(future) => future.as_mut().poll(cx).map(Ok),
        }
    }
}

fn whole(bytes: Bytes, kind: &'static str) -> Response<Sent> {
    let mut response = Response::new(Sent::Whole(Some(bytes)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

enum Sent {
    Whole(Option<Bytes>),
    /// `budget`: chunks until the others have their turn.
    Chunks {
        left: u32,
        budget: u32,
    },
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Sent::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Sent::Chunks { left: 0, .. } => Poll::Ready(None),
            Sent::Chunks { budget, .. } if *budget == 64 => {
                *budget = 0;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Sent::Chunks { left, budget } => {
                *left -= 1;
                *budget += 1;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(CHUNK)))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Sent::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Sent::Chunks { .. } => SizeHint::default(),
        }
    }
}
