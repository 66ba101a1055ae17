//! Every way to get a setting wrong, and what is said about it. The messages are in `snapshots/`.

mod place;

use place::{bare_snapshots, run};
use std::fmt::Write;

type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);

/// The inputs and their messages, one after the other.
fn messages(cases: &[Case<'_>]) -> String {
    let mut shown = String::new();
    for (arguments, environment, files) in cases {
        let error = run(arguments, environment, files).expect_err("the input is wrong");
        let variables =
            environment.iter().map(|(name, value)| format!("{name}={value} ")).collect::<String>();
        let _ = writeln!(shown, "$ {variables}pounce {}", arguments.join(" "));
        for (name, text) in *files {
            let _ = writeln!(shown, "# {name}: {}", text.replace('\n', " / "));
        }
        let _ = writeln!(shown, "{error}\n");
    }
    shown
}

#[test]
fn a_value_outside_its_rule_is_named_with_its_place_and_what_is_allowed() {
    let _bound = bare_snapshots();
    insta::assert_snapshot!(messages(&[
        (&["--shutdown-timeout", "0"], &[], &[]),
        (&["--shutdown-timeout", "-5"], &[], &[]),
        (&["--shutdown-timeout", "-5s"], &[], &[]),
        (&["--graceful-timeout", "inf"], &[], &[]),
        (&["--shutdown-timeout=nan"], &[], &[]),
        (&["--shutdown-timeout", "2d"], &[], &[]),
        (&["--shutdown-timeout", "100000"], &[], &[]),
        (&["--drain-delay", "-1"], &[], &[]),
        (&[], &[("SHUTDOWN_TIMEOUT", "0")], &[]),
        (&[], &[("POUNCE_REQUEST_TIMEOUT", "soon")], &[]),
        (&[], &[], &[("pounce.toml", "workers = 2\nshutdown_timeout = inf")]),
        (&["--port", "65536"], &[], &[]),
        (&["-w", "0"], &[], &[]),
        (&[], &[("WEB_CONCURRENCY", "auto")], &[]),
        (&["--workers", "2.5"], &[], &[]),
        (&["--fd", "1"], &[], &[]),
        (&["--bind", "http://localhost:80"], &[], &[]),
        (&["--max-header-size", "1k"], &[], &[]),
        (&["--max-body-size", "1.5m"], &[], &[]),
        (&["--log-level", "loud"], &[], &[]),
        (&["--loop", "uvloop"], &[], &[]),
        (&["--lifespan", "yes"], &[], &[]),
        (&["--health-check-path", "healthz"], &[], &[]),
        (&["--root-path", "api"], &[], &[]),
        (&["--host", ""], &[], &[]),
        (&["--host", "0.0.0.0:80"], &[], &[]),
        (&["--log-level", "wrning"], &[], &[]),
        (&[], &[], &[("pounce.toml", "workers = 2.0")]),
        (&["-p", "8000"], &[], &[]),
        (&[], &[("POUNCE_ACCESS_LOG", "-")], &[]),
        (&[], &[], &[("pounce.toml", "access_log = 1")]),
        (&[], &[], &[("pounce.toml", "host = 1")]),
        (&[], &[], &[("pounce.toml", "bind = []")]),
        (&[], &[], &[("pounce.toml", "bind = ['a:1', 2]")]),
        (&[], &[], &[("pounce.toml", "port = [8000]")]),
        (&[], &[], &[("pounce.toml", "app = 1")]),
    ]));
}

#[test]
fn an_unknown_name_gets_the_one_that_was_probably_meant() {
    let _bound = bare_snapshots();
    insta::assert_snapshot!(messages(&[
        (&[], &[], &[("pounce.toml", "# one\nshutdown-timout = 3")]),
        (&[], &[], &[("pyproject.toml", "[tool.pounce]\nworker = 3")]),
        (&[], &[], &[("pounce.toml", "timeout_keep_alive = 3")]),
        (&[], &[], &[("pounce.toml", "reload = true")]),
        (&[], &[], &[("pounce.toml", "zebra = true")]),
        (&[], &[], &[("pounce.toml", "config = 'other.toml'")]),
        (&[], &[], &[("pounce.toml", "[server]\nport = 1")]),
        (&[], &[("POUNCE_WORKER", "3")], &[]),
        (&[], &[("POUNCE_TIMEOUT_GRACEFUL_SHUTDOWN", "3")], &[]),
        (&[], &[("POUNCE_SSL_KEYFILE", "key")], &[]),
        (&[], &[("POUNCE_ZEBRA", "3")], &[]),
    ]));
}

#[test]
fn two_settings_that_exclude_each_other_are_both_named() {
    let _bound = bare_snapshots();
    insta::assert_snapshot!(messages(&[
        (&["--uds", "s", "--port", "1"], &[], &[]),
        (&["--fd", "3", "--bind", "a:1"], &[], &[]),
        (&[], &[("POUNCE_HOST", "a"), ("POUNCE_UDS", "s")], &[]),
        (&["--port", "1"], &[], &[("pounce.toml", "port = 1\nbind = 'a:1'")]),
        (&[], &[], &[("pounce.toml", "workers = 1\n\npid_file = 'a'\npid-file = 'b'")]),
    ]));
}

#[test]
fn a_setting_or_flag_without_a_feature_behind_it_is_refused_and_not_ignored() {
    let _bound = bare_snapshots();
    insta::assert_snapshot!(messages(&[
        (&["--otel-endpoint", "http://localhost:4318"], &[], &[]),
        (&[], &[], &[("pounce.toml", "otel_service_name = 'shop'")]),
        (&["--forwarded-allow-ips", "*"], &[], &[]),
        (&["main:app", "--timeout", "30"], &[], &[]),
        (&["-t", "30"], &[], &[]),
        (&["-k", "uvicorn.workers.UvicornWorker", "main:app"], &[], &[]),
        (&["--threads", "4"], &[], &[]),
        (&["--limit-concurrency", "100"], &[], &[]),
        (&["main:app", "--reload"], &[], &[]),
        (&["--ssl-keyfile", "key.pem"], &[], &[]),
        (&["--certfile", "cert.pem"], &[], &[]),
        (&["-D"], &[], &[]),
        (&["--chdir", "/srv"], &[], &[]),
        (&["--proxy-headers"], &[], &[]),
        (&["--access-logfile", "/var/log/access"], &[], &[]),
        (&["--max-requests", "1000"], &[], &[]),
    ]));
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_line() {
    let _bound = bare_snapshots();
    insta::assert_snapshot!(messages(&[
        (&["--config", "missing.toml"], &[], &[]),
        (&[], &[("POUNCE_CONFIG", "gunicorn.conf.py")], &[]),
        (&[], &[], &[("pounce.toml", "workers = 1\nworkers 2")]),
        (&[], &[], &[("pyproject.toml", "[tool]\npounce = 3")]),
    ]));
}

#[test]
fn an_application_that_cannot_be_one_gets_the_name_that_was_probably_meant() {
    let _bound = bare_snapshots();
    insta::assert_snapshot!(messages(&[
        (&["main"], &[], &[]),
        (&["main.py:app"], &[], &[]),
        (&["./src/main.py"], &[], &[]),
        (&["main:"], &[], &[]),
        (&["main:create_app('x')"], &[], &[]),
        (&["my-app:app"], &[], &[]),
        (&[], &[("POUNCE_APP", "main")], &[]),
        (&[], &[], &[("pounce.toml", "app = 'main.py'")]),
    ]));
}

#[test]
fn a_variable_that_is_not_text_is_an_error_and_not_a_panic() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
    let sources =
        pounce_settings::Sources { environment: vec![("POUNCE_UDS".into(), bytes)], ..Default::default() };
    let error = pounce_settings::resolve(&sources).expect_err("the value is not UTF-8");
    assert_eq!(
        error.to_string(),
        "uds must be UTF-8, got \"/\u{fffd}\", from the environment variable POUNCE_UDS"
    );
}
