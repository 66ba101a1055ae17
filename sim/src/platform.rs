//! Around the servers: pods, the kubelet and its probes, endpoints on their way to the balancers, the deploy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pounce_core::event::Signal;
use tokio::time::Instant;

use crate::http1::HttpConn;
use crate::instance::{BootFaults, Instance};
use crate::lock::lock;
use crate::net::{HostId, SimNet};
use crate::rng::Rng;
use crate::scenario::{Fault, FaultKind, PlatformKind};
use crate::world::{Probe, World};

/// The kubelet's address.
pub const KUBELET: HostId = 1;
/// The first client's address.
pub const FIRST_CLIENT: HostId = 1000;
/// The first balancer's address.
pub const FIRST_BALANCER: HostId = 500;
/// The first pod's address. Pods are never numbered twice: what is late for one must not hit its successor.
pub const FIRST_POD: HostId = 10;

/// How long anything of the platform is waited for before the run gives up, in milliseconds.
const PATIENCE_MS: u64 = 180_000;

/// How long a server may take to get ready, in milliseconds, before the platform starts it again.
const START_PATIENCE_MS: u64 = 60_000;

/// One pod: an address, and one server after the other on it.
#[allow(missing_debug_implementations, reason = "its state is the trace")]
pub struct Pod {
    pub host: HostId,
    pub revision: u32,
    boot_faults: Arc<Mutex<BootFaults>>,
    state: Mutex<PodState>,
}

#[derive(Default)]
struct PodState {
    instance: Option<Arc<Instance>>,
    ready_since: Option<u64>,
    terminating: bool,
    gone: bool,
}

/// A balancer's knowledge and, on layer 7, its connections.
#[allow(missing_debug_implementations, reason = "its state is the trace")]
pub struct Front<N: SimNet> {
    pub host: HostId,
    view: Mutex<View>,
    pool: Mutex<BTreeMap<HostId, Vec<Idle<N>>>>,
}

struct Idle<N: SimNet> {
    conn: HttpConn<N::Stream>,
    since: Instant,
}

#[derive(Default)]
struct View {
    version: u64,
    pods: Vec<HostId>,
    turn: usize,
    last_due: Option<Instant>,
}

/// Everything around the servers.
pub struct Cluster<N: SimNet> {
    pub world: Arc<World>,
    pub net: N,
    pods: Mutex<Vec<Arc<Pod>>>,
    pub fronts: Vec<Arc<Front<N>>>,
    changed: tokio::sync::Notify,
    version: Mutex<u64>,
    rng: Mutex<Rng>,
    /// The run is over: what ends now is not started again.
    closing: Mutex<bool>,
    kept: Mutex<Option<N::Listener>>,
}

impl<N: SimNet> std::fmt::Debug for Cluster<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

impl<N: SimNet> Front<N> {
    /// The next pod, in turn.
    pub fn choose(&self) -> Option<HostId> {
        let mut view = lock(&self.view);
        if view.pods.is_empty() {
            return None;
        }
        view.turn = (view.turn + 1) % view.pods.len();
        Some(view.pods[view.turn])
    }

    pub fn knows(&self) -> usize {
        lock(&self.view).pods.len()
    }

    /// An idle connection to `pod` that is still open as far as this side can see.
    pub fn take_idle(&self, pod: HostId, idle_timeout_ms: u64) -> Option<HttpConn<N::Stream>> {
        use pounce_runtime_tokio::listener::Stream;
        let mut pool = lock(&self.pool);
        let idle = pool.get_mut(&pod)?;
        while let Some(found) = idle.pop() {
            let age = found.since.elapsed();
            if age < Duration::from_millis(idle_timeout_ms) && !found.conn.stream.readable_now() {
                return Some(found.conn);
            }
        }
        None
    }

