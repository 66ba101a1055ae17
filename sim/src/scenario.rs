//! A scenario: everything that a simulated deploy consists of, as data. Drawn from a seed, or read from a file.
//!
//! Seeds go stale when the generator changes, files do not: what was found is kept as a file under `regressions/`.
//! Every duration is a whole number of milliseconds; the simulated clock is exact to that.

use std::fmt;

use pounce_core::policy::{FRESH_LINGER, Policy, PolicySettings};
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// Version of the file format.
pub const VERSION: u32 = 1;

/// One simulated deploy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub version: u32,
    /// What the scenario is for, to a reader.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// What happens by chance inside the run.
    pub seed: Seed,
    pub profile: Profile,
    pub server: Server,
    pub platform: Platform,
    pub network: Network,
    pub app: App,
    #[serde(default)]
    pub balancers: Vec<Balancer>,
    #[serde(default)]
    pub clients: Vec<Client>,
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// A seed, written in hexadecimal (TOML has no unsigned 64-bit integers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seed(pub u64);

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl From<Seed> for String {
    fn from(seed: Seed) -> String {
        seed.to_string()
    }
}

impl TryFrom<String> for Seed {
    type Error = String;

    fn try_from(text: String) -> Result<Seed, String> {
        text.parse()
    }
}

impl std::str::FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Seed, String> {
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        number
            .map(Seed)
            .map_err(|_| format!("seed is {text:?}: it must be a number, decimal or hexadecimal with 0x"))
    }
}

/// What kind of scenario the generator draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// One pod, a handful of requests: the easiest to read.
    Lite,
    /// A deploy with settings that are right: no request may fail.
    Rollout,
    /// Faults.
    Chaos,
    /// Settings that are wrong on purpose: failures must be explained.
    Misconfigured,
}

impl Profile {
    pub const ALL: [Profile; 4] = [Profile::Lite, Profile::Rollout, Profile::Chaos, Profile::Misconfigured];

    pub fn name(self) -> &'static str {
        match self {
            Profile::Lite => "lite",
            Profile::Rollout => "rollout",
            Profile::Chaos => "chaos",
            Profile::Misconfigured => "misconfigured",
        }
    }
}

/// pounce's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub workers: u32,
    pub drain_delay_ms: u64,
    pub shutdown_timeout_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout_ms: Option<u64>,
    pub keepalive_linger_ms: u64,
    pub keep_alive_timeout_ms: u64,
    pub header_timeout_ms: u64,
    pub body_timeout_ms: u64,
    pub write_timeout_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
}

impl Server {
    /// The policy that production code makes of these settings.
    ///
    /// # Errors
    /// A value that pounce refuses.
    pub fn policy(&self) -> Result<Policy, String> {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        Policy::new(PolicySettings {
            shutdown_timeout: seconds(self.shutdown_timeout_ms),
            startup_timeout: self.startup_timeout_ms.map(seconds),
            drain_delay: seconds(self.drain_delay_ms),
            keepalive_linger: seconds(self.keepalive_linger_ms),
            keep_alive_timeout: seconds(self.keep_alive_timeout_ms),
            header_timeout: seconds(self.header_timeout_ms),
            body_timeout: seconds(self.body_timeout_ms),
            write_timeout: seconds(self.write_timeout_ms),
            request_timeout: self.request_timeout_ms.map(seconds),
            max_connections: self.max_connections,
        })
        .map_err(|error| error.to_string())
    }
}

/// Who starts and stops the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlatformKind {
    /// Deployment, kubelet, endpoints: preStop, SIGTERM, grace, SIGKILL.
    Kubernetes,
    /// `systemctl restart`: stop, then start, one instance.
    Systemd,
    /// A rolling service update: deregistration, its delay, SIGTERM, stopTimeout, SIGKILL.
    Ecs,
    /// A process that somebody sends signals to; `SIGHUP` is the deploy.
    Bare,
}

/// What the platform does during the run, and by which of its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    pub kind: PlatformKind,
    /// Instances that are to serve. 1 with systemd and on bare metal.
    pub pods: u32,
    /// When the deploy begins.
    pub deploy_at_ms: u64,
    pub max_surge: u32,
    pub max_unavailable: u32,
    pub min_ready_ms: u64,
    /// Kubernetes: sleep of the preStop hook. ECS: deregistration delay. Otherwise 0.
    pub pre_stop_ms: u64,
    /// `terminationGracePeriodSeconds` (it includes preStop), `TimeoutStopSec`, `stopTimeout`.
    pub grace_ms: u64,
    pub readiness_period_ms: u64,
    pub readiness_failures: u32,
    /// From the order for a pod to its process.
    pub pod_start: Dist,
    /// systemd: the listening socket is systemd's and outlives the service.
    #[serde(default)]
    pub socket_activation: bool,
    /// systemd's `KillMode=control-group`: SIGTERM goes to the workers too, in the same instant.
    #[serde(default)]
    pub signal_whole_group: bool,
}

/// The wires.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// One way, for each segment. Segments of one connection never overtake one another.
    pub latency: Dist,
}

/// The application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// From the request to its response head.
    pub duration: Dist,
    /// From the worker's process to the application's readiness.
    pub boot: Dist,
    /// How long `lifespan.shutdown` takes.
    pub shutdown: Dist,
}

