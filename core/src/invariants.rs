//! What must hold whatever happens, as code. Unit tests, the property tests, the exhaustive search, the simulator and
//! debug builds of the drivers run the same checks.
//!
//! There are two kinds: `check_*` look at one state of one machine; an observer is fed every input and every output of
//! one machine and keeps a ledger of its own, which shares nothing with the machine's. The numbers are those of the
//! table in `docs/invariants.md`.

use std::fmt;

use crate::connection::{self, Connection, HeadVerdict, Phase, ReadVerdict, Role};
use crate::supervisor::Supervisor;
use crate::time::Instant;
use crate::worker::Worker;

mod supervisor;
mod worker;

pub use supervisor::SupervisorObserver;
pub use worker::WorkerObserver;

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's number.
    pub number: u8,
    /// What must hold.
    pub rule: &'static str,
    /// What was seen instead.
    pub seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {}: {} — seen: {}", self.number, self.rule, self.seen)
    }
}

impl std::error::Error for Violation {}

/// `Ok` if `holds`, else what was seen.
fn require(
    number: u8,
    rule: &'static str,
    holds: bool,
    seen: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { number, rule, seen: seen() }) }
}

/// No timer is in the past: whatever was due at `now` is done when a machine yields its timeout.
fn check_timeout(now: Instant, timeout: Option<Instant>) -> Result<(), Violation> {
    require(20, "a timeout lies in the future", timeout.is_none_or(|at| at > now), || {
        format!("{timeout:?} at {now}")
    })
}

/// Time never moves backwards.
fn check_clock(last: Instant, now: Instant) -> Result<(), Violation> {
    require(20, "time never moves backwards", now >= last, || format!("{now} after {last}"))
}

/// One state of a supervisor, between two inputs.
///
/// # Errors
/// The first rule that does not hold.
pub fn check_supervisor(s: &Supervisor) -> Result<(), Violation> {
    use crate::supervisor::State;
    let drains = matches!(s.state(), State::EmptyingBacklog | State::Draining | State::Forcing);
    require(
        18,
        "with the last worker gone the server closes at once",
        !drains || s.workers().count() > 0,
        || format!("{:?} without a worker", s.state()),
    )?;
    let serves = matches!(s.state(), State::Starting | State::Running | State::Reloading);
    require(
        14,
        "a shutdown has a deadline from its first instant",
        serves || s.deadline().is_some(),
        || format!("{:?} without a deadline", s.state()),
    )?;
    require(3, "readiness is false from the signal on", serves || !s.is_ready(), || {
        format!("ready while {:?}", s.state())
    })?;
    let vacant = if s.state() == State::Running { s.vacancies() } else { Vec::new() };
    require(19, "every place has a worker, or a time at which it gets one", vacant.is_empty(), || {
        format!("nobody is due in {vacant:?}")
    })?;
    let crowded = s.crowded();
    require(
        11,
        "of one generation at most one worker is there to stay in a place",
        crowded.is_empty(),
        || format!("several in {crowded:?}"),
    )
}

/// One state of a worker, between two inputs.
///
/// # Errors
/// The first rule that does not hold.
pub fn check_worker(w: &Worker) -> Result<(), Violation> {
    use crate::worker::State;
    let ends = matches!(w.state(), State::Draining | State::Stopping | State::Aborting);
    require(17, "a worker that ends has a deadline", !ends || w.deadline().is_some(), || {
        format!("{:?} without a deadline", w.state())
    })?;
    require(
        7,
        "the application is stopped only without connections",
        w.state() != State::Stopping || w.open() == 0,
        || format!("{} open while it stops", w.open()),
    )
}

/// One state of a connection, between two inputs.
///
/// # Errors
/// The first rule that does not hold.
pub fn check_connection(c: &Connection) -> Result<(), Violation> {
    use connection::State;
    let between = matches!(c.state(), State::Fresh | State::Idle);
    require(
        5,
        "a connection that announced its close is not idle again",
        !between || !c.close_announced(),
        || format!("{:?} after the close was announced", c.state()),
    )?;
    require(4, "who is refused is told once", c.role() == Role::Serve || c.requests() <= 1, || {
        format!("{} requests on a connection that is refused", c.requests())
    })
}

