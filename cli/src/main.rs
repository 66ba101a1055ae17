use std::process::ExitCode;

use pounce_cli::{args, serve};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == args::DEMO_WORKER) {
        return serve::demo_worker();
    }
    match args::of_process() {
        Ok((settings, app)) => serve::serve(settings, app),
        Err(code) => code,
    }
}
