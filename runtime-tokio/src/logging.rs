//! The log: one line for one thing, to standard error, as text or JSON.
//!
//! Text is `[YYYY-MM-DD HH:MM:SS] message` in local time; a message of several lines (a traceback) keeps its
//! newlines. JSON is one object for each line, with the time in UTC. Whatever is wrong with standard error,
//! logging neither fails nor panics nor holds the server up for long: lines that it does not take are dropped
//! and counted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pounce_core::Event;
use pounce_core::event::Severity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// The least severe lines that are written, by the names that uvicorn has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Nothing that pounce says is as bad as this, so: silence.
    Critical,
    Error,
    Warning,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Level {
    /// Every level, the most severe first.
    pub const ALL: [Level; 6] =
        [Level::Critical, Level::Error, Level::Warning, Level::Info, Level::Debug, Level::Trace];

    /// The name, as it is written in settings and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Level::Critical => "critical",
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Level::Critical => LevelFilter::OFF,
            Level::Error => LevelFilter::ERROR,
            Level::Warning => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }

    fn of(level: tracing::Level) -> Level {
        match level {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warning,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::TRACE => Level::Trace,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that is not the name of a [`Level`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelError(String);

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Level::ALL.map(Level::name).join(", ");
        write!(f, "{:?} is not a log level; the levels are {names}", self.0)
    }
}

impl std::error::Error for LevelError {}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Level, LevelError> {
        let known = Level::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(text));
        known
            .or((text.eq_ignore_ascii_case("warn")).then_some(Level::Warning))
            .ok_or_else(|| LevelError(text.into()))
    }
}

/// Sends the events of this process to standard error from now on. The first call counts; a further one (a
/// program that embeds pounce has a log of its own) changes nothing.
pub fn init(format: Format, level: Level) {
    let layer = LineLayer { format, level, sink: Stderr::new(), zone: TimeZone::system() };
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
}

/// Writes `event` to the log.
pub fn lifecycle(event: &Event) {
    let facts = Facts::of(event);
    // tracing wants the severity to be known when it is compiled.
    macro_rules! log {
        ($level:expr) => {
            tracing::event!(
                target: "pounce::lifecycle",
                $level,
                event = event.name(),
                worker = event.worker(),
                generation = facts.generation,
                signal = facts.signal,
                workers = facts.workers,
                connections = facts.connections,
                requests = facts.requests,
                deaths = facts.deaths,
                limit = facts.limit,
                seconds = facts.seconds,
                status = facts.status,
                "{event}"
            )
        };
    }
    match event.severity() {
        Severity::Debug => log!(tracing::Level::DEBUG),
        Severity::Info => log!(tracing::Level::INFO),
        Severity::Warning => log!(tracing::Level::WARN),
        Severity::Error => log!(tracing::Level::ERROR),
    }
}

/// What an event says besides its name and its worker.
#[derive(Default)]
struct Facts {
    generation: Option<u32>,
    signal: Option<String>,
    workers: Option<u64>,
    connections: Option<u64>,
    requests: Option<u64>,
    deaths: Option<u32>,
    limit: Option<u32>,
    seconds: Option<f64>,
    status: Option<String>,
}

impl Facts {
    fn of(event: &Event) -> Facts {
        let none = Facts::default();
        match event {
            Event::ShutdownRequested { signal }
            | Event::ShutdownInProgress { signal }
            | Event::ShutdownCutShort { signal }
            | Event::KillRequested { signal } => Facts { signal: Some(signal.to_string()), ..none },
            Event::Delaying { delay } => Facts { seconds: Some(delay.as_secs_f64()), ..none },
            Event::ShuttingDown { workers } => Facts { workers: u64::try_from(*workers).ok(), ..none },
            Event::WorkerDraining { active, .. } => Facts { connections: Some(*active), ..none },
            Event::WorkerForced { timeout, .. } | Event::WorkerStartTimedOut { timeout, .. } => {
                Facts { seconds: Some(timeout.as_secs_f64()), ..none }
            }
            Event::RequestsCut { requests, .. } => Facts { requests: Some(*requests), ..none },
            Event::WorkerReady { generation, .. }
            | Event::ReloadStarted { generation }
            | Event::ReloadFinished { generation }
            | Event::ReloadFailed { generation } => Facts { generation: Some(*generation), ..none },
            Event::WorkerDiedStarting { status, .. } => Facts { status: Some(status.to_string()), ..none },
            Event::WorkerDied { status, connections, .. } => {
                Facts { status: Some(status.to_string()), connections: Some(*connections), ..none }
            }
            Event::WorkerRespawning { delay, .. } => Facts { seconds: Some(delay.as_secs_f64()), ..none },
            Event::CrashLoop { deaths } => Facts { deaths: Some(*deaths), ..none },
            Event::TooManyConnections { limit } => Facts { limit: Some(*limit), ..none },
            Event::WorkerIdle { .. }
            | Event::WorkerStopped { .. }
            | Event::AllStopped
            | Event::WorkerStartFailed { .. }
            | Event::WorkerRetiring { .. }
            | Event::ReloadIgnored => none,
        }
    }
}

