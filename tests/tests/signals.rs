//! Which signal does what, when, and to whom (scenarios 4-6, 25, 26, 34).
//!
//! To see these fail: install signal handlers after the workers are started, take SIGTERM in a worker as its own end,
//! or let a second SIGTERM restart the clock.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use pounce_tests::processes::{children, group_exists, is_running, state, wait_until};
use pounce_tests::server::{SLACK, signal_process};
use pounce_tests::{Address, Events, KeepAliveLoad, Outcome, Request, Server, ServerBuilder, Signal, heavy};

/// Nothing listens any more, and no process of it is left.
#[track_caller]
fn assert_gone(server: &Server) {
    assert!(matches!(server.get("/"), Outcome::RefusedBeforeSending(_)), "something still listens");
    wait_until("no process is left", SLACK, || !group_exists(server.pid()));
}

#[test]
fn s05_a_second_sigterm_changes_nothing() {
    let mut server = Server::demo().start();
    let mut running = server.send(&Request::get("/slow?s=2"));
    thread::sleep(Duration::from_millis(200));
    server.begin_drain();
    for _ in 0..3 {
        server.signal(Signal::TERM);
        thread::sleep(Duration::from_millis(100));
    }
    running.read_response("GET").status(200);
    server.assert_exit(0, Duration::from_secs(2) + SLACK);
    assert_gone(&server);
}

#[test]
fn s05_a_second_sigterm_does_not_extend_the_deadline() {
    let mut server = Server::demo().shutdown_timeout(3.0).start();
    let mut running = server.send(&Request::get("/slow?s=60"));
    thread::sleep(Duration::from_millis(200));
    server.signal(Signal::TERM);
    let signalled = Instant::now();
    thread::sleep(Duration::from_millis(2500));
    server.signal(Signal::TERM);
    running.read_response("GET").status(503);
    let cut = signalled.elapsed();
    assert!(cut < Duration::from_millis(5300), "cut after {cut:?}; the budget was 3 s");
    server.assert_exit(4, Duration::from_secs(1) + SLACK);
}

#[test]
fn s05_sigint_during_a_drain_cuts_it_short() {
    let mut server = Server::demo().workers(2).shutdown_timeout(60.0).start();
    let mut running = server.send(&Request::get("/slow?s=60"));
    thread::sleep(Duration::from_millis(200));
    server.begin_drain();
    server.signal(Signal::INT);
    running.read_response("GET").status(503);
    server.assert_exit(4, Duration::from_secs(1) + SLACK);
    assert_gone(&server);
}

#[test]
fn s05_sigint_during_a_drain_ends_a_worker_that_is_stuck() {
    let events = Events::new();
    let mut server = Server::app("plain:app").env("EVENTS", events.path()).shutdown_timeout(60.0).start();
    let mut stuck = server.send(&Request::get("/block?s=60"));
    events.wait_for("block begins", 1);
    server.begin_drain();
    server.signal(Signal::INT);
    stuck.read_response("GET").status(503);
    server.assert_exit(4, Duration::from_secs(1) + SLACK);
}

#[test]
fn s05_a_further_sigint_kills() {
    let events = Events::new();
    let mut server = Server::app("plain:app").env("EVENTS", events.path()).shutdown_timeout(60.0).start();
    let _stuck = server.send(&Request::get("/block?s=60"));
    events.wait_for("block begins", 1);
    for _ in 0..3 {
        server.signal(Signal::INT);
        thread::sleep(Duration::from_millis(20));
    }
    server.assert_exit(4, Duration::from_secs(1) + SLACK);
    assert_gone(&server);
}

#[test]
fn s05_sigquit_stops_now() {
    let mut server = Server::demo().workers(2).shutdown_timeout(60.0).start();
    let _running = server.send(&Request::get("/slow?s=60"));
    thread::sleep(Duration::from_millis(200));
    server.signal(Signal::QUIT);
    server.assert_exit(4, Duration::from_secs(1) + SLACK);
    assert_gone(&server);
}

