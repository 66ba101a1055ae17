//! The worker process of `pounce demo`: what `python -m pounce._worker` is for an application.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pounce_runtime_tokio::logging;
use pounce_runtime_tokio::os::control::OsOrders;
use pounce_runtime_tokio::os::signals::Signals;
use pounce_runtime_tokio::worker::{HostCommand, connect, tokio_spawn};
use pounce_settings::Settings;
use tokio::sync::Notify;

use crate::demo::Demo;

/// The variable that holds the number of the inherited control socket.
const CONTROL_FD: &str = "POUNCE_CONTROL_FD";

/// How long tasks may take to end once everything is said.
const RUNTIME_END: Duration = Duration::from_millis(100);

/// Runs the worker.
pub fn run() -> ExitCode {
    match serve() {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            tracing::error!("the demo worker cannot run: {error}");
            ExitCode::from(1)
        }
    }
}

fn serve() -> io::Result<i32> {
    // Its own SIGTERM is a wish to be replaced; SIGINT is the supervisor's alone and was set to be ignored by it.
    let mut signals = Signals::install()?;
    let control = control_socket()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let (handle, start) = connect(OsOrders::new(control)?, tokio_spawn()).await?;
        let settings: Settings = serde_json::from_str(&start.settings)?;
        logging::init(settings.log_format.into(), settings.log_level.into());
        let exit = Arc::new((Notify::new(), std::sync::atomic::AtomicI32::new(0)));
        let (host, exiting) = (handle.clone(), Arc::clone(&exit));
        handle.set_host(move |command| match command {
            HostCommand::Stop => host.host_stopped(),
            HostCommand::Exit { code } => {
                exiting.1.store(code, std::sync::atomic::Ordering::Relaxed);
                exiting.0.notify_one();
            }
        });
        match settings.policy() {
            Ok(policy) => handle.serve(Demo, policy, (&settings).into()),
            Err(error) => handle.start_failed(error.to_string()),
        }
        let terminated = handle.clone();
        tokio::spawn(async move {
            loop {
                let signal = std::future::poll_fn(|cx| signals.poll_signal(cx)).await;
                if signal == pounce_core::event::Signal::Term {
                    terminated.retire_me();
                }
            }
        });
        exit.0.notified().await;
        io::Result::Ok(exit.1.load(std::sync::atomic::Ordering::Relaxed))
    });
    runtime.shutdown_timeout(RUNTIME_END);
    code
}

fn control_socket() -> io::Result<OwnedFd> {
    let number =
        std::env::var(CONTROL_FD).ok().and_then(|text| text.parse::<RawFd>().ok()).filter(|fd| *fd > 2);
    let Some(number) = number else {
        let message = format!("{CONTROL_FD} is not set: the demo's workers are started by `pounce demo`");
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    };
    // SAFETY: the supervisor made this descriptor for us and named it; nothing else in this process knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
