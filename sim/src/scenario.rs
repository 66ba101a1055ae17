//! A scenario: everything that a simulated deploy consists of, as data. Drawn from a seed, or read from a file.
//!
//! Seeds go stale when the generator changes, files do not: what was found is kept as a file under `regressions/`.
//! Every duration is a whole number of milliseconds; the simulated clock is exact to that.

mod dist;
mod draw;
mod fault;
mod file;
mod inequalities;
mod platform;
mod rare;
mod server;
mod traffic;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use dist::Dist;
pub use fault::{Fault, FaultKind};
pub use inequalities::{SLACK_MS, Violation};
pub use platform::{Platform, PlatformKind};
pub use server::Server;
pub use traffic::{Balancer, Client, Layer, PIPELINE_GAP_MS, RequestKind, Retry, SLOW_READ_BYTES};

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
