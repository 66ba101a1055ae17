use std::process::ExitCode;

use pounce_cli::{args, demo_worker, serve};
use pounce_runtime_tokio::os::signals::Signals;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == args::DEMO_WORKER) {
        return demo_worker::run();
    }
    // Before anything else: from here on a SIGTERM is a shutdown and no death.
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: signals cannot be handled: {error}");
            return ExitCode::from(1);
        }
    };
    match args::of_process() {
        Ok((settings, app)) => serve::serve(settings, app, signals),
        Err(code) => code,
    }
}
