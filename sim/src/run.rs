//! `sim run`.

use std::process::ExitCode;

/// Runs the command.
pub fn main(_args: &[String]) -> ExitCode {
    eprintln!("sim run: not there yet");
    ExitCode::from(2)
}
