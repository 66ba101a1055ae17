//! The log, written by processes of their own: this test binary executed again with a role.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the real operating system is what is tested"
)]

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pounce_core::Event;
use pounce_core::event::{ExitStatus, Signal};
use pounce_runtime_tokio::logging::{self, Access, Format, Level};
use serde_json::Value;

const ROLE: &str = "POUNCE_TEST_ROLE";

/// What the other processes of these tests do. Not a test: without a role it does nothing.
#[test]
fn in_a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    // What never ends is to fail the test, not to hold it up.
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(120) };
    let (format, what) = role.split_once(' ').unwrap();
    logging::init(if format == "json" { Format::Json } else { Format::Text }, Level::Info);
    match what {
        "lifecycle" => {
            logging::lifecycle(&Event::ShutdownRequested { signal: Signal::Term });
            logging::lifecycle(&Event::WorkerDraining { worker: 1, active: 2 });
            logging::lifecycle(&Event::WorkerForced { worker: 1, timeout: Duration::from_secs(30) });
            let status = ExitStatus::Signal(9);
            logging::lifecycle(&Event::WorkerDied { worker: 2, status, connections: 5 });
            // Below the level.
            logging::lifecycle(&Event::WorkerReady { worker: 1, generation: 1 });
        }
        "traceback" => {
            let message = "Traceback:\n  File \"a.py\"\nValueError: \u{1b}".to_owned();
            logging::lifecycle(&Event::WorkerStartFailed { worker: 1, message });
        }
        "fields" => tracing::info!(number = 3, name = "x", "said"),
        "no message" => tracing::info!(number = 3, name = "x"),
        "access" => logging::access(&request("/path?a=b")),
        "closed" => {
            // SAFETY: nothing in this process owns the descriptor of standard error.
            drop(unsafe { OwnedFd::from_raw_fd(2) });
            chatter();
        }
        "chatter" => {
            chatter();
            println!("\ndone");
            let _ = std::io::stdin().read(&mut [0]);
            tracing::info!("after");
        }
        what => panic!("no such role: {what}"),
    }
}

fn chatter() {
    for number in 0..5000 {
        tracing::info!("line {number} {}", "x".repeat(100));
    }
}

fn request(target: &str) -> Access<'_> {
    Access {
        peer: Some(([127, 0, 0, 1], 54321).into()),
        method: "GET",
        target,
        version: "HTTP/1.1",
        status: Some(200),
        duration: Duration::from_nanos(1_234_567),
        bytes: 512,
        complete: true,
    }
}

fn myself(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["in_a_role", "--exact", "--nocapture"]).env(ROLE, role);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command
}

/// What the process wrote to standard error.
fn log_of(role: &str) -> String {
    let Output { status, stderr, .. } = myself(role).output().unwrap();
    assert!(status.success());
    String::from_utf8(stderr).unwrap()
}

/// The line without its `[YYYY-MM-DD HH:MM:SS] `, which is checked.
fn message_of(line: &str) -> &str {
    let shape = "[dddd-dd-dd dd:dd:dd] ";
    let (prefix, message) = line.split_at_checked(shape.len()).unwrap_or_else(|| panic!("{line:?}"));
    let digits = |c: char| if c.is_ascii_digit() { 'd' } else { c };
    assert_eq!(prefix.chars().map(digits).collect::<String>(), shape);
    message
}

#[test]
fn text_is_the_time_and_the_wording_of_the_event() {
    let log = log_of("text lifecycle");
    let messages = log.lines().map(message_of).collect::<Vec<_>>();
    assert_eq!(
        messages,
        [
            "Received SIGTERM — initiating shutdown",
            "Worker 1 draining 2 active connection(s)...",
            "Worker 1 did not stop within shutdown_timeout (30.0s) — force terminating",
            "Worker 2 died (killed by SIGKILL) with 5 open connection(s)",
        ]
    );
}

#[test]
fn the_time_is_local() {
    // Half an hour off every real zone, so that no accident of the machine's own zone looks right.
    let output = myself("text lifecycle").env("TZ", "XYZ-9:15").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let local: jiff::civil::DateTime = log[1..20].parse().unwrap();
    let zone = jiff::tz::TimeZone::fixed(jiff::tz::Offset::from_seconds((9 * 60 + 15) * 60).unwrap());
    let written = local.to_zoned(zone).unwrap().timestamp();
    let age = jiff::Timestamp::now().duration_since(written).as_secs();
    assert!((0..600).contains(&age), "{log} is {age} s old");
}

#[test]
fn a_traceback_keeps_its_lines_and_has_one_prefix() {
    let log = log_of("text traceback");
    let (first, rest) = log.split_once('\n').unwrap();
    assert_eq!(message_of(first), "Worker 1 could not start the application: Traceback:");
    assert_eq!(rest, "  File \"a.py\"\nValueError: \u{1b}\n");
}

#[test]
fn text_shows_fields_only_where_there_is_no_message() {
    assert_eq!(message_of(&log_of("text fields")), "said\n");
    assert_eq!(message_of(&log_of("text no message")), "number=3 name=\"x\"\n");
}

