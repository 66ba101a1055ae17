//! Lifecycle events. Their `Display` is the wording of the log at the default level; JSON logs, metrics and traces are
//! other renderings of the same events.

use std::fmt;
use std::time::Duration;

/// A signal that the supervisor understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// SIGTERM: drain.
    Term,
    /// SIGINT: drain; during a drain, cut it short.
    Int,
    /// SIGQUIT: stop now.
    Quit,
    /// SIGHUP: rolling reload.
    Hup,
}

impl Signal {
    pub const ALL: [Signal; 4] = [Signal::Term, Signal::Int, Signal::Quit, Signal::Hup];
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Term => "SIGTERM",
            Signal::Int => "SIGINT",
            Signal::Quit => "SIGQUIT",
            Signal::Hup => "SIGHUP",
        })
    }
}

/// How a worker process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// It was ended by this signal number (signal(7)).
    Signal(i32),
    /// It could not be started at all.
    NotStarted,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal(9) => f.write_str("killed by SIGKILL"),
            ExitStatus::Signal(11) => f.write_str("killed by SIGSEGV"),
            ExitStatus::Signal(6) => f.write_str("killed by SIGABRT"),
            ExitStatus::Signal(number) => write!(f, "killed by signal {number}"),
            ExitStatus::NotStarted => f.write_str("could not be started"),
        }
    }
}

/// How much an event matters to somebody who reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Debug,
    Info,
    Warning,
    Error,
}

/// Something that happened to the server as a whole. Workers are numbered from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The signal that begins the shutdown.
    ShutdownRequested {
        signal: Signal,
    },
    /// Another SIGTERM during the shutdown: it changes nothing.
    ShutdownInProgress {
        signal: Signal,
    },
    /// SIGINT during the shutdown: the forced phase begins now.
    ShutdownCutShort {
        signal: Signal,
    },
    /// Everything ends now.
    KillRequested {
        signal: Signal,
    },
    /// New work is still taken for `delay`, readiness already says no.
    Delaying {
        delay: Duration,
    },
    ShuttingDown {
        workers: usize,
    },
    WorkerDraining {
        worker: u32,
        active: u64,
    },
    WorkerIdle {
        worker: u32,
    },
    WorkerStopped {
        worker: u32,
    },
    AllStopped,
    /// The deadline came before the worker had stopped.
    WorkerForced {
        worker: u32,
        timeout: Duration,
    },
    /// The worker cut this many requests at the deadline.
    RequestsCut {
        worker: u32,
        requests: u64,
    },
    WorkerReady {
        worker: u32,
        generation: u32,
    },
    /// The application did not start. `message` is the worker's own, several lines with the traceback.
    WorkerStartFailed {
        worker: u32,
        message: String,
    },
    /// The worker ended before it was ready, without saying why.
    WorkerDiedStarting {
        worker: u32,
        status: ExitStatus,
    },
    /// The worker was not ready within `timeout`; it is killed.
    WorkerStartTimedOut {
        worker: u32,
        timeout: Duration,
    },
    /// A worker that was serving died.
    WorkerDied {
        worker: u32,
        status: ExitStatus,
        connections: u64,
    },
    /// It is started again after `delay`.
    WorkerRespawning {
        worker: u32,
        delay: Duration,
    },
    /// A worker was told to stop by a signal of its own; another takes its place first.
    WorkerRetiring {
        worker: u32,
    },
    /// Workers die faster than it is worth starting them.
    CrashLoop {
        deaths: u32,
    },
    ReloadStarted {
        generation: u32,
    },
    ReloadFinished {
        generation: u32,
    },
    /// The new generation failed; the old one serves on.
    ReloadFailed {
        generation: u32,
    },
    /// A reload that was asked for while one runs or while the server shuts down.
    ReloadIgnored,
    /// More connections than `max_connections`; said once until there is room again.
    TooManyConnections {
        limit: u32,
    },
}

impl Event {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        use Event::*;
        match self {
            WorkerReady { .. } => Severity::Debug,
            ShutdownRequested { .. } | ShutdownInProgress { .. } | Delaying { .. } | ShuttingDown { .. } => {
                Severity::Info
            }
            WorkerDraining { .. } | WorkerIdle { .. } | WorkerStopped { .. } | AllStopped => Severity::Info,
            WorkerRespawning { .. }
            | WorkerRetiring { .. }
            | ReloadStarted { .. }
            | ReloadFinished { .. } => Severity::Info,
            ShutdownCutShort { .. } | KillRequested { .. } | WorkerForced { .. } | RequestsCut { .. } => {
                Severity::Warning
            }
            WorkerDied { .. } | ReloadIgnored | TooManyConnections { .. } => Severity::Warning,
            WorkerStartFailed { .. } | WorkerDiedStarting { .. } | WorkerStartTimedOut { .. } => {
                Severity::Error
            }
            CrashLoop { .. } | ReloadFailed { .. } => Severity::Error,
        }
    }

    /// A stable name for machines that read the log.
    pub fn name(&self) -> &'static str {
        use Event::*;
        match self {
            ShutdownRequested { .. } => "shutdown_requested",
            ShutdownInProgress { .. } => "shutdown_in_progress",
            ShutdownCutShort { .. } => "shutdown_cut_short",
            KillRequested { .. } => "kill_requested",
            Delaying { .. } => "drain_delayed",
            ShuttingDown { .. } => "shutting_down",
            WorkerDraining { .. } => "worker_draining",
            WorkerIdle { .. } => "worker_idle",
            WorkerStopped { .. } => "worker_stopped",
            AllStopped => "all_stopped",
            WorkerForced { .. } => "worker_forced",
            RequestsCut { .. } => "requests_cut",
            WorkerReady { .. } => "worker_ready",
            WorkerStartFailed { .. } => "worker_start_failed",
            WorkerDiedStarting { .. } => "worker_died_starting",
            WorkerStartTimedOut { .. } => "worker_start_timed_out",
            WorkerDied { .. } => "worker_died",
            WorkerRespawning { .. } => "worker_respawning",
            WorkerRetiring { .. } => "worker_retiring",
            CrashLoop { .. } => "crash_loop",
            ReloadStarted { .. } => "reload_started",
            ReloadFinished { .. } => "reload_finished",
            ReloadFailed { .. } => "reload_failed",
            ReloadIgnored => "reload_ignored",
            TooManyConnections { .. } => "too_many_connections",
        }
    }

    /// The worker it is about, numbered from 1.
    pub fn worker(&self) -> Option<u32> {
        use Event::*;
        match self {
            WorkerDraining { worker, .. } | WorkerIdle { worker } | WorkerStopped { worker } => Some(*worker),
            WorkerForced { worker, .. } | RequestsCut { worker, .. } | WorkerReady { worker, .. } => {
                Some(*worker)
            }
            WorkerStartFailed { worker, .. } | WorkerDiedStarting { worker, .. } => Some(*worker),
            WorkerStartTimedOut { worker, .. } => Some(*worker),
            WorkerDied { worker, .. } | WorkerRespawning { worker, .. } | WorkerRetiring { worker } => {
                Some(*worker)
            }
            _ => None,
        }
    }
}