    pub fn put_idle(self: &Arc<Self>, conn: HttpConn<N::Stream>, idle_timeout_ms: u64) {
        let since = Instant::now();
        let (pod, id) = (conn.pod, conn.conn);
        lock(&self.pool).entry(pod).or_default().push(Idle { conn, since });
        let this = Arc::clone(self);
        tokio::spawn(async move {
            sleep_ms(idle_timeout_ms).await;
            let mut pool = lock(&this.pool);
            if let Some(idle) = pool.get_mut(&pod) {
                idle.retain(|i| i.conn.conn != id || i.since != since);
            }
        });
    }

    fn close_idle(&self) {
        lock(&self.pool).clear();
    }
}

impl<N: SimNet> Cluster<N> {
    pub fn new(world: Arc<World>, net: N) -> Arc<Cluster<N>> {
        let seed = world.scenario.seed.0;
        let fronts = (0..world.scenario.balancers.len())
            .map(|index| {
                Arc::new(Front {
                    host: FIRST_BALANCER + index as HostId,
                    view: Mutex::default(),
                    pool: Mutex::default(),
                })
            })
            .collect();
        Arc::new(Cluster {
            world,
            net,
            pods: Mutex::default(),
            fronts,
            changed: tokio::sync::Notify::new(),
            version: Mutex::new(0),
            rng: Mutex::new(Rng::fork(seed, 21)),
            closing: Mutex::new(false),
            kept: Mutex::new(None),
        })
    }

    fn kind(&self) -> PlatformKind {
        self.world.scenario.platform.kind
    }

    fn rolling(&self) -> bool {
        matches!(self.kind(), PlatformKind::Kubernetes | PlatformKind::Ecs)
    }

    pub fn pods(&self) -> Vec<Arc<Pod>> {
        lock(&self.pods).clone()
    }

    /// Makes a pod and starts it.
    fn create(self: &Arc<Self>, revision: u32) {
        let pod = {
            let mut pods = lock(&self.pods);
            let host = FIRST_POD + pods.len() as HostId;
            let pod = Arc::new(Pod { host, revision, boot_faults: Arc::default(), state: Mutex::default() });
            pods.push(Arc::clone(&pod));
            pod
        };
        self.world.trace.say("platform", format!("pod-{} is made (revision {revision})", pod.host));
        let this = Arc::clone(self);
        self.net.spawn(pod.host, async move { this.run_pod(pod).await });
    }

    async fn run_pod(self: Arc<Self>, pod: Arc<Pod>) {
        let start_ms = {
            let mut rng = lock(&self.rng);
            self.world.scenario.platform.pod_start.draw(&mut rng)
        };
        sleep_ms(start_ms).await;
        let mut failures = 0u32;
        loop {
            if lock(&pod.state).terminating || *lock(&self.closing) {
                break;
            }
            let listener = match self.listener(pod.host).await {
                Ok(listener) => listener,
                Err(error) => {
                    self.world.problem(format!("pod-{}: the port is not free: {error}", pod.host));
                    break;
                }
            };
            let instance = Instance::start(&self.world, pod.host, listener, Arc::clone(&pod.boot_faults));
            lock(&pod.state).instance = Some(Arc::clone(&instance));
            if self.rolling() {
                let (this, pod, instance) = (Arc::clone(&self), Arc::clone(&pod), Arc::clone(&instance));
                self.net.spawn(KUBELET, async move { this.probe(pod, instance).await });
            }
            // `TimeoutStartSec`, or a startup probe: without `startup_timeout` pounce waits for its application for ever.
            let patience = Duration::from_millis(START_PATIENCE_MS);
            if tokio::time::timeout(patience, instance.wait()).await.is_err() {
                if instance.history().ready.is_none() && self.kind() != PlatformKind::Bare {
                    crate::marks::hit("the platform killed a server that never got ready");
                    instance.kill(true);
                }
                instance.wait().await;
            }
            lock(&pod.state).ready_since = None;
            self.publish();
            if self.kind() == PlatformKind::Bare {
                break;
            }
            // A restart on purpose is not a crash.
            let history = instance.history();
            if history.stop.is_none() {
                failures += 1;
                sleep_ms(500 << failures.min(5)).await;
            } else {
                sleep_ms(1).await;
            }
        }
        lock(&pod.state).gone = true;
        self.changed.notify_waiters();
    }