#[test]
fn sigint_drains_like_sigterm() {
    let mut server = Server::demo().start();
    let mut running = server.send(&Request::get("/slow?s=1"));
    thread::sleep(Duration::from_millis(200));
    server.signal(Signal::INT);
    assert!(running.read_response("GET").status(200).connection_close);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
    server.wait_for_line("Received SIGINT — initiating shutdown");
}

#[test]
fn sighup_during_a_drain_is_ignored() {
    let mut server = Server::demo().start();
    let mut running = server.send(&Request::get("/slow?s=1.5"));
    thread::sleep(Duration::from_millis(200));
    server.begin_drain();
    let workers = server.workers();
    server.signal(Signal::HUP);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(server.workers(), workers);
    running.read_response("GET").status(200);
    server.assert_exit(0, Duration::from_secs(2) + SLACK);
}

fn supervisor_killed(server: ServerBuilder, slow: &str) {
    let server = server.workers(2).shutdown_timeout(5.0).start();
    let port = server.port();
    let workers = server.workers();
    assert_eq!(workers.len(), 2);
    let mut idle = server.session();
    idle.get("/").status(200);
    let mut running = server.send(&Request::get(slow));
    thread::sleep(Duration::from_millis(300));
    server.signal(Signal::KILL);
    running.read_response("GET").status(200);
    wait_until("the workers ended", Duration::from_secs(5 + 1) + SLACK, || {
        !workers.iter().any(|pid| is_running(*pid))
    });
    std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
}

#[test]
fn s06_workers_whose_supervisor_was_killed_drain_and_end() {
    supervisor_killed(Server::demo(), "/slow?s=1");
    supervisor_killed(Server::app("plain:app"), "/slow?s=1");
}

#[test]
fn s06_a_stuck_worker_whose_supervisor_was_killed_ends_at_the_deadline() {
    let events = Events::new();
    let server = Server::app("plain:app").env("EVENTS", events.path()).shutdown_timeout(2.0).start();
    let workers = server.workers();
    let _stuck = server.send(&Request::get("/block?s=60"));
    events.wait_for("block begins", 1);
    server.signal(Signal::KILL);
    wait_until("the worker ended", Duration::from_secs(2 + 1) + SLACK, || !is_running(workers[0]));
}

fn one_worker_told_to_stop(server: ServerBuilder, slow: &str) {
    let mut server = server.workers(2).start();
    let before = server.workers();
    assert_eq!(before.len(), 2);
    // One of these is with the worker that is signalled.
    let running: Vec<_> = (0..2).map(|_| server.send(&Request::get(slow))).collect();
    let load = KeepAliveLoad::new(server.address(), 4).start();
    load.wait_for_ok(20);
    signal_process(before[0], Signal::TERM);
    wait_until("the worker is replaced", Duration::from_secs(15), || {
        let now = server.workers();
        now.len() == 2 && !now.contains(&before[0])
    });
    load.wait_for_ok(20);
    for mut connection in running {
        connection.read_response("GET").status(200);
    }
    load.stop().assert_only(&[200]);
    assert!(server.workers().contains(&before[1]), "the other worker was replaced, too");
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(2) + SLACK);
}

#[test]
fn s26_sigterm_to_one_worker_drains_and_replaces_it() {
    one_worker_told_to_stop(Server::demo(), "/slow?s=1.5");
    one_worker_told_to_stop(Server::app("plain:app"), "/slow?s=1.5");
}

fn whole_group(server: ServerBuilder, signal: Signal) {
    let mut server = server.workers(3).start();
    let mut running: Vec<_> = (0..3).map(|_| server.send(&Request::get("/slow?s=1.5"))).collect();
    thread::sleep(Duration::from_millis(300));
    server.signal_group(signal);
    for connection in &mut running {
        connection.read_response("GET").status(200);
    }
    server.assert_exit(0, Duration::from_secs(2) + SLACK);
    assert_eq!(server.count("initiating shutdown"), 1, "{}", server.log_text());
    for worker in 1..=3 {
        assert_eq!(server.count(&format!("Worker {worker} stopped")), 1, "{}", server.log_text());
    }
    assert_eq!(server.count("Traceback"), 0, "{}", server.log_text());
    assert_gone(&server);
}