/// One request, for the access log.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    pub method: &'a str,
    /// Path and query as the client sent them.
    pub target: &'a str,
    /// `HTTP/1.1`.
    pub version: &'a str,
    /// `None`: the client got no response.
    pub status: Option<u16>,
    /// From the request's head to the end of the response.
    pub duration: Duration,
    /// Of the response's body, sent.
    pub bytes: u64,
    /// The client got the whole response, as far as the server can know.
    pub complete: bool,
}

/// `127.0.0.1:54321 - "GET /path HTTP/1.1" 200 1.234ms 512`: the client, the request, the status, how long it
/// took and the bytes of the response's body.
impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "{peer}")?,
            None => f.write_str("unix")?,
        }
        let (method, target) = (Escaped(self.method), Escaped(self.target));
        write!(f, " - \"{method} {target} {}\" ", self.version)?;
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => f.write_str("-")?,
        }
        write!(f, " {:.3}ms {}", milliseconds(self.duration), self.bytes)?;
        if self.complete { Ok(()) } else { f.write_str(" (cut)") }
    }
}

/// Milliseconds, to the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What a client sent, made fit for a line between quotes: it can neither begin a line of its own nor steer a
/// terminal.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) =
            rest.find(|c: char| c.is_control() || matches!(c, '"' | '\\' | '\u{2028}' | '\u{2029}'))
        {
            f.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            match after.next() {
                Some(c @ ('"' | '\\')) => write!(f, "\\{c}")?,
                Some(c) if u32::from(c) < 256 => write!(f, "\\x{:02x}", u32::from(c))?,
                Some(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                None => {}
            }
            rest = after.as_str();
        }
        f.write_str(rest)
    }
}

/// Whether [`access`] would write anything: so that nobody collects what nobody reads.
pub fn access_enabled() -> bool {
    tracing::enabled!(target: "pounce::access", tracing::Level::INFO)
}

/// Writes a line of the access log, at level info.
pub fn access(access: &Access<'_>) {
    tracing::info!(
        target: "pounce::access",
        event = "access",
        peer = access.peer.map(tracing::field::display),
        method = access.method,
        target = access.target,
        version = access.version,
        status = access.status,
        duration_ms = milliseconds(access.duration),
        bytes = access.bytes,
        complete = access.complete,
        "{access}"
    );
}

/// Makes a line of each event.
struct LineLayer<S> {
    format: Format,
    level: Level,
    sink: S,
    zone: TimeZone,
}

impl<S: Sink, T: Subscriber> Layer<T> for LineLayer<S> {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, T>) -> bool {
        *metadata.level() <= self.level.filter()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.filter())
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, T>) {
        thread_local! {
            /// The line under way. Taken while it is used: an event inside of a field's `Debug` finds an
            /// empty one.
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let mut line = LINE.take();
        line.clear();
        let level = Level::of(*event.metadata().level());
        match self.format {
            Format::Text => self.text(event, &mut line),
            Format::Json => json(event, level, &mut line),
        }
        line.push('\n');
        self.sink.write(line.as_bytes());
        // One traceback must not hold on to its memory for ever.
        if line.capacity() <= 64 * 1024 {
            LINE.set(line);
        }
    }
}

impl<S: Sink> LineLayer<S> {
    fn text(&self, event: &tracing::Event<'_>, line: &mut String) {
        self.write_local_time(line);
        let start = line.len();
        event.record(&mut Message(line));
        if line.len() == start {
            event.record(&mut Pairs(line));
        }
        let end = line.trim_end_matches('\n').len();
        line.truncate(end);
    }