    async fn listener(&self, host: HostId) -> std::io::Result<N::Listener> {
        if !self.world.scenario.platform.socket_activation {
            return self.net.bind(host).await;
        }
        let kept = {
            let kept = lock(&self.kept);
            kept.as_ref().and_then(|kept| self.net.keep_listening(kept))
        };
        if let Some(listener) = kept {
            return Ok(listener);
        }
        let listener = self.net.bind(host).await?;
        let handed_over = self.net.keep_listening(&listener);
        *lock(&self.kept) = Some(listener);
        handed_over.ok_or_else(|| std::io::ErrorKind::Unsupported.into())
    }

    /// The kubelet's readiness probe of one server.
    async fn probe(self: Arc<Self>, pod: Arc<Pod>, instance: Arc<Instance>) {
        let (period, threshold) = {
            let platform = &self.world.scenario.platform;
            (platform.readiness_period_ms, platform.readiness_failures.max(1))
        };
        let mut failures = 0;
        while !instance.is_over() {
            sleep_ms(period).await;
            let sent_ms = self.world.now_ms();
            let answered = tokio::time::timeout(Duration::from_secs(1), self.ask_health(pod.host)).await;
            let ready = matches!(answered, Ok(Some(200)));
            if let Ok(Some(_)) = answered {
                let answered_ms = self.world.now_ms();
                let refused = matches!(answered, Ok(Some(503)));
                self.world.probed(Probe { pod: pod.host, sent_ms, answered_ms, ready, refused });
            }
            failures = if ready { 0 } else { failures + 1 };
            let mut state = lock(&pod.state);
            let before = state.ready_since.is_some();
            if ready && !before && !instance.is_over() {
                state.ready_since = Some(self.world.now_ms());
            } else if failures >= threshold {
                state.ready_since = None;
            }
            let after = state.ready_since.is_some();
            drop(state);
            if before != after {
                self.world.trace.say(
                    "kubelet",
                    format!("pod-{} is {}", pod.host, if after { "ready" } else { "not ready" }),
                );
                self.publish();
            }
        }
    }

    async fn ask_health(&self, pod: HostId) -> Option<u16> {
        self.ask(pod, "/health").await
    }

    async fn ask(&self, pod: HostId, path: &str) -> Option<u16> {
        let stream = self.net.connect(KUBELET, pod).await.ok()?;
        let mut conn = HttpConn::new(stream, None, pod);
        let request = format!("GET {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n");
        conn.write(request.as_bytes()).await.ok()?;
        conn.read_answer(4096, Duration::ZERO).await.ok().map(|answer| answer.status)
    }

    /// Sends the balancers the endpoints as they are now; each learns of it after a delay of its own, in order.
    fn publish(self: &Arc<Self>) {
        self.changed.notify_waiters();
        let pods: Vec<HostId> = self
            .pods()
            .iter()
            .filter(|pod| {
                let state = lock(&pod.state);
                !self.rolling() || (state.ready_since.is_some() && !state.terminating)
            })
            .map(|pod| pod.host)
            .collect();
        let version = {
            let mut version = lock(&self.version);
            *version += 1;
            *version
        };
        for (index, front) in self.fronts.iter().enumerate() {
            let delay = {
                let mut rng = lock(&self.rng);
                self.world.scenario.balancers[index].propagation.draw(&mut rng)
            };
            let at = {
                let mut view = lock(&front.view);
                let at = Instant::now() + Duration::from_millis(delay);
                let at = view.last_due.map_or(at, |last| last.max(at));
                view.last_due = Some(at);
                at
            };
            let (front, world, pods) = (Arc::clone(front), Arc::clone(&self.world), pods.clone());
            let this = Arc::clone(self);
            self.net.spawn(KUBELET, async move {
                tokio::time::sleep_until(at).await;
                let mut view = lock(&front.view);
                if version > view.version {
                    view.version = version;
                    if view.pods != pods {
                        world.trace.say(format!("lb-{index}"), format!("knows pods {pods:?}"));
                    }
                    view.pods = pods;
                }
                drop(view);
                this.changed.notify_waiters();
            });
        }
    }

