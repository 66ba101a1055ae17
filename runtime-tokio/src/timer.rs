//! The one timer of a driver: the machine says until when it waits.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use pounce_core::Instant;
use tokio::time::Sleep;

use crate::clock::Clock;

#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Waits until `at`, or for nothing. Returns whether that time has come; if not, the task of `cx` is woken then.
    pub fn has_come(&mut self, at: Option<Instant>, clock: Clock, cx: &mut Context<'_>) -> bool {
        let Some(at) = at else {
            self.0 = None;
            return false;
        };
        let deadline = clock.to_tokio(at);
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx).is_ready()
    }
}