    /// `[YYYY-MM-DD HH:MM:SS] `, worked out once in a second.
    fn write_local_time(&self, line: &mut String) {
        thread_local! {
            static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
        }
        let now = now();
        LAST.with_borrow_mut(|(second, text)| {
            if *second != now.as_second() {
                *second = now.as_second();
                text.clear();
                let local = self.zone.to_datetime(now);
                let _ = write!(
                    text,
                    "[{:04}-{:02}-{:02} {:02}:{:02}:{:02}] ",
                    local.year(),
                    local.month(),
                    local.day(),
                    local.hour(),
                    local.minute(),
                    local.second()
                );
            }
            line.push_str(text);
        });
    }
}

/// Wall time: this is what people compare with their own clock. Durations come from the runtime's monotonic
/// one.
fn now() -> Timestamp {
    #[allow(clippy::disallowed_methods, reason = "a log line says when it was, in the time of people")]
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::UNIX_EPOCH.checked_add(since_epoch).unwrap_or(Timestamp::MAX)
}

fn json(event: &tracing::Event<'_>, level: Level, line: &mut String) {
    let mut fields = Object(BTreeMap::new());
    event.record(&mut fields);
    let Object(mut fields) = fields;
    // Fixed order, so that a line can be read by eye too: time, level, event, the rest, message.
    let first = fields.remove("event");
    let message = fields.remove("message");
    let _ = write!(line, "{{\"time\":\"{:.3}\",\"level\":\"{level}\"", now());
    let mut add = |name: &str, value: &Value| {
        let _ = write!(line, ",{}:{value}", Value::from(name));
    };
    if let Some(first) = &first {
        add("event", first);
    }
    for (name, value) in &fields {
        add(name, value);
    }
    if let Some(message) = &message {
        add("message", message);
    }
    line.push('}');
}

/// Only the message.
struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0.push_str(value);
        }
    }
}

/// `key=value key=value`.
struct Pairs<'a>(&'a mut String);

impl Visit for Pairs<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !self.0.ends_with(' ') {
            self.0.push(' ');
        }
        let _ = write!(self.0, "{}={value:?}", field.name());
    }
}

struct Object(BTreeMap<&'static str, Value>);

impl Object {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name(), value.into());
    }
}

impl Visit for Object {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

/// Where lines go.
trait Sink: Send + Sync + 'static {
    fn write(&self, line: &[u8]);
}

/// Standard error, with one write(2) for a line wherever the kernel takes it whole.
struct Stderr {
    /// A pipe or socket: whoever reads it may have stopped, and a write would wait for ever.
    may_block: bool,
    /// Lines that were not taken, not yet reported.
    dropped: AtomicU64,
}

/// How long the first line waits for a reader that does not read. The next ones do not wait.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a pipe takes without waiting once it says that it is writable (pipe(7): PIPE_BUF).
const AT_ONCE: usize = 4096;

impl Stderr {
    fn new() -> Stderr {
        let kind =
            rustix::fs::fstat(rustix::stdio::stderr()).map(|stat| FileType::from_raw_mode(stat.st_mode));
        Stderr {
            may_block: matches!(kind, Ok(FileType::Fifo | FileType::Socket)),
            dropped: AtomicU64::new(0),
        }
    }

    /// Writes all of `bytes`, or fails.
    fn write_all(&self, mut bytes: &[u8], patience: Duration) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let mut at_once = bytes;
            if self.may_block {
                wait_writable(patience)?;
                at_once = &bytes[..bytes.len().min(AT_ONCE)];
            }
            match rustix::io::write(rustix::stdio::stderr(), at_once) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                // Non-blocking, because somebody who shares it made it so.
                Err(Errno::AGAIN) => wait_writable(patience)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Sink for Stderr {
    fn write(&self, line: &[u8]) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let patience = if dropped == 0 { PATIENCE } else { Duration::ZERO };
        if dropped > 0 {
            let note = format!("({dropped} log lines were dropped: standard error took none)\n");
            if self.write_all(note.as_bytes(), patience).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.dropped.fetch_sub(dropped, Ordering::Relaxed);
        }
        if self.write_all(line, patience).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn wait_writable(patience: Duration) -> Result<(), Errno> {
    let patience = Timespec::try_from(patience).map_err(|_| Errno::INVAL)?;
    let stderr = rustix::stdio::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    loop {
        match poll(&mut fds, Some(&patience)) {
            Ok(0) => return Err(Errno::AGAIN),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
