//! One request and its response, between hyper's task and the application's.
//!
//! Both sides hold an [`Exchange`] and change it under its lock; whoever makes something possible for the other wakes
//! it: hyper's task by its waker, the application through [`Event`]s. Back-pressure is counted here, both ways.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use pyo3::{Py, PyAny};

use crate::connection::Connection;
use crate::driver::{Driver, Event, set_waker};
use crate::pieces::Pieces;
use crate::runtime::{Ending, RequestBody};

/// Response bytes that are queued before `send()` waits.
const BUFFER_BYTES: usize = 64 * 1024;

/// Request body bytes after which nothing more is read ahead of the application.
const READ_AHEAD_BYTES: usize = 128 * 1024;

/// See the module.
pub struct Exchange {
    pub driver: Arc<Driver>,
    pub connection: Arc<Connection>,
    pub head_request: bool,
    /// How many fields the request has. hyper puts the next request's into the map that the response's were in, so that one gets
    /// room for as many.
    pub request_fields: usize,
    /// Where the running task is in the bridge's table, plus one; 0 when it is not there. Only touched by Python.
    pub slot: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    request: Option<http::request::Parts>,

    received: Pieces,
    request_body: RequestBodyState,
    /// The application was given the last part of the body.
    request_body_delivered: bool,
    /// False after `Expect: 100-continue` until the application asks for the body: reading it sends the 100.
    request_body_wanted: bool,
    /// The task that reads the request body, when it waits for the application: hyper's, or the pump.
    reader: Option<Waker>,
    receivers: Vec<Py<PyAny>>,

    response: ResponseState,
    /// Set when hyper may have it; `answered` once it was taken.
    answer: Option<Answer>,
    answered: bool,
    /// The service future, then the response body.
    hyper: Option<Waker>,
    queue: Pieces,
    senders: Vec<Py<PyAny>>,
    /// Bytes that the application announced and has not sent yet.
    content_length_left: Option<u64>,
    /// Whatever body the application sends, the client gets none: it asked for the head, or the status has no body.
    no_body: bool,
    /// The application was told that it sent a body which the status has not.
    told_no_body: bool,
    /// The client sends nothing more. It has most likely gone, which the application is told; if it only closed its sending
    /// side, it can still read what the application sends.
    peer_ended: bool,
    /// hyper let go before the response was complete: the client left, or the server gave the request up.
    closed: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum RequestBodyState {
    Open,
    Complete,
    Broken,
}

enum ResponseState {
    /// The application has not sent a head.
    Nothing,
    /// The head waits for the first part of the body.
    Head(StatusCode, HeaderMap),
    Streaming,
    Complete,
    /// Cut off after the head went out.
    Aborted,
}

/// A response for hyper.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// The whole body; `None` when it is streamed.
    body: Option<Bytes>,
}

/// What `receive()` gives to the application.
pub enum Received {
    /// The body's next bytes.
    Request {
        body: Pieces,
        more: bool,
    },
    Disconnect,
}

/// Why `send()` refuses a message.
pub enum SendError {
    /// The client is gone.
    Disconnected,
    /// The application broke the protocol.
    Protocol(String),
}

/// How `send()` went.
pub enum Sent {
    Done,
    /// The client is slower than the application: wait until [`Exchange::poll_sendable`].
    Full,
}

