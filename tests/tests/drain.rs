//! The drain: SIGTERM loses nothing and ends in time (scenarios 1-3, 7-17, 21, 22, 24; 39 during a drain, and 12 and 29
//! in a storm of new connections).
//!
//! Every case runs with both kinds of worker, and with all four of a connection's timeouts on; those that need an
//! application which blocks, swallows its cancellation or sends a lot run with Python only.
//!
//! To see these fail: call hyper's `graceful_shutdown()` on a connection, close the listener at the signal, close
//! idle connections at once (`--keepalive-linger 0`), answer 503 without reading the request, or let a connection's
//! timeouts rest while its server drains.

use std::thread;
use std::time::{Duration, Instant};

use pounce_tests::server::SLACK;
use pounce_tests::{
    Busy, Close, Connection, Events, FreshLoad, KeepAliveLoad, Ledger, Outcome, Request, RunningLoad, Server,
    Signal, WorkerKind, heavy, with_both, with_each,
};

/// A pause that lets the server get as far as it will with what was sent; nothing depends on how far that is.
fn settle() {
    thread::sleep(Duration::from_millis(200));
}

#[test]
fn s01_every_worker_stops_taking_new_work_at_sigterm() {
    with_both(|kind| {
        let mut server = kind.server().workers(4).start();
        let running: Vec<_> = (0..4).map(|_| server.send(&Request::get("/slow?s=3"))).collect();
        settle();
        let signalled = Instant::now();
        server.signal(Signal::TERM);
        while server.get("/").answer().status != 503 {}
        let noticed = signalled.elapsed();
        assert!(noticed < Duration::from_millis(100) + SLACK / 3, "new work was taken for {noticed:?}");
        for _ in 0..40 {
            server.get("/").status(503);
        }
        for mut connection in running {
            connection.read_response("GET").status(200);
        }
        server.assert_exit(0, Duration::from_secs(3) + SLACK);
    });
}

#[test]
fn s02_an_idle_server_with_idle_clients_exits_within_a_second() {
    with_both(|kind| {
        let mut server = kind.server().workers(8).shutdown_timeout(30.0).start();
        let mut sessions: Vec<_> = (0..16).map(|_| server.session()).collect();
        for session in &mut sessions {
            session.get("/").status(200);
        }
        let signalled = Instant::now();
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
        eprintln!("exit after {:?}", signalled.elapsed());
    });
}

#[test]
fn s03_stuck_workers_are_killed_together_and_their_clients_get_503() {
    let events = Events::new();
    let mut server =
        WorkerKind::Python.server().env("EVENTS", events.path()).workers(4).shutdown_timeout(3.0).start();
    let stuck: Vec<_> = Busy::ALL.iter().cycle().take(4).map(|busy| server.send(&busy.request(60))).collect();
    for busy in Busy::ALL {
        events.wait_for(busy.begins(), 2);
    }
    server.signal(Signal::TERM);
    // One after the other would take four times the budget.
    server.assert_exit(4, Duration::from_secs(3 + 1) + SLACK);
    for mut connection in stuck {
        assert!(connection.read_response("GET").status(503).connection_close);
    }
}

#[test]
fn s07_an_idle_connection_lingers_and_is_closed_with_fin() {
    with_both(|kind| {
        let mut server = kind.server().args(["--keepalive-linger", "1"]).start();
        let (mut used, mut untouched) = (server.connect(), server.connect());
        used.request(&Request::get("/")).status(200);
        untouched.request(&Request::get("/")).status(200);
        server.begin_shutdown();
        let signalled = Instant::now();
        // A request that was on the wire when the drain began looks just like this one.
        assert!(used.request(&Request::get("/")).status(200).connection_close);
        assert_eq!(used.wait_for_close(SLACK), Close::Fin);
        assert_eq!(untouched.wait_for_close(Duration::from_secs(1) + SLACK), Close::Fin);
        assert!(signalled.elapsed() > Duration::from_millis(700), "closed after {:?}", signalled.elapsed());
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
    });
}

