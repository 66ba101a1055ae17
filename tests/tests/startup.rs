//! Start-up: what it says, what it refuses, what it leaves behind (scenarios 35, 36).
//!
//! To see these fail: respawn a worker that failed to start, print the traceback once per worker, unlink a Unix socket
//! without looking whether somebody serves it, or read the environment before the flags.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use pounce_tests::log_redaction::is_stamp;
use pounce_tests::processes::group_exists;
use pounce_tests::server::SLACK;
use pounce_tests::{Address, Server, ServerBuilder, Signal, client};

/// It ends with 3 and has said once what is wrong, and tried nothing again. `frame` stands in a line of the traceback.
#[track_caller]
fn assert_start_fails(server: &ServerBuilder, problem: &str, frame: Option<&str>) {
    let mut server = server.spawn();
    server.assert_exit(3, Duration::from_secs(30));
    let messages = server.messages();
    let said: Vec<_> =
        messages.iter().filter(|line| line.contains("could not start the application")).collect();
    assert_eq!(said.len(), 1, "{}", server.log_text());
    assert!(said[0].contains(problem), "{problem:?} is not said\n{}", server.log_text());
    let expected = usize::from(frame.is_some());
    assert_eq!(server.count("Traceback (most recent call last)"), expected, "{}", server.log_text());
    if let Some(frame) = frame {
        assert_eq!(server.count(frame), 1, "{}", server.log_text());
    }
    assert_eq!(server.count(" serving "), 0, "{}", server.log_text());
    assert_eq!(server.count("replaced"), 0, "{}", server.log_text());
    assert!(!group_exists(server.pid()), "a process is left");
}

#[test]
fn s36_a_missing_module_exits_3_with_one_message() {
    for workers in [1, 4] {
        let mut server = Server::app("no_such_module:app").workers(workers).spawn();
        server.assert_exit(3, Duration::from_secs(30));
        assert!(server.count("no_such_module") >= 1, "{}", server.log_text());
        assert!(server.count("Traceback (most recent call last)") <= 1, "{}", server.log_text());
        assert_eq!(server.count("could not start the application"), 1, "{}", server.log_text());
        assert_eq!(server.count(" serving "), 0, "{}", server.log_text());
    }
}

#[test]
fn s36_a_missing_attribute_exits_3_with_one_message() {
    let mut server = Server::app("plain:no_such_app").workers(2).spawn();
    server.assert_exit(3, Duration::from_secs(30));
    assert!(server.count("no_such_app") >= 1, "{}", server.log_text());
    assert_eq!(server.count("could not start the application"), 1, "{}", server.log_text());
}

#[test]
fn s36_an_exception_at_import_exits_3_with_one_traceback() {
    for workers in [1, 4] {
        let server = Server::app("import_fails:app").workers(workers);
        let frame = "raise RuntimeError(\"no database at db.internal:5432\")";
        assert_start_fails(&server, "RuntimeError: no database at db.internal:5432", Some(frame));
    }
}

#[test]
fn s36_a_failed_lifespan_startup_exits_3_with_its_message() {
    for workers in [1, 4] {
        let server = Server::app("startup_fails:app").workers(workers);
        assert_start_fails(&server, "no database at db.internal:5432", None);
    }
}

#[test]
fn s36_an_exception_in_lifespan_startup_exits_3_with_one_traceback() {
    let server = Server::app("startup_fails:raises").args(["--lifespan", "on"]);
    let frame = "raise RuntimeError(\"raised in lifespan.startup\")";
    assert_start_fails(&server, "raised in lifespan.startup", Some(frame));
}

#[test]
fn s36_something_that_is_no_application_exits_3() {
    let mut server = Server::app("plain:PATHS").spawn();
    server.assert_exit(3, Duration::from_secs(30));
    assert!(server.count("PATHS") >= 1, "{}", server.log_text());
}

#[test]
fn s36_a_failed_start_is_over_soon() {
    let begin = Instant::now();
    let mut server = Server::app("import_fails:app").spawn();
    server.assert_exit(3, Duration::from_secs(30));
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "a respawn loop? {:?}\n{}",
        begin.elapsed(),
        server.log_text()
    );
    assert_eq!(server.count("replaced"), 0, "{}", server.log_text());
}

