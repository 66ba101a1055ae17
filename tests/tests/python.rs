//! ASGI as a real application sees it, lifespan, and how applications are named (scenario 23).
//!
//! To see these fail: run `lifespan.shutdown` when the drain begins, run it once per server instead of once per
//! worker, or end a response that the application left unfinished as if it were complete.

use std::time::{Duration, Instant};

use pounce_tests::client::once;
use pounce_tests::server::SLACK;
use pounce_tests::{Events, Outcome, Request, Server, Signal};

#[test]
fn s23_lifespan_shutdown_runs_after_the_last_request_once_per_worker() {
    let events = Events::new();
    let mut server =
        Server::app("plain:app").env("EVENTS", events.path()).env("SHUTDOWN_TAKES", "0.3").workers(2).start();
    let running: Vec<_> = (0..4).map(|_| server.send(&Request::get("/slow?s=1.5"))).collect();
    events.wait_for("slow begins", 4);
    server.signal(Signal::TERM);
    for mut connection in running {
        connection.read_response("GET").status(200);
    }
    server.assert_exit(0, Duration::from_secs(3) + SLACK);
    let all = events.all();
    let mut pids: Vec<u32> = all.iter().map(|(pid, _)| *pid).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 2, "{all:?}");
    for pid in pids {
        let of_worker: Vec<&str> = all.iter().filter(|(p, _)| *p == pid).map(|(_, e)| e.as_str()).collect();
        let expected = [
            "startup",
            "slow begins",
            "slow begins",
            "slow ends",
            "slow ends",
            "shutdown begins",
            "shutdown ends",
        ];
        assert_eq!(of_worker, expected, "worker {pid}");
    }
}

#[test]
fn s23_a_lifespan_shutdown_that_hangs_is_bounded() {
    let events = Events::new();
    let mut server = Server::app("plain:app")
        .env("EVENTS", events.path())
        .env("SHUTDOWN_TAKES", "600")
        .workers(2)
        .shutdown_timeout(2.0)
        .start();
    server.get("/").status(200);
    server.signal(Signal::TERM);
    server.assert_exit(4, Duration::from_secs(2 + 1) + SLACK);
    assert_eq!(events.count("shutdown begins"), 2);
}

#[test]
fn s23_executor_threads_that_never_end_do_not_hold_the_exit() {
    let mut server = Server::app("plain:app").shutdown_timeout(15.0).start();
    server.get("/thread").status(200);
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    server.wait(Duration::from_secs(15 + 1) + SLACK);
    eprintln!("exit after {:?}", signalled.elapsed());
}

#[test]
fn an_application_that_knows_nothing_of_lifespan_is_served() {
    Server::app("no_lifespan:app").start().get("/").status(200);
    Server::app("no_lifespan:app").args(["--lifespan", "off"]).start().get("/").status(200);
}

#[test]
fn every_way_to_name_an_application_works() {
    for (name, args) in [
        ("plain:app", vec![]),
        ("plain:nested.app", vec![]),
        ("plain:factory()", vec![]),
        ("plain:factory", vec!["--factory"]),
    ] {
        let mut server = Server::app(name).args(args).start();
        assert_eq!(server.get("/").status(200).text(), "hello", "{name}");
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(2) + SLACK);
    }
}

#[test]
fn app_dir_is_where_the_application_is_imported_from() {
    let elsewhere = tempfile::tempdir().unwrap();
    let apps = pounce_tests::binary::workspace().join("tests/apps");
    let server = Server::app("plain:app")
        .cwd(elsewhere.path())
        .args([std::ffi::OsStr::new("--app-dir"), apps.as_os_str()])
        .start();
    server.get("/").status(200);
}

#[test]
fn the_readmes_app_is_served_from_the_checkout() {
    let server = Server::app("examples.hello:app").cwd(pounce_tests::binary::workspace()).start();
    assert_eq!(server.get("/").status(200).text(), "Hello, world!\n");
}

#[test]
fn the_scope_has_every_field_of_the_specification() {
    let server = Server::app("plain:app").args(["--root-path", "/prefix"]).start();
    let mut connection = server.connect();
    let request = Request::new("GET", "/scope?a=1&b=%20").header("X-Two", "1").header("x-TWO", "2");
    let scope = connection.request(&request).status(200).json();
    assert_eq!(scope["type"], "http");
    assert!(scope["asgi"]["version"].as_str().unwrap().starts_with('3'), "{scope}");
    assert_eq!(scope["http_version"], "1.1");
    assert_eq!(scope["method"], "GET");
    assert_eq!(scope["scheme"], "http");
    assert_eq!(scope["query_string"], "a=1&b=%20");
    assert_eq!(scope["root_path"], "/prefix");
    assert!(scope["path"].as_str().unwrap().ends_with("/scope"), "{scope}");
    assert!(scope["raw_path"].as_str().unwrap().ends_with("/scope"), "{scope}");
    assert_eq!(scope["client"][0], "127.0.0.1");
    assert_eq!(scope["client"][1], connection.local_port());
    assert_eq!(scope["server"][0], "127.0.0.1");
    assert_eq!(scope["server"][1], server.port());
    assert_eq!(scope["state"]["greeting"], "set at start-up");
    let headers = scope["headers"].as_array().unwrap();
    let twos: Vec<_> = headers.iter().filter(|h| h[0] == "x-two").map(|h| h[1].as_str().unwrap()).collect();
    assert_eq!(twos, ["1", "2"]);
    assert!(headers.iter().any(|h| h[0] == "host" && h[1] == "pounce.test"), "{scope}");
}