#[test]
fn s07_a_connection_without_a_request_yet_is_served_during_the_linger() {
    with_both(|kind| {
        let mut server = kind.server().args(["--keepalive-linger", "2"]).start();
        let mut connection = server.connect();
        // Until the server has accepted it: another connection, made later, was answered.
        server.get("/").status(200);
        server.begin_shutdown();
        assert!(connection.request(&Request::get("/")).status(200).connection_close);
        server.assert_exit(0, Duration::from_secs(2) + SLACK);
    });
}

#[test]
fn s08_busy_keep_alive_clients_lose_nothing_whenever_sigterm_comes() {
    const TEXTS: [&str; 5] = ["hello", "slow", "Hello from pounce\n", "Slow, but complete\n", "echoed"];
    let _turn = heavy::turn();
    for kind in WorkerKind::ALL {
        for phase in 0..6 {
            let mut server = kind.server().workers(2).start();
            let load = KeepAliveLoad::new(server.address(), 200)
                .requests(vec![
                    Request::get("/"),
                    Request::post("/echo", "echoed"),
                    Request::get("/slow?s=0.05"),
                ])
                .check(|answer| match answer.status {
                    200 if !TEXTS.contains(&answer.text().as_str()) => Err(answer.text()),
                    _ => Ok(()),
                })
                .start();
            load.wait_for_ok(400);
            thread::sleep(Duration::from_millis(170 * phase));
            server.signal(Signal::TERM);
            server.assert_exit(0, Duration::from_secs(10));
            let ledger = load.stop();
            ledger.assert_only(&[200, 503]);
            let unannounced = ledger.closed_while_idle();
            assert_eq!(unannounced, 0, "closes that were not announced, {kind:?}, phase {phase}\n{ledger}");
        }
    }
}

#[test]
fn s08_the_current_response_of_a_busy_connection_announces_the_close() {
    with_both(|kind| {
        let mut server = kind.server().start();
        let mut connection = server.send(&Request::get("/slow?s=1.5"));
        settle();
        server.signal(Signal::TERM);
        assert!(connection.read_response("GET").status(200).connection_close);
        assert_eq!(connection.wait_for_close(SLACK), Close::Fin);
        server.assert_exit(0, SLACK);
    });
}

#[test]
fn s09_a_new_connection_during_the_drain_gets_a_complete_503() {
    with_both(|kind| {
        let mut server = kind.server().start();
        let mut running = server.send(&Request::get("/slow?s=3"));
        settle();
        server.begin_drain();
        let big = vec![b'x'; 1 << 20];
        for request in [
            Request::get("/"),
            Request::head("/"),
            Request::post("/echo", "small"),
            Request::post("/echo", big.clone()),
            Request::post_chunked("/echo", &[&big, b"and more"]),
        ] {
            let mut connection = server.send(&request);
            let answer = connection.read_response(request.method()).status(503);
            assert!(answer.connection_close, "{:?}", answer.headers);
            assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
            assert_eq!(
                connection.wait_for_close(SLACK),
                Close::Fin,
                "{} {}",
                request.method(),
                request.target()
            );
        }
        running.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(3) + SLACK);
    });
}

#[test]
fn s09_a_slow_request_during_the_drain_gets_a_complete_503() {
    with_both(|kind| {
        let mut server = kind.server().start();
        let mut running = server.send(&Request::get("/slow?s=3"));
        settle();
        server.begin_drain();
        let mut connection = server.connect();
        connection.send_slowly(&Request::get("/").encode(), 10, Duration::from_millis(50));
        connection.read_response("GET").status(503);
        running.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(3) + SLACK);
    });
}

#[test]
fn s09_a_new_connection_that_sends_nothing_does_not_delay_the_exit() {
    with_both(|kind| {
        let mut server = kind.server().start();
        let mut running = server.send(&Request::get("/slow?s=1.5"));
        settle();
        server.begin_drain();
        let mut silent = server.connect();
        running.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(3) + SLACK);
        let (bytes, close) = silent.read_to_end(SLACK);
        assert_eq!(close, Close::Fin, "{:?}", String::from_utf8_lossy(&bytes));
    });
}