/// On which layer a balancer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Chooses a pod for each connection; a connection stays where it is.
    L4,
    /// Chooses a pod for each request, over a pool of keep-alive connections of its own.
    L7,
}

/// Stands between clients and pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balancer {
    pub layer: Layer,
    /// From a change of the endpoints to its effect here.
    pub propagation: Dist,
    /// L7: how long an idle connection to a pod is kept.
    pub idle_timeout_ms: u64,
    /// L7: what it tries again by itself.
    pub retry: Retry,
}

/// What is tried again, at most twice. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    Never,
    /// The connection was refused.
    Connect,
    /// A reused connection ended before the first byte of a response (RFC 9110 §9.2.2).
    Stale,
    /// The answer is 503.
    Unavailable,
}

/// Somebody who sends requests, one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Index into [`Scenario::balancers`].
    pub balancer: usize,
    pub start_ms: u64,
    pub requests: u32,
    /// Pause between a response and the next request.
    pub think: Dist,
    pub keep_alive: bool,
    pub retry: Retry,
    pub request: RequestKind,
    /// When it gives up on a response.
    pub timeout_ms: u64,
}

/// How a client sends a request and reads its response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum RequestKind {
    Get,
    /// The head in two pieces.
    HalfHead {
        gap_ms: u64,
    },
    /// A body in chunks with pauses. `chunked`: transfer coding, else content-length.
    Upload {
        chunks: u32,
        chunk_bytes: u32,
        gap_ms: u64,
        chunked: bool,
    },
    /// The application streams its answer.
    Stream {
        chunks: u32,
        chunk_bytes: u32,
        gap_ms: u64,
    },
    /// A large answer, read with pauses.
    SlowReader {
        bytes: u32,
        pause_ms: u64,
    },
    /// Several requests at once on one connection.
    Pipelined {
        depth: u32,
    },
    /// The client goes away after a while, mid-request.
    Disconnect {
        after_ms: u64,
    },
}

/// Something that goes wrong at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub at_ms: u64,
    /// The pod it happens to, by the order in which pods were made, from 0. No such pod: nothing happens.
    pub pod: u32,
    #[serde(flatten)]
    pub what: FaultKind,
}

/// What goes wrong. Workers are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum FaultKind {
    /// SIGKILL, or the OOM killer.
    KillWorker {
        worker: u32,
    },
    /// The worker gets no CPU (SIGSTOP, throttling, a stuck application).
    FreezeWorker {
        worker: u32,
        for_ms: u64,
    },
    FreezeSupervisor {
        for_ms: u64,
    },
    KillSupervisor,
    /// SIGTERM to one worker.
    TermWorker {
        worker: u32,
    },
    /// A signal to the supervisor.
    Term,
    Int,
    Quit,
    Hup,
    /// Workers started from here on, so many of them, end before they are ready.
    BootCrash {
        times: u32,
    },
    /// Workers started from here on, so many of them, never get ready.
    BootHang {
        times: u32,
    },
    /// Segments to and from the pod wait.
    StallLink {
        for_ms: u64,
    },
    /// The pod's processes can open no descriptor.
    OutOfDescriptors {
        for_ms: u64,
    },
}

/// A duration by chance, in whole milliseconds, always bounded: what is right can then be decided.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", deny_unknown_fields)]
pub enum Dist {
    Fixed {
        ms: u64,
    },
    Uniform {
        min_ms: u64,
        max_ms: u64,
    },
    Exponential {
        mean_ms: u64,
        max_ms: u64,
    },
    LogNormal {
        median_ms: u64,
        sigma: f64,
        max_ms: u64,
    },
    /// Mostly `short_ms`; `long_ms` in so many of 100.
    Bimodal {
        short_ms: u64,
        long_ms: u64,
        long_percent: u64,
    },
}

impl Dist {
    pub const ZERO: Dist = Dist::Fixed { ms: 0 };

    /// Never longer than this.
    pub fn max_ms(&self) -> u64 {
        match *self {
            Dist::Fixed { ms } => ms,
            Dist::Uniform { max_ms, .. }
            | Dist::Exponential { max_ms, .. }
            | Dist::LogNormal { max_ms, .. } => max_ms,
            Dist::Bimodal { short_ms, long_ms, long_percent } => {
                if long_percent == 0 {
                    short_ms
                } else {
                    short_ms.max(long_ms)
                }
            }
        }
    }

    /// One value, in milliseconds.
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        match *self {
            Dist::Fixed { ms } => ms,
            Dist::Uniform { min_ms, max_ms } => rng.between(min_ms.min(max_ms), max_ms),
            Dist::Exponential { mean_ms, max_ms } => {
                ((-(1.0 - rng.unit()).ln() * mean_ms as f64) as u64).min(max_ms)
            }
            Dist::LogNormal { median_ms, sigma, max_ms } => {
                // Box and Muller.
                let (u, v) = (1.0 - rng.unit(), rng.unit());
                let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                ((median_ms as f64 * (sigma * normal).exp()) as u64).min(max_ms)
            }
            Dist::Bimodal { short_ms, long_ms, long_percent } => {
                if rng.chance(long_percent) {
                    long_ms
                } else {
                    short_ms
                }
            }
        }
    }
}

