//! One HTTP/1.1 connection: what is under way on it, when it may end, and how.
//!
//! The parser owns the bytes. This machine sees edges only: head bytes came, a request began, its response head is due,
//! its response ended, everything was flushed, the socket has nothing more to read. A driver feeds edges through the
//! `on_*` methods, obeys the verdicts that some of them return, and takes [`Connection::poll_output`] until
//! [`Output::Timeout`].
//!
//! Why the end of an idle connection is a verdict inside the read: a request may arrive between the decision to close
//! and the close. `on_read_blocked` is asked at the instant the socket said that it has nothing more, so what was on the
//! wire by then has been read.

use std::time::Duration;

use crate::machine;
use crate::planted;
use crate::policy::{CLOSE_LINGER, FRESH_LINGER, Policy};
use crate::time::Instant;

machine! {
    /// Where a connection is.
    pub enum State {
        /// Accepted; not a byte has come.
        Fresh,
        /// Between two requests; not a byte of the next has come.
        Idle,
        /// Part of a request head has come, or all of it, not yet given to the service.
        ReadingHead,
        /// The service has the request; the response head is not out.
        InFlight,
        /// The response head is out, the body is not complete.
        Streaming,
        /// The response is complete but not all of it is written to the socket.
        Flushing,
        /// No further request is served; what was written may still be on its way.
        Closing,
        /// Gone.
        Closed,
    }
    /// What moves a connection.
    pub enum Edge {
        /// The first bytes of a head. Those of a further request that were read while a response was still on its way
        /// move the connection when that response is written.
        HeadBytes: Fresh | Idle | Flushing => ReadingHead,
        RequestStarted: Fresh | Idle | ReadingHead | Flushing => InFlight,
        ResponseHead: InFlight => Streaming,
        ResponseEnded: Streaming => Flushing,
        Flushed: Flushing => Idle,
        /// The last flush of a connection that announced its close.
        FlushedLast: Flushing => Closing,
        /// The verdict `Eof`, or the peer's own end between requests.
        Ended: Fresh | Idle => Closing,
        /// The server refuses what it has read of a head: 408, 400, 503.
        Rejected: ReadingHead => Closing,
        /// The parser is done with the connection after the response it was writing.
        Finished: Fresh | Idle | ReadingHead | InFlight | Streaming | Flushing => Closing,
        Closed: Fresh | Idle | ReadingHead | InFlight | Streaming | Flushing | Closing => Closed,
    }
}

/// What a connection is told about its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    Serving,
    /// New work is still served, every response announces the close.
    LameDuck,
    /// Requests under way run on; connections without one end after the linger.
    Draining,
    /// The deadline is here.
    Aborting,
}

/// Whether a connection's requests reach the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// They do.
    Serve,
    /// The one request is read and answered with 503.
    Refuse,
}

/// The socket has nothing more to read: what now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadVerdict {
    Wait,
    /// Act as if the peer had ended: nothing is under way and nothing was on the wire.
    Eof,
}

/// A response head is about to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadVerdict {
    Keep,
    /// Write `Connection: close` (RFC 9112 §9.6).
    AnnounceClose,
}

/// Why a request was ended by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// The client is gone.
    PeerGone,
    /// `request_timeout`: answered with 504.
    RequestTimeout,
    /// No byte of the request body for `body_timeout`: answered with 408.
    BodyTimeout,
    /// The drain deadline: answered with 503, or cut.
    Forced,
}

/// How the socket is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Nothing more can come that matters: close.
    Now,
    /// Write the FIN, then read and throw away until the peer ends too or this instant: bytes that reach a closed
    /// socket turn into a reset, which destroys the response in the peer's buffer.
    LingerUntil(Instant),
}

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Poll the parser: a read will ask for a verdict that is no longer `Wait`.
    Wake,
    /// Nothing was parsed yet: write a complete response with this status, then close as [`Connection::close_mode`].
    Reject(u16),
    /// End the request under way: drop it and answer with the status of [`Ending`].
    EndRequest(Ending),
    /// Find out whether the peer takes bytes that the socket has already, and say [`Connection::on_write_probe`].
    ProbeWrite,
    /// Close without another byte; what was under way is cut, so that the peer can tell.
    Cut,
    /// Always the last one: call again at this time, or when something happens.
    Timeout(Option<Instant>),
}

