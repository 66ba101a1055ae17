//! Health (scenarios 27, 28): answered in Rust, by every worker, also while Python is busy.
//!
//! To see these fail: answer the health path in the application's event loop, or take its status from the time
//! at which the worker, not the supervisor, saw the signal.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use pounce_tests::server::SLACK;
use pounce_tests::{
    Busy, Close, Events, Request, Server, ServerBuilder, Signal, WorkerKind, with_both, with_each,
};

fn with_health(server: ServerBuilder) -> ServerBuilder {
    server.args(["--health-check-path", "/health"])
}

#[test]
fn health_says_who_answers_and_how_busy_it_is() {
    let server = with_health(Server::demo()).start();
    let answer = server.get("/health").status(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let json = answer.json();
    assert!(json["status"].is_string(), "{json}");
    assert_eq!(json["worker"], 1, "{json}");
    assert!(json["connections"].as_u64().is_some_and(|count| count >= 1), "{json}");
}

#[test]
fn s28_head_has_the_headers_of_get_and_no_body() {
    with_both(|kind| {
        let server = with_health(kind.server()).start();
        let mut session = server.session();
        let get = session.request(&Request::get("/health")).status(200);
        let head = session.request(&Request::head("/health")).status(200);
        // Read as a response without a body; had there been one, the next response would be malformed.
        session.request(&Request::get("/health")).status(200);
        let names = |headers: &[(String, String)]| {
            headers.iter().map(|(n, _)| n.to_ascii_lowercase()).collect::<Vec<_>>()
        };
        assert_eq!(names(&head.headers), names(&get.headers));
        assert_eq!(head.header("content-length"), get.header("content-length"));
        assert!(!get.body.is_empty() && head.body.is_empty());
    });
}

#[test]
fn without_the_setting_the_path_belongs_to_the_application() {
    let server = WorkerKind::Python.server().start();
    server.get("/health").status(404);
}

#[test]
fn s27_readiness_is_503_at_once_from_every_worker_on_open_connections() {
    with_both(|kind| {
        let mut server = with_health(kind.server()).workers(4).args(["--keepalive-linger", "10"]).start();
        let mut sessions: Vec<_> = (0..80).map(|_| server.session()).collect();
        for session in &mut sessions {
            session.get("/health").status(200);
        }
        let mut running = server.send(&Request::get("/slow?s=3"));
        thread::sleep(Duration::from_millis(200));
        let signalled = Instant::now();
        server.signal(Signal::TERM);
        let mut asked = sessions.iter_mut();
        let by_now = loop {
            thread::sleep(Duration::from_millis(10));
            match asked.next().expect("still 200 after 80 questions").get("/health").answer().status {
                503 => break signalled.elapsed(),
                status => assert_eq!(status, 200),
            }
        };
        assert!(by_now < Duration::from_millis(50) + SLACK / 2, "503 only after {by_now:?}");
        // One worker says so; the others got the order at the same time.
        thread::sleep(Duration::from_millis(300));
        for session in asked {
            let answer = session.get("/health").status(503);
            assert!(answer.connection_close);
            assert!(answer.json()["status"].is_string());
        }
        running.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(10) + SLACK);
    });
}

#[test]
fn s27_readiness_is_503_on_new_connections() {
    with_both(|kind| {
        let mut server = with_health(kind.server()).workers(2).start();
        let mut running = server.send(&Request::get("/slow?s=2"));
        thread::sleep(Duration::from_millis(200));
        server.begin_drain();
        for _ in 0..10 {
            assert!(server.get("/health").status(503).connection_close);
            pounce_tests::client::once(server.address(), &Request::head("/health")).status(503);
        }
        running.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(2) + SLACK);
    });
}

/// A thread that sends back what it gets: how long anything takes on this machine at this moment.
struct Echo(TcpStream);

impl Echo {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        thread::spawn(move || std::io::copy(&mut &server, &mut &server));
        Self(client)
    }

    fn ask(&mut self) {
        self.0.write_all(b"?").unwrap();
        self.0.read_exact(&mut [0]).unwrap();
    }
}

/// How long it takes.
fn time(action: impl FnOnce()) -> Duration {
    let began = Instant::now();
    action();
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn s27_health_answers_while_python_is_busy() {
    with_each(Busy::ALL, |busy| {
        let events = Events::new();
        let mut server = with_health(WorkerKind::Python.server()).env("EVENTS", events.path()).start();
        let mut echo = Echo::new();
        let (mut open, mut spare) = (server.session(), server.session());
        open.get("/health").status(200);
        spare.get("/health").status(200);
        let mut running = server.send(&busy.request(7));
        events.wait_for(busy.begins(), 1);
        let begun = Instant::now();
        let (mut answers, mut echoes) = (Vec::new(), Vec::new());
        while begun.elapsed() < Duration::from_millis(3500) {
            answers.push(time(|| drop(open.get("/health").status(200))));
            answers.push(time(|| drop(server.get("/health").status(200))));
            echoes.push(time(|| echo.ask()));
            thread::sleep(Duration::from_millis(150));
        }
        // Half of them may be late by what this machine does else: were the server late, they all would be.
        let (health, machine) = (median(answers), median(echoes));
        assert!(health < machine + Duration::from_millis(50), "{health:?}; an echo: {machine:?}");

        server.begin_shutdown();
        server.wait_for_line("Worker 1 draining");
        thread::sleep(Duration::from_millis(50));
        spare.get("/health").status(503);
        server.get("/health").status(503);
        assert_eq!(running.state(), Close::StillOpen, "Python was not busy any more");
        running.read_response("GET").status(200);
        server.assert_exit(0, Duration::from_secs(7) + SLACK);
    });
}

#[test]
fn health_connections_do_not_delay_the_exit() {
    with_both(|kind| {
        let mut server = with_health(kind.server()).start();
        let mut prober = server.session();
        prober.get("/health").status(200);
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(1) + SLACK);
        if let Some(connection) = prober.connection() {
            assert_eq!(connection.state(), Close::Fin);
        }
    });
}