/// An inequality that must hold if no request is to fail, and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What must hold, in the names of the settings.
    pub rule: &'static str,
    pub have_ms: u64,
    pub need_ms: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} ms against {} ms)", self.rule, self.have_ms, self.need_ms)
    }
}

/// A margin that every inequality needs beside the figures in it: descriptors passed between processes, a connection's
/// task to be polled, times rounded to the next millisecond.
pub const SLACK_MS: u64 = 20;

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong, with line and column, or a value out of range.
    pub fn from_toml(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Writes a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# the scenario cannot be written: {error}\n"))
    }

    /// # Errors
    /// The first value that makes no sense, by name.
    pub fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("version is {}: this simulator reads version {VERSION}", self.version));
        }
        self.server.policy()?;
        if self.server.workers == 0 || self.server.workers > 64 {
            return Err(format!("server.workers is {}: it must be from 1 to 64", self.server.workers));
        }
        if self.platform.pods == 0 || self.platform.pods > 64 {
            return Err(format!("platform.pods is {}: it must be from 1 to 64", self.platform.pods));
        }
        if self.platform.readiness_period_ms == 0 {
            return Err("platform.readiness_period_ms is 0: it must be positive".to_owned());
        }
        for (index, client) in self.clients.iter().enumerate() {
            if client.balancer >= self.balancers.len() {
                return Err(format!(
                    "clients[{index}].balancer is {}: there are {} balancers, counted from 0",
                    client.balancer,
                    self.balancers.len()
                ));
            }
        }
        let rolling = matches!(self.platform.kind, PlatformKind::Kubernetes | PlatformKind::Ecs);
        if rolling && self.platform.max_surge == 0 && self.platform.max_unavailable == 0 {
            return Err(
                "platform.max_surge and max_unavailable are both 0: a rollout could not move".to_owned()
            );
        }
        Ok(())
    }

    /// The longest that a request of `client` takes inside the server, in milliseconds, the network's part excluded.
    pub fn longest_request_ms(&self, client: &Client) -> u64 {
        let app = self.app.duration.max_ms();
        app + match client.request {
            RequestKind::Get | RequestKind::Disconnect { .. } => 0,
            RequestKind::HalfHead { gap_ms } => gap_ms,
            RequestKind::Upload { chunks, gap_ms, .. } | RequestKind::Stream { chunks, gap_ms, .. } => {
                u64::from(chunks) * gap_ms
            }
            // The pauses, and a round trip for each window.
            RequestKind::SlowReader { bytes, pause_ms } => {
                (u64::from(bytes) / SLOW_READ_BYTES + 1) * (pause_ms + 2 * self.network.latency.max_ms())
            }
            RequestKind::Pipelined { depth } => app * u64::from(depth.saturating_sub(1)) + PIPELINE_GAP_MS,
        }
    }

    /// How long `client` may take to read an answer that has left the server, in milliseconds. The server's idle clock
    /// runs meanwhile: it knows what its kernel has taken, not what the client has read.
    pub fn reading_ms(&self, client: &Client) -> u64 {
        match client.request {
            RequestKind::SlowReader { .. } => self.longest_request_ms(client) - self.app.duration.max_ms(),
            _ => 0,
        }
    }

    /// The longest that a drain without a cut request takes, in milliseconds.
    pub fn longest_drain_ms(&self) -> u64 {
        let delay = if self.platform.kind == PlatformKind::Bare { 0 } else { self.server.drain_delay_ms };
        let streamed = self.clients.iter().map(|client| match client.request {
            RequestKind::Stream { .. } | RequestKind::SlowReader { .. } => {
                self.longest_request_ms(client) - self.app.duration.max_ms()
                    + 4 * self.network.latency.max_ms()
            }
            _ => 0,
        });
        let rest = streamed.max().unwrap_or(0).saturating_sub(delay);
        // Who has just connected has a little longer than that.
        let linger = self.server.keepalive_linger_ms.max(FRESH_LINGER.as_millis() as u64);
        rest + linger + self.longest_exchange_ms() + SLACK_MS
    }

    /// The same over all clients, with the network's part.
    pub fn longest_exchange_ms(&self) -> u64 {
        let longest = self.clients.iter().map(|c| self.longest_request_ms(c)).max().unwrap_or(0);
        longest + 4 * self.network.latency.max_ms()
    }

    /// What stands between these settings and a deploy without a failed request. Empty: not one may fail.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut need = |rule: &'static str, have_ms: u64, need_ms: u64| {
            if have_ms < need_ms {
                found.push(Violation { rule, have_ms, need_ms });
            }
        };
        let (s, p) = (&self.server, &self.platform);
        let latency = self.network.latency.max_ms();
        let wire = 4 * latency + SLACK_MS;
        let propagation = self.balancers.iter().map(|b| b.propagation.max_ms()).max().unwrap_or(0);
        let rolling = matches!(p.kind, PlatformKind::Kubernetes | PlatformKind::Ecs);
        let reload = p.kind == PlatformKind::Bare;
        if rolling {
            need(
                "pre_stop + drain_delay >= propagation + a handshake",
                p.pre_stop_ms + s.drain_delay_ms,
                propagation + wire,
            );
            need("pods - max_unavailable >= 1", u64::from(p.pods.saturating_sub(p.max_unavailable)), 1);
        }
        // A kept connection may bring a request up to the end of its linger, and that one is served too. The linger begins
        // when the response before it has ended, whose head may have been written before the drain.
        need(
            "shutdown_timeout >= rest of a streamed response + keepalive_linger + longest request",
            s.shutdown_timeout_ms,
            self.longest_drain_ms(),
        );
        // `stopTimeout` begins with the signal; the grace period of Kubernetes with the deletion.
        let before_signal = if p.kind == PlatformKind::Kubernetes { p.pre_stop_ms } else { 0 };
        if !reload {
            need(
                "grace >= pre_stop + drain_delay + shutdown_timeout + 1 s",
                p.grace_ms,
                before_signal + s.drain_delay_ms + s.shutdown_timeout_ms + 1000,
            );
        }
        if p.kind == PlatformKind::Systemd {
            // A stop, then a start: somebody who comes in between is turned away, and a drain answers 503.
            need("a second instance while this one restarts", 0, 1);
        }
        let mut connections = 0;
        for client in &self.clients {
            connections += 1;
            let balancer = &self.balancers[client.balancer];
            let longest = self.longest_request_ms(client);
            let pause = client.think.max_ms();
            let (kept, retry, idle) = match balancer.layer {
                Layer::L4 => (client.keep_alive && client.requests > 1, client.retry, pause),
                Layer::L7 => (true, balancer.retry.max(client.retry), balancer.idle_timeout_ms),
            };
            let idle = idle + self.reading_ms(client);
            if kept && retry < Retry::Stale {
                need(
                    "keep_alive_timeout > idle time of a client's connection",
                    s.keep_alive_timeout_ms,
                    idle + wire + 1,
                );
                if balancer.layer == Layer::L4 && rolling {
                    need(
                        "drain_delay >= pause between requests of a kept connection that is not retried",
                        s.drain_delay_ms,
                        pause + longest + wire,
                    );
                }
                if reload {
                    need("kept connections are retried when a reload closes them", 0, 1);
                }
            }
            match client.request {
                RequestKind::HalfHead { gap_ms } => {
                    need("header_timeout > time of a request head", s.header_timeout_ms, gap_ms + wire + 1);
                }
                RequestKind::Pipelined { .. } => {
                    let gap_ms = PIPELINE_GAP_MS;
                    need("header_timeout > time of a request head", s.header_timeout_ms, gap_ms + wire + 1);
                }
                RequestKind::Upload { gap_ms, .. } => {
                    need("body_timeout > pause in a request body", s.body_timeout_ms, gap_ms + wire + 1);
                }
                RequestKind::SlowReader { pause_ms, .. } => {
                    need("write_timeout > pause of a reader", s.write_timeout_ms, pause_ms + wire + 1);
                }
                _ => {}
            }
            need("header_timeout > handshake", s.header_timeout_ms, wire + 1);
            if let Some(limit) = s.request_timeout_ms {
                need("request_timeout > longest request", limit, longest + wire + 1);
            }
            need("client timeout > longest request", client.timeout_ms, longest + 2 * wire);
        }
        if let Some(limit) = s.max_connections {
            // A connection lingers for a moment after its end.
            need("max_connections >= connections", u64::from(limit), 4 * connections + 2);
        }
        for fault in &self.faults {
            if !fault.what.is_harmless() {
                need("no fault that costs requests", 0, 1);
            }
        }
        found
    }

    /// The end of the load, at the latest, in milliseconds. Retries and failures make it longer.
    pub fn horizon_ms(&self) -> u64 {
        let clients = self.clients.iter().map(|c| {
            let each = self.longest_request_ms(c) + c.think.max_ms() + 4 * self.network.latency.max_ms();
            c.start_ms + u64::from(c.requests) * each
        });
        clients.max().unwrap_or(0).max(self.platform.deploy_at_ms)
    }
}

