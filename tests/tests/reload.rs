//! SIGHUP: one generation of workers is replaced by the next (scenarios 27-30).
//!
//! To see these fail: tell a worker that retires what a worker of a draining server is told, or the other way round; wait
//! for a worker that hangs; count the deaths in one place against the whole server.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use pounce_tests::processes::{group_exists, wait_until};
use pounce_tests::server::{SLACK, signal_process};
use pounce_tests::{Request, Server, ServerBuilder, Signal};
use tempfile::TempDir;

fn with_health(server: ServerBuilder) -> ServerBuilder {
    // Long enough that a connection is still there when it is asked.
    server.args(["--health-check-path", "/health", "--keepalive-linger", "30", "--shutdown-timeout", "60"])
}

fn worker_that_retires(server: ServerBuilder) {
    let server = with_health(server).start();
    let mut sessions: Vec<_> = (0..60).map(|_| server.session()).collect();
    for session in &mut sessions {
        session.get("/health").status(200);
    }
    let mut running = server.send(&Request::get("/stream?n=300&gap=0.1"));
    running.wait_for_first_byte();
    server.signal(Signal::HUP);
    server.wait_for_line("Generation 2 is serving");
    // It has the order, and answers on a connection that was there before.
    server.wait_for_line("Worker 1 draining");
    let mut kept = sessions.into_iter();
    let answer = kept.next().unwrap().get("/health").status(200);
    assert!(answer.connection_close, "the server stays, this connection does not");
    server.get("/health").status(200);

    server.begin_shutdown();
    // The order is on its way to it.
    while kept.next().expect("still 200 after 59 questions").get("/health").answer().status == 200 {
        thread::sleep(Duration::from_millis(10));
    }
    for mut session in kept {
        session.get("/health").status(503);
    }
}

#[test]
fn s28_a_worker_that_retires_says_200_while_the_server_stays_and_503_once_it_goes() {
    worker_that_retires(Server::demo());
    worker_that_retires(Server::app("plain:app"));
}

/// An application whose code changes.
struct Code {
    dir: TempDir,
}

impl Code {
    fn new(code: &str) -> Code {
        let this = Code { dir: tempfile::tempdir().unwrap() };
        this.change(code);
        this
    }

    fn change(&self, code: &str) {
        fs::write(self.dir.path().join("code"), code).unwrap();
    }

    fn server(&self) -> ServerBuilder {
        Server::app("changes:app").env("CODE", self.dir.path().join("code"))
    }
}

#[test]
fn s36_an_import_that_hangs_is_a_failed_start_that_names_the_worker_the_time_and_the_setting() {
    let code = Code::new("hang");
    let mut server = code.server().args(["--startup-timeout", "1.5"]).spawn();
    server.assert_exit(3, Duration::from_secs(2) + 2 * SLACK);
    let line = "Worker 1 was not ready within startup_timeout (1.5s) — force terminating";
    assert_eq!(server.count(line), 1, "{}", server.log_text());
    assert_eq!(server.count(" serving "), 0, "{}", server.log_text());
    wait_until("no process is left", SLACK, || !group_exists(server.pid()));
}

#[test]
fn s30_a_reload_whose_import_hangs_fails_and_the_old_generation_serves_on() {
    let code = Code::new("good");
    // Enough for a start on a machine that is busy.
    let mut server = code.server().workers(2).args(["--startup-timeout", "20"]).start();
    let before = server.workers();
    code.change("hang");
    server.signal(Signal::HUP);
    server.wait_for_line("was not ready within startup_timeout (20.0s)");
    server.wait_for_line("Generation 2 did not start — the old workers serve on");
    server.get("/").status(200);
    wait_until("those that hung are gone", SLACK, || server.workers() == before);
    code.change("good");
    server.signal(Signal::HUP);
    server.wait_for_line("Generation 3 is serving");
    server.get("/").status(200);
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(2) + SLACK);
}

#[test]
fn s32_after_a_reload_that_failed_a_place_that_cannot_be_filled_does_not_end_the_server() {
    let code = Code::new("good");
    let mut server = code.server().workers(2).start();
    let begin = Instant::now();
    code.change("broken");
    server.signal(Signal::HUP);
    server.wait_for_line("Generation 2 did not start — the old workers serve on");
    let before = server.workers();
    // From then on the other one counts as one that serves and does not die.
    thread::sleep(Duration::from_secs(11).saturating_sub(begin.elapsed()));
    signal_process(before[0], Signal::KILL);
    // The pause after the eighth death in a row: with nobody else there the server would have given up.
    server.wait_for_line("is replaced in 6.4s");
    server.get("/").status(200);
    code.change("good");
    wait_until("the place is filled", Duration::from_secs(20) + SLACK, || {
        server.count("is replaced in 6.4s") == 1 && server.workers().len() == 2
    });
    server.get("/").status(200);
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(2) + SLACK);
}
