//! SIGHUP: one generation of workers is replaced by the next (scenarios 27-30).
//!
//! To see these fail: tell a worker that retires what a worker of a draining server is told, or the other way round.

use std::thread;
use std::time::Duration;

use pounce_tests::{Request, Server, ServerBuilder, Signal};

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
