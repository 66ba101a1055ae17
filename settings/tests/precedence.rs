//! Which of several places decides, and that it is remembered.

mod place;

use place::run;
use pounce_settings::{LogFormat, LogLevel, Settings, Target};
use std::time::Duration;

const FLAG: &[&str] = &["--shutdown-timeout", "1"];
const POUNCE: (&str, &str) = ("POUNCE_SHUTDOWN_TIMEOUT", "2");
const BARE: (&str, &str) = ("SHUTDOWN_TIMEOUT", "3");
const FILE: (&str, &str) = ("pounce.toml", "\nshutdown_timeout = 4");
const PROJECT: (&str, &str) = ("pyproject.toml", "[tool.pounce]\nshutdown-timeout = '5s'");

fn settings(arguments: &[&str], environment: &[(&str, &str)], files: &[(&str, &str)]) -> Settings {
    run(arguments, environment, files).expect("good settings")
}

#[test]
fn a_flag_beats_pounce_variables_beat_bare_ones_beat_files_beat_the_default() {
    for (arguments, environment, files, seconds, origin) in [
        (FLAG, &[POUNCE, BARE][..], &[FILE, PROJECT][..], 1, "the flag --shutdown-timeout"),
        (&[], &[POUNCE, BARE], &[FILE, PROJECT], 2, "the environment variable POUNCE_SHUTDOWN_TIMEOUT"),
        (&[], &[BARE], &[FILE, PROJECT], 3, "the environment variable SHUTDOWN_TIMEOUT"),
        (&[], &[], &[FILE, PROJECT], 4, "pounce.toml:2"),
        (&[], &[], &[PROJECT], 5, "pyproject.toml:2"),
        (&[], &[], &[], 20, "the default"),
    ] {
        let settings = settings(arguments, environment, files);
        assert_eq!(settings.shutdown_timeout, Duration::from_secs(seconds));
        assert_eq!(settings.origin("shutdown_timeout").to_string(), origin);
    }
}

#[test]
fn every_way_toml_writes_a_number_is_read() {
    for (text, milliseconds) in
        [("+10", 10_000), ("1e1", 10_000), ("0xA", 10_000), ("+2.5", 2_500), ("1_0.0", 10_000)]
    {
        let text = format!("shutdown_timeout = {text}");
        assert_eq!(
            settings(&[], &[], &[("pounce.toml", &text)]).shutdown_timeout.as_millis(),
            milliseconds,
            "{text}"
        );
    }
}

#[test]
fn a_variable_set_to_nothing_counts_as_unset() {
    let settings = settings(&[], &[("POUNCE_WORKERS", ""), ("WEB_CONCURRENCY", "3")], &[]);
    assert_eq!(settings.workers, 3);
}

#[test]
fn none_in_a_higher_place_turns_a_limit_off() {
    let file = ("pounce.toml", "request_timeout = 30\nmax_body_size = '1m'");
    let settings = settings(&["--request-timeout", "none"], &[("POUNCE_MAX_BODY_SIZE", "None")], &[file]);
    assert_eq!((settings.request_timeout, settings.max_body_size), (None, None));
}

#[test]
fn every_servers_name_for_the_same_thing_works() {
    for (arguments, name, shown) in [
        (&["--timeout-graceful-shutdown", "7"][..], "shutdown_timeout", "7.0"),
        (&["--graceful-timeout=7"], "shutdown_timeout", "7.0"),
        (&["--timeout-keep-alive", "7"], "keep_alive_timeout", "7.0"),
        (&["--keep-alive", "7"], "keep_alive_timeout", "7.0"),
        (&["--pid", "a"], "pid_file", "\"a\""),
        (&["--pidfile", "a"], "pid_file", "\"a\""),
        (&["-p", "a"], "pid_file", "\"a\""),
        (&["-w", "7"], "workers", "7"),
        (&["--limit-request-fields", "7"], "max_headers", "7"),
        (&["--h11-max-incomplete-event-size", "16384"], "max_header_size", "16384"),
        (&["--access-logfile", "-"], "access_log", "true"),
        (&["--error-logfile", "-"], "access_log", "false"),
        (&["--access-log", "--no-access-log"], "access_log", "false"),
        (&["--no-access-log", "--access-log"], "access_log", "true"),
        (&["--loop", "auto"], "loop", "\"asyncio\""),
        (&["--log-level", "WARN"], "log_level", "\"warning\""),
        (&["--log-level", "critical"], "log_level", "\"error\""),
        (&["--root-path", "/api/"], "root_path", "\"/api\""),
        (&["--root-path="], "root_path", "\"\""),
    ] {
        let json = serde_json::to_value(settings(arguments, &[], &[])).expect("settings serialise");
        assert_eq!(json[name].to_string(), shown, "{arguments:?}");
    }
}