#[test]
fn json_is_one_object_for_each_line_with_the_facts_of_the_event() {
    let log = log_of("json lifecycle");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
    assert_eq!(lines.len(), 4);
    let drain = &lines[1];
    assert_eq!(drain["level"], "info");
    assert_eq!(drain["event"], "worker_draining");
    assert_eq!(drain["worker"], 1);
    assert_eq!(drain["connections"], 2);
    assert_eq!(drain["message"], "Worker 1 draining 2 active connection(s)...");
    assert_eq!(lines[0]["signal"], "SIGTERM");
    assert_eq!(lines[2]["level"], "warning");
    assert_eq!(lines[2]["seconds"], 30.0);
    assert_eq!(lines[3]["status"], "killed by SIGKILL");
    // 2026-11-29T12:34:11.123Z
    let time = drain["time"].as_str().unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && time.len() == 24 && time.ends_with('Z'), "{time}");
}

#[test]
fn json_begins_with_the_time_and_ends_with_the_message() {
    let log = log_of("json lifecycle");
    let line = log.lines().nth(1).unwrap();
    assert!(line.starts_with("{\"time\":\""), "{line}");
    let rest = ",\"level\":\"info\",\"event\":\"worker_draining\",\"connections\":2,\"worker\":1,\
                \"message\":\"Worker 1 draining 2 active connection(s)...\"}";
    assert!(line.ends_with(rest), "{line}");
}

#[test]
fn json_keeps_a_traceback_in_its_line() {
    let log = log_of("json traceback");
    assert_eq!(log.matches('\n').count(), 1);
    let line: Value = serde_json::from_str(&log).unwrap();
    let message = line["message"].as_str().unwrap();
    assert!(message.ends_with("Traceback:\n  File \"a.py\"\nValueError: \u{1b}"), "{message}");
}

#[test]
fn an_access_line_is_the_client_the_request_and_what_became_of_it() {
    let expected = "127.0.0.1:54321 - \"GET /path?a=b HTTP/1.1\" 200 1.235ms 512";
    assert_eq!(request("/path?a=b").to_string(), expected);
    assert_eq!(message_of(&log_of("text access")), format!("{expected}\n"));
    let line: Value = serde_json::from_str(&log_of("json access")).unwrap();
    assert_eq!(line["event"], "access");
    assert_eq!(line["peer"], "127.0.0.1:54321");
    assert_eq!(line["target"], "/path?a=b");
    assert_eq!(line["status"], 200);
    assert_eq!(line["duration_ms"], 1.235);
    assert_eq!(line["bytes"], 512);
}

#[test]
fn a_client_can_neither_begin_a_log_line_nor_steer_a_terminal() {
    let text = request("/a\r\n[2026-01-01]\u{1b}[2J\" \\\u{85}\u{2028}é").to_string();
    assert!(text.contains(r#""GET /a\x0d\x0a[2026-01-01]\x1b[2J\" \\\x85\u{2028}é HTTP/1.1""#), "{text}");
}

#[test]
fn without_a_response_there_is_no_status() {
    let text = Access { status: None, peer: None, ..request("/") }.to_string();
    assert_eq!(text, "unix - \"GET / HTTP/1.1\" - 1.235ms 512");
}

#[test]
fn the_levels_are_uvicorn_s() {
    for level in Level::ALL {
        assert_eq!(level.name().to_uppercase().parse(), Ok(level));
    }
    assert_eq!("warn".parse(), Ok(Level::Warning));
    let error = "loud".parse::<Level>().unwrap_err().to_string();
    assert!(error.contains("\"loud\"") && error.contains("critical, error, warning, info"), "{error}");
}

#[test]
fn a_closed_standard_error_harms_nobody() {
    assert!(myself("text closed").output().unwrap().status.success());
}

#[test]
fn a_standard_error_without_a_reader_harms_nobody() {
    let mut child = myself("text chatter").spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_full_disk_harms_nobody() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(myself("text chatter").stderr(full).output().unwrap().status.success());
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up_and_learns_what_it_missed() {
    let mut child = myself("text chatter").stdin(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut said = String::new();
    // 5000 lines are many times what the pipe holds, and nobody reads it; the process goes on all the same.
    while !said.contains("\ndone") {
        let mut bytes = [0; 256];
        let count = out.read(&mut bytes).unwrap();
        assert_ne!(count, 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    let mut err = child.stderr.take().unwrap();
    let mut log = vec![0; 32 * 1024];
    let count = err.read(&mut log).unwrap();
    log.truncate(count);
    child.stdin.take().unwrap().write_all(b"x").unwrap();
    err.read_to_end(&mut log).unwrap();
    let log = String::from_utf8(log).unwrap();
    assert!(log.contains("log lines were dropped"), "{log}");
    assert!(log.ends_with("] after\n"), "{log}");
    assert!(child.wait().unwrap().success());
}
