//! From settings to a running server.

use pounce_settings::{Settings, Target};
use std::process::ExitCode;

/// Serves `app` until it is told to stop.
pub fn serve(_settings: Settings, app: Target) -> ExitCode {
    eprintln!("error: the supervisor is not wired up in this build; {app} was not started");
    ExitCode::from(1)
}

/// The worker process of `pounce demo`.
pub fn demo_worker() -> ExitCode {
    eprintln!("error: the demo worker is not wired up in this build");
    ExitCode::from(1)
}
