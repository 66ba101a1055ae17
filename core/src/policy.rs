//! The policy: every duration and limit that the machines decide by, validated when it is made.

use std::fmt;
use std::time::Duration;

/// How long the supervisor waits after a deadline before it kills a worker: the worker's own clean abort (503s written,
/// streams cut) must win against the kill.
pub const KILL_GRACE: Duration = Duration::from_millis(500);

/// How long a worker gives its connections, once aborted, to write their last bytes. Less than [`KILL_GRACE`].
pub const ABORT_GRACE: Duration = Duration::from_millis(300);

/// How long after [`ABORT_GRACE`] a worker waits for its connections to be closed, so that it knows how many requests it
/// cut. Together less than [`KILL_GRACE`].
pub const CLOSE_ALL_GRACE: Duration = Duration::from_millis(100);

/// When the supervisor leaves, however things stand, after the deadline: a process that even SIGKILL does not end, or a
/// client that does not take its 503, holds it no longer. Budget and this are less than the budget and a second.
pub const EXIT_GRACE: Duration = Duration::from_millis(900);

/// How long after the last worker stopped the listeners stay open with SYNs dropped, so that handshakes under way
/// end in the accept queue, where they are answered, and not in a reset.
pub const CLOSE_SETTLE: Duration = Duration::from_millis(50);

/// How long a connection that *we* closed is read from after our FIN. Bytes that arrive at a closed socket are
/// answered with a reset, and a reset throws away what the peer has not read yet (RFC 9112 §9.6).
pub const CLOSE_LINGER: Duration = Duration::from_millis(300);

/// How long, at least, a connection is waited on for its first request once the server drains. The handshake is done, so
/// the request is a round trip away at most, whatever `keepalive_linger` is.
pub const FRESH_LINGER: Duration = Duration::from_millis(500);

/// How long the supervisor waits before it replaces a worker that was told to stop by a signal of its own: `pkill` and
/// systemd's control-group kill signal the supervisor a moment later, and then there is nothing to replace.
pub const RETIRE_DELAY: Duration = Duration::from_millis(100);

/// How long the process of a worker that said that it is done may take to leave, inside the budget: the application's
/// executor threads and exit functions run in that time.
pub const LEAVE_GRACE: Duration = Duration::from_millis(2500);

/// A worker that has not finished starting has nothing to lose; it gets this long to leave before it is killed.
pub const BOOT_KILL_GRACE: Duration = Duration::from_millis(500);

/// First pause before a worker that died is started again, from the second death in a row in its place on. Doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause before a worker that died is started again. Long, because the others serve meanwhile, and each try costs
/// them an import's time and the log a traceback; SIGHUP does not wait for it.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A worker that served this long has left the row of deaths behind it.
pub const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Deaths in a row in the place of one worker after which the server gives up, unless another worker has left the row
/// of deaths behind it: then that one serves on, and this place is tried again.
pub const CRASH_LOOP_DEATHS: u32 = 8;

/// How often, at most, a worker reports its counts, and only when they changed.
pub const STATUS_INTERVAL: Duration = Duration::from_millis(2);
/// How often, at most, the service manager is told counts and asked for more time.
pub const NOTIFY_INTERVAL: Duration = Duration::from_secs(1);

/// What to decide by, in seconds and counts as a person writes them. [`Policy::new`] checks it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicySettings {
    /// Longest time from the end of `drain_delay` to the forced end, in seconds.
    pub shutdown_timeout: f64,
    /// Time from the start of a worker's process to its application's readiness, in seconds. `None`: no limit.
    pub startup_timeout: Option<f64>,
    /// Time after the signal in which new work is still taken, in seconds.
    pub drain_delay: f64,
    /// Time an idle connection is kept, once draining, for a request already on the wire, in seconds.
    pub keepalive_linger: f64,
    /// Time an idle connection is kept while serving, in seconds.
    pub keep_alive_timeout: f64,
    /// Time a request head may take from its first byte (or from accept, for the first one), in seconds.
    pub header_timeout: f64,
    /// Time without a byte of a request body that the application waits for, in seconds.
    pub body_timeout: f64,
    /// Time without the client taking a byte of a response that waits to be sent, in seconds.
    pub write_timeout: f64,
    /// Time from the request head to the response head, in seconds. `None`: no limit.
    pub request_timeout: Option<f64>,
    /// Most connections open at once. `None`: no limit.
    pub max_connections: Option<u32>,
}

impl Default for PolicySettings {
    fn default() -> Self {
        PolicySettings {
            // Kubernetes' default grace period of 30 s, less a preStop hook of 5 s, less 5 s of margin.
            shutdown_timeout: 20.0,
            // Models load for minutes, and a start that is slow must not fail. One that hangs must not be for ever: nobody
            // but pounce watches a worker of a reload or a replacement.
            startup_timeout: Some(600.0),
            drain_delay: 0.0,
            keepalive_linger: 0.5,
            keep_alive_timeout: 75.0,
            header_timeout: 10.0,
            body_timeout: 30.0,
            write_timeout: 60.0,
            request_timeout: None,
            max_connections: None,
        }
    }
}

/// A policy that was checked: every duration is finite, and those that must be positive are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    pub shutdown_timeout: Duration,
    pub startup_timeout: Option<Duration>,
    pub drain_delay: Duration,
    pub keepalive_linger: Duration,
    pub keep_alive_timeout: Duration,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub write_timeout: Duration,
    pub request_timeout: Option<Duration>,
    pub max_connections: Option<u32>,
}

