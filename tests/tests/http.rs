//! HTTP/1.1 as hostile, slow and odd clients speak it (scenarios 37-43).
//!
//! To see these fail: remove a check before hyper's parser (two Hosts, obs-fold, bare CR), swap two timeouts, or hand a
//! body that was cut to the application as if it were complete.

use std::thread;
use std::time::{Duration, Instant};

use pounce_tests::client::once;
use pounce_tests::server::SLACK;
use pounce_tests::{Answer, Close, Connection, Events, Outcome, Request, Server, Signal, with_both};

/// Sends raw bytes on a connection of their own; the answer, and how the connection ended.
fn raw(server: &Server, wire: &[u8]) -> (Outcome, Close) {
    let mut connection = server.connect();
    connection.send(wire);
    let outcome = connection.read_response("GET");
    let (rest, close) = connection.read_to_end(SLACK);
    assert!(rest.is_empty(), "bytes after the answer: {:?}", String::from_utf8_lossy(&rest));
    (outcome, close)
}

/// The request is refused with one of these statuses, the connection ends with FIN, the server lives on; what is wrong
/// otherwise.
fn refusal(server: &Server, wire: &[u8], allowed: &[u16]) -> Result<(), String> {
    let (outcome, close) = raw(server, wire);
    let Outcome::Answered(answer) = outcome else { return Err(outcome.to_string()) };
    if !allowed.contains(&answer.status) {
        return Err(format!("{} instead of {allowed:?}", answer.status));
    }
    if !answer.connection_close {
        return Err(format!("no `Connection: close` in {:?}", answer.headers));
    }
    if close != Close::Fin {
        return Err(format!("the connection ended with {close:?}"));
    }
    match server.get("/") {
        Outcome::Answered(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("the next client was {other}")),
    }
}

/// All of these are refused.
#[track_caller]
fn assert_refused<W: AsRef<[u8]>>(server: &Server, allowed: &[u16], cases: &[(&str, W)]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(what, wire)| {
            Some(format!("{what}: {}", refusal(server, wire.as_ref(), allowed).err()?))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} requests:\n  {}", wrong.len(), cases.len(), wrong.join("\n  "));
}