/// See [`Connection::policy_times`].
pub(crate) struct PolicyTimes {
    pub header_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub keepalive_linger: Duration,
    pub write_timeout: Duration,
}

/// One connection. See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    state: State,
    role: Role,
    phase: Phase,
    /// When `state` was entered.
    since: Instant,
    /// When `phase` began, or the connection if later.
    phase_since: Instant,
    request_since: Instant,
    /// Since when the application waits for a byte of the request body.
    body_wait_since: Option<Instant>,
    /// Since when the socket takes no byte of what there is to write.
    write_wait_since: Option<Instant>,
    /// It was asked whether the peer takes what the socket has already.
    write_probed: bool,
    /// It does not.
    write_stuck: bool,
    announced: bool,
    /// The client itself asked for the end after this request.
    client_close: bool,
    /// The request's body is not wholly read.
    body_open: bool,
    /// Bytes of a further request were read before the response to this one was written.
    next_head: bool,
    /// It ended between two requests, by our own verdict.
    ended_quietly: bool,
    /// The last output of its kind was given out; it is not repeated.
    woken: bool,
    ended_request: bool,
    rejected: bool,
    cut: bool,
    /// The request under way is in `cut_requests` already.
    counted: bool,
    /// Requests whose answer was not whole, through the server's own doing.
    cut_requests: u32,
    requests: u32,
    /// Inputs that made no sense where they came.
    ignored: u32,
    header_timeout: Duration,
    keep_alive_timeout: Duration,
    keepalive_linger: Duration,
    body_timeout: Duration,
    write_timeout: Duration,
    request_timeout: Option<Duration>,
}