/// Seconds as the log writes them: `30.0s`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One division of two exact numbers: `as_secs_f64` adds two rounded ones and writes 1.356 s as 1.3559999999999999s.
        let seconds = self.0.as_nanos() as f64 / 1e9;
        // One digit where that is exact enough to be true; the whole value where it is not.
        if (seconds * 10.0).fract() == 0.0 { write!(f, "{seconds:.1}s") } else { write!(f, "{seconds}s") }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Event::*;
        match self {
            ShutdownRequested { signal } => write!(f, "Received {signal} — initiating shutdown"),
            ShutdownInProgress { signal } => write!(f, "Received {signal} — shutdown already in progress"),
            ShutdownCutShort { signal } => write!(f, "Received {signal} — cutting the shutdown short"),
            KillRequested { signal } => write!(f, "Received {signal} — stopping now"),
            Delaying { delay } => {
                write!(f, "Not ready any more, taking new work for another {} (drain_delay)", Seconds(*delay))
            }
            ShuttingDown { workers } => write!(f, "Shutting down {workers} worker(s)..."),
            WorkerDraining { worker, active } => {
                write!(f, "Worker {worker} draining {active} active connection(s)...")
            }
            WorkerIdle { worker } => write!(f, "Worker {worker} shutting down (no active connections)"),
            WorkerStopped { worker } => write!(f, "Worker {worker} stopped"),
            AllStopped => f.write_str("All workers stopped"),
            WorkerForced { worker, timeout } => write!(
                f,
                "Worker {worker} did not stop within shutdown_timeout ({}) — force terminating",
                Seconds(*timeout)
            ),
            RequestsCut { worker, requests } => {
                write!(f, "Worker {worker} cut {requests} request(s) at the deadline")
            }
            WorkerReady { worker, generation } => {
                write!(f, "Worker {worker} ready (generation {generation})")
            }
            WorkerStartFailed { worker, message } => {
                write!(f, "Worker {worker} could not start the application: {message}")
            }
            WorkerDiedStarting { worker, status } => {
                write!(f, "Worker {worker} died while starting ({status})")
            }
            WorkerStartTimedOut { worker, timeout } => write!(
                f,
                "Worker {worker} was not ready within startup_timeout ({}) — force terminating",
                Seconds(*timeout)
            ),
            WorkerDied { worker, status, connections } => {
                write!(f, "Worker {worker} died ({status}) with {connections} open connection(s)")
            }
            WorkerRespawning { worker, delay } if delay.is_zero() => {
                write!(f, "Worker {worker} is being replaced")
            }
            WorkerRespawning { worker, delay } => {
                write!(f, "Worker {worker} is replaced in {}", Seconds(*delay))
            }
            WorkerRetiring { worker } => write!(f, "Worker {worker} was told to stop — replacing it"),
            CrashLoop { deaths } => write!(f, "{deaths} workers died in a row — giving up"),
            ReloadStarted { generation } => write!(f, "Received SIGHUP — starting generation {generation}"),
            ReloadFinished { generation } => write!(f, "Generation {generation} is serving"),
            ReloadFailed { generation } => {
                write!(f, "Generation {generation} did not start — the old workers serve on")
            }
            ReloadIgnored => f.write_str("Received SIGHUP — ignored, a reload or shutdown is in progress"),
            TooManyConnections { limit } => {
                write!(f, "More than {limit} connections (max_connections) — answering 503")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(ms: u64) -> String {
        Seconds(Duration::from_millis(ms)).to_string()
    }

    #[test]
    fn a_duration_in_the_log_has_the_digits_that_it_was_set_with() {
        assert_eq!(
            [1356, 30_000, 12_720, 100, 0].map(seconds),
            ["1.356s", "30.0s", "12.72s", "0.1s", "0.0s"]
        );
        for ms in 0..100_000 {
            let text = seconds(ms);
            let digits = text.trim_end_matches('s').split_once('.').map_or(0, |(_, digits)| digits.len());
            assert!((1..=3).contains(&digits), "{ms} ms is written as {text}");
        }
    }
}
