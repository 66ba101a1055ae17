//! Back-pressure: however slowly a client reads or however fast it sends, a connection holds little of a worker's memory,
//! and loses nothing by it when the server stops (scenarios 14, 17).
//!
//! To see these fail: queue what the application sends without a limit, or read a request's body on while nobody wants it;
//! for the crumbs, keep each piece as it came.

use std::thread;
use std::time::{Duration, Instant};

use pounce_tests::processes::memory;
use pounce_tests::server::SLACK;
use pounce_tests::{Connection, Request, Server, Signal, WorkerKind, with_both};

/// Most that a connection may add to its worker's memory, in bytes.
fn most(kind: WorkerKind) -> u64 {
    match kind {
        // What waits for the client or for the application (64 KiB and the message that was one too many), hyper's
        // buffer for writing (400 KiB), and the allocator's slack.
        WorkerKind::Python => 1 << 20,
        // It echoes, so hyper's buffers are full both ways, and pieces of one keep more of the other.
        WorkerKind::Demo => 2 << 20,
    }
}

const CONNECTIONS: usize = 16;
/// More than the sockets' buffers hold on both sides.
const BODY_BYTES: usize = 24 << 20;
/// As many connections, and bytes of each, where every byte has a price: a message of the application, or a chunk of an upload.
const CRUMB_CONNECTIONS: usize = 2;
const CRUMBS: usize = 1 << 20;

/// The most by which the only worker's memory grew over `before` for each of `connections`, until it stands still and `moves` says
/// that nothing else moves; or for half a minute, when the kernel drops and sends again what it has no room for.
fn grown(server: &Server, connections: usize, before: u64, mut moves: impl FnMut() -> bool) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut since, mut last, mut most) = (Instant::now(), 0, 0);
    while since.elapsed() < Duration::from_millis(700) && Instant::now() < deadline {
        let now = memory(server.workers()[0]).expect("the worker's memory");
        most = now.max(most);
        if moves() || now.abs_diff(last) > 64 << 10 {
            (since, last) = (Instant::now(), now);
        }
        thread::sleep(Duration::from_millis(20));
    }
    most.saturating_sub(before) / connections as u64
}

#[track_caller]
fn assert_bounded(what: &str, kind: WorkerKind, bytes: u64) {
    eprintln!("{what}, {kind:?}: {} KiB for each connection", bytes >> 10);
    assert!(bytes < most(kind), "{what}, {kind:?}: {bytes} bytes for each connection");
}

#[test]
fn s17_slow_readers_hold_little_memory_and_get_every_byte_across_sigterm() {
    let mut server = WorkerKind::Python.server().shutdown_timeout(120.0).start();
    server.get("/big?n=10").status(200);
    let before = memory(server.workers()[0]).unwrap();
    let mut readers: Vec<_> = (0..CONNECTIONS)
        .map(|_| Connection::open_with_receive_buffer(server.address(), 64 << 10).unwrap())
        .collect();
    for reader in &mut readers {
        reader.send(&Request::get(&format!("/big?n={BODY_BYTES}")).encode());
        reader.wait_for_first_byte();
    }
    let bytes = grown(&server, CONNECTIONS, before, || false);
    assert_bounded("a client that does not read", WorkerKind::Python, bytes);
    server.signal(Signal::TERM);
    thread::scope(|scope| {
        for reader in &mut readers {
            scope.spawn(|| assert_eq!(reader.read_response("GET").status(200).body.len(), BODY_BYTES));
        }
    });
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
}