#[test]
fn s10_connections_dealt_to_blocked_workers_are_answered() {
    let events = Events::new();
    let mut server = WorkerKind::Python.server().env("EVENTS", events.path()).workers(2).start();
    let blocked: Vec<_> = (0..2).map(|_| server.send(&Request::get("/block?s=2"))).collect();
    events.wait_for("block begins", 2);
    let waiting: Vec<_> = (0..60).map(|_| server.send(&Request::get("/"))).collect();
    server.signal(Signal::TERM);
    let mut ledger = Ledger::default();
    for (i, mut connection) in blocked.into_iter().chain(waiting).enumerate() {
        ledger.record(format_args!("connection {i}"), &connection.read_response("GET"));
    }
    ledger.assert_only(&[200]);
    server.assert_exit(0, Duration::from_secs(3) + SLACK);
}

#[test]
fn s10_connections_in_the_accept_queue_at_sigterm_are_served() {
    with_both(|kind| {
        let mut server = kind.server().workers(2).start();
        // A stopped supervisor does not accept: what connects now waits in the kernel's queue.
        server.signal(Signal::STOP);
        let waiting: Vec<_> = (0..60).map(|_| server.send(&Request::get("/"))).collect();
        server.signal(Signal::TERM);
        server.signal(Signal::CONT);
        let mut ledger = Ledger::default();
        for (i, mut connection) in waiting.into_iter().enumerate() {
            ledger.record(format_args!("connection {i}"), &connection.read_response("GET"));
        }
        ledger.assert_only(&[200]);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
    });
}

#[test]
fn s12_one_connection_per_request_is_answered_or_refused_across_the_whole_shutdown() {
    let _turn = heavy::turn();
    for kind in WorkerKind::ALL {
        for round in 0..3 {
            let mut server = kind.server().workers(2).start();
            let mut running = server.send(&Request::get("/slow?s=1.2"));
            let load = FreshLoad::new(server.address(), 300).start();
            load.wait_for_ok(150);
            thread::sleep(Duration::from_millis(37 * round));
            server.signal(Signal::TERM);
            running.read_response("GET").status(200);
            server.assert_exit(0, Duration::from_secs(2) + SLACK);
            pounce_tests::processes::wait_until("refusals", SLACK, || load.refused() > 5);
            let ledger = load.stop();
            ledger.assert_only(&[200, 503]);
            assert!(ledger.answered_with(503) > 0, "the shutdown saw no new connection\n{ledger}");
        }
    }
}

#[test]
fn s13_a_client_that_resets_during_its_503_makes_no_noise() {
    with_both(|kind| {
        let mut server = kind.server().start();
        let mut running = server.send(&Request::get("/slow?s=2.5"));
        settle();
        server.begin_drain();
        for i in 0..50 {
            let mut connection = server.connect();
            if i % 2 == 0 {
                connection.send(&Request::post("/echo", vec![b'x'; 100_000]).encode());
            } else {
                connection.send(&Request::get("/").encode_head()[..10]);
            }
            connection.reset();
        }
        running.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(3) + SLACK);
        let noise: Vec<String> = server
            .messages()
            .into_iter()
            .filter(|line| {
                !["serving", "Received SIGTERM", "Shutting down", "Worker 1 ", "All workers stopped"]
                    .iter()
                    .any(|known| line.contains(known))
            })
            .collect();
        assert!(noise.is_empty(), "{noise:#?}");
    });
}