/// The longest pause in the last head of a pipeline, part of which is sent with the requests before it, in milliseconds.
pub const PIPELINE_GAP_MS: u64 = 700;

/// How much a slow reader takes at a time.
pub const SLOW_READ_BYTES: u64 = 16 * 1024;

impl FaultKind {
    /// Not a request may fail because of it, where everything else is right.
    pub fn is_harmless(self) -> bool {
        matches!(self, FaultKind::BootCrash { .. } | FaultKind::BootHang { .. })
    }

    pub fn name(self) -> &'static str {
        match self {
            FaultKind::KillWorker { .. } => "kill-worker",
            FaultKind::FreezeWorker { .. } => "freeze-worker",
            FaultKind::FreezeSupervisor { .. } => "freeze-supervisor",
            FaultKind::KillSupervisor => "kill-supervisor",
            FaultKind::TermWorker { .. } => "term-worker",
            FaultKind::Term => "term",
            FaultKind::Int => "int",
            FaultKind::Quit => "quit",
            FaultKind::Hup => "hup",
            FaultKind::BootCrash { .. } => "boot-crash",
            FaultKind::BootHang { .. } => "boot-hang",
            FaultKind::StallLink { .. } => "stall-link",
            FaultKind::OutOfDescriptors { .. } => "out-of-descriptors",
        }
    }
}