    /// Waits until `done` says so; false if that took too long.
    async fn until(&self, limit_ms: u64, mut done: impl FnMut() -> bool) -> bool {
        let end = self.world.now_ms() + limit_ms;
        loop {
            if done() {
                return true;
            }
            let now = self.world.now_ms();
            if now >= end {
                return false;
            }
            // Also by the clock: minReadySeconds passes without anything that changes.
            let step = Duration::from_millis((end - now).min(100));
            let _ = tokio::time::timeout(step, self.changed.notified()).await;
        }
    }

    /// The first pods. Returns when they serve and every balancer knows it, or after a while without that.
    pub async fn bring_up(self: &Arc<Self>) -> bool {
        let pods = self.world.scenario.platform.pods;
        for _ in 0..pods {
            self.create(1);
        }
        if !self.rolling() {
            self.publish();
        }
        let up = self
            .until(60_000, || {
                let now = self.world.now_ms();
                let min_ready = self.world.scenario.platform.min_ready_ms;
                let serving = self.pods().iter().all(|pod| {
                    let state = lock(&pod.state);
                    let serves = state.instance.as_ref().is_some_and(|i| i.history().ready.is_some());
                    // A pod that is not available yet is the first to be deleted.
                    serves && (!self.rolling() || state.ready_since.is_some_and(|at| at + min_ready <= now))
                });
                serving && self.fronts.iter().all(|front| front.knows() == pods as usize)
            })
            .await;
        self.world.trace.say("platform", if up { "everything is up" } else { "not everything came up" });
        up
    }

    /// The deploy, to its end. False if it did not end.
    pub async fn deploy(self: &Arc<Self>) -> bool {
        self.world.trace.say("platform", "the deploy begins");
        match self.kind() {
            PlatformKind::Kubernetes | PlatformKind::Ecs => self.roll().await,
            PlatformKind::Systemd => {
                let Some(pod) = self.pods().into_iter().next() else { return false };
                let instance = lock(&pod.state).instance.clone();
                if let Some(instance) = instance {
                    self.stop(&instance, 0).await;
                }
                self.until(PATIENCE_MS, || {
                    let instance = lock(&pod.state).instance.clone();
                    instance.is_some_and(|i| {
                        let history = i.history();
                        !i.is_over() && history.ready.is_some() && history.stop.is_none()
                    })
                })
                .await
            }
            PlatformKind::Bare => {
                if let Some(pod) = self.pods().into_iter().next() {
                    let instance = lock(&pod.state).instance.clone();
                    if let Some(instance) = instance {
                        instance.signal(Signal::Hup);
                    }
                }
                true
            }
        }
    }

    async fn roll(self: &Arc<Self>) -> bool {
        let platform = self.world.scenario.platform.clone();
        let pods = platform.pods;
        let this = Arc::clone(self);
        self.until(PATIENCE_MS, move || {
            let now = this.world.now_ms();
            let all = this.pods();
            let counts = |pod: &&Arc<Pod>| {
                let state = lock(&pod.state);
                !state.gone && !state.terminating
            };
            let available = |pod: &&Arc<Pod>| {
                counts(pod)
                    && lock(&pod.state).ready_since.is_some_and(|at| at + platform.min_ready_ms <= now)
            };
            let new = all.iter().filter(|p| p.revision == 2).filter(counts).count() as u32;
            let mut old: Vec<_> = all.iter().filter(|p| p.revision == 1).filter(counts).cloned().collect();
            let mut missing = pods.saturating_sub(new);
            let mut room = (pods + platform.max_surge).saturating_sub(new + old.len() as u32);
            while missing > 0 && room > 0 {
                this.create(2);
                missing -= 1;
                room -= 1;
            }
            let mut serving = all.iter().filter(available).count() as u32;
            let floor = pods.saturating_sub(platform.max_unavailable);
            // Those that do not serve go first.
            old.sort_by_key(|pod| lock(&pod.state).ready_since.is_some());
            for pod in &old {
                let serves = available(&pod);
                if serves && serving <= floor {
                    break;
                }
                serving -= u32::from(serves);
                this.delete(pod);
            }
            let done = all.iter().filter(|p| p.revision == 2).filter(available).count() as u32 >= pods;
            done && all.iter().all(|p| p.revision == 2 || lock(&p.state).gone)
        })
        .await
    }