#[test]
fn s14_a_request_of_which_a_part_was_sent_at_sigterm_is_answered() {
    let (get, post) = (Request::get("/"), Request::post("/echo", vec![b'x'; 10_000]));
    let chunked = Request::post_chunked("/echo", &[b"hello", b"world"]);
    let head = post.encode_head().len();
    let parts = [
        (&get, 1, "a byte of a head"),
        (&get, 20, "half of a head"),
        (&post, head, "a head, no byte of the body"),
        (&post, head + 5_000, "half of a body"),
        (&chunked, chunked.encode().len() - 8, "half of a chunk"),
    ];
    with_both(|kind| {
        let mut server = kind.server().args(["--keepalive-linger", "0.2"]).start();
        let mut waiting = Vec::new();
        for (request, first, what) in parts {
            for (reused, pause) in [(false, 300), (true, 300), (false, 1500), (true, 1500)] {
                let mut connection = server.connect();
                if reused {
                    connection.request(&Request::get("/")).status(200);
                }
                connection.send(&request.encode()[..first]);
                // The head of a response that has begun was out before anybody knew that it is the last.
                let begun = kind == WorkerKind::Demo && first >= head;
                if begun {
                    connection.wait_for_first_byte();
                }
                waiting.push((pause, connection, request, first, begun, format!("{what}, reused: {reused}")));
            }
        }
        settle();
        server.begin_shutdown();
        let signalled = Instant::now();
        // Those that wait longest hold the server for themselves at the end.
        waiting.sort_by_key(|(pause, ..)| *pause);
        for (pause, mut connection, request, first, begun, what) in waiting {
            let left = Duration::from_millis(pause).saturating_sub(signalled.elapsed());
            thread::sleep(left);
            connection.send(&request.encode()[first..]);
            let outcome = connection.read_response(request.method());
            let Outcome::Answered(answer) = outcome else { panic!("{what}: {outcome}") };
            assert_eq!((answer.status, answer.connection_close), (200, !begun), "{what}");
            assert_eq!(connection.wait_for_close(SLACK), Close::Fin, "{what}");
        }
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
    });
}

#[test]
fn s14_a_head_split_at_any_byte_is_served() {
    with_both(|kind| {
        let server = kind.server().start();
        let wire = Request::get("/").header("Accept", "*/*").encode();
        let mut connection = server.connect();
        for at in 1..wire.len() {
            connection.send(&wire[..at]);
            thread::sleep(Duration::from_millis(2));
            connection.send(&wire[at..]);
            connection.read_response("GET").status(200);
        }
    });
}

#[test]
fn s14_a_head_split_at_any_byte_is_served_across_sigterm() {
    with_both(|kind| {
        let mut server = kind.server().args(["--keepalive-linger", "0.1"]).start();
        let wire = Request::get("/").encode();
        let mut connections: Vec<Connection> = Vec::new();
        for at in 1..wire.len() {
            let mut connection = server.connect();
            connection.send(&wire[..at]);
            connections.push(connection);
        }
        settle();
        server.begin_shutdown();
        thread::sleep(Duration::from_millis(500));
        let mut ledger = Ledger::default();
        for (connection, at) in connections.iter_mut().zip(1..) {
            connection.send(&wire[at..]);
        }
        for (connection, at) in connections.iter_mut().zip(1..) {
            ledger.record(format_args!("head split after {at} bytes"), &connection.read_response("GET"));
        }
        ledger.assert_only(&[200]);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
    });
}

#[test]
fn s15_a_stream_that_runs_at_sigterm_completes() {
    with_both(|kind| {
        let mut server = kind.server().start();
        let mut connection = server.send(&Request::get("/stream?n=10&gap=0.2"));
        connection.wait_for_first_byte();
        server.signal(Signal::TERM);
        let answer = connection.read_response("GET").status(200);
        assert!(answer.body.iter().filter(|byte| **byte == b'\n').count() >= 10, "{:?}", answer.text());
        server.assert_exit(0, Duration::from_secs(2) + SLACK);
    });
}

#[test]
fn s15_a_stream_cut_at_the_deadline_ends_so_that_the_client_can_tell() {
    with_both(|kind| {
        let mut server = kind.server().shutdown_timeout(1.0).start();
        let mut connection = server.send(&Request::get("/stream?n=1000&gap=0.1"));
        connection.wait_for_first_byte();
        server.signal(Signal::TERM);
        let outcome = connection.read_response("GET");
        assert!(matches!(outcome, Outcome::Truncated { .. } | Outcome::Reset { .. }), "{outcome}");
        server.assert_exit(4, Duration::from_secs(1) + SLACK);
        server.wait_for_line("cut 1 request(s)");
    });
}

#[test]
fn s15_a_request_without_a_response_head_gets_503_at_the_deadline() {
    with_both(|kind| {
        let mut server = kind.server().workers(2).shutdown_timeout(1.0).start();
        let mut connections: Vec<_> = (0..6).map(|_| server.send(&Request::get("/slow?s=60"))).collect();
        settle();
        server.signal(Signal::TERM);
        for connection in &mut connections {
            assert!(connection.read_response("GET").status(503).connection_close);
        }
        server.assert_exit(4, Duration::from_secs(1 + 1) + SLACK);
    });
}

