//! The client library against small servers that misbehave in exactly one way each.
//!
//! To see these fail: let `Connection::read_response` return `Unanswered` for every end of the stream, or let
//! `Session::request` retry after an end without a byte.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use pounce_tests::client::{get, once};
use pounce_tests::outcome::Refusal;
use pounce_tests::processes::wait_until;
use pounce_tests::{Address, Close, Connection, FreshLoad, KeepAliveLoad, Ledger, Outcome, Request, Session};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that treats every connection with `handle`, each on a thread of its own.
fn serve(handle: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = handle.clone();
            thread::spawn(move || handle(stream));
        }
    });
    Address::Tcp(address)
}

/// Reads one request head; false at the end of the stream.
fn read_head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

fn answer_with(wire: &'static [u8]) -> Address {
    serve(move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(wire);
    })
}

/// A port that is bound, so that nobody else gets it, and not listened to.
fn refused_address() -> Address {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    Address::Tcp(address)
}

#[test]
fn a_complete_answer_is_answered() {
    let answer = get(&answer_with(OK), "/").status(200);
    assert_eq!((answer.text().as_str(), answer.connection_close), ("ok", false));
}

#[test]
fn a_refused_connection_is_refused() {
    assert_eq!(get(&refused_address(), "/"), Outcome::RefusedBeforeSending(Refusal::Connect));
    let missing = Address::Unix("/nonexistent/socket".into());
    assert_eq!(get(&missing, "/"), Outcome::RefusedBeforeSending(Refusal::Connect));
}

#[test]
fn a_clean_end_after_the_request_is_unanswered() {
    let address = serve(|mut stream| {
        read_head(&mut stream);
    });
    assert!(matches!(get(&address, "/"), Outcome::Unanswered { sent } if sent > 0));
}

#[test]
fn a_short_body_is_truncated() {
    let short = answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok");
    assert!(matches!(get(&short, "/"), Outcome::Truncated { .. }));
}

#[test]
fn a_missing_last_chunk_is_truncated() {
    let short = answer_with(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
    assert!(matches!(get(&short, "/"), Outcome::Truncated { .. }));
}

#[test]
fn half_a_head_is_truncated() {
    assert!(matches!(get(&answer_with(b"HTTP/1.1 20"), "/"), Outcome::Truncated { received: 11, .. }));
}

#[test]
fn an_interim_response_alone_is_truncated() {
    let interim = answer_with(b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(matches!(get(&interim, "/"), Outcome::Truncated { .. }));
}

#[test]
fn a_reset_is_a_reset_with_its_bytes() {
    // Closing with unread bytes in the receive buffer sends RST.
    let address = serve(|mut stream| {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).unwrap();
        thread::sleep(Duration::from_millis(50));
    });
    assert!(matches!(get(&address, "/"), Outcome::Reset { received: 0, sent } if sent > 0));
}

#[test]
fn silence_is_a_time_out() {
    let address = serve(|mut stream| {
        read_head(&mut stream);
        thread::sleep(Duration::from_secs(5));
    });
    let mut connection = Connection::open(&address).unwrap();
    connection.patience = Duration::from_millis(100);
    assert!(matches!(connection.request(&Request::get("/")), Outcome::TimedOut { received: 0, .. }));
}

#[test]
fn an_answer_that_came_before_the_reset_counts() {
    // The server answers 413 without reading the body, and closes: RST follows the answer.
    let address = serve(|mut stream| {
        read_head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        thread::sleep(Duration::from_millis(50));
    });
    let big = vec![b'x'; 4 << 20];
    let outcome = once(&address, &Request::post("/", big));
    assert!(
        matches!(&outcome, Outcome::Answered(a) if a.status == 413)
            || matches!(outcome, Outcome::Reset { .. })
    );
}

#[test]
fn an_idle_connection_closed_before_sending_is_refused_and_the_session_goes_on() {
    let address = serve(|mut stream| {
        read_head(&mut stream);
        stream.write_all(OK).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    });
    let mut connection = Connection::open(&address).unwrap();
    connection.request(&Request::get("/")).status(200);
    assert_eq!(connection.wait_for_close(Duration::from_secs(5)), Close::Fin);
    let refused = Outcome::RefusedBeforeSending(Refusal::ClosedWhileIdle);
    assert_eq!(connection.request(&Request::get("/")), refused);

    let mut session = Session::new(&address);
    for _ in 0..3 {
        session.get("/").status(200);
        session.connection().unwrap().wait_for_close(Duration::from_secs(5));
    }
}

#[test]
fn a_request_lost_on_a_reused_connection_is_not_retried() {
    let address = serve(|mut stream| {
        read_head(&mut stream);
        stream.write_all(OK).unwrap();
        read_head(&mut stream);
    });
    let mut session = Session::new(&address);
    session.get("/").status(200);
    assert!(matches!(session.get("/"), Outcome::Unanswered { .. }));
}

#[test]
fn connection_close_is_honoured() {
    let address = answer_with(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let mut session = Session::new(&address);
    assert!(session.get("/").status(200).connection_close);
    assert!(session.connection().is_none());
}

#[test]
fn pipelined_answers_are_told_apart() {
    let address = serve(|mut stream| {
        for body in ["a", "b", "c"] {
            read_head(&mut stream);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{body}").unwrap();
        }
    });
    let mut connection = Connection::open(&address).unwrap();
    connection.send(
        &[Request::get("/1").encode(), Request::get("/2").encode(), Request::get("/3").encode()].concat(),
    );
    for body in ["a", "b", "c"] {
        assert_eq!(connection.read_response("GET").status(200).text(), body);
    }
}

#[test]
fn a_half_closed_client_still_reads() {
    let address = serve(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(OK).unwrap();
    });
    let mut connection = Connection::open(&address).unwrap();
    connection.send(&Request::get("/").encode());
    connection.half_close();
    connection.read_response("GET").status(200);
}

#[test]
fn a_reset_by_the_client_reaches_the_server() {
    let (told, heard) = std::sync::mpsc::channel();
    let address = serve(move |mut stream| {
        let error = stream.read(&mut [0; 10]).map_err(|e| e.kind());
        told.send(error).unwrap();
    });
    Connection::open(&address).unwrap().reset();
    let seen = heard.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(seen, Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_slow_reader_makes_the_server_wait() {
    let (told, heard) = std::sync::mpsc::channel();
    const SIZE: usize = 8 << 20;
    let address = serve(move |mut stream| {
        read_head(&mut stream);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").unwrap();
        let start = Instant::now();
        stream.write_all(&vec![b'x'; SIZE]).unwrap();
        told.send(start.elapsed()).unwrap();
    });
    let mut connection = Connection::open_with_receive_buffer(&address, 4096).unwrap();
    connection.send(&Request::get("/").encode());
    thread::sleep(Duration::from_millis(300));
    assert_eq!(
        connection.read_response_slowly("GET", 1 << 20, Duration::from_micros(1)).status(200).body.len(),
        SIZE
    );
    assert!(heard.recv().unwrap() >= Duration::from_millis(200));
}

#[test]
fn a_unix_socket_is_served_like_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).unwrap() > 0);
        stream.write_all(OK).unwrap();
    });
    get(&Address::Unix(path), "/").status(200);
}

