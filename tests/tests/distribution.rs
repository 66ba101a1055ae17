//! Connections are dealt evenly, also past a blocked worker.
//!
//! To see these fail: let every worker accept from the shared listener, or deal round robin without counting.

use std::collections::BTreeMap;

use pounce_tests::{Events, Request, Server, Session, heavy};

/// How many of these sessions are with each worker.
fn by_worker(sessions: &mut [Session]) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for session in sessions {
        let answer = session.get("/health").status(200);
        *counts.entry(answer.json()["worker"].as_u64().expect("a worker's number")).or_default() += 1;
        assert!(session.connection().is_some(), "the connection was not kept");
    }
    counts
}

fn assert_even(counts: &BTreeMap<u64, usize>) {
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4], "{counts:?}");
    assert!(counts.values().all(|count| (1..=3).contains(count)), "{counts:?}");
}

#[test]
fn eight_keep_alive_connections_on_four_workers_are_two_each() {
    let server = Server::demo().workers(4).args(["--health-check-path", "/health"]).start();
    let mut sessions: Vec<_> = (0..8).map(|_| server.session()).collect();
    assert_even(&by_worker(&mut sessions));
}

#[test]
fn connections_that_ended_do_not_count() {
    let server = Server::demo().workers(4).args(["--health-check-path", "/health"]).start();
    for _ in 0..101 {
        server.get("/").status(200);
    }
    // Workers tell their counts every few milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut sessions: Vec<_> = (0..8).map(|_| server.session()).collect();
    assert_even(&by_worker(&mut sessions));
}

#[test]
fn a_blocked_worker_gets_its_share_and_its_connections_are_answered() {
    let _turn = heavy::turn();
    let events = Events::new();
    let server = Server::app("plain:app")
        .workers(4)
        .env("EVENTS", events.path())
        .args(["--health-check-path", "/health"])
        .start();
    let mut blocked = server.send(&Request::get("/block?s=4"));
    events.wait_for("block begins", 1);
    let mut sessions: Vec<_> = (0..8).map(|_| server.session()).collect();
    assert_even(&by_worker(&mut sessions));
    blocked.read_response("GET").status(200);
}
