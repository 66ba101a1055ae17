//! Who starts and stops the server, and by which rules.

use serde::{Deserialize, Serialize};

use super::Dist;

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
