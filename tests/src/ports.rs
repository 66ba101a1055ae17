//! Ports for servers that must be known before they start: one behind a balancer, or one that is restarted.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A TCP port of the loopback interface that is free now. It lies below the range from which Linux takes ports for
/// outgoing connections and for port 0 (`net.ipv4.ip_local_port_range`, 32768 and up), so that only a
/// server that asks for exactly this one could take it, and this process gives each only once.
///
/// # Panics
/// If none is free.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let of_this_process = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (of_this_process + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT);
}
