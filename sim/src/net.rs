//! The simulated network: a small TCP in memory, with what the drain depends on.
//!
//! Why not turmoil-net: its sockets have no `SO_LINGER` (a cut response must be a reset), no way to drop SYNs at one
//! listener (the last phase of our shutdown), retransmit by a count of passes and not by time, and are tied to one
//! thread while production's tasks are `Send`. What is modelled here: the three-way handshake and the accept queue with its
//! limit, a reset for what waits in it when the listener closes, SYNs dropped and sent again, FIN and half-close, a reset
//! when a socket with unread bytes is closed, a reset that destroys what the peer has not read yet, windows, latency for each segment
//! without overtaking inside a connection. What is not: loss, reordering, congestion control, TIME_WAIT.
//!
//! One task, the pump, carries segments. It sleeps until the next is due, so that time costs nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pounce_runtime_tokio::listener::{Accepted, Listener, Socket, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::process;
use crate::rng::Rng;
use crate::scenario::Dist;
use crate::trace::{Hash, since_start};

/// A machine, or a pod: something with an address of its own.
pub type HostId = u32;

/// Names one connection of a run for ever.
pub type ConnId = u64;

/// Most connections in an accept queue (`listen(2)`).
const BACKLOG: usize = 1024;

/// Most bytes under way or unread in one direction of a connection.
const WINDOW: u64 = 64 * 1024;

/// When a SYN that got no answer is sent again, in milliseconds after the one before (tcp(7), `tcp_syn_retries`).
const SYN_RETRIES_MS: [u64; 5] = [1000, 2000, 4000, 8000, 16_000];

/// What a world needs of a network: the fast one here, turmoil's in `tests/cross_check.rs`.
pub trait SimNet: Clone + Send + Sync + 'static {
    type Stream: Stream;
    type Listener: Listener<Io: Socket<Stream = Self::Stream>>;

    /// Runs a task on a host.
    fn spawn(&self, _host: HostId, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    /// Listens on the one port that a host has.
    ///
    /// # Errors
    /// The address is in use.
    fn bind(&self, host: HostId) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// Connects `from` one host to another.
    ///
    /// # Errors
    /// Nobody listens there, or nobody answers.
    fn connect(&self, from: HostId, to: HostId) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// A second descriptor of the same listening socket, for a service manager that keeps it open.
    fn keep_listening(&self, _listener: &Self::Listener) -> Option<Self::Listener> {
        None
    }

    /// The connection under a stream, where the network knows.
    fn conn(&self, _stream: &Self::Stream) -> Option<ConnId> {
        None
    }

    /// What happened to a connection at the server's side.
    fn facts(&self, _conn: ConnId) -> Option<Facts> {
        None
    }

    /// Segments to and from `host` wait until `until`.
    fn stall(&self, _host: HostId, _until: Instant) {}

    /// While `out`, no process of `host` can open a descriptor.
    fn out_of_descriptors(&self, _host: HostId, _out: bool) {}
}

/// What happened to a connection at the server's side, for the oracle. Times as the trace has them.
#[derive(Clone, Copy, Default)]
pub struct Facts {
    /// The handshake ended in the accept queue.
    pub queued: Option<Instant>,
    /// Accepted, and by now owned by this process.
    pub owner: Option<u64>,
    /// The server's side ended: how, when, and how many bytes had come by then.
    pub ended: Option<Ended>,
    /// Bytes that have come to the server's side in all.
    pub delivered: u64,
}

/// The end of the server's side.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub at: Instant,
    pub delivered: u64,
    pub reset: bool,
    /// The process was killed; nobody decided to close this connection.
    pub killed: bool,
}

/// In the run's own time, so that two runs of one seed say the same.
impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |at: Instant| since_start(at).as_millis();
        match self.queued {
            Some(at) => write!(f, "[in the accept queue at {} ms", ms(at))?,
            None => write!(f, "[never in the accept queue")?,
        }
        if let Some(owner) = self.owner {
            write!(f, ", then of process {owner}")?;
        }
        if let Some(ended) = self.ended {
            let how = match (ended.killed, ended.reset) {
                (true, _) => "killed",
                (false, true) => "reset",
                (false, false) => "closed",
            };
            write!(f, ", {how} at {} ms after {} bytes", ms(ended.at), ended.delivered)?;
        }
        write!(f, ", {} bytes in all]", self.delivered)
    }
}

/// The network. Cheap to clone.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").finish_non_exhaustive()
    }
}

