//! pounce's own settings in a scenario.

use pounce_core::policy::{Policy, PolicySettings};
use serde::{Deserialize, Serialize};

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