/// Something that happens to a [`Connection`], as a value: each is the method of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionInput {
    HeadBytes,
    Request {
        has_body: bool,
        client_close: bool,
    },
    BodyBlocked,
    BodyProgress,
    BodyEnd,
    CloseAnnounced,
    ResponseHead {
        pipelined: bool,
    },
    ResponseEnd,
    Flushed,
    WriteBlocked,
    WriteProgress,
    WriteProbe {
        took: bool,
    },
    ReadBlocked,
    Finished,
    CloseAll,
    Closed,
    Phase(Phase),
    /// `poll_output`.
    Poll,
}

/// What a connection said to a [`ConnectionInput`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionAnswer {
    Nothing,
    Read(ReadVerdict),
    Head(HeadVerdict),
    Output(connection::Output),
}

impl ConnectionInput {
    /// Calls the method.
    pub fn apply(self, c: &mut Connection, now: Instant) -> ConnectionAnswer {
        use ConnectionInput as In;
        match self {
            In::HeadBytes => c.on_head_bytes(now),
            In::Request { has_body, client_close } => c.on_request(now, has_body, client_close),
            In::BodyBlocked => c.on_body_blocked(now),
            In::BodyProgress => c.on_body_progress(),
            In::BodyEnd => c.on_body_end(),
            In::CloseAnnounced => c.on_close_announced(),
            In::ResponseHead { pipelined } => {
                return ConnectionAnswer::Head(c.on_response_head(now, pipelined));
            }
            In::ResponseEnd => c.on_response_end(now),
            In::Flushed => c.on_flushed(now),
            In::WriteBlocked => c.on_write_blocked(now),
            In::WriteProgress => c.on_write_progress(),
            In::WriteProbe { took } => c.on_write_probe(now, took),
            In::ReadBlocked => return ConnectionAnswer::Read(c.on_read_blocked(now)),
            In::Finished => c.on_finished(now),
            In::CloseAll => c.on_close_all(now),
            In::Closed => c.on_closed(now),
            In::Phase(phase) => c.on_phase(now, phase),
            In::Poll => return ConnectionAnswer::Output(c.poll_output(now)),
        }
        ConnectionAnswer::Nothing
    }
}

/// Watches one connection.
#[derive(Clone, Debug)]
pub struct ConnectionObserver {
    last: Instant,
    phase: Phase,
    phase_since: Instant,
    /// Bytes of a head came that no request has answered for yet.
    head_pending: bool,
    /// Since when nothing was under way.
    quiet_since: Instant,
    /// Since when the client has not been seen to take a byte of what waits.
    write_since: Option<Instant>,
    /// The server was told to close everything.
    close_all: bool,
    cut_in_this_request: u32,
}

impl ConnectionObserver {
    /// For a connection made at `now` while its server is in `phase`.
    pub fn new(phase: Phase, now: Instant) -> ConnectionObserver {
        ConnectionObserver {
            last: now,
            phase,
            phase_since: now,
            head_pending: false,
            quiet_since: now,
            write_since: None,
            close_all: false,
            cut_in_this_request: 0,
        }
    }

