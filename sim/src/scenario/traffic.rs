//! Who sends requests, how, and what stands between them and the pods.

use serde::{Deserialize, Serialize};

use super::Dist;

/// The longest pause in the last head of a pipeline, part of which is sent with the requests before it, in milliseconds.
pub const PIPELINE_GAP_MS: u64 = 700;

/// How much a slow reader takes at a time.
pub const SLOW_READ_BYTES: u64 = 16 * 1024;

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
    /// A large answer, read with pauses. Meanwhile half of the next request's head is sent on the same connection, and the
    /// rest of it `gap_ms` after the answer.
    EarlyHead {
        bytes: u32,
        pause_ms: u64,
        gap_ms: u64,
    },
    /// Several requests at once on one connection.
    Pipelined {
        depth: u32,
    },
    /// The client goes away after a while, mid-request. `reset`: without an orderly end of the connection.
    Disconnect {
        after_ms: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reset: bool,
    },
}