impl Exchange {
    /// `body`: what was read of it already. `complete`: nothing more comes.
    pub fn new(
        driver: Arc<Driver>,
        connection: Arc<Connection>,
        request: http::request::Parts,
        body: Pieces,
        complete: bool,
    ) -> Arc<Self> {
        let wanted = !request.headers.contains_key(header::EXPECT);
        Arc::new(Self {
            driver,
            connection,
            head_request: request.method == Method::HEAD,
            request_fields: request.headers.len(),
            slot: AtomicUsize::new(0),
            state: Mutex::new(State {
                request: Some(request),
                received: body,
                request_body: if complete { RequestBodyState::Complete } else { RequestBodyState::Open },
                request_body_delivered: false,
                request_body_wanted: wanted,
                reader: None,
                receivers: Vec::new(),
                response: ResponseState::Nothing,
                answer: None,
                answered: false,
                hyper: None,
                queue: Pieces::default(),
                senders: Vec::new(),
                content_length_left: None,
                no_body: false,
                told_no_body: false,
                peer_ended: false,
                closed: false,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request's head, once.
    pub fn take_request(&self) -> Option<http::request::Parts> {
        self.state().request.take()
    }

    // --- the application's side ---------------------------------------------------------------------------------

    /// The next message for the application, if there is one now.
    pub fn poll_receive(&self) -> Option<Received> {
        let mut state = self.state();
        let received = state.next_received();
        if matches!(received, Some(Received::Request { more: true, .. })) {
            // There is room again.
            let reader = state.reader.take();
            drop(state);
            self.wake(reader);
        }
        received
    }

    /// Registers a future to be woken when [`Exchange::poll_receive`] may have something; false when it has now.
    pub fn wait_to_receive(&self, future: Py<PyAny>) -> bool {
        let mut state = self.state();
        if state.can_receive() {
            return false;
        }
        state.receivers.push(future);
        if !state.request_body_wanted {
            state.request_body_wanted = true;
            let reader = state.reader.take();
            drop(state);
            self.wake(reader);
        }
        true
    }

    /// Whether a sender may go on.
    ///
    /// # Errors
    /// [`SendError::Disconnected`] when what it sent will never arrive.
    pub fn poll_sendable(&self) -> Result<bool, SendError> {
        let state = self.state();
        if state.closed { Err(SendError::Disconnected) } else { Ok(state.can_send()) }
    }

    /// Registers a future to be woken when [`Exchange::poll_sendable`] changes; false when it may go on now.
    pub fn wait_to_send(&self, future: Py<PyAny>) -> bool {
        let mut state = self.state();
        if state.closed || state.can_send() {
            return false;
        }
        state.senders.push(future);
        true
    }

    /// Takes a future out that is no longer awaited.
    pub fn forget(&self, future: &Py<PyAny>) {
        let mut state = self.state();
        let State { receivers, senders, .. } = &mut *state;
        for waiting in [receivers, senders] {
            if let Some(at) = waiting.iter().position(|other| other.is(future)) {
                let taken = waiting.swap_remove(at);
                // Not the last reference: the caller has one.
                drop(taken);
            }
        }
    }

    /// Whether hyper let go before the response was complete.
    pub fn closed(&self) -> bool {
        self.state().closed
    }

    /// Takes the response head (`http.response.start`).
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_head(
        &self,
        status: StatusCode,
        headers: HeaderMap,
        content_length: Option<u64>,
    ) -> Result<(), SendError> {
        let mut state = self.state();
        if state.closed {
            return Err(SendError::Disconnected);
        }
        match state.response {
            ResponseState::Nothing => {
                state.response = ResponseState::Head(status, headers);
                state.content_length_left = content_length;
                state.no_body = self.head_request || body_less(status);
                Ok(())
            }
            _ => Err(SendError::Protocol(
                "'http.response.start' was sent twice; after it the application sends 'http.response.body'"
                    .to_owned(),
            )),
        }
    }

    /// Takes a part of the response body (`http.response.body`).
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_body(&self, body: Bytes, more: bool) -> Result<Sent, SendError> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.closed {
            return Err(SendError::Disconnected);
        }
        match &state.response {
            ResponseState::Head(..) | ResponseState::Streaming => {}
            ResponseState::Nothing => {
                return Err(SendError::Protocol(
                    "'http.response.body' was sent before 'http.response.start'".to_owned(),
                ));
            }
            ResponseState::Complete => {
                return Err(SendError::Protocol(
                    "'http.response.body' was sent after the response was complete (after a message without \
                     'more_body': True)"
                        .to_owned(),
                ));
            }
            ResponseState::Aborted => {
                return Err(SendError::Protocol("the response was cut off by an earlier error".to_owned()));
            }
        }
        if let Err(message) = state.count(body.len(), more) {
            if matches!(state.response, ResponseState::Streaming) {
                state.response = ResponseState::Aborted;
                self.ended(guard);
            }
            return Err(SendError::Protocol(message));
        }

        let was = std::mem::replace(
            &mut state.response,
            if more { ResponseState::Streaming } else { ResponseState::Complete },
        );
        let streaming = matches!(was, ResponseState::Streaming);
        if let ResponseState::Head(status, mut headers) = was {
            if !more
                && self.head_request
                && !headers.contains_key(header::CONTENT_LENGTH)
                && !body_less(status)
            {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len() as u64));
            }
            let whole = if state.no_body {
                Some(Bytes::new())
            } else if more {
                None
            } else {
                Some(body.clone())
            };
            state.answer = Some(Answer { status, headers, body: whole });
        }
        let useless = state.no_body && !self.head_request && !body.is_empty();
        let useless = useless && !std::mem::replace(&mut state.told_no_body, true);
        if !state.no_body && (more || streaming) {
            state.queue.push(body);
        }
        let hyper = state.hyper.take();
        let sent = if state.can_send() { Sent::Done } else { Sent::Full };
        // A `receive()` that waits gets its `http.disconnect`, and the rest of the request is let go.
        let (receivers, reader) = if more {
            (Vec::new(), None)
        } else {
            (std::mem::take(&mut state.receivers), state.reader.take())
        };
        drop(guard);
        if useless {
            tracing::warn!(
                "The application sent a body with a status that has none (204, 304); it is left out"
            );
        }
        self.wake(hyper);
        self.wake(reader);
        self.wake_application(receivers);
        Ok(sent)
    }

    /// The application is done with the request. What it left open is ended so that the client can tell.
    pub fn finish(&self) -> Finished {
        let mut state = self.state();
        if state.closed {
            return Finished::Closed;
        }
        let (finished, answer) = match state.response {
            ResponseState::Complete => return Finished::Complete,
            ResponseState::Nothing => (Finished::NoHead, true),
            ResponseState::Head(..) => (Finished::NoBody, true),
            ResponseState::Streaming => (Finished::Cut, false),
            ResponseState::Aborted => return Finished::Cut,
        };
        if answer {
            let mut headers = HeaderMap::with_capacity(1);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            let text = Bytes::from_static(b"Internal Server Error");
            if self.head_request {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len() as u64));
            }
            state.answer = Some(Answer {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                headers,
                body: Some(if self.head_request { Bytes::new() } else { text }),
            });
            state.response = ResponseState::Complete;
        } else if state.no_body {
            // Everything that can be seen went out with the head.
            state.response = ResponseState::Complete;
        } else {
            state.response = ResponseState::Aborted;
        }
        // To stop when the client has left is no mistake.
        let finished = if state.peer_ended { Finished::Closed } else { finished };
        self.ended(state);
        finished
    }

