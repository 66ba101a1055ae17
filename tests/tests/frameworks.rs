//! The frameworks that people use: a hello app of each, and its 2 s handler across SIGTERM.
//!
//! The environment is made by the tests (tests/src/venv.rs). To see these fail: cancel running tasks at SIGTERM.

use std::thread;
use std::time::Duration;

use pounce_tests::server::SLACK;
use pounce_tests::venv::python_with_frameworks;
use pounce_tests::{Request, Server, Signal};

fn survives_sigterm(app: &str, slow_paths: &[&str]) {
    let Some(python) = python_with_frameworks() else { return };
    let mut server = Server::app(app).args([std::ffi::OsStr::new("--python"), python.as_os_str()]).start();
    assert_eq!(server.get("/").status(200).text(), "hello");
    let mut connections: Vec<_> = slow_paths.iter().map(|path| server.send(&Request::get(path))).collect();
    thread::sleep(Duration::from_millis(300));
    server.signal(Signal::TERM);
    for connection in &mut connections {
        let answer = connection.read_response("GET").status(200);
        assert_eq!((answer.text().as_str(), answer.connection_close), ("slow hello", true));
    }
    server.assert_exit(0, Duration::from_secs(3) + SLACK);
    assert_eq!(server.count("Traceback"), 0, "{}", server.log_text());
}

#[test]
fn starlette_survives_sigterm() {
    survives_sigterm("hello_starlette:app", &["/slow"]);
}

#[test]
fn fastapi_survives_sigterm() {
    survives_sigterm("hello_fastapi:app", &["/slow", "/slow-in-a-thread"]);
}

#[test]
fn django_survives_sigterm() {
    survives_sigterm("hello_django:app", &["/slow"]);
}

#[test]
fn litestar_survives_sigterm() {
    survives_sigterm("hello_litestar:app", &["/slow"]);
}

#[test]
fn quart_survives_sigterm() {
    survives_sigterm("hello_quart:app", &["/slow"]);
}
