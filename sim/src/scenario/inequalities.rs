//! What must hold between the settings of pounce, of the platform and of the clients, so that no request may fail.

use std::fmt;

use pounce_core::policy::FRESH_LINGER;

use super::{Client, Layer, PIPELINE_GAP_MS, PlatformKind, RequestKind, Retry, SLOW_READ_BYTES, Scenario};
use crate::rng::Rng;

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

    /// The longest request of any client, the network's part included, in milliseconds.
    pub fn longest_exchange_ms(&self) -> u64 {
        let longest = self.clients.iter().map(|c| self.longest_request_ms(c)).max().unwrap_or(0);
        longest + 4 * self.network.latency.max_ms()
    }

    /// The end of the load, at the latest, in milliseconds. Retries and failures make it longer.
    pub fn horizon_ms(&self) -> u64 {
        let clients = self.clients.iter().map(|c| {
            let each = self.longest_request_ms(c) + c.think.max_ms() + 4 * self.network.latency.max_ms();
            c.start_ms + u64::from(c.requests) * each
        });
        clients.max().unwrap_or(0).max(self.platform.deploy_at_ms)
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