#[test]
fn of_two_spellings_of_a_flag_the_later_one_counts() {
    for (arguments, seconds, flag) in [
        (["--graceful-timeout=1", "--shutdown-timeout=2"], 2, "the flag --shutdown-timeout"),
        (["--shutdown-timeout=2", "--graceful-timeout=1"], 1, "the flag --graceful-timeout"),
        (["--shutdown-timeout=2", "--shutdown-timeout=3"], 3, "the flag --shutdown-timeout"),
    ] {
        let settings = settings(&arguments, &[], &[]);
        assert_eq!(settings.shutdown_timeout.as_secs(), seconds);
        assert_eq!(settings.origin("shutdown_timeout").to_string(), flag);
    }
}

#[test]
fn the_first_place_that_names_an_address_decides_between_the_ways_to_say_it() {
    let file = |text| [("pounce.toml", text)];
    for (arguments, environment, files, binds) in [
        (&["--port", "1"][..], &[][..], file("host = '::'\nport = 2"), &["[::]:1"][..]),
        (&["--port", "1"], &[], file("bind = ['a:2', 'unix:b']"), &["127.0.0.1:1"]),
        (&["--uds", "s"], &[("PORT", "no number, and not ours")], file("host = 'a'"), &["unix:s"]),
        (&["-b", "a:1", "--bind", "b:2"], &[("POUNCE_HOST", "c")], file(""), &["a:1", "b:2"]),
        (&[], &[("PORT", "9000")], file("fd = 3"), &["127.0.0.1:9000"]),
        (&[], &[("POUNCE_BIND", "a:1,unix:b"), ("PORT", "2")], file(""), &["a:1", "unix:b"]),
        (&[], &[], file("bind = ['a', 'fd://4']"), &["a:8000", "fd://4"]),
        (&[], &[], file("fd = 3"), &["fd://3"]),
        (&["--host", "[::1]"], &[], file(""), &["[::1]:8000"]),
    ] {
        let shown: Vec<String> =
            settings(arguments, environment, &files).binds.iter().map(ToString::to_string).collect();
        assert_eq!(shown, binds, "{arguments:?} {environment:?} {files:?}");
    }
}

#[test]
fn a_kubernetes_service_named_pounce_does_not_stop_the_server() {
    let links = [
        ("POUNCE_SERVICE_HOST", "10.0.0.1"),
        ("POUNCE_SERVICE_PORT", "80"),
        ("POUNCE_SERVICE_PORT_HTTP", "80"),
        ("POUNCE_PORT", "tcp://10.0.0.1:80"),
        ("POUNCE_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("POUNCE_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(settings(&[], &links, &[]).binds[0].to_string(), "127.0.0.1:8000");
}

#[test]
fn variables_between_pounces_own_processes_are_no_settings() {
    let environment =
        [("POUNCE_CONTROL_FD", "3"), ("POUNCE_EXTENSION", "x.so"), ("POUNCE_PYTHON", "python3.12")];
    assert_eq!(settings(&[], &environment, &[]).python, Some("python3.12".into()));
}

#[test]
fn the_application_is_named_by_argument_variable_or_file() {
    let file = ("pounce.toml", "app = 'file:app'");
    for (arguments, environment, app) in [
        (&["argument:app"][..], &[("POUNCE_APP", "variable:app")][..], "argument:app"),
        (&[], &[("POUNCE_APP", "variable:app")], "variable:app"),
        (&[], &[], "file:app"),
        (&["--factory"], &[], "file:app()"),
        (&["demo", "--factory"], &[], "demo"),
        (&["--port", "1", "demo"], &[], "demo"),
    ] {
        assert_eq!(
            settings(arguments, environment, &[file]).app.map(|a| a.to_string()).as_deref(),
            Some(app)
        );
    }
    assert_eq!(settings(&[], &[], &[]).app, None);
}

#[test]
fn config_names_the_file_and_hides_the_usual_ones() {
    let files = [("pounce.toml", "workers = 2"), ("other.toml", "workers = 3")];
    assert_eq!(settings(&["-c", "other.toml"], &[], &files).workers, 3);
    assert_eq!(settings(&[], &[("POUNCE_CONFIG", "other.toml")], &files).workers, 3);
    assert_eq!(settings(&[], &[], &files).config, Some("pounce.toml".into()));
}

#[test]
fn a_pyproject_of_somebody_elses_project_is_passed_over() {
    let settings = settings(&[], &[], &[("pyproject.toml", "[tool.ruff]\nworkers = 'x'")]);
    assert_eq!((settings.workers, settings.config), (1, None));
}

#[test]
fn the_example_file_is_a_good_configuration() {
    let settings = settings(&[], &[], &[("pounce.toml", include_str!("../../docs/pounce.toml"))]);
    assert!(matches!(settings.app, Some(Target::Application(_))));
    assert_eq!((settings.log_format, settings.log_level), (LogFormat::Json, LogLevel::Info));
}