#[test]
fn the_start_up_line_says_what_where_and_how_long() {
    let server = Server::app("plain:app").workers(2).shutdown_timeout(12.0).start();
    let line = server.wait_for_line(" serving ");
    assert!(line.split_at_checked(21).is_some_and(|(stamp, _)| is_stamp(stamp)), "{line}");
    let Address::Tcp(address) = server.address() else { panic!("{line}") };
    for part in ["plain:app", &format!("http://{address}"), "2 worker(s)", "CPython 3.", "budget 12"] {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    assert_eq!(server.count(" serving "), 1);
    assert!(server.stdout().is_empty(), "{:?}", server.stdout());
}

#[test]
fn s35_a_port_in_use_is_a_clear_error() {
    let first = Server::demo().start();
    let mut second = Server::demo().bind(format!("127.0.0.1:{}", first.port())).spawn();
    let code = second.exit_code(Duration::from_secs(10));
    assert!([1, 2].contains(&code), "{code}\n{}", second.log_text());
    assert_eq!(second.count("in use"), 1, "{}", second.log_text());
    assert!(second.count(&first.port().to_string()) >= 1, "{}", second.log_text());
    first.get("/").status(200);
}

#[test]
fn s35_a_stale_unix_socket_is_replaced_and_removed_at_exit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    // Closed without unlinking: nobody serves it any more.
    drop(UnixListener::bind(&path).unwrap());
    let mut server = Server::demo().bind(format!("unix:{}", path.display())).start();
    server.get("/").status(200);
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
    assert!(!path.exists());
}

#[test]
fn s35_a_live_unix_socket_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = Server::demo().bind(format!("unix:{}", path.display())).start();
    let mut second = Server::demo().no_bind().args([Path::new("--uds"), &path]).spawn();
    let code = second.exit_code(Duration::from_secs(10));
    assert!([1, 2].contains(&code), "{code}\n{}", second.log_text());
    assert_eq!(second.count("in use"), 1, "{}", second.log_text());
    first.get("/").status(200);
}

#[test]
fn s35_a_file_that_is_no_socket_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    fs::write(&path, "precious").unwrap();
    let mut server = Server::demo().bind(format!("unix:{}", path.display())).spawn();
    let code = server.exit_code(Duration::from_secs(10));
    assert!([1, 2].contains(&code), "{code}\n{}", server.log_text());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn s35_somebody_elses_unix_socket_is_not_removed_at_exit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut server = Server::demo().bind(format!("unix:{}", path.display())).start();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
    assert!(path.exists());
}

#[test]
fn several_binds_serve_the_same_application() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut server = Server::demo().args(["--bind", &format!("unix:{}", path.display())]).start();
    server.get("/").status(200);
    client::get(&Address::Unix(path.clone()), "/").status(200);
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
    assert!(!path.exists());
}

#[test]
fn ipv6_is_served() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        pounce_tests::skip::skipped("no IPv6 loopback here, IPv6 is NOT tested");
        return;
    }
    let server = Server::demo().bind("[::1]:0").start();
    server.get("/").status(200);
}

#[test]
fn the_pid_file_holds_the_supervisors_pid_and_is_removed_at_exit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    fs::write(&path, "999999999\n").unwrap();
    let mut server = Server::demo().args([Path::new("--pid-file"), &path]).start();
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), server.pid().to_string());
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
    assert!(!path.exists());
}

#[test]
fn a_pid_file_that_cannot_be_written_is_an_error_that_names_it() {
    let mut server = Server::demo().args(["--pid-file", "/nonexistent/pid"]).spawn();
    let code = server.exit_code(Duration::from_secs(10));
    assert!([1, 2].contains(&code), "{code}\n{}", server.log_text());
    assert!(server.count("/nonexistent/pid") >= 1, "{}", server.log_text());
}

/// The number of workers that the start-up line tells.
fn workers_said(server: &ServerBuilder) -> String {
    let mut server = server.start();
    let line = server.wait_for_line(" serving ");
    server.signal(Signal::TERM);
    server.assert_exit(0, Duration::from_secs(1) + SLACK);
    let (before, _) = line.split_once(" worker(s)").unwrap_or_else(|| panic!("{line}"));
    before.rsplit(' ').next().unwrap().to_string()
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let demo = || Server::demo().cwd(dir.path());
    assert_eq!(workers_said(&demo()), "1", "the default");
    fs::write(dir.path().join("pyproject.toml"), "[tool.pounce]\nworkers = 2\n").unwrap();
    assert_eq!(workers_said(&demo()), "2", "pyproject.toml");
    fs::write(dir.path().join("pounce.toml"), "workers = 3\n").unwrap();
    assert_eq!(workers_said(&demo()), "3", "pounce.toml over pyproject.toml");
    assert_eq!(workers_said(&demo().env("WEB_CONCURRENCY", "4")), "4", "WEB_CONCURRENCY over the file");
    let both = || demo().env("WEB_CONCURRENCY", "4").env("POUNCE_WORKERS", "5");
    assert_eq!(workers_said(&both()), "5", "POUNCE_WORKERS over WEB_CONCURRENCY");
    assert_eq!(workers_said(&both().args(["-w", "6"])), "6", "the flag over all");
    let other = dir.path().join("other.toml");
    fs::write(&other, "workers = 2\n").unwrap();
    assert_eq!(workers_said(&demo().args([Path::new("--config"), &other])), "2", "--config");
}