impl Connection {
    /// A connection that was just accepted, while its server is in `phase`.
    pub fn new(policy: &Policy, role: Role, phase: Phase, now: Instant) -> Connection {
        Connection {
            state: State::Fresh,
            role,
            phase,
            since: now,
            phase_since: now,
            request_since: now,
            body_wait_since: None,
            write_wait_since: None,
            write_probed: false,
            write_stuck: false,
            announced: false,
            client_close: false,
            body_open: false,
            next_head: false,
            ended_quietly: false,
            woken: false,
            ended_request: false,
            rejected: false,
            cut: false,
            counted: false,
            cut_requests: 0,
            requests: 0,
            ignored: 0,
            header_timeout: policy.header_timeout,
            keep_alive_timeout: policy.keep_alive_timeout,
            keepalive_linger: policy.keepalive_linger,
            body_timeout: policy.body_timeout,
            write_timeout: policy.write_timeout,
            request_timeout: policy.request_timeout,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// A request is under way: some of its head has come, and its response is not wholly written.
    pub fn is_active(&self) -> bool {
        matches!(self.state, State::ReadingHead | State::InFlight | State::Streaming | State::Flushing)
    }

    /// A response said that it is the last one.
    pub fn close_announced(&self) -> bool {
        self.announced
    }

    /// Requests that reached the service.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Requests that the server itself left without a whole answer of the application's.
    pub fn cut_requests(&self) -> u32 {
        self.cut_requests
    }

    /// Inputs that made no sense where they came.
    pub fn ignored(&self) -> u32 {
        self.ignored
    }

    /// The times that it decides by, for the invariants.
    pub(crate) fn policy_times(&self) -> PolicyTimes {
        PolicyTimes {
            header_timeout: self.header_timeout,
            keep_alive_timeout: self.keep_alive_timeout,
            keepalive_linger: self.keepalive_linger,
            write_timeout: self.write_timeout,
        }
    }

    /// Every point in time that it holds. A search moves them, to recognise a state that it has seen at another time.
    #[doc(hidden)]
    pub fn for_each_instant(&mut self, mut f: impl FnMut(&mut Instant)) {
        f(&mut self.since);
        f(&mut self.phase_since);
        f(&mut self.request_since);
        self.body_wait_since.iter_mut().for_each(&mut f);
        self.write_wait_since.iter_mut().for_each(&mut f);
    }

    /// Moves along `edge`, if the table has it here.
    fn go(&mut self, now: Instant, edge: Edge) -> bool {
        match self.state.step(edge) {
            Some(to) => {
                self.state = to;
                self.since = now;
                self.woken = false;
                true
            }
            None => {
                self.ignored = self.ignored.saturating_add(1);
                false
            }
        }
    }

    /// The request's body is wholly read, or it had none.
    #[must_use]
    pub fn body_is_read(&self) -> bool {
        !self.body_open
    }

    /// Whether [`Connection::on_read_blocked`] would end the connection. The driver then makes sure of the socket first.
    #[must_use]
    pub fn may_end(&self, now: Instant) -> bool {
        self.quiet_until().is_some_and(|at| at <= now)
    }

    /// Bytes of a request head were read. What comes after an announced close is no request any more.
    pub fn on_head_bytes(&mut self, now: Instant) {
        match self.state {
            State::ReadingHead => {}
            _ if self.is_active() && planted!(HeadBytesForgotten) => {}
            State::InFlight | State::Streaming | State::Flushing => self.next_head = true,
            _ => {
                self.counted = false;
                self.go(now, Edge::HeadBytes);
            }
        }
    }

    /// The response under way carries `Connection: close` of its own: the application's, or that of an answer that the
    /// server gives in its place.
    pub fn on_close_announced(&mut self) {
        if matches!(self.state, State::InFlight | State::Streaming) {
            self.announced = true;
        } else {
            self.ignored = self.ignored.saturating_add(1);
        }
    }

    /// The service was given a request. `has_body`: there is a body still to be read. `client_close`: the request
    /// itself asks for the connection's end.
    pub fn on_request(&mut self, now: Instant, has_body: bool, client_close: bool) {
        if self.announced {
            self.ignored = self.ignored.saturating_add(1);
        } else if self.go(now, Edge::RequestStarted) {
            self.requests = self.requests.saturating_add(1);
            self.request_since = now;
            self.body_open = has_body;
            self.body_wait_since = None;
            self.client_close = client_close;
            self.ended_request = false;
            self.counted = false;
            self.next_head = false;
        }
    }

    /// The application waits for the request's body and the socket has none.
    pub fn on_body_blocked(&mut self, now: Instant) {
        if self.body_open && self.body_wait_since.is_none() {
            self.body_wait_since = Some(now);
        }
    }

    /// A part of the request's body was handed to the application.
    pub fn on_body_progress(&mut self) {
        self.body_wait_since = None;
    }

    /// The request's body is wholly read.
    pub fn on_body_end(&mut self) {
        self.body_wait_since = None;
        self.body_open = false;
    }

    /// The response head is about to be written. `pipelined`: bytes of a further request were already read, so this
    /// response cannot be the last.
    #[must_use]
    pub fn on_response_head(&mut self, now: Instant, pipelined: bool) -> HeadVerdict {
        if !self.go(now, Edge::ResponseHead) {
            return HeadVerdict::Keep;
        }
        self.body_wait_since = None;
        self.next_head |= pipelined && !planted!(HeadBytesForgotten);
        let silent = match self.phase {
            Phase::LameDuck => planted!(NoCloseInLameDuck),
            Phase::Draining => planted!(NoCloseWhileDraining),
            Phase::Serving | Phase::Aborting => false,
        };
        let leaving = (self.phase != Phase::Serving && !silent) || self.role == Role::Refuse;
        let last = leaving && (!self.next_head || self.phase == Phase::Aborting || self.role == Role::Refuse);
        // A body that ran into its timeout or the deadline is not read any further: the connection cannot go on.
        if last || self.ended_request {
            self.announced = true;
            HeadVerdict::AnnounceClose
        } else {
            HeadVerdict::Keep
        }
    }

    /// The response's last byte was handed to the parser.
    pub fn on_response_end(&mut self, now: Instant) {
        self.go(now, Edge::ResponseEnded);
    }

    /// Everything that was handed to the socket is written.
    pub fn on_flushed(&mut self, now: Instant) {
        self.on_write_progress();
        if self.state != State::Flushing {
            return;
        }
        let announced = self.announced && !planted!(CloseAnnouncedButKept);
        let edge = match (announced, self.next_head) {
            (true, _) => Edge::FlushedLast,
            (false, true) => Edge::HeadBytes,
            (false, false) => Edge::Flushed,
        };
        self.next_head &= self.announced;
        self.counted = false;
        self.go(now, edge);
    }

    /// The socket takes no more bytes for now.
    pub fn on_write_blocked(&mut self, now: Instant) {
        if self.write_wait_since.is_none() {
            self.write_wait_since = Some(now);
        }
    }

    /// The socket took bytes.
    pub fn on_write_progress(&mut self) {
        self.write_wait_since = None;
        self.write_probed = false;
        self.write_stuck = false;
    }

    /// The answer to [`Output::ProbeWrite`]: `took`: the peer has taken bytes since it was last looked at.
    pub fn on_write_probe(&mut self, now: Instant, took: bool) {
        if self.write_probed {
            self.write_probed = false;
            self.write_stuck = !took;
            if took {
                self.write_wait_since = Some(now);
            }
        }
    }

    /// The socket has nothing more to read.
    #[must_use]
    pub fn on_read_blocked(&mut self, now: Instant) -> ReadVerdict {
        if !self.may_end(now) {
            return ReadVerdict::Wait;
        }
        self.ended_quietly = true;
        self.go(now, Edge::Ended);
        ReadVerdict::Eof
    }

    /// The parser is done: it has closed after a response, met the peer's end, or failed.
    pub fn on_finished(&mut self, now: Instant) {
        if self.state != State::Closing {
            self.go(now, Edge::Finished);
        }
    }

    /// How to close the socket once the parser is done. Bytes of the peer's that we have not read turn a close into a
    /// reset; only where none can be expected is it safe to close at once.
    #[must_use]
    pub fn close_mode(&self, now: Instant) -> CloseMode {
        let client_is_done = self.client_close && !self.body_open && !self.next_head;
        if self.cut || self.ended_quietly || client_is_done || planted!(NoCloseLinger) {
            CloseMode::Now
        } else {
            CloseMode::LingerUntil(now + CLOSE_LINGER)
        }
    }

    /// The server closes everything that is left: the grace after the deadline is over.
    pub fn on_close_all(&mut self, now: Instant) {
        if self.is_active() {
            self.count_cut();
        }
        self.cut = true;
        self.on_finished(now);
    }

    /// The request under way gets no whole answer, through the server's doing. Once for each request, and not for one
    /// that was never to be served.
    fn count_cut(&mut self) {
        if !self.counted && self.role == Role::Serve {
            self.cut_requests = self.cut_requests.saturating_add(1);
        }
        self.counted = true;
    }

    /// The socket is closed.
    pub fn on_closed(&mut self, now: Instant) {
        if self.state != State::Closed {
            self.go(now, Edge::Closed);
        }
    }

    /// The server moved on to `phase`. Phases only go forward.
    pub fn on_phase(&mut self, now: Instant, phase: Phase) {
        if phase > self.phase {
            self.phase = phase;
            self.phase_since = now;
            self.woken = false;
        }
    }

    /// When a connection without a request under way ends; `None` where one is, or it is closing already.
    fn quiet_until(&self) -> Option<Instant> {
        let (patience, first_request) = match self.state {
            // Whoever has just connected has its first request on the way.
            State::Fresh => (self.since + self.header_timeout, self.since + FRESH_LINGER),
            State::Idle => (self.since + self.keep_alive_timeout, self.since),
            _ => return None,
        };
        Some(match (self.phase, self.role) {
            (Phase::Serving | Phase::LameDuck, _) => patience,
            (Phase::Draining, _) => {
                let linger = self.phase_since.max(self.since) + self.keepalive_linger;
                patience.min(linger.max(first_request))
            }
            (Phase::Aborting, Role::Serve) => self.phase_since,
            // It is answered with 503 before and after the deadline alike.
            (Phase::Aborting, Role::Refuse) => patience.min(first_request),
        })
    }

    /// The earliest thing that is due in this state, and when.
    fn next_due(&self) -> Option<(Instant, Output)> {
        let mut due: Option<(Instant, Output)> = None;
        let mut consider = |at: Instant, output: Output| {
            if due.is_none_or(|(earliest, _)| at < earliest) {
                due = Some((at, output));
            }
        };
        let aborting = self.phase == Phase::Aborting;
        match self.state {
            State::Fresh | State::Idle => {
                if let (Some(at), false) = (self.quiet_until(), self.woken) {
                    consider(at, Output::Wake);
                }
            }
            State::ReadingHead if !self.rejected && !self.cut => {
                // A response that is still being written cannot be followed by one that the parser knows nothing of.
                let clear = self.write_wait_since.is_none();
                let end = |status| if clear { Output::Reject(status) } else { Output::Cut };
                if aborting {
                    consider(self.phase_since, end(503));
                }
                consider(self.since + self.header_timeout, end(408));
            }
            State::InFlight if !self.ended_request => {
                if aborting {
                    consider(self.phase_since, Output::EndRequest(Ending::Forced));
                }
                if let Some(limit) = self.request_timeout {
                    consider(self.request_since + limit, Output::EndRequest(Ending::RequestTimeout));
                }
                if let Some(waiting) = self.body_wait_since {
                    consider(waiting + self.body_timeout, Output::EndRequest(Ending::BodyTimeout));
                }
            }
            State::Streaming if aborting && !self.ended_request && !self.cut => {
                consider(self.phase_since, Output::Cut);
            }
            _ => {}
        }
        if let (Some(waiting), false) = (self.write_wait_since, self.cut)
            && matches!(self.state, State::Streaming | State::Flushing | State::Closing)
        {
            if self.write_stuck {
                consider(waiting, Output::Cut);
            } else if !self.write_probed {
                consider(waiting + self.write_timeout, Output::ProbeWrite);
            }
        }
        due
    }

    /// What to do next. Call until it yields [`Output::Timeout`].
    #[must_use]
    pub fn poll_output(&mut self, now: Instant) -> Output {
        let Some((at, output)) = self.next_due() else { return Output::Timeout(None) };
        if at > now {
            return Output::Timeout(Some(at));
        }
        match output {
            Output::Wake => self.woken = true,
            Output::Reject(status) => {
                self.rejected = true;
                // A head that was never finished is the client's failure at 408 and ours at the deadline.
                if status == 503 {
                    self.count_cut();
                }
                self.go(now, Edge::Rejected);
            }
            Output::EndRequest(ending) => {
                self.ended_request = true;
                self.body_wait_since = None;
                if ending == Ending::Forced {
                    self.count_cut();
                }
            }
            Output::ProbeWrite => self.write_probed = true,
            Output::Cut => {
                self.cut = true;
                if self.phase == Phase::Aborting && self.is_active() {
                    self.count_cut();
                }
            }
            Output::Timeout(_) => {}
        }
        output
    }
}
