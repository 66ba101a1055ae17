//! A second, independent network under the same world: turmoil's. The same scenario has to come to the same kind of end there,
//! or one of the two networks is not what we think it is.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pounce_runtime_tokio::listener::{Accepted, Listener, Socket, Stream};
use sim::channel::Channel;
use sim::net::{HostId, SimNet};
use sim::scenario::{Dist, PlatformKind, Profile, RequestKind, Retry, Scenario};
use sim::trace::Trace;
use sim::world::World;
use sim::{engine, oracle};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Pods that a run may make.
const PODS: std::ops::Range<HostId> = 10..26;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// turmoil's network. Each pod is a host; everything else lives on one more.
#[derive(Clone)]
struct Turmoil(Arc<BTreeMap<HostId, Channel<Task>>>);

impl SimNet for Turmoil {
    type Stream = TurmoilStream;
    type Listener = TurmoilListener;

    fn spawn(&self, host: HostId, task: impl Future<Output = ()> + Send + 'static) {
        match self.0.get(&host) {
            Some(agent) => agent.push(Box::pin(task), 0),
            None => drop(tokio::spawn(task)),
        }
    }

    async fn bind(&self, _host: HostId) -> io::Result<TurmoilListener> {
        let listener = turmoil::net::TcpListener::bind("0.0.0.0:8000").await?;
        Ok(TurmoilListener { listener: Arc::new(listener), accepting: Mutex::new(None) })
    }

    async fn connect(&self, _from: HostId, to: HostId) -> io::Result<TurmoilStream> {
        turmoil::net::TcpStream::connect((format!("pod-{to}"), 8000)).await.map(TurmoilStream)
    }
}

struct TurmoilStream(turmoil::net::TcpStream);

impl AsyncRead for TurmoilStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TurmoilStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Stream for TurmoilStream {
    // turmoil tells a reader at once: there is no reactor whose knowledge could be old.
    fn readable_now(&self) -> bool {
        false
    }

    fn reset_on_drop(&self) {}
}

struct TurmoilSocket(TurmoilStream);

impl Socket for TurmoilSocket {
    type Stream = TurmoilStream;

    fn into_stream(self) -> io::Result<TurmoilStream> {
        Ok(self.0)
    }
}

type Accepting =
    Pin<Box<dyn Future<Output = io::Result<(turmoil::net::TcpStream, std::net::SocketAddr)>> + Send>>;

struct TurmoilListener {
    listener: Arc<turmoil::net::TcpListener>,
    accepting: Mutex<Option<Accepting>>,
}

impl Listener for TurmoilListener {
    type Io = TurmoilSocket;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted<TurmoilSocket>>> {
        let listener = Arc::clone(&self.listener);
        let mut accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        let future = accepting.get_or_insert_with(|| Box::pin(async move { listener.accept().await }));
        let accepted = match future.as_mut().poll(cx) {
            Poll::Ready(accepted) => accepted,
            Poll::Pending => return Poll::Pending,
        };
        *accepting = None;
        Poll::Ready(accepted.map(|(stream, peer)| Accepted {
            io: TurmoilSocket(TurmoilStream(stream)),
            peer: Some(peer),
            local: None,
        }))
    }

    fn refuse_new(&mut self) {}

    fn name(&self) -> String {
        "turmoil".to_owned()
    }
}

/// Requests and failures of `scenario` on turmoil.
fn on_turmoil(scenario: &Scenario) -> (u32, u32) {
    let mut sim = turmoil::Builder::new()
        .tick_duration(Duration::from_millis(5))
        .simulation_duration(Duration::from_secs(600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(10))
        .tcp_capacity(4096)
        .rng_seed(scenario.seed.0)
        .build();
    let agents: BTreeMap<HostId, Channel<Task>> = PODS.map(|pod| (pod, Channel::default())).collect();
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
    let net = Turmoil(Arc::new(agents));
    let result = Arc::new(Mutex::new((0, 0)));
    let (scenario, told) = (scenario.clone(), Arc::clone(&result));
    sim.client("world", async move {
        let world = Arc::new(World::new(scenario, Trace::begin()));
        engine::drive(&world, &net).await;
        let verdict = oracle::judge(&world, &net);
        *told.lock().unwrap_or_else(PoisonError::into_inner) = (verdict.requests, verdict.failed);
        Ok(())
    });
    sim.run().expect("the run ends");
    let counted = result.lock().unwrap_or_else(PoisonError::into_inner);
    (counted.0, counted.1)
}

/// Deploys in a cluster, everybody with the retries that turmoil's connections need: an end that has come cannot be seen on
/// them before the next request fails.
fn scenarios(profile: Profile) -> impl Iterator<Item = Scenario> {
    (0..).map(move |seed| Scenario::draw_as(profile, seed)).filter_map(|mut scenario| {
        scenario.faults.clear();
        scenario.clients.iter_mut().for_each(|client| client.retry = Retry::Stale);
        scenario.balancers.iter_mut().for_each(|balancer| balancer.retry = Retry::Stale);
        (scenario.platform.kind == PlatformKind::Kubernetes).then_some(scenario)
    })
}

#[test]
fn where_the_settings_are_right_nothing_fails_on_turmoil_either() {
    for scenario in scenarios(Profile::Rollout).filter(|s| s.violations().is_empty()).take(12) {
        let (requests, failed) = on_turmoil(&scenario);
        assert!(requests > 0);
        assert_eq!(failed, 0, "seed {}: {failed} of {requests} on turmoil", scenario.seed);
    }
}

#[test]
fn where_the_endpoints_come_too_late_requests_fail_on_both() {
    for mut scenario in scenarios(Profile::Rollout).filter(|s| s.platform.pods == 1).take(6) {
        scenario.platform.pre_stop_ms = 0;
        scenario.server.drain_delay_ms = 0;
        scenario.balancers.iter_mut().for_each(|b| {
            b.propagation = Dist::Fixed { ms: 3000 };
            b.retry = Retry::Never;
        });
        scenario.clients.truncate(3);
        for client in &mut scenario.clients {
            client.start_ms = 3000;
            client.requests = 60;
            client.keep_alive = false;
            client.retry = Retry::Never;
            client.request = RequestKind::Get;
            client.think = Dist::Fixed { ms: 100 };
        }
        let here = engine::run(&scenario);
        assert!(here.is_good(), "seed {}: {:#?}", scenario.seed, here.verdict.problems);
        assert!(here.verdict.failed > 0, "seed {}: nothing fails on our network", scenario.seed);
        let (requests, failed) = on_turmoil(&scenario);
        assert!(failed > 0, "seed {}: none of {requests} fails on turmoil", scenario.seed);
    }
}
