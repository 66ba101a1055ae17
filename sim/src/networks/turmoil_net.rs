//! [turmoil-net](https://docs.rs/turmoil-net) under the same world: a TCP stack for each pod, one more for everybody else,
//! and a pump of ours that carries its packets by the simulated clock.
//!
//! What its stack does not do, and the pump does in its place because every packet passes through it: a SYN is lost and sent
//! again (its own timer counts passes of the pump, not time), a socket is closed with a reset (`SO_LINGER` is not
//! there), bytes for a closed socket are answered with a reset. What cannot be had: a server on the port of the one before while
//! that one's connections still end (`SO_REUSEADDR` is not there), so each gets a port of its own.
//! `tests/turmoil_net_lacks.rs` has a test for each, which fails when turmoil-net has learned it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pounce_runtime_tokio::listener::{Accepted, Listener, Socket, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use turmoil_net::shim::tokio::net::{TcpListener, TcpStream};
use turmoil_net::{EnterGuard, KernelConfig, Packet, TcpFlags, TcpSegment, Transport};

use super::Book;
use crate::channel::poll_until;
use crate::net::{ConnId, Facts, HostId, SYN_RETRIES_MS, SimNet};
use crate::platform::FIRST_POD;
use crate::rng::Rng;
use crate::scenario::{Dist, SLOW_READ_BYTES, Scenario};
use crate::trace::Hash;

/// Everybody who is not a pod.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));

/// turmoil-net. Cheap to clone.
#[derive(Clone)]
pub struct TurmoilNet(Arc<Mutex<State>>);

impl std::fmt::Debug for TurmoilNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurmoilNet").finish_non_exhaustive()
    }
}

struct State {
    /// Taken out at the end: sockets must not outlive the stacks that they are in.
    stacks: Option<EnterGuard>,
    outside: turmoil_net::HostId,
    pods: BTreeMap<HostId, turmoil_net::HostId>,
    rng: Rng,
    latency: Dist,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    packets: BTreeMap<u64, Packet>,
    next_packet: u64,
    /// When the last packet on this way is due: nothing overtakes it.
    last_due: BTreeMap<(SocketAddr, SocketAddr), Instant>,
    pump: Option<Waker>,
    produced: Vec<Packet>,
    stalled: BTreeMap<HostId, Instant>,
    no_descriptors: BTreeSet<HostId>,
    ports: BTreeMap<HostId, u16>,
    /// SYNs to these are lost.
    refusing: BTreeSet<SocketAddr>,
    syns: BTreeMap<(SocketAddr, SocketAddr), usize>,
    /// Clients' ends that are closed.
    gone: BTreeSet<SocketAddr>,
    book: Book,
    hash: Hash,
}

fn address(host: HostId) -> IpAddr {
    let [_, _, high, low] = host.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}

fn pod_at(address: IpAddr) -> Option<HostId> {
    match address {
        IpAddr::V4(v4) if address != OUTSIDE => {
            let [_, _, high, low] = v4.octets();
            Some(HostId::from_be_bytes([0, 0, high, low]))
        }
        _ => None,
    }
}

impl TurmoilNet {
    /// Stacks for every pod that `scenario` can make. The pump must be spawned, and [`TurmoilNet::end`] called after the
    /// runtime is gone.
    ///
    /// # Panics
    /// On a thread that has such a network already.
    pub fn new(scenario: &Scenario) -> TurmoilNet {
        // Never again by count of passes; segments as large as ours. A window that is read in pieces smaller than half of
        // it is never opened again: it must be as small as the pieces of the slowest reader.
        let config = KernelConfig::default()
            .retx_threshold(u32::MAX)
            .mtu(64 * 1024)
            .recv_buf_cap(SLOW_READ_BYTES as usize);
        let mut net = turmoil_net::Net::with_config(config);
        let outside = net.add_host(OUTSIDE);
        let last = FIRST_POD + 2 * scenario.platform.pods + 2;
        let pods = (FIRST_POD..last).map(|pod| (pod, net.add_host(address(pod)))).collect();
        TurmoilNet(Arc::new(Mutex::new(State {
            stacks: Some(net.enter()),
            outside,
            pods,
            rng: Rng::fork(scenario.seed.0, 11),
            latency: scenario.network.latency,
            queue: BinaryHeap::new(),
            packets: BTreeMap::new(),
            next_packet: 0,
            last_due: BTreeMap::new(),
            pump: None,
            produced: Vec::new(),
            stalled: BTreeMap::new(),
            no_descriptors: BTreeSet::new(),
            ports: BTreeMap::new(),
            refusing: BTreeSet::new(),
            syns: BTreeMap::new(),
            gone: BTreeSet::new(),
            book: Book::default(),
            hash: Hash::default(),
        })))
    }

