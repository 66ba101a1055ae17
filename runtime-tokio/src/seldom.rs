//! What is said seldom, however often it happens.

use std::time::Duration;

use tokio::time::Instant;

/// How long nothing is said after something was.
const SILENCE: Duration = Duration::from_secs(60);

/// Something that would flood the log.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    again: Option<Instant>,
}

impl Seldom {
    /// It has happened. True at the first time, and a minute after it was true the last time.
    pub fn is_worth_saying(&mut self) -> bool {
        self.is_worth_saying_at(Instant::now())
    }

    fn is_worth_saying_at(&mut self, now: Instant) -> bool {
        let said = self.again.is_none_or(|at| at <= now);
        if said {
            self.again = Some(now + SILENCE);
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_minute() {
        let (mut seldom, now) = (Seldom::default(), Instant::now());
        assert!(seldom.is_worth_saying_at(now));
        assert!(!seldom.is_worth_saying_at(now + SILENCE / 2));
        assert!(seldom.is_worth_saying_at(now + SILENCE));
    }
}