#[test]
fn s37_ambiguous_or_malformed_heads_get_400_and_the_connection_is_closed() {
    let server = Server::demo().start();
    let malformed = [
        (
            "Content-Length and Transfer-Encoding",
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "two different Content-Lengths",
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        ),
        (
            "a list of different Content-Lengths",
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd",
        ),
        ("a negative Content-Length", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        ("a signed Content-Length", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc"),
        ("a hexadecimal Content-Length", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc"),
        (
            "an enormous Content-Length",
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
        ),
        ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("no Host", "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"),
        ("a bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
        ("obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        ("a field without a colon", "GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n"),
        ("an empty field name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
        ("a method that is no token", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a request line of one word", "GET\r\nHost: a\r\n\r\n"),
        ("a target without a slash", "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an asterisk that is not for OPTIONS", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("the first bytes of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n"),
    ];
    assert_refused(&server, &[400], &malformed);
    let unknown = [
        (
            "a coding that nobody knows",
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked that is not last",
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        ),
        ("a tunnel", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        ("a version of the future", "GET / HTTP/9.9\r\nHost: a\r\n\r\n"),
    ];
    assert_refused(&server, &[400, 501, 505], &unknown);
}

#[test]
fn s37_malformed_chunks_get_400_and_the_application_sees_no_whole_body() {
    let events = Events::new();
    let server = Server::app("plain:app").env("EVENTS", events.path()).start();
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let cases = [
        ("a chunk size that is no number", "xyz\r\nabc\r\n0\r\n\r\n"),
        ("a negative chunk size", "-3\r\nabc\r\n0\r\n\r\n"),
        ("an empty chunk size", "\r\nabc\r\n0\r\n\r\n"),
        ("an enormous chunk size", "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("no CRLF after a chunk", "2\r\nabcdef\r\n0\r\n\r\n"),
    ]
    .map(|(what, rest)| (what, format!("{head}{rest}")));
    assert_refused(&server, &[400], &cases);
    let complete: Vec<_> =
        events.all().into_iter().filter(|(_, event)| event.ends_with("complete")).collect();
    assert!(complete.is_empty(), "{complete:?}");
}

#[test]
fn s38_too_many_or_too_large_headers_get_431() {
    let server = Server::demo().start();
    let many = (0..150).fold(Request::get("/"), |request, i| request.header(&format!("X-{i}"), "x"));
    let large = Request::get("/").header("X-Large", &"x".repeat(200 * 1024));
    assert_refused(&server, &[431], &[("150 fields", many.encode()), ("200 KiB", large.encode())]);
    let within =
        (0..60).fold(Request::get("/"), |request, i| request.header(&format!("X-{i}"), &"x".repeat(500)));
    once(server.address(), &within).status(200);
}

#[test]
fn s38_too_large_a_body_gets_413_and_is_never_complete_to_the_application() {
    let events = Events::new();
    let server =
        Server::app("plain:app").env("EVENTS", events.path()).args(["--max-body-size", "100000"]).start();
    let fits = vec![b'x'; 100_000];
    once(server.address(), &Request::post("/echo", fits.clone())).status(200);
    once(server.address(), &Request::post_chunked("/echo", &[&fits])).status(200);
    let (half, byte) = (vec![b'x'; 50_000], b"x");
    for request in [
        Request::post("/echo", [fits.as_slice(), byte].concat()),
        Request::post_chunked("/echo", &[&half, &half, byte]),
        Request::post_chunked("/echo", &[&half, &half, &half, &half]),
    ] {
        let mut connection = server.send(&request);
        connection.patience = Duration::from_secs(10);
        assert!(connection.read_response("POST").status(413).connection_close);
    }
    server.get("/").status(200);
    let complete = events.all().into_iter().filter(|(_, event)| event.ends_with("complete")).count();
    assert_eq!(complete, 2, "{:?}", events.all());
}

#[test]
fn s39_a_slow_head_gets_408_and_an_idle_connection_does_not() {
    with_both(|kind| {
        let server = kind.server().args(["--header-timeout", "1", "--keep-alive-timeout", "30"]).start();
        let mut slow = server.connect();
        slow.send(b"GET / HTTP/1.1\r\nHost: a\r\n");
        let mut idle = server.session();
        idle.get("/").status(200);
        let mut slow_again = server.connect();
        slow_again.request(&Request::get("/")).status(200);
        slow_again.send(b"GET / HTT");
        assert!(slow.read_response("GET").status(408).connection_close);
        assert_eq!(slow.wait_for_close(SLACK), Close::Fin);
        assert!(slow_again.read_response("GET").status(408).connection_close);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(idle.connection().map(Connection::state), Some(Close::StillOpen));
        idle.get("/").status(200);
    });
}

#[test]
fn s39_an_idle_connection_is_closed_after_keep_alive_timeout_without_a_word() {
    with_both(|kind| {
        let server = kind.server().args(["--keep-alive-timeout", "0.5", "--header-timeout", "30"]).start();
        let mut connection = server.connect();
        connection.request(&Request::get("/")).status(200);
        let mut busy = server.send(&Request::get("/slow?s=1.5"));
        assert_eq!(connection.wait_for_close(Duration::from_millis(500) + SLACK), Close::Fin);
        // A head that takes longer than an idle connection may live is not idle.
        let mut slow = server.connect();
        slow.send(b"GET / HTTP/1.1\r\n");
        thread::sleep(Duration::from_millis(1000));
        slow.send(b"Host: a\r\n\r\n");
        slow.read_response("GET").status(200);
        busy.read_response("GET").status(200);
    });
}

#[test]
fn s39_a_body_without_progress_gets_408_and_one_with_progress_does_not() {
    let server = Server::app("plain:app").args(["--body-timeout", "1"]).start();
    let request = Request::post("/echo", "0123456789");
    let mut stalled = server.connect();
    stalled.send(&request.encode_head());
    stalled.send(b"01234");
    let mut slow = server.connect();
    slow.send(&request.encode_head());
    slow.send_slowly(&request.encode_body(), 2, Duration::from_millis(400));
    assert_eq!(slow.read_response("POST").status(200).text(), "0123456789");
    assert!(stalled.read_response("POST").status(408).connection_close);
    assert_eq!(stalled.wait_for_close(SLACK), Close::Fin);
}

/// Asks for `size` bytes with a receive buffer of `buffer` bytes, and pauses after each `piece` of them.
fn read_at(server: &Server, size: usize, buffer: usize, piece: usize, pause: Duration) -> Outcome {
    let mut connection = Connection::open_with_receive_buffer(server.address(), buffer).unwrap();
    connection.send(&Request::get(&format!("/big?n={size}")).encode());
    connection.read_response_slowly("GET", piece, pause)
}

#[test]
fn s39_a_client_that_does_not_read_is_closed_and_one_that_reads_on_is_not() {
    let events = Events::new();
    let server = Server::app("plain:app").env("EVENTS", events.path()).args(["--write-timeout", "1"]).start();
    let mut stuck = Connection::open_with_receive_buffer(server.address(), 16 * 1024).unwrap();
    stuck.send(&Request::get("/big?n=33554432").encode());
    events.wait_for("big begins", 1);
    // 16 MiB in 4 s or more: longer than the timeout in total, and never without progress for that long.
    let answer = read_at(&server, 16 << 20, 512 * 1024, 256 * 1024, Duration::from_millis(60)).status(200);
    assert_eq!(answer.body.len(), 16 << 20);
    let outcome = stuck.read_response("GET");
    assert!(matches!(outcome, Outcome::Truncated { .. } | Outcome::Reset { .. }), "{outcome}");
}

#[test]
fn s39_a_client_that_reads_so_slowly_that_the_socket_buffer_hides_it_is_not_closed() {
    let server = Server::app("plain:app").args(["--write-timeout", "1"]).start();
    // 400 KiB/s: the kernel tells the server that there is room only when a third of some MiB was taken.
    read_at(&server, 6 << 20, 16 * 1024, 16 * 1024, Duration::from_millis(40)).status(200);
}

#[test]
fn s40_request_timeout_cancels_the_handler_and_the_worker_lives_on() {
    let events = Events::new();
    let server =
        Server::app("plain:app").env("EVENTS", events.path()).args(["--request-timeout", "0.5"]).start();
    let before = server.get("/pid").status(200).text();
    let asked = Instant::now();
    once(server.address(), &Request::get("/cancellable?s=60")).status(504);
    assert!(asked.elapsed() >= Duration::from_millis(450), "504 after {:?}", asked.elapsed());
    events.wait_for("cancelled", 1);
    assert_eq!(server.get("/pid").status(200).text(), before);
}

#[test]
fn s40_request_timeout_holds_while_python_is_blocked() {
    let server = Server::app("plain:app").args(["--request-timeout", "0.5"]).start();
    let asked = Instant::now();
    once(server.address(), &Request::get("/block?s=8")).status(504);
    assert!(asked.elapsed() < Duration::from_secs(6), "504 after {:?}", asked.elapsed());
}

#[test]
fn s41_head_has_the_length_of_get_and_no_body() {
    for server in [Server::demo().start(), Server::app("plain:app").start()] {
        let mut session = server.session();
        let get = session.get("/").status(200);
        let head = session.request(&Request::head("/")).status(200);
        // A body after HEAD would be taken for the next response.
        session.get("/").status(200);
        assert_eq!(head.header("content-length"), get.header("content-length"));
        assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
    }
}

#[test]
fn s41_expect_100_continue_gets_an_interim_response_before_the_body_is_sent() {
    // Not the demo: it answers before it reads, and a final response makes the interim one pointless.
    let server = Server::app("plain:app").start();
    let request = Request::post("/echo", "hello").header("Expect", "100-continue");
    let mut connection = server.connect();
    connection.send(&request.encode_head());
    connection.wait_for_first_byte();
    connection.send(&request.encode_body());
    let answer: Answer = connection.read_response("POST").status(200);
    assert_eq!((answer.interim.as_slice(), answer.text().as_str()), ([100].as_slice(), "hello"));
    connection.request(&Request::get("/")).status(200);
}

#[test]
fn s41_another_expectation_is_ignored_as_by_nginx_and_uvicorn() {
    let server = Server::app("plain:app").start();
    let mut connection = server.connect();
    let answer = connection.request(&Request::post("/echo", "hello").header("Expect", "202-accepted"));
    let answer: Answer = answer.status(200);
    assert_eq!((answer.interim.len(), answer.text().as_str()), (0, "hello"));
    connection.request(&Request::get("/")).status(200);
}

#[test]
fn s41_a_client_that_closes_is_a_disconnect() {
    let events = Events::new();
    let server = Server::app("plain:app").env("EVENTS", events.path()).start();
    let connection = server.send(&Request::get("/until-gone"));
    events.wait_for("waiting", 1);
    drop(connection);
    events.wait_for("http.disconnect", 1);
}

#[test]
fn s41_a_client_that_resets_is_a_disconnect() {
    let events = Events::new();
    let server = Server::app("plain:app").env("EVENTS", events.path()).start();
    let connection = server.send(&Request::get("/until-gone"));
    events.wait_for("waiting", 1);
    connection.reset();
    events.wait_for("http.disconnect", 1);
}

#[test]
fn s41_work_after_a_complete_response_goes_on_when_the_client_is_gone() {
    let events = Events::new();
    let server = Server::app("plain:app").env("EVENTS", events.path()).start();
    let mut connection = server.connect();
    connection.request(&Request::get("/background?s=0.7")).status(200);
    drop(connection);
    events.wait_for("background ends", 1);
}

#[test]
fn s42_a_line_break_in_an_applications_header_is_never_on_the_wire() {
    let events = Events::new();
    let server = Server::app("plain:app").env("EVENTS", events.path()).start();
    let answer = server.get("/bad-header").status(500);
    assert!(
        answer.header("x-injected").is_none() && answer.header("x-evil").is_none(),
        "{:?}",
        answer.headers
    );
    assert!(events.all().iter().any(|(_, event)| event.starts_with("refused: ")), "{:?}", events.all());
    server.get("/").status(200);
}

#[test]
fn s43_one_connection_too_many_reads_a_whole_503() {
    with_both(|kind| {
        let mut server = kind.server().workers(2).args(["--max-connections", "4"]).start();
        let mut held: Vec<_> = (0..4).map(|_| server.session()).collect();
        for session in &mut held {
            session.get("/").status(200);
        }
        for _ in 0..3 {
            let mut extra = server.connect();
            assert!(extra.request(&Request::get("/")).status(503).connection_close);
            assert_eq!(extra.wait_for_close(SLACK), Close::Fin);
        }
        for session in &mut held {
            session.get("/").status(200);
        }
        held.pop();
        pounce_tests::processes::wait_until("there is room again", SLACK, || {
            server.get("/").answer().status == 200
        });
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
    });
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let server = Server::demo().start();
    let (outcome, close) = raw(&server, b"GET / HTTP/1.0\r\n\r\n");
    outcome.status(200);
    assert_eq!(close, Close::Fin);
}

#[test]
fn a_large_body_is_echoed_whole() {
    let body: Vec<u8> = (0..4_000_000u32).map(|i| (i % 251) as u8).collect();
    for server in [Server::demo().start(), Server::app("plain:app").start()] {
        let mut connection = server.connect();
        // Read while writing: a service that streams its echo waits for its reader.
        let request = Request::post("/echo", body.clone()).encode();
        let answer = connection.send_while_reading(&request, 64 * 1024, "POST").status(200);
        assert!(answer.body == body, "{} bytes came back", answer.body.len());
    }
}