struct State {
    rng: Rng,
    latency: Dist,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    segments: BTreeMap<u64, Segment>,
    next_segment: u64,
    pump: Option<Waker>,
    conns: Vec<Conn>,
    listeners: BTreeMap<HostId, Arc<Mutex<Queue>>>,
    stalled: BTreeMap<HostId, Instant>,
    no_descriptors: BTreeMap<HostId, bool>,
    hash: Hash,
}

struct Segment {
    conn: ConnId,
    /// The side it goes to.
    to: usize,
    what: What,
}

enum What {
    Syn,
    SynAck,
    /// The third part of the handshake.
    Ack,
    Data(Vec<u8>),
    Fin,
    Reset,
    /// So many bytes were read.
    Room(u64),
    /// Not a segment: the timer of a SYN without an answer.
    SynTimer {
        attempt: usize,
    },
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

struct Conn {
    sides: [Side; 2],
    facts: Facts,
    connecting: Connecting,
    queue: Option<Arc<Mutex<Queue>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Connecting {
    SynSent,
    Established,
    Refused,
    TimedOut,
}

struct Side {
    host: HostId,
    received: VecDeque<u8>,
    /// The peer's FIN has come.
    peer_ended: bool,
    reset: bool,
    fin_sent: bool,
    /// Nobody holds this side any more.
    closed: bool,
    reset_on_drop: bool,
    /// Sent and not yet read by the peer.
    outstanding: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// When the last segment to this side is due: nothing overtakes it.
    last_due: Option<Instant>,
}

impl Side {
    fn new(host: HostId) -> Side {
        Side {
            host,
            received: VecDeque::new(),
            peer_ended: false,
            reset: false,
            fin_sent: false,
            closed: false,
            reset_on_drop: false,
            outstanding: 0,
            reader: None,
            writer: None,
            last_due: None,
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

/// An accept queue.
struct Queue {
    ready: VecDeque<ConnId>,
    wakers: Vec<Waker>,
    drop_syns: bool,
    handles: usize,
    open: bool,
}

impl Net {
    /// A network whose segments take `latency`. Its pump must be spawned: [`Net::pump`].
    pub fn new(seed: u64, latency: Dist) -> Net {
        Net(Arc::new(Mutex::new(State {
            rng: Rng::fork(seed, 11),
            latency,
            queue: BinaryHeap::new(),
            segments: BTreeMap::new(),
            next_segment: 0,
            pump: None,
            conns: Vec::new(),
            listeners: BTreeMap::new(),
            stalled: BTreeMap::new(),
            no_descriptors: BTreeMap::new(),
            hash: Hash::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries segments for ever.
    pub fn pump(&self) -> impl Future<Output = ()> + Send + use<> {
        let net = self.clone();
        let mut sleep: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(move |cx| {
            loop {
                let mut state = net.state();
                state.deliver_due(Instant::now());
                state.pump = Some(cx.waker().clone());
                let Some(&Reverse((at, _))) = state.queue.peek() else { return Poll::Pending };
                drop(state);
                let sleep = match &mut sleep {
                    Some(sleep) => {
                        sleep.as_mut().reset(at);
                        sleep
                    }
                    none => none.insert(Box::pin(tokio::time::sleep_until(at))),
                };
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
    }

    /// Everything that was delivered, when and where, as one number.
    pub fn hash(&self) -> u64 {
        self.state().hash.value()
    }

    /// Connections that anybody still holds, for a leak check at the end.
    pub fn open_at(&self, host: HostId) -> usize {
        let state = self.state();
        state
            .conns
            .iter()
            .filter(|c| c.sides[SERVER].host == host && c.facts.owner.is_some() && !c.sides[SERVER].closed)
            .count()
    }
}

impl State {
    fn send(&mut self, conn: ConnId, to: usize, what: What) {
        let now = Instant::now();
        let delay = self.latency.draw(&mut self.rng).max(1);
        let [a, b] = [0, 1].map(|side| self.conns[conn as usize].sides[side].host);
        let stalled = [a, b].iter().filter_map(|host| self.stalled.get(host)).max().copied();
        let side = &mut self.conns[conn as usize].sides[to];
        let mut at = now + Duration::from_millis(delay);
        at = at.max(stalled.unwrap_or(at)).max(side.last_due.unwrap_or(at));
        side.last_due = Some(at);
        self.schedule(at, Segment { conn, to, what });
    }

    fn schedule(&mut self, at: Instant, segment: Segment) {
        let id = self.next_segment;
        self.next_segment += 1;
        let first = self.queue.peek().is_none_or(|Reverse((earliest, _))| at < *earliest);
        self.queue.push(Reverse((at, id)));
        self.segments.insert(id, segment);
        if first && let Some(waker) = &self.pump {
            waker.wake_by_ref();
        }
    }

    fn deliver_due(&mut self, now: Instant) {
        while let Some(&Reverse((at, id))) = self.queue.peek() {
            if at > now {
                return;
            }
            self.queue.pop();
            if let Some(segment) = self.segments.remove(&id) {
                self.deliver(now, segment);
            }
        }
    }

    fn deliver(&mut self, now: Instant, segment: Segment) {
        let Segment { conn: id, to, what } = segment;
        self.hash.number(id << 1 | to as u64);
        self.hash.time(now);
        match what {
            What::Syn => self.syn(id),
            What::SynTimer { attempt } => self.syn_timer(id, attempt),
            What::SynAck => {
                let conn = &mut self.conns[id as usize];
                if conn.connecting == Connecting::SynSent {
                    conn.connecting = Connecting::Established;
                    conn.sides[CLIENT].wake();
                    self.send(id, SERVER, What::Ack);
                }
            }
            What::Ack => self.handshake_done(now, id),
            What::Data(bytes) => {
                self.hash.bytes(&bytes);
                let conn = &mut self.conns[id as usize];
                if conn.sides[to].closed {
                    // Bytes for a socket that is gone: a reset.
                    if !conn.sides[to].reset {
                        conn.sides[to].reset = true;
                        self.send(id, 1 - to, What::Reset);
                    }
                    return;
                }
                if to == SERVER {
                    conn.facts.delivered += bytes.len() as u64;
                }
                conn.sides[to].received.extend(bytes);
                conn.sides[to].wake();
            }
            What::Fin => {
                let side = &mut self.conns[id as usize].sides[to];
                side.peer_ended = true;
                side.wake();
            }
            What::Reset => {
                let conn = &mut self.conns[id as usize];
                if to == CLIENT && conn.connecting == Connecting::SynSent {
                    conn.connecting = Connecting::Refused;
                }
                let side = &mut conn.sides[to];
                side.reset = true;
                // RFC 9293 §3.10.7.4: all segment queues are flushed. Linux is kinder; the worst is what has to work.
                side.received.clear();
                side.wake();
            }
            What::Room(bytes) => {
                let side = &mut self.conns[id as usize].sides[to];
                side.outstanding = side.outstanding.saturating_sub(bytes);
                side.wake();
            }
        }
    }

    fn syn(&mut self, id: ConnId) {
        let host = self.conns[id as usize].sides[SERVER].host;
        let Some(queue) = self.listeners.get(&host).cloned() else {
            return self.send(id, CLIENT, What::Reset);
        };
        let q = queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !q.open {
            drop(q);
            return self.send(id, CLIENT, What::Reset);
        }
        if q.drop_syns || q.ready.len() >= BACKLOG {
            crate::marks::hit("a SYN was dropped");
            return;
        }
        drop(q);
        self.conns[id as usize].queue = Some(queue);
        self.send(id, CLIENT, What::SynAck);
    }

    fn syn_timer(&mut self, id: ConnId, attempt: usize) {
        let conn = &mut self.conns[id as usize];
        if conn.connecting != Connecting::SynSent || conn.sides[CLIENT].closed {
            return;
        }
        match SYN_RETRIES_MS.get(attempt + 1) {
            Some(wait) => {
                let at = Instant::now() + Duration::from_millis(*wait);
                // A SYN that is already answered for is not sent again.
                if conn.queue.is_none() {
                    self.send(id, SERVER, What::Syn);
                }
                let timer = What::SynTimer { attempt: attempt + 1 };
                self.schedule(at, Segment { conn: id, to: CLIENT, what: timer });
            }
            None => {
                conn.connecting = Connecting::TimedOut;
                conn.sides[CLIENT].wake();
            }
        }
    }

    fn handshake_done(&mut self, now: Instant, id: ConnId) {
        let Some(queue) = self.conns[id as usize].queue.clone() else { return };
        let mut q = queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !q.open {
            drop(q);
            crate::marks::hit("a handshake ended at a closed listener");
            self.end_server_side(now, id, true);
            return self.send(id, CLIENT, What::Reset);
        }
        q.ready.push_back(id);
        q.wakers.drain(..).for_each(Waker::wake);
        drop(q);
        self.conns[id as usize].facts.queued = Some(now);
    }

    fn end_server_side(&mut self, now: Instant, id: ConnId, reset: bool) {
        let conn = &mut self.conns[id as usize];
        conn.sides[SERVER].closed |= reset;
        if conn.facts.ended.is_none() {
            conn.facts.ended =
                Some(Ended { at: now, delivered: conn.facts.delivered, reset, killed: process::killing() });
        }
    }

    /// The last descriptor of one side is closed.
    fn close(&mut self, id: ConnId, side: usize) {
        let now = Instant::now();
        let this = &mut self.conns[id as usize].sides[side];
        if this.closed {
            return;
        }
        this.closed = true;
        let dead = this.reset;
        let unread = !this.received.is_empty();
        let reset = unread || this.reset_on_drop;
        let fin_sent = this.fin_sent;
        this.fin_sent = true;
        if side == SERVER {
            self.end_server_side(now, id, reset && !dead);
        }
        if dead {
            return;
        }
        if side == CLIENT && self.conns[id as usize].connecting == Connecting::SynSent {
            // Given up before the handshake was over.
            return self.send(id, SERVER, What::Fin);
        }
        if reset {
            self.conns[id as usize].sides[side].reset = true;
            self.send(id, 1 - side, What::Reset);
        } else if !fin_sent {
            self.send(id, 1 - side, What::Fin);
        }
    }
}

impl SimNet for Net {
    type Stream = NetStream;
    type Listener = NetListener;

    async fn bind(&self, host: HostId) -> io::Result<NetListener> {
        let mut state = self.state();
        let taken =
            state.listeners.get(&host).is_some_and(|q| q.lock().unwrap_or_else(PoisonError::into_inner).open);
        if taken {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let queue = Arc::new(Mutex::new(Queue {
            ready: VecDeque::new(),
            wakers: Vec::new(),
            drop_syns: false,
            handles: 1,
            open: true,
        }));
        state.listeners.insert(host, Arc::clone(&queue));
        Ok(NetListener { net: self.clone(), host, queue, kept_elsewhere: false })
    }

    fn connect(&self, from: HostId, to: HostId) -> impl Future<Output = io::Result<NetStream>> + Send {
        let mut state = self.state();
        let id = state.conns.len() as ConnId;
        state.conns.push(Conn {
            sides: [Side::new(from), Side::new(to)],
            facts: Facts::default(),
            connecting: Connecting::SynSent,
            queue: None,
        });
        state.send(id, SERVER, What::Syn);
        let at = Instant::now() + Duration::from_millis(SYN_RETRIES_MS[0]);
        state.schedule(at, Segment { conn: id, to: CLIENT, what: What::SynTimer { attempt: 0 } });
        drop(state);
        let mut stream = Some(NetStream { net: self.clone(), id, side: CLIENT });
        let net = self.clone();
        std::future::poll_fn(move |cx| {
            let mut state = net.state();
            let conn = &mut state.conns[id as usize];
            match conn.connecting {
                Connecting::SynSent => {
                    conn.sides[CLIENT].reader = Some(cx.waker().clone());
                    Poll::Pending
                }
                Connecting::Established => {
                    drop(state);
                    match stream.take() {
                        Some(stream) => Poll::Ready(Ok(stream)),
                        None => Poll::Pending,
                    }
                }
                Connecting::Refused => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
                Connecting::TimedOut => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            }
        })
    }

    fn keep_listening(&self, listener: &NetListener) -> Option<NetListener> {
        let mut queue = listener.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.handles += 1;
        drop(queue);
        Some(NetListener {
            net: self.clone(),
            host: listener.host,
            queue: Arc::clone(&listener.queue),
            kept_elsewhere: true,
        })
    }

    fn conn(&self, stream: &NetStream) -> Option<ConnId> {
        Some(stream.id)
    }

    fn facts(&self, conn: ConnId) -> Option<Facts> {
        self.state().conns.get(conn as usize).map(|conn| conn.facts)
    }

    fn stall(&self, host: HostId, until: Instant) {
        self.state().stalled.insert(host, until);
    }

    fn out_of_descriptors(&self, host: HostId, out: bool) {
        let mut state = self.state();
        state.no_descriptors.insert(host, out);
        if let (false, Some(queue)) = (out, state.listeners.get(&host)) {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.wakers.drain(..).for_each(Waker::wake);
        }
    }
}

fn address(host: HostId, port: u16) -> SocketAddr {
    let [_, _, high, low] = host.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, 0, high, low), port))
}

/// One side of a connection.
pub struct NetStream {
    net: Net,
    id: ConnId,
    side: usize,
}

impl std::fmt::Debug for NetStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NetStream({}/{})", self.id, self.side)
    }
}

impl AsyncRead for NetStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.state();
        let side = &mut state.conns[self.id as usize].sides[self.side];
        if side.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if side.received.is_empty() {
            if side.peer_ended {
                return Poll::Ready(Ok(()));
            }
            side.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let take = side.received.len().min(buf.remaining());
        for byte in side.received.drain(..take) {
            buf.put_slice(&[byte]);
        }
        let ended = side.peer_ended;
        if !ended {
            state.send(self.id, 1 - self.side, What::Room(take as u64));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.net.state();
        let side = &mut state.conns[self.id as usize].sides[self.side];
        if side.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if side.fin_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(side.outstanding).min(buf.len() as u64) as usize;
        if room == 0 && !buf.is_empty() {
            side.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        side.outstanding += room as u64;
        state.send(self.id, 1 - self.side, What::Data(buf[..room].to_vec()));
        Poll::Ready(Ok(room))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.state();
        let side = &mut state.conns[self.id as usize].sides[self.side];
        if side.reset {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if !side.fin_sent {
            side.fin_sent = true;
            if self.side == SERVER {
                state.end_server_side(Instant::now(), self.id, false);
            }
            state.send(self.id, 1 - self.side, What::Fin);
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream for NetStream {
    fn readable_now(&self) -> bool {
        let state = self.net.state();
        let side = &state.conns[self.id as usize].sides[self.side];
        !side.received.is_empty() || side.peer_ended || side.reset
    }

    fn reset_on_drop(&self) {
        self.net.state().conns[self.id as usize].sides[self.side].reset_on_drop = true;
    }
}

impl Drop for NetStream {
    fn drop(&mut self) {
        self.net.state().close(self.id, self.side);
    }
}

/// An accepted connection, in whichever process holds it.
#[derive(Debug)]
pub struct NetSocket(NetStream);

impl Socket for NetSocket {
    type Stream = NetStream;

    fn into_stream(self) -> io::Result<NetStream> {
        let mut state = self.0.net.state();
        state.conns[self.0.id as usize].facts.owner = process::current();
        drop(state);
        Ok(self.0)
    }
}

/// A descriptor of a listening socket.
pub struct NetListener {
    net: Net,
    host: HostId,
    queue: Arc<Mutex<Queue>>,
    /// A service manager holds another descriptor of it.
    kept_elsewhere: bool,
}

impl std::fmt::Debug for NetListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NetListener({})", self.host)
    }
}

impl Listener for NetListener {
    type Io = NetSocket;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<NetSocket>>> {
        let mut state = self.net.state();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.ready.is_empty() {
            if !queue.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                queue.wakers.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        if state.no_descriptors.get(&self.host).copied().unwrap_or(false) {
            crate::marks::hit("accept failed for want of a descriptor");
            // EMFILE
            return Poll::Ready(Err(io::Error::from_raw_os_error(24)));
        }
        let Some(id) = queue.ready.pop_front() else { return Poll::Pending };
        drop(queue);
        let conn = &mut state.conns[id as usize];
        conn.facts.owner = process::current();
        let peer = address(conn.sides[CLIENT].host, 1024 + (id % 60_000) as u16);
        let local = address(self.host, 8000);
        drop(state);
        let io = NetSocket(NetStream { net: self.net.clone(), id, side: SERVER });
        Poll::Ready(Ok(Accepted { io, peer: Some(peer), local: Some(local) }))
    }

    fn refuse_new(&mut self) {
        // As production: what is set on the socket would stay for the next server.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).drop_syns = !self.kept_elsewhere;
    }

    fn name(&self) -> String {
        format!("http://{}", address(self.host, 8000))
    }
}

impl Drop for NetListener {
    fn drop(&mut self) {
        let mut state = self.net.state();
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.handles -= 1;
        if queue.handles > 0 {
            return;
        }
        queue.open = false;
        let left = std::mem::take(&mut queue.ready);
        drop(queue);
        for id in left {
            crate::marks::hit("a listener closed with a connection in its accept queue");
            state.end_server_side(Instant::now(), id, true);
            state.send(id, CLIENT, What::Reset);
        }
    }
}
