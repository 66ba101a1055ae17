//! What a rollout is drawn from: the server's policy, the platform, the network, the clients, the faults.

use std::time::Duration;

use pounce_core::Policy;
use pounce_core::event::Signal;

use crate::rng::Rng;
use crate::scenario::{self, FaultKind, PlatformKind, RequestKind, SLOW_READ_BYTES, Scenario};

/// Whether something of this probability happens. No draw where there is no chance.
pub(crate) fn happens(rng: &mut Rng, probability: f64) -> bool {
    probability > 0.0 && rng.unit() < probability
}

/// A duration that differs from one occasion to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    Fixed(Duration),
    /// Anything from the first to the second.
    Between(Duration, Duration),
    /// Exponential with this mean, cut off at the second.
    Exponential(Duration, Duration),
    /// Log-normal with this median and sigma, cut off at the last.
    LogNormal(Duration, f64, Duration),
    /// The first, or with the probability given the second.
    Either(Duration, Duration, f64),
}

impl Span {
    pub const ZERO: Span = Span::Fixed(Duration::ZERO);

    /// One occasion.
    pub fn draw(&self, rng: &mut Rng) -> Duration {
        match *self {
            Span::Fixed(value) => value,
            Span::Between(least, most) => {
                Duration::from_nanos(rng.between(least.as_nanos() as u64, most.as_nanos() as u64))
            }
            Span::Exponential(mean, most) => mean.mul_f64(-(1.0 - rng.unit()).ln()).min(most),
            Span::LogNormal(median, sigma, most) => {
                // Box and Muller.
                let (u, v) = (1.0 - rng.unit(), rng.unit());
                let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                median.mul_f64((sigma * normal).exp().min(1e6)).min(most)
            }
            Span::Either(usual, rare, share) => {
                if happens(rng, share) {
                    rare
                } else {
                    usual
                }
            }
        }
    }

    /// The longest that can be drawn.
    pub fn longest(&self) -> Duration {
        match *self {
            Span::Fixed(value) => value,
            Span::Between(_, most) | Span::Exponential(_, most) | Span::LogNormal(_, _, most) => most,
            Span::Either(usual, rare, share) => {
                if share > 0.0 {
                    usual.max(rare)
                } else {
                    usual
                }
            }
        }
    }

    /// The shortest that can be drawn.
    pub fn shortest(&self) -> Duration {
        match *self {
            Span::Fixed(value) => value,
            Span::Between(least, _) => least,
            Span::Exponential(..) | Span::LogNormal(..) => Duration::ZERO,
            Span::Either(usual, rare, share) => {
                if share > 0.0 {
                    usual.min(rare)
                } else {
                    usual
                }
            }
        }
    }
}

/// How connections find a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Each client keeps its own connection; where it goes is decided when it is made (kube-proxy, NLB).
    L4,
    /// A proxy keeps pools of connections and picks a pod for each request (ingress, ALB, mesh).
    L7,
}

/// What is tried again without the client's knowing, at most twice. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retry {
    Nothing,
    /// A connection that was refused or timed out: no request was sent.
    Connect,
    /// Also an idempotent request on a used connection that ended before a byte of the answer (RFC 9110 §9.2.2).
    Stale,
    /// Also one that was answered with 503.
    Unavailable,
}

/// What says that a pod may get traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub initial_delay: Duration,
    pub period: Duration,
    pub successes: u32,
    /// In a row, of a pod that was ready.
    pub failures: u32,
    /// The probe opens a connection and asks nothing: it succeeds as soon as the port listens.
    pub connect_only: bool,
}

/// How new code comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    Rolling {
        max_surge: u32,
        max_unavailable: u32,
    },
    /// All old ones first, then the new ones: Kubernetes' `Recreate`, and a restart of a systemd unit.
    Recreate,
    /// SIGHUP: new workers in the same pod.
    Reload,
}

/// Something that goes wrong at a time, in a pod by the order in which pods are made, from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    pub at: Duration,
    pub pod: u32,
    pub what: Trouble,
}

/// What goes wrong. Workers are counted from 0, over all that were ever started in the pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    KillWorker {
        worker: u32,
    },
    TermWorker {
        worker: u32,
    },
    /// The whole container is killed, as by the kernel out of memory.
    KillContainer,
    /// The pod's processes stand still (SIGSTOP, CPU throttling, a page-in).
    Freeze {
        lasts: Duration,
    },
    FreezeWorker {
        worker: u32,
        lasts: Duration,
    },
    FreezeSupervisor {
        lasts: Duration,
    },
    /// A signal to the supervisor.
    Signal(Signal),
    /// So many workers started from here on end before they are ready.
    BootCrash {
        times: u32,
    },
    /// So many workers started from here on never get ready.
    BootHang {
        times: u32,
    },
    /// Nothing can be accepted.
    NoAccept {
        lasts: Duration,
    },
    /// Segments to and from the pod wait.
    StallLink {
        lasts: Duration,
    },
}

