//! One connection: the network between a client and a pod, and on the server's side what hyper and the taps of the real
//! driver do, around the real machine.

use std::collections::VecDeque;

use pounce_core::Instant;
use pounce_core::connection::{
    CloseMode, Connection, Ending, HeadVerdict, Output, Phase, ReadVerdict, Role, State,
};
use pounce_core::supervisor::{Refusal, exit};

use super::ledger::Cause;
use super::world::{Event, PodId, RequestId, SocketId, World};

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seg {
    /// A part of a request's head.
    Head {
        request: RequestId,
        last: bool,
    },
    /// A part of its body.
    Body {
        request: RequestId,
        last: bool,
    },
    Fin,
    Rst,
}

/// What a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    Head { request: RequestId, status: u16, close: bool },
    End { request: RequestId },
    Fin,
    Rst,
}

/// Where the server's end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The handshake is not done.
    Handshake,
    AcceptQueue,
    /// On its way to a worker.
    Dealt,
    /// An index into the pod's workers.
    Worker(u32),
    /// The supervisor answers it.
    FrontDesk,
    Gone,
}

/// Why the server's end is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is not.
    Open,
    /// The verdict on an idle connection.
    Idle,
    /// After a response that announced it, or that the client wanted to be the last.
    Announced,
    /// The client ended first.
    Peer,
    /// 408, or a client that takes nothing.
    Slow,
    Deadline,
    /// The process was killed: by whom, as a cause.
    Killed(Cause),
    /// The listener was closed with this connection in its queue.
    QueueReset,
    /// The listener was closed before the handshake ended.
    LateHandshake,
}

/// How the client's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Near {
    Connecting,
    Idle,
    Busy,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    Lingering(Instant),
    Closed,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub pod: PodId,
    /// The pool it belongs to: a balancer, or the client itself.
    pub balancer: u32,
    pub client: u32,
    // The client's end.
    pub near: Near,
    /// Requests sent or to be sent on it, the first in front.
    pub pending: VecDeque<RequestId>,
    pub used_at: Instant,
    pub idle_armed: bool,
    pub said_close: bool,
    // The network: arrivals in each direction keep their order.
    up_at: Instant,
    down_at: Instant,
    pub syns: u32,
    // The server's end.
    pub place: Place,
    pub why: Why,
    pub refusal: Option<Refusal>,
    machine: Option<Connection>,
    stage: Stage,
    rx: VecDeque<Seg>,
    running: Option<RequestId>,
    /// The request whose head has come in part.
    reading: Option<RequestId>,
    waits_for_body: bool,
    ending: Option<Ending>,
    client_close: bool,
    /// When the end was announced, and whether the deadline had passed then.
    announced_at: Option<Instant>,
    /// Why a request on it was answered by the server in the application's place.
    overruled: Option<Cause>,
    pub close_all: bool,
    fin_sent: bool,
    armed: Option<Instant>,
}

impl Socket {
    pub fn new(pod: PodId, balancer: u32, client: u32, now: Instant) -> Socket {
        Socket {
            pod,
            balancer,
            client,
            near: Near::Connecting,
            pending: VecDeque::new(),
            used_at: now,
            idle_armed: false,
            said_close: false,
            up_at: now,
            down_at: now,
            syns: 0,
            place: Place::Handshake,
            why: Why::Open,
            refusal: None,
            machine: None,
            stage: Stage::Serving,
            rx: VecDeque::new(),
            running: None,
            reading: None,
            waits_for_body: false,
            ending: None,
            client_close: false,
            announced_at: None,
            overruled: None,
            close_all: false,
            fin_sent: false,
            armed: None,
        }
    }

    pub fn is_active(&self) -> bool {
        self.machine.as_ref().is_some_and(Connection::is_active)
    }

    /// When the server said that this connection ends.
    pub fn announced_at(&self) -> Option<Instant> {
        self.announced_at
    }
}