// ---- The generator -------------------------------------------------------------------------------------------------

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(seed: u64) -> Scenario {
        let mut rng = Rng::fork(seed, 1);
        let profile = match rng.below(100) {
            0..25 => Profile::Lite,
            25..60 => Profile::Rollout,
            60..80 => Profile::Chaos,
            _ => Profile::Misconfigured,
        };
        Scenario::draw_as(profile, seed)
    }

    /// The scenario of a seed in one profile. Swarm testing: first which features are in it at all, then how much.
    pub fn draw_as(profile: Profile, seed: u64) -> Scenario {
        let mut rng = Rng::fork(seed, 2);
        let rng = &mut rng;
        let swarm = Swarm::draw(profile, rng);
        let platform_kind = match rng.below(100) {
            0..60 => PlatformKind::Kubernetes,
            60..72 => PlatformKind::Ecs,
            72..88 => PlatformKind::Bare,
            _ if profile == Profile::Rollout => PlatformKind::Bare,
            _ => PlatformKind::Systemd,
        };
        let rolling = matches!(platform_kind, PlatformKind::Kubernetes | PlatformKind::Ecs);
        let pods = match profile {
            Profile::Lite => 1,
            _ if rolling => rng.between(1, 3) as u32,
            _ => 1,
        };
        let latency = draw_latency(rng);
        let app = App {
            duration: draw_duration(rng, swarm.long_requests),
            boot: Dist::Uniform { min_ms: 20, max_ms: rng.log_between(50, 3000) },
            shutdown: if swarm.app_shutdown {
                Dist::Uniform { min_ms: 0, max_ms: rng.log_between(1, 400) }
            } else {
                Dist::ZERO
            },
        };
        let server = Server {
            workers: if profile == Profile::Lite {
                rng.between(1, 2)
            } else {
                rng.pick(&[1, 1, 2, 2, 3, 4, 8])
            } as u32,
            drain_delay_ms: if swarm.drain_delay { rng.log_between(100, 15_000) } else { 0 },
            shutdown_timeout_ms: rng.log_between(500, 30_000),
            startup_timeout_ms: draw_startup_timeout(seed, &app),
            keepalive_linger_ms: rng.pick(&[0, 50, 200, 500, 500, 2000]),
            keep_alive_timeout_ms: rng.pick(&[1000, 5000, 75_000, 75_000]),
            header_timeout_ms: rng.pick(&[1000, 10_000, 10_000]),
            body_timeout_ms: rng.pick(&[1000, 30_000]),
            write_timeout_ms: rng.pick(&[2000, 60_000]),
            request_timeout_ms: swarm.request_timeout.then(|| rng.log_between(200, 20_000)),
            max_connections: swarm.max_connections.then(|| rng.between(2, 12) as u32),
        };
        let platform = Platform {
            kind: platform_kind,
            pods,
            deploy_at_ms: rng.between(3500, 6000),
            max_surge: if rolling { rng.between(1, 2) as u32 } else { 0 },
            max_unavailable: if rolling && swarm.unavailable {
                rng.between(0, u64::from(pods)) as u32
            } else {
                0
            },
            min_ready_ms: rng.pick(&[0, 0, 500, 2000]),
            pre_stop_ms: if rolling && swarm.pre_stop { rng.log_between(100, 10_000) } else { 0 },
            grace_ms: rng.log_between(1000, 60_000),
            readiness_period_ms: rng.pick(&[250, 1000]),
            readiness_failures: rng.between(1, 3) as u32,
            pod_start: Dist::Uniform { min_ms: 10, max_ms: rng.log_between(20, 2000) },
            socket_activation: platform_kind == PlatformKind::Systemd && rng.chance(50),
            signal_whole_group: platform_kind == PlatformKind::Systemd && rng.chance(50),
        };
        let balancers = (0..rng.between(1, 2))
            .map(|_| Balancer {
                layer: if swarm.l7 && rng.chance(60) { Layer::L7 } else { Layer::L4 },
                propagation: Dist::Uniform { min_ms: 1, max_ms: rng.log_between(5, 5000) },
                idle_timeout_ms: rng.pick(&[500, 4000, 60_000]),
                retry: rng.pick(&[Retry::Never, Retry::Connect, Retry::Stale, Retry::Stale]),
            })
            .collect::<Vec<_>>();
        let mut scenario = Scenario {
            version: VERSION,
            about: String::new(),
            seed: Seed(seed),
            profile,
            server,
            platform,
            network: Network { latency },
            app,
            balancers,
            clients: Vec::new(),
            faults: Vec::new(),
        };
        let clients = if profile == Profile::Lite { rng.between(1, 2) } else { rng.log_between(2, 12) };
        for _ in 0..clients {
            let client = scenario.draw_client(&swarm, rng);
            scenario.clients.push(client);
        }
        if swarm.faults {
            if profile == Profile::Chaos && rng.chance(50) {
                scenario.draw_coincidence(rng);
            } else {
                for _ in 0..rng.between(1, 3) {
                    let fault = scenario.draw_fault(rng);
                    scenario.faults.push(fault);
                }
            }
        }
        match profile {
            Profile::Rollout => scenario.make_right(rng),
            Profile::Lite if rng.chance(50) => scenario.make_right(rng),
            Profile::Chaos if rng.chance(50) => scenario.make_right(rng),
            _ => {}
        }
        if profile == Profile::Misconfigured && scenario.violations().is_empty() {
            scenario.server.shutdown_timeout_ms = 1 + scenario.app.duration.max_ms() / 2;
            scenario.platform.pre_stop_ms = 0;
            scenario.server.drain_delay_ms = 0;
            scenario.balancers[0].propagation = Dist::Uniform { min_ms: 500, max_ms: 5000 };
        }
        scenario
    }

    fn draw_client(&self, swarm: &Swarm, rng: &mut Rng) -> Client {
        let few = self.profile == Profile::Lite;
        let mut kinds = vec![RequestKind::Get, RequestKind::Get];
        if swarm.half_heads {
            kinds.push(RequestKind::HalfHead { gap_ms: rng.log_between(1, 2000) });
        }
        if swarm.uploads {
            kinds.push(RequestKind::Upload {
                chunks: rng.between(1, 5) as u32,
                chunk_bytes: rng.log_between(1, 3000) as u32,
                gap_ms: rng.log_between(1, 800),
                chunked: rng.chance(50),
            });
        }
        if swarm.streams {
            kinds.push(RequestKind::Stream {
                chunks: rng.between(1, 8) as u32,
                chunk_bytes: rng.log_between(1, 4000) as u32,
                gap_ms: rng.log_between(1, 800),
            });
        }
        if swarm.slow_readers {
            kinds.push(RequestKind::SlowReader {
                bytes: rng.log_between(20_000, 400_000) as u32,
                pause_ms: rng.log_between(1, 500),
            });
        }
        if swarm.pipelining && self.balancers.iter().any(|b| b.layer == Layer::L4) {
            kinds.push(RequestKind::Pipelined { depth: rng.between(2, 4) as u32 });
        }
        if swarm.disconnects {
            kinds.push(RequestKind::Disconnect { after_ms: rng.log_between(1, 500) });
        }
        let request = rng.pick(&kinds);
        let l4 = self.balancers.iter().position(|b| b.layer == Layer::L4);
        let balancer = match (&request, l4) {
            (RequestKind::Pipelined { .. }, Some(index)) => index,
            _ => rng.below(self.balancers.len() as u64) as usize,
        };
        let start_ms = if rng.chance(60) {
            rng.between(3000, 3500)
        } else {
            self.platform.deploy_at_ms + rng.below(4000)
        };
        Client {
            balancer,
            start_ms,
            requests: if few { rng.between(1, 3) } else { rng.log_between(1, 16) } as u32,
            think: if rng.chance(20) {
                Dist::ZERO
            } else {
                Dist::Exponential { mean_ms: rng.log_between(2, 1500), max_ms: rng.log_between(100, 4000) }
            },
            keep_alive: swarm.keep_alive && rng.chance(75),
            retry: rng.pick(&[Retry::Never, Retry::Connect, Retry::Stale, Retry::Unavailable]),
            request,
            timeout_ms: rng.pick(&[5000, 60_000, 60_000]),
        }
    }

    /// Faults that meet: each alone is easy, together they hit the moments between two steps.
    fn draw_coincidence(&mut self, rng: &mut Rng) {
        use FaultKind::*;
        // While most clients are at it.
        let at = rng.between(3000, 5000);
        let worker = rng.between(1, u64::from(self.server.workers)) as u32;
        let for_ms = rng.log_between(20, 3000);
        let within = rng.below(for_ms);
        let soon = rng.log_between(1, 1500);
        let linger = self.server.keepalive_linger_ms;
        let faults: Vec<(u64, FaultKind)> = match rng.below(12) {
            // Connections wait in the accept queue when the signal is read.
            0 | 1 => vec![(at, FreezeSupervisor { for_ms }), (at + within, Term)],
            // Requests wait in the sockets when the drain is noticed.
            2 | 3 => vec![(at, FreezeWorker { worker, for_ms }), (at + within, Term)],
            // Connections were dealt to a worker that never took them.
            4 => vec![
                (at, FreezeWorker { worker, for_ms: for_ms + soon }),
                (at + for_ms, KillWorker { worker }),
            ],
            5 | 6 => {
                if rng.chance(70) {
                    self.server.shutdown_timeout_ms = rng.log_between(100, 1500);
                    self.app.duration = Dist::Fixed { ms: rng.between(1000, 6000) };
                }
                vec![(at, Term), (at + soon, Term)]
            }
            // The end of a linger, and the request that comes just then, are noticed together.
            9 | 10 => {
                let offset = rng.below(linger + 1);
                vec![(at, Term), (at + offset, FreezeWorker { worker, for_ms: linger + within + 1 })]
            }
            11 => vec![(at - 1, BootCrash { times: 1 }), (at, Hup)],
            7 => vec![(at, Hup), (at + soon / 4, Term)],
            8 => vec![(at, KillWorker { worker }), (at + soon / 10, Term)],
            _ => vec![
                (at - 1, BootCrash { times: 3 }),
                (at, KillWorker { worker }),
                (at + 1, KillWorker { worker }),
            ],
        };
        for (at_ms, what) in faults {
            self.faults.push(Fault { at_ms, pod: 0, what });
        }
        for client in &mut self.clients {
            if rng.chance(60) {
                client.start_ms = at.saturating_sub(200) + rng.below(for_ms + 300);
            }
        }
    }

    fn draw_fault(&self, rng: &mut Rng) -> Fault {
        let worker = rng.between(1, u64::from(self.server.workers)) as u32;
        let for_ms = rng.log_between(10, 4000);
        let times = rng.between(1, 3) as u32;
        let what = rng.pick(&[
            FaultKind::KillWorker { worker },
            FaultKind::KillWorker { worker },
            FaultKind::FreezeWorker { worker, for_ms },
            FaultKind::FreezeSupervisor { for_ms: for_ms / 4 },
            FaultKind::KillSupervisor,
            FaultKind::TermWorker { worker },
            FaultKind::Term,
            FaultKind::Term,
            FaultKind::Int,
            FaultKind::Quit,
            FaultKind::Hup,
            FaultKind::Hup,
            FaultKind::BootCrash { times },
            FaultKind::BootHang { times: 1 },
            FaultKind::StallLink { for_ms: for_ms / 2 },
            FaultKind::OutOfDescriptors { for_ms: for_ms / 2 },
        ]);
        // Most of what is interesting happens around a shutdown.
        let at_ms = if rng.chance(70) {
            self.platform.deploy_at_ms
                + rng.below(self.platform.pre_stop_ms + self.server.drain_delay_ms + 6000)
        } else {
            rng.between(100, self.platform.deploy_at_ms)
        };
        Fault { at_ms, pod: rng.below(u64::from(self.platform.pods) + 1) as u32, what }
    }

    /// Changes whatever stands between these settings and a deploy without a failed request, apart from faults.
    pub fn make_right(&mut self, rng: &mut Rng) {
        let wire = 4 * self.network.latency.max_ms() + SLACK_MS;
        let rolling = matches!(self.platform.kind, PlatformKind::Kubernetes | PlatformKind::Ecs);
        if !rolling {
            // The deploy that loses nothing with one instance is a reload.
            self.platform.kind = PlatformKind::Bare;
            self.platform.socket_activation = false;
            self.platform.signal_whole_group = false;
        }
        self.platform.max_unavailable = self.platform.max_unavailable.min(self.platform.pods - 1);
        self.server.max_connections = None;
        if let Some(limit) = &mut self.server.request_timeout_ms {
            let longest = self.clients.iter().map(|c| {
                let app = self.app.duration.max_ms();
                app * 4
                    + match c.request {
                        RequestKind::Upload { chunks, gap_ms, .. }
                        | RequestKind::Stream { chunks, gap_ms, .. } => u64::from(chunks) * gap_ms,
                        RequestKind::HalfHead { gap_ms } => gap_ms,
                        RequestKind::Pipelined { .. } => PIPELINE_GAP_MS,
                        RequestKind::SlowReader { bytes, pause_ms } => {
                            (u64::from(bytes) / SLOW_READ_BYTES + 1) * (pause_ms + wire)
                        }
                        _ => 0,
                    }
            });
            *limit = (*limit).max(longest.max().unwrap_or(0) + wire + 1);
        }
        // As tight as the inequality allows, half of the time: that is where the bugs are.
        let spare = |rng: &mut Rng| if rng.chance(50) { 0 } else { rng.log_between(1, 3000) };
        let (mut idle, mut delay) = (0, 0);
        let layers: Vec<_> = self.balancers.iter().map(|b| b.layer).collect();
        let reload = self.platform.kind == PlatformKind::Bare;
        for index in 0..self.clients.len() {
            let longest = self.longest_request_ms(&self.clients[index]);
            let reading = self.reading_ms(&self.clients[index]);
            let client = &mut self.clients[index];
            let balancer = &mut self.balancers[client.balancer];
            client.timeout_ms = client.timeout_ms.max(longest + 2 * wire);
            let pause = client.think.max_ms();
            match layers[client.balancer] {
                Layer::L4 if client.keep_alive && client.requests > 1 && client.retry < Retry::Stale => {
                    if reload {
                        client.retry = Retry::Stale;
                    } else {
                        idle = idle.max(pause + reading);
                        delay = delay.max(pause + longest + wire);
                    }
                }
                Layer::L4 => {}
                Layer::L7 => {
                    if balancer.retry.max(client.retry) < Retry::Stale {
                        if reload {
                            balancer.retry = Retry::Stale;
                        } else {
                            idle = idle.max(balancer.idle_timeout_ms + reading);
                        }
                    }
                }
            }
            let s = &mut self.server;
            match client.request {
                RequestKind::HalfHead { gap_ms } => {
                    s.header_timeout_ms = s.header_timeout_ms.max(gap_ms + wire + 1)
                }
                RequestKind::Pipelined { .. } => {
                    s.header_timeout_ms = s.header_timeout_ms.max(PIPELINE_GAP_MS + wire + 1);
                }
                RequestKind::Upload { gap_ms, .. } => {
                    s.body_timeout_ms = s.body_timeout_ms.max(gap_ms + wire + 1)
                }
                RequestKind::SlowReader { pause_ms, .. } => {
                    s.write_timeout_ms = s.write_timeout_ms.max(pause_ms + wire + 1);
                }
                _ => {}
            }
        }
        let propagation = self.balancers.iter().map(|b| b.propagation.max_ms()).max().unwrap_or(0);
        let spare_timeout = spare(rng);
        let s = &mut self.server;
        let p = &mut self.platform;
        s.header_timeout_ms = s.header_timeout_ms.max(wire + 1);
        s.keep_alive_timeout_ms = s.keep_alive_timeout_ms.max(idle + wire + 1);
        if rolling {
            s.drain_delay_ms = s.drain_delay_ms.max(delay);
            let lacking = (propagation + wire).saturating_sub(p.pre_stop_ms + s.drain_delay_ms);
            if rng.chance(50) {
                p.pre_stop_ms += lacking;
            } else {
                s.drain_delay_ms += lacking;
            }
        }
        self.server.shutdown_timeout_ms = self.longest_drain_ms() + spare_timeout;
        let (s, p) = (&self.server, &mut self.platform);
        let before_signal = if p.kind == PlatformKind::Kubernetes { p.pre_stop_ms } else { 0 };
        p.grace_ms = before_signal + s.drain_delay_ms + s.shutdown_timeout_ms + 1000 + spare(rng);
    }
}

