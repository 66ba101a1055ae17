//! The task of one connection: polls hyper, obeys the machine, closes the socket.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use pounce_core::Instant;
use pounce_core::connection::{CloseMode, Ending, Output, State};
use pounce_core::invariants::check_connection;
use tokio::io::ReadBuf;
use tokio::time::Sleep;

use crate::answer;
use crate::app::{App, ConnectionInfo};
use crate::exchange::Exchange;
use crate::listener::Stream;
use crate::shared::{Reading, Shared};
use crate::wire::Wire;

type Http<St, A> = http1::Connection<TokioIo<Wire<St>>, Exchange<<A as App>::Service>>;

/// Serves one registered connection to its end and returns how many of its requests were cut.
pub(crate) fn serve<St: Stream, A: App>(stream: St, shared: Arc<Shared>, app: &A) -> ConnectionTask<St, A> {
    let service = app.serve_connection(ConnectionInfo(Arc::clone(&shared)));
    let options = &shared.serving.options;
    let http = http1::Builder::new()
        // The wire looks for the peer's end while a request runs. hyper would make room for a further head to do so.
        .half_close(true)
        .auto_date_header(options.date_header)
        .max_headers(options.max_headers)
        .max_header_size(options.max_header_size)
        .serve_connection(
            TokioIo::new(Wire::new(stream, Arc::clone(&shared))),
            Exchange::new(Arc::clone(&shared), service),
        );
    ConnectionTask { shared, stage: Stage::Serving { http }, sleep: None, armed: None }
}

/// See [`serve`].
pub(crate) struct ConnectionTask<St: Stream, A: App> {
    shared: Arc<Shared>,
    stage: Stage<St, A>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// When the sleep fires. Never later than the machine's next due time; it may be earlier, and then the machine is
    /// asked for nothing: a timer that is moved at every request costs more than one that fires in vain.
    armed: Option<Instant>,
}

#[allow(
    clippy::large_enum_variant,
    reason = "almost always the large one; a box would be one more allocation each"
)]
enum Stage<St: Stream, A: App> {
    Serving {
        http: Http<St, A>,
    },
    /// A head that will not be answered by the parser: the response is written here.
    Rejecting {
        stream: St,
        response: Bytes,
    },
    /// Our FIN is sent; what still comes is read and thrown away.
    Lingering {
        stream: St,
        until: Instant,
        fin_sent: bool,
    },
    Closed,
}