/// Longest duration a policy takes, in seconds: a year. Longer is a typing error, and sums of two stay exact.
pub const LONGEST_SECONDS: f64 = 365.0 * 24.0 * 3600.0;

/// A value that the policy refuses.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyError {
    /// The field, as in [`PolicySettings`].
    pub field: &'static str,
    /// The value as it was given.
    pub value: f64,
    /// What the field must be.
    pub rule: &'static str,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:?}: it must be {}", self.field, self.value, self.rule)
    }
}

impl std::error::Error for PolicyError {}

impl Policy {
    /// Checks `settings`.
    ///
    /// # Errors
    /// The first field whose value is not allowed.
    pub fn new(settings: PolicySettings) -> Result<Policy, PolicyError> {
        let s = settings;
        if s.max_connections == Some(0) {
            return Err(PolicyError { field: "max_connections", value: 0.0, rule: "a count of at least 1" });
        }
        Ok(Policy {
            shutdown_timeout: positive("shutdown_timeout", s.shutdown_timeout)?,
            startup_timeout: s.startup_timeout.map(|v| positive("startup_timeout", v)).transpose()?,
            drain_delay: not_negative("drain_delay", s.drain_delay)?,
            keepalive_linger: not_negative("keepalive_linger", s.keepalive_linger)?,
            keep_alive_timeout: positive("keep_alive_timeout", s.keep_alive_timeout)?,
            header_timeout: positive("header_timeout", s.header_timeout)?,
            body_timeout: positive("body_timeout", s.body_timeout)?,
            write_timeout: positive("write_timeout", s.write_timeout)?,
            request_timeout: s.request_timeout.map(|v| positive("request_timeout", v)).transpose()?,
            max_connections: s.max_connections,
        })
    }

    /// The longest time from the signal to the forced end.
    pub fn budget(&self) -> Duration {
        self.drain_delay.saturating_add(self.shutdown_timeout)
    }
}

impl Default for Policy {
    fn default() -> Self {
        let s = PolicySettings::default();
        Policy {
            shutdown_timeout: Duration::from_secs_f64(s.shutdown_timeout),
            startup_timeout: s.startup_timeout.map(Duration::from_secs_f64),
            drain_delay: Duration::from_secs_f64(s.drain_delay),
            keepalive_linger: Duration::from_secs_f64(s.keepalive_linger),
            keep_alive_timeout: Duration::from_secs_f64(s.keep_alive_timeout),
            header_timeout: Duration::from_secs_f64(s.header_timeout),
            body_timeout: Duration::from_secs_f64(s.body_timeout),
            write_timeout: Duration::from_secs_f64(s.write_timeout),
            request_timeout: None,
            max_connections: None,
        }
    }
}

fn positive(field: &'static str, value: f64) -> Result<Duration, PolicyError> {
    const RULE: &str = "a positive, finite number of seconds, at most a year";
    let in_range = value > 0.0 && value <= LONGEST_SECONDS;
    let duration = if in_range { Duration::try_from_secs_f64(value).ok() } else { None };
    // A value so small that it rounds to nothing is not positive either.
    duration.filter(|d| !d.is_zero()).ok_or(PolicyError { field, value, rule: RULE })
}

fn not_negative(field: &'static str, value: f64) -> Result<Duration, PolicyError> {
    const RULE: &str = "zero or a positive, finite number of seconds, at most a year";
    if value == 0.0 {
        return Ok(Duration::ZERO);
    }
    positive(field, value).map_err(|e| PolicyError { rule: RULE, ..e })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut PolicySettings)) -> String {
        let mut settings = PolicySettings::default();
        change(&mut settings);
        Policy::new(settings).expect_err("the value is not allowed").to_string()
    }

    #[test]
    fn a_shutdown_timeout_that_cannot_bound_anything_is_refused_by_name_value_and_rule() {
        let rule = "it must be a positive, finite number of seconds, at most a year";
        for (value, shown) in
            [(0.0, "0.0"), (-5.0, "-5.0"), (f64::NAN, "NaN"), (f64::INFINITY, "inf"), (1e-12, "1e-12")]
        {
            assert_eq!(
                refused(|s| s.shutdown_timeout = value),
                format!("shutdown_timeout is {shown}: {rule}")
            );
        }
    }

    #[test]
    fn no_delay_is_a_delay_of_zero() {
        let settings =
            PolicySettings { drain_delay: 0.0, keepalive_linger: 0.0, ..PolicySettings::default() };
        assert_eq!(
            Policy::new(settings).map(|p| (p.drain_delay, p.keepalive_linger)),
            Ok((Duration::ZERO, Duration::ZERO))
        );
    }

    #[test]
    fn the_defaults_are_a_policy() {
        assert_eq!(Policy::new(PolicySettings::default()), Ok(Policy::default()));
    }

    #[test]
    fn the_worker_has_time_to_abort_before_it_is_killed() {
        const { assert!(ABORT_GRACE.as_nanos() + CLOSE_ALL_GRACE.as_nanos() < KILL_GRACE.as_nanos()) };
    }

    #[test]
    fn a_forced_end_takes_less_than_a_second_after_the_deadline() {
        const { assert!(KILL_GRACE.as_nanos() + CLOSE_SETTLE.as_nanos() < EXIT_GRACE.as_nanos()) };
        const { assert!(EXIT_GRACE.as_nanos() < Duration::from_secs(1).as_nanos()) };
    }
}