/// Which features are in a scenario at all.
struct Swarm {
    drain_delay: bool,
    pre_stop: bool,
    unavailable: bool,
    long_requests: bool,
    app_shutdown: bool,
    request_timeout: bool,
    max_connections: bool,
    l7: bool,
    keep_alive: bool,
    half_heads: bool,
    uploads: bool,
    streams: bool,
    slow_readers: bool,
    pipelining: bool,
    disconnects: bool,
    faults: bool,
}

impl Swarm {
    fn draw(profile: Profile, rng: &mut Rng) -> Swarm {
        let mut on = |percent: u64| rng.chance(percent);
        Swarm {
            drain_delay: on(50),
            pre_stop: on(50),
            unavailable: on(40),
            long_requests: on(30),
            app_shutdown: on(40),
            request_timeout: on(20),
            max_connections: on(15),
            l7: on(50),
            keep_alive: on(70),
            half_heads: on(35),
            uploads: on(35),
            streams: on(35),
            slow_readers: on(20),
            pipelining: on(25),
            disconnects: on(20),
            faults: match profile {
                Profile::Chaos => true,
                Profile::Misconfigured | Profile::Lite => on(15),
                Profile::Rollout => false,
            },
        }
    }
}

/// Long enough for every start that does not hang, and from a source of its own: what else a seed means stays what it was.
fn draw_startup_timeout(seed: u64, app: &App) -> Option<u64> {
    let mut rng = Rng::fork(seed, 3);
    let spare = 100 + rng.log_between(1, 4000);
    rng.chance(60).then(|| app.boot.max_ms() + spare)
}