#[test]
fn s16_pipelined_requests_are_answered_in_order_and_the_last_announces_the_close() {
    with_both(|kind| {
        let mut server = kind.server().start();
        let mut connection = server.connect();
        let mut wire = Request::get("/slow?s=1").encode();
        for body in ["one", "two", "three"] {
            wire.extend(Request::post("/echo", body).encode());
        }
        connection.send(&wire);
        settle();
        server.begin_shutdown();
        let first = connection.read_response("GET").status(200);
        let rest: Vec<_> = (0..3).map(|_| connection.read_response("POST").status(200)).collect();
        assert_eq!(rest.iter().map(|answer| answer.text()).collect::<Vec<_>>(), ["one", "two", "three"]);
        let announced: Vec<bool> =
            std::iter::once(&first).chain(&rest).map(|answer| answer.connection_close).collect();
        assert_eq!(announced, [false, false, false, true]);
        assert_eq!(connection.wait_for_close(SLACK), Close::Fin);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
    });
}

#[test]
fn s17_a_slow_reader_gets_every_byte_across_sigterm() {
    const SIZE: usize = 16 << 20;
    let events = Events::new();
    let mut server = WorkerKind::Python.server().env("EVENTS", events.path()).start();
    let mut connection = Connection::open_with_receive_buffer(server.address(), 64 * 1024).unwrap();
    connection.send(&Request::get(&format!("/big?n={SIZE}")).encode());
    events.wait_for("big begins", 1);
    server.signal(Signal::TERM);
    let answer = connection.read_response_slowly("GET", 128 * 1024, Duration::from_millis(10)).status(200);
    assert_eq!(answer.body.len(), SIZE);
    assert!(answer.body.iter().enumerate().all(|(at, byte)| *byte == at as u8), "a byte is wrong");
    server.assert_exit(0, Duration::from_secs(3) + SLACK);
}

#[test]
fn s17_a_half_closed_client_gets_its_answer_across_sigterm() {
    with_both(|kind| {
        let mut server = kind.server().start();
        let mut connection = server.send(&Request::get("/slow?s=1.5"));
        connection.half_close();
        settle();
        server.signal(Signal::TERM);
        connection.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(2) + SLACK);
    });
}

#[test]
fn s21_a_worker_whose_python_is_busy_keeps_the_deadline_and_hinders_nobody() {
    with_each(Busy::ALL, |busy| {
        let events = Events::new();
        let mut server = WorkerKind::Python
            .server()
            .env("EVENTS", events.path())
            .args(["--health-check-path", "/health"])
            .workers(2)
            .shutdown_timeout(5.0)
            .start();
        let mut stuck = server.send(&busy.request(60));
        events.wait_for(busy.begins(), 1);
        // The other worker has fewer connections, so this one is dealt to it.
        let mut other = server.send(&Request::get("/slow?s=1.5"));
        events.wait_for("slow begins", 1);
        // And of these each gets one.
        let mut idle = [server.connect(), server.connect()];
        let mut with: Vec<_> = idle
            .iter_mut()
            .map(|connection| {
                connection.request(&Request::get("/health")).status(200).json()["worker"].as_u64()
            })
            .collect();
        with.sort_unstable();
        assert_eq!(with, [Some(1), Some(2)]);

        let signalled = Instant::now();
        server.signal(Signal::TERM);
        server.wait_for_line("Worker 1 draining");
        let told = signalled.elapsed();
        assert!(told < Duration::from_millis(100) + SLACK / 3, "it was told after {told:?}");
        server.wait_until_new_connections_get_503();
        for _ in 0..10 {
            server.get("/").status(503);
        }
        for connection in idle {
            assert_eq!(connection.wait_for_close(SLACK), Close::Fin);
        }
        other.read_response("GET").status(200);
        assert!(signalled.elapsed() < Duration::from_secs(5), "the stuck worker delayed what the others got");
        assert!(stuck.read_response("GET").status(503).connection_close);
        server.assert_exit(4, Duration::from_secs(5 + 1) + SLACK);
        assert_eq!(
            server.count("did not stop within shutdown_timeout (5.0s) — force terminating"),
            1,
            "{}",
            server.log_text()
        );
    });
}