    /// Deletes a pod: endpoints and kubelet learn of it at once, each with its own pace.
    fn delete(self: &Arc<Self>, pod: &Arc<Pod>) {
        lock(&pod.state).terminating = true;
        self.world.trace.say("platform", format!("pod-{} is deleted", pod.host));
        self.publish();
        let instance = lock(&pod.state).instance.clone();
        let Some(instance) = instance else {
            self.changed.notify_waiters();
            return;
        };
        let (this, pre_stop) = (Arc::clone(self), self.world.scenario.platform.pre_stop_ms);
        self.net.spawn(KUBELET, async move { this.stop(&instance, pre_stop).await });
    }

    /// preStop, SIGTERM, grace, SIGKILL.
    async fn stop(&self, instance: &Arc<Instance>, pre_stop_ms: u64) {
        let platform = &self.world.scenario.platform;
        let (patience, grace) = match self.kind() {
            // One period for both; a hook that outlives it gets two more seconds for the SIGTERM.
            PlatformKind::Kubernetes => {
                let hook = pre_stop_ms.min(platform.grace_ms);
                let left = platform.grace_ms - hook;
                (hook, if left == 0 { 2000 } else { left })
            }
            _ => (pre_stop_ms, platform.grace_ms),
        };
        let _ = tokio::time::timeout(Duration::from_millis(patience), instance.wait()).await;
        if platform.signal_whole_group {
            instance.terminate_workers();
        }
        instance.signal(Signal::Term);
        if tokio::time::timeout(Duration::from_millis(grace), instance.wait()).await.is_err() {
            crate::marks::hit("the platform's grace period ran out");
            instance.kill(true);
        }
    }

    pub fn plan_faults(self: &Arc<Self>) {
        for fault in self.world.scenario.faults.clone() {
            let this = Arc::clone(self);
            self.net.spawn(KUBELET, async move {
                sleep_ms(fault.at_ms.saturating_sub(this.world.now_ms())).await;
                this.apply(&fault);
            });
        }
    }

    fn apply(&self, fault: &Fault) {
        let Some(pod) = self.pods().get(fault.pod as usize).cloned() else { return };
        crate::marks::hit(fault.what.name());
        match fault.what {
            FaultKind::BootCrash { times } => return lock(&pod.boot_faults).crashes += times,
            FaultKind::BootHang { times } => return lock(&pod.boot_faults).hangs += times,
            FaultKind::StallLink { for_ms } => {
                self.world.trace.say("fault", format!("the link of pod-{} stalls for {for_ms} ms", pod.host));
                return self.net.stall(pod.host, Instant::now() + Duration::from_millis(for_ms));
            }
            FaultKind::OutOfDescriptors { for_ms } => {
                self.world
                    .trace
                    .say("fault", format!("pod-{} is out of descriptors for {for_ms} ms", pod.host));
                self.net.out_of_descriptors(pod.host, true);
                lock(&pod.boot_faults).no_descriptors = true;
                let (net, host) = (self.net.clone(), pod.host);
                self.net.spawn(KUBELET, async move {
                    sleep_ms(for_ms).await;
                    net.out_of_descriptors(host, false);
                    lock(&pod.boot_faults).no_descriptors = false;
                });
                return;
            }
            _ => {}
        }
        let Some(instance) = lock(&pod.state).instance.clone() else { return };
        match fault.what {
            FaultKind::KillWorker { worker } => instance.kill_worker(worker),
            FaultKind::FreezeWorker { worker, for_ms } => instance.freeze(Some(worker), for_ms),
            FaultKind::FreezeSupervisor { for_ms } => instance.freeze(None, for_ms),
            FaultKind::KillSupervisor => instance.kill(self.rolling()),
            FaultKind::TermWorker { worker } => instance.terminate_worker(worker),
            FaultKind::Term => instance.signal(Signal::Term),
            FaultKind::Int => instance.signal(Signal::Int),
            FaultKind::Quit => instance.signal(Signal::Quit),
            FaultKind::Hup => instance.signal(Signal::Hup),
            _ => {}
        }
    }