#[test]
fn s14_fast_uploaders_are_held_back_in_little_memory_and_lose_nothing_across_sigterm() {
    with_both(|kind| {
        // The demo echoes: it is held back by a client that does not read.
        let (mut server, target) = (
            kind.server().shutdown_timeout(120.0).start(),
            if kind == WorkerKind::Demo { "/echo" } else { "/held" },
        );
        let wire = Request::post(target, vec![b'x'; BODY_BYTES]).encode();
        server.get("/").status(200);
        let before = memory(server.workers()[0]).unwrap();
        let mut senders: Vec<_> = (0..CONNECTIONS).map(|_| (server.connect(), 0)).collect();
        let bytes = grown(&server, CONNECTIONS, before, || {
            let taken = senders.iter_mut().map(|(sender, sent)| {
                let now = sender.send_what_is_taken(&wire[*sent..]);
                *sent += now;
                now
            });
            taken.sum::<usize>() > 0
        });
        assert!(senders.iter().all(|(_, sent)| *sent < wire.len()), "nobody was held back");
        assert_bounded("a client that sends as fast as it can", kind, bytes);
        if kind == WorkerKind::Python {
            server.get("/go").status(200);
        }
        server.signal(Signal::TERM);
        thread::scope(|scope| {
            for (sender, sent) in &mut senders {
                let rest = &wire[*sent..];
                scope.spawn(move || {
                    let answer = sender.send_while_reading(rest, 64 << 10, "POST").status(200);
                    let length = match kind {
                        WorkerKind::Demo => answer.body.len(),
                        WorkerKind::Python => answer.text().parse().unwrap(),
                    };
                    assert_eq!(length, BODY_BYTES);
                });
            }
        });
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
    });
}

/// On a Unix socket, which holds far less than TCP's: little has to be sent until somebody waits. Nobody is given up for
/// how long that takes.
fn server_with_small_sockets() -> (tempfile::TempDir, Server) {
    let directory = tempfile::tempdir().expect("a directory");
    let bind = format!("unix:{}", directory.path().join("socket").display());
    let patient = ["--write-timeout", "600", "--body-timeout", "600"];
    let server = Server::app("plain:app").args(patient).bind(bind).start();
    (directory, server)
}

#[test]
fn slow_readers_of_single_bytes_hold_little_memory_and_get_every_one() {
    let (_directory, server) = server_with_small_sockets();
    server.get("/crumbs?n=1000").status(200);
    let before = memory(server.workers()[0]).unwrap();
    let mut readers: Vec<_> = (0..CRUMB_CONNECTIONS).map(|_| server.connect()).collect();
    for reader in &mut readers {
        reader.send(&Request::get(&format!("/crumbs?n={CRUMBS}")).encode());
        reader.wait_for_first_byte();
    }
    let bytes = grown(&server, CRUMB_CONNECTIONS, before, || false);
    assert_bounded("a client that does not read single bytes", WorkerKind::Python, bytes);
    thread::scope(|scope| {
        for reader in &mut readers {
            scope.spawn(|| assert_eq!(reader.read_response("GET").status(200).body.len(), CRUMBS));
        }
    });
}

#[test]
fn fast_uploaders_of_single_bytes_are_held_back_in_little_memory_and_lose_none() {
    let (_directory, server) = server_with_small_sockets();
    let wire = Request::post_chunked("/held", &vec![b"x".as_slice(); CRUMBS]).encode();
    server.get("/").status(200);
    let before = memory(server.workers()[0]).unwrap();
    let mut senders: Vec<_> = (0..CRUMB_CONNECTIONS).map(|_| (server.connect(), 0)).collect();
    let bytes = grown(&server, CRUMB_CONNECTIONS, before, || {
        let taken = senders.iter_mut().map(|(sender, sent)| {
            let now = sender.send_what_is_taken(&wire[*sent..]);
            *sent += now;
            now
        });
        taken.sum::<usize>() > 0
    });
    assert!(senders.iter().all(|(_, sent)| *sent < wire.len()), "nobody was held back");
    assert_bounded("a client that sends single bytes as fast as it can", WorkerKind::Python, bytes);
    server.get("/go").status(200);
    thread::scope(|scope| {
        for (sender, sent) in &mut senders {
            let rest = &wire[*sent..];
            scope.spawn(move || {
                let answer = sender.send_while_reading(rest, 64 << 10, "POST").status(200);
                assert_eq!(answer.text().parse(), Ok(CRUMBS));
            });
        }
    });
}