    /// Everything that was delivered, when and where, as one number.
    pub fn hash(&self) -> u64 {
        self.state().hash.value()
    }

    /// Takes the stacks away from the thread.
    pub fn end(&self) {
        let stacks = self.state().stacks.take();
        drop(stacks);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A system call on a host: `None` is the outside.
    fn call<R>(&self, host: Option<HostId>, call: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        state.on(host);
        let result = call(&mut state);
        state.wake();
        result
    }

    /// Carries packets for ever.
    pub fn pump(&self) -> impl Future<Output = ()> + Send + use<> {
        let net = self.clone();
        let mut sleep: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(move |cx| {
            loop {
                let mut state = net.state();
                state.turn();
                state.pump = Some(cx.waker().clone());
                let Some(&Reverse((at, _))) = state.queue.peek() else { return Poll::Pending };
                drop(state);
                ready!(poll_until(&mut sleep, at, cx));
            }
        })
    }
}

impl State {
    /// A stack may have produced something.
    fn wake(&self) {
        if let Some(waker) = &self.pump {
            waker.wake_by_ref();
        }
    }

    /// System calls that follow are this host's.
    fn on(&self, host: Option<HostId>) {
        let id = match host {
            Some(host) => self.pods.get(&host).copied().unwrap_or(self.outside),
            None => self.outside,
        };
        turmoil_net::set_current(id);
    }

    fn turn(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, id))) = self.queue.peek() {
            if at > now {
                break;
            }
            self.queue.pop();
            if let Some(packet) = self.packets.remove(&id) {
                self.deliver(packet);
            }
        }
        self.collect();
    }

    /// Puts what the stacks have produced on its way.
    fn collect(&mut self) {
        let Some(stacks) = &self.stacks else { return };
        let mut produced = std::mem::take(&mut self.produced);
        stacks.egress_all(&mut produced);
        for packet in produced.drain(..) {
            self.send(packet);
        }
        self.produced = produced;
    }

    fn send(&mut self, packet: Packet) {
        let delay = self.latency.draw(&mut self.rng).max(1);
        let hosts = [pod_at(packet.src), pod_at(packet.dst)];
        let stalled = hosts.iter().flatten().filter_map(|host| self.stalled.get(host)).max().copied();
        let at = Instant::now() + Duration::from_millis(delay);
        let at = at.max(stalled.unwrap_or(at));
        let at = match ends(&packet) {
            Some((from, to)) => {
                let last = self.last_due.entry((from, to)).or_insert(at);
                *last = at.max(*last);
                *last
            }
            None => at,
        };
        self.schedule(at, packet);
    }

    fn schedule(&mut self, at: Instant, packet: Packet) {
        let id = self.next_packet;
        self.next_packet += 1;
        self.queue.push(Reverse((at, id)));
        self.packets.insert(id, packet);
    }

    fn deliver(&mut self, packet: Packet) {
        self.hash_packet(&packet);
        if let (Transport::Tcp(segment), Some((from, to)), Some(_)) =
            (&packet.payload, ends(&packet), pod_at(packet.dst))
        {
            let flags = segment.flags;
            if flags.syn {
                if self.refusing.contains(&to) {
                    crate::marks::hit("a SYN was dropped");
                    let attempt = self.syns.entry((from, to)).or_insert(0);
                    if let Some(wait) = SYN_RETRIES_MS.get(*attempt) {
                        *attempt += 1;
                        return self.schedule(Instant::now() + Duration::from_millis(*wait), packet);
                    }
                    return;
                }
                self.book.id(from, to);
            } else if !flags.rst {
                let id = self.book.id(from, to);
                self.book.queued(id);
                let read = self.book.delivered(id, segment.payload.len());
                if !read && !segment.payload.is_empty() {
                    self.reset(to, from);
                    return;
                }
            }
        }
        if let (Transport::Tcp(segment), Some((from, to))) = (&packet.payload, ends(&packet))
            && self.gone.contains(&to)
            && !segment.payload.is_empty()
        {
            return self.reset(to, from);
        }
        if let Some(stacks) = &self.stacks {
            stacks.deliver(packet);
        }
    }

    fn hash_packet(&mut self, packet: &Packet) {
        let (Transport::Tcp(segment), Some((from, to))) = (&packet.payload, ends(packet)) else { return };
        for end in [from, to] {
            self.hash.number(u64::from(pod_at(end.ip()).unwrap_or(0)) << 16 | u64::from(end.port()));
        }
        let TcpFlags { syn, ack, fin, rst, .. } = segment.flags;
        self.hash.bytes(&[syn, ack, fin, rst].map(u8::from));
        self.hash.time(Instant::now());
        self.hash.bytes(&segment.payload);
    }

    /// A reset, made by hand: the stack of its sender forgets the connection at once, the other's when it comes.
    fn reset(&mut self, from: SocketAddr, to: SocketAddr) {
        self.collect();
        if let Some(stacks) = &self.stacks {
            stacks.deliver(reset_packet(to, from));
        }
        self.send(reset_packet(from, to));
    }
}

