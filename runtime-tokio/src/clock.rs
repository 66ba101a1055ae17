//! The runtime's time as the machines count it.

use pounce_core::Instant;

/// Nanoseconds since the clock was made. Follows tokio's clock, which a simulator pauses and moves.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: tokio::time::Instant,
}

impl Clock {
    /// A clock whose epoch is this moment.
    #[allow(
        clippy::new_without_default,
        reason = "two clocks of one process have two epochs; making one is a decision"
    )]
    pub fn new() -> Clock {
        Clock { epoch: tokio::time::Instant::now() }
    }

    pub fn now(&self) -> Instant {
        self.to_core(tokio::time::Instant::now())
    }

    pub fn to_core(&self, at: tokio::time::Instant) -> Instant {
        Instant::ZERO + at.saturating_duration_since(self.epoch)
    }

    /// For arming a timer. A time too far away for the timer is as good as never.
    pub fn to_tokio(&self, at: Instant) -> tokio::time::Instant {
        const LONGEST: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);
        self.epoch + at.since(Instant::ZERO).min(LONGEST)
    }
}