#[test]
fn s22_an_app_that_swallows_cancellation_keeps_the_deadline() {
    let events = Events::new();
    let mut server = WorkerKind::Python.server().env("EVENTS", events.path()).shutdown_timeout(1.0).start();
    let mut connection = server.send(&Request::get("/swallow?s=60"));
    events.wait_for("swallow begins", 1);
    server.signal(Signal::TERM);
    connection.read_response("GET").status(503);
    server.assert_exit(4, Duration::from_secs(1 + 1) + SLACK);
}

#[test]
fn s24_each_worker_has_the_whole_timeout_at_the_same_time() {
    let events = Events::new();
    let mut server =
        WorkerKind::Python.server().env("EVENTS", events.path()).workers(3).shutdown_timeout(5.0).start();
    let running: Vec<_> = (0..3).map(|_| server.send(&Request::get("/slow?s=2.5"))).collect();
    events.wait_for("slow begins", 3);
    server.signal(Signal::TERM);
    for mut connection in running {
        connection.read_response("GET").status(200);
    }
    server.assert_exit(0, Duration::from_secs(3) + SLACK);
}

#[test]
fn s24_a_workers_own_abort_wins_against_the_kill() {
    let events = Events::new();
    let mut server =
        WorkerKind::Python.server().env("EVENTS", events.path()).workers(2).shutdown_timeout(1.0).start();
    let running: Vec<_> = (0..8).map(|_| server.send(&Request::get("/cancellable?s=60"))).collect();
    events.wait_for("cancellable begins", 8);
    server.signal(Signal::TERM);
    for mut connection in running {
        connection.read_response("GET").status(503);
    }
    server.assert_exit(4, Duration::from_secs(1 + 1) + SLACK);
    assert_eq!(events.count("cancelled"), 8);
}

#[test]
fn during_the_drain_delay_everything_is_served_and_closes_are_announced() {
    with_both(|kind| {
        let mut server = kind
            .server()
            .args(["--drain-delay", "2", "--keepalive-linger", "0.2", "--health-check-path", "/health"])
            .start();
        let (mut idle, mut waiting) = (server.connect(), server.connect());
        idle.request(&Request::get("/")).status(200);
        waiting.request(&Request::get("/")).status(200);
        server.begin_shutdown();
        let signalled = Instant::now();
        // Not lingering yet: an idle connection is kept for the whole delay.
        thread::sleep(Duration::from_millis(800));
        assert_eq!(waiting.state(), Close::StillOpen);
        assert!(idle.request(&Request::get("/")).status(200).connection_close);
        assert!(server.get("/").status(200).connection_close);
        server.get("/health").status(503);
        assert_eq!(waiting.wait_for_close(Duration::from_secs(2) + SLACK), Close::Fin);
        assert!(signalled.elapsed() > Duration::from_millis(1800), "closed after {:?}", signalled.elapsed());
        server.assert_exit(0, Duration::from_secs(2 + 1) + SLACK);
    });
}

#[test]
fn the_budget_is_drain_delay_plus_shutdown_timeout() {
    with_both(|kind| {
        let mut server = kind.server().args(["--drain-delay", "1"]).shutdown_timeout(1.0).start();
        let mut running = server.send(&Request::get("/slow?s=60"));
        settle();
        let signalled = Instant::now();
        server.signal(Signal::TERM);
        running.read_response("GET").status(503);
        assert!(signalled.elapsed() > Duration::from_millis(1900), "cut after {:?}", signalled.elapsed());
        server.assert_exit(4, Duration::from_secs(1 + 1) + SLACK);
    });
}

#[test]
fn the_port_is_free_after_the_exit() {
    with_both(|kind| {
        let mut server = kind.server().workers(2).start();
        let mut session = server.session();
        session.get("/").status(200);
        let pids = server.workers();
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
        assert!(matches!(server.get("/"), Outcome::RefusedBeforeSending(_)));
        assert!(pids.iter().all(|pid| !pounce_tests::processes::is_running(*pid)));
        assert_eq!(pids.len(), 2);
    });
}