    /// Wakes all who wait: the response is complete or was cut off.
    fn ended(&self, mut state: MutexGuard<'_, State>) {
        let (hyper, reader) = (state.hyper.take(), state.reader.take());
        let mut waiting = std::mem::take(&mut state.receivers);
        if state.can_send() {
            waiting.append(&mut state.senders);
        }
        drop(state);
        self.wake(hyper);
        self.wake(reader);
        self.wake_application(waiting);
    }

    /// Wakes what the application waits for by these futures.
    fn wake_application(&self, waiting: Vec<Py<PyAny>>) {
        if !waiting.is_empty() {
            self.driver.push_all(waiting.into_iter().map(Event::Wake));
        }
    }

    fn wake(&self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.driver.wake(waker);
        }
    }

    // --- hyper's side ---------------------------------------------------------------------------------------------

    /// The response, when the application has given one.
    pub fn poll_answer(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<http::Response<ResponseBody>> {
        let mut state = self.state();
        let Some(answer) = state.answer.take() else {
            set_waker(&mut state.hyper, cx);
            self.watch_peer(state);
            return Poll::Pending;
        };
        state.answered = true;
        let body = match answer.body {
            Some(body) => ResponseBody::whole(body),
            // All of it is here by now: its length is known, and it goes out in one write.
            None if matches!(state.response, ResponseState::Complete)
                && state.queue.bytes() <= BUFFER_BYTES =>
            {
                ResponseBody::whole(state.queue.take().into_bytes())
            }
            None => ResponseBody::Stream(Stream(Arc::clone(self))),
        };
        let outlived = state.no_body && matches!(state.response, ResponseState::Streaming);
        drop(state);
        if outlived {
            self.outlived();
        }
        let mut response = http::Response::new(body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Poll::Ready(response)
    }

    /// hyper looks at its tasks whenever something has come from the client, so this sees the client's end in time.
    fn watch_peer(&self, mut state: MutexGuard<'_, State>) {
        if state.peer_ended || !self.connection.info.peer_half_closed() {
            return;
        }
        state.peer_ended = true;
        let receivers = if state.can_receive() { std::mem::take(&mut state.receivers) } else { Vec::new() };
        drop(state);
        self.wake_application(receivers);
    }

    /// hyper is done with the response, and the application is not: it hears of the connection's end all the same.
    fn outlived(self: &Arc<Self>) {
        if !self.connection.tell_of_its_end(self) {
            self.connection_ended();
        }
    }

    /// The connection has ended, and the response was over for hyper before.
    pub fn connection_ended(&self) {
        let mut state = self.state();
        if state.closed || !matches!(state.response, ResponseState::Streaming) {
            return;
        }
        if state.no_body {
            // There may be no end to what the application sends and nobody gets.
            state.closed = true;
        } else if self.connection.info.peer_half_closed() {
            // It has all that was announced: what is left to send is that this was all.
            state.peer_ended = true;
        } else {
            // This side has closed it as soon as it could, which says nothing of the client.
            return;
        }
        let reader = if state.closed { state.reader.take() } else { None };
        let receivers = if state.can_receive() { std::mem::take(&mut state.receivers) } else { Vec::new() };
        drop(state);
        self.wake(reader);
        self.wake_application(receivers);
    }

    /// hyper lets go of the request. Nothing happens if the response was complete.
    fn close(self: &Arc<Self>) {
        let mut state = self.state();
        if state.closed
            || (state.answered && matches!(state.response, ResponseState::Complete) && state.queue.is_empty())
        {
            return;
        }
        if state.all_given() {
            drop(state);
            self.outlived();
            return;
        }
        state.closed = true;
        state.queue.clear();
        let reader = state.reader.take();
        let waiting: Vec<_> = {
            let State { receivers, senders, .. } = &mut *state;
            receivers.drain(..).chain(senders.drain(..)).collect()
        };
        drop(state);
        self.wake(reader);
        let given_up = matches!(self.connection.info.ending(), Some(Ending::RequestTimeout | Ending::Forced));
        let cancel = given_up.then(|| Event::Cancel(Arc::clone(self)));
        if !waiting.is_empty() || cancel.is_some() {
            self.driver.push_all(waiting.into_iter().map(Event::Wake).chain(cancel));
        }
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Aborted>>> {
        let mut state = self.state();
        let Some(frame) = state.queue.pop() else {
            return match state.response {
                ResponseState::Complete => Poll::Ready(None),
                ResponseState::Aborted => Poll::Ready(Some(Err(Aborted))),
                _ => {
                    set_waker(&mut state.hyper, cx);
                    self.watch_peer(state);
                    Poll::Pending
                }
            };
        };
        let senders = if state.can_send() { std::mem::take(&mut state.senders) } else { Vec::new() };
        drop(state);
        self.wake_application(senders);
        Poll::Ready(Some(Ok(http_body::Frame::data(frame))))
    }

    fn push_received(&self, part: Option<Bytes>, now: RequestBodyState) {
        let mut state = self.state();
        if let Some(part) = part {
            state.received.push(part);
        }
        state.request_body = now;
        let receivers = if state.can_receive() { std::mem::take(&mut state.receivers) } else { Vec::new() };
        drop(state);
        self.wake_application(receivers);
    }

    /// Reads the request body ahead of the application. Ready when no more of it is wanted.
    pub fn poll_read_ahead(&self, body: &mut RequestBody, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            {
                let mut state = self.state();
                if !state.wants_body() {
                    return Poll::Ready(());
                }
                set_waker(&mut state.reader, cx);
                if state.received.bytes() >= READ_AHEAD_BYTES || !state.request_body_wanted {
                    return Poll::Pending;
                }
            }
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
            let now = match &frame {
                Some(Ok(_)) if !body.is_end_stream() => RequestBodyState::Open,
                Some(Ok(_)) | None => RequestBodyState::Complete,
                Some(Err(_)) => RequestBodyState::Broken,
            };
            // Trailers of a request have no place in ASGI.
            self.push_received(frame.and_then(|frame| frame.ok()?.into_data().ok()), now);
        }
    }

    /// Whether the application may still ask for the request body.
    pub fn wants_body(&self) -> bool {
        self.state().wants_body()
    }

    /// Reads the request body of a response that is streamed: hyper looks at it only when the client takes its bytes, and a
    /// client may want to send all of its own first.
    pub async fn pump(self: Arc<Self>, mut body: Box<RequestBody>) {
        std::future::poll_fn(|cx| self.poll_read_ahead(&mut body, cx)).await;
    }

    /// Forgets the place in the bridge's table and returns it.
    pub fn take_slot(&self) -> Option<usize> {
        self.slot.swap(0, Ordering::Relaxed).checked_sub(1)
    }
}

/// How a request ended, from the application's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    Complete,
    /// The client left or the server gave up before.
    Closed,
    NoHead,
    NoBody,
    /// The head is out, the body is not whole.
    Cut,
}

