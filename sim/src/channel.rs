//! A queue whose items arrive after a delay, in order: the control socket between supervisor and worker.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// One direction. Cheap to clone.
pub struct Channel<T>(Arc<Mutex<Inner<T>>>);

impl<T> Clone for Channel<T> {
    fn clone(&self) -> Self {
        Channel(Arc::clone(&self.0))
    }
}

impl<T> std::fmt::Debug for Channel<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl<T> Default for Channel<T> {
    fn default() -> Self {
        Channel(Arc::new(Mutex::new(Inner {
            items: VecDeque::new(),
            waker: None,
            sleep: None,
            closed: false,
        })))
    }
}

struct Inner<T> {
    items: VecDeque<(Instant, T)>,
    waker: Option<Waker>,
    sleep: Option<Pin<Box<Sleep>>>,
    closed: bool,
}

impl<T> Inner<T> {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Channel<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `item` in; it can be taken after `delay_ms`, and not before what was put in earlier.
    pub fn push(&self, item: T, delay_ms: u64) {
        let mut inner = self.lock();
        let at = Instant::now() + Duration::from_millis(delay_ms);
        let at = inner.items.back().map_or(at, |(last, _)| at.max(*last));
        inner.items.push_back((at, item));
        inner.wake();
    }

    /// Nothing more comes.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.wake();
    }

    pub fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    /// Everything that is in it, due or not.
    pub fn take_all(&self) -> Vec<T> {
        self.lock().items.drain(..).map(|(_, item)| item).collect()
    }

    /// The next item; `None` when the channel is closed and empty.
    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut inner = self.lock();
        inner.waker = Some(cx.waker().clone());
        loop {
            let Some((at, _)) = inner.items.front() else {
                return if inner.closed { Poll::Ready(None) } else { Poll::Pending };
            };
            let at = *at;
            if at <= Instant::now() {
                return Poll::Ready(inner.items.pop_front().map(|(_, item)| item));
            }
            ready!(poll_until(&mut inner.sleep, at, cx));
        }
    }
}

/// Ready at `at`. The sleep is used again from one time to the next.
pub(crate) fn poll_until(sleep: &mut Option<Pin<Box<Sleep>>>, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let sleep = match sleep {
        Some(sleep) => {
            sleep.as_mut().reset(at);
            sleep
        }
        none => none.insert(Box::pin(tokio::time::sleep_until(at))),
    };
    sleep.as_mut().poll(cx)
}