#[test]
fn s39_a_head_that_stops_during_the_drain_gets_408_and_holds_it_no_longer() {
    with_both(|kind| {
        let mut server = kind.server().args(["--header-timeout", "1.5"]).shutdown_timeout(60.0).start();
        let mut slow = server.connect();
        slow.send(b"GET / HTTP/1.1\r\nHost: a\r\n");
        settle();
        server.begin_shutdown();
        assert!(slow.read_response("GET").status(408).connection_close);
        server.assert_exit(0, SLACK);
    });
}

#[test]
fn s39_a_body_that_stops_during_the_drain_gets_408_and_holds_it_no_longer() {
    // Not the demo: it begins to answer before it has the body.
    let mut server =
        WorkerKind::Python.server().args(["--body-timeout", "1.5"]).shutdown_timeout(60.0).start();
    let request = Request::post("/echo", "0123456789");
    let mut stalled = server.connect();
    stalled.send(&request.encode_head());
    stalled.send(b"01234");
    settle();
    server.begin_shutdown();
    assert!(stalled.read_response("POST").status(408).connection_close);
    server.assert_exit(0, SLACK);
}

#[test]
fn s39_a_client_that_does_not_read_during_the_drain_is_closed_and_holds_it_no_longer() {
    let events = Events::new();
    let mut server = WorkerKind::Python
        .server()
        .env("EVENTS", events.path())
        .args(["--write-timeout", "1"])
        .shutdown_timeout(60.0)
        .start();
    let mut stuck = Connection::open_with_receive_buffer(server.address(), 16 * 1024).unwrap();
    stuck.send(&Request::get("/big?n=33554432").encode());
    events.wait_for("big begins", 1);
    server.begin_shutdown();
    // Not forced: it is the client that did not want the rest.
    server.assert_exit(0, Duration::from_secs(2) + 2 * SLACK);
    let outcome = stuck.read_response("GET");
    assert!(matches!(outcome, Outcome::Truncated { .. } | Outcome::Reset { .. }), "{outcome}");
}

#[test]
fn s39_an_idle_connection_lingers_no_longer_than_keep_alive_timeout() {
    with_both(|kind| {
        let mut server = kind
            .server()
            .args(["--keep-alive-timeout", "1.5", "--keepalive-linger", "50"])
            .shutdown_timeout(60.0)
            .start();
        let mut idle = server.connect();
        idle.request(&Request::get("/")).status(200);
        server.begin_shutdown();
        assert_eq!(idle.wait_for_close(Duration::from_secs(2) + SLACK), Close::Fin);
        server.assert_exit(0, SLACK);
    });
}

/// Clients that connect anew for each request, as fast as they are answered or refused: many connections in each of
/// the supervisor's turns.
fn storm(server: &Server) -> RunningLoad {
    KeepAliveLoad::new(server.address(), 32).requests(vec![Request::get("/").close()]).impatient().start()
}

#[test]
fn s12_a_storm_of_new_connections_loses_nothing_by_a_shutdown() {
    let _turn = heavy::turn();
    for kind in WorkerKind::ALL {
        for round in 0..3 {
            let mut server = kind.server().workers(2).start();
            let storm = storm(&server);
            storm.wait_for_ok(500);
            thread::sleep(Duration::from_millis(7 * round));
            server.signal(Signal::TERM);
            server.assert_exit(0, Duration::from_secs(2) + SLACK);
            storm.stop().assert_only(&[200, 503]);
        }
    }
}

#[test]
fn s29_a_storm_of_new_connections_loses_nothing_by_a_reload() {
    let _turn = heavy::turn();
    for kind in WorkerKind::ALL {
        let mut server = kind.server().workers(2).start();
        let storm = storm(&server);
        storm.wait_for_ok(500);
        server.signal(Signal::HUP);
        server.wait_for_line("Generation 2 is serving");
        server.wait_for_line("Worker 1 stopped");
        server.wait_for_line("Worker 2 stopped");
        storm.wait_for_ok(500);
        storm.stop().assert_only(&[200]);
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(2) + SLACK);
    }
}