impl State {
    fn wants_body(&self) -> bool {
        !self.closed
            && self.request_body == RequestBodyState::Open
            && !matches!(self.response, ResponseState::Complete | ResponseState::Aborted)
    }

    fn can_receive(&self) -> bool {
        self.closed
            || matches!(self.response, ResponseState::Complete | ResponseState::Aborted)
            || if self.request_body_delivered {
                self.peer_ended
            } else {
                !self.received.is_empty() || self.request_body != RequestBodyState::Open
            }
    }

    fn next_received(&mut self) -> Option<Received> {
        if !self.can_receive() {
            return None;
        }
        if self.request_body_delivered
            || self.closed
            || matches!(self.response, ResponseState::Complete | ResponseState::Aborted)
            || (self.received.is_empty() && self.request_body == RequestBodyState::Broken)
        {
            return Some(Received::Disconnect);
        }
        let body = self.received.take();
        let more = self.request_body != RequestBodyState::Complete;
        self.request_body_delivered = !more;
        Some(Received::Request { body, more })
    }

    fn can_send(&self) -> bool {
        self.queue.bytes() < BUFFER_BYTES || matches!(self.response, ResponseState::Aborted)
    }

    /// Checks a part of the body against the announced length.
    fn count(&mut self, bytes: usize, more: bool) -> Result<(), String> {
        let (Some(left), false) = (self.content_length_left, self.no_body) else { return Ok(()) };
        let Some(left) = left.checked_sub(bytes as u64) else {
            return Err(format!(
                "the response body is longer than its content-length: {} bytes too many",
                bytes as u64 - left
            ));
        };
        if !more && left > 0 {
            return Err(format!(
                "the response body is shorter than its content-length: {left} bytes are missing"
            ));
        }
        self.content_length_left = Some(left);
        Ok(())
    }

