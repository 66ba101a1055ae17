//! The command line, the environment and the configuration file of this process, as settings.

use crate::systemd;
use pounce_settings::{Settings, SettingsError, Sources, Target, environment, flags, resolve};
use std::path::Path;
use std::process::ExitCode;

/// The hidden argument with which `pounce demo` starts its workers.
pub const DEMO_WORKER: &str = "__demo-worker";

/// The exit code for a wrong command line, environment or configuration.
pub const USAGE: u8 = 2;

/// What is said when nothing names an application.
const NO_APPLICATION: &str = "\
error: no application was given

  pounce main:app      serve `app` of main.py in this directory
  pounce demo          try pounce without Python: a built-in service at http://127.0.0.1:8000
  pounce --help        list every option";

/// Resolves the settings of this process and checks that they can be used. `Err` is the code to exit with: everything has
/// been said by then, on stdout for `--help` and `--version`, and on stderr else.
pub fn of_process() -> Result<(Settings, Target), ExitCode> {
    let matches = flags::command().try_get_matches().map_err(|refusal| {
        // A closed stdout (`pounce --help | head -1`) is no failure.
        let _ = refusal.print();
        if refusal.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
    })?;
    let sources = Sources {
        flags: Some(&matches),
        environment: environment::of_process(),
        directory: Some(Path::new(".")),
    };
    let mut settings = resolve(&sources).map_err(|error| usage_error(&error))?;
    let Some(app) = settings.app.clone() else {
        eprintln!("{NO_APPLICATION}");
        return Err(ExitCode::from(USAGE));
    };
    let sockets = systemd::activated_sockets().map_err(|error| {
        eprintln!("error: the service manager's LISTEN_FDS cannot be used: {error}");
        ExitCode::from(USAGE)
    })?;
    systemd::listen_on(&mut settings, &sockets);
    Ok((settings, app))
}

fn usage_error(error: &SettingsError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(USAGE)
}
