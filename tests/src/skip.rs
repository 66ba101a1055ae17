//! Tests that cannot run on this machine say so where everybody sees it.

use std::io::Write;

/// Says on stderr what is not tested, and why. Not by `eprintln!`, which the test harness captures.
pub fn skipped(what_and_why: &str) {
    let line = format!("\n*** SKIPPED: {what_and_why} ***\n");
    // Nobody to tell if stderr is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