/// Stands between clients and pods.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BalancerPlan {
    pub layer: Layer,
    /// From a change of the endpoints to the moment it acts on it.
    pub propagation: Span,
    /// L7: how long an idle connection is kept.
    pub pool_idle: Duration,
    /// L7: what it tries again by itself.
    pub retry: Retry,
}

/// Somebody who sends requests, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientPlan {
    /// Index into the balancers.
    pub balancer: u32,
    pub start: Duration,
    /// How many; `u32::MAX`: until the run's end.
    pub requests: u32,
    pub think: Span,
    /// Behind L4: how long it keeps its own connection idle. Zero: one connection for each request.
    pub keep: Duration,
    pub retry: Retry,
    /// How long it waits for an answer.
    pub timeout: Option<Duration>,
    /// How long the application takes to answer it.
    pub takes: Span,
    /// Probability that an answer comes as a stream: its head after `takes`, then so many parts, so far apart.
    pub streaming: f64,
    pub stream_parts: u32,
    pub stream_gap: Span,
    /// Probability that a head arrives in two parts, and how far apart.
    pub slow_head: f64,
    pub head_gap: Span,
    /// Probability of a request body, its parts, and how far apart they are sent.
    pub upload: f64,
    pub upload_parts: u32,
    pub upload_gap: Span,
    /// The answer is taken in so many parts after the first, so far apart. 0: at once.
    pub read_parts: u32,
    pub read_gap: Duration,
    /// Probability that a request may not be sent twice.
    pub not_idempotent: f64,
    /// Requests sent right behind the first one, without waiting.
    pub pipelined: u32,
    /// Probability that the client leaves before its answer, and when.
    pub leaves: f64,
    pub patience: Span,
}

impl Default for ClientPlan {
    fn default() -> Self {
        ClientPlan {
            balancer: 0,
            start: Duration::from_secs(1),
            requests: u32::MAX,
            think: Span::Exponential(Duration::from_secs(2), Duration::from_secs(20)),
            keep: Duration::from_secs(60),
            retry: Retry::Nothing,
            timeout: None,
            takes: Span::Exponential(Duration::from_millis(80), Duration::from_secs(2)),
            streaming: 0.0,
            stream_parts: 0,
            stream_gap: Span::ZERO,
            slow_head: 0.0,
            head_gap: Span::ZERO,
            upload: 0.0,
            upload_parts: 0,
            upload_gap: Span::ZERO,
            read_parts: 0,
            read_gap: Duration::ZERO,
            not_idempotent: 0.3,
            pipelined: 0,
            leaves: 0.0,
            patience: Span::ZERO,
        }
    }
}

/// A rollout to be. Everything a run does follows from this value and a seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    // The server.
    pub policy: Policy,
    pub workers: u32,
    /// From the container's start to the moment its port listens.
    pub process_start: Span,
    /// From a worker's start to its readiness.
    pub boot: Span,
    /// The application's own shutdown.
    pub app_shutdown: Span,
    // The platform.
    pub replicas: u32,
    pub strategy: Strategy,
    /// When the rollout begins.
    pub deploy_at: Duration,
    pub min_ready: Duration,
    /// From the deletion (as the node acts on it) to SIGKILL.
    pub grace: Duration,
    pub pre_stop: Duration,
    /// What a node adds to a grace period that preStop has used up (kubelet: 2 s).
    pub last_grace: Duration,
    /// From a pod's creation to the start of its container.
    pub schedule: Span,
    /// From a pod's deletion to the moment its node acts on it.
    pub kubelet: Span,
    /// `None`: a pod gets traffic as soon as its container runs.
    pub probe: Option<Probe>,
    /// A worker's processes get SIGTERM too (systemd's `KillMode=control-group`).
    pub term_to_all: bool,
    /// There is one address, whoever listens on it, and nobody watches endpoints (a unit behind a proxy on one machine).
    pub one_address: bool,
    /// The listening socket is the service manager's and outlives the server.
    pub socket_activation: bool,
    // The way in.
    /// One way, for each segment.
    pub latency: Span,
    pub balancers: Vec<BalancerPlan>,
    pub clients: Vec<ClientPlan>,
    // The run.
    /// Between the rollout's end and the end of traffic that has no end of its own.
    pub margin: Duration,
    pub faults: Vec<Fault>,
}

