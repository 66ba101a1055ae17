//! An address to listen on.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// The port when none is given.
pub const DEFAULT_PORT: u16 = 8000;

/// One place to accept connections. `Display` and [`Bind::parse`] are inverse to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bind {
    /// A host name or IP address (IPv6 without brackets) and a port; port 0 is any free one.
    Tcp {
        /// Resolved when the socket is made.
        host: String,
        /// 0 lets the kernel choose.
        port: u16,
    },
    /// The path of a Unix domain socket.
    Unix(PathBuf),
    /// A listening socket that this process inherited.
    Descriptor(RawFd),
}

impl Bind {
    /// Reads `HOST:PORT`, `:PORT` (every IPv4 address), `HOST`, `[IPV6]:PORT`, `unix:PATH` or `fd://N`.
    ///
    /// The error completes "... must be".
    pub fn parse(text: &str) -> Result<Bind, &'static str> {
        const RULE: &str = "HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N, with a port from 0 to 65535";
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return if path.is_empty() { Err(RULE) } else { Ok(Bind::Unix(path.into())) };
        }
        if let Some(number) = text.strip_prefix("fd://") {
            // `str::parse` would take a leading `+`.
            let digits = number.bytes().all(|b| b.is_ascii_digit());
            return digits.then(|| number.parse().ok()).flatten().map(Bind::Descriptor).ok_or(RULE);
        }
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(RULE)?)),
            // A bare IPv6 address has no port: its last colon is its own.
            None if text.matches(':').count() > 1 => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let host = match (host, port) {
            ("", Some(_)) if text.starts_with(':') => "0.0.0.0",
            ("", _) => return Err(RULE),
            (host, _) => host,
        };
        if !is_host(host) {
            return Err(RULE);
        }
        let port = match port {
            Some(port) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().map_err(|_| RULE)?
            }
            Some(_) => return Err(RULE),
            None => DEFAULT_PORT,
        };
        Ok(Bind::Tcp { host: host.to_owned(), port })
    }
}

/// Whether `text` can be a host name or an IP address (IPv6 without brackets). The resolver has the last word.
pub fn is_host(text: &str) -> bool {
    let outside_names =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '[' | ']' | '@' | ',');
    !text.is_empty()
        && !text.contains(outside_names)
        && (!text.contains(':') || text.parse::<std::net::Ipv6Addr>().is_ok())
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Bind::Tcp { host, port } => write!(f, "{host}:{port}"),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
            Bind::Descriptor(number) => write!(f, "fd://{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_uvicorn_gunicorn_and_hypercorn_take_is_read() {
        for (text, shown) in [
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("localhost", "localhost:8000"),
            (":80", "0.0.0.0:80"),
            ("[::1]:9000", "[::1]:9000"),
            ("[::]", "[::]:8000"),
            ("::1", "[::1]:8000"),
            ("example.org:0", "example.org:0"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
            ("unix:app.sock", "unix:app.sock"),
            ("fd://3", "fd://3"),
        ] {
            assert_eq!(Bind::parse(text).map(|b| b.to_string()), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_malformed_address_is_an_error_and_not_a_host_name() {
        for text in [
            "",
            ":",
            "[]:80",
            "host:",
            "host:http",
            "host:65536",
            "host:-1",
            "host:+1",
            "unix:",
            "fd://",
            "fd://-1",
            "fd://+1",
            "fd://x",
            "http://host:80",
            "a:b:c",
            "[::1",
            "[::1]x",
            "a b:80",
        ] {
            assert!(Bind::parse(text).is_err(), "{text}");
        }
    }
}
