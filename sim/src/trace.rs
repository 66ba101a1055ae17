//! What happened, line by line and as one number.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// FNV-1a, 64 bits: the same in every build and process, unlike the standard library's hashers.
#[derive(Clone, Copy, Debug)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Hash {
        Hash(0xCBF2_9CE4_8422_2325)
    }
}

impl Hash {
    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    pub fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// A time of the paused clock, whose zero is another in each run: relative to the run's start.
    pub fn time(&mut self, at: Instant) {
        self.number(since_start(at).as_nanos() as u64);
    }

    pub fn value(self) -> u64 {
        self.0
    }
}

/// Since the run on this thread began.
pub fn since_start(at: Instant) -> Duration {
    START.get().map_or(Duration::ZERO, |start| at - start)
}

thread_local! {
    static START: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub ms: u64,
    pub who: String,
    pub what: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>9} {:<10} {}",
            format!("+{}.{:03}", self.ms / 1000, self.ms % 1000),
            self.who,
            self.what
        )
    }
}

/// The record of one run.
#[derive(Debug)]
pub struct Trace {
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<Line>,
    hash: Hash,
}

impl Trace {
    /// Begins now, which is time zero on this thread.
    pub fn begin() -> Trace {
        let start = Instant::now();
        START.set(Some(start));
        Trace { start, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the run began.
    pub fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_millis() as u64
    }

    pub fn now_ms(&self) -> u64 {
        self.ms(Instant::now())
    }

    pub fn say(&self, who: impl Into<String>, what: impl Into<String>) {
        let line = Line { ms: self.now_ms(), who: who.into(), what: what.into() };
        let mut inner = self.inner();
        inner.hash.number(line.ms);
        inner.hash.bytes(line.who.as_bytes());
        inner.hash.bytes(line.what.as_bytes());
        inner.lines.push(line);
    }

    pub fn hash(&self) -> u64 {
        self.inner().hash.value()
    }

    pub fn take_lines(&self) -> Vec<Line> {
        std::mem::take(&mut self.inner().lines)
    }
}
