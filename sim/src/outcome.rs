//! What both tiers call a run's outcome: the common ground on which they have to agree.

use std::collections::BTreeSet;
use std::fmt;

use crate::{engine, oracle, pure};

/// A kind of failure that both tiers know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    /// Nobody listened where the request went, or there was nowhere to go.
    NobodyThere,
    /// A complete 503, because the server drained.
    Drained,
    /// A connection's end crossed a request.
    CloseRace,
    /// The drain's deadline, or who cut it short.
    Deadline,
    /// A process was killed.
    Killed,
    /// A limit of the server's: connections, time.
    Limit,
    /// The client left, or waited no longer.
    Client,
    /// The server lost it.
    Unexplained,
}

/// How a run came out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutcomeClass {
    /// Every request was answered whose client waited for it.
    Clean,
    /// Some were not, for these reasons.
    Lossy(BTreeSet<Loss>),
    /// A promise was broken: a bug.
    Broken,
}

impl OutcomeClass {
    fn of(losses: BTreeSet<Loss>, broken: bool) -> OutcomeClass {
        // Clients that leave on purpose do so in any run.
        let losses: BTreeSet<Loss> = losses.into_iter().filter(|loss| *loss != Loss::Client).collect();
        match (broken, losses.is_empty()) {
            (true, _) => OutcomeClass::Broken,
            (false, true) => OutcomeClass::Clean,
            (false, false) => OutcomeClass::Lossy(losses),
        }
    }

    pub fn is_clean(&self) -> bool {
        *self == OutcomeClass::Clean
    }
}

impl fmt::Display for OutcomeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutcomeClass::Clean => f.write_str("clean"),
            OutcomeClass::Broken => f.write_str("broken"),
            OutcomeClass::Lossy(losses) => write!(f, "{losses:?}"),
        }
    }
}

impl From<&pure::Outcome> for OutcomeClass {
    fn from(outcome: &pure::Outcome) -> OutcomeClass {
        use pure::Cause;
        let losses = outcome.causes.iter().map(|(cause, _)| match cause {
            Cause::RefusedAfterListenerClose | Cause::RefusedBeforeListen | Cause::NoEndpoint => {
                Loss::NobodyThere
            }
            Cause::IdleCloseRace | Cause::PipelinedRace => Loss::CloseRace,
            Cause::AbortedAtDeadline | Cause::CutShort => Loss::Deadline,
            Cause::Sigkill | Cause::WorkerCrash => Loss::Killed,
            Cause::Refused503Draining => Loss::Drained,
            Cause::Refused503TooMany | Cause::RequestTimeout | Cause::TooSlow => Loss::Limit,
            Cause::PeerFault | Cause::ClientTimeout => Loss::Client,
            Cause::Unexplained => Loss::Unexplained,
        });
        OutcomeClass::of(losses.collect(), !outcome.broken.is_empty())
    }
}

impl From<&engine::Outcome> for OutcomeClass {
    fn from(outcome: &engine::Outcome) -> OutcomeClass {
        use oracle::Cause;
        let losses = outcome.verdict.causes.keys().map(|cause| match cause {
            Cause::NoEndpoint | Cause::NotListening | Cause::LateHandshake => Loss::NobodyThere,
            Cause::Draining => Loss::Drained,
            Cause::IdleCloseRace | Cause::FreshCloseRace => Loss::CloseRace,
            Cause::Deadline => Loss::Deadline,
            Cause::Killed | Cause::NoWorker => Loss::Killed,
            Cause::TooManyConnections | Cause::ServerTimeout => Loss::Limit,
            Cause::PeerGone | Cause::Impatient => Loss::Client,
        });
        OutcomeClass::of(losses.collect(), !outcome.verdict.problems.is_empty())
    }
}