/// Answers every request of a connection, and ends it as `end` says after `requests` of them.
fn keep_alive_server(requests: usize, end: fn(&mut TcpStream)) -> Address {
    serve(move |mut stream| {
        for left in (0..requests).rev() {
            if !read_head(&mut stream) {
                return;
            }
            let close = if left == 0 { "Connection: close\r\n" } else { "" };
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n{close}Content-Length: 2\r\n\r\nok");
        }
        end(&mut stream);
    })
}

#[test]
fn a_keep_alive_load_follows_connection_close_and_loses_nothing() {
    let address = keep_alive_server(10, |_| {});
    let load = KeepAliveLoad::new(&address, 20).start();
    load.wait_for_ok(1000);
    let ledger = load.stop();
    ledger.assert_only(&[200]);
    assert!(ledger.answered() >= 1000);
}

#[test]
fn a_keep_alive_load_counts_an_answer_that_never_came() {
    // The 11th request of every connection is read and never answered.
    let address = serve(|mut stream| {
        for _ in 0..10 {
            if !read_head(&mut stream) {
                return;
            }
            let _ = stream.write_all(OK);
        }
        read_head(&mut stream);
    });
    let load = KeepAliveLoad::new(&address, 4).start();
    load.wait_for_ok(100);
    let ledger = load.stop();
    assert!(ledger.lost() >= 4, "{ledger}");
}

#[test]
fn a_fresh_load_keeps_its_rate_and_counts_refusals() {
    let load = FreshLoad::new(&answer_with(OK), 200).start();
    load.wait_for_ok(50);
    load.stop().assert_only(&[200]);

    let load = FreshLoad::new(&refused_address(), 200).start();
    wait_until("a refusal", Duration::from_secs(10), || load.refused() > 0);
    load.stop().assert_nothing_lost();
}

#[test]
fn a_load_looks_at_the_answers() {
    let load = FreshLoad::new(&answer_with(OK), 100)
        .check(|answer| if answer.text() == "other" { Ok(()) } else { Err("not other".into()) })
        .start();
    thread::sleep(Duration::from_millis(500));
    assert!(load.stop().lost() > 0);
}

#[test]
#[should_panic(expected = "1 request(s) lost")]
fn a_ledger_with_a_lost_request_panics() {
    let mut ledger = Ledger::default();
    ledger.record("the first", &Outcome::Unanswered { sent: 10 });
    ledger.assert_nothing_lost();
}