#[test]
fn s26_a_signal_to_the_whole_process_group_is_one_shutdown() {
    for signal in [Signal::TERM, Signal::INT] {
        whole_group(Server::demo(), signal);
        whole_group(Server::app("plain:app"), signal);
    }
}

/// The signals come at the earliest moment at which there is code of anybody's: long before there are handlers.
#[test]
fn s26_signals_to_a_worker_that_is_not_yet_listening_wait_for_its_handlers() {
    let dir = tempfile::tempdir().unwrap();
    let early = "import os, signal\n\
                 if 'POUNCE_CONTROL_FD' in os.environ:\n    \
                     for name in ('SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'):\n        \
                         os.kill(os.getpid(), getattr(signal, name))\n    \
                     open(os.environ['REACHED'], 'a').close()\n";
    fs::write(dir.path().join("sitecustomize.py"), early).unwrap();
    let reached = dir.path().join("reached");
    let server = Server::app("plain:app").env("PYTHONPATH", dir.path()).env("REACHED", &reached).start();
    assert!(reached.exists(), "the interpreter did not run the test's code");
    server.get("/").status(200);
    assert_eq!(server.count("died"), 0, "{}", server.log_text());
}

#[test]
fn processes_of_the_application_inherit_no_blocked_signal() {
    let server = Server::app("masks:app").start();
    let answer = server.get("/").status(200);
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    let masks: Vec<_> = body.lines().filter_map(|line| line.strip_prefix("SigBlk:")).collect();
    assert_eq!(masks.len(), 2, "{body}");
    assert!(masks.iter().all(|mask| mask.trim().bytes().all(|digit| digit == b'0')), "{body}");
}

fn sighup_to_the_whole_group(server: ServerBuilder) {
    let mut server = server.workers(2).start();
    let mut running = server.send(&Request::get("/slow?s=2"));
    thread::sleep(Duration::from_millis(200));
    server.signal_group(Signal::HUP);
    running.read_response("GET").status(200);
    server.wait_for_line("Generation 2 is serving");
    assert_eq!(server.count("died"), 0, "{}", server.log_text());
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(2) + SLACK);
}

#[test]
fn s29_sighup_to_the_whole_group_is_a_reload_and_kills_nobody() {
    sighup_to_the_whole_group(Server::demo());
    sighup_to_the_whole_group(Server::app("plain:app"));
}

#[test]
fn s34_a_killed_worker_is_replaced_and_the_others_serve_on() {
    let mut server = Server::demo().workers(2).start();
    let before = server.workers();
    let mut running: Vec<_> = (0..2).map(|_| server.send(&Request::get("/slow?s=2"))).collect();
    thread::sleep(Duration::from_millis(300));
    signal_process(before[0], Signal::KILL);
    // New connections are served all the time.
    for _ in 0..50 {
        server.get("/").status(200);
    }
    wait_until("the worker is replaced", Duration::from_secs(15), || {
        let now = server.workers();
        now.len() == 2 && !now.contains(&before[0])
    });
    let outcomes: Vec<_> = running.iter_mut().map(|connection| connection.read_response("GET")).collect();
    let answered = outcomes.iter().filter(|outcome| !outcome.is_lost()).count();
    assert_eq!(answered, 1, "{outcomes:?}");
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
}