impl World<'_> {
    /// Sends towards the server, `after` this moment.
    pub fn send_up(&mut self, id: SocketId, after: std::time::Duration, seg: Seg) {
        let latency = self.latency();
        let socket = &mut self.sockets[id as usize];
        let stalled = self.pods[socket.pod as usize].stalled_until;
        socket.up_at = socket.up_at.max(self.now + after + latency).max(stalled);
        let at = socket.up_at;
        self.at(at, Event::Up(id, seg));
    }

    /// Sends in the same segment as what was sent last, if that is still on its way.
    pub fn send_behind(&mut self, id: SocketId, seg: Seg) {
        let at = self.sockets[id as usize].up_at;
        if at > self.now {
            self.at(at, Event::Up(id, seg));
        } else {
            self.send_up(id, std::time::Duration::ZERO, seg);
        }
    }

    /// The client's part of the handshake goes out, before whatever it sends.
    pub fn send_ack(&mut self, id: SocketId) {
        let latency = self.latency();
        let socket = &mut self.sockets[id as usize];
        let stalled = self.pods[socket.pod as usize].stalled_until;
        socket.up_at = socket.up_at.max(self.now + latency).max(stalled);
        let at = socket.up_at;
        self.at(at, Event::Ack(id));
    }

    pub fn send_down(&mut self, id: SocketId, down: Down) {
        let latency = self.latency();
        let socket = &mut self.sockets[id as usize];
        let stalled = self.pods[socket.pod as usize].stalled_until;
        socket.down_at = socket.down_at.max(self.now + latency).max(stalled);
        let at = socket.down_at;
        self.at(at, Event::Down(id, down));
    }

    /// A segment reaches the pod.
    pub fn up(&mut self, id: SocketId, seg: Seg) {
        let socket = &mut self.sockets[id as usize];
        if socket.place == Place::Gone || socket.stage == Stage::Closed {
            // Nobody listens to this connection any more: a reset, except for what is itself an end.
            if matches!(seg, Seg::Head { .. } | Seg::Body { .. }) {
                self.send_down(id, Down::Rst);
            }
            return;
        }
        if let (Stage::Lingering(_), Seg::Head { .. } | Seg::Body { .. }) = (socket.stage, seg) {
            return;
        }
        socket.rx.push_back(seg);
        if let Seg::Head { request, .. } = seg {
            self.requests[request as usize].arrived_at.get_or_insert(self.now);
        }
        if matches!(self.sockets[id as usize].place, Place::Worker(_) | Place::FrontDesk) {
            self.poll(id);
        }
    }

    /// The server's process has the connection.
    pub fn register(&mut self, id: SocketId, place: Place, role: Role, phase: Phase) {
        let machine = Connection::new(&self.plan.policy, role, phase, self.now);
        let socket = &mut self.sockets[id as usize];
        socket.place = place;
        socket.machine = Some(machine);
        self.poll(id);
    }

    pub fn tell_phase(&mut self, id: SocketId, phase: Phase) {
        let now = self.now;
        if let Some(machine) = &mut self.sockets[id as usize].machine {
            machine.on_phase(now, phase);
            self.poll(id);
        }
    }

    pub fn poll_due(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id as usize];
        if socket.armed.is_some_and(|at| at <= self.now) {
            socket.armed = None;
        }
        if !matches!(socket.place, Place::Gone) && socket.machine.is_some() {
            self.poll(id);
        }
    }

    fn arm(&mut self, id: SocketId, at: Instant) {
        let socket = &mut self.sockets[id as usize];
        // As in the driver: a timer that is armed for an earlier time stays, and fires in vain.
        if socket.armed.is_none_or(|armed| at < armed) {
            socket.armed = Some(at);
            self.at(at, Event::Poll(id));
        }
    }

    /// Until when the process that has the connection stands still, if it does.
    fn thaws(&self, id: SocketId) -> Option<Instant> {
        let socket = &self.sockets[id as usize];
        match socket.place {
            Place::Worker(worker) => self.frozen_worker(socket.pod, worker),
            _ => self.frozen(socket.pod),
        }
    }

    /// The connection's task.
    pub fn poll(&mut self, id: SocketId) {
        let now = self.now;
        if let Some(thaw) = self.thaws(id) {
            self.at(thaw, Event::Poll(id));
            return;
        }
        loop {
            let socket = &mut self.sockets[id as usize];
            if socket.stage == Stage::Closed {
                return;
            }
            let Some(machine) = &mut socket.machine else { return };
            if socket.close_all {
                machine.on_close_all(now);
                socket.why = Why::Deadline;
                return self.drop_stream(id);
            }
            if let Stage::Lingering(until) = socket.stage {
                let peer_ended = socket.rx.iter().any(|seg| matches!(seg, Seg::Fin | Seg::Rst));
                socket.rx.clear();
                if peer_ended || until <= now {
                    return self.drop_stream(id);
                }
                return self.arm(id, until);
            }
            match self.read(id) {
                Read::Over => return,
                Read::Blocked => {}
            }
            let socket = &mut self.sockets[id as usize];
            let Some(machine) = &mut socket.machine else { return };
            if socket.ending.is_some() && machine.state() == State::InFlight {
                self.overrule(id);
                continue;
            }
            if machine.state() == State::Closing {
                return self.finished(id);
            }
            match machine.poll_output(now) {
                Output::Wake => {}
                // What the reader takes is told as progress at once; a probe finds nothing more.
                Output::ProbeWrite => machine.on_write_probe(now, false),
                Output::EndRequest(ending) => socket.ending = Some(ending),
                Output::Reject(status) => {
                    let request = socket.reading.take();
                    socket.why = if status == 503 { Why::Deadline } else { Why::Slow };
                    if let Some(request) = request {
                        let cause = if status == 503 { self.forced(id) } else { Cause::TooSlow };
                        self.requests[request as usize].hint = Some(cause);
                        self.send_down(id, Down::Head { request, status, close: true });
                        self.send_down(id, Down::End { request });
                    }
                    return self.close(id);
                }
                Output::Cut => {
                    socket.why = if machine.phase() == Phase::Aborting { Why::Deadline } else { Why::Slow };
                    machine.on_finished(now);
                    return self.drop_stream(id);
                }
                Output::Timeout(at) => {
                    if let Some(at) = at {
                        self.arm(id, at);
                    }
                    return;
                }
            }
        }
    }

    /// hyper reads until the socket has nothing more.
    fn read(&mut self, id: SocketId) -> Read {
        let now = self.now;
        loop {
            let socket = &mut self.sockets[id as usize];
            let Some(machine) = &mut socket.machine else { return Read::Over };
            if socket.rx.contains(&Seg::Rst) {
                socket.why = Why::Peer;
                machine.on_finished(now);
                self.drop_stream(id);
                return Read::Over;
            }
            match machine.state() {
                State::Fresh | State::Idle | State::ReadingHead => match socket.rx.pop_front() {
                    Some(Seg::Head { request, last }) => {
                        machine.on_head_bytes(now);
                        socket.reading = Some(request);
                        if last {
                            socket.reading = None;
                            self.serve(id, request);
                        }
                    }
                    Some(Seg::Body { .. }) => {}
                    Some(Seg::Fin | Seg::Rst) => {
                        socket.why = Why::Peer;
                        self.finished(id);
                        return Read::Over;
                    }
                    None => {
                        if machine.on_read_blocked(now) == ReadVerdict::Eof {
                            socket.why = Why::Idle;
                            self.finished(id);
                            return Read::Over;
                        }
                        return Read::Blocked;
                    }
                },
                State::InFlight | State::Streaming if !machine.body_is_read() => match socket.rx.front() {
                    Some(Seg::Body { last, .. }) => {
                        let last = *last;
                        socket.rx.pop_front();
                        machine.on_body_progress();
                        if last {
                            machine.on_body_end();
                            if std::mem::take(&mut socket.waits_for_body)
                                && let Some(request) = socket.running
                            {
                                self.run_application(id, request);
                            }
                        }
                    }
                    Some(Seg::Fin) => {
                        socket.why = Why::Peer;
                        machine.on_finished(now);
                        self.drop_stream(id);
                        return Read::Over;
                    }
                    Some(_) => return Read::Blocked,
                    None => {
                        if socket.waits_for_body {
                            machine.on_body_blocked(now);
                        }
                        return Read::Blocked;
                    }
                },
                _ => return Read::Blocked,
            }
        }
    }

    /// A whole head was read: the service is called.
    fn serve(&mut self, id: SocketId, request: RequestId) {
        let now = self.now;
        let asked = &mut self.requests[request as usize];
        let (has_body, client_close) = (asked.parts > 0, asked.client_close);
        let twice = std::mem::replace(&mut asked.serving, true);
        if twice {
            self.broken(|| format!("request {request} was given to an application twice"));
        }
        let socket = &mut self.sockets[id as usize];
        let Some(machine) = &mut socket.machine else { return };
        let late = machine.close_announced();
        machine.on_request(now, has_body, client_close);
        socket.client_close = client_close;
        socket.running = Some(request);
        let refused = machine.role() == Role::Refuse;
        if late {
            self.broken(|| {
                format!("request {request} was served after its connection had announced its close")
            });
        }
        if refused {
            let cause = match self.sockets[id as usize].refusal {
                Some(Refusal::TooManyConnections) => Cause::Refused503TooMany,
                Some(Refusal::Draining) | None => Cause::Refused503Draining,
            };
            self.requests[request as usize].hint = Some(cause);
            self.sockets[id as usize].overruled = Some(cause);
            self.respond(id, request, 503);
            return;
        }
        if let Place::Worker(worker) = self.sockets[id as usize].place {
            let pod = self.sockets[id as usize].pod;
            self.pods[pod as usize].workers[worker as usize].requests += 1;
        }
        if has_body {
            self.sockets[id as usize].waits_for_body = true;
        } else {
            self.run_application(id, request);
        }
    }

    fn run_application(&mut self, id: SocketId, request: RequestId) {
        self.after(self.requests[request as usize].takes, Event::Answer(id, request));
    }

    /// The application has an answer.
    pub fn answer(&mut self, id: SocketId, request: RequestId) {
        let socket = &self.sockets[id as usize];
        let Some(machine) = &socket.machine else { return };
        if socket.running != Some(request)
            || machine.state() != State::InFlight
            || socket.stage != Stage::Serving
        {
            return;
        }
        if let Some(thaw) = self.thaws(id) {
            self.at(thaw, Event::Answer(id, request));
            return;
        }
        let asked = &self.requests[request as usize];
        let (steps, gap, streaming) = (asked.steps, asked.step_gap, asked.streaming);
        if steps == 0 {
            self.respond(id, request, 200);
        } else {
            self.begin(id, request, 200);
            if !streaming {
                // The whole body is handed over; the socket takes it as the client reads.
                let now = self.now;
                if let Some(machine) = &mut self.sockets[id as usize].machine {
                    machine.on_response_end(now);
                    machine.on_write_blocked(now);
                }
            }
            self.after(gap, Event::AnswerEnd(id, request));
        }
        self.poll(id);
    }

    /// The next part of an answer that takes several.
    pub fn answer_end(&mut self, id: SocketId, request: RequestId) {
        let now = self.now;
        let socket = &self.sockets[id as usize];
        let Some(machine) = &socket.machine else { return };
        let answering = matches!(machine.state(), State::Streaming | State::Flushing);
        if socket.running != Some(request) || !answering || socket.stage != Stage::Serving {
            return;
        }
        if let Some(thaw) = self.thaws(id) {
            self.at(thaw, Event::AnswerEnd(id, request));
            return;
        }
        let asked = &mut self.requests[request as usize];
        asked.steps = asked.steps.saturating_sub(1);
        let (steps, gap, streaming) = (asked.steps, asked.step_gap, asked.streaming);
        if let (false, Some(machine)) = (streaming, &mut self.sockets[id as usize].machine) {
            machine.on_write_progress();
            if steps > 0 {
                machine.on_write_blocked(now);
            }
        }
        if steps > 0 {
            self.after(gap, Event::AnswerEnd(id, request));
        } else {
            if streaming && let Some(machine) = &mut self.sockets[id as usize].machine {
                machine.on_response_end(now);
            }
            self.flush(id, request);
        }
        self.poll(id);
    }

    /// The server answers in the application's place.
    fn overrule(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id as usize];
        let Some(ending) = socket.ending.take() else { return };
        let Some(request) = socket.running else { return };
        if let Some(machine) = &mut socket.machine {
            machine.on_close_announced();
        }
        let (status, cause) = match ending {
            Ending::Forced => (503, self.forced(id)),
            Ending::RequestTimeout => (504, Cause::RequestTimeout),
            Ending::BodyTimeout => (408, Cause::TooSlow),
            Ending::PeerGone => (499, Cause::PeerFault),
        };
        self.requests[request as usize].hint = Some(cause);
        // Those behind it on the connection go with it.
        self.sockets[id as usize].overruled = Some(cause);
        self.respond(id, request, status);
    }

    fn respond(&mut self, id: SocketId, request: RequestId, status: u16) {
        let now = self.now;
        self.begin(id, request, status);
        if let Some(machine) = &mut self.sockets[id as usize].machine {
            machine.on_response_end(now);
        }
        self.flush(id, request);
    }

    /// The response head goes out: the last moment to announce the connection's end.
    fn begin(&mut self, id: SocketId, request: RequestId, status: u16) {
        let now = self.now;
        let socket = &mut self.sockets[id as usize];
        let Some(machine) = &mut socket.machine else { return };
        let pipelined = matches!(socket.rx.front(), Some(Seg::Head { .. }));
        let phase = machine.phase();
        let verdict = machine.on_response_head(now, pipelined);
        let close = verdict == HeadVerdict::AnnounceClose || machine.close_announced();
        if close {
            socket.announced_at = Some(now);
        }
        if phase != Phase::Serving && !close && !pipelined {
            self.broken(|| {
                format!("request {request} was answered in {phase:?} without `Connection: close`")
            });
        }
        self.send_down(id, Down::Head { request, status, close });
    }

    /// The last byte of the answer is written.
    fn flush(&mut self, id: SocketId, request: RequestId) {
        let now = self.now;
        let socket = &mut self.sockets[id as usize];
        socket.running = None;
        socket.waits_for_body = false;
        let Some(machine) = &mut socket.machine else { return };
        machine.on_flushed(now);
        let last = machine.state() == State::Closing;
        let over = last || socket.client_close;
        if over {
            socket.why =
                if last && machine.phase() == Phase::Aborting { Why::Deadline } else { Why::Announced };
            machine.on_finished(now);
        }
        self.send_down(id, Down::End { request });
    }

    /// hyper is done with the connection.
    fn finished(&mut self, id: SocketId) {
        let now = self.now;
        if let Some(machine) = &mut self.sockets[id as usize].machine {
            machine.on_finished(now);
        }
        self.close(id);
    }

    fn close(&mut self, id: SocketId) {
        let now = self.now;
        let socket = &mut self.sockets[id as usize];
        let Some(machine) = &socket.machine else { return };
        match machine.close_mode(now) {
            CloseMode::Now => self.drop_stream(id),
            CloseMode::LingerUntil(until) => {
                socket.stage = Stage::Lingering(until);
                socket.fin_sent = true;
                let peer_ended = socket.rx.iter().any(|seg| matches!(seg, Seg::Fin | Seg::Rst));
                socket.rx.clear();
                self.send_down(id, Down::Fin);
                if peer_ended || until <= now {
                    self.drop_stream(id);
                } else {
                    self.arm(id, until);
                }
            }
        }
    }

    /// The server's end of the socket is closed.
    fn drop_stream(&mut self, id: SocketId) {
        let now = self.now;
        let place = self.sockets[id as usize].place;
        self.shut(id);
        let socket = &mut self.sockets[id as usize];
        let mut cut = 0;
        if let Some(machine) = &mut socket.machine {
            machine.on_closed(now);
            cut = machine.cut_requests();
        }
        let pod = socket.pod;
        match place {
            Place::Worker(worker) => self.connection_closed(pod, worker, id, cut),
            Place::FrontDesk => self.front_desk_closed(pod, id),
            _ => {}
        }
    }

    /// What close(2) does, also that of a process that ends: a reset if bytes were not read, else a FIN.
    pub fn shut(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id as usize];
        let was_open = socket.stage != Stage::Closed && socket.place != Place::Gone;
        let unread = socket.rx.iter().any(|seg| matches!(seg, Seg::Head { .. } | Seg::Body { .. }));
        let fin_sent = socket.fin_sent;
        socket.rx.clear();
        socket.stage = Stage::Closed;
        socket.place = Place::Gone;
        if was_open && unread {
            self.send_down(id, Down::Rst);
        } else if was_open && !fin_sent {
            self.send_down(id, Down::Fin);
        }
    }

    /// The deadline's cause: that of the drain, or of somebody who cut it short.
    fn forced(&self, id: SocketId) -> Cause {
        let pod = self.sockets[id as usize].pod;
        if self.pods[pod as usize].cut_short { Cause::CutShort } else { Cause::AbortedAtDeadline }
    }

    /// Why a request of this connection failed, for the client's book.
    pub fn cause(&self, id: SocketId, request: RequestId) -> Cause {
        let (socket, asked) = (&self.sockets[id as usize], &self.requests[request as usize]);
        if let Some(cause) = asked.hint {
            return cause;
        }
        if let Some(cause) = socket.overruled {
            return cause;
        }
        match socket.why {
            Why::Killed(cause) => cause,
            Why::Deadline => self.forced(id),
            Why::LateHandshake => Cause::RefusedAfterListenerClose,
            Why::Slow => Cause::TooSlow,
            Why::Peer => Cause::PeerFault,
            Why::Idle if asked.arrived_at.is_none() => Cause::IdleCloseRace,
            Why::Announced => match (asked.arrived_at, socket.announced_at()) {
                (None, _) => Cause::PipelinedRace,
                (Some(arrived), Some(announced)) if arrived > announced => Cause::PipelinedRace,
                _ if asked.pipelined && socket.client_close => Cause::PipelinedRace,
                _ => Cause::Unexplained,
            },
            // Nothing could be accepted until the forced end, and the exit code says so.
            Why::QueueReset if self.pods[socket.pod as usize].exit_code == Some(exit::FORCED) => {
                self.forced(id)
            }
            Why::Idle | Why::Open | Why::QueueReset => Cause::Unexplained,
        }
    }
}

/// What became of a read.
enum Read {
    Blocked,
    Over,
}