    /// Applies `input` and checks what came of it.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn step(
        &mut self,
        c: &mut Connection,
        now: Instant,
        input: ConnectionInput,
    ) -> Result<ConnectionAnswer, Violation> {
        let before = c.clone();
        let answer = input.apply(c, now);
        self.check(&before, now, input, answer, c)?;
        Ok(answer)
    }

    /// Checks one input that a connection took from `before` to `after`.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(
        &mut self,
        before: &Connection,
        now: Instant,
        input: ConnectionInput,
        answer: ConnectionAnswer,
        after: &Connection,
    ) -> Result<(), Violation> {
        check_clock(self.last, now)?;
        self.last = now;
        self.note_input(before, now, input);
        match answer {
            ConnectionAnswer::Read(verdict) => self.check_read(before, now, verdict)?,
            ConnectionAnswer::Head(verdict) => self.check_head(before, after, verdict)?,
            ConnectionAnswer::Output(output) => self.check_output(before, now, output)?,
            ConnectionAnswer::Nothing => {}
        }
        require(
            5,
            "after an announced close no request is served",
            !before.close_announced() || after.requests() == before.requests(),
            || format!("request {} on {:?}", after.requests(), before),
        )?;
        let cut = after.cut_requests() - before.cut_requests();
        self.cut_in_this_request += cut;
        require(6, "a request has one outcome", self.cut_in_this_request <= 1, || {
            format!("one request was cut {} times: {after:?}", self.cut_in_this_request)
        })?;
        require(
            1,
            "nothing is cut before the deadline",
            cut == 0 || self.phase == Phase::Aborting || self.close_all,
            || format!("a request was cut while {:?}", self.phase),
        )?;
        let quiet = matches!(after.state(), connection::State::Fresh | connection::State::Idle);
        require(
            9,
            "a connection of which a head is half read is not idle",
            !quiet || !self.head_pending,
            || format!("{after:?}"),
        )?;
        check_connection(after)
    }

    fn note_input(&mut self, before: &Connection, now: Instant, input: ConnectionInput) {
        use connection::State;
        let open = !matches!(before.state(), State::Closing | State::Closed);
        match input {
            ConnectionInput::HeadBytes if open && !before.close_announced() => {
                self.head_pending = true;
                if matches!(before.state(), State::Fresh | State::Idle) {
                    self.cut_in_this_request = 0;
                }
            }
            ConnectionInput::ResponseHead { pipelined: true } if before.state() == State::InFlight => {
                self.head_pending = true;
            }
            ConnectionInput::Request { .. }
                if matches!(
                    before.state(),
                    State::Fresh | State::Idle | State::ReadingHead | State::Flushing
                ) =>
            {
                self.head_pending = false;
                self.cut_in_this_request = 0;
            }
            ConnectionInput::Flushed if before.state() == State::Flushing => {
                self.quiet_since = now;
                self.cut_in_this_request = 0;
            }
            ConnectionInput::Phase(phase) if phase > self.phase => {
                self.phase = phase;
                self.phase_since = now;
            }
            ConnectionInput::CloseAll => self.close_all = true,
            ConnectionInput::WriteBlocked => {
                self.write_since.get_or_insert(now);
            }
            ConnectionInput::WriteProgress | ConnectionInput::Flushed => self.write_since = None,
            _ => {}
        }
    }

    fn check_read(&self, before: &Connection, now: Instant, verdict: ReadVerdict) -> Result<(), Violation> {
        use connection::State;
        let quiet = matches!(before.state(), State::Fresh | State::Idle) && !self.head_pending;
        let policy = before.policy_times();
        let patience =
            if before.state() == State::Fresh { policy.header_timeout } else { policy.keep_alive_timeout };
        let lingered = now >= self.phase_since.max(self.quiet_since) + policy.keepalive_linger;
        let young = before.state() == State::Fresh && now < self.quiet_since + crate::policy::FRESH_LINGER;
        let over = match self.phase {
            Phase::Serving | Phase::LameDuck => false,
            Phase::Draining => lingered && !young,
            Phase::Aborting => before.role() == Role::Serve || !young,
        } || now >= self.quiet_since + patience;
        let rule =
            "exactly an idle connection whose time is over is ended, and never with bytes of a request read";
        require(9, rule, (verdict == ReadVerdict::Eof) == (quiet && over), || {
            format!("{verdict:?} at {now} for {before:?}")
        })
    }

    fn check_head(
        &self,
        before: &Connection,
        after: &Connection,
        verdict: HeadVerdict,
    ) -> Result<(), Violation> {
        let leaving = self.phase != Phase::Serving || before.role() == Role::Refuse;
        let last = !self.head_pending || self.phase == Phase::Aborting || before.role() == Role::Refuse;
        let says_so = after.close_announced();
        let due = before.state() == connection::State::InFlight && leaving && last;
        require(4, "once the server leaves, the last response announces the close", !due || says_so, || {
            format!("{verdict:?} for {before:?}")
        })?;
        require(5, "a verdict to announce is remembered", verdict == HeadVerdict::Keep || says_so, || {
            format!("{after:?}")
        })
    }

    fn check_output(
        &self,
        before: &Connection,
        now: Instant,
        output: connection::Output,
    ) -> Result<(), Violation> {
        use connection::{Ending, Output};
        let aborting = self.phase == Phase::Aborting;
        let fair = match output {
            Output::Timeout(at) => return check_timeout(now, at),
            Output::Wake | Output::ProbeWrite => return Ok(()),
            Output::Reject(503) | Output::EndRequest(Ending::Forced) => aborting,
            Output::Cut => {
                let limit = before.policy_times().write_timeout;
                let head_behind_a_response = before.state() == connection::State::ReadingHead;
                aborting || self.write_since.is_some_and(|at| head_behind_a_response || at + limit <= now)
            }
            Output::Reject(_) | Output::EndRequest(_) => true,
        };
        require(1, "nothing is ended by force before the deadline", fair, || {
            format!("{output:?} at {now} while {:?}: {before:?}", self.phase)
        })
    }
}