#[test]
fn paths_are_decoded_and_the_raw_path_is_not() {
    let server = Server::app("plain:app").start();
    let scope = server.get("/%73cope").status(200).json();
    assert_eq!((scope["path"].as_str(), scope["raw_path"].as_str()), (Some("/scope"), Some("/%73cope")));
}

#[test]
fn an_application_that_raises_before_the_head_is_a_500_with_a_traceback_in_the_log() {
    let server = Server::app("plain:app").start();
    let mut session = server.session();
    let answer = session.get("/raises").status(500);
    assert!(!answer.text().contains("raised before"), "the traceback is not for the client");
    session.get("/").status(200);
    server.wait_for_line("raised before the head");
    assert_eq!(server.count("RuntimeError: raised before the head"), 1, "{}", server.log_text());
    assert!(server.count("Traceback (most recent call last)") >= 1, "{}", server.log_text());
}

#[test]
fn an_application_that_raises_after_the_head_is_never_a_complete_200() {
    let server = Server::app("plain:app").start();
    // Nothing may have been sent yet, then it can still be a 500; an end without a byte tells the client nothing.
    match server.get("/raises-late") {
        Outcome::Truncated { .. } | Outcome::Reset { .. } => {}
        outcome => assert_eq!(outcome.answer().status, 500),
    }
    server.wait_for_line("raised after the head");
}

#[test]
fn an_application_that_raises_in_the_middle_of_a_stream_truncates_it() {
    let server = Server::app("plain:app").start();
    let mut connection = server.send(&Request::get("/raises-later"));
    connection.wait_for_first_byte();
    let outcome = connection.read_response("GET");
    assert!(matches!(outcome, Outcome::Truncated { .. } | Outcome::Reset { .. }), "{outcome}");
}

#[test]
fn an_application_that_does_not_answer_is_a_500() {
    let server = Server::app("plain:app").start();
    server.get("/nothing").status(500);
}

#[test]
fn a_body_shorter_than_its_content_length_is_not_complete() {
    let server = Server::app("plain:app").start();
    // The head may still be held back, then it is a 500.
    match server.get("/short") {
        Outcome::Truncated { .. } | Outcome::Reset { .. } => {}
        outcome => assert_eq!(outcome.answer().status, 500),
    }
}

#[test]
fn bodies_of_every_framing_are_echoed() {
    let server = Server::app("plain:app").start();
    let mut session = server.session();
    let big = vec![b'x'; 300_000];
    for request in [
        Request::post("/echo", ""),
        Request::post("/echo", "hello"),
        Request::post("/echo", big.clone()),
        Request::post_chunked("/echo", &[]),
        Request::post_chunked("/echo", &[b"he", b"llo"]),
        Request::post_chunked("/echo", &[&big, b"y"]),
    ] {
        let answer = session.request(&request).status(200);
        let sent = request.encode_body().len();
        assert!(
            answer.body.len() <= sent && answer.body.len() + 64 > sent,
            "{} of {sent}",
            answer.body.len()
        );
    }
}

#[test]
fn one_loop_per_worker_serves_many_requests_at_a_time() {
    let server = Server::app("plain:app").start();
    let asked = Instant::now();
    let running: Vec<_> = (0..50).map(|_| server.send(&Request::get("/slow?s=0.5"))).collect();
    for mut connection in running {
        connection.read_response("GET").status(200);
    }
    assert!(asked.elapsed() < Duration::from_secs(10), "50 half seconds took {:?}", asked.elapsed());
}

#[test]
fn a_stream_arrives_piece_by_piece() {
    let server = Server::app("plain:app").start();
    let mut connection = server.send(&Request::get("/stream?n=3&gap=2"));
    let asked = Instant::now();
    connection.wait_for_bytes(b"HTTP/1.1 200 OK\r\n\r\nline 0".len());
    assert!(asked.elapsed() < Duration::from_secs(5), "the first line came after {:?}", asked.elapsed());
    assert_eq!(connection.read_response("GET").status(200).text(), "line 0\nline 1\nline 2\n");
}

#[test]
fn a_unix_socket_client_has_no_address() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = Server::app("plain:app").bind(format!("unix:{}", path.display())).start();
    let scope = once(server.address(), &Request::get("/scope")).status(200).json();
    assert!(scope["client"].is_null(), "{scope}");
    assert_eq!(scope["server"][0], path.to_str().unwrap());
}
