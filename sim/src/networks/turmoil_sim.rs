//! [turmoil](https://docs.rs/turmoil)'s `Sim` under the same world: other sockets, another runtime for each host, another clock that
//! goes in ticks. Each pod is a host; everything else lives on one more.
//!
//! Slow (every host costs something at every tick) and less of a TCP than ours: a connection is made when it is accepted, not
//! when it is queued; no SYN is lost; nothing is cut with a reset on purpose; links cannot stall.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pounce_runtime_tokio::listener::{Accepted, Listener, Socket, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Book;
use crate::channel::Channel;
use crate::engine::{self, Outcome};
use crate::lock::lock;
use crate::net::{ConnId, Facts, HostId, SimNet};
use crate::platform::FIRST_POD;
use crate::scenario::{Dist, Scenario};
use crate::trace::Trace;
use crate::world::World;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Agents = Arc<BTreeMap<HostId, Channel<Task>>>;

/// turmoil's network. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Turmoil {
    /// What takes in the tasks of a pod.
    agents: Agents,
    book: Book,
}

/// Runs `scenario` on turmoil's network.
pub(crate) fn run(scenario: &Scenario) -> Outcome {
    let latency = scenario.network.latency.max_ms().max(1);
    // A tick makes every way up to a tick longer; short ways need short ticks.
    let tick = (latency / 4).clamp(1, 5);
    let longest = latency.saturating_sub(tick).max(1);
    let shortest =
        if matches!(scenario.network.latency, Dist::Fixed { .. }) { longest } else { 1.min(longest) };
    let mut sim = turmoil::Builder::new()
        .tick_duration(Duration::from_millis(tick))
        .simulation_duration(Duration::from_secs(3600))
        .min_message_latency(Duration::from_millis(shortest))
        .max_message_latency(Duration::from_millis(longest))
        .tcp_capacity(4096)
        .rng_seed(scenario.seed.0)
        .build();
    let pods = FIRST_POD..FIRST_POD + 2 * scenario.platform.pods + 2;
    let agents: BTreeMap<HostId, Channel<Task>> = pods.map(|pod| (pod, Channel::default())).collect();
    for (pod, agent) in &agents {
        let agent = agent.clone();
        sim.host(format!("pod-{pod}"), move || {
            let agent = agent.clone();
            async move {
                while let Some(task) = std::future::poll_fn(|cx| agent.poll_pop(cx)).await {
                    tokio::spawn(task);
                }
                Ok(())
            }
        });
    }
    let net = Turmoil { agents: Arc::new(agents), book: Book::default() };
    let result = Arc::new(Mutex::new(None));
    let (scenario, told) = (scenario.clone(), Arc::clone(&result));
    sim.client("world", async move {
        let world = Arc::new(World::new(scenario, Trace::begin()));
        engine::drive(&world, &net).await;
        *lock(&told) = Some(engine::conclude(&world, &net));
        Ok(())
    });
    let end = sim.run();
    drop(sim);
    let mut outcome = lock(&result).take().unwrap_or_default();
    if let Err(error) = end {
        outcome.verdict.problems.push(format!("turmoil: {error}"));
    }
    outcome
}

impl SimNet for Turmoil {
    type Stream = NetStream;
    type Listener = NetListener;

    fn spawn(&self, host: HostId, task: impl Future<Output = ()> + Send + 'static) {
        match self.agents.get(&host) {
            Some(agent) => agent.push(Box::pin(task), 0),
            None => drop(tokio::spawn(task)),
        }
    }

    async fn bind(&self, host: HostId) -> io::Result<NetListener> {
        // The listener before was dropped a moment ago, by a task of the host that may not have had its turn.
        let mut tries = 0;
        let listener = loop {
            match turmoil::net::TcpListener::bind("0.0.0.0:8000").await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < 10 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                bound => break bound?,
            }
        };
        let server = SocketAddr::new(turmoil::lookup(format!("pod-{host}")), 8000);
        let (listener, accepting) = (Some(Arc::new(listener)), Mutex::new(None));
        Ok(NetListener { listener, accepting, net: self.clone(), host, server })
    }

    async fn connect(&self, _from: HostId, to: HostId) -> io::Result<NetStream> {
        let server = SocketAddr::new(turmoil::lookup(format!("pod-{to}")), 8000);
        let stream = turmoil::net::TcpStream::connect(server).await?;
        let id = self.book.id(stream.local_addr()?, server);
        Ok(NetStream::new(stream, self, None, id))
    }

    fn keep_listening(&self, listener: &NetListener) -> Option<NetListener> {
        Some(NetListener {
            listener: listener.listener.clone(),
            accepting: Mutex::new(None),
            net: self.clone(),
            ..*listener
        })
    }

    fn conn(&self, stream: &NetStream) -> Option<ConnId> {
        Some(stream.id)
    }

    fn facts(&self, conn: ConnId) -> Option<Facts> {
        self.book.facts(conn)
    }
}