fn ends(packet: &Packet) -> Option<(SocketAddr, SocketAddr)> {
    match &packet.payload {
        Transport::Tcp(segment) => Some((
            SocketAddr::new(packet.src, segment.src_port),
            SocketAddr::new(packet.dst, segment.dst_port),
        )),
        Transport::Udp(_) => None,
    }
}

fn reset_packet(from: SocketAddr, to: SocketAddr) -> Packet {
    Packet {
        src: from.ip(),
        dst: to.ip(),
        ttl: 64,
        payload: Transport::Tcp(TcpSegment {
            src_port: from.port(),
            dst_port: to.port(),
            seq: 0,
            ack: 0,
            flags: TcpFlags { rst: true, ack: true, ..TcpFlags::default() },
            window: 0,
            payload: bytes::Bytes::new(),
        }),
    }
}

impl SimNet for TurmoilNet {
    type Stream = NetStream;
    type Listener = NetListener;

    async fn bind(&self, host: HostId) -> io::Result<NetListener> {
        let port = {
            let mut state = self.state();
            let port = state.ports.entry(host).or_insert(7999);
            *port += 1;
            *port
        };
        let server = SocketAddr::new(address(host), port);
        let mut bind = Box::pin(TcpListener::bind(server));
        let listener = std::future::poll_fn(|cx| self.call(Some(host), |_| bind.as_mut().poll(cx))).await?;
        Ok(NetListener {
            listener: Some(Arc::new(listener)),
            net: self.clone(),
            host,
            server,
            kept_elsewhere: false,
        })
    }

    fn connect(&self, _from: HostId, to: HostId) -> impl Future<Output = io::Result<NetStream>> + Send {
        let port = self.state().ports.get(&to).copied().unwrap_or(8000);
        let server = SocketAddr::new(address(to), port);
        let connecting =
            Connecting { future: Some(Box::pin(TcpStream::connect(server))), net: self.clone(), server };
        async move {
            let patience = Duration::from_millis(SYN_RETRIES_MS.iter().sum());
            tokio::time::timeout(patience, connecting)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
    }

    fn keep_listening(&self, listener: &NetListener) -> Option<NetListener> {
        Some(NetListener {
            listener: listener.listener.clone(),
            net: self.clone(),
            kept_elsewhere: true,
            ..*listener
        })
    }

    fn conn(&self, stream: &NetStream) -> Option<ConnId> {
        Some(stream.id)
    }

    fn facts(&self, conn: ConnId) -> Option<Facts> {
        self.state().book.facts(conn)
    }

    fn stall(&self, host: HostId, until: Instant) {
        self.state().stalled.insert(host, until);
    }

    fn out_of_descriptors(&self, host: HostId, out: bool) {
        let mut state = self.state();
        if out {
            state.no_descriptors.insert(host);
        } else {
            state.no_descriptors.remove(&host);
        }
    }
}

/// A connection attempt. Given up, its descriptor must be closed on its own host.
struct Connecting {
    future: Option<Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>>,
    net: TurmoilNet,
    server: SocketAddr,
}

impl Future for Connecting {
    type Output = io::Result<NetStream>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<NetStream>> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return Poll::Pending };
        let (net, server) = (this.net.clone(), this.server);
        let polled = net.call(None, |state| {
            future.as_mut().poll(cx).map(|connected| {
                let stream = connected?;
                let client = stream.local_addr()?;
                state.gone.remove(&client);
                Ok((stream, state.book.id(client, server)))
            })
        });
        polled.map_ok(|(stream, id)| NetStream {
            stream: Some(stream),
            net: this.net.clone(),
            host: None,
            id,
            reset_on_drop: Mutex::new(false),
        })
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let future = self.future.take();
        self.net.call(None, |_| drop(future));
    }
}