impl<St: Stream, A: App> Future for ConnectionTask<St, A> {
    type Output = u32;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u32> {
        let this = &mut *self;
        let (now, mut close_all) = this.shared.begin_poll(cx.waker());
        loop {
            match this.turn(now, close_all, cx) {
                Turn::Again => close_all = this.shared.lock().close_all,
                Turn::Done => {
                    let mut state = this.shared.lock();
                    state.polling = false;
                    state.machine.on_closed(now);
                    return Poll::Ready(state.machine.cut_requests());
                }
                Turn::Wait(at) => {
                    if this.timer_fired(now, at, cx) {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

enum Turn {
    Again,
    /// Nothing to do until then. The state is no longer marked as being polled.
    Wait(Option<Instant>),
    Done,
}

impl<St: Stream, A: App> ConnectionTask<St, A> {
    fn turn(&mut self, now: Instant, close_all: bool, cx: &mut Context<'_>) -> Turn {
        if close_all {
            self.end_request(Ending::Forced);
            self.shared.lock().machine.on_close_all(now);
            return self.drop_stream();
        }
        match &mut self.stage {
            Stage::Serving { http } => {
                if pounce_core::planted!(HyperGraceful)
                    && self.shared.lock().machine.phase() >= pounce_core::connection::Phase::Draining
                {
                    Pin::new(&mut *http).graceful_shutdown();
                }
                let finished = Pin::new(http).poll(cx);
                if let Poll::Ready(result) = finished {
                    if let Err(error) = result {
                        tracing::debug!(peer = %self.shared.peer, "connection ended: {error}");
                    }
                    return self.finished(now);
                }
                self.obey(now)
            }
            Stage::Rejecting { stream, response } => {
                while !response.is_empty() {
                    match Pin::new(&mut *stream).poll_write(cx, response) {
                        Poll::Ready(Ok(written)) if written > 0 => drop(response.split_to(written)),
                        Poll::Ready(_) => return self.drop_stream(),
                        Poll::Pending => {
                            self.shared.lock().machine.on_write_blocked(now);
                            return self.obey(now);
                        }
                    }
                }
                self.shared.lock().machine.on_write_progress();
                self.close(now)
            }
            Stage::Lingering { stream, until, fin_sent } => {
                let until = *until;
                if !*fin_sent {
                    match Pin::new(&mut *stream).poll_shutdown(cx) {
                        Poll::Ready(Ok(())) => *fin_sent = true,
                        Poll::Ready(Err(_)) => return self.drop_stream(),
                        Poll::Pending => {}
                    }
                }
                if until <= now || peer_ended(stream, cx) {
                    self.drop_stream()
                } else {
                    self.shared.end_poll();
                    Turn::Wait(Some(until))
                }
            }
            Stage::Closed => Turn::Done,
        }
    }

    /// Carries out what the machine wants, until it waits.
    fn obey(&mut self, now: Instant) -> Turn {
        let mut again = false;
        let mut state = self.shared.lock();
        if matches!(self.stage, Stage::Serving { .. }) && std::mem::take(&mut state.probe_write) {
            // The wire was not asked to write.
            state.machine.on_write_probe(now, false);
        }
        loop {
            match state.machine.poll_output(now) {
                Output::Wake => again = true,
                Output::EndRequest(ending) => {
                    state.ending = Some(ending);
                    again = true;
                }
                Output::ProbeWrite => {
                    // The wire answers when the parser tries to write on.
                    state.probe_write = matches!(self.stage, Stage::Serving { .. });
                    if state.probe_write {
                        again = true;
                    } else {
                        state.machine.on_write_probe(now, false);
                    }
                }
                Output::Reject(status) => {
                    drop(state);
                    return self.reject(status);
                }
                Output::Cut if pounce_core::planted!(CutLooksComplete) => {
                    state.ending = Some(Ending::Forced);
                    again = true;
                }
                Output::Cut => {
                    drop(state);
                    self.end_request(Ending::Forced);
                    self.shared.lock().machine.on_finished(now);
                    return self.drop_stream();
                }
                Output::Timeout(at) => {
                    debug_assert_eq!(check_connection(&state.machine), Ok(()));
                    // What a read between messages took, hyper has not seen and will not ask for again by itself.
                    let unseen = (state.held || state.swallowed) && state.reading() == Reading::Head;
                    if again || unseen || state.close_all {
                        return Turn::Again;
                    }
                    // In the lock in which the machine was asked: what changes later finds the task to be woken.
                    state.polling = false;
                    return Turn::Wait(at);
                }
            }
        }
    }

    /// Tells the application why what it does is dropped.
    fn end_request(&self, ending: Ending) {
        self.shared.lock().ending.get_or_insert(ending);
    }

    fn reject(&mut self, status: u16) -> Turn {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Serving { http } => {
                let stream = http.into_parts().io.into_inner().into_stream();
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                self.stage = Stage::Rejecting { stream, response: answer::raw(status).into() };
            }
            other => self.stage = other,
        }
        Turn::Again
    }

    /// hyper is done.
    fn finished(&mut self, now: Instant) -> Turn {
        let mut state = self.shared.lock();
        if matches!(state.machine.state(), State::InFlight | State::Streaming) {
            state.ending.get_or_insert(Ending::PeerGone);
        }
        state.machine.on_finished(now);
        drop(state);
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Serving { http } => {
                let parts = http.into_parts();
                let stream = parts.io.into_inner().into_stream();
                drop(parts.service);
                self.stage = Stage::Rejecting { stream, response: Bytes::new() };
            }
            other => self.stage = other,
        }
        self.close(now)
    }

    /// Closes the socket in the way that loses nothing.
    fn close(&mut self, now: Instant) -> Turn {
        let mode = self.shared.lock().machine.close_mode(now);
        match (mode, std::mem::replace(&mut self.stage, Stage::Closed)) {
            (CloseMode::LingerUntil(until), Stage::Rejecting { stream, .. }) => {
                self.stage = Stage::Lingering { stream, until, fin_sent: false };
                Turn::Again
            }
            (CloseMode::Now, stage) => {
                self.stage = stage;
                self.drop_stream()
            }
            (_, stage) => {
                self.stage = stage;
                Turn::Done
            }
        }
    }

    fn drop_stream(&mut self) -> Turn {
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Serving { http } => {
                // The application's future and body go first: they say whether a reset is due.
                let parts = http.into_parts();
                drop(parts.service);
                self.reset_if_due(&parts.io.into_inner().into_stream());
            }
            Stage::Rejecting { stream, .. } | Stage::Lingering { stream, .. } => self.reset_if_due(&stream),
            Stage::Closed => {}
        }
        Turn::Done
    }

    fn reset_if_due(&self, stream: &St) {
        if self.shared.lock().cut_unframed {
            stream.reset_on_drop();
        }
    }

    /// Arms the timer for `at`, if it is not armed for an earlier time. Returns whether it has fired already. One that
    /// fires after `now` wakes the task again.
    fn timer_fired(&mut self, now: Instant, at: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let clock = self.shared.serving.clock;
        let Some(at) = at else { return false };
        let fired = self.armed.is_some_and(|armed| armed <= now);
        if !fired && self.armed.is_some_and(|armed| armed <= at) {
            return false;
        }
        let deadline = clock.to_tokio(at);
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(deadline))),
        };
        self.armed = Some(at);
        sleep.as_mut().poll(cx).is_ready()
    }
}

/// Reads and throws away. Returns whether the peer has ended too.
fn peer_ended<St: Stream>(stream: &mut St, cx: &mut Context<'_>) -> bool {
    // Bounded: a peer that never stops sending is dropped at the end of the linger, not read for ever.
    for _ in 0..16 {
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut buf = ReadBuf::uninit(&mut space);
        match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
            Poll::Ready(_) => return true,
        }
    }
    cx.waker().wake_by_ref();
    false
}