#[test]
fn s04_as_pid_1_it_reaps_strangers() {
    let mut inside = std::process::Command::new("unshare");
    inside.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "true"]);
    if !inside.output().is_ok_and(|output| output.status.success()) {
        pounce_tests::skip::skipped(
            "no pid namespace can be made here (unshare --user --pid), pid 1 is NOT tested",
        );
        return;
    }
    let mut server = Server::app("plain:app")
        .wrapped(&["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"])
        .start();
    let first = children(server.pid())[0];
    for _ in 0..5 {
        server.get("/orphan").status(200);
    }
    wait_until("the orphans were reaped", Duration::from_secs(10), || {
        let adopted = children(first);
        adopted.len() == 1 && adopted.iter().all(|pid| state(*pid) != Some('Z'))
    });
    signal_process(first, Signal::TERM);
    server.assert_exit(0, Duration::from_secs(2) + SLACK);
}

/// Whether the process catches or blocks SIGTERM: before that, nothing that it could do would help.
fn catches_sigterm(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .filter_map(|line| line.strip_prefix("SigCgt:").or(line.strip_prefix("SigBlk:")))
        .any(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & (1 << 14) != 0))
}

/// Starts a server, signals it `delay` after it could first notice, and says what was wrong with its end.
fn sigterm_after(server: &ServerBuilder, delay: Duration, ready_not_before: Duration) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    notify.set_nonblocking(true).unwrap();
    let mut command = server.command();
    command.arg("--bind").arg(format!("unix:{}", socket.display()));
    command.env("NOTIFY_SOCKET", dir.path().join("notify"));
    let mut server = Server::spawn_command(command);
    let begin = Instant::now();
    wait_until("SIGTERM is caught", Duration::from_secs(20), || {
        catches_sigterm(server.pid()) || server.try_wait().is_some()
    });
    thread::sleep(delay);
    server.signal(Signal::TERM);
    let signalled = begin.elapsed();
    let status = server.wait(Duration::from_secs(1) + 2 * SLACK);
    if status.code() != Some(0) {
        return Err(format!("{status}\n{}", server.log_text()));
    }
    if group_exists(server.pid()) {
        return Err("a process is left".into());
    }
    if socket.exists() {
        return Err("the socket's file is left".into());
    }
    let mut told = String::new();
    let mut buffer = [0; 4096];
    while let Ok(n) = notify.recv(&mut buffer) {
        told.push_str(&String::from_utf8_lossy(&buffer[..n]));
        told.push('\n');
    }
    if signalled < ready_not_before && told.contains("READY=1") {
        return Err(format!("READY=1 after SIGTERM:\n{told}\n{}", server.log_text()));
    }
    Ok(())
}

/// SIGTERM at every step, `at_a_time` servers at a time.
fn sigterm_at_steps(
    server: &ServerBuilder,
    steps: std::ops::Range<u64>,
    at_a_time: usize,
    ready_not_before: Duration,
) {
    let next = Mutex::new(steps);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let Some(step) = next.lock().unwrap().next() else { return };
                    let delay = Duration::from_millis(5 * step);
                    if let Err(failure) = sigterm_after(server, delay, ready_not_before) {
                        failures.lock().unwrap().push(format!("SIGTERM after {delay:?}: {failure}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failure(s), the first:\n{}", failures.len(), failures[0]);
}

#[test]
fn s25_sigterm_at_any_moment_of_start_up_ends_it_cleanly() {
    let _turn = heavy::turn();
    // Its second and a half of starting is mostly sleep, so that two seconds of steps are affordable.
    let server = Server::app("slow_start:app").no_bind();
    sigterm_at_steps(&server, 0..400, 20, Duration::from_millis(1450));
}

#[test]
fn s25_sigterm_at_any_moment_of_the_demos_start_up_ends_it_cleanly() {
    let _turn = heavy::turn();
    sigterm_at_steps(&Server::demo().workers(4).no_bind(), 0..40, 4, Duration::ZERO);
}

#[test]
fn a_unix_socket_drains_like_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut server = Server::demo().bind(format!("unix:{}", path.display())).start();
    assert_eq!(server.address(), &Address::Unix(path.clone()));
    let mut running = server.send(&Request::get("/slow?s=1"));
    thread::sleep(Duration::from_millis(200));
    server.begin_drain();
    running.read_response("GET").status(200);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
    assert!(!path.exists());
}
