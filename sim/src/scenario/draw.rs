//! The generator: a scenario from a seed.

use super::{
    App, Balancer, Client, Dist, Fault, FaultKind, Layer, Network, Platform, PlatformKind, Profile,
    RequestKind, Retry, Scenario, Seed, Server, VERSION,
};
use crate::rng::Rng;

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
        // What came later draws from a stream of its own: a seed without it means what it always meant.
        let late = &mut Rng::fork(seed, 5);
        let frozen = profile == Profile::Chaos && late.chance(15);
        match late.below(100) {
            0..7 => scenario.draw_early_heads(late),
            7..12 => scenario.draw_equal_patience(late),
            _ => {}
        }
        let rare = scenario.draw_rare();
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
        if frozen && !rare {
            scenario.draw_frozen_linger(late);
        } else if profile == Profile::Chaos && !rare && late.chance(8) {
            scenario.draw_fresh_at_the_end(late);
        }
        scenario
    }

    /// Clients that begin their next request while they still read, slowly, the answer before it.
    fn draw_early_heads(&mut self, rng: &mut Rng) {
        for (index, client) in self.clients.iter_mut().enumerate() {
            if index > 0 && rng.chance(50) {
                continue;
            }
            client.request = RequestKind::EarlyHead {
                // More than the sockets between the two hold.
                bytes: rng.between(150_000, 400_000) as u32,
                pause_ms: rng.log_between(1, 60),
                gap_ms: rng.log_between(100, 4000),
            };
            client.requests = client.requests.max(2);
        }
    }

    /// Clients that pause for as long as the server keeps their connection, to the millisecond.
    fn draw_equal_patience(&mut self, rng: &mut Rng) {
        let latency_ms = rng.between(1, 10);
        self.network.latency = Dist::Fixed { ms: latency_ms };
        self.server.keep_alive_timeout_ms = rng.pick(&[1000, 1000, 5000]);
        for client in &mut self.clients {
            client.request = RequestKind::Get;
            client.keep_alive = true;
            client.requests = client.requests.max(4);
            let off_ms = rng.pick(&[0, 0, 1, 2]);
            client.think =
                Dist::Fixed { ms: (self.server.keep_alive_timeout_ms + 1 - off_ms) - 2 * latency_ms };
        }
    }

    /// A shutdown that is cut short right after it began, while connections are made all the time: some are accepted and
    /// their first byte is still on its way.
    fn draw_fresh_at_the_end(&mut self, rng: &mut Rng) {
        let at_ms = rng.between(3300, 4500);
        self.server.drain_delay_ms = 0;
        self.network.latency = Dist::Uniform { min_ms: 10, max_ms: rng.between(60, 150) };
        self.faults = vec![
            Fault { at_ms, pod: 0, what: FaultKind::Int },
            Fault { at_ms: at_ms + rng.between(1, 20), pod: 0, what: FaultKind::Int },
        ];
        for client in &mut self.clients {
            client.start_ms = at_ms - rng.between(200, 600);
            client.request = RequestKind::Get;
            client.keep_alive = false;
            client.requests = client.requests.max(8);
            client.think = Dist::ZERO;
        }
    }

    /// A worker that gets no CPU while the linger of its connections ends: that it is over and that the next request has come
    /// are noticed together.
    fn draw_frozen_linger(&mut self, rng: &mut Rng) {
        let at_ms = rng.between(3300, 4500);
        let linger_ms = rng.pick(&[200, 500, 2000]);
        self.server.drain_delay_ms = 0;
        self.server.keepalive_linger_ms = linger_ms;
        self.server.keep_alive_timeout_ms = self.server.keep_alive_timeout_ms.max(5000);
        self.server.shutdown_timeout_ms = self.server.shutdown_timeout_ms.max(5000);
        self.server.workers = self.server.workers.min(2);
        self.app.duration = Dist::Uniform { min_ms: 0, max_ms: 50 };
        self.faults = vec![Fault { at_ms, pod: 0, what: FaultKind::Term }];
        for worker in 1..=self.server.workers {
            // The worker has heard of the drain by then.
            let after_ms = rng.between(5, linger_ms - 50);
            let for_ms = linger_ms - after_ms + rng.between(20, 1500);
            let what = FaultKind::FreezeWorker { worker, for_ms };
            self.faults.push(Fault { at_ms: at_ms + after_ms, pod: 0, what });
        }
        for client in &mut self.clients {
            client.start_ms = at_ms - rng.between(100, 300);
            client.request = RequestKind::Get;
            client.keep_alive = true;
            client.requests = client.requests.max(4);
            client.think = Dist::Uniform { min_ms: linger_ms / 4, max_ms: 2 * linger_ms };
        }
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
            kinds.push(RequestKind::Disconnect { after_ms: rng.log_between(1, 500), reset: false });
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
    use crate::scenario::{Profile, Scenario};

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
}