impl Default for Plan {
    /// Two pods with Kubernetes' defaults behind a proxy, well configured.
    fn default() -> Self {
        let ms = Duration::from_millis;
        let s = Duration::from_secs;
        Plan {
            policy: Policy::default(),
            workers: 1,
            process_start: Span::Fixed(ms(50)),
            boot: Span::Between(ms(300), ms(900)),
            app_shutdown: Span::Fixed(ms(5)),
            replicas: 2,
            strategy: Strategy::Rolling { max_surge: 1, max_unavailable: 0 },
            deploy_at: s(2),
            min_ready: Duration::ZERO,
            grace: s(30),
            pre_stop: s(5),
            last_grace: s(2),
            schedule: Span::Between(ms(200), ms(1500)),
            kubelet: Span::Between(ms(5), ms(500)),
            probe: Some(Probe {
                initial_delay: ms(0),
                period: s(1),
                successes: 1,
                failures: 3,
                connect_only: false,
            }),
            term_to_all: false,
            one_address: false,
            socket_activation: false,
            latency: Span::Between(Duration::from_micros(200), ms(2)),
            balancers: vec![BalancerPlan {
                layer: Layer::L7,
                propagation: Span::Between(ms(50), s(3)),
                pool_idle: s(60),
                retry: Retry::Nothing,
            }],
            clients: vec![ClientPlan::default(); 4],
            margin: s(1),
            faults: Vec::new(),
        }
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl From<scenario::Dist> for Span {
    fn from(dist: scenario::Dist) -> Span {
        use scenario::Dist;
        match dist {
            Dist::Fixed { ms: value } => Span::Fixed(ms(value)),
            Dist::Uniform { min_ms, max_ms } => Span::Between(ms(min_ms.min(max_ms)), ms(max_ms)),
            Dist::Exponential { mean_ms, max_ms } => Span::Exponential(ms(mean_ms), ms(max_ms)),
            Dist::LogNormal { median_ms, sigma, max_ms } => Span::LogNormal(ms(median_ms), sigma, ms(max_ms)),
            Dist::Bimodal { short_ms, long_ms, long_percent } => {
                Span::Either(ms(short_ms), ms(long_ms), long_percent as f64 / 100.0)
            }
        }
    }
}

impl From<scenario::Retry> for Retry {
    fn from(retry: scenario::Retry) -> Retry {
        match retry {
            scenario::Retry::Never => Retry::Nothing,
            scenario::Retry::Connect => Retry::Connect,
            scenario::Retry::Stale => Retry::Stale,
            scenario::Retry::Unavailable => Retry::Unavailable,
        }
    }
}

impl Plan {
    /// The plan of a scenario, which the tier that runs hyper takes as it is.
    ///
    /// # Errors
    /// As [`Scenario::check`].
    pub fn of(scenario: &Scenario) -> Result<Plan, String> {
        scenario.check()?;
        let (server, platform) = (&scenario.server, &scenario.platform);
        let kubernetes = platform.kind == PlatformKind::Kubernetes;
        let rolling = kubernetes || platform.kind == PlatformKind::Ecs;
        Ok(Plan {
            policy: server.policy()?,
            workers: server.workers,
            process_start: Span::ZERO,
            boot: scenario.app.boot.into(),
            app_shutdown: scenario.app.shutdown.into(),
            replicas: platform.pods,
            strategy: match platform.kind {
                PlatformKind::Kubernetes | PlatformKind::Ecs => Strategy::Rolling {
                    max_surge: platform.max_surge,
                    max_unavailable: platform.max_unavailable,
                },
                PlatformKind::Systemd => Strategy::Recreate,
                PlatformKind::Bare => Strategy::Reload,
            },
            deploy_at: ms(platform.deploy_at_ms),
            min_ready: if rolling { ms(platform.min_ready_ms) } else { Duration::ZERO },
            // `stopTimeout` and `TimeoutStopSec` begin with the signal, the grace period of Kubernetes before preStop.
            grace: if kubernetes {
                ms(platform.grace_ms)
            } else {
                ms(platform.grace_ms + platform.pre_stop_ms)
            },
            pre_stop: ms(platform.pre_stop_ms),
            last_grace: if kubernetes { Duration::from_secs(2) } else { Duration::ZERO },
            // The service manager starts the next server right after the last one.
            schedule: if platform.kind == PlatformKind::Systemd {
                Span::Fixed(ms(1))
            } else {
                platform.pod_start.into()
            },
            kubelet: Span::ZERO,
            probe: rolling.then(|| Probe {
                initial_delay: Duration::ZERO,
                period: ms(platform.readiness_period_ms),
                successes: 1,
                failures: platform.readiness_failures.max(1),
                connect_only: false,
            }),
            term_to_all: platform.signal_whole_group,
            one_address: !rolling,
            socket_activation: platform.socket_activation,
            latency: scenario.network.latency.into(),
            balancers: scenario
                .balancers
                .iter()
                .map(|b| BalancerPlan {
                    layer: match b.layer {
                        scenario::Layer::L4 => Layer::L4,
                        scenario::Layer::L7 => Layer::L7,
                    },
                    propagation: b.propagation.into(),
                    pool_idle: ms(b.idle_timeout_ms),
                    retry: b.retry.into(),
                })
                .collect(),
            clients: scenario.clients.iter().map(|client| client_of(scenario, client)).collect(),
            margin: Duration::from_secs(1),
            faults: scenario.faults.iter().map(fault_of).collect(),
        })
    }
}

fn client_of(scenario: &Scenario, client: &scenario::Client) -> ClientPlan {
    let mut plan = ClientPlan {
        balancer: client.balancer as u32,
        start: ms(client.start_ms),
        requests: client.requests,
        think: client.think.into(),
        keep: if client.keep_alive { Duration::from_secs(24 * 3600) } else { Duration::ZERO },
        retry: client.retry.into(),
        timeout: Some(ms(client.timeout_ms)),
        takes: scenario.app.duration.into(),
        not_idempotent: 0.0,
        ..ClientPlan::default()
    };
    match client.request {
        RequestKind::Get => {}
        RequestKind::HalfHead { gap_ms } => {
            plan.slow_head = 1.0;
            plan.head_gap = Span::Fixed(ms(gap_ms));
        }
        RequestKind::Upload { chunks, gap_ms, .. } => {
            plan.upload = 1.0;
            plan.upload_parts = chunks;
            plan.upload_gap = Span::Fixed(ms(gap_ms));
        }
        RequestKind::Stream { chunks, gap_ms, .. } => {
            plan.streaming = 1.0;
            plan.stream_parts = chunks;
            plan.stream_gap = Span::Fixed(ms(gap_ms));
        }
        RequestKind::SlowReader { bytes, pause_ms } => {
            plan.read_parts = (u64::from(bytes) / SLOW_READ_BYTES) as u32;
            plan.read_gap = ms(pause_ms);
        }
        // This tier has no connection whose answers and requests overlap: one slow thing after the other.
        RequestKind::EarlyHead { bytes, pause_ms, gap_ms } => {
            plan.read_parts = (u64::from(bytes) / SLOW_READ_BYTES) as u32;
            plan.read_gap = ms(pause_ms);
            plan.slow_head = 0.5;
            plan.head_gap = Span::Fixed(ms(gap_ms));
        }
        RequestKind::Pipelined { depth } => plan.pipelined = depth.saturating_sub(1),
        RequestKind::Disconnect { after_ms, .. } => {
            plan.leaves = 1.0;
            plan.patience = Span::Fixed(ms(after_ms));
        }
    }
    plan
}

fn fault_of(fault: &scenario::Fault) -> Fault {
    let what = match fault.what {
        FaultKind::KillWorker { worker } => Trouble::KillWorker { worker: worker.saturating_sub(1) },
        FaultKind::TermWorker { worker } => Trouble::TermWorker { worker: worker.saturating_sub(1) },
        FaultKind::FreezeWorker { worker, for_ms } => {
            Trouble::FreezeWorker { worker: worker.saturating_sub(1), lasts: ms(for_ms) }
        }
        FaultKind::FreezeSupervisor { for_ms } => Trouble::FreezeSupervisor { lasts: ms(for_ms) },
        FaultKind::KillSupervisor => Trouble::KillContainer,
        FaultKind::Term => Trouble::Signal(Signal::Term),
        FaultKind::Int => Trouble::Signal(Signal::Int),
        FaultKind::Quit => Trouble::Signal(Signal::Quit),
        FaultKind::Hup => Trouble::Signal(Signal::Hup),
        FaultKind::BootCrash { times } => Trouble::BootCrash { times },
        FaultKind::BootHang { times } => Trouble::BootHang { times },
        FaultKind::StallLink { for_ms } => Trouble::StallLink { lasts: ms(for_ms) },
        FaultKind::OutOfDescriptors { for_ms } => Trouble::NoAccept { lasts: ms(for_ms) },
    };
    Fault { at: ms(fault.at_ms), pod: fault.pod, what }
}
