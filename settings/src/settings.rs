//! The resolved settings, typed.

use crate::duration::{optional_seconds, seconds};
use crate::{Bind, Origin, Target};
use pounce_core::policy::{Policy, PolicyError, PolicySettings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What is served, where and how; the result of [`resolve`](crate::resolve).
///
/// Serialises as JSON with durations in seconds; that is how a worker process receives it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What to serve, if anything said so. `factory` is folded into it.
    pub app: Option<Target>,
    /// Where to listen: never empty. `host`, `port`, `bind`, `uds` and `fd` are folded into it.
    pub binds: Vec<Bind>,
    /// Connections the kernel may hold before they are accepted.
    pub backlog: u32,
    /// First entry of `sys.path`.
    pub app_dir: PathBuf,
    /// ASGI lifespan.
    pub lifespan: Lifespan,
    /// ASGI `root_path`, without a slash at its end.
    pub root_path: String,
    /// The interpreter that was asked for.
    pub python: Option<PathBuf>,
    /// The event loop: `asyncio`.
    #[serde(rename = "loop")]
    pub event_loop: String,
    /// From the drain's begin to the forced phase. Positive.
    #[serde(with = "seconds")]
    pub shutdown_timeout: Duration,
    /// From a worker's start to its readiness. Positive.
    #[serde(with = "optional_seconds")]
    pub startup_timeout: Option<Duration>,
    /// From the signal to the drain's begin.
    #[serde(with = "seconds")]
    pub drain_delay: Duration,
    /// How long the drain leaves an idle connection open.
    #[serde(with = "seconds")]
    pub keepalive_linger: Duration,
    /// How long an idle connection stays open while serving. Positive.
    #[serde(with = "seconds")]
    pub keep_alive_timeout: Duration,
    /// For a request head to arrive. Positive.
    #[serde(with = "seconds")]
    pub header_timeout: Duration,
    /// Longest pause in a request body. Positive.
    #[serde(with = "seconds")]
    pub body_timeout: Duration,
    /// Longest pause of a client that reads its response. Positive.
    #[serde(with = "seconds")]
    pub write_timeout: Duration,
    /// From the request head to the response head. Positive.
    #[serde(with = "optional_seconds")]
    pub request_timeout: Option<Duration>,
    /// Open connections of all workers together.
    pub max_connections: Option<u32>,
    /// Header fields of one request.
    pub max_headers: u32,
    /// Bytes of one request head.
    pub max_header_size: u64,
    /// Bytes of one request body.
    pub max_body_size: Option<u64>,
    /// The path that is answered without the application.
    pub health_check_path: Option<String>,
    /// One log line per request.
    pub access_log: bool,
    /// Log this and what is more serious.
    pub log_level: LogLevel,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Worker processes, at least 1.
    pub workers: u32,
    /// Where to write the process id.
    pub pid_file: Option<PathBuf>,
    /// The configuration file that was read.
    pub config: Option<PathBuf>,
    /// Where each setting that is not at its default came from, by name.
    pub origins: BTreeMap<String, Origin>,
}

impl Settings {
    /// Where the setting of that name came from.
    pub fn origin(&self, name: &str) -> &Origin {
        self.origins.get(name).unwrap_or(&Origin::Default)
    }

    /// What the state machines decide by.
    ///
    /// # Errors
    ///
    /// A duration that the machines refuse. Settings from [`resolve`](crate::resolve) have none; the fields are public, so
    /// settings put together by hand may.
    pub fn policy(&self) -> Result<Policy, PolicyError> {
        Policy::new(PolicySettings {
            shutdown_timeout: self.shutdown_timeout.as_secs_f64(),
            startup_timeout: self.startup_timeout.map(|timeout| timeout.as_secs_f64()),
            drain_delay: self.drain_delay.as_secs_f64(),
            keepalive_linger: self.keepalive_linger.as_secs_f64(),
            keep_alive_timeout: self.keep_alive_timeout.as_secs_f64(),
            header_timeout: self.header_timeout.as_secs_f64(),
            body_timeout: self.body_timeout.as_secs_f64(),
            write_timeout: self.write_timeout.as_secs_f64(),
            request_timeout: self.request_timeout.map(|timeout| timeout.as_secs_f64()),
            max_connections: self.max_connections,
        })
    }

    /// Whether nothing said where to listen, so that a socket from the service manager may.
    pub fn address_is_default(&self) -> bool {
        ["host", "port", "bind", "uds", "fd"].iter().all(|name| *self.origin(name) == Origin::Default)
    }
}

/// Whether the application's lifespan is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifespan {
    /// If it supports it.
    Auto,
    /// And it is an error if it does not support it.
    On,
    /// It is not.
    Off,
}

/// Verbosity, from the most serious.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// And warnings.
    Warning,
    /// And the lifecycle.
    Info,
    /// And details.
    Debug,
    /// And everything.
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `[YYYY-MM-DD HH:MM:SS] message`
    Text,
    /// One JSON object per line.
    Json,
}
