//! The access log: one line for each response.

use std::time::Duration;

use http::{Method, Version};

use crate::app::PeerAddr;

/// What a line says.
#[derive(Debug)]
pub struct Line<'a> {
    pub peer: PeerAddr,
    pub method: &'a Method,
    /// Path and query as they were sent.
    pub target: &'a str,
    pub version: Version,
    pub status: u16,
    /// Bytes of the response's body.
    pub bytes: u64,
    /// From the request head to the response's last byte.
    pub duration: Duration,
    /// Whether the client got the whole response.
    pub complete: bool,
}

/// Writes a line. The target cannot hold control characters: a request that has some is refused by the parser.
pub fn log(line: &Line<'_>) {
    let millis = (line.duration.as_secs_f64() * 1_000_000.0).round() / 1000.0;
    let cut = if line.complete { "" } else { " (cut)" };
    tracing::info!(
        target: "pounce::access",
        peer = %line.peer,
        method = %line.method,
        path = line.target,
        status = line.status,
        bytes = line.bytes,
        duration_ms = millis,
        complete = line.complete,
        "{} - \"{} {} {:?}\" {} {}B {millis}ms{cut}",
        line.peer, line.method, line.target, line.version, line.status, line.bytes,
    );
}
