//! The log, word for word. Times, ports and pids are redacted. Workers speak in no particular order among each other, so
//! neighbouring lines about workers are sorted by worker; what one worker does stays in its order.
//!
//! To see these fail: change a word of core's events.

use std::thread;
use std::time::Duration;

use pounce_tests::log_redaction::{is_stamp, redact};
use pounce_tests::server::SLACK;
use pounce_tests::{Busy, Connection, Events, Request, Server, Signal, WorkerKind, with_both, with_each};

/// The log from the first signal on.
fn from_the_signal_on(server: &Server) -> String {
    let mut lines: Vec<String> =
        server.log().into_iter().skip_while(|line| !line.contains("Received SIG")).collect();
    // Time stamps may differ within the run, the sort must not see them.
    lines = redact(&lines).lines().map(String::from).collect();
    for run in lines.chunk_by_mut(|a, b| worker(a).is_some() && worker(b).is_some()) {
        run.sort_by_key(|line| worker(line));
    }
    lines.join("\n")
}

/// The number of the worker that a line is about.
fn worker(line: &str) -> Option<u32> {
    line.split_once("Worker ")?.1.split(' ').next()?.parse().ok()
}

/// Runs `case` with both kinds of worker; the log that it returned, which must be the same.
fn same_with_both(case: impl Fn(WorkerKind) -> String + Sync) -> String {
    let [demo, python] = with_each(WorkerKind::ALL, case);
    assert_eq!(demo, python, "the logs differ");
    demo
}

/// A running response that ends after `tenths` of a second.
fn stream(server: &Server, tenths: u32) -> Connection {
    let mut connection = server.send(&Request::get(&format!("/stream?n={tenths}&gap=0.1")));
    connection.wait_for_first_byte();
    connection
}

/// What `server` says while it finishes two responses, each of which ends after `tenths` of a second.
fn log_of_a_clean_drain(mut server: Server, tenths: u32) -> String {
    let running = [stream(&server, tenths), stream(&server, tenths)];
    server.signal(Signal::TERM);
    for mut connection in running {
        connection.read_response("GET").status(200);
    }
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
    from_the_signal_on(&server)
}

