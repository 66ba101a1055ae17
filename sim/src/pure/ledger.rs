//! Every request of a run, what became of it, and why.

use std::fmt;

use pounce_core::Instant;

/// Why a request failed. The list is closed: a failure that fits none is [`Cause::Unexplained`], and that is a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The balancer still sent to a pod whose port was closed.
    RefusedAfterListenerClose,
    /// The pod got traffic before its port listened.
    RefusedBeforeListen,
    /// The request met the server's FIN on a connection that was idle.
    IdleCloseRace,
    /// A second request, sent without waiting, met the end that the first answer announced.
    PipelinedRace,
    /// It was still running at the drain deadline.
    AbortedAtDeadline,
    /// The platform killed the container.
    Sigkill,
    /// No pod was in the balancer's view.
    NoEndpoint,
    /// The client itself left.
    PeerFault,
    /// The client was slower than a limit of the server's: 408, or a response that it did not take.
    TooSlow,
    /// A new connection during the drain.
    Refused503Draining,
    /// More than `max_connections`.
    Refused503TooMany,
    /// `request_timeout`.
    RequestTimeout,
    /// The client waited no longer.
    ClientTimeout,
    /// The worker died of something that is not the rollout's doing.
    WorkerCrash,
    /// An operator's signal cut the shutdown short.
    CutShort,
    /// None of these: the server lost it.
    Unexplained,
}

impl Cause {
    pub const ALL: [Cause; 16] = [
        Cause::RefusedAfterListenerClose,
        Cause::RefusedBeforeListen,
        Cause::IdleCloseRace,
        Cause::PipelinedRace,
        Cause::AbortedAtDeadline,
        Cause::Sigkill,
        Cause::NoEndpoint,
        Cause::PeerFault,
        Cause::TooSlow,
        Cause::Refused503Draining,
        Cause::Refused503TooMany,
        Cause::RequestTimeout,
        Cause::ClientTimeout,
        Cause::WorkerCrash,
        Cause::CutShort,
        Cause::Unexplained,
    ];

    /// As it is written in reports.
    pub fn name(self) -> &'static str {
        match self {
            Cause::RefusedAfterListenerClose => "refused-after-listener-close",
            Cause::RefusedBeforeListen => "refused-before-listen",
            Cause::IdleCloseRace => "idle-close-race",
            Cause::PipelinedRace => "pipelined-race",
            Cause::AbortedAtDeadline => "aborted-at-deadline",
            Cause::Sigkill => "sigkill",
            Cause::NoEndpoint => "no-endpoint",
            Cause::PeerFault => "peer-fault",
            Cause::TooSlow => "too-slow",
            Cause::Refused503Draining => "refused-503-while-draining",
            Cause::Refused503TooMany => "refused-503-too-many-connections",
            Cause::RequestTimeout => "request-timeout",
            Cause::ClientTimeout => "client-timeout",
            Cause::WorkerCrash => "worker-crash",
            Cause::CutShort => "cut-short",
            Cause::Unexplained => "unexplained",
        }
    }

    /// Whether the rollout is to blame; a client that left, or a request over its own limit, is lost without one as well.
    pub fn is_dropped(self) -> bool {
        !matches!(self, Cause::PeerFault | Cause::TooSlow | Cause::RequestTimeout)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many requests failed of each cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Causes([u32; Cause::ALL.len()]);

impl Causes {
    pub fn add(&mut self, cause: Cause) {
        self.0[cause as usize] += 1;
    }

    pub fn get(&self, cause: Cause) -> u32 {
        self.0[cause as usize]
    }

    pub fn merge(&mut self, other: &Causes) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// Causes that occurred, in the order of [`Cause::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Cause, u32)> + '_ {
        Cause::ALL.into_iter().map(|cause| (cause, self.get(cause))).filter(|(_, count)| *count > 0)
    }

    /// Requests that the rollout cost.
    pub fn dropped(&self) -> u32 {
        self.iter().filter(|(cause, _)| cause.is_dropped()).map(|(_, count)| count).sum()
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub requests: u32,
    pub answered: u32,
    /// Requests that were answered only because somebody tried again.
    pub retried: u32,
    pub causes: Causes,
    /// Broken promises of the server, each in words. Empty, or there is a bug.
    pub broken: Vec<String>,
    /// From the rollout's start to the last new pod's availability and the last old pod's end.
    pub rollout: std::time::Duration,
    /// When the run ended.
    pub ended_at: Instant,
    /// Events handled.
    pub events: u64,
    /// A hash over everything that happened, in order: equal for equal runs.
    pub hash: u64,
}

impl Outcome {
    pub fn dropped(&self) -> u32 {
        self.causes.dropped()
    }
}

/// One line of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub at: Instant,
    /// Who: `kube`, `pod-1`, `pod-1 w2`, `client-3`.
    pub who: String,
    pub what: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10} {:<10} {}", self.at.to_string(), self.who, self.what)
    }
}