fn draw_latency(rng: &mut Rng) -> Dist {
    match rng.below(4) {
        0 => Dist::Fixed { ms: 1 },
        1 => Dist::Uniform { min_ms: 1, max_ms: rng.between(2, 20) },
        2 => Dist::Uniform { min_ms: 10, max_ms: rng.between(20, 120) },
        _ => Dist::Exponential { mean_ms: rng.between(1, 20), max_ms: rng.between(40, 300) },
    }
}

fn draw_duration(rng: &mut Rng, long: bool) -> Dist {
    let top = if long { 8000 } else { 500 };
    match rng.below(5) {
        0 => Dist::Fixed { ms: rng.log_between(1, top) },
        1 => Dist::Uniform { min_ms: 0, max_ms: rng.log_between(1, top) },
        2 => Dist::Exponential { mean_ms: rng.log_between(1, top / 3), max_ms: top },
        3 => Dist::LogNormal { median_ms: rng.log_between(2, top / 4), sigma: 0.8, max_ms: top },
        _ => Dist::Bimodal {
            short_ms: rng.log_between(1, 40),
            long_ms: rng.log_between(50, top),
            long_percent: 15,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drawn_scenario_survives_its_file() {
        for seed in 0..500 {
            let scenario = Scenario::draw(seed);
            assert_eq!(Scenario::from_toml(&scenario.to_toml()).as_ref(), Ok(&scenario), "seed {seed}");
        }
    }

    #[test]
    fn a_rollout_has_settings_that_are_right() {
        for seed in 0..2000 {
            let scenario = Scenario::draw_as(Profile::Rollout, seed);
            assert_eq!(scenario.violations(), [], "seed {seed}:\n{}", scenario.to_toml());
        }
    }

    #[test]
    fn a_misconfigured_scenario_violates_something() {
        for seed in 0..500 {
            assert_ne!(Scenario::draw_as(Profile::Misconfigured, seed).violations(), [], "seed {seed}");
        }
    }

    #[test]
    fn a_file_with_a_mistake_is_refused_with_its_line() {
        let text = Scenario::draw(1).to_toml().replace("workers", "wrokers");
        let error = Scenario::from_toml(&text).expect_err("there is no such field");
        assert!(error.contains("wrokers") && error.contains("line"), "{error}");
    }
}
