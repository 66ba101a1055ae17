//! The application as a hyper service: one [`Asgi`] per worker, one [`AsgiService`] per connection.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header;
use http_body::Body as _;

use crate::connection::Connection;
use crate::driver::{Driver, Event};
use crate::exchange::{Exchange, Held, ResponseBody};
use crate::pieces::Pieces;
use crate::runtime::{App, ConnectionInfo, RequestBody};

/// A body that is announced with no more bytes than this is read whole before the application is started, so that its
/// `receive()` need not wait.
const SMALL_BODY_BYTES: usize = 64 * 1024;

/// The application.
pub struct Asgi {
    pub driver: Arc<Driver>,
}

impl App for Asgi {
    type Body = ResponseBody;
    type Service = AsgiService;

    fn serve_connection(&self, connection: ConnectionInfo) -> AsgiService {
        AsgiService { driver: Arc::clone(&self.driver), connection: Arc::new(Connection::new(connection)) }
    }
}

/// The application for the requests of one connection.
pub struct AsgiService {
    driver: Arc<Driver>,
    connection: Arc<Connection>,
}

impl Drop for AsgiService {
    /// hyper has a connection's service as long as the connection.
    fn drop(&mut self) {
        self.connection.ended();
    }
}

impl hyper::service::Service<http::Request<RequestBody>> for AsgiService {
    type Response = http::Response<ResponseBody>;
    type Error = Infallible;
    type Future = Respond;

    fn call(&self, request: http::Request<RequestBody>) -> Respond {
        let (request, body) = request.into_parts();
        if body.is_end_stream() {
            return Respond(start(&self.driver, &self.connection, request, Pieces::default(), None));
        }
        Respond(Stage::Reading(Some(Box::new(Reading {
            driver: Arc::clone(&self.driver),
            connection: Arc::clone(&self.connection),
            request,
            body,
            parts: Pieces::default(),
        }))))
    }
}

/// Hands the request to Python and waits for the response.
pub struct Respond(Stage);

enum Stage {
    Reading(Option<Box<Reading>>),
    /// With what is left to be read of the request body.
    Waiting(Held, Option<Box<RequestBody>>),
}

/// The beginning of the body is read before the application is started.
struct Reading {
    driver: Arc<Driver>,
    connection: Arc<Connection>,
    request: http::request::Parts,
    body: RequestBody,
    parts: Pieces,
}

impl Reading {
    /// Ready(true): the body is complete. Ready(false): the application has to read on.
    fn poll_small(&mut self, cx: &mut Context<'_>) -> Poll<Option<bool>> {
        if self.body.is_end_stream() {
            return Poll::Ready(Some(true));
        }
        if self.request.headers.contains_key(header::EXPECT) {
            // The application decides whether the body is wanted: the first `receive()` asks for it.
            return Poll::Ready(Some(false));
        }
        let whole = self.body.size_hint().exact().is_some_and(|length| length <= SMALL_BODY_BYTES as u64);
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.parts.push(data);
                    }
                    if self.body.is_end_stream() {
                        return Poll::Ready(Some(true));
                    }
                    if self.parts.bytes() >= SMALL_BODY_BYTES {
                        return Poll::Ready(Some(false));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Some(true)),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(None),
                Poll::Pending if whole => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Some(false)),
            }
        }
    }
}

/// Hands the request to Python. `rest`: the body from here on, if there is more.
fn start(
    driver: &Arc<Driver>,
    connection: &Arc<Connection>,
    request: http::request::Parts,
    parts: Pieces,
    rest: Option<RequestBody>,
) -> Stage {
    let exchange = Exchange::new(Arc::clone(driver), Arc::clone(connection), request, parts, rest.is_none());
    driver.push(Event::Request(Arc::clone(&exchange)));
    Stage::Waiting(Held(exchange), rest.map(Box::new))
}

impl Future for Respond {
    type Output = Result<http::Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                Stage::Waiting(Held(exchange), rest) => {
                    if let Some(body) = rest
                        && exchange.poll_read_ahead(body, cx).is_ready()
                    {
                        *rest = None;
                    }
                    let response = ready!(exchange.poll_answer(cx));
                    if let Some(body) = rest.take()
                        && exchange.wants_body()
                    {
                        exchange.driver.handle().spawn(Arc::clone(exchange).pump(body));
                    }
                    return Poll::Ready(Ok(response));
                }
                Stage::Reading(reading) => {
                    let Some(mut now) = reading.take() else { return Poll::Pending };
                    let complete = match now.poll_small(cx) {
                        Poll::Pending => {
                            *reading = Some(now);
                            return Poll::Pending;
                        }
                        // A body that broke off is the driver's to answer or to close; without it, say what is known.
                        Poll::Ready(None) => {
                            let mut response = http::Response::new(ResponseBody::Whole(None));
                            *response.status_mut() = http::StatusCode::BAD_REQUEST;
                            return Poll::Ready(Ok(response));
                        }
                        Poll::Ready(Some(complete)) => complete,
                    };
                    let Reading { driver, connection, request, body, parts } = *now;
                    self.0 = start(&driver, &connection, request, parts, (!complete).then_some(body));
                }
            }
        }
    }
}