/// One side of a connection. There is a stream until the drop.
#[derive(Debug)]
pub struct NetStream {
    stream: Option<TcpStream>,
    net: TurmoilNet,
    /// The server's side: its pod.
    host: Option<HostId>,
    id: ConnId,
    reset_on_drop: Mutex<bool>,
}

impl NetStream {
    fn call<R>(
        &mut self,
        call: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let state = self.net.state();
        state.on(self.host);
        let done = call(Pin::new(stream));
        if done.is_ready() {
            state.wake();
        }
        done
    }

    /// What a read would find now, without reading it.
    fn peek(&self) -> Poll<io::Result<usize>> {
        let Some(stream) = &self.stream else { return Poll::Ready(Ok(0)) };
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        self.net.state().on(self.host);
        stream.poll_peek(&mut cx, &mut ReadBuf::new(&mut byte))
    }
}

impl AsyncRead for NetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.call(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.call(|stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.host.is_some() {
            self.net.state().book.end(self.id, false, false);
        }
        self.call(|stream| stream.poll_shutdown(cx))
    }
}

impl Stream for NetStream {
    fn readable_now(&self) -> bool {
        self.peek().is_ready()
    }

    fn reset_on_drop(&self) {
        *self.reset_on_drop.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

impl Drop for NetStream {
    fn drop(&mut self) {
        let found = self.peek();
        let Some(stream) = self.stream.take() else { return };
        let on_purpose = *self.reset_on_drop.lock().unwrap_or_else(PoisonError::into_inner);
        let dead = matches!(found, Poll::Ready(Err(_)));
        let unread = matches!(found, Poll::Ready(Ok(1..)));
        let (host, id) = (self.host, self.id);
        self.net.call(host, |state| {
            if host.is_some() {
                state.book.end(id, (unread || on_purpose) && !dead, true);
            } else if let Ok(client) = stream.local_addr() {
                state.gone.insert(client);
            }
            if on_purpose
                && !dead
                && let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr())
            {
                state.reset(local, peer);
                state.on(host);
            }
            drop(stream);
        });
    }
}

/// An accepted connection, in whichever process holds it.
#[derive(Debug)]
pub struct NetSocket(NetStream);

impl Socket for NetSocket {
    type Stream = NetStream;

    fn into_stream(self) -> io::Result<NetStream> {
        self.0.net.state().book.owned(self.0.id);
        Ok(self.0)
    }
}

/// A descriptor of a listening socket. There is a listener until the drop.
#[derive(Debug)]
pub struct NetListener {
    listener: Option<Arc<TcpListener>>,
    net: TurmoilNet,
    host: HostId,
    server: SocketAddr,
    /// A service manager holds another descriptor of it.
    kept_elsewhere: bool,
}

impl Listener for NetListener {
    type Io = NetSocket;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<NetSocket>>> {
        let Some(listener) = &self.listener else { return Poll::Pending };
        let (host, server) = (self.host, self.server);
        let accepted = self.net.call(Some(host), |state| {
            if state.no_descriptors.contains(&host) && state.book.waits(server) {
                crate::marks::hit("accept failed for want of a descriptor");
                // EMFILE
                return Poll::Ready(Err(io::Error::from_raw_os_error(24)));
            }
            listener.poll_accept(cx).map_ok(|(stream, peer)| {
                let id = state.book.id(peer, server);
                state.book.owned(id);
                (stream, peer, id)
            })
        });
        accepted.map_ok(|(stream, peer, id)| Accepted {
            io: NetSocket(NetStream {
                stream: Some(stream),
                net: self.net.clone(),
                host: Some(host),
                id,
                reset_on_drop: Mutex::new(false),
            }),
            peer: Some(peer),
            local: Some(server),
        })
    }

    fn refuse_new(&mut self) {
        if !self.kept_elsewhere {
            self.net.state().refusing.insert(self.server);
        }
    }

    fn name(&self) -> String {
        format!("http://{}", self.server)
    }
}

impl Drop for NetListener {
    fn drop(&mut self) {
        let (listener, server) = (self.listener.take(), self.server);
        self.net.call(Some(self.host), |state| {
            if listener.as_ref().is_some_and(|listener| Arc::strong_count(listener) == 1) {
                state.refusing.remove(&server);
                state.book.end_unaccepted(server);
            }
            drop(listener);
        });
    }
}