    /// Whether hyper has every byte that was announced, and lets go of the body without asking for its end.
    fn all_given(&self) -> bool {
        self.content_length_left == Some(0)
            && self.queue.is_empty()
            && self.answered
            && matches!(self.response, ResponseState::Streaming)
    }
}

/// RFC 9110 §6.4.1: responses that never have a body.
pub fn body_less(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Drops as the service future's hold on an exchange.
pub struct Held(pub Arc<Exchange>);

impl Drop for Held {
    fn drop(&mut self) {
        // After the response head the body decides.
        let answered = self.0.state().answered;
        if !answered {
            self.0.close();
        }
    }
}

/// The response body, for hyper.
pub enum ResponseBody {
    Whole(Option<Bytes>),
    Stream(Stream),
}

impl ResponseBody {
    fn whole(body: Bytes) -> Self {
        Self::Whole(if body.is_empty() { None } else { Some(body) })
    }
}

/// A body that the application is still sending.
pub struct Stream(Arc<Exchange>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Aborted>>> {
        match self.get_mut() {
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(http_body::Frame::data(body)))),
            Self::Stream(Stream(exchange)) => exchange.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_none(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(body) => http_body::SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(_) => http_body::SizeHint::default(),
        }
    }
}

/// The application stopped in the middle of a body; the connection is cut so that the client can tell.
#[derive(Debug)]
pub struct Aborted;

impl std::fmt::Display for Aborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the application did not finish the response body")
    }
}

impl std::error::Error for Aborted {}