    /// After the last fault: whether everything that is to serve serves again. Whose last worker hangs while it starts
    /// waits for it as long as it takes, and no readiness probe restarts a server: nothing can be asked of it.
    pub async fn heal(self: &Arc<Self>) -> bool {
        let pods = self.world.scenario.platform.pods as usize;
        self.until(PATIENCE_MS, || {
            let hanging = self
                .pods()
                .iter()
                .filter(|pod| {
                    let state = lock(&pod.state);
                    !state.terminating && state.instance.as_ref().is_some_and(|i| !i.is_over() && i.hangs())
                })
                .count();
            let wanted = pods.saturating_sub(hanging);
            let serving = self
                .pods()
                .iter()
                .filter(|pod| {
                    let state = lock(&pod.state);
                    !state.terminating
                        && state.instance.as_ref().is_some_and(|i| {
                            let history = i.history();
                            !i.is_over() && !i.hangs() && history.ready.is_some() && history.stop.is_none()
                        })
                })
                .count();
            serving >= wanted && self.fronts.iter().all(|front| front.knows() >= wanted)
        })
        .await
    }

    /// Whether every server that was not told to stop answers a request.
    pub async fn answer_all(&self) {
        // Idle connections of the balancers count against max_connections, and a probe beside them is turned away rightly.
        self.fronts.iter().for_each(|front| front.close_idle());
        sleep_ms(1000).await;
        for pod in self.pods() {
            let instance = lock(&pod.state).instance.clone();
            let Some(instance) = instance else { continue };
            let history = instance.history();
            if instance.is_over()
                || instance.hangs()
                || history.stop.is_some()
                || history.ready.is_none()
                || history.gave_up.is_some()
            {
                continue;
            }
            let limit = Duration::from_secs(30);
            // At max_connections a probe is turned away as well; those that are there come to an end.
            let tries = if self.world.scenario.server.max_connections.is_some() { 30 } else { 1 };
            let mut answered = false;
            for turn in 0..tries {
                if turn > 0 {
                    sleep_ms(1000).await;
                }
                let asked = tokio::time::timeout(limit, self.ask(pod.host, "/health")).await;
                answered = matches!(asked, Ok(Some(200)));
                if answered || instance.is_over() {
                    break;
                }
            }
            if !answered && !instance.is_over() {
                self.world.problem(format!("pod-{}: serves, and does not answer", pod.host));
            }
        }
    }

    /// Stops everything. Says what did not stop.
    pub async fn shut_down(self: &Arc<Self>) {
        *lock(&self.closing) = true;
        self.world.trace.say("platform", "everything is stopped");
        for front in &self.fronts {
            front.close_idle();
        }
        let budget = {
            let server = &self.world.scenario.server;
            server.drain_delay_ms + server.shutdown_timeout_ms + 10_000
        };
        for pod in self.pods() {
            let instance = lock(&pod.state).instance.clone();
            if let Some(instance) = instance {
                instance.signal(Signal::Term);
            }
        }
        for pod in self.pods() {
            let instance = lock(&pod.state).instance.clone();
            let Some(instance) = instance else { continue };
            if tokio::time::timeout(Duration::from_millis(budget), instance.wait()).await.is_err() {
                self.world.problem(format!("pod-{} does not stop", pod.host));
                instance.kill(true);
            }
        }
    }
}