#[test]
fn the_bare_shutdown_timeout_variable_and_the_alias_of_uvicorn_set_the_budget() {
    let server = Server::demo().env("SHUTDOWN_TIMEOUT", "7").start();
    assert!(server.wait_for_line(" serving ").contains("budget 7"), "{}", server.log_text());
    let server = Server::demo().args(["--timeout-graceful-shutdown", "1500ms"]).start();
    assert!(server.wait_for_line(" serving ").contains("budget 1.5s"), "{}", server.log_text());
}

/// Ends with 2, and says all of these.
#[track_caller]
fn assert_usage_error(server: &ServerBuilder, says: &[&str]) {
    let mut server = server.spawn();
    server.assert_exit(2, Duration::from_secs(10));
    for part in says {
        assert!(server.count(part) >= 1, "{part:?} is not said\n{}", server.log_text());
    }
}

#[test]
fn bad_settings_exit_2_and_say_where_they_came_from_and_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let demo = || Server::demo().cwd(dir.path());
    assert_usage_error(&demo().args(["--shutdown-timeout", "0"]), &["shutdown", "0"]);
    assert_usage_error(&demo().args(["--shutdown-timeout", "soon"]), &["shutdown", "soon"]);
    assert_usage_error(&demo().args(["--workers", "0"]), &["workers", "0"]);
    assert_usage_error(
        &demo().args(["--shutdwon-timeout", "3"]),
        &["--shutdwon-timeout", "--shutdown-timeout"],
    );
    assert_usage_error(&demo().env("POUNCE_SHUTDOWN_TIMEOUT", "abc"), &["POUNCE_SHUTDOWN_TIMEOUT", "abc"]);
    assert_usage_error(&demo().env("WEB_CONCURRENCY", "many"), &["WEB_CONCURRENCY", "many"]);
    assert_usage_error(&demo().args(["--otel-endpoint", "http://x"]), &["does not exist yet"]);
    fs::write(dir.path().join("pounce.toml"), "wokers = 2\n").unwrap();
    assert_usage_error(&demo(), &["pounce.toml", "wokers", "workers"]);
    fs::remove_file(dir.path().join("pounce.toml")).unwrap();
    assert_usage_error(&Server::bare(), &["no application was given"]);
    assert_usage_error(&Server::app("plain"), &["plain:app"]);
}

#[test]
fn help_and_version_exit_0() {
    let mut server = Server::bare().args(["--help"]).spawn();
    server.assert_exit(0, Duration::from_secs(10));
    let help = server.stdout().join("\n");
    for flag in [
        "--shutdown-timeout",
        "--drain-delay",
        "--keepalive-linger",
        "--health-check-path",
        "--graceful-timeout",
    ] {
        assert!(help.contains(flag), "{flag} is not in --help\n{help}");
    }
    let mut server = Server::bare().args(["--version"]).spawn();
    server.assert_exit(0, Duration::from_secs(10));
    assert!(server.stdout().join("\n").starts_with("pounce "), "{:?}", server.stdout());
}

#[test]
fn an_interpreter_that_does_not_exist_is_an_error_that_names_it() {
    let mut server = Server::app("plain:app").args(["--python", "/nonexistent/python"]).spawn();
    let code = server.exit_code(Duration::from_secs(20));
    assert!([2, 3].contains(&code), "{code}\n{}", server.log_text());
    assert!(server.count("/nonexistent/python") >= 1, "{}", server.log_text());
}

/// Refused before a worker is started, with the command that mends it.
fn assert_no_module(mut server: Server, complaint: &str, command: &str) {
    server.assert_exit(2, Duration::from_secs(20));
    assert_eq!((server.count(complaint), server.count(command)), (1, 1), "{}", server.log_text());
}

#[test]
fn an_extension_module_for_another_python_is_never_loaded_and_the_command_for_this_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let module = directory.path().join("libpounce_asgi.so");
    std::fs::write(&module, "pounce-built-for=3.9;").unwrap();
    let server = Server::app("plain:app").env("POUNCE_EXTENSION", &module).spawn();
    assert_no_module(server, "which was built for CPython 3.9", "cargo build --release");
    std::fs::write(&module, "something else").unwrap();
    let server = Server::app("plain:app").env("POUNCE_EXTENSION", &module).spawn();
    assert_no_module(server, "it is not pounce's extension module", "cargo build --release");
}

#[test]
fn an_executable_without_its_package_tells_how_to_install_it() {
    let directory = tempfile::tempdir().unwrap();
    let alone = directory.path().join("pounce");
    std::fs::copy(pounce_tests::binary::pounce(), &alone).unwrap();
    let mut command = std::process::Command::new(&alone);
    command
        .arg("plain:app")
        .current_dir(directory.path())
        .env_remove("POUNCE_EXTENSION")
        .env_remove("PYTHONPATH");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    assert_no_module(Server::spawn_command(command), "there is no pounce package for", "-m pip install .");
}