#[test]
fn a_clean_drain_of_one_worker() {
    let log = same_with_both(|kind| log_of_a_clean_drain(kind.server().start(), 10));
    insta::assert_snapshot!(log, @r"
    [TIME] Received SIGTERM — initiating shutdown
    [TIME] Shutting down 1 worker(s)...
    [TIME] Worker 1 draining 2 active connection(s)...
    [TIME] Worker 1 stopped
    [TIME] All workers stopped
    ");
}

#[test]
fn a_clean_drain_of_four_workers() {
    // The first connection is dealt to worker 1, the second to worker 2.
    let log = same_with_both(|kind| log_of_a_clean_drain(kind.server().workers(4).start(), 15));
    insta::assert_snapshot!(log, @r"
    [TIME] Received SIGTERM — initiating shutdown
    [TIME] Shutting down 4 worker(s)...
    [TIME] Worker 1 draining 1 active connection(s)...
    [TIME] Worker 1 stopped
    [TIME] Worker 2 draining 1 active connection(s)...
    [TIME] Worker 2 stopped
    [TIME] Worker 3 shutting down (no active connections)
    [TIME] Worker 3 stopped
    [TIME] Worker 4 shutting down (no active connections)
    [TIME] Worker 4 stopped
    [TIME] All workers stopped
    ");
}

#[test]
fn a_drain_of_an_idle_server() {
    let log = same_with_both(|kind| {
        let mut server = kind.server().start();
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
        from_the_signal_on(&server)
    });
    insta::assert_snapshot!(log, @r"
    [TIME] Received SIGTERM — initiating shutdown
    [TIME] Shutting down 1 worker(s)...
    [TIME] Worker 1 shutting down (no active connections)
    [TIME] Worker 1 stopped
    [TIME] All workers stopped
    ");
}

#[test]
fn a_forced_drain() {
    let log = same_with_both(|kind| {
        let mut server = kind.server().shutdown_timeout(1.0).start();
        let _running = stream(&server, 6000);
        server.signal(Signal::TERM);
        server.assert_exit(4, Duration::from_secs(1 + 1) + SLACK);
        from_the_signal_on(&server)
    });
    insta::assert_snapshot!(log, @r"
    [TIME] Received SIGTERM — initiating shutdown
    [TIME] Shutting down 1 worker(s)...
    [TIME] Worker 1 draining 1 active connection(s)...
    [TIME] Worker 1 did not stop within shutdown_timeout (1.0s) — force terminating
    [TIME] Worker 1 cut 1 request(s) at the deadline
    [TIME] Worker 1 stopped
    [TIME] All workers stopped
    ");
}

#[test]
fn a_forced_drain_of_a_stuck_application() {
    let [log, other] = with_each(Busy::ALL, |busy| {
        let events = Events::new();
        let mut server =
            WorkerKind::Python.server().env("EVENTS", events.path()).shutdown_timeout(1.0).start();
        let _stuck = server.send(&busy.request(60));
        events.wait_for(busy.begins(), 1);
        server.signal(Signal::TERM);
        server.assert_exit(4, Duration::from_secs(1 + 1) + SLACK);
        from_the_signal_on(&server)
    });
    assert_eq!(log, other, "the logs differ");
    insta::assert_snapshot!(log, @r"
    [TIME] Received SIGTERM — initiating shutdown
    [TIME] Shutting down 1 worker(s)...
    [TIME] Worker 1 draining 1 active connection(s)...
    [TIME] Worker 1 did not stop within shutdown_timeout (1.0s) — force terminating
    [TIME] Worker 1 cut 1 request(s) at the deadline
    [TIME] Worker 1 stopped
    [TIME] All workers stopped
    ");
}

#[test]
fn a_drain_delay_is_announced() {
    let log = same_with_both(|kind| {
        let mut server = kind.server().args(["--drain-delay", "1"]).start();
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(1 + 1) + SLACK);
        from_the_signal_on(&server)
    });
    insta::assert_snapshot!(log, @r"
    [TIME] Received SIGTERM — initiating shutdown
    [TIME] Not ready any more, taking new work for another 1.0s (drain_delay)
    [TIME] Shutting down 1 worker(s)...
    [TIME] Worker 1 shutting down (no active connections)
    [TIME] Worker 1 stopped
    [TIME] All workers stopped
    ");
}

#[test]
fn second_signals() {
    let log = same_with_both(|kind| {
        let mut server = kind.server().shutdown_timeout(60.0).start();
        let _running = stream(&server, 6000);
        server.signal(Signal::TERM);
        server.wait_for_line("Worker 1 draining");
        server.signal(Signal::TERM);
        server.wait_for_line("already in progress");
        server.signal(Signal::HUP);
        server.wait_for_line("SIGHUP");
        server.signal(Signal::INT);
        server.assert_exit(4, Duration::from_secs(1) + SLACK);
        from_the_signal_on(&server)
    });
    insta::assert_snapshot!(log, @r"
    [TIME] Received SIGTERM — initiating shutdown
    [TIME] Shutting down 1 worker(s)...
    [TIME] Worker 1 draining 1 active connection(s)...
    [TIME] Received SIGTERM — shutdown already in progress
    [TIME] Received SIGHUP — ignored, a reload or shutdown is in progress
    [TIME] Received SIGINT — cutting the shutdown short
    [TIME] Worker 1 cut 1 request(s) at the deadline
    [TIME] Worker 1 stopped
    [TIME] All workers stopped
    ");
}

#[test]
fn a_start_up_failure() {
    let mut server = Server::app("import_fails:app").workers(2).spawn();
    server.assert_exit(3, Duration::from_secs(30));
    // The traceback's frames and paths are Python's; its first and its last line are what we promise.
    let told: Vec<String> = server
        .log()
        .into_iter()
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.replace("Worker 2", "Worker 1"))
        .collect();
    insta::assert_snapshot!(redact(&told), @r"
    [TIME] Worker 1 could not start the application: 'import_fails' cannot be imported: RuntimeError: no database at db.internal:5432
    Traceback (most recent call last):
    RuntimeError: no database at db.internal:5432
    ");
}

#[test]
fn every_line_has_a_time_stamp() {
    let mut server = Server::app("plain:app").workers(2).args(["--access-log"]).start();
    server.get("/").status(200);
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
    for line in server.log() {
        assert!(
            line.split_at_checked(21).is_some_and(|(stamp, rest)| is_stamp(stamp) && rest.starts_with(' ')),
            "{line:?}"
        );
    }
}

#[test]
fn the_access_log_has_one_line_per_request_also_of_the_last_ones() {
    with_both(|kind| {
        let mut server = kind.server().workers(2).args(["--access-log"]).start();
        server.get("/").status(200);
        let mut last: Vec<_> = (0..4).map(|_| server.send(&Request::get("/slow?s=1"))).collect();
        thread::sleep(Duration::from_millis(200));
        server.signal(Signal::TERM);
        for connection in &mut last {
            connection.read_response("GET").status(200);
        }
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
        let of = |path: &str| {
            server
                .log()
                .iter()
                .filter(|line| line.contains("GET") && line.contains(path) && line.contains("200"))
                .count()
        };
        assert_eq!((of("/slow?s=1"), of(" / ")), (4, 1), "{}", server.log_text());
    });
}

#[test]
fn without_the_flag_requests_are_not_logged() {
    with_both(|kind| {
        let mut server = kind.server().start();
        server.get("/").status(200);
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
        assert_eq!(server.count("GET"), 0, "{}", server.log_text());
    });
}

#[test]
fn json_logs_are_one_object_per_line_with_the_same_events() {
    with_both(|kind| {
        let mut server = kind.server().args(["--log-format", "json"]).spawn();
        server.wait_for_line(" serving ");
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
        let text = server.log_text();
        let lines = server.log();
        for line in &lines {
            let object: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert!(object.is_object(), "{line}");
        }
        for event in ["Received SIGTERM — initiating shutdown", "Worker 1 stopped", "All workers stopped"] {
            assert_eq!(lines.iter().filter(|line| line.contains(event)).count(), 1, "{event}\n{text}");
        }
    });
}

#[test]
fn the_log_level_is_obeyed() {
    with_both(|kind| {
        let mut server = kind.server().args(["--log-level", "warning"]).spawn();
        // Nothing says that it serves; it is up when it can be told to stop.
        thread::sleep(Duration::from_millis(1500));
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
        assert!(server.log().is_empty(), "{}", server.log_text());
    });
}
