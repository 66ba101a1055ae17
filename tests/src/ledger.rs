//! Counts what became of many requests, and refuses to let one of them be lost.

use std::collections::BTreeMap;
use std::fmt;

use crate::outcome::{Outcome, Refusal};

/// How many lost requests are described one by one.
const EXAMPLES: usize = 8;

/// The books of a load: every request is entered once.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    answered: BTreeMap<u16, u64>,
    refused: u64,
    closed_while_idle: u64,
    unanswered: u64,
    truncated: u64,
    reset: u64,
    timed_out: u64,
    malformed: u64,
    examples: Vec<String>,
}

impl Ledger {
    /// Enters one request. `label` says which, should it turn out to be lost.
    pub fn record(&mut self, label: impl fmt::Display, outcome: &Outcome) {
        match outcome {
            Outcome::Answered(answer) => *self.answered.entry(answer.status).or_default() += 1,
            Outcome::RefusedBeforeSending(Refusal::Connect) => self.refused += 1,
            Outcome::RefusedBeforeSending(Refusal::ClosedWhileIdle) => self.closed_while_idle += 1,
            Outcome::Unanswered { .. } => self.unanswered += 1,
            Outcome::Truncated { .. } => self.truncated += 1,
            Outcome::Reset { .. } => self.reset += 1,
            Outcome::TimedOut { .. } => self.timed_out += 1,
            Outcome::Malformed(_) => self.malformed += 1,
        }
        if outcome.is_lost() && self.examples.len() < EXAMPLES {
            self.examples.push(format!("{label}: {outcome}"));
        }
    }

    /// Adds the entries of another ledger.
    pub fn merge(&mut self, other: &Self) {
        for (status, count) in &other.answered {
            *self.answered.entry(*status).or_default() += count;
        }
        self.refused += other.refused;
        self.closed_while_idle += other.closed_while_idle;
        self.unanswered += other.unanswered;
        self.truncated += other.truncated;
        self.reset += other.reset;
        self.timed_out += other.timed_out;
        self.malformed += other.malformed;
        let room = EXAMPLES - self.examples.len().min(EXAMPLES);
        self.examples.extend(other.examples.iter().take(room).cloned());
    }

    /// Requests that were answered with this status.
    pub fn answered_with(&self, status: u16) -> u64 {
        self.answered.get(&status).copied().unwrap_or(0)
    }

    /// Requests that were answered, whatever the status.
    pub fn answered(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Requests that were refused before a byte of them was sent.
    pub fn refused(&self) -> u64 {
        self.refused + self.closed_while_idle
    }

    /// Idle connections that the server closed although it had not announced that with the last response.
    pub fn closed_while_idle(&self) -> u64 {
        self.closed_while_idle
    }

    /// Requests that were sent and have no complete answer.
    pub fn lost(&self) -> u64 {
        self.unanswered + self.truncated + self.reset + self.timed_out + self.malformed
    }

    /// Every request was answered or refused before it was sent.
    ///
    /// # Panics
    /// With the whole table, if one was lost.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        assert_eq!(self.lost(), 0, "{} request(s) lost\n{self}", self.lost());
    }

    /// Nothing was lost, and no answer has a status other than these.
    ///
    /// # Panics
    /// With the whole table, if not so.
    #[track_caller]
    pub fn assert_only(&self, allowed: &[u16]) {
        self.assert_nothing_lost();
        for status in self.answered.keys() {
            assert!(allowed.contains(status), "an answer with status {status}, allowed: {allowed:?}\n{self}");
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (status, count) in &self.answered {
            writeln!(f, "{count:>9}  answered {status}")?;
        }
        for (count, class) in [
            (self.refused, "refused: could not connect"),
            (self.closed_while_idle, "refused: idle connection closed before sending"),
            (self.unanswered, "LOST: sent, clean end, not a byte back"),
            (self.truncated, "LOST: response cut short"),
            (self.reset, "LOST: connection reset"),
            (self.timed_out, "LOST: timed out"),
            (self.malformed, "LOST: not the response that was asked for"),
        ] {
            if count > 0 {
                writeln!(f, "{count:>9}  {class}")?;
            }
        }
        for example in &self.examples {
            writeln!(f, "           e.g. {example}")?;
        }
        Ok(())
    }
}