/// One side of a connection. There is a stream until the drop.
#[derive(Debug)]
pub struct NetStream {
    stream: Mutex<Option<turmoil::net::TcpStream>>,
    /// Who waits for bytes. turmoil knows only one, so that whoever looks meanwhile has to look in that one's name.
    reader: Mutex<Option<Waker>>,
    net: Turmoil,
    /// The server's side: its pod.
    host: Option<HostId>,
    id: ConnId,
}

impl NetStream {
    fn new(stream: turmoil::net::TcpStream, net: &Turmoil, host: Option<HostId>, id: ConnId) -> NetStream {
        NetStream { stream: Mutex::new(Some(stream)), reader: Mutex::default(), net: net.clone(), host, id }
    }

    fn call<R>(
        &self,
        call: impl FnOnce(Pin<&mut turmoil::net::TcpStream>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        match &mut *lock(&self.stream) {
            Some(stream) => call(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for NetStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        *lock(&self.reader) = Some(cx.waker().clone());
        let before = buf.filled().len();
        let polled = self.call(|stream| stream.poll_read(cx, buf));
        if self.host.is_some() {
            self.net.book.delivered(self.id, buf.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.call(|stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.call(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.host.is_some() {
            self.net.book.end(self.id, false, false);
        }
        self.call(|stream| stream.poll_shutdown(cx))
    }
}

impl Stream for NetStream {
    fn readable_now(&self) -> bool {
        let waker = lock(&self.reader).clone();
        let mut cx = Context::from_waker(waker.as_ref().unwrap_or(Waker::noop()));
        let mut byte = [0];
        self.call(|stream| stream.get_mut().poll_peek(&mut cx, &mut ReadBuf::new(&mut byte))).is_ready()
    }

    fn reset_on_drop(&self) {}
}

impl Drop for NetStream {
    fn drop(&mut self) {
        let stream = lock(&self.stream).take();
        if let Some(host) = self.host {
            self.net.book.end(self.id, false, true);
            // Whoever kills a process does it from outside; turmoil closes a socket on the host whose turn it is.
            if let Some(agent) = self.net.agents.get(&host) {
                agent.push(Box::pin(async move { drop(stream) }), 0);
            }
        }
    }
}

/// An accepted connection, in whichever process holds it.
#[derive(Debug)]
pub struct NetSocket(NetStream);

impl Socket for NetSocket {
    type Stream = NetStream;

    fn into_stream(self) -> io::Result<NetStream> {
        self.0.net.book.owned(self.0.id);
        Ok(self.0)
    }
}

type Accepting = Pin<Box<dyn Future<Output = io::Result<(turmoil::net::TcpStream, SocketAddr)>> + Send>>;

/// A descriptor of a listening socket. There is a listener until the drop.
#[allow(missing_debug_implementations, reason = "a future has nothing to show")]
pub struct NetListener {
    listener: Option<Arc<turmoil::net::TcpListener>>,
    accepting: Mutex<Option<Accepting>>,
    net: Turmoil,
    host: HostId,
    server: SocketAddr,
}

impl Listener for NetListener {
    type Io = NetSocket;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<NetSocket>>> {
        let Some(listener) = self.listener.clone() else { return Poll::Pending };
        let mut accepting = lock(&self.accepting);
        let future = accepting.get_or_insert_with(|| Box::pin(async move { listener.accept().await }));
        let accepted = match future.as_mut().poll(cx) {
            Poll::Ready(accepted) => accepted,
            Poll::Pending => return Poll::Pending,
        };
        *accepting = None;
        Poll::Ready(accepted.map(|(stream, peer)| {
            let id = self.net.book.id(peer, self.server);
            self.net.book.queued(id);
            self.net.book.owned(id);
            Accepted {
                io: NetSocket(NetStream::new(stream, &self.net, Some(self.host), id)),
                peer: Some(peer),
                local: Some(self.server),
            }
        }))
    }

    fn refuse_new(&mut self) {}

    fn name(&self) -> String {
        format!("http://{}", self.server)
    }
}

impl Drop for NetListener {
    fn drop(&mut self) {
        let (listener, accepting) = (self.listener.take(), lock(&self.accepting).take());
        if let Some(agent) = self.net.agents.get(&self.host) {
            agent.push(Box::pin(async move { drop((accepting, listener)) }), 0);
        }
    }
}
